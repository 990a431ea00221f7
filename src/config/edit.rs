//! Changes to the file that leave the rest of it as it is, byte for byte.
//!
//! An edit is cut out of the text, or put into it, at places that the parser names; no other byte is written anew, so
//! comments, alignment and line ends stay. Whether the result says what was asked for is checked by reading it again:
//! a file too odd for this is left alone, and its owner is told what to write.
//!
//! Splices by spans instead of `toml_edit`, which normalises line ends and knows no owner of a comment.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::values::{Name, UrlPath};
use super::words;
use crate::error::{Advise, Exit};
use crate::paths;

/// A file to begin with, in which everything is a comment.
pub const STARTER: &str = include_str!("starter.toml");

/// A server to be declared.
#[derive(Debug, Clone)]
pub struct Block {
    /// Its name.
    pub name: Name,
    /// Its path.
    pub path: UrlPath,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Variables.
    pub env: Vec<(String, Origin)>,
    /// A file of variables.
    pub env_file: Option<String>,
    /// The directory it runs in.
    pub cwd: Option<String>,
}

/// Where the value of a variable comes from. Values themselves are not written here: they belong into a file of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Another variable, of ferry's own environment.
    Variable(String),
}

/// Why a file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It is no TOML.
    #[error("line {line} is no TOML: {message}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// There is a server of that name.
    #[error("there is a server `{0}` already")]
    Exists(String),
    /// There is no server of that name.
    #[error("there is no server `{name}`")]
    NoSuchServer {
        /// As it was written.
        name: String,
        /// The nearest one, or all there are.
        known: Vec<String>,
    },
    /// The edit would have changed something else.
    #[error("this file is written in a way that ferry does not dare to edit")]
    TooOdd,
}

impl Advise for EditError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Syntax { .. } => Some("`ferry config check` shows all that is wrong".to_owned()),
            Self::Exists(name) => Some(format!("`ferry remove {name}` removes it, or choose another name")),
            Self::NoSuchServer { known, .. } if known.is_empty() => {
                Some("there are none yet; `ferry add` adds one".to_owned())
            }
            Self::NoSuchServer { known, .. } => Some(format!("there are: {}", known.join(", "))),
            Self::TooOdd => Some("edit it by hand; nothing was changed".to_owned()),
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Syntax { .. } => Exit::Configuration,
            Self::Exists(_) | Self::NoSuchServer { .. } | Self::TooOdd => Exit::Failed,
        }
    }
}

impl Block {
    /// As a `[[mcps]]` block.
    pub fn toml(&self) -> String {
        let mut text = "[[mcps]]\n".to_owned();
        for (key, value) in self.entries() {
            let _ = writeln!(text, "{key} = {value}");
        }
        text
    }

    /// As an element of Nix' list of servers.
    pub fn nix(&self) -> String {
        let mut text = "{\n".to_owned();
        for (key, value) in self.entries() {
            let _ = writeln!(text, "  {key} = {};", nix(&value));
        }
        text.push_str("}\n");
        text
    }

    fn entries(&self) -> Vec<(&'static str, Value)> {
        let text = |text: &str| Value::String(text.to_owned());
        let mut entries = vec![("name", text(self.name.as_str())), ("path", text(self.path.as_str()))];
        let plain = |word: &String| !word.is_empty() && words::join([word]) == *word;
        match self.argv.split_first() {
            Some((program, args)) if !self.argv.iter().all(plain) => {
                // Quoting within quotation marks is hard to read, and harder to change.
                entries.push(("command", text(program)));
                entries.push(("args", Value::Array(args.iter().map(|word| text(word)).collect())));
            }
            _ => entries.push(("command", text(&words::join(&self.argv)))),
        }
        if !self.env.is_empty() {
            let from =
                |Origin::Variable(name): &Origin| Value::Table(Table::from_iter([("env".to_owned(), text(name))]));
            let variables = self.env.iter().map(|(name, origin)| (name.clone(), from(origin)));
            entries.push(("env", Value::Table(variables.collect())));
        }
        entries.extend(self.env_file.as_deref().map(|file| ("env_file", text(file))));
        entries.extend(self.cwd.as_deref().map(|cwd| ("cwd", text(cwd))));
        entries
    }

    fn inline(&self) -> String {
        let entries = self.entries().into_iter().map(|(key, value)| format!("{key} = {value}"));
        format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
    }

