//! Commands about the mapped package: tensors, and the sensor page.

use super::services::follow_until;
use super::{Command, Completes, DONE, Failure, Group, Out, Outcome};
use crate::console::context::{Context, Site};
use crate::console::text::{self, Table};
use crate::console::words::{Words, glob};
use gguf::{Index, Tensor};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use sys::mapping::Mapping;
use sys::seqlock::Reader;
use wire::sensors::{
    BODY_WORDS, CONTROL_NAMES, MAGIC, REGISTERS, Register, Snapshot, VERSION_WORD,
};

/// First values of a tensor that are shown.
const VALUES_SHOWN: usize = 8;
/// Between two looks at the page for another beat: the shortest period that PID 1 beats with.
const WATCH_STEP: Duration = Duration::from_millis(25);
/// Names offered for completion; more would not fit a screen.
const NAMES_MAX: usize = 2000;

/// The rows of this group.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "tensors",
        alias: "",
        group: Group::Model,
        usage: "[GLOB]",
        help: "The model's tensors: name, type, shape, size. GLOB chooses names, as blk.0.* or \
               *attn_?.weight.",
        completes: &[Completes::Tensor],
        changes: false,
        run: tensors,
    },
    Command {
        name: "tensor",
        alias: "",
        group: Group::Model,
        usage: "NAME",
        help: "One tensor's shape, type, size and values. Smallest, largest and mean value, the first values; reads \
               the whole tensor from where it is mapped.",
        completes: &[Completes::Tensor],
        changes: false,
        run: tensor,
    },
    Command {
        name: "sensors",
        alias: "hw",
        group: Group::Model,
        usage: "[GLOB] [--watch [--for SECONDS]]",
        help: "The sensor page: what PID 1 measures at each beat (hw.mmio). A register that nothing \
               feeds shows -. --watch writes a line a beat until it is interrupted; with --json a file of \
               these lines is a trace that Python's evolution.trace reads.",
        completes: &[],
        changes: false,
        run: sensors,
    },
];

