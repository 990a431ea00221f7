//! `ferry reload`: the ferry that runs reads its configuration again.

use std::fmt::Write as _;

use super::change::shown;
use super::output::{self, Colour};
use crate::daemon::control::{ControlError, Controlled};
use crate::daemon::reload::{Arrival, Reloaded};
use crate::error::{Advise, Exit};

/// Arguments of `ferry reload`.
#[derive(Debug, clap::Args)]
pub(super) struct Reload {}

pub(super) fn run(_: &Reload) -> Result<Exit, Box<dyn Advise>> {
    let done = reload().map_err(|error| Box::new(error) as Box<dyn Advise>)?;
    output::print(&format!("reloaded {}\n{}", shown(&done.config), report(&done)));
    let arrived = done.started.iter().chain(&done.restarted);
    Ok(if arrived.clone().all(|arrival| arrival.healthy) { Exit::Stopped } else { Exit::Failed })
}

fn reload() -> Result<Reloaded, ControlError> {
    Controlled::find()?.reload()
}

/// What a reload has done, a line each.
pub(super) fn report(done: &Reloaded) -> String {
    let mut text = String::new();
    for arrival in &done.started {
        let _ = writeln!(text, "  started    {} at {}, {}", arrival.name, arrival.url, outcome(arrival));
    }
    for arrival in &done.restarted {
        let _ = writeln!(text, "  restarted  {}, for {}: {}", arrival.name, arrival.keys.join(", "), outcome(arrival));
    }
    for name in &done.stopped {
        let _ = writeln!(text, "  stopped    {name}");
    }
    if !done.live.is_empty() {
        let _ = writeln!(text, "  at once    {}", done.live.join(", "));
    }
    if text.is_empty() && done.waiting.is_empty() {
        text.push_str("  nothing that matters here has changed\n");
    } else if !done.unchanged.is_empty() {
        let _ = writeln!(text, "  untouched  {}", done.unchanged.join(", "));
    }
    if !done.waiting.is_empty() {
        let _ = writeln!(text, "  waits      {}, until ferry is started again", done.waiting.join(", "));
    }
    text
}

/// How a server is after its start.
pub(super) fn outcome(arrival: &Arrival) -> String {
    let state = if arrival.healthy { Colour::Good.paint(&arrival.state) } else { Colour::Bad.paint(&arrival.state) };
    match &arrival.error {
        Some(error) => format!("{state}: {error}"),
        None => state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(name: &str, keys: &[&str], error: Option<&str>) -> Arrival {
        Arrival {
            name: name.to_owned(),
            url: format!("http://127.0.0.1:8765/{name}"),
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            state: if error.is_some() { "failed" } else { "ready" }.to_owned(),
            healthy: error.is_none(),
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn what_happened_is_said_a_line_each() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut done = Reloaded {
            config: "/c".into(),
            started: vec![arrival("bear", &[], None), arrival("typo", &[], Some("`nope` was not found"))],
            restarted: vec![arrival("notes", &["command", "env"], None)],
            stopped: names(&["old"]),
            unchanged: names(&["files", "mail"]),
            live: names(&["bridge.allowed_hosts"]),
            waiting: names(&["bridge.local_port"]),
        };
        insta::assert_snapshot!(anstream::adapter::strip_str(&report(&done)));
        done = Reloaded { started: vec![], restarted: vec![], stopped: vec![], live: vec![], waiting: vec![], ..done };
        assert_eq!(report(&done), "  nothing that matters here has changed\n");
    }
}
