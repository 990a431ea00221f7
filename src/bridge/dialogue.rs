//! A legacy server that asks back while it serves a modern client's call (`protocol.md` §5.4).
//!
//! A modern client cannot be sent requests. So its call is answered with what the server wants to know
//! (`input_required`), and goes on at the server while the client looks for the answers; the client's next request
//! brings them, and the call's own answer goes to that one. In between the call is *suspended*, under a token that is
//! good once, for the same identity, method, name and arguments.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use tokio::time::Instant;

use super::auth::Identity;
use super::child::Child;
use super::exchange::Exchange;
use super::methods::{self, meta};
use super::refusal::Refusal;
use super::relay::legacy_child;
use super::reply::{Finish, Json};
use super::session_id::Abilities;
use crate::config::limits::Limits;
use crate::mcp::connection::{Connection, End};
use crate::mcp::envelope::{self, code};
use crate::mcp::members::{Members, quote, rewrite};
use crate::random;

/// What a token is good for.
#[derive(Debug, Clone)]
pub(super) struct Binding {
    identity: Identity,
    method: String,
    name: String,
    arguments: Arguments,
}

/// The arguments of a call: as they were written, or, where they are long or the call waits, their digest.
#[derive(Debug, Clone)]
enum Arguments {
    Written(String),
    Digest([u8; 32]),
}

impl Binding {
    pub(super) fn new(identity: &Identity, method: &str, name: Option<&str>, arguments: Option<&str>) -> Self {
        const SHORT: usize = 16 * 1024;
        let arguments = arguments.unwrap_or("null");
        let arguments = match arguments.len() {
            ..=SHORT => Arguments::Written(arguments.to_owned()),
            _ => Arguments::Digest(canonical_digest(arguments)),
        };
        Self {
            identity: identity.clone(),
            method: method.to_owned(),
            name: name.unwrap_or_default().to_owned(),
            arguments,
        }
    }

    /// The same, with the arguments made short.
    fn digested(&self) -> Self {
        Self { arguments: Arguments::Digest(self.digest()), ..self.clone() }
    }

    fn digest(&self) -> [u8; 32] {
        match &self.arguments {
            Arguments::Written(text) => canonical_digest(text),
            Arguments::Digest(digest) => *digest,
        }
    }

    fn fits(&self, other: &Self) -> bool {
        self.identity == other.identity
            && self.method == other.method
            && self.name == other.name
            && self.digest() == other.digest()
    }
}

/// SHA-256 of a JSON value with its keys sorted and without white space: a client may write the same arguments anew.
fn canonical_digest(text: &str) -> [u8; 32] {
    fn write(value: &serde_json::Value, text: &mut String) {
        match value {
            serde_json::Value::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                members.sort_unstable_by_key(|(key, _)| *key);
                text.push('{');
                for (key, value) in members {
                    text.push_str(&quote(key));
                    text.push(':');
                    write(value, text);
                    text.push(',');
                }
                text.push('}');
            }
            serde_json::Value::Array(values) => {
                text.push('[');
                for value in values {
                    write(value, text);
                    text.push(',');
                }
                text.push(']');
            }
            other => text.push_str(&other.to_string()),
        }
    }
    let mut canonical = String::new();
    match serde_json::from_str(text) {
        Ok(value) => write(&value, &mut canonical),
        // A number beyond what fits: then as it is written.
        Err(_) => canonical.push_str(text),
    }
    let digest = digest::digest(&digest::SHA256, canonical.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

/// A question of the server that its client has yet to answer.
#[derive(Debug)]
struct Question {
    /// What the client knows it by.
    key: String,
    /// The server's own id for it.
    id: Bytes,
    method: String,
    /// `{"method":…,"params":…}`, as the client gets it.
    request: String,
}

/// One call that may ask back, over all the HTTP requests that it takes.
pub(super) struct Dialogue {
    binding: Binding,
    child: Weak<Child>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where the call stands at the server.
    upstream: Option<(Connection<Exchange>, u64)>,
    /// Who is answered now. None while the client is to give its input.
    answering: Weak<Exchange>,
    suspended: bool,
    abilities: Abilities,
    /// What is asked in this round.
    pending: Vec<Question>,
    /// What was asked since.
    queued: Vec<Question>,
    /// More of the round's questions may be on their way.
    gathering: bool,
    /// The end of the call came while the client was to give its input.
    held: Option<End>,
    token: Option<String>,
    rounds: usize,
    keys: usize,
    /// Capabilities that the server needed and the client did not declare.
    lacking: Option<String>,
}

impl std::fmt::Debug for Dialogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialogue").field("method", &self.binding.method).finish_non_exhaustive()
    }
}