    fn table(&self) -> Table {
        self.entries().into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

fn nix(value: &Value) -> String {
    let quoted = |text: &str| {
        let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace("${", "\\${");
        format!("\"{}\"", text.replace('\n', "\\n").replace('\r', "\\r"))
    };
    match value {
        Value::String(text) => quoted(text),
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(nix).collect();
            format!("[ {} ]", values.join(" "))
        }
        Value::Table(table) => {
            let pairs: Vec<String> =
                table.iter().map(|(key, value)| format!("{} = {};", quoted(key), nix(value))).collect();
            format!("{{ {} }}", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

/// The text with one more server, behind everything else.
pub fn add(text: &str, block: &Block) -> Result<String, EditError> {
    let root = parse(text)?;
    if names(&root).iter().any(|name| name == block.name.as_str()) {
        return Err(EditError::Exists(block.name.to_string()));
    }
    let mut added = text.to_owned();
    match root.get("mcps") {
        Some(mcps) if !is_list_of_blocks(mcps) => {
            // `mcps = [{ … }]`, in one value.
            let DeValue::Array(servers) = mcps.get_ref() else { return Err(EditError::TooOdd) };
            let inline = block.inline();
            match servers.iter().last() {
                Some(last) => added.insert_str(last.span().end, &format!(", {inline}")),
                None => added.insert_str(mcps.span().start + 1, &inline),
            }
        }
        _ => {
            if !added.is_empty() && !added.ends_with('\n') {
                added.push('\n');
            }
            if !added.trim().is_empty() {
                added.push('\n');
            }
            added.push_str(&block.toml());
            if text.contains("\r\n") {
                let (kept, new) = added.split_at(text.len());
                added = format!("{kept}{}", new.replace('\n', "\r\n"));
            }
        }
    }
    checked(text, added, |table| {
        if let Value::Array(servers) = table.entry("mcps").or_insert_with(|| Value::Array(Vec::new())) {
            servers.push(Value::Table(block.table()));
        }
    })
}

/// The block of a server as it stands in the text, with the comments that belong to it.
pub fn find<'t>(text: &'t str, name: &str) -> Result<&'t str, EditError> {
    cut(text, name).map(|(range, _)| text[range].trim_matches('\n'))
}

/// The text without a server, and without the comments that belong to it.
pub fn remove(text: &str, name: &str) -> Result<String, EditError> {
    let (range, change) = cut(text, name)?;
    let mut removed = text.to_owned();
    removed.replace_range(range, "");
    checked(text, removed, change)
}

/// The text with one key of a section set to a text; the section is made where there is none.
pub fn set(text: &str, section: &str, key: &str, value: &str) -> Result<String, EditError> {
    let root = parse(text)?;
    let value = Value::String(value.to_owned());
    let mut edited = text.to_owned();
    let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
    match root.get(section).map(|found| (found.span(), found.get_ref())) {
        Some((span, DeValue::Table(table))) => {
            // The span of a section is that of its header.
            let after_header = text[span.start..].find('\n').map(|length| span.start + length + 1);
            if let Some(old) = table.get(key) {
                edited.replace_range(old.span(), &value.to_string());
            } else if let Some(at) = after_header {
                edited.insert_str(at, &format!("{key} = {value}{newline}"));
            } else {
                let _ = write!(edited, "{newline}{key} = {value}{newline}");
            }
        }
        Some(_) => return Err(EditError::TooOdd),
        None => {
            let gap = if text.is_empty() || text.ends_with('\n') { "" } else { newline };
            let _ = write!(edited, "{gap}{newline}[{section}]{newline}{key} = {value}{newline}");
        }
    }
    checked(text, edited, |table| {
        if let Value::Table(section) = table.entry(section).or_insert_with(|| Value::Table(Table::new())) {
            section.insert(key.to_owned(), value);
        }
    })
}

/// What is to be cut for a server to be gone, and what then changes.
fn cut(text: &str, name: &str) -> Result<(Range<usize>, impl FnOnce(&mut Table) + use<>), EditError> {
    let root = parse(text)?;
    let missing = || EditError::NoSuchServer { name: name.to_owned(), known: names(&root) };
    let mcps = root.get("mcps").ok_or_else(missing)?;
    let DeValue::Array(servers) = mcps.get_ref() else { return Err(missing()) };
    let is_it = |server: &Spanned<DeValue<'_>>| {
        server.get_ref().get("name").and_then(|name| name.get_ref().as_str()) == Some(name)
    };
    let at = servers.iter().position(is_it).ok_or_else(missing)?;
    let is_list = is_list_of_blocks(mcps);
    let range = if is_list {
        lines_of(text, &servers[at])
    } else {
        // With the comma that follows, or else the one before.
        let Range { start, end } = servers[at].span();
        match (servers.get(at + 1), at.checked_sub(1).and_then(|before| servers.get(before))) {
            (Some(next), _) => start..next.span().start,
            (None, Some(before)) => before.span().end..end,
            (None, None) => start..end,
        }
    };
    let change = move |table: &mut Table| {
        if let Some(Value::Array(servers)) = table.get_mut("mcps") {
            servers.remove(at);
            if servers.is_empty() && is_list {
                table.remove("mcps");
            }
        }
    };
    Ok((range, change))
}

/// The lines of a block: with the comments right above its header, and those that follow its last line and are followed
/// by nothing. Of the empty lines around it, one lot goes as well.
fn lines_of(text: &str, block: &Spanned<DeValue<'_>>) -> Range<usize> {
    let line_start = |at: usize| text[..at].rfind('\n').map_or(0, |at| at + 1);
    let line_end = |at: usize| text[at..].find('\n').map_or(text.len(), |length| at + length + 1);
    let is_comment = |range: &Range<usize>| text[range.clone()].trim_start().starts_with('#');
    let is_blank = |range: &Range<usize>| text[range.clone()].trim().is_empty();
    let above = |start: usize| (start > 0).then(|| line_start(start - 1)..start);
    let below = |end: usize| (end < text.len()).then(|| end..line_end(end));

    let header = line_start(block.span().start);
    let mut start = header;
    while let Some(line) = above(start).filter(is_comment) {
        start = line.start;
    }
    // What stands at the top of the file speaks of the file.
    if start == 0 {
        start = header;
    }
    let last = last_end(block);
    // An end right behind a line break belongs to that line.
    let mut end = line_end(last.saturating_sub(usize::from(text[..last].ends_with('\n'))));
    let mut comments = end;
    while let Some(line) = below(comments).filter(is_comment) {
        comments = line.end;
    }
    if below(comments).is_none_or(|line| is_blank(&line)) {
        end = comments;
    }
    let mut after = end;
    while let Some(line) = below(after).filter(is_blank) {
        after = line.end;
    }
    if after < text.len() {
        if above(start).is_none_or(|line| is_blank(&line)) {
            end = after;
        }
    } else {
        end = after;
        while let Some(line) = above(start).filter(is_blank) {
            start = line.start;
        }
    }
    start..end
}

/// The end of the last thing in a value, tables below further headers included.
fn last_end(value: &Spanned<DeValue<'_>>) -> usize {
    let inside = match value.get_ref() {
        DeValue::Table(table) => table.iter().map(|(key, value)| key.span().end.max(last_end(value))).max(),
        DeValue::Array(values) => values.iter().map(last_end).max(),
        _ => None,
    };
    value.span().end.max(inside.unwrap_or(0))
}

/// Whether the servers are `[[mcps]]` blocks rather than one value.
fn is_list_of_blocks(mcps: &Spanned<DeValue<'_>>) -> bool {
    let DeValue::Array(servers) = mcps.get_ref() else { return false };
    // Then the span of the whole is that of the first header.
    servers.first().is_some_and(|first| first.span() == mcps.span())
}

fn names(root: &DeTable<'_>) -> Vec<String> {
    let Some(DeValue::Array(servers)) = root.get("mcps").map(Spanned::get_ref) else { return Vec::new() };
    let names = servers.iter().filter_map(|server| server.get_ref().get("name")?.get_ref().as_str());
    names.map(str::to_owned).collect()
}

fn parse(text: &str) -> Result<DeTable<'_>, EditError> {
    DeTable::parse(text).map(Spanned::into_inner).map_err(|error| syntax(text, &error))
}

fn syntax(text: &str, error: &toml::de::Error) -> EditError {
    let at = error.span().map_or(0, |span| span.start);
    let line = text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
    EditError::Syntax { line, message: error.message().to_owned() }
}

/// `edited`, if it differs from `text` by just this `change`.
fn checked(text: &str, edited: String, change: impl FnOnce(&mut Table)) -> Result<String, EditError> {
    let mut expected: Table = toml::from_str(text).map_err(|error| syntax(text, &error))?;
    change(&mut expected);
    match toml::from_str::<Table>(&edited) {
        Ok(found) if found == expected => Ok(edited),
        _ => Err(EditError::TooOdd),
    }
}

/// Whether a file can be replaced: a Nix store, a read-only mount or a file that its owner has locked cannot.
pub fn is_writable(path: &Path) -> bool {
    let Ok(file) = followed(path) else { return false };
    let writable = |path: &Path| nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).is_ok();
    let locked = fs::metadata(&file).is_ok_and(|found| found.permissions().readonly());
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    !locked && writable(directory) && (!file.exists() || writable(&file))
}

