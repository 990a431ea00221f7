//! What once went wrong, or could have: leaks, lockouts, hangs and losses, each with a test that failed before it was mended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mcp_ferry::bridge::auth::{Admission, Identity};
use mcp_ferry::bridge::listener::Tcp;
use mcp_ferry::bridge::origin::{Guard, Listener};
use mcp_ferry::bridge::router::{Door, Endpoints, router};
use mcp_ferry::config::limits::Limits;
use mcp_ferry::mcp::probe::Choice;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::support::fake_child::{FakeChild, Rig};
use crate::support::http::{Client, Events, body};
use crate::support::within;

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
const SENT: usize = 20_000;
const STREAMS: usize = 6;
const SOON: Duration = Duration::from_secs(3);

fn call(id: impl Into<Value>, name: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": "tools/call", "params": {"name": name, "arguments": {}}})
}

#[expect(clippy::needless_pass_by_value, reason = "a literal at every call")]
fn request(id: impl Into<Value>, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params})
}

fn posting(client: &Client, body: Value) -> tokio::task::JoinHandle<reqwest::Response> {
    let client = client.clone();
    tokio::spawn(async move { client.post(body).await })
}

fn listening(client: &Client, id: Value, params: Value, meta: Value) -> tokio::task::JoinHandle<reqwest::Response> {
    let client = client.clone();
    tokio::spawn(async move { client.modern_with(id, "subscriptions/listen", params, meta).await })
}

async fn acknowledge(child: &mut FakeChild, request: &Value) {
    let meta = json!({SUBSCRIPTION: request["id"]});
    child.notify("notifications/subscriptions/acknowledged", json!({"notifications": {}, "_meta": meta})).await;
}

/// The next line of the bridge, if one comes soon.
async fn soon(child: &mut FakeChild) -> Option<Value> {
    timeout(SOON, child.read()).await.ok()
}

fn capable() -> Value {
    json!({"tools": {"listChanged": true}, "logging": {}, "resources": {"subscribe": true}})
}

async fn door(rig: &Rig, who: &str) -> Client {
    let limits = Arc::new(Limits::default());
    let endpoints = Endpoints::new(Arc::clone(&limits));
    endpoints.put(Arc::clone(&rig.endpoint));
    let tcp = Tcp::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = tcp.address();
    let guard = Guard::new(Listener::Local(address.ip()), &[], &[]).unwrap();
    let (stop, stopped) = watch::channel(false);
    let admission = Admission::Loopback { identity: Identity::access("team", who) };
    tokio::spawn(async move {
        tcp.serve(router(Door { guard, admission, endpoints }), limits, stopped).await;
        drop(stop);
    });
    Client::new(&format!("http://{address}/mcp"))
}

fn same_session(rig: &Rig, client: &Client) -> Client {
    let id = client.headers["mcp-session-id"].to_str().unwrap();
    Client::new(&rig.url).with("mcp-session-id", id).with("mcp-protocol-version", "2025-06-18")
}

#[tokio::test]
async fn a_late_log_of_one_identity_does_not_reach_another() {
    let (rig, mut child) = Rig::legacy(capable(), Limits::default()).await;
    let a = door(&rig, "a").await.initialize(json!({})).await;
    let answer = posting(&a, call(1, "secret"));
    let asked = child.read().await;
    child.answer(&asked, json!({})).await;
    within(answer).await.unwrap();
    a.send(Method::DELETE, "").await;
    let b = door(&rig, "b").await.initialize(json!({})).await;
    let mut stream = b.get().await;
    child.notify("notifications/message", json!({"level": "info", "data": "a's secret"})).await;
    child.notify("notifications/vendor", json!({"data": "a's secret"})).await;
    child.notify("notifications/tools/list_changed", json!({})).await;
    assert_eq!(stream.next().await.unwrap()["method"], "notifications/tools/list_changed");
}

