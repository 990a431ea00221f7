//! `/healthz` and `/metrics`: worked out when asked, never stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State as Shared};
use axum::routing::get;
use http::{Response, StatusCode, header};
use serde::Serialize;

use super::metrics;
use super::servers::{Servers, is_well};
use super::tunnel::Way;
use crate::bridge::auth::Admission;
use crate::bridge::origin::Guard;
use crate::supervisor::State;

const JSON: &str = "application/json";

/// What is to be seen of ferry on one listener.
pub(super) struct Seen {
    pub(super) guard: Guard,
    pub(super) admission: Admission,
    pub(super) servers: Arc<Servers>,
    pub(super) tunnel: Arc<Way>,
}

/// Its answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Report {
    status: Overall,
    #[serde(skip_serializing_if = "Option::is_none")]
    tunnel: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mcps: Option<BTreeMap<String, Word>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Overall {
    Ok,
    Degraded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Word {
    Ok,
    Starting,
    Down,
}

impl Seen {
    pub(super) fn router(self) -> Router {
        Router::new().route("/healthz", get(health)).route("/metrics", get(metrics)).with_state(Arc::new(self))
    }

    fn words(&self) -> BTreeMap<String, Word> {
        let serving = self.servers.serving().into_iter();
        let running = serving.map(|running| (running.name().to_owned(), of_server(&running.states())));
        running.chain(self.servers.broken().into_iter().map(|broken| (broken.name, Word::Down))).collect()
    }
}

/// A page whose name was made to point here must not learn what runs here.
fn is_foreign(seen: &Seen, request: &Request) -> bool {
    seen.guard.check(request.headers(), request.uri().authority()).is_err()
}

async fn health(Shared(seen): Shared<Arc<Seen>>, request: Request) -> Response<Body> {
    if is_foreign(&seen, &request) {
        return plain(StatusCode::FORBIDDEN, JSON, String::new());
    }
    let report = Report::of(seen.words(), seen.tunnel.word(), seen.admission.check(request.headers()).is_ok());
    let status = match report.status {
        Overall::Ok => StatusCode::OK,
        Overall::Degraded => StatusCode::SERVICE_UNAVAILABLE,
    };
    plain(status, JSON, serde_json::to_string(&report).unwrap_or_default())
}

async fn metrics(Shared(seen): Shared<Arc<Seen>>, request: Request) -> Response<Body> {
    if is_foreign(&seen, &request) {
        return plain(StatusCode::FORBIDDEN, metrics::FORMAT, String::new());
    }
    match seen.admission.check(request.headers()) {
        Ok(_) => plain(StatusCode::OK, metrics::FORMAT, metrics::text(&seen.servers, &seen.tunnel).await),
        Err(refusal) => refusal.response(None).map(Body::from),
    }
}

impl Report {
    /// Whoever is not admitted learns the overall status alone: a load balancer or `docker` needs no more.
    fn of(mcps: BTreeMap<String, Word>, tunnel: &'static str, admitted: bool) -> Self {
        let ok = tunnel != "down" && mcps.values().all(|word| *word == Word::Ok);
        let status = if ok { Overall::Ok } else { Overall::Degraded };
        Self { status, tunnel: admitted.then_some(tunnel), mcps: admitted.then_some(mcps) }
    }
}

/// How a server is whose processes are in these states. Where clients do not share one, one that starts is no news, nor
/// is one that is down where another works.
pub(super) fn of_server(states: &[State]) -> Word {
    let words: Vec<Word> = states.iter().copied().map(word).collect();
    match &words[..] {
        [only] => *only,
        many if many.contains(&Word::Down) && !many.contains(&Word::Ok) => Word::Down,
        _ => Word::Ok,
    }
}

fn word(state: State) -> Word {
    match state {
        state if is_well(state) => Word::Ok,
        State::BackingOff | State::Failed | State::Gone => Word::Down,
        _ => Word::Starting,
    }
}

fn plain(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_not_well_degrades_the_whole() {
        let with = |tunnel, words: &[(&str, Word)], admitted| {
            let words = words.iter().map(|(name, word)| ((*name).to_owned(), *word)).collect();
            serde_json::to_string(&Report::of(words, tunnel, admitted)).unwrap()
        };
        let report = |words: &[(&str, Word)], admitted| with("off", words, admitted);
        assert_eq!(report(&[], true), r#"{"status":"ok","tunnel":"off","mcps":{}}"#);
        assert_eq!(
            report(&[("a", Word::Ok), ("b", Word::Starting)], true),
            r#"{"status":"degraded","tunnel":"off","mcps":{"a":"ok","b":"starting"}}"#
        );
        assert_eq!(report(&[("a", Word::Down)], false), r#"{"status":"degraded"}"#);
        assert_eq!(report(&[("a", Word::Ok)], false), r#"{"status":"ok"}"#);
        assert_eq!(with("ok", &[], true), r#"{"status":"ok","tunnel":"ok","mcps":{}}"#);
        assert_eq!(
            with("down", &[("a", Word::Ok)], true),
            r#"{"status":"degraded","tunnel":"down","mcps":{"a":"ok"}}"#
        );
    }

    #[test]
    fn where_clients_have_a_process_each_one_is_no_news() {
        for (states, expected) in [
            (&[][..], Word::Ok),
            (&[State::Starting, State::Starting], Word::Ok),
            (&[State::BackingOff, State::Ready], Word::Ok),
            (&[State::BackingOff, State::Starting], Word::Down),
        ] {
            assert_eq!(of_server(states), expected, "{states:?}");
        }
    }

    #[test]
    fn resting_is_no_illness() {
        assert_eq!(
            [State::Ready, State::Resting, State::Starting, State::BackingOff, State::Failed].map(word),
            [Word::Ok, Word::Ok, Word::Starting, Word::Down, Word::Down]
        );
    }
}
