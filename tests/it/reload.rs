//! A configuration that changes while ferry runs.

use std::fs;

use nix::sys::signal::Signal;

use serde_json::{Value, json};

use crate::support::http::{Client, body};
use crate::support::place::{Place, answer, call, health_url, url};
use crate::support::{until, within};

fn block(name: &str, answer: &str) -> String {
    format!(
        "[[mcps]]\nname = '{name}'\npath = '/{name}'\ncommand = 'SERVER ferry-test-run'\nenv = {{ ANSWER = '{answer}' }}\n"
    )
}

const HEAD: &str = "[bridge]\nlocal_port = 0\n";

fn server<'s>(status: &'s Value, name: &str) -> &'s Value {
    let servers = status["servers"].as_array().unwrap();
    servers.iter().find(|server| server["name"] == name).unwrap_or_else(|| panic!("no {name} in {status}"))
}

fn pid(status: &Value, name: &str) -> i64 {
    server(status, name)["processes"][0]["pid"].as_i64().unwrap_or_else(|| panic!("{status}"))
}

#[tokio::test]
async fn a_reload_touches_what_has_changed_and_nothing_else() {
    let place =
        Place::new(&[HEAD, &block("stays", "stays"), &block("changes", "before"), &block("goes", "x")].concat());
    let mut ferry = place.run();
    let stays = Client::new(&url(&mut ferry, "stays").await).initialize(json!({})).await;
    let changes = Client::new(&url(&mut ferry, "changes").await).initialize(json!({})).await;
    let goes = Client::new(&url(&mut ferry, "goes").await).initialize(json!({})).await;
    assert_eq!(answer(&changes).await, "before");
    let mut stream = stays.get().await;
    assert!(stream.block().await.is_some(), "it is open");
    // A call in flight on the one that stays: its server waits for the line that lets it go on.
    let gate = place.path().join("gate");
    let waiting = tokio::spawn(gated(stays.clone(), gate.to_str().unwrap().to_owned()));
    let before = place.status().await;
    until(|| gate.with_extension("waiting").exists()).await;

    place.configure(
        &[
            HEAD,
            "allowed_origins = ['https://x.example.com']\n",
            &block("changes", "after"),
            &block("comes", "new"),
            &block("stays", "stays"),
        ]
        .concat(),
    );
    let said = place.says(&["reload"]).await;
    assert_eq!(said.status.code(), Some(0), "{}{}", said.stdout, said.stderr);
    for line in [
        "/comes, ready\n",
        "  restarted  changes, for env: ready\n",
        "  stopped    goes\n",
        "  at once    bridge.allowed_origins\n",
        "  untouched  stays\n",
    ] {
        assert!(said.stdout.contains(line), "{line} is not in {}", said.stdout);
    }

    let after = place.status().await;
    assert_eq!(pid(&after, "stays"), pid(&before, "stays"));
    assert_ne!(pid(&after, "changes"), pid(&before, "changes"));
    assert_eq!(
        (server(&after, "stays")["in_flight"].as_u64(), server(&after, "stays")["sessions"].as_u64()),
        (Some(1), Some(1))
    );
    let names: Vec<&str> = after["servers"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["changes", "comes", "stays"], "the order of the file");
    fs::write(&gate, "").unwrap();
    assert_eq!(waiting.await.unwrap(), "stays", "the call went on across the reload");
    // The session of the one that changed is the same to its client, and so is the stream of the one that did not.
    assert_eq!(answer(&changes).await, "after");
    assert_eq!(goes.post(call()).await.status(), 404);
    let comes = Client::new(&url(&mut ferry, "stays").await.replace("/stays", "/comes")).initialize(json!({})).await;
    assert_eq!(answer(&comes).await, "new");
    let metrics = Client::new(&health_url(&url(&mut ferry, "stays").await).replace("/healthz", "/metrics"));
    let metrics = metrics.send(reqwest::Method::GET, "").await.text().await.unwrap();
    let counted = "ferry_requests_total{server=\"changes\",method=\"tools/call\",outcome=\"ok\"} 2\n";
    assert!(metrics.contains(counted), "the counters go on: {metrics}");
    let page = stays.with("origin", "https://x.example.com").post(call()).await;
    assert_eq!(page.status(), 200);
    assert!(server(&place.status().await, "stays")["clients"][0]["streams"] == 1);

    let said = place.says(&["reload"]).await;
    assert!(said.stdout.contains("nothing that matters here has changed"), "{}", said.stdout);
}

