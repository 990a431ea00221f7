//! What a user can decide, with its defaults.
//!
//! [`limits`] holds every bound there is: no queue, map or wait in ferry has a number of its own.

pub mod limits;
