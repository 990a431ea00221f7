//! Connections: accepted, bounded, served, ended.
//!
//! hyper's own connection builder instead of `axum::serve`, which has no time-out and no bound on headers, and no cap
//! on connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::config::limits::Limits;

/// How long accepting pauses when the system has no descriptor for another connection.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// A bound TCP listener.
#[derive(Debug)]
pub struct Tcp {
    listener: TcpListener,
    address: SocketAddr,
}

impl Tcp {
    /// Binds to an address; port 0 takes any free one.
    ///
    /// # Errors
    /// What the system says.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves connections until `stop` turns true, then lets those that are open finish what they have begun.
    pub async fn serve(self, router: Router, limits: Arc<Limits>, mut stop: watch::Receiver<bool>) {
        let room = Arc::new(Semaphore::new(limits.max_connections));
        loop {
            let accepted = tokio::select! {
                accepted = accept(&self.listener, &room) => accepted,
                () = told(&mut stop) => break,
            };
            let (stream, permit) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            };
            // An answer is small and awaited: it must not wait for more to send (RFC 896).
            let _ = stream.set_nodelay(true);
            let (router, limits, mut stop) = (router.clone(), Arc::clone(&limits), stop.clone());
            tokio::spawn(async move {
                let service = TowerToHyperService::new(router);
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(limits.header_timeout.max(limits.connection_idle))
                    .max_buf_size(limits.max_header_bytes)
                    .serve_connection(TokioIo::new(stream), service);
                let mut connection = std::pin::pin!(connection);
                let ended = tokio::select! {
                    ended = &mut connection => ended,
                    () = told(&mut stop) => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                };
                if let Err(error) = ended {
                    tracing::debug!("a connection ended early: {error}");
                }
                drop(permit);
            });
        }
        drop(self.listener);
        // Every connection gives its place back when it ends.
        let _ = room.acquire_many(u32::try_from(limits.max_connections).unwrap_or(u32::MAX)).await;
    }
}

/// Waits until the flag is up, or until nobody is left to raise it.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

/// A connection that was gone before it was accepted is nothing; without descriptors, accepting must not spin.
async fn pause_after(error: &io::Error) {
    match error.kind() {
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted => {}
        _ => {
            tracing::warn!("no connection can be accepted for now: {error}");
            tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
        }
    }
}
