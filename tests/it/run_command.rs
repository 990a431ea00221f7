//! `ferry run`, from the configuration to the last process.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::ferry::{none_left, processes_with};
use crate::support::http::{Client, body, outcome};
use crate::support::place::{Place, answer, call, health, health_url, marked, url};
use crate::support::until;

#[tokio::test]
async fn sessions_outlive_ferry_and_a_broken_server_is_alone() {
    let place = Place::new(
        "[bridge]\nlocal_port = 0\n\n\
         [[mcps]]\nname = 'one'\npath = '/one'\ncommand = 'SERVER ferry-test-run'\nenv = { ANSWER = 'first' }\n\
         [[mcps]]\nname = 'two'\npath = '/'\nargs = ['SERVER', 'ferry-test-run']\nenv_file = 'two.env'\n\
         [[mcps]]\nname = 'broken'\npath = '/broken'\ncommand = 'x'\nallow_tools = ['a']\n\
         [[mcps]]\nname = 'off'\npath = '/off'\ncommand = 'x'\nenabled = false\n",
    );
    place.write("two.env", "ANSWER=\"the second\"\n");
    let mut ferry = place.run();
    let (one, two) = (url(&mut ferry, "one").await, url(&mut ferry, "two").await);
    let first = Client::new(&one).initialize(json!({})).await;
    let second = Client::new(&two).initialize(json!({})).await;
    assert_eq!((answer(&first).await.as_str(), answer(&second).await.as_str()), ("first", "the second"));
    let (status, report) = health(&one).await;
    assert_eq!(status, 503, "one of three is down");
    assert_eq!(
        report,
        json!({"status": "degraded", "tunnel": "off", "mcps": {"broken": "down", "one": "ok", "two": "ok"}})
    );
    let said = ferry.line_with("  broken ").await;
    assert!(said.contains("line 18: `allow_tools` is not in this version"), "{said}");
    let log = place.path().join("kept-state/logs/one.log");
    if cfg!(target_os = "linux") {
        until(|| fs::read_to_string(&log).is_ok_and(|log| log.contains("started, pid"))).await;
    }

    // A second one on the same state is told so.
    let said = place.run().ended().await;
    assert_eq!(said.status.code(), Some(75), "{}", said.stderr);
    assert!(said.stderr.contains(&format!("another ferry (pid {}) is running", ferry.pid())), "{}", said.stderr);

    ferry.signal(Signal::SIGTERM);
    let said = ferry.ended().await;
    assert_eq!(said.status.code(), Some(0), "{}", said.stderr);
    none_left(&marked("ferry-test-run")).await;
    let key = place.path().join("kept-state/session.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);

    // Another process at another port; the client knows its session id and nothing else.
    let mut ferry = place.run();
    let mut client = Client::new(&url(&mut ferry, "one").await);
    client.headers = first.headers.clone();
    assert_eq!(answer(&client).await, "first");
    // A session belongs to its endpoint.
    let mut stranger = Client::new(&url(&mut ferry, "two").await);
    stranger.headers = first.headers.clone();
    assert_eq!(stranger.post(call()).await.status(), 404);
    ferry.signal(Signal::SIGTERM);
    assert_eq!(ferry.ended().await.status.code(), Some(0));
    none_left(&marked("ferry-test-run")).await;
}

#[tokio::test]
async fn a_secret_that_comes_late_costs_its_server_a_back_off() {
    let place = Place::new(
        "[bridge]\nlocal_port = 0\nenv_files = ['shared.env']\n\
         [[mcps]]\nname = 'late'\npath = '/late'\ncommand = 'SERVER'\nenv = { ANSWER = { file = 'secret' } }\n\
         [[mcps]]\nname = 'shared'\npath = '/shared'\ncommand = 'SERVER'\ninherit_env = false\nenv = { ANSWER = { env = 'FROM_FILE' } }\n\
         [[mcps]]\nname = 'asked'\npath = '/asked'\ncommand = 'SERVER'\nenv = { ANSWER = { command = \"sh -c 'echo from a command'\" } }\n",
    );
    place.write("shared.env", "FROM_FILE=from-a-file\n");
    let mut ferry = place.run();
    let late = url(&mut ferry, "late").await;
    for (name, expected) in [("shared", "from-a-file"), ("asked", "from a command")] {
        let client = Client::new(&url(&mut ferry, name).await).initialize(json!({})).await;
        assert_eq!(answer(&client).await, expected);
    }
    let said = ferry.logs("its variables cannot be had").await;
    assert!(said.contains("`ANSWER`: ") && said.contains("secret cannot be read: No such file"), "{said}");
    assert_eq!(health(&late).await.1["mcps"], json!({"asked": "ok", "late": "down", "shared": "ok"}));
    place.write("secret", "hunter2\n");
    // A request ends the wait once; what comes after that tries again by itself.
    let client = Client::new(&late);
    let mut session = None;
    for _ in 0..100 {
        let info = json!({"name": "test", "version": "1"});
        let params = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info});
        let response = client.post(json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})).await;
        if response.status() == 200 {
            session = Some(response.headers()["mcp-session-id"].to_str().unwrap().to_owned());
            break;
        }
        assert_eq!(response.status(), 503);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let client = client.with("mcp-session-id", &session.expect("it starts once its secret is there"));
    assert_eq!(answer(&client).await, "hunter2");
    ferry.signal(Signal::SIGTERM);
    let said = ferry.ended().await;
    assert!(!said.stderr.contains("hunter2") && !said.stdout.contains("hunter2"), "{}", said.stderr);
}

