//! The one thread that forks and waits.
//!
//! Three facts force it. The parent-death signal fires when the *thread* that forked ends, so a child started from a
//! pool thread dies when the pool shrinks. When exec fails, `std::process` waits for the failed child and panics if
//! somebody else's `waitpid(-1)` was faster. And a child may exit before anybody has noted its pid. A thread that alone
//! spawns, alone reaps and lives as long as ferry has none of these troubles.
//!
//! It sleeps in `poll` on one socket that SIGCHLD and the queue of commands both write to; then it carries out the
//! commands, then it reaps until nothing is left. As PID 1, as sub-reaper and on macOS the code is the same. Signals are
//! sent from here too: a pid that has been reaped is known to have been.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, killpg, pthread_sigmask};
use nix::unistd::Pid;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info, warn};

use super::guard::{self, Guard};
use super::leftovers::{Ledger, Recorded};
use super::process::spawn::{self, Birth, Order, SpawnError, Spawned};
use super::{Program, Role, platform};

/// How often the rest of a group is looked at whose leader has exited.
const GLANCE: Duration = Duration::from_millis(20);
/// The same for a group that even SIGKILL did not end.
const SELDOM: Duration = Duration::from_secs(1);
/// So long after SIGKILL a group counts as gone even if something of it is left: a process that the kernel will not
/// let go (a dead network file system), a zombie that a stranger does not reap.
const STUBBORN: Duration = Duration::from_secs(1);
/// A guard that lived no longer than this is not started again at once.
const GUARD_LIVES: Duration = Duration::from_secs(1);
/// Then it is, after this.
const GUARD_PAUSE: Duration = Duration::from_secs(2);
/// How long the guard has to go after the good-bye.
const GOOD_BYE: Duration = Duration::from_millis(500);
/// While fewer groups than this live, their pipes are enlarged: half of what Linux lets one user have before it gives
/// every new pipe of that user a page or two (`pipe-user-pages-soft`).
const LARGE_PIPES: usize = 16;

/// One group that the steward has started; with a number of its own, because pids come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupId {
    pub pid: Pid,
    serial: u64,
}

/// What the steward tells about a group.
#[derive(Debug, Clone, Copy)]
pub(super) enum Notice {
    /// The leader has exited; whether anything of its group is left.
    Exited { status: ExitStatus, rest: bool },
    /// Nothing of the group is left. Comes once, after an exit with a rest.
    Emptied,
}

/// A started group.
#[derive(Debug)]
pub(super) struct Born {
    pub id: GroupId,
    pub pipes: Spawned,
    pub notices: mpsc::UnboundedReceiver<Notice>,
}

/// An orphan that left its group and came to ferry (Linux only).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// Its process id.
    pub pid: i32,
    /// Its name, as `ps` shows it.
    pub name: String,
}

enum Command {
    Spawn(Box<Order>, oneshot::Sender<Result<Born, SpawnError>>),
    Signal(GroupId, Signal),
    Freeze(GroupId, oneshot::Sender<()>),
    SpawnNoMore,
    KillAll,
    Adopted(oneshot::Sender<Vec<Adopted>>),
    SignalAdopted(Signal),
    GoodBye(oneshot::Sender<()>),
}

/// The way to the steward. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Steward {
    commands: Sender<Command>,
    wake: Arc<UnixStream>,
}

/// What the steward needs for its life.
#[derive(Debug)]
pub(super) struct Duties {
    pub ledger: Ledger,
    pub birth: Birth,
    pub guard: Program,
}

