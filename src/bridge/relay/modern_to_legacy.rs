//! Modern client, legacy server: each request carries what the server learnt once, in its handshake. What the server
//! cannot do by itself (describe itself anew, ask back, keep a stream of subscriptions) ferry does in its place.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};

use super::super::child::{Child, Live};
use super::super::dialogue::{Binding, Dialogue, Return};
use super::super::exchange::{Asking, Exchange, Owner, Reader, Words, begin, envelope};
use super::super::level::Level;
use super::super::methods::{self, meta};
use super::super::refusal::Refusal;
use super::super::reply::{Finish, Json};
use super::super::stream::{Body, json};
use super::super::{era, modern};
use super::{Call, legacy_to_legacy};
use crate::mcp::envelope::{Message, code};
use crate::mcp::members::{self, Members, quote, rewrite};
use crate::mcp::version::MODERN;

/// A request that has passed the ladder.
pub(super) async fn request(
    call: &Call<'_>,
    child: &Arc<Child>,
    live: Arc<Live>,
    message: &Message,
    params: &era::Params<'_>,
    request: &modern::Request<'_>,
) -> Result<Response<Body>, Refusal> {
    let id = message.id().ok_or(Refusal::InvalidRequest("a request has an id".into()))?;
    let log_level = match request.log_level {
        Some(raw) => {
            let level = members::string(raw).and_then(|name| Level::parse(&name));
            let why = || format!("`{}` must be a log level", meta::LOG_LEVEL);
            // A server that does not log has nothing to be told.
            Some(level.ok_or_else(|| Refusal::invalid_params(why()))?).filter(|_| live.facts.declares(&["logging"]))
        }
        None => None,
    };
    let limits = &call.endpoint.limits;
    if request.method == methods::DISCOVER {
        return Ok(json(StatusCode::OK, envelope(&id, "result", Bytes::from(discovered(&live)))));
    }
    let listens = request.method == methods::LISTEN;
    let permit = if listens {
        call.endpoint.listens.take(call.identity, limits.max_listens, limits.max_listens_per_identity)
    } else {
        call.endpoint.permits.take(call.identity, limits.max_inflight, limits.max_inflight_per_identity)
    };
    let permit = permit.ok_or(Refusal::Overloaded { what: "too many requests in flight" })?;
    let token = request.progress_token.as_ref();
    let declared = Members::read(request.capabilities).unwrap_or_default();
    let asking = Asking {
        owner: Owner::Request,
        identity: call.identity.clone(),
        // A copy: a slice would keep the whole body for as long as the request is remembered.
        id: Bytes::copy_from_slice(&id),
        method: request.method.to_owned(),
        token: token.map(|token| Bytes::copy_from_slice(token.raw.as_bytes())),
        log_level,
        abilities: legacy_to_legacy::abilities(&declared),
        candidate: methods::is_candidate(request.method),
        streams: call.accepted.sse(),
        unhurried: listens,
        expects_task: false,
        listen: listens.then(|| message.params()).flatten().map(|params| Bytes::copy_from_slice(&params)),
        input: None,
        sealing: None,
        server: Arc::clone(&live.facts),
        translate,
    };
    let exchange = Exchange::new(asking, child, vec![permit], limits);
    if listens {
        child.listen(&live, &exchange, request.filter.unwrap_or("{}")).await;
        return Ok(Reader::of(&exchange).respond(call.terms()).await);
    }
    if let Some(level) = log_level {
        child.raise_level_to(&live, level);
    }
    if methods::may_ask_back(request.method) {
        let binding = Binding::new(call.identity, request.method, request.name.as_deref(), request.arguments);
        if params.members.has("requestState") {
            let reader = Reader::of(&exchange);
            match came_back(child, &exchange, params, &binding)? {
                Return::Resumed => return Ok(reader.respond(call.terms()).await),
                Return::Again(json) => exchange.end(Finish::Ready(json)),
                Return::Declined => exchange.end(declined(&exchange)),
                Return::Restart => {
                    reader.waive();
                    return sent(call, child, live, exchange, binding, message, params).await;
                }
            }
            return Ok(reader.respond(call.terms()).await);
        }
        return sent(call, child, live, exchange, binding, message, params).await;
    }
    let params = |number| to_legacy(message, params, number);
    Ok(begin(child, live, exchange, params).await?.respond(call.terms()).await)
}

/// Sends a call that may ask back.
async fn sent(
    call: &Call<'_>,
    child: &Arc<Child>,
    live: Arc<Live>,
    exchange: Arc<Exchange>,
    binding: Binding,
    message: &Message,
    params: &era::Params<'_>,
) -> Result<Response<Body>, Refusal> {
    exchange.joins(&Dialogue::new(child, binding));
    let params = |number| to_legacy(message, params, number);
    Ok(begin(child, live, exchange, params).await?.respond(call.terms()).await)
}