#[tokio::test]
async fn a_file_with_a_fault_changes_nothing_and_says_why() {
    let place = Place::new(&[HEAD, &block("one", "1"), &block("two", "2")].concat());
    let mut ferry = place.run_as_service();
    let one = Client::new(&url(&mut ferry, "one").await).initialize(json!({})).await;
    let before = place.status().await;
    // Only one of three changes is wrong.
    place.configure(
        &[
            HEAD,
            &block("one", "changed"),
            &block("three", "3"),
            "[[mcps]]\nname = 'two'\npath = '/two'\ncommand = 'x'\ncomand = 'x'\n",
        ]
        .concat(),
    );
    let said = place.says(&["reload"]).await;
    let checked = place.says(&["config", "check"]).await;
    assert_eq!((said.status.code(), said.stdout.as_str()), (Some(78), ""));
    assert!(said.stderr.contains("unknown key `comand` in `[[mcps]]`; did you mean `command`?"), "{}", said.stderr);
    assert!(said.stderr.contains("config.toml:17: "), "{}", said.stderr);
    assert_eq!(said.stderr, checked.stderr, "in the same words");
    ferry.signal(Signal::SIGHUP);
    let logged = ferry.logs("asks=Reload").await;
    assert!(logged.contains("SIGHUP"), "{logged}");
    until(|| ferry.stderr().matches("was not reloaded, and nothing has changed").count() == 2).await;
    assert_eq!((pid(&place.status().await, "one"), answer(&one).await.as_str()), (pid(&before, "one"), "1"));
    assert_eq!(pid(&place.status().await, "two"), pid(&before, "two"));

    // Repaired, and the signal does what the command does.
    place.configure(&[HEAD, &block("one", "changed"), &block("three", "3")].concat());
    ferry.signal(Signal::SIGHUP);
    let logged = ferry.logs("reloaded the configuration").await;
    assert!(logged.contains(r#"started=["three"] restarted=["one"] stopped=["two"]"#), "{logged}");
    assert_eq!(answer(&one).await, "changed");
    assert_eq!(place.says(&["status", "--quiet"]).await.status.code(), Some(0));
}

#[tokio::test]
async fn a_call_in_flight_at_a_server_that_changes_is_finished_first() {
    let place = Place::new(&[HEAD, &block("one", "before")].concat());
    let mut ferry = place.run();
    let one = Client::new(&url(&mut ferry, "one").await).initialize(json!({})).await;
    let gate = place.path().join("gate");
    let waiting = tokio::spawn(gated(one.clone(), gate.to_str().unwrap().to_owned()));
    until(|| gate.with_extension("waiting").exists()).await;
    place.configure(&[HEAD, "limits = { drain = 60 }\n", &block("one", "after")].concat());
    let mut reload = place.command(&["reload"], &[]);
    ferry.logs("reloaded the configuration").await;
    // What comes now waits for the new server, which waits for the end of the old one.
    let next = tokio::spawn({
        let one = one.clone();
        async move { answer(&one).await }
    });
    until_status(&place, |status| server(status, "one")["state"] == "starting").await;
    assert!(!waiting.is_finished() && !next.is_finished());
    fs::write(&gate, "").unwrap();
    assert_eq!(waiting.await.unwrap(), "before");
    assert_eq!(next.await.unwrap(), "after");
    let said = reload.ended().await;
    assert_eq!(said.status.code(), Some(0), "{}{}", said.stdout, said.stderr);
    // One whose end takes too long is not waited for.
    place.configure(&[HEAD, "limits = { drain = 0.2 }\n", &block("one", "again")].concat());
    fs::remove_file(&gate).unwrap();
    let cut = tokio::spawn(async move { one.post(gated_call(gate.to_str().unwrap())).await });
    until_status(&place, |status| server(status, "one")["in_flight"] == 1).await;
    assert_eq!(place.says(&["reload"]).await.status.code(), Some(0));
    let cut = body(cut.await.unwrap()).await;
    assert_eq!(cut["error"]["data"]["ferry"]["reason"], "upstream_exited", "{cut}");
}

#[tokio::test]
async fn a_file_of_variables_that_says_something_else_restarts_its_server_alone() {
    let with_file =
        "[[mcps]]\nname = 'file'\npath = '/file'\ncommand = 'SERVER ferry-test-run'\nenv_file = 'file.env'\n";
    let place = Place::new(&[HEAD, with_file, &block("other", "x")].concat());
    place.write("file.env", "ANSWER=before\n");
    let mut ferry = place.run();
    let file = Client::new(&url(&mut ferry, "file").await).initialize(json!({})).await;
    assert_eq!(answer(&file).await, "before");
    let before = place.status().await;
    place.write("file.env", "ANSWER=after\n");
    let said = place.says(&["reload"]).await;
    assert!(said.stdout.contains("restarted  file, for the values of its variables: ready"), "{}", said.stdout);
    assert_eq!(answer(&file).await, "after");
    assert_eq!(pid(&place.status().await, "other"), pid(&before, "other"));
}

#[tokio::test]
async fn what_needs_a_start_of_ferry_is_named_until_it_has_had_one() {
    let place = Place::new(&[HEAD, &block("one", "1")].concat());
    let mut ferry = place.run();
    let address = url(&mut ferry, "one").await;
    place.configure(&["[bridge]\nlocal_port = 9999\nshutdown_timeout = 8\n", &block("one", "1")].concat());
    let said = place.says(&["reload"]).await;
    assert!(said.stdout.contains("waits      bridge.local_port, bridge.shutdown_timeout, until"), "{}", said.stdout);
    let status = place.status().await;
    assert_eq!(status["waiting"], json!(["bridge.local_port", "bridge.shutdown_timeout"]));
    assert!(address.starts_with(status["local"].as_str().unwrap()), "it listens where it did");
    place.configure(&[HEAD, &block("one", "1")].concat());
    place.says(&["reload"]).await;
    assert_eq!(place.status().await["waiting"], json!([]));
}

#[tokio::test]
async fn add_and_remove_take_effect_at_once() {
    let place = Place::new(&[HEAD, &block("one", "1")].concat());
    let mut ferry = place.run();
    let one = url(&mut ferry, "one").await;
    let program = place.path().join("server");
    let said = place.says(&["add", "two", "--env", "ANSWER=two", "--", program.to_str().unwrap()]).await;
    assert_eq!(said.status.code(), Some(0), "{}", said.stderr);
    let two = one.replace("/one", "/two");
    assert!(said.stdout.contains(&format!("  started    two at {two}, ready\n  untouched  one\n")), "{}", said.stdout);
    let client = Client::new(&two).initialize(json!({})).await;
    assert_eq!(answer(&client).await, "two");
    let said = place.says(&["add", "three", "--", "no-such-program-anywhere"]).await;
    assert!(said.stdout.contains("failed: command `no-such-program-anywhere` was not found"), "{}", said.stdout);
    assert_eq!(place.says(&["status", "--quiet"]).await.status.code(), Some(1));
    place.says(&["remove", "three"]).await;
    let said = place.says(&["remove", "two"]).await;
    assert!(said.stdout.contains("  stopped    two\n"), "{}", said.stdout);
    assert_eq!(client.post(call()).await.status(), 404);
    // Somebody else's file is not this ferry's.
    place.write("other.toml", "");
    let other = place.path().join("other.toml");
    let said = place.says(&["add", "x", "--config", other.to_str().unwrap(), "--", "true"]).await;
    assert!(said.stderr.contains("the ferry that runs has another configuration"), "{}", said.stderr);
    // With a fault elsewhere the file is changed, and that is all.
    let text = fs::read_to_string(place.path().join("config.toml")).unwrap();
    place.write("config.toml", &format!("{text}\n[[mcps]]\nname = 'odd'\npath = 'x'\ncommand = 'x'\n"));
    let said = place.says(&["add", "four", "--", "true"]).await;
    assert_eq!(said.status.code(), Some(78));
    assert!(said.stderr.contains("the ferry that runs goes on as before"), "{}", said.stderr);
    assert!(fs::read_to_string(place.path().join("config.toml")).unwrap().contains("name = \"four\""));
    ferry.signal(Signal::SIGTERM);
    ferry.ended().await;
    let said = place.says(&["remove", "four"]).await;
    assert_eq!((said.status.code(), said.stderr.as_str()), (Some(0), ""), "nobody runs, so there is nothing to say");
}

/// Waits until `ferry status` says so.
async fn until_status(place: &Place, mut fact: impl FnMut(&Value) -> bool) {
    within(async { while !fact(&place.status().await) {} }).await;
}

fn gated_call(gate: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "x", "arguments": {"gate": gate}}})
}

