//! The task that observes cloudflared: it turns what happens into events, asks [`super::readiness`], and does what that
//! says. Starting and ending is the supervisor's.

use std::future::{Future, pending};
use std::pin::Pin;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{Level, debug, error, info, warn};

use super::clock::Clocks;
use super::launch::{Launch, Prepared};
use super::logs::{Flood, Line, Sign};
use super::readiness::{Action, Event, Readiness};
use super::{Settings, Trouble, TunnelState, TunnelStatus, ready, render};
use crate::supervisor::{
    Capture, Environment, Incarnation, LAST_OUTPUT, Process, Retry, Role, Signal, Spec, Start, State, Supervisor, Then,
};

/// How it is called in logs and in `status`.
const NAME: &str = "cloudflared";
/// Lines that may wait to be read; those that find no room are in cloudflared's own log only.
const UNREAD: usize = 256;
/// How often to look whether the machine has slept.
const GLANCE: Duration = Duration::from_secs(2);
/// A cloudflared that could not be executed is tried again after this: it may have been installed.
const INSTALLED_MEANWHILE: Duration = Duration::from_secs(30);
/// What is kept of its standard output, where only its usage is ever printed.
const MAX_USAGE: u64 = 4096;

pub(super) fn start(
    settings: Settings,
    supervisor: &Supervisor,
) -> (Process, watch::Receiver<TunnelStatus>, impl Future<Output = ()> + Send + use<>) {
    let pace = settings.pace;
    let (lines, unread) = mpsc::channel(UNREAD);
    let spec = spec(&settings, lines);
    let (launch, prepared) = Launch::new(settings);
    let spec = Spec {
        environment: Environment { inherit: true, lookup: Some(Arc::new(launch)), ..Environment::default() },
        ..spec
    };
    let (process, incarnations) = supervisor.add(spec);
    let readiness = Readiness::new(pace.patience);
    let (told, status) = watch::channel(TunnelStatus { state: readiness.state(), last_error: None, version: None });
    let now = Instant::now();
    let observer = Observer {
        pace,
        process: process.clone(),
        incarnations,
        prepared,
        lines: unread,
        readiness,
        told,
        living: None,
        flood: Flood::new(now),
        clocks: Clocks::read(),
        glanced: now,
        look: now,
        asking: None,
    };
    (process, status, observer.run())
}

fn spec(settings: &Settings, lines: mpsc::Sender<String>) -> Spec {
    let (grace, kill) = render::patience(settings.shutdown_timeout);
    Spec {
        name: NAME.to_owned(),
        role: Role::Tunnel,
        program: settings.program.clone().into(),
        args: render::run(&Launch::file(settings), grace, settings.protocol, settings.edge_ip_version),
        cwd: None,
        environment: Environment::default(),
        // Whether it has been without a connection for too long is for `readiness` to say, which counts from the same
        // moment; this is for the case that nobody does.
        start_timeout: settings.pace.patience * 2,
        stop_grace: Duration::ZERO,
        stop_signal: Signal::SIGTERM,
        term_grace: kill,
        forward_signals: Vec::new(),
        start: Start::Eager,
        stderr: Capture { file: settings.log.clone(), lines: Some(lines) },
    }
}

struct Observer {
    pace: super::Pace,
    process: Process,
    incarnations: mpsc::Receiver<Incarnation>,
    prepared: watch::Receiver<Option<Result<Prepared, Trouble>>>,
    lines: mpsc::Receiver<String>,
    readiness: Readiness,
    told: watch::Sender<TunnelStatus>,
    living: Option<Living>,
    flood: Flood,
    clocks: Clocks,
    /// When the clocks were last compared.
    glanced: Instant,
    /// When cloudflared is to be asked again.
    look: Instant,
    /// The present question.
    asking: Option<Pin<Box<dyn Future<Output = Option<u32>> + Send>>>,
}

/// The cloudflared that runs now.
struct Living {
    generation: u64,
    metrics: std::net::SocketAddr,
    exited: watch::Receiver<bool>,
    /// What it prints on its standard output: its usage, or nothing.
    usage: JoinHandle<String>,
    /// Its last line that was not JSON: why it exits.
    last_words: Option<String>,
    /// It was told to end.
    dismissed: bool,
    /// It has answered once, so its configuration is not what is wrong.
    has_answered: bool,
}

