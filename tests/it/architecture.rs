//! Dependencies between rooms point one way: a room uses lower floors only, and never a neighbour.

use std::fs;
use std::path::{Path, PathBuf};

/// The floors of `src/lib.rs`, lowest first.
const FLOORS: [&[&str]; 6] = [
    &["env", "error", "paths", "random", "secret"],
    &["telemetry"],
    &["config", "mcp", "supervisor"],
    &["bridge", "cloudflare", "demo", "tunnel"],
    &["daemon"],
    &["cli"],
];

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// The rooms that a source names as `crate::room`.
fn named(source: &str) -> impl Iterator<Item = &str> {
    source.split("crate::").skip(1).flat_map(|rest| match rest.strip_prefix('{') {
        // `use crate::{env, paths};`
        Some(list) => list.split_once('}').map_or("", |(list, _)| list).split(',').map(word).collect::<Vec<_>>(),
        None => vec![word(rest)],
    })
}

fn word(text: &str) -> &str {
    let text = text.trim_start();
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

#[test]
fn rooms_use_lower_floors_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut looked_at = 0;
    for path in sources(&src) {
        let inside = path.strip_prefix(&src).unwrap();
        let room = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if ["lib", "main"].contains(&room) {
            continue;
        }
        let own = floor(room).unwrap_or_else(|| panic!("{room} has no floor: say in src/lib.rs and here where it is"));
        for other in named(&fs::read_to_string(&path).unwrap()) {
            let Some(below) = floor(other) else { panic!("{} names crate::{other}", inside.display()) };
            assert!(
                below < own || other == room || own == 0,
                "{} (floor {own}) uses {other} (floor {below})",
                inside.display()
            );
            looked_at += 1;
        }
    }
    assert!(looked_at > 50, "this test reads the sources, or it says nothing");
}

#[test]
fn a_use_is_found_however_it_is_written() {
    let source = "use crate::{env, paths};\nuse crate::mcp::envelope;\n let x = crate::secret::Secret::new();";
    assert_eq!(named(source).collect::<Vec<_>>(), ["env", "paths", "mcp", "secret"]);
}
