//! What a child finds when it starts, read from the system's own tables.

use std::time::Duration;

use crate::common::{is_running, until};
use crate::{add, sh, supervisor, within};

#[tokio::test]
async fn a_child_cannot_open_the_terminal() {
    let mut subject = add(sh("if (: </dev/tty) 2>/dev/null; then echo opened; else echo refused; fi; cat"));
    let mut child = subject.generation().await;
    assert_eq!(child.line().await, "refused");
    within("the stop", subject.process.stop()).await;
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_child_leads_a_session_and_has_nothing_of_ferrys() {
    use mcp_ferry::supervisor::Signal;

    use crate::LIMIT;
    use crate::common::{descriptor_limit, descriptors, stat, status};
    use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, pthread_sigmask, signal};

    supervisor();
    // What ferry may have inherited or set: a descriptor without close-on-exec, ignored signals, a full mask.
    let leaky = nix::unistd::dup(std::io::stderr()).unwrap();
    #[expect(unsafe_code, reason = "the test wants a process with ignored signals")]
    // SAFETY: no handler is installed.
    unsafe {
        signal(Signal::SIGUSR2, SigHandler::SigIgn).unwrap();
    }
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None).unwrap();

    let mut subject = add(sh("echo ready; read forever"));
    let mut child = subject.generation().await;
    child.line().await;

    let stat = stat(child.pid).unwrap();
    assert_eq!((stat.group, stat.session, stat.terminal), (child.pid, child.pid, 0));
    assert_eq!(descriptors(child.pid), ["0", "1", "2"]);
    let status = status(child.pid);
    assert_eq!(status["SigBlk"], "0000000000000000");
    // glibc keeps 32 and 33 for itself: its posix_spawn leaves them ignored in whatever it starts, this test included,
    // and its sigaction refuses them.
    let ignored = u64::from_str_radix(&status["SigIgn"], 16).unwrap() & !(0b11 << 31);
    assert_eq!(ignored, 0, "{:?}", status["SigIgn"]);
    let (soft, hard) = LIMIT.get().unwrap();
    assert_eq!(descriptor_limit(child.pid), (soft.to_string(), hard.to_string()));
    assert_eq!(descriptor_limit(std::process::id().cast_signed()).0, hard.to_string(), "ferry's own is raised");
    drop(leaky);
    within("the stop", subject.process.stop()).await;
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_childs_environment_is_what_the_rules_say() {
    use std::collections::HashSet;

    use mcp_ferry::supervisor::Environment;

    let mut spec = sh("echo ready; read forever");
    let set = vec![("CLOUDFLARE_API_TOKEN".to_owned(), "its own".to_owned()), ("X".to_owned(), "1".to_owned())];
    spec.environment = Environment { inherit: false, set, lookup: None };
    let mut subject = add(spec);
    let mut child = subject.generation().await;
    child.line().await;
    let environment = std::fs::read(format!("/proc/{}/environ", child.pid)).unwrap();
    let names: HashSet<String> = environment
        .split(|byte| *byte == 0)
        .filter(|variable| !variable.is_empty())
        .map(|variable| String::from_utf8_lossy(variable).split('=').next().unwrap().to_owned())
        .collect();
    assert!(names.is_superset(&["CLOUDFLARE_API_TOKEN", "X", "PATH", "MCP_FERRY_RUN"].map(str::to_owned).into()));
    assert!(!names.contains("CARGO_MANIFEST_DIR"), "cargo sets it for every test: {names:?}");
    within("the stop", subject.process.stop()).await;
}

#[test]
fn children_outlive_the_thread_that_asked_for_them() {
    supervisor();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_keep_alive(Duration::from_millis(1))
        .enable_all()
        .build()
        .unwrap();
    // From a thread of the pool that ends right after it, as tokio's do when they idle.
    let (asking, mut subject) = runtime
        .block_on(runtime.spawn_blocking(|| {
            (nix_thread_id(), tokio::runtime::Handle::current().block_on(async { add(sh("echo ready; read forever")) }))
        }))
        .unwrap();
    let mut child = runtime.block_on(subject.generation());
    runtime.block_on(child.line());
    until("the thread has ended", || !thread_exists(asking));
    // Whatever comes with a thread's end has come by the time that another child was started and has ended.
    runtime.block_on(async { within("a helper", add(sh("exit")).generation().await.exit()).await });
    assert!(is_running(child.pid));
    runtime.block_on(async { within("the stop", subject.process.stop()).await });
}

#[cfg(target_os = "linux")]
fn nix_thread_id() -> i32 {
    nix::unistd::gettid().as_raw()
}

#[cfg(target_os = "linux")]
fn thread_exists(id: i32) -> bool {
    std::path::Path::new(&format!("/proc/self/task/{id}")).exists()
}

#[cfg(not(target_os = "linux"))]
fn nix_thread_id() -> i32 {
    0
}

/// No such danger where there is no parent-death signal.
#[cfg(not(target_os = "linux"))]
fn thread_exists(_id: i32) -> bool {
    false
}
