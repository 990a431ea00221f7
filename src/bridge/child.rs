//! One server that clients share: the process that serves it now, and what outlives a process.
//!
//! `daemon` hands in the pipes of each new process ([`Child::serve`]); here it is greeted, brought to where its
//! predecessor was (log level, subscriptions), and watched until it ends. Requests wait in [`Child::live`] for that.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::auth::Identity;
use super::exchange::{Exchange, Overdue, unavailable};
use super::level::Level;
use super::methods;
use super::refusal::Refusal;
use super::relay::modern_child::ToolList;
use super::relay::modern_to_modern::ToolHeaders;
use super::relay::{legacy_child, modern_child};
use super::reply::{Finish, Json, Keep};
use super::sessions::{Session, Sessions};
use super::standalone::Class;
use super::upstream::Upstream;
use crate::config::limits::Limits;
use crate::mcp::connection::{Connection, End, Ended, Inbound};
use crate::mcp::envelope::{self, Message};
use crate::mcp::members::{Members, quote};
use crate::mcp::probe::{self, Choice, OpenError, Opened, Opening};
use crate::mcp::version::Era;
use crate::mcp::writer::Bounds;

/// How a server is to be opened and shared.
#[derive(Debug, Clone)]
pub struct Sharing {
    /// Which era to open.
    pub era: Choice,
    /// Declare to a legacy server that clients can be asked (`sampling`, `elicitation`). Whoever cannot be asked then
    /// gets an error where the server might have had another way.
    pub interactive: bool,
    /// Declare just these capabilities to a legacy server, as JSON.
    pub capabilities: Option<String>,
}

/// What is known of the process that serves a child now.
#[derive(Clone)]
enum Phase {
    /// There is none, and nobody has asked for one.
    Resting,
    /// There is none yet.
    Starting,
    /// It can be asked.
    Live(Arc<Live>),
    /// There is none any more. Whoever starts processes has yet to notice; what it says next is about this end, and no
    /// attempt that has failed.
    Ended,
    /// The next attempt waits. The number is another one after each failure.
    Down { attempts: u64 },
    /// It is not coming back.
    Gone,
}

/// One server that clients share.
pub struct Child {
    name: String,
    sharing: Sharing,
    pub(super) limits: Arc<Limits>,
    pub(super) sessions: Arc<Sessions>,
    upstream: OnceLock<Arc<dyn Upstream>>,
    phase: watch::Sender<Phase>,
    failures: AtomicU64,
    memory: Mutex<Memory>,
    /// Known again after the next process has started.
    subscriptions: Mutex<HashMap<String, Subscription>>,
    tasks: Mutex<Remembered<TaskOwner>>,
    /// A lower log level is waiting to be told.
    lowering: AtomicBool,
    /// Which session was shown which URL elicitation.
    shown: Mutex<Remembered<Weak<Session>>>,
}

/// What one process has taught about the next.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "four facts that do not depend on each other")]
struct Memory {
    /// It ended when it was asked `server/discover`: do not ask.
    ends_on_probe: bool,
    /// It ended when it was asked `initialize`: ask `server/discover` only.
    ends_on_initialize: bool,
    /// The era that the next process is expected to be in.
    verdict: Option<Era>,
    /// The era that the last process was opened in.
    era: Option<Era>,
    /// What the last process declared.
    capabilities: Option<BTreeSet<String>>,
    /// The level the server was last told.
    level: Option<Level>,
    started: bool,
    /// A process is being greeted.
    greeting: bool,
}

/// Subscribers to one resource, and what became of the one subscription at the server.
struct Subscription {
    sessions: Vec<Weak<Session>>,
    outcome: watch::Receiver<Option<Result<(), Bytes>>>,
}

#[derive(Debug, Clone)]
struct TaskOwner {
    session: String,
    identity: Identity,
}

/// A bounded memory by name, oldest out first.
#[derive(Debug)]
struct Remembered<T> {
    entries: HashMap<String, (Instant, T)>,
    order: VecDeque<String>,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T> Remembered<T> {
    fn insert(&mut self, key: String, value: T, max: usize) {
        if self.entries.insert(key.clone(), (Instant::now(), value)).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > max {
            if let Some(oldest) = self.order.pop_front() {
                self.entries.remove(&oldest);
            }
        }
    }

    fn get(&self, key: &str, memory: Duration) -> Option<&T> {
        self.entries.get(key).filter(|(since, _)| since.elapsed() < memory).map(|(_, value)| value)
    }
}

/// What a server said of itself when it was opened.
#[derive(Debug)]
pub(super) struct Facts {
    /// Its `capabilities`, as it wrote them.
    pub(super) capabilities: String,
}

impl Facts {
    fn read(opened: &Opened) -> Self {
        let result = std::str::from_utf8(&opened.result).ok().and_then(|text| Members::read(text).ok());
        let capabilities = result.and_then(|result| result.text("capabilities").map(str::to_owned));
        Self { capabilities: capabilities.unwrap_or_else(|| "{}".to_owned()) }
    }

