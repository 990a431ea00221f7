//! HTTP on the tunnel's side, MCP on the child's side.
//!
//! The front door, pure: [`origin`] says whether a page may talk to ferry at all, [`accept`] what may be answered,
//! [`era`] whose protocol a request speaks, [`modern`] and [`param_headers`] whether a modern one is sound, with
//! [`methods`] as their table. Whatever ferry answers by itself is a [`refusal`].

pub mod accept;
pub mod era;
pub mod headers;
pub mod methods;
pub mod modern;
pub mod origin;
pub mod param_headers;
pub mod refusal;
