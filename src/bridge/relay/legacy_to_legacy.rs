//! Legacy client, legacy server: many sessions share one handshake.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};

use super::super::child::{Child, Isolation, Live, Subscriber};
use super::super::endpoint::Endpoint;
use super::super::era;
use super::super::exchange::{Asking, Begun, Exchange, Owner, Reader, Words, begin, envelope};
use super::super::headers::{LAST_EVENT_ID, MCP_SESSION_ID, single};
use super::super::introduction::Introduction;
use super::super::level::Level;
use super::super::methods;
use super::super::refusal::Refusal;
use super::super::replay::{EventId, Standing, Track, opening};
use super::super::reply::Json;
use super::super::session_id::Abilities;
use super::super::sessions::Session;
use super::super::standalone::{self, Standalone};
use super::super::stream::{Body, Event, OK, Source, bare, event_stream, json};
use super::{Call, edited, legacy_child, legacy_to_modern, modern_to_modern, refused, token, token_edit};
use crate::mcp::envelope::{Kind, Message};
use crate::mcp::members::{Members, elements, quote, rewrite};
use crate::mcp::version::{Era, LATEST_LEGACY, LEGACY};

/// `initialize`: a session, and the server's own words about itself.
pub(in crate::bridge) async fn initialize(call: &Call<'_>, message: &Message) -> Response<Body> {
    match open(call, message).await {
        Ok(response) => response,
        // Without a session id: some clients keep one from any answer.
        Err(refusal) => refused(&refusal, message),
    }
}

async fn open(call: &Call<'_>, message: &Message) -> Result<Response<Body>, Refusal> {
    let (session, welcome) = match open_session(call, message, None).await? {
        Opened::Session(session, welcome) => (session, welcome),
        Opened::Refused(error) => return Ok(call.now(error)),
    };
    let mut response = call.now(welcome);
    let header = HeaderValue::from_str(&session.id).expect("a session id is of letters, digits, - and _");
    response.headers_mut().insert(MCP_SESSION_ID, header);
    Ok(response)
}

/// Opens a session, with `own_stream` for its stream if it has one already. Returns the answer too.
pub(in crate::bridge) async fn open_session(
    call: &Call<'_>,
    message: &Message,
    own_stream: Option<Arc<Standalone>>,
) -> Result<Opened, Refusal> {
    let asked = asked_version(message)?;
    let params = message.param_members().unwrap_or_default();
    let id = message.id().ok_or(Refusal::InvalidRequest("`initialize` is a request".into()))?;
    let introduction = |isolation| match isolation {
        Isolation::Session => Introduction::verbatim(message),
        Isolation::User | Isolation::Shared => Introduction::of_person(message),
    };
    let opening = Opening::begin(call, introduction);
    let live = match opening.child.live().await {
        Ok(live) => live,
        // Its own words, where it was opened for this client alone.
        Err(refusal) => match opening.child.take_refusal().filter(|_| opening.child.is_one_sessions()) {
            Some(error) => return Ok(Opened::Refused(envelope(&id, "error", error))),
            None => return Err(refusal),
        },
    };
    let version = if opening.child.is_one_sessions() && live.opened.era == Era::Legacy {
        // Client and server have settled it between themselves.
        LEGACY.iter().find(|known| **known == live.opened.version).copied().unwrap_or(LATEST_LEGACY)
    } else {
        // Independent of what the server speaks: payloads are additive and gated by capabilities.
        negotiated(&asked)
    };
    let client = params.object("clientInfo").unwrap_or_default();
    let client = |name| client.string(name).map(Cow::into_owned).unwrap_or_default();
    let client = (client("name"), client("version"));
    let abilities = params.object("capabilities").map(|capabilities| abilities(&capabilities)).unwrap_or_default();
    let session = call.endpoint.sessions.open(call.identity, version, abilities, client, own_stream)?;
    if opening.child.is_private() || live.opened.era == Era::Modern {
        session.introduce(introduction(call.endpoint.isolation()));
    }
    let child = opening.adopted_by(&session);
    child.wish_to_listen();
    call.endpoint.forget_evicted();
    tracing::info!(client = session.client, version, "a session was opened");
    Ok(Opened::Session(session, welcome(&live, version, &child, message)))
}

