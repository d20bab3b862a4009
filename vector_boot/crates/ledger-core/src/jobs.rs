//! Jobs as a fold over the log: enqueued once, held by one worker at a time, finished once.
//!
//! A job's id is the BLAKE3 of its manifest's canonical JSON. A claim is an event, and its id is the
//! token with which its holder renews, releases or finishes: who lost the job cannot finish it. Leases
//! end by the wall clock of the log. Runs nothing.
//!
//! Bounded by [`OPEN`] and [`REMEMBERED_MAX`]. Start with [`Jobs::apply`], then [`Jobs::claim`].

use crate::bus::No;
use crate::meta::Meta;
use crate::share::Share;
use crate::{Body, Hash, hex};
use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};

/// Jobs that are not finished, some 200 bytes each: 32,768 with 64 tenants.
pub const OPEN: Share = Share {
    own: 128,
    each: 8 * 1024,
    pool: 24 * 1024,
};
/// Jobs of all tenants; who has most finished ones forgets first.
pub const REMEMBERED_MAX: usize = 32 * 1024;
/// The longest lease, in milliseconds: a day. One that ends much later was given by a clock that was ahead.
pub const LEASE_MS_MAX: u64 = 24 * 3600 * 1000;
/// By how much the clock may be set back under a lease of the longest kind: the machine's own steps are at most
/// 1,000 s.
const SET_BACK_MS: u64 = 3600 * 1000;
/// Finished jobs that a tenant never forgets to make room for others'.
const FINISHED_OWN: usize = 128;
/// Longest name of a queue.
pub const QUEUE_BYTES_MAX: usize = 64;
/// First line of what a worker signs.
pub const PROOF_CONTEXT: &str = "vb-job-proof v1";

/// The id of the job with this manifest, in canonical JSON.
#[must_use]
pub fn id_of(manifest: &str) -> Hash {
    *blake3::hash(manifest.as_bytes()).as_bytes()
}

/// Whether the text may name a queue.
#[must_use]
pub fn is_queue(text: &str) -> bool {
    (1..=QUEUE_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._/-".contains(&b))
}

/// What a worker signs: three lines, the context, the job's id in hex and the attestation's canonical
/// JSON, without a line end behind it.
#[must_use]
pub fn proof_message(job: &Hash, attestation: &str) -> Vec<u8> {
    format!("{PROOF_CONTEXT}\n{}\n{attestation}", hex(job)).into_bytes()
}

/// Whether the signature over [`proof_message`] holds, strictly.
#[must_use]
pub fn proof_holds(key: &[u8; 32], sig: &[u8; 64], job: &Hash, attestation: &str) -> bool {
    let message = proof_message(job, attestation);
    VerifyingKey::from_bytes(key).is_ok_and(|key| {
        key.verify_strict(&message, &Signature::from_bytes(sig))
            .is_ok()
    })
}

/// Who holds a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The event of the claim: the holder's token.
    pub event: u64,
    /// The holder.
    pub actor: String,
    /// When it ends, milliseconds since 1970.
    pub until_ms: u64,
    /// The key that must sign the result, if the claim named one.
    pub key: Option<[u8; 32]>,
}

/// Whether a lease that ends then is one now: no lease is longer than the longest, and so none outlasts a
/// clock that is set back by much.
fn lasts(until_ms: u64, wall_ms: u64) -> bool {
    until_ms > wall_ms && until_ms - wall_ms <= LEASE_MS_MAX + SET_BACK_MS
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    Ready,
    Held(Claim),
    Finished(u64),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Job {
    enqueued: u64,
    queue: String,
    state: State,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Tenant {
    jobs: BTreeMap<Hash, Job>,
    /// Queue and event of those that nobody holds.
    ready: BTreeSet<(String, u64, Hash)>,
    /// Queue, end of the lease.
    held: BTreeSet<(String, u64, Hash)>,
    /// By the event of the result.
    finished: BTreeSet<(u64, Hash)>,
}

/// The jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jobs {
    tenants: BTreeMap<String, Tenant>,
    remembered: usize,
}

/// Which job is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// This one.
    Id(&'a Hash),
    /// The oldest of a queue that can be had.
    Next(&'a str),
}

/// A job that can be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimable {
    /// Its id.
    pub id: Hash,
    /// Its event, which has the manifest.
    pub enqueued: u64,
    /// Its queue.
    pub queue: String,
}

/// What becomes of an enqueue or a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is new.
    New,
    /// It is this event already.
    There(u64),
}

