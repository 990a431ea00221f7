//! What there should be at Cloudflare, from what the user said.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::secret::Secret;

/// The name that the Python tool gives its one policy, shared by all its deployments of an account.
pub const PYTHON_POLICY: &str = "mcp-ferry allow-list";

/// The name of the Google login, the Python tool's as well.
pub const GOOGLE_NAME: &str = "Google (mcp-ferry)";

/// How long an access token of a client lives, as with the Python tool.
const ACCESS_TOKEN_LIFETIME: &str = "1h";

/// What an application of type `mcp` does not have.
const NOT_FOR_MCP: &[&str] = &[
    "domain",
    "app_launcher_visible",
    "cors_headers",
    "enable_binding_cookie",
    "path_cookie_attribute",
    "skip_interstitial",
    "service_auth_401_redirect",
    "read_service_tokens_from_header",
    "mfa_config",
];

/// What Cloudflare writes into an application by itself; `self_hosted_domains` is what `destinations` replaced.
const READ_ONLY: &[&str] = &["id", "uid", "aud", "created_at", "updated_at", "self_hosted_domains"];

/// How people log in.
#[derive(Debug, Clone)]
pub enum Login {
    /// A code by mail.
    OneTimePin,
    /// With Google.
    Google {
        /// The client id of the Google project.
        client_id: String,
        /// Its secret; without it only what is there already can be kept.
        client_secret: Option<Secret>,
    },
    /// Through a provider that exists, by its name.
    Existing(String),
}

/// What there should be.
#[derive(Debug, Clone)]
pub struct Desired {
    /// The public name.
    pub hostname: String,
    /// The name of the tunnel in the configuration.
    pub tunnel_name: String,
    /// The file for the tunnel's credentials, if not the usual one.
    pub credentials_file: Option<PathBuf>,
    /// The directory of the usual one.
    pub cloudflared_dir: PathBuf,
    /// Who may log in; never empty.
    pub emails: BTreeSet<String>,
    /// How.
    pub login: Login,
    /// Where clients may be sent back to.
    pub redirect_uris: BTreeSet<String>,
    /// How long a login lasts.
    pub session_duration: String,
    /// Replace what is in the way at the hostname.
    pub force: bool,
    /// Remove what an earlier hostname left.
    pub remove_previous: bool,
}

impl Desired {
    /// The name of the application, the Python tool's as well.
    pub fn app_name(&self) -> String {
        format!("mcp-ferry ({})", self.hostname)
    }

    /// The name of the policy. It carries the hostname: policies belong to the whole account.
    pub fn policy_name(&self) -> String {
        format!("{PYTHON_POLICY} ({})", self.hostname)
    }

    /// The name of a tunnel made now. The usual name is that of every deployment, and two machines must not share a
    /// tunnel; a name that somebody chose is theirs, unless it is `taken` by a tunnel that cannot be used.
    pub fn new_tunnel_name(&self, taken: bool) -> String {
        if taken || self.tunnel_name == "mcp-ferry" {
            format!("{} ({})", self.tunnel_name, self.hostname)
        } else {
            self.tunnel_name.clone()
        }
    }

    /// Where the credentials of this tunnel belong. A configured file that is named for another tunnel was for that one.
    pub fn credentials_path(&self, tunnel_id: &str) -> PathBuf {
        let usual = self.cloudflared_dir.join(format!("{tunnel_id}.json"));
        match &self.credentials_file {
            Some(file) if !is_named_for_another(file, tunnel_id) => file.clone(),
            _ => usual,
        }
    }

    /// The policy.
    pub fn policy(&self) -> Value {
        let include: Vec<Value> = self.emails.iter().map(|email| json!({ "email": { "email": email } })).collect();
        json!({ "name": self.policy_name(), "decision": "allow", "include": include, "exclude": [], "require": [] })
    }

    /// The DNS record.
    pub fn record(&self, tunnel_id: &str, comment: Option<&Value>) -> Value {
        let comment = comment.filter(|comment| comment.is_string()).cloned();
        json!({
            "type": "CNAME",
            "name": self.hostname,
            "content": target(tunnel_id),
            "ttl": 1,
            "proxied": true,
            "comment": comment.unwrap_or_else(|| json!("mcp-ferry: tunnel target")),
        })
    }

