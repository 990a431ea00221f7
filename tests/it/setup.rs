//! `ferry setup` against a strict stand-in for Cloudflare. What was written is what the stand-in wrote down.

use std::path::Path;

use mcp_ferry::cloudflare::actual::{self, Scope};
use mcp_ferry::cloudflare::apply;
use mcp_ferry::cloudflare::client::Client;
use mcp_ferry::cloudflare::credentials;
use mcp_ferry::cloudflare::desired::{Desired, Login};
use mcp_ferry::cloudflare::plan::{self, Kind, Plan, Verb};
use mcp_ferry::cloudflare::state::State;
use mcp_ferry::cloudflare::teardown;
use mcp_ferry::secret::Secret;
use serde_json::{Value, json};

use crate::support::cloudflare::{FAULTS, Fake, TOKEN, patience};
use crate::support::ferry::Ferry;

const HOST: &str = "bridge.example.com";

/// A machine with a home, and an account.
struct World {
    fake: Fake,
    base: String,
    home: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let (fake, base) = Fake::start().await;
        Self { fake, base, home: tempfile::tempdir().unwrap() }
    }

    fn state_dir(&self) -> std::path::PathBuf {
        self.home.path().join("state")
    }

    fn desired(&self) -> Desired {
        Desired {
            hostname: HOST.to_owned(),
            tunnel_name: "mcp-ferry".to_owned(),
            credentials_file: None,
            cloudflared_dir: self.home.path().join(".cloudflared"),
            emails: ["ada@example.com".to_owned()].into(),
            login: Login::Google { client_id: "gid".to_owned(), client_secret: Some(Secret::new("hunter2")) },
            redirect_uris: ["https://claude.ai/api/mcp/auth_callback".to_owned()].into(),
            session_duration: "168h".to_owned(),
            force: false,
            remove_previous: false,
        }
    }

    /// What `ferry setup` does; or, where it fails, why.
    async fn set_up(&self, desired: &Desired) -> Result<Plan, String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        let client = Client::new(&self.base, Secret::new(TOKEN), patience()).unwrap();
        let mut state = State::load(&self.state_dir()).for_hostname(&desired.hostname);
        let read = actual::read(&client, &Scope::default(), &desired.hostname, &state).await;
        let actual = read.map_err(|error| text(&error))?;
        let plan = plan::plan(desired, &actual, &state, credentials::are_there);
        let applied = apply::apply(&client, desired, &actual, &plan, &mut state, &self.state_dir(), |_| {}).await;
        applied.map_err(|error| text(&error)).map(|()| plan)
    }

    /// The next run has nothing to do, and does nothing.
    async fn is_settled(&self, desired: &Desired) {
        self.fake.writes();
        let plan = self.set_up(desired).await.unwrap();
        assert_eq!(self.fake.writes(), Vec::<String>::new(), "{plan:#?}");
    }

    /// There is one of each, and they belong together.
    fn is_whole(&self) {
        self.fake.with(|account| {
            for (what, all) in [
                ("tunnels", &account.tunnels),
                ("records", &account.records),
                ("providers", &account.providers),
                ("apps", &account.apps),
                ("policies", &account.policies),
            ] {
                assert_eq!(all.len(), 1, "{what}: {all:#?}");
            }
            let tunnel = account.tunnels[0]["id"].as_str().unwrap();
            assert_eq!(account.records[0]["content"], format!("{tunnel}.cfargotunnel.com"));
            assert_eq!(account.apps[0]["policies"][0]["id"], account.policies[0]["id"]);
            assert_eq!(account.apps[0]["oauth_configuration"]["enabled"], true);
            let file = self.home.path().join(".cloudflared").join(format!("{tunnel}.json"));
            assert!(credentials::are_there(&file, tunnel));
        });
    }
}

