//! Commands that put another package in the place of the running one, and back.

use super::{Command, DONE, FAILED, Failure, Group, Out, Outcome};
use crate::console::context::Context;
use crate::console::text;
use crate::console::words::Words;
use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use wire::upgrade::{End, Rollback, Step, Upgrade, UpgradeGet, UpgradeStatus};

/// Between two looks: two beats.
const STEP: Duration = Duration::from_millis(200);
/// How long PID 1 may be away: it becomes another program, on an emulated machine.
const AWAY_MAX: Duration = Duration::from_secs(60);

/// The rows of this group.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "upgrade",
        alias: "",
        group: Group::Machine,
        usage: "[FILE [--keep]]",
        help: "Puts another package in the place of the running one, service by service. It goes back by \
               itself if anything of it fails. FILE is a file of this process, /dev/NAME, the name of a \
               partition, or ROOT/PATH below a root of the gateway. With --keep it is also there after the \
               next boot. Alone it says how the last one ended.",
        completes: &[],
        changes: true,
        run: upgrade,
    },
    Command {
        name: "rollback",
        alias: "",
        group: Group::Machine,
        usage: "",
        help: "Goes back to the package before the last upgrade, the same way.",
        completes: &[],
        changes: true,
        run: rollback,
    },
];

/// What of an answer is told.
struct Look {
    step: Step,
    end: End,
    value: Value,
    lines: Vec<String>,
}

fn upgrade(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    let words = Words::parse(words, &["--keep"], &[], 1)?;
    let keep = words.flag("--keep");
    let Some(file) = words.argument(0) else {
        if keep {
            return Err(Failure::usage("FILE is missing"));
        }
        let look = look(context)?;
        out.either(&look.value, &look.lines)?;
        return Ok(DONE);
    };
    let keeps = if keep {
        "for good"
    } else {
        "until the next boot"
    };
    if !context.attention.confirm(&format!(
        "run {file} in place of the running package, {keeps}?"
    )) {
        out.either(&json!({"begun": false}), &["not begun".to_owned()])?;
        return Ok(FAILED);
    }
    let place = file;
    let begun = match open(file)? {
        Some(package) => context.init()?.act_with(&Upgrade { place, keep }, &package),
        None => context.init()?.act(&Upgrade { place, keep }),
    };
    begun?;
    follow(context, out)
}

fn rollback(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    Words::parse(words, &[], &[], 0)?;
    if !context.attention.confirm("go back to the package before?") {
        out.either(&json!({"begun": false}), &["not begun".to_owned()])?;
        return Ok(FAILED);
    }
    context.init()?.act(&Rollback)?;
    follow(context, out)
}

/// The file, if this process sees one of that name; PID 1 looks for any other name itself.
fn open(file: &str) -> Result<Option<OwnedFd>, Failure> {
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
    /// Opening a FIFO does not wait for its writer.
    const O_NONBLOCK: i32 = 0o4000;
    let opened = std::fs::File::options()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(file);
    let Ok(opened) = opened else {
        return Ok(None);
    };
    let wrong = |e: std::io::Error| Failure::failed(format!("{file}: {e}"));
    let kind = opened.metadata().map_err(wrong)?.file_type();
    if kind.is_file() || kind.is_block_device() {
        Ok(Some(opened.into()))
    } else {
        Err(Failure::usage(format!(
            "{file}: limit a regular file or a block device"
        )))
    }
}

/// Tells each step until it is over.
fn follow(context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    let mut told = Vec::new();
    let mut answered = Instant::now();
    loop {
        let looked = match look(context) {
            Ok(looked) => looked,
            Err(_) if answered.elapsed() < AWAY_MAX => {
                context.attention.pause(STEP);
                continue;
            }
            Err(e) => return Err(e),
        };
        answered = Instant::now();
        if looked.step == Step::Idle {
            out.either(&looked.value, &looked.lines)?;
            let well = matches!(looked.end, End::UntilReboot | End::Kept);
            return Ok(if well { DONE } else { FAILED });
        }
        if !out.is_json() && looked.lines != told {
            out.lines(&looked.lines)?;
            out.flush()?;
            told = looked.lines;
        }
        if context.attention.pause(STEP) {
            out.either(
                &looked.value,
                &["goes on without you: upgrade tells how".to_owned()],
            )?;
            return Ok(FAILED);
        }
    }
}

fn look(context: &Context<'_>) -> Result<Look, Failure> {
    context.init()?.ask(&UpgradeGet, |frame| {
        let s = frame.body::<UpgradeStatus<'_>>()?;
        Ok(Look {
            step: s.step,
            end: s.end,
            value: value(&s),
            lines: lines(&s),
        })
    })
}

fn value(s: &UpgradeStatus<'_>) -> Value {
    json!({
        "step": s.step.as_str(), "service": s.service, "left_ns": s.left_ns, "from": s.from,
        "to": s.to, "end": s.end.as_str(), "reason": s.reason, "before": s.before,
        "count": s.count, "until_reboot": s.until_reboot,
    })
}

fn lines(s: &UpgradeStatus<'_>) -> Vec<String> {
    if s.step != Step::Idle {
        let service = match s.service {
            "" => String::new(),
            name => format!(" {name}"),
        };
        // Whole tens, so that it is not told twice a second.
        let left = match s.left_ns / 10_000_000_000 {
            0 => String::new(),
            tens => format!(", {} left", text::age(tens * 10_000_000_000)),
        };
        return vec![format!("{}{service}{left}", s.step.as_str())];
    }
    let mut lines = vec![match s.end {
        End::None => "no upgrade since the boot".to_owned(),
        end => format!("{}: {}", end.as_str(), s.to),
    }];
    if !s.reason.is_empty() {
        lines.push(format!("because: {}", s.reason));
    }
    if s.until_reboot {
        lines.push("this package runs until reboot".to_owned());
    }
    if !s.before.is_empty() {
        lines.push(format!("rollback goes to: {}", s.before));
    }
    lines
}
