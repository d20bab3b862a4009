//! Grants: capabilities that one holder hands to another, in chains.
//!
//! A grant is within one tenant. The machine's owner grants anything; anybody else a part of what one
//! grant gives it, for no longer than that one lasts. So a grant that ends takes all that was made of
//! it along, and looking at a grant alone tells whether it is in force.

use super::{Ask, No, covers, is_pattern};
use crate::Body;
use crate::json::Json;
use crate::share::Share;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Grants in force, each about a kilobyte: 4,096 with 128 tenants.
pub const GRANTS: Share = Share {
    own: 16,
    each: 256,
    pool: 2048,
};
/// Capabilities of one grant.
pub const CAPS_MAX: usize = 32;
/// Grants from the owner's to the last of a chain.
const CHAIN_MAX: u32 = 16;

/// What may be done: a call, and on what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cap {
    call: String,
    on: String,
}

impl Cap {
    /// Reads `CALL` or `CALL:OBJECT`, each a pattern.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (call, on) = text.split_once(':').unwrap_or((text, "*"));
        let good = !call.is_empty() && is_pattern(call) && is_pattern(on);
        good.then(|| Self {
            call: call.into(),
            on: on.into(),
        })
    }

    /// As it is read.
    fn text(&self) -> String {
        match &*self.on {
            "*" => self.call.clone(),
            on => format!("{}:{on}", self.call),
        }
    }

    /// What is missing for a request, for people.
    pub(super) fn missing(ask: &Ask) -> String {
        let (call, on) = (&ask.call, &ask.on);
        let object = if on.is_empty() { "" } else { ":" };
        format!("caps missing: {call}{object}{on}")
    }

    fn allows(&self, call: &str, on: &str) -> bool {
        covers(&self.call, call) && covers(&self.on, on)
    }

    /// Whether everything that `part` allows is allowed by this one: a pattern covers another if it
    /// covers its text, star included.
    fn includes(&self, part: &Self) -> bool {
        self.allows(&part.call, &part.on)
    }
}

/// A grant in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The event that made it.
    pub id: u64,
    /// Who granted.
    pub by: String,
    /// Within which tenant.
    pub tenant: String,
    /// To whom.
    pub to: String,
    caps: Vec<Cap>,
    /// Wall clock in microseconds.
    expires_us: Option<u64>,
    parent: Option<u64>,
    /// Grants above it.
    depth: u32,
}

impl Grant {
    fn in_force(&self, now_wall_ns: u64) -> bool {
        self.expires_us.is_none_or(|end| now_wall_ns / 1000 < end)
    }

    fn is_of(&self, actor: &str, tenant: &str) -> bool {
        self.to == actor && self.tenant == tenant
    }
}

/// What somebody wants to grant.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// Who grants; `None`: the machine's owner.
    pub by: Option<&'a str>,
    /// Within which tenant.
    pub tenant: &'a str,
    /// To whom.
    pub to: &'a str,
    /// What: texts that [`Cap::parse`] reads.
    pub caps: &'a [String],
    /// Until when, wall clock in microseconds.
    pub expires_us: Option<u64>,
}

/// All grants that were made and not revoked; those that ended go when the next one is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Grants(BTreeMap<u64, Grant>);

impl Grants {
    pub(super) fn granted(&mut self, id: u64, body: &Body<'_>, payload: &Json) {
        // The log's time, so that every rebuild forgets the same ones.
        self.0.retain(|_, grant| grant.in_force(body.wall_ns));
        let parent = payload.get("parent").and_then(Json::unsigned);
        let depth = match parent.map(|id| self.0.get(&id)) {
            None => 0,
            Some(Some(parent)) => parent.depth.saturating_add(1),
            // Its parent ended in between.
            Some(None) => return,
        };
        let Some((to, caps)) = read(payload) else {
            return;
        };
        let of_tenant = self.0.values().filter(|g| g.tenant == body.tenant_id);
        if of_tenant.count() >= GRANTS.each {
            return;
        }
        let grant = Grant {
            id,
            by: body.actor.into(),
            tenant: body.tenant_id.into(),
            to: to.into(),
            caps,
            expires_us: payload.get("expires_us").and_then(Json::unsigned),
            parent,
            depth,
        };
        self.0.insert(id, grant);
    }

    /// Ends a grant and all that was made of it.
    pub(super) fn revoked(&mut self, id: u64) {
        let mut gone = vec![id];
        while let Some(id) = gone.pop() {
            self.0.remove(&id);
            let children = self.0.values().filter(|grant| grant.parent == Some(id));
            gone.extend(children.map(|grant| grant.id));
        }
    }

    /// A grant under which this may be done.
    pub(super) fn holds(&self, ask: &Ask, now_wall_ns: u64) -> Option<&Grant> {
        self.0.values().find(|grant| {
            grant.is_of(&ask.actor, &ask.tenant)
                && grant.in_force(now_wall_ns)
                && grant.caps.iter().any(|cap| cap.allows(&ask.call, &ask.on))
        })
    }

