//! The processes that are measured: ferry as it is installed, and the floor; how large they are and what they cost.

use std::io::{self, BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::{Client, Target};
use crate::{ECHO, FLOOR, Outcome};

/// A process that ends with its owner.
pub(crate) struct Running {
    process: Child,
    pub(crate) target: Target,
    _home: tempfile::TempDir,
}

/// How ferry is started.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// `ferry run` with a configuration.
    Run,
    /// `ferry try`.
    Try,
}

impl Running {
    /// The same HTTP server answering by itself.
    pub(crate) fn floor() -> Outcome<Self> {
        let mut process = Command::new(std::env::current_exe()?).arg(FLOOR).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().ok_or("it has an output")?).read_line(&mut line)?;
        Ok(Self { process, target: Target::new(line.trim().parse()?), _home: tempfile::tempdir()? })
    }

    /// ferry with the echo server behind it; it may not listen yet.
    pub(crate) fn ferry(way: Way) -> Outcome<Self> {
        let home = tempfile::tempdir()?;
        let address = free_address()?;
        let server = std::env::current_exe()?;
        // Another build, to be compared with this one.
        let program = std::env::var_os("FERRY_BENCH_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_ferry").into());
        let mut ferry = Command::new(program);
        match way {
            Way::Run => {
                let config = home.path().join("config.toml");
                std::fs::write(&config, configuration(address.port(), &server))?;
                ferry.arg("run").arg("--config").arg(config);
            }
            Way::Try => {
                ferry.args(["try", "--path", "/echo", "--port", &address.port().to_string(), "--"]);
                ferry.arg(server).arg(ECHO);
            }
        }
        let process = ferry
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", home.path())
            .env("FERRY_STATE_DIR", home.path().join("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { process, target: Target::new(address), _home: home })
    }

    /// ferry, once its server has answered.
    pub(crate) async fn ready_ferry() -> Outcome<Self> {
        let ferry = Self::ferry(Way::Run)?;
        ferry.listening().await?;
        ferry.target.with_session().await?;
        Ok(ferry)
    }

    /// Waits until it has answered one request, and returns how long that took.
    pub(crate) async fn listening(&self) -> Outcome<Duration> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(20) {
            match Client::connect(&self.target).await {
                Ok(mut client) => {
                    client.knock().await?;
                    return Ok(began.elapsed());
                }
                Err(_) => tokio::time::sleep(Duration::from_micros(100)).await,
            }
        }
        Err("ferry does not listen".into())
    }

    /// Its resident memory in KiB.
    pub(crate) fn memory(&self) -> Outcome<f64> {
        let pid = self.process.id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).or_else(|_| {
            let ps = Command::new("ps").args(["-o", "rss=", "-p", &pid.to_string()]).output()?;
            io::Result::Ok(format!("VmRSS: {}", String::from_utf8_lossy(&ps.stdout)))
        })?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("a process has memory")?;
        Ok(line.split_whitespace().next().ok_or("a size is a number")?.parse()?)
    }

    /// The processor time it has used, where the system tells that finely.
    pub(crate) fn processor_time(&self) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/schedstat", self.process.id())).ok()?;
        let own: u64 = stat.split(' ').next()?.parse().ok()?;
        // That line is of the first thread alone.
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).ok()?;
        let threads = tasks.filter_map(|task| {
            let stat = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            stat.split(' ').next()?.parse::<u64>().ok()
        });
        Some(Duration::from_nanos(threads.sum::<u64>().max(own)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.process.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.process.wait();
    }
}

/// A port that is free now.
fn free_address() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

/// The bounds that one busy user would meet are moved out of the way; that they cost nothing is not what is asked here.
fn configuration(port: u16, server: &Path) -> String {
    format!(
        "[bridge]\nlocal_port = {port}\n\
         [bridge.limits]\nmax_sessions = 20000\nmax_sessions_per_identity = 20000\nmax_inflight = 4096\n\
         max_inflight_per_identity = 4096\n\
         [[mcps]]\nname = 'echo'\npath = '/echo'\ncommand = {:?}\nargs = ['{ECHO}']\n",
        server.to_string_lossy()
    )
}
