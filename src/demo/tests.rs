//! Conversations with the server, in memory.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf};
use tokio::task::JoinHandle;

use super::serve;

/// Turns a hang into a failure; nothing is ever waited for this long.
const DEADLINE: Duration = Duration::from_secs(30);

struct Client {
    lines: Lines<BufReader<ReadHalf<DuplexStream>>>,
    writer: WriteHalf<DuplexStream>,
    server: JoinHandle<()>,
    modern: bool,
}

impl Client {
    fn new() -> Self {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (reader, writer) = tokio::io::split(theirs);
        let server = tokio::spawn(serve(reader, writer));
        let (reader, writer) = tokio::io::split(ours);
        Self { lines: BufReader::new(reader).lines(), writer, server, modern: false }
    }

    /// After a handshake in which this client said what it can.
    async fn legacy(capabilities: Value) -> Self {
        let mut client = Self::new();
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": {} });
        client.result("initialize", params).await;
        client.write(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }).to_string()).await;
        client
    }

    fn modern() -> Self {
        Self { modern: true, ..Self::new() }
    }

    async fn write(&mut self, line: &str) {
        self.writer.write_all(format!("{line}\n").as_bytes()).await.expect("the server reads");
    }

    async fn ask(&mut self, id: impl Into<Value>, method: &str, mut params: Value) {
        if self.modern {
            for (key, value) in [("protocolVersion", json!("2026-07-28")), ("clientCapabilities", json!({}))] {
                let meta = &mut params["_meta"][format!("io.modelcontextprotocol/{key}")];
                if meta.is_null() {
                    *meta = value;
                }
            }
        }
        let request = json!({ "jsonrpc": "2.0", "id": id.into(), "method": method, "params": params });
        self.write(&request.to_string()).await;
    }

    async fn next(&mut self) -> Value {
        let line = tokio::time::timeout(DEADLINE, self.lines.next_line()).await.expect("the server says something");
        let line = line.expect("the server writes UTF-8").expect("the server is still there");
        serde_json::from_str(&line).expect("the server writes JSON")
    }

    /// Asks, and expects nothing but the answer.
    async fn answer(&mut self, method: &str, params: Value) -> Value {
        self.ask("?", method, params).await;
        let answer = self.next().await;
        assert_eq!(answer["id"], "?", "{answer}");
        answer
    }

    async fn result(&mut self, method: &str, params: Value) -> Value {
        let answer = self.answer(method, params).await;
        assert!(answer.get("error").is_none(), "{answer}");
        answer["result"].clone()
    }

    async fn code(&mut self, method: &str, params: Value) -> i64 {
        self.answer(method, params).await["error"]["code"].as_i64().expect("an error")
    }

    async fn cancel(&mut self, id: impl Into<Value>) {
        let params = json!({ "requestId": id.into() });
        let notification = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params });
        self.write(&notification.to_string()).await;
    }

    /// Closes our end; the server ends without another word.
    async fn close(mut self) {
        self.writer.shutdown().await.expect("the server is there");
        tokio::time::timeout(DEADLINE, self.server).await.expect("it ends soon").expect("it does not panic");
        assert_eq!(self.lines.next_line().await.expect("UTF-8"), None);
    }
}

fn call(tool: &str, arguments: &Value) -> Value {
    json!({ "name": tool, "arguments": arguments })
}

fn text(result: &Value) -> &str {
    result["content"][0]["text"].as_str().expect("a text")
}

#[tokio::test]
async fn a_session_opens_and_serves() {
    let mut client = Client::new();
    let asked = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {} });
    let opened = client.result("initialize", asked).await;
    assert_eq!(opened["protocolVersion"], "2025-06-18");
    assert_eq!(opened["capabilities"]["resources"], json!({ "subscribe": true, "listChanged": true }));
    assert_eq!(client.result("ping", json!({})).await, json!({}));
    assert_eq!(client.result("logging/setLevel", json!({ "level": "info" })).await, json!({}));
    assert_eq!(text(&client.result("tools/call", call("echo", &json!({ "message": "ä\n" }))).await), "ä\n");
    for (method, params, code) in [
        ("server/discover", json!({}), -32601),
        ("subscriptions/listen", json!({ "notifications": {} }), -32601),
        ("sing", json!({}), -32601),
        ("logging/setLevel", json!({ "level": "loud" }), -32602),
        ("tools/call", call("sing", &json!({})), -32602),
        ("tools/call", json!({}), -32602),
        ("prompts/get", json!({ "name": "sing" }), -32602),
        ("resources/read", json!({ "uri": "note:///9" }), -32002),
        ("resources/subscribe", json!({ "uri": "note:///9" }), -32002),
        ("resources/read", json!({}), -32602),
    ] {
        assert_eq!(client.code(method, params.clone()).await, code, "{method} {params}");
    }
    let wrong = client.result("tools/call", call("echo", &json!({ "message": 7 }))).await;
    assert_eq!(wrong["isError"], true, "a wrong argument is the model's to read");
    client.close().await;
}