/// A call whose server waits for a file to be there.
async fn gated(client: Client, gate: String) -> String {
    let answer = body(client.post(gated_call(&gate)).await).await;
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[tokio::test]
async fn a_reload_tries_again_what_was_down_and_starts_what_is_to_be_there_now() {
    let lazy = "[[mcps]]\nname = 'lazy'\npath = '/lazy'\ncommand = 'SERVER ferry-test-run'\neager = false\n";
    let down = "[[mcps]]\nname = 'down'\npath = '/down'\ncommand = 'PLACE/missing'\n";
    let place = Place::new("");
    let down = down.replace("PLACE", place.path().to_str().unwrap());
    place.configure(&[HEAD, lazy, &down].concat());
    let mut ferry = place.run();
    url(&mut ferry, "down").await;
    until_status(&place, |status| server(status, "down")["state"] == "failed").await;
    fs::copy(place.path().join("server"), place.path().join("missing")).unwrap();
    let said = place.says(&["reload"]).await;
    assert!(said.stdout.contains("nothing that matters here has changed"), "{}", said.stdout);
    until_status(&place, |status| server(status, "down")["state"] == "ready").await;
    assert_eq!(server(&place.status().await, "lazy")["state"], "resting", "nobody asked for it");
    place.configure(&[HEAD, &lazy.replace("false", "true"), &down].concat());
    let said = place.says(&["reload"]).await;
    assert!(said.stdout.contains("  at once    lazy: eager\n"), "{}", said.stdout);
    until_status(&place, |status| server(status, "lazy")["state"] == "ready").await;
}
