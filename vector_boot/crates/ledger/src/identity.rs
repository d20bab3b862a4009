//! Who may write what: the peer's role, as the kernel attests it, against namespace and actor.

use crate::committer::{Ledger, Refusal};
use crate::enforce::Plea;
use crate::json::Json;
use ledger_core::kinds::Needs;
use ledger_core::policy::{Ask, Policy, Verdict};
use ledger_core::{kinds, rules};
use wire::Role;

/// Namespace of the machine itself: PID 1, the operator, a person at the console.
const NS_SYSTEM: &str = "system";
/// Namespace of users' services.
const NS_USER: &str = "user";
/// Namespaces in which a token's holder writes nothing: those of the machine, of its roles and of
/// users' services.
const OWN_NAMESPACES: [&str; 14] = [
    NS_SYSTEM, NS_USER, "operator", "init", "ledger", "capacity", "gateway", "zygote", "console",
    "model", "net", "cortex", "witness", "stranger",
];
/// The person at the terminal, whom the console answers for.
const CONSOLE_PERSON: &str = "user:console";

/// Whether a call is the machine's owner's, and that of the person at its terminal.
fn is_owners(call: &str) -> bool {
    matches!(
        call,
        "policy.set" | "epoch.new" | "compact" | "cache.rebuild" | "audit_key"
    )
}

/// Whether a call tells of everybody: then it is for the machine's own roles.
fn is_machines(call: &str) -> bool {
    matches!(call, "doctor" | "verify" | "metrics" | "witness.add")
}

/// What the carrier of checkpoints does, and nothing else: it alone of ours speaks to somebody elsewhere.
fn is_carriers(call: &str) -> bool {
    matches!(
        call,
        "checkpoint" | "proof.consistency" | "witness.add" | "append_event" | "ping"
    )
}

/// Whether a call is over rights: of the owner, and within a tenant.
fn is_over_rights(call: &str) -> bool {
    matches!(call, "grant" | "revoke")
}

/// The machine's roles that have a name.
const ROLES: [Role; 10] = [
    Role::Ledger,
    Role::Capacity,
    Role::Gateway,
    Role::Zygote,
    Role::Console,
    Role::Model,
    Role::Net,
    Role::Cortex,
    Role::Witness,
    Role::Operator,
];
/// Rules of who somebody is: under which names it writes, of which tenant.
pub const RULE_ACTOR: &str = "identity:actor";
const RULE_NS: &str = "identity:ns";
pub const RULE_TENANT: &str = "identity:tenant";

/// Who asks, and whose rights count: the peer, or the holder of a token for whom the gateway asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The peer, as the kernel attests it.
    pub role: Role,
    holder: Option<Holder>,
}

/// Who holds the token with which the gateway was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    actor: String,
    tenant: String,
}

impl Caller {
    /// The caller of a request with this member `as`, which the gateway alone may send, and the operator, whom it narrows.
    ///
    /// # Errors
    /// `BAD_ACTOR`, `BAD_REQUEST`.
    pub fn of(role: Role, on_behalf: Option<&Json>) -> Result<Self, Refusal> {
        let Some(on_behalf) = on_behalf else {
            return Ok(Self { role, holder: None });
        };
        // As an ordinary process the gateway is the operator's own; it can only narrow what he may do.
        if role != Role::Gateway && role != Role::Operator {
            let limit = "sent by the gateway alone";
            return Err(Refusal::new("BAD_ACTOR", "as", "", limit).by("identity:as"));
        }
        let member = |key, holds: fn(&str) -> bool| {
            let text = on_behalf.get(key).and_then(Json::text);
            text.filter(|t| holds(t)).map(str::to_owned)
        };
        let person = |t: &str| rules::actor(t) && !t.starts_with("service:");
        let two = matches!(on_behalf, Json::Object(members) if members.len() == 2);
        match (member("actor", person), member("tenant", rules::tenant)) {
            (Some(actor), Some(tenant)) if two => Ok(Self {
                role,
                holder: Some(Holder { actor, tenant }),
            }),
            _ => {
                let limit = "an object of actor (agent:NAME or user:NAME) and tenant, no more";
                Err(Refusal::bad("as", limit))
            }
        }
    }

