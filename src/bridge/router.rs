//! The way of a request: is there a server at this path, may this page talk to us, who asks, in which era?
//!
//! The order of the checks is that of `protocol.md` §1.11; the first that fails answers.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use axum::Router;
use axum::body::Body as AxumBody;
use axum::extract::{Request, State};
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, Response};
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;

use super::accept::{self, Accepted};
use super::auth::{Admission, Identity};
use super::counted::Counted;
use super::endpoint::Endpoint;
use super::era::{self, Params, Route};
use super::origin::{self, Guard};
use super::refusal::Refusal;
use super::relay::{self, Call, legacy_to_legacy, modern_to_modern, stateless};
use super::sse;
use super::stream::{Body, bare};
use crate::config::limits::Limits;
use crate::mcp::envelope::{Invalid, Message};

/// The endpoints by their paths. Listeners share them; a reload replaces them.
pub struct Endpoints {
    by_path: RwLock<HashMap<String, Arc<Endpoint>>>,
    /// KiB of request bodies that may be held at once.
    body_room: Arc<Semaphore>,
    limits: Arc<Limits>,
}

impl Endpoints {
    /// No endpoints yet.
    pub fn new(limits: Arc<Limits>) -> Arc<Self> {
        let body_room = Arc::new(Semaphore::new(limits.max_body_bytes_in_all / KIB));
        Arc::new(Self { by_path: RwLock::default(), body_room, limits })
    }

    /// Adds one, or replaces the one at its path.
    ///
    /// # Panics
    /// Never: nothing panics while it holds the table.
    pub fn put(&self, endpoint: Arc<Endpoint>) {
        self.by_path
            .write()
            .expect("nothing panics while it holds the endpoints")
            .insert(endpoint.path.clone(), endpoint);
    }

    /// Puts these in the place of all there were, in one step: no request finds a path empty that is only changing hands.
    ///
    /// # Panics
    /// Never: nothing panics while it holds the table.
    pub fn replace_all(&self, endpoints: impl IntoIterator<Item = Arc<Endpoint>>) {
        let table = endpoints.into_iter().map(|endpoint| (endpoint.path.clone(), endpoint)).collect();
        *self.by_path.write().expect("nothing panics while it holds the endpoints") = table;
    }

    /// All of them.
    ///
    /// # Panics
    /// Never: nothing panics while it holds the table.
    pub fn all(&self) -> Vec<Arc<Endpoint>> {
        self.by_path.read().expect("nothing panics while it holds the endpoints").values().cloned().collect()
    }

    /// The endpoint at a path, with or without a slash behind it, and which of its doors that is.
    fn find(&self, path: &str) -> Option<(Arc<Endpoint>, Entrance)> {
        let table = self.by_path.read().expect("nothing panics while it holds the endpoints");
        let served = |entrance, endpoint: &&Arc<Endpoint>| entrance == Entrance::Streamable || endpoint.policy.sse;
        let found = |path: &str, entrance| {
            Some((Arc::clone(table.get(path).filter(|endpoint| served(entrance, endpoint))?), entrance))
        };
        let below = |name: &str| path.strip_suffix(name).map(|path| if path.is_empty() { "/" } else { path });
        found(path, Entrance::Streamable)
            .or_else(|| found(path.strip_suffix('/')?, Entrance::Streamable))
            .or_else(|| found(below("/sse")?, Entrance::OlderStream))
            .or_else(|| found(below("/message")?, Entrance::OlderMessages))
    }
}

/// By which transport a request comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entrance {
    /// Streamable HTTP: everything at one path.
    Streamable,
    /// The stream of HTTP+SSE.
    OlderStream,
    /// Where HTTP+SSE takes messages.
    OlderMessages,
}

const KIB: usize = 1024;

/// One listener: who may come in by it.
pub struct Door {
    /// Which pages may talk to it.
    pub guard: Guard,
    /// What it asks of a request.
    pub admission: Admission,
    /// What stands behind it.
    pub endpoints: Arc<Endpoints>,
}

