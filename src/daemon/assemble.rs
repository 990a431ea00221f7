//! Processes on one side, the bridge on the other: each is handed only what it needs of the other.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::health::Health;
use super::{Serving, last_words};
use crate::bridge::auth::Admission;
use crate::bridge::child::{Child, Outcome, Pipes};
use crate::bridge::endpoint::{Endpoint, Keys, Settings};
use crate::bridge::listener::Tcp;
use crate::bridge::origin::Guard;
use crate::bridge::router::{Door, Endpoints, router};
use crate::bridge::upstream::Upstream;
use crate::config::limits::Limits;
use crate::error::Exit;
use crate::mcp::connection::Ended;
use crate::mcp::members::Members;
use crate::mcp::probe::Opened;
use crate::supervisor::{Incarnation, Process, Retry, Spec, State, Supervisor};

/// How often to look whether anything is still in flight while ferry stops.
const GLANCE: Duration = Duration::from_millis(20);

/// The local listener: where it listens, and whom it lets in.
pub struct Local {
    /// The bound socket.
    pub tcp: Tcp,
    /// Which pages may talk to it.
    pub guard: Guard,
    /// What it asks of a request.
    pub admission: Admission,
    /// The names of those servers that cannot even be started, for `/healthz`.
    pub broken: Vec<String>,
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
}

/// Everything that is being served.
pub struct Service {
    servers: Vec<Running>,
    stop: watch::Sender<bool>,
    listening: watch::Receiver<bool>,
}

struct Running {
    process: Process,
    endpoint: Arc<Endpoint>,
    vital: Option<Arc<OnceLock<String>>>,
    _tasks: [Task; 4],
}

/// A task that ends with its owner.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Service {
    /// Starts the servers and opens the listener, if there is to be one.
    pub fn begin(
        supervisor: &Supervisor,
        servers: Vec<Server>,
        local: Option<Local>,
        keys: &Keys,
        limits: &Arc<Limits>,
    ) -> Self {
        let endpoints = Endpoints::new(Arc::clone(limits));
        let servers = servers.into_iter().map(|server| {
            let endpoint = Endpoint::new(server.endpoint, keys, &limits_of(server.request_timeout, limits));
            endpoints.put(Arc::clone(&endpoint));
            let mut spec = server.process;
            let (lines, unread) = mpsc::channel(last_words::UNREAD);
            spec.stderr.lines = Some(lines);
            let (process, incarnations) = supervisor.add(spec);
            endpoint.child().connect(Arc::new(Supervised(process.clone())));
            let child = endpoint.child();
            let tasks = [
                tokio::spawn(follow(process.clone(), Arc::clone(child))),
                tokio::spawn(attend(process.clone(), incarnations, Arc::clone(child))),
                tokio::spawn(Arc::clone(&endpoint).expire_sessions()),
                tokio::spawn(last_words::show(process.clone(), unread)),
            ];
            Running { process, endpoint, vital: server.vital, _tasks: tasks.map(Task) }
        });
        let servers: Vec<Running> = servers.collect();
        let (stop, stopped) = watch::channel(false);
        let (listening, is_listening) = watch::channel(local.is_some());
        if let Some(Local { tcp, guard, admission, broken }) = local {
            let processes = servers.iter().map(|server| server.process.clone()).collect();
            let health = Health { guard: guard.clone(), admission: admission.clone(), processes, broken };
            let router = router(Door { guard, admission, endpoints }).merge(health.router());
            let serving = tcp.serve(router, Arc::clone(limits), stopped);
            tokio::spawn(async move {
                serving.await;
                listening.send_replace(false);
            });
        }
        Self { servers, stop, listening: is_listening }
    }
}

/// The bounds of one server.
fn limits_of(request_timeout: Option<Duration>, limits: &Arc<Limits>) -> Arc<Limits> {
    let Some(request_timeout) = request_timeout else { return Arc::clone(limits) };
    // Whoever grants a silent call two hours does not mean one of them.
    let request_timeout_in_all = limits.request_timeout_in_all.max(request_timeout);
    Arc::new(Limits { request_timeout, request_timeout_in_all, ..Limits::clone(limits) })
}

impl Serving for Service {
    fn reload(&self) {
        tracing::warn!("this version reads its configuration at the start only: start it again instead");
    }

    fn stop_accepting(&self) {
        self.stop.send_replace(true);
        for server in &self.servers {
            server.endpoint.end_streams();
            if server.endpoint.in_flight() == 0 {
                drop(server.process.stop());
            }
        }
    }

    async fn drained(&self) {
        while self.servers.iter().any(|server| server.endpoint.in_flight() > 0) {
            tokio::time::sleep(GLANCE).await;
        }
    }

    async fn closed(&self) {
        let _ = self.listening.clone().wait_for(|listening| !listening).await;
    }

    async fn failed(&self) -> Exit {
        for server in &self.servers {
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

/// The bridge's way to a process.
struct Supervised(Process);

impl Upstream for Supervised {
    fn demand(&self) {
        self.0.demand();
    }

    fn restart(&self, generation: u64, reason: &str) {
        self.0.failed(generation, reason, Retry::BackOff);
    }
}

/// Tells the bridge what becomes of a process, so that nobody waits for one that is not coming.
async fn follow(process: Process, child: Arc<Child>) {
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
async fn attend(process: Process, mut incarnations: mpsc::Receiver<Incarnation>, child: Arc<Child>) {
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
    let result = std::str::from_utf8(&opened.result).ok().and_then(|text| Members::read(text).ok()).unwrap_or_default();
    let meta = result.object("_meta");
    let info = result
        .object("serverInfo")
        .or_else(|| meta.and_then(|meta| meta.object("io.modelcontextprotocol/serverInfo")))
        .unwrap_or_default();
    let text = |name| info.string(name).unwrap_or_default().into_owned();
    tracing::info!(
        name,
        server = format!("{} {}", text("name"), text("version")).trim(),
        protocol = opened.version,
        "the server is ready"
    );
}
