//! Session ids that tell, to ferry alone, what the session was: they survive a restart of ferry and of its servers.
//!
//! Hosted clients have been seen to keep a session id for ever, a 404 notwithstanding. So an id carries what it takes
//! to open the session anew, under a MAC that binds it to one identity and one endpoint. It is no credential: each
//! request is authenticated by itself, and an id works for the identity it was made for and for no other.
//!
//! `base64url(payload ‖ HMAC-SHA-256(key, len(identity) ‖ identity ‖ payload))`

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::mcp::version::LEGACY;
use crate::random;

const FORMAT: u8 = 1;
const MAC_LENGTH: usize = 32;
const RANDOM_LENGTH: usize = 16;
/// Longer names are cut: an id must fit any client's idea of a header.
const MAX_NAME: usize = 32;
const MAX_ENDPOINT: usize = 64;

/// What a client said it can do for a server, as far as ferry's routing depends on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "five capabilities, each there or not")]
pub struct Abilities {
    /// `roots`.
    pub roots: bool,
    /// `sampling`.
    pub sampling: bool,
    /// `sampling.tools`.
    pub sampling_tools: bool,
    /// `elicitation` in form mode: `elicitation.form`, or an empty object.
    pub elicitation_form: bool,
    /// `elicitation.url`.
    pub elicitation_url: bool,
}

impl Abilities {
    fn bits(self) -> u8 {
        let flags = [self.roots, self.sampling, self.sampling_tools, self.elicitation_form, self.elicitation_url];
        flags.iter().enumerate().fold(0, |bits, (at, flag)| bits | (u8::from(*flag) << at))
    }

    fn from_bits(bits: u8) -> Self {
        let flag = |at: u8| bits & (1 << at) != 0;
        Self {
            roots: flag(0),
            sampling: flag(1),
            sampling_tools: flag(2),
            elicitation_form: flag(3),
            elicitation_url: flag(4),
        }
    }
}

/// What an id tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The endpoint's name.
    pub endpoint: String,
    /// The negotiated protocol version.
    pub version: &'static str,
    /// What the client can do.
    pub abilities: Abilities,
    /// The client's name, cut to 32 bytes.
    pub client_name: String,
    /// The client's version, cut to 32 bytes.
    pub client_version: String,
}

/// Mints and checks session ids.
#[derive(Debug)]
pub struct SessionIds {
    key: hmac::Key,
}

impl SessionIds {
    /// Derives the key from ferry's 32 secret bytes; other uses of those derive other keys.
    ///
    /// # Panics
    /// Never for 32 bytes of secret.
    pub fn new(secret: &[u8; 32]) -> Self {
        let derived = Salt::new(HKDF_SHA256, b"mcp-ferry").extract(secret);
        let derived = derived.expand(&[b"session id"], hmac::HMAC_SHA256).expect("HKDF gives 32 bytes");
        Self { key: hmac::Key::from(derived) }
    }

    /// A new id for `identity`.
    pub fn mint(&self, identity: &str, told: &Told) -> String {
        let mut payload = vec![FORMAT];
        let version = LEGACY.iter().position(|version| *version == told.version).unwrap_or(LEGACY.len() - 1);
        payload.push(u8::try_from(version).expect("there are few versions"));
        payload.push(told.abilities.bits());
        for (text, max) in
            [(&told.endpoint, MAX_ENDPOINT), (&told.client_name, MAX_NAME), (&told.client_version, MAX_NAME)]
        {
            let text = cut(text, max);
            payload.push(u8::try_from(text.len()).expect("texts are cut short"));
            payload.extend_from_slice(text.as_bytes());
        }
        payload.extend_from_slice(&random::bytes::<RANDOM_LENGTH>());
        let mac = self.mac(identity, &payload);
        payload.extend_from_slice(mac.as_ref());
        URL_SAFE_NO_PAD.encode(payload)
    }

    /// What `id` tells, if it was minted here for this identity and this endpoint.
    pub fn verify(&self, identity: &str, endpoint: &str, id: &str) -> Option<Told> {
        let bytes = URL_SAFE_NO_PAD.decode(id).ok()?;
        let (payload, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC_LENGTH)?)?;
        hmac::verify(&self.key, &input(identity, payload), mac).ok()?;
        let [FORMAT, version, abilities, rest @ ..] = payload else { return None };
        let mut rest = rest;
        let mut text = || {
            let (length, after) = rest.split_first()?;
            let (text, after) = after.split_at_checked(usize::from(*length))?;
            rest = after;
            String::from_utf8(text.to_vec()).ok()
        };
        let told = Told {
            endpoint: text()?,
            version: LEGACY.get(usize::from(*version))?,
            abilities: Abilities::from_bits(*abilities),
            client_name: text()?,
            client_version: text()?,
        };
        (told.endpoint == cut(endpoint, MAX_ENDPOINT)).then_some(told)
    }

    fn mac(&self, identity: &str, payload: &[u8]) -> hmac::Tag {
        hmac::sign(&self.key, &input(identity, payload))
    }
}

/// The length in front keeps an identity's end and a payload's beginning apart.
fn input(identity: &str, payload: &[u8]) -> Vec<u8> {
    let mut input = (identity.len() as u64).to_be_bytes().to_vec();
    input.extend_from_slice(identity.as_bytes());
    input.extend_from_slice(payload);
    input
}

/// At most `max` bytes of `text`, whole characters.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told() -> Told {
        Told {
            endpoint: "notes".into(),
            version: "2025-06-18",
            abilities: Abilities { roots: true, elicitation_url: true, ..Abilities::default() },
            client_name: "é".repeat(16),
            client_version: "1.2.3".into(),
        }
    }

    #[test]
    fn an_id_tells_what_it_was_given_to_its_own_identity_and_endpoint_alone() {
        let ids = SessionIds::new(&[7; 32]);
        let id = ids.mint("local", &told());
        assert!(id.len() < 400 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{id}");
        assert_ne!(id, ids.mint("local", &told()));
        assert_eq!(ids.verify("local", "notes", &id), Some(told()));
        assert_eq!(ids.verify("access:x:y", "notes", &id), None);
        assert_eq!(ids.verify("local", "mail", &id), None);
        assert_eq!(SessionIds::new(&[8; 32]).verify("local", "notes", &id), None);
        assert_eq!(SessionIds::new(&[7; 32]).verify("local", "notes", &id), Some(told()), "after a restart");
    }

    #[test]
    fn no_altered_id_verifies() {
        let ids = SessionIds::new(&[7; 32]);
        let id = ids.mint("local", &told());
        for at in 0..id.len() {
            for replacement in ["A", "b", "_", "=", "é", ""] {
                let altered = format!("{}{replacement}{}", &id[..at], &id[at + 1..]);
                if altered != id {
                    assert_eq!(ids.verify("local", "notes", &altered), None, "{altered}");
                }
            }
        }
        for garbage in ["", "a", "AAAA", &"A".repeat(1000)] {
            assert_eq!(ids.verify("local", "notes", garbage), None);
        }
    }

    #[test]
    fn long_names_are_cut_at_characters() {
        let ids = SessionIds::new(&[7; 32]);
        let long = Told { client_name: format!("x{}", "é".repeat(500)), client_version: "v".repeat(500), ..told() };
        let id = ids.mint("local", &long);
        assert!(id.len() < 400);
        assert_eq!(ids.verify("local", "notes", &id).unwrap().client_name, format!("x{}", "é".repeat(15)));
    }
}
