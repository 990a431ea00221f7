//! The processes of one configured server: one for everybody, or as many as the bridge asks for. Each is tied to the
//! child of the bridge that it serves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::sync::{mpsc, watch};

use super::last_words;
use crate::bridge::child::{Child, Outcome, Pipes};
use crate::bridge::upstream::{Upstream, Upstreams};
use crate::mcp::connection::Ended;
use crate::mcp::probe::Opened;
use crate::supervisor::{Incarnation, Process, Retry, Spec, Start, State, Supervisor};

/// The processes of one configured server.
pub(super) struct Pool {
    supervisor: Supervisor,
    /// What each of them is.
    spec: Spec,
    members: Mutex<Vec<Member>>,
    /// How often processes were started again that are no more.
    past_restarts: AtomicU64,
    gate: Arc<Gate>,
}

/// Keeps processes from being started while their predecessors end: two of a kind may fight over a file or a port.
#[derive(Debug)]
struct Gate(Mutex<Passage>);

#[derive(Debug)]
enum Passage {
    Open,
    /// These are to start when it opens.
    Closed(Vec<Process>),
    /// Nothing is started any more.
    Shut,
}

impl Gate {
    fn demand(&self, process: &Process) {
        match &mut *self.lock() {
            Passage::Open => process.demand(),
            Passage::Closed(waiting) => waiting.push(process.clone()),
            Passage::Shut => {}
        }
    }

    fn open(&self) {
        let mut passage = self.lock();
        if let Passage::Closed(waiting) = &*passage {
            waiting.iter().for_each(Process::demand);
            *passage = Passage::Open;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Passage> {
        self.0.lock().expect("nothing panics while it holds a gate")
    }
}

/// One process, and whom it serves.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) process: Process,
    pub(super) child: Weak<Child>,
}

impl Pool {
    /// Starts nothing before it is [opened](Self::let_start).
    pub(super) fn new(supervisor: &Supervisor, spec: Spec) -> Arc<Self> {
        let gate = Arc::new(Gate(Mutex::new(Passage::Closed(Vec::new()))));
        Arc::new(Self {
            supervisor: supervisor.clone(),
            spec,
            members: Mutex::default(),
            past_restarts: AtomicU64::new(0),
            gate,
        })
    }

    /// From now on processes start as they are needed.
    pub(super) fn let_start(&self) {
        self.gate.open();
    }

    /// Whether processes may start.
    pub(super) fn may_start(&self) -> bool {
        matches!(*self.gate.lock(), Passage::Open)
    }

    /// Whether it is there before anybody asks for it.
    pub(super) fn is_eager(&self) -> bool {
        self.spec.start == Start::Eager
    }

    /// Tries those of its processes again that are down; with `eager` also starts the one that everybody shares.
    pub(super) fn wake(&self, eager: bool) {
        for member in self.members() {
            let is_shared = || member.child.upgrade().is_some_and(|child| !child.is_private());
            let state = member.process.watch().borrow().state;
            if matches!(state, State::Failed | State::BackingOff) || (eager && state == State::Resting && is_shared()) {
                self.gate.demand(&member.process);
            }
        }
    }

    /// Ends its processes for good, and starts no others.
    pub(super) async fn end(&self) {
        *self.gate.lock() = Passage::Shut;
        let ends: Vec<_> = self.members().iter().map(|member| member.process.stop()).collect();
        for end in ends {
            let _ = end.await;
        }
    }

    /// Ends its processes and starts them anew; those that rest go on to, unless there is just one.
    pub(super) async fn restart(&self) {
        let members = self.members();
        let alone = members.len() == 1;
        let rests = |member: &Member| member.process.watch().borrow().state == State::Resting;
        let ends: Vec<_> =
            members.iter().filter(|member| alone || !rests(member)).map(|member| member.process.restart()).collect();
        for end in ends {
            let _ = end.await;
        }
    }

    /// The name of the server.
    pub(super) fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its processes, those that rest included.
    pub(super) fn members(&self) -> Vec<Member> {
        let mut members = self.lock();
        self.strike_off(&mut members);
        members.clone()
    }

    /// How often its processes were started again.
    pub(super) fn restarts(&self) -> u64 {
        let members = self.members();
        let restarts = members.iter().map(|member| member.process.watch().borrow().restarts);
        restarts.sum::<u64>() + self.past_restarts.load(Ordering::Relaxed)
    }

    /// Forgets those that are gone, but not what is counted of them.
    fn strike_off(&self, members: &mut Vec<Member>) {
        members.retain(|member| {
            let status = member.process.watch();
            let known = status.borrow();
            let gone = known.state == State::Gone;
            if gone {
                self.past_restarts.fetch_add(known.restarts, Ordering::Relaxed);
            }
            !gone
        });
    }

    /// Ends the processes that nobody waits for.
    pub(super) fn stop_idle(&self) {
        for member in self.members() {
            if member.child.upgrade().is_none_or(|child| child.in_flight() == 0) {
                drop(member.process.stop());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Member>> {
        self.members.lock().expect("nothing panics while it holds the processes of one server")
    }
}

impl Upstreams for Pool {
    fn open(&self, child: &Arc<Child>) -> Arc<dyn Upstream> {
        let mut spec = self.spec.clone();
        // When the gate lets it.
        spec.start = Start::OnDemand;
        let (lines, unread) = mpsc::channel(last_words::UNREAD);
        spec.stderr.lines = Some(lines);
        let (process, incarnations) = self.supervisor.add(spec);
        // These end with the process.
        tokio::spawn(follow(process.clone(), Arc::clone(child)));
        tokio::spawn(attend(process.clone(), incarnations, Arc::clone(child)));
        tokio::spawn(last_words::show(process.clone(), unread));
        let mut members = self.lock();
        self.strike_off(&mut members);
        members.push(Member { process: process.clone(), child: Arc::downgrade(child) });
        drop(members);
        if matches!(*self.gate.lock(), Passage::Shut) {
            drop(process.stop());
        } else if self.is_eager() && !child.is_private() {
            self.gate.demand(&process);
        }
        Arc::new(Supervised { process, gate: Arc::clone(&self.gate) })
    }
}

/// The bridge's way to a process.
struct Supervised {
    process: Process,
    gate: Arc<Gate>,
}

impl Upstream for Supervised {
    fn demand(&self) {
        self.gate.demand(&self.process);
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
