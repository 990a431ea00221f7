//! Legacy clients at a modern server, whose every line is the test's own.

use std::time::Duration;

use mcp_ferry::config::limits::Limits;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::fake_child::{FakeChild, Rig};
use crate::support::http::{Client, Events, body, outcome};
use crate::support::{until, within};

const PREFIX: &str = "io.modelcontextprotocol";

fn capabilities() -> Value {
    json!({"tools": {"listChanged": true}, "logging": {}, "prompts": {}, "resources": {"subscribe": true, "listChanged": true}})
}

fn call(id: impl Into<Value>, method: &str, params: impl Into<Value>) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params.into()})
}

fn posting(client: &Client, body: Value) -> JoinHandle<Response> {
    let client = client.clone();
    tokio::spawn(async move { client.post(body).await })
}

async fn posted(handle: JoinHandle<Response>) -> Response {
    within(handle).await.unwrap()
}

/// A session of a client that can be asked anything, and the number of the stream that ferry listens to for it.
async fn session_with(limits: Limits) -> (Rig, Client, FakeChild, Value) {
    let (rig, mut child) = Rig::modern(capabilities(), limits).await;
    let can = json!({"sampling": {}, "elicitation": {"form": {}, "url": {}}, "roots": {"listChanged": true}, "tasks": {}, "x": 1});
    let client = Client::new(&rig.url).initialize(can).await;
    let listen = child.read().await;
    let filter = json!({"toolsListChanged": true, "resourcesListChanged": true});
    acknowledge(&mut child, &listen, &filter).await;
    assert_eq!(listen["params"]["notifications"], filter);
    (rig, client, child, listen["id"].clone())
}

async fn session() -> (Rig, Client, FakeChild, Value) {
    session_with(Limits::default()).await
}

async fn acknowledge(child: &mut FakeChild, listen: &Value, kept: &Value) {
    assert_eq!(listen["method"], "subscriptions/listen");
    let params = json!({"notifications": kept, "_meta": {format!("{PREFIX}/subscriptionId"): listen["id"]}});
    child.notify("notifications/subscriptions/acknowledged", params).await;
}

#[tokio::test]
async fn a_session_is_opened_with_what_the_server_said_of_itself() {
    let (rig, _child) = Rig::modern(capabilities(), Limits::default()).await;
    let params =
        json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}});
    let response = Client::new(&rig.url).post(call("i", "initialize", params)).await;
    assert!(response.headers().contains_key("mcp-session-id"));
    assert_eq!(
        body(response).await,
        json!({"jsonrpc": "2.0", "id": "i", "result": {
            "protocolVersion": "2025-06-18", "capabilities": capabilities(),
            // It has not said which program it is, and a legacy client needs to hear something.
            "serverInfo": {"name": "test", "version": "0"},
        }})
    );
}

#[tokio::test]
async fn each_request_carries_what_the_client_said_once() {
    let (_rig, client, mut child, _) = session().await;
    client.post(call(1, "logging/setLevel", json!({"level": "info"}))).await;
    let params = json!({"name": "echo", "task": {}, "_meta": {"progressToken": "p", "own": 1}});
    let calling = posting(&client, call(2, "tools/call", params));
    let asked = child.read().await;
    assert_eq!(
        asked["params"],
        json!({"name": "echo", "_meta": {
            "progressToken": asked["id"], "own": 1,
            format!("{PREFIX}/protocolVersion"): "2026-07-28",
            format!("{PREFIX}/clientInfo"): {"name": "test", "version": "1"},
            format!("{PREFIX}/clientCapabilities"): {"sampling": {}, "elicitation": {"form": {}, "url": {}}, "roots": {}, "x": 1},
            format!("{PREFIX}/logLevel"): "info",
        }})
    );
    child.notify("notifications/progress", json!({"progressToken": asked["id"], "progress": 1})).await;
    child.notify("notifications/message", json!({"level": "debug", "data": "too much"})).await;
    child.notify("notifications/message", json!({"level": "error", "data": "hear"})).await;
    child
        .answer(&asked, json!({"resultType": "complete", "content": [], "structuredContent": [1], "_meta": {"x": 1}}))
        .await;
    let events = Events::of(posted(calling).await).rest().await;
    assert_eq!(events[0]["params"], json!({"progressToken": "p", "progress": 1}));
    assert_eq!(events[1]["params"]["data"], "hear");
    assert_eq!(events[2], json!({"jsonrpc": "2.0", "id": 2, "result": {"content": [], "_meta": {"x": 1}}}));
    // Who can hear nothing but the answer is not to be asked anything.
    let deaf = client.with("accept", "application/json");
    let calling = posting(&deaf, call(3, "tools/call", json!({"name": "echo"})));
    let asked = child.read().await;
    assert_eq!(asked["params"]["_meta"][format!("{PREFIX}/clientCapabilities")], json!({"x": 1}));
    child.answer(&asked, json!({"resultType": "complete", "content": []})).await;
    posted(calling).await;
}

