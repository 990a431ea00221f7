//! A strict stand-in for Cloudflare's API: unknown fields are refused, PUT replaces, pages are small, secrets are never
//! given back, and every request is written down.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

pub(crate) const ACCOUNT: &str = "acc1";
pub(crate) const ZONE: &str = "zone1";
pub(crate) const TOKEN: &str = "t0ken-of-the-test";

/// How a request goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Refused for coming too fast, and not carried out.
    TooFast,
    /// Not carried out, and answered by a page of HTML.
    Html,
    /// Not carried out, and answered with an internal error.
    Internal,
    /// Not carried out, with `success: false` and status 200.
    NoSuccess,
    /// Carried out, and the answer is cut off.
    LostAnswer,
    /// Carried out, and answered by a page of HTML.
    LostBehindHtml,
}

pub(crate) const FAULTS: [Fault; 6] =
    [Fault::TooFast, Fault::Html, Fault::Internal, Fault::NoSuccess, Fault::LostAnswer, Fault::LostBehindHtml];

#[derive(Default)]
pub(crate) struct Account {
    pub(crate) tunnels: Vec<Value>,
    pub(crate) records: Vec<Value>,
    pub(crate) providers: Vec<Value>,
    pub(crate) apps: Vec<Value>,
    pub(crate) policies: Vec<Value>,
    pub(crate) has_no_zero_trust: bool,
    pub(crate) zone_status: Option<&'static str>,
    /// Paths of which the token may not read, by a part of them.
    pub(crate) forbidden: Vec<&'static str>,
    pub(crate) journal: Vec<String>,
    /// From the n-th request on (from 0), this many requests go wrong.
    pub(crate) fault: Option<(usize, usize, Fault)>,
    secrets: BTreeMap<String, String>,
    ids: usize,
}

#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<Account>>);

type Answer = Result<Value, (u16, i64, String)>;

impl Fake {
    /// Starts it; gives its address.
    pub(crate) async fn start() -> (Self, String) {
        let fake = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/client/v4", listener.local_addr().unwrap());
        let router = Router::new().fallback(serve).with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (fake, base)
    }

    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Account) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }

    /// Every request but reading ones, since the last time this was asked.
    pub(crate) fn writes(&self) -> Vec<String> {
        self.with(|account| {
            let journal = std::mem::take(&mut account.journal);
            journal.into_iter().filter(|line| !line.starts_with("GET ")).collect()
        })
    }
}

async fn serve(State(fake): State<Fake>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let path = parts.uri.path().strip_prefix("/client/v4").unwrap_or("").to_owned();
    let query: BTreeMap<String, String> =
        reqwest::Url::parse(&format!("http://x/?{}", parts.uri.query().unwrap_or("")))
            .unwrap()
            .query_pairs()
            .into_owned()
            .collect();
    let authorized = parts.headers.get("authorization").is_some_and(|value| value == &format!("Bearer {TOKEN}"));
    let mut account = fake.0.lock().unwrap();
    let number = account.journal.len();
    account.journal.push(format!("{} {path}", parts.method));
    let fault =
        account.fault.filter(|(first, count, _)| (*first..first + count).contains(&number)).map(|(_, _, fault)| fault);
    let html = || Response::builder().status(502).body(Body::from("<html>bad gateway</html>")).unwrap();
    match fault {
        Some(Fault::TooFast) => {
            return Response::builder().status(429).header("retry-after", "0").body(Body::from("{}")).unwrap();
        }
        Some(Fault::Html) => return html(),
        Some(Fault::Internal) => return envelope(&Err((500, 10_001, "internal".to_owned())), None),
        Some(Fault::NoSuccess) => return envelope(&Err((200, 1, "no".to_owned())), None),
        Some(Fault::LostAnswer | Fault::LostBehindHtml) | None => {}
    }
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    let answer = if !authorized {
        Err((401, 1000, "Invalid API Token".to_owned()))
    } else if account.forbidden.iter().any(|part| path.contains(part)) {
        Err((403, 10_000, "Authentication error".to_owned()))
    } else {
        account.answer(&parts.method, &path, &query, &body)
    };
    match fault {
        Some(Fault::LostAnswer) => {
            let broken = futures_util::stream::once(async { Err::<&str, _>(std::io::Error::other("cut")) });
            return Response::builder().header("content-length", "9").body(Body::from_stream(broken)).unwrap();
        }
        Some(Fault::LostBehindHtml) => return html(),
        _ => {}
    }
    let is_list = matches!(&answer, Ok(Value::Array(_)));
    envelope(&answer, is_list.then(|| query.get("page").and_then(|page| page.parse().ok()).unwrap_or(1)))
}

