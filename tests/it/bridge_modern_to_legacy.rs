//! Modern clients at a legacy server, whose every line is the test's own.

use std::time::Duration;

use mcp_ferry::bridge::auth::{Admission, Identity};
use mcp_ferry::config::limits::Limits;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::fake_child::{FakeChild, Rig};
use crate::support::http::{Client, Events, body, outcome};
use crate::support::{until, within};

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// A server whose list of tools ferry has looked at, as it does before the first call.
async fn rig_with(limits: Limits) -> (Rig, FakeChild) {
    let capabilities = json!({
        "tools": {"listChanged": true}, "logging": {}, "prompts": {}, "resources": {"subscribe": true, "listChanged": true},
        "tasks": {"list": {}}, "extensions": {"io.modelcontextprotocol/tasks": {}, "x": {}},
    });
    let (rig, mut child) = Rig::legacy(capabilities, limits).await;
    let first = calling(&Client::new(&rig.url), json!(0), json!({}));
    let list = child.read().await;
    assert_eq!((&list["method"], &list["params"]), (&json!("tools/list"), &json!({})), "nothing modern in it");
    child.answer(&list, json!({"tools": [{"name": "t", "inputSchema": {"type": "object"}}]})).await;
    let asked = child.read().await;
    child.answer(&asked, json!({"content": []})).await;
    assert_eq!(posted(first).await.status(), 200);
    (rig, child)
}

async fn rig() -> (Rig, FakeChild) {
    rig_with(Limits::default()).await
}

fn posting(client: &Client, id: Value, method: &'static str, params: Value, meta: Value) -> JoinHandle<Response> {
    let client = client.clone();
    tokio::spawn(async move { client.modern_with(id, method, params, meta).await })
}

/// A call of the tool `t` by a client that can be asked anything.
fn calling(client: &Client, id: impl Into<Value>, more: impl Into<Value>) -> JoinHandle<Response> {
    let mut params = json!({"name": "t", "arguments": {"b": 1, "a": [1, 2]}});
    params.as_object_mut().unwrap().extend(more.into().as_object().unwrap().clone());
    let all = json!({CAPABILITIES: {"sampling": {}, "elicitation": {"form": {}, "url": {}}, "roots": {}}});
    posting(client, id.into(), "tools/call", params, all)
}

async fn posted(handle: JoinHandle<Response>) -> Response {
    within(handle).await.unwrap()
}

fn question(id: impl Into<Value>, method: &str, params: impl Into<Value>) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params.into()})
}

/// The questions of an `input_required` result, and its token.
async fn input_required(response: Response) -> (Value, String) {
    let (status, answer) = outcome(response).await;
    assert_eq!((status, &answer["result"]["resultType"]), (200, &json!("input_required")), "{answer}");
    let token = answer["result"]["requestState"].as_str().unwrap().to_owned();
    (answer["result"]["inputRequests"].clone(), token)
}

async fn refused_state(response: Response) {
    let (status, answer) = outcome(response).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32602)), "{answer}");
    assert_eq!(answer["error"]["message"], "Invalid or expired requestState");
    assert_eq!(answer["error"]["data"]["ferry"]["reason"], "invalid_request_state");
}

#[tokio::test]
async fn discover_is_made_of_the_handshake() {
    let (rig, _child) = rig().await;
    let answer = body(Client::new(&rig.url).modern(json!("d"), "server/discover", json!({})).await).await;
    assert_eq!(
        answer,
        json!({"jsonrpc": "2.0", "id": "d", "result": {
            "resultType": "complete", "supportedVersions": ["2026-07-28"],
            "capabilities": {
                "tools": {"listChanged": true}, "logging": {}, "prompts": {},
                "resources": {"subscribe": true, "listChanged": true}, "extensions": {"x": {}},
            },
            "ttlMs": 0, "cacheScope": "private",
            "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "fake", "version": "1"}},
        }})
    );
}

