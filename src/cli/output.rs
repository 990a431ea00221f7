//! The one place that writes to stdout and stderr. A terminal or pipe that has gone is no reason to panic.

use std::error::Error;
use std::io::{self, BufRead as _, IsTerminal as _, Write};

use crate::error::Advise;

/// Prints data, to stdout.
pub(super) fn print(text: &str) {
    let _ = try_print(text);
}

/// The same for whoever goes on for as long as somebody reads it.
pub(super) fn try_print(text: &str) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
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

/// Says something beside the data, to stderr.
pub(super) fn note(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

/// Says what went wrong on the way, and goes on.
pub(super) fn warn(error: &dyn Error) {
    let mut stderr = anstream::stderr().lock();
    let _ = write!(stderr, "warning: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(stderr, ": {error}");
        cause = error.source();
    }
    let _ = writeln!(stderr);
}

/// Asks for one line, if somebody is there who could answer.
pub(super) fn ask(question: &str) -> Option<String> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return None;
    }
    let mut stderr = anstream::stderr().lock();
    let _ = write!(stderr, "{question}");
    let _ = stderr.flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.is_ok_and(|bytes| bytes > 0).then(|| answer.trim().to_owned())
}

/// What stands in one place of a table.
#[derive(Debug, Clone, Default)]
pub(super) struct Cell {
    text: String,
    colour: Option<Colour>,
    right: bool,
}

/// A colour, for terminals that have it. Nothing is told by it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Good,
    Waiting,
    Bad,
    Faint,
}

impl Colour {
    /// Around a text.
    pub(super) fn paint(self, text: &str) -> String {
        let code = match self {
            Self::Good => 32,
            Self::Waiting => 33,
            Self::Bad => 31,
            Self::Faint => 2,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, ..Self::default() }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl Cell {
    /// A number: they end below each other.
    pub(super) fn number(text: impl Into<String>) -> Self {
        Self { text: text.into(), right: true, ..Self::default() }
    }

    pub(super) fn coloured(text: impl Into<String>, colour: Colour) -> Self {
        Self { text: text.into(), colour: Some(colour), ..Self::default() }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }

    fn padded(&self, width: usize) -> String {
        let space = " ".repeat(width.saturating_sub(self.width()));
        let text = self.colour.map_or_else(|| self.text.clone(), |colour| colour.paint(&self.text));
        if self.right { space + &text } else { text + &space }
    }
}

/// Rows in columns as wide as they need to be. The heads of numbers end where they do.
pub(super) fn table<C: Into<Cell>, const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [C; N]>) -> String {
    let rows: Vec<[Cell; N]> = rows.into_iter().map(|row| row.map(Into::into)).collect();
    let mut column = 0;
    let head = head.map(|text| {
        let right = rows.first().is_some_and(|row| row[column].right);
        column += 1;
        Cell { text: text.to_owned(), right, colour: None }
    });
    let rows: Vec<[Cell; N]> = std::iter::once(head).chain(rows).collect();
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].width()).max().unwrap_or(0));
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| cell.padded(width)).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Text of somebody else's, made to steer no terminal and to fill no screen.
pub(super) fn tame(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut tame: String = text.chars().filter(|c| !c.is_control()).collect();
    if let Some((cut, _)) = tame.char_indices().nth(LONGEST) {
        tame.truncate(cut);
        tame.push('…');
    }
    tame
}
