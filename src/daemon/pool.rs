//! The processes of one configured server: one for everybody, or as many as the bridge asks for. Each is tied to the
//! child of the bridge that it serves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::sync::{mpsc, watch};

use super::last_words;
use crate::bridge::child::{Child, Outcome, Pipes};
use crate::bridge::upstream::{Upstream, Upstreams};
use crate::mcp::connection::Ended;
use crate::mcp::probe::Opened;
use crate::supervisor::{Incarnation, Process, Retry, Spec, Start, State, Status, Stopped, Supervisor};

/// The processes of one configured server.
pub(super) struct Pool {
    supervisor: Supervisor,
    /// What each of them is.
    spec: Spec,
    /// Whether the one that everybody shares is started before anybody asks for it.
    pub(super) eager: bool,
    /// Whether they may be started: not while those of the server's predecessor end.
    open: AtomicBool,
    members: Mutex<Vec<Member>>,
}

/// One process, and whom it serves.
#[derive(Clone)]
struct Member {
    process: Process,
    child: Weak<Child>,
    way: Arc<Way>,
    eager: bool,
}

impl Pool {
    pub(super) fn new(supervisor: &Supervisor, spec: Spec) -> Arc<Self> {
        let eager = spec.start == Start::Eager;
        // When the way is opened.
        let spec = Spec { start: Start::OnDemand, ..spec };
        let (open, members) = (AtomicBool::new(false), Mutex::default());
        Arc::new(Self { supervisor: supervisor.clone(), spec, eager, open, members })
    }

    /// The name of the server.
    pub(super) fn name(&self) -> &str {
        &self.spec.name
    }

    /// From now on its processes may be started.
    pub(super) fn let_start(&self) {
        let members = self.lock();
        self.open.store(true, Ordering::SeqCst);
        members.iter().for_each(|member| member.way.open(member.eager));
    }

    /// Whether its processes may be started.
    pub(super) fn may_start(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    /// Starts what there is to be started.
    pub(super) fn demand(&self) {
        self.lock().iter().for_each(|member| member.way.demand());
    }

    /// The process that everybody shares, if there is one.
    pub(super) fn first(&self) -> Option<Process> {
        self.lock().first().map(|member| member.process.clone())
    }

    /// What is known of its processes, those that rest included.
    pub(super) fn statuses(&self) -> Vec<Status> {
        self.present().iter().map(|member| member.process.watch().borrow().clone()).collect()
    }

    /// How they are all together. Where clients do not share a process, one that starts is no news, nor is one that is
    /// down where another works.
    pub(super) fn state(&self) -> State {
        let waits = self.eager && !self.may_start();
        let states: Vec<State> = self.statuses().into_iter().map(|status| status.state).collect();
        match &states[..] {
            [] => State::Resting,
            // It is to start, and waits for its predecessor's end.
            [State::Resting] if waits && self.lock().iter().any(|member| member.eager) => State::Starting,
            [only] => *only,
            many => {
                let up = many.iter().copied().find(|state| *state == State::Ready);
                let down = |state: &State| matches!(state, State::Failed | State::BackingOff);
                up.or_else(|| many.iter().copied().find(down)).unwrap_or(State::Resting)
            }
        }
    }

    /// Ends the processes that nobody waits for, for good.
    pub(super) fn stop_idle(&self) {
        for member in self.present() {
            if member.child.upgrade().is_none_or(|child| child.in_flight() == 0) {
                drop(member.process.stop());
            }
        }
    }

    /// Ends them all, for good.
    pub(super) async fn stop(&self) {
        let stopping: Vec<_> = self.present().iter().map(|member| member.process.stop()).collect();
        for one in stopping {
            let _ = one.await;
        }
    }

    /// Ends those that run and starts them anew.
    pub(super) async fn restart(&self) -> Stopped {
        let running = |member: &&Member| member.eager || member.process.watch().borrow().state.has_process();
        let restarting: Vec<_> = self.present().iter().filter(running).map(|member| member.process.restart()).collect();
        let mut outcome = Stopped::WasNotRunning;
        for one in restarting {
            let one = one.await;
            if outcome != Stopped::Killed && one != Stopped::WasNotRunning {
                outcome = one;
            }
        }
        outcome
    }

    fn present(&self) -> Vec<Member> {
        let mut members = self.lock();
        members.retain(|member| member.process.watch().borrow().state != State::Gone || member.eager);
        members.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Member>> {
        self.members.lock().expect("nothing panics while it holds the processes of one server")
    }
}

impl Upstreams for Pool {
    fn open(&self, child: &Arc<Child>) -> Arc<dyn Upstream> {
        let mut spec = self.spec.clone();
        let (lines, unread) = mpsc::channel(last_words::UNREAD);
        spec.stderr.lines = Some(lines);
        let (process, incarnations) = self.supervisor.add(spec);
        // These end with the process.
        tokio::spawn(follow(process.clone(), Arc::clone(child)));
        tokio::spawn(attend(process.clone(), incarnations, Arc::clone(child)));
        tokio::spawn(last_words::show(process.clone(), unread));
        let mut members = self.lock();
        members.retain(|member| member.process.watch().borrow().state != State::Gone);
        let open = AtomicBool::new(self.open.load(Ordering::SeqCst));
        let way = Arc::new(Way { process: process.clone(), open, wanted: AtomicBool::new(false) });
        let eager = self.eager && !child.is_private();
        members.push(Member { process, child: Arc::downgrade(child), way: Arc::clone(&way), eager });
        way
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

    fn rest(&self) {
        drop(self.process.rest());
    }

    fn stop(&self) {
        drop(self.process.stop());
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
    tracing::info!(name, server = opened.server(), protocol = opened.version, "the server is ready");
}
