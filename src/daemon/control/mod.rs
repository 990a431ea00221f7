//! The socket by which `ferry status`, `reload`, `restart` and others of the same user talk to a ferry that runs: HTTP
//! with JSON, like everything else, over a Unix socket that nobody else may open.
//!
//! It is there from the moment that servers are started to the very end. Whoever holds the lock of the state directory
//! may replace what a killed ferry has left of it.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, os};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as Name, State};
use axum::routing::{get, post};
use http::{Response, StatusCode, header};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::reload::{Arrival, Reloader};
use super::servers::{Servers, Task};
use super::status::{self, Surroundings};
use super::tunnel::Way;
use crate::config::nearest;
use crate::env::FERRY_RUNTIME_DIR;
use crate::error::{Advise, Exit};
use crate::paths;

mod client;

pub use client::{ControlError, Controlled};

/// Below the runtime directory.
const FILE: &str = "control.sock";

/// macOS takes 103 bytes, Linux 107.
const LONGEST: usize = 100;

/// More at once than one user's commands ever are.
const CONNECTIONS: usize = 32;

/// How long one that was opened may say nothing.
const SILENCE: Duration = Duration::from_secs(30);

/// How long a report waits for a server that was restarted.
const SETTLE: Duration = Duration::from_secs(10);

/// How long accepting pauses when the system has no descriptor for another connection.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// Why there can be no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Its path is too long for the system.
    #[error("the path of the control socket is too long for a socket: {}", path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// It cannot be made there.
    #[error("the control socket {} cannot be made", path.display())]
    Unusable {
        /// The path.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Somebody answers there already.
    #[error("another ferry answers at {}", path.display())]
    Taken {
        /// The path.
        path: PathBuf,
    },
}

impl Advise for SocketError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::TooLong { .. } => {
                format!(
                    "set `{FERRY_RUNTIME_DIR}` to a directory whose path has at most {} bytes",
                    LONGEST - FILE.len() - 1
                )
            }
            Self::Unusable { .. } => format!("set `{FERRY_RUNTIME_DIR}` to a directory that can hold sockets"),
            Self::Taken { .. } => format!("each ferry needs a `{FERRY_RUNTIME_DIR}` of its own"),
        })
    }

    fn exit(&self) -> Exit {
        match self {
            Self::TooLong { .. } | Self::Unusable { .. } => Exit::Configuration,
            Self::Taken { .. } => Exit::AlreadyRunning,
        }
    }
}

/// Where the socket of a ferry with this state directory is.
pub fn socket_path(state_dir: &Path) -> Result<PathBuf, SocketError> {
    let path = paths::runtime_dir(state_dir).join(FILE);
    if path.as_os_str().as_bytes().len() > LONGEST { Err(SocketError::TooLong { path }) } else { Ok(path) }
}

/// The socket of this ferry, before anybody is answered. It is gone when this is.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    /// Taken by whoever answers.
    listener: Option<UnixListener>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Answers on the socket, for as long as this is there.
pub(super) struct Control {
    _socket: Socket,
    _task: Option<Task>,
}

/// What it answers from.
pub(super) struct Commands {
    started: Instant,
    servers: Arc<Servers>,
    tunnel: Arc<Way>,
    reloader: Arc<Reloader>,
}

impl Commands {
    pub(super) fn new(servers: Arc<Servers>, tunnel: Arc<Way>, reloader: Arc<Reloader>) -> Self {
        Self { started: Instant::now(), servers, tunnel, reloader }
    }
}

impl Socket {
    /// Makes it. The lock of the state directory is held.
    pub fn bind(path: PathBuf) -> Result<Self, SocketError> {
        if os::unix::net::UnixStream::connect(&path).is_ok() {
            return Err(SocketError::Taken { path });
        }
        match bind(&path) {
            Ok(listener) => Ok(Self { path, listener: Some(listener) }),
            Err(source) => Err(SocketError::Unusable { path, source }),
        }
    }

    pub(super) fn serve(mut self, commands: Commands) -> Control {
        let router = Router::new()
            .route("/status", get(status))
            .route("/reload", post(reload))
            .route("/servers/{name}/restart", post(restart))
            .with_state(Arc::new(commands));
        let task = self.listener.take().map(|listener| Task(tokio::spawn(serve(listener, router))));
        Control { _socket: self, _task: task }
    }
}

