//! macOS: no parent-death signal, no sub-reaper, no `/proc`; libproc and `sysctl` instead.

use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::ptr;

use nix::libc;
use nix::unistd::Pid;

use super::Identity;

/// Whether the system ends a child whose parent has gone.
pub(in crate::supervisor) const HAS_PARENT_DEATH_SIGNAL: bool = false;

/// `SZOMB` of `sys/proc.h`.
const ZOMBIE: u32 = 5;

/// How many descriptors ferry may ask for, of a hard limit that is usually infinite: setrlimit(2) takes no more than
/// `OPEN_MAX` of `sys/syslimits.h`.
pub(in crate::supervisor) fn most_descriptors(hard: libc::rlim_t) -> libc::rlim_t {
    hard.min(10_240)
}

/// Orphans go to launchd here; what left its group is out of reach.
#[expect(clippy::unnecessary_wraps, reason = "the same face as on Linux, where it can fail")]
pub(in crate::supervisor) fn become_subreaper() -> io::Result<()> {
    Ok(())
}

/// There is no such signal here; the guard does its work.
#[expect(clippy::unnecessary_wraps, reason = "the same face as on Linux, where it can fail")]
pub(in crate::supervisor) fn die_with(_parent: Pid) -> io::Result<()> {
    Ok(())
}

/// Marks every descriptor above 2 close-on-exec. To be called between fork and exec: system calls only.
/// ferry keeps its own limit at `OPEN_MAX` here, so this is a matter of milliseconds.
pub(in crate::supervisor) fn close_on_exec_above_2(limit: libc::rlim_t) {
    super::mark_close_on_exec(3..limit.min(65_536));
}

/// Pipes grow by themselves here.
pub(in crate::supervisor) fn enlarge_pipe(_pipe: BorrowedFd<'_>) {}

/// A text that is another after every boot.
pub(in crate::supervisor) fn boot_id() -> io::Result<String> {
    let mut buffer = [0_u8; 64];
    let mut length = buffer.len();
    #[expect(unsafe_code, reason = "sysctl is not wrapped by nix")]
    // SAFETY: the name ends in NUL; buffer and length describe each other.
    let done = unsafe {
        libc::sysctlbyname(
            c"kern.bootsessionuuid".as_ptr(),
            buffer.as_mut_ptr().cast(),
            &raw mut length,
            ptr::null_mut(),
            0,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let text = CStr::from_bytes_until_nul(&buffer).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(text.to_string_lossy().into_owned())
}

/// This program's file. After an upgrade it may be the next version's, or gone.
pub(in crate::supervisor) fn this_program() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// The kernel takes a process's name from its file here.
pub(in crate::supervisor) fn show_as(_name: &CStr) {}

/// Every process, those included that have just ended.
pub(in crate::supervisor) fn pids() -> Vec<Pid> {
    // Room for those that start between the two calls.
    const MORE: usize = 256;
    #[expect(unsafe_code, reason = "libproc is not wrapped by nix")]
    // SAFETY: a null buffer asks for the number of processes.
    let count = unsafe { libc::proc_listallpids(ptr::null_mut(), 0) };
    let mut pids = vec![0 as libc::pid_t; usize::try_from(count).unwrap_or(0) + MORE];
    let bytes = c_int::try_from(pids.len() * size_of::<libc::pid_t>()).unwrap_or(c_int::MAX);
    #[expect(unsafe_code, reason = "libproc is not wrapped by nix")]
    // SAFETY: the buffer has the size that is passed with it.
    let count = unsafe { libc::proc_listallpids(pids.as_mut_ptr().cast::<c_void>(), bytes) };
    pids.truncate(usize::try_from(count).unwrap_or(0));
    pids.into_iter().map(Pid::from_raw).collect()
}

fn info(pid: Pid) -> Option<libc::proc_bsdinfo> {
    let mut info = MaybeUninit::<libc::proc_bsdinfo>::zeroed();
    let size = c_int::try_from(size_of::<libc::proc_bsdinfo>()).ok()?;
    #[expect(unsafe_code, reason = "libproc is not wrapped by nix")]
    // SAFETY: the buffer has the size that is passed with it, and zeroes are a valid value of the structure.
    unsafe {
        let filled = libc::proc_pidinfo(pid.as_raw(), libc::PROC_PIDTBSDINFO, 0, info.as_mut_ptr().cast(), size);
        (filled == size).then(|| info.assume_init())
    }
}

/// What the system knows of a process, if it lives.
pub(in crate::supervisor) fn identity(pid: Pid) -> Option<Identity> {
    let info = info(pid).filter(|info| info.pbi_status != ZOMBIE)?;
    Some(Identity {
        start: info.pbi_start_tvsec * 1_000_000 + info.pbi_start_tvusec,
        parent: Pid::from_raw(info.pbi_ppid.try_into().ok()?),
        group: Pid::from_raw(info.pbi_pgid.try_into().ok()?),
    })
}

/// The name of a process, as `ps` shows it.
pub(in crate::supervisor) fn name(pid: Pid) -> String {
    let Some(info) = info(pid) else { return String::new() };
    let bytes: Vec<u8> = info.pbi_comm.iter().map(|&c| c.cast_unsigned()).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How many bytes of a process are in memory.
pub(in crate::supervisor) fn resident(pid: Pid) -> Option<u64> {
    let mut info = MaybeUninit::<libc::proc_taskinfo>::zeroed();
    let size = c_int::try_from(size_of::<libc::proc_taskinfo>()).ok()?;
    #[expect(unsafe_code, reason = "libproc is not wrapped by nix")]
    // SAFETY: the buffer has the size that is passed with it, and zeroes are a valid value of the structure.
    let info = unsafe {
        let filled = libc::proc_pidinfo(pid.as_raw(), libc::PROC_PIDTASKINFO, 0, info.as_mut_ptr().cast(), size);
        (filled == size).then(|| info.assume_init())
    };
    info.map(|info| info.pti_resident_size)
}

/// Whether a process was started with this `NAME=value` in its environment.
pub(in crate::supervisor) fn has_variable(pid: Pid, variable: &[u8]) -> bool {
    arguments_and_environment(pid).is_some_and(|all| all.split(|&byte| byte == 0).any(|one| one == variable))
}

/// `KERN_PROCARGS2`: the number of arguments, the program, the arguments and the environment, each ended by NUL.
fn arguments_and_environment(pid: Pid) -> Option<Vec<u8>> {
    let mut name = [libc::CTL_KERN, libc::KERN_PROCARGS2, pid.as_raw()];
    let mut length = 0;
    #[expect(unsafe_code, reason = "sysctl is not wrapped by nix")]
    // SAFETY: a null buffer asks for the length.
    let done = unsafe { libc::sysctl(name.as_mut_ptr(), 3, ptr::null_mut(), &raw mut length, ptr::null_mut(), 0) };
    if done != 0 {
        return None;
    }
    let mut buffer = vec![0_u8; length];
    #[expect(unsafe_code, reason = "sysctl is not wrapped by nix")]
    // SAFETY: buffer and length describe each other.
    let done =
        unsafe { libc::sysctl(name.as_mut_ptr(), 3, buffer.as_mut_ptr().cast(), &raw mut length, ptr::null_mut(), 0) };
    buffer.truncate(length);
    (done == 0).then_some(buffer)
}
