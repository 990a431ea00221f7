//! ferry's own log: lines for people, or JSON for machines, on stderr.

use std::io;
use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

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

/// By which what is logged can be changed. Nobody else has to hold it.
static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Begins to log. Only the first call counts.
///
/// What is logged is ferry's own `info` and others' warnings, unless [`FERRY_LOG`] says otherwise, or else `level`.
pub fn start(format: LogFormat, level: Option<&str>) {
    let (filter, handle) = reload::Layer::new(filter(level));
    // A line that cannot be written must not be reported by a line to the same vanished terminal: that panics.
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr).log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match format {
        LogFormat::Human => {
            use std::io::IsTerminal as _;
            let layer = layer.with_ansi(io::stderr().is_terminal()).with_target(false).compact();
            registry.with(layer).try_init()
        }
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    // A second call finds the first one's.
    if started.is_ok() {
        let _ = LEVEL.set(handle);
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
