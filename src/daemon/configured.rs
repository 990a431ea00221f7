//! From the configuration to what [`super::assemble`] puts together.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::assemble::{Broken, Server};
use super::variables::{Seen, Variables, located, own_secret};
use crate::bridge::auth::Admission;
use crate::bridge::child::{Isolation, OnExit, Sharing};
use crate::bridge::endpoint::Settings;
use crate::bridge::era;
use crate::bridge::origin::{Guard, InvalidEntry, Listener};
use crate::config::limits::Limits;
use crate::config::load::{self, Config, ConfigError};
use crate::config::schema::{self, Era, EraPreference, ForwardedSignal, Serve};
use crate::config::values::{LocalListen, Source};
use crate::error::{Advise, Exit};
use crate::mcp::probe::Choice;
use crate::paths;
use crate::supervisor::{Capture, Environment, Lookup, Role, Signal, Spec, Start, TERM_GRACE};
use crate::telemetry::rotation::LogFile;

/// An entry of the configuration that means nothing to the bridge.
#[derive(Debug, thiserror::Error)]
#[error("{}: {entry}", path.display())]
pub struct UnusableEntry {
    path: PathBuf,
    entry: InvalidEntry,
}

impl Advise for UnusableEntry {
    fn exit(&self) -> Exit {
        Exit::Configuration
    }
}

/// Why a file cannot be taken as a whole.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read, or something in it is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An entry means nothing to the bridge.
    #[error(transparent)]
    Entry(#[from] UnusableEntry),
}

impl Advise for LoadError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.hint(),
            Self::Entry(error) => error.hint(),
        }
    }

    fn exit(&self) -> Exit {
        Exit::Configuration
    }
}

/// The token of the local listener is not to be had.
#[derive(Debug, thiserror::Error)]
#[error("`local_token` cannot be had: {why}")]
pub struct NoToken {
    why: String,
}

impl Advise for NoToken {
    fn hint(&self) -> Option<String> {
        Some(
            "ferry does not listen without it, since other machines could reach it; start it again when it is there"
                .to_owned(),
        )
    }

    // Not 78, after which systemd would not try again: at login a secret may come later than ferry.
    fn exit(&self) -> Exit {
        Exit::Failed
    }
}

/// Where the local listener is to be; nowhere if it is off.
pub fn local_address(config: &Config) -> Option<SocketAddr> {
    match config.bridge.local_listen {
        Some(LocalListen::Off) => None,
        Some(LocalListen::At(address)) => Some(address),
        None => Some((Ipv4Addr::LOCALHOST, config.bridge.local_port.0).into()),
    }
}

/// Where a client on this or another machine finds an address.
pub fn reachable(address: SocketAddr) -> String {
    let host = match address.ip() {
        ip if ip.is_unspecified() => nix::unistd::gethostname()
            .map_or_else(|_| "localhost".to_owned(), |name| name.to_string_lossy().into_owned()),
        IpAddr::V6(ip) => format!("[{ip}]"),
        IpAddr::V4(ip) => ip.to_string(),
    };
    format!("{host}:{}", address.port())
}

/// Which pages may talk to the local listener.
pub fn guard(config: &Config) -> Result<Guard, UnusableEntry> {
    guard_at(config, local_address(config).map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip()))
}

/// The same for a listener that has its address already.
pub(super) fn guard_at(config: &Config, address: IpAddr) -> Result<Guard, UnusableEntry> {
    Guard::new(Listener::Local(address), &config.bridge.allowed_hosts, &config.bridge.allowed_origins)
        .map_err(|entry| UnusableEntry { path: config.path.clone(), entry })
}

/// Reads a file in which nothing at all may be wrong, not even one server's block.
pub fn load_whole(path: &Path) -> Result<Config, LoadError> {
    let config = Config::load(path)?;
    guard(&config)?;
    if config.broken.is_empty() {
        return Ok(config);
    }
    let faults = config.broken.into_iter().flat_map(|broken| broken.faults).collect();
    Err(ConfigError::Wrong { path: config.path, faults }.into())
}

/// What the local listener asks of a request. Where other machines can reach it, the configuration has a token.
pub fn admission(config: &Config) -> Result<Admission, NoToken> {
    let Some(token) = &config.bridge.local_token else { return Ok(Admission::loopback()) };
    let base = base(config);
    let token = own_secret(token, &env_files(config, &base), &base).map_err(|why| NoToken { why })?;
    Ok(Admission::token(token))
}