#[tokio::test]
async fn results_are_made_legal_and_errors_go_as_they_are() {
    let (_rig, client, mut child, _) = session().await;
    let tools = json!([
        {"name": "a", "inputSchema": {"type": "object", "properties": {"x": true}}, "outputSchema": {"type": "array"}},
        {"name": "b", "inputSchema": {"type": "object"}, "outputSchema": {"type": "object", "properties": {"y": false}}},
    ]);
    let legal = json!([
        {"name": "a", "inputSchema": {"type": "object", "properties": {"x": {}}}},
        {"name": "b", "inputSchema": {"type": "object"}, "outputSchema": {"type": "object", "properties": {"y": {"not": {}}}}},
    ]);
    for (method, result, told) in [
        (
            "tools/list",
            json!({"resultType": "complete", "tools": tools, "ttlMs": 1, "cacheScope": "public", "nextCursor": "c"}),
            json!({"tools": legal, "nextCursor": "c"}),
        ),
        (
            "prompts/list",
            json!({"resultType": "complete", "prompts": [], "ttlMs": 1, "cacheScope": "public"}),
            json!({"prompts": []}),
        ),
        ("tools/call", json!({"resultType": "task", "taskId": "t"}), json!({"resultType": "task", "taskId": "t"})),
        (
            "tools/call",
            json!({"resultType": "complete", "structuredContent": {"a": 1}}),
            json!({"structuredContent": {"a": 1}}),
        ),
    ] {
        let asking = posting(&client, call(1, method, json!({})));
        let asked = child.read().await;
        child.answer(&asked, result).await;
        assert_eq!(body(posted(asking).await).await["result"], told, "{method}");
    }
    let asking = posting(&client, call(1, "resources/read", json!({"uri": "a"})));
    let asked = child.read().await;
    let error = json!({"code": -32602, "message": "no", "data": {"uri": "a"}});
    child.send(json!({"jsonrpc": "2.0", "id": asked["id"], "error": error})).await;
    assert_eq!(outcome(posted(asking).await).await, (200, json!({"jsonrpc": "2.0", "id": 1, "error": error})));
    for method in ["server/discover", "subscriptions/listen", "tasks/list", "tasks/get", "tasks/result"] {
        let answer = body(client.post(call(1, method, json!({"taskId": "t"}))).await).await;
        assert_eq!(answer["error"]["code"], -32601, "{method}");
    }
    for (method, params) in [("ping", json!({})), ("logging/setLevel", json!({"level": "debug"}))] {
        assert_eq!(body(client.post(call(1, method, params)).await).await["result"], json!({}));
    }
    client.post(json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"})).await;
    client.post(json!({"jsonrpc": "2.0", "method": "notifications/vendor", "params": {"a": 1}})).await;
    assert_eq!(child.read().await, json!({"jsonrpc": "2.0", "method": "notifications/vendor", "params": {"a": 1}}));
}

#[tokio::test]
async fn what_the_server_wants_to_know_the_client_is_asked_in_the_old_way() {
    let (_rig, client, mut child, _) = session().await;
    let calling = posting(&client, call("mine", "tools/call", json!({"name": "echo", "arguments": {"a": 1.0}})));
    let asked = child.read().await;
    let wanted = json!({
        "name": {"method": "elicitation/create", "params": {"message": "Name?"}},
        "page": {"method": "elicitation/create", "params": {"mode": "url", "url": "https://example.com"}},
        "roots": {"method": "roots/list"},
    });
    child.answer(&asked, json!({"resultType": "input_required", "inputRequests": wanted, "requestState": "s1"})).await;
    let mut events = Events::of(posted(calling).await);
    let mut questions = Vec::new();
    for _ in 0..3 {
        questions.push(events.next().await.unwrap());
    }
    assert_eq!(questions[0]["params"], json!({"message": "Name?"}));
    let page = questions[1]["params"]["elicitationId"].as_str().unwrap();
    assert_eq!(page.len(), 36, "{page}");
    assert_eq!((&questions[2]["method"], questions[2].get("params")), (&json!("roots/list"), None));
    for (question, answer) in [
        (&questions[2], json!({"result": {"roots": []}})),
        (&questions[0], json!({"result": {"action": "accept", "content": {"n": 1}}})),
        // A refusal of such a question is its cancelling.
        (&questions[1], json!({"error": {"code": -1, "message": "no"}})),
    ] {
        let mut message = json!({"jsonrpc": "2.0", "id": question["id"]});
        message.as_object_mut().unwrap().extend(answer.as_object().unwrap().clone());
        assert_eq!(client.post(message).await.status(), 202);
    }
    let again = child.read().await;
    assert_ne!(again["id"], asked["id"]);
    assert_eq!(
        (&again["method"], &again["params"]["arguments"], &again["params"]["requestState"]),
        (&json!("tools/call"), &json!({"a": 1.0}), &json!("s1"))
    );
    assert_eq!(
        again["params"]["inputResponses"],
        json!({"name": {"action": "accept", "content": {"n": 1}}, "page": {"action": "cancel"}, "roots": {"roots": []}})
    );
    // It is busy: without questions it only wants to be asked later.
    child.answer(&again, json!({"resultType": "input_required", "requestState": "s2"})).await;
    let third = child.read().await;
    assert_eq!((&third["params"]["requestState"], &third["params"]["inputResponses"]), (&json!("s2"), &json!({})));
    child.answer(&third, json!({"resultType": "complete", "content": []})).await;
    assert_eq!(events.next().await.unwrap(), json!({"jsonrpc": "2.0", "id": "mine", "result": {"content": []}}));
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_call_whose_client_will_not_or_cannot_answer_fails_with_the_reason() {
    let limits = Limits { s2c_timeout: Duration::from_millis(200), max_rounds: 2, ..Limits::default() };
    let (rig, client, mut child, _) = session_with(limits).await;
    let ask = |method: &str| json!({"resultType": "input_required", "inputRequests": {"k": {"method": method, "params": {"message": "?"}}}});
    // Refused by the client, and left unanswered.
    for refuses in [true, false] {
        let calling = posting(&client, call(1, "tools/call", json!({"name": "echo"})));
        let asked = child.read().await;
        child.answer(&asked, ask("sampling/createMessage")).await;
        let mut events = Events::of(posted(calling).await);
        let question = events.next().await.unwrap();
        if refuses {
            client.post(json!({"jsonrpc": "2.0", "id": question["id"], "error": {"code": -5, "message": "no"}})).await;
        }
        let last = events.next().await.unwrap();
        assert_eq!(last["error"]["code"], -32603, "{last}");
        if refuses {
            assert_eq!(last["error"]["data"], json!({"code": -5, "message": "no"}));
        }
    }
    // What no client can be asked, or this one has not declared.
    let plain = Client::new(&rig.url).initialize(json!({})).await;
    for (client, method) in [(&client, "vendor/thing"), (&plain, "elicitation/create")] {
        let calling = posting(client, call(1, "tools/call", json!({"name": "echo"})));
        let asked = child.read().await;
        child.answer(&asked, ask(method)).await;
        assert_eq!(body(posted(calling).await).await["error"]["code"], -32603, "{method}");
    }
    // Again and again.
    let calling = posting(&client, call(1, "prompts/get", json!({"name": "p"})));
    for _ in 0..3 {
        let asked = child.read().await;
        child.answer(&asked, json!({"resultType": "input_required", "requestState": "s"})).await;
    }
    assert_eq!(body(posted(calling).await).await["error"]["code"], -32603);
    assert_eq!(rig.endpoint.in_flight(), 0);
}

#[tokio::test]
async fn a_call_that_is_cancelled_while_its_client_is_asked_is_over() {
    for how in ["cancelled", "ended"] {
        let (rig, client, mut child, _) = session().await;
        let mut stream = client.get().await;
        let calling = posting(&client, call(1, "tools/call", json!({"name": "echo"})));
        let asked = child.read().await;
        let wanted = json!({"k": {"method": "elicitation/create", "params": {"message": "?"}}});
        child.answer(&asked, json!({"resultType": "input_required", "inputRequests": wanted})).await;
        let mut events = Events::of(posted(calling).await);
        let question = events.next().await.unwrap();
        assert_eq!(rig.endpoint.in_flight(), 1, "it counts all the while");
        if how == "cancelled" {
            client
                .post(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}))
                .await;
            let taken_back = stream.next().await.unwrap();
            assert_eq!(
                (&taken_back["method"], &taken_back["params"]["requestId"]),
                (&json!("notifications/cancelled"), &question["id"])
            );
        } else {
            client.send(Method::DELETE, "").await;
        }
        assert_eq!(events.next().await.unwrap()["error"]["data"]["ferry"]["reason"], "cancelled");
        until(|| rig.endpoint.in_flight() == 0).await;
        // The late answer is for nobody.
        client.post(json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}})).await;
        child.send(call("p", "ping", json!({}))).await;
        assert_eq!(child.read().await["id"], "p", "{how}: nothing was sent before");
    }
}

