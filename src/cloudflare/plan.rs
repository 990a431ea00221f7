//! What there should be, less what there is: the steps between them. No network, no disk, no clock.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::actual::{Actual, Record, Tunnel};
use super::desired::{Desired, GOOGLE_NAME, Login, PYTHON_POLICY, target};
use super::state::State;

/// Stands for an id that Cloudflare will give.
pub const NEW: &str = "(new)";

/// What a step is about, in the order in which it is done: the name becomes public last, when it is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The tunnel.
    Tunnel,
    /// The file with its credentials, on this machine.
    Credentials,
    /// The identity provider.
    Provider,
    /// The allow-list.
    Policy,
    /// The Access application.
    App,
    /// The DNS record.
    Record,
    /// The tunnel that is replaced.
    OldTunnel,
    /// What an earlier hostname left.
    OldRecord,
    /// Likewise.
    OldApp,
    /// Likewise.
    OldPolicy,
}

/// What is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// It is made.
    Create,
    /// It is changed.
    Change,
    /// It is as it should be.
    Keep,
    /// It is removed.
    Remove,
    /// It is left for a later run, which the note explains.
    Wait,
}

/// A field that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its name.
    pub field: String,
    /// What it says.
    pub from: String,
    /// What it will say.
    pub to: String,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// What is done.
    pub verb: Verb,
    /// To what.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its id, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What differs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
    /// Why, where that does not speak for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What there is to do.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Plan {
    /// The steps, in the order in which they are done.
    pub steps: Vec<Step>,
    /// What is in the way. With any of these nothing is done.
    pub conflicts: Vec<String>,
    /// What is worth knowing.
    pub warnings: Vec<String>,
    /// The application as it is, for the PUT that must send all of it.
    #[serde(skip)]
    pub app: Option<Value>,
    /// The comment of the record as it is.
    #[serde(skip)]
    pub record_comment: Value,
    /// Records that are removed before ours is made.
    #[serde(skip)]
    pub in_the_way: Vec<String>,
    /// The tunnel that this one replaces.
    #[serde(skip)]
    pub replaces: Option<String>,
}

impl Plan {
    /// Whether anything is to be done.
    pub fn is_empty(&self) -> bool {
        self.steps.iter().all(|step| matches!(step.verb, Verb::Keep | Verb::Wait))
    }

    /// The step about this.
    pub fn step(&self, kind: Kind) -> Option<&Step> {
        self.steps.iter().find(|step| step.kind == kind)
    }

    fn add(&mut self, verb: Verb, kind: Kind, name: impl Into<String>, id: Option<&str>) -> &mut Step {
        let step =
            Step { verb, kind, name: name.into(), id: id.map(str::to_owned), differences: Vec::new(), note: None };
        self.steps.push(step);
        self.steps.last_mut().expect("one was pushed above")
    }

    fn compared(&mut self, kind: Kind, name: &str, id: &str, differences: Vec<Difference>) {
        let verb = if differences.is_empty() { Verb::Keep } else { Verb::Change };
        self.add(verb, kind, name, Some(id)).differences = differences;
    }
}

/// The steps from `actual` to `desired`. `has_credentials` says whether a file has what a tunnel needs.
pub fn plan(desired: &Desired, actual: &Actual, state: &State, has_credentials: impl Fn(&Path, &str) -> bool) -> Plan {
    let mut plan = Plan { warnings: actual.warnings.clone(), ..Plan::default() };
    preconditions(desired, actual, &mut plan);
    let tunnel_id = tunnel(desired, actual, state, &mut plan, has_credentials);
    let provider_id = provider(desired, actual, state, &mut plan);
    let app = app_of(desired, actual, state, &mut plan);
    let policy_id = policy(desired, actual, state, app, &mut plan);
    application(desired, app, &provider_id, &policy_id, &mut plan);
    record(desired, actual, state, &tunnel_id, &mut plan);
    old_tunnel(actual, state, &mut plan);
    previous(desired, state, &mut plan);
    plan
}