#[tokio::test]
async fn a_first_run_makes_everything_and_a_second_one_writes_nothing() {
    let world = World::new().await;
    let desired = world.desired();
    world.set_up(&desired).await.unwrap();
    let writes = world.fake.writes();
    assert_eq!(writes.len(), 5, "{writes:?}");
    assert!(writes.last().unwrap().ends_with("/dns_records"), "public before it was protected: {writes:?}");
    world.is_whole();
    world.is_settled(&desired).await;
    let state = State::load(&world.state_dir());
    assert_eq!(state.team_domain.as_deref(), Some("team.cloudflareaccess.com"));
    assert!(state.audience.unwrap().starts_with("aud-of-"));
}

#[tokio::test]
async fn whatever_goes_wrong_at_whichever_request_the_next_run_finishes_it() {
    let world = World::new().await;
    world.set_up(&world.desired()).await.unwrap();
    let requests = world.fake.with(|account| account.journal.len());
    assert!(requests > 12);
    for fault in FAULTS {
        for first in 0..requests {
            // Once: a repetition helps. For good: it does not.
            for count in [1, usize::MAX / 2] {
                let world = World::new().await;
                let desired = world.desired();
                world.fake.with(|account| account.fault = Some((first, count, fault)));
                let outcome = world.set_up(&desired).await;
                assert!(count == 1 || outcome.is_err(), "{fault:?} from request {first} on went unnoticed");
                world.fake.with(|account| account.fault = None);
                world.set_up(&desired).await.unwrap_or_else(|why| panic!("{fault:?} at {first}: {why}"));
                world.is_whole();
                world.is_settled(&desired).await;
            }
        }
    }
}

#[tokio::test]
async fn with_the_state_lost_everything_is_found_by_its_name() {
    let world = World::new().await;
    let desired = Desired { login: Login::OneTimePin, ..world.desired() };
    world.set_up(&desired).await.unwrap();
    State::remove(&world.state_dir()).unwrap();
    world.is_settled(&desired).await;
    world.is_whole();
}

#[tokio::test]
async fn a_secret_is_written_again_only_when_it_is_another() {
    let world = World::new().await;
    let mut desired = world.desired();
    world.set_up(&desired).await.unwrap();
    desired.login = Login::Google { client_id: "gid".to_owned(), client_secret: None };
    world.is_settled(&desired).await;
    desired.login = Login::Google { client_id: "gid".to_owned(), client_secret: Some(Secret::new("hunter3")) };
    world.set_up(&desired).await.unwrap();
    assert_eq!(world.fake.writes().len(), 1);
    world.is_settled(&desired).await;
}

#[tokio::test]
async fn lost_credentials_are_given_again() {
    let world = World::new().await;
    let desired = world.desired();
    world.set_up(&desired).await.unwrap();
    std::fs::remove_dir_all(world.home.path().join(".cloudflared")).unwrap();
    world.is_settled(&desired).await;
    world.is_whole();
}

#[tokio::test]
async fn every_drift_is_shown_by_its_field_and_repaired() {
    type Drift = fn(&mut crate::support::cloudflare::Account);
    let drifts: [(&str, Drift); 9] = [
        ("include", |account| account.policies[0]["include"] = json!([{ "everyone": {} }])),
        ("decision", |account| account.policies[0]["decision"] = json!("bypass")),
        ("oauth_configuration.enabled", |account| account.apps[0]["oauth_configuration"]["enabled"] = json!(false)),
        ("oauth_configuration.dynamic_client_registration.allowed_uris", |account| {
            account.apps[0]["oauth_configuration"]["dynamic_client_registration"]["allowed_uris"] = json!([]);
        }),
        ("allowed_idps", |account| account.apps[0]["allowed_idps"] = json!([])),
        ("session_duration", |account| account.apps[0]["session_duration"] = json!("24h")),
        ("policies", |account| account.apps[0]["policies"] = json!([])),
        ("content", |account| account.records[0]["content"] = json!("elsewhere.example.com")),
        ("proxied", |account| account.records[0]["proxied"] = json!(false)),
    ];
    for (field, drift) in drifts {
        let world = World::new().await;
        let desired = world.desired();
        world.set_up(&desired).await.unwrap();
        world.fake.with(|account| account.apps[0]["logo_url"] = json!("https://logo"));
        world.fake.with(drift);
        world.fake.writes();
        let plan = world.set_up(&desired).await.unwrap();
        let shown = plan.steps.iter().flat_map(|step| &step.differences).map(|difference| difference.field.as_str());
        assert_eq!(shown.collect::<Vec<_>>(), [field]);
        assert_eq!(world.fake.writes().len(), 1, "{field}");
        assert_eq!(world.fake.with(|account| account.apps[0]["logo_url"].clone()), "https://logo");
        world.is_settled(&desired).await;
        world.is_whole();
    }
}

