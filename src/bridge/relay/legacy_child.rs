//! What a shared legacy server says unasked, and the one client it is for, if there is one.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::super::attribution::{Seen, Undeliverable, of_log, of_question, of_unknown};
use super::super::child::{Child, Live, deliver, withdrawal};
use super::super::endpoint::Endpoint;
use super::super::exchange::Exchange;
use super::super::input::Response;
use super::super::level::Level;
use super::super::methods::{self, meta};
use super::super::reply::Keep;
use super::super::session_id::Abilities;
use super::super::sessions::{Asked, Session};
use super::super::standalone::Class;
use super::Key;
use super::modern_child::learn_tools_again;
use crate::mcp::connection::Connection;
use crate::mcp::envelope::{self, Message, code};
use crate::mcp::members::Members;

/// The requests in flight, as the rules of attribution see them.
struct View {
    seen: Vec<Seen<Key>>,
    exchanges: Vec<(u64, Arc<Exchange>, bool)>,
    /// Which of them wait for their clients.
    suspended: Vec<bool>,
}

impl View {
    fn of(live: &Live) -> Self {
        let mut view = Self { seen: Vec::new(), exchanges: Vec::new(), suspended: Vec::new() };
        live.connection.each(|number, exchange, cancelled| {
            let suspended = exchange.dialogue().is_some_and(|dialogue| dialogue.is_suspended());
            view.suspended.push(suspended);
            view.seen.push(Seen { owner: Key::of(number, exchange), candidate: exchange.asking.candidate });
            view.exchanges.push((number, Arc::clone(exchange), cancelled));
        });
        view
    }

    /// What may have caused a question: of one person's own requests, one that waits for its client hardly has.
    fn askers(&self, child: &Child) -> Vec<Seen<Key>> {
        let active = |at: &usize| child.is_private() && !self.suspended[*at];
        let pick = |at: usize| self.seen[at];
        let active: Vec<_> = (0..self.seen.len()).filter(active).map(pick).collect();
        if active.iter().any(|seen| seen.candidate) { active } else { self.seen.clone() }
    }

    /// The modern request that a key stands for.
    fn request(&self, key: Key) -> Option<&Arc<Exchange>> {
        let Key::Request(wanted) = key else { return None };
        self.exchanges.iter().find(|(number, ..)| *number == wanted).map(|(_, exchange, _)| exchange)
    }

    /// The session that a key stands for, and its newest candidate whose stream can carry a message.
    fn session(&self, key: Key) -> Option<Recipient> {
        let own = || self.exchanges.iter().filter(|(number, exchange, _)| Key::of(*number, exchange) == key);
        let session = own().find_map(|(_, exchange, _)| exchange.session().cloned())?;
        let stream = own()
            .filter(|(_, exchange, cancelled)| !cancelled && exchange.asking.candidate && exchange.can_stream())
            .max_by_key(|(number, ..)| *number)
            .map(|(number, exchange, _)| (*number, Arc::clone(exchange)));
        Some((session, stream))
    }
}

/// A request of the server's.
pub(in crate::bridge) fn request(child: &Arc<Child>, live: &Arc<Live>, id: &str, message: &Message) {
    match message.method() {
        methods::PING => live.connection.answer(id, "{}"),
        methods::CREATE_MESSAGE | methods::ELICIT | methods::ROOTS_LIST => {
            if let Err((code, why)) = ask(child, live, message) {
                tracing::debug!(method = message.method(), why, "a question of the server was refused");
                live.connection.refuse(id, code, why);
            }
        }
        // Of its one client a server may ask what ferry does not know.
        _ if child.is_one_sessions() => {
            if let Err((code, why)) = ask(child, live, message) {
                live.connection.refuse(id, code, why);
            }
        }
        _ => live.connection.refuse(id, code::METHOD_NOT_FOUND, "method not found"),
    }
}

