//! The one place that writes to stdout and stderr. A terminal or pipe that has gone is no reason to panic.

use std::error::Error;
use std::io::Write;

use crate::error::Advise;

/// Prints data, to stdout.
pub(super) fn print(text: &str) {
    let mut stdout = anstream::stdout().lock();
    let _ = stdout.write_all(text.as_bytes());
    let _ = stdout.flush();
}

/// Prints what went wrong, why, and what to do about it.
pub(super) fn error(error: &dyn Advise) {
    let mut stderr = anstream::stderr().lock();
    let _ = writeln!(stderr, "error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = writeln!(stderr, "  because: {error}");
        cause = Error::source(error);
    }
    if let Some(hint) = error.hint() {
        let _ = writeln!(stderr, "hint: {hint}");
    }
}