fn preconditions(desired: &Desired, actual: &Actual, plan: &mut Plan) {
    if actual.has_no_zero_trust {
        plan.conflicts.push(
            "Zero Trust is not set up in this account: open https://one.dash.cloudflare.com once and choose a team name \
             (the free plan is enough)"
                .to_owned(),
        );
    } else if actual.team_domain.is_none() {
        plan.conflicts.push(
            "the team domain is not known: name it with `--team-domain <team>.cloudflareaccess.com`, or give the token \
             `Account → Access: Organizations, Identity Providers, and Groups → Read`"
                .to_owned(),
        );
    }
    let Some((zone, status)) = &actual.zone else { return };
    if let Some(status) = status.as_deref().filter(|status| *status != "active") {
        plan.conflicts.push(format!(
            "the zone {zone} is {status}: set its name servers to those that Cloudflare names, and wait until it is active"
        ));
    }
    let inside = desired.hostname.strip_suffix(zone.as_str()).and_then(|rest| rest.strip_suffix('.'));
    match inside {
        None if desired.hostname != *zone => {
            plan.conflicts.push(format!("{} is not in the zone {zone}", desired.hostname));
        }
        Some(labels) if labels.contains('.') => plan.conflicts.push(format!(
            "{} is more than one label below {zone}: Cloudflare's free certificate covers `*.{zone}` alone; choose a name \
             such as `{}.{zone}`",
            desired.hostname,
            labels.replace('.', "-")
        )),
        _ => {}
    }
}

fn tunnel(
    desired: &Desired,
    actual: &Actual,
    state: &State,
    plan: &mut Plan,
    has_credentials: impl Fn(&Path, &str) -> bool,
) -> String {
    let pointed_to = actual.records.iter().find_map(pointee);
    let named = |name: &str| actual.tunnels.iter().find(|tunnel| tunnel.name == name);
    let chosen = named(&desired.tunnel_name);
    // Every deployment that chose no name has this one: it is ours only if our hostname leads to it.
    let is_ours = |tunnel: &Tunnel| desired.tunnel_name != "mcp-ferry" || pointed_to.as_deref() == Some(&tunnel.id);
    let found = actual
        .tunnels
        .iter()
        .find(|tunnel| state.tunnel_id.as_deref() == Some(&tunnel.id))
        .or_else(|| named(&desired.new_tunnel_name(true)))
        .or_else(|| chosen.filter(|tunnel| is_ours(tunnel)))
        .filter(|tunnel| !tunnel.is_remote());
    if let Some(tunnel) = found {
        plan.add(Verb::Keep, Kind::Tunnel, &tunnel.name, Some(&tunnel.id));
    } else {
        let name = desired.new_tunnel_name(chosen.is_some());
        let replaced = chosen.filter(|tunnel| tunnel.is_remote() && pointed_to.as_deref() == Some(&tunnel.id));
        plan.replaces = replaced.map(|tunnel| tunnel.id.clone());
        let step = plan.add(Verb::Create, Kind::Tunnel, &name, None);
        step.note = replaced.map(|old| {
            format!(
                "`{}` is configured from the dashboard, which cannot be changed; it serves until this one does",
                old.name
            )
        });
        if plan.replaces.is_none()
            && let Some(chosen) = chosen.filter(|tunnel| tunnel.is_remote())
        {
            plan.warnings
                .push(format!("a tunnel `{}` is configured from the dashboard: it is left alone", chosen.name));
        }
    }
    // The tunnel of the same name that still has the record, after an interruption too.
    if plan.replaces.is_none() && state.replaced_tunnel.is_none() {
        let other = |tunnel: &&Tunnel| tunnel.is_remote() && pointed_to.as_deref() == Some(&tunnel.id);
        plan.replaces = chosen.filter(other).map(|tunnel| tunnel.id.clone());
    }
    let id = found.map_or(NEW, |tunnel| &tunnel.id).to_owned();
    let path: PathBuf = desired.credentials_path(&id);
    let verb = match found {
        Some(tunnel) if has_credentials(&path, &tunnel.id) => Verb::Keep,
        Some(_) | None => Verb::Create,
    };
    let step = plan.add(verb, Kind::Credentials, path.display().to_string(), None);
    if found.is_some() && verb == Verb::Create {
        step.note = Some("lost, and given again by Cloudflare".to_owned());
    }
    id
}

