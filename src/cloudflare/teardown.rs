//! Removing what `setup` made, and nothing else.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::Value;

use super::actual::Record;
use super::apply::ApplyError;
use super::client::{ApiError, Client};
use super::desired::target;
use super::plan::{Kind, Plan, Step, Verb};
use super::state::State;

/// What is to be removed. The name goes first: without its record nothing is public, and only then does its protection go.
pub fn plan(state: &State) -> Plan {
    let hostname = state.hostname.clone().unwrap_or_default();
    let candidates = [
        (Kind::Record, &state.record_id),
        (Kind::App, &state.app_id),
        (Kind::Policy, &state.policy_id),
        (Kind::Provider, &state.provider_id),
        (Kind::Tunnel, &state.tunnel_id),
    ];
    let mut plan = Plan::default();
    for (kind, id) in candidates {
        let Some(id) = id else { continue };
        let is_ours = state.made.contains(&kind);
        plan.steps.push(Step {
            verb: if is_ours { Verb::Remove } else { Verb::Keep },
            kind,
            name: hostname.clone(),
            id: Some(id.clone()),
            differences: Vec::new(),
            note: (!is_ours).then(|| "it was there before".to_owned()),
        });
    }
    if let Some(file) = state.credentials_file.as_ref().filter(|_| state.made.contains(&Kind::Credentials)) {
        plan.steps.push(Step {
            verb: Verb::Remove,
            kind: Kind::Credentials,
            name: file.display().to_string(),
            id: None,
            differences: Vec::new(),
            note: None,
        });
    }
    plan
}

/// Removes it. What was removed is struck off the state at once, so that an interruption costs nothing.
pub async fn apply(
    client: &Client,
    plan: &Plan,
    state: &mut State,
    state_dir: &Path,
    mut done: impl FnMut(&Step),
) -> Result<(), ApplyError> {
    let account = format!("/accounts/{}", state.account_id.clone().unwrap_or_default());
    let zone = format!("/zones/{}", state.zone_id.clone().unwrap_or_default());
    for step in plan.steps.iter().filter(|step| step.verb == Verb::Remove) {
        let id = step.id.clone().unwrap_or_default();
        match step.kind {
            Kind::Record => record(client, &format!("{zone}/dns_records/{id}"), state).await?,
            Kind::App => client.delete(&format!("{account}/access/apps/{id}")).await?,
            Kind::Policy => client.delete(&format!("{account}/access/policies/{id}")).await?,
            Kind::Provider => provider(client, &account, &id).await?,
            Kind::Tunnel => {
                // A tunnel with connections cannot be deleted.
                client.delete(&format!("{account}/cfd_tunnel/{id}/connections")).await?;
                client.delete(&format!("{account}/cfd_tunnel/{id}")).await?;
            }
            Kind::Credentials => match fs::remove_file(&step.name) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(ApplyError::Write { path: step.name.clone().into(), source });
                }
                _ => {}
            },
            Kind::OldTunnel | Kind::OldRecord | Kind::OldApp | Kind::OldPolicy => {}
        }
        forget(state, step.kind);
        let written = state.save(state_dir);
        written.map_err(|source| ApplyError::Write { path: state_dir.join(super::state::FILE), source })?;
        done(step);
    }
    State::remove(state_dir).map_err(|source| ApplyError::Write { path: state_dir.join(super::state::FILE), source })
}

/// Somebody may have pointed the record elsewhere since: then it is no longer ferry's.
async fn record(client: &Client, path: &str, state: &State) -> Result<(), ApiError> {
    let found: Record = match client.get(path, &[]).await {
        Err(error) if error.is_absent() => return Ok(()),
        found => found?,
    };
    let ours = state
        .tunnel_id
        .iter()
        .chain(&state.replaced_tunnel)
        .any(|id| found.content.trim_end_matches('.') == target(id));
    if ours { client.delete(path).await } else { Ok(()) }
}

/// A login belongs to the whole account: one that another application relies on stays. An application that names none
/// takes them all.
async fn provider(client: &Client, account: &str, id: &str) -> Result<(), ApiError> {
    let apps: Vec<Value> = client.list(&format!("{account}/access/apps"), &[]).await?;
    let relies = |app: &Value| match app["allowed_idps"].as_array().map(Vec::as_slice) {
        None | Some([]) => true,
        Some(named) => named.iter().any(|named| named == id),
    };
    if apps.iter().any(relies) {
        Ok(())
    } else {
        client.delete(&format!("{account}/access/identity_providers/{id}")).await
    }
}

fn forget(state: &mut State, kind: Kind) {
    state.made.remove(&kind);
    match kind {
        Kind::Record => state.record_id = None,
        Kind::App => {
            state.app_id = None;
            state.audience = None;
        }
        Kind::Policy => state.policy_id = None,
        Kind::Provider => {
            state.provider_id = None;
            state.pushed_secret = None;
        }
        Kind::Tunnel => state.tunnel_id = None,
        Kind::Credentials => state.credentials_file = None,
        Kind::OldTunnel | Kind::OldRecord | Kind::OldApp | Kind::OldPolicy => {}
    }
}
