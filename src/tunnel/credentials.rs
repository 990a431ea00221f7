//! The credentials of a tunnel: the file that cloudflared proves itself with. ferry looks at it before cloudflared does,
//! because it can say better what is wrong; the secret in it is not kept.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::error::{Advise, Exit};

/// A credentials file has a few hundred bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// What the API makes secrets of at least.
const SECRET_BYTES: usize = 32;

/// What ferry needs to know of a credentials file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The tunnel that they are for, by which cloudflared runs it.
    pub tunnel_id: String,
    /// What the tunnel was called when they were made, if they say so. cloudflared does not care.
    pub tunnel_name: Option<String>,
    /// Its permissions, where others than its owner may read it.
    pub open_to_others: Option<u32>,
}

/// Why there are no usable credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// No such file.
    #[error("the tunnel's credentials are missing: there is no {}", path.display())]
    Missing {
        /// Where they should be.
        path: PathBuf,
    },
    /// There is one that cannot be read.
    #[error("the tunnel's credentials {} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("{} holds no credentials of a tunnel: {why}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, without anything of what is in it.
        why: &'static str,
    },
    /// No file was named, and none found.
    #[error("no credentials of a tunnel called `{name}` were found in {}", directory.display())]
    NotFound {
        /// The tunnel.
        name: String,
        /// Where they are usually.
        directory: PathBuf,
    },
    /// No file was named, and several found.
    #[error("there are credentials of several tunnels called `{name}` in {}", directory.display())]
    Several {
        /// The tunnels.
        name: String,
        /// Where they are.
        directory: PathBuf,
    },
}

impl Advise for CredentialsError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreadable { path, source } if source.kind() == io::ErrorKind::PermissionDenied => {
                format!(
                    "make it readable for the user that ferry runs as: `ls -l {}` shows whose it is",
                    path.display()
                )
            }
            Self::Several { .. } => "name one of them as `credentials_file` in `[cloudflare]`".to_owned(),
            Self::Missing { .. } | Self::Unreadable { .. } | Self::Broken { .. } | Self::NotFound { .. } => {
                "`ferry setup` fetches them again".to_owned()
            }
        })
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Exit::NotPermitted,
            _ => Exit::Configuration,
        }
    }
}

impl Credentials {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => CredentialsError::Missing { path: path.to_owned() },
            _ => CredentialsError::Unreadable { path: path.to_owned(), source },
        };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        let mut content = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut content).map_err(failed)?;
        let read = Self::parse(&content).map_err(|why| CredentialsError::Broken { path: path.to_owned(), why })?;
        Ok(Self { open_to_others: (mode & 0o077 != 0).then_some(mode), ..read })
    }

    /// Finds those of a tunnel by its name, where no file is named: the API, and `cloudflared tunnel create`, put them
    /// into one directory under the tunnel's id.
    pub fn find(directory: &Path, name: &str) -> Result<PathBuf, CredentialsError> {
        let entries = fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        let json = entries.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        let mut of_that_name = json
            .filter(|path| Self::read(path).is_ok_and(|credentials| credentials.tunnel_name.as_deref() == Some(name)));
        match (of_that_name.next(), of_that_name.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(CredentialsError::NotFound { name: name.to_owned(), directory: directory.to_owned() }),
            (Some(_), Some(_)) => {
                Err(CredentialsError::Several { name: name.to_owned(), directory: directory.to_owned() })
            }
        }
    }

    fn parse(content: &[u8]) -> Result<Self, &'static str> {
        if content.trim_ascii_start().starts_with(b"-----BEGIN") {
            return Err("it is a certificate, such as cloudflared's cert.pem");
        }
        if content.trim_ascii().is_empty() {
            return Err("it is empty");
        }
        let Ok(keys) = serde_json::from_slice::<Map<String, Value>>(content) else { return Err("it is not JSON") };
        // As cloudflared reads it: any case.
        let text = |name: &str| {
            let (_, value) = keys.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
            value.as_str().filter(|value| !value.is_empty())
        };
        text("AccountTag").ok_or("it has no `AccountTag`")?;
        let secret = text("TunnelSecret").ok_or("it has no `TunnelSecret`")?;
        if STANDARD.decode(secret).map_or(0, |secret| secret.len()) < SECRET_BYTES {
            return Err("its `TunnelSecret` is no base64 of 32 bytes");
        }
        let id = text("TunnelID").ok_or("it has no `TunnelID`")?;
        if !is_uuid(id) {
            return Err("its `TunnelID` is no UUID");
        }
        Ok(Self { tunnel_id: id.to_owned(), tunnel_name: text("TunnelName").map(str::to_owned), open_to_others: None })
    }
}

