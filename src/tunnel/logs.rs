//! What cloudflared writes: lines of JSON, and plain ones for the last words before it exits. Read for what they tell
//! about the tunnel, and logged again, as many as anybody would read.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::Instant;
use tracing::Level;

use super::Trouble;

/// So many lines may come at once; a start takes some twenty.
const BURST: u32 = 50;
/// After that, one in this time. A refused address makes cloudflared write ten thousand a second.
const ONE_IN: Duration = Duration::from_secs(1);
/// A longer line is cut: what is to be known stands at its beginning.
const MAX_TEXT: usize = 1000;

/// One line of cloudflared's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// How important it is to cloudflared.
    pub level: Level,
    /// What it says, with its fields, fit for a terminal and without anything that looks like a token.
    pub text: String,
    /// Whether it was JSON; the reason for an exit is not.
    pub is_json: bool,
    message: String,
    error: String,
}

/// What a line tells about the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// The number of connections is another now.
    Connections,
    /// Something is wrong.
    Trouble(Trouble),
}

impl Line {
    /// Reads a line. Every line is one.
    pub fn parse(line: &str) -> Self {
        match serde_json::from_str::<Map<String, Value>>(line) {
            Ok(fields) => Self::of_fields(&fields),
            Err(_) => Self {
                level: Level::WARN,
                text: clean(line),
                is_json: false,
                message: String::new(),
                error: clean(line),
            },
        }
    }

    fn of_fields(fields: &Map<String, Value>) -> Self {
        let plain = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
        let message = clean(plain("message"));
        let mut text = message.clone();
        for (name, value) in fields {
            if !["level", "message", "time"].contains(&name.as_str()) {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let _ = write!(text, " {}={}", clean(name), clean(&value));
            }
        }
        Self { level: level(plain("level")), text: cut(text), is_json: true, message, error: clean(plain("error")) }
    }

    /// What it tells about the tunnel, if anything.
    pub fn sign(&self) -> Option<Sign> {
        let Self { message, error, .. } = self;
        let says = |text: &str| message.contains(text) || error.contains(text);
        // Told apart by text, since cloudflared gives no codes; what matches nothing is still in the log.
        let trouble = if says("Unauthorized:") {
            Trouble::Refused(error.clone())
        } else if says("Could not lookup srv records") || says("no such host") {
            Trouble::Dns(self.reason().to_owned())
        } else if says("address already in use") {
            Trouble::PortTaken
        } else if says("unnel credentials file") || says("Cannot determine default origin certificate path") {
            Trouble::Credentials {
                why: format!("cloudflared cannot use the tunnel's credentials: {}", self.reason()),
                fix: "`ferry setup` fetches them again".to_owned(),
            }
        } else if self.is_json && self.level == Level::ERROR && ABOUT_THE_EDGE.iter().any(|text| message.contains(text))
        {
            Trouble::Unreachable(self.reason().to_owned())
        } else if ["Registered tunnel connection", "Unregistered tunnel connection", "Lost connection with the edge"]
            .contains(&message.as_str())
        {
            return Some(Sign::Connections);
        } else {
            return None;
        };
        Some(Sign::Trouble(trouble))
    }

    fn reason(&self) -> &str {
        if self.error.is_empty() { &self.message } else { &self.error }
    }
}

/// Errors about the way to Cloudflare; others are about requests.
const ABOUT_THE_EDGE: &[&str] = &[
    "Serve tunnel error",
    "Register tunnel error from server side",
    "Unable to establish connection with Cloudflare edge",
    "Connection terminated",
    "ailed to serve tunnel connection",
    "ailed to dial",
    "ailed to create new quic connection",
    "ailed to serve quic connection",
    "TLS handshake with edge",
];

fn level(name: &str) -> Level {
    match name {
        "trace" => Level::TRACE,
        "debug" => Level::DEBUG,
        "warn" => Level::WARN,
        "error" | "fatal" | "panic" => Level::ERROR,
        _ => Level::INFO,
    }
}

/// Fit for a terminal, and without what looks like a token: cloudflared writes none at this level, but what it writes is
/// for its authors to decide.
fn clean(text: &str) -> String {
    let text: String = anstream::adapter::strip_str(text).to_string();
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let words = text.split(' ').map(|word| if word.contains("eyJ") && word.len() > 40 { "****" } else { word });
    cut(words.collect::<Vec<_>>().join(" "))
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push_str(" […]");
    }
    text
}

/// Lets through as many lines as anybody would read, and counts the others.
#[derive(Debug)]
pub struct Flood {
    room: u32,
    refilled: Instant,
    hidden: u64,
}

impl Flood {
    /// None yet.
    pub fn new(now: Instant) -> Self {
        Self { room: BURST, refilled: now, hidden: 0 }
    }