    /// Whether it is one of whom nothing is trusted: a user's service, a token's holder, a stranger.
    #[must_use]
    pub fn is_tenant(&self) -> bool {
        self.holder.is_some() || matches!(self.role, Role::User(_) | Role::Stranger(_))
    }

    /// Whether it is the machine's owner, or the person at its terminal.
    #[must_use]
    pub fn is_owner(&self) -> bool {
        self.holder.is_none() && matches!(self.role, Role::Operator | Role::Console)
    }

    /// Somebody by name, as a call of its own would be judged.
    #[must_use]
    pub fn named(actor: &str, tenant: Option<&str>) -> Self {
        let role = match (actor, actor.strip_prefix("service:")) {
            _ if tenant.is_some_and(|t| t != NS_SYSTEM) => None,
            ("user:operator", _) => Some(Role::Operator),
            (CONSOLE_PERSON, _) => Some(Role::Console),
            (_, Some(name)) => ROLES.into_iter().find(|role| role.name() == name),
            _ => None,
        };
        let uid = actor
            .strip_prefix("service:uid-")
            .and_then(|n| n.parse().ok());
        match (role, uid) {
            (Some(role), _) => Self { role, holder: None },
            (None, Some(uid)) if tenant.is_none_or(|t| t == format!("uid-{uid}")) => Self {
                role: Role::User(uid),
                holder: None,
            },
            _ => Self {
                role: Role::Gateway,
                holder: Some(Holder {
                    actor: actor.to_owned(),
                    tenant: tenant.unwrap_or(NS_SYSTEM).to_owned(),
                }),
            },
        }
    }

    /// Who asks for what.
    #[must_use]
    pub fn plea(&self, call: &str, on: &str) -> Plea {
        Plea::new(self.ask(call, on), self.is_tenant())
    }

    fn ask(&self, call: &str, on: &str) -> Ask {
        Ask {
            actor: self.actor(),
            tenant: self.tenant(),
            call: call.to_owned(),
            on: on.to_owned(),
        }
    }

    /// Whether a call on an object may be made at all: by what the caller is, then by the policy. The one
    /// place that judges, and what `policy.explain` tells.
    ///
    /// # Errors
    /// The refusal, with its rule.
    pub fn judge(
        &self,
        policy: &Policy,
        call: &str,
        on: &str,
        wall_ns: u64,
    ) -> Result<Verdict, Refusal> {
        if self.reads() == Reads::Nothing && call != "ping" {
            let limit = "uids that the machine does not know may only ping";
            let uid = self.role.uid().to_string();
            return Err(Refusal::new("BAD_ACTOR", "uid", &uid, limit).by("identity:stranger"));
        }
        if self.role == Role::Witness && !is_carriers(call) {
            let limit = "checkpoints, proofs that one continues another, and its own events";
            let refusal = Refusal::new("POLICY_DENY", "caller", self.role.name(), limit);
            return Err(refusal.by("identity:witness"));
        }
        let own = is_owners(call) && !self.is_owner();
        if own || (is_machines(call) && self.is_tenant()) {
            let limit = "a call of the machine's owner alone";
            let refusal = Refusal::new("POLICY_DENY", "", "", limit);
            return Err(refusal.by(&format!("owner:{call}")));
        }
        if !self.is_tenant() {
            let name = self.role.name();
            if is_over_rights(call) && !self.is_owner() {
                let limit = "for the machine's owner, and within a tenant";
                let refusal = Refusal::new("POLICY_DENY", "caller", name, limit);
                return Err(refusal.by(&format!("identity:{name}")));
            }
            return Ok(Verdict {
                allowed: true,
                rule: format!("identity:{name}"),
                reason: "one of the machine's own roles".to_owned(),
            });
        }
        if call == "append_event" && !on.is_empty() {
            self.may_append(on, &self.actor())?;
        }
        match policy.judge(&self.ask(call, on), wall_ns) {
            verdict if verdict.allowed => Ok(verdict),
            verdict => Err(Refusal::from(&verdict)),
        }
    }

