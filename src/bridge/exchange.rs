//! One request in flight: its client on one side, its server on the other, and how it may end.
//!
//! What a pairing of eras adds is a translation (`Translate`); the rest is the same for all of them. A
//! legacy client that loses its connection has not cancelled: its request goes on, detached, for a while. A modern
//! client's disconnect *is* the cancel.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use tokio::time::Instant;

use super::auth::Identity;
use super::child::{Child, Facts, Listening, Live};
use super::dialogue::Dialogue;
use super::input::{self, Input};
use super::level::Level;
use super::refusal::Refusal;
use super::replay::{EventId, Track, opening};
use super::reply::{Finish, First, Json, Keep, Next, Reply};
use super::seal::{Place, Sealer};
use super::session_id::Abilities;
use super::sessions::Session;
use super::stream::{Body, Event, OK, Source, event_stream, json};
use super::unread::{Held, Tab, Unread};
use crate::config::limits::Limits;
use crate::mcp::connection::{Connection, End, Exchange as InFlight};
use crate::mcp::envelope::Message;
use crate::mcp::writer::Refused;

/// Whose request it is.
#[derive(Debug, Clone)]
pub(super) enum Owner {
    /// A legacy session's.
    Session(Arc<Session>),
    /// That of one modern HTTP request.
    Request,
}

/// How a `requestState` is sealed: by whom, and for which place.
pub(super) struct Sealing {
    pub(super) sealer: Arc<Sealer>,
    pub(super) endpoint: String,
    pub(super) name: String,
}

impl Sealing {
    /// The place that a state of this exchange is bound to.
    pub(super) fn place<'a>(&'a self, identity: &'a Identity, method: &'a str) -> Place<'a> {
        Place { endpoint: &self.endpoint, identity: identity.as_str(), method, name: &self.name }
    }
}

/// An answer in its client's words.
pub(super) enum Words {
    /// A JSON text, and the status it has while none was sent.
    Json(StatusCode, Json),
    /// Words of ferry's own.
    Refusal(Refusal),
}

/// Puts a server's answer into its client's words.
pub(super) type Translate = fn(&Exchange, &Message) -> Words;

/// What is known of a request when it arrives.
#[expect(clippy::struct_excessive_bools, reason = "four independent facts, each named where it is set")]
pub(super) struct Asking {
    pub(super) owner: Owner,
    pub(super) identity: Identity,
    /// Its id as the client wrote it.
    pub(super) id: Bytes,
    pub(super) method: String,
    /// Its progress token as the client wrote it.
    pub(super) token: Option<Bytes>,
    pub(super) log_level: Option<Level>,
    /// What its client can be asked.
    pub(super) abilities: Abilities,
    /// Whether it may lead to questions of the server.
    pub(super) candidate: bool,
    /// Whether its client can read a stream.
    pub(super) streams: bool,
    /// Whether it may take as long as it likes.
    pub(super) unhurried: bool,
    /// Whether its result may name a task that the client will ask for.
    pub(super) expects_task: bool,
    /// The parameters of a `subscriptions/listen`.
    pub(super) listen: Option<Bytes>,
    /// What it takes to make it again, with input that its server may want.
    pub(super) input: Option<Input>,
    /// How its `requestState` is sealed on the way to its client.
    pub(super) sealing: Option<Sealing>,
    /// What the server declared it can do.
    pub(super) server: Arc<Facts>,
    pub(super) translate: Translate,
}

/// One request in flight.
pub(super) struct Exchange {
    pub(super) asking: Asking,
    pub(super) reply: Reply,
    pub(super) child: Weak<Child>,
    clock: Mutex<Clock>,
    upstream: Mutex<Option<(Connection<Exchange>, u64)>>,
    this: Weak<Exchange>,
    /// The stream that its client reads, once there is one.
    track: Mutex<Weak<Track>>,
    /// The call that it is a part of, where that may take several requests.
    dialogue: OnceLock<Arc<Dialogue>>,
    /// What it occupies until its end is known, read or not.
    occupied: Mutex<Option<Occupied>>,
}