/// How many jobs there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Nobody holds them.
    pub ready: usize,
    /// Somebody holds them, or did until its lease ended.
    pub held: usize,
    /// Finished, and remembered.
    pub finished: usize,
}

impl Jobs {
    /// Whether events of this type change it.
    #[must_use]
    pub fn wants(event_type: &str) -> bool {
        event_type.starts_with("job.")
    }

    /// Takes the next event in.
    pub fn apply(&mut self, event: u64, body: &Body<'_>) {
        let Some(meta) = Meta::of(body.payload, "job") else {
            return;
        };
        let Some(id) = meta.text("id").and_then(hash_of) else {
            return;
        };
        match body.event_type {
            "job.enqueued" => self.enqueued(event, body.tenant_id, id, &meta),
            "job.claimed" => {
                let claim = claim_of(event, body.actor, &meta);
                self.change(body.tenant_id, &id, |_| State::Held(claim));
            }
            "job.released" => self.change(body.tenant_id, &id, |_| State::Ready),
            "job.result" => self.change(body.tenant_id, &id, |_| State::Finished(event)),
            _ => {}
        }
        self.forget();
    }

    fn enqueued(&mut self, event: u64, tenant: &str, id: Hash, meta: &Meta<'_>) {
        let queue = meta.text("queue").filter(|q| is_queue(q));
        let Some(queue) = queue else { return };
        let tenant = self.tenants.entry(tenant.to_owned()).or_default();
        if tenant.jobs.contains_key(&id) || tenant.open() >= OPEN.each {
            return;
        }
        let job = Job {
            enqueued: event,
            queue: queue.to_owned(),
            state: State::Ready,
        };
        tenant.file(&id, &job);
        tenant.jobs.insert(id, job);
        self.remembered += 1;
    }

    /// Gives a job that is not finished another state.
    fn change(&mut self, tenant: &str, id: &Hash, to: impl FnOnce(&State) -> State) {
        let Some(tenant) = self.tenants.get_mut(tenant) else {
            return;
        };
        let Some(mut job) = tenant.jobs.remove(id) else {
            return;
        };
        if !matches!(job.state, State::Finished(_)) {
            tenant.unfile(id, &job);
            job.state = to(&job.state);
            tenant.file(id, &job);
        }
        tenant.jobs.insert(*id, job);
    }

    fn forget(&mut self) {
        while self.remembered > REMEMBERED_MAX {
            let most = self.tenants.values_mut().max_by_key(|t| t.finished.len());
            let most = most.filter(|t| t.finished.len() > FINISHED_OWN);
            let oldest = most.and_then(|t| Some((t.finished.pop_first()?, t)));
            let Some(((_, id), tenant)) = oldest else {
                return;
            };
            tenant.jobs.remove(&id);
            self.remembered -= 1;
        }
    }

    fn job(&self, tenant: &str, id: &Hash) -> Result<&Job, No> {
        let job = self.tenants.get(tenant).and_then(|t| t.jobs.get(id));
        job.ok_or_else(|| {
            let limit = "a job among those remembered";
            No::new("NOT_FOUND", "job", &hex(id), limit)
        })
    }

