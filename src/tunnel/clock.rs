//! Whether the machine has slept: the clock that counts sleep runs ahead of the one that does not. The wall clock would
//! take a correction of the time for sleep.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// Less than this is two clocks read one after the other on a busy machine.
const NOTICEABLE: Duration = Duration::from_secs(2);

#[cfg(target_os = "macos")]
const COUNTS_SLEEP: ClockId = ClockId::CLOCK_MONOTONIC;
#[cfg(not(target_os = "macos"))]
const COUNTS_SLEEP: ClockId = ClockId::CLOCK_BOOTTIME;

/// Both clocks, as they were at the last look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clocks {
    awake: Instant,
    all: Duration,
}

impl Clocks {
    pub(super) fn read() -> Self {
        // A system without that clock never sleeps, as far as ferry can tell.
        let all = clock_gettime(COUNTS_SLEEP).map(Duration::from).unwrap_or_default();
        Self { awake: Instant::now(), all }
    }

    /// Whether the machine slept between the last look and `now`, which becomes the last look.
    pub(super) fn slept(&mut self, now: Self) -> bool {
        let before = std::mem::replace(self, now);
        let awake = now.awake.saturating_duration_since(before.awake);
        now.all.saturating_sub(before.all).saturating_sub(awake) >= NOTICEABLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_clock_that_counts_sleep_tells_of_it() {
        let start = Clocks::read();
        let after = |awake: u64, all: u64| Clocks {
            awake: start.awake + Duration::from_secs(awake),
            all: start.all + Duration::from_secs(all),
        };
        for (awake, all, slept) in [(0, 0, false), (3600, 3600, false), (10, 11, false), (1, 3600, true)] {
            assert_eq!({ start }.slept(after(awake, all)), slept, "{awake} {all}");
        }
        let mut clocks = start;
        assert!(clocks.slept(after(1, 100)));
        assert!(!clocks.slept(after(2, 101)), "each sleep is told once");
    }

    #[test]
    fn a_machine_that_runs_this_test_is_awake() {
        let mut clocks = Clocks::read();
        assert!(clocks.all > Duration::ZERO);
        assert!(!clocks.slept(Clocks::read()));
    }
}
