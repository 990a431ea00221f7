//! What can be wrong with a tunnel, in words for whoever has to do something about it.

use super::Version;
use crate::error::{Advise, Exit};

/// What is wrong with the tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// There is no cloudflared, or it cannot be executed.
    #[error("cloudflared cannot be run: {0}")]
    NoProgram(String),
    /// A version that hands on other requests than were made.
    #[error("cloudflared {0} changes the paths of requests, so it is not used")]
    BrokenVersion(Version),
    /// The credentials are missing, or something else.
    #[error("{why}")]
    Credentials {
        /// What is wrong with them.
        why: String,
        /// What to do about it.
        fix: String,
    },
    /// ferry could not write cloudflared's configuration, or find it a port.
    #[error("cloudflared cannot be prepared: {0}")]
    Preparation(String),
    /// cloudflared does not accept what ferry wrote.
    #[error("cloudflared refuses the configuration that ferry wrote for it: {0}")]
    Configuration(String),
    /// It printed its usage and exited, with 0.
    #[error("cloudflared does not know an option that ferry needs: {0}")]
    Usage(String),
    /// It could not tell which tunnel to run.
    #[error("cloudflared found no tunnel to run: {0}")]
    NoTunnel(String),
    /// Cloudflare does not let this tunnel in.
    #[error("Cloudflare refuses the tunnel: {0}")]
    Refused(String),
    /// Cloudflare's names cannot be looked up.
    #[error("the names of Cloudflare's servers cannot be looked up: {0}")]
    Dns(String),
    /// Cloudflare's servers cannot be reached.
    #[error("Cloudflare cannot be reached: {0}")]
    Unreachable(String),
    /// Somebody else took the port between ferry's choice and cloudflared's start.
    #[error("the port for cloudflared's metrics was taken by another program")]
    PortTaken,
    /// It exited, and nothing says why.
    #[error("cloudflared ended by itself: {0}")]
    Ended(String),
}

/// How much one trouble says beside another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Weight {
    /// The next start is another try with other numbers: nobody needs to know.
    Passing,
    /// That it ended, without a reason.
    Unexplained,
    /// It may be over any time: a network.
    Temporary,
    /// Somebody has to do something.
    Lasting,
}

impl Trouble {
    pub(super) fn weight(&self) -> Weight {
        match self {
            Self::PortTaken => Weight::Passing,
            Self::Ended(_) => Weight::Unexplained,
            Self::Dns(_) | Self::Unreachable(_) => Weight::Temporary,
            Self::NoProgram(_)
            | Self::BrokenVersion(_)
            | Self::Credentials { .. }
            | Self::Preparation(_)
            | Self::Configuration(_)
            | Self::Usage(_)
            | Self::NoTunnel(_)
            | Self::Refused(_) => Weight::Lasting,
        }
    }

    /// Whether it is over as soon as cloudflared has been started: it was what stood in the way of that.
    pub(super) fn is_over_at_start(&self) -> bool {
        matches!(self, Self::NoProgram(_) | Self::BrokenVersion(_) | Self::Preparation(_))
    }

    /// One next action.
    pub fn fix(&self) -> String {
        match self {
            Self::NoProgram(_) => {
                "install cloudflared (on macOS: `brew install cloudflared`), or name it as `binary` in `[tunnel]`".to_owned()
            }
            Self::BrokenVersion(_) => {
                "install another version: 2026.8.2 or later (on macOS: `brew upgrade cloudflared`)".to_owned()
            }
            Self::Credentials { fix, .. } => fix.clone(),
            Self::Preparation(_) => "see that ferry's state directory can be written to and its disk is not full".to_owned(),
            Self::Configuration(_) => {
                "check `hostname` in `[bridge]`; if it is right, this is a bug of ferry's: please report it".to_owned()
            }
            Self::Usage(_) => "update cloudflared (on macOS: `brew upgrade cloudflared`)".to_owned(),
            Self::NoTunnel(_) => "`ferry setup` makes the tunnel and its credentials anew".to_owned(),
            Self::Refused(_) => {
                "its secret was changed or it was deleted: `ferry setup` fetches its credentials, or makes it, again"
                    .to_owned()
            }
            Self::Dns(_) => {
                "check this machine's network and its DNS; ferry goes on trying, and `ferry doctor` tests the way".to_owned()
            }
            Self::Unreachable(_) => {
                "check this machine's network, and that port 7844 is open outwards (UDP and TCP); ferry goes on trying, and \
                 `ferry doctor` tests the way"
                    .to_owned()
            }
            Self::PortTaken => "ferry takes another port at the next start".to_owned(),
            Self::Ended(_) => "ferry starts it again; its log says more: `ferry logs cloudflared.tunnel`".to_owned(),
        }
    }
}

impl Advise for Trouble {
    fn hint(&self) -> Option<String> {
        Some(self.fix())
    }

    fn exit(&self) -> Exit {
        Exit::Unreachable
    }
}
