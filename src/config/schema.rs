//! The configuration file: every key there is, once, with what it means. What is read ([`super::load`]), the JSON Schema
//! (`ferry config schema`) and the list of known keys all come from here.
//!
//! Deliberately absent: keys of functions that ferry does not have yet. [`NOT_YET`] names them, so that whoever writes
//! one is told, instead of being left with a server that is more open than its configuration says.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::limits::Limits;
use super::values::{
    Hostname, LocalListen, LogFilter, Name, PathText, Port, Positive, Seconds, SessionDuration, Source, UrlPath,
    Variables,
};

/// Keys of `[[mcps]]` that are known and do nothing yet.
pub const NOT_YET: &[&str] = &["allow_tools", "allowed_emails", "deny_tools", "read_only"];

/// The configuration of ferry.
// Read for its keys and its schema only: `load` reads it section by section, so that one broken server is one.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "ferry's config.toml")]
pub struct File {
    /// What clients connect to.
    pub bridge: Bridge,
    /// The Cloudflare account, for `ferry setup`; without it ferry is for this machine only.
    pub cloudflare: Option<Cloudflare>,
    /// Who may come in through the tunnel.
    pub access: Access,
    /// How the tunnel runs.
    pub tunnel: Tunnel,
    /// ferry's own log, and those of its servers.
    pub logging: Logging,
    /// The servers.
    pub mcps: Vec<Mcp>,
}

/// `[bridge]`: what clients connect to.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Bridge {
    /// The public name, such as `bridge.example.com`.
    pub hostname: Option<Hostname>,
    /// The port on 127.0.0.1; 0 takes any free one. 8765 unless it is set.
    pub local_port: Port,
    /// Listen on this `ADDRESS:PORT` instead of 127.0.0.1, or `off`. An address that other machines can reach needs
    /// `local_token`.
    pub local_listen: Option<LocalListen>,
    /// What clients of the local listener must send as `Authorization: Bearer`.
    pub local_token: Option<Source>,
    /// Files of `KEY=value` lines, read as if they were part of ferry's environment.
    pub env_files: Vec<PathText>,
    /// Web pages that may call ferry, such as `https://app.example.com`, beside those of this machine.
    pub allowed_origins: Vec<String>,
    /// Names under which the local listener is reached, beside `localhost` and its address.
    pub allowed_hosts: Vec<String>,
    /// Seconds that ferry has to stop. 9 unless it is set: Docker gives 10, launchd 20.
    pub shutdown_timeout: Option<Seconds>,
    /// Bounds: times in seconds, sizes in bytes.
    pub limits: Limits,
}

/// `[cloudflare]`: what `ferry setup` makes there.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cloudflare {
    /// The name of the tunnel.
    pub tunnel_name: String,
    /// The credentials of the tunnel, `~/.cloudflared/<tunnel-id>.json`; found by itself where it is absent.
    pub credentials_file: Option<PathText>,
    /// The account, so that the API token needs no permission to list accounts.
    pub account_id: Option<String>,
    /// The zone of the hostname, so that the API token needs no permission to list zones.
    pub zone_id: Option<String>,
    /// Replaces the built-in list of addresses to which hosted clients are sent back after their login.
    pub allowed_redirect_uris: Option<Vec<String>>,
    /// Added to the built-in list.
    pub extra_redirect_uris: Vec<String>,
    /// The hosted clients to let in, such as `["claude", "chatgpt"]`.
    pub clients: Option<Vec<String>>,
    /// How long a login lasts: `24h`, `168h` (a week), `730h` (a month).
    pub session_duration: SessionDuration,
    /// The login method: `google`, `otp`, or the name of one that exists.
    pub identity_provider: Option<String>,
    /// Who may log in.
    pub emails: Vec<String>,
}

impl Default for Cloudflare {
    fn default() -> Self {
        Self {
            tunnel_name: "mcp-ferry".to_owned(),
            credentials_file: None,
            account_id: None,
            zone_id: None,
            allowed_redirect_uris: None,
            extra_redirect_uris: Vec::new(),
            clients: None,
            session_duration: "168h".parse().expect("168h is a duration"),
            identity_provider: None,
            emails: Vec::new(),
        }
    }
}