/// What a client is asked instead of being answered: an `InputRequiredResult`.
fn input_required(id: &[u8], questions: &[Question], token: &str, server: Option<&str>) -> Json {
    let requests: Vec<String> =
        questions.iter().map(|question| format!("{}:{}", quote(&question.key), question.request)).collect();
    input_required_of(id, &requests.join(","), token, server)
}

fn input_required_of(id: &[u8], requests: &str, token: &str, server: Option<&str>) -> Json {
    let server = server.map(|info| format!(",\"_meta\":{{{}:{info}}}", quote(meta::SERVER_INFO))).unwrap_or_default();
    let result = format!(
        "{{\"resultType\":\"input_required\",\"inputRequests\":{{{requests}}},\"requestState\":{}{server}}}",
        quote(token)
    );
    vec![Bytes::from(envelope::answer(&String::from_utf8_lossy(id), &result))]
}

impl Dialogue {
    pub(super) fn new(child: &Arc<Child>, binding: Binding) -> Arc<Self> {
        Arc::new(Self { binding, child: Arc::downgrade(child), state: Mutex::default() })
    }

    /// The call was sent, for this HTTP request.
    pub(super) fn sent(&self, connection: &Connection<Exchange>, number: u64, exchange: &Arc<Exchange>) {
        let mut state = self.lock();
        if !state.suspended {
            state.upstream = Some((connection.clone(), number));
            state.answering = Arc::downgrade(exchange);
            state.abilities = exchange.asking.abilities;
        }
    }

    /// The tool, prompt or resource that it is about.
    pub(super) fn name(&self) -> &str {
        &self.binding.name
    }

    /// What its tokens are good for.
    pub(super) fn binding(&self) -> &Binding {
        &self.binding
    }

    /// Whether its client is to give its input.
    pub(super) fn is_suspended(&self) -> bool {
        self.lock().suspended
    }

    /// Who is answered now.
    pub(super) fn answering(&self) -> Option<Arc<Exchange>> {
        self.lock().answering.upgrade()
    }

    /// What the server needed and the client did not declare.
    pub(super) fn lacking(&self) -> Option<String> {
        self.lock().lacking.clone()
    }

    /// The call has ended at the server. Returns whom to tell, now.
    pub(super) fn ended(&self, end: End) -> Option<(Arc<Exchange>, End)> {
        let mut state = self.lock();
        if !state.suspended {
            return state.answering.upgrade().map(|exchange| (exchange, end));
        }
        let (token, lost) = (state.token.clone(), matches!(end, End::Closed | End::NotSent));
        state.held = Some(end);
        drop(state);
        // What died with its server cannot be gone on with; to run it again is the client's decision.
        if lost && let (Some(child), Some(token)) = (self.child.upgrade(), token) {
            child.dialogues.forget(&token);
        }
        None
    }

    /// The server asks something while it serves this call.
    pub(super) fn ask(
        self: &Arc<Self>,
        limits: &Limits,
        id: Bytes,
        method: &str,
        params: &Members<'_>,
    ) -> Result<(), (i32, &'static str)> {
        let mut state = self.lock();
        if let Err(refused) = legacy_child::permitted(state.abilities, method, params) {
            state.lacking = Some(required(method, params));
            return Err(refused);
        }
        if state.rounds >= limits.max_rounds {
            return Err((code::INTERNAL_ERROR, "too many rounds of questions"));
        }
        let request = embedded(method, params);
        let asked: usize = state.pending.iter().chain(&state.queued).map(|question| question.request.len()).sum();
        if asked + request.len() > limits.max_input_bytes {
            return Err((code::INTERNAL_ERROR, "too much is asked at once"));
        }
        state.keys += 1;
        let question = Question { key: format!("f{}", state.keys), id, method: method.to_owned(), request };
        if state.suspended {
            state.queued.push(question);
            return Ok(());
        }
        state.pending.push(question);
        if !std::mem::replace(&mut state.gathering, true) {
            let (this, gather) = (Arc::clone(self), limits.round_gather);
            tokio::spawn(async move {
                tokio::time::sleep(gather).await;
                this.suspend();
            });
        }
        Ok(())
    }

