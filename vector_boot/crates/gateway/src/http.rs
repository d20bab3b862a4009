//! HTTP: from a request to a call or a document, and back.
//!
//! Owns routing, the checks that come before a call (host, origin, token, media type, size) and the
//! headers of answers. What a call means lies in [`crate::call`].
//!
//! Start with [`Door::serve`].

use crate::answer::{PROBLEM, ToolResponse, problem};
use crate::call::{Bearer, Call, Gateway};
use crate::hosts::Hosts;
use crate::journal::{Lines, Trouble};
use crate::peers::Who;
use crate::reply::Reply;
use crate::roots::Root;
use crate::{batch, strict, tools};
use base64::Engine;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::capacity::{TOKEN_BYTES_MAX, Verdict, permission};

/// Largest body of a request.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// What is read of a body before its token was found to be in force.
pub const BODY_BYTES_UNPROVEN: usize = 16 << 10;
/// Time for a body to arrive.
pub const BODY_TIME_MAX: Duration = Duration::from_secs(10);
/// Largest body of an answer.
pub const RESPONSE_BYTES_MAX: usize = 8 << 20;

/// What the gateway answers to requests.
pub type Answer = Response<Reply>;

/// What all connections share.
pub struct Door {
    /// The calls.
    pub gateway: Arc<Gateway>,
    /// The names that are served.
    pub hosts: Hosts,
    /// What `GET /health` warns of.
    pub warnings: Vec<String>,
    /// Landlock's ABI.
    pub landlock_abi: Option<u32>,
}

/// Where a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// TCP, at this address of ours.
    Tcp(IpAddr),
    /// The Unix socket; whether its peer owns the machine.
    Unix {
        /// As the kernel attests.
        operator: bool,
    },
}

/// A request that is answered by its code alone.
struct Turned {
    code: &'static str,
    detail: String,
    allow: Option<&'static str>,
}

impl Turned {
    fn away(code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            allow: None,
        }
    }
}

impl From<crate::peers::PeerError> for Turned {
    fn from(e: crate::peers::PeerError) -> Self {
        Self::away("capacity_unavailable", e.to_string())
    }
}

impl From<Trouble> for Turned {
    fn from(trouble: Trouble) -> Self {
        Self::away(trouble.code(), trouble.to_string())
    }
}

/// What the capacity kernel is told of a request to the ledger; an operation of the ledger's also takes a commit.
const LEDGER_OPERATION: &str = "ledger:rpc";
/// The relay's work for one line.
const LEDGER_CPU_US: u32 = 200;
/// Two pieces of a stream.
const LEDGER_MEMORY_BYTES: u64 = 32 << 10;
/// Media type of lines of JSON, each an object.
const JSON_LINES: &str = "application/x-ndjson";

/// What the URLs name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    Front,
    Health,
    Metrics,
    Tools,
    Tool,
    Batch,
    Ledger(Ledger),
}

/// What is asked of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ledger {
    Head,
    Checkpoint,
    Events,
    Event(u64),
    Inclusion,
    Consistency,
    Rpc,
}

/// Every URL, with the method that it takes.
const PAGES: &[(&str, Page, Method)] = &[
    ("/", Page::Front, Method::GET),
    ("/health", Page::Health, Method::GET),
    ("/metrics", Page::Metrics, Method::GET),
    ("/tools", Page::Tools, Method::GET),
    ("/tool", Page::Tool, Method::POST),
    ("/batch", Page::Batch, Method::POST),
    ("/v1/ledger/head", Page::Ledger(Ledger::Head), Method::GET),
    (
        "/v1/ledger/checkpoint",
        Page::Ledger(Ledger::Checkpoint),
        Method::GET,
    ),
    (
        "/v1/ledger/events",
        Page::Ledger(Ledger::Events),
        Method::GET,
    ),
    (
        "/v1/ledger/proofs/inclusion",
        Page::Ledger(Ledger::Inclusion),
        Method::GET,
    ),
    (
        "/v1/ledger/proofs/consistency",
        Page::Ledger(Ledger::Consistency),
        Method::GET,
    ),
    ("/v1/ledger/rpc", Page::Ledger(Ledger::Rpc), Method::POST),
];
/// Of an event, its id.
#[derive(serde::Deserialize)]
struct Identified {
    id: u64,
}