#[tokio::test]
async fn while_a_client_is_asked_its_server_may_be_another() {
    let (rig, client, mut child, _) = session().await;
    let calling = posting(&client, call(1, "tools/call", json!({"name": "echo"})));
    let asked = child.read().await;
    let wanted = json!({"k": {"method": "roots/list"}});
    child.answer(&asked, json!({"resultType": "input_required", "inputRequests": wanted, "requestState": "s"})).await;
    let mut events = Events::of(posted(calling).await);
    let question = events.next().await.unwrap();
    child.exit().await;
    let mut child = rig.child();
    let discover = child.read().await;
    child.answer(&discover, json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": capabilities(), "ttlMs": 0, "cacheScope": "private"})).await;
    child.ready().await;
    // Its tools are looked at, and it is listened to, in whatever order.
    for _ in 0..2 {
        let asked = child.read().await;
        if asked["method"] == "tools/list" {
            child
                .answer(&asked, json!({"resultType": "complete", "tools": [], "ttlMs": 0, "cacheScope": "private"}))
                .await;
        } else {
            acknowledge(&mut child, &asked, &json!({})).await;
        }
    }
    client.post(json!({"jsonrpc": "2.0", "id": question["id"], "result": {"roots": []}})).await;
    let again = child.read().await;
    assert_eq!(
        (&again["params"]["requestState"], &again["params"]["inputResponses"]),
        (&json!("s"), &json!({"k": {"roots": []}}))
    );
    child.answer(&again, json!({"resultType": "complete", "content": []})).await;
    assert_eq!(events.next().await.unwrap()["result"], json!({"content": []}));
}

#[tokio::test]
async fn one_stream_at_the_server_stands_for_all_sessions() {
    let (rig, one, mut child, first) = session().await;
    let two = Client::new(&rig.url).initialize(json!({})).await;
    let (mut hears_one, mut hears_two) = (one.get().await, two.get().await);
    let own = |number: &Value| json!({format!("{PREFIX}/subscriptionId"): number});
    child.notify("notifications/tools/list_changed", json!({"_meta": own(&first)})).await;
    let list = child.read().await;
    child.answer(&list, json!({"resultType": "complete", "tools": [], "ttlMs": 0, "cacheScope": "private"})).await;
    for hears in [&mut hears_one, &mut hears_two] {
        assert_eq!(
            hears.next().await.unwrap(),
            json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        );
    }
    // A resource more: another stream, and the first one ends when that is acknowledged.
    let subscribing = posting(&one, call(1, "resources/subscribe", json!({"uri": "a:b"})));
    let listen = child.read().await;
    let filter = json!({"toolsListChanged": true, "resourcesListChanged": true, "resourceSubscriptions": ["a:b"]});
    assert_eq!(listen["params"]["notifications"], filter);
    acknowledge(&mut child, &listen, &filter).await;
    assert_eq!(body(posted(subscribing).await).await["result"], json!({}));
    let cancelled = child.read().await;
    assert_eq!((&cancelled["method"], &cancelled["params"]["requestId"]), (&json!("notifications/cancelled"), &first));
    let second = listen["id"].clone();
    child.notify("notifications/resources/updated", json!({"uri": "a:b", "_meta": own(&first)})).await;
    child.notify("notifications/resources/updated", json!({"uri": "a:b", "x": 1, "_meta": own(&second)})).await;
    child.notify("notifications/resources/list_changed", json!({"_meta": own(&second)})).await;
    let updated =
        json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "a:b", "x": 1}});
    assert_eq!(hears_one.next().await.unwrap(), updated, "once");
    assert_eq!(hears_one.next().await.unwrap()["method"], "notifications/resources/list_changed");
    assert_eq!(
        hears_two.next().await.unwrap()["method"],
        "notifications/resources/list_changed",
        "it did not subscribe"
    );
    // One that the server does not keep to.
    let subscribing = posting(&two, call(1, "resources/subscribe", json!({"uri": "a:c"})));
    let listen = child.read().await;
    assert_eq!(listen["params"]["notifications"]["resourceSubscriptions"], json!(["a:b", "a:c"]));
    acknowledge(&mut child, &listen, &filter).await;
    let answer = body(posted(subscribing).await).await;
    assert_eq!((&answer["error"]["code"], &answer["error"]["message"]), (&json!(-32603), &json!("not honoured")));
    assert_eq!(child.read().await["params"]["requestId"], second);
    // With the sessions the stream goes.
    let third = listen["id"].clone();
    one.send(Method::DELETE, "").await;
    let listen = child.read().await;
    assert_eq!(listen["params"]["notifications"], json!({"toolsListChanged": true, "resourcesListChanged": true}));
    acknowledge(&mut child, &listen, &json!({})).await;
    assert_eq!(child.read().await["params"]["requestId"], third);
    two.send(Method::DELETE, "").await;
    assert_eq!(child.read().await["params"]["requestId"], listen["id"]);
}
