//! Opens a connection: finds out, in the one process there is, which era the server at its end speaks.
//!
//! What servers do with a first message that they do not know differs widely (refuse it with any code, answer with a
//! null id, say nothing, exit), so no verdict rests on one error code. [`State::on`] decides, [`open`] carries out.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::connection::{Connection, End, Exchange};
use super::envelope::{Message, code};
use super::members::{Members, elements, quote, rewrite, string};
use super::version::{self, Era, LATEST_LEGACY, LATEST_MODERN};

/// How a connection is to be opened.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Which eras may be tried.
    pub era: Choice,
    /// ferry's own `clientInfo` object, as JSON.
    pub client_info: String,
    /// The `capabilities` declared to a legacy server, as JSON.
    pub capabilities: String,
    /// The parameters of an `initialize` to be repeated word for word, instead of `client_info` and `capabilities`.
    pub initialize: Option<String>,
    /// Leave `notifications/initialized` to the caller.
    pub hold_initialized: bool,
    /// How long the answer to `server/discover` is waited for before `initialize` is tried as well.
    pub probe_timeout: Duration,
    /// How long opening may take in all.
    pub start_timeout: Duration,
}

/// Which era to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The modern one where the server has it, else the legacy one.
    Probe,
    /// The legacy one where the server has it, else the modern one.
    PreferLegacy,
    /// The legacy one, without asking.
    Legacy,
    /// The modern one, without falling back.
    Modern,
}

/// An opened connection.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The era it is in.
    pub era: Era,
    /// The protocol version that the server speaks.
    pub version: String,
    /// The server's `InitializeResult` or `DiscoverResult`, as it wrote it.
    pub result: Bytes,
    /// A legacy connection to a server that has the modern era too.
    pub modern_capable: bool,
}

impl Opened {
    /// What the server calls itself, with its version.
    pub fn server(&self) -> String {
        let result = std::str::from_utf8(&self.result).ok().and_then(|text| Members::read(text).ok());
        let result = result.unwrap_or_default();
        let meta = result.object("_meta");
        let info = result
            .object("serverInfo")
            .or_else(|| meta.and_then(|meta| meta.object("io.modelcontextprotocol/serverInfo")))
            .unwrap_or_default();
        let text = |name| info.string(name).unwrap_or_default().into_owned();
        format!("{} {}", text("name"), text("version")).trim().to_owned()
    }
}

/// Why a connection could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The server ended at the first modern message. A new process should be greeted with `initialize` at once.
    #[error("the server ended when it was asked `server/discover`")]
    EndedOnProbe,
    /// The server ended at `initialize`. A new process should be asked `server/discover`.
    #[error("the server ended when it was asked `initialize`")]
    EndedOnInitialize,
    /// The server ended.
    #[error("the server ended before it had answered `{asked}`")]
    Ended {
        /// What it had been asked.
        asked: &'static str,
    },
    /// The server said nothing.
    #[error("the server did not answer `{asked}` within {}s", after.as_secs())]
    Silent {
        /// What it had been asked.
        asked: &'static str,
        /// How long it was given.
        after: Duration,
    },
    /// The server refused.
    #[error("the server refused `{asked}`: {message} ({code})")]
    Refused {
        /// What it had been asked.
        asked: &'static str,
        /// The JSON-RPC error code.
        code: i64,
        /// Its words.
        message: String,
    },
    /// There is no version that both speak.
    #[error("the server speaks {}, ferry speaks {}", list(offered), list(version::LEGACY.iter().chain(version::MODERN)))]
    NoCommonVersion {
        /// The versions it offered.
        offered: BTreeSet<String>,
    },
    /// The answer was no answer.
    #[error("the server's answer to `{asked}` cannot be read")]
    Unreadable {
        /// What it had been asked.
        asked: &'static str,
    },
}

fn list<S: AsRef<str>>(versions: impl IntoIterator<Item = S>) -> String {
    let versions: Vec<String> = versions.into_iter().map(|version| version.as_ref().to_owned()).collect();
    if versions.is_empty() { "no version it names".to_owned() } else { versions.join(", ") }
}