#[tokio::test]
async fn a_subscription_of_a_second_identity_closes_the_gate() {
    let (rig, mut child) = Rig::legacy(capable(), Limits::default()).await;
    let a = door(&rig, "a").await.initialize(json!({})).await;
    let b = door(&rig, "b").await.initialize(json!({})).await;
    let answer = posting(&a, call(1, "slow"));
    let from_a = child.read().await;
    let subscribing = posting(&b, request(1, "resources/subscribe", json!({"uri": "file:///b"})));
    let from_b = child.read().await;
    child.notify("notifications/message", json!({"level": "info", "data": "watching file:///b"})).await;
    child.answer(&from_b, json!({})).await;
    within(subscribing).await.unwrap();
    child.answer(&from_a, json!({})).await;
    let text = within(within(answer).await.unwrap().text()).await.unwrap();
    assert!(!text.contains("file:///b"), "{text}");
}

#[tokio::test]
async fn an_answer_to_a_question_from_before_a_restart_of_ferry_answers_no_other_one() {
    let mut numbers = Vec::new();
    let mut client: Option<Client> = None;
    for _ in 0..2 {
        let (rig, mut child) = Rig::legacy(capable(), Limits::default()).await;
        let here = match &client {
            None => Client::new(&rig.url).initialize(json!({"elicitation": {}})).await,
            Some(client) => same_session(&rig, client),
        };
        let answer = posting(&here, call(1, "ask"));
        child.read().await;
        child.send(request("q", "elicitation/create", json!({"message": "delete everything?"}))).await;
        let mut events = Events::of(within(answer).await.unwrap());
        numbers.push(events.next().await.unwrap()["id"].clone());
        client = Some(here);
    }
    assert_ne!(numbers[0], numbers[1], "the same session, two questions, one number");
}

#[tokio::test]
async fn a_question_that_names_the_task_of_an_ended_session_is_shown_to_nobody() {
    let (rig, mut child) = Rig::legacy(capable(), Limits::default()).await;
    let a = Client::new(&rig.url).initialize(json!({"elicitation": {}})).await;
    let b = Client::new(&rig.url).initialize(json!({"elicitation": {}})).await;
    let mut task = call(1, "task");
    task["params"]["task"] = json!({});
    let answer = posting(&a, task);
    let asked = child.read().await;
    child.answer(&asked, json!({"task": {"taskId": "t1"}})).await;
    within(answer).await.unwrap();
    a.send(Method::DELETE, "").await;
    let _other = posting(&b, call(1, "other"));
    child.read().await;
    let meta = json!({"io.modelcontextprotocol/related-task": {"taskId": "t1"}});
    child.send(request("q", "elicitation/create", json!({"message": "a's secret", "_meta": meta}))).await;
    let refused = soon(&mut child).await.expect("the question of an ended session is refused, not shown to another");
    assert_eq!(refused["error"]["code"], -32603);
}

#[tokio::test]
async fn bodies_that_never_come_lock_nobody_out() {
    let (rig, _child) = Rig::legacy(capable(), Limits::default()).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        let head = "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 16777216\r\n\r\n{";
        stream.write_all(head.as_bytes()).await.unwrap();
        silent.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let response = Client::new(&rig.url).post(request(1, "initialize", json!({"protocolVersion": "2025-06-18"}))).await;
    assert_eq!(response.status(), 200, "four clients that sent one byte each");
}

#[tokio::test]
async fn a_body_or_a_header_section_has_its_time() {
    let limits = Limits {
        header_timeout: Duration::from_millis(300),
        connection_idle: Duration::from_secs(8),
        ..Limits::default()
    };
    let (rig, _child) = Rig::legacy(capable(), limits).await;
    let head = "POST /mcp HTTP/1.1\r\nHost: localhost\r\n";
    let whole = format!("{head}Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{{");
    let mut open = Vec::new();
    for begun in [head, &whole] {
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        if timeout(SOON, stream.read_to_end(&mut rest)).await.is_err() {
            open.push(begun.len());
        }
    }
    assert!(open.is_empty(), "ten times their time has passed: {open:?}");
}

