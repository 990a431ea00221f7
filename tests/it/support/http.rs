//! A client that sees every byte: one method per thing that MCP's HTTP does.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::within;

/// Sends requests to one endpoint.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    pub(crate) headers: HeaderMap,
}

pub(crate) const BOTH: &str = "application/json, text/event-stream";

impl Client {
    pub(crate) fn new(url: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let client = Self { http, url: url.to_owned(), headers: HeaderMap::new() };
        client.with("accept", BOTH).with("content-type", "application/json")
    }

    /// The same client with another header, or without it where `value` is empty.
    pub(crate) fn with(&self, name: &str, value: &str) -> Self {
        let mut other = self.clone();
        let name = HeaderName::try_from(name).unwrap();
        if value.is_empty() {
            other.headers.remove(name);
        } else {
            other.headers.insert(name, HeaderValue::from_str(value).unwrap());
        }
        other
    }

    pub(crate) async fn send(&self, method: Method, body: impl Into<reqwest::Body>) -> Response {
        let request = self.http.request(method, &self.url).headers(self.headers.clone()).body(body);
        within(request.send()).await.unwrap()
    }

    pub(crate) async fn post_text(&self, body: impl Into<reqwest::Body>) -> Response {
        self.send(Method::POST, body).await
    }

    pub(crate) async fn post(&self, body: Value) -> Response {
        self.post_text(body.to_string()).await
    }

    pub(crate) async fn get(&self) -> Events {
        let response = self.with("accept", "text/event-stream").send(Method::GET, "").await;
        Events::of(response)
    }

    /// Goes on with a stream that broke off.
    pub(crate) async fn resume(&self, last_id: &str) -> Response {
        self.with("accept", "text/event-stream").with("last-event-id", last_id).send(Method::GET, "").await
    }

    /// Opens a legacy session; the client that comes back is in it.
    pub(crate) async fn initialize(&self, capabilities: Value) -> Self {
        self.initialize_at("2025-06-18", capabilities).await
    }

    pub(crate) async fn initialize_at(&self, version: &str, capabilities: Value) -> Self {
        let info = json!({"name": "test", "version": "1"});
        let params = json!({"protocolVersion": version, "capabilities": capabilities, "clientInfo": info});
        let response = self.post(json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})).await;
        assert_eq!(response.status(), 200);
        let id = response.headers()["mcp-session-id"].to_str().unwrap().to_owned();
        let body: Value = within(response.json()).await.unwrap();
        assert_eq!(body["result"]["protocolVersion"], version);
        let client = self.with("mcp-session-id", &id).with("mcp-protocol-version", version);
        let response = client.post(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        assert_eq!(response.status(), 202);
        client
    }

    /// A modern request: the headers are those that its body asks for.
    pub(crate) async fn modern(&self, id: Value, method: &str, params: Value) -> Response {
        self.modern_with(id, method, params, json!({})).await
    }

    pub(crate) async fn modern_with(&self, id: Value, method: &str, mut params: Value, meta: Value) -> Response {
        let mut whole = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        whole.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        let name = params.get("name").or(params.get("uri")).and_then(Value::as_str).unwrap_or_default().to_owned();
        params["_meta"] = whole;
        let client = self.with("mcp-protocol-version", "2026-07-28").with("mcp-method", method).with("mcp-name", &name);
        client.post(json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await
    }
}

/// The JSON of an answer that must be one.
pub(crate) async fn body(response: Response) -> Value {
    let text = within(response.text()).await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Status and JSON of an answer.
pub(crate) async fn outcome(response: Response) -> (u16, Value) {
    (response.status().as_u16(), body(response).await)
}

/// A stream of server-sent events, read one by one.
pub(crate) struct Events {
    response: Response,
    text: String,
    /// The id of the last event that had one.
    pub(crate) last_id: String,
}

impl Events {
    pub(crate) fn of(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store, no-transform");
        Self { response, text: String::new(), last_id: String::new() }
    }

    /// The next block of the stream, comments included; `None` at its end.
    pub(crate) async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(block);
            }
            let chunk = within(self.response.chunk()).await.unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The next message; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            let block = self.block().await?;
            if block.starts_with(':') {
                continue;
            }
            let mut message = &block[..];
            if let Some((id, rest)) = block.strip_prefix("id: ").and_then(|block| block.split_once('\n')) {
                id.clone_into(&mut self.last_id);
                message = rest;
            }
            if message == "retry: 5000\ndata:" {
                continue;
            }
            let data = message.strip_prefix("event: message\ndata: ").unwrap_or_else(|| panic!("odd event {block:?}"));
            return Some(serde_json::from_str(data).unwrap());
        }
    }

    /// All messages up to the end.
    pub(crate) async fn rest(mut self) -> Vec<Value> {
        let mut all = Vec::new();
        while let Some(message) = self.next().await {
            all.push(message);
        }
        all
    }
}
