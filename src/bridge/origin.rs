//! `Host` and `Origin`: may this page talk to us at all? And CORS for the pages that may (`protocol.md` §1.11).
//!
//! `Host` keeps out a page whose own name was made to point at this machine (DNS rebinding), `Origin` one that merely
//! knows the address. Programs send no `Origin` and pass.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, VARY,
};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use super::headers::{self, MCP_PARAM_PREFIX};
use super::refusal::Refusal;

/// The names of this machine for itself.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// What a page may send; tool arguments mirrored as `Mcp-Param-*` come on top of it.
const REQUEST_HEADERS: &str = "Content-Type, Accept, Authorization, Mcp-Session-Id, MCP-Protocol-Version, \
                               Mcp-Method, Mcp-Name, Last-Event-ID";

/// What a page may read of an answer.
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static("Mcp-Session-Id, WWW-Authenticate");

/// How long a browser may remember a preflight: what Chromium grants at most. A list that has become shorter since
/// still holds, as each request is checked by itself.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// Which listener a guard stands at.
#[derive(Debug, Clone, Copy)]
pub enum Listener<'a> {
    /// The local one, bound to this address.
    Local(IpAddr),
    /// The one that cloudflared talks to, reached under this public name, whatever it is bound to.
    Tunnel {
        /// `bridge.hostname`.
        hostname: Option<&'a str>,
    },
}

/// Who may talk to one listener. Clones stand at the same one.
#[derive(Debug, Clone)]
pub struct Guard(Arc<RwLock<Rules>>);

#[derive(Debug, Clone)]
struct Rules {
    /// Whether a `Host` must be there and be known.
    closed: bool,
    hosts: Vec<Host>,
    /// Names whose pages may call over http and https, from any port.
    local_pages: Vec<String>,
    origins: Vec<Origin>,
}

/// An entry of `allowed_hosts`, `allowed_origins` or `bridge.hostname` that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEntry {
    /// No host.
    #[error("`{0}` is no host: write `name` or `name:port`")]
    Host(String),
    /// No origin.
    #[error("`{0}` is no origin: write `scheme://name` or `scheme://name:port`")]
    Origin(String),
}

/// The `Origin` of a request that passed, to be named in its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedOrigin(HeaderValue);

impl Guard {
    /// The guard of a listener. On the tunnel's, `allowed_hosts` adds to the public name, and without it any will do.
    ///
    /// # Errors
    /// For an entry that could never match.
    pub fn new(
        listener: Listener<'_>,
        allowed_hosts: &[String],
        allowed_origins: &[String],
    ) -> Result<Self, InvalidEntry> {
        let host = |text: &str| Host::parse(text).ok_or_else(|| InvalidEntry::Host(text.to_owned()));
        let origin = |text: &str| {
            // As people copy it from the address bar, with the slash.
            let origin = Origin::parse(text.strip_suffix('/').unwrap_or(text));
            origin.ok_or_else(|| InvalidEntry::Origin(text.to_owned()))
        };
        let mut guard = Rules {
            closed: !allowed_hosts.is_empty(),
            hosts: allowed_hosts.iter().map(|text| host(text)).collect::<Result<_, _>>()?,
            local_pages: Vec::new(),
            origins: allowed_origins.iter().map(|text| origin(text)).collect::<Result<_, _>>()?,
        };
        match listener {
            Listener::Local(address) if address.to_canonical().is_loopback() => {
                guard.closed = true;
                guard.local_pages.extend(LOOPBACK.map(str::to_owned));
                guard.local_pages.push(match address.to_canonical() {
                    IpAddr::V4(address) => address.to_string(),
                    IpAddr::V6(address) => format!("[{address}]"),
                });
                let any_port = guard.local_pages.iter().map(|name| Host { name: name.clone(), port: None });
                guard.hosts.extend(any_port);
            }
            Listener::Local(_) | Listener::Tunnel { hostname: None } => {}
            Listener::Tunnel { hostname: Some(name) } => {
                guard.hosts.push(host(name)?);
                guard.origins.push(origin(&format!("https://{name}"))?);
            }
        }
        Ok(Self(Arc::new(RwLock::new(guard))))
    }

