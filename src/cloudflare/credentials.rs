//! The credentials file of a tunnel, as cloudflared reads it.

use std::fs;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::paths;

/// The file's content. Its secret is not to be shown: there is no `Debug`.
#[derive(Serialize, Deserialize)]
pub struct Credentials {
    #[serde(rename = "AccountTag")]
    account: String,
    #[serde(rename = "TunnelID")]
    tunnel: String,
    #[serde(rename = "TunnelSecret")]
    secret: String,
}

/// What a tunnel's token says, in Base64.
#[derive(Deserialize)]
struct Token {
    a: String,
    t: String,
    s: String,
}

impl Credentials {
    /// From the token that Cloudflare gives for a tunnel.
    pub fn from_token(token: &str) -> Option<Self> {
        let Token { a, t, s } = serde_json::from_slice(&STANDARD.decode(token.trim()).ok()?).ok()?;
        (STANDARD.decode(&s).is_ok_and(|secret| !secret.is_empty())).then_some(Self {
            account: a,
            tunnel: t,
            secret: s,
        })
    }

    /// Writes the file; nobody else may read it.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(directory) = path.parent() {
            paths::make_private_dir(directory)?;
        }
        paths::write_atomically(path, &serde_json::to_vec(self).map_err(io::Error::other)?)
    }
}

/// Whether the file has what this tunnel needs.
pub fn are_there(path: &Path, tunnel_id: &str) -> bool {
    let read = fs::read(path).ok().and_then(|text| serde_json::from_slice::<Credentials>(&text).ok());
    read.is_some_and(|found| {
        found.tunnel.eq_ignore_ascii_case(tunnel_id)
            && STANDARD.decode(found.secret).is_ok_and(|secret| secret.len() >= 32)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_becomes_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".cloudflared/t.json");
        assert!(!are_there(&path, "t"));
        let secret = STANDARD.encode([7; 32]);
        let token = STANDARD.encode(format!(r#"{{"a":"acc","t":"t","s":"{secret}"}}"#));
        Credentials::from_token(&token).unwrap().write(&path).unwrap();
        assert!(are_there(&path, "T") && !are_there(&path, "u"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let found: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(found, serde_json::json!({ "AccountTag": "acc", "TunnelID": "t", "TunnelSecret": secret }));
        for token in ["", "x", &STANDARD.encode("{}")] {
            assert!(Credentials::from_token(token).is_none(), "{token}");
        }
    }
}
