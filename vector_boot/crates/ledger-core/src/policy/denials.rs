//! Which refusals become events of their own, and which are summed: a stranger cannot fill the log.
//!
//! A pure state machine: the first refusal of an actor is said at once, then sums follow, each actor's
//! at most once a minute, an actor's at most [`ACTOR_SAID_A_MINUTE_MAX`] and a tenant's at most
//! [`SAID_A_MINUTE_MAX`] of them: who is refused often hides nobody else. Tenants are counted apart, also
//! where all are recorded for the machine's owner, so that none learns from its own how many others have.

use super::{Ask, Verdict};
use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

const MINUTE_NS: u64 = 60_000_000_000;
/// Events a minute of a tenant: at 400 bytes 6 MB a day.
pub const SAID_A_MINUTE_MAX: u32 = 10;
/// Of those, of one actor.
pub const ACTOR_SAID_A_MINUTE_MAX: u32 = 3;
/// Pairs of actor and rule that are counted apart; refusals beyond are counted as `other`.
const COUNTED_MAX: usize = 256;
/// Of those, what each tenant has whatever the others use.
const COUNTED_OWN: usize = 16;
/// Rules of one actor that are counted apart; refusals by others are one sum of that actor's.
const ACTOR_RULES_MAX: usize = 6;
/// The rule of such a sum.
const OTHER: &str = "other";
/// Characters of an object and of a reason that are kept: what was asked for is the stranger's to choose.
const CHARS_MAX: usize = 256;

fn cut(text: &str) -> String {
    text.chars().take(CHARS_MAX).collect()
}

/// Refusals that one event tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Whose record it is: the asker's tenant, or that of the machine's owner.
    pub tenant: String,
    /// The last of them.
    pub ask: Ask,
    /// Its verdict's rule.
    pub rule: String,
    /// Its reason.
    pub reason: String,
    /// How many.
    pub count: u64,
}

#[derive(Debug)]
struct Track {
    said_ns: u64,
    /// Refusals since then.
    waiting: Option<Denial>,
}

/// Who is refused, and whose record it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Who {
    /// Whose record.
    tenant: String,
    /// The actor's own tenant.
    of: String,
    actor: String,
}

/// What was refused lately.
#[derive(Debug, Default)]
pub struct Denials {
    /// By who it is, and the rule.
    tracks: BTreeMap<(Who, String), Track>,
    minute: u64,
    /// In this minute, by actor: at most as many as are said.
    said: BTreeMap<Who, u32>,
}

impl Denials {
    /// Takes a refusal in that `tenant` is to be told of; gives what is to be said at once.
    pub fn denied(
        &mut self,
        now_ns: u64,
        tenant: &str,
        ask: &Ask,
        verdict: &Verdict,
    ) -> Option<Denial> {
        let mut who = Who {
            tenant: tenant.to_owned(),
            of: ask.tenant.clone(),
            actor: ask.actor.clone(),
        };
        let mut denial = Denial {
            tenant: tenant.to_owned(),
            ask: Ask {
                actor: ask.actor.clone(),
                tenant: ask.tenant.clone(),
                call: cut(&ask.call),
                on: cut(&ask.on),
            },
            rule: verdict.rule.clone(),
            reason: cut(&verdict.reason),
            count: 1,
        };
        let known = |all: &Self, who: &Who, rule: &str| {
            let key = (who.clone(), rule.to_owned());
            all.tracks.contains_key(&key)
        };
        if !known(self, &who, &denial.rule) && self.rules_of(&who) >= ACTOR_RULES_MAX {
            denial.rule = OTHER.into();
            denial.reason = "more rules than are counted apart".into();
        }
        if !known(self, &who, &denial.rule) {
            if self.tracks.len() >= COUNTED_MAX {
                self.forget(now_ns);
            }
            let own = self.tracks.keys().filter(|(w, _)| w.of == who.of).count();
            if self.tracks.len() >= COUNTED_MAX && own >= COUNTED_OWN {
                // Of nobody's tenant, so that no tenant sees another's.
                let system = || "system".to_owned();
                let actor = || "user:other".to_owned();
                (denial.tenant, denial.rule) = (system(), "default:deny".into());
                denial.reason = "more actors than are counted apart".into();
                denial.ask = Ask {
                    actor: actor(),
                    tenant: system(),
                    call: OTHER.into(),
                    on: String::new(),
                };
                who = Who {
                    tenant: system(),
                    of: system(),
                    actor: actor(),
                };
            }
        }
        let may = self.may_say(&who, now_ns);
        let key = (who.clone(), denial.rule.clone());
        let track = self.tracks.entry(key).or_insert(Track {
            said_ns: 0,
            waiting: None,
        });
        denial.count = track
            .waiting
            .as_ref()
            .map_or(1, |w| w.count.saturating_add(1));
        let rested = track.said_ns == 0 || now_ns.saturating_sub(track.said_ns) >= MINUTE_NS;
        if may && rested {
            track.said_ns = now_ns.max(1);
            track.waiting = None;
            *self.said.entry(who).or_default() += 1;
            return Some(denial);
        }
        track.waiting = Some(denial);
        None
    }

    /// Sums that are due; all of them at the `end`.
    pub fn due(&mut self, now_ns: u64, end: bool) -> Vec<Denial> {
        let mut due = Vec::new();
        // Who was said longest ago comes first, so that nobody is kept waiting by the others.
        let mut keys: Vec<_> = self
            .tracks
            .iter()
            .map(|(k, t)| (t.said_ns, k.clone()))
            .collect();
        keys.sort();
        for (_, key) in keys {
            let may = end || self.may_say(&key.0, now_ns);
            let Some(track) = self.tracks.get_mut(&key).filter(|_| may) else {
                continue;
            };
            if (end || now_ns.saturating_sub(track.said_ns) >= MINUTE_NS)
                && let Some(waiting) = track.waiting.take()
            {
                track.said_ns = now_ns.max(1);
                *self.said.entry(key.0).or_default() += 1;
                due.push(waiting);
            }
        }
        due
    }

    /// Rules of one actor that are counted apart.
    fn rules_of(&self, who: &Who) -> usize {
        let from = (who.clone(), String::new());
        let own = self.tracks.range(from..);
        own.take_while(|((w, _), _)| w == who).count()
    }

    fn may_say(&mut self, who: &Who, now_ns: u64) -> bool {
        if now_ns / MINUTE_NS != self.minute {
            (self.minute, self.said) = (now_ns / MINUTE_NS, BTreeMap::new());
        }
        let of_tenant = |(w, _): &(&Who, &u32)| w.tenant == who.tenant && w.of == who.of;
        let tenant: u32 = self.said.iter().filter(of_tenant).map(|(_, n)| n).sum();
        let actor = self.said.get(who).copied().unwrap_or(0);
        tenant < SAID_A_MINUTE_MAX && actor < ACTOR_SAID_A_MINUTE_MAX
    }

    /// Drops those of whom nothing waits and who were silent for a minute.
    fn forget(&mut self, now_ns: u64) {
        self.tracks.retain(|_, track| {
            track.waiting.is_some() || now_ns.saturating_sub(track.said_ns) < MINUTE_NS
        });
    }
}
