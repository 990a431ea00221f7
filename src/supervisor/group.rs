//! All processes together: started here, ended here within one budget.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use crate::telemetry::rotation::LogWriter;
use crate::{paths, random};

use super::leftovers::{self, Found, Ledger};
use super::lock::Lock;
use super::process::spawn::Birth;
use super::process::{Incarnation, Process, Role, Spec, TERM_GRACE, task};
use super::scratch::ScratchDir;
use super::steward::{Adopted, Duties, Steward};
use super::{Program, SupervisorError, helper, platform};

/// How long all of ferry's end may take, unless the owner says otherwise: `docker stop` gives 10 s.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(9);

/// What is kept of the budget for ending processes after the drain.
const AFTER_DRAIN: Duration = Duration::from_secs(5);
/// So long before the end SIGKILL goes to whatever is left.
const BEFORE_END: Duration = Duration::from_secs(1);
/// A child whose stdin was just closed has this long to leave before it gets the stop signal, while there is budget:
/// most servers do, and a Ctrl-C should not take seconds for those that do not.
const LEAVE_BY_ITSELF: Duration = Duration::from_secs(1);
/// How often to look for orphans that have come to ferry meanwhile.
const GLANCE: Duration = Duration::from_millis(50);

/// How ferry supervises.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where `lock` and `children.json` live. Made if absent.
    pub state_dir: PathBuf,
    /// Work in a directory of its own below `state_dir`, so that several may run at once. It is removed at the end.
    pub scratch: bool,
    /// What [`Supervisor::stop`] may take in all.
    pub shutdown_timeout: Duration,
    /// The logs to be complete before a scratch directory is removed.
    pub logs: Option<LogWriter>,
    /// What to execute as the guard: this very program, unless that has no such command.
    pub guard: Program,
    /// Whether children ask for the parent-death signal: wherever there is one. Without it the guard alone holds the
    /// promise, as on macOS.
    pub parent_death_signal: bool,
}

impl Settings {
    /// The usual settings.
    pub fn new(state_dir: PathBuf) -> io::Result<Self> {
        Ok(Self {
            state_dir,
            scratch: false,
            shutdown_timeout: SHUTDOWN_TIMEOUT,
            logs: None,
            guard: Program::this_one_as_guard()?,
            parent_death_signal: platform::HAS_PARENT_DEATH_SIGNAL,
        })
    }
}

/// All processes of this ferry. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Supervisor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    steward: Steward,
    /// Sent to every child, so that leftovers can be told from strangers.
    run: String,
    state_dir: PathBuf,
    scratch: bool,
    shutdown_timeout: Duration,
    logs: Option<LogWriter>,
    processes: Mutex<Vec<Process>>,
    _lock: Lock,
}

