//! A ferry of one's own, with its own state directory.
#![expect(clippy::disallowed_methods, reason = "no steward runs in this process")]

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use mcp_ferry::supervisor::Signal;
use tempfile::TempDir;

use crate::common::{GLANCE, PATIENCE, is_running, send, until, until_some};

/// A running `ferry try -- sh -c SCRIPT`.
///
/// The script finds a directory of this test's in `$DIR`; what it writes there is how it tells of itself.
pub(crate) struct Ferry {
    child: Child,
    pub(crate) dir: TempDir,
}

/// How to start one.
pub(crate) struct Start {
    command: Command,
    dir: TempDir,
}

impl Start {
    pub(crate) fn with(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferry"));
        command
            .arg("try")
            .args(arguments)
            .env("FERRY_STATE_DIR", dir.path().join("state"))
            .env("FERRY_LOG", "debug")
            .env("DIR", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.path().join("log")).unwrap());
        // A session of its own: whether the test has a terminal makes no difference to ferry.
        on_birth(&mut command, || {
            nix::unistd::setsid()?;
            Ok(())
        });
        Self { command, dir }
    }

    pub(crate) fn sh(script: &str) -> Self {
        Self::with(&["--", "sh", "-c", script])
    }

    /// Uses what another one has left.
    pub(crate) fn in_state_of(mut self, other: &Path) -> Self {
        self.command.env("FERRY_STATE_DIR", other.join("state"));
        self
    }

    pub(crate) fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    pub(crate) fn start(mut self) -> Ferry {
        Ferry { child: self.command.spawn().unwrap(), dir: self.dir }
    }
}

pub(crate) fn on_birth(command: &mut Command, hook: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static) {
    #[expect(unsafe_code, reason = "between fork and exec")]
    // SAFETY: the hooks of these tests make system calls only.
    unsafe {
        command.pre_exec(hook);
    }
}

impl Ferry {
    pub(crate) fn sh(script: &str) -> Self {
        Start::sh(script).start()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Waits for a file that the script writes, and returns its words as numbers.
    pub(crate) fn told(&self, name: &str) -> Vec<i32> {
        let what = format!("`{name}` is told; the log says:\n{}", self.log());
        let text = until_some(&what, || {
            assert!(is_running(self.pid()), "ferry has ended:\n{}", self.log());
            fs::read_to_string(self.path(name)).ok().filter(|text| text.ends_with('\n'))
        });
        text.split_whitespace().map(|word| word.parse().unwrap()).collect()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// Waits until ferry has logged something.
    pub(crate) fn until_logged(&self, text: &str) {
        until(text, || self.log().contains(text));
    }

    pub(crate) fn send(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "ferry does not end:\n{}", self.log());
            std::thread::sleep(GLANCE);
        }
    }

    /// Stops it politely; it must report success.
    pub(crate) fn stop(mut self) {
        self.send(Signal::SIGTERM);
        let status = self.ended();
        assert!(status.success(), "{status}:\n{}", self.log());
    }

    /// SIGKILL, and nothing of it is left to wait for.
    pub(crate) fn kill(&mut self) {
        self.send(Signal::SIGKILL);
        self.ended();
    }

    /// The guard's pid.
    #[cfg(target_os = "linux")]
    pub(crate) fn guard(&self) -> i32 {
        until_some("there is a guard", || {
            let children = crate::common::children_of(self.pid());
            children.into_iter().find(|child| child.name == "ferry-guard" && child.state != 'Z').map(|guard| guard.pid)
        })
    }

    /// The directory of this run below the state directory.
    #[cfg(target_os = "linux")]
    pub(crate) fn scratch(&self) -> PathBuf {
        let base = self.path("state").join("try");
        let prefix = format!("{}-", self.pid());
        fs::read_dir(base)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&prefix))
            .expect("a running try has a directory")
    }

    pub(crate) fn stderr(&mut self) -> String {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    pub(crate) fn close_stderr(&mut self) {
        self.child.stderr.take();
    }
}

impl Drop for Ferry {
    fn drop(&mut self) {
        // The guard ends what it leaves.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
