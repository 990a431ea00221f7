//! Cloudflare's API v4: one envelope, many ways to fail.
//!
//! What may be repeated without harm (GET, PUT, DELETE) is repeated; a POST is not, unless it was refused for coming too
//! fast. Whether a POST whose answer was lost has been carried out is for its caller to find out
//! ([`ApiError::may_have_happened`]).

use std::sync::OnceLock;
use std::time::Duration;

use reqwest::{Method, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Advise, Exit};
use crate::secret::Secret;

/// Where the API is, unless `CLOUDFLARE_BASE_URL` says otherwise.
pub const BASE_URL: &str = "https://api.cloudflare.com/client/v4";

/// Zones and accounts give at most this many at once.
const PAGE: usize = 50;

/// More pages than any account has; a server that never ends a list must not keep ferry for ever.
const MOST_PAGES: usize = 200;

/// How long to try.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How often a request is sent at most.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles.
    pub pause: Duration,
    /// The longest `Retry-After` that is waited for.
    pub longest_wait: Duration,
    /// How long one answer may take.
    pub timeout: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 4,
            pause: Duration::from_millis(500),
            longest_wait: Duration::from_mins(1),
            timeout: Duration::from_secs(30),
        }
    }
}

/// One error that Cloudflare reports.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Reported {
    /// Its number.
    #[serde(default)]
    pub code: i64,
    /// Its text.
    #[serde(default)]
    pub message: String,
}

/// Why a request did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The address of the API is of no use.
    #[error("`{0}` cannot be the address of Cloudflare's API: it must be https, or on this machine")]
    Base(String),
    /// Cloudflare refused.
    #[error("Cloudflare refused {what}: {}", reported(*.status, .errors))]
    Refused {
        /// Method and path.
        what: String,
        /// The status.
        status: u16,
        /// What it says.
        errors: Vec<Reported>,
    },
    /// Too many requests.
    #[error("Cloudflare takes no more requests for now ({what}); it asks for a pause of {}s", wait.as_secs())]
    TooFast {
        /// Method and path.
        what: String,
        /// What `Retry-After` says.
        wait: Duration,
    },
    /// An answer from which nothing can be concluded.
    #[error("Cloudflare answered {what} with status {status} and {why}")]
    Unclear {
        /// Method and path.
        what: String,
        /// The status.
        status: u16,
        /// What is wrong with the body.
        why: &'static str,
    },
    /// No answer.
    #[error("Cloudflare gave no answer to {what}")]
    Unreachable {
        /// Method and path.
        what: String,
        /// What the network says.
        #[source]
        source: reqwest::Error,
    },
}

fn reported(status: u16, errors: &[Reported]) -> String {
    if errors.is_empty() {
        return format!("status {status}, without a reason");
    }
    errors.iter().map(|error| format!("{} ({})", error.message, error.code)).collect::<Vec<_>>().join("; ")
}

impl ApiError {
    /// Whether the request may have been carried out all the same.
    pub fn may_have_happened(&self) -> bool {
        matches!(self, Self::Unclear { .. } | Self::Unreachable { .. })
    }

    /// Whether the token may not do this. Cloudflare says the same where the account is another one.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused { status: 403, .. }) || self.has(10_000) || self.has(9109)
    }

    /// Whether there is no such thing.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether there is such a thing already.
    pub fn is_taken(&self) -> bool {
        // A tunnel's name, a DNS record, an application.
        matches!(self, Self::Refused { status: 409, .. })
            || [1013, 81_053, 81_058, 11_010].iter().any(|code| self.has(*code))
    }

    /// Whether Zero Trust was never switched on in this account.
    pub fn is_without_zero_trust(&self) -> bool {
        self.has(9999)
    }

    fn has(&self, code: i64) -> bool {
        matches!(self, Self::Refused { errors, .. } if errors.iter().any(|error| error.code == code))
    }
}