    /// Gives the round's questions to the client, as the answer to its request.
    fn suspend(self: &Arc<Self>) {
        let mut state = self.lock();
        state.gathering = false;
        if state.suspended || state.pending.is_empty() {
            return;
        }
        let answering = state.answering.upgrade().filter(|exchange| !exchange.reply.is_over());
        let (Some(exchange), Some(child)) = (answering, self.child.upgrade()) else {
            return state.give_up("the client is gone");
        };
        if !child.dialogues.has_room(&self.binding.identity, &child.limits) {
            return state.give_up("too many calls wait for their clients");
        }
        let json = self.next_round(&mut state, &child, &exchange);
        drop(state);
        exchange.end(Finish::Ready(json));
    }

    /// Begins a round with what is pending, under a new token.
    fn next_round(self: &Arc<Self>, state: &mut State, child: &Child, exchange: &Exchange) -> Json {
        let token = new_token();
        state.answering = Weak::new();
        state.suspended = true;
        state.rounds += 1;
        state.token = Some(token.clone());
        child.dialogues.insert(token.clone(), Waiting::Suspended(Arc::clone(self)), &self.binding, &child.limits);
        let server = exchange.asking.server.server_info();
        input_required(&exchange.asking.id, &state.pending, &token, server)
    }

    /// The client is back: `responses` go to the server, and the call goes on for `exchange`. What is still to be asked
    /// is asked again at once.
    fn resume(self: &Arc<Self>, child: &Child, exchange: &Arc<Exchange>, responses: &Members<'_>) {
        let mut state = self.lock();
        let Some((connection, number)) = state.upstream.clone() else { return };
        exchange.attach(&connection, number);
        state.abilities = exchange.asking.abilities;
        let (answered, mut missing): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.pending).into_iter().partition(|question| responses.has(&question.key));
        for question in answered {
            let response = responses.text(&question.key).unwrap_or("{}");
            connection.answer(&String::from_utf8_lossy(&question.id), response);
        }
        missing.append(&mut state.queued);
        state.pending = missing;
        state.token = None;
        if let Some(end) = state.held.take() {
            state.suspended = false;
            state.answering = Arc::downgrade(exchange);
            drop(state);
            return exchange.end(Finish::Upstream(end));
        }
        if !state.pending.is_empty() {
            if state.rounds < child.limits.max_rounds {
                let json = self.next_round(&mut state, child, exchange);
                drop(state);
                return exchange.end(Finish::Ready(json));
            }
            state.give_up("too many rounds of questions");
        }
        state.suspended = false;
        state.answering = Arc::downgrade(exchange);
        drop(state);
        // The call's time is the server's again.
        if let Some(root) = connection.exchange(number) {
            root.begin_anew();
        }
    }

    /// The server takes a question back. Returns whether it was one of these.
    pub(super) fn withdraw(&self, id: &[u8]) -> bool {
        let mut state = self.lock();
        let before = state.pending.len() + state.queued.len();
        state.pending.retain(|question| question.id != id);
        state.queued.retain(|question| question.id != id);
        state.pending.len() + state.queued.len() < before
    }

    /// The client took too long.
    fn expire(&self) {
        let mut state = self.lock();
        state.give_up("the client did not answer in time");
        if let Some((connection, number)) = state.upstream.take() {
            drop(state);
            connection.cancel(number, Some("the client did not answer in time"));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds a dialogue")
    }
}

impl State {
    /// Nobody will answer what is asked.
    fn give_up(&mut self, why: &str) {
        let questions = std::mem::take(&mut self.pending).into_iter().chain(std::mem::take(&mut self.queued));
        if let Some((connection, _)) = &self.upstream {
            questions.for_each(|question| legacy_child::unanswered(connection, &question.id, &question.method, why));
        }
    }
}

/// What waits for its client, under its token.
#[derive(Debug, Clone)]
enum Waiting {
    /// A call that goes on at the server.
    Suspended(Arc<Dialogue>),
    /// A call that has ended because its user is to visit pages first; these are their keys.
    Restart { keys: Vec<String>, requests: String },
}

