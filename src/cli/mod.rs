//! What people type: a file per command, arguments in, one call to a room, result to [`output`].

mod add;
mod change;
mod config;
mod connect;
mod demo;
mod import;
mod init;
mod list;
mod logs;
mod output;
mod reload;
mod remove;
mod restart;
mod run;
mod setup;
mod status;
mod take_effect;
mod teardown;
mod urls;

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

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
    /// Serve the servers of the configuration.
    Run(run::Run),
    /// Show how the ferry that runs is.
    Status(status::StatusCommand),
    /// Show what ferry or one of its servers has written.
    Logs(logs::Logs),
    /// Have the ferry that runs read its configuration again.
    Reload(reload::Reload),
    /// Restart one server's process; its sessions go on.
    Restart(restart::Restart),
    /// Write a configuration file to begin with.
    Init(init::Init),
    /// Add a server to the configuration.
    Add(add::Add),
    /// Remove a server from the configuration.
    Remove(remove::Remove),
    /// Show the servers of the configuration.
    List(list::List),
    /// Take over the servers of Claude Desktop, Claude Code, Cursor and VS Code.
    Import(import::Import),
    /// Make a protected public name at Cloudflare for the servers of the configuration.
    Setup(Box<setup::Setup>),
    /// Remove what `ferry setup` made.
    Teardown(teardown::Teardown),
    /// Show the public addresses of the servers, and how to connect each client.
    Urls(urls::Urls),
    /// Check the configuration, or print what may stand in it.
    Config(config::ConfigCommand),
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
        Some(Command::Run(arguments)) => run::run(&arguments),
        Some(Command::Status(arguments)) => status::run(&arguments),
        Some(Command::Logs(arguments)) => logs::run(&arguments),
        Some(Command::Reload(arguments)) => reload::run(&arguments),
        Some(Command::Restart(arguments)) => restart::run(&arguments),
        Some(Command::Init(arguments)) => init::run(&arguments),
        Some(Command::Add(arguments)) => add::run(&arguments),
        Some(Command::Remove(arguments)) => remove::run(&arguments),
        Some(Command::List(arguments)) => list::run(&arguments),
        Some(Command::Import(arguments)) => import::run(&arguments),
        Some(Command::Setup(arguments)) => setup::run(&arguments),
        Some(Command::Teardown(arguments)) => teardown::run(&arguments),
        Some(Command::Urls(arguments)) => urls::run(&arguments),
        Some(Command::Config(arguments)) => config::run(&arguments),
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

/// Whether there is a configuration file, or one was named.
fn is_configured() -> bool {
    let named = std::env::var_os(crate::env::FERRY_CONFIG).is_some_and(|name| !name.is_empty());
    named || paths::config_candidates(None).is_ok_and(|candidates| candidates.iter().any(|path| path.exists()))
}