    /// Whether it declared what stands at `path`.
    pub(super) fn declares(&self, path: &[&str]) -> bool {
        methods::declares(&self.capabilities, path)
    }

    fn names(&self) -> BTreeSet<String> {
        let members = Members::read(&self.capabilities).unwrap_or_default();
        members.iter().map(|(name, _)| name.to_owned()).collect()
    }

    /// The `list_changed` notifications that it may send.
    fn changing_lists(&self) -> impl Iterator<Item = String> {
        let changing = |list: &&str| self.declares(&[list, "listChanged"]);
        ["tools", "prompts", "resources"]
            .into_iter()
            .filter(move |list| changing(list))
            .map(|list| format!("notifications/{list}/list_changed"))
    }
}

/// One process that is ready to be asked.
pub(super) struct Live {
    pub(super) generation: u64,
    pub(super) opened: Opened,
    pub(super) facts: Arc<Facts>,
    pub(super) connection: Connection<Exchange>,
    /// A request was sent: deadlines have to be watched.
    pub(super) busy: Notify,
    /// Which tool arguments are mirrored in headers.
    pub(super) tool_headers: Mutex<ToolHeaders>,
    pub(super) tool_list: ToolList,
    gate: Mutex<Gate>,
}

/// Whose requests a process has served. From the second identity on nothing is guessed any more.
#[derive(Debug)]
enum Gate {
    Nobody,
    One(Identity),
    Several,
}

impl Live {
    /// Notes whose request it serves.
    pub(super) fn admit(&self, identity: &Identity) {
        let mut gate = self.gate.lock().expect("nothing panics while it holds the gate");
        match &*gate {
            Gate::Nobody => *gate = Gate::One(identity.clone()),
            Gate::One(known) if known != identity => *gate = Gate::Several,
            Gate::One(_) | Gate::Several => {}
        }
    }

    /// Whether everything it has served came from this identity, or nothing was served yet.
    pub(super) fn serves_only(&self, identity: &Identity) -> bool {
        match &*self.gate.lock().expect("nothing panics while it holds the gate") {
            Gate::Nobody => true,
            Gate::One(known) => known == identity,
            Gate::Several => false,
        }
    }

