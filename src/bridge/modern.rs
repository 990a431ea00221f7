//! The checks that every modern request passes, whatever era the server behind it has (`protocol.md` §4.1).
//!
//! The first failure answers, and the order is what the official tests assert. [`read`] takes a request up the ladder
//! as far as nothing about the server is needed; [`gate`] needs its capabilities, and
//! [`super::param_headers::check`] its tools.

use std::borrow::Cow;
use std::ops::Range;

use http::{HeaderMap, HeaderName, StatusCode};

use super::era::Params;
use super::headers::{self, MCP_METHOD, MCP_NAME, MCP_PROTOCOL_VERSION};
use super::methods::{self, LISTEN, meta};
use super::param_headers;
use super::refusal::Refusal;
use crate::mcp::envelope::{Kind, Message, code, is_id};
use crate::mcp::version::{Era, MODERN};

/// A sound modern request, as far as ferry reads one.
#[derive(Debug)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a str,
    /// The tool, prompt, resource or task that it is about: what `Mcp-Name` mirrors.
    pub name: Option<Cow<'a, str>>,
    /// Its protocol version, one of [`MODERN`].
    pub version: &'static str,
    /// What its client can do: a JSON object.
    pub capabilities: &'a str,
    /// How much is to be logged for it: any JSON, since only a relay that logs for the server needs to judge it (§5.5).
    pub log_level: Option<&'a str>,
    /// What its progress notifications are to name.
    pub progress_token: Option<ProgressToken<'a>>,
    /// What a `subscriptions/listen` wants to hear: a JSON object.
    pub filter: Option<&'a str>,
    /// `params.arguments`, for [`param_headers::check`].
    pub arguments: Option<&'a str>,
}

/// A progress token, and where to put another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgressToken<'a> {
    /// The token as the client wrote it: a string or a number.
    pub raw: &'a str,
    /// Where it stands in the message.
    pub place: Range<usize>,
}

/// Steps 1 to 9, without what step 8 asks of the server ([`gate`]).
pub fn read<'a>(message: &'a Message, params: &Params<'a>, headers: &HeaderMap) -> Result<Request<'a>, Refusal> {
    if message.kind() != Kind::Request {
        return Err(Refusal::InvalidRequest("only a request can be answered".into()));
    }
    let method = message.method();

    let Some(meta) = &params.meta else {
        let why = format!("`params._meta` must be an object with `{}`", meta::PROTOCOL_VERSION);
        return Err(Refusal::invalid_params(why));
    };
    let wrong = |key: &str, what: &str| Refusal::invalid_params(format!("`params._meta` needs `{key}`: {what}"));
    let asked = meta.string(meta::PROTOCOL_VERSION).ok_or_else(|| wrong(meta::PROTOCOL_VERSION, "a string"))?;
    let capabilities = meta.text(meta::CLIENT_CAPABILITIES).filter(|raw| raw.starts_with('{'));
    let capabilities = capabilities.ok_or_else(|| wrong(meta::CLIENT_CAPABILITIES, "an object"))?;

    must_mirror(headers, &MCP_PROTOCOL_VERSION, "MCP-Protocol-Version", &asked)?;
    must_mirror(headers, &MCP_METHOD, "Mcp-Method", method)?;
    let name = name(method, params, headers)?;
    let Some(version) = MODERN.iter().find(|known| **known == asked) else {
        return Err(Refusal::UnsupportedVersion { requested: asked.into_owned() });
    };

    if methods::find(method).is_some_and(|known| known.removed) || methods::is_notification(method) {
        return Err(not_found(method));
    }
    let filter = match method {
        LISTEN => {
            let filter = params.members.text("notifications").filter(|raw| raw.starts_with('{'));
            Some(filter.ok_or_else(|| Refusal::invalid_params("`params.notifications` must be an object"))?)
        }
        _ => None,
    };

    let token = meta.text(meta::PROGRESS_TOKEN).filter(|raw| is_id(raw));
    Ok(Request {
        method,
        name,
        version,
        capabilities,
        log_level: meta.text(meta::LOG_LEVEL),
        progress_token: token.map(|raw| ProgressToken { raw, place: message.place_of(raw) }),
        filter,
        arguments: params.members.text("arguments"),
    })
}