/// The service behind a listener.
pub fn router(door: Door) -> Router {
    Router::new().fallback(serve).with_state(Arc::new(door))
}

async fn serve(State(door): State<Arc<Door>>, request: Request) -> Response<AxumBody> {
    let origin = match door.endpoints.find(request.uri().path()) {
        None => Err(Refusal::UnknownPath),
        Some(endpoint) => {
            door.guard.check(request.headers(), request.uri().authority()).map(|origin| (endpoint, origin))
        }
    };
    let (mut response, origin) = match origin {
        Err(refusal) => (whole(&refusal), None),
        Ok((_, Some(origin))) if origin::is_preflight(request.method(), request.headers()) => {
            (origin::preflight(&origin, request.headers()).map(|body| Body::whole([body])), Some(origin))
        }
        Ok(((endpoint, entrance), origin)) => {
            let response = admitted(&door, &endpoint, entrance, request).await;
            let mut response = response.unwrap_or_else(|refusal| whole(&refusal));
            origin::put_cors(origin.as_ref(), response.headers_mut());
            let meter = Arc::clone(endpoint.meter());
            meter.responded(response.status().as_u16());
            return response.map(|body| AxumBody::new(Counted { body, meter }));
        }
    };
    origin::put_cors(origin.as_ref(), response.headers_mut());
    if let Some(tab) = response.body().tab().cloned() {
        // The listener knows the connection.
        response.extensions_mut().insert(tab);
    }
    response.map(AxumBody::new)
}

async fn admitted(
    door: &Door,
    endpoint: &Arc<Endpoint>,
    entrance: Entrance,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let identity = door.admission.check(request.headers())?;
    let (head, body) = request.into_parts();
    let serve = endpoint.policy.serve;
    let headers = &head.headers;
    let call = |accepted| Call { endpoint, identity: &identity, headers, accepted };
    match head.method {
        Method::GET if entrance == Entrance::OlderStream => {
            accept::of_get(headers)?;
            sse::open(endpoint, &identity)
        }
        Method::POST if entrance == Entrance::OlderMessages => {
            accept::require_json(headers)?;
            let (body, _room) = read(&door.endpoints, headers, body).await?;
            endpoint.meter().received(body.len());
            Ok(sse::post(endpoint, &identity, head.uri.query(), body).await)
        }
        _ if entrance == Entrance::OlderStream => Err(Refusal::MethodNotServed { allow: "GET" }),
        _ if entrance == Entrance::OlderMessages => Err(Refusal::MethodNotServed { allow: "POST" }),
        Method::POST => {
            accept::require_json(headers)?;
            let (body, _room) = read(&door.endpoints, headers, body).await?;
            endpoint.meter().received(body.len());
            Ok(post(endpoint, &identity, headers, body).await)
        }
        Method::GET => {
            // A session-less GET is told that there is no such stream, whatever it accepts.
            let session = era::get(headers, serve)?;
            accept::of_get(headers)?;
            legacy_to_legacy::stream(&call(Accepted::SseOnly), &session)
        }
        Method::DELETE => legacy_to_legacy::end(&call(Accepted::Both), &era::delete(headers, serve)?),
        _ => Err(era::other_method(serve)),
    }
}

