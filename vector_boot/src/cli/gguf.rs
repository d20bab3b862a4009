//! `vector_boot gguf`: what a GGUF file holds, and the default system model as a file.
//!
//! Owns: the JSON shape of `docs/gguf.md` and the exit codes: 0 accepted, 1 refused or unreadable
//! with one line on stderr, 2 wrong words. Never here: rules of the format (`gguf` has them), a copy
//! of the file (it is mapped; of a large one only the part that may hold the header).
//! Start with [`main`].

use gguf::{Array, GgufError, HEADER_BYTES_MAX, Index, Tensor, Text, Value};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::ffi::OsString;
use std::fmt;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: vector_boot gguf inspect FILE [--json] [--full]
       vector_boot gguf default OUT

inspect  checks a GGUF file; prints its metadata and tensors
         --json  one JSON object on one line
         --full  long arrays and strings whole, not their lengths alone
default  writes the default system model; the same bytes everywhere
";

/// Longer arrays are shown by their length: tokenizers have tens of thousands of elements.
const ARRAY_SHOWN_MAX: u64 = 64;
/// Longer strings are shown by their length: the longest chat templates take some tens of KiB.
const STRING_SHOWN_MAX: usize = 1 << 20;
/// Characters of a string in the listing for people.
const STRING_LISTED_CHARS: usize = 60;
/// Output leaves in pieces of this size.
const OUTPUT_BYTES: usize = 64 << 10;

/// How much of long values is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Cut,
    Full,
}

/// For whom the output is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    People,
    Json,
}

enum Command {
    Help,
    Inspect {
        file: PathBuf,
        form: Form,
        extent: Extent,
    },
    Default {
        out: PathBuf,
    },
}

/// Runs the role over the words behind its name.
pub fn main(words: &[OsString]) -> ExitCode {
    let command = match parse_words(words) {
        Ok(command) => command,
        Err(problem) => {
            // Nothing is left to tell when stderr is closed.
            let _ = write!(io::stderr(), "vector_boot gguf: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let outcome = match command {
        Command::Help => print(|out| out.write_all(USAGE.as_bytes())),
        Command::Inspect { file, form, extent } => inspect(&file, form, extent),
        Command::Default { out } => {
            std::fs::write(&out, neural::default_model()).map_err(|error| failure(&out, &error))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            // As above.
            let _ = writeln!(io::stderr(), "vector_boot gguf: {line}");
            ExitCode::FAILURE
        }
    }
}

fn parse_words(words: &[OsString]) -> Result<Command, String> {
    let (mut form, mut extent) = (Form::People, Extent::Cut);
    let mut operands: Vec<&OsString> = Vec::new();
    let mut options_ended = false;
    for word in words {
        match word.to_str() {
            Some("--") if !options_ended => options_ended = true,
            Some("--help" | "-h") if !options_ended => return Ok(Command::Help),
            Some("--json") if !options_ended => form = Form::Json,
            Some("--full") if !options_ended => extent = Extent::Full,
            Some(option) if !options_ended && option.len() > 1 && option.starts_with('-') => {
                return Err(format!("unknown option {}", escaped(option)));
            }
            _ => operands.push(word),
        }
    }
    match operands.as_slice() {
        [verb, file] if *verb == "inspect" => Ok(Command::Inspect {
            file: file.into(),
            form,
            extent,
        }),
        [verb, out] if *verb == "default" && form == Form::People && extent == Extent::Cut => {
            Ok(Command::Default { out: out.into() })
        }
        [verb, ..] if *verb == "inspect" => Err("inspect takes one FILE".into()),
        [verb, ..] if *verb == "default" => Err("default takes one OUT and no options".into()),
        [verb, ..] => Err(format!("unknown verb {}", escaped(&verb.to_string_lossy()))),
        [] => Err("no verb named".into()),
    }
}

fn inspect(file: &Path, form: Form, extent: Extent) -> Result<(), String> {
    let (mapping, total) = sys::mapping::Mapping::open_prefix(file, HEADER_BYTES_MAX)
        .map_err(|error| failure(file, &error))?;
    let index =
        Index::parse_head(&mapping, total).map_err(|error: GgufError| failure(file, &error))?;
    print(|out| match form {
        Form::Json => write_json(&index, extent, out),
        Form::People => write_listing(&index, extent, out),
    })
}

/// Writes to stdout. A reader that went away has seen what it wanted; any other failure is one.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), String> {
    let mut out = BufWriter::with_capacity(OUTPUT_BYTES, io::stdout().lock());
    let written = write(&mut out).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("write to stdout: {error}"))
        }
        _ => {
            // Keeps the buffer's drop from writing again after a failure.
            let _ = out.into_parts();
            Ok(())
        }
    }
}