impl Observer {
    async fn run(mut self) {
        let mut status = self.process.watch();
        loop {
            tokio::select! {
                incarnation = self.incarnations.recv() => match incarnation {
                    Some(incarnation) => self.started(incarnation),
                    None => return,
                },
                Ok(()) = self.prepared.changed() => self.was_prepared(),
                Some(line) = self.lines.recv() => self.read(&line),
                () = exit(self.living.as_mut()) => self.ended().await,
                answer = answer(self.asking.as_mut()) => self.answered(answer),
                Ok(()) = status.changed() => {
                    let state = status.borrow_and_update().state;
                    match state {
                        State::Failed => self.could_not_be_run(),
                        // ferry stops: what follows is no news of the tunnel's.
                        State::Stopping(Then::Gone) | State::Killing(Then::Gone) | State::Gone => return,
                        State::Stopping(_) | State::Killing(_) => self.dismissed(),
                        _ => {}
                    }
                }
                () = sleep_until(self.look.min(self.glanced + GLANCE)) => self.look(),
            }
            self.tell();
        }
    }

    fn happened(&mut self, event: Event) {
        let action = self.readiness.on(event, Instant::now());
        let Some(living) = &mut self.living else { return };
        match action {
            Action::Nothing => {}
            Action::TellReady => self.process.ready(living.generation),
            Action::StartAnew => {
                living.dismissed = true;
                let reason = format!("no connection for {} s", self.pace.patience.as_secs_f32());
                self.process.failed(living.generation, reason, Retry::BackOff);
            }
        }
    }

    fn started(&mut self, incarnation: Incarnation) {
        let Incarnation { generation, stdin, stdout, closing, exited, .. } = incarnation;
        // It reads nothing.
        drop((stdin, closing));
        // Nothing is started that was not prepared.
        let Some(Ok(Prepared { metrics, .. })) = self.prepared.borrow().clone() else { return };
        let usage = tokio::spawn(async move {
            let mut text = Vec::new();
            let mut start = stdout.take(MAX_USAGE);
            let _ = start.read_to_end(&mut text).await;
            let _ = tokio::io::copy(&mut start.into_inner(), &mut tokio::io::sink()).await;
            String::from_utf8_lossy(&text).into_owned()
        });
        self.living = Some(Living {
            generation,
            metrics,
            exited,
            usage,
            last_words: None,
            dismissed: false,
            has_answered: false,
        });
        self.asking = None;
        self.look = Instant::now();
        self.happened(Event::Started);
    }

    fn was_prepared(&mut self) {
        let prepared = self.prepared.borrow_and_update().clone();
        match prepared {
            Some(Ok(prepared)) => {
                self.told.send_if_modified(|told| {
                    std::mem::replace(&mut told.version, prepared.version) != prepared.version
                });
            }
            Some(Err(trouble)) => self.happened(Event::Said(trouble)),
            None => {}
        }
    }

    fn dismissed(&mut self) {
        if let Some(living) = &mut self.living {
            living.dismissed = true;
        }
    }

    fn could_not_be_run(&mut self) {
        let why = self.process.status().last_error.unwrap_or_default();
        self.happened(Event::Said(Trouble::NoProgram(why)));
    }

    fn read(&mut self, line: &str) {
        let line = Line::parse(line);
        self.log(&line);
        if let Some(living) = self.living.as_mut().filter(|_| !line.is_json && !line.text.trim().is_empty()) {
            living.last_words = Some(line.text.clone());
        }
        match line.sign() {
            Some(Sign::Connections) => self.look = Instant::now(),
            // It says so of every end, those that were asked for too.
            Some(Sign::Trouble(_)) if self.living.as_ref().is_some_and(|living| living.dismissed) => {}
            Some(Sign::Trouble(trouble)) => self.happened(Event::Said(trouble)),
            None => {}
        }
    }

    fn log(&mut self, line: &Line) {
        let Some(hidden) = self.flood.admits(Instant::now()) else { return };
        if hidden > 0 {
            warn!("cloudflared: {hidden} more lines, which are in its own log");
        }
        let text = &line.text;
        match line.level {
            Level::ERROR => error!("cloudflared: {text}"),
            Level::WARN => warn!("cloudflared: {text}"),
            Level::INFO => info!("cloudflared: {text}"),
            _ => debug!("cloudflared: {text}"),
        }
    }

    /// Its exit is known before what it wrote has been read.
    async fn ended(&mut self) {
        let until = Instant::now() + LAST_OUTPUT;
        while let Ok(Some(line)) = timeout_at(until, self.lines.recv()).await {
            self.read(&line);
        }
        let Some(living) = self.living.take() else { return };
        let usage = timeout(LAST_OUTPUT, living.usage).await.ok().and_then(Result::ok).unwrap_or_default();
        self.asking = None;
        let trouble = match self.process.status().last_exit {
            Some(status) if !living.dismissed => {
                Some(why(status, &usage, living.last_words.as_deref(), living.has_answered))
            }
            _ => None,
        };
        self.happened(Event::Ended(trouble));
    }

