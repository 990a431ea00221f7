//! A bridge with a server of the test's own behind it: every line it reads and writes is in the test's hands.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use mcp_ferry::bridge::auth::Admission;
use mcp_ferry::bridge::child::{Child, Pipes, Sharing};
use mcp_ferry::bridge::endpoint::{Endpoint, Keys, Settings};
use mcp_ferry::bridge::era::Policy;
use mcp_ferry::bridge::listener::Tcp;
use mcp_ferry::bridge::origin::{Guard, Listener};
use mcp_ferry::bridge::router::{Door, Endpoints, router};
use mcp_ferry::bridge::upstream::{Upstream, Upstreams};
use mcp_ferry::config::limits::Limits;
use mcp_ferry::mcp::probe::Choice;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot, watch};

use super::within;

/// A bridge on a port of its own, and the wishes it has towards whoever starts its server.
pub(crate) struct Rig {
    pub(crate) url: String,
    pub(crate) address: SocketAddr,
    pub(crate) endpoint: Arc<Endpoint>,
    endpoints: Arc<Endpoints>,
    opened: Arc<Mutex<Vec<Arc<Child>>>>,
    pub(crate) demands: mpsc::UnboundedReceiver<Wish>,
    pub(crate) generation: AtomicU64,
    /// Whether the bridge is told of an end as soon as it has seen it; else the test tells it.
    pub(crate) tells_ends: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
}

/// What the bridge wants of whoever starts its server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Start,
    Restart(String),
    Rest,
    Stop,
}

/// Whoever starts servers: the test. The newest of them is the last.
struct Starter {
    wishes: mpsc::UnboundedSender<Wish>,
    opened: Arc<Mutex<Vec<Arc<Child>>>>,
}

impl Upstreams for Starter {
    fn open(&self, child: &Arc<Child>) -> Arc<dyn Upstream> {
        self.opened.lock().unwrap().push(Arc::clone(child));
        Arc::new(Wishes(self.wishes.clone()))
    }
}

struct Wishes(mpsc::UnboundedSender<Wish>);

impl Upstream for Wishes {
    fn demand(&self) {
        let _ = self.0.send(Wish::Start);
    }
    fn restart(&self, _: u64, reason: &str) {
        let _ = self.0.send(Wish::Restart(reason.to_owned()));
    }
    fn rest(&self) {
        let _ = self.0.send(Wish::Rest);
    }
    fn stop(&self) {
        let _ = self.0.send(Wish::Stop);
    }
}

impl Rig {
    pub(crate) async fn start(era: Choice, interactive: bool, limits: Limits) -> Self {
        Self::admitting(Admission::loopback(), era, interactive, limits).await
    }

    pub(crate) async fn admitting(admission: Admission, era: Choice, interactive: bool, limits: Limits) -> Self {
        Self::sharing(admission, Sharing { era, interactive, ..Sharing::default() }, limits).await
    }

    pub(crate) async fn sharing(admission: Admission, sharing: Sharing, limits: Limits) -> Self {
        Self::with(admission, Policy::default(), sharing, limits).await
    }

    pub(crate) async fn with(admission: Admission, policy: Policy, sharing: Sharing, limits: Limits) -> Self {
        let limits = Arc::new(limits);
        let settings = Settings { name: "test".into(), path: "/mcp".into(), policy, sharing };
        let endpoint = Endpoint::new(settings, &Keys::new(&[3; 32]), &limits);
        let (wishes, demands) = mpsc::unbounded_channel();
        let opened = Arc::default();
        endpoint.connect(Arc::new(Starter { wishes, opened: Arc::clone(&opened) }));
        let endpoints = Endpoints::new(Arc::clone(&limits));
        endpoints.put(Arc::clone(&endpoint));
        let tcp = Tcp::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = tcp.address();
        let guard = Guard::new(Listener::Local(address.ip()), &[], &[]).unwrap();
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(tcp.serve(router(Door { guard, admission, endpoints: Arc::clone(&endpoints) }), limits, stopped));
        let url = format!("http://{address}/mcp");
        let tells_ends = Arc::new(AtomicBool::new(true));
        Self { url, address, endpoint, endpoints, opened, demands, generation: AtomicU64::new(0), tells_ends, stop }
    }

    /// Another door to the same endpoint, for whoever has `admission`.
    pub(crate) async fn door(&self, admission: Admission) -> String {
        let limits = Arc::new(Limits::default());
        let tcp = Tcp::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = tcp.address();
        let guard = Guard::new(Listener::Local(address.ip()), &[], &[]).unwrap();
        let stopped = self.stop.subscribe();
        let door = Door { guard, admission, endpoints: Arc::clone(&self.endpoints) };
        tokio::spawn(tcp.serve(router(door), limits, stopped));
        format!("http://{address}/mcp")
    }

    /// A legacy rig whose server has said that it can do `capabilities`.
    pub(crate) async fn legacy(capabilities: Value, limits: Limits) -> (Self, FakeChild) {
        let rig = Self::start(Choice::Legacy, true, limits).await;
        let child = rig.legacy_child(capabilities).await;
        (rig, child)
    }