/// Anything else cloudflared would take for a name, and look up with a certificate that is not there.
fn is_uuid(text: &str) -> bool {
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    groups == [8, 4, 4, 4, 12] && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "6ff42ae2-765d-4adf-8112-31c55c1551ef";

    fn file(name: &str) -> String {
        let secret = STANDARD.encode([7; 32]);
        format!(r#"{{"AccountTag":"acc","TunnelSecret":"{secret}","TunnelID":"{ID}","TunnelName":"{name}"}}"#)
    }

    fn write(path: &Path, content: &str, mode: u32) {
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_tunnel_is_known_and_the_secret_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write(&path, &file("x"), 0o400);
        let credentials = Credentials::read(&path).unwrap();
        assert_eq!((credentials.tunnel_id.as_str(), credentials.open_to_others), (ID, None));
        assert!(!format!("{credentials:?}").contains("BwcH"));

        write(&path, &file("x").replace("TunnelID", "tunnelid"), 0o644);
        let credentials = Credentials::read(&path).unwrap();
        assert_eq!((credentials.tunnel_id.as_str(), credentials.open_to_others), (ID, Some(0o644)));
    }

    #[test]
    fn what_is_wrong_is_said_without_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        for (content, why) in [
            (String::new(), "it is empty"),
            ("{".to_owned(), "it is not JSON"),
            ("[1]".to_owned(), "it is not JSON"),
            ("-----BEGIN ARGO TUNNEL TOKEN-----\nhunter2".to_owned(), "it is a certificate"),
            (file("x").replace("AccountTag", "Other"), "it has no `AccountTag`"),
            (file("x").replace("TunnelSecret", "Secret"), "it has no `TunnelSecret`"),
            (file("x").replace("BwcH", "!hunter2"), "its `TunnelSecret` is no base64 of 32 bytes"),
            (file("x").replace(ID, "hunter2"), "its `TunnelID` is no UUID"),
        ] {
            fs::write(&path, content).unwrap();
            let error = Credentials::read(&path).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(&format!("holds no credentials of a tunnel: {why}")), "{text}");
            assert!(!text.contains("hunter2") && error.hint().unwrap().contains("ferry setup"), "{text}");
        }
        fs::remove_file(&path).unwrap();
        let error = Credentials::read(&path).unwrap_err();
        assert!(error.to_string().contains("the tunnel's credentials are missing"), "{error}");
        let error = Credentials::read(dir.path()).unwrap_err();
        assert!(error.to_string().ends_with("cannot be read"), "a directory: {error}");
        let denied = CredentialsError::Unreadable { path, source: io::ErrorKind::PermissionDenied.into() };
        assert!(denied.hint().unwrap().contains("readable for the user that ferry runs as"));
        assert_eq!(denied.exit(), Exit::NotPermitted);
    }

    #[test]
    fn they_are_found_by_the_tunnels_name_alone() {
        let dir = tempfile::tempdir().unwrap();
        let find = |name| Credentials::find(dir.path(), name);
        write(&dir.path().join("other.json"), &file("other"), 0o600);
        write(&dir.path().join("cert.pem"), &file("mine"), 0o600);
        write(&dir.path().join("broken.json"), "{", 0o600);
        assert!(matches!(find("mine"), Err(CredentialsError::NotFound { .. })));
        write(&dir.path().join("mine.json"), &file("mine"), 0o600);
        assert_eq!(find("mine").unwrap(), dir.path().join("mine.json"));
        write(&dir.path().join("mine-again.json"), &file("mine"), 0o600);
        assert!(matches!(find("mine"), Err(CredentialsError::Several { .. })));
        assert!(matches!(Credentials::find(&dir.path().join("no"), "x"), Err(CredentialsError::NotFound { .. })));
    }
}
