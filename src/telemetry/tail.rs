//! Reads the end of a log that is rotated ([`super::rotation`]), and goes on reading while it is.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// How much is read in one go.
const CHUNK: u64 = 64 * 1024;

/// A place in a log.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    /// The file that is being read, whatever it is called by now.
    file: Option<File>,
}

impl Tail {
    /// The last `lines` of a log, from its older files where the newest has too few, and the place behind them. A log
    /// without a file is empty.
    pub fn begin(path: &Path, mut lines: usize) -> io::Result<(Self, Vec<u8>)> {
        let mut files = Vec::new();
        let mut parts = Vec::new();
        for number in 0.. {
            let Some(mut file) = open(path, number)? else { break };
            let identity = identity(&file)?;
            // It may have moved on while this loop came to it.
            if files.iter().any(|(_, seen)| *seen == identity) {
                continue;
            }
            let (text, found) = last_lines(&mut file, lines)?;
            parts.push(text);
            files.push((file, identity));
            lines -= found;
            if lines == 0 {
                break;
            }
        }
        parts.reverse();
        let file = files.into_iter().next().map(|(file, _)| file);
        Ok((Self { path: path.to_owned(), file }, parts.concat()))
    }

    /// What has come since; nothing, if nothing has.
    pub fn more(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let mut text = Vec::new();
            if let Some(file) = &mut self.file {
                file.take(CHUNK).read_to_end(&mut text)?;
            }
            if !text.is_empty() {
                return Ok(text);
            }
            let Some(next) = self.next()? else { return Ok(text) };
            if let Some(mut last) = self.file.replace(next) {
                // Written after the reading above, and before the file was full.
                last.read_to_end(&mut text)?;
                if !text.is_empty() {
                    return Ok(text);
                }
            }
        }
    }

    /// The file that followed the one that is being read, if there is one.
    fn next(&mut self) -> io::Result<Option<File>> {
        let Some(newest) = open(&self.path, 0)? else { return Ok(None) };
        let Some(own) = &mut self.file else { return Ok(Some(newest)) };
        let identity_of_own = identity(own)?;
        if identity(&newest)? == identity_of_own {
            // Shorter than what was read of it: somebody has emptied it.
            let emptied = own.metadata()?.len() < own.stream_position()?;
            return Ok(emptied.then_some(newest));
        }
        // A quick writer may have filled several. From the newest to older ones: should they move on meanwhile, the same
        // one is met twice and none is missed.
        let mut followed = open(&self.path, 0)?;
        for number in 1.. {
            let Some(older) = open(&self.path, number)? else { return open(&self.path, 0) };
            if identity(&older)? == identity_of_own {
                break;
            }
            followed = Some(older);
        }
        Ok(followed)
    }
}

/// What tells one file from another. While it is open no other one gets it.
fn identity(file: &File) -> io::Result<(u64, u64)> {
    let found = file.metadata()?;
    Ok((found.dev(), found.ino()))
}

/// The newest file of a log (0) or one that was rotated away.
fn open(path: &Path, number: u32) -> io::Result<Option<File>> {
    let mut name = path.to_owned().into_os_string();
    if number > 0 {
        name.push(format!(".{number}"));
    }
    match File::open(name) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The last lines of a file, and how many they are. The file stands at its end then.
fn last_lines(file: &mut File, lines: usize) -> io::Result<(Vec<u8>, usize)> {
    let end = file.seek(SeekFrom::End(0))?;
    let (mut start, mut text) = (end, Vec::new());
    // One line break more than lines: that of the line before.
    while start > 0 && breaks(&text) <= lines {
        let from = start.saturating_sub(CHUNK);
        file.seek(SeekFrom::Start(from))?;
        let mut chunk = Vec::new();
        file.take(start - from).read_to_end(&mut chunk)?;
        chunk.append(&mut text);
        (start, text) = (from, chunk);
    }
    file.seek(SeekFrom::Start(end))?;
    let all: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let last = &all[all.len().saturating_sub(lines)..];
    Ok((last.concat(), last.len()))
}

fn breaks(text: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', text).count()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::super::rotation::{Limits, LogFile, LogWriter};
    use super::*;

    struct Log {
        _dir: tempfile::TempDir,
        writer: LogWriter,
        file: LogFile,
    }

    impl Log {
        fn new(bytes: u64, kept: u32) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let writer = LogWriter::start(Limits { bytes, kept }).unwrap();
            let file = writer.file(dir.path().join("a.log"));
            Self { _dir: dir, writer, file }
        }

        fn write(&self, lines: impl IntoIterator<Item = usize>) {
            lines.into_iter().for_each(|line| self.file.write(line.to_string().into_bytes()));
            self.writer.flush(Duration::from_secs(30));
        }
    }

    fn lines(text: &[u8]) -> Vec<usize> {
        std::str::from_utf8(text).unwrap().lines().map(|line| line.parse().unwrap()).collect()
    }

    fn all_more(tail: &mut Tail) -> Vec<usize> {
        let mut text = Vec::new();
        loop {
            let more = tail.more().unwrap();
            if more.is_empty() {
                return lines(&text);
            }
            text.extend(more);
        }
    }

    #[test]
    fn the_last_lines_come_from_as_many_files_as_it_takes() {
        let log = Log::new(8, 3);
        log.write(10..20);
        for (wanted, first) in [(1, 19), (2, 18), (5, 15), (100, 12)] {
            let (_, text) = Tail::begin(log.file.path(), wanted).unwrap();
            assert_eq!(lines(&text), (first..20).collect::<Vec<_>>(), "the last {wanted}");
        }
        let (_, text) = Tail::begin(log.file.path(), 0).unwrap();
        assert_eq!(text, b"");
    }

    #[test]
    fn a_long_file_is_read_from_its_end() {
        let log = Log::new(1 << 30, 1);
        let all: Vec<String> = (0..100_000).map(|number| format!("{number}\n")).collect();
        fs::write(log.file.path(), all.concat()).unwrap();
        let (_, text) = Tail::begin(log.file.path(), 20_000).unwrap();
        assert_eq!(lines(&text), (80_000..100_000).collect::<Vec<_>>());
    }

    #[test]
    fn whoever_follows_misses_nothing_however_often_it_is_rotated() {
        let log = Log::new(8, 5);
        let (mut tail, text) = Tail::begin(log.file.path(), 10).unwrap();
        assert_eq!((text, all_more(&mut tail)), (Vec::new(), Vec::new()), "there is no file yet");
        let mut next = 10;
        for count in [1, 1, 2, 3, 8, 0, 1] {
            log.write(next..next + count);
            assert_eq!(all_more(&mut tail), (next..next + count).collect::<Vec<_>>());
            next += count;
        }
    }

    #[test]
    fn where_too_much_was_rotated_away_it_goes_on_with_the_newest() {
        let log = Log::new(8, 1);
        log.write([10]);
        let (mut tail, _) = Tail::begin(log.file.path(), 1).unwrap();
        log.write(11..21);
        let found = all_more(&mut tail);
        assert_eq!((found.first(), found.last()), (Some(&11), Some(&20)), "the rest of its own, then the newest");
    }

    #[test]
    fn a_file_that_was_emptied_is_read_from_its_beginning() {
        let log = Log::new(1 << 20, 1);
        log.write(10..20);
        let (mut tail, _) = Tail::begin(log.file.path(), 1).unwrap();
        fs::write(log.file.path(), "7\n").unwrap();
        assert_eq!(all_more(&mut tail), [7]);
    }
}
