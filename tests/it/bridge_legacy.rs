//! Legacy clients at a shared legacy server, whose every line is the test's own.

use std::sync::atomic::Ordering;
use std::time::Duration;

use mcp_ferry::config::limits::Limits;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::fake_child::{FakeChild, Rig, Wish};
use crate::support::http::{Client, Events, body, outcome};
use crate::support::{until, within};

fn call(id: impl Into<Value>, name: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": "tools/call", "params": {"name": name, "arguments": {}}})
}

fn call_with_token(id: impl Into<Value>, name: &str, token: impl Into<Value>) -> Value {
    let mut call = call(id, name);
    call["params"]["_meta"] = json!({"progressToken": token.into()});
    call
}

async fn rig() -> (Rig, FakeChild) {
    Rig::legacy(
        json!({"tools": {"listChanged": true}, "logging": {}, "resources": {"subscribe": true}}),
        Limits::default(),
    )
    .await
}

/// Sends in the background, so that the test can play the server meanwhile.
fn posting(client: &Client, body: Value) -> tokio::task::JoinHandle<reqwest::Response> {
    let client = client.clone();
    tokio::spawn(async move { client.post(body).await })
}

async fn posted(handle: tokio::task::JoinHandle<reqwest::Response>) -> reqwest::Response {
    within(handle).await.unwrap()
}

#[tokio::test]
async fn initialize_gives_the_servers_own_words_and_the_version_that_was_asked_for() {
    let rig = Rig::start(mcp_ferry::mcp::probe::Choice::Legacy, false, Limits::default()).await;
    let mut child = rig.child();
    let initialize = child.read().await;
    assert_eq!(initialize["params"]["capabilities"], json!({}), "a shared server is told that nobody can be asked");
    assert_eq!(initialize["params"]["clientInfo"]["name"], "ferry");
    child
        .write(&format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"2025-06-18","capabilities":{{"tools":{{}},"tasks":{{"list":{{}},"cancel":{{}}}},"x":[1.0]}},"serverInfo":{{"name":"s","version":"1"}},"instructions":"\u00e9","later":1e2}}}}"#,
            initialize["id"]
        ))
        .await;
    child.read().await;
    child.ready().await;
    let client = Client::new(&rig.url);
    for (asked, answered) in [("2024-11-05", "2024-11-05"), ("2025-11-25", "2025-11-25"), ("1999-01-01", "2025-11-25")]
    {
        let params = json!({"protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}});
        let response =
            client.post(json!({"jsonrpc": "2.0", "id": "i", "method": "initialize", "params": params})).await;
        assert!(response.headers().contains_key("mcp-session-id"));
        let text = within(response.text()).await.unwrap();
        assert_eq!(
            text,
            format!(
                r#"{{"jsonrpc":"2.0","id":"i","result":{{"protocolVersion":"{answered}","capabilities":{{"tools":{{}},"tasks":{{"cancel":{{}}}},"x":[1.0]}},"serverInfo":{{"name":"s","version":"1"}},"instructions":"\u00e9","later":1e2}}}}"#
            ),
        );
    }
    let response = client.post(json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}})).await;
    assert!(!response.headers().contains_key("mcp-session-id"), "a failed one opens no session");
    assert_eq!(body(response).await["error"]["code"], -32602);
}

#[tokio::test]
async fn two_clients_with_equal_ids_and_tokens_get_their_own_answers_and_progress() {
    let (rig, mut child) = rig().await;
    let (a, b) = (Client::new(&rig.url).initialize(json!({})).await, Client::new(&rig.url).initialize(json!({})).await);
    let to_a = posting(&a, call_with_token(json!(1), "a", json!("t")));
    let from_a = child.read().await;
    let to_b = posting(&b, call_with_token(json!(1), "b", json!("t")));
    let from_b = child.read().await;
    assert_ne!(from_a["id"], from_b["id"]);
    assert_ne!(from_a["params"]["_meta"]["progressToken"], from_b["params"]["_meta"]["progressToken"]);
    let progress =
        |from: &Value, n: u32| json!({"progressToken": from["params"]["_meta"]["progressToken"], "progress": n});
    child.notify("notifications/progress", progress(&from_b, 10)).await;
    child.notify("notifications/progress", progress(&from_a, 20)).await;
    child.notify("notifications/progress", progress(&from_b, 11)).await;
    child.answer(&from_b, json!({"for": "b"})).await;
    child.answer(&from_a, json!({"for": "a"})).await;
    for (response, name, expected) in [(to_a, "a", vec![20]), (to_b, "b", vec![10, 11])] {
        let mut events = Events::of(posted(response).await).rest().await;
        let end = events.pop().unwrap();
        assert_eq!(end, json!({"jsonrpc": "2.0", "id": 1, "result": {"for": name}}));
        let progress: Vec<_> = events.iter().map(|event| event["params"]["progress"].as_u64().unwrap()).collect();
        assert_eq!(progress, expected);
        assert!(events.iter().all(|event| event["params"]["progressToken"] == "t"));
    }
}

