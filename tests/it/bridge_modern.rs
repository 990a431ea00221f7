//! Modern clients at a modern server, whose every line is the test's own.

use std::time::Duration;

use mcp_ferry::config::limits::Limits;
use serde_json::{Value, json};

use crate::support::fake_child::{FakeChild, Rig};
use crate::support::http::{Client, Events, body, outcome};
use crate::support::within;

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

async fn rig() -> (Rig, FakeChild) {
    Rig::modern(json!({"tools": {"listChanged": true}, "logging": {}}), Limits::default()).await
}

fn posting(
    client: &Client,
    id: Value,
    method: &'static str,
    params: Value,
    meta: Value,
) -> tokio::task::JoinHandle<reqwest::Response> {
    let client = client.clone();
    tokio::spawn(async move { client.modern_with(id, method, params, meta).await })
}

async fn posted(handle: tokio::task::JoinHandle<reqwest::Response>) -> reqwest::Response {
    within(handle).await.unwrap()
}

#[tokio::test]
async fn requests_pass_with_everything_their_clients_said_of_themselves() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url);
    let meta = json!({"progressToken": "t", "traceparent": "00-1-2-01"});
    let answer = posting(&client, json!("id"), "tools/call", json!({"name": "echo", "arguments": {}}), meta);
    let request = child.read().await;
    assert_ne!(request["id"], "id");
    let meta = &request["params"]["_meta"];
    assert_eq!(meta["io.modelcontextprotocol/clientInfo"]["name"], "test");
    assert_eq!((&meta["traceparent"], &meta["progressToken"]), (&json!("00-1-2-01"), &request["id"]));
    child.notify("notifications/progress", json!({"progressToken": request["id"], "progress": 1})).await;
    child.answer(&request, json!({"resultType": "complete", "content": []})).await;
    let response = posted(answer).await;
    assert!(!response.headers().contains_key("mcp-session-id"));
    let events = Events::of(response).rest().await;
    assert_eq!(events[0]["params"], json!({"progressToken": "t", "progress": 1}));
    assert_eq!(events[1], json!({"jsonrpc": "2.0", "id": "id", "result": {"resultType": "complete", "content": []}}));
}

#[tokio::test]
async fn discover_offers_what_ferry_speaks_too() {
    let (rig, mut child) = rig().await;
    let answer = posting(&Client::new(&rig.url), json!(1), "server/discover", json!({}), json!({}));
    let request = child.read().await;
    let result = json!({"resultType": "complete", "supportedVersions": ["2025-11-25", "2026-07-28", "2099-01-01"], "capabilities": {}, "ttlMs": 0, "cacheScope": "private"});
    child.answer(&request, result).await;
    assert_eq!(body(posted(answer).await).await["result"]["supportedVersions"], json!(["2026-07-28"]));
}

#[tokio::test]
async fn a_request_is_held_to_its_headers_and_refused_under_its_own_id() {
    let (rig, _child) = rig().await;
    let client = Client::new(&rig.url);
    let meta = |version: &str| json!({"io.modelcontextprotocol/protocolVersion": version, "io.modelcontextprotocol/clientCapabilities": {}});
    let list = |meta: Value| json!({"jsonrpc": "2.0", "id": 9, "method": "tools/list", "params": {"_meta": meta}});
    let headed = client.with("mcp-protocol-version", "2026-07-28").with("mcp-method", "tools/list");
    for (client, request, status, code) in [
        (&headed, json!({"jsonrpc": "2.0", "id": 9, "method": "tools/list"}), 400, -32602),
        (&headed, list(json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"})), 400, -32602),
        (&headed, list(meta("v999.0.0")), 400, -32020),
        (&headed.with("mcp-protocol-version", "v999.0.0"), list(meta("v999.0.0")), 400, -32022),
        (&headed.with("mcp-method", "TOOLS/LIST"), list(meta("2026-07-28")), 400, -32020),
        (&headed.with("mcp-method", ""), list(meta("2026-07-28")), 400, -32020),
        (&client, list(meta("2026-07-28")), 400, -32020),
    ] {
        let (answered, answer) = outcome(client.post(request.clone()).await).await;
        assert_eq!((answered, &answer["id"], &answer["error"]["code"]), (status, &json!(9), &json!(code)), "{request}");
    }
    for method in ["ping", "initialize", "logging/setLevel", "resources/subscribe"] {
        let (status, answer) = outcome(client.modern(json!(9), method, json!({})).await).await;
        assert_eq!((status, &answer["error"]["code"]), (404, &json!(-32601)), "{method}");
    }
}

#[tokio::test]
async fn the_status_of_a_servers_error_tells_a_missing_method_from_a_missing_tool() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url);
    for (method, code, status) in [
        ("prompts/list", -32601, 404),
        ("tools/call", -32601, 200),
        ("who/knows", -32601, 404),
        ("tools/call", -32602, 200),
        ("tools/call", -32021, 400),
        ("tools/list", -32603, 200),
    ] {
        let params = if method == "tools/call" { json!({"name": "echo"}) } else { json!({}) };
        let answer = posting(&client, json!(1), method, params, json!({}));
        let request = child.read().await;
        child.send(json!({"jsonrpc": "2.0", "id": request["id"], "error": {"code": code, "message": "no"}})).await;
        let (answered, answer) = outcome(posted(answer).await).await;
        assert_eq!((answered, &answer["error"]["code"]), (status, &json!(code)), "{method} {code}");
    }
}