#[tokio::test]
async fn what_is_in_the_way_stops_everything_before_the_first_write() {
    type Seed = fn(&mut crate::support::cloudflare::Account);
    let seeds: [(&str, Seed); 6] = [
        ("has a A record", |account| {
            account
                .records
                .push(json!({ "id": "x", "name": HOST, "type": "A", "content": "192.0.2.1", "proxied": true }));
        }),
        ("has a CNAME record", |account| {
            account
                .records
                .push(json!({ "id": "x", "name": HOST, "type": "CNAME", "content": "a.example", "proxied": true }));
        }),
        ("is on bridge.example.com already", |account| {
            account.apps.push(json!({ "id": "x", "name": "theirs", "type": "self_hosted", "domain": HOST }));
        }),
        ("is on bridge.example.com/bear, where", |account| {
            account
                .apps
                .push(json!({ "id": "x", "name": "theirs", "type": "self_hosted", "domain": format!("{HOST}/bear") }));
        }),
        ("Zero Trust is not set up", |account| account.has_no_zero_trust = true),
        ("the zone example.com is pending", |account| account.zone_status = Some("pending")),
    ];
    for (text, seed) in seeds {
        let world = World::new().await;
        world.fake.with(seed);
        let why = world.set_up(&world.desired()).await.unwrap_err();
        assert!(why.contains(text), "{text}: {why}");
        assert_eq!(world.fake.writes(), Vec::<String>::new(), "{text}");
    }
}

#[tokio::test]
async fn a_missing_permission_is_named_before_the_first_write() {
    for (part, permission) in
        [("cfd_tunnel", "Cloudflare Tunnel"), ("dns_records", "DNS"), ("access/apps", "Apps and Policies")]
    {
        let world = World::new().await;
        world.fake.with(|account| account.forbidden.push(part));
        let why = world.set_up(&world.desired()).await.unwrap_err();
        assert!(why.contains(permission), "{why}");
        assert_eq!(world.fake.writes(), Vec::<String>::new());
    }
}

/// What the requests of mcp-ferry 0.3.1 leave behind, its last PUT of the application included.
fn python_leftovers(account: &mut crate::support::cloudflare::Account, is_served: bool) {
    let status = if is_served { "healthy" } else { "down" };
    account.tunnels.push(
        json!({ "id": "old", "name": "mcp-ferry", "config_src": "cloudflare", "status": status, "deleted_at": null }),
    );
    account.records.push(json!({
        "id": "r", "name": HOST, "type": "CNAME", "content": "old.cfargotunnel.com", "ttl": 1, "proxied": true,
        "comment": "mcp-ferry: tunnel target",
    }));
    account
        .providers
        .push(json!({ "id": "g", "name": "Google (mcp-ferry)", "type": "google", "config": { "client_id": "gid" } }));
    let policy = json!({
        "id": "p", "name": "mcp-ferry allow-list", "decision": "allow", "reusable": true,
        "include": [{ "email": { "email": "ada@example.com" } }],
    });
    account.policies.push(policy.clone());
    account.apps.push(json!({
        "id": "a", "aud": "aud-of-a", "type": "mcp", "name": format!("mcp-ferry ({HOST})"),
        "destinations": [{ "type": "public", "uri": HOST }], "policies": [policy],
    }));
}

