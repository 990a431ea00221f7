//! What a user can decide, with its defaults.
//!
//! [`schema`] declares every key once, [`values`] what a value may look like, and [`load`] makes of a file what the rest
//! of ferry works with: servers that can be started, and servers that are broken, each with its reason. [`edit`] changes
//! a file and leaves everything else in it as it is; [`import`] finds what other clients have declared. [`words`] takes commands apart, [`env_file`] reads files of
//! variables and writes them. [`limits`] holds every bound there is: no queue, map or wait in ferry has a number of its
//! own.
//!
//! Deliberately absent: the secrets. Here they are only places to look; whoever starts a server looks.

pub mod edit;
pub mod env_file;
pub mod import;
pub mod limits;
pub mod load;
pub mod reload;
pub mod schema;
mod section;
pub mod values;
pub mod words;

pub use section::nearest;
