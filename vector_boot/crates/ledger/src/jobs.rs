//! What may be asked about jobs, whichever socket asks: checked here, decided by the committer.

use crate::committer::{Draft, Ledger, Receipt};
use crate::enforce::Plea;
use crate::json::Json;
use crate::planes::{Decision, Moment, Planes};
use crate::refusal::Refusal;
use ledger_core::jobs::{Claimable, Fate, LEASE_MS_MAX, Wanted, id_of, proof_holds};
use ledger_core::{Hash, hex};

/// Longest manifest, result and attestation, in canonical JSON: each fits a frame of the wire.
const OBJECT_BYTES_MAX: usize = wire::ledger::PAYLOAD_BYTES_MAX;
/// How long a job is held, in milliseconds, unless the claim says otherwise.
pub const LEASE_MS_DEFAULT: u64 = 60_000;
/// The queue of jobs that name none.
pub const QUEUE_DEFAULT: &str = "default";

/// Who asks, and for whom.
#[derive(Debug, Clone)]
pub struct Asker {
    /// Whose jobs.
    pub tenant: String,
    /// Who.
    pub actor: String,
    /// What the policy is asked again when it is the events' turn.
    pub plea: Plea,
    /// The queue that the policy was asked about: jobs of others are not there.
    pub queue: Option<String>,
}

impl Asker {
    /// Whether the job is one that the policy was asked about.
    fn may_touch(&self, planes: &Planes, job: &Hash) -> Result<(), Refusal> {
        let queue = planes.jobs.job_of(&self.tenant, job)?.queue;
        if self.queue.as_ref().is_none_or(|named| *named == queue) {
            return Ok(());
        }
        let limit = "a job of the queue that was named";
        Err(Refusal::new("NOT_FOUND", "job", &hex(job), limit))
    }

    fn event(&self, event_type: &str, job: &Hash, payload: String) -> Draft {
        Draft {
            ns: "job".to_owned(),
            actor: self.actor.clone(),
            tenant_id: self.tenant.clone(),
            event_type: event_type.to_owned(),
            subject: hex(job),
            payload,
            ..Draft::default()
        }
    }
}

/// A JSON object that a frame can carry, in canonical text.
///
/// # Errors
/// BAD_REQUEST, TOO_LARGE.
pub fn object(field: &'static str, json: Option<&Json>) -> Result<String, Refusal> {
    let Some(object @ Json::Object(_)) = json else {
        return Err(Refusal::bad(field, "an object"));
    };
    let text = object.payload().map_err(|e| Refusal::bad(field, &e.0))?;
    if text.len() > OBJECT_BYTES_MAX {
        let limit = format!("at most {OBJECT_BYTES_MAX} bytes");
        return Err(Refusal::new(
            "TOO_LARGE",
            field,
            &text.len().to_string(),
            &limit,
        ));
    }
    Ok(text)
}

/// A job that is to be there.
pub struct Enqueue {
    /// Who asks.
    pub asker: Asker,
    /// Where it waits.
    pub queue: String,
    /// Its manifest, by [`object`].
    pub manifest: String,
}

impl Enqueue {
    /// Its id.
    pub fn id(&self) -> Hash {
        id_of(&self.manifest)
    }

    /// Bounds what its event takes.
    pub fn bytes(&self) -> usize {
        self.manifest.len() + 1024
    }

    /// The event that is there already, if one is.
    ///
    /// # Errors
    /// BAD_REQUEST, QUOTA.
    pub fn decide(&self, planes: &Planes) -> Result<Decision<Option<u64>>, Refusal> {
        let Self {
            asker,
            queue,
            manifest,
        } = self;
        let id = self.id();
        if let Fate::There(event) = planes.jobs.enqueue(&asker.tenant, &id, queue)? {
            return Ok(Decision::only(Some(event)));
        }
        let payload = format!(
            "{{\"job\":{{\"id\":\"{}\",\"queue\":\"{queue}\"}},\"manifest\":{manifest}}}",
            hex(&id)
        );
        Ok(Decision {
            events: vec![asker.event("job.enqueued", &id, payload)],
            answer: None,
        })
    }
}

/// Which job is to be held.
pub enum ClaimOf {
    /// The oldest of a queue that can be had.
    Next(String),
    /// This one.
    Job(Hash),
    /// The one that this claim holds, for longer.
    Renew(Hash, u64),
}

/// A job that is to be held.
pub struct Claim {
    /// Who asks.
    pub asker: Asker,
    /// Which.
    pub of: ClaimOf,
    /// For how long.
    pub lease_ms: u64,
    /// The key that must sign its result.
    pub key: Option<[u8; 32]>,
}

/// What a claim got.
pub struct Claimed {
    /// The job.
    pub job: Claimable,
    /// The token.
    pub claim: u64,
    /// When it ends.
    pub until_ms: u64,
    /// The job's manifest; null if the log no longer has it.
    pub manifest: Json,
    /// The event.
    pub receipt: Receipt,
}

