//! The way into a pipe: whole lines, in order, through a bounded queue.
//!
//! A line is written at once where the pipe takes it, by whoever sends it: no hand-over to another task stands between
//! a request and its server. What the pipe does not take waits in the queue for [`Driver::run`].

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio::sync::Notify;

use super::members;

/// Lines up to this size are joined into one piece; longer ones are written from the pieces they came in.
const JOINED_BELOW: usize = 16 * 1024;

/// How much a queue holds.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Lines.
    pub lines: usize,
    /// Bytes of all lines; one line alone may be longer.
    pub bytes: usize,
    /// How long a full queue is waited for.
    pub wait: Duration,
}

/// One message on its way out, with its line break.
#[derive(Debug)]
pub struct Line {
    parts: VecDeque<Bytes>,
    length: usize,
    /// The request it carries, so that one never written can be told from one that may have run.
    request: Option<u64>,
}

impl Line {
    /// A line made of pieces which together are one JSON text without line breaks.
    pub fn new(parts: impl IntoIterator<Item = Bytes>) -> Self {
        let mut parts: VecDeque<Bytes> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.push_back(Bytes::from_static(b"\n"));
        let length = parts.iter().map(Bytes::len).sum();
        if length <= JOINED_BELOW && parts.len() > 1 {
            let mut joined = BytesMut::with_capacity(length);
            parts.iter().for_each(|part| joined.extend_from_slice(part));
            parts = VecDeque::from([joined.freeze()]);
        }
        Self { parts, length, request: None }
    }

    /// The line of a request whose parameters come in pieces.
    pub fn request(id: u64, method: &str, params: impl IntoIterator<Item = Bytes>) -> Self {
        use std::fmt::Write as _;
        let params: Vec<Bytes> = params.into_iter().collect();
        let length: usize = params.iter().map(Bytes::len).sum();
        let is_short = length <= JOINED_BELOW;
        let mut text = BytesMut::with_capacity(method.len() + 80 + if is_short { length } else { 0 });
        let _ = write!(text, "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":{}", members::quote(method));
        if !params.is_empty() {
            text.extend_from_slice(b",\"params\":");
        }
        let parts = if is_short {
            params.iter().for_each(|part| text.extend_from_slice(part));
            text.extend_from_slice(b"}\n");
            VecDeque::from([text.freeze()])
        } else {
            std::iter::once(text.freeze()).chain(params).chain([Bytes::from_static(b"}\n")]).collect()
        };
        let length = parts.iter().map(Bytes::len).sum();
        Self { parts, length, request: Some(id) }
    }

    /// A line of one text.
    pub fn text(text: impl Into<Bytes>) -> Self {
        Self::new([text.into()])
    }

    /// The same line, known to carry request `id`.
    #[must_use]
    pub fn carrying(mut self, id: u64) -> Self {
        self.request = Some(id);
        self
    }
}

/// Why a line was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The queue stayed full.
    Full,
    /// The pipe is closed.
    Closed,
    /// It was taken back before it was written.
    Unwanted,
}

/// A cloneable way into one pipe.
#[derive(Clone)]
pub struct Writer(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// The driver has something to do.
    work: Notify,
    /// The queue has become shorter.
    room: Notify,
    bounds: Bounds,
}

struct Queue {
    /// `None` once closed: dropping it is what the reader at its end sees.
    pipe: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    lines: VecDeque<Line>,
    bytes: usize,
    /// Bytes of the first line have been written.
    begun: bool,
    failure: Option<io::Error>,
}

impl Writer {
    /// A writer into `pipe`, and the driver that must run for what the pipe does not take at once.
    pub fn new(pipe: impl AsyncWrite + Send + 'static, bounds: Bounds) -> (Self, Driver) {
        let queue = Queue { pipe: Some(Box::pin(pipe)), lines: VecDeque::new(), bytes: 0, begun: false, failure: None };
        let shared = Shared { queue: Mutex::new(queue), work: Notify::new(), room: Notify::new(), bounds };
        let shared = Arc::new(shared);
        (Self(Arc::clone(&shared)), Driver(shared))
    }

