//! The values of the configuration: each form is checked where it is read, so that nobody has to ask again.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use super::words;
use crate::secret::Secret;

/// Times beyond this are not times any more, and sums of them might overflow.
const LONGEST: Duration = Duration::from_hours(365 * 24);

/// Declares a text that must have a form: how it is checked is its `TryFrom<String>`.
macro_rules! text {
    ($(#[$meta:meta])* $name:ident) => {
        #[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, JsonSchema)]
        $(#[$meta])*
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// Its text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                text.to_owned().try_into()
            }
        }
    };
}

text! {
    /// The name of a server: letters, digits, `-` and `_`.
    #[schemars(extend("pattern" = r"^[\p{L}\p{N}_-]+$", "maxLength" = 64))]
    Name
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        if !name.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
            || !name.chars().any(char::is_alphanumeric)
        {
            return Err("a name is made of letters, digits, `-` and `_`".to_owned());
        }
        // Session ids carry it.
        if name.len() > 64 {
            return Err("a name has at most 64 bytes".to_owned());
        }
        Ok(Self(name))
    }
}

text! {
    /// A path as the router compares it: `/` in front, none behind.
    #[schemars(extend("pattern" = "^/"))]
    UrlPath
}

impl TryFrom<String> for UrlPath {
    type Error = String;

    fn try_from(path: String) -> Result<Self, String> {
        // What HTTP carries in a path as it stands (RFC 3986 §3.3); the rest would arrive in another spelling.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/!$&'()*+,;=:@".contains(&byte);
        if !path.starts_with('/') {
            return Err("a path begins with `/`".to_owned());
        }
        let path = path.trim_end_matches('/');
        if !path.bytes().all(plain) {
            return Err("a path is made of letters, digits, `/` and `-._~!$&'()*+,;=:@`".to_owned());
        }
        if path.split('/').skip(1).any(|part| matches!(part, "" | "." | "..")) {
            return Err("a path has no empty part, no `.` and no `..`, which clients resolve by themselves".to_owned());
        }
        if matches!(path, "/healthz" | "/metrics") || path == "/.well-known" || path.starts_with("/.well-known/") {
            return Err(format!("`{path}` is ferry's own"));
        }
        Ok(Self(if path.is_empty() { "/".to_owned() } else { path.to_owned() }))
    }
}

impl UrlPath {
    /// The paths below it that its older HTTP+SSE door takes.
    pub fn doors(&self) -> [String; 2] {
        let base = self.0.trim_end_matches('/');
        [format!("{base}/sse"), format!("{base}/message")]
    }
}

text! {
    /// The name of a host: no scheme, no port, no path.
    #[schemars(extend("format" = "hostname"))]
    Hostname
}

impl TryFrom<String> for Hostname {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let part = |part: &str| {
            !part.is_empty()
                && part.len() <= 63
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if name.len() > 253 || !name.split('.').all(part) {
            return Err("a host name alone, such as `bridge.example.com`: no `https://`, no port, no path".to_owned());
        }
        Ok(Self(name.to_ascii_lowercase()))
    }
}

text! {
    /// A duration as Cloudflare writes it: `24h`, `168h`, `30m`.
    #[schemars(extend("pattern" = r"^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$"))]
    SessionDuration
}

impl TryFrom<String> for SessionDuration {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut rest = text.as_str();
        loop {
            let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, tail) = rest.split_at(unit_at);
            let unit = ["ns", "us", "µs", "ms", "s", "m", "h"].into_iter().find_map(|unit| tail.strip_prefix(unit));
            match (number.parse::<f64>(), unit) {
                (Ok(_), Some("")) => return Ok(Self(text)),
                (Ok(_), Some(more)) => rest = more,
                _ => return Err("a duration such as `24h`, `168h` or `30m`".to_owned()),
            }
        }
    }
}

text! {
    /// Which log lines are written, as in `FERRY_LOG`: `info`, `debug`, `warn,mcp_ferry::bridge=debug`.
    LogFilter
}

impl TryFrom<String> for LogFilter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match tracing_subscriber::EnvFilter::try_new(&text) {
            Ok(_) => Ok(Self(text)),
            Err(_) => {
                Err("a level such as `info` or `debug`, or a list such as `warn,mcp_ferry::bridge=debug`".to_owned())
            }
        }
    }
}

text! {
    /// A path of a file or directory; a leading `~` is the home directory.
    PathText
}

impl TryFrom<String> for PathText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() || text.contains('\0') {
            return Err("a path of a file or directory".to_owned());
        }
        Ok(Self(text))
    }
}

impl PathText {
    /// The path, `~` expanded, as it is read from the working directory.
    pub fn expand(&self, home: Option<&Path>) -> PathBuf {
        words::expand_home(&self.0, home).into()
    }
}

/// A port: 0 for any free one, or one that does not need root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(try_from = "i64")]
#[schemars(with = "u16")]
pub struct Port(pub u16);

