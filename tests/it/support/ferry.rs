//! The real program, run as people run it.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::{DEADLINE, until};

/// A running `ferry`, with directories of its own. Whatever a failing test leaves of it is killed.
pub(crate) struct Ferry {
    process: Child,
    home: tempfile::TempDir,
}

/// How a command ended and what it said.
pub(crate) struct Said {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ferry {
    /// Runs `ferry` with these arguments, and environment variables beside a minimal environment.
    pub(crate) fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start(Command::new(env!("CARGO_BIN_EXE_ferry")), arguments, variables)
    }

    /// The same without a controlling terminal, as a service manager does it.
    pub(crate) fn run_as_service(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferry"));
        #[expect(unsafe_code, reason = "there is no safe way to leave a session before exec")]
        // SAFETY: one system call, which may be made between fork and exec.
        unsafe {
            command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?));
        }
        Self::start(command, arguments, variables)
    }

    fn start(mut command: Command, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let file = |name: &str| std::fs::File::create(home.path().join(name)).unwrap();
        let process = command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", home.path())
            .env("FERRY_STATE_DIR", home.path().join("state"))
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap();
        Self { process, home }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.id().try_into().unwrap()
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn stdout(&self) -> String {
        self.read("stdout")
    }

    pub(crate) fn stderr(&self) -> String {
        self.read("stderr")
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.home.path().join(name)).unwrap()).into_owned()
    }

    /// The URL that it prints when it listens.
    pub(crate) async fn url(&mut self) -> String {
        self.line_with("http://").await.trim().to_owned()
    }

    /// The first line of its standard output with this text in it.
    pub(crate) async fn line_with(&mut self, text: &str) -> String {
        let mut found = None;
        until(|| {
            found = self.stdout().lines().find(|line| line.contains(text)).map(str::to_owned);
            found.is_some() || self.process.try_wait().unwrap().is_some()
        })
        .await;
        found.unwrap_or_else(|| panic!("it ended before it said {text:?}: {}", self.stderr()))
    }

    /// Waits for a line of its log with this text in it.
    pub(crate) async fn logs(&self, text: &str) -> String {
        let mut found = None;
        until(|| {
            found = self.stderr().lines().find(|line| line.contains(text)).map(str::to_owned);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> Said {
        let mut status = None;
        until(|| {
            status = self.process.try_wait().unwrap();
            status.is_some()
        })
        .await;
        Said { status: status.unwrap(), stdout: self.stdout(), stderr: self.stderr() }
    }
}

impl Drop for Ferry {
    fn drop(&mut self) {
        // The guard ends the rest.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The processes whose command line has `text` in it.
pub(crate) fn processes_with(text: &str) -> Vec<i32> {
    processes(|line| line.contains(text))
}

/// Whether a process with just this command line runs.
pub(crate) fn runs(line: &str) -> bool {
    !processes(|other| other.trim_end() == line).is_empty()
}

fn processes(wanted: impl Fn(&str) -> bool) -> Vec<i32> {
    if cfg!(not(target_os = "linux")) {
        let table = Command::new("ps").args(["-axww", "-o", "pid=,command="]).output().unwrap();
        let table = String::from_utf8_lossy(&table.stdout).into_owned();
        let rows = table.lines().filter_map(|row| row.trim_start().split_once(' '));
        return rows.filter(|(_, line)| wanted(line)).filter_map(|(pid, _)| pid.parse().ok()).collect();
    }
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let path: PathBuf = entry.unwrap().path();
        let pid = path.file_name()?.to_str()?.parse().ok()?;
        let line = std::fs::read(path.join("cmdline")).ok()?;
        wanted(&String::from_utf8_lossy(&line).replace('\0', " ")).then_some(pid)
    });
    entries.collect()
}

/// Waits until no process has `text` in its command line.
pub(crate) async fn none_left(text: &str) {
    assert!(DEADLINE > Duration::from_secs(10), "longer than ferry's own budget");
    until(|| processes_with(text).is_empty()).await;
}
