//! `ferry init`: a configuration file to begin with.

use super::change::{ChangeError, ConfigArg, shown, write};
use super::output;
use crate::config::edit::STARTER;
use crate::error::{Advise, Exit};

/// Arguments of `ferry init`.
#[derive(Debug, clap::Args)]
pub(super) struct Init {
    #[command(flatten)]
    config: ConfigArg,

    /// Replace a file that exists.
    #[arg(long)]
    force: bool,
}

pub(super) fn run(arguments: &Init) -> Result<Exit, Box<dyn Advise>> {
    init(arguments).map_err(|error| Box::new(error) as Box<dyn Advise>)
}

fn init(arguments: &Init) -> Result<Exit, ChangeError> {
    let path = arguments.config.place_for_new()?;
    if path.exists() && !arguments.force {
        return Err(ChangeError::Exists { path });
    }
    write(&path, STARTER)?;
    output::print(&format!(
        "wrote {}\n\nNext:\n  ferry import                  take over the servers of Claude, Cursor and VS Code\n  \
         ferry add NAME -- COMMAND …   add one of your own\n  ferry run                     serve them\n",
        shown(&path)
    ));
    Ok(Exit::Stopped)
}
