//! `ferry try`: one server, no configuration. Without a command it is the demo server that ferry carries along.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::connect::{self, Target};
use super::output;
use crate::bridge::auth::Admission;
use crate::bridge::child::{Isolation, Sharing};
use crate::bridge::endpoint::{Keys, Settings as EndpointSettings};
use crate::bridge::era::Policy;
use crate::bridge::listener::Tcp;
use crate::bridge::origin::{Guard, Listener};
use crate::config::limits::Limits;
use crate::config::values::UrlPath;
use crate::daemon;
use crate::daemon::assemble::{Beginning, Local, Server, Service};
use crate::daemon::tunnel::Plan;
use crate::error::{Advise, Exit};
use crate::mcp::probe::Choice;
use crate::secret::Secret;
use crate::supervisor::signals::Signals;
use crate::supervisor::{Capture, Environment, Role, Settings, Signal, Spec, Start, SupervisorError, TERM_GRACE};
use crate::telemetry::logging::{self, LogFormat};
use crate::telemetry::rotation::{Limits as LogLimits, LogWriter};
use crate::{paths, random};

/// The port of `[bridge] local_port`, unless it says otherwise.
const DEFAULT_PORT: u16 = 8765;

/// Arguments of `ferry try`.
#[derive(Debug, clap::Args)]
pub(super) struct Try {
    /// The port to listen on; 0 for any free one. Without it 8765, or a free one if that is taken.
    #[arg(long, value_name = "PORT", conflicts_with = "listen")]
    port: Option<u16>,

    /// Listen on this address and port instead of 127.0.0.1. If other machines can reach it, a token is made and
    /// asked for.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,

    /// The path to serve the server at.
    #[arg(long, value_name = "PATH", default_value = "/mcp")]
    path: UrlPath,

    /// The era of MCP to open the server in: up to 2025-11-25, or from 2026-07-28 on.
    #[arg(long, value_enum, default_value_t)]
    era: EraChoice,

    /// Who shares a process of the server.
    #[arg(long, value_enum, default_value_t)]
    isolation: IsolationChoice,

    /// How log lines look.
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,

    /// Hand these signals of ferry's on to the command's processes: HUP, USR1, USR2.
    #[arg(long, value_name = "SIGNAL", value_delimiter = ',', value_parser = parse_signal)]
    forward_signals: Vec<Signal>,

    /// The command to run and its arguments. Without one, the demo server.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Default for Try {
    fn default() -> Self {
        Self {
            port: None,
            listen: None,
            path: "/mcp".parse().expect("/mcp is a path"),
            era: EraChoice::default(),
            isolation: IsolationChoice::default(),
            log_format: LogFormat::default(),
            forward_signals: Vec::new(),
            command: Vec::new(),
        }
    }
}

/// Which era to open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum EraChoice {
    /// Modern where the server has it, else legacy
    #[default]
    Auto,
    /// `initialize` and sessions
    Legacy,
    /// `server/discover`, each request by itself
    Modern,
}

/// Who shares a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum IsolationChoice {
    /// All clients
    #[default]
    Shared,
    /// Nobody: each session has its own
    Session,
    /// All that one person does
    User,
}

fn parse_signal(name: &str) -> Result<Signal, String> {
    match name.strip_prefix("SIG").unwrap_or(name) {
        "HUP" => Ok(Signal::SIGHUP),
        "USR1" => Ok(Signal::SIGUSR1),
        "USR2" => Ok(Signal::SIGUSR2),
        _ => Err("one of HUP, USR1, USR2".to_owned()),
    }
}

/// Why `ferry try` could not begin.
#[derive(Debug, thiserror::Error)]
enum TryError {
    #[error(transparent)]
    Path(#[from] paths::PathError),
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    #[error("ferry cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Command(String),
    #[error("the system refused a basic request")]
    System(#[from] io::Error),
}

impl Advise for TryError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Path(error) => error.hint(),
            Self::Supervisor(error) => error.hint(),
            Self::Listen { source, .. } => Some(match source.kind() {
                io::ErrorKind::AddrInUse => "something else listens there; `--port 0` takes a free port".to_owned(),
                io::ErrorKind::PermissionDenied => "ports below 1024 are for root; choose a higher `--port`".to_owned(),
                io::ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
                _ => return None,
            }),
            Self::Command(_) => Some("what stands after `--` is run as it is, without a shell".to_owned()),
            Self::System(_) => None,
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Path(error) => error.exit(),
            Self::Supervisor(error) => error.exit(),
            Self::Listen { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => Exit::AlreadyRunning,
                io::ErrorKind::PermissionDenied => Exit::NotPermitted,
                _ => Exit::Failed,
            },
            Self::Command(_) | Self::System(_) => Exit::Failed,
        }
    }
}

pub(super) fn run(arguments: &Try) -> Result<Exit, Box<dyn Advise>> {
    serve(arguments).map_err(|error| Box::new(error) as Box<dyn Advise>)
}