impl Advise for ApiError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Base(_) => Some("unset `CLOUDFLARE_BASE_URL`".to_owned()),
            Self::TooFast { .. } => Some("run the same command again after that pause; it goes on where it stopped".to_owned()),
            Self::Unclear { .. } => {
                Some("run the same command again; it goes on where it stopped (https://www.cloudflarestatus.com)".to_owned())
            }
            Self::Unreachable { .. } => {
                Some("check the connection to the internet, and run the same command again: it goes on where it stopped".to_owned())
            }
            Self::Refused { .. } if self.is_forbidden() => Some(
                "the API token lacks a permission, or belongs to another account; `ferry setup --help` lists what it needs"
                    .to_owned(),
            ),
            Self::Refused { .. } => None,
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Base(_) => Exit::Usage,
            Self::Refused { status: 401, .. } => Exit::NotPermitted,
            Self::Refused { .. } if self.is_forbidden() => Exit::NotPermitted,
            Self::Refused { .. } => Exit::Failed,
            Self::TooFast { .. } | Self::Unclear { .. } | Self::Unreachable { .. } => Exit::Unreachable,
        }
    }
}

#[derive(Deserialize)]
struct Envelope {
    success: bool,
    #[serde(default)]
    errors: Vec<Reported>,
    #[serde(default)]
    result: Value,
    result_info: Option<PageInfo>,
}

#[derive(Deserialize)]
struct PageInfo {
    total_pages: Option<usize>,
    total_count: Option<usize>,
    per_page: Option<usize>,
}

impl PageInfo {
    fn pages(&self) -> Option<usize> {
        self.total_pages.or_else(|| Some(self.total_count?.div_ceil(self.per_page.filter(|size| *size > 0)?)))
    }
}

/// Speaks to the API with one token.
#[derive(Debug)]
pub struct Client {
    base: String,
    token: Secret,
    patience: Patience,
    /// Made on first use: reading the system's certificates takes longer than most commands.
    http: OnceLock<reqwest::Client>,
}

impl Client {
    /// A client of the API at `base`.
    ///
    /// # Errors
    /// Where the token would travel in the clear.
    pub fn new(base: &str, token: Secret, patience: Patience) -> Result<Self, ApiError> {
        let wrong = || ApiError::Base(base.to_owned());
        let url = reqwest::Url::parse(base).map_err(|_| wrong())?;
        let is_here = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
        if url.scheme() != "https" && !(url.scheme() == "http" && is_here) {
            return Err(wrong());
        }
        Ok(Self { base: base.trim_end_matches('/').to_owned(), token, patience, http: OnceLock::new() })
    }