/// The servers that are switched on; each writes its log where `log` says.
pub fn servers(config: &Config, log: impl Fn(&str) -> LogFile) -> Vec<Server> {
    let base = base(config);
    let shared = env_files(config, &base);
    let enabled = config.servers.iter().filter(|server| server.mcp.enabled);
    enabled
        .map(|server| self::server(server, &config.bridge.limits, &shared, &base, log(server.mcp.name.as_str())))
        .collect()
}

/// The servers that cannot be started, and why.
pub fn broken(config: &Config) -> Vec<Broken> {
    let broken = config.broken.iter().map(|broken| {
        let faults: Vec<String> = broken.faults.iter().map(ToString::to_string).collect();
        Broken { name: broken.name.clone(), path: broken.path.clone(), why: faults.join("; ") }
    });
    broken.collect()
}

fn server(server: &load::Server, limits: &Limits, shared: &[PathBuf], base: &Path, log: LogFile) -> Server {
    let mcp = &server.mcp;
    let limits = mcp.limits.as_ref().unwrap_or(limits);
    let mut words = server.argv.iter();
    let needs = |source: &Source| matches!(source, Source::Env(_) | Source::Command(_));
    let needs_shared = mcp.inherit_env || mcp.env.0.values().any(needs);
    let variables = Arc::new(Variables {
        shared: if needs_shared { shared.to_vec() } else { Vec::new() },
        inherit: mcp.inherit_env,
        file: mcp.env_file.as_ref().map(|file| located(file, base)),
        env: mcp.env.0.clone(),
        base: base.to_owned(),
        seen: Seen::default(),
    });
    let lookup: Arc<dyn Lookup> = Arc::clone(&variables) as _;
    let process = Spec {
        name: mcp.name.to_string(),
        role: Role::Mcp,
        program: words.next().map(Into::into).unwrap_or_default(),
        args: words.map(Into::into).collect(),
        cwd: mcp.cwd.as_ref().map(|cwd| cwd.expand(paths::home().ok().as_deref())),
        environment: Environment { inherit: mcp.inherit_env, set: Vec::new(), lookup: Some(lookup) },
        // The handshake has its own limit and says more when it is over.
        start_timeout: limits.start_timeout + Duration::from_secs(5),
        stop_grace: Duration::from_secs(5),
        stop_signal: Signal::SIGTERM,
        term_grace: TERM_GRACE,
        forward_signals: mcp.forward_signals.iter().map(|signal| signal_of(*signal)).collect(),
        start: if mcp.eager { Start::Eager } else { Start::OnDemand },
        stderr: Capture { file: Some(log), lines: None },
    };
    let endpoint = Settings {
        name: process.name.clone(),
        path: mcp.path.to_string(),
        policy: era::Policy { serve: serve_of(mcp.serve), legacy_stateless: mcp.legacy_stateless, sse: mcp.sse },
        sharing: Sharing {
            era: choice_of(mcp.era, mcp.era_prefer),
            interactive: mcp.shared_interactive,
            capabilities: mcp.upstream_capabilities.clone().map(|object| serde_json::Value::Object(object).to_string()),
            isolation: match mcp.isolation {
                schema::Isolation::Shared => Isolation::Shared,
                schema::Isolation::Session => Isolation::Session,
                schema::Isolation::User => Isolation::User,
            },
            max_children: mcp.max_children.map_or(Sharing::default().max_children, |max| usize::from(max.0)),
            idle_stop: mcp.idle_stop.map(|idle| idle.0),
            on_exit: match mcp.on_exit {
                schema::OnExit::Rehandshake => OnExit::Rehandshake,
                schema::OnExit::EndSession => OnExit::EndSession,
            },
        },
    };
    Server {
        process,
        endpoint,
        vital: None,
        limits: mcp.limits.clone(),
        request_timeout: mcp.request_timeout.map(|time| time.0),
        variables: Some(variables),
    }
}

/// Where relative paths of the configuration start.
pub(super) fn base(config: &Config) -> PathBuf {
    let file = std::path::absolute(&config.path).unwrap_or_else(|_| config.path.clone());
    file.parent().map(Path::to_owned).unwrap_or_default()
}

fn env_files(config: &Config, base: &Path) -> Vec<PathBuf> {
    config.bridge.env_files.iter().map(|file| located(file, base)).collect()
}

fn signal_of(signal: ForwardedSignal) -> Signal {
    match signal {
        ForwardedSignal::Hup => Signal::SIGHUP,
        ForwardedSignal::Usr1 => Signal::SIGUSR1,
        ForwardedSignal::Usr2 => Signal::SIGUSR2,
    }
}

