//! Commands about evolution: what was accepted and refused and why, and the way back.

use super::{Command, Completes, DONE, Failure, Group, Out, Outcome};
use crate::console::context::{Context, Power};
use crate::console::text;
use crate::console::words::{Words, number};
use serde_json::{Value, json};
use wire::evolution::{
    EvolutionGet, EvolutionStatus, GenerationGet, GenerationStatus, Misbehaviour, Mutation,
    MutationsGet, MutationsRollback, Verdict,
};

/// Verdicts that are shown unless a number is said.
const SHOWN: u64 = 20;
/// Verdicts at most: what `cortex` sends.
const SHOWN_MAX: u64 = 200;

/// The rows of this group.
pub const COMMANDS: &[Command] = &[Command {
    name: "mutations",
    alias: "",
    group: Group::Evidence,
    usage: "[-n N]|rollback N",
    help: "Mutations of tensors that were accepted or refused, and why. The newest first; refusals of the \
           same kind behind each other are one line. With rollback N what generation N held is run by \
           again, bit for bit; 0 is the package's own.",
    completes: &[Completes::Words(&["rollback"])],
    changes: false,
    run: mutations,
}];

fn mutations(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    let words = Words::parse(words, &[], &["-n"], 2)?;
    match words.argument(0) {
        None => list(words.number("-n", SHOWN, 1, SHOWN_MAX)?, context, out),
        Some("rollback") => {
            let to = number("N", words.required(1, "N")?, 0, u64::MAX)?;
            roll_back(to, context, out)
        }
        Some(other) => Err(Failure::usage(format!("{other}: nothing or rollback"))),
    }
}

fn list(count: u64, context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    let mut cortex = context.cortex()?;
    let status = cortex.ask(&EvolutionGet, |frame| frame.body::<EvolutionStatus>())?;
    let mut table = text::Table::new(&[
        "VERDICT", ">GEN", ">TIMES", "TENSOR", "RANGE", "SURE", "UID",
    ]);
    let mut values: Vec<Value> = Vec::new();
    let get = MutationsGet {
        // Bounded by SHOWN_MAX.
        count: count as u32,
    };
    cortex.list(&get, |frame| {
        let row = frame.body::<Mutation<'_>>()?;
        let back = matches!(row.verdict, Verdict::RolledBack | Verdict::Misbehaved);
        let (range, sure) = match back {
            true => (format!("back to {}", row.restored), "-".to_owned()),
            false => (
                format!("{}+{}", row.offset, row.length),
                format!("{:.3}", row.confidence),
            ),
        };
        table.row([
            row.verdict.as_str().to_owned(),
            row.generation.to_string(),
            row.count.to_string(),
            row.tensor.to_owned(),
            range,
            sure,
            row.uid.to_string(),
        ]);
        values.push(json!({
            "verdict": row.verdict.as_str(), "says": row.verdict.says(), "generation": row.generation,
            "restored": back.then_some(row.restored), "count": row.count, "tensor": row.tensor,
            "offset": row.offset, "length": row.length, "confidence": row.confidence, "uid": row.uid,
            "id": row.id, "wall_ns": row.wall_ns,
        }));
        Ok(())
    })?;
    let in_force = context
        .init()?
        .ask(&GenerationGet, |frame| frame.body::<GenerationStatus>())?;
    let value = json!({
        "generation": status.generation, "oldest": status.oldest, "content": text::hex(&status.content),
        "base": text::hex(&status.base), "accepted": status.accepted, "refused": status.refused,
        "rolled_back": status.rolled_back, "proposers": status.proposers, "durable": status.durable,
        "in_force": in_force.number, "trial_beats_left": in_force.trial_beats_left,
        "given_up": in_force.given_up, "why": in_force.why.as_str(), "mutations": values,
    });
    let trial = match (in_force.trial_beats_left, in_force.why) {
        (0, Misbehaviour::None) => String::new(),
        (0, why) => format!(", {} given up: {}", in_force.given_up, why.as_str()),
        (left, _) => format!(", on trial for {left} beats"),
    };
    let mut lines = text::pairs(&[
        (
            "generation",
            format!(
                "{}, back to {} at most{}",
                status.generation,
                status.oldest,
                if status.durable { "" } else { ", in memory" }
            ),
        ),
        ("in force", format!("{}{trial}", in_force.number)),
        ("content", text::hex(&status.content)),
        (
            "since start",
            format!(
                "{} accepted, {} refused, {} rolled back",
                status.accepted, status.refused, status.rolled_back
            ),
        ),
    ]);
    if !values_are_empty(&value) {
        lines.push(String::new());
        lines.extend(table.lines());
    }
    out.either(&value, &lines)?;
    Ok(DONE)
}

fn values_are_empty(value: &Value) -> bool {
    value["mutations"].as_array().is_none_or(Vec::is_empty)
}

fn roll_back(to: u64, context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    if context.power == Power::ReadOnly {
        let text = "not here: vb.console_mode is readonly, which allows only commands that look";
        return Err(Failure::failed(text));
    }
    let mut cortex = context.cortex()?;
    cortex.ask(&MutationsRollback { generation: to }, |frame| {
        frame.body::<wire::Done>()
    })?;
    let status = cortex.ask(&EvolutionGet, |frame| frame.body::<EvolutionStatus>())?;
    let content = text::hex(&status.content);
    out.either(
        &json!({"restored": to, "generation": status.generation, "content": content}),
        &[format!(
            "generation {to} is run by again, as {}: {content}",
            status.generation
        )],
    )?;
    Ok(DONE)
}
