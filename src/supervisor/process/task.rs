//! The task that owns one process: it turns what happens into events, asks the state machine, and does what it says.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::future::pending;
use std::hash::BuildHasher;
use std::io;
use std::mem::discriminant;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{Instrument, debug, info, info_span, warn};

use super::super::backoff::Backoff;
use super::super::environment::{Helpers, Lookup};
use super::super::steward::{Born, GroupId, Notice, Steward};
use super::capture::{Book, Ring, drain};
use super::spawn::{Order, SpawnError, find};
use super::state::{Action, Event, Manner, Rest, State, Then};
use super::{
    Incarnation, LAST_OUTPUT, LOOKUP_LIMIT, Process, REST_GRACE, Retry, Role, Shared, Spec, Start, Status, Stopped,
};

/// How many generations may wait for their owner to fetch them. One is enough for an owner that lives.
const UNFETCHED: usize = 4;

/// What others may ask of the task.
#[derive(Debug)]
pub(in crate::supervisor) enum Request {
    Demand,
    Ready(u64),
    Failed { generation: u64, reason: String, then: Retry },
    End { manner: Manner, then: Then, done: oneshot::Sender<Stopped> },
    Forward(Signal),
    Freeze(oneshot::Sender<()>),
    Thaw,
}

/// Starts the task of one process on the runtime of the caller.
pub(in crate::supervisor) fn start(
    spec: Spec,
    steward: Steward,
    run: String,
) -> (Process, mpsc::Receiver<Incarnation>) {
    let (requests, received) = mpsc::unbounded_channel();
    let (incarnations, fetched) = mpsc::channel(UNFETCHED);
    let status = Status {
        state: State::Resting,
        pid: None,
        generation: 0,
        restarts: 0,
        since: Instant::now(),
        next_try: None,
        last_exit: None,
        last_error: None,
        stderr_tail: Vec::new(),
    };
    let (told, watched) = watch::channel(status);
    let ring = Ring::default();
    let book = Book { ring: ring.clone(), capture: spec.stderr.clone() };
    let process = Process(std::sync::Arc::new(Shared {
        name: spec.name.clone(),
        role: spec.role,
        requests,
        status: watched,
        ring,
    }));
    let span = info_span!("process", name = spec.name);
    let task = Task {
        spec,
        steward,
        run,
        requests: received,
        deferred: VecDeque::new(),
        incarnations,
        status: told,
        book,
        state: State::Resting,
        deadline: None,
        frozen: None,
        backoff: Backoff::default(),
        healthy: Duration::ZERO,
        running: None,
        ended: false,
        killed: false,
        waiting: Vec::new(),
        readers: Vec::new(),
    };
    tokio::spawn(task.run().instrument(span));
    (process, fetched)
}

struct Task {
    spec: Spec,
    steward: Steward,
    run: String,
    requests: mpsc::UnboundedReceiver<Request>,
    /// What was asked while variables were looked up.
    deferred: VecDeque<Request>,
    incarnations: mpsc::Sender<Incarnation>,
    status: watch::Sender<Status>,
    book: Book,
    state: State,
    /// When the present state's time is over.
    deadline: Option<Instant>,
    frozen: Option<Instant>,
    backoff: Backoff,
    /// How long the last generation had been ready when it ended.
    healthy: Duration,
    running: Option<Running>,
    /// A process has ended and nobody was told yet.
    ended: bool,
    /// SIGKILL was needed for that.
    killed: bool,
    /// Who waits for the present end.
    waiting: Vec<oneshot::Sender<Stopped>>,
    /// Of stderr, which may outlive its generation.
    readers: Vec<JoinHandle<io::Result<()>>>,
}

/// The living generation, or the rest of it.
struct Running {
    group: GroupId,
    notices: mpsc::UnboundedReceiver<Notice>,
    closing: watch::Sender<bool>,
    exited: watch::Sender<bool>,
    ready_since: Option<Instant>,
    leash: Leash,
}

/// Ends the group should its task end first: by a panic, or with its runtime.
struct Leash {
    steward: Steward,
    group: GroupId,
    emptied: bool,
}

impl Drop for Leash {
    fn drop(&mut self) {
        if !self.emptied {
            self.steward.signal(self.group, Signal::SIGKILL);
        }
    }
}

