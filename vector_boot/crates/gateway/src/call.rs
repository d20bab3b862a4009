//! The path of every call: look the tool up, ask for capacity, judge, act, record, answer.
//!
//! Owns the order of these steps and what each refusal is recorded as. A call runs in a task of its
//! own, so that a client that goes away takes neither the act nor its record with it.
//!
//! Never here: HTTP. Start with [`Gateway::call`].

use crate::answer::{Fault, Status, ToolResponse};
use crate::config::AuditPaths;
use crate::idempotency::{Begun, Table};
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::peers::{PEER_WAIT, PeerError, Peers, ROWS_WAITING_MAX, Row, Who};
use crate::reality::{Reality, Score};
use crate::refusals::Refusals;
use crate::relief::{Held, Relief};
use crate::row::{self, Commitments, Params, Told, payload};
use crate::tools::{self, Effect, Failure, Meter, TORSION_UNKNOWN, Tool, World};
use capacity_core::breaker::{Admit, Outcome};
use serde_json::{Map, Value};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use wire::capacity::Verdict;

/// Calls under way; each may hold a megabyte of parameters, so this bounds memory too.
pub const CALLS_MAX: usize = 256;
/// Time for a tool. It covers the wait for a thread, so a stuck disk answers as well.
pub const TOOL_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest `id` of a request, in bytes of JSON.
pub const ID_BYTES_MAX: usize = 128;
/// Longest name of a tool that is written to a row; no row of the table is longer than half of it.
const NAME_BYTES_MAX: usize = 64;

/// How a request proved whom it speaks for.
#[derive(Clone, PartialEq, Eq)]
pub enum Bearer {
    /// A token; the capacity kernel knows it, or not.
    Token(String),
    /// The kernel attests the machine's owner at the other end of the Unix socket.
    Operator,
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token(..)",
            Self::Operator => "Operator",
        })
    }
}

/// One call, parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The request's id, echoed.
    pub id: Option<Value>,
    /// Name of the tool.
    pub tool: String,
    /// Its parameters.
    pub params: Map<String, Value>,
    /// `Idempotency-Key`.
    pub key: Option<String>,
}

impl Call {
    /// Reads `{"tool", "params", "id"?}`; other members are left for later versions.
    ///
    /// # Errors
    /// What is wrong, with the member's name and limit.
    pub fn parse(value: Value) -> Result<Self, String> {
        let Value::Object(mut members) = value else {
            return Err("a call is an object with tool and params".to_owned());
        };
        let tool = match members.remove("tool") {
            Some(Value::String(tool)) => tool,
            _ => return Err("tool: a string is needed".to_owned()),
        };
        let params = match members.remove("params") {
            Some(Value::Object(params)) => params,
            None | Some(Value::Null) => Map::new(),
            Some(_) => return Err("params: an object is needed".to_owned()),
        };
        let id = match members.remove("id") {
            None | Some(Value::Null) => None,
            Some(id @ (Value::String(_) | Value::Number(_))) => Some(id),
            Some(_) => return Err("id: a string or a number is needed".to_owned()),
        };
        if id
            .as_ref()
            .is_some_and(|i| i.to_string().len() > ID_BYTES_MAX)
        {
            return Err(format!("id: over {ID_BYTES_MAX} bytes"));
        }
        Ok(Self {
            id,
            tool,
            params,
            key: None,
        })
    }
}

/// Everything that calls share.
pub struct Gateway {
    /// What tools may touch.
    pub world: Arc<World>,
    /// Capacity kernel and ledger.
    pub peers: Peers,
    /// Counters.
    pub metrics: Metrics,
    /// Refusals that are recorded in sums.
    pub refusals: Refusals,
    /// The ledger's JSON lines.
    pub journal: Journal,
    commitments: Commitments,
    audit_paths: AuditPaths,
    idempotency: Mutex<Table>,
    relief: Mutex<Relief>,
    started: Instant,
    /// Calls that may begin.
    slots: Semaphore,
}

/// A refusal on the way, before it has an id and times.
struct Refusal {
    fault: Fault,
    retry_after_s: Option<u32>,
    /// Whom to record it for; `None`: it is not recorded one by one.
    who: Option<Who>,
}

impl Refusal {
    fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            fault: Fault {
                code: code.to_owned(),
                message: message.into(),
            },
            retry_after_s: None,
            who: None,
        }
    }

    fn for_whom(self, who: Who) -> Self {
        Self {
            who: Some(who),
            ..self
        }
    }

    fn retry_after(self, seconds: u32) -> Self {
        Self {
            retry_after_s: Some(seconds.max(1)),
            ..self
        }
    }
}

