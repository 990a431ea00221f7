//! What people type: a file per command, arguments in, one call to a room, result to [`output`].

mod demo;
mod output;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs stdio MCP servers on your machine and puts them on the web behind Cloudflare Access.
#[derive(Debug, Parser)]
#[command(name = "ferry", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one server now, without any configuration.
    Try(demo::Try),
}

/// The whole program, but for the guard: parse, run, report.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Also `--help` and `--version`, which go to stdout with code 0.
            let _ = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    let outcome = match cli.command {
        Command::Try(arguments) => demo::run(arguments),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => {
            output::error(&*error);
            error.exit().into()
        }
    }
}
