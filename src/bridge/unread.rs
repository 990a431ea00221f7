//! What clients have yet to read of their answers, counted per identity and in all.
//!
//! Whoever reads a server's pipe hands an answer over and goes on, so a client that does not read must not be waited
//! for, and what it leaves lying must end somewhere: here. Beyond the bounds the connection that has taken nothing for
//! the longest time is cut. Its request is then one whose client was lost, like any other.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::auth::Identity;
use super::reply::Json;
use crate::config::limits::Limits;

/// An answer from this size on is counted. There is one to a connection, and these are bounded in number, so what lies
/// below is bounded too, and costs nothing.
pub(super) const COUNTED_FROM: usize = 16 * 1024;

/// Ends one connection from outside.
#[derive(Debug, Clone, Default)]
pub(super) struct HangUp(Arc<Notify>);

impl HangUp {
    /// Resolves when the connection is to be ended.
    pub(super) async fn asked(&self) {
        self.0.notified().await;
    }
}

/// The counts of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Unread(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_identity: HashMap<Identity, usize>,
    /// By the addresses of their tabs; compared, never followed.
    readers: HashMap<usize, Waiting>,
    next_round: u64,
}

#[derive(Debug)]
struct Waiting {
    tab: Weak<Tab>,
    /// Another one each time the tab is opened: what it had before it was cut is not taken off what it has now.
    round: u64,
    identity: Identity,
    bytes: usize,
    /// When its client last took something, or first could have.
    since: Instant,
}

/// What one request's client has yet to read.
#[derive(Debug)]
pub(super) struct Tab {
    unread: Arc<Unread>,
    identity: Identity,
    max: usize,
    max_own: usize,
    /// The connection by which it is read.
    connection: Mutex<Option<HangUp>>,
    cut: AtomicBool,
}

/// Bytes on a tab, until they are dropped.
#[derive(Debug)]
pub(super) struct Held {
    tab: Arc<Tab>,
    round: u64,
    bytes: usize,
}

impl Tab {
    pub(super) fn new(unread: &Arc<Unread>, identity: &Identity, limits: &Limits) -> Self {
        Self {
            unread: Arc::clone(unread),
            identity: identity.clone(),
            max: limits.max_unread_bytes,
            max_own: limits.max_unread_bytes_per_identity,
            connection: Mutex::default(),
            cut: AtomicBool::new(false),
        }
    }

    /// Puts bytes on it, and cuts whoever they are too much for: this client, or one that has waited for longer.
    pub(super) fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        let (round, cut) = self.unread.lock().add(self, bytes);
        for tab in cut.iter().filter_map(Weak::upgrade) {
            tracing::warn!(identity = ?tab.identity, "a client that does not read was cut off: too much waits for it");
            tab.cut.store(true, Ordering::Release);
            tab.hang_up();
        }
        Held { tab: Arc::clone(self), round, bytes }
    }

    /// Its client has taken something.
    pub(super) fn moves(&self) {
        if let Some(waiting) = self.unread.lock().readers.get_mut(&self.key()) {
            waiting.since = Instant::now();
        }
    }

    /// It is read by this connection from now on.
    pub(super) fn is_read_by(&self, connection: HangUp) {
        *self.connection() = Some(connection);
        self.hang_up();
    }

    /// Takes note that its connection is gone; returns whether that was cut.
    pub(super) fn is_left(&self) -> bool {
        *self.connection() = None;
        self.cut.swap(false, Ordering::AcqRel)
    }

    fn hang_up(&self) {
        if self.cut.load(Ordering::Acquire)
            && let Some(connection) = &*self.connection()
        {
            connection.0.notify_one();
        }
    }

    fn connection(&self) -> MutexGuard<'_, Option<HangUp>> {
        self.connection.lock().expect("nothing panics while it holds this")
    }

    fn key(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }
}

impl Held {
    /// The pieces of a text that are counted until the last of the longest one has been written.
    pub(super) fn with(self, mut json: Json) -> Json {
        if let Some(longest) = json.iter_mut().max_by_key(|part| part.len()) {
            *longest = Bytes::from_owner(Counted { part: std::mem::take(longest), _held: self });
        }
        json
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.tab.unread.lock().less(self.tab.key(), self.round, self.bytes);
    }
}

struct Counted {
    part: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.part
    }
}

impl Unread {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().expect("nothing panics while it counts")
    }
}

impl Counts {
    /// Adds bytes to a tab; returns its round, and those whose clients must go.
    fn add(&mut self, tab: &Arc<Tab>, bytes: usize) -> (u64, Vec<Weak<Tab>>) {
        let next_round = &mut self.next_round;
        let new = || Waiting {
            tab: Arc::downgrade(tab),
            round: std::mem::replace(next_round, *next_round + 1),
            identity: tab.identity.clone(),
            bytes: 0,
            since: Instant::now(),
        };
        let waiting = self.readers.entry(tab.key()).or_insert_with(new);
        waiting.bytes += bytes;
        let round = waiting.round;
        self.all += bytes;
        *self.by_identity.entry(tab.identity.clone()).or_default() += bytes;
        let mut cut = Vec::new();
        while let Some(key) = self.one_too_many(tab) {
            let Some(waiting) = self.readers.get(&key) else { break };
            cut.push(Weak::clone(&waiting.tab));
            self.less(key, waiting.round, waiting.bytes);
        }
        (round, cut)
    }

