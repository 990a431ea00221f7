//! Whose server is it? Everybody's, one session's, or one person's; and which sessions that makes its audience.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use super::super::auth::Identity;
use super::super::refusal::Refusal;
use super::super::sessions::Session;
use super::{Child, Phase};

/// Whose server it is.
#[derive(Debug)]
pub(in crate::bridge) enum Whose {
    /// Everybody's.
    Everybody,
    /// One session's. Its id is known once the server has said that it can be opened.
    Session(OnceLock<String>),
    /// That of one identity: of its modern requests, and, where they have none of their own, of its sessions.
    Identity {
        /// Whose.
        identity: Identity,
        /// Whether its sessions share it.
        sessions: bool,
    },
}

impl Child {
    /// Whether not everybody shares it.
    pub fn is_private(&self) -> bool {
        !matches!(self.whose, Whose::Everybody)
    }

    /// Whether it is one session's alone.
    pub(in crate::bridge) fn is_one_sessions(&self) -> bool {
        matches!(self.whose, Whose::Session(_))
    }

    /// Whether its server was told that there is somebody to ask.
    pub(in crate::bridge) fn may_ask(&self) -> bool {
        self.is_private() || self.sharing.interactive || self.sharing.capabilities.is_some()
    }

    /// Gives it to the session that it was opened for.
    pub(in crate::bridge) fn give_to(&self, session: &Session) {
        if let Whose::Session(id) = &self.whose {
            let _ = id.set(session.id.clone());
        }
    }

    /// The sessions that it serves.
    pub(in crate::bridge) fn audience(&self) -> Vec<Arc<Session>> {
        match &self.whose {
            Whose::Everybody => self.sessions.all(),
            Whose::Session(_) => self.owner().into_iter().collect(),
            Whose::Identity { sessions: false, .. } => Vec::new(),
            Whose::Identity { identity, .. } => self.sessions.of_identity(identity),
        }
    }

    /// The only session that it serves, if there is just one now.
    pub(in crate::bridge) fn only_session(&self) -> Option<Arc<Session>> {
        if let Whose::Everybody = self.whose {
            return self.sessions.only();
        }
        let mut audience = self.audience();
        audience.pop().filter(|_| audience.is_empty())
    }

    /// The one session that it can ever serve.
    pub(in crate::bridge) fn owner(&self) -> Option<Arc<Session>> {
        match &self.whose {
            Whose::Session(id) => self.sessions.get(id.get()?),
            Whose::Everybody | Whose::Identity { .. } => None,
        }
    }

    /// Ends the sessions that it serves: what they know of it is not true any more.
    pub(super) fn end_sessions(self: &Arc<Self>, why: &str) {
        tracing::warn!("{why}, so its sessions are ended");
        for session in self.audience() {
            let _ = self.sessions.end(&session.identity, &session.id);
            self.forget_session(&session);
        }
        if self.is_private()
            && let Some(children) = self.children.upgrade()
        {
            children.remove(self);
        }
    }

    /// Counts it among those that have a process, before it gets one.
    pub(super) fn take_place(self: &Arc<Self>) -> Result<(), Refusal> {
        match self.children.upgrade().filter(|_| self.is_private()) {
            Some(children) => children.make_room_for(self),
            None => Ok(()),
        }
    }

    /// Whether it has a process, or waits for one.
    pub(in crate::bridge) fn occupies(&self) -> bool {
        !matches!(*self.phase.borrow(), Phase::Resting | Phase::Gone)
    }

    /// Notes that it is about to get a process.
    pub(in crate::bridge) fn occupy(&self) {
        self.phase.send_if_modified(|phase| {
            let rests = matches!(phase, Phase::Resting);
            if rests {
                *phase = Phase::Starting;
            }
            rests
        });
    }

    /// Notes when it was asked.
    pub(in crate::bridge) fn note_use(&self, moment: u64) {
        self.used.store(moment, Ordering::Relaxed);
    }

    /// When it was last asked.
    pub(in crate::bridge) fn last_use(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether a session that it serves has a stream open.
    pub(in crate::bridge) fn is_listened_to(&self) -> bool {
        self.audience().iter().any(|session| session.standalone.is_open())
    }

    /// Whether nobody waits for anything of it.
    pub(in crate::bridge) fn is_idle(&self) -> bool {
        let Some(live) = self.last() else {
            return matches!(*self.phase.borrow(), Phase::Resting | Phase::Down { .. });
        };
        let subscribed = !self.driven().is_empty() || self.has_listeners() || !self.subscriptions().is_empty();
        live.connection.in_flight() == 0
            && !subscribed
            && !self.audience().iter().any(|session| session.is_asked(live.generation))
    }

    /// How much it has been asked and has said: another number means that it was not idle in between.
    pub(in crate::bridge) fn activity(&self) -> Option<(u64, u64)> {
        let live = self.last()?;
        Some((live.generation, live.connection.requests_taken() + live.connection.lines_heard()))
    }

    /// Ends its process until it is needed again. What follows is no restart that anybody should hear of.
    pub(in crate::bridge) fn rest(&self) {
        let Some(upstream) = self.upstream.get() else { return };
        self.memory().rested = true;
        self.phase.send_replace(Phase::Resting);
        upstream.rest();
    }

    /// Ends its process for good.
    pub(in crate::bridge) fn stop(&self) {
        self.phase.send_replace(Phase::Gone);
        if let Some(upstream) = self.upstream.get() {
            upstream.stop();
        }
    }
}
