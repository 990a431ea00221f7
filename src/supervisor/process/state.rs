//! One process's life as a pure function: what happened in which state leads where, and to which one deed.
//!
//! ```text
//! Resting ─demand─► Starting ─handshake─► Ready
//!    ▲                 │  ▲                 │      end asked: Closing ─5 s─► Stopping ─5 s─► Killing
//!    │                 ▼  │                 ▼                    └───────────┬──┴───────────────┘
//!    │              BackingOff ◄──────── exited                          exited
//!    │                                      │                               │
//!    └──── group empty ◄──── Draining ─250 ms─► Clearing ─2 s─► Wiping ◄────┘
//! ```
//!
//! The lower row is the rest of the group after its leader: a new generation starts only when it is empty.

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// No process, and none wanted before somebody asks for one.
    Resting,
    /// Being started: from the spawn to the handshake's end.
    Starting,
    /// Its owner said that it works.
    Ready,
    /// No process; the next try has its time.
    BackingOff,
    /// No process: its command cannot be executed. Tried again on demand.
    Failed,
    /// Its stdin is closed; it has `stop_grace` to leave by itself.
    Closing(Then),
    /// Its group got the stop signal.
    Stopping(Then),
    /// Its group got SIGKILL. Only the leader's exit leads on.
    Killing(Then),
    /// The leader has exited; its last output is being read, which a surviving grandchild may hold open.
    Draining(Then),
    /// The leader has exited; the rest of its group was told to end.
    Clearing(Then),
    /// The leader has exited; the rest of its group got SIGKILL.
    Wiping(Then),
    /// Ended for good.
    Gone,
}

/// What follows the end that a stopping process still owes us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Then {
    /// Wait, then start anew.
    Retry,
    /// Start anew at once.
    Respawn,
    /// Nothing, until somebody asks.
    Rest,
    /// Nothing ever again.
    Gone,
}

/// How an end begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::supervisor) enum Manner {
    /// By closing stdin, as the MCP specification has it.
    Close,
    /// By the stop signal.
    Terminate,
    /// By SIGKILL.
    Kill,
}

/// What is left of a group when its leader has exited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nobody.
    None,
    /// Processes that the leader left behind.
    Some,
}

/// What may happen to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Somebody needs it now.
    Demanded,
    /// The handshake succeeded.
    BecameReady,
    /// Its owner says that it does not work: the handshake failed, or it no longer answers.
    Misbehaved(Then),
    /// Its command cannot be executed; trying again by itself would change nothing.
    Unrunnable,
    /// It could not be spawned this time (no memory, too many processes).
    SpawnFailed,
    /// The leader's status is in.
    Exited(Rest),
    /// Nothing of the group is left.
    Emptied,
    /// The time that the state has is over.
    DeadlinePassed,
    /// Somebody wants it ended.
    End(Manner, Then),
}

/// The one thing to do about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Action {
    Nothing,
    Spawn,
    /// Tell the owner of its stdin to close it.
    CloseStdin,
    /// The stop signal to the group, its stdin closed if it was not.
    Terminate,
    /// SIGKILL to the group.
    Kill,
}

impl Then {
    /// What counts when another end is asked for: the later request, but nothing takes back a final stop.
    fn or(self, later: Self) -> Self {
        if self == Self::Gone { self } else { later }
    }

    /// Where a process goes whose group is empty.
    fn settle(self) -> (State, Action) {
        match self {
            Self::Retry => (State::BackingOff, Action::Nothing),
            Self::Respawn => (State::Starting, Action::Spawn),
            Self::Rest => (State::Resting, Action::Nothing),
            Self::Gone => (State::Gone, Action::Nothing),
        }
    }
}

