//! One configured path: the sessions its clients hold, and the server behind it.

use std::sync::Arc;

use super::auth::Identity;
use super::child::{Child, Sharing};
use super::era::Policy;
use super::exchange::Permits;
use super::seal::Sealer;
use super::session_id::SessionIds;
use super::sessions::Sessions;
use super::sse::OlderDoors;
use crate::config::limits::Limits;
use crate::mcp::version::Era;

/// What the configuration says of one endpoint.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name, of letters, digits, `-` and `_`.
    pub name: String,
    /// The path it is served at, with a slash in front and none behind.
    pub path: String,
    /// Which clients it serves.
    pub policy: Policy,
    /// How its server is opened and shared.
    pub sharing: Sharing,
}

/// What is made of ferry's secret bytes.
#[derive(Debug, Clone)]
pub struct Keys {
    sessions: Arc<SessionIds>,
    states: Arc<Sealer>,
}

impl Keys {
    /// Derives all keys from 32 secret bytes.
    pub fn new(secret: &[u8; 32]) -> Self {
        Self { sessions: Arc::new(SessionIds::new(secret)), states: Arc::new(Sealer::new(secret)) }
    }
}

/// What is to be seen of an endpoint.
#[derive(Debug)]
pub struct EndpointFacts {
    /// Requests that wait for its server.
    pub in_flight: usize,
    /// The sessions in its table.
    pub sessions: Vec<SessionFacts>,
    /// The era its server was opened in.
    pub era: Option<Era>,
    /// The protocol version that was agreed on with its server.
    pub protocol: Option<String>,
    /// What its server calls itself.
    pub server: Option<String>,
}

/// What is to be seen of a session.
#[derive(Debug)]
pub struct SessionFacts {
    /// What its client calls itself, in its own words.
    pub client: String,
    /// Whose it is.
    pub identity: Identity,
    /// Whether a stream for what the server says unasked is open.
    pub has_stream: bool,
}

/// One configured path.
pub struct Endpoint {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) policy: Policy,
    pub(super) states: Arc<Sealer>,
    pub(super) limits: Arc<Limits>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) child: Arc<Child>,
    pub(super) permits: Arc<Permits>,
    pub(super) listens: Arc<Permits>,
    pub(super) older_doors: OlderDoors,
}

impl Endpoint {
    /// An endpoint whose server is yet to be connected.
    pub fn new(settings: Settings, keys: &Keys, limits: &Arc<Limits>) -> Arc<Self> {
        let sessions = Arc::new(Sessions::new(&settings.name, Arc::clone(&keys.sessions), Arc::clone(limits)));
        let child = Child::new(&settings.name, settings.sharing, Arc::clone(&sessions), Arc::clone(limits));
        Arc::new(Self {
            name: settings.name,
            states: Arc::clone(&keys.states),
            path: settings.path,
            policy: settings.policy,
            limits: Arc::clone(limits),
            sessions,
            child,
            permits: Arc::default(),
            listens: Arc::default(),
            older_doors: OlderDoors::default(),
        })
    }

    /// The server behind it.
    pub fn child(&self) -> &Arc<Child> {
        &self.child
    }

    /// Frees sessions that nobody uses, for as long as it runs.
    pub async fn expire_sessions(self: Arc<Self>) {
        let mut tick = tokio::time::interval(
            (self.limits.session_idle.min(self.limits.replay_kept) / 8).max(std::time::Duration::from_millis(20)),
        );
        loop {
            tokio::select! {
                _ = tick.tick() => self.sessions.expire_streams(false),
                () = self.sessions.short_of_room() => self.sessions.expire_streams(true),
            }
            for session in self.sessions.expire() {
                tracing::debug!(client = session.client, "an idle session was freed");
                self.child.forget_session(&session);
            }
        }
    }

    /// Ends the standing streams: whoever stops needs no more of them.
    pub fn end_streams(&self) {
        self.child.end_streams();
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path it is served at.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is to be seen of it now.
    pub fn observed(&self) -> EndpointFacts {
        let opened = self.child.opened();
        let sessions = self.sessions.all().into_iter().map(|session| SessionFacts {
            client: session.client.clone(),
            identity: session.identity.clone(),
            has_stream: session.standalone.is_open(),
        });
        EndpointFacts {
            in_flight: self.in_flight(),
            sessions: sessions.collect(),
            era: opened.as_ref().map(|opened| opened.era),
            protocol: opened.as_ref().map(|opened| opened.version.clone()),
            server: opened.map(|opened| opened.server()).filter(|server| !server.is_empty()),
        }
    }

    /// Requests that wait for its server.
    pub fn in_flight(&self) -> usize {
        self.child.in_flight()
    }
}
