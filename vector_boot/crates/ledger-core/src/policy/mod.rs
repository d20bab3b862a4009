//! Who may do what: rules and grants, as a fold over the log, and the verdict on one request.
//!
//! The machine's own roles keep what the identity table of the service gives them; the policy is about
//! everybody else: holders of tokens and users' services. For them, in this order: a rule that denies;
//! what is theirs by nature ([`NATURE`]); a rule that allows; a grant in force; else it is denied.
//! Rules and grants are pure text patterns, so a verdict depends on nothing but the log and the time.
//!
//! Start with [`Policy::judge`].

mod denials;
mod grants;
mod rules;

pub use denials::{Denial, Denials};
pub use grants::{CAPS_MAX, Cap, GRANTS, Grant, Wish};
pub use rules::{Document, RULES_MAX, Rule, TEXT_BYTES_MAX};

use crate::Body;
use crate::json::Json;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// Event type of a document of rules.
pub const SET: &str = "policy.set";
/// Event type of a grant.
pub const GRANTED: &str = "grant";
/// Event type of the end of a grant.
pub const REVOKED: &str = "revoke";
/// Event type of refusals under the policy.
pub const DENIED: &str = "policy.denied";

/// Calls that need no grant: they show a caller what is its own, or write under its own name alone.
pub const NATURE: &[&str] = &[
    "append_event",
    "checkpoint",
    "fold_state",
    "grant",
    "head",
    "key",
    "key.register",
    "key.revoke",
    "ping",
    "policy.explain",
    "proof.*",
    "query",
    "revoke",
    "subscribe",
];

/// Calls that decide over the whole machine: no rule and no grant gives them to a tenant.
pub const OWNERS: &[&str] = &[
    "policy.set",
    "epoch.new",
    "compact",
    "cache.rebuild",
    "audit_key",
    "metrics",
    "doctor",
    "verify",
    "witness.add",
];

/// Documents of rules.
pub const DOCUMENTS_MAX: usize = 16;

/// Names that the verdicts themselves use, so that no document may have them.
const VERDICT_NAMES: [&str; 6] = ["default", "grant", "identity", "kinds", "nature", "owner"];

/// What somebody wants to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Who.
    pub actor: String,
    /// Of which tenant.
    pub tenant: String,
    /// The call: `job.claim`.
    pub call: String,
    /// What it acts on: a namespace, a topic; empty where it has no object.
    pub on: String,
}

/// What the policy says to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may.
    pub allowed: bool,
    /// Which rule decided: `name:line`, `grant:ID`, `nature:CALL`, `owner:CALL`, `default:deny`.
    pub rule: String,
    /// Why, for people.
    pub reason: String,
}

/// Why a change of the policy is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct No {
    /// The protocols' code.
    pub code: &'static str,
    /// The field.
    pub field: &'static str,
    /// What is wrong.
    pub limit: String,
}

impl No {
    fn new(code: &'static str, field: &'static str, limit: impl Into<String>) -> Self {
        let limit = limit.into();
        Self { code, field, limit }
    }
}

/// The policy as the log says it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The event that changed it last, 0 for none.
    revision: u64,
    documents: BTreeMap<String, Document>,
    grants: grants::Grants,
}

impl Policy {
    /// Whether events of this type change it.
    #[must_use]
    pub fn wants(event_type: &str) -> bool {
        matches!(event_type, SET | GRANTED | REVOKED)
    }

    /// Takes the next event in; what it does not understand changes nothing.
    pub fn apply(&mut self, id: u64, body: &Body<'_>) {
        if !Self::wants(body.event_type) {
            return;
        }
        self.revision = id;
        let Ok(payload) = Json::parse(body.payload) else {
            return;
        };
        match body.event_type {
            SET => {
                let text = |key| payload.get(key).and_then(Json::text);
                let (Some(name), Some(text)) = (text("name"), text("text")) else {
                    return;
                };
                match self.compile(name, text) {
                    Ok(document) if document.rules.is_empty() => {
                        self.documents.remove(name);
                    }
                    Ok(document) => {
                        self.documents.insert(name.into(), document);
                    }
                    Err(_) => {}
                }
            }
            GRANTED => self.grants.granted(id, body, &payload),
            _ => {
                if let Some(grant) = payload.get("grant").and_then(Json::unsigned) {
                    self.grants.revoked(grant);
                }
            }
        }
    }

