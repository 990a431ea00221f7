//! What one request's client is yet to read: events in order, then the end.
//!
//! The child's reader writes here and never waits; whoever speaks HTTP reads at its client's pace. What a slow client
//! leaves unread is bounded: beyond it progress and logs go, oldest first, but never an answer or a question. Of all
//! clients together it is bounded too ([`super::unread`]).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::refusal::Refusal;
use super::unread::{COUNTED_FROM, Held, Tab};
use crate::mcp::connection::End;

/// One JSON text in pieces.
pub(super) type Json = Vec<Bytes>;

/// How a request ended, before it is put into its client's words.
#[derive(Debug)]
pub(super) enum Finish {
    /// As the connection says.
    Upstream(End),
    /// By ferry's own decision.
    Ferry(Refusal),
    /// With an answer that needs no more translation.
    Ready(Json),
}

impl Finish {
    /// Bytes of an answer that waits to be read.
    fn size(&self) -> usize {
        match self {
            Self::Upstream(End::Answered(message)) => message.text().len(),
            Self::Ready(json) => json.iter().map(Bytes::len).sum(),
            Self::Upstream(_) | Self::Ferry(_) => 0,
        }
    }
}

/// How dear a message is when its reader is too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Progress and logs: the newest tells the most.
    IfRoom,
    /// Questions of the server and what belongs to them.
    Always,
}

/// The first thing there is to tell.
#[derive(Debug)]
pub(super) enum First {
    /// The end, and nothing before it: an answer of plain JSON will do.
    End(Finish, Option<Held>),
    /// A message before the end: this has to be a stream.
    Event,
}

/// What comes next, each with its bytes on the tab.
#[derive(Debug)]
pub(super) enum Next {
    Event(Json, Held),
    End(Finish, Option<Held>),
}

#[derive(Debug)]
pub(super) struct Reply {
    state: Mutex<State>,
    max_events: usize,
    tab: Arc<Tab>,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<(Keep, Json, Held)>,
    end: Option<(Finish, Option<Held>)>,
    /// The end was taken by a reader, or will never be.
    over: bool,
    waker: Option<Waker>,
}

impl Reply {
    pub(super) fn new(max_events: usize, tab: Tab) -> Self {
        Self { state: Mutex::default(), max_events, tab: Arc::new(tab) }
    }

    /// What its client has yet to read.
    pub(super) fn tab(&self) -> &Arc<Tab> {
        &self.tab
    }

    /// Its connection is gone. Where that was cut, progress and logs do not wait for another one.
    pub(super) fn is_left(&self) {
        if self.tab.is_left() {
            self.lock().events.retain(|(keep, ..)| *keep == Keep::Always);
        }
    }

    /// Adds a message. What comes after the end is dropped.
    pub(super) fn push(&self, event: Json, keep: Keep) {
        let mut state = self.lock();
        if state.end.is_some() || state.over {
            return;
        }
        let held = self.tab.hold(event.iter().map(Bytes::len).sum());
        if state.events.len() >= self.max_events {
            let Some(oldest) = state.events.iter().position(|(keep, ..)| *keep == Keep::IfRoom) else {
                // All of them are questions: as many as there may be, and this one is no dearer if it is not one.
                if keep == Keep::IfRoom {
                    return;
                }
                state.events.push_back((keep, event, held));
                return state.wake();
            };
            state.events.remove(oldest);
        }
        state.events.push_back((keep, event, held));
        state.wake();
    }

    /// Ends it. Only the first end counts; returns whether this was it.
    pub(super) fn finish(&self, finish: Finish) -> bool {
        let mut state = self.lock();
        if state.end.is_some() || state.over {
            return false;
        }
        let held = Some(finish.size()).filter(|size| *size >= COUNTED_FROM).map(|size| self.tab.hold(size));
        state.end = Some((finish, held));
        state.wake();
        true
    }

    /// Whether the end is there or has been taken.
    pub(super) fn is_over(&self) -> bool {
        let state = self.lock();
        state.over || state.end.is_some()
    }

    /// The first thing there is to tell. Where the client takes no stream, messages before the end are dropped.
    pub(super) fn poll_first(&self, context: &mut Context<'_>, streams: bool) -> Poll<First> {
        let mut state = self.lock();
        if !streams {
            state.events.clear();
        }
        if !state.events.is_empty() {
            return Poll::Ready(First::Event);
        }
        match state.end.take() {
            Some((finish, held)) => {
                state.over = true;
                Poll::Ready(First::End(finish, held))
            }
            None => state.wait(context),
        }
    }

    /// The next message, then the end.
    pub(super) fn poll_next(&self, context: &mut Context<'_>) -> Poll<Next> {
        let mut state = self.lock();
        if let Some((_, event, held)) = state.events.pop_front() {
            return Poll::Ready(Next::Event(event, held));
        }
        match state.end.take() {
            Some((finish, held)) => {
                state.over = true;
                Poll::Ready(Next::End(finish, held))
            }
            None => state.wait(context),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds a reply")
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn wait<T>(&mut self, context: &mut Context<'_>) -> Poll<T> {
        match &mut self.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::auth::Identity;
    use crate::config::limits::Limits;

    fn reply() -> Reply {
        Reply::new(3, Tab::new(&Arc::default(), &Identity::local(), &Limits::default()))
    }

    fn json(text: &str) -> Json {
        vec![Bytes::copy_from_slice(text.as_bytes())]
    }

    fn next(reply: &Reply) -> Option<String> {
        match reply.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Next::Event(event, _)) => Some(String::from_utf8(event.concat()).unwrap()),
            Poll::Ready(Next::End(..)) => Some("end".into()),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_slow_reader_loses_the_oldest_progress_and_never_a_question_or_the_end() {
        let reply = reply();
        for (text, keep) in [("p1", Keep::IfRoom), ("q1", Keep::Always), ("p2", Keep::IfRoom), ("p3", Keep::IfRoom)] {
            reply.push(json(text), keep);
        }
        reply.push(json("q2"), Keep::Always);
        assert!(reply.finish(Finish::Upstream(End::Closed)));
        assert!(!reply.finish(Finish::Upstream(End::NotSent)), "the first end counts");
        reply.push(json("late"), Keep::Always);
        let read: Vec<_> = std::iter::from_fn(|| next(&reply)).collect();
        assert_eq!(read, ["q1", "p3", "q2", "end"]);
        assert!(reply.is_over());
    }

    #[test]
    fn without_a_stream_only_the_end_counts() {
        let reply = reply();
        let mut context = Context::from_waker(Waker::noop());
        reply.push(json("p"), Keep::IfRoom);
        assert!(matches!(reply.poll_first(&mut context, true), Poll::Ready(First::Event)));
        assert!(reply.poll_first(&mut context, false).is_pending());
        reply.finish(Finish::Upstream(End::Closed));
        assert!(matches!(reply.poll_first(&mut context, false), Poll::Ready(First::End(..))));
    }
}