#[tokio::test]
async fn an_evicted_session_takes_its_subscriptions_along() {
    let limits = Limits { max_sessions_per_identity: 1, ..Limits::default() };
    let (rig, mut child) = Rig::legacy(capable(), limits).await;
    let a = Client::new(&rig.url).initialize(json!({})).await;
    let subscribing = posting(&a, request(1, "resources/subscribe", json!({"uri": "file:///a"})));
    let asked = child.read().await;
    child.answer(&asked, json!({})).await;
    within(subscribing).await.unwrap();
    let _b = Client::new(&rig.url).initialize(json!({})).await;
    let told = soon(&mut child).await.expect("nobody is subscribed any more");
    assert_eq!(told["method"], "resources/unsubscribe");
}

#[tokio::test]
async fn a_cancelled_request_is_no_work_in_flight() {
    let limits = Limits { max_inflight_per_identity: 1, ..Limits::default() };
    let (rig, mut child) = Rig::legacy(capable(), limits).await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let first = posting(&client, call(1, "first"));
    child.read().await;
    client.post(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})).await;
    assert_eq!(body(within(first).await.unwrap()).await["error"]["code"], -31007);
    child.read().await;
    let second = posting(&client, call(2, "second"));
    assert!(soon(&mut child).await.is_some(), "{}", within(second).await.unwrap().status());
}

#[tokio::test]
async fn a_closed_listen_stream_gives_its_place_back() {
    let limits = Limits { max_listens_per_identity: 1, ..Limits::default() };
    let (rig, mut child) = Rig::modern(json!({"prompts": {}}), limits).await;
    let client = Client::new(&rig.url);
    let answer = listening(&client, json!(1), json!({"notifications": {}}), json!({}));
    let asked = child.read().await;
    acknowledge(&mut child, &asked).await;
    drop(Events::of(within(answer).await.unwrap()));
    assert_eq!(child.read().await["method"], "notifications/cancelled");
    let again = listening(&client, json!(2), json!({"notifications": {}}), json!({}));
    assert!(soon(&mut child).await.is_some(), "{}", within(again).await.unwrap().status());
}

#[tokio::test]
async fn a_subscription_that_is_not_answered_ends() {
    let limits = Limits { request_timeout: Duration::from_millis(300), ..Limits::default() };
    let (rig, mut child) = Rig::legacy(capable(), limits).await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let subscribing = posting(&client, request(1, "resources/subscribe", json!({"uri": "file:///a"})));
    child.read().await;
    timeout(SOON, subscribing).await.expect("ten times its time has passed").unwrap();
}

#[tokio::test]
async fn a_start_that_fails_in_between_loses_no_subscription() {
    let (rig, mut child) = Rig::legacy(capable(), Limits::default()).await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let subscribing = posting(&client, request(1, "resources/subscribe", json!({"uri": "file:///a"})));
    let asked = child.read().await;
    child.answer(&asked, json!({})).await;
    within(subscribing).await.unwrap();
    child.exit().await;
    let mut failing = rig.child();
    failing.read().await;
    failing.exit().await;
    let mut child = rig.legacy_child(capable()).await;
    let told = soon(&mut child).await.expect("the subscription is renewed");
    assert_eq!(told["method"], "resources/subscribe");
}

#[tokio::test]
async fn what_was_cancelled_before_it_was_sent_is_not_sent() {
    let limits = Limits { max_queue_lines: 1, queue_wait: Duration::from_secs(15), ..Limits::default() };
    let (rig, mut child) = Rig::legacy(capable(), limits).await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let mut large = call(1, "large");
    large["params"]["arguments"] = json!({"x": "x".repeat(4 << 20)});
    let _large = posting(&client, large);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let cancelled = posting(&client, call(2, "cancelled"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.post(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}})).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut seen = Vec::new();
    while let Some(message) = soon(&mut child).await {
        seen.push(format!("{} {}", message["method"], message["params"]["name"]));
    }
    drop(cancelled);
    assert!(!seen.iter().any(|line| line.contains("\"cancelled\"")), "it runs although it was cancelled: {seen:?}");
}