    fn answered(&mut self, answer: Option<u32>) {
        self.asking = None;
        if let (Some(living), Some(_)) = (&mut self.living, answer) {
            living.has_answered = true;
        }
        self.happened(answer.map_or(Event::NoAnswer, Event::Answered));
        let pause = if self.readiness.is_connected() { self.pace.connected } else { self.pace.unconnected };
        self.look = Instant::now() + pause;
    }

    fn look(&mut self) {
        let now = Instant::now();
        self.glanced = now;
        if self.clocks.slept(Clocks::read()) {
            info!("the machine has slept: looking whether the tunnel still works");
            self.look = now;
        }
        if now < self.look {
            return;
        }
        self.look = now + self.pace.unconnected;
        match &self.living {
            Some(living) if self.asking.is_none() => self.asking = Some(Box::pin(ready::connections(living.metrics))),
            Some(_) => {}
            None => {
                let status = self.process.status();
                if status.state == State::Failed && status.since.elapsed() >= INSTALLED_MEANWHILE {
                    self.process.demand();
                }
            }
        }
    }

    /// Tells what has changed, and logs it once.
    fn tell(&mut self) {
        let state = self.readiness.state();
        let last_error = self.readiness.last_error();
        self.told.send_if_modified(|told| {
            let is_news = match (&told.state, &state) {
                // The network is not worth a line for each of four connections.
                (TunnelState::Connected { .. }, TunnelState::Connected { .. }) => false,
                (before, now) => before != now,
            };
            if is_news {
                log(&state);
            }
            let changed = told.state != state || told.last_error.as_deref() != last_error;
            if changed {
                told.state = state;
                told.last_error = last_error.map(str::to_owned);
            }
            changed
        });
    }
}

fn log(state: &TunnelState) {
    match state {
        TunnelState::Starting => info!("the tunnel is being opened"),
        TunnelState::Connected { .. } => info!("the tunnel is open"),
        TunnelState::Lost { .. } => warn!("the tunnel has lost its connections; cloudflared goes on trying"),
        TunnelState::Failed { why, fix } => error!(fix, "the tunnel does not work: {why}"),
    }
}

async fn exit(living: Option<&mut Living>) {
    match living {
        // A dropped sender means the same.
        Some(living) => drop(living.exited.wait_for(|exited| *exited).await),
        None => pending().await,
    }
}

async fn answer(asking: Option<&mut Pin<Box<dyn Future<Output = Option<u32>> + Send>>>) -> Option<u32> {
    match asking {
        Some(asking) => asking.await,
        None => pending().await,
    }
}

/// Why it has exited, as far as its status and its last words tell.
fn why(status: ExitStatus, usage: &str, last_words: Option<&str>, has_answered: bool) -> Trouble {
    let words = || last_words.map_or_else(|| status.to_string(), str::to_owned);
    match status.code() {
        // Nothing but its usage goes to its standard output.
        Some(0) if !usage.trim().is_empty() => {
            let first = usage.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
            Trouble::Usage(Line::parse(first.trim()).text)
        }
        Some(0) => Trouble::Ended("somebody else told it to".to_owned()),
        Some(255) => Trouble::NoTunnel(words()),
        Some(1) if last_words.is_some_and(|words| words.contains("initial tunnel connection failed")) => {
            Trouble::Unreachable(words())
        }
        Some(1) => match last_words {
            Some(words) if matches!(Line::parse(words).sign(), Some(Sign::Trouble(_))) => {
                Trouble::Ended(words.to_owned())
            }
            Some(words) if !has_answered => Trouble::Configuration(words.to_owned()),
            _ => Trouble::Ended(words()),
        },
        _ => Trouble::Ended(status.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn an_exit_is_read_with_what_was_said_before() {
        let code = |code: i32| ExitStatus::from_raw(code << 8);
        for (status, usage, last_words, has_answered, expected) in [
            (
                code(0),
                "Incorrect Usage. flag provided but not defined: -x\n\nNAME:",
                None,
                false,
                Trouble::Usage("Incorrect Usage. flag provided but not defined: -x".to_owned()),
            ),
            (code(0), "", None, true, Trouble::Ended("somebody else told it to".to_owned())),
            (code(255), "", Some("bad token"), false, Trouble::NoTunnel("bad token".to_owned())),
            (
                code(1),
                "",
                Some("initial tunnel connection failed"),
                true,
                Trouble::Unreachable("initial tunnel connection failed".to_owned()),
            ),
            (
                code(1),
                "",
                Some("yaml: line 3: mapping values"),
                false,
                Trouble::Configuration("yaml: line 3: mapping values".to_owned()),
            ),
            (code(1), "", None, false, Trouble::Ended("exit status: 1".to_owned())),
            (ExitStatus::from_raw(9), "", None, true, Trouble::Ended("signal: 9 (SIGKILL)".to_owned())),
        ] {
            assert_eq!(why(status, usage, last_words, has_answered), expected);
        }
    }
}
