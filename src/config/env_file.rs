//! Files of variables: `KEY=value`, a line each, as Docker, systemd and countless `.env` files have them.
//!
//! `#` begins a comment at the start of a line only, since passwords contain it; `export` may stand in front. A value in
//! quotation marks keeps its spaces and may go over several lines; in double ones `\n`, `\"`, `\\`, `\$` are escapes.
//! Nothing is expanded.

use std::fmt::Write as _;

use super::values::is_variable_name;

/// A line that says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvFileError {
    /// No `=`, or no name in front of it. The line is not shown: it may be a secret.
    #[error("line {0} is not of the form `KEY=value`")]
    NoVariable(usize),
    /// A quotation mark without its counterpart.
    #[error("the quotation mark in line {0} is never closed")]
    Unclosed(usize),
    /// Something stands behind the closing quotation mark.
    #[error("something stands behind the closing quotation mark of line {0}")]
    Trailing(usize),
}

/// The variables of a file, in its order.
///
/// # Errors
/// For the first line that says nothing; a secret that is silently missed is worse.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, EnvFileError> {
    let mut variables = Vec::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut line = 1;
    while !rest.is_empty() {
        let (current, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let trimmed = current.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            rest = after;
            line += 1;
            continue;
        }
        let begin = line;
        let (name, value) =
            rest.split_once('=').filter(|(name, _)| !name.contains('\n')).ok_or(EnvFileError::NoVariable(begin))?;
        let name = name.trim();
        let name = name.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t'])).unwrap_or(name).trim();
        if !is_variable_name(name) || name.contains(char::is_whitespace) {
            return Err(EnvFileError::NoVariable(begin));
        }
        let value = value.trim_start_matches([' ', '\t']);
        let (value, after) = if let Some(quote @ ('"' | '\'')) = value.chars().next() {
            let (value, after) = quoted(&value[1..], quote).ok_or(EnvFileError::Unclosed(begin))?;
            let (trailing, after) = after.split_once('\n').unwrap_or((after, ""));
            let trailing = trailing.trim();
            if !trailing.is_empty() && !trailing.starts_with('#') {
                return Err(EnvFileError::Trailing(begin));
            }
            (value, after)
        } else {
            let (value, after) = value.split_once('\n').unwrap_or((value, ""));
            (value.trim_end().to_owned(), after)
        };
        line += rest[..rest.len() - after.len()].matches('\n').count();
        variables.push((name.to_owned(), value));
        rest = after;
    }
    Ok(variables)
}

/// What stands before the closing quotation mark, and what behind.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.chars();
    loop {
        match rest.next()? {
            end if end == quote => return Some((value, rest.as_str())),
            '\\' if quote == '"' => match rest.next()? {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                escaped @ ('"' | '\\' | '$' | '`') => value.push(escaped),
                other => value.extend(['\\', other]),
            },
            other => value.push(other),
        }
    }
}

/// A file that [`parse`] reads back.
pub fn render<'v>(variables: impl IntoIterator<Item = (&'v str, &'v str)>) -> String {
    let mut text = String::new();
    for (name, value) in variables {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,=".contains(c);
        if !value.is_empty() && value.chars().all(plain) {
            let _ = writeln!(text, "{name}={value}");
            continue;
        }
        let _ = write!(text, "{name}=\"");
        for c in value.chars() {
            match c {
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '"' | '\\' | '$' | '`' => text.extend(['\\', c]),
                other => text.push(other),
            }
        }
        text.push_str("\"\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_is_read_line_by_line() {
        let text = "\u{feff}# comment\n\nA=1\n export B = two words # no comment\r\nC='it\\n $x'\nD=\"a\\n\\\"b\\\"\\$\\d\" # comment\nE=\nF=\"line 1\nline 2\"\nG==#x";
        let read = parse(text).unwrap();
        let expected = [
            ("A", "1"),
            ("B", "two words # no comment"),
            ("C", "it\\n $x"),
            ("D", "a\n\"b\"$\\d"),
            ("E", ""),
            ("F", "line 1\nline 2"),
            ("G", "=#x"),
        ];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_line_that_says_nothing_is_named_and_not_shown() {
        for (text, error) in [
            ("A=1\nhunter2\n", EnvFileError::NoVariable(2)),
            ("hunter2\nA=1", EnvFileError::NoVariable(1)),
            ("=hunter2", EnvFileError::NoVariable(1)),
            ("A B=hunter2", EnvFileError::NoVariable(1)),
            ("A=\"x\ny\"\nB='hunter2", EnvFileError::Unclosed(3)),
            ("A=\"x\" hunter2", EnvFileError::Trailing(1)),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(values in proptest::collection::vec("[^\0]*", 0..4)) {
            let variables: Vec<_> = values.iter().enumerate().map(|(at, value)| (format!("V{at}"), value.clone())).collect();
            let text = render(variables.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            prop_assert_eq!(parse(&text).unwrap(), variables);
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in ".*") {
            let _ = parse(&text);
        }
    }
}