    /// What becomes of a job.
    ///
    /// # Errors
    /// BAD_REQUEST for what is no queue, QUOTA.
    pub fn enqueue(&self, tenant: &str, id: &Hash, queue: &str) -> Result<Fate, No> {
        if let Ok(job) = self.job(tenant, id) {
            return Ok(Fate::There(job.enqueued));
        }
        if !is_queue(queue) {
            let limit = "1 to 64 of A-Z a-z 0-9 . _ / -";
            return Err(No::new("BAD_REQUEST", "queue", queue, limit));
        }
        let open = self.tenants.get(tenant).map_or(0, Tenant::open);
        if !OPEN.admits(open, self.tenants.values().map(Tenant::open)) {
            let limit = format!("{} of jobs that are not finished", OPEN.limit(open));
            return Err(No::new("QUOTA", "jobs", &open.to_string(), &limit));
        }
        Ok(Fate::New)
    }

    /// The job that the asker gets: one that nobody holds, or whose holder's lease has ended.
    ///
    /// # Errors
    /// NOT_FOUND, CONFLICT if somebody holds it or it is finished.
    pub fn claim(&self, tenant: &str, wanted: Wanted<'_>, wall_ms: u64) -> Result<Claimable, No> {
        let id = match wanted {
            Wanted::Id(id) => *id,
            Wanted::Next(queue) => self.next(tenant, queue, wall_ms)?,
        };
        let job = self.job(tenant, &id)?;
        let conflict = |limit: &str| Err(No::new("CONFLICT", "job", &hex(&id), limit));
        match &job.state {
            State::Finished(_) => conflict("finished already"),
            State::Held(claim) if lasts(claim.until_ms, wall_ms) => conflict("somebody holds it"),
            State::Held(_) | State::Ready => self.job_of(tenant, &id),
        }
    }

    /// A job, whoever holds it.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub fn job_of(&self, tenant: &str, id: &Hash) -> Result<Claimable, No> {
        let job = self.job(tenant, id)?;
        Ok(Claimable {
            id: *id,
            enqueued: job.enqueued,
            queue: job.queue.clone(),
        })
    }

    fn next(&self, tenant: &str, queue: &str, wall_ms: u64) -> Result<Hash, No> {
        let none = || {
            No::new(
                "NOT_FOUND",
                "queue",
                queue,
                "one with a job that nobody holds",
            )
        };
        let tenant = self.tenants.get(tenant).ok_or_else(none)?;
        let of_queue = |set: &BTreeSet<(String, u64, Hash)>, from: u64| {
            let first = set.range((queue.to_owned(), from, [0; 32])..).next();
            first.filter(|(q, ..)| q == queue).cloned()
        };
        // What was lost by its holder has waited longest.
        let over = |job: &(String, u64, Hash)| !lasts(job.1, wall_ms);
        let lost = of_queue(&tenant.held, 0).filter(over);
        let beyond = || {
            let any_length = wall_ms.saturating_add(LEASE_MS_MAX + SET_BACK_MS + 1);
            of_queue(&tenant.held, any_length).filter(over)
        };
        let ready = || of_queue(&tenant.ready, 0);
        let found = lost.or_else(ready).or_else(beyond);
        let (.., id) = found.ok_or_else(none)?;
        Ok(id)
    }

    /// Whether this claim still holds the job, for who wants to renew or release it.
    ///
    /// # Errors
    /// NOT_FOUND, CONFLICT if it does not.
    pub fn held(&self, tenant: &str, id: &Hash, actor: &str, claim: u64) -> Result<&Claim, No> {
        match &self.job(tenant, id)?.state {
            State::Held(held) if held.event == claim && held.actor == actor => Ok(held),
            State::Finished(_) | State::Held(_) | State::Ready => {
                let limit = "the claim of who holds the job";
                Err(No::new("CONFLICT", "claim", &claim.to_string(), limit))
            }
        }
    }

    /// What becomes of a result that is signed with `key`.
    ///
    /// # Errors
    /// As [`Self::held`]; BAD_SIG if the claim named another key.
    pub fn result(
        &self,
        tenant: &str,
        id: &Hash,
        actor: &str,
        claim: u64,
        key: &[u8; 32],
    ) -> Result<(), No> {
        let held = self.held(tenant, id, actor, claim)?;
        if held.key.is_some_and(|wanted| wanted != *key) {
            let limit = "the key that the claim named";
            return Err(No::new("BAD_SIG", "proof.key", &hex(key), limit));
        }
        Ok(())
    }

    /// The event that finished a job, if one did.
    #[must_use]
    pub fn finished(&self, tenant: &str, id: &Hash) -> Option<u64> {
        match self.job(tenant, id).ok()?.state {
            State::Finished(event) => Some(event),
            _ => None,
        }
    }

    /// How many there are, of all tenants.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.tenants
            .values()
            .fold(Counts::default(), |sum, t| Counts {
                ready: sum.ready + t.ready.len(),
                held: sum.held + t.held.len(),
                finished: sum.finished + t.finished.len(),
            })
    }
}

