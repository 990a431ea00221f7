//! The variables of a server, looked up when it starts: `env_files`, then its `env_file`, then its `env`.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher as _;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::spawn_blocking;

use crate::config::env_file;
use crate::config::values::{PathText, Source};
use crate::env;
use crate::secret::Secret;
use crate::supervisor::{Environment, Helper, Helpers, Looking, Lookup, Role};

/// A secret is a line or two, a file of them a page.
const MAX_BYTES: u64 = 1 << 20;

/// How long a secret's command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// Where the variables of one server come from.
#[derive(Debug, Default)]
pub struct Variables {
    /// Files that are read as if they were part of ferry's environment.
    pub shared: Vec<PathBuf>,
    /// Whether the server gets what is in these, and not only what it names.
    pub inherit: bool,
    /// Its own file.
    pub file: Option<PathBuf>,
    /// Its own variables.
    pub env: BTreeMap<String, Source>,
    /// What a relative path of a source starts from.
    pub base: PathBuf,
    /// What was found last.
    pub seen: Seen,
}

/// A path of the configuration: relative ones start from its directory, wherever ferry was started.
pub fn located(path: &PathText, base: &Path) -> PathBuf {
    base.join(path.expand(crate::paths::home().ok().as_deref()))
}

/// What was found without running anything.
#[derive(Hash)]
struct Found {
    /// The variables of ferry's own that the files add.
    own: Vec<(String, String)>,
    file: Vec<(String, String)>,
    /// Its own variables; those that come from commands are yet to be had.
    values: Vec<Option<String>>,
}

impl Variables {
    async fn find(&self) -> Result<Found, String> {
        let (shared, file) = (self.shared.clone(), self.file.clone());
        let read = spawn_blocking(move || {
            let mut own = Vec::new();
            for path in shared {
                own.extend(read_variables(&path)?);
            }
            Ok::<_, String>((own, file.map(|path| read_variables(&path)).transpose()?.unwrap_or_default()))
        });
        let (own, file) = read.await.map_err(|_| "ferry is stopping".to_owned())??;
        let mut values = Vec::new();
        for (name, source) in &self.env {
            let value = match source {
                Source::Literal(text) => Ok(Some(text.0.expose().to_owned())),
                Source::Env(name) => variable(name, &own).map(Some),
                Source::File(path) => {
                    let path = located(path, &self.base);
                    let read = spawn_blocking(move || read_secret(&path)).await;
                    read.unwrap_or_else(|_| Err("ferry is stopping".to_owned())).map(Some)
                }
                Source::Command(_) => Ok(None),
            };
            values.push(value.map_err(|why| format!("`{name}`: {why}"))?);
        }
        Ok(Found { own, file, values })
    }

    /// Whether the files say something else than when the server was started last. What commands would say is not
    /// asked: some ask their user. A file that has gone is no reason to stop a server that runs.
    pub async fn is_stale(&self) -> bool {
        let Ok(found) = self.find().await else { return false };
        let mark = self.seen.hasher.hash_one(&found);
        self.seen.last().is_some_and(|last| last != mark)
    }
}

/// What was found when it was last looked for, as a keyed hash: the values themselves are not kept.
#[derive(Default)]
pub struct Seen {
    hasher: RandomState,
    last: Mutex<Option<u64>>,
}

impl Seen {
    fn last(&self) -> MutexGuard<'_, Option<u64>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seen")
    }
}

impl Lookup for Variables {
    fn look_up<'a>(&'a self, helpers: &'a Helpers) -> Looking<'a> {
        Box::pin(async move {
            let found = self.all(helpers).await;
            found.map_err(|why| format!("its variables cannot be had: {why}"))
        })
    }
}

impl Variables {
    async fn all(&self, helpers: &Helpers) -> Result<Vec<(String, String)>, String> {
        let found = self.find().await?;
        let mark = self.seen.hasher.hash_one(&found);
        let Found { own, file, values } = found;
        let inherited = own.iter().filter(|(name, _)| self.inherit && is_inherited(name));
        let mut variables: Vec<(String, String)> = inherited.cloned().collect();
        variables.extend(file);
        for ((name, source), value) in self.env.iter().zip(values) {
            let value = match (value, source) {
                (None, Source::Command(words)) => run(words, &own, &self.base, helpers).await,
                (value, _) => Ok(value.unwrap_or_default()),
            };
            variables.push((name.clone(), value.map_err(|why| format!("`{name}`: {why}"))?));
        }
        *self.seen.last() = Some(mark);
        Ok(variables)
    }
}

