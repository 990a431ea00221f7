//! `ferry import`: the servers that other clients have declared.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::change::{self, Addition, ChangeError, ConfigArg};
use super::{add, output};
use crate::config::env_file;
use crate::config::import::{self, Client, Command, Found, Kind};
use crate::config::load::{Config, ConfigError};
use crate::config::values::Name;
use crate::config::words;
use crate::error::{Advise, Exit};
use crate::paths;

/// Arguments of `ferry import`.
#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// The servers to take over, by name. Without names, and without `--all`, ferry asks.
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Take over all that are not there yet.
    #[arg(long, conflicts_with = "names")]
    all: bool,

    /// Look in this file, instead of those of Claude Desktop, Claude Code, Cursor and VS Code.
    #[arg(long, value_name = "FILE")]
    from: Vec<PathBuf>,

    #[command(flatten)]
    config: ConfigArg,
}

/// Why nothing was taken over.
#[derive(Debug, thiserror::Error)]
enum ImportError {
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Path(#[from] paths::PathError),
    #[error("{} cannot be read", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("no client has declared a server `{name}` that ferry can run")]
    NoSuchServer { name: String, known: Vec<String> },
}

impl Advise for ImportError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Change(error) => error.hint(),
            Self::Config(error) => error.hint(),
            Self::Path(error) => error.hint(),
            Self::Unreadable { .. } => None,
            Self::NoSuchServer { known, .. } if known.is_empty() => None,
            Self::NoSuchServer { known, .. } => Some(format!("there are: {}", known.join(", "))),
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Change(error) => error.exit(),
            Self::Config(error) => error.exit(),
            Self::Path(_) | Self::Unreadable { .. } | Self::NoSuchServer { .. } => Exit::Failed,
        }
    }
}

/// A server that can be taken over.
struct Candidate<'f> {
    found: &'f Found,
    command: &'f Command,
    name: Name,
    /// The configuration has it already.
    present: bool,
}

pub(super) fn run(arguments: &Import) -> Result<Exit, Box<dyn Advise>> {
    take_over(arguments).map_err(|error| Box::new(error) as Box<dyn Advise>)
}

