//! Legacy or modern? The client's era, decided for each HTTP request by itself (`protocol.md` §1.11).
//!
//! The body decides, the header fields are a cross-check: a claim in `_meta` cannot be made by accident.

use http::HeaderMap;
use serde::{Deserialize, Serialize};

use super::headers::{self, MCP_PROTOCOL_VERSION, MCP_SESSION_ID, Unreadable};
use super::methods::{INITIALIZE, meta};
use super::refusal::Refusal;
use crate::mcp::envelope::{Kind, Message};
use crate::mcp::members::Members;
use crate::mcp::version::{LEGACY, is_modern_shaped};

/// Which clients an endpoint serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Serve {
    /// Both eras.
    #[default]
    Both,
    /// Modern clients only.
    Modern,
    /// Legacy clients only: dual-era ones fall back to `initialize`.
    Legacy,
}

/// What the configuration of an endpoint says about eras.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Which clients it serves.
    pub serve: Serve,
    /// Whether legacy requests without a session are served (§3.9).
    pub legacy_stateless: bool,
    /// Whether the HTTP+SSE transport of 2024-11-05 is served (§7).
    pub sse: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self { serve: Serve::Both, legacy_stateless: false, sse: true }
    }
}

/// The parameters of a message and their `_meta`, each read once.
#[derive(Debug, Default)]
pub struct Params<'a> {
    /// The members of `params`.
    pub members: Members<'a>,
    /// The members of `params._meta`, where that is an object.
    pub meta: Option<Members<'a>>,
}

impl<'a> Params<'a> {
    /// Reads them. A member that stands there twice is refused (§1.3): ferry would check one, and the server obey the
    /// other.
    pub fn of(message: &'a Message) -> Result<Self, Refusal> {
        let refuse = |place: &str, error: &serde_json::Error| {
            // Its own text ends in a line and column of the slice, which say nothing to the client.
            let why = error.to_string();
            let why = why.split(" at line ").next().unwrap_or_default();
            Refusal::InvalidRequest(format!("invalid `{place}`: {why}").into())
        };
        let members = message.param_members().map_err(|error| refuse("params", &error))?;
        let meta = match members.text("_meta") {
            Some(text) if text.starts_with('{') => {
                Some(Members::read(text).map_err(|error| refuse("params._meta", &error))?)
            }
            _ => None,
        };
        Ok(Self { members, meta })
    }

    /// Whether they claim a modern version, whatever stands there: a broken claim is answered as what it claims to be.
    pub fn claims_version(&self) -> bool {
        self.meta.as_ref().is_some_and(|meta| meta.has(meta::PROTOCOL_VERSION))
    }
}

/// What a POST carried.
#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    /// An array: a batch, if anything.
    Array,
    /// One message and its parameters.
    Message(&'a Message, &'a Params<'a>),
}

/// Who takes a POST on from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'h> {
    /// The ladder of [`super::modern`].
    ModernRequest,
    /// 202; the relay may pass it on (§4.1 step 2).
    ModernNotification,
    /// Opens a session; an id that came with it means nothing.
    LegacyInitialize,
    /// One message of a session.
    LegacyMessage(Session<'h>),
    /// A batch of a session, if that allows one (§1.9).
    LegacyBatch(Session<'h>),
    /// A message without a session, on an endpoint that allows it (§3.9).
    LegacyStateless,
}

/// The session that a legacy request names; whether there is one is not known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session<'h> {
    /// Its id.
    pub id: &'h str,
    /// `MCP-Protocol-Version`, where it is there: one of [`LEGACY`], but not necessarily the session's own.
    pub version: Option<&'static str>,
}

