//! Sessions of legacy clients: opened, found, revived, expired, closed.
//!
//! The table is a cache: an id tells what its session was ([`super::session_id`]), so one that was evicted, expired or
//! made before a restart is opened anew when its client comes back. Only a DELETE ends a session for good.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::auth::Identity;
use super::input::Response;
use super::introduction::Introduction;
use super::level::Level;
use super::refusal::Refusal;
use super::replay::{Budget, Tracks};
use super::session_id::{Abilities, SessionIds, Told};
use super::standalone::Standalone;
use crate::config::limits::Limits;

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) identity: Identity,
    /// The version negotiated with the client.
    pub(super) version: &'static str,
    pub(super) abilities: Abilities,
    pub(super) client: String,
    pub(super) standalone: Arc<Standalone>,
    /// Its streams, for a client that comes back to one.
    pub(super) tracks: Tracks,
    /// Requests of this session that are in flight.
    pub(super) in_flight: AtomicUsize,
    /// How its client introduced itself, where a server is opened for it alone.
    introduction: OnceLock<Box<Introduction>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last_seen: Instant,
    level: Option<Level>,
    subscriptions: BTreeSet<String>,
    asked: HashMap<u64, Asked>,
    next_question: u64,
    /// Answered with another version than the negotiated one before; logged once.
    odd_version_told: bool,
}

/// A question of the server that this session's client is to answer.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// Which generation of the server asked.
    pub(super) generation: u64,
    /// The id of the question as the server wrote it.
    pub(super) id: Bytes,
    /// The request whose stream carries the question; none for the session's own stream.
    pub(super) exchange: Option<u64>,
    pub(super) method: String,
    /// The token under which the server wants to hear of progress.
    pub(super) token: Option<String>,
    /// When it is answered in the client's place.
    pub(super) deadline: Instant,
    /// Who hears the answer; the server, where nobody stands here.
    pub(super) hears: Option<mpsc::UnboundedSender<(Bytes, Response)>>,
}

impl Asked {
    /// A question that ferry asks, and whose time it watches itself.
    pub(super) fn of_ferry(key: Bytes, method: &str, hears: mpsc::UnboundedSender<(Bytes, Response)>) -> Self {
        Self {
            // No process's, so that none takes it along when it ends.
            generation: u64::MAX,
            id: key,
            exchange: None,
            method: method.to_owned(),
            token: None,
            deadline: Instant::now(),
            hears: Some(hears),
        }
    }
}

impl Session {
    fn new(id: String, identity: Identity, told: &Told, kept: &Arc<Budget>, limits: &Limits) -> Self {
        Self {
            id,
            identity,
            version: told.version,
            abilities: told.abilities,
            client: format!("{} {}", told.client_name, told.client_version).trim().to_owned(),
            standalone: Arc::new(Standalone::new(limits.max_queued, limits.max_streams_per_session)),
            tracks: Tracks::new(kept, limits),
            in_flight: AtomicUsize::new(0),
            introduction: OnceLock::new(),
            state: Mutex::new(State {
                last_seen: Instant::now(),
                level: None,
                subscriptions: BTreeSet::new(),
                asked: HashMap::new(),
                // An answer to a question from before a restart must not answer another one.
                next_question: random_start(),
                odd_version_told: false,
            }),
        }
    }

    /// How its client introduced itself, as far as that is needed and known.
    pub(super) fn introduction(&self) -> Option<&Introduction> {
        self.introduction.get().map(Box::as_ref)
    }

    /// Keeps how its client introduced itself.
    pub(super) fn introduce(&self, introduction: Introduction) {
        let _ = self.introduction.set(Box::new(introduction));
    }

    /// Keeps it in the table for as long as a request of it is being looked at.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Whether its client has yet to answer a question that the stream of this request carries.
    pub(super) fn is_asking(&self, generation: u64, exchange: u64) -> bool {
        let state = self.lock();
        state.asked.values().any(|asked| asked.generation == generation && asked.exchange == Some(exchange))
    }

    /// Whether it is for one request only.
    pub(super) fn is_passing(&self) -> bool {
        self.id.is_empty()
    }

    pub(super) fn touch(&self) {
        self.lock().last_seen = Instant::now();
    }

    pub(super) fn level(&self) -> Option<Level> {
        self.lock().level
    }

    pub(super) fn set_level(&self, level: Level) {
        self.lock().level = Some(level);
    }

    pub(super) fn subscriptions(&self) -> BTreeSet<String> {
        self.lock().subscriptions.clone()
    }

