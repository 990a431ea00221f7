//! The process table, as the system shows it. No test asks ferry how its children are.
#![allow(dead_code, reason = "each test binary uses its share")]

pub(crate) mod examples;
pub(crate) mod fake_cloudflared;

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// Turns a hang into a failure; far longer than anything takes.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// How often a fact is looked at.
pub(crate) const GLANCE: Duration = Duration::from_millis(10);

/// Waits until something is so.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(GLANCE);
    }
}

/// Waits until something is there.
#[track_caller]
pub(crate) fn until_some<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    until(what, || {
        found = get();
        found.is_some()
    });
    found.unwrap()
}

pub(crate) fn pid(number: i32) -> Pid {
    assert!(number > 1, "{number} is no child's pid");
    Pid::from_raw(number)
}

/// Whether a process lives. A zombie does not; that it is reaped is another matter.
#[cfg(target_os = "linux")]
pub(crate) fn is_running(number: i32) -> bool {
    stat(number).is_some_and(|stat| stat.state != 'Z' && stat.state != 'X')
}

/// Whether a process lives.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_running(number: i32) -> bool {
    kill(pid(number), None) != Err(Errno::ESRCH)
}

/// Whether anything of a group lives.
#[cfg(target_os = "linux")]
pub(crate) fn group_is_running(group: i32) -> bool {
    all().iter().any(|stat| stat.group == group && stat.state != 'Z' && stat.state != 'X')
}

/// Whether anything of a group lives.
#[cfg(not(target_os = "linux"))]
pub(crate) fn group_is_running(group: i32) -> bool {
    !matches!(killpg(pid(group), None), Err(Errno::ESRCH | Errno::EPERM))
}

pub(crate) fn send(number: i32, signal: Signal) {
    kill(pid(number), signal).unwrap();
}

/// Ends a group when a test is over, however it ends.
pub(crate) struct EndGroup(pub(crate) i32);

impl Drop for EndGroup {
    fn drop(&mut self) {
        let _: Result<(), Errno> = killpg(pid(self.0), Signal::SIGKILL);
    }
}

#[cfg(target_os = "linux")]
pub(crate) use linux::*;

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;
    use std::fs;

    /// One line of the process table.
    #[derive(Debug, Clone)]
    pub(crate) struct Stat {
        pub(crate) pid: i32,
        pub(crate) name: String,
        pub(crate) state: char,
        pub(crate) parent: i32,
        pub(crate) group: i32,
        pub(crate) session: i32,
        pub(crate) terminal: i32,
    }

    pub(crate) fn stat(pid: i32) -> Option<Stat> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, fields) = text.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        let state = fields.next()?.chars().next()?;
        let mut number = || fields.next()?.parse().ok();
        Some(Stat {
            pid,
            name: name.split_once('(')?.1.to_owned(),
            state,
            parent: number()?,
            group: number()?,
            session: number()?,
            terminal: number()?,
        })
    }

    pub(crate) fn all() -> Vec<Stat> {
        let entries = fs::read_dir("/proc").unwrap();
        entries.filter_map(|entry| stat(entry.ok()?.file_name().to_str()?.parse().ok()?)).collect()
    }

    pub(crate) fn children_of(parent: i32) -> Vec<Stat> {
        all().into_iter().filter(|stat| stat.parent == parent).collect()
    }

    /// `/proc/PID/status` by field.
    pub(crate) fn status(pid: i32) -> BTreeMap<String, String> {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
    }

    /// `/proc/PID/limits`: soft and hard, as they stand there.
    pub(crate) fn descriptor_limit(pid: i32) -> (String, String) {
        let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let mut words = line.split_whitespace().skip(3);
        (words.next().unwrap().to_owned(), words.next().unwrap().to_owned())
    }

    pub(crate) fn descriptors(pid: i32) -> Vec<String> {
        let mut numbers: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        numbers.sort();
        numbers
    }
}
