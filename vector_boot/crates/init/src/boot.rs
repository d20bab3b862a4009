//! From the handoff to the first beat: parameters, package, descriptors, the table of services.
//!
//! Runs once. What fails is said, named and passed over; the heart beats in every case.
//! Start with [`run`].

mod begin;
mod equip;
mod evolution;
mod storage;
mod tables;

pub use equip::{equip_unit, prepare_unit};
pub use evolution::add_cortex;
pub use storage::{needs_storage, queue_storage, service_folder, take_root};
use tables::{load_small_images, table_of_images};
pub use tables::{policy_of, table_of_names, table_of_policies, table_of_units};

use crate::early::{self, Initramfs, Report};
use crate::emergency;
use crate::handover::{Cause, Holdings};
use crate::heart::{Heart, Parts};
use crate::journal::Journal;
use crate::package::{self, Found};
use crate::params::{CommandLine, Params};
use crate::resume::{self, Lost};
use crate::state::{Level, State};
use crate::supervisor::Supervisor;
use crate::unit::Unit;
use crate::watchdog::Guard;
use crate::{BeatWork, Mode, NoWork, Setup, disks, harden, succession};
use rts::manifest::{self, Manifest, Pass};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;
use sys::packet::{Mode as Blocking, PacketListener};

/// The package that came along in the initramfs.
const INITRAMFS_PACKAGE: &str = "/rts";
/// How often and how long PID 1 looks again for a package: a slow disk may still be coming up.
const PACKAGE_TRIES: u32 = 20;
const PACKAGE_PAUSE_MS: u64 = 50;
/// With a trusted key and no package that it signed, nobody has said who may do what here: whoever took the
/// package away is not to get more than a look.
pub const UNSIGNED_CONSOLE: (&str, &str) = ("vb.console_mode", "readonly");

/// Boots and beats; returns only as an ordinary process.
pub fn run(setup: Setup) -> ExitCode {
    let handoff_ns = sys::clock::monotonic_ns();
    sys::reclaim::one_heap();
    let appliance = setup.is_appliance();
    last_resort(appliance);
    sys::process::set_name("vector_boot");
    let mut wrong = Wrong::default();
    let mut heart = match prepare(setup, handoff_ns, &mut wrong) {
        Ok(heart) => heart,
        Err(e) if !appliance => {
            eprintln!("vector_boot: {e}");
            return ExitCode::FAILURE;
        }
        Err(e) => {
            sys::handover::fall_back(&e.to_string());
            let mut reasons = vec![format!("boot: {e}")];
            reasons.append(&mut wrong.degraded);
            reasons.append(&mut wrong.report.complaints);
            emergency::enter(&reasons);
        }
    };
    let Some(end) = heart.run() else {
        sys::handover::fall_back(&heart.reasons());
        emergency::enter(&[heart.reasons()]);
    };
    heart.say_last(end);
    heart.release_watchdog();
    if !appliance {
        return ExitCode::SUCCESS;
    }
    if !sys::machine::within(emergency::FLUSH_LIMIT, sys::machine::sync) {
        heart.tell("shutdown: a disk takes no data; what was not flushed is lost");
    }
    let error = sys::machine::end(end);
    emergency::enter(&[format!("end of the machine: {error}")])
}

/// What was wrong so far in a boot that may not come to its end.
#[derive(Default)]
struct Wrong {
    report: Report,
    degraded: Vec<String>,
}

/// A defect in PID 1 would panic the kernel: it goes on as another image, or if nobody is there to go on, says it
/// and ends the machine as `vb.emergency` wants.
fn last_resort(appliance: bool) {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let reason = format!("defect in PID 1: {info}");
        // In its first beats a package's PID 1 gives way to the initramfs's own, later it begins again itself.
        sys::handover::fall_back(&reason);
        if appliance {
            emergency::enter(&[reason]);
        }
        usual(info);
    }));
}

