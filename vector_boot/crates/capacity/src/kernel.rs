//! What the capacity kernel decides, apart from sockets, files and clocks.
//!
//! Owns the lease table, the token key, opaque tokens and the record of what is worth an event.
//! Every method takes the time; a panic here would be a bug, an evaluation error is a denial.
//! Start with [`Kernel::request`] and [`Kernel::check`].

use capacity_core::opaque::{Bearer, Opaque, OpaqueError};
use capacity_core::plan::Leaves;
use capacity_core::table::{Admission, Cost, LEASES_MAX, Lease, PRIORITY_MAX, Refusal, Table};
use capacity_core::token::{self, Claims, Key, PREFIX, RAW_BYTES_MAX};
use capacity_core::{Ask, Axis, Demand, Grants, allocate::Node, name};
use serde_json::{Value, json};
use wire::Role;
use wire::capacity::{
    AXES, BASIS_POINTS, Check, Request, State, TOKEN_BYTES_MAX, Verdict, permission,
};

/// Longest lease that ends, in seconds: a week.
pub const DURATION_S_MAX: u32 = 7 * 24 * 3600;
/// Longest operation name.
pub const OPERATION_BYTES_MAX: usize = 128;
/// Refusals that become events in one second; the rest are counted in the next one.
const REFUSAL_EVENTS_MAX: u32 = 16;
/// Tenant of the boot token's lease.
pub const BOOT_TENANT: &str = "default";
/// Workload of the boot token's lease.
pub const BOOT_WORKLOAD: &str = "agents";
/// Actor of the boot token.
pub const BOOT_ACTOR: &str = "agent:boot";
/// Actor of the machine's owner at the gateway's Unix socket.
pub const OWNER_ACTOR: &str = "user:operator";
/// Every permission there is.
const PERMISSIONS: u32 =
    permission::TOOLS | permission::LEDGER | permission::CAPACITY | permission::ADMIN;

/// Who asks, as the kernel of the machine attests.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// Its role.
    pub role: Role,
    /// Its uid.
    pub uid: u32,
}

/// A refusal that names field, value and limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct No {
    /// Stable code.
    pub code: &'static str,
    /// The field.
    pub field: &'static str,
    /// What it held.
    pub value: String,
    /// What it may hold.
    pub limit: String,
}

fn no(code: &'static str, field: &'static str, value: impl ToString, limit: impl ToString) -> No {
    No {
        code,
        field,
        value: value.to_string(),
        limit: limit.to_string(),
    }
}

/// Something for the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `lease_granted`, ...
    pub event_type: &'static str,
    /// `tenant/workload`, or what else it is about.
    pub subject: String,
    /// Members of the payload.
    pub payload: Value,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Admitted.
    Granted {
        /// The token.
        token: String,
        /// Its slot.
        slot: u32,
        /// What is granted now.
        grants: Grants,
        /// Milliseconds until it ends; `u64::MAX` for never.
        expires_ms: u64,
    },
    /// Not admitted.
    Refused {
        /// Bit per failing axis.
        axes: u8,
        /// Why.
        reason: String,
    },
}

/// What is said to one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may run.
    pub verdict: Verdict,
    /// The empty bucket.
    pub bucket: &'static str,
    /// Milliseconds; `u32::MAX` if a retry never succeeds under the grants in force.
    pub retry_after_ms: u32,
    /// Operations left.
    pub remaining: u32,
    /// The ledger's actor.
    pub actor: String,
    /// The tenant.
    pub tenant: String,
    /// Why not.
    pub reason: String,
}

/// Whom a token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The ledger's actor.
    pub actor: String,
    /// The tenant.
    pub tenant: String,
    /// Permission bits.
    pub permissions: u32,
    /// Its lease.
    pub slot: u32,
}

/// Denials of one lease, or of tokens that name none, since the last tick.
#[derive(Debug, Clone, Default)]
struct Denials {
    denied: u64,
    allowed: u64,
    last: String,
    /// Denials since the event that said they began; `None` while none was said.
    began: Option<u64>,
}

/// Counters since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Ticks.
    pub ticks: u64,
    /// Checks.
    pub checks: u64,
    /// Of these refused.
    pub denied: u64,
    /// Requests.
    pub requests: u64,
    /// Of these not admitted.
    pub refused: u64,
}

