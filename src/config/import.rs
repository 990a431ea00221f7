//! The servers that other clients have declared: Claude Desktop, Claude Code, Cursor, VS Code.
//!
//! All of them write `{"mcpServers": {NAME: {command, args, env}}}`, with differences: VS Code says `servers` and allows
//! comments, Claude Code has further ones for each project, and each fills in placeholders of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::edit::{Block, Origin};
use super::values::{Name, is_variable_name};

/// Which client a file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// The desktop app.
    ClaudeDesktop,
    /// The command line.
    ClaudeCode,
    /// The editor.
    Cursor,
    /// The editor.
    VsCode,
    /// Any other.
    Other,
}

impl Client {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClaudeDesktop => "Claude Desktop",
            Self::ClaudeCode => "Claude Code",
            Self::Cursor => "Cursor",
            Self::VsCode => "VS Code",
            Self::Other => "file",
        }
    }

    /// One word for a name that two clients use for different things.
    fn suffix(self) -> &'static str {
        match self {
            Self::ClaudeDesktop => "desktop",
            Self::ClaudeCode => "code",
            Self::Cursor => "cursor",
            Self::VsCode => "vscode",
            Self::Other => "imported",
        }
    }
}

/// Where the clients keep their files, for whoever has this home and stands in this directory.
pub fn places(home: &Path, here: Option<&Path>) -> Vec<(Client, PathBuf)> {
    let support = if cfg!(target_os = "macos") { "Library/Application Support" } else { ".config" };
    let mut places = vec![
        (Client::ClaudeDesktop, home.join(support).join("Claude/claude_desktop_config.json")),
        (Client::ClaudeCode, home.join(".claude.json")),
        (Client::Cursor, home.join(".cursor/mcp.json")),
        (Client::VsCode, home.join(support).join("Code/User/mcp.json")),
    ];
    if let Some(here) = here.filter(|here| *here != home) {
        places.push((Client::ClaudeCode, here.join(".mcp.json")));
        places.push((Client::Cursor, here.join(".cursor/mcp.json")));
        places.push((Client::VsCode, here.join(".vscode/mcp.json")));
    }
    places
}

/// A server that was found.
#[derive(Clone, PartialEq, Eq)]
pub struct Found {
    /// As it is called there.
    pub name: String,
    /// Where it was found, and in which of its projects.
    pub from: Vec<(Client, Option<String>)>,
    /// What it is.
    pub kind: Kind,
    /// Whether it is switched off there.
    pub disabled: bool,
}

/// What a declaration means.
#[derive(Clone, PartialEq, Eq)]
pub enum Kind {
    /// A process, which ferry can run.
    Stdio(Command),
    /// A server that has a URL of its own.
    Remote,
    /// Nothing that ferry understands.
    Unclear(&'static str),
}

/// A process.
#[derive(Clone, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Its variables.
    pub env: BTreeMap<String, String>,
    /// A file of further ones.
    pub env_file: Option<String>,
    /// Where it runs.
    pub cwd: Option<String>,
}

/// Names and places only: arguments and variables may be secrets.
impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found").field("name", &self.name).field("from", &self.from).finish_non_exhaustive()
    }
}

impl Found {
    /// Where it was found, for people.
    pub fn origin(&self) -> String {
        let from = self.from.iter().map(|(client, project)| match project {
            Some(project) => format!("{} in {project}", client.name()),
            None => client.name().to_owned(),
        });
        from.collect::<Vec<_>>().join(", ")
    }
}

impl Command {
    /// Placeholders that its client would have filled in, and ferry does not.
    pub fn placeholders(&self) -> Vec<&str> {
        let texts = self.argv.iter().chain(self.env.values().filter(|value| variable(value).is_none()));
        let texts = texts.chain(&self.env_file).chain(&self.cwd);
        texts.filter_map(|text| placeholder(text)).collect()
    }

