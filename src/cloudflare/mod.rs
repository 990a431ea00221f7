//! The account at Cloudflare: what `ferry setup` makes there, and `ferry teardown` removes.
//!
//! [`desired`] says what there should be, [`actual`] reads what there is, [`plan`] is the difference and knows neither
//! network nor disk, [`apply`] carries it out step by step. [`client`] speaks the API, [`state`] remembers what was made,
//! [`clients`] lists where each MCP client wants to be sent after a login.
//!
//! A second run with the same inputs writes nothing. A run that was interrupted at any request is finished by the next
//! one: every resource is found again by its name, and whatever an answer that never arrived has made is found too.
//!
//! Deliberately absent: questions to the user, and `config.toml`. `cli` asks, and edits.

pub mod actual;
pub mod apply;
pub mod client;
pub mod clients;
pub mod credentials;
pub mod desired;
pub mod plan;
pub mod state;
pub mod teardown;
