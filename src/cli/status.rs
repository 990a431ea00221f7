//! `ferry status`: how the ferry that runs is, for people, for programs, and as an exit code.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

use super::change::shown;
use super::output::{self, Cell, Colour, tame};
use crate::daemon::control::{ControlError, Controlled};
use crate::daemon::status::{ClientStatus, ServerStatus, Status};
use crate::daemon::tunnel::TunnelFacts;
use crate::error::{Advise, Exit};

/// How often `--watch` looks.
const GLANCE: Duration = Duration::from_secs(1);

/// Arguments of `ferry status`.
#[derive(Debug, clap::Args)]
pub(super) struct StatusCommand {
    /// Print JSON.
    #[arg(long)]
    json: bool,

    /// Look again every second, until Ctrl-C.
    #[arg(long)]
    watch: bool,

    /// Print nothing: the exit code says whether all is well.
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    quiet: bool,
}

pub(super) fn run(arguments: &StatusCommand) -> Result<Exit, Box<dyn Advise>> {
    if arguments.watch {
        watch(arguments.json);
        return Ok(Exit::Stopped);
    }
    match look() {
        Ok(status) => {
            if !arguments.quiet {
                output::print(&if arguments.json { as_json(&status) } else { screen(&status) });
            }
            Ok(if status.healthy { Exit::Stopped } else { Exit::Failed })
        }
        Err(error) if arguments.quiet => Ok(error.exit()),
        Err(error) => Err(Box::new(error)),
    }
}

fn look() -> Result<Status, ControlError> {
    Controlled::find()?.status()
}

/// Until Ctrl-C ends it, or nobody reads it any more. A ferry that ends and comes back is shown again.
fn watch(json: bool) {
    let in_place = !json && std::io::stdout().is_terminal();
    if in_place {
        output::print("\x1b[2J");
    }
    loop {
        let frame = match look() {
            Ok(status) if json => serde_json::to_string(&status).unwrap_or_default() + "\n",
            Ok(status) => screen(&status),
            Err(error) if json => serde_json::json!({ "error": error.to_string() }).to_string() + "\n",
            Err(error) => format!("{error}\n"),
        };
        if output::try_print(&if in_place { drawn_over(&frame, rows()) } else { frame }).is_err() {
            return;
        }
        std::thread::sleep(GLANCE);
    }
}

fn rows() -> usize {
    terminal_size::terminal_size().map_or(usize::MAX, |(_, height)| usize::from(height.0))
}

/// One frame in the place of the one before, in one write and without an empty moment: nothing flickers. What is too
/// wide is cut by the terminal, what is too long is cut here.
fn drawn_over(frame: &str, rows: usize) -> String {
    const HOME_WITHOUT_WRAPPING: &str = "\x1b[H\x1b[?7l";
    const REST_EMPTY_AND_WRAPPING: &str = "\x1b[J\x1b[?7h";
    let lines: Vec<&str> = frame.lines().collect();
    // The last row takes the cursor.
    let shown = if lines.len() < rows { lines.len() } else { rows.saturating_sub(2) };
    let mut text = HOME_WITHOUT_WRAPPING.to_owned();
    for line in &lines[..shown] {
        let _ = writeln!(text, "{line}\x1b[K");
    }
    if shown < lines.len() {
        let _ = writeln!(text, "… and {} more lines\x1b[K", lines.len() - shown);
    }
    text + REST_EMPTY_AND_WRAPPING
}

fn as_json(status: &Status) -> String {
    serde_json::to_string_pretty(status).unwrap_or_default() + "\n"
}

fn screen(status: &Status) -> String {
    let well = match status.servers.iter().filter(|server| !server.healthy).count() {
        0 if !status.tunnel.healthy => Colour::Bad.paint("the tunnel is not open"),
        0 => Colour::Good.paint("all is well"),
        1 => Colour::Bad.paint("one server is not well"),
        many => Colour::Bad.paint(&format!("{many} servers are not well")),
    };
    let local = status.local.as_deref().unwrap_or("the local listener is off");
    let mut text = format!(
        "ferry {} at {local}: {well}\npid {}, up {}, with {}\n",
        status.version,
        status.pid,
        time(status.uptime),
        shown(&status.config)
    );
    text.push_str(&tunnel(&status.tunnel));
    if status.servers.is_empty() {
        text.push_str("no servers yet: `ferry add NAME -- COMMAND` adds one\n");
    } else {
        text.push_str(&table(&status.servers));
    }
    for server in status.servers.iter().filter(|server| !server.healthy) {
        if let Some(error) = &server.error {
            let _ = write!(text, "\n{} {}: {error}\n", Colour::Bad.paint("!"), server.name);
        }
    }
    let connected: Vec<String> = status.servers.iter().filter_map(connected).collect();
    if !connected.is_empty() {
        let _ = write!(text, "\nconnected\n{}", connected.concat());
    }
    if !status.waiting.is_empty() {
        let _ = write!(text, "\nchanged, and waits until ferry is started again: {}\n", status.waiting.join(", "));
    }
    text
}