impl State {
    /// The next state, and the one thing to do about it. `task.rs` owns the process, the clock and the log.
    #[expect(clippy::match_same_arms, reason = "grouped by what happens, not by where it leads")]
    pub(super) fn on(self, event: Event) -> (Self, Action) {
        use Action::{CloseStdin, Kill, Nothing, Spawn, Terminate};
        use Event::{BecameReady, DeadlinePassed, Demanded, Emptied, End, Exited, Misbehaved, SpawnFailed, Unrunnable};
        use State::{
            BackingOff, Clearing, Closing, Draining, Failed, Gone, Killing, Ready, Resting, Starting, Stopping, Wiping,
        };

        match (self, event) {
            // Starting, and being up.
            (Resting | BackingOff | Failed, Demanded) | (BackingOff, DeadlinePassed) => (Starting, Spawn),
            (Starting, BecameReady) => (Ready, Nothing),
            (Starting, Unrunnable) => (Failed, Nothing),
            (Starting, SpawnFailed) => (BackingOff, Nothing),
            // A process that does not talk gains nothing from an end of input that it may not even read.
            (Starting, DeadlinePassed) => (Stopping(Then::Retry), Terminate),
            (Starting | Ready, Misbehaved(then)) => (Stopping(then), Terminate),

            // The leader leaves, asked or not.
            (Starting | Ready, Exited(Rest::None)) => Then::Retry.settle(),
            (Starting | Ready, Exited(Rest::Some)) => (Draining(Then::Retry), Nothing),
            (Closing(then) | Stopping(then) | Killing(then), Exited(Rest::None)) => then.settle(),
            (Closing(then), Exited(Rest::Some)) => (Draining(then), Nothing),
            (Stopping(then), Exited(Rest::Some)) => (Clearing(then), Nothing), // the group has its signal already
            (Killing(then), Exited(Rest::Some)) => (Wiping(then), Kill),
            (Draining(then) | Clearing(then) | Wiping(then), Emptied) => then.settle(),

            // Each rung of the ladder has its time. SIGKILL has none: what it does not end, nothing does.
            (Closing(then), DeadlinePassed) => (Stopping(then), Terminate),
            (Stopping(then), DeadlinePassed) => (Killing(then), Kill),
            (Draining(then), DeadlinePassed) => (Clearing(then), Terminate),
            (Clearing(then), DeadlinePassed) => (Wiping(then), Kill),

            // Being asked to end.
            (Resting | BackingOff | Failed, End(_, then)) => match then {
                Then::Retry => (self, Nothing),
                Then::Respawn | Then::Rest | Then::Gone => then.settle(),
            },
            (Starting | Ready, End(Manner::Close, then)) => (Closing(then), CloseStdin),
            (Starting | Ready, End(Manner::Terminate, then)) => (Stopping(then), Terminate),
            (Starting | Ready, End(Manner::Kill, then)) => (Killing(then), Kill),
            (Closing(then), End(Manner::Close, later)) => (Closing(then.or(later)), Nothing),
            (Closing(then), End(Manner::Terminate, later)) => (Stopping(then.or(later)), Terminate),
            (Stopping(then), End(Manner::Close | Manner::Terminate, later)) => (Stopping(then.or(later)), Nothing),
            (Closing(then) | Stopping(then), End(Manner::Kill, later)) => (Killing(then.or(later)), Kill),
            (Killing(then), End(_, later)) => (Killing(then.or(later)), Nothing),
            (Draining(then), End(Manner::Close, later)) => (Draining(then.or(later)), Nothing),
            (Draining(then), End(Manner::Terminate, later)) => (Clearing(then.or(later)), Terminate),
            (Clearing(then), End(Manner::Close | Manner::Terminate, later)) => (Clearing(then.or(later)), Nothing),
            (Draining(then) | Clearing(then), End(Manner::Kill, later)) => (Wiping(then.or(later)), Kill),
            (Wiping(then), End(_, later)) => (Wiping(then.or(later)), Nothing),

            // Needed again while it ends: the next one follows at once.
            (Closing(then), Demanded) => (Closing(then.or(Then::Respawn)), Nothing),
            (Stopping(then), Demanded) => (Stopping(then.or(Then::Respawn)), Nothing),
            (Killing(then), Demanded) => (Killing(then.or(Then::Respawn)), Nothing),
            (Draining(then), Demanded) => (Draining(then.or(Then::Respawn)), Nothing),
            (Clearing(then), Demanded) => (Clearing(then.or(Then::Respawn)), Nothing),
            (Wiping(then), Demanded) => (Wiping(then.or(Then::Respawn)), Nothing),

            // Spelled out instead of `_`: a new state or event does not compile until it has a place here.
            (Starting | Ready, Demanded | Emptied)
            | (Ready, BecameReady | Unrunnable | SpawnFailed | DeadlinePassed)
            | (Killing(_) | Wiping(_) | Resting | Failed, DeadlinePassed)
            | (
                Resting | BackingOff | Failed,
                BecameReady | Misbehaved(_) | Unrunnable | SpawnFailed | Exited(_) | Emptied,
            )
            | (
                Closing(_) | Stopping(_) | Killing(_),
                BecameReady | Misbehaved(_) | Unrunnable | SpawnFailed | Emptied,
            )
            | (
                Draining(_) | Clearing(_) | Wiping(_),
                BecameReady | Misbehaved(_) | Unrunnable | SpawnFailed | Exited(_),
            )
            | (
                Gone,
                Demanded | BecameReady | Misbehaved(_) | Unrunnable | SpawnFailed | Exited(_) | Emptied
                | DeadlinePassed | End(..),
            ) => (self, Nothing),
        }
    }

