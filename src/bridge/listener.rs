//! Connections: accepted, bounded, served, ended.
//!
//! hyper's own connection builder instead of `axum::serve`, which has no time-out and no bound on headers, and no cap
//! on connections.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::Sleep;
use tower_service::Service as _;

use super::unread::{HangUp, Tab};
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
                let hang_up = HangUp::default();
                let (stream, service) = timed(stream, router, limits.header_timeout, hang_up.clone());
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    // hyper's clock runs from the end of the last answer: it bounds how long a connection is kept.
                    .header_read_timeout(limits.connection_idle)
                    .max_buf_size(limits.max_header_bytes)
                    .serve_connection(TokioIo::new(stream), service);
                let mut connection = std::pin::pin!(connection);
                let ended = tokio::select! {
                    ended = &mut connection => ended,
                    // In the middle of an answer that its client does not read.
                    () = hang_up.asked() => return,
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

/// A connection whose header sections have a time of their own, from their first byte on.
///
/// hyper has one clock for that and for idle connections; cloudflared keeps those for 90 s and would lose requests, and
/// a client that sends a byte now and then must not keep its place for as long.
fn timed(
    stream: TcpStream,
    router: Router,
    header_timeout: Duration,
    hang_up: HangUp,
) -> (
    HeadTimed,
    impl Service<Request<Incoming>, Response = Response<Answering>, Error = Infallible, Future: Send> + Clone,
) {
    let between = Arc::new(AtomicBool::new(true));
    let stream = HeadTimed { stream, between: Arc::clone(&between), header_timeout, deadline: None };
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        between.store(false, Ordering::Release);
        let (mut router, between, hang_up) = (router.clone(), Arc::clone(&between), hang_up.clone());
        async move {
            let mut response = router.call(request).await?;
            if let Some(tab) = response.extensions_mut().remove::<Arc<Tab>>() {
                tab.is_read_by(hang_up);
            }
            Ok(response.map(|body| Answering { body, between }))
        }
    });
    (stream, service)
}

/// Fails to read when a header section takes too long.
struct HeadTimed {
    stream: TcpStream,
    /// No request is being served: what comes is a header section.
    between: Arc<AtomicBool>,
    header_timeout: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for HeadTimed {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.between.load(Ordering::Acquire) {
            this.deadline = None;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if this.between.load(Ordering::Acquire) && buffer.filled().len() > before {
            let header_timeout = this.header_timeout;
            this.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(header_timeout)));
        }
        if read.is_pending()
            && let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for HeadTimed {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// An answer on its way; when it is gone, the next header section may come.
struct Answering {
    body: Body,
    between: Arc<AtomicBool>,
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.between.store(true, Ordering::Release);
    }
}

/// Waits until the flag is up, or until nobody is left to raise it.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
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
