//! ferry runs stdio MCP servers on the machine where their data is and puts each at a URL.
//!
//! This is the map of the crate: two flows, then the rooms.
//!
//! A request: a client → [`bridge::router`] → [`bridge::origin`] → [`bridge::auth`] → [`bridge::era`] → a session, or the
//! checks of [`bridge::modern`] → a relay → [`bridge::child`] → the server's pipe ([`mcp::connection`]), and back.
//!
//! A signal: [`supervisor::signals`] → [`daemon::lifecycle`] → stop accepting, end standing streams → calls in flight
//! finish → [`supervisor::Supervisor`] ends the processes → [`daemon::lifecycle`] picks the exit code.
//!
//! The rooms, top floor first. A room uses lower floors only, and rooms of one floor meet in [`daemon`] alone:
//! `tests/it/architecture.rs` holds it. Calls go down, events come up through channels.
//!
//! | floor | room | what it is |
//! |---|---|---|
//! | 5 | [`cli`] | what people type: a file per command |
//! | 4 | [`daemon`] | what `ferry try` and `ferry run` start; the one room that introduces the others to each other |
//! | 3 | [`bridge`] | HTTP in, MCP out |
//! | 3 | [`cloudflare`] | the account: what `ferry setup` makes there
//! | 3 | [`demo`] | the MCP server that ferry carries along: a room of its own, since it is a whole program to itself |
//! | 3 | [`tunnel`] | cloudflared as one supervised process |
//! | 2 | [`supervisor`] | keeps processes alive, and ends them |
//! | 2 | [`mcp`] | MCP over any pipe: messages, versions, one connection, its opening |
//! | 2 | [`config`] | what a user can decide |
//! | 1 | [`telemetry`] | logs |
//! | 0 | [`error`], [`env`](mod@env), [`paths`], [`random`], [`secret`] | what every room may use |

pub mod bridge;
pub mod cli;
pub mod cloudflare;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod env;
pub mod error;
pub mod mcp;
pub mod paths;
pub mod random;
pub mod secret;
pub mod supervisor;
pub mod telemetry;
pub mod tunnel;
