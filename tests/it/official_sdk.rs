//! The official Rust SDK on both sides: its server by itself, and both with ferry between them.

use std::process::Stdio;
use std::sync::Arc;

use mcp_ferry::bridge::child::Pipes;
use mcp_ferry::config::limits::Limits;
use mcp_ferry::mcp::probe::{Choice, Opened};
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, ClientRequest, GetPromptRequestParams, ProtocolVersion,
    ReadResourceRequestParams, SubscribeRequestParams, SubscriptionFilter,
};
use rmcp::service::PeerRequestOptions;
use serde_json::json;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::support::fake_child::Rig;
use crate::support::rmcp_client::{Client, Era, Heard, Human};
use crate::support::{rmcp_server, within};

fn start(era: &str) -> (Child, ChildStdout, ChildStdin) {
    let mut command = Command::new(rmcp_server::path());
    command.args(["--era", era]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("it was built before the tests");
    let (stdout, stdin) = (child.stdout.take().expect("piped"), child.stdin.take().expect("piped"));
    (child, stdout, stdin)
}

fn ada() -> Human {
    Human::Accepts(json!({ "name": "Ada" }))
}

/// Everything the fixture has, as any client can see it.
async fn works(client: &mut Client) {
    assert_eq!(client.tools().await, ["echo", "add", "slow", "cancelled", "greet", "touch"]);
    assert_eq!(client.text("echo", &json!({ "message": "hi" })).await, "hi");
    let sum = client.call("add", &json!({ "a": 2, "b": 3 })).await.expect("a sum");
    assert_eq!(sum.structured_content, Some(json!({ "sum": 5 })));
    assert_eq!(client.text("slow", &json!({ "steps": 2 })).await, "2 steps");
    for step in [1.0, 2.0] {
        assert_eq!(client.next().await, Heard::Progress(step, Some(2.0)));
    }
    let read = ReadResourceRequestParams::new("fixture:///greeting");
    assert_eq!(within(client.service.read_resource(read)).await.expect("it is there").contents.len(), 1);
    let who = json!({ "who": "Ada" }).as_object().cloned().unwrap_or_default();
    let hello = GetPromptRequestParams::new("hello").with_arguments(who);
    assert_eq!(within(client.service.get_prompt(hello)).await.expect("it is there").messages.len(), 1);
}

#[tokio::test]
async fn its_server_speaks_the_era_it_is_told_to() {
    for (era, server, version) in [
        (Era::LEGACY, "legacy", "2025-11-25"),
        (Era::LEGACY, "dual", "2025-11-25"),
        (Era::Legacy(ProtocolVersion::V_2024_11_05), "dual", "2024-11-05"),
        (Era::Modern, "modern", "2026-07-28"),
        (Era::Modern, "dual", "2026-07-28"),
        (Era::Either, "modern", "2026-07-28"),
    ] {
        let (mut child, stdout, stdin) = start(server);
        let mut client = Client::over((stdout, stdin), era.clone(), ada()).await.expect("they share a version");
        assert_eq!(client.server().protocol_version.as_str(), version, "{era:?} at {server}");
        works(&mut client).await;
        assert_eq!(client.text("greet", &json!({})).await, "Hello, Ada!", "{era:?} at {server}");
        assert_eq!(client.next().await, Heard::Asked("What is your name?".to_owned()));
        client.close().await;
        assert!(within(child.wait()).await.expect("it is ours").success());
    }
}

#[tokio::test]
async fn without_a_common_version_it_does_not_open() {
    for (era, server) in [(Era::LEGACY, "modern"), (Era::Modern, "legacy")] {
        let (_child, stdout, stdin) = start(server);
        assert!(Client::over((stdout, stdin), era.clone(), Human::Absent).await.is_err(), "{era:?} at {server}");
    }
}

/// A bridge before the fixture, both of this era, at a URL.
async fn bridged(era: &str) -> (Rig, Child) {
    let choice = if era == "modern" { Choice::Modern } else { Choice::Legacy };
    let (rig, process, _) = opened(choice, era).await;
    (rig, process)
}

/// A bridge that opens the fixture as it chooses, and what it finds.
async fn opened(choice: Choice, era: &str) -> (Rig, Child, Opened) {
    let rig = Rig::start(choice, true, Limits::default()).await;
    let (process, output, input) = start(era);
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let child = Arc::clone(&rig.opened()[0]);
    tokio::spawn(async move {
        let pipes =
            Pipes { generation: 1, output, input, exited: std::future::pending(), closing: std::future::pending() };
        child.serve(pipes, |opened| ready.send(opened.clone()).expect("the test waits for it")).await
    });
    let opened = within(is_ready).await.expect("the bridge takes the fixture for ready");
    (rig, process, opened)
}

#[tokio::test]
async fn ferry_finds_out_what_the_server_speaks() {
    for (choice, server, version) in [
        (Choice::Probe, "legacy", "2025-11-25"), // which refuses the probe with -32022 and takes `initialize` after it
        (Choice::Probe, "dual", "2026-07-28"),
        (Choice::Probe, "modern", "2026-07-28"),
        (Choice::PreferLegacy, "legacy", "2025-11-25"),
        (Choice::PreferLegacy, "dual", "2025-11-25"),
        (Choice::Legacy, "dual", "2025-11-25"),
        (Choice::Modern, "dual", "2026-07-28"),
    ] {
        let (_rig, _process, opened) = opened(choice, server).await;
        assert_eq!(opened.version, version, "{choice:?} at {server}");
    }
}

#[tokio::test]
async fn both_sides_meet_through_ferry() {
    for (era, server) in [
        (Era::LEGACY, "legacy"),
        (Era::LEGACY, "dual"),
        (Era::Modern, "modern"),
        (Era::Either, "modern"),
        (Era::Either, "legacy"),
    ] {
        let (rig, _process) = bridged(server).await;
        let mut client = Client::over_http(&rig.url, era.clone(), ada()).await.expect("ferry opens");
        assert_eq!(client.server().server_info.map(|server| server.name).as_deref(), Some("rmcp-fixture"));
        works(&mut client).await;
        assert_eq!(client.text("greet", &json!({})).await, "Hello, Ada!", "{era:?} at {server}");
        assert_eq!(client.next().await, Heard::Asked("What is your name?".to_owned()));
        assert_eq!(client.code("sing", &json!({})).await, -32602);
        client.close().await;
    }
}

#[tokio::test]
async fn a_cancelled_call_is_cancelled_at_the_far_end() {
    for (era, server) in [(Era::LEGACY, "legacy"), (Era::Modern, "modern")] {
        let (rig, _process) = bridged(server).await;
        let mut client = Client::over_http(&rig.url, era, Human::Absent).await.expect("ferry opens");
        let slow = json!({ "steps": 1_000_000, "pause_ms": 1 }).as_object().cloned().unwrap_or_default();
        let slow = CallToolRequest::new(CallToolRequestParams::new("slow").with_arguments(slow));
        let request = ClientRequest::CallToolRequest(slow);
        let slow = within(client.service.send_cancellable_request(request, PeerRequestOptions::no_options())).await;
        assert!(matches!(client.next().await, Heard::Progress(..)), "it has begun");
        within(slow.expect("it is sent").cancel(None)).await.expect("it is cancelled");
        let heard_of_it = async { while client.text("cancelled", &json!({})).await != "1" {} };
        within(Box::pin(heard_of_it)).await;
        client.close().await;
    }
}

#[tokio::test]
async fn changes_are_heard_through_ferry() {
    let (rig, _process) = bridged("modern").await;
    let client = Client::over_http(&rig.url, Era::Modern, Human::Absent).await.expect("ferry opens");
    let filter = SubscriptionFilter::builder().resources_list_changed().resource_subscriptions(["fixture:///greeting"]);
    let mut listening = within(client.service.listen(filter.build())).await.expect("an acknowledgement");
    client.text("touch", &json!({})).await;
    for method in ["notifications/resources/updated", "notifications/resources/list_changed"] {
        let news = within(listening.next()).await.expect("the subscription is open").expect("news");
        assert_eq!(serde_json::to_value(news).expect("JSON")["method"], method);
    }
    client.close().await;

    let (rig, _process) = bridged("legacy").await;
    let mut client = Client::over_http(&rig.url, Era::LEGACY, Human::Absent).await.expect("ferry opens");
    #[expect(deprecated, reason = "sessions have it")]
    let subscribed = client.service.subscribe(SubscribeRequestParams::new("fixture:///greeting"));
    within(subscribed).await.expect("the fixture agrees");
    client.text("touch", &json!({})).await;
    assert_eq!(client.next().await, Heard::ResourceUpdated("fixture:///greeting".to_owned()));
    assert_eq!(client.next().await, Heard::ResourceListChanged);
    client.close().await;
}
