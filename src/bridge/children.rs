//! The servers of one endpoint: one for all, or one for each session or identity, as the configuration says.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::auth::Identity;
use super::child::{Child, Isolation, Sharing, Whose};
use super::introduction::Introduction;
use super::refusal::Refusal;
use super::sessions::{Session, Sessions};
use super::upstream::Upstreams;
use crate::config::limits::Limits;
use crate::mcp::probe::{Choice, OpenError};
use crate::mcp::version::Era;
use crate::telemetry::metrics::Meter;

/// The servers of one endpoint.
pub(super) struct Children {
    pub(super) name: String,
    pub(super) sharing: Arc<Sharing>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) limits: Arc<Limits>,
    pub(super) learnt: Arc<Mutex<Learnt>>,
    /// What is counted of them all.
    pub(super) meter: Arc<Meter>,
    upstreams: OnceLock<Arc<dyn Upstreams>>,
    shared: OnceLock<Arc<Child>>,
    private: Mutex<HashMap<Key, Private>>,
    uses: AtomicU64,
    this: Weak<Self>,
}

/// Whose a server is that not everybody shares.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// A session's that is being opened; told apart by where it is.
    Opening(usize),
    Session(String),
    Identity(Identity),
}

impl Key {
    fn opening(child: &Arc<Child>) -> Self {
        Self::Opening(Arc::as_ptr(child) as usize)
    }
}

struct Private {
    child: Arc<Child>,
    watched: Watched,
}

impl Private {
    fn new(child: &Arc<Child>) -> Self {
        Self { child: Arc::clone(child), watched: Watched::new() }
    }
}

/// What was last seen of a server that may be idle.
#[derive(Debug)]
struct Watched {
    activity: Option<(u64, u64)>,
    since: Instant,
}

impl Watched {
    fn new() -> Self {
        Self { activity: None, since: Instant::now() }
    }

    /// How long nobody has asked it anything.
    fn idle_for(&mut self, child: &Child) -> Duration {
        let activity = child.activity();
        if activity != self.activity || !child.is_idle() {
            *self = Self { activity, since: Instant::now() };
        }
        self.since.elapsed()
    }
}

/// What the processes of one command have taught about how the next one is to be greeted.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    /// It ended when it was asked `server/discover`: do not ask.
    ends_on_probe: bool,
    /// It ended when it was asked `initialize`: ask `server/discover` only.
    ends_on_initialize: bool,
    /// The era that the next process is expected to be in.
    pub(super) verdict: Option<Era>,
}

impl Learnt {
    /// How the next process is greeted where this is `wanted`.
    pub(super) fn choice(&self, wanted: Choice) -> Choice {
        match (wanted, self.verdict) {
            (Choice::Probe | Choice::PreferLegacy, _) if self.ends_on_probe => Choice::Legacy,
            (Choice::PreferLegacy, _) if self.ends_on_initialize => Choice::Modern,
            // A server that was legacy is greeted as such: the probe costs old SDKs a page of their log.
            (Choice::Probe, Some(Era::Legacy)) if !self.ends_on_initialize => Choice::PreferLegacy,
            (chosen, _) => chosen,
        }
    }

    pub(super) fn learn(&mut self, error: &OpenError) {
        match error {
            OpenError::EndedOnProbe => self.ends_on_probe = true,
            OpenError::EndedOnInitialize => self.ends_on_initialize = true,
            // What was learnt did not help: the server may have changed. Begin anew.
            _ => *self = Self::default(),
        }
    }
}

impl Children {
    pub(super) fn new(
        name: &str,
        sharing: Sharing,
        sessions: &Arc<Sessions>,
        limits: &Arc<Limits>,
        meter: Arc<Meter>,
    ) -> Arc<Self> {
        let children = Arc::new_cyclic(|this| Self {
            name: name.to_owned(),
            sharing: Arc::new(sharing),
            sessions: Arc::clone(sessions),
            limits: Arc::clone(limits),
            learnt: Arc::default(),
            meter,
            upstreams: OnceLock::new(),
            shared: OnceLock::new(),
            private: Mutex::default(),
            uses: AtomicU64::new(0),
            this: Weak::clone(this),
        });
        if children.sharing.isolation == Isolation::Shared {
            let _ = children.shared.set(Child::new(&children, Whose::Everybody, None));
        }
        children
    }

