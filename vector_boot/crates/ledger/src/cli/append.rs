//! `append`: one event, durable before its id is printed.

use super::{Disk, Outcome, Place};
use crate::committer::Committer;
use crate::device::Access;
use crate::given::Given;
use crate::json::Json;
use crate::log::Birth;
use crate::query::hex;
use crate::refusal::Refusal;
use clap::Args;
use ledger_core::ulid;
use std::process::ExitCode;

/// Whose an event is that does not say: as for the operator of a running ledger.
const OPERATOR_TENANT: &str = "system";

#[derive(Args)]
pub struct Words {
    /// Namespace.
    #[arg(long)]
    ns: String,
    /// user:NAME, agent:NAME or service:NAME.
    #[arg(long)]
    actor: String,
    /// An object with event_type, and subject, payload, tenant_id, causation_id, timestamp, ulid, sig.
    #[arg(long, value_name = "JSON")]
    event: String,
    /// Prints the whole receipt.
    #[arg(long)]
    json: bool,
}

impl Words {
    pub fn run(&self, place: &Place) -> Outcome {
        let event = Json::parse(&self.event).map_err(|e| e.to_string())?;
        match place {
            Place::Disk(disk) => self.offline(disk, &event),
            Place::Running(peer) => {
                let answer = peer.call(&Json::object([
                    ("type", "append_event".into()),
                    ("ns", self.ns.as_str().into()),
                    ("actor", self.actor.as_str().into()),
                    ("event", event),
                ]))?;
                if self.json {
                    println!("{answer}");
                } else {
                    let id = answer.get("event_id").and_then(Json::unsigned);
                    println!("{}", id.unwrap_or(0));
                }
                Ok(ExitCode::SUCCESS)
            }
        }
    }

    /// By the same rules as the service: whoever holds the log is its operator.
    fn offline(&self, disk: &Disk, event: &Json) -> Outcome {
        let said = |refusal: Refusal| format!("{}: {}", refusal.code, refusal.reason());
        let given = Given::parse(event, &self.ns, &self.actor(), OPERATOR_TENANT).map_err(said)?;
        if given.wants_sealing() {
            return Err("seal: a running ledger alone seals, on the way in".to_owned());
        }
        let birth = Birth::now();
        let device = disk.open(Access::Write)?;
        let started = Committer::start_keeping_all(device, &birth);
        let (committer, _) = started.map_err(|e| e.to_string())?;
        let ledger = committer.ledger();
        let outcome = given
            .draft(ledger)
            .and_then(|draft| ledger.append_wait(vec![draft]));
        committer.stop();
        for receipt in outcome.map_err(said)? {
            if self.json {
                println!(
                    "{{\"event_id\":{},\"commit_id\":\"{}\",\"ulid\":\"{}\"}}",
                    receipt.id,
                    hex(&receipt.commit_id),
                    ulid::text(&receipt.ulid)
                );
            } else {
                println!("{}", receipt.id);
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// A bare name means a user, as on a line.
    fn actor(&self) -> String {
        match self.actor.contains(':') {
            true => self.actor.clone(),
            false => format!("user:{}", self.actor),
        }
    }
}
