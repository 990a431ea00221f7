//! Modern client, modern server: a relay that validates. Each request carries what it needs.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};

use super::super::child::{Child, Live};
use super::super::exchange::{Asking, Exchange, Owner, Sealing, Words, begin, envelope};
use super::super::level::Level;
use super::super::refusal::Refusal;
use super::super::reply::Json;
use super::super::session_id::Abilities;
use super::super::stream::Body;
use super::super::{era, methods, modern, param_headers};
use super::{Call, Edit, OWN_CALL, edited, modern_child, token_edit};
use crate::mcp::envelope::{Message, call as notification_text};
use crate::mcp::members::{self, Members, rewrite};
use crate::mcp::version::{Era, MODERN};

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
    let listens = request.method == methods::LISTEN;
    let limits = &call.endpoint.limits;
    // A standing stream is counted by itself: it is no work in flight.
    let permit = if listens {
        let listens = &call.endpoint.listens;
        listens.take(call.identity, limits.max_listens, limits.max_listens_per_identity)
    } else {
        call.endpoint.permits.take(call.identity, limits.max_inflight, limits.max_inflight_per_identity)
    };
    let permit = permit.ok_or(Refusal::Overloaded { what: "too many requests in flight" })?;
    let token = request.progress_token.as_ref();
    // Whoever is on this machine may do anything with the server anyway.
    let sealing = (!call.identity.is_local()).then(|| Sealing {
        sealer: Arc::clone(&call.endpoint.states),
        endpoint: call.endpoint.name.clone(),
        name: request.name.as_deref().unwrap_or_default().to_owned(),
    });
    let state = match &sealing {
        Some(sealing) => unsealed(call, message, params, sealing)?,
        None => None,
    };
    let asking = Asking {
        owner: Owner::Request,
        identity: call.identity.clone(),
        // A copy: a slice would keep the whole body for as long as the request is remembered.
        id: Bytes::copy_from_slice(&id),
        method: request.method.to_owned(),
        token: token.map(|token| Bytes::copy_from_slice(token.raw.as_bytes())),
        log_level: request.log_level.and_then(members::string).and_then(|name| Level::parse(&name)),
        abilities: Abilities::default(),
        candidate: methods::is_candidate(request.method),
        streams: call.accepted.sse(),
        unhurried: listens,
        expects_task: false,
        listen: listens.then(|| message.params()).flatten().map(|params| Bytes::copy_from_slice(&params)),
        input: None,
        sealing,
        server: Arc::clone(&live.facts),
        translate,
    };
    let exchange = Exchange::new(asking, child, vec![permit], limits);
    let place = token.map(|token| token.place.clone());
    let mut terms = call.terms();
    if listens {
        // The acknowledgement is the first thing on the stream, and its absence has a deadline of its own.
        terms.commit_after = limits.listen_ack * 2;
        terms.only_stream = false;
    }
    if request.method == methods::DISCOVER {
        terms.commit_after = limits.request_timeout_in_all;
    }
    let params = |number| edited(message, token_edit(place.clone(), number).into_iter().chain(state.clone()).collect());
    Ok(begin(child, live, exchange, params).await?.respond(terms).await)
}

/// The state that a retry brings back, as the server wrote it.
fn unsealed(
    call: &Call<'_>,
    message: &Message,
    params: &era::Params<'_>,
    sealing: &Sealing,
) -> Result<Option<Edit>, Refusal> {
    let Some(raw) = params.members.text("requestState") else { return Ok(None) };
    let sealed = members::string(raw).ok_or(Refusal::InvalidRequestState)?;
    let place = sealing.place(call.identity, message.method());
    let state = sealing.sealer.open(place, &sealed).ok_or(Refusal::InvalidRequestState)?;
    Ok(Some((message.place_of(raw), Bytes::from(members::quote(&state)))))
}

/// A result that asks for input, with its state sealed. `None` where there is none to seal.
fn sealed(exchange: &Exchange, result: &str) -> Option<String> {
    let sealing = exchange.asking.sealing.as_ref()?;
    let members = Members::read(result).ok()?;
    let state = members.string("requestState")?;
    let place = sealing.place(&exchange.asking.identity, &exchange.asking.method);
    let sealed = members::quote(&sealing.sealer.seal(place, &state));
    Some(rewrite(&members, &[("requestState", Some(&sealed))]))
}

/// A notification of the protocol itself means nothing here: a client that wants to cancel closes its request.
pub(in crate::bridge) fn notification(call: &Call<'_>, message: &Message) {
    if !methods::is_extension_notification(message.method()) {
        return;
    }
    if let Some(child) = call.endpoint.children.existing_of_identity(call.identity) {
        pass_on(call, &child, message.method(), message);
    }
}

/// Passes a notification on that is none of the protocol's own.
pub(super) fn pass_on(call: &Call<'_>, child: &Child, method: &str, message: &Message) {
    let live = child.current().filter(|live| live.opened.era == Era::Modern);
    if let Some(live) = live.filter(|_| methods::is_extension_notification(method)) {
        live.admit(call.identity);
        live.connection.push(notification_text(None, method, message.params_text()));
    }
}

