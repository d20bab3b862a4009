//! Going on after PID 1's program was exchanged: by its own crash, by an upgrade, by a rollback.
//!
//! The services live on, so nothing is mounted, loaded or searched for here: what is not in the record is in the
//! state memfd, and each process is looked at before it is believed to be ours. Nothing of the model is touched
//! before the services are watched again. Start with [`resume`]; the heart does the rest in `heart::resumed`.

use crate::boot::{Open, table_of_names, table_of_policies, table_of_units};
use crate::cgroup::Leaf;
use crate::handover::{Cause, Holdings};
use crate::heart::memory::Strain;
use crate::heart::{Heart, Held, Image, Parts, place_of};
use crate::journal::Journal;
use crate::params::{CommandLine, Params};
use crate::state::State;
use crate::state::descriptors::Kind;
use crate::state::records::{Text, UnitRow};
use crate::supervisor::{SNAPSHOT_BYTES, Supervisor, UnitSnapshot};
use crate::unit::{CellState, Unit};
use crate::watchdog::Guard;
use crate::{NoWork, Setup};
use rts::manifest::Manifest;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use sys::packet::PacketListener;
use sys::power_button::PowerButton;
use sys::release::Releaser;
use sys::spawn::Child;

/// So many crashes within [`CRASH_WINDOW_NS`] are no accident any more: the machine is as `vb.emergency` says.
pub const CRASHES_MAX: usize = 3;
/// A program that gets so far for so long has done its work meanwhile.
pub const CRASH_WINDOW_NS: u64 = 10_000_000_000;
/// A process exists within this time after PID 1 noted that it starts one; pids come round in minutes at best.
const START_SLACK_NS: u64 = 10_000_000_000;

/// Executables of two packages: ours and one a service.
pub const IMAGES_MAX: usize = 2 * (2 + crate::supervisor::UNITS_MAX);

/// Why nobody goes on.
#[derive(Debug)]
pub enum Lost {
    /// What was left is not whole: everything begins anew.
    Refused(String),
    /// PID 1 crashes again and again.
    TooOften(String),
}

/// A service that is not what its row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// Its process is gone, and nobody knows how it ended.
    Gone,
    /// It was being started; there may be a process that nobody knows.
    Unanswered,
}

/// What the image before us left, taken by the table.
type Taken = Vec<(Kind, usize, String, OwnedFd)>;

/// Takes up the machine.
///
/// # Errors
/// [`Lost`]; then what was left is closed, but its processes still run.
pub fn resume(setup: &Setup, held: &mut Holdings, line: &str) -> Result<Box<Heart>, Lost> {
    let refused = |what: &str| Lost::Refused(what.to_owned());
    let state = held
        .take_state()
        .ok_or_else(|| refused("state: none came along"))?;
    let mut state = State::adopt(state).map_err(Lost::Refused)?;
    if held.cause == Cause::Crash {
        count_crash(&mut state, held)?;
    }
    // From here on a crash comes back here, and counts.
    let armed = held.arm_crash(&state);
    let mut manifest = Manifest::decode(&held.standing.manifest)
        .map_err(|e| Lost::Refused(format!("manifest in force: {e}")))?;
    let taken = take_listed(&state);
    let params = params_of(held, &manifest, line);
    let mut images: Vec<Image> = table_of_names(&manifest);
    let mut units = table_of_units(&manifest, &images);
    let policies = table_of_policies(&units, &manifest);
    let own = distribute(taken, &mut images, &mut units).map_err(Lost::Refused)?;
    // Each has its own row now.
    manifest.services = Vec::new();
    let now = sys::clock::monotonic_ns();
    let mut snapshots = heapless::Vec::<_, { crate::supervisor::UNITS_MAX }>::new();
    for (i, unit) in units.iter_mut().enumerate() {
        // There are never more units than places.
        let _ =
            snapshots.push(take_up(&state, i, unit, setup.is_appliance()).map_err(Lost::Refused)?);
    }
    let supervisor = Supervisor::resume(&policies, &snapshots, now);
    let mut missed = heapless::Vec::<(usize, Missed), { crate::supervisor::UNITS_MAX }>::new();
    for (i, unit) in units.iter().enumerate() {
        let ran = snapshots
            .get(i)
            .copied()
            .flatten()
            .is_some_and(|s| s.is_running());
        if supervisor.awaits_start(i) && unit.child.is_none() {
            let _ = missed.push((i, Missed::Unanswered));
        } else if ran && unit.child.is_none() {
            let _ = missed.push((i, Missed::Gone));
        }
    }
    let texts = |what| {
        state
            .texts(what)
            .map(str::to_owned)
            .collect::<Vec<String>>()
    };
    let (degraded, unconfined) = (texts(Text::Degraded), texts(Text::Unconfined).join("; "));
    let trust = crate::boot::trust_of(held, &params);
    let journal = Journal::new(state, own.kmsg, own.terminal, params.get("vb.log"));
    let mut heart = Heart::new(Parts {
        setup: setup.clone(),
        handoff_ns: held.handoff_ns,
        journal,
        params,
        supervisor,
        units,
        images,
        control: own
            .control
            .ok_or_else(|| refused("descriptors: init.sock is not listed"))?,
        phases: Vec::with_capacity(64),
        degraded,
        package_name: held.standing.package_name.clone(),
        running: held.running.clone(),
        trust,
        keys: Vec::new(),
        hostname: held.standing.hostname.clone(),
        unconfined,
        sensors: own.sensors,
        sensors_own: own.sensors_own,
        held: held
            .copy(held.cause)
            .map_err(|e| Lost::Refused(e.to_string()))?,
        found: None,
        work: Box::new(NoWork),
        watchdog: own.watchdog.unwrap_or_default(),
        manifest,
        open: own.open,
    })
    .map_err(|e| Lost::Refused(format!("poller: {e}")))?;
    heart.held.passage = held.passage.take();
    heart.take_up_past();
    heart.rts = own.package;
    heart.token = own.token;
    heart.machine_strain = own.strain;
    heart.buttons_of_before = own.buttons;
    heart.model = held.standing.model.clone();
    if let Err(e) = armed {
        heart.degrade(format!("no resume after the next crash: {e}"));
    }
    heart.take_up(
        held.left_ns,
        std::mem::take(&mut held.last_words),
        own.helper,
        &missed,
    );
    Ok(heart)
}