/// `[access]`: how an assertion of Cloudflare Access is checked.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// The team, such as `example.cloudflareaccess.com`.
    pub team_domain: Option<Hostname>,
    /// The audience tag of the application, or several.
    pub audience: Option<OneOrMany>,
    /// Where the signing keys are, if not at the team domain.
    pub keys_url: Option<String>,
}

/// A text, or a list of texts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// `[tunnel]`: how cloudflared runs.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tunnel {
    /// Who runs cloudflared: ferry, somebody else, or nobody.
    pub mode: Option<TunnelMode>,
    /// cloudflared, if not on the PATH.
    pub binary: Option<PathText>,
    /// How cloudflared talks to Cloudflare.
    pub protocol: Option<TunnelProtocol>,
    /// Which IP version it talks over: `auto`, `4` or `6`.
    pub edge_ip_version: Option<IpVersion>,
    /// Where a cloudflared that runs elsewhere reaches ferry: `ADDRESS:PORT` or `unix:PATH`.
    pub listen: Option<String>,
}

/// Who runs cloudflared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TunnelMode {
    /// ferry.
    Managed,
    /// Somebody else.
    External,
    /// Nobody: there is no tunnel.
    Off,
}

/// How cloudflared talks to Cloudflare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TunnelProtocol {
    /// As it sees fit.
    Auto,
    /// Over TCP.
    Http2,
    /// Over UDP.
    Quic,
}

/// Which IP version cloudflared talks over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum IpVersion {
    /// As it sees fit.
    #[serde(rename = "auto")]
    Auto,
    /// IPv4.
    #[serde(rename = "4")]
    V4,
    /// IPv6.
    #[serde(rename = "6")]
    V6,
}

/// `[logging]`: ferry's own log, and those of its servers.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Logging {
    /// How lines look: `human` (the default) or `json`.
    pub format: Option<LogFormat>,
    /// Which lines are written: `info` (the default), `debug`, or a list such as `warn,mcp_ferry::bridge=debug`.
    /// `FERRY_LOG` outranks it.
    pub level: Option<LogFilter>,
    /// Bytes after which a server's log file is rotated. 10 MiB unless it is set.
    #[schemars(range(min = 4096))]
    pub max_bytes: Option<u64>,
    /// Rotated files that are kept. 4 unless it is set.
    #[schemars(range(max = 1000))]
    pub kept: Option<u32>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// `[[mcps]]`: one stdio server, at a path of its own.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "as the file has it")]
