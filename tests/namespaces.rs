//! ferry as PID 1, in a PID namespace of its own, as in a container.
//!
//! Needs `unshare` and the right to make namespaces (root, or a kernel that lets users), so it is not part of a plain
//! `cargo test`: `cargo test --test namespaces`. Called like that it fails, and does not skip, where these are missing.
#![cfg(target_os = "linux")]
#![expect(clippy::disallowed_methods, reason = "no steward runs in this process")]

#[path = "common/mod.rs"]
mod common;

use std::fs::{self, File};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use mcp_ferry::supervisor::Signal;
use tempfile::TempDir;

use common::{Stat, all, children_of, send, until, until_some};

/// `ferry try` as PID 1.
struct Init {
    unshare: Child,
    /// Its pid out here.
    ferry: i32,
    dir: TempDir,
}

impl Init {
    fn sh(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("unshare");
        if !nix::unistd::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        let unshare = command
            .args(["--pid", "--fork", "--mount-proc", "--kill-child", env!("CARGO_BIN_EXE_ferry")])
            .args(["try", "--", "sh", "-c", script])
            .env("FERRY_STATE_DIR", dir.path().join("state"))
            .env("FERRY_LOG", "debug")
            .env("DIR", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.path().join("log")).unwrap())
            .spawn()
            .expect("this test needs `unshare` (util-linux)");
        let mut init = Self { unshare, ferry: 0, dir };
        init.ferry = until_some("ferry is PID 1", || {
            assert!(init.unshare.try_wait().unwrap().is_none(), "no namespace was made:\n{}", init.log());
            let child = children_of(init.unshare.id().cast_signed()).pop()?;
            (child.name == "ferry" && common::status(child.pid)["NSpid"].ends_with("\t1")).then_some(child.pid)
        });
        init
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn until_told(&self, name: &str) {
        let what = format!("`{name}` is told; the log says:\n{}", self.log());
        until(&what, || self.dir.path().join(name).exists());
    }

    fn zombies(&self) -> Vec<Stat> {
        children_of(self.ferry).into_iter().filter(|child| child.state == 'Z').collect()
    }

    /// Every process of the namespace but PID 1.
    fn others(&self) -> usize {
        let space = fs::read_link(format!("/proc/{}/ns/pid", self.ferry)).ok();
        let same = |stat: &Stat| fs::read_link(format!("/proc/{}/ns/pid", stat.pid)).ok() == space;
        all().iter().filter(|stat| stat.pid != self.ferry && same(stat)).count()
    }

    fn ended(&mut self) -> ExitStatus {
        until("it has ended", || self.unshare.try_wait().unwrap().is_some());
        self.unshare.wait().unwrap()
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        // With PID 1 the kernel ends all of its namespace.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

#[test]
fn orphans_are_reaped_by_the_thousand() {
    // Each inner shell ends at once and leaves its child to PID 1.
    let script = r#"i=0; while [ $i -lt 1000 ]; do (sh -c : &); i=$((i+1)); done; echo > "$DIR/done"; cat >/dev/null"#;
    let mut init = Init::sh(script);
    init.until_told("done");
    until("no zombie remains", || init.zombies().is_empty());
    until("the child and the guard alone remain", || init.others() == 3); // sh, cat, guard
    send(init.ferry, Signal::SIGTERM);
    assert!(init.ended().success(), "{}", init.log());
}

#[test]
fn an_orphan_that_lives_is_ended_and_leaves_no_zombie() {
    let script =
        r#"(setsid sleep 300 &); (setsid sh -c 'trap "" TERM; echo > "$DIR/ready"; sleep 300' &); cat >/dev/null"#;
    let mut init = Init::sh(script);
    init.until_told("ready");
    until("both have come to PID 1", || {
        children_of(init.ferry).iter().filter(|child| child.session == child.pid).count() == 4 // with the guard and sh
    });
    let start = Instant::now();
    send(init.ferry, Signal::SIGTERM);
    assert!(init.ended().success(), "{}", init.log());
    assert!(start.elapsed() < Duration::from_secs(9), "it took {:?}", start.elapsed());
    assert!(!init.log().contains("not everything has ended"), "{}", init.log());
}

#[test]
fn signals_reach_pid_1_once_and_twice() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        for requests in [1, 2] {
            let mut init = Init::sh(r#"trap "" TERM; echo > "$DIR/ready"; sleep 300; sleep 300"#);
            init.until_told("ready");
            let start = Instant::now();
            for number in 1..=requests {
                send(init.ferry, signal);
                until("it is heard", || init.log().matches("got a signal").count() >= number);
            }
            assert!(init.ended().success(), "{}", init.log());
            let limit = if requests == 1 { 9 } else { 3 };
            assert!(start.elapsed() < Duration::from_secs(limit), "it took {:?}", start.elapsed());
        }
    }
}

#[test]
fn pid_1_does_not_freeze() {
    let mut init = Init::sh(r#"echo > "$DIR/ready"; cat >/dev/null"#);
    init.until_told("ready");
    send(init.ferry, Signal::SIGTSTP);
    until("it is heard", || init.log().contains("signal=SIGTSTP"));
    assert!(children_of(init.ferry).iter().all(|child| child.state != 'T'));
    send(init.ferry, Signal::SIGTERM);
    assert!(init.ended().success(), "{}", init.log());
}