    /// Sends a line, waiting [`Bounds::wait`] at the most while the queue is full.
    ///
    /// Before each try `wanted` is asked whether the line is still wanted, and after one that failed `failed` is told.
    ///
    /// # Errors
    /// [`Refused`]; nothing of the line was written then.
    pub async fn send(
        &self,
        line: Line,
        mut wanted: impl FnMut() -> bool,
        mut failed: impl FnMut(),
    ) -> Result<(), Refused> {
        let mut line = Some(line);
        let mut attempt = || {
            if !wanted() {
                return Err(Refused::Unwanted);
            }
            let Some(offered) = line.take() else { return Err(Refused::Unwanted) };
            self.0.offer(offered, false).map_err(|(refused_line, refused)| {
                line = Some(refused_line);
                failed();
                refused
            })
        };
        match attempt() {
            Err(Refused::Full) => {}
            decided => return decided,
        }
        let patience = tokio::time::sleep(self.0.bounds.wait);
        tokio::pin!(patience);
        loop {
            let mut room = std::pin::pin!(self.0.room.notified());
            // Registered before the second look, so that no shortening between the two is missed.
            room.as_mut().enable();
            match attempt() {
                Err(Refused::Full) => {}
                decided => return decided,
            }
            tokio::select! {
                () = &mut room => {}
                () = &mut patience => return Err(Refused::Full),
            }
        }
    }

    /// Sends a short line without ever waiting: an answer, a notification, a cancel.
    ///
    /// These may fill the queue to twice its bound, so that a cancel still passes where requests must wait.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn push(&self, line: Line) -> Result<(), Refused> {
        self.0.offer(line, true).map_err(|(_, refused)| refused)
    }

    /// Closes the pipe and tells which requests were never begun.
    pub fn close(&self) -> Vec<u64> {
        self.0.close()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no writer panics while it holds the queue")
    }

    fn offer(&self, line: Line, urgent: bool) -> Result<(), (Line, Refused)> {
        let mut queue = self.lock();
        if queue.pipe.is_none() {
            return Err((line, Refused::Closed));
        }
        let stretch = if urgent { 2 } else { 1 };
        let full = queue.lines.len() >= self.bounds.lines * stretch
            || (queue.bytes + line.length > self.bounds.bytes * stretch && !queue.lines.is_empty());
        if full {
            return Err((line, Refused::Full));
        }
        let idle = queue.lines.is_empty();
        queue.bytes += line.length;
        queue.lines.push_back(line);
        // Whatever is left over, the driver takes up with a waker of its own.
        if idle && !matches!(queue.pump(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(()))) {
            self.work.notify_one();
        }
        Ok(())
    }

    fn close(&self) -> Vec<u64> {
        let mut queue = self.lock();
        queue.pipe = None;
        let begun = usize::from(std::mem::take(&mut queue.begun));
        queue.bytes = 0;
        let unwritten = queue.lines.drain(..).skip(begun).filter_map(|line| line.request).collect();
        drop(queue);
        self.work.notify_one();
        self.room.notify_waiters();
        unwritten
    }
}

impl Queue {
    /// Writes until the queue is empty (`Ready`) or the pipe is full (`Pending`).
    fn pump(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        const SLICES: usize = 64;
        loop {
            let (Some(pipe), false) = (&mut self.pipe, self.lines.is_empty()) else { return Poll::Ready(Ok(())) };
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut count = 0;
            for (slice, part) in slices.iter_mut().zip(self.lines.iter().flat_map(|line| &line.parts)) {
                *slice = IoSlice::new(part);
                count += 1;
            }
            match pipe.as_mut().poll_write_vectored(context, &slices[..count]) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(self.fail(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(written)) => self.strike(written),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.fail(error))),
            }
        }
    }

    /// The pipe is kept until the driver has seen the failure: `pipe` tells whether lines are taken.
    fn fail(&mut self, error: io::Error) -> io::Error {
        let told = io::Error::new(error.kind(), error.to_string());
        self.failure.get_or_insert(error);
        told
    }

    /// Takes what was written off the queue.
    fn strike(&mut self, mut written: usize) {
        self.bytes -= written;
        while written > 0 {
            let line = self.lines.front_mut().expect("what was written was queued");
            let part = line.parts.front_mut().expect("a queued line has parts");
            if written < part.len() {
                bytes::Buf::advance(part, written);
                self.begun = true;
                return;
            }
            written -= part.len();
            line.parts.pop_front();
            self.begun = !line.parts.is_empty();
            if !self.begun {
                self.lines.pop_front();
            }
        }
    }
}

