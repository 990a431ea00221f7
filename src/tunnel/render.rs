//! What cloudflared is told: its configuration file, and its arguments. Pure.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::config::schema::{IpVersion, TunnelProtocol};
use crate::supervisor::Budget;

/// The longest grace that cloudflared takes; beyond that it refuses to start.
const LONGEST_GRACE: Duration = Duration::from_mins(3);

/// What is in the configuration file.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    /// The tunnel, by its UUID: a name would need a certificate to look it up.
    pub tunnel_id: &'a str,
    /// Its credentials.
    pub credentials: &'a str,
    /// Where `/ready` is.
    pub metrics: SocketAddr,
    /// The public name.
    pub hostname: &'a str,
    /// The socket that requests are handed to.
    pub socket: &'a str,
}

/// The configuration file. All that may change from one start to the next is in here, since arguments may not.
pub fn file(content: &Content<'_>) -> String {
    let Content { tunnel_id, credentials, metrics, hostname, socket } = content;
    format!(
        "# Written by ferry before each start of cloudflared: what you change here is lost.\n\
         tunnel: {}\n\
         credentials-file: {}\n\
         metrics: {}\n\
         ingress:\n\
         \x20 - hostname: {}\n\
         \x20   service: {}\n\
         \x20 - service: http_status:404\n",
        quoted(tunnel_id),
        quoted(credentials),
        quoted(&metrics.to_string()),
        quoted(hostname),
        quoted(&format!("unix:{socket}")),
    )
}

/// A YAML text between double quotes is written as JSON has it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// How long cloudflared may wait for requests in flight, and how long after SIGTERM it gets SIGKILL.
///
/// The first lies halfway between the end of ferry's drain, when every call has its answer, and the second: cloudflared
/// ends by itself, up to a second after its grace.
pub fn patience(shutdown_timeout: Duration) -> (Duration, Duration) {
    let Budget { drain, kill, .. } = Budget::of(shutdown_timeout);
    (((drain + kill) / 2).min(LONGEST_GRACE), kill)
}

/// The arguments that run it.
pub fn run(config: &Path, grace: Duration, protocol: Option<TunnelProtocol>, ip: Option<IpVersion>) -> Vec<OsString> {
    let mut arguments = of_tunnel(config);
    // All before `run`: behind it cloudflared takes each for a mistake, prints its usage and exits with 0.
    let mut flag = |name: &str, value: &str| arguments.extend([name.into(), value.into()]);
    flag("--output", "json");
    // Never `debug`, which prints every header of every request, tokens included.
    flag("--loglevel", "info");
    flag("--grace-period", &format!("{}ms", grace.as_millis()));
    if let Some(protocol) = protocol {
        flag("--protocol", word(protocol));
    }
    if let Some(ip) = ip {
        flag("--edge-ip-version", version(ip));
    }
    // It would replace its own program and exit.
    arguments.extend(["--no-autoupdate".into(), "run".into()]);
    arguments
}

/// The arguments that have it look at its configuration.
pub fn validate(config: &Path) -> Vec<OsString> {
    let mut arguments = of_tunnel(config);
    arguments.extend(["ingress".into(), "validate".into()]);
    arguments
}

fn of_tunnel(config: &Path) -> Vec<OsString> {
    vec!["tunnel".into(), "--config".into(), config.into()]
}

fn word(protocol: TunnelProtocol) -> &'static str {
    match protocol {
        TunnelProtocol::Auto => "auto",
        TunnelProtocol::Http2 => "http2",
        TunnelProtocol::Quic => "quic",
    }
}

fn version(ip: IpVersion) -> &'static str {
    match ip {
        IpVersion::Auto => "auto",
        IpVersion::V4 => "4",
        IpVersion::V6 => "6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_everything_that_cloudflared_must_know() {
        let content = Content {
            tunnel_id: "6ff42ae2-765d-4adf-8112-31c55c1551ef",
            credentials: "/home/me/.cloudflared/6ff42ae2.json",
            metrics: ([127, 0, 0, 1], 20241).into(),
            hostname: "bridge.example.com",
            socket: "/Users/Jo \"x\"/state: 1/tunnel.sock",
        };
        assert_eq!(
            file(&content),
            r#"# Written by ferry before each start of cloudflared: what you change here is lost.
tunnel: "6ff42ae2-765d-4adf-8112-31c55c1551ef"
credentials-file: "/home/me/.cloudflared/6ff42ae2.json"
metrics: "127.0.0.1:20241"
ingress:
  - hostname: "bridge.example.com"
    service: "unix:/Users/Jo \"x\"/state: 1/tunnel.sock"
  - service: http_status:404
"#
        );
    }

    #[test]
    fn every_flag_stands_before_run() {
        let arguments =
            run(Path::new("/s/c.yml"), Duration::from_secs(6), Some(TunnelProtocol::Http2), Some(IpVersion::V4));
        let line = arguments.join(" ".as_ref());
        assert_eq!(
            line,
            "tunnel --config /s/c.yml --output json --loglevel info --grace-period 6000ms --protocol http2 \
             --edge-ip-version 4 --no-autoupdate run"
        );
        assert_eq!(validate(Path::new("c")).join(" ".as_ref()), "tunnel --config c ingress validate");
    }

    #[test]
    fn cloudflared_ends_by_itself_after_the_drain_and_before_the_kill() {
        let millis = Duration::from_millis;
        for (budget, grace, kill) in [
            (9_000, 6_000, 8_000),
            (30_000, 27_000, 29_000),
            (2_000, 500, 1_000),
            (600_000, 180_000, 599_000), // cloudflared knows no longer grace
            (0, 0, 0),
        ] {
            assert_eq!(patience(millis(budget)), (millis(grace), millis(kill)), "{budget} ms");
        }
    }
}
