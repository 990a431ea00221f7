//! Notes, kept in memory until the process ends.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Bounds on what a stranger can make this process hold.
const MAX_NOTES: usize = 1000;
const MAX_TEXT: usize = 64 * 1024;
const TITLE: usize = 60;

const SCHEME: &str = "note:///";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) id: u64,
    pub(super) text: String,
}

impl Note {
    pub(super) fn uri(&self) -> String {
        uri(self.id)
    }

    /// The first line, shortened.
    pub(super) fn title(&self) -> String {
        let first = self.text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("Untitled");
        if first.chars().count() <= TITLE {
            return first.to_owned();
        }
        first.chars().take(TITLE - 1).chain(['…']).collect()
    }

    pub(super) fn to_value(&self) -> Value {
        json!({ "id": self.id, "uri": self.uri(), "title": self.title(), "text": self.text })
    }
}

/// What a client that watches the notes has to hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Other notes, or other titles, than before.
    List,
    /// Another text at this URI.
    Text(String),
}

#[derive(Debug)]
pub(super) struct Notes {
    by_id: BTreeMap<u64, Note>,
    last: u64,
}

impl Default for Notes {
    /// One note is there from the start, so that there is something to read.
    fn default() -> Self {
        let text =
            "Welcome to ferry\n\nThis note lives in the memory of the demo server. Add your own with `add_note`.";
        Self { by_id: BTreeMap::from([(1, Note { id: 1, text: text.to_owned() })]), last: 1 }
    }
}

impl Notes {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Note> {
        self.by_id.values()
    }

    pub(super) fn get(&self, id: u64) -> Option<&Note> {
        self.by_id.get(&id)
    }

    pub(super) fn at(&self, uri: &str) -> Option<&Note> {
        let id = uri.strip_prefix(SCHEME)?.parse().ok()?;
        self.get(id).filter(|note| note.uri() == uri) // `+7` and `007` parse too, but name no note
    }

    pub(super) fn add(&mut self, text: &str) -> Result<(&Note, Vec<Change>), String> {
        check(text)?;
        if self.by_id.len() >= MAX_NOTES {
            return Err(format!("there are {MAX_NOTES} notes already; delete some first"));
        }
        self.last += 1;
        let note = Note { id: self.last, text: text.to_owned() };
        Ok((self.by_id.entry(self.last).or_insert(note), vec![Change::List]))
    }

    pub(super) fn edit(&mut self, id: u64, text: &str) -> Result<(&Note, Vec<Change>), String> {
        check(text)?;
        let note = self.by_id.get_mut(&id).ok_or_else(|| missing(id))?;
        let title = note.title();
        text.clone_into(&mut note.text);
        let mut changes = vec![Change::Text(note.uri())];
        if note.title() != title {
            changes.push(Change::List);
        }
        Ok((note, changes))
    }

    pub(super) fn delete(&mut self, id: u64) -> Result<(Note, Vec<Change>), String> {
        let note = self.by_id.remove(&id).ok_or_else(|| missing(id))?;
        let changes = vec![Change::Text(note.uri()), Change::List];
        Ok((note, changes))
    }
}

fn uri(id: u64) -> String {
    format!("{SCHEME}{id}")
}

fn missing(id: u64) -> String {
    format!("there is no note {id}; `list_notes` shows those there are")
}

fn check(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err("a note needs some text".to_owned());
    }
    if text.len() > MAX_TEXT {
        return Err(format!("a note holds up to {} KiB of text", MAX_TEXT / 1024));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_to_those_they_concern() {
        let mut notes = Notes::default();
        let (note, changes) = notes.add("milk").expect("there is room");
        assert_eq!((note.id, changes), (2, vec![Change::List]));
        let same_title = notes.edit(2, "milk\nand bread").expect("it is there").1;
        assert_eq!(same_title, [Change::Text("note:///2".into())]);
        let new_title = notes.edit(2, "bread").expect("it is there").1;
        assert_eq!(new_title, [Change::Text("note:///2".into()), Change::List]);
        assert_eq!(notes.delete(2).expect("it is there").1, [Change::Text("note:///2".into()), Change::List]);
        assert!(notes.delete(2).is_err() && notes.edit(2, "x").is_err());
        assert_eq!(notes.add("again").expect("there is room").0.id, 3, "an id is not used twice");
    }

    #[test]
    fn a_note_has_one_uri() {
        let notes = Notes::default();
        for (uri, found) in [
            ("note:///1", true),
            ("note:///01", false),
            ("note:///+1", false),
            ("note:///2", false),
            ("note:///", false),
            ("file:///1", false),
        ] {
            assert_eq!(notes.at(uri).is_some(), found, "{uri}");
        }
    }

    #[test]
    fn what_a_note_holds_is_bounded() {
        let mut notes = Notes::default();
        assert!(notes.add("  \n").is_err());
        assert!(notes.add(&"x".repeat(MAX_TEXT + 1)).is_err());
        for _ in 1..MAX_NOTES {
            notes.add("x").expect("there is room");
        }
        assert!(notes.add("x").is_err());
    }

    #[test]
    fn a_title_is_the_first_line_shortened() {
        let title = |text: &str| Note { id: 1, text: text.to_owned() }.title();
        assert_eq!(title("\n  milk \nbread"), "milk");
        assert_eq!(title(&"ä".repeat(61)).chars().count(), 60);
    }
}
