//! `ferry config`: whether the file is right, and what may stand in it.

use super::change::{ConfigArg, shown};
use super::output;
use crate::config::load::{Config, ConfigError};
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
    let config = Config::load(&config.located().map_err(boxed)?).map_err(boxed)?;
    configured::guard(&config).map_err(boxed)?;
    if !config.broken.is_empty() {
        // At start these would be broken alone; somebody who asks wants to know.
        let faults = config.broken.into_iter().flat_map(|broken| broken.faults).collect();
        return Err(boxed(ConfigError::Wrong { path: config.path, faults }));
    }
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