fn serve_of(serve: Serve) -> era::Serve {
    match serve {
        Serve::Both => era::Serve::Both,
        Serve::Modern => era::Serve::Modern,
        Serve::Legacy => era::Serve::Legacy,
    }
}

/// The modern one where a server has both: there whose a message is need not be guessed (`protocol.md` §10.2).
fn choice_of(era: Era, prefer: Option<EraPreference>) -> Choice {
    match (era, prefer) {
        (Era::Legacy, _) => Choice::Legacy,
        (Era::Modern, _) => Choice::Modern,
        (Era::Auto, Some(EraPreference::Modern) | None) => Choice::Probe,
        (Era::Auto, Some(EraPreference::Legacy)) => Choice::PreferLegacy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::rotation::{Limits as LogLimits, LogWriter};

    fn configured(text: &str) -> Vec<Server> {
        let config = Config::parse(text, Path::new("/etc/ferry/config.toml"), Some(Path::new("/home/me"))).unwrap();
        assert_eq!(config.broken, []);
        let logs = LogWriter::start(LogLimits::default()).unwrap();
        servers(&config, |name| logs.file(PathBuf::from("/dev/null").join(name)))
    }

    #[test]
    fn every_key_reaches_its_place() {
        let servers = configured(
            "[bridge]\nlimits = { start_timeout = 7 }\n[[mcps]]\nname = 'a'\npath = '/a/'\ncommand = '~/x -y'\ncwd = 'rel'\n\
             env_file = 'a.env'\ninherit_env = false\nforward_signals = ['USR2']\neager = false\nera_prefer = 'modern'\n\
             serve = 'legacy'\nisolation = 'session'\nlimits = { max_inflight = 2 }\nlegacy_stateless = true\nsse = false\nmax_children = 2\nidle_stop = 1.5\nshared_interactive = true\nupstream_capabilities = { roots = {} }\nrequest_timeout = 0.5\n\
             [[mcps]]\nname = 'off'\npath = '/off'\ncommand = 'x'\nenabled = false\n\
             [[mcps]]\nname = 'b'\npath = '/'\ncommand = 'x'\n",
        );
        let [a, b] = &servers[..] else { panic!("the one that is off is not served") };
        assert_eq!((a.process.program.as_os_str(), &a.process.args[..]), ("/home/me/x".as_ref(), &["-y".into()][..]));
        assert_eq!(a.process.cwd.as_deref(), Some(Path::new("rel")), "as Python has it: from where ferry was started");
        assert_eq!((a.process.start, a.process.start_timeout), (Start::OnDemand, Duration::from_secs(12)));
        assert_eq!(a.process.forward_signals, [Signal::SIGUSR2]);
        assert!(!a.process.environment.inherit && b.process.environment.inherit);
        assert_eq!((a.endpoint.path.as_str(), b.endpoint.path.as_str()), ("/a", "/"));
        assert_eq!((a.endpoint.policy.serve, b.endpoint.policy.serve), (era::Serve::Legacy, era::Serve::Both));
        assert_eq!((a.endpoint.sharing.era, b.endpoint.sharing.era), (Choice::Probe, Choice::Probe));
        assert_eq!(a.endpoint.sharing.capabilities.as_deref(), Some(r#"{"roots":{}}"#));
        let sharing = &a.endpoint.sharing;
        assert_eq!((sharing.isolation, sharing.max_children), (Isolation::Session, 2));
        assert_eq!(sharing.idle_stop, Some(Duration::from_millis(1500)));
        let own = a.limits.as_ref().unwrap();
        assert_eq!(
            (own.max_inflight, own.start_timeout),
            (2, Duration::from_secs(7)),
            "its own on top of those of all"
        );
        assert!(b.limits.is_none() && a.endpoint.policy.legacy_stateless && !a.endpoint.policy.sse);
        assert_eq!((a.request_timeout, b.request_timeout), (Some(Duration::from_millis(500)), None));
    }

    #[test]
    fn eras_are_chosen_as_the_file_says() {
        for (era, prefer, choice) in [
            (Era::Auto, None, Choice::Probe),
            (Era::Auto, Some(EraPreference::Legacy), Choice::PreferLegacy),
            (Era::Auto, Some(EraPreference::Modern), Choice::Probe),
            (Era::Legacy, None, Choice::Legacy),
            (Era::Modern, None, Choice::Modern),
        ] {
            assert_eq!(choice_of(era, prefer), choice);
        }
    }
}