fn failure(file: &Path, cause: &dyn fmt::Display) -> String {
    format!("{}: {cause}", escaped(&file.to_string_lossy()))
}

/// Keeps a name from the user on its line.
fn escaped(name: &str) -> String {
    name.chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect()
}

fn write_json(index: &Index<'_>, extent: Extent, mut out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer(&mut out, &Report { index, extent }).map_err(io::Error::from)?;
    out.write_all(b"\n")
}

/// The whole object; its parts are written as they are walked.
struct Report<'a> {
    index: &'a Index<'a>,
    extent: Extent,
}

impl Serialize for Report<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let index = self.index;
        let mut report = serializer.serialize_map(Some(5))?;
        report.serialize_entry("version", &index.version())?;
        report.serialize_entry("alignment", &index.alignment())?;
        report.serialize_entry("data_offset", &index.data_offset())?;
        report.serialize_entry("metadata", &Metadata(self))?;
        report.serialize_entry("tensors", &Tensors(index))?;
        report.end()
    }
}

struct Metadata<'a>(&'a Report<'a>);

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Report { index, extent } = *self.0;
        serializer.collect_map(
            index
                .metadata()
                .map(|(key, value)| (key, Shown { value, extent })),
        )
    }
}

struct Tensors<'a>(&'a Index<'a>);

impl Serialize for Tensors<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.tensors().map(Row))
    }
}

struct Row<'a>(Tensor<'a>);

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tensor = &self.0;
        let mut row = serializer.serialize_map(Some(5))?;
        row.serialize_entry("name", tensor.name)?;
        row.serialize_entry("type", tensor.ggml_type.name())?;
        row.serialize_entry("shape", tensor.shape())?;
        row.serialize_entry("offset", &tensor.offset)?;
        row.serialize_entry("bytes", &tensor.bytes)?;
        row.end()
    }
}

/// A metadata value as JSON.
struct Shown<'a> {
    value: Value<'a>,
    extent: Extent,
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.value {
            Value::U8(n) => serializer.serialize_u8(*n),
            Value::I8(n) => serializer.serialize_i8(*n),
            Value::U16(n) => serializer.serialize_u16(*n),
            Value::I16(n) => serializer.serialize_i16(*n),
            Value::U32(n) => serializer.serialize_u32(*n),
            Value::I32(n) => serializer.serialize_i32(*n),
            Value::U64(n) => serializer.serialize_u64(*n),
            Value::I64(n) => serializer.serialize_i64(*n),
            Value::Bool(truth) => serializer.serialize_bool(*truth),
            Value::F32(n) if n.is_finite() => serializer.serialize_f32(*n),
            Value::F64(n) if n.is_finite() => serializer.serialize_f64(*n),
            Value::F32(n) => serializer.serialize_str(not_finite(f64::from(*n))),
            Value::F64(n) => serializer.serialize_str(not_finite(*n)),
            Value::String(text) => self.string(*text, serializer),
            Value::Array(array) => self.array(array, serializer),
        }
    }
}