/// Maps the package and hands its index to `read`.
fn with_index<T>(
    site: &Site,
    read: impl FnOnce(&Index<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let package = site.descriptor("rts")?;
    let mapping = Mapping::of_whole_fd(&package)
        .map_err(|e| Failure::failed(format!("map the package: {e}")))?;
    // As an ordinary process the model may be given without a package around it.
    let window = if mapping.starts_with(&gguf::MAGIC) {
        &mapping[..]
    } else {
        let package = rts::Package::parse(&mapping);
        package
            .map_err(|e| Failure::failed(format!("package: {e}")))?
            .tensor_bytes()
    };
    let index = Index::parse(window).map_err(|e| Failure::failed(format!("model: {e}")))?;
    read(&index)
}

fn shape(tensor: &Tensor<'_>) -> String {
    let dimensions: Vec<String> = tensor.shape().iter().map(u64::to_string).collect();
    format!("[{}]", dimensions.join(", "))
}

fn described(t: &Tensor<'_>) -> Value {
    json!({"name": t.name, "type": t.ggml_type.name(), "shape": t.shape(), "bytes": t.bytes})
}

fn tensors(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    let words = Words::parse(words, &[], &[], 1)?;
    let pattern = words.argument(0).unwrap_or("*");
    with_index(context, |index| {
        let found: Vec<Tensor<'_>> = index.tensors().filter(|t| glob(pattern, t.name)).collect();
        let bytes: u64 = found.iter().map(|t| t.bytes).sum();
        if out.is_json() {
            let values: Vec<Value> = found.iter().map(described).collect();
            let all = index.tensor_count();
            out.value(
                &json!({"tensors": values, "count": found.len(), "bytes": bytes, "all": all}),
            )?;
            return Ok(DONE);
        }
        let mut table = Table::new(&["TENSOR", "TYPE", "SHAPE", ">SIZE"]);
        for t in &found {
            table.row([
                t.name.to_owned(),
                t.ggml_type.name().to_owned(),
                shape(t),
                text::bytes(t.bytes),
            ]);
        }
        if !found.is_empty() {
            out.lines(&table.lines())?;
        }
        out.line(&format!(
            "{} of {} tensors, {}",
            found.len(),
            index.tensor_count(),
            text::bytes(bytes)
        ))?;
        Ok(DONE)
    })
}

fn tensor(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    let words = Words::parse(words, &[], &[], 1)?;
    let name = words.required(0, "NAME")?;
    with_index(context, |index| {
        let none = || {
            Failure::failed(format!(
                "no tensor \"{name}\" among {}",
                index.tensor_count()
            ))
        };
        let t = index.tensor(name).ok_or_else(none)?;
        let data = index
            .data(&t)
            .ok_or_else(|| Failure::failed("its bytes lie outside the package"))?;
        let mut value = described(&t);
        let mut lines = text::pairs(&[
            ("tensor", t.name.to_owned()),
            ("type", t.ggml_type.name().to_owned()),
            ("shape", shape(&t)),
            ("values", t.values().to_string()),
            ("bytes", size(t.bytes)),
        ]);
        figures(&t, data, &mut value, &mut lines);
        out.either(&value, &lines)?;
        Ok(DONE)
    })
}

/// `1.5 MiB, 1572864 exactly`; small sizes need no second form.
fn size(bytes: u64) -> String {
    match text::bytes(bytes) {
        shown if bytes < 1024 => shown,
        shown => format!("{shown}, {bytes} exactly"),
    }
}

/// Adds the figures over the values, or why there are none.
fn figures(t: &Tensor<'_>, data: &[u8], value: &mut Value, lines: &mut Vec<String>) {
    let stats = neural::dequant::stats(t.ggml_type, data);
    let Some(fields) = value.as_object_mut() else {
        return;
    };
    match stats {
        Ok(stats) => {
            let first: Vec<f32> = stats.first().iter().copied().take(VALUES_SHOWN).collect();
            // JSON has no NaN: serde_json writes null for what is no number.
            fields.insert("min".into(), json!(stats.min));
            fields.insert("max".into(), json!(stats.max));
            fields.insert("mean".into(), json!(stats.mean));
            fields.insert("first".into(), json!(first));
            let shown: Vec<String> = first.iter().map(|v| format!("{v:.6}")).collect();
            lines.extend(text::pairs(&[
                ("min   ", format!("{:.6}", stats.min)),
                ("max   ", format!("{:.6}", stats.max)),
                ("mean  ", format!("{:.8}", stats.mean)),
            ]));
            for (at, line) in text::wrap(&shown.join(" "), text::WIDTH - 8, "")
                .iter()
                .enumerate()
            {
                let label = if at == 0 { "first" } else { "" };
                lines.push(format!("{label:<6}  {line}"));
            }
        }
        Err(e) => {
            fields.insert("unread".into(), json!(e.to_string()));
            lines.push(format!("values are not shown: {e}"));
        }
    }
}

fn sensors(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    let words = Words::parse(words, &["--watch"], &["--for"], 1)?;
    let pattern = words.argument(0).unwrap_or("*");
    let wrong = |what: String| Failure::failed(format!("sensor page: {what}"));
    let page = context.descriptor("sensors")?;
    let reader = Reader::over(&page, MAGIC).map_err(|e| wrong(e.to_string()))?;
    let read = || {
        let mut words = [0u64; BODY_WORDS];
        let read = reader.read(VERSION_WORD, &mut words);
        read.map_err(|e| wrong(e.to_string()))?;
        Ok::<_, Failure>(Snapshot::unpack(&words))
    };
    let first = read()?;
    if !words.flag("--watch") {
        if words.value("--for").is_some() {
            return Err(Failure::usage("--for needs --watch"));
        }
        out.either(&value(&first, pattern), &lines(&first, pattern))?;
        return Ok(DONE);
    }
    let until = follow_until(&words, context)?;
    let mut shown = first.beat;
    show_beat(&first, pattern, out)?;
    while until.is_none_or(|until| Instant::now() < until) && !context.attention.wait(WATCH_STEP) {
        let now = read()?;
        if now.beat != shown {
            shown = now.beat;
            show_beat(&now, pattern, out)?;
        }
    }
    Ok(DONE)
}

/// One line a beat: what is known of the chosen registers; as JSON the same as without `--watch`.
fn show_beat(snapshot: &Snapshot, pattern: &str, out: &mut Out<'_>) -> Result<(), Failure> {
    let known = chosen(snapshot, pattern).filter(|(_, value)| !value.is_nan());
    let known = known.map(|(r, value)| format!("{}={}", r.name, reading(r.unit, value)));
    let line = format!(
        "{:>8}  {}",
        snapshot.beat,
        known.collect::<Vec<_>>().join(" ")
    );
    out.either(&value(snapshot, pattern), &[line])?;
    out.flush()
}

/// Registers of these names with their values.
fn chosen<'p>(
    snapshot: &Snapshot,
    pattern: &'p str,
) -> impl Iterator<Item = (&'static Register, f32)> + use<'p> {
    let named = REGISTERS.iter().zip(snapshot.registers);
    named.filter(move |(r, _)| r.name != "reserved" && glob(pattern, r.name))
}

fn value(snapshot: &Snapshot, pattern: &str) -> Value {
    let decisions = &snapshot.decisions;
    let registers = chosen(snapshot, pattern).map(|(r, value)| (r.name.to_owned(), json!(value)));
    let controls = CONTROL_NAMES.iter().zip(decisions.settings);
    let controls = controls.map(|(name, setting)| ((*name).to_owned(), json!(setting)));
    json!({
        "beat": snapshot.beat, "registers": registers.collect::<serde_json::Map<_, _>>(),
        "raised": decisions.raised, "generation": decisions.generation,
        "controls": controls.collect::<serde_json::Map<_, _>>(), "wishes": decisions.wishes,
        "journal": {"seq": decisions.journal_seq, "head": text::hex(&decisions.journal_head)},
    })
}

fn lines(snapshot: &Snapshot, pattern: &str) -> Vec<String> {
    let mut table = Table::new(&["REGISTER", ">VALUE", "UNIT"]);
    for (register, value) in chosen(snapshot, pattern) {
        table.row([
            register.name.to_owned(),
            reading(register.unit, value),
            unit(register.unit),
        ]);
    }
    let mut lines = table.lines();
    let settings = snapshot.decisions.settings;
    // Zero is no period: nothing was decided yet.
    let decides = settings.iter().any(|setting| *setting != 0.0);
    if pattern == "*" && decides {
        let settings = CONTROL_NAMES.iter().zip(settings);
        let settings = settings.map(|(name, setting)| format!("{name}={setting}"));
        let text = format!("controls: {}", settings.collect::<Vec<_>>().join(" "));
        lines.extend(text::wrap(&text, text::WIDTH, "  "));
    }
    lines
}

/// A register's value: whole numbers whole, bytes with their unit.
fn reading(unit: &str, value: f32) -> String {
    match unit {
        _ if value.is_nan() => "-".to_owned(),
        // A count of bytes is not negative and far below 2^64; the cast saturates.
        "bytes" => text::bytes(value as u64),
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.3}"),
    }
}

fn unit(unit: &str) -> String {
    if unit == "bytes" {
        String::new()
    } else {
        unit.to_owned()
    }
}

/// Names of the tensors, for completion.
pub fn names(site: &Site) -> Vec<String> {
    // Completion without a model has nothing to offer, and says nothing.
    with_index(site, |index| {
        Ok(index
            .tensors()
            .take(NAMES_MAX)
            .map(|t| t.name.to_owned())
            .collect())
    })
    .unwrap_or_default()
}