    /// The whole application, as one PUT must send it: what is there, with every managed field as it should be.
    pub fn app(&self, current: Option<&Value>, provider_id: &str, policy_id: &str) -> Value {
        let mut app = current.and_then(Value::as_object).cloned().unwrap_or_default();
        let is_mcp = app.get("type").and_then(Value::as_str) == Some("mcp");
        app.retain(|key, value| !READ_ONLY.contains(&key.as_str()) && !value.is_null());
        if is_mcp {
            app.retain(|key, _| !NOT_FOR_MCP.contains(&key.as_str()));
        } else {
            // The type of one that exists cannot be changed.
            app.entry("type").or_insert_with(|| json!("self_hosted"));
            app.insert("domain".to_owned(), json!(self.hostname));
        }
        app.entry("name").or_insert_with(|| json!(self.app_name()));
        app.insert("destinations".to_owned(), json!([{ "type": "public", "uri": self.hostname }]));
        app.insert("allowed_idps".to_owned(), json!([provider_id]));
        app.insert("auto_redirect_to_identity".to_owned(), json!(true));
        keep_equal_duration(&mut app, "session_duration", &self.session_duration);
        app.insert("policies".to_owned(), policies(current, policy_id));
        let oauth = app.entry("oauth_configuration").or_insert_with(|| json!({}));
        oauth_configuration(object(oauth), &self.redirect_uris, &self.session_duration);
        Value::Object(app)
    }
}

fn is_named_for_another(file: &std::path::Path, tunnel_id: &str) -> bool {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let is_uuid = stem.len() == 36 && stem.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_uuid && !stem.eq_ignore_ascii_case(tunnel_id)
}

/// What the record points to.
pub fn target(tunnel_id: &str) -> String {
    format!("{tunnel_id}.cfargotunnel.com")
}

/// Ours first. Of others' policies those stay that only narrow or that let services in: any other way in is one that the
/// list of addresses does not show.
fn policies(current: Option<&Value>, policy_id: &str) -> Value {
    let there = current.and_then(|app| app.get("policies")?.as_array().cloned()).unwrap_or_default();
    let stays = |policy: &&Value| {
        policy["id"] != policy_id && matches!(policy["decision"].as_str(), Some("deny" | "non_identity"))
    };
    let kept: Vec<&Value> = there.iter().filter(stays).filter_map(|policy| policy.get("id")).collect();
    // A denial counts before what it is to narrow.
    let denies = |id: &Value| there.iter().any(|policy| policy["id"] == *id && policy["decision"] == "deny");
    let (first, last): (Vec<&Value>, Vec<&Value>) = kept.into_iter().partition(|id| denies(id));
    let ours = json!(policy_id);
    let order = first.into_iter().chain([&ours]).chain(last).zip(1..);
    order.map(|(id, precedence)| json!({ "id": id, "precedence": precedence })).collect()
}

fn oauth_configuration(oauth: &mut Map<String, Value>, redirect_uris: &BTreeSet<String>, session_duration: &str) {
    oauth.insert("enabled".to_owned(), json!(true));
    let registration = object(oauth.entry("dynamic_client_registration").or_insert_with(|| json!({})));
    registration.insert("enabled".to_owned(), json!(true));
    registration.insert("allow_any_on_localhost".to_owned(), json!(true));
    registration.insert("allow_any_on_loopback".to_owned(), json!(true));
    registration.insert("allowed_uris".to_owned(), json!(redirect_uris));
    let grant = object(oauth.entry("grant").or_insert_with(|| json!({})));
    if !grant.get("access_token_lifetime").is_some_and(Value::is_string) {
        grant.insert("access_token_lifetime".to_owned(), json!(ACCESS_TOKEN_LIFETIME));
    }
    keep_equal_duration(grant, "session_duration", session_duration);
}

/// The object in this place, made one where it is something else.
fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it was made an object above")
}

/// `168h` and `168h0m0s` are one: what says the same stays as it is written.
fn keep_equal_duration(object: &mut Map<String, Value>, key: &str, wanted: &str) {
    let there = object.get(key).and_then(Value::as_str).and_then(milliseconds);
    if there.is_none() || there != milliseconds(wanted) {
        object.insert(key.to_owned(), json!(wanted));
    }
}

