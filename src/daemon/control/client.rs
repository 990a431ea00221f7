//! The other end of the socket: how a command asks the ferry that runs.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::super::reload::{Arrival, Reloaded};
use super::super::status::Status;
use super::{Refused, SocketError, socket_path};
use crate::error::{Advise, Exit};
use crate::paths::{self, PathError};

/// How long an answer that needs no server is waited for.
const AT_ONCE: Duration = Duration::from_secs(5);

/// How long one is waited for that needs servers to end and to start.
const IN_TIME: Duration = Duration::from_mins(1);

/// A ferry that runs.
#[derive(Debug)]
pub struct Controlled {
    runtime: tokio::runtime::Runtime,
    socket: PathBuf,
}

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Where it would be is not known.
    #[error(transparent)]
    Path(#[from] PathError),
    /// There can be no socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Nobody listens.
    #[error("no ferry is running: nobody answers at {}", socket.display())]
    NotRunning {
        /// The socket.
        socket: PathBuf,
    },
    /// The socket cannot be used.
    #[error("the ferry at {} cannot be asked", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It took the question, and that was all.
    #[error("ferry did not answer within {}s", limit.as_secs())]
    Silent {
        /// What it had.
        limit: Duration,
    },
    /// Its answer makes no sense.
    #[error("ferry's answer is not understood: it may be of another version than this command")]
    Odd,
    /// It says why not.
    #[error("{error}")]
    Refused {
        /// Its words.
        error: String,
        /// Their cause.
        #[source]
        because: Option<Box<Because>>,
        /// What to do about it.
        hint: Option<String>,
        /// The exit code that this leads to.
        exit: Exit,
    },
}

/// The cause of something that ferry told, in its words.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Because {
    text: String,
    #[source]
    because: Option<Box<Because>>,
}

impl Because {
    fn of(causes: Vec<String>) -> Option<Box<Self>> {
        causes.into_iter().rev().fold(None, |because, text| Some(Box::new(Self { text, because })))
    }
}

impl Advise for ControlError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Path(error) => error.hint(),
            Self::Socket(error) => error.hint(),
            Self::NotRunning { .. } => Some("`ferry run` starts one".to_owned()),
            Self::Unreachable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("ask as the user that ferry runs as".to_owned())
            }
            Self::Silent { .. } => Some("`ferry logs` may tell what it is busy with".to_owned()),
            Self::Unreachable { .. } | Self::Odd => None,
            Self::Refused { hint, .. } => hint.clone(),
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Path(error) => error.exit(),
            Self::Socket(error) => error.exit(),
            Self::Unreachable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Exit::NotPermitted,
            Self::NotRunning { .. } | Self::Unreachable { .. } | Self::Silent { .. } | Self::Odd => Exit::Failed,
            Self::Refused { exit, .. } => *exit,
        }
    }
}

impl Controlled {
    /// The one with the usual state directory, if it runs.
    pub fn find() -> Result<Self, ControlError> {
        let socket = socket_path(&paths::state_dir()?)?;
        let failed = |source| ControlError::Unreachable { socket: socket.clone(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let found = Self { runtime, socket };
        found.runtime.block_on(connect(&found.socket))?;
        Ok(found)
    }

    /// What `ferry status` shows.
    pub fn status(&self) -> Result<Status, ControlError> {
        self.ask(Method::GET, "/status", AT_ONCE)
    }

    /// Has it read its configuration again.
    pub fn reload(&self) -> Result<Reloaded, ControlError> {
        self.ask(Method::POST, "/reload", IN_TIME)
    }

    /// Restarts one server.
    pub fn restart(&self, name: &str) -> Result<Arrival, ControlError> {
        let name = name.bytes().fold(String::new(), |name, byte| {
            if byte.is_ascii_alphanumeric() {
                name + &char::from(byte).to_string()
            } else {
                name + &format!("%{byte:02X}")
            }
        });
        self.ask(Method::POST, &format!("/servers/{name}/restart"), IN_TIME)
    }

    fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, limit: Duration) -> Result<T, ControlError> {
        let answer = self.runtime.block_on(async {
            tokio::time::timeout(limit, exchange(&self.socket, method, path))
                .await
                .unwrap_or(Err(ControlError::Silent { limit }))
        });
        let (status, body) = answer?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|_| ControlError::Odd);
        }
        let Refused { error, because, hint, exit } = serde_json::from_slice(&body).map_err(|_| ControlError::Odd)?;
        Err(ControlError::Refused { error, because: Because::of(because), hint, exit: exit_of(exit) })
    }
}

async fn exchange(socket: &Path, method: Method, path: &str) -> Result<(StatusCode, Vec<u8>), ControlError> {
    let broke =
        |error: hyper::Error| ControlError::Unreachable { socket: socket.to_owned(), source: io::Error::other(error) };
    let stream = connect(socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "ferry").body(Empty::<&[u8]>::new());
    let request = request.map_err(|_| ControlError::Odd)?;
    let response = sender.send_request(request).await.map_err(broke)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(broke)?;
    Ok((status, body.to_bytes().to_vec()))
}

async fn connect(socket: &Path) -> Result<UnixStream, ControlError> {
    UnixStream::connect(socket).await.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ControlError::NotRunning { socket: socket.to_owned() }
        }
        _ => ControlError::Unreachable { socket: socket.to_owned(), source },
    })
}

fn exit_of(code: u8) -> Exit {
    let known = [Exit::Usage, Exit::Unreachable, Exit::AlreadyRunning, Exit::NotPermitted, Exit::Configuration];
    known.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Exit::Failed)
}