/// Goes on where the PID 1 before us left, or boots.
// Apart from `run`, whose frame lasts as long as the machine.
#[inline(never)]
fn prepare(setup: Setup, handoff_ns: u64, wrong: &mut Wrong) -> io::Result<Box<Heart>> {
    let begun_ns = sys::clock::monotonic_ns();
    let (mut held, line) = begin::begin(&setup, handoff_ns)?;
    wrong.report = held.report.clone();
    if held.cause == Cause::Fallback {
        wrong.degraded.push(format!(
            "package's vector_boot crashed: {}, the initramfs's own runs",
            held.last_words
        ));
    }
    if held.cause.resumes() {
        match resume::resume(&setup, &mut held, &line) {
            Ok(heart) => return Ok(heart),
            Err(Lost::TooOften(why)) => return Err(io::Error::other(why)),
            Err(Lost::Refused(why)) => {
                // A crash from here on ends as one before the loop does.
                sys::handover::disarm();
                held.along = None;
                begin::bury(&setup);
                wrong.degraded.push(format!(
                    "PID 1 crashed: {}; nobody could go on: {why}; everything was started anew",
                    held.last_words
                ));
            }
        }
    }
    boot(setup, held, &line, begun_ns, wrong)
}

// Apart, since its frame is large, and one that goes on would touch it for nothing.
#[inline(never)]
fn boot(
    setup: Setup,
    mut held: Holdings,
    line: &str,
    begun_ns: u64,
    wrong: &mut Wrong,
) -> io::Result<Box<Heart>> {
    let appliance = setup.is_appliance();
    let (handoff_ns, hand) = (held.handoff_ns, held.hand);
    let first_look = Params::new([], line, hand);
    // Right after its module: from here on a hang ends.
    let mut watchdog = if appliance {
        Guard::open(first_look.get("vb.watchdog"))
    } else {
        Guard::default()
    };
    emergency::leave_watchdog(watchdog.dog());
    // Until a signed manifest says more.
    emergency::leave_mode(match hand {
        CommandLine::Tightens => UNSIGNED_CONSOLE.1,
        CommandLine::Wins => first_look.get("vb.console_mode"),
    });
    let run = setup.run_folder();
    for (folder, mode) in [(&run, 0o755), (&run.join("notify"), 0o711)] {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(folder)
            .map_err(|e| io::Error::new(e.kind(), format!("folder {}: {e}", folder.display())))?;
    }
    let package_begin = sys::clock::monotonic_ns();
    let named = named_manifest(&held.initramfs, &mut wrong.degraded);
    let (mut found, package_name) = find_package(
        &first_look,
        &mut held,
        appliance,
        if named.is_some() {
            package::open_unread
        } else {
            package::open
        },
        &mut wrong.degraded,
    );
    if let Some(found) = &found
        && appliance
        && held.cause == Cause::First
        && first_look.get("vb.init") == "auto"
        && let Err(why) = succession::follow(found, &mut held)
    {
        wrong.degraded.push(why);
    }
    let package_end = sys::clock::monotonic_ns();
    let (cause, left_ns, terminal_name) = (held.cause, held.left_ns, held.terminal.clone());
    wrong.report = held.report.clone();
    let keys = trusted_keys(&held.initramfs);
    // Taken in either case: nobody asks for it again.
    let of_package = found.as_mut().and_then(|f| f.manifest.take());
    let mut manifest =
        named.unwrap_or_else(|| of_package.map_or_else(manifest::default, |manifest| *manifest));
    let values = manifest
        .params
        .iter()
        .map(|p| (p.key.as_str(), p.value.as_str()));
    let unsigned = hand == CommandLine::Tightens && found.is_none();
    let values = values.chain(unsigned.then_some(UNSIGNED_CONSOLE));
    let params = Params::new(values, line, hand);
    add_cortex(&mut manifest, &params);
    let mut boot_id = [0u8; 16];
    // No secret, so it does not wait for the pool.
    sys::random::fill_distinct(&mut boot_id)?;
    let terminal = if appliance {
        early::open_terminal(&terminal_name).ok()
    } else {
        None
    };
    let kmsg = appliance
        .then(|| File::options().write(true).open("/dev/kmsg").ok())
        .flatten();
    let mut journal = Journal::new(State::new(boot_id)?, kmsg, terminal, params.get("vb.log"));
    if appliance {
        emergency::leave_mode(params.get("vb.console_mode"));
        emergency::leave_log(journal.state.lines().ok());
        // Kernel messages would break into the console's lines; `dmesg` has them.
        if let Err(e) = sys::machine::set_console_loglevel(1) {
            wrong.report.complaints.push(format!("printk: {e}"));
        }
        if let Err(e) = sys::machine::catch_ctrl_alt_del() {
            wrong.report.complaints.push(format!("ctrl-alt-del: {e}"));
        }
    } else if let Err(e) = sys::process::become_subreaper() {
        wrong.report.complaints.push(format!("subreaper: {e}"));
    }
    // Nobody else writes or makes it; who reads it finds it if it is there.
    if manifest.services.iter().any(is_net)
        && let Err(e) = network_folder(&run, appliance)
    {
        let complaint = format!("{}/net: {e}", run.display());
        wrong.report.complaints.push(complaint);
    }
    let hostname = choose_hostname(&params, &manifest);
    if appliance && let Err(e) = sys::machine::set_hostname(&hostname) {
        wrong
            .report
            .complaints
            .push(format!("hostname {hostname}: {e}"));
    }
    if appliance && let Err(e) = crate::cgroup::prepare(&crate::cgroup::needed(&manifest.services))
    {
        wrong.report.complaints.push(e);
    }
    let control = PacketListener::bind(&run.join("init.sock"), Blocking::NonBlocking)?;
    open_to_all(&run.join("init.sock"))?;
    let open = open_descriptors(&setup, &terminal_name, &mut wrong.degraded);
    leave_out_terminals(&mut manifest, &open);
    let mut images = table_of_images(&held.initramfs, &held.running, found.as_ref(), &manifest);
    if let Some(found) = &found {
        load_small_images(&mut images, found, &mut wrong.degraded);
    }
    watchdog.settle(params.get("vb.watchdog"));
    emergency::leave_watchdog(watchdog.dog());
    let units = table_of_units(&manifest, &images);
    let policies = table_of_policies(&units, &manifest);
    // Each has its own row now.
    manifest.services = Vec::new();
    let seed = u64::from_le_bytes(*boot_id.first_chunk().unwrap_or(&[1; 8]));
    for complaint in wrong.report.complaints.iter().chain(&params.complaints) {
        journal.say(Level::Warn, format_args!("{complaint}"));
    }
    let unconfined = if appliance {
        ""
    } else {
        "uids, cgroups, namespaces, kernel switches: not as an ordinary process"
    };
    let unconfined = said_free(unconfined, &units);
    let (work, sensors_own): (Box<dyn BeatWork>, _) = match (setup.work)(None) {
        Ok((work, page)) => (work, Some(page)),
        Err(e) => {
            wrong.degraded.push(format!("sensor page: {e}"));
            (Box::new(NoWork), None)
        }
    };
    let sensors = match sensors_own.as_ref().map(read_only).transpose() {
        Ok(page) => page,
        Err(e) => {
            wrong.degraded.push(format!("sensor page: {e}"));
            None
        }
    };
    for reason in &wrong.degraded {
        journal.say(Level::Error, format_args!("degraded: {reason}"));
    }
    let mut heart = Heart::new(Parts {
        handoff_ns,
        journal,
        supervisor: Supervisor::new(&policies, seed),
        units,
        images,
        control,
        phases: Vec::with_capacity(16),
        degraded: std::mem::take(&mut wrong.degraded),
        package_name,
        running: held.running.clone(),
        trust: trust_of(&held, &params),
        keys: keys
            .iter()
            .map(|k| short(&k.to_string()).to_owned())
            .collect(),
        hostname,
        unconfined,
        sensors,
        sensors_own: sensors_own.map(OwnedFd::from),
        held,
        found,
        work,
        watchdog,
        manifest,
        open,
        setup,
        params,
    })?;
    if cause != Cause::First {
        let note = format!("{} {}", heart.running.from, short(&heart.running.digest));
        heart
            .journal
            .say(Level::Info, format_args!("took over: {note}"));
        heart.phase("handover", left_ns, begun_ns, note);
    }
    if appliance {
        heart.phase("mounts", handoff_ns, wrong.report.mounted_ns, String::new());
        heart.phase(
            "modules",
            wrong.report.mounted_ns,
            wrong.report.modules_ns,
            format!("{} loaded", wrong.report.modules),
        );
    }
    let note = heart.package_name.clone();
    heart.phase("package", package_begin, package_end, note);
    bind_sockets(&mut heart);
    if appliance {
        confine_machine(&mut heart);
    }
    heart.phase(
        "handoff-to-loop",
        handoff_ns,
        sys::clock::monotonic_ns(),
        String::new(),
    );
    Ok(heart)
}