#[tokio::test]
async fn a_cancel_reaches_the_callers_own_request_alone() {
    let (rig, mut child) = rig().await;
    let (a, b) = (Client::new(&rig.url).initialize(json!({})).await, Client::new(&rig.url).initialize(json!({})).await);
    let to_a = posting(&a, call(json!(1), "a"));
    let from_a = child.read().await;
    let to_b = posting(&b, call(json!(1), "b"));
    let from_b = child.read().await;
    let cancel =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1, "reason": "enough"}});
    assert_eq!(b.post(cancel.clone()).await.status(), 202);
    let cancelled = child.read().await;
    assert_eq!(cancelled["method"], "notifications/cancelled");
    assert_eq!(cancelled["params"], json!({"requestId": from_b["id"], "reason": "enough"}));
    let (status, answer) = outcome(posted(to_b).await).await;
    assert_eq!((status, answer["id"].clone(), answer["error"]["code"].clone()), (200, json!(1), json!(-31007)));
    // A late answer to the cancelled one goes nowhere; a second cancel finds nothing.
    child.answer(&from_b, json!({"late": true})).await;
    assert_eq!(b.post(cancel).await.status(), 202);
    child.answer(&from_a, json!({"for": "a"})).await;
    assert_eq!(body(posted(to_a).await).await["result"], json!({"for": "a"}));
}

#[tokio::test]
async fn a_lost_connection_is_not_a_cancel_but_does_not_last_for_ever() {
    let limits = Limits { detached_ttl: Duration::from_millis(300), ..Limits::default() };
    let (rig, mut child) = Rig::legacy(json!({"tools": {}}), limits).await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let lost = posting(&client, call(json!(1), "slow"));
    let request = child.read().await;
    lost.abort();
    let cancelled = child.read().await;
    assert_eq!(cancelled["method"], "notifications/cancelled");
    assert_eq!(cancelled["params"]["requestId"], request["id"]);
}

#[tokio::test]
async fn payloads_pass_byte_for_byte_and_errors_of_any_code_come_in_band() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let pretty = "{\n \"jsonrpc\": \"2.0\",\r\n \"id\": 1.50,\n \"method\": \"tools/call\", \"extra\": 1,\n \"params\": {\"b\": 1.0e2,\n\"a\": \"\\u00e9\", \"_meta\": {\"progressToken\":  7 , \"k\":null}}}";
    let answer = tokio::spawn({
        let client = client.clone();
        async move { client.post_text(pretty).await }
    });
    let line = child.read_text().await;
    let id = serde_json::from_str::<Value>(&line).unwrap()["id"].clone();
    assert_eq!(
        line,
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"b": 1.0e2, "a": "\u00e9", "_meta": {{"progressToken":  {id} , "k":null}}}}}}"#
        )
    );
    child
        .write(&format!(
            "{{\"result\":{{ \"n\": 1.00, \"s\":\"\\u00e9\" }},\"id\":\"{id}\",\"jsonrpc\":\"2.0\",\"x\":1}}\r"
        ))
        .await;
    let response = posted(answer).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(
        within(response.text()).await.unwrap(),
        r#"{"jsonrpc":"2.0","id":1.50,"result":{ "n": 1.00, "s":"\u00e9" }}"#
    );
    for code in [-32601, -32002, -32042, 7] {
        let answer = posting(&client, call(json!("x"), "t"));
        let request = child.read().await;
        let error = json!({"code": code, "message": "no", "data": {"d": 1}});
        child.send(json!({"jsonrpc": "2.0", "id": request["id"], "error": error})).await;
        assert_eq!(outcome(posted(answer).await).await, (200, json!({"jsonrpc": "2.0", "id": "x", "error": error})));
    }
}

#[tokio::test]
async fn what_a_legacy_client_asks_of_ferry_never_reaches_the_server() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let request = |method: &str| json!({"jsonrpc": "2.0", "id": 1, "method": method});
    let text = within(client.post(request("ping")).await.text()).await.unwrap();
    assert_eq!(text, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "exactly the empty result");
    for method in ["server/discover", "subscriptions/listen", "tasks/list", "notifications/cancelled"] {
        let (status, answer) = outcome(client.post(request(method)).await).await;
        assert_eq!((status, &answer["error"]["code"]), (200, &json!(-32601)), "{method}");
    }
    for method in ["notifications/initialized", "notifications/roots/list_changed", "notifications/x"] {
        assert_eq!(client.post(json!({"jsonrpc": "2.0", "method": method})).await.status(), 202);
    }
    assert_eq!(client.post(json!({"jsonrpc": "2.0", "id": 99, "result": {}})).await.status(), 202);
    let task = json!({"jsonrpc": "2.0", "id": 1, "method": "tasks/get", "params": {"taskId": "somebody's"}});
    assert_eq!(body(client.post(task).await).await["error"]["message"], "task not found");
    // The first thing the server hears is this.
    let answer = posting(&client, call(json!(2), "marker"));
    let heard = child.read().await;
    assert_eq!(heard["params"]["name"], "marker");
    child.answer(&heard, json!({})).await;
    posted(answer).await;
}

#[tokio::test]
async fn a_session_is_found_by_its_id_alone_and_ends_with_delete() {
    let (rig, _child) = rig().await;
    let bare = Client::new(&rig.url);
    let client = bare.initialize(json!({})).await;
    let ping = || json!({"jsonrpc": "2.0", "id": "p", "method": "ping"});
    let refused = |response| async {
        let (status, answer) = outcome(response).await;
        (status, answer["error"]["code"].as_i64().unwrap(), answer["id"].clone())
    };
    assert_eq!(refused(bare.post(ping()).await).await, (400, -32600, json!("p")));
    assert_eq!(refused(bare.with("mcp-session-id", "made-up").post(ping()).await).await, (404, -32600, json!("p")));
    assert_eq!(refused(client.with("mcp-protocol-version", "2020-01-01").post(ping()).await).await.0, 400);
    assert_eq!(client.with("mcp-protocol-version", "").post(ping()).await.status(), 200);
    assert_eq!(client.with("mcp-protocol-version", "2025-03-26").post(ping()).await.status(), 200);
    assert_eq!(bare.send(Method::GET, "").await.status(), 405);
    assert_eq!(bare.send(Method::DELETE, "").await.status(), 400);
    assert_eq!(bare.send(Method::PUT, "").await.status(), 405);
    assert_eq!(client.send(Method::DELETE, "").await.status(), 204);
    assert_eq!(refused(client.post(ping()).await).await, (404, -32600, json!("p")));
    assert_eq!(client.send(Method::DELETE, "").await.status(), 404);
}

