//! Legacy client, modern server: the session is ferry's alone. What a client said once goes with each of its requests,
//! and what the server wants to know from it, it is asked in the old way.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;

use super::super::child::{Child, Live};
use super::super::era;
use super::super::exchange::{Asking, Begun, Exchange, Owner, Words, begin, envelope};
use super::super::input::Input;
use super::super::introduction::Introduction;
use super::super::level::Level;
use super::super::methods::{self, meta};
use super::super::refusal::Refusal;
use super::super::reply::Json;
use super::super::sessions::Session;
use super::{Call, token};
use crate::mcp::envelope::Message;
use crate::mcp::members::{Members, elements, quote, rewrite};
use crate::mcp::version::Era;

/// The answer to `initialize`, made of what the server said of itself (§6.1).
pub(super) fn welcome(live: &Live, version: &str, name: &str) -> Bytes {
    let result = std::str::from_utf8(&live.opened.result).ok().and_then(|text| Members::read(text).ok());
    let result = result.unwrap_or_default();
    let server = live.facts.server_info().map_or_else(
        || format!("{{\"name\":{},\"version\":\"0\"}}", quote(name)),
        |info| with_name_and_version(info, name),
    );
    let capabilities = &live.facts.capabilities;
    let instructions = result.text("instructions").map(|text| format!(",\"instructions\":{text}")).unwrap_or_default();
    Bytes::from(format!(
        "{{\"protocolVersion\":{},\"capabilities\":{capabilities},\"serverInfo\":{server}{instructions}}}",
        quote(version)
    ))
}

/// Legacy clients need both.
fn with_name_and_version(info: &str, name: &str) -> String {
    let Ok(members) = Members::read(info) else { return info.to_owned() };
    let name = quote(name);
    let missing = [("name", Some(name.as_str())), ("version", Some("\"0\""))];
    let missing: Vec<_> = missing.into_iter().filter(|(key, _)| !members.has(key)).collect();
    if missing.is_empty() { info.to_owned() } else { rewrite(&members, &missing) }
}

/// A request of a session.
pub(super) async fn request(
    call: &Call<'_>,
    session: &Arc<Session>,
    child: &Arc<Child>,
    live: Arc<Live>,
    message: &Message,
    params: &era::Params<'_>,
) -> Result<Begun, Refusal> {
    let id = message.id().ok_or(Refusal::InvalidRequest("a request has an id".into()))?;
    let method = message.method();
    let missing = || Refusal::MethodNotFound { era: Era::Legacy, method: method.to_owned() };
    let invalid = |why: &'static str| Refusal::InvalidParams { era: Era::Legacy, why: why.into() };
    let empty = || Begun::Now(envelope(&id, "result", Bytes::from_static(b"{}")));
    match method {
        // Of a server of the session's own, whose era was not known yet.
        methods::PING => return Ok(empty()),
        methods::TASKS_LIST | methods::TASKS_RESULT => return Err(missing()),
        methods::TASKS_GET | methods::TASKS_UPDATE | methods::TASKS_CANCEL if !has_tasks(session, &live) => {
            return Err(missing());
        }
        methods::SET_LEVEL => {
            let level = params.members.string("level").and_then(|name| Level::parse(&name));
            let level = level.ok_or(invalid("`params.level` must be a log level"))?;
            if !live.facts.declares(&["logging"]) {
                return Err(missing());
            }
            // It goes with each request.
            session.set_level(level);
            return Ok(empty());
        }
        methods::RESOURCES_SUBSCRIBE => {
            let uri = params.members.string("uri").ok_or(invalid("`params.uri` must be a string"))?;
            if !live.facts.declares(&["resources", "subscribe"]) {
                return Err(missing());
            }
            let new = session.subscribe(&uri, call.endpoint.limits.max_subscriptions);
            let new = new.ok_or(invalid("too many subscriptions in this session"))?;
            if let Err(why) = child.listen_for(&live, &uri).await {
                if new {
                    session.unsubscribe(&uri);
                }
                return Err(Refusal::Internal(why.into()));
            }
            return Ok(empty());
        }
        _ => {}
    }
    let limits = &call.endpoint.limits;
    let permit = call
        .endpoint
        .permits
        .take(call.identity, limits.max_inflight, limits.max_inflight_per_identity)
        .ok_or(Refusal::Overloaded { what: "too many requests in flight" })?;
    let token = token(message, params.meta.as_ref());
    let streams = call.accepted.sse();
    let own_meta = OwnMeta::of(session, &live, streams || session.standalone.is_open());
    let input = methods::may_ask_back(method).then(|| Input::new(message.clone(), own_meta.clone()));
    let asking = Asking {
        owner: Owner::Session(Arc::clone(session)),
        identity: call.identity.clone(),
        // A copy: a slice would keep the whole body for as long as the request is remembered.
        id: Bytes::copy_from_slice(&id),
        method: method.to_owned(),
        token: token.as_ref().map(|(raw, _)| Bytes::copy_from_slice(raw.as_bytes())),
        log_level: session.level().filter(|_| live.facts.declares(&["logging"])),
        abilities: session.abilities,
        candidate: methods::is_candidate(method),
        streams,
        unhurried: false,
        expects_task: false,
        listen: None,
        sealing: None,
        input,
        server: Arc::clone(&live.facts),
        translate,
    };
    let exchange = Exchange::new(asking, child, vec![permit], limits);
    let params = |number| to_modern(message, &own_meta, number, None);
    begin(child, live, exchange, params).await.map(Begun::Later)
}

