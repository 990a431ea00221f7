//! What there is at Cloudflare: read whole before anything is written.

use serde::Deserialize;
use serde_json::Value;

use super::client::{ApiError, Client, Reported};
use super::state::State;
use crate::error::{Advise, Exit};

/// Where to look.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// The account, if it is known.
    pub account_id: Option<String>,
    /// The zone, if it is known.
    pub zone_id: Option<String>,
    /// The team domain, where the token may not read it.
    pub team_domain: Option<String>,
}

/// A zone.
#[derive(Debug, Clone, Deserialize)]
pub struct Zone {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `active`, once its name servers are Cloudflare's.
    pub status: Option<String>,
    /// Whose it is.
    pub account: Option<Named>,
}

/// Something with an id, and perhaps a name.
#[derive(Debug, Clone, Deserialize)]
pub struct Named {
    /// Its id.
    pub id: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
}

/// A tunnel.
#[derive(Debug, Clone, Deserialize)]
pub struct Tunnel {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `local`, or `cloudflare` where the dashboard configures it.
    pub config_src: Option<String>,
    /// The same, in older answers.
    pub remote_config: Option<bool>,
    /// `inactive`, `degraded`, `healthy` or `down`.
    pub status: Option<String>,
    /// Set once it is deleted.
    pub deleted_at: Option<String>,
}

impl Tunnel {
    /// Whether the dashboard configures it: then its configuration replaces ferry's while it runs.
    pub fn is_remote(&self) -> bool {
        self.config_src.as_deref() == Some("cloudflare")
            || (self.config_src.is_none() && self.remote_config == Some(true))
    }

    /// Whether a connector serves it now.
    pub fn is_connected(&self) -> bool {
        matches!(self.status.as_deref(), Some("healthy" | "degraded"))
    }
}

/// A DNS record.
#[derive(Debug, Clone, Deserialize)]
pub struct Record {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it says.
    #[serde(default)]
    pub content: String,
    /// Whether Cloudflare stands in front.
    pub proxied: Option<bool>,
    /// Its comment.
    #[serde(default)]
    pub comment: Value,
}

/// What there is.
#[derive(Debug, Clone, Default)]
pub struct Actual {
    /// The account.
    pub account_id: String,
    /// The zone.
    pub zone_id: String,
    /// The zone's name and status, where the token may read it.
    pub zone: Option<(String, Option<String>)>,
    /// The team domain.
    pub team_domain: Option<String>,
    /// Whether Zero Trust was never set up.
    pub has_no_zero_trust: bool,
    /// The tunnels that are not deleted.
    pub tunnels: Vec<Tunnel>,
    /// The records at the hostname, of any type.
    pub records: Vec<Record>,
    /// The identity providers.
    pub providers: Vec<Value>,
    /// The applications.
    pub apps: Vec<Value>,
    /// The reusable policies.
    pub policies: Vec<Value>,
    /// The records that point to the replaced tunnel.
    pub replaced_records: Vec<Record>,
    /// What could not be read, and does no harm.
    pub warnings: Vec<String>,
}

/// Why that could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The API.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The token is no good.
    #[error("Cloudflare does not accept this API token: {0}")]
    Token(String),
    /// A permission that this step needs.
    #[error("the API token may not read {what}: it needs the permission `{permission}`")]
    Forbidden {
        /// What was to be read.
        what: &'static str,
        /// The permission, as the dashboard names it.
        permission: &'static str,
    },
    /// There is no such zone that the token can see.
    #[error("the API token sees no zone for {0}")]
    NoZone(String),
    /// Which account is not clear.
    #[error("the API token reaches {} accounts{}", .0.len(), names(.0))]
    Account(Vec<String>),
}

fn names(accounts: &[String]) -> String {
    if accounts.is_empty() { String::new() } else { format!(": {}", accounts.join(", ")) }
}

