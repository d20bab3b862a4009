//! The first steps, up to where the package is looked for: taken once, or found done by the PID 1 before us.

use crate::early::{self, Initramfs, Report};
use crate::handover::{Cause, Holdings, Past, Running, Standing};
use crate::params::{CommandLine, Params};
use crate::{Mode, Setup};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use sys::machine::MountFlags;

/// For the end of what a crashed PID 1 left running; a process in a disk's hands may take longer, and stays.
const ORPHANS_LIMIT: Duration = Duration::from_secs(5);

/// Comes to hold what the boot needs, and gives the command line with it.
///
/// # Errors
/// What is wrong with a predecessor's record.
pub(super) fn begin(setup: &Setup, handoff_ns: u64) -> io::Result<(Holdings, String)> {
    let taken = setup
        .successor
        .then(Holdings::take)
        .flatten()
        .transpose()
        .map_err(io::Error::other)?;
    let (mut held, line) = match (taken, &setup.mode) {
        (Some(held), mode) => {
            if held.cause == Cause::Fallback {
                bury(setup);
            }
            let line = match mode {
                Mode::Appliance => early::command_line(),
                Mode::Process { .. } => setup.parameters.clone(),
            };
            (held, line)
        }
        (None, Mode::Appliance) => first(handoff_ns),
        (None, Mode::Process { .. }) => (of_process(setup, handoff_ns), setup.parameters.clone()),
    };
    if held.cause == Cause::Package
        && let Err(e) = held.arm_fallback()
    {
        held.report.complaints.push(format!(
            "prepare for a crash of the package's vector_boot: {e}"
        ));
    }
    Ok((held, line))
}

/// As the first process of a kernel.
#[inline(never)]
fn first(handoff_ns: u64) -> (Holdings, String) {
    let mut report = Report::default();
    let root = early::mount_root(&mut report);
    let line = early::command_line_below(root);
    let hand = if early::has_keys() {
        CommandLine::Tightens
    } else {
        CommandLine::Wins
    };
    let params = Params::new([], &line, hand);
    let initramfs = early::take_initramfs(&params, &mut report);
    early::leave_initramfs(root, &mut report);
    let terminal = early::console_name(&params, &mut report);
    let digest = initramfs.digests.iter().find(|(n, _)| n == "vector_boot");
    let running = Running {
        digest: digest.map_or_else(String::new, |(_, hex)| hex.clone()),
        from: "initramfs".to_owned(),
    };
    let mut held = bare(running, hand, handoff_ns, report, initramfs);
    held.terminal = terminal;
    (held, line)
}

/// What there is before anything was found: no package, no predecessor.
// A copy of it would touch more of the stack.
#[inline(always)]
fn bare(
    running: Running,
    hand: CommandLine,
    handoff_ns: u64,
    report: Report,
    initramfs: Initramfs,
) -> Holdings {
    Holdings {
        cause: Cause::First,
        running,
        hand,
        handoff_ns,
        left_ns: 0,
        terminal: String::new(),
        report,
        initramfs,
        own: None,
        package: None,
        last_words: String::new(),
        standing: Standing::default(),
        along: None,
        passage: None,
        retreat: None,
        past: Past::default(),
    }
}

/// Ends everything that a crashed PID 1 left running, and hides its sockets.
pub(super) fn bury(setup: &Setup) {
    sys::handover::close_strays();
    if !setup.is_appliance() {
        return sys::process::end_children(ORPHANS_LIMIT);
    }
    sys::process::end_everybody(ORPHANS_LIMIT);
    let flags = MountFlags {
        read_only: false,
        no_exec: true,
        no_dev: true,
    };
    // Over the old folder, which may hold mounts that cannot be removed. What is in the way is said when a
    // socket is bound.
    let _ = sys::machine::mount_fs(
        "tmpfs",
        &setup.run_folder(),
        "tmpfs",
        flags,
        "mode=0755,size=16m",
    );
}

/// An ordinary process finds its executables beside itself.
#[inline(never)]
fn of_process(setup: &Setup, handoff_ns: u64) -> Holdings {
    let mut report = Report::default();
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    let mut open = |path: &Path| {
        let opened = File::open(path).map(OwnedFd::from);
        opened
            .inspect_err(|e| {
                report
                    .complaints
                    .push(format!("open {}: {e}", path.display()))
            })
            .ok()
    };
    let (vector_boot, services) = (open(&own), open(&own.with_file_name("vb-services")));
    let params = Params::new([], &setup.parameters, CommandLine::Wins);
    let initramfs = Initramfs {
        vector_boot,
        services,
        manifest: early::wanted_manifest(&params, &mut report),
        ..Initramfs::default()
    };
    let running = Running {
        digest: String::new(),
        from: fs::canonicalize(&own).unwrap_or(own).display().to_string(),
    };
    bare(running, CommandLine::Wins, handoff_ns, report, initramfs)
}