/// Routes a POST.
pub fn post<'h>(body: Body<'_>, headers: &'h HeaderMap, policy: Policy) -> Result<Route<'h>, Refusal> {
    let modern_header = names_modern_version(headers);
    let (message, params) = match body {
        Body::Array if modern_header || policy.serve == Serve::Modern => {
            return Err(Refusal::InvalidRequest("a batch is served only in a session at 2025-03-26".into()));
        }
        Body::Array => return Ok(Route::LegacyBatch(session(headers)?)),
        Body::Message(message, params) => (message, params),
    };
    let opens = message.method() == INITIALIZE;
    match message.kind() {
        Kind::Response if modern_header => {
            return Err(Refusal::InvalidRequest("no responses from the client in this protocol version".into()));
        }
        Kind::Request | Kind::Notification if params.claims_version() || (modern_header && !opens) => {
            return match (policy.serve, message.kind()) {
                (Serve::Legacy, _) => Err(Refusal::ModernNotServed),
                (_, Kind::Request) => Ok(Route::ModernRequest),
                _ => Ok(Route::ModernNotification),
            };
        }
        _ => {}
    }
    if policy.serve == Serve::Modern {
        let asked = if opens { params.members.string("protocolVersion").map(Into::into) } else { None };
        let named = || headers::all(headers, &MCP_PROTOCOL_VERSION).next().map(str::to_owned);
        return Err(Refusal::LegacyNotServed { requested: asked.or_else(named) });
    }
    match message.kind() {
        Kind::Request if opens => Ok(Route::LegacyInitialize),
        Kind::Notification if opens => Err(Refusal::InvalidRequest("`initialize` needs an `id`".into())),
        // A response answers what a session asked; without one there is nothing it could answer.
        kind if policy.legacy_stateless && kind != Kind::Response && !headers.contains_key(MCP_SESSION_ID) => {
            legacy_version(headers)?;
            Ok(Route::LegacyStateless)
        }
        _ => Ok(Route::LegacyMessage(session(headers)?)),
    }
}

/// Routes a GET. 405 without a session, not 400: legacy clients then do without a standing stream and go on.
pub fn get(headers: &HeaderMap, serve: Serve) -> Result<Session<'_>, Refusal> {
    if serve == Serve::Modern || names_modern_version(headers) || !headers.contains_key(MCP_SESSION_ID) {
        return Err(Refusal::MethodNotServed { allow: "POST" });
    }
    session(headers)
}

/// Routes a DELETE.
pub fn delete(headers: &HeaderMap, serve: Serve) -> Result<Session<'_>, Refusal> {
    if serve == Serve::Modern || names_modern_version(headers) {
        return Err(Refusal::MethodNotServed { allow: "POST" });
    }
    session(headers)
}

/// Refuses an HTTP method that no route knows.
pub fn other_method(serve: Serve) -> Refusal {
    let allow = if serve == Serve::Modern { "POST" } else { "POST, GET, DELETE" };
    Refusal::MethodNotServed { allow }
}

/// Whether `MCP-Protocol-Version` is of the modern era, known to ferry or not. One of several is enough: what comes
/// of it is a refusal by the rules of that era.
fn names_modern_version(headers: &HeaderMap) -> bool {
    headers::all(headers, &MCP_PROTOCOL_VERSION).any(is_modern_shaped)
}

fn session(headers: &HeaderMap) -> Result<Session<'_>, Refusal> {
    let id = match headers::single(headers, &MCP_SESSION_ID) {
        Ok(Some(id)) => id,
        Ok(None) => return Err(Refusal::SessionRequired),
        Err(Unreadable::Repeated) => return Err(Refusal::InvalidRequest("Mcp-Session-Id is repeated".into())),
        // Not an id of ours then, like any other that is none.
        Err(Unreadable::NotAscii) => return Err(Refusal::SessionNotFound),
    };
    Ok(Session { id, version: legacy_version(headers)? })
}

