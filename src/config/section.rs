//! One table of the file: its keys against those that are declared, its values against their types. Knows nothing of what
//! the tables mean.

use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeOwned, Deserializer, Visitor};
use serde::forward_to_deserialize_any;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// One thing that is wrong in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Its line, from 1.
    pub line: usize,
    /// What is wrong, with the nearest right thing if there is one.
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

/// The text, and what was found to be wrong in it so far.
pub(super) struct Reader<'t> {
    pub(super) text: &'t str,
    pub(super) faults: Vec<Fault>,
}

impl Reader<'_> {
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        self.text.as_bytes().iter().take(span.start).filter(|byte| **byte == b'\n').count() + 1
    }

    pub(super) fn fault(&self, span: &Range<usize>, text: String) -> Fault {
        Fault { line: self.line(span), text }
    }

    pub(super) fn note(&mut self, span: &Range<usize>, text: String) {
        let fault = self.fault(span, text);
        self.faults.push(fault);
    }

    /// The table without the keys that nobody knows.
    pub(super) fn known<'d>(
        &mut self,
        table: DeTable<'d>,
        keys: &[&str],
        place: &str,
        not_yet: &[&str],
    ) -> DeTable<'d> {
        let mut known = DeTable::new();
        for (key, value) in table {
            let name: &str = key.get_ref();
            if keys.contains(&name) {
                known.insert(key, value);
            } else if not_yet.contains(&name) {
                let text = format!(
                    "`{name}` is not in this version of ferry, and without it the server would not be as you want it"
                );
                self.note(&key.span(), text);
            } else {
                let near = nearest(name, keys.iter().chain(not_yet).copied());
                let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                self.note(&key.span(), format!("unknown key `{}` {place}{near}", name.escape_debug()));
            }
        }
        known
    }

    /// Reads one table. Where a value is wrong the rest is read nevertheless, for its faults.
    pub(super) fn section<T: DeserializeOwned>(
        &mut self,
        table: Spanned<DeValue<'_>>,
        place: &str,
        not_yet: &[&str],
    ) -> Option<T> {
        let span = table.span();
        let DeValue::Table(table) = table.into_inner() else {
            self.note(&span, format!("`{place}` is a table"));
            return None;
        };
        let mut table = self.known(table, keys::<T>(), &format!("in `{place}`"), not_yet);
        let mut wrong: Vec<String> = Vec::new();
        loop {
            let value = Spanned::new(span.clone(), DeValue::Table(table.clone()));
            let error = match T::deserialize(ValueDeserializer::from(value)) {
                Ok(read) if wrong.is_empty() => return Some(read),
                Ok(_) => return None,
                Err(error) => error,
            };
            let at = error.span().unwrap_or_else(|| span.clone());
            let key = table.iter().find(|(key, value)| covers(&key.span(), &at) || holds(value, &at));
            let Some(key) = key.map(|(key, _)| key.get_ref().to_string()) else {
                // Nobody misses what was taken away as wrong.
                if !wrong.iter().any(|key| error.message().contains(&format!("`{key}`"))) {
                    self.note(&at, format!("{} in `{place}`", worded(error.message())));
                }
                return None;
            };
            self.note(&at, format!("`{key}`: {}", worded(error.message())));
            table.remove(key.as_str());
            wrong.push(key);
        }
    }
}

/// Whether a place in the text lies in another.
fn covers(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// The same for a value; what stands below the header of a table is not part of its span.
fn holds(value: &Spanned<DeValue<'_>>, at: &Range<usize>) -> bool {
    covers(&value.span(), at)
        || match value.get_ref() {
            DeValue::Table(table) => table.iter().any(|(key, value)| covers(&key.span(), at) || holds(value, at)),
            DeValue::Array(values) => values.iter().any(|value| holds(value, at)),
            _ => false,
        }
}

/// A message of serde's in the words of this file, without the value that it complains about.
fn worded(message: &str) -> String {
    if let Some((before, expected)) = message.split_once(", expected ")
        && (before.starts_with("invalid type: ") || before.starts_with("invalid value: "))
    {
        let expected = match expected {
            "a string" => "text, in quotation marks",
            "a boolean" => "`true` or `false`",
            "a sequence" => "a list",
            "a map" => "a table",
            "f64" => "a number",
            "i64" | "u64" | "u32" | "usize" => "a whole number",
            other if other.starts_with("struct ") => "a table",
            other => other,
        };
        return format!("this must be {expected}");
    }
    if message.starts_with("data did not match any variant") {
        return "this must be text, or a list of texts".to_owned();
    }
    if let Some(key) = message.strip_prefix("missing field ") {
        return format!("{key} is missing");
    }
    match (message.strip_prefix("unknown variant `"), message.split_once("`, expected ")) {
        (Some(_), Some((_, expected))) => format!("this must be {}", expected.trim_start_matches("one of ")),
        _ => message.to_owned(),
    }
}

/// The known name that a misspelt one is nearest to, if it is near at all.
pub fn nearest<'k>(key: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let lowered = key.to_lowercase().replace('-', "_");
    let scored = known.map(|known| (strsim::jaro_winkler(&lowered, known), known));
    scored.filter(|(score, _)| *score > 0.8).max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, known)| known)
}

/// The keys of a section: the fields of its struct, in serde's own words.
pub(super) fn keys<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Fields<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Fields<'_> {
        type Error = serde::de::value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(serde::de::Error::custom("only asked for its fields"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            self.deserialize_any(visitor)
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut fields: &'static [&'static str] = &[];
    // It fails, once it has told.
    let _ = T::deserialize(Fields(&mut fields));
    fields
}