/// A page of events as the ledger wrote them.
#[derive(serde::Serialize)]
struct Found<'a> {
    #[serde(flatten)]
    answer: &'a Map<String, Value>,
    events: &'a [Box<RawValue>],
}

/// Behind it stands an event's id.
const EVENT: &str = "/v1/ledger/events/";

impl Door {
    /// Answers one request.
    pub async fn serve(&self, entry: Entry, request: Request<Incoming>) -> Answer {
        let arrived = Instant::now();
        let head = request.method() == Method::HEAD;
        let mut answer = match self.answer(entry, request, arrived).await {
            Ok(answer) => answer,
            Err(turned) => self.turned_away(&turned),
        };
        let bytes = answer.body().size_hint().exact().unwrap_or(0);
        self.gateway
            .metrics
            .bytes(0, usize::try_from(bytes).unwrap_or(0));
        let headers = answer.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        if head {
            // hyper sends the length of a body that a HEAD is not to get.
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
            *answer.body_mut() = Reply::default();
        }
        answer
    }

    async fn answer(
        &self,
        entry: Entry,
        request: Request<Incoming>,
        arrived: Instant,
    ) -> Result<Answer, Turned> {
        self.check_names(entry, &request)?;
        let page = route(request.uri().path(), request.method())?;
        if page == Page::Health {
            return Ok(self.health());
        }
        let basic = matches!(page, Page::Front | Page::Metrics);
        let Some(bearer) = bearer(entry, request.headers(), basic) else {
            self.no_token();
            return Err(Turned::away("unauthorized", "no bearer token was sent"));
        };
        match page {
            Page::Tool => self.tool(&bearer, request, arrived).await,
            Page::Batch => self.batch(&bearer, request, arrived).await,
            Page::Ledger(Ledger::Rpc) => self.ledger_rpc(&bearer, request).await,
            Page::Ledger(asked) => self.ledger(&bearer, asked, request.uri().query()).await,
            _ => {
                let (_, permissions) = self.whose(&bearer).await?;
                Ok(match page {
                    Page::Metrics => self.metrics(request.headers()).await,
                    Page::Tools => self.tools(permissions),
                    _ => text("text/plain; charset=utf-8", FRONT.to_owned()),
                })
            }
        }
    }