impl Default for Port {
    fn default() -> Self {
        Self(8765)
    }
}

impl TryFrom<i64> for Port {
    type Error = String;

    fn try_from(port: i64) -> Result<Self, String> {
        let port = u16::try_from(port).ok().filter(|port| *port == 0 || *port >= 1024);
        port.map(Self).ok_or_else(|| "a port is 0, for any free one, or 1024 to 65535".to_owned())
    }
}

/// How many of something there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(try_from = "i64")]
#[schemars(with = "std::num::NonZeroU16")]
pub struct Positive(pub u16);

impl TryFrom<i64> for Positive {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        let number = u16::try_from(number).ok().filter(|number| *number > 0);
        number.map(Self).ok_or_else(|| "this is a number from 1 to 65535".to_owned())
    }
}

/// Where the local listener is: `"HOST:PORT"` or `"off"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
pub enum LocalListen {
    /// Nowhere.
    Off,
    /// At this address.
    At(SocketAddr),
}

impl TryFrom<String> for LocalListen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let local =
            text.strip_prefix("localhost:").and_then(|port| Some((Ipv4Addr::LOCALHOST, port.parse().ok()?).into()));
        match local.or_else(|| text.parse().ok()) {
            Some(address) => Ok(Self::At(address)),
            None => Err("`ADDRESS:PORT`, such as `0.0.0.0:8765` or `[::]:8765`, or `off`".to_owned()),
        }
    }
}

/// A time in seconds, fractions included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub struct Seconds(#[serde(with = "seconds")] pub Duration);

impl JsonSchema for Seconds {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Seconds".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "number", "exclusiveMinimum": 0 })
    }
}

/// How a [`Duration`] is written: a number of seconds greater than 0.
pub(super) mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// For the defaults that the schema tells.
    pub(in super::super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(time.as_secs_f64())
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero() && *time <= super::LONGEST);
        time.ok_or_else(|| D::Error::custom("a number of seconds greater than 0 and at most a year"))
    }
}

/// Text, or where it comes from: for secrets. Read when it is needed, not when the file is.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// The text itself.
    Literal(SecretText),
    /// `{ env = "NAME" }`: a variable of ferry's own environment, or of an env file.
    Env(String),
    /// `{ file = "path" }`: the content of a file, less the line break at its end.
    File(PathText),
    /// `{ command = "…" }`: what a command writes, less the line break at its end.
    Command(Vec<String>),
}

/// A [`Secret`] that can be told from another, which tests need.
#[derive(Clone)]
pub struct SecretText(pub Secret);

impl PartialEq for SecretText {
    fn eq(&self, other: &Self) -> bool {
        self.0.matches(other.0.expose())
    }
}

impl Eq for SecretText {}

/// Where it comes from; a literal and a command's arguments may be secret.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("****"),
            Self::Env(name) => write!(f, "{{ env = {name:?} }}"),
            Self::File(path) => write!(f, "{{ file = {:?} }}", path.as_str()),
            Self::Command(words) => write!(f, "{{ command = {:?} … }}", words.first().map_or("", String::as_str)),
        }
    }
}

/// What is said of anything else; never with the value, which may be a secret.
const SOURCE: &str = "text, or one of `{ env = \"NAME\" }`, `{ file = \"path\" }`, `{ command = \"…\" }`";

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SourceVisitor)
    }
}

struct SourceVisitor;

impl<'de> Visitor<'de> for SourceVisitor {
    type Value = Source;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SOURCE)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Source, E> {
        Ok(Source::Literal(SecretText(Secret::new(text))))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Source, E> {
        Err(E::custom(format!("this must be {SOURCE}; put it in quotation marks")))
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Source, E> {
        self.visit_bool(true)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Source, E> {
        self.visit_bool(true)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Source, A::Error> {
        let wrong = || de::Error::custom(format!("this must be {SOURCE}"));
        let Some(kind) = map.next_key::<String>()? else { return Err(wrong()) };
        let value: String = map.next_value().map_err(|_: A::Error| wrong())?;
        if map.next_key::<String>()?.is_some() || value.is_empty() {
            return Err(wrong());
        }
        match kind.as_str() {
            "env" => Ok(Source::Env(value)),
            "file" => PathText::try_from(value).map(Source::File).map_err(de::Error::custom),
            "command" => match words::split(&value) {
                Ok(words) if words.is_empty() => Err(wrong()),
                Ok(words) => Ok(Source::Command(words)),
                Err(unfinished) => Err(de::Error::custom(format!("the command is not complete: {unfinished}"))),
            },
            _ => Err(wrong()),
        }
    }
}

impl JsonSchema for Source {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Source".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let from = |key: &str, what: &str| {
            serde_json::json!({
                "type": "object", "description": what, "additionalProperties": false,
                "properties": { key: { "type": "string", "minLength": 1 } }, "required": [key],
            })
        };
        schemars::json_schema!({
            "description": "Text, or where it comes from; read when it is needed, not when the file is.",
            "anyOf": [
                { "type": "string" },
                from("env", "A variable of ferry's own environment, or of an env file."),
                from("file", "The content of a file, less the line break at its end."),
                from("command", "What a command writes, less the line break at its end."),
            ],
        })
    }
}

/// Variables by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables(pub std::collections::BTreeMap<String, Source>);

/// Whether a variable may have this name.
pub fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

impl<'de> Deserialize<'de> for Variables {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;

        impl<'de> Visitor<'de> for Table {
            type Value = Variables;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table such as `{ KEY = \"value\" }`")
            }

            // The text that stands there instead may be a secret.
            fn visit_str<E: de::Error>(self, _: &str) -> Result<Variables, E> {
                Err(E::custom("this must be a table such as `{ KEY = \"value\" }`"))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, _: A) -> Result<Variables, A::Error> {
                self.visit_str("")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Variables, A::Error> {
                let mut variables = Variables::default();
                while let Some(name) = map.next_key::<String>()? {
                    if !is_variable_name(&name) {
                        return Err(de::Error::custom(format!(
                            "`{}` cannot be the name of a variable",
                            name.escape_debug()
                        )));
                    }
                    variables.0.insert(name, map.next_value()?);
                }
                Ok(variables)
            }
        }

        deserializer.deserialize_any(Table)
    }
}