#[tokio::test]
async fn a_verdict_that_does_not_help_any_more_is_dropped() {
    let rig = Rig::start(Choice::Probe, false, Limits::default()).await;
    let mut child = rig.child();
    let discover = child.read().await;
    child.send(json!({"jsonrpc": "2.0", "id": discover["id"], "error": {"code": -32601, "message": "no"}})).await;
    let initialize = child.read().await;
    child.answer(&initialize, json!({"protocolVersion": "2025-11-25", "capabilities": {}})).await;
    child.read().await;
    child.ready().await;
    child.exit().await;
    // An upgrade: from now on it exits at `initialize`.
    let mut asked = Vec::new();
    for _ in 0..4 {
        let mut child = rig.child();
        asked.push(child.read().await["method"].clone());
        child.exit().await;
    }
    assert!(asked.contains(&json!("server/discover")), "{asked:?}");
}

#[tokio::test]
async fn a_listen_is_renewed_under_a_token_of_ferrys_own() {
    let (rig, mut child) = Rig::modern(json!({"prompts": {}}), Limits::default()).await;
    let client = Client::new(&rig.url);
    let answer = listening(&client, json!(1), json!({"notifications": {}}), json!({"progressToken": 77}));
    let asked = child.read().await;
    assert_eq!(asked["params"]["_meta"]["progressToken"], asked["id"]);
    acknowledge(&mut child, &asked).await;
    let _events = Events::of(within(answer).await.unwrap());
    child.exit().await;
    let mut child = rig.child();
    let discover = child.read().await;
    child
        .answer(
            &discover,
            json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"prompts": {}}}),
        )
        .await;
    let again = child.read().await;
    assert_eq!(again["method"], "subscriptions/listen");
    assert_eq!(again["params"]["_meta"]["progressToken"], again["id"], "77 may be anybody's number");
}

#[tokio::test]
async fn a_renewed_listen_that_is_never_acknowledged_ends() {
    let limits =
        Limits { listen_ack: Duration::from_millis(200), relisten: Duration::from_millis(500), ..Limits::default() };
    let (rig, mut child) = Rig::modern(json!({"prompts": {}}), limits).await;
    let client = Client::new(&rig.url);
    let answer = listening(&client, json!(1), json!({"notifications": {}}), json!({}));
    let asked = child.read().await;
    acknowledge(&mut child, &asked).await;
    let events = Events::of(within(answer).await.unwrap());
    child.exit().await;
    let mut child = rig.child();
    let discover = child.read().await;
    child
        .answer(
            &discover,
            json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"prompts": {}}}),
        )
        .await;
    child.read().await;
    timeout(SOON, events.rest()).await.expect("it hears nothing, and will not");
}

#[tokio::test]
async fn a_listen_stream_that_nobody_reads_is_bounded() {
    let limits = Limits { max_outbound: 8, ..Limits::default() };
    let (rig, mut child) = Rig::modern(json!({"resources": {}}), limits).await;
    let client = Client::new(&rig.url);
    let answer = listening(&client, json!(1), json!({"notifications": {}}), json!({}));
    let asked = child.read().await;
    acknowledge(&mut child, &asked).await;
    let mut events = Events::of(within(answer).await.unwrap());

    let filler = "x".repeat(2000);
    for n in 0..SENT {
        let params = json!({"uri": format!("file:///{n}"), "filler": filler, "_meta": {SUBSCRIPTION: asked["id"]}});
        child.notify("notifications/resources/updated", params).await;
    }
    // Whatever is not in the sockets' own buffers by now waits in ferry's memory.
    child.send(json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"resultType": "complete", "_meta": {SUBSCRIPTION: asked["id"]}}})).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut read = 0;
    while let Some(event) = events.next().await {
        read += usize::from(event["method"] == "notifications/resources/updated");
    }
    assert!(read < SENT, "all {read} of {SENT} were kept, 40 MB, with a bound of 8");
}

