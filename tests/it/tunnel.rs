//! The way through the tunnel: a client, the edge and the cloudflared of `tests/fixtures/fake_cloudflared.rs`, a Unix
//! socket, ferry, a child.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mcp_ferry::tunnel::render::{self, Content};
use serde_json::{Value, json};
use tokio::net::{TcpStream, UnixListener};

use crate::common::fake_cloudflared::{Fake, TUNNEL_ID};
use crate::support::ferry::Ferry;
use crate::support::http::{Client, outcome};
use crate::support::{DEADLINE, until};

/// A legacy server of a few lines of shell, whose one tool says nothing for `$SILENCE` seconds.
const SERVER: &str = r#"#!/bin/sh
while read -r line; do
  id=$(printf %s "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  case $line in
    *'"initialize"'*) printf '{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"shell","version":"1"}}}\n' "$id" ;;
    *'"tools/call"'*) sleep "$SILENCE"; printf '{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"at last"}]}}\n' "$id" ;;
  esac
done
"#;

/// A running ferry with this configuration, `SERVER` in it being the server's program.
fn ferry(dir: &Path, config: &str) -> Ferry {
    let server = dir.join("server");
    fs::write(&server, SERVER).unwrap();
    fs::set_permissions(&server, fs::Permissions::from_mode(0o755)).unwrap();
    let path = dir.join("config.toml");
    fs::write(&path, config.replace("SERVER", server.to_str().unwrap())).unwrap();
    Ferry::run(&["run", "--config", path.to_str().unwrap()], &[])
}

/// The address of its local listener.
async fn local(ferry: &mut Ferry) -> String {
    let line = ferry.line_with("  silent ").await;
    line.split('/').nth(2).unwrap().to_owned()
}

/// A cloudflared that hands requests to a ferry.
struct Cloudflared {
    process: Child,
    fake: Fake,
}

impl Cloudflared {
    /// Runs it in `dir`, with everything it gets handed on to `ferry`.
    async fn run(dir: &Path, ferry: &str, silence: Duration) -> Self {
        let fake = Fake::at(dir);
        fake.tell("silence", &silence.as_millis().to_string());
        let socket = dir.join("tunnel.sock");
        tokio::spawn(hand_on(UnixListener::bind(&socket).unwrap(), ferry.to_owned()));
        let metrics = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let credentials = fake.credentials();
        let content = Content {
            tunnel_id: TUNNEL_ID,
            credentials: credentials.to_str().unwrap(),
            metrics,
            hostname: "bridge.example.com",
            socket: socket.to_str().unwrap(),
        };
        let config = dir.join("cloudflared.yml");
        fs::write(&config, render::file(&content)).unwrap();
        let mut command = Command::new(fake.program());
        command.args(render::run(&config, Duration::ZERO, None, None)).stdin(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().unwrap();
        until(|| dir.join("edge").exists()).await;
        Self { process, fake }
    }

    /// Somebody on the other side of the world.
    fn client(&self) -> Client {
        Client::new(&format!("http://{}/silent", self.fake.edge())).with("host", "bridge.example.com")
    }
}

impl Drop for Cloudflared {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// From the socket behind the tunnel to ferry, byte by byte.
async fn hand_on(listener: UnixListener, ferry: String) {
    while let Ok((mut inner, _)) = listener.accept().await {
        let ferry = ferry.clone();
        tokio::spawn(async move {
            let mut outer = TcpStream::connect(ferry).await.unwrap();
            tokio::io::copy_bidirectional(&mut inner, &mut outer).await
        });
    }
}

/// Calls a tool that is silent for so long, through an edge that cuts an answer after `patience` without a byte, and
/// returns what comes of it and how many signs of life came before.
async fn silent_call(silence: Duration, keep_alive: Duration, patience: Duration) -> (Option<Value>, usize) {
    let dir = tempfile::tempdir().unwrap();
    let config = format!(
        "[bridge]\nlocal_port = 0\nallowed_hosts = ['bridge.example.com']\nlimits = {{ commit_after = {}, keep_alive = {} }}\n\
         [[mcps]]\nname = 'silent'\npath = '/silent'\nera = 'legacy'\ncommand = 'SERVER'\nenv = {{ SILENCE = '{}' }}\n",
        keep_alive.min(Duration::from_millis(100)).as_secs_f64(),
        keep_alive.as_secs_f64(),
        silence.as_secs_f64()
    );
    let mut ferry = ferry(dir.path(), &config);
    let cloudflared = Cloudflared::run(dir.path(), &local(&mut ferry).await, patience).await;
    let client = cloudflared.client().initialize(json!({})).await;
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x", "arguments": {}}});
    let mut response = client.post(call).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    let whole = tokio::time::timeout(silence + DEADLINE, async {
        while let Ok(Some(chunk)) = response.chunk().await {
            text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    });
    whole.await.expect("the answer, or its end");
    let signs = text.split("\n\n").filter(|block| block.starts_with(':')).count();
    let answer = text.lines().filter_map(|line| line.strip_prefix("data: ")).next_back();
    (answer.and_then(|data| serde_json::from_str(data).ok()), signs)
}

/// How long the silent call is: the extra suite takes what Cloudflare itself would not bear.
fn silence() -> Option<Duration> {
    std::env::var("FERRY_TEST_SILENCE").ok()?.parse().ok().map(Duration::from_secs)
}

#[tokio::test]
async fn a_silent_call_outlasts_the_patience_of_the_edge() {
    let period = Duration::from_millis(100);
    let (answer, signs) = match silence() {
        // ferry's own period, and Cloudflare's patience.
        Some(silence) => silent_call(silence, Duration::from_secs(15), Duration::from_secs(125)).await,
        None => silent_call(41 * period, period, 20 * period).await,
    };
    let answer = answer.expect("the answer comes");
    assert_eq!(answer["result"]["content"][0]["text"], "at last", "{answer}");
    assert!(signs > 2, "{signs} signs of life");
}

#[tokio::test]
async fn without_a_sign_of_life_the_edge_would_cut_it() {
    let seconds = Duration::from_secs;
    let (answer, signs) = silent_call(seconds(5), seconds(60), seconds(2)).await;
    // One opens the stream.
    assert_eq!((answer, signs), (None, 1));
}

#[tokio::test]
async fn a_tunnel_that_ferry_cannot_authenticate_is_not_opened_and_local_use_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::at(dir.path());
    let config = format!(
        "[bridge]\nlocal_port = 0\nhostname = 'bridge.example.com'\n\
         [cloudflare]\ncredentials_file = '{}'\n[tunnel]\nbinary = '{}'\n\
         [[mcps]]\nname = 'silent'\npath = '/silent'\nera = 'legacy'\ncommand = 'SERVER'\nenv = {{ SILENCE = '0' }}\n",
        fake.credentials().display(),
        fake.program().display()
    );
    let mut ferry = ferry(dir.path(), &config);
    let local = local(&mut ferry).await;
    let line = ferry.logs("the tunnel is not opened").await;
    assert!(
        line.contains("without `team_domain` and `audience` in `[access]`") && line.contains("`ferry setup`"),
        "{line}"
    );
    let client = Client::new(&format!("http://{local}/silent")).initialize(json!({})).await;
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x", "arguments": {}}});
    let response = client.post(call).await;
    assert_eq!(response.status(), 200);
    let (status, health) =
        outcome(Client::new(&format!("http://{local}/healthz")).send(reqwest::Method::GET, "").await).await;
    assert_eq!((status, &health["tunnel"]), (503, &json!("down")), "{health}");
    assert!(fake.starts().is_empty(), "cloudflared was not started");
}
