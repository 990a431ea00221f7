//! Where ferry keeps what it writes, and how it writes: directories 0700, files 0600, each file whole or not at all.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::env;
use crate::error::Advise;

/// The name of ferry's directory under every base directory.
const DIRECTORY: &str = "mcp-ferry";

/// Why no place for ferry's files was found.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// Neither the environment nor the password database names a home.
    #[error("the home directory is unknown: `HOME` is not set and the password database has no entry for this user")]
    NoHome,
}

impl Advise for PathError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NoHome => Some(format!("set `{}` to a directory that ferry may write to", env::FERRY_STATE_DIR)),
        }
    }
}

/// The user's home directory.
pub fn home() -> Result<PathBuf, PathError> {
    absolute(env::HOME).or_else(home_of_user).ok_or(PathError::NoHome)
}

/// Where the machine-written state lives: `FERRY_STATE_DIR`, else `$XDG_STATE_HOME/mcp-ferry`, else
/// `~/.local/state/mcp-ferry`. Not created here.
pub fn state_dir() -> Result<PathBuf, PathError> {
    if let Some(dir) = named(env::FERRY_STATE_DIR) {
        return Ok(dir);
    }
    match absolute(env::XDG_STATE_HOME) {
        Some(base) => Ok(base.join(DIRECTORY)),
        None => Ok(home()?.join(".local/state").join(DIRECTORY)),
    }
}

/// The user's own configuration file: `$XDG_CONFIG_HOME/mcp-ferry/config.toml`, else
/// `~/.config/mcp-ferry/config.toml`. Need not exist.
pub fn own_config() -> Result<PathBuf, PathError> {
    let base = absolute(env::XDG_CONFIG_HOME).map_or_else(|| Ok(home()?.join(".config")), Ok::<_, PathError>)?;
    Ok(base.join(DIRECTORY).join("config.toml"))
}

/// Where a configuration file is looked for: `chosen` or `FERRY_CONFIG` and nowhere else, or the user's own and then
/// the system's.
pub fn config_candidates(chosen: Option<&Path>) -> Result<Vec<PathBuf>, PathError> {
    if let Some(path) = chosen.map(Path::to_owned).or_else(|| named(env::FERRY_CONFIG)) {
        return Ok(vec![path]);
    }
    let system = Path::new("/etc").join(DIRECTORY).join("config.toml");
    // A service without a home still has the system's.
    Ok(own_config().map_or_else(|_| vec![system.clone()], |own| vec![own, system.clone()]))
}

/// Where sockets live: `FERRY_RUNTIME_DIR`; else the state directory where `FERRY_STATE_DIR` names that, since a second
/// ferry of one user has another one; else `$XDG_RUNTIME_DIR/mcp-ferry` where there is such a base; else the state
/// directory. Never `$TMPDIR`, which macOS clears. Not created here.
pub fn runtime_dir(state_dir: &Path) -> PathBuf {
    let of_session = || {
        let base = absolute(env::XDG_RUNTIME_DIR).filter(|base| base.is_dir() && named(env::FERRY_STATE_DIR).is_none());
        base.map(|base| base.join(DIRECTORY))
    };
    named(env::FERRY_RUNTIME_DIR).or_else(of_session).unwrap_or_else(|| state_dir.to_owned())
}

/// Where logs live: `~/Library/Logs/mcp-ferry` on macOS unless `FERRY_STATE_DIR` moves the state elsewhere,
/// `<state>/logs` otherwise. Not created here.
pub fn log_dir(state_dir: &Path) -> PathBuf {
    if cfg!(target_os = "macos")
        && named(env::FERRY_STATE_DIR).is_none()
        && let Ok(home) = home()
    {
        return home.join("Library/Logs").join(DIRECTORY);
    }
    state_dir.join("logs")
}

/// Makes a directory, and those above it, that nobody else may enter. One that exists is left as it is: somebody chose
/// its mode (a mounted volume, a service manager's `StateDirectory`).
pub fn make_private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Options for a file that nobody else may read.
pub fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Replaces a file in one step: whoever reads it, and whatever fails in between, sees the old content or the new one.
/// It is on the disk when this returns.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, content, File::sync_all)?;
    // The new name is an entry of the directory; without this a power cut may bring the old file back.
    File::open(directory_of(path))?.sync_all()
}

/// Like [`write_atomically`], for a file that is somebody else's: it keeps the mode it has. A new one is private.
pub fn rewrite(path: &Path, content: &[u8]) -> io::Result<()> {
    let mode = fs::metadata(path).ok().map(|found| found.permissions());
    replace(path, content, |file| {
        if let Some(mode) = mode {
            file.set_permissions(mode)?;
        }
        file.sync_all()
    })?;
    File::open(directory_of(path))?.sync_all()
}

/// Like [`write_atomically`], but may be lost, whole, when the power fails: for facts that mean nothing after a reboot,
/// written by a thread that must not wait for a disk.
pub(crate) fn write_atomically_until_reboot(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, content, |_| Ok(()))
}

fn replace(path: &Path, content: &[u8], settle: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    // Two writers in one process must not share a temporary file either.
    static WRITES: AtomicU64 = AtomicU64::new(0);

    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    name.push(format!(".{}.{}", std::process::id(), WRITES.fetch_add(1, Ordering::Relaxed)));
    let temporary = directory_of(path).join(name);
    let write = || {
        // Truncated rather than refused: the leftover of a killed process that had the same pid is in nobody's way.
        let mut file = private_file().write(true).create(true).truncate(true).open(&temporary)?;
        file.write_all(content)?;
        settle(&file)?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A variable's value as a path; an empty one counts as unset.
fn named(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The same, where the XDG specification has relative paths ignored.
fn absolute(variable: &str) -> Option<PathBuf> {
    named(variable).filter(|path| path.is_absolute())
}

fn home_of_user() -> Option<PathBuf> {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok()??;
    (!user.dir.as_os_str().as_bytes().is_empty()).then_some(user.dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/era.json");
        make_private_dir(path.parent().unwrap()).unwrap();
        write_atomically(&path, b"old and longer").unwrap();
        write_atomically(&path, b"new").unwrap();

        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "a temporary file stayed behind");
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_no_temporary_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), b"").unwrap();

        write_atomically(&path, b"x").unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