#[tokio::test]
async fn the_end_of_a_session_cancels_what_it_had_in_flight_and_closes_its_streams() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let stream = client.get().await;
    let answer = posting(&client, call(json!(1), "slow"));
    let request = child.read().await;
    assert_eq!(client.send(Method::DELETE, "").await.status(), 204);
    assert_eq!(child.read().await["params"]["requestId"], request["id"]);
    assert_eq!(body(posted(answer).await).await["error"]["code"], -31007);
    assert!(stream.rest().await.is_empty());
}

#[tokio::test]
async fn list_changed_reaches_every_session_and_each_by_one_stream() {
    let (rig, mut child) = rig().await;
    let (a, b) = (Client::new(&rig.url).initialize(json!({})).await, Client::new(&rig.url).initialize(json!({})).await);
    let mut old_a = a.get().await;
    let mut new_a = a.get().await;
    assert_eq!(old_a.block().await.as_deref(), Some(": ok"), "bytes at once");
    // b has no stream yet: what waits for it is collapsed.
    for _ in 0..3 {
        child.notify("notifications/tools/list_changed", json!({})).await;
    }
    assert_eq!(new_a.next().await.unwrap()["method"], "notifications/tools/list_changed");
    let mut stream_b = b.get().await;
    assert_eq!(stream_b.next().await.unwrap()["method"], "notifications/tools/list_changed");
    child.notify("notifications/prompts/list_changed", json!({})).await;
    assert_eq!(stream_b.next().await.unwrap()["method"], "notifications/prompts/list_changed");
    // The newest stream breaks: as soon as that is known, the older one takes over.
    drop(new_a);
    let taken_over = async {
        loop {
            let event = old_a.next().await.unwrap();
            if event["method"] == "notifications/resources/list_changed" {
                return;
            }
        }
    };
    let telling = async {
        loop {
            child.notify("notifications/resources/list_changed", json!({})).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(async {
        tokio::select! {
            () = taken_over => {}
            () = telling => {}
        }
    })
    .await;
}

#[tokio::test]
async fn updates_go_to_subscribers_and_the_server_is_asked_once() {
    let (rig, mut child) = rig().await;
    let (a, b) = (Client::new(&rig.url).initialize(json!({})).await, Client::new(&rig.url).initialize(json!({})).await);
    let (mut at_a, mut at_b) = (a.get().await, b.get().await);
    let subscribe =
        |uri: &str| json!({"jsonrpc": "2.0", "id": 5, "method": "resources/subscribe", "params": {"uri": uri}});
    let first = posting(&a, subscribe("file:///dir"));
    let request = child.read().await;
    assert_eq!(
        (&request["method"], &request["params"]),
        (&json!("resources/subscribe"), &json!({"uri": "file:///dir"}))
    );
    let second = posting(&b, subscribe("file:///dir"));
    child.answer(&request, json!({})).await;
    for answer in [first, second] {
        assert_eq!(body(posted(answer).await).await, json!({"jsonrpc": "2.0", "id": 5, "result": {}}));
    }
    child.notify("notifications/resources/updated", json!({"uri": "file:///elsewhere"})).await;
    child.notify("notifications/resources/updated", json!({"uri": "file:///dir/file"})).await;
    for stream in [&mut at_a, &mut at_b] {
        assert_eq!(stream.next().await.unwrap()["params"]["uri"], "file:///dir/file");
    }
    // One that the server refuses is refused to its client in the server's words.
    let refused = posting(&a, subscribe("file:///no"));
    let request = child.read().await;
    child.send(json!({"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32002, "message": "no"}})).await;
    assert_eq!(body(posted(refused).await).await["error"], json!({"code": -32002, "message": "no"}));
    // The last one to leave tells the server.
    let unsubscribe =
        json!({"jsonrpc": "2.0", "id": 6, "method": "resources/unsubscribe", "params": {"uri": "file:///dir"}});
    assert_eq!(a.post(unsubscribe).await.status(), 200);
    child.notify("notifications/resources/updated", json!({"uri": "file:///dir"})).await;
    assert_eq!(at_b.next().await.unwrap()["params"]["uri"], "file:///dir");
    b.send(Method::DELETE, "").await;
    let request = child.read().await;
    assert_eq!(
        (&request["method"], &request["params"]["uri"]),
        (&json!("resources/unsubscribe"), &json!("file:///dir"))
    );
}

#[tokio::test]
async fn the_server_logs_as_much_as_the_most_curious_and_each_hears_what_it_asked_for() {
    let limits = Limits { log_level_linger: Duration::from_millis(50), ..Limits::default() };
    let (rig, mut child) = Rig::legacy(json!({"tools": {}, "logging": {}}), limits).await;
    let a = Client::new(&rig.url).initialize(json!({})).await;
    let level =
        |level: &str| json!({"jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": {"level": level}});
    assert_eq!(body(a.post(level("loud")).await).await["error"]["code"], -32602);
    assert_eq!(body(a.post(level("warning")).await).await["result"], json!({}));
    let request = child.read().await;
    assert_eq!(request["params"]["level"], "warning");
    child.answer(&request, json!({})).await;
    let b = Client::new(&rig.url).initialize(json!({})).await;
    b.post(level("error")).await;
    b.post(level("debug")).await;
    let request = child.read().await;
    assert_eq!(request["params"]["level"], "debug", "the less verbose wish was not passed on");
    child.answer(&request, json!({})).await;
    // Two sessions and nothing in flight: a log may be anybody's. With one of a's calls in flight it is a's.
    child.notify("notifications/message", json!({"level": "error", "data": "nobody's"})).await;
    let answer = posting(&a, call(json!(1), "t"));
    let request = child.read().await;
    child.notify("notifications/message", json!({"level": "debug", "data": "below"})).await;
    child.notify("notifications/message", json!({"level": "error", "data": "a's"})).await;
    child.answer(&request, json!({})).await;
    let events = Events::of(posted(answer).await).rest().await;
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(events[0]["params"]["data"], "a's");
    // Two owners in flight: dropped.
    let (to_a, from_a) = (posting(&a, call(json!(1), "t")), child.read().await);
    let (to_b, from_b) = (posting(&b, call(json!(1), "t")), child.read().await);
    child.notify("notifications/message", json!({"level": "error", "data": "whose?"})).await;
    child.answer(&from_a, json!({})).await;
    child.answer(&from_b, json!({})).await;
    for answer in [to_a, to_b] {
        assert_eq!(body(posted(answer).await).await["result"], json!({}), "plain JSON: no log before it");
    }
    // The curious one leaves: after a while the server is told that less will do.
    b.send(Method::DELETE, "").await;
    let request = child.read().await;
    assert_eq!(request["params"]["level"], "warning");
}

#[tokio::test]
async fn a_question_reaches_the_only_one_it_can_be_for_and_its_answer_returns() {
    let (rig, mut child) = rig().await;
    let a = Client::new(&rig.url).initialize(json!({"elicitation": {}, "sampling": {}})).await;
    let answer = posting(&a, call(json!(1), "ask"));
    let request = child.read().await;
    // TypeScript servers number from 0, and put a token on everything.
    child
        .send(json!({"jsonrpc": "2.0", "id": 0, "method": "elicitation/create",
            "params": {"message": "name?", "requestedSchema": {"type": "object", "properties": {}}, "_meta": {"progressToken": 0}}}))
        .await;
    let mut events = Events::of(posted(answer).await);
    let question = events.next().await.unwrap();
    assert_eq!(question["method"], "elicitation/create");
    let progress =
        json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 0, "progress": 1}});
    assert_eq!(a.post(progress).await.status(), 202);
    assert_eq!(child.read().await["params"], json!({"progressToken": 0, "progress": 1}));
    let content = json!({"action": "accept", "content": {"name": "Ada"}});
    assert_eq!(a.post(json!({"jsonrpc": "2.0", "id": question["id"], "result": content})).await.status(), 202);
    assert_eq!(child.read().await, json!({"jsonrpc": "2.0", "id": 0, "result": content}));
    // Answers count once.
    assert_eq!(a.post(json!({"jsonrpc": "2.0", "id": question["id"], "result": content})).await.status(), 202);
    child.answer(&request, json!({"done": true})).await;
    assert_eq!(events.next().await.unwrap()["result"], json!({"done": true}));
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_question_that_may_be_anothers_is_refused_and_shown_to_nobody() {
    let (rig, mut child) = rig().await;
    let able = Client::new(&rig.url).initialize(json!({"elicitation": {}})).await;
    let unable = Client::new(&rig.url).initialize(json!({})).await;
    let ask = json!({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": {"message": "?"}});
    // Nothing in flight.
    child.send(ask.clone()).await;
    assert_eq!(child.read().await["error"], json!({"code": -32603, "message": "no request in flight"}));
    // One capable owner and one incapable: it may be the other's.
    let (to_able, from_able) = (posting(&able, call(json!(1), "a")), child.read().await);
    let (to_unable, from_unable) = (posting(&unable, call(json!(1), "b")), child.read().await);
    child.send(ask.clone()).await;
    let refusal = child.read().await;
    assert_eq!((&refusal["id"], &refusal["error"]["code"]), (&json!("q"), &json!(-32603)));
    child.answer(&from_able, json!({})).await;
    assert_eq!(body(posted(to_able).await).await["result"], json!({}), "plain JSON: no question came before");
    // Only the incapable one: it lacks the capability.
    child.send(ask.clone()).await;
    assert_eq!(child.read().await["error"]["code"], -32601);
    child.answer(&from_unable, json!({})).await;
    posted(to_unable).await;
    // A request of that session which cannot have caused it does not count.
    let (to_able, from_able) =
        (posting(&able, json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})), child.read().await);
    child.send(ask).await;
    assert_eq!(child.read().await["error"]["message"], "no request in flight");
    child.answer(&from_able, json!({"tools": []})).await;
    posted(to_able).await;
    for (id, method) in [(json!(1), "ping"), (json!(2), "tasks/get"), (json!(3), "who/knows")] {
        child.send(json!({"jsonrpc": "2.0", "id": id, "method": method})).await;
        let answer = child.read().await;
        assert_eq!(answer["id"], id);
        assert_eq!(answer.get("result").is_some(), method == "ping", "{method}: {answer}");
    }
}

#[tokio::test]
async fn a_question_of_a_cancelled_call_is_taken_back_and_a_late_one_still_has_its_owner() {
    let (rig, mut child) = rig().await;
    let a = Client::new(&rig.url).initialize(json!({"elicitation": {}})).await;
    let b = Client::new(&rig.url).initialize(json!({"elicitation": {}})).await;
    let mut stream = a.get().await;
    let answer = posting(&a, call(json!(1), "ask"));
    child.read().await;
    child.send(json!({"jsonrpc": "2.0", "id": 5, "method": "elicitation/create", "params": {"message": "?"}})).await;
    let mut events = Events::of(posted(answer).await);
    let question = events.next().await.unwrap();
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    a.post(cancel).await;
    assert_eq!(child.read().await["method"], "notifications/cancelled");
    assert_eq!(events.next().await.unwrap()["error"]["code"], -31007);
    assert_eq!(stream.next().await.unwrap()["params"]["requestId"], question["id"]);
    // The cancelled call may still ask: with another's call in flight, nobody can tell whose question it is.
    let (to_b, from_b) = (posting(&b, call(json!(1), "b")), child.read().await);
    child.send(json!({"jsonrpc": "2.0", "id": 6, "method": "elicitation/create", "params": {"message": "?"}})).await;
    assert_eq!(child.read().await["error"]["code"], -32603);
    child.answer(&from_b, json!({})).await;
    assert_eq!(body(posted(to_b).await).await["result"], json!({}));
}

#[tokio::test]
async fn an_unanswered_question_ends_and_the_client_is_told() {
    let limits = Limits {
        s2c_timeout: Duration::from_millis(100),
        s2c_stream_wait: Duration::from_millis(100),
        ..Limits::default()
    };
    let (rig, mut child) = Rig::legacy(json!({"tools": {}}), limits).await;
    let client = Client::new(&rig.url).initialize(json!({"elicitation": {}, "sampling": {}})).await;
    let mut stream = client.get().await;
    let answer = posting(&client, call(json!(1), "ask"));
    let request = child.read().await;
    child.send(json!({"jsonrpc": "2.0", "id": "e", "method": "elicitation/create", "params": {"message": "?"}})).await;
    assert_eq!(child.read().await, json!({"jsonrpc": "2.0", "id": "e", "result": {"action": "cancel"}}));
    let mut events = Events::of(posted(answer).await);
    let question = events.next().await.unwrap();
    assert_eq!(stream.next().await.unwrap()["params"]["requestId"], question["id"]);
    child
        .send(json!({"jsonrpc": "2.0", "id": "s", "method": "sampling/createMessage", "params": {"messages": []}}))
        .await;
    assert_eq!(child.read().await["error"]["code"], -32603);
    child.answer(&request, json!({})).await;
    drop(stream);
    // A client that reads plain JSON only, and has no stream open, cannot be asked.
    let plain = client.with("accept", "application/json");
    let answer = posting(&plain, call(json!(2), "ask"));
    let request = child.read().await;
    child.send(json!({"jsonrpc": "2.0", "id": "n", "method": "elicitation/create", "params": {"message": "?"}})).await;
    loop {
        let refusal = child.read().await;
        if refusal["id"] == "n" {
            assert!(refusal["error"]["code"] == -32603 || refusal["result"]["action"] == "cancel", "{refusal}");
            break;
        }
    }
    child.answer(&request, json!({"plain": 1})).await;
    assert_eq!(body(posted(answer).await).await["result"], json!({"plain": 1}));
}

#[tokio::test]
async fn a_slow_answer_becomes_a_stream_that_is_kept_alive() {
    let limits =
        Limits { commit_after: Duration::from_millis(50), keep_alive: Duration::from_millis(50), ..Limits::default() };
    let (rig, mut child) = Rig::legacy(json!({"tools": {}}), limits).await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let answer = posting(&client, call(json!(1), "slow"));
    let request = child.read().await;
    let mut events = Events::of(posted(answer).await);
    assert_eq!(events.block().await.as_deref(), Some(": ok"));
    assert_eq!(events.block().await.as_deref(), Some(": keepalive"));
    child.send(json!({"jsonrpc": "2.0", "id": request["id"], "error": {"code": -1, "message": "late"}})).await;
    assert_eq!(events.next().await.unwrap()["error"]["message"], "late");
    assert_eq!(events.next().await, None);
    // Whoever takes nothing but JSON waits for it; whoever takes nothing but a stream gets one at once.
    let plain = posting(&client.with("accept", "application/json"), call_with_token(json!(2), "slow", json!(1)));
    let request = child.read().await;
    child.notify("notifications/progress", json!({"progressToken": request["id"], "progress": 1})).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    child.answer(&request, json!({"n": 2})).await;
    assert_eq!(body(posted(plain).await).await["result"], json!({"n": 2}));
    let streaming = posting(&client.with("accept", "text/event-stream"), call(json!(3), "slow"));
    let request = child.read().await;
    let mut events = Events::of(posted(streaming).await);
    assert_eq!(events.block().await.as_deref(), Some(": ok"));
    child.answer(&request, json!({"n": 3})).await;
    assert_eq!(events.next().await.unwrap()["result"], json!({"n": 3}));
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_cancelled_and_progress_gives_it_time() {
    let limits = Limits {
        request_timeout: Duration::from_millis(400),
        liveness_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let (mut rig, mut child) = Rig::legacy(json!({"tools": {}}), limits).await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let answer = posting(&client, call_with_token(json!(1), "slow", json!("t")));
    let request = child.read().await;
    for n in 0..6 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        child.notify("notifications/progress", json!({"progressToken": request["id"], "progress": n})).await;
    }
    let cancelled = child.read().await;
    assert_eq!(cancelled["params"]["requestId"], request["id"]);
    let mut events = Events::of(posted(answer).await).rest().await;
    let end = events.pop().unwrap();
    assert_eq!((events.len(), &end["error"]["code"]), (6, &json!(-31003)));
    // A server that has said nothing at all since is asked for a sign of life, and ended without one.
    let answer = posting(&client, call(json!(2), "mute"));
    child.read().await;
    assert_eq!(body(posted(answer).await).await["error"]["data"]["ferry"]["reason"], "upstream_timeout");
    assert_eq!(child.read().await["method"], "notifications/cancelled");
    assert_eq!(child.read().await["method"], "ping");
    let wish = within(rig.demands.recv()).await.unwrap();
    assert!(matches!(wish, Wish::Restart(_)), "{wish:?}");
}

#[tokio::test]
async fn a_crash_fails_what_was_in_flight_and_the_session_goes_on_with_the_next_process() {
    let (mut rig, mut child) = rig().await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let mut stream = client.get().await;
    let subscribe = json!({"jsonrpc": "2.0", "id": 5, "method": "resources/subscribe", "params": {"uri": "file:///a"}});
    let subscribed = posting(&client, subscribe);
    let request = child.read().await;
    child.answer(&request, json!({})).await;
    posted(subscribed).await;
    let level = json!({"jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": {"level": "info"}});
    client.post(level).await;
    let request = child.read().await;
    child.answer(&request, json!({})).await;
    let lost = posting(&client, call(json!(1), "crash"));
    child.read().await;
    child.exit().await;
    let (status, answer) = outcome(posted(lost).await).await;
    assert_eq!(status, 200, "it may have run: nothing may retry it");
    assert_eq!(answer["error"]["data"], json!({"ferry": {"reason": "upstream_exited", "retryable": false}}));
    // The next request asks for a process, and waits for it.
    let next = posting(&client, call(json!(2), "again"));
    assert_eq!(within(rig.demands.recv()).await, Some(Wish::Start));
    let mut child = rig
        .legacy_child(json!({"tools": {"listChanged": true}, "logging": {}, "resources": {"subscribe": true}}))
        .await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let message = child.read().await;
        child.answer(&message, json!({"ok": true})).await;
        seen.push((message["method"].as_str().unwrap().to_owned(), message["params"].clone()));
    }
    seen.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(seen[0], ("logging/setLevel".to_owned(), json!({"level": "info"})));
    assert_eq!(seen[1], ("resources/subscribe".to_owned(), json!({"uri": "file:///a"})));
    assert_eq!(seen[2].0, "tools/call");
    assert_eq!(body(posted(next).await).await["result"], json!({"ok": true}));
    assert_eq!(stream.next().await.unwrap()["method"], "notifications/tools/list_changed", "lists may have changed");
}

#[tokio::test]
async fn what_is_asked_before_the_crash_is_noticed_waits_for_the_next_process_too() {
    let (mut rig, child) = rig().await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    rig.tells_ends.store(false, Ordering::Relaxed);
    child.exit().await;
    let next = posting(&client, call(json!(1), "again"));
    assert_eq!(within(rig.demands.recv()).await, Some(Wish::Start));
    // To whoever starts processes that one still ran, so the wish came to nothing: it is said again.
    rig.opened()[0].down();
    assert_eq!(within(rig.demands.recv()).await, Some(Wish::Start));
    let capabilities = json!({"tools": {"listChanged": true}, "logging": {}, "resources": {"subscribe": true}});
    let mut child = rig.legacy_child(capabilities).await;
    let request = child.read().await;
    child.answer(&request, json!({"ok": true})).await;
    assert_eq!(body(posted(next).await).await["result"], json!({"ok": true}));
}

#[tokio::test]
async fn a_server_that_can_do_less_after_its_restart_ends_the_sessions() {
    let (rig, child) = rig().await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    child.exit().await;
    let _child = rig.legacy_child(json!({"tools": {}})).await;
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    assert_eq!(client.post(ping).await.status(), 404, "it was told of things that are gone");
}

#[tokio::test]
async fn without_a_server_a_request_is_refused_before_anything_was_sent() {
    let limits = Limits { start_wait: Duration::from_millis(200), ..Limits::default() };
    let mut rig = Rig::start(mcp_ferry::mcp::probe::Choice::Legacy, false, limits).await;
    let params =
        json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}});
    let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
    let client = Client::new(&rig.url);
    let response = client.post(initialize.clone()).await;
    assert_eq!(response.headers()["retry-after"], "5");
    let (status, answer) = outcome(response).await;
    assert_eq!((status, &answer["id"], &answer["error"]["code"]), (503, &json!(1), &json!(-31001)));
    assert_eq!(within(rig.demands.recv()).await, Some(Wish::Start));
    // One immediate try during back-off: if it fails, the request need not wait any longer.
    rig.opened()[0].down();
    let answer = posting(&client, initialize);
    assert_eq!(within(rig.demands.recv()).await, Some(Wish::Start));
    rig.opened()[0].down();
    assert_eq!(posted(answer).await.status(), 503);
}