/// Notes the crash, and whether it is one too many.
fn count_crash(state: &mut State, held: &Holdings) -> Result<(), Lost> {
    let now = sys::clock::monotonic_ns();
    let crashes = state.crashes().and(now);
    state.set_crashes(&crashes);
    let recent = crashes.within(now, CRASH_WINDOW_NS);
    if recent < CRASHES_MAX {
        return Ok(());
    }
    Err(Lost::TooOften(format!(
        "PID 1 crashed {recent} times within {} s, limit {}: {}",
        CRASH_WINDOW_NS / 1_000_000_000,
        CRASHES_MAX - 1,
        held.last_words
    )))
}

#[inline(never)]
fn params_of(held: &Holdings, manifest: &Manifest, line: &str) -> Params {
    let values = manifest
        .params
        .iter()
        .map(|p| (p.key.as_str(), p.value.as_str()));
    let unsigned = held.hand == CommandLine::Tightens && !held.standing.found;
    Params::new(
        values.chain(unsigned.then_some(crate::boot::UNSIGNED_CONSOLE)),
        line,
        held.hand,
    )
}

fn take_listed(state: &State) -> Taken {
    state
        .listed()
        .filter_map(|l| {
            let fd = sys::handover::take_along(l.number)?;
            Some((l.kind, usize::from(l.index), l.name.to_owned(), fd))
        })
        .collect()
}

/// What belongs to no service.
#[derive(Default)]
struct Own {
    control: Option<PacketListener>,
    token: Option<OwnedFd>,
    sensors: Option<OwnedFd>,
    sensors_own: Option<OwnedFd>,
    package: Option<OwnedFd>,
    watchdog: Option<Guard>,
    kmsg: Option<File>,
    terminal: Option<File>,
    helper: Option<Child>,
    strain: Strain,
    buttons: Vec<PowerButton>,
    open: Open,
}

