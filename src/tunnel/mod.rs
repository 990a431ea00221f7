//! cloudflared as one supervised process.
//!
//! Before each start `launch` makes sure of everything cloudflared needs: the program and its version ([`discover`]), the
//! tunnel's [`credentials`], a port for its metrics, and the configuration ([`render`]), which cloudflared itself checks.
//! While it runs, `task` asks it on `/ready` how many connections it has (`ready`) and reads what it logs ([`logs`]);
//! the pure [`readiness`] makes of that what [`Tunnel::watch`] tells, and says when cloudflared must be started anew.
//! What can be wrong, and what somebody can do about it, is a [`Trouble`].
//!
//! cloudflared's exit codes are no measure of health: it never exits for a revoked secret or a network that is gone,
//! and it exits with 0 for an option that it does not know.
//!
//! Deliberately absent: who may come in. Whoever opens a tunnel has a listener behind it that asks for an assertion.

mod clock;
pub mod credentials;
pub mod discover;
mod launch;
pub mod logs;
pub mod readiness;
mod ready;
pub mod render;
mod task;
mod trouble;

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::schema::{IpVersion, TunnelProtocol};
use crate::supervisor::{Process, Supervisor};
use crate::telemetry::rotation::LogFile;
pub use discover::Version;
pub use readiness::TunnelState;
pub use trouble::Trouble;

/// How one tunnel is run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The public name. A request for any other is answered with 404 by cloudflared.
    pub hostname: String,
    /// The Unix socket that requests are handed to. Whoever listens there asks each for its assertion.
    pub socket: PathBuf,
    /// The tunnel's credentials; read anew before each start.
    pub credentials: PathBuf,
    /// cloudflared: a path, or a name to be found on the PATH. [`discover::program`] knows.
    pub program: PathBuf,
    /// How it talks to Cloudflare; as it sees fit if absent.
    pub protocol: Option<TunnelProtocol>,
    /// Which IP version it talks over; as it sees fit if absent.
    pub edge_ip_version: Option<IpVersion>,
    /// Where `cloudflared.yml` is written.
    pub state_dir: PathBuf,
    /// What all of ferry's end may take: cloudflared must be gone by then.
    pub shutdown_timeout: Duration,
    /// cloudflared's own log.
    pub log: Option<LogFile>,
    /// How often to look, and how long to be patient.
    pub pace: Pace,
}

/// How often to look at cloudflared, and how long to be patient with it.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two looks while there is no connection.
    pub unconnected: Duration,
    /// Between two looks while there is one.
    pub connected: Duration,
    /// cloudflared is started anew when it had no connection for so long: after a change of networks it may hold on to
    /// addresses that lead nowhere.
    pub patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            unconnected: Duration::from_secs(1),
            connected: Duration::from_secs(10),
            patience: Duration::from_mins(2),
        }
    }
}

/// What is known of the tunnel now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelStatus {
    /// Whether it works.
    pub state: TunnelState,
    /// What went wrong last, kept when all is well again.
    pub last_error: Option<String>,
    /// cloudflared's version, once it was asked.
    pub version: Option<Version>,
}

/// A running tunnel. It ends with the supervisor; its observer ends with this.
#[derive(Debug)]
pub struct Tunnel {
    process: Process,
    status: watch::Receiver<TunnelStatus>,
    observer: JoinHandle<()>,
}

impl Tunnel {
    /// Begins to run cloudflared, on the runtime of the caller. Whatever is wrong with it is told by
    /// [`Tunnel::status`], and tried again.
    pub fn open(settings: Settings, supervisor: &Supervisor) -> Self {
        let (process, status, observer) = task::start(settings, supervisor);
        Self { process, status, observer: tokio::spawn(observer) }
    }

    /// What is known of it now.
    pub fn status(&self) -> TunnelStatus {
        self.status.borrow().clone()
    }

    /// Tells of every change.
    pub fn watch(&self) -> watch::Receiver<TunnelStatus> {
        self.status.clone()
    }

    /// cloudflared, for its pid and its last lines.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.observer.abort();
    }
}
