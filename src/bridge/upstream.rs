//! The small interface by which the bridge asks for a server to be there; `daemon` implements it with a process.

use std::sync::Arc;

use super::child::Child;

/// A server that somebody else starts and stops.
pub trait Upstream: Send + Sync + 'static {
    /// Starts it unless it runs; during back-off this is one immediate try.
    fn demand(&self);

    /// Ends what runs now, and starts it anew: it does not answer any more.
    fn restart(&self, generation: u64, reason: &str);

    /// Ends what runs now. The next demand starts it anew.
    fn rest(&self);

    /// Ends what runs now, for good.
    fn stop(&self);
}

/// Whoever starts servers: one for each child, when it is first needed.
pub trait Upstreams: Send + Sync + 'static {
    /// The server of a child that has none yet. It is to tell the child what becomes of it.
    fn open(&self, child: &Arc<Child>) -> Arc<dyn Upstream>;
}
