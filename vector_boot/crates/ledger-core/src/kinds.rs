//! The table of event types: which are reserved to a call, so that no plain append may write them, and
//! what an event of a known type must say at least. Every other word, and `custom(NAME)`, is its
//! writer's own.
//!
//! Planes trust events of a reserved type, since the call that writes them has checked all that the
//! plane relies on. Whoever adds a plane adds its types here.

use crate::json::Json;

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

/// What a payload's member must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Text that is not empty.
    Text(&'static str),
    /// A number.
    Number(&'static str),
}

/// What the payload of an event of this type holds at least.
#[must_use]
pub fn needs(event_type: &str) -> &'static [Needs] {
    use Needs::{Number, Text};
    match event_type {
        "service_deployed" | "service_killed" | "hot_swap_started" | "hot_swap_succeeded" => {
            &[Text("service")]
        }
        "service_deployment_failed" | "service_crashed" | "hot_swap_rolled_back" => {
            &[Text("service"), Text("reason")]
        }
        "capability_granted" => &[Text("capability"), Text("to")],
        "capability_revoked" | "capability_verified" => &[Text("capability")],
        "capability_denied" => &[Text("capability"), Text("reason")],
        "resource_violation" => &[Text("resource"), Number("limit"), Number("used")],
        "circuit_breaker_opened" => &[Text("breaker"), Text("reason")],
        "circuit_breaker_closed" => &[Text("breaker")],
        // Its name, never what it is.
        "secret_stored" | "secret_accessed" | "secret_revoked" => &[Text("secret")],
        "secret_access_denied" => &[Text("secret"), Text("reason")],
        _ => &[],
    }
}

/// The first member that the payload lacks.
#[must_use]
pub fn missing(event_type: &str, payload: &Json) -> Option<Needs> {
    let lacks = |needs: &&Needs| match **needs {
        Needs::Text(key) => payload
            .get(key)
            .and_then(Json::text)
            .is_none_or(str::is_empty),
        Needs::Number(key) => !matches!(
            payload.get(key),
            Some(Json::Unsigned(_) | Json::Signed(_) | Json::Float(_))
        ),
    };
    needs(event_type).iter().find(lacks).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_types_say_what_they_are_about() {
        let missing = |event_type, payload| missing(event_type, &Json::parse(payload).unwrap());
        assert_eq!(missing("secret_stored", "{}"), Some(Needs::Text("secret")));
        assert_eq!(
            missing("secret_stored", r#"{"secret":""}"#),
            Some(Needs::Text("secret"))
        );
        assert_eq!(
            missing("secret_stored", r#"{"secret":"db","more":1}"#),
            None
        );
        let violation = r#"{"resource":"memory","limit":512,"used":"much"}"#;
        assert_eq!(
            missing("resource_violation", violation),
            Some(Needs::Number("used"))
        );
        assert_eq!(missing("custom(secret_stored)", "{}"), None);
        assert_eq!(missing("tool_called", "{}"), None);
    }

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
