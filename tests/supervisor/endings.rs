//! How processes end: politely, by force, with what they have started, and without it.

use std::time::Duration;

use mcp_ferry::supervisor::{Retry, State, Stopped};

use crate::common::{group_is_running, is_running};
use crate::{add, eventually, sh, within};

#[tokio::test]
async fn a_child_leaves_by_itself_when_its_stdin_is_closed() {
    let mut spec = sh("echo ready; cat >/dev/null; exit 7");
    spec.stop_grace = crate::PATIENCE; // so that no signal helps
    let mut subject = add(spec);
    let mut child = subject.generation().await;
    child.line().await;

    let ticket = subject.process.stop();
    let _ = within("the request to close", child.closing.wait_for(|closing| *closing)).await;
    child.stdin.take();
    assert_eq!(within("the stop", ticket).await, Stopped::Exited);
    let status = subject.process.status();
    assert_eq!((status.state, status.pid), (State::Gone, None));
    assert_eq!(status.last_exit.unwrap().code(), Some(7));
    assert!(!is_running(child.pid));
}

#[tokio::test]
async fn a_child_that_keeps_reading_gets_the_stop_signal() {
    let mut subject = add(sh("trap 'echo bye; exit' TERM; echo ready; while :; do sleep 0.05; done"));
    let mut child = subject.generation().await;
    child.line().await;

    assert_eq!(within("the stop", subject.process.stop()).await, Stopped::Exited); // its stdin stays open all the time
    assert_eq!(child.line().await, "bye");
    assert!(!group_is_running(child.pid));
}

#[tokio::test]
async fn a_deaf_child_is_killed_with_its_whole_group() {
    let mut subject = add(sh(r#"trap "" TERM; sleep 300 & echo "ready $!"; wait"#));
    let mut child = subject.generation().await;
    let grandchild = child.ready_with_pid().await;
    assert!(is_running(grandchild));

    assert_eq!(within("the stop", subject.process.stop()).await, Stopped::Killed);
    assert!(!is_running(child.pid));
    assert!(!is_running(grandchild));
}

#[tokio::test]
async fn a_stopped_child_hears_the_stop_signal() {
    let mut subject = add(sh("echo ready; kill -STOP $$; sleep 300"));
    let mut child = subject.generation().await;
    child.line().await;
    assert_eq!(within("the stop", subject.process.stop()).await, Stopped::Exited);
    assert!(!group_is_running(child.pid));
}

#[tokio::test]
async fn the_rest_of_a_group_is_ended_before_the_next_generation_starts() {
    // Deaf, so that it takes time; its stdout is elsewhere, so that nothing else holds up the next generation.
    let mut subject = add(sh(r#"(trap "" TERM; exec sleep 300 >/dev/null 2>&1) & echo "ready $!""#));
    let mut first = subject.generation().await;
    let grandchild = first.ready_with_pid().await;
    first.exit().await;
    assert!(is_running(grandchild), "ended without a grace");

    let second = subject.generation().await;
    assert_eq!(second.number, 2);
    assert!(!group_is_running(first.pid), "two generations lived at once");
    within("the stop", subject.process.stop()).await;
    assert!(!group_is_running(second.pid));
}

#[tokio::test]
async fn an_exit_is_told_although_a_grandchild_keeps_stdout_open() {
    let mut subject = add(sh(r#"sleep 300 & echo "ready $!"; exit 3"#));
    let mut child = subject.generation().await;
    let grandchild = child.ready_with_pid().await;
    // No end of file: the grandchild holds the pipe. The exit is told all the same, and then the grandchild is ended.
    child.exit().await;
    assert_eq!(within("end of file", child.lines.next_line()).await.unwrap(), None);
    eventually("the grandchild has ended", || !is_running(grandchild)).await; // its files are closed a moment earlier
    assert_eq!(subject.process.status().last_exit.unwrap().code(), Some(3));
    within("the stop", subject.process.stop()).await;
}

#[tokio::test]
async fn the_last_output_is_complete() {
    let mut subject = add(sh("sleep 300 & i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done"));
    let mut child = subject.generation().await;
    child.exit().await;
    for number in 0..2000 {
        assert_eq!(child.line().await, format!("line {number}"));
    }
    within("the stop", subject.process.stop()).await;
}

#[tokio::test]
async fn a_child_that_closes_its_stdout_lives_on() {
    let mut subject = add(sh("echo ready; exec >&-; while :; do sleep 0.05; done"));
    let mut child = subject.generation().await;
    child.line().await;
    subject.process.ready(child.number);
    assert_eq!(within("end of file", child.lines.next_line()).await.unwrap(), None);

    // Nothing follows from that: it is the owner's to say whether it can do without.
    assert_eq!(subject.until("ready", |status| status.state == State::Ready).await.pid, Some(child.pid));
    assert!(is_running(child.pid));
    assert!(!*child.exited.borrow());

    subject.process.failed(child.number, "closed its stdout", Retry::AtOnce);
    assert_eq!(subject.generation().await.number, 2);
    assert!(!group_is_running(child.pid));
    within("the stop", subject.process.stop()).await;
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_daemon_that_left_its_group_is_adopted_and_shown() {
    use crate::common::{send, stat};
    use mcp_ferry::supervisor::Signal;

    let mut subject = add(sh(r#"(setsid sleep 300 <&- >&- 2>&- & echo "ready $!"); cat"#));
    let mut child = subject.generation().await;
    let daemon = child.ready_with_pid().await;
    let is_itself = || stat(daemon).is_some_and(|stat| stat.session == daemon && stat.name == "sleep");
    eventually("it has a session of its own", is_itself).await;
    let me = std::process::id().cast_signed();
    eventually("it is adopted", || stat(daemon).is_some_and(|stat| stat.parent == me)).await;
    let shown = crate::supervisor().adopted().await;
    assert!(shown.iter().any(|adopted| adopted.pid == daemon && adopted.name == "sleep"), "{shown:?}");
    assert!(!shown.iter().any(|adopted| adopted.pid == child.pid));

    within("the stop", subject.process.stop()).await;
    assert!(is_running(daemon), "it is ended with ferry, not with its server");
    send(daemon, Signal::SIGKILL);
    eventually("it is reaped", || stat(daemon).is_none()).await;
}

#[tokio::test]
async fn a_process_that_forks_for_ever_is_ended_with_its_group() {
    let mut subject = add(sh(r#"trap "" TERM; echo ready; while :; do sleep 0.01 & done"#));
    let mut child = subject.generation().await;
    child.line().await;
    assert_eq!(within("the stop", subject.process.stop()).await, Stopped::Killed);
    assert!(!group_is_running(child.pid));
}

#[tokio::test]
async fn a_process_whose_runtime_ends_does_not_stay_behind() {
    let child = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut subject = add(sh(r#"trap "" TERM; echo ready; while :; do sleep 0.05; done"#));
            let mut child = subject.generation().await;
            child.line().await;
            child.pid
        })
    })
    .join()
    .unwrap();
    eventually("it has ended", || !group_is_running(child)).await;
}

#[tokio::test]
async fn an_owner_that_says_stop_while_it_starts_gets_a_stop() {
    let mut spec = sh("trap '' TERM; sleep 300");
    spec.start_timeout = Duration::from_mins(5);
    let mut subject = add(spec);
    let child = subject.generation().await;
    assert_eq!(subject.process.status().state, State::Starting);
    drop(subject.process.stop());
    subject.until("gone", |status| status.state == State::Gone).await;
    assert!(!group_is_running(child.pid));
}
