//! `ferry list`: the servers of the configuration.

use std::net::Ipv4Addr;

use serde_json::json;

use super::change::ConfigArg;
use super::output;
use crate::config::load::{Config, ConfigError};
use crate::config::words;
use crate::daemon::configured::{self, reachable};
use crate::error::{Advise, Exit};

/// Arguments of `ferry list`.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    #[command(flatten)]
    config: ConfigArg,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &List) -> Result<Exit, Box<dyn Advise>> {
    let config = load(&arguments.config).map_err(|error| Box::new(error) as Box<dyn Advise>)?;
    output::print(&if arguments.json { as_json(&config) } else { as_table(&config) });
    Ok(Exit::Stopped)
}

fn load(config: &ConfigArg) -> Result<Config, ConfigError> {
    Config::load(&config.located()?)
}

/// Where clients of this machine find ferry; its port may be any.
pub(super) fn base_url(config: &Config) -> String {
    let address = configured::local_address(config).unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 0).into());
    match (address.port(), reachable(address)) {
        (0, host) => format!("http://{}:<port>", host.trim_end_matches(":0")),
        (_, host) => format!("http://{host}"),
    }
}

fn as_table(config: &Config) -> String {
    let mut rows: Vec<(usize, [String; 4])> = Vec::new();
    for server in &config.servers {
        let state = if server.mcp.enabled { "on" } else { "off" };
        let row =
            [server.mcp.name.to_string(), server.mcp.path.to_string(), state.to_owned(), words::join(&server.argv)];
        rows.push((server.line, row));
    }
    for broken in &config.broken {
        let why = broken.faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let path = broken.path.clone().unwrap_or_else(|| "-".to_owned());
        rows.push((broken.line, [broken.name.clone(), path, "broken".to_owned(), why]));
    }
    if rows.is_empty() {
        return "no servers yet; `ferry add NAME -- COMMAND` adds one, `ferry import` finds those of other clients\n"
            .to_owned();
    }
    rows.sort_by_key(|(line, _)| *line);
    output::table(["NAME", "PATH", "STATE", "COMMAND"], rows.into_iter().map(|(_, row)| row))
}

fn as_json(config: &Config) -> String {
    let base = base_url(config);
    let servers = config.servers.iter().map(|server| {
        json!({
            "name": server.mcp.name.as_str(), "path": server.mcp.path.as_str(), "enabled": server.mcp.enabled,
            "url": format!("{base}{}", server.mcp.path), "command": server.argv, "line": server.line,
        })
    });
    let broken = config.broken.iter().map(|broken| {
        let faults = broken.faults.iter().map(|fault| json!({"line": fault.line, "text": fault.text}));
        json!({
            "name": broken.name, "path": broken.path, "line": broken.line, "faults": faults.collect::<Vec<_>>(),
        })
    });
    let all = json!({ "servers": servers.collect::<Vec<_>>(), "broken": broken.collect::<Vec<_>>() });
    format!("{all:#}\n")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const FILE: &str = "[[mcps]]\nname = 'bear'\npath = '/'\ncommand = 'bearcli \"a b\"'\n[[mcps]]\nname = 'x'\npath = 'x'\ncommand = 'x'\n[[mcps]]\nname = 'longer-name'\npath = '/longer'\ncommand = 'y'\nenabled = false\n";

    #[test]
    fn the_list_for_people_and_the_one_for_programs() {
        let config = Config::parse(FILE, Path::new("c"), None).unwrap();
        insta::assert_snapshot!(format!("{}\n{}", as_table(&config), as_json(&config)));
    }

    #[test]
    fn the_url_is_where_ferry_will_listen() {
        for (text, url) in [
            ("", "http://127.0.0.1:8765"),
            ("[bridge]\nlocal_port = 9000", "http://127.0.0.1:9000"),
            ("[bridge]\nlocal_port = 0", "http://127.0.0.1:<port>"),
            ("[bridge]\nlocal_listen = '[::1]:80'", "http://[::1]:80"),
        ] {
            assert_eq!(base_url(&Config::parse(text, Path::new("c"), None).unwrap()), url, "{text}");
        }
    }
}
