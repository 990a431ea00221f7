//! The messages of a session that belong to none of its requests, and the GET streams they go out on.
//!
//! A session may have several streams open: SDK clients reopen what a server closes, so closing one because another
//! came would make two of them displace each other for ever. The newest gets the messages; an older one takes over
//! when it breaks. What waits while there is no stream is bounded and collapsed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

use super::reply::Json;
use super::stream::{Event, Source};

/// What a message is, as far as waiting goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Class {
    /// A `list_changed` of this method: one of each kind says it all.
    ListChanged(String),
    /// `resources/updated` of this URI: likewise.
    Updated(String),
    /// A log message; nobody misses it.
    Log,
    /// A question of the server, under the session's number for it.
    Question(u64),
    /// The answer to a request, where there is no other way for it.
    Answer,
    /// Anything else.
    Other,
}

#[derive(Debug)]
pub(super) struct Standalone {
    state: Mutex<State>,
    /// A stream was opened.
    opened: Notify,
    max_queued: usize,
    max_streams: usize,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<(Class, Json)>,
    /// Oldest first.
    streams: Vec<(u64, Option<Waker>)>,
    next: u64,
    closed: bool,
}

impl Standalone {
    pub(super) fn new(max_queued: usize, max_streams: usize) -> Self {
        Self { state: Mutex::default(), opened: Notify::new(), max_queued, max_streams }
    }

    /// Adds a message, or drops it where the rules above say so; returns whether it was taken.
    pub(super) fn push(&self, class: Class, json: Json) -> bool {
        let mut state = self.lock();
        if state.closed || (class == Class::Log && state.streams.is_empty()) {
            return false;
        }
        if matches!(class, Class::ListChanged(_) | Class::Updated(_)) {
            state.queue.retain(|(waiting, _)| *waiting != class);
        }
        if state.queue.len() >= self.max_queued {
            let dear = |class: &Class| matches!(class, Class::Question(_) | Class::Answer);
            let Some(oldest) = state.queue.iter().position(|(class, _)| !dear(class)) else {
                return false;
            };
            state.queue.remove(oldest);
        }
        state.queue.push_back((class, json));
        state.wake_newest();
        true
    }

    /// Takes back a question that nobody has read; returns whether it was still there.
    pub(super) fn withdraw(&self, question: u64) -> bool {
        let mut state = self.lock();
        let before = state.queue.len();
        state.queue.retain(|(class, _)| *class != Class::Question(question));
        state.queue.len() < before
    }

    /// Whether a stream is open.
    pub(super) fn is_open(&self) -> bool {
        !self.lock().streams.is_empty()
    }

    /// Waits until a stream is open.
    pub(super) async fn wait_open(&self) {
        loop {
            let mut opened = std::pin::pin!(self.opened.notified());
            opened.as_mut().enable();
            if self.is_open() {
                return;
            }
            opened.await;
        }
    }

    /// Opens a stream. Beyond the bound the oldest one is closed.
    pub(super) fn open(self: &Arc<Self>) -> Stream {
        let mut state = self.lock();
        let key = state.next;
        state.next += 1;
        if state.streams.len() >= self.max_streams {
            let (_, waker) = state.streams.remove(0);
            waker.into_iter().for_each(Waker::wake);
        }
        if !state.closed {
            state.streams.push((key, None));
        }
        drop(state);
        self.opened.notify_waiters();
        Stream { standalone: Arc::clone(self), key }
    }

    /// Ends all streams, for good.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.queue.clear();
        for (_, waker) in state.streams.drain(..) {
            waker.into_iter().for_each(Waker::wake);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds a session's messages")
    }
}

impl State {
    fn wake_newest(&mut self) {
        if let Some(waker) = self.streams.last_mut().and_then(|(_, waker)| waker.take()) {
            waker.wake();
        }
    }
}

/// One open GET stream.
pub(super) struct Stream {
    standalone: Arc<Standalone>,
    key: u64,
}

impl Source for Stream {
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut state = self.standalone.lock();
        let Some(place) = state.streams.iter().position(|(key, _)| *key == self.key) else {
            return Poll::Ready(None);
        };
        let newest = place + 1 == state.streams.len();
        if newest && let Some((_, json)) = state.queue.pop_front() {
            return Poll::Ready(Some(json.into()));
        }
        state.streams[place].1 = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.standalone.lock();
        state.streams.retain(|(key, _)| *key != self.key);
        state.wake_newest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn json(text: &str) -> Json {
        vec![Bytes::copy_from_slice(text.as_bytes())]
    }

    fn read(stream: &mut Stream) -> Vec<String> {
        let mut context = Context::from_waker(Waker::noop());
        let mut all = Vec::new();
        loop {
            match stream.poll_event(&mut context) {
                Poll::Ready(Some(event)) => all.push(String::from_utf8(event.json.concat()).unwrap()),
                Poll::Ready(None) => all.push("end".into()),
                Poll::Pending => return all,
            }
            if all.last().is_some_and(|last| last == "end") {
                return all;
            }
        }
    }

    #[test]
    fn what_waits_is_collapsed_and_bounded() {
        let standalone = Arc::new(Standalone::new(3, 2));
        let tools = || Class::ListChanged("notifications/tools/list_changed".into());
        assert!(!standalone.push(Class::Log, json("log")));
        for (class, text) in [
            (tools(), "tools 1"),
            (Class::Updated("a".into()), "a 1"),
            (Class::Question(1), "question"),
            (tools(), "tools 2"),
            (Class::Updated("b".into()), "b"),
        ] {
            assert!(standalone.push(class, json(text)));
        }
        assert_eq!(read(&mut standalone.open()), ["question", "tools 2", "b"]);
    }

    #[test]
    fn the_newest_stream_is_served_and_an_older_one_takes_over() {
        let standalone = Arc::new(Standalone::new(8, 2));
        let mut first = standalone.open();
        let mut second = standalone.open();
        standalone.push(Class::Other, json("1"));
        assert!(read(&mut first).is_empty());
        assert_eq!(read(&mut second), ["1"]);
        drop(second);
        standalone.push(Class::Log, json("2"));
        assert_eq!(read(&mut first), ["2"]);
        let mut third = standalone.open();
        let mut fourth = standalone.open();
        assert_eq!(read(&mut first), ["end"], "beyond the bound the oldest is closed");
        standalone.close();
        assert_eq!((read(&mut third), read(&mut fourth)), (vec!["end".to_owned()], vec!["end".to_owned()]));
        assert!(!standalone.push(Class::Other, json("3")));
    }

    #[test]
    fn an_unread_question_can_be_taken_back() {
        let standalone = Arc::new(Standalone::new(8, 2));
        standalone.push(Class::Question(7), json("?"));
        assert!(standalone.withdraw(7));
        assert!(!standalone.withdraw(7));
    }
}
