//! Every bound of the bridge, in one place.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::values::seconds;

/// The bounds of the bridge: times in seconds, sizes in bytes. The defaults are those of `protocol.md` §8 unless a field says otherwise.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of one request body.
    pub max_body_bytes: usize,
    /// Bytes of all request bodies that are being read or waited for.
    pub max_body_bytes_in_all: usize,
    /// Bytes of one line that a server writes.
    pub max_message_bytes: usize,
    /// How long a request may take without a sign of progress. Hosted clients give up at 300 s, and ferry's own words
    /// should arrive before that.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub request_timeout: Duration,
    /// How long a request may take in all.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub request_timeout_in_all: Duration,
    /// How long a request of a legacy client goes on after that client's connection was lost.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub detached_ttl: Duration,
    /// How long the answer to a request of a server's own is waited for.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub s2c_timeout: Duration,
    /// How long a request of a server's own waits for a stream to its client.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub s2c_stream_wait: Duration,
    /// Requests in flight, of one endpoint.
    pub max_inflight: usize,
    /// Requests in flight, of one identity at one endpoint.
    pub max_inflight_per_identity: usize,
    /// Sessions of one endpoint.
    pub max_sessions: usize,
    /// Sessions of one identity at one endpoint.
    pub max_sessions_per_identity: usize,
    /// How long a session without a stream is kept after its last request.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub session_idle: Duration,
    /// Ended sessions that are remembered as ended.
    pub max_ended_sessions: usize,
    /// Standing streams of one session.
    pub max_streams_per_session: usize,
    /// Messages kept for a session that has no stream open.
    pub max_queued: usize,
    /// Messages of one request that wait for its client to read; beyond it the oldest progress and logs are dropped.
    pub max_outbound: usize,
    /// Bytes of answers that clients of one endpoint have yet to read. Beyond it the client that has read nothing for
    /// the longest time is cut off.
    pub max_unread_bytes: usize,
    /// Bytes of answers that clients of one identity have yet to read, of one endpoint.
    pub max_unread_bytes_per_identity: usize,
    /// Questions of a server that one session has yet to answer.
    pub max_questions: usize,
    /// Tasks of which it is known whose they are.
    pub max_tasks: usize,
    /// How long it is known whose a task is.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub task_memory: Duration,
    /// Streams of one session that a client can come back to.
    pub replay_streams: usize,
    /// Events of one stream that are kept for a client that comes back.
    pub replay_events: usize,
    /// Bytes of them.
    pub replay_bytes: usize,
    /// Bytes of them, of all streams of one session.
    pub replay_session_bytes: usize,
    /// Bytes of them, of all sessions of one endpoint.
    pub replay_bytes_in_all: usize,
    /// How long they are kept after the stream's final response.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub replay_kept: Duration,
    /// Resources that one session may subscribe to.
    pub max_subscriptions: usize,
    /// `subscriptions/listen` streams of one endpoint.
    pub max_listens: usize,
    /// `subscriptions/listen` streams of one identity at one endpoint.
    pub max_listens_per_identity: usize,
    /// How long the acknowledgement of a `subscriptions/listen` is waited for.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub listen_ack: Duration,
    /// How long a listen stream outlives the server it listened to.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub relisten: Duration,
    /// URLs that sessions were shown and may hear more of.
    pub max_elicitations: usize,
    /// How long the acknowledgement of a subscription is waited for on behalf of a modern client.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub subscribe_wait: Duration,
    /// How long a modern client may take to give what its call needs from it.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub round_ttl: Duration,
    /// How long further questions of one call are waited for, so that a client gets them together.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub round_gather: Duration,
    /// How often one call may ask its client back.
    pub max_rounds: usize,
    /// Bytes of what one call may ask at once.
    pub max_input_bytes: usize,
    /// Calls of one server that wait for their clients.
    pub max_suspended: usize,
    /// Calls of one identity at one server that wait for their clients.
    pub max_suspended_per_identity: usize,
    /// Lines that wait for a server to read them.
    pub max_queue_lines: usize,
    /// Bytes of the lines that wait for a server to read them.
    pub max_queue_bytes: usize,
    /// How long a full queue to a server is waited for.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub queue_wait: Duration,
    /// How long a request waits for its server to start.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub start_wait: Duration,
    /// How long a server may take from its spawn to the end of its handshake.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub start_timeout: Duration,
    /// How long a server may leave `server/discover` unanswered before `initialize` is tried as well.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub probe_timeout: Duration,
    /// How long a server that let a request time out may leave a sign of life unanswered.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub liveness_timeout: Duration,
    /// How long a lower log level waits before the server is told.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub log_level_linger: Duration,
    /// How long an answer may be held back before a stream is begun for it. Middleboxes and Cloudflare cut an answer
    /// without a byte after 60 to 100 s.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub commit_after: Duration,
    /// The distance of comments that keep a stream open (Cloudflare cuts it after 100 to 125 s of silence).
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub keep_alive: Duration,
    /// How long a connection may stay idle. cloudflared reuses them for 90 s; who closes first loses a POST.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub connection_idle: Duration,
    /// How long the header section of a request may take.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub header_timeout: Duration,
    /// Bytes of the header section of a request.
    pub max_header_bytes: usize,
    /// Connections of one listener.
    pub max_connections: usize,
    /// How much of the stop is left for calls in flight.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub drain: Duration,
}