    /// Notes a subscription; `None` where there are too many, else whether it is new.
    pub(super) fn subscribe(&self, uri: &str, max: usize) -> Option<bool> {
        let mut state = self.lock();
        if state.subscriptions.contains(uri) {
            return Some(false);
        }
        (state.subscriptions.len() < max).then(|| state.subscriptions.insert(uri.to_owned()))
    }

    pub(super) fn unsubscribe(&self, uri: &str) -> bool {
        self.lock().subscriptions.remove(uri)
    }

    /// Whether an update of `uri` concerns this session: it subscribed to just that, or to something above it.
    pub(super) fn follows(&self, uri: &str) -> bool {
        self.lock().subscriptions.iter().any(|subscribed| is_at_or_below(uri, subscribed))
    }

    /// Numbers a question for this session's client; `None` where `max` are waiting already.
    pub(super) fn ask(&self, asked: Asked, max: usize) -> Option<u64> {
        let mut state = self.lock();
        if state.asked.len() >= max {
            return None;
        }
        let number = state.next_question;
        state.next_question += 1;
        state.asked.insert(number, asked);
        Some(number)
    }

    /// Whether a question of this generation waits for an answer under this progress token.
    pub(super) fn is_asked_under(&self, generation: u64, token: &str) -> bool {
        let state = self.lock();
        state.asked.values().any(|asked| asked.generation == generation && asked.token.as_deref() == Some(token))
    }

    /// Whether a question of this generation waits for an answer.
    pub(super) fn is_asked(&self, generation: u64) -> bool {
        self.lock().asked.values().any(|asked| asked.generation == generation)
    }

    /// Takes the questions of this generation that have waited too long.
    pub(super) fn overdue(&self, generation: u64, now: Instant) -> Vec<(u64, Asked)> {
        let mut state = self.lock();
        state.asked.extract_if(|_, asked| asked.generation == generation && asked.deadline <= now).collect()
    }

    /// Takes the questions that the stream of one request carries.
    pub(super) fn drop_questions_of(&self, exchange: u64) -> Vec<u64> {
        self.lock().asked.extract_if(|_, asked| asked.exchange == Some(exchange)).map(|(number, _)| number).collect()
    }

    /// Takes the question that `number` stands for; answers count once.
    pub(super) fn answered(&self, number: u64) -> Option<Asked> {
        self.lock().asked.remove(&number)
    }

    /// Finds the question that a server of this generation asked under its own `id`.
    pub(super) fn question(&self, generation: u64, id: &[u8]) -> Option<(u64, Asked)> {
        let state = self.lock();
        let found = state.asked.iter().find(|(_, asked)| asked.generation == generation && asked.id == id)?;
        Some((*found.0, found.1.clone()))
    }

    /// Takes all questions that a server of this generation asked.
    pub(super) fn drop_questions(&self, generation: u64) -> Vec<(u64, Asked)> {
        self.lock().asked.extract_if(|_, asked| asked.generation == generation).collect()
    }

    /// Whether the client's header names another version than the session's; true once.
    pub(super) fn first_odd_version(&self, header: &str) -> bool {
        header != self.version && !std::mem::replace(&mut self.lock().odd_version_told, true)
    }

    fn is_evictable(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0 && !self.standalone.is_open()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds a session")
    }
}

/// Below 2^53, with room for 2^20 questions before the next session's may begin.
fn random_start() -> u64 {
    (u64::from(u32::from_be_bytes(crate::random::bytes())) << 20) + 1
}

/// Keeps a session from being evicted.
pub(super) struct Busy(Arc<Session>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether `uri` is `above` or a part of it.
pub(super) fn is_at_or_below(uri: &str, above: &str) -> bool {
    uri.strip_prefix(above).is_some_and(|rest| rest.is_empty() || above.ends_with('/') || rest.starts_with('/'))
}

/// The sessions of one endpoint.
#[derive(Debug)]
pub(super) struct Sessions {
    endpoint: String,
    ids: Arc<SessionIds>,
    limits: Arc<Limits>,
    /// Whether a session that is not in the table is opened anew.
    revives: bool,
    /// What all sessions keep of what they have sent.
    kept: Arc<Budget>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<String, Arc<Session>>,
    ended: HashSet<String>,
    ended_order: VecDeque<String>,
    /// To be taken by whoever caused it.
    evicted: Vec<Arc<Session>>,
}

/// What came of looking for a session.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) session: Arc<Session>,
    /// It was not in the table: its log level and its subscriptions are gone, and lists may have changed.
    pub(super) revived: bool,
}

impl Sessions {
    pub(super) fn new(endpoint: &str, ids: Arc<SessionIds>, limits: Arc<Limits>, revives: bool) -> Self {
        let kept = Budget::new(limits.replay_bytes_in_all, None);
        Self { endpoint: endpoint.to_owned(), ids, limits, revives, kept, table: Mutex::default() }
    }