impl Advise for ReadError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Api(error) => error.hint(),
            Self::Token(_) => Some("make one at https://dash.cloudflare.com/profile/api-tokens; `ferry setup --help` lists what it needs".to_owned()),
            Self::Forbidden { .. } => {
                Some("add it to the token at https://dash.cloudflare.com/profile/api-tokens; its value stays the same".to_owned())
            }
            Self::NoZone(_) => Some(
                "give the token `Zone → Zone → Read` for that domain, or name the zone with `--zone-id` and the account with \
                 `--account-id`"
                    .to_owned(),
            ),
            Self::Account(_) => Some("name one with `--account-id`".to_owned()),
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Api(error) => error.exit(),
            Self::Token(_) | Self::Forbidden { .. } => Exit::NotPermitted,
            Self::NoZone(_) | Self::Account(_) => Exit::Failed,
        }
    }
}

const TUNNEL: &str = "Account → Cloudflare Tunnel → Edit";
const DNS: &str = "Zone → DNS → Edit";
const APPS: &str = "Account → Access: Apps and Policies → Edit";
const PROVIDERS: &str = "Account → Access: Organizations, Identity Providers, and Groups → Edit";

/// What the token needs, as the dashboard names it.
pub const PERMISSIONS: &[&str] = &[TUNNEL, APPS, PROVIDERS, DNS, "Zone → Zone → Read"];

/// Reads everything that `setup` looks at.
pub async fn read(client: &Client, scope: &Scope, hostname: &str, state: &State) -> Result<Actual, ReadError> {
    verify(client, scope.account_id.as_deref()).await?;
    let mut actual = Actual::default();
    let zone = zone(client, scope, hostname, &mut actual.warnings).await?;
    actual.account_id = match (&scope.account_id, zone.as_ref().and_then(|zone| zone.account.as_ref())) {
        (Some(id), _) => id.clone(),
        (None, Some(account)) => account.id.clone(),
        (None, None) => account(client).await?,
    };
    actual.zone_id = match (&scope.zone_id, &zone) {
        (Some(id), _) => id.clone(),
        (None, Some(zone)) => zone.id.clone(),
        (None, None) => return Err(ReadError::NoZone(hostname.to_owned())),
    };
    actual.zone = zone.map(|zone| (zone.name, zone.status));
    let account = format!("/accounts/{}", actual.account_id);
    organization(client, &account, scope, &mut actual).await?;
    let tunnels: Vec<Tunnel> =
        permitted(client.list(&format!("{account}/cfd_tunnel"), &[("is_deleted", "false")]).await, "tunnels", TUNNEL)?;
    actual.tunnels = tunnels.into_iter().filter(|tunnel| tunnel.deleted_at.is_none()).collect();
    // Without a type: a record of another one is in the way as well.
    let records = format!("/zones/{}/dns_records", actual.zone_id);
    actual.records = permitted(client.list(&records, &[("name.exact", hostname)]).await, "DNS records", DNS)?;
    if actual.has_no_zero_trust {
        return Ok(actual);
    }
    let listed = client.list(&format!("{account}/access/identity_providers"), &[]).await;
    actual.providers = permitted(listed, "identity providers", PROVIDERS)?;
    actual.apps = permitted(client.list(&format!("{account}/access/apps"), &[]).await, "Access applications", APPS)?;
    actual.policies =
        permitted(client.list(&format!("{account}/access/policies"), &[]).await, "Access policies", APPS)?;
    // A tunnel is removed only if no other name leads to it.
    let leads_here = |tunnel: &&Tunnel| actual.records.iter().any(|record| record.content.starts_with(&tunnel.id));
    let remote = actual.tunnels.iter().filter(|tunnel| tunnel.is_remote()).find(leads_here);
    if let Some(old) = state.replaced_tunnel.clone().or_else(|| remote.map(|tunnel| tunnel.id.clone())) {
        let content = super::desired::target(&old);
        actual.replaced_records =
            permitted(client.list(&records, &[("content.exact", &content)]).await, "DNS records", DNS)?;
    }
    Ok(actual)
}