    /// One object.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, ApiError> {
        let query: Vec<(&str, String)> = query.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let envelope = self.send(&Method::GET, path, &query, None).await?;
        typed(&Method::GET, path, envelope.result)
    }

    /// All elements of a list, page by page.
    pub async fn list<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<Vec<T>, ApiError> {
        let mut all = Vec::new();
        for page in 1..=MOST_PAGES {
            let mut query: Vec<(&str, String)> =
                query.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            query.push(("page", page.to_string()));
            query.push(("per_page", PAGE.to_string()));
            let envelope = self.send(&Method::GET, path, &query, None).await?;
            let found: Option<Vec<T>> = typed(&Method::GET, path, envelope.result)?;
            let found = found.unwrap_or_default();
            let is_empty = found.is_empty();
            all.extend(found);
            // Without a count, only an empty page is the end.
            let last = envelope.result_info.as_ref().and_then(PageInfo::pages);
            if is_empty || last.is_some_and(|last| page >= last) {
                break;
            }
        }
        Ok(all)
    }

    /// Makes something.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, ApiError> {
        let envelope = self.send(&Method::POST, path, &[], Some(body)).await?;
        typed(&Method::POST, path, envelope.result)
    }

    /// Replaces something.
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, ApiError> {
        let envelope = self.send(&Method::PUT, path, &[], Some(body)).await?;
        typed(&Method::PUT, path, envelope.result)
    }

    /// Removes something; what is not there is removed already.
    pub async fn delete(&self, path: &str) -> Result<(), ApiError> {
        match self.send(&Method::DELETE, path, &[], None).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_absent() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn send(
        &self,
        method: &Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<Envelope, ApiError> {
        let mut pause = self.patience.pause;
        let mut attempt = 1;
        loop {
            let error = match self.once(method, path, query, body).await {
                Ok(envelope) => return Ok(envelope),
                Err(error) => error,
            };
            let wait = match &error {
                ApiError::TooFast { wait, .. } if *wait <= self.patience.longest_wait => (*wait).max(pause),
                ApiError::Unclear { .. } | ApiError::Unreachable { .. } if *method != Method::POST => pause,
                _ => return Err(error),
            };
            if attempt >= self.patience.attempts {
                return Err(error);
            }
            tracing::debug!(%method, path, attempt, "trying again: {error}");
            tokio::time::sleep(wait).await;
            pause *= 2;
            attempt += 1;
        }
    }

    async fn once(
        &self,
        method: &Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<Envelope, ApiError> {
        let what = || format!("{method} {path}");
        let unreachable = |source: reqwest::Error| ApiError::Unreachable { what: what(), source: source.without_url() };
        let url = format!("{}{path}", self.base);
        let url = match query {
            [] => reqwest::Url::parse(&url),
            query => reqwest::Url::parse_with_params(&url, query),
        };
        let url = url.map_err(|_| ApiError::Base(self.base.clone()))?;
        let mut request = self.http().request(method.clone(), url).bearer_auth(self.token.expose());
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            let seconds = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            return Err(ApiError::TooFast { what: what(), wait: Duration::from_secs(seconds.unwrap_or(0)) });
        }
        let text = answer.bytes().await.map_err(unreachable)?;
        let unclear = |why| ApiError::Unclear { what: what(), status: status.as_u16(), why };
        let envelope: Envelope =
            serde_json::from_slice(&text).map_err(|_| unclear("a body that is not its usual JSON"))?;
        if status.is_server_error() {
            return Err(unclear("no reason"));
        }
        if !status.is_success() || !envelope.success {
            let errors = envelope
                .errors
                .into_iter()
                .map(|error| Reported { message: self.scrub(&error.message, body), ..error });
            return Err(ApiError::Refused { what: what(), status: status.as_u16(), errors: errors.collect() });
        }
        Ok(envelope)
    }

    fn http(&self) -> &reqwest::Client {
        self.http.get_or_init(|| {
            reqwest::Client::builder()
                .user_agent(concat!("mcp-ferry/", env!("CARGO_PKG_VERSION")))
                .timeout(self.patience.timeout)
                // The token is for this address.
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .expect("TLS has what it needs: nothing here depends on input")
        })
    }

    /// A text of Cloudflare's without the secrets that it may repeat.
    fn scrub(&self, text: &str, body: Option<&Value>) -> String {
        let mut text = text.replace(self.token.expose(), "****");
        let secrets = ["/tunnel_secret", "/config/client_secret"].iter().filter_map(|at| body?.pointer(at)?.as_str());
        for secret in secrets.filter(|secret| !secret.is_empty()) {
            text = text.replace(secret, "****");
        }
        text
    }
}

fn typed<T: DeserializeOwned>(method: &Method, path: &str, result: Value) -> Result<T, ApiError> {
    serde_json::from_value(result).map_err(|_| ApiError::Unclear {
        what: format!("{method} {path}"),
        status: 200,
        why: "a result in a form that ferry does not know",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_does_not_travel_in_the_clear() {
        for (base, is_fine) in [
            (BASE_URL, true),
            ("http://127.0.0.1:80/v4", true),
            ("http://localhost/v4", true),
            ("http://api.example.com/v4", false),
            ("ftp://localhost", false),
            ("", false),
        ] {
            let client = Client::new(base, Secret::new("t0ken"), Patience::default());
            assert_eq!(client.is_ok(), is_fine, "{base}");
        }
    }

    #[test]
    fn what_cloudflare_repeats_of_a_secret_is_not_repeated() {
        let client = Client::new(BASE_URL, Secret::new("t0ken"), Patience::default()).unwrap();
        let body = serde_json::json!({ "config": { "client_secret": "hunter2" }, "tunnel_secret": "" });
        assert_eq!(client.scrub("bad hunter2 for t0ken", Some(&body)), "bad **** for ****");
    }

    #[test]
    fn pages_are_counted_from_what_there_is() {
        let info = |total_pages, total_count, per_page| PageInfo { total_pages, total_count, per_page }.pages();
        assert_eq!(info(Some(3), None, None), Some(3));
        assert_eq!(info(None, Some(5), Some(2)), Some(3));
        assert_eq!(info(None, Some(5), Some(0)), None);
        assert_eq!(info(None, None, Some(2)), None);
    }
}
