//! One supervised process: its handle, and what it tells.
//!
//! A task owns the process ([`task`]); it turns what happens into events for the pure [`state`] machine and does what
//! comes back. [`Process`] is the handle that everybody else holds. Every request is answered by a [`Ticket`] that
//! resolves once it is carried out, so that nobody waits for time.
//!
//! Deliberately absent: what a process is for. Whether it is ready its owner says.

mod capture;
pub(super) mod spawn;
pub(super) mod state;
pub(super) mod task;

use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitStatus;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

pub use capture::Capture;
pub use spawn::SpawnError;
pub use state::{State, Then};

use super::environment::Environment;
use capture::Ring;
use task::Request;

/// How long the stdout of a process is still read after its exit: a grandchild may hold it open for ever.
pub const LAST_OUTPUT: Duration = Duration::from_millis(250);

/// How long a stop signal has before SIGKILL follows, usually.
pub const TERM_GRACE: Duration = Duration::from_secs(5);

/// How long the rest of a group has to follow its leader, from the stop signal to SIGKILL.
pub(super) const REST_GRACE: Duration = Duration::from_secs(2);

/// How long to look for a command on the file systems of its PATH.
pub(super) const LOOKUP_LIMIT: Duration = Duration::from_secs(10);

/// What a process is to ferry. The tunnel is ended first, so that nothing new comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// An MCP server.
    Mcp,
    /// cloudflared.
    Tunnel,
}

/// When a process is first started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At once.
    Eager,
    /// When somebody asks for it.
    OnDemand,
}

/// One process to keep alive.
#[derive(Debug, Clone)]
pub struct Spec {
    /// What it is called in logs and in `status`. Need not be unique.
    pub name: String,
    /// What it is to ferry.
    pub role: Role,
    /// A command to be found on the child's PATH, or a path, relative to `cwd`.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its working directory; ferry's own if absent.
    pub cwd: Option<PathBuf>,
    /// Its environment.
    pub environment: Environment,
    /// How long it has from its start until [`Process::ready`].
    pub start_timeout: Duration,
    /// How long it has to leave by itself after its stdin was closed. 5 s unless the owner says otherwise.
    pub stop_grace: Duration,
    /// What its group is sent after that. SIGTERM unless the owner says otherwise.
    pub stop_signal: Signal,
    /// How long its group has to follow that before SIGKILL. [`TERM_GRACE`], 5 s, unless the owner says otherwise: the
    /// tunnel's goes on past the drain.
    pub term_grace: Duration,
    /// Which of ferry's own signals (HUP, USR1, USR2) its group gets too. Never the tunnel's, which HUP would kill.
    pub forward_signals: Vec<Signal>,
    /// When it is first started.
    pub start: Start,
    /// Where its stderr goes, beside the ring of its last 50 lines.
    pub stderr: Capture,
}

/// One successful spawn. Its owner does the handshake and then says [`Process::ready`] or [`Process::failed`].
#[derive(Debug)]
pub struct Incarnation {
    /// Counts the spawns of this process, from 1.
    pub generation: u64,
    /// The leader's process id, which is its group's too.
    pub pid: i32,
    /// The child's stdin. To be dropped as soon as `closing` turns true: that is the first, polite request to leave.
    /// One that is held on to costs the child its `stop_grace`; then the signals come.
    pub stdin: pipe::Sender,
    /// The child's stdout. To be read to its end, but after `exited` no longer than [`LAST_OUTPUT`].
    pub stdout: pipe::Receiver,
    /// Turns true when `stdin` is to be closed. A dropped sender means the same.
    pub closing: watch::Receiver<bool>,
    /// Turns true when the leader has exited. A dropped sender means the same.
    pub exited: watch::Receiver<bool>,
}

/// What follows a failed handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The next generation as soon as this one is gone: another era is to be tried. At most three times in a row,
    /// then as [`Retry::BackOff`].
    AtOnce,
    /// The next generation after the back-off's delay.
    BackOff,
}

