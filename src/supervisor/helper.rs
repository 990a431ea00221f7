//! A short helper program, run to its end: `cloudflared --version`, a secret's `command`.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::error::Advise;

use super::Role;
use super::environment::Environment;
use super::process::spawn::{Order, SpawnError, find};
use super::process::{LAST_OUTPUT, LOOKUP_LIMIT};
use super::steward::{Born, Notice, Steward};

/// More output than this is dropped, for each of stdout and stderr.
const MAX_OUTPUT: u64 = 1024 * 1024;

/// What to run.
#[derive(Debug, Clone)]
pub struct Helper {
    /// What it is for: whose variables it must not get.
    pub role: Role,
    /// A command to be found on the helper's PATH, or a path.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its working directory; ferry's own if absent.
    pub cwd: Option<PathBuf>,
    /// Its environment.
    pub environment: Environment,
    /// How long it may take; then its group is killed.
    pub limit: Duration,
}

/// How a helper ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its status.
    pub status: ExitStatus,
    /// What it wrote to stdout, at most a MiB.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr, at most a MiB.
    pub stderr: Vec<u8>,
}

/// Why a helper has no output.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// It could not be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// It took too long.
    #[error("`{program}` did not finish within {}s", limit.as_secs_f32())]
    TooSlow {
        /// The command as it was written.
        program: String,
        /// What it had.
        limit: Duration,
    },
    /// Its pipes could not be read.
    #[error("the output of `{program}` could not be read")]
    Pipe {
        /// The command as it was written.
        program: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl Advise for HelperError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Spawn(error) => error.hint(),
            Self::TooSlow { .. } | Self::Pipe { .. } => None,
        }
    }
}

pub(super) async fn run(steward: &Steward, run: &str, helper: Helper) -> Result<Output, HelperError> {
    let Helper { role, program, args, cwd, environment, limit } = helper;
    let shown = program.to_string_lossy().into_owned();
    let environment = environment.resolve(role, std::env::vars_os(), run);
    let found = spawn_blocking(move || {
        find(&program, &environment, cwd.as_deref()).map(|found| Order {
            name: program.to_string_lossy().into_owned(),
            role,
            program: found,
            args,
            cwd,
            environment,
        })
    });
    let order = match timeout(LOOKUP_LIMIT, found).await {
        Ok(Ok(order)) => order?,
        Ok(Err(_)) => return Err(SpawnError::Stopping.into()),
        Err(_) => return Err(SpawnError::LookupHangs { program: shown }.into()),
    };
    let Born { id, pipes, mut notices } = steward.spawn(order).await?;
    // However this ends (the caller may give up too), nothing of the helper stays.
    let _leash = Leash { steward, id };
    drop(pipes.stdin);
    let outcome = timeout(limit, async {
        let mut stdout = Vec::new();
        let mut stderr = Vec::new();
        let read = read_both(pipes.stdout, pipes.stderr, &mut stdout, &mut stderr, &mut notices).await;
        read.map(|status| status.map(|status| Output { status, stdout, stderr }))
    });
    match outcome.await {
        Ok(Ok(Some(output))) => Ok(output),
        Ok(Ok(None)) => Err(SpawnError::Stopping.into()),
        Ok(Err(source)) => Err(HelperError::Pipe { program: shown, source }),
        Err(_) => Err(HelperError::TooSlow { program: shown, limit }),
    }
}

/// Reads both pipes until the helper has exited and they are at their end. As with every child, what a grandchild
/// holds open is not waited for.
async fn read_both(
    stdout: OwnedFd,
    stderr: OwnedFd,
    into_stdout: &mut Vec<u8>,
    into_stderr: &mut Vec<u8>,
    notices: &mut mpsc::UnboundedReceiver<Notice>,
) -> io::Result<Option<ExitStatus>> {
    let read = async { tokio::try_join!(collect(stdout, into_stdout), collect(stderr, into_stderr)).map(|_| ()) };
    let exit = async {
        loop {
            if let Notice::Exited { status, .. } = notices.recv().await? {
                return Some(status);
            }
        }
    };
    tokio::pin!(read, exit);
    tokio::select! {
        result = &mut read => {
            result?;
            Ok(exit.await)
        }
        status = &mut exit => {
            timeout(LAST_OUTPUT, read).await.unwrap_or(Ok(()))?;
            Ok(status)
        }
    }
}

struct Leash<'a> {
    steward: &'a Steward,
    id: super::steward::GroupId,
}

impl Drop for Leash<'_> {
    fn drop(&mut self) {
        // A group that is gone is not signalled: the steward knows.
        self.steward.signal(self.id, Signal::SIGKILL);
    }
}

async fn collect(pipe: OwnedFd, into: &mut Vec<u8>) -> io::Result<()> {
    let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
    (&mut pipe).take(MAX_OUTPUT).read_to_end(into).await?;
    // Read on, or the helper would block; keep nothing.
    tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    Ok(())
}