/// Two to a page, whatever was asked for.
fn envelope(answer: &Answer, page: Option<usize>) -> Response {
    let (status, body) = match (answer, page) {
        (Ok(Value::Array(all)), Some(page)) => {
            let shown: Vec<&Value> = all.iter().skip((page - 1) * 2).take(2).collect();
            let info = json!({ "page": page, "per_page": 2, "count": shown.len(), "total_count": all.len() });
            (200, json!({ "success": true, "errors": [], "messages": [], "result": shown, "result_info": info }))
        }
        (Ok(result), _) => (200, json!({ "success": true, "errors": [], "messages": [], "result": result })),
        (Err((status, code, message)), _) => {
            let errors = json!([{ "code": code, "message": message }]);
            (*status, json!({ "success": false, "errors": errors, "messages": [], "result": null }))
        }
    };
    Response::builder().status(StatusCode::from_u16(status).unwrap()).body(Body::from(body.to_string())).unwrap()
}

const APP: &str = "type name destinations allowed_idps auto_redirect_to_identity policies session_duration \
                   oauth_configuration http_only_cookie_attribute same_site_cookie_attribute options_preflight_bypass \
                   allow_authenticate_via_warp custom_deny_message custom_deny_url custom_pages logo_url tags";

fn refuse_unknown(body: &Value, known: &str) -> Result<(), (u16, i64, String)> {
    let known: Vec<&str> = known.split_whitespace().collect();
    let unknown = body.as_object().unwrap().keys().find(|key| !known.contains(&key.as_str()));
    match unknown {
        Some(key) => Err((400, 12_130, format!("access.api.error.invalid_request: unknown field {key}"))),
        None => Ok(()),
    }
}

impl Account {
    fn id(&mut self, kind: &str) -> String {
        self.ids += 1;
        format!("{kind}-{}", self.ids)
    }

    fn answer(&mut self, method: &Method, path: &str, query: &BTreeMap<String, String>, body: &Value) -> Answer {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let method = method.as_str();
        match (method, &parts[..]) {
            ("GET", ["user", "tokens", "verify"]) => Ok(json!({ "id": "x", "status": "active" })),
            ("GET", ["zones"]) => Ok(match query.get("name").map(String::as_str) {
                Some("example.com") => json!([self.zone()]),
                _ => json!([]),
            }),
            ("GET", ["zones", ZONE]) => Ok(self.zone()),
            (_, ["zones", ZONE, "dns_records", rest @ ..]) => self.record(method, rest, query, body),
            ("GET", ["accounts", ACCOUNT, "access", "organizations"]) if self.has_no_zero_trust => {
                Err((400, 9999, "access.api.error.not_enabled".to_owned()))
            }
            ("GET", ["accounts", ACCOUNT, "access", "organizations"]) => {
                Ok(json!({ "name": "team", "auth_domain": "team.cloudflareaccess.com" }))
            }
            (_, ["accounts", ACCOUNT, "cfd_tunnel", rest @ ..]) => self.tunnel(method, rest, query, body),
            (_, ["accounts", ACCOUNT, "access", "identity_providers", rest @ ..]) => self.provider(method, rest, body),
            (_, ["accounts", ACCOUNT, "access", "policies", rest @ ..]) => self.policy(method, rest, body),
            (_, ["accounts", ACCOUNT, "access", "apps", rest @ ..]) => self.app(method, rest, body),
            _ => Err((404, 7003, format!("could not route to {path}"))),
        }
    }