/// Under its own name it appears when it is ready to be connected to and closed to everybody else.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        paths::make_private_dir(dir)?;
    }
    let unready = path.with_file_name(".control");
    match fs::remove_file(&unready) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&unready)?;
    fs::set_permissions(&unready, fs::Permissions::from_mode(0o600))?;
    fs::rename(&unready, path)?;
    Ok(listener)
}

async fn serve(listener: UnixListener, router: Router) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!("no connection to the control socket can be accepted: {error}");
                tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
                continue;
            }
        };
        if !is_ours(&stream) {
            continue;
        }
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(SILENCE)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!("a connection to the control socket ended early: {error}");
            }
            drop(permit);
        });
    }
}

/// Whether the same user, or root, is at the other end: some systems do not look at the mode of a socket.
fn is_ours(stream: &UnixStream) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

/// Words of ferry's to whoever typed the command.
#[derive(Debug, Serialize, Deserialize)]
struct Refused {
    error: String,
    because: Vec<String>,
    hint: Option<String>,
    exit: u8,
}

impl Refused {
    fn of(error: &dyn Advise) -> Self {
        let mut because = Vec::new();
        let mut cause = error.source();
        while let Some(error) = cause {
            because.push(error.to_string());
            cause = error.source();
        }
        Self { error: error.to_string(), because, hint: error.hint(), exit: error.exit() as u8 }
    }
}

async fn status(State(commands): State<Arc<Commands>>) -> Response<Body> {
    let reloader = &commands.reloader;
    let around = Surroundings {
        config: reloader.path().to_owned(),
        logs: reloader.log_dir().to_owned(),
        local: reloader.local().map(str::to_owned),
        uptime: commands.started.elapsed(),
        waiting: reloader.waiting(),
    };
    json(StatusCode::OK, &status::status(around, &commands.servers, &commands.tunnel).await)
}

async fn reload(State(commands): State<Arc<Commands>>) -> Response<Body> {
    match commands.reloader.reload().await {
        Ok(done) => json(StatusCode::OK, &done),
        Err(error) => json(StatusCode::CONFLICT, &Refused::of(&error)),
    }
}

async fn restart(State(commands): State<Arc<Commands>>, Name(name): Name<String>) -> Response<Body> {
    let Some(running) = commands.servers.find(&name) else {
        let serving = commands.servers.serving();
        let error = unknown(&name, serving.iter().map(|running| running.name()));
        return json(StatusCode::NOT_FOUND, &error);
    };
    tracing::info!(name, "restarting it, as asked");
    running.restart(commands.reloader.drain()).await;
    running.settled(SETTLE).await;
    json(StatusCode::OK, &Arrival::of(&running, commands.reloader.local(), Vec::new()))
}

fn unknown<'n>(name: &str, known: impl Iterator<Item = &'n str> + Clone) -> Refused {
    let near = nearest(name, known.clone()).map(|near| format!("did you mean `{near}`?"));
    let hint = near.or_else(|| {
        let known: Vec<&str> = known.collect();
        (!known.is_empty()).then(|| format!("there are: {}", known.join(", ")))
    });
    Refused { error: format!("no server `{name}` runs"), because: Vec::new(), hint, exit: Exit::Failed as u8 }
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Body> {
    let mut response = Response::new(Body::from(serde_json::to_vec(body).unwrap_or_default()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_no_socket_can_have_is_refused_with_its_remedy() {
        // Without the variables, which other tests may not change, the state directory is where it goes.
        let path = Path::new("/").join("x".repeat(100)).join(FILE);
        let error = SocketError::TooLong { path };
        assert_eq!(error.exit(), Exit::Configuration);
        assert_eq!(error.hint().unwrap(), "set `FERRY_RUNTIME_DIR` to a directory whose path has at most 87 bytes");
    }

    #[test]
    fn a_name_that_nobody_has_finds_the_nearest() {
        let known = ["bear", "things"];
        assert_eq!(unknown("baer", known.into_iter()).hint.unwrap(), "did you mean `bear`?");
        assert_eq!(unknown("x", known.into_iter()).hint.unwrap(), "there are: bear, things");
        assert_eq!(unknown("x", [].into_iter()).hint, None);
    }

    #[tokio::test]
    async fn a_socket_is_private_and_replaces_what_a_killed_ferry_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run").join(FILE);
        drop(bind(&path).unwrap());
        assert!(os::unix::net::UnixStream::connect(&path).is_err() && path.exists(), "as a killed ferry leaves it");
        let _listener = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        os::unix::net::UnixStream::connect(&path).unwrap();
    }
}