fn take_over(arguments: &Import) -> Result<Exit, ImportError> {
    let found = import::merge(find(&arguments.from)?);
    let file = arguments.config.located_or_new()?;
    let config = match Config::load(&file) {
        Ok(config) => Some(config),
        Err(ConfigError::Absent { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let candidates = candidates(&found, config.as_ref());
    output::print(&overview(&found, &candidates));
    let chosen = choose(arguments, &candidates)?;
    if chosen.is_empty() {
        return Ok(Exit::Stopped);
    }
    let mut additions = Vec::new();
    let mut servers = Vec::new();
    for candidate in chosen {
        let (mut block, mut variables) = candidate.command.declare(candidate.name.clone());
        if let (Some(path), false) = (&candidate.command.env_file, variables.is_empty()) {
            // A server has one file: what stands in the client's own goes into ferry's, below what the client sets.
            let mut all = read_variables(path)?;
            all.retain(|(name, _)| !candidate.command.env.contains_key(name));
            all.append(&mut variables);
            variables = all;
            block.env_file = None;
        }
        servers.push((block.name.clone(), block.path.clone()));
        for placeholder in candidate.command.placeholders() {
            output::note(&format!(
                "`{}` has `{placeholder}` in it, which its client fills in and ferry does not",
                block.name
            ));
        }
        additions.push(Addition { block, variables });
    }
    Ok(add::report(&file, &change::add(&file, additions)?, &servers))
}

/// All that is declared anywhere. A file of a client's own that cannot be read is no reason to see none of the others.
fn find(from: &[PathBuf]) -> Result<Vec<Found>, ImportError> {
    let read = |client, path: &Path| {
        let unreadable = |source| ImportError::Unreadable { path: path.to_owned(), source };
        let text = fs::read_to_string(path).map_err(|error| unreadable(Box::new(error)))?;
        import::read(client, &text).map_err(|error| unreadable(Box::new(error)))
    };
    let mut found = Vec::new();
    for path in from {
        found.extend(read(Client::Other, path)?);
    }
    if from.is_empty() {
        let here = std::env::current_dir().ok();
        for (client, path) in import::places(&paths::home()?, here.as_deref()) {
            match read(client, &path) {
                Ok(servers) => found.extend(servers),
                Err(_) if !path.exists() => {}
                Err(error) => output::warn(&error),
            }
        }
    }
    Ok(found)
}

fn candidates<'f>(found: &'f [Found], config: Option<&Config>) -> Vec<Candidate<'f>> {
    let servers = || config.iter().flat_map(|config| &config.servers);
    let broken = || config.iter().flat_map(|config| &config.broken);
    let mut taken: BTreeSet<String> = servers().map(|server| server.mcp.name.to_string()).collect();
    taken.extend(broken().map(|broken| broken.name.clone()));
    let paths =
        servers().map(|server| server.mcp.path.to_string()).chain(broken().filter_map(|broken| broken.path.clone()));
    taken.extend(paths.filter_map(|path| path.strip_prefix('/').map(str::to_owned)));
    let home = paths::home().ok();
    let mut candidates = Vec::new();
    for one in found {
        let Kind::Stdio(command) = &one.kind else { continue };
        let argv: Vec<String> = command.argv.iter().map(|word| words::expand_home(word, home.as_deref())).collect();
        let present = servers().find(|server| server.argv == argv);
        let name =
            present.map_or_else(|| import::name_for(one, &|name| taken.contains(name)), |it| it.mcp.name.clone());
        taken.insert(name.to_string());
        candidates.push(Candidate { found: one, command, name, present: present.is_some() });
    }
    candidates
}

fn overview(found: &[Found], candidates: &[Candidate<'_>]) -> String {
    if found.is_empty() {
        return "no servers found in the files of Claude Desktop, Claude Code, Cursor and VS Code\n".to_owned();
    }
    let mut number = 0;
    let rows = found.iter().map(|one| {
        let candidate = candidates.iter().find(|candidate| std::ptr::eq(candidate.found, one));
        let what = match (&one.kind, candidate) {
            (Kind::Stdio(command), Some(candidate)) => {
                let mut notes = Vec::new();
                if candidate.present {
                    notes.push("is in the configuration already".to_owned());
                } else if candidate.name.as_str() != one.name {
                    notes.push(format!("becomes `{}`", candidate.name));
                }
                if one.disabled {
                    notes.push("switched off there".to_owned());
                }
                let notes = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join(", ")) };
                format!("{}{notes}", gist(&command.argv))
            }
            (Kind::Unclear(why), _) => format!("cannot be taken over: {why}"),
            _ => "has a URL of its own, and needs no ferry".to_owned(),
        };
        let mark = match candidate {
            Some(candidate) if !candidate.present => {
                number += 1;
                number.to_string()
            }
            _ => "-".to_owned(),
        };
        [mark, one.name.clone(), one.origin(), what]
    });
    output::table(["", "NAME", "FOUND IN", "WHAT"], rows.collect::<Vec<_>>())
}

/// The program and, of one that runs packages, the package. Further arguments may be secrets.
fn gist(argv: &[String]) -> String {
    let mut words = argv.iter().filter(|word| !matches!(word.as_str(), "-y" | "--yes"));
    let program = words.next().map_or("", String::as_str);
    let package =
        words.next().filter(|word| matches!(program, "npx" | "bunx" | "uvx" | "pipx") && !word.starts_with('-'));
    words::join(std::iter::once(program).chain(package.map(String::as_str)))
}

