//! The bus and jobs on `ledger.wire`: the same calls as on the JSONL socket, as frames.

use crate::bus::{Message, Parts};
use crate::committer::{Ledger, Receipt};
use crate::enforce::Plea;
use crate::identity::Caller;
use crate::jobs::{Asker, Claim, ClaimOf, Claimed, Enqueue, Finish, Release, object};
use crate::json::Json;
use crate::planes::{Decision, Moment, Planes};
use crate::refusal::Refusal;
use ledger_core::Hash;
use ledger_core::bus::Qos;
use wire::ledger::{Appended, PAYLOAD_BYTES_MAX};
use wire::work::{
    self, JobClaim, JobClaimed, JobEnqueue, JobEnqueued, JobRelease, JobResult, JobWanted, Publish,
    Published,
};
use wire::{Frame, Kind, PACKET_BYTES_MAX};

/// What becomes of a question: the answer's packet, or why there is none. Must not block.
pub type Reply = Box<dyn FnOnce(Result<Vec<u8>, Refusal>) + Send>;

/// Whether these are the calls here.
#[must_use]
pub fn knows(kind: Kind) -> bool {
    use Kind as K;
    matches!(
        kind,
        K::BusPublish | K::JobEnqueue | K::JobClaim | K::JobRelease | K::JobResult
    )
}

/// One question of a peer.
pub struct Asked<'a> {
    /// The frame.
    pub frame: Frame<'a>,
    /// Who asks.
    pub caller: &'a Caller,
    /// The ledger.
    pub ledger: &'a Ledger,
}

