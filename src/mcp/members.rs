//! One level of a JSON object, its members found in order and left as they are written.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of one object, in order, keys unescaped, values untouched.
#[derive(Debug, Default)]
pub struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Reads one object.
    ///
    /// # Errors
    /// Where `text` is no object, or a key stands in it twice: ferry would check one of the two and the server might
    /// obey the other.
    pub fn read(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The raw value of a member.
    pub fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| *value)
    }

    /// The text of a member's value.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key).map(RawValue::get)
    }

    /// A member that is a string, unescaped.
    pub fn string(&self, key: &str) -> Option<Cow<'a, str>> {
        string(self.text(key)?)
    }

    /// A member that is an object.
    pub fn object(&self, key: &str) -> Option<Members<'a>> {
        let text = self.text(key)?;
        if text.starts_with('{') { Self::read(text).ok() } else { None }
    }

    /// Whether a member is there, whatever its value.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Whether a member is there and is not `false` or `null`.
    pub fn truthy(&self, key: &str) -> bool {
        self.text(key).is_some_and(|text| !matches!(text, "false" | "null"))
    }

    /// All members in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), *value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The text of `raw` where it is a JSON string, unescaped.
pub fn string(raw: &str) -> Option<Cow<'_, str>> {
    if !raw.starts_with('"') {
        return None;
    }
    let inner = raw.get(1..raw.len().checked_sub(1)?)?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str::<String>(raw).ok().map(Cow::Owned)
}

/// Writes `value` as a JSON string.
pub fn quote(value: &str) -> String {
    serde_json::to_string(value).expect("a string always has a JSON form")
}

/// Replaces or appends members of one object and writes it again; what is not named keeps its bytes and its place.
///
/// `changes` maps a key to its new value's text, or to `None` to remove it. New keys go last.
pub fn rewrite(members: &Members<'_>, changes: &[(&str, Option<&str>)]) -> String {
    let mut text = String::from("{");
    let mut put = |key: &str, value: &str| {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(&quote(key));
        text.push(':');
        text.push_str(value);
    };
    for (key, value) in members.iter() {
        match changes.iter().find(|(changed, _)| *changed == key) {
            Some((_, Some(new))) => put(key, new),
            Some((_, None)) => {}
            None => put(key, value.get()),
        }
    }
    for (key, new) in changes {
        if let (Some(new), false) = (new, members.has(key)) {
            put(key, new);
        }
    }
    text.push('}');
    text
}

/// Keys seen so far; a linear look serves the usual few, a set the unusual many.
#[derive(Default)]
pub(super) struct Keys(HashSet<String>);

impl Keys {
    const FEW: usize = 16;

    /// Notes `key`; `seen` are those already read where they are few.
    pub(super) fn repeated<'k>(&mut self, key: &str, seen: impl ExactSizeIterator<Item = &'k str> + Clone) -> bool {
        if seen.len() < Self::FEW {
            return seen.clone().any(|earlier| earlier == key);
        }
        if self.0.is_empty() {
            self.0.extend(seen.map(str::to_owned));
        }
        !self.0.insert(key.to_owned())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Object<'a> {
            type Value = Members<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::<(Cow<'a, str>, &'a RawValue)>::new();
                let mut keys = Keys::default();
                while let Some(Key(key)) = map.next_key()? {
                    if keys.repeated(&key, members.iter().map(|(key, _)| key.as_ref())) {
                        return Err(A::Error::custom(format_args!("duplicate member `{key}`")));
                    }
                    members.push((key, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object(std::marker::PhantomData))
    }
}

/// A key, borrowed where it has no escapes.
pub(super) struct Key<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Text<'a> {
            type Value = Key<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(key)))
            }
            fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(Text(std::marker::PhantomData))
    }
}

/// Splits a JSON array into its elements' texts.
pub fn elements(text: &str) -> Result<Vec<&RawValue>, serde_json::Error> {
    serde_json::from_str(text)
}

/// Whether `text` is one JSON value and nothing else.
pub fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_and_their_bytes() {
        let members = Members::read(r#"{"b": 1.0e2, "a": {"x" :[ ]}, "\u0063": "\u00e9"}"#).unwrap();
        assert_eq!(members.text("b"), Some("1.0e2"));
        assert_eq!(members.text("a"), Some(r#"{"x" :[ ]}"#));
        assert_eq!(members.string("c").as_deref(), Some("é"));
        assert_eq!(
            rewrite(&members, &[("a", Some("2")), ("z", Some("null")), ("b", None), ("y", None)]),
            r#"{"a":2,"c":"\u00e9","z":null}"#
        );
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_however_it_is_spelt() {
        assert!(Members::read(r#"{"name":"a","n\u0061me":"b"}"#).is_err());
        let many: Vec<String> = (0..100).map(|n| format!("\"k{n}\":0")).collect();
        assert!(Members::read(&format!("{{{}}}", many.join(","))).is_ok());
        assert!(Members::read(&format!("{{{},\"k99\":1}}", many.join(","))).is_err());
        assert!(Members::read(&format!("{{{},\"k3\":1}}", many.join(","))).is_err());
    }

    #[test]
    fn only_a_string_is_a_string() {
        for (raw, value) in
            [(r#""a""#, Some("a")), (r#""a\"b""#, Some("a\"b")), ("1", None), ("null", None), (r#""""#, Some(""))]
        {
            assert_eq!(string(raw).as_deref(), value, "{raw}");
        }
    }
}
