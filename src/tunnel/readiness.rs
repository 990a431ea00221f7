//! Whether the tunnel works: what was seen of cloudflared → a state, and whether to start it anew. Pure.
//!
//! ```text
//! Starting ──connections──► Connected ──none left──► Lost
//!    │                          ▲  ▲                  │
//!    └──it says what is wrong──►│  └───connections────┤
//!                            Failed ◄──somebody must do something
//! ```
//!
//! cloudflared goes on trying by itself in every state, and is started anew when that led to nothing for too long.

use std::time::Duration;

use tokio::time::Instant;

use super::Trouble;
use super::trouble::Weight;

/// Whether the tunnel works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelState {
    /// cloudflared is on its way.
    Starting,
    /// Requests come through.
    Connected {
        /// How many connections to Cloudflare there are: four, usually.
        connections: u32,
        /// Since when there was always one.
        since: Instant,
    },
    /// It had worked, and does not now; it comes back by itself when the network does.
    Lost {
        /// Since when.
        since: Instant,
    },
    /// It does not work, and this is why. It is tried again all the same.
    Failed {
        /// What is wrong.
        why: String,
        /// One next action.
        fix: String,
    },
}

/// What was seen of cloudflared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// It was started.
    Started,
    /// It told how many connections it has.
    Answered(u32),
    /// It did not answer.
    NoAnswer,
    /// It, or whoever prepares it, said what is wrong.
    Said(Trouble),
    /// It has exited. Why, if that is known.
    Ended(Option<Trouble>),
}

/// The one thing to do about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Action {
    Nothing,
    /// It works: its supervisor is to know.
    TellReady,
    /// It had no connection for too long.
    StartAnew,
}

/// What is known.
#[derive(Debug, Clone)]
pub(super) struct Readiness {
    patience: Duration,
    connections: Option<(u32, Instant)>,
    /// Since when there is no connection, if there ever was one.
    lost: Option<Instant>,
    /// Since when the present cloudflared has had none.
    alone: Option<Instant>,
    /// What stands in the way, and whether the present cloudflared has said it.
    trouble: Option<(Trouble, bool)>,
    last_error: Option<String>,
}

