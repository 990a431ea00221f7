//! A client that is not ours, of either era: the official Rust SDK, with somebody at its keyboard.

use rmcp::model::{
    CallToolRequestParams, CallToolResult, ClientCapabilities, ClientConfig, ElicitRequestParams, ElicitResult,
    ElicitationAction, ErrorData, Implementation, ProgressNotificationParam, ProtocolVersion,
    ResourceUpdatedNotificationParam, ServerPeerInfo,
};
use rmcp::service::{
    ClientInitializeError, NotificationContext, RequestContext, RoleClient, RunningService, ServiceError,
};
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::transport::{IntoTransport, StreamableHttpClientTransport};
use rmcp::{ClientHandler, ClientLifecycleMode, ClientServiceExt};
use serde_json::Value;
use tokio::sync::mpsc;

use super::within;

/// How a client opens.
#[derive(Debug, Clone)]
pub(crate) enum Era {
    /// With `initialize`, asking for this version.
    Legacy(ProtocolVersion),
    /// With `server/discover`, and with nothing else.
    Modern,
    /// With `server/discover`, and with `initialize` where that is not understood.
    Either,
}

impl Era {
    /// The latest version that has sessions.
    pub(crate) const LEGACY: Self = Self::Legacy(ProtocolVersion::LATEST_WITH_INITIALIZE);
}

/// What a client heard besides the answers to its requests.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Heard {
    /// A question, by its message.
    Asked(String),
    /// How far of how much.
    Progress(f64, Option<f64>),
    Log(Value),
    ResourceUpdated(String),
    ResourceListChanged,
    ToolListChanged,
    PromptListChanged,
    /// The server withdrew a question or ended a subscription.
    Cancelled,
}

/// Who sits in front of the client.
#[derive(Debug, Clone)]
pub(crate) enum Human {
    /// Nobody: the client declares no `elicitation`.
    Absent,
    /// Fills every form with this.
    Accepts(Value),
    Declines,
}

pub(crate) struct Listener {
    era: Era,
    human: Human,
    heard: mpsc::UnboundedSender<Heard>,
}

/// A connection of this client, opened.
pub(crate) struct Client {
    /// For everything that has no shortcut here.
    pub(crate) service: RunningService<RoleClient, Listener>,
    heard: mpsc::UnboundedReceiver<Heard>,
}

impl Client {
    /// Opens over Streamable HTTP, at a URL such as `http://127.0.0.1:8765/notes`.
    pub(crate) async fn over_http(url: &str, era: Era, human: Human) -> Result<Self, ClientInitializeError> {
        Self::over_http_with(StreamableHttpClientTransportConfig::with_uri(url), era, human).await
    }

    /// The same, with headers, tokens or limits of its own.
    pub(crate) async fn over_http_with(
        config: StreamableHttpClientTransportConfig,
        era: Era,
        human: Human,
    ) -> Result<Self, ClientInitializeError> {
        Self::over(StreamableHttpClientTransport::from_config(config), era, human).await
    }

    /// Opens over anything else: the pipes of a child as `(stdout, stdin)`, or one end of `tokio::io::duplex`.
    pub(crate) async fn over<T, E, A>(transport: T, era: Era, human: Human) -> Result<Self, ClientInitializeError>
    where
        T: IntoTransport<RoleClient, E, A>,
        E: std::error::Error + Send + Sync + 'static,
    {
        let modern = || vec![ProtocolVersion::V_2026_07_28];
        let lifecycle = match &era {
            Era::Legacy(_) => ClientLifecycleMode::Initialize,
            Era::Modern => ClientLifecycleMode::Discover { preferred_versions: modern() },
            Era::Either => ClientLifecycleMode::Auto {
                preferred_versions: modern(),
                legacy_version: Some(ProtocolVersion::LATEST_WITH_INITIALIZE),
            },
        };
        let (sender, heard) = mpsc::unbounded_channel();
        let listener = Listener { era, human, heard: sender };
        let service = within(listener.serve_with_lifecycle(transport, lifecycle)).await?;
        Ok(Self { service, heard })
    }

