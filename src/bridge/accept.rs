//! `Content-Type` and `Accept`: what a client sends, and what it can be answered with (`protocol.md` §1.11).

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

use super::headers;
use super::refusal::Refusal;

const JSON: &str = "application/json";
const EVENT_STREAM: &str = "text/event-stream";

/// What a POST can be answered with. The protocol asks for both; being lenient costs nothing and keeps curl working.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// JSON, or an event stream where one is needed.
    Both,
    /// JSON only: nothing can be sent before the response.
    JsonOnly,
    /// An event stream only.
    SseOnly,
}

impl Accepted {
    /// Whether an event stream will do.
    pub fn sse(self) -> bool {
        self != Self::JsonOnly
    }

    /// Whether a JSON body will do.
    pub fn json(self) -> bool {
        self != Self::SseOnly
    }

    /// 406 where an event stream will not do, for what is one by nature: `subscriptions/listen`.
    pub fn require_sse(self) -> Result<(), Refusal> {
        if self.sse() { Ok(()) } else { Err(Refusal::NotAcceptable { needed: EVENT_STREAM }) }
    }
}

/// Holds the `Content-Type` of a POST to JSON, whatever its parameters. It must be named: the media types that a page
/// may send without a preflight are others.
pub fn require_json(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers::single(headers, &CONTENT_TYPE) {
        Ok(Some(text)) if essence(text).eq_ignore_ascii_case(JSON) => Ok(()),
        _ => Err(Refusal::UnsupportedMediaType),
    }
}

/// What a POST can be answered with.
pub fn of_post(headers: &HeaderMap) -> Result<Accepted, Refusal> {
    // What the SDKs send, letter by letter.
    let mut lines = headers.get_all(ACCEPT).iter();
    if let (Some(line), None) = (lines.next(), lines.next())
        && line == "application/json, text/event-stream"
    {
        return Ok(Accepted::Both);
    }
    match (accepts(headers, JSON), accepts(headers, EVENT_STREAM)) {
        (true, true) => Ok(Accepted::Both),
        (true, false) => Ok(Accepted::JsonOnly),
        (false, true) => Ok(Accepted::SseOnly),
        (false, false) => Err(Refusal::NotAcceptable { needed: "application/json or text/event-stream" }),
    }
}

/// Holds a GET to accepting an event stream: there is nothing else to get.
pub fn of_get(headers: &HeaderMap) -> Result<(), Refusal> {
    if accepts(headers, EVENT_STREAM) { Ok(()) } else { Err(Refusal::NotAcceptable { needed: EVENT_STREAM }) }
}

/// Whether `Accept` allows a media type. Several lines are one list; without any range, everything is accepted.
///
/// The most specific range that covers the type decides (RFC 9110 §12.5.1), so `*/*, application/json;q=0` excludes
/// JSON. Weights say no more than that here: there is no choice to make between answers of one content.
fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let (kind, _) = media_type.split_once('/').unwrap_or_default();
    let mut empty = true;
    let (mut closest, mut accepted) = (0, false);
    for value in headers.get_all(ACCEPT) {
        let Ok(line) = value.to_str() else {
            empty = false;
            continue;
        };
        for range in split(line, ',').filter(|range| !range.trim().is_empty()) {
            empty = false;
            let name = essence(range);
            let closeness = if name.eq_ignore_ascii_case(media_type) {
                3
            } else if name.split_once('/').is_some_and(|(of, any)| any == "*" && of.eq_ignore_ascii_case(kind)) {
                2
            } else if name == "*/*" {
                1
            } else {
                continue;
            };
            if closeness > closest {
                (closest, accepted) = (closeness, weighs(range));
            } else if closeness == closest {
                accepted |= weighs(range);
            }
        }
    }
    empty || accepted
}

/// The media type or range without its parameters.
fn essence(text: &str) -> &str {
    text.split(';').next().unwrap_or_default().trim()
}

/// Whether the weight of a range is above zero. One that is malformed counts as none, which means 1.
fn weighs(range: &str) -> bool {
    let weight = split(range, ';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    !weight.is_some_and(|weight| match weight.strip_prefix('0') {
        Some("") => true,
        Some(rest) => rest.strip_prefix('.').is_some_and(|digits| digits.bytes().all(|digit| digit == b'0')),
        None => false,
    })
}