#[tokio::test]
async fn an_overlong_answer_costs_its_own_call_and_garbage_costs_nothing() {
    let limits = Limits { max_message_bytes: 100_000, ..Limits::default() };
    let (rig, mut child) = Rig::legacy(json!({"tools": {}}), limits).await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let (large, from_large) = (posting(&client, call(json!(1), "large")), child.read().await);
    let (small, from_small) = (posting(&client, call(json!(2), "small")), child.read().await);
    for garbage in ["[]", "42", "null", "\"text\"", "{}", "Listening on stdio", "[1,2]", "{\"jsonrpc\":\"2.0\"}", ""] {
        child.write(garbage).await;
    }
    child.answer(&from_large, json!({"text": "x".repeat(150_000)})).await;
    child.write("{\"jsonrpc\":\"2.0\",\"id\":123456,\"result\":{}}").await;
    child.answer(&from_small, json!({"fine": true})).await;
    assert_eq!(body(posted(small).await).await["result"], json!({"fine": true}));
    assert_eq!(body(posted(large).await).await["error"]["data"]["ferry"]["reason"], "response_too_large");
    // Neither a result nor an error: no answer at all.
    let (odd, from_odd) = (posting(&client, call(json!(3), "odd")), child.read().await);
    child.send(json!({"jsonrpc": "2.0", "id": from_odd["id"]})).await;
    assert_eq!(body(posted(odd).await).await["error"]["code"], -31006);
}