/// Whether a session may speak of tasks: client and server have agreed on the extension.
fn has_tasks(session: &Session, live: &Live) -> bool {
    let declared = session.introduction().map_or("{}", |introduction| introduction.capabilities.as_str());
    methods::declares(declared, methods::TASKS_CAPABILITY) && live.facts.declares(methods::TASKS_CAPABILITY)
}

/// What goes with each request of a session: what its client said of itself once.
#[derive(Debug, Clone)]
pub(in crate::bridge) struct OwnMeta {
    version: String,
    client_info: String,
    capabilities: String,
    log_level: Option<&'static str>,
}

impl OwnMeta {
    fn of(session: &Session, live: &Live, can_be_asked: bool) -> Self {
        let introduction = session.introduction().map_or_else(|| Introduction::revived(session), Introduction::clone);
        let capabilities = Members::read(&introduction.capabilities).unwrap_or_default();
        let mut changes = vec![("tasks", None)];
        if capabilities.object("roots").is_some() {
            changes.push(("roots", Some("{}")));
        }
        if !can_be_asked {
            changes = vec![("tasks", None), ("roots", None), ("sampling", None), ("elicitation", None)];
        }
        Self {
            version: live.opened.version.clone(),
            capabilities: rewrite(&capabilities, &changes),
            client_info: introduction.client_info,
            log_level: session.level().filter(|_| live.facts.declares(&["logging"])).map(Level::name),
        }
    }
}

/// A request's parameters with what every modern request carries; `answers` are the responses and the state of a retry.
pub(in crate::bridge) fn to_modern(
    message: &Message,
    own: &OwnMeta,
    number: u64,
    answers: Option<(&str, Option<&str>)>,
) -> Json {
    let params = message.param_members().unwrap_or_default();
    let before = params.object("_meta").unwrap_or_default();
    let (version, number) = (quote(&own.version), number.to_string());
    let level = own.log_level.map(quote);
    let mut changes = vec![
        (meta::PROTOCOL_VERSION, Some(version.as_str())),
        (meta::CLIENT_INFO, Some(own.client_info.as_str())),
        (meta::CLIENT_CAPABILITIES, Some(own.capabilities.as_str())),
        (meta::LOG_LEVEL, level.as_deref()),
    ];
    if before.has(meta::PROGRESS_TOKEN) {
        let renumbered = token(message, Some(&before)).map(|_| number.as_str());
        changes.push((meta::PROGRESS_TOKEN, renumbered));
    }
    let meta = rewrite(&before, &changes);
    let mut changes = vec![("task", None), ("_meta", Some(meta.as_str()))];
    if let Some((responses, state)) = answers {
        changes.extend([("inputResponses", Some(responses)), ("requestState", state)]);
    }
    vec![Bytes::from(rewrite(&params, &changes))]
}

/// A server's answer in the words of the old era (§6.5). Errors go as they are.
fn translate(exchange: &Exchange, message: &Message) -> Words {
    let id = &exchange.asking.id;
    if let Some(error) = message.error() {
        return Words::Json(StatusCode::OK, envelope(id, "error", error));
    }
    let (Some(result), Some(text)) = (message.result(), message.result_text()) else {
        return Words::Refusal(Refusal::UpstreamProtocol);
    };
    let Ok(members) = Members::read(text) else {
        return Words::Json(StatusCode::OK, envelope(id, "result", result));
    };
    let mut changes = Vec::new();
    if members.string("resultType").is_some_and(|kind| kind == "complete") {
        changes.push(("resultType", None));
    }
    changes.extend(["ttlMs", "cacheScope"].into_iter().filter(|key| members.has(key)).map(|key| (key, None)));
    let tools = members.text("tools").filter(|_| exchange.asking.method == methods::TOOLS_LIST).and_then(legal_tools);
    if let Some(tools) = &tools {
        changes.push(("tools", Some(tools.as_str())));
    }
    let structured = members.text("structuredContent").filter(|_| exchange.asking.method == methods::TOOLS_CALL);
    if structured.is_some_and(|content| !content.starts_with('{')) {
        changes.push(("structuredContent", None));
    }
    if changes.is_empty() {
        return Words::Json(StatusCode::OK, envelope(id, "result", result));
    }
    Words::Json(StatusCode::OK, envelope(id, "result", Bytes::from(rewrite(&members, &changes))))
}

/// A list of tools without what makes strict legacy clients refuse all of it. `None` where nothing has to change.
fn legal_tools(tools: &str) -> Option<String> {
    let mut changed = false;
    let tools: Vec<String> = elements(tools)
        .ok()?
        .into_iter()
        .map(|tool| {
            let legal = Members::read(tool.get()).ok().and_then(|members| legal_tool(&members));
            changed |= legal.is_some();
            legal.unwrap_or_else(|| tool.get().to_owned())
        })
        .collect();
    changed.then(|| format!("[{}]", tools.join(",")))
}

