//! `ferry remove`: one server less.

use super::change::{self, ChangeError, ConfigArg, shown};
use super::output;
use super::take_effect::take_effect;
use crate::config::edit;
use crate::error::{Advise, Exit};

/// Arguments of `ferry remove`.
#[derive(Debug, clap::Args)]
pub(super) struct Remove {
    /// Its name.
    name: String,

    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn run(arguments: &Remove) -> Result<Exit, Box<dyn Advise>> {
    remove(arguments).map_err(|error| Box::new(error) as Box<dyn Advise>)
}

fn remove(arguments: &Remove) -> Result<Exit, ChangeError> {
    let file = arguments.config.located()?;
    let name = &arguments.name;
    let before = change::text_of(&file)?;
    let after = edit::remove(&before, name)?;
    if !edit::is_writable(&file) {
        let block = edit::find(&before, name).unwrap_or_default();
        output::print(&format!(
            "# {} cannot be written, so nothing in it was changed. To be removed where it is declared:\n\n{block}",
            file.display()
        ));
        return Ok(Exit::Stopped);
    }
    change::write(&file, &after)?;
    output::print(&format!("removed `{name}` from {}\n", shown(&file)));
    let env_file = file.with_file_name("env").join(format!("{name}.env"));
    if env_file.exists() {
        output::note(&format!("its variables are still in {}", shown(&env_file)));
    }
    Ok(take_effect(&file, ""))
}
