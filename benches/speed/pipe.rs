//! The floor of ferry's other side: one line down the pipe to the server and one back, with nothing in between.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{ECHO, Outcome, echo};

/// How long each round trip took, in microseconds.
pub(crate) fn round_trips(cell: Duration) -> Outcome<Vec<f64>> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut server = command.arg(ECHO).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = server.stdin.take().ok_or("it has an input")?;
    let mut output = BufReader::new(server.stdout.take().ok_or("it has an output")?);
    let (mut times, mut line, mut id) = (Vec::new(), Vec::new(), 0);
    let began = Instant::now() + cell / 5;
    let mut now = Instant::now();
    while now < began + cell {
        id += 1;
        let request = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/call\",\"params\":{{\"name\":\"echo\",\"arguments\":{{\"text\":\"client 0 call {id}\"}}}}}}\n"
        );
        input.write_all(request.as_bytes())?;
        line.clear();
        output.read_until(b'\n', &mut line)?;
        let done = Instant::now();
        if line.strip_suffix(b"\n") != Some(&echo::answer_of(request.as_bytes())) {
            return Err(format!("a wrong answer on the pipe: {}", String::from_utf8_lossy(&line)).into());
        }
        if now >= began {
            times.push((done - now).as_secs_f64() * 1e6);
        }
        now = done;
    }
    drop(input);
    server.wait()?;
    Ok(times)
}
