//! One server: the process that serves it now, and what outlives a process.
//!
//! `daemon` hands in the pipes of each new process ([`Child::serve`]); here it is greeted, brought to where its
//! predecessor was (log level, subscriptions), and watched until it ends. Requests wait in [`Child::live`] for that.
//! Whether all clients share it, or one person or one session has it alone, `whose` says; [`super::children`] makes them.

mod belongings;
mod deadlines;
mod interests;
mod listeners;
mod live;
mod upstream_listen;
mod whose;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::children::{Children, Learnt};
use super::dialogue::Dialogues;
use super::exchange::{Exchange, unavailable};
use super::introduction::Introduction;
use super::level::Level;
use super::methods;
use super::refusal::Refusal;
use super::relay::{legacy_child, modern_child};
use super::reply::{Finish, Json, Keep};
use super::sessions::{Session, Sessions};
use super::standalone::Class;
use super::upstream::Upstream;
use crate::config::limits::Limits;
use crate::mcp::connection::{Connection, Ended, Inbound};
use crate::mcp::envelope::{self, Message};
use crate::mcp::members::quote;
use crate::mcp::probe::{self, Choice, OpenError, Opened, Opening};
use crate::mcp::version::Era;
use crate::mcp::writer::Bounds;
use crate::telemetry::metrics::Meter;
use belongings::{Remembered, TaskOwner};
pub(super) use interests::Subscriber;
use interests::{Subscription, tell_level};
use listeners::Listeners;
pub(super) use listeners::Listening;
pub(super) use live::{Facts, Live};
use upstream_listen::Wishes;
pub(super) use upstream_listen::{Heard, OwnListen, without_subscription};
pub(super) use whose::Whose;

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
    /// Who shares a process.
    pub isolation: Isolation,
    /// How many processes there may be at once, where clients do not share one.
    pub max_children: usize,
    /// A process that has been asked nothing for so long is ended, and started again for the next request.
    pub idle_stop: Option<Duration>,
    /// What the end of a process means for the sessions that had it alone.
    pub on_exit: OnExit,
}

impl Default for Sharing {
    fn default() -> Self {
        Self {
            era: Choice::Probe,
            interactive: false,
            capabilities: None,
            isolation: Isolation::Shared,
            max_children: 16,
            idle_stop: None,
            on_exit: OnExit::Rehandshake,
        }
    }
}

/// Who shares a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// All clients.
    Shared,
    /// Nobody: each session has its own. Modern requests, which have no session, share one per identity.
    Session,
    /// All that one identity does.
    User,
}

/// What the end of a process means for the sessions that had it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// They go on: the next process is greeted as the last one was.
    Rehandshake,
    /// They end: what the process knew is lost, and the client is to begin anew.
    EndSession,
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

/// One server.
pub struct Child {
    name: String,
    sharing: Arc<Sharing>,
    whose: Whose,
    /// What the client for whom it is opened said of itself; none where ferry speaks for all.
    introduction: Option<Introduction>,
    /// Where it came from.
    children: Weak<Children>,
    /// When it was last asked, as a place in the order of all such events.
    used: AtomicU64,
    /// The server's own words when it refused to be opened.
    refused: Mutex<Option<Bytes>>,
    learnt: Arc<Mutex<Learnt>>,
    pub(in crate::bridge) meter: Arc<Meter>,
    pub(in crate::bridge) limits: Arc<Limits>,
    pub(in crate::bridge) sessions: Arc<Sessions>,
    upstream: OnceLock<Arc<dyn Upstream>>,
    phase: watch::Sender<Phase>,
    failures: AtomicU64,
    memory: Mutex<Memory>,
    /// Known again after the next process has started.
    subscriptions: Mutex<HashMap<String, Subscription>>,
    tasks: Mutex<Remembered<TaskOwner>>,
    /// A lower log level is waiting to be told.
    lowering: AtomicBool,
    /// Calls of modern clients that wait for these clients.
    pub(super) dialogues: Dialogues,
    listeners: Mutex<Listeners>,
    /// Calls of legacy clients whose server wants input; it has forgotten them meanwhile.
    driven: Mutex<Vec<Arc<Exchange>>>,
    /// What legacy sessions want to hear of a modern server.
    wishes: Arc<Wishes>,
    /// Which session was shown which URL elicitation.
    shown: Mutex<Remembered<Weak<Session>>>,
}

