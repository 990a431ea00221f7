//! Processes on one side, the bridge on the other: each is handed only what it needs of the other.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Serving;
use super::configured::reachable;
use super::control::{Commands, Control, SocketError};
use super::health::Health;
use super::reload::{Reloader, Source};
pub use super::servers::Broken;
use super::servers::{GLANCE, Servers};
use super::status::Fixed;
use super::variables::Variables;
use crate::bridge::auth::Admission;
use crate::bridge::child::{Child, Outcome, Pipes};
use crate::bridge::endpoint::{Keys, Settings};
use crate::bridge::listener::Tcp;
use crate::bridge::origin::Guard;
use crate::bridge::router::{Door, Endpoints, router};
use crate::config::limits::Limits;
use crate::error::Exit;
use crate::mcp::connection::Ended;
use crate::mcp::probe::Opened;
use crate::supervisor::{Incarnation, Process, Retry, Spec, State, Supervisor};

/// The local listener: where it listens, and whom it lets in.
pub struct Local {
    /// The bound socket.
    pub tcp: Tcp,
    /// Which pages may talk to it.
    pub guard: Guard,
    /// What it asks of a request.
    pub admission: Admission,
}

/// One server: the process, and the path it is served at.
pub struct Server {
    /// The process.
    pub process: Spec,
    /// The endpoint.
    pub endpoint: Settings,
    /// A command that cannot be run ends ferry, since somebody has just typed it; this is told why.
    pub vital: Option<Arc<OnceLock<String>>>,
    /// How long its calls may take without a sign of progress, instead of what holds for all.
    pub request_timeout: Option<Duration>,
    /// Where its variables come from.
    pub variables: Option<Arc<Variables>>,
}

/// What is to be served.
pub struct Beginning {
    /// The servers.
    pub servers: Vec<Server>,
    /// Those that cannot even be started.
    pub broken: Vec<Broken>,
    /// The listener, if there is to be one.
    pub local: Option<Local>,
    /// What session ids are made with.
    pub keys: Keys,
    /// The bounds.
    pub limits: Arc<Limits>,
    /// What is read again at a reload; nothing, where there is no file.
    pub source: Option<Source>,
}

/// Everything that is being served.
pub struct Service {
    servers: Arc<Servers>,
    stop: watch::Sender<bool>,
    listening: watch::Receiver<bool>,
    reloader: Option<Arc<Reloader>>,
    local: Option<SocketAddr>,
    control: Option<Control>,
}

impl Service {
    /// Starts the servers and opens the listener, if there is to be one.
    pub fn begin(supervisor: &Supervisor, beginning: Beginning) -> Self {
        let Beginning { servers: new, broken, local, keys, limits, source } = beginning;
        let servers = Servers::new(supervisor, Endpoints::new(Arc::clone(&limits)), keys);
        let order: Vec<String> = new.iter().map(|server| server.process.name.clone()).collect();
        let started = servers.become_these(&BTreeSet::new(), new, broken, &order, &limits);
        debug_assert!(started.is_ok(), "nobody has closed it yet");
        let (stop, stopped) = watch::channel(false);
        let (listening, is_listening) = watch::channel(local.is_some());
        let address = local.as_ref().map(|local| local.tcp.address());
        let guard = local.as_ref().map(|local| (local.guard.clone(), local.tcp.address().ip()));
        let reloader = source.map(|source| Arc::new(Reloader::new(source, Arc::clone(&servers), guard)));
        if let Some(Local { tcp, guard, admission }) = local {
            let health = Health { guard: guard.clone(), admission: admission.clone(), servers: Arc::clone(&servers) };
            let endpoints = Arc::clone(servers.endpoints());
            let router = router(Door { guard, admission, endpoints }).merge(health.router());
            let serving = tcp.serve(router, limits, stopped);
            tokio::spawn(async move {
                serving.await;
                listening.send_replace(false);
            });
        }
        Self { servers, stop, listening: is_listening, reloader, local: address, control: None }
    }

