//! A pipe read line by line, with a bound on the length of one.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How much of an over-long line is kept at each end: there stands its id, wherever an SDK puts it.
pub const KEPT_OF_OVERLONG: usize = 4 * 1024;

/// Lines shorter than this are copied out of the read buffer, so that a short message that waits for a slow reader
/// does not hold on to the whole buffer it arrived in.
const COPIED_BELOW: usize = 16 * 1024;

const READ_SIZE: usize = 64 * 1024;

/// One line, without its line break.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A line within the bound.
    Whole(Bytes),
    /// A line beyond the bound; its middle is gone.
    Overlong {
        /// Its first [`KEPT_OF_OVERLONG`] bytes.
        head: Bytes,
        /// Its last [`KEPT_OF_OVERLONG`] bytes.
        tail: Bytes,
        /// Its length in bytes.
        length: u64,
    },
}

/// Reads lines; see [`Lines::next`].
#[derive(Debug)]
pub struct Lines<R> {
    reader: R,
    buffer: BytesMut,
    /// How much of `buffer` has been searched for a line break, so that a long line is searched once.
    searched: usize,
    max: usize,
    overlong: Option<Overlong>,
}

#[derive(Debug)]
struct Overlong {
    head: Bytes,
    length: u64,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Reads lines of up to `max` bytes from `reader`.
    pub fn new(reader: R, max: usize) -> Self {
        Self { reader, buffer: BytesMut::new(), searched: 0, max, overlong: None }
    }

    /// The next line that is not blank; `None` at the end of the stream. A last line without a break counts.
    ///
    /// Cancelling it between lines or within one loses nothing.
    ///
    /// # Errors
    /// What the reader says.
    pub async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            while let Some(at) = memchr::memchr(b'\n', &self.buffer[self.searched..]) {
                let end = self.searched + at;
                self.searched = 0;
                let line = self.take(end);
                self.buffer.advance(1);
                if let Some(line) = self.finish(&line) {
                    return Ok(Some(line));
                }
            }
            self.searched = self.buffer.len();
            self.bound();
            if self.buffer.capacity() - self.buffer.len() < READ_SIZE / 4 {
                // Doubling, so that a line of any length is moved a bounded number of times per byte.
                self.buffer.reserve(READ_SIZE.max(self.buffer.len()));
            }
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                let rest = self.take(self.buffer.len());
                self.searched = 0;
                return Ok(self.finish(&rest));
            }
        }
    }

    fn take(&mut self, end: usize) -> Bytes {
        if end < COPIED_BELOW {
            let line = Bytes::copy_from_slice(&self.buffer[..end]);
            self.buffer.advance(end);
            line
        } else {
            self.buffer.split_to(end).freeze()
        }
    }

    /// Lets go of what a line has beyond the bound but for its end.
    fn bound(&mut self) {
        if self.overlong.is_none() && self.buffer.len() > self.max {
            let head = Bytes::copy_from_slice(&self.buffer[..KEPT_OF_OVERLONG.min(self.buffer.len())]);
            self.overlong = Some(Overlong { head, length: 0 });
        }
        if let Some(overlong) = &mut self.overlong {
            let surplus = self.buffer.len().saturating_sub(KEPT_OF_OVERLONG);
            overlong.length += surplus as u64;
            // A new small buffer: the old one has grown to the bound.
            self.buffer = BytesMut::from(&self.buffer[surplus..]);
            self.searched = self.buffer.len();
        }
    }

    fn finish(&mut self, line: &Bytes) -> Option<Line> {
        if let Some(Overlong { head, length }) = self.overlong.take() {
            let length = length + line.len() as u64;
            let tail = line.slice(line.len().saturating_sub(KEPT_OF_OVERLONG)..);
            return Some(Line::Overlong { head, tail, length });
        }
        if line.len() > self.max {
            let ends = KEPT_OF_OVERLONG.min(line.len());
            let head = Bytes::copy_from_slice(&line[..ends]);
            let tail = Bytes::copy_from_slice(&line[line.len() - ends..]);
            return Some(Line::Overlong { head, tail, length: line.len() as u64 });
        }
        let line = line.strip_suffix(b"\r").map_or(line.clone(), |shorter| line.slice_ref(shorter));
        let line = line.strip_prefix(b"\xef\xbb\xbf").map_or(line.clone(), |shorter| line.slice_ref(shorter));
        if line.iter().all(u8::is_ascii_whitespace) { None } else { Some(Line::Whole(line)) }
    }
}