/// A console without a terminal would only die and come back.
pub fn leave_out_terminals(manifest: &mut Manifest, open: &Open) {
    if open.tty.is_none() && open.machine.is_none() {
        let shows = |pass: &Pass| matches!(pass, Pass::Tty | Pass::Machine);
        manifest
            .services
            .retain(|service| !service.pass.iter().any(shows));
    }
}

/// The end of the boot: what was needed for it and is not needed any more is switched off and given up.
fn confine_machine(heart: &mut Heart) {
    let switched = harden::before_services();
    heart.take_switches(switched);
    if let Err(e) = harden::lend_oom_score() {
        heart.leave_out(&format!("oom_score_adj of services: {e}"));
    }
    if let Err(e) = harden::own_powers() {
        heart.leave_out(&format!("powers of PID 1: {e}"));
    }
}

/// Whether a service is the role `net`, by whatever name.
fn is_net(service: &manifest::Service) -> bool {
    let ours = matches!(service.image, manifest::Image::VectorBoot);
    ours && service
        .args
        .first()
        .is_some_and(|role| role == wire::Role::Net.name())
}

/// The folder of the role `net`, which alone writes there, and `resolv.conf` where programs look.
fn network_folder(run: &Path, appliance: bool) -> io::Result<()> {
    let folder = run.join("net");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&folder)?;
    if appliance {
        sys::machine::give_to(&folder, wire::Role::Net.uid())?;
    }
    match std::os::unix::fs::symlink("net/resolv.conf", run.join("resolv.conf")) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// Descriptors that services get by name.
