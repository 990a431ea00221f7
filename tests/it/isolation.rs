//! Servers that clients do not share: one for each session, or one for each identity.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mcp_ferry::bridge::auth::{Admission, Identity};
use mcp_ferry::bridge::child::{Isolation, OnExit, Sharing};
use mcp_ferry::config::limits::Limits;
use mcp_ferry::mcp::probe::Choice;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::fake_child::{FakeChild, Rig, Wish};
use crate::support::http::{Client, Events, body, outcome};
use crate::support::{until, within};

const CAPABILITIES: &str =
    r#"{"tools":{"listChanged":true},"logging":{},"resources":{"subscribe":true},"tasks":{"list":{}}}"#;

fn call(id: impl Into<Value>, name: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": "tools/call", "params": {"name": name, "arguments": {}}})
}

fn posting(client: &Client, body: Value) -> JoinHandle<Response> {
    let client = client.clone();
    tokio::spawn(async move { client.post(body).await })
}

async fn posted(handle: JoinHandle<Response>) -> Response {
    within(handle).await.unwrap()
}

async fn rig(isolation: Isolation) -> Rig {
    rig_with(Sharing { isolation, ..Sharing::default() }, Limits::default()).await
}

async fn rig_with(sharing: Sharing, limits: Limits) -> Rig {
    Rig::sharing(Admission::loopback(), sharing, limits).await
}

/// The `initialize` of a client, as text: what a private server is to see of it, byte by byte.
fn initialize(name: &str) -> String {
    let params = format!(
        r#"{{"protocolVersion":"2025-06-18","capabilities":{{"elicitation":{{}},"roots":{{"listChanged":true}},"x": 1.0}},"clientInfo":{{"name":"{name}","version":"1"}},"later":[]}}"#
    );
    format!(r#"{{"jsonrpc":"2.0","id":"i","method":"initialize","params":{params}}}"#)
}

/// A session, opened at the server that the bridge asks for: its client, that server, and what the server was asked.
async fn session(rig: &Rig, name: &str) -> (Client, FakeChild, Value) {
    let known = rig.opened().len();
    let client = Client::new(&rig.url);
    let opening = {
        let (client, text) = (client.clone(), initialize(name));
        tokio::spawn(async move { client.post_text(text).await })
    };
    until(|| rig.opened().len() > known).await;
    let mut child = rig.child();
    let asked = answer_initialize(&mut child, "2025-06-18").await;
    let response = posted(opening).await;
    assert_eq!(response.status(), 200);
    let id = response.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    within(response.bytes()).await.unwrap();
    (client.with("mcp-session-id", &id), child, asked)
}

async fn answer_initialize(child: &mut FakeChild, version: &str) -> Value {
    let asked = child.read().await;
    assert_eq!(asked["method"], "initialize");
    child
        .write(&format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"{version}","capabilities":{CAPABILITIES},"serverInfo":{{"name":"s","version":"1"}},"later": 1e2}}}}"#,
            asked["id"]
        ))
        .await;
    child.ready().await;
    asked
}