#[tokio::test]
async fn what_only_modern_peers_know_is_taken_off_a_request_and_put_on_its_result() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url);
    let server = json!({"name": "fake", "version": "1"});
    for (method, params, meta, seen, result, told) in [
        (
            "prompts/list",
            json!({"cursor": "c"}),
            json!({}),
            json!({"cursor": "c"}),
            json!({"prompts": []}),
            json!({"prompts": [], "resultType": "complete", "ttlMs": 0, "cacheScope": "private", "_meta": {"io.modelcontextprotocol/serverInfo": server}}),
        ),
        (
            "tools/call",
            json!({"name": "t", "task": {}, "inputResponses": {}}),
            json!({"traceparent": "x"}),
            json!({"name": "t", "_meta": {"traceparent": "x"}}),
            json!({"content": [], "resultType": "odd", "_meta": {"own": 1}}),
            json!({"content": [], "resultType": "complete", "_meta": {"own": 1, "io.modelcontextprotocol/serverInfo": server}}),
        ),
        (
            "resources/read",
            json!({"uri": "a:b"}),
            json!({}),
            json!({"uri": "a:b"}),
            json!({"contents": [], "ttlMs": 5, "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "own", "version": "2"}}}),
            json!({"contents": [], "ttlMs": 5, "resultType": "complete", "cacheScope": "private", "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "own", "version": "2"}}}),
        ),
        (
            "vendor/own",
            json!({}),
            json!({}),
            json!({}),
            json!({}),
            json!({"resultType": "complete", "_meta": {"io.modelcontextprotocol/serverInfo": server}}),
        ),
    ] {
        let answer = posting(&client, json!(1), method, params, meta);
        let asked = child.read().await;
        assert_eq!(asked["params"], seen, "{method}");
        child.answer(&asked, result).await;
        assert_eq!(body(posted(answer).await).await["result"], told, "{method}");
    }
    for method in ["ping", "initialize", "logging/setLevel", "resources/subscribe", "tasks/get", "completion/complete"]
    {
        let mut params = json!({});
        if method == "tasks/get" {
            params = json!({"taskId": "t"});
        }
        let client = client.with("mcp-name", "t");
        let params_name = if method == "tasks/get" { "t" } else { "" };
        let all = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", CAPABILITIES: {}});
        params["_meta"] = all;
        let request =
            client.with("mcp-protocol-version", "2026-07-28").with("mcp-method", method).with("mcp-name", params_name);
        let (status, answer) =
            outcome(request.post(json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})).await).await;
        assert_eq!((status, &answer["error"]["code"]), (404, &json!(-32601)), "{method}: {answer}");
    }
}

#[tokio::test]
async fn errors_of_the_old_era_are_told_in_the_new_ones_words() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url);
    for (method, params, error, status, told) in [
        (
            "resources/read",
            json!({"uri": "a:b"}),
            json!({"code": -32002, "message": "no"}),
            200,
            json!({"code": -32602, "message": "no", "data": {"uri": "a:b"}}),
        ),
        (
            "resources/read",
            json!({"uri": "a:b"}),
            json!({"code": -32002, "message": "no", "data": 1}),
            200,
            json!({"code": -32602, "message": "no", "data": 1}),
        ),
        (
            "tools/call",
            json!({"name": "t"}),
            json!({"code": -32002, "message": "no"}),
            200,
            json!({"code": -32002, "message": "no"}),
        ),
        (
            "tools/call",
            json!({"name": "t"}),
            json!({"code": -32022, "message": "no", "data": {"supported": ["x"]}}),
            200,
            json!({"code": -32603, "message": "no", "data": {"ferry": {"reason": "upstream_code", "childCode": -32022}}}),
        ),
        (
            "tools/call",
            json!({"name": "t"}),
            json!({"code": -32601, "message": "no"}),
            200,
            json!({"code": -32601, "message": "no"}),
        ),
        (
            "vendor/own",
            json!({}),
            json!({"code": -32601, "message": "no"}),
            404,
            json!({"code": -32601, "message": "no"}),
        ),
        (
            "tools/call",
            json!({"name": "t"}),
            json!({"code": -1, "message": "no"}),
            200,
            json!({"code": -1, "message": "no"}),
        ),
    ] {
        let answer = posting(&client, json!(1), method, params, json!({}));
        let asked = child.read().await;
        child.send(json!({"jsonrpc": "2.0", "id": asked["id"], "error": error})).await;
        assert_eq!(outcome(posted(answer).await).await, (status, json!({"jsonrpc": "2.0", "id": 1, "error": told})));
    }
}

