//! What `ferry status` shows: worked out when asked, never stored.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::servers::{Broken, Running, Servers};
use crate::bridge::endpoint::SessionFacts;
use crate::mcp::version::Era;
use crate::supervisor::{self, State, memory_by_group};

/// A ferry that runs.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    /// Whether all is well.
    pub healthy: bool,
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it was started.
    pub uptime: u64,
    /// The file it was started with.
    pub config: PathBuf,
    /// Where it writes its logs.
    pub logs: PathBuf,
    /// Where clients of this machine reach it, unless that is off.
    pub local: Option<String>,
    /// Whether the tunnel is up.
    pub tunnel: String,
    /// Keys of the file that count when ferry is started again.
    pub waiting: Vec<String>,
    /// The servers, in the order of the file.
    pub servers: Vec<ServerStatus>,
}

/// One server.
#[derive(Debug, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Its name.
    pub name: String,
    /// Where it is served.
    pub path: Option<String>,
    /// One word: `ready`, `resting`, `starting`, `backing off`, `failed`, `broken`, …
    pub state: String,
    /// Seconds since it has been so.
    pub since: Option<u64>,
    /// Whether it is well: up, or at rest until somebody asks for it.
    pub healthy: bool,
    /// What is wrong with it.
    pub error: Option<String>,
    /// The era of MCP it was opened in.
    pub era: Option<Era>,
    /// The version of the protocol that was agreed on.
    pub protocol: Option<String>,
    /// What it calls itself.
    pub server: Option<String>,
    /// Requests that wait for it.
    pub in_flight: usize,
    /// Sessions of its clients.
    pub sessions: usize,
    /// How often its processes were started again.
    pub restarts: u64,
    /// Its processes.
    pub processes: Vec<ProcessStatus>,
    /// Who is connected.
    pub clients: Vec<ClientStatus>,
}

/// One process of a server.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Its process id, which is its group's too.
    pub pid: i32,
    /// One word for where it is in its life.
    pub state: String,
    /// Seconds since it has been so.
    pub since: u64,
    /// Bytes that its group has in memory.
    pub memory: Option<u64>,
}

/// Clients that are alike.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClientStatus {
    /// What they call themselves, in their own words.
    pub client: String,
    /// Whose they are.
    pub identity: String,
    /// How many sessions they have.
    pub sessions: usize,
    /// How many of these have a stream open for what the server says unasked.
    pub streams: usize,
}

/// What does not change while ferry runs.
#[derive(Debug)]
pub(super) struct Fixed {
    pub(super) config: PathBuf,
    pub(super) logs: PathBuf,
    pub(super) local: Option<String>,
    pub(super) started: Instant,
}

/// Looks at everything.
pub(super) async fn status(fixed: &Fixed, servers: &Servers, waiting: Vec<String>) -> Status {
    let memory = spawn_blocking(memory_by_group).await.unwrap_or_default();
    let running = servers.serving();
    let broken = servers.broken();
    let mut all: Vec<ServerStatus> = running.iter().map(|running| of_server(running, &memory)).collect();
    all.extend(broken.into_iter().map(of_broken));
    Status {
        healthy: all.iter().all(|server| server.healthy),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime: seconds(fixed.started.elapsed()),
        config: fixed.config.clone(),
        logs: fixed.logs.clone(),
        local: fixed.local.clone(),
        tunnel: "off".to_owned(),
        waiting,
        servers: all,
    }
}

fn of_server(running: &Running, memory: &BTreeMap<i32, u64>) -> ServerStatus {
    let known = running.pool.statuses();
    let facts = running.endpoint.observed();
    let state = running.state();
    let process = |status: &supervisor::Status| {
        Some(ProcessStatus {
            pid: status.pid?,
            state: status.state.word().to_owned(),
            since: seconds(status.since.elapsed()),
            memory: memory.get(&status.pid?).copied(),
        })
    };
    let healthy = is_well(state);
    let since = known.iter().filter(|status| status.state == state).map(|status| status.since.elapsed()).max();
    ServerStatus {
        name: running.name().to_owned(),
        path: Some(running.endpoint.path().to_owned()),
        state: state.word().to_owned(),
        since: since.map(seconds),
        healthy,
        // Once it is ready the last error is history.
        error: running.last_error().filter(|_| !healthy),
        era: facts.era,
        protocol: facts.protocol,
        server: facts.server,
        in_flight: facts.in_flight,
        sessions: facts.sessions.len(),
        restarts: known.iter().map(|status| status.restarts).sum(),
        processes: known.iter().filter_map(process).collect(),
        clients: alike(facts.sessions),
    }
}

fn of_broken(broken: Broken) -> ServerStatus {
    ServerStatus {
        name: broken.name,
        path: broken.path,
        state: "broken".to_owned(),
        since: None,
        healthy: false,
        error: Some(broken.why),
        era: None,
        protocol: None,
        server: None,
        in_flight: 0,
        sessions: 0,
        restarts: 0,
        processes: Vec::new(),
        clients: Vec::new(),
    }
}

/// One that rests until somebody asks for it is well.
pub(super) fn is_well(state: State) -> bool {
    matches!(state, State::Ready | State::Resting)
}

fn alike(sessions: Vec<SessionFacts>) -> Vec<ClientStatus> {
    let mut clients = BTreeMap::<(String, String), (usize, usize)>::new();
    for session in sessions {
        let counts = clients.entry((session.client, session.identity.as_str().to_owned())).or_default();
        counts.0 += 1;
        counts.1 += usize::from(session.has_stream);
    }
    let clients = clients.into_iter();
    clients
        .map(|((client, identity), (sessions, streams))| ClientStatus { client, identity, sessions, streams })
        .collect()
}

fn seconds(time: Duration) -> u64 {
    time.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::auth::Identity;

    #[test]
    fn clients_that_are_alike_are_counted() {
        let session = |client: &str, identity: Identity, has_stream| SessionFacts {
            client: client.to_owned(),
            identity,
            has_stream,
        };
        let you = Identity::access("team", "you");
        let found = alike(vec![
            session("claude 1", Identity::local(), true),
            session("claude 1", you.clone(), false),
            session("claude 1", Identity::local(), false),
            session("cursor 2", Identity::local(), true),
        ]);
        let found: Vec<_> =
            found.iter().map(|c| (c.client.as_str(), c.identity.as_str(), c.sessions, c.streams)).collect();
        assert_eq!(found, [("claude 1", you.as_str(), 1, 0), ("claude 1", "local", 2, 1), ("cursor 2", "local", 1, 1)]);
    }
}
