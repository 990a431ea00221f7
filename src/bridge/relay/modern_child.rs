//! What a modern server says unasked, and the one request it is for, if there is one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::super::attribution::{Seen, of_unknown};
use super::super::child::{Child, Heard, Live, own_info, without_subscription};
use super::super::exchange::Exchange;
use super::super::level::Level;
use super::super::methods::{self, meta};
use super::super::reply::{Finish, Json, Keep};
use super::super::standalone::Class;
use super::modern_to_modern::{ToolHeaders, again};
use super::{Key, OWN_CALL};
use crate::mcp::connection::End;
use crate::mcp::envelope::{self, Message, code, number};
use crate::mcp::members::{Members, quote, rewrite};
use crate::mcp::probe;
use crate::mcp::version::Era;

/// A modern server asks nothing of its own accord; a handler of an old SDK that does must not hang.
pub(in crate::bridge) fn request(_: &Arc<Child>, live: &Arc<Live>, id: &str, message: &Message) {
    tracing::warn!(method = message.method(), "the modern server sent a request; it was refused");
    live.connection.refuse(id, code::METHOD_NOT_FOUND, "a modern client cannot be sent requests");
}

/// A notification of the server's.
pub(in crate::bridge) fn notification(child: &Arc<Child>, live: &Arc<Live>, message: &Message) {
    let params = message.param_members().unwrap_or_default();
    if message.method() == "notifications/tools/list_changed" {
        learn_tools(live);
    }
    let subscription = params.object("_meta").and_then(|meta| meta.text(meta::SUBSCRIPTION_ID).and_then(number));
    if let Some(subscription) = subscription {
        return match live.own_listen.hears(subscription, message) {
            Heard::NotMine => subscribed(live, subscription, message),
            Heard::Mine => {}
            Heard::ForSessions => to_sessions(child, message),
        };
    }
    match message.method() {
        methods::CANCELLED => {
            // The server ends a subscription.
            let Some(number) = params.text("requestId").and_then(number) else { return };
            let (child, own) = (Arc::downgrade(child), Arc::clone(live));
            tokio::spawn(async move { own.own_listen.end(&child, number).await });
            if let Some(exchange) = live.connection.exchange(number).filter(|e| e.asking.listen.is_some()) {
                live.connection.forget(number);
                exchange.end(Finish::Ready(listen_result(&exchange.asking.id)));
            }
        }
        methods::LOG => log(live, &params, message),
        // Each of them names its stream, or is nobody's.
        listed if listed.ends_with("/list_changed") || listed == "notifications/resources/updated" => {
            tracing::debug!(method = listed, "a notification without a subscription was dropped");
        }
        unknown => {
            let (mut seen, mut exchanges) = (Vec::new(), Vec::new());
            live.connection.each(|number, exchange, _| {
                seen.push(Seen { owner: Key::of(number, exchange), candidate: exchange.asking.candidate });
                exchanges.push((Key::of(number, exchange), Arc::clone(exchange)));
            });
            let owner = of_unknown(&seen, None, live.gate_open());
            match exchanges.into_iter().find(|(key, _)| Some(*key) == owner) {
                Some((_, exchange)) if exchange.can_stream() && exchange.asking.listen.is_none() => {
                    exchange.reply.push(text(message), Keep::IfRoom);
                }
                _ => tracing::debug!(method = unknown, "a notification that may be anybody's was dropped"),
            }
        }
    }
}

/// A notification on the stream that stands for all legacy sessions.
fn to_sessions(child: &Child, message: &Message) {
    let method = message.method();
    let params = without_subscription(message);
    let text = || vec![Bytes::from(envelope::call(None, method, params.as_deref()))];
    if method.ends_with("/list_changed") {
        for session in child.audience() {
            // Without what else it may carry: this one is for everybody.
            let bare = vec![Bytes::from(envelope::call(None, method, None))];
            session.standalone.push(Class::ListChanged(method.to_owned()), bare);
        }
    } else if method == "notifications/resources/updated" {
        let members = message.param_members().unwrap_or_default();
        let Some(uri) = members.string("uri") else { return };
        for session in child.audience().iter().filter(|session| session.follows(&uri)) {
            session.standalone.push(Class::Updated(uri.clone().into_owned()), text());
        }
    } else {
        tracing::debug!(method, "a notification that no session has asked for was dropped");
    }
}

