//! ferry from outside: real sockets, real HTTP, real processes. A file per room.
#![allow(clippy::disallowed_methods, reason = "no steward runs in this process")]

#[path = "../common/mod.rs"]
mod common;

mod architecture;
mod bridge_faults;
mod bridge_legacy;
mod bridge_legacy_to_modern;
mod bridge_modern;
mod bridge_modern_to_legacy;
mod bridge_resume;
mod bridge_unread;
mod config_commands;
mod control;
mod demo_server;
mod front_door;
mod isolation;
mod legacy_policy;
mod official_sdk;
mod reload;
mod run_command;
mod setup;
mod supervision;
mod support;
mod try_command;
mod tunnel;
mod whole_ferry;