#[tokio::test]
async fn what_the_python_tool_made_is_adopted_while_its_tunnel_serves() {
    let world = World::new().await;
    let desired = world.desired();
    world.fake.with(|account| python_leftovers(account, true));
    let plan = world.set_up(&desired).await.unwrap();
    assert_eq!(plan.step(Kind::Record).unwrap().verb, Verb::Wait);
    assert_eq!(world.fake.with(|account| account.records[0]["content"].clone()), "old.cfargotunnel.com");
    world.is_settled(&desired).await;

    // ferry was started, the Python tool is still there.
    world.fake.with(|account| account.tunnels[1]["status"] = json!("healthy"));
    world.set_up(&desired).await.unwrap();
    assert_eq!(world.fake.writes().len(), 1);
    world.is_settled(&desired).await;

    // It was stopped.
    world.fake.with(|account| account.tunnels[0]["status"] = json!("down"));
    world.set_up(&desired).await.unwrap();
    assert_eq!(world.fake.writes(), ["DELETE /accounts/acc1/cfd_tunnel/old"]);
    world.is_settled(&desired).await;
    world.fake.with(|account| {
        assert_eq!(
            (account.apps.len(), &account.apps[0]["type"], &account.apps[0]["id"]),
            (1, &json!("mcp"), &json!("a"))
        );
        assert_eq!(account.policies.len(), 2, "the shared policy belongs to other deployments as well");
    });
}

#[tokio::test]
async fn a_stopped_python_tool_is_replaced_in_one_run() {
    let world = World::new().await;
    let desired = world.desired();
    world.fake.with(|account| python_leftovers(account, false));
    world.set_up(&desired).await.unwrap();
    world.fake.with(|account| account.policies.retain(|policy| policy["id"] != "p"));
    world.is_whole();
    world.is_settled(&desired).await;
}

#[tokio::test]
async fn teardown_removes_what_was_made_and_nothing_else() {
    let world = World::new().await;
    world.fake.with(|account| {
        account.records.push(json!({ "id": "x", "name": "www.example.com", "type": "A", "content": "192.0.2.1" }));
        account.providers.push(json!({ "id": "pin", "name": "PIN", "type": "onetimepin", "config": {} }));
    });
    let desired = Desired { login: Login::OneTimePin, ..world.desired() };
    world.set_up(&desired).await.unwrap();
    let client = Client::new(&world.base, Secret::new(TOKEN), patience()).unwrap();
    let mut state = State::load(&world.state_dir());
    let plan = teardown::plan(&state);
    teardown::apply(&client, &plan, &mut state, &world.state_dir(), |_| {}).await.unwrap();
    world.fake.with(|account| {
        let left = |all: &[Value]| all.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(left(&account.records), ["x"]);
        assert_eq!(left(&account.providers), ["pin"]);
        assert!(account.tunnels.is_empty() && account.apps.is_empty() && account.policies.is_empty());
    });
    assert!(!world.state_dir().join("cloudflare.json").exists());
    assert_eq!(std::fs::read_dir(world.home.path().join(".cloudflared")).unwrap().count(), 0);
}

#[tokio::test]
async fn teardown_leaves_a_login_that_another_application_relies_on() {
    for (idps, is_left) in [(json!([]), true), (json!(["other"]), false)] {
        let world = World::new().await;
        world.set_up(&world.desired()).await.unwrap();
        world.fake.with(|account| account.apps.push(json!({ "id": "x", "name": "theirs", "allowed_idps": idps })));
        let client = Client::new(&world.base, Secret::new(TOKEN), patience()).unwrap();
        let mut state = State::load(&world.state_dir());
        let plan = teardown::plan(&state);
        teardown::apply(&client, &plan, &mut state, &world.state_dir(), |_| {}).await.unwrap();
        assert_eq!(world.fake.with(|account| account.providers.len()), usize::from(is_left), "{idps}");
    }
}

