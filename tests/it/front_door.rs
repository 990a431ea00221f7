//! What is refused before any server hears of it, over real sockets.

use mcp_ferry::config::limits::Limits;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::fake_child::Rig;
use crate::support::http::{Client, outcome};
use crate::support::within;

/// Sends bytes as they are and returns everything that comes back.
async fn raw(rig: &Rig, request: &str) -> String {
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn post(host: &str, headers: &str, body: &str) -> String {
    format!(
        "POST /mcp HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

#[tokio::test]
async fn a_foreign_host_or_page_is_refused_and_a_local_one_served() {
    let (rig, _child) = Rig::legacy(json!({}), Limits::default()).await;
    for (host, headers, status) in [
        ("evil.example.com", "", 403),
        ("evil.example.com", "Origin: http://evil.example.com\r\n", 403),
        ("localhost:1", "Origin: http://evil.example.com\r\n", 403),
        ("localhost:1", "Origin: null\r\n", 403),
        ("localhost:1", "Origin: http://localhost.evil.example.com\r\n", 403),
        // Let in, and then told that it has no session.
        ("localhost:1", "Origin: http://localhost:5173\r\n", 400),
        ("127.0.0.1", "", 400),
        ("[::1]:9", "", 400),
    ] {
        let answer = raw(&rig, &post(host, headers, PING)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host} {headers}: {answer}");
    }
    let preflight = "OPTIONS /mcp HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost:5173\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: mcp-session-id, content-type\r\nConnection: close\r\n\r\n";
    let answer = raw(&rig, preflight).await.to_lowercase();
    assert!(
        answer.starts_with("http/1.1 20") && answer.contains("access-control-allow-origin: http://localhost:5173"),
        "{answer}"
    );
    assert!(answer.contains("mcp-session-id"), "{answer}");
    let foreign = preflight.replace("localhost:5173", "evil.example.com");
    let answer = raw(&rig, &foreign).await;
    assert!(
        answer.starts_with("HTTP/1.1 403") && !answer.to_lowercase().contains("access-control-allow-origin"),
        "{answer}"
    );
}

#[tokio::test]
async fn paths_are_found_with_or_without_a_slash_and_with_any_query() {
    let (rig, _child) = Rig::legacy(json!({}), Limits::default()).await;
    for (path, status) in
        [("/mcp", 400), ("/mcp/", 400), ("/mcp?v=2", 400), ("/mcp//", 404), ("/", 404), ("/MCP", 404), ("/mcp/x", 404)]
    {
        let answer = raw(&rig, &post("localhost", "", PING).replacen("/mcp", path, 1)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
        assert!(status == 400 || !answer.contains("jsonrpc"), "must not look like an answer of a server: {answer}");
    }
}

#[tokio::test]
async fn bodies_that_are_no_message_are_refused_by_their_kind() {
    let limits = Limits { max_body_bytes: 10_000, ..Limits::default() };
    let (rig, mut child) = Rig::legacy(json!({"tools": {}}), limits).await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    for (text, status, code, id) in [
        ("", 400, -32700, Value::Null),
        ("{", 400, -32700, Value::Null),
        ("nonsense", 400, -32700, Value::Null),
        ("[", 400, -32700, Value::Null),
        ("[]", 400, -32600, Value::Null),
        ("42", 400, -32600, Value::Null),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, 400, -32600, Value::Null),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, 400, -32600, Value::Null),
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, 400, -32600, json!(1)),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","n\u0061me":"b"}}"#,
            400,
            -32600,
            json!(1),
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"a":1,"a":2}}}"#, 400, -32600, json!(1)),
    ] {
        let (answered, answer) = outcome(client.post_text(text).await).await;
        assert_eq!((answered, &answer["error"]["code"]), (status, &json!(code)), "{text}");
        assert_eq!(answer.get("id").unwrap_or(&Value::Null), &id, "{text}: no `id` where none can be read");
        assert!(id != Value::Null || answer.get("id").is_none(), "{text}");
    }
    assert_eq!(client.with("content-type", "text/plain").post_text(PING).await.status(), 415);
    assert_eq!(client.with("accept", "image/png").post_text(PING).await.status(), 406);
    assert_eq!(client.with("accept", "").post_text(PING).await.status(), 200);
    assert_eq!(client.with("accept", "application/json").send(Method::GET, "").await.status(), 406);
    let large =
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"text":"{}"}}}}"#, "x".repeat(20_000));
    assert_eq!(client.post_text(large.clone()).await.status(), 413);
    // A body that does not tell its length is bounded as well.
    let chunks =
        large.into_bytes().chunks(1000).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect::<Vec<_>>();
    let body = reqwest::Body::wrap_stream(tokio_stream_of(chunks));
    assert_eq!(client.post_text(body).await.status(), 413);
    // None of it has reached the server.
    let answer = tokio::spawn({
        let client = client.clone();
        async move { client.post(json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})).await }
    });
    let heard = child.read().await;
    assert_eq!(heard["method"], "tools/list");
    child.answer(&heard, json!({"tools": []})).await;
    assert_eq!(within(answer).await.unwrap().status(), 200);
}

fn tokio_stream_of<T: Send + 'static>(items: Vec<T>) -> impl futures_util::Stream<Item = T> + Send + 'static {
    futures_util::stream::iter(items)
}