fn provider(desired: &Desired, actual: &Actual, state: &State, plan: &mut Plan) -> String {
    let text = |provider: &Value, key: &str| provider[key].as_str().unwrap_or_default().to_owned();
    let by = |is_it: &dyn Fn(&Value) -> bool| actual.providers.iter().find(|provider| is_it(provider));
    let keep = |plan: &mut Plan, found: &Value| {
        let id = text(found, "id");
        plan.add(Verb::Keep, Kind::Provider, text(found, "name"), Some(&id));
        id
    };
    match &desired.login {
        Login::Existing(name) => {
            let is_it =
                |provider: &Value| text(provider, "name").eq_ignore_ascii_case(name) || text(provider, "id") == *name;
            if let Some(found) = by(&is_it) {
                return keep(plan, found);
            }
            let there: Vec<String> =
                actual.providers.iter().map(|provider| format!("`{}`", text(provider, "name"))).collect();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            plan.conflicts.push(format!("there is no identity provider `{name}`; there are: {there}"));
            NEW.to_owned()
        }
        Login::OneTimePin => {
            if let Some(found) = by(&|provider| provider["type"] == "onetimepin") {
                return keep(plan, found);
            }
            plan.add(Verb::Create, Kind::Provider, "One-time PIN", None);
            NEW.to_owned()
        }
        Login::Google { client_id, client_secret } => {
            let found =
                by(&|provider| provider["type"] == "google" && state.provider_id.as_deref() == provider["id"].as_str());
            let Some(found) =
                found.or_else(|| by(&|provider| provider["type"] == "google" && provider["name"] == GOOGLE_NAME))
            else {
                if client_secret.is_none() {
                    plan.conflicts
                        .push("the Google client secret is missing: `--google-client-secret-file`".to_owned());
                }
                plan.add(Verb::Create, Kind::Provider, GOOGLE_NAME, None);
                return NEW.to_owned();
            };
            let mut differences = Vec::new();
            compare(
                &mut differences,
                "config.client_id",
                found.pointer("/config/client_id"),
                Some(&Value::from(client_id.as_str())),
            );
            if let Some(secret) = client_secret {
                if !state.has_pushed(secret) {
                    differences.push(Difference {
                        field: "config.client_secret".to_owned(),
                        from: "(not known)".to_owned(),
                        to: "(the given one)".to_owned(),
                    });
                }
            } else if !differences.is_empty() {
                plan.conflicts
                    .push("another Google client id needs its client secret: `--google-client-secret-file`".to_owned());
            }
            let (name, id) = (text(found, "name"), text(found, "id"));
            plan.compared(Kind::Provider, &name, &id, differences);
            id
        }
    }
}

/// The application on the hostname, if it is ours.
fn app_of<'a>(desired: &Desired, actual: &'a Actual, state: &State, plan: &mut Plan) -> Option<&'a Value> {
    let is_ours = |app: &&Value| {
        (state.app_id.is_some() && state.app_id.as_deref() == app["id"].as_str()) || app["name"] == desired.app_name()
    };
    let ours = actual.apps.iter().find(|app| state.app_id.is_some() && state.app_id.as_deref() == app["id"].as_str());
    let ours = ours.or_else(|| actual.apps.iter().find(is_ours));
    let mut taken_over = None;
    for app in &actual.apps {
        if ours.is_some_and(|ours| ours["id"] == app["id"]) {
            continue;
        }
        for place in places(app) {
            let name = app["name"].as_str().unwrap_or("?");
            if place == desired.hostname {
                if desired.force && ours.is_none() {
                    taken_over = Some(app);
                } else {
                    plan.conflicts.push(format!(
                        "the application `{name}` is on {place} already: remove it in the dashboard{}",
                        if ours.is_none() { ", or take it over with `--force`" } else { "" }
                    ));
                }
            } else if place.strip_prefix(&desired.hostname).is_some_and(|rest| rest.starts_with('/')) {
                plan.conflicts.push(format!(
                    "the application `{name}` is on {place}, where it would stand before ferry's: remove it in the dashboard"
                ));
            }
        }
    }
    ours.or(taken_over)
}