    /// As a block, and the variables that belong into a file of their own.
    pub fn declare(&self, name: Name) -> (Block, Vec<(String, String)>) {
        let path = format!("/{name}").parse().unwrap_or_else(|_| "/mcp".parse().expect("/mcp is a path"));
        let (named, literal): (Vec<_>, Vec<_>) = self.env.iter().partition(|(_, value)| variable(value).is_some());
        let env = named
            .into_iter()
            .filter_map(|(name, value)| Some((name.clone(), Origin::Variable(variable(value)?.to_owned()))));
        let block = Block {
            path,
            name,
            argv: self.argv.clone(),
            env: env.collect(),
            env_file: self.env_file.clone(),
            cwd: self.cwd.clone(),
        };
        (block, literal.into_iter().map(|(name, value)| (name.clone(), value.clone())).collect())
    }
}

/// The variable that a value stands for as a whole: `${NAME}` and `${env:NAME}`.
fn variable(value: &str) -> Option<&str> {
    let inside = value.strip_prefix("${")?.strip_suffix('}')?;
    let name = inside.strip_prefix("env:").unwrap_or(inside);
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    // `userHome` and its like are no variables, though they look like some.
    (!name.is_empty() && name.chars().all(plain) && (inside != name || !name.chars().any(|c| c.is_ascii_lowercase())))
        .then_some(name)
}

fn placeholder(text: &str) -> Option<&str> {
    let start = text.find("${")?;
    let end = text[start..].find('}')?;
    Some(&text[start..=start + end])
}

#[derive(Deserialize)]
struct File {
    #[serde(default, rename = "mcpServers")]
    mcp_servers: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    servers: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    projects: BTreeMap<String, Project>,
}

