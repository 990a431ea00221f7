//! `ferry config`: whether the file is right, and what may stand in it.

use super::change::{ConfigArg, shown};
use super::output;
use crate::config::schema;
use crate::daemon::configured;
use crate::error::{Advise, Exit};

/// Arguments of `ferry config`.
#[derive(Debug, clap::Args)]
pub(super) struct ConfigCommand {
    #[command(subcommand)]
    command: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Say whether the configuration is right, and else all that is wrong with it.
    Check(ConfigArg),
    /// Print the JSON Schema of the configuration, for editors.
    Schema,
}

pub(super) fn run(arguments: &ConfigCommand) -> Result<Exit, Box<dyn Advise>> {
    match &arguments.command {
        What::Check(config) => check(config),
        What::Schema => {
            output::print(&format!("{:#}\n", schema::json_schema()));
            Ok(Exit::Stopped)
        }
    }
}

fn check(config: &ConfigArg) -> Result<Exit, Box<dyn Advise>> {
    let config = configured::load_whole(&config.located().map_err(boxed)?).map_err(boxed)?;
    let servers: Vec<String> = config
        .servers
        .iter()
        .map(|server| {
            let off = if server.mcp.enabled { "" } else { " (off)" };
            format!("  {} at {}{off}\n", server.mcp.name, server.mcp.path)
        })
        .collect();
    let count = match servers.len() {
        0 => "no servers yet; `ferry add` adds one".to_owned(),
        1 => "1 server".to_owned(),
        many => format!("{many} servers"),
    };
    output::print(&format!("{} is right: {count}\n{}", shown(&config.path), servers.concat()));
    Ok(Exit::Stopped)
}

fn boxed<E: Advise + 'static>(error: E) -> Box<dyn Advise> {
    Box::new(error)
}
