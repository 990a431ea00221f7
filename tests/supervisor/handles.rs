//! What a handle's requests lead to.

use std::time::Duration;

use mcp_ferry::supervisor::{Environment, Helper, HelperError, Role, Signal, Start, State, Stopped, SupervisorError};
use mcp_ferry::supervisor::{Settings, Supervisor};

use crate::common::{group_is_running, is_running};
use crate::{add, eventually, sh, supervisor, within};

#[tokio::test]
async fn one_on_demand_rests_until_it_is_asked_for_and_again_afterwards() {
    let mut spec = sh("echo ready; cat >/dev/null");
    spec.start = Start::OnDemand;
    let mut subject = add(spec);
    assert_eq!(subject.process.status().state, State::Resting);
    assert_eq!(within("a rest", subject.process.rest()).await, Stopped::WasNotRunning);

    subject.process.demand();
    let mut first = subject.generation().await;
    first.line().await;
    subject.process.ready(first.number);
    first.stdin.take();
    assert_eq!(within("a rest", subject.process.rest()).await, Stopped::Exited);
    assert_eq!(subject.process.status().state, State::Resting);
    assert!(!is_running(first.pid));

    subject.process.demand();
    assert_eq!(subject.generation().await.number, 2);
    within("the stop", subject.process.stop()).await;
}

#[tokio::test]
async fn a_restart_ends_the_old_one_first() {
    let mut subject = add(sh("echo ready; read forever"));
    let mut first = subject.generation().await;
    first.line().await;
    subject.process.ready(first.number);
    assert_eq!(within("the restart", subject.process.restart()).await, Stopped::Exited);
    assert!(!group_is_running(first.pid));
    let second = subject.generation().await;
    assert_eq!(subject.process.status().pid, Some(second.pid));
    assert!(is_running(second.pid));
    within("the stop", subject.process.stop()).await;
}

#[tokio::test]
async fn one_that_is_needed_while_it_goes_to_rest_is_started_again() {
    let mut subject = add(sh("echo ready; read forever"));
    let mut first = subject.generation().await;
    first.line().await;
    let rest = subject.process.rest();
    subject.process.demand();
    within("the rest", rest).await;
    assert_eq!(subject.generation().await.number, 2);
    within("the stop", subject.process.stop()).await;
}

#[tokio::test]
async fn every_request_of_one_that_is_gone_is_answered() {
    let subject = add(sh("read forever"));
    within("the stop", subject.process.stop()).await;
    subject.process.demand();
    for ticket in [subject.process.stop(), subject.process.rest(), subject.process.restart()] {
        assert_eq!(within("an answer", ticket).await, Stopped::WasNotRunning);
    }
    assert_eq!(subject.process.status().state, State::Gone);
}

#[tokio::test]
async fn signals_are_forwarded_to_those_that_list_them() {
    const SCRIPT: &str = "trap 'echo got it' USR1; echo ready; while :; do sleep 0.05; done";
    let mut spec = sh(SCRIPT);
    spec.forward_signals = vec![Signal::SIGUSR1];
    let mut listening = add(spec);
    let mut other = add(sh(SCRIPT));
    let mut tunnel = sh(SCRIPT);
    tunnel.forward_signals = vec![Signal::SIGUSR1];
    tunnel.role = Role::Tunnel;
    let mut tunnel = add(tunnel);
    let (mut child, mut quiet, mut tunneled) =
        (listening.generation().await, other.generation().await, tunnel.generation().await);
    for one in [&mut child, &mut quiet, &mut tunneled] {
        one.line().await;
    }
    supervisor().forward(Signal::SIGUSR1);
    assert_eq!(child.line().await, "got it");
    for subject in [&listening, &other, &tunnel] {
        within("the stop", subject.process.stop()).await;
    }
    // Neither of the others said anything more before its end.
    for one in [&mut quiet, &mut tunneled] {
        assert_eq!(within("end of file", one.lines.next_line()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn there_is_one_supervisor_in_a_process() {
    supervisor();
    let dir = tempfile::tempdir().unwrap();
    let second = Supervisor::start(Settings::new(dir.path().to_owned()).unwrap());
    assert!(matches!(second, Err(SupervisorError::AlreadyStarted)));
}

fn helper(script: &str) -> Helper {
    Helper {
        role: Role::Mcp,
        program: "sh".into(),
        args: vec!["-c".into(), script.into()],
        cwd: None,
        environment: Environment { inherit: true, ..Environment::default() },
        limit: crate::PATIENCE,
    }
}

#[tokio::test]
async fn a_helpers_output_and_status_come_back() {
    let output = supervisor().run(helper("echo out; echo err >&2; exit 5")).await.unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));

    let output = supervisor().run(helper("sleep 300 & echo $!")).await.unwrap();
    let grandchild: i32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    eventually("nothing of it stays", || !is_running(grandchild)).await;
}

#[tokio::test]
async fn a_helper_that_takes_too_long_is_killed_and_one_that_talks_too_much_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("pid");
    let mut slow = helper(&format!("trap '' TERM; echo $$ > {}; sleep 300", pid_file.display()));
    slow.limit = Duration::from_millis(300);
    let error = supervisor().run(slow).await.unwrap_err();
    assert!(matches!(error, HelperError::TooSlow { .. }), "{error}");
    assert_eq!(error.to_string(), "`sh` did not finish within 0.3s");
    if let Ok(pid) = std::fs::read_to_string(pid_file) {
        let pid = pid.trim().parse().unwrap();
        eventually("its group is gone", || !group_is_running(pid)).await;
    }

    let output = supervisor().run(helper("head -c 3000000 /dev/zero; echo done >&2")).await.unwrap();
    assert_eq!((output.stdout.len(), output.stderr.as_slice()), (1024 * 1024, &b"done\n"[..]));
}
