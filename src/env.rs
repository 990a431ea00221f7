//! Every environment variable that ferry reads or sets, in one place.

/// Where the machine-written state lives, instead of `~/.local/state/mcp-ferry`.
pub const FERRY_STATE_DIR: &str = "FERRY_STATE_DIR";

/// Where sockets live, instead of `$XDG_RUNTIME_DIR/mcp-ferry`.
pub const FERRY_RUNTIME_DIR: &str = "FERRY_RUNTIME_DIR";

/// The configuration file, instead of `~/.config/mcp-ferry/config.toml`.
pub const FERRY_CONFIG: &str = "FERRY_CONFIG";

/// cloudflared, where the configuration names none: set by packages that bring their own.
pub const FERRY_CLOUDFLARED: &str = "FERRY_CLOUDFLARED";

/// The base of [`FERRY_CONFIG`]'s default, instead of `~/.config` (XDG Base Directory Specification).
pub const XDG_CONFIG_HOME: &str = "XDG_CONFIG_HOME";

/// The user's home; where it is unset (some service managers), the password database knows.
pub const HOME: &str = "HOME";

/// The base of [`FERRY_STATE_DIR`]'s default, instead of `~/.local/state` (XDG Base Directory Specification).
pub const XDG_STATE_HOME: &str = "XDG_STATE_HOME";

/// The base of [`FERRY_RUNTIME_DIR`]'s default; there on Linux with a login session (XDG Base Directory Specification).
pub const XDG_RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";

/// What is logged, in the syntax of `tracing`'s `EnvFilter`, e.g. `info,mcp_ferry::bridge=debug`.
pub const FERRY_LOG: &str = "FERRY_LOG";

/// Set in every child: the id of the run that started it, so that leftovers of a killed run can be told from
/// processes that merely have the same pid.
pub const MCP_FERRY_RUN: &str = "MCP_FERRY_RUN";

/// The API token of `ferry setup` and `ferry teardown`.
pub const CLOUDFLARE_API_TOKEN: &str = "CLOUDFLARE_API_TOKEN";

/// The account, instead of `account_id` in the configuration.
pub const CLOUDFLARE_ACCOUNT_ID: &str = "CLOUDFLARE_ACCOUNT_ID";

/// The zone, instead of `zone_id` in the configuration.
pub const CLOUDFLARE_ZONE_ID: &str = "CLOUDFLARE_ZONE_ID";

/// Where Cloudflare's API is, as in its official SDKs.
pub const CLOUDFLARE_BASE_URL: &str = "CLOUDFLARE_BASE_URL";

/// The client id of a Google project, for logging in with Google.
pub const GOOGLE_CLIENT_ID: &str = "GOOGLE_CLIENT_ID";

/// Its secret.
pub const GOOGLE_CLIENT_SECRET: &str = "GOOGLE_CLIENT_SECRET";

/// Prefixes of ferry's own secrets and settings; no child gets a variable that starts with one of these.
pub const WITHHELD_PREFIXES: &[&str] = &["CLOUDFLARE_", "TUNNEL_", "GOOGLE_CLIENT_", "FERRY_"];

/// What cloudflared would read as settings of its own; ferry alone decides how it runs.
pub const CLOUDFLARED_SETTINGS: &[&str] = &["NO_AUTOUPDATE", "NO_TLS_VERIFY"];

/// Prefix of further settings of cloudflared's.
pub const CLOUDFLARED_PREFIX: &str = "TUNNEL_";

/// Variables of ferry's own service manager; a child that inherited them would speak to it in ferry's name.
pub const MANAGER_VARIABLES: &[&str] = &["NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY"];

/// Prefixes of further variables of ferry's own service manager.
pub const MANAGER_PREFIXES: &[&str] = &["WATCHDOG_", "LISTEN_"];

/// What a child gets of ferry's environment with `inherit_env = false`.
pub const MINIMAL: &[&str] = &["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TMPDIR", "TZ"];