impl Claim {
    /// Waits for the decision, then reads the manifest: not for the committer's thread.
    ///
    /// # Errors
    /// BAD_REQUEST, NOT_FOUND, CONFLICT, and as the log's.
    pub fn run(self, ledger: &Ledger) -> Result<Claimed, Refusal> {
        if self.lease_ms == 0 || self.lease_ms > LEASE_MS_MAX {
            let limit = format!("1 to {LEASE_MS_MAX}");
            let value = self.lease_ms.to_string();
            return Err(Refusal::new("BAD_REQUEST", "lease_ms", &value, &limit));
        }
        let decide = move |planes: &Planes, moment: &Moment| self.decide(planes, moment);
        let ((job, claim, until_ms), receipts) = ledger.decide_wait(1024, decide)?;
        let enqueued = ledger
            .reader()
            .event(job.enqueued, |_, _, body| Json::stored(body.payload));
        let manifest = match enqueued {
            Ok(payload) => payload?.get("manifest").cloned().unwrap_or(Json::Null),
            // A compaction dropped it; who enqueued it still has it.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Json::Null,
            Err(e) => return Err(Refusal::from(&e)),
        };
        let receipt = receipts.first().copied();
        Ok(Claimed {
            job,
            claim,
            until_ms,
            manifest,
            receipt: receipt
                .ok_or_else(|| Refusal::new("INTERNAL", "events", "0", "one receipt"))?,
        })
    }

    fn decide(
        self,
        planes: &Planes,
        moment: &Moment,
    ) -> Result<Decision<(Claimable, u64, u64)>, Refusal> {
        let (jobs, tenant) = (&planes.jobs, &self.asker.tenant);
        let now_ms = moment.wall_ns / 1_000_000;
        let until_ms = now_ms.saturating_add(self.lease_ms);
        self.asker.plea.still(planes, moment)?;
        if let ClaimOf::Job(id) | ClaimOf::Renew(id, _) = &self.of {
            self.asker.may_touch(planes, id)?;
        }
        let (job, claim, key) = match &self.of {
            ClaimOf::Renew(id, claim) => {
                let key = jobs.held(tenant, id, &self.asker.actor, *claim)?.key;
                (jobs.job_of(tenant, id)?, *claim, key)
            }
            ClaimOf::Job(id) => {
                let job = jobs.claim(tenant, Wanted::Id(id), now_ms)?;
                (job, moment.next_id, self.key)
            }
            ClaimOf::Next(queue) => {
                let job = jobs.claim(tenant, Wanted::Next(queue), now_ms)?;
                (job, moment.next_id, self.key)
            }
        };
        let key = key.map_or_else(String::new, |k| format!("\"key\":\"{}\",", hex(&k)));
        let payload = format!(
            "{{\"job\":{{\"claim\":{claim},\"id\":\"{}\",{key}\"until_ms\":{until_ms}}}}}",
            hex(&job.id)
        );
        Ok(Decision {
            events: vec![self.asker.event("job.claimed", &job.id, payload)],
            answer: (job, claim, until_ms),
        })
    }
}

/// A job that is to be given back.
pub struct Release {
    /// Who asks.
    pub asker: Asker,
    /// Which.
    pub job: Hash,
    /// By which claim.
    pub claim: u64,
}

impl Release {
    /// # Errors
    /// NOT_FOUND, CONFLICT.
    pub fn decide(&self, planes: &Planes) -> Result<Decision<()>, Refusal> {
        let Self { asker, job, claim } = self;
        asker.may_touch(planes, job)?;
        planes.jobs.held(&asker.tenant, job, &asker.actor, *claim)?;
        let payload = format!("{{\"job\":{{\"claim\":{claim},\"id\":\"{}\"}}}}", hex(job));
        Ok(Decision {
            events: vec![asker.event("job.released", job, payload)],
            answer: (),
        })
    }
}

/// A job's result, with the worker's word for it.
pub struct Finish {
    /// Who asks.
    pub asker: Asker,
    /// Which.
    pub job: Hash,
    /// By which claim.
    pub claim: u64,
    /// What came out, by [`object`].
    pub result: String,
    /// What the worker states, by [`object`].
    pub attestation: String,
    /// Who signs.
    pub key: [u8; 32],
    /// The signature.
    pub sig: [u8; 64],
}

impl Finish {
    /// Whether the signature holds: work for the asker's own thread.
    ///
    /// # Errors
    /// BAD_SIG.
    pub fn check(&self) -> Result<(), Refusal> {
        if proof_holds(&self.key, &self.sig, &self.job, &self.attestation) {
            return Ok(());
        }
        let limit = "an Ed25519 signature by proof.key over the job and proof.attestation";
        Err(Refusal::new("BAD_SIG", "proof.sig", "", limit))
    }

    /// Bounds what its event takes.
    pub fn bytes(&self) -> usize {
        self.result.len() + self.attestation.len() + 1024
    }

    /// # Errors
    /// NOT_FOUND, CONFLICT, BAD_SIG.
    pub fn decide(&self, planes: &Planes) -> Result<Decision<()>, Refusal> {
        let Self {
            asker, job, claim, ..
        } = self;
        asker.may_touch(planes, job)?;
        planes
            .jobs
            .result(&asker.tenant, job, &asker.actor, *claim, &self.key)?;
        let payload = format!(
            "{{\"job\":{{\"claim\":{claim},\"id\":\"{}\"}},\"proof\":{{\"attestation\":{},\"key\":\"{}\",\"sig\":\"{}\"}},\"result\":{}}}",
            hex(job),
            self.attestation,
            hex(&self.key),
            hex(&self.sig),
            self.result,
        );
        Ok(Decision {
            events: vec![asker.event("job.result", job, payload)],
            answer: (),
        })
    }
}