/// One of those who wait.
#[derive(Debug)]
struct Entry {
    waiting: Waiting,
    binding: Binding,
    expires: Instant,
}

/// What a client's return leads to.
pub(super) enum Return {
    /// The exchange will be answered by the call that it goes on with.
    Resumed,
    /// The call is to be made anew.
    Restart,
    /// It ends here: the user declined.
    Declined,
    /// Not everything was answered: the same again.
    Again(Json),
}

/// The calls at one server that wait for their clients, by their tokens. Whoever holds this locks no dialogue.
#[derive(Debug, Default)]
pub(super) struct Dialogues(Mutex<HashMap<String, Entry>>);

impl Dialogues {
    fn insert(&self, token: String, waiting: Waiting, binding: &Binding, limits: &Limits) {
        let expires = Instant::now() + limits.round_ttl;
        let entry = Entry { waiting, binding: binding.digested(), expires };
        self.lock().insert(token, entry);
    }

    fn forget(&self, token: &str) {
        self.lock().remove(token);
    }

    fn has_room(&self, identity: &Identity, limits: &Limits) -> bool {
        let table = self.lock();
        let own = table.values().filter(|entry| entry.binding.identity == *identity).count();
        own < limits.max_suspended_per_identity && table.len() < limits.max_suspended
    }

    /// A call that its user's visit to some pages has to precede: the answer that asks for that.
    pub(super) fn restart(
        &self,
        exchange: &Exchange,
        binding: &Binding,
        urls: &[Members<'_>],
        limits: &Limits,
    ) -> Option<Json> {
        if !self.has_room(&binding.identity, limits) {
            return None;
        }
        let keys: Vec<String> = (1..=urls.len()).map(|number| format!("f{number}")).collect();
        let requests = keys.iter().zip(urls).map(|(key, url)| {
            let params = rewrite(url, &[("elicitationId", None), ("mode", Some("\"url\""))]);
            format!("{}:{{\"method\":\"{}\",\"params\":{params}}}", quote(key), methods::ELICIT)
        });
        let requests = requests.collect::<Vec<_>>().join(",");
        Some(self.ask_to_restart(exchange, binding, keys, requests, limits))
    }

    fn ask_to_restart(
        &self,
        exchange: &Exchange,
        binding: &Binding,
        keys: Vec<String>,
        requests: String,
        limits: &Limits,
    ) -> Json {
        let token = new_token();
        let json = input_required_of(&exchange.asking.id, &requests, &token, exchange.asking.server.server_info());
        self.insert(token, Waiting::Restart { keys, requests }, binding, limits);
        json
    }

    /// A client comes back with a token, and with what it was asked for. The token is good once, and for nobody else:
    /// a stranger's try leaves it as it is, and is told no more than anybody with a wrong one.
    pub(super) fn come_back(
        &self,
        child: &Child,
        exchange: &Arc<Exchange>,
        token: &str,
        binding: &Binding,
        responses: &Members<'_>,
    ) -> Result<Return, Refusal> {
        let waiting = {
            let mut table = self.lock();
            let now = Instant::now();
            if !table.get(token).is_some_and(|entry| entry.binding.fits(binding) && entry.expires > now) {
                return Err(Refusal::InvalidRequestState);
            }
            table.remove(token).map(|entry| entry.waiting)
        };
        match waiting.ok_or(Refusal::InvalidRequestState)? {
            Waiting::Suspended(dialogue) => {
                exchange.joins(&dialogue);
                dialogue.resume(child, exchange, responses);
                Ok(Return::Resumed)
            }
            Waiting::Restart { keys, requests } => {
                let action = |key: &String| {
                    let response = responses.object(key)?;
                    Some(response.string("action")?.into_owned())
                };
                if keys.iter().any(|key| action(key).is_some_and(|action| action != "accept")) {
                    return Ok(Return::Declined);
                }
                if keys.iter().all(|key| action(key).is_some()) {
                    return Ok(Return::Restart);
                }
                Ok(Return::Again(self.ask_to_restart(exchange, binding, keys, requests, &child.limits)))
            }
        }
    }

    /// Ends what has waited for too long.
    pub(super) fn expire(&self, now: Instant) {
        let over: Vec<Waiting> =
            self.lock().extract_if(|_, entry| entry.expires <= now).map(|(_, entry)| entry.waiting).collect();
        for waiting in over {
            if let Waiting::Suspended(dialogue) = waiting {
                dialogue.expire();
            }
        }
    }

    /// Whether anything waits.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock().expect("nothing panics while it holds the dialogues")
    }
}

