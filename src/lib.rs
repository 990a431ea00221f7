//! ferry runs stdio MCP servers on the machine where their data is and puts each at a URL.

pub mod demo;
pub mod env;
pub mod error;
pub mod secret;