impl Shown<'_> {
    fn string<S: Serializer>(&self, text: Text<'_>, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = text.as_bytes();
        if self.extent == Extent::Cut && bytes.len() > STRING_SHOWN_MAX {
            let mut cut = serializer.serialize_map(Some(2))?;
            cut.serialize_entry("type", "string")?;
            cut.serialize_entry("length", &bytes.len())?;
            return cut.end();
        }
        match text.to_str() {
            Some(valid) => serializer.serialize_str(valid),
            None => serializer.collect_str(&Lossy(bytes)),
        }
    }

    fn array<S: Serializer>(&self, array: &Array<'_>, serializer: S) -> Result<S::Ok, S::Error> {
        if self.extent == Extent::Cut && array.len() > ARRAY_SHOWN_MAX {
            let mut cut = serializer.serialize_map(Some(3))?;
            cut.serialize_entry("type", "array")?;
            cut.serialize_entry("of", array.element().name())?;
            cut.serialize_entry("length", &array.len())?;
            return cut.end();
        }
        let extent = self.extent;
        serializer.collect_seq(array.iter().map(|value| Shown { value, extent }))
    }
}

/// JSON has no such numbers; these are the names that JavaScript and Python know them by.
fn not_finite(n: f64) -> &'static str {
    match n {
        n if n.is_nan() => "NaN",
        n if n > 0.0 => "Infinity",
        _ => "-Infinity",
    }
}

/// Bytes that are not all UTF-8, with U+FFFD for what is not; written piece by piece, never copied whole.
struct Lossy<'a>(&'a [u8]);

impl fmt::Display for Lossy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                f.write_str("\u{fffd}")?;
            }
        }
        Ok(())
    }
}

fn write_listing(index: &Index<'_>, extent: Extent, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "GGUF v{}: {} keys, {} tensors, alignment {}, data from byte {} of {}",
        index.version(),
        index.key_count(),
        index.tensor_count(),
        index.alignment(),
        index.data_offset(),
        index.file_bytes()
    )?;
    for (key, value) in index.metadata() {
        write!(out, "{} = ", key.escape_default())?;
        list_value(&value, extent, out)?;
        writeln!(out)?;
    }
    for tensor in index.tensors() {
        let shape: Vec<String> = tensor.shape().iter().map(u64::to_string).collect();
        writeln!(
            out,
            "{:<40} {:<8} [{}] offset={} bytes={}",
            tensor.name.escape_debug().to_string(),
            tensor.ggml_type.name(),
            shape.join(", "),
            tensor.offset,
            tensor.bytes
        )?;
    }
    Ok(())
}

