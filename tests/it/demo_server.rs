//! The demo server in the hands of the official Rust SDK, which knows nothing of how it is made.

use std::process::Stdio;

use rmcp::model::{
    CallToolRequest, CallToolRequestParams, ClientRequest, GetPromptRequestParams, ProtocolVersion,
    ReadResourceRequestParams, SubscribeRequestParams, SubscriptionFilter,
};
use rmcp::service::{PeerRequestOptions, ServiceError};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use crate::support::rmcp_client::{Client, Era, Heard, Human};
use crate::support::within;

/// In memory.
async fn open(era: Era, human: Human) -> Client {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (reader, writer) = tokio::io::split(far);
    tokio::spawn(mcp_ferry::demo::serve(reader, writer));
    Client::over(near, era, human).await.expect("the demo server speaks both eras")
}

fn process() -> Command {
    let mut ferry = Command::new(env!("CARGO_BIN_EXE_ferry"));
    ferry.arg("demo-server").kill_on_drop(true);
    ferry
}

fn piped() -> Child {
    process().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ferry was built before its tests")
}

const ERAS: [Era; 3] = [Era::LEGACY, Era::Modern, Era::Either];

#[tokio::test]
async fn a_client_of_every_version_opens_and_calls() {
    let legacy = ProtocolVersion::KNOWN_VERSIONS.iter().filter(|version| version.has_initialize());
    for era in legacy.cloned().map(Era::Legacy).chain([Era::Modern, Era::Either]) {
        let client = open(era.clone(), Human::Absent).await;
        let server = client.server();
        let version = match era {
            Era::Legacy(asked) => asked,
            Era::Modern | Era::Either => ProtocolVersion::V_2026_07_28,
        };
        assert_eq!(server.protocol_version, version);
        assert_eq!(server.server_info.map(|server| server.name).as_deref(), Some("ferry-demo"));
        let tools = ["echo", "time", "add_note", "list_notes", "edit_note", "delete_note", "count", "greet"];
        assert_eq!(client.tools().await, tools);
        assert_eq!(client.text("echo", &json!({ "message": "hi" })).await, "hi");
        assert_eq!(client.code("sing", &json!({})).await, -32602);
        client.close().await;
    }
}

#[tokio::test]
async fn a_question_reaches_the_human_and_the_answer_comes_back() {
    for era in ERAS {
        for (human, greeted) in
            [(Human::Accepts(json!({ "name": "Ada" })), "Ahoy, Ada!"), (Human::Declines, "Ahoy, whoever you are!")]
        {
            let mut client = open(era.clone(), human).await;
            assert_eq!(client.text("greet", &json!({ "greeting": "Ahoy" })).await, greeted, "{era:?}");
            assert_eq!(client.next().await, Heard::Asked("What shall I call you?".to_owned()));
            client.close().await;
        }
    }
    let client = open(Era::LEGACY, Human::Absent).await;
    assert!(client.text("greet", &json!({})).await.starts_with("Hello, stranger!"));
    client.close().await;
    let client = open(Era::Modern, Human::Absent).await;
    assert_eq!(client.code("greet", &json!({})).await, -32021);
    client.close().await;
}

#[tokio::test]
async fn progress_is_reported_and_a_call_can_be_cancelled() {
    for era in ERAS {
        let mut client = open(era, Human::Absent).await;
        assert_eq!(client.text("count", &json!({ "to": 2, "interval_ms": 0 })).await, "Counted to 2.");
        for done in [1.0, 2.0] {
            assert_eq!(client.next().await, Heard::Progress(done, Some(2.0)));
        }
        let arguments = json!({ "to": 1000, "interval_ms": 1 }).as_object().cloned().unwrap_or_default();
        let params = CallToolRequestParams::new("count").with_arguments(arguments);
        let request = ClientRequest::CallToolRequest(CallToolRequest::new(params));
        let counting = client.service.send_cancellable_request(request, PeerRequestOptions::no_options());
        let counting = within(counting).await.expect("the request is sent");
        assert_eq!(client.next().await, Heard::Progress(1.0, Some(1000.0)));
        within(counting.cancel(None)).await.expect("the cancellation is sent");
        client.text("echo", &json!({ "message": "after this it counts no more" })).await;
        client.heard();
        client.text("echo", &json!({ "message": "hi" })).await;
        assert_eq!(client.heard(), []);
        client.close().await;
    }
}

#[tokio::test]
async fn notes_are_resources() {
    for (era, missing) in [(Era::LEGACY, -32002), (Era::Modern, -32602)] {
        let client = open(era, Human::Absent).await;
        let note = client.call("add_note", &json!({ "text": "milk\nand bread" })).await.expect("there is room");
        assert_eq!(note.structured_content.as_ref().map(|note| &note["uri"]), Some(&json!("note:///2")));
        let link = note.content.get(1).and_then(|content| content.as_resource_link()).expect("a link to the note");
        assert_eq!((link.uri.as_str(), link.title.as_deref()), ("note:///2", Some("milk")));

        let listed = within(client.service.list_all_resources()).await.expect("a list");
        assert_eq!(listed.iter().map(|note| note.uri.as_str()).collect::<Vec<_>>(), ["note:///1", "note:///2"]);
        let templates = within(client.service.list_all_resource_templates()).await.expect("a list");
        assert_eq!(templates[0].uri_template, "note:///{id}");
        let read = within(client.service.read_resource(ReadResourceRequestParams::new("note:///2"))).await;
        assert_eq!(
            serde_json::to_value(&read.expect("it is there").contents[0]).expect("JSON")["text"],
            "milk\nand bread"
        );
        let lost = within(client.service.read_resource(ReadResourceRequestParams::new("note:///9"))).await;
        let Err(ServiceError::McpError(error)) = lost else { panic!("expected an error, got {lost:?}") };
        assert_eq!((error.code.0, error.data), (missing, Some(json!({ "uri": "note:///9" }))));

        let ids = client.service.complete_resource_simple("note:///{id}", "id", "2");
        assert_eq!(within(ids).await.expect("a completion"), ["2"]);
        client.close().await;
    }
}