/// Step 8: whether a modern client's request exists for a server of this era with these `capabilities` (§1.10, §5.2).
///
/// A modern server judges for itself what it has. A legacy one does not know what its modern clients were told, and
/// the official tests demand that both agree.
pub fn gate(method: &str, server: Era, capabilities: &str) -> Result<(), Refusal> {
    let removed = methods::find(method).is_some_and(|known| known.removed) || methods::is_notification(method);
    let missing = server == Era::Legacy
        // Legacy tasks are not offered, and the extension cannot be made of them.
        && (method.starts_with("tasks/") || !methods::declares(capabilities, methods::capability(method)));
    if removed || missing { Err(not_found(method)) } else { Ok(()) }
}

/// The HTTP status under which an error of the server goes to a modern client, as long as none was sent (§4.3).
///
/// 404 says that the *method* does not exist. A server that has it means something else by the same code, e.g. a tool.
pub fn status_of_error(error: i64, method: &str, capabilities: &str) -> StatusCode {
    const NOT_FOUND: i64 = code::METHOD_NOT_FOUND as i64;
    const RESERVED: [i64; 3] =
        [code::HEADER_MISMATCH as i64, code::MISSING_CAPABILITY as i64, code::UNSUPPORTED_VERSION as i64];
    let needed = methods::capability(method);
    let exists = methods::find(method).is_some() && !needed.is_empty() && methods::declares(capabilities, needed);
    match error {
        NOT_FOUND if !exists => StatusCode::NOT_FOUND,
        error if RESERVED.contains(&error) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

fn not_found(method: &str) -> Refusal {
    Refusal::MethodNotFound { era: Era::Modern, method: method.to_owned() }
}

/// Step 6: the header and the member of `params` that it mirrors are both there and equal, or neither is.
fn name<'a>(method: &str, params: &Params<'a>, headers: &HeaderMap) -> Result<Option<Cow<'a, str>>, Refusal> {
    let Some(member) = methods::find(method).and_then(|known| known.named_by) else { return Ok(None) };
    let mirrored = headers::single(headers, &MCP_NAME);
    let mirrored = mirrored.map_err(|flaw| Refusal::HeaderMismatch(format!("Mcp-Name {flaw}").into()))?;
    let named = params.members.string(member);
    match (mirrored, &named) {
        (None, None) if !params.members.text(member).is_some_and(|raw| raw.starts_with('"')) => Ok(None),
        (Some(value), Some(name)) => match param_headers::decode(value) {
            Err(undecodable) => Err(Refusal::HeaderMismatch(format!("Mcp-Name {undecodable}").into())),
            Ok(value) if value == *name => Ok(named),
            Ok(_) => Err(Refusal::HeaderMismatch(format!("Mcp-Name is not `params.{member}`").into())),
        },
        (None, _) => Err(Refusal::HeaderMismatch("Mcp-Name is missing".into())),
        (Some(_), None) => {
            Err(Refusal::HeaderMismatch(format!("Mcp-Name is there, but `params.{member}` is no string").into()))
        }
    }
}