async fn initialized(client: &Client, child: &mut FakeChild) {
    let response = client.post(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    assert_eq!(response.status(), 202);
    assert_eq!(child.read().await["method"], "notifications/initialized");
}

/// A call that its server answers.
async fn answered(client: &Client, child: &mut FakeChild, id: impl Into<Value>) {
    let id = id.into();
    let asking = posting(client, call(id.clone(), "t"));
    let asked = child.read().await;
    assert_eq!(asked["method"], "tools/call");
    child.answer(&asked, json!({"content": []})).await;
    assert_eq!(body(posted(asking).await).await["id"], id);
}

#[tokio::test]
async fn a_session_opens_its_own_server_word_for_word_and_gets_its_own_words() {
    let rig = rig(Isolation::Session).await;
    let client = Client::new(&rig.url);
    let opening = {
        let client = client.clone();
        tokio::spawn(async move { client.post_text(initialize("c")).await })
    };
    until(|| !rig.opened().is_empty()).await;
    let mut child = rig.child();
    let line = child.read_text().await;
    let sent = initialize("c");
    let params = &sent[sent.find("\"params\":").unwrap()..];
    assert!(line.ends_with(params), "{line}");
    let asked: Value = serde_json::from_str(&line).unwrap();
    let result = r#"{"protocolVersion":"2024-11-05","capabilities":{"tasks":{"list":{}}},"serverInfo":{"name":"s","version":"1"},"later": 1e2}"#;
    child.write(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, asked["id"])).await;
    let response = posted(opening).await;
    let id = response.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    assert_eq!(within(response.text()).await.unwrap(), format!(r#"{{"jsonrpc":"2.0","id":"i","result":{result}}}"#));
    // What the shared server is spared goes its way here.
    let client = client.with("mcp-session-id", &id);
    initialized(&client, &mut child).await;
    for (method, params) in [
        ("ping", json!({})),
        ("logging/setLevel", json!({"level": "debug"})),
        ("tasks/list", json!({})),
        ("tasks/get", json!({"taskId": "t"})),
        ("strange/request", json!({"a": 1})),
    ] {
        let asking = posting(&client, json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}));
        if method == "logging/setLevel" {
            // Which this server did not declare.
            assert_eq!(body(posted(asking).await).await["error"]["code"], -32601);
            continue;
        }
        let asked = child.read().await;
        assert_eq!((&asked["method"], &asked["params"]), (&json!(method), &params));
        child.answer(&asked, json!({"own": method})).await;
        assert_eq!(body(posted(asking).await).await["result"], json!({"own": method}));
    }
    for method in ["notifications/roots/list_changed", "notifications/strange"] {
        client.post(json!({"jsonrpc": "2.0", "method": method, "params": {"a": 1}})).await;
        assert_eq!(child.read().await, json!({"jsonrpc": "2.0", "method": method, "params": {"a": 1}}));
    }
}

#[tokio::test]
async fn the_handshake_is_over_before_the_first_request_whatever_the_client_says_when() {
    let rig = rig(Isolation::Session).await;
    let (client, mut child, _) = session(&rig, "c").await;
    let asking = posting(&client, call(1, "t"));
    assert_eq!(child.read().await["method"], "notifications/initialized");
    let asked = child.read().await;
    assert_eq!(asked["method"], "tools/call");
    child.answer(&asked, json!({})).await;
    posted(asking).await;
    // Its own word comes late, and is not said twice.
    client.post(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    answered(&client, &mut child, 2).await;
}

#[tokio::test]
async fn what_a_server_says_goes_to_its_own_session_and_to_no_other() {
    let rig = rig(Isolation::Session).await;
    let (a, mut of_a, _) = session(&rig, "a").await;
    let (b, mut of_b, _) = session(&rig, "b").await;
    initialized(&a, &mut of_a).await;
    initialized(&b, &mut of_b).await;
    let (mut hears_a, mut hears_b) = (a.get().await, b.get().await);
    // Both in flight under one id, at servers of their own under one number.
    let (calling_a, calling_b) = (posting(&a, call(1, "t")), posting(&b, call(1, "t")));
    let (asked_a, asked_b) = (of_a.read().await, of_b.read().await);
    assert_eq!(asked_a["id"], asked_b["id"]);
    // A question comes on the stream of the request that is in flight; no capability is second-guessed but the known.
    of_a.send(json!({"jsonrpc": "2.0", "id": 0, "method": "elicitation/create", "params": {"message": "a?"}})).await;
    let mut stream_a = Events::of(posted(calling_a).await);
    let question = stream_a.next().await.unwrap();
    assert_eq!(question["params"]["message"], "a?");
    a.post(json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}})).await;
    assert_eq!(of_a.read().await, json!({"jsonrpc": "2.0", "id": 0, "result": {"action": "decline"}}));
    // The other cannot answer it, nor does it hear of anything.
    for (method, params) in [
        ("notifications/tools/list_changed", json!({"x": 1})),
        ("notifications/resources/updated", json!({"uri": "never://subscribed"})),
        ("notifications/tasks/status", json!({"taskId": "t"})),
    ] {
        of_a.notify(method, params.clone()).await;
        assert_eq!(hears_a.next().await.unwrap(), json!({"jsonrpc": "2.0", "method": method, "params": params}));
    }
    of_a.notify("notifications/message", json!({"level": "info", "data": "of a"})).await;
    assert_eq!(stream_a.next().await.unwrap()["params"]["data"], "of a");
    of_a.answer(&asked_a, json!({"of": "a"})).await;
    assert_eq!(stream_a.next().await.unwrap()["result"], json!({"of": "a"}));
    // With nothing in flight its own stream carries a question, of any kind.
    of_a.send(json!({"jsonrpc": "2.0", "id": "q", "method": "strange/question", "params": {}})).await;
    let question = hears_a.next().await.unwrap();
    assert_eq!(question["method"], "strange/question");
    a.post(json!({"jsonrpc": "2.0", "id": question["id"], "error": {"code": -32601, "message": "?"}})).await;
    assert_eq!(of_a.read().await["id"], "q");
    // What it did not declare is refused in its place.
    of_a.send(json!({"jsonrpc": "2.0", "id": 7, "method": "sampling/createMessage", "params": {}})).await;
    assert_eq!(of_a.read().await["error"]["code"], -32601);
    of_b.notify("notifications/tools/list_changed", json!({})).await;
    assert_eq!(hears_b.next().await.unwrap()["method"], "notifications/tools/list_changed");
    of_b.answer(&asked_b, json!({"of": "b"})).await;
    assert_eq!(body(posted(calling_b).await).await["result"], json!({"of": "b"}));
}

