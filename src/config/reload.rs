//! What a changed file asks of a ferry that runs: every key's class, and the difference between two files.
//!
//! [`plan`] is pure; `daemon` does what it says. Keys are compared by their values, not by how these are written.

use super::limits::Limits;
use super::load::{Config, Server};
use super::schema::{Access, Bridge, Cloudflare, Logging, Mcp, Tunnel};

/// What a change of a key costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Nothing: it counts from now on. So do the keys that only `ferry setup` reads.
    Live,
    /// A restart of the server it is about; of all of them where it is about all.
    Server,
    /// A restart of cloudflared.
    Cloudflared,
    /// A restart of ferry, which a reload does not do by itself.
    Process,
}

/// One key of a section.
struct Key<T> {
    name: &'static str,
    class: Class,
    differs: fn(&T, &T) -> bool,
}

macro_rules! keys {
    ($section:ty { $($class:ident: $($key:ident),+;)+ }) => {
        &[$($(Key {
            name: stringify!($key),
            class: Class::$class,
            differs: |a: &$section, b: &$section| a.$key != b.$key,
        },)+)+]
    };
}

/// The one table: every key there is (a test reads the schema for it), and what a change of it costs.
struct Table;

impl Table {
    const BRIDGE: &[Key<Bridge>] = keys!(Bridge {
        Live: allowed_hosts, allowed_origins;
        Server: env_files;
        Cloudflared: hostname;
        // The token goes with the address it protects: without it a listener that is still open must not open further.
        Process: local_listen, local_port, local_token, shutdown_timeout;
    });

    const LIMITS: &[Key<Limits>] = keys!(Limits {
        Live: drain;
        Server: commit_after, detached_ttl, keep_alive, listen_ack, liveness_timeout, log_level_linger,
            max_elicitations, max_ended_sessions, max_inflight, max_inflight_per_identity, max_input_bytes,
            max_listens, max_listens_per_identity, max_message_bytes, max_outbound, max_questions, max_queue_bytes,
            max_queue_lines, max_queued, max_rounds, max_sessions, max_sessions_per_identity, max_streams_per_session,
            max_subscriptions, max_suspended, max_suspended_per_identity, max_tasks, probe_timeout, queue_wait,
            relisten, replay_bytes, replay_bytes_in_all, replay_events, replay_kept, replay_session_bytes,
            replay_streams, request_timeout, request_timeout_in_all, round_gather, round_ttl, s2c_stream_wait,
            s2c_timeout, session_idle, start_timeout, start_wait, subscribe_wait, task_memory;
        // Of the listener.
        Process: connection_idle, header_timeout, max_body_bytes, max_body_bytes_in_all, max_connections,
            max_header_bytes;
    });

    const CLOUDFLARE: &[Key<Cloudflare>] = keys!(Cloudflare {
        Live: account_id, allowed_redirect_uris, clients, emails, extra_redirect_uris, identity_provider,
            session_duration, zone_id;
        Cloudflared: credentials_file, tunnel_name;
    });

    // Who may come in must not depend on whether a reload was noticed.
    const ACCESS: &[Key<Access>] = keys!(Access {
        Process: audience, keys_url, team_domain;
    });

    const TUNNEL: &[Key<Tunnel>] = keys!(Tunnel {
        Cloudflared: binary, edge_ip_version, mode, protocol;
        Process: listen;
    });

    const LOGGING: &[Key<Logging>] = keys!(Logging {
        Live: level;
        Process: format, kept, max_bytes;
    });

    const MCPS: &[Key<Mcp>] = keys!(Mcp {
        // The first starts or stops it, the second counts while it is not running.
        Live: enabled, eager;
        // The first makes another server of it.
        Server: name, args, command, cwd, env, env_file, era, era_prefer, forward_signals, idle_stop, inherit_env,
            isolation, legacy_stateless, max_children, on_exit, path, request_timeout, serve, shared_interactive, sse,
            upstream_capabilities;
    });
}

/// What is to be done for a new file to hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Servers to start.
    pub added: Vec<String>,
    /// Servers to stop.
    pub removed: Vec<String>,
    /// Servers to restart.
    pub changed: Vec<Changed>,
    /// Servers that nothing happens to.
    pub unchanged: Vec<String>,
    /// Keys whose change costs nothing.
    pub live: Vec<String>,
    /// Keys for whose change cloudflared has to be restarted.
    pub cloudflared: Vec<String>,
    /// Keys whose change waits until ferry itself is started again, since this start or a reload before.
    pub waiting: Vec<String>,
}

