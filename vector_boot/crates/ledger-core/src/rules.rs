//! What an event may hold.
//!
//! Pure checks on text. Who may write what is the service's matter; this is what every log obeys.

use crate::Body;

/// Longest namespace.
pub const NS_BYTES_MAX: usize = 64;
/// Longest actor, tenant and subject; the frames of the wire say the same.
pub const TEXT_BYTES_MAX: usize = 256;
/// Longest event type, with the `custom()` around a name.
pub const EVENT_TYPE_BYTES_MAX: usize = 96;
/// Longest payload: a JSONL line.
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// Longest signature: Ed25519's 64 bytes, with room for a longer one.
pub const SIG_BYTES_MAX: usize = 128;

/// Which rule an event breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// Namespace.
    Ns,
    /// Actor.
    Actor,
    /// Tenant.
    Tenant,
    /// Event type.
    EventType,
    /// Subject.
    Subject,
    /// Payload.
    Payload,
    /// Causation id, not smaller than the event's own.
    Causation(u64),
    /// Signature.
    Sig,
}

impl Broken {
    /// The stable code of the protocols.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Ns => "BAD_NS",
            Self::Actor => "BAD_ACTOR",
            Self::Causation(_) => "BAD_CAUSATION",
            Self::Sig => "BAD_SIG",
            Self::Payload => "TOO_LARGE",
            Self::Tenant | Self::EventType | Self::Subject => "BAD_REQUEST",
        }
    }

    /// The field.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Ns => "ns",
            Self::Actor => "actor",
            Self::Tenant => "tenant_id",
            Self::EventType => "event_type",
            Self::Subject => "subject",
            Self::Payload => "payload",
            Self::Causation(_) => "causation_id",
            Self::Sig => "sig",
        }
    }

    /// What it may hold.
    #[must_use]
    pub fn limit(self) -> &'static str {
        match self {
            Self::Ns => "1 to 64 of A-Z a-z 0-9 . _ -",
            Self::Actor => "user:, agent: or service: and a name of A-Z a-z 0-9 . _ -, 256 bytes",
            Self::Tenant => "1 to 256 of A-Z a-z 0-9 . _ : -",
            Self::EventType => "1 to 64 of a-z 0-9 . _ - from a letter, or custom(NAME)",
            Self::Subject => "at most 256 bytes without control characters",
            Self::Payload => "a JSON object of at most 1048576 bytes",
            Self::Causation(_) => "1 to the event's own id minus 1",
            Self::Sig => "1 to 128 bytes",
        }
    }
}

impl core::fmt::Display for Broken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} must be {}", self.field(), self.limit())
    }
}

fn name(text: &str, bytes_max: usize, more: &[u8]) -> bool {
    (1..=bytes_max).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b) || more.contains(&b))
}

/// Whether the text may be a namespace.
#[must_use]
pub fn ns(text: &str) -> bool {
    name(text, NS_BYTES_MAX, b"")
}

/// Whether the text may be an actor.
#[must_use]
pub fn actor(text: &str) -> bool {
    text.len() <= TEXT_BYTES_MAX
        && text.split_once(':').is_some_and(|(kind, rest)| {
            matches!(kind, "user" | "agent" | "service") && name(rest, TEXT_BYTES_MAX, b"")
        })
}

/// Whether the text may be an event type: the seeds' kinds and any other word, or `custom(NAME)`.
#[must_use]
pub fn event_type(text: &str) -> bool {
    match text
        .strip_prefix("custom(")
        .and_then(|t| t.strip_suffix(')'))
    {
        Some(inner) => name(inner, NS_BYTES_MAX, b""),
        None => {
            (1..=NS_BYTES_MAX).contains(&text.len())
                && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
                && text
                    .bytes()
                    .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
        }
    }
}

/// Whether the text may be a tenant.
#[must_use]
pub fn tenant(text: &str) -> bool {
    name(text, TEXT_BYTES_MAX, b":")
}

/// Whether the text may be a subject.
#[must_use]
pub fn subject(text: &str) -> bool {
    text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control)
}

/// Checks all that a stored event with this id must obey.
///
/// # Errors
/// The first rule that it breaks.
pub fn stored(event: &Body<'_>, id: u64) -> Result<(), Broken> {
    let payload = event.payload;
    let object = payload.starts_with('{') && payload.ends_with('}');
    for (holds, broken) in [
        (ns(event.ns), Broken::Ns),
        (actor(event.actor), Broken::Actor),
        (tenant(event.tenant_id), Broken::Tenant),
        (event_type(event.event_type), Broken::EventType),
        (subject(event.subject), Broken::Subject),
        (
            object && payload.len() <= PAYLOAD_BYTES_MAX,
            Broken::Payload,
        ),
        (
            event
                .sig
                .is_none_or(|s| (1..=SIG_BYTES_MAX).contains(&s.len())),
            Broken::Sig,
        ),
    ] {
        if !holds {
            return Err(broken);
        }
    }
    match event.causation_id {
        Some(cause) if cause == 0 || cause >= id => Err(Broken::Causation(cause)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actors_namespaces_types_and_subjects() {
        for good in ["user:a", "agent:A.b_c-9", "service:uid-30001"] {
            assert!(actor(good), "{good}");
        }
        for bad in [
            "", "user:", "root:a", "a", "user:a b", "user:a:b", "User:a", "user:ä",
        ] {
            assert!(!actor(bad), "{bad}");
        }
        assert!(!actor(&("user:".to_owned() + &"a".repeat(252))));
        assert!(ns("system") && !ns("") && !ns("a/b") && !ns(&"a".repeat(65)));
        assert!(event_type("tool_called") && event_type("custom(My.Kind)"));
        assert!(!event_type("Tool") && !event_type("custom()") && !event_type("custom(a b)"));
        assert!(subject("") && subject("work/welcome.txt") && !subject("a\nb"));
    }

    use std::borrow::ToOwned;
}
