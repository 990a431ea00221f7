//! ferry as a program: what people and service managers do to it, and what they find afterwards.

#[path = "../common/mod.rs"]
mod common;

mod supervision;
mod support;