#[tokio::test]
async fn a_disconnect_is_the_cancel_and_a_cancel_message_is_nothing() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url);
    let (one, from_one) =
        (posting(&client, json!(1), "prompts/get", json!({"name": "p"}), json!({})), child.read().await);
    let (two, from_two) =
        (posting(&client, json!(1), "prompts/get", json!({"name": "p"}), json!({})), child.read().await);
    // Acting on an id of a client's choice would let it cancel another's request.
    let notification =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": from_two["id"]}});
    assert_eq!(client.with("mcp-protocol-version", "2026-07-28").post(notification).await.status(), 202);
    one.abort();
    let cancelled = child.read().await;
    assert_eq!(cancelled["method"], "notifications/cancelled");
    assert_eq!(cancelled["params"]["requestId"], from_one["id"]);
    child.answer(&from_two, json!({"resultType": "complete"})).await;
    assert_eq!(posted(two).await.status(), 200);
    // After the stream has begun, closing it is the cancel as well.
    let streaming = posting(&client, json!(3), "prompts/get", json!({"name": "p"}), json!({"progressToken": 1}));
    let request = child.read().await;
    child.notify("notifications/progress", json!({"progressToken": request["id"], "progress": 1})).await;
    let events = Events::of(posted(streaming).await);
    drop(events);
    assert_eq!(child.read().await["params"]["requestId"], request["id"]);
}

async fn listen(client: &Client, child: &mut FakeChild, id: Value, filter: Value) -> (Events, Value) {
    let answer = posting(client, id, "subscriptions/listen", json!({"notifications": filter}), json!({}));
    let request = child.read().await;
    let meta = json!({SUBSCRIPTION: request["id"]});
    child
        .notify(
            "notifications/subscriptions/acknowledged",
            json!({"notifications": request["params"]["notifications"], "_meta": meta}),
        )
        .await;
    let mut events = Events::of(posted(answer).await);
    let ack = events.next().await.unwrap();
    assert_eq!(ack["method"], "notifications/subscriptions/acknowledged");
    (events, request["id"].clone())
}

#[tokio::test]
async fn each_listen_stream_has_its_own_subscription_under_its_clients_id() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url);
    let filter = json!({"toolsListChanged": true});
    let (mut one, up_one) = listen(&client, &mut child, json!(1), filter.clone()).await;
    let (mut two, up_two) = listen(&client, &mut child, json!("1"), filter.clone()).await;
    let changed = |up: &Value| json!({"_meta": {SUBSCRIPTION: up}});
    child.notify("notifications/prompts/list_changed", changed(&up_two)).await;
    child.notify("notifications/prompts/list_changed", json!({})).await;
    child.notify("notifications/resources/list_changed", changed(&up_one)).await;
    assert_eq!(
        one.next().await.unwrap(),
        json!({"jsonrpc": "2.0", "method": "notifications/resources/list_changed", "params": {"_meta": {SUBSCRIPTION: 1}}})
    );
    assert_eq!(two.next().await.unwrap()["params"]["_meta"][SUBSCRIPTION], "1");
    // The server ends one by its result, the other by a cancel; a client ends its own by closing it.
    child.send(json!({"jsonrpc": "2.0", "id": up_one, "result": {"resultType": "complete", "_meta": {SUBSCRIPTION: up_one}}})).await;
    let end = json!({"jsonrpc": "2.0", "id": 1, "result": {"resultType": "complete", "_meta": {SUBSCRIPTION: 1}}});
    assert_eq!(one.rest().await, [end]);
    child.notify("notifications/cancelled", json!({"requestId": up_two})).await;
    let end = json!({"jsonrpc": "2.0", "id": "1", "result": {"resultType": "complete", "_meta": {SUBSCRIPTION: "1"}}});
    assert_eq!(two.rest().await, [end]);
    let (three, up_three) = listen(&client, &mut child, json!(3), filter).await;
    drop(three);
    let cancelled = child.read().await;
    assert_eq!(
        (&cancelled["method"], &cancelled["params"]["requestId"]),
        (&json!("notifications/cancelled"), &up_three)
    );
}

