//! Which refusals become events of their own, and which are summed: a stranger cannot fill the log.
//!
//! A pure state machine: the first refusal of an actor is said at once, then sums follow, each actor's
//! at most once a minute and a tenant's at most [`SAID_A_MINUTE_MAX`] of them. Tenants are counted apart, so
//! that none learns from its own how many others have.

use super::{Ask, Verdict};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

const MINUTE_NS: u64 = 60_000_000_000;
/// Events a minute of a tenant: at 400 bytes 6 MB a day.
pub const SAID_A_MINUTE_MAX: u32 = 10;
/// Pairs of actor and rule that are counted apart; refusals beyond are counted as `other`.
const COUNTED_MAX: usize = 256;
/// Of those, what each tenant has whatever the others use.
const COUNTED_OWN: usize = 16;
/// Characters of an object and of a reason that are kept: what was asked for is the stranger's to choose.
const CHARS_MAX: usize = 256;

fn cut(text: &str) -> String {
    text.chars().take(CHARS_MAX).collect()
}

/// Refusals that one event tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
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

/// What was refused lately.
#[derive(Debug, Default)]
pub struct Denials {
    tracks: BTreeMap<(String, String, String), Track>,
    minute: u64,
    /// In this minute, by tenant.
    said: BTreeMap<String, u32>,
}

impl Denials {
    /// Takes a refusal in; gives what is to be said at once.
    pub fn denied(&mut self, now_ns: u64, ask: &Ask, verdict: &Verdict) -> Option<Denial> {
        let mut key = (ask.tenant.clone(), ask.actor.clone(), verdict.rule.clone());
        if !self.tracks.contains_key(&key) && self.tracks.len() >= COUNTED_MAX {
            self.forget(now_ns);
        }
        let mut denial = Denial {
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
        let of_tenant = |(tenant, ..): &&(String, String, String)| *tenant == ask.tenant;
        let own = self.tracks.keys().filter(of_tenant).count();
        let full = self.tracks.len() >= COUNTED_MAX && own >= COUNTED_OWN;
        if !self.tracks.contains_key(&key) && full {
            // Of nobody's tenant, so that no tenant sees another's.
            denial = Denial {
                ask: Ask {
                    actor: "user:other".into(),
                    tenant: "system".into(),
                    call: "other".into(),
                    on: String::new(),
                },
                rule: "default:deny".into(),
                reason: "more actors than are counted apart".into(),
                count: 1,
            };
            key = ("system".into(), "user:other".into(), "default:deny".into());
        }
        let tenant = key.0.clone();
        let may = self.may_say(&tenant, now_ns);
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
            *self.said.entry(tenant).or_default() += 1;
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

    fn may_say(&mut self, tenant: &str, now_ns: u64) -> bool {
        if now_ns / MINUTE_NS != self.minute {
            (self.minute, self.said) = (now_ns / MINUTE_NS, BTreeMap::new());
        }
        self.said.get(tenant).copied().unwrap_or(0) < SAID_A_MINUTE_MAX
    }

    /// Drops those of whom nothing waits and who were silent for a minute.
    fn forget(&mut self, now_ns: u64) {
        self.tracks.retain(|_, track| {
            track.waiting.is_some() || now_ns.saturating_sub(track.said_ns) < MINUTE_NS
        });
    }
}
