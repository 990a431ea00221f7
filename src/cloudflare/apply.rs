//! Carries a plan out, step by step. After each one the state file says what is done, so that whatever ends this in the
//! middle, the next run goes on from there.

use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::actual::{Actual, Record, Tunnel};
use super::client::{ApiError, Client};
use super::credentials::Credentials;
use super::desired::{Desired, GOOGLE_NAME, Login};
use super::plan::{Kind, Plan, Step, Verb};
use super::state::State;
use crate::error::{Advise, Exit};

/// Why a plan was not carried out to its end.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A file of this machine.
    #[error("{} cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The token of the tunnel is in a form that nobody knows.
    #[error("Cloudflare gave credentials of the tunnel in a form that ferry does not know")]
    Credentials,
    /// The system has no random numbers.
    #[error("the system has no random numbers")]
    Random,
    /// The plan has conflicts, and was not to be applied.
    #[error("nothing was changed: {}", .0.join("; "))]
    Conflicts(Vec<String>),
}

impl Advise for ApplyError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Api(error) => error.hint(),
            Self::Write { .. } => {
                Some("run `ferry setup` again once it can be; it goes on where it stopped".to_owned())
            }
            Self::Credentials | Self::Random | Self::Conflicts(_) => None,
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Api(error) => error.exit(),
            Self::Write { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Exit::NotPermitted,
            Self::Write { .. } | Self::Credentials | Self::Random | Self::Conflicts(_) => Exit::Failed,
        }
    }
}

/// What a step leaves for those after it.
#[derive(Deserialize)]
struct Made {
    id: String,
    aud: Option<String>,
}

/// Carries out `plan`, which came from `desired`, `actual` and `state`. `done` hears of every step that was done.
pub async fn apply(
    client: &Client,
    desired: &Desired,
    actual: &Actual,
    plan: &Plan,
    state: &mut State,
    state_dir: &Path,
    mut done: impl FnMut(&Step),
) -> Result<(), ApplyError> {
    if !plan.conflicts.is_empty() {
        return Err(ApplyError::Conflicts(plan.conflicts.clone()));
    }
    state.account_id = Some(actual.account_id.clone());
    state.zone_id = Some(actual.zone_id.clone());
    state.team_domain.clone_from(&actual.team_domain);
    if plan.replaces.is_some() {
        state.replaced_tunnel.clone_from(&plan.replaces);
    }
    let mut job = Job {
        client,
        desired,
        plan,
        account: format!("/accounts/{}", actual.account_id),
        records: format!("/zones/{}/dns_records", actual.zone_id),
    };
    for step in &plan.steps {
        job.step(step, state).await?;
        save(state, state_dir)?;
        if !matches!(step.verb, Verb::Keep | Verb::Wait) {
            done(step);
        }
    }
    if desired.remove_previous {
        state.previous = None;
    }
    save(state, state_dir)
}

fn save(state: &State, state_dir: &Path) -> Result<(), ApplyError> {
    let written = state.save(state_dir);
    written.map_err(|source| ApplyError::Write { path: state_dir.join(super::state::FILE), source })
}

struct Job<'a> {
    client: &'a Client,
    desired: &'a Desired,
    plan: &'a Plan,
    account: String,
    records: String,
}

