//! A place for the cloudflared of `tests/fixtures/fake_cloudflared.rs`: what it is told, and what it has noted.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::examples;

/// The tunnel of all tests.
pub(crate) const TUNNEL_ID: &str = "6ff42ae2-765d-4adf-8112-31c55c1551ef";

/// A directory of one test's fake.
pub(crate) struct Fake(PathBuf);

impl Fake {
    /// In `dir`, with credentials.
    pub(crate) fn at(dir: &Path) -> Self {
        let fake = Self(dir.to_owned());
        fake.has_credentials();
        fake.is_installed();
        fake
    }

    /// The program to run.
    pub(crate) fn program(&self) -> PathBuf {
        self.0.join("cloudflared")
    }

    /// No variable of ferry's is inherited by all of its cloudflareds, and tests share a process: a line of shell tells
    /// each where it is at home.
    pub(crate) fn is_installed(&self) {
        let program = examples::path("fake_cloudflared");
        let (dir, program) = (self.0.display(), program.display());
        let script = format!("#!/bin/sh\nFAKE_CLOUDFLARED='{dir}' exec '{program}' \"$@\"\n");
        // Renamed when it is complete: a file that is still being written cannot be executed.
        let unready = self.0.join("cloudflared.new");
        fs::write(&unready, script).unwrap();
        fs::set_permissions(&unready, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(unready, self.program()).unwrap();
    }

    pub(crate) fn is_removed(&self) {
        fs::remove_file(self.program()).unwrap();
    }

    pub(crate) fn credentials(&self) -> PathBuf {
        self.0.join("credentials.json")
    }

    pub(crate) fn has_credentials(&self) {
        let secret = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U=";
        let text = format!(r#"{{"AccountTag":"acc","TunnelSecret":"{secret}","TunnelID":"{TUNNEL_ID}"}}"#);
        fs::write(self.credentials(), text).unwrap();
        fs::set_permissions(self.credentials(), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// How it behaves from now on.
    pub(crate) fn behaves(&self, mode: &str) {
        self.tell("mode", mode);
    }

    /// Replaces one of the files it reads in one step.
    pub(crate) fn tell(&self, name: &str, text: &str) {
        let unready = self.0.join(format!("{name}.new"));
        fs::write(&unready, text).unwrap();
        fs::rename(unready, self.0.join(name)).unwrap();
    }

    /// What it noted at each of its starts.
    pub(crate) fn starts(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.0.join("starts")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Where the edge is, once the tunnel was open.
    pub(crate) fn edge(&self) -> String {
        fs::read_to_string(self.0.join("edge")).unwrap()
    }
}