#[tokio::test]
async fn a_listen_stream_outlives_the_process_it_listened_to() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url);
    let filter = json!({"toolsListChanged": true, "promptsListChanged": false});
    let (mut events, _) = listen(&client, &mut child, json!("l"), filter.clone()).await;
    child.exit().await;
    let mut child = rig.child();
    let discover = child.read().await;
    let result = json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"prompts": {}}, "ttlMs": 0, "cacheScope": "private"});
    child.answer(&discover, result).await;
    let again = child.read().await;
    assert_eq!((&again["method"], &again["params"]["notifications"]), (&json!("subscriptions/listen"), &filter));
    let meta = json!({SUBSCRIPTION: again["id"]});
    child.notify("notifications/subscriptions/acknowledged", json!({"notifications": {}, "_meta": meta})).await;
    let hint = events.next().await.unwrap();
    assert_eq!(
        hint,
        json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {"_meta": {SUBSCRIPTION: "l"}}})
    );
}

#[tokio::test]
async fn a_listen_that_is_never_acknowledged_or_never_comes_back_ends() {
    let limits = Limits {
        listen_ack: Duration::from_millis(200),
        relisten: Duration::from_millis(200),
        start_wait: Duration::from_millis(50),
        ..Limits::default()
    };
    let (rig, mut child) = Rig::modern(json!({"prompts": {}}), limits).await;
    let client = Client::new(&rig.url);
    let answer = posting(&client, json!(1), "subscriptions/listen", json!({"notifications": {}}), json!({}));
    let request = child.read().await;
    assert_eq!(body(posted(answer).await).await["error"]["data"]["ferry"]["reason"], "upstream_timeout");
    assert_eq!(child.read().await["params"]["requestId"], request["id"]);
    // It had said nothing at all since: is it alive?
    let sign_of_life = child.read().await;
    assert_eq!(sign_of_life["method"], "server/discover");
    child.answer(&sign_of_life, json!({})).await;
    let (events, _) = listen(&client, &mut child, json!(2), json!({})).await;
    child.exit().await;
    let end = json!({"jsonrpc": "2.0", "id": 2, "result": {"resultType": "complete", "_meta": {SUBSCRIPTION: 2}}});
    assert_eq!(events.rest().await, [end]);
    let plain = client.with("accept", "application/json");
    let response = plain.modern(json!(3), "subscriptions/listen", json!({"notifications": {}})).await;
    assert_eq!(response.status(), 406);
}

#[tokio::test]
async fn a_log_goes_to_the_only_request_that_asked_for_one() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url);
    let level = |level: &str| json!({"io.modelcontextprotocol/logLevel": level});
    let get = json!({"name": "p"});
    let (quiet, from_quiet) = (posting(&client, json!(1), "prompts/get", get.clone(), json!({})), child.read().await);
    let (loud, from_loud) =
        (posting(&client, json!(2), "prompts/get", get.clone(), level("warning")), child.read().await);
    child.notify("notifications/message", json!({"level": "info", "data": "below"})).await;
    child.notify("notifications/message", json!({"level": "error", "data": "loud's"})).await;
    let (other, from_other) = (posting(&client, json!(3), "prompts/get", get, level("debug")), child.read().await);
    child.notify("notifications/message", json!({"level": "error", "data": "whose?"})).await;
    for request in [&from_quiet, &from_loud, &from_other] {
        child.answer(request, json!({"resultType": "complete"})).await;
    }
    assert_eq!(body(posted(quiet).await).await["id"], 1);
    let events = Events::of(posted(loud).await).rest().await;
    assert_eq!((events.len(), &events[0]["params"]["data"]), (2, &json!("loud's")));
    assert_eq!(body(posted(other).await).await["id"], 3);
}

