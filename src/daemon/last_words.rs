//! What a server that failed has written to its standard error last: there stands why, mostly.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::warn;

use crate::supervisor::{Process, State};

/// How many lines are shown of one failure.
const SHOWN: usize = 20;
/// How many may come at once without one of them being missed.
pub(super) const UNREAD: usize = 64;
/// How long after a failure a line still belongs to it: an exit may be known before the pipe has been read.
const LATE: Duration = Duration::from_millis(250);

/// Logs the last of `lines` whenever the process fails.
pub(super) async fn show(process: Process, mut lines: mpsc::Receiver<String>) {
    let mut status = process.watch();
    let mut last = VecDeque::with_capacity(SHOWN);
    let mut failed: Option<Instant> = None;
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Some(line) if failed.is_some_and(|at| at.elapsed() < LATE) => tell(process.name(), &line),
                Some(line) => {
                    last.truncate(SHOWN - 1);
                    last.push_front(line);
                }
                None => return,
            },
            changed = status.changed() => {
                if changed.is_err() {
                    return;
                }
                if matches!(status.borrow_and_update().state, State::BackingOff | State::Failed) {
                    failed = Some(Instant::now());
                    last.drain(..).rev().for_each(|line| tell(process.name(), &line));
                }
            }
        }
    }
}

fn tell(name: &str, line: &str) {
    // Whatever it is that a server writes, it is not to steer the terminal of who reads the log.
    warn!(name, "its stderr: {}", anstream::adapter::strip_str(line));
}
