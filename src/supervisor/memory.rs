//! How much memory the processes take.

use std::collections::BTreeMap;

use super::platform;

/// Bytes that each process group has in memory, by the pid of its leader. What processes share counts for each of them.
///
/// Looks at every process of the system: not for the runtime's threads.
pub fn memory_by_group() -> BTreeMap<i32, u64> {
    let mut groups = BTreeMap::new();
    for (pid, identity) in platform::living() {
        *groups.entry(identity.group.as_raw()).or_default() += platform::resident(pid).unwrap_or(0);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_some_memory_and_not_all_of_it() {
        let bytes = memory_by_group()[&nix::unistd::getpgrp().as_raw()];
        assert!((1 << 20..1 << 36).contains(&bytes), "{bytes}");
    }
}
