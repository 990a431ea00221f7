//! `ferry run`: the servers of the configuration, until it is told to stop.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::change::{ConfigArg, shown};
use super::output;
use crate::bridge::auth::Admission;
use crate::bridge::endpoint::Keys;
use crate::bridge::listener::Tcp;
use crate::bridge::origin::Guard;
use crate::config::load::{Config, ConfigError};
use crate::config::schema;
use crate::config::values::LogFilter;
use crate::daemon::assemble::{Beginning, Local, Service};
use crate::daemon::configured::{self, NoToken, UnusableEntry, reachable};
use crate::daemon::control::{self, Socket, SocketError};
use crate::daemon::reload::Source;
use crate::daemon::tunnel::{self, Surroundings};
use crate::daemon::{self, key};
use crate::error::{Advise, Exit};
use crate::paths;
use crate::supervisor::signals::Signals;
use crate::supervisor::{SHUTDOWN_TIMEOUT, Settings, Supervisor, SupervisorError};
use crate::telemetry::logging::{self, Kept, LogFormat, MAIN_LOG};
use crate::telemetry::rotation::{Limits as LogLimits, LogWriter};

/// How long the last lines of the log may take to the disk.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Arguments of `ferry run`.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    #[command(flatten)]
    config: ConfigArg,

    /// How log lines look, instead of what the configuration says.
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,
}

/// Why `ferry run` could not begin.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Entry(#[from] UnusableEntry),
    #[error(transparent)]
    Token(#[from] NoToken),
    #[error(transparent)]
    Path(#[from] paths::PathError),
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("ferry cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the system refused a basic request")]
    System(#[from] io::Error),
}

impl Advise for RunError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.hint(),
            Self::Entry(error) => error.hint(),
            Self::Token(error) => error.hint(),
            Self::Path(error) => error.hint(),
            Self::Supervisor(error) => error.hint(),
            Self::Socket(error) => error.hint(),
            Self::Listen { source, .. } => Some(match source.kind() {
                io::ErrorKind::AddrInUse => {
                    "another ferry, or something else, listens there; `local_port` in the configuration names another port, \
                     and 0 takes a free one"
                        .to_owned()
                }
                io::ErrorKind::PermissionDenied => "ports below 1024 are for root; choose a higher one".to_owned(),
                io::ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
                _ => return None,
            }),
            Self::System(_) => None,
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Config(error) => error.exit(),
            Self::Entry(error) => error.exit(),
            Self::Token(error) => error.exit(),
            Self::Path(error) => error.exit(),
            Self::Supervisor(error) => error.exit(),
            Self::Socket(error) => error.exit(),
            Self::Listen { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => Exit::AlreadyRunning,
                io::ErrorKind::PermissionDenied => Exit::NotPermitted,
                _ => Exit::Failed,
            },
            Self::System(_) => Exit::Failed,
        }
    }
}

pub(super) fn run(arguments: &Run) -> Result<Exit, Box<dyn Advise>> {
    serve(arguments).map_err(|error| Box::new(error) as Box<dyn Advise>)
}

fn serve(arguments: &Run) -> Result<Exit, RunError> {
    let config = Arc::new(Config::load(&arguments.config.located()?)?);
    let guard = configured::guard(&config)?;
    let admission = configured::admission(&config)?;
    let format = arguments.log_format.unwrap_or(match config.logging.format {
        Some(schema::LogFormat::Json) => LogFormat::Json,
        Some(schema::LogFormat::Human) | None => LogFormat::Human,
    });
    let kept = Kept::default();
    logging::start(format, config.logging.level.as_ref().map(LogFilter::as_str), Some(kept.clone()));
    let usual = LogLimits::default();
    let logs = LogWriter::start(LogLimits {
        bytes: config.logging.max_bytes.unwrap_or(usual.bytes),
        kept: config.logging.kept.unwrap_or(usual.kept),
    })?;
    let mut settings = Settings::new(paths::state_dir()?)?;
    let socket = control::socket_path(&settings.state_dir)?;
    settings.logs = Some(logs.clone());
    if let Some(timeout) = config.bridge.shutdown_timeout {
        settings.shutdown_timeout = timeout.0;
    }
    // Before anything is started.
    let signals = Signals::listen()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(async {
        let tcp = match configured::local_address(&config) {
            Some(address) => Some(Tcp::bind(address).await.map_err(|source| RunError::Listen { address, source })?),
            None => None,
        };
        let address = tcp.as_ref().map(Tcp::address);
        let mut refused = None;
        let ended = daemon::run(settings, signals, |supervisor| {
            kept.go_to(&logs.file(paths::log_dir(supervisor.state_dir()).join(MAIN_LOG)));
            let begun = begin(&config, supervisor, &logs, socket, tcp.map(|tcp| (tcp, guard, admission)));
            let service = begun.map_err(|error| {
                let exit = error.exit();
                refused = Some(error);
                exit
            })?;
            // Only now: a second ferry has been told of the first before.
            tell(&config, address, format);
            Ok(service)
        });
        let ended = ended.await?;
        refused.map_or(Ok(ended), Err)
    });
    // What still waits for a disk, or sweeps leftovers, is not waited for.
    runtime.shutdown_background();
    logs.flush(LAST_LINES);
    outcome
}