/// What one process left behind for the next.
#[derive(Debug, Default)]
struct Memory {
    /// The era that the last process was opened in.
    era: Option<Era>,
    /// What the last process declared.
    capabilities: Option<BTreeSet<String>>,
    /// The level the server was last told.
    level: Option<Level>,
    started: bool,
    /// A process is being greeted.
    greeting: bool,
    /// The last process was ended because nobody asked it anything: there is nothing to tell of that.
    rested: bool,
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
    pub(super) fn new(children: &Arc<Children>, whose: Whose, introduction: Option<Introduction>) -> Arc<Self> {
        Arc::new(Self {
            name: children.name.clone(),
            sharing: Arc::clone(&children.sharing),
            whose,
            introduction,
            children: Arc::downgrade(children),
            used: AtomicU64::new(0),
            refused: Mutex::default(),
            learnt: Arc::clone(&children.learnt),
            meter: Arc::clone(&children.meter),
            limits: Arc::clone(&children.limits),
            sessions: Arc::clone(&children.sessions),
            upstream: OnceLock::new(),
            phase: watch::Sender::new(Phase::Resting),
            failures: AtomicU64::new(0),
            memory: Mutex::default(),
            subscriptions: Mutex::default(),
            tasks: Mutex::default(),
            shown: Mutex::default(),
            lowering: AtomicBool::new(false),
            dialogues: Dialogues::default(),
            listeners: Mutex::default(),
            driven: Mutex::default(),
            wishes: Arc::default(),
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
        for exchange in self.driven() {
            exchange.end(Finish::Ferry(Refusal::ShuttingDown { sent: true }));
        }
    }

    /// Whether it can be asked now, and in which era its server is.
    pub fn era(&self) -> Option<Era> {
        self.current().map(|live| live.opened.era)
    }

    /// Whether the last process was of this era, and the next one is expected to be.
    pub(super) fn is_known_as(&self, era: Era) -> bool {
        self.memory().era == Some(era)
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
        // The client that has this server alone says itself when it is done with its handshake.
        let holds_initialized = matches!(self.whose, Whose::Session(_)) && !self.memory().started;
        self.memory().greeting = true;
        let opened = probe::open(&connection, &self.opening(holds_initialized)).await;
        // After one that was only greeted in the wrong way another comes at once, for whoever waits.
        let another_way = matches!(opened, Err(OpenError::EndedOnProbe | OpenError::EndedOnInitialize));
        self.memory().greeting = another_way;
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                if let OpenError::Refused { code, message, .. } = &error {
                    let text = format!("{{\"code\":{code},\"message\":{}}}", quote(message));
                    *self.refused.lock().expect("nothing panics while it holds this") = Some(Bytes::from(text));
                }
                // The pump ends with the process, which is of no use any more.
                connection.close_input();
                self.learnt().learn(&error);
                return Outcome::NotOpened(error);
            }
        };
        let live = Arc::new(Live::new(generation, opened, connection, holds_initialized));
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
        if self.sharing.on_exit == OnExit::EndSession && self.is_private() && !self.memory().rested {
            self.end_sessions("its server ended");
        }
        Outcome::Ended(ended)
    }

