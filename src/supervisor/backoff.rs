//! How long to wait before the next try: attempt and uptime → delay.

use std::time::Duration;

/// The first delay; each further one is twice as long.
const FIRST: Duration = Duration::from_millis(500);
/// No delay is longer.
const LONGEST: Duration = Duration::from_secs(30);
/// A process that was ready for this long starts from the beginning when it fails again.
const HEALTHY: Duration = Duration::from_mins(1);
/// Jitter takes away up to this part of a delay, so that what failed together does not come back together.
const JITTER: f64 = 0.25;
/// So many times in a row a process may be started anew at once, before it has become ready.
const AT_ONCE: u32 = 3;

/// One process's record of failures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    failures: u32,
    hurried: bool,
    at_once: u32,
}

impl Backoff {
    /// The delay after one more failure of a process that had been ready for `healthy` (zero: never was).
    /// `random` is somewhere in 0..1.
    pub(super) fn failed(&mut self, healthy: Duration, random: f64) -> Duration {
        if healthy >= HEALTHY {
            *self = Self::default();
        }
        let full = FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(1.0 - JITTER * random.clamp(0.0, 1.0))
    }

    /// Whether a request may cut the present wait short. Once per wait: a client that asks ten times a second must not
    /// start a broken program ten times a second.
    pub(super) fn may_hurry(&mut self) -> bool {
        !std::mem::replace(&mut self.hurried, true)
    }

    /// A wait has passed in full, so the next one may be cut short again.
    pub(super) fn waited(&mut self) {
        self.hurried = false;
    }

    /// Whether a process that asks to be started anew without delay may be. It may not go on like that for ever.
    pub(super) fn may_start_at_once(&mut self) -> bool {
        self.at_once = self.at_once.saturating_add(1);
        self.at_once <= AT_ONCE
    }

    /// The process became ready. Its failures are forgotten only after a minute of this.
    pub(super) fn became_ready(&mut self) {
        self.at_once = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER_READY: Duration = Duration::ZERO;

    #[test]
    fn delays_double_from_half_a_second_to_thirty() {
        let mut backoff = Backoff::default();
        let delays: Vec<f64> = (0..9).map(|_| backoff.failed(NEVER_READY, 0.0).as_secs_f64()).collect();
        assert_eq!(delays, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]);
        for _ in 0..100 {
            backoff.failed(NEVER_READY, 0.0); // no overflow
        }
        assert_eq!(backoff.failed(NEVER_READY, 0.0), LONGEST);
    }

    #[test]
    fn jitter_takes_away_a_quarter_at_most() {
        assert_eq!(Backoff::default().failed(NEVER_READY, 1.0), FIRST.mul_f64(0.75));
        assert_eq!(Backoff::default().failed(NEVER_READY, 7.0), FIRST.mul_f64(0.75));
    }

    #[test]
    fn only_a_minute_of_health_forgets_the_failures() {
        let mut backoff = Backoff::default();
        backoff.failed(NEVER_READY, 0.0);
        assert_eq!(backoff.failed(Duration::from_secs(59), 0.0), 2 * FIRST);
        assert_eq!(backoff.failed(HEALTHY, 0.0), FIRST);
    }

    #[test]
    fn a_wait_is_cut_short_once() {
        let mut backoff = Backoff::default();
        assert!(backoff.may_hurry());
        assert!(!backoff.may_hurry());
        backoff.failed(NEVER_READY, 0.0); // the hurried try failed
        assert!(!backoff.may_hurry());
        backoff.waited();
        assert!(backoff.may_hurry());
    }

    #[test]
    fn starting_at_once_has_an_end_until_it_becomes_ready() {
        let mut backoff = Backoff::default();
        assert_eq!([(); 4].map(|()| backoff.may_start_at_once()), [true, true, true, false]);
        backoff.became_ready();
        assert!(backoff.may_start_at_once());
    }
}
