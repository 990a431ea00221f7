//! The older door: the HTTP+SSE transport of 2024-11-05, for clients that know no other (`protocol.md` §7).
//!
//! `GET <path>/sse` opens a stream, whose first event says where messages are to be sent; everything else, answers
//! included, comes on that stream. Stream and session are one: what ends the one ends the other, and nothing is resumed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};

use super::accept::Accepted;
use super::auth::Identity;
use super::endpoint::Endpoint;
use super::era::{Params, Serve};
use super::exchange::Begun;
use super::methods;
use super::refusal::Refusal;
use super::relay::legacy_to_legacy::Opened;
use super::relay::{self, Call, legacy_child, legacy_to_legacy};
use super::reply::Json;
use super::sessions::Session;
use super::standalone::{self, Class, Standalone};
use super::stream::{Body, Event, Source, bare, event_stream};
use crate::mcp::envelope::{Kind, Message};
use crate::random;

/// The open streams of one endpoint, by the ids that their clients post under.
#[derive(Debug, Default)]
pub(super) struct OlderDoors(Mutex<HashMap<String, Arc<OlderDoor>>>);

/// One stream, and the session that it is.
#[derive(Debug)]
struct OlderDoor {
    identity: Identity,
    stream: Arc<Standalone>,
    /// Once `initialize` has come.
    session: Mutex<Option<Arc<Session>>>,
}

impl OlderDoors {
    fn find(&self, identity: &Identity, id: &str) -> Option<Arc<OlderDoor>> {
        self.lock().get(id).filter(|door| door.identity == *identity).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<OlderDoor>>> {
        self.0.lock().expect("nothing panics while it holds the older doors")
    }
}

impl OlderDoor {
    fn session(&self) -> Option<Arc<Session>> {
        self.session.lock().expect("nothing panics while it holds this").clone()
    }

    /// Sends an answer or a question; a client that leaves so many unread that one does not fit is cut off, not
    /// waited for.
    fn answer(&self, json: Json) {
        if !self.stream.push(Class::Answer, json) {
            self.stream.close();
        }
    }

    /// Sends what comes before an answer: progress and logs may be dropped, oldest first.
    fn tell(&self, json: Json) {
        const NOTIFICATION: &[u8] = b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/";
        if json.first().is_some_and(|piece| piece.starts_with(NOTIFICATION)) {
            self.stream.push(Class::Other, json);
        } else {
            self.answer(json);
        }
    }
}

/// Opens a stream.
pub(super) fn open(endpoint: &Arc<Endpoint>, identity: &Identity) -> Result<Response<Body>, Refusal> {
    if endpoint.policy.serve == Serve::Modern {
        return Err(Refusal::LegacyNotServed { requested: None });
    }
    let limits = &endpoint.limits;
    let id = URL_SAFE_NO_PAD.encode(random::bytes::<16>());
    let stream = Arc::new(Standalone::new(limits.max_queued, 1));
    let door = OlderDoor { identity: identity.clone(), stream: Arc::clone(&stream), session: Mutex::default() };
    let mut doors = endpoint.older_doors.lock();
    let own = doors.values().filter(|door| door.identity == *identity).count();
    if own >= limits.max_sessions_per_identity || doors.len() >= limits.max_sessions {
        return Err(Refusal::Overloaded { what: "too many sessions" });
    }
    doors.insert(id.clone(), Arc::new(door));
    drop(doors);
    let path = if endpoint.path == "/" { "" } else { &endpoint.path };
    let opening = format!("event: endpoint\ndata: {path}/message?sessionId={id}\n\n");
    let source = OlderStream { stream: stream.open(), id, endpoint: Arc::downgrade(endpoint) };
    Ok(event_stream(source, Bytes::from(opening), limits.keep_alive))
}

struct OlderStream {
    stream: standalone::Stream,
    id: String,
    endpoint: Weak<Endpoint>,
}

impl Source for OlderStream {
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.stream.poll_event(context)
    }
}

