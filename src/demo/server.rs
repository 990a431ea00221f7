//! The loop: a line in, its handler found, an answer out. What takes its time runs beside the loop, so that nothing else
//! waits for it.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader};
use tokio::task::{AbortHandle, JoinSet};

use super::call::Call;
use super::era::{Caller, Era, Level, MODERN};
use super::notes::{Change, Notes};
use super::peer::{self, Peer};
use super::subscriptions::Subscriptions;
use super::tools::{self, Called};
use super::wire::{self, Message, Object, RpcError};
use super::{prompts, resources};

const INSTRUCTIONS: &str = "A demo server to try a connection with. `echo` and `time` answer at once, `count` takes its \
    time, `greet` asks you something, and the notes are tools and resources both. Nothing is stored on disk.";

/// As much as a pipe holds.
const READ: usize = 64 * 1024;

/// How long a client that has closed its end may take to read what is still due to it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves one client until it closes its end or stops reading.
pub async fn serve(reader: impl AsyncRead + Unpin, writer: impl AsyncWrite + Unpin) {
    let (peer, lines) = peer::channel();
    let mut writing = Box::pin(peer::write_lines(lines, writer));
    let server = Server::new(peer);
    tokio::select! {
        () = server.run(BufReader::with_capacity(READ, reader)) => {}
        () = &mut writing => return,
    }
    // The server is gone and with it everybody who could still write; what was queued before may be read.
    let _ = tokio::time::timeout(LAST_WORDS, writing).await;
}

struct Server {
    peer: Peer,
    era: Era,
    session_level: Option<Level>,
    notes: Notes,
    subscriptions: Subscriptions,
    /// Each running request by its id as JSON, which tells `1` from `"1"`.
    running: HashMap<String, AbortHandle>,
    tasks: JoinSet<()>,
}

/// What a request comes to.
enum Reply {
    Result(Called),
    /// A subscription: this message first, and no answer as long as it is open.
    Open(Value),
}

impl Server {
    fn new(peer: Peer) -> Self {
        Self {
            peer,
            era: Era::Open,
            session_level: None,
            notes: Notes::default(),
            subscriptions: Subscriptions::default(),
            running: HashMap::new(),
            tasks: JoinSet::new(),
        }
    }