/// A server to restart, and for which keys.
#[derive(Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its name.
    pub name: String,
    /// The keys: `command`, or `bridge.env_files` where they are about all servers.
    pub keys: Vec<String>,
}

/// The way from `now` to `new`, for a ferry that was started with `start`.
pub fn plan(start: &Config, now: &Config, new: &Config) -> Plan {
    let since_start = changed_keys(start, new);
    let since_then = changed_keys(now, new);
    let of = |keys: &[(String, Class)], class| {
        keys.iter().filter(|(_, other)| *other == class).map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    let mut plan = Plan {
        live: of(&since_then, Class::Live),
        cloudflared: of(&since_then, Class::Cloudflared),
        waiting: of(&since_start, Class::Process),
        ..Plan::default()
    };
    let of_all = of(&since_then, Class::Server);
    for server in enabled(new) {
        let name = server.mcp.name.to_string();
        let Some(old) = enabled(now).find(|old| old.mcp.name == server.mcp.name) else {
            plan.added.push(name);
            continue;
        };
        let mut own = differing("", Table::MCPS, &old.mcp, &server.mcp);
        plan.live.extend(of(&own, Class::Live).into_iter().map(|key| format!("{name}: {key}")));
        own.extend(limits_of_server(now, old, new, server));
        let keys: Vec<String> = of(&own, Class::Server).into_iter().chain(of_all.iter().cloned()).collect();
        if keys.is_empty() {
            plan.unchanged.push(name);
        } else {
            plan.changed.push(Changed { name, keys });
        }
    }
    let stays = |server: &Server| enabled(new).any(|other| other.mcp.name == server.mcp.name);
    plan.removed = enabled(now).filter(|server| !stays(server)).map(|server| server.mcp.name.to_string()).collect();
    plan
}

/// The bounds of one server that are different: its own, on top of those of all.
fn limits_of_server(now: &Config, old: &Server, new: &Config, server: &Server) -> Vec<(String, Class)> {
    let are_own = old.mcp.limits.is_some() || server.mcp.limits.is_some();
    let before = old.mcp.limits.as_ref().unwrap_or(&now.bridge.limits);
    let after = server.mcp.limits.as_ref().unwrap_or(&new.bridge.limits);
    let prefix = if are_own { "limits." } else { "bridge.limits." };
    let mut keys = differing(prefix, Table::LIMITS, before, after);
    // The others are of ferry as a whole.
    keys.retain(|(_, class)| *class == Class::Server);
    keys
}

fn enabled(config: &Config) -> impl Iterator<Item = &Server> {
    config.servers.iter().filter(|server| server.mcp.enabled)
}

/// The keys outside of `[[mcps]]` that mean something else.
fn changed_keys(a: &Config, b: &Config) -> Vec<(String, Class)> {
    let cloudflare = |config: &Config| config.cloudflare.clone().unwrap_or_default();
    let mut keys = differing("bridge.", Table::BRIDGE, &a.bridge, &b.bridge);
    // Those of servers each server has for itself.
    let limits = differing("bridge.limits.", Table::LIMITS, &a.bridge.limits, &b.bridge.limits);
    keys.extend(limits.into_iter().filter(|(_, class)| *class != Class::Server));
    keys.extend(differing("cloudflare.", Table::CLOUDFLARE, &cloudflare(a), &cloudflare(b)));
    keys.extend(differing("access.", Table::ACCESS, &a.access, &b.access));
    keys.extend(differing("tunnel.", Table::TUNNEL, &a.tunnel, &b.tunnel));
    keys.extend(differing("logging.", Table::LOGGING, &a.logging, &b.logging));
    keys
}

fn differing<T>(prefix: &str, keys: &[Key<T>], a: &T, b: &T) -> Vec<(String, Class)> {
    let differing = keys.iter().filter(|key| (key.differs)(a, b));
    differing.map(|key| (format!("{prefix}{}", key.name), key.class)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use serde_json::Value;

    use super::*;
    use crate::config::schema::json_schema;

    fn config(text: &str) -> Config {
        let config = Config::parse(text, Path::new("config.toml"), None).unwrap();
        assert_eq!(config.broken, [], "{text}");
        config
    }

    fn server(name: &str, more: &str) -> String {
        format!("[[mcps]]\nname = '{name}'\npath = '/{name}'\ncommand = 'x'\n{more}\n")
    }

    fn names<T>(prefix: &str, keys: &[Key<T>]) -> Vec<String> {
        keys.iter().map(|key| format!("{prefix}{}", key.name)).collect()
    }

    /// Whether a text names just the keys of this class.
    fn named<T>(keys: &[Key<T>], class: Class, text: &str) {
        for key in keys {
            let is_named = text.contains(&format!("`{}`", key.name)) || text.contains(&format!(".{}`", key.name));
            assert_eq!(is_named, key.class == class, "{} in {text}", key.name);
        }
    }

    /// The keys of the schema below `schema`, with dots.
    fn keys_of(all: &Value, schema: &Value, prefix: &str, found: &mut BTreeSet<String>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let target = [&property["$ref"], &property["items"]["$ref"]].into_iter().find_map(Value::as_str);
            let target = target.and_then(|path| all.pointer(path.strip_prefix('#')?));
            match target.filter(|target| target.get("properties").is_some()) {
                Some(section) => keys_of(all, section, &format!("{prefix}{name}."), found),
                None => assert!(found.insert(format!("{prefix}{name}"))),
            }
        }
    }

    #[test]
    fn every_key_of_the_schema_has_a_class_and_no_other_key_has_one() {
        let schema = json_schema();
        let mut expected = BTreeSet::new();
        keys_of(&schema, &schema, "", &mut expected);
        assert!(expected.contains("bridge.limits.drain") && expected.contains("mcps.command"), "{expected:?}");
        let listed = [
            names("bridge.", Table::BRIDGE),
            names("bridge.limits.", Table::LIMITS),
            names("cloudflare.", Table::CLOUDFLARE),
            names("access.", Table::ACCESS),
            names("tunnel.", Table::TUNNEL),
            names("logging.", Table::LOGGING),
            names("mcps.", Table::MCPS),
            names("mcps.limits.", Table::LIMITS),
        ]
        .concat();
        let found: BTreeSet<String> = listed.iter().cloned().collect();
        assert_eq!(found.len(), listed.len(), "a key stands there twice");
        assert_eq!(found, expected);
    }

    #[test]
    fn the_readme_names_what_waits_and_what_counts_at_once() {
        let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
        let (_, rest) = readme.split_once("These keys wait until").unwrap();
        let (waiting, rest) = rest.split_once("`[logging]`. ").unwrap();
        let (live, _) = rest.split_once("at once").unwrap();
        named(Table::BRIDGE, Class::Process, waiting);
        named(Table::LIMITS, Class::Process, waiting);
        named(Table::LOGGING, Class::Process, waiting);
        named(Table::BRIDGE, Class::Live, live);
        named(Table::LIMITS, Class::Live, live);
        assert!(Table::ACCESS.iter().all(|key| key.class == Class::Process) && waiting.contains("`[access]`"));
    }

    #[test]
    fn servers_come_go_change_and_stay() {
        let off = "enabled = false";
        let before = [server("stays", ""), server("goes", ""), server("changes", ""), server("pauses", "")].concat();
        let after = [
            server("changes", "cwd = '/tmp'\nenv = { A = 'b' }"),
            server("stays", "eager = false\nenabled = true\nera = 'auto'"),
            server("comes", ""),
            server("pauses", off),
            server("waits", off),
        ]
        .concat();
        let (before, after) = (config(&before), config(&after));
        assert_eq!(
            plan(&before, &before, &after),
            Plan {
                added: vec!["comes".to_owned()],
                removed: vec!["goes".to_owned(), "pauses".to_owned()],
                changed: vec![Changed { name: "changes".to_owned(), keys: vec!["cwd".to_owned(), "env".to_owned()] }],
                unchanged: vec!["stays".to_owned()],
                live: vec!["stays: eager".to_owned()],
                ..Plan::default()
            }
        );
        let nothing = plan(&after, &after, &after);
        assert_eq!(
            nothing,
            Plan { unchanged: vec!["changes".to_owned(), "stays".to_owned(), "comes".to_owned()], ..Plan::default() }
        );
    }

    #[test]
    fn a_secret_that_changes_is_a_change() {
        let with = |value: &str| config(&server("a", &format!("env = {{ A = {value} }}")));
        for (before, after, changed) in [
            ("'x'", "'x'", false),
            ("'x'", "'y'", true),
            ("{ env = 'X' }", "{ env = 'Y' }", true),
            ("{ file = 'x' }", "{ command = 'x' }", true),
        ] {
            let (before, after) = (with(before), with(after));
            assert_eq!(!plan(&before, &before, &after).changed.is_empty(), changed);
        }
    }

    #[test]
    fn each_section_is_compared_and_each_class_has_its_place() {
        let start = config(&server("a", ""));
        let after = |text: &str| plan(&start, &start, &config(&format!("{text}\n{}", server("a", ""))));
        for (text, live, cloudflared, waiting, server) in [
            ("[bridge]\nlocal_port = 8765\nlimits = { max_body_bytes = 16777216 }", "", "", "", ""),
            ("[bridge]\nlocal_port = 9000", "", "", "bridge.local_port", ""),
            ("[bridge]\nallowed_hosts = ['x']", "bridge.allowed_hosts", "", "", ""),
            ("[bridge]\nenv_files = ['x']", "", "", "", "bridge.env_files"),
            ("[bridge.limits]\nmax_body_bytes = 9\n", "", "", "bridge.limits.max_body_bytes", ""),
            ("[bridge.limits]\nrequest_timeout = 9\n", "", "", "", "bridge.limits.request_timeout"),
            ("[bridge.limits]\ndrain = 9\n", "bridge.limits.drain", "", "", ""),
            ("[cloudflare]\n", "", "", "", ""),
            ("[cloudflare]\nemails = ['x']", "cloudflare.emails", "", "", ""),
            ("[cloudflare]\ntunnel_name = 'x'", "", "cloudflare.tunnel_name", "", ""),
            ("[access]\naudience = 'x'", "", "", "access.audience", ""),
            ("[tunnel]\nmode = 'off'", "", "tunnel.mode", "", ""),
            ("[logging]\nlevel = 'debug'", "logging.level", "", "", ""),
        ] {
            let found = after(text);
            let server: Vec<&str> = server.split_terminator(' ').collect();
            let keys: Vec<&str> = found.changed.iter().flat_map(|changed| &changed.keys).map(String::as_str).collect();
            let joined = [found.live.join(" "), found.cloudflared.join(" "), found.waiting.join(" ")];
            assert_eq!((joined.each_ref().map(String::as_str), keys), ([live, cloudflared, waiting], server), "{text}");
        }
    }

    #[test]
    fn a_bound_counts_where_a_server_has_it() {
        let with =
            |all: u32, own: &str| config(&format!("[bridge.limits]\nmax_inflight = {all}\n{}", server("a", own)));
        for (before, after, keys) in [
            (with(5, ""), with(6, ""), vec!["bridge.limits.max_inflight"]),
            (with(5, "limits = { max_inflight = 1 }"), with(6, "limits = { max_inflight = 1 }"), vec![]),
            (
                with(5, "limits = { max_inflight = 1 }"),
                with(5, "limits = { max_inflight = 2 }"),
                vec!["limits.max_inflight"],
            ),
            (with(5, ""), with(5, "limits = { max_inflight = 5 }"), vec![]),
            (
                with(5, "limits = { keep_alive = 1 }"),
                with(6, "limits = { keep_alive = 1 }"),
                vec!["limits.max_inflight"],
            ),
        ] {
            let plan = plan(&before, &before, &after);
            let found: Vec<&str> = plan.changed.iter().flat_map(|changed| &changed.keys).map(String::as_str).collect();
            assert_eq!(found, keys);
        }
    }

    #[test]
    fn what_waits_goes_on_waiting_until_it_is_taken_back() {
        let port = |port: u16| config(&format!("[bridge]\nlocal_port = {port}\n"));
        let (start, now) = (port(9000), port(9001));
        assert_eq!(plan(&start, &now, &now).waiting, ["bridge.local_port"]);
        assert_eq!(plan(&start, &now, &start).waiting, Vec::<String>::new());
    }
}