/// Puts a question to the one client that it can be for.
fn ask(child: &Arc<Child>, live: &Arc<Live>, message: &Message) -> Result<(), (i32, &'static str)> {
    if !child.may_ask() {
        // It was told so in its handshake.
        return Err((code::METHOD_NOT_FOUND, "the client has not declared that it can be asked"));
    }
    let params = message.param_members().map_err(|_| (code::INVALID_PARAMS, "a member stands there twice"))?;
    let view = View::of(live);
    let named = match related_task(&params).filter(|task| child.knows_task(task)) {
        Some(task) => Some(child.task_owner(&task).ok_or((code::INTERNAL_ERROR, "the task's client is gone"))?),
        None => None,
    };
    let (session, stream) = if child.is_one_sessions() {
        let session = child.owner().ok_or((code::INTERNAL_ERROR, "there is no session yet"))?;
        let stream = view.session(Key::of_session(&session)).and_then(|(_, stream)| stream);
        (session, stream)
    } else if let Some(session) = named {
        // The server itself says whose it is.
        let stream = view.session(Key::of_session(&session)).and_then(|(_, stream)| stream);
        (session, stream)
    } else {
        match (of_question(&view.askers(child), live.gate_open()), child.only_session().filter(|_| child.is_private()))
        {
            (Ok(owner), _) => {
                if let Some(exchange) = view.request(owner) {
                    // Its client cannot be sent a request: the call is answered with the question.
                    let dialogue = exchange.dialogue();
                    let dialogue = dialogue.ok_or((code::INTERNAL_ERROR, "the client cannot be asked during this"))?;
                    let id = Bytes::copy_from_slice(&message.id().unwrap_or_default());
                    return dialogue.ask(&child.limits, id, message.method(), &params);
                }
                view.session(owner).ok_or((code::INTERNAL_ERROR, "the client cannot be asked"))?
            }
            // One person's only client.
            (Err(Undeliverable::NothingInFlight), Some(only)) => (only, None),
            (Err(undeliverable), _) => return Err((code::INTERNAL_ERROR, undeliverable.message())),
        }
    };
    permitted(session.abilities, message.method(), &params)?;
    if message.method() == methods::ELICIT
        && let Some(shown) = params.string("elicitationId")
    {
        child.show(shown.into_owned(), &session);
    }
    let asked = Asked {
        generation: live.generation,
        id: Bytes::copy_from_slice(&message.id().unwrap_or_default()),
        exchange: stream.as_ref().map(|(number, _)| *number),
        method: message.method().to_owned(),
        token: params.object("_meta").and_then(|meta| meta.text(meta::PROGRESS_TOKEN).map(str::to_owned)),
        deadline: Instant::now() + child.limits.s2c_timeout,
        hears: None,
    };
    let number = session
        .ask(asked, child.limits.max_questions)
        .ok_or((code::INTERNAL_ERROR, "too many questions are waiting for this client"))?;
    let text = envelope::call(Some(&number.to_string()), message.method(), message.params_text());
    let json = vec![Bytes::from(text)];
    live.busy.notify_one();
    if stream.is_some() || session.standalone.is_open() {
        if !deliver(&session, stream.as_ref().map(|(_, exchange)| exchange), Class::Question(number), json) {
            undeliverable(live, &session, number);
        }
        return Ok(());
    }
    let (live, wait) = (Arc::clone(live), child.limits.s2c_stream_wait);
    tokio::spawn(async move {
        let opened = tokio::time::timeout(wait, session.standalone.wait_open()).await;
        if opened.is_err() || !session.standalone.push(Class::Question(number), json) {
            undeliverable(&live, &session, number);
        }
    });
    Ok(())
}

/// Tells the server that its question reaches nobody.
fn undeliverable(live: &Live, session: &Session, number: u64) {
    if let Some(asked) = session.answered(number) {
        let id = String::from_utf8_lossy(&asked.id);
        live.connection.refuse(&id, code::INTERNAL_ERROR, "the client has no stream open");
    }
}

/// Answers the questions that a session's client has left unanswered for too long.
pub(in crate::bridge) fn end_unanswered(live: &Live, session: &Session, now: Instant) {
    for (number, asked) in session.overdue(live.generation, now) {
        take_back(session, number, "timed out");
        unanswered(&live.connection, &asked.id, &asked.method, "the client did not answer in time");
    }
}

/// The server's question will not be answered: a refused elicitation is an answer, the others fail.
pub(in crate::bridge) fn unanswered(connection: &Connection<Exchange>, id: &[u8], method: &str, why: &str) {
    let id = String::from_utf8_lossy(id);
    if method == methods::ELICIT {
        connection.answer(&id, "{\"action\":\"cancel\"}");
    } else {
        connection.refuse(&id, code::INTERNAL_ERROR, why);
    }
}