#[tokio::test]
async fn prompts_are_offered_completed_and_filled() {
    for era in ERAS {
        let client = open(era, Human::Absent).await;
        let prompts = within(client.service.list_all_prompts()).await.expect("a list");
        let names: Vec<_> = prompts.iter().map(|prompt| prompt.name.as_str()).collect();
        assert_eq!(names, ["summarize_notes", "draft_note"]);
        let tones = client.service.complete_prompt_simple("draft_note", "tone", "d");
        assert_eq!(within(tones).await.expect("a completion"), ["dry"]);
        let arguments = json!({ "topic": "tea" }).as_object().cloned().unwrap_or_default();
        let draft = GetPromptRequestParams::new("draft_note").with_arguments(arguments);
        assert_eq!(within(client.service.get_prompt(draft)).await.expect("a prompt").messages.len(), 1);
        client.close().await;
    }
}

#[tokio::test]
async fn a_session_hears_of_the_notes_it_has_subscribed_to() {
    let mut client = open(Era::LEGACY, Human::Absent).await;
    #[expect(deprecated, reason = "sessions have it")]
    let subscribed = client.service.subscribe(SubscribeRequestParams::new("note:///1"));
    within(subscribed).await.expect("the note is there");
    client.text("edit_note", &json!({ "id": 1, "text": "new" })).await;
    assert_eq!(client.next().await, Heard::ResourceUpdated("note:///1".to_owned()));
    assert_eq!(client.next().await, Heard::ResourceListChanged);
    client.close().await;
}

#[tokio::test]
async fn a_modern_client_hears_of_what_it_listens_to() {
    let mut client = open(Era::Modern, Human::Absent).await;
    let filter = SubscriptionFilter::builder().resources_list_changed().tools_list_changed();
    let filter = filter.resource_subscriptions(["note:///1", "note:///9"]).build();
    let mut listening = within(client.service.listen(filter)).await.expect("an acknowledgement");
    let honoured = listening.acknowledged();
    assert_eq!(honoured.resource_subscriptions.as_deref(), Some(&["note:///1".to_owned()][..]));
    assert_eq!((honoured.resources_list_changed, honoured.tools_list_changed), (Some(true), None));
    client.text("edit_note", &json!({ "id": 1, "text": "new" })).await;
    for method in ["notifications/resources/updated", "notifications/resources/list_changed"] {
        let news = within(listening.next()).await.expect("the subscription is open").expect("news");
        assert_eq!(serde_json::to_value(news).expect("JSON")["method"], method);
    }
    within(listening.cancel()).await.expect("the subscription ends");
    client.text("delete_note", &json!({ "id": 1 })).await;
    client.text("echo", &json!({ "message": "so that anything still on its way has arrived" })).await;
    assert_eq!(client.heard(), []);
    client.close().await;
}

#[tokio::test]
async fn as_a_process_it_ends_with_its_stdin() {
    for era in ERAS {
        let mut child = piped();
        let pipes = (child.stdout.take().expect("piped"), child.stdin.take().expect("piped"));
        let client = Client::over(pipes, era, Human::Absent).await.expect("it speaks both eras");
        assert_eq!(client.text("echo", &json!({ "message": "hi" })).await, "hi");
        client.close().await;
        assert!(within(child.wait()).await.expect("it is ours").success());
    }
}

#[tokio::test]
async fn a_long_call_does_not_keep_the_process() {
    let mut child = piped();
    let mut stdin = child.stdin.take().expect("piped");
    let long = json!({ "name": "count", "arguments": { "to": 1000, "interval_ms": 60_000 } });
    let lines = [
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": long }),
        json!({ "jsonrpc": "2.0", "id": 2, "method": "ping" }),
    ];
    for line in lines {
        stdin.write_all(format!("{line}\n").as_bytes()).await.expect("it reads");
    }
    drop(stdin);
    let mut said = String::new();
    within(child.stdout.take().expect("piped").read_to_string(&mut said)).await.expect("UTF-8");
    assert_eq!(said, "{\"id\":2,\"jsonrpc\":\"2.0\",\"result\":{}}\n");
    assert!(within(child.wait()).await.expect("it is ours").success());
}

/// A pipe is read in another way than a file or a terminal, so every mixture has to work.
#[tokio::test]
async fn files_do_as_well_as_pipes() {
    let directory = tempfile::tempdir().expect("a directory");
    let (input, output) = (directory.path().join("in"), directory.path().join("out"));
    let ping = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}"; // the last line needs no end
    std::fs::write(&input, ping).expect("a file");
    let open = |path: &std::path::Path| std::fs::File::open(path).expect("it was just written");
    let create = || std::fs::File::create(&output).expect("the directory is there");

    let from_file = process().stdin(open(&input)).output();
    assert_eq!(within(from_file).await.expect("it runs").stdout, b"{\"id\":1,\"jsonrpc\":\"2.0\",\"result\":{}}\n");

    let mut to_file = process().stdin(Stdio::piped()).stdout(create()).spawn().expect("it starts");
    to_file.stdin.take().expect("piped").write_all(ping.as_bytes()).await.expect("it reads");
    assert!(within(to_file.wait()).await.expect("it is ours").success());
    assert_eq!(std::fs::read_to_string(&output).expect("a file"), "{\"id\":1,\"jsonrpc\":\"2.0\",\"result\":{}}\n");
}