#[tokio::test]
async fn a_session_revived_while_the_server_starts_is_told_to_look_again() {
    let (rig, _child) = Rig::legacy(capable(), Limits::default()).await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    // ferry restarts.
    let rig = Rig::start(Choice::Legacy, false, Limits::default()).await;
    let mut stream = same_session(&rig, &client).get().await;
    let _child = rig.legacy_child(capable()).await;
    let hint = timeout(SOON, stream.next()).await.expect("lists may have changed").unwrap();
    assert_eq!(hint["method"], "notifications/tools/list_changed");
}

#[tokio::test]
async fn an_answered_question_leaves_no_task_behind() {
    let (rig, mut child) = Rig::legacy(capable(), Limits::default()).await;
    let client = Client::new(&rig.url).initialize(json!({"elicitation": {}})).await;
    let answer = posting(&client, call(1, "ask"));
    child.read().await;
    let metrics = tokio::runtime::Handle::current().metrics();
    let mut events = None;
    let mut before = 0;
    let mut answer = Some(answer);
    for n in 0..40 {
        child.send(request(n, "elicitation/create", json!({"message": "?"}))).await;
        if let Some(answer) = answer.take() {
            events = Some(Events::of(within(answer).await.unwrap()));
        }
        let asked = events.as_mut().unwrap().next().await.unwrap();
        client.post(json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept"}})).await;
        assert_eq!(child.read().await["id"], n);
        if n == 0 {
            before = metrics.num_alive_tasks();
        }
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let after = metrics.num_alive_tasks();
    assert!(after < before + 10, "{before} tasks before, {after} after 39 answered questions");
}

#[tokio::test]
async fn a_flood_of_levels_leaves_no_tasks_behind() {
    let (rig, mut child) = Rig::legacy(capable(), Limits::default()).await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    client.post(request(1, "logging/setLevel", json!({"level": "debug"}))).await;
    let told = child.read().await;
    child.answer(&told, json!({})).await;
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    for n in 0..40 {
        client.post(request(n, "logging/setLevel", json!({"level": "error"}))).await;
    }
    let after = metrics.num_alive_tasks();
    assert!(after < before + 10, "{before} tasks before, {after} after 40 requests");
}

#[tokio::test]
async fn list_changed_carries_nothing_from_one_to_the_others() {
    let (rig, mut child) = Rig::legacy(capable(), Limits::default()).await;
    let _a = Client::new(&rig.url).initialize(json!({})).await;
    let b = Client::new(&rig.url).initialize(json!({})).await;
    let mut stream = b.get().await;
    child.notify("notifications/vendor/list_changed", json!({"secret": "a's"})).await;
    child.notify("notifications/tools/list_changed", json!({"secret": "a's"})).await;
    child.notify("notifications/prompts/list_changed", json!({})).await;
    loop {
        let event = stream.next().await.unwrap();
        assert_eq!(event["params"].get("secret"), None, "{event}");
        if event["method"] == "notifications/prompts/list_changed" {
            break;
        }
    }
}

#[tokio::test]
async fn a_stream_opened_after_the_end_of_all_streams_ends() {
    let (rig, _child) = Rig::legacy(capable(), Limits::default()).await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    rig.endpoint.end_streams();
    let stream = client.get().await;
    timeout(SOON, stream.rest()).await.expect("nothing will ever come on it, and the stop waits for it");
}

#[tokio::test]
async fn a_listen_stream_without_a_server_ends_with_ferry() {
    let (rig, mut child) = Rig::modern(json!({"prompts": {}}), Limits::default()).await;
    let client = Client::new(&rig.url);
    let answer = listening(&client, json!(1), json!({"notifications": {}}), json!({}));
    let asked = child.read().await;
    acknowledge(&mut child, &asked).await;
    let events = Events::of(within(answer).await.unwrap());
    child.exit().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    rig.endpoint.end_streams();
    rig.opened()[0].gone();
    let rest = timeout(SOON, events.rest()).await.expect("ferry is going");
    assert_eq!(rest.last().unwrap()["result"]["resultType"], "complete");
}

#[tokio::test]
async fn the_acknowledgement_is_the_first_event_of_a_listen_stream() {
    let (rig, mut child) = Rig::modern(json!({"prompts": {}}), Limits::default()).await;
    let client = Client::new(&rig.url);
    let answer = listening(&client, json!(1), json!({"notifications": {}}), json!({}));
    let asked = child.read().await;
    child.notify("notifications/vendor", json!({})).await;
    acknowledge(&mut child, &asked).await;
    let first = Events::of(within(answer).await.unwrap()).next().await.unwrap();
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
}

#[tokio::test]
async fn tools_that_change_while_they_are_read_are_read_again() {
    let (_rig, mut child) = Rig::modern(json!({"tools": {"listChanged": true}}), Limits::default()).await;
    child.notify("notifications/tools/list_changed", json!({})).await;
    let reading = child.read().await;
    child.notify("notifications/tools/list_changed", json!({})).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    child.answer(&reading, json!({"tools": []})).await;
    assert!(soon(&mut child).await.is_some(), "what was read is older than the last change");
}

#[tokio::test]
async fn no_legacy_request_reaches_a_modern_server() {
    let (rig, _child) = Rig::legacy(capable(), Limits::default()).await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let (rig, mut child) = Rig::modern(json!({"resources": {}, "logging": {}}), Limits::default()).await;
    let client = same_session(&rig, &client);
    let _subscribing = posting(&client, request(1, "resources/subscribe", json!({"uri": "file:///a"})));
    let _level = posting(&client, request(1, "logging/setLevel", json!({"level": "info"})));
    assert_eq!(soon(&mut child).await, None);
}

#[tokio::test]
async fn sessions_end_when_their_server_changes_its_era() {
    let rig = Rig::start(Choice::Probe, false, Limits::default()).await;
    let mut child = rig.child();
    let discover = child.read().await;
    child.send(json!({"jsonrpc": "2.0", "id": discover["id"], "error": {"code": -32601, "message": "no"}})).await;
    let initialize = child.read().await;
    child.answer(&initialize, json!({"protocolVersion": "2025-11-25", "capabilities": {}})).await;
    child.read().await;
    child.ready().await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    child.exit().await;
    let mut child = rig.child();
    let initialize = child.read().await;
    child.send(json!({"jsonrpc": "2.0", "id": initialize["id"], "error": {"code": -32022, "message": "no"}})).await;
    let discover = child.read().await;
    child
        .answer(&discover, json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {}}))
        .await;
    child.ready().await;
    assert_eq!(client.post(request(1, "ping", json!({}))).await.status(), 404);
}

