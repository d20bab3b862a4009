//! `fs_list`: the entries of one directory below a root, a page at a time.

use super::{Effect, Failure, Invalid, Meter, Prepared, Runs, Tool, World};
use crate::target::{self, Target};
use base64::Engine;
use serde_json::{Map, Value, json};
use std::fs::File;
use sys::beneath::{self, Access, Entry, Kind};

/// Entries of one page at most.
pub const ENTRIES_MAX: u64 = 10_000;
/// Entries of one page unless asked otherwise.
const ENTRIES_DEFAULT: u64 = 1_000;

/// The row of this tool.
pub const TOOL: Tool = Tool {
    name: "fs_list",
    description: "Lists a directory below a root; goes on from a cursor.",
    schema: r#"{"type":"object","properties":{"path":{"type":"string","default":"."},"root":{"type":"string"},"limit":{"type":"integer","minimum":1,"maximum":10000,"default":1000},"cursor":{"type":"string","description":"next of the page before"}},"additionalProperties":false}"#,
    torsion: 0.0,
    runs: Runs::InProcess,
    effect: Effect::Reads,
    cpu_us: 500,
    memory_bytes: 256 << 10,
    prepare,
};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    #[serde(default)]
    path: String,
    root: Option<String>,
    limit: Option<u64>,
    cursor: Option<String>,
}

fn prepare<'w>(world: &'w World, members: &'w Map<String, Value>) -> Result<Prepared<'w>, Invalid> {
    let p: Params = super::params(members)?;
    let limit = super::within("limit", p.limit.unwrap_or(ENTRIES_DEFAULT), 1, ENTRIES_MAX)?;
    let from = match p.cursor.as_deref() {
        None => 0,
        Some(text) => text
            .parse::<u64>()
            .ok()
            .filter(|n| i64::try_from(*n).is_ok())
            .ok_or_else(|| Invalid("cursor: not one that a listing gave".to_owned()))?,
    };
    super::judged(world, p.root.as_deref(), &p.path, |place| {
        let (reality, target) = target::open(place, Access::List);
        let act = target.map(|target| -> super::Act<'w> {
            Box::new(move |meter| match target {
                Target::Open(directory, _) | Target::Creatable(directory) => {
                    list(&directory, from, limit, meter)
                }
            })
        });
        (reality, act)
    })
}

fn list(directory: &File, from: u64, limit: u64, meter: &mut Meter) -> Result<Value, Failure> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    // One more than asked tells whether there is a next page.
    let mut found = beneath::entries(directory, from, limit.saturating_add(1))?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|e| e.next.to_string());
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let rows: Vec<Value> = found.iter().map(|e| row(directory, e)).collect();
    meter.bytes_copied += found.iter().map(|e| e.name.len() as u64).sum::<u64>();
    Ok(json!({ "entries": rows, "next": next }))
}

fn row(directory: &File, entry: &Entry) -> Value {
    // An entry may go between listing and looking; the directory's word stands then.
    let stat = beneath::stat_entry(directory, &entry.name).ok();
    let kind = stat.map_or(entry.kind, |s| s.kind);
    let mut row = json!({
        "name": String::from_utf8_lossy(&entry.name),
        "kind": match kind {
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Link => "symlink",
            Kind::Other => "other",
        },
    });
    if let (Some(members), Some(stat)) =
        (row.as_object_mut(), stat.filter(|s| s.kind == Kind::File))
    {
        members.insert("size".to_owned(), stat.bytes.into());
    }
    if let (Some(members), Err(_)) = (row.as_object_mut(), std::str::from_utf8(&entry.name)) {
        let exact = base64::engine::general_purpose::STANDARD.encode(&entry.name);
        members.insert("name_base64".to_owned(), exact.into());
    }
    row
}