#[derive(Debug, Default)]
pub struct Open {
    /// The ledger's log.
    pub log: Option<OwnedFd>,
    /// Whether that outlives the boot.
    pub log_is_kept: bool,
    /// The serial line.
    pub tty: Option<OwnedFd>,
    /// The console for programs.
    pub machine: Option<OwnedFd>,
    /// Roots of the gateway.
    pub roots: Vec<(String, OwnedFd)>,
}

/// What is left out of the confinement from the beginning, with the services whose manifest does without.
fn said_free(already: &str, units: &[Unit]) -> String {
    let free = units.iter().filter(|u| !u.service.is_confined());
    let names: Vec<&str> = free.map(Unit::name).collect();
    match (already, names.is_empty()) {
        (already, true) => already.to_owned(),
        ("", false) => format!("by their manifest: {}", names.join(", ")),
        (already, false) => format!("{already}; by their manifest: {}", names.join(", ")),
    }
}

/// The first digits of a digest or key: enough to tell them apart.
pub fn short(hex: &str) -> &str {
    hex.get(..16).unwrap_or(hex)
}

/// The keys of the initramfs that can be read.
fn trusted_keys(initramfs: &Initramfs) -> Vec<rts::PublicKey> {
    let keys = initramfs.keys.iter();
    keys.filter_map(|k| rts::PublicKey::parse(k).ok()).collect()
}