/// Whether a client declared what a question needs.
pub(in crate::bridge) fn permitted(
    abilities: Abilities,
    method: &str,
    params: &Members<'_>,
) -> Result<(), (i32, &'static str)> {
    let needs = |there: bool, code: i32, why: &'static str| if there { Ok(()) } else { Err((code, why)) };
    match method {
        methods::CREATE_MESSAGE => {
            needs(abilities.sampling, code::METHOD_NOT_FOUND, "the client does not support sampling")?;
            let tools = params.has("tools") || params.has("toolChoice");
            needs(
                !tools || abilities.sampling_tools,
                code::METHOD_NOT_FOUND,
                "the client does not support sampling.tools",
            )
        }
        methods::ELICIT => {
            let any = abilities.elicitation_form || abilities.elicitation_url;
            needs(any, code::METHOD_NOT_FOUND, "the client does not support elicitation")?;
            match params.string("mode").as_deref() {
                Some("url") => needs(
                    abilities.elicitation_url,
                    code::INVALID_PARAMS,
                    "the client does not support elicitation.url",
                ),
                None | Some("form") => needs(
                    abilities.elicitation_form,
                    code::INVALID_PARAMS,
                    "the client does not support elicitation.form",
                ),
                Some(_) => Err((code::INVALID_PARAMS, "unknown elicitation mode")),
            }
        }
        methods::ROOTS_LIST => needs(abilities.roots, code::METHOD_NOT_FOUND, "the client does not support roots"),
        // The client itself knows.
        _ => Ok(()),
    }
}

fn related_task(params: &Members<'_>) -> Option<String> {
    let meta = params.object("_meta")?;
    Some(meta.object(meta::RELATED_TASK)?.string("taskId")?.into_owned())
}

/// A client's answer to a question of the server.
pub(in crate::bridge) fn answered(endpoint: &Endpoint, session: &Session, message: &Message) {
    let asked = message.own_id().and_then(|number| session.answered(number));
    if let Some(Asked { hears: Some(hears), id, .. }) = asked {
        let response = match (message.result_text(), message.error()) {
            (Some(result), _) => Response::Result(result.to_owned()),
            (None, error) => Response::Error(String::from_utf8_lossy(&error.unwrap_or_default()).into_owned()),
        };
        // Whoever asked may be gone.
        let _ = hears.send((id, response));
        return;
    }
    let live = endpoint.children.existing(session).and_then(|child| child.current());
    let (Some(asked), Some(live)) = (asked, live) else {
        return tracing::debug!("an answer to no question was dropped");
    };
    if asked.generation != live.generation {
        return;
    }
    let id = String::from_utf8_lossy(&asked.id);
    let (member, payload) = match (message.result_text(), message.error()) {
        (Some(result), _) => ("result", result.to_owned()),
        (None, Some(error)) => ("error", String::from_utf8_lossy(&error).into_owned()),
        (None, None) => return,
    };
    live.connection.push(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"{member}\":{payload}}}"));
}

/// A client's progress on a question of the server: from the session that was asked, and under the token it was given.
pub(in crate::bridge) fn progress_of_answer(child: &Child, session: &Session, token: &str, message: &Message) {
    if let Some(live) = child.current()
        && session.is_asked_under(live.generation, token)
    {
        live.connection.notify(methods::PROGRESS, message.params_text());
    }
}

/// A request of the client's was cancelled: so are the questions that its stream carried.
pub(in crate::bridge) fn withdraw(session: &Session, exchange: u64) {
    for number in session.drop_questions_of(exchange) {
        take_back(session, number, "the request was cancelled");
    }
}

/// Takes a question back from its client.
pub(in crate::bridge) fn take_back(session: &Session, number: u64, reason: &str) {
    if !session.standalone.withdraw(number) {
        session.standalone.push(Class::Other, withdrawal(number, reason));
    }
}

