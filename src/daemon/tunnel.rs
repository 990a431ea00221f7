//! Whether this ferry opens a tunnel, and how that is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::configured::base;
use super::variables::located;
use crate::config::load::Config;
use crate::config::schema::TunnelMode;
use crate::error::{Advise, Exit};
use crate::paths;
use crate::supervisor::Supervisor;
use crate::telemetry::rotation::LogFile;
use crate::tunnel::credentials::{Credentials, CredentialsError};
use crate::tunnel::{Pace, Settings, Tunnel, TunnelState, discover};

/// cloudflared's own log. No server can have that name: theirs have no dot.
pub const LOG: &str = "cloudflared.tunnel.log";

/// Whether there is to be a tunnel.
#[derive(Debug)]
pub enum Plan {
    /// Not one that ferry runs.
    Off,
    /// There should be, but it is not opened.
    Refused(NoTunnel),
    /// There is.
    Open(Box<Settings>),
}

/// Why a tunnel that is asked for is not opened. Local use goes on.
#[derive(Debug, thiserror::Error)]
pub enum NoTunnel {
    /// It is not known under which name.
    #[error("the tunnel is not opened: `hostname` in `[bridge]` is not set")]
    NoHostname,
    /// Whoever came in could not be told from anybody else.
    #[error("the tunnel is not opened: without {missing} in `[access]` ferry could not tell who comes in")]
    Unauthenticated {
        /// The keys that are not set.
        missing: String,
    },
    /// Nobody there asks for an assertion.
    #[error("the tunnel is not opened: there is no listener behind it that asks who comes in")]
    NoListener,
    /// The tunnel cannot prove that it is ours.
    #[error("the tunnel is not opened")]
    Credentials(#[from] CredentialsError),
    /// The user has no home, so nobody knows where credentials are.
    #[error("the tunnel is not opened")]
    NoHome(#[from] paths::PathError),
}

impl Advise for NoTunnel {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoHostname | Self::Unauthenticated { .. } => {
                "`ferry setup` makes what is missing, and writes it down; `mode = \"off\"` in `[tunnel]` does without"
                    .to_owned()
            }
            Self::NoListener => "`mode = \"off\"` in `[tunnel]` does without a tunnel".to_owned(),
            Self::Credentials(error) => return error.hint(),
            Self::NoHome(_) => "name the tunnel's credentials as `credentials_file` in `[cloudflare]`".to_owned(),
        })
    }

    fn exit(&self) -> Exit {
        Exit::Configuration
    }
}

/// What the configuration does not say.
pub struct Surroundings<'a> {
    /// The socket behind the tunnel, whose listener asks every request for its assertion. Without one nothing is opened.
    pub socket: Option<&'a Path>,
    /// Where `cloudflared.yml` is written.
    pub state_dir: &'a Path,
    /// What all of ferry's end may take.
    pub shutdown_timeout: Duration,
    /// cloudflared's own log.
    pub log: LogFile,
}

/// What the configuration asks for. Without a word about it there is a tunnel if there is a `[cloudflare]`.
pub fn plan(config: &Config, around: Surroundings<'_>) -> Plan {
    let mode = config.tunnel.mode.unwrap_or(match config.cloudflare {
        Some(_) => TunnelMode::Managed,
        None => TunnelMode::Off,
    });
    match mode {
        // Somebody else's cloudflared is no business of ferry's; who listens for it is the bridge's.
        TunnelMode::Off | TunnelMode::External => Plan::Off,
        TunnelMode::Managed => match settings(config, around) {
            Ok(settings) => Plan::Open(Box::new(settings)),
            Err(refusal) => Plan::Refused(refusal),
        },
    }
}

fn settings(config: &Config, around: Surroundings<'_>) -> Result<Settings, NoTunnel> {
    let hostname = config.bridge.hostname.as_ref().ok_or(NoTunnel::NoHostname)?.to_string();
    let access =
        [("`team_domain`", config.access.team_domain.is_some()), ("`audience`", config.access.audience.is_some())];
    let missing: Vec<&str> = access.into_iter().filter(|(_, is_set)| !is_set).map(|(key, _)| key).collect();
    let socket = match around.socket {
        Some(socket) => socket.to_owned(),
        None if missing.is_empty() => return Err(NoTunnel::NoListener),
        None => return Err(NoTunnel::Unauthenticated { missing: missing.join(" and ") }),
    };
    let base = base(config);
    Ok(Settings {
        hostname,
        socket,
        credentials: credentials(config, &base)?,
        program: discover::program(config.tunnel.binary.as_ref().map(|path| located(path, &base))),
        protocol: config.tunnel.protocol,
        edge_ip_version: config.tunnel.edge_ip_version,
        state_dir: around.state_dir.to_owned(),
        shutdown_timeout: around.shutdown_timeout,
        log: Some(around.log),
        pace: Pace::default(),
    })
}

/// The file that is named: whether it is there is looked at before each start. Else the one of the tunnel's name.
fn credentials(config: &Config, base: &Path) -> Result<PathBuf, NoTunnel> {
    let cloudflare = config.cloudflare.clone().unwrap_or_default();
    if let Some(path) = &cloudflare.credentials_file {
        return Ok(located(path, base));
    }
    Ok(Credentials::find(&paths::home()?.join(".cloudflared"), &cloudflare.tunnel_name)?)
}

/// The tunnel of a ferry that runs.
pub(super) enum Way {
    Off,
    Refused(NoTunnel),
    Open(Tunnel),
}

