//! Why a request is refused: one shape for both sockets and every call.

use crate::log::Stopped;

/// Every code there is. Stable: programs compare them.
pub const CODES: [&str; 15] = [
    // Not as the protocol says.
    "BAD_REQUEST",
    // A namespace that is none, or not the caller's.
    "BAD_NS",
    // An actor that is none, or not the caller's.
    "BAD_ACTOR",
    // A signature that does not hold.
    "BAD_SIG",
    // A cause that is not older than its effect.
    "BAD_CAUSATION",
    // It was there already, under another content or too long ago to say.
    "DUPLICATE",
    // A rule says no; `rule` says which.
    "POLICY_DENY",
    // There is no such thing, or the caller may not know that there is.
    "NOT_FOUND",
    // The caller has used what it may.
    "QUOTA",
    // Longer than it may be.
    "TOO_LARGE",
    // Nothing is written any more.
    "READ_ONLY",
    // The log does not hold.
    "CORRUPT",
    // Somebody else was first.
    "CONFLICT",
    // Too few consumers have acknowledged.
    "NOT_QUORATE",
    // A bug, or the machine's failure.
    "INTERNAL",
];

/// Characters of a refused value that are sent back, and of the limit, which may quote it.
const VALUE_CHARS_MAX: usize = 128;

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Stable code, of [`CODES`].
    pub code: &'static str,
    /// Field; empty where the limit is the whole reason.
    pub field: &'static str,
    /// What it held.
    pub value: String,
    /// What it may hold, or what is wrong.
    pub limit: String,
    /// The rule that decided, where one did: `name:line`.
    pub rule: Option<String>,
    /// Whether that it decided is kept from who asked: it is told as if there were nothing.
    pub hidden: bool,
}

impl Refusal {
    /// A refusal of a field.
    #[must_use]
    pub fn new(code: &'static str, field: &'static str, value: &str, limit: &str) -> Self {
        debug_assert!(CODES.contains(&code), "{code} is no code");
        // A hostile value must not become a long answer.
        let cut = |text: &str| text.chars().take(VALUE_CHARS_MAX).collect();
        Self {
            code,
            field,
            value: cut(value),
            limit: cut(limit),
            rule: None,
            hidden: false,
        }
    }

    /// A request that is not as the protocol says.
    #[must_use]
    pub fn bad(field: &'static str, limit: &str) -> Self {
        Self::new("BAD_REQUEST", field, "", limit)
    }

    /// The ledger ends: what was asked is good, and its successor's to do.
    #[must_use]
    pub fn closing() -> Self {
        Self::new("READ_ONLY", "service", "", "the ledger is stopping")
    }

    /// Whether it is [`Self::closing`].
    #[must_use]
    pub fn is_of_a_stop(&self) -> bool {
        *self == Self::closing()
    }

    /// The same, by a rule.
    #[must_use]
    pub fn by(self, rule: &str) -> Self {
        Self {
            rule: Some(rule.to_owned()),
            ..self
        }
    }

    /// The same, by a rule that who asked is not told of.
    #[must_use]
    pub fn by_hidden(self, rule: &str) -> Self {
        Self {
            hidden: true,
            ..self.by(rule)
        }
    }

    /// What is wrong, for people.
    #[must_use]
    pub fn reason(&self) -> String {
        if self.field.is_empty() {
            self.limit.clone()
        } else if self.value.is_empty() {
            format!("{}: {}", self.field, self.limit)
        } else {
            format!("{} is {}: {}", self.field, self.value, self.limit)
        }
    }
}

impl From<&Stopped> for Refusal {
    fn from(stopped: &Stopped) -> Self {
        Self::new(stopped.code(), "log", "", &stopped.to_string())
    }
}

impl From<&std::io::Error> for Refusal {
    fn from(e: &std::io::Error) -> Self {
        let code = match e.kind() {
            std::io::ErrorKind::InvalidData => "CORRUPT",
            std::io::ErrorKind::NotFound => "NOT_FOUND",
            std::io::ErrorKind::QuotaExceeded => "QUOTA",
            _ => "INTERNAL",
        };
        Self::new(code, "log", "", &e.to_string())
    }
}
