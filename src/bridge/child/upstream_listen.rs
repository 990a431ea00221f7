//! What the legacy sessions of a modern server hear: one listen stream at the server stands for all of them
//! (`protocol.md` §6.3).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::super::methods::{self, meta};
use super::{Child, Live, own_info};
use crate::mcp::connection::End;
use crate::mcp::envelope::Message;
use crate::mcp::members::{elements, quote, rewrite, string};
use crate::mcp::probe;

/// How long further wishes are waited for.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// Somebody wants to hear of something, or not any more.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    count: AtomicU64,
    news: Notify,
}

/// The one stream at a server.
#[derive(Debug)]
pub(in crate::bridge) struct OwnListen {
    /// The number of the stream that counts; 0 for none.
    current: AtomicU64,
    /// The number of one that is about to.
    next: AtomicU64,
    acknowledged: watch::Sender<(u64, BTreeSet<String>)>,
    /// Which wish was served last, and what the server keeps to.
    served: watch::Sender<(u64, BTreeSet<String>)>,
}

impl Default for OwnListen {
    fn default() -> Self {
        Self {
            current: AtomicU64::new(0),
            next: AtomicU64::new(0),
            acknowledged: watch::Sender::default(),
            served: watch::Sender::default(),
        }
    }
}

impl OwnListen {
    /// Whether a notification on this stream is for the legacy sessions; notes an acknowledgement.
    pub(in crate::bridge) fn hears(&self, subscription: u64, message: &Message) -> Heard {
        let (current, next) = (self.current.load(Ordering::Acquire), self.next.load(Ordering::Acquire));
        if subscription != current && subscription != next || subscription == 0 {
            return Heard::NotMine;
        }
        if message.method() == "notifications/subscriptions/acknowledged" {
            let params = message.param_members().unwrap_or_default();
            let kept = params.object("notifications").unwrap_or_default();
            let uris = kept.text("resourceSubscriptions").and_then(|text| elements(text).ok()).unwrap_or_default();
            let uris = uris.iter().filter_map(|uri| Some(string(uri.get())?.into_owned()));
            self.acknowledged.send_replace((subscription, uris.collect()));
            return Heard::Mine;
        }
        if subscription == current { Heard::ForSessions } else { Heard::Mine }
    }
}

impl OwnListen {
    /// The server has ended a stream. If it is the one that counts, another one is opened, though not at once: a server
    /// that does so again and again is not to be asked again and again.
    pub(in crate::bridge) async fn end(&self, child: &Weak<Child>, stream: u64) {
        const PAUSE: Duration = Duration::from_secs(1);
        if stream != 0 && self.current.compare_exchange(stream, 0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            sleep(PAUSE).await;
            if let Some(child) = child.upgrade() {
                child.wish_to_listen();
            }
        }
    }
}

/// Whom a notification on a listen stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bridge) enum Heard {
    /// Somebody else: that stream is not ferry's own.
    NotMine,
    /// ferry alone.
    Mine,
    /// The legacy sessions.
    ForSessions,
}

/// A notification's parameters without the name of the stream that brought it.
pub(in crate::bridge) fn without_subscription(message: &Message) -> Option<String> {
    let params = message.param_members().ok()?;
    let meta = rewrite(&params.object("_meta")?, &[(meta::SUBSCRIPTION_ID, None)]);
    let meta = Some(meta).filter(|meta| meta != "{}");
    Some(rewrite(&params, &[("_meta", meta.as_deref())])).filter(|params| params != "{}")
}

impl Child {
    /// The legacy sessions want to hear of something else than before.
    pub(in crate::bridge) fn wish_to_listen(&self) {
        self.wishes.count.fetch_add(1, Ordering::AcqRel);
        self.wishes.news.notify_one();
    }