/// The kernel.
pub struct Kernel {
    table: Table,
    key: Key,
    opaque: Opaque,
    counters: Counters,
    /// One a slot, then one for tokens that name no lease.
    denials: Vec<Denials>,
    refusals_of_tick: u32,
    refusals_unsaid: u64,
    events: Vec<Event>,
    consumed: [Option<u16>; AXES],
    gates_failed: u8,
    /// Basis points of every budget that are to stay free of new leases.
    shed: u16,
}

impl Kernel {
    /// An empty kernel over this machine; `secret` makes its tokens.
    #[must_use]
    pub fn new(node: Node, secret: &[u8; 32]) -> Self {
        Self {
            table: Table::new(node),
            key: Key::new(secret),
            opaque: Opaque::default(),
            counters: Counters::default(),
            denials: vec![Denials::default(); LEASES_MAX + 1],
            refusals_of_tick: 0,
            refusals_unsaid: 0,
            events: Vec::new(),
            consumed: [None; AXES],
            gates_failed: 0,
            shed: 0,
        }
    }

    /// Makes the lease that the boot token spends from: a tenth guaranteed of CPU, traffic and
    /// memory, a twentieth of commits and telemetry, and all that nobody else takes.
    ///
    /// # Errors
    /// [`OpaqueError`] for a text that is no token; the lease stands all the same.
    pub fn boot(&mut self, now_ns: u64, token: Option<&str>) -> Result<(), OpaqueError> {
        let demand = |min| Demand::new(min, 10_000, 1).ok();
        let admission = Admission {
            tenant: BOOT_TENANT,
            workload: BOOT_WORKLOAD,
            ask: [1000, 1000, 500, 1000, 500].map(demand),
            expires_ms: None,
            priority: 5,
            permissions: permission::TOOLS,
            pinned: true,
        };
        let slot = match self.admit(now_ns, &admission) {
            Ok(slot) => slot,
            Err(refusal) => {
                self.say_refused(BOOT_TENANT, BOOT_WORKLOAD, &refusal);
                return Ok(());
            }
        };
        let generation = self.table.get(slot).map_or(0, |(generation, _)| generation);
        let Some(token) = token else { return Ok(()) };
        self.opaque.insert(
            token,
            Bearer {
                actor: BOOT_ACTOR.into(),
                tenant: BOOT_TENANT.into(),
                permissions: permission::TOOLS,
                slot,
                generation,
                expires_ms: None,
            },
        )
    }

