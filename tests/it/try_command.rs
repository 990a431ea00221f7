//! `ferry try`, from the command line to the last process.

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::json;

use crate::support::ferry::{Ferry, none_left, processes_with, runs};
use crate::support::http::{Client, body, outcome};
use crate::support::until;

/// A legacy server of a few lines of shell: one tool, which tells its own pid. `$1` marks it in the process table.
const SERVER: &str = r#"
while read -r line; do
  id=$(printf %s "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  case $line in
    *'"initialize"'*) printf '{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"shell","version":"1"}}}\n' "$id" ;;
    *'"tools/call"'*) printf '{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"%s"}]}}\n' "$id" "$$" ;;
  esac
done
"#;

/// A command that takes `seconds` and a little, like no other on this machine, were these tests run twice at once.
fn napping(seconds: &str) -> String {
    format!("sleep {seconds}{}", std::process::id())
}

/// A word for the process table, likewise.
fn marked(name: &str) -> String {
    format!("ferry-test-{name}-{}", std::process::id())
}

fn call() -> serde_json::Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "pid", "arguments": {}}})
}

#[tokio::test]
async fn the_demo_server_is_there_for_clients_of_both_eras() {
    let mut legacy = Ferry::run(&["try", "--port", "0"], &[]);
    let client = Client::new(&legacy.url().await).initialize(json!({})).await;
    let echo = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": {"message": "hello"}}});
    let answer = body(client.post(echo).await).await;
    assert!(answer["result"].to_string().contains("hello"), "{answer}");
    let mut modern = Ferry::run(&["try", "--port", "0", "--era", "modern"], &[]);
    let client = Client::new(&modern.url().await);
    let (status, answer) = outcome(client.modern(json!(1), "server/discover", json!({})).await).await;
    assert_eq!((status, &answer["result"]["supportedVersions"]), (200, &json!(["2026-07-28"])));
    let params = json!({"name": "echo", "arguments": {"message": "hello"}});
    let answer = body(client.modern(json!(2), "tools/call", params).await).await;
    assert!(answer["result"].to_string().contains("hello"), "{answer}");
    legacy.signal(Signal::SIGTERM);
    modern.signal(Signal::SIGINT);
    for ferry in [&mut legacy, &mut modern] {
        let said = ferry.ended().await;
        assert_eq!(said.status.code(), Some(0), "{}", said.stderr);
        assert!(!said.stderr.contains("ERROR") && !said.stderr.contains("panicked"), "{}", said.stderr);
    }
}

#[tokio::test]
async fn a_server_that_ends_when_it_is_greeted_wrongly_is_started_again_and_greeted_rightly() {
    // The official SDK's modern server answers `initialize` with a refusal, and ends.
    let server = crate::support::rmcp_server::path();
    let server = server.to_str().unwrap();
    let mut ferry = Ferry::run(&["try", "--port", "0", "--", server, "--era", "modern"], &[]);
    let client = Client::new(&ferry.url().await);
    let answer = body(client.modern(json!(1), "tools/list", json!({})).await).await;
    assert!(answer["result"]["tools"].is_array(), "{answer}");
    // A hand-written one that takes nothing but `initialize` as its first message.
    let picky = SERVER.replace("  case $line in", "  case $line in *'\"server/discover\"'*) exit 3 ;;");
    let arguments = ["try", "--port", "0", "--era", "legacy", "--", "sh", "-c", &picky, &marked("picky")];
    let mut ferry = Ferry::run(&arguments, &[]);
    Client::new(&ferry.url().await).initialize(json!({})).await;
}

#[tokio::test]
async fn a_killed_server_comes_back_and_its_sessions_never_notice() {
    let mut ferry = Ferry::run(&["try", "--port", "0", "--", "sh", "-c", SERVER, &marked("killed")], &[]);
    let client = Client::new(&ferry.url().await).initialize(json!({})).await;
    let pid = |answer: serde_json::Value| -> i32 {
        answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")).parse().unwrap()
    };
    let first = pid(body(client.post(call()).await).await);
    nix::sys::signal::kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    // Until the exit is known, a call may still be written to the dead process, and is then told so.
    let mut second = first;
    for _ in 0..50 {
        let (_, answer) = outcome(client.post(call()).await).await;
        if answer.get("result").is_some() {
            second = pid(answer);
            break;
        }
        // Written to the dead process, or not even that.
        let reason = answer["error"]["data"]["ferry"]["reason"].as_str().unwrap_or_default().to_owned();
        assert!(["upstream_exited", "upstream_unavailable"].contains(&reason.as_str()), "{answer}");
    }
    assert_ne!(first, second);
    ferry.signal(Signal::SIGTERM);
    assert_eq!(ferry.ended().await.status.code(), Some(0));
    none_left(&marked("killed")).await;
}

#[tokio::test]
async fn a_call_in_flight_is_answered_before_ferry_ends() {
    let slow = SERVER.replace("*'\"tools/call\"'*)", &format!("*'\"tools/call\"'*) {};", napping("1.2")));
    let mut ferry = Ferry::run(&["try", "--port", "0", "--", "sh", "-c", &slow, &marked("drain")], &[]);
    let client = Client::new(&ferry.url().await).initialize(json!({})).await;
    let answer = tokio::spawn(async move { client.post(call()).await });
    until(|| runs(&napping("1.2"))).await;
    ferry.signal(Signal::SIGTERM);
    let answer = body(answer.await.unwrap()).await;
    assert!(answer["result"].is_object(), "{answer}");
    assert_eq!(ferry.ended().await.status.code(), Some(0));
    none_left(&marked("drain")).await;
}