    fn check_names(&self, entry: Entry, request: &Request<Incoming>) -> Result<(), Turned> {
        let Entry::Tcp(local) = entry else {
            // No browser resolves a name to a Unix socket.
            return Ok(());
        };
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => host.to_str().unwrap_or_default(),
            _ => return Err(Turned::away("bad_request", "one Host header is needed")),
        };
        // RFC 9112, 3.2.2: the authority of an absolute URL replaces the header.
        let host = request.uri().authority().map_or(host, |a| a.as_str());
        if !self.hosts.allows(host, Some(local)) {
            let detail = "start the gateway with --allow-host to add a name";
            return Err(Turned::away("host_not_allowed", detail));
        }
        for origin in request.headers().get_all(header::ORIGIN) {
            let origin = origin.to_str().unwrap_or_default();
            if !self.hosts.allows_origin(origin, Some(local)) {
                return Err(Turned::away(
                    "origin_not_allowed",
                    "the page's origin is not ours",
                ));
            }
        }
        Ok(())
    }

    fn no_token(&self) {
        self.gateway.metrics.unauthorized();
        let whose = Who::gateway();
        self.gateway.refusals.add(whose, "request", "unauthorized");
    }

    async fn whose(&self, bearer: &Bearer) -> Result<(Who, u32), Turned> {
        let found = self.gateway.whose(bearer).await?;
        found.ok_or_else(|| {
            self.no_token();
            Turned::away("unauthorized", "the token is not in force")
        })
    }

    async fn tool(
        &self,
        bearer: &Bearer,
        request: Request<Incoming>,
        arrived: Instant,
    ) -> Result<Answer, Turned> {
        let key = idempotency_key(request.headers())?;
        let value = self.json_body(bearer, request).await?;
        let call = match Call::parse(value) {
            Ok(call) => Call { key, ..call },
            Err(detail) => return Err(self.malformed(bearer, "invalid_request", detail).await),
        };
        let answer = self.gateway.call(bearer, call, arrived).await;
        Ok(of_call(&answer))
    }

    async fn batch(
        &self,
        bearer: &Bearer,
        request: Request<Incoming>,
        arrived: Instant,
    ) -> Result<Answer, Turned> {
        let value = self.json_body(bearer, request).await?;
        match batch::parse(value) {
            Ok(requests) => {
                // Ask once for all: a batch without a token in force makes no calls.
                self.whose(bearer).await?;
                let body = batch::run(&self.gateway, bearer, requests, arrived).await;
                Ok(bytes("application/json", body))
            }
            Err(detail) => Err(self.malformed(bearer, "invalid_request", detail).await),
        }
    }

    /// A request that cannot be read is refused for what it is only to those who may ask at all.
    async fn malformed(&self, bearer: &Bearer, code: &'static str, detail: String) -> Turned {
        match self.whose(bearer).await {
            Ok(_) => Turned::away(code, detail),
            Err(turned) => turned,
        }
    }

    async fn json_body(
        &self,
        bearer: &Bearer,
        request: Request<Incoming>,
    ) -> Result<Value, Turned> {
        if !is_json(request.headers()) {
            let detail = "send Content-Type: application/json and no Content-Encoding".to_owned();
            return Err(self
                .malformed(bearer, "unsupported_media_type", detail)
                .await);
        }
        let body = self.whole_body(bearer, request).await?;
        match strict::parse(&body) {
            Ok(value) => Ok(value),
            Err(e) => Err(self.malformed(bearer, "bad_json", e.to_string()).await),
        }
    }

    async fn whole_body(
        &self,
        bearer: &Bearer,
        request: Request<Incoming>,
    ) -> Result<Vec<u8>, Turned> {
        let reading = self.body(bearer, request.into_body());
        let body = tokio::time::timeout(BODY_TIME_MAX, reading)
            .await
            .map_err(|_| Turned::away("request_timeout", "the body did not arrive in time"))??;
        self.gateway.metrics.bytes(body.len(), 0);
        Ok(body)
    }

    /// Reads a body; past its first kilobytes only for a token that is in force.
    async fn body(&self, bearer: &Bearer, mut body: Incoming) -> Result<Vec<u8>, Turned> {
        let large = || Turned::away("body_too_large", format!("over {BODY_BYTES_MAX} bytes"));
        let announced = body.size_hint().lower();
        if announced > BODY_BYTES_MAX as u64 {
            return Err(large());
        }
        let mut proven = false;
        // Bounded by the check above.
        let mut read = Vec::with_capacity(announced.min(BODY_BYTES_UNPROVEN as u64) as usize);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Turned::away("bad_request", format!("body: {e}")))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if read.len() + data.len() > BODY_BYTES_MAX {
                return Err(large());
            }
            if !proven && read.len() + data.len() > BODY_BYTES_UNPROVEN {
                self.whose(bearer).await?;
                proven = true;
            }
            read.extend_from_slice(&data);
        }
        Ok(read)
    }

    fn health(&self) -> Answer {
        let peers = &self.gateway.peers;
        let up = |link: &crate::link::Link| match *link.up().borrow() {
            true => "up",
            false => "down",
        };
        let (ledger, capacity) = (up(&peers.ledger), up(&peers.capacity));
        let good = ledger == "up" && capacity == "up";
        json_answer(&json!({
            "status": if good { "ok" } else { "degraded" },
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.gateway.metrics.uptime_seconds(),
            "services": { "ledger": ledger, "capacity": capacity },
            "kernel": { "landlock_abi": self.landlock_abi },
            "warnings": self.warnings,
        }))
    }

    async fn metrics(&self, headers: &HeaderMap) -> Answer {
        let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
        let wanted = |a: &str| a.contains("text/plain") || a.contains("openmetrics");
        if accept.is_some_and(wanted) {
            let media = "text/plain; version=0.0.4; charset=utf-8";
            let mut told = self.gateway.metrics.prometheus();
            // Without the ledger its own are left out: the gateway's say that it is down.
            if let Ok((_, ledger)) = self.gateway.journal.ask(None, "metrics", Map::new()).await {
                told.push_str(&crate::metrics::of_ledger(&ledger));
            }
            return text(media, told);
        }
        json_answer(&self.gateway.metrics.json())
    }

    /// Whom a token with permission `ledger` speaks for, who pays for one request to it.
    async fn reader(&self, bearer: &Bearer) -> Result<Who, Turned> {
        let token = match bearer {
            Bearer::Token(token) => token.as_str(),
            Bearer::Operator => "",
        };
        let check =
            self.gateway
                .peers
                .check(token, LEDGER_OPERATION, LEDGER_CPU_US, LEDGER_MEMORY_BYTES);
        let admission = check.await?;
        match admission.verdict {
            Verdict::Allowed => Ok(admission.who),
            Verdict::BadToken => {
                self.no_token();
                Err(Turned::away("unauthorized", "the token is not in force"))
            }
            Verdict::NotPermitted => Err(Turned::away("not_permitted_by_token", admission.reason)),
            Verdict::Quota => Err(Turned::away("quota", admission.reason)),
            Verdict::Gate => Err(Turned::away("gate", admission.reason)),
        }
    }

    /// Pays for each line; the refusals of those that it does not come to, unless it is none at all. What was paid
    /// for is said: nobody else would know that it was taken.
    async fn admit(&self, bearer: &Bearer, lines: &mut Lines) -> Result<Vec<u8>, Turned> {
        for admitted in 0..lines.count() {
            match self.reader(bearer).await {
                Err(turned) if admitted == 0 => return Err(turned),
                Err(turned) => {
                    let code = match turned.code {
                        "quota" | "gate" => "QUOTA",
                        "capacity_unavailable" => "INTERNAL",
                        _ => "POLICY_DENY",
                    };
                    return Ok(lines.keep(admitted, code, &turned.detail));
                }
                Ok(_) => {}
            }
        }
        Ok(Vec::new())
    }

    /// Reads of the ledger: one question, one document.
    async fn ledger(
        &self,
        bearer: &Bearer,
        asked: Ledger,
        query: Option<&str>,
    ) -> Result<Answer, Turned> {
        let who = self.reader(bearer).await?;
        let asked_for = crate::asked::of(query.unwrap_or_default())
            .map_err(|e| Turned::away("bad_request", e))?;
        let (kind, members) = match asked {
            Ledger::Head => ("head", asked_for.nothing()),
            Ledger::Checkpoint => ("checkpoint", asked_for.nothing()),
            Ledger::Events | Ledger::Rpc => ("query", asked_for.events()),
            Ledger::Event(id) => ("query", asked_for.event(id)),
            Ledger::Inclusion => ("proof.inclusion", asked_for.numbers(&["event_id", "size"])),
            Ledger::Consistency => ("proof.consistency", asked_for.numbers(&["from", "to"])),
        };
        let members = members.map_err(|e| Turned::away("bad_request", e))?;
        let (mut events, answer) = self.gateway.journal.ask(Some(&who), kind, members).await?;
        if let Ledger::Event(id) = asked {
            let is_it = |e: &RawValue| {
                serde_json::from_str::<Identified>(e.get()).is_ok_and(|e| e.id == id)
            };
            let found = events.pop().filter(|e| is_it(e));
            let event = found.ok_or_else(|| {
                // The same for one that is not there and one that is another tenant's.
                Turned::away("not_found", "no event of this tenant has this id")
            })?;
            return Ok(text("application/json", event.get().to_owned()));
        }
        if asked == Ledger::Events {
            let found = Found {
                answer: &answer,
                events: &events,
            };
            let body = serde_json::to_vec(&found)
                .map_err(|_| Turned::away("internal", "the answer cannot be written"))?;
            return Ok(bytes("application/json", body));
        }
        Ok(json_answer(&Value::Object(answer)))
    }

    /// The ledger's JSON lines, in and out.
    async fn ledger_rpc(
        &self,
        bearer: &Bearer,
        request: Request<Incoming>,
    ) -> Result<Answer, Turned> {
        if !is_json_lines(request.headers()) {
            let detail = "send Content-Type: application/x-ndjson and no Content-Encoding";
            let detail = detail.to_owned();
            return Err(self
                .malformed(bearer, "unsupported_media_type", detail)
                .await);
        }
        let body = self.whole_body(bearer, request).await?;
        // Whose lines they are is asked before they are read, what they cost when they are counted.
        let (who, _) = self.whose(bearer).await?;
        let mut lines = Lines::of(&who, &body)?;
        let refusals = self.admit(bearer, &mut lines).await?;
        let pieces = self.gateway.journal.converse(lines, refusals).await?;
        let mut answer = Response::new(Reply::stream(pieces));
        let media = HeaderValue::from_static(JSON_LINES);
        answer.headers_mut().insert(header::CONTENT_TYPE, media);
        Ok(answer)
    }

    fn tools(&self, permissions: u32) -> Answer {
        let allowed = permissions & permission::TOOLS != 0;
        let rows: Vec<Value> = tools::TABLE
            .iter()
            .map(|t| {
                json!({
                    "name": t.name,
                    "description": t.description,
                    "params": serde_json::from_str::<Value>(t.schema).unwrap_or_default(),
                    "torsion": t.torsion,
                    "runs": t.runs.name(),
                    "allowed": allowed,
                })
            })
            .collect();
        let root = |r: &Root| {
            let writable = r.mode == crate::reality::RootMode::ReadWrite;
            json!({ "name": r.name, "writable": writable })
        };
        let roots: Vec<Value> = self.gateway.world.roots.0.iter().map(root).collect();
        json_answer(&json!({ "tools": rows, "roots": roots }))
    }

    fn turned_away(&self, turned: &Turned) -> Answer {
        let (http, body) = problem(turned.code, &turned.detail);
        let mut answer = bytes(PROBLEM, body);
        set_status(&mut answer, http);
        if let Some(allow) = turned.allow {
            let headers = answer.headers_mut();
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if http == 503 || http == 429 {
            retry_after(&mut answer, 1);
        }
        answer
    }
}