fn legal_tool(tool: &Members<'_>) -> Option<String> {
    let input = tool.object("inputSchema").and_then(|schema| legal_schema(&schema));
    let output = tool.object("outputSchema");
    let is_object = output.as_ref().is_some_and(|schema| schema.string("type").is_some_and(|kind| kind == "object"));
    let legal_output = output.filter(|_| is_object).and_then(|schema| legal_schema(&schema));
    let mut changes = Vec::new();
    if let Some(input) = &input {
        changes.push(("inputSchema", Some(input.as_str())));
    }
    if tool.has("outputSchema") && !is_object {
        changes.push(("outputSchema", None));
    } else if let Some(output) = &legal_output {
        changes.push(("outputSchema", Some(output.as_str())));
    }
    (!changes.is_empty()).then(|| rewrite(tool, &changes))
}

/// A schema whose properties are objects: `true` and `false` are schemas too, and legacy clients do not know that.
fn legal_schema(schema: &Members<'_>) -> Option<String> {
    let properties = schema.object("properties")?;
    let changes: Vec<_> = properties
        .iter()
        .filter_map(|(name, schema)| match schema.get() {
            "true" => Some((name, Some("{}"))),
            "false" => Some((name, Some("{\"not\":{}}"))),
            _ => None,
        })
        .collect();
    if changes.is_empty() {
        return None;
    }
    Some(rewrite(schema, &[("properties", Some(&rewrite(&properties, &changes)))]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_made_legal_and_otherwise_left_as_they_are() {
        for (tool, legal) in [
            (r#"{"name":"a","inputSchema":{"type":"object","properties":{"x":{}}}}"#, None),
            (
                r#"{"name":"a","inputSchema":{"properties":{"x":true,"y":false,"z":{"p":true}}},"odd":1.0}"#,
                Some(r#"{"name":"a","inputSchema":{"properties":{"x":{},"y":{"not":{}},"z":{"p":true}}},"odd":1.0}"#),
            ),
            (r#"{"outputSchema":{"type":"object"}}"#, None),
            (
                r#"{"outputSchema":{"type":"object","properties":{"x":true}}}"#,
                Some(r#"{"outputSchema":{"type":"object","properties":{"x":{}}}}"#),
            ),
            (r#"{"name":"a","outputSchema":{"type":"array"}}"#, Some(r#"{"name":"a"}"#)),
            (r#"{"name":"a","outputSchema":{"anyOf":[]}}"#, Some(r#"{"name":"a"}"#)),
            (r#"{"name":"a","outputSchema":true}"#, Some(r#"{"name":"a"}"#)),
        ] {
            assert_eq!(legal_tool(&Members::read(tool).unwrap()).as_deref(), legal, "{tool}");
        }
        assert_eq!(legal_tools(r#"[{"name":"a"},{"name":"b"}]"#), None);
        assert_eq!(
            legal_tools(r#"[{"name":"a"},{"name":"b","outputSchema":true}]"#).as_deref(),
            Some(r#"[{"name":"a"},{"name":"b"}]"#)
        );
    }

    #[test]
    fn a_request_carries_what_its_session_said() {
        let own = OwnMeta {
            version: "2026-07-28".into(),
            client_info: "{\"name\":\"c\"}".into(),
            capabilities: "{}".into(),
            log_level: Some("info"),
        };
        let message = |params: &str| {
            let text = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\"{params}}}");
            Message::from_client(text.into_bytes()).unwrap()
        };
        let sent = |params: &str, answers| {
            serde_json::from_slice::<serde_json::Value>(&to_modern(&message(params), &own, 9, answers).concat())
                .unwrap()
        };
        let meta = |more: serde_json::Value| {
            let mut all = serde_json::json!({
                meta::PROTOCOL_VERSION: "2026-07-28", meta::CLIENT_INFO: {"name": "c"}, meta::CLIENT_CAPABILITIES: {},
                meta::LOG_LEVEL: "info",
            });
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            all
        };
        let nothing = serde_json::json!({});
        assert_eq!(sent("", None), serde_json::json!({"_meta": meta(nothing.clone())}));
        assert_eq!(
            sent(r#","params":{"name":"t","task":{},"_meta":{"progressToken":"p","x":1}}"#, None),
            serde_json::json!({"name": "t", "_meta": meta(serde_json::json!({"progressToken": 9, "x": 1}))})
        );
        assert_eq!(
            sent(r#","params":{"name":"t"}"#, Some(("{\"k\":{}}", Some("\"s\"")))),
            serde_json::json!({"name": "t", "_meta": meta(nothing.clone()), "inputResponses": {"k": {}}, "requestState": "s"})
        );
        // What the last round said is not said again.
        assert_eq!(
            sent(r#","params":{"requestState":"old"}"#, Some(("{}", None))),
            serde_json::json!({"_meta": meta(nothing), "inputResponses": {}})
        );
    }
}