/// How the tunnel is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelFacts {
    /// One word: `off`, `refused`, `starting`, `connected`, `lost`, `failed`.
    pub state: String,
    /// Whether it is well: open, or not wanted.
    pub healthy: bool,
    /// How many connections to Cloudflare there are.
    pub connections: u32,
    /// Seconds since it is connected, or not any more.
    pub since: Option<u64>,
    /// What is wrong with it, or was the last time.
    pub error: Option<String>,
    /// One next action, while something is wrong.
    pub fix: Option<String>,
    /// cloudflared's version.
    pub version: Option<String>,
    /// cloudflared's process.
    pub pid: Option<i32>,
    /// How often that was started again.
    pub restarts: u64,
}

impl Way {
    /// Opens it, if it is to be opened. A refusal is said once, here; everything else goes on.
    pub(super) fn begin(plan: Plan, supervisor: &Supervisor) -> Self {
        match plan {
            Plan::Off => Self::Off,
            Plan::Refused(refusal) => {
                tracing::error!(fix = refusal.hint(), "{}", chain(&refusal));
                Self::Refused(refusal)
            }
            Plan::Open(settings) => Self::Open(Tunnel::open(*settings, supervisor)),
        }
    }

    /// For `/healthz`.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Refused(_) => "down",
            Self::Open(tunnel) => match tunnel.status().state {
                TunnelState::Connected { .. } => "ok",
                TunnelState::Starting | TunnelState::Lost { .. } | TunnelState::Failed { .. } => "down",
            },
        }
    }

    /// Everything there is to tell.
    pub(super) fn facts(&self) -> TunnelFacts {
        let none = TunnelFacts {
            state: "off".to_owned(),
            healthy: true,
            connections: 0,
            since: None,
            error: None,
            fix: None,
            version: None,
            pid: None,
            restarts: 0,
        };
        let tunnel = match self {
            Self::Off => return none,
            Self::Refused(refusal) => {
                let (error, fix) = (Some(chain(refusal)), refusal.hint());
                return TunnelFacts { state: "refused".to_owned(), healthy: false, error, fix, ..none };
            }
            Self::Open(tunnel) => tunnel,
        };
        let (status, process) = (tunnel.status(), tunnel.process().status());
        let known = TunnelFacts {
            error: status.last_error,
            version: status.version.map(|version| version.to_string()),
            pid: process.pid,
            restarts: process.restarts,
            healthy: false,
            ..none
        };
        match status.state {
            TunnelState::Starting => TunnelFacts { state: "starting".to_owned(), ..known },
            TunnelState::Connected { connections, since } => {
                let since = Some(since.elapsed().as_secs());
                TunnelFacts { state: "connected".to_owned(), healthy: true, connections, since, ..known }
            }
            TunnelState::Lost { since } => {
                TunnelFacts { state: "lost".to_owned(), since: Some(since.elapsed().as_secs()), ..known }
            }
            TunnelState::Failed { why, fix } => {
                TunnelFacts { state: "failed".to_owned(), error: Some(why), fix: Some(fix), ..known }
            }
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::rotation::{Limits, LogWriter};

    fn planned(text: &str, socket: Option<&str>) -> String {
        let config = Config::parse(text, Path::new("/etc/ferry/config.toml"), Some(Path::new("/home/me"))).unwrap();
        let log = LogWriter::start(Limits::default()).unwrap().file("/dev/null/x".into());
        let around = Surroundings {
            socket: socket.map(Path::new),
            state_dir: Path::new("/state"),
            shutdown_timeout: Duration::from_secs(9),
            log,
        };
        match plan(&config, around) {
            Plan::Off => "off".to_owned(),
            Plan::Refused(refusal) => format!("{refusal} | {}", refusal.hint().unwrap()),
            Plan::Open(settings) => {
                format!("{} {} {}", settings.hostname, settings.socket.display(), settings.credentials.display())
            }
        }
    }

    #[test]
    fn a_tunnel_is_opened_if_it_is_wanted_and_somebody_asks_who_comes_in() {
        const NAMED: &str = "[bridge]\nhostname = 'b.example.com'\n[cloudflare]\ncredentials_file = 'x.json'\n";
        const ACCESS: &str = "[access]\nteam_domain = 'team.cloudflareaccess.com'\naudience = 'a'\n";
        let both = format!("{NAMED}{ACCESS}");
        for (text, socket, expected) in [
            ("", Some("/s"), "off"),
            ("[bridge]\nhostname = 'b.example.com'\n", Some("/s"), "off"),
            (&format!("{both}[tunnel]\nmode = 'off'\n"), Some("/s"), "off"),
            (&format!("{both}[tunnel]\nmode = 'external'\n"), Some("/s"), "off"),
            (&both, Some("/s"), "b.example.com /s /etc/ferry/x.json"),
            (&both, None, "there is no listener behind it that asks who comes in | `mode = \"off\"`"),
            (
                NAMED,
                None,
                "without `team_domain` and `audience` in `[access]` ferry could not tell who comes in | `ferry setup`",
            ),
            (&both.replace("audience = 'a'", ""), None, "without `audience` in `[access]`"),
            (
                &both.replace("hostname = 'b.example.com'", ""),
                Some("/s"),
                "`hostname` in `[bridge]` is not set | `ferry setup`",
            ),
            ("[tunnel]\nmode = 'managed'\n", Some("/s"), "`hostname` in `[bridge]` is not set"),
        ] {
            let found = planned(text, socket);
            assert!(found.contains(expected), "{text}: {found}");
        }
    }
}
