//! The secret bytes that session ids are made with. They outlive ferry, so that sessions do.

use std::fs;
use std::io;
use std::path::Path;

use crate::{paths, random};

/// Below the state directory.
const FILE: &str = "session.key";

/// Reads the key, or makes it at the first start.
///
/// # Errors
/// Where the file can be neither read nor made. One of another length is damaged and made anew: that costs the sessions
/// that are open, and nothing else.
pub fn load_or_make(state_dir: &Path) -> io::Result<[u8; 32]> {
    let path = state_dir.join(FILE);
    match fs::read(&path) {
        Ok(bytes) => {
            if let Ok(key) = bytes.try_into() {
                return Ok(key);
            }
            tracing::warn!(path = %path.display(), "the session key is damaged: making a new one");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let key = random::bytes();
    paths::write_atomically(&path, &key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let key = load_or_make(dir.path()).unwrap();
        assert_ne!(key, [0; 32]);
        assert_eq!(load_or_make(dir.path()).unwrap(), key);
        let path = dir.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, b"short").unwrap();
        assert_ne!(load_or_make(dir.path()).unwrap(), key);
        assert_eq!(fs::read(&path).unwrap().len(), 32);
    }
}