#[tokio::test]
async fn a_large_result_passes_at_the_speed_of_the_pipe() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let answer = posting(&client, call(json!(1), "large"));
    let request = child.read().await;
    let text = "é".repeat(10 << 20);
    let writing = tokio::spawn(async move {
        child.answer(&request, json!({"text": text})).await;
        child
    });
    let answer = body(posted(answer).await).await;
    assert_eq!(answer["result"]["text"].as_str().unwrap().len(), 20 << 20);
    within(writing).await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_nobody() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let stuck = posting(&client, call_with_token(json!(1), "chatty", json!("t")));
    let request = child.read().await;
    child.notify("notifications/progress", json!({"progressToken": request["id"], "progress": 0})).await;
    let stuck = posted(stuck).await; // The headers are read, the body is not.
    let filler = "x".repeat(50_000);
    for n in 1..1000 {
        child
            .notify("notifications/progress", json!({"progressToken": request["id"], "progress": n, "message": filler}))
            .await;
    }
    let other = Client::new(&rig.url).initialize(json!({})).await;
    let answer = posting(&other, call(json!(1), "quick"));
    let quick = child.read().await;
    child.answer(&quick, json!({"quick": true})).await;
    assert_eq!(body(posted(answer).await).await["result"], json!({"quick": true}));
    child.answer(&request, json!({"end": true})).await;
    let events = Events::of(stuck).rest().await;
    assert_eq!(events.last().unwrap()["result"], json!({"end": true}), "never the answer");
    assert!(events.len() < 1000, "the oldest progress was dropped: {}", events.len());
    let order: Vec<_> = events.iter().filter_map(|event| event["params"]["progress"].as_u64()).collect();
    assert!(order.is_sorted());
}