/// What a request occupies.
struct Occupied {
    _permits: Vec<Permit>,
    _session: Option<InUse>,
    listening: Option<Listening>,
}

/// A session in use.
struct InUse(Arc<Session>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.touch();
    }
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("method", &self.asking.method).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Clock {
    started: Instant,
    /// The last sign of progress.
    last_sign: Instant,
    /// When its client was lost.
    detached: Option<Instant>,
    /// A listen stream: the server has acknowledged it.
    acknowledged: bool,
    /// A listen stream: since when this process has owed its acknowledgement.
    awaiting_ack: Option<Instant>,
    /// How much the server had said when the request was sent.
    heard_before: u64,
    /// Somebody is sending it again.
    renewing: bool,
}

/// Why a request must end now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    /// It took too long.
    TimedOut,
    /// Its client was lost too long ago.
    Abandoned,
}

impl Exchange {
    pub(super) fn new(asking: Asking, child: &Arc<Child>, permits: Vec<Permit>, limits: &Limits) -> Arc<Self> {
        let in_use = match &asking.owner {
            Owner::Session(session) => {
                session.in_flight.fetch_add(1, Ordering::Relaxed);
                Some(InUse(Arc::clone(session)))
            }
            Owner::Request => None,
        };
        let now = Instant::now();
        let unread = permits.first().map(|permit| Arc::clone(&permit.permits.unread)).unwrap_or_default();
        let tab = Tab::new(&unread, &asking.identity, limits);
        Arc::new_cyclic(|this| Self {
            asking,
            reply: Reply::new(limits.max_outbound, tab),
            child: Arc::downgrade(child),
            this: Weak::clone(this),
            clock: Mutex::new(Clock {
                started: now,
                last_sign: now,
                detached: None,
                acknowledged: false,
                awaiting_ack: Some(now),
                heard_before: 0,
                renewing: false,
            }),
            upstream: Mutex::new(None),
            track: Mutex::default(),
            dialogue: OnceLock::new(),
            occupied: Mutex::new(Some(Occupied { _permits: permits, _session: in_use, listening: None })),
        })
    }

    /// Itself, to be kept.
    pub(super) fn this(&self) -> Option<Arc<Self>> {
        self.this.upgrade()
    }

    /// Whether its client is asked for input now.
    fn is_driven(&self) -> bool {
        let driven = |child: Arc<Child>| child.driven().iter().any(|other| std::ptr::eq(Arc::as_ptr(other), self));
        self.asking.input.is_some() && self.child.upgrade().is_some_and(driven)
    }

    /// Whether its client has been gone for too long.
    pub(super) fn is_abandoned(&self, now: Instant, limits: &Limits) -> bool {
        self.clock().detached.is_some_and(|since| now.duration_since(since) >= limits.detached_ttl)
    }

    /// Whether its client is gone.
    pub(super) fn is_deserted(&self) -> bool {
        self.clock().detached.is_some()
    }

    /// The session it belongs to.
    pub(super) fn session(&self) -> Option<&Arc<Session>> {
        match &self.asking.owner {
            Owner::Session(session) => Some(session),
            Owner::Request => None,
        }
    }

    /// Whether it belongs to `session`.
    pub(super) fn is_of(&self, session: &Arc<Session>) -> bool {
        self.session().is_some_and(|own| Arc::ptr_eq(own, session))
    }

    /// Whether a message to its client can go out on its own stream.
    pub(super) fn can_stream(&self) -> bool {
        self.asking.streams && self.clock().detached.is_none() && !self.reply.is_over()
    }

    /// Makes it a part of a call that may take several requests.
    pub(super) fn joins(&self, dialogue: &Arc<Dialogue>) {
        let _ = self.dialogue.set(Arc::clone(dialogue));
    }

