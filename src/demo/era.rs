//! Legacy or modern? One process serves one era, and the client's first real request says which.
//!
//! As the TypeScript SDK does it: `server/discover` may be asked first and fixes nothing, so that a client can look and
//! then still send `initialize`. Any other request with a modern `_meta` makes the process modern, any request without
//! one makes it legacy; after that no request is looked at for its era again.

use serde_json::Value;

use super::wire::{Object, RpcError};

pub(super) const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
pub(super) const LATEST_LEGACY: &str = LEGACY[3];
pub(super) const MODERN: [&str; 1] = ["2026-07-28"];

const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";

/// What the process has become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Era {
    Open,
    Legacy(Session),
    Modern,
}

/// What `initialize` settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) version: &'static str,
    pub(super) can_elicit: bool,
}

/// Who asks, for the length of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    Legacy(Session),
    Modern { can_elicit: bool, log_level: Option<Level> },
}

impl Caller {
    pub(super) fn is_modern(self) -> bool {
        matches!(self, Self::Modern { .. })
    }

    /// Whether results may hold what 2025-06-18 brought, such as links to resources.
    pub(super) fn knows_resource_links(self) -> bool {
        match self {
            Self::Legacy(session) => session.version >= "2025-06-18",
            Self::Modern { .. } => true,
        }
    }
}

impl Era {
    /// Finds out who sent this request, or why it cannot be served.
    pub(super) fn admit(&mut self, method: &str, params: &Object) -> Result<Caller, RpcError> {
        let claims_modern = meta(params).is_some_and(|meta| meta.contains_key(PROTOCOL_VERSION));
        match *self {
            Self::Open if claims_modern => {
                let caller = modern_caller(params)?;
                if method != "server/discover" {
                    *self = Self::Modern;
                }
                Ok(caller)
            }
            Self::Open => {
                // Not every client waits for `initialize`; one that does not is served as one that can do nothing.
                let session = Session { version: LATEST_LEGACY, can_elicit: false };
                *self = Self::Legacy(session);
                Ok(Caller::Legacy(session))
            }
            Self::Legacy(session) => Ok(Caller::Legacy(session)),
            Self::Modern if method == "initialize" && !claims_modern => {
                let requested = params.get("protocolVersion").and_then(Value::as_str);
                Err(RpcError::unsupported_version(&MODERN, requested))
            }
            Self::Modern => modern_caller(params),
        }
    }

    /// Carries out `initialize`: a session at the version asked for, or at the latest one that has sessions.
    pub(super) fn open_session(&mut self, params: &Object) -> Result<Session, RpcError> {
        let asked = params.get("protocolVersion").and_then(Value::as_str);
        let asked = asked.ok_or_else(|| RpcError::invalid_params("`protocolVersion` is missing"))?;
        let session = Session {
            version: LEGACY.into_iter().find(|known| *known == asked).unwrap_or(LATEST_LEGACY),
            can_elicit: params.get("capabilities").is_some_and(can_elicit),
        };
        *self = Self::Legacy(session);
        Ok(session)
    }
}

fn meta(params: &Object) -> Option<&Object> {
    params.get("_meta").and_then(Value::as_object)
}

fn modern_caller(params: &Object) -> Result<Caller, RpcError> {
    let lacks = |key: &str| RpcError::invalid_params(format!("`_meta` needs `{key}`"));
    let meta = meta(params).ok_or_else(|| lacks(PROTOCOL_VERSION))?;
    let version = meta.get(PROTOCOL_VERSION).and_then(Value::as_str).ok_or_else(|| lacks(PROTOCOL_VERSION))?;
    let capabilities = meta.get(CLIENT_CAPABILITIES).filter(|capabilities| capabilities.is_object());
    let capabilities = capabilities.ok_or_else(|| lacks(CLIENT_CAPABILITIES))?;
    if !MODERN.contains(&version) {
        return Err(RpcError::unsupported_version(&MODERN, Some(version)));
    }
    let log_level = match meta.get(LOG_LEVEL) {
        None => None,
        Some(level) => {
            Some(Level::parse(level).ok_or_else(|| RpcError::invalid_params(format!("`{LOG_LEVEL}` is no level")))?)
        }
    };
    Ok(Caller::Modern { can_elicit: can_elicit(capabilities), log_level })
}