    /// The name under which it acts.
    #[must_use]
    pub fn actor(&self) -> String {
        match (&self.holder, self.role) {
            (Some(holder), _) => holder.actor.clone(),
            (None, Role::User(uid) | Role::Stranger(uid)) => format!("service:uid-{uid}"),
            (None, Role::Operator) => "user:operator".to_owned(),
            (None, Role::Console) => CONSOLE_PERSON.to_owned(),
            (None, named) => format!("service:{}", named.name()),
        }
    }

    /// The tenant of what does not name one.
    #[must_use]
    pub fn tenant(&self) -> String {
        match self.reads() {
            Reads::Tenant(tenant) => tenant,
            _ => NS_SYSTEM.to_owned(),
        }
    }

    /// What it may read.
    #[must_use]
    pub fn reads(&self) -> Reads {
        match &self.holder {
            Some(holder) => Reads::Tenant(holder.tenant.clone()),
            None => reads_as(self.role),
        }
    }

    /// Checks that it may append an event under these names. A token's holder writes under its own
    /// actor, in any namespace that is not one of the machine's own.
    ///
    /// # Errors
    /// `BAD_ACTOR` or `BAD_NS`.
    pub fn may_append(&self, ns: &str, actor: &str) -> Result<(), Refusal> {
        let Some(holder) = &self.holder else {
            return may_append(self.role, ns, actor);
        };
        if holder.actor != actor {
            let limit = format!("{} for this caller", holder.actor);
            return Err(Refusal::new("BAD_ACTOR", "actor", actor, &limit).by(RULE_ACTOR));
        }
        if OWN_NAMESPACES.contains(&ns) {
            let limit = "no namespace of the machine's own";
            return Err(Refusal::new("BAD_NS", "ns", ns, limit).by(RULE_NS));
        }
        Ok(())
    }

    /// Checks that it may append for this tenant.
    ///
    /// # Errors
    /// `POLICY_DENY`.
    pub fn may_append_for(&self, tenant: &str) -> Result<(), Refusal> {
        tenant_is_of(&self.reads(), tenant)
    }

    /// Checks that it may make the log longer.
    ///
    /// # Errors
    /// `QUOTA`.
    pub fn may_fill(&self, ledger: &Ledger) -> Result<(), Refusal> {
        may_fill(self.is_tenant(), ledger.standing().used, ledger.room())
    }
}

/// Checks that a peer may append an event under these names.
///
/// # Errors
/// `BAD_ACTOR` or `BAD_NS`.
pub fn may_append(role: Role, ns: &str, actor: &str) -> Result<(), Refusal> {
    let own = match role {
        Role::Operator => return Ok(()),
        Role::Stranger(uid) => {
            let limit = "uids that the machine does not know may not write";
            let refusal = Refusal::new("BAD_ACTOR", "uid", &uid.to_string(), limit);
            return Err(refusal.by("identity:stranger"));
        }
        Role::User(uid) => format!("service:uid-{uid}"),
        named => format!("service:{}", named.name()),
    };
    let own_ns = match role {
        Role::User(_) => NS_USER,
        named => named.name(),
    };
    let pairs = [
        (actor == own, ns == own_ns, own.as_str(), own_ns),
        // After it verified a token, the gateway writes for who holds it.
        (
            role == Role::Gateway && (actor.starts_with("agent:") || actor.starts_with("user:")),
            ns == own_ns,
            "agent:* or user:*",
            own_ns,
        ),
        (
            role == Role::Console && actor == CONSOLE_PERSON,
            ns == NS_SYSTEM,
            CONSOLE_PERSON,
            NS_SYSTEM,
        ),
    ];
    match pairs.iter().find(|(actor_holds, ..)| *actor_holds) {
        Some((_, true, ..)) => Ok(()),
        Some((_, false, who, wanted)) => {
            let limit = format!("{wanted} for {who}");
            Err(Refusal::new("BAD_NS", "ns", ns, &limit).by(RULE_NS))
        }
        None => {
            let limit = format!("{own} for this peer");
            Err(Refusal::new("BAD_ACTOR", "actor", actor, &limit).by(RULE_ACTOR))
        }
    }
}

