//! What is made sure of before each start of cloudflared, so that a file that was repaired meanwhile is taken as it is
//! now: the version, the credentials, a free port, the configuration.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::credentials::{Credentials, CredentialsError};
use super::discover::{Verdict, Version};
use super::logs::Line;
use super::render::{self, Content};
use super::{Settings, Trouble};
use crate::error::Advise as _;
use crate::paths;
use crate::supervisor::{Environment, Helper, HelperError, Helpers, Looking, Lookup, Output, Role};

/// How long cloudflared may take to tell its version, or what it thinks of a file. A Mac that looks at a new program for
/// the first time takes a second or two.
const HELPER_LIMIT: Duration = Duration::from_secs(4);

/// The file's name in the state directory.
const FILE: &str = "cloudflared.yml";

/// What a start begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prepared {
    /// Where cloudflared will answer `/ready`.
    pub(super) metrics: SocketAddr,
    /// Its version, if it has one.
    pub(super) version: Option<Version>,
}

/// Prepares each start, and tells how that went.
pub(super) struct Launch {
    settings: Settings,
    told: watch::Sender<Option<Result<Prepared, Trouble>>>,
    /// What it printed as its version when it last accepted the configuration: asked again after an upgrade only.
    accepted_by: Mutex<Option<Vec<u8>>>,
}

impl Launch {
    pub(super) fn new(settings: Settings) -> (Self, watch::Receiver<Option<Result<Prepared, Trouble>>>) {
        let (told, watched) = watch::channel(None);
        (Self { settings, told, accepted_by: Mutex::default() }, watched)
    }

    /// Where cloudflared finds its configuration.
    pub(super) fn file(settings: &Settings) -> PathBuf {
        settings.state_dir.join(FILE)
    }

    async fn prepare(&self, helpers: &Helpers) -> Result<Prepared, Trouble> {
        let (version, printed) = self.version(helpers).await?;
        let settings = self.settings.clone();
        let metrics = spawn_blocking(move || write(&settings)).await.map_err(|_| stopping())??;
        if self.accepted_by.lock().unwrap_or_else(PoisonError::into_inner).as_ref() != Some(&printed) {
            self.validate(helpers).await?;
            *self.accepted_by.lock().unwrap_or_else(PoisonError::into_inner) = Some(printed);
        }
        Ok(Prepared { metrics, version })
    }

    async fn version(&self, helpers: &Helpers) -> Result<(Option<Version>, Vec<u8>), Trouble> {
        let no_program = |why| Trouble::NoProgram(why);
        let output = self.ask(helpers, vec!["--version".into()]).await.map_err(|error| no_program(chain(&error)))?;
        if !output.status.success() {
            return Err(no_program(format!("`--version` ended with {}: {}", output.status, words(&output))));
        }
        let version = Version::parse(&String::from_utf8_lossy(&output.stdout));
        match version.map(|version| (version, version.verdict(SystemTime::now()))) {
            Some((version, Verdict::Broken)) => return Err(Trouble::BrokenVersion(version)),
            Some((version, Verdict::Old)) => {
                warn!(%version, "this cloudflared is more than a year old: Cloudflare does not support it any more");
            }
            Some((version, Verdict::Fine)) => info!(%version, "cloudflared"),
            None => warn!("this cloudflared does not tell its version"),
        }
        Ok((version, output.stdout))
    }

    async fn validate(&self, helpers: &Helpers) -> Result<(), Trouble> {
        let arguments = render::validate(&Self::file(&self.settings));
        let output = self.ask(helpers, arguments).await.map_err(|error| Trouble::NoProgram(chain(&error)))?;
        if output.status.success() { Ok(()) } else { Err(Trouble::Configuration(words(&output))) }
    }

    async fn ask(&self, helpers: &Helpers, args: Vec<std::ffi::OsString>) -> Result<Output, HelperError> {
        let helper = Helper {
            role: Role::Tunnel,
            program: self.settings.program.clone().into(),
            args,
            cwd: None,
            environment: Environment { inherit: true, ..Environment::default() },
            limit: HELPER_LIMIT,
        };
        helpers.run(helper).await
    }
}

impl Lookup for Launch {
    fn look_up<'a>(&'a self, helpers: &'a Helpers) -> Looking<'a> {
        Box::pin(async move {
            let prepared = self.prepare(helpers).await;
            let outcome = prepared.as_ref().map(|_| Vec::new()).map_err(ToString::to_string);
            self.told.send_replace(Some(prepared));
            outcome
        })
    }
}

/// Reads the credentials, takes a port, and writes the file. Blocks.
fn write(settings: &Settings) -> Result<SocketAddr, Trouble> {
    let path = &settings.credentials;
    let credentials = Credentials::read(path).map_err(|error| unusable(&error))?;
    if let Some(mode) = credentials.open_to_others {
        let path = path.display();
        warn!("others can read the tunnel's credentials {path} (mode {mode:o}): `chmod 600 {path}`");
    }
    let cannot = |error: io::Error| Trouble::Preparation(error.to_string());
    let metrics = free_port().map_err(cannot)?;
    let content = Content {
        tunnel_id: &credentials.tunnel_id,
        credentials: text(path)?,
        metrics,
        hostname: &settings.hostname,
        socket: text(&settings.socket)?,
    };
    let file = Launch::file(settings);
    let written = paths::make_private_dir(&settings.state_dir)
        .and_then(|()| paths::write_atomically(&file, render::file(&content).as_bytes()));
    written.map_err(|error| Trouble::Preparation(format!("{} cannot be written: {error}", file.display())))?;
    Ok(metrics)
}

/// A free port of the loopback interface. Somebody may take it before cloudflared does: then that ends, and the next
/// start has another.
fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn text(path: &Path) -> Result<&str, Trouble> {
    path.to_str().ok_or_else(|| Trouble::Preparation(format!("{} is not UTF-8", path.display())))
}

fn unusable(error: &CredentialsError) -> Trouble {
    Trouble::Credentials { why: chain(error), fix: error.hint().unwrap_or_default() }
}

fn stopping() -> Trouble {
    Trouble::Preparation("ferry is stopping".to_owned())
}

/// The last thing it said.
fn words(output: &Output) -> String {
    let last = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.lines().rfind(|line| !line.trim().is_empty()).map(|line| Line::parse(line.trim()).text)
    };
    last(&output.stderr).or_else(|| last(&output.stdout)).unwrap_or_else(|| output.status.to_string())
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