    /// Whom to cut, if anybody.
    fn one_too_many(&self, tab: &Tab) -> Option<usize> {
        let own = self.by_identity.get(&tab.identity).is_some_and(|own| *own > tab.max_own);
        if !own && self.all <= tab.max {
            return None;
        }
        let among = self.readers.iter().filter(|(_, waiting)| !own || waiting.identity == tab.identity);
        among.min_by_key(|(_, waiting)| waiting.since).map(|(key, _)| *key)
    }

    /// Takes bytes off a tab. One that was cut has none left.
    fn less(&mut self, key: usize, round: u64, bytes: usize) {
        let Some(waiting) = self.readers.get_mut(&key).filter(|waiting| waiting.round == round) else { return };
        let bytes = bytes.min(waiting.bytes);
        waiting.bytes -= bytes;
        waiting.since = Instant::now();
        self.all -= bytes;
        if let Some(own) = self.by_identity.get_mut(&waiting.identity) {
            *own -= bytes;
            if *own == 0 {
                self.by_identity.remove(&waiting.identity);
            }
        }
        if waiting.bytes == 0 {
            self.readers.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Desk {
        unread: Arc<Unread>,
        limits: Limits,
    }

    impl Desk {
        fn new() -> Self {
            let limits = Limits { max_unread_bytes: 100, max_unread_bytes_per_identity: 60, ..Limits::default() };
            Self { unread: Arc::default(), limits }
        }

        fn tab(&self, subject: &str) -> (Arc<Tab>, HangUp) {
            let tab = Arc::new(Tab::new(&self.unread, &Identity::access("team", subject), &self.limits));
            let connection = HangUp::default();
            tab.is_read_by(connection.clone());
            (tab, connection)
        }

        fn all(&self) -> usize {
            self.unread.lock().all
        }
    }

    async fn is_cut(connection: &HangUp) -> bool {
        tokio::time::timeout(Duration::from_millis(1), connection.asked()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_bound_the_one_that_has_waited_longest_is_cut() {
        let desk = Desk::new();
        let ((stuck, its), (slow, slows), (new, news)) = (desk.tab("me"), desk.tab("me"), desk.tab("me"));
        let kept = (stuck.hold(20), slow.hold(20));
        tokio::time::advance(Duration::from_secs(1)).await;
        slow.moves();
        let last = new.hold(30);
        assert_eq!((is_cut(&its).await, is_cut(&slows).await, is_cut(&news).await), (true, false, false));
        assert_eq!(desk.all(), 50);
        assert!(stuck.is_left() && !stuck.is_left() && !slow.is_left());
        drop((kept, last));
        assert_eq!(desk.all(), 0);
        assert!(desk.unread.lock().by_identity.is_empty() && desk.unread.lock().readers.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_identity_leaves_the_others_alone_until_it_is_too_much_for_all() {
        let desk = Desk::new();
        let ((yours, your_line), (mine, my_line), (third, _)) = (desk.tab("you"), desk.tab("me"), desk.tab("third"));
        let _yours = yours.hold(40);
        tokio::time::advance(Duration::from_secs(1)).await;
        let _mine = mine.hold(61);
        assert_eq!((is_cut(&your_line).await, is_cut(&my_line).await), (false, true), "too much for one");
        let _third = third.hold(60);
        assert!(!is_cut(&your_line).await);
        let (fourth, _) = desk.tab("fourth");
        let _fourth = fourth.hold(1);
        assert!(is_cut(&your_line).await, "too much in all, and it has waited longest");
    }

    #[tokio::test]
    async fn a_text_is_counted_until_its_last_byte_is_gone() {
        let desk = Desk::new();
        let (tab, _) = desk.tab("me");
        let large = Bytes::from(vec![b'x'; 50]);
        let mut json = tab.hold(50).with(vec![Bytes::from_static(b"{"), large.clone(), Bytes::from_static(b"}")]);
        assert_eq!(json[1].as_ptr(), large.as_ptr(), "it is not copied");
        let rest = json[1].split_off(49);
        drop(json);
        assert_eq!(desk.all(), 50);
        drop(rest);
        assert_eq!(desk.all(), 0);
    }

    #[tokio::test]
    async fn one_that_is_cut_before_it_has_a_connection_loses_it_at_once() {
        let desk = Desk::new();
        let tab = Arc::new(Tab::new(&desk.unread, &Identity::local(), &desk.limits));
        let _held = tab.hold(61);
        let connection = HangUp::default();
        tab.is_read_by(connection.clone());
        assert!(is_cut(&connection).await);
    }
}