    /// The event that changed it last, 0 for none.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The verdict on a request of a tenant's caller.
    #[must_use]
    pub fn judge(&self, ask: &Ask, now_wall_ns: u64) -> Verdict {
        let verdict = |allowed, rule, reason| Verdict {
            allowed,
            rule,
            reason,
        };
        if matches_any(OWNERS, &ask.call) {
            let reason = "a call of the machine's owner alone".into();
            return verdict(false, format!("owner:{}", ask.call), reason);
        }
        if let Some((rule, reason)) = self.first(ask, false) {
            return verdict(false, rule, reason);
        }
        if matches_any(NATURE, &ask.call) {
            let reason = "everybody's for what is its own".into();
            return verdict(true, format!("nature:{}", ask.call), reason);
        }
        if let Some((rule, reason)) = self.first(ask, true) {
            return verdict(true, rule, reason);
        }
        if let Some(grant) = self.grants.holds(ask, now_wall_ns) {
            let reason = format!("granted by {}", grant.by);
            return verdict(true, format!("grant:{}", grant.id), reason);
        }
        verdict(false, "default:deny".into(), Cap::missing(ask))
    }

    fn first(&self, ask: &Ask, allow: bool) -> Option<(String, String)> {
        self.documents.iter().find_map(|(name, document)| {
            let hit = |rule: &&Rule| rule.allow == allow && rule.covers(ask);
            let rule = document.rules.iter().find(hit)?;
            Some((format!("{name}:{}", rule.line), rule.text()))
        })
    }

    /// Reads a document of rules as it would be set under this name.
    ///
    /// # Errors
    /// [`No`] that names the line.
    pub fn compile(&self, name: &str, text: &str) -> Result<Document, No> {
        if !crate::rules::ns(name) || VERDICT_NAMES.contains(&name) {
            let limit = "1 to 64 of A-Z a-z 0-9 . _ -, and no word of a verdict";
            return Err(No::new("BAD_REQUEST", "name", limit));
        }
        let document = Document::parse(text)?;
        let others = self.documents.iter().filter(|(other, _)| *other != name);
        let (documents, rules) = others.fold((0, 0), |(n, rules), (_, other)| {
            (n + 1usize, other.rules.len().saturating_add(rules))
        });
        if documents >= DOCUMENTS_MAX {
            let limit = format!("at most {DOCUMENTS_MAX} documents");
            return Err(No::new("QUOTA", "name", limit));
        }
        if rules.saturating_add(document.rules.len()) > RULES_MAX {
            let limit = format!("at most {RULES_MAX} rules in all documents");
            return Err(No::new("QUOTA", "text", limit));
        }
        Ok(document)
    }

    /// What a grant's event is to say, if the grant may be made.
    ///
    /// # Errors
    /// [`No`].
    pub fn grant(&self, wish: &Wish<'_>, now_wall_ns: u64) -> Result<Json, No> {
        self.grants.grant(wish, now_wall_ns)
    }

    /// Whose grant ends, if it may be ended: `by` is the actor and tenant of who is no owner.
    ///
    /// # Errors
    /// [`No`].
    pub fn revoke(&self, id: u64, by: Option<(&str, &str)>) -> Result<&Grant, No> {
        self.grants.revoke(id, by)
    }
}

/// Whether a pattern covers a text: equal, or all that begins with what stands before the `*`.
fn covers(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => text.starts_with(prefix),
        None => pattern == text,
    }
}

fn matches_any(patterns: &[&str], text: &str) -> bool {
    patterns.iter().any(|pattern| covers(pattern, text))
}

/// Whether a text may be a pattern of an actor, tenant, call or object: no white space, no control
/// characters, and a `*` at its end alone.
fn is_pattern(text: &str) -> bool {
    let body = text.strip_suffix('*').unwrap_or(text);
    text.len() <= crate::rules::TEXT_BYTES_MAX
        && !body.contains(|c: char| c == '*' || c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests;
