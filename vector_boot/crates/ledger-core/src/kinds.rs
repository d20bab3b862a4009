//! The table of event types: which are reserved to a call, so that no plain append may write them.
//!
//! Planes trust events of a reserved type, since the call that writes them has checked all that the
//! plane relies on. Whoever adds a plane adds its types here.

/// The rule under which a plain append of a reserved type is denied.
pub const RULE: &str = "kinds:reserved";

/// A family of reserved types: those that begin with `prefix`, or are it where it has no dot at its end.
struct Reserved {
    prefix: &'static str,
    by: &'static str,
}

const RESERVED: &[Reserved] = &[
    Reserved {
        prefix: "bus.",
        by: "bus.*",
    },
    Reserved {
        prefix: "job.",
        by: "job.*",
    },
    Reserved {
        prefix: "blob.",
        by: "blob.*",
    },
    Reserved {
        prefix: "fold.",
        by: "fold_state",
    },
    Reserved {
        prefix: "policy.",
        by: "policy.*",
    },
    Reserved {
        prefix: "grant",
        by: "grant",
    },
    Reserved {
        prefix: "revoke",
        by: "revoke",
    },
    Reserved {
        prefix: "key.",
        by: "key.*",
    },
    Reserved {
        prefix: "epoch.",
        by: "epoch.new",
    },
    Reserved {
        prefix: "log.",
        by: "compact",
    },
    Reserved {
        prefix: "recovered",
        by: "the ledger itself",
    },
];

/// The call that alone writes events of this type; `None` where anybody may append them.
#[must_use]
pub fn reserved(event_type: &str) -> Option<&'static str> {
    let hit = RESERVED.iter().find(|r| match r.prefix.ends_with('.') {
        true => event_type.starts_with(r.prefix),
        false => event_type == r.prefix,
    });
    hit.map(|r| r.by)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_calls_are_reserved_and_words_like_them_are_not() {
        for (event_type, by) in [
            ("bus.published", Some("bus.*")),
            ("job.claimed", Some("job.*")),
            ("grant", Some("grant")),
            ("policy.denied", Some("policy.*")),
            ("recovered", Some("the ledger itself")),
            ("granted", None),
            ("lease_granted", None),
            ("tool_called", None),
            ("custom(bus.published)", None),
        ] {
            assert_eq!(reserved(event_type), by, "{event_type}");
        }
    }
}
