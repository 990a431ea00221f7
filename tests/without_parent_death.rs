//! The guard alone, as on macOS: a supervisor whose children do not ask for the parent-death signal.
//!
//! No switch of ferry turns that signal off, so this binary is a ferry of its own: called as `supervise` it keeps one
//! process alive, called as `guard` it is its guard, and without either it is the test that kills the first.
#![expect(clippy::disallowed_methods, reason = "no steward runs in the process that tests")]
#![expect(clippy::print_stdout, reason = "it is its own test harness")]

#[path = "common/mod.rs"]
mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use mcp_ferry::supervisor::{
    Capture, Environment, Program, Role, Settings, Signal, Spec, Start, Supervisor, TERM_GRACE, guard,
};

use common::{EndGroup, group_is_running, is_running, until};

/// Deaf, with a deaf child; tells both pids.
const DEAF: &str = r#"trap "" TERM HUP; sleep 300 & echo "$$ $!"; wait; wait"#;

fn main() -> ExitCode {
    if let Some(exit) = guard::take_over(std::env::args_os().skip(1)) {
        return exit;
    }
    if std::env::args().nth(1).as_deref() == Some("supervise") {
        supervise();
    }
    for (name, test) in [
        ("sigkill_to_ferry_ends_every_group", sigkill_to_ferry_ends_every_group as fn()),
        ("without_the_guard_they_would_stay", without_the_guard_they_would_stay),
        ("the_child_of_a_child_that_has_ended_is_ended_too", the_child_of_a_child_that_has_ended_is_ended_too),
    ] {
        test();
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

/// Keeps `sh -c SCRIPT` alive for ever, and prints what it prints.
fn supervise() -> ! {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let [state_dir, script] = arguments.as_slice() else { panic!("supervise STATE_DIR SCRIPT") };
    let mut settings = Settings::new(state_dir.into()).unwrap();
    settings.parent_death_signal = false;
    settings.guard = Program { path: std::env::current_exe().unwrap(), args: vec!["guard".into()], shown_as: None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let supervisor = Supervisor::start(settings).unwrap();
        let (_process, mut incarnations) = supervisor.add(Spec {
            name: "deaf".to_owned(),
            role: Role::Mcp,
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            cwd: None,
            environment: Environment { inherit: true, ..Environment::default() },
            start_timeout: common::PATIENCE,
            stop_grace: Duration::from_secs(5),
            stop_signal: Signal::SIGTERM,
            term_grace: TERM_GRACE,
            forward_signals: Vec::new(),
            start: Start::Eager,
            stderr: Capture::default(),
        });
        let mut child = incarnations.recv().await.unwrap();
        tokio::io::copy(&mut child.stdout, &mut Stdout).await.unwrap();
        std::future::pending::<()>().await;
    });
    unreachable!("it waits for ever")
}

/// tokio's own stdout is behind a feature that ferry does not need.
struct Stdout;

impl tokio::io::AsyncWrite for Stdout {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::task::Poll::Ready(std::io::Write::write(&mut std::io::stdout(), bytes))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(std::io::Write::flush(&mut std::io::stdout()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        self.poll_flush(context)
    }
}

/// A process that supervises, and the two pids that its child tells.
fn started(script: &str) -> (Child, [i32; 2], tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut ferry = Command::new(std::env::current_exe().unwrap())
        .arg("supervise")
        .arg(dir.path().join("state"))
        .arg(script)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(ferry.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pids: Vec<i32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    (ferry, pids.try_into().unwrap(), dir)
}

#[track_caller]
fn ends_in_time(group: i32, since: Instant) {
    until("the group has ended", || !group_is_running(group));
    assert!(since.elapsed() < Duration::from_secs(3), "it took {:?}", since.elapsed());
}

fn sigkill_to_ferry_ends_every_group() {
    let (mut ferry, [child, grandchild], _dir) = started(DEAF);
    let start = Instant::now();
    ferry.kill().unwrap();
    ferry.wait().unwrap();
    assert!(is_running(child), "nothing but the guard ends it, and that asks first");
    ends_in_time(child, start);
    assert!(!is_running(grandchild));
}

/// Shows that the other tests test the guard.
fn without_the_guard_they_would_stay() {
    let (mut ferry, [child, grandchild], dir) = started(DEAF);
    let end = EndGroup(child);
    common::send(ferry.id().cast_signed(), Signal::SIGSTOP);
    for guard in guards_of(&dir) {
        common::send(guard, Signal::SIGKILL);
    }
    ferry.kill().unwrap();
    ferry.wait().unwrap();
    assert!(is_running(child) && is_running(grandchild));

    // The next start on the same directory ends them before it starts anything.
    let mut next = Command::new(std::env::current_exe().unwrap())
        .arg("supervise")
        .arg(dir.path().join("state"))
        .arg("echo started; cat")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    BufReader::new(next.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    assert!(!group_is_running(child));
    next.kill().unwrap();
    next.wait().unwrap();
    drop(end);
}

fn the_child_of_a_child_that_has_ended_is_ended_too() {
    // The leader goes first; while the rest of its group is being ended, ferry is killed.
    let (mut ferry, [child, grandchild], _dir) =
        started(r#"(trap "" TERM HUP; exec sleep 300 >/dev/null 2>&1) & echo "$$ $!""#);
    until("the leader has ended", || !is_running(child));
    let start = Instant::now();
    ferry.kill().unwrap();
    ferry.wait().unwrap();
    ends_in_time(child, start);
    assert!(!is_running(grandchild));
}

/// The guards whose run is the one in that directory: it is their last argument.
fn guards_of(dir: &tempfile::TempDir) -> Vec<i32> {
    let file = std::fs::read_to_string(dir.path().join("state/children.json")).unwrap();
    let children: serde_json::Value = serde_json::from_str(&file).unwrap();
    let run = children["run"].as_str().unwrap();
    let table = Command::new("ps").args(["-A", "-o", "pid=,command="]).output().unwrap();
    String::from_utf8_lossy(&table.stdout)
        .lines()
        .filter(|line| line.ends_with(run))
        .map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
        .collect()
}