fn serve(arguments: &Try) -> Result<Exit, TryError> {
    logging::start(arguments.log_format, None, None);
    let logs = LogWriter::start(LogLimits::default())?;
    let mut settings = Settings::new(paths::state_dir()?.join("try"))?;
    settings.scratch = true;
    settings.logs = Some(logs.clone());
    // Before anything is started.
    let signals = Signals::listen()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(async {
        runnable(arguments)?;
        let tcp = bind(arguments).await?;
        let address = tcp.address();
        let token = (!address.ip().is_loopback()).then(new_token);
        let is_demo = arguments.command.is_empty();
        let target = Target { address, path: arguments.path.as_str(), token: token.as_ref(), is_demo };
        match arguments.log_format {
            LogFormat::Human => output::print(&connect::screen(&target, &shown(&arguments.command))),
            LogFormat::Json => tracing::info!(url = target.url(), "listening"),
        }
        let failure = Arc::new(OnceLock::new());
        let told = Arc::clone(&failure);
        let ended = daemon::run(settings, signals, |supervisor| {
            let stderr = Capture { file: Some(logs.file(supervisor.state_dir().join("try.log"))), lines: None };
            let guard = Guard::new(Listener::Local(address.ip()), &[], &[]).map_err(|_| Exit::Failed)?;
            let admission = token.map_or_else(Admission::loopback, Admission::token);
            let server = server(arguments, stderr, told).map_err(|_| Exit::Failed)?;
            let beginning = Beginning {
                servers: vec![server],
                broken: Vec::new(),
                local: Some(Local { tcp, guard, admission }),
                tunnel: Plan::Off,
                keys: Keys::new(&random::bytes()),
                limits: Arc::default(),
                source: None,
            };
            Ok(Service::begin(supervisor, beginning))
        });
        let ended = ended.await?;
        failure.get().map_or(Ok(ended), |why| Err(TryError::Command(why.clone())))
    });
    // What still waits for a disk, or sweeps leftovers, is not waited for.
    runtime.shutdown_background();
    outcome
}

/// Where the server is not started before its first client comes, a misspelt command is to be told at once all the same.
fn runnable(arguments: &Try) -> Result<(), TryError> {
    let Some(program) = arguments.command.first().filter(|_| arguments.isolation != IsolationChoice::Shared) else {
        return Ok(());
    };
    let missing = |error| TryError::Command(format!("{} cannot be run: {error}", program.display()));
    which::which(program).map(drop).map_err(missing)
}

async fn bind(arguments: &Try) -> Result<Tcp, TryError> {
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let address = arguments.listen.unwrap_or_else(|| loopback(arguments.port.unwrap_or(DEFAULT_PORT)));
    let bound = match Tcp::bind(address).await {
        // Nobody asked for just this port.
        Err(error)
            if error.kind() == io::ErrorKind::AddrInUse && arguments.port.or(arguments.listen.map(|_| 0)).is_none() =>
        {
            Tcp::bind(loopback(0)).await
        }
        bound => bound,
    };
    bound.map_err(|source| TryError::Listen { address, source })
}

fn server(arguments: &Try, stderr: Capture, told: Arc<OnceLock<String>>) -> io::Result<Server> {
    let is_demo = arguments.command.is_empty();
    let mut command = if is_demo {
        vec![std::env::current_exe()?.into_os_string(), super::DEMO_SERVER.into()]
    } else {
        arguments.command.clone()
    }
    .into_iter();
    let limits = Limits::default();
    let process = Spec {
        name: if is_demo { "demo".to_owned() } else { "try".to_owned() },
        role: Role::Mcp,
        program: command.next().unwrap_or_default(),
        args: command.collect(),
        cwd: None,
        environment: Environment { inherit: true, ..Environment::default() },
        // The handshake has its own limit and says more when it is over.
        start_timeout: limits.start_timeout + Duration::from_secs(5),
        stop_grace: Duration::from_secs(5),
        stop_signal: Signal::SIGTERM,
        term_grace: TERM_GRACE,
        forward_signals: arguments.forward_signals.clone(),
        start: Start::Eager,
        stderr,
    };
    let era = match arguments.era {
        EraChoice::Auto => Choice::Probe,
        EraChoice::Legacy => Choice::Legacy,
        EraChoice::Modern => Choice::Modern,
    };
    let isolation = match arguments.isolation {
        IsolationChoice::Shared => Isolation::Shared,
        IsolationChoice::Session => Isolation::Session,
        IsolationChoice::User => Isolation::User,
    };
    let endpoint = EndpointSettings {
        name: process.name.clone(),
        path: arguments.path.to_string(),
        policy: Policy::default(),
        // The demo server is there to be tried, its questions included; it has another way for who cannot be asked.
        sharing: Sharing { era, isolation, interactive: is_demo, ..Sharing::default() },
    };
    Ok(Server { process, endpoint, vital: Some(told), limits: None, request_timeout: None, variables: None })
}

fn new_token() -> Secret {
    Secret::new(URL_SAFE_NO_PAD.encode(random::bytes::<32>()))
}

/// A command as one would type it.
fn shown(command: &[OsString]) -> String {
    shell_words::join(command.iter().map(|word| word.to_string_lossy()))
}