/// The version that an `initialize` asks for.
pub(super) fn asked_version(message: &Message) -> Result<Cow<'_, str>, Refusal> {
    let params = message.param_members().map_err(|error| Refusal::InvalidRequest(error.to_string().into()))?;
    params.string("protocolVersion").ok_or(Refusal::InvalidParams {
        era: Era::Legacy,
        why: Cow::Borrowed("`params.protocolVersion` must be a string"),
    })
}

/// The version that ferry speaks with a client which asks for this one.
pub(super) fn negotiated(asked: &str) -> &'static str {
    LEGACY.iter().find(|known| **known == asked).copied().unwrap_or(LATEST_LEGACY)
}

/// What came of an `initialize`.
pub(in crate::bridge) enum Opened {
    /// A session, and the answer.
    Session(Arc<Session>, Json),
    /// The server's refusal.
    Refused(Json),
}

/// A server that is being opened for a session. Ended again where nothing comes of it.
struct Opening<'a> {
    endpoint: &'a Endpoint,
    child: Arc<Child>,
    adopted: bool,
}

impl<'a> Opening<'a> {
    fn begin(call: &Call<'a>, introduction: impl FnOnce(Isolation) -> Introduction) -> Self {
        let child = call.endpoint.children.for_initialize(call.identity, introduction);
        Self { endpoint: call.endpoint, child, adopted: false }
    }

    fn adopted_by(mut self, session: &Session) -> Arc<Child> {
        self.adopted = true;
        self.endpoint.children.adopt(&self.child, session);
        Arc::clone(&self.child)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if !self.adopted && self.child.is_one_sessions() {
            self.endpoint.children.remove(&self.child);
        }
    }
}

/// The answer to `initialize`: of a server of the session's own, its own; of one that is shared, with what is not
/// everybody's taken out.
pub(super) fn welcome(live: &Live, version: &str, child: &Child, message: &Message) -> Json {
    let result = match live.opened.era {
        Era::Modern => legacy_to_modern::welcome(live, version, child.name()),
        Era::Legacy if child.is_one_sessions() => live.opened.result.clone(),
        Era::Legacy => edited_welcome(live, version, child),
    };
    envelope(&message.id().unwrap_or_default(), "result", result)
}

/// The server's `InitializeResult` with the version negotiated here, and without a list of everybody's tasks.
fn edited_welcome(live: &Live, version: &str, child: &Child) -> Bytes {
    let Ok(result) = std::str::from_utf8(&live.opened.result).map(Members::read) else {
        return live.opened.result.clone();
    };
    let Ok(result) = result else { return live.opened.result.clone() };
    let capabilities = result.object("capabilities").and_then(|capabilities| {
        let tasks = capabilities.object("tasks").filter(|tasks| tasks.has("list") && !child.is_private())?;
        Some(rewrite(&capabilities, &[("tasks", Some(&rewrite(&tasks, &[("list", None)])))]))
    });
    let version = quote(version);
    let mut changes = vec![("protocolVersion", Some(version.as_str()))];
    if let Some(capabilities) = &capabilities {
        changes.push(("capabilities", Some(capabilities)));
    }
    Bytes::from(rewrite(&result, &changes))
}

/// What a legacy client declared, as far as ferry's routing depends on it.
pub(super) fn abilities(capabilities: &Members<'_>) -> Abilities {
    let elicitation = capabilities.object("elicitation");
    Abilities {
        roots: capabilities.truthy("roots"),
        sampling: capabilities.truthy("sampling"),
        sampling_tools: capabilities.object("sampling").is_some_and(|sampling| sampling.truthy("tools")),
        // An empty object means form mode, which was all there was before URL mode (2025-11-25).
        elicitation_form: elicitation.as_ref().is_some_and(|e| e.truthy("form") || e.is_empty()),
        elicitation_url: elicitation.as_ref().is_some_and(|e| e.truthy("url")),
    }
}

