//! What `init`, `add`, `remove` and `import` have in common: the file is found, changed, checked, and then replaced; or,
//! where it cannot be, its owner is told what to declare.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::edit::{self, Block, EditError};
use crate::config::env_file;
use crate::config::load::{Config, ConfigError, Fault};
use crate::error::{Advise, Exit};
use crate::paths;

/// Which configuration file.
#[derive(Debug, Default, clap::Args)]
pub(super) struct ConfigArg {
    /// The configuration file, instead of `~/.config/mcp-ferry/config.toml`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArg {
    /// The file that is there.
    pub(super) fn located(&self) -> Result<PathBuf, ConfigError> {
        crate::config::load::locate(self.config.as_deref())
    }

    /// Where a new one belongs.
    pub(super) fn place_for_new(&self) -> Result<PathBuf, ConfigError> {
        let candidates = paths::config_candidates(self.config.as_deref())?;
        candidates.into_iter().next().ok_or(ConfigError::Absent { searched: Vec::new() })
    }

    /// The file that is there, or else the one to make.
    pub(super) fn located_or_new(&self) -> Result<PathBuf, ConfigError> {
        match self.located() {
            Err(ConfigError::Absent { .. }) => self.place_for_new(),
            located => located,
        }
    }
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChangeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Edit(#[from] EditError),
    /// The new server would be broken.
    #[error("`{name}` cannot be added: {}", fault.text)]
    Unfit { name: String, fault: Fault },
    /// Its variables would overwrite others.
    #[error("{} exists already, with other variables", path.display())]
    EnvFileExists { path: PathBuf },
    #[error("{} cannot be written", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} exists already", path.display())]
    Exists { path: PathBuf },
}

impl Advise for ChangeError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.hint(),
            Self::Edit(error) => error.hint(),
            Self::Unfit { .. } => Some("choose another name, or another path with `--path`".to_owned()),
            Self::EnvFileExists { .. } => {
                Some("remove that file if nothing needs it, or choose another name".to_owned())
            }
            Self::Write { .. } => None,
            Self::Exists { .. } => Some("`--force` replaces it".to_owned()),
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Config(error) => error.exit(),
            Self::Edit(error) => error.exit(),
            Self::Write { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Exit::NotPermitted,
            Self::Unfit { .. } | Self::EnvFileExists { .. } | Self::Write { .. } | Self::Exists { .. } => Exit::Failed,
        }
    }
}

/// A server to add, with the variables that go to a file of their own.
pub(super) struct Addition {
    pub(super) block: Block,
    pub(super) variables: Vec<(String, String)>,
}

/// What came of it.
pub(super) enum Added {
    /// The file has the new servers.
    Written { env_files: Vec<PathBuf> },
    /// The file cannot be written; this is what to declare.
    ToDeclare { blocks: Vec<Block>, env_files: Vec<PathBuf> },
}

/// The text of the file; a new one begins with explanations.
pub(super) fn text_of(path: &Path) -> Result<String, ConfigError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(edit::STARTER.to_owned()),
        Err(source) => Err(ConfigError::Unreadable { path: path.to_owned(), source }),
    }
}

/// Adds servers, all of them or none.
pub(super) fn add(path: &Path, additions: Vec<Addition>) -> Result<Added, ChangeError> {
    let mut text = text_of(path)?;
    make_directory_of(path);
    let writable = edit::is_writable(path);
    let directory = if writable { directory_of(path) } else { paths::state_dir().map_err(ConfigError::from)? };
    let mut blocks = Vec::new();
    let mut files = Vec::new();
    for Addition { mut block, variables } in additions {
        if !variables.is_empty() {
            let file = directory.join("env").join(format!("{}.env", block.name));
            block.env_file =
                Some(if writable { format!("env/{}.env", block.name) } else { file.display().to_string() });
            let variables = variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            files.push((file, env_file::render(variables)));
        }
        text = edit::add(&text, &block)?;
        blocks.push(block);
    }
    check(path, &text, &blocks)?;
    let env_files = write_env_files(&files)?;
    if !writable {
        return Ok(Added::ToDeclare { blocks, env_files });
    }
    if let Err(error) = write(path, &text) {
        for file in &env_files {
            let _ = fs::remove_file(file);
        }
        return Err(error);
    }
    Ok(Added::Written { env_files })
}

/// Replaces the file.
pub(super) fn write(path: &Path, text: &str) -> Result<(), ChangeError> {
    make_directory_of(path);
    edit::write(path, text).map_err(|source| ChangeError::Write { path: path.to_owned(), source })
}

/// Whether the new servers could be started, were this the file. Those that were broken before are not asked about.
fn check(path: &Path, text: &str, blocks: &[Block]) -> Result<(), ChangeError> {
    let config = Config::parse(text, path, paths::home().ok().as_deref())
        .map_err(|faults| ConfigError::Wrong { path: path.to_owned(), faults })?;
    let ours = |name: &str| blocks.iter().any(|block| block.name.as_str() == name);
    match config.broken.into_iter().find(|broken| ours(&broken.name)) {
        Some(broken) => match broken.faults.into_iter().next() {
            Some(fault) => Err(ChangeError::Unfit { name: broken.name, fault }),
            None => Ok(()),
        },
        None => Ok(()),
    }
}

/// Writes those that are not there yet; returns these.
fn write_env_files(files: &[(PathBuf, String)]) -> Result<Vec<PathBuf>, ChangeError> {
    let mut absent = Vec::new();
    for (path, text) in files {
        match fs::read_to_string(path) {
            Ok(there) if there == *text => {}
            Ok(_) => return Err(ChangeError::EnvFileExists { path: path.clone() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => absent.push((path, text)),
            Err(source) => return Err(ChangeError::Write { path: path.clone(), source }),
        }
    }
    let mut written = Vec::new();
    for (path, text) in absent {
        let made = path.parent().map_or(Ok(()), paths::make_private_dir);
        if let Err(source) = made.and_then(|()| paths::write_atomically(path, text.as_bytes())) {
            for file in &written {
                let _ = fs::remove_file(file);
            }
            return Err(ChangeError::Write { path: path.clone(), source });
        }
        written.push(path.clone());
    }
    Ok(written)
}

fn directory_of(path: &Path) -> PathBuf {
    path.parent().map(Path::to_owned).unwrap_or_default()
}

/// Where this fails, the file that was to be in it cannot be written, and that is told.
fn make_directory_of(path: &Path) {
    let directory = directory_of(path);
    if !directory.as_os_str().is_empty() {
        let _ = paths::make_private_dir(&directory);
    }
}

/// What to declare where the file cannot be written.
pub(super) fn declaration(path: &Path, blocks: &[Block]) -> String {
    let toml: Vec<String> = blocks.iter().map(Block::toml).collect();
    let nix: Vec<String> = blocks.iter().map(Block::nix).collect();
    format!(
        "# {} cannot be written, so nothing in it was changed. To be added to it:\n\n{}\n# The same in Nix, for the list `mcps`:\n\n{}",
        path.display(),
        toml.join("\n"),
        nix.join("")
    )
}

/// A path as people write it.
pub(super) fn shown(path: &Path) -> String {
    let home = paths::home().ok();
    match home.as_deref().and_then(|home| path.strip_prefix(home).ok()) {
        Some(rest) => format!("~/{}", rest.display()),
        None => path.display().to_string(),
    }
}
