//! Every environment variable that ferry reads or sets, in one place.

/// Where the machine-written state lives, instead of `~/.local/state/mcp-ferry`.
pub const FERRY_STATE_DIR: &str = "FERRY_STATE_DIR";

/// Where sockets live, instead of `$XDG_RUNTIME_DIR/mcp-ferry`.
pub const FERRY_RUNTIME_DIR: &str = "FERRY_RUNTIME_DIR";

/// The configuration file, instead of `~/.config/mcp-ferry/config.toml`.
pub const FERRY_CONFIG: &str = "FERRY_CONFIG";

/// What is logged, in the syntax of `tracing`'s `EnvFilter`, e.g. `info,mcp_ferry::bridge=debug`.
pub const FERRY_LOG: &str = "FERRY_LOG";

/// Set in every child: the id of the run that started it, so that leftovers of a killed run can be told from
/// processes that merely have the same pid.
pub const MCP_FERRY_RUN: &str = "MCP_FERRY_RUN";

/// Prefixes of ferry's own secrets and settings; no child gets a variable that starts with one of these.
pub const WITHHELD_PREFIXES: &[&str] = &["CLOUDFLARE_", "TUNNEL_", "GOOGLE_CLIENT_", "FERRY_"];

/// Variables of ferry's own service manager; a child that inherited them would speak to it in ferry's name.
pub const MANAGER_VARIABLES: &[&str] = &["NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY"];

/// Prefixes of further variables of ferry's own service manager.
pub const MANAGER_PREFIXES: &[&str] = &["WATCHDOG_", "LISTEN_"];

/// What a child gets of ferry's environment with `inherit_env = false`.
pub const MINIMAL: &[&str] = &["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TMPDIR", "TZ"];