/// Replaces the file in one step, or makes it, private. A link stays a link, and the mode stays what it is.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    paths::rewrite(&followed(path)?, text.as_bytes())
}

/// The file behind a link; the path itself where there is none yet.
fn followed(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
            Ok(path.to_owned())
        }
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::super::load::Config;
    use super::*;

    fn block(name: &str) -> Block {
        Block {
            name: name.parse().unwrap(),
            path: format!("/{name}").parse().unwrap(),
            argv: vec!["npx".to_owned(), "-y".to_owned(), "server".to_owned()],
            env: Vec::new(),
            env_file: None,
            cwd: None,
        }
    }

    /// A file as people write them: aligned, commented, with headers in texts and tables behind headers.
    const ODD: &str = r#"# My ferry
# 2026

  [bridge]   # the door
local_port   =   8765


# Notes, with a key
[[mcps]] # first
name  = "bear"
path="/bear"
command = """
sh -c '
[[mcps]]
# not a comment
'"""
  [mcps.env]
  A = "1"    # one
# B = "2"

# The second
# in two lines
[[mcps]]
path = "/things"
name = 'things'
env.X = 'y'
command = 'x'
# right above the next
[[mcps]]
name = "last"
path = "/last"
command = "x"
# cwd = "~"

[tunnel]
mode = "off"
# the end"#;

    #[test]
    fn a_key_of_a_section_is_set_and_nothing_else_changes() {
        for (text, expected) in [
            (
                "[cloudflare] # mine\ntunnel_name = 'x' # y\n",
                "[cloudflare] # mine\nfile = \"z\"\ntunnel_name = 'x' # y\n",
            ),
            ("[cloudflare]\nfile = 'old' # y\n[bridge]\n", "[cloudflare]\nfile = \"z\" # y\n[bridge]\n"),
            ("[bridge]\r\n", "[bridge]\r\n\r\n[cloudflare]\r\nfile = \"z\"\r\n"),
            ("[cloudflare]", "[cloudflare]\nfile = \"z\"\n"),
            ("", "\n[cloudflare]\nfile = \"z\"\n"),
        ] {
            assert_eq!(set(text, "cloudflare", "file", "z").unwrap(), expected, "{text:?}");
        }
        assert!(set("cloudflare = 1\n", "cloudflare", "file", "z").is_err());
    }

    #[test]
    fn a_server_is_removed_with_what_belongs_to_it() {
        let at = |text: &str| ODD.find(text).unwrap();
        for (name, gone) in [
            ("bear", at("# Notes")..at("# The second")),
            ("things", at("# The second")..at("# right above")),
            ("last", at("# right above")..at("\n[tunnel]")),
        ] {
            let mut expected = ODD.to_owned();
            expected.replace_range(gone, "");
            assert_eq!(remove(ODD, name).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn the_last_thing_in_a_file_leaves_nothing_behind() {
        for (text, removed) in [
            ("[[mcps]]\nname = 'a'", ""),
            ("# top\n[[mcps]]\nname = 'a'\n# tail\n\n", "# top\n"),
            ("[bridge]\n\n\n[[mcps]]\nname = 'a'\n", "[bridge]\n"),
            ("[[mcps]]\nname = 'b'\n\n[[mcps]]\nname = 'a'\n", "[[mcps]]\nname = 'b'\n"),
            ("[[mcps]]\r\nname = 'a'\r\n\r\n[bridge]\r\n", "[bridge]\r\n"),
            ("mcps = [{name = 'a'}]\n", "mcps = []\n"),
            ("mcps = [{name = 'a'}, {name = 'b'}] # x\n", "mcps = [{name = 'b'}] # x\n"),
            ("mcps = [\n {name = 'b'},\n {name = 'a'},\n]\n", "mcps = [\n {name = 'b'},\n]\n"),
        ] {
            assert_eq!(remove(text, "a").unwrap(), removed, "{text:?}");
        }
    }

    #[test]
    fn a_server_is_added_behind_everything_else() {
        let new = "[[mcps]]\nname = \"new\"\npath = \"/new\"\ncommand = \"npx -y server\"\n";
        let inline = "{ name = \"new\", path = \"/new\", command = \"npx -y server\" }";
        for (text, added) in [
            ("", new.to_owned()),
            ("\n\n", format!("\n\n{new}")),
            ("# only a comment", format!("# only a comment\n\n{new}")),
            ("[bridge]\nlocal_port = 0\n", format!("[bridge]\nlocal_port = 0\n\n{new}")),
            ("[tunnel]\r\n", format!("[tunnel]\r\n\r\n{}", new.replace('\n', "\r\n"))),
            ("mcps = []\n", format!("mcps = [{inline}]\n")),
            ("mcps = [ {name = 'a'}, ] # x\n", format!("mcps = [ {{name = 'a'}}, {inline}, ] # x\n")),
        ] {
            assert_eq!(add(text, &block("new")).unwrap(), added);
        }
        assert_eq!(add(ODD, &block("new")).unwrap(), format!("{ODD}\n\n{new}"));
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        assert_eq!(add(ODD, &block("bear")).unwrap_err().to_string(), "there is a server `bear` already");
        let error = remove(ODD, "bare").unwrap_err();
        assert_eq!(error.to_string(), "there is no server `bare`");
        assert_eq!(error.hint().unwrap(), "there are: bear, things, last");
        assert!(matches!(add("[bridge", &block("a")), Err(EditError::Syntax { line: 1, .. })));
        // Its table stands behind another one's: cutting by lines would take that along.
        let torn = "[[mcps]]\nname = 'a'\n[bridge]\n[mcps.env]\nA = '1'\n";
        assert!(matches!(remove(torn, "a"), Err(EditError::TooOdd)));
        assert!(matches!(add("mcps = 3", &block("a")), Err(EditError::TooOdd)));
    }

    #[test]
    fn a_block_reads_as_it_was_meant() {
        let mut block = block("new");
        block.argv = ["npx", "a b", "", "it's \"so\"", "#x", "$HOME", "\\"].map(str::to_owned).to_vec();
        let from = |name: &str| Origin::Variable(name.to_owned());
        block.env = vec![("KEY".to_owned(), from("a\"b\n${c}")), ("odd key".to_owned(), from("X"))];
        block.env_file = Some("env/new.env".to_owned());
        block.cwd = Some("~/x y".to_owned());
        let text = add("", &block).unwrap();
        let config = Config::parse(&text, Path::new("c"), None).unwrap();
        let [server] = &config.servers[..] else { panic!("{:?}", config.broken) };
        assert_eq!(server.argv, block.argv);
        assert_eq!(server.mcp.env_file.as_ref().unwrap().as_str(), "env/new.env");
        assert_eq!(server.mcp.env.0.len(), 2);
        insta::assert_snapshot!(format!("{}\n{}", block.toml(), block.nix()));
    }

    #[test]
    fn a_file_keeps_its_mode_and_a_link_its_target() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        write(&file, "a").unwrap();
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o600, "a new one is private");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        assert!(is_writable(&link));
        write(&link, "b").unwrap();
        assert_eq!((fs::read_to_string(&file).unwrap().as_str(), mode(&file)), ("b", 0o644));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
        assert!(!is_writable(&link), "its owner has locked it");
        assert!(!is_writable(Path::new("/no/such/directory/config.toml")));
        fs::remove_file(&file).unwrap();
        assert!(!is_writable(&link), "a link to nowhere is not replaced");
    }

    const PARTS: [&str; 14] = [
        "# comment\n",
        "\n",
        "[bridge]\n",
        "local_port = 0 # x\n",
        "  ",
        "\t\n",
        "[[mcps]]\n",
        "name = 'a'\n",
        "path = \"/a\"\n",
        "[mcps.env]\n",
        "K = '''\n[[mcps]]\n'''\n",
        "[tunnel]\r\n",
        "mcps = []\n",
        "x = [\n 1, # y\n]\n",
    ];

    proptest! {
        #[test]
        fn whatever_is_added_can_be_removed_without_a_trace(
            parts in proptest::collection::vec(prop::sample::select(&PARTS[..]), 0..12),
        ) {
            let text = parts.concat();
            if let Ok(added) = add(&text, &block("zz")) {
                if !text.contains("mcps = []") {
                    prop_assert!(added.starts_with(&text), "{}", added);
                }
                let removed = remove(&added, "zz").unwrap();
                prop_assert_eq!(removed.trim_end(), text.trim_end());
            }
            // A cut takes nothing apart: what is left is a beginning and an end of the text.
            if let Ok(removed) = remove(&text, "a") {
                let common = text.bytes().zip(removed.bytes()).take_while(|(a, b)| a == b).count();
                prop_assert!(text.ends_with(&removed[common..]), "{:?} of {:?}", removed, text);
            }
        }
    }
}