#[tokio::test]
async fn a_call_that_asks_back_goes_on_where_it_stood() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url);
    let call = calling(&client, json!("one"), json!({}));
    let asked = child.read().await;
    // Two at once come together.
    child
        .send(question(
            0,
            "elicitation/create",
            json!({"message": "Name?", "requestedSchema": {}, "_meta": {"progressToken": 3}}),
        ))
        .await;
    child.send(question("s", "sampling/createMessage", json!({"messages": [], "maxTokens": 1}))).await;
    let (questions, token) = input_required(posted(call).await).await;
    assert_eq!(
        questions,
        json!({
            "f1": {"method": "elicitation/create", "params": {"message": "Name?", "requestedSchema": {}}},
            "f2": {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}},
        })
    );
    // One answer is missing: it is asked for again, under another token.
    let responses = json!({"f2": {"role": "assistant"}, "unknown": {}});
    let call = calling(&client, json!("two"), json!({"requestState": token, "inputResponses": responses}));
    assert_eq!(child.read().await, json!({"jsonrpc": "2.0", "id": "s", "result": {"role": "assistant"}}));
    let (questions, second) = input_required(posted(call).await).await;
    assert_eq!(questions.as_object().unwrap().keys().collect::<Vec<_>>(), ["f1"]);
    assert_ne!(second, token);
    // The arguments are the same, written in another order.
    let more = json!({"requestState": second, "inputResponses": {"f1": {"action": "accept", "content": {"n": 1}}}, "arguments": {"a": [1, 2], "b": 1}});
    let call = calling(&client, json!("three"), more.clone());
    assert_eq!(
        child.read().await,
        json!({"jsonrpc": "2.0", "id": 0, "result": {"action": "accept", "content": {"n": 1}}})
    );
    // Progress and the answer are for the request that is there now.
    child.answer(&asked, json!({"content": [{"type": "text", "text": "Ada"}]})).await;
    let answer = body(posted(call).await).await;
    assert_eq!((&answer["id"], &answer["result"]["content"][0]["text"]), (&json!("three"), &json!("Ada")));
    assert_eq!(answer["result"]["resultType"], "complete");
    refused_state(posted(calling(&client, json!(4), more)).await).await;
}

#[tokio::test]
async fn progress_goes_to_the_request_that_is_answered_now() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url);
    let with_token = |token: &str| json!({"progressToken": token, CAPABILITIES: {"elicitation": {}}});
    let params = json!({"name": "t"});
    let call = posting(&client, json!(1), "tools/call", params.clone(), with_token("first"));
    let asked = child.read().await;
    child.notify("notifications/progress", json!({"progressToken": asked["id"], "progress": 1})).await;
    let mut events = Events::of(posted(call).await);
    assert_eq!(events.next().await.unwrap()["params"]["progressToken"], "first");
    child.send(question(0, "elicitation/create", json!({"message": "?"}))).await;
    let required = events.next().await.unwrap();
    assert_eq!((&required["id"], &required["result"]["resultType"]), (&json!(1), &json!("input_required")));
    assert_eq!(events.next().await, None);
    // Nobody is there to hear of this.
    child.notify("notifications/progress", json!({"progressToken": asked["id"], "progress": 2})).await;
    let mut params = params;
    params["requestState"] = required["result"]["requestState"].clone();
    params["inputResponses"] = json!({"f1": {"action": "decline"}});
    let call = posting(&client, json!(2), "tools/call", params, with_token("second"));
    child.read().await;
    child.notify("notifications/progress", json!({"progressToken": asked["id"], "progress": 3})).await;
    let mut events = Events::of(posted(call).await);
    assert_eq!(events.next().await.unwrap()["params"], json!({"progressToken": "second", "progress": 3}));
    child.answer(&asked, json!({"content": []})).await;
    assert_eq!(events.next().await.unwrap()["id"], 2);
}

/// A door for somebody of another identity.
async fn door(rig: &Rig, who: &str) -> Client {
    let identity = Identity::access("https://team.example", who);
    Client::new(&rig.door(Admission::Loopback { identity }).await)
}

