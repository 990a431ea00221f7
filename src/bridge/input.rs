//! A modern server that wants input for a legacy client's call (`protocol.md` §6.6).
//!
//! Such a server answers with what it wants to know and forgets; the call is made again with the answers. A legacy client
//! knows nothing of that: it is asked by requests on the stream of its call, and its call is answered once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::child::{Child, deliver};
use super::exchange::{Exchange, begin};
use super::methods;
use super::refusal::Refusal;
use super::relay::legacy_child::{permitted, take_back};
use super::relay::legacy_to_modern::{OwnMeta, to_modern};
use super::reply::Finish;
use super::sessions::{Asked, Session};
use super::standalone::Class;
use crate::mcp::envelope::{self, Message};
use crate::mcp::members::{Members, quote, rewrite};
use crate::mcp::version::Era;
use crate::random;

/// What it takes to make a call again.
pub(super) struct Input {
    /// The call as its client made it.
    message: Message,
    own_meta: OwnMeta,
    rounds: AtomicUsize,
    /// Whoever asks the client now.
    driver: Mutex<Option<AbortHandle>>,
}

impl Input {
    pub(super) fn new(message: Message, own_meta: OwnMeta) -> Self {
        Self { message, own_meta, rounds: AtomicUsize::new(0), driver: Mutex::default() }
    }

    /// Begins to ask the client, in the background. The exchange is in no connection meanwhile.
    pub(super) fn drive(child: &Arc<Child>, exchange: &Arc<Exchange>, answer: Message) {
        let Some(input) = &exchange.asking.input else { return };
        child.drives(exchange);
        let (keeper, own) = (Arc::clone(child), Arc::clone(exchange));
        let task = tokio::spawn(async move {
            if let Err(refusal) = round(&keeper, &own, &answer).await {
                keeper.has_driven(&own);
                own.end(Finish::Ferry(refusal));
            }
        });
        *input.driver.lock().expect("nothing panics while it holds this") = Some(task.abort_handle());
    }

    /// Nobody waits for the answers any more: the client is told so.
    pub(super) fn give_up(&self) {
        if let Some(driver) = self.driver.lock().expect("nothing panics while it holds this").take() {
            driver.abort();
        }
    }
}

/// Whether an answer wants input.
pub(super) fn is_wanted(message: &Message) -> bool {
    // Few results have this member at all.
    message.result_text().is_some_and(|text| memchr::memmem::find(text.as_bytes(), b"input_required").is_some())
        && message
            .result_text()
            .and_then(|text| Members::read(text).ok())
            .is_some_and(|result| result.string("resultType").is_some_and(|kind| kind == "input_required"))
}

/// How long a busy server is left alone the first time.
const LATER: Duration = Duration::from_millis(250);

/// One round: the questions, their answers, and the call again.
async fn round(child: &Arc<Child>, exchange: &Arc<Exchange>, answer: &Message) -> Result<(), Refusal> {
    let failed = |why: &'static str| Refusal::Internal(why.into());
    let (Some(input), Some(session)) = (&exchange.asking.input, exchange.session()) else { return Ok(()) };
    let round = input.rounds.fetch_add(1, Ordering::Relaxed);
    if round >= child.limits.max_rounds {
        return Err(failed("the server wants input again and again"));
    }
    let result = answer.result_text().and_then(|text| Members::read(text).ok()).unwrap_or_default();
    let requests = result.object("inputRequests").unwrap_or_default();
    let state = result.text("requestState").filter(|state| state.starts_with('"'));
    let responses = if requests.is_empty() {
        if state.is_none() {
            return Err(Refusal::UpstreamProtocol);
        }
        // It is busy, and wants to be asked later.
        sleep((LATER * (1 << round.min(5))).min(Duration::from_secs(5))).await;
        "{}".to_owned()
    } else {
        ask(child, exchange, session, &requests).await?
    };
    // It has run once, so it may not be called unavailable.
    let live = child.live().await.map_err(|_| Refusal::UpstreamExited)?;
    if live.opened.era != Era::Modern {
        return Err(Refusal::UpstreamExited);
    }
    child.has_driven(exchange);
    exchange.begin_anew();
    let params = |number| to_modern(&input.message, &input.own_meta, number, Some((&responses, state)));
    // Whoever waits for the answer waits already.
    match begin(child, live, Arc::clone(exchange), params).await {
        Ok(reader) => reader.waive(),
        Err(_) => return Err(Refusal::UpstreamExited),
    }
    Ok(())
}