    /// The call that it is a part of, where that may take several requests.
    pub(super) fn dialogue(&self) -> Option<&Arc<Dialogue>> {
        self.dialogue.get()
    }

    /// Whoever is answered in its place: a later request of the same call.
    fn answering(&self) -> Option<Arc<Exchange>> {
        self.dialogue()?.answering().filter(|other| !std::ptr::eq(Arc::as_ptr(other), self))
    }

    /// Keeps a place among those who listen for as long as it lasts.
    pub(super) fn keep(&self, listening: Listening) {
        if let Some(occupied) = &mut *self.occupied.lock().expect("nothing panics while it holds this") {
            occupied.listening = Some(listening);
        }
    }

    /// Ties it to its place in a connection.
    pub(super) fn bind(&self, connection: &Connection<Exchange>, id: u64) {
        self.attach(connection, id);
        if let (Some(dialogue), Some(this)) = (self.dialogue(), self.this()) {
            dialogue.sent(connection, id, &this);
        }
    }

    /// The same for a later request of a call that has its place already.
    pub(super) fn attach(&self, connection: &Connection<Exchange>, id: u64) {
        *self.upstream.lock().expect("nothing panics while it holds this") = Some((connection.clone(), id));
        self.clock().heard_before = connection.lines_heard();
    }

    /// Its time begins anew.
    pub(super) fn begin_anew(&self) {
        let mut clock = self.clock();
        clock.started = Instant::now();
        clock.last_sign = clock.started;
    }

    /// Its place in a connection.
    pub(super) fn upstream(&self) -> Option<(Connection<Exchange>, u64)> {
        self.upstream.lock().expect("nothing panics while it holds this").clone()
    }

    /// Cancels it at the server and ends it with `refusal`.
    pub(super) fn cancel(&self, reason: &str, refusal: Refusal) {
        self.cancel_with(reason, Finish::Ferry(refusal));
    }

    /// Cancels it at the server and ends it.
    pub(super) fn cancel_with(&self, reason: &str, finish: Finish) {
        let told = self.upstream().is_some_and(|(connection, id)| connection.cancel(id, Some(reason)));
        // While its client is asked for input the server knows nothing of it.
        if told || self.is_driven() {
            // It is remembered for what the server may still say of it, but it is no work any more.
            self.end(finish);
        }
    }

    /// A listen stream was sent to another process: it is to be acknowledged anew.
    pub(super) fn owes_ack(&self) {
        self.clock().awaiting_ack = Some(Instant::now());
    }

    /// A sign of life.
    pub(super) fn sign(&self) {
        self.clock().last_sign = Instant::now();
    }

    /// Whether the caller is the one to send it again: nobody else is about to, and it is lost indeed.
    ///
    /// The end of an older process may be told late, when a newer one has it already.
    pub(super) fn renewal_begins(&self) -> bool {
        let lost = self.upstream().is_none_or(|(connection, _)| connection.is_closed());
        lost && !std::mem::replace(&mut self.clock().renewing, true)
    }

    /// It was sent again. Whether that is the end of it; if not, the caller goes on: that process has ended already.
    pub(super) fn renewal_ends(&self) -> bool {
        self.clock().renewing = false;
        !self.renewal_begins()
    }

    /// Whether it must end now, and why.
    pub(super) fn overdue(&self, now: Instant, limits: &Limits) -> Option<Overdue> {
        // Its client has a time of its own then.
        if self.dialogue().is_some_and(|dialogue| dialogue.is_suspended()) {
            return None;
        }
        let clock = self.clock();
        if clock.detached.is_some_and(|since| now.duration_since(since) >= limits.detached_ttl) {
            return Some(Overdue::Abandoned);
        }
        if self.asking.listen.is_some() {
            let late = clock.awaiting_ack.is_some_and(|since| now.duration_since(since) >= limits.listen_ack);
            return late.then_some(Overdue::TimedOut);
        }
        if self.asking.unhurried {
            return None;
        }
        let late = now.duration_since(clock.last_sign) >= limits.request_timeout
            || now.duration_since(clock.started) >= limits.request_timeout_in_all;
        late.then_some(Overdue::TimedOut)
    }

