//! What is counted of one server, for `/metrics`. Counting costs a few relaxed additions; whatever can be found out when
//! somebody asks is not counted here.
//!
//! Labels have a fixed set of values, whatever clients send.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The methods that are told apart.
const METHODS: [&str; 19] = [
    "tools/call",
    "tools/list",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "prompts/list",
    "prompts/get",
    "completion/complete",
    "logging/setLevel",
    "ping",
    "initialize",
    "server/discover",
    "subscriptions/listen",
    "tasks/get",
    "tasks/result",
    "tasks/cancel",
    OTHER,
];

/// How requests end: by the server's result, by its error, or for ferry's own reasons.
const OUTCOMES: [&str; 10] = [
    "ok",
    "error",
    "upstream_unavailable",
    "upstream_exited",
    "upstream_timeout",
    "overloaded",
    "response_too_large",
    "upstream_protocol",
    "cancelled",
    OTHER,
];

/// The HTTP statuses that are told apart.
const STATUSES: [u16; 16] = [200, 202, 204, 400, 401, 403, 404, 405, 406, 413, 415, 421, 429, 500, 503, 0];

/// What belongs to none of the above.
const OTHER: &str = "other";

/// Upper ends of the classes of durations, in microseconds: ferry itself takes tens of them, servers anything.
const BOUNDS: [u64; 14] = [
    100,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    30_000_000,
    300_000_000,
];

/// The counters of one server.
#[derive(Debug, Default)]
pub struct Meter {
    requests: [[AtomicU64; OUTCOMES.len()]; METHODS.len()],
    responses: [AtomicU64; STATUSES.len()],
    /// How many took so long, and longer than the class before.
    durations: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

/// How long requests took.
#[derive(Debug, PartialEq)]
pub struct Durations {
    /// Upper ends in seconds, each with how many fell below it and above the one before. The last end is infinite.
    pub classes: Vec<(f64, u64)>,
    /// All of them together, in seconds.
    pub sum: f64,
    /// How many there were.
    pub count: u64,
}

impl Meter {
    /// A request has ended; `took` is absent for those that last as long as their client likes.
    pub fn answered(&self, method: &str, outcome: &str, took: Option<Duration>) {
        add(&self.requests[place(&METHODS, method)][place(&OUTCOMES, outcome)], 1);
        let Some(took) = took else { return };
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        add(&self.durations[BOUNDS.iter().position(|bound| took <= *bound).unwrap_or(BOUNDS.len())], 1);
        add(&self.microseconds, took);
    }

    /// An HTTP response was begun.
    pub fn responded(&self, status: u16) {
        let known = STATUSES.iter().position(|known| *known == status);
        add(&self.responses[known.unwrap_or(STATUSES.len() - 1)], 1);
    }

    /// Bytes of a request's body have come.
    pub fn received(&self, bytes: usize) {
        add(&self.received, bytes as u64);
    }

    /// Bytes of a response's body went out.
    pub fn sent(&self, bytes: usize) {
        add(&self.sent, bytes as u64);
    }

    /// Requests by method and outcome, as far as there were any.
    pub fn requests(&self) -> Vec<(&'static str, &'static str, u64)> {
        let rows = METHODS.into_iter().zip(&self.requests);
        let cells = rows.flat_map(|(method, row)| {
            OUTCOMES.into_iter().zip(row).map(move |(outcome, count)| (method, outcome, read(count)))
        });
        cells.filter(|(_, _, count)| *count > 0).collect()
    }

    /// HTTP responses by status, as far as there were any.
    pub fn responses(&self) -> Vec<(String, u64)> {
        let all = STATUSES.into_iter().zip(&self.responses).map(|(status, count)| {
            let status = if status == 0 { OTHER.to_owned() } else { status.to_string() };
            (status, read(count))
        });
        all.filter(|(_, count)| *count > 0).collect()
    }

    /// How long requests took.
    #[expect(clippy::cast_precision_loss, reason = "2^53 microseconds are 285 years")]
    pub fn durations(&self) -> Durations {
        let ends = BOUNDS.into_iter().map(|bound| bound as f64 / 1e6).chain([f64::INFINITY]);
        let classes: Vec<(f64, u64)> = ends.zip(self.durations.iter().map(read)).collect();
        let count = classes.iter().map(|(_, count)| count).sum();
        Durations { classes, sum: read(&self.microseconds) as f64 / 1e6, count }
    }

    /// Bytes of bodies that have come and that went out.
    pub fn bytes(&self) -> (u64, u64) {
        (read(&self.received), read(&self.sent))
    }
}

fn place(known: &[&str], name: &str) -> usize {
    known.iter().position(|known| *known == name).unwrap_or(known.len() - 1)
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_knows_is_counted_as_other() {
        let meter = Meter::default();
        meter.answered("tools/call", "ok", None);
        meter.answered("tools/call", "ok", None);
        meter.answered("made/up-by-a-client", "cancelled", None);
        meter.answered("ping", "made_up", None);
        meter.responded(200);
        meter.responded(299);
        assert_eq!(meter.requests(), [("tools/call", "ok", 2), ("ping", "other", 1), ("other", "cancelled", 1)],);
        assert_eq!(meter.responses(), [("200".to_owned(), 1), ("other".to_owned(), 1)]);
        assert_eq!(meter.durations().count, 0, "these have no duration");
    }

    #[test]
    fn durations_fall_into_classes() {
        let meter = Meter::default();
        for micros in [0, 100, 101, 400_000_000] {
            meter.answered("ping", "ok", Some(Duration::from_micros(micros)));
        }
        let found = meter.durations();
        assert_eq!(found.classes[..2], [(0.0001, 2), (0.0005, 1)]);
        assert_eq!(found.classes.last(), Some(&(f64::INFINITY, 1)));
        assert!((found.sum - 400.000_201).abs() < 1e-9 && found.count == 4);
    }
}