#[tokio::test]
async fn too_much_at_once_is_refused_before_it_is_sent() {
    let limits = Limits { max_inflight_per_identity: 2, ..Limits::default() };
    let (rig, mut child) = Rig::legacy(json!({"tools": {}}), limits).await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let first = (posting(&client, call(json!(1), "a")), child.read().await);
    let second = (posting(&client, call(json!(2), "b")), child.read().await);
    let response = client.post(call(json!(3), "c")).await;
    assert_eq!(response.headers()["retry-after"], "5");
    let (status, answer) = outcome(response).await;
    assert_eq!((status, &answer["id"], &answer["error"]["code"]), (503, &json!(3), &json!(-31004)));
    for (answer, request) in [first, second] {
        child.answer(&request, json!({})).await;
        posted(answer).await;
    }
    until(|| rig.endpoint.in_flight() == 0).await;
    let (answer, request) = (posting(&client, call(json!(4), "d")), child.read().await);
    child.answer(&request, json!({})).await;
    assert_eq!(posted(answer).await.status(), 200);
}

#[tokio::test]
async fn an_exit_is_what_counts_even_while_a_grandchild_holds_the_pipes() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let lost = posting(&client, call(1, "t"));
    child.read().await;
    let outcome = child.vanish().await;
    assert!(outcome.contains("Exited"), "{outcome}");
    assert_eq!(body(posted(lost).await).await["error"]["data"]["ferry"]["reason"], "upstream_exited");
    child.read_end().await;
}

