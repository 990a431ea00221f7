//! `ferry urls`: where the servers are reached from outside, and how each client is told.

use std::fmt::Write as _;

use super::change::ConfigArg;
use super::output;
use crate::config::load::{Config, ConfigError};
use crate::error::{Advise, Exit};

/// Arguments of `ferry urls`.
#[derive(Debug, clap::Args)]
pub(super) struct Urls {
    #[command(flatten)]
    config: ConfigArg,

    /// Just this server.
    name: Option<String>,

    /// Just this client.
    #[arg(long, value_enum)]
    client: Option<Client>,

    /// Print them as JSON.
    #[arg(long)]
    json: bool,
}

/// Clients that can be told how to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Client {
    Claude,
    Chatgpt,
    ClaudeCode,
    Cursor,
    Vscode,
    Inspector,
}

const CLIENTS: [Client; 6] =
    [Client::Claude, Client::Chatgpt, Client::ClaudeCode, Client::Cursor, Client::Vscode, Client::Inspector];

/// Why there are none.
#[derive(Debug, thiserror::Error)]
enum UrlsError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("there is no public name: `hostname` below `[bridge]` is not set")]
    NoHostname,
    #[error("there is no server `{0}`")]
    NoSuchServer(String),
}

impl Advise for UrlsError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.hint(),
            Self::NoHostname => Some("set it, then run `ferry setup`".to_owned()),
            Self::NoSuchServer(_) => Some("`ferry list` shows them".to_owned()),
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Config(error) => error.exit(),
            Self::NoHostname => Exit::Configuration,
            Self::NoSuchServer(_) => Exit::Failed,
        }
    }
}

pub(super) fn run(arguments: &Urls) -> Result<Exit, Box<dyn Advise>> {
    let text = answer(arguments).map_err(|error| Box::new(error) as Box<dyn Advise>)?;
    output::print(&text);
    Ok(Exit::Stopped)
}

fn answer(arguments: &Urls) -> Result<String, UrlsError> {
    let mut config = Config::load(&arguments.config.located()?)?;
    let hostname = config.bridge.hostname.clone().ok_or(UrlsError::NoHostname)?;
    if let Some(name) = &arguments.name {
        config.servers.retain(|server| server.mcp.name.as_str() == name);
        if config.servers.is_empty() {
            return Err(UrlsError::NoSuchServer(name.clone()));
        }
    }
    if !arguments.json {
        return Ok(text(&config, hostname.as_str(), arguments.client));
    }
    let servers: Vec<serde_json::Value> = servers(&config, hostname.as_str())
        .map(|(name, url)| {
            let chosen = CLIENTS.into_iter().filter(|client| arguments.client.is_none_or(|only| only == *client));
            let clients: serde_json::Map<String, serde_json::Value> =
                chosen.map(|client| (key(client), line(client, name, &url).into())).collect();
            serde_json::json!({ "name": name, "url": url, "clients": clients })
        })
        .collect();
    Ok(format!("{}\n", serde_json::to_string_pretty(&servers).unwrap_or_default()))
}

/// The name of a client on the command line.
fn key(client: Client) -> String {
    use clap::ValueEnum as _;
    client.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn servers<'a>(config: &'a Config, hostname: &'a str) -> impl Iterator<Item = (&'a str, String)> {
    let enabled = config.servers.iter().filter(|server| server.mcp.enabled);
    enabled.map(move |server| (server.mcp.name.as_str(), format!("https://{hostname}{}", server.mcp.path)))
}

/// The addresses, and what to do with them.
pub(super) fn text(config: &Config, hostname: &str, client: Option<Client>) -> String {
    let mut text = String::new();
    for (name, url) in servers(config, hostname) {
        let _ = writeln!(text, "{name}\n    {url}");
        for client in CLIENTS.into_iter().filter(|known| client.is_none_or(|only| only == *known)) {
            let _ = writeln!(text, "  {:<12} {}", title(client), line(client, name, &url));
        }
    }
    text
}

fn title(client: Client) -> &'static str {
    match client {
        Client::Claude => "Claude",
        Client::Chatgpt => "ChatGPT",
        Client::ClaudeCode => "Claude Code",
        Client::Cursor => "Cursor",
        Client::Vscode => "VS Code",
        Client::Inspector => "Inspector",
    }
}

fn line(client: Client, name: &str, url: &str) -> String {
    match client {
        Client::Claude => format!("Settings, Connectors, Add custom connector: {url}"),
        Client::Chatgpt => format!("Settings, Connectors, Create (developer mode), authentication OAuth: {url}"),
        Client::ClaudeCode => format!("claude mcp add --transport http {name} {url}"),
        Client::Cursor => format!(r#"in ~/.cursor/mcp.json: {{"mcpServers":{{"{name}":{{"url":"{url}"}}}}}}"#),
        Client::Vscode => format!(r#"code --add-mcp '{{"name":"{name}","type":"http","url":"{url}"}}'"#),
        Client::Inspector => format!("npx -y @modelcontextprotocol/inspector, then transport Streamable HTTP: {url}"),
    }
}
