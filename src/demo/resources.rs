//! The notes, as MCP shows them: a list, a template, a text.

use serde_json::{Value, json};

use super::era::Caller;
use super::notes::{Note, Notes};
use super::wire::{Object, RpcError};

pub(super) const TEMPLATE: &str = "note:///{id}";

pub(super) fn list(notes: &Notes) -> Value {
    let resources: Vec<_> = notes.iter().map(describe).collect();
    json!({ "resources": resources })
}

pub(super) fn templates() -> Value {
    json!({ "resourceTemplates": [{
        "uriTemplate": TEMPLATE,
        "name": "note",
        "title": "A note",
        "description": "The text of one note, by its number",
        "mimeType": "text/plain",
    }] })
}

pub(super) fn read(notes: &Notes, params: &Object, caller: Caller) -> Result<Value, RpcError> {
    find(notes, params, caller).map(|note| json!({ "contents": [contents(note)] }))
}

/// The note that `params.uri` names.
pub(super) fn find<'a>(notes: &'a Notes, params: &Object, caller: Caller) -> Result<&'a Note, RpcError> {
    let uri = params.get("uri").and_then(Value::as_str);
    let uri = uri.ok_or_else(|| RpcError::invalid_params("`uri` is missing"))?;
    notes.at(uri).ok_or_else(|| RpcError::resource_not_found(uri, caller.is_modern()))
}

pub(super) fn describe(note: &Note) -> Value {
    json!({
        "uri": note.uri(),
        "name": format!("note-{}", note.id),
        "title": note.title(),
        "mimeType": "text/plain",
        "size": note.text.len(),
    })
}

pub(super) fn contents(note: &Note) -> Value {
    json!({ "uri": note.uri(), "mimeType": "text/plain", "text": note.text })
}
