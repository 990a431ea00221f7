//! cloudflared in each way that it was seen to behave: what ferry tells, and what it does. A test for each row of the
//! table that says so.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mcp_ferry::bridge::auth::Admission;
use mcp_ferry::bridge::endpoint::Keys;
use mcp_ferry::bridge::listener::Tcp;
use mcp_ferry::bridge::origin::{Guard, Listener};
use mcp_ferry::config::schema::{IpVersion, TunnelProtocol};
use mcp_ferry::daemon::assemble::{Beginning, Local, Service};
use mcp_ferry::daemon::tunnel::Plan;
use mcp_ferry::supervisor::{State, Stopped};
use mcp_ferry::tunnel::{Pace, Settings, Tunnel, TunnelState, TunnelStatus};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixListener, UnixStream};

use crate::common::fake_cloudflared::{Fake, TUNNEL_ID};
use crate::{PATIENCE, eventually, supervisor, within};

/// A tunnel with a cloudflared of this test's own.
struct Rig {
    fake: Fake,
    tunnel: Tunnel,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

/// A place for a tunnel, and how it is opened there: quick to look, and patient.
fn place() -> (tempfile::TempDir, Fake, Settings) {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::at(dir.path());
    let pace =
        Pace { unconnected: Duration::from_millis(20), connected: Duration::from_millis(50), patience: PATIENCE };
    let settings = Settings {
        hostname: "bridge.example.com".to_owned(),
        socket: dir.path().join("tunnel.sock"),
        credentials: fake.credentials(),
        program: fake.program(),
        protocol: None,
        edge_ip_version: None,
        state_dir: dir.path().join("state"),
        shutdown_timeout: Duration::from_secs(9),
        log: None,
        pace,
    };
    (dir, fake, settings)
}

impl Rig {
    /// Opens a tunnel after `arrange` has seen to what it finds.
    fn arranged(arrange: impl FnOnce(&Fake, &mut Settings)) -> Self {
        let (dir, fake, mut settings) = place();
        let socket = settings.socket.clone();
        arrange(&fake, &mut settings);
        Self { tunnel: Tunnel::open(settings, supervisor()), fake, socket, _dir: dir }
    }

    fn behaving(mode: &str) -> Self {
        Self::arranged(|fake, _| fake.behaves(mode))
    }

    async fn until(&self, what: &str, is_so: impl FnMut(&TunnelStatus) -> bool) -> TunnelStatus {
        let mut watch = self.tunnel.watch();
        let waited = tokio::time::timeout(PATIENCE, watch.wait_for(is_so)).await;
        let Ok(found) = waited else { panic!("{what} in vain: {:?}", self.tunnel.status()) };
        found.expect("it is observed").clone()
    }

    async fn connected(&self) {
        let status = self.until("it connects", |status| matches!(status.state, TunnelState::Connected { .. })).await;
        assert!(matches!(status.state, TunnelState::Connected { connections: 4, .. }), "{status:?}");
    }

    /// Waits until it has failed for this reason, and looks at the advice.
    async fn failed(&self, reason: &str, advice: &str) {
        let is_it = |status: &TunnelStatus| matches!(&status.state, TunnelState::Failed { why, fix } if why.contains(reason) && fix.contains(advice));
        self.until(reason, is_it).await;
    }

    fn generation(&self) -> u64 {
        self.tunnel.process().status().generation
    }

    /// It is as it was, if all is well now: nobody has to do anything but what was said.
    async fn heals(self) {
        self.fake.behaves("well");
        self.connected().await;
        self.stops().await;
    }

