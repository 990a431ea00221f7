//! Tool arguments that are mirrored in header fields, for whoever looks at headers only (`protocol.md` §4.2).

use std::borrow::Cow;
use std::collections::HashSet;
use std::collections::hash_map::{Entry, HashMap};
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName};
use serde_json::Value;

use super::headers::{self, MCP_PARAM_PREFIX};
use super::refusal::Refusal;
use crate::mcp::members::{self, Members};

/// What a tool's schema says about the mirrored arguments.
const ANNOTATION: &str = "x-mcp-header";

/// Why a header value that claims to be encoded is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not valid base64 of UTF-8")]
pub struct Undecodable;

/// The text that a header value stands for.
pub fn decode(value: &str) -> Result<Cow<'_, str>, Undecodable> {
    let Some(encoded) = encoded(value) else { return Ok(Cow::Borrowed(value)) };
    // `STANDARD` is strict about alphabet, padding and left-over bits: one text has one form.
    let bytes = STANDARD.decode(encoded).map_err(|_| Undecodable)?;
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| Undecodable)
}

/// The header value that stands for a text: itself where HTTP would leave it alone, else base64 in a wrapper.
pub fn encode(text: &str) -> Cow<'_, str> {
    let kept = |byte: u8| matches!(byte, b' '..=b'~' | b'\t');
    let padded = text.starts_with([' ', '\t']) || text.ends_with([' ', '\t']);
    if text.bytes().all(kept) && !padded && encoded(text).is_none() {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(format!("=?base64?{}?=", STANDARD.encode(text)))
    }
}

/// What stands inside of the wrapper; without exactly that one, a value is meant literally.
fn encoded(value: &str) -> Option<&str> {
    value.strip_prefix("=?base64?")?.strip_suffix("?=")
}

/// An argument of a tool that is mirrored in a header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrored {
    /// The field, `mcp-param-…`.
    pub header: HeaderName,
    /// Where the argument stands in `arguments`: member by member.
    pub path: Vec<String>,
}

/// Why the annotations of a tool count for nothing: its clients drop such a tool, so there is nothing to hold them to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{ANNOTATION}` at `{place}` {why}")]
pub struct InvalidAnnotation {
    place: String,
    why: &'static str,
}

/// The mirrored arguments of a tool, from its `inputSchema`.
///
/// # Errors
/// Where one annotation is invalid, all are.
pub fn mirrored(input_schema: &Value) -> Result<Vec<Mirrored>, InvalidAnnotation> {
    let mut found = Vec::new();
    walk(input_schema, &mut Vec::new(), Place::Root, &mut found)?;
    let mut names = HashSet::new();
    // `HeaderName` is in lower case, so equal names are equal whatever the schema wrote.
    match found.iter().find(|param: &&Mirrored| !names.insert(param.header.as_str())) {
        Some(twice) => Err(InvalidAnnotation { place: twice.path.join("/"), why: "names a header a second time" }),
        None => Ok(found),
    }
}

/// Where in a schema we are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    /// Reached from the root through `properties` alone.
    Property,
    /// Reached in any other way: whether an argument is meant here depends on other arguments.
    Elsewhere,
}

/// Collects annotations. Every corner is looked at, since a single misplaced one spoils them all; only what is data
/// rather than schema is left out. The depth is bounded by that of the JSON parser.
fn walk(
    schema: &Value,
    path: &mut Vec<String>,
    place: Place,
    found: &mut Vec<Mirrored>,
) -> Result<(), InvalidAnnotation> {
    let members = match schema {
        Value::Object(members) => members,
        Value::Array(schemas) => {
            return schemas.iter().try_for_each(|schema| walk(schema, path, Place::Elsewhere, found));
        }
        _ => return Ok(()),
    };
    if let Some(annotation) = members.get(ANNOTATION) {
        let header = header(annotation, members.get("type"), place);
        let header = header.map_err(|why| InvalidAnnotation { place: path.join("/"), why })?;
        found.push(Mirrored { header, path: path.clone() });
    }
    for (keyword, inner) in members {
        match (keyword.as_str(), inner) {
            (ANNOTATION | "default" | "const" | "enum" | "examples", _) => {}
            // Maps from names to schemas: a name is no keyword, even if it looks like one.
            (
                "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas",
                Value::Object(schemas),
            ) => {
                let reached = if keyword == "properties" && place != Place::Elsewhere {
                    Place::Property
                } else {
                    Place::Elsewhere
                };
                for (name, schema) in schemas {
                    path.push(name.clone());
                    walk(schema, path, reached, found)?;
                    path.pop();
                }
            }
            _ => walk(inner, path, Place::Elsewhere, found)?,
        }
    }
    Ok(())
}

