//! Parse, run, print one report, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("demo-server") => mcp_ferry::demo::run(),
        _ => ExitCode::SUCCESS,
    }
}
