//! ferry from outside: real sockets, real HTTP, real processes. A file per room.

mod architecture;
mod bridge_legacy;
mod bridge_modern;
mod front_door;
mod review;
mod support;
