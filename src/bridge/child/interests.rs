//! What sessions want to hear of: subscriptions to resources, and log levels. One wish stands for all that are alike,
//! and it outlives the process that was told.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, Weak};
use std::task::{Context, Waker};

use bytes::Bytes;
use tokio::sync::watch;

use super::super::auth::Identity;
use super::super::level::Level;
use super::super::methods;
use super::super::sessions::Session;
use super::{Child, Live};
use crate::mcp::connection::End;
use crate::mcp::envelope;
use crate::mcp::members::quote;

/// Subscribers to one resource, and what became of the one subscription at the server.
pub(super) struct Subscription {
    subscribers: Vec<Subscriber>,
    outcome: watch::Receiver<Option<Result<(), Bytes>>>,
}

/// Who subscribes.
#[derive(Debug, Clone)]
pub(in crate::bridge) enum Subscriber {
    /// A session.
    Session(Weak<Session>),
    /// A stream of a modern client's, by its number.
    Listener(u64),
}

impl Subscriber {
    pub(in crate::bridge) fn of(session: &Arc<Session>) -> Self {
        Self::Session(Arc::downgrade(session))
    }

    fn is_there(&self) -> bool {
        match self {
            Self::Session(session) => session.strong_count() > 0,
            Self::Listener(_) => true,
        }
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Session(one), Self::Session(other)) => one.ptr_eq(other),
            (Self::Listener(one), Self::Listener(other)) => one == other,
            _ => false,
        }
    }
}

impl Child {
    /// Subscribes a session to a resource; the server is asked once for all of them.
    pub(in crate::bridge) async fn subscribe(
        self: &Arc<Self>,
        live: &Live,
        subscriber: Subscriber,
        identity: &Identity,
        uri: &str,
    ) -> Result<(), Bytes> {
        live.admit(identity);
        live.initialized();
        let mut outcome = {
            let mut subscriptions = self.subscriptions();
            if let Some(known) = subscriptions.get_mut(uri) {
                known.subscribers.retain(Subscriber::is_there);
                if !known.subscribers.iter().any(|other| other.is(&subscriber)) {
                    known.subscribers.push(subscriber);
                }
                known.outcome.clone()
            } else {
                let (told, outcome) = watch::channel(None);
                let entry = Subscription { subscribers: vec![subscriber], outcome: outcome.clone() };
                subscriptions.insert(uri.to_owned(), entry);
                let (child, connection, uri) = (Arc::clone(self), live.connection.clone(), uri.to_owned());
                tokio::spawn(async move {
                    let params = uri_params(&uri);
                    let asked = connection.call(methods::RESOURCES_SUBSCRIBE, &params);
                    let end = tokio::time::timeout(child.limits.request_timeout, asked).await;
                    let result = subscribed(end.unwrap_or(End::Closed));
                    if result.is_err() {
                        child.subscriptions().remove(&uri);
                    }
                    told.send_replace(Some(result));
                });
                outcome
            }
        };
        let result = outcome.wait_for(Option::is_some).await.map(|result| result.clone());
        result.ok().flatten().unwrap_or_else(|| Err(internal_error("the subscription was lost")))
    }

    /// Takes a session's subscription back; after the last one the server is told.
    pub(in crate::bridge) fn unsubscribe(&self, subscriber: &Subscriber, uri: &str) {
        let last = {
            let mut subscriptions = self.subscriptions();
            let Some(known) = subscriptions.get_mut(uri) else { return };
            known.subscribers.retain(|other| other.is_there() && !other.is(subscriber));
            let last = known.subscribers.is_empty();
            if last {
                subscriptions.remove(uri);
            }
            last
        };
        if let Some(live) = self.current().filter(|_| last) {
            let params = uri_params(uri);
            tokio::spawn(async move { live.connection.call(methods::RESOURCES_UNSUBSCRIBE, &params).await });
        }
    }