/// The header field that an annotation names.
fn header(annotation: &Value, kind: Option<&Value>, place: Place) -> Result<HeaderName, &'static str> {
    if place != Place::Property {
        return Err("is not on a property reached through `properties` alone");
    }
    if !matches!(kind.and_then(Value::as_str), Some("string" | "integer" | "boolean")) {
        return Err("is not on a string, integer or boolean");
    }
    // A `HeaderName` is a token as RFC 9110 §5.6.2 has it.
    match annotation.as_str() {
        Some(name) if !name.is_empty() => {
            HeaderName::from_bytes(format!("{MCP_PARAM_PREFIX}{name}").as_bytes()).map_err(|_| "is no name of a header")
        }
        _ => Err("is no name of a header"),
    }
}

/// Step 10 of §4.1: what is annotated stands in `arguments` and in the header alike, or in neither.
/// `Mcp-Param-*` fields that no annotation names are nobody's business.
pub fn check(mirrored: &[Mirrored], arguments: Option<&str>, headers: &HeaderMap) -> Result<(), Refusal> {
    let mut objects = HashMap::new();
    for Mirrored { header, path } in mirrored {
        let mismatch = |why: &dyn fmt::Display| Err(Refusal::HeaderMismatch(format!("{header} {why}").into()));
        let argument = at(arguments, path, &mut objects)?;
        let value = match headers::single(headers, header) {
            Ok(value) => value,
            Err(flaw) => return mismatch(&flaw),
        };
        match (argument, value) {
            (None, None) => {}
            (None, Some(_)) => return mismatch(&"is there, but its argument is not"),
            (Some(_), None) => return mismatch(&"is missing"),
            (Some(argument), Some(value)) => match decode(value) {
                Err(undecodable) => return mismatch(&undecodable),
                Ok(value) if says(argument, &value) => {}
                Ok(_) => return mismatch(&"is not what its argument says"),
            },
        }
    }
    Ok(())
}

/// The raw argument at a path; none where it is `null`, or a step of the path is no object. `objects` keeps what was
/// read on the way: arguments may be megabytes, and paths share most of theirs.
fn at<'a, 'p>(
    arguments: Option<&'a str>,
    path: &'p [String],
    objects: &mut HashMap<&'p [String], Members<'a>>,
) -> Result<Option<&'a str>, Refusal> {
    let mut here = arguments;
    for (depth, step) in path.iter().enumerate() {
        let Some(text) = here.filter(|text| text.starts_with('{')) else { return Ok(None) };
        let members = match objects.entry(&path[..depth]) {
            Entry::Occupied(read) => read.into_mut(),
            // Twice the same member: the header could match one, and the server take the other (§1.3).
            Entry::Vacant(new) => new.insert(Members::read(text).map_err(|_| {
                Refusal::InvalidRequest(format!("`arguments` around `{}` repeats a member", path.join("/")).into())
            })?),
        };
        here = members.text(step);
    }
    Ok(here.filter(|raw| *raw != "null"))
}

/// Whether a header value says what an argument says. The argument's own type decides: the server judges whether it
/// is the right one.
fn says(argument: &str, value: &str) -> bool {
    match argument.as_bytes().first() {
        Some(b'"') => members::string(argument).is_some_and(|text| text == value),
        Some(b't' | b'f') => argument == value,
        Some(b'-' | b'0'..=b'9') => Decimal::read(argument).is_some_and(|number| Decimal::read(value) == Some(number)),
        // An array or an object has no form in a header.
        _ => false,
    }
}

