//! ferry's own log: lines for people, or JSON for machines, on stderr and in a file.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::rotation::LogFile;
use crate::env::FERRY_LOG;

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One line a message, for people.
    #[default]
    Human,
    /// One JSON object a message.
    Json,
}

/// The file of ferry's own log, beside those of the servers. None of these can be called so: names have no dots.
pub const MAIN_LOG: &str = "ferry.main.log";

/// By which what is logged can be changed. Nobody else has to hold it.
static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Begins to log. Only the first call counts.
///
/// What is logged is ferry's own `info` and others' warnings, unless [`FERRY_LOG`] says otherwise, or else `level`. With
/// `kept` the lines go to a file as well, which is to be named by [`Kept::go_to`].
pub fn start(format: LogFormat, level: Option<&str>, kept: Option<Kept>) {
    let (filter, handle) = reload::Layer::new(filter(level));
    // A line that cannot be written must not be reported by a line to the same vanished terminal: that panics.
    let layer = tracing_subscriber::fmt::layer().with_writer(Writers { kept }).log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match format {
        LogFormat::Human => {
            use std::io::IsTerminal as _;
            registry.with(layer.with_ansi(io::stderr().is_terminal()).with_target(false).compact()).try_init()
        }
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    // A second call finds the first one's.
    if started.is_ok() {
        let _ = LEVEL.set(handle);
    }
}

/// Where lines go. One layer for both: two would share what they have rendered of a span, colours included.
#[derive(Debug, Clone)]
struct Writers {
    kept: Option<Kept>,
}

impl io::Write for Writers {
    /// A line: `tracing` writes each as a whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Without a terminal, or with one that has gone, the file has them.
        let _ = io::stderr().write_all(line);
        if let Some(kept) = &self.kept {
            kept.keep(anstream::adapter::strip_bytes(line).into_vec());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Writers {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// A copy of the log in a file. Which one is known only when this ferry turns out to be the only one there; until then
/// the lines wait, so that a second one leaves no trace in the first one's log.
#[derive(Debug, Clone, Default)]
pub struct Kept(Arc<Mutex<Place>>);

#[derive(Debug)]
enum Place {
    Unknown(Vec<Vec<u8>>),
    Known(LogFile),
}

impl Default for Place {
    fn default() -> Self {
        Self::Unknown(Vec::new())
    }
}

impl Kept {
    /// Writes the lines to this file, those included that wait.
    pub fn go_to(&self, file: &LogFile) {
        let place = std::mem::replace(&mut *self.lock(), Place::Known(file.clone()));
        if let Place::Unknown(lines) = place {
            lines.into_iter().for_each(|line| file.write(line));
        }
    }

    fn keep(&self, line: Vec<u8>) {
        /// More than ferry says before it knows the place.
        const WAITING: usize = 256;
        match &mut *self.lock() {
            Place::Unknown(lines) if lines.len() < WAITING => lines.push(line),
            Place::Unknown(_) => {}
            Place::Known(file) => file.write(line),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs by another level from now on, unless [`FERRY_LOG`] says what is logged.
pub fn set_level(level: Option<&str>) {
    if let Some(handle) = LEVEL.get() {
        let _ = handle.reload(filter(level));
    }
}

fn filter(level: Option<&str>) -> EnvFilter {
    // A level alone is meant for ferry: at `debug`, what the libraries below it say is of no use.
    let level = level
        .map(|level| if level.contains(['=', ',']) { level.to_owned() } else { format!("warn,mcp_ferry={level}") });
    let usual = || EnvFilter::new(level.as_deref().unwrap_or("warn,mcp_ferry=info"));
    EnvFilter::try_from_env(FERRY_LOG).unwrap_or_else(|_| usual())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::rotation::{Limits, LogWriter};
    use super::*;

    #[test]
    fn lines_wait_for_their_place() {
        let dir = tempfile::tempdir().unwrap();
        let writer = LogWriter::start(Limits::default()).unwrap();
        let kept = Kept::default();
        kept.keep(b"first\n".into());
        let file = writer.file(dir.path().join(MAIN_LOG));
        kept.go_to(&file);
        kept.keep(b"second\n".into());
        writer.flush(Duration::from_secs(30));
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "first\nsecond\n");
    }
}
