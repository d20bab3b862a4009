//! Who may write what: the peer's role, as the kernel attests it, against namespace and actor.

use crate::committer::Refusal;
use wire::Role;

/// Namespace of the machine itself: PID 1, the operator, a person at the console.
const NS_SYSTEM: &str = "system";
/// Namespace of users' services.
const NS_USER: &str = "user";
/// The person at the terminal, whom the console answers for.
const CONSOLE_PERSON: &str = "user:console";

/// Checks that a peer may append an event under these names.
///
/// # Errors
/// `BAD_ACTOR` or `BAD_NS`.
pub fn may_append(role: Role, ns: &str, actor: &str) -> Result<(), Refusal> {
    let own = match role {
        Role::Operator => return Ok(()),
        Role::Stranger(uid) => {
            let limit = "uids that the machine does not know may not write";
            return Err(Refusal::new("BAD_ACTOR", "uid", &uid.to_string(), limit));
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
            Err(Refusal::new("BAD_NS", "ns", ns, &limit))
        }
        None => {
            let limit = format!("{own} for this peer");
            Err(Refusal::new("BAD_ACTOR", "actor", actor, &limit))
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

/// The tenant of an event that does not name one.
#[must_use]
pub fn own_tenant(role: Role) -> String {
    match reads_as(role) {
        Reads::Tenant(tenant) => tenant,
        _ => NS_SYSTEM.to_owned(),
    }
}

/// Checks that a peer may append for this tenant: users' services for their own alone.
///
/// # Errors
/// `POLICY_DENY`.
pub fn may_append_for(role: Role, tenant: &str) -> Result<(), Refusal> {
    match reads_as(role) {
        Reads::Tenant(own) if own != tenant => {
            let limit = format!("{own} for this peer");
            Err(Refusal::new("POLICY_DENY", "tenant_id", tenant, &limit))
        }
        _ => Ok(()),
    }
}

/// Of the log, what users' services may fill; the rest is kept for the machine's own evidence, without
/// which the gateway does nothing.
const USERS_PERCENT: u64 = 75;

/// Checks that a peer may make the log longer, of which `end` of `room` bytes are used.
///
/// # Errors
/// `QUOTA`.
pub fn may_fill(role: Role, end: u64, room: u64) -> Result<(), Refusal> {
    let user = matches!(role, Role::User(_) | Role::Stranger(_));
    // In this order, since the room of a file that may grow is nearly all numbers.
    let full = end / USERS_PERCENT >= room / 100;
    if !user || !full {
        return Ok(());
    }
    let limit = format!("{USERS_PERCENT} % of {room} bytes are for users' services");
    Err(Refusal::new("QUOTA", "log", &end.to_string(), &limit))
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
    fn users_services_leave_a_quarter_of_the_log_to_the_machine() {
        let user = Role::User(30_001);
        assert!(may_fill(user, 74_000, 100_000).is_ok());
        assert_eq!(may_fill(user, 75_000, 100_000).unwrap_err().code, "QUOTA");
        assert!(may_fill(Role::Gateway, 99_999, 100_000).is_ok());
        assert!(may_fill(Role::Operator, 99_999, 100_000).is_ok());
        assert!(may_fill(user, 1 << 40, u64::MAX).is_ok());
    }

    #[test]
    fn users_services_stay_with_their_tenant() {
        let user = Role::User(30_001);
        assert_eq!(own_tenant(user), "uid-30001");
        assert!(may_append_for(user, "uid-30001").is_ok());
        assert_eq!(
            may_append_for(user, "system").unwrap_err().code,
            "POLICY_DENY"
        );
        assert_eq!(reads_as(Role::Stranger(1)), Reads::Nothing);
    }
}