/// What is known of a process now.
#[derive(Debug, Clone)]
pub struct Status {
    /// Where it is in its life.
    pub state: State,
    /// Its leader, while that lives.
    pub pid: Option<i32>,
    /// Which spawn this is, from 1; 0 before the first.
    pub generation: u64,
    /// How often it was started again.
    pub restarts: u64,
    /// When `state` began.
    pub since: Instant,
    /// When the next try comes by itself.
    pub next_try: Option<Instant>,
    /// How the last generation's leader ended.
    pub last_exit: Option<ExitStatus>,
    /// Why the last generation failed or could not be started; `None` once one is ready.
    pub last_error: Option<String>,
    /// The last lines of its stderr, at most 50.
    pub stderr_tail: Vec<String>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// The process left by itself or on the stop signal.
    Exited,
    /// SIGKILL was needed, for the leader or for the rest of its group.
    Killed,
    /// There was no process.
    WasNotRunning,
}

/// Resolves when a request has been carried out.
#[derive(Debug)]
#[must_use = "a ticket only tells when the request is carried out; drop it to not wait"]
pub struct Ticket(oneshot::Receiver<Stopped>);

impl Future for Ticket {
    type Output = Stopped;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Stopped> {
        // A task that is gone has no process any more.
        Pin::new(&mut self.0).poll(context).map(|outcome| outcome.unwrap_or(Stopped::WasNotRunning))
    }
}

/// A handle to one supervised process. Cheap to clone.
#[derive(Clone)]
pub struct Process(Arc<Shared>);

struct Shared {
    name: String,
    role: Role,
    requests: mpsc::UnboundedSender<Request>,
    status: watch::Receiver<Status>,
    ring: Ring,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("name", &self.0.name).finish_non_exhaustive()
    }
}

impl Process {
    /// The name it was added under.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What it is to ferry.
    pub fn role(&self) -> Role {
        self.0.role
    }

    /// Starts it if it rests, waits or has failed. A wait is cut short once: a client that goes on asking does not
    /// start a broken program ten times a second.
    pub fn demand(&self) {
        self.request(Request::Demand);
    }

    /// The handshake of that generation succeeded.
    pub fn ready(&self, generation: u64) {
        self.request(Request::Ready(generation));
    }

    /// The handshake of that generation failed, or it no longer answers: its group is ended, then it is tried again.
    pub fn failed(&self, generation: u64, reason: impl Into<String>, then: Retry) {
        self.request(Request::Failed { generation, reason: reason.into(), then });
    }

    /// Ends it until somebody asks for it again.
    pub fn rest(&self) -> Ticket {
        self.end(state::Manner::Close, Then::Rest)
    }

    /// Ends it and starts it anew. Resolves when the new generation was started, whether it is ready or not.
    pub fn restart(&self) -> Ticket {
        self.end(state::Manner::Close, Then::Respawn)
    }

    /// Ends it for good.
    pub fn stop(&self) -> Ticket {
        self.end(state::Manner::Close, Then::Gone)
    }

    /// What is known of it now.
    pub fn status(&self) -> Status {
        let mut status = self.0.status.borrow().clone();
        status.stderr_tail = self.0.ring.lines();
        status
    }

    /// Tells of every change of state. `stderr_tail` is as it was at the change.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.0.status.clone()
    }

    fn end(&self, manner: state::Manner, then: Then) -> Ticket {
        let (done, ticket) = oneshot::channel();
        self.request(Request::End { manner, then, done });
        Ticket(ticket)
    }

    /// [`Process::stop`], beginning with the stop signal.
    pub(super) fn terminate(&self) -> Ticket {
        self.end(state::Manner::Terminate, Then::Gone)
    }

    /// [`Process::stop`], by SIGKILL.
    pub(super) fn kill(&self) -> Ticket {
        self.end(state::Manner::Kill, Then::Gone)
    }

    pub(super) fn forward(&self, signal: Signal) {
        self.request(Request::Forward(signal));
    }

    /// Stops the group where it stands, and with it every deadline. Resolves when that is done.
    pub(super) fn freeze(&self) -> oneshot::Receiver<()> {
        let (done, frozen) = oneshot::channel();
        self.request(Request::Freeze(done));
        frozen
    }

    pub(super) fn thaw(&self) {
        self.request(Request::Thaw);
    }

    /// Resolves when its task has ended, and with it the process.
    pub(super) async fn gone(&self) {
        self.0.requests.closed().await;
    }

    pub(super) fn is_gone(&self) -> bool {
        self.0.requests.is_closed()
    }

    fn request(&self, request: Request) {
        // A task that is gone has nothing left to do.
        let _ = self.0.requests.send(request);
    }
}