impl Task {
    async fn run(mut self) {
        if self.spec.start == Start::Eager {
            self.happened(Event::Demanded).await;
        }
        while self.state != State::Gone {
            let event = self.next().await;
            if let Some(event) = event {
                self.happened(event).await;
            }
        }
        // The last lines are on their way; but a daemon that left the group may hold the pipe open for ever.
        let last = Instant::now() + LAST_OUTPUT;
        for mut reader in self.readers {
            if timeout_at(last, &mut reader).await.is_err() {
                reader.abort();
            }
        }
    }

    /// Waits for whatever comes next. `None` if it was dealt with already.
    async fn next(&mut self) -> Option<Event> {
        let deadline = self.deadline.filter(|_| self.frozen.is_none());
        tokio::select! {
            // An exit is known before anything that was asked after it.
            biased;
            notice = notice(self.running.as_mut()) => Some(self.noticed(notice)),
            request = next_request(&mut self.deferred, &mut self.requests) => self.requested(request),
            () = at(deadline) => Some(self.deadline_passed()),
        }
    }

    fn noticed(&mut self, notice: Notice) -> Event {
        let running = self.running.as_mut();
        match notice {
            Notice::Exited { status, rest } => {
                if let Some(running) = running {
                    running.exited.send_replace(true);
                    running.leash.emptied |= !rest;
                    self.healthy = running.ready_since.map_or(Duration::ZERO, |since| since.elapsed());
                }
                self.ended = true;
                self.book.note(&format!("ended: {status}"));
                if matches!(self.state, State::Starting | State::Ready) {
                    warn!(%status, "it has ended by itself");
                    self.status.send_modify(|known| known.last_error = Some(format!("ended by itself: {status}")));
                } else {
                    info!(%status, "it has ended");
                }
                self.status.send_modify(|known| {
                    known.last_exit = Some(status);
                    known.pid = None;
                });
                Event::Exited(if rest { Rest::Some } else { Rest::None })
            }
            Notice::Emptied => {
                if let Some(running) = running {
                    running.leash.emptied = true;
                }
                Event::Emptied
            }
        }
    }

    fn requested(&mut self, request: Option<Request>) -> Option<Event> {
        // Nobody holds a handle any more, so nobody can ask for anything but this.
        let Some(request) = request else { return Some(Event::End(self.first_rung(Manner::Close), Then::Gone)) };
        match request {
            Request::Demand if self.state.owes_a_wait() && !self.backoff.may_hurry() => None,
            Request::Demand => Some(Event::Demanded),
            Request::Ready(generation) => {
                let running = self.running.as_mut().filter(|_| self.state == State::Starting)?;
                if generation != self.status.borrow().generation {
                    return None;
                }
                running.ready_since = Some(Instant::now());
                self.backoff.became_ready();
                self.status.send_modify(|known| known.last_error = None);
                Some(Event::BecameReady)
            }
            Request::Failed { generation, reason, then } => {
                let current = generation == self.status.borrow().generation;
                if !current || !matches!(self.state, State::Starting | State::Ready) {
                    return None;
                }
                warn!(reason, "it does not work");
                self.book.note(&format!("does not work: {reason}"));
                self.status.send_modify(|known| known.last_error = Some(reason));
                let at_once = then == Retry::AtOnce && self.backoff.may_start_at_once();
                Some(Event::Misbehaved(if at_once { Then::Respawn } else { Then::Retry }))
            }
            Request::End { manner, then, done } => {
                self.waiting.push(done);
                Some(Event::End(self.first_rung(manner), then))
            }
            Request::Forward(signal) => {
                if self.spec.role == Role::Mcp && self.spec.forward_signals.contains(&signal) {
                    self.signal(signal);
                }
                None
            }
            Request::Freeze(done) => {
                self.frozen.get_or_insert_with(Instant::now);
                match &self.running {
                    Some(running) => self.steward.freeze(running.group, done),
                    None => drop(done.send(())),
                }
                None
            }
            Request::Thaw => {
                if let Some(frozen) = self.frozen.take() {
                    // The time that it stood still is not its own.
                    self.deadline = self.deadline.map(|deadline| deadline + frozen.elapsed());
                    self.signal(Signal::SIGCONT);
                }
                None
            }
        }
    }

    /// cloudflared does not read its stdin, so closing that is no request.
    fn first_rung(&self, manner: Manner) -> Manner {
        if manner == Manner::Close && self.spec.role == Role::Tunnel { Manner::Terminate } else { manner }
    }

