//! Parse, run, print one report, exit.

use std::process::ExitCode;

use mcp_ferry::cli;
use mcp_ferry::supervisor::guard;

fn main() -> ExitCode {
    // First of all: the guard has no runtime, no threads and no arguments that people type.
    match guard::take_over(std::env::args_os().skip(1)) {
        Some(exit) => exit,
        None => cli::main(),
    }
}