    /// Opens a session.
    pub(super) fn open(
        &self,
        identity: &Identity,
        version: &'static str,
        abilities: Abilities,
        client: (String, String),
        own_stream: Option<Arc<Standalone>>,
    ) -> Result<Arc<Session>, Refusal> {
        let told = Told {
            endpoint: self.endpoint.clone(),
            version,
            abilities,
            client_name: client.0,
            client_version: client.1,
        };
        let id = self.ids.mint(identity.as_str(), &told);
        self.insert(&mut self.lock(), id, identity, &told, own_stream)
    }

    /// Finds the session of an id, opening it anew where it is not in the table but was made here for this identity.
    pub(super) fn find(&self, identity: &Identity, id: &str) -> Result<Found, Refusal> {
        let mut table = self.lock();
        if let Some(session) = table.open.get(id) {
            if session.identity != *identity {
                return Err(Refusal::SessionNotFound);
            }
            session.touch();
            return Ok(Found { session: Arc::clone(session), revived: false });
        }
        let told = self.ids.verify(identity.as_str(), &self.endpoint, id).ok_or(Refusal::SessionNotFound)?;
        if !self.revives || table.ended.contains(id) {
            return Err(Refusal::SessionNotFound);
        }
        let session = self.insert(&mut table, id.to_owned(), identity, &told, None)?;
        Ok(Found { session, revived: true })
    }

    /// Ends a session for good, in the table or not. Returns it where it was.
    pub(super) fn end(&self, identity: &Identity, id: &str) -> Result<Option<Arc<Session>>, Refusal> {
        self.ids.verify(identity.as_str(), &self.endpoint, id).ok_or(Refusal::SessionNotFound)?;
        let mut table = self.lock();
        let session = table.open.remove(id);
        if !table.ended.insert(id.to_owned()) {
            return Err(Refusal::SessionNotFound);
        }
        table.ended_order.push_back(id.to_owned());
        while table.ended_order.len() > self.limits.max_ended_sessions {
            if let Some(oldest) = table.ended_order.pop_front() {
                table.ended.remove(&oldest);
            }
        }
        drop(table);
        if let Some(session) = &session {
            session.standalone.close();
        }
        Ok(session)
    }

    /// A session for one request of a client that keeps none. It is in no table.
    pub(super) fn passing(&self, identity: &Identity, version: &'static str) -> Session {
        let told = Told {
            endpoint: String::new(),
            version,
            abilities: Abilities::default(),
            client_name: String::new(),
            client_version: String::new(),
        };
        Session::new(String::new(), identity.clone(), &told, &self.kept, &self.limits)
    }

    /// The session of an id, if it is in the table.
    pub(super) fn get(&self, id: &str) -> Option<Arc<Session>> {
        self.lock().open.get(id).cloned()
    }

    /// Takes a session out of the table without a word to its client.
    pub(super) fn forget(&self, session: &Session) -> Option<Arc<Session>> {
        self.lock().open.remove(&session.id)
    }

    /// The sessions that had to make room since this was last asked.
    pub(super) fn take_evicted(&self) -> Vec<Arc<Session>> {
        std::mem::take(&mut self.lock().evicted)
    }

    /// All open sessions.
    pub(super) fn all(&self) -> Vec<Arc<Session>> {
        self.lock().open.values().cloned().collect()
    }

    /// The open sessions of one identity.
    pub(super) fn of_identity(&self, identity: &Identity) -> Vec<Arc<Session>> {
        self.lock().open.values().filter(|session| session.identity == *identity).cloned().collect()
    }

    /// The only session there is.
    pub(super) fn only(&self) -> Option<Arc<Session>> {
        let table = self.lock();
        let mut sessions = table.open.values();
        match (sessions.next(), sessions.next()) {
            (Some(only), None) => Some(Arc::clone(only)),
            _ => None,
        }
    }

    /// Frees the entries of sessions that nobody has used for [`Limits::session_idle`]; their ids still verify.
    pub(super) fn expire(&self) -> Vec<Arc<Session>> {
        let now = Instant::now();
        let mut table = self.lock();
        let expired = table.open.extract_if(|_, session| {
            session.is_evictable() && now.duration_since(session.lock().last_seen) >= self.limits.session_idle
        });
        expired.map(|(_, session)| session).collect()
    }

    /// Forgets streams that ended long ago.
    pub(super) fn expire_streams(&self, all_finished: bool) {
        for session in self.all() {
            session.tracks.expire(all_finished);
        }
    }