impl Steward {
    /// Starts the thread and, on it, the guard. Only one may run in a process: it takes every child's status.
    pub(super) fn start(duties: Duties) -> io::Result<Self> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        // Before the first spawn, or the first exit might go unnoticed.
        signal_hook::low_level::pipe::register(libc::SIGCHLD, wake.try_clone()?)?;
        let (commands, received) = channel();
        let (started, outcome) = channel();
        thread::Builder::new().name("steward".to_owned()).spawn(move || {
            let _end = AbortOnPanic;
            let guard = keep_signals_away().and_then(|()| start_guard(&duties));
            match guard {
                Ok(guard) => {
                    let _ = started.send(Ok(()));
                    Loop::new(duties, guard, received, woken).run();
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        })?;
        outcome.recv().map_err(io::Error::other)??;
        Ok(Self { commands, wake: Arc::new(wake) })
    }

    /// Starts a program.
    pub(super) async fn spawn(&self, order: Order) -> Result<Born, SpawnError> {
        let (answer, born) = oneshot::channel();
        self.send(Command::Spawn(Box::new(order), answer));
        born.await.unwrap_or(Err(SpawnError::Stopping))
    }

    /// Sends a signal to a whole group, if it still exists.
    pub(super) fn signal(&self, group: GroupId, signal: Signal) {
        self.send(Command::Signal(group, signal));
    }

    /// Sends SIGSTOP to a whole group and answers when it is sent: ferry, and this thread with it, stands still next.
    pub(super) fn freeze(&self, group: GroupId, done: oneshot::Sender<()>) {
        self.send(Command::Freeze(group, done));
    }

    /// From now on every spawn is refused.
    pub(super) fn spawn_no_more(&self) {
        self.send(Command::SpawnNoMore);
    }

    /// SIGKILL to every group and every adopted orphan, at once.
    pub(super) fn kill_all(&self) {
        self.send(Command::KillAll);
    }

    /// The orphans that left their group.
    pub(super) async fn adopted(&self) -> Vec<Adopted> {
        let (answer, adopted) = oneshot::channel();
        self.send(Command::Adopted(answer));
        adopted.await.unwrap_or_default()
    }

    /// Sends a signal to every adopted orphan.
    pub(super) fn signal_adopted(&self, signal: Signal) {
        self.send(Command::SignalAdopted(signal));
    }

    /// Lets the guard go, if nothing is left for it to do. The thread stays until the process ends.
    pub(super) async fn good_bye(&self) {
        let (answer, gone) = oneshot::channel();
        self.send(Command::GoodBye(answer));
        let _ = gone.await;
    }

    fn send(&self, command: Command) {
        // Neither can fail while the thread lives, and ferry does not outlive it. A full socket is a wake-up too.
        let _ = self.commands.send(command);
        let _ = (&*self.wake).write(&[0]);
    }
}

/// A steward that panics has lost track of its children; the guard has not.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

/// No handler runs on this thread, so none runs in a child between fork and exec. What the thread itself causes (a
/// crash, an abort) still comes through.
fn keep_signals_away() -> io::Result<()> {
    let mut away = SigSet::all();
    for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT, Signal::SIGTRAP] {
        away.remove(fault);
    }
    Ok(pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&away), None)?)
}

fn start_guard(duties: &Duties) -> io::Result<Guard> {
    Guard::start(&duties.guard, duties.ledger.run(), duties.birth.descriptors)
}

/// A group from its leader's birth to its last member's end.
#[derive(Debug)]
struct Group {
    serial: u64,
    name: String,
    role: Role,
    /// The leader's start time, while it lives.
    start: u64,
    leader_lives: bool,
    notices: mpsc::UnboundedSender<Notice>,
    killed: Option<Instant>,
    /// Its owner was told that it is gone, which was not quite true.
    given_up: bool,
}

struct Loop {
    duties: Duties,
    commands: Receiver<Command>,
    woken: UnixStream,
    guard: Option<Guard>,
    guard_again: Option<Instant>,
    groups: BTreeMap<Pid, Group>,
    next_serial: u64,
    spawning: bool,
    /// Everything is to be killed, also what turns up from here on.
    killing: bool,
    /// The ledger on disk names a group that is gone.
    stale: bool,
    orphans: u64,
    leaving: Option<(Instant, oneshot::Sender<()>)>,
}

impl Loop {
    fn new(duties: Duties, guard: Guard, commands: Receiver<Command>, woken: UnixStream) -> Self {
        Self {
            duties,
            commands,
            woken,
            guard: Some(guard),
            guard_again: None,
            groups: BTreeMap::new(),
            next_serial: 0,
            spawning: true,
            killing: false,
            stale: true, // the last run's file
            orphans: 0,
            leaving: None,
        }
    }

    fn run(mut self) {
        loop {
            self.write_ledger_if_stale();
            self.sleep();
            // Everything that woke us up is about to be looked at, so what arrives from here on wakes us again.
            let mut bytes = [0; 64];
            while matches!((&self.woken).read(&mut bytes), Ok(count) if count > 0) {}
            while let Ok(command) = self.commands.try_recv() {
                self.carry_out(command);
            }
            self.reap();
            self.look_after_groups();
            self.look_after_guard();
        }
    }

