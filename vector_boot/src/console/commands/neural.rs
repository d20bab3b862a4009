//! Commands about what PID 1 decides by itself: its interrupts and its journal.

use super::{Command, DONE, FAILED, Group, Out, Outcome};
use crate::console::context::Context;
use crate::console::text::{self, Table};
use crate::console::words::Words;
use neural::journal::{Chain, Entry, Kind};
use serde_json::json;
use wire::neural::{Interrupt, InterruptsGet, JournalGet, JournalRow, ROWS_MAX};
use wire::sensors::REGISTERS;

/// Rows that `journal` shows unasked.
const ROWS: u64 = 16;

/// The rows of this group.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "interrupts",
        alias: "",
        group: Group::Machine,
        usage: "",
        help: "Thresholds on registers, and which are passed. A line is raised when its register \
               passes the threshold and cleared when it has come back by the hysteresis; the handler \
               is what is done meanwhile. The table is the model's kernel.interrupts.",
        completes: &[],
        changes: false,
        run: interrupts,
    },
    Command {
        name: "journal",
        alias: "",
        group: Group::Evidence,
        usage: "[-n N] [--cortex]",
        help: "The newest rows of cortex_journal. What PID 1 decided by itself: interrupts, controls, \
               generations; each row is chained to the one before, and the chain is checked here. Exit \
               code 1 if it does not hold. PID 1 keeps 64 rows; with --cortex the chain of the role cortex on \
               the data disk is shown, which has PID 1's rows and what became of mutations.",
        completes: &[],
        changes: false,
        run: journal,
    },
];

fn interrupts(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    Words::parse(words, &[], &[], 0)?;
    let mut table = Table::new(&[
        "REGISTER",
        "RAISED",
        ">THRESHOLD",
        ">BACK",
        ">TIMES",
        "HANDLER",
    ]);
    let mut values = Vec::new();
    context.init()?.list(&InterruptsGet, |frame| {
        let line = frame.body::<Interrupt<'_>>()?;
        let register = register(line.register);
        let side = if line.above { "above" } else { "below" };
        let raised = if line.raised { "yes" } else { "no" };
        table.row([
            register.to_owned(),
            raised.to_owned(),
            format!("{side} {}", line.threshold),
            line.hysteresis.to_string(),
            line.count.to_string(),
            line.handler.to_owned(),
        ]);
        values.push(json!({
            "register": register, "above": line.above, "threshold": line.threshold,
            "hysteresis": line.hysteresis, "raised": line.raised, "count": line.count,
            "changed_ns": line.changed_ns, "handler": line.handler,
        }));
        Ok(())
    })?;
    out.either(&json!({ "interrupts": values }), &table.lines())?;
    Ok(DONE)
}

fn register(index: u16) -> &'static str {
    let register = REGISTERS.get(usize::from(index));
    register.map_or("?", |register| register.name)
}

fn journal(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    let words = Words::parse(words, &["--cortex"], &["-n"], 0)?;
    let rows = words.number("-n", ROWS, 1, ROWS_MAX.into())?;
    let ask = JournalGet {
        after: 0,
        // At most ROWS_MAX, as was just seen.
        rows: u32::try_from(rows).unwrap_or(ROWS_MAX),
    };
    let (mut lines, mut values) = (Vec::new(), Vec::new());
    let (mut chain, mut broken) = (None::<Chain>, None);
    let mut keeper = match words.flag("--cortex") {
        true => context.cortex()?,
        false => context.init()?,
    };
    keeper.list(&ask, |frame| {
        let bytes = frame.body::<JournalRow<'_>>()?.row;
        let entry = match &mut chain {
            // The first has nothing before it to be held against.
            None => Entry::decode(bytes).inspect(|e| chain = Some(Chain::behind(e.seq, e.hash))),
            Some(chain) => chain.check(bytes),
        };
        match entry {
            Ok(entry) => {
                lines.push(line(&entry));
                values.push(value(&entry));
            }
            Err(e) => broken = broken.take().or(Some(e.to_string())),
        }
        Ok(())
    })?;
    if lines.is_empty() {
        lines.push("no rows yet".to_owned());
    }
    lines.push(match &broken {
        Some(why) => format!("the chain is broken: {why}"),
        None => "the chain holds".to_owned(),
    });
    out.either(
        &json!({ "rows": values, "holds": broken.is_none(), "broken": broken }),
        &lines,
    )?;
    Ok(if broken.is_none() { DONE } else { FAILED })
}

/// One row for people: number, when, what.
fn line(entry: &Entry) -> String {
    let row = &entry.row;
    let [first, second, third, _] = row.values;
    let says = match row.kind {
        Kind::Raised | Kind::Cleared => format!("{first}, threshold {second}"),
        Kind::Control => format!("{first} -> {second}, wish {third:.2}"),
        Kind::Lost => format!("{} rows", row.id),
        Kind::Accepted | Kind::Refused => format!("mutation {} reason {}", row.id, row.code),
        _ => String::new(),
    };
    let head = format!(
        "{:>6}  {:>10}  {:<13} {}",
        entry.seq,
        text::age(row.at_ns),
        row.kind.name(),
        row.subject.as_str()
    );
    format!("{head} {says}").trim_end().to_owned()
}

fn value(entry: &Entry) -> serde_json::Value {
    let row = &entry.row;
    json!({
        "seq": entry.seq, "at_ns": row.at_ns, "beat": row.beat, "kind": row.kind.name(),
        "code": row.code, "id": row.id, "generation": row.generation, "subject": row.subject.as_str(),
        "values": row.values, "digest": text::hex(&row.digest), "hash": text::hex(&entry.hash),
    })
}
