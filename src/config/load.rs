//! From the text of the file to what ferry does with it.
//!
//! A fault inside one `[[mcps]]` block breaks that server alone; any other fault is of the whole file. All faults are
//! found in one go, each with its line. Nothing outside the file is read here: no secret, no variable. The texts of
//! faults carry no values either, since any of them may be a secret that was put in the wrong place.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::limits::Limits;
use super::schema::{Access, Bridge, Cloudflare, Era, File, Logging, Mcp, NOT_YET, Tunnel};
pub use super::section::Fault;
use super::section::{Reader, keys};
use super::values::{LocalListen, UrlPath};
use super::words;
use crate::error::{Advise, Exit};
use crate::paths;

/// What the file says.
#[derive(Debug)]
pub struct Config {
    /// The file.
    pub path: PathBuf,
    /// `[bridge]`.
    pub bridge: Bridge,
    /// `[cloudflare]`.
    pub cloudflare: Option<Cloudflare>,
    /// `[access]`.
    pub access: Access,
    /// `[tunnel]`.
    pub tunnel: Tunnel,
    /// `[logging]`.
    pub logging: Logging,
    /// The servers, in the order of the file.
    pub servers: Vec<Server>,
    /// Those whose block has a fault.
    pub broken: Vec<Broken>,
}

/// A server that can be started.
#[derive(Debug)]
pub struct Server {
    /// Its block.
    pub mcp: Mcp,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The line of its block.
    pub line: usize,
}

/// A server that cannot, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Its name, or its place in the file where the name itself is the fault.
    pub name: String,
    /// Its path, if it has one.
    pub path: Option<String>,
    /// The line of its block.
    pub line: usize,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is none.
    #[error("there is no configuration: {} {} not exist", list(searched), if searched.len() == 1 { "does" } else { "do" })]
    Absent {
        /// Where one was looked for.
        searched: Vec<PathBuf>,
    },
    /// It cannot be read.
    #[error("the configuration {} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It is wrong.
    #[error("{}", report(path, faults))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        faults: Vec<Fault>,
    },
    /// Where it would be is not known.
    #[error(transparent)]
    Path(#[from] paths::PathError),
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ")
}

fn report(path: &Path, faults: &[Fault]) -> String {
    match faults {
        [fault] => format!("{}:{}: {}", path.display(), fault.line, fault.text),
        faults => {
            let lines: Vec<String> = faults.iter().map(Fault::to_string).collect();
            format!("{} faults in {}\n  {}", faults.len(), path.display(), lines.join("\n  "))
        }
    }
}

impl Advise for ConfigError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Absent { .. } => Some("`ferry init` writes one; `ferry try` needs none".to_owned()),
            Self::Wrong { .. } => Some("`ferry config schema` prints every key there is".to_owned()),
            Self::Unreadable { .. } => None,
            Self::Path(error) => error.hint(),
        }
    }

    fn exit(&self) -> Exit {
        Exit::Configuration
    }
}

/// The file to read: `named` (by `--config`), else `FERRY_CONFIG`, else the user's own, else the system's.
pub fn locate(named: Option<&Path>) -> Result<PathBuf, ConfigError> {
    let candidates = paths::config_candidates(named)?;
    let found = candidates.iter().find(|path| path.exists()).cloned();
    found.ok_or(ConfigError::Absent { searched: candidates })
}