    /// Whether everything it has served came from one identity.
    pub(super) fn gate_open(&self) -> bool {
        !matches!(*self.gate.lock().expect("nothing panics while it holds the gate"), Gate::Several)
    }
}

/// The pipes of one process.
pub struct Pipes<R, W, E, C> {
    /// Which process it is; later ones have higher numbers.
    pub generation: u64,
    /// What it writes.
    pub output: R,
    /// What it reads.
    pub input: W,
    /// Resolves when it has exited.
    pub exited: E,
    /// Resolves when what it reads is to be closed: the polite request to leave.
    pub closing: C,
}

/// How one process's service ended.
#[derive(Debug)]
pub enum Outcome {
    /// It was never ready.
    NotOpened(OpenError),
    /// It was.
    Ended(Ended),
}

impl Outcome {
    /// Whether the next process should be started at once: this one was only greeted in the wrong way.
    pub fn retry_at_once(&self) -> bool {
        matches!(self, Self::NotOpened(OpenError::EndedOnProbe | OpenError::EndedOnInitialize))
    }
}

impl Child {
    pub(super) fn new(name: &str, sharing: Sharing, sessions: Arc<Sessions>, limits: Arc<Limits>) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            sharing,
            limits,
            sessions,
            upstream: OnceLock::new(),
            phase: watch::Sender::new(Phase::Resting),
            failures: AtomicU64::new(0),
            memory: Mutex::default(),
            subscriptions: Mutex::default(),
            tasks: Mutex::default(),
            shown: Mutex::default(),
            lowering: AtomicBool::new(false),
        })
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells it who starts its processes. Once.
    pub fn connect(&self, upstream: Arc<dyn Upstream>) {
        let _ = self.upstream.set(upstream);
    }

    /// Notes that a process is being started.
    pub fn starting(&self) {
        self.phase.send_if_modified(|phase| {
            let starting = !matches!(phase, Phase::Live(_) | Phase::Starting);
            if starting {
                *phase = Phase::Starting;
            }
            starting
        });
    }

    /// Notes that no process could be started, or that the last one is gone and the next one waits.
    ///
    /// Not while one is being greeted: what came of that, and whether another way is tried, is known only afterwards.
    pub fn down(&self) {
        if !self.memory().greeting {
            self.cannot_start();
        }
    }

    /// Notes that there is nothing to be started.
    pub fn cannot_start(&self) {
        let attempts = self.failures.fetch_add(1, Ordering::Relaxed);
        self.phase.send_replace(Phase::Down { attempts });
    }

    /// Notes that there will be no process any more.
    pub fn gone(&self) {
        self.phase.send_replace(Phase::Gone);
    }

    /// Whether it can be asked now, and in which era its server is.
    pub fn era(&self) -> Option<Era> {
        self.current().map(|live| live.opened.era)
    }

    /// How the process that can be asked now was opened.
    pub(super) fn opened(&self) -> Option<Opened> {
        self.current().map(|live| live.opened.clone())
    }

    /// Serves one process from its greeting to its end. `ready` is called in between, where it gets that far.
    pub async fn serve<R, W, E, C>(self: &Arc<Self>, pipes: Pipes<R, W, E, C>, ready: impl FnOnce(&Opened)) -> Outcome
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Send + 'static,
        E: Future<Output = ()> + Send + 'static,
        C: Future<Output = ()> + Send + 'static,
    {
        let bounds = Bounds {
            lines: self.limits.max_queue_lines,
            bytes: self.limits.max_queue_bytes,
            wait: self.limits.queue_wait,
        };
        let Pipes { generation, output, input, exited, closing } = pipes;
        self.starting();
        let (connection, pump) = Connection::new(output, input, self.limits.max_message_bytes, bounds);
        let ears = Arc::new(Ears { child: Arc::downgrade(self), live: OnceLock::new() });
        let pumping = tokio::spawn(pump.run(connection.clone(), Arc::clone(&ears) as _, exited));
        let leaving = connection.clone();
        // Ends with the process, when whoever starts processes lets go of its side.
        tokio::spawn(async move {
            closing.await;
            leaving.close_input();
        });
        let choice = self.choice();
        self.memory().greeting = true;
        let opened = probe::open(&connection, &self.opening(choice)).await;
        // After one that was only greeted in the wrong way another comes at once, for whoever waits.
        let another_way = matches!(opened, Err(OpenError::EndedOnProbe | OpenError::EndedOnInitialize));
        self.memory().greeting = another_way;
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // The pump ends with the process, which is of no use any more.
                connection.close_input();
                self.learn(&error);
                return Outcome::NotOpened(error);
            }
        };
        let live = Arc::new(Live {
            generation,
            facts: Arc::new(Facts::read(&opened)),
            opened,
            connection,
            busy: Notify::new(),
            tool_headers: Mutex::default(),
            tool_list: ToolList::default(),
            gate: Mutex::new(Gate::Nobody),
        });
        let _ = ears.live.set(Arc::clone(&live));
        ready(&live.opened);
        self.resume(&live);
        self.phase.send_replace(Phase::Live(Arc::clone(&live)));
        let ended = tokio::select! {
            ended = pumping => ended.unwrap_or_else(|_| Ended::Broken("its reader failed".into())),
            never = self.watch_deadlines(&live) => match never {},
        };
        self.phase.send_if_modified(|phase| {
            let own = matches!(phase, Phase::Live(current) if current.generation == generation);
            if own {
                *phase = Phase::Ended;
            }
            own
        });
        self.withdraw_questions(generation);
        Outcome::Ended(ended)
    }

    /// The process that can be asked now.
    pub(super) fn current(&self) -> Option<Arc<Live>> {
        match &*self.phase.borrow() {
            Phase::Live(live) if live.connection.is_open() => Some(Arc::clone(live)),
            _ => None,
        }
    }

    /// The process that was opened last and has not ended, asked to leave or not.
    fn last(&self) -> Option<Arc<Live>> {
        match &*self.phase.borrow() {
            Phase::Live(live) => Some(Arc::clone(live)),
            _ => None,
        }
    }

    /// The process to ask, started where there is none. Waits [`Limits::start_wait`] at the most, or until the one
    /// immediate try that this request is worth has failed.
    pub(super) async fn live(&self) -> Result<Arc<Live>, Refusal> {
        if let Some(live) = self.current() {
            return Ok(live);
        }
        let mut phase = self.phase.subscribe();
        let (mut ended, mut failed_before) = match &*phase.borrow_and_update() {
            Phase::Down { attempts } => (false, Some(*attempts)),
            // That it has ended is known here first, by the pipe or by the write that failed.
            Phase::Ended | Phase::Live(_) => (true, None),
            Phase::Resting | Phase::Starting | Phase::Gone => (false, None),
        };
        self.demand();
        let settled = async {
            loop {
                match &*phase.borrow_and_update() {
                    Phase::Live(live) if live.connection.is_open() => return Ok(Arc::clone(live)),
                    Phase::Down { attempts } if ended => {
                        // The demand above found a process that was thought to run, so it started nothing.
                        (ended, failed_before) = (false, Some(*attempts));
                        self.demand();
                    }
                    Phase::Down { attempts } if Some(*attempts) != failed_before => return Err(unavailable()),
                    Phase::Gone => return Err(Refusal::ShuttingDown { sent: false }),
                    Phase::Starting => ended = false,
                    Phase::Live(_) | Phase::Ended | Phase::Down { .. } | Phase::Resting => {}
                }
                if phase.changed().await.is_err() {
                    return Err(unavailable());
                }
            }
        };
        tokio::time::timeout(self.limits.start_wait, settled).await.unwrap_or_else(|_| Err(unavailable()))
    }

    fn demand(&self) {
        if let Some(upstream) = self.upstream.get() {
            upstream.demand();
        }
    }

    fn choice(&self) -> Choice {
        let memory = self.memory();
        match (self.sharing.era, memory.verdict) {
            (Choice::Probe | Choice::PreferLegacy, _) if memory.ends_on_probe => Choice::Legacy,
            (Choice::PreferLegacy, _) if memory.ends_on_initialize => Choice::Modern,
            // A server that was legacy is greeted as such: the probe costs old SDKs a page of their log.
            (Choice::Probe, Some(Era::Legacy)) if !memory.ends_on_initialize => Choice::PreferLegacy,
            (chosen, _) => chosen,
        }
    }

    fn opening(&self, era: Choice) -> Opening {
        let capabilities = match &self.sharing {
            Sharing { capabilities: Some(own), .. } => own.clone(),
            Sharing { interactive: true, .. } => r#"{"sampling":{},"elicitation":{"form":{},"url":{}}}"#.to_owned(),
            Sharing { .. } => "{}".to_owned(),
        };
        Opening {
            era,
            client_info: own_info(),
            capabilities,
            probe_timeout: self.limits.probe_timeout,
            start_timeout: self.limits.start_timeout,
        }
    }

    fn learn(&self, error: &OpenError) {
        let mut memory = self.memory();
        match error {
            OpenError::EndedOnProbe => memory.ends_on_probe = true,
            OpenError::EndedOnInitialize => memory.ends_on_initialize = true,
            // What was learnt did not help: the server may have changed. Begin anew.
            _ => {
                memory.ends_on_probe = false;
                memory.ends_on_initialize = false;
                memory.verdict = None;
            }
        }
    }

    /// Brings a new process to where the last one was, before any client's request reaches it.
    fn resume(self: &Arc<Self>, live: &Arc<Live>) {
        let names = live.facts.names();
        let (restarted, lost, level) = {
            let mut memory = self.memory();
            let era_changed = memory.era.is_some_and(|era| era != live.opened.era);
            let lost = memory.capabilities.as_ref().is_some_and(|before| !before.is_subset(&names)) || era_changed;
            memory.era = Some(live.opened.era);
            memory.verdict = memory.era;
            memory.capabilities = Some(names);
            (std::mem::replace(&mut memory.started, true), lost, memory.level)
        };
        if lost {
            tracing::warn!("the server can do less than before its restart; its sessions are ended");
            let ended = self.sessions.end_all();
            for session in ended {
                self.forget_session(&session);
            }
        }
        if live.opened.era == Era::Modern {
            return modern_child::learn_tools(live);
        }
        // Whatever changed while nobody listened. Before the first start there are revived sessions only.
        for session in self.sessions.all() {
            Self::hint_lists(&session, live);
        }
        if !restarted {
            return;
        }
        if let Some(level) = level.filter(|_| live.facts.declares(&["logging"])) {
            tell_level(live, level);
        }
        let uris: Vec<String> = {
            let subscriptions = self.subscriptions();
            let subscribers = subscriptions.values().flat_map(|subscription| &subscription.sessions);
            subscribers.filter_map(Weak::upgrade).for_each(|session| live.admit(&session.identity));
            subscriptions.keys().cloned().collect()
        };
        for uri in uris {
            let (connection, params) = (live.connection.clone(), uri_params(&uri));
            tokio::spawn(async move {
                if !matches!(connection.call(methods::RESOURCES_SUBSCRIBE, &params).await, End::Answered(m) if m.result().is_some())
                {
                    tracing::warn!("a subscription could not be renewed after the server's restart");
                }
            });
        }
    }

    /// Tells a session to look at its lists again.
    pub(super) fn hint_lists(session: &Session, live: &Live) {
        for method in live.facts.changing_lists() {
            let text = envelope::call(None, &method, None);
            session.standalone.push(Class::ListChanged(method), vec![Bytes::from(text)]);
        }
    }

    /// Ends what has taken too long, as long as the process lives.
    async fn watch_deadlines(self: &Arc<Self>, live: &Arc<Live>) -> std::convert::Infallible {
        const FINEST: Duration = Duration::from_millis(20);
        let limits = &self.limits;
        let shortest = limits.request_timeout.min(limits.detached_ttl).min(limits.listen_ack).min(limits.s2c_timeout);
        let tick = (shortest / 8).clamp(FINEST, Duration::from_secs(1));
        loop {
            let sessions = self.sessions.all();
            if live.connection.in_flight() == 0 && !sessions.iter().any(|session| session.is_asked(live.generation)) {
                drop(sessions);
                live.busy.notified().await;
                continue;
            }
            tokio::time::sleep(tick).await;
            let now = Instant::now();
            for session in sessions {
                legacy_child::end_unanswered(live, &session, now);
            }
            let mut overdue = Vec::new();
            live.connection.each(|number, exchange, cancelled| {
                // Whose user is being asked is not idle; the question has a time of its own.
                let asking = exchange.session().is_some_and(|session| session.is_asking(live.generation, number));
                if asking && !exchange.is_deserted() {
                    exchange.sign();
                }
                if !cancelled && let Some(why) = exchange.overdue(now, &self.limits) {
                    overdue.push((Arc::clone(exchange), why));
                }
            });
            for (exchange, why) in overdue {
                if let (Some(session), Some((_, number))) = (exchange.session(), exchange.upstream()) {
                    legacy_child::withdraw(session, number);
                }
                match why {
                    Overdue::TimedOut if exchange.is_acknowledged() => {
                        exchange.cancel_with(
                            "not acknowledged",
                            Finish::Ready(modern_child::listen_result(&exchange.asking.id)),
                        );
                    }
                    Overdue::Abandoned => exchange.cancel("the client is gone", Refusal::Cancelled),
                    Overdue::TimedOut => {
                        tracing::warn!(method = exchange.asking.method, "the server did not answer in time");
                        exchange.cancel("timed out", Refusal::UpstreamTimeout);
                        self.doubt(live, exchange.heard_before());
                    }
                }
            }
        }
    }

    /// A server that has said nothing since a request it let time out is asked for a sign of life, and ended without.
    fn doubt(self: &Arc<Self>, live: &Arc<Live>, heard_before: u64) {
        if live.connection.lines_heard() != heard_before {
            return;
        }
        let (child, live) = (Arc::clone(self), Arc::clone(live));
        tokio::spawn(async move {
            let sign = async {
                match live.opened.era {
                    Era::Legacy => live.connection.call(methods::PING, "{}").await,
                    Era::Modern => {
                        let meta = probe::own_meta(&live.opened.version, &own_info());
                        live.connection.call(methods::DISCOVER, &format!("{{\"_meta\":{meta}}}")).await
                    }
                }
            };
            let silent = tokio::time::timeout(child.limits.liveness_timeout, sign).await.is_err();
            if silent
                && live.connection.lines_heard() == heard_before
                && let Some(upstream) = child.upstream.get()
            {
                upstream.restart(live.generation, "it does not answer any more");
            }
        });
    }

    /// Looks at an answer for what later messages may refer to.
    pub(super) fn observe(&self, exchange: &Exchange, message: &Message) {
        let Some(session) = exchange.session() else { return };
        if let Some(task) = exchange.asking.expects_task.then(|| task_of(message)).flatten() {
            let owner = TaskOwner { session: session.id.clone(), identity: exchange.asking.identity.clone() };
            self.tasks().insert(task, owner, self.limits.max_tasks);
        }
        if let Some((URL_ELICITATION_REQUIRED, error)) = message.error_members() {
            let data = error.object("data");
            let shown = data.as_ref().and_then(|data| data.text("elicitations")).unwrap_or("[]");
            for elicitation in crate::mcp::members::elements(shown).unwrap_or_default() {
                if let Some(id) =
                    Members::read(elicitation.get()).ok().and_then(|e| Some(e.string("elicitationId")?.into_owned()))
                {
                    self.show(id, session);
                }
            }
        }
    }

    /// Notes which session is shown a URL.
    pub(super) fn show(&self, elicitation: String, session: &Arc<Session>) {
        let mut shown = self.shown.lock().expect("nothing panics while it holds this");
        shown.insert(elicitation, Arc::downgrade(session), self.limits.max_elicitations);
    }

    /// The session that was shown a URL.
    pub(super) fn shown_to(&self, elicitation: &str) -> Option<Arc<Session>> {
        let shown = self.shown.lock().expect("nothing panics while it holds this");
        shown.get(elicitation, Duration::MAX)?.upgrade()
    }

    /// Whether a task is this session's own.
    pub(super) fn owns_task(&self, session: &Session, task: &str) -> bool {
        let tasks = self.tasks();
        let owner = tasks.get(task, self.limits.task_memory);
        owner.is_some_and(|owner| owner.session == session.id && owner.identity == session.identity)
    }

    /// Whether it is known whose a task is, or was.
    pub(super) fn knows_task(&self, task: &str) -> bool {
        self.tasks().get(task, self.limits.task_memory).is_some()
    }

    /// The open session that owns a task.
    pub(super) fn task_owner(&self, task: &str) -> Option<Arc<Session>> {
        let owner = self.tasks().get(task, self.limits.task_memory)?.clone();
        self.sessions.get(&owner.session).filter(|session| session.identity == owner.identity)
    }

    /// Subscribes a session to a resource; the server is asked once for all of them.
    pub(super) async fn subscribe(
        self: &Arc<Self>,
        live: &Live,
        session: &Arc<Session>,
        uri: &str,
    ) -> Result<(), Bytes> {
        live.admit(&session.identity);
        let mut outcome = {
            let mut subscriptions = self.subscriptions();
            if let Some(known) = subscriptions.get_mut(uri) {
                known.sessions.retain(|other| other.strong_count() > 0);
                if !known.sessions.iter().any(|other| other.as_ptr() == Arc::as_ptr(session)) {
                    known.sessions.push(Arc::downgrade(session));
                }
                known.outcome.clone()
            } else {
                let (told, outcome) = watch::channel(None);
                let entry = Subscription { sessions: vec![Arc::downgrade(session)], outcome: outcome.clone() };
                subscriptions.insert(uri.to_owned(), entry);
                let (child, connection, uri) = (Arc::clone(self), live.connection.clone(), uri.to_owned());
                tokio::spawn(async move {
                    let params = uri_params(&uri);
                    let asked = connection.call(methods::RESOURCES_SUBSCRIBE, &params);
                    let end = tokio::time::timeout(child.limits.request_timeout, asked).await;
                    let result = subscribed(end.unwrap_or(End::Closed));
                    if result.is_err() {
                        child.subscriptions().remove(&uri);
                    }
                    told.send_replace(Some(result));
                });
                outcome
            }
        };
        let result = outcome.wait_for(Option::is_some).await.map(|result| result.clone());
        result.ok().flatten().unwrap_or_else(|| Err(internal_error("the subscription was lost")))
    }

    /// Takes a session's subscription back; after the last one the server is told.
    pub(super) fn unsubscribe(&self, session: &Arc<Session>, uri: &str) {
        let last = {
            let mut subscriptions = self.subscriptions();
            let Some(known) = subscriptions.get_mut(uri) else { return };
            known.sessions.retain(|other| other.strong_count() > 0 && other.as_ptr() != Arc::as_ptr(session));
            let last = known.sessions.is_empty();
            if last {
                subscriptions.remove(uri);
            }
            last
        };
        if let Some(live) = self.current().filter(|_| last) {
            let params = uri_params(uri);
            tokio::spawn(async move { live.connection.call(methods::RESOURCES_UNSUBSCRIBE, &params).await });
        }
    }

    /// A session asked for this much logging: the server hears of the most verbose wish of all.
    pub(super) fn raise_level(self: &Arc<Self>, live: &Arc<Live>) {
        let Some(wanted) = self.wanted_level() else { return };
        {
            let mut memory = self.memory();
            if memory.level.is_some_and(|level| level <= wanted) {
                let lower = memory.level.is_some_and(|level| level < wanted);
                drop(memory);
                if lower {
                    self.lower_level_later();
                }
                return;
            }
            memory.level = Some(wanted);
        }
        tell_level(live, wanted);
    }

    /// Less is wanted now; somebody may come back for more, so the server is told only after a while.
    fn lower_level_later(self: &Arc<Self>) {
        if self.lowering.swap(true, Ordering::AcqRel) {
            return;
        }
        let child = Arc::downgrade(self);
        let linger = self.limits.log_level_linger;
        tokio::spawn(async move {
            tokio::time::sleep(linger).await;
            let Some(child) = child.upgrade() else { return };
            child.lowering.store(false, Ordering::Release);
            let (Some(wanted), Some(live)) = (child.wanted_level(), child.current()) else { return };
            {
                let mut memory = child.memory();
                if memory.level.is_none_or(|level| level >= wanted) {
                    return;
                }
                memory.level = Some(wanted);
            }
            tell_level(&live, wanted);
        });
    }

    fn wanted_level(&self) -> Option<Level> {
        self.sessions.all().iter().filter_map(|session| session.level()).min()
    }

    /// Lets go of everything that a session had here.
    pub(super) fn forget_session(self: &Arc<Self>, session: &Arc<Session>) {
        for uri in session.subscriptions() {
            self.unsubscribe(session, &uri);
        }
        if session.level().is_some() {
            self.lower_level_later();
        }
        let Some(live) = self.current() else { return };
        let mut own = Vec::new();
        live.connection.each(|_, exchange, cancelled| {
            if !cancelled && exchange.is_of(session) {
                own.push(Arc::clone(exchange));
            }
        });
        for exchange in own {
            exchange.cancel("the session ended", Refusal::Cancelled);
        }
        for (_, asked) in session.drop_questions(live.generation) {
            legacy_child::unanswered(&live.connection, &asked, "the client's session ended");
        }
    }

    /// The server that asked is gone: its questions are taken back.
    fn withdraw_questions(&self, generation: u64) {
        for session in self.sessions.all() {
            for (number, _) in session.drop_questions(generation) {
                if !session.standalone.withdraw(number) {
                    session.standalone.push(Class::Other, withdrawal(number, "the server ended"));
                }
            }
        }
    }

    /// Keeps a listen stream for the next process. Returns whether it is kept.
    pub(super) fn listen_again(self: &Arc<Self>, exchange: &Exchange) -> bool {
        let Some(exchange) = exchange.this() else { return false };
        if !exchange.renewal_begins() {
            return true;
        }
        let child = Arc::clone(self);
        tokio::spawn(async move {
            let again = async {
                while !exchange.is_deserted() && !exchange.reply.is_over() {
                    // The next process, where this one is known to be closed.
                    match child.live().await {
                        Ok(live) if live.opened.era != Era::Modern => {
                            exchange.end(Finish::Ready(modern_child::listen_result(&exchange.asking.id)));
                            return;
                        }
                        Ok(live) => {
                            if modern_child::listen_again(&live, &exchange).await && exchange.renewal_ends() {
                                return;
                            }
                        }
                        Err(Refusal::ShuttingDown { .. }) => {
                            exchange.end(Finish::Ready(modern_child::listen_result(&exchange.asking.id)));
                            return;
                        }
                        Err(_) => {}
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            if tokio::time::timeout(child.limits.relisten, again).await.is_err() {
                exchange.end(Finish::Ready(modern_child::listen_result(&exchange.asking.id)));
            }
        });
        true
    }

    /// Ends every stream and every request, for ferry's own stop.
    pub(super) fn end_streams(&self) {
        for session in self.sessions.all() {
            session.standalone.close();
        }
        let Some(live) = self.last() else { return };
        live.connection.each(|_, exchange, _| {
            if exchange.asking.listen.is_some() {
                exchange.end(Finish::Ready(modern_child::listen_result(&exchange.asking.id)));
            }
        });
    }

    /// Requests that wait for this server.
    pub(super) fn in_flight(&self) -> usize {
        let mut count = 0;
        if let Some(live) = self.last() {
            live.connection.each(|_, exchange, cancelled| {
                count += usize::from(!cancelled && exchange.asking.listen.is_none());
            });
        }
        count
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("nothing panics while it holds what a process taught")
    }

    fn subscriptions(&self) -> MutexGuard<'_, HashMap<String, Subscription>> {
        self.subscriptions.lock().expect("nothing panics while it holds the subscriptions")
    }

    fn tasks(&self) -> MutexGuard<'_, Remembered<TaskOwner>> {
        self.tasks.lock().expect("nothing panics while it holds the tasks")
    }
}