    /// From now on lets pass what `other` does.
    pub fn become_like(&self, other: &Self) {
        let rules = other.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// Lets a request pass, with its origin if it has one. `authority` is that of its target, where that names one:
    /// then it outranks `Host` (RFC 9112 §3.2.2), so both must be known.
    pub fn check(&self, headers: &HeaderMap, authority: Option<&Authority>) -> Result<Option<AllowedOrigin>, Refusal> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).check(headers, authority)
    }
}

impl Rules {
    fn check(&self, headers: &HeaderMap, authority: Option<&Authority>) -> Result<Option<AllowedOrigin>, Refusal> {
        let named = headers::single(headers, &HOST).map_err(|_| Refusal::ForbiddenHost)?;
        let mut unnamed = true;
        for text in named.into_iter().chain(authority.map(Authority::as_str)) {
            let host = Host::parse(text).ok_or(Refusal::ForbiddenHost)?;
            if self.closed && !self.hosts.iter().any(|allowed| allowed.covers(&host)) {
                return Err(Refusal::ForbiddenHost);
            }
            unnamed = false;
        }
        if self.closed && unnamed {
            return Err(Refusal::ForbiddenHost);
        }
        let Some(text) = headers::single(headers, &ORIGIN).map_err(|_| Refusal::ForbiddenOrigin)? else {
            return Ok(None);
        };
        let origin = Origin::parse(text).ok_or(Refusal::ForbiddenOrigin)?;
        if !self.origins.contains(&origin) && !self.is_local_page(&origin) {
            return Err(Refusal::ForbiddenOrigin);
        }
        let value = HeaderValue::from_str(text).map_err(|_| Refusal::ForbiddenOrigin)?;
        Ok(Some(AllowedOrigin(value)))
    }

    fn is_local_page(&self, origin: &Origin) -> bool {
        matches!(origin.scheme.as_str(), "http" | "https") && self.local_pages.contains(&origin.host.name)
    }
}

/// Whether a request asks what a page may send, rather than sends it. It carries no credentials, so it is answered
/// before anybody asks for them.
pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) && headers.contains_key(ORIGIN)
}

/// The answer to a preflight from an allowed origin.
pub fn preflight(origin: &AllowedOrigin, request: &HeaderMap) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    put_cors(Some(origin), headers);
    headers.append(VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, DELETE"));
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    let mut allowed = REQUEST_HEADERS.to_owned();
    for asked in headers::all(request, &ACCESS_CONTROL_REQUEST_HEADERS).flat_map(|line| line.split(',')) {
        // There is no prefix in CORS, so those that are asked for are named; being a header's name, they are no list.
        let Ok(name) = HeaderName::from_bytes(asked.trim().as_bytes()) else { continue };
        if name.as_str().starts_with(MCP_PARAM_PREFIX) {
            allowed.push_str(", ");
            allowed.push_str(name.as_str());
        }
    }
    if let Ok(allowed) = HeaderValue::from_str(&allowed) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    }
    response
}

/// Adds to any answer, refusals included, what lets its page read it.
///
/// `Vary` also where no page asked: a shared cache must not hand that answer to one.
pub fn put_cors(origin: Option<&AllowedOrigin>, headers: &mut HeaderMap) {
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(AllowedOrigin(origin)) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
    }
}

/// A host and, where one is named, its port. Names are in lower case, addresses in their one canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Host {
    name: String,
    port: Option<u16>,
}

impl Host {
    /// `name`, `1.2.3.4` or `[::1]`, each with or without `:port`; nothing else, and no user name in particular.
    fn parse(text: &str) -> Option<Self> {
        let (name, port) = if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            (format!("[{address}]"), port)
        } else {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            if name.is_empty() || !name.bytes().all(plain) {
                return None;
            }
            (name.to_ascii_lowercase(), port)
        };
        let port = match port {
            "" => None,
            port => Some(number(port.strip_prefix(':')?)?),
        };
        Some(Self { name, port })
    }

    /// Whether this entry of a list lets `host` pass: one without a port means any.
    fn covers(&self, host: &Self) -> bool {
        self.name == host.name
            && match (self.port, host.port) {
                (None, _) => true,
                // `Host` leaves out the default port, and does not say of which scheme.
                (Some(port), None) => matches!(port, 80 | 443),
                (Some(port), Some(asked)) => port == asked,
            }
    }
}

