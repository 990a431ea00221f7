//! What Linux and macOS do differently, in one place. Everything else in ferry is the same on both.
//!
//! | | Linux | macOS |
//! | --- | --- | --- |
//! | a child dies with ferry | `PR_SET_PDEATHSIG`, and the guard | the guard |
//! | orphans | come to ferry (`PR_SET_CHILD_SUBREAPER`) | go to launchd |
//! | the process table | `/proc` | `proc_pidinfo`, `sysctl` |
//! | descriptors above 2 | `close_range` | a loop |

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(super) use linux::*;

#[cfg(target_os = "macos")]
mod macos;
#[cfg(target_os = "macos")]
pub(super) use macos::*;

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!("ferry supervises processes on Linux and macOS");

use std::ops::Range;

use nix::libc;
use nix::unistd::Pid;

/// What the system knows of one living process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    /// When it started, in the system's own unit; with the pid and the boot this names one process for ever.
    pub start: u64,
    pub parent: Pid,
    pub group: Pid,
}

/// Every living process of this system that this user may look at. Zombies do not live.
pub(super) fn living() -> impl Iterator<Item = (Pid, Identity)> {
    pids().into_iter().filter_map(|pid| Some((pid, identity(pid)?)))
}

/// Marks descriptors close-on-exec one by one. To be called between fork and exec: system calls only.
fn mark_close_on_exec(descriptors: Range<libc::rlim_t>) {
    for descriptor in descriptors {
        let Ok(descriptor) = libc::c_int::try_from(descriptor) else { return };
        #[expect(unsafe_code, reason = "the descriptor may not be open, so no type can own or borrow it")]
        // SAFETY: one flag of one descriptor; on one that is not open this is EBADF.
        unsafe {
            libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_process_table_knows_this_process() {
        let me = Pid::this();
        let identity = identity(me).unwrap();
        assert_eq!((identity.parent, identity.group), (Pid::parent(), nix::unistd::getpgrp()));
        assert!(living().any(|other| other == (me, identity)));
        assert!(!boot_id().unwrap().is_empty());
        assert!(!name(me).is_empty());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "no steward runs in the library's unit tests")]
    fn a_variable_of_another_process_is_found_and_only_as_a_whole() {
        // A program that says that it runs: until exec is over, the kernel shows no environment.
        let mut child = Command::new("sh")
            .args(["-c", "echo ready; read forever"])
            .stdin(Stdio::piped())
            .env("MCP_FERRY_RUN", "abc")
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0; 6]).unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let found = ["MCP_FERRY_RUN=abc", "MCP_FERRY_RUN=ab", "MCP_FERRY_RUN=abcd"]
            .map(|variable| has_variable(pid, variable.as_bytes()));
        let group = identity(pid).unwrap().group;
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, [true, false, false]);
        assert_eq!(group, pid);
        assert_eq!(identity(pid), None);
    }
}
