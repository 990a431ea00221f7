//! The client as the server sees it: somebody to write to, and somebody to ask.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use super::wire::{self, RpcError};

/// Messages that wait to be written. When they are that many the handlers wait too, and with them the reader.
const QUEUE: usize = 256;

type Answer = Result<Value, RpcError>;

/// Cheap to clone; the writer ends when the last one is gone.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    lines: mpsc::Sender<String>,
    questions: Arc<Questions>,
}

#[derive(Debug, Default)]
struct Questions {
    /// From 0, as the TypeScript SDKs count: whoever tests an id for truthiness shall find out.
    next: AtomicI64,
    open: Mutex<HashMap<i64, oneshot::Sender<Answer>>>,
}

impl Questions {
    fn open(&self) -> MutexGuard<'_, HashMap<i64, oneshot::Sender<Answer>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The two ends of the way out: handlers hold the first, [`write_lines`] the second.
pub(super) fn channel() -> (Peer, mpsc::Receiver<String>) {
    let (lines, written) = mpsc::channel(QUEUE);
    (Peer { lines, questions: Arc::default() }, written)
}

/// Writes every message with one write, so that no reader ever wakes up for half a line that fits a pipe.
pub(super) async fn write_lines(mut lines: mpsc::Receiver<String>, mut writer: impl AsyncWrite + Unpin) {
    while let Some(line) = lines.recv().await {
        if writer.write_all(line.as_bytes()).await.is_err() || writer.flush().await.is_err() {
            return; // nobody reads any more, which ends the server
        }
    }
}

impl Peer {
    /// Queues one message. If the client is gone it is lost, like everything else.
    pub(super) async fn send(&self, message: &Value) {
        let _ = self.lines.send(line(message)).await;
    }

    /// Sends a request of our own and waits for its answer, however long the human at the other end takes.
    ///
    /// Dropping this withdraws the question.
    pub(super) async fn ask(&self, method: &str, params: &Value) -> Answer {
        let id = self.questions.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.questions.open().insert(id, answer);
        let question = Question { peer: self, id };
        self.send(&wire::request(id, method, params)).await;
        let answer = answered.await;
        drop(question);
        answer.unwrap_or_else(|_| Err(RpcError::internal("the client is gone")))
    }

    /// Hands an answer to whoever asked. What nobody asked for is dropped.
    pub(super) fn answered(&self, id: &Value, answer: Answer) {
        let asked = id.as_i64().and_then(|id| self.questions.open().remove(&id));
        if let Some(asked) = asked {
            let _ = asked.send(answer); // the asking request may have been cancelled this very moment
        }
    }
}

/// A question that has been put: if it goes without an answer, the client may put the form away.
struct Question<'a> {
    peer: &'a Peer,
    id: i64,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        if self.peer.questions.open().remove(&self.id).is_some() {
            let cancelled = json!({ "requestId": self.id, "reason": "the request that asked has ended" });
            let _ = self.peer.lines.try_send(line(&wire::notification("notifications/cancelled", cancelled)));
        }
    }
}

fn line(message: &Value) -> String {
    let mut line = message.to_string();
    line.push('\n');
    line
}
