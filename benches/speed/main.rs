//! How fast ferry is, and how small: `cargo bench`, or `cargo bench -- --quick`.
//!
//! What is measured is the release binary, as a process of its own, with a server behind it that answers at once
//! ([`echo`]). Beside it, in turns, stands what no bridge could be faster than: the same HTTP server answering by itself
//! ([`floor`]) and the bare pipe to the same server ([`pipe`]). This machine is noisy where others work on it, so what
//! counts are the ratios within one round; every figure is the median of the rounds, with the lowest and the highest.
//!
//! A wrong answer ends it with an error. No figure does.
#![allow(clippy::cast_precision_loss, reason = "no count here is beyond 2^52")]
#![allow(clippy::disallowed_methods, reason = "no steward runs in this process")]
#![allow(clippy::print_stdout, reason = "its table is what it is for")]

mod calls;
mod client;
mod echo;
mod floor;
mod large;
mod load;
mod memory;
mod pipe;
mod processes;
mod slow_reader;
mod start;
mod statistics;
mod table;

use std::process::ExitCode;
use std::time::Duration;

/// By these the bench executes itself as one of its helpers.
const ECHO: &str = "echo-server";
const FLOOR: &str = "floor-server";

/// How long everything takes.
struct Plan {
    rounds: usize,
    /// How long one cell of the table is measured in each round.
    cell: Duration,
    sessions: usize,
    streams: usize,
    starts: usize,
    large_results: usize,
    slow_results: usize,
}

const FULL: Plan = Plan {
    rounds: 5,
    cell: Duration::from_secs(1),
    sessions: 2000,
    streams: 500,
    starts: 15,
    large_results: 12,
    slow_results: 256,
};

/// For a look in between, and for CI, which wants to know whether it works.
const QUICK: Plan = Plan {
    rounds: 5,
    cell: Duration::from_millis(150),
    sessions: 500,
    streams: 100,
    starts: 5,
    large_results: 4,
    slow_results: 6,
};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ended = match arguments.first().map(String::as_str) {
        Some(ECHO) => echo::run().map_err(Into::into),
        Some(FLOOR) => floor::run(),
        _ => bench(&arguments),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the parts that are named, or all of them.
fn bench(arguments: &[String]) -> Outcome<()> {
    type Part = fn(&Plan) -> Outcome<()>;
    const PARTS: [(&str, Part); 5] = [
        ("calls", calls::measure),
        ("large", large::measure),
        ("start", start::measure),
        ("memory", memory::measure),
        ("slow", slow_reader::measure),
    ];
    let plan = if arguments.iter().any(|argument| argument == "--quick") { QUICK } else { FULL };
    // cargo adds options of its own.
    let named: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    if let Some(unknown) = named.iter().find(|name| !PARTS.iter().any(|(part, _)| *part == name.as_str())) {
        return Err(
            format!("there is no part `{unknown}`; there are {}", PARTS.map(|(part, _)| part).join(", ")).into()
        );
    }
    table::preface(&plan);
    for (name, part) in PARTS {
        if named.is_empty() || named.iter().any(|wanted| wanted.as_str() == name) {
            part(&plan)?;
        }
    }
    Ok(())
}