const DISCOVER: &str = "server/discover";
const INITIALIZE: &str = "initialize";

/// Where an opening stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// `server/discover` is out; `again` after a first refusal that named a better version, `fell_forward` after the
    /// refusal of `initialize`.
    Discovering { again: bool, fall_back: bool, fell_forward: bool },
    /// `server/discover` was not answered in time, so `initialize` is out as well.
    Both { discovered: bool, refused: bool },
    /// `initialize` is out, alone; `again` after a first refusal that named a better version.
    Initializing { again: bool, fall_forward: bool },
}

/// What the server did, or did not.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    /// It answered `server/discover`; these are its versions.
    Discovered(Vec<String>),
    /// It refused `server/discover`.
    DiscoverRefused(Refusal),
    /// It has not answered `server/discover` in the time it was given.
    ProbeTimeout,
    /// It answered `initialize`.
    Initialized,
    /// It refused `initialize`.
    InitializeRefused(Refusal),
    /// It is gone.
    Closed,
}

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Refusal {
    code: i64,
    message: String,
    supported: Vec<String>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Wait,
    Discover(&'static str),
    Initialize(&'static str),
    Done(Era),
    Fail(OpenError),
}

impl State {
    /// The next state and the one thing to do about it.
    fn on(self, event: Event) -> (Self, Step) {
        use Event::{Closed, DiscoverRefused, Discovered, InitializeRefused, Initialized, ProbeTimeout};
        use State::{Both, Discovering, Initializing};
        let initialize = (Initializing { again: false, fall_forward: false }, Step::Initialize(LATEST_LEGACY));
        let modern = |versions: &[String]| version::best_modern(versions.iter().map(String::as_str)).is_some();
        match (self, event) {
            (Discovering { fall_back, .. }, Discovered(versions)) => {
                if modern(&versions) {
                    (self, Step::Done(Era::Modern))
                } else if fall_back {
                    initialize
                } else {
                    (self, Step::Fail(OpenError::NoCommonVersion { offered: versions.into_iter().collect() }))
                }
            }
            (Discovering { again, fall_back, fell_forward }, DiscoverRefused(refusal)) => {
                let named = refusal.code == i64::from(code::UNSUPPORTED_VERSION);
                let best = version::best_modern(refusal.supported.iter().map(String::as_str));
                let unknown = !refusal.supported.is_empty()
                    && refusal.supported.iter().all(|v| version::is_modern_shaped(v) && !version::is_modern(v));
                match best {
                    Some(best) if named && !again => {
                        (Discovering { again: true, fall_back, fell_forward }, Step::Discover(best))
                    }
                    _ if named && unknown => {
                        let offered = refusal.supported.into_iter().collect();
                        (self, Step::Fail(OpenError::NoCommonVersion { offered }))
                    }
                    _ if fall_back => initialize,
                    _ => (self, Step::Fail(refusal.into_error(DISCOVER))),
                }
            }
            (Discovering { fall_back: true, .. }, ProbeTimeout) => {
                (Both { discovered: false, refused: false }, Step::Initialize(LATEST_LEGACY))
            }
            (Discovering { fall_back: true, .. }, Closed) => (self, Step::Fail(OpenError::EndedOnProbe)),
            // Some modern servers end without an answer to `initialize`, some after one.
            (Discovering { fell_forward: true, .. } | Initializing { fall_forward: true, .. }, Closed) => {
                (self, Step::Fail(OpenError::EndedOnInitialize))
            }
            (Discovering { fall_back: false, .. }, Closed) => (self, Step::Fail(OpenError::Ended { asked: DISCOVER })),

            (Both { refused, .. }, Discovered(versions)) => match (modern(&versions), refused) {
                (true, true) => (self, Step::Done(Era::Modern)),
                (discovered, false) => (Both { discovered, refused }, Step::Wait),
                (false, true) => {
                    (self, Step::Fail(OpenError::NoCommonVersion { offered: versions.into_iter().collect() }))
                }
            },
            // The process is legacy for this generation; what it knows besides is for the next start.
            (Both { .. } | Initializing { .. }, Initialized) => (self, Step::Done(Era::Legacy)),
            (Both { discovered, .. }, InitializeRefused(refusal)) => {
                let modern_only = [code::UNSUPPORTED_VERSION, code::METHOD_NOT_FOUND, code::INVALID_REQUEST]
                    .iter()
                    .any(|code| i64::from(*code) == refusal.code);
                match (modern_only, discovered) {
                    (true, true) => (self, Step::Done(Era::Modern)),
                    (true, false) => (Both { discovered, refused: true }, Step::Wait),
                    (false, _) => (self, Step::Fail(refusal.into_error(INITIALIZE))),
                }
            }
            (Both { refused: true, .. }, DiscoverRefused(refusal)) => (self, Step::Fail(refusal.into_error(DISCOVER))),
            (Initializing { again, fall_forward }, InitializeRefused(refusal)) => {
                match version::best_legacy(refusal.supported.iter().map(String::as_str)) {
                    Some(best) if !again => (Initializing { again: true, fall_forward }, Step::Initialize(best)),
                    _ if fall_forward => {
                        let next = Discovering { again: false, fall_back: false, fell_forward: true };
                        (next, Step::Discover(LATEST_MODERN))
                    }
                    _ => (self, Step::Fail(refusal.into_error(INITIALIZE))),
                }
            }
            (Both { .. } | Initializing { .. }, Closed) => (self, Step::Fail(OpenError::Ended { asked: INITIALIZE })),
            // What is left is the handshake alone.
            (Both { .. }, DiscoverRefused(_)) => (Initializing { again: false, fall_forward: false }, Step::Wait),
            (Both { .. } | Discovering { fall_back: false, .. }, ProbeTimeout)
            | (Initializing { .. }, Discovered(_) | DiscoverRefused(_) | ProbeTimeout)
            | (Discovering { .. }, Initialized | InitializeRefused(_)) => (self, Step::Wait),
        }
    }
}

impl Refusal {
    fn read(message: &Message) -> Self {
        let Some((code, error)) = message.error_members() else { return Self::default() };
        let supported = error.object("data").and_then(|data| Some(strings(data.text("supported")?)));
        Self {
            code,
            message: error.string("message").unwrap_or_default().into_owned(),
            supported: supported.unwrap_or_default(),
        }
    }

    fn into_error(self, asked: &'static str) -> OpenError {
        if self.code == i64::from(code::UNSUPPORTED_VERSION) && !self.supported.is_empty() {
            return OpenError::NoCommonVersion { offered: self.supported.into_iter().collect() };
        }
        OpenError::Refused { asked, code: self.code, message: self.message }
    }
}

/// The strings of a JSON array; none where it is something else.
pub fn strings(text: &str) -> Vec<String> {
    let elements = elements(text).unwrap_or_default();
    elements.iter().filter_map(|element| Some(string(element.get())?.into_owned())).collect()
}

/// Opens a connection whose pump is running.
///
/// # Errors
/// [`OpenError`]; the process behind the connection is of no use then.
pub async fn open<X: Exchange>(connection: &Connection<X>, opening: &Opening) -> Result<Opened, OpenError> {
    let started = Instant::now();
    let deadline = started + opening.start_timeout;
    let mut probe_deadline = None;
    let mut discover = None;
    let mut initialize = None;
    let mut discovered = None;
    let mut initialized = None;
    let mut initialized_before = false;
    let (mut state, mut step) = match opening.era {
        Choice::Probe | Choice::Modern => {
            let fall_back = opening.era == Choice::Probe;
            (State::Discovering { again: false, fall_back, fell_forward: false }, Step::Discover(LATEST_MODERN))
        }
        Choice::PreferLegacy => {
            (State::Initializing { again: false, fall_forward: true }, Step::Initialize(LATEST_LEGACY))
        }
        Choice::Legacy => (State::Initializing { again: false, fall_forward: false }, Step::Initialize(LATEST_LEGACY)),
    };
    let mut asked;
    loop {
        match step {
            Step::Wait => {}
            Step::Discover(version) => {
                let params = discover_params(version, opening);
                discover = Some(Box::pin(async move { connection.call(DISCOVER, &params).await }));
                probe_deadline = Some(Instant::now() + opening.probe_timeout);
            }
            Step::Initialize(version) => {
                let params = initialize_params(version, opening, std::mem::replace(&mut initialized_before, true));
                initialize = Some(Box::pin(async move { connection.call(INITIALIZE, &params).await }));
                probe_deadline = None;
            }
            Step::Done(Era::Modern) => return modern(discovered),
            Step::Done(Era::Legacy) => {
                if !opening.hold_initialized {
                    connection.notify("notifications/initialized", None);
                }
                return legacy(initialized, discovered.is_some());
            }
            Step::Fail(error) => return Err(error),
        }
        asked = if discover.is_none() || initialize.is_some() { INITIALIZE } else { DISCOVER };
        let event = tokio::select! {
            end = some(&mut discover) => {
                discover = None;
                match end {
                    End::Answered(message) if message.result().is_some() => {
                        let versions = offered(&message);
                        if version::best_modern(versions.iter().map(String::as_str)).is_some() {
                            discovered = Some(message);
                        }
                        Event::Discovered(versions)
                    }
                    End::Answered(message) => Event::DiscoverRefused(Refusal::read(&message)),
                    End::Malformed | End::TooLarge(_) => Event::DiscoverRefused(Refusal::default()),
                    End::Closed | End::NotSent => Event::Closed,
                }
            }
            end = some(&mut initialize) => {
                initialize = None;
                match end {
                    End::Answered(message) if message.result().is_some() => {
                        initialized = Some(message);
                        Event::Initialized
                    }
                    End::Answered(message) => Event::InitializeRefused(Refusal::read(&message)),
                    End::Malformed | End::TooLarge(_) => return Err(OpenError::Unreadable { asked: INITIALIZE }),
                    End::Closed | End::NotSent => Event::Closed,
                }
            }
            () = sleep_until(probe_deadline.unwrap_or(deadline)), if probe_deadline.is_some() => {
                probe_deadline = None;
                Event::ProbeTimeout
            }
            () = sleep_until(deadline) => {
                return Err(OpenError::Silent { asked, after: opening.start_timeout });
            }
        };
        (state, step) = state.on(event);
    }
}

/// The future's output, or never where there is none.
async fn some<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

fn offered(message: &Message) -> Vec<String> {
    let result = message.result_text().and_then(|text| Members::read(text).ok()).unwrap_or_default();
    result.text("supportedVersions").map(strings).unwrap_or_default()
}

fn modern(discovered: Option<Message>) -> Result<Opened, OpenError> {
    let unreadable = OpenError::Unreadable { asked: DISCOVER };
    let message = discovered.ok_or(unreadable.clone())?;
    let versions = offered(&message);
    let version = version::best_modern(versions.iter().map(String::as_str)).ok_or(unreadable.clone())?;
    Ok(Opened {
        era: Era::Modern,
        version: version.to_owned(),
        result: message.result().ok_or(unreadable)?,
        modern_capable: true,
    })
}

fn legacy(initialized: Option<Message>, modern_capable: bool) -> Result<Opened, OpenError> {
    let unreadable = OpenError::Unreadable { asked: INITIALIZE };
    let message = initialized.ok_or(unreadable.clone())?;
    let result = message.result_text().and_then(|text| Members::read(text).ok()).ok_or(unreadable.clone())?;
    let answered = result.string("protocolVersion").unwrap_or_default();
    let (version, odd) = version::as_legacy(&answered);
    if odd {
        tracing::warn!("the server answered with protocol version {answered:?}; it is taken for {version}");
    }
    let version = version.to_owned();
    Ok(Opened { era: Era::Legacy, version, result: message.result().ok_or(unreadable)?, modern_capable })
}

/// The `_meta` of a modern request that ferry makes on its own behalf.
pub fn own_meta(version: &str, client_info: &str) -> String {
    format!(
        "{{\"io.modelcontextprotocol/protocolVersion\":{},\"io.modelcontextprotocol/clientInfo\":{client_info},\
         \"io.modelcontextprotocol/clientCapabilities\":{{}}}}",
        quote(version)
    )
}

fn discover_params(version: &str, opening: &Opening) -> String {
    format!("{{\"_meta\":{}}}", own_meta(version, &opening.client_info))
}

/// The second time with a version that the server has named.
fn initialize_params(version: &str, opening: &Opening, again: bool) -> String {
    if let Some(verbatim) = &opening.initialize {
        let members = Members::read(verbatim).ok().filter(|_| again);
        return members
            .map_or_else(|| verbatim.clone(), |own| rewrite(&own, &[("protocolVersion", Some(&quote(version)))]));
    }
    format!(
        "{{\"protocolVersion\":{},\"capabilities\":{},\"clientInfo\":{}}}",
        quote(version),
        opening.capabilities,
        opening.client_info
    )
}

#[cfg(test)]
mod tests {
    use super::Event::{Closed, DiscoverRefused, Discovered, InitializeRefused, Initialized, ProbeTimeout};
    use super::*;

    const START: State = State::Discovering { again: false, fall_back: true, fell_forward: false };

    fn refused(code: i64, supported: &[&str]) -> Refusal {
        Refusal { code, message: "no".into(), supported: supported.iter().map(|v| (*v).to_owned()).collect() }
    }

    fn discovered(versions: &[&str]) -> Event {
        Discovered(versions.iter().map(|v| (*v).to_owned()).collect())
    }

    /// The steps that lead from the start through `events`.
    fn steps(start: State, events: impl IntoIterator<Item = Event>) -> Vec<Step> {
        let mut state = start;
        let mut steps = Vec::new();
        for event in events {
            let (next, step) = state.on(event);
            steps.push(step);
            state = next;
        }
        steps
    }

    #[test]
    fn each_kind_of_server_is_opened_in_its_era() {
        use Step::{Discover, Done, Fail, Initialize, Wait};
        let initialize = || Initialize(LATEST_LEGACY);
        for (who, events, expected) in [
            ("modern or dual", vec![discovered(&["2026-07-28"])], vec![Done(Era::Modern)]),
            (
                "typescript 1.x",
                vec![DiscoverRefused(refused(-32601, &[])), Initialized],
                vec![initialize(), Done(Era::Legacy)],
            ),
            (
                "python 1.x",
                vec![DiscoverRefused(refused(-32602, &[])), Initialized],
                vec![initialize(), Done(Era::Legacy)],
            ),
            (
                "knows discover, lists only legacy",
                vec![discovered(&["2025-11-25"]), Initialized],
                vec![initialize(), Done(Era::Legacy)],
            ),
            ("no versions at all", vec![discovered(&[]), Initialized], vec![initialize(), Done(Era::Legacy)]),
            ("exits on the probe", vec![Closed], vec![Fail(OpenError::EndedOnProbe)]),
            ("never answers", vec![ProbeTimeout, Initialized], vec![initialize(), Done(Era::Legacy)]),
            (
                "typescript 2.x, late",
                vec![ProbeTimeout, discovered(&["2026-07-28"]), Initialized],
                vec![initialize(), Wait, Done(Era::Legacy)],
            ),
            (
                "python 2.x, late",
                vec![ProbeTimeout, discovered(&["2026-07-28"]), InitializeRefused(refused(-32022, &["2026-07-28"]))],
                vec![initialize(), Wait, Done(Era::Modern)],
            ),
            (
                "python 2.x, late, answers crossed",
                vec![ProbeTimeout, InitializeRefused(refused(-32022, &["2026-07-28"])), discovered(&["2026-07-28"])],
                vec![initialize(), Wait, Done(Era::Modern)],
            ),
            (
                "late, refuses both",
                vec![ProbeTimeout, DiscoverRefused(refused(-32601, &[])), InitializeRefused(refused(-32600, &[]))],
                vec![
                    initialize(),
                    Wait,
                    Fail(OpenError::Refused { asked: INITIALIZE, code: -32600, message: "no".into() }),
                ],
            ),
            (
                "late and broken",
                vec![ProbeTimeout, InitializeRefused(refused(-32603, &[]))],
                vec![initialize(), Fail(OpenError::Refused { asked: INITIALIZE, code: -32603, message: "no".into() })],
            ),
            (
                "another modern version, which ferry knows",
                vec![DiscoverRefused(refused(-32022, &["2026-07-28"])), discovered(&["2026-07-28"])],
                vec![Discover("2026-07-28"), Done(Era::Modern)],
            ),
            (
                "refuses what it offers",
                vec![
                    DiscoverRefused(refused(-32022, &["2026-07-28"])),
                    DiscoverRefused(refused(-32022, &["2026-07-28"])),
                    Initialized,
                ],
                vec![Discover("2026-07-28"), initialize(), Done(Era::Legacy)],
            ),
            (
                "only versions of the future",
                vec![DiscoverRefused(refused(-32022, &["2031-01-01"]))],
                vec![Fail(OpenError::NoCommonVersion { offered: BTreeSet::from(["2031-01-01".to_owned()]) })],
            ),
            (
                "legacy versions in a modern refusal",
                vec![DiscoverRefused(refused(-32022, &["2025-06-18"])), Initialized],
                vec![initialize(), Done(Era::Legacy)],
            ),
            (
                "wants an older handshake",
                vec![
                    DiscoverRefused(refused(-32601, &[])),
                    InitializeRefused(refused(-32602, &["2024-11-05", "2025-03-26"])),
                    Initialized,
                ],
                vec![initialize(), Initialize("2025-03-26"), Done(Era::Legacy)],
            ),
            (
                "exits on initialize",
                vec![DiscoverRefused(refused(-32601, &[])), Closed],
                vec![initialize(), Fail(OpenError::Ended { asked: INITIALIZE })],
            ),
        ] {
            assert_eq!(steps(START, events), expected, "{who}");
        }
    }

    #[test]
    fn a_chosen_era_is_not_left() {
        let modern = State::Discovering { again: false, fall_back: false, fell_forward: false };
        assert_eq!(steps(modern, [ProbeTimeout]), [Step::Wait]);
        assert_eq!(steps(modern, [Closed]), [Step::Fail(OpenError::Ended { asked: DISCOVER })]);
        let refusal = OpenError::Refused { asked: DISCOVER, code: -32601, message: "no".into() };
        assert_eq!(steps(modern, [DiscoverRefused(refused(-32601, &[]))]), [Step::Fail(refusal)]);
        assert!(matches!(steps(modern, [discovered(&["2025-06-18"])])[..], [Step::Fail(_)]));
    }

    #[test]
    fn where_the_legacy_era_is_preferred_a_modern_server_is_still_found() {
        use Step::{Discover, Done, Fail};
        let start = State::Initializing { again: false, fall_forward: true };
        assert_eq!(steps(start, [Initialized]), [Done(Era::Legacy)]);
        for code in [-32022, -32601, -32602, -32600] {
            let events = [InitializeRefused(refused(code, &["2026-07-28"])), discovered(&["2026-07-28"])];
            assert_eq!(steps(start, events), [Discover(LATEST_MODERN), Done(Era::Modern)], "{code}");
        }
        assert_eq!(steps(start, [Closed]), [Fail(OpenError::EndedOnInitialize)]);
        let events = [InitializeRefused(refused(-32022, &["2026-07-28"])), Closed];
        assert_eq!(steps(start, events), [Discover(LATEST_MODERN), Fail(OpenError::EndedOnInitialize)]);
        let events = [InitializeRefused(refused(-32603, &[])), DiscoverRefused(refused(-32601, &[]))];
        let refusal = OpenError::Refused { asked: DISCOVER, code: -32601, message: "no".into() };
        assert_eq!(steps(start, events), [Discover(LATEST_MODERN), Fail(refusal)]);
    }

    #[test]
    fn an_error_says_both_lists() {
        let error = OpenError::NoCommonVersion { offered: BTreeSet::from(["2031-01-01".to_owned()]) };
        assert_eq!(
            error.to_string(),
            "the server speaks 2031-01-01, ferry speaks 2024-11-05, 2025-03-26, 2025-06-18, 2025-11-25, 2026-07-28"
        );
    }
}