    /// Takes up a lease of an earlier run of this boot: its capacity stays with its workload until
    /// it ends, its tokens are of another key and must be asked for anew.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn restore(&mut self, now_ns: u64, admission: &Admission<'_>) -> Result<u32, Refusal> {
        self.table.admit(now_ns, admission)
    }

    /// Admits a request of `asker`.
    ///
    /// # Errors
    /// [`No`] for what is malformed or what this role may not ask.
    pub fn request(
        &mut self,
        now_ns: u64,
        asker: Asker,
        request: &Request<'_>,
    ) -> Result<Outcome, No> {
        self.counters.requests += 1;
        let trusted = matches!(asker.role, Role::Operator | Role::Console);
        let expires_ms = match request.duration_s {
            0 if trusted => None,
            s if (1..=DURATION_S_MAX).contains(&s) => {
                Some(now_ns / 1_000_000 + u64::from(s) * 1000)
            }
            s => {
                let limit = format!("1 to {DURATION_S_MAX}; 0 (never) from operator and console");
                return Err(no("BAD_REQUEST", "duration_s", s, limit));
            }
        };
        for (field, text) in [
            ("tenant_id", request.tenant_id),
            ("workload_id", request.workload_id),
        ] {
            name::check(text).map_err(|e| {
                let shown: String = text.chars().take(80).collect();
                no("BAD_REQUEST", field, shown.escape_default(), e)
            })?;
        }
        if request.priority > PRIORITY_MAX {
            let limit = format!("0 to {PRIORITY_MAX}");
            return Err(no("BAD_REQUEST", "priority", request.priority, limit));
        }
        let may_give = may_give(asker.role);
        if request.permissions & !may_give != 0 {
            let limit = format!("at most {may_give:#x} from {}", asker.role.name());
            let value = format!("{:#x}", request.permissions);
            return Err(no("POLICY_DENY", "permissions", value, limit));
        }
        if let Some(own) = own_tenant(asker).filter(|own| own != request.tenant_id) {
            let limit = format!("{own} for {}", asker.role.name());
            return Err(no("POLICY_DENY", "tenant_id", request.tenant_id, limit));
        }
        let mut ask = Ask::default();
        for ((axis, want), slot) in Axis::ALL.iter().zip(request.axes).zip(&mut ask) {
            *slot = want
                .map(|w| Demand::new(w.min, w.want, w.weight))
                .transpose()
                .map_err(|e| no("BAD_REQUEST", axis.name(), "demand", e))?;
        }
        let admission = Admission {
            tenant: request.tenant_id,
            workload: request.workload_id,
            ask,
            expires_ms,
            priority: request.priority,
            permissions: request.permissions,
            pinned: false,
        };
        if let Some(axes) = self.sheds(&admission).filter(|_| !trusted) {
            self.counters.refused += 1;
            let reason = format!(
                "load shed: {} basis points of the budget are kept free for now",
                self.shed
            );
            return Ok(Outcome::Refused { axes, reason });
        }
        let slot = match self.admit(now_ns, &admission) {
            Ok(slot) => slot,
            Err(refusal) => {
                self.say_refused(request.tenant_id, request.workload_id, &refusal);
                let axes = match refusal {
                    Refusal::Axes(bits) => bits,
                    _ => 0,
                };
                let reason = refusal.to_string();
                return Ok(Outcome::Refused { axes, reason });
            }
        };
        let unsure = || no("INTERNAL", "slot", slot, "a lease just made");
        let (generation, lease) = self.table.get(slot).ok_or_else(unsure)?;
        let claims = Claims {
            tenant: request.tenant_id,
            workload: request.workload_id,
            slot,
            generation,
            expires_ms,
            permissions: request.permissions,
            grants: lease.grants,
        };
        let token = self
            .key
            .issue(&claims)
            .map_err(|e| no("INTERNAL", "token", slot, e))?;
        Ok(Outcome::Granted {
            token,
            slot,
            grants: lease.grants,
            expires_ms: expires_ms.map_or(u64::MAX, |end| end - now_ns / 1_000_000),
        })
    }

    /// Whom a token speaks for, and for which lease, if it is in force.
    ///
    /// # Errors
    /// The reason, for people.
    pub fn identify(&self, now_ns: u64, token: &str) -> Result<Identity, String> {
        self.resolve(now_ns, token, None)
    }

    fn resolve(
        &self,
        now_ns: u64,
        token: &str,
        operation: Option<&str>,
    ) -> Result<Identity, String> {
        let now_ms = now_ns / 1_000_000;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(format!(
                "token of {} bytes: at most {TOKEN_BYTES_MAX}",
                token.len()
            ));
        }
        let in_force = |slot, generation| {
            self.table
                .get(slot)
                .is_some_and(|(current, _)| current == generation)
        };
        let ended = || "token: its lease was revoked, renewed or has expired".to_owned();
        if token.starts_with(PREFIX) {
            let mut scratch = [0; RAW_BYTES_MAX];
            let verified = self
                .key
                .verify(token, &mut scratch)
                .map_err(|e| e.to_string())?;
            let claims = verified.claims;
            if !in_force(claims.slot, claims.generation) {
                return Err(ended());
            }
            if let Some(operation) = operation {
                verified
                    .permits(now_ms, operation)
                    .map_err(|e| e.to_string())?;
            } else if claims.expires_ms.is_some_and(|end| now_ms >= end) {
                return Err(token::TokenError::Expired.to_string());
            }
            return Ok(Identity {
                actor: format!("agent:{}", claims.workload),
                tenant: claims.tenant.to_owned(),
                permissions: verified.permissions(),
                slot: claims.slot,
            });
        }
        let bearer = self.opaque.find(token).ok_or("token: unknown")?;
        if bearer.expires_ms.is_some_and(|end| now_ms >= end) {
            return Err(token::TokenError::Expired.to_string());
        }
        if !in_force(bearer.slot, bearer.generation) {
            return Err(ended());
        }
        Ok(Identity {
            actor: bearer.actor.to_string(),
            tenant: bearer.tenant.to_string(),
            permissions: bearer.permissions,
            slot: bearer.slot,
        })
    }

    /// Decides over one operation, and charges for it if it may run.
    pub fn check(&mut self, now_ns: u64, check: &Check<'_>) -> Decision {
        let identity = self.resolve(now_ns, check.token, Some(check.operation));
        self.decide(now_ns, check, identity)
    }

    /// The same for the owner of the machine, who carries no token: the gateway knows him by his
    /// uid, and he spends from the appliance's own lease.
    pub fn check_owner(&mut self, now_ns: u64, check: &Check<'_>) -> Decision {
        let slot = self.table.find(BOOT_TENANT, BOOT_WORKLOAD);
        let identity = slot.ok_or_else(|| "lease of the appliance: absent".to_owned());
        let identity = identity.map(|slot| Identity {
            actor: OWNER_ACTOR.to_owned(),
            tenant: BOOT_TENANT.to_owned(),
            permissions: permission::TOOLS | permission::LEDGER,
            slot,
        });
        self.decide(now_ns, check, identity)
    }

    fn decide(
        &mut self,
        now_ns: u64,
        check: &Check<'_>,
        identity: Result<Identity, String>,
    ) -> Decision {
        self.counters.checks += 1;
        let denied = |verdict, reason: String| Decision {
            verdict,
            bucket: "",
            retry_after_ms: 0,
            remaining: 0,
            actor: String::new(),
            tenant: String::new(),
            reason,
        };
        let (slot, decision) = match identity {
            Err(reason) => (None, denied(Verdict::BadToken, reason)),
            Ok(identity) => {
                let slot = identity.slot;
                let decision = match needs(check.operation) {
                    Some(bit) if identity.permissions & bit == bit => {
                        let cost = cost(check);
                        match self.table.spend(now_ns, slot, &cost) {
                            Ok(left) => Decision {
                                remaining: u32::try_from(left).unwrap_or(u32::MAX),
                                ..denied(Verdict::Allowed, String::new())
                            },
                            Err(empty) => {
                                let never = "never under the grants in force".to_owned();
                                let when = empty.retry_after_ns.map_or(never, |ns| {
                                    format!("again in {} ms", ns.div_ceil(1_000_000))
                                });
                                let ms = empty.retry_after_ns.map(|ns| ns.div_ceil(1_000_000));
                                Decision {
                                    bucket: empty.bucket,
                                    retry_after_ms: ms
                                        .and_then(|ms| u32::try_from(ms).ok())
                                        .unwrap_or(u32::MAX),
                                    ..denied(
                                        Verdict::Quota,
                                        format!("bucket {} is empty: {when}", empty.bucket),
                                    )
                                }
                            }
                        }
                    }
                    Some(bit) => denied(
                        Verdict::NotPermitted,
                        format!(
                            "operation needs permission {bit:#x}, token has {:#x}",
                            identity.permissions
                        ),
                    ),
                    None => denied(
                        Verdict::NotPermitted,
                        format!(
                            "operation: 1 to {OPERATION_BYTES_MAX} bytes of tool:, ledger:, capacity:, obs:, admin: or a plain name"
                        ),
                    ),
                };
                let decision = Decision {
                    actor: identity.actor,
                    tenant: identity.tenant,
                    ..decision
                };
                (Some(slot), decision)
            }
        };
        let at = slot.and_then(|s| usize::try_from(s).ok());
        if let Some(track) = self.denials.get_mut(at.unwrap_or(LEASES_MAX)) {
            if decision.verdict == Verdict::Allowed {
                track.allowed += 1;
            } else {
                self.counters.denied += 1;
                if track.denied == 0 {
                    track.last.clone_from(&decision.reason);
                }
                track.denied += 1;
            }
        }
        decision
    }

    /// Gives a lease back with its token.
    ///
    /// # Errors
    /// [`No`] for a token that is not in force, or one whose lease is the appliance's own.
    pub fn release(&mut self, now_ns: u64, token: &str) -> Result<(), No> {
        let slot = self
            .resolve(now_ns, token, None)
            .map_err(|reason| no("UNAUTHENTICATED", "token", "", reason))?
            .slot;
        if self.table.get(slot).is_some_and(|(_, lease)| lease.pinned) {
            let limit = "the appliance's own lease is revoked by an operator only";
            return Err(no("POLICY_DENY", "slot", slot, limit));
        }
        self.end(now_ns, slot, "lease_released")
    }

    /// Takes a lease away; the appliance's own only for operator and console.
    ///
    /// # Errors
    /// [`No`] for a slot without a lease, or one that this role may not revoke.
    pub fn revoke(&mut self, now_ns: u64, asker: Asker, slot: u32) -> Result<(), No> {
        let trusted = matches!(asker.role, Role::Operator | Role::Console);
        let pinned = self.table.get(slot).is_some_and(|(_, lease)| lease.pinned);
        if pinned && !trusted {
            return Err(no(
                "POLICY_DENY",
                "slot",
                slot,
                "not the appliance's own lease",
            ));
        }
        self.end(now_ns, slot, "lease_revoked")
    }

    /// One second has passed: expires leases, says which denials began and ended.
    pub fn tick(&mut self, now_ns: u64, consumed: [Option<u16>; AXES], gates_failed: u8) {
        self.counters.ticks += 1;
        (self.consumed, self.gates_failed) = (consumed, gates_failed);
        self.refusals_of_tick = 0;
        for (slot, lease) in self.table.expire(now_ns) {
            self.say_ended("lease_expired", slot, &lease);
        }
        for at in 0..self.denials.len() {
            self.say_denials(at);
        }
    }

    /// Events since the last call, oldest first.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The lease table.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Counters since start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Bit per failing gate.
    #[must_use]
    pub fn gates_failed(&self) -> u8 {
        self.gates_failed
    }

    /// Cgroup settings that the leases call for.
    #[must_use]
    pub fn leaves(&self) -> Leaves {
        self.table.leaves()
    }

    /// Budgets and use as of the last tick.
    #[must_use]
    pub fn state(&self) -> State {
        State {
            ticks: self.counters.ticks,
            epoch: self.table.epoch(),
            budget: Axis::ALL.map(|a| a.budget().get()),
            granted: self.table.granted(),
            consumed: self.consumed,
            leases: u32::try_from(self.table.leases().count()).unwrap_or(u32::MAX),
            checks: self.counters.checks,
            denied: self.counters.denied,
        }
    }

    /// From now on new leases leave this share of every budget free; those in force and their renewals stay.
    pub fn set_shed(&mut self, points: u16) {
        self.shed = points.min(BASIS_POINTS);
    }

    /// The axes on which a new lease would take what is to stay free.
    fn sheds(&self, admission: &Admission<'_>) -> Option<u8> {
        let renewed = self.table.find(admission.tenant, admission.workload);
        if self.shed == 0 || renewed.is_some() {
            return None;
        }
        let over = |(axis, granted): (Axis, u16)| {
            let free = u32::from(BASIS_POINTS - self.shed);
            let most = u32::from(axis.budget().get()) * free / u32::from(BASIS_POINTS);
            u32::from(granted) >= most
        };
        let granted = Axis::ALL.into_iter().zip(self.table.granted());
        let axes = granted
            .enumerate()
            .filter(|(_, axis)| over(*axis))
            .fold(0, |bits, (place, _)| bits | 1 << place);
        (axes != 0).then_some(axes)
    }

    fn admit(&mut self, now_ns: u64, admission: &Admission<'_>) -> Result<u32, Refusal> {
        let renewed = self
            .table
            .find(admission.tenant, admission.workload)
            .is_some();
        let slot = self.table.admit(now_ns, admission)?;
        if let Some((generation, lease)) = self.table.get(slot) {
            let event = Event {
                event_type: "lease_granted",
                subject: format!("{}/{}", lease.tenant, lease.workload),
                payload: json!({
                    "slot": slot, "generation": generation, "renewed": renewed,
                    "grants": lease.grants.map(|g| g.get()),
                    "expires_at_ms": lease.expires_ms, "priority": lease.priority,
                    "permissions": lease.permissions, "epoch": self.table.epoch(),
                }),
            };
            self.events.push(event);
        }
        Ok(slot)
    }

    fn end(&mut self, now_ns: u64, slot: u32, event_type: &'static str) -> Result<(), No> {
        let lease = self
            .table
            .end(now_ns, slot)
            .ok_or_else(|| no("NOT_FOUND", "slot", slot, "a lease in force"))?;
        self.say_ended(event_type, slot, &lease);
        Ok(())
    }

    fn say_ended(&mut self, event_type: &'static str, slot: u32, lease: &Lease) {
        self.events.push(Event {
            event_type,
            subject: format!("{}/{}", lease.tenant, lease.workload),
            payload: json!({
                "slot": slot, "checks": lease.checks, "denied": lease.denied,
                "epoch": self.table.epoch(),
            }),
        });
    }

    fn say_refused(&mut self, tenant: &str, workload: &str, refusal: &Refusal) {
        self.counters.refused += 1;
        if self.refusals_of_tick >= REFUSAL_EVENTS_MAX {
            self.refusals_unsaid += 1;
            return;
        }
        self.refusals_of_tick += 1;
        let unsaid = std::mem::take(&mut self.refusals_unsaid);
        self.events.push(Event {
            event_type: "lease_refused",
            subject: format!("{tenant}/{workload}"),
            payload: json!({ "reason": refusal.to_string(), "not_recorded_before": unsaid }),
        });
    }

    fn say_denials(&mut self, at: usize) {
        let Some(track) = self.denials.get_mut(at) else {
            return;
        };
        let (denied, allowed) = (std::mem::take(&mut track.denied), track.allowed);
        track.allowed = 0;
        let slot = u32::try_from(at).unwrap_or(u32::MAX);
        let lease = self.table.get(slot).map(|(_, lease)| lease);
        let subject = match lease {
            Some(lease) => format!("{}/{}", lease.tenant, lease.workload),
            None if at == LEASES_MAX => "tokens".to_owned(),
            None => format!("slot/{slot}"),
        };
        let event = match track.began {
            None if denied > 0 => {
                track.began = Some(denied);
                Some(("denial_began", denied))
            }
            Some(before) if denied > 0 => {
                track.began = Some(before + denied);
                None
            }
            // Calls that pass end it; so does the end of the lease. For tokens that name no lease
            // nothing can pass, so a second without any ends it.
            Some(total) if allowed > 0 || lease.is_none() => {
                track.began = None;
                Some(("denial_ended", total))
            }
            _ => None,
        };
        if let Some((event_type, count)) = event {
            let payload = json!({ "slot": slot, "denied": count, "reason": track.last });
            self.events.push(Event {
                event_type,
                subject,
                payload,
            });
        }
    }
}

