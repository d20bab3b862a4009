//! `fs_write`: gives one regular file below a writable root a new content, or adds to its end.

use super::{Effect, Encoding, Failure, Invalid, Meter, Prepared, Runs, Tool, World};
use crate::reality::Reality;
use crate::roots::Place;
use crate::target::{self, Target};
use base64::Engine;
use serde_json::{Map, Value, json};
use std::io::Write;
use std::os::fd::AsFd;
use sys::beneath::{self, Access, Stat};

/// Permission bits of a new file: others may read what an agent made, nobody else may change it.
const MODE_NEW: u32 = 0o644;

/// The row of this tool.
pub const TOOL: Tool = Tool {
    name: "fs_write",
    description: "Replaces a regular file below a writable root whole, or appends to it; durable when answered.",
    schema: r#"{"type":"object","properties":{"path":{"type":"string"},"root":{"type":"string"},"content":{"type":"string"},"encoding":{"enum":["utf8","base64"],"default":"utf8"},"create":{"type":"boolean","default":false,"description":"make the file if it is missing; its directory must be there"},"mode":{"enum":["replace","append"],"default":"replace"}},"required":["path","content"],"additionalProperties":false}"#,
    torsion: 0.0,
    runs: Runs::InProcess,
    effect: Effect::Writes,
    cpu_us: 500,
    memory_bytes: 1 << 20,
    prepare,
};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    path: String,
    root: Option<String>,
    content: String,
    #[serde(default)]
    encoding: Encoding,
    #[serde(default)]
    create: bool,
    #[serde(default)]
    mode: WriteMode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum WriteMode {
    #[default]
    Replace,
    Append,
}

fn prepare<'w>(world: &'w World, members: &'w Map<String, Value>) -> Result<Prepared<'w>, Invalid> {
    let p: Params = super::params(members)?;
    let content = match p.encoding {
        Encoding::Utf8 => p.content.into_bytes(),
        Encoding::Base64 => base64::engine::general_purpose::STANDARD
            .decode(p.content.as_bytes())
            .map_err(|e| Invalid(format!("content: not base64: {e}")))?,
    };
    let access = match p.mode {
        WriteMode::Replace => Access::Write,
        WriteMode::Append => Access::Append,
    };
    super::judged(world, p.root.as_deref(), &p.path, |place| {
        let (reality, target) = match p.create {
            true => target::open_or_create(place, access),
            false => target::open(place, access),
        };
        let Some(target) = target else {
            return (reality, None);
        };
        // The name in the judged directory, owned: the act outlives the path's text.
        let Some((_, name)) = place.split().map(|(p, n)| (p, n.as_bytes().to_vec())) else {
            return (Reality::nothing("path_invalid"), None);
        };
        let plan = match (p.mode, target) {
            (WriteMode::Append, Target::Open(file, _)) => Plan::Append(file),
            (WriteMode::Append, Target::Creatable(parent)) => Plan::AppendNew(parent),
            (WriteMode::Replace, Target::Creatable(parent)) => Plan::ReplaceNew(parent),
            (WriteMode::Replace, Target::Open(_, stat)) => match parent_of(place, &name, &stat) {
                Some(parent) => Plan::Replace(parent, stat.mode),
                None => return (Reality::exists("not_permitted"), None),
            },
        };
        let act: super::Act<'w> = Box::new(move |meter| write(plan, &name, &content, meter));
        (reality, Some(act))
    })
}

/// What will be done, with the descriptors to do it on.
enum Plan {
    Append(std::fs::File),
    AppendNew(std::fs::File),
    Replace(std::fs::File, u32),
    ReplaceNew(std::fs::File),
}

/// The directory in which the judged object has its name, if names may be added there.
fn parent_of(place: Place<'_>, name: &[u8], stat: &Stat) -> Option<std::fs::File> {
    let parent = target::parent(place).ok()?;
    let there = beneath::find(parent.as_fd(), name)
        .and_then(beneath::stat)
        .ok()?;
    beneath::may_add(parent.as_fd()).ok()?;
    (there.identity == stat.identity).then_some(parent)
}

fn write(plan: Plan, name: &[u8], content: &[u8], meter: &mut Meter) -> Result<Value, Failure> {
    let created = matches!(plan, Plan::AppendNew(_) | Plan::ReplaceNew(_));
    let size = match plan {
        Plan::Replace(parent, mode) => beneath::replace(parent.as_fd(), name, content, mode)?.bytes,
        Plan::ReplaceNew(parent) => {
            beneath::replace(parent.as_fd(), name, content, MODE_NEW)?.bytes
        }
        Plan::Append(file) => append(file, content)?,
        Plan::AppendNew(parent) => {
            let file = beneath::create_new(parent.as_fd(), name, MODE_NEW)?;
            let size = append(file, content)?;
            beneath::sync_directory(parent.as_fd())?;
            size
        }
    };
    meter.bytes_copied += content.len() as u64;
    Ok(json!({ "bytes": content.len(), "size": size, "created": created }))
}

fn append(mut file: std::fs::File, content: &[u8]) -> std::io::Result<u64> {
    file.write_all(content)?;
    file.sync_data()?;
    Ok(beneath::stat(&file)?.bytes)
}