/// Step 10 of §4.1. What a header said of a tool that has changed since is looked at again before it is refused.
pub(super) async fn check_param_headers(
    call: &Call<'_>,
    live: &Arc<Live>,
    request: &modern::Request<'_>,
) -> Result<(), Refusal> {
    let (methods::TOOLS_CALL, Some(tool)) = (request.method, &request.name) else { return Ok(()) };
    let check = || {
        let tools = live.tool_headers.lock().expect("nothing panics while it holds the annotations");
        let known = tools.knows(tool);
        (known, param_headers::check(tools.of(tool), request.arguments, call.headers))
    };
    match check() {
        (true, Ok(())) => Ok(()),
        (false, _) if !live.facts.declares(&["tools"]) => Ok(()),
        // An unknown tool, or a header that does not fit: look at the list once more. Where that fails, fail open.
        _ => match tokio::time::timeout(OWN_CALL, modern_child::refresh_tools(live)).await {
            Ok(true) => check().1,
            _ => Ok(()),
        },
    }
}

/// A server's answer goes to a modern client as it is, but for what names ferry's own numbers or versions.
fn translate(exchange: &Exchange, message: &Message) -> Words {
    let id = &exchange.asking.id;
    if let Some(error) = message.error() {
        let code = message.error_members().map_or(0, |(code, _)| code);
        let status = modern::status_of_error(code, &exchange.asking.method, &exchange.asking.server.capabilities);
        return Words::Json(status, envelope(id, "error", error));
    }
    let Some(result) = message.result() else { return Words::Refusal(Refusal::UpstreamProtocol) };
    let edited = match exchange.asking.method.as_str() {
        methods::LISTEN => message.result_text().and_then(|text| modern_child::with_subscription(text, id)),
        methods::DISCOVER => message.result_text().and_then(known_versions),
        _ if exchange.asking.sealing.is_some() => message.result_text().and_then(|text| sealed(exchange, text)),
        _ => None,
    };
    Words::Json(StatusCode::OK, envelope(id, "result", edited.map_or(result, Bytes::from)))
}

/// A `DiscoverResult` that offers no version which ferry does not speak.
fn known_versions(result: &str) -> Option<String> {
    let result = Members::read(result).ok()?;
    let offered = crate::mcp::probe::strings(result.text("supportedVersions")?);
    let known: Vec<&String> = offered.iter().filter(|version| MODERN.contains(&version.as_str())).collect();
    let known = serde_json::to_string(&known).ok()?;
    Some(rewrite(&result, &[("supportedVersions", Some(&known))]))
}

/// Which tool arguments are mirrored in headers.
#[derive(Debug, Default)]
pub(in crate::bridge) struct ToolHeaders {
    tools: std::collections::HashMap<String, Vec<param_headers::Mirrored>>,
    whole: bool,
}

impl ToolHeaders {
    /// Whether nothing more can be learnt of this tool by looking at the list.
    fn knows(&self, tool: &str) -> bool {
        self.whole && self.tools.contains_key(tool)
    }

    /// Whether the list was read.
    pub(super) fn is_known(&self) -> bool {
        self.whole
    }

    fn of(&self, tool: &str) -> &[param_headers::Mirrored] {
        self.tools.get(tool).map_or(&[], Vec::as_slice)
    }

    /// Reads the pages of a whole list.
    pub(super) fn read(pages: &[Message]) -> Self {
        let mut tools = std::collections::HashMap::new();
        for page in pages {
            let result = page.result_text().and_then(|text| Members::read(text).ok()).unwrap_or_default();
            let listed = result.text("tools").and_then(|text| members::elements(text).ok()).unwrap_or_default();
            for tool in listed {
                let Ok(tool) = Members::read(tool.get()) else { continue };
                let Some(name) = tool.string("name") else { continue };
                tools.insert(name.into_owned(), mirrored(tool.text("inputSchema").unwrap_or("{}")));
            }
        }
        Self { tools, whole: true }
    }
}

fn mirrored(schema: &str) -> Vec<param_headers::Mirrored> {
    // Nearly no tool has annotations; only those that may are parsed.
    if memchr::memmem::find(schema.as_bytes(), b"x-mcp-header").is_none() {
        return Vec::new();
    }
    let Ok(schema) = serde_json::from_str(schema) else { return Vec::new() };
    param_headers::mirrored(&schema).unwrap_or_else(|invalid| {
        tracing::warn!("the headers of a tool are not checked: {invalid}");
        Vec::new()
    })
}

/// The parameters of a listen request again, for another process.
pub(super) fn again(exchange: &Exchange, number: u64) -> Json {
    let Some(params) = &exchange.asking.listen else { return Vec::new() };
    let renumbered = || {
        let members = Members::read(std::str::from_utf8(params).ok()?).ok()?;
        let meta = rewrite(&members.object("_meta")?, &[(methods::meta::PROGRESS_TOKEN, Some(&number.to_string()))]);
        Some(Bytes::from(rewrite(&members, &[("_meta", Some(&meta))])))
    };
    let renumbered = exchange.asking.token.as_ref().and_then(|_| renumbered());
    vec![renumbered.unwrap_or_else(|| params.clone())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_ferry_does_not_speak_are_not_offered() {
        let result = r#"{"resultType":"complete","supportedVersions":["2025-11-25","2026-07-28","2031-01-01"],"x":1}"#;
        assert_eq!(
            known_versions(result).unwrap(),
            r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"x":1}"#
        );
        assert_eq!(known_versions("{}"), None);
    }
}