#[tokio::test]
async fn a_call_that_outlasts_the_stop_is_told_so() {
    let deaf =
        SERVER.replace("*'\"tools/call\"'*)", &format!("*'\"tools/call\"'*) trap '' TERM; {};", napping("77777.")));
    let mut ferry = Ferry::run(&["try", "--port", "0", "--", "sh", "-c", &deaf, &marked("deaf")], &[]);
    let client = Client::new(&ferry.url().await).initialize(json!({})).await;
    let stream = client.get().await;
    let answer = tokio::spawn(async move { client.post(call()).await });
    until(|| runs(&napping("77777."))).await;
    let asked = std::time::Instant::now();
    ferry.signal(Signal::SIGTERM);
    assert!(stream.rest().await.is_empty(), "standing streams end at once");
    let answer = body(answer.await.unwrap()).await;
    assert_eq!(answer["error"]["data"]["ferry"]["reason"], "upstream_exited", "{answer}");
    assert_eq!(ferry.ended().await.status.code(), Some(0));
    // The whole budget of the stop, as `docker stop` and others count on it.
    assert!(asked.elapsed() < std::time::Duration::from_secs(10), "{:?}", asked.elapsed());
    assert!(!runs(&napping("77777.")) && processes_with(&marked("deaf")).is_empty());
}

#[tokio::test]
async fn other_machines_need_the_token_that_is_printed() {
    let mut ferry = Ferry::run(&["try", "--listen", "0.0.0.0:0"], &[]);
    let url = ferry.url().await;
    let port = url.rsplit(':').next().unwrap().to_owned();
    let client = Client::new(&format!("http://127.0.0.1:{port}"));
    let ping = || json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    let response = client.post(ping()).await;
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()["www-authenticate"], "Bearer error=\"invalid_token\"");
    assert_eq!(client.with("authorization", "Bearer wrong").post(ping()).await.status(), 401);
    let line = ferry.line_with("    Authorization: Bearer ").await;
    let token = line.trim().strip_prefix("Authorization: ").unwrap();
    client.with("authorization", token).initialize(json!({})).await;
    assert!(!ferry.stderr().contains(token.strip_prefix("Bearer ").unwrap()), "no secret in the log");
}

#[tokio::test]
async fn what_cannot_begin_says_why_and_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let said = Ferry::run(&["try", "--port", &port], &[]).ended().await;
    assert_eq!(said.status.code(), Some(75));
    assert!(said.stderr.contains(&format!("error: ferry cannot listen on 127.0.0.1:{port}")), "{}", said.stderr);
    assert!(
        said.stderr.contains("hint: something else listens there; `--port 0` takes a free port"),
        "{}",
        said.stderr
    );
    let said = Ferry::run(&["try", "--port", "0", "--", "ferry-test-no-such-command"], &[]).ended().await;
    assert_eq!(said.status.code(), Some(1));
    assert!(
        said.stderr.contains("error: command `ferry-test-no-such-command` was not found on PATH"),
        "{}",
        said.stderr
    );
    assert!(said.stderr.contains("/bin"), "the PATH that was searched: {}", said.stderr);
    for arguments in [&["try", "--path", "mcp"][..], &["try", "--era", "old"], &["tri"]] {
        let said = Ferry::run(arguments, &[]).ended().await;
        assert_eq!(said.status.code(), Some(2), "{arguments:?}: {}", said.stderr);
    }
}

#[tokio::test]
async fn a_server_that_fails_is_quoted() {
    let script = "echo '\u{1b}[31mAPI_KEY is not set' >&2; exit 1";
    let mut ferry = Ferry::run(&["try", "--port", "0", "--", "sh", "-c", script], &[]);
    let line = ferry.logs("API_KEY is not set").await;
    assert!(line.contains("WARN") && !line.contains('\u{1b}'), "{line:?}");
    ferry.signal(Signal::SIGTERM);
    assert_eq!(ferry.ended().await.status.code(), Some(0));
}

#[tokio::test]
async fn bare_ferry_tries_the_demo_until_there_is_a_configuration() {
    let mut ferry = Ferry::run(&[], &[]);
    ferry.url().await;
    ferry.signal(Signal::SIGTERM);
    assert_eq!(ferry.ended().await.status.code(), Some(0));
    let said = Ferry::run(&[], &[("FERRY_CONFIG", "/ferry-test/config.toml")]).ended().await;
    assert_eq!(said.status.code(), Some(0));
    assert!(said.stdout.contains("Usage: ferry"), "{}", said.stdout);
}

#[tokio::test]
async fn a_log_for_machines_is_one_object_a_line() {
    let mut ferry = Ferry::run(&["try", "--port", "0", "--log-format", "json"], &[]);
    ferry.logs("the server is ready").await;
    ferry.signal(Signal::SIGTERM);
    let said = ferry.ended().await;
    assert_eq!(said.stdout, "");
    for line in said.stderr.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["message"].is_string() && line["level"].is_string(), "{line}");
    }
    assert!(said.stderr.contains("\"url\":\"http://127.0.0.1:"), "{}", said.stderr);
    assert!(ferry.home().join("state").exists());
}
