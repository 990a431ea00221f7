//! The server on the process's own stdin and stdout.

#[cfg(unix)]
use std::io;
#[cfg(unix)]
use std::os::fd::AsFd;
use std::process::ExitCode;

use tokio::io::{AsyncRead, AsyncWrite};
#[cfg(unix)]
use tokio::net::unix::pipe;

use crate::error::Exit;

use super::serve;

/// Runs the server until stdin ends.
pub fn run() -> ExitCode {
    // One thread: a call is answered where it was read, which is both the smallest and the fastest.
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Exit::Failed.into();
    };
    runtime.block_on(async { serve(stdin(), stdout()).await });
    // A terminal is read by a thread that nothing can interrupt; it shall not keep the process.
    runtime.shutdown_background();
    Exit::Stopped.into()
}

/// A pipe, which is what clients give to servers, is read by the one thread there is. Tokio's own stdin would hand every
/// message from another thread to this one; it is for terminals and files.
fn stdin() -> Box<dyn AsyncRead + Unpin> {
    #[cfg(unix)]
    if let Ok(pipe) = io::stdin().as_fd().try_clone_to_owned().and_then(pipe::Receiver::from_owned_fd) {
        return Box::new(pipe);
    }
    Box::new(tokio::io::stdin())
}

fn stdout() -> Box<dyn AsyncWrite + Unpin> {
    #[cfg(unix)]
    if let Ok(pipe) = io::stdout().as_fd().try_clone_to_owned().and_then(pipe::Sender::from_owned_fd) {
        return Box::new(pipe);
    }
    Box::new(tokio::io::stdout())
}