fn new_token() -> String {
    format!("f2.{}", URL_SAFE_NO_PAD.encode(random::bytes::<32>()))
}

/// A server's question as a modern client gets it: without what ties it to a stream or a task.
fn embedded(method: &str, params: &Members<'_>) -> String {
    if params.is_empty() {
        return format!("{{\"method\":{}}}", quote(method));
    }
    let meta = params.object("_meta").map(|meta| rewrite(&meta, &[(meta::PROGRESS_TOKEN, None)]));
    let meta = meta.filter(|meta| meta != "{}");
    let mut changes = vec![("task", None), ("elicitationId", None)];
    if params.has("_meta") {
        changes.push(("_meta", meta.as_deref()));
    }
    format!("{{\"method\":{},\"params\":{}}}", quote(method), rewrite(params, &changes))
}

/// What a client would have to declare for this question.
fn required(method: &str, params: &Members<'_>) -> String {
    match method {
        methods::CREATE_MESSAGE if params.has("tools") || params.has("toolChoice") => r#"{"sampling":{"tools":{}}}"#,
        methods::CREATE_MESSAGE => r#"{"sampling":{}}"#,
        methods::ELICIT if params.string("mode").is_some_and(|mode| mode == "url") => r#"{"elicitation":{"url":{}}}"#,
        methods::ELICIT => r#"{"elicitation":{"form":{}}}"#,
        _ => r#"{"roots":{}}"#,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_arguments_written_anew_are_the_same() {
        let digest = canonical_digest(r#"{"b":[1,{"y":2,"x":"é"}],"a":null}"#);
        assert_eq!(digest, canonical_digest("{ \"a\" : null, \"b\":[1, {\"x\":\"\\u00e9\",\"y\":2}] }"));
        for other in [r#"{"b":[{"y":2,"x":"é"},1],"a":null}"#, r#"{"b":[1,{"y":2,"x":"é"}]}"#, "null", "1e999", "{}"]
        {
            assert_ne!(digest, canonical_digest(other), "{other}");
        }
    }

    #[test]
    fn a_token_is_bound_to_everything_that_makes_the_call() {
        let ada = Identity::access("i", "ada");
        let bound = Binding::new(&ada, "tools/call", Some("t"), Some("{\"a\":1}")).digested();
        let fits =
            |identity: &Identity, method, name, arguments| bound.fits(&Binding::new(identity, method, name, arguments));
        assert!(fits(&ada, "tools/call", Some("t"), Some("{ \"a\": 1 }")));
        for (identity, method, name, arguments) in [
            (&Identity::access("i", "bob"), "tools/call", Some("t"), Some("{\"a\":1}")),
            (&ada, "prompts/get", Some("t"), Some("{\"a\":1}")),
            (&ada, "tools/call", Some("u"), Some("{\"a\":1}")),
            (&ada, "tools/call", Some("t"), Some("{\"a\":2}")),
            (&ada, "tools/call", Some("t"), None),
        ] {
            assert!(!fits(identity, method, name, arguments), "{identity:?} {method} {name:?} {arguments:?}");
        }
    }

    #[test]
    fn a_question_is_embedded_without_what_ties_it_to_a_stream() {
        for (params, embedded_params) in [
            (r#"{"message":"?","_meta":{"progressToken":1}}"#, r#","params":{"message":"?"}"#),
            (
                r#"{"_meta":{"progressToken":1,"x":2},"task":{},"mode":"url","elicitationId":"e"}"#,
                r#","params":{"_meta":{"x":2},"mode":"url"}"#,
            ),
            ("{}", ""),
        ] {
            let members = Members::read(params).unwrap();
            assert_eq!(
                embedded("elicitation/create", &members),
                format!("{{\"method\":\"elicitation/create\"{embedded_params}}}")
            );
        }
    }
}