/// A notification on one listen stream.
fn subscribed(live: &Arc<Live>, subscription: u64, message: &Message) {
    let Some(exchange) = live.connection.exchange(subscription).filter(|e| e.asking.listen.is_some()) else {
        return tracing::debug!(method = message.method(), "a notification for an ended subscription was dropped");
    };
    let Some(params) = message.params_text().and_then(|text| with_subscription(text, &exchange.asking.id)) else {
        return;
    };
    if message.method() == "notifications/subscriptions/acknowledged" {
        if exchange.acknowledge() {
            // The client knows already. What it does not know is what changed in between.
            return changed_meanwhile(&exchange).for_each(|hint| exchange.reply.push(hint, Keep::Always));
        }
    } else if !exchange.is_acknowledged() {
        return tracing::debug!(method = message.method(), "a notification before the acknowledgement was dropped");
    }
    let first = message.method() == "notifications/subscriptions/acknowledged";
    let keep = if first { Keep::Always } else { Keep::IfRoom };
    exchange.reply.push(vec![Bytes::from(envelope::call(None, message.method(), Some(&params)))], keep);
}

/// An object whose `_meta` names the client's own listen request. `None` where it names none.
pub(super) fn with_subscription(object: &str, client_id: &[u8]) -> Option<String> {
    let members = Members::read(object).ok()?;
    let meta = members.object("_meta").filter(|meta| meta.has(meta::SUBSCRIPTION_ID))?;
    let client_id = std::str::from_utf8(client_id).ok()?;
    let meta = rewrite(&meta, &[(meta::SUBSCRIPTION_ID, Some(client_id))]);
    Some(rewrite(&members, &[("_meta", Some(&meta))]))
}

/// One hint for each list that a listen stream opted into.
fn changed_meanwhile(exchange: &Exchange) -> impl Iterator<Item = Json> {
    let params = exchange.asking.listen.clone().unwrap_or_default();
    let params = String::from_utf8_lossy(&params).into_owned();
    let filter = Members::read(&params).ok().and_then(|params| params.text("notifications").map(str::to_owned));
    let id = String::from_utf8_lossy(&exchange.asking.id).into_owned();
    [("toolsListChanged", "tools"), ("promptsListChanged", "prompts"), ("resourcesListChanged", "resources")]
        .into_iter()
        .filter(move |(opted, _)| {
            filter.as_deref().and_then(|filter| Members::read(filter).ok()).is_some_and(|filter| filter.truthy(opted))
        })
        .map(move |(_, list)| {
            let params = format!("{{\"_meta\":{{{}:{id}}}}}", quote(meta::SUBSCRIPTION_ID));
            vec![Bytes::from(envelope::call(None, &format!("notifications/{list}/list_changed"), Some(&params)))]
        })
}

/// The end of a listen stream, in the server's place.
pub(in crate::bridge) fn listen_result(client_id: &[u8]) -> Json {
    let id = String::from_utf8_lossy(client_id);
    let result = format!("{{\"resultType\":\"complete\",\"_meta\":{{{}:{id}}}}}", quote(meta::SUBSCRIPTION_ID));
    vec![Bytes::from(envelope::answer(&id, &result))]
}

/// Asks a new process for what a listen stream had from its predecessor. Returns whether it was asked.
pub(in crate::bridge) async fn listen_again(live: &Live, exchange: &Arc<Exchange>) -> bool {
    let Some(number) = live.connection.enter(Arc::clone(exchange)) else { return false };
    exchange.bind(&live.connection, number);
    exchange.owes_ack();
    let sent = live.connection.send(number, methods::LISTEN, again(exchange, number)).await.is_ok();
    live.busy.notify_one();
    if sent && exchange.is_deserted() {
        live.connection.cancel(number, Some("the client closed the request"));
    }
    sent
}

/// On a pipe a log message names no request, and a modern server logs only for requests that ask for it: so it is for
/// the only one that did, cancelled ones counted.
fn log(live: &Live, params: &Members<'_>, message: &Message) {
    let mut wanting = Vec::new();
    let mut newest: Option<(u64, Arc<Exchange>)> = None;
    live.connection.each(|number, exchange, cancelled| {
        if let Some(level) = exchange.asking.log_level {
            wanting.push((level, Arc::clone(exchange), cancelled));
            if !cancelled && newest.as_ref().is_none_or(|(known, _)| *known < number) {
                newest = Some((number, Arc::clone(exchange)));
            }
        }
    });
    let newest = newest.map(|(_, exchange)| exchange);
    // One session's requests are one client's: the newest of them is as good as any (§6.4).
    let session = wanting.first().and_then(|(_, exchange, _)| exchange.session().cloned());
    if let Some(session) = session.filter(|session| wanting.iter().all(|(_, exchange, _)| exchange.is_of(session))) {
        let level = params.string("level").and_then(|name| Level::parse(&name));
        let wanted = session.level().is_none_or(|wanted| level.is_none_or(|level| level >= wanted));
        let newest = newest.filter(|exchange| exchange.can_stream());
        if let Some(exchange) = newest.filter(|_| wanted) {
            exchange.reply.push(text(message), Keep::IfRoom);
        }
        return;
    }
    let [(wanted, exchange, false)] = &wanting[..] else {
        return tracing::debug!(wanting = wanting.len(), "a log message that may be anybody's was dropped");
    };
    let level = params.string("level").and_then(|name| Level::parse(&name));
    if level.is_none_or(|level| level >= *wanted) && exchange.can_stream() {
        exchange.reply.push(text(message), Keep::IfRoom);
    }
}