#[derive(Deserialize)]
struct Project {
    #[serde(default, rename = "mcpServers")]
    mcp_servers: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Declared {
    #[serde(rename = "type")]
    transport: Option<String>,
    command: Option<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, serde_json::Value>,
    #[serde(rename = "envFile")]
    env_file: Option<String>,
    cwd: Option<String>,
    url: Option<String>,
    #[serde(rename = "serverUrl")]
    server_url: Option<String>,
    #[serde(default)]
    disabled: bool,
}

/// Why a file tells nothing: it is no JSON, or not of the form. Without its content, which may be secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not as a client would have written it")]
pub struct NotJson {
    /// The line, from 1.
    pub line: usize,
}

/// The servers of one file.
///
/// # Errors
/// Where it is no JSON of this form, comments and trailing commas aside.
pub fn read(client: Client, text: &str) -> Result<Vec<Found>, NotJson> {
    let plain = without_comments(text);
    let file: File = serde_json::from_str(&plain).map_err(|error| NotJson { line: error.line() })?;
    let mut found = Vec::new();
    for (name, value) in file.mcp_servers.into_iter().chain(file.servers) {
        found.push(understand(client, None, name, value));
    }
    for (project, servers) in file.projects {
        for (name, value) in servers.mcp_servers {
            found.push(understand(client, Some(&project), name, value));
        }
    }
    Ok(found)
}

fn understand(client: Client, project: Option<&str>, name: String, value: serde_json::Value) -> Found {
    let (kind, disabled) = match serde_json::from_value::<Declared>(value) {
        Ok(declared) => {
            let disabled = declared.disabled;
            (meaning(declared, project), disabled)
        }
        Err(_) => (Kind::Unclear("it is not declared as a client would"), false),
    };
    Found { name, from: vec![(client, project.map(str::to_owned))], kind, disabled }
}

fn meaning(declared: Declared, project: Option<&str>) -> Kind {
    let remote = declared.transport.as_deref().is_some_and(|transport| transport != "stdio");
    let Some(command) = declared.command.filter(|command| !command.is_empty() && !remote) else {
        let has_url = declared.url.or(declared.server_url).is_some();
        return if remote || has_url { Kind::Remote } else { Kind::Unclear("it has no command") };
    };
    let mut env = BTreeMap::new();
    for (name, value) in declared.env {
        let value = match value {
            serde_json::Value::String(text) => text,
            // As a client would pass it on.
            number @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => number.to_string(),
            _ => return Kind::Unclear("one of its variables is no text"),
        };
        if !is_variable_name(&name) || value.contains('\0') {
            return Kind::Unclear("one of its variables cannot be one");
        }
        env.insert(name, value);
    }
    let argv = std::iter::once(command).chain(declared.args).collect();
    // A project's server runs in that project.
    let cwd = declared.cwd.or_else(|| project.map(str::to_owned));
    Kind::Stdio(Command { argv, env, env_file: declared.env_file, cwd })
}

/// Servers that are the same, told once.
pub fn merge(all: Vec<Found>) -> Vec<Found> {
    let mut merged: Vec<Found> = Vec::new();
    for one in all {
        match merged.iter_mut().find(|other| other.name == one.name && other.kind == one.kind) {
            Some(other) => {
                other.disabled &= one.disabled;
                other.from.extend(one.from);
            }
            None => merged.push(one),
        }
    }
    merged
}

/// A name for a server that ferry accepts and that is not `taken`.
pub fn name_for(found: &Found, taken: &dyn Fn(&str) -> bool) -> Name {
    let kept = |c: char| if c.is_alphanumeric() || c == '_' { c } else { '-' };
    let mut slug: String = found.name.chars().map(kept).collect();
    while slug.contains("--") {
        slug = slug.replace("--", "-");
    }
    let mut slug = slug.trim_matches('-').to_owned();
    let room = (0..=48.min(slug.len())).rev().find(|at| slug.is_char_boundary(*at)).unwrap_or(0);
    slug.truncate(room);
    if !slug.chars().any(char::is_alphanumeric) {
        "server".clone_into(&mut slug);
    }
    let suffix = found.from.first().map_or("imported", |(client, _)| client.suffix());
    let candidates = std::iter::once(slug.clone()).chain(std::iter::once(format!("{slug}-{suffix}")));
    let mut candidates = candidates.chain((2..).map(|number| format!("{slug}-{number}")));
    let free = candidates.find_map(|name| (!taken(&name)).then(|| name.parse().ok()).flatten());
    free.expect("there are more numbers than names")
}

/// JSON without the comments and trailing commas that editors allow, each byte replaced by a space so that lines stay.
fn without_comments(text: &str) -> String {
    let bytes = text.strip_prefix('\u{feff}').unwrap_or(text).as_bytes();
    let mut plain = bytes.to_vec();
    let mut comma = None;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                comma = None;
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += 1 + usize::from(bytes[at] == b'\\');
                }
            }
            b'/' if matches!(bytes.get(at + 1), Some(b'/' | b'*')) => {
                let (end, length): (&[u8], _) = if bytes[at + 1] == b'/' { (b"\n", 0) } else { (b"*/", 2) };
                let body = &bytes[at + 2..];
                let found = memchr::memmem::find(body, end).map_or(bytes.len(), |found| at + 2 + found + length);
                for byte in plain[at..found].iter_mut().filter(|byte| **byte != b'\n') {
                    *byte = b' ';
                }
                at = found;
                continue;
            }
            b',' => comma = Some(at),
            b'}' | b']' => {
                if let Some(comma) = comma.take() {
                    plain[comma] = b' ';
                }
            }
            byte if byte.is_ascii_whitespace() => {}
            _ => comma = None,
        }
        at += 1;
    }
    String::from_utf8(plain).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(client: Client, text: &str) -> Found {
        let mut found = read(client, text).unwrap();
        assert_eq!(found.len(), 1, "{text}");
        found.remove(0)
    }

    fn command(found: &Found) -> &Command {
        let Kind::Stdio(command) = &found.kind else { panic!("{found:?} is no process") };
        command
    }

    #[test]
    fn each_client_is_read_as_it_writes() {
        let desktop = r#"{"mcpServers": {"files": {"command": "npx", "args": ["-y", "@x/fs", "/home"], "env": {"A": "1", "N": 5}}}, "globalShortcut": ""}"#;
        let found = one(Client::ClaudeDesktop, desktop);
        assert_eq!(command(&found).argv, ["npx", "-y", "@x/fs", "/home"]);
        assert_eq!(command(&found).env["N"], "5");
        let code = r#"{"numStartups": 3, "mcpServers": {}, "projects": {"/work/x": {"allowedTools": [], "mcpServers": {"db": {"type": "stdio", "command": "db-mcp", "args": [], "env": {}}}}, "/y": {}}}"#;
        let found = one(Client::ClaudeCode, code);
        assert_eq!(command(&found).cwd.as_deref(), Some("/work/x"), "it runs in its project");
        assert_eq!(found.origin(), "Claude Code in /work/x");
        let vscode = "\u{feff}{\n // mine\n \"inputs\": [{\"id\": \"t\",}],\n \"servers\": {\"gh\": {\"type\": \"stdio\", \"command\": \"gh//mcp\", \"env\": {\"T\": \"${input:t}\", \"U\": \"${env:MY_U}\"}, /* , */ }, },\n}";
        let found = one(Client::VsCode, vscode);
        assert_eq!(command(&found).argv, ["gh//mcp"]);
        assert_eq!(command(&found).placeholders(), ["${input:t}"]);
        for (text, kind) in [
            (r#"{"servers": {"x": {"type": "http", "url": "https://x"}}}"#, Kind::Remote),
            (r#"{"mcpServers": {"x": {"url": "https://x"}}}"#, Kind::Remote),
            (r#"{"mcpServers": {"x": {}}}"#, Kind::Unclear("it has no command")),
            (r#"{"mcpServers": {"x": {"command": ["a"]}}}"#, Kind::Unclear("it is not declared as a client would")),
            (
                r#"{"mcpServers": {"x": {"command": "a", "env": {"A": ["x"]}}}}"#,
                Kind::Unclear("one of its variables is no text"),
            ),
        ] {
            assert!(one(Client::Cursor, text).kind == kind, "{text}");
        }
        assert_eq!(read(Client::Cursor, "{}").unwrap(), []);
        assert_eq!(read(Client::Cursor, "{\n\"a\": hunter2}").unwrap_err(), NotJson { line: 2 });
    }

    #[test]
    fn values_go_to_a_file_and_variables_stay_variables() {
        let text = r#"{"mcpServers": {"x": {"command": "a", "env": {"KEY": "hunter2", "B": "${B_KEY}", "C": "${env:c}", "D": "x${E}"}}}}"#;
        let found = one(Client::Cursor, text);
        let (block, file) = command(&found).declare("x".parse().unwrap());
        assert_eq!(
            block.env,
            [
                ("B".to_owned(), Origin::Variable("B_KEY".to_owned())),
                ("C".to_owned(), Origin::Variable("c".to_owned()))
            ]
        );
        assert_eq!(file, [("D".to_owned(), "x${E}".to_owned()), ("KEY".to_owned(), "hunter2".to_owned())].map(|it| it));
        assert_eq!(command(&found).placeholders(), ["${E}"]);
        assert!(!block.toml().contains("hunter2") && !format!("{found:?}").contains("hunter2"));
    }

    #[test]
    fn the_same_server_is_told_once() {
        let text = |command: &str| format!(r#"{{"mcpServers": {{"x": {{"command": "{command}"}}}}}}"#);
        let all = [(Client::Cursor, "a"), (Client::ClaudeDesktop, "a"), (Client::VsCode, "b")];
        let merged = merge(all.into_iter().map(|(client, command)| one(client, &text(command))).collect());
        assert_eq!(merged.iter().map(Found::origin).collect::<Vec<_>>(), ["Cursor, Claude Desktop", "VS Code"]);
        assert_eq!(name_for(&merged[1], &|name| name == "x").as_str(), "x-vscode");
    }

    #[test]
    fn a_name_becomes_one_that_ferry_accepts() {
        let named = |name: &str| Found {
            name: name.to_owned(),
            from: vec![(Client::Cursor, None)],
            kind: Kind::Remote,
            disabled: false,
        };
        for (name, accepted) in [
            ("files", "files"),
            ("My Server (beta)", "My-Server-beta"),
            ("@scope/pkg", "scope-pkg"),
            ("...", "server"),
            ("", "server"),
            ("ä", "ä"),
        ] {
            assert_eq!(name_for(&named(name), &|_| false).as_str(), accepted, "{name}");
        }
        assert_eq!(name_for(&named("a"), &|name| ["a", "a-cursor"].contains(&name)).as_str(), "a-2");
        assert!(name_for(&named(&"ä".repeat(90)), &|name| !name.ends_with("-2")).as_str().ends_with("-2"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[\\[{}\\],:\"\\\\/* a\n]*") {
            let _ = read(Client::Other, &text);
        }
    }
}