/// A notification of the server's.
pub(in crate::bridge) fn notification(child: &Arc<Child>, live: &Arc<Live>, message: &Message) {
    let params = message.param_members().unwrap_or_default();
    let text = || vec![Bytes::from(envelope::call(None, message.method(), message.params_text()))];
    if child.is_one_sessions() && message.method() != methods::CANCELLED {
        return to_owner(child, live, message, &params, text);
    }
    match message.method() {
        changed @ ("notifications/tools/list_changed"
        | "notifications/prompts/list_changed"
        | "notifications/resources/list_changed") => {
            if changed == "notifications/tools/list_changed" {
                learn_tools_again(live);
            }
            child.tell_of_list(changed);
            for session in child.audience() {
                // Without what else it may carry: this one is for everybody.
                let bare = vec![Bytes::from(envelope::call(None, changed, None))];
                session.standalone.push(Class::ListChanged(changed.to_owned()), bare);
            }
        }
        "notifications/resources/updated" => {
            let Some(uri) = params.string("uri") else { return };
            child.tell_of_resource(message.method(), &uri, message.params_text());
            for session in child.audience() {
                if session.follows(&uri) {
                    session.standalone.push(Class::Updated(uri.clone().into_owned()), text());
                }
            }
        }
        methods::LOG => log(child, live, &params, text),
        "notifications/tasks/status" => {
            let owner = params.string("taskId").and_then(|task| child.task_owner(&task));
            if let Some(session) = owner {
                session.standalone.push(Class::Other, text());
            }
        }
        "notifications/elicitation/complete" => {
            let shown = params.string("elicitationId").and_then(|id| child.shown_to(&id));
            if let Some(session) = shown {
                session.standalone.push(Class::Other, text());
            }
        }
        methods::CANCELLED => {
            let Some(id) = params.text("requestId") else { return };
            for session in child.audience() {
                if let Some((number, asked)) = session.question(live.generation, id.as_bytes()) {
                    session.answered(number);
                    if !session.standalone.withdraw(number) {
                        let stream = asked.exchange.and_then(|number| live.connection.exchange(number));
                        deliver(&session, stream.as_ref(), Class::Other, withdrawal(number, "cancelled by the server"));
                    }
                    return;
                }
            }
            live.connection.each(|_, exchange, _| {
                if let Some(dialogue) = exchange.dialogue() {
                    dialogue.withdraw(id.as_bytes());
                }
            });
        }
        unknown => {
            let view = View::of(live);
            let only = child.only_session().filter(|only| live.serves_only(&only.identity));
            let key = of_unknown(&view.seen, only.as_ref().map(Key::of_session), live.gate_open());
            if let Some((session, stream)) = recipient(&view, key, only) {
                deliver(&session, stream.as_ref().map(|(_, exchange)| exchange), Class::Other, text());
            } else {
                tracing::debug!(method = unknown, "a notification that may be anybody's was dropped");
            }
        }
    }
}

/// Whatever a server says to the one client it has.
fn to_owner(child: &Child, live: &Live, message: &Message, params: &Members<'_>, text: impl Fn() -> Vec<Bytes>) {
    let Some(session) = child.owner() else {
        return tracing::debug!(method = message.method(), "dropped: there is no session yet");
    };
    let class = match message.method() {
        changed if changed.ends_with("/list_changed") => Class::ListChanged(changed.to_owned()),
        "notifications/resources/updated" => Class::Updated(params.string("uri").unwrap_or_default().into_owned()),
        methods::LOG => Class::Log,
        _ => Class::Other,
    };
    // What belongs to no request goes to the session's own stream (§3.4); a log line or a word that ferry does not know
    // may well belong to the newest.
    let with_request =
        matches!(class, Class::Log | Class::Other) && !message.method().starts_with("notifications/tasks");
    let stream = with_request.then(|| View::of(live).session(Key::of_session(&session))?.1).flatten();
    deliver(&session, stream.as_ref().map(|(_, exchange)| exchange), class, text());
}

/// A session, and the one of its requests whose stream can carry a message.
type Recipient = (Arc<Session>, Option<(u64, Arc<Exchange>)>);

fn recipient(view: &View, key: Option<Key>, only: Option<Arc<Session>>) -> Option<Recipient> {
    let key = key?;
    view.session(key).or_else(|| only.filter(|only| Key::of_session(only) == key).map(|only| (only, None)))
}

fn log(child: &Child, live: &Live, params: &Members<'_>, text: impl Fn() -> Vec<Bytes>) {
    let view = View::of(live);
    let only = child.only_session().filter(|only| live.serves_only(&only.identity));
    let key = of_log(&view.seen, only.as_ref().map(Key::of_session), live.gate_open());
    if let Some(exchange) = key.and_then(|key| view.request(key)) {
        // A legacy server logs for every request; a modern client hears of it where it asked for it.
        let exchange = exchange.dialogue().and_then(|dialogue| dialogue.answering()).unwrap_or(Arc::clone(exchange));
        let level = params.string("level").and_then(|name| Level::parse(&name));
        let wanted = exchange.asking.log_level.is_some_and(|wanted| level.is_none_or(|level| level >= wanted));
        if wanted && exchange.can_stream() {
            exchange.reply.push(text(), Keep::IfRoom);
        }
        return;
    }
    let Some((session, stream)) = recipient(&view, key, only) else {
        return tracing::debug!(
            message = params.text("data").unwrap_or_default(),
            "a log message that may be anybody's"
        );
    };
    let level = params.string("level").and_then(|name| Level::parse(&name));
    // A session that never set a level gets what the server chooses to send.
    let wanted = match (session.level(), level) {
        (Some(wanted), Some(level)) => level >= wanted,
        _ => true,
    };
    if wanted {
        deliver(&session, stream.as_ref().map(|(_, exchange)| exchange), Class::Log, text());
    }
}
