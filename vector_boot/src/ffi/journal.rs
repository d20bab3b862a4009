//! Rows of `cortex_journal` of a running machine, its PID 1's or its role `cortex`'s, as JSON with their chain checked.
//!
//! Never here: what a row says (`docs/neural.md`), a wait of more than [`ANSWER_LIMIT`]. Start with [`of_machine`].

use std::fmt::Write;
use std::path::Path;

use ipc::Connection;
use neural::journal::{Chain, Entry};
use wire::neural::{JournalGet, JournalRow, ROWS_MAX};

use super::failure::Failure;
use super::json;
use super::registers::ANSWER_LIMIT;

/// Asks whoever listens on this socket for its rows behind number `after`, as a JSON array, the oldest first. A row that
/// is not chained to the one before is a failure.
pub fn of_machine(socket: &Path, after: u64) -> Result<String, Failure> {
    let refused = |error: &dyn std::fmt::Display| Failure::machine(socket.display(), error);
    let mut connection = Connection::open(socket, ANSWER_LIMIT).map_err(|e| refused(&e))?;
    let (mut chain, mut broken) = (None::<Chain>, None);
    let mut text = String::from("[");
    let get = JournalGet {
        after,
        rows: ROWS_MAX,
    };
    let listed = connection.list(&get, |frame| {
        let bytes = frame.body::<JournalRow<'_>>()?.row;
        let entry = match &mut chain {
            // The first has nothing before it to be held against.
            None => Entry::decode(bytes).inspect(|e| chain = Some(Chain::behind(e.seq, e.hash))),
            Some(chain) => chain.check(bytes),
        };
        match entry {
            Ok(entry) => {
                // Writing to memory does not fail.
                let _ = row(&entry, &mut text);
            }
            Err(e) => broken = broken.take().or(Some(e.to_string())),
        }
        Ok(())
    });
    listed.map_err(|error| refused(&error))?;
    match broken {
        Some(why) => Err(Failure::format("cortex_journal", &why)),
        None => Ok(text + "]"),
    }
}

fn row(entry: &Entry, out: &mut String) -> std::fmt::Result {
    let row = &entry.row;
    if out.len() > 1 {
        out.push(',');
    }
    write!(
        out,
        "{{\"seq\":{},\"at_ns\":{},\"beat\":{},\"kind\":\"{}\",\"code\":{},\"id\":{},\"generation\":{},\"subject\":",
        entry.seq,
        row.at_ns,
        row.beat,
        row.kind.name(),
        row.code,
        row.id,
        row.generation
    )?;
    json::string(gguf::Text(row.subject.as_str().as_bytes()), out)?;
    out.push_str(",\"values\":[");
    for (place, value) in row.values.iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        match value.is_finite() {
            true => write!(out, "{value:?}")?,
            // There is none, or JSON has no word for it.
            false => out.push_str("null"),
        }
    }
    out.push_str("],\"digest\":\"");
    hex(&row.digest, out)?;
    out.push_str("\",\"hash\":\"");
    hex(&entry.hash, out)?;
    out.push_str("\"}");
    Ok(())
}

fn hex(bytes: &[u8], out: &mut String) -> std::fmt::Result {
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}
