//! From the configuration to what [`super::assemble`] puts together.

use std::net::{Ipv4Addr, SocketAddr};

use crate::bridge::origin::{Guard, InvalidEntry, Listener};
use crate::config::load::Config;
use crate::config::values::LocalListen;
use crate::error::{Advise, Exit};

/// An entry of the configuration that means nothing to the bridge.
#[derive(Debug, thiserror::Error)]
#[error("{}: {entry}", path.display())]
pub struct UnusableEntry {
    path: std::path::PathBuf,
    entry: InvalidEntry,
}

impl Advise for UnusableEntry {
    fn exit(&self) -> Exit {
        Exit::Configuration
    }
}

/// Where the local listener is to be; nowhere if it is off.
pub fn local_address(config: &Config) -> Option<SocketAddr> {
    match config.bridge.local_listen {
        Some(LocalListen::Off) => None,
        Some(LocalListen::At(address)) => Some(address),
        None => Some((Ipv4Addr::LOCALHOST, config.bridge.local_port.0).into()),
    }
}

/// Which pages may talk to the local listener.
pub fn guard(config: &Config) -> Result<Guard, UnusableEntry> {
    let address = local_address(config).map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip());
    Guard::new(Listener::Local(address), &config.bridge.allowed_hosts, &config.bridge.allowed_origins)
        .map_err(|entry| UnusableEntry { path: config.path.clone(), entry })
}