#[tokio::test]
async fn a_server_that_refuses_to_be_opened_says_so_itself_and_is_ended() {
    let mut rig = rig(Isolation::Session).await;
    let opening = {
        let client = Client::new(&rig.url);
        tokio::spawn(async move { client.post_text(initialize("c")).await })
    };
    until(|| !rig.opened().is_empty()).await;
    let mut child = rig.child();
    for _ in 0..2 {
        // `initialize`, and the other era.
        let asked = child.read().await;
        let error = json!({"code": -32099, "message": "not \"you\""});
        child.send(json!({"jsonrpc": "2.0", "id": asked["id"], "error": error})).await;
    }
    let response = posted(opening).await;
    assert!(!response.headers().contains_key("mcp-session-id"));
    let (status, answer) = outcome(response).await;
    assert_eq!((status, &answer["error"]["message"]), (200, &json!("not \"you\"")));
    assert_eq!(answer["id"], "i");
    loop {
        if within(rig.demands.recv()).await.unwrap() == Wish::Stop {
            break;
        }
    }
}

#[tokio::test]
async fn a_session_that_ends_takes_its_server_with_it() {
    let mut rig = rig(Isolation::Session).await;
    let (a, mut of_a, _) = session(&rig, "a").await;
    let (b, mut of_b, _) = session(&rig, "b").await;
    initialized(&a, &mut of_a).await;
    initialized(&b, &mut of_b).await;
    while rig.demands.try_recv().is_ok() {}
    assert_eq!(a.send(Method::DELETE, "").await.status(), 204);
    assert_eq!(within(rig.demands.recv()).await.unwrap(), Wish::Stop);
    assert_eq!(a.post(call(1, "t")).await.status(), 404);
    answered(&b, &mut of_b, 1).await;
}

#[tokio::test]
async fn a_session_that_is_revived_gets_a_server_that_is_greeted_with_what_its_id_tells() {
    let before = rig(Isolation::Session).await;
    let (client, _child, _) = session(&before, "a client").await;
    let id = client.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let rig = rig(Isolation::Session).await;
    let client = Client::new(&rig.url).with("mcp-session-id", &id);
    let mut hears = client.get().await;
    let asking = posting(&client, call(1, "t"));
    until(|| !rig.opened().is_empty()).await;
    let mut child = rig.child();
    let asked = answer_initialize(&mut child, "2025-06-18").await;
    assert_eq!(
        asked["params"],
        json!({
            "protocolVersion": "2025-06-18",
            "capabilities": {"roots": {}, "elicitation": {"form": {}}},
            "clientInfo": {"name": "a client", "version": "1"},
        })
    );
    assert_eq!(child.read().await["method"], "notifications/initialized");
    let asked = child.read().await;
    child.answer(&asked, json!({})).await;
    assert_eq!(posted(asking).await.status(), 200);
    assert_eq!(hears.next().await.unwrap()["method"], "notifications/tools/list_changed", "whatever has changed since");
}