    fn zone(&self) -> Value {
        let status = self.zone_status.unwrap_or("active");
        json!({ "id": ZONE, "name": "example.com", "status": status, "account": { "id": ACCOUNT, "name": "A" } })
    }

    fn record(&mut self, method: &str, rest: &[&str], query: &BTreeMap<String, String>, body: &Value) -> Answer {
        if body.is_object() {
            refuse_unknown(body, "type name content ttl proxied comment tags settings")?;
        }
        match (method, rest) {
            ("GET", []) => {
                let fits = |record: &&Value| {
                    query.get("name.exact").is_none_or(|name| record["name"] == name.as_str())
                        && query.get("content.exact").is_none_or(|content| record["content"] == content.as_str())
                };
                Ok(self.records.iter().filter(fits).cloned().collect())
            }
            ("POST", []) => {
                if self.records.iter().any(|record| record["name"] == body["name"]) {
                    return Err((400, 81_053, "An A, AAAA, or CNAME record with that host already exists.".to_owned()));
                }
                let id = self.id("record");
                Ok(insert(&mut self.records, &id, body))
            }
            _ => one(&mut self.records, method, rest, body),
        }
    }

    fn tunnel(&mut self, method: &str, rest: &[&str], query: &BTreeMap<String, String>, body: &Value) -> Answer {
        match (method, rest) {
            ("GET", []) => {
                let fits = |tunnel: &&Value| query.get("name").is_none_or(|name| tunnel["name"] == name.as_str());
                Ok(self.tunnels.iter().filter(fits).cloned().collect())
            }
            ("POST", []) => {
                refuse_unknown(body, "name config_src tunnel_secret")?;
                if self.tunnels.iter().any(|tunnel| tunnel["name"] == body["name"]) {
                    return Err((409, 1013, "You already have a tunnel with this name.".to_owned()));
                }
                let id = self.id("tunnel");
                self.secrets.insert(id.clone(), body["tunnel_secret"].as_str().unwrap().to_owned());
                let shown = json!({ "name": body["name"], "config_src": body["config_src"], "status": "inactive", "deleted_at": null });
                Ok(insert(&mut self.tunnels, &id, &shown))
            }
            ("GET", [id, "token"]) => {
                let secret = self.secrets.get(*id).cloned().unwrap_or_else(|| STANDARD.encode([1; 32]));
                Ok(json!(STANDARD.encode(json!({ "a": ACCOUNT, "t": id, "s": secret }).to_string())))
            }
            ("DELETE", [id, "connections"]) => {
                let tunnel = self.tunnels.iter_mut().find(|tunnel| tunnel["id"] == *id).ok_or(absent())?;
                tunnel["status"] = json!("down");
                Ok(json!({}))
            }
            ("DELETE", [id])
                if self.tunnels.iter().any(|tunnel| tunnel["id"] == *id && tunnel["status"] == "healthy") =>
            {
                Err((400, 1022, "This tunnel has active connections.".to_owned()))
            }
            _ => one(&mut self.tunnels, method, rest, body),
        }
    }

    fn provider(&mut self, method: &str, rest: &[&str], body: &Value) -> Answer {
        let mut shown = body.clone();
        if body.is_object() {
            refuse_unknown(body, "name type config scim_config")?;
            shown["config"].as_object_mut().unwrap().remove("client_secret");
        }
        match (method, rest) {
            ("GET", []) => Ok(self.providers.iter().cloned().collect()),
            ("POST", []) => {
                let id = self.id("idp");
                Ok(insert(&mut self.providers, &id, &shown))
            }
            _ => one(&mut self.providers, method, rest, &shown),
        }
    }

