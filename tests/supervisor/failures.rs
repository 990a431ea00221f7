//! What cannot be started, does not last, or does not become ready.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use mcp_ferry::supervisor::{Environment, Retry, State, Status, Stopped};

use crate::common::group_is_running;
use crate::{add, sh, within};

#[tokio::test]
async fn one_that_exits_at_once_is_started_again_ever_more_slowly() {
    let mut subject = add(sh("echo ready; exit 1"));
    let mut waits = Vec::new();
    for number in 1..=3 {
        let mut child = subject.generation().await;
        assert_eq!(child.number, number);
        child.exit().await;
        let status = subject.until("back-off", |status| status.state == State::BackingOff).await;
        assert_eq!(status.restarts, number - 1);
        assert_eq!(status.last_error.as_deref(), Some("ended by itself: exit status: 1"));
        waits.push(status.next_try.unwrap() - status.since);
    }
    assert!(waits[0] >= Duration::from_millis(375) && waits[0] <= Duration::from_millis(500), "{waits:?}");
    assert!(waits[1] > waits[0] && waits[2] > waits[1], "{waits:?}");
    assert_eq!(within("the stop", subject.process.stop()).await, Stopped::WasNotRunning);
}

#[tokio::test]
async fn a_demand_cuts_a_wait_short_once() {
    let mut subject = add(sh("exit 1"));
    subject.generation().await.exit().await;
    subject.until("back-off", |status| status.state == State::BackingOff).await;
    subject.process.demand();
    let second = subject.generation().await;
    assert_eq!(second.number, 2);
    let waiting = subject.until("back-off", |status| status.state == State::BackingOff && status.generation == 2).await;
    for _ in 0..100 {
        subject.process.demand();
    }
    // The hundred were heard before the rest, and changed nothing.
    let _ = within("a request after them", subject.process.rest()).await;
    assert_eq!(subject.process.status().generation, waiting.generation);
    drop(subject.process.stop());
}

#[tokio::test]
async fn a_command_that_does_not_exist_says_where_it_was_searched_and_is_tried_again_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let path = format!("{}:/bin:/usr/bin", dir.path().display());
    let mut spec = sh("");
    spec.program = "ferry-test-command".into();
    spec.environment = Environment { set: vec![("PATH".to_owned(), path.clone())], ..Environment::default() };
    let mut subject = add(spec);
    let status = subject.until("failed", |status| status.state == State::Failed).await;
    assert_eq!(status.last_error.unwrap(), format!("command `ferry-test-command` was not found on PATH `{path}`"));
    assert_eq!((status.generation, status.pid, status.next_try), (0, None, None));

    let command = dir.path().join("ferry-test-command");
    fs::write(&command, "#!/bin/sh\necho ready; read forever\n").unwrap();
    fs::set_permissions(&command, fs::Permissions::from_mode(0o755)).unwrap();
    subject.process.demand();
    assert_eq!(subject.generation().await.line().await, "ready");
    within("the stop", subject.process.stop()).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_executed_is_named_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    for (content, mode, expected) in
        [("#!/bin/sh\n", 0o644, "Permission denied"), ("#!/no/such/interpreter\n", 0o755, "No such file or directory")]
    {
        let file = dir.path().join(format!("{mode:o}{}", content.len()));
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let mut spec = sh("");
        spec.program = file.clone().into();
        let subject = add(spec);
        let status = subject.until("failed", |status| status.state == State::Failed).await;
        let error = status.last_error.unwrap();
        assert!(error.starts_with(&format!("`{}` cannot be executed: {expected}", file.display())), "{error}");
        drop(subject.process.stop());
    }
}

#[tokio::test]
async fn a_missing_directory_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("volume");
    let mut spec = sh("pwd; read forever");
    spec.cwd = Some(volume.clone());
    let mut subject = add(spec);
    let status = subject.until("back-off", |status| status.state == State::BackingOff).await;
    assert!(status.last_error.unwrap().contains("cannot be entered"));
    fs::create_dir(&volume).unwrap();
    let line = subject.generation().await.line().await;
    assert_eq!(fs::canonicalize(line).unwrap(), fs::canonicalize(volume).unwrap());
    within("the stop", subject.process.stop()).await;
}

#[tokio::test]
async fn one_that_is_never_ready_is_ended_and_tried_again() {
    let mut spec = sh("echo ready; sleep 300");
    spec.start_timeout = Duration::from_millis(200);
    let mut subject = add(spec);
    let mut first = subject.generation().await;
    first.line().await;
    let waiting = subject.until("back-off", |status| status.state == State::BackingOff).await;
    assert!(!group_is_running(first.pid));
    assert_eq!(waiting.last_error.as_deref(), Some("was not ready after 0.2s"));

    // On a busy machine the time may be over once more before this test has said that one is ready.
    let status = loop {
        let next = subject.generation().await;
        subject.process.ready(next.number);
        let is_decided = |status: &Status| status.state == State::Ready || status.generation > next.number;
        let status = subject.until("ready or ended", is_decided).await;
        if status.state == State::Ready {
            break status;
        }
    };
    assert_eq!(status.last_error, None);
    assert!(status.restarts >= 1);
    within("the stop", subject.process.stop()).await;
}

#[tokio::test]
async fn starting_anew_at_once_has_an_end() {
    let mut subject = add(sh("echo ready; sleep 300"));
    for number in 1..=4 {
        let mut child = subject.generation().await;
        child.line().await;
        subject.process.failed(number, "speaks another version", Retry::AtOnce);
        // What is said of an older generation is ignored.
        subject.process.failed(number.saturating_sub(1), "old news", Retry::BackOff);
        subject.process.ready(number);
    }
    let status = subject.until("back-off", |status| status.state == State::BackingOff).await;
    assert_eq!(status.last_error.as_deref(), Some("speaks another version"));
    drop(subject.process.stop());
}

#[tokio::test]
async fn a_thousand_failing_spawns_lose_no_exit_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken");
    fs::write(&broken, "#!/no/such/interpreter\n").unwrap(); // found, forked, and then exec fails
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();

    let mut spec = sh("");
    spec.program = broken.into();
    let failing = add(spec);
    let failures = async {
        let mut watch = failing.process.watch();
        for _ in 0..1000 {
            // One demand, one fork, one failed exec.
            within("a failure", watch.wait_for(|status| status.state == State::Failed)).await.unwrap();
            watch.mark_unchanged();
            failing.process.demand();
            within("the try", watch.changed()).await.unwrap();
        }
    };
    let exits = async {
        let mut codes = HashSet::new();
        for code in 0..200 {
            let mut subject = add(sh(&format!("exit {code}")));
            let mut child = subject.generation().await;
            child.exit().await;
            let status = subject.until("its status", |status| status.last_exit.is_some()).await;
            codes.insert(status.last_exit.unwrap().code().unwrap());
            drop(subject.process.stop());
        }
        assert_eq!(codes.len(), 200);
    };
    tokio::join!(failures, exits);
    drop(failing.process.stop());
}