    pub(super) fn grant(&self, wish: &Wish<'_>, now_wall_ns: u64) -> Result<Json, No> {
        if !crate::rules::actor(wish.to) {
            return Err(No::new(
                "BAD_ACTOR",
                "to",
                crate::rules::Broken::Actor.limit(),
            ));
        }
        if !crate::rules::tenant(wish.tenant) {
            let limit = crate::rules::Broken::Tenant.limit();
            return Err(No::new("BAD_REQUEST", "tenant", limit));
        }
        let caps: Option<Vec<Cap>> = wish.caps.iter().map(|cap| Cap::parse(cap)).collect();
        let caps = caps
            .filter(|caps| (1..=CAPS_MAX).contains(&caps.len()))
            .ok_or_else(|| {
                let limit = format!(
                    "1 to {CAPS_MAX} of CALL or CALL:OBJECT, each with * at its end at most"
                );
                No::new("BAD_REQUEST", "caps", limit)
            })?;
        if wish.expires_us.is_some_and(|end| end <= now_wall_ns / 1000) {
            return Err(No::new("BAD_REQUEST", "expires", "in the future"));
        }
        let alive = || self.0.values().filter(|grant| grant.in_force(now_wall_ns));
        let mut by_tenant: BTreeMap<&str, usize> = BTreeMap::new();
        for grant in alive() {
            *by_tenant.entry(&grant.tenant).or_default() += 1;
        }
        let own = by_tenant.get(wish.tenant).copied().unwrap_or(0);
        if !GRANTS.admits(own, by_tenant.into_values()) {
            let limit = format!("{} in force", GRANTS.limit(own));
            return Err(No::new("QUOTA", "grants", limit));
        }
        let parent = wish
            .by
            .map(|by| self.parent(by, wish, &caps, now_wall_ns))
            .transpose()?;
        let number = |n: Option<u64>| n.map_or(Json::Null, Json::from);
        let caps = caps.iter().map(|cap| Json::Text(cap.text()));
        Ok(Json::object([
            ("caps", Json::List(caps.collect())),
            ("expires_us", number(wish.expires_us)),
            ("parent", number(parent)),
            ("to", wish.to.into()),
        ]))
    }

    /// The grant that gives all of it, and for as long.
    fn parent(&self, by: &str, wish: &Wish<'_>, caps: &[Cap], now: u64) -> Result<u64, No> {
        let own = || {
            let own = self.0.values();
            own.filter(|grant| grant.is_of(by, wish.tenant) && grant.in_force(now))
        };
        let given = |grant: &Grant, part: &Cap| grant.caps.iter().any(|cap| cap.includes(part));
        if let Some(missing) = caps.iter().find(|part| !own().any(|g| given(g, part))) {
            let missing = format!("caps missing: {}", missing.text());
            return Err(No::new("POLICY_DENY", "caps", missing));
        }
        let whole = own().filter(|grant| caps.iter().all(|part| given(grant, part)));
        let lasting = whole.filter(|grant| match (grant.expires_us, wish.expires_us) {
            (None, _) => true,
            (Some(own), Some(wanted)) => wanted <= own,
            (Some(_), None) => false,
        });
        let chained = lasting.min_by_key(|grant| grant.depth).ok_or_else(|| {
            let limit = "no one grant gives all of it for as long";
            No::new("POLICY_DENY", "caps", limit)
        })?;
        if chained.depth >= CHAIN_MAX {
            let limit = format!("chains of at most {CHAIN_MAX} grants");
            return Err(No::new("POLICY_DENY", "caps", limit));
        }
        Ok(chained.id)
    }

    pub(super) fn revoke(&self, id: u64, by: Option<(&str, &str)>) -> Result<&Grant, No> {
        let none = || No::new("NOT_FOUND", "grant", "a grant in force");
        let grant = self.0.get(&id).ok_or_else(none)?;
        let Some((actor, tenant)) = by else {
            return Ok(grant);
        };
        // Another tenant's is as good as none.
        if grant.tenant != tenant {
            return Err(none());
        }
        let mut above = Some(grant);
        while let Some(link) = above {
            if link.by == actor {
                return Ok(grant);
            }
            above = link.parent.and_then(|id| self.0.get(&id));
        }
        let limit = "granted by the caller, or of what the caller granted";
        Err(No::new("POLICY_DENY", "grant", limit))
    }
}

fn read(payload: &Json) -> Option<(&str, Vec<Cap>)> {
    let to = payload.get("to").and_then(Json::text)?;
    let Json::List(caps) = payload.get("caps")? else {
        return None;
    };
    let caps = caps.iter().map(|cap| cap.text().and_then(Cap::parse));
    let caps: Vec<Cap> = caps.take(CAPS_MAX).collect::<Option<_>>()?;
    Some((to, caps))
}
