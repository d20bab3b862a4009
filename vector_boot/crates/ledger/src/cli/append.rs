//! `append`: one event, durable before its id is printed.

use super::{Disk, Outcome, Place};
use crate::clock;
use crate::committer::{Committer, Draft};
use crate::device::Access;
use crate::json::{self, Json};
use crate::log::Birth;
use crate::query::hex;
use clap::Args;
use ledger_core::ulid;
use std::process::ExitCode;

#[derive(Args)]
pub struct Words {
    /// Namespace.
    #[arg(long)]
    ns: String,
    /// user:NAME, agent:NAME or service:NAME.
    #[arg(long)]
    actor: String,
    /// An object with event_type, and subject, payload, tenant_id, causation_id.
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

    fn offline(&self, disk: &Disk, event: &Json) -> Outcome {
        let draft = self.draft(event)?;
        if event.get("payload").and_then(|p| p.get("seal")).is_some() {
            return Err("seal: a running ledger alone seals, on the way in".to_owned());
        }
        let birth = Birth {
            log_id: clock::random(),
            tag_key: clock::random(),
            wall_ns: clock::wall_ns(),
            segment_bytes_max: ledger_core::SEGMENT_BYTES_MAX,
        };
        let device = disk.open(Access::Write)?;
        let (committer, _) = Committer::start(device, &birth).map_err(|e| e.to_string())?;
        let outcome = committer.ledger().append_wait(vec![draft]);
        committer.stop();
        for receipt in outcome.map_err(|r| format!("{}: {}", r.code, r.reason()))? {
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

    fn draft(&self, event: &Json) -> Result<Draft, String> {
        let text = |key: &str| event.get(key).and_then(Json::text).map(str::to_owned);
        let actor = if self.actor.contains(':') {
            self.actor.clone()
        } else {
            format!("user:{}", self.actor)
        };
        Ok(Draft {
            origin: None,
            ns: self.ns.clone(),
            actor,
            tenant_id: text("tenant_id").unwrap_or_else(|| "system".to_owned()),
            event_type: text("event_type")
                .or_else(|| text("type"))
                .unwrap_or_default(),
            subject: text("subject").unwrap_or_default(),
            payload: match event.get("payload") {
                None => "{}".to_owned(),
                Some(payload) => json::payload_text(payload).map_err(|r| r.reason())?,
            },
            causation_id: event.get("causation_id").and_then(Json::unsigned),
            timestamp_ns: None,
            ulid: None,
            sig: None,
        })
    }
}