    /// Resolves when all sessions together could not keep something.
    pub(super) async fn short_of_room(&self) {
        self.kept.short.notified().await;
    }

    fn insert(
        &self,
        table: &mut Table,
        id: String,
        identity: &Identity,
        told: &Told,
        own_stream: Option<Arc<Standalone>>,
    ) -> Result<Arc<Session>, Refusal> {
        let own = table.open.values().filter(|session| session.identity == *identity).count();
        if own >= self.limits.max_sessions_per_identity {
            table.evict(|session| session.identity == *identity)?;
        } else if table.open.len() >= self.limits.max_sessions {
            table.evict(|session| session.identity == *identity).or_else(|_| table.evict(|_| true))?;
        }
        let mut session = Session::new(id.clone(), identity.clone(), told, &self.kept, &self.limits);
        if let Some(stream) = own_stream {
            session.standalone = stream;
        }
        let session = Arc::new(session);
        table.open.insert(id, Arc::clone(&session));
        Ok(session)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("nothing panics while it holds the session table")
    }
}

impl Table {
    /// Frees the entry that was unused for longest, among those that nobody is using.
    fn evict(&mut self, among: impl Fn(&Session) -> bool) -> Result<(), Refusal> {
        let oldest = self
            .open
            .values()
            .filter(|session| among(session) && session.is_evictable())
            .min_by_key(|session| session.lock().last_seen)
            .map(|session| session.id.clone());
        let id = oldest.ok_or(Refusal::Overloaded { what: "too many sessions" })?;
        self.evicted.extend(self.open.remove(&id));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(limits: Limits) -> Sessions {
        Sessions::new("notes", Arc::new(SessionIds::new(&[1; 32])), Arc::new(limits), true)
    }

    fn open(sessions: &Sessions) -> Result<Arc<Session>, Refusal> {
        sessions.open(&Identity::local(), "2025-06-18", Abilities::default(), ("test".into(), "1".into()), None)
    }

    #[tokio::test]
    async fn an_id_outlives_its_entry_but_not_its_end() {
        let sessions = sessions(Limits::default());
        let me = Identity::local();
        let id = open(&sessions).unwrap().id.clone();
        assert!(!sessions.find(&me, &id).unwrap().revived);
        sessions.lock().open.clear();
        let found = sessions.find(&me, &id).unwrap();
        assert!(found.revived);
        assert_eq!((found.session.version, found.session.client.as_str()), ("2025-06-18", "test 1"));
        assert!(sessions.end(&me, &id).unwrap().is_some());
        assert_eq!(sessions.find(&me, &id).unwrap_err(), Refusal::SessionNotFound);
        assert_eq!(sessions.end(&me, &id).unwrap_err(), Refusal::SessionNotFound);
        assert_eq!(sessions.end(&me, "garbage").unwrap_err(), Refusal::SessionNotFound);
    }

    #[tokio::test]
    async fn a_full_table_lets_go_of_the_one_unused_for_longest() {
        let sessions = sessions(Limits { max_sessions_per_identity: 2, ..Limits::default() });
        let first = open(&sessions).unwrap();
        let second = open(&sessions).unwrap();
        first.touch();
        let third = open(&sessions).unwrap();
        let ids: HashSet<String> = sessions.all().iter().map(|session| session.id.clone()).collect();
        assert_eq!(ids, HashSet::from([first.id.clone(), third.id.clone()]));
        assert!(sessions.find(&Identity::local(), &second.id).unwrap().revived);
        for session in sessions.all() {
            session.in_flight.store(1, Ordering::Relaxed);
        }
        assert_eq!(open(&sessions).unwrap_err(), Refusal::Overloaded { what: "too many sessions" });
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_session_is_freed_unless_a_stream_is_open() {
        let sessions = sessions(Limits::default());
        let idle = open(&sessions).unwrap();
        let busy = open(&sessions).unwrap();
        let stream = busy.standalone.open();
        tokio::time::advance(Limits::default().session_idle).await;
        let expired: Vec<String> = sessions.expire().iter().map(|session| session.id.clone()).collect();
        assert_eq!(expired, [idle.id.as_str()]);
        drop(stream);
        assert_eq!(sessions.expire().len(), 1);
    }

    #[test]
    fn a_subscription_covers_what_lies_below_it() {
        for (uri, above, covered) in [
            ("file:///a", "file:///a", true),
            ("file:///a/b", "file:///a", true),
            ("file:///a/b", "file:///a/", true),
            ("file:///ab", "file:///a", false),
            ("file:///", "file:///a", false),
        ] {
            assert_eq!(is_at_or_below(uri, above), covered, "{uri} {above}");
        }
    }
}