#[tokio::test]
async fn after_the_end_of_its_server_a_session_goes_on_with_the_next() {
    let rig = rig(Isolation::Session).await;
    let (client, mut child, first) = session(&rig, "c").await;
    initialized(&client, &mut child).await;
    let mut hears = client.get().await;
    let subscribing = json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": "a://b"}});
    let level = json!({"jsonrpc": "2.0", "id": 2, "method": "logging/setLevel", "params": {"level": "error"}});
    for request in [subscribing, level] {
        let asking = posting(&client, request);
        let asked = child.read().await;
        child.answer(&asked, json!({})).await;
        assert_eq!(body(posted(asking).await).await["result"], json!({}));
    }
    child.exit().await;
    let mut child = rig.child();
    let again = answer_initialize(&mut child, "2025-06-18").await;
    assert_eq!(again["params"], first["params"], "word for word");
    assert_eq!(child.read().await["method"], "notifications/initialized");
    let mut renewed = Vec::new();
    for _ in 0..2 {
        let asked = child.read().await;
        renewed.push(asked["method"].as_str().unwrap().to_owned());
        child.answer(&asked, json!({})).await;
    }
    renewed.sort_unstable();
    assert_eq!(renewed, ["logging/setLevel", "resources/subscribe"]);
    assert_eq!(hears.next().await.unwrap()["method"], "notifications/tools/list_changed");
    answered(&client, &mut child, 3).await;
}

#[tokio::test]
async fn where_the_memory_of_a_server_matters_its_end_is_that_of_its_session() {
    let sharing = Sharing { isolation: Isolation::Session, on_exit: OnExit::EndSession, ..Sharing::default() };
    let mut rig = rig_with(sharing.clone(), Limits::default()).await;
    let (client, mut child, _) = session(&rig, "c").await;
    initialized(&client, &mut child).await;
    while rig.demands.try_recv().is_ok() {}
    child.exit().await;
    assert_eq!(within(rig.demands.recv()).await.unwrap(), Wish::Stop);
    let (status, answer) = outcome(client.post(call(1, "t")).await).await;
    assert_eq!((status, &answer["error"]["message"]), (404, &json!("Session not found")));
    // Nor does ferry's own restart revive one: nobody could tell that it begins anew.
    let (client, _child, _) = session(&rig, "c").await;
    let id = client.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let other = rig_with(sharing, Limits::default()).await;
    assert_eq!(Client::new(&other.url).with("mcp-session-id", &id).post(call(1, "t")).await.status(), 404);
}