    /// What the server said of itself when this client opened.
    pub(crate) fn server(&self) -> ServerPeerInfo {
        self.service.peer_info().expect("the server has introduced itself").as_ref().clone()
    }

    /// The names of all tools, in order.
    pub(crate) async fn tools(&self) -> Vec<String> {
        let tools = within(self.service.list_all_tools()).await.expect("the server lists its tools");
        tools.into_iter().map(|tool| tool.name.into_owned()).collect()
    }

    /// Calls a tool; questions that come up are put to the human.
    pub(crate) async fn call(&self, tool: &str, arguments: &Value) -> Result<CallToolResult, ServiceError> {
        let arguments = arguments.as_object().cloned().unwrap_or_default();
        within(self.service.call_tool(CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments))).await
    }

    /// Calls a tool that is expected to do its work and to say so in one text.
    pub(crate) async fn text(&self, tool: &str, arguments: &Value) -> String {
        let result = self.call(tool, arguments).await.expect("the tool answers");
        assert_ne!(result.is_error, Some(true), "{result:?}");
        text(&result).to_owned()
    }

    /// The code of the JSON-RPC error that this call is expected to end with.
    pub(crate) async fn code(&self, tool: &str, arguments: &Value) -> i32 {
        match self.call(tool, arguments).await {
            Err(ServiceError::McpError(error)) => error.code.0,
            other => panic!("expected an error of the protocol, got {other:?}"),
        }
    }

    /// The next thing it hears, whenever that comes.
    pub(crate) async fn next(&mut self) -> Heard {
        within(self.heard.recv()).await.expect("the client is there")
    }

    /// What it has heard by now.
    pub(crate) fn heard(&mut self) -> Vec<Heard> {
        std::iter::from_fn(|| self.heard.try_recv().ok()).collect()
    }

    /// Says good-bye as this transport does: the end of stdin, or DELETE for a session.
    pub(crate) async fn close(self) {
        within(self.service.cancel()).await.expect("the client ends");
    }
}

/// The first content of a result, which is expected to be a text.
pub(crate) fn text(result: &CallToolResult) -> &str {
    &result.content.first().and_then(|content| content.as_text()).expect("a text").text
}

impl Listener {
    fn hear(&self, heard: Heard) {
        let _ = self.heard.send(heard); // the test may have closed its end and stopped listening
    }
}

impl ClientHandler for Listener {
    fn get_info(&self) -> ClientConfig {
        let capabilities = match self.human {
            Human::Absent => ClientCapabilities::default(),
            Human::Accepts(_) | Human::Declines => ClientCapabilities::builder().enable_elicitation().build(),
        };
        let version = match &self.era {
            Era::Legacy(version) => version.clone(),
            Era::Modern | Era::Either => ProtocolVersion::V_2026_07_28,
        };
        ClientConfig::new(capabilities, Implementation::new("rmcp-test", "1.0.0")).with_protocol_version(version)
    }

    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        if let ElicitRequestParams::FormElicitationParams { message, .. } = request {
            self.hear(Heard::Asked(message));
        }
        Ok(match &self.human {
            Human::Accepts(content) => ElicitResult::new(ElicitationAction::Accept).with_content(content.clone()),
            Human::Declines => ElicitResult::new(ElicitationAction::Decline),
            Human::Absent => return Err(ErrorData::internal_error("nobody can be asked here", None)),
        })
    }

    async fn on_cancelled(
        &self,
        _params: rmcp::model::CancelledNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.hear(Heard::Cancelled);
    }

    async fn on_progress(&self, params: ProgressNotificationParam, _context: NotificationContext<RoleClient>) {
        self.hear(Heard::Progress(params.progress, params.total));
    }

    #[expect(deprecated, reason = "servers still log")]
    async fn on_logging_message(
        &self,
        params: rmcp::model::LoggingMessageNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.hear(Heard::Log(params.data));
    }

    async fn on_resource_updated(
        &self,
        params: ResourceUpdatedNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.hear(Heard::ResourceUpdated(params.uri));
    }

    async fn on_resource_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.hear(Heard::ResourceListChanged);
    }

    async fn on_tool_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.hear(Heard::ToolListChanged);
    }

    async fn on_prompt_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.hear(Heard::PromptListChanged);
    }
}
