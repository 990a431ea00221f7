//! stderr: drained always, bounded per line, kept in a ring and in a log.

use std::time::Duration;

use mcp_ferry::telemetry::rotation::{Limits, LogWriter};
use tokio::sync::mpsc;

use crate::{add, eventually, sh, within};

#[tokio::test]
async fn stderr_goes_to_the_ring_and_the_log_with_what_ferry_knows() {
    let dir = tempfile::tempdir().unwrap();
    let logs = LogWriter::start(Limits::default()).unwrap();
    let (lines, mut heard) = mpsc::channel(16);
    let mut spec = sh("echo one >&2; printf two >&2; exit 4");
    spec.stderr.file = Some(logs.file(dir.path().join("bear.log")));
    spec.stderr.lines = Some(lines);
    let mut subject = add(spec);
    subject.generation().await.exit().await;
    assert_eq!(within("a line", heard.recv()).await.as_deref(), Some("one"));
    assert_eq!(within("a line", heard.recv()).await.as_deref(), Some("two"));
    within("the stop", subject.process.stop()).await;
    assert!(subject.process.status().stderr_tail.starts_with(&["one".to_owned(), "two".to_owned()]));

    logs.flush(crate::PATIENCE);
    let log = std::fs::read_to_string(dir.path().join("bear.log")).unwrap();
    for expected in [" ferry: started, pid ", " one\n", " two\n", " ferry: ended: exit status: 4\n"] {
        assert!(log.contains(expected), "`{expected}` is missing in {log}");
    }
    assert!(log.lines().all(|line| line.starts_with("20") && line.contains("Z ")), "a line without a time in {log}");
}

#[tokio::test]
async fn a_flood_without_line_ends_neither_blocks_the_child_nor_takes_memory() {
    let mut subject = add(sh("head -c 5000000 /dev/zero >&2; echo >&2; echo done; read forever"));
    let mut child = subject.generation().await;
    assert_eq!(child.line().await, "done");
    eventually("the line is in the ring", || !subject.process.status().stderr_tail.is_empty()).await;
    let tail = subject.process.status().stderr_tail;
    assert!(tail[0].len() < 10_000, "{} bytes", tail[0].len());
    assert!(tail[0].ends_with("[…]"));
    within("the stop", subject.process.stop()).await;
}

#[tokio::test]
async fn a_daemon_that_keeps_stderr_open_holds_up_nobody() {
    let mut spec = sh(r#"(trap "" TERM HUP; exec sleep 300 >/dev/null) & echo "ready $!"; read forever"#);
    spec.stop_grace = Duration::from_millis(50);
    let mut subject = add(spec);
    let mut child = subject.generation().await;
    let grandchild = child.ready_with_pid().await;
    child.stdin.take();
    within("the stop", subject.process.stop()).await;
    assert!(!crate::common::is_running(grandchild));
}
