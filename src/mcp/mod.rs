//! The Model Context Protocol as it goes over a pipe: JSON-RPC messages, versions, one connection, its opening.
//!
//! [`envelope`] finds the parts of a message without parsing what they carry; [`lines`] and [`writer`] are the two
//! directions of a pipe, one message a line; [`connection`] numbers what goes out, finds the owner of what comes back,
//! and hands the rest to whoever listens; [`probe`] opens a connection in the era that the server at its end speaks.
//! Deliberately absent: HTTP, clients, sessions, processes. Any reader and writer will do.

pub mod connection;
pub mod envelope;
pub mod lines;
pub mod members;

pub mod probe;
pub mod version;
pub mod writer;