    fn deadline_passed(&mut self) -> Event {
        self.deadline = None;
        match self.state {
            State::Starting => {
                let reason = format!("was not ready after {}s", self.spec.start_timeout.as_secs_f32());
                warn!("it {reason}");
                self.book.note(&reason);
                self.status.send_modify(|known| known.last_error = Some(reason));
            }
            State::BackingOff => self.backoff.waited(),
            _ => {}
        }
        Event::DeadlinePassed
    }

    /// Asks the state machine, and does what it says, until that leads to nothing more.
    async fn happened(&mut self, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let before = self.state;
            let (state, action) = before.on(event);
            self.state = state;
            self.arrive(before);
            next = self.carry_out(action).await;
            if !self.state.has_process() || action == Action::Spawn {
                self.answer_waiting();
            }
        }
    }

    /// What a new state brings with it: its time, and the news.
    fn arrive(&mut self, before: State) {
        let state = self.state;
        if discriminant(&before) == discriminant(&state) {
            // Only what follows has changed. A tunnel's or a child's time does not start again for that.
            self.status.send_if_modified(|known| {
                known.state = state;
                before != state
            });
            return;
        }
        let now = Instant::now();
        self.deadline = match state {
            State::Starting => Some(now + self.spec.start_timeout),
            State::BackingOff => {
                let delay = self.backoff.failed(self.healthy, random());
                info!(?delay, "{}", state.word());
                Some(now + delay)
            }
            State::Closing(_) => Some(now + self.spec.stop_grace),
            State::Stopping(_) => Some(now + self.spec.term_grace),
            State::Draining(_) => Some(now + LAST_OUTPUT),
            State::Clearing(_) => Some(now + REST_GRACE),
            State::Resting | State::Ready | State::Failed | State::Killing(_) | State::Wiping(_) | State::Gone => None,
        };
        if !state.has_process() {
            self.running = None;
        }
        match state {
            State::BackingOff => {}
            State::Ready | State::Failed | State::Gone => info!("{}", state.word()),
            _ => debug!("{}", state.word()),
        }
        let next_try = self.deadline.filter(|_| state == State::BackingOff);
        let tail = self.book.ring.lines();
        self.status.send_modify(|known| {
            known.state = state;
            known.since = now;
            known.next_try = next_try;
            known.stderr_tail = tail;
        });
    }

    async fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Nothing => None,
            Action::Spawn => self.spawn().await,
            Action::CloseStdin => {
                self.close_stdin();
                None
            }
            Action::Terminate => {
                self.close_stdin();
                self.signal(self.spec.stop_signal);
                // One that was stopped, by whomever, would hear nothing before SIGKILL.
                self.signal(Signal::SIGCONT);
                None
            }
            Action::Kill => {
                self.close_stdin();
                if !std::mem::replace(&mut self.killed, true) {
                    warn!("it does not go, so it is killed");
                }
                self.signal(Signal::SIGKILL);
                None
            }
        }
    }

    fn close_stdin(&self) {
        if let Some(running) = &self.running {
            running.closing.send_replace(true);
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(running) = &self.running {
            self.steward.signal(running.group, signal);
        }
    }

    async fn spawn(&mut self) -> Option<Event> {
        self.running = None;
        match self.born().await {
            Ok(born) => self.take_over(born),
            Err(error) => {
                let lasting = error.is_lasting();
                let reason = chain(&error);
                warn!(reason, "it cannot be started");
                self.book.note(&format!("cannot be started: {reason}"));
                self.healthy = Duration::ZERO;
                self.status.send_modify(|known| known.last_error = Some(reason));
                Some(if lasting { Event::Unrunnable } else { Event::SpawnFailed })
            }
        }
    }

    /// Finds the variables and the program, on a thread that may wait for a disk, and has the steward start it.
    async fn born(&mut self) -> Result<Born, SpawnError> {
        let Spec { name, role, program, args, cwd, mut environment, .. } = self.spec.clone();
        if let Some(lookup) = environment.lookup.take() {
            environment.set.extend(self.look_up(&*lookup).await?);
        }
        let run = self.run.clone();
        let found = spawn_blocking({
            let program = program.clone();
            move || {
                let environment = environment.resolve(role, std::env::vars_os(), &run);
                find(&program, &environment, cwd.as_deref()).map(|program| Order {
                    name,
                    role,
                    program,
                    args,
                    cwd,
                    environment,
                })
            }
        });
        match timeout(LOOKUP_LIMIT, found).await {
            Ok(Ok(order)) => self.steward.spawn(order?).await,
            Ok(Err(_)) => Err(SpawnError::Stopping), // the runtime is going down
            Err(_) => Err(SpawnError::LookupHangs { program: program.to_string_lossy().into_owned() }),
        }
    }

    /// Waits for a lookup, but no longer than until somebody asks for the end of what it is for.
    async fn look_up(&mut self, lookup: &dyn Lookup) -> Result<Vec<(String, String)>, SpawnError> {
        let helpers = Helpers { steward: self.steward.clone(), run: self.run.clone() };
        let mut looking = lookup.look_up(&helpers);
        let deadline = Instant::now() + LOOKUP_LIMIT;
        loop {
            tokio::select! {
                found = timeout_at(deadline, &mut looking) => {
                    let hangs = || format!("preparing it took longer than {}s", LOOKUP_LIMIT.as_secs());
                    let found = found.unwrap_or_else(|_| Err(hangs()));
                    return found.map_err(|why| SpawnError::Unprepared { why });
                }
                request = self.requests.recv() => {
                    // Nobody holds a handle any more, which `next` finds out by itself.
                    let Some(request) = request else { return Err(SpawnError::Ended) };
                    let ends = matches!(request, Request::End { .. } | Request::Freeze(_));
                    self.deferred.push_back(request);
                    if ends {
                        return Err(SpawnError::Ended);
                    }
                }
            }
        }
    }

    fn take_over(&mut self, born: Born) -> Option<Event> {
        let Born { id: group, pipes, notices } = born;
        let pid = group.pid.as_raw();
        let generation = self.status.borrow().generation + 1;
        info!(pid, generation, "started");
        self.book.note(&format!("started, pid {pid}, generation {generation}"));
        let (closing, told_to_close) = watch::channel(false);
        let (exited, told_of_exit) = watch::channel(false);
        let leash = Leash { steward: self.steward.clone(), group, emptied: false };
        self.running = Some(Running { group, notices, closing, exited, ready_since: None, leash });
        self.status.send_modify(|known| {
            known.pid = Some(pid);
            known.generation = generation;
            known.restarts = generation - 1;
        });
        self.readers.retain(|reader| !reader.is_finished());
        self.readers.push(tokio::spawn(drain(pipes.stderr, self.book.clone()).in_current_span()));

        let stdin = pipe::Sender::from_owned_fd(pipes.stdin);
        let stdout = pipe::Receiver::from_owned_fd(pipes.stdout);
        let (stdin, stdout) = match (stdin, stdout) {
            (Ok(stdin), Ok(stdout)) => (stdin, stdout),
            (Err(error), _) | (_, Err(error)) => {
                // epoll or kqueue is out of memory or watches.
                self.status.send_modify(|known| known.last_error = Some(error.to_string()));
                return Some(Event::Misbehaved(Then::Retry));
            }
        };
        let incarnation = Incarnation { generation, pid, stdin, stdout, closing: told_to_close, exited: told_of_exit };
        if let Err(error) = self.incarnations.try_send(incarnation) {
            debug!(%error, "nobody fetches its connection");
        }
        None
    }

    fn answer_waiting(&mut self) {
        let outcome = match (std::mem::take(&mut self.ended), std::mem::take(&mut self.killed)) {
            (true, true) => Stopped::Killed,
            (true, false) => Stopped::Exited,
            (false, _) => Stopped::WasNotRunning,
        };
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(outcome);
        }
    }
}

async fn next_request(
    deferred: &mut VecDeque<Request>,
    requests: &mut mpsc::UnboundedReceiver<Request>,
) -> Option<Request> {
    match deferred.pop_front() {
        Some(request) => Some(request),
        None => requests.recv().await,
    }
}

async fn notice(running: Option<&mut Running>) -> Notice {
    match running {
        // The steward keeps its end for as long as the group exists.
        Some(running) => match running.notices.recv().await {
            Some(notice) => notice,
            None => pending().await,
        },
        None => pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Somewhere in 0..1, for jitter; std's hash keys are random enough for that.
fn random() -> f64 {
    let bits = u32::try_from(RandomState::new().hash_one(OsString::new()) >> 32).unwrap_or(0);
    f64::from(bits) / f64::from(u32::MAX)
}