impl Readiness {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, connections: None, lost: None, alone: None, trouble: None, last_error: None }
    }

    pub(super) fn state(&self) -> TunnelState {
        match (&self.connections, &self.trouble, self.lost) {
            (Some((connections, since)), ..) => TunnelState::Connected { connections: *connections, since: *since },
            // A network that is gone is no failure of the tunnel's: it has worked, and will again.
            (None, Some((trouble, _)), lost) if lost.is_none() || trouble.weight() == Weight::Lasting => {
                TunnelState::Failed { why: trouble.to_string(), fix: trouble.fix() }
            }
            (None, _, Some(since)) => TunnelState::Lost { since },
            (None, _, None) => TunnelState::Starting,
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connections.is_some()
    }

    pub(super) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    pub(super) fn on(&mut self, event: Event, now: Instant) -> Action {
        match event {
            Event::Started => {
                self.no_connection(now);
                self.alone = Some(now);
                self.trouble.take_if(|(trouble, _)| trouble.is_over_at_start());
                if let Some((_, current)) = &mut self.trouble {
                    *current = false;
                }
                Action::Nothing
            }
            Event::Answered(0) | Event::NoAnswer => {
                self.no_connection(now);
                match self.alone {
                    Some(since) if now.saturating_duration_since(since) >= self.patience => {
                        // Once; its exit and the next start follow.
                        self.alone = None;
                        self.last_error = Some(format!("no connection for {} s", self.patience.as_secs_f32()));
                        Action::StartAnew
                    }
                    _ => Action::Nothing,
                }
            }
            Event::Answered(connections) => {
                let since = self.connections.map_or(now, |(_, since)| since);
                let first = self.connections.replace((connections, since)).is_none();
                self.alone = None;
                self.lost = None;
                self.trouble = None;
                if first { Action::TellReady } else { Action::Nothing }
            }
            Event::Said(trouble) => {
                self.note(trouble);
                Action::Nothing
            }
            Event::Ended(trouble) => {
                self.no_connection(now);
                self.alone = None;
                if let Some(trouble) = trouble {
                    self.note(trouble);
                }
                Action::Nothing
            }
        }
    }

    fn no_connection(&mut self, now: Instant) {
        if self.connections.take().is_some() {
            self.lost = Some(now);
            self.alone = Some(now);
        }
    }

    fn note(&mut self, trouble: Trouble) {
        self.last_error = Some(trouble.to_string());
        // One of four connections may be in trouble, and the first attempt with a port says nothing.
        if self.is_connected() || trouble.weight() == Weight::Passing {
            return;
        }
        let outweighed = matches!(&self.trouble, Some((known, true)) if known.weight() > trouble.weight());
        if !outweighed {
            self.trouble = Some((trouble, true));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_mins(2);

    /// What a series of events, one a second, leads to: the state in a word, and what was done.
    fn after(events: &[Event]) -> (String, Vec<Action>) {
        let mut readiness = Readiness::new(PATIENCE);
        let mut now = Instant::now();
        let mut actions = Vec::new();
        for event in events {
            now += Duration::from_secs(1);
            match readiness.on(event.clone(), now) {
                Action::Nothing => {}
                action => actions.push(action),
            }
        }
        let ago = |since: Instant| now.duration_since(since).as_secs();
        let word = match readiness.state() {
            TunnelState::Starting => "starting".to_owned(),
            TunnelState::Connected { connections, since } => format!("{connections} for {}", ago(since)),
            TunnelState::Lost { since } => format!("lost for {}", ago(since)),
            TunnelState::Failed { why, fix } => {
                assert!(!fix.is_empty());
                format!("failed: {why}")
            }
        };
        (word, actions)
    }

    fn refused() -> Event {
        Event::Said(Trouble::Refused("x".to_owned()))
    }

    fn dns() -> Event {
        Event::Said(Trouble::Dns("x".to_owned()))
    }

    fn ended() -> Event {
        Event::Ended(Some(Trouble::Ended("x".to_owned())))
    }

    #[test]
    fn the_state_follows_what_was_seen() {
        use Event::{Answered, Ended, NoAnswer, Said, Started};
        let refused_text = "failed: Cloudflare refuses the tunnel: x";
        for (events, state) in [
            (vec![], "starting"),
            (vec![Started, NoAnswer, Answered(0)], "starting"),
            (vec![Started, Answered(1), Answered(4), Answered(4)], "4 for 2"),
            (vec![Started, Answered(4), Answered(3)], "3 for 1"),
            (vec![Started, Answered(4), Answered(0), NoAnswer], "lost for 1"),
            (vec![Started, Answered(4), Answered(0), Answered(2)], "2 for 0"),
            // Its exit, and its next start, are part of being lost.
            (vec![Started, Answered(4), ended(), Started, NoAnswer], "lost for 2"),
            (vec![Started, Answered(4), ended(), Started, Answered(1), ended()], "lost for 0"),
            // Trouble with one of several connections is not the tunnel's.
            (vec![Started, Answered(3), refused(), dns()], "3 for 2"),
            (vec![Started, refused()], refused_text),
            (vec![Started, refused(), Answered(1)], "1 for 0"),
            // What somebody must do is said even if it has worked before; that the network is gone is not news then.
            (vec![Started, Answered(1), Answered(0), refused()], refused_text),
            (vec![Started, Answered(1), Answered(0), dns()], "lost for 1"),
            (vec![Started, dns()], "failed: the names of Cloudflare's servers cannot be looked up: x"),
            // The reason outweighs what follows from it.
            (vec![Started, refused(), dns(), ended()], refused_text),
            (vec![Started, ended(), dns()], "failed: the names of Cloudflare's servers cannot be looked up: x"),
            // What the one before said holds until this one says something.
            (vec![Started, refused(), ended(), Started], refused_text),
            (
                vec![Started, refused(), Ended(None), Started, dns()],
                "failed: the names of Cloudflare's servers cannot be looked up: x",
            ),
            (vec![Said(Trouble::NoProgram("x".to_owned()))], "failed: cloudflared cannot be run: x"),
            (vec![Said(Trouble::NoProgram("x".to_owned())), Started], "starting"),
            (vec![Started, Said(Trouble::PortTaken), Ended(None)], "starting"),
        ] {
            assert_eq!(after(&events).0, state, "{events:?}");
        }
    }

    #[test]
    fn it_is_started_anew_after_two_minutes_without_a_connection_and_never_sooner() {
        use Event::{Answered, Ended, NoAnswer, Started};
        let alone = |seconds: usize| vec![NoAnswer; seconds];
        for (events, anew) in [
            ([vec![Started], alone(119)].concat(), 0),
            ([vec![Started], alone(120)].concat(), 1),
            ([vec![Started], alone(500)].concat(), 1), // once, until it has been
            ([vec![Started, Answered(1)], alone(120)].concat(), 0),
            ([vec![Started, Answered(1)], alone(121)].concat(), 1),
            // For hours: again and again.
            ([vec![Started], alone(120), vec![Ended(None), Started], alone(120)].concat(), 2),
            // One that is not there cannot be started anew.
            ([vec![Started, Ended(None)], alone(500)].concat(), 0),
            (vec![Event::Answered(1); 500], 0),
        ] {
            let anews = after(&events).1.into_iter().filter(|action| *action == Action::StartAnew).count();
            assert_eq!(anews, anew, "{} events", events.len());
        }
    }

    #[test]
    fn the_last_error_outlives_it() {
        let mut readiness = Readiness::new(PATIENCE);
        let now = Instant::now();
        for event in [Event::Started, refused(), Event::Answered(4)] {
            let _ = readiness.on(event, now);
        }
        assert_eq!(readiness.last_error(), Some("Cloudflare refuses the tunnel: x"));
    }
}
