//! Log files that rotate by size, all written by one thread behind a bounded queue.
//!
//! Whoever logs never waits for a disk: a full queue loses the line and counts it, and the count is written as soon as
//! there is room again. A full or broken disk therefore costs log lines and nothing else.
//!
//! Own lines instead of `file-rotate` or `logroller`: each of these writes in the caller's thread or in one thread per
//! file, and brings chrono and flate2 along.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::paths;

/// How many lines may wait for the disk, over all files.
const QUEUE_LINES: usize = 4096;
/// How many bytes may wait for the disk, over all files.
const QUEUE_BYTES: usize = 4 * 1024 * 1024;
/// A file that would grow beyond this is rotated first.
const MAX_BYTES: u64 = 10 * 1024 * 1024;
/// How many old files are kept: `name.log.1`, the youngest, to `name.log.4`.
const KEPT: u32 = 4;

/// The one thread that writes every log file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogWriter {
    queue: SyncSender<Entry>,
    waiting_bytes: Arc<AtomicUsize>,
    limits: Limits,
}

/// How large a file gets and how many old ones are kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A file that would grow beyond this many bytes is rotated first.
    pub bytes: u64,
    /// How many rotated files are kept beside the current one.
    pub kept: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: MAX_BYTES, kept: KEPT }
    }
}

/// One log file: a handle that queues lines for it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogFile {
    writer: LogWriter,
    target: Arc<Target>,
}

#[derive(Debug)]
struct Target {
    path: PathBuf,
    limits: Limits,
    lost: AtomicU64,
    /// Only the writing thread takes this lock, so nobody ever waits for it.
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
}

#[derive(Debug)]
enum Entry {
    Line(Arc<Target>, Vec<u8>),
    /// Everything queued before this has been written once it is answered.
    Flush(SyncSender<()>),
}

impl LogWriter {
    /// Starts the writing thread. It ends when the last handle is gone.
    pub fn start(limits: Limits) -> io::Result<Self> {
        let (queue, entries) = sync_channel(QUEUE_LINES);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let written = Arc::clone(&waiting_bytes);
        thread::Builder::new().name("logs".to_owned()).spawn(move || write_all(&entries, &written))?;
        Ok(Self { queue, waiting_bytes, limits })
    }

    /// A log file at `path`. Nothing is opened before its first line.
    pub fn file(&self, path: PathBuf) -> LogFile {
        let target = Target { path, limits: self.limits, lost: AtomicU64::new(0), open: Mutex::new(None) };
        LogFile { writer: self.clone(), target: Arc::new(target) }
    }

    /// Waits until what is queued now has been written, or `limit` has passed: a dead disk must not hold up the end.
    pub fn flush(&self, limit: Duration) {
        let (done, written) = sync_channel(1);
        if self.queue.try_send(Entry::Flush(done)).is_ok() {
            let _ = written.recv_timeout(limit);
        }
    }
}