/// What `/` says.
const FRONT: &str = "Vector Boot gateway: tools for agents, each call checked and recorded.\n\
    GET /health /metrics /tools, POST /tool /batch\n\
    GET /v1/ledger/head /v1/ledger/checkpoint /v1/ledger/events /v1/ledger/events/ID\n\
    GET /v1/ledger/proofs/inclusion /v1/ledger/proofs/consistency, POST /v1/ledger/rpc\n";

fn route(path: &str, method: &Method) -> Result<Page, Turned> {
    let listed = PAGES.iter().find(|p| p.0 == path);
    let found = match listed {
        Some((_, page, takes)) => Some((*page, takes)),
        None => event_of(path).map(|id| (Page::Ledger(Ledger::Event(id)), &Method::GET)),
    };
    let Some((page, takes)) = found else {
        return Err(Turned::away("not_found", "GET / names what there is"));
    };
    if method == takes || (method == Method::HEAD && takes == Method::GET) {
        return Ok(page);
    }
    let allow = if *takes == Method::GET {
        "GET, HEAD"
    } else {
        "POST"
    };
    Err(Turned {
        allow: Some(allow),
        ..Turned::away("method_not_allowed", format!("it takes {allow}"))
    })
}

/// The event that a path names.
fn event_of(path: &str) -> Option<u64> {
    let id = path.strip_prefix(EVENT)?;
    let plain = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| id.parse().ok()).flatten()
}