    /// Whether there is a process, or the rest of its group.
    pub fn has_process(self) -> bool {
        !matches!(self, Self::Resting | Self::BackingOff | Self::Failed | Self::Gone)
    }

    /// Whether a demand now would cut a back-off short.
    pub(super) fn owes_a_wait(self) -> bool {
        use State::{BackingOff, Clearing, Closing, Draining, Killing, Stopping, Wiping};
        match self {
            BackingOff => true,
            Closing(then) | Stopping(then) | Killing(then) | Draining(then) | Clearing(then) | Wiping(then) => {
                then == Then::Retry
            }
            Self::Resting | Self::Starting | Self::Ready | Self::Failed | Self::Gone => false,
        }
    }

    /// One word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Resting => "resting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::BackingOff => "backing off",
            Self::Failed => "failed",
            Self::Closing(_) | Self::Stopping(_) => "stopping",
            Self::Killing(_) | Self::Wiping(_) => "killing",
            Self::Draining(_) | Self::Clearing(_) => "clearing",
            Self::Gone => "gone",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Action::*;
    use super::Event::*;
    use super::Manner::*;
    use super::State::*;
    use super::Then::{Respawn, Retry};
    use super::*;

    const THENS: [Then; 4] = [Retry, Respawn, Then::Rest, Then::Gone];
    const MANNERS: [Manner; 3] = [Close, Manner::Terminate, Manner::Kill];

    fn states() -> Vec<State> {
        let ending: [fn(Then) -> State; 6] = [Closing, Stopping, Killing, Draining, Clearing, Wiping];
        let mut all = vec![Resting, Starting, Ready, BackingOff, Failed, State::Gone];
        all.extend(ending.into_iter().flat_map(|state| THENS.map(state)));
        all
    }

    fn events() -> Vec<Event> {
        let mut all = vec![Demanded, BecameReady, Unrunnable, SpawnFailed, Emptied, DeadlinePassed];
        all.extend([Exited(super::Rest::None), Exited(super::Rest::Some), Misbehaved(Retry), Misbehaved(Respawn)]);
        all.extend(MANNERS.into_iter().flat_map(|manner| THENS.map(|then| End(manner, then))));
        all
    }

