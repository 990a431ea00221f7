//! From a client's era to a server's and back: a file per pairing, and one per era of a server for what it says unasked.
//!
//! A pairing reads what it must of a request, answers what is ferry's to answer, and gives the rest to
//! [`super::exchange::begin`] with a translation of the answer. It has no state of its own.

use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};

use super::accept::Accepted;
use super::auth::Identity;
use super::endpoint::Endpoint;
use super::era::Params;
use super::exchange::{Exchange, Terms};
use super::methods;
use super::modern;
use super::refusal::Refusal;
use super::reply::Json;
use super::stream::{Body, Event, OK, Source, event_stream, json};
use crate::mcp::envelope::Message;
use crate::mcp::members::Members;
use crate::mcp::version::Era;

pub(super) mod legacy_child;
pub(super) mod legacy_to_legacy;
pub(super) mod legacy_to_modern;
pub(super) mod modern_child;
pub(super) mod modern_to_legacy;
pub(super) mod modern_to_modern;
pub(super) mod stateless;

/// What a relay knows of the HTTP request it answers.
pub(super) struct Call<'a> {
    pub(super) endpoint: &'a Arc<Endpoint>,
    pub(super) identity: &'a Identity,
    pub(super) headers: &'a HeaderMap,
    pub(super) accepted: Accepted,
}

impl Call<'_> {
    fn terms(&self) -> Terms {
        let limits = &self.endpoint.limits;
        Terms { only_stream: !self.accepted.json(), commit_after: limits.commit_after, keep_alive: limits.keep_alive }
    }

    /// An answer that is there already.
    fn now(&self, text: Json) -> Response<Body> {
        if self.accepted.json() {
            return json(StatusCode::OK, text);
        }
        event_stream(Once(Some(text)), OK, self.endpoint.limits.keep_alive)
    }
}

/// A stream of one event.
struct Once(Option<Json>);

impl Source for Once {
    fn poll_event(&mut self, _: &mut Context<'_>) -> Poll<Option<Event>> {
        Poll::Ready(self.0.take().map(Event::from))
    }
}

/// A request of a modern client, by the era of the server.
pub(super) async fn modern_request(call: &Call<'_>, message: &Message, params: &Params<'_>) -> Response<Body> {
    let outcome = async {
        let request = modern::read(message, params, call.headers)?;
        if request.method == methods::LISTEN {
            call.accepted.require_sse()?;
        }
        let child = call.endpoint.child_for(call.identity, params);
        let live = child.live().await?;
        modern::gate(request.method, live.opened.era, &live.facts.capabilities)?;
        modern_to_modern::check_param_headers(call, &live, &request).await?;
        match live.opened.era {
            Era::Modern => modern_to_modern::request(call, &child, live, message, params, &request).await,
            Era::Legacy => modern_to_legacy::request(call, &child, live, message, params, &request).await,
        }
    };
    outcome.await.unwrap_or_else(|refusal| refused(&refusal, message))
}

/// Words of ferry's own in answer to a message.
pub(super) fn refused(refusal: &Refusal, message: &Message) -> Response<Body> {
    refusal.response_to(message).map(|body| Body::whole([body]))
}

/// What is to stand at a place of a message instead of what its client wrote there.
type Edit = (Range<usize>, Bytes);

/// The pieces of a message's parameters with `edits` made; everything else keeps its bytes.
fn edited(message: &Message, mut edits: Vec<Edit>) -> Json {
    let (Some(params), Some(whole)) = (message.params(), message.params_text()) else { return Vec::new() };
    let start = message.place_of(whole).start;
    edits.sort_by_key(|(place, _)| place.start);
    let mut pieces = Vec::with_capacity(2 * edits.len() + 1);
    let mut done = 0;
    for (place, new) in edits {
        pieces.extend([params.slice(done..place.start - start), new]);
        done = place.end - start;
    }
    pieces.push(params.slice(done..));
    pieces
}

/// A request's progress token is the number under which the server knows it.
fn token_edit(place: Option<Range<usize>>, number: u64) -> Option<Edit> {
    Some((place?, Bytes::from(number.to_string())))
}

/// The progress token among `_meta`'s members, and where it stands. Neither a string nor a number is none.
fn token<'a>(message: &'a Message, meta: Option<&Members<'a>>) -> Option<(&'a str, Range<usize>)> {
    let raw = meta?.text(methods::meta::PROGRESS_TOKEN).filter(|raw| crate::mcp::envelope::is_id(raw))?;
    Some((raw, message.place_of(raw)))
}

/// Who the requests in flight at a server belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// The session at this address; compared, never followed.
    Session(usize),
    /// A modern request, by its number.
    Request(u64),
}

impl Key {
    fn of(number: u64, exchange: &Exchange) -> Self {
        exchange.session().map_or(Self::Request(number), Self::of_session)
    }

    fn of_session(session: &Arc<super::sessions::Session>) -> Self {
        Self::Session(Arc::as_ptr(session) as usize)
    }
}

/// How long a short wait of ferry's own for a server may last.
const OWN_CALL: Duration = Duration::from_secs(2);
