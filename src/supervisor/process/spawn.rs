//! From a description to a running program: where it is found, and what happens between fork and exec.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::unistd::Pid;

use crate::error::Advise;

use super::super::guard::Registration;
use super::super::{Role, platform};

/// Where programs are looked for when the child has no `PATH` at all: execvp(3)'s own default, less the working
/// directory.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// No such command.
    #[error("command `{program}` was not found on PATH `{path}`")]
    NotFound {
        /// As it was written.
        program: String,
        /// The child's `PATH`, which is not always the shell's.
        path: String,
    },
    /// No such file, where the command is a path.
    #[error("`{}` does not exist", program.display())]
    NoSuchFile {
        /// The path.
        program: PathBuf,
    },
    /// There is such a file, but it cannot be run.
    #[error("`{}` cannot be executed", program.display())]
    NotExecutable {
        /// The path.
        program: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The working directory cannot be entered. It may come back: a volume that is not mounted yet.
    #[error("the working directory `{}` cannot be entered", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The system could not start it this time.
    #[error("`{}` could not be started", program.display())]
    System {
        /// The path.
        program: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Looking for the command took too long; a network file system that hangs does that.
    #[error("looking for command `{program}` took longer than {}s", super::LOOKUP_LIMIT.as_secs())]
    LookupHangs {
        /// As it was written.
        program: String,
    },
    /// What must be there before it is started is not: a secret, a file. It may appear: at login, after a network has
    /// come up, after somebody has signed in.
    #[error("{why}")]
    Unprepared {
        /// What, and why, in the words of its [`super::super::Lookup`].
        why: String,
    },
    /// Somebody asked for its end while it was prepared.
    #[error("it was told to end before it was started")]
    Ended,
    /// ferry is stopping, so nothing is started any more.
    #[error("ferry is stopping")]
    Stopping,
}

impl SpawnError {
    /// Whether trying again by itself would change nothing: somebody has to install or correct something.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::NotFound { .. } | Self::NoSuchFile { .. } | Self::NotExecutable { .. } => true,
            Self::Directory { .. }
            | Self::System { .. }
            | Self::LookupHangs { .. }
            | Self::Unprepared { .. }
            | Self::Ended
            | Self::Stopping => false,
        }
    }
}

impl Advise for SpawnError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { .. } => {
                Some("write the command's full path, or set PATH in this server's `env`".to_owned())
            }
            Self::NotExecutable { program, source } if source.kind() == io::ErrorKind::NotFound => Some(format!(
                "the interpreter in the first line of `{}`, or the loader it was built for, is missing",
                program.display()
            )),
            Self::NotExecutable { program, .. } => {
                Some(format!("`ls -l {0}` and `file {0}` tell more", program.display()))
            }
            _ => None,
        }
    }
}

/// Everything the steward needs to start one program.
#[derive(Debug)]
pub(in crate::supervisor) struct Order {
    pub name: String,
    pub role: Role,
    /// An absolute path, found by [`find`].
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub cwd: Option<PathBuf>,
    pub environment: BTreeMap<OsString, OsString>,
}

/// What holds for every child alike.
#[derive(Debug, Clone, Copy)]
pub(in crate::supervisor) struct Birth {
    /// This process: who is to send the parent-death signal.
    pub parent: Pid,
    /// Whether to ask for the parent-death signal.
    pub parent_death: bool,
    /// The soft and hard limit of descriptors that ferry itself was started with.
    pub descriptors: (rlim_t, rlim_t),
}

/// A started program and ferry's ends of its pipes, which do not block.
#[derive(Debug)]
pub(in crate::supervisor) struct Spawned {
    pub pid: Pid,
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// Finds a program as its child will: on the child's own `PATH`, relative paths from the child's own directory.
/// It asks file systems, so it may take its time; the steward has none.
pub(in crate::supervisor) fn find(
    program: &OsStr,
    environment: &BTreeMap<OsString, OsString>,
    cwd: Option<&Path>,
) -> Result<PathBuf, SpawnError> {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let directory = cwd.map_or_else(|| here.clone(), |cwd| here.join(cwd));
    if let Some(cwd) = cwd {
        let entered = fs::metadata(cwd)
            .and_then(|it| if it.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) });
        entered.map_err(|source| SpawnError::Directory { directory: cwd.to_owned(), source })?;
    }
    if program.as_bytes().contains(&b'/') {
        // Whether it may be executed is exec's to say: it knows about interpreters, mounts and security modules.
        let program = directory.join(program);
        return if program.exists() { Ok(program) } else { Err(SpawnError::NoSuchFile { program }) };
    }
    let path = environment.get(OsStr::new("PATH")).map_or(OsStr::new(DEFAULT_PATH), OsString::as_os_str);
    which::which_in(program, Some(path), directory).map_err(|_| SpawnError::NotFound {
        program: program.to_string_lossy().into_owned(),
        path: path.to_string_lossy().into_owned(),
    })
}

