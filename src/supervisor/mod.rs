//! Keeps processes alive, and ends them: no MCP, no HTTP, no Cloudflare in here.
//!
//! [`Supervisor::start`] takes the directory's lock, ends what a killed run has left (`leftovers`), and starts two
//! helpers that outlast everything else: the `steward`, the one thread that forks and waits, and the [`guard`], a second
//! process that ends every group should ferry be killed. After that [`Supervisor::add`] gives each process a task of its
//! own (`process/task.rs`), which asks the pure state machine (`process/state.rs`) what to do about whatever happens;
//! the steward does it. [`signals`] tells what the operating system wants, and [`Supervisor::begin_stop`] ends
//! everything within one budget. What differs between Linux and macOS is in `platform`.
//!
//! How one process ends: its stdin is closed; after `stop_grace` its group gets the stop signal; after 5 s SIGKILL. When
//! its leader has exited, its stdout is read for at most 250 ms more, then the rest of its group is ended, and only when
//! the group is empty a new generation starts. An exit is what the steward says, never end of file.
//!
//! Deliberately absent: what a process is for, and whether it is well. Its owner does the handshake and says so.

mod backoff;
mod environment;
mod group;
pub mod guard;
mod helper;
mod leftovers;
mod lock;
mod memory;
mod platform;
mod process;
mod scratch;
pub mod signals;
mod steward;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

pub use environment::{Environment, Helpers, Looking, Lookup};
pub use group::{Budget, Ended, SHUTDOWN_TIMEOUT, Settings, Stopping, Supervisor};
pub use helper::{Helper, HelperError, Output};
pub use memory::memory_by_group;
pub use nix::sys::signal::Signal;
pub use process::{
    Capture, Incarnation, LAST_OUTPUT, Process, Retry, Role, SpawnError, Spec, Start, State, Status, Stopped,
    TERM_GRACE, Then, Ticket,
};
pub use steward::Adopted;

use crate::error::{Advise, Exit};

/// Why supervising could not begin.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// Another ferry works with the same state directory.
    #[error("another ferry{} is running with the state in {}", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), state_dir.display())]
    AlreadyRunning {
        /// The directory.
        state_dir: PathBuf,
        /// The other one, if it has left its number.
        pid: Option<u32>,
    },
    /// The state directory cannot be used.
    #[error("the state directory {} cannot be used", path.display())]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The guard, or the thread that looks after it, could not be started.
    #[error("the guard, which ends all children should ferry be killed, could not be started")]
    Guard(#[source] io::Error),
    /// A system call failed that does not fail.
    #[error("the system refused a basic request")]
    System(#[source] io::Error),
    /// A second supervisor in one process: a bug of the caller.
    #[error("this process has a supervisor already")]
    AlreadyStarted,
}

impl Advise for SupervisorError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::AlreadyRunning { .. } => Some(format!(
                "`ferry status` shows it; to run a second one, set `{}` to another directory",
                crate::env::FERRY_STATE_DIR
            )),
            Self::StateDir { .. } => Some(format!("`{}` names another one", crate::env::FERRY_STATE_DIR)),
            Self::Guard(_) | Self::System(_) | Self::AlreadyStarted => None,
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::AlreadyRunning { .. } => Exit::AlreadyRunning,
            Self::StateDir { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Exit::NotPermitted,
            Self::StateDir { .. } | Self::Guard(_) | Self::System(_) | Self::AlreadyStarted => Exit::Failed,
        }
    }
}

/// A program to execute with fixed arguments.
#[derive(Debug, Clone)]
pub struct Program {
    /// Its file.
    pub path: PathBuf,
    /// What it is called with.
    pub args: Vec<OsString>,
    /// What it is told its own name is; its path if absent.
    pub shown_as: Option<OsString>,
}

impl Program {
    /// ferry itself as the guard: the very program that runs now, wherever the system can tell, not what an upgrade has
    /// put in its place since.
    pub fn this_one_as_guard() -> io::Result<Self> {
        Ok(Self {
            path: platform::this_program()?,
            args: vec![guard::COMMAND.into()],
            shown_as: std::env::args_os().next(),
        })
    }
}