impl Tenant {
    fn open(&self) -> usize {
        self.ready.len() + self.held.len()
    }

    fn file(&mut self, id: &Hash, job: &Job) {
        match &job.state {
            State::Ready => self.ready.insert((job.queue.clone(), job.enqueued, *id)),
            State::Held(claim) => self.held.insert((job.queue.clone(), claim.until_ms, *id)),
            State::Finished(event) => self.finished.insert((*event, *id)),
        };
    }

    fn unfile(&mut self, id: &Hash, job: &Job) {
        match &job.state {
            State::Ready => self.ready.remove(&(job.queue.clone(), job.enqueued, *id)),
            State::Held(claim) => self.held.remove(&(job.queue.clone(), claim.until_ms, *id)),
            State::Finished(event) => self.finished.remove(&(*event, *id)),
        };
    }
}

fn claim_of(event: u64, actor: &str, meta: &Meta<'_>) -> Claim {
    Claim {
        event: meta.number("claim").unwrap_or(event),
        actor: actor.to_owned(),
        until_ms: meta.number("until_ms").unwrap_or(0),
        key: meta.text("key").and_then(hash_of),
    }
}

/// Reads 64 hex digits.
#[must_use]
pub fn hash_of(text: &str) -> Option<Hash> {
    let mut out = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, at) in out.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};
    use proptest::prelude::*;
    use std::vec;

    fn apply(jobs: &mut Jobs, event: u64, event_type: &str, actor: &str, meta: &str) {
        let payload = format!("{{\"job\":{{{meta}}}}}");
        jobs.apply(event, &body(event_type, actor, &payload));
    }

    fn body<'a>(event_type: &'a str, actor: &'a str, payload: &'a str) -> Body<'a> {
        Body {
            timestamp_ns: 0,
            wall_ns: 0,
            ulid: [0; 16],
            tenant_tag: [0; 8],
            ns: "job",
            actor,
            tenant_id: "a",
            event_type,
            subject: "",
            payload,
            causation_id: None,
            origin: None,
            sig: None,
        }
    }

    fn enqueue(jobs: &mut Jobs, event: u64, id: &Hash) {
        let meta = format!("\"id\":\"{}\",\"queue\":\"q\"", hex(id));
        apply(jobs, event, "job.enqueued", "user:x", &meta);
    }

    proptest! {
        #[test]
        fn a_job_has_one_holder_and_one_result(
            steps in proptest::collection::vec((0..6u8, 0..4u8, 0..3u8, 0..50u64), 1..200),
        ) {
            let mut jobs = Jobs::default();
            let (mut now, mut event) = (1000, 0);
            // Who holds what until when, by what token.
            let mut model: BTreeMap<u8, (u8, u64, u64)> = BTreeMap::new();
            let mut finished = BTreeSet::new();
            let mut log = vec![];
            for (what, job, who, time) in steps {
                now += time;
                event += 1;
                let (id, actor) = (id_of(&format!("{{\"n\":{job}}}")), format!("agent:{who}"));
                let hexed = hex(&id);
                let holder = model.get(&job).copied();
                let mut push = |jobs: &mut Jobs, kind: &'static str, meta: String| {
                    apply(jobs, event, kind, &actor, &meta);
                    log.push((event, kind, actor.clone(), meta));
                };
                match what {
                    0 => if jobs.enqueue("a", &id, "q") == Ok(Fate::New) {
                        push(&mut jobs, "job.enqueued", format!("\"id\":\"{hexed}\",\"queue\":\"q\""));
                    },
                    1 | 2 => if let Ok(got) = jobs.claim("a", Wanted::Id(&id), now) {
                        prop_assert_eq!(got.id, id);
                        prop_assert!(holder.is_none_or(|(_, until, _)| until <= now));
                        prop_assert!(!finished.contains(&job));
                        model.insert(job, (who, now + 30, event));
                        push(&mut jobs, "job.claimed", format!("\"id\":\"{hexed}\",\"until_ms\":{}", now + 30));
                    },
                    3 => {
                        let token = holder.map_or(0, |(.., token)| token);
                        let ok = jobs.held("a", &id, &actor, token).is_ok();
                        prop_assert_eq!(ok, holder.is_some_and(|(h, ..)| h == who) && !finished.contains(&job));
                        if ok {
                            model.remove(&job);
                            push(&mut jobs, "job.released", format!("\"id\":\"{hexed}\""));
                        }
                    }
                    4 => {
                        let token = holder.map_or(0, |(.., token)| token);
                        if jobs.result("a", &id, &actor, token, &[1; 32]).is_ok() {
                            prop_assert!(finished.insert(job));
                            push(&mut jobs, "job.result", format!("\"id\":\"{hexed}\""));
                            prop_assert_eq!(jobs.finished("a", &id), Some(event));
                        }
                    }
                    _ => if let Ok(got) = jobs.claim("a", Wanted::Next("q"), now) {
                        prop_assert!(jobs.claim("a", Wanted::Id(&got.id), now).is_ok());
                    },
                }
            }
            let mut again = Jobs::default();
            for (event, kind, actor, meta) in &log {
                apply(&mut again, *event, kind, actor, meta);
            }
            prop_assert_eq!(&again, &jobs);
            let summary = postcard::to_allocvec(&jobs).unwrap();
            prop_assert_eq!(&postcard::from_bytes::<Jobs>(&summary).unwrap(), &jobs);
        }

        #[test]
        fn no_event_panics(meta in "[a-z0-9:\"{},-]{0,80}", kind in 0..4usize) {
            let kinds = ["job.enqueued", "job.claimed", "job.released", "job.result"];
            let mut jobs = Jobs::default();
            enqueue(&mut jobs, 1, &[7; 32]);
            apply(&mut jobs, 2, kinds[kind], "user:x", &meta);
            apply(&mut jobs, 3, kinds[kind], "user:x", &format!("\"id\":\"{}\",{meta}", hex(&[7; 32])));
        }
    }

    #[test]
    fn the_oldest_of_a_queue_comes_first_and_what_its_holder_lost_before_it() {
        let mut jobs = Jobs::default();
        for n in 1..=3u8 {
            enqueue(&mut jobs, u64::from(n), &[n; 32]);
        }
        let next = |jobs: &Jobs, now| jobs.claim("a", Wanted::Next("q"), now).map(|c| c.id);
        assert_eq!(next(&jobs, 0), Ok([1; 32]));
        let meta = format!("\"id\":\"{}\",\"until_ms\":50", hex(&[1; 32]));
        apply(&mut jobs, 4, "job.claimed", "agent:x", &meta);
        assert_eq!(next(&jobs, 49), Ok([2; 32]));
        assert_eq!(next(&jobs, 50), Ok([1; 32]));
        let other = jobs.claim("a", Wanted::Next("q2"), 50).unwrap_err();
        assert_eq!(other.code, "NOT_FOUND");
        assert_eq!(
            jobs.claim("b", Wanted::Id(&[1; 32]), 50).unwrap_err().code,
            "NOT_FOUND"
        );
        assert_eq!(
            jobs.claim("a", Wanted::Id(&[1; 32]), 49).unwrap_err().code,
            "CONFLICT"
        );
    }

    #[test]
    fn open_jobs_are_bounded_and_finished_ones_are_forgotten() {
        let mut jobs = Jobs::default();
        let id = |n: usize| id_of(&n.to_string());
        for n in 0..OPEN.each {
            enqueue(&mut jobs, n as u64 + 1, &id(n));
        }
        assert_eq!(jobs.enqueue("a", &[0; 32], "q").unwrap_err().code, "QUOTA");
        for n in 0..REMEMBERED_MAX + 100 {
            let meta = format!("\"id\":\"{}\"", hex(&id(n)));
            apply(
                &mut jobs,
                (OPEN.each + n) as u64,
                "job.result",
                "user:x",
                &meta,
            );
            enqueue(&mut jobs, (OPEN.each + n) as u64, &id(OPEN.each + n));
        }
        assert_eq!(jobs.remembered, REMEMBERED_MAX);
        assert_eq!(jobs.finished("a", &id(0)), None);
    }

    #[test]
    fn a_proof_is_over_the_job_and_its_attestation_and_strict() {
        let signing = SigningKey::from_bytes(&[7; 32]);
        let key = signing.verifying_key().to_bytes();
        let (job, attestation) = (id_of("{}"), "{\"exit\":0}");
        let sig = signing.sign(&proof_message(&job, attestation)).to_bytes();
        assert!(proof_holds(&key, &sig, &job, attestation));
        assert!(!proof_holds(&key, &sig, &[0; 32], attestation));
        assert!(!proof_holds(&key, &sig, &job, "{\"exit\":1}"));
        assert!(!proof_holds(&[7; 32], &sig, &job, attestation));
        for at in 0..64 {
            let mut forged = sig;
            forged[at] ^= 1;
            assert!(!proof_holds(&key, &forged, &job, attestation), "{at}");
        }
        // A key of small order signs everything, unless the check is strict.
        let (mut weak, mut zero) = ([0; 32], [0; 64]);
        (weak[0], zero[0]) = (1, 1);
        assert!(!proof_holds(&weak, &zero, &job, attestation));
    }

    #[test]
    fn a_lease_of_a_clock_that_was_ahead_ends_with_it() {
        const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;
        let mut jobs = Jobs::default();
        let (id, hex) = ([7; 32], hex(&[7; 32]));
        let meta = format!("\"id\":\"{hex}\",\"queue\":\"q\"");
        apply(&mut jobs, 1, "job.enqueued", "user:a", &meta);
        let until = 1000 + YEAR_MS + 60_000;
        let meta = format!("\"id\":\"{hex}\",\"until_ms\":{until}");
        apply(&mut jobs, 2, "job.claimed", "user:a", &meta);
        for wanted in [Wanted::Id(&id), Wanted::Next("q")] {
            assert!(jobs.claim("a", wanted, 1000 + YEAR_MS).is_err(), "held");
            assert!(jobs.claim("a", wanted, until - LEASE_MS_MAX).is_err());
            // A clock that is kept right is set back a little now and then.
            assert!(
                jobs.claim("a", wanted, until - LEASE_MS_MAX - 1000)
                    .is_err()
            );
            assert!(jobs.claim("a", wanted, 1000).is_ok(), "set back");
            assert!(jobs.claim("a", wanted, until).is_ok(), "over");
        }
        // Until somebody else has it, its holder may still finish.
        assert!(jobs.held("a", &id, "user:a", 2).is_ok());
    }
}
