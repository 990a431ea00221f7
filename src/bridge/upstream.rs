//! The small interface by which the bridge asks for a server to be there; `daemon` implements it with a process.

/// A server that somebody else starts and stops.
pub trait Upstream: Send + Sync + 'static {
    /// Starts it unless it runs; during back-off this is one immediate try.
    fn demand(&self);

    /// Ends what runs now, and starts it anew: it does not answer any more.
    fn restart(&self, generation: u64, reason: &str);
}
