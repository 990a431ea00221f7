//! One request while it is served: who asked, and what may be told them meanwhile.

use serde_json::{Value, json};

use super::era::{Caller, Level};
use super::peer::Peer;
use super::wire::{self, Object};

#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) peer: Peer,
    pub(super) caller: Caller,
    progress_token: Option<Value>,
    /// From which level on the client wants to read logs: `None` means not at all.
    log_from: Option<Level>,
}

impl Call {
    /// `session_level` is what `logging/setLevel` last said; only sessions have that.
    pub(super) fn new(peer: Peer, caller: Caller, params: &Object, session_level: Option<Level>) -> Self {
        let token = params.get("_meta").and_then(|meta| meta.get("progressToken"));
        let log_from = match caller {
            Caller::Legacy(_) => session_level,
            Caller::Modern { log_level, .. } => log_level,
        };
        Self {
            peer,
            caller,
            progress_token: token.filter(|token| token.is_string() || token.is_number()).cloned(),
            log_from,
        }
    }

    /// Says how far the work is, if the client asked to know.
    pub(super) async fn progress(&self, done: u64, total: u64, message: &str) {
        if let Some(token) = &self.progress_token {
            let params = json!({ "progressToken": token, "progress": done, "total": total, "message": message });
            self.peer.send(&wire::notification("notifications/progress", params)).await;
        }
    }

    pub(super) async fn log(&self, level: Level, logger: &str, data: Value) {
        if self.log_from.is_some_and(|from| level >= from) {
            let params = json!({ "level": level.name(), "logger": logger, "data": data });
            self.peer.send(&wire::notification("notifications/message", params)).await;
        }
    }
}