#[tokio::test]
async fn modern_requests_are_served_without_a_session() {
    let mut client = Client::modern();
    let discovered = client.result("server/discover", json!({})).await;
    assert_eq!(discovered["supportedVersions"], json!(["2026-07-28"]));
    for (method, params, cached) in [
        ("server/discover", json!({}), true),
        ("tools/list", json!({}), true),
        ("prompts/list", json!({}), true),
        ("resources/list", json!({}), true),
        ("resources/templates/list", json!({}), true),
        ("resources/read", json!({ "uri": "note:///1" }), true),
        ("prompts/get", json!({ "name": "summarize_notes" }), false),
        ("tools/call", call("time", &json!({})), false),
    ] {
        let result = client.result(method, params).await;
        assert_eq!(result["resultType"], "complete", "{method}");
        assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "ferry-demo", "{method}");
        assert_eq!(result["ttlMs"].is_u64(), cached, "{method}");
        assert_eq!(result["cacheScope"].is_string(), cached, "{method}");
    }
    for (method, params, code) in [
        ("initialize", json!({}), -32601),
        ("ping", json!({}), -32601),
        ("logging/setLevel", json!({ "level": "info" }), -32601),
        ("resources/subscribe", json!({ "uri": "note:///1" }), -32601),
        ("resources/unsubscribe", json!({ "uri": "note:///1" }), -32601),
        ("resources/read", json!({ "uri": "note:///9" }), -32602),
        ("subscriptions/listen", json!({}), -32602),
        ("tools/call", call("greet", &json!({})), -32021),
    ] {
        assert_eq!(client.code(method, params.clone()).await, code, "{method} {params}");
    }
    client.close().await;
}

#[tokio::test]
async fn a_client_may_look_before_it_opens_a_session() {
    let mut client = Client::modern();
    client.result("server/discover", json!({})).await;
    client.modern = false;
    client.result("initialize", json!({ "protocolVersion": "2025-11-25", "capabilities": {} })).await;
    assert!(client.result("tools/list", json!({})).await.get("resultType").is_none());
    client.close().await;
}

#[tokio::test]
async fn a_modern_server_opens_no_session() {
    let mut client = Client::modern();
    client.result("tools/list", json!({})).await;
    client.modern = false;
    let refused = client.answer("initialize", json!({ "protocolVersion": "2025-11-25" })).await;
    let data = json!({ "supported": ["2026-07-28"], "requested": "2025-11-25" });
    assert_eq!((&refused["error"]["code"], &refused["error"]["data"]), (&json!(-32022), &data));
    client.close().await;
}

