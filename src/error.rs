//! What every error of ferry can tell beyond its text: what to do next, and the exit code it leads to.

use std::error::Error;
use std::process::ExitCode;

/// ferry's exit codes, after `sysexits.h` where that has one.
///
/// systemd's `RestartPreventExitStatus=78` keeps a broken configuration from being retried for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Stopped on request.
    Stopped = 0,
    /// Failed.
    Failed = 1,
    /// Wrong use of the command line.
    Usage = 2,
    /// Cloudflare or the tunnel cannot be reached (`EX_UNAVAILABLE`).
    Unreachable = 69,
    /// Another ferry holds this state directory or this port (`EX_TEMPFAIL`).
    AlreadyRunning = 75,
    /// Not permitted (`EX_NOPERM`).
    NotPermitted = 77,
    /// The configuration is wrong (`EX_CONFIG`).
    Configuration = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error that knows what its reader can do about it.
pub trait Advise: Error {
    /// One next action, if there is one. Commands stand in backticks.
    fn hint(&self) -> Option<String> {
        None
    }

    /// The exit code that this error leads to when it ends a command.
    fn exit(&self) -> Exit {
        Exit::Failed
    }
}
