//! The kernel's persistent store (pstore): what a kernel that panicked left for the next one.
//!
//! Read and emptied by the helper. A record is text: `Panic#2 Part1`, then lines of the kernel's log, each behind
//! `<level>[time]`. Start with [`read`].

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use sys::machine::{self, MountFlags};
use wire::why::Reason;

/// Where the kernel offers it.
const FOLDER: &str = "/sys/fs/pstore";
/// Records that are looked at; a store has a few.
const RECORDS_MAX: usize = 16;
/// Bytes of one record that are read: the kernel writes 10 KiB unless told otherwise.
const RECORD_BYTES_MAX: u64 = 64 * 1024;
/// Longest sentence that is handed on.
const SAID_BYTES_MAX: usize = 200;

/// What the watchdog says before it ends the machine: softdog with and without a panic, and the pretimeout.
const BITES: &[&str] = &[
    "Software Watchdog Timer expired",
    "softdog: Initiating system reboot",
    "watchdog pretimeout event",
];
const PANIC: &str = "Kernel panic - not syncing: ";

/// Finds the most telling record: `REASON the kernel's sentence`; empty if there is none.
///
/// # Errors
/// As `mount(2)` and `readdir(3)`.
pub fn read() -> io::Result<String> {
    let folder = Path::new(FOLDER);
    let flags = MountFlags {
        read_only: false,
        no_exec: true,
        no_dev: true,
    };
    const EBUSY: i32 = 16;
    match machine::mount_fs("pstore", folder, "pstore", flags, "") {
        // Mounted already.
        Err(e) if e.raw_os_error() != Some(EBUSY) => return Err(e),
        _ => {}
    }
    let mut found = String::new();
    for path in records(folder)? {
        let mut text = Vec::new();
        let whole = File::open(&path).and_then(|file| {
            file.take(RECORD_BYTES_MAX).read_to_end(&mut text)?;
            Ok(())
        });
        if whole.is_err() {
            continue;
        }
        if let Some((reason, said)) = judge(&String::from_utf8_lossy(&text)) {
            // The watchdog's own word tells more than the panic that it caused.
            if found.is_empty() || reason == Reason::WatchdogReset {
                found = format!("{} {said}", reason.as_str());
            }
        }
    }
    Ok(found)
}

/// Empties the store, so that the next panic finds room.
///
/// # Errors
/// As `unlink(2)`.
pub fn forget() -> io::Result<()> {
    records(Path::new(FOLDER))?
        .iter()
        .try_for_each(fs::remove_file)
}

fn records(folder: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let entries = fs::read_dir(folder)?.flatten().take(RECORDS_MAX);
    Ok(entries.map(|e| e.path()).collect())
}

/// What one record says of the kernel's end.
fn judge(text: &str) -> Option<(Reason, String)> {
    let said = |line: &str| {
        let bare = line.split_once("] ").map_or(line, |(_, rest)| rest).trim();
        let clean = bare.chars().map(|c| if c.is_control() { '?' } else { c });
        let mut cut = String::new();
        for c in clean {
            if cut.len() + c.len_utf8() > SAID_BYTES_MAX {
                break;
            }
            cut.push(c);
        }
        cut
    };
    let line_with = |words: &str| text.lines().rev().find(|l| l.contains(words));
    if let Some(line) = BITES.iter().find_map(|words| line_with(words)) {
        return Some((Reason::WatchdogReset, said(line)));
    }
    line_with(PANIC).map(|line| (Reason::KernelPanic, said(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_in_the_kernels_words() {
        let text = "Panic#1 Part1\n<6>[    1.0] up\n<0>[    5.123456] Kernel panic - not syncing: sysrq triggered crash\n<4>[ 5.2] CPU: 0\n";
        assert_eq!(
            judge(text),
            Some((
                Reason::KernelPanic,
                "Kernel panic - not syncing: sysrq triggered crash".to_owned()
            ))
        );
    }

    #[test]
    fn a_watchdog_that_bit_is_no_mere_panic() {
        let panic = "Panic#1 Part1\n<0>[ 9.1] Kernel panic - not syncing: Software Watchdog Timer expired\n";
        assert_eq!(judge(panic).map(|(r, _)| r), Some(Reason::WatchdogReset));
        let plain = "Emergency#1 Part1\n<2>[   61.0] softdog: Initiating system reboot\n";
        let (reason, said) = judge(plain).unwrap();
        assert_eq!(reason, Reason::WatchdogReset);
        assert_eq!(said, "softdog: Initiating system reboot");
    }

    #[test]
    fn what_is_no_end_says_nothing_and_no_text_breaks_the_line() {
        assert_eq!(
            judge("Oops#1 Part1\n<1>[ 3.0] BUG: unable to handle\n"),
            None
        );
        assert_eq!(judge(""), None);
        let long = format!("<0>[ 1.0] {PANIC}\u{1b}{}\n", "é".repeat(500));
        let (_, said) = judge(&long).unwrap();
        assert!(said.len() <= SAID_BYTES_MAX && !said.contains('\u{1b}'));
    }
}