impl Job<'_> {
    async fn step(&mut self, step: &Step, state: &mut State) -> Result<(), ApplyError> {
        let id = || step.id.clone().unwrap_or_default();
        match step.kind {
            Kind::Tunnel => self.tunnel(step, state).await,
            Kind::Credentials => self.credentials(step, state).await,
            Kind::Provider => self.provider(step, state).await,
            Kind::Policy => self.policy(step, state).await,
            Kind::App => self.app(step, state).await,
            Kind::Record => self.record(step, state).await,
            Kind::OldTunnel if step.verb == Verb::Remove => {
                self.client.delete(&format!("{}/cfd_tunnel/{}", self.account, id())).await?;
                state.replaced_tunnel = None;
                Ok(())
            }
            Kind::OldRecord => {
                let zone = state.previous.as_ref().and_then(|previous| previous.zone_id.clone());
                let zone = zone.or_else(|| state.zone_id.clone()).unwrap_or_default();
                Ok(self.client.delete(&format!("/zones/{zone}/dns_records/{}", id())).await?)
            }
            Kind::OldApp => Ok(self.client.delete(&format!("{}/access/apps/{}", self.account, id())).await?),
            Kind::OldPolicy => Ok(self.client.delete(&format!("{}/access/policies/{}", self.account, id())).await?),
            Kind::OldTunnel => Ok(()),
        }
    }

    async fn tunnel(&self, step: &Step, state: &mut State) -> Result<(), ApplyError> {
        if let Some(id) = &step.id {
            state.tunnel_id = Some(id.clone());
            return Ok(());
        }
        let path = format!("{}/cfd_tunnel", self.account);
        let mut secret = [0; 32];
        rand::fill(&mut secret).map_err(|_| ApplyError::Random)?;
        let body = json!({ "name": step.name, "config_src": "local", "tunnel_secret": STANDARD.encode(secret) });
        let find = async || {
            let there: Vec<Tunnel> = self.client.list(&path, &[("name", &step.name), ("is_deleted", "false")]).await?;
            let is_it =
                |tunnel: &Tunnel| tunnel.name == step.name && tunnel.deleted_at.is_none() && !tunnel.is_remote();
            Ok(there.into_iter().find(is_it).map(|tunnel| Made { id: tunnel.id, aud: None }))
        };
        let made = self.make(&path, &body, find).await?;
        state.tunnel_id = Some(made.id);
        state.made.insert(Kind::Tunnel);
        Ok(())
    }

    async fn credentials(&self, step: &Step, state: &mut State) -> Result<(), ApplyError> {
        let id = state.tunnel_id.clone().unwrap_or_default();
        let path = self.desired.credentials_path(&id);
        if step.verb != Verb::Keep {
            // Also for a new tunnel: its secret may have been given by a request whose answer was lost.
            let token: String = self.client.get(&format!("{}/cfd_tunnel/{id}/token", self.account), &[]).await?;
            let credentials = Credentials::from_token(&token).ok_or(ApplyError::Credentials)?;
            credentials.write(&path).map_err(|source| ApplyError::Write { path: path.clone(), source })?;
            state.made.insert(Kind::Credentials);
        }
        state.credentials_file = Some(path);
        Ok(())
    }

    async fn provider(&self, step: &Step, state: &mut State) -> Result<(), ApplyError> {
        let path = format!("{}/access/identity_providers", self.account);
        let (body, secret) = match &self.desired.login {
            Login::Google { client_id, client_secret } => {
                let secret = client_secret.as_ref();
                let config =
                    json!({ "client_id": client_id, "client_secret": secret.map(crate::secret::Secret::expose) });
                (json!({ "name": step.name, "type": "google", "config": config }), secret)
            }
            _ => (json!({ "name": step.name, "type": "onetimepin", "config": {} }), None),
        };
        match (step.verb, &step.id) {
            (Verb::Change, Some(id)) => {
                let _: Value = self.client.put(&format!("{path}/{id}"), &body).await?;
                state.provider_id = Some(id.clone());
            }
            (_, Some(id)) => {
                state.provider_id = Some(id.clone());
                return Ok(());
            }
            (_, None) => {
                let find = async || {
                    let there: Vec<Value> = self.client.list(&path, &[]).await?;
                    let is_it =
                        |provider: &&Value| provider["type"] == body["type"] && provider["name"] == body["name"];
                    Ok(there.iter().find(is_it).and_then(made))
                };
                state.provider_id = Some(self.make(&path, &body, find).await?.id);
                state.made.insert(Kind::Provider);
            }
        }
        if let Some(secret) = secret {
            state.note_pushed(secret);
        }
        if step.name == GOOGLE_NAME {
            state.made.insert(Kind::Provider);
        }
        Ok(())
    }

    async fn policy(&self, step: &Step, state: &mut State) -> Result<(), ApplyError> {
        let path = format!("{}/access/policies", self.account);
        let mut body = self.desired.policy();
        match (step.verb, &step.id) {
            (Verb::Change, Some(id)) => {
                let current: Value = self.client.get(&format!("{path}/{id}"), &[]).await?;
                body = updated_policy(&current, &body);
                let _: Value = self.client.put(&format!("{path}/{id}"), &body).await?;
                state.policy_id = Some(id.clone());
            }
            (_, Some(id)) => state.policy_id = Some(id.clone()),
            (_, None) => {
                let find = async || {
                    let there: Vec<Value> = self.client.list(&path, &[]).await?;
                    Ok(there.iter().find(|policy| policy["name"] == body["name"]).and_then(made))
                };
                state.policy_id = Some(self.make(&path, &body, find).await?.id);
            }
        }
        state.made.insert(Kind::Policy);
        Ok(())
    }

    async fn app(&self, step: &Step, state: &mut State) -> Result<(), ApplyError> {
        let path = format!("{}/access/apps", self.account);
        let id = |id: &Option<String>| id.clone().unwrap_or_default();
        let current = self.plan.app.as_ref();
        let body = self.desired.app(current, &id(&state.provider_id), &id(&state.policy_id));
        let found = match (step.verb, &step.id) {
            (Verb::Change, Some(id)) => self.client.put::<Made>(&format!("{path}/{id}"), &body).await?,
            (_, Some(_)) => current.and_then(made).ok_or(ApplyError::Credentials)?,
            (_, None) => {
                let find = async || {
                    let there: Vec<Value> = self.client.list(&path, &[]).await?;
                    Ok(there.iter().find(|app| app["name"] == body["name"]).and_then(made))
                };
                self.make(&path, &body, find).await?
            }
        };
        if step.id.is_none() || step.name == self.desired.app_name() {
            state.made.insert(Kind::App);
        }
        let aud = found.aud.or_else(|| current.and_then(|app| app["aud"].as_str().map(str::to_owned)));
        state.audience = aud;
        state.app_id = Some(found.id);
        Ok(())
    }

    async fn record(&self, step: &Step, state: &mut State) -> Result<(), ApplyError> {
        if step.verb == Verb::Wait {
            return Ok(());
        }
        for id in &self.plan.in_the_way {
            self.client.delete(&format!("{}/{id}", self.records)).await?;
        }
        let tunnel_id = state.tunnel_id.clone().unwrap_or_default();
        let body = self.desired.record(&tunnel_id, Some(&self.plan.record_comment));
        match (step.verb, &step.id) {
            (Verb::Change, Some(id)) => {
                let _: Value = self.client.put(&format!("{}/{id}", self.records), &body).await?;
                state.record_id = Some(id.clone());
            }
            (_, Some(id)) => state.record_id = Some(id.clone()),
            (_, None) => {
                let find = async || {
                    let there: Vec<Record> =
                        self.client.list(&self.records, &[("name.exact", &self.desired.hostname)]).await?;
                    let is_it = |record: &Record| record.kind == "CNAME" && body["content"] == record.content.as_str();
                    Ok(there.into_iter().find(is_it).map(|record| Made { id: record.id, aud: None }))
                };
                state.record_id = Some(self.make(&self.records, &body, find).await?.id);
            }
        }
        state.made.insert(Kind::Record);
        Ok(())
    }

    /// Makes something once. An answer that got lost may have been about something that was made all the same, so it is
    /// looked for before it is asked for again.
    async fn make(
        &self,
        path: &str,
        body: &Value,
        find: impl AsyncFn() -> Result<Option<Made>, ApiError>,
    ) -> Result<Made, ApplyError> {
        let error = match self.client.post::<Made>(path, body).await {
            Ok(made) => return Ok(made),
            Err(error) => error,
        };
        if !error.may_have_happened() && !error.is_taken() {
            return Err(error.into());
        }
        match find().await? {
            Some(made) => Ok(made),
            None if error.may_have_happened() => Ok(self.client.post(path, body).await?),
            None => Err(error.into()),
        }
    }
}

fn made(value: &Value) -> Option<Made> {
    let aud = value["aud"].as_str().map(str::to_owned);
    Some(Made { id: value["id"].as_str()?.to_owned(), aud })
}

/// A policy with its rules as they should be, and what else somebody set.
fn updated_policy(current: &Value, wanted: &Value) -> Value {
    const READ_ONLY: &[&str] = &["id", "uid", "app_count", "reusable", "created_at", "updated_at"];
    let mut policy = current.as_object().cloned().unwrap_or_default();
    policy.retain(|key, value| !READ_ONLY.contains(&key.as_str()) && !value.is_null());
    for key in ["decision", "include", "exclude", "require"] {
        policy.insert(key.to_owned(), wanted[key].clone());
    }
    Value::Object(policy)
}
