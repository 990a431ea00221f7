//! stderr of a child: read to its end whatever happens, line by line, each line bounded.

use std::collections::VecDeque;
use std::io::{self, BufRead};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::telemetry::rotation::LogFile;

/// A longer line is cut here; what follows up to its end is dropped, and the line says so.
const MAX_LINE: usize = 8 * 1024;
/// How many lines `status` can show.
const RING: usize = 50;
const CUT: &str = " […]";

/// Where a child's stderr goes.
#[derive(Debug, Clone, Default)]
pub struct Capture {
    /// The child's own log.
    pub file: Option<LogFile>,
    /// Whoever else wants the lines, as they come. One that does not keep up misses some.
    pub lines: Option<mpsc::Sender<String>>,
}

/// The last lines of one process, over all its generations.
#[derive(Debug, Clone, Default)]
pub(super) struct Ring(Arc<Mutex<VecDeque<String>>>);

impl Ring {
    pub(super) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == RING {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// Everything that is written about one process.
#[derive(Debug, Clone)]
pub(super) struct Book {
    pub ring: Ring,
    pub capture: Capture,
}

impl Book {
    /// A line of the child's.
    fn enter(&self, line: &[u8]) {
        let line = String::from_utf8_lossy(line).into_owned();
        self.log(&line);
        if let Some(lines) = &self.capture.lines {
            let _ = lines.try_send(line.clone());
        }
        self.ring.push(line);
    }

    /// A line of ferry's own, in the child's log only: when it started, how it ended.
    pub(super) fn note(&self, note: &str) {
        self.log(&format!("ferry: {note}"));
    }

    fn log(&self, line: &str) {
        if let Some(file) = &self.capture.file {
            let mut stamped = String::with_capacity(line.len() + 32);
            // The clock is always there; a line without a time would still be a line.
            let _ = tracing_subscriber::fmt::time::SystemTime.format_time(&mut Writer::new(&mut stamped));
            stamped.push(' ');
            stamped.push_str(line);
            file.write(stamped.into_bytes());
        }
    }
}

/// Reads until the last holder of the pipe has closed it: that may be a daemon that outlives the child, and it must not
/// hang in a write.
pub(super) async fn drain(pipe: OwnedFd, book: Book) -> io::Result<()> {
    let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
    let mut lines = Lines::default();
    let mut buffer = Vec::with_capacity(8 * 1024);
    loop {
        buffer.clear();
        let read = pipe.read_buf(&mut buffer).await;
        lines.feed(&buffer, |line| book.enter(line));
        if !matches!(read, Ok(count) if count > 0) {
            lines.finish(|line| book.enter(line));
            return read.map(|_| ());
        }
    }
}

/// Cuts a stream into lines of at most [`MAX_LINE`] bytes.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    cut: bool,
}

impl Lines {
    fn feed(&mut self, mut bytes: &[u8], mut take: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let end = memchr::memchr(b'\n', bytes);
            let part = &bytes[..end.unwrap_or(bytes.len())];
            let room = MAX_LINE - self.line.len().min(MAX_LINE);
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            self.cut |= part.len() > room;
            if end.is_some() {
                self.finish_line(&mut take);
            }
            bytes.consume(part.len() + usize::from(end.is_some()));
        }
    }

    /// What came after the last line feed.
    fn finish(&mut self, mut take: impl FnMut(&[u8])) {
        if !self.line.is_empty() {
            self.finish_line(&mut take);
        }
    }

    fn finish_line(&mut self, take: &mut impl FnMut(&[u8])) {
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        if std::mem::take(&mut self.cut) {
            self.line.extend_from_slice(CUT.as_bytes());
        }
        take(&self.line);
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(parts: &[&[u8]]) -> Vec<String> {
        let mut found = Vec::new();
        let mut take = |line: &[u8]| found.push(String::from_utf8_lossy(line).into_owned());
        let mut lines = Lines::default();
        for part in parts {
            lines.feed(part, &mut take);
        }
        lines.finish(&mut take);
        found
    }

    #[test]
    fn lines_are_found_across_reads() {
        assert_eq!(lines(&[b"one\ntw", b"o\r\n\nthr", b"ee"]), ["one", "two", "", "three"]);
    }

    #[test]
    fn a_line_without_end_takes_no_more_than_its_share() {
        let long = vec![b'x'; MAX_LINE];
        let cut = format!("{}{CUT}", "x".repeat(MAX_LINE));
        assert_eq!(lines(&[&long, b"\nnext\n"]), ["x".repeat(MAX_LINE).as_str(), "next"]);
        assert_eq!(lines(&[&long, b"x", &long, b"\nnext\n"]), [cut.as_str(), "next"]);
    }

    #[test]
    fn the_ring_keeps_the_last_lines() {
        let book = Book { ring: Ring::default(), capture: Capture::default() };
        for number in 0..RING + 5 {
            book.enter(number.to_string().as_bytes());
        }
        assert_eq!(book.ring.lines().len(), RING);
        assert_eq!(book.ring.lines()[0], "5");
    }
}