#[tokio::test]
async fn an_idle_server_makes_room_for_another_and_a_busy_one_does_not() {
    let sharing = Sharing { isolation: Isolation::Session, max_children: 2, ..Sharing::default() };
    let mut rig = rig_with(sharing, Limits::default()).await;
    let (a, mut of_a, _) = session(&rig, "a").await;
    initialized(&a, &mut of_a).await;
    let (b, mut of_b, _) = session(&rig, "b").await;
    initialized(&b, &mut of_b).await;
    // `a` is the older one, but it has work.
    let calling = posting(&a, call(1, "t"));
    let asked = of_a.read().await;
    while rig.demands.try_recv().is_ok() {}
    let (c, mut of_c, _) = session(&rig, "c").await;
    initialized(&c, &mut of_c).await;
    assert_eq!(within(rig.demands.recv()).await.unwrap(), Wish::Rest);
    let calling_c = posting(&c, call(1, "t"));
    let asked_c = of_c.read().await;
    let refused = Client::new(&rig.url).post_text(initialize("d")).await;
    assert_eq!(refused.headers()["retry-after"], "5");
    let (status, answer) = outcome(refused).await;
    assert_eq!((status, &answer["error"]["code"]), (503, &json!(-31004)));
    of_c.answer(&asked_c, json!({})).await;
    assert_eq!(posted(calling_c).await.status(), 200);
    of_a.answer(&asked, json!({})).await;
    assert_eq!(posted(calling).await.status(), 200);
    // `b` has lost its process and not its session: it takes the place of `a`, which was asked before `c`.
    of_b.exit().await;
    let mut hears = b.get().await;
    let calling = posting(&b, call(2, "t"));
    let mut of_b = rig.process_of(Arc::clone(&rig.opened()[1]));
    answer_initialize(&mut of_b, "2025-06-18").await;
    assert_eq!(of_b.read().await["method"], "notifications/initialized");
    let asked = of_b.read().await;
    of_b.answer(&asked, json!({})).await;
    assert_eq!(posted(calling).await.status(), 200);
    // It was ferry that ended it: nothing has changed that a client should look at.
    of_b.notify("notifications/resources/updated", json!({"uri": "a://b"})).await;
    assert_eq!(hears.next().await.unwrap()["method"], "notifications/resources/updated");
}

#[tokio::test]
async fn a_server_that_nobody_asks_anything_rests_until_somebody_does() {
    for isolation in [Isolation::Shared, Isolation::Session] {
        let idle_stop = Some(Duration::from_millis(200));
        let mut rig = rig_with(
            Sharing { isolation, idle_stop, era: Choice::PreferLegacy, ..Sharing::default() },
            Limits::default(),
        )
        .await;
        // Whoever starts processes knows that this end was wanted, and says nothing of it.
        rig.tells_ends.store(false, Ordering::Relaxed);
        tokio::spawn(Arc::clone(&rig.endpoint).expire_sessions());
        let (client, mut child) = if isolation == Isolation::Shared {
            let child = rig.legacy_child(json!({"tools": {"listChanged": true}})).await;
            (Client::new(&rig.url).initialize(json!({})).await, child)
        } else {
            let (client, mut child, _) = session(&rig, "c").await;
            initialized(&client, &mut child).await;
            (client, child)
        };
        while rig.demands.try_recv().is_ok() {}
        // A call that takes longer than that is no idleness.
        let calling = posting(&client, call(1, "t"));
        let asked = child.read().await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert!(rig.demands.try_recv().is_err(), "it was busy");
        child.answer(&asked, json!({})).await;
        posted(calling).await;
        assert_eq!(within(rig.demands.recv()).await.unwrap(), Wish::Rest);
        let mut hears = client.get().await;
        child.exit().await;
        let calling = posting(&client, call(2, "t"));
        assert_eq!(within(rig.demands.recv()).await.unwrap(), Wish::Start);
        let mut child = rig.child();
        answer_initialize(&mut child, "2025-06-18").await;
        assert_eq!(child.read().await["method"], "notifications/initialized");
        let asked = child.read().await;
        child.answer(&asked, json!({})).await;
        assert_eq!(body(posted(calling).await).await["id"], 2);
        child.notify("notifications/tools/list_changed", json!({})).await;
        child.notify("notifications/prompts/list_changed", json!({})).await;
        assert_eq!(hears.next().await.unwrap()["method"], "notifications/tools/list_changed");
        assert_eq!(hears.next().await.unwrap()["method"], "notifications/prompts/list_changed", "no hint came before");
    }
}

/// A door for somebody with a token of their own; each token is an identity.
async fn door(rig: &Rig, who: &str) -> Client {
    let identity = Identity::access("https://team.example", who);
    Client::new(&rig.door(Admission::Loopback { identity }).await)
}