/// A duration as Go writes it, to the millisecond.
fn milliseconds(text: &str) -> Option<u64> {
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| c != '.' && !c.is_ascii_digit())?);
        let (unit, tail) = tail.split_at(tail.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(tail.len()));
        let factor = match unit {
            "h" => 3_600_000.0,
            "m" => 60_000.0,
            "s" => 1000.0,
            "ms" => 1.0,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * factor;
        rest = tail;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and saturating")]
    (!text.is_empty()).then_some(total.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn desired() -> Desired {
        Desired {
            hostname: "bridge.example.com".to_owned(),
            tunnel_name: "mcp-ferry".to_owned(),
            credentials_file: None,
            cloudflared_dir: "/home/ada/.cloudflared".into(),
            emails: ["ada@example.com".to_owned()].into(),
            login: Login::OneTimePin,
            redirect_uris: ["https://a.example/cb".to_owned()].into(),
            session_duration: "168h".to_owned(),
            force: false,
            remove_previous: false,
        }
    }

    #[test]
    fn an_application_keeps_what_is_not_managed() {
        let current = json!({
            "id": "app", "aud": "x", "type": "self_hosted", "name": "mine", "logo_url": "https://l", "tags": ["t"],
            "session_duration": "168h0m0s", "custom_deny_url": null,
            "policies": [
                { "id": "open", "decision": "bypass" }, { "id": "robots", "decision": "non_identity" },
                { "id": "not-him", "decision": "deny" },
            ],
            "oauth_configuration": { "enabled": false, "later": 1, "grant": { "access_token_lifetime": "15m" } },
        });
        let app = desired().app(Some(&current), "idp", "ours");
        assert_eq!(app["name"], "mine");
        assert_eq!(app["logo_url"], "https://l");
        assert_eq!(app["session_duration"], "168h0m0s");
        assert_eq!(app["oauth_configuration"]["enabled"], true);
        assert_eq!(app["oauth_configuration"]["later"], 1);
        assert_eq!(
            app["oauth_configuration"]["grant"],
            json!({ "access_token_lifetime": "15m", "session_duration": "168h" })
        );
        let order: Vec<&str> = app["policies"].as_array().unwrap().iter().map(|p| p["id"].as_str().unwrap()).collect();
        assert_eq!(order, ["not-him", "ours", "robots"]);
        for gone in ["id", "aud", "custom_deny_url"] {
            assert!(app.get(gone).is_none(), "{gone}");
        }
        assert_eq!(desired().app(Some(&app), "idp", "ours")["oauth_configuration"], app["oauth_configuration"]);
    }

    #[test]
    fn an_mcp_application_gets_no_field_that_it_cannot_have() {
        let app = desired().app(Some(&json!({ "type": "mcp", "domain": "x", "name": "n" })), "i", "p");
        assert_eq!((app["type"].as_str(), app.get("domain")), (Some("mcp"), None));
    }

    #[test]
    fn durations_are_compared_by_what_they_say() {
        for (text, expected) in [
            ("168h", Some(604_800_000)),
            ("1h30m", Some(5_400_000)),
            ("1.5h", Some(5_400_000)),
            ("500ms", Some(500)),
            ("", None),
            ("1d", None),
            ("5", None),
        ] {
            assert_eq!(milliseconds(text), expected, "{text}");
        }
    }

    #[test]
    fn credentials_go_where_the_configuration_says_unless_that_is_another_tunnels() {
        let mut desired = desired();
        let id = "11111111-2222-3333-4444-555555555555";
        let usual = desired.cloudflared_dir.join(format!("{id}.json"));
        assert_eq!(desired.credentials_path(id), usual);
        desired.credentials_file = Some("/etc/ferry/tunnel.json".into());
        assert_eq!(desired.credentials_path(id), PathBuf::from("/etc/ferry/tunnel.json"));
        desired.credentials_file = Some("/x/99999999-2222-3333-4444-555555555555.json".into());
        assert_eq!(desired.credentials_path(id), usual);
    }
}