/// A client with what it was asked for.
fn came_back(
    child: &Child,
    exchange: &Arc<Exchange>,
    params: &era::Params<'_>,
    binding: &Binding,
) -> Result<Return, Refusal> {
    let token = params.members.string("requestState").ok_or(Refusal::InvalidRequestState)?;
    let responses = params.members.object("inputResponses").unwrap_or_default();
    if responses.iter().any(|(_, response)| !response.get().starts_with('{')) {
        return Err(Refusal::invalid_params("each of `params.inputResponses` must be an object"));
    }
    child.dialogues.come_back(child, exchange, &token, binding, &responses)
}

/// A request's parameters without what only modern servers know.
fn to_legacy(message: &Message, params: &era::Params<'_>, number: u64) -> Json {
    let Some(whole) = message.params_text() else { return Vec::new() };
    let number = number.to_string();
    let meta = params.meta.as_ref().map(|own| {
        let token = own.has(meta::PROGRESS_TOKEN).then_some(number.as_str());
        rewrite(
            own,
            &[
                (meta::PROTOCOL_VERSION, None),
                (meta::CLIENT_INFO, None),
                (meta::CLIENT_CAPABILITIES, None),
                (meta::LOG_LEVEL, None),
                (meta::PROGRESS_TOKEN, token.filter(|_| super::token(message, Some(own)).is_some())),
            ],
        )
    });
    let meta = meta.filter(|meta| meta != "{}");
    let mut changes = vec![("inputResponses", None), ("requestState", None), ("task", None)];
    if whole.len() > 2 {
        changes.push(("_meta", meta.as_deref()));
    }
    vec![Bytes::from(rewrite(&params.members, &changes))]
}

/// What a modern server says of itself, made of what this one said in its handshake.
fn discovered(live: &Live) -> String {
    let result = std::str::from_utf8(&live.opened.result).ok().and_then(|text| Members::read(text).ok());
    let result = result.unwrap_or_default();
    let capabilities = result.object("capabilities").unwrap_or_default();
    let extensions = capabilities.object("extensions").map(|own| rewrite(&own, &[(methods::TASKS_EXTENSION, None)]));
    let mut changes = vec![("tasks", None)];
    if let Some(extensions) = &extensions {
        changes.push(("extensions", Some(extensions.as_str())));
    }
    let capabilities = rewrite(&capabilities, &changes);
    let instructions = result.text("instructions").map(|text| format!(",\"instructions\":{text}")).unwrap_or_default();
    let versions = serde_json::to_string(MODERN).expect("versions are texts");
    let server = live.facts.server_info();
    let meta = server.map(|info| format!(",\"_meta\":{{{}:{info}}}", quote(meta::SERVER_INFO))).unwrap_or_default();
    format!(
        "{{\"resultType\":\"complete\",\"supportedVersions\":{versions},\"capabilities\":{capabilities}{instructions},\
         \"ttlMs\":{TTL_MS},\"cacheScope\":\"{CACHE_SCOPE}\"{meta}}}"
    )
}

/// How long a client may take a list or a resource for fresh: the server has not said, so not at all.
const TTL_MS: u32 = 0;
/// Who may share it: nobody, for the same reason.
const CACHE_SCOPE: &str = "private";

/// The result of a call whose user did not go where the server wanted.
fn declined(exchange: &Exchange) -> Finish {
    if exchange.asking.method != methods::TOOLS_CALL {
        return Finish::Ferry(Refusal::Internal("the user declined".into()));
    }
    let result = r#"{"resultType":"complete","content":[{"type":"text","text":"The user declined."}],"isError":true}"#;
    Finish::Ready(envelope(&exchange.asking.id, "result", Bytes::from_static(result.as_bytes())))
}

/// A server's answer in the words of the modern era.
fn translate(exchange: &Exchange, message: &Message) -> Words {
    let lacking = || exchange.dialogue().and_then(|dialogue| dialogue.lacking());
    if let Some((code, error)) = message.error_members() {
        if let Some(required) = lacking() {
            return Words::Refusal(Refusal::MissingCapability { required });
        }
        return failed(exchange, message, code, &error);
    }
    let Some(result) = message.result() else { return Words::Refusal(Refusal::UpstreamProtocol) };
    let members = message.result_text().and_then(|text| Members::read(text).ok()).unwrap_or_default();
    if members.text("isError") == Some("true")
        && let Some(required) = lacking()
    {
        return Words::Refusal(Refusal::MissingCapability { required });
    }
    Words::Json(StatusCode::OK, completed(&exchange.asking.id, &exchange.asking.method, &result, &members, exchange))
}

