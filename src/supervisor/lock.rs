//! One ferry per state directory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::paths;

use super::SupervisorError;

const FILE: &str = "lock";

/// Holds a state directory until it is dropped or the process ends, however that comes about.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock of `dir`, and writes this process's id into it for whoever comes second.
    pub(super) fn take(dir: &Path) -> Result<Self, SupervisorError> {
        let path = dir.join(FILE);
        let directory = |source| SupervisorError::StateDir { path: dir.to_owned(), source };
        let file = open(&path).map_err(directory)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                note_pid(&mut file).map_err(directory)?;
                Ok(Self { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                Err(SupervisorError::AlreadyRunning { state_dir: dir.to_owned(), pid: read_pid(&mut file) })
            }
            Err((_, errno)) => Err(directory(errno.into())),
        }
    }

    /// Waits until the lock is free. For moments only.
    pub(super) fn wait(dir: &Path) -> io::Result<Self> {
        match Flock::lock(open(&dir.join(FILE))?, FlockArg::LockExclusive) {
            Ok(file) => Ok(Self { _file: file }),
            Err((_, errno)) => Err(errno.into()),
        }
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    paths::private_file().read(true).write(true).create(true).truncate(false).open(path)
}

fn note_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Advise, Exit};

    #[test]
    fn the_second_one_is_told_who_was_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path()).unwrap();
        let error = Lock::take(dir.path()).unwrap_err();
        let expected =
            format!("another ferry (pid {}) is running with the state in {}", std::process::id(), dir.path().display());
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.exit(), Exit::AlreadyRunning);
        drop(first);
        Lock::take(dir.path()).unwrap();
    }
}