    /// The process that can be asked now.
    pub(in crate::bridge) fn current(&self) -> Option<Arc<Live>> {
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
    pub(in crate::bridge) async fn live(self: &Arc<Self>) -> Result<Arc<Live>, Refusal> {
        if let Some(live) = self.current() {
            return Ok(live);
        }
        self.take_place()?;
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
        let wanted = match (self.sharing.era, &self.introduction) {
            (era @ (Choice::Legacy | Choice::Modern), _) | (era, None) => era,
            // Its one client is served without any translation.
            (_, Some(introduction)) => match introduction.era {
                Era::Legacy => Choice::PreferLegacy,
                Era::Modern => Choice::Probe,
            },
        };
        self.learnt().choice(wanted)
    }

    fn opening(&self, hold_initialized: bool) -> Opening {
        let (client_info, capabilities) = match (&*self.sharing, &self.introduction) {
            // One person's clients may be able to do more than the first of them.
            (Sharing { capabilities: Some(own), .. }, Some(introduction)) => {
                (introduction.client_info.clone(), own.clone())
            }
            (_, Some(introduction)) => (introduction.client_info.clone(), introduction.capabilities.clone()),
            (Sharing { capabilities: Some(own), .. }, None) => (own_info(), own.clone()),
            (Sharing { interactive: true, .. }, None) => {
                (own_info(), r#"{"sampling":{},"elicitation":{"form":{},"url":{}}}"#.to_owned())
            }
            (Sharing { .. }, None) => (own_info(), "{}".to_owned()),
        };
        Opening {
            era: self.choice(),
            client_info,
            capabilities,
            initialize: self.introduction.as_ref().and_then(|introduction| introduction.initialize.clone()),
            hold_initialized,
            probe_timeout: self.limits.probe_timeout,
            start_timeout: self.limits.start_timeout,
        }
    }

    /// Brings a new process to where the last one was, before any client's request reaches it.
    fn resume(self: &Arc<Self>, live: &Arc<Live>) {
        let names = live.facts.names();
        let rested;
        let (restarted, lost, level) = {
            let mut memory = self.memory();
            let era_changed = memory.era.is_some_and(|era| era != live.opened.era);
            let lost = memory.capabilities.as_ref().is_some_and(|before| !before.is_subset(&names)) || era_changed;
            memory.era = Some(live.opened.era);
            self.learnt().verdict = memory.era;
            memory.capabilities = Some(names);
            rested = std::mem::take(&mut memory.rested);
            (std::mem::replace(&mut memory.started, true), lost, memory.level)
        };
        if lost {
            tracing::warn!("the server can do less than before its restart; its sessions are ended");
            self.end_sessions("its server can do less now");
        }
        // Whatever changed while nobody listened. Before the first start there are revived sessions only.
        if !rested {
            for session in self.audience() {
                Self::hint_lists(&session, live);
            }
        }
        if live.opened.era == Era::Modern {
            // Those who have listened to one of the other era begin anew.
            self.end_listeners();
            self.keep_listening(live);
            return modern_child::learn_tools(live);
        }
        if !rested {
            self.tell_of_all_lists(live);
        }
        if !restarted {
            return;
        }
        if let Some(level) = level.filter(|_| live.facts.declares(&["logging"])) {
            tell_level(live, level);
        }
        self.renew_subscriptions(live);
    }

    /// Tells a session to look at its lists again.
    pub(in crate::bridge) fn hint_lists(session: &Session, live: &Live) {
        for method in live.facts.changing_lists() {
            let text = envelope::call(None, &method, None);
            session.standalone.push(Class::ListChanged(method), vec![Bytes::from(text)]);
        }
    }

    /// Lets go of everything that a session had here.
    pub(super) fn forget_session(self: &Arc<Self>, session: &Arc<Session>) {
        for uri in session.subscriptions() {
            self.unsubscribe(&Subscriber::of(session), &uri);
        }
        if session.level().is_some() {
            self.lower_level_later();
        }
        self.wish_to_listen();
        for exchange in self.driven().iter().filter(|exchange| exchange.is_of(session)) {
            exchange.end(Finish::Ferry(Refusal::Cancelled));
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
            legacy_child::unanswered(&live.connection, &asked.id, &asked.method, "the client's session ended");
        }
    }

    /// The server that asked is gone: its questions are taken back.
    fn withdraw_questions(&self, generation: u64) {
        for session in self.audience() {
            for (number, _) in session.drop_questions(generation) {
                if !session.standalone.withdraw(number) {
                    session.standalone.push(Class::Other, withdrawal(number, "the server ended"));
                }
            }
        }
    }

    /// Keeps a listen stream for the next process. Returns whether it is kept.
    pub(in crate::bridge) fn listen_again(self: &Arc<Self>, exchange: &Exchange) -> bool {
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

    /// Ends every listen stream, for ferry's own stop.
    pub(in crate::bridge) fn end_listens(&self) {
        self.end_listeners();
        let Some(live) = self.last() else { return };
        live.connection.each(|_, exchange, _| {
            if exchange.asking.listen.is_some() {
                exchange.end(Finish::Ready(modern_child::listen_result(&exchange.asking.id)));
            }
        });
    }

    /// Requests that wait for this server.
    pub fn in_flight(&self) -> usize {
        let mut count = self.driven().len();
        if let Some(live) = self.last() {
            live.connection.each(|_, exchange, cancelled| {
                count += usize::from(!cancelled && exchange.asking.listen.is_none());
            });
        }
        count
    }

    /// The server's own words where it refused to be opened; once.
    pub(super) fn take_refusal(&self) -> Option<Bytes> {
        self.refused.lock().expect("nothing panics while it holds this").take()
    }

    /// A call's client is being asked for what its server wants.
    pub(super) fn drives(&self, exchange: &Arc<Exchange>) {
        self.driven.lock().expect("nothing panics while it holds this").push(Arc::clone(exchange));
        if let Some(live) = self.last() {
            live.busy.notify_one();
        }
    }

    /// It is not, any more.
    pub(super) fn has_driven(&self, exchange: &Exchange) {
        let mut driven = self.driven.lock().expect("nothing panics while it holds this");
        driven.retain(|other| !std::ptr::eq(Arc::as_ptr(other), exchange));
    }

    /// The calls whose clients are being asked for what their server wants.
    pub(super) fn driven(&self) -> Vec<Arc<Exchange>> {
        self.driven.lock().expect("nothing panics while it holds this").clone()
    }

    fn listeners(&self) -> MutexGuard<'_, Listeners> {
        self.listeners.lock().expect("nothing panics while it holds those who listen")
    }

    fn learnt(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().expect("nothing panics while it holds what was learnt")
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("nothing panics while it holds what a process taught")
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

/// ferry's own `clientInfo`.
pub(in crate::bridge) fn own_info() -> String {
    format!("{{\"name\":\"ferry\",\"title\":\"ferry\",\"version\":{}}}", quote(env!("CARGO_PKG_VERSION")))
}

/// `notifications/cancelled` for a question that a client has been asked.
pub(in crate::bridge) fn withdrawal(number: u64, reason: &str) -> Json {
    let params = format!("{{\"requestId\":{number},\"reason\":{}}}", quote(reason));
    vec![Bytes::from(envelope::call(None, methods::CANCELLED, Some(&params)))]
}

/// Puts a message on the stream of one of a session's requests where that can be, else on the session's own.
pub(in crate::bridge) fn deliver(
    session: &Session,
    exchange: Option<&Arc<Exchange>>,
    class: Class,
    json: Json,
) -> bool {
    match exchange {
        Some(exchange) if exchange.can_stream() => {
            let keep = if matches!(class, Class::Question(_)) { Keep::Always } else { Keep::IfRoom };
            exchange.reply.push(json, keep);
            true
        }
        _ => session.standalone.push(class, json),
    }
}