    /// Listens for a resource, which a session has just subscribed to.
    pub(in crate::bridge) async fn listen_for(&self, live: &Live, uri: &str) -> Result<(), &'static str> {
        let wish = self.wishes.count.fetch_add(1, Ordering::AcqRel) + 1;
        let mut served = live.own_listen.served.subscribe();
        self.wishes.news.notify_one();
        let served = served.wait_for(|(count, _)| *count >= wish);
        match timeout(self.limits.subscribe_wait, served).await {
            Ok(Ok(served)) if served.1.contains(uri) => Ok(()),
            Ok(Ok(_)) => Err("not honoured"),
            _ => Err("the server did not answer the subscription"),
        }
    }

    /// Keeps the one stream at a server as its sessions want it, for as long as the process lives.
    pub(super) fn keep_listening(self: &Arc<Self>, live: &Arc<Live>) {
        let (child, live) = (Arc::downgrade(self), Arc::clone(live));
        tokio::spawn(async move { listen(&child, &live).await });
    }

    /// What there is to listen for: nothing without a session.
    fn filter(&self, live: &Live) -> Option<(Vec<&'static str>, BTreeSet<String>)> {
        let sessions = self.audience();
        if sessions.is_empty() {
            return None;
        }
        let lists =
            [("tools", "toolsListChanged"), ("prompts", "promptsListChanged"), ("resources", "resourcesListChanged")];
        let lists = lists.into_iter().filter(|(list, _)| live.facts.declares(&[list, "listChanged"]));
        let uris: BTreeSet<String> = sessions.iter().flat_map(|session| session.subscriptions()).collect();
        let lists: Vec<_> = lists.map(|(_, name)| name).collect();
        (!lists.is_empty() || !uris.is_empty()).then_some((lists, uris))
    }
}

async fn listen(child: &Weak<Child>, live: &Arc<Live>) {
    let mut present = None;
    loop {
        let Some(keeper) = child.upgrade() else { return };
        let wish = keeper.wishes.count.load(Ordering::Acquire);
        let wanted = keeper.filter(live);
        if live.own_listen.current.load(Ordering::Acquire) == 0 {
            present = None;
        }
        if wanted == present {
            let kept = live.own_listen.acknowledged.borrow().1.clone();
            live.own_listen.served.send_replace((wish, if wanted.is_some() { kept } else { BTreeSet::new() }));
        } else {
            let kept = change(child, live, wanted.as_ref(), keeper.limits.subscribe_wait).await;
            // Where it failed, the next wish tries again.
            present = if kept.is_some() { wanted } else { None };
            live.own_listen.served.send_replace((wish, kept.unwrap_or_default()));
        }
        let limit = keeper.limits.session_idle;
        let wishes = Arc::clone(&keeper.wishes);
        drop(keeper);
        // Without news it looks now and then whether there is anybody left to listen for.
        if timeout(limit, wishes.news.notified()).await.is_ok() {
            sleep(DEBOUNCE).await;
        }
        if live.connection.is_closed() {
            return;
        }
    }
}

/// Opens a stream with another filter, and ends the one before it once the new one is acknowledged. Returns the resources
/// that the server keeps to.
async fn change(
    child: &Weak<Child>,
    live: &Arc<Live>,
    wanted: Option<&(Vec<&'static str>, BTreeSet<String>)>,
    wait: Duration,
) -> Option<BTreeSet<String>> {
    let own = &live.own_listen;
    let before = own.current.load(Ordering::Acquire);
    let cancel = |stream: u64| {
        if stream != 0 {
            live.connection.cancel(stream, Some("not needed any more"));
        }
    };
    let Some((lists, uris)) = wanted else {
        own.current.store(0, Ordering::Release);
        cancel(before);
        return Some(BTreeSet::new());
    };
    let mut filter: Vec<String> = lists.iter().map(|list| format!("\"{list}\":true")).collect();
    if !uris.is_empty() {
        let uris = uris.iter().map(|uri| quote(uri)).collect::<Vec<_>>().join(",");
        filter.push(format!("\"resourceSubscriptions\":[{uris}]"));
    }
    let meta = probe::own_meta(&live.opened.version, &own_info());
    let params = format!("{{\"notifications\":{{{}}},\"_meta\":{meta}}}", filter.join(","));
    let mut acknowledged = own.acknowledged.subscribe();
    acknowledged.mark_unchanged();
    let (number, ended) = live
        .connection
        .begin_call(methods::LISTEN, &params, |number| {
            own.next.store(number, Ordering::Release);
        })
        .await?;
    let acknowledged = acknowledged.wait_for(|(stream, _)| *stream == number);
    let mut ended = ended;
    let kept = tokio::select! {
        acknowledged = timeout(wait, acknowledged) => acknowledged.ok().and_then(Result::ok).map(|kept| kept.1.clone()),
        end = &mut ended => {
            if !matches!(end, Ok(End::Closed | End::NotSent)) {
                tracing::warn!("the server ended a stream of subscriptions before it had begun");
            }
            None
        }
    };
    own.next.store(0, Ordering::Release);
    let Some(kept) = kept else {
        cancel(number);
        return None;
    };
    own.current.store(number, Ordering::Release);
    cancel(before);
    let (child, live) = (Weak::clone(child), Arc::clone(live));
    tokio::spawn(async move {
        let _ = ended.await;
        live.own_listen.end(&child, number).await;
    });
    Some(kept)
}