/// The places that an application covers, without a slash at the end.
fn places(app: &Value) -> BTreeSet<String> {
    let destinations = app["destinations"].as_array().into_iter().flatten().filter_map(|place| place["uri"].as_str());
    let domains = app["self_hosted_domains"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let places = destinations.chain(domains).chain(app["domain"].as_str());
    places.map(|place| place.trim_start_matches("https://").trim_end_matches('/').to_ascii_lowercase()).collect()
}

fn policy(desired: &Desired, actual: &Actual, state: &State, app: Option<&Value>, plan: &mut Plan) -> String {
    let name = desired.policy_name();
    let by_id = actual
        .policies
        .iter()
        .find(|policy| state.policy_id.is_some() && state.policy_id.as_deref() == policy["id"].as_str());
    let Some(found) = by_id.or_else(|| actual.policies.iter().find(|policy| policy["name"] == name.as_str())) else {
        let step = plan.add(Verb::Create, Kind::Policy, &name, None);
        let emails: Vec<&str> = desired.emails.iter().map(String::as_str).collect();
        step.differences.push(Difference { field: "emails".to_owned(), from: String::new(), to: emails.join(", ") });
        let attached = app.and_then(|app| app["policies"].as_array()).into_iter().flatten();
        if attached.into_iter().any(|policy| policy["name"] == PYTHON_POLICY) {
            step.note = Some(format!("instead of `{PYTHON_POLICY}`, which every deployment of the account shares"));
        }
        return NEW.to_owned();
    };
    let mut differences = Vec::new();
    let wanted = desired.policy();
    compare(&mut differences, "decision", found.get("decision"), wanted.get("decision"));
    let rules = |policy: &Value, key: &str| -> BTreeSet<String> {
        policy[key].as_array().into_iter().flatten().map(rule).collect()
    };
    for key in ["include", "exclude", "require"] {
        let (from, to) = (rules(found, key), rules(&wanted, key));
        if from != to {
            differences.push(Difference { field: key.to_owned(), from: join(&from), to: join(&to) });
        }
    }
    let id = found["id"].as_str().unwrap_or_default().to_owned();
    plan.compared(Kind::Policy, found["name"].as_str().unwrap_or(&name), &id, differences);
    id
}

/// A rule, as people read it. Addresses are the same in any case.
fn rule(rule: &Value) -> String {
    match rule.pointer("/email/email").and_then(Value::as_str) {
        Some(email) => email.to_ascii_lowercase(),
        None => rule.to_string(),
    }
}

fn join(set: &BTreeSet<String>) -> String {
    set.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn application(desired: &Desired, app: Option<&Value>, provider_id: &str, policy_id: &str, plan: &mut Plan) {
    let Some(app) = app else {
        plan.add(Verb::Create, Kind::App, desired.app_name(), None);
        return;
    };
    let own = |policy: &&Value| {
        policy["reusable"] == false && matches!(policy["decision"].as_str(), Some("deny" | "non_identity"))
    };
    if let Some(own) = app["policies"].as_array().into_iter().flatten().find(own) {
        plan.conflicts.push(format!(
            "the application has a policy of its own, `{}`, which cannot stand beside the allow-list: make it a reusable one \
             in the dashboard, or remove it",
            own["name"].as_str().unwrap_or("?")
        ));
    }
    let wanted = desired.app(Some(app), provider_id, policy_id);
    let mut differences = Vec::new();
    for key in ["domain", "destinations", "allowed_idps", "auto_redirect_to_identity", "session_duration"] {
        compare(&mut differences, key, app.get(key), wanted.get(key));
    }
    let order = |app: &Value| -> Vec<String> {
        let policies = app["policies"].as_array().into_iter().flatten();
        policies.filter_map(|policy| policy["id"].as_str().or(policy.as_str())).map(str::to_owned).collect()
    };
    let (from, to) = (order(app), order(&wanted));
    if from != to {
        differences.push(Difference { field: "policies".to_owned(), from: from.join(", "), to: to.join(", ") });
    }
    fields("oauth_configuration", app.get("oauth_configuration"), &wanted["oauth_configuration"], &mut differences);
    let id = app["id"].as_str().unwrap_or_default().to_owned();
    plan.compared(Kind::App, app["name"].as_str().unwrap_or_default(), &id, differences);
    plan.app = Some(app.clone());
}

/// The differences below a field, each by its own name.
fn fields(name: &str, from: Option<&Value>, to: &Value, differences: &mut Vec<Difference>) {
    match to {
        Value::Object(wanted) => {
            for (key, to) in wanted {
                fields(&format!("{name}.{key}"), from.and_then(|from| from.get(key)), to, differences);
            }
        }
        to => compare(differences, name, from, Some(to)),
    }
}

/// Lists are sets here.
fn compare(differences: &mut Vec<Difference>, field: &str, from: Option<&Value>, to: Option<&Value>) {
    let set =
        |value: &Value| value.as_array().map(|values| values.iter().map(Value::to_string).collect::<BTreeSet<_>>());
    let missing = |value: Option<&Value>| value.is_none_or(Value::is_null);
    if from == to || (missing(from) && missing(to)) {
        return;
    }
    if let (Some(from), Some(to)) = (from.and_then(set), to.and_then(set))
        && from == to
    {
        return;
    }
    let shown = |value: Option<&Value>| match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(values)) => {
            let values = values
                .iter()
                .map(|value| value.as_str().or(value["uri"].as_str()).map_or_else(|| value.to_string(), str::to_owned));
            values.collect::<Vec<_>>().join(", ")
        }
        Some(other) => other.to_string(),
    };
    differences.push(Difference { field: field.to_owned(), from: shown(from), to: shown(to) });
}

/// The tunnel that a record leads to.
fn pointee(record: &Record) -> Option<String> {
    let content = record.content.trim_end_matches('.').to_ascii_lowercase();
    (record.kind == "CNAME").then(|| content.strip_suffix(".cfargotunnel.com").map(str::to_owned))?
}

