//! The guard: a second, tiny process that ends every group when ferry dies without a word.
//!
//! macOS has no parent-death signal, and Linux' reaches only the direct child, not the `node` behind `npx`. So before any
//! other spawn ferry executes itself as `guard`, with the read end of a pipe as its stdin. The only write end is
//! ferry's: over it groups are registered and struck off. End of file without a good-bye means that ferry is dead.
//!
//! Deliberately absent: a runtime, threads, logging, configuration. It is deaf to what a terminal or a service manager
//! sends to everybody, and sits in its own session.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::resource::rlim_t;
use nix::sys::signal::{SigHandler, Signal, kill, killpg, signal};
use nix::unistd::Pid;

use crate::env;
use crate::error::Exit;

use super::process::spawn::{on_birth, prepare};
use super::{Program, Role, platform};

/// The hidden subcommand's name.
pub const COMMAND: &str = "guard";

/// The version of [`Registration`]'s encoding. On macOS a guard that is started after an upgrade may be the next ferry's.
const PROTOCOL: &str = "1";

/// How long groups have between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
/// How long to go on killing what will not go; after this nothing would help.
const PERSISTENCE: Duration = Duration::from_secs(1);
/// How often to look whether the groups are gone.
const GLANCE: Duration = Duration::from_millis(20);

/// What a guard is deaf to.
const DEAF_TO: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGPIPE,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// One message to the guard: eight bytes, so that several writers never mix theirs (`PIPE_BUF`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Registration {
    op: u8,
    role: u8,
    pid: i32,
}

const BEGIN: u8 = b'+';
const END: u8 = b'-';
const GOOD_BYE: u8 = b'.';

impl Registration {
    const LENGTH: usize = 8;

    pub(super) fn begin(role: Role, group: Pid) -> Self {
        Self { op: BEGIN, role: u8::from(role == Role::Tunnel), pid: group.as_raw() }
    }

    fn encode(self) -> [u8; Self::LENGTH] {
        let [a, b, c, d] = self.pid.to_ne_bytes();
        [self.op, self.role, 0, 0, a, b, c, d]
    }

    fn decode(bytes: [u8; Self::LENGTH]) -> Self {
        let [op, role, _, _, a, b, c, d] = bytes;
        Self { op, role, pid: i32::from_ne_bytes([a, b, c, d]) }
    }

    /// Writes to a guard's pipe between fork and exec. Best effort: the parent says the same once more.
    pub(super) fn write_raw(self, pipe: RawFd) {
        #[expect(unsafe_code, reason = "between fork and exec, where nothing may be owned or dropped")]
        // SAFETY: two system calls on a descriptor that this process inherited, and a buffer on the stack. Without the
        // first one a dead guard would end the child by SIGPIPE; all dispositions are reset afterwards.
        unsafe {
            libc::signal(libc::SIGPIPE, libc::SIG_IGN);
            let bytes = self.encode();
            libc::write(pipe, bytes.as_ptr().cast(), bytes.len());
        }
    }
}

/// ferry's side: the running guard and the pipe to it.
#[derive(Debug)]
pub(super) struct Guard {
    pub pid: Pid,
    pub since: Instant,
    pipe: OwnedFd,
}

