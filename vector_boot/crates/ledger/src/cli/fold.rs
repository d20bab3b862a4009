//! `fold`: what the events of a namespace add up to, and whether a root holds.

use super::snapshot::Snapshot;
use super::yaml;
use super::{FAILED, Outcome, Place};
use crate::device::Access;
use crate::folds::Wanted;
use crate::json::Json;
use crate::query::hex;
use clap::Args;
use ledger_core::folds::{Spec, root_of};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
pub struct Words {
    /// Namespace.
    #[arg(long)]
    ns: String,
    /// What the state is called.
    #[arg(long, default_value = "")]
    channel: String,
    /// The fold's definition: JSON, or the simple YAML of docs/ledger.md.
    #[arg(long, value_name = "FILE")]
    spec: PathBuf,
    /// Whose events; everybody's if not given.
    #[arg(long)]
    tenant: Option<String>,
    /// Up to this event; the last if not given.
    #[arg(long, value_name = "ID")]
    at: Option<u64>,
    /// Folds anew and exits 0 only if the state has this root.
    #[arg(long, value_name = "ROOT")]
    verify: Option<String>,
    /// Prints all that is known of it as JSON, and not the state alone.
    #[arg(long)]
    json: bool,
}

impl Words {
    pub fn run(&self, place: &Place) -> Outcome {
        let spec = self.spec()?;
        let answer = match place {
            Place::Disk(disk) => self.offline(Snapshot::open(disk.open(Access::Read)?)?, &spec)?,
            Place::Running(peer) => peer.call(&self.request(&spec))?,
        };
        let text = |key| answer.get(key).and_then(Json::text).unwrap_or_default();
        if self.json {
            println!("{answer}");
        } else if self.verify.is_some() {
            println!("{}", text("state_root"));
        } else {
            println!("{}", answer.get("state").unwrap_or(&Json::Null));
            eprintln!("state_root {}", text("state_root"));
        }
        let holds = self
            .verify
            .as_deref()
            .is_none_or(|root| root == text("state_root"));
        Ok(ExitCode::from(if holds { 0 } else { FAILED }))
    }

    fn spec(&self) -> Result<Json, String> {
        let named = |e: &dyn std::fmt::Display| format!("{}: {e}", self.spec.display());
        let text = std::fs::read_to_string(&self.spec).map_err(|e| named(&e))?;
        if text.trim_start().starts_with('{') {
            return Json::parse(&text).map_err(|e| named(&e));
        }
        yaml::parse(&text).map_err(|e| named(&e))
    }

    fn request(&self, spec: &Json) -> Json {
        let call = if self.verify.is_some() {
            "fold_verify"
        } else {
            "fold_state"
        };
        let text = |t: &Option<String>| t.as_deref().map_or(Json::Null, Json::from);
        Json::object([
            ("type", call.into()),
            ("ns", self.ns.as_str().into()),
            ("channel", self.channel.as_str().into()),
            ("spec", spec.clone()),
            ("tenant_id", text(&self.tenant)),
            ("at", self.at.map_or(Json::Null, Json::from)),
            ("state_root", text(&self.verify)),
        ])
    }

    fn offline(&self, mut snapshot: Snapshot, spec: &Json) -> Result<Json, String> {
        let spec = Spec::parse(spec).map_err(|no| format!("{}: {}", no.field, no.limit))?;
        let wanted = Wanted {
            tenant: self.tenant.clone(),
            ns: self.ns.clone(),
            spec,
        };
        let folded = snapshot.fold(&wanted, self.at)?;
        let state = folded.fold.state();
        let members = [
            ("ns", self.ns.as_str().into()),
            ("channel", self.channel.as_str().into()),
            ("spec", hex(&wanted.spec.id()).as_str().into()),
            ("state_root", hex(&root_of(&state)).as_str().into()),
            ("event_id", folded.through.into()),
            ("events", folded.fold.events.into()),
            ("skipped", folded.fold.skipped.into()),
            ("state", Json::parse(&state).map_err(|e| e.to_string())?),
        ];
        Ok(Json::object(members))
    }
}