/// Hears what a process says unasked.
struct Ears {
    child: Weak<Child>,
    live: OnceLock<Arc<Live>>,
}

impl Inbound<Exchange> for Ears {
    fn request(&self, connection: &Connection<Exchange>, message: Message) {
        let Some(id) = message.id() else { return };
        let id = String::from_utf8_lossy(&id).into_owned();
        match (self.child.upgrade(), self.live.get()) {
            (Some(child), Some(live)) if live.opened.era == Era::Modern => {
                modern_child::request(&child, live, &id, &message);
            }
            (Some(child), Some(live)) => legacy_child::request(&child, live, &id, &message),
            // Only `ping` may come before the handshake is over.
            _ if message.method() == methods::PING => connection.answer(&id, "{}"),
            _ => connection.refuse(&id, envelope::code::METHOD_NOT_FOUND, "not before the handshake"),
        }
    }

    fn notification(&self, _: &Connection<Exchange>, message: Message) {
        match (self.child.upgrade(), self.live.get()) {
            (Some(child), Some(live)) if live.opened.era == Era::Modern => {
                modern_child::notification(&child, live, &message);
            }
            (Some(child), Some(live)) => legacy_child::notification(&child, live, &message),
            _ => tracing::debug!(method = message.method(), "dropped: it came before the handshake was over"),
        }
    }

