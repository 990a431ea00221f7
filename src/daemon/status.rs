//! What `ferry status` shows: worked out when asked, never stored.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::health::{self, Word};
use super::servers::{Broken, Running, Servers, together};
use super::tunnel::{TunnelFacts, Way};
use crate::bridge::endpoint::SessionFacts;
use crate::mcp::version::Era;
use crate::supervisor::{State, memory_by_group};

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
    /// How the tunnel is.
    pub tunnel: TunnelFacts,
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
    /// Seconds since it has been so, where it is one process.
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
    /// Requests that wait for it.
    pub in_flight: usize,
    /// How often it was started again.
    pub restarts: u64,
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

/// What others know of this ferry.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) config: PathBuf,
    pub(super) logs: PathBuf,
    pub(super) local: Option<String>,
    pub(super) uptime: Duration,
    pub(super) waiting: Vec<String>,
}

/// Looks at everything.
pub(super) async fn status(around: Surroundings, servers: &Servers, tunnel: &Way) -> Status {
    let memory = spawn_blocking(memory_by_group).await.unwrap_or_default();
    let running = servers.serving();
    let broken = servers.broken();
    let mut all: Vec<ServerStatus> = running.iter().map(|running| of_server(running, &memory)).collect();
    all.extend(broken.into_iter().map(of_broken));
    let tunnel = tunnel.facts();
    Status {
        healthy: tunnel.healthy && all.iter().all(|server| server.healthy),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime: around.uptime.as_secs(),
        config: around.config,
        logs: around.logs,
        local: around.local,
        tunnel,
        waiting: around.waiting,
        servers: all,
    }
}

fn of_server(running: &Running, memory: &BTreeMap<i32, u64>) -> ServerStatus {
    let facts = running.endpoint.observed();
    let members = running.pool.members();
    let states: Vec<State> = members.iter().map(|member| running.state_of(member)).collect();
    let known: Vec<_> = members.iter().map(|member| member.process.watch().borrow().clone()).collect();
    let processes = members.iter().zip(&states).zip(&known).filter_map(|((member, state), known)| {
        let pid = known.pid?;
        Some(ProcessStatus {
            pid,
            state: state.word().to_owned(),
            since: known.since.elapsed().as_secs(),
            in_flight: member.child.upgrade().map_or(0, |child| child.in_flight()),
            restarts: known.restarts,
            memory: memory.get(&pid).copied(),
        })
    });
    let healthy = health::of_server(&states) == Word::Ok;
    ServerStatus {
        name: running.name().to_owned(),
        path: Some(running.endpoint.path().to_owned()),
        state: together(&states).word().to_owned(),
        since: if let [only] = &known[..] { Some(only.since.elapsed().as_secs()) } else { None },
        healthy,
        error: running.error().filter(|_| !healthy),
        era: facts.era,
        protocol: facts.protocol,
        server: facts.server,
        in_flight: facts.in_flight,
        sessions: facts.sessions.len(),
        restarts: running.pool.restarts(),
        processes: processes.collect(),
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