impl Drop for OlderStream {
    fn drop(&mut self) {
        let Some(endpoint) = self.endpoint.upgrade() else { return };
        let door = endpoint.older_doors.lock().remove(&self.id);
        if let Some(session) = door.and_then(|door| door.session()) {
            let _ = endpoint.sessions.end(&session.identity, &session.id);
            endpoint.forget(&session);
        }
    }
}

/// Takes a message. Whatever there is to say to it comes on the stream.
pub(super) async fn post(
    endpoint: &Arc<Endpoint>,
    identity: &Identity,
    query: Option<&str>,
    body: Bytes,
) -> Response<Body> {
    let message = match Message::from_client(body) {
        Ok(message) => message,
        Err(mut invalid) => {
            let id: Option<Bytes> = invalid.id.take();
            return Refusal::from(invalid).response(id.as_deref()).map(|body| Body::whole([body]));
        }
    };
    match accept(endpoint, identity, query, &message).await {
        Ok(()) => bare(StatusCode::ACCEPTED),
        Err(refusal) => relay::refused(&refusal, &message),
    }
}

async fn accept(
    endpoint: &Arc<Endpoint>,
    identity: &Identity,
    query: Option<&str>,
    message: &Message,
) -> Result<(), Refusal> {
    let id = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("sessionId="));
    let id = id.ok_or(Refusal::InvalidRequest("the query names no sessionId".into()))?;
    let door = endpoint.older_doors.find(identity, id).ok_or(Refusal::SessionNotFound)?;
    let params = Params::of(message)?;
    if params.claims_version() {
        return Err(Refusal::InvalidRequest("this transport has no requests of its era".into()));
    }
    let headers = HeaderMap::new();
    let call = Call { endpoint, identity, headers: &headers, accepted: Accepted::Both };
    if message.method() == methods::INITIALIZE {
        let opened = legacy_to_legacy::open_session(&call, message, Some(Arc::clone(&door.stream))).await;
        let (session, welcome) = match opened? {
            Opened::Session(session, welcome) => (session, welcome),
            Opened::Refused(error) => {
                door.answer(error);
                return Ok(());
            }
        };
        let before = door.session.lock().expect("nothing panics while it holds this").replace(session);
        if let Some(before) = before {
            // Opened twice: the stream has one session.
            let _ = endpoint.sessions.forget(&before);
            endpoint.forget(&before);
        }
        door.answer(welcome);
        return Ok(());
    }
    let session = door.session().ok_or(Refusal::InvalidRequest("`initialize` comes first".into()))?;
    match message.kind() {
        Kind::Notification => legacy_to_legacy::notification(&call, &session, message, &params),
        Kind::Response => legacy_child::answered(endpoint, &session, message),
        Kind::Request => {
            let (endpoint, identity, message) = (Arc::clone(endpoint), identity.clone(), message.clone());
            tokio::spawn(async move { answer(&endpoint, &identity, &door, &session, &message).await });
        }
    }
    Ok(())
}

/// Sees a request through to its answer.
async fn answer(
    endpoint: &Arc<Endpoint>,
    identity: &Identity,
    door: &OlderDoor,
    session: &Arc<Session>,
    message: &Message,
) {
    let headers = HeaderMap::new();
    let call = Call { endpoint, identity, headers: &headers, accepted: Accepted::Both };
    let Ok(params) = Params::of(message) else { return };
    match legacy_to_legacy::request(&call, session, message, &params).await {
        Ok(Begun::Now(json)) => door.answer(json),
        Ok(Begun::Later(mut reader)) => {
            while let Some(event) = std::future::poll_fn(|context| reader.poll_event(context)).await {
                door.tell(event.json);
            }
        }
        Err(refusal) => door.answer(vec![Bytes::from(refusal.in_band(message.id().as_deref()))]),
    }
}
