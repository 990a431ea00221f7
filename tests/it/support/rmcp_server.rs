//! Finds the server of `tests/fixtures/rmcp_server.rs`: a child that is not ours, built with the official Rust SDK.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/rmcp_server.rs");

/// The program; give it `--era legacy`, `modern` or `dual`.
///
/// Cargo builds examples for a plain `cargo test`, into a directory beside that of the test programs, but tells nobody
/// where. It does not build them for `cargo test --test it`: then this says so, rather than run what is not there or is
/// not what the source says.
pub(crate) fn path() -> PathBuf {
    let test = std::env::current_exe().expect("the test is a program");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/it-<hash>");
    let program = profile.join("examples").join(format!("rmcp_server{}", std::env::consts::EXE_SUFFIX));
    let fresh =
        modified(&program).is_some_and(|built| modified(Path::new(SOURCE)).is_none_or(|written| written <= built));
    assert!(fresh, "{} is missing or stale: `cargo build --example rmcp_server` first", program.display());
    program
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|found| found.modified()).ok()
}