fn find_package(
    params: &Params,
    held: &mut Holdings,
    appliance: bool,
    open: fn(File, &rts::Trust) -> Result<Found, String>,
    degraded: &mut Vec<String>,
) -> (Option<Found>, String) {
    let keys = trusted_keys(&held.initramfs);
    let unreadable = held.initramfs.keys.len() - keys.len();
    if unreadable > 0 {
        degraded.push(format!(
            "/keys: {unreadable} of {} trusted keys unreadable",
            held.initramfs.keys.len()
        ));
    }
    let trust = rts::Trust {
        keys,
        // A trusted key in the image binds, even one that cannot be read.
        required: params.get("vb.require_signature") == "1" || held.hand == CommandLine::Tightens,
    };
    let (file, place) = match (held.package.take(), params.get("vb.rts")) {
        // What the PID 1 before us found, whatever a disk has become since.
        (Some(found), _) => found,
        (None, "auto") => match search(held.initramfs.package.take(), appliance) {
            Some(found) => found,
            None => {
                degraded.push(
                    "package: none found (no disk, partition or /rts begins with RTS 01)"
                        .to_owned(),
                );
                return (None, "none".to_owned());
            }
        },
        (None, "off") => return (None, "none".to_owned()),
        (None, path) => match early::open_readable(Path::new(path)) {
            Ok(file) => (file, path.to_owned()),
            Err(e) => {
                degraded.push(format!("package: vb.rts={path}: {e}"));
                return (None, format!("{path} (refused)"));
            }
        },
    };
    held.package = file.try_clone().ok().map(|file| (file, place.clone()));
    match open(file, &trust) {
        Ok(mut found) => {
            found.in_memory = place == INITRAMFS_PACKAGE;
            let kind = match (&found.signer, found.plain) {
                (_, true) => "plain",
                (Some(_), false) => "signed",
                (None, false) => "unsigned",
            };
            let gap = if found.digest.is_empty() { "" } else { " " };
            let name = format!("{place}{gap}{} {kind}", found.digest);
            (Some(found), name)
        }
        Err(e) => {
            degraded.push(format!("package {place}: {e}"));
            (None, format!("{place} (refused)"))
        }
    }
}

/// Whose packages are taken.
pub fn trust_of(held: &Holdings, params: &Params) -> rts::Trust {
    rts::Trust {
        keys: trusted_keys(&held.initramfs),
        // A trusted key in the image binds, even one that cannot be read.
        required: params.get("vb.require_signature") == "1" || held.hand == CommandLine::Tightens,
    }
}

/// Finds the package again for a PID 1 that goes on: the same file, looked at as the boot did.
pub fn reopen_package(heart: &mut Heart) {
    if heart.setup.is_appliance() {
        emergency::leave_mode(heart.params.get("vb.console_mode"));
        emergency::leave_log(heart.journal.state.lines().ok());
        heart.leave_watchdog();
        // Root's exec took up what its bounding set still held.
        if let Err(e) = harden::own_powers() {
            heart.leave_out(&format!("powers of PID 1: {e}"));
        }
    }
    let keys = heart.trust.keys.iter();
    heart.keys = keys.map(|k| short(&k.to_string()).to_owned()).collect();
    let Some((file, _)) = heart
        .held
        .package
        .as_ref()
        .filter(|_| heart.held.standing.found)
    else {
        return;
    };
    match file
        .try_clone()
        .map_err(|e| e.to_string())
        .and_then(|file| package::open(file, &heart.trust))
    {
        Ok(found) => heart.found = Some(found),
        Err(e) => heart.degrade(format!("package {}: {e}", heart.package_name)),
    }
}