impl From<PeerError> for Refusal {
    fn from(e: PeerError) -> Self {
        let (PeerError::Unavailable(peer) | PeerError::Refused(peer, _)) = &e;
        let code = match *peer {
            "ledger" => "ledger_unavailable",
            _ => "capacity_unavailable",
        };
        Self::new(code, e.to_string()).retry_after(1)
    }
}

/// What a tool did.
struct Ran {
    reality: Option<Reality>,
    root: Option<String>,
    result: Result<Value, Failure>,
    meter: Meter,
}

impl Gateway {
    /// Makes the gateway's shared state.
    ///
    /// # Errors
    /// As `getrandom(2)`.
    pub fn new(
        world: World,
        peers: Peers,
        journal: Journal,
        started: Instant,
        audit_paths: AuditPaths,
    ) -> std::io::Result<Self> {
        Ok(Self {
            audit_paths,
            world: Arc::new(world),
            peers,
            metrics: Metrics::new(started),
            refusals: Refusals::default(),
            journal,
            commitments: Commitments::new()?,
            idempotency: Mutex::default(),
            // A few hundred places fit any number.
            relief: Mutex::new(Relief::new(CALLS_MAX as u32)),
            started,
            slots: Semaphore::new(CALLS_MAX),
        })
    }

    /// Makes one call. It goes on to its end and its record even if the result is not awaited.
    pub async fn call(
        self: &Arc<Self>,
        bearer: &Bearer,
        call: Call,
        arrived: Instant,
    ) -> ToolResponse {
        let id = call.id.clone().unwrap_or_else(own_id);
        let (this, bearer, id_then) = (self.clone(), bearer.clone(), id.clone());
        let task = tokio::spawn(async move {
            let _counted = this.metrics.call();
            let mut answer = this.run(&bearer, call, id_then, arrived).await;
            let elapsed = arrived.elapsed();
            // A replayed answer tells the time of the first.
            if answer.execution_time_ms == 0.0 {
                answer.execution_time_ms = elapsed.as_micros() as f64 / 1e3;
            }
            let duration_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
            this.metrics.count(&answer, duration_us);
            answer
        });
        task.await.unwrap_or_else(|e| {
            log::error!("call failed: cause={e}");
            let fault = Refusal::new("internal", "the call failed inside the gateway").fault;
            ToolResponse::refused(id, TORSION_UNKNOWN, None, fault)
        })
    }

    async fn run(&self, bearer: &Bearer, call: Call, id: Value, arrived: Instant) -> ToolResponse {
        let Ok(Ok(_slot)) = tokio::time::timeout(PEER_WAIT, self.slots.acquire()).await else {
            let refusal = Refusal::new("overloaded", format!("{CALLS_MAX} calls are under way"));
            return refused(id, TORSION_UNKNOWN, refusal.retry_after(1));
        };
        let Some(tool) = tools::find(&call.tool) else {
            return self.unknown_tool(bearer, &call, id, arrived).await;
        };
        let admitted = self.admit(bearer, tool).await;
        match admitted.and_then(|who| Ok((self.place(&who, tool)?, who))) {
            Ok((place, who)) => self.admitted(who, place, tool, call, id, arrived).await,
            Err(refusal) => self.refuse(refusal, tool, &call, id, arrived).await,
        }
    }