/// The id of ferry's own that an over-long line answers, if it can be told from the line's ends.
///
/// SDKs write the id either right after `jsonrpc` or as the last member.
pub fn overlong_id(head: &[u8], tail: &[u8]) -> Option<u64> {
    let head = String::from_utf8_lossy(head);
    let compact: String = head.chars().take(120).filter(|c| !c.is_ascii_whitespace()).collect();
    if is_call(&compact) {
        return None;
    }
    for start in ["{\"jsonrpc\":\"2.0\",\"id\":", "{\"id\":"] {
        if let Some(rest) = compact.strip_prefix(start) {
            return leading_number(rest);
        }
    }
    let rest = compact.strip_prefix('{').unwrap_or(&compact);
    let rest = rest.strip_prefix("\"jsonrpc\":\"2.0\",").unwrap_or(rest);
    if !rest.starts_with("\"result\":") && !rest.starts_with("\"error\":") {
        return None;
    }
    let tail = String::from_utf8_lossy(tail);
    let tail = tail.trim_end().strip_suffix('}')?.trim_end();
    let tail = tail.strip_suffix("\"2.0\"").map_or(tail, |rest| {
        rest.trim_end()
            .trim_end_matches(':')
            .trim_end()
            .trim_end_matches("\"jsonrpc\"")
            .trim_end()
            .trim_end_matches(',')
    });
    let tail = tail.trim_end();
    let number = tail.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &tail[number.len()..];
    let before = number.trim_end().strip_suffix(':')?.trim_end();
    if before.ends_with("\"id\"") && !before.ends_with("\\\"id\"") { digits.parse().ok() } else { None }
}

/// Whether a line begins as a request or notification of the server's own: its id is in another numbering.
fn is_call(compact: &str) -> bool {
    let rest = compact.strip_prefix('{').unwrap_or(compact);
    let rest = rest.strip_prefix("\"jsonrpc\":\"2.0\",").unwrap_or(rest);
    let rest = match rest.strip_prefix("\"id\":") {
        Some(id) => id.split_once(',').map_or("", |(_, after)| after),
        None => rest,
    };
    rest.starts_with("\"method\":")
}

fn leading_number(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(input: &[u8], max: usize) -> Vec<Line> {
        let mut lines = Lines::new(input, max);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            all.push(line);
        }
        all
    }

    fn whole(text: &str) -> Line {
        Line::Whole(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[tokio::test]
    async fn lines_come_without_breaks_marks_and_blanks() {
        let input = b"\xef\xbb\xbf{\"a\":1}\r\n\r\n  \n{}\nlast";
        assert_eq!(read(input, 100).await, [whole("{\"a\":1}"), whole("{}"), whole("last")]);
        assert_eq!(read(b"", 100).await, []);
    }

    #[tokio::test]
    async fn an_overlong_line_costs_only_itself() {
        for length in [101usize, 5000, 20_000, 300_000] {
            let long: Vec<u8> = (b'a'..=b'z').cycle().take(length).collect();
            let mut input = b"before\n".to_vec();
            input.extend_from_slice(&long);
            input.extend_from_slice(b"\nafter\n");
            let lines = read(&input, 100).await;
            let [before, Line::Overlong { head, tail, length: told }, after] = &lines[..] else {
                panic!("{length}: {lines:?}");
            };
            assert_eq!((before, after), (&whole("before"), &whole("after")));
            assert_eq!(*told, length as u64);
            let kept = KEPT_OF_OVERLONG.min(length);
            assert_eq!(head.as_ref(), &long[..kept]);
            assert_eq!(tail.as_ref(), &long[length - kept..]);
        }
    }

    #[tokio::test]
    async fn large_lines_within_the_bound_arrive_whole() {
        let large = "x".repeat(3_000_000);
        let input = format!("{large}\nsmall\n{large}\n");
        assert_eq!(read(input.as_bytes(), 4_000_000).await, [whole(&large), whole("small"), whole(&large)]);
    }

    #[test]
    fn the_id_of_an_overlong_line_is_found_at_either_end() {
        for (head, tail, id) in [
            (r#"{"jsonrpc":"2.0","id":17,"result":{"#, "}}", Some(17)),
            (r#"{"jsonrpc": "2.0", "id": 17, "result": {"#, "}}", Some(17)),
            (r#"{"id":3,"jsonrpc":"2.0","result":{"#, "}}", Some(3)),
            (r#"{"result":{"content":["#, r#"]},"jsonrpc":"2.0","id":9}"#, Some(9)),
            (r#"{"result":{"content":["#, r#"]}, "id": 9, "jsonrpc": "2.0"}"#, Some(9)),
            (r#"{"result":{"content":["#, r#"]},"id":9 } "#, Some(9)),
            (r#"{"jsonrpc":"2.0","method":"x","params":{"#, r#""id":9}}"#, None),
            (r#"{"result":{"text":""#, r#"\"id\":9}"#, None),
            (r#"{"method":"sampling/createMessage","params":{"#, r#"},"jsonrpc":"2.0","id":9}"#, None),
            (r#"{"jsonrpc":"2.0","id":9,"method":"sampling/createMessage","params":{"#, "}}", None),
            ("garbage", "garbage", None),
        ] {
            assert_eq!(overlong_id(head.as_bytes(), tail.as_bytes()), id, "{head} … {tail}");
        }
    }
}
