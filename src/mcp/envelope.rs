//! JSON-RPC 2.0 messages: where their parts stand in the text, and nothing of what the parts carry.
//!
//! A message is checked once, as a whole, to be JSON; its parts are then slices of that text. Payloads are neither
//! parsed into trees nor copied.

use std::fmt;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::members::{self, Key, Keys, Members};

/// JSON-RPC error codes, and those that MCP adds (schema of 2026-07-28, `protocol.md` §8).
pub mod code {
    /// Invalid JSON.
    pub const PARSE_ERROR: i32 = -32700;
    /// No valid request object.
    pub const INVALID_REQUEST: i32 = -32600;
    /// The method does not exist.
    pub const METHOD_NOT_FOUND: i32 = -32601;
    /// Invalid parameters.
    pub const INVALID_PARAMS: i32 = -32602;
    /// Internal error.
    pub const INTERNAL_ERROR: i32 = -32603;
    /// MCP: an HTTP header and the body disagree.
    pub const HEADER_MISMATCH: i32 = -32020;
    /// MCP: the client lacks a capability that the request needs.
    pub const MISSING_CAPABILITY: i32 = -32021;
    /// MCP: the protocol version is not supported.
    pub const UNSUPPORTED_VERSION: i32 = -32022;
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A method and an id: somebody waits for the answer.
    Request,
    /// A method without an id.
    Notification,
    /// An id with a result or an error.
    Response,
}

/// One message: its text, and where its parts stand in it.
#[derive(Debug, Clone)]
pub struct Message {
    text: Bytes,
    parts: Parts,
}

/// Where the parts of a message stand in its text.
#[derive(Debug, Clone, Default)]
struct Parts {
    method: Option<String>,
    id: Option<Range<usize>>,
    params: Option<Range<usize>>,
    result: Option<Range<usize>>,
    error: Option<Range<usize>>,
}

/// Why a text is no message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// [`code::PARSE_ERROR`] or [`code::INVALID_REQUEST`].
    pub code: i32,
    /// What is wrong with it.
    pub why: String,
    /// The id that an answer can name, where one could be read.
    pub id: Option<Bytes>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Message {
    /// Reads what a client sent: one object, held to the letter of the specification.
    ///
    /// Line breaks between its tokens become spaces, since a message on a pipe is one line.
    ///
    /// # Errors
    /// For text that is no JSON, or no single message.
    pub fn from_client(text: impl Into<Bytes>) -> Result<Self, Invalid> {
        let text: Bytes = text.into();
        let Ok(checked) = std::str::from_utf8(&text) else {
            return Err(Invalid { code: code::PARSE_ERROR, why: "the body is not valid UTF-8".into(), id: None });
        };
        // As text, since its pieces would be looked through for UTF-8 once more.
        let found: Found<'_> = serde_json::from_str(checked).map_err(|error| unreadable(&text, &error))?;
        let parts = found.checked(&text)?;
        // Legal JSON has raw line breaks between tokens only, so the parts stay where they are.
        Ok(Self { text: flattened(text), parts })
    }

    /// Reads one line of a server, with the tolerance that servers need: anything with a method or with an id counts.
    ///
    /// # Errors
    /// For a line that is no JSON object, or one that has neither.
    pub fn from_server(line: Bytes) -> Result<Self, Invalid> {
        let found: Found<'_> = serde_json::from_slice(&line).map_err(|error| unreadable(&line, &error))?;
        let parts = found.parts(&line);
        if parts.method.is_none() && parts.id.is_none() && parts.error.is_none() {
            return Err(invalid("neither a method nor an id", None));
        }
        Ok(Self { text: line, parts })
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        match (&self.parts.method, &self.parts.id) {
            (Some(_), Some(_)) => Kind::Request,
            (Some(_), None) => Kind::Notification,
            (None, _) => Kind::Response,
        }
    }

    /// Its method; empty for a response.
    pub fn method(&self) -> &str {
        self.parts.method.as_deref().unwrap_or_default()
    }

    /// Its id as it is written, `null` included.
    pub fn id(&self) -> Option<Bytes> {
        self.slice(self.parts.id.as_ref())
    }

    /// Its id, where that is a whole number of ferry's own, written as a number or as a string.
    pub fn own_id(&self) -> Option<u64> {
        let raw = self.str(self.parts.id.as_ref())?;
        number(raw)
    }

    /// Its parameters as they are written.
    pub fn params(&self) -> Option<Bytes> {
        self.slice(self.parts.params.as_ref())
    }

    /// The text of its parameters.
    pub fn params_text(&self) -> Option<&str> {
        self.str(self.parts.params.as_ref())
    }

    /// The members of its parameters; none where there are no parameters or they are no object.
    ///
    /// # Errors
    /// Where a member stands there twice.
    pub fn param_members(&self) -> Result<Members<'_>, serde_json::Error> {
        match self.params_text() {
            Some(text) if text.starts_with('{') => Members::read(text),
            _ => Ok(Members::default()),
        }
    }

    /// Its result as it is written.
    pub fn result(&self) -> Option<Bytes> {
        self.slice(self.parts.result.as_ref())
    }

    /// The text of its result.
    pub fn result_text(&self) -> Option<&str> {
        self.str(self.parts.result.as_ref())
    }

    /// Its error as it is written.
    pub fn error(&self) -> Option<Bytes> {
        self.slice(self.parts.error.as_ref())
    }

    /// The code of its error, and the members of that error.
    pub fn error_members(&self) -> Option<(i64, Members<'_>)> {
        let members = Members::read(self.str(self.parts.error.as_ref())?).ok()?;
        let code = members.text("code")?.parse().ok()?;
        Some((code, members))
    }

    /// The whole text.
    pub fn text(&self) -> &Bytes {
        &self.text
    }

    /// Where `part`, borrowed from this message's text, stands in it.
    pub fn place_of(&self, part: &str) -> Range<usize> {
        span(&self.text, part)
    }

    fn slice(&self, at: Option<&Range<usize>>) -> Option<Bytes> {
        Some(self.text.slice(at?.clone()))
    }

    fn str(&self, at: Option<&Range<usize>>) -> Option<&str> {
        let part = &self.text[at?.clone()];
        Some(std::str::from_utf8(part).expect("raw values were read as strings"))
    }
}

