//! `ferry teardown`: removes what `ferry setup` made.

use super::output;
use super::setup::{Account, SetupError, show};
use crate::cloudflare::state::State;
use crate::cloudflare::teardown;
use crate::error::{Advise, Exit};
use crate::paths;

/// Arguments of `ferry teardown`.
#[derive(Debug, clap::Args)]
pub(super) struct Teardown {
    #[command(flatten)]
    account: Account,
}

pub(super) fn run(arguments: &Teardown) -> Result<Exit, Box<dyn Advise>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Box::new(SetupError::System(error)) as Box<dyn Advise>)?;
    runtime.block_on(tear_down(arguments)).map_err(|error| Box::new(error) as Box<dyn Advise>)
}

async fn tear_down(arguments: &Teardown) -> Result<Exit, SetupError> {
    let account = &arguments.account;
    let state_dir = paths::state_dir()?;
    let mut state = State::load(&state_dir);
    let plan = teardown::plan(&state);
    show(&plan, account.json);
    if plan.is_empty() {
        output::note("there is nothing that `ferry setup` made from this machine");
        return Ok(Exit::Stopped);
    }
    if account.plan {
        return Ok(Exit::Stopped);
    }
    account.confirm("Remove this?")?;
    let client = account.client()?;
    teardown::apply(&client, &plan, &mut state, &state_dir, |_| {}).await?;
    if !account.json {
        output::note("removed");
    }
    Ok(Exit::Stopped)
}