impl Supervisor {
    /// Takes the lock, ends what a killed run has left (which may take three seconds), and starts the steward and the
    /// guard. Blocks; nothing is spawned before all this is done.
    ///
    /// Once per process: the steward takes the status of every child there is.
    pub fn start(settings: Settings) -> Result<Self, SupervisorError> {
        static STARTED: AtomicBool = AtomicBool::new(false);
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(SupervisorError::AlreadyStarted);
        }
        // A refusal leaves nothing behind that would stand in the way of another try.
        Self::begin(settings).inspect_err(|_| STARTED.store(false, Ordering::SeqCst))
    }

    fn begin(settings: Settings) -> Result<Self, SupervisorError> {
        let (state_dir, lock, found) = take_directory(&settings)?;
        for Found { pid, name, .. } in found {
            warn!(%pid, name, "ended what a ferry that was killed had left");
        }
        let descriptors = raise_descriptor_limit().map_err(SupervisorError::System)?;
        platform::become_subreaper().map_err(SupervisorError::System)?;
        let run = new_run_id();
        let duties = Duties {
            ledger: Ledger::open(&state_dir, run.clone()),
            birth: Birth { parent: Pid::this(), parent_death: settings.parent_death_signal, descriptors },
            guard: settings.guard,
        };
        let steward = Steward::start(duties).map_err(SupervisorError::Guard)?;
        Ok(Self(Arc::new(Inner {
            steward,
            run,
            state_dir,
            scratch: settings.scratch,
            shutdown_timeout: settings.shutdown_timeout,
            logs: settings.logs,
            processes: Mutex::default(),
            _lock: lock,
        })))
    }

    /// Where this run's files are: the settings' directory, or the one made below it.
    pub fn state_dir(&self) -> &Path {
        &self.0.state_dir
    }

    /// Adds one process. Each successful spawn arrives on the receiver; whoever holds it does the handshake.
    ///
    /// Its task runs on the caller's runtime. Without the receiver the process has no stdin and does not last.
    pub fn add(&self, spec: Spec) -> (Process, mpsc::Receiver<Incarnation>) {
        let (process, incarnations) = task::start(spec, self.0.steward.clone(), self.0.run.clone());
        let mut processes = self.processes();
        processes.retain(|process| !process.is_gone());
        processes.push(process.clone());
        (process, incarnations)
    }

    /// Runs a short helper to its end: `cloudflared --version`, a secret's `command`. ferry has no other way to run one,
    /// since the steward alone may wait.
    pub async fn run(&self, helper: helper::Helper) -> Result<helper::Output, helper::HelperError> {
        helper::run(&self.0.steward, &self.0.run, helper).await
    }

    /// The orphans that left their group and came to ferry. Always none on macOS, where they go to launchd.
    pub async fn adopted(&self) -> Vec<Adopted> {
        self.0.steward.adopted().await
    }

    /// Hands a signal on to the groups of those servers that want it.
    pub fn forward(&self, signal: Signal) {
        for process in self.processes().iter() {
            process.forward(signal);
        }
    }

    /// Stops every group where it stands, and every deadline with it. Resolves when all stand.
    pub async fn freeze(&self) {
        let frozen: Vec<_> = self.processes().iter().map(Process::freeze).collect();
        for one in frozen {
            let _ = one.await;
        }
    }

    /// Lets every group go on.
    pub fn thaw(&self) {
        for process in self.processes().iter() {
            process.thaw();
        }
    }

    /// Begins the whole stop: from now on nothing is started, and the tunnel is told to end, so that nothing more comes
    /// in. The caller then stops accepting, calls [`Process::stop`] on whatever is idle, lets the rest finish until
    /// [`Stopping::drain_until`] at most, and calls [`Stopping::finish`].
    pub fn begin_stop(&self) -> Stopping {
        self.thaw();
        self.0.steward.spawn_no_more();
        for process in self.processes().iter().filter(|process| process.role() == Role::Tunnel) {
            drop(process.terminate()); // its own `term_grace` is what cloudflared was told
        }
        let start = Instant::now();
        Stopping { supervisor: self.clone(), start, budget: Budget::of(self.0.shutdown_timeout) }
    }

    /// The whole stop for a caller that has nothing to ask in between but whether it is `drained`.
    pub async fn stop(&self, drained: impl Future<Output = ()>) -> Ended {
        let stopping = self.begin_stop();
        let _ = timeout_at(stopping.drain_until(), drained).await;
        stopping.finish().await
    }

    /// SIGKILL to everything, at once. [`Stopping::finish`] still waits for the ends of it.
    pub fn kill_now(&self) {
        self.0.steward.kill_all();
        for process in self.processes().iter() {
            drop(process.kill());
        }
    }

    fn processes(&self) -> MutexGuard<'_, Vec<Process>> {
        self.0.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When what happens in a whole stop, from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Calls in flight have until here.
    pub drain: Duration,
    /// SIGKILL to whatever is left.
    pub kill: Duration,
    /// Nothing is waited for any longer.
    pub end: Duration,
}

impl Budget {
    /// How [`Settings::shutdown_timeout`] is divided.
    pub fn of(shutdown_timeout: Duration) -> Self {
        Self {
            drain: shutdown_timeout.saturating_sub(AFTER_DRAIN),
            // A budget of seconds at most is halved instead: half a second to leave is better than none.
            kill: shutdown_timeout.saturating_sub(BEFORE_END).max(shutdown_timeout / 2),
            end: shutdown_timeout,
        }
    }
}

/// A whole stop in progress.
#[derive(Debug)]
#[must_use = "nothing ends before `finish`"]
pub struct Stopping {
    supervisor: Supervisor,
    start: Instant,
    budget: Budget,
}

/// How a whole stop went.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Ended {
    /// Nothing is left.
    Clean,
    /// These did not end within the budget. The guard goes on with them.
    Left(Vec<String>),
}

impl Stopping {
    /// Calls in flight have until here.
    pub fn drain_until(&self) -> Instant {
        self.start + self.budget.drain
    }