/// Puts every descriptor in its place.
// Apart, as are others here: one frame for all of them would be nine pages.
#[inline(never)]
fn distribute(taken: Taken, images: &mut Vec<Image>, units: &mut [Unit]) -> Result<Own, String> {
    let mut own = Own::default();
    let mut releaser = Releaser::default();
    let mut cells: Vec<(usize, usize, OwnedFd)> = Vec::new();
    for (kind, index, name, fd) in taken {
        match kind {
            Kind::Control => own.control = Some(PacketListener::from_fd(fd)),
            Kind::Log => own.open.log = Some(fd),
            Kind::Tty => own.open.tty = Some(fd),
            Kind::Machine => own.open.machine = Some(fd),
            Kind::Token => own.token = Some(fd),
            Kind::Sensors => own.sensors = Some(fd),
            Kind::SensorsOwn => own.sensors_own = Some(fd),
            Kind::Package => own.package = Some(fd),
            Kind::Watchdog => own.watchdog = Some(Guard::adopt(fd)),
            Kind::Kmsg => own.kmsg = Some(fd.into()),
            Kind::Terminal => own.terminal = Some(fd.into()),
            Kind::Helper => {
                own.helper = name.parse().ok().map(|pid| Child { pid, pidfd: fd });
            }
            Kind::Root => own.open.roots.push((name, fd)),
            Kind::MachinePressure => own.strain = Strain::with(fd),
            Kind::Button => own.buttons.push(PowerButton::adopt(fd)),
            Kind::Image | Kind::ImageFallback => {
                // An upgrade may have added some behind those of the manifest.
                while images.len() <= index && images.len() < IMAGES_MAX {
                    images.push(Image {
                        name: String::new(),
                        digest: String::new(),
                        held: Held::Loading,
                        fallback: None,
                    });
                }
                let image = images.get_mut(index);
                let image = image.ok_or_else(|| format!("image {index}: limit {IMAGES_MAX}"))?;
                image.name = name;
                if kind == Kind::Image {
                    image.held = Held::Yes(fd);
                } else {
                    image.fallback = Some(fd);
                }
            }
            of_unit => {
                let unit = units.get_mut(index);
                let unit =
                    unit.ok_or_else(|| format!("service {index}: not in the manifest in force"))?;
                match of_unit {
                    // Its pid is in the row; until that is looked at it is none.
                    Kind::Process => unit.child = Some(Child { pid: 0, pidfd: fd }),
                    Kind::Output => unit.output = Some(fd.into()),
                    Kind::Notify => unit.hear(fd),
                    Kind::Leaf => unit.leaf = Some(Leaf::over(fd)),
                    Kind::Pressure => unit.strain = Strain::with(fd),
                    Kind::Listener => unit.listeners.push((name, fd)),
                    Kind::Passed => unit.passed.push((name, fd)),
                    Kind::Cell => {
                        let place = place_of(&name);
                        let place = place
                            .ok_or_else(|| format!("namespace {name:?} of service {index}"))?;
                        cells.push((index, place, fd));
                    }
                    Kind::Stored | Kind::StoredUnpolled => {
                        let poll = of_unit == Kind::Stored;
                        unit.store.go_on(&name, poll, fd, &mut releaser);
                    }
                    _ => {}
                }
            }
        }
    }
    cells.sort_by_key(|(index, place, _)| (*index, *place));
    for (index, place, fd) in cells {
        let Some(unit) = units.get_mut(index) else {
            continue;
        };
        if !matches!(unit.cell, CellState::Made(_)) {
            unit.cell = CellState::Made(Vec::new());
        }
        if let CellState::Made(cell) = &mut unit.cell {
            if cell.len() != place {
                return Err(format!(
                    "service {index}: namespace {} of its cell is not listed",
                    cell.len()
                ));
            }
            cell.push(fd);
        }
    }
    Ok(own)
}

/// Takes up a service as far as its row and the kernel agree.
#[inline(never)]
fn take_up(
    state: &State,
    i: usize,
    unit: &mut Unit,
    appliance: bool,
) -> Result<Option<UnitSnapshot>, String> {
    let Some(row) = state.unit(i) else {
        return Err(format!("service {}: no whole row", unit.name()));
    };
    if row.name != unit.name() {
        return Err(format!(
            "service {i}: {:?}, limit {:?}",
            row.name,
            unit.name()
        ));
    }
    // Nobody runs beside its cell, but whom the manifest leaves unconfined.
    if row.has_cell && !matches!(unit.cell, CellState::Made(_)) {
        unit.cell = CellState::Made(Vec::new());
    }
    if appliance && unit.service.is_confined() && row.prepared && !row.has_cell {
        return Err(format!("service {}: started without a cell", unit.name()));
    }
    let found = unit.child.take().map(|child| child.pidfd);
    let child = match found {
        Some(pidfd) if row.pid > 0 => is_ours(&row, pidfd)?,
        None if row.pid > 0 => {
            let pidfd = sys::process::open(row.pid);
            pidfd
                .ok()
                .map(|pidfd| is_ours(&row, pidfd))
                .transpose()?
                .flatten()
        }
        _ => None,
    };
    unit.image = usize::from(row.image);
    unit.go_on(&row, child, state.partial(i));
    let bytes = row.policy.first_chunk::<SNAPSHOT_BYTES>();
    let snapshot = bytes.map(UnitSnapshot::from_bytes).transpose();
    snapshot.map_err(|e| format!("service {}: {e}", unit.name()))
}

/// Whether the process behind a descriptor is the one of the row: our child, of this pid, started when it says.
/// One that has ended and waits for us is ours too.
fn is_ours(row: &UnitRow<'_>, pidfd: OwnedFd) -> Result<Option<Child>, String> {
    if !sys::process::is_child(pidfd.as_fd()) {
        return Ok(None);
    }
    let wrong = |what: String| Err(format!("service {}: pid {}: {what}", row.name, row.pid));
    let Ok(born) = sys::process::birth_of(row.pid) else {
        return wrong("our child by its descriptor, no process by its number".to_owned());
    };
    let own = std::process::id();
    if born.parent != own {
        return wrong(format!("parent {}, limit {own}", born.parent));
    }
    let started = row.started_ns.saturating_add(sys::clock::suspended_ns());
    // The kernel counts in ticks.
    let earliest = started.saturating_sub(2 * sys::process::TICK_NS);
    if !(earliest..=started.saturating_add(START_SLACK_NS)).contains(&born.at_ns) {
        return wrong(format!("born at {} ns, limit {started}", born.at_ns));
    }
    let pid = i32::try_from(row.pid).unwrap_or(0);
    Ok(Some(Child { pid, pidfd }))
}
