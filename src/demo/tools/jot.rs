//! `add_note`, `list_notes`, `edit_note`, `delete_note`.

use serde_json::{Value, json};

use super::super::era::Caller;
use super::super::notes::{Note, Notes};
use super::super::resources;
use super::{Arguments, Called, told};

pub(super) fn describe() -> [Value; 4] {
    let id = json!({ "type": "integer", "minimum": 1, "description": "The number of the note" });
    let text = json!({ "type": "string", "description": "The text; its first line is the title" });
    let note = json!({
        "type": "object",
        "properties": {
            "id": { "type": "integer" },
            "uri": { "type": "string", "description": "Where the note can be read as a resource" },
            "title": { "type": "string" },
            "text": { "type": "string" },
        },
        "required": ["id", "uri", "title", "text"],
    });
    [
        json!({
            "name": "add_note",
            "title": "Add a note",
            "description": "Keeps a text until the server stops. Every note is a resource, too.",
            "inputSchema": { "type": "object", "properties": { "text": text }, "required": ["text"] },
            "outputSchema": note,
            "annotations": { "readOnlyHint": false, "destructiveHint": false, "openWorldHint": false },
        }),
        json!({
            "name": "list_notes",
            "title": "List the notes",
            "description": "All notes with their numbers and texts.",
            "inputSchema": { "type": "object", "properties": {} },
            "outputSchema": {
                "type": "object",
                "properties": { "notes": { "type": "array", "items": note } },
                "required": ["notes"],
            },
            "annotations": { "readOnlyHint": true, "openWorldHint": false },
        }),
        json!({
            "name": "edit_note",
            "title": "Edit a note",
            "description": "Replaces the text of a note.",
            "inputSchema": { "type": "object", "properties": { "id": id, "text": text }, "required": ["id", "text"] },
            "outputSchema": note,
            "annotations": {
                "readOnlyHint": false, "destructiveHint": true, "idempotentHint": true, "openWorldHint": false,
            },
        }),
        json!({
            "name": "delete_note",
            "title": "Delete a note",
            "description": "Forgets a note for good.",
            "inputSchema": { "type": "object", "properties": { "id": id }, "required": ["id"] },
            "outputSchema": note,
            "annotations": { "readOnlyHint": false, "destructiveHint": true, "openWorldHint": false },
        }),
    ]
}

pub(super) fn add(arguments: &Arguments<'_>, caller: Caller, notes: &mut Notes) -> Result<Called, String> {
    let (note, changes) = notes.add(arguments.text("text")?)?;
    let mut result = told(&format!("Kept as note {}.", note.id), note.to_value());
    if caller.knows_resource_links()
        && let Some(content) = result["content"].as_array_mut()
    {
        let mut link = resources::describe(note);
        link["type"] = "resource_link".into();
        content.push(link);
    }
    Ok(Called::Changed(result, changes))
}

pub(super) fn list(notes: &Notes) -> Value {
    let all: Vec<_> = notes.iter().map(Note::to_value).collect();
    let mut text: Vec<_> = notes.iter().map(|note| format!("{}. {}", note.id, note.title())).collect();
    if text.is_empty() {
        text.push("No notes yet; `add_note` keeps one.".to_owned());
    }
    told(&text.join("\n"), json!({ "notes": all }))
}

pub(super) fn edit(arguments: &Arguments<'_>, notes: &mut Notes) -> Result<Called, String> {
    let (note, changes) = notes.edit(id(arguments)?, arguments.text("text")?)?;
    Ok(Called::Changed(told(&format!("Note {} is changed.", note.id), note.to_value()), changes))
}

pub(super) fn delete(arguments: &Arguments<'_>, notes: &mut Notes) -> Result<Called, String> {
    let (note, changes) = notes.delete(id(arguments)?)?;
    Ok(Called::Changed(told(&format!("Note {} is gone.", note.id), note.to_value()), changes))
}

fn id(arguments: &Arguments<'_>) -> Result<u64, String> {
    let id = arguments.integer("id", None, 1..=i64::MAX)?;
    u64::try_from(id).map_err(|_| "the argument `id` is too large".to_owned())
}
