//! HTTP on the tunnel's side, MCP on the child's side.
//!
//! A request passes [`router`], which asks [`origin`] whether its page may talk to ferry, [`auth`] who sends it,
//! [`accept`] what may be answered and [`era`] whose protocol it speaks. It finds its place in `sessions` or is held to
//! [`modern`] and [`param_headers`], and one file of `relay` makes an `exchange` of it, which takes it to the [`child`]
//! of its [`endpoint`], one of its `children`; the answer returns the same way, through `reply` and `stream`, and what
//! clients leave unread is counted in `unread`. What a server says unasked finds its owner by `attribution`, or nobody.
//! Where the eras differ, a server's questions become rounds of input (`dialogue`), or a server's wish for input
//! questions (`input`). `sse` is the older door, the HTTP+SSE transport of 2024-11-05. A child that dies meanwhile is an
//! answer too: a JSON-RPC error, never a hanging stream. Whatever ferry answers by itself is a [`refusal`].
//!
//! Deliberately absent: processes. Who starts a child is not known here ([`upstream`]).

pub mod accept;
mod attribution;
pub mod auth;
pub mod child;
mod children;
mod counted;
mod dialogue;
pub mod endpoint;
pub mod era;
mod exchange;
pub mod headers;
mod input;
mod introduction;
mod level;
pub mod listener;
pub mod methods;
pub mod modern;
pub mod origin;
pub mod param_headers;
pub mod refusal;
mod relay;
mod replay;
mod reply;
pub mod router;
pub mod seal;
pub mod session_id;
mod sessions;
mod sse;
mod standalone;
mod stream;
mod unread;
pub mod upstream;