/// Reads a body within its own bound and that of all bodies together, which counts until it is answered.
async fn read(
    endpoints: &Endpoints,
    headers: &HeaderMap,
    mut body: AxumBody,
) -> Result<(Bytes, tokio::sync::OwnedSemaphorePermit), Refusal> {
    let limit = endpoints.limits.max_body_bytes;
    let too_large = Refusal::BodyTooLarge { limit };
    let told = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if told.is_some_and(|length| length > limit) {
        return Err(too_large);
    }
    // A body of unknown length takes room as it grows.
    let take = |bytes: usize| {
        let kib = u32::try_from(bytes.div_ceil(KIB)).unwrap_or(u32::MAX);
        let room = Arc::clone(&endpoints.body_room).try_acquire_many_owned(kib);
        room.map_err(|_| Refusal::Overloaded { what: "too many request bodies" })
    };
    // Room is for what has come, not for what was announced: announcing costs nothing.
    let (mut room, mut taken) = (take(0)?, 0);
    // A body that comes in one piece, as most do, stays that.
    let (mut only, mut whole) = (Bytes::new(), BytesMut::new());
    loop {
        let frame = tokio::time::timeout(endpoints.limits.header_timeout, body.frame()).await;
        let Some(frame) = frame.map_err(|_| Refusal::InvalidRequest("the body does not come".into()))? else { break };
        // Whoever breaks off in the middle of a body reads no answer.
        let frame = frame.map_err(|_| Refusal::InvalidRequest("the body broke off".into()))?;
        let Ok(data) = frame.into_data() else { continue };
        let length = only.len() + whole.len() + data.len();
        if length > limit {
            return Err(too_large);
        }
        if length > taken {
            const STEP: usize = 64 * KIB;
            room.merge(take(STEP.max(length - taken))?);
            taken += STEP.max(length - taken).div_ceil(KIB) * KIB;
        }
        if only.is_empty() && whole.is_empty() {
            only = data;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut only));
            whole.extend_from_slice(&data);
        }
    }
    Ok((if whole.is_empty() { only } else { whole.freeze() }, room))
}

async fn post(endpoint: &Arc<Endpoint>, identity: &Identity, headers: &HeaderMap, body: Bytes) -> Response<Body> {
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return batch(endpoint, identity, headers, &body).await.unwrap_or_else(|refusal| whole(&refusal));
    }
    let message = match Message::from_client(body) {
        Ok(message) => message,
        Err(invalid) => return invalid_message(invalid),
    };
    let refused = |refusal: Refusal| relay::refused(&refusal, &message);
    let params = match Params::of(&message) {
        Ok(params) => params,
        Err(refusal) => return refused(refusal),
    };
    // After the parsing: a request that accepts nothing is told so under its own id.
    let accepted = match accept::of_post(headers) {
        Ok(accepted) => accepted,
        Err(refusal) => return refused(refusal),
    };
    let call = Call { endpoint, identity, headers, accepted };
    match era::post(era::Body::Message(&message, &params), headers, endpoint.policy) {
        Err(refusal) => refused(refusal),
        Ok(Route::ModernRequest) => relay::modern_request(&call, &message, &params).await,
        Ok(Route::ModernNotification) => {
            modern_to_modern::notification(&call, &message);
            bare(http::StatusCode::ACCEPTED)
        }
        Ok(Route::LegacyInitialize) if endpoint.policy.legacy_stateless => stateless::initialize(&call, &message).await,
        Ok(Route::LegacyInitialize) => legacy_to_legacy::initialize(&call, &message).await,
        Ok(Route::LegacyMessage(session)) => legacy_to_legacy::message(&call, &session, &message, &params).await,
        Ok(Route::LegacyStateless) => stateless::message(&call, &message, &params).await,
        // Only an array is a batch.
        Ok(Route::LegacyBatch(_)) => refused(Refusal::SessionRequired),
    }
}

/// An array of messages.
async fn batch(
    endpoint: &Arc<Endpoint>,
    identity: &Identity,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response<Body>, Refusal> {
    if !std::str::from_utf8(body).is_ok_and(crate::mcp::members::is_json) {
        return Err(Refusal::ParseError("the body is not valid JSON".into()));
    }
    let accepted = accept::of_post(headers)?;
    let call = Call { endpoint, identity, headers, accepted };
    match era::post(era::Body::Array, headers, endpoint.policy)? {
        Route::LegacyBatch(session) => legacy_to_legacy::batch(&call, &session, body).await,
        _ => Err(Refusal::InvalidRequest("an array of messages is not served here".into())),
    }
}

/// Words of ferry's own to no message in particular.
fn whole(refusal: &Refusal) -> Response<Body> {
    refusal.response(None).map(|body| Body::whole([body]))
}

fn invalid_message(mut invalid: Invalid) -> Response<Body> {
    let id: Option<Bytes> = invalid.id.take();
    Refusal::from(invalid).response(id.as_deref()).map(|body| Body::whole([body]))
}
