//! The supervisor with real processes, inside the test's own process.
//!
//! A binary of its own: the steward's `waitpid(-1)` takes every status there is, so nothing else in here may wait for a
//! child. All tests share one steward, as all processes of one ferry do.
//!
//! What a child does is written in a few lines of `sh`. It prints `ready` when it is; nothing is timed but the deadline
//! that turns a hang into a failure.

#[path = "../common/mod.rs"]
mod common;

mod birth;
mod endings;
mod failures;
mod handles;
mod output;
mod tunnel;

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use mcp_ferry::supervisor::{
    Capture, Environment, Incarnation, Process, Program, Role, Settings, Signal, Spec, Start, Status, Supervisor,
};
use nix::sys::resource::{Resource, getrlimit};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use common::{GLANCE, PATIENCE};

/// The limit of descriptors that this process was started with, before the supervisor raised it.
static LIMIT: OnceLock<(u64, u64)> = OnceLock::new();

fn supervisor() -> &'static Supervisor {
    static SUPERVISOR: OnceLock<Supervisor> = OnceLock::new();
    SUPERVISOR.get_or_init(|| {
        LIMIT.set(getrlimit(Resource::RLIMIT_NOFILE).unwrap()).unwrap();
        let state_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("supervisor-{}", std::process::id()));
        let mut settings = Settings::new(state_dir).unwrap();
        // This test binary has no such command.
        settings.guard =
            Program { path: env!("CARGO_BIN_EXE_ferry").into(), args: vec!["guard".into()], shown_as: None };
        Supervisor::start(settings).unwrap()
    })
}

/// `sh -c script`, with patience of a few hundred milliseconds where a user has seconds.
fn sh(script: &str) -> Spec {
    Spec {
        name: std::thread::current().name().unwrap_or("test").rsplit("::").next().unwrap().to_owned(),
        role: Role::Mcp,
        program: "sh".into(),
        args: vec!["-c".into(), script.into()],
        cwd: None,
        environment: Environment { inherit: true, ..Environment::default() },
        start_timeout: PATIENCE,
        stop_grace: Duration::from_millis(100),
        stop_signal: Signal::SIGTERM,
        term_grace: Duration::from_secs(1),
        forward_signals: Vec::new(),
        start: Start::Eager,
        stderr: Capture::default(),
    }
}

/// A process under test, and the generations as they come.
struct Subject {
    process: Process,
    incarnations: mpsc::Receiver<Incarnation>,
}

/// One generation, its stdout by line.
struct Generation {
    number: u64,
    pid: i32,
    stdin: Option<pipe::Sender>,
    lines: Lines<BufReader<pipe::Receiver>>,
    closing: watch::Receiver<bool>,
    exited: watch::Receiver<bool>,
}

fn add(spec: Spec) -> Subject {
    let (process, incarnations) = supervisor().add(spec);
    Subject { process, incarnations }
}

impl Subject {
    async fn generation(&mut self) -> Generation {
        let incarnation = within("a generation", self.incarnations.recv()).await.expect("its task lives");
        let Incarnation { generation, pid, stdin, stdout, closing, exited } = incarnation;
        let lines = BufReader::new(stdout).lines();
        Generation { number: generation, pid, stdin: Some(stdin), lines, closing, exited }
    }

    async fn until(&self, what: &str, is_so: impl FnMut(&Status) -> bool) -> Status {
        within(what, self.process.watch().wait_for(is_so)).await.expect("its task lives").clone()
    }
}

impl Generation {
    async fn line(&mut self) -> String {
        within("a line", self.lines.next_line()).await.unwrap().expect("its stdout is open")
    }

    /// Waits for `ready N` and returns N, the pid that the script tells of.
    async fn ready_with_pid(&mut self) -> i32 {
        let line = self.line().await;
        line.strip_prefix("ready ").and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("got `{line}`"))
    }

    async fn exit(&mut self) {
        let _ = within("its exit", self.exited.wait_for(|exited| *exited)).await;
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Waits until something is so, and lets the tasks of this runtime go on meanwhile.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let look = async {
        while !is_so() {
            sleep(GLANCE).await;
        }
    };
    within(what, look).await;
}