impl Asked<'_> {
    /// Has it decided; `reply` gets the outcome once it is durable.
    ///
    /// # Errors
    /// The refusal of what needs no decision, with which `reply` is still to be called.
    pub fn handle(&self, reply: Reply) {
        let outcome = match self.frame.kind {
            Kind::BusPublish => self.publish(),
            Kind::JobEnqueue => self.enqueue(),
            Kind::JobClaim => self.claim(),
            Kind::JobRelease => self.release(),
            _ => self.result(),
        };
        match outcome {
            Ok(work) => work(self.ledger, reply),
            Err(refusal) => {
                self.ledger.refused(&self.plea(), &refusal);
                reply(Err(refusal));
            }
        }
    }

    /// What is asked for, before it is known on what.
    fn plea(&self) -> Plea {
        let call = match self.frame.kind {
            Kind::BusPublish => "bus.publish",
            Kind::JobEnqueue => "job.enqueue",
            Kind::JobClaim => "job.claim",
            Kind::JobRelease => "job.release",
            _ => "job.result",
        };
        self.caller.plea(call, "")
    }

    fn body<'p, M>(&'p self) -> Result<M, Refusal>
    where
        M: wire::Message + serde::Deserialize<'p>,
    {
        let bad = |e: wire::WireError| Refusal::bad("body", &e.to_string());
        self.frame.body::<M>().map_err(bad)
    }

    /// Who asks, once the policy allowed the call on this object.
    fn asker(&self, tenant_id: &str, call: &str, on: &str) -> Result<Asker, Refusal> {
        let plea = self.caller.plea(call, on);
        self.ledger.allow(&plea)?;
        let tenant = match tenant_id {
            "" => self.caller.tenant(),
            named => {
                self.caller.may_append_for(named)?;
                named.to_owned()
            }
        };
        Ok(Asker {
            tenant,
            actor: self.caller.actor(),
            plea,
            queue: Some(on.to_owned()),
        })
    }

    /// The same for a call on a job: the policy is about its queue.
    fn asker_on(&self, tenant_id: &str, call: &str, job: &Hash) -> Result<Asker, Refusal> {
        let own = self.caller.tenant();
        let tenant = if tenant_id.is_empty() {
            &own
        } else {
            tenant_id
        };
        self.caller.may_append_for(tenant)?;
        let job = self
            .ledger
            .planes(|planes| planes.jobs.job_of(tenant, job))??;
        self.asker(tenant, call, &job.queue)
    }

    fn publish(&self) -> Result<Work, Refusal> {
        let asked: Publish<'_> = self.body()?;
        self.caller.may_fill(self.ledger)?;
        let asker = self.asker(asked.tenant_id, "bus.publish", asked.topic)?;
        let plea = asker.plea;
        let message = Message::of(Parts {
            tenant: asker.tenant,
            actor: asker.actor,
            topic: asked.topic,
            qos: match asked.qos {
                work::Qos::AtMostOnce => Qos::AtMostOnce,
                work::Qos::AtLeastOnce => Qos::AtLeastOnce,
                work::Qos::ExactlyOnce => Qos::ExactlyOnce,
            },
            ulid: asked.ulid,
            ttl_ms: asked.ttl_ms,
            headers: Some(&json("headers", asked.headers)?),
            payload: Some(&json("payload", asked.payload)?),
        })?;
        let (id, ulid) = (self.frame.id, message.ulid());
        Ok(Box::new(move |ledger, reply| {
            let decide = move |planes: &Planes, moment: &Moment| message.decide(planes, moment);
            ledger.decide_for(plea, PAYLOAD_BYTES_MAX, decide, move |outcome| {
                reply(outcome.and_then(|((there, shard), receipts)| {
                    let published = Published {
                        event_id: there.or_else(|| Some(receipts.first()?.id)).unwrap_or(0),
                        ulid,
                        shard,
                        repeated: there.is_some(),
                    };
                    packet(id, &published)
                }));
            });
        }))
    }

    fn enqueue(&self) -> Result<Work, Refusal> {
        let asked: JobEnqueue<'_> = self.body()?;
        self.caller.may_fill(self.ledger)?;
        let enqueue = Enqueue {
            asker: self.asker(asked.tenant_id, "job.enqueue", asked.queue)?,
            queue: asked.queue.to_owned(),
            manifest: object("manifest", Some(&json("manifest", asked.manifest)?))?,
        };
        let (id, job) = (self.frame.id, enqueue.id());
        Ok(Box::new(move |ledger, reply| {
            let plea = enqueue.asker.plea.clone();
            let decide = move |planes: &Planes, _: &Moment| enqueue.decide(planes);
            ledger.decide_for(plea, PAYLOAD_BYTES_MAX, decide, move |outcome| {
                reply(outcome.and_then(|(there, receipts)| {
                    let enqueued = JobEnqueued {
                        job,
                        event_id: there.or_else(|| Some(receipts.first()?.id)).unwrap_or(0),
                        repeated: there.is_some(),
                    };
                    packet(id, &enqueued)
                }));
            });
        }))
    }

    /// On the connection's thread, since the manifest is read from the log.
    fn claim(&self) -> Result<Work, Refusal> {
        let asked: JobClaim<'_> = self.body()?;
        self.caller.may_fill(self.ledger)?;
        let claim = Claim {
            asker: match &asked.wanted {
                JobWanted::Next(queue) => self.asker(asked.tenant_id, "job.claim", queue)?,
                JobWanted::Job(job) | JobWanted::Renew { job, .. } => {
                    self.asker_on(asked.tenant_id, "job.claim", job)?
                }
            },
            of: match asked.wanted {
                JobWanted::Next(queue) => ClaimOf::Next(queue.to_owned()),
                JobWanted::Job(job) => ClaimOf::Job(job),
                JobWanted::Renew { job, claim } => ClaimOf::Renew(job, claim),
            },
            lease_ms: asked.lease_ms,
            key: asked.key,
        };
        let (id, plea) = (self.frame.id, claim.asker.plea.clone());
        Ok(Box::new(move |ledger, reply| {
            let claimed = claim.run(ledger);
            if let Err(refusal) = &claimed {
                ledger.refused(&plea, refusal);
            }
            reply(claimed.and_then(|claimed| {
                let Claimed {
                    job,
                    claim,
                    until_ms,
                    manifest,
                    ..
                } = claimed;
                let claimed = JobClaimed {
                    job: job.id,
                    claim,
                    until_ms,
                    queue: &job.queue,
                    manifest: &manifest.to_string(),
                };
                packet(id, &claimed)
            }));
        }))
    }

    fn release(&self) -> Result<Work, Refusal> {
        let asked: JobRelease<'_> = self.body()?;
        let release = Release {
            asker: self.asker_on(asked.tenant_id, "job.release", &asked.job)?,
            job: asked.job,
            claim: asked.claim,
        };
        let plea = release.asker.plea.clone();
        Ok(self.appended(plea, move |planes| release.decide(planes)))
    }

    fn result(&self) -> Result<Work, Refusal> {
        let asked: JobResult<'_> = self.body()?;
        self.caller.may_fill(self.ledger)?;
        let mut sig = [0; 64];
        let halves = asked.sig.into_iter().flatten();
        sig.iter_mut().zip(halves).for_each(|(to, from)| *to = from);
        let finish = Finish {
            asker: self.asker_on(asked.tenant_id, "job.result", &asked.job)?,
            job: asked.job,
            claim: asked.claim,
            result: object("result", Some(&json("result", asked.result)?))?,
            attestation: object(
                "attestation",
                Some(&json("attestation", asked.attestation)?),
            )?,
            key: asked.key,
            sig,
        };
        finish.check()?;
        let plea = finish.asker.plea.clone();
        Ok(self.appended(plea, move |planes| finish.decide(planes)))
    }

    /// What is answered by its event.
    fn appended(
        &self,
        plea: Plea,
        decide: impl FnOnce(&Planes) -> Result<Decision<()>, Refusal> + Send + 'static,
    ) -> Work {
        let id = self.frame.id;
        Box::new(move |ledger, reply| {
            let decide = move |planes: &Planes, _: &Moment| decide(planes);
            ledger.decide_for(plea, 2 * PAYLOAD_BYTES_MAX, decide, move |outcome| {
                reply(outcome.and_then(|((), receipts)| {
                    let receipt = receipts.first().ok_or_else(none)?;
                    packet(id, &of_receipt(receipt))
                }));
            });
        })
    }
}

/// A checked question on its way to the committer.
type Work = Box<dyn FnOnce(&Ledger, Reply)>;

/// An event as its answer names it.
#[must_use]
pub fn of_receipt(receipt: &Receipt) -> Appended {
    Appended {
        event_id: receipt.id,
        commit_id: receipt.commit_id,
        repeated: receipt.repeated,
    }
}

fn none() -> Refusal {
    Refusal::new("INTERNAL", "events", "0", "one receipt")
}

fn json(field: &'static str, text: &str) -> Result<Json, Refusal> {
    if text.len() > PAYLOAD_BYTES_MAX {
        let limit = format!("at most {PAYLOAD_BYTES_MAX} bytes");
        let value = text.len().to_string();
        return Err(Refusal::new("TOO_LARGE", field, &value, &limit));
    }
    Json::part(text).map_err(|e| Refusal::bad(field, &e.0))
}

/// A frame's packet.
///
/// # Errors
/// INTERNAL if it is too long, which the limits of what is stored rule out.
pub fn packet<M: wire::Message>(id: u64, body: &M) -> Result<Vec<u8>, Refusal> {
    let mut buf = vec![0; PACKET_BYTES_MAX];
    let bytes = wire::encode(id, body, &mut buf);
    let bytes = bytes
        .map_err(|e| Refusal::new("INTERNAL", "frame", "", &e.to_string()))?
        .len();
    buf.truncate(bytes);
    buf.shrink_to_fit();
    Ok(buf)
}