fn list_value(value: &Value<'_>, extent: Extent, out: &mut dyn Write) -> io::Result<()> {
    match value {
        Value::String(text) if extent == Extent::Cut => {
            let shown: String = Lossy(
                text.as_bytes()
                    .get(..STRING_LISTED_CHARS * 4)
                    .unwrap_or(text.as_bytes()),
            )
            .to_string()
            .chars()
            .take(STRING_LISTED_CHARS)
            .collect();
            write!(
                out,
                "\"{}\" ({} bytes)",
                shown.escape_debug(),
                text.as_bytes().len()
            )
        }
        Value::Array(array) if extent == Extent::Cut && array.len() > ARRAY_SHOWN_MAX => {
            write!(out, "{} of {}", array.len(), array.element().name())
        }
        // JSON is one line and escapes what a terminal would act on.
        _ => {
            let shown = Shown {
                value: value.clone(),
                extent,
            };
            serde_json::to_writer(out, &shown).map_err(io::Error::from)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gguf::{GgmlType, ValueType, writer::Writer};

    fn json_of(file: &[u8], extent: Extent) -> serde_json::Value {
        let index = Index::parse(file).unwrap();
        let mut out = Vec::new();
        write_json(&index, extent, &mut out).unwrap();
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        serde_json::from_slice(&out).unwrap()
    }

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn json_has_the_documented_shape() {
        let file = Writer::new()
            .text("general.architecture", "x\"\n")
            .u32("n", 7)
            .tensor("w", GgmlType::Q4_1, &[64, 2], vec![0; 80])
            .finish()
            .unwrap();
        let index = Index::parse(&file).unwrap();
        let expected = serde_json::json!({
            "version": 3,
            "alignment": 32,
            "data_offset": index.data_offset(),
            "metadata": {"general.architecture": "x\"\n", "n": 7},
            "tensors": [{"name": "w", "type": "Q4_1", "shape": [64, 2], "offset": index.data_offset(), "bytes": 80}],
        });
        assert_eq!(json_of(&file, Extent::Cut), expected);
    }

    #[test]
    fn numbers_that_json_lacks_are_strings() {
        let file = Writer::new()
            .f32s(
                "floats",
                &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.5],
            )
            .raw("double", ValueType::F64, &f64::NAN.to_le_bytes())
            .raw("large", ValueType::U64, &u64::MAX.to_le_bytes())
            .finish()
            .unwrap();
        let metadata = &json_of(&file, Extent::Cut)["metadata"];
        assert_eq!(
            metadata["floats"],
            serde_json::json!(["NaN", "Infinity", "-Infinity", -1.5])
        );
        assert_eq!(metadata["double"], "NaN");
        assert_eq!(metadata["large"], u64::MAX);
    }

    #[test]
    fn long_values_are_cut_to_their_length_unless_full() {
        let long = "a".repeat(STRING_SHOWN_MAX + 1);
        let file = Writer::new()
            .f32s("a", &[0.0; 65])
            .text("s", &long)
            .finish()
            .unwrap();
        let cut = json_of(&file, Extent::Cut);
        assert_eq!(
            cut["metadata"]["a"],
            serde_json::json!({"type": "array", "of": "f32", "length": 65})
        );
        assert_eq!(
            cut["metadata"]["s"],
            serde_json::json!({"type": "string", "length": long.len()})
        );
        let full = json_of(&file, Extent::Full);
        assert_eq!(full["metadata"]["a"].as_array().unwrap().len(), 65);
        assert_eq!(full["metadata"]["s"], long.as_str());
    }

    #[test]
    fn text_that_is_not_utf8_stays_valid_json() {
        let mut value = 3u64.to_le_bytes().to_vec();
        value.extend(b"a\xffb");
        let file = Writer::new()
            .raw("s", ValueType::String, &value)
            .finish()
            .unwrap();
        assert_eq!(json_of(&file, Extent::Cut)["metadata"]["s"], "a\u{fffd}b");
        assert_eq!(json_of(&file, Extent::Full)["metadata"]["s"], "a\u{fffd}b");
    }

    #[test]
    fn nested_arrays_are_nested_in_json() {
        // Two arrays of u8: [1, 2] and [].
        let mut elements = Vec::new();
        for values in [&[1u8, 2][..], &[]] {
            elements.extend(0u32.to_le_bytes());
            elements.extend((values.len() as u64).to_le_bytes());
            elements.extend(values);
        }
        let file = Writer::new()
            .array("a", ValueType::Array, 2, &elements)
            .finish()
            .unwrap();
        assert_eq!(
            json_of(&file, Extent::Cut)["metadata"]["a"],
            serde_json::json!([[1, 2], []])
        );
    }

    #[test]
    fn the_listing_keeps_one_line_a_key_and_a_tensor() {
        let file = Writer::new()
            .text("s", "a\nb\u{1b}[2J")
            .texts("t", &["x\n"])
            .f32_tensor("n\nm", &[1], &[0.0])
            .finish()
            .unwrap();
        let index = Index::parse(&file).unwrap();
        for extent in [Extent::Cut, Extent::Full] {
            let mut out = Vec::new();
            write_listing(&index, extent, &mut out).unwrap();
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text.lines().count(), 4, "{text}");
            assert!(!text.contains('\u{1b}'));
        }
    }

    #[test]
    fn wrong_words_are_named() {
        for (given, named) in [
            (&[][..], "no verb"),
            (&["inspect"], "one FILE"),
            (&["inspect", "a", "b"], "one FILE"),
            (&["inspect", "a", "--jsno"], "--jsno"),
            (&["default", "a", "--json"], "no options"),
            (&["show", "a"], "show"),
        ] {
            let problem = parse_words(&words(given)).err().unwrap();
            assert!(problem.contains(named), "{given:?}: {problem}");
        }
        let dashed = parse_words(&words(&["inspect", "--", "--json"]))
            .ok()
            .unwrap();
        assert!(
            matches!(dashed, Command::Inspect { file, form: Form::People, .. } if file == Path::new("--json"))
        );
    }
}
