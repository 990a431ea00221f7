//! What people type: a file per command, arguments in, one call to a room, result to [`output`].

mod connect;
mod demo;
mod output;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::env::FERRY_CONFIG;
use crate::paths;

/// The hidden command by which ferry executes itself as the demo server.
const DEMO_SERVER: &str = "demo-server";

/// Runs stdio MCP servers on your machine and puts them on the web behind Cloudflare Access.
#[derive(Debug, Parser)]
#[command(name = "ferry", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one server now, without any configuration, and say how to connect to it.
    Try(demo::Try),
}

/// The whole program, but for the hidden processes it is made of: parse, run, report.
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).as_deref() == Some(OsStr::new(DEMO_SERVER)) {
        return crate::demo::run();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Also `--help` and `--version`, which go to stdout with code 0.
            let _ = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    let outcome = match cli.command {
        Some(Command::Try(arguments)) => demo::run(&arguments),
        None if is_configured() => {
            let _ = Cli::command().print_help();
            return ExitCode::SUCCESS;
        }
        None => demo::run(&demo::Try::default()),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => {
            output::error(&*error);
            error.exit().into()
        }
    }
}

/// Whether there is a configuration file, in one of the places where it is looked for.
fn is_configured() -> bool {
    let named = std::env::var_os(FERRY_CONFIG).map(PathBuf::from);
    let base = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|base| base.is_absolute());
    let base = base.or_else(|| paths::home().ok().map(|home| home.join(".config")));
    let own = base.map(|base| base.join("mcp-ferry/config.toml"));
    named.is_some() || own.is_some_and(|path| path.exists()) || PathBuf::from("/etc/mcp-ferry/config.toml").exists()
}