impl JsonSchema for Variables {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Variables".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let source = generator.subschema_for::<Source>();
        schemars::json_schema!({ "type": "object", "additionalProperties": source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form<T: TryFrom<String, Error = String> + fmt::Display>(table: &[(&str, Option<&str>)]) {
        for (text, expected) in table {
            let found = T::try_from((*text).to_owned()).ok().map(|value| value.to_string());
            assert_eq!(found.as_deref(), *expected, "{text:?}");
        }
    }

    #[test]
    fn a_name_is_a_slug() {
        form::<Name>(&[
            ("bear", Some("bear")),
            ("my-notes_2", Some("my-notes_2")),
            ("Bär", Some("Bär")),
            ("-", None),
            ("", None),
            ("a b", None),
            ("a/b", None),
            ("a.b", None),
        ]);
        assert!(Name::try_from("x".repeat(65)).is_err());
    }

    #[test]
    fn a_path_is_what_the_router_compares() {
        form::<UrlPath>(&[
            ("/bear", Some("/bear")),
            ("/bear/", Some("/bear")),
            ("/bear//", Some("/bear")),
            ("/", Some("/")),
            ("//", Some("/")),
            ("/a/b.c~d@1", Some("/a/b.c~d@1")),
            ("bear", None),
            ("", None),
            ("/a//b", None),
            ("/a/../b", None),
            ("/.", None),
            ("/a b", None),
            ("/a?b", None),
            ("/a#b", None),
            ("/%61", None),
            ("/ä", None),
            ("/healthz", None),
            ("/healthz/", None),
            ("/metrics", None),
            ("/.well-known", None),
            ("/.well-known/x", None),
            ("/.well-knownish", Some("/.well-knownish")),
            ("/healthz/x", Some("/healthz/x")),
        ]);
    }

    #[test]
    fn a_host_is_a_name_alone() {
        form::<Hostname>(&[
            ("Bridge.example.com", Some("bridge.example.com")),
            ("localhost", Some("localhost")),
            ("https://bridge.example.com", None),
            ("bridge.example.com:443", None),
            ("bridge.example.com/", None),
            ("bridge..com", None),
            ("", None),
        ]);
    }

    #[test]
    fn a_session_lasts_as_cloudflare_writes_it() {
        form::<SessionDuration>(&[
            ("168h", Some("168h")),
            ("24h", Some("24h")),
            ("1h30m", Some("1h30m")),
            ("1.5h", Some("1.5h")),
            ("500ms", Some("500ms")),
            ("168", None),
            ("h", None),
            ("1d", None),
            ("", None),
        ]);
    }

    #[test]
    fn a_listener_is_an_address_or_off() {
        for (text, expected) in [
            ("off", Some(LocalListen::Off)),
            ("0.0.0.0:80", Some(LocalListen::At(([0, 0, 0, 0], 80).into()))),
            ("localhost:0", Some(LocalListen::At(([127, 0, 0, 1], 0).into()))),
            ("[::1]:8765", Some(LocalListen::At("[::1]:8765".parse().unwrap()))),
            ("127.0.0.1", None),
            (":8765", None),
            ("8765", None),
        ] {
            assert_eq!(LocalListen::try_from(text.to_owned()).ok(), expected, "{text}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let literal = Source::Literal(SecretText(Secret::new("hunter2")));
        let command = Source::Command(vec!["op".to_owned(), "hunter2".to_owned()]);
        assert_eq!(format!("{literal:?} {command:?}"), "**** { command = \"op\" … }");
    }
}
