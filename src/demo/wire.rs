//! JSON-RPC as it stands on one line: what comes in, and the errors that go out.

use serde_json::{Map, Value, json};

pub(super) type Object = Map<String, Value>;

/// One line, understood.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    Request { id: Value, method: String, params: Object },
    Notification { method: String, params: Object },
    Response { id: Value, outcome: Result<Value, RpcError> },
}

/// A line that is no message, with the error it gets. Without an id where none could be read: the schemas of MCP have
/// no `null` there.
#[derive(Debug, PartialEq)]
pub(super) struct Refused {
    pub(super) id: Option<Value>,
    pub(super) error: RpcError,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct RpcError {
    pub(super) code: i64,
    pub(super) message: String,
    pub(super) data: Option<Value>,
}

impl RpcError {
    fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    fn with(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    pub(super) fn parse_error(message: impl Into<String>) -> Self {
        Self::new(-32700, message)
    }

    pub(super) fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(-32600, message)
    }

    pub(super) fn method_not_found(method: &str) -> Self {
        Self::new(-32601, format!("Method not found: {method}"))
    }

    pub(super) fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(-32602, message)
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(-32603, message)
    }

    /// Both eras say "no such resource", each by a code of its own.
    pub(super) fn resource_not_found(uri: &str, modern: bool) -> Self {
        let code = if modern { -32602 } else { -32002 };
        Self::new(code, format!("Resource not found: {uri}")).with(json!({ "uri": uri }))
    }

    pub(super) fn missing_capability(required: &Value) -> Self {
        Self::new(-32021, "The client lacks a capability this request needs")
            .with(json!({ "requiredCapabilities": required }))
    }

    pub(super) fn unsupported_version(supported: &[&str], requested: Option<&str>) -> Self {
        let mut data = json!({ "supported": supported });
        if let Some(requested) = requested {
            data["requested"] = requested.into();
        }
        Self::new(-32022, "Unsupported protocol version").with(data)
    }

    fn to_value(&self) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(data) = &self.data {
            error["data"] = data.clone();
        }
        error
    }

    fn from_value(error: &Value) -> Self {
        Self {
            code: error["code"].as_i64().unwrap_or(-32603),
            message: error["message"].as_str().unwrap_or("no message").to_owned(),
            data: error.get("data").cloned(),
        }
    }
}

impl Message {
    pub(super) fn parse(line: &[u8]) -> Result<Self, Refused> {
        let refuse = |id: Option<Value>, error| Err(Refused { id, error });
        let mut members = match serde_json::from_slice(line) {
            Ok(Value::Object(members)) => members,
            Ok(_) => return refuse(None, RpcError::invalid_request("a message is one JSON object")),
            Err(error) => return refuse(None, RpcError::parse_error(format!("Parse error: {error}"))),
        };
        let id = members.remove("id");
        if id.as_ref().is_some_and(|id| !id.is_string() && !id.is_number()) {
            return refuse(None, RpcError::invalid_request("`id` is a string or a number"));
        }
        if members.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
            return refuse(id, RpcError::invalid_request("`jsonrpc` is \"2.0\""));
        }
        match (id, members.remove("method"), members.remove("params")) {
            (Some(id), Some(Value::String(method)), None) => Ok(Self::Request { id, method, params: Object::new() }),
            (Some(id), Some(Value::String(method)), Some(Value::Object(params))) => {
                Ok(Self::Request { id, method, params })
            }
            (Some(id), Some(Value::String(_)), Some(_)) => {
                refuse(Some(id), RpcError::invalid_request("`params` is an object"))
            }
            // Nobody waits for an answer to a notification, not even to a bad one.
            (None, Some(Value::String(method)), params) => {
                let params = if let Some(Value::Object(params)) = params { params } else { Object::new() };
                Ok(Self::Notification { method, params })
            }
            (Some(id), None, _) => match (members.remove("result"), members.remove("error")) {
                (Some(result), None) => Ok(Self::Response { id, outcome: Ok(result) }),
                (None, Some(error)) => Ok(Self::Response { id, outcome: Err(RpcError::from_value(&error)) }),
                _ => refuse(Some(id), RpcError::invalid_request("neither a request nor a response")),
            },
            (id, _, _) => refuse(id, RpcError::invalid_request("`method` is a string")),
        }
    }
}

pub(super) fn request(id: i64, method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

pub(super) fn notification(method: &str, params: Value) -> Value {
    let mut message = json!({ "jsonrpc": "2.0", "method": method });
    if !params.is_null() {
        message["params"] = params;
    }
    message
}

pub(super) fn response(id: Option<&Value>, outcome: Result<Value, RpcError>) -> Value {
    let mut message = json!({ "jsonrpc": "2.0" });
    if let Some(id) = id {
        message["id"] = id.clone();
    }
    match outcome {
        Ok(result) => message["result"] = result,
        Err(error) => message["error"] = error.to_value(),
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_what_it_is() {
        let object = |value: Value| value.as_object().expect("the test wrote an object").clone();
        for (line, message) in [
            (
                r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#,
                Message::Request { id: json!(0), method: "ping".into(), params: Object::new() },
            ),
            (
                r#"{"jsonrpc":"2.0","id":"a","method":"m","params":{"b":1}}"#,
                Message::Request { id: json!("a"), method: "m".into(), params: object(json!({ "b": 1 })) },
            ),
            (
                r#"{"jsonrpc":"2.0","method":"n","params":[1]}"#,
                Message::Notification { method: "n".into(), params: Object::new() },
            ),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, Message::Response { id: json!(1), outcome: Ok(json!({})) }),
            (
                r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"no"}}"#,
                Message::Response { id: json!(1), outcome: Err(RpcError::new(-1, "no")) },
            ),
        ] {
            assert_eq!(Message::parse(line.as_bytes()), Ok(message), "{line}");
        }
    }

    #[test]
    fn a_line_that_is_no_message_is_refused_with_its_id_if_that_can_be_read() {
        for (line, id, code) in [
            ("{", None, -32700),
            ("\u{1}", None, -32700),
            ("[]", None, -32600),
            ("1", None, -32600),
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, None, -32600),
            (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, None, -32600),
            (r#"{"id":1,"method":"ping"}"#, Some(json!(1)), -32600),
            (r#"{"jsonrpc":"2.0","id":1}"#, Some(json!(1)), -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, Some(json!(1)), -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#, Some(json!(1)), -32600),
            (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#, Some(json!(1)), -32600),
        ] {
            let refused = Message::parse(line.as_bytes()).expect_err(line);
            assert_eq!((refused.id, refused.error.code), (id, code), "{line}");
        }
        assert!(Message::parse(b"{\"a\":\"\xff\"}").is_err(), "bytes that are no UTF-8");
    }
}
