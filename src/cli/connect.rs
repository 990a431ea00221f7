//! How to connect each common client: lines to be copied.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::daemon::configured::reachable;
use crate::secret::Secret;

/// What clients are to connect to.
pub(super) struct Target<'a> {
    pub(super) address: SocketAddr,
    pub(super) path: &'a str,
    /// What they must send, where other machines can reach the listener.
    pub(super) token: Option<&'a Secret>,
    pub(super) is_demo: bool,
}

impl Target<'_> {
    /// Its URL.
    pub(super) fn url(&self) -> String {
        format!("http://{}{}", reachable(self.address), self.path)
    }

    fn name(&self) -> &'static str {
        if self.is_demo { "ferry-demo" } else { "ferry-try" }
    }
}

/// What `ferry try` says when it has begun to listen.
pub(super) fn screen(target: &Target<'_>, command: &str) -> String {
    let (url, name) = (target.url(), target.name());
    let token = target.token.map(Secret::expose);
    let mut text = String::new();
    let what = if target.is_demo { "the demo server" } else { command };
    let reach = if token.is_some() { "whoever can reach this machine and has the token" } else { "this machine only" };
    let _ = writeln!(text, "ferry {}: trying {what}, for {reach}.\n\n    {url}\n", env!("CARGO_PKG_VERSION"));
    if let Some(token) = token {
        let _ = writeln!(
            text,
            "    Authorization: Bearer {token}\n\nThis is plain HTTP: use it in a network that you trust.\n"
        );
    }
    text.push_str("Connect a client:\n");
    for (client, line) in lines(name, &url, token) {
        let _ = writeln!(text, "  {client:<12} {line}");
    }
    text.push('\n');
    if target.is_demo {
        text.push_str(
            "Then ask it to: echo something, tell the time, add a note and read it back, count slowly, ask your name.\n\
             Next, any stdio server of your own:  ferry try -- npx -y @modelcontextprotocol/server-everything\n",
        );
    } else {
        text.push_str("What the server writes to its standard error is kept and shown when it fails.\n");
    }
    text.push_str("Ctrl-C ends it.\n\n");
    text
}

fn lines(name: &str, url: &str, token: Option<&str>) -> Vec<(&'static str, String)> {
    let bearer = token.map(|token| format!("Authorization: Bearer {token}"));
    let option = |flag: &str| bearer.as_ref().map(|bearer| format!(" {flag} \"{bearer}\"")).unwrap_or_default();
    let headers = token.map(|token| format!(r#","headers":{{"Authorization":"Bearer {token}"}}"#)).unwrap_or_default();
    vec![
        ("Claude Code", format!("claude mcp add --transport http {name} {url}{}", option("--header"))),
        (
            "Codex",
            match token {
                None => format!("codex mcp add {name} --url {url}"),
                // Codex remembers the name of the variable only: it has to be there when Codex runs, too.
                Some(token) => format!(
                    "export FERRY_TOKEN={token}; codex mcp add {name} --url {url} --bearer-token-env-var FERRY_TOKEN"
                ),
            },
        ),
        ("Gemini CLI", format!("gemini mcp add --transport http {name} {url}{}", option("--header"))),
        ("VS Code", format!(r#"code --add-mcp '{{"name":"{name}","type":"http","url":"{url}"{headers}}}'"#)),
        ("Cursor", format!(r#"in ~/.cursor/mcp.json: {{"mcpServers":{{"{name}":{{"url":"{url}"{headers}}}}}}}"#)),
        (
            "Inspector",
            format!(
                "npx -y @modelcontextprotocol/inspector --cli {url} --transport http --method tools/list{}",
                option("--header")
            ),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen_of(address: &str, token: Option<&Secret>, is_demo: bool) -> String {
        let target = Target { address: address.parse().unwrap(), path: "/mcp", token, is_demo };
        screen(&target, "npx -y server")
    }

    #[test]
    fn the_screen_of_the_demo() {
        insta::with_settings!({filters => vec![(env!("CARGO_PKG_VERSION"), "[version]")]}, {
            insta::assert_snapshot!(screen_of("127.0.0.1:8765", None, true));
        });
    }

    #[test]
    fn the_screen_with_a_token() {
        insta::with_settings!({filters => vec![(env!("CARGO_PKG_VERSION"), "[version]")]}, {
            insta::assert_snapshot!(screen_of("192.0.2.7:9000", Some(&Secret::new("t0ken")), false));
        });
    }
}
