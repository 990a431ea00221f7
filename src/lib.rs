//! ferry runs stdio MCP servers on the machine where their data is and puts each at a URL.

pub mod bridge;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod env;
pub mod error;
pub mod mcp;
pub mod paths;
pub mod secret;
pub mod supervisor;
pub mod telemetry;
