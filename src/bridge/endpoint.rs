//! One configured path: the sessions its clients hold, and the server behind it.

use std::sync::Arc;

use super::child::{Child, Sharing};
use super::era::Policy;
use super::exchange::Permits;
use super::seal::Sealer;
use super::session_id::SessionIds;
use super::sessions::Sessions;
use super::sse::OlderDoors;
use crate::config::limits::Limits;

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

    /// Requests that wait for its server.
    pub fn in_flight(&self) -> usize {
        self.child.in_flight()
    }
}
