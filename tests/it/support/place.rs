//! A place with a configuration, where ferry is run as people run it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use super::ferry::{Ferry, Said};
use super::http::{Client, body, outcome};

/// A command line like no other on this machine, were these tests run twice at once. `ferry-test-run` becomes such a
/// word in every configuration here.
pub(crate) fn marked(text: &str) -> String {
    let id = std::process::id();
    text.replace("ferry-test-run", &format!("ferry-test-run-{id}")).replace("sleep 7", &format!("sleep 7{id}"))
}

/// A legacy server of a few lines of shell: one tool, which tells `$ANSWER`, if it is given a gate not before that exists. `$1` marks it in the process table.
const SERVER: &str = r#"#!/bin/sh
while read -r line; do
  id=$(printf %s "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  case $line in
    *'"initialize"'*) printf '{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"shell","version":"1"}}}\n' "$id" ;;
    *'"gate"'*)
      gate=$(printf %s "$line" | sed -n 's/.*"gate":"\([^"]*\)".*/\1/p')
      : > "$gate.waiting"
      while [ ! -e "$gate" ]; do sleep 0.05; done
      printf '{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"%s"}]}}\n' "$id" "$ANSWER" ;;
    *'"tools/call"'*) printf '{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"%s"}]}}\n' "$id" "$ANSWER" ;;
    *'"id"'*) printf '{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no such method"}}\n' "$id" ;;
  esac
done
"#;

/// A place with a configuration, a server program and a state that outlives each ferry.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new(config: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let server = place.0.path().join("server");
        fs::write(&server, SERVER).unwrap();
        fs::set_permissions(&server, fs::Permissions::from_mode(0o755)).unwrap();
        place.configure(config);
        place
    }

    /// Another configuration, in which `SERVER` is the server program.
    pub(crate) fn configure(&self, config: &str) {
        let server = self.0.path().join("server");
        self.write("config.toml", &marked(config).replace("SERVER", server.to_str().unwrap()));
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    pub(crate) fn run(&self) -> Ferry {
        self.run_with(&[])
    }

    pub(crate) fn run_with(&self, variables: &[(&str, &str)]) -> Ferry {
        self.command(&["run"], variables)
    }

    /// As a service manager does it.
    pub(crate) fn run_as_service(&self) -> Ferry {
        self.with_variables(&[], |all| Ferry::run_as_service(&["run"], all))
    }

    /// Another command of ferry's, with the same state and configuration.
    pub(crate) fn command(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Ferry {
        self.with_variables(variables, |all| Ferry::run(arguments, all))
    }

    fn with_variables(&self, more: &[(&str, &str)], run: impl FnOnce(&[(&str, &str)]) -> Ferry) -> Ferry {
        let state = self.0.path().join("kept-state");
        let config = self.0.path().join("config.toml");
        let mut all = vec![("FERRY_STATE_DIR", state.to_str().unwrap()), ("FERRY_CONFIG", config.to_str().unwrap())];
        all.extend(more);
        run(&all)
    }

    /// Runs a command to its end.
    pub(crate) async fn says(&self, arguments: &[&str]) -> Said {
        self.command(arguments, &[]).ended().await
    }

    /// What `ferry status --json` says.
    pub(crate) async fn status(&self) -> Value {
        let said = self.says(&["status", "--json"]).await;
        serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{}", said.stderr))
    }
}

/// The URL of one server, from the screen.
pub(crate) async fn url(ferry: &mut Ferry, name: &str) -> String {
    let line = ferry.line_with(&format!("  {name} ")).await;
    line.split_whitespace().last().unwrap().to_owned()
}

pub(crate) fn health_url(url: &str) -> String {
    format!("{}/healthz", url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/"))
}

pub(crate) async fn health(url: &str) -> (u16, Value) {
    outcome(Client::new(&health_url(url)).send(reqwest::Method::GET, "").await).await
}

pub(crate) fn call() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x", "arguments": {}}})
}

pub(crate) async fn answer(client: &Client) -> String {
    let answer = body(client.post(call()).await).await;
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}