/// Run it alone.
#[tokio::test]
async fn an_unanswered_list_of_tools_delays_no_call_for_long() {
    let rig = Rig::start(Choice::Modern, false, Limits::default()).await;
    let mut child = rig.child();
    let discover = child.read().await;
    child
        .answer(
            &discover,
            json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}),
        )
        .await;
    child.ready().await;
    assert_eq!(child.read().await["method"], "tools/list");
    let client = Client::new(&rig.url);
    let mut times = Vec::new();
    for _ in 0..2 {
        let began = Instant::now();
        let client = client.clone();
        let answer = tokio::spawn(async move {
            client.modern(json!(1), "tools/call", json!({"name": "echo", "arguments": {}})).await
        });
        let asked = loop {
            let asked = child.read().await;
            if asked["method"] == "tools/call" {
                break asked;
            }
        };
        times.push(began.elapsed());
        child.answer(&asked, json!({"resultType": "complete"})).await;
        within(answer).await.unwrap();
    }
    assert!(times[1] < Duration::from_secs(1), "{times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listen_is_renewed_once() {
    let limits = Limits { max_queue_lines: 1, queue_wait: Duration::from_secs(15), ..Limits::default() };
    let (rig, mut child) = Rig::modern(json!({"prompts": {}}), limits).await;
    let client = Client::new(&rig.url);
    let mut streams = Vec::new();

    for n in 0..STREAMS {
        let filter = json!({"resourceSubscriptions": ["x".repeat(3 << 20)]});
        let answer = listening(&client, json!(n), json!({"notifications": filter}), json!({}));
        let asked = child.read().await;
        acknowledge(&mut child, &asked).await;
        streams.push(Events::of(within(answer).await.unwrap()));
    }
    child.exit().await;
    let discovered =
        json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"prompts": {}}});
    // It reads nothing, and ends.
    let mut child = rig.child();
    let discover = child.read().await;
    child.answer(&discover, discovered.clone()).await;
    child.ready().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    child.exit().await;
    let mut child = rig.child();
    let discover = child.read().await;
    child.answer(&discover, discovered).await;
    let mut renewed = 0;
    while let Some(message) = soon(&mut child).await {
        renewed += usize::from(message["method"] == "subscriptions/listen");
    }
    assert_eq!(renewed, STREAMS);
}

