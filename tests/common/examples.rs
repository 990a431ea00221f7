//! Programs that tests need beside ferry, built as examples: only those may use dev-dependencies.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The program of `tests/fixtures/<name>.rs`.
///
/// Cargo builds examples for a plain `cargo test`, into a directory beside that of the test programs, but tells nobody
/// where. It does not build them for `cargo test --test it`: then this says so, rather than run what is not there or is
/// not what the source says.
pub(crate) fn path(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.rs"));
    let test = std::env::current_exe().expect("the test is a program");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/it-<hash>");
    let program = profile.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    let fresh = modified(&program).is_some_and(|built| modified(&source).is_none_or(|written| written <= built));
    assert!(fresh, "{} is missing or stale: `cargo build --example {name}` first", program.display());
    program
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|found| found.modified()).ok()
}
