//! ferry from outside: real sockets, real HTTP, real processes. A file per room.

mod bridge_legacy;
mod bridge_modern;
mod demo_server;
mod front_door;
mod official_sdk;
mod support;