#[tokio::test]
async fn a_state_is_good_once_and_for_the_call_that_it_was_given_to() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url);
    let call = calling(&client, json!(1), json!({}));
    let asked = child.read().await;
    child.send(question(0, "roots/list", json!({}))).await;
    let (questions, token) = input_required(posted(call).await).await;
    assert_eq!(questions, json!({"f1": {"method": "roots/list"}}));
    let responses = json!({"f1": {"roots": []}});
    let back = |more: Value| {
        let mut all = json!({"requestState": token, "inputResponses": responses});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let stranger = door(&rig, "mallory").await;
    refused_state(posted(calling(&stranger, json!(2), back(json!({})))).await).await;
    for more in [
        json!({"arguments": {"b": 2, "a": [1, 2]}}),
        json!({"name": "u"}),
        json!({"requestState": format!("{token}x")}),
        json!({"requestState": 7}),
    ] {
        let call = calling(&client, json!(2), back(more.clone()));
        if more.get("name").is_some() {
            // A tool that is not on the list is looked for once.
            let list = child.read().await;
            child.answer(&list, json!({"tools": []})).await;
        }
        refused_state(posted(call).await).await;
    }
    let (status, answer) =
        outcome(posted(calling(&client, json!(2), back(json!({"inputResponses": {"f1": 1}})))).await).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32602)));
    assert!(
        answer["error"]["message"].as_str().unwrap().contains("inputResponses"),
        "this one may learn what is wrong"
    );
    // None of that has used it up.
    let call = calling(&client, json!(3), back(json!({})));
    let list = child.read().await;
    assert_eq!(list["method"], "tools/list", "`t` was not on the last list");
    child.answer(&list, json!({"tools": [{"name": "t", "inputSchema": {}}]})).await;
    assert_eq!(child.read().await["result"], json!({"roots": []}));
    child.answer(&asked, json!({"content": []})).await;
    assert_eq!(posted(call).await.status(), 200);
    refused_state(posted(calling(&client, json!(4), back(json!({})))).await).await;
}

#[tokio::test]
async fn a_server_that_goes_on_or_gives_up_without_the_answer_is_heard_by_the_next_request() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url);
    let call = calling(&client, json!(1), json!({}));
    let asked = child.read().await;
    child.send(question(0, "elicitation/create", json!({"message": "a"}))).await;
    let (_, token) = input_required(posted(call).await).await;
    // Asked while nobody is there: for the next round.
    child.send(question(1, "elicitation/create", json!({"message": "b"}))).await;
    child.send(question(2, "elicitation/create", json!({"message": "c"}))).await;
    child.notify("notifications/cancelled", json!({"requestId": 1})).await;
    // A question of its own tells that the others have been read.
    child.send(question("p", "ping", json!({}))).await;
    assert_eq!(child.read().await["id"], "p");
    let back = json!({"requestState": token, "inputResponses": {"f1": {"action": "cancel"}}});
    let call = calling(&client, json!(2), back);
    assert_eq!(child.read().await["result"], json!({"action": "cancel"}));
    let (questions, token) = input_required(posted(call).await).await;
    assert_eq!(questions, json!({"f3": {"method": "elicitation/create", "params": {"message": "c"}}}));
    child.answer(&asked, json!({"content": [{"type": "text", "text": "never mind"}]})).await;
    until(|| rig.endpoint.in_flight() == 0).await;
    let call =
        calling(&client, json!(3), json!({"requestState": token, "inputResponses": {"f3": {"action": "accept"}}}));
    assert_eq!(child.read().await["id"], 2, "whatever it makes of that");
    assert_eq!(body(posted(call).await).await["result"]["content"][0]["text"], "never mind");
}

#[tokio::test]
async fn what_a_client_did_not_declare_it_is_not_asked_and_the_call_says_so() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url);
    for (asks, required) in [
        (question(0, "sampling/createMessage", json!({"messages": []})), json!({"sampling": {}})),
        (
            question(0, "sampling/createMessage", json!({"messages": [], "tools": []})),
            json!({"sampling": {"tools": {}}}),
        ),
        (question(0, "elicitation/create", json!({"message": "?"})), json!({"elicitation": {"form": {}}})),
        (question(0, "elicitation/create", json!({"mode": "url"})), json!({"elicitation": {"url": {}}})),
        (question(0, "roots/list", json!({})), json!({"roots": {}})),
    ] {
        for ends in ["error", "isError", "fine"] {
            let call = posting(&client, json!(1), "tools/call", json!({"name": "t"}), json!({}));
            let asked = child.read().await;
            child.send(asks.clone()).await;
            assert!(child.read().await["error"]["code"].is_i64());
            let (status, code) = match ends {
                "error" => {
                    child
                        .send(json!({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32603, "message": "no"}}))
                        .await;
                    (400, json!(-32021))
                }
                "isError" => {
                    child.answer(&asked, json!({"content": [], "isError": true})).await;
                    (400, json!(-32021))
                }
                _ => {
                    child.answer(&asked, json!({"content": []})).await;
                    (200, Value::Null)
                }
            };
            let (told, answer) = outcome(posted(call).await).await;
            assert_eq!((told, &answer["error"]["code"]), (status, &code), "{ends}");
            if ends != "fine" {
                assert_eq!(answer["error"]["data"]["requiredCapabilities"], required);
            }
        }
    }
}