fn search(from_initramfs: Option<File>, appliance: bool) -> Option<(File, String)> {
    if !appliance {
        return None;
    }
    for attempt in 0..PACKAGE_TRIES {
        let devices = disks::devices();
        if let Some(device) = disks::package(&devices)
            && let Ok(file) = File::open(&device.path)
        {
            return Some((file, device.path.display().to_string()));
        }
        if let Some(file) = &from_initramfs
            && let Ok(file) = file.try_clone()
        {
            return Some((file, INITRAMFS_PACKAGE.to_owned()));
        }
        if attempt + 1 < PACKAGE_TRIES {
            std::thread::sleep(std::time::Duration::from_millis(PACKAGE_PAUSE_MS));
        }
    }
    None
}

/// The manifest that `vb.manifest` names, if there is one that can be read.
fn named_manifest(initramfs: &Initramfs, degraded: &mut Vec<String>) -> Option<Manifest> {
    let bytes = initramfs.manifest.as_ref()?;
    Manifest::decode(bytes)
        .inspect_err(|e| degraded.push(format!("vb.manifest: {e}")))
        .ok()
}

fn choose_hostname(params: &Params, manifest: &Manifest) -> String {
    match params.get("vb.hostname") {
        "" => manifest.hostname.as_str().to_owned(),
        named => named.to_owned(),
    }
}

/// A handle of a memfd through which nobody can write, nor open it again for writing.
fn read_only(page: &File) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;
    page.set_permissions(fs::Permissions::from_mode(0o444))?;
    File::open(format!("/proc/self/fd/{}", page.as_raw_fd())).map(OwnedFd::from)
}

fn open_to_all(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    // Who may say what is decided by the peer's uid, frame by frame.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))
}

fn open_descriptors(setup: &Setup, terminal: &str, degraded: &mut Vec<String>) -> Open {
    let mut open = Open::default();
    match &setup.mode {
        Mode::Appliance => {
            open.tty = early::open_terminal(terminal).map(OwnedFd::from).ok();
            open.machine = if terminal == "hvc0" {
                None
            } else {
                early::open_terminal("hvc0").map(OwnedFd::from).ok()
            };
            let devices = disks::devices();
            open.log = disks::partition(&devices, "log")
                .and_then(|d| File::options().read(true).write(true).open(&d.path).ok())
                .map(OwnedFd::from);
            open.log_is_kept = open.log.is_some();
            if open.log.is_none() {
                degraded.push(
                    "ledger: no partition named log; its events end with this boot".to_owned(),
                );
                open.log = sys::memfd::create("log").map(OwnedFd::from).ok();
            }
        }
        Mode::Process { state, terminal } => {
            let log = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(state.join("ledger.log"));
            open.log = log
                .map(OwnedFd::from)
                .inspect_err(|e| degraded.push(format!("ledger: {}: {e}", state.display())))
                .ok();
            open.log_is_kept = open.log.is_some();
            if *terminal {
                open.tty = io::stdin().as_fd().try_clone_to_owned().ok();
            }
        }
    }
    open
}

fn bind_sockets(heart: &mut Heart) {
    let (run, http) = (
        heart.setup.run_folder(),
        heart.params.get("vb.http").to_owned(),
    );
    let give_away = heart.setup.is_appliance();
    for i in 0..heart.units.len() {
        let bound = heart
            .units
            .get_mut(i)
            .map_or(Ok(()), |u| u.bind(&run, &http, give_away));
        if let Err(e) = bound {
            let name = heart
                .units
                .get(i)
                .map(|u| u.name().to_owned())
                .unwrap_or_default();
            heart.degrade(format!("service {name}: {e}"));
        }
    }
    heart.watch_notify_sockets();
}
