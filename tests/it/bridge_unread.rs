//! Clients that do not read what they asked for.

use mcp_ferry::config::limits::Limits;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::support::fake_child::{FakeChild, Rig};
use super::support::http::{Client, Events, outcome};
use super::support::within;

const MIB: usize = 1 << 20;

/// More than the system keeps for a client that does not read.
const LARGE: usize = 12 * MIB;

/// A connection on which a call was sent, and nothing is read by itself.
async fn ask(rig: &Rig, client: &Client, call: Value) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let mut stream = socket.connect(rig.address).await.unwrap();
    let mut request = format!("POST /mcp HTTP/1.1\r\nhost: {}\r\n", rig.address);
    for (name, value) in &client.headers {
        request.push_str(name.as_str());
        request.push_str(": ");
        request.push_str(value.to_str().unwrap());
        request.push_str("\r\n");
    }
    let body = call.to_string();
    request.push_str("content-length: ");
    request.push_str(&body.len().to_string());
    request.push_str("\r\n\r\n");
    request.push_str(&body);
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

fn call(id: u32) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "large", "_meta": {"progressToken": id}}})
}

/// Reads until `enough` has come.
async fn read_until(stream: &mut TcpStream, enough: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    while !enough(&text) {
        let mut some = [0; 64];
        let read = within(stream.read(&mut some)).await.unwrap();
        assert!(read > 0, "it ended after {text:?}");
        text.push_str(std::str::from_utf8(&some[..read]).unwrap());
    }
    text
}

/// Everything else that comes, however it ends.
async fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    // A connection that was cut may end with an error.
    let _ = within(stream.read_to_end(&mut all)).await;
    all
}

async fn answer_large(child: &mut FakeChild) {
    let request = child.read().await;
    child.answer(&request, json!({"text": "x".repeat(LARGE)})).await;
}

#[tokio::test]
async fn who_leaves_too_much_unread_is_cut_and_nobody_else_waits() {
    let limits = Limits { max_unread_bytes_per_identity: 2 * LARGE - MIB, ..Limits::default() };
    let (rig, mut child) = Rig::legacy(json!({"tools": {}}), limits).await;
    let client = Client::new(&rig.url).initialize(json!({})).await;
    let mut stuck = ask(&rig, &client, call(1)).await;
    answer_large(&mut child).await;
    read_until(&mut stuck, |text| text.starts_with("HTTP/1.1 200 OK")).await;
    // What waits is not in anybody's way.
    let (response, ()) = tokio::join!(client.post(call(2)), async {
        let request = child.read().await;
        child.answer(&request, json!({"small": true})).await;
    });
    assert_eq!(outcome(response).await.1["result"]["small"], true);
    let mut slow = ask(&rig, &client, call(3)).await;
    answer_large(&mut child).await;
    // Its answer begins once it has been counted.
    let head = read_until(&mut slow, |text| text.contains("\r\n\r\n")).await;
    assert!(rest(stuck).await.len() < LARGE, "the one that has waited longer is cut in the middle");
    let (_, begun) = head.split_once("\r\n\r\n").unwrap();
    let body = [begun.as_bytes(), &body_of(slow, &head, begun.len()).await].concat();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&body["id"], body["result"]["text"].as_str().unwrap().len()), (&json!(3), LARGE));
}

/// The rest of a body whose length the head tells.
async fn body_of(mut stream: TcpStream, head: &str, begun: usize) -> Vec<u8> {
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse::<usize>().unwrap() - begun];
    within(stream.read_exact(&mut body)).await.unwrap();
    body
}

#[tokio::test]
async fn a_stream_that_nobody_reads_is_cut_and_its_client_finds_the_end_when_it_comes_back() {
    let limits = Limits { max_unread_bytes_per_identity: 8 * MIB, ..Limits::default() };
    let (rig, mut child) = Rig::legacy(json!({"tools": {}}), limits).await;
    let client = Client::new(&rig.url).initialize_at("2025-11-25", json!({})).await;
    let mut stuck = ask(&rig, &client, call(1)).await;
    let request = child.read().await;
    let token = request["params"]["_meta"]["progressToken"].clone();
    let long = "x".repeat(MIB);
    for progress in 0..32 {
        let params = json!({"progressToken": token, "progress": progress, "message": long});
        child.notify("notifications/progress", params).await;
    }
    let begun = read_until(&mut stuck, |text| text.contains("\nretry: ")).await;
    let (_, id) = begun.split_once("\nid: ").unwrap();
    let id = id.lines().next().unwrap().trim();
    assert!(rest(stuck).await.len() < 32 * MIB, "it is cut");
    child.answer(&request, json!({"done": true})).await;
    let messages = Events::of(client.resume(id).await).rest().await;
    assert_eq!(messages.last().unwrap()["result"]["done"], true);
}
