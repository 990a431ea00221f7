//! What the configuration says of legacy clients: without a session, by the older door.

use mcp_ferry::bridge::auth::Admission;
use mcp_ferry::bridge::child::{Isolation, Sharing};
use mcp_ferry::bridge::era::Policy;
use mcp_ferry::config::limits::Limits;
use mcp_ferry::mcp::probe::Choice;
use serde_json::{Value, json};

use crate::support::fake_child::{FakeChild, Rig};
use crate::support::http::{Client, Events, body, outcome};
use crate::support::within;

fn request(id: u64, method: &str, params: impl Into<Value>) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params.into()})
}

async fn rig(isolation: Isolation) -> Rig {
    let policy = Policy { legacy_stateless: true, ..Policy::default() };
    let sharing = Sharing { isolation, era: Choice::PreferLegacy, ..Sharing::default() };
    Rig::with(Admission::loopback(), policy, sharing, Limits::default()).await
}

/// A server that was opened by a client which will keep no session.
async fn opened(rig: &Rig) -> (Client, FakeChild) {
    let client = Client::new(&rig.url);
    let params =
        json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}});
    let opening = {
        let client = client.clone();
        tokio::spawn(async move { client.post(request(0, "initialize", params)).await })
    };
    crate::support::until(|| !rig.opened().is_empty()).await;
    let child = rig.legacy_child(json!({"tools": {}, "resources": {"subscribe": true}, "logging": {}})).await;
    let response = within(opening).await.unwrap();
    assert!(!response.headers().contains_key("mcp-session-id"));
    assert_eq!(body(response).await["result"]["protocolVersion"], "2025-06-18");
    (client, child)
}

#[tokio::test]
async fn each_request_stands_alone() {
    for isolation in [Isolation::Shared, Isolation::User, Isolation::Session] {
        let rig = rig(isolation).await;
        let (client, mut child) = opened(&rig).await;
        let response = client.post(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        assert_eq!(response.status(), 202);
        let calling = {
            let client = client.clone();
            let params = json!({"name": "t", "_meta": {"progressToken": "p"}});
            tokio::spawn(async move { client.post(request(7, "tools/call", params)).await })
        };
        let asked = child.read().await;
        child.notify("notifications/progress", json!({"progressToken": asked["id"], "progress": 1})).await;
        let mut events = Events::of(within(calling).await.unwrap());
        assert_eq!(events.next().await.unwrap()["params"]["progressToken"], "p");
        // Nobody could answer a question, even though somebody is there.
        child.send(request(3, "elicitation/create", json!({"message": "?"}))).await;
        assert_eq!(child.read().await["error"]["code"], -32601);
        child.answer(&asked, json!({"content": []})).await;
        assert_eq!(events.next().await.unwrap()["id"], 7);
        assert_eq!(events.last_id, "", "there is no stream to come back to");
        for method in ["resources/subscribe", "logging/setLevel"] {
            let (status, answer) =
                outcome(client.post(request(1, method, json!({"uri": "a", "level": "info"}))).await).await;
            assert_eq!((status, &answer["error"]["code"]), (200, &json!(-32601)), "{method}");
        }
        assert_eq!(rig.opened().len(), 1, "one server for all of them");
        assert_eq!(client.send(reqwest::Method::GET, "").await.status(), 405);
    }
}

#[tokio::test]
async fn the_older_door_can_be_closed() {
    for (sse, status) in [(true, 200), (false, 404)] {
        let policy = Policy { sse, ..Policy::default() };
        let rig = Rig::with(Admission::loopback(), policy, Sharing::default(), Limits::default()).await;
        let client = Client::new(&format!("{}/sse", rig.url)).with("accept", "text/event-stream");
        assert_eq!(client.send(reqwest::Method::GET, "").await.status(), status);
    }
}