impl LogFile {
    /// Queues one line, with or without its line feed. Never waits: what does not fit is lost and counted.
    pub fn write(&self, mut line: Vec<u8>) {
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        let length = line.len();
        let waiting = self.writer.waiting_bytes.fetch_add(length, Ordering::Relaxed);
        let entry = Entry::Line(Arc::clone(&self.target), line);
        if waiting + length > QUEUE_BYTES || self.writer.queue.try_send(entry).is_err() {
            self.writer.waiting_bytes.fetch_sub(length, Ordering::Relaxed);
            self.target.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Where the lines go.
    pub fn path(&self) -> &Path {
        &self.target.path
    }
}

fn write_all(entries: &Receiver<Entry>, waiting_bytes: &AtomicUsize) {
    for entry in entries {
        match entry {
            Entry::Line(target, line) => {
                waiting_bytes.fetch_sub(line.len(), Ordering::Relaxed);
                target.append(&line);
            }
            Entry::Flush(done) => {
                let _ = done.try_send(());
            }
        }
    }
}

impl Target {
    /// Writes one line, after a note about those lost before it. A line that cannot be written is lost and counted.
    fn append(&self, line: &[u8]) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Struck off only once it is written: a disk that hangs meanwhile must not make it look as if nothing was lost.
        let lost = self.lost.load(Ordering::Relaxed);
        let note = if lost == 0 { String::new() } else { format!("ferry: {lost} lines were lost here\n") };
        if self.write_rotating(&mut open, &[note.as_bytes(), line].concat()).is_ok() {
            self.lost.fetch_sub(lost, Ordering::Relaxed);
        } else {
            // Opened anew next time: the directory may have been removed, the disk mounted again.
            *open = None;
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn write_rotating(&self, open: &mut Option<Open>, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        if let Some(full) = open.take_if(|open| open.bytes > 0 && open.bytes + length > self.limits.bytes) {
            drop(full);
            self.shift()?;
        }
        let current = match open {
            Some(open) => open,
            None => open.insert(Open::at(&self.path)?),
        };
        current.file.write_all(bytes)?;
        current.bytes += length;
        Ok(())
    }

    /// `name.log.3` becomes `name.log.4`, …, `name.log` becomes `name.log.1`; the oldest is overwritten.
    fn shift(&self) -> io::Result<()> {
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..self.limits.kept).rev() {
            match fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.limits.kept == 0 { fs::remove_file(&self.path) } else { fs::rename(&self.path, numbered(1)) }
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            paths::make_private_dir(dir)?;
        }
        let file = paths::private_file().append(true).create(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn a_full_file_moves_on_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let writer = LogWriter::start(Limits { bytes: 10, kept: 2 }).unwrap();
        let log = writer.file(dir.path().join("logs/bear.log"));
        for line in ["one 1234", "two 1234", "three 12", "four 123\n"] {
            log.write(line.into());
        }
        writer.flush(PATIENCE);

        assert_eq!(read(log.path()), "four 123\n");
        assert_eq!(read(&dir.path().join("logs/bear.log.1")), "three 12\n");
        assert_eq!(read(&dir.path().join("logs/bear.log.2")), "two 1234\n");
        assert_eq!(fs::read_dir(dir.path().join("logs")).unwrap().count(), 3);
    }

    #[test]
    fn an_existing_file_is_continued_and_counts_towards_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bear.log");
        fs::write(&path, "from the last run\n").unwrap();
        let writer = LogWriter::start(Limits { bytes: 24, kept: 1 }).unwrap();
        let log = writer.file(path.clone());
        log.write("next".into());
        log.write("after".into());
        writer.flush(PATIENCE);

        assert_eq!(read(&dir.path().join("bear.log.1")), "from the last run\nnext\n");
        assert_eq!(read(&path), "after\n");
    }

    #[test]
    fn a_disk_that_takes_nothing_stalls_nobody_and_the_loss_is_told_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bear.log");
        fs::create_dir(&path).unwrap(); // opening it for writing fails, as on a broken disk
        let writer = LogWriter::start(Limits::default()).unwrap();
        let log = writer.file(path.clone());
        log.write("lost".into());
        log.write("lost too".into());
        writer.flush(PATIENCE);
        fs::remove_dir(&path).unwrap();
        log.write("kept".into());
        writer.flush(PATIENCE);

        assert_eq!(read(&path), "ferry: 2 lines were lost here\nkept\n");
    }

    #[test]
    fn a_writer_that_hangs_fills_the_queue_and_nothing_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        // Opening a FIFO for writing blocks until it has a reader: a disk that hangs.
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let writer = LogWriter::start(Limits::default()).unwrap();
        let log = writer.file(path.clone());
        for _ in 0..2 * QUEUE_LINES {
            log.write(b"line".to_vec());
        }
        assert!(log.writer.waiting_bytes.load(Ordering::Relaxed) <= QUEUE_BYTES);

        // Now it goes on: every line is there, or counted.
        let read = thread::spawn(move || fs::read_to_string(&path).unwrap());
        while log.writer.waiting_bytes.load(Ordering::Relaxed) > 0 {
            thread::yield_now();
        }
        log.write(b"last".to_vec());
        drop((log, writer));
        let text = read.join().unwrap();
        let written = text.lines().filter(|line| *line == "line").count();
        let lost: usize = text.lines().filter_map(|line| line.split(' ').nth(1)?.parse::<usize>().ok()).sum();
        assert!(lost >= QUEUE_LINES - 2, "{lost} lost, {written} written");
        assert_eq!(written + lost, 2 * QUEUE_LINES);
        assert!(text.ends_with("last\n"));
    }
}
