//! ferry from outside: real sockets, real HTTP, real processes. A file per room.
#![allow(clippy::disallowed_methods, reason = "no steward runs in this process")]

#[path = "../common/mod.rs"]
mod common;

mod architecture;
mod bridge_faults;
mod bridge_legacy;
mod bridge_modern;
mod bridge_resume;
mod config_commands;
mod demo_server;
mod front_door;
mod isolation;
mod official_sdk;

mod legacy_policy;
mod run_command;
mod setup;
mod supervision;
mod support;
mod try_command;
mod whole_ferry;
