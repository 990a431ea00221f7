//! What a child finds in its environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::env;

use super::Role;
use super::helper::{self, Helper, HelperError, Output};
use super::steward::Steward;

/// Variables that are looked up anew before each start: secrets, which may not be there yet when ferry starts, and
/// which change. Whatever else must be there for a start is seen to here, too.
pub trait Lookup: Send + Sync + 'static {
    /// The variables, in the order in which they are set; or why it cannot be started now.
    fn look_up<'a>(&'a self, helpers: &'a Helpers) -> Looking<'a>;
}

/// A lookup in progress.
pub type Looking<'a> = Pin<Box<dyn Future<Output = Result<Vec<(String, String)>, String>> + Send + 'a>>;

/// Runs the short programs that some secrets come from. A lookup that is given up takes them along.
pub struct Helpers {
    pub(super) steward: Steward,
    pub(super) run: String,
}

impl Helpers {
    /// Runs one to its end.
    pub async fn run(&self, helper: Helper) -> Result<Output, HelperError> {
        helper::run(&self.steward, &self.run, helper).await
    }
}

/// What a child's environment is made from.
#[derive(Clone, Default)]
pub struct Environment {
    /// Start from ferry's own environment; otherwise from [`env::MINIMAL`] alone.
    pub inherit: bool,
    /// Set on top, in this order. What the owner writes here is given as it stands, even where the same name would not
    /// be inherited: a server for Cloudflare needs its `CLOUDFLARE_API_TOKEN`.
    pub set: Vec<(String, String)>,
    /// What is to be set on top of that, found out before each start.
    pub lookup: Option<Arc<dyn Lookup>>,
}

/// Names only: values may be secrets.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.set.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Environment").field("inherit", &self.inherit).field("set", &names).finish_non_exhaustive()
    }
}

impl Environment {
    /// The child's variables: ferry's `own`, less ferry's secrets and what belongs to its service manager, plus what
    /// was `set`, plus the id of this run.
    pub(super) fn resolve(
        &self,
        role: Role,
        own: impl IntoIterator<Item = (OsString, OsString)>,
        run: &str,
    ) -> BTreeMap<OsString, OsString> {
        let mut variables: BTreeMap<_, _> = own.into_iter().filter(|(name, _)| self.inherits(name)).collect();
        variables.extend(self.set.iter().map(|(name, value)| (name.into(), value.into())));
        if role == Role::Tunnel {
            variables.retain(|name, _| !is_setting_of_cloudflared(name));
        }
        // A NUL cannot be passed on; it would turn one bad variable into a child that never starts.
        variables.retain(|name, value| !has_nul(name) && !has_nul(value) && !name.is_empty());
        variables.insert(env::MCP_FERRY_RUN.into(), run.into());
        variables
    }

    fn inherits(&self, name: &OsStr) -> bool {
        // A name that is not UTF-8 is nobody's we know; it is inherited like any other.
        let Some(name) = name.to_str() else { return self.inherit };
        if !self.inherit {
            return env::MINIMAL.contains(&name);
        }
        let starts_with = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        !(starts_with(env::WITHHELD_PREFIXES)
            || starts_with(env::MANAGER_PREFIXES)
            || env::MANAGER_VARIABLES.contains(&name))
    }
}

fn is_setting_of_cloudflared(name: &OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| name.starts_with(env::CLOUDFLARED_PREFIX) || env::CLOUDFLARED_SETTINGS.contains(&name))
}

fn has_nul(text: &OsStr) -> bool {
    text.as_encoded_bytes().contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &[(&str, &str)] = &[
        ("PATH", "/bin"),
        ("HOME", "/home/me"),
        ("EDITOR", "vi"),
        ("CLOUDFLARE_API_TOKEN", "secret"),
        ("TUNNEL_TOKEN", "secret"),
        ("GOOGLE_CLIENT_SECRET", "secret"),
        ("FERRY_STATE_DIR", "/state"),
        ("NOTIFY_SOCKET", "/run/notify"),
        ("WATCHDOG_USEC", "1"),
        ("LISTEN_FDS", "1"),
        ("CREDENTIALS_DIRECTORY", "/run/credentials"),
        ("NO_AUTOUPDATE", "1"),
        ("MCP_FERRY_RUN", "the run around this one"),
    ];

    fn resolved(role: Role, inherit: bool, set: &[(&str, &str)]) -> Vec<String> {
        let own = OWN.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let set = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Environment { inherit, set, lookup: None }
            .resolve(role, own, "r1")
            .into_iter()
            .map(|(name, value)| format!("{}={}", name.display(), value.display()))
            .collect()
    }

    #[test]
    fn secrets_and_the_managers_variables_stay_with_ferry() {
        assert_eq!(
            resolved(Role::Mcp, true, &[]),
            ["EDITOR=vi", "HOME=/home/me", "MCP_FERRY_RUN=r1", "NO_AUTOUPDATE=1", "PATH=/bin"]
        );
    }

    #[test]
    fn what_the_owner_sets_is_given_as_it_stands() {
        let set = [("CLOUDFLARE_API_TOKEN", "mine"), ("LISTEN_PORT", "3000"), ("PATH", "/opt"), ("BAD", "a\0b")];
        assert_eq!(
            resolved(Role::Mcp, false, &set),
            ["CLOUDFLARE_API_TOKEN=mine", "HOME=/home/me", "LISTEN_PORT=3000", "MCP_FERRY_RUN=r1", "PATH=/opt"]
        );
    }

    #[test]
    fn cloudflared_is_configured_by_ferry_alone() {
        let set = [("TUNNEL_LOGLEVEL", "debug"), ("NO_TLS_VERIFY", "1")];
        assert_eq!(resolved(Role::Tunnel, true, &set), ["EDITOR=vi", "HOME=/home/me", "MCP_FERRY_RUN=r1", "PATH=/bin"]);
    }

    #[test]
    fn debug_shows_no_values() {
        let environment = Environment { inherit: true, set: vec![("KEY".into(), "hunter2".into())], lookup: None };
        assert_eq!(format!("{environment:?}"), r#"Environment { inherit: true, set: ["KEY"], .. }"#);
    }
}