#[tokio::test]
async fn another_hostname_gets_its_own_and_the_first_goes_when_asked() {
    let world = World::new().await;
    world.set_up(&world.desired()).await.unwrap();
    let moved = Desired { hostname: "other.example.com".to_owned(), ..world.desired() };
    let plan = world.set_up(&moved).await.unwrap();
    assert!(plan.warnings.iter().any(|warning| warning.contains("--remove-previous")), "{:?}", plan.warnings);
    assert_eq!(
        world.fake.with(|account| (account.tunnels.len(), account.apps.len(), account.records.len())),
        (1, 2, 2)
    );
    world.is_settled(&moved).await;
    world.set_up(&Desired { remove_previous: true, ..moved.clone() }).await.unwrap();
    assert_eq!(world.fake.writes().len(), 3);
    world.is_whole();
    world.is_settled(&moved).await;
}

const CONFIG: &str = "[bridge]\nhostname = \"bridge.example.com\" # mine\n\n[[mcps]]\nname = \"bear\"\npath = \"/bear\"\ncommand = \"cat\"\n";

fn write_config(home: &Path) -> String {
    let path = home.join("config.toml");
    std::fs::write(&path, CONFIG).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_command_makes_it_and_says_where_the_servers_are() {
    let world = World::new().await;
    let config = write_config(world.home.path());
    let (home, state) = (world.home.path().to_str().unwrap(), world.state_dir());
    let variables = [
        ("HOME", home),
        ("FERRY_STATE_DIR", state.to_str().unwrap()),
        ("FERRY_CONFIG", &config),
        ("CLOUDFLARE_BASE_URL", &world.base),
        ("CLOUDFLARE_API_TOKEN", TOKEN),
    ];
    let said = Ferry::run(&["setup"], &variables[..4]).ended().await;
    assert_eq!(said.status.code(), Some(2));
    assert!(said.stderr.contains("--email") && said.stderr.contains("CLOUDFLARE_API_TOKEN"), "{}", said.stderr);
    let said = Ferry::run(&["setup", "--email", "ada@example.com"], &variables).ended().await;
    assert_eq!(said.status.code(), Some(2), "nobody was asked");
    let said = Ferry::run(&["setup", "--email", "ada@example.com", "--plan"], &variables).ended().await;
    assert_eq!(said.status.code(), Some(0), "{}", said.stderr);
    assert_eq!(world.fake.writes(), Vec::<String>::new());
    let said = Ferry::run(&["setup", "--email", "ada@example.com,Bo@example.com", "--yes"], &variables).ended().await;
    assert_eq!(said.status.code(), Some(0), "{}", said.stderr);
    assert!(said.stdout.contains("https://bridge.example.com/bear"), "{}", said.stdout);
    assert!(!format!("{}{}", said.stdout, said.stderr).contains(TOKEN));
    assert_eq!(world.fake.writes().len(), 5);
    world.is_whole();
    let written = std::fs::read_to_string(&config).unwrap();
    assert!(
        written.starts_with(CONFIG) && written.contains("credentials_file = \"~/.cloudflared/tunnel-"),
        "{written}"
    );
    let said = Ferry::run(&["setup", "--email", "bo@example.com,ada@example.com"], &variables).ended().await;
    assert_eq!(said.status.code(), Some(0), "{}", said.stderr);
    assert_eq!(world.fake.writes(), Vec::<String>::new());
    let said = Ferry::run(&["teardown", "--yes"], &variables).ended().await;
    assert_eq!(said.status.code(), Some(0), "{}", said.stderr);
    assert!(world.fake.with(|account| account.apps.is_empty()));
}
