//! The servers that run. While ferry runs they come, go and are replaced one by one, and nobody else notices.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::assemble::Server;
use super::pool::Pool;
use super::variables::Variables;
use crate::bridge::endpoint::{Endpoint, Keys};
use crate::bridge::router::Endpoints;
use crate::config::limits::Limits;
use crate::supervisor::{State, Stopped, Supervisor};

/// How often to look whether anything is still in flight.
pub(super) const GLANCE: Duration = Duration::from_millis(20);

/// All servers of this ferry.
pub(super) struct Servers {
    supervisor: Supervisor,
    endpoints: Arc<Endpoints>,
    keys: Keys,
    fleet: Mutex<Fleet>,
}

#[derive(Default)]
struct Fleet {
    serving: Vec<Arc<Running>>,
    /// No request finds these any more; they finish what they have begun.
    leaving: Vec<Arc<Running>>,
    broken: Vec<Broken>,
    closed: bool,
}

/// A server that cannot even be started.
#[derive(Debug, Clone)]
pub struct Broken {
    /// Its name.
    pub name: String,
    /// Its path, if it has one.
    pub path: Option<String>,
    /// Why.
    pub why: String,
}

/// ferry is about to stop: nothing is started any more.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("ferry is stopping")]
pub struct Closed;

/// One server that runs.
pub(super) struct Running {
    pub(super) pool: Arc<Pool>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) vital: Option<Arc<OnceLock<String>>>,
    pub(super) variables: Option<Arc<Variables>>,
    _expiry: Task,
}

/// A task that ends with its owner.
pub(super) struct Task(pub(super) JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Servers {
    pub(super) fn new(supervisor: &Supervisor, endpoints: Arc<Endpoints>, keys: Keys) -> Arc<Self> {
        Arc::new(Self { supervisor: supervisor.clone(), endpoints, keys, fleet: Mutex::default() })
    }

    pub(super) fn endpoints(&self) -> &Arc<Endpoints> {
        &self.endpoints
    }

    /// Those that are served, in the order of the configuration.
    pub(super) fn serving(&self) -> Vec<Arc<Running>> {
        self.fleet().serving.clone()
    }

    pub(super) fn broken(&self) -> Vec<Broken> {
        self.fleet().broken.clone()
    }

    pub(super) fn find(&self, name: &str) -> Option<Arc<Running>> {
        self.fleet().serving.iter().find(|running| running.name() == name).cloned()
    }

    /// From now on there are just these: those of `kept` as they are, `new` started, all others ended, whatever they have
    /// in flight first, for as long as `drain` lasts. `order` is that of the names.
    ///
    /// In one step as far as requests can see. One that comes for a server that is replaced waits for the new one.
    pub(super) fn become_these(
        self: &Arc<Self>,
        kept: &BTreeSet<String>,
        new: Vec<Server>,
        broken: Vec<Broken>,
        order: &[String],
        limits: &Arc<Limits>,
    ) -> Result<Vec<Arc<Running>>, Closed> {
        let mut fleet = self.fleet();
        if fleet.closed {
            return Err(Closed);
        }
        let (mut serving, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut fleet.serving).into_iter().partition(|running| kept.contains(running.name()));
        let arrived: Vec<Arc<Running>> = new.into_iter().map(|server| self.start(server, limits)).collect();
        serving.extend(arrived.iter().cloned());
        serving.sort_by_key(|running| order.iter().position(|name| name == running.name()));
        self.endpoints.replace_all(serving.iter().map(|running| Arc::clone(&running.endpoint)));
        fleet.serving = serving;
        fleet.broken = broken;
        fleet.leaving.extend(left.iter().cloned());
        for running in &arrived {
            // One that left before may not be gone yet.
            if !fleet.leaving.iter().any(|old| old.name() == running.name()) {
                running.pool.let_start();
            }
        }
        drop(fleet);
        for old in left {
            let servers = Arc::clone(self);
            let drain = limits.drain;
            tokio::spawn(async move {
                old.leave(drain).await;
                servers.has_left(&old);
            });
        }
        Ok(arrived)
    }

    /// Lets go of one that has ended; its successor may start.
    fn has_left(&self, old: &Arc<Running>) {
        let mut fleet = self.fleet();
        fleet.leaving.retain(|running| !Arc::ptr_eq(running, old));
        let still = |name: &str| fleet.leaving.iter().any(|running| running.name() == name);
        if let Some(next) = fleet.serving.iter().find(|running| running.name() == old.name() && !still(old.name())) {
            next.pool.let_start();
        }
    }

    fn start(&self, server: Server, limits: &Arc<Limits>) -> Arc<Running> {
        let Server { process, endpoint, vital, limits: own, request_timeout, variables } = server;
        let endpoint = Endpoint::new(endpoint, &self.keys, &limits_of(own, request_timeout, limits));
        let pool = Pool::new(&self.supervisor, process);
        endpoint.connect(Arc::clone(&pool) as _);
        let expiry = Task(tokio::spawn(Arc::clone(&endpoint).expire_sessions()));
        Arc::new(Running { pool, endpoint, vital, variables, _expiry: expiry })
    }

    /// Nothing new from now on. Those that have nothing to do are told to end.
    pub(super) fn close(&self) {
        self.fleet().closed = true;
        for running in self.all() {
            running.endpoint.end_streams();
            running.pool.stop_idle();
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.all().iter().map(|running| running.endpoint.in_flight()).sum()
    }

    fn all(&self) -> Vec<Arc<Running>> {
        let fleet = self.fleet();
        fleet.serving.iter().chain(&fleet.leaving).cloned().collect()
    }

    fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
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

impl Running {
    pub(super) fn name(&self) -> &str {
        self.pool.name()
    }

    /// Starts it, if there is nothing against it.
    pub(super) fn demand(&self) {
        self.pool.demand();
    }

    /// Where its processes are in their lives, all together.
    pub(super) fn state(&self) -> State {
        self.pool.state()
    }

    /// What is wrong with it, if anything is.
    pub(super) fn last_error(&self) -> Option<String> {
        self.pool.statuses().into_iter().find_map(|status| status.last_error)
    }

    /// Waits until nothing is in flight, but no longer than `drain`.
    async fn idle(&self, drain: Duration) {
        let until = Instant::now() + drain;
        while self.endpoint.in_flight() > 0 && Instant::now() < until {
            sleep(GLANCE).await;
        }
    }

    async fn leave(&self, drain: Duration) {
        self.endpoint.end_streams();
        self.idle(drain).await;
        self.pool.stop().await;
    }

    /// Ends its process, whatever it has in flight first, and starts another. Its sessions go on.
    pub(super) async fn restart(&self, drain: Duration) -> Stopped {
        self.idle(drain).await;
        self.pool.restart().await
    }

    /// Waits until it is known what came of its start, but no longer than `limit`.
    pub(super) async fn settled(&self, limit: Duration) {
        let Some(first) = self.pool.first() else { return };
        let mut status = first.watch();
        let settled = status.wait_for(|status| {
            matches!(status.state, State::Ready | State::BackingOff | State::Failed | State::Gone)
                || (status.state == State::Resting && !self.pool.eager && self.pool.may_start())
        });
        let _ = timeout_at(Instant::now() + limit, settled).await;
    }
}