impl Guard {
    /// Starts a guard for the children that carry `run`. Only the steward calls this.
    pub(super) fn start(program: &Program, run: &str, descriptors: (rlim_t, rlim_t)) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let mut command = Command::new(&program.path);
        command
            .args(&program.args)
            .args([PROTOCOL, run])
            .env_clear()
            .current_dir("/") // so that it keeps no file system from being unmounted
            .stdin(Stdio::from(reader))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(name) = &program.shown_as {
            std::os::unix::process::CommandExt::arg0(&mut command, name);
        }
        on_birth(&mut command, move || {
            prepare(descriptors)?;
            be_deaf() // already before exec: ignored signals stay ignored through it
        });
        let child = command.spawn()?;
        let pipe = OwnedFd::from(writer);
        // A guard that does not read must not hold up the steward.
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { pid: Pid::from_raw(child.id().cast_signed()), since: Instant::now(), pipe })
    }

    /// The pipe, for children that register themselves.
    pub(super) fn pipe(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    pub(super) fn begin(&self, role: Role, group: Pid) -> io::Result<()> {
        self.tell(Registration::begin(role, group))
    }

    pub(super) fn end(&self, group: Pid) -> io::Result<()> {
        self.tell(Registration { op: END, role: 0, pid: group.as_raw() })
    }

    /// Everything is in order; the guard may go.
    pub(super) fn good_bye(&self) -> io::Result<()> {
        self.tell(Registration { op: GOOD_BYE, role: 0, pid: 0 })
    }

    fn tell(&self, registration: Registration) -> io::Result<()> {
        let written = nix::unistd::write(&self.pipe, &registration.encode())?;
        if written == Registration::LENGTH { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

fn be_deaf() -> io::Result<()> {
    for deaf_to in DEAF_TO {
        #[expect(unsafe_code, reason = "signal(2); between fork and exec and at the start of a process of its own")]
        // SAFETY: no handler is installed, the signal is ignored.
        unsafe {
            signal(deaf_to, SigHandler::SigIgn)?;
        }
    }
    Ok(())
}

/// The guard's whole life: `ferry guard PROTOCOL RUN`, to be called before anything else in `main`.
///
/// `None` if the arguments, which start after the program's name, do not ask for a guard.
pub fn take_over(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> Option<ExitCode> {
    if arguments.next()? != COMMAND {
        return None;
    }
    let known = arguments.next().is_some_and(|protocol| protocol == PROTOCOL);
    let run = arguments.next().and_then(|run| run.into_string().ok());
    let (true, Some(run)) = (known, run) else { return Some(Exit::Usage.into()) };
    let _ = be_deaf();
    platform::show_as(c"ferry-guard");
    let groups = watch(&mut *stdin());
    if let Some(groups) = groups {
        end_all(&groups, &run);
    }
    Some(Exit::Stopped.into())
}

/// stdin without a buffer, which must not be closed at the end of a scope: the number would be free for another file.
fn stdin() -> ManuallyDrop<File> {
    #[expect(unsafe_code, reason = "std's stdin reads ahead into a buffer of 8 KiB")]
    // SAFETY: descriptor 0 is open in every process that Rust's runtime started, and it is never closed.
    ManuallyDrop::new(unsafe { File::from_raw_fd(0) })
}

/// Reads until ferry says good-bye (`None`) or is gone (the groups that it has left behind).
fn watch(messages: &mut impl Read) -> Option<BTreeMap<i32, Role>> {
    let mut groups = BTreeMap::new();
    let mut bytes = [0; Registration::LENGTH];
    loop {
        // An error other than end of file cannot be told from ferry's death, and then the safe thing is to clean up.
        if messages.read_exact(&mut bytes).is_err() {
            return Some(groups);
        }
        let Registration { op, role, pid } = Registration::decode(bytes);
        match op {
            // A group of 0 or 1 would be the guard's own, or everybody.
            BEGIN if pid > 1 => {
                groups.insert(pid, if role == 0 { Role::Mcp } else { Role::Tunnel });
            }
            END => {
                groups.remove(&pid);
            }
            GOOD_BYE => return None,
            _ => {}
        }
    }
}

/// Ends what ferry has left: the tunnel first, so that nothing new comes in; SIGTERM, two seconds, SIGKILL.
fn end_all(groups: &BTreeMap<i32, Role>, run: &str) {
    let tunnels = groups.iter().filter(|(_, role)| **role == Role::Tunnel);
    let others = groups.iter().filter(|(_, role)| **role == Role::Mcp);
    let mut left = Left { groups: tunnels.chain(others).map(|(pid, _)| Pid::from_raw(*pid)).collect(), run };
    left.signal(Signal::SIGTERM);
    left.signal(Signal::SIGCONT); // a frozen process hears nothing else
    let term = Instant::now();
    while !left.is_empty() && term.elapsed() < GRACE {
        sleep(GLANCE);
    }
    let kill = Instant::now();
    while !left.is_empty() && kill.elapsed() < PERSISTENCE {
        left.signal(Signal::SIGKILL);
        sleep(GLANCE);
    }
}

/// What still lives of a ferry that does not.
struct Left<'a> {
    groups: Vec<Pid>,
    run: &'a str,
}

impl Left<'_> {
    /// Signals every group, and what has left its group but still carries the run's id.
    fn signal(&mut self, signal: Signal) {
        for group in &self.groups {
            let _ = killpg(*group, signal);
        }
        for stray in self.strays() {
            let _ = kill(stray, signal);
        }
    }

    /// Forgets the groups that are gone, at once: their numbers may come to mean somebody else.
    fn is_empty(&mut self) -> bool {
        self.groups.retain(|group| !is_gone(*group));
        if !self.groups.is_empty() {
            // A group of zombies is gone, too: whoever adopted them may take its time to reap them.
            let living: BTreeSet<i32> = platform::living().map(|(_, identity)| identity.group.as_raw()).collect();
            self.groups.retain(|group| living.contains(&group.as_raw()));
        }
        self.groups.is_empty() && self.strays().is_empty()
    }

    fn strays(&self) -> Vec<Pid> {
        let variable = format!("{}={}", env::MCP_FERRY_RUN, self.run);
        let me = Pid::this();
        platform::living()
            .filter(|(pid, identity)| *pid != me && !self.groups.contains(&identity.group))
            .map(|(pid, _)| pid)
            .filter(|pid| platform::has_variable(*pid, variable.as_bytes()))
            .collect()
    }
}

/// Whether nothing of a group is left that a signal could reach.
pub(super) fn is_gone(group: Pid) -> bool {
    // EPERM is macOS' answer for a group of zombies, and everybody's for processes that are not ours to end.
    matches!(killpg(group, None), Err(Errno::ESRCH | Errno::EPERM))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(all: &[(u8, u8, i32)]) -> Vec<u8> {
        all.iter().flat_map(|&(op, role, pid)| Registration { op, role, pid }.encode()).collect()
    }

    #[test]
    fn groups_are_registered_struck_off_and_left_behind() {
        let told = messages(&[(BEGIN, 0, 10), (BEGIN, 1, 11), (BEGIN, 0, 10), (END, 0, 10), (BEGIN, 0, 12)]);
        let left = watch(&mut told.as_slice()).unwrap();
        assert_eq!(left.into_iter().collect::<Vec<_>>(), [(11, Role::Tunnel), (12, Role::Mcp)]);
    }

    #[test]
    fn after_a_good_bye_there_is_nothing_to_do() {
        assert_eq!(watch(&mut messages(&[(BEGIN, 0, 10), (GOOD_BYE, 0, 0)]).as_slice()), None);
    }

    #[test]
    fn half_a_message_and_numbers_that_mean_everybody_are_ignored() {
        let mut told = messages(&[(BEGIN, 0, 0), (BEGIN, 0, -1), (BEGIN, 0, 1), (b'?', 0, 5), (BEGIN, 0, 7)]);
        told.extend([BEGIN, 0, 0]);
        assert_eq!(watch(&mut told.as_slice()).unwrap().into_keys().collect::<Vec<_>>(), [7]);
    }

    #[test]
    fn other_arguments_ask_for_no_guard() {
        assert!(take_over(["try".into(), "guard".into()].into_iter()).is_none());
        assert!(take_over(std::iter::empty()).is_none());
    }
}
