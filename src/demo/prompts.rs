//! Two prompts, and the completion of what they and the notes' template ask for.

use serde_json::{Value, json};

use super::notes::Notes;
use super::resources::{self, TEMPLATE};
use super::wire::{Object, RpcError};

const TONES: [&str; 5] = ["cheerful", "dry", "formal", "piratical", "poetic"];

/// How many values one completion may hold, by the specification.
const MAX_VALUES: usize = 100;

pub(super) fn list() -> Value {
    json!({ "prompts": [
        {
            "name": "summarize_notes",
            "title": "Summarize my notes",
            "description": "All notes in one short paragraph",
        },
        {
            "name": "draft_note",
            "title": "Draft a note",
            "description": "A new note about a topic, in a tone of your choice",
            "arguments": [
                { "name": "topic", "description": "What the note is about", "required": true },
                { "name": "tone", "description": "How it shall sound, e.g. dry or poetic", "required": false },
            ],
        },
    ] })
}

pub(super) fn get(notes: &Notes, params: &Object) -> Result<Value, RpcError> {
    let name = params.get("name").and_then(Value::as_str);
    let name = name.ok_or_else(|| RpcError::invalid_params("`name` is missing"))?;
    let argument = |key: &str| params.get("arguments").and_then(|all| all.get(key)).and_then(Value::as_str);
    match name {
        "summarize_notes" => {
            let said = std::iter::once(text("Summarize these notes in one short paragraph."));
            let shown = notes.iter().map(|note| json!({ "type": "resource", "resource": resources::contents(note) }));
            Ok(prompt("All notes in one short paragraph", said.chain(shown)))
        }
        "draft_note" => {
            let topic = argument("topic").ok_or_else(|| RpcError::invalid_params("`topic` is missing"))?;
            let tone = argument("tone").unwrap_or("cheerful");
            let said = format!("Write a short note about {topic} in a {tone} tone, then keep it with `add_note`.");
            Ok(prompt("A new note", std::iter::once(text(&said))))
        }
        _ => Err(RpcError::invalid_params(format!("Unknown prompt: {name}"))),
    }
}

/// `completion/complete`: the numbers of the notes, and the tones. Anything else has no suggestions, which is no error.
pub(super) fn complete(notes: &Notes, params: &Object) -> Result<Value, RpcError> {
    let member =
        |outer: &str, inner: &str| params.get(outer).and_then(|value| value.get(inner)).and_then(Value::as_str);
    let (Some(kind), Some(argument), Some(begun)) =
        (member("ref", "type"), member("argument", "name"), member("argument", "value"))
    else {
        return Err(RpcError::invalid_params("`ref.type`, `argument.name` and `argument.value` are needed"));
    };
    let known: Vec<String> = match (kind, argument) {
        ("ref/resource", "id") if member("ref", "uri") == Some(TEMPLATE) => {
            notes.iter().map(|note| note.id.to_string()).collect()
        }
        ("ref/prompt", "tone") if member("ref", "name") == Some("draft_note") => TONES.map(str::to_owned).to_vec(),
        _ => Vec::new(),
    };
    let fitting: Vec<_> = known.into_iter().filter(|value| value.starts_with(begun)).collect();
    let values = &fitting[..fitting.len().min(MAX_VALUES)];
    Ok(json!({ "completion": {
        "values": values,
        "total": fitting.len(),
        "hasMore": values.len() < fitting.len(),
    } }))
}

fn prompt(description: &str, contents: impl Iterator<Item = Value>) -> Value {
    let messages: Vec<_> = contents.map(|content| json!({ "role": "user", "content": content })).collect();
    json!({ "description": description, "messages": messages })
}

fn text(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: &Value) -> Object {
        value.as_object().expect("the test wrote an object").clone()
    }

    #[test]
    fn a_prompt_needs_its_name_and_topic() {
        let notes = Notes::default();
        for (params, served) in [
            (json!({ "name": "summarize_notes" }), true),
            (json!({ "name": "draft_note", "arguments": { "topic": "tea" } }), true),
            (json!({ "name": "draft_note", "arguments": {} }), false),
            (json!({ "name": "draft_note", "arguments": { "topic": 7 } }), false),
            (json!({ "name": "sing" }), false),
            (json!({}), false),
        ] {
            let code = get(&notes, &object(&params)).map_err(|error| error.code);
            assert_eq!(code.is_ok(), served, "{params}");
            assert!(code.is_ok() || code == Err(-32602), "{params}");
        }
    }

    #[test]
    fn completion_knows_notes_and_tones() {
        let notes = Notes::default();
        let template = || json!({ "type": "ref/resource", "uri": TEMPLATE });
        let draft = || json!({ "type": "ref/prompt", "name": "draft_note" });
        for (reference, name, value, suggested) in [
            (template(), "id", "", vec!["1"]),
            (template(), "id", "2", vec![]),
            (draft(), "tone", "p", vec!["piratical", "poetic"]),
            (draft(), "topic", "", vec![]),
        ] {
            let asked = json!({ "ref": reference, "argument": { "name": name, "value": value } });
            let answer = complete(&notes, &object(&asked)).expect("a complete question");
            assert_eq!(answer["completion"]["values"], json!(suggested), "{asked}");
        }
        assert!(complete(&notes, &Object::new()).is_err());
    }
}