    /// Tells them who starts their processes. Once.
    pub(super) fn connect(&self, upstreams: Arc<dyn Upstreams>) {
        if let Some(shared) = self.shared.get() {
            shared.connect(upstreams.open(shared));
        }
        let _ = self.upstreams.set(upstreams);
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Arc<Child>> {
        let private = self.private();
        self.shared.get().cloned().into_iter().chain(private.values().map(|one| Arc::clone(&one.child))).collect()
    }

    /// The one that a session is opened at. One of the session's own belongs to nobody before [`Children::adopt`].
    pub(super) fn for_initialize(
        &self,
        identity: &Identity,
        introduction: impl FnOnce(Isolation) -> Introduction,
    ) -> Arc<Child> {
        if let Some(shared) = self.shared.get() {
            return Arc::clone(shared);
        }
        match self.sharing.isolation {
            Isolation::User => self.of_identity(identity, || introduction(Isolation::User)),
            isolation => {
                let child = self.new_child(Whose::Session(OnceLock::new()), introduction(isolation));
                self.private().insert(Key::opening(&child), Private::new(&child));
                child
            }
        }
    }

    /// Gives a server that was opened for a session to it.
    pub(super) fn adopt(&self, child: &Arc<Child>, session: &Session) {
        if child.is_one_sessions() {
            child.give_to(session);
            let mut private = self.private();
            private.remove(&Key::opening(child));
            private.insert(Key::Session(session.id.clone()), Private::new(child));
        }
    }

    /// The one of a session, made anew where it has none any more.
    pub(super) fn of_session(&self, session: &Arc<Session>) -> Arc<Child> {
        if let Some(shared) = self.shared.get() {
            return Arc::clone(shared);
        }
        let introduction = || match session.introduction() {
            Some(introduction) => Introduction::clone(introduction),
            None => Introduction::revived(session),
        };
        if self.sharing.isolation == Isolation::User || session.is_passing() {
            return self.of_identity(&session.identity, || Introduction { initialize: None, ..introduction() });
        }
        let mut private = self.private();
        let known = private.entry(Key::Session(session.id.clone())).or_insert_with(|| {
            let whose = Whose::Session(OnceLock::from(session.id.clone()));
            Private::new(&self.new_child(whose, introduction()))
        });
        Arc::clone(&known.child)
    }

    /// The one of a session, if it has one.
    pub(super) fn existing(&self, session: &Session) -> Option<Arc<Child>> {
        if let Some(shared) = self.shared.get() {
            return Some(Arc::clone(shared));
        }
        let key = match self.sharing.isolation {
            Isolation::User => Key::Identity(session.identity.clone()),
            Isolation::Session | Isolation::Shared => Key::Session(session.id.clone()),
        };
        self.private().get(&key).map(|one| Arc::clone(&one.child))
    }

    /// The one of an identity.
    pub(super) fn of_identity(&self, identity: &Identity, introduction: impl FnOnce() -> Introduction) -> Arc<Child> {
        if let Some(shared) = self.shared.get() {
            return Arc::clone(shared);
        }
        let mut private = self.private();
        let known = private.entry(Key::Identity(identity.clone())).or_insert_with(|| {
            let sessions = self.sharing.isolation == Isolation::User;
            let whose = Whose::Identity { identity: identity.clone(), sessions };
            Private::new(&self.new_child(whose, introduction()))
        });
        Arc::clone(&known.child)
    }

    /// The one of an identity, if it has one.
    pub(super) fn existing_of_identity(&self, identity: &Identity) -> Option<Arc<Child>> {
        if let Some(shared) = self.shared.get() {
            return Some(Arc::clone(shared));
        }
        self.private().get(&Key::Identity(identity.clone())).map(|one| Arc::clone(&one.child))
    }

    /// Ends a server that nobody has any more.
    pub(super) fn remove(&self, child: &Arc<Child>) {
        self.private().retain(|_, one| !Arc::ptr_eq(&one.child, child));
        child.stop();
    }

    /// Finds a process's place for `child`, at the cost of the one that has been idle for longest where it must be.
    pub(super) fn make_room_for(&self, child: &Arc<Child>) -> Result<(), Refusal> {
        let private = self.private();
        child.note_use(self.uses.fetch_add(1, Ordering::Relaxed));
        if child.occupies() {
            return Ok(());
        }
        let others = || private.values().map(|one| &one.child).filter(|other| !Arc::ptr_eq(other, child));
        if others().filter(|other| other.occupies()).count() >= self.sharing.max_children {
            let idle = others().filter(|other| other.occupies() && other.is_idle());
            // Whose client has a stream open may well come back first.
            let oldest = idle.min_by_key(|other| (other.is_listened_to(), other.last_use()));
            let oldest = oldest.ok_or(Refusal::Overloaded { what: "too many servers are running" })?;
            tracing::info!(name = self.name, "a server that was idle made room for another");
            oldest.rest();
        }
        child.occupy();
        Ok(())
    }

    /// Looks for servers that nobody has needed for a while. Call it now and then.
    pub(super) fn end_idle(&self, shared: &mut Option<Idle>) {
        let (stop, forget) = (self.sharing.idle_stop, self.limits.session_idle);
        if let (Some(child), Some(after)) = (self.shared.get(), stop) {
            let watched = &mut shared.get_or_insert_with(|| Idle(Watched::new())).0;
            if watched.idle_for(child) >= after && child.occupies() {
                tracing::info!(name = self.name, "nobody has asked it anything for a while");
                child.rest();
            }
        }
        let mut unneeded = Vec::new();
        for (key, one) in self.private().iter_mut() {
            let idle = one.watched.idle_for(&one.child);
            // A session's own goes with the session.
            if matches!(key, Key::Identity(_)) && idle >= forget && one.child.audience().is_empty() {
                unneeded.push(Arc::clone(&one.child));
            } else if stop.is_some_and(|after| idle >= after) && one.child.occupies() && one.child.is_idle() {
                tracing::info!(name = self.name, "nobody has asked it anything for a while");
                one.child.rest();
            }
        }
        for child in unneeded {
            self.remove(&child);
        }
    }

    /// Whether servers are ended when nobody asks them anything, and after how long.
    pub(super) fn idle_stop(&self) -> Option<Duration> {
        self.sharing.idle_stop
    }

    fn new_child(&self, whose: Whose, introduction: Introduction) -> Arc<Child> {
        let this = self.this.upgrade().expect("whoever calls this holds it");
        let child = Child::new(&this, whose, Some(introduction));
        if let Some(upstreams) = self.upstreams.get() {
            child.connect(upstreams.open(&child));
        }
        child
    }

    fn private(&self) -> MutexGuard<'_, HashMap<Key, Private>> {
        self.private.lock().expect("nothing panics while it holds the servers of one endpoint")
    }
}

/// How long the one that everybody shares has been idle.
pub(super) struct Idle(Watched);