fn permitted<T>(answer: Result<T, ApiError>, what: &'static str, permission: &'static str) -> Result<T, ReadError> {
    answer.map_err(|error| if error.is_forbidden() { ReadError::Forbidden { what, permission } } else { error.into() })
}

/// Tokens of a user and of an account are verified at different places, and the wrong one says that they are invalid.
async fn verify(client: &Client, account_id: Option<&str>) -> Result<(), ReadError> {
    #[derive(Deserialize)]
    struct Verified {
        status: String,
    }
    let mut answer = client.get::<Verified>("/user/tokens/verify", &[]).await;
    if let (Err(ApiError::Refused { .. }), Some(account_id)) = (&answer, account_id) {
        answer = client.get::<Verified>(&format!("/accounts/{account_id}/tokens/verify"), &[]).await;
    }
    match answer {
        Ok(Verified { status }) if status == "active" => Ok(()),
        Ok(Verified { status }) => Err(ReadError::Token(format!("it is {status}"))),
        // An account's own token, and no account to ask: what it may do shows with the next request.
        Err(ApiError::Refused { errors, .. }) if account_id.is_none() && errors.iter().any(is_invalid) => Ok(()),
        Err(ApiError::Refused { errors, .. }) => Err(ReadError::Token(
            errors.first().map_or_else(|| "no reason given".to_owned(), |error| error.message.clone()),
        )),
        Err(error) => Err(error.into()),
    }
}

fn is_invalid(error: &Reported) -> bool {
    error.code == 1000
}

async fn zone(
    client: &Client,
    scope: &Scope,
    hostname: &str,
    warnings: &mut Vec<String>,
) -> Result<Option<Zone>, ReadError> {
    if let Some(id) = &scope.zone_id {
        return match client.get::<Zone>(&format!("/zones/{id}"), &[]).await {
            Ok(zone) => Ok(Some(zone)),
            Err(error) if error.is_forbidden() => {
                warnings.push(
                    "whether the zone is active was not checked: the API token lacks `Zone → Zone → Read`".to_owned(),
                );
                Ok(None)
            }
            Err(error) => Err(error.into()),
        };
    }
    // The longest name that is a zone: `name` is compared exactly.
    let mut rest = hostname;
    loop {
        let zones: Vec<Zone> = match client.list("/zones", &[("name", rest)]).await {
            Err(error) if error.is_forbidden() => return Err(ReadError::NoZone(hostname.to_owned())),
            zones => zones?,
        };
        if let Some(zone) = zones.into_iter().find(|zone| zone.name == rest) {
            return Ok(Some(zone));
        }
        match rest.split_once('.') {
            Some((_, parent)) if parent.contains('.') => rest = parent,
            _ => return Err(ReadError::NoZone(hostname.to_owned())),
        }
    }
}

async fn account(client: &Client) -> Result<String, ReadError> {
    let accounts: Vec<Named> = client.list("/accounts", &[]).await?;
    match &accounts[..] {
        [only] => Ok(only.id.clone()),
        several => Err(ReadError::Account(
            several.iter().map(|account| format!("{} ({})", account.id, account.name)).collect(),
        )),
    }
}

async fn organization(client: &Client, account: &str, scope: &Scope, actual: &mut Actual) -> Result<(), ReadError> {
    #[derive(Deserialize)]
    struct Organization {
        auth_domain: Option<String>,
    }
    match client.get::<Option<Organization>>(&format!("{account}/access/organizations"), &[]).await {
        Ok(found) => actual.team_domain = found.and_then(|found| found.auth_domain),
        Err(error) if error.is_without_zero_trust() || error.is_absent() => actual.has_no_zero_trust = true,
        Err(error) if error.is_forbidden() => {
            let what = "the team domain was not read: the API token lacks";
            actual.warnings.push(format!("{what} `{PROVIDERS}`"));
        }
        Err(error) => return Err(error.into()),
    }
    if actual.team_domain.is_none() {
        actual.team_domain.clone_from(&scope.team_domain);
    }
    Ok(())
}