#[tokio::test]
async fn a_secret_that_never_comes_does_not_hold_up_the_end() {
    let place = Place::new(
        "[bridge]\nlocal_port = 0\n[[mcps]]\nname = 'asks'\npath = '/asks'\ncommand = 'SERVER'\nenv = { A = { command = 'sleep 7' } }\n",
    );
    let mut ferry = place.run();
    url(&mut ferry, "asks").await;
    until(|| !processes_with(&marked("sleep 7")).is_empty()).await;
    let asked = std::time::Instant::now();
    ferry.signal(Signal::SIGTERM);
    assert_eq!(ferry.ended().await.status.code(), Some(0));
    assert!(asked.elapsed() < std::time::Duration::from_secs(5), "{:?}", asked.elapsed());
    none_left(&marked("sleep 7")).await;
}

#[tokio::test]
async fn other_machines_need_the_token_of_the_configuration() {
    let config = "[bridge]\nlocal_listen = '0.0.0.0:0'\nlocal_token = { env = 'DOOR' }\n\
                  [[mcps]]\nname = 'one'\npath = '/one'\ncommand = 'SERVER'\neager = false\n";
    let place = Place::new(config);
    let said = place.run().ended().await;
    assert_eq!(said.status.code(), Some(1), "it may be there at the next start: {}", said.stderr);
    assert!(said.stderr.contains("`local_token` cannot be had: the variable `DOOR` is not set"), "{}", said.stderr);
    let mut ferry = place.run_with(&[("DOOR", "hunter2")]);
    let port = url(&mut ferry, "one").await.split(':').nth(2).unwrap().split('/').next().unwrap().to_owned();
    let base = format!("http://127.0.0.1:{port}");
    let client = Client::new(&format!("{base}/one"));
    assert_eq!(client.post(call()).await.status(), 401);
    let probe = Client::new(&format!("{base}/healthz"));
    assert_eq!(outcome(probe.send(reqwest::Method::GET, "").await).await, (200, json!({"status": "ok"})));
    let admitted = probe.with("authorization", "Bearer hunter2").send(reqwest::Method::GET, "").await;
    assert_eq!(body(admitted).await["mcps"], json!({"one": "ok"}), "one that rests is well");
    client.with("authorization", "Bearer hunter2").initialize(json!({})).await;
    assert!(!ferry.stderr().contains("hunter2") && !ferry.stdout().contains("hunter2"));
    let without = Place::new(&config.replace("local_token = { env = 'DOOR' }\n", ""));
    let said = without.run().ended().await;
    assert_eq!(said.status.code(), Some(78), "{}", said.stderr);
    assert!(said.stderr.contains("config.toml:2: other machines can reach 0.0.0.0:0"), "{}", said.stderr);
}

#[tokio::test]
async fn a_page_from_elsewhere_learns_nothing_of_what_runs_here() {
    let place = Place::new("[bridge]\nlocal_port = 0\n[[mcps]]\nname = 'one'\npath = '/one'\ncommand = 'SERVER'\n");
    let mut ferry = place.run();
    let client = Client::new(&health_url(&url(&mut ferry, "one").await));
    for (header, value) in [("host", "evil.example.com"), ("origin", "https://evil.example.com")] {
        let response = client.with(header, value).send(reqwest::Method::GET, "").await;
        assert_eq!((response.status().as_u16(), response.text().await.unwrap().as_str()), (403, ""), "{header}");
    }
    assert_eq!(client.post(json!({})).await.status(), 405);
}