/// What becomes of one question.
#[derive(Debug, Clone)]
pub(super) enum Response {
    /// The client answered.
    Result(String),
    /// The client refused, in these words.
    Error(String),
}

/// Asks the client everything at once. Returns the responses, as a JSON object.
async fn ask(
    child: &Arc<Child>,
    exchange: &Arc<Exchange>,
    session: &Arc<Session>,
    requests: &Members<'_>,
) -> Result<String, Refusal> {
    let mut questions = Vec::new();
    for (key, request) in requests.iter() {
        let unreadable = || Refusal::Internal("the server wants what cannot be read".into());
        let request = Members::read(request.get()).map_err(|_| unreadable())?;
        let method = request.string("method").ok_or_else(unreadable)?.into_owned();
        let params = request.object("params").unwrap_or_default();
        if !matches!(&*method, methods::CREATE_MESSAGE | methods::ELICIT | methods::ROOTS_LIST) {
            return Err(Refusal::Internal("the server wants what a client cannot be asked".into()));
        }
        if let Err((_, why)) = permitted(session.abilities, &method, &params) {
            return Err(Refusal::Internal(why.into()));
        }
        // Legacy servers name what they show; this one has forgotten it already.
        let id = quote(&name_of_page());
        let is_page = method == methods::ELICIT && params.string("mode").is_some_and(|mode| mode == "url");
        let named = is_page.then(|| rewrite(&params, &[("elicitationId", Some(&id))]));
        let params = named.or_else(|| request.text("params").map(str::to_owned));
        questions.push((key.to_owned(), method, params));
    }
    let (answered, mut answers) = mpsc::unbounded_channel();
    let mut open = Open { session, numbers: HashMap::new() };
    for (key, method, params) in &questions {
        let asked = Asked::of_ferry(Bytes::copy_from_slice(key.as_bytes()), method, answered.clone());
        let number = session.ask(asked, child.limits.max_questions);
        let number = number.ok_or(Refusal::Internal("too many questions are waiting for this client".into()))?;
        open.numbers.insert(number, key.clone());
        let text = envelope::call(Some(&number.to_string()), method, params.as_deref());
        let json = vec![Bytes::from(text)];
        let unreachable = || Refusal::Internal("the client cannot be asked".into());
        if !exchange.can_stream() && !session.standalone.is_open() {
            let opened = timeout(child.limits.s2c_stream_wait, session.standalone.wait_open()).await;
            opened.map_err(|_| unreachable())?;
        }
        if !deliver(session, Some(exchange), Class::Question(number), json) {
            return Err(unreachable());
        }
    }
    drop(answered);
    let until = Instant::now() + child.limits.s2c_timeout;
    let mut responses = HashMap::new();
    while responses.len() < questions.len() {
        let Ok(Some((key, response))) = timeout_at(until, answers.recv()).await else { break };
        let key = String::from_utf8_lossy(&key).into_owned();
        open.numbers.retain(|_, known| *known != key);
        responses.insert(key, response);
    }
    let mut members = Vec::new();
    for (key, method, _) in &questions {
        let result = match (responses.remove(key), &**method) {
            (Some(Response::Result(result)), _) => result,
            // A refusal has no place among the responses, but this is how one is said.
            (_, methods::ELICIT) => "{\"action\":\"cancel\"}".to_owned(),
            (Some(Response::Error(error)), _) => return Err(Refusal::ClientRefused { error }),
            (None, _) => return Err(Refusal::Internal("the client did not answer in time".into())),
        };
        members.push(format!("{}:{result}", quote(key)));
    }
    Ok(format!("{{{}}}", members.join(",")))
}

/// Questions that a client has yet to answer. Taken back when nobody waits for them any more.
struct Open<'s> {
    session: &'s Arc<Session>,
    numbers: HashMap<u64, String>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        for number in self.numbers.keys() {
            if self.session.answered(*number).is_some() {
                take_back(self.session, *number, "the request is over");
            }
        }
    }
}

/// A version 4 UUID (RFC 9562).
fn name_of_page() -> String {
    let mut bytes = random::bytes::<16>();
    bytes[6] = bytes[6] & 0x0F | 0x40;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_named_as_the_rfc_says() {
        let name = name_of_page();
        let parts: Vec<usize> = name.split('-').map(str::len).collect();
        assert_eq!((parts, &name[14..15]), (vec![8, 4, 4, 4, 12], "4"));
        assert!("89ab".contains(&name[19..20]), "{name}");
    }
}