#[tokio::test]
async fn what_a_killed_server_had_not_begun_to_read_was_never_sent() {
    // A server that reads nothing at all: its pipe takes 1 MiB, the rest waits in ferry's queue.
    let limits = Limits { queue_wait: Duration::from_millis(50), max_queue_bytes: 4 << 20, ..Limits::default() };
    let (rig, mut child) = Rig::legacy(json!({"tools": {}}), limits).await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let large =
        |id: u32| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"text": "x".repeat(2 << 20)}});
    let begun = posting(&client, large(1));
    until(|| rig.endpoint.in_flight() == 1).await;
    let waiting = posting(&client, large(2));
    until(|| rig.endpoint.in_flight() == 2).await;
    // The queue is full for a third.
    let (status, answer) = outcome(client.post(large(3)).await).await;
    assert_eq!((status, &answer["error"]["data"]["ferry"]["reason"]), (503, &json!("overloaded")));
    child.vanish().await;
    let (status, answer) = outcome(posted(begun).await).await;
    assert_eq!(
        (status, &answer["error"]["data"]["ferry"]["reason"]),
        (200, &json!("upstream_exited")),
        "it may have run"
    );
    let (status, answer) = outcome(posted(waiting).await).await;
    assert_eq!((status, &answer["error"]["data"]["ferry"]["reason"]), (503, &json!("upstream_unavailable")));
}

