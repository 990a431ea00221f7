//! The commands that talk to the ferry that runs, and what it shows of itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;

use crate::support::http::Client;
use crate::support::place::{Place, answer, call, url};
use crate::support::until;

const TWO: &str = "[bridge]\nlocal_port = 0\n\
                   [[mcps]]\nname = 'bear'\npath = '/bear'\ncommand = 'SERVER ferry-test-run'\nenv = { ANSWER = 'x' }\n\
                   [[mcps]]\nname = 'lazy'\npath = '/lazy'\ncommand = 'SERVER ferry-test-run'\neager = false\n";

#[tokio::test]
async fn status_tells_whether_a_ferry_runs_and_how_it_is() {
    let place = Place::new(TWO);
    for command in [&["status"][..], &["reload"], &["restart", "bear"]] {
        let said = place.says(command).await;
        assert_eq!(said.status.code(), Some(1));
        assert!(said.stderr.starts_with("error: no ferry is running"), "{}", said.stderr);
        assert!(said.stderr.contains("hint: `ferry run` starts one"), "{}", said.stderr);
    }
    let said = place.says(&["status", "--quiet"]).await;
    assert_eq!((said.status.code(), said.stdout + &said.stderr), (Some(1), String::new()));

    let mut ferry = place.run();
    let bear = Client::new(&url(&mut ferry, "bear").await).initialize(json!({})).await;
    answer(&bear).await;
    let status = place.status().await;
    assert_eq!(status["pid"].as_i64(), Some(ferry.pid().into()));
    assert_eq!((&status["healthy"], &status["tunnel"]["state"]), (&json!(true), &json!("off")));
    let [one, lazy] = &status["servers"].as_array().unwrap()[..] else { panic!("{status}") };
    assert_eq!((&one["state"], &one["era"], &one["server"]), (&json!("ready"), &json!("legacy"), &json!("shell 1")));
    let clients = json!([{"client": "test 1", "identity": "local", "sessions": 1, "streams": 0}]);
    assert_eq!(one["clients"], clients);
    assert!(one["processes"][0]["memory"].as_u64().unwrap() > 100_000, "{one}");
    assert_eq!((&lazy["state"], &lazy["healthy"], &lazy["processes"]), (&json!("resting"), &json!(true), &json!([])));
    let said = place.says(&["status"]).await;
    assert!(said.stdout.contains("all is well") && said.stdout.contains("  bear: test 1\n"), "{}", said.stdout);
    assert!(!said.stdout.contains('\x1b'), "no colour where no terminal is: {:?}", said.stdout);

    // A broken server is shown with its reason, and the exit code says that not all is well.
    let socket = place.path().join("kept-state/control.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    ferry.signal(Signal::SIGTERM);
    assert_eq!(ferry.ended().await.status.code(), Some(0));
    assert!(!socket.exists(), "it goes with ferry");
    place.configure(&TWO.replace("eager = false", "egaer = false"));
    let mut ferry = place.run();
    url(&mut ferry, "bear").await;
    until(|| ferry.stderr().contains("the server is ready")).await;
    let said = place.says(&["status"]).await;
    assert_eq!(said.status.code(), Some(1));
    assert!(said.stdout.contains("! lazy: line 12: unknown key `egaer`"), "{}", said.stdout);
}

#[tokio::test]
async fn the_socket_of_a_ferry_that_was_killed_is_in_nobodys_way() {
    let place = Place::new(TWO);
    let mut ferry = place.run();
    url(&mut ferry, "bear").await;
    ferry.signal(Signal::SIGKILL);
    ferry.ended().await;
    let socket = place.path().join("kept-state/control.sock");
    assert!(socket.exists() && UnixStream::connect(&socket).is_err());
    assert_eq!(place.says(&["status"]).await.status.code(), Some(1));
    let mut ferry = place.run();
    url(&mut ferry, "bear").await;
    assert_eq!(place.status().await["pid"].as_i64(), Some(ferry.pid().into()));
}

#[tokio::test]
async fn a_directory_that_can_hold_no_socket_is_a_fault_of_the_configuration() {
    let place = Place::new(TWO);
    place.write("file", "");
    let (long, file) = (place.path().join("x".repeat(100)), place.path().join("file"));
    for (directory, said) in [(&long, "is too long for a socket"), (&file, "cannot be made")] {
        let mut ferry = place.run_with(&[("FERRY_RUNTIME_DIR", directory.to_str().unwrap())]);
        let ended = ferry.ended().await;
        assert_eq!(ended.status.code(), Some(78), "{}", ended.stderr);
        assert!(ended.stderr.contains(said) && ended.stderr.contains("`FERRY_RUNTIME_DIR`"), "{}", ended.stderr);
    }
    // Two ferries do not share one.
    let directory = place.path().join("run");
    let variables = [("FERRY_RUNTIME_DIR", directory.to_str().unwrap())];
    let mut first = place.run_with(&variables);
    url(&mut first, "bear").await;
    let other = place.path().join("other-state");
    let all = [variables[0], ("FERRY_STATE_DIR", other.to_str().unwrap())];
    let ended = place.run_with(&all).ended().await;
    assert_eq!(ended.status.code(), Some(75), "{}", ended.stderr);
    assert!(ended.stderr.contains("another ferry answers at"), "{}", ended.stderr);
    let said = place.command(&["status", "--quiet"], &variables).ended().await;
    assert_eq!(said.status.code(), Some(0), "the first one does still");
}

#[tokio::test]
async fn a_server_is_restarted_and_its_sessions_go_on() {
    let place = Place::new(TWO);
    let mut ferry = place.run();
    let bear = Client::new(&url(&mut ferry, "bear").await).initialize(json!({})).await;
    let before = place.status().await;
    let said = place.says(&["restart", "bear"]).await;
    assert_eq!((said.status.code(), said.stdout.as_str()), (Some(0), "restarted bear: ready\n"));
    let after = place.status().await;
    let process = |status: &serde_json::Value| status["servers"][0]["processes"][0]["pid"].as_i64().unwrap();
    assert_ne!(process(&before), process(&after));
    assert_eq!((&after["servers"][0]["sessions"], &after["servers"][0]["restarts"]), (&json!(1), &json!(1)));
    assert_eq!(answer(&bear).await, "x");
    let said = place.says(&["restart", "beer"]).await;
    assert_eq!(said.status.code(), Some(1));
    assert!(said.stderr.contains("no server `beer` runs\nhint: did you mean `bear`?"), "{}", said.stderr);
}

#[tokio::test]
async fn logs_are_shown_and_followed_across_rotations() {
    let talks = "[bridge]\nlocal_port = 0\n[logging]\nmax_bytes = 4096\nkept = 9\n\
                 [[mcps]]\nname = 'talks'\npath = '/talks'\nargs = ['sh', '-c', 'echo \"first \u{1b}[31mred\" >&2; \
                 while [ ! -e GO ]; do sleep 0.05; done; i=0; while [ $i -lt 300 ]; do echo \"line $i of many\" >&2; i=$((i+1)); done; cat >/dev/null']\n\
                 [[mcps]]\nname = 'silent'\npath = '/silent'\ncommand = 'x'\neager = false\n";
    let place = Place::new("");
    let go = place.path().join("go");
    place.configure(
        &talks
            .replace("GO", go.to_str().unwrap())
            .replace('\u{1b}', "\\u001b")
            .replace("args = ['sh', '-c', '", "args = [\"sh\", \"-c\", \"\"\"")
            .replace("/dev/null']", "/dev/null\"\"\"]"),
    );
    let said = place.says(&["logs"]).await;
    assert_eq!(said.status.code(), Some(1), "{}", said.stdout);
    assert!(said.stderr.contains("there is no log of ferry's yet"), "{}", said.stderr);
    let mut ferry = place.run();
    url(&mut ferry, "talks").await;
    let mut following = place.command(&["logs", "talks", "-f", "-n", "1"], &[]);
    until(|| following.stdout().contains("first red\n")).await;
    fs::write(&go, "").unwrap();
    until(|| following.stdout().contains("line 299 of many")).await;
    let told = following.stdout();
    let lines: Vec<&str> = told.lines().filter_map(|line| line.split_once(" line ").map(|(_, line)| line)).collect();
    let expected: Vec<String> = (0..300).map(|number| format!("{number} of many")).collect();
    assert_eq!(lines, expected, "each once, in their order");
    assert!(place.path().join("kept-state/logs/talks.log.2").exists(), "it was rotated meanwhile");
    following.signal(Signal::SIGINT);
    following.ended().await;

    let said = place.says(&["logs", "talks", "-n", "200"]).await;
    assert_eq!(said.stdout.lines().count(), 200, "from as many files as it takes");
    let said = place.says(&["logs"]).await;
    assert!(said.stdout.contains("serving") && said.stdout.contains("started pid="), "{}", said.stdout);
    assert!(!said.stdout.contains('\x1b'));
    let said = place.says(&["logs", "silent"]).await;
    assert_eq!((said.status.code(), said.stderr.as_str()), (Some(0), "`silent` has written nothing yet\n"));
    let said = place.says(&["logs", "talk"]).await;
    assert_eq!(said.status.code(), Some(1));
    assert!(said.stderr.contains("hint: did you mean `talks`?"), "{}", said.stderr);
    // A second ferry leaves nothing in the first one's log.
    assert_eq!(place.run().ended().await.status.code(), Some(75));
    let log = fs::read_to_string(place.path().join("kept-state/logs/ferry.main.log")).unwrap();
    assert_eq!(log.matches(" serving").count(), 1, "{log}");
}

#[tokio::test]
async fn metrics_count_what_happens_and_are_for_those_who_may_come_in() {
    let place = Place::new(&TWO.replace("local_port = 0", "local_port = 0\nlocal_token = 'hunter2'"));
    let mut ferry = place.run();
    let address = url(&mut ferry, "bear").await;
    let metrics = Client::new(&address.replace("/bear", "/metrics"));
    assert_eq!(metrics.send(Method::GET, "").await.status(), 401);
    assert_eq!(metrics.with("host", "evil.example.com").send(Method::GET, "").await.status(), 403);
    let bear = Client::new(&address).with("authorization", "Bearer hunter2").initialize(json!({})).await;
    answer(&bear).await;
    assert_eq!(bear.with("mcp-session-id", "made-up").post(call()).await.status(), 404);
    let unknown = bear.post(json!({"jsonrpc": "2.0", "id": 4, "method": "evil\"} 1"})).await;
    assert_eq!(unknown.status(), 200);
    let response = metrics.with("authorization", "Bearer hunter2").send(Method::GET, "").await;
    assert_eq!(response.headers()["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = response.text().await.unwrap();
    for line in [
        "ferry_server_up{server=\"bear\"} 1",
        "ferry_server_processes{server=\"lazy\"} 0",
        "ferry_sessions{server=\"bear\"} 1",
        "ferry_requests_total{server=\"bear\",method=\"tools/call\",outcome=\"ok\"} 1",
        "ferry_requests_total{server=\"bear\",method=\"other\",outcome=\"error\"} 1",
        "ferry_http_responses_total{server=\"bear\",status=\"404\"} 1",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
    }
    assert!(!text.contains("evil"), "no label is a client's: {text}");
    let sent =
        text.lines().find_map(|line| line.strip_prefix("ferry_http_sent_bytes_total{server=\"bear\"} ")).unwrap();
    assert!(sent.parse::<u64>().unwrap() > 100, "{sent}");
}
