//! The commands that read and change the configuration, as people type them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::support::ferry::{Ferry, Said};

/// A home of somebody who has never used ferry.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.path(".config/mcp-ferry/config.toml")
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    async fn ferry(&self, arguments: &[&str]) -> Said {
        let state = self.path("state");
        let home = self.0.path().to_str().unwrap();
        Ferry::run(arguments, &[("HOME", home), ("FERRY_STATE_DIR", state.to_str().unwrap())]).ended().await
    }

    /// Runs a command that succeeds.
    async fn does(&self, arguments: &[&str]) -> Said {
        let said = self.ferry(arguments).await;
        assert_eq!(said.status.code(), Some(0), "{arguments:?}: {}", said.stderr);
        said
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn from_nothing_to_a_list_of_servers() {
    let home = Home::new();
    let said = home.ferry(&["list"]).await;
    assert_eq!(said.status.code(), Some(78));
    assert!(said.stderr.starts_with("error: there is no configuration: "), "{}", said.stderr);
    assert!(said.stderr.contains("hint: `ferry init` writes one"), "{}", said.stderr);

    home.does(&["init"]).await;
    assert_eq!((mode(&home.config()), mode(home.config().parent().unwrap())), (0o600, 0o700));
    assert_eq!(home.ferry(&["init"]).await.status.code(), Some(1), "an existing file is not overwritten");
    let said = home.does(&["config", "check"]).await;
    assert!(said.stdout.contains("is right: no servers yet"), "{}", said.stdout);

    let starter = home.read(".config/mcp-ferry/config.toml");
    let said = home.does(&["add", "bear", "--env", "KEY=hunter2", "--env", "PLAIN", "--", "bearcli", "a b"]).await;
    assert!(said.stdout.contains("http://127.0.0.1:8765/bear"), "{}", said.stdout);
    home.does(&["add", "things", "--path", "/", "--", "uvx", "things-mcp"]).await;
    let text = home.read(".config/mcp-ferry/config.toml");
    assert!(text.starts_with(&starter) && !text.contains("hunter2"), "{text}");
    let env_file = home.path(".config/mcp-ferry/env/bear.env");
    assert_eq!((mode(&env_file), fs::read_to_string(&env_file).unwrap().as_str()), (0o600, "KEY=hunter2\n"));

    let said = home.does(&["list", "--json"]).await;
    let list: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(list["servers"][0]["command"], serde_json::json!(["bearcli", "a b"]));
    assert_eq!(list["servers"][1]["url"], "http://127.0.0.1:8765/");

    home.does(&["remove", "things"]).await;
    let said = home.does(&["remove", "bear"]).await;
    assert!(said.stderr.contains("bear.env"), "its variables are still there: {}", said.stderr);
    assert_eq!(home.read(".config/mcp-ferry/config.toml"), starter);
}

#[tokio::test]
async fn what_cannot_be_added_or_removed_changes_nothing() {
    let home = Home::new();
    home.does(&["add", "bear", "--", "bearcli"]).await;
    let before = home.read(".config/mcp-ferry/config.toml");
    for (arguments, code, says) in [
        (&["add", "bear", "--", "x"][..], 1, "there is a server `bear` already"),
        (&["add", "deer", "--path", "/bear", "--env", "A=1", "--", "x"], 1, "the path `/bear` is taken by `bear`"),
        (&["add", "deer", "--path", "/healthz", "--", "x"], 2, "`/healthz` is ferry's own"),
        (&["add", "de er", "--", "x"], 2, "a name is made of letters"),
        (&["add", "deer"], 2, "COMMAND"),
        (&["remove", "deer"], 1, "hint: there are: bear"),
    ] {
        let said = home.ferry(arguments).await;
        assert_eq!(said.status.code(), Some(code), "{arguments:?}: {}", said.stderr);
        assert!(said.stderr.contains(says), "{arguments:?}: {}", said.stderr);
    }
    assert_eq!(home.read(".config/mcp-ferry/config.toml"), before);
    assert!(!home.path(".config/mcp-ferry/env").exists());
    home.write(".config/mcp-ferry/config.toml", "[bridge]\nlocalport = 1\n[[mcps]]\nname = 'x'\n");
    let said = home.ferry(&["add", "deer", "--", "x"]).await;
    assert_eq!(said.status.code(), Some(78), "a file that is wrong is not made longer");
    let said = home.ferry(&["config", "check"]).await;
    assert_eq!(said.status.code(), Some(78));
    assert!(said.stderr.contains("line 2: unknown key `localport` in `[bridge]`; did you mean `local_port`?"));
    assert!(said.stderr.contains("line 3: `path` is missing"), "{}", said.stderr);
    home.write(".config/mcp-ferry/config.toml", "[bridge]\nallowed_hosts = ['http://x']\n");
    let said = home.ferry(&["config", "check"]).await;
    assert_eq!(said.status.code(), Some(78), "{}", said.stdout);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_left_to_its_owner() {
    let home = Home::new();
    home.does(&["add", "bear", "--", "bearcli"]).await;
    fs::set_permissions(home.config(), fs::Permissions::from_mode(0o444)).unwrap();
    let before = home.read(".config/mcp-ferry/config.toml");
    let said = home.does(&["add", "deer", "--env", "KEY=hunter2", "--", "deer-mcp", "a b"]).await;
    assert!(said.stdout.contains("[[mcps]]\nname = \"deer\""), "{}", said.stdout);
    assert!(said.stdout.contains("  args = [ \"a b\" ];"), "the same in Nix: {}", said.stdout);
    assert!(!said.stdout.contains("hunter2") && !said.stderr.contains("hunter2"));
    assert_eq!(home.read("state/env/deer.env"), "KEY=hunter2\n");
    let said = home.does(&["remove", "bear"]).await;
    assert!(said.stdout.contains("command = \"bearcli\""), "{}", said.stdout);
    assert_eq!(home.read(".config/mcp-ferry/config.toml"), before);
}

#[tokio::test]
async fn servers_of_other_clients_are_taken_over() {
    let home = Home::new();
    let said = home.does(&["import"]).await;
    assert!(said.stdout.starts_with("no servers found"), "{}", said.stdout);
    let project = home.path("work").to_str().unwrap().to_owned();
    home.write(".cursor/mcp.json", r#"{"mcpServers": {"files": {"command": "npx", "args": ["-y", "@x/fs"], "env": {"KEY": "hunter2", "V": "${V}"}}}}"#);
    home.write(
        ".claude.json",
        &serde_json::json!({"mcpServers": {"web": {"type": "http", "url": "https://x"}},
            "projects": {project.as_str(): {"mcpServers": {"db": {"command": "db-mcp"}}}}})
        .to_string(),
    );
    let vscode = if cfg!(target_os = "macos") { "Library/Application Support" } else { ".config" };
    home.write(&format!("{vscode}/Code/User/mcp.json"), "{ // mine\n\"servers\": {\"broken\": 1,},}");
    home.write(&format!("{vscode}/Claude/claude_desktop_config.json"), "{ no JSON: hunter2 }");

    let said = home.does(&["import"]).await;
    assert!(said.stderr.contains("claude_desktop_config.json cannot be read: line 1"), "{}", said.stderr);
    assert!(said.stderr.contains("`--all`"), "nobody is asked where nobody is: {}", said.stderr);
    assert!(!home.config().exists());
    let said = home.does(&["import", "files"]).await;
    assert!(said.stdout.contains("added `files`"), "{}", said.stdout);
    home.does(&["import", "--all"]).await;
    let text = home.read(".config/mcp-ferry/config.toml");
    assert!(text.contains(&format!("cwd = {project:?}")), "{text}");
    assert!(text.contains("env = { V = { env = \"V\" } }") && text.contains("env_file = \"env/files.env\""), "{text}");
    assert_eq!(home.read(".config/mcp-ferry/env/files.env"), "KEY=hunter2\n");
    assert!(!text.contains("hunter2") && !said.stdout.contains("hunter2") && !said.stderr.contains("hunter2"));
    home.does(&["config", "check"]).await;
    let said = home.does(&["import", "--all"]).await;
    assert!(said.stderr.contains("all of them are in the configuration already"), "{}", said.stderr);
    assert_eq!(home.read(".config/mcp-ferry/config.toml"), text, "doing it again changes nothing");
    let said = home.ferry(&["import", "web"]).await;
    assert_eq!(said.status.code(), Some(0), "there is nothing left to choose from: {}", said.stderr);
}

#[tokio::test]
async fn the_schema_is_one_that_editors_read() {
    let said = Home::new().does(&["config", "schema"]).await;
    let schema: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(schema["properties"]["mcps"]["items"]["$ref"], "#/$defs/Mcp");
}
