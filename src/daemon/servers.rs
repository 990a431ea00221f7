//! The servers that run. While ferry runs they come, go and are replaced one by one, and nobody else notices.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::assemble::{Server, attend, follow};
use super::last_words;
use super::variables::Variables;
use crate::bridge::endpoint::{Endpoint, Keys};
use crate::bridge::router::Endpoints;
use crate::bridge::upstream::Upstream;
use crate::config::limits::Limits;
use crate::supervisor::{Process, Retry, Spec, Start, State, Stopped, Supervisor};

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
    pub(super) process: Process,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) vital: Option<Arc<OnceLock<String>>>,
    pub(super) variables: Option<Arc<Variables>>,
    way: Arc<Way>,
    eager: bool,
    _tasks: [Task; 4],
}

/// A task that ends with its owner.
pub(super) struct Task(pub(super) JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The bridge's way to a process. It is closed while the process's predecessor ends: two of a kind may fight over a
/// file or a port.
struct Way {
    process: Process,
    open: AtomicBool,
    wanted: AtomicBool,
}

impl Way {
    fn open(&self, demand: bool) {
        self.open.store(true, Ordering::SeqCst);
        if self.wanted.swap(false, Ordering::SeqCst) || demand {
            self.process.demand();
        }
    }
}

impl Upstream for Way {
    fn demand(&self) {
        if self.open.load(Ordering::SeqCst) {
            return self.process.demand();
        }
        self.wanted.store(true, Ordering::SeqCst);
        // It may have been opened meanwhile, by somebody who saw no wish.
        if self.open.load(Ordering::SeqCst) && self.wanted.swap(false, Ordering::SeqCst) {
            self.process.demand();
        }
    }

    fn restart(&self, generation: u64, reason: &str) {
        self.process.failed(generation, reason, Retry::BackOff);
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
                running.way.open(running.eager);
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
            next.way.open(next.eager);
        }
    }

    fn start(&self, server: Server, limits: &Arc<Limits>) -> Arc<Running> {
        let Server { process: mut spec, endpoint, vital, request_timeout, variables } = server;
        let endpoint = Endpoint::new(endpoint, &self.keys, &limits_of(request_timeout, limits));
        let eager = spec.start == Start::Eager;
        // When the way is opened.
        spec.start = Start::OnDemand;
        let (process, endpoint, way, tasks) = self.connect(spec, endpoint);
        Arc::new(Running { process, endpoint, vital, variables, way, eager, _tasks: tasks.map(Task) })
    }

    fn connect(
        &self,
        mut spec: Spec,
        endpoint: Arc<Endpoint>,
    ) -> (Process, Arc<Endpoint>, Arc<Way>, [JoinHandle<()>; 4]) {
        let (lines, unread) = mpsc::channel(last_words::UNREAD);
        spec.stderr.lines = Some(lines);
        let (process, incarnations) = self.supervisor.add(spec);
        let way = Way { process: process.clone(), open: AtomicBool::new(false), wanted: AtomicBool::new(false) };
        let way = Arc::new(way);
        let child = endpoint.child();
        child.connect(Arc::clone(&way) as _);
        let tasks = [
            tokio::spawn(follow(process.clone(), Arc::clone(child))),
            tokio::spawn(attend(process.clone(), incarnations, Arc::clone(child))),
            tokio::spawn(Arc::clone(&endpoint).expire_sessions()),
            tokio::spawn(last_words::show(process.clone(), unread)),
        ];
        (process, endpoint, way, tasks)
    }

    /// Nothing new from now on. Those that have nothing to do are told to end.
    pub(super) fn close(&self) {
        self.fleet().closed = true;
        for running in self.all() {
            running.endpoint.end_streams();
            if running.endpoint.in_flight() == 0 {
                drop(running.process.stop());
            }
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
fn limits_of(request_timeout: Option<Duration>, limits: &Arc<Limits>) -> Arc<Limits> {
    let Some(request_timeout) = request_timeout else { return Arc::clone(limits) };
    // Whoever grants a silent call two hours does not mean one of them.
    let request_timeout_in_all = limits.request_timeout_in_all.max(request_timeout);
    Arc::new(Limits { request_timeout, request_timeout_in_all, ..Limits::clone(limits) })
}

impl Running {
    pub(super) fn name(&self) -> &str {
        self.process.name()
    }

    /// Starts it, if there is nothing against it.
    pub(super) fn demand(&self) {
        self.way.demand();
    }

    /// Where its process is in its life. One that is to start and waits for its predecessor's end is about to start.
    pub(super) fn state(&self) -> State {
        match self.process.watch().borrow().state {
            State::Resting if self.eager && !self.way.open.load(Ordering::SeqCst) => State::Starting,
            state => state,
        }
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
        let _ = self.process.stop().await;
    }

    /// Ends its process, whatever it has in flight first, and starts another. Its sessions go on.
    pub(super) async fn restart(&self, drain: Duration) -> Stopped {
        self.idle(drain).await;
        self.process.restart().await
    }

    /// Waits until it is known what came of its start, but no longer than `limit`.
    pub(super) async fn settled(&self, limit: Duration) {
        let mut status = self.process.watch();
        let settled = status.wait_for(|status| {
            matches!(status.state, State::Ready | State::BackingOff | State::Failed | State::Gone)
                || (status.state == State::Resting && !self.eager && self.way.open.load(Ordering::SeqCst))
        });
        let _ = timeout_at(Instant::now() + limit, settled).await;
    }
}
