//! A changed configuration, taken over by a ferry that runs: restarting no more than it must, or nothing at all.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::configured::{self, LoadError, reachable};
use super::control::Socket;
use super::health::{self, Word};
use super::servers::{Closed, Running, Servers, together};
use crate::bridge::origin::Guard;
use crate::config::load::Config;
use crate::config::reload::{self, Changed, Plan};
use crate::error::{Advise, Exit};
use crate::telemetry::logging;
use crate::telemetry::rotation::LogWriter;

/// How long a report waits for servers that have just been started.
const SETTLE: Duration = Duration::from_secs(10);

/// What a reload has done.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reloaded {
    /// The file.
    pub config: PathBuf,
    /// Servers that are new.
    pub started: Vec<Arrival>,
    /// Servers that had to be restarted.
    pub restarted: Vec<Arrival>,
    /// Servers that are no more.
    pub stopped: Vec<String>,
    /// Servers that nothing happened to.
    pub unchanged: Vec<String>,
    /// Keys that count from now on, without a restart of anything.
    pub live: Vec<String>,
    /// Keys that count when ferry is started again.
    pub waiting: Vec<String>,
}

/// A server that was started.
#[derive(Debug, Serialize, Deserialize)]
pub struct Arrival {
    /// Its name.
    pub name: String,
    /// Where it is served.
    pub url: String,
    /// Which keys were the reason, if it ran before.
    pub keys: Vec<String>,
    /// One word for how it is.
    pub state: String,
    /// Whether it is well.
    pub healthy: bool,
    /// What is wrong.
    pub error: Option<String>,
}

impl Arrival {
    pub(super) fn of(running: &Running, local: Option<&str>, keys: Vec<String>) -> Self {
        let states = running.states();
        let healthy = health::of_server(&states) == Word::Ok;
        Self {
            name: running.name().to_owned(),
            url: format!("{}{}", local.unwrap_or_default(), running.endpoint.path()),
            keys,
            state: together(&states).word().to_owned(),
            healthy,
            error: running.error().filter(|_| !healthy),
        }
    }
}

/// Why everything is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file is wrong, or cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It is too late.
    #[error(transparent)]
    Closed(#[from] Closed),
}

impl Advise for ReloadError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Load(error) => error.hint(),
            Self::Closed(_) => None,
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Load(error) => error.exit(),
            Self::Closed(_) => Exit::Failed,
        }
    }
}

/// The configuration that holds, and what it holds for.
pub(super) struct Reloader {
    path: PathBuf,
    /// What ferry was started with.
    start: Arc<Config>,
    /// What holds since the last reload.
    now: RwLock<Arc<Config>>,
    /// Held by the one reload that is being made.
    turn: Mutex<()>,
    servers: Arc<Servers>,
    guard: Option<(Guard, IpAddr)>,
    /// Where clients of this machine reach it.
    local: Option<String>,
    logs: LogWriter,
    log_dir: PathBuf,
}

/// Where the configuration comes from, and what serves it beside the servers themselves.
pub struct Source {
    /// What ferry was started with.
    pub config: Arc<Config>,
    /// What writes the servers' logs.
    pub logs: LogWriter,
    /// Where to.
    pub log_dir: PathBuf,
    /// By which it is asked to reload, among other things.
    pub socket: Socket,
}

impl Reloader {
    pub(super) fn new(
        config: Arc<Config>,
        logs: LogWriter,
        log_dir: PathBuf,
        servers: Arc<Servers>,
        local: Option<(Guard, SocketAddr)>,
    ) -> Self {
        Self {
            path: std::path::absolute(&config.path).unwrap_or_else(|_| config.path.clone()),
            now: RwLock::new(Arc::clone(&config)),
            turn: Mutex::default(),
            start: config,
            servers,
            local: local.as_ref().map(|(_, address)| format!("http://{}", reachable(*address))),
            guard: local.map(|(guard, address)| (guard, address.ip())),
            logs,
            log_dir,
        }
    }