/// A message of a session.
pub(in crate::bridge) async fn message(
    call: &Call<'_>,
    named: &era::Session<'_>,
    message: &Message,
    params: &era::Params<'_>,
) -> Response<Body> {
    let outcome = async {
        let session = find(call, named)?;
        match message.kind() {
            Kind::Request => Ok(match request(call, &session, message, params).await? {
                Begun::Now(json) => call.now(json),
                Begun::Later(reader) => reader.respond(call.terms()).await,
            }),
            Kind::Notification => {
                notification(call, &session, message, params);
                Ok(bare(StatusCode::ACCEPTED))
            }
            Kind::Response => {
                legacy_child::answered(call.endpoint, &session, message);
                Ok(bare(StatusCode::ACCEPTED))
            }
        }
    };
    outcome.await.unwrap_or_else(|refusal| refused(&refusal, message))
}

/// A standing stream of a session, or one that goes on where it broke off.
pub(in crate::bridge) fn stream(call: &Call<'_>, named: &era::Session<'_>) -> Result<Response<Body>, Refusal> {
    let session = find(call, named)?;
    let keep_alive = call.endpoint.limits.keep_alive;
    let last = single(call.headers, &LAST_EVENT_ID).ok().flatten().and_then(EventId::parse);
    let known = last.as_ref().and_then(|last| session.tracks.find(&last.stream));
    match (last, known) {
        (Some(last), Some(track)) if last.is_standalone() => {
            // It may have no final response, so there is always something to go on with.
            let missed = match track.after(last.seq) {
                Standing::Goes(missed, _) => missed,
                Standing::Over => VecDeque::new(),
            };
            Ok(event_stream(StandingStream::new(&session, track, missed), opening(session.version, &last), keep_alive))
        }
        (Some(last), Some(track)) => match track.after(last.seq) {
            // An SSE body without anything to say would make some clients come back for ever.
            Standing::Over => Ok(bare(StatusCode::NO_CONTENT)),
            Standing::Goes(missed, exchange) => {
                let key = track.attach();
                let reader = exchange.map(|exchange| Reader::resume(exchange, track, key));
                let tab = reader.as_ref().map(Reader::tab);
                let stream = event_stream(Resumed { missed, reader }, opening(session.version, &last), keep_alive);
                Ok(stream.map(|body| if let Some(tab) = tab { body.on(tab) } else { body }))
            }
        },
        (Some(last), None) if !last.is_standalone() => {
            // Never 404, which would mean that the session is gone.
            Err(Refusal::InvalidRequest("unknown stream in Last-Event-ID".into()))
        }
        // After an error SDK clients give the standing stream up for good, so an unknown one is a new one.
        _ => {
            let track = session.tracks.standalone();
            let first = EventId { stream: track.id.clone(), seq: 0 };
            Ok(event_stream(
                StandingStream::new(&session, track, VecDeque::new()),
                opening(session.version, &first),
                keep_alive,
            ))
        }
    }
}

/// A POST's stream that goes on: what was missed, then what the request still has to say.
struct Resumed {
    missed: VecDeque<(EventId, Json)>,
    reader: Option<Reader>,
}

impl Source for Resumed {
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        if let Some((id, json)) = self.missed.pop_front() {
            return Poll::Ready(Some(Event { id: Some(id), json }));
        }
        match &mut self.reader {
            Some(reader) => reader.poll_event(context),
            None => Poll::Ready(None),
        }
    }
}

/// A session's own stream: what was missed of it, then whatever comes.
struct StandingStream {
    session: Arc<Session>,
    track: Arc<Track>,
    key: u64,
    missed: VecDeque<(EventId, Json)>,
    stream: standalone::Stream,
}

impl StandingStream {
    fn new(session: &Arc<Session>, track: Arc<Track>, missed: VecDeque<(EventId, Json)>) -> Self {
        let key = track.attach();
        Self { session: Arc::clone(session), track, key, missed, stream: session.standalone.open() }
    }
}

impl Source for StandingStream {
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        if !self.track.serves(self.key, context.waker()) {
            return Poll::Ready(None);
        }
        if let Some((id, json)) = self.missed.pop_front() {
            return Poll::Ready(Some(Event { id: Some(id), json }));
        }
        self.stream.poll_event(context).map(|event| {
            event.map(|event| Event { id: Some(self.session.tracks.note(&self.track, &event.json, false)), ..event })
        })
    }
}

/// The end of a session.
pub(in crate::bridge) fn end(call: &Call<'_>, named: &era::Session<'_>) -> Result<Response<Body>, Refusal> {
    if let Some(session) = call.endpoint.sessions.end(call.identity, named.id)? {
        call.endpoint.forget(&session);
    }
    Ok(bare(StatusCode::NO_CONTENT))
}