impl Config {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| match source {
            source if io::Error::kind(&source) == io::ErrorKind::NotFound => {
                ConfigError::Absent { searched: vec![path.to_owned()] }
            }
            source => ConfigError::Unreadable { path: path.to_owned(), source },
        };
        let text = fs::read_to_string(path).map_err(unreadable)?;
        Self::parse(&text, path, paths::home().ok().as_deref())
            .map_err(|faults| ConfigError::Wrong { path: path.to_owned(), faults })
    }

    /// Reads the text of a file.
    pub fn parse(text: &str, path: &Path, home: Option<&Path>) -> Result<Self, Vec<Fault>> {
        let mut reader = Reader { text, faults: Vec::new() };
        let root = match DeTable::parse(text) {
            Ok(root) => root.into_inner(),
            Err(error) => {
                return Err(vec![reader.fault(&error.span().unwrap_or(0..0), format!("no TOML: {}", error.message()))]);
            }
        };
        let mut root = reader.known(root, keys::<File>(), "at the top level", &[]);
        let mut take = |name: &str| root.remove(name);
        let (bridge, limits) = take("bridge").map(|table| reader.bridge(table)).unwrap_or_default();
        let cloudflare = take("cloudflare").map(|table| reader.section(table, "[cloudflare]", &[]).unwrap_or_default());
        let access = take("access").and_then(|table| reader.section(table, "[access]", &[])).unwrap_or_default();
        let tunnel = take("tunnel").and_then(|table| reader.section(table, "[tunnel]", &[])).unwrap_or_default();
        let logging = take("logging").and_then(|table| reader.section(table, "[logging]", &[])).unwrap_or_default();
        let mut config = Self {
            path: path.to_owned(),
            bridge,
            cloudflare,
            access,
            tunnel,
            logging,
            servers: Vec::new(),
            broken: Vec::new(),
        };
        match take("mcps").map(|blocks| (blocks.span(), blocks.into_inner())) {
            None => {}
            Some((_, DeValue::Array(blocks))) => {
                config.servers(&mut reader, blocks.into_iter().collect(), &limits, home);
            }
            Some((span, _)) => reader.note(&span, "the servers are `[[mcps]]`, with two brackets".to_owned()),
        }
        if reader.faults.is_empty() {
            return Ok(config);
        }
        // Of the whole file: then the servers' faults are worth knowing as well.
        let mut faults = reader.faults;
        faults.extend(config.broken.into_iter().flat_map(|broken| broken.faults));
        faults.sort_by_key(|fault| fault.line);
        Err(faults)
    }

    fn servers<'d>(
        &mut self,
        reader: &mut Reader<'_>,
        blocks: Vec<Spanned<DeValue<'d>>>,
        limits: &DeTable<'d>,
        home: Option<&Path>,
    ) {
        let mut taken = Taken::default();
        for (number, block) in blocks.into_iter().enumerate() {
            let span = block.span();
            let line = reader.line(&span);
            let text = |key: &str| block.get_ref().as_table()?.get(key)?.get_ref().as_str().map(str::to_owned);
            let (name, path) = (text("name"), text("path"));
            // Faults of this block are this block's alone.
            let others = std::mem::take(&mut reader.faults);
            let server = reader.server(block, limits, home);
            let mut faults = std::mem::replace(&mut reader.faults, others);
            faults.extend(taken.take(line, name.as_deref(), path.as_deref(), server.as_ref()));
            faults.sort_by_key(|fault| fault.line);
            if let Some((mcp, argv)) = server.filter(|_| faults.is_empty()) {
                self.servers.push(Server { mcp, argv, line });
            } else {
                let name = name.unwrap_or_else(|| format!("mcps[{number}]"));
                self.broken.push(Broken { name, path, line, faults });
            }
        }
    }
}

/// The names and paths of the blocks so far. A block that is broken for another reason keeps its place: what becomes of
/// the second one must not depend on a slip in the first.
#[derive(Default)]
struct Taken {
    names: BTreeMap<String, usize>,
    paths: BTreeMap<String, (String, usize)>,
}

impl Taken {
    fn take(
        &mut self,
        line: usize,
        name: Option<&str>,
        path: Option<&str>,
        server: Option<&(Mcp, Vec<String>)>,
    ) -> Vec<Fault> {
        let mut faults = Vec::new();
        if let Some(name) = name
            && let Some(other) = self.names.insert(name.to_owned(), line)
        {
            self.names.insert(name.to_owned(), other);
            faults.push(Fault { line, text: format!("the name `{name}` is taken by the block in line {other}") });
        }
        // One that is switched off serves nothing: another may stand in for it.
        let Some(path) = path.and_then(|path| path.parse::<UrlPath>().ok()) else { return faults };
        if server.is_some_and(|(mcp, _)| !mcp.enabled) {
            return faults;
        }
        let whose = name.unwrap_or("another server").to_owned();
        for (other, (whose, at)) in &self.paths {
            let Ok(theirs) = other.parse::<UrlPath>() else { continue };
            let text = if theirs == path {
                format!("the path `{path}` is taken by `{whose}` in line {at}")
            } else if theirs.doors().contains(&path.to_string()) {
                format!(
                    "the path `{path}` belongs to `{whose}` in line {at}, for clients of the older HTTP+SSE transport"
                )
            } else if path.doors().contains(&theirs.to_string()) {
                format!(
                    "`{theirs}`, the path of `{whose}` in line {at}, would hide a door of `{path}` for clients of the older HTTP+SSE transport"
                )
            } else {
                continue;
            };
            faults.push(Fault { line, text });
        }
        if faults.is_empty() {
            self.paths.insert(path.to_string(), (whose, line));
        }
        faults
    }
}