/// A result with what every modern result has.
fn completed(id: &[u8], method: &str, result: &Bytes, members: &Members<'_>, exchange: &Exchange) -> Json {
    let server = exchange.asking.server.server_info();
    let hints = methods::find(method).is_some_and(|known| known.cacheable);
    let own_meta = members.object("_meta");
    let meta = match (server, &own_meta) {
        (Some(info), None) if !members.has("_meta") => Some(format!("{{{}:{info}}}", quote(meta::SERVER_INFO))),
        (Some(info), Some(own)) if !own.has(meta::SERVER_INFO) => {
            Some(rewrite(own, &[(meta::SERVER_INFO, Some(info))]))
        }
        _ => None,
    };
    let ttl = TTL_MS.to_string();
    let scope = quote(CACHE_SCOPE);
    let mut changes = vec![("resultType", Some("\"complete\""))];
    if hints {
        let absent = [("ttlMs", Some(ttl.as_str())), ("cacheScope", Some(scope.as_str()))];
        changes.extend(absent.into_iter().filter(|(key, _)| !members.has(key)));
    }
    changes.extend(meta.as_deref().map(|meta| ("_meta", Some(meta))));
    let untouched = changes.iter().all(|(key, _)| !members.has(key));
    let closed = result.len().checked_sub(1).filter(|last| result[*last] == b'}');
    let Some(last) = closed.filter(|_| untouched) else {
        return envelope(id, "result", Bytes::from(rewrite(members, &changes)));
    };
    // Nothing of it changes: what is new goes behind it, and a large result is not copied.
    let mut tail = String::new();
    for (key, value) in changes {
        if !tail.is_empty() || !members.is_empty() {
            tail.push(',');
        }
        let _ = write!(tail, "\"{key}\":{}", value.unwrap_or("null"));
    }
    tail.push_str("}}");
    let head = [b"{\"jsonrpc\":\"2.0\",\"id\":", id, b",\"result\":"].concat();
    vec![Bytes::from(head), result.slice(..last), Bytes::from(tail)]
}

/// An error of a legacy server, as a modern client takes it (§5.6).
fn failed(exchange: &Exchange, message: &Message, code: i64, error: &Members<'_>) -> Words {
    const NOT_FOUND: i64 = -32002;
    const URL_ELICITATION_REQUIRED: i64 = -32042;
    let (asking, id) = (&exchange.asking, &exchange.asking.id);
    let written = |text: String| envelope(id, "error", Bytes::from(text));
    match code {
        NOT_FOUND if asking.method == methods::RESOURCES_READ => {
            let uri = exchange.dialogue().map(|dialogue| format!("{{\"uri\":{}}}", quote(dialogue.name())));
            let invalid = code::INVALID_PARAMS.to_string();
            let mut changes = vec![("code", Some(invalid.as_str()))];
            if let Some(uri) = uri.as_deref().filter(|_| !error.has("data")) {
                changes.push(("data", Some(uri)));
            }
            Words::Json(StatusCode::OK, written(rewrite(error, &changes)))
        }
        URL_ELICITATION_REQUIRED if exchange.dialogue().is_some() => url_first(exchange, error),
        // An old server's own use of what is the protocol's now: -32022 would make a client negotiate anew.
        -32099..=-32020 => {
            let data = format!("{{\"ferry\":{{\"reason\":\"upstream_code\",\"childCode\":{code}}}}}");
            let internal = code::INTERNAL_ERROR.to_string();
            Words::Json(StatusCode::OK, written(rewrite(error, &[("code", Some(&internal)), ("data", Some(&data))])))
        }
        _ => {
            let status = modern::status_of_error(code, &asking.method, &asking.server.capabilities);
            Words::Json(status, envelope(id, "error", message.error().unwrap_or_default()))
        }
    }
}

/// A call that wants its user to visit pages first: the client is asked to show them, and to call again.
fn url_first(exchange: &Exchange, error: &Members<'_>) -> Words {
    let needed = || Words::Refusal(Refusal::MissingCapability { required: r#"{"elicitation":{"url":{}}}"#.to_owned() });
    if !exchange.asking.abilities.elicitation_url {
        return needed();
    }
    let data = error.object("data").unwrap_or_default();
    let urls = data.text("elicitations").and_then(|text| members::elements(text).ok()).unwrap_or_default();
    let urls: Vec<Members<'_>> = urls.iter().filter_map(|url| Members::read(url.get()).ok()).collect();
    let (Some(child), Some(dialogue)) = (exchange.child.upgrade(), exchange.dialogue()) else { return needed() };
    match child.dialogues.restart(exchange, dialogue.binding(), &urls, &child.limits) {
        Some(json) if !urls.is_empty() => Words::Json(StatusCode::OK, json),
        _ => Words::Refusal(Refusal::Internal("the server wants its user to visit a page first".into())),
    }
}