#[tokio::test]
async fn mirrored_arguments_are_checked_against_the_servers_own_schema() {
    let rig = Rig::start(mcp_ferry::mcp::probe::Choice::Modern, false, Limits::default()).await;
    let mut child = rig.child();
    let discover = child.read().await;
    child.answer(&discover, json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "ttlMs": 0, "cacheScope": "private"})).await;
    child.ready().await;
    let schema = json!({"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}});
    let page = |names: &[&str], next: Option<&str>| {
        let tools: Vec<_> = names.iter().map(|name| json!({"name": name, "inputSchema": schema})).collect();
        let mut page = json!({"resultType": "complete", "tools": tools, "ttlMs": 0, "cacheScope": "private"});
        if let Some(next) = next {
            page["nextCursor"] = json!(next);
        }
        page
    };
    let list = child.read().await;
    child.answer(&list, page(&["a"], Some("2"))).await;
    let list = child.read().await;
    assert_eq!(list["params"]["cursor"], "2");
    child.answer(&list, page(&["b"], None)).await;
    let client = Client::new(&rig.url);
    let arguments = json!({"name": "b", "arguments": {"region": "eu"}});
    let good = posting(&client.with("mcp-param-region", "eu"), json!(1), "tools/call", arguments.clone(), json!({}));
    let request = child.read().await;
    child.answer(&request, json!({"resultType": "complete", "content": []})).await;
    assert_eq!(posted(good).await.status(), 200);
    // What does not fit is looked up once more before it is refused: the schema may have changed.
    for client in [client.clone(), client.with("mcp-param-region", "us")] {
        let bad = posting(&client, json!(2), "tools/call", arguments.clone(), json!({}));
        let list = child.read().await;
        assert_eq!(list["method"], "tools/list");
        child.answer(&list, page(&["b"], None)).await;
        let (status, answer) = outcome(posted(bad).await).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32020)));
    }
}

#[tokio::test]
async fn a_modern_server_that_asks_is_refused() {
    let (_rig, mut child) = rig().await;
    for method in ["elicitation/create", "ping", "roots/list"] {
        child.send(json!({"jsonrpc": "2.0", "id": "q", "method": method})).await;
        let refusal = child.read().await;
        assert_eq!((&refusal["id"], &refusal["error"]["code"]), (&json!("q"), &json!(-32601)), "{method}");
    }
}

#[tokio::test]
async fn a_request_state_comes_back_to_the_server_only_from_whom_it_was_given_to() {
    use mcp_ferry::bridge::auth::{Admission, Identity};
    use mcp_ferry::secret::Secret;
    let (rig, mut child) = rig().await;
    let door =
        |who: &'static str| Admission::Token { token: Secret::new("t"), identity: Identity::access("team", who) };
    let (me, you) = (rig.door(door("me")).await, rig.door(door("you")).await);
    let (me, you) =
        (Client::new(&me).with("authorization", "Bearer t"), Client::new(&you).with("authorization", "Bearer t"));
    let ask = |state: Option<&str>| {
        let mut params = json!({"name": "p"});
        if let Some(state) = state {
            params["requestState"] = json!(state);
        }
        params
    };
    let answer = posting(&me, json!(1), "prompts/get", ask(None), json!({}));
    let request = child.read().await;
    child.answer(&request, json!({"resultType": "input_required", "requestState": "secret \"state\""})).await;
    let sealed = body(posted(answer).await).await["result"]["requestState"].as_str().unwrap().to_owned();
    assert!(sealed.starts_with("f1."), "{sealed}");
    let local = Client::new(&rig.url);
    for (client, state) in [(&you, sealed.as_str()), (&me, "secret \"state\""), (&me, "f1.AAAA")] {
        let (status, answer) = outcome(client.modern(json!(2), "prompts/get", ask(Some(state))).await).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32602)));
        assert_eq!(answer["error"]["data"]["ferry"]["reason"], "invalid_request_state");
    }
    let (status, _) =
        outcome(me.modern(json!(2), "prompts/get", json!({"name": "q", "requestState": sealed})).await).await;
    assert_eq!(status, 400, "of another prompt");
    // The strangers' tries have not spoilt it.
    let answer = posting(&me, json!(3), "prompts/get", ask(Some(&sealed)), json!({"progressToken": "t"}));
    let request = child.read().await;
    assert_eq!(request["params"]["requestState"], "secret \"state\"");
    assert_eq!(request["params"]["_meta"]["progressToken"], request["id"]);
    child.answer(&request, json!({"resultType": "complete"})).await;
    assert_eq!(posted(answer).await.status(), 200);
    // On this machine it passes as it is.
    let answer = posting(&local, json!(4), "prompts/get", ask(Some("mine")), json!({}));
    let request = child.read().await;
    assert_eq!(request["params"]["requestState"], "mine");
    child.answer(&request, json!({"resultType": "input_required", "requestState": "more"})).await;
    assert_eq!(body(posted(answer).await).await["result"]["requestState"], "more");
}