fn find(call: &Call<'_>, named: &era::Session<'_>) -> Result<Arc<Session>, Refusal> {
    let found = call.endpoint.sessions.find(call.identity, named.id)?;
    let session = found.session;
    if found.revived {
        call.endpoint.forget_evicted();
        tracing::info!(client = session.client, "a session was revived");
        if let Some(child) = call.endpoint.children.existing(&session) {
            child.wish_to_listen();
            if let Some(live) = child.current() {
                Child::hint_lists(&session, &live);
            }
        }
    }
    if let Some(version) = named.version
        && session.first_odd_version(version)
    {
        tracing::warn!(client = session.client, header = version, "MCP-Protocol-Version is not the session's");
    }
    Ok(session)
}

pub(in crate::bridge) fn notification(
    call: &Call<'_>,
    session: &Arc<Session>,
    message: &Message,
    params: &era::Params<'_>,
) {
    let Some(child) = call.endpoint.children.existing(session) else { return };
    match message.method() {
        methods::CANCELLED => {
            let Some(id) = params.members.text("requestId") else { return };
            cancel(&child, session, id, params.members.string("reason").as_deref());
        }
        methods::PROGRESS => {
            if let Some(token) = params.members.text("progressToken") {
                legacy_child::progress_of_answer(&child, session, token, message);
            }
        }
        methods::INITIALIZED => {
            if let Some(live) = child.current() {
                live.initialized();
            }
        }
        // A server of one session's own has one client, and an identity's own one person: the others could not tell
        // whose roots changed, or who says what ferry does not know.
        methods::ROOTS_CHANGED if !child.is_one_sessions() => {}
        other if child.current().is_some_and(|live| live.opened.era == Era::Modern) => {
            modern_to_modern::pass_on(call, &child, other, message);
        }
        other if child.is_private() && methods::is_notification(other) => {
            if let Some(live) = child.current().filter(|live| live.opened.era == Era::Legacy) {
                live.initialized();
                live.connection.notify(other, message.params_text());
            }
        }
        other => tracing::debug!(method = other, "a notification to a shared server was dropped"),
    }
}

/// Cancels the session's newest request with this id. One that is not there is none of ferry's business.
fn cancel(child: &Child, session: &Arc<Session>, id: &str, reason: Option<&str>) {
    let Some(live) = child.current() else { return };
    let mut newest: Option<(u64, Arc<Exchange>)> = None;
    live.connection.each(|number, exchange, cancelled| {
        let meant = !cancelled && exchange.is_of(session) && exchange.asking.id == id.as_bytes();
        if meant && newest.as_ref().is_none_or(|(known, _)| number > *known) {
            newest = Some((number, Arc::clone(exchange)));
        }
    });
    let driven = child.driven();
    let mut driven = driven.iter().rev();
    let driven = driven.find(|exchange| exchange.is_of(session) && exchange.asking.id == id.as_bytes());
    if let (None, Some(exchange)) = (&newest, driven) {
        return exchange.cancel(reason.unwrap_or("cancelled by the client"), Refusal::Cancelled);
    }
    if let Some((number, exchange)) = newest {
        exchange.cancel(reason.unwrap_or("cancelled by the client"), Refusal::Cancelled);
        legacy_child::withdraw(session, number);
    }
}

/// The empty result. Exactly that: some clients refuse an answer with more in it.
fn empty(id: &[u8]) -> Begun {
    Begun::Now(envelope(id, "result", Bytes::from_static(b"{}")))
}