/// A port; `parse` alone would take `+80`.
fn number(digits: &str) -> Option<u16> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// Scheme, host and port; a default port is written out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: Host,
}

impl Origin {
    /// `scheme://host[:port]` as browsers write it (RFC 6454 §6.2). `null`, a path, or two of them are none.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, host) = text.split_once("://")?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        if !scheme.starts_with(|first: char| first.is_ascii_alphabetic()) || !scheme.bytes().all(plain) {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let mut host = Host::parse(host)?;
        host.port = host.port.or(match scheme.as_str() {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        });
        Some(Self { scheme, host })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owned(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|&entry| entry.to_owned()).collect()
    }

    fn guard(listener: Listener<'_>, hosts: &[&str], origins: &[&str]) -> Guard {
        Guard::new(listener, &owned(hosts), &owned(origins)).unwrap()
    }

    fn local(address: &str) -> Listener<'static> {
        Listener::Local(address.parse().unwrap())
    }

    const TUNNEL: Listener<'_> = Listener::Tunnel { hostname: Some("mcp.example.com") };

    /// `ok`, `host` or `origin`.
    fn verdict(guard: &Guard, fields: &[(&str, &str)]) -> &'static str {
        match guard.check(&headers::of(fields), None) {
            Ok(_) => "ok",
            Err(Refusal::ForbiddenHost) => "host",
            Err(Refusal::ForbiddenOrigin) => "origin",
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_host_must_be_ours() {
        let loopback = guard(local("127.0.0.1"), &[], &[]);
        let second = guard(local("127.0.0.2"), &[], &[]);
        let six = guard(local("::1"), &[], &[]);
        let named = guard(local("127.0.0.1"), &["Box.lan", "other.lan:8080", "plain.lan:80"], &[]);
        let open = guard(local("0.0.0.0"), &[], &[]);
        let listed = guard(local("192.168.1.5"), &["box.lan"], &[]);
        let tunnel = guard(TUNNEL, &[], &[]);
        let narrow = guard(TUNNEL, &["also.example.com"], &[]);
        for (at, host, expected) in [
            (&loopback, "localhost", "ok"),
            (&loopback, "LOCALHOST:8765", "ok"),
            (&loopback, "127.0.0.1:1", "ok"),
            (&loopback, "[::1]:65535", "ok"),
            (&loopback, "[0:0:0:0:0:0:0:1]", "ok"),
            (&loopback, "evil.example.com", "host"),
            (&loopback, "localhost.evil.com", "host"),
            (&loopback, "evil.localhost", "host"),
            (&loopback, "localhost.", "host"),
            (&loopback, "127.0.0.2", "host"),
            (&loopback, "127.1", "host"),
            (&loopback, "2130706433", "host"),
            (&loopback, "0x7f.0.0.1", "host"),
            (&loopback, "0.0.0.0", "host"),
            (&loopback, "[::ffff:127.0.0.1]", "host"),
            (&loopback, "::1", "host"),
            (&loopback, "[::1", "host"),
            (&loopback, "[::1]x", "host"),
            (&loopback, "[::1%25lo0]", "host"),
            (&loopback, "user@localhost", "host"),
            (&loopback, "localhost@evil.com", "host"),
            (&loopback, "localhost:", "host"),
            (&loopback, "localhost:+80", "host"),
            (&loopback, "localhost:65536", "host"),
            (&loopback, "localhost:80:80", "host"),
            (&loopback, "localhost:80@evil.com", "host"),
            (&loopback, "localhost/", "host"),
            (&loopback, "localhost evil.com", "host"),
            (&loopback, "localhost,evil.com", "host"),
            (&loopback, "http://localhost", "host"),
            (&loopback, "%6cocalhost", "host"),
            (&loopback, "", "host"),
            (&loopback, "löcalhost", "host"),
            (&second, "127.0.0.2:80", "ok"),
            (&second, "localhost", "ok"),
            (&six, "[::1]", "ok"),
            (&named, "box.lan:99", "ok"),
            (&named, "BOX.LAN", "ok"),
            (&named, "other.lan:8080", "ok"),
            (&named, "other.lan", "host"),
            (&named, "other.lan:80", "host"),
            (&named, "plain.lan", "ok"),
            (&named, "localhost", "ok"),
            (&open, "anything.example", "ok"),
            (&open, "user@anything.example", "host"),
            (&open, "", "host"),
            (&listed, "box.lan", "ok"),
            (&listed, "localhost", "host"),
            (&tunnel, "mcp.example.com", "ok"),
            (&tunnel, "whatever.example", "ok"),
            (&narrow, "mcp.example.com", "ok"),
            (&narrow, "also.example.com", "ok"),
            (&narrow, "localhost", "host"),
        ] {
            assert_eq!(verdict(at, &[("host", host)]), expected, "{host} at {at:?}");
        }
        assert_eq!(verdict(&loopback, &[]), "host");
        assert_eq!(verdict(&open, &[]), "ok");
        assert_eq!(verdict(&loopback, &[("host", "localhost"), ("host", "localhost")]), "host");
        assert_eq!(verdict(&open, &[("host", "a"), ("host", "b")]), "host");
    }

    #[test]
    fn a_target_that_names_a_host_must_name_one_of_ours_too() {
        let loopback = guard(local("127.0.0.1"), &[], &[]);
        for (host, target, expected) in [
            (Some("localhost"), "localhost:80", true),
            (None, "127.0.0.1", true),
            (Some("localhost"), "evil.com", false),
            (Some("evil.com"), "localhost", false),
            (None, "user@localhost", false),
        ] {
            let headers = headers::of(&host.map(|host| ("host", host)).into_iter().collect::<Vec<_>>());
            let passed = loopback.check(&headers, Some(&target.parse().unwrap())).is_ok();
            assert_eq!(passed, expected, "{host:?} {target}");
        }
    }

    #[test]
    fn an_origin_must_be_on_the_list() {
        let loopback = guard(local("127.0.0.1"), &[], &["https://app.example.com/", "vscode-webview://abc-1"]);
        let open = guard(local("0.0.0.0"), &[], &["http://box.lan:8080", "http://[FE80::1]"]);
        let tunnel = guard(TUNNEL, &[], &[]);
        for (at, origin, expected) in [
            (&loopback, "http://localhost", "ok"),
            (&loopback, "http://localhost:5173", "ok"),
            (&loopback, "https://127.0.0.1:1", "ok"),
            (&loopback, "http://[::1]:80", "ok"),
            (&loopback, "ftp://localhost", "origin"),
            (&loopback, "http://localhost.evil.com", "origin"),
            (&loopback, "http://localhost@evil.com", "origin"),
            (&loopback, "http://localhost/", "origin"),
            (&loopback, "http://localhost:80 http://evil.com", "origin"),
            (&loopback, "http://evil.example.com", "origin"),
            (&loopback, "https://app.example.com", "ok"),
            (&loopback, "https://app.example.com:443", "ok"),
            (&loopback, "HTTPS://APP.example.com", "ok"),
            (&loopback, "https://app.example.com:444", "origin"),
            (&loopback, "http://app.example.com", "origin"),
            (&loopback, "https://xapp.example.com", "origin"),
            (&loopback, "vscode-webview://abc-1", "ok"),
            (&loopback, "vscode-webview://abc-2", "origin"),
            (&loopback, "null", "origin"),
            (&loopback, "", "origin"),
            (&loopback, "://localhost", "origin"),
            (&loopback, "file://", "origin"),
            (&open, "http://box.lan:8080", "ok"),
            (&open, "http://box.lan", "origin"),
            (&open, "http://[fe80:0::1]", "ok"),
            (&open, "http://localhost", "origin"),
            (&tunnel, "https://mcp.example.com", "ok"),
            (&tunnel, "http://mcp.example.com", "origin"),
            (&tunnel, "http://localhost", "origin"),
        ] {
            assert_eq!(
                verdict(
                    at,
                    &[("host", if at.0.read().unwrap().closed { "localhost" } else { "x" }), ("origin", origin)]
                ),
                expected,
                "{origin} at {at:?}"
            );
        }
        let twice = [("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://localhost")];
        assert_eq!(verdict(&loopback, &twice), "origin");
        assert_eq!(verdict(&loopback, &[("host", "localhost")]), "ok");
    }

    #[test]
    fn an_entry_that_could_never_match_is_an_error() {
        for host in ["", "*", "http://a", "a b", "a:b", "a/b", "u@a"] {
            assert!(Guard::new(TUNNEL, &owned(&[host]), &[]).is_err(), "{host}");
        }
        for origin in ["", "*", "null", "a.example.com", "https://a/b", "https://*.example.com", "https://"] {
            let error = Guard::new(TUNNEL, &[], &owned(&[origin])).unwrap_err();
            assert_eq!(error, InvalidEntry::Origin(origin.to_owned()));
        }
        assert!(Guard::new(Listener::Tunnel { hostname: Some("https://a") }, &[], &[]).is_err());
        let error = Guard::new(TUNNEL, &owned(&["*"]), &[]).unwrap_err();
        assert_eq!(error.to_string(), "`*` is no host: write `name` or `name:port`");
    }

    #[test]
    fn a_preflight_names_what_a_page_may_send() {
        let asked = headers::of(&[
            ("host", "localhost"),
            ("origin", "http://localhost:5173"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "content-type,Mcp-Param-Region, x-evil"),
            ("access-control-request-headers", "mcp-param-b;c,mcp-param-d"),
        ]);
        assert!(is_preflight(&Method::OPTIONS, &asked));
        assert!(!is_preflight(&Method::POST, &asked));
        assert!(!is_preflight(&Method::OPTIONS, &headers::of(&[("origin", "http://localhost")])));
        let origin = guard(local("127.0.0.1"), &[], &[]).check(&asked, None).unwrap().unwrap();
        let answer = preflight(&origin, &asked);
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        let fields: Vec<_> =
            answer.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        assert_eq!(
            fields,
            [
                "vary: Origin",
                "vary: Access-Control-Request-Headers",
                "access-control-allow-origin: http://localhost:5173",
                "access-control-expose-headers: Mcp-Session-Id, WWW-Authenticate",
                "access-control-allow-methods: POST, GET, DELETE",
                "access-control-max-age: 7200",
                "access-control-allow-headers: Content-Type, Accept, Authorization, Mcp-Session-Id, \
                 MCP-Protocol-Version, Mcp-Method, Mcp-Name, Last-Event-ID, mcp-param-region, mcp-param-d",
            ]
        );
    }

    #[test]
    fn an_answer_without_an_origin_varies_all_the_same() {
        let mut headers = HeaderMap::new();
        put_cors(None, &mut headers);
        assert_eq!((headers.len(), &headers[VARY]), (1, &HeaderValue::from_static("Origin")));
    }

    proptest! {
        #[test]
        fn no_host_or_origin_breaks_the_parser(text in "\\PC{0,40}", odd in "[\\[\\]:@./%a-f0-9]{0,20}") {
            for text in [&text, &odd] {
                if let Some(host) = Host::parse(text) {
                    prop_assert!(!host.name.is_empty() && !host.name.contains(['@', '/', ' ', '%']));
                }
                let _ = Origin::parse(text);
                let _ = Origin::parse(&format!("http://{text}"));
            }
        }

        #[test]
        fn a_host_is_what_was_put_together(name in "[a-z0-9-]{1,10}(\\.[a-z]{1,5}){0,2}", port in any::<Option<u16>>()) {
            let text = port.map_or(name.clone(), |port| format!("{name}:{port}"));
            prop_assert_eq!(Host::parse(&text), Some(Host { name, port }));
        }
    }
}
