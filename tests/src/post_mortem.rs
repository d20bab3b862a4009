//! What can still be learnt of a machine that does not answer: from QEMU, from the host, and from the machine's kernel.
//!
//! Three are asked, since each can be the one that stands still: QEMU whether the processors run at all and where, the
//! host what QEMU's threads do, and the kernel, by an interrupt that it cannot mask, what its processors and tasks are at.
//! The last ends the machine, and says nothing where a processor hangs with the scheduler's locks.
//! Never fails: what cannot be had is said. Start with [`of`].

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::qmp::Qmp;
use crate::screen::Screen;

/// Between two looks, which differ where something moves: ten beats of PID 1 and more ticks of any kernel.
const BETWEEN: Duration = Duration::from_secs(1);
/// For the kernel to print its state; it takes about 10 s under emulation on a busy host.
const KERNEL_LIMIT: Duration = Duration::from_secs(60);
/// Of what the kernel says: its processors, and those tasks of about a hundred that are not idle threads of its own.
const KERNEL_BYTES_MAX: usize = 96 * 1024;

/// Everything, for the text of a failure; the machine has ended behind it if its kernel still takes interrupts.
pub fn of(control: &Path, serial: &Screen) -> String {
    let mut text = looks(control);
    let seen = serial.text().len();
    let interrupted = Qmp::try_connect(control).and_then(|mut qmp| {
        text.push_str(&monitor(&mut qmp, "info lapic", 0)?);
        qmp.ask(&json!({"execute": "inject-nmi"}))
    });
    let ended = match interrupted {
        Ok(_) if serial.ends_within(KERNEL_LIMIT) => "ends",
        Ok(_) => "goes on",
        // Arm's machine has no such interrupt.
        Err(error) => {
            _ = writeln!(text, "no interrupt: {error}");
            return text;
        }
    };
    let said = serial.text();
    let said = of_weight(said.get(seen..).unwrap_or_default());
    _ = writeln!(text, "the kernel, interrupted, says and {ended}:\n{said}");
    text
}

/// What QEMU and the host say, twice; the machine goes on.
pub fn looks(control: &Path) -> String {
    let mut text = String::from("--- post-mortem\n");
    for look in 0..2 {
        if look > 0 {
            std::thread::sleep(BETWEEN);
        }
        match Qmp::try_connect(control).and_then(|mut qmp| processors(&mut qmp)) {
            Ok(said) => text.push_str(&said),
            Err(error) => _ = writeln!(text, "QEMU does not answer: {error}"),
        }
        text.push_str(&threads(control));
    }
    text
}

/// Whether the machine runs, and where each of its processors is.
fn processors(qmp: &mut Qmp) -> std::io::Result<String> {
    let state = qmp.ask(&json!({"execute": "query-status"}))?;
    let mut text = format!("state: {}\n", state["status"]);
    let all = qmp.ask(&json!({"execute": "query-cpus-fast"}))?;
    for (index, _) in all.as_array().into_iter().flatten().enumerate() {
        let registers = monitor(qmp, "info registers", index)?;
        // Where it is and whether it is halted; on Arm the program counter stands in the first line.
        let wanted = |line: &&str| {
            ["RIP=", "RSP=", "PC="]
                .iter()
                .any(|name| line.contains(name))
        };
        for line in registers.lines().filter(wanted) {
            _ = writeln!(text, "processor {index}: {}", line.trim());
        }
        // What it executes, and the words of its stack, among them where it returns to; Arm's has other names.
        for (what, at) in [("x /6i", "$rip"), ("x /24gx", "$rsp")] {
            text.push_str(&monitor(qmp, &format!("{what} {at}"), index)?);
        }
    }
    Ok(text)
}

/// An answer of QEMU's monitor for people, about one processor.
fn monitor(qmp: &mut Qmp, command: &str, processor: usize) -> std::io::Result<String> {
    let words = json!({"command-line": command, "cpu-index": processor});
    let said = qmp.ask(&json!({"execute": "human-monitor-command", "arguments": words}))?;
    Ok(said.as_str().unwrap_or_default().replace('\r', ""))
}

/// What the host's kernel says of QEMU's threads: name, state, processor time in its ticks, and where each waits.
fn threads(control: &Path) -> String {
    let mut text = String::new();
    for task in tasks(control) {
        let read = |name: &str| fs::read_to_string(task.join(name)).unwrap_or_default();
        let stat = read("stat");
        // proc(5): the name is in parentheses and may have others in it; behind it state, and utime and stime 11 further.
        let (head, fields) = stat.rsplit_once(") ").unwrap_or_default();
        let fields: Vec<&str> = fields.split(' ').collect();
        let field = |at: usize| fields.get(at).copied().unwrap_or("?");
        _ = writeln!(
            text,
            "thread {head}): {} {}+{} in {}",
            field(0),
            field(11),
            field(12),
            read("wchan")
        );
    }
    text
}

/// The folders in `/proc` of the threads of the QEMU that has this control socket.
fn tasks(control: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let ours = |process: &PathBuf| {
        let words = fs::read(process.join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words);
        words.starts_with("qemu-system") && words.contains(&*control.to_string_lossy())
    };
    let all = entries(Path::new("/proc"));
    let found = all.into_iter().find(ours);
    found.map_or(Vec::new(), |process| entries(&process.join("task")))
}

/// What the kernel said without its own idle threads, and not more than the limit of it.
fn of_weight(said: &str) -> String {
    let mut kept = String::new();
    let mut idle = false;
    for line in said.lines() {
        if let Some((_, task)) = line.split_once("task:") {
            let has = |word: &str| task.split_whitespace().any(|w| w == word);
            // Children of kthreadd that wait for work.
            idle = has("ppid:2") && (has("state:I") || has("state:S"));
        } else if !line.contains("  ") {
            idle = false;
        }
        if !idle && kept.len() + line.len() < KERNEL_BYTES_MAX {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}
