//! Linux: `prctl`, `close_range`, `/proc`.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::Identity;

/// Whether the system ends a child whose parent has gone.
pub(in crate::supervisor) const HAS_PARENT_DEATH_SIGNAL: bool = true;

/// What a pipe is enlarged to: `/proc/sys/fs/pipe-max-size` as it comes with the system.
const PIPE_BYTES: libc::c_int = 1024 * 1024;

/// How many descriptors ferry may ask for, of a hard limit.
pub(in crate::supervisor) fn most_descriptors(hard: libc::rlim_t) -> libc::rlim_t {
    hard
}

/// From now on orphans below this process become its children, so that they can be seen, reaped and ended.
pub(in crate::supervisor) fn become_subreaper() -> io::Result<()> {
    Ok(prctl::set_child_subreaper(true)?)
}

/// Asks for SIGKILL when the thread that forked this process ends. To be called between fork and exec.
pub(in crate::supervisor) fn die_with(parent: Pid) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have died before the call above; then nobody would ever send the signal.
    if nix::unistd::getppid() == parent { Ok(()) } else { Err(io::ErrorKind::NotConnected.into()) }
}

/// Marks every descriptor above 2 close-on-exec. To be called between fork and exec: system calls only.
pub(in crate::supervisor) fn close_on_exec_above_2(limit: libc::rlim_t) {
    #[expect(unsafe_code, reason = "nix does not wrap close_range, and libc's wrapper is missing in older libcs")]
    // SAFETY: a system call on integers; it touches no memory of this process.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done != 0 {
        // Before Linux 5.11, or forbidden by a container's filter. Everything ferry opens there is close-on-exec from
        // birth, so this loop is for what ferry inherited, which has small numbers; a container's limit may be 10⁹.
        super::mark_close_on_exec(3..limit.min(4096));
    }
}

/// Makes room in a pipe, so that a large result needs few wake-ups. Best effort.
pub(in crate::supervisor) fn enlarge_pipe(pipe: BorrowedFd<'_>) {
    #[expect(unsafe_code, reason = "nix' wrapper is behind a feature of its own; one integer call")]
    // SAFETY: the descriptor is borrowed, hence open; F_SETPIPE_SZ takes an integer.
    unsafe {
        libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE_BYTES);
    }
}

/// A text that is another after every boot.
pub(in crate::supervisor) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// This very program, even if its file has been replaced or deleted since (an upgrade).
pub(in crate::supervisor) fn this_program() -> io::Result<PathBuf> {
    let link = PathBuf::from("/proc/self/exe");
    if link.exists() { Ok(link) } else { std::env::current_exe() }
}

/// The name that `ps` shows for this process instead of `exe`.
pub(in crate::supervisor) fn show_as(name: &std::ffi::CStr) {
    let _ = prctl::set_name(name);
}

/// Every process, those included that have just ended.
pub(in crate::supervisor) fn pids() -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).map(Pid::from_raw).collect()
}

/// What the system knows of a process, if it lives.
pub(in crate::supervisor) fn identity(pid: Pid) -> Option<Identity> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `/proc/PID/stat` (`proc_pid_stat(5)`): the name stands in parentheses and may itself hold any character.
fn parse_stat(stat: &str) -> Option<Identity> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse().ok();
    if matches!(*fields.first()?, "Z" | "X" | "x") {
        return None;
    }
    Some(Identity {
        parent: Pid::from_raw(number(4)?),
        group: Pid::from_raw(number(5)?),
        start: fields.get(22 - 3)?.parse().ok()?,
    })
}

/// The name of a process, as `ps` shows it.
pub(in crate::supervisor) fn name(pid: Pid) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// How many bytes of a process are in memory (`proc_pid_status(5)`).
pub(in crate::supervisor) fn resident(pid: Pid) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?;
    Some(kib.parse::<u64>().ok()? * 1024)
}

/// Whether a process was started with this `NAME=value` in its environment.
pub(in crate::supervisor) fn has_variable(pid: Pid, variable: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|all| all.split(|&byte| byte == 0).any(|one| one == variable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_no_obstacle() {
        let rest = "S 7 42 42 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 98765 0 0";
        let expected = Identity { parent: Pid::from_raw(7), group: Pid::from_raw(42), start: 98765 };
        assert_eq!(parse_stat(&format!("42 (a) b) (c) {rest}")), Some(expected));
        assert_eq!(parse_stat(&format!("42 (sh) {}", rest.replace('S', "Z"))), None);
        assert_eq!(parse_stat("42 (sh) S 7"), None);
        assert_eq!(parse_stat(""), None);
    }
}