/// A batch, which only sessions of 2025-03-26 have: each of its messages goes its own way, and the answers come
/// together.
pub(in crate::bridge) async fn batch(
    call: &Call<'_>,
    named: &era::Session<'_>,
    body: &[u8],
) -> Result<Response<Body>, Refusal> {
    let invalid = |why: &'static str| Refusal::InvalidRequest(why.into());
    let session = find(call, named)?;
    if session.version != BATCHES {
        return Err(invalid("arrays of messages are of protocol version 2025-03-26 only"));
    }
    let text = std::str::from_utf8(body).map_err(|_| invalid("the body is not valid UTF-8"))?;
    let elements = elements(text).map_err(|error| Refusal::ParseError(error.to_string().into()))?;
    if !(1..=MAX_BATCH).contains(&elements.len()) {
        return Err(invalid("a batch has 1 to 64 messages"));
    }
    let messages = elements.iter().map(|element| Message::from_client(element.get().as_bytes().to_vec()));
    let messages: Vec<Message> = messages.collect::<Result<_, _>>()?;
    if messages.iter().any(|message| message.method() == methods::INITIALIZE) {
        return Err(invalid("`initialize` cannot be part of a batch"));
    }
    // All are sound before the first one goes out.
    let parameters = messages.iter().map(era::Params::of).collect::<Result<Vec<_>, _>>()?;
    let mut answers = Vec::new();
    for (message, params) in messages.iter().zip(&parameters) {
        match message.kind() {
            Kind::Request => answers.push(
                request(call, &session, message, params)
                    .await
                    .unwrap_or_else(|refusal| Begun::Now(vec![Bytes::from(refusal.in_band(message.id().as_deref()))])),
            ),
            Kind::Notification => notification(call, &session, message, params),
            Kind::Response => legacy_child::answered(call.endpoint, &session, message),
        }
    }
    if answers.is_empty() {
        return Ok(bare(StatusCode::ACCEPTED));
    }
    if call.accepted.sse() {
        return Ok(event_stream(Together(answers), OK, call.endpoint.limits.keep_alive));
    }
    let mut array = vec![Bytes::from_static(b"[")];
    for answer in answers {
        if array.len() > 1 {
            array.push(Bytes::from_static(b","));
        }
        array.extend(match answer {
            Begun::Now(json) => json,
            Begun::Later(reader) => reader.whole().await,
        });
    }
    array.push(Bytes::from_static(b"]"));
    Ok(json(StatusCode::OK, array))
}

/// The only version with batches.
const BATCHES: &str = "2025-03-26";

/// How many messages a batch may have.
const MAX_BATCH: usize = 64;

/// Several answers on one stream, each as it comes.
struct Together(Vec<Begun>);

impl Source for Together {
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut at = 0;
        while at < self.0.len() {
            match &mut self.0[at] {
                Begun::Now(json) => {
                    let json = std::mem::take(json);
                    self.0.remove(at);
                    return Poll::Ready(Some(json.into()));
                }
                Begun::Later(reader) => match reader.poll_event(context) {
                    Poll::Ready(Some(event)) => return Poll::Ready(Some(event)),
                    Poll::Ready(None) => drop(self.0.remove(at)),
                    Poll::Pending => at += 1,
                },
            }
        }
        if self.0.is_empty() { Poll::Ready(None) } else { Poll::Pending }
    }
}

/// A request of a session, by the era of its server.
pub(in crate::bridge) async fn request(
    call: &Call<'_>,
    session: &Arc<Session>,
    message: &Message,
    params: &era::Params<'_>,
) -> Result<Begun, Refusal> {
    let _busy = session.busy();
    let child = call.endpoint.child_of(session);
    if let Some(answer) = at_once(&child, session, message, params)? {
        return Ok(answer);
    }
    let live = child.live().await?;
    match live.opened.era {
        Era::Modern => legacy_to_modern::request(call, session, &child, live, message, params).await,
        Era::Legacy => to_legacy(call, session, &child, live, message, params).await,
    }
}

/// The answer that needs no server, whatever its era.
fn at_once(
    child: &Arc<Child>,
    session: &Arc<Session>,
    message: &Message,
    params: &era::Params<'_>,
) -> Result<Option<Begun>, Refusal> {
    let id = message.id().ok_or(Refusal::InvalidRequest("a request has an id".into()))?;
    let method = message.method();
    match method {
        // A legacy server of the session's own says itself whether it is alive.
        methods::PING if !child.is_one_sessions() || child.is_known_as(Era::Modern) => Ok(Some(empty(&id))),
        methods::RESOURCES_UNSUBSCRIBE => {
            let invalid = "`params.uri` must be a string".into();
            let uri = params.members.string("uri").ok_or(Refusal::InvalidParams { era: Era::Legacy, why: invalid })?;
            if session.unsubscribe(&uri) {
                child.unsubscribe(&Subscriber::of(session), &uri);
                child.wish_to_listen();
            }
            Ok(Some(empty(&id)))
        }
        methods::DISCOVER | methods::LISTEN => {
            Err(Refusal::MethodNotFound { era: Era::Legacy, method: method.to_owned() })
        }
        _ if methods::is_notification(method) => {
            Err(Refusal::MethodNotFound { era: Era::Legacy, method: method.to_owned() })
        }
        _ => Ok(None),
    }
}