/// A JSON number, exact however long it is: ± `digits` × 10^`exponent`, without zeros at either end.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    fn read(text: &str) -> Option<Self> {
        let bounded = text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
            && text.ends_with(|last: char| last.is_ascii_digit());
        if !bounded || !members::is_json(text) {
            return None;
        }
        let (negative, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        let significant = digits.trim_end_matches('0');
        if significant.is_empty() {
            return Some(Self { negative: false, digits: String::new(), exponent: 0 });
        }
        let dropped = i64::try_from(digits.len() - significant.len()).ok()?;
        let behind_point = i64::try_from(fraction.len()).ok()?;
        // An exponent beyond this is no number anybody counts with.
        let exponent = exponent.parse::<i32>().ok().map(i64::from)?;
        Some(Self {
            negative,
            digits: significant.trim_start_matches('0').to_owned(),
            exponent: exponent + dropped - behind_point,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_literal_unless_it_stands_in_the_wrapper() {
        for (value, text) in [
            ("plain", Ok("plain")),
            ("", Ok("")),
            ("a b\tc", Ok("a b\tc")),
            ("=?base64?SGVsbG8=?=", Ok("Hello")),
            ("=?base64?bsOp?=", Ok("né")),
            ("=?base64??=", Ok("")),
            ("=?base64?4pyT?=", Ok("✓")),
            ("=?BASE64?SGVsbG8=?=", Ok("=?BASE64?SGVsbG8=?=")),
            ("=?base64?SGVsbG8=", Ok("=?base64?SGVsbG8=")),
            ("=?base64?=", Ok("=?base64?=")),
            ("SGVsbG8=", Ok("SGVsbG8=")),
            (" =?base64?SGVsbG8=?=", Ok(" =?base64?SGVsbG8=?=")),
            ("=?base64?SGVsbG8?=", Err(Undecodable)),   // no padding
            ("=?base64?SGVsbG8==?=", Err(Undecodable)), // too much of it
            ("=?base64?SGVsbG9=?=", Err(Undecodable)),  // left-over bits
            ("=?base64?SGVs bG8=?=", Err(Undecodable)),
            ("=?base64?SGVs!G8=?=", Err(Undecodable)),
            ("=?base64?4pyT_-8=?=", Err(Undecodable)), // the alphabet of URLs
            ("=?base64?/w==?=", Err(Undecodable)),     // no UTF-8
        ] {
            assert_eq!(decode(value).as_deref(), text.as_ref().copied(), "{value}");
        }
        for (text, value) in [
            ("plain", "plain"),
            ("", ""),
            ("a\tb", "a\tb"),
            (" a", "=?base64?IGE=?="),
            ("a\t", "=?base64?YQk=?="),
            ("né", "=?base64?bsOp?="),
            ("a\nb", "=?base64?YQpi?="),
            ("\u{7f}", "=?base64?fw==?="),
            ("=?base64?x?=", "=?base64?PT9iYXNlNjQ/eD89?="),
            ("=?BASE64?x?=", "=?BASE64?x?="),
        ] {
            assert_eq!(encode(text), value, "{text}");
        }
    }

    #[test]
    fn annotations_count_on_plain_properties_only() {
        let property =
            |annotation: Value, kind: Value| json!({"properties": {"p": {"type": kind, "x-mcp-header": annotation}}});
        for (schema, names) in [
            (json!({}), Some(vec![])),
            (json!(true), Some(vec![])),
            (json!({"type": "object", "properties": {"a": {"type": "string"}}}), Some(vec![])),
            (property(json!("Region"), json!("string")), Some(vec!["mcp-param-region p"])),
            (property(json!("X"), json!("integer")), Some(vec!["mcp-param-x p"])),
            (property(json!("X"), json!("boolean")), Some(vec!["mcp-param-x p"])),
            (
                json!({"properties": {
                    "a": {"type": "object", "properties": {"b": {"type": "string", "x-mcp-header": "B"}}},
                    "c": {"type": "string", "x-mcp-header": "C"},
                }}),
                Some(vec!["mcp-param-b a/b", "mcp-param-c c"]),
            ),
            // not an annotation
            (json!({"properties": {"x-mcp-header": {"type": "string"}}}), Some(vec![])),
            (json!({"$defs": {"x-mcp-header": {"type": "string"}}}), Some(vec![])),
            (
                json!({"properties": {"a": {"default": {"x-mcp-header": "A"}, "enum": [{"x-mcp-header": 1}]}}}),
                Some(vec![]),
            ),
            (
                json!({"properties": {"properties": {"type": "string", "x-mcp-header": "P"}}}),
                Some(vec!["mcp-param-p properties"]),
            ),
            // invalid
            (property(json!("X"), json!("number")), None),
            (property(json!("X"), json!("object")), None),
            (property(json!("X"), json!(["string", "null"])), None),
            (property(json!("X"), Value::Null), None),
            (json!({"properties": {"p": {"x-mcp-header": "X"}}}), None),
            (property(json!(""), json!("string")), None),
            (property(json!("a b"), json!("string")), None),
            (property(json!("a:b"), json!("string")), None),
            (property(json!("é"), json!("string")), None),
            (property(json!(7), json!("string")), None),
            (property(Value::Null, json!("string")), None),
            (property(json!("x".repeat(70_000)), json!("string")), None),
            (json!({"type": "string", "x-mcp-header": "Root"}), None),
            (json!({"items": {"type": "string", "x-mcp-header": "X"}}), None),
            (
                json!({"properties": {"a": {"items": {"properties": {"b": {"type": "string", "x-mcp-header": "X"}}}}}}),
                None,
            ),
            (json!({"allOf": [{"properties": {"b": {"type": "string", "x-mcp-header": "X"}}}]}), None),
            (json!({"$defs": {"d": {"type": "string", "x-mcp-header": "X"}}}), None),
            (json!({"patternProperties": {"d": {"type": "string", "x-mcp-header": "X"}}}), None),
            (json!({"additionalProperties": {"type": "string", "x-mcp-header": "X"}}), None),
            (json!({"properties": [{"type": "string", "x-mcp-header": "X"}]}), None),
            (
                json!({"properties": {
                    "a": {"type": "string", "x-mcp-header": "Same"},
                    "b": {"type": "string", "x-mcp-header": "sAME"},
                }}),
                None,
            ),
            (
                json!({"properties": {
                    "a": {"type": "string", "x-mcp-header": "A"},
                    "b": {"type": "array", "x-mcp-header": "B"},
                }}),
                None,
            ),
        ] {
            let found = mirrored(&schema).ok().map(|found| {
                found.iter().map(|param| format!("{} {}", param.header, param.path.join("/"))).collect::<Vec<_>>()
            });
            assert_eq!(found, names.map(|names| names.into_iter().map(str::to_owned).collect()), "{schema}");
        }
        let error = mirrored(&property(json!("X"), json!("array"))).unwrap_err();
        assert_eq!(error.to_string(), "`x-mcp-header` at `p` is not on a string, integer or boolean");
    }

    #[test]
    fn an_argument_and_its_header_agree() {
        let schema = json!({"properties": {
            "r": {"type": "string", "x-mcp-header": "R"},
            "o": {"type": "object", "properties": {"n": {"type": "integer", "x-mcp-header": "N"}}},
            "b": {"type": "boolean", "x-mcp-header": "B"},
        }});
        let mirrored = mirrored(&schema).unwrap();
        let r = |value: &'static str| ("Mcp-Param-R", value);
        let n = |value: &'static str| ("Mcp-Param-N", value);
        let b = |value: &'static str| ("MCP-PARAM-B", value);
        for (arguments, fields, expected) in [
            (None, &[][..], Ok(())),
            (Some("{}"), &[], Ok(())),
            (Some("[]"), &[], Ok(())),
            (Some(r#"{"r":null}"#), &[], Ok(())),
            (Some(r#"{"o":7,"b":null}"#), &[], Ok(())),
            (Some(r#"{"o":{"n":null}}"#), &[], Ok(())),
            (Some("{}"), &[("Mcp-Param-Other", "x"), ("Mcp-Param-Other", "y")], Ok(())),
            (Some(r#"{"r":"eu"}"#), &[r("eu")], Ok(())),
            (Some(r#"{"r":"eu"}"#), &[r(" eu\t")], Ok(())),
            (Some(r#"{"r":"\u0065u"}"#), &[r("eu")], Ok(())),
            (Some(r#"{"r":"né"}"#), &[r("=?base64?bsOp?=")], Ok(())),
            (Some(r#"{"r":""}"#), &[r("")], Ok(())),
            (Some(r#"{"b":true}"#), &[b("true")], Ok(())),
            (Some(r#"{"b":false}"#), &[b("false")], Ok(())),
            (Some(r#"{"o":{"n":42}}"#), &[n("42")], Ok(())),
            (Some(r#"{"o":{"n":42.0}}"#), &[n("42")], Ok(())),
            (Some(r#"{"o":{"n":42}}"#), &[n("42.0")], Ok(())),
            (Some(r#"{"o":{"n":4.2e1}}"#), &[n("42")], Ok(())),
            (Some(r#"{"o":{"n":-0}}"#), &[n("0")], Ok(())),
            (Some(r#"{"r":42}"#), &[r("42")], Ok(())),
            (None, &[r("eu")], Err("is there, but its argument is not")),
            (Some(r#"{"r":null}"#), &[r("null")], Err("is there, but its argument is not")),
            (Some(r#"{"o":7}"#), &[n("7")], Err("is there, but its argument is not")),
            (Some(r#"{"r":"eu"}"#), &[], Err("is missing")),
            (Some(r#"{"r":"eu"}"#), &[r("us")], Err("is not what its argument says")),
            (Some(r#"{"r":"eu"}"#), &[r("EU")], Err("is not what its argument says")),
            (Some(r#"{"r":"eu"}"#), &[r("eu"), r("eu")], Err("is repeated")),
            (Some(r#"{"r":"né"}"#), &[r("né")], Err("is not plain ASCII")),
            (Some(r#"{"r":"eu"}"#), &[r("=?base64?ZXU?=")], Err("is not valid base64 of UTF-8")),
            (Some(r#"{"r":"\ud800"}"#), &[r("x")], Err("is not what its argument says")),
            (Some(r#"{"r":["eu"]}"#), &[r("eu")], Err("is not what its argument says")),
            (Some(r#"{"b":true}"#), &[b("True")], Err("is not what its argument says")),
            (Some(r#"{"b":true}"#), &[b("1")], Err("is not what its argument says")),
            (Some(r#"{"o":{"n":42}}"#), &[n("43")], Err("is not what its argument says")),
            (Some(r#"{"o":{"n":42}}"#), &[n("042")], Err("is not what its argument says")),
            (Some(r#"{"o":{"n":42}}"#), &[n("+42")], Err("is not what its argument says")),
            (Some(r#"{"o":{"n":42}}"#), &[n("")], Err("is not what its argument says")),
            (Some(r#"{"o":{"n":9007199254740993}}"#), &[n("9007199254740992")], Err("is not what its argument says")),
            (Some(r#"{"r":"a","r":"b"}"#), &[r("a")], Err("repeats a member")),
            (Some(r#"{"o":{"n":1},"\u006f":{"n":2}}"#), &[n("1")], Err("repeats a member")),
        ] {
            match (check(&mirrored, arguments, &headers::of(fields)), expected) {
                (Ok(()), Ok(())) => {}
                (Err(refusal), Err(part)) => {
                    let code = if part == "repeats a member" { -32600 } else { -32020 };
                    assert_eq!((refusal.status().as_u16(), refusal.code()), (400, Some(code)));
                    assert!(refusal.to_string().contains(part), "{arguments:?} {fields:?}: {refusal}");
                }
                (got, _) => panic!("{arguments:?} {fields:?}: {got:?}, not {expected:?}"),
            }
        }
        assert_eq!(check(&[], Some(r#"{"r":1,"r":2}"#), &headers::of(&[r("x")])), Ok(()), "no annotation, no cost");
    }

    #[test]
    fn numbers_are_compared_exactly() {
        for (one, other, equal) in [
            ("1", "1.000", true),
            ("100", "1e2", true),
            ("0.01", "1E-2", true),
            ("1e+2", "100", true),
            ("-0.0", "0e9", true),
            ("-1", "1", false),
            ("12", "120", false),
            ("0.1", "0.10000000000000000000000000000000001", false),
            ("1e400", "1e401", false),
            ("1e400", "10e399", true),
        ] {
            assert_eq!(Decimal::read(one) == Decimal::read(other), equal, "{one} {other}");
        }
        for none in ["", "-", "1.", ".1", "01", "+1", "1e", "0x1", "NaN", " 1", "1 ", "true", "1e99999999999"] {
            assert_eq!(Decimal::read(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(text in any::<String>(), odd in "(=\\?base64\\?)?[ -~]{0,12}(\\?=)?") {
            for text in [&text, &odd] {
                let value = encode(text);
                prop_assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')));
                prop_assert_eq!(value.trim_matches([' ', '\t']), &*value);
                let decoded = decode(&value);
                prop_assert_eq!(decoded.as_deref(), Ok(text.as_str()));
            }
        }

        #[test]
        fn no_value_breaks_the_decoder(value in "(=\\?base64\\?)?[ -~]{0,20}(\\?=)?") {
            let _ = decode(&value);
            let _ = says("1", &value);
        }

        #[test]
        fn a_number_is_itself_however_it_is_written(mantissa in any::<i64>(), shift in 0_usize..20) {
            let shifted = format!("{mantissa}{}e-{shift}", "0".repeat(shift));
            prop_assert_eq!(Decimal::read(&mantissa.to_string()), Decimal::read(&shifted));
        }
    }
}
