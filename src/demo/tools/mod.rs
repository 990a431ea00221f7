//! The tools, and what they have in common; a file for each subject.

mod clock;
mod count;
mod greet;
mod jot;

use std::future::Future;
use std::pin::Pin;

use serde_json::{Value, json};

use super::call::Call;
use super::notes::{Change, Notes};
use super::wire::{Object, RpcError};

/// How a call goes on.
pub(super) enum Called {
    Done(Value),
    /// Done, and the notes are not what they were.
    Changed(Value, Vec<Change>),
    /// Takes its time; nobody else waits for it. Dropping it cancels it.
    Running(Pin<Box<dyn Future<Output = Result<Value, RpcError>> + Send>>),
}

pub(super) fn list() -> Value {
    let mut tools = vec![json!({
        "name": "echo",
        "title": "Echo",
        "description": "Returns the message as it is. The shortest way to see that everything in between works.",
        "inputSchema": {
            "type": "object",
            "properties": { "message": { "type": "string", "description": "What to send back" } },
            "required": ["message"],
        },
        "annotations": { "readOnlyHint": true, "idempotentHint": true, "openWorldHint": false },
    })];
    tools.push(clock::describe());
    tools.extend(jot::describe());
    tools.push(count::describe());
    tools.push(greet::describe());
    json!({ "tools": tools })
}

/// Arguments that do not fit come back as a result the model can read and learn from; only a tool that does not exist
/// is an error of the protocol.
pub(super) fn call(params: &Object, call: Call, notes: &mut Notes) -> Result<Called, RpcError> {
    let name = params.get("name").and_then(Value::as_str);
    let name = name.ok_or_else(|| RpcError::invalid_params("`name` is missing"))?;
    let arguments = Arguments(params.get("arguments").and_then(Value::as_object));
    let called = match name {
        "echo" => arguments.text("message").map(|message| Called::Done(said(message))),
        "time" => clock::call(&arguments).map(Called::Done),
        "add_note" => jot::add(&arguments, call.caller, notes),
        "list_notes" => Ok(Called::Done(jot::list(notes))),
        "edit_note" => jot::edit(&arguments, notes),
        "delete_note" => jot::delete(&arguments, notes),
        "count" => count::call(&arguments, call),
        "greet" => return greet::call(&arguments, params, call),
        _ => return Err(RpcError::invalid_params(format!("Unknown tool: {name}"))),
    };
    Ok(called.unwrap_or_else(|reason| Called::Done(failed(&reason))))
}

/// The arguments of a call; the errors are for the model that made it.
struct Arguments<'a>(Option<&'a Object>);

impl Arguments<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.and_then(|arguments| arguments.get(name)).filter(|value| !value.is_null())
    }

    fn text(&self, name: &str) -> Result<&str, String> {
        let value = self.get(name).ok_or_else(|| format!("the argument `{name}` is missing"))?;
        value.as_str().ok_or_else(|| format!("the argument `{name}` is a string"))
    }

    fn integer(&self, name: &str, default: Option<i64>, within: std::ops::RangeInclusive<i64>) -> Result<i64, String> {
        let value = match (self.get(name), default) {
            (None, Some(default)) => return Ok(default),
            (None, None) => return Err(format!("the argument `{name}` is missing")),
            (Some(value), _) => value.as_i64(),
        };
        value
            .filter(|value| within.contains(value))
            .ok_or_else(|| format!("the argument `{name}` is an integer from {} to {}", within.start(), within.end()))
    }
}

/// A result of one text.
fn said(text: &str) -> Value {
    json!({ "content": [{ "type": "text", "text": text }] })
}

/// A result of one text for people and the same as data for programs.
fn told(text: &str, structured: Value) -> Value {
    let mut result = said(text);
    result["structuredContent"] = structured;
    result
}

/// A tool that could not: a result, so that the model sees the reason.
fn failed(reason: &str) -> Value {
    let mut result = said(reason);
    result["isError"] = true.into();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_is_described_for_people_and_programs() {
        let tools = list();
        for tool in tools["tools"].as_array().expect("an array") {
            assert!(tool["title"].is_string() && tool["description"].is_string(), "{tool}");
            assert_eq!(tool["inputSchema"]["type"], "object", "{tool}");
            assert!(tool["annotations"]["readOnlyHint"].is_boolean(), "{tool}");
            assert!(tool.get("outputSchema").is_none_or(|schema| schema["type"] == "object"), "{tool}");
        }
    }

    #[test]
    fn integers_are_checked() {
        let given = json!({ "n": 5, "fraction": 1.5, "text": "5", "nothing": null });
        let arguments = Arguments(given.as_object());
        assert_eq!(arguments.integer("n", None, 1..=5), Ok(5));
        assert!(arguments.integer("n", None, 1..=4).is_err());
        assert!(arguments.integer("fraction", None, 1..=4).is_err());
        assert!(arguments.integer("text", Some(1), 1..=9).is_err());
        assert_eq!(arguments.integer("nothing", Some(2), 1..=9), Ok(2));
        assert!(Arguments(None).integer("n", None, 1..=5).is_err());
    }
}
