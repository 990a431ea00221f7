//! Everything that ferry answers by itself instead of a server, in one table (`protocol.md` §8).

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::mcp::envelope::{self, Invalid, Kind, Message, code};
use crate::mcp::members::quote;
use crate::mcp::version::{Era, LATEST_LEGACY, LEGACY, MODERN};

/// ferry's own conditions, outside of every range that JSON-RPC and MCP reserve.
pub mod own {
    /// The server behind ferry is not there; nothing was sent to it.
    pub const UPSTREAM_UNAVAILABLE: i32 = -31001;
    /// The server ended while it had the request.
    pub const UPSTREAM_EXITED: i32 = -31002;
    /// The server did not answer in time.
    pub const UPSTREAM_TIMEOUT: i32 = -31003;
    /// A bound is reached; nothing was sent.
    pub const OVERLOADED: i32 = -31004;
    /// The server's answer is over the limit.
    pub const RESPONSE_TOO_LARGE: i32 = -31005;
    /// The server's answer is none.
    pub const UPSTREAM_PROTOCOL: i32 = -31006;
    /// The client took the request back.
    pub const CANCELLED: i32 = -31007;
}

/// What a client is told to wait when nothing says how long the trouble lasts.
const SOON: Duration = Duration::from_secs(5);

/// An answer of ferry's own. Its `Display` is the message of the JSON-RPC error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No server is configured at this path.
    #[error("no MCP server here; check the path against ferry's configuration")]
    UnknownPath,
    /// `Host` is not one of ours: a name that was made to point here.
    #[error("host not allowed; add it to `allowed_hosts`")]
    ForbiddenHost,
    /// `Origin` is not on the list: a web page that must not talk to us.
    #[error("origin not allowed; add it to `allowed_origins`")]
    ForbiddenOrigin,
    /// No assertion or token, or one that is not valid (any more, or here).
    #[error("authentication required")]
    Unauthenticated,
    /// An assertion is there, but the keys to check it are not to be had.
    #[error("the assertion cannot be checked now")]
    Unverifiable {
        /// When to try again.
        retry_after: Duration,
    },
    /// The caller is known, and not allowed here.
    #[error("not allowed on this endpoint")]
    NotAllowed,
    /// The HTTP method is not served here.
    #[error("HTTP method not served")]
    MethodNotServed {
        /// Those that are.
        allow: &'static str,
    },
    /// `Accept` excludes everything that could be answered.
    #[error("`Accept` must allow {needed}")]
    NotAcceptable {
        /// What it must allow.
        needed: &'static str,
    },
    /// `Content-Type` is not JSON.
    #[error("`Content-Type` must be application/json")]
    UnsupportedMediaType,
    /// The body is over the limit.
    #[error("the body is over {limit} bytes")]
    BodyTooLarge {
        /// `max_body_bytes`.
        limit: usize,
    },
    /// The header section is over the limit.
    #[error("the header section is too large")]
    HeadersTooLarge,
    /// The body is no JSON.
    #[error("{0}")]
    ParseError(Cow<'static, str>),
    /// JSON, but no request that can be served; says why.
    #[error("{0}")]
    InvalidRequest(Cow<'static, str>),
    /// A legacy request without a session.
    #[error("Mcp-Session-Id required")]
    SessionRequired,
    /// A session id that is unknown, of another identity or endpoint, or ended. One text for all: no oracle.
    #[error("Session not found")]
    SessionNotFound,
    /// A legacy request whose `MCP-Protocol-Version` is none of [`LEGACY`].
    #[error("unsupported MCP-Protocol-Version; supported in a session: {}", LEGACY.join(", "))]
    UnsupportedLegacyVersion,
    /// A legacy client on an endpoint with `serve = "modern"`.
    #[error("this endpoint serves protocol version {} only", MODERN.join(", "))]
    LegacyNotServed {
        /// The version it asked for, where it did.
        requested: Option<String>,
    },
    /// A modern client on an endpoint with `serve = "legacy"`. Not -32022, so that dual-era clients fall back.
    #[error("this endpoint serves protocol versions up to {LATEST_LEGACY}; open a session with `initialize`")]
    ModernNotServed,
    /// Invalid parameters; says which.
    #[error("{why}")]
    InvalidParams {
        /// Modern clients get it as 400, legacy ones in-band.
        era: Era,
        /// What is wrong with them.
        why: Cow<'static, str>,
    },
    /// A mirrored header is missing, repeated, undecodable, or says something else than the body.
    #[error("header mismatch: {0}")]
    HeaderMismatch(Cow<'static, str>),
    /// A modern version that ferry does not speak.
    #[error("unsupported protocol version")]
    UnsupportedVersion {
        /// The version asked for.
        requested: String,
    },
    /// The method does not exist here.
    #[error("method not found: {method}")]
    MethodNotFound {
        /// Modern clients get it as 404, legacy ones in-band.
        era: Era,
        /// The method asked for.
        method: String,
    },
    /// The server needs something that the client did not declare.
    #[error("the request needs client capabilities that were not declared")]
    MissingCapability {
        /// The missing capabilities, as a JSON object.
        required: String,
    },
    /// A `requestState` that is not valid (any more, or here). One text for all: no oracle.
    #[error("Invalid or expired requestState")]
    InvalidRequestState,
    /// The filters of the endpoint exclude this tool. As for a tool that does not exist.
    #[error("Unknown tool: {name}")]
    UnknownTool {
        /// The tool asked for.
        name: String,
    },
    /// A legacy task that does not exist, or is not the caller's (§3.7).
    #[error("task not found")]
    TaskNotFound,
    /// Something ferry does for the server did not work out; says what.
    #[error("{0}")]
    Internal(Cow<'static, str>),
    /// The client refused what the server wanted of it.
    #[error("the client refused what the server asked of it")]
    ClientRefused {
        /// Its error, as JSON.
        error: String,
    },
    /// A bound is reached: sessions, exchanges, streams, bytes, queue.
    #[error("overloaded: {what}; retry later")]
    Overloaded {
        /// Which bound, e.g. `too many sessions`.
        what: &'static str,
    },
    /// This identity asks too often.
    #[error("too many requests; retry later")]
    RateLimited {
        /// When to try again.
        retry_after: Duration,
    },
    /// The server is still starting, in back-off, or failed to start. Nothing of its stderr is told.
    #[error("upstream server unavailable; retry later")]
    UpstreamUnavailable {
        /// When to try again.
        retry_after: Duration,
    },
    /// The server exited with the request in flight: it may have run.
    #[error("upstream server exited")]
    UpstreamExited,
    /// The server did not answer in time; it was told so.
    #[error("upstream server timed out")]
    UpstreamTimeout,
    /// The server's answer is over `max_message_bytes`, or no longer kept.
    #[error("upstream response too large")]
    ResponseTooLarge,
    /// The server's answer has neither or both of result and error.
    #[error("upstream response is not valid JSON-RPC")]
    UpstreamProtocol,
    /// The client cancelled; a legacy POST must end somehow.
    #[error("request cancelled")]
    Cancelled,
    /// ferry is shutting down.
    #[error("ferry is shutting down")]
    ShuttingDown {
        /// Whether the request was sent to the server: then it may have run.
        sent: bool,
    },
}

/// `data.ferry` of an error: what happened, in one word, and whether to send the request again.
type Reason = (&'static str, bool);

impl Refusal {
    /// The table of §8: HTTP status, JSON-RPC code, `data.ferry`.
    ///
    /// 503 only where nothing was written to the server. Once it was, failures are 200: HTTP middleware retries 502,
    /// 503 and 504, and a tool call must not run twice.
    fn row(&self) -> (u16, Option<i32>, Option<Reason>) {
        use code::{
            HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, MISSING_CAPABILITY,
            PARSE_ERROR, UNSUPPORTED_VERSION,
        };
        let unavailable = (Some(own::UPSTREAM_UNAVAILABLE), Some(("upstream_unavailable", true)));
        let exited = (Some(own::UPSTREAM_EXITED), Some(("upstream_exited", false)));
        let overloaded = (Some(own::OVERLOADED), Some(("overloaded", true)));
        let plain = |code| (Some(code), None);
        let (status, (code, reason)) = match self {
            Self::UnknownPath => (404, (None, None)),
            Self::ForbiddenHost | Self::ForbiddenOrigin => (403, plain(INVALID_REQUEST)),
            Self::Unauthenticated => (401, (None, None)),
            Self::Unverifiable { .. } => (503, (None, None)),
            Self::NotAllowed => (403, (None, None)),
            Self::MethodNotServed { .. } => (405, (None, None)),
            Self::NotAcceptable { .. } => (406, plain(INVALID_REQUEST)),
            Self::UnsupportedMediaType => (415, plain(INVALID_REQUEST)),
            Self::BodyTooLarge { .. } => (413, plain(INVALID_REQUEST)),
            Self::HeadersTooLarge => (431, (None, None)),
            Self::ParseError(_) => (400, plain(PARSE_ERROR)),
            Self::InvalidRequest(_)
            | Self::SessionRequired
            | Self::UnsupportedLegacyVersion
            | Self::ModernNotServed => (400, plain(INVALID_REQUEST)),
            Self::SessionNotFound => (404, plain(INVALID_REQUEST)),
            Self::LegacyNotServed { .. } | Self::UnsupportedVersion { .. } => (400, plain(UNSUPPORTED_VERSION)),
            Self::InvalidParams { era: Era::Modern, .. } => (400, plain(INVALID_PARAMS)),
            Self::HeaderMismatch(_) => (400, plain(HEADER_MISMATCH)),
            Self::MethodNotFound { era: Era::Modern, .. } => (404, plain(METHOD_NOT_FOUND)),
            Self::MethodNotFound { era: Era::Legacy, .. } => (200, plain(METHOD_NOT_FOUND)),
            Self::MissingCapability { .. } => (400, plain(MISSING_CAPABILITY)),
            Self::InvalidRequestState => (400, (Some(INVALID_PARAMS), Some(("invalid_request_state", false)))),
            Self::InvalidParams { era: Era::Legacy, .. } | Self::UnknownTool { .. } | Self::TaskNotFound => {
                (200, plain(INVALID_PARAMS))
            }
            Self::Internal(_) | Self::ClientRefused { .. } => (200, plain(INTERNAL_ERROR)),
            Self::Overloaded { .. } => (503, overloaded),
            Self::RateLimited { .. } => (429, overloaded),
            Self::UpstreamUnavailable { .. } | Self::ShuttingDown { sent: false } => (503, unavailable),
            Self::UpstreamExited | Self::ShuttingDown { sent: true } => (200, exited),
            Self::UpstreamTimeout => (200, (Some(own::UPSTREAM_TIMEOUT), Some(("upstream_timeout", false)))),
            Self::ResponseTooLarge => (200, (Some(own::RESPONSE_TOO_LARGE), Some(("response_too_large", false)))),
            Self::UpstreamProtocol => (200, (Some(own::UPSTREAM_PROTOCOL), Some(("upstream_protocol", false)))),
            Self::Cancelled => (200, (Some(own::CANCELLED), Some(("cancelled", false)))),
        };
        (status, code, reason)
    }

    /// Its HTTP status, as long as none has been sent.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.row().0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Its JSON-RPC code, where it is a JSON-RPC error.
    pub fn code(&self) -> Option<i32> {
        self.row().1
    }

    /// `data` of the error, as JSON.
    /// Which of ferry's own conditions it is, in one word.
    pub fn reason(&self) -> Option<&'static str> {
        self.row().2.map(|(reason, _)| reason)
    }

    fn data(&self) -> Option<String> {
        let supported = || serde_json::json!(MODERN);
        match self {
            Self::UnsupportedVersion { requested } => {
                Some(format!("{{\"supported\":{},\"requested\":{}}}", supported(), quote(requested)))
            }
            Self::LegacyNotServed { requested } => {
                let requested = requested.as_ref().map(|version| format!(",\"requested\":{}", quote(version)));
                Some(format!("{{\"supported\":{}{}}}", supported(), requested.unwrap_or_default()))
            }
            Self::ClientRefused { error } => Some(error.clone()),
            Self::MissingCapability { required } => Some(format!("{{\"requiredCapabilities\":{required}}}")),
            _ => self.row().2.map(|(reason, retryable)| {
                format!("{{\"ferry\":{{\"reason\":\"{reason}\",\"retryable\":{retryable}}}}}")
            }),
        }
    }

    /// Itself as a JSON-RPC error in-band: the final event of a stream, or a message under 200.
    ///
    /// `id` is the request's as it was written; without one there is none in it, since the MCP schemas refuse `null`.
    pub fn in_band(&self, id: Option<&[u8]>) -> String {
        let id = id.and_then(|id| std::str::from_utf8(id).ok());
        // What has no code is about HTTP alone; in a stream that is open already, it can only be named.
        let code = self.code().unwrap_or(code::INVALID_REQUEST);
        envelope::error(id, code, &self.to_string(), self.data().as_deref())
    }

    /// The body under its own status: JSON, but a plain line for an unknown path, which must not look like JSON-RPC.
    pub fn body(&self, id: Option<&[u8]>) -> Option<String> {
        match self {
            Self::UnknownPath => Some(format!("{self}\n")),
            _ => self.code().map(|_| self.in_band(id)),
        }
    }

    /// The whole HTTP response to a request.
    pub fn response(&self, id: Option<&[u8]>) -> Response<Bytes> {
        let mut response = self.bare();
        if let Some(body) = self.body(id) {
            let media_type = if self.code().is_some() { "application/json" } else { "text/plain; charset=utf-8" };
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
            *response.body_mut() = Bytes::from(body);
        }
        response
    }

    /// The HTTP response to `message`: an error with its id to a request; nobody reads the body of anything else.
    pub fn response_to(&self, message: &Message) -> Response<Bytes> {
        match message.kind() {
            Kind::Request => self.response(message.id().as_deref()),
            Kind::Notification | Kind::Response => self.bare(),
        }
    }

    /// Status and header fields without a body.
    pub fn bare(&self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = self.status();
        self.put_headers(response.headers_mut());
        response
    }

    fn put_headers(&self, headers: &mut HeaderMap) {
        match self {
            Self::Unauthenticated => {
                // No `resource_metadata`: Access is the OAuth front door and puts its own challenge in place.
                let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
                headers.insert(WWW_AUTHENTICATE, challenge);
            }
            Self::MethodNotServed { allow } => {
                headers.insert(ALLOW, HeaderValue::from_static(allow));
            }
            Self::BodyTooLarge { .. } => {
                // The rest of the body is not read, so nothing can follow it on this connection.
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Self::Unverifiable { retry_after }
            | Self::RateLimited { retry_after }
            | Self::UpstreamUnavailable { retry_after } => {
                headers.insert(RETRY_AFTER, seconds(*retry_after));
            }
            Self::Overloaded { .. } | Self::ShuttingDown { sent: false } => {
                headers.insert(RETRY_AFTER, seconds(SOON));
            }
            _ => {}
        }
    }

    /// 400/-32602 to a modern client.
    pub(super) fn invalid_params(why: impl Into<Cow<'static, str>>) -> Self {
        Self::InvalidParams { era: Era::Modern, why: why.into() }
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        match invalid.code {
            code::PARSE_ERROR => Self::ParseError(invalid.why.into()),
            _ => Self::InvalidRequest(invalid.why.into()),
        }
    }
}

/// Whole seconds, rounded up: a client that comes back too early is refused again. Never 0, which invites a loop.
fn seconds(wait: Duration) -> HeaderValue {
    let up = u64::from(wait.subsec_nanos() > 0);
    HeaderValue::from(wait.as_secs().saturating_add(up).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(2500);

    fn fields(response: &Response<Bytes>) -> String {
        let lines = response.headers().iter().filter(|(name, _)| **name != CONTENT_TYPE);
        lines.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect::<Vec<_>>().join("\n")
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table, a row for each condition")]
    fn each_condition_answers_as_the_table_says() {
        use Refusal::*;
        let modern = |why: &'static str| InvalidParams { era: Era::Modern, why: why.into() };
        let table: Vec<(Refusal, u16, &str, &str)> = vec![
            (ForbiddenHost, 403, r#"-32600,"message":"host not allowed; add it to `allowed_hosts`""#, ""),
            (ForbiddenOrigin, 403, r#"-32600,"message":"origin not allowed; add it to `allowed_origins`""#, ""),
            (Unauthenticated, 401, "", r#"www-authenticate: Bearer error="invalid_token""#),
            (Unverifiable { retry_after: WAIT }, 503, "", "retry-after: 3"),
            (NotAllowed, 403, "", ""),
            (MethodNotServed { allow: "POST" }, 405, "", "allow: POST"),
            (
                NotAcceptable { needed: "text/event-stream" },
                406,
                r#"-32600,"message":"`Accept` must allow text/event-stream""#,
                "",
            ),
            (UnsupportedMediaType, 415, r#"-32600,"message":"`Content-Type` must be application/json""#, ""),
            (BodyTooLarge { limit: 9 }, 413, r#"-32600,"message":"the body is over 9 bytes""#, "connection: close"),
            (HeadersTooLarge, 431, "", ""),
            (ParseError("invalid JSON".into()), 400, r#"-32700,"message":"invalid JSON""#, ""),
            (InvalidRequest("no".into()), 400, r#"-32600,"message":"no""#, ""),
            (SessionRequired, 400, r#"-32600,"message":"Mcp-Session-Id required""#, ""),
            (SessionNotFound, 404, r#"-32600,"message":"Session not found""#, ""),
            (
                UnsupportedLegacyVersion,
                400,
                r#"-32600,"message":"unsupported MCP-Protocol-Version; supported in a session: 2024-11-05, 2025-03-26, 2025-06-18, 2025-11-25""#,
                "",
            ),
            (
                LegacyNotServed { requested: Some("2025-\"06".into()) },
                400,
                r#"-32022,"message":"this endpoint serves protocol version 2026-07-28 only","data":{"supported":["2026-07-28"],"requested":"2025-\"06"}"#,
                "",
            ),
            (
                LegacyNotServed { requested: None },
                400,
                r#"-32022,"message":"this endpoint serves protocol version 2026-07-28 only","data":{"supported":["2026-07-28"]}"#,
                "",
            ),
            (
                ModernNotServed,
                400,
                r#"-32600,"message":"this endpoint serves protocol versions up to 2025-11-25; open a session with `initialize`""#,
                "",
            ),
            (modern("bad"), 400, r#"-32602,"message":"bad""#, ""),
            (InvalidParams { era: Era::Legacy, why: "bad".into() }, 200, r#"-32602,"message":"bad""#, ""),
            (HeaderMismatch("odd".into()), 400, r#"-32020,"message":"header mismatch: odd""#, ""),
            (
                UnsupportedVersion { requested: "v999.0.0".into() },
                400,
                r#"-32022,"message":"unsupported protocol version","data":{"supported":["2026-07-28"],"requested":"v999.0.0"}"#,
                "",
            ),
            (
                MethodNotFound { era: Era::Modern, method: "ping".into() },
                404,
                r#"-32601,"message":"method not found: ping""#,
                "",
            ),
            (
                MethodNotFound { era: Era::Legacy, method: "ping".into() },
                200,
                r#"-32601,"message":"method not found: ping""#,
                "",
            ),
            (
                MissingCapability { required: r#"{"sampling":{}}"#.into() },
                400,
                r#"-32021,"message":"the request needs client capabilities that were not declared","data":{"requiredCapabilities":{"sampling":{}}}"#,
                "",
            ),
            (
                InvalidRequestState,
                400,
                r#"-32602,"message":"Invalid or expired requestState","data":{"ferry":{"reason":"invalid_request_state","retryable":false}}"#,
                "",
            ),
            (UnknownTool { name: "a\"b".into() }, 200, r#"-32602,"message":"Unknown tool: a\"b""#, ""),
            (TaskNotFound, 200, r#"-32602,"message":"task not found""#, ""),
            (Internal("not honoured".into()), 200, r#"-32603,"message":"not honoured""#, ""),
            (
                Overloaded { what: "too many sessions" },
                503,
                r#"-31004,"message":"overloaded: too many sessions; retry later","data":{"ferry":{"reason":"overloaded","retryable":true}}"#,
                "retry-after: 5",
            ),
            (
                RateLimited { retry_after: Duration::ZERO },
                429,
                r#"-31004,"message":"too many requests; retry later","data":{"ferry":{"reason":"overloaded","retryable":true}}"#,
                "retry-after: 1",
            ),
            (
                UpstreamUnavailable { retry_after: WAIT },
                503,
                r#"-31001,"message":"upstream server unavailable; retry later","data":{"ferry":{"reason":"upstream_unavailable","retryable":true}}"#,
                "retry-after: 3",
            ),
            (
                UpstreamExited,
                200,
                r#"-31002,"message":"upstream server exited","data":{"ferry":{"reason":"upstream_exited","retryable":false}}"#,
                "",
            ),
            (
                UpstreamTimeout,
                200,
                r#"-31003,"message":"upstream server timed out","data":{"ferry":{"reason":"upstream_timeout","retryable":false}}"#,
                "",
            ),
            (
                ResponseTooLarge,
                200,
                r#"-31005,"message":"upstream response too large","data":{"ferry":{"reason":"response_too_large","retryable":false}}"#,
                "",
            ),
            (
                UpstreamProtocol,
                200,
                r#"-31006,"message":"upstream response is not valid JSON-RPC","data":{"ferry":{"reason":"upstream_protocol","retryable":false}}"#,
                "",
            ),
            (
                Cancelled,
                200,
                r#"-31007,"message":"request cancelled","data":{"ferry":{"reason":"cancelled","retryable":false}}"#,
                "",
            ),
            (
                ShuttingDown { sent: false },
                503,
                r#"-31001,"message":"ferry is shutting down","data":{"ferry":{"reason":"upstream_unavailable","retryable":true}}"#,
                "retry-after: 5",
            ),
            (
                ShuttingDown { sent: true },
                200,
                r#"-31002,"message":"ferry is shutting down","data":{"ferry":{"reason":"upstream_exited","retryable":false}}"#,
                "",
            ),
        ];
        for (refusal, status, error, headers) in table {
            let response = refusal.response(Some(b"7"));
            assert_eq!(response.status().as_u16(), status, "{refusal:?}");
            assert_eq!(fields(&response), headers, "{refusal:?}");
            assert_eq!(response.headers().contains_key(CONTENT_TYPE), !error.is_empty(), "{refusal:?}");
            if error.is_empty() {
                assert!(response.body().is_empty(), "{refusal:?}");
                continue;
            }
            assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
            let whole = format!(r#"{{"jsonrpc":"2.0","id":7,"error":{{"code":{error}}}}}"#);
            assert_eq!(response.body(), &whole, "{refusal:?}");
            assert_eq!(refusal.in_band(Some(b"7")), whole, "{refusal:?}");
            let nameless = format!(r#"{{"jsonrpc":"2.0","error":{{"code":{error}}}}}"#);
            assert_eq!(refusal.body(None), Some(nameless), "{refusal:?}");
        }
    }

    #[test]
    fn an_unknown_path_is_a_line_of_text() {
        let response = Refusal::UnknownPath.response(Some(b"7"));
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(response.body(), "no MCP server here; check the path against ferry's configuration\n");
    }

    #[test]
    fn a_request_is_answered_under_its_id_and_the_rest_with_a_bare_status() {
        let to =
            |text: &str| Refusal::SessionNotFound.response_to(&Message::from_client(text.as_bytes().to_vec()).unwrap());
        let answered = to(r#"{"jsonrpc":"2.0","id":"a\u0062","method":"x"}"#);
        assert_eq!(
            answered.body(),
            r#"{"jsonrpc":"2.0","id":"a\u0062","error":{"code":-32600,"message":"Session not found"}}"#
        );
        for text in [r#"{"jsonrpc":"2.0","method":"x"}"#, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#] {
            let bare = to(text);
            assert_eq!((bare.status(), bare.body().len()), (StatusCode::NOT_FOUND, 0), "{text}");
            assert!(!bare.headers().contains_key(CONTENT_TYPE));
        }
    }

    #[test]
    fn an_invalid_envelope_keeps_its_code() {
        for (text, code) in [("{", -32700), ("[]", -32600)] {
            let invalid = Message::from_client(text.as_bytes().to_vec()).unwrap_err();
            assert_eq!(Refusal::from(invalid).code(), Some(code));
        }
    }
}