#[tokio::test]
async fn a_question_that_may_be_anybodys_reaches_nobody() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url);
    let (one, two) = (calling(&client, json!(1), json!({})), calling(&client, json!(2), json!({})));
    let (first, second) = (child.read().await, child.read().await);
    child.send(question(0, "elicitation/create", json!({"message": "?"}))).await;
    assert_eq!(child.read().await["error"]["code"], -32603);
    child.answer(&first, json!({"content": []})).await;
    child.answer(&second, json!({"content": []})).await;
    assert_eq!(
        (posted(one).await.status(), posted(two).await.status()),
        (200.try_into().unwrap(), 200.try_into().unwrap())
    );
    // Nor one in the middle of something that cannot be answered with a question.
    let other = posting(&client, json!(3), "vendor/own", json!({}), json!({CAPABILITIES: {"elicitation": {}}}));
    let asked = child.read().await;
    child.send(question(1, "elicitation/create", json!({"message": "?"}))).await;
    assert_eq!(child.read().await["error"]["code"], -32603);
    child.answer(&asked, json!({})).await;
    posted(other).await;
    // And none after somebody else was served: it may be late.
    let stranger = door(&rig, "mallory").await;
    let call = calling(&stranger, json!(4), json!({}));
    let asked = child.read().await;
    child.send(question(2, "elicitation/create", json!({"message": "?"}))).await;
    assert_eq!(child.read().await["error"]["code"], -32603);
    child.answer(&asked, json!({"content": []})).await;
    posted(call).await;
}

#[tokio::test]
async fn who_leaves_cancels_and_who_takes_too_long_is_answered_for() {
    let limits = Limits { round_ttl: Duration::from_millis(300), ..Limits::default() };
    let (rig, mut child) = rig_with(limits).await;
    let client = Client::new(&rig.url);
    // In the first round, and in a later one.
    for rounds in 0..2 {
        let mut call = calling(&client, json!(1), json!({}));
        let asked = child.read().await;
        // One that was cancelled may still speak: until it has, whose a question is cannot be told.
        child.send(json!({"jsonrpc": "2.0", "id": asked["id"].as_u64().unwrap() - 1, "result": {}})).await;
        if rounds == 1 {
            child.send(question(0, "elicitation/create", json!({"message": "?"}))).await;
            let (_, token) = input_required(posted(call).await).await;
            call = calling(
                &client,
                json!(2),
                json!({"requestState": token, "inputResponses": {"f1": {"action": "accept"}}}),
            );
            child.read().await;
        }
        call.abort();
        let cancelled = child.read().await;
        assert_eq!(
            (&cancelled["method"], &cancelled["params"]["requestId"]),
            (&json!("notifications/cancelled"), &asked["id"])
        );
    }
    for (asks, answered) in [
        (question(5, "elicitation/create", json!({"message": "?"})), json!({"action": "cancel"})),
        (question(5, "sampling/createMessage", json!({"messages": []})), Value::Null),
    ] {
        let call = calling(&client, json!(1), json!({}));
        let asked = child.read().await;
        for number in 0..asked["id"].as_u64().unwrap() {
            child.send(json!({"jsonrpc": "2.0", "id": number, "result": {}})).await;
        }
        child.send(asks).await;
        let (_, token) = input_required(posted(call).await).await;
        let told = child.read().await;
        assert_eq!((&told["id"], &told["result"]), (&json!(5), &answered));
        assert_eq!(told["error"].is_object(), answered.is_null());
        let cancelled = child.read().await;
        assert_eq!(
            (&cancelled["method"], &cancelled["params"]["requestId"]),
            (&json!("notifications/cancelled"), &asked["id"])
        );
        refused_state(posted(calling(&client, json!(2), json!({"requestState": token}))).await).await;
    }
}

