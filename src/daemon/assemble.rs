//! Processes on one side, the bridge on the other: each is handed only what it needs of the other.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use super::Serving;
use super::control::{Commands, Control};
use super::health::Seen;
use super::reload::{Reloader, Source};
pub use super::servers::Broken;
use super::servers::{GLANCE, Servers};
use super::tunnel::{Plan, Way};
use super::variables::Variables;
use crate::bridge::auth::Admission;
use crate::bridge::endpoint::{Keys, Settings};
use crate::bridge::listener::Tcp;
use crate::bridge::origin::Guard;
use crate::bridge::router::{Door, Endpoints, router};
use crate::config::limits::Limits;
use crate::error::Exit;
use crate::supervisor::{Spec, State, Supervisor};

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
    /// Its own bounds, instead of those of all.
    pub limits: Option<Limits>,
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
    /// The tunnel, if there is to be one.
    pub tunnel: Plan,
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
    _control: Option<Control>,
    _tunnel: Arc<Way>,
}

impl Service {
    /// Starts the servers and opens the listener, if there is to be one.
    pub fn begin(supervisor: &Supervisor, beginning: Beginning) -> Self {
        let Beginning { servers: new, broken, local, tunnel, keys, limits, source } = beginning;
        let servers = Servers::new(supervisor, Endpoints::new(Arc::clone(&limits)), keys);
        let order: Vec<String> = new.iter().map(|server| server.process.name.clone()).collect();
        let started = servers.become_these(&BTreeSet::new(), new, broken, &order, &limits);
        debug_assert!(started.is_ok(), "nobody has closed it yet");
        let tunnel = Arc::new(Way::begin(tunnel, supervisor));
        let (stop, stopped) = watch::channel(false);
        let (listening, is_listening) = watch::channel(local.is_some());
        let guard = local.as_ref().map(|local| (local.guard.clone(), local.tcp.address()));
        let (reloader, control) = match source {
            Some(Source { config, logs, log_dir, socket }) => {
                let reloader = Arc::new(Reloader::new(config, logs, log_dir, Arc::clone(&servers), guard));
                let commands = Commands::new(Arc::clone(&servers), Arc::clone(&tunnel), Arc::clone(&reloader));
                (Some(reloader), Some(socket.serve(commands)))
            }
            None => (None, None),
        };
        if let Some(Local { tcp, guard, admission }) = local {
            let seen = Seen {
                guard: guard.clone(),
                admission: admission.clone(),
                servers: Arc::clone(&servers),
                tunnel: Arc::clone(&tunnel),
            };
            let endpoints = Arc::clone(servers.endpoints());
            let router = router(Door { guard, admission, endpoints }).merge(seen.router());
            let serving = tcp.serve(router, limits, stopped);
            tokio::spawn(async move {
                serving.await;
                listening.send_replace(false);
            });
        }
        Self { servers, stop, listening: is_listening, reloader, _control: control, _tunnel: tunnel }
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