/// Writes what the pipe did not take at once.
pub struct Driver(Arc<Shared>);

impl Driver {
    /// Runs until the writer is closed, or the pipe is broken.
    ///
    /// # Errors
    /// What the pipe says; it is not closed then, so that [`Writer::close`] can tell what was not written.
    pub async fn run(self) -> io::Result<()> {
        loop {
            let outcome = std::future::poll_fn(|context| {
                let mut queue = self.0.lock();
                if let Some(error) = queue.failure.take() {
                    return Poll::Ready(Err(error));
                }
                let before = queue.lines.len();
                let outcome = queue.pump(context);
                let shorter = queue.lines.len() < before;
                drop(queue);
                if shorter {
                    self.0.room.notify_waiters();
                }
                outcome
            });
            outcome.await?;
            if self.0.lock().pipe.is_none() {
                return Ok(());
            }
            self.0.work.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    const BOUNDS: Bounds = Bounds { lines: 4, bytes: 1000, wait: Duration::from_millis(50) };

    #[tokio::test]
    async fn lines_arrive_whole_and_in_order_however_small_the_pipe() {
        let (near, mut far) = tokio::io::duplex(7);
        let (writer, driver) = Writer::new(near, Bounds { wait: Duration::from_mins(1), ..BOUNDS });
        let driving = tokio::spawn(driver.run());
        let reading = tokio::spawn(async move {
            let mut all = String::new();
            far.read_to_string(&mut all).await.map(|_| all)
        });
        let mut expected = String::new();
        for n in 0..50 {
            writer
                .send(Line::new([Bytes::from("a".repeat(n)), Bytes::from(n.to_string())]), || true, || {})
                .await
                .unwrap();
            expected.extend(["a".repeat(n), n.to_string(), "\n".to_owned()]);
        }
        while writer.0.lock().bytes > 0 {
            tokio::task::yield_now().await;
        }
        assert!(writer.close().is_empty());
        driving.await.unwrap().unwrap();
        assert_eq!(reading.await.unwrap().unwrap(), expected);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_requests_but_still_takes_cancels() {
        let (near, _far) = tokio::io::duplex(1);
        let (writer, driver) = Writer::new(near, BOUNDS);
        let _driving = tokio::spawn(driver.run());
        for id in 0..4 {
            writer.send(Line::text("request").carrying(id), || true, || {}).await.unwrap();
        }
        assert_eq!(writer.send(Line::text("request").carrying(4), || true, || {}).await, Err(Refused::Full));
        for _ in 0..4 {
            writer.push(Line::text("cancel")).unwrap();
        }
        assert_eq!(writer.push(Line::text("cancel")), Err(Refused::Full));
        // The first has begun: it may have run. The others cannot have.
        assert_eq!(writer.close(), [1, 2, 3]);
        assert_eq!(writer.send(Line::text("late"), || true, || {}).await, Err(Refused::Closed));
    }

    #[tokio::test]
    async fn a_broken_pipe_ends_the_driver_and_tells_what_was_not_written() {
        let (near, far) = tokio::io::duplex(64);
        drop(far);
        let (writer, driver) = Writer::new(near, BOUNDS);
        writer.send(Line::text("request").carrying(1), || true, || {}).await.unwrap();
        driver.run().await.unwrap_err();
        assert_eq!(writer.close(), [1]);
    }

    #[tokio::test]
    async fn one_line_may_be_longer_than_the_bound() {
        let (near, mut far) = tokio::io::duplex(64);
        let (writer, driver) = Writer::new(near, BOUNDS);
        let driving = tokio::spawn(driver.run());
        writer.send(Line::text("x".repeat(5000)), || true, || {}).await.unwrap();
        let mut read = vec![0; 5001];
        far.read_exact(&mut read).await.unwrap();
        writer.close();
        driving.await.unwrap().unwrap();
    }
}