    async fn run(mut self, mut reader: impl AsyncBufReadExt + Unpin) {
        // `read_until` may be interrupted: what it has read so far stays here.
        let mut line = Vec::new();
        loop {
            tokio::select! {
                read = reader.read_until(b'\n', &mut line) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {
                        self.receive(line.trim_ascii()).await;
                        line.clear();
                    }
                },
                Some(_) = self.tasks.join_next() => self.running.retain(|_, task| !task.is_finished()),
            }
        }
    }

    async fn receive(&mut self, line: &[u8]) {
        if line.is_empty() {
            return;
        }
        match Message::parse(line) {
            Ok(Message::Request { id, method, params }) => self.request(id, &method, &params).await,
            Ok(Message::Notification { method, params }) => {
                if method == "notifications/cancelled"
                    && let Some(id) = params.get("requestId")
                {
                    self.cancel(id);
                }
            }
            Ok(Message::Response { id, outcome }) => self.peer.answered(&id, outcome),
            Err(refused) => self.peer.send(&wire::response(refused.id.as_ref(), Err(refused.error))).await,
        }
    }

    /// The client wants no answer any more, so it gets none.
    fn cancel(&mut self, id: &Value) {
        self.subscriptions.end(id);
        if let Some(task) = self.running.remove(&id.to_string()) {
            task.abort();
        }
    }

    async fn request(&mut self, id: Value, method: &str, params: &Object) {
        let running = self.running.get(&id.to_string()).is_some_and(|task| !task.is_finished());
        if running || self.subscriptions.is_listening(&id) {
            let error = RpcError::invalid_request("a request with this id is being served");
            return self.peer.send(&wire::response(Some(&id), Err(error))).await;
        }
        let caller = match self.era.admit(method, params) {
            Ok(caller) => caller,
            Err(error) => return self.peer.send(&wire::response(Some(&id), Err(error))).await,
        };
        let finish = Finish { modern: caller.is_modern(), cache: Cache::of(method) };
        match self.dispatch(&id, method, params, caller) {
            Ok(Reply::Result(Called::Done(result))) => {
                self.peer.send(&finish.response(&id, Ok(result))).await;
            }
            Ok(Reply::Result(Called::Changed(result, changes))) => {
                self.peer.send(&finish.response(&id, Ok(result))).await;
                let call = Call::new(self.peer.clone(), caller, params, self.session_level);
                call.log(Level::INFO, "notes", json!("the notes have changed")).await;
                self.announce(&changes).await;
            }
            Ok(Reply::Result(Called::Running(work))) => {
                let (peer, key) = (self.peer.clone(), id.to_string());
                let task = self.tasks.spawn(async move {
                    let outcome = work.await;
                    peer.send(&finish.response(&id, outcome)).await;
                });
                self.running.insert(key, task);
            }
            Ok(Reply::Open(first)) => self.peer.send(&first).await,
            Err(error) => self.peer.send(&wire::response(Some(&id), Err(error))).await,
        }
    }

    fn dispatch(&mut self, id: &Value, method: &str, params: &Object, caller: Caller) -> Result<Reply, RpcError> {
        let modern = caller.is_modern();
        let result = match method {
            "initialize" if !modern => self.initialize(params)?,
            "ping" if !modern => json!({}),
            "logging/setLevel" if !modern => {
                let level = params.get("level").and_then(Level::parse);
                self.session_level = Some(level.ok_or_else(|| RpcError::invalid_params("`level` is no level"))?);
                json!({})
            }
            "resources/subscribe" if !modern => {
                self.subscriptions.subscribe(resources::find(&self.notes, params, caller)?.uri());
                json!({})
            }
            "resources/unsubscribe" if !modern => {
                let uri = params.get("uri").and_then(Value::as_str);
                self.subscriptions.unsubscribe(uri.ok_or_else(|| RpcError::invalid_params("`uri` is missing"))?);
                json!({})
            }
            "server/discover" if modern => {
                json!({ "supportedVersions": MODERN, "capabilities": capabilities(), "instructions": INSTRUCTIONS })
            }
            "subscriptions/listen" if modern => {
                return self.subscriptions.listen(id, params, &self.notes).map(Reply::Open);
            }
            "tools/list" => tools::list(),
            "tools/call" => {
                let call = Call::new(self.peer.clone(), caller, params, self.session_level);
                return tools::call(params, call, &mut self.notes).map(Reply::Result);
            }
            "resources/list" => resources::list(&self.notes),
            "resources/templates/list" => resources::templates(),
            "resources/read" => resources::read(&self.notes, params, caller)?,
            "prompts/list" => prompts::list(),
            "prompts/get" => prompts::get(&self.notes, params)?,
            "completion/complete" => prompts::complete(&self.notes, params)?,
            _ => return Err(RpcError::method_not_found(method)),
        };
        Ok(Reply::Result(Called::Done(result)))
    }

    fn initialize(&mut self, params: &Object) -> Result<Value, RpcError> {
        let session = self.era.open_session(params)?;
        Ok(json!({
            "protocolVersion": session.version,
            "capabilities": capabilities(),
            "serverInfo": server_info(),
            "instructions": INSTRUCTIONS,
        }))
    }

    async fn announce(&self, changes: &[Change]) {
        for change in changes {
            if let Era::Legacy(_) = self.era {
                if let Some(news) = self.subscriptions.for_session(change) {
                    self.peer.send(&news).await;
                }
            } else {
                for news in self.subscriptions.for_listens(change) {
                    self.peer.send(&news).await;
                }
            }
        }
    }
}

/// The same in both eras. The tools and prompts never change, so there is no `listChanged` for them.
fn capabilities() -> Value {
    json!({
        "tools": {},
        "resources": { "subscribe": true, "listChanged": true },
        "prompts": {},
        "completions": {},
        "logging": {},
    })
}

fn server_info() -> Value {
    json!({ "name": "ferry-demo", "title": "ferry's demo server", "version": env!("CARGO_PKG_VERSION") })
}

/// What a modern result has beyond the method's own members.
struct Finish {
    modern: bool,
    cache: Option<Cache>,
}

/// How long who may keep a result.
struct Cache {
    ttl_ms: u32,
    scope: &'static str,
}

impl Cache {
    fn of(method: &str) -> Option<Self> {
        match method {
            // The same for everybody, for as long as this version runs.
            "server/discover" | "tools/list" | "prompts/list" | "resources/templates/list" => {
                Some(Self { ttl_ms: 300_000, scope: "public" })
            }
            "resources/list" | "resources/read" => Some(Self { ttl_ms: 0, scope: "private" }),
            _ => None,
        }
    }
}

impl Finish {
    fn response(&self, id: &Value, outcome: Result<Value, RpcError>) -> Value {
        let outcome = outcome.map(|mut result| {
            if self.modern {
                if result.get("resultType").is_none() {
                    result["resultType"] = "complete".into();
                }
                if let Some(cache) = &self.cache {
                    result["ttlMs"] = cache.ttl_ms.into();
                    result["cacheScope"] = cache.scope.into();
                }
                result["_meta"] = json!({ "io.modelcontextprotocol/serverInfo": server_info() });
            }
            result
        });
        wire::response(Some(id), outcome)
    }
}