    #[test]
    fn a_process_moves_as_the_table_says() {
        let nobody = super::Rest::None;
        let somebody = super::Rest::Some;
        for (while_, happens, becomes, does) in [
            (Resting, Demanded, Starting, Spawn),
            (Starting, BecameReady, Ready, Nothing),
            (Starting, Unrunnable, Failed, Nothing),
            (Starting, SpawnFailed, BackingOff, Nothing),
            (Starting, DeadlinePassed, Stopping(Retry), Action::Terminate),
            (Starting, Misbehaved(Respawn), Stopping(Respawn), Action::Terminate),
            (Starting, Exited(nobody), BackingOff, Nothing),
            (Ready, Exited(nobody), BackingOff, Nothing),
            (Ready, Exited(somebody), Draining(Retry), Nothing),
            (Ready, Misbehaved(Retry), Stopping(Retry), Action::Terminate),
            (Ready, DeadlinePassed, Ready, Nothing),
            (Ready, Demanded, Ready, Nothing),
            (Ready, End(Close, Then::Rest), Closing(Then::Rest), CloseStdin),
            (Ready, End(Manner::Terminate, Then::Gone), Stopping(Then::Gone), Action::Terminate),
            (Ready, End(Manner::Kill, Then::Gone), Killing(Then::Gone), Action::Kill),
            (BackingOff, DeadlinePassed, Starting, Spawn),
            (BackingOff, Demanded, Starting, Spawn),
            (BackingOff, End(Close, Respawn), Starting, Spawn),
            (BackingOff, End(Close, Then::Rest), Resting, Nothing),
            (BackingOff, End(Manner::Kill, Then::Gone), State::Gone, Nothing),
            (Failed, Demanded, Starting, Spawn),
            (Failed, DeadlinePassed, Failed, Nothing),
            (Closing(Then::Rest), DeadlinePassed, Stopping(Then::Rest), Action::Terminate),
            (Closing(Then::Rest), Exited(nobody), Resting, Nothing),
            (Closing(Then::Rest), Exited(somebody), Draining(Then::Rest), Nothing),
            (Closing(Then::Rest), Demanded, Closing(Respawn), Nothing), // idle, then needed
            (Closing(Then::Gone), Demanded, Closing(Then::Gone), Nothing), // a final stop is final
            (Stopping(Retry), End(Close, Then::Gone), Stopping(Then::Gone), Nothing), // being asked outranks retrying
            (Stopping(Then::Rest), Misbehaved(Retry), Stopping(Then::Rest), Nothing),
            (Stopping(Then::Gone), DeadlinePassed, Killing(Then::Gone), Action::Kill),
            (Stopping(Respawn), Exited(nobody), Starting, Spawn),
            (Stopping(Respawn), Exited(somebody), Clearing(Respawn), Nothing),
            (Killing(Then::Gone), Exited(somebody), Wiping(Then::Gone), Action::Kill),
            (Killing(Then::Gone), DeadlinePassed, Killing(Then::Gone), Nothing),
            (Draining(Retry), DeadlinePassed, Clearing(Retry), Action::Terminate),
            (Draining(Retry), Emptied, BackingOff, Nothing),
            (Clearing(Retry), DeadlinePassed, Wiping(Retry), Action::Kill),
            (Clearing(Retry), End(Manner::Kill, Then::Gone), Wiping(Then::Gone), Action::Kill),
            (Wiping(Respawn), Emptied, Starting, Spawn),
            (State::Gone, Demanded, State::Gone, Nothing),
        ] {
            assert_eq!(while_.on(happens), (becomes, does), "{while_:?} on {happens:?}");
        }
    }

    #[test]
    fn from_every_state_two_requests_an_exit_and_an_empty_group_end_in_gone() {
        for start in states() {
            let story = [End(Close, Then::Gone), End(Manner::Kill, Then::Gone), Exited(super::Rest::Some), Emptied];
            let end = story.into_iter().fold(start, |state, event| state.on(event).0);
            assert_eq!(end, State::Gone, "starting from {start:?}");
        }
    }

    #[test]
    fn deadlines_alone_lead_every_ending_state_to_a_kill() {
        for start in states() {
            let mut state = start;
            let mut killed = false;
            for _ in 0..4 {
                let (next, action) = state.on(DeadlinePassed);
                killed |= action == Action::Kill;
                state = next;
            }
            let ends_by_itself = matches!(start, Closing(_) | Stopping(_) | Draining(_) | Clearing(_));
            assert!(killed || !ends_by_itself, "{start:?} ends in {state:?}");
        }
    }

    #[test]
    fn a_process_is_spawned_only_where_there_is_none() {
        for state in states() {
            for event in events() {
                let (next, action) = state.on(event);
                if action == Spawn {
                    let emptied = matches!(event, Exited(super::Rest::None) | Emptied);
                    assert!(!state.has_process() || emptied, "{state:?} on {event:?}");
                    assert_eq!(next, Starting);
                }
            }
        }
    }

    #[test]
    fn a_final_stop_is_never_taken_back() {
        for start in states().into_iter().filter(|state| state.on(End(Close, Then::Gone)).0 == *state) {
            for event in events() {
                let (next, action) = start.on(event);
                assert_ne!(action, Spawn, "{start:?} on {event:?}");
                assert_eq!(next.on(End(Close, Then::Gone)).0, next, "{start:?} on {event:?}");
            }
        }
    }
}
