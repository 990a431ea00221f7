//! Processes on one side, the bridge on the other: each is handed only what it needs of the other.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Serving;
use super::health::Health;
use super::pool::Pool;
use crate::bridge::auth::Admission;
use crate::bridge::endpoint::{Endpoint, Keys, Settings};
use crate::bridge::listener::Tcp;
use crate::bridge::origin::Guard;
use crate::bridge::router::{Door, Endpoints, router};
use crate::config::limits::Limits;
use crate::error::Exit;
use crate::supervisor::{Spec, State, Supervisor};

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
    /// Its own bounds, instead of those of all.
    pub limits: Option<Limits>,
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
    pool: Arc<Pool>,
    endpoint: Arc<Endpoint>,
    vital: Option<Arc<OnceLock<String>>>,
    _expiry: Task,
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
            let endpoint =
                Endpoint::new(server.endpoint, keys, &limits_of(server.limits, server.request_timeout, limits));
            endpoints.put(Arc::clone(&endpoint));
            let pool = Pool::new(supervisor, server.process);
            endpoint.connect(Arc::clone(&pool) as _);
            let expiry = Task(tokio::spawn(Arc::clone(&endpoint).expire_sessions()));
            Running { pool, endpoint, vital: server.vital, _expiry: expiry }
        });
        let servers: Vec<Running> = servers.collect();
        let (stop, stopped) = watch::channel(false);
        let (listening, is_listening) = watch::channel(local.is_some());
        if let Some(Local { tcp, guard, admission, broken }) = local {
            let pools = servers.iter().map(|server| Arc::clone(&server.pool)).collect();
            let health = Health { guard: guard.clone(), admission: admission.clone(), pools, broken };
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
fn limits_of(own: Option<Limits>, request_timeout: Option<Duration>, limits: &Arc<Limits>) -> Arc<Limits> {
    let limits = own.map_or_else(|| Arc::clone(limits), Arc::new);
    let Some(request_timeout) = request_timeout else { return limits };
    // Whoever grants a silent call two hours does not mean one of them.
    let request_timeout_in_all = limits.request_timeout_in_all.max(request_timeout);
    Arc::new(Limits { request_timeout, request_timeout_in_all, ..Limits::clone(&limits) })
}

impl Serving for Service {
    fn reload(&self) {
        tracing::warn!("this version reads its configuration at the start only: start it again instead");
    }

    fn stop_accepting(&self) {
        self.stop.send_replace(true);
        for server in &self.servers {
            server.endpoint.end_streams();
            server.pool.stop_idle();
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
            // One that clients do not share is not started before the first of them comes.
            let Some(first) = server.pool.members().into_iter().next() else { continue };
            let mut status = first.process.watch();
            if let Ok(status) = status.wait_for(|status| status.state == State::Failed).await {
                let _ = told.set(status.last_error.clone().unwrap_or_default());
                return Exit::Failed;
            }
        }
        std::future::pending().await
    }
}
