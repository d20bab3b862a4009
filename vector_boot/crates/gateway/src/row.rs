//! The payload of a ledger row: what is told of a call, and what is not.
//!
//! Parameters are written in clear only where the machine says so. Else the ledger seals the member `seal` on its way
//! in, under a key that only an auditor is given; beside it stands a keyed commitment, by which calls with the same
//! parameters can be told without any key. An unkeyed hash of a short path could be guessed, so its key is random and
//! lives as long as this process.
//!
//! Pure but for [`Commitments::new`], which draws the key. Start with [`payload`].

use crate::config::AuditPaths;
use crate::reality::Score;
use serde_json::{Map, Value};

/// Makes commitments to parameters.
pub struct Commitments([u8; 32]);

impl Commitments {
    /// Draws a key.
    ///
    /// # Errors
    /// As `getrandom(2)`.
    pub fn new() -> std::io::Result<Self> {
        let mut key = [0u8; 32];
        sys::random::fill(&mut key)?;
        Ok(Self(key))
    }

    /// Keyed BLAKE3 of the parameters' JSON with sorted keys, in hexadecimal.
    #[must_use]
    pub fn of(&self, params: &Map<String, Value>) -> String {
        let text = serde_json::to_vec(params).unwrap_or_default();
        blake3::keyed_hash(&self.0, &text).to_hex().to_string()
    }
}

/// What the ledger seals at most; a text of ours must fit whatever it holds.
const SEALED_BYTES_MAX: usize = 1024;
/// Longer texts are told by their hash: contents of files, and what is no path.
const TEXT_BYTES_MAX: usize = 256;

/// The parameters as an auditor reads them: JSON of at most a kibibyte, in which long texts stand as length and BLAKE3.
#[must_use]
pub fn audited(params: &Map<String, Value>) -> String {
    let whole = serde_json::to_string(params).unwrap_or_default();
    if whole.len() <= SEALED_BYTES_MAX {
        return whole;
    }
    let short = |value: &Value| match value {
        Value::String(text) if text.len() > TEXT_BYTES_MAX => hashed(text),
        other => other.clone(),
    };
    let shorter: Map<String, Value> = params
        .iter()
        .map(|(name, value)| (name.clone(), short(value)))
        .collect();
    let shorter = serde_json::to_string(&shorter).unwrap_or_default();
    if shorter.len() <= SEALED_BYTES_MAX {
        return shorter;
    }
    hashed(&whole).to_string()
}

fn hashed(text: &str) -> Value {
    let hash = blake3::hash(text.as_bytes()).to_hex();
    serde_json::json!({ "blake3": hash.as_str(), "bytes": text.len() })
}

/// The parameters in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Params<'a> {
    /// For everybody who reads it.
    Clear(&'a str),
    /// For the ledger to seal.
    Seal(&'a str),
}

impl<'a> Params<'a> {
    /// The parameters of a call, as far as the machine writes them.
    #[must_use]
    pub fn of(audited: &'a str, paths: AuditPaths) -> Option<Self> {
        match paths {
            AuditPaths::Clear => Some(Self::Clear(audited)),
            AuditPaths::Sealed => Some(Self::Seal(audited)),
            AuditPaths::Off => None,
        }
    }
}

/// What a row tells of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Told<'a> {
    /// Name of the root, if the target is a file.
    pub root: Option<&'a str>,
    /// [`Commitments::of`] the parameters; absent where they were not read.
    pub params_commitment: Option<&'a str>,
    /// [`audited`] parameters.
    pub params: Option<Params<'a>>,
    /// The Reality Index, if the target was looked at.
    pub reality: Option<Score>,
    /// Boundary cost.
    pub torsion: f64,
    /// From arrival to the end of the tool.
    pub duration_us: u64,
    /// `success`, `error`, `denied`, `replayed`.
    pub outcome: &'a str,
    /// Stable code; empty on success.
    pub code: &'a str,
    /// How many refusals this row stands for; absent where it is one.
    pub count: Option<u64>,
}

