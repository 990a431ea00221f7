//! `ferry restart NAME`: one server's process anew. Its sessions go on.

use super::output;
use super::reload::outcome;
use crate::daemon::control::{ControlError, Controlled};
use crate::daemon::reload::Arrival;
use crate::error::{Advise, Exit};

/// Arguments of `ferry restart`.
#[derive(Debug, clap::Args)]
pub(super) struct Restart {
    /// The name of the server.
    name: String,
}

pub(super) fn run(arguments: &Restart) -> Result<Exit, Box<dyn Advise>> {
    let done = restart(&arguments.name).map_err(|error| Box::new(error) as Box<dyn Advise>)?;
    output::print(&format!("restarted {}: {}\n", done.name, outcome(&done)));
    Ok(if done.healthy { Exit::Stopped } else { Exit::Failed })
}

fn restart(name: &str) -> Result<Arrival, ControlError> {
    Controlled::find()?.restart(name)
}