fn text(message: &Message) -> Json {
    vec![Bytes::from(envelope::call(None, message.method(), message.params_text()))]
}

/// Learns in the background which tool arguments are mirrored in headers.
pub(in crate::bridge) fn learn_tools(live: &Arc<Live>) {
    if live.facts.declares(&["tools"]) {
        let live = Arc::clone(live);
        tokio::spawn(async move { refresh_tools(&live).await });
    }
}

/// The same, if anybody has needed to know that so far.
pub(in crate::bridge) fn learn_tools_again(live: &Arc<Live>) {
    let known = live.tool_headers.lock().expect("nothing panics while it holds the annotations").is_known();
    if known {
        learn_tools(live);
    }
}

/// How long one page of the list may take, and how long a list that could not be read is left alone.
const PAGE: Duration = Duration::from_secs(10);
const LEFT_ALONE: Duration = Duration::from_secs(30);

/// What is known of a server's list of tools, and what is being done to know it.
#[derive(Debug, Default)]
pub(in crate::bridge) struct ToolList {
    /// How often somebody has wanted it anew.
    wanted: AtomicU64,
    /// Held by whoever reads it.
    reading: tokio::sync::Mutex<Read>,
    /// Since when it is being read.
    since: Mutex<Option<Instant>>,
}

impl ToolList {
    fn set_since(&self, since: Option<Instant>) {
        *self.since.lock().expect("nothing panics while it holds this") = since;
    }

    /// Whether a reading takes so long that nobody should wait for it.
    fn is_stuck(&self) -> bool {
        let since = self.since.lock().expect("nothing panics while it holds this");
        since.is_some_and(|since| since.elapsed() >= OWN_CALL)
    }
}

#[derive(Debug, Default)]
struct Read {
    /// Which wishes the last whole reading fulfilled: those before it began.
    fulfilled: u64,
    /// When the last one began that was not completed.
    begun: Option<Instant>,
}

/// Reads the list of tools; whoever comes before a reading begins is served by it. Returns whether it is known now.
pub(super) async fn refresh_tools(live: &Arc<Live>) -> bool {
    let list = &live.tool_list;
    let wish = list.wanted.fetch_add(1, Ordering::AcqRel) + 1;
    if list.is_stuck() {
        return false;
    }
    let mut read = list.reading.lock().await;
    if read.fulfilled >= wish {
        return true;
    }
    if read.begun.is_some_and(|begun| begun.elapsed() < LEFT_ALONE) {
        return false;
    }
    let fulfils = list.wanted.load(Ordering::Acquire);
    read.begun = Some(Instant::now());
    list.set_since(read.begun);
    let pages = read_tools(live).await;
    list.set_since(None);
    let Some(pages) = pages else { return false };
    let tools = ToolHeaders::read(&pages);
    *live.tool_headers.lock().expect("nothing panics while it holds the annotations") = tools;
    *read = Read { fulfilled: fulfils, begun: None };
    true
}

/// All pages of a server's list of tools.
async fn read_tools(live: &Live) -> Option<Vec<Message>> {
    const MAX_PAGES: usize = 100;
    // What a modern request carries some legacy servers refuse.
    let meta = (live.opened.era == Era::Modern)
        .then(|| format!("\"_meta\":{}", probe::own_meta(&live.opened.version, &own_info())));
    let mut pages = Vec::new();
    let mut cursor = None::<String>;
    while pages.len() < MAX_PAGES {
        let cursor_member = cursor.map(|cursor| format!("\"cursor\":{cursor}"));
        let params = format!("{{{}}}", meta.iter().cloned().chain(cursor_member).collect::<Vec<_>>().join(","));
        let page = tokio::time::timeout(PAGE, live.connection.call(methods::TOOLS_LIST, &params)).await;
        let Ok(End::Answered(page)) = page else { return None };
        let result = page.result_text().and_then(|text| Members::read(text).ok())?;
        cursor = result.text("nextCursor").filter(|raw| raw.starts_with('"')).map(str::to_owned);
        pages.push(page);
        if cursor.is_none() {
            break;
        }
    }
    Some(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_is_named_as_its_client_named_it() {
        let params = r#"{"uri":"a","_meta":{"x":1,"io.modelcontextprotocol/subscriptionId":17}}"#;
        assert_eq!(
            with_subscription(params, b"\"mine\"").unwrap(),
            r#"{"uri":"a","_meta":{"x":1,"io.modelcontextprotocol/subscriptionId":"mine"}}"#
        );
        assert_eq!(with_subscription("{\"uri\":\"a\"}", b"1"), None);
        assert_eq!(
            listen_result(b"42").concat(),
            br#"{"jsonrpc":"2.0","id":42,"result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":42}}}"#
        );
    }
}