    /// Capacity first, then the ledger: what cannot be recorded is not done.
    async fn admit(&self, bearer: &Bearer, tool: &Tool) -> Result<Who, Refusal> {
        let operation = format!("tool:{}", tool.name);
        let token = match bearer {
            Bearer::Token(token) => token.as_str(),
            Bearer::Operator => "",
        };
        let admission = self
            .peers
            .check(token, &operation, tool.cpu_us, tool.memory_bytes)
            .await?;
        let who = match (bearer, admission.verdict) {
            // The owner of the machine carries no token: the kernel takes our word for him.
            (_, Verdict::Allowed) => admission.who.clone(),
            (_, Verdict::BadToken) => {
                self.refusals.add(Who::gateway(), tool.name, "unauthorized");
                return Err(Refusal::new("unauthorized", "the token is not in force"));
            }
            _ => admission.who.clone(),
        };
        let wait_s = admission.retry_after_ms.div_ceil(1000);
        let summed = |code: &'static str| {
            self.refusals.add(who.clone(), tool.name, code);
            Refusal::new(code, admission.reason.clone()).retry_after(wait_s)
        };
        match admission.verdict {
            Verdict::NotPermitted => {
                let refusal = Refusal::new("not_permitted_by_token", admission.reason.clone());
                return Err(refusal.for_whom(who));
            }
            Verdict::Quota => return Err(summed("quota")),
            Verdict::Gate => return Err(summed("gate")),
            Verdict::Allowed | Verdict::BadToken => {}
        }
        let up = self.peers.ledger.wait_up(PEER_WAIT).await;
        let room = self.peers.ledger.waiting() + CALLS_MAX <= ROWS_WAITING_MAX;
        match up {
            Ok(()) if room => Ok(who),
            _ => Err(PeerError::Unavailable("ledger").into()),
        }
    }

    /// Circuit breaker and load shedder.
    fn place(&self, who: &Who, tool: &'static Tool) -> Result<Place<'_>, Refusal> {
        let held = self
            .relief()
            .admit(self.now_ms(), tool.name, &who.tenant_id);
        let (code, detail, wait_ms) = match held {
            Ok(was) => {
                return Ok(Place {
                    gateway: self,
                    tool: tool.name,
                    tenant: who.tenant_id.clone(),
                    was,
                    outcome: None,
                });
            }
            Err(Held::Broken(ms)) => ("circuit_open", "the tool failed repeatedly", ms),
            Err(Held::Shed) => ("gate", "other tenants want their share", 0),
        };
        self.refusals.add(who.clone(), tool.name, code);
        let wait_s = u32::try_from(wait_ms.div_ceil(1000)).unwrap_or(u32::MAX);
        Err(Refusal::new(code, detail).retry_after(wait_s))
    }

    fn relief(&self) -> MutexGuard<'_, Relief> {
        // Counts that a panic left one off are better than none.
        self.relief.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn admitted(
        &self,
        who: Who,
        mut place: Place<'_>,
        tool: &'static Tool,
        call: Call,
        id: Value,
        arrived: Instant,
    ) -> ToolResponse {
        let commitment = self.commitments.of(&call.params);
        let key = call
            .key
            .clone()
            .filter(|_| tool.effect == Effect::Writes)
            .map(|key| (who.actor.clone(), key));
        if let Some(key) = &key {
            let begun = self.table().begin(Instant::now(), key, &commitment);
            let refusal = match begun {
                Begun::First => None,
                Begun::Running => Some(("idempotency_in_progress", "the first call is under way")),
                Begun::Mismatch => Some(("idempotency_mismatch", "the parameters differ")),
                Begun::Done(first) => {
                    return self.replay(&who, tool, *first, &commitment, arrived).await;
                }
            };
            if let Some((code, message)) = refusal {
                let refusal = Refusal::new(code, message).for_whom(who);
                return self.refuse(refusal, tool, &call, id, arrived).await;
            }
        }
        let unkey = Unkey(self, key);
        let mut answer = self
            .execute(&who, tool, call.params, &commitment, id, arrived)
            .await;
        answer.execution_time_ms = arrived.elapsed().as_micros() as f64 / 1e3;
        place.outcome = Some(outcome_of(&answer));
        // What was not recorded may be tried again under the same key.
        unkey.end(Some(&answer).filter(|a| a.event_id.is_some()));
        answer
    }

    async fn execute(
        &self,
        who: &Who,
        tool: &'static Tool,
        params: Map<String, Value>,
        commitment: &str,
        id: Value,
        arrived: Instant,
    ) -> ToolResponse {
        let audited = row::audited(&params);
        let ran = self.act(tool, params).await;
        let (status, fault) = match (&ran.result, ran.reality) {
            (Ok(_), _) => (Status::Success, None),
            (Err(f), reality) => {
                let denied = reality.is_some_and(|r| !r.passes());
                let status = if denied {
                    Status::Denied
                } else {
                    Status::Error
                };
                let fault = Fault {
                    code: f.code.to_owned(),
                    message: f.message.clone(),
                };
                (status, Some(fault))
            }
        };
        let code = fault.as_ref().map_or("", |f| f.code.as_str());
        // A call that ran is 200 whatever came of it.
        let invalid = code == "invalid_params";
        let http = match status {
            Status::Denied => 400,
            _ if invalid => 422,
            _ => 200,
        };
        let told = Told {
            root: ran.root.as_deref(),
            params_commitment: Some(commitment),
            params: Params::of(&audited, self.audit_paths),
            reality: ran.reality.map(|r| r.score),
            torsion: tool.torsion,
            duration_us: micros(arrived),
            outcome: status.outcome(),
            code,
            count: None,
        };
        let event_type = match status {
            Status::Success => "tool_called",
            Status::Error if !invalid => "tool_called",
            _ => "tool_refused",
        };
        let row = Row {
            who,
            event_type,
            subject: tool.name,
            payload: &payload(&told),
            causation_id: None,
        };
        match self.peers.record(&row).await {
            Ok(event_id) => ToolResponse {
                status,
                data: ran.result.unwrap_or(Value::Null),
                reality_index: ran.reality.map(|r| r.score.value()),
                execution_time_ms: 0.0,
                torsion_score: tool.torsion,
                id,
                error: fault,
                event_id: Some(event_id),
                boundary_crossings: ran.meter.boundary_crossings,
                bytes_copied: ran.meter.bytes_copied,
                http,
                retry_after_s: None,
            },
            Err(e) => {
                let mut refusal = Refusal::from(e);
                let done = " after the tool ran; its row follows when the ledger is back";
                refusal.fault.message.push_str(done);
                refused(id, tool.torsion, refusal)
            }
        }
    }

    /// Judges and acts on a thread that may wait for a disk.
    async fn act(&self, tool: &'static Tool, params: Map<String, Value>) -> Ran {
        // The world lives as long as the process; the thread needs its own handle of it.
        let world = self.world.clone();
        let task = tokio::task::spawn_blocking(move || prepare_and_act(tool, &world, &params));
        match tokio::time::timeout(TOOL_TIME_MAX, task).await {
            Ok(Ok(ran)) => ran,
            Ok(Err(e)) => {
                log::error!("tool panicked: tool={} cause={e}", tool.name);
                failed("internal", "the tool failed inside the gateway")
            }
            Err(_) => failed("timeout", &format!("over {} s", TOOL_TIME_MAX.as_secs())),
        }
    }

    /// Answers a repeated call as the first was answered, with a row of its own.
    async fn replay(
        &self,
        who: &Who,
        tool: &Tool,
        first: ToolResponse,
        commitment: &str,
        arrived: Instant,
    ) -> ToolResponse {
        let told = Told {
            root: None,
            params_commitment: Some(commitment),
            params: None,
            reality: None,
            torsion: tool.torsion,
            duration_us: micros(arrived),
            outcome: "replayed",
            code: "",
            count: None,
        };
        let row = Row {
            who,
            event_type: "tool_called",
            subject: tool.name,
            payload: &payload(&told),
            causation_id: first.event_id,
        };
        match self.peers.record(&row).await {
            Ok(_) => first,
            Err(e) => refused(first.id, tool.torsion, e.into()),
        }
    }

    async fn unknown_tool(
        &self,
        bearer: &Bearer,
        call: &Call,
        id: Value,
        arrived: Instant,
    ) -> ToolResponse {
        let who = match self.whose(bearer).await {
            Ok(Some((who, _))) => who,
            Ok(None) => {
                self.refusals.add(Who::gateway(), "unknown", "unauthorized");
                let refusal = Refusal::new("unauthorized", "the token is not in force");
                return refused(id, TORSION_UNKNOWN, refusal);
            }
            Err(e) => return refused(id, TORSION_UNKNOWN, e.into()),
        };
        let refusal = Refusal::new(
            "unknown_tool",
            "no tool has this name; GET /tools lists them",
        );
        let name = name_for_row(&call.tool);
        let refusal = refusal.for_whom(who);
        self.refuse_as(refusal, name, TORSION_UNKNOWN, call, id, arrived)
            .await
    }

    async fn refuse(
        &self,
        refusal: Refusal,
        tool: &Tool,
        call: &Call,
        id: Value,
        arrived: Instant,
    ) -> ToolResponse {
        self.refuse_as(refusal, tool.name, tool.torsion, call, id, arrived)
            .await
    }

    /// Answers a refusal, with a row if somebody is known to record it for.
    async fn refuse_as(
        &self,
        mut refusal: Refusal,
        subject: &str,
        torsion: f64,
        call: &Call,
        id: Value,
        arrived: Instant,
    ) -> ToolResponse {
        let Some(who) = refusal.who.take() else {
            return refused(id, torsion, refusal);
        };
        let commitment = self.commitments.of(&call.params);
        let audited = row::audited(&call.params);
        let told = Told {
            root: None,
            params_commitment: Some(&commitment),
            params: Params::of(&audited, self.audit_paths),
            reality: None,
            torsion,
            duration_us: micros(arrived),
            outcome: "denied",
            code: &refusal.fault.code,
            count: None,
        };
        let row = Row {
            who: &who,
            event_type: "tool_refused",
            subject,
            payload: &payload(&told),
            causation_id: None,
        };
        match self.peers.record(&row).await {
            Ok(event_id) => ToolResponse {
                event_id: Some(event_id),
                ..refused(id, torsion, refusal)
            },
            Err(e) => refused(id, torsion, e.into()),
        }
    }

    /// Whom a request speaks for, and its permission bits; `None` if its token is not in force.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn whose(&self, bearer: &Bearer) -> Result<Option<(Who, u32)>, PeerError> {
        match bearer {
            Bearer::Operator => Ok(Some((Who::operator(), u32::MAX))),
            Bearer::Token(token) => self.peers.identify(token).await,
        }
    }

    /// Writes the rows of the refusals that are recorded in sums.
    pub async fn record_refusals(&self) {
        for (who, subject, code, count) in self.refusals.take() {
            let told = Told {
                root: None,
                params_commitment: None,
                params: None,
                reality: None,
                torsion: tools::find(&subject).map_or(TORSION_UNKNOWN, |t| t.torsion),
                duration_us: 0,
                outcome: "denied",
                code,
                count: Some(count),
            };
            let row = Row {
                who: &who,
                event_type: "tool_refused",
                subject: &subject,
                payload: &payload(&told),
                causation_id: None,
            };
            if let Err(e) = self.peers.record(&row).await {
                log::warn!("refusals not recorded yet: count={count} cause={e}");
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // The table is whole after a panic: every change of it is one insertion or removal.
        self.idempotency.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// A place among the calls under way, given back however the call ends.
struct Place<'g> {
    gateway: &'g Gateway,
    tool: &'static str,
    tenant: String,
    was: Admit,
    outcome: Option<Outcome>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let now = self.gateway.now_ms();
        let mut relief = self.gateway.relief();
        relief.done(now, self.tool, &self.tenant, self.was, self.outcome);
    }
}

/// Only what is wrong with the tool or its disk opens a breaker, never what a caller asked for.
fn outcome_of(answer: &ToolResponse) -> Outcome {
    match answer.error.as_ref().map(|f| f.code.as_str()) {
        Some("io" | "internal" | "timeout" | "no_space") => Outcome::Failure,
        _ => Outcome::Success,
    }
}

/// Frees a key if its call ends without an answer, whatever way it ends.
struct Unkey<'g>(&'g Gateway, Option<crate::idempotency::Key>);