    /// How much the server had said when the request was sent.
    pub(super) fn heard_before(&self) -> u64 {
        self.clock().heard_before
    }

    /// Notes that a listen stream was acknowledged; returns whether it was so before.
    pub(super) fn acknowledge(&self) -> bool {
        let mut clock = self.clock();
        clock.awaiting_ack = None;
        std::mem::replace(&mut clock.acknowledged, true)
    }

    /// Whether a listen stream was acknowledged.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.clock().acknowledged
    }

    /// Ends it, whether anybody reads that or not.
    pub(super) fn end(&self, finish: Finish) {
        if let Some(later) = self.answering() {
            return later.end(finish);
        }
        let outcome = outcome(&finish);
        if !self.reply.finish(finish) {
            return;
        }
        if let Some(child) = self.child.upgrade() {
            // A listen stream lasts as long as its client likes.
            let took = self.asking.listen.is_none().then(|| self.clock().started.elapsed());
            child.meter.answered(&self.asking.method, outcome, took);
        }
        if let (Some(input), Some(child)) = (&self.asking.input, self.child.upgrade()) {
            child.has_driven(self);
            input.give_up();
        }
        if self.asking.log_level.is_some()
            && let Some(child) = self.child.upgrade()
        {
            child.lower_level_later();
        }
        drop(self.occupied.lock().expect("nothing panics while it holds this").take());
        if self.is_deserted() {
            self.settle();
        }
    }

    /// Its client is gone.
    fn lost_client(&self) {
        self.clock().detached = Some(Instant::now());
        self.reply.is_left();
        match self.asking.owner {
            Owner::Session(_) if self.reply.is_over() => self.settle(),
            Owner::Session(_) => {}
            Owner::Request => self.cancel("the client closed the request", Refusal::Cancelled),
        }
    }

    /// Its client is back, on a stream that goes on.
    pub(super) fn found_client(&self) {
        self.clock().detached = None;
    }

    /// Moves an end that nobody reads to where a client that comes back will find it, within the bounds there.
    fn settle(&self) {
        let track = self.track.lock().expect("nothing panics while it holds this").upgrade();
        let (Some(session), Some(track)) = (self.session(), track) else { return };
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(next) = self.reply.poll_next(&mut context) {
            match next {
                Next::Event(json, _) => drop(session.tracks.note(&track, &json, false)),
                Next::End(finish, _) => {
                    session.tracks.note(&track, &self.in_band(finish), true);
                    return;
                }
            }
        }
    }

    /// The end as a message under a status that is already sent.
    fn in_band(&self, finish: Finish) -> Json {
        match self.words(finish) {
            Words::Json(_, json) => json,
            Words::Refusal(refusal) => vec![Bytes::from(refusal.in_band(Some(&self.asking.id)))],
        }
    }

    /// The end of it in its client's words.
    fn words(&self, finish: Finish) -> Words {
        Words::Refusal(match finish {
            Finish::Ready(json) => return Words::Json(StatusCode::OK, json),
            Finish::Upstream(End::Answered(message)) => return (self.asking.translate)(self, &message),
            Finish::Upstream(End::Malformed) => Refusal::UpstreamProtocol,
            Finish::Upstream(End::TooLarge(_)) => Refusal::ResponseTooLarge,
            Finish::Upstream(End::Closed) => Refusal::UpstreamExited,
            Finish::Upstream(End::NotSent) => unavailable(),
            Finish::Ferry(refusal) => refusal,
        })
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        self.clock.lock().expect("nothing panics while it holds a clock")
    }
}

