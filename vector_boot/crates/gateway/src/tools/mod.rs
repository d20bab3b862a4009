//! The table of tools: one row and one file a tool.
//!
//! A tool prepares (parses its parameters, opens and judges its target) and, if the Reality Index
//! lets it through, acts on what it prepared. The gate lies between the two and not in the tools.
//! To add one, write its file and add its row to [`TABLE`].

mod fs_list;
mod fs_read;
mod fs_write;
mod process_list;

use crate::reality::Reality;
use crate::roots::{Place, Roots};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::fs::File;

/// What the tools may touch.
#[derive(Debug)]
pub struct World {
    /// The roots of the file tools.
    pub roots: Roots,
    /// `/proc`, held since the start.
    pub proc: Option<File>,
}

/// Parameters that are not what the tool's schema says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("params: {0}")]
pub struct Invalid(pub String);

/// Why a tool that ran did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// Stable code.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

impl Failure {
    /// A failure with its stable code.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let code = match e.kind() {
            K::StorageFull | K::QuotaExceeded => "no_space",
            K::PermissionDenied => "not_permitted",
            K::ReadOnlyFilesystem => "read_only",
            K::AlreadyExists | K::NotFound | K::IsADirectory => "target_changed",
            _ => "io",
        };
        Self::new(code, e.to_string())
    }
}

/// What was moved for a call: torsion as a measurement beside the score.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Meter {
    /// Processes and machines that the data crossed on its way; 0 for a tool in process.
    pub boundary_crossings: u32,
    /// Bytes of content read or written.
    pub bytes_copied: u64,
}

/// The second half of a tool: acts on what was judged.
pub type Act<'w> = Box<dyn FnOnce(&mut Meter) -> Result<Value, Failure> + 'w>;

/// A call whose target was judged.
pub struct Prepared<'w> {
    /// How real the target is.
    pub reality: Reality,
    /// The root that it lies in, if it is a file.
    pub root: Option<&'w str>,
    /// Absent where the target was found wanting.
    pub act: Option<Act<'w>>,
}

/// Where a tool runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    /// In this process, on descriptors.
    InProcess,
}

impl Runs {
    /// As `GET /tools` names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InProcess => "in-process",
        }
    }
}

/// Whether repeating a call changes more than one call did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Only looks.
    Reads,
    /// Changes something: `Idempotency-Key` applies.
    Writes,
}

/// One row of the table.
pub struct Tool {
    /// What calls name it by.
    pub name: &'static str,
    /// One sentence for agents.
    pub description: &'static str,
    /// JSON Schema of `params`.
    pub schema: &'static str,
    /// Boundary cost.
    pub torsion: f64,
    /// Where it runs.
    pub runs: Runs,
    /// Whether it changes anything.
    pub effect: Effect,
    /// What a call costs at most, told to the capacity kernel: microseconds of CPU.
    pub cpu_us: u32,
    /// The same in bytes of memory.
    pub memory_bytes: u64,
    /// Parses, opens, judges.
    pub prepare: for<'w> fn(&'w World, &'w Map<String, Value>) -> Result<Prepared<'w>, Invalid>,
}

/// Torsion of a tool that no row names.
pub const TORSION_UNKNOWN: f64 = 1.0;

/// Every tool.
pub const TABLE: &[Tool] = &[
    fs_read::TOOL,
    fs_list::TOOL,
    fs_write::TOOL,
    process_list::TOOL,
];

/// The tool of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Tool> {
    TABLE.iter().find(|t| t.name == name)
}

/// Reads parameters into a tool's own type; unknown members are refused there.
fn params<T: DeserializeOwned>(members: &Map<String, Value>) -> Result<T, Invalid> {
    serde_json::from_value(Value::Object(members.clone())).map_err(|e| Invalid(e.to_string()))
}

/// Refuses a number outside its range, naming field, value and limit.
fn within(field: &str, value: u64, min: u64, max: u64) -> Result<u64, Invalid> {
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(Invalid(format!("{field} is {value}, {min} to {max}")))
    }
}

/// Locates a path and hands the place to `judge`; a path that names no place is judged as nothing.
fn judged<'w>(
    world: &'w World,
    root: Option<&str>,
    path: &str,
    judge: impl FnOnce(Place<'_>) -> (Reality, Option<Act<'w>>),
) -> Result<Prepared<'w>, Invalid> {
    match world.roots.locate(root, path) {
        Err(reality) => Ok(Prepared {
            reality,
            root: None,
            act: None,
        }),
        Ok(place) => {
            let (reality, act) = judge(place);
            let name = place.root.name.as_str();
            Ok(Prepared {
                reality,
                root: world
                    .roots
                    .0
                    .iter()
                    .map(|r| r.name.as_str())
                    .find(|n| *n == name),
                act,
            })
        }
    }
}

/// How bytes travel in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    /// As text.
    #[default]
    Utf8,
    /// RFC 4648 with padding.
    Base64,
}

impl Encoding {
    fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "utf8",
            Self::Base64 => "base64",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_is_an_object_that_takes_nothing_else() {
        for tool in TABLE {
            let schema: Value = serde_json::from_str(tool.schema).unwrap();
            assert_eq!(schema["type"], "object", "{}", tool.name);
            assert_eq!(schema["additionalProperties"], false, "{}", tool.name);
            assert_eq!(find(tool.name).unwrap().name, tool.name);
        }
        assert!(find("fs_rea").is_none());
    }
}