/// What the tables mean.
impl Reader<'_> {
    /// The bridge, and its bounds as they are written.
    fn bridge<'d>(&mut self, mut table: Spanned<DeValue<'d>>) -> (Bridge, DeTable<'d>) {
        let listen = table.get_ref().get("local_listen").map(Spanned::span);
        let limits = match table.get_mut() {
            DeValue::Table(bridge) => bridge.remove("limits"),
            _ => None,
        };
        let written = limits.as_ref().and_then(|limits| limits.get_ref().as_table()).cloned().unwrap_or_default();
        let limits = limits.and_then(|limits| self.limits(limits, "[bridge.limits]")).unwrap_or_default();
        let bridge = self.section(table, "[bridge]", &[]).unwrap_or_default();
        let bridge = Bridge { limits, ..bridge };
        if let (Some(span), Some(LocalListen::At(address)), None) = (listen, bridge.local_listen, &bridge.local_token)
            && !address.ip().to_canonical().is_loopback()
        {
            let text =
                format!("other machines can reach {address}: set `local_token`, which clients then have to send");
            self.note(&span, text);
        }
        (bridge, written)
    }

    /// One server's own bounds, on top of those of all.
    fn own_limits<'d>(&mut self, own: Spanned<DeValue<'d>>, common: &DeTable<'d>) -> Option<Limits> {
        let span = own.span();
        let DeValue::Table(own) = own.into_inner() else {
            self.note(&span, "`limits` is a table".to_owned());
            return None;
        };
        let of_all = |key: &str| Limits::OF_ALL.contains(&key);
        let mut all: DeTable<'d> =
            common.iter().filter(|(key, _)| !of_all(key.get_ref())).map(|(k, v)| (k.clone(), v.clone())).collect();
        for (key, value) in own {
            if of_all(key.get_ref()) {
                let text = format!("`{}` is no bound of one server: it belongs into `[bridge] limits`", key.get_ref());
                self.note(&key.span(), text);
            } else {
                all.insert(key, value);
            }
        }
        self.limits(Spanned::new(span, DeValue::Table(all)), "limits")
    }

    fn limits(&mut self, limits: Spanned<DeValue<'_>>, place: &str) -> Option<Limits> {
        /// What hyper needs for the head of a request.
        const LEAST_HEADER_BYTES: i64 = 8192;
        let mut wrong = Vec::new();
        for (key, value) in limits.get_ref().as_table().into_iter().flatten() {
            let least = match key.get_ref().as_ref() {
                "max_header_bytes" => LEAST_HEADER_BYTES,
                // Without replay a client loses what it misses, but it works.
                replay if replay.starts_with("replay_") => 0,
                _ => 1,
            };
            // Fractions are times, and checked where they are read.
            let number = value.get_ref().as_integer();
            let number = number.and_then(|number| i64::from_str_radix(number.as_str(), number.radix()).ok());
            if let Some(number) = number
                && !(least..=i64::from(u32::MAX)).contains(&number)
            {
                wrong.push(
                    self.fault(&value.span(), format!("`{}`: a number from {least} to {}", key.get_ref(), u32::MAX)),
                );
            }
        }
        let read = self.section(limits, place, &[]);
        // A time of 0 has been told already.
        wrong.retain(|fault| self.faults.iter().all(|told| told.line != fault.line));
        let usable = wrong.is_empty();
        self.faults.append(&mut wrong);
        read.filter(|_| usable)
    }

    fn server<'d>(
        &mut self,
        mut block: Spanned<DeValue<'d>>,
        common: &DeTable<'d>,
        home: Option<&Path>,
    ) -> Option<(Mcp, Vec<String>)> {
        let before = self.faults.len();
        let own = match block.get_mut() {
            DeValue::Table(table) => table.remove("limits"),
            _ => None,
        };
        let limits = own.and_then(|own| self.own_limits(own, common));
        let span = block.span();
        let at = |key: &str| block.get_ref().get(key).map_or_else(|| span.clone(), Spanned::span);
        let (at_command, at_args, at_prefer) = (at("command"), at("args"), at("era_prefer"));
        let mcp: Mcp = self.section(block, "[[mcps]]", NOT_YET)?;
        let mcp = Mcp { limits, ..mcp };
        let argv = match (&mcp.command, &mcp.args) {
            (None, None) => Err((span, "`command` is missing in `[[mcps]]`".to_owned())),
            (Some(command_line), None) => {
                words::split(command_line).map_err(|why| (at_command.clone(), format!("`command`: {why}")))
            }
            (program, Some(args)) => Ok(program.iter().chain(args).cloned().collect()),
        };
        let argv = argv.and_then(|argv: Vec<String>| {
            let at = if mcp.command.is_some() { at_command } else { at_args };
            if argv.first().is_none_or(String::is_empty) {
                return Err((at, "the command is empty".to_owned()));
            }
            if argv.iter().any(|word| word.contains('\0')) {
                return Err((at, "a command has no NUL in it".to_owned()));
            }
            Ok(argv.iter().map(|word| words::expand_home(word, home)).collect())
        });
        let argv = argv.map_err(|(span, text)| self.note(&span, text)).ok();
        if mcp.era != Era::Auto && mcp.era_prefer.is_some() {
            self.note(&at_prefer, "`era_prefer` is for `era = \"auto\"`".to_owned());
        }
        argv.filter(|_| self.faults.len() == before).map(|argv| (mcp, argv))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::schema::{EraPreference, ForwardedSignal, LogFormat, OneOrMany, Serve, TunnelMode};
    use super::super::values::Source;
    use super::*;

    fn read(text: &str) -> Result<Config, Vec<Fault>> {
        Config::parse(text, Path::new("config.toml"), Some(Path::new("/home/me")))
    }

    fn parsed(text: &str) -> Config {
        let config = read(text).unwrap_or_else(|faults| panic!("{faults:?} in {text}"));
        assert_eq!(config.broken, [], "{text}");
        config
    }

    /// A file with one server that has these further lines, which begin in line 5.
    fn with(lines: &str) -> String {
        format!("[[mcps]]\nname = \"bear\"\npath = \"/bear\"\ncommand = \"bearcli\"\n{lines}\n")
    }

    /// What is said of the one broken server in the file.
    fn broken(text: &str) -> Vec<String> {
        let config = read(text).unwrap_or_else(|faults| panic!("the whole file is refused: {faults:?} in {text}"));
        assert_eq!(config.broken.len(), 1, "{text}");
        config.broken[0].faults.iter().map(ToString::to_string).collect()
    }

    fn refused(text: &str) -> Vec<String> {
        read(text).expect_err(text).iter().map(ToString::to_string).collect()
    }

    /// What `ferry init` of the Python tool writes, less its comments, with every key it documents.
    const PYTHON: &str = r#"
[bridge]
hostname = "bridge.example.com"   # public hostname, fronted by Cloudflare Access
local_port = 8765

[cloudflare]
tunnel_name = "mcp-ferry"
credentials_file = "~/.cloudflared/abc.json"
account_id = "acc"
zone_id = "zone"
allowed_redirect_uris = ["https://claude.ai/api/mcp/auth_callback"]
session_duration = "730h"

[[mcps]]
name = "bear"
path = "/bear/"
command = "/Applications/Bear.app/Contents/MacOS/bearcli 'mcp server' ~/x"
env = { KEY = "value" }
cwd = "~/notes"
request_timeout = 12.5

[[mcps]]
name = "things"
path = "/"
command = "uvx things-mcp"
"#;

    #[test]
    fn every_key_of_the_python_tool_means_the_same() {
        let config = parsed(PYTHON);
        let home = Some(Path::new("/home/me"));
        assert_eq!(config.bridge.hostname.unwrap().as_str(), "bridge.example.com");
        assert_eq!(config.bridge.local_port.0, 8765);
        let cloudflare = config.cloudflare.unwrap();
        assert_eq!(cloudflare.tunnel_name, "mcp-ferry");
        assert_eq!(cloudflare.credentials_file.unwrap().expand(home), Path::new("/home/me/.cloudflared/abc.json"));
        assert_eq!((cloudflare.account_id.as_deref(), cloudflare.zone_id.as_deref()), (Some("acc"), Some("zone")));
        assert_eq!(cloudflare.allowed_redirect_uris.unwrap(), ["https://claude.ai/api/mcp/auth_callback"]);
        assert_eq!(cloudflare.session_duration.as_str(), "730h");
        let [bear, things] = &config.servers[..] else { panic!("two servers") };
        assert_eq!((bear.mcp.name.as_str(), bear.mcp.path.as_str(), bear.line), ("bear", "/bear", 14));
        assert_eq!(bear.argv, ["/Applications/Bear.app/Contents/MacOS/bearcli", "mcp server", "/home/me/x"]);
        assert!(matches!(&bear.mcp.env.0["KEY"], Source::Literal(value) if value.0.matches("value")));
        assert_eq!(bear.mcp.cwd.as_ref().unwrap().expand(home), Path::new("/home/me/notes"));
        assert_eq!(bear.mcp.request_timeout.unwrap().0, Duration::from_millis(12_500));
        assert_eq!(
            (things.mcp.path.as_str(), &things.argv[..]),
            ("/", &["uvx".to_owned(), "things-mcp".to_owned()][..])
        );
        assert_eq!((things.mcp.request_timeout, things.mcp.env.0.len(), &things.mcp.cwd), (None, 0, &None));
    }

    #[test]
    fn what_is_absent_is_as_the_python_tool_has_it() {
        let config = parsed("[cloudflare]\ntunnel_name = \"x\"\n");
        assert_eq!(config.bridge.local_port.0, 8765);
        let cloudflare = config.cloudflare.unwrap();
        assert_eq!(cloudflare.session_duration.as_str(), "168h");
        assert_eq!(cloudflare.credentials_file, None);
        assert_eq!(cloudflare.allowed_redirect_uris, None);
        // Without a tunnel ferry is for this machine only.
        assert!(parsed("").cloudflare.is_none());
    }

    #[test]
    fn every_validator_of_the_python_tool_is_here() {
        for port in [0, 1024, 65535] {
            assert_eq!(i64::from(parsed(&format!("[bridge]\nlocal_port = {port}")).bridge.local_port.0), port);
        }
        for port in ["80", "1023", "65536", "-1", "8765.0", "\"8765\"", "true"] {
            let said = refused(&format!("[bridge]\nlocal_port = {port}"));
            assert!(said.len() == 1 && said[0].starts_with("line 2: `local_port`: "), "{port}: {said:?}");
        }
        for (time, millis) in [("1", 1000), ("0.25", 250), ("300", 300_000), ("1e3", 1_000_000)] {
            let config = parsed(&with(&format!("request_timeout = {time}")));
            assert_eq!(config.servers[0].mcp.request_timeout.unwrap().0, Duration::from_millis(millis));
        }
        for time in ["0", "-1", "0.0", "nan", "inf", "1e300", "\"5\""] {
            let said = broken(&with(&format!("request_timeout = {time}")));
            assert!(said.len() == 1 && said[0].starts_with("line 5: `request_timeout`: "), "{time}: {said:?}");
        }
        for (block, said) in [
            (
                "name = 'a b'\npath = '/a'\ncommand = 'a'",
                "line 2: `name`: a name is made of letters, digits, `-` and `_`",
            ),
            ("name = 'a'\npath = 'a'\ncommand = 'a'", "line 3: `path`: a path begins with `/`"),
            ("name = 'a'\npath = '/a'\ncommand = ''", "line 4: the command is empty"),
            ("name = 'a'\npath = '/a'\ncommand = \"a 'b\"", "line 4: `command`: a quotation mark is never closed"),
            ("path = '/a'\ncommand = 'a'", "line 1: `name` is missing in `[[mcps]]`"),
            ("name = 'a'\ncommand = 'a'", "line 1: `path` is missing in `[[mcps]]`"),
            ("name = 'a'\npath = '/a'", "line 1: `command` is missing in `[[mcps]]`"),
            (
                "name = 'a'\npath = '/a'\ncommand = 'a'\nenv = {A = 1}",
                "line 5: `env`: this must be text, or one of `{ env = \"NAME\" }`, `{ file = \"path\" }`, `{ command = \"…\" }`; put it in quotation marks",
            ),
        ] {
            assert_eq!(broken(&format!("[[mcps]]\n{block}")), [said], "{block}");
        }
        let twice = format!("{}{}", with(""), with("").replace("/bear", "/other"));
        assert_eq!(broken(&twice), ["line 6: the name `bear` is taken by the block in line 1"]);
        let twice = format!("{}{}", with(""), with("").replace("\"bear\"", "\"other\""));
        assert_eq!(broken(&twice), ["line 6: the path `/bear` is taken by `bear` in line 1"]);
    }

    #[test]
    fn ferrys_own_keys_are_read() {
        let config = parsed(
            r#"
[bridge]
local_port = 0
local_listen = "0.0.0.0:8765"
local_token = { file = "~/token" }
env_files = ["~/.env", "/etc/ferry.env"]
allowed_origins = ["https://app.example.com"]
allowed_hosts = ["mac.local"]
shutdown_timeout = 20.5
limits = { request_timeout = 60, max_sessions = 10 }
[access]
team_domain = "example.cloudflareaccess.com"
audience = ["a", "b"]
keys_url = "http://127.0.0.1/certs"
[tunnel]
mode = "external"
binary = "/opt/cloudflared"
protocol = "http2"
edge_ip_version = "4"
listen = "unix:/run/ferry.sock"
[logging]
format = "json"
level = "info,mcp_ferry::bridge=debug"
max_bytes = 1000000
kept = 2
[cloudflare]
clients = ["claude"]
extra_redirect_uris = ["https://x.example.com/cb"]
identity_provider = "otp"
emails = ["me@example.com"]
[[mcps]]
name = "all"
path = "/all"
command = "npx"
args = ["-y", "a b", "~/x"]
env = { A = { env = "B" }, C = { file = "c" }, D = { command = "op read 'op://x/y z'" } }
env_file = "all.env"
inherit_env = false
enabled = true
forward_signals = ["HUP", "SIGUSR1"]
isolation = "user"
max_children = 3
idle_stop = 600
on_exit = "end_session"
legacy_stateless = true
sse = false
limits = { max_inflight = 3, keep_alive = 2.5 }
eager = false
era = "auto"
era_prefer = "modern"
serve = "modern"
shared_interactive = true
upstream_capabilities = { roots = { listChanged = true } }
[[mcps]]
name = "listed"
path = "/listed"
args = ["~/bin/x", "y"]
"#,
        );
        assert_eq!(config.bridge.limits.request_timeout, Duration::from_mins(1));
        assert_eq!(config.bridge.limits.max_sessions, 10);
        assert_eq!(config.bridge.limits.max_inflight, Limits::default().max_inflight);
        assert_eq!(config.access.audience, Some(OneOrMany::Many(vec!["a".into(), "b".into()])));
        assert_eq!((config.tunnel.mode, config.logging.format), (Some(TunnelMode::External), Some(LogFormat::Json)));
        let [all, listed] = &config.servers[..] else { panic!("two servers") };
        assert_eq!(all.argv, ["npx", "-y", "a b", "/home/me/x"]);
        assert_eq!(format!("{:?}", all.mcp.env.0["A"]), "{ env = \"B\" }");
        let Source::Command(words) = &all.mcp.env.0["D"] else { panic!("a command") };
        assert_eq!(words, &["op", "read", "op://x/y z"]);
        assert_eq!(all.mcp.forward_signals, [ForwardedSignal::Hup, ForwardedSignal::Usr1]);
        assert_eq!((all.mcp.era_prefer, all.mcp.serve), (Some(EraPreference::Modern), Serve::Modern));
        assert!(!all.mcp.inherit_env && !all.mcp.eager && all.mcp.enabled);
        let capabilities = serde_json::to_string(all.mcp.upstream_capabilities.as_ref().unwrap()).unwrap();
        assert_eq!(capabilities, r#"{"roots":{"listChanged":true}}"#);
        assert_eq!(listed.argv, ["/home/me/bin/x", "y"]);
        assert!(listed.mcp.inherit_env && listed.mcp.eager && listed.mcp.enabled);
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line_and_the_nearest_one() {
        for (text, said) in [
            ("[bridge]\nhostnam = 'a'", "line 2: unknown key `hostnam` in `[bridge]`; did you mean `hostname`?"),
            ("[bridge]\nlocal-port = 0", "line 2: unknown key `local-port` in `[bridge]`; did you mean `local_port`?"),
            ("[brigde]\n", "line 1: unknown key `brigde` at the top level; did you mean `bridge`?"),
            ("[[mcp]]\n", "line 1: unknown key `mcp` at the top level; did you mean `mcps`?"),
            ("\nxyzzy = 1", "line 2: unknown key `xyzzy` at the top level"),
            (
                "[bridge.limits]\nmax_sesions = 1",
                "line 2: unknown key `max_sesions` in `[bridge.limits]`; did you mean `max_sessions`?",
            ),
            (
                "[cloudflare]\ntunel_name = 'a'",
                "line 2: unknown key `tunel_name` in `[cloudflare]`; did you mean `tunnel_name`?",
            ),
            ("[mcps]\nname = 'a'", "line 1: the servers are `[[mcps]]`, with two brackets"),
            ("bridge = 1", "line 1: `[bridge]` is a table"),
            ("[bridge]\nallowed_hosts = 'a'", "line 2: `allowed_hosts`: this must be a list"),
            ("[bridge]\nlimits = 3", "line 2: `[bridge.limits]` is a table"),
            ("[bridge.limits]\nmax_sessions = 0", "line 2: `max_sessions`: a number from 1 to 4294967295"),
            ("[bridge.limits]\nmax_header_bytes = 100", "line 2: `max_header_bytes`: a number from 8192 to 4294967295"),
            (
                "[bridge.limits]\nkeep_alive = 0",
                "line 2: `keep_alive`: a number of seconds greater than 0 and at most a year",
            ),
            ("[access]\naudience = 1", "line 2: `audience`: this must be text, or a list of texts"),
            ("[tunnel]\nmode = 'on'", "line 2: `mode`: this must be `managed`, `external`, `off`"),
            (
                "[logging]\nlevel = 'a=b=c=d'",
                "line 2: `level`: a level such as `info` or `debug`, or a list such as `warn,mcp_ferry::bridge=debug`",
            ),
            (
                "[bridge]\nlocal_listen = '0.0.0.0:1'",
                "line 2: other machines can reach 0.0.0.0:1: set `local_token`, which clients then have to send",
            ),
            (
                "[bridge]\nlocal_listen = '::'",
                "line 2: `local_listen`: `ADDRESS:PORT`, such as `0.0.0.0:8765` or `[::]:8765`, or `off`",
            ),
        ] {
            assert_eq!(refused(text), [said], "{text}");
        }
        assert_eq!(
            broken(&with("requst_timeout = 3")),
            ["line 5: unknown key `requst_timeout` in `[[mcps]]`; did you mean `request_timeout`?"]
        );
        assert!(refused("[bridge\n")[0].starts_with("line 1: no TOML: "));
        assert!(refused("a = 1\na = 2\n")[0].starts_with("line 2: no TOML: duplicate key"));
    }

    #[test]
    fn all_faults_are_found_at_once() {
        let text = format!("[bridge]\nhostname = 'a b'\nlocal_port = 1\nx = 1\n{}", with("enabled = 'no'\neager = 1"));
        let said = refused(&text);
        let lines: Vec<_> = said.iter().map(|fault| fault.split(':').next().unwrap()).collect();
        assert_eq!(lines, ["line 2", "line 3", "line 4", "line 9", "line 10"], "{said:?}");
        let error = ConfigError::Wrong { path: "c.toml".into(), faults: read(&text).unwrap_err() };
        assert!(error.to_string().starts_with("5 faults in c.toml\n  line 2: `hostname`: "), "{error}");
        assert_eq!(error.exit(), Exit::Configuration);
    }

    #[test]
    fn what_is_not_built_yet_is_not_accepted() {
        for key in NOT_YET {
            let said = broken(&with(&format!("{key} = []")));
            assert!(
                said.len() == 1 && said[0].starts_with(&format!("line 5: `{key}` is not in this version")),
                "{said:?}"
            );
        }
        assert_eq!(broken(&with("isolation = 'x'")), ["line 5: `isolation`: this must be `shared`, `session`, `user`"]);
        assert_eq!(broken(&with("max_children = 0")), ["line 5: `max_children`: this is a number from 1 to 65535"]);
        assert_eq!(broken(&with("allow_tool = []"))[0].split("; ").last().unwrap(), "did you mean `allow_tools`?");
    }

    #[test]
    fn a_server_has_bounds_of_its_own_on_top_of_those_of_all() {
        let all = "[bridge.limits]\nmax_inflight = 9\nkeep_alive = 3\n";
        let config = parsed(&format!("{all}{}", with("limits = { max_inflight = 2 }")));
        let own = config.servers[0].mcp.limits.clone().unwrap();
        assert_eq!((own.max_inflight, own.keep_alive), (2, Duration::from_secs(3)));
        for (lines, said) in [
            (
                "limits = { max_body_bytes = 1 }",
                "`max_body_bytes` is no bound of one server: it belongs into `[bridge] limits`",
            ),
            ("limits = { max_inflght = 1 }", "unknown key `max_inflght` in `limits`; did you mean `max_inflight`?"),
            ("limits = { max_inflight = 0 }", "`max_inflight`: a number from 1 to 4294967295"),
            ("limits = 7", "`limits` is a table"),
        ] {
            assert_eq!(broken(&with(lines)), [format!("line 5: {said}")]);
        }
    }

    #[test]
    fn one_broken_block_is_one_broken_server() {
        let text = format!("{}[[mcps]]\nname = 'x'\npath = 'x'\n{}", with(""), with("").replace("bear", "deer"));
        let config = read(&text).unwrap();
        assert_eq!(config.servers.iter().map(|server| server.mcp.name.as_str()).collect::<Vec<_>>(), ["bear", "deer"]);
        let [broken] = &config.broken[..] else { panic!("{:?}", config.broken) };
        assert_eq!((broken.name.as_str(), broken.path.as_deref(), broken.line), ("x", Some("x"), 6));
        assert_eq!(read("mcps = [1]").unwrap().broken[0].name, "mcps[0]");
    }

    #[test]
    fn no_path_hides_another() {
        let two = |a: &str, b: &str| {
            let block = |name, path| format!("[[mcps]]\nname = '{name}'\npath = '{path}'\ncommand = 'x'\n");
            read(&(block("a", a) + &block("b", b))).unwrap().broken.len()
        };
        for (a, b, broken) in [
            ("/a", "/b", 0),
            ("/a", "/a/", 1),
            ("/a", "/a/b", 0),
            ("/a", "/a/sse", 1),
            ("/a", "/a/message", 1),
            ("/a/sse", "/a", 1),
            ("/", "/sse", 1),
            ("/", "/a", 0),
            ("/message", "/", 1),
        ] {
            assert_eq!(two(a, b), broken, "{a} and {b}");
        }
        let off = format!("{}{}", with("enabled = false"), with("").replace("\"bear\"", "\"other\""));
        assert_eq!(parsed(&off).servers.len(), 2, "one that is off may share its path");
    }

    #[test]
    fn no_fault_shows_a_value() {
        for text in [
            with("env = 'TOKEN=hunter2'"),
            with("env = ['hunter2']"),
            with("env = { A = ['hunter2'] }"),
            with("env = { A = { text = 'hunter2' } }"),
            with("env_file = ['hunter2']"),
            with("args = '--token=hunter2'"),
            with("enabled = 'hunter2'"),
            with("era = 'hunter2'"),
        ] {
            let said = broken(&text);
            assert!(said.len() == 1 && !said[0].contains("hunter2"), "{said:?}");
        }
        let said = refused(
            "[bridge]\nlocal_token = ['hunter2']\nlocal_port = 'hunter2'\nhostname = 'hunter 2'\nx = 'hunter2'\ny = hunter2",
        );
        assert!(said.iter().all(|fault| !fault.contains("hunter")), "{said:?}");
    }

    #[test]
    fn every_limit_is_a_plain_number() {
        for key in keys::<Limits>() {
            let number = if *key == "max_header_bytes" { "16384" } else { "7" };
            parsed(&format!("[bridge.limits]\n{key} = {number}"));
        }
        assert!(keys::<Limits>().len() > 40);
    }

    #[test]
    fn the_schema_knows_every_key_and_what_it_means() {
        let schema = super::super::schema::json_schema();
        let properties =
            |at: &str| schema.pointer(at).unwrap_or_else(|| panic!("{at} in {schema:#}")).as_object().unwrap().clone();
        for (section, keys) in [
            ("/$defs/Bridge/properties", keys::<Bridge>()),
            ("/$defs/Cloudflare/properties", keys::<Cloudflare>()),
            ("/$defs/Mcp/properties", keys::<Mcp>()),
            ("/$defs/Limits/properties", keys::<Limits>()),
        ] {
            let known = properties(section);
            assert_eq!(known.len(), keys.len());
            for key in keys {
                assert!(known[*key].to_string().contains("\"description\""), "{section}/{key}: {}", known[*key]);
            }
        }
        assert_eq!(schema.pointer("/$defs/Limits/properties/keep_alive/default").unwrap().as_f64(), Some(15.0));
        assert_eq!(schema.pointer("/$defs/Mcp/additionalProperties").unwrap(), false);
        assert_eq!(schema.pointer("/$defs/Mcp/properties/command/type").unwrap(), "string");
        assert!(!schema.to_string().contains("null"), "TOML has none");
    }

    #[test]
    fn any_text_is_read_without_a_panic() {
        let whole = PYTHON;
        for end in (0..whole.len()).filter(|end| whole.is_char_boundary(*end)) {
            let _ = read(&whole[..end]);
        }
        for odd in [
            "\u{feff}[bridge]\n",
            "mcps = [[]]",
            "mcps = [{}]",
            "[[mcps]]\n[mcps.name]\nx = 1",
            "[bridge.limits.keep_alive]\nx=1",
            "a.b.c = 1",
            "[mcps.x]\n",
        ] {
            let _ = read(odd);
        }
    }
}
