//! However ferry ends, nothing of what it started stays.

use std::fs;
use std::time::{Duration, Instant};

use mcp_ferry::supervisor::Signal;

use crate::common::{group_is_running, is_running, until};
use crate::whole_ferry::{Ferry, Start};

/// Ignores SIGTERM and the end of its input, and has a child that does the same. Tells both pids.
const DEAF: &str = r#"trap "" TERM HUP; sleep 300 & echo "$$ $!" > "$DIR/tmp"; mv "$DIR/tmp" "$DIR/ready"; wait; wait"#;

/// Leaves when its input ends.
const POLITE: &str = r#"echo $$ > "$DIR/tmp"; mv "$DIR/tmp" "$DIR/ready"; cat >/dev/null"#;

/// What promise 3 leaves: the guard's two seconds and what the machine needs.
const AT_MOST: Duration = Duration::from_secs(3);

/// Waits until nothing of a group lives, and checks that it did not take too long.
#[track_caller]
fn ends_in_time(group: i32, since: Instant) {
    until("the group has ended", || !group_is_running(group));
    let took = since.elapsed();
    assert!(took < AT_MOST, "it took {took:?}");
}

#[test]
fn a_stopped_ferry_leaves_no_process_and_no_file() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let mut ferry = Ferry::sh(POLITE);
        let child = ferry.told("ready")[0];
        ferry.send(signal);
        let status = ferry.ended();
        assert!(status.success(), "{signal}: {status}\n{}", ferry.log());
        assert!(!group_is_running(child));
        let left: Vec<_> =
            fs::read_dir(ferry.path("state").join("try")).unwrap().map(|it| it.unwrap().path()).collect();
        assert_eq!(left, [ferry.path("state").join("try").join("lock")]);
        assert!(ferry.log().contains(&format!("signal={signal} sender={}", std::process::id())), "{}", ferry.log());
    }
}

#[test]
fn a_whole_stop_stays_within_its_budget_with_deaf_children_and_a_deaf_daemon() {
    let daemon = if cfg!(target_os = "linux") {
        r#"(setsid sh -c 'trap "" TERM; echo $$ > "$DIR/daemon.tmp"; mv "$DIR/daemon.tmp" "$DIR/daemon"; sleep 300; sleep 300' &);"#
    } else {
        r#"echo 2147483647 > "$DIR/daemon";"# // out of reach there
    };
    let mut ferry = Ferry::sh(&format!("{daemon}{DEAF}"));
    let pids = ferry.told("ready");
    let daemon = ferry.told("daemon")[0];
    let start = Instant::now();
    ferry.send(Signal::SIGTERM);
    let status = ferry.ended();
    assert!(start.elapsed() < Duration::from_secs(9), "it took {:?}", start.elapsed());
    assert!(status.success(), "{status}\n{}", ferry.log());
    assert!(!group_is_running(pids[0]));
    assert!(!is_running(pids[1]));
    assert!(!is_running(daemon));
    #[cfg(target_os = "linux")]
    assert!(!group_is_running(daemon), "the daemon's own child stays");
}

#[test]
#[cfg(target_os = "linux")]
fn a_daemon_that_left_its_group_ends_with_ferry() {
    let ferry = Ferry::sh(
        r#"(setsid sh -c 'echo $$ > "$DIR/tmp"; mv "$DIR/tmp" "$DIR/ready"; exec sleep 300' &); exec cat >/dev/null"#,
    );
    let daemon = ferry.told("ready")[0];
    until("it is adopted", || crate::common::stat(daemon).is_some_and(|stat| stat.parent == ferry.pid()));
    ferry.stop();
    assert!(!is_running(daemon));
}

#[test]
fn a_second_request_kills_at_once() {
    for (first, second) in [(Signal::SIGTERM, Signal::SIGTERM), (Signal::SIGINT, Signal::SIGINT)] {
        let mut ferry = Ferry::sh(DEAF);
        let pids = ferry.told("ready");
        ferry.send(first);
        ferry.until_logged("stopping"); // two of a kind that wait together would be one
        let start = Instant::now();
        ferry.send(second);
        let status = ferry.ended();
        assert!(start.elapsed() < AT_MOST, "it took {:?}", start.elapsed());
        assert!(status.success(), "{status}\n{}", ferry.log());
        assert!(!group_is_running(pids[0]));
    }
}

