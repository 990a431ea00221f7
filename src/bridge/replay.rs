//! What a legacy client's stream has sent, kept for a while, so that a stream that broke goes on where it was.
//!
//! Each stream has an id of its own, and its events are numbered; `Last-Event-ID` names both. An event is noted when it
//! is handed to a connection: what was not, still waits where it came from. Bounded per stream, per session and in all:
//! what does not fit is a gap, never a wait.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::exchange::Exchange;
use super::refusal::Refusal;
use super::reply::Json;
use crate::config::limits::Limits;
use crate::random;

/// The first version whose clients understand an event without data: it primes them with an id to resume from.
const PRIMING_SINCE: &str = "2025-11-25";

/// How long a client should wait before it reconnects. SDK clients give up after two failures in a row.
const RETRY: Duration = Duration::from_secs(5);

/// What `Last-Event-ID` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EventId {
    pub(super) stream: String,
    pub(super) seq: u64,
}

impl EventId {
    /// Reads `<stream>.<seq>`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (stream, seq) = text.rsplit_once('.')?;
        let plain = !seq.is_empty() && seq.bytes().all(|byte| byte.is_ascii_digit());
        Some(Self { stream: stream.to_owned(), seq: plain.then(|| seq.parse().ok())?? })
    }

    /// Whether it is of a session's own stream, rather than of one request's.
    pub(super) fn is_standalone(&self) -> bool {
        self.stream.starts_with('g')
    }
}

impl std::fmt::Display for EventId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.stream, self.seq)
    }
}

/// The first bytes of a stream: an event to resume from where the client understands it, else a comment.
pub(super) fn opening(version: &str, id: &EventId) -> Bytes {
    if version < PRIMING_SINCE {
        return Bytes::from_static(b": ok\n\n");
    }
    Bytes::from(format!("id: {id}\nretry: {}\ndata:\n\n", RETRY.as_millis()))
}

/// A new stream's id: `g` for a session's own, `p` for a POST's, and 8 random bytes in base32 (RFC 4648 §6).
fn new_id(kind: char) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let bits = u128::from(u64::from_be_bytes(random::bytes())) << 1;
    let digits = (0..13).rev().map(|digit| char::from(ALPHABET[((bits >> (5 * digit)) & 31) as usize]));
    std::iter::once(kind).chain(digits).collect()
}

/// Bytes that may be kept: by one session, and within that of all of them.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicUsize,
    max: usize,
    within: Option<Arc<Budget>>,
    /// It was not enough: the oldest finished streams should go.
    pub(super) short: Notify,
}

impl Budget {
    pub(super) fn new(max: usize, within: Option<Arc<Budget>>) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max, within, short: Notify::new() })
    }

    fn take(&self, bytes: usize) -> bool {
        let more = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.max);
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            self.short.notify_one();
            return false;
        }
        let granted = self.within.as_ref().is_none_or(|within| within.take(bytes));
        if !granted {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        granted
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(within) = &self.within {
            within.give_back(bytes);
        }
    }
}

/// The streams of one session.
#[derive(Debug)]
pub(super) struct Tracks {
    by_id: Mutex<HashMap<String, Arc<Track>>>,
    budget: Arc<Budget>,
    max_streams: usize,
    max_events: usize,
    max_bytes: usize,
    max_session_bytes: usize,
    kept: Duration,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) id: String,
    made: Instant,
    sent: Mutex<Sent>,
    /// The connection that serves it now has the highest key.
    newest: AtomicU64,
    budget: Arc<Budget>,
}

#[derive(Debug, Default)]
struct Sent {
    events: VecDeque<(u64, Json, usize)>,
    bytes: usize,
    next: u64,
    /// The number of the final response, and when it was noted.
    last: Option<(u64, Instant)>,
    /// The request whose stream this is, until its final response has been noted.
    exchange: Option<Arc<Exchange>>,
    /// Whoever waits on the connection that serves it.
    waker: Option<Waker>,
}

impl Tracks {
    pub(super) fn new(all: &Arc<Budget>, limits: &Limits) -> Self {
        Self {
            by_id: Mutex::default(),
            budget: Budget::new(limits.replay_session_bytes, Some(Arc::clone(all))),
            max_streams: limits.replay_streams,
            max_events: limits.replay_events,
            max_bytes: limits.replay_bytes,
            max_session_bytes: limits.replay_session_bytes,
            kept: limits.replay_kept,
        }
    }

    /// A new stream of one request.
    pub(super) fn of_exchange(&self, exchange: Arc<Exchange>) -> Arc<Track> {
        self.insert(new_id('p'), Some(exchange))
    }

    /// A new stream of the session's own.
    pub(super) fn standalone(&self) -> Arc<Track> {
        self.insert(new_id('g'), None)
    }

