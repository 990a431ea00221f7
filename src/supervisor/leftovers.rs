//! What a killed ferry has left: written down while it runs, ended before the next one starts anything.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::{env, paths};

use super::{Role, platform};

const FILE: &str = "children.json";
/// How long leftovers have between SIGTERM and SIGKILL; the guard's time.
const GRACE: Duration = Duration::from_secs(2);
/// How long to wait for what SIGKILL was sent to.
const PERSISTENCE: Duration = Duration::from_secs(1);
const GLANCE: Duration = Duration::from_millis(20);

/// The groups of one run, on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Children {
    /// Pids and start times mean something until the next boot only.
    boot: String,
    /// The run's id, which every child has in its environment.
    run: String,
    groups: Vec<Recorded>,
}

/// One group, named by its leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recorded {
    pub name: String,
    pub role: Role,
    pub pid: i32,
    /// The leader's start time; with the pid it names one process of this boot for ever.
    pub start: u64,
}

/// The file of this run.
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    boot: String,
    run: String,
}

impl Ledger {
    pub(super) fn open(state_dir: &Path, run: String) -> Self {
        // Where the system does not name its boots, nothing is known about leftovers; the guard still is there.
        Self { path: state_dir.join(FILE), boot: platform::boot_id().unwrap_or_default(), run }
    }

    pub(super) fn run(&self) -> &str {
        &self.run
    }

    /// Writes the groups that exist now. After a power cut nothing in here matters, so no disk is waited for: this is
    /// called by the thread that forks and reaps.
    pub(super) fn write(&self, groups: Vec<Recorded>) -> io::Result<()> {
        let children = Children { boot: self.boot.clone(), run: self.run.clone(), groups };
        paths::write_atomically_until_reboot(&self.path, &serde_json::to_vec_pretty(&children)?)
    }

    /// A clean end leaves nothing to sweep.
    pub(super) fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Ends what the last run on this directory has left, and waits until it is gone. Returns what was found, for the log.
///
/// Nothing is touched that merely has the same pid: a leader must have the recorded start time in the same boot, anything
/// else the run's id in its environment.
pub(super) fn sweep(state_dir: &Path) -> Vec<Found> {
    let Some(children) = read(&state_dir.join(FILE)) else { return Vec::new() };
    let same_boot = platform::boot_id().is_ok_and(|boot| !boot.is_empty() && boot == children.boot);
    if !same_boot {
        return Vec::new();
    }
    let found = look(&children);
    if found.is_empty() {
        return found;
    }
    signal(&children, Signal::SIGTERM);
    signal(&children, Signal::SIGCONT); // a frozen process hears nothing else
    wait_until_gone(&children, GRACE, None);
    wait_until_gone(&children, PERSISTENCE, Some(Signal::SIGKILL));
    found
}

/// One leftover process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub pid: Pid,
    /// The process group to end as a whole, if the process leads one that this run has made.
    group: Option<Pid>,
    role: Role,
    pub name: String,
}

/// A file that is missing or damaged tells nothing: it was written whole, or the power failed.
fn read(path: &Path) -> Option<Children> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// What lives of that run: leaders, with their groups; then whoever carries its id. The tunnel first.
fn look(children: &Children) -> Vec<Found> {
    let variable = format!("{}={}", env::MCP_FERRY_RUN, children.run);
    let mut found: Vec<Found> = children.groups.iter().filter_map(leader).collect();
    let groups: HashSet<Pid> = found.iter().map(|leader| leader.pid).collect();
    let carriers = platform::living()
        .filter(|(pid, identity)| *pid != Pid::this() && !groups.contains(&identity.group))
        .filter(|(pid, _)| platform::has_variable(*pid, variable.as_bytes()));
    found.extend(carriers.map(|(pid, identity)| {
        let recorded = children.groups.iter().find(|group| group.pid == identity.group.as_raw());
        let role = recorded.map_or(Role::Mcp, |group| group.role);
        Found { pid, group: None, role, name: platform::name(pid) }
    }));
    found.sort_by_key(|found| found.role != Role::Tunnel); // stable
    found
}

fn leader(recorded: &Recorded) -> Option<Found> {
    let pid = Pid::from_raw(recorded.pid);
    let identity = platform::identity(pid)?;
    let same = recorded.pid > 1 && identity.start == recorded.start && identity.group == pid;
    same.then(|| Found { pid, group: Some(pid), role: recorded.role, name: recorded.name.clone() })
}

fn signal(children: &Children, signal: Signal) {
    // Looked at anew each time: between two signals a process may end and its number may come to mean somebody else.
    for Found { pid, group, .. } in look(children) {
        let _ = match group {
            Some(group) => killpg(group, signal),
            None => kill(pid, signal),
        };
    }
}

fn wait_until_gone(children: &Children, limit: Duration, with: Option<Signal>) {
    let start = Instant::now();
    while !look(children).is_empty() && start.elapsed() < limit {
        if let Some(with) = with {
            signal(children, with);
        }
        sleep(GLANCE);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "no steward runs in the library's unit tests")]
mod tests {
    use std::io::Read;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    const RUN: &str = "c0ffee";

    fn ledger(dir: &Path, boot: &str, run: &str, groups: Vec<Recorded>) {
        Ledger { path: dir.join(FILE), boot: boot.to_owned(), run: run.to_owned() }.write(groups).unwrap();
    }

    fn sleeper(run: Option<&str>) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", "echo ready; read forever"]).process_group(0).env_remove(env::MCP_FERRY_RUN);
        if let Some(run) = run {
            command.env(env::MCP_FERRY_RUN, run);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // Until exec is over, the kernel shows no environment.
        child.stdout.take().unwrap().read_exact(&mut [0; 6]).unwrap();
        child
    }

    fn pid(child: &Child) -> Pid {
        Pid::from_raw(child.id().cast_signed())
    }

    fn recorded(child: &Child) -> Recorded {
        let start = platform::identity(pid(child)).unwrap().start;
        Recorded { name: "bear".into(), role: Role::Mcp, pid: child.id().cast_signed(), start }
    }

    fn lives(child: &mut Child) -> bool {
        child.try_wait().unwrap().is_none()
    }

    #[test]
    fn a_leader_with_the_recorded_start_time_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = sleeper(None);
        ledger(dir.path(), &platform::boot_id().unwrap(), RUN, vec![recorded(&child)]);
        assert_eq!(sweep(dir.path()).iter().map(|found| found.pid).collect::<Vec<_>>(), [pid(&child)]);
        assert!(!lives(&mut child));
    }

    #[test]
    fn a_process_that_merely_has_the_same_pid_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = sleeper(Some("of another run"));
        let boot = platform::boot_id().unwrap();
        let right = recorded(&child);
        let wrong_start = Recorded { start: right.start - 1, ..right.clone() };
        ledger(dir.path(), &boot, RUN, vec![wrong_start]);
        assert_eq!(sweep(dir.path()), []);
        ledger(dir.path(), "another boot", RUN, vec![right]);
        assert_eq!(sweep(dir.path()), []);
        assert!(lives(&mut child));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn whoever_carries_the_runs_id_is_ended_without_a_leader() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = sleeper(Some("decaf1"));
        ledger(dir.path(), &platform::boot_id().unwrap(), "decaf1", Vec::new());
        assert_eq!(sweep(dir.path()).len(), 1);
        assert!(!lives(&mut child));
    }

    #[test]
    fn a_damaged_file_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{\"boot\":").unwrap();
        assert_eq!(sweep(dir.path()), []);
    }
}