pub struct Mcp {
    /// What it is called in logs and commands: letters, digits, `-` and `_`.
    pub name: Name,
    /// Where it is served, such as `/bear`; `/` is allowed.
    pub path: UrlPath,
    /// What runs. Split like a shell, never run by one; a leading `~` of a word is the home directory. With `args` it is
    /// the program alone, and not split.
    pub command: Option<String>,
    /// The arguments, or, without `command`, the program and its arguments.
    pub args: Option<Vec<String>>,
    /// Variables for it: text, `{ env = "NAME" }`, `{ file = "path" }` or `{ command = "…" }`.
    #[serde(default)]
    pub env: Variables,
    /// A file of `KEY=value` lines for it; `env` outranks it. Relative to the configuration file.
    pub env_file: Option<PathText>,
    /// Whether it gets ferry's environment, less ferry's secrets. `true` unless it is set.
    #[serde(default = "yes")]
    pub inherit_env: bool,
    /// The directory it runs in. ferry's own unless it is set.
    pub cwd: Option<PathText>,
    /// Seconds that a call may take without a sign of progress. `limits.request_timeout` unless it is set.
    pub request_timeout: Option<Seconds>,
    /// Whether it is served at all. `true` unless it is set.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Which of ferry's own signals its processes get too.
    #[serde(default)]
    pub forward_signals: Vec<ForwardedSignal>,
    /// Who shares a process. `shared` unless it is set.
    #[serde(default)]
    pub isolation: Isolation,
    /// How many processes there may be at once where clients do not share one. 16 unless it is set.
    pub max_children: Option<Positive>,
    /// Seconds after which a process that nobody asks anything is ended, until the next request. Never unless it is set.
    pub idle_stop: Option<Seconds>,
    /// What the end of a process means for the sessions that had it alone. `rehandshake` unless it is set.
    #[serde(default)]
    pub on_exit: OnExit,
    /// Start it with ferry, not when the first client asks for it. `true` unless it is set.
    #[serde(default = "yes")]
    pub eager: bool,
    /// The era of MCP to open it in. `auto` unless it is set.
    #[serde(default)]
    pub era: Era,
    /// Which era to open where it has both, with `era = "auto"`. `modern` unless it is set.
    pub era_prefer: Option<EraPreference>,
    /// Which clients it serves. `both` unless it is set.
    #[serde(default)]
    pub serve: Serve,
    /// Bounds that are this server's own, instead of those in `[bridge]`.
    pub limits: Option<Limits>,
    /// Serve legacy clients without sessions: each request stands alone.
    #[serde(default)]
    pub legacy_stateless: bool,
    /// Serve clients of the HTTP+SSE transport of 2024-11-05 too, at `<path>/sse`. `true` unless it is set.
    #[serde(default = "yes")]
    pub sse: bool,
    /// Declare to a legacy server that its clients can be asked (sampling, elicitation).
    #[serde(default)]
    pub shared_interactive: bool,
    /// Declare just these capabilities to a legacy server.
    pub upstream_capabilities: Option<serde_json::Map<String, Value>>,
}

fn yes() -> bool {
    true
}

/// One of the signals that may be handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ForwardedSignal {
    /// SIGHUP.
    #[serde(rename = "HUP", alias = "SIGHUP")]
    Hup,
    /// SIGUSR1.
    #[serde(rename = "USR1", alias = "SIGUSR1")]
    Usr1,
    /// SIGUSR2.
    #[serde(rename = "USR2", alias = "SIGUSR2")]
    Usr2,
}

/// Who shares a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// All clients.
    #[default]
    Shared,
    /// Nobody: each session has its own.
    Session,
    /// All that one person does.
    User,
}

/// What the end of a process means for the sessions that had it alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnExit {
    /// They go on with the next process.
    #[default]
    Rehandshake,
    /// They end, since what the process knew is lost.
    EndSession,
}

/// The era of MCP to open a server in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Era {
    /// Found out.
    #[default]
    Auto,
    /// Up to 2025-11-25: `initialize` and sessions.
    Legacy,
    /// From 2026-07-28 on: `server/discover`, each request by itself.
    Modern,
}

/// Which era to open where a server has both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EraPreference {
    /// `initialize`, which more clients reach in this version.
    Legacy,
    /// `server/discover`.
    Modern,
}

/// Which clients a server is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Serve {
    /// All.
    #[default]
    Both,
    /// Modern ones.
    Modern,
    /// Legacy ones; those of both eras fall back to `initialize`.
    Legacy,
}

/// The JSON Schema of the file, for editors.
pub fn json_schema() -> Value {
    let mut schema = schemars::schema_for!(File).to_value();
    drop_nulls(&mut schema);
    schema
}

/// TOML has no null: a key that may be absent is absent.
fn drop_nulls(schema: &mut Value) {
    match schema {
        Value::Array(values) => values.iter_mut().for_each(drop_nulls),
        Value::Object(object) => {
            object.values_mut().for_each(drop_nulls);
            if object.get("default") == Some(&Value::Null) {
                object.remove("default");
            }
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = &types[..] {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
                choices.retain(|choice| choice.get("type") != Some(&Value::from("null")));
                if let [Value::Object(only)] = &choices[..] {
                    let only = only.clone();
                    object.remove("anyOf");
                    object.extend(only);
                }
            }
        }
        _ => {}
    }
}