fn begin(
    config: &Arc<Config>,
    supervisor: &Supervisor,
    logs: &LogWriter,
    socket: PathBuf,
    local: Option<(Tcp, Guard, Admission)>,
) -> Result<Service, RunError> {
    let log_dir = paths::log_dir(supervisor.state_dir());
    paths::make_private_dir(&log_dir)?;
    // Before any server is started: without it nobody could ask how they are.
    let socket = Socket::bind(socket)?;
    let around = Surroundings {
        socket: None, // this version has no listener that asks for assertions
        state_dir: supervisor.state_dir(),
        shutdown_timeout: config.bridge.shutdown_timeout.map_or(SHUTDOWN_TIMEOUT, |timeout| timeout.0),
        log: logs.file(log_dir.join(tunnel::LOG)),
    };
    let beginning = Beginning {
        tunnel: tunnel::plan(config, around),
        servers: configured::servers(config, |name| logs.file(log_dir.join(format!("{name}.log")))),
        broken: configured::broken(config),
        local: local.map(|(tcp, guard, admission)| Local { tcp, guard, admission }),
        keys: Keys::new(&key::load_or_make(supervisor.state_dir())?),
        limits: Arc::new(config.bridge.limits.clone()),
        source: Some(Source { config: Arc::clone(config), logs: logs.clone(), log_dir, socket }),
    };
    Ok(Service::begin(supervisor, beginning))
}

/// What is served where, and what is not.
fn tell(config: &Config, address: Option<SocketAddr>, format: LogFormat) {
    for broken in &config.broken {
        for fault in &broken.faults {
            tracing::error!(name = broken.name, "the server is not started: {fault}");
        }
    }
    match (format, address) {
        (LogFormat::Human, _) => output::print(&screen(config, address)),
        (LogFormat::Json, Some(address)) => tracing::info!(url = format!("http://{}", reachable(address)), "listening"),
        (LogFormat::Json, None) => tracing::warn!("the local listener is off"),
    }
}

fn screen(config: &Config, address: Option<SocketAddr>) -> String {
    let mut text = format!("ferry {} with {}\n\n", env!("CARGO_PKG_VERSION"), shown(&config.path));
    let base = address.map(|address| format!("http://{}", reachable(address)));
    let enabled = config.servers.iter().filter(|server| server.mcp.enabled);
    let mut rows: Vec<[String; 2]> = enabled
        .map(|server| {
            let place = base.as_ref().map_or_else(
                || "not reachable: `local_listen` is off".to_owned(),
                |base| format!("{base}{}", server.mcp.path),
            );
            [format!("  {}", server.mcp.name), place]
        })
        .collect();
    rows.extend(config.broken.iter().map(|broken| {
        let why = broken.faults.first().map(ToString::to_string).unwrap_or_default();
        [format!("  {}", broken.name), format!("broken, {why}")]
    }));
    if rows.is_empty() {
        text.push_str("  no servers yet: `ferry add NAME -- COMMAND` adds one\n");
    }
    let width = rows.iter().map(|[name, _]| name.chars().count()).max().unwrap_or(0);
    for [name, place] in &rows {
        let _ = writeln!(text, "{name:width$}  {place}");
    }
    if config.bridge.local_token.is_some() {
        text.push_str("\nClients send `local_token` as `Authorization: Bearer`.\n");
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_screen_says_what_is_where() {
        let text = "[bridge]\nlocal_token = 'x'\n[[mcps]]\nname = 'bear'\npath = '/bear'\ncommand = 'x'\n[[mcps]]\nname = 'all-of-it'\npath = '/'\ncommand = 'x'\n[[mcps]]\nname = 'odd'\npath = 'x'\ncommand = 'x'\n[[mcps]]\nname = 'off'\npath = '/off'\ncommand = 'x'\nenabled = false\n";
        let config = Config::parse(text, Path::new("/etc/mcp-ferry/config.toml"), None).unwrap();
        insta::with_settings!({filters => vec![(env!("CARGO_PKG_VERSION"), "[version]")]}, {
            insta::assert_snapshot!(screen(&config, Some(([127, 0, 0, 1], 8765).into())));
        });
    }
}