impl InFlight for Exchange {
    fn progress(&self, message: &Message) {
        self.clock().last_sign = Instant::now();
        if let Some(later) = self.answering() {
            return later.progress(message);
        }
        let Some(token) = &self.asking.token else { return };
        let (Some(params), Ok(members)) = (message.params_text(), message.param_members()) else { return };
        let Some(own) = members.text("progressToken") else { return };
        let start = own.as_ptr() as usize - params.as_ptr() as usize;
        let mut event = BytesMut::with_capacity(params.len() + token.len() + 64);
        event.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":");
        event.extend_from_slice(&params.as_bytes()[..start]);
        event.extend_from_slice(token);
        event.extend_from_slice(&params.as_bytes()[start + own.len()..]);
        event.extend_from_slice(b"}");
        self.reply.push(vec![event.freeze()], Keep::IfRoom);
    }

    fn finish(&self, end: End) {
        if let Some(child) = self.child.upgrade() {
            if let End::Answered(message) = &end {
                child.observe(self, message);
            }
            if matches!(end, End::Closed | End::NotSent) && self.is_acknowledged() && child.listen_again(self) {
                return;
            }
        }
        if let (End::Answered(message), Some(child), Some(this)) = (&end, self.child.upgrade(), self.this())
            && self.asking.input.is_some()
            && input::is_wanted(message)
            && !self.reply.is_over()
        {
            return Input::drive(&child, &this, message.clone());
        }
        match self.dialogue() {
            None => self.end(Finish::Upstream(end)),
            Some(dialogue) => {
                if let Some((exchange, end)) = dialogue.ended(end) {
                    exchange.end(Finish::Upstream(end));
                }
            }
        }
    }
}

/// One word for how a request ended.
fn outcome(finish: &Finish) -> &'static str {
    match finish {
        Finish::Upstream(End::Answered(message)) if message.error().is_some() => "error",
        Finish::Upstream(End::Answered(_)) | Finish::Ready(_) => "ok",
        Finish::Upstream(End::Malformed) => "upstream_protocol",
        Finish::Upstream(End::TooLarge(_)) => "response_too_large",
        Finish::Upstream(End::Closed) => "upstream_exited",
        Finish::Upstream(End::NotSent) => "upstream_unavailable",
        Finish::Ferry(refusal) => refusal.reason().unwrap_or("other"),
    }
}

/// The refusal of a request that no server is there for.
pub(super) fn unavailable() -> Refusal {
    Refusal::UpstreamUnavailable { retry_after: Duration::from_secs(5) }
}

/// One text of an answer: `{"jsonrpc":"2.0","id":…,"<member>":…}`, the payload as the server wrote it.
pub(super) fn envelope(id: &[u8], member: &str, payload: Bytes) -> Json {
    const JOINED_BELOW: usize = 16 * 1024;
    let mut head =
        BytesMut::with_capacity(id.len() + 40 + if payload.len() < JOINED_BELOW { payload.len() } else { 0 });
    head.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    head.extend_from_slice(id);
    head.extend_from_slice(b",\"");
    head.extend_from_slice(member.as_bytes());
    head.extend_from_slice(b"\":");
    if payload.len() < JOINED_BELOW {
        head.extend_from_slice(&payload);
        head.extend_from_slice(b"}");
        return vec![head.freeze()];
    }
    vec![head.freeze(), payload, Bytes::from_static(b"}")]
}

/// How an answer may go out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// The client reads nothing but a stream.
    pub(super) only_stream: bool,
    /// How long the answer may be held back.
    pub(super) commit_after: Duration,
    pub(super) keep_alive: Duration,
}

/// A request that has begun: its answer is here, or will be.
pub(super) enum Begun {
    /// ferry has answered it.
    Now(Json),
    /// A server has it.
    Later(Reader),
}

