//! Finds the server of `tests/fixtures/rmcp_server.rs`: a child that is not ours, built with the official Rust SDK.

use std::path::PathBuf;

use crate::common::examples;

/// The program; give it `--era legacy`, `modern` or `dual`.
pub(crate) fn path() -> PathBuf {
    examples::path("rmcp_server")
}