/// A whole number below 2^53, written as a number or as a string.
pub fn number(raw: &str) -> Option<u64> {
    let digits = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(raw);
    if digits.is_empty() || digits.len() > 16 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// Replaces line breaks, which legal JSON has only between tokens, by spaces.
pub fn flatten(text: &mut [u8]) {
    let mut from = 0;
    while let Some(at) = memchr::memchr2(b'\n', b'\r', &text[from..]) {
        text[from + at] = b' ';
        from += at + 1;
    }
}

/// The same without a copy where there are none.
pub fn flattened(text: Bytes) -> Bytes {
    if memchr::memchr2(b'\n', b'\r', &text).is_none() {
        return text;
    }
    let mut text = BytesMut::from(text);
    flatten(&mut text);
    text.freeze()
}

/// Whether a raw value can be a request's id: a string or a number.
pub fn is_id(raw: &str) -> bool {
    raw.starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit())
}

fn invalid(why: impl Into<String>, id: Option<Bytes>) -> Invalid {
    Invalid { code: code::INVALID_REQUEST, why: why.into(), id }
}

/// Tells JSON of the wrong shape from text that is no JSON at all.
fn unreadable(text: &[u8], error: &serde_json::Error) -> Invalid {
    if error.is_data() {
        // A duplicate member stops the reader in the middle of the text; the rest must still be looked at.
        match std::str::from_utf8(text) {
            Ok(text) if members::is_json(text) => return invalid(error.to_string(), None),
            _ => {}
        }
    }
    Invalid { code: code::PARSE_ERROR, why: format!("invalid JSON: {error}"), id: None }
}

fn span(text: &[u8], part: &str) -> Range<usize> {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}

/// The members of an envelope, borrowed from its text.
#[derive(Default)]
struct Found<'a> {
    jsonrpc: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    params: Option<&'a RawValue>,
    result: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
    repeated: Option<String>,
}