fn record(desired: &Desired, actual: &Actual, state: &State, tunnel_id: &str, plan: &mut Plan) {
    let name = &desired.hostname;
    let blocking: Vec<&Record> =
        actual.records.iter().filter(|record| record.name.eq_ignore_ascii_case(name)).collect();
    let Some(first) = blocking.first() else {
        plan.add(Verb::Create, Kind::Record, name, None);
        return;
    };
    let replaced = plan.replaces.clone().or_else(|| state.replaced_tunnel.clone());
    let is_ours = |record: &Record| {
        record.kind == "CNAME"
            && (state.record_id.as_deref() == Some(&record.id)
                || record.comment == "mcp-ferry: tunnel target"
                || pointee(record).is_some_and(|id| id == tunnel_id || Some(&id) == replaced.as_ref()))
    };
    let foreign: Vec<&&Record> = blocking.iter().filter(|record| !is_ours(record)).collect();
    if !foreign.is_empty() && !desired.force {
        for record in foreign {
            plan.conflicts.push(format!(
                "{name} has a {} record to {} already: remove it, or replace it with `--force`",
                record.kind, record.content
            ));
        }
        plan.add(Verb::Wait, Kind::Record, name, Some(&first.id));
        return;
    }
    let kept = blocking.iter().find(|record| is_ours(record)).unwrap_or(first);
    plan.in_the_way = blocking.iter().filter(|record| record.id != kept.id).map(|record| record.id.clone()).collect();
    plan.record_comment.clone_from(&kept.comment);
    let mut differences = Vec::new();
    compare(&mut differences, "type", Some(&Value::from(kept.kind.as_str())), Some(&Value::from("CNAME")));
    let (from, to) = (kept.content.trim_end_matches('.').to_ascii_lowercase(), target(tunnel_id));
    compare(&mut differences, "content", Some(&Value::from(from)), Some(&Value::from(to)));
    compare(&mut differences, "proxied", kept.proxied.map(Value::from).as_ref(), Some(&Value::from(true)));
    if !plan.in_the_way.is_empty() {
        let count = plan.in_the_way.len();
        differences.push(Difference { field: "other records".to_owned(), from: count.to_string(), to: "0".to_owned() });
    }
    // The old tunnel serves until the new one does.
    let tunnel = |id: &str| actual.tunnels.iter().find(|tunnel| tunnel.id == id);
    let old = pointee(kept).filter(|id| Some(id) == replaced.as_ref()).and_then(|id| tunnel(&id));
    let is_served = tunnel(tunnel_id).is_some_and(Tunnel::is_connected);
    if old.is_some_and(Tunnel::is_connected) && !is_served {
        let step = plan.add(Verb::Wait, Kind::Record, name, Some(&kept.id));
        step.note = Some(
            "it leads to the tunnel of the Python tool, which serves; start this ferry, and run `ferry setup` again to \
             switch over"
                .to_owned(),
        );
        return;
    }
    plan.compared(Kind::Record, name, &kept.id, differences);
}

fn old_tunnel(actual: &Actual, state: &State, plan: &mut Plan) {
    let Some(id) = plan.replaces.clone().or_else(|| state.replaced_tunnel.clone()) else { return };
    let Some(old) = actual.tunnels.iter().find(|tunnel| tunnel.id == id) else { return };
    let others = actual.replaced_records.iter().filter(|record| actual.records.iter().all(|ours| ours.id != record.id));
    let others: Vec<&str> = others.map(|record| record.name.as_str()).collect();
    let moves = plan.step(Kind::Record).is_some_and(|step| step.verb != Verb::Wait);
    let wait = if !moves {
        Some("until the record has moved".to_owned())
    } else if !others.is_empty() {
        Some(format!("it serves {} too", others.join(", ")))
    } else if old.is_connected() {
        Some("until the Python tool is stopped; then `ferry setup` removes it".to_owned())
    } else {
        None
    };
    let verb = if wait.is_some() { Verb::Wait } else { Verb::Remove };
    plan.add(verb, Kind::OldTunnel, &old.name, Some(&id)).note = wait;
}

fn previous(desired: &Desired, state: &State, plan: &mut Plan) {
    let Some(previous) = &state.previous else { return };
    if !desired.remove_previous {
        plan.warnings.push(format!(
            "{} is still set up: `ferry setup --remove-previous` removes its record, application and policy",
            previous.hostname
        ));
        return;
    }
    for (kind, id) in [
        (Kind::OldRecord, &previous.record_id),
        (Kind::OldApp, &previous.app_id),
        (Kind::OldPolicy, &previous.policy_id),
    ] {
        if let Some(id) = id {
            plan.add(Verb::Remove, kind, &previous.hostname, Some(id));
        }
    }
}
