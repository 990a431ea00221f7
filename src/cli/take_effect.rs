//! A file that was changed is to hold at once, where a ferry runs with it.

use std::fs;
use std::path::Path;

use super::change::shown;
use super::output;
use super::reload::report;
use crate::daemon::control::{ControlError, Controlled};
use crate::daemon::reload::Reloaded;
use crate::error::{Advise as _, Exit};

/// What became of it.
enum Effect {
    /// No ferry runs.
    NoFerry,
    /// One does, with another file.
    OtherFile(String),
    /// It has taken it over.
    Taken(Reloaded),
}

/// Has the ferry that runs with `file` reload it, and says what came of that. Where none runs, says `otherwise`.
pub(super) fn take_effect(file: &Path, otherwise: &str) -> Exit {
    match reload(file) {
        Ok(Effect::NoFerry) => {
            if !otherwise.is_empty() {
                output::note(otherwise);
            }
            Exit::Stopped
        }
        Ok(Effect::OtherFile(other)) => {
            output::note(&format!("the ferry that runs has another configuration, {other}, so nothing changes for it"));
            Exit::Stopped
        }
        Ok(Effect::Taken(done)) => {
            output::print(&format!("the ferry that runs has taken it over\n{}", report(&done)));
            Exit::Stopped
        }
        Err(error) => {
            output::note("the file is changed, but the ferry that runs goes on as before:");
            output::error(&error);
            error.exit()
        }
    }
}

fn reload(file: &Path) -> Result<Effect, ControlError> {
    let ferry = match Controlled::find() {
        Ok(ferry) => ferry,
        // Without a place for its socket there can be none.
        Err(ControlError::NotRunning { .. } | ControlError::Path(_) | ControlError::Socket(_)) => {
            return Ok(Effect::NoFerry);
        }
        Err(error) => return Err(error),
    };
    let status = ferry.status()?;
    // A link that stays one, or a directory that is reached by two ways.
    let same = fs::canonicalize(file).ok() == fs::canonicalize(&status.config).ok();
    if same { ferry.reload().map(Effect::Taken) } else { Ok(Effect::OtherFile(shown(&status.config))) }
}
