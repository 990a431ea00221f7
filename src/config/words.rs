//! A command line as the user wrote it → its words.
//!
//! Split as Python's `shlex.split` does, since the configuration began with a tool that uses it: POSIX quoting, no
//! comments, no variables. The crates for this take `#` for a comment, which it is not in `--colour #fff`.

use std::path::{Path, PathBuf};

use nix::unistd::User;

/// A command that ends in the middle of a quotation, or in a backslash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfinished {
    /// A quotation mark without its counterpart.
    #[error("a quotation mark is never closed")]
    Quotation,
    /// A backslash with nothing behind it.
    #[error("it ends in a backslash")]
    Backslash,
}

/// Splits a command like a shell, though it is never run by one.
///
/// # Errors
/// Where it ends too early.
pub fn split(command: &str) -> Result<Vec<String>, Unfinished> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = command.chars();
    while let Some(next) = rest.next() {
        match next {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().push(rest.next().ok_or(Unfinished::Backslash)?),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next().ok_or(Unfinished::Quotation)? {
                        '\'' => break,
                        other => word.push(other),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next().ok_or(Unfinished::Quotation)? {
                        '"' => break,
                        '\\' => match rest.next().ok_or(Unfinished::Quotation)? {
                            escaped @ ('"' | '\\') => word.push(escaped),
                            other => word.extend(['\\', other]),
                        },
                        other => word.push(other),
                    }
                }
            }
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Joins words to a command that [`split`] takes apart again.
pub fn join<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> String {
    shell_words::join(words)
}

/// A word with its leading `~` or `~user` replaced by that home; unchanged where there is no such home.
pub fn expand_home(word: &str, home: Option<&Path>) -> String {
    expand(word, home, |user| User::from_name(user).ok()?.map(|user| user.dir))
}

fn expand(word: &str, home: Option<&Path>, home_of: impl FnOnce(&str) -> Option<PathBuf>) -> String {
    let Some(tail) = word.strip_prefix('~') else { return word.to_owned() };
    let (user, rest) = tail.split_at(tail.find('/').unwrap_or(tail.len()));
    let home = if user.is_empty() { home.map(Path::to_owned) } else { home_of(user) };
    let Some(home) = home.as_deref().and_then(Path::to_str) else { return word.to_owned() };
    match format!("{}{rest}", home.trim_end_matches('/')) {
        root if root.is_empty() => "/".to_owned(),
        path => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_split_as_pythons_shlex_does() {
        for (command, words) in [
            ("bearcli mcp-server", &["bearcli", "mcp-server"][..]),
            ("  a\tb\r\nc  ", &["a", "b", "c"]),
            ("'/My Apps/x' --to \"a b\"", &["/My Apps/x", "--to", "a b"]),
            ("a'b c'd\"e f\"", &["ab cde f"]),
            ("'' \"\"", &["", ""]),
            (r"a\ b \'c", &["a b", "'c"]),
            (r#""a\"b\\c\$d\n""#, &[r#"a"b\c\$d\n"#]),
            (r"'a\b'", &[r"a\b"]),
            ("--colour #fff a#b", &["--colour", "#fff", "a#b"]),
            ("$HOME ${X} `x` ; | > & *", &["$HOME", "${X}", "`x`", ";", "|", ">", "&", "*"]),
            ("a\u{a0}b ä", &["a\u{a0}b", "ä"]),
            ("a\\\nb", &["a\nb"]),
            ("", &[]),
            ("  ", &[]),
        ] {
            assert_eq!(split(command).unwrap(), words, "{command}");
        }
        for (command, why) in [
            ("a 'b", Unfinished::Quotation),
            ("\"b", Unfinished::Quotation),
            ("\"b\\", Unfinished::Quotation),
            ("a\\", Unfinished::Backslash),
        ] {
            assert_eq!(split(command), Err(why), "{command}");
        }
    }

    #[test]
    fn what_was_joined_is_split_again() {
        let words = ["npx", "-y", "a b", "it's", "", "#x", "~", "\\", "\"", "$HOME", "a\nb", "ä"];
        assert_eq!(split(&join(words)).unwrap(), words);
    }

    #[test]
    fn a_leading_tilde_is_a_home() {
        let home_of = |user: &str| (user == "ada").then(|| PathBuf::from("/home/ada"));
        for (word, expanded) in [
            ("~", "/home/me"),
            ("~/x/~", "/home/me/x/~"),
            ("~ada/x", "/home/ada/x"),
            ("~ada", "/home/ada"),
            ("~nobody-knows/x", "~nobody-knows/x"),
            ("a~", "a~"),
            ("--dir=~/x", "--dir=~/x"),
            ("", ""),
        ] {
            assert_eq!(expand(word, Some(Path::new("/home/me")), home_of), expanded, "{word}");
        }
        assert_eq!(expand("~", Some(Path::new("/")), home_of), "/");
        assert_eq!(expand("~/x", None, home_of), "~/x");
    }
}