#[tokio::test]
async fn a_call_that_waited_when_its_server_ended_is_not_run_again() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url);
    let call = calling(&client, json!(1), json!({}));
    child.read().await;
    child.send(question(0, "elicitation/create", json!({"message": "?"}))).await;
    let (_, token) = input_required(posted(call).await).await;
    child.exit().await;
    let mut child = rig.legacy_child(json!({"tools": {"listChanged": true}, "logging": {}, "prompts": {}, "resources": {"subscribe": true, "listChanged": true}, "tasks": {}, "extensions": {}})).await;
    let call =
        calling(&client, json!(2), json!({"requestState": token, "inputResponses": {"f1": {"action": "accept"}}}));
    let list = child.read().await;
    child.answer(&list, json!({"tools": [{"name": "t", "inputSchema": {}}]})).await;
    refused_state(posted(call).await).await;
    child.send(question("p", "ping", json!({}))).await;
    assert_eq!(child.read().await["id"], "p", "nothing reached it before");
}

#[tokio::test]
async fn a_page_to_be_visited_first_is_shown_and_the_call_made_anew() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url);
    let elicitations =
        json!([{"mode": "url", "url": "https://example.com", "message": "Sign in", "elicitationId": "e"}]);
    let error = json!({"code": -32042, "message": "first", "data": {"elicitations": elicitations}});
    for (action, outcome_of) in [("accept", "again"), ("decline", "declined"), ("", "asked again")] {
        let call = calling(&client, json!(1), json!({}));
        let asked = child.read().await;
        child.send(json!({"jsonrpc": "2.0", "id": asked["id"], "error": error})).await;
        let (questions, token) = input_required(posted(call).await).await;
        let shown = json!({"mode": "url", "url": "https://example.com", "message": "Sign in"});
        assert_eq!(questions, json!({"f1": {"method": "elicitation/create", "params": shown}}));
        let responses = if action.is_empty() { json!({}) } else { json!({"f1": {"action": action}}) };
        let call = calling(&client, json!(2), json!({"requestState": token, "inputResponses": responses}));
        match outcome_of {
            "again" => {
                let again = child.read().await;
                assert_eq!(
                    (&again["method"], &again["params"]["arguments"]),
                    (&asked["method"], &asked["params"]["arguments"])
                );
                assert!(again["params"].get("requestState").is_none());
                child.answer(&again, json!({"content": []})).await;
                assert_eq!(body(posted(call).await).await["result"]["content"], json!([]));
            }
            "declined" => {
                let answer = body(posted(call).await).await;
                assert_eq!((&answer["id"], &answer["result"]["isError"]), (&json!(2), &json!(true)));
            }
            _ => drop(input_required(posted(call).await).await),
        }
    }
    let call = posting(&client, json!(1), "tools/call", json!({"name": "t"}), json!({}));
    let asked = child.read().await;
    child.send(json!({"jsonrpc": "2.0", "id": asked["id"], "error": error})).await;
    let (status, answer) = outcome(posted(call).await).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32021)));
}

