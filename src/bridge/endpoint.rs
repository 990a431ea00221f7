//! One configured path: the sessions its clients hold, and the server behind it.

use std::sync::Arc;

use super::auth::Identity;
use super::child::{Child, Isolation, OnExit, Sharing};
use super::children::{Children, Idle};
use super::era::{Params, Policy};
use super::exchange::Permits;
use super::introduction::Introduction;
use super::seal::Sealer;
use super::session_id::SessionIds;
use super::sessions::{Session, Sessions};
use super::sse::OlderDoors;
use super::upstream::Upstreams;
use crate::config::limits::Limits;
use crate::mcp::version::Era;
use crate::telemetry::metrics::Meter;

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
    pub(super) children: Arc<Children>,
    pub(super) permits: Arc<Permits>,
    pub(super) listens: Arc<Permits>,
    pub(super) older_doors: OlderDoors,
}

impl Endpoint {
    /// An endpoint whose server is yet to be connected.
    pub fn new(settings: Settings, keys: &Keys, limits: &Arc<Limits>) -> Arc<Self> {
        Self::counted_by(Arc::default(), settings, keys, limits)
    }

    /// The same, where another one has counted before.
    pub fn counted_by(meter: Arc<Meter>, settings: Settings, keys: &Keys, limits: &Arc<Limits>) -> Arc<Self> {
        let revives = settings.sharing.on_exit == OnExit::Rehandshake;
        let ids = Arc::clone(&keys.sessions);
        let sessions = Arc::new(Sessions::new(&settings.name, ids, Arc::clone(limits), revives));
        let children = Children::new(&settings.name, settings.sharing, &sessions, limits, meter);
        Arc::new(Self {
            name: settings.name,
            states: Arc::clone(&keys.states),
            path: settings.path,
            policy: settings.policy,
            limits: Arc::clone(limits),
            sessions,
            children,
            permits: Arc::default(),
            listens: Arc::default(),
            older_doors: OlderDoors::default(),
        })
    }

    /// Tells it who starts its servers. Once.
    pub fn connect(&self, upstreams: Arc<dyn Upstreams>) {
        self.children.connect(upstreams);
    }

    /// Its servers, those that have no process now included.
    pub fn children(&self) -> Vec<Arc<Child>> {
        self.children.all()
    }

    /// Who shares its servers.
    pub(super) fn isolation(&self) -> Isolation {
        self.children.sharing.isolation
    }

    /// The server of a session.
    pub(super) fn child_of(&self, session: &Arc<Session>) -> Arc<Child> {
        self.children.of_session(session)
    }

    /// The server of a modern request.
    pub(super) fn child_for(&self, identity: &Identity, params: &Params<'_>) -> Arc<Child> {
        self.children.of_identity(identity, || Introduction::of_request(params))
    }

    /// Lets go of everything that a session had here.
    pub(super) fn forget(&self, session: &Arc<Session>) {
        let Some(child) = self.children.existing(session) else { return };
        child.forget_session(session);
        if child.is_one_sessions() {
            self.children.remove(&child);
        }
    }

    /// Lets go of what sessions had that had to make room.
    pub(super) fn forget_evicted(&self) {
        self.sessions.take_evicted().iter().for_each(|session| self.forget(session));
    }

    /// Frees sessions that nobody uses and ends servers that nobody asks, for as long as it runs.
    pub async fn expire_sessions(self: Arc<Self>) {
        let shortest = self.limits.session_idle.min(self.limits.replay_kept);
        let shortest = self.children.idle_stop().map_or(shortest, |idle| idle.min(shortest));
        let mut tick = tokio::time::interval((shortest / 8).max(std::time::Duration::from_millis(20)));
        let mut idle: Option<Idle> = None;
        loop {
            tokio::select! {
                _ = tick.tick() => self.sessions.expire_streams(false),
                () = self.sessions.short_of_room() => self.sessions.expire_streams(true),
            }
            for session in self.sessions.expire() {
                tracing::debug!(client = session.client, "an idle session was freed");
                self.forget(&session);
            }
            self.children.end_idle(&mut idle);
        }
    }

    /// Ends the standing streams: whoever stops needs no more of them.
    pub fn end_streams(&self) {
        for session in self.sessions.all() {
            session.standalone.close();
        }
        for child in self.children.all() {
            child.end_listens();
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is counted of it.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.children.meter
    }

    /// The path it is served at.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is to be seen of it now.
    pub fn observed(&self) -> EndpointFacts {
        let opened = self.children.all().iter().find_map(|child| child.opened());
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

    /// Requests that wait for its servers.
    pub fn in_flight(&self) -> usize {
        self.children.all().iter().map(|child| child.in_flight()).sum()
    }
}