    pub(super) fn local(&self) -> Option<&str> {
        self.local.as_deref()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn log_dir(&self) -> &Path {
        &self.log_dir
    }

    /// How long a server that is to end has for what it has in flight.
    pub(super) fn drain(&self) -> Duration {
        self.now().bridge.limits.drain
    }

    /// What holds now.
    fn now(&self) -> Arc<Config> {
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The keys that wait until ferry is started again.
    pub(super) fn waiting(&self) -> Vec<String> {
        let now = self.now();
        reload::plan(&self.start, &now, &now).waiting
    }

    /// Reads the file and makes it hold; tells what came of it.
    pub(super) async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let outcome = self.apply().await;
        let (plan, arrived) = match outcome {
            Ok(done) => done,
            Err(error) => {
                tracing::error!("the configuration was not reloaded, and nothing has changed: {error}");
                return Err(error);
            }
        };
        let restarted: Vec<&str> = plan.changed.iter().map(|changed| changed.name.as_str()).collect();
        tracing::info!(
            started = ?plan.added, ?restarted, stopped = ?plan.removed, live = ?plan.live, waiting = ?plan.waiting,
            "reloaded the configuration"
        );
        let limit = tokio::time::Instant::now() + SETTLE;
        for running in &arrived {
            running.settled(limit.saturating_duration_since(tokio::time::Instant::now())).await;
        }
        let mut report = Reloaded {
            config: self.path.clone(),
            started: Vec::new(),
            restarted: Vec::new(),
            stopped: plan.removed,
            unchanged: plan.unchanged,
            live: plan.live,
            waiting: plan.waiting,
        };
        let local = self.local.as_deref();
        for running in arrived {
            match plan.changed.iter().find(|changed| changed.name == running.name()) {
                Some(changed) => report.restarted.push(Arrival::of(&running, local, changed.keys.clone())),
                None => report.started.push(Arrival::of(&running, local, Vec::new())),
            }
        }
        Ok(report)
    }

    async fn apply(&self) -> Result<(Plan, Vec<Arc<Running>>), ReloadError> {
        let _turn = self.turn.lock().await;
        let now = self.now();
        let path = self.path.clone();
        // On a thread that may wait for a disk.
        let loaded = spawn_blocking(move || configured::load_whole(&path)).await;
        let new = loaded.map_err(|_| Closed)??;
        let guard = match &self.guard {
            Some((guard, address)) => Some((guard, configured::guard_at(&new, *address).map_err(LoadError::from)?)),
            None => None,
        };
        let mut plan = reload::plan(&self.start, &now, &new);
        self.notice_stale(&mut plan).await;
        // From here to the end nothing waits: whoever asked may be gone, and half a reload is none.
        let kept: BTreeSet<String> = plan.unchanged.iter().cloned().collect();
        let log = |name: &str| self.logs.file(self.log_dir.join(format!("{name}.log")));
        let mut servers = configured::servers(&new, log);
        let order: Vec<String> = servers.iter().map(|server| server.process.name.clone()).collect();
        servers.retain(|server| !kept.contains(&server.process.name));
        let limits = Arc::new(new.bridge.limits.clone());
        let arrived = self.servers.become_these(&kept, servers, Vec::new(), &order, &limits)?;
        if let Some((guard, new)) = guard {
            guard.become_like(&new);
        }
        if now.logging.level != new.logging.level {
            logging::set_level(new.logging.level.as_ref().map(crate::config::values::LogFilter::as_str));
        }
        self.wake(&now, &new);
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok((plan, arrived))
    }

    /// Servers whose block says the same as before, while the files of variables that it names say something else.
    async fn notice_stale(&self, plan: &mut Plan) {
        for running in self.servers.serving() {
            let Some(at) = plan.unchanged.iter().position(|name| name == running.name()) else { continue };
            if let Some(variables) = &running.variables
                && variables.is_stale().await
            {
                let name = plan.unchanged.remove(at);
                plan.changed.push(Changed { name, keys: vec!["the values of its variables".to_owned()] });
            }
        }
    }

    /// Whoever reloads may have repaired what kept a server from starting, or want one to be there from now on.
    fn wake(&self, now: &Config, new: &Config) {
        let is_eager = |config: &Config, name: &str| {
            config.servers.iter().any(|server| server.mcp.name.as_str() == name && server.mcp.eager)
        };
        for running in self.servers.serving() {
            let name = running.name();
            running.pool.wake(is_eager(new, name) && !is_eager(now, name));
        }
    }
}