#[tokio::test]
async fn a_batch_is_split_for_the_server_and_its_answers_come_together() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url).initialize_at("2025-03-26", json!({})).await;
    let batch = json!([
        call_with_token(1, "a", "t"),
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "ping"},
        call(3, "b"),
        {"jsonrpc": "2.0", "id": 4, "method": "tasks/list"},
    ]);
    let plain = posting(&client.with("accept", "application/json"), batch.clone());
    let (first, second) = (child.read().await, child.read().await);
    assert_eq!((&first["params"]["name"], &second["params"]["name"]), (&json!("a"), &json!("b")), "never an array");
    child.answer(&second, json!({"n": 3})).await;
    child.answer(&first, json!({"n": 1})).await;
    let answers = body(posted(plain).await).await;
    let ids: Vec<_> = answers.as_array().unwrap().iter().map(|answer| answer["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [1, 2, 3, 4]);
    assert_eq!((&answers[0]["result"], &answers[3]["error"]["code"]), (&json!({"n": 1}), &json!(-32601)));
    let streamed = posting(&client, batch);
    let (first, second) = (child.read().await, child.read().await);
    child.notify("notifications/progress", json!({"progressToken": first["id"], "progress": 1})).await;
    child.answer(&second, json!({"n": 3})).await;
    child.answer(&first, json!({"n": 1})).await;
    let events = Events::of(posted(streamed).await).rest().await;
    let mut ids: Vec<_> = events.iter().filter_map(|event| event["id"].as_u64()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3, 4]);
    assert_eq!(events.iter().filter(|event| event["method"] == "notifications/progress").count(), 1);
    let only_notifications = json!([{"jsonrpc": "2.0", "method": "notifications/initialized"}]);
    assert_eq!(client.post(only_notifications).await.status(), 202);
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    for refused in [
        json!([]),
        json!([1]),
        json!([ping, {"jsonrpc": "2.0", "id": 2, "method": "initialize"}]),
        json!(vec![&ping; 65]),
    ] {
        assert_eq!(outcome(client.post(refused.clone()).await).await.1["error"]["code"], -32600, "{refused}");
    }
    let newer = Client::new(&rig.url).initialize(json!({})).await;
    let (status, answer) = outcome(newer.post(json!([ping])).await).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32600)));
}

#[tokio::test]
async fn the_older_transport_has_one_stream_for_everything() {
    let (rig, mut child) = rig().await;
    let root = rig.url.strip_suffix("/mcp").unwrap().to_owned();
    let open = || async {
        let response =
            Client::new(&format!("{root}/mcp/sse")).with("accept", "text/event-stream").send(Method::GET, "").await;
        let mut events = Events::of(response);
        let endpoint = events.block().await.unwrap();
        let path = endpoint.strip_prefix("event: endpoint\ndata: ").unwrap().to_owned();
        assert!(path.starts_with("/mcp/message?sessionId="), "{path}");
        (events, Client::new(&format!("{root}{path}")))
    };
    let (mut events, client) = open().await;
    assert_eq!(client.post(call(0, "early")).await.status(), 400, "`initialize` comes first");
    let params = json!({"protocolVersion": "2024-11-05", "capabilities": {"elicitation": {}}, "clientInfo": {"name": "old", "version": "1"}});
    let initialize = json!({"jsonrpc": "2.0", "id": "i", "method": "initialize", "params": params});
    let response = client.post(initialize).await;
    assert_eq!(response.status(), 202);
    assert!(!response.headers().contains_key("mcp-session-id"));
    assert_eq!(events.next().await.unwrap()["result"]["protocolVersion"], "2024-11-05");
    assert_eq!(client.post(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await.status(), 202);
    assert_eq!(client.post(call_with_token(1, "a", "t")).await.status(), 202);
    let request = child.read().await;
    child.notify("notifications/progress", json!({"progressToken": request["id"], "progress": 1})).await;
    assert_eq!(events.next().await.unwrap()["params"], json!({"progressToken": "t", "progress": 1}));
    child.send(json!({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": {"message": "?"}})).await;
    let question = events.next().await.unwrap();
    client.post(json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}})).await;
    assert_eq!(child.read().await["result"], json!({"action": "decline"}));
    child.answer(&request, json!({"n": 1})).await;
    assert_eq!(events.next().await.unwrap(), json!({"jsonrpc": "2.0", "id": 1, "result": {"n": 1}}));
    client.post(json!({"jsonrpc": "2.0", "id": 2, "method": "ping"})).await;
    assert_eq!(events.next().await.unwrap()["result"], json!({}));
    child.notify("notifications/tools/list_changed", json!({})).await;
    assert_eq!(events.next().await.unwrap()["method"], "notifications/tools/list_changed");
    let (_others, other) = open().await;
    assert_eq!(other.post(call(1, "x")).await.status(), 400);
    let unknown = Client::new(&format!("{root}/mcp/message?sessionId=made-up"));
    assert_eq!(unknown.post(call(1, "x")).await.status(), 404);
    // What ends the stream ends the session, and cancels what it had in flight.
    assert_eq!(client.post(call(3, "slow")).await.status(), 202);
    let request = child.read().await;
    drop(events);
    assert_eq!(child.read().await["params"]["requestId"], request["id"]);
    assert_eq!(client.post(call(4, "x")).await.status(), 404);
}