#[tokio::test]
async fn a_session_that_waits_for_its_server_is_not_evicted() {
    let (rig, _child) = Rig::legacy(capable(), Limits::default()).await;
    let a = Client::new(&rig.url).initialize(json!({})).await;
    let b = Client::new(&rig.url).initialize(json!({})).await;
    // ferry restarts; its server takes a while.
    let limits = Limits { max_sessions_per_identity: 1, ..Limits::default() };
    let rig = Rig::start(Choice::Legacy, false, limits).await;
    let (a, b) = (same_session(&rig, &a), same_session(&rig, &b));
    let waiting = posting(&a, call(1, "waiting"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    b.post(request(1, "ping", json!({}))).await;
    let mut child = rig.legacy_child(capable()).await;
    assert_eq!(child.read().await["method"], "tools/call");
    a.post(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})).await;
    let cancelled = soon(&mut child).await.expect("a cancels its own request");
    assert_eq!(cancelled["method"], "notifications/cancelled");
    drop(waiting);
}

#[tokio::test]
async fn an_overlong_request_of_the_server_ends_no_call() {
    let limits = Limits { max_message_bytes: 20_000, ..Limits::default() };
    let (rig, mut child) = Rig::legacy(capable(), limits).await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let answer = posting(&client, call(1, "x"));
    let asked = child.read().await;
    let long = "x".repeat(30_000);
    child
        .write(&format!(
            r#"{{"params":{{"x":"{long}"}},"method":"sampling/createMessage","jsonrpc":"2.0","id":{}}}"#,
            asked["id"]
        ))
        .await;
    child.answer(&asked, json!({"ok": true})).await;
    let answer = body(within(answer).await.unwrap()).await;
    assert_eq!(answer["result"]["ok"], true, "{answer}");
}

#[tokio::test]
async fn a_call_whose_user_is_being_asked_is_not_idle() {
    let limits = Limits { request_timeout: Duration::from_millis(800), ..Limits::default() };
    let (rig, mut child) = Rig::legacy(capable(), limits).await;
    let client = Client::new(&rig.url).initialize(json!({"elicitation": {}})).await;
    let answer = posting(&client, call(1, "ask"));
    let asked = child.read().await;
    child.send(request("q", "elicitation/create", json!({"message": "?"}))).await;
    let mut events = Events::of(within(answer).await.unwrap());
    let question = events.next().await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    client.post(json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}})).await;
    assert_eq!(child.read().await["id"], "q");
    tokio::time::sleep(Duration::from_millis(600)).await;
    child.answer(&asked, json!({"ok": true})).await;
    let end = events.next().await.unwrap();
    assert_eq!(end["result"]["ok"], true, "{end}");
}
