//! ferry from outside: real sockets, real HTTP, real processes. A file per room.
#![allow(clippy::disallowed_methods, reason = "no steward runs in this process")]

mod architecture;
mod bridge_legacy;
mod bridge_modern;
mod config_commands;
mod front_door;
mod support;
mod try_command;