#[tokio::test]
async fn what_one_person_does_shares_a_server_that_no_other_person_reaches() {
    let rig = rig(Isolation::User).await;
    let (ada, bob) = (door(&rig, "ada").await, door(&rig, "bob").await);
    let open = |client: &Client, name: &'static str| {
        let client = client.clone();
        tokio::spawn(async move {
            let response = client.post_text(initialize(name)).await;
            assert_eq!(response.status(), 200);
            let id = response.headers()["mcp-session-id"].to_str().unwrap().to_owned();
            client.with("mcp-session-id", &id)
        })
    };
    let opening = open(&ada, "first");
    until(|| rig.opened().len() == 1).await;
    let mut of_ada = rig.child();
    let asked = answer_initialize(&mut of_ada, "2025-06-18").await;
    assert_eq!(asked["params"]["clientInfo"]["name"], "first");
    assert_eq!(asked["params"]["capabilities"], json!({"elicitation": {}, "roots": {}, "x": 1.0}));
    assert_eq!(of_ada.read().await["method"], "notifications/initialized");
    let first = within(opening).await.unwrap();
    let second = within(open(&ada, "second")).await.unwrap();
    assert_eq!(rig.opened().len(), 1, "the same person");
    let opening = open(&bob, "bobs");
    until(|| rig.opened().len() == 2).await;
    let mut of_bob = rig.child();
    answer_initialize(&mut of_bob, "2025-06-18").await;
    assert_eq!(of_bob.read().await["method"], "notifications/initialized");
    let bobs = within(opening).await.unwrap();
    answered(&first, &mut of_ada, 1).await;
    answered(&second, &mut of_ada, 1).await;
    answered(&bobs, &mut of_bob, 1).await;
    // A person's sessions hear of their own server alone.
    let (mut hears_first, mut hears_bob) = (first.get().await, bobs.get().await);
    of_ada.notify("notifications/tools/list_changed", json!({})).await;
    assert_eq!(hears_first.next().await.unwrap()["method"], "notifications/tools/list_changed");
    of_bob.notify("notifications/prompts/list_changed", json!({})).await;
    assert_eq!(hears_bob.next().await.unwrap()["method"], "notifications/prompts/list_changed");
    // Two of a person's clients at once: whose question it is cannot be told. One: it can.
    let (one, two) = (posting(&first, call(2, "t")), posting(&second, call(2, "t")));
    let (asked_one, asked_two) = (of_ada.read().await, of_ada.read().await);
    of_ada.send(json!({"jsonrpc": "2.0", "id": 1, "method": "elicitation/create", "params": {"message": "?"}})).await;
    assert_eq!(of_ada.read().await["error"]["code"], -32603);
    of_ada.answer(&asked_one, json!({})).await;
    of_ada.answer(&asked_two, json!({})).await;
    posted(one).await;
    posted(two).await;
    let asking = posting(&second, call(3, "t"));
    let asked = of_ada.read().await;
    of_ada.send(json!({"jsonrpc": "2.0", "id": 2, "method": "elicitation/create", "params": {"message": "?"}})).await;
    let mut stream = Events::of(posted(asking).await);
    assert_eq!(stream.next().await.unwrap()["method"], "elicitation/create");
    of_ada.answer(&asked, json!({})).await;
    assert_eq!(stream.next().await.unwrap()["id"], 3);
}

#[tokio::test]
async fn modern_requests_of_one_identity_share_a_server() {
    for isolation in [Isolation::Session, Isolation::User] {
        let rig = rig(isolation).await;
        for (count, who) in [(1, "ada"), (2, "bob")] {
            let client = door(&rig, who).await;
            let asking = {
                let client = client.clone();
                tokio::spawn(async move { client.modern(json!(1), "prompts/list", json!({})).await })
            };
            until(|| rig.opened().len() == count).await;
            let mut child = rig.modern_child(json!({"prompts": {}})).await;
            for _ in 0..2 {
                let asked = child.read().await;
                assert_eq!(asked["method"], "prompts/list");
                let result = json!({"resultType": "complete", "prompts": [], "ttlMs": 0, "cacheScope": "private"});
                child.answer(&asked, result).await;
                if asked["id"].as_u64().unwrap() > 2 {
                    break;
                }
                let client = client.clone();
                tokio::spawn(async move { client.modern(json!(2), "prompts/list", json!({})).await });
            }
            assert_eq!(body(within(asking).await.unwrap()).await["id"], 1);
            assert_eq!(rig.opened().len(), count);
        }
    }
}