/// Forks and executes. Only the steward calls this, on the thread that lives as long as ferry.
///
/// The child registers its group with the guard itself, before it becomes the program: killed at any moment, ferry
/// leaves no child behind that the guard does not know.
pub(in crate::supervisor) fn spawn(
    order: &Order,
    birth: Birth,
    guard: Option<BorrowedFd<'_>>,
) -> Result<Spawned, SpawnError> {
    let mut command = Command::new(&order.program);
    command
        .args(&order.args)
        .env_clear()
        .envs(&order.environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(cwd) = &order.cwd {
        command.current_dir(cwd);
    }
    let guard = guard.map(|pipe| pipe.as_raw_fd());
    let role = order.role;
    on_birth(&mut command, move || {
        if let Some(guard) = guard {
            Registration::begin(role, nix::unistd::getpid()).write_raw(guard);
        }
        if birth.parent_death {
            platform::die_with(birth.parent)?;
        }
        prepare(birth.descriptors)
    });
    let mut child = command.spawn().map_err(|source| classify(order, source))?;
    // Nobody ever waits through this `Child`; the steward waits for every pid alike.
    let pid = Pid::from_raw(child.id().cast_signed());
    let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        unreachable!("all three were asked for as pipes")
    };
    let spawned = Spawned { pid, stdin: stdin.into(), stdout: stdout.into(), stderr: stderr.into() };
    for pipe in [&spawned.stdin, &spawned.stdout, &spawned.stderr] {
        // Cannot fail on a pipe that is open; if it did, one reader would block and the deadline of the start ends it.
        let _ = fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
    }
    Ok(spawned)
}

/// Sets what runs between fork and exec: first the new session, then `prepare`, which may make async-signal-safe calls
/// only and must not allocate.
pub(in crate::supervisor) fn on_birth(
    command: &mut Command,
    mut prepare: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    let hook = move || {
        // An own group to be ended by, and no controlling terminal: a program that asks on /dev/tty gets an error
        // instead of hanging, stopped, in the background.
        nix::unistd::setsid()?;
        prepare()
    };
    #[expect(unsafe_code, reason = "the one place between fork and exec")]
    // SAFETY: `hook` makes plain system calls on values it owns. It allocates nothing, takes no lock and does not
    // panic, which is what fork in a process with threads allows.
    unsafe {
        command.pre_exec(hook);
    }
}

/// Between fork and exec: everything as if ferry had never changed it.
pub(in crate::supervisor) fn prepare(descriptors: (rlim_t, rlim_t)) -> io::Result<()> {
    let (soft, hard) = descriptors;
    let (current, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    platform::close_on_exec_above_2(current);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    reset_signals();
    Ok(())
}

/// Default dispositions (an ignored signal would stay ignored through exec), then an empty mask.
fn reset_signals() {
    #[expect(unsafe_code, reason = "nix knows no real-time signals, and its SigSet is no smaller a risk here")]
    // SAFETY: async-signal-safe calls on a zeroed structure and an initialised set, both on this stack. Numbers that
    // are no signal, or may not be changed, are refused by the call.
    unsafe {
        let mut default: libc::sigaction = MaybeUninit::zeroed().assume_init();
        default.sa_sigaction = libc::SIG_DFL;
        for signal in 1..=LAST_SIGNAL {
            libc::sigaction(signal, &raw const default, ptr::null_mut());
        }
        let mut none = MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }
}

/// `NSIG - 1`: with real-time signals on Linux, without on macOS.
const LAST_SIGNAL: libc::c_int = if cfg!(target_os = "linux") { 64 } else { 31 };

fn classify(order: &Order, source: io::Error) -> SpawnError {
    // The child tells its parent one number, so what failed is asked for: the directory, or the program.
    if let Some(cwd) = &order.cwd
        && let Err(source) = nix::unistd::access(cwd, nix::unistd::AccessFlags::X_OK)
    {
        return SpawnError::Directory { directory: cwd.clone(), source: source.into() };
    }
    let program = order.program.clone();
    match source.raw_os_error() {
        Some(
            libc::ENOENT | libc::EACCES | libc::ENOEXEC | libc::ENOTDIR | libc::EISDIR | libc::ELOOP | libc::EPERM,
        ) => SpawnError::NotExecutable { program, source },
        // macOS: a program for another kind of processor, a damaged one.
        #[cfg(target_os = "macos")]
        Some(libc::EBADARCH | libc::EBADEXEC | libc::EBADMACHO) => SpawnError::NotExecutable { program, source },
        _ => SpawnError::System { program, source },
    }
}

/// Makes room in both directions, so that a large result needs few wake-ups.
pub(in crate::supervisor) fn enlarge(spawned: &Spawned) {
    platform::enlarge_pipe(spawned.stdin.as_fd());
    platform::enlarge_pipe(spawned.stdout.as_fd());
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn with_path(path: &Path) -> BTreeMap<OsString, OsString> {
        BTreeMap::from([("PATH".into(), path.into())])
    }

    fn executable(path: &Path) {
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_command_is_searched_on_the_childs_path() {
        let dir = tempfile::tempdir().unwrap();
        executable(&dir.path().join("only-here"));
        assert_eq!(find("only-here".as_ref(), &with_path(dir.path()), None).unwrap(), dir.path().join("only-here"));
        let error = find("only-here".as_ref(), &with_path(Path::new("/nowhere:/else")), None).unwrap_err();
        assert_eq!(error.to_string(), "command `only-here` was not found on PATH `/nowhere:/else`");
        assert!(error.is_lasting());
        assert!(error.hint().unwrap().contains("full path"));
    }

    #[test]
    fn a_relative_path_starts_from_the_childs_directory() {
        let dir = tempfile::tempdir().unwrap();
        executable(&dir.path().join("server"));
        assert_eq!(find("./server".as_ref(), &BTreeMap::new(), Some(dir.path())).unwrap(), dir.path().join("./server"));
        let error = find("./absent".as_ref(), &BTreeMap::new(), Some(dir.path())).unwrap_err();
        assert_eq!(error.to_string(), format!("`{}` does not exist", dir.path().join("./absent").display()));
    }

    #[test]
    fn a_missing_directory_is_not_the_commands_fault_and_may_come_back() {
        let error = find("sh".as_ref(), &BTreeMap::new(), Some(Path::new("/not/mounted"))).unwrap_err();
        assert_eq!(error.to_string(), "the working directory `/not/mounted` cannot be entered");
        assert!(!error.is_lasting());
    }
}