/// Sends a request to a server.
///
/// `params` are the pieces of its parameters, given the number under which the server will know it.
pub(super) async fn begin(
    child: &Arc<Child>,
    live: Arc<Live>,
    exchange: Arc<Exchange>,
    params: impl Fn(u64) -> Json,
) -> Result<Reader, Refusal> {
    let (mut live, mut first) = (live, true);
    loop {
        live.admit(&exchange.asking.identity);
        live.initialized();
        let mut sent = Err(Refused::Closed);
        if let Some(number) = live.connection.enter(Arc::clone(&exchange)) {
            exchange.bind(&live.connection, number);
            sent = live.connection.send(number, &exchange.asking.method, params(number)).await;
        }
        let reader = || Reader::of(&exchange);
        match sent {
            Ok(()) => {
                live.busy.notify_one();
                return Ok(reader());
            }
            Err(Refused::Full) => return Err(Refusal::Overloaded { what: "the server does not read its input" }),
            // Cancelled while it waited: the reader finds the end that this brought.
            Err(Refused::Unwanted) => return Ok(reader()),
            // It has just ended, or was told to leave. Nothing was written, so the next process may have it.
            Err(Refused::Closed) if std::mem::replace(&mut first, false) => {
                let era = live.opened.era;
                live = child.live().await?;
                if live.opened.era != era {
                    return Err(unavailable());
                }
            }
            Err(Refused::Closed) => return Err(unavailable()),
        }
    }
}

/// Whoever waits for an exchange's end. Dropped before that, it takes the client for lost.
pub(super) struct Reader {
    exchange: Arc<Exchange>,
    over: bool,
    /// The stream it writes, and its key to it.
    track: Option<(Arc<Track>, u64)>,
}

impl Reader {
    /// Holds the answer back until there is something to tell: an end without anything before it is plain JSON under
    /// its own status, everything else is a stream (`protocol.md` §1.12).
    pub(super) async fn respond(mut self, terms: Terms) -> Response<Body> {
        let streams = self.exchange.asking.streams;
        let first = std::future::poll_fn(|context| self.exchange.reply.poll_first(context, streams));
        let first = if terms.only_stream {
            First::Event
        } else if streams {
            tokio::select! {
                first = first => first,
                () = tokio::time::sleep(terms.commit_after) => First::Event,
            }
        } else {
            first.await
        };
        match first {
            First::Event => {
                let opening = self.begin_track();
                let tab = self.tab();
                event_stream(self, opening, terms.keep_alive).map(|body| body.on(tab))
            }
            First::End(finish, held) => {
                self.over = true;
                match self.exchange.words(finish) {
                    Words::Json(status, text) => match held {
                        Some(held) => json(status, held.with(text)).map(|body| body.on(self.tab())),
                        None => json(status, text),
                    },
                    Words::Refusal(refusal) => {
                        refusal.response(Some(&self.exchange.asking.id)).map(|body| Body::whole([body]))
                    }
                }
            }
        }
    }
}

impl Reader {
    /// Whoever waits for this one.
    pub(super) fn of(exchange: &Arc<Exchange>) -> Self {
        Self { exchange: Arc::clone(exchange), over: false, track: None }
    }

    /// Waits no more, without that meaning that its client is gone.
    pub(super) fn waive(mut self) {
        self.over = true;
    }

    /// A reader that goes on where another one was.
    pub(super) fn resume(exchange: Arc<Exchange>, track: Arc<Track>, key: u64) -> Self {
        exchange.found_client();
        Self { exchange, over: false, track: Some((track, key)) }
    }

    /// What its client has yet to read.
    pub(super) fn tab(&self) -> Arc<Tab> {
        Arc::clone(self.exchange.reply.tab())
    }

    /// Begins a stream that its client can come back to, if it is of a session. Returns its first bytes.
    fn begin_track(&mut self) -> Bytes {
        // One without a session has no stream to come back on.
        let Some(session) = self.exchange.session().filter(|session| !session.is_passing()) else { return OK };
        let track = session.tracks.of_exchange(Arc::clone(&self.exchange));
        *self.exchange.track.lock().expect("nothing panics while it holds this") = Arc::downgrade(&track);
        let opening = opening(session.version, &EventId { stream: track.id.clone(), seq: 0 });
        let key = track.attach();
        self.track = Some((track, key));
        opening
    }

