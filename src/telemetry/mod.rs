//! What ferry tells about itself: low in the house, so that every room can use it.

pub mod logging;
pub mod metrics;
pub mod rotation;
pub mod tail;