/// Whether a peer may read events, verify and subscribe: everybody whom the machine knows, but users'
/// services only their own tenant's.
#[must_use]
pub fn reads_as(role: Role) -> Reads {
    match role {
        Role::Stranger(_) => Reads::Nothing,
        Role::User(uid) => Reads::Tenant(format!("uid-{uid}")),
        _ => Reads::Everything,
    }
}

/// What a peer may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reads {
    /// Nothing.
    Nothing,
    /// Events of one tenant.
    Tenant(String),
    /// All.
    Everything,
}

/// Checks that a peer may append for this tenant: users' services for their own alone.
///
/// # Errors
/// `POLICY_DENY`.
pub fn may_append_for(role: Role, tenant: &str) -> Result<(), Refusal> {
    tenant_is_of(&reads_as(role), tenant)
}

fn tenant_is_of(reads: &Reads, tenant: &str) -> Result<(), Refusal> {
    match reads {
        Reads::Tenant(own) if own != tenant => {
            let limit = format!("{own} for this peer");
            Err(Refusal::new("POLICY_DENY", "tenant_id", tenant, &limit).by(RULE_TENANT))
        }
        _ => Ok(()),
    }
}

/// Checks that a plain append may write events of this type, and that this one says what it must.
///
/// # Errors
/// `POLICY_DENY`, `BAD_REQUEST`.
pub fn may_write(event_type: &str, payload: &Json) -> Result<(), Refusal> {
    if let Some(by) = kinds::reserved(event_type) {
        let limit = format!("written by {by} alone");
        return Err(Refusal::new("POLICY_DENY", "event_type", event_type, &limit).by(kinds::RULE));
    }
    let limit = match kinds::missing(event_type, payload) {
        None => return Ok(()),
        Some(Needs::Text(key)) => format!("of {event_type} has {key}, a text"),
        Some(Needs::Number(key)) => format!("of {event_type} has {key}, a number"),
    };
    Err(Refusal::bad("payload", &limit))
}

/// Of the log, what users' services may fill; the rest is kept for the machine's own evidence, without
/// which the gateway does nothing.
const USERS_PERCENT: u64 = 75;