    /// A modern rig whose server has said that it can do `capabilities`.
    pub(crate) async fn modern(capabilities: Value, limits: Limits) -> (Self, FakeChild) {
        let rig = Self::start(Choice::Modern, false, limits).await;
        let child = rig.modern_child(capabilities).await;
        (rig, child)
    }

    /// A process that has not been greeted yet.
    pub(crate) fn child(&self) -> FakeChild {
        let newest = self.opened.lock().unwrap().last().cloned().expect("the bridge has asked for a server");
        self.process_of(newest)
    }

    /// The servers that the bridge has asked for, oldest first.
    pub(crate) fn opened(&self) -> Vec<Arc<Child>> {
        self.opened.lock().unwrap().clone()
    }

    /// The next process of one of them, not greeted yet.
    pub(crate) fn process_of(&self, child: Arc<Child>) -> FakeChild {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (output, input) = tokio::io::split(near);
        let (requests, answers) = tokio::io::split(far);
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let (exit, exited) = oneshot::channel::<()>();
        let (ready, is_ready) = oneshot::channel();
        let tells_ends = Arc::clone(&self.tells_ends);
        let serving = tokio::spawn(async move {
            let exited = async move { drop(exited.await) };
            let pipes = Pipes { generation, output, input, exited, closing: std::future::pending() };
            let outcome = child.serve(pipes, |_| ready.send(()).expect("the test waits for it")).await;
            if tells_ends.load(Ordering::Relaxed) {
                child.down();
            }
            format!("{outcome:?}")
        });
        FakeChild {
            requests: BufReader::new(requests).lines(),
            answers,
            exit: Some(exit),
            ready: Some(is_ready),
            serving: Some(serving),
        }
    }

    pub(crate) async fn legacy_child(&self, capabilities: Value) -> FakeChild {
        let mut child = self.child();
        let initialize = child.read().await;
        assert_eq!(initialize["method"], "initialize");
        let info = json!({"name": "fake", "version": "1"});
        let result = json!({"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info});
        child.answer(&initialize, result).await;
        assert_eq!(child.read().await["method"], "notifications/initialized");
        child.ready().await;
        child
    }

    pub(crate) async fn modern_child(&self, capabilities: Value) -> FakeChild {
        let mut child = self.child();
        let discover = child.read().await;
        assert_eq!(discover["method"], "server/discover");
        let has_tools = capabilities.get("tools").is_some();
        child
            .answer(
                &discover,
                json!({
                    "resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": capabilities,
                    "ttlMs": 0, "cacheScope": "private",
                }),
            )
            .await;
        child.ready().await;
        if has_tools {
            let list = child.read().await;
            assert_eq!(list["method"], "tools/list");
            child
                .answer(&list, json!({"resultType": "complete", "tools": [{"name": "echo", "inputSchema": {}}], "ttlMs": 0, "cacheScope": "private"}))
                .await;
        }
        child
    }
}

/// The far end of the pipes.
pub(crate) struct FakeChild {
    requests: tokio::io::Lines<BufReader<ReadHalf<DuplexStream>>>,
    answers: WriteHalf<DuplexStream>,
    exit: Option<oneshot::Sender<()>>,
    ready: Option<oneshot::Receiver<()>>,
    serving: Option<tokio::task::JoinHandle<String>>,
}

impl FakeChild {
    pub(crate) async fn ready(&mut self) {
        if let Some(ready) = self.ready.take() {
            within(ready).await.expect("the bridge took it for ready");
        }
    }

    /// The next line from the bridge, as it is.
    pub(crate) async fn read_text(&mut self) -> String {
        within(self.requests.next_line()).await.unwrap().expect("the bridge closed the pipe")
    }

    pub(crate) async fn read(&mut self) -> Value {
        serde_json::from_str(&self.read_text().await).unwrap()
    }

    /// Whether the bridge has closed the pipe.
    pub(crate) async fn read_end(&mut self) {
        assert_eq!(within(self.requests.next_line()).await.unwrap(), None);
    }

    pub(crate) async fn write(&mut self, line: &str) {
        within(self.answers.write_all(format!("{line}\n").as_bytes())).await.unwrap();
    }

    pub(crate) async fn send(&mut self, message: Value) {
        self.write(&message.to_string()).await;
    }

    pub(crate) async fn answer(&mut self, request: &Value, result: Value) {
        self.send(json!({"jsonrpc": "2.0", "id": request["id"], "result": result})).await;
    }

    pub(crate) async fn notify(&mut self, method: &str, params: Value) {
        self.send(json!({"jsonrpc": "2.0", "method": method, "params": params})).await;
    }

    /// Exits, with its last words written; returns what the bridge made of it.
    pub(crate) async fn exit(mut self) -> String {
        let serving = self.serving.take().unwrap();
        drop(self);
        within(serving).await.unwrap()
    }

    /// Its process is gone while something still holds its pipes.
    pub(crate) async fn vanish(&mut self) -> String {
        drop(self.exit.take());
        within(self.serving.take().unwrap()).await.unwrap()
    }
}