/// Steps 4 and 5: the header is there, once, and says what the body says, to the letter.
fn must_mirror(headers: &HeaderMap, name: &HeaderName, shown: &str, body: &str) -> Result<(), Refusal> {
    let why = match headers::single(headers, name) {
        Ok(Some(value)) if value == body => return Ok(()),
        Ok(Some(_)) => format!("{shown} is not what the body says"),
        Ok(None) => format!("{shown} is missing"),
        Err(flaw) => format!("{shown} {flaw}"),
    };
    Err(Refusal::HeaderMismatch(why.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28""#;
    const CAPABLE: &str = r#""io.modelcontextprotocol/clientCapabilities":{"sampling":{}}"#;
    const V: (&str, &str) = ("MCP-Protocol-Version", "2026-07-28");

    fn request(method: &str, meta: &str, rest: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":"r1","method":"{method}","params":{{"_meta":{meta}{rest}}}}}"#)
    }

    fn sound(method: &str, rest: &str) -> String {
        request(method, &format!("{{{VERSION},{CAPABLE}}}"), rest)
    }

    /// `None` for a sound request, else status, code and message; what is refused is refused under its id.
    fn refused(body: &str, fields: &[(&str, &str)]) -> Option<(u16, i32, String)> {
        let (message, headers) = (Message::from_client(body.as_bytes().to_vec()).unwrap(), headers::of(fields));
        let params = Params::of(&message).unwrap();
        let refusal = read(&message, &params, &headers).err()?;
        if message.kind() == Kind::Request {
            let answer = refusal.response_to(&message);
            assert!(answer.body().starts_with(br#"{"jsonrpc":"2.0","id":"r1","error":"#), "{answer:?}");
        }
        Some((refusal.status().as_u16(), refusal.code().unwrap(), refusal.to_string()))
    }

    #[test]
    fn the_first_failure_on_the_ladder_answers() {
        let list = sound("tools/list", "");
        let odd = |version: &str| {
            request("tools/list", &format!(r#"{{"io.modelcontextprotocol/protocolVersion":{version},{CAPABLE}}}"#), "")
        };
        let m = |method: &'static str| ("Mcp-Method", method);
        let l = m("tools/list");
        for (body, fields, expected) in [
            (&*list, &[V, l][..], None),
            (&list, &[("MCP-PROTOCOL-VERSION", " \t2026-07-28\t "), ("mcp-method", " tools/list ")], None),
            // 1
            (r#"{"jsonrpc":"2.0","method":"notifications/x"}"#, &[V], Some((400, -32600, "only a request"))),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, &[V], Some((400, -32600, "only a request"))),
            // 3
            (
                r#"{"jsonrpc":"2.0","id":"r1","method":"tools/list"}"#,
                &[V, l],
                Some((400, -32602, "`params._meta` must be")),
            ),
            (&request("tools/list", "7", ""), &[V, l], Some((400, -32602, "`params._meta` must be"))),
            (
                &request("tools/list", "{}", ""),
                &[V, l],
                Some((400, -32602, "needs `io.modelcontextprotocol/protocolV")),
            ),
            (&request("tools/list", "{}", ""), &[], Some((400, -32602, "needs `io.modelcontextprotocol/protocolV"))),
            (&odd("7"), &[V, l], Some((400, -32602, "protocolVersion`: a string"))),
            (&odd("null"), &[V, l], Some((400, -32602, "protocolVersion`: a string"))),
            (
                &request("tools/list", &format!("{{{VERSION}}}"), ""),
                &[V, l],
                Some((400, -32602, "clientCapabilities`")),
            ),
            (
                &request(
                    "tools/list",
                    &format!(r#"{{{VERSION},"io.modelcontextprotocol/clientCapabilities":[]}}"#),
                    "",
                ),
                &[V, l],
                Some((400, -32602, "clientCapabilities`: an object")),
            ),
            (&request("initialize", &format!("{{{VERSION}}}"), ""), &[], Some((400, -32602, "clientCapabilities`"))),
            // 4
            (&list, &[l], Some((400, -32020, "MCP-Protocol-Version is missing"))),
            (&list, &[V, V, l], Some((400, -32020, "MCP-Protocol-Version is repeated"))),
            (&list, &[("MCP-Protocol-Version", "2025-11-25"), l], Some((400, -32020, "is not what the body says"))),
            (&list, &[("MCP-Protocol-Version", "é"), l], Some((400, -32020, "is not plain ASCII"))),
            (&odd("\"v999.0.0\""), &[V, l], Some((400, -32020, "MCP-Protocol-Version is not"))),
            // 5
            (&list, &[V], Some((400, -32020, "Mcp-Method is missing"))),
            (&list, &[V, l, l], Some((400, -32020, "Mcp-Method is repeated"))),
            (&list, &[V, m("TOOLS/LIST")], Some((400, -32020, "Mcp-Method is not"))),
            (&list, &[V, m("tools/call")], Some((400, -32020, "Mcp-Method is not"))),
            // 7, after 4 to 6
            (&odd("\"v999.0.0\""), &[("MCP-Protocol-Version", "v999.0.0"), l], Some((400, -32022, "unsupported"))),
            (&odd("\"2025-11-25\""), &[("MCP-Protocol-Version", "2025-11-25"), l], Some((400, -32022, "unsupported"))),
            (&odd("\"v999.0.0\""), &[("MCP-Protocol-Version", "v999.0.0")], Some((400, -32020, "Mcp-Method"))),
            // 8
            (&sound("initialize", ""), &[V, m("initialize")], Some((404, -32601, "method not found: initialize"))),
            (&sound("ping", ""), &[V, m("ping")], Some((404, -32601, "method not found: ping"))),
            (&sound("logging/setLevel", ""), &[V, m("logging/setLevel")], Some((404, -32601, "method not found"))),
            (&sound("resources/subscribe", ""), &[V, m("resources/subscribe")], Some((404, -32601, "method not"))),
            (&sound("resources/unsubscribe", ""), &[V, m("resources/unsubscribe")], Some((404, -32601, "method not"))),
            (
                &sound("notifications/cancelled", ""),
                &[V, m("notifications/cancelled")],
                Some((404, -32601, "method not")),
            ),
            (&sound("vendor/thing", r#","name":"a""#), &[V, m("vendor/thing"), ("Mcp-Name", "b")], None),
            // 9
            (
                &sound("subscriptions/listen", ""),
                &[V, m("subscriptions/listen")],
                Some((400, -32602, "`params.notifications`")),
            ),
            (
                &sound("subscriptions/listen", r#","notifications":[]"#),
                &[V, m("subscriptions/listen")],
                Some((400, -32602, "`params.notifications`")),
            ),
            (&sound("subscriptions/listen", r#","notifications":{}"#), &[V, m("subscriptions/listen")], None),
        ] {
            let got = refused(body, fields);
            match (&got, expected) {
                (None, None) => {}
                (Some((status, code, why)), Some((expected_status, expected_code, part))) => {
                    assert_eq!((*status, *code), (expected_status, expected_code), "{body} {fields:?}: {why}");
                    assert!(why.contains(part), "{body} {fields:?}: {why}");
                }
                _ => panic!("{body} {fields:?}: {got:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn an_unsupported_version_is_named_back() {
        let meta = format!(r#"{{"io.modelcontextprotocol/protocolVersion":"v999.0.0",{CAPABLE}}}"#);
        let message = Message::from_client(request("tools/list", &meta, "").into_bytes()).unwrap();
        let headers = headers::of(&[("MCP-Protocol-Version", "v999.0.0"), ("Mcp-Method", "tools/list")]);
        let refusal = read(&message, &Params::of(&message).unwrap(), &headers).unwrap_err();
        assert_eq!(
            refusal.response_to(&message).body(),
            r#"{"jsonrpc":"2.0","id":"r1","error":{"code":-32022,"message":"unsupported protocol version","data":{"supported":["2026-07-28"],"requested":"v999.0.0"}}}"#
        );
    }

    #[test]
    fn mcp_name_mirrors_what_a_request_is_about() {
        let n = |name: &'static str| ("Mcp-Name", name);
        for (method, rest, fields, expected) in [
            ("tools/call", r#","name":"add""#, &[n("add")][..], Ok(Some("add"))),
            ("tools/call", r#","name":"add""#, &[n(" \tadd ")], Ok(Some("add"))),
            ("tools/call", r#","name":"a\u0064d""#, &[n("add")], Ok(Some("add"))),
            ("tools/call", r#","name":"né""#, &[n("=?base64?bsOp?=")], Ok(Some("né"))),
            ("tools/call", r#","name":"""#, &[n("")], Ok(Some(""))),
            ("prompts/get", r#","name":"p""#, &[n("p")], Ok(Some("p"))),
            ("resources/read", r#","uri":"file:///a","name":"x""#, &[n("file:///a")], Ok(Some("file:///a"))),
            ("tasks/get", r#","taskId":"t""#, &[n("t")], Ok(Some("t"))),
            ("tasks/update", r#","taskId":"t""#, &[n("t")], Ok(Some("t"))),
            ("tasks/cancel", r#","taskId":"t""#, &[n("t")], Ok(Some("t"))),
            ("tools/call", "", &[], Ok(None)),
            ("tools/call", r#","name":7"#, &[], Ok(None)),
            ("tools/list", "", &[n("anything"), n("twice")], Ok(None)),
            ("tools/call", r#","name":"add""#, &[], Err("Mcp-Name is missing")),
            ("tools/call", r#","name":"\ud800""#, &[], Err("Mcp-Name is missing")),
            ("tools/call", r#","name":"add""#, &[n("Add")], Err("Mcp-Name is not `params.name`")),
            ("tools/call", r#","name":"add""#, &[n("add"), n("add")], Err("Mcp-Name is repeated")),
            ("tools/call", r#","name":"né""#, &[n("né")], Err("Mcp-Name is not plain ASCII")),
            ("tools/call", r#","name":"né""#, &[n("=?base64?bsOp")], Err("Mcp-Name is not `params.name`")),
            ("tools/call", r#","name":"né""#, &[n("=?base64?bsO?=")], Err("Mcp-Name is not valid base64")),
            ("tools/call", "", &[n("add")], Err("Mcp-Name is there, but `params.name` is no string")),
            ("tools/call", r#","name":7"#, &[n("7")], Err("Mcp-Name is there, but")),
            ("tools/call", r#","name":null"#, &[n("null")], Err("Mcp-Name is there, but")),
            ("resources/read", r#","uri":"file:///a""#, &[n("file:///b")], Err("Mcp-Name is not `params.uri`")),
        ] {
            let message = Message::from_client(sound(method, rest).into_bytes()).unwrap();
            let params = Params::of(&message).unwrap();
            let headers = headers::of(&[&[V, ("Mcp-Method", method)], fields].concat());
            match (read(&message, &params, &headers), expected) {
                (Ok(request), Ok(name)) => assert_eq!(request.name.as_deref(), name, "{method} {rest}"),
                (Err(Refusal::HeaderMismatch(why)), Err(part)) => {
                    assert!(why.contains(part), "{rest} {fields:?}: {why}");
                }
                (got, _) => panic!("{method} {rest} {fields:?}: {got:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn a_sound_request_is_read_once() {
        let meta =
            format!(r#"{{{VERSION},"progressToken": "t\n1" ,{CAPABLE},"io.modelcontextprotocol/logLevel":"info"}}"#);
        let body = request("tools/call", &meta, r#","name":"add","arguments":{"a":1}"#);
        let message = Message::from_client(body.into_bytes()).unwrap();
        let headers = headers::of(&[V, ("Mcp-Method", "tools/call"), ("Mcp-Name", "add")]);
        let request = read(&message, &Params::of(&message).unwrap(), &headers).unwrap();
        assert_eq!((request.method, request.version), ("tools/call", "2026-07-28"));
        assert_eq!(request.capabilities, r#"{"sampling":{}}"#);
        assert_eq!(request.log_level, Some("\"info\""));
        assert_eq!(request.arguments, Some(r#"{"a":1}"#));
        let token = request.progress_token.unwrap();
        assert_eq!(token.raw, r#""t\n1""#);
        assert_eq!(&message.text()[token.place], token.raw.as_bytes());

        for (raw, is_token) in
            [("0", true), ("-1.5", true), ("\"\"", true), ("null", false), ("{}", false), ("true", false)]
        {
            let meta = format!(r#"{{{VERSION},{CAPABLE},"progressToken":{raw}}}"#);
            let body = self::request("subscriptions/listen", &meta, r#","notifications":{"toolsListChanged":true}"#);
            let message = Message::from_client(body.into_bytes()).unwrap();
            let headers = headers::of(&[V, ("Mcp-Method", "subscriptions/listen")]);
            let request = read(&message, &Params::of(&message).unwrap(), &headers).unwrap();
            assert_eq!(request.progress_token.is_some(), is_token, "{raw}");
            assert_eq!(request.filter, Some(r#"{"toolsListChanged":true}"#));
        }
    }

    #[test]
    fn a_method_exists_as_the_matrix_says() {
        use Era::{Legacy, Modern};
        let all = r#"{"tools":{},"prompts":{},"resources":{},"completions":{},"logging":{},"tasks":{}}"#;
        for (method, server, declared, exists) in [
            ("initialize", Modern, all, false),
            ("ping", Modern, all, false),
            ("logging/setLevel", Modern, all, false),
            ("resources/subscribe", Modern, all, false),
            ("resources/unsubscribe", Modern, all, false),
            ("server/discover", Modern, "{}", true),
            ("subscriptions/listen", Modern, "{}", true),
            ("tools/list", Modern, "{}", true),
            ("tasks/get", Modern, "{}", true),
            ("tasks/result", Modern, "{}", true),
            ("tasks/list", Modern, "{}", true),
            ("tasks/update", Modern, "{}", true),
            ("vendor/thing", Modern, "{}", true),
            ("notifications/cancelled", Modern, all, false),
            ("initialize", Legacy, all, false),
            ("ping", Legacy, all, false),
            ("logging/setLevel", Legacy, all, false),
            ("resources/subscribe", Legacy, all, false),
            ("resources/unsubscribe", Legacy, all, false),
            ("server/discover", Legacy, "{}", true),
            ("subscriptions/listen", Legacy, "{}", true),
            ("tools/list", Legacy, all, true),
            ("tools/call", Legacy, "{}", false),
            ("tools/vendor", Legacy, "{}", false),
            ("prompts/list", Legacy, r#"{"tools":{}}"#, false),
            ("prompts/get", Legacy, all, true),
            ("resources/list", Legacy, "{}", false),
            ("resources/templates/list", Legacy, "{}", false),
            ("resources/read", Legacy, all, true),
            ("completion/complete", Legacy, "{}", false),
            ("completion/complete", Legacy, all, true),
            ("tasks/get", Legacy, all, false),
            ("tasks/result", Legacy, all, false),
            ("tasks/cancel", Legacy, all, false),
            ("tasks/list", Legacy, all, false),
            ("tasks/update", Legacy, all, false),
            ("vendor/thing", Legacy, "{}", true),
            ("notifications/progress", Legacy, all, false),
        ] {
            let expected = if exists { Ok(()) } else { Err(not_found(method)) };
            assert_eq!(gate(method, server, declared), expected, "{method} on a {server} server");
        }
    }

    #[test]
    fn an_error_of_the_server_goes_out_under_the_status_it_means() {
        let tools = r#"{"tools":{}}"#;
        for (error, method, status) in [
            (-32601, "tools/call", 200),
            (-32601, "prompts/get", 404),
            (-32601, "vendor/thing", 404),
            (-32601, "tools/vendor", 404),
            (-32601, "subscriptions/listen", 404),
            (-32602, "tools/call", 200),
            (-32602, "vendor/thing", 200),
            (-32020, "tools/call", 400),
            (-32021, "tools/call", 400),
            (-32022, "vendor/thing", 400),
            (-32023, "tools/call", 200),
            (-32603, "prompts/get", 200),
            (i64::MIN, "tools/call", 200),
        ] {
            assert_eq!(status_of_error(error, method, tools).as_u16(), status, "{error} on {method}");
        }
    }
}
