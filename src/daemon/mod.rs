//! What `run` and `try` start: one loop that turns signals and progress into events for [`lifecycle`] and does what it
//! says. The one room that introduces the others to each other.
//!
//! [`configured`] makes of a file what [`assemble`] puts together: listeners, and `servers`, each a `pool` of processes
//! and an endpoint of the bridge, and a [`tunnel`]. While it runs, [`reload`] exchanges some of these for others, asked by a signal or over
//! the socket of [`control`]; [`status`], `health` and `metrics` tell how it is, worked out when somebody asks.

pub mod assemble;
pub mod configured;
pub mod control;
mod health;
pub mod key;
mod last_words;
pub mod lifecycle;
mod metrics;
mod pool;
pub mod reload;
mod servers;
pub mod status;
pub mod tunnel;
pub mod variables;

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;

use tokio::task::spawn_blocking;
use tokio::time::timeout_at;
use tracing::info;

use crate::error::Exit;
use crate::supervisor::signals::{Asked, Signals};
use crate::supervisor::{Settings, Signal, Stopping, Supervisor, SupervisorError};
use lifecycle::{Action, Event, Stage};

/// How long the answers to calls that were cut have to reach their clients.
const LAST_ANSWERS: std::time::Duration = std::time::Duration::from_millis(300);

/// What the loop needs of whatever is being served.
pub trait Serving: Send + Sync + 'static {
    /// Nothing new from now on: listeners closed, standing streams ended, idle children told to stop.
    fn stop_accepting(&self) {}

    /// Resolves when nothing is in flight any more.
    fn drained(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Resolves when every answer has been written.
    fn closed(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Reads its configuration again.
    fn reload(&self) {}

    /// Resolves if it cannot go on.
    fn failed(&self) -> impl Future<Output = Exit> + Send {
        pending()
    }
}

/// Runs until ferry is done: from the lock to the exit code.
///
/// `signals` were listened for before anything was started. `serve` begins whatever is being served,
/// once the supervisor runs; if it cannot, it says so itself and the stop begins.
pub async fn run<S: Serving>(
    settings: Settings,
    mut signals: Signals,
    serve: impl FnOnce(&Supervisor) -> Result<S, Exit>,
) -> Result<Exit, SupervisorError> {
    let mut stage = Stage::Starting;
    // On a thread that may wait: ending leftovers takes up to three seconds.
    let mut start = spawn_blocking(move || Supervisor::start(settings));
    let supervisor = loop {
        let event = tokio::select! {
            asked = signals.recv() => match asked {
                Asked::Stop => Event::StopAsked,
                Asked::StopNow => Event::StopNowAsked,
                Asked::Freeze => {
                    signals.stand_still();
                    continue;
                }
                Asked::Reload | Asked::Forward(_) | Asked::Thaw => continue,
            },
            started = &mut start => match started {
                Ok(started) => break started?,
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            },
        };
        stage = stage.on(event).0;
        if let Stage::Done(exit) = stage {
            return Ok(exit);
        }
    };
    let mut life =
        Life { supervisor, stage, serving: None, stopping: None, ending: false, progress: Box::pin(pending()) };
    life.happened(Event::Started, Some(serve));
    loop {
        let event = tokio::select! {
            asked = signals.recv() => life.asked(asked, &signals).await,
            event = &mut life.progress => Some(event),
        };
        if let Some(event) = event {
            life.happened(event, None::<fn(&Supervisor) -> Result<S, Exit>>);
        }
        if let Stage::Done(exit) = life.stage {
            return Ok(exit);
        }
    }
}

struct Life<S> {
    supervisor: Supervisor,
    stage: Stage,
    serving: Option<Arc<S>>,
    stopping: Option<Stopping>,
    ending: bool,
    /// What the present stage waits for.
    progress: Pin<Box<dyn Future<Output = Event> + Send>>,
}

impl<S: Serving> Life<S> {
    async fn asked(&mut self, asked: Asked, signals: &Signals) -> Option<Event> {
        match asked {
            Asked::Stop => return Some(Event::StopAsked),
            Asked::StopNow => return Some(Event::StopNowAsked),
            Asked::Reload => {
                if let Some(serving) = &self.serving {
                    serving.reload();
                }
                self.supervisor.forward(Signal::SIGHUP);
            }
            Asked::Forward(signal) => self.supervisor.forward(signal),
            Asked::Freeze => {
                self.supervisor.freeze().await;
                signals.stand_still();
            }
            Asked::Thaw => self.supervisor.thaw(),
        }
        None
    }

    fn happened(&mut self, event: Event, serve: Option<impl FnOnce(&Supervisor) -> Result<S, Exit>>) {
        let (stage, action) = self.stage.on(event);
        if stage != self.stage {
            info!("{}", stage.word());
        }
        self.stage = stage;
        match action {
            Action::Nothing | Action::Leave => {}
            Action::Serve => self.serve(serve),
            Action::Drain => self.drain(),
            Action::Stop => self.stop(),
            Action::Kill => {
                self.supervisor.kill_now();
                self.stop();
            }
        }
    }

    fn serve(&mut self, serve: Option<impl FnOnce(&Supervisor) -> Result<S, Exit>>) {
        let Some(serve) = serve else { return };
        self.progress = match serve(&self.supervisor) {
            Ok(serving) => {
                let serving = Arc::new(serving);
                self.serving = Some(Arc::clone(&serving));
                Box::pin(async move { Event::Failed(serving.failed().await) })
            }
            Err(exit) => Box::pin(async move { Event::Failed(exit) }),
        };
    }

    fn drain(&mut self) {
        let stopping = self.supervisor.begin_stop();
        let until = stopping.drain_until();
        self.stopping = Some(stopping);
        let serving = self.serving.clone();
        if let Some(serving) = &serving {
            serving.stop_accepting();
        }
        self.progress = Box::pin(async move {
            if let Some(serving) = serving {
                let _ = timeout_at(until, serving.drained()).await;
            }
            Event::Drained
        });
    }

    /// Begins to end the processes, once: a second request changes how they end, not that their ends are waited for.
    fn stop(&mut self) {
        if std::mem::replace(&mut self.ending, true) {
            return;
        }
        let stopping = self.stopping.take().unwrap_or_else(|| self.supervisor.begin_stop());
        let serving = self.serving.clone();
        if let Some(serving) = &serving {
            serving.stop_accepting();
        }
        self.progress = Box::pin(async move {
            // What is left it has said itself, and the guard goes on with it.
            let _ = stopping.finish().await;
            if let Some(serving) = serving {
                // The last answers: those of calls that the end of their server has ended.
                let _ = tokio::time::timeout(LAST_ANSWERS, serving.closed()).await;
            }
            Event::Stopped
        });
    }
}