/// A line for a tunnel that works, some for one that does not, none for one that nobody wants.
fn tunnel(tunnel: &TunnelFacts) -> String {
    let since = tunnel.since.map(time).unwrap_or_default();
    let state = match tunnel.state.as_str() {
        "off" => return "\n".to_owned(),
        "connected" => {
            let many = if tunnel.connections == 1 { "" } else { "s" };
            Colour::Good.paint(&format!("open for {since}, {} connection{many}", tunnel.connections))
        }
        "lost" => Colour::Bad.paint(&format!("lost {since} ago")),
        "starting" => Colour::Waiting.paint("starting"),
        other => Colour::Bad.paint(other),
    };
    let mut text = format!("tunnel: {state}\n");
    if !tunnel.healthy {
        let lines = [("", &tunnel.error), ("hint: ", &tunnel.fix)];
        for (word, line) in lines {
            let _ = line.as_ref().map(|line| writeln!(text, "  {word}{}", tame(line)));
        }
    }
    text + "\n"
}

fn table(servers: &[ServerStatus]) -> String {
    const HEAD: [&str; 10] =
        ["NAME", "PATH", "STATE", "FOR", "PID", "ERA", "SESSIONS", "IN FLIGHT", "RESTARTS", "MEMORY"];
    let rows = servers.iter().map(|server| {
        let colour = match server.state.as_str() {
            "ready" => Colour::Good,
            _ if server.healthy => Colour::Faint,
            "starting" => Colour::Waiting,
            _ => Colour::Bad,
        };
        let none = || "-".to_owned();
        let pid = match &server.processes[..] {
            [] => none(),
            [process] => process.pid.to_string(),
            many => format!("{} processes", many.len()),
        };
        let memory: u64 = server.processes.iter().filter_map(|process| process.memory).sum();
        [
            Cell::from(server.name.clone()),
            Cell::from(server.path.clone().unwrap_or_else(none)),
            Cell::coloured(server.state.clone(), colour),
            Cell::number(server.since.map_or_else(none, time)),
            Cell::number(pid),
            Cell::from(server.era.map_or_else(none, |era| era.to_string())),
            Cell::number(server.sessions.to_string()),
            Cell::number(server.in_flight.to_string()),
            Cell::number(server.restarts.to_string()),
            Cell::number(if memory == 0 { none() } else { size(memory) }),
        ]
    });
    output::table(HEAD, rows)
}

/// Who is connected to one server.
fn connected(server: &ServerStatus) -> Option<String> {
    if server.clients.is_empty() {
        return None;
    }
    let local_only = server.clients.iter().all(|client| client.identity == "local");
    let clients: Vec<String> = server.clients.iter().map(|client| one(client, local_only)).collect();
    Some(format!("  {}: {}\n", server.name, clients.join(", ")))
}

fn one(client: &ClientStatus, local_only: bool) -> String {
    let name = if client.client.is_empty() { "without a name".to_owned() } else { tame(&client.client) };
    let times = if client.sessions > 1 { format!(" ×{}", client.sessions) } else { String::new() };
    let whose = if local_only { String::new() } else { format!(" ({})", tame(&client.identity)) };
    format!("{name}{times}{whose}")
}

