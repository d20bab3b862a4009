//! Roles: what a process is, told by the uid that the kernel attests for its end of a socket.

/// What a peer is. On the appliance each role has one uid, so SO_PEERCRED names the role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// uid 0, or our own uid as an ordinary process: PID 1, its helper, `ctl` of the owner.
    Operator,
    /// The event store.
    Ledger,
    /// The capacity kernel.
    Capacity,
    /// The only door for agents.
    Gateway,
    /// Forks executors.
    Zygote,
    /// Owns the terminal.
    Console,
    /// Answers with the packaged model.
    Model,
    /// Owns links and addresses.
    Net,
    /// Checks mutations.
    Cortex,
    /// Carries checkpoints to a witness.
    Witness,
    /// A service of the appliance's user.
    User(u32),
    /// Any other uid.
    Stranger(u32),
}

/// Fixed uids of the roles, in the order of `docs/wire.md`.
const UIDS: &[(u32, Role)] = &[
    (901, Role::Ledger),
    (902, Role::Capacity),
    (903, Role::Gateway),
    (904, Role::Zygote),
    (905, Role::Console),
    (906, Role::Model),
    (907, Role::Net),
    (908, Role::Cortex),
    (909, Role::Witness),
];

/// First uid of users' services; the manifest gives none above [`USER_UID_END`].
pub const USER_UID_FIRST: u32 = 30_000;
/// One past the last uid of users' services.
pub const USER_UID_END: u32 = 60_000;

impl Role {
    /// Names the role behind a peer's uid, seen by a process that itself runs as `own_uid`.
    #[must_use]
    pub fn of_uid(uid: u32, own_uid: u32) -> Self {
        if uid == 0 || (uid == own_uid && !UIDS.iter().any(|(u, _)| *u == own_uid)) {
            return Self::Operator;
        }
        match UIDS.iter().find(|(u, _)| *u == uid) {
            Some((_, role)) => *role,
            None if (USER_UID_FIRST..USER_UID_END).contains(&uid) => Self::User(uid),
            None => Self::Stranger(uid),
        }
    }

    /// The uid that the role runs under on the appliance; 0 for the operator.
    #[must_use]
    pub fn uid(self) -> u32 {
        match self {
            Self::Operator => 0,
            Self::User(uid) | Self::Stranger(uid) => uid,
            named => UIDS
                .iter()
                .find(|(_, r)| *r == named)
                .map_or(0, |(u, _)| *u),
        }
    }

    /// The manifest's name of the role.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Ledger => "ledger",
            Self::Capacity => "capacity",
            Self::Gateway => "gateway",
            Self::Zygote => "zygote",
            Self::Console => "console",
            Self::Model => "model",
            Self::Net => "net",
            Self::Cortex => "cortex",
            Self::Witness => "witness",
            Self::User(_) => "user",
            Self::Stranger(_) => "stranger",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_never_the_operator_even_to_itself() {
        assert_eq!(Role::of_uid(901, 901), Role::Ledger);
        assert_eq!(Role::of_uid(1000, 1000), Role::Operator);
        assert_eq!(Role::of_uid(0, 901), Role::Operator);
        assert_eq!(Role::of_uid(1000, 901), Role::Stranger(1000));
        assert_eq!(Role::of_uid(30_007, 901), Role::User(30_007));
    }

    #[test]
    fn uids_round_trip() {
        for (uid, role) in UIDS {
            assert_eq!(role.uid(), *uid);
            assert_eq!(Role::of_uid(*uid, 0), *role);
        }
    }
}
