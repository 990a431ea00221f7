//! `ferry try -- COMMAND ARGS…`: one server, no configuration.
//!
//! For now it only keeps the command alive; the bridge is plugged in where [`Trial`] is made.

use std::ffi::OsString;
use std::future::pending;
use std::io::{self, IsTerminal};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::debug;
use tracing_subscriber::EnvFilter;

use crate::daemon::{self, Serving};
use crate::error::{Advise, Exit};
use crate::supervisor::signals::Signals;
use crate::supervisor::{
    Capture, Environment, Incarnation, LAST_OUTPUT, Process, Role, Settings, Signal, Spec, Start, State, Supervisor,
    SupervisorError, TERM_GRACE,
};
use crate::telemetry::rotation::{Limits, LogWriter};
use crate::{env, paths};

/// Arguments of `ferry try`.
#[derive(Debug, clap::Args)]
pub(super) struct Try {
    /// Hand these signals of ferry's on to the command's processes: HUP, USR1, USR2.
    #[arg(long = "forward", value_name = "SIGNAL", value_delimiter = ',', value_parser = parse_signal)]
    forward_signals: Vec<Signal>,

    /// The command and its arguments.
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

fn parse_signal(name: &str) -> Result<Signal, String> {
    match name {
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
    #[error("the system refused a basic request")]
    System(#[from] io::Error),
}

impl Advise for TryError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Path(error) => error.hint(),
            Self::Supervisor(error) => error.hint(),
            Self::System(_) => None,
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Path(error) => error.exit(),
            Self::Supervisor(error) => error.exit(),
            Self::System(_) => Exit::Failed,
        }
    }
}

pub(super) fn run(arguments: Try) -> Result<Exit, Box<dyn Advise>> {
    supervise(arguments).map_err(|error| Box::new(error) as Box<dyn Advise>)
}

fn supervise(arguments: Try) -> Result<Exit, TryError> {
    log_to_stderr();
    let logs = LogWriter::start(Limits::default())?;
    let mut settings = Settings::new(paths::state_dir()?.join("try"))?;
    settings.scratch = true;
    settings.logs = Some(logs.clone());
    // Before anything is started.
    let signals = Signals::listen()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome =
        runtime.block_on(daemon::run(settings, signals, |supervisor| Ok(Trial::begin(supervisor, &logs, arguments))));
    // What still waits for a disk, or sweeps leftovers, is not waited for.
    runtime.shutdown_background();
    Ok(outcome?)
}

/// Until `telemetry::logging` is there.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env(env::FERRY_LOG).unwrap_or_else(|_| EnvFilter::new("info"));
    // A failed write must not be reported by a write to the same terminal: that one panics.
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .log_internal_errors(false);
    let _ = subscriber.try_init();
}

/// The one server.
struct Trial {
    process: Process,
}

impl Trial {
    fn begin(supervisor: &Supervisor, logs: &LogWriter, arguments: Try) -> Self {
        let mut command = arguments.command.into_iter();
        let spec = Spec {
            name: "try".to_owned(),
            role: Role::Mcp,
            program: command.next().unwrap_or_default(),
            args: command.collect(),
            cwd: None,
            environment: Environment { inherit: true, set: Vec::new() },
            start_timeout: Duration::from_mins(1),
            stop_grace: Duration::from_secs(5),
            stop_signal: Signal::SIGTERM,
            term_grace: TERM_GRACE,
            forward_signals: arguments.forward_signals,
            start: Start::Eager,
            stderr: Capture { file: Some(logs.file(supervisor.state_dir().join("try.log"))), lines: None },
        };
        let (process, incarnations) = supervisor.add(spec);
        tokio::spawn(attend(process.clone(), incarnations));
        Self { process }
    }
}

impl Serving for Trial {
    fn stop_accepting(&self) {
        drop(self.process.stop());
    }

    /// A command that cannot be run is news for whoever typed it, not something to wait for.
    async fn failed(&self) -> Exit {
        let mut status = self.process.watch();
        if status.wait_for(|status| status.state == State::Failed).await.is_err() {
            return pending().await;
        }
        Exit::Failed
    }
}

/// Stands in for the bridge: calls every generation ready and reads what it says.
async fn attend(process: Process, mut incarnations: mpsc::Receiver<Incarnation>) {
    while let Some(Incarnation { generation, stdin, stdout, closing, exited, .. }) = incarnations.recv().await {
        process.ready(generation);
        tokio::join!(hold(stdin, closing), read(stdout, exited));
    }
}

async fn hold(stdin: pipe::Sender, mut closing: watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
    drop(stdin);
}

async fn read(mut stdout: pipe::Receiver, mut exited: watch::Receiver<bool>) {
    let mut buffer = [0; 8 * 1024];
    let over = async {
        let _ = exited.wait_for(|exited| *exited).await;
        sleep(LAST_OUTPUT).await;
    };
    tokio::pin!(over);
    loop {
        tokio::select! {
            () = &mut over => return,
            read = stdout.read(&mut buffer) => match read {
                // Closing stdout is no exit: the supervisor says when that comes.
                Ok(0) | Err(_) => return over.await,
                Ok(count) => debug!("stdout: {}", String::from_utf8_lossy(&buffer[..count]).trim_end()),
            },
        }
    }
}
