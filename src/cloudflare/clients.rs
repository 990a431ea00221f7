//! Where each MCP client is sent back to after a login, as data.
//!
//! A client sends all its addresses when it registers, and one that Access does not know refuses them all: an entry is
//! the exact list. Addresses on this machine (`http://localhost…`, `http://127.0.0.1…`) are allowed by two switches of the
//! application instead, for any port. What rests on one report alone is added only by name.

use std::collections::BTreeSet;

/// One client.
#[derive(Debug, Clone, Copy)]
pub struct McpClient {
    /// As in `clients = […]`.
    pub name: &'static str,
    /// As people call it.
    pub title: &'static str,
    /// What it registers, less addresses on the user's own machine.
    pub redirect_uris: &'static [&'static str],
    /// Whether it is allowed without being named.
    pub by_default: bool,
    /// Where this is known from.
    pub source: &'static str,
    /// When that was looked up.
    pub date: &'static str,
}

const fn entry(
    name: &'static str,
    title: &'static str,
    redirect_uris: &'static [&'static str],
    by_default: bool,
    source: &'static str,
) -> McpClient {
    McpClient { name, title, redirect_uris, by_default, source, date: "2026-11-23" }
}

/// Every client that is known.
pub const CLIENTS: &[McpClient] = &[
    entry(
        "claude",
        "Claude (web, desktop, mobile)",
        &["https://claude.ai/api/mcp/auth_callback", "https://claude.com/api/mcp/auth_callback"],
        true,
        "support.claude.com 11503834",
    ),
    entry(
        "claude-desktop-sdk",
        "Claude Desktop, SDK login",
        &["claude://claude.ai/mcp-auth-callback/sdk"],
        false,
        "cloudflare/mcp-server-cloudflare#482",
    ),
    entry("claude-code", "Claude Code", &[], true, "anthropics/claude-code#66511, #42301"),
    entry(
        "chatgpt",
        "ChatGPT",
        &["https://chatgpt.com/connector/oauth/*", "https://chatgpt.com/connector_platform_oauth_redirect"],
        true,
        "bytebase/bytebase#20447; developers.openai.com/plugins/build/auth, as cited by koala73/worldmonitor",
    ),
    entry("codex", "Codex CLI", &[], true, "openai/codex#30460"),
    entry(
        "cursor",
        "Cursor",
        &["cursor://anysphere.cursor-mcp/oauth/callback", "https://www.cursor.com/agents/mcp/oauth/callback"],
        true,
        "bytebase/bytebase#20510; erp-mafia/accounted#2225",
    ),
    entry(
        "cursor-bot",
        "Cursor, newer builds",
        &["https://www.cursor.com/bot/mcp/oauth/callback"],
        false,
        "erp-mafia/accounted#2225",
    ),
    entry("grok-bot", "Grok Bot", &["grokbot://mcp/oauth/callback"], false, "erp-mafia/accounted#2225"),
    entry(
        "vscode",
        "VS Code",
        &["https://vscode.dev/redirect", "https://insiders.vscode.dev/redirect"],
        true,
        "microsoft/vscode#278512",
    ),
    entry("gemini", "Gemini CLI", &[], true, "docs.zuora.com, table of redirect addresses"),
    entry(
        "grok",
        "Grok",
        &["https://grok.com/connectors-oauth-exchange-code/", "https://console.x.ai/connectors-oauth-exchange-code/"],
        true,
        "its own client metadata; erp-mafia/accounted#2158",
    ),
    entry(
        "perplexity",
        "Perplexity",
        &[
            "https://www.perplexity.ai/rest/connections/oauth_callback",
            "https://enterprise.perplexity.ai/rest/connections/oauth_callback",
        ],
        true,
        "koala73/worldmonitor",
    ),
    entry(
        "mistral",
        "Mistral Le Chat",
        &["https://callback.mistral.ai/v1/integrations_auth/oauth2_callback"],
        true,
        "koala73/worldmonitor; no document of the vendor's",
    ),
    entry(
        "devin",
        "Devin",
        &["https://api.devin.ai/mcp/oauth/callback"],
        true,
        "its documents, as cited by koala73/worldmonitor",
    ),
    entry(
        "antigravity",
        "Google Antigravity",
        &["https://antigravity.google/oauth-callback"],
        true,
        "its documents, as cited by koala73/worldmonitor; bytebase/bytebase#20447",
    ),
    entry(
        "n8n",
        "n8n cloud",
        &["https://oauth.n8n.cloud/oauth2/callback"],
        false,
        "docs.zuora.com, table of redirect addresses",
    ),
    entry("inspector", "MCP Inspector", &[], true, "README of mcp-ferry 0.3.1"),
    entry(
        "cloudflare-playground",
        "Cloudflare AI playground",
        &["https://playground.ai.cloudflare.com/*"],
        true,
        "developers.cloudflare.com, Managed OAuth",
    ),
];

/// A client that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no client `{name}`: choose among {}", known())]
pub struct UnknownClient {
    /// As it was written.
    pub name: String,
}

fn known() -> String {
    CLIENTS.iter().map(|client| client.name).collect::<Vec<_>>().join(", ")
}

/// The client of that name.
pub fn find(name: &str) -> Result<&'static McpClient, UnknownClient> {
    let found = CLIENTS.iter().find(|client| client.name.eq_ignore_ascii_case(name));
    found.ok_or_else(|| UnknownClient { name: name.to_owned() })
}

/// The addresses that Access is to allow: those of `chosen` clients, or of the usual ones; of those `added` by name; and
/// `extra` ones.
pub fn redirect_uris(
    chosen: Option<&[String]>,
    added: &[String],
    extra: &[String],
) -> Result<BTreeSet<String>, UnknownClient> {
    let mut clients: Vec<&McpClient> = match chosen {
        Some(names) => names.iter().map(|name| find(name)).collect::<Result<_, _>>()?,
        None => CLIENTS.iter().filter(|client| client.by_default).collect(),
    };
    for name in added {
        clients.push(find(name)?);
    }
    let known = clients.iter().flat_map(|client| client.redirect_uris).map(|uri| (*uri).to_owned());
    Ok(known.chain(extra.iter().cloned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_whole() {
        let names: BTreeSet<&str> = CLIENTS.iter().map(|client| client.name).collect();
        assert_eq!(names.len(), CLIENTS.len(), "a name stands twice");
        for client in CLIENTS {
            assert!(!client.source.is_empty() && client.date.len() == 10, "{}", client.name);
            for uri in client.redirect_uris {
                assert!(
                    uri.contains("://") && !uri.starts_with("http:"),
                    "{uri}: addresses on this machine need no entry"
                );
            }
        }
    }

    #[test]
    fn clients_are_usual_chosen_or_added() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let usual = redirect_uris(None, &[], &[]).unwrap();
        assert!(usual.contains("https://claude.ai/api/mcp/auth_callback"));
        assert!(!usual.contains("https://oauth.n8n.cloud/oauth2/callback"), "rests on one report");
        let added = redirect_uris(None, &names(&["n8n"]), &names(&["https://x.example/cb"])).unwrap();
        assert_eq!(added.len(), usual.len() + 2);
        let chosen = redirect_uris(Some(&names(&["Devin"])), &[], &[]).unwrap();
        assert_eq!(chosen.into_iter().collect::<Vec<_>>(), ["https://api.devin.ai/mcp/oauth/callback"]);
        assert_eq!(redirect_uris(None, &names(&["nope"]), &[]).unwrap_err().name, "nope");
    }
}
