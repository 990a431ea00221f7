//! Which cloudflared to run, and whether its version will do. Never downloaded: what runs with these credentials is for
//! the machine's owner to choose.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::env;

/// Its name, on the PATH and beside ferry.
const NAME: &str = "cloudflared";

/// These rewrite the paths of requests: they drop a slash at the end (2026.8.2 took that back).
const BROKEN: [Version; 2] = [Version { year: 2026, month: 8, patch: 0 }, Version { year: 2026, month: 8, patch: 1 }];

/// Cloudflare supports a version for a year.
const SUPPORTED_MONTHS: u64 = 12;

/// What to execute: the configuration's choice, else `FERRY_CLOUDFLARED`, else the one that was shipped beside ferry, else
/// whichever is found on the PATH when it is started: it may be installed later than ferry.
pub fn program(chosen: Option<PathBuf>) -> PathBuf {
    let variable = std::env::var_os(env::FERRY_CLOUDFLARED).filter(|value| !value.is_empty()).map(PathBuf::from);
    let beside = || Some(std::env::current_exe().ok()?.parent()?.join(NAME)).filter(|path| path.is_file());
    chosen.or(variable).or_else(beside).unwrap_or_else(|| Path::new(NAME).to_owned())
}

/// A version of cloudflared: the month of its release and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// The year.
    pub year: u16,
    /// The month, from 1.
    pub month: u8,
    /// Counts the releases of that month.
    pub patch: u16,
}

/// Whether a version will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It will.
    Fine,
    /// It will, but Cloudflare does not support it any more.
    Old,
    /// It would hand on other requests than were made.
    Broken,
}

impl Version {
    /// Finds it in what `cloudflared --version` prints: `cloudflared version 2026.8.2 (built …)`. None for a build of
    /// somebody's own (`DEV`).
    pub fn parse(printed: &str) -> Option<Self> {
        printed.split_whitespace().find_map(|word| {
            let mut parts = word.split('.');
            let version = Self {
                year: parts.next()?.parse().ok().filter(|year| *year >= 2000)?,
                month: parts.next()?.parse().ok().filter(|month| (1..=12).contains(month))?,
                // `2026.8.2-3` is a package's third build of it.
                patch: parts.next()?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?,
            };
            parts.next().is_none().then_some(version)
        })
    }

    /// Whether it will do at this time.
    pub fn verdict(self, now: SystemTime) -> Verdict {
        let age = months(now).saturating_sub(u64::from(self.year) * 12 + u64::from(self.month) - 1);
        if BROKEN.contains(&self) {
            Verdict::Broken
        } else if age > SUPPORTED_MONTHS {
            Verdict::Old
        } else {
            Verdict::Fine
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.year, self.month, self.patch)
    }
}

/// The months since the year 0, by the length of a month in 400 years: off by a day or two, which matters to nobody here.
fn months(now: SystemTime) -> u64 {
    const DAYS_IN_400_YEARS: u64 = 146_097;
    let days = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs() / 86_400;
    1970 * 12 + days * 400 * 12 / DAYS_IN_400_YEARS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_what_is_printed() {
        let version = |year, month, patch| Some(Version { year, month, patch });
        for (printed, expected) in [
            ("cloudflared version 2026.8.2 (built 2026-08-20-1112 UTC)\n", version(2026, 8, 2)),
            ("cloudflared version 2025.11.10-2 (built nix)", version(2025, 11, 10)),
            ("cloudflared version DEV (built unknown)", None),
            ("cloudflared version 2026.13.1", None),
            ("192.168.1.1 is an address", None),
            ("", None),
        ] {
            assert_eq!(Version::parse(printed), expected, "{printed}");
        }
        assert_eq!(Version::parse("2026.8.2").unwrap().to_string(), "2026.8.2");
    }

    #[test]
    fn two_versions_are_refused_and_one_of_a_year_ago_is_old() {
        let november_2026 = UNIX_EPOCH + Duration::from_secs(1_795_400_000);
        for (printed, verdict) in [
            ("2026.8.0", Verdict::Broken),
            ("2026.8.1", Verdict::Broken),
            ("2026.8.2", Verdict::Fine),
            ("2027.1.0", Verdict::Fine),
            ("2025.11.0", Verdict::Fine),
            ("2025.10.3", Verdict::Old),
        ] {
            assert_eq!(Version::parse(printed).unwrap().verdict(november_2026), verdict, "{printed}");
        }
    }

    #[test]
    fn the_configuration_chooses_first_and_the_path_last() {
        assert_eq!(program(Some("/opt/cloudflared".into())), Path::new("/opt/cloudflared"));
        // The test program has no cloudflared beside it.
        if std::env::var_os(env::FERRY_CLOUDFLARED).is_none() {
            assert_eq!(program(None), Path::new("cloudflared"));
        }
    }
}