fn choose<'c, 'f>(arguments: &Import, candidates: &'c [Candidate<'f>]) -> Result<Vec<&'c Candidate<'f>>, ImportError> {
    let new: Vec<&Candidate<'f>> = candidates.iter().filter(|candidate| !candidate.present).collect();
    if new.is_empty() {
        if !candidates.is_empty() {
            output::note("all of them are in the configuration already");
        }
        return Ok(new);
    }
    if arguments.all {
        return Ok(new);
    }
    if !arguments.names.is_empty() {
        return pick(&new, &arguments.names);
    }
    let Some(answer) = output::ask("Which ones? Numbers or names, `all`, or nothing: ") else {
        output::note("nothing was changed: name those to take over, or say `--all`");
        return Ok(Vec::new());
    };
    let words: Vec<String> =
        answer.split([' ', ',', '\t']).filter(|word| !word.is_empty()).map(str::to_owned).collect();
    if words.len() == 1 && words[0].eq_ignore_ascii_case("all") { Ok(new) } else { pick(&new, &words) }
}

fn pick<'c, 'f>(new: &[&'c Candidate<'f>], wanted: &[String]) -> Result<Vec<&'c Candidate<'f>>, ImportError> {
    let mut picked: Vec<&'c Candidate<'f>> = Vec::new();
    for word in wanted {
        let is_it =
            |candidate: &&Candidate<'_>| candidate.found.name == *word || candidate.name.as_str() == word.as_str();
        let by_number = || word.parse::<usize>().ok().and_then(|number| new.get(number.checked_sub(1)?));
        let Some(candidate) = new.iter().copied().find(|candidate| is_it(candidate)).or_else(|| by_number().copied())
        else {
            let known = new.iter().map(|candidate| candidate.name.to_string()).collect();
            return Err(ImportError::NoSuchServer { name: word.clone(), known });
        };
        if !picked.iter().any(|other| other.name == candidate.name) {
            picked.push(candidate);
        }
    }
    Ok(picked)
}

fn read_variables(path: &str) -> Result<Vec<(String, String)>, ImportError> {
    let path = PathBuf::from(words::expand_home(path, paths::home().ok().as_deref()));
    let unreadable = |source| ImportError::Unreadable { path: path.clone(), source };
    let text = fs::read_to_string(&path).map_err(|error| unreadable(Box::new(error)))?;
    env_file::parse(&text).map_err(|error| unreadable(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = r#"{"mcpServers": {
        "files": {"command": "npx", "args": ["-y", "@x/fs", "/secret-path"]},
        "My Notes": {"command": "notes", "disabled": true},
        "bear": {"command": "other-bear"},
        "known": {"command": "bearcli"},
        "web": {"url": "https://x"},
        "odd": {"command": 3}
    }}"#;

    fn config() -> Config {
        let text = "[[mcps]]\nname = 'bear'\npath = '/bear'\ncommand = 'bearcli'\n";
        Config::parse(text, Path::new("c"), None).unwrap()
    }

    #[test]
    fn what_is_found_is_shown_with_what_becomes_of_it() {
        let found = import::read(Client::Cursor, CLIENT).unwrap();
        let shown = overview(&found, &candidates(&found, Some(&config())));
        assert!(!shown.contains("secret-path"), "further arguments may be secrets");
        insta::assert_snapshot!(shown);
    }

    #[test]
    fn servers_are_picked_by_number_and_by_name() {
        let found = import::read(Client::Cursor, CLIENT).unwrap();
        let config = config();
        let candidates = candidates(&found, Some(&config));
        let new: Vec<_> = candidates.iter().filter(|candidate| !candidate.present).collect();
        let picked = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            pick(&new, &words).map(|picked| picked.iter().map(|it| it.name.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(picked(&["1", "files", "My-Notes", "bear"]).unwrap(), ["My-Notes", "files", "bear-cursor"]);
        assert_eq!(picked(&[]).unwrap(), [""; 0]);
        for wrong in ["0", "9", "web", "known", ""] {
            let error = picked(&[wrong]).unwrap_err();
            assert_eq!(error.hint().unwrap(), "there are: My-Notes, bear-cursor, files", "{wrong}");
        }
    }
}
