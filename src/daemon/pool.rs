//! The processes of one configured server: one for everybody, or as many as the bridge asks for. Each is tied to the
//! child of the bridge that it serves.

use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::sync::{mpsc, watch};

use super::last_words;
use crate::bridge::child::{Child, Outcome, Pipes};
use crate::bridge::upstream::{Upstream, Upstreams};
use crate::mcp::connection::Ended;
use crate::mcp::members::Members;
use crate::mcp::probe::Opened;
use crate::supervisor::{Incarnation, Process, Retry, Spec, Start, State, Supervisor};

/// The processes of one configured server.
pub(super) struct Pool {
    supervisor: Supervisor,
    /// What each of them is.
    spec: Spec,
    members: Mutex<Vec<Member>>,
}

/// One process, and whom it serves.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) process: Process,
    pub(super) child: Weak<Child>,
}

impl Pool {
    pub(super) fn new(supervisor: &Supervisor, spec: Spec) -> Arc<Self> {
        Arc::new(Self { supervisor: supervisor.clone(), spec, members: Mutex::default() })
    }

    /// The name of the server.
    pub(super) fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its processes, those that rest included.
    pub(super) fn members(&self) -> Vec<Member> {
        let mut members = self.lock();
        members.retain(|member| member.process.watch().borrow().state != State::Gone);
        members.clone()
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
        if child.is_private() {
            spec.start = Start::OnDemand;
        }
        let (lines, unread) = mpsc::channel(last_words::UNREAD);
        spec.stderr.lines = Some(lines);
        let (process, incarnations) = self.supervisor.add(spec);
        // These end with the process.
        tokio::spawn(follow(process.clone(), Arc::clone(child)));
        tokio::spawn(attend(process.clone(), incarnations, Arc::clone(child)));
        tokio::spawn(last_words::show(process.clone(), unread));
        let mut members = self.lock();
        members.retain(|member| member.process.watch().borrow().state != State::Gone);
        members.push(Member { process: process.clone(), child: Arc::downgrade(child) });
        Arc::new(Supervised(process))
    }
}

/// The bridge's way to a process.
struct Supervised(Process);

impl Upstream for Supervised {
    fn demand(&self) {
        self.0.demand();
    }

    fn restart(&self, generation: u64, reason: &str) {
        self.0.failed(generation, reason, Retry::BackOff);
    }

    fn rest(&self) {
        drop(self.0.rest());
    }

    fn stop(&self) {
        drop(self.0.stop());
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
    let result = std::str::from_utf8(&opened.result).ok().and_then(|text| Members::read(text).ok()).unwrap_or_default();
    let meta = result.object("_meta");
    let info = result
        .object("serverInfo")
        .or_else(|| meta.and_then(|meta| meta.object("io.modelcontextprotocol/serverInfo")))
        .unwrap_or_default();
    let text = |name| info.string(name).unwrap_or_default().into_owned();
    tracing::info!(
        name,
        server = format!("{} {}", text("name"), text("version")).trim(),
        protocol = opened.version,
        "the server is ready"
    );
}
