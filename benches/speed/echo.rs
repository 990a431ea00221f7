//! The server behind ferry: it answers at once, and knows the one request that it is sent by its letters.
//!
//! `tools/call` gives back `text`, or as many letters as `size` says.

use std::io::{self, Read as _, Write as _};

/// Serves MCP on standard input and output until the former ends.
pub(crate) fn run() -> io::Result<()> {
    let (mut stdin, mut stdout) = (io::stdin().lock(), io::stdout().lock());
    let (mut unread, mut answers) = (Vec::new(), Vec::new());
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let read = stdin.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        unread.extend_from_slice(&chunk[..read]);
        let mut done = 0;
        while let Some(length) = memchr::memchr(b'\n', &unread[done..]) {
            answer(&unread[done..done + length], &mut answers);
            done += length + 1;
        }
        unread.drain(..done);
        // All at once: who is asked by many answers many.
        stdout.write_all(&answers)?;
        stdout.flush()?;
        answers.clear();
    }
}

fn answer(request: &[u8], answers: &mut Vec<u8>) {
    let Some(id) = between(request, b"\"id\":", b",") else { return };
    if holds(request, b"\"initialize\"") {
        answers.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
        answers.extend_from_slice(id);
        answers.extend_from_slice(
            br#","result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"echo","version":"1"}}}"#,
        );
    } else {
        answer_call(request, id, answers);
    }
    answers.push(b'\n');
}

/// Answers a `tools/call` whose id is known.
fn answer_call(request: &[u8], id: &[u8], answers: &mut Vec<u8>) {
    answers.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    answers.extend_from_slice(id);
    answers.extend_from_slice(b",\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"");
    if let Some(size) = between(request, b"\"size\":", b"}") {
        let size = std::str::from_utf8(size).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0);
        answers.resize(answers.len() + size, b'x');
    } else if let Some(text) = between(request, b"\"text\":\"", b"\"") {
        answers.extend_from_slice(text);
    }
    answers.extend_from_slice(b"\"}]}}");
}

/// The answer to one `tools/call`, whoever sends it.
pub(crate) fn answer_of(request: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    answer_call(request, between(request, b"\"id\":", b",").unwrap_or(b"null"), &mut answer);
    answer
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

fn between<'t>(text: &'t [u8], before: &[u8], after: &[u8]) -> Option<&'t [u8]> {
    let rest = &text[memchr::memmem::find(text, before)? + before.len()..];
    Some(&rest[..memchr::memmem::find(rest, after)?])
}
