//! Bodies of HTTP answers: one JSON text, or server-sent events that begin with bytes and never fall silent.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Interval, MissedTickBehavior, interval_at};

use super::replay::EventId;
use super::reply::Json;
use super::unread::Tab;

/// Events up to this size go out in one piece.
const JOINED_BELOW: usize = 16 * 1024;

/// One event: a JSON text, and what a client names to resume after it.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) id: Option<EventId>,
    pub(super) json: Json,
}

impl From<Json> for Event {
    fn from(json: Json) -> Self {
        Self { id: None, json }
    }
}

/// The first bytes of a stream that has nothing better to begin with.
pub(super) const OK: Bytes = Bytes::from_static(b": ok\n\n");

/// Where a stream's events come from.
pub(super) trait Source: Send + 'static {
    /// The next event, or `None` once there will be no more.
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>>;
}

/// The body of an answer.
pub(super) struct Body {
    kind: Kind,
    /// What of it its client has yet to read, where that is counted.
    tab: Option<Arc<Tab>>,
}

enum Kind {
    /// Pieces whose whole length is known.
    Whole {
        parts: VecDeque<Bytes>,
        left: u64,
    },
    Events(Box<Events>),
}

struct Events {
    source: Box<dyn Source>,
    pieces: VecDeque<Bytes>,
    keep_alive: Interval,
    over: bool,
}

impl Body {
    /// No body.
    pub(super) fn empty() -> Self {
        Self::whole([])
    }

    /// A body in pieces.
    pub(super) fn whole(parts: impl IntoIterator<Item = Bytes>) -> Self {
        let parts: VecDeque<Bytes> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let left = parts.iter().map(|part| part.len() as u64).sum();
        Self { kind: Kind::Whole { parts, left }, tab: None }
    }

    /// The same body, its pieces taken as its client reads.
    pub(super) fn on(self, tab: Arc<Tab>) -> Self {
        Self { tab: Some(tab), ..self }
    }

    /// What its client has yet to read.
    pub(super) fn tab(&self) -> Option<&Arc<Tab>> {
        self.tab.as_ref()
    }

    fn events(source: impl Source, opening: Bytes, keep_alive: Duration) -> Self {
        let mut keep_alive = interval_at(tokio::time::Instant::now() + keep_alive, keep_alive);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first bytes at once: Cloudflare holds the headers of a stream back until there are some.
        let pieces = VecDeque::from([opening]);
        let events = Events { source: Box::new(source), pieces, keep_alive, over: false };
        Self { kind: Kind::Events(Box::new(events)), tab: None }
    }
}

/// A stream of events that ends when its source does.
pub(super) fn event_stream(source: impl Source, opening: Bytes, keep_alive: Duration) -> Response<Body> {
    let mut response = Response::new(Body::events(source, opening, keep_alive));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    // Asks nginx and its like not to buffer.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// One JSON text.
pub(super) fn json(status: StatusCode, body: Json) -> Response<Body> {
    let mut response = Response::new(Body::whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A bare status.
pub(super) fn bare(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// The next piece, or the beginning of a long one: hyper asks for more as its client reads, which tells who does.
fn take(pieces: &mut VecDeque<Bytes>) -> Option<Bytes> {
    const STEP: usize = 256 * 1024;
    match pieces.front_mut() {
        Some(first) if first.len() > STEP => Some(first.split_to(STEP)),
        _ => pieces.pop_front(),
    }
}

/// One event as it goes out. JSON's line breaks, legal between tokens, would split it in two.
fn frame(event: Event) -> impl Iterator<Item = Bytes> {
    const HEAD: &[u8] = b"event: message\ndata: ";
    const TAIL: &[u8] = b"\n\n";
    let Event { id, json } = event;
    let id = id.map(|id| Bytes::from(format!("id: {id}\n")));
    let json = json.into_iter().map(crate::mcp::envelope::flattened);
    let parts: Vec<Bytes> =
        id.into_iter().chain([Bytes::from_static(HEAD)]).chain(json).chain([Bytes::from_static(TAIL)]).collect();
    let length = parts.iter().map(Bytes::len).sum::<usize>();
    if length > JOINED_BELOW {
        return parts.into_iter();
    }
    let mut joined = BytesMut::with_capacity(length);
    parts.iter().for_each(|part| joined.extend_from_slice(part));
    vec![joined.freeze()].into_iter()
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let (next, more) = match &mut this.kind {
            Kind::Whole { parts, left } => {
                let part = take(parts);
                *left -= part.as_ref().map_or(0, |part| part.len() as u64);
                (Poll::Ready(part), !parts.is_empty())
            }
            Kind::Events(events) => (events.poll(context), !events.pieces.is_empty()),
        };
        if let (Some(tab), true) = (&this.tab, more) {
            tab.moves();
        }
        next.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole { parts, .. } => parts.is_empty(),
            Kind::Events(events) => events.over && events.pieces.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole { left, .. } => SizeHint::with_exact(*left),
            Kind::Events(_) => SizeHint::default(),
        }
    }
}

impl Events {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(piece) = take(&mut self.pieces) {
                return Poll::Ready(Some(piece));
            }
            if self.over {
                return Poll::Ready(None);
            }
            match self.source.poll_event(context) {
                Poll::Ready(Some(event)) => {
                    self.pieces.extend(frame(event));
                    self.keep_alive.reset();
                }
                Poll::Ready(None) => self.over = true,
                Poll::Pending => {
                    return self.keep_alive.poll_tick(context).map(|_| Some(Bytes::from_static(b": keepalive\n\n")));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    struct Script(VecDeque<Json>);

    impl Source for Script {
        fn poll_event(&mut self, _: &mut Context<'_>) -> Poll<Option<Event>> {
            Poll::Ready(self.0.pop_front().map(Event::from))
        }
    }

    #[tokio::test]
    async fn a_stream_begins_with_bytes_and_keeps_each_event_on_one_line() {
        let event = |text: &'static str| vec![Bytes::from_static(text.as_bytes())];
        let script = Script(VecDeque::from([event("{\"a\":1}"), event("{\r\n\"b\":2}")]));
        let body = event_stream(script, OK, Duration::from_secs(15)).into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, ": ok\n\nevent: message\ndata: {\"a\":1}\n\nevent: message\ndata: {  \"b\":2}\n\n");
    }

    #[tokio::test]
    async fn a_large_event_is_not_copied() {
        let large = Bytes::from(vec![b'x'; JOINED_BELOW + 1]);
        let parts: Vec<Bytes> = frame(vec![large.clone()].into()).collect();
        assert_eq!(parts[1].as_ptr(), large.as_ptr());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_filled() {
        struct Silent;
        impl Source for Silent {
            fn poll_event(&mut self, _: &mut Context<'_>) -> Poll<Option<Event>> {
                Poll::Pending
            }
        }
        let mut body = event_stream(Silent, OK, Duration::from_secs(15)).into_body();
        let started = tokio::time::Instant::now();
        for expected in [": ok\n\n", ": keepalive\n\n", ": keepalive\n\n"] {
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), expected);
        }
        assert_eq!(started.elapsed(), Duration::from_secs(30));
    }

    #[tokio::test]
    async fn a_whole_body_knows_its_length() {
        let body = Body::whole([Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"c")]);
        assert_eq!(body.size_hint().exact(), Some(3));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
    }
}
