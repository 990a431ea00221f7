//! `ferry logs`: what ferry and its servers have written, and what they write.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anstream::adapter::StripBytes;

use super::output;
use crate::config::load::{self, Config};
use crate::config::nearest;
use crate::error::{Advise, Exit};
use crate::paths;
use crate::telemetry::logging::MAIN_LOG;
use crate::telemetry::tail::Tail;

/// How often a log that is followed is looked at.
const GLANCE: Duration = Duration::from_millis(200);

/// Arguments of `ferry logs`.
#[derive(Debug, clap::Args)]
pub(super) struct Logs {
    /// The server whose standard error to show. Without one, ferry's own log.
    name: Option<String>,

    /// Go on with what is written from now on, until Ctrl-C.
    #[arg(long, short)]
    follow: bool,

    /// How many lines to show of what is there.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100)]
    lines: usize,
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
enum LogsError {
    #[error(transparent)]
    Path(#[from] paths::PathError),
    #[error("there is no log of a server `{name}`")]
    Unknown { name: String, known: BTreeSet<String> },
    #[error("there is no log of ferry's yet: {} does not exist", path.display())]
    Absent { path: PathBuf },
    #[error("{} cannot be read", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Advise for LogsError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Path(error) => error.hint(),
            Self::Unknown { name, known } => match nearest(name, known.iter().map(String::as_str)) {
                Some(near) => Some(format!("did you mean `{near}`?")),
                None if known.is_empty() => None,
                None => Some(format!("there are: {}", known.iter().cloned().collect::<Vec<_>>().join(", "))),
            },
            Self::Absent { .. } => Some("`ferry run` writes it".to_owned()),
            Self::Unreadable { .. } => None,
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Path(error) => error.exit(),
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Exit::NotPermitted,
            Self::Unknown { .. } | Self::Absent { .. } | Self::Unreadable { .. } => Exit::Failed,
        }
    }
}

/// Whose words.
enum Stream<'a> {
    /// ferry's own.
    Main,
    /// What a server writes to its standard error.
    Server(&'a str),
}

impl Stream<'_> {
    fn file(&self, dir: &Path) -> PathBuf {
        match self {
            Self::Main => dir.join(MAIN_LOG),
            Self::Server(name) => dir.join(format!("{name}.log")),
        }
    }
}

pub(super) fn run(arguments: &Logs) -> Result<Exit, Box<dyn Advise>> {
    logs(arguments).map_err(|error| Box::new(error) as Box<dyn Advise>)
}

fn logs(arguments: &Logs) -> Result<Exit, LogsError> {
    let dir = paths::log_dir(&paths::state_dir()?);
    let stream = arguments.name.as_deref().map_or(Stream::Main, Stream::Server);
    let path = stream.file(&dir);
    if !path.exists() {
        match &stream {
            // With `-f` it is waited for.
            Stream::Main if !arguments.follow => return Err(LogsError::Absent { path }),
            Stream::Main => {}
            Stream::Server(name) => {
                let configured = configured();
                if !configured.contains(*name) {
                    let known = configured.into_iter().chain(written(&dir)).collect();
                    return Err(LogsError::Unknown { name: (*name).to_owned(), known });
                }
                if !arguments.follow {
                    output::note(&format!("`{name}` has written nothing yet"));
                }
            }
        }
    }
    show(&path, arguments).map_err(|source| LogsError::Unreadable { path, source })
}

fn show(path: &Path, arguments: &Logs) -> io::Result<Exit> {
    // Whatever it is that a server writes, it is not to steer the terminal of who reads it.
    let mut strip = StripBytes::new();
    let mut print = |text: &[u8]| {
        let plain: Vec<u8> = strip.strip_next(text).collect::<Vec<_>>().concat();
        output::try_print(&String::from_utf8_lossy(&plain))
    };
    let (mut tail, text) = Tail::begin(path, arguments.lines)?;
    if print(&text).is_err() {
        return Ok(Exit::Stopped);
    }
    if !arguments.follow {
        return Ok(Exit::Stopped);
    }
    loop {
        let more = tail.more()?;
        if more.is_empty() {
            std::thread::sleep(GLANCE);
        } else if print(&more).is_err() {
            // Nobody reads it any more.
            return Ok(Exit::Stopped);
        }
    }
}

/// The servers of the configuration, if there is one.
fn configured() -> BTreeSet<String> {
    let Some(config) = load::locate(None).ok().and_then(|path| Config::load(&path).ok()) else {
        return BTreeSet::new();
    };
    let servers = config.servers.iter().map(|server| server.mcp.name.to_string());
    servers.chain(config.broken.iter().map(|broken| broken.name.clone())).collect()
}

/// The servers that have a log, whether they are configured still or not.
fn written(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name != MAIN_LOG).filter_map(|name| Some(name.strip_suffix(".log")?.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ferrys_own_log_is_no_servers() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["bear.log", "bear.log.1", MAIN_LOG, "old.log", "notes.txt"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let mut found = written(dir.path());
        found.sort();
        assert_eq!(found, ["bear", "old"]);
        let own = MAIN_LOG.strip_suffix(".log").unwrap();
        assert!(own.parse::<crate::config::values::Name>().is_err(), "no server may be called `{own}`");
    }

    #[test]
    fn a_name_that_nobody_has_finds_the_nearest() {
        let known = BTreeSet::from(["bear".to_owned(), "things".to_owned()]);
        let hint = |name: &str| LogsError::Unknown { name: name.to_owned(), known: known.clone() }.hint().unwrap();
        assert_eq!(hint("baer"), "did you mean `bear`?");
        assert_eq!(hint("x"), "there are: bear, things");
    }
}