#[test]
fn a_request_while_it_backs_off_ends_it() {
    for requests in [1, 2] {
        let mut ferry = Ferry::sh("exit 1");
        ferry.until_logged("backing off");
        for _ in 0..requests {
            ferry.send(Signal::SIGTERM);
        }
        let status = ferry.ended();
        assert!(status.success(), "{status}\n{}", ferry.log());
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_request_while_it_ends_leftovers_is_heard() {
    use crate::common::EndGroup;

    for requests in [1, 2] {
        let mut dead = Ferry::sh(DEAF);
        let (group, _end) = kill_with_its_guard(&mut dead, EndGroup);
        let mut ferry = Start::sh(POLITE).in_state_of(dead.dir.path()).start();
        // It is about to end what the dead one has left, which is deaf: that takes two seconds.
        until("it has begun", || ferry.path("log").exists() && signals_are_caught(ferry.pid()));
        let start = Instant::now();
        for number in 1..=requests {
            ferry.send(Signal::SIGTERM);
            until("it is heard", || ferry.log().matches("got a signal").count() >= number);
        }
        let status = ferry.ended();
        assert!(status.success(), "{status}\n{}", ferry.log());
        assert!(!ferry.path("ready").exists(), "a child was started after the request to stop");
        if requests == 1 {
            assert!(!group_is_running(group), "what it had begun it completes");
        } else {
            assert!(start.elapsed() < Duration::from_secs(1), "it took {:?}", start.elapsed());
        }
    }
}

#[cfg(target_os = "linux")]
fn signals_are_caught(pid: i32) -> bool {
    let caught = u64::from_str_radix(&crate::common::status(pid)["SigCgt"], 16).unwrap();
    caught & (1 << (Signal::SIGTERM as i32 - 1)) != 0
}

/// SIGKILL to ferry and to its guard, so that neither cleans up. Returns the group that lives on.
#[cfg(target_os = "linux")]
fn kill_with_its_guard<T>(ferry: &mut Ferry, end: impl FnOnce(i32) -> T) -> (i32, T) {
    let pids = ferry.told("ready");
    let guard = ferry.guard();
    ferry.send(Signal::SIGSTOP); // or it would start another guard in between
    crate::common::send(guard, Signal::SIGKILL);
    ferry.kill();
    until("the leader has got its parent-death signal", || !is_running(pids[0]));
    assert!(is_running(pids[1]), "without the guard the grandchild has nobody to end it");
    (pids[0], end(pids[0]))
}

#[test]
fn sigkill_to_ferry_ends_every_group() {
    let mut ferry = Ferry::sh(DEAF);
    let pids = ferry.told("ready");
    let start = Instant::now();
    ferry.kill();
    ends_in_time(pids[0], start);
    assert!(!is_running(pids[1]));
}

#[test]
fn sigkill_to_a_frozen_ferry_ends_its_frozen_children() {
    let mut ferry = Ferry::sh(DEAF);
    let pids = ferry.told("ready");
    ferry.send(Signal::SIGTSTP);
    ferry.until_logged("got a signal");
    let start = Instant::now();
    ferry.kill();
    ends_in_time(pids[0], start);
}

#[test]
#[cfg(target_os = "linux")]
fn sigkill_to_ferry_ends_daemons_too() {
    let mut ferry = Ferry::sh(
        r#"(setsid sh -c 'trap "" TERM; echo $$ > "$DIR/tmp"; mv "$DIR/tmp" "$DIR/ready"; sleep 300; sleep 300' &); cat >/dev/null"#,
    );
    let daemon = ferry.told("ready")[0];
    let start = Instant::now();
    ferry.kill();
    ends_in_time(daemon, start);
}

#[test]
#[cfg(target_os = "linux")]
fn a_guard_that_was_killed_is_replaced_by_one_that_knows_every_group() {
    let mut ferry = Ferry::sh(DEAF);
    let pids = ferry.told("ready");
    let first = ferry.guard();
    crate::common::send(first, Signal::SIGKILL);
    until("there is another guard", || ferry.guard() != first);
    ferry.until_logged("started another guard");
    assert!(is_running(pids[0]) && is_running(pids[1]), "the children have not noticed");

    let start = Instant::now();
    ferry.kill();
    ends_in_time(pids[0], start);
    assert!(!is_running(pids[1]));
}

#[test]
#[cfg(target_os = "linux")]
fn after_sigkill_to_both_the_next_start_ends_what_is_left_and_nothing_else() {
    use crate::common::EndGroup;
    use mcp_ferry::supervisor::Signal;

    // A stranger that will be listed as a leader of the dead run, with everything but the start time right.
    let stranger = Ferry::sh(POLITE);
    let stranger_child = stranger.told("ready")[0];

    let mut dead = Ferry::sh(DEAF);
    dead.told("ready");
    let scratch = dead.scratch();
    let (group, _end) = kill_with_its_guard(&mut dead, EndGroup);
    let file = scratch.join("children.json");
    let mut listed: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let entry = serde_json::json!({ "name": "stranger", "role": "mcp", "pid": stranger_child, "start": 1 });
    listed["groups"].as_array_mut().unwrap().push(entry);
    fs::write(&file, listed.to_string()).unwrap();

    let next = Start::sh(POLITE).in_state_of(dead.dir.path()).start();
    next.told("ready");
    assert!(!group_is_running(group), "it was there when the next one's child was started");
    assert!(!scratch.exists());
    assert!(next.log().contains("ended what a ferry that was killed had left"), "{}", next.log());
    assert!(is_running(stranger_child));
    next.stop();
    stranger.send(Signal::SIGTERM);
}

#[test]
#[cfg(target_os = "linux")]
fn an_abort_in_the_steward_ends_every_group() {
    let mut ferry = Ferry::sh(DEAF);
    let pids = ferry.told("ready");
    let threads = fs::read_dir(format!("/proc/{}/task", ferry.pid())).unwrap();
    let steward: i32 = threads
        .map(|entry| entry.unwrap().path())
        .find(|path| fs::read_to_string(path.join("comm")).unwrap() == "steward\n")
        .and_then(|path| path.file_name()?.to_str()?.parse().ok())
        .expect("there is a steward");
    let start = Instant::now();
    #[expect(unsafe_code, reason = "nix does not wrap tgkill")]
    // SAFETY: a system call on integers.
    let sent = unsafe { nix::libc::syscall(nix::libc::SYS_tgkill, ferry.pid(), steward, nix::libc::SIGABRT) };
    assert_eq!(sent, 0);
    assert!(!ferry.ended().success());
    ends_in_time(pids[0], start);
}

#[test]
fn a_closed_terminal_ends_ferry_and_everything() {
    let mut start = Start::sh(DEAF);
    let terminal = at_terminal(&mut start);
    let mut ferry = start.start();
    let pids = ferry.told("ready");
    drop(terminal);
    let status = ferry.ended();
    assert!(status.success(), "{status}\n{}", ferry.log());
    assert!(ferry.log().contains("signal=SIGHUP"), "{}", ferry.log());
    assert!(!group_is_running(pids[0]));
}

/// Gives ferry a terminal of its own, as a window does; its log goes there too. Closing the returned end is closing the
/// window.
fn at_terminal(start: &mut Start) -> std::os::fd::OwnedFd {
    use nix::libc;
    use std::os::fd::AsRawFd;

    let pair = nix::pty::openpty(None, None).unwrap();
    let command = start.command();
    let slave = pair.slave.as_raw_fd();
    let master = pair.master.as_raw_fd();
    let slave_owned = pair.slave;
    command.stdin(slave_owned.try_clone().unwrap()).stdout(slave_owned.try_clone().unwrap());
    crate::whole_ferry::on_birth(command, move || {
        let _ = &slave_owned; // open until here
        #[cfg_attr(target_os = "linux", expect(clippy::useless_conversion, reason = "a smaller type on macOS"))]
        let make_controlling: libc::c_ulong = libc::TIOCSCTTY.into();
        #[expect(unsafe_code, reason = "makes the terminal the session's")]
        // SAFETY: system calls on descriptors that are open.
        unsafe {
            libc::close(master);
            if libc::ioctl(slave, make_controlling, 0) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            // Else the terminal would stay open in ferry itself.
            libc::fcntl(slave, libc::F_SETFD, libc::FD_CLOEXEC);
        }
        Ok(())
    });
    pair.master
}

#[test]
fn a_child_of_a_ferry_at_a_terminal_cannot_open_it() {
    let mut start = Start::sh(
        r#"if (: </dev/tty) 2>/dev/null; then echo 1; else echo 0; fi > "$DIR/tmp"; mv "$DIR/tmp" "$DIR/ready"; cat"#,
    );
    let _terminal = at_terminal(&mut start);
    let ferry = start.start();
    assert_eq!(ferry.told("ready"), [0]);
    ferry.stop();
}

#[test]
fn a_hang_up_without_a_terminal_reloads_and_goes_to_those_that_want_it() {
    let script = r#"trap 'echo > "$DIR/got"' HUP; echo > "$DIR/ready"; while :; do sleep 0.05; done"#;
    let ferry = Start::with(&["--forward-signals", "HUP", "--", "sh", "-c", script]).start();
    ferry.told("ready");
    ferry.send(Signal::SIGHUP);
    ferry.told("got");
    assert!(ferry.log().contains("asks=Reload"), "{}", ferry.log());
    ferry.stop();
}

#[test]
fn under_nohup_a_closed_terminal_changes_nothing() {
    let mut start = Start::sh(POLITE);
    let terminal = at_terminal(&mut start);
    crate::whole_ferry::on_birth(start.command(), || {
        #[expect(unsafe_code, reason = "what nohup does")]
        // SAFETY: no handler is installed.
        unsafe {
            nix::sys::signal::signal(Signal::SIGHUP, nix::sys::signal::SigHandler::SigIgn)?;
        }
        Ok(())
    });
    let ferry = start.start();
    let child = ferry.told("ready")[0];
    drop(terminal);
    ferry.send(Signal::SIGHUP);
    ferry.send(Signal::SIGUSR1); // once this is heard, the hang-ups have been, too
    ferry.until_logged("signal=SIGUSR1");
    assert!(is_running(ferry.pid()) && is_running(child));
    ferry.stop();
}

#[test]
#[cfg(target_os = "linux")]
fn ferry_freezes_and_thaws_with_its_children() {
    use crate::common::stat;

    let ferry = Ferry::sh(DEAF);
    let pids = ferry.told("ready");
    let state = |pid| stat(pid).unwrap().state;
    ferry.send(Signal::SIGTSTP);
    until("all stand", || [ferry.pid(), pids[0], pids[1]].into_iter().all(|pid| state(pid) == 'T'));
    ferry.send(Signal::SIGCONT);
    until("all go on", || [ferry.pid(), pids[0], pids[1]].into_iter().all(|pid| state(pid) != 'T'));
}

#[test]
fn one_that_is_to_go_on_before_it_stands_goes_on() {
    let ferry = Ferry::sh(POLITE);
    ferry.told("ready");
    ferry.send(Signal::SIGTSTP);
    ferry.send(Signal::SIGCONT);
    ferry.stop();
}

#[test]
#[cfg(target_os = "linux")]
fn a_frozen_ferry_that_is_asked_to_stop_stops_when_it_goes_on() {
    let mut ferry = Ferry::sh(POLITE);
    let child = ferry.told("ready")[0];
    ferry.send(Signal::SIGTSTP);
    until("it stands", || crate::common::stat(ferry.pid()).unwrap().state == 'T');
    ferry.send(Signal::SIGTERM);
    ferry.send(Signal::SIGCONT);
    let status = ferry.ended();
    assert!(status.success(), "{status}\n{}", ferry.log());
    assert!(!group_is_running(child));
}

#[test]
fn a_vanished_reader_of_its_log_is_no_reason_to_fail() {
    let mut start = Start::sh(POLITE);
    start.command().stderr(std::process::Stdio::piped());
    let mut ferry = start.start();
    ferry.told("ready");
    ferry.close_stderr();
    ferry.send(Signal::SIGTERM);
    let status = ferry.ended();
    assert!(status.success(), "{status}");
}

#[test]
fn a_command_that_does_not_exist_ends_try_with_a_reason() {
    let mut start = Start::with(&["--", "ferry-test-no-such-command"]);
    start.command().stderr(std::process::Stdio::piped());
    let mut ferry = start.start();
    let text = ferry.stderr();
    assert_eq!(ferry.ended().code(), Some(1), "{text}");
    assert!(text.contains("command `ferry-test-no-such-command` was not found on PATH `"), "{text}");
}

#[test]
fn several_tries_run_side_by_side() {
    let first = Ferry::sh(POLITE);
    first.told("ready");
    let second = Start::sh(POLITE).in_state_of(first.dir.path()).start();
    second.told("ready");
    assert!(is_running(first.told("ready")[0]));
    first.stop();
    assert!(is_running(second.told("ready")[0]));
    second.stop();
}