    /// Numbers an event of its stream.
    fn numbered(&self, json: Json, held: Option<Held>, is_final: bool) -> Event {
        let id = match (self.exchange.session(), &self.track) {
            (Some(session), Some((track, _))) => Some(session.tracks.note(track, &json, is_final)),
            _ => None,
        };
        // What is kept for a client that comes back is counted there.
        Event { id, json: held_by(held, json) }
    }

    /// Waits for the answer and for nothing else: messages before it are dropped.
    pub(super) async fn whole(mut self) -> Json {
        let first = std::future::poll_fn(|context| self.exchange.reply.poll_first(context, false)).await;
        self.over = true;
        match first {
            First::End(finish, held) => held_by(held, self.exchange.in_band(finish)),
            First::Event => Vec::new(),
        }
    }
}

impl Source for Reader {
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Some((track, key)) = &self.track
            && !track.serves(*key, context.waker())
        {
            // Its client has come back on another connection.
            self.over = true;
            return Poll::Ready(None);
        }
        self.exchange.reply.poll_next(context).map(|next| match next {
            Next::Event(json, held) => Some(self.numbered(json, Some(held), false)),
            Next::End(finish, held) => {
                self.over = true;
                Some(self.numbered(self.exchange.in_band(finish), held, true))
            }
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let displaced = self.track.as_ref().is_some_and(|(track, key)| !track.is_served_by(*key));
        if !self.over && !displaced {
            self.exchange.lost_client();
        }
    }
}

fn held_by(held: Option<Held>, json: Json) -> Json {
    match held {
        Some(held) => held.with(json),
        None => json,
    }
}

/// Counts requests in flight, per identity and in all, and what is left of their answers.
#[derive(Debug, Default)]
pub(super) struct Permits {
    counts: Mutex<Counts>,
    unread: Arc<Unread>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_identity: HashMap<Identity, usize>,
}

impl Permits {
    /// Counts one more, unless there are too many.
    pub(super) fn take(self: &Arc<Self>, identity: &Identity, max: usize, max_own: usize) -> Option<Permit> {
        let mut counts = self.counts.lock().expect("nothing panics while it counts");
        let own = counts.by_identity.get(identity).copied().unwrap_or_default();
        if counts.all >= max || own >= max_own {
            return None;
        }
        counts.all += 1;
        counts.by_identity.insert(identity.clone(), own + 1);
        Some(Permit { permits: Arc::clone(self), identity: identity.clone() })
    }
}

/// One counted request.
#[derive(Debug)]
pub(super) struct Permit {
    permits: Arc<Permits>,
    identity: Identity,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.permits.counts.lock().expect("nothing panics while it counts");
        counts.all -= 1;
        if let Some(own) = counts.by_identity.get_mut(&self.identity) {
            *own -= 1;
            if *own == 0 {
                counts.by_identity.remove(&self.identity);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_bounded_per_identity_and_in_all_and_come_back() {
        let permits = Arc::new(Permits::default());
        let (me, you) = (Identity::local(), Identity::access("team", "you"));
        let first = permits.take(&me, 3, 2).unwrap();
        let _second = permits.take(&me, 3, 2).unwrap();
        assert!(permits.take(&me, 3, 2).is_none(), "two of one identity");
        let _third = permits.take(&you, 3, 2).unwrap();
        assert!(permits.take(&you, 3, 2).is_none(), "three in all");
        drop(first);
        assert!(permits.take(&you, 3, 2).is_some());
    }

    #[test]
    fn a_large_payload_is_not_copied() {
        let payload = Bytes::from(vec![b' '; 100_000]);
        let json = envelope(b"1", "result", payload.clone());
        assert_eq!(json[1].as_ptr(), payload.as_ptr());
        assert_eq!(
            envelope(b"\"a\"", "error", Bytes::from_static(b"{}")).concat(),
            br#"{"jsonrpc":"2.0","id":"a","error":{}}"#
        );
    }
}