/// What a role may put into a token. Only operator and console give `ADMIN`.
fn may_give(role: Role) -> u32 {
    match role {
        Role::Operator | Role::Console => PERMISSIONS,
        // The gateway asks in the name of others, whose own tokens it has checked.
        Role::Gateway => PERMISSIONS & !permission::ADMIN,
        _ => permission::CAPACITY,
    }
}

/// The only tenant that a role may ask for; `None` where it may ask for any.
fn own_tenant(asker: Asker) -> Option<String> {
    match asker.role {
        Role::Operator | Role::Console | Role::Gateway => None,
        Role::User(uid) | Role::Stranger(uid) => Some(format!("uid-{uid}")),
        _ => Some("system".to_owned()),
    }
}

/// The permission that an operation needs; `None` for one that is no operation.
fn needs(operation: &str) -> Option<u32> {
    let printable = |b: u8| b.is_ascii_graphic();
    if operation.is_empty()
        || operation.len() > OPERATION_BYTES_MAX
        || !operation.bytes().all(printable)
    {
        return None;
    }
    match operation.split_once(':') {
        Some(("tool", _)) => Some(permission::TOOLS),
        Some(("ledger", _)) => Some(permission::LEDGER),
        Some(("capacity" | "obs", _)) => Some(permission::CAPACITY),
        Some(("admin", _)) => Some(permission::ADMIN),
        Some(_) => None,
        // `cross_service_call` and the like: the workload's own.
        None => Some(permission::CAPACITY),
    }
}

/// Every operation is one of traffic; ledger operations take a commit slot, `obs:` ones telemetry, and
/// what is estimated of CPU and memory is charged.
fn cost(check: &Check<'_>) -> Cost {
    let begins = |with: &str| u64::from(check.operation.starts_with(with));
    [
        u64::from(check.cpu_us),
        1,
        begins("ledger:"),
        check.memory_bytes,
        begins("obs:"),
    ]
}

#[cfg(test)]
mod tests;