#[tokio::test]
async fn a_stream_of_subscriptions_is_made_of_what_the_server_tells_everybody() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url);
    let filter = json!({"toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": false, "odd": true, "resourceSubscriptions": ["a:b", "a:refused"]});
    let listening = posting(&client, json!("l"), "subscriptions/listen", json!({"notifications": filter}), json!({}));
    for _ in 0..2 {
        let asked = child.read().await;
        assert_eq!(asked["method"], "resources/subscribe");
        if asked["params"]["uri"] == "a:b" {
            child.answer(&asked, json!({})).await;
        } else {
            child.send(json!({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -1, "message": "no"}})).await;
        }
    }
    let mut events = Events::of(posted(listening).await);
    let own = json!({SUBSCRIPTION: "l"});
    assert_eq!(
        events.next().await.unwrap(),
        json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {
            "notifications": {"toolsListChanged": true, "resourceSubscriptions": ["a:b"]}, "_meta": own,
        }})
    );
    // Another one for the same resource costs the server nothing.
    let other = json!({"notifications": {"resourceSubscriptions": ["a:b"]}});
    let mut others = Events::of(client.modern(json!(2), "subscriptions/listen", other).await);
    others.next().await.unwrap();
    child.notify("notifications/resources/list_changed", json!({})).await;
    child.notify("notifications/prompts/list_changed", json!({})).await;
    child.notify("notifications/tools/list_changed", json!({})).await;
    let list = child.read().await;
    child.answer(&list, json!({"tools": []})).await;
    child.notify("notifications/resources/updated", json!({"uri": "a:b/c", "_meta": {"x": 1}})).await;
    assert_eq!(
        events.next().await.unwrap(),
        json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {"_meta": own}})
    );
    assert_eq!(
        events.next().await.unwrap(),
        json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "a:b/c", "_meta": {"x": 1, SUBSCRIPTION: "l"}}})
    );
    assert_eq!(others.next().await.unwrap()["params"]["_meta"][SUBSCRIPTION], 2);
    // After a restart the server is subscribed to again, and what may have changed is told.
    child.exit().await;
    let mut child = rig.legacy_child(json!({"tools": {"listChanged": true}, "logging": {}, "prompts": {}, "resources": {"subscribe": true, "listChanged": true}, "tasks": {}, "extensions": {}})).await;
    let asked = child.read().await;
    assert_eq!((&asked["method"], &asked["params"]["uri"]), (&json!("resources/subscribe"), &json!("a:b")));
    child.answer(&asked, json!({})).await;
    assert_eq!(events.next().await.unwrap()["method"], "notifications/tools/list_changed");
    // Only with the last of them the subscription goes.
    drop(events);
    child.notify("notifications/resources/updated", json!({"uri": "a:b"})).await;
    assert_eq!(others.next().await.unwrap()["method"], "notifications/resources/updated");
    drop(others);
    child.notify("notifications/resources/updated", json!({"uri": "a:b"})).await;
    let asked = child.read().await;
    assert_eq!((&asked["method"], &asked["params"]["uri"]), (&json!("resources/unsubscribe"), &json!("a:b")));
    // A filter of which nothing is kept is a stream all the same, and it ends in order.
    let mut events = Events::of(
        client.modern(json!(3), "subscriptions/listen", json!({"notifications": {"promptsListChanged": true}})).await,
    );
    assert_eq!(events.next().await.unwrap()["params"]["notifications"], json!({}));
    rig.endpoint.end_streams();
    let end = events.next().await.unwrap();
    assert_eq!(
        (&end["id"], &end["result"]["resultType"], &end["result"]["_meta"][SUBSCRIPTION]),
        (&json!(3), &json!("complete"), &json!(3))
    );
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn logs_come_to_whoever_asked_for_them_while_they_can_be_no_one_elses() {
    let (rig, mut child) = rig().await;
    let client = Client::new(&rig.url);
    let level = |level: &str| json!({"io.modelcontextprotocol/logLevel": level});
    let (status, answer) =
        outcome(client.modern_with(json!(1), "tools/call", json!({"name": "t"}), level("loud")).await).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32602)));
    let call = posting(&client, json!(1), "tools/call", json!({"name": "t"}), level("info"));
    let told = child.read().await;
    assert_eq!((&told["method"], &told["params"]["level"]), (&json!("logging/setLevel"), &json!("info")));
    child.answer(&told, json!({})).await;
    let asked = child.read().await;
    child.notify("notifications/message", json!({"level": "debug", "data": "too much"})).await;
    child.notify("notifications/message", json!({"level": "warning", "data": "hear"})).await;
    let mut events = Events::of(posted(call).await);
    assert_eq!(events.next().await.unwrap()["params"]["data"], "hear");
    child.answer(&asked, json!({"content": []})).await;
    assert_eq!(events.next().await.unwrap()["id"], 1);
    // Who did not ask hears nothing.
    let call = posting(&client, json!(2), "tools/call", json!({"name": "t"}), json!({}));
    let asked = child.read().await;
    child.notify("notifications/message", json!({"level": "emergency", "data": "?"})).await;
    child.answer(&asked, json!({"content": []})).await;
    assert_eq!(posted(call).await.headers()["content-type"], "application/json");
}
