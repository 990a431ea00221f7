//! A small MCP server to try ferry with, and to test it with: `ferry demo-server`, a hidden subcommand.
//!
//! It speaks both eras over stdio: the `initialize` handshake of 2024-11-05 … 2025-11-25 and the self-contained requests
//! of 2026-07-28. A line meets the files in this order: `wire` reads it, `era` says who may ask what, `server`
//! finds the handler, `tools`, `notes`, `resources` and `prompts` have the answer, `peer` writes it.
//!
//! Deliberately absent: everything else of ferry. What checks a bridge must not share the bridge's understanding of the
//! protocol, so no type of another room is used here, and messages are plain [`serde_json::Value`] trees.

mod call;
mod era;
mod notes;
mod peer;
mod prompts;
mod resources;
mod server;
mod stdio;
mod subscriptions;
#[cfg(test)]
mod tests;
mod tools;
mod wire;

pub use server::serve;
pub use stdio::run;