/// Whether a client with these capabilities can show a form: said outright, or by an empty `elicitation`, which is how
/// it was said before there was any other kind.
fn can_elicit(capabilities: &Value) -> bool {
    match capabilities.get("elicitation") {
        Some(Value::Object(kinds)) => kinds.is_empty() || kinds.contains_key("form"),
        _ => false,
    }
}

/// How serious a log message is, as in syslog; more serious is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Level(usize);

impl Level {
    const NAMES: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];
    pub(super) const DEBUG: Self = Self(0);
    pub(super) const INFO: Self = Self(1);

    pub(super) fn parse(name: &Value) -> Option<Self> {
        let name = name.as_str()?;
        Self::NAMES.iter().position(|known| *known == name).map(Self)
    }

    pub(super) fn name(self) -> &'static str {
        Self::NAMES[self.0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn modern(version: &str) -> Object {
        object(&json!({ "_meta": { PROTOCOL_VERSION: version, CLIENT_CAPABILITIES: {} } }))
    }

    fn object(value: &Value) -> Object {
        value.as_object().expect("the test wrote an object").clone()
    }

    const SESSION: Session = Session { version: LATEST_LEGACY, can_elicit: false };

    #[test]
    fn the_first_request_that_is_no_probe_fixes_the_era() {
        use Era::{Legacy, Modern, Open};
        let enveloped = || modern("2026-07-28");
        for (era, method, params, becomes, refused) in [
            (Open, "server/discover", enveloped(), Open, None),
            (Open, "tools/list", enveloped(), Modern, None),
            (Open, "initialize", Object::new(), Legacy(SESSION), None),
            (Open, "tools/list", Object::new(), Legacy(SESSION), None),
            // What is refused has fixed nothing.
            (Open, "tools/list", modern("2099-01-01"), Open, Some(-32022)),
            (Open, "tools/list", object(&json!({ "_meta": { PROTOCOL_VERSION: "2026-07-28" } })), Open, Some(-32602)),
            (Open, "tools/list", object(&json!({ "_meta": { PROTOCOL_VERSION: 7 } })), Open, Some(-32602)),
            (Legacy(SESSION), "tools/list", enveloped(), Legacy(SESSION), None),
            (Modern, "tools/list", enveloped(), Modern, None),
            (Modern, "initialize", enveloped(), Modern, None), // a method that modern servers do not have: not said here
            (Modern, "initialize", Object::new(), Modern, Some(-32022)),
            (Modern, "tools/list", Object::new(), Modern, Some(-32602)),
        ] {
            let mut now = era;
            let admitted = now.admit(method, &params);
            assert_eq!(now, becomes, "{method} while {era:?}");
            assert_eq!(admitted.err().map(|error| error.code), refused, "{method} while {era:?}");
        }
    }

    #[test]
    fn a_session_has_the_version_asked_for_if_it_can() {
        for (asked, gets) in [
            ("2024-11-05", "2024-11-05"),
            ("2025-06-18", "2025-06-18"),
            ("2026-07-28", "2025-11-25"),
            ("1.0", "2025-11-25"),
        ] {
            let session = Era::Open.open_session(&object(&json!({ "protocolVersion": asked })));
            assert_eq!(session.map(|session| session.version), Ok(gets), "asked for {asked}");
        }
        assert!(Era::Open.open_session(&Object::new()).is_err());
    }

    #[test]
    fn a_form_needs_a_client_that_shows_forms() {
        for (capabilities, can) in [
            (json!({}), false),
            (json!({ "elicitation": {} }), true),
            (json!({ "elicitation": { "form": {} } }), true),
            (json!({ "elicitation": { "url": {} } }), false),
            (json!({ "elicitation": null }), false),
        ] {
            assert_eq!(can_elicit(&capabilities), can, "{capabilities}");
        }
    }

    #[test]
    fn levels_are_ordered_as_in_syslog() {
        let level = |name: &str| Level::parse(&json!(name));
        assert!(level("emergency") > level("error"));
        assert_eq!(level("info"), Some(Level::INFO));
        assert_eq!(level("loud"), None);
        assert_eq!(Level::DEBUG.name(), "debug");
    }
}
