//! `requestState` on its way through a client: sealed, so that it works for nobody but whom it was made for.
//!
//! A stdio server cannot know which principal it talks to, so it cannot stop one user from replaying another's state.
//! ferry can: what leaves is `f1.<base64url(nonce ‖ AES-256-GCM(key, nonce, expiry ‖ state, aad))>`, bound to endpoint,
//! identity, method and name. It lives for [`LIFETIME`] and survives a restart, as the key does.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::random;

/// How long a sealed state can be brought back.
pub const LIFETIME: Duration = Duration::from_mins(15);

const PREFIX: &str = "f1.";

/// What a state is bound to: it opens in the same place only.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The endpoint's name.
    pub endpoint: &'a str,
    /// Who asked.
    pub identity: &'a str,
    /// The method.
    pub method: &'a str,
    /// The tool, prompt or resource.
    pub name: &'a str,
}

impl Place<'_> {
    /// Each part with its length in front, so that no two places read the same.
    fn aad(&self) -> Aad<Vec<u8>> {
        let mut bytes = Vec::new();
        for part in [self.endpoint, self.identity, self.method, self.name] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        Aad::from(bytes)
    }
}

/// Seals and opens states.
pub struct Sealer(LessSafeKey);

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(****)")
    }
}

impl Sealer {
    /// Derives the key from ferry's 32 secret bytes; other uses of those derive other keys.
    pub fn new(secret: &[u8; 32]) -> Self {
        let extracted = Salt::new(HKDF_SHA256, b"mcp-ferry").extract(secret);
        let key = extracted.expand(&[b"request state"], &AES_256_GCM).map(UnboundKey::from);
        Self(LessSafeKey::new(key.expect("HKDF gives 32 bytes")))
    }

    /// Seals `state`.
    pub fn seal(&self, place: Place<'_>, state: &str) -> String {
        self.seal_until(place, state, SystemTime::now() + LIFETIME)
    }

    fn seal_until(&self, place: Place<'_>, state: &str, expiry: SystemTime) -> String {
        let nonce: [u8; NONCE_LEN] = random::bytes();
        let mut text = seconds(expiry).to_be_bytes().to_vec();
        text.extend_from_slice(state.as_bytes());
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), place.aad(), &mut text)
            .expect("a state is far shorter than what AES-GCM can seal");
        let mut sealed = nonce.to_vec();
        sealed.append(&mut text);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(sealed))
    }

    /// The state that was sealed, if it was sealed here, for this place, and not too long ago.
    pub fn open(&self, place: Place<'_>, sealed: &str) -> Option<String> {
        let bytes = URL_SAFE_NO_PAD.decode(sealed.strip_prefix(PREFIX)?).ok()?;
        let (nonce, text) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut text = text.to_vec();
        let opened = self.0.open_in_place(Nonce::assume_unique_for_key(*nonce), place.aad(), &mut text).ok()?;
        let (expiry, state) = opened.split_first_chunk::<8>()?;
        if u64::from_be_bytes(*expiry) <= seconds(SystemTime::now()) {
            return None;
        }
        String::from_utf8(state.to_vec()).ok()
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'_> = Place { endpoint: "notes", identity: "access:t:me", method: "tools/call", name: "add" };

    #[test]
    fn a_state_opens_where_it_was_sealed_and_nowhere_else() {
        let seals = Sealer::new(&[7; 32]);
        let sealed = seals.seal(PLACE, "what the server said");
        assert!(!sealed.contains("server"));
        assert_ne!(sealed, seals.seal(PLACE, "what the server said"), "each has its own nonce");
        assert_eq!(seals.open(PLACE, &sealed).as_deref(), Some("what the server said"));
        assert_eq!(Sealer::new(&[7; 32]).open(PLACE, &sealed).as_deref(), Some("what the server said"), "restarted");
        for (other, place) in [
            ("endpoint", Place { endpoint: "mail", ..PLACE }),
            ("identity", Place { identity: "access:t:you", ..PLACE }),
            ("method", Place { method: "prompts/get", ..PLACE }),
            ("name", Place { name: "delete", ..PLACE }),
            ("split", Place { method: "tools/cal", name: "ladd", ..PLACE }),
        ] {
            assert_eq!(seals.open(place, &sealed), None, "another {other}");
        }
        assert_eq!(Sealer::new(&[8; 32]).open(PLACE, &sealed), None, "another key");
    }

    #[test]
    fn neither_an_old_nor_an_altered_state_opens() {
        let seals = Sealer::new(&[7; 32]);
        let old = seals.seal_until(PLACE, "state", SystemTime::now() - Duration::from_secs(1));
        assert_eq!(seals.open(PLACE, &old), None);
        let sealed = seals.seal(PLACE, "state");
        for at in 0..sealed.len() {
            let altered =
                format!("{}{}{}", &sealed[..at], if &sealed[at..=at] == "A" { "B" } else { "A" }, &sealed[at + 1..]);
            assert_eq!(seals.open(PLACE, &altered), None, "{altered}");
        }
        for garbage in ["", "f1.", "f1.AAAA", "state", "f2.AAAA"] {
            assert_eq!(seals.open(PLACE, garbage), None);
        }
    }
}
