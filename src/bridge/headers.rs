//! The header fields that MCP adds to HTTP, and how to read one that may stand there once.

use http::{HeaderMap, HeaderName};

/// The protocol version of a request; in the modern era it must equal the one in the body.
pub const MCP_PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// The session of a legacy client.
pub const MCP_SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// The method of a modern request, mirrored for whoever looks at headers only.
pub const MCP_METHOD: HeaderName = HeaderName::from_static("mcp-method");

/// The tool, prompt, resource or task of a modern request, mirrored likewise.
pub const MCP_NAME: HeaderName = HeaderName::from_static("mcp-name");

/// Where a legacy client resumes an event stream.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What the names of mirrored tool arguments begin with.
pub const MCP_PARAM_PREFIX: &str = "mcp-param-";

/// Why a header field cannot be read as one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It stands there twice: ferry would check one, and something before or after it obey the other.
    #[error("is repeated")]
    Repeated,
    /// It has bytes outside of ASCII, whose meaning HTTP leaves open.
    #[error("is not plain ASCII")]
    NotAscii,
}

/// The one value of a header field, without surrounding spaces and tabs.
pub fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Unreadable> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Unreadable::Repeated);
    }
    let text = value.to_str().map_err(|_| Unreadable::NotAscii)?;
    Ok(Some(trim(text)))
}

/// All readable values of a header field, without surrounding spaces and tabs.
pub fn all<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(trim)
}

/// Optional white space is that of HTTP (RFC 9110 §5.6.3), not that of Unicode.
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// Headers from names and values, for the tables of this room's tests.
#[cfg(test)]
pub(super) fn of(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_one_value_or_none() {
        for (fields, read) in [
            (&[][..], Ok(None)),
            (&[("Mcp-Name", "a")], Ok(Some("a"))),
            (&[("MCP-NAME", " \ta b\t ")], Ok(Some("a b"))),
            (&[("mcp-name", "")], Ok(Some(""))),
            (&[("Mcp-Name", "a"), ("mcp-name", "a")], Err(Unreadable::Repeated)),
            (&[("Mcp-Name", "é")], Err(Unreadable::NotAscii)),
        ] {
            assert_eq!(single(&of(fields), &MCP_NAME), read, "{fields:?}");
        }
    }
}