    fn sleep(&self) {
        let now = Instant::now();
        let until = |time: Instant| time.saturating_duration_since(now);
        let groups = self.groups.values().filter(|group| !group.leader_lives);
        let limit = groups
            .map(|group| if group.given_up { SELDOM } else { GLANCE })
            .chain(self.guard_again.map(until))
            .chain(self.leaving.as_ref().map(|(deadline, _)| until(*deadline)))
            .min();
        // Rounded up: a limit below a millisecond must not become a spin.
        let limit = limit.map_or(PollTimeout::NONE, |limit| {
            PollTimeout::try_from(limit.as_millis() + 1).unwrap_or(PollTimeout::MAX)
        });
        // An error is EINTR, or something that the next round shows again; the commands are looked at either way.
        let _ = poll(&mut [PollFd::new(self.woken.as_fd(), PollFlags::POLLIN)], limit);
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Spawn(order, answer) => {
                let born = self.spawn(&order);
                if let Err(Ok(born)) = answer.send(born) {
                    // Nobody waits for it any more.
                    self.signal(born.id, Signal::SIGKILL);
                }
            }
            Command::Signal(group, signal) => self.signal(group, signal),
            Command::Freeze(group, done) => {
                self.signal(group, Signal::SIGSTOP);
                let _ = done.send(());
            }
            Command::SpawnNoMore => self.spawning = false,
            Command::KillAll => {
                self.spawning = false;
                self.killing = true;
                let all: Vec<GroupId> =
                    self.groups.iter().map(|(pid, group)| GroupId { pid: *pid, serial: group.serial }).collect();
                for group in all {
                    self.signal(group, Signal::SIGKILL);
                }
                self.signal_adopted(Signal::SIGKILL);
            }
            Command::Adopted(answer) => {
                let adopted = self.adopted();
                let _ = answer.send(
                    adopted.into_iter().map(|pid| Adopted { pid: pid.as_raw(), name: platform::name(pid) }).collect(),
                );
            }
            Command::SignalAdopted(signal) => self.signal_adopted(signal),
            Command::GoodBye(answer) => self.say_good_bye(answer),
        }
    }

    fn spawn(&mut self, order: &Order) -> Result<Born, SpawnError> {
        if !self.spawning {
            return Err(SpawnError::Stopping);
        }
        let pipes = spawn::spawn(order, self.duties.birth, self.guard.as_ref().map(Guard::pipe))?;
        if self.groups.len() < LARGE_PIPES {
            spawn::enlarge(&pipes);
        }
        let pid = pipes.pid;
        self.tell_guard(|guard| guard.begin(order.role, pid));
        let (notices, received) = mpsc::unbounded_channel();
        self.next_serial += 1;
        let group = Group {
            serial: self.next_serial,
            name: order.name.clone(),
            role: order.role,
            // Its leader may have ended already, but it is not reaped, so this is its own start time or none.
            start: platform::identity(pid).map_or(0, |identity| identity.start),
            leader_lives: true,
            notices,
            killed: None,
            given_up: false,
        };
        self.groups.insert(pid, group);
        self.write_ledger();
        Ok(Born { id: GroupId { pid, serial: self.next_serial }, pipes, notices: received })
    }

    fn signal(&mut self, id: GroupId, signal: Signal) {
        let Some(group) = self.groups.get_mut(&id.pid).filter(|group| group.serial == id.serial) else { return };
        if signal == Signal::SIGKILL {
            group.killed.get_or_insert_with(Instant::now);
        }
        match killpg(id.pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => debug!(name = group.name, pid = %id.pid, %signal, %errno, "a signal could not be sent"),
        }
    }

    /// Takes every status there is; SIGCHLD says that there is one, not how many.
    fn reap(&mut self) {
        while let Some((pid, status)) = wait_for_any() {
            if let Some(guard) = self.guard.take_if(|guard| guard.pid == pid) {
                self.guard_has_ended(&guard, status);
            } else if let Some(group) = self.groups.get_mut(&pid).filter(|group| group.leader_lives) {
                group.leader_lives = false;
                let rest = !guard::is_gone(pid);
                let _ = group.notices.send(Notice::Exited { status, rest });
                if !rest {
                    self.groups.remove(&pid);
                    self.tell_guard(|guard| guard.end(pid));
                    self.stale = true;
                }
            } else {
                self.orphans += 1;
                debug!(%pid, %status, total = self.orphans, "an orphan has ended");
            }
        }
    }

    fn look_after_groups(&mut self) {
        let without_leader = self.groups.iter_mut().filter(|(_, group)| !group.leader_lives);
        let mut gone = Vec::new();
        for (pid, group) in without_leader {
            if guard::is_gone(*pid) {
                gone.push(*pid);
            } else if !group.given_up && group.killed.is_some_and(|killed| killed.elapsed() > STUBBORN) {
                warn!(name = group.name, group = %pid, "some of its processes do not even end on SIGKILL");
                group.given_up = true;
                let _ = group.notices.send(Notice::Emptied);
            }
        }
        for pid in gone {
            self.strike_off(pid);
        }
    }

    /// A group is gone, and its number may come to mean somebody else.
    fn strike_off(&mut self, pid: Pid) {
        if let Some(group) = self.groups.remove(&pid)
            && !group.given_up
        {
            let _ = group.notices.send(Notice::Emptied);
        }
        self.tell_guard(|guard| guard.end(pid));
        self.stale = true;
    }

    fn tell_guard(&mut self, tell: impl FnOnce(&Guard) -> io::Result<()>) {
        if let Some(guard) = &self.guard
            && let Err(error) = tell(guard)
        {
            // It does not read, or it is dead. Either way its exit, which is reaped next, brings a new one that is told
            // everything.
            warn!(%error, "the guard does not listen, so it is replaced");
            let _ = kill(guard.pid, Signal::SIGKILL);
        }
    }

    fn guard_has_ended(&mut self, guard: &Guard, status: ExitStatus) {
        if let Some((_, answer)) = self.leaving.take() {
            let _ = answer.send(());
            return;
        }
        warn!(pid = %guard.pid, %status, "the guard has ended; starting another");
        let pause = if guard.since.elapsed() < GUARD_LIVES { GUARD_PAUSE } else { Duration::ZERO };
        self.guard_again = Some(Instant::now() + pause);
    }

    fn look_after_guard(&mut self) {
        if let Some((_, answer)) = self.leaving.take_if(|(deadline, _)| *deadline <= Instant::now()) {
            let _ = answer.send(());
        }
        if self.guard_again.take_if(|again| *again <= Instant::now()).is_none() {
            return;
        }
        match start_guard(&self.duties) {
            Ok(guard) => {
                info!(pid = %guard.pid, "started another guard");
                let groups: Vec<(Pid, Role)> = self.groups.iter().map(|(pid, group)| (*pid, group.role)).collect();
                self.guard = Some(guard);
                self.tell_guard(|guard| groups.iter().try_for_each(|(pid, role)| guard.begin(*role, *pid)));
            }
            Err(error) => {
                error!(%error, "the guard cannot be started; should ferry be killed, its children would stay");
                self.guard_again = Some(Instant::now() + GUARD_PAUSE);
            }
        }
    }

    fn say_good_bye(&mut self, answer: oneshot::Sender<()>) {
        self.spawning = false;
        // Something is left: the guard learns of ferry's end by its end and goes on where ferry has to stop.
        if !self.groups.is_empty() {
            let _ = answer.send(());
            return;
        }
        self.duties.ledger.remove();
        self.stale = false;
        self.guard_again = None;
        match &self.guard {
            Some(guard) if guard.good_bye().is_ok() => self.leaving = Some((Instant::now() + GOOD_BYE, answer)),
            _ => {
                let _ = answer.send(());
            }
        }
    }

    /// Children of this process that it has not started and that are in no group of its own.
    fn adopted(&self) -> Vec<Pid> {
        let guard = self.guard.as_ref().map(|guard| guard.pid);
        platform::living()
            .filter(|(pid, identity)| {
                identity.parent == self.duties.birth.parent
                    && Some(*pid) != guard
                    && !self.groups.contains_key(&identity.group)
            })
            .map(|(pid, _)| pid)
            .collect()
    }

    /// They are children of this process that only this thread reaps, so none of the numbers can mean anybody else.
    fn signal_adopted(&self, signal: Signal) {
        let signal = if self.killing { Signal::SIGKILL } else { signal };
        for pid in self.adopted() {
            let _ = kill(pid, signal);
        }
    }

    fn write_ledger_if_stale(&mut self) {
        if self.stale {
            self.write_ledger();
        }
    }

    fn write_ledger(&mut self) {
        self.stale = false;
        let recorded = self.groups.iter().map(|(pid, group)| Recorded {
            name: group.name.clone(),
            role: group.role,
            pid: pid.as_raw(),
            start: group.start,
        });
        if let Err(error) = self.duties.ledger.write(recorded.collect()) {
            warn!(%error, "the list of children could not be written; the guard still has it");
        }
    }
}

/// One status, if there is one. nix' `waitpid` would lose that of a child that a real-time signal has killed.
fn wait_for_any() -> Option<(Pid, ExitStatus)> {
    let mut status = 0;
    #[expect(unsafe_code, reason = "nix turns the status of a child killed by a real-time signal into an error")]
    // SAFETY: the status is written to a variable that outlives the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then(|| (Pid::from_raw(pid), ExitStatus::from_raw(status)))
}
