//! A state directory for one run: several `ferry try` may run at once, beside a `ferry run`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::paths;

use super::SupervisorError;
use super::leftovers::{self, Found};
use super::lock::Lock;

/// `<base>/<pid>-<n>`, locked from its first moment.
#[derive(Debug)]
pub(super) struct ScratchDir {
    pub path: PathBuf,
    pub lock: Lock,
}

impl ScratchDir {
    /// Ends what killed runs under `base` have left, removes their directories, and makes a new one.
    pub(super) fn make(base: &Path) -> Result<(Self, Vec<Found>), SupervisorError> {
        let failed = |source| SupervisorError::StateDir { path: base.to_owned(), source };
        paths::make_private_dir(base).map_err(failed)?;
        let mut found = Vec::new();
        for abandoned in abandoned(base).map_err(failed)? {
            found.extend(leftovers::sweep(&abandoned.path));
            let _ = fs::remove_dir_all(&abandoned.path);
        }
        // Under the common lock nobody takes the new directory for an abandoned one before it has its own.
        let _all = Lock::wait(base).map_err(failed)?;
        let path = (0..1000_u32)
            .map(|number| base.join(format!("{}-{number}", std::process::id())))
            .find(|path| !path.exists())
            .ok_or_else(|| failed(io::ErrorKind::AlreadyExists.into()))?;
        paths::make_private_dir(&path).map_err(failed)?;
        let lock = Lock::take(&path)?;
        Ok((Self { path, lock }, found))
    }
}

/// The directories whose run is dead. Each is held while it is swept, so that nobody else does the same.
fn abandoned(base: &Path) -> io::Result<Vec<ScratchDir>> {
    let _all = Lock::wait(base)?;
    let directories = fs::read_dir(base)?.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir());
    Ok(directories.filter_map(|path| Some(ScratchDir { lock: Lock::take(&path).ok()?, path })).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_has_its_own_and_a_dead_ones_is_removed() {
        let base = tempfile::tempdir().unwrap();
        let dead = base.path().join("1-0");
        fs::create_dir(&dead).unwrap();
        let (first, _) = ScratchDir::make(base.path()).unwrap();
        let (second, _) = ScratchDir::make(base.path()).unwrap();
        assert!(!dead.exists());
        assert!(first.path.exists() && second.path.exists() && first.path != second.path);

        drop(first.lock); // as when its process dies
        let (third, _) = ScratchDir::make(base.path()).unwrap();
        assert!(second.path.exists());
        assert_eq!(third.path, first.path, "its name is free again");
    }
}