/// A time in its two largest units.
fn time(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

fn size(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mib => format!("{mib} MiB"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn server(name: &str, state: &str, more: &Value) -> Value {
        let mut server = json!({
            "name": name, "path": format!("/{name}"), "state": state, "since": 5, "healthy": true, "error": null,
            "era": null, "protocol": null, "server": null, "in_flight": 0, "sessions": 0, "restarts": 0,
            "processes": [], "clients": [],
        });
        server.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server
    }

    fn tunnel(state: &str, more: &Value) -> Value {
        let mut tunnel = json!({ "state": state, "healthy": state == "off", "connections": 0, "restarts": 0 });
        tunnel.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        tunnel
    }

    fn status(healthy: bool, waiting: &[&str], servers: &[Value]) -> Status {
        serde_json::from_value(json!({
            "healthy": healthy, "version": "1.2.3", "pid": 4711, "uptime": 7503, "config": "/etc/mcp-ferry/config.toml",
            "logs": "/var/log", "local": "http://127.0.0.1:8765", "tunnel": tunnel("off", &json!({})), "waiting": waiting, "servers": servers,
        }))
        .unwrap()
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn the_tunnel_is_shown_where_there_is_one() {
        for (state, more, text) in [
            ("off", json!({}), "\n"),
            ("starting", json!({}), "tunnel: starting\n\n"),
            (
                "connected",
                json!({ "healthy": true, "connections": 4, "since": 7503, "error": "old" }),
                "tunnel: open for 2h 5m, 4 connections\n\n",
            ),
            (
                "lost",
                json!({ "since": 61, "error": "Cloudflare cannot be reached: x" }),
                "tunnel: lost 1m 1s ago\n  Cloudflare cannot be reached: x\n\n",
            ),
            (
                "failed",
                json!({ "error": "why", "fix": "`ferry setup`" }),
                "tunnel: failed\n  why\n  hint: `ferry setup`\n\n",
            ),
        ] {
            let facts = serde_json::from_value(tunnel(state, &more)).unwrap();
            assert_eq!(plain(&super::tunnel(&facts)), text);
        }
    }

    #[test]
    fn a_screen_where_all_is_well() {
        let process = |pid: i32| json!({ "pid": pid, "state": "ready", "since": 3, "in_flight": 0, "restarts": 0, "memory": 48 << 20 });
        let client = |name: &str, identity: &str, sessions: usize| json!({ "client": name, "identity": identity, "sessions": sessions, "streams": 0 });
        let servers = [
            server(
                "bear",
                "ready",
                &json!({
                    "era": "legacy", "sessions": 3, "in_flight": 1, "restarts": 2, "processes": [process(4720)],
                    "clients": [client("claude-ai 0.1.0", "local", 1), client("evil\u{1b}[2J 1", "local", 2)],
                }),
            ),
            server(
                "many-of-them",
                "ready",
                &json!({
                    "era": "modern", "since": 90_061, "processes": [process(1), process(2)],
                    "clients": [client("", "access:team:me@example.com", 1)],
                }),
            ),
            server("lazy", "resting", &json!({})),
        ];
        insta::assert_snapshot!(plain(&screen(&status(true, &[], &servers))));
        insta::assert_snapshot!(plain(&screen(&status(true, &[], &[]))));
    }

    #[test]
    fn a_screen_where_something_is_wrong() {
        let error = "`nope` was not found; the PATH searched is /usr/bin:/bin";
        let servers = [
            server("notes", "failed", &json!({ "healthy": false, "error": error })),
            server("soon", "starting", &json!({ "healthy": false })),
            server(
                "typo",
                "broken",
                &json!({
                    "healthy": false, "path": null, "since": null, "error": "line 3: unknown key `comand`",
                }),
            ),
        ];
        insta::assert_snapshot!(plain(&screen(&status(false, &["bridge.local_port"], &servers))));
    }

    #[test]
    fn a_frame_covers_the_one_before_and_fits_the_screen() {
        assert_eq!(drawn_over("a\nb\n", 24), "\x1b[H\x1b[?7la\x1b[K\nb\x1b[K\n\x1b[J\x1b[?7h");
        let cut = drawn_over("1\n2\n3\n4\n5\n", 4);
        assert_eq!(cut.matches('\n').count(), 3, "{cut:?}");
        assert!(cut.contains("… and 3 more lines"), "{cut:?}");
    }

    #[test]
    fn times_and_sizes_are_short() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (61, "1m 1s"), (3600, "1h 0m"), (90_000, "1d 1h")] {
            assert_eq!(time(seconds), text);
        }
        assert_eq!((size(900 << 10), size(5 << 30)), ("900 KiB".to_owned(), "5120 MiB".to_owned()));
    }
}