/// `MCP-Protocol-Version` of a legacy request (§3.3): absent, or a version that has sessions.
pub(super) fn legacy_version(headers: &HeaderMap) -> Result<Option<&'static str>, Refusal> {
    match headers::single(headers, &MCP_PROTOCOL_VERSION) {
        Ok(None) => Ok(None),
        Ok(Some(named)) => {
            let known = LEGACY.iter().find(|known| **known == named);
            known.map(|known| Some(*known)).ok_or(Refusal::UnsupportedLegacyVersion)
        }
        Err(_) => Err(Refusal::UnsupportedLegacyVersion),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODERN_META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;

    /// The route's name, or status and code of the refusal.
    fn routed(body: &str, fields: &[(&str, &str)], policy: Policy) -> String {
        let headers = headers::of(fields);
        let shown = |result: Result<Route<'_>, Refusal>| match result {
            Ok(Route::LegacyMessage(session)) => format!("message {} {:?}", session.id, session.version),
            Ok(Route::LegacyBatch(session)) => format!("batch {}", session.id),
            Ok(route) => format!("{route:?}"),
            Err(refusal) => format!("{} {}", refusal.status().as_u16(), refusal.code().unwrap_or(0)),
        };
        if body.starts_with('[') {
            return shown(post(Body::Array, &headers, policy));
        }
        let message = Message::from_client(body.as_bytes().to_vec()).unwrap();
        match Params::of(&message) {
            Ok(params) => shown(post(Body::Message(&message, &params), &headers, policy)),
            Err(refusal) => format!("{} {}", refusal.status().as_u16(), refusal.code().unwrap_or(0)),
        }
    }

    fn call(method: &str, params: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}}}}}"#)
    }

    fn notify(method: &str, params: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{{params}}}}}"#)
    }

    const SID: (&str, &str) = ("Mcp-Session-Id", "s");
    const NEW: (&str, &str) = ("MCP-Protocol-Version", "2026-07-28");
    const NEWER: (&str, &str) = ("MCP-Protocol-Version", "2027-01-01");
    const OLD: (&str, &str) = ("MCP-Protocol-Version", "2025-06-18");
    const ODD: (&str, &str) = ("MCP-Protocol-Version", "1999-01-01");
    const RESPONSE: &str = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;

    #[test]
    fn a_post_goes_where_the_table_says() {
        let list = call("tools/list", "");
        let modern = call("tools/list", MODERN_META);
        let initialize = call("initialize", r#""protocolVersion":"2025-06-18""#);
        let bare = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#.to_owned();
        let both = Policy::default();
        for (body, fields, expected) in [
            // array
            ("[]", &[SID][..], "batch s"),
            ("[]", &[SID, OLD], "batch s"),
            ("[]", &[], "400 -32600"),
            ("[]", &[SID, NEW], "400 -32600"),
            // response
            (RESPONSE, &[SID], "message s None"),
            (RESPONSE, &[SID, OLD], r#"message s Some("2025-06-18")"#),
            (RESPONSE, &[SID, NEW], "400 -32600"),
            (RESPONSE, &[NEWER], "400 -32600"),
            (RESPONSE, &[], "400 -32600"),
            // claim
            (&modern, &[], "ModernRequest"),
            (&modern, &[NEW, SID], "ModernRequest"),
            (&modern, &[OLD], "ModernRequest"),
            (&modern, &[SID, SID], "ModernRequest"),
            (&modern, &[NEW, NEW], "ModernRequest"),
            (&call("initialize", MODERN_META), &[], "ModernRequest"),
            (&notify("notifications/x", MODERN_META), &[], "ModernNotification"),
            (&call("x", r#""_meta":{"io.modelcontextprotocol/protocolVersion":null}"#), &[SID], "ModernRequest"),
            (&call("x", r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2025-06-18"}"#), &[], "ModernRequest"),
            (&call("x", r#""_meta":{"io.modelcontextprotocol/protocolVersion":7}"#), &[OLD], "ModernRequest"),
            (&call("x", r#""_meta":{"io.modelcontextprotocol/protocol\u0056ersion":7}"#), &[], "ModernRequest"),
            // initialize
            (&initialize, &[], "LegacyInitialize"),
            (&initialize, &[NEW, SID], "LegacyInitialize"),
            (&initialize, &[ODD, SID, SID], "LegacyInitialize"),
            (&initialize, &[OLD, OLD], "LegacyInitialize"),
            (&notify("initialize", ""), &[SID], "400 -32600"),
            // the header alone
            (&list, &[NEW], "ModernRequest"),
            (&list, &[NEWER, SID], "ModernRequest"),
            (&bare, &[NEW], "ModernRequest"),
            (&list, &[OLD, NEW], "ModernRequest"),
            (&list, &[("MCP-Protocol-Version", " \t2026-07-28 ")], "ModernRequest"),
            (&notify("notifications/x", ""), &[NEW], "ModernNotification"),
            // a session
            (&list, &[SID], "message s None"),
            (&bare, &[SID], "message s None"),
            (&list, &[SID, OLD], r#"message s Some("2025-06-18")"#),
            (&list, &[("Mcp-Session-Id", " \ts "), OLD], r#"message s Some("2025-06-18")"#),
            (&notify("notifications/initialized", ""), &[SID], "message s None"),
            (&list, &[SID, ODD], "400 -32600"),
            (&list, &[SID, ("MCP-Protocol-Version", "")], "400 -32600"),
            (&list, &[SID, OLD, OLD], "400 -32600"),
            (&list, &[SID, SID], "400 -32600"),
            (&list, &[("Mcp-Session-Id", "é")], "404 -32600"),
            (&call("x", r#""_meta":{"progressToken":1}"#), &[SID], "message s None"),
            (&call("x", r#""_meta":7"#), &[SID], "message s None"),
            // otherwise
            (&list, &[], "400 -32600"),
            (&list, &[OLD], "400 -32600"),
            (&notify("notifications/initialized", ""), &[], "400 -32600"),
            // twice
            (&call("x", r#""name":1,"n\u0061me":2"#), &[SID], "400 -32600"),
            (&call("x", r#""_meta":{"a":1,"a":2}"#), &[SID], "400 -32600"),
            (&call("x", &format!("{MODERN_META},{MODERN_META}")), &[NEW], "400 -32600"),
        ] {
            assert_eq!(routed(body, fields, both), expected, "{body} {fields:?}");
        }
    }

    #[test]
    fn an_endpoint_may_serve_one_era_only() {
        let initialize = call("initialize", r#""protocolVersion":"2025-06-18""#);
        let modern = call("tools/list", MODERN_META);
        let list = call("tools/list", "");
        let only = |serve| Policy { serve, ..Policy::default() };
        for (serve, body, fields, expected) in [
            (Serve::Legacy, &*modern, &[NEW][..], "400 -32600"),
            (Serve::Legacy, &notify("notifications/x", MODERN_META), &[NEW], "400 -32600"),
            (Serve::Legacy, &list, &[NEW], "400 -32600"),
            (Serve::Legacy, &initialize, &[NEW], "LegacyInitialize"),
            (Serve::Legacy, &list, &[SID], "message s None"),
            (Serve::Legacy, "[]", &[SID], "batch s"),
            (Serve::Modern, &modern, &[NEW], "ModernRequest"),
            (Serve::Modern, &initialize, &[], "400 -32022"),
            (Serve::Modern, &initialize, &[NEW], "400 -32022"),
            (Serve::Modern, &list, &[SID], "400 -32022"),
            (Serve::Modern, &list, &[], "400 -32022"),
            (Serve::Modern, RESPONSE, &[SID], "400 -32022"),
            (Serve::Modern, "[]", &[SID], "400 -32600"),
        ] {
            assert_eq!(routed(body, fields, only(serve)), expected, "{serve:?} {body} {fields:?}");
        }
    }

    #[test]
    fn a_client_that_is_too_old_learns_what_is_served() {
        let policy = Policy { serve: Serve::Modern, ..Policy::default() };
        for (body, fields, requested) in [
            (call("initialize", r#""protocolVersion":"2025-06-18""#), &[ODD][..], Some("2025-06-18")),
            (call("initialize", r#""protocolVersion":7"#), &[], None),
            (call("tools/list", ""), &[OLD], Some("2025-06-18")),
            (call("tools/list", ""), &[], None),
        ] {
            let (headers, message) = (headers::of(fields), Message::from_client(body.into_bytes()).unwrap());
            let params = Params::of(&message).unwrap();
            assert_eq!(
                post(Body::Message(&message, &params), &headers, policy),
                Err(Refusal::LegacyNotServed { requested: requested.map(str::to_owned) })
            );
        }
    }

    #[test]
    fn a_stateless_endpoint_serves_what_has_no_session() {
        let policy = Policy { legacy_stateless: true, ..Policy::default() };
        let list = call("tools/list", "");
        for (body, fields, expected) in [
            (&*list, &[][..], "LegacyStateless"),
            (&list, &[OLD], "LegacyStateless"),
            (&list, &[ODD], "400 -32600"),
            (&list, &[NEW], "ModernRequest"),
            (&notify("notifications/initialized", ""), &[], "LegacyStateless"),
            (&call("initialize", ""), &[], "LegacyInitialize"),
            (&list, &[SID], "message s None"),
            (RESPONSE, &[], "400 -32600"),
            ("[]", &[], "400 -32600"),
        ] {
            assert_eq!(routed(body, fields, policy), expected, "{body} {fields:?}");
        }
    }

    #[test]
    fn get_and_delete_are_for_sessions() {
        for (serve, fields, got, deleted) in [
            (Serve::Both, &[SID][..], 200, 200),
            (Serve::Both, &[SID, OLD], 200, 200),
            (Serve::Legacy, &[SID], 200, 200),
            (Serve::Both, &[], 405, 400),
            (Serve::Both, &[SID, NEW], 405, 405),
            (Serve::Both, &[NEWER], 405, 405),
            (Serve::Modern, &[SID], 405, 405),
            (Serve::Modern, &[], 405, 405),
            (Serve::Both, &[SID, SID], 400, 400),
            (Serve::Both, &[SID, ODD], 400, 400),
        ] {
            let headers = headers::of(fields);
            let status = |result: Result<Session<'_>, Refusal>| result.map_or_else(|no| no.status().as_u16(), |_| 200);
            assert_eq!((status(get(&headers, serve)), status(delete(&headers, serve))), (got, deleted), "{fields:?}");
        }
        for (serve, allow) in [(Serve::Both, "POST, GET, DELETE"), (Serve::Modern, "POST")] {
            assert_eq!(other_method(serve), Refusal::MethodNotServed { allow });
        }
    }
}
