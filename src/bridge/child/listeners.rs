//! Modern clients that listen to a legacy server: what each of them is told, in the place of the streams that such a
//! server does not have (`protocol.md` §5.5).

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::super::exchange::Exchange;
use super::super::methods::meta;
use super::super::relay::modern_child::listen_result;
use super::super::reply::{Finish, Json, Keep};
use super::super::sessions::is_at_or_below;
use super::interests::Subscriber;
use super::{Child, Live};
use crate::mcp::envelope;
use crate::mcp::members::{Members, elements, quote, rewrite, string};

/// Those who listen, by a number of their own.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    next: u64,
    by_number: HashMap<u64, Listener>,
}

#[derive(Debug)]
struct Listener {
    exchange: Weak<Exchange>,
    /// The lists that it wants to hear of: `tools`, `prompts`, `resources`.
    lists: Vec<&'static str>,
    uris: Vec<String>,
}

/// A place among those who listen. Dropped with the stream that it is for.
#[derive(Debug)]
pub(in crate::bridge) struct Listening {
    child: Weak<Child>,
    number: u64,
    uris: Vec<String>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let Some(child) = self.child.upgrade() else { return };
        child.listeners().by_number.remove(&self.number);
        for uri in &self.uris {
            child.unsubscribe(&Subscriber::Listener(self.number), uri);
        }
    }
}

/// The members of a filter that stand for a list.
const LISTS: [(&str, &str); 3] =
    [("toolsListChanged", "tools"), ("promptsListChanged", "prompts"), ("resourcesListChanged", "resources")];

impl Child {
    /// Opens a stream of what its server tells: first of all, to what of the `filter` it will keep.
    pub(in crate::bridge) async fn listen(self: &Arc<Self>, live: &Arc<Live>, exchange: &Arc<Exchange>, filter: &str) {
        let filter = Members::read(filter).unwrap_or_default();
        let wanted = LISTS.into_iter().filter(|(name, _)| filter.text(name) == Some("true"));
        let lists: Vec<_> = wanted.filter(|(_, list)| live.facts.declares(&[list, "listChanged"])).collect();
        let uris = filter.text("resourceSubscriptions").and_then(|text| elements(text).ok()).unwrap_or_default();
        let mut uris: Vec<String> = uris.iter().filter_map(|uri| Some(string(uri.get())?.into_owned())).collect();
        uris.truncate(self.limits.max_subscriptions);
        if !live.facts.declares(&["resources", "subscribe"]) {
            uris.clear();
        }
        let number = {
            let mut listeners = self.listeners();
            listeners.next += 1;
            listeners.next
        };
        // From here on, whatever becomes of this future, what was subscribed to is let go with it.
        let mut listening = Listening { child: Arc::downgrade(self), number, uris: Vec::new() };
        let subscriber = Subscriber::Listener(number);
        let mut asked = Vec::new();
        for uri in uris {
            listening.uris.push(uri.clone());
            let (child, live, identity) = (Arc::clone(self), Arc::clone(live), exchange.asking.identity.clone());
            let (subscriber, wait) = (subscriber.clone(), self.limits.subscribe_wait);
            asked.push(tokio::spawn(async move {
                let asking = child.subscribe(&live, subscriber, &identity, &uri);
                matches!(tokio::time::timeout(wait, asking).await, Ok(Ok(()))).then_some(uri)
            }));
        }
        let mut honoured = Vec::new();
        for one in asked {
            honoured.extend(one.await.ok().flatten());
        }
        let refused = listening.uris.iter().filter(|uri| !honoured.contains(uri));
        refused.for_each(|uri| self.unsubscribe(&subscriber, uri));
        listening.uris.clone_from(&honoured);

        let mut kept: Vec<String> = lists.iter().map(|(name, _)| format!("\"{name}\":true")).collect();
        if !honoured.is_empty() {
            let uris = honoured.iter().map(|uri| quote(uri)).collect::<Vec<_>>().join(",");
            kept.push(format!("\"resourceSubscriptions\":[{uris}]"));
        }
        let params = format!("{{\"notifications\":{{{}}}}}", kept.join(","));
        let listener = Listener {
            exchange: Arc::downgrade(exchange),
            lists: lists.into_iter().map(|(_, list)| list).collect(),
            uris: honoured,
        };
        {
            // What it is told comes after what it was promised.
            let mut listeners = self.listeners();
            exchange.acknowledge();
            exchange
                .reply
                .push(told(exchange, "notifications/subscriptions/acknowledged", Some(&params)), Keep::Always);
            listeners.by_number.insert(number, listener);
        }
        exchange.keep(listening);
    }

    /// A list has changed.
    pub(in crate::bridge) fn tell_of_list(&self, method: &str) {
        let list = method.strip_prefix("notifications/").and_then(|rest| rest.strip_suffix("/list_changed"));
        self.tell_those(|listener| listener.lists.iter().any(|own| Some(*own) == list), method, None);
    }

    /// A resource has changed.
    pub(in crate::bridge) fn tell_of_resource(&self, method: &str, uri: &str, params: Option<&str>) {
        self.tell_those(|listener| listener.uris.iter().any(|own| is_at_or_below(uri, own)), method, params);
    }

    /// Whatever lists have changed while its server was gone.
    pub(super) fn tell_of_all_lists(&self, live: &Live) {
        for method in live.facts.changing_lists() {
            self.tell_of_list(&method);
        }
    }

    fn tell_those(&self, concerned: impl Fn(&Listener) -> bool, method: &str, params: Option<&str>) {
        for exchange in self.listening(concerned) {
            exchange.reply.push(told(&exchange, method, params), Keep::IfRoom);
        }
    }

    fn listening(&self, concerned: impl Fn(&Listener) -> bool) -> Vec<Arc<Exchange>> {
        let listeners = self.listeners();
        let concerned = listeners.by_number.values().filter(|listener| concerned(listener));
        concerned.filter_map(|listener| listener.exchange.upgrade()).collect()
    }

    /// Ends all of these streams.
    pub(super) fn end_listeners(&self) {
        for exchange in self.listening(|_| true) {
            exchange.end(Finish::Ready(listen_result(&exchange.asking.id)));
        }
    }

    /// Whether anybody listens.
    pub(super) fn has_listeners(&self) -> bool {
        !self.listeners().by_number.is_empty()
    }
}

/// A notification on one stream.
fn told(exchange: &Exchange, method: &str, params: Option<&str>) -> Json {
    let id = String::from_utf8_lossy(&exchange.asking.id);
    let params = params.and_then(|params| Members::read(params).ok()).unwrap_or_default();
    let own = params.object("_meta").unwrap_or_default();
    let meta = rewrite(&own, &[(meta::SUBSCRIPTION_ID, Some(&id))]);
    let params = rewrite(&params, &[("_meta", Some(&meta))]);
    vec![Bytes::from(envelope::call(None, method, Some(&params)))]
}
