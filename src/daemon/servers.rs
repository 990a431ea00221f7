//! The servers that run. While ferry runs they come, go and are replaced one by one, and nobody else notices.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::assemble::Server;
use super::pool::{Member, Pool};
use super::variables::Variables;
use crate::bridge::endpoint::{Endpoint, Keys};
use crate::bridge::router::Endpoints;
use crate::config::limits::Limits;
use crate::supervisor::{State, Supervisor};
use crate::telemetry::metrics::Meter;

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
        // A counter goes on where a server is only replaced.
        let meter = |name: &str| {
            let old = left.iter().find(|old| old.name() == name);
            old.map_or_else(Arc::default, |old| Arc::clone(old.endpoint.meter()))
        };
        let new = new.into_iter().map(|server| (meter(&server.process.name), server));
        let arrived: Vec<Arc<Running>> = new.map(|(meter, server)| self.start(server, meter, limits)).collect();
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

    fn start(&self, server: Server, meter: Arc<Meter>, limits: &Arc<Limits>) -> Arc<Running> {
        let Server { process, endpoint, vital, limits: own, request_timeout, variables } = server;
        let limits = limits_of(own, request_timeout, limits);
        let endpoint = Endpoint::counted_by(meter, endpoint, &self.keys, &limits);
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

    /// Where its processes are in their lives.
    pub(super) fn states(&self) -> Vec<State> {
        self.pool.members().iter().map(|member| self.state_of(member)).collect()
    }

    /// Where one of its processes is in its life. One that is to start and waits for its predecessor's end is about to.
    pub(super) fn state_of(&self, member: &Member) -> State {
        match member.process.watch().borrow().state {
            State::Resting if self.is_due(member) && !self.pool.may_start() => State::Starting,
            state => state,
        }
    }

    /// Whether it is there before anybody asks for it.
    fn is_due(&self, member: &Member) -> bool {
        self.pool.is_eager() && member.child.upgrade().is_some_and(|child| !child.is_private())
    }

    /// What was wrong with it last, as far as that still counts.
    pub(super) fn error(&self) -> Option<String> {
        let mut ill = self.pool.members().into_iter().filter(|member| !is_well(self.state_of(member)));
        ill.find_map(|member| {
            let known = member.process.watch().borrow().clone();
            let error = known.last_error?;
            match known.last_exit.filter(|_| known.pid.is_none()) {
                Some(exit) if !error.contains(&exit.to_string()) => Some(format!("{error}; it ended with {exit}")),
                _ => Some(error),
            }
        })
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
        self.pool.end().await;
    }

    /// Ends its processes, whatever they have in flight first, and starts others. Its sessions go on.
    pub(super) async fn restart(&self, drain: Duration) {
        self.idle(drain).await;
        self.pool.restart().await;
    }

    /// Waits until it is known what came of its start, but no longer than `limit`.
    pub(super) async fn settled(&self, limit: Duration) {
        let until = Instant::now() + limit;
        while !self.pool.may_start() && Instant::now() < until {
            sleep(GLANCE).await;
        }
        for member in self.pool.members() {
            let mut status = member.process.watch();
            let rests = !self.is_due(&member);
            let is_settled = |state| {
                matches!(state, State::Ready | State::BackingOff | State::Failed | State::Gone)
                    || (state == State::Resting && rests)
            };
            let _ = timeout_at(until, status.wait_for(|status| is_settled(status.state))).await;
        }
    }
}

/// One that rests until somebody asks for it is well.
pub(super) fn is_well(state: State) -> bool {
    matches!(state, State::Ready | State::Resting)
}

/// One state for several processes: the best of them, since clients that do not share one know of their own only.
pub(super) fn together(states: &[State]) -> State {
    let rank = |state: &State| match state {
        State::Ready => 0,
        State::BackingOff | State::Failed | State::Gone => 2,
        State::Resting => 3,
        _ => 1,
    };
    states.iter().copied().min_by_key(rank).unwrap_or(State::Resting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::Then;

    #[test]
    fn several_processes_are_as_well_as_the_best_of_them() {
        use State::{BackingOff, Closing, Failed, Ready, Resting, Starting};
        for (states, whole) in [
            (&[][..], Resting),
            (&[Failed], Failed),
            (&[Resting, Failed, Ready], Ready),
            (&[Resting, BackingOff, Starting], Starting),
            (&[Resting, BackingOff], BackingOff),
            (&[Resting, Closing(Then::Rest)], Closing(Then::Rest)),
        ] {
            assert_eq!(together(states), whole, "{states:?}");
        }
    }
}