    fn insert(&self, id: String, exchange: Option<Arc<Exchange>>) -> Arc<Track> {
        let sent = Sent { next: 1, exchange, ..Sent::default() };
        let budget = Arc::clone(&self.budget);
        let track =
            Track { id: id.clone(), made: Instant::now(), sent: Mutex::new(sent), newest: AtomicU64::new(0), budget };
        let track = Arc::new(track);
        let mut tracks = self.lock();
        if tracks.len() >= self.max_streams {
            // Whoever is being served goes on; it only cannot come back.
            let oldest =
                tracks.values().min_by_key(|track| (track.is_running(), track.made)).map(|track| track.id.clone());
            oldest.and_then(|oldest| tracks.remove(&oldest));
        }
        tracks.insert(id, Arc::clone(&track));
        track
    }

    /// The stream of this id.
    pub(super) fn find(&self, id: &str) -> Option<Arc<Track>> {
        self.lock().get(id).cloned()
    }

    /// Notes an event that is being handed to a connection, or would be if there were one, and numbers it.
    pub(super) fn note(&self, track: &Track, json: &Json, is_final: bool) -> EventId {
        let bytes = json.iter().map(Bytes::len).sum::<usize>();
        let fits = (bytes <= self.max_bytes || is_final) && bytes <= self.max_session_bytes;
        let mut sent = track.lock();
        let seq = sent.next;
        sent.next += 1;
        while fits && (sent.events.len() >= self.max_events || sent.bytes + bytes > self.max_bytes.max(bytes)) {
            sent.drop_oldest(&track.budget);
        }
        drop(sent);
        // With the stream's lock let go: room may have to be made in others.
        let granted = fits && (self.budget.take(bytes) || (self.make_room(bytes) && self.budget.take(bytes)));
        let mut sent = track.lock();
        if granted {
            sent.bytes += bytes;
            sent.events.push_back((seq, json.clone(), bytes));
        } else if is_final {
            // A client that comes back must hear of an end, if not of this one.
            let id = sent.exchange.as_ref().map(|exchange| exchange.asking.id.clone());
            let end = vec![Bytes::from(Refusal::ResponseTooLarge.in_band(id.as_deref()))];
            sent.events.push_back((seq, end, 0));
        }
        if is_final {
            sent.last = Some((seq, Instant::now()));
            sent.exchange = None;
        }
        EventId { stream: track.id.clone(), seq }
    }

    /// Lets go of what finished streams of this session have sent, oldest first, then of what the others have.
    fn make_room(&self, bytes: usize) -> bool {
        let mut tracks: Vec<Arc<Track>> = self.lock().values().cloned().collect();
        tracks.sort_by_key(|track| (track.is_running(), track.made));
        let mut freed = 0;
        for track in tracks {
            let mut sent = track.lock();
            while freed < bytes && sent.events.len() > 1 {
                freed += sent.drop_oldest(&track.budget);
            }
            if freed < bytes && sent.last.is_some() {
                drop(sent);
                freed += track.lock().bytes;
                self.lock().remove(&track.id);
            }
        }
        freed > 0
    }

    /// Forgets streams whose final response was noted long ago; with `all`, every finished one.
    pub(super) fn expire(&self, all: bool) {
        let now = Instant::now();
        self.lock()
            .retain(|_, track| track.lock().last.is_none_or(|(_, at)| !all && now.duration_since(at) < self.kept));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Track>>> {
        self.by_id.lock().expect("nothing panics while it holds the streams")
    }
}

impl Sent {
    fn drop_oldest(&mut self, budget: &Budget) -> usize {
        let Some((_, _, bytes)) = self.events.pop_front() else { return 0 };
        self.bytes -= bytes;
        budget.give_back(bytes);
        bytes
    }
}

/// Where a stream stands for a client that has seen everything up to some event.
pub(super) enum Standing {
    /// It has seen the end.
    Over,
    /// These come next, then what the request still has to say, if it has not ended.
    Goes(VecDeque<(EventId, Json)>, Option<Arc<Exchange>>),
}

impl Track {
    /// Where it stands after event `seq`.
    pub(super) fn after(&self, seq: u64) -> Standing {
        let sent = self.lock();
        if sent.last.is_some_and(|(last, _)| last <= seq) {
            return Standing::Over;
        }
        let missed = sent
            .events
            .iter()
            .filter(|(number, ..)| *number > seq)
            .map(|(number, json, _)| (EventId { stream: self.id.clone(), seq: *number }, json.clone()));
        Standing::Goes(missed.collect(), sent.exchange.clone())
    }

    /// Makes the caller the connection that serves it; the one before ends.
    pub(super) fn attach(&self) -> u64 {
        let key = self.newest.fetch_add(1, Ordering::AcqRel) + 1;
        if let Some(waker) = self.lock().waker.take() {
            waker.wake();
        }
        key
    }

    /// Whether its final response is yet to come.
    fn is_running(&self) -> bool {
        self.lock().last.is_none()
    }

