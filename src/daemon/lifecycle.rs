//! starting → serving → draining → stopping → done, as a pure state machine. It picks the exit code.

use crate::error::Exit;

/// Where ferry is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Takes its lock, ends leftovers, starts its helpers.
    Starting,
    /// The same, and asked to stop: what has begun is completed first, so that it can be undone.
    StartingToStop,
    /// Does what it is there for.
    Serving,
    /// Takes nothing new; what is in flight may finish.
    Draining(Exit),
    /// Ends its processes.
    Stopping(Exit),
    /// Is about to leave with this code.
    Done(Exit),
}

/// What may happen to ferry as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It has everything it needs to serve.
    Started,
    /// It has not, and never will.
    StartFailed(Exit),
    /// What it serves cannot go on.
    Failed(Exit),
    /// Somebody asks it to stop.
    StopAsked,
    /// Somebody asks it to stop at once.
    StopNowAsked,
    /// Nothing is in flight any more, or the time for that is over.
    Drained,
    /// No process is left, or the time for that is over.
    Stopped,
}

/// The one thing to do about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Begin to serve.
    Serve,
    /// Take nothing new and wait for what is in flight.
    Drain,
    /// End the processes.
    Stop,
    /// End the processes by SIGKILL.
    Kill,
    /// Leave.
    Leave,
}

impl Stage {
    /// The next stage, and the one thing to do about it.
    #[expect(clippy::match_same_arms, reason = "grouped by stage")]
    pub fn on(self, event: Event) -> (Self, Action) {
        use Action::{Drain, Kill, Leave, Nothing, Serve, Stop};
        use Event::{Drained, Failed, StartFailed, Started, StopAsked, StopNowAsked, Stopped};
        use Stage::{Done, Draining, Serving, Starting, StartingToStop, Stopping};

        match (self, event) {
            (Starting, Started) => (Serving, Serve),
            (Starting, StopAsked) => (StartingToStop, Nothing),
            (StartingToStop, Started) => (Stopping(Exit::Stopped), Stop),
            (Starting | StartingToStop, StartFailed(exit)) => (Done(exit), Leave),
            // Nothing was started that could be left behind.
            (Starting | StartingToStop, StopNowAsked) => (Done(Exit::Stopped), Leave),

            (Serving, StopAsked) => (Draining(Exit::Stopped), Drain),
            (Serving, Failed(exit)) => (Draining(exit), Drain),
            (Serving, StopNowAsked) => (Stopping(Exit::Stopped), Kill),
            (Draining(exit), Drained) => (Stopping(exit), Stop),
            (Draining(exit) | Stopping(exit), StopNowAsked) => (Stopping(exit), Kill),
            (Stopping(exit), Stopped) => (Done(exit), Leave),

            (Starting | StartingToStop, Failed(_) | Drained | Stopped)
            | (StartingToStop, StopAsked)
            | (Serving, Started | StartFailed(_) | Drained | Stopped)
            | (Draining(_), Started | StartFailed(_) | Failed(_) | StopAsked | Stopped)
            | (Stopping(_), Started | StartFailed(_) | Failed(_) | StopAsked | Drained)
            | (Done(_), Started | StartFailed(_) | Failed(_) | StopAsked | StopNowAsked | Drained | Stopped) => {
                (self, Nothing)
            }
        }
    }

    /// One word for the log.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting | Self::StartingToStop => "starting",
            Self::Serving => "serving",
            Self::Draining(_) => "draining",
            Self::Stopping(_) => "stopping",
            Self::Done(_) => "done",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGES: [Stage; 6] = [
        Stage::Starting,
        Stage::StartingToStop,
        Stage::Serving,
        Stage::Draining(Exit::Stopped),
        Stage::Stopping(Exit::Failed),
        Stage::Done(Exit::Stopped),
    ];

    #[test]
    fn ferry_moves_as_the_table_says() {
        use Exit::{AlreadyRunning, Failed as Broken, Stopped as Fine};
        for (in_, happens, becomes, does) in [
            (Stage::Starting, Event::Started, Stage::Serving, Action::Serve),
            (Stage::Starting, Event::StartFailed(AlreadyRunning), Stage::Done(AlreadyRunning), Action::Leave),
            (Stage::Starting, Event::StopAsked, Stage::StartingToStop, Action::Nothing),
            (Stage::StartingToStop, Event::Started, Stage::Stopping(Fine), Action::Stop),
            (Stage::StartingToStop, Event::StopNowAsked, Stage::Done(Fine), Action::Leave),
            (Stage::Serving, Event::StopAsked, Stage::Draining(Fine), Action::Drain),
            (Stage::Serving, Event::Failed(Broken), Stage::Draining(Broken), Action::Drain),
            (Stage::Draining(Fine), Event::Drained, Stage::Stopping(Fine), Action::Stop),
            (Stage::Draining(Fine), Event::StopNowAsked, Stage::Stopping(Fine), Action::Kill),
            (Stage::Stopping(Broken), Event::StopNowAsked, Stage::Stopping(Broken), Action::Kill),
            (Stage::Stopping(Broken), Event::Stopped, Stage::Done(Broken), Action::Leave),
        ] {
            assert_eq!(in_.on(happens), (becomes, does), "{in_:?} on {happens:?}");
        }
    }

    #[test]
    fn from_every_stage_two_requests_and_the_last_exit_lead_out() {
        for start in STAGES {
            let story = [Event::StopAsked, Event::StopNowAsked, Event::Stopped];
            let end = story.into_iter().fold(start, |stage, event| stage.on(event).0);
            assert!(matches!(end, Stage::Done(_)), "from {start:?}");
        }
    }
}
