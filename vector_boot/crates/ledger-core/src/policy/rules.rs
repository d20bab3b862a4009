//! Documents of rules: plain text, one rule a line.
//!
//! ```text
//! vb-policy 1
//! # Whoever is of the tenant acme may use its queues, but trainees claim nothing.
//! allow bus.* on=queue.acme* tenant=acme
//! deny job.claim actor=agent:trainee*
//! ```
//!
//! A pattern is a text, or the beginning of one with `*` behind it. The order of rules does not matter
//! for what is allowed: one that denies wins over all that allow.

use super::{Ask, No, covers, is_pattern};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use serde::{Deserialize, Serialize};

/// First line of every document: the version of this language.
const HEADER: &str = "vb-policy 1";
/// Longest document.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;
/// Rules of all documents together: each request looks at them all.
pub const RULES_MAX: usize = 1024;

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its line in the document, from 1.
    pub line: u32,
    /// Whether it allows; else it denies.
    pub allow: bool,
    call: String,
    on: String,
    actor: String,
    tenant: String,
}

/// A document, compiled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Its rules, by line.
    pub rules: Vec<Rule>,
}

impl Document {
    /// Reads a document; an empty text is one without rules.
    ///
    /// # Errors
    /// [`No`] that names the line.
    pub fn parse(text: &str) -> Result<Self, No> {
        if text.len() > TEXT_BYTES_MAX {
            let limit = format!("at most {TEXT_BYTES_MAX} bytes");
            return Err(No::new("TOO_LARGE", "text", limit));
        }
        let mut lines = (1..).zip(text.lines());
        match lines.next() {
            None => return Ok(Self::default()),
            Some((_, HEADER)) => {}
            Some(_) => {
                let limit = format!("line 1: {HEADER}");
                return Err(No::new("BAD_REQUEST", "text", limit));
            }
        }
        let mut rules = Vec::new();
        for (line, text) in lines {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let rule = Rule::parse(line, text).ok_or_else(|| {
                let limit = format!(
                    "line {line}: allow or deny, a call, and on= actor= tenant= with patterns"
                );
                No::new("BAD_REQUEST", "text", limit)
            })?;
            rules.push(rule);
        }
        Ok(Self { rules })
    }
}

impl Rule {
    fn parse(line: u32, text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let allow = match words.next()? {
            "allow" => true,
            "deny" => false,
            _ => return None,
        };
        let call = words.next().filter(|call| !call.contains('='))?;
        let (mut on, mut actor, mut tenant) = (None, None, None);
        for word in words {
            let (key, value) = word.split_once('=')?;
            let place = match key {
                "on" => &mut on,
                "actor" => &mut actor,
                "tenant" => &mut tenant,
                _ => return None,
            };
            if place.replace(value).is_some() {
                return None;
            }
        }
        let [on, actor, tenant] = [on, actor, tenant].map(|p| p.unwrap_or("*"));
        let patterns = [call, on, actor, tenant];
        patterns.iter().all(|p| is_pattern(p)).then(|| Self {
            line,
            allow,
            call: call.into(),
            on: on.into(),
            actor: actor.into(),
            tenant: tenant.into(),
        })
    }

    /// Whether it speaks of this request.
    #[must_use]
    pub fn covers(&self, ask: &Ask) -> bool {
        [
            (&self.call, &ask.call),
            (&self.on, &ask.on),
            (&self.actor, &ask.actor),
            (&self.tenant, &ask.tenant),
        ]
        .iter()
        .all(|(pattern, text)| covers(pattern, text))
    }

    /// The rule as it stands in the document, for people.
    pub(super) fn text(&self) -> String {
        let mut out = String::from(if self.allow { "allow " } else { "deny " });
        out.push_str(&self.call);
        for (key, value) in [
            ("on", &self.on),
            ("actor", &self.actor),
            ("tenant", &self.tenant),
        ] {
            if value != "*" {
                // Writing to a `String` cannot fail.
                let _ = write!(out, " {key}={value}");
            }
        }
        out
    }
}