/// The canonical JSON (RFC 8785: sorted keys, shortest numbers) of a row's payload.
#[must_use]
pub fn payload(told: &Told<'_>) -> String {
    let text = |s: &str| Value::from(s).to_string();
    // Display of f64 is the shortest form and writes 1.0 as 1, which is what RFC 8785 asks for in
    // the range of these scores.
    let (clear, seal) = match told.params {
        Some(Params::Clear(params)) => (Some(params), None),
        Some(Params::Seal(params)) => (None, Some(params)),
        None => (None, None),
    };
    let members = [
        ("code", text(told.code)),
        ("count", optional(told.count.map(|n| n.to_string()))),
        ("duration_us", told.duration_us.to_string()),
        ("outcome", text(told.outcome)),
        ("params", optional(clear.map(text))),
        (
            "params_commitment",
            optional(told.params_commitment.map(text)),
        ),
        (
            "reality_index",
            optional(told.reality.map(|s| s.value().to_string())),
        ),
        ("root", optional(told.root.map(text))),
        ("seal", optional(seal.map(text))),
        ("torsion_score", told.torsion.to_string()),
    ];
    let members: Vec<String> = members
        .into_iter()
        .filter(|(name, value)| !matches!(*name, "count" | "params" | "seal") || value != "null")
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{{}}}", members.join(","))
}

fn optional(value: Option<String>) -> String {
    value.unwrap_or_else(|| "null".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_canonical() {
        let told = Told {
            root: Some("w\"k"),
            params_commitment: Some("ab"),
            params: None,
            reality: Some(Score::EXISTS),
            torsion: 0.0,
            duration_us: 12,
            outcome: "denied",
            code: "not_a_file",
            count: None,
        };
        assert_eq!(
            payload(&told),
            r#"{"code":"not_a_file","duration_us":12,"outcome":"denied","params_commitment":"ab","reality_index":0.4,"root":"w\"k","torsion_score":0}"#
        );
        let many = Told {
            params: Params::of(r#"{"path":"a"}"#, AuditPaths::Sealed),
            reality: Some(Score::USABLE),
            count: Some(3),
            ..told
        };
        let parsed: Value = serde_json::from_str(&payload(&many)).unwrap();
        assert_eq!(parsed["count"], 3);
        assert_eq!(parsed["seal"], r#"{"path":"a"}"#);
        assert!(payload(&many).contains(r#""reality_index":1,"#));
        let clear = Told {
            params: Params::of(r#"{"path":"a"}"#, AuditPaths::Clear),
            ..many
        };
        let text = payload(&clear);
        assert!(text.contains(r#""params":"{\"path\":\"a\"}","params_commitment":"ab""#));
        assert!(!text.contains("seal"), "{text}");
        assert_eq!(Params::of("{}", AuditPaths::Off), None);
    }

    #[test]
    fn an_auditor_reads_all_parameters_that_are_short_and_the_hash_of_those_that_are_not() {
        let read = |params: Value| {
            let text = audited(params.as_object().unwrap());
            assert!(text.len() <= SEALED_BYTES_MAX);
            serde_json::from_str::<Value>(&text).unwrap()
        };
        let short = serde_json::json!({"path": "a.txt", "offset": u64::MAX});
        assert_eq!(read(short.clone()), short);
        let content = "x".repeat(5000);
        let long = read(serde_json::json!({"path": "a.txt", "content": content}));
        assert_eq!(
            (&long["path"], &long["content"]["bytes"]),
            (&"a.txt".into(), &5000.into())
        );
        let hash = blake3::hash(content.as_bytes()).to_hex();
        assert_eq!(long["content"]["blake3"], hash.as_str());
        let many: Map<String, Value> = (0..500).map(|n| (n.to_string(), n.into())).collect();
        assert!(read(Value::Object(many))["bytes"].as_u64() > Some(1024));
    }

    #[test]
    fn commitments_differ_by_key_and_by_parameters() {
        let (a, b) = (Commitments::new().unwrap(), Commitments::new().unwrap());
        let params = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        let one = params(r#"{"path":"a","root":"w"}"#);
        assert_eq!(a.of(&one), a.of(&params(r#"{"root":"w","path":"a"}"#)));
        assert_ne!(a.of(&one), a.of(&params(r#"{"root":"w","path":"b"}"#)));
        assert_ne!(a.of(&one), b.of(&one));
    }
}
