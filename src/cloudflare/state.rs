//! `cloudflare.json`: what was made at Cloudflare, and what the rest of ferry must know of it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::plan::Kind;
use crate::paths;
use crate::secret::Secret;

/// Below the state directory.
pub const FILE: &str = "cloudflare.json";

/// What is remembered. Nothing in it is needed to find things again; without it they are found by their names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The name that all this is for.
    pub hostname: Option<String>,
    /// The account.
    pub account_id: Option<String>,
    /// The zone.
    pub zone_id: Option<String>,
    /// Who signs the assertions that come with requests: `<team>.cloudflareaccess.com`.
    pub team_domain: Option<String>,
    /// For whom they are signed: the audience tag of the application.
    pub audience: Option<String>,
    /// The tunnel.
    pub tunnel_id: Option<String>,
    /// Its credentials.
    pub credentials_file: Option<std::path::PathBuf>,
    /// The DNS record.
    pub record_id: Option<String>,
    /// The identity provider.
    pub provider_id: Option<String>,
    /// The policy.
    pub policy_id: Option<String>,
    /// The application.
    pub app_id: Option<String>,
    /// What ferry made itself, and may remove.
    pub made: BTreeSet<Kind>,
    /// The tunnel of the Python tool that this one replaces, until it is gone.
    pub replaced_tunnel: Option<String>,
    /// What belongs to the hostname before this one.
    pub previous: Option<Previous>,
    /// The key of [`State::pushed_secret`].
    pub secrets_key: Option<String>,
    /// The MAC of the Google client secret that Cloudflare has; it never gives the secret back.
    pub pushed_secret: Option<String>,
    /// What a later ferry wrote.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// What an earlier hostname left behind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Previous {
    /// The hostname.
    pub hostname: String,
    /// Its zone.
    pub zone_id: Option<String>,
    /// Its record.
    pub record_id: Option<String>,
    /// Its application.
    pub app_id: Option<String>,
    /// Its policy.
    pub policy_id: Option<String>,
}

impl State {
    /// Reads the file. One that is absent or damaged is no state, which costs nothing but a look at the names.
    pub fn load(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), "not readable, so everything is found by its name: {error}");
                Self::default()
            }),
            Err(_) => Self::default(),
        }
    }

    /// Replaces the file, if it says something else.
    pub fn save(&self, state_dir: &Path) -> io::Result<()> {
        let path = state_dir.join(FILE);
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        if fs::read(&path).is_ok_and(|there| there == text) {
            return Ok(());
        }
        paths::make_private_dir(state_dir)?;
        paths::write_atomically(&path, &text)
    }

    /// Removes the file.
    pub fn remove(state_dir: &Path) -> io::Result<()> {
        match fs::remove_file(state_dir.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether this is the secret that Cloudflare has.
    pub fn has_pushed(&self, secret: &Secret) -> bool {
        let decoded = |text: &Option<String>| text.as_ref().and_then(|text| STANDARD.decode(text).ok());
        let (Some(key), Some(mac)) = (decoded(&self.secrets_key), decoded(&self.pushed_secret)) else { return false };
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &key), secret.expose().as_bytes(), &mac).is_ok()
    }

    /// Remembers that Cloudflare has this secret, without remembering the secret.
    pub fn note_pushed(&mut self, secret: &Secret) {
        let mut key = [0; 32];
        if rand::fill(&mut key).is_err() {
            // Then it is pushed again next time.
            self.pushed_secret = None;
            return;
        }
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), secret.expose().as_bytes());
        self.secrets_key = Some(STANDARD.encode(key));
        self.pushed_secret = Some(STANDARD.encode(mac));
    }

    /// The same, for another hostname: what was made for the one before is set aside.
    #[must_use]
    pub fn for_hostname(mut self, hostname: &str) -> Self {
        if let Some(before) = self.hostname.take().filter(|before| before != hostname) {
            self.previous = Some(Previous {
                hostname: before,
                zone_id: self.zone_id.take(),
                record_id: self.record_id.take(),
                app_id: self.app_id.take(),
                policy_id: self.policy_id.take(),
            });
            self.audience = None;
            self.made.retain(|kind| matches!(kind, Kind::Tunnel | Kind::Provider));
        }
        self.hostname = Some(hostname.to_owned());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_recognised_and_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = State::default();
        assert!(!state.has_pushed(&Secret::new("hunter2")));
        state.note_pushed(&Secret::new("hunter2"));
        state.save(dir.path()).unwrap();
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert!(!text.contains("hunter2"));
        let read = State::load(dir.path());
        assert_eq!(read, state);
        assert!(read.has_pushed(&Secret::new("hunter2")) && !read.has_pushed(&Secret::new("hunter3")));
    }

    #[test]
    fn a_damaged_file_is_no_state_and_a_newer_one_keeps_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(State::load(dir.path()), State::default());
        fs::write(dir.path().join(FILE), r#"{"app_id":"a","later":[1]}"#).unwrap();
        let state = State::load(dir.path());
        state.save(dir.path()).unwrap();
        assert!(fs::read_to_string(dir.path().join(FILE)).unwrap().contains("later"));
    }

    #[test]
    fn another_hostname_sets_the_first_aside_but_keeps_the_tunnel() {
        let state = State {
            hostname: Some("a.example.com".to_owned()),
            tunnel_id: Some("t".to_owned()),
            app_id: Some("p".to_owned()),
            ..State::default()
        };
        let same = state.clone().for_hostname("a.example.com");
        assert_eq!(same, state);
        let other = state.for_hostname("b.example.com");
        assert_eq!((other.tunnel_id.as_deref(), other.app_id.as_deref()), (Some("t"), None));
        assert_eq!(other.previous.unwrap().app_id.as_deref(), Some("p"));
    }
}