impl Unkey<'_> {
    fn end(mut self, answer: Option<&ToolResponse>) {
        if let Some(key) = self.1.take() {
            self.0.table().end(&key, answer);
        }
    }
}

impl Drop for Unkey<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.1.take() {
            self.0.table().end(&key, None);
        }
    }
}

fn prepare_and_act(tool: &Tool, world: &World, params: &Map<String, Value>) -> Ran {
    let prepared = match (tool.prepare)(world, params) {
        Ok(prepared) => prepared,
        Err(e) => return failed("invalid_params", &e.to_string()),
    };
    let mut meter = Meter::default();
    let result = match prepared.act {
        Some(act) if prepared.reality.passes() => act(&mut meter),
        _ => Err(denied(prepared.reality)),
    };
    Ran {
        reality: Some(prepared.reality),
        root: prepared.root.map(str::to_owned),
        result,
        meter,
    }
}

fn denied(reality: Reality) -> Failure {
    let why = match reality.score {
        Score::PARENT => "the last component of the path is missing",
        Score::NOTHING => "nothing below the root that may be reached",
        _ => "the target is there, but not usable for this tool",
    };
    let code = if reality.code.is_empty() {
        "target_unusable"
    } else {
        reality.code
    };
    Failure::new(
        code,
        format!("reality index {}: {why}", reality.score.value()),
    )
}

fn failed(code: &'static str, message: &str) -> Ran {
    Ran {
        reality: None,
        root: None,
        result: Err(Failure::new(code, message)),
        meter: Meter::default(),
    }
}

fn refused(id: Value, torsion: f64, refusal: Refusal) -> ToolResponse {
    ToolResponse {
        retry_after_s: refusal.retry_after_s,
        ..ToolResponse::refused(id, torsion, None, refusal.fault)
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// An id for a call that came without one.
fn own_id() -> Value {
    use std::sync::atomic::{AtomicU64, Ordering};
    static LAST: AtomicU64 = AtomicU64::new(0);
    Value::from(LAST.fetch_add(1, Ordering::Relaxed) + 1)
}

/// A caller's word is written to a row only where it looks like a tool's name.
fn name_for_row(name: &str) -> &str {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let good = !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(plain);
    if good { name } else { "unknown" }
}