#[tokio::test]
async fn what_is_no_message_is_answered_and_does_no_harm() {
    let mut client = Client::new();
    for (line, code) in [("{", -32700), ("\u{7}", -32700), ("[]", -32600), (r#"{"id":1}"#, -32600)] {
        client.write(line).await;
        assert_eq!(client.next().await["error"]["code"], code, "{line:?}");
    }
    client.write("").await;
    client.write(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#).await; // nobody asked
    assert_eq!(client.result("ping", json!({})).await, json!({}));
    client.close().await;
}

#[tokio::test]
async fn a_long_call_reports_stands_in_nobodys_way_and_can_be_cancelled() {
    for mut client in [Client::legacy(json!({})).await, Client::modern()] {
        let mut counting = call("count", &json!({ "to": 3, "interval_ms": 0 }));
        counting["_meta"]["progressToken"] = json!("t");
        client.ask(1, "tools/call", counting).await;
        for done in 1..=3 {
            let params =
                json!({ "progressToken": "t", "progress": done, "total": 3, "message": format!("{done} of 3") });
            assert_eq!(client.next().await["params"], params);
        }
        assert_eq!(client.next().await["result"]["structuredContent"], json!({ "counted": 3 }));

        let for_ever = || call("count", &json!({ "to": 1000, "interval_ms": 60_000 }));
        client.ask("c", "tools/call", for_ever()).await;
        client.result("tools/call", call("echo", &json!({ "message": "meanwhile" }))).await;
        client.ask("c", "tools/call", call("time", &json!({}))).await;
        assert_eq!(client.next().await["error"]["code"], -32600, "the id is taken");
        client.cancel("c").await;
        client.ask("c", "tools/call", call("time", &json!({}))).await;
        assert!(client.next().await["result"].is_object(), "the id is free again, and the cancelled call is silent");
        client.ask("c", "tools/call", for_ever()).await;
        client.close().await;
    }
}

#[tokio::test]
async fn a_session_that_can_be_asked_is_asked() {
    let mut client = Client::legacy(json!({ "elicitation": {} })).await;
    for (answer, greeted) in [
        (json!({ "result": { "action": "accept", "content": { "name": "Ada" } } }), "Ahoy, Ada!"),
        (json!({ "result": { "action": "decline" } }), "Ahoy, whoever you are!"),
        (json!({ "error": { "code": -1, "message": "no screen" } }), "your client could not ask: no screen"),
    ] {
        client.ask("g", "tools/call", call("greet", &json!({ "greeting": "Ahoy" }))).await;
        let mut question = client.next().await;
        assert_eq!(question["method"], "elicitation/create");
        let mut response = answer;
        response["jsonrpc"] = "2.0".into();
        response["id"] = question["id"].take();
        client.write(&response.to_string()).await;
        assert_eq!(text(&client.next().await["result"]), greeted);
    }
    client.ask("g", "tools/call", call("greet", &json!({}))).await;
    let question = client.next().await;
    client.cancel("g").await;
    let withdrawn = client.next().await;
    assert_eq!(withdrawn["method"], "notifications/cancelled");
    assert_eq!(withdrawn["params"]["requestId"], question["id"]);
    client.close().await;

    let mut mute = Client::legacy(json!({ "elicitation": { "url": {} } })).await;
    let greeted = mute.result("tools/call", call("greet", &json!({}))).await;
    assert!(text(&greeted).starts_with("Hello, stranger!"));
    mute.close().await;
}

#[tokio::test]
async fn a_modern_client_finds_the_question_in_the_result() {
    let mut client = Client::modern();
    let mut greet = call("greet", &json!({}));
    greet["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({ "elicitation": { "form": {} } });
    let asked = client.result("tools/call", greet.clone()).await;
    assert_eq!(asked["resultType"], "input_required");
    assert_eq!(asked["inputRequests"]["name"]["method"], "elicitation/create");
    greet["requestState"] = asked["requestState"].clone();
    greet["inputResponses"] = json!({ "name": { "action": "accept", "content": { "name": "Ada" } } });
    let greeted = client.result("tools/call", greet).await;
    assert_eq!((&greeted["resultType"], text(&greeted)), (&json!("complete"), "Hello, Ada!"));
    client.close().await;
}

#[tokio::test]
async fn a_session_hears_of_changes() {
    let mut client = Client::legacy(json!({})).await;
    let changed = json!({ "jsonrpc": "2.0", "method": "notifications/resources/list_changed" });
    client.result("resources/subscribe", json!({ "uri": "note:///1" })).await;
    let added = client.result("tools/call", call("add_note", &json!({ "text": "milk" }))).await;
    assert_eq!(added["content"][1]["uri"], "note:///2");
    assert_eq!(client.next().await, changed);
    client.result("tools/call", call("edit_note", &json!({ "id": 1, "text": "Welcome to ferry\nagain" }))).await;
    let updated = client.next().await;
    assert_eq!(
        (&updated["method"], &updated["params"]["uri"]),
        (&json!("notifications/resources/updated"), &json!("note:///1"))
    );
    client.result("resources/unsubscribe", json!({ "uri": "note:///1" })).await;
    client.result("logging/setLevel", json!({ "level": "info" })).await;
    client.result("tools/call", call("delete_note", &json!({ "id": 1 }))).await;
    assert_eq!(client.next().await["params"]["level"], "info");
    assert_eq!(client.next().await, changed);
    let left = client.result("resources/list", json!({})).await;
    assert_eq!(left["resources"].as_array().map(Vec::len), Some(1));
    client.close().await;
}

#[tokio::test]
async fn a_modern_client_hears_of_changes_while_it_listens() {
    let mut client = Client::modern();
    let filter = json!({ "resourcesListChanged": true, "resourceSubscriptions": ["note:///1"] });
    client.ask(9, "subscriptions/listen", json!({ "notifications": filter })).await;
    let ack = client.next().await;
    assert_eq!(ack["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(ack["params"]["notifications"], filter);
    client.result("tools/call", call("edit_note", &json!({ "id": 1, "text": "new" }))).await;
    for method in ["notifications/resources/updated", "notifications/resources/list_changed"] {
        let news = client.next().await;
        assert_eq!(news["method"], method);
        assert_eq!(news["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 9);
    }
    client.cancel(9).await;
    let mut logged = call("add_note", &json!({ "text": "milk" }));
    client.result("tools/call", logged.clone()).await; // and no news of it before the answer to the next one
    logged["_meta"]["io.modelcontextprotocol/logLevel"] = "info".into();
    client.result("tools/call", logged).await;
    assert_eq!(client.next().await["method"], "notifications/message", "a log for whom it asked for");
    client.close().await;
}
