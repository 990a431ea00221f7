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
/// What is logged is ferry's own `info` and others' warnings, unless [`FERRY_LOG`] says otherwise, or else `level`.
pub fn start(format: LogFormat, level: Option<&str>) {
    // A level alone is meant for ferry: at `debug`, what the libraries below it say is of no use.
    let level = level
        .map(|level| if level.contains(['=', ',']) { level.to_owned() } else { format!("warn,mcp_ferry={level}") });
    let usual = || EnvFilter::new(level.as_deref().unwrap_or("warn,mcp_ferry=info"));
    let filter = EnvFilter::try_from_env(FERRY_LOG).unwrap_or_else(|_| usual());
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
