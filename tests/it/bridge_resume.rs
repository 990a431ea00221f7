//! Streams of legacy clients that break off, and go on where they were.

use std::time::Duration;

use mcp_ferry::config::limits::Limits;
use serde_json::{Value, json};

use crate::support::fake_child::Rig;
use crate::support::http::{Client, Events, outcome};
use crate::support::{until, within};

fn call(id: u32) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
        "params": {"name": "slow", "arguments": {}, "_meta": {"progressToken": "t"}}})
}

fn progress(request: &Value, progress: u32) -> Value {
    json!({"progressToken": request["id"], "progress": progress})
}

fn posting(client: &Client, body: Value) -> tokio::task::JoinHandle<reqwest::Response> {
    let client = client.clone();
    tokio::spawn(async move { client.post(body).await })
}

#[tokio::test]
async fn a_call_whose_stream_breaks_twice_still_returns() {
    let (rig, mut child) = Rig::legacy(json!({"tools": {}}), Limits::default()).await;
    let client = Client::new(&rig.url).initialize_at("2025-11-25", json!({})).await;
    let answer = posting(&client, call(1));
    let request = child.read().await;
    child.notify("notifications/progress", progress(&request, 1)).await;
    let mut events = Events::of(within(answer).await.unwrap());
    let priming = events.block().await.unwrap();
    assert!(priming.starts_with("id: p") && priming.ends_with(".0\nretry: 5000\ndata:"), "{priming:?}");
    assert_eq!(events.next().await.unwrap()["params"]["progress"], 1);
    let first = events.last_id.clone();
    drop(events);
    // Said while nobody listens, or to a connection that is gone without anybody knowing yet.
    child.notify("notifications/progress", progress(&request, 2)).await;
    let mut events = Events::of(client.resume(&first).await);
    assert_eq!(events.block().await.unwrap(), format!("id: {first}\nretry: 5000\ndata:"), "a place to come back to");
    assert_eq!(events.next().await.unwrap()["params"]["progress"], 2);
    let second = events.last_id.clone();
    assert_ne!(first, second);
    drop(events);
    child.notify("notifications/progress", progress(&request, 3)).await;
    child.answer(&request, json!({"done": true})).await;
    let mut events = Events::of(client.resume(&second).await);
    assert_eq!(events.next().await.unwrap()["params"]["progress"], 3);
    assert_eq!(events.next().await.unwrap(), json!({"jsonrpc": "2.0", "id": 1, "result": {"done": true}}));
    let last = events.last_id.clone();
    assert_eq!(events.next().await, None, "the stream ends after its response");
    // The whole of it once more, and the end of it: an empty 200 would bring some clients back for ever.
    let mut again = Events::of(client.resume(&first).await);
    assert_eq!(again.next().await.unwrap()["params"]["progress"], 2);
    assert_eq!(again.rest().await.len(), 2);
    let response = client.resume(&last).await;
    assert_eq!(response.status(), 204);
    assert_eq!(within(response.bytes()).await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_client_that_comes_back_takes_over_from_its_own_open_stream() {
    let (rig, mut child) = Rig::legacy(json!({"tools": {}}), Limits::default()).await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let answer = posting(&client, call(1));
    let request = child.read().await;
    child.notify("notifications/progress", progress(&request, 1)).await;
    let mut old = Events::of(within(answer).await.unwrap());
    assert_eq!(old.block().await.as_deref(), Some(": ok"), "older clients cannot read an event without data");
    old.next().await.unwrap();
    let mut new = Events::of(client.resume(&old.last_id).await);
    assert_eq!(new.block().await.as_deref(), Some(": ok"));
    assert_eq!(old.next().await, None, "the old connection is closed");
    child.answer(&request, json!({"done": true})).await;
    assert_eq!(new.next().await.unwrap()["result"], json!({"done": true}));
}

#[tokio::test]
async fn a_standing_stream_goes_on_and_an_unknown_one_is_a_new_one() {
    let (rig, mut child) = Rig::legacy(json!({"tools": {"listChanged": true}}), Limits::default()).await;
    let client = Client::new(&rig.url).initialize_at("2025-11-25", json!({})).await;
    let mut stream = client.get().await;
    let priming = stream.block().await.unwrap();
    assert!(priming.starts_with("id: g") && priming.ends_with(".0\nretry: 5000\ndata:"), "{priming:?}");
    for list in ["tools", "prompts"] {
        child.notify(&format!("notifications/{list}/list_changed"), json!({})).await;
    }
    assert_eq!(stream.next().await.unwrap()["method"], "notifications/tools/list_changed");
    let seen = stream.last_id.clone();
    assert_eq!(stream.next().await.unwrap()["method"], "notifications/prompts/list_changed");
    let mut again = Events::of(client.resume(&seen).await);
    assert_eq!(again.next().await.unwrap()["method"], "notifications/prompts/list_changed");
    child.notify("notifications/resources/list_changed", json!({})).await;
    assert_eq!(again.next().await.unwrap()["method"], "notifications/resources/list_changed");
    assert_eq!(stream.next().await, None, "the one before it is closed");
    let mut fresh = Events::of(client.resume("gunknown.7").await);
    assert!(!fresh.block().await.unwrap().contains("gunknown"));
    let (status, answer) = outcome(client.resume("punknown.7").await).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32600)), "404 would mean that the session is gone");
    // Another session's stream is unknown.
    let other = Client::new(&rig.url).initialize_at("2025-11-25", json!({})).await;
    let mut others = Events::of(other.resume(&seen).await);
    assert!(!others.block().await.unwrap().contains(seen.split('.').next().unwrap()));
}

#[tokio::test]
async fn an_answer_that_nobody_fetches_occupies_nothing() {
    let limits = Limits { max_inflight_per_identity: 1, replay_kept: Duration::from_millis(400), ..Limits::default() };
    let (rig, mut child) = Rig::legacy(json!({"tools": {}}), limits).await;
    let expiring = tokio::spawn(std::sync::Arc::clone(&rig.endpoint).expire_sessions());
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let answer = posting(&client, call(1));
    let request = child.read().await;
    child.notify("notifications/progress", progress(&request, 1)).await;
    let mut events = Events::of(within(answer).await.unwrap());
    events.next().await.unwrap();
    let seen = events.last_id.clone();
    drop(events);
    child.answer(&request, json!({})).await;
    // Its place is free as soon as it has ended, read or not.
    until(|| rig.endpoint.in_flight() == 0).await;
    let second = posting(&client, call(2));
    let request = child.read().await;
    child.answer(&request, json!({"second": true})).await;
    assert_eq!(within(second).await.unwrap().status(), 200);
    // And after a while it is forgotten.
    within(async {
        while client.resume(&seen).await.status() != 400 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    expiring.abort();
}
