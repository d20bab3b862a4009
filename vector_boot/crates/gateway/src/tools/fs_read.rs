//! `fs_read`: bytes of one regular file below a root.

use super::{Effect, Encoding, Failure, Invalid, Meter, Prepared, Runs, Tool, World};
use crate::target::{self, Target};
use base64::Engine;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use sys::beneath::{Access, Stat};

/// Bytes of one answer: as base64 they fit the response limit with room for the rest.
pub const READ_BYTES_MAX: u64 = 4 << 20;

/// The row of this tool.
pub const TOOL: Tool = Tool {
    name: "fs_read",
    description: "Reads a regular file below a root, whole or in part.",
    schema: r#"{"type":"object","properties":{"path":{"type":"string","description":"relative to the root, ROOT/PATH, or absolute below a root"},"root":{"type":"string"},"offset":{"type":"integer","minimum":0,"default":0},"limit":{"type":"integer","minimum":0,"maximum":4194304,"default":4194304},"encoding":{"enum":["utf8","base64"],"default":"utf8"}},"required":["path"],"additionalProperties":false}"#,
    torsion: 0.0,
    runs: Runs::InProcess,
    effect: Effect::Reads,
    cpu_us: 200,
    memory_bytes: 64 << 10,
    prepare,
};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    path: String,
    root: Option<String>,
    #[serde(default)]
    offset: u64,
    limit: Option<u64>,
    #[serde(default)]
    encoding: Encoding,
}

fn prepare<'w>(world: &'w World, members: &'w Map<String, Value>) -> Result<Prepared<'w>, Invalid> {
    let p: Params = super::params(members)?;
    let limit = super::within(
        "limit",
        p.limit.unwrap_or(READ_BYTES_MAX),
        0,
        READ_BYTES_MAX,
    )?;
    // pread(2) takes a signed offset.
    super::within("offset", p.offset, 0, i64::MAX as u64)?;
    super::judged(world, p.root.as_deref(), &p.path, |place| {
        let (reality, target) = target::open(place, Access::Read);
        let act = target.map(|target| -> super::Act<'w> {
            Box::new(move |meter| match target {
                Target::Open(file, stat) => read(&file, &stat, p.offset, limit, p.encoding, meter),
                Target::Creatable(_) => Err(Failure::new("target_missing", "nothing to read")),
            })
        });
        (reality, act)
    })
}

fn read(
    file: &File,
    stat: &Stat,
    offset: u64,
    limit: u64,
    encoding: Encoding,
    meter: &mut Meter,
) -> Result<Value, Failure> {
    let left = stat.bytes.saturating_sub(offset).min(limit);
    let mut bytes = vec![0u8; usize::try_from(left).unwrap_or(0)];
    let got = read_at_most(file, offset, &mut bytes)?;
    bytes.truncate(got);
    let read = bytes.len() as u64;
    meter.bytes_copied += read;
    let content = match encoding {
        Encoding::Base64 => base64::engine::general_purpose::STANDARD.encode(&bytes),
        Encoding::Utf8 => String::from_utf8(bytes).map_err(|e| {
            let at = offset + e.utf8_error().valid_up_to() as u64;
            Failure::new(
                "not_utf8",
                format!("content is not UTF-8 at byte {at}; ask with encoding base64"),
            )
        })?,
    };
    Ok(json!({
        "content": content,
        "encoding": encoding.name(),
        "offset": offset,
        "bytes": read,
        "size": stat.bytes,
        "eof": offset.saturating_add(read) >= stat.bytes,
    }))
}

/// Fills `buf` from `offset`, less if the file ends first: it may have been cut since.
fn read_at_most(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while let Some(rest) = buf.get_mut(got..).filter(|r| !r.is_empty()) {
        match file.read_at(rest, offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}
