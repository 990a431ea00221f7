//! Protocol versions and the two eras they belong to.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Versions with an `initialize` handshake and sessions, oldest first.
pub const LEGACY: &[&str] = &["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

/// What ferry asks a legacy server for, and answers a legacy client that asks for something unknown.
pub const LATEST_LEGACY: &str = "2025-11-25";

/// Versions without a handshake: each request carries its version and capabilities.
pub const MODERN: &[&str] = &["2026-07-28"];

/// The newest modern version.
pub const LATEST_MODERN: &str = "2026-07-28";

/// How a peer speaks: with an `initialize` handshake, or with its version in every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Era {
    /// Versions up to 2025-11-25.
    Legacy,
    /// Versions from 2026-07-28 on.
    Modern,
}

impl fmt::Display for Era {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        })
    }
}

/// Whether `version` is one of [`LEGACY`].
pub fn is_legacy(version: &str) -> bool {
    LEGACY.contains(&version)
}

/// Whether `version` is one of [`MODERN`].
pub fn is_modern(version: &str) -> bool {
    MODERN.contains(&version)
}

/// Whether `version` is a date on which, or after which, there are no sessions any more, known to ferry or not.
pub fn is_modern_shaped(version: &str) -> bool {
    let bytes = version.as_bytes();
    bytes.len() == 10
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        })
        && version >= LATEST_MODERN
}

/// The newest of `offered` that ferry speaks in its modern form.
pub fn best_modern<'a>(offered: impl IntoIterator<Item = &'a str>) -> Option<&'static str> {
    best(MODERN, offered)
}

/// The newest of `offered` that ferry speaks in its legacy form.
pub fn best_legacy<'a>(offered: impl IntoIterator<Item = &'a str>) -> Option<&'static str> {
    best(LEGACY, offered)
}

fn best<'a>(known: &'static [&'static str], offered: impl IntoIterator<Item = &'a str>) -> Option<&'static str> {
    offered.into_iter().filter_map(|version| known.iter().find(|known| **known == version)).max().copied()
}

/// The legacy version that a server's own answer stands for, and whether it was an odd one.
///
/// Older or unknown ones are treated as the oldest, later ones as the newest: payloads are additive.
pub fn as_legacy(answered: &str) -> (&'static str, bool) {
    match LEGACY.iter().find(|known| **known == answered) {
        Some(known) => (known, false),
        None if is_modern_shaped(answered) || answered > LATEST_LEGACY => (LATEST_LEGACY, true),
        None => (LEGACY[0], true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modern_shape_is_a_date_from_the_first_modern_version_on() {
        for (version, modern) in [
            ("2026-07-28", true),
            ("2027-01-01", true),
            ("2026-07-27", false),
            ("2025-11-25", false),
            ("v999.0.0", false),
            ("2026-7-28", false),
            ("9999-99-99", true),
            ("", false),
        ] {
            assert_eq!(is_modern_shaped(version), modern, "{version}");
        }
    }

    #[test]
    fn an_odd_answer_is_taken_for_its_nearest_neighbour() {
        for (answered, taken, odd) in [
            ("2025-06-18", "2025-06-18", false),
            ("2024-10-07", "2024-11-05", true),
            ("draft", "2025-11-25", true),
            ("2026-07-28", "2025-11-25", true),
            ("", "2024-11-05", true),
        ] {
            assert_eq!(as_legacy(answered), (taken, odd), "{answered}");
        }
    }

    #[test]
    fn the_best_version_is_the_newest_both_speak() {
        assert_eq!(best_legacy(["2024-11-05", "2025-06-18", "1999-01-01"]), Some("2025-06-18"));
        assert_eq!(best_modern(["2025-06-18", "2026-07-28"]), Some("2026-07-28"));
        assert_eq!(best_modern(["2027-01-01"]), None);
    }
}