    /// It ends by itself.
    async fn stops(self) {
        assert_eq!(within("its end", self.tunnel.process().stop()).await, Stopped::Exited);
        let status = self.tunnel.process().status();
        assert_eq!(status.last_exit.and_then(|status| status.code()), Some(0));
    }
}

#[tokio::test]
async fn a_tunnel_is_run_by_uuid_with_everything_said_in_its_file() {
    let rig = Rig::behaving("well");
    rig.connected().await;
    eventually("it is ready", || rig.tunnel.process().status().state == State::Ready).await;
    let starts = rig.fake.starts();
    let [start] = &starts[..] else { panic!("{starts:?}") };
    let config = start["config"].as_str().unwrap();
    for part in [
        &format!("tunnel: \"{TUNNEL_ID}\""),
        &format!("credentials-file: \"{}\"", rig.fake.credentials().display()),
        "metrics: \"127.0.0.1:",
        &format!("service: \"unix:{}\"", rig.socket.display()),
    ] {
        assert!(config.contains(part), "{config}");
    }
    let arguments: Vec<&str> = start["arguments"].as_array().unwrap().iter().filter_map(|word| word.as_str()).collect();
    assert_eq!(arguments.last(), Some(&"run"));
    assert!(arguments.join(" ").contains("--grace-period 6000ms"), "{arguments:?}");
    assert_eq!(rig.tunnel.status().version.unwrap().to_string(), "2026.8.2");
    rig.stops().await;
}

#[tokio::test]
async fn a_configuration_that_cloudflared_does_not_accept_is_never_run() {
    let rig = Rig::behaving("refuses-config");
    rig.failed("refuses the configuration that ferry wrote for it: Validation failed: The last ingress", "hostname")
        .await;
    assert_eq!(rig.generation(), 0);
    rig.heals().await;
}

#[tokio::test]
async fn an_exit_with_1_and_a_plain_message_is_told_with_the_message() {
    let rig = Rig::behaving("bad-config");
    rig.failed("error parsing YAML in config file: yaml: line 3", "report").await;
    rig.heals().await;
}

#[tokio::test]
async fn a_metrics_port_that_is_taken_is_another_one_next_time() {
    let rig = Rig::behaving("port-taken");
    rig.connected().await;
    let starts = rig.fake.starts();
    let metrics = |start: &serde_json::Value| {
        let config = start["config"].as_str().unwrap().to_owned();
        config.lines().find(|line| line.starts_with("metrics")).unwrap().to_owned()
    };
    assert_eq!(starts.len(), 2);
    assert_ne!(metrics(&starts[0]), metrics(&starts[1]));
    let last = rig.tunnel.status().last_error.unwrap();
    assert!(last.contains("metrics was taken") || last.contains("address already in use"), "{last}");
    rig.stops().await;
}

#[tokio::test]
async fn credentials_that_are_missing_or_broken_are_said_to_be_and_taken_when_they_are_there() {
    let rig = Rig::arranged(|fake, _| std::fs::remove_file(fake.credentials()).unwrap());
    rig.failed("the tunnel's credentials are missing: there is no /", "ferry setup").await;
    std::fs::write(rig.fake.credentials(), "{").unwrap();
    rig.failed("credentials.json holds no credentials of a tunnel: it is not JSON", "ferry setup").await;
    std::fs::write(rig.fake.credentials(), "-----BEGIN ARGO TUNNEL TOKEN-----\n").unwrap();
    rig.failed("it is a certificate, such as cloudflared's cert.pem", "ferry setup").await;
    assert_eq!(rig.generation(), 0, "cloudflared was not started in vain");
    rig.fake.has_credentials();
    rig.heals().await;
}

#[tokio::test]
async fn no_tunnel_named_is_an_exit_with_255() {
    let rig = Rig::behaving("no-tunnel");
    rig.failed("cloudflared found no tunnel to run: \"cloudflared tunnel run\" requires", "ferry setup").await;
    rig.heals().await;
}

#[tokio::test]
async fn a_usage_text_with_exit_0_is_a_cloudflared_that_is_too_old() {
    let rig = Rig::behaving("usage");
    rig.failed("does not know an option that ferry needs: Incorrect Usage. flag provided but", "update cloudflared")
        .await;
    rig.heals().await;
}

#[tokio::test]
async fn a_revoked_secret_never_exits_and_is_told_all_the_same() {
    let rig = Rig::behaving("unauthorized");
    rig.failed("Cloudflare refuses the tunnel: Unauthorized: Invalid tunnel secret", "ferry setup").await;
    let generation = rig.generation();
    rig.fake.behaves("well");
    rig.connected().await;
    assert_eq!(rig.generation(), generation, "it went on trying by itself");
    rig.stops().await;
}

#[tokio::test]
async fn a_first_connection_that_fails_is_tried_again() {
    let rig = Rig::behaving("first-fails");
    rig.failed("Cloudflare cannot be reached: ", "port 7844").await;
    eventually("the next start", || rig.generation() >= 2).await;
    rig.heals().await;
}

#[tokio::test]
async fn dns_that_is_unusable_at_start_is_tried_again() {
    let rig = Rig::behaving("no-dns");
    rig.failed("cannot be looked up: Could not lookup srv records", "DNS").await;
    eventually("the next start", || rig.generation() >= 2).await;
    rig.heals().await;
}

#[tokio::test]
async fn an_edge_that_is_lost_is_noticed_at_once_and_comes_back() {
    let rig = Rig::arranged(|_, settings| settings.pace.connected = Duration::from_hours(1));
    rig.connected().await;
    rig.fake.behaves("lost");
    // Nobody asks cloudflared within the hour: what it logs is reason enough.
    rig.until("it is lost", |status| matches!(status.state, TunnelState::Lost { .. })).await;
    rig.fake.behaves("well");
    rig.connected().await;
    assert_eq!(rig.generation(), 1, "nobody was started anew for that");
    rig.stops().await;
}

#[tokio::test]
async fn an_edge_that_is_lost_for_hours_has_cloudflared_started_anew_alone() {
    let rig = Rig::arranged(|_, settings| settings.pace.patience = Duration::from_secs(1));
    rig.connected().await;
    rig.fake.behaves("lost");
    let lost = rig.until("it is lost", |status| matches!(status.state, TunnelState::Lost { .. })).await;
    eventually("two more starts", || rig.generation() >= 3).await;
    assert_eq!(rig.tunnel.status().state, lost.state, "it is lost since the same moment");
    rig.heals().await;
}

#[tokio::test]
async fn an_edge_that_is_not_trusted_never_exits_and_its_flood_hides_nothing() {
    let rig = Rig::behaving("flood");
    rig.failed("Cloudflare cannot be reached: TLS handshake with edge error: x509", "port 7844").await;
    assert_eq!(rig.generation(), 1);
    rig.heals().await;
}

#[tokio::test]
async fn a_version_that_breaks_paths_is_refused_and_its_successor_taken() {
    let rig = Rig::arranged(|fake, _| fake.tell("version", "2026.8.1"));
    rig.failed("cloudflared 2026.8.1 changes the paths of requests", "2026.8.2 or later").await;
    assert_eq!(rig.generation(), 0);
    // More than a year old is a warning in the log, no more.
    rig.fake.tell("version", "2024.1.0");
    rig.heals().await;
}

#[tokio::test]
async fn a_cloudflared_that_is_not_there_is_taken_when_it_was_installed() {
    let rig = Rig::arranged(|fake, _| fake.is_removed());
    rig.failed("cloudflared cannot be run: ", "brew install cloudflared").await;
    rig.fake.is_installed();
    rig.heals().await;
}

/// Somebody who streams behind the tunnel: accepts one request, answers with the beginning of an answer without end.
async fn stream_behind(rig: &Rig) -> io::Result<(UnixStream, TcpStream)> {
    let listener = UnixListener::bind(&rig.socket)?;
    rig.connected().await;
    let mut client = TcpStream::connect(rig.fake.edge()).await?;
    client.write_all(b"GET /bear HTTP/1.1\r\nhost: bridge.example.com\r\n\r\n").await?;
    let (mut origin, _) = listener.accept().await?;
    let mut request = [0; 4096];
    let length = origin.read(&mut request).await?;
    let request = String::from_utf8_lossy(&request[..length]).to_lowercase();
    assert!(request.contains("host: bridge.example.com") && request.contains("accept-encoding: gzip"), "{request}");
    origin.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n").await?;
    let mut answer = String::new();
    while !answer.contains("first") {
        let mut bytes = [0; 1024];
        let length = client.read(&mut bytes).await?;
        assert_ne!(length, 0, "the answer ends too early");
        answer.push_str(&String::from_utf8_lossy(&bytes[..length]));
    }
    Ok((origin, client))
}

#[tokio::test]
async fn a_stream_that_is_ended_in_order_reaches_its_client_before_cloudflared_ends() {
    let rig = Rig::behaving("well");
    let (mut origin, mut client) = within("a stream", stream_behind(&rig)).await.unwrap();
    let stop = rig.tunnel.process().stop();
    eventually("it says good-bye to the edge", || nobody_listens_at(&rig.fake.edge())).await;
    assert_eq!(rig.tunnel.process().status().last_exit, None, "it waits for what is in flight");
    origin.write_all(b"4\r\nlast\r\n0\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    within("the last part", client.read_to_end(&mut rest)).await.unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("last"));
    assert_eq!(within("its end", stop).await, Stopped::Exited);
    assert_eq!(rig.tunnel.process().status().last_exit.unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_stream_that_nobody_ends_holds_cloudflared_for_its_grace_and_no_longer() {
    let rig = Rig::arranged(|_, settings| settings.shutdown_timeout = Duration::from_secs(5));
    let (_origin, _client) = within("a stream", stream_behind(&rig)).await.unwrap();
    // Its grace is 2 s, SIGKILL would come after 4.
    rig.stops().await;
}

/// Whether the edge takes no more requests.
fn nobody_listens_at(address: &str) -> bool {
    std::net::TcpStream::connect(address).is_err()
}

/// What somebody who asks ferry itself is told: status and body.
async fn asked(address: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
}

#[tokio::test]
async fn healthz_and_metrics_tell_the_truth_about_the_tunnel() {
    let (dir, fake, settings) = place();
    let tcp = Tcp::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = tcp.address();
    let guard = Guard::new(Listener::Local(address.ip()), &[], &[]).unwrap();
    let beginning = Beginning {
        servers: Vec::new(),
        broken: Vec::new(),
        local: Some(Local { tcp, guard, admission: Admission::loopback() }),
        tunnel: Plan::Open(Box::new(settings)),
        keys: Keys::new(&[3; 32]),
        limits: Arc::default(),
        source: None,
    };
    let service = Service::begin(supervisor(), beginning);
    for (mode, status, word, connections) in
        [("well", "200", "ok", 4), ("lost", "503", "down", 0), ("well", "200", "ok", 4)]
    {
        fake.behaves(mode);
        let expected =
            format!(r#"{{"status":"{}","tunnel":"{word}","mcps":{{}}}}"#, if word == "ok" { "ok" } else { "degraded" });
        let told = async {
            while asked(address, "/healthz").await != (status.to_owned(), expected.clone()) {
                tokio::time::sleep(crate::common::GLANCE).await;
            }
        };
        within(mode, told).await;
        let (_, metrics) = asked(address, "/metrics").await;
        assert!(metrics.contains(&format!("ferry_tunnel_connections {connections}\n")), "{metrics}");
    }
    drop((service, dir));
}

/// Run by the extra suite, where there is a real cloudflared.
#[tokio::test]
#[ignore = "needs a real cloudflared on the PATH, and no way to Cloudflare"]
async fn a_real_cloudflared_accepts_every_configuration_and_says_that_it_reaches_nobody() {
    for (protocol, edge_ip_version) in [
        (None, None),
        (Some(TunnelProtocol::Http2), Some(IpVersion::V4)),
        (Some(TunnelProtocol::Quic), Some(IpVersion::V6)),
        (Some(TunnelProtocol::Auto), Some(IpVersion::Auto)),
    ] {
        let rig = Rig::arranged(|_, settings| {
            settings.program = "cloudflared".into();
            settings.protocol = protocol;
            settings.edge_ip_version = edge_ip_version;
            settings.hostname = "bridge.example.com".to_owned();
        });
        let failed = |status: &TunnelStatus| matches!(status.state, TunnelState::Failed { .. });
        let status = rig.until("it reaches nobody", failed).await;
        let TunnelState::Failed { why, .. } = &status.state else { unreachable!("that was waited for") };
        // Not its configuration, its options or its credentials: those are as it wants them.
        let network = ["cannot be looked up", "cannot be reached", "Cloudflare refuses the tunnel"];
        assert!(network.iter().any(|text| why.contains(text)), "{protocol:?}: {why}");
        within("its end", rig.tunnel.process().stop()).await;
    }
}