/// Splits at a character that stands outside of quoted strings.
fn split(text: &str, at: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |character: char| {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => return character == at && !quoted,
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accept(lines: &[&str]) -> HeaderMap {
        headers::of(&lines.iter().map(|line| ("accept", *line)).collect::<Vec<_>>())
    }

    #[test]
    fn a_post_says_what_it_can_be_answered_with() {
        use Accepted::{Both, JsonOnly, SseOnly};
        for (lines, expected) in [
            (&[][..], Some(Both)),
            (&[""], Some(Both)),
            (&["application/json, text/event-stream"], Some(Both)),
            (&["application/json", "text/event-stream"], Some(Both)),
            (&["APPLICATION/JSON , Text/Event-Stream"], Some(Both)),
            (&["*/*"], Some(Both)),
            (&["application/*, text/*"], Some(Both)),
            (&["text/html;q=0.9, */*;q=0.1"], Some(Both)),
            (&["application/json"], Some(JsonOnly)),
            (&["application/json; charset=utf-8"], Some(JsonOnly)),
            (&["application/*"], Some(JsonOnly)),
            (&["text/html, application/json"], Some(JsonOnly)),
            (&["*/*, text/event-stream;q=0"], Some(JsonOnly)),
            (&["*/*", "text/*;q=0.000"], Some(JsonOnly)),
            (&["text/event-stream"], Some(SseOnly)),
            (&["text/*"], Some(SseOnly)),
            (&["application/json;q=0, */*"], Some(SseOnly)),
            (&["application/json ; Q=0. , text/event-stream"], Some(SseOnly)),
            (&["application/*;q=0, application/json, text/html"], Some(JsonOnly)),
            (&["application/json;q=0, application/json;q=0.5"], Some(JsonOnly)),
            (&["application/json;q=0.001"], Some(JsonOnly)),
            (&["application/json;q=nan"], Some(JsonOnly)),
            (&["application/json;q=00"], Some(JsonOnly)),
            (&[r#"application/json;a=",;q=0", text/event-stream"#], Some(Both)),
            (&[r#"text/html;a="\", application/json""#], None),
            (&[r#"text/html;a="open"#, "application/json"], Some(JsonOnly)),
            (&["text/html"], None),
            (&["*/*;q=0"], None),
            (&["*/json"], None),
            (&["*"], None),
            (&["garbage"], None),
            (&["é"], None),
            (&["application/jsonp, text/event-streams"], None),
        ] {
            let result = of_post(&accept(lines));
            assert_eq!(result.as_ref().ok(), expected.as_ref(), "{lines:?}");
            if let Err(refusal) = result {
                assert_eq!(refusal.status().as_u16(), 406, "{lines:?}");
            }
        }
    }

    #[test]
    fn a_get_takes_an_event_stream() {
        for (lines, passes) in [
            (&[][..], true),
            (&["text/event-stream"], true),
            (&["*/*"], true),
            (&["text/*;q=0.1"], true),
            (&["application/json"], false),
            (&["text/event-stream;q=0"], false),
            (&["text/event-stream;q=0, */*"], false),
            (&["text/html"], false),
        ] {
            assert_eq!(of_get(&accept(lines)).is_ok(), passes, "{lines:?}");
        }
    }

    #[test]
    fn what_is_a_stream_by_nature_needs_one_to_be_accepted() {
        for (accepted, sse, json) in
            [(Accepted::Both, true, true), (Accepted::JsonOnly, false, true), (Accepted::SseOnly, true, false)]
        {
            assert_eq!((accepted.sse(), accepted.json(), accepted.require_sse().is_ok()), (sse, json, sse));
        }
    }

    #[test]
    fn a_post_carries_json() {
        for (lines, passes) in [
            (&["application/json"][..], true),
            (&["Application/JSON; charset=iso-8859-1"], true),
            (&["application/json;"], true),
            (&[" application/json "], true),
            (&[], false),
            (&[""], false),
            (&["text/plain"], false),
            (&["application/jsonp"], false),
            (&["application/json, text/plain"], false),
            (&["text/plain; application/json"], false),
            (&["application/json", "application/json"], false),
        ] {
            let headers = headers::of(&lines.iter().map(|line| ("content-type", *line)).collect::<Vec<_>>());
            assert_eq!(require_json(&headers).is_ok(), passes, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn no_accept_breaks_the_parser(line in "[ -~]{0,60}", odd in "[a-z*/;,=q0. \"\\\\]{0,40}") {
            for line in [&line, &odd] {
                let headers = accept(&[line]);
                let _ = (of_post(&headers), of_get(&headers));
                // A range that was added can allow more, never less, unless it is the same one.
                let wider = accept(&[line, "application/json, text/event-stream"]);
                prop_assert_eq!(of_post(&wider), Ok(Accepted::Both));
            }
        }
    }
}