    fn policy(&mut self, method: &str, rest: &[&str], body: &Value) -> Answer {
        let mut shown = body.clone();
        if body.is_object() {
            refuse_unknown(body, "name decision include exclude require session_duration")?;
            assert!(!body["include"].as_array().unwrap().is_empty(), "an allow-list of nobody");
            shown["reusable"] = json!(true);
            shown["app_count"] = json!(1);
        }
        match (method, rest) {
            ("GET", []) => Ok(self.policies.iter().cloned().collect()),
            ("POST", []) => {
                let id = self.id("policy");
                Ok(insert(&mut self.policies, &id, &shown))
            }
            _ => one(&mut self.policies, method, rest, &shown),
        }
    }

    fn app(&mut self, method: &str, rest: &[&str], body: &Value) -> Answer {
        let mut shown = body.clone();
        if body.is_object() {
            let more = if body["type"] == "mcp" { "" } else { " domain app_launcher_visible cors_headers" };
            refuse_unknown(body, &format!("{APP}{more}"))?;
            let expand = |(at, link): (usize, &Value)| {
                let id = link.get("id").unwrap_or(link);
                let policy = self.policies.iter().find(|policy| policy["id"] == *id).ok_or(absent())?;
                let mut policy = policy.clone();
                policy["precedence"] = link.get("precedence").cloned().unwrap_or(json!(at + 1));
                Ok(policy)
            };
            let policies = body["policies"].as_array().cloned().unwrap_or_default();
            shown["policies"] = policies.iter().enumerate().map(expand).collect::<Result<_, (u16, i64, String)>>()?;
            let exists = |idp: &Value| self.providers.iter().any(|provider| provider["id"] == *idp);
            assert!(body["allowed_idps"].as_array().unwrap().iter().all(exists), "an unknown provider");
        }
        match (method, rest) {
            ("GET", []) => Ok(self.apps.iter().cloned().collect()),
            ("POST", []) => {
                if self.apps.iter().any(|app| app["destinations"] == body["destinations"]) {
                    return Err((409, 11_010, "access.api.error.application_already_exists".to_owned()));
                }
                let id = self.id("app");
                shown["aud"] = json!(format!("aud-of-{id}"));
                Ok(insert(&mut self.apps, &id, &shown))
            }
            ("PUT", [id]) => {
                shown["aud"] = json!(format!("aud-of-{id}"));
                one(&mut self.apps, method, rest, &shown)
            }
            _ => one(&mut self.apps, method, rest, body),
        }
    }
}

fn absent() -> (u16, i64, String) {
    (404, 12_045, "access.api.error.not_found".to_owned())
}

fn insert(all: &mut Vec<Value>, id: &str, body: &Value) -> Value {
    let mut made = body.clone();
    made["id"] = json!(id);
    all.push(made.clone());
    made
}

/// GET, PUT and DELETE of one.
fn one(all: &mut Vec<Value>, method: &str, rest: &[&str], body: &Value) -> Answer {
    let [id] = rest else { return Err((404, 7003, "could not route".to_owned())) };
    let at = all.iter().position(|one| one["id"] == *id).ok_or(absent())?;
    match method {
        "GET" => Ok(all[at].clone()),
        "PUT" => {
            let mut replaced = body.clone();
            replaced["id"] = json!(id);
            all[at] = replaced;
            Ok(all[at].clone())
        }
        "DELETE" => Ok(all.remove(at)),
        _ => Err((405, 7001, "method not allowed".to_owned())),
    }
}

/// As patient as a test.
pub(crate) fn patience() -> mcp_ferry::cloudflare::client::Patience {
    mcp_ferry::cloudflare::client::Patience {
        attempts: 2,
        pause: Duration::from_millis(1),
        longest_wait: Duration::from_secs(1),
        timeout: super::DEADLINE,
    }
}