/// Whom a request speaks for. A token that was sent is the one that counts, also at the Unix socket.
fn bearer(entry: Entry, headers: &HeaderMap, basic: bool) -> Option<Bearer> {
    let mut sent = headers.get_all(header::AUTHORIZATION).iter();
    let (first, more) = (sent.next(), sent.next());
    let Some(value) = first else {
        let operator = entry == Entry::Unix { operator: true };
        return operator.then_some(Bearer::Operator);
    };
    let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
    let token = match scheme.to_ascii_lowercase().as_str() {
        "bearer" => rest.trim().to_owned(),
        "basic" if basic => {
            let decoded = base64::engine::general_purpose::STANDARD.decode(rest.trim());
            let text = String::from_utf8(decoded.ok()?).ok()?;
            text.strip_prefix("token:")?.to_owned()
        }
        _ => return None,
    };
    let good = more.is_none() && !token.is_empty() && token.len() <= TOKEN_BYTES_MAX;
    good.then_some(Bearer::Token(token))
}

fn is_json(headers: &HeaderMap) -> bool {
    is_of(headers, &["application/json"])
}

fn is_json_lines(headers: &HeaderMap) -> bool {
    is_of(
        headers,
        &[JSON_LINES, "application/jsonl", "application/json"],
    )
}