impl Limits {
    /// Those that are of a listener, or of ferry as a whole, and so of no single server.
    pub const OF_ALL: &[&str] = &[
        "connection_idle",
        "drain",
        "header_timeout",
        "max_body_bytes",
        "max_body_bytes_in_all",
        "max_connections",
        "max_header_bytes",
    ];
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: usize = 1 << 20;
        let minutes = Duration::from_mins;
        let seconds = Duration::from_secs;
        Self {
            max_body_bytes: 16 * MIB,
            max_body_bytes_in_all: 64 * MIB,
            max_message_bytes: 32 * MIB,
            request_timeout: seconds(290),
            request_timeout_in_all: minutes(60),
            detached_ttl: minutes(5),
            s2c_timeout: minutes(10),
            s2c_stream_wait: seconds(10),
            max_inflight: 256,
            max_inflight_per_identity: 64,
            max_sessions: 1000,
            max_sessions_per_identity: 64,
            session_idle: minutes(30),
            max_ended_sessions: 10_000,
            max_streams_per_session: 8,
            max_queued: 64,
            max_outbound: 256,
            max_unread_bytes: 256 * MIB,
            max_unread_bytes_per_identity: 64 * MIB,
            max_questions: 64,
            max_tasks: 10_000,
            task_memory: minutes(24 * 60),
            replay_streams: 256,
            replay_events: 256,
            replay_bytes: MIB,
            replay_session_bytes: 8 * MIB,
            replay_bytes_in_all: 256 * MIB,
            replay_kept: minutes(5),
            max_subscriptions: 1024,
            max_listens: 512,
            max_listens_per_identity: 32,
            listen_ack: seconds(10),
            relisten: seconds(60),
            max_elicitations: 4096,
            subscribe_wait: seconds(5),
            round_ttl: minutes(5),
            round_gather: Duration::from_millis(30),
            max_rounds: 10,
            max_input_bytes: 64 * 1024,
            max_suspended: 256,
            max_suspended_per_identity: 16,
            max_queue_lines: 1024,
            max_queue_bytes: 32 * MIB,
            queue_wait: seconds(5),
            start_wait: seconds(30),
            start_timeout: seconds(60),
            probe_timeout: seconds(5),
            liveness_timeout: seconds(10),
            log_level_linger: seconds(30),
            commit_after: seconds(15),
            keep_alive: seconds(15),
            connection_idle: seconds(120),
            header_timeout: seconds(15),
            max_header_bytes: 64 * 1024,
            max_connections: 4096,
            drain: seconds(4),
        }
    }
}