    /// Opens the control socket, if there is something to control. The lock of the state directory is held.
    pub fn listen_for_commands(&mut self, socket: PathBuf) -> Result<(), SocketError> {
        let Some(reloader) = &self.reloader else { return Ok(()) };
        let fixed = Fixed {
            config: std::path::absolute(reloader.path()).unwrap_or_else(|_| reloader.path().to_owned()),
            logs: reloader.log_dir().to_owned(),
            local: self.local.map(|address| format!("http://{}", reachable(address))),
            started: Instant::now(),
        };
        let commands = Commands { fixed, servers: Arc::clone(&self.servers), reloader: Arc::clone(reloader) };
        self.control = Some(Control::open(socket, commands)?);
        Ok(())
    }
}

impl Serving for Service {
    fn reload(&self) {
        let Some(reloader) = &self.reloader else { return tracing::info!("there is no configuration to reload") };
        let reloader = Arc::clone(reloader);
        // What came of it is in the log.
        tokio::spawn(async move { drop(reloader.reload().await) });
    }

    fn stop_accepting(&self) {
        self.stop.send_replace(true);
        self.servers.close();
    }

    async fn drained(&self) {
        while self.servers.in_flight() > 0 {
            tokio::time::sleep(GLANCE).await;
        }
    }

    async fn closed(&self) {
        let _ = self.listening.clone().wait_for(|listening| !listening).await;
    }

    async fn failed(&self) -> Exit {
        for server in self.servers.serving() {
            let Some(told) = &server.vital else { continue };
            let mut status = server.process.watch();
            if let Ok(status) = status.wait_for(|status| status.state == State::Failed).await {
                let _ = told.set(status.last_error.clone().unwrap_or_default());
                return Exit::Failed;
            }
        }
        std::future::pending().await
    }
}

/// Tells the bridge what becomes of a process, so that nobody waits for one that is not coming.
pub(super) async fn follow(process: Process, child: Arc<Child>) {
    let mut status = process.watch();
    loop {
        let state = status.borrow_and_update().state;
        match state {
            State::Starting => child.starting(),
            State::BackingOff => child.down(),
            State::Failed => child.cannot_start(),
            State::Gone => child.gone(),
            _ => {}
        }
        if status.changed().await.is_err() {
            return child.gone();
        }
    }
}

/// Hands each process to the bridge, and what the bridge makes of it to the supervisor.
pub(super) async fn attend(process: Process, mut incarnations: mpsc::Receiver<Incarnation>, child: Arc<Child>) {
    while let Some(incarnation) = incarnations.recv().await {
        let Incarnation { generation, stdin, stdout, closing, exited, .. } = incarnation;
        let pipes =
            Pipes { generation, output: stdout, input: stdin, exited: raised(exited), closing: raised(closing) };
        let outcome = child
            .serve(pipes, |opened| {
                process.ready(generation);
                announce(process.name(), opened);
            })
            .await;
        let at_once = outcome.retry_at_once();
        match outcome {
            Outcome::NotOpened(error) => {
                if at_once {
                    process.failed(generation, error.to_string(), Retry::AtOnce);
                    // It may have been gone before that was said, and the next one be waiting.
                    process.demand();
                } else {
                    process.failed(generation, error.to_string(), Retry::BackOff);
                    child.down();
                }
            }
            Outcome::Ended(Ended::Broken(why)) => process.failed(generation, why, Retry::BackOff),
            Outcome::Ended(Ended::Exited) => {}
        }
    }
}

/// Resolves when the flag is up, or when nobody is left to raise it.
async fn raised(mut flag: watch::Receiver<bool>) {
    let _ = flag.wait_for(|flag| *flag).await;
}

fn announce(name: &str, opened: &Opened) {
    tracing::info!(name, server = opened.server(), protocol = opened.version, "the server is ready");
}
