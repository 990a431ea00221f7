//! A configuration that changes while ferry runs, and the commands that talk to the ferry that runs.

use std::fs;

use serde_json::{Value, json};

use crate::support::http::{Client, body};
use crate::support::place::{Place, answer, call, url};
use crate::support::until;

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
    let slow = stays.clone();
    let name = gate.to_str().unwrap().to_owned();
    let waiting = tokio::spawn(async move {
        body(slow.post(json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "wait", "arguments": {"gate": name}}})).await).await
    });
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
    assert_eq!(waiting.await.unwrap()["result"]["content"][0]["text"], "stays", "the call went on across the reload");
    // The session of the one that changed is the same to its client, and so is the stream of the one that did not.
    assert_eq!(answer(&changes).await, "after");
    assert_eq!(goes.post(call()).await.status(), 404);
    let comes = Client::new(&url(&mut ferry, "stays").await.replace("/stays", "/comes")).initialize(json!({})).await;
    assert_eq!(answer(&comes).await, "new");
    let page = stays.with("origin", "https://x.example.com").post(call()).await;
    assert_eq!(page.status(), 200);
    assert!(server(&place.status().await, "stays")["clients"][0]["streams"] == 1);

    let said = place.says(&["reload"]).await;
    assert!(said.stdout.contains("nothing that matters here has changed"), "{}", said.stdout);
}
