//! ferry's own log: lines for people, or JSON for machines, on stderr.

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

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

/// Begins to log. Only the first call counts.
///
/// What is logged is ferry's own `info` and others' warnings, unless [`FERRY_LOG`] says otherwise.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_env(FERRY_LOG).unwrap_or_else(|_| EnvFilter::new("warn,mcp_ferry=info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_span_events(FmtSpan::NONE)
        // A line that cannot be written must not be reported by a line to the same vanished terminal: that panics.
        .log_internal_errors(false);
    let started = match format {
        LogFormat::Human => {
            use std::io::IsTerminal as _;
            builder.with_ansi(io::stderr().is_terminal()).with_target(false).compact().try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    // A second call finds the first one's.
    drop(started);
}