impl Found<'_> {
    fn parts(&self, text: &[u8]) -> Parts {
        let place = |raw: Option<&RawValue>| raw.map(|raw| span(text, raw.get()));
        Parts {
            method: self.method.and_then(|raw| members::string(raw.get())).map(std::borrow::Cow::into_owned),
            id: place(self.id),
            params: place(self.params),
            result: place(self.result),
            error: place(self.error),
        }
    }

    /// JSON-RPC 2.0 §4 and §5, and MCP's own rule that an id is never null.
    fn checked(&self, text: &[u8]) -> Result<Parts, Invalid> {
        let id = self.id.filter(|raw| is_id(raw.get())).map(|raw| Bytes::copy_from_slice(raw.get().as_bytes()));
        let refuse = |why: &str| Err(invalid(why, id.clone()));
        if let Some(key) = &self.repeated {
            return refuse(&format!("duplicate member `{key}`"));
        }
        if self.jsonrpc.and_then(|raw| members::string(raw.get())).as_deref() != Some("2.0") {
            return refuse("`jsonrpc` must be \"2.0\"");
        }
        if self.id.is_some() && id.is_none() {
            return refuse("`id` must be a string or a number");
        }
        let method = self.method.map(|raw| members::string(raw.get()));
        match (&method, self.result.is_some(), self.error.is_some()) {
            (Some(None), ..) => return refuse("`method` must be a string"),
            (Some(Some(_)), false, false) => {}
            (Some(Some(_)), ..) => {
                return refuse("a message has either a method, or a result or an error");
            }
            (None, true, false) | (None, false, true) if id.is_some() => {}
            (None, true, true) => return refuse("a response has either a result or an error"),
            (None, ..) => {
                return refuse("a message has a method, or an id with a result or an error");
            }
        }
        for (name, value) in [("params", self.params), ("result", self.result), ("error", self.error)] {
            if value.is_some_and(|raw| !raw.get().starts_with('{')) {
                return refuse(&format!("`{name}` must be an object"));
            }
        }
        Ok(self.parts(text))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Found<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Object<'a> {
            type Value = Found<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON-RPC message")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut found = Found::default();
                let mut others = Vec::<String>::new();
                let mut keys = Keys::default();
                while let Some(Key(key)) = map.next_key()? {
                    let place = match key.as_ref() {
                        "jsonrpc" => &mut found.jsonrpc,
                        "id" => &mut found.id,
                        "method" => &mut found.method,
                        "params" => &mut found.params,
                        "result" => &mut found.result,
                        "error" => &mut found.error,
                        _ => {
                            if keys.repeated(&key, others.iter().map(String::as_str)) {
                                found.repeated.get_or_insert_with(|| key.clone().into_owned());
                            }
                            others.push(key.into_owned());
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    // `RawValue` rather than `Option<RawValue>`: an absent member and a null one are two things.
                    if place.replace(map.next_value()?).is_some() {
                        found.repeated.get_or_insert_with(|| key.into_owned());
                    }
                }
                Ok(found)
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
                Err(A::Error::custom("an array, where one message is expected"))
            }
        }
        deserializer.deserialize_any(Object(std::marker::PhantomData))
    }
}

/// The text of a request or, without an id, of a notification.
pub fn call(id: Option<&str>, method: &str, params: Option<&str>) -> String {
    let mut text = String::from("{\"jsonrpc\":\"2.0\"");
    if let Some(id) = id {
        text.push_str(",\"id\":");
        text.push_str(id);
    }
    text.push_str(",\"method\":");
    text.push_str(&members::quote(method));
    if let Some(params) = params {
        text.push_str(",\"params\":");
        text.push_str(params);
    }
    text.push('}');
    text
}

/// The text of a successful answer.
pub fn answer(id: &str, result: &str) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}")
}