fn is_of(headers: &HeaderMap, medias: &[&str]) -> bool {
    let text = |name| {
        headers
            .get(name)
            .map(|v: &HeaderValue| v.to_str().unwrap_or("?"))
    };
    let plain = text(header::CONTENT_ENCODING).is_none_or(|e| e.eq_ignore_ascii_case("identity"));
    let media = text(header::CONTENT_TYPE).and_then(|v| v.split(';').next());
    let sent = media.map(str::trim).unwrap_or_default();
    plain && medias.iter().any(|m| sent.eq_ignore_ascii_case(m))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Turned> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let max = crate::idempotency::KEY_BYTES_MAX;
    match key.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= max => Ok(Some(key.to_owned())),
        _ => {
            let detail = format!("Idempotency-Key: 1 to {max} visible ASCII characters");
            Err(Turned::away("bad_request", detail))
        }
    }
}

fn of_call(call: &ToolResponse) -> Answer {
    let (body, media) = call.body();
    let mut answer = bytes(media, body);
    set_status(&mut answer, call.http);
    if let Some(seconds) = call.retry_after_s {
        retry_after(&mut answer, seconds);
    }
    answer
}

fn set_status(answer: &mut Answer, http: u16) {
    if let Ok(status) = hyper::StatusCode::from_u16(http) {
        *answer.status_mut() = status;
    }
    if http == 401 {
        let headers = answer.headers_mut();
        let bearer = HeaderValue::from_static("Bearer realm=\"vector-boot\"");
        headers.insert(header::WWW_AUTHENTICATE, bearer);
    }
}

fn retry_after(answer: &mut Answer, seconds: u32) {
    let headers = answer.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
}

fn json_answer(value: &Value) -> Answer {
    bytes("application/json", value.to_string().into_bytes())
}

fn text(media: &'static str, body: String) -> Answer {
    bytes(media, body.into_bytes())
}

fn bytes(media: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Reply::whole(body));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    answer
}