    /// Subscribes to everything again, at a new process.
    pub(super) fn renew_subscriptions(&self, live: &Live) {
        let uris: Vec<String> = {
            let subscriptions = self.subscriptions();
            let subscribers = subscriptions.values().flat_map(|subscription| &subscription.subscribers);
            for subscriber in subscribers {
                if let Subscriber::Session(session) = subscriber
                    && let Some(session) = session.upgrade()
                {
                    live.admit(&session.identity);
                }
            }
            subscriptions.keys().cloned().collect()
        };
        for uri in uris {
            let (connection, params) = (live.connection.clone(), uri_params(&uri));
            tokio::spawn(async move {
                let end = connection.call(methods::RESOURCES_SUBSCRIBE, &params).await;
                if !matches!(end, End::Answered(answer) if answer.result().is_some()) {
                    tracing::warn!("a subscription could not be renewed after the server's restart");
                }
            });
        }
    }

    /// A session asked for this much logging: the server hears of the most verbose wish of all.
    pub(in crate::bridge) fn raise_level(self: &Arc<Self>, live: &Arc<Live>) {
        if let Some(wanted) = self.wanted_level() {
            self.raise_level_to(live, wanted);
        }
    }

    /// Has the server log this much at least.
    pub(in crate::bridge) fn raise_level_to(self: &Arc<Self>, live: &Arc<Live>, wanted: Level) {
        {
            let mut memory = self.memory();
            if memory.level.is_some_and(|level| level <= wanted) {
                let lower = memory.level.is_some_and(|level| level < wanted);
                drop(memory);
                if lower {
                    self.lower_level_later();
                }
                return;
            }
            memory.level = Some(wanted);
        }
        tell_level(live, wanted);
    }

    /// The one session that has this server is about to tell it this level itself.
    pub(in crate::bridge) fn note_level(&self, level: Level) {
        self.memory().level = Some(level);
    }

    /// Less is wanted now; somebody may come back for more, so the server is told only after a while.
    pub(in crate::bridge) fn lower_level_later(self: &Arc<Self>) {
        if self.lowering.swap(true, Ordering::AcqRel) {
            return;
        }
        let child = Arc::downgrade(self);
        let linger = self.limits.log_level_linger;
        tokio::spawn(async move {
            tokio::time::sleep(linger).await;
            let Some(child) = child.upgrade() else { return };
            child.lowering.store(false, Ordering::Release);
            let (Some(wanted), Some(live)) = (child.wanted_level(), child.current()) else { return };
            {
                let mut memory = child.memory();
                if memory.level.is_none_or(|level| level >= wanted) {
                    return;
                }
                memory.level = Some(wanted);
            }
            tell_level(&live, wanted);
        });
    }

    fn wanted_level(&self) -> Option<Level> {
        let mut of_requests = None;
        if let Some(live) = self.last() {
            live.connection.each(|_, exchange, cancelled| {
                let level = exchange.asking.log_level.filter(|_| !cancelled);
                of_requests = of_requests.into_iter().chain(level).min();
            });
        }
        self.audience().iter().filter_map(|session| session.level()).chain(of_requests).min()
    }

    pub(super) fn subscriptions(&self) -> MutexGuard<'_, HashMap<String, Subscription>> {
        self.subscriptions.lock().expect("nothing panics while it holds the subscriptions")
    }
}

fn uri_params(uri: &str) -> String {
    format!("{{\"uri\":{}}}", quote(uri))
}

pub(super) fn tell_level(live: &Live, level: Level) {
    let (connection, params) = (live.connection.clone(), format!("{{\"level\":\"{}\"}}", level.name()));
    let mut telling = Box::pin(async move { connection.call(methods::SET_LEVEL, &params).await });
    // Up to its place in the queue at once: what is asked next is to be logged at this level already.
    if telling.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
        tokio::spawn(telling);
    }
}

fn subscribed(end: End) -> Result<(), Bytes> {
    match end {
        End::Answered(message) => message.error().map_or(Ok(()), Err),
        _ => Err(internal_error("the server did not answer the subscription")),
    }
}

/// The `error` member of an answer of ferry's own.
fn internal_error(message: &str) -> Bytes {
    Bytes::from(format!("{{\"code\":{},\"message\":{}}}", envelope::code::INTERNAL_ERROR, quote(message)))
}