    fn noise(&self, line: &[u8], why: &str) {
        const SHOWN: usize = 200;
        let shown = String::from_utf8_lossy(&line[..line.len().min(SHOWN)]);
        tracing::warn!(why, line = %shown.escape_debug(), "the server wrote something that is no message to its standard output");
    }
}

/// The error of 2025-11-25 by which a server sends its user to a page.
const URL_ELICITATION_REQUIRED: i64 = -32042;

/// ferry's own `clientInfo`.
pub(super) fn own_info() -> String {
    format!("{{\"name\":\"ferry\",\"title\":\"ferry\",\"version\":{}}}", quote(env!("CARGO_PKG_VERSION")))
}

/// `notifications/cancelled` for a question that a client has been asked.
pub(super) fn withdrawal(number: u64, reason: &str) -> Json {
    let params = format!("{{\"requestId\":{number},\"reason\":{}}}", quote(reason));
    vec![Bytes::from(envelope::call(None, methods::CANCELLED, Some(&params)))]
}

/// Puts a message on the stream of one of a session's requests where that can be, else on the session's own.
pub(super) fn deliver(session: &Session, exchange: Option<&Arc<Exchange>>, class: Class, json: Json) -> bool {
    match exchange {
        Some(exchange) if exchange.can_stream() => {
            let keep = if matches!(class, Class::Question(_)) { Keep::Always } else { Keep::IfRoom };
            exchange.reply.push(json, keep);
            true
        }
        _ => session.standalone.push(class, json),
    }
}

fn uri_params(uri: &str) -> String {
    format!("{{\"uri\":{}}}", quote(uri))
}

fn tell_level(live: &Live, level: Level) {
    let (connection, params) = (live.connection.clone(), format!("{{\"level\":\"{}\"}}", level.name()));
    tokio::spawn(async move { connection.call(methods::SET_LEVEL, &params).await });
}

fn subscribed(end: End) -> Result<(), Bytes> {
    match end {
        End::Answered(message) => message.error().map_or(Ok(()), Err),
        _ => Err(internal_error("the server did not answer the subscription")),
    }
}

/// The `error` member of an answer of ferry's own.
fn internal_error(message: &str) -> Bytes {
    Bytes::from(format!("{{\"code\":{},\"message\":{}}}", envelope::code::INTERNAL_ERROR, quote(message)))
}

fn task_of(message: &Message) -> Option<String> {
    let result = Members::read(message.result_text()?).ok()?;
    Some(result.object("task")?.string("taskId")?.into_owned())
}