/// The same as for ferry's own environment, to which these belong.
fn is_inherited(name: &str) -> bool {
    !env::WITHHELD_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

async fn run(words: &[String], own: &[(String, String)], base: &Path, helpers: &Helpers) -> Result<String, String> {
    let [program, args @ ..] = words else { return Err("the command is empty".to_owned()) };
    let home = crate::paths::home().ok();
    let expand = |word: &String| crate::config::words::expand_home(word, home.as_deref()).into();
    let helper = Helper {
        role: Role::Mcp,
        program: expand(program),
        args: args.iter().map(expand).collect(),
        cwd: Some(base.to_owned()),
        environment: Environment { inherit: true, set: own.to_vec(), lookup: None },
        limit: COMMAND_LIMIT,
    };
    let output = helpers.run(helper).await.map_err(|error| error.to_string())?;
    command_output(program, output.status, output.stdout, &output.stderr)
}

fn variable(name: &str, own: &[(String, String)]) -> Result<String, String> {
    // The last one of several counts, as in any shell.
    if let Some((_, value)) = own.iter().rev().find(|(other, _)| other == name) {
        return Ok(value.clone());
    }
    std::env::var(name).map_err(|_| format!("the variable `{name}` is not set in ferry's environment"))
}

fn command_output(
    program: &str,
    status: std::process::ExitStatus,
    stdout: Vec<u8>,
    stderr: &[u8],
) -> Result<String, String> {
    if !status.success() {
        // Its own words say most: "not signed in". Only the last line, since that is where tools put them.
        let said = String::from_utf8_lossy(stderr);
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        let last: String = last.chars().filter(|c| !c.is_control()).take(200).collect();
        let separator = if last.is_empty() { "" } else { ": " };
        return Err(format!("`{program}` ended with {status}{separator}{last}"));
    }
    match String::from_utf8(stdout) {
        Ok(text) => usable(text).map_err(|why| format!("what `{program}` writes {why}")),
        Err(_) => Err(format!("what `{program}` writes is no text")),
    }
}

fn read_secret(path: &Path) -> Result<String, String> {
    let text = read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    usable(text).map_err(|why| format!("{} {why}", path.display()))
}

/// A secret without the line break that editors and tools put at its end.
fn usable(mut text: String) -> Result<String, &'static str> {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    match text {
        text if text.is_empty() => Err("is empty"),
        text if text.contains('\0') => Err("has a NUL in it"),
        text => Ok(text),
    }
}