async fn to_legacy(
    call: &Call<'_>,
    session: &Arc<Session>,
    child: &Arc<Child>,
    live: Arc<Live>,
    message: &Message,
    params: &era::Params<'_>,
) -> Result<Begun, Refusal> {
    let id = message.id().ok_or(Refusal::InvalidRequest("a request has an id".into()))?;
    let own = child.is_one_sessions();
    let method = message.method();
    let missing = || Refusal::MethodNotFound { era: Era::Legacy, method: method.to_owned() };
    let invalid = |why: &'static str| Refusal::InvalidParams { era: Era::Legacy, why: why.into() };
    match method {
        methods::TASKS_LIST if !child.is_private() => return Err(missing()),
        methods::SET_LEVEL => {
            let level = params.members.string("level").and_then(|name| Level::parse(&name));
            let level = level.ok_or(invalid("`params.level` must be a log level"))?;
            if !live.facts.declares(&["logging"]) {
                return Err(missing());
            }
            session.set_level(level);
            if !own {
                child.raise_level(&live);
                return Ok(empty(&id));
            }
            child.note_level(level);
        }
        methods::RESOURCES_SUBSCRIBE => {
            let uri = params.members.string("uri").ok_or(invalid("`params.uri` must be a string"))?;
            let new = session.subscribe(&uri, call.endpoint.limits.max_subscriptions);
            let new = new.ok_or(invalid("too many subscriptions in this session"))?;
            return Ok(match child.subscribe(&live, Subscriber::of(session), &session.identity, &uri).await {
                Ok(()) => empty(&id),
                Err(error) => {
                    if new {
                        session.unsubscribe(&uri);
                    }
                    Begun::Now(envelope(&id, "error", error))
                }
            });
        }
        methods::TASKS_GET | methods::TASKS_RESULT | methods::TASKS_CANCEL if !child.is_private() => {
            let task = params.members.string("taskId").ok_or(invalid("`params.taskId` must be a string"))?;
            if !child.owns_task(session, &task) {
                return Err(Refusal::TaskNotFound);
            }
        }
        _ => {}
    }
    let limits = &call.endpoint.limits;
    let permit = call
        .endpoint
        .permits
        .take(call.identity, limits.max_inflight, limits.max_inflight_per_identity)
        .ok_or(Refusal::Overloaded { what: "too many requests in flight" })?;
    let token = token(message, params.meta.as_ref());
    let asking = Asking {
        owner: Owner::Session(Arc::clone(session)),
        identity: call.identity.clone(),
        // A copy: a slice would keep the whole body for as long as the request is remembered.
        id: Bytes::copy_from_slice(&id),
        method: method.to_owned(),
        token: token.as_ref().map(|(raw, _)| Bytes::copy_from_slice(raw.as_bytes())),
        log_level: None,
        abilities: session.abilities,
        candidate: methods::is_candidate(method),
        streams: call.accepted.sse(),
        unhurried: method == methods::TASKS_RESULT,
        expects_task: params.members.has("task"),
        listen: None,
        input: None,
        sealing: None,
        server: Arc::clone(&live.facts),
        translate,
    };
    let exchange = Exchange::new(asking, child, vec![permit], limits);
    let place = token.map(|(_, place)| place);
    let params = |number| edited(message, token_edit(place.clone(), number).into_iter().collect());
    begin(child, live, exchange, params).await.map(Begun::Later)
}

/// A server's answer goes to a legacy client as it is, errors of any code included.
fn translate(exchange: &Exchange, message: &Message) -> Words {
    let id = &exchange.asking.id;
    let json = match (message.result(), message.error()) {
        (Some(result), _) => envelope(id, "result", result),
        (None, Some(error)) => envelope(id, "error", error),
        (None, None) => return Words::Refusal(Refusal::UpstreamProtocol),
    };
    Words::Json(StatusCode::OK, json)
}