    /// Whether the connection with this key still serves it. Its waker is kept, to be told when it does not.
    pub(super) fn serves(&self, key: u64, waker: &Waker) -> bool {
        if self.newest.load(Ordering::Acquire) != key {
            return false;
        }
        self.lock().waker = Some(waker.clone());
        true
    }

    /// Whether the connection with this key serves it.
    pub(super) fn is_served_by(&self, key: u64) -> bool {
        self.newest.load(Ordering::Acquire) == key
    }

    fn lock(&self) -> MutexGuard<'_, Sent> {
        self.sent.lock().expect("nothing panics while it holds a stream")
    }
}

impl Drop for Track {
    fn drop(&mut self) {
        let bytes = self.lock().bytes;
        self.budget.give_back(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracks(limits: &Limits) -> (Tracks, Arc<Budget>) {
        let budget = Budget::new(limits.replay_bytes_in_all, None);
        (Tracks::new(&budget, limits), budget)
    }

    fn json(text: &str) -> Json {
        vec![Bytes::copy_from_slice(text.as_bytes())]
    }

    fn missed(track: &Track, seq: u64) -> Option<Vec<String>> {
        match track.after(seq) {
            Standing::Over => None,
            Standing::Goes(events, _) => {
                let text =
                    |(id, json): (EventId, Json)| format!("{} {}", id.seq, String::from_utf8(json.concat()).unwrap());
                Some(events.into_iter().map(text).collect())
            }
        }
    }

    #[test]
    fn an_event_id_is_read_as_it_is_written() {
        for (text, read) in [
            ("gabc.0", Some(("gabc", 0))),
            ("p2.17", Some(("p2", 17))),
            ("p2.", None),
            ("p2.-1", None),
            ("p2.+1", None),
            ("17", None),
            ("", None),
            ("p.99999999999999999999999", None),
        ] {
            let id = EventId::parse(text);
            assert_eq!(id.as_ref().map(|id| (id.stream.as_str(), id.seq)), read, "{text}");
            assert!(id.is_none_or(|id| id.to_string() == text));
        }
        let id = new_id('p');
        assert!(id.len() == 14 && id != new_id('p'), "{id}");
        assert_eq!(opening("2025-06-18", &EventId { stream: "g".into(), seq: 0 }), ": ok\n\n");
        assert_eq!(opening("2025-11-25", &EventId { stream: "g".into(), seq: 3 }), "id: g.3\nretry: 5000\ndata:\n\n");
    }

    #[tokio::test]
    async fn what_was_sent_after_an_event_is_sent_again_up_to_the_end() {
        let (tracks, budget) = tracks(&Limits { replay_events: 3, ..Limits::default() });
        let track = tracks.standalone();
        for text in ["a", "b", "c", "d"] {
            tracks.note(&track, &json(text), false);
        }
        assert_eq!(missed(&track, 2).unwrap(), ["3 c", "4 d"]);
        assert_eq!(missed(&track, 0).unwrap(), ["2 b", "3 c", "4 d"], "a gap is what it is");
        tracks.note(&track, &json("end"), true);
        assert_eq!(missed(&track, 4).unwrap(), ["5 end"]);
        assert_eq!(missed(&track, 5), None);
        tracks.expire(true);
        assert!(tracks.find(&track.id).is_none());
        drop(track);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn nothing_grows_beyond_its_bound_and_the_final_response_stays() {
        let limits =
            Limits { replay_bytes: 10, replay_session_bytes: 30, replay_bytes_in_all: 33, ..Limits::default() };
        let (tracks, budget) = tracks(&limits);
        let track = tracks.standalone();
        tracks.note(&track, &json("123456"), false);
        tracks.note(&track, &json("1234567"), false);
        assert_eq!(missed(&track, 0).unwrap(), ["2 1234567"]);
        tracks.note(&track, &json(&"x".repeat(11)), false);
        assert_eq!(missed(&track, 0).unwrap(), ["2 1234567"], "one too large for a stream costs only itself");
        let finished = tracks.standalone();
        tracks.note(&finished, &json(&"y".repeat(20)), true);
        assert_eq!(missed(&finished, 0).unwrap().len(), 1, "the final response may be larger");
        tracks.note(&track, &json("1234"), false);
        assert_eq!(missed(&track, 2).unwrap(), ["4 1234"]);
        let large = tracks.standalone();
        tracks.note(&large, &json(&"z".repeat(31)), true);
        assert!(missed(&large, 0).unwrap()[0].contains("response_too_large"), "an end is heard of, if not this one");
        let other = Tracks::new(&budget, &limits);
        let third = other.standalone();
        other.note(&third, &json("1234567890"), false);
        assert!(missed(&third, 0).unwrap().is_empty(), "all together have their bound too");
        assert!(budget.used.load(Ordering::Relaxed) <= 33);
    }
}