    /// Whether a line is to be shown, and how many before it were not.
    pub fn admits(&mut self, now: Instant) -> Option<u64> {
        let seconds = now.saturating_duration_since(self.refilled).as_secs() / ONE_IN.as_secs();
        if seconds > 0 {
            self.room = self.room.saturating_add(u32::try_from(seconds).unwrap_or(u32::MAX)).min(BURST);
            self.refilled = now;
        }
        if self.room == 0 {
            self.hidden += 1;
            return None;
        }
        self.room -= 1;
        Some(std::mem::take(&mut self.hidden))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable(why: &str) -> Sign {
        Sign::Trouble(Trouble::Unreachable(why.to_owned()))
    }

    #[test]
    fn lines_are_read_as_cloudflared_writes_them() {
        let line = Line::parse(
            r#"{"level":"info","connIndex":0,"ip":"198.41.192.7","time":"2026-11-23T05:38:02Z","message":"Registered tunnel connection"}"#,
        );
        assert_eq!(
            (line.level, line.text.as_str()),
            (Level::INFO, "Registered tunnel connection connIndex=0 ip=198.41.192.7")
        );
        assert_eq!(line.sign(), Some(Sign::Connections));

        let line = Line::parse(
            r#"{"level":"info","config":{"ingress":[]},"version":0,"message":"Updated to new configuration"}"#,
        );
        assert_eq!(line.text, r#"Updated to new configuration config={"ingress":[]} version=0"#);
        assert_eq!(line.sign(), None);
    }

    #[test]
    fn a_line_tells_what_is_wrong() {
        let refused = "Unauthorized: Invalid tunnel secret";
        for (line, sign) in [
            (
                r#"{"level":"error","error":"Unauthorized: Invalid tunnel secret","message":"Register tunnel error from server side"}"#,
                Some(Sign::Trouble(Trouble::Refused(refused.to_owned()))),
            ),
            (
                r#"{"level":"error","error":"Unauthorized: Tunnel not found","message":"failed to serve incoming request"}"#,
                Some(Sign::Trouble(Trouble::Refused("Unauthorized: Tunnel not found".to_owned()))),
            ),
            (
                r#"{"level":"error","error":"TLS handshake with edge error: x509: unknown authority","message":"Serve tunnel error"}"#,
                Some(unreachable("TLS handshake with edge error: x509: unknown authority")),
            ),
            (r#"{"level":"error","message":"Connection terminated"}"#, Some(unreachable("Connection terminated"))),
            (r#"{"level":"info","message":"Lost connection with the edge"}"#, Some(Sign::Connections)),
            (
                "Could not lookup srv records on _v2-origintunneld._tcp.argotunnel.com: lookup: server misbehaving",
                Some(Sign::Trouble(Trouble::Dns(
                    "Could not lookup srv records on _v2-origintunneld._tcp.argotunnel.com: lookup: server misbehaving"
                        .to_owned(),
                ))),
            ),
            (
                "Error opening metrics server listener: listen tcp 127.0.0.1:80: bind: address already in use",
                Some(Sign::Trouble(Trouble::PortTaken)),
            ),
            // About a request, not about the tunnel.
            (
                r#"{"level":"error","error":"dial unix /s: connect: no such file","message":"Unable to reach the origin service"}"#,
                None,
            ),
            ("anything else", None),
            ("", None),
        ] {
            assert_eq!(Line::parse(line).sign(), sign, "{line}");
        }
    }

    #[test]
    fn nothing_steers_the_terminal_and_no_token_is_shown() {
        let token = format!("eyJhbGciOiJSUzI1NiJ9.{}", "x".repeat(60));
        for line in [
            format!("Authorization: Bearer {token}"),
            format!(r#"{{"level":"error","message":"m","headers":"cf-access-jwt-assertion:[{token}] \u001b[31mred"}}"#),
        ] {
            let text = Line::parse(&line).text;
            assert!(!text.contains("xxxx") && text.contains("****") && !text.contains('\u{1b}'), "{text}");
        }
        let long = Line::parse(&"é".repeat(5000)).text;
        assert!(long.len() < 1100 && long.ends_with("[…]"));
    }

    #[test]
    fn a_flood_is_bounded_and_counted() {
        let start = Instant::now();
        let mut flood = Flood::new(start);
        let shown = (0..100_000).filter(|_| flood.admits(start).is_some()).count();
        assert_eq!(shown, 50);
        assert_eq!(flood.admits(start + Duration::from_secs(1)), Some(99_950), "how many were not is told by the next");
        assert_eq!(flood.admits(start + Duration::from_secs(1)), None);
        let much_later = start + Duration::from_hours(1);
        assert_eq!((0..100).filter(|_| flood.admits(much_later).is_some()).count(), 50);
    }
}
