//! `ferry add`: one more server.

use std::path::{Path, PathBuf};

use super::change::{self, Added, Addition, ChangeError, ConfigArg, shown};
use super::output;
use super::take_effect::take_effect;
use crate::config::edit::{Block, Origin};
use crate::config::load::Config;
use crate::config::values::{Name, UrlPath, is_variable_name};
use crate::error::{Advise, Exit};

/// Arguments of `ferry add`.
#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// What to call it: letters, digits, `-` and `_`.
    name: Name,

    /// Where to serve it; `/NAME` unless it is given.
    #[arg(long, value_name = "PATH")]
    path: Option<UrlPath>,

    /// A variable for it. `KEY=VALUE` goes to a file that only you can read, `KEY` is taken from ferry's environment
    /// whenever the server starts.
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = parse_variable)]
    env: Vec<Variable>,

    /// The directory it runs in.
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,

    #[command(flatten)]
    config: ConfigArg,

    /// The command to run and its arguments. No shell is involved.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// One `--env`.
#[derive(Clone)]
enum Variable {
    Literal(String, String),
    Taken(String),
}

/// The value may be a secret.
impl std::fmt::Debug for Variable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Literal(name, _) | Self::Taken(name)) = self;
        f.write_str(name)
    }
}

fn parse_variable(text: &str) -> Result<Variable, String> {
    let (name, variable) = match text.split_once('=') {
        Some((name, value)) => (name, Variable::Literal(name.to_owned(), value.to_owned())),
        None => (text, Variable::Taken(text.to_owned())),
    };
    if is_variable_name(name) && !name.contains(char::is_whitespace) {
        Ok(variable)
    } else {
        Err("`KEY=VALUE`, or `KEY` for a variable of ferry's own environment".to_owned())
    }
}

pub(super) fn run(arguments: &Add) -> Result<Exit, Box<dyn Advise>> {
    add(arguments).map_err(|error| Box::new(error) as Box<dyn Advise>)
}

fn add(arguments: &Add) -> Result<Exit, ChangeError> {
    let file = arguments.config.located_or_new()?;
    let name = arguments.name.clone();
    let path = match &arguments.path {
        Some(path) => path.clone(),
        None => format!("/{name}").parse().map_err(|text| ChangeError::Unfit {
            name: name.to_string(),
            fault: crate::config::load::Fault { line: 0, text },
        })?,
    };
    let mut variables = Vec::new();
    let mut env = Vec::new();
    for variable in &arguments.env {
        match variable.clone() {
            Variable::Literal(name, value) => variables.push((name, value)),
            Variable::Taken(name) => env.push((name.clone(), Origin::Variable(name))),
        }
    }
    let block = Block {
        argv: anchored(&arguments.command, arguments.cwd.is_some()),
        name: name.clone(),
        path: path.clone(),
        env,
        env_file: None,
        cwd: arguments.cwd.clone(),
    };
    Ok(report(&file, &change::add(&file, vec![Addition { block, variables }])?, &[(name, path)]))
}

/// A program named by a relative path is meant from here, not from wherever ferry is started.
fn anchored(command: &[String], has_directory: bool) -> Vec<String> {
    let mut argv = command.to_vec();
    if let Some(program) = argv.first_mut()
        && program.contains('/')
        && !program.starts_with(['/', '~'])
        && !has_directory
        && let Ok(absolute) = std::path::absolute(&*program)
        && let Some(absolute) = absolute.to_str()
    {
        absolute.clone_into(program);
    }
    argv
}

/// Says what was added and where it is, and has it take effect.
pub(super) fn report(file: &Path, added: &Added, servers: &[(Name, UrlPath)]) -> Exit {
    let env_files = match added {
        Added::Written { env_files } => {
            let base = Config::load(file).ok().map(|config| super::list::base_url(&config));
            for (name, path) in servers {
                let url = base.as_ref().map(|base| format!(", to be served at {base}{path}")).unwrap_or_default();
                output::print(&format!("added `{name}` to {}{url}\n", shown(file)));
            }
            env_files
        }
        Added::ToDeclare { blocks, env_files } => {
            output::print(&change::declaration(file, blocks));
            env_files
        }
    };
    note_env_files(env_files);
    match added {
        Added::Written { .. } => take_effect(file, "`ferry run` serves it"),
        Added::ToDeclare { .. } => Exit::Stopped,
    }
}

fn note_env_files(files: &[PathBuf]) {
    for file in files {
        output::note(&format!("its variables are in {}, which only you can read", shown(file)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_has_a_name_and_perhaps_a_value() {
        for (text, shape) in [
            ("KEY=a=b", Some((true, "KEY"))),
            ("KEY=", Some((true, "KEY"))),
            ("KEY", Some((false, "KEY"))),
            ("=x", None),
            ("", None),
            ("A B=x", None),
        ] {
            let parsed = parse_variable(text).ok();
            let found = parsed.as_ref().map(|variable| match variable {
                Variable::Literal(name, _) => (true, name.as_str()),
                Variable::Taken(name) => (false, name.as_str()),
            });
            assert_eq!(found, shape, "{text}");
        }
        assert_eq!(format!("{:?}", parse_variable("KEY=hunter2").unwrap()), "KEY");
    }

    #[test]
    fn a_relative_program_is_meant_from_here() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let here = std::env::current_dir().unwrap();
        assert_eq!(anchored(&words("./x ./y"), false), [here.join("x").to_str().unwrap(), "./y"]);
        for command in ["npx x", "/bin/x", "~/x"] {
            assert_eq!(anchored(&words(command), false), words(command));
        }
        assert_eq!(anchored(&words("./x"), true), words("./x"));
    }
}