    /// Ends every process: stdin closed, then the stop signal to the groups, and SIGKILL one second before the budget's
    /// end. Then the guard is told good-bye and a scratch directory removed.
    pub async fn finish(self) -> Ended {
        let supervisor = &self.supervisor;
        let steward = &supervisor.0.steward;
        let end = self.start + self.budget.end;
        // Those that were told to before go on as they are.
        for process in supervisor.processes().iter() {
            drop(process.stop());
        }
        // While a call was in flight its child was not asked to leave; it gets its second too, if there is one.
        let terminate = (Instant::now() + LEAVE_BY_ITSELF).min(self.drain_until().max(Instant::now()));
        self.gone(terminate).await;
        for process in supervisor.processes().iter() {
            drop(process.terminate());
        }
        let kill = self.start + self.budget.kill;
        self.gone_with_orphans(kill, Signal::SIGTERM).await;
        if !self.is_gone() {
            info!("the time is over for what is left: killing it");
        }
        for process in supervisor.processes().iter() {
            drop(process.kill());
        }
        self.gone_with_orphans(end, Signal::SIGKILL).await;
        let orphans = steward.adopted().await.into_iter().map(|orphan| orphan.name);
        let left: Vec<String> = self.names_of_left().into_iter().chain(orphans).collect();
        if let Some(logs) = &supervisor.0.logs {
            let logs = logs.clone();
            let _ = tokio::task::spawn_blocking(move || logs.flush(BEFORE_END)).await;
        }
        steward.good_bye().await;
        if !left.is_empty() {
            warn!(?left, "not everything has ended in time");
            return Ended::Left(left);
        }
        if supervisor.0.scratch {
            let _ = fs::remove_dir_all(&supervisor.0.state_dir);
        }
        Ended::Clean
    }

    fn names_of_left(&self) -> Vec<String> {
        let processes = self.supervisor.processes();
        processes.iter().filter(|process| !process.is_gone()).map(|process| process.name().to_owned()).collect()
    }

    fn is_gone(&self) -> bool {
        self.supervisor.processes().iter().all(Process::is_gone)
    }

    /// Waits until every process is gone.
    async fn gone(&self, deadline: Instant) {
        let processes: Vec<Process> = self.supervisor.processes().clone();
        for process in processes {
            if timeout_at(deadline, process.gone()).await.is_err() {
                return;
            }
        }
    }

    /// The same, with the orphans: their parents end only now, so they turn up one after another. Each gets SIGTERM once;
    /// SIGKILL follows after the time that every child has between the two.
    async fn gone_with_orphans(&self, deadline: Instant, mut signal: Signal) {
        let steward = &self.supervisor.0.steward;
        let patience = Instant::now() + TERM_GRACE;
        let mut asked = HashSet::new();
        loop {
            let orphans: HashSet<i32> = steward.adopted().await.into_iter().map(|orphan| orphan.pid).collect();
            if self.is_gone() && orphans.is_empty() {
                return;
            }
            if Instant::now() >= patience {
                signal = Signal::SIGKILL;
            }
            if signal == Signal::SIGKILL || !orphans.is_subset(&asked) {
                steward.signal_adopted(signal);
                steward.signal_adopted(Signal::SIGCONT);
                asked.extend(orphans);
            }
            if Instant::now() >= deadline {
                return;
            }
            sleep(GLANCE).await;
        }
    }
}

fn take_directory(settings: &Settings) -> Result<(PathBuf, Lock, Vec<Found>), SupervisorError> {
    if settings.scratch {
        let (ScratchDir { path, lock }, found) = ScratchDir::make(&settings.state_dir)?;
        return Ok((path, lock, found));
    }
    let path = settings.state_dir.clone();
    paths::make_private_dir(&path).map_err(|source| SupervisorError::StateDir { path: path.clone(), source })?;
    let lock = Lock::take(&path)?;
    let found = leftovers::sweep(&path);
    Ok((path, lock, found))
}

/// Raises ferry's own limit as far as it goes (launchd gives 256) and returns the one it was started with, for its
/// children: programs that use `select`, or close every descriptor there may be, suffer from a large one.
fn raise_descriptor_limit() -> io::Result<(rlim_t, rlim_t)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let raised = platform::most_descriptors(hard);
    if raised > soft
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, raised, hard)
    {
        warn!(%error, soft, "the limit of open files could not be raised");
    }
    Ok((soft, hard))
}

/// 128 random bits: never the same for two runs.
fn new_run_id() -> String {
    format!("{:032x}", u128::from_ne_bytes(random::bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_divided_as_the_architecture_says() {
        let millis = Duration::from_millis;
        for (all, drain, kill) in [
            (9_000, 4_000, 8_000),
            (20_000, 15_000, 19_000),
            (5_000, 0, 4_000),
            (2_000, 0, 1_000),
            (1_000, 0, 500),
            (0, 0, 0),
        ] {
            let expected = Budget { drain: millis(drain), kill: millis(kill), end: millis(all) };
            assert_eq!(Budget::of(millis(all)), expected, "of {all} ms");
        }
    }

    #[test]
    fn no_two_runs_have_the_same_id() {
        assert_eq!(new_run_id().len(), 32);
        assert_ne!(new_run_id(), new_run_id());
    }
}