/// The text of an error. Without a readable id there is none in it: the MCP schemas refuse `null`.
pub fn error(id: Option<&str>, code: i32, message: &str, data: Option<&str>) -> String {
    let id = id.map(|id| format!("\"id\":{id},")).unwrap_or_default();
    let data = data.map(|data| format!(",\"data\":{data}")).unwrap_or_default();
    format!("{{\"jsonrpc\":\"2.0\",{id}\"error\":{{\"code\":{code},\"message\":{}{data}}}}}", members::quote(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str) -> Result<Message, Invalid> {
        Message::from_client(text.as_bytes().to_vec())
    }

    #[test]
    fn a_message_is_told_by_its_members() {
        for (text, kind) in [
            (r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#, Kind::Request),
            (r#"{"id":"a","params":{},"method":"x","jsonrpc":"2.0"}"#, Kind::Request),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"x"}"#, Kind::Request),
            (r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, Kind::Notification),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, Kind::Response),
            (r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""},"extra":[1,2]}"#, Kind::Response),
        ] {
            assert_eq!(client(text).unwrap().kind(), kind, "{text}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused_with_its_id() {
        use code::{INVALID_REQUEST, PARSE_ERROR};
        for (text, code, id) in [
            ("", PARSE_ERROR, None),
            ("{", PARSE_ERROR, None),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x"} x"#, PARSE_ERROR, None),
            ("[]", INVALID_REQUEST, None),
            (r#"[{"jsonrpc":"2.0","id":1,"method":"x"}]"#, INVALID_REQUEST, None),
            ("42", INVALID_REQUEST, None),
            ("null", INVALID_REQUEST, None),
            (r#"{"id":7,"method":"x"}"#, INVALID_REQUEST, Some("7")),
            (r#"{"jsonrpc":"1.0","id":"a","method":"x"}"#, INVALID_REQUEST, Some("\"a\"")),
            (r#"{"jsonrpc":"2.0","id":null,"method":"x"}"#, INVALID_REQUEST, None),
            (r#"{"jsonrpc":"2.0","id":true,"method":"x"}"#, INVALID_REQUEST, None),
            (r#"{"jsonrpc":"2.0","id":{},"method":"x"}"#, INVALID_REQUEST, None),
            (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, INVALID_REQUEST, Some("1")),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x","params":[]}"#, INVALID_REQUEST, Some("1")),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x","params":null}"#, INVALID_REQUEST, Some("1")),
            (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#, INVALID_REQUEST, Some("1")),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x","method":"y"}"#, INVALID_REQUEST, Some("1")),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x","m\u0065thod":"y"}"#, INVALID_REQUEST, Some("1")),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x","a":1,"a":2}"#, INVALID_REQUEST, Some("1")),
            (r#"{"jsonrpc":"2.0","id":1}"#, INVALID_REQUEST, Some("1")),
            (r#"{"jsonrpc":"2.0","result":{}}"#, INVALID_REQUEST, None),
        ] {
            let refused = client(text).expect_err(text);
            assert_eq!((refused.code, refused.id.as_deref()), (code, id.map(str::as_bytes)), "{text}: {refused}");
        }
        assert_eq!(Message::from_client(vec![b'"', 0xff, b'"']).unwrap_err().code, PARSE_ERROR);
        let inside = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x\",\"params\":{\"a\":\"\xff\"}}".to_vec();
        assert_eq!(Message::from_client(inside).unwrap_err().code, PARSE_ERROR);
    }

    #[test]
    fn line_breaks_between_tokens_become_spaces_and_escaped_ones_stay() {
        let message = client(
            "{\n  \"jsonrpc\": \"2.0\",\r\n\t\"id\": 1, \"method\": \"x\",\n \"params\": {\n\"a\": \"b\\nc\"}\n}\n",
        );
        let message = message.unwrap();
        assert_eq!(message.params_text(), Some("{ \"a\": \"b\\nc\"}"));
        assert!(!message.text().contains(&b'\n') && !message.text().contains(&b'\r'));
        assert!(client("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\nb\"}").is_err(), "a raw break inside a string");
    }

    #[test]
    fn a_server_is_read_with_patience() {
        let read = |text: &'static str| Message::from_server(Bytes::from_static(text.as_bytes()));
        assert_eq!(read(r#"{"id":3,"result":null}"#).unwrap().own_id(), Some(3));
        assert_eq!(read(r#"{"jsonrpc":"2.0","id":"12","result":{}}"#).unwrap().own_id(), Some(12));
        assert_eq!(read(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":""}}"#).unwrap().own_id(), None);
        assert_eq!(read(r#"{"jsonrpc":"2.0","id":1.0,"result":{}}"#).unwrap().own_id(), None);
        assert_eq!(read(r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#).unwrap().kind(), Kind::Request);
        for garbage in ["[]", "42", "\"x\"", "{}", "null", "listening on 8080", "{\"a\":1}"] {
            assert!(read(garbage).is_err(), "{garbage}");
        }
    }

    #[test]
    fn an_error_without_a_readable_id_has_none() {
        assert_eq!(
            error(None, -32700, "a \"b\"", None),
            r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"a \"b\""}}"#
        );
        assert_eq!(
            error(Some("7"), 1, "m", Some("{}")),
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"m","data":{}}}"#
        );
    }
}