/// Checks that the log may become longer for a tenant, if it is one who asks; of the log `used` of `room`
/// bytes are used.
///
/// # Errors
/// `QUOTA`.
pub fn may_fill(user: bool, used: u64, room: u64) -> Result<(), Refusal> {
    // In this order, since the room of a file that may grow is nearly all numbers.
    let full = used / USERS_PERCENT >= room / 100;
    if !user || !full {
        return Ok(());
    }
    let limit = format!("{USERS_PERCENT} % of {room} bytes are for users' services");
    Err(Refusal::new("QUOTA", "log", &used.to_string(), &limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_writes_under_its_own_name_alone() {
        let code = |role, ns, actor| may_append(role, ns, actor).err().map(|r| r.code);
        let (user, stranger) = (Role::User(30_001), Role::Stranger(1000));
        for (role, ns, actor, wanted) in [
            (Role::Operator, "anything", "user:x", None),
            (Role::Gateway, "gateway", "service:gateway", None),
            (Role::Gateway, "gateway", "agent:x", None),
            (Role::Gateway, "gateway", "user:x", None),
            (Role::Gateway, "system", "agent:x", Some("BAD_NS")),
            (
                Role::Gateway,
                "gateway",
                "service:capacity",
                Some("BAD_ACTOR"),
            ),
            (Role::Capacity, "capacity", "service:capacity", None),
            (
                Role::Capacity,
                "gateway",
                "service:capacity",
                Some("BAD_NS"),
            ),
            (Role::Capacity, "capacity", "agent:x", Some("BAD_ACTOR")),
            (Role::Console, "system", "user:console", None),
            (Role::Console, "console", "service:console", None),
            (Role::Console, "system", "user:other", Some("BAD_ACTOR")),
            (Role::Console, "console", "user:console", Some("BAD_NS")),
            (user, "user", "service:uid-30001", None),
            (user, "user", "service:uid-30002", Some("BAD_ACTOR")),
            (user, "system", "service:uid-30001", Some("BAD_NS")),
            (stranger, "user", "service:uid-1000", Some("BAD_ACTOR")),
        ] {
            assert_eq!(code(role, ns, actor), wanted, "{role:?} {ns} {actor}");
        }
    }

    #[test]
    fn the_carrier_of_checkpoints_reads_no_event() {
        let caller = Caller::of(Role::Witness, None).unwrap();
        let code = |call| {
            let verdict = caller.judge(&Policy::default(), call, "", 0);
            verdict.err().map(|refusal| refusal.code)
        };
        for call in [
            "checkpoint",
            "proof.consistency",
            "witness.add",
            "append_event",
            "ping",
        ] {
            assert_eq!(code(call), None, "{call}");
        }
        for call in [
            "query",
            "subscribe",
            "verify",
            "blob.get",
            "proof.inclusion",
            "grant",
        ] {
            assert_eq!(code(call), Some("POLICY_DENY"), "{call}");
        }
    }

    #[test]
    fn users_services_leave_a_quarter_of_the_log_to_the_machine() {
        assert!(may_fill(true, 74_000, 100_000).is_ok());
        assert_eq!(may_fill(true, 75_000, 100_000).unwrap_err().code, "QUOTA");
        assert!(may_fill(false, 99_999, 100_000).is_ok());
        assert!(may_fill(true, 1 << 40, u64::MAX).is_ok());
    }

    #[test]
    fn users_services_stay_with_their_tenant() {
        let user = Role::User(30_001);
        assert_eq!(Caller::of(user, None).unwrap().tenant(), "uid-30001");
        assert!(may_append_for(user, "uid-30001").is_ok());
        assert_eq!(
            may_append_for(user, "system").unwrap_err().code,
            "POLICY_DENY"
        );
        assert_eq!(reads_as(Role::Stranger(1)), Reads::Nothing);
    }

    #[test]
    fn the_gateway_alone_speaks_for_others_and_they_keep_to_their_own() {
        let on_behalf = Json::parse(r#"{"actor":"agent:a","tenant":"t"}"#).unwrap();
        let code = |role, text: &str| {
            let on_behalf = Json::parse(text).unwrap();
            Caller::of(role, Some(&on_behalf)).unwrap_err().code
        };
        // As an ordinary process the gateway is the operator.
        let own = Caller::of(Role::Operator, Some(&on_behalf)).unwrap();
        assert_eq!(own.reads(), Reads::Tenant("t".to_owned()));
        for role in [Role::Capacity, Role::Console, Role::User(30_001)] {
            assert_eq!(
                Caller::of(role, Some(&on_behalf)).unwrap_err().code,
                "BAD_ACTOR"
            );
        }
        for bad in [
            "{}",
            "null",
            "\"agent:a\"",
            r#"{"actor":"agent:a"}"#,
            r#"{"actor":"agent:a","tenant":""}"#,
            r#"{"actor":"service:gateway","tenant":"t"}"#,
            r#"{"actor":"a","tenant":"t"}"#,
            r#"{"actor":"agent:a","tenant":"t","role":"operator"}"#,
        ] {
            assert_eq!(code(Role::Gateway, bad), "BAD_REQUEST", "{bad}");
        }
        let caller = Caller::of(Role::Gateway, Some(&on_behalf)).unwrap();
        assert!(caller.is_tenant());
        assert_eq!(caller.reads(), Reads::Tenant("t".to_owned()));
        let append = |ns, actor| caller.may_append(ns, actor).map_err(|r| r.code);
        assert_eq!(append("finance", "agent:a"), Ok(()));
        assert_eq!(append("finance", "agent:b"), Err("BAD_ACTOR"));
        assert_eq!(append("finance", "service:gateway"), Err("BAD_ACTOR"));
        for ns in OWN_NAMESPACES {
            assert_eq!(append(ns, "agent:a"), Err("BAD_NS"), "{ns}");
        }
        assert_eq!(caller.may_append_for("t"), Ok(()));
        assert_eq!(
            caller.may_append_for("system").unwrap_err().code,
            "POLICY_DENY"
        );
    }
}
