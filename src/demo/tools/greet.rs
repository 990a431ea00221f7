//! `greet`: asks the human for a name. In a session that is a request of the server's own; a modern client gets the
//! question as the result, and calls again with the answer.

use serde_json::{Value, json};

use super::super::call::Call;
use super::super::era::Caller;
use super::super::wire::{Object, RpcError};
use super::{Arguments, Called, failed, said};

/// The key of our one question.
const QUESTION: &str = "name";

/// What we know when the answer comes: that it was asked. A client that sends another state has made it up.
const STATE: &str = "greet:name";

pub(super) fn describe() -> Value {
    json!({
        "name": "greet",
        "title": "Greet me",
        "description": "Asks for your name, then greets you. Shows how a server asks its user something.",
        "inputSchema": {
            "type": "object",
            "properties": { "greeting": { "type": "string", "default": "Hello", "description": "E.g. Ahoy" } },
        },
        "annotations": { "readOnlyHint": true, "openWorldHint": false },
    })
}

pub(super) fn call(arguments: &Arguments<'_>, params: &Object, call: Call) -> Result<Called, RpcError> {
    let greeting = match arguments.get("greeting") {
        None => "Hello",
        Some(_) => match arguments.text("greeting") {
            Ok(greeting) => greeting,
            Err(reason) => return Ok(Called::Done(failed(&reason))),
        },
    };
    match call.caller {
        Caller::Legacy(session) if session.can_elicit => Ok(ask(greeting.to_owned(), call)),
        // Most clients that hold sessions cannot ask. That is no reason not to be polite.
        Caller::Legacy(_) => {
            let text =
                format!("{greeting}, stranger! (Your client does not show questions, so I could not ask your name.)");
            Ok(Called::Done(said(&text)))
        }
        Caller::Modern { can_elicit: true, .. } => answered(greeting, params).map(Called::Done),
        Caller::Modern { .. } => Err(RpcError::missing_capability(&json!({ "elicitation": { "form": {} } }))),
    }
}

fn ask(greeting: String, call: Call) -> Called {
    Called::Running(Box::pin(async move {
        // Without `mode`: until 2025-11-25 there was but one, and it is still the default.
        Ok(match call.peer.ask("elicitation/create", &form()).await {
            Ok(answer) => reply(&greeting, &answer).unwrap_or_else(|| failed("that form came back without a name")),
            Err(error) => failed(&format!("your client could not ask: {}", error.message)),
        })
    }))
}

/// The answer in the request, if there is one, else the question.
fn answered(greeting: &str, params: &Object) -> Result<Value, RpcError> {
    match params.get("requestState") {
        None => return Ok(question()),
        Some(state) if state == STATE => {}
        Some(_) => return Err(RpcError::invalid_params("Invalid requestState")),
    }
    let answer = params.get("inputResponses").and_then(|answers| answers.get(QUESTION));
    Ok(answer.and_then(|answer| reply(greeting, answer)).unwrap_or_else(question))
}

fn question() -> Value {
    let mut params = form();
    params["mode"] = "form".into();
    json!({
        "resultType": "input_required",
        "inputRequests": { QUESTION: { "method": "elicitation/create", "params": params } },
        "requestState": STATE,
    })
}

fn form() -> Value {
    json!({
        "message": "What shall I call you?",
        "requestedSchema": {
            "type": "object",
            "properties": { QUESTION: { "type": "string", "title": "Your name", "minLength": 1, "maxLength": 100 } },
            "required": [QUESTION],
        },
    })
}

/// What to say to this answer; nothing if it is none.
fn reply(greeting: &str, answer: &Value) -> Option<Value> {
    match answer["action"].as_str()? {
        "accept" => {
            let name = answer["content"][QUESTION].as_str()?.trim();
            (!name.is_empty()).then(|| said(&format!("{greeting}, {name}!")))
        }
        "decline" => Some(said(&format!("{greeting}, whoever you are!"))),
        "cancel" => Some(said("Never mind. Another time!")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_gets_its_reply() {
        for (answer, text) in [
            (json!({ "action": "accept", "content": { "name": " Ada " } }), Some("Hello, Ada!")),
            (json!({ "action": "decline" }), Some("Hello, whoever you are!")),
            (json!({ "action": "cancel" }), Some("Never mind. Another time!")),
            (json!({ "action": "accept", "content": { "name": "" } }), None),
            (json!({ "action": "accept", "content": { "name": 7 } }), None),
            (json!({ "action": "accept" }), None),
            (json!({ "action": "shrug" }), None),
            (json!("accept"), None),
        ] {
            let said = reply("Hello", &answer);
            let said = said.as_ref().map(|result| result["content"][0]["text"].as_str().expect("a text"));
            assert_eq!(said, text, "{answer}");
        }
    }

    #[test]
    fn a_modern_client_is_asked_until_it_answers() {
        let accepted = json!({ "name": { "action": "accept", "content": { "name": "Ada" } } });
        for (params, outcome) in [
            (json!({}), Ok(true)),
            (json!({ "requestState": STATE }), Ok(true)),
            (json!({ "requestState": STATE, "inputResponses": { "other": {} } }), Ok(true)),
            (json!({ "requestState": STATE, "inputResponses": accepted }), Ok(false)),
            (json!({ "inputResponses": accepted }), Ok(true)), // an answer to a question never asked
            (json!({ "requestState": "made up", "inputResponses": accepted }), Err(-32602)),
        ] {
            let result = answered("Hello", params.as_object().expect("the test wrote an object"));
            let asked = result.map(|result| result["resultType"] == "input_required").map_err(|error| error.code);
            assert_eq!(asked, outcome, "{params}");
        }
    }
}