fn read_variables(path: &Path) -> Result<Vec<(String, String)>, String> {
    let text = read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    env_file::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// A secret of ferry's own, needed before there is a supervisor.
///
/// # Errors
/// Why it cannot be had now. It may be there at the next start.
pub fn own_secret(source: &Source, env_files: &[PathBuf], base: &Path) -> Result<Secret, String> {
    let own = || {
        let files: Result<Vec<_>, String> = env_files.iter().map(|path| read_variables(path)).collect();
        files.map(|files| files.concat())
    };
    let text = match source {
        Source::Literal(text) => return Ok(text.0.clone()),
        Source::Env(name) => variable(name, &own()?)?,
        Source::File(path) => read_secret(&located(path, base))?,
        Source::Command(words) => {
            let [program, args @ ..] = &words[..] else { return Err("the command is empty".to_owned()) };
            let home = crate::paths::home().ok();
            let expand = |word: &String| crate::config::words::expand_home(word, home.as_deref());
            let mut command = std::process::Command::new(expand(program));
            command.args(args.iter().map(expand)).current_dir(base).stdin(std::process::Stdio::null()).envs(own()?);
            #[expect(clippy::disallowed_methods, reason = "there is no steward yet")]
            let output = command.output().map_err(|error| format!("`{program}` cannot be run: {error}"))?;
            command_output(program, output.status, output.stdout, &output.stderr)?
        }
    };
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::values::SecretText;

    #[test]
    fn a_secret_comes_from_where_it_is_said_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path();
        fs::write(base.join("token"), "hunter2\r\n").unwrap();
        fs::write(base.join("empty"), "\n").unwrap();
        fs::write(base.join("a.env"), "NAMED=first\n").unwrap();
        fs::write(base.join("b.env"), "NAMED=second\n").unwrap();
        fs::write(base.join("bad.env"), "hunter2\n").unwrap();
        let files = [base.join("a.env"), base.join("b.env")];
        let words = |text: &str| Source::Command(crate::config::words::split(text).unwrap());
        let file = |name: &str| Source::File(name.parse().unwrap());
        for (source, expected) in [
            (Source::Literal(SecretText(Secret::new("x"))), Ok("x")),
            (file("token"), Ok("hunter2")),
            (Source::Env("NAMED".to_owned()), Ok("second")),
            (Source::Env("PATH".to_owned()), Ok("")),
            (words("sh -c 'echo $NAMED'"), Ok("second")),
            (
                words("sh -c 'echo hunter2; echo not signed in >&2; exit 3'"),
                Err("`sh` ended with exit status: 3: not signed in"),
            ),
            (words("sh -c 'true'"), Err("what `sh` writes is empty")),
            (
                Source::Env("FERRY_TEST_NO_SUCH".to_owned()),
                Err("the variable `FERRY_TEST_NO_SUCH` is not set in ferry's environment"),
            ),
            (file("empty"), Err("is empty")),
            (file("absent"), Err("cannot be read: No such file")),
        ] {
            match (own_secret(&source, &files, base), expected) {
                (Ok(secret), Ok(value)) => assert!(value.is_empty() || secret.matches(value), "{source:?}"),
                (Err(why), Err(part)) => assert!(why.contains(part) && !why.contains("hunter2"), "{source:?}: {why}"),
                (found, _) => panic!("{source:?}: {found:?}"),
            }
        }
        let why = own_secret(&Source::Env("X".to_owned()), &[base.join("bad.env")], base).unwrap_err();
        assert!(why.ends_with("line 1 is not of the form `KEY=value`") && !why.contains("hunter2"), "{why}");
    }

    #[tokio::test]
    async fn a_file_that_says_something_else_makes_what_was_found_stale() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("shared.env", "A=1\n");
        write("own.env", "B=1\n");
        write("secret", "hunter2\n");
        let env = [("C", Source::File("secret".parse().unwrap())), ("D", Source::Command(vec!["no-such".to_owned()]))];
        let variables = Variables {
            shared: vec![dir.path().join("shared.env")],
            inherit: true,
            file: Some(dir.path().join("own.env")),
            env: env.map(|(name, source)| (name.to_owned(), source)).into(),
            base: dir.path().to_owned(),
            seen: Seen::default(),
        };
        assert!(!variables.is_stale().await, "it was not started yet");
        let mark =
            async || *variables.seen.last() = Some(variables.seen.hasher.hash_one(variables.find().await.unwrap()));
        for (name, before, after) in
            [("shared.env", "A=1\n", "A=2\n"), ("own.env", "B=1\n", "B=1\nX=\n"), ("secret", "hunter2\n", "hunter3\n")]
        {
            mark().await;
            assert!(!variables.is_stale().await, "{name}");
            write(name, after);
            assert!(variables.is_stale().await, "{name}");
            write(name, before);
            assert!(!variables.is_stale().await, "{name}");
        }
        fs::remove_file(dir.path().join("secret")).unwrap();
        assert!(!variables.is_stale().await, "one that runs goes on");
        assert!(!format!("{variables:?}").contains("hunter"), "{variables:?}");
    }

    #[test]
    fn what_is_ferrys_own_is_not_inherited_from_a_file_either() {
        for (name, inherited) in [("EDITOR", true), ("FERRY_STATE_DIR", false), ("CLOUDFLARE_API_TOKEN", false)] {
            assert_eq!(is_inherited(name), inherited, "{name}");
        }
    }
}
