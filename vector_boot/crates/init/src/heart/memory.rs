//! Watches on memory: who met a limit, whose processes the kernel killed, who waits for memory.
//!
//! Set up when all services are up, one a second, so that no start pays for it: each trigger is a thread of the
//! kernel's. Each watch rests until the next second once it fired, so that none can keep the loop busy.
//! Triggers go along into the next image: to close one waits for a grace period of RCU, some ten milliseconds.

use super::{Heart, Watch};
use crate::cgroup;
use crate::state::Level;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use sys::events::Interest;
use sys::folder::Folder;
use wire::why::Pressure;

/// A second; the kernel's triggers have the same window.
const TURN_NS: u64 = 1_000_000_000;
/// Between two log lines about the pressure on one service.
const SAID_AGAIN_NS: u64 = 60_000_000_000;
/// Pressure on the machine as a whole.
const MACHINE_FOLDER: &str = "/proc/pressure";
const MACHINE_FILE: &str = "memory";
/// The machine's place behind those of the services.
const MACHINE: usize = crate::supervisor::UNITS_MAX;

/// What the watches on one cgroup have seen.
#[derive(Debug, Default)]
pub struct Strain {
    /// The watches are there, or cannot be.
    set_up: bool,
    trigger: Option<File>,
    /// Fired since the last second: `memory.events`, the trigger.
    resting: [bool; 2],
    /// Seconds in which something waited for memory beyond the trigger.
    stalls: u32,
    stalled_ns: u64,
    said_ns: u64,
    /// Processes that the kernel killed, since boot.
    oom_kills: u64,
}

impl Strain {
    /// With a trigger that an earlier image made.
    pub fn with(trigger: OwnedFd) -> Self {
        Self {
            trigger: Some(trigger.into()),
            ..Self::default()
        }
    }

    /// The trigger, once there is one.
    pub fn trigger(&self) -> Option<BorrowedFd<'_>> {
        self.trigger.as_ref().map(AsFd::as_fd)
    }

    fn stalled(&mut self, now: u64) -> bool {
        self.stalls = self.stalls.saturating_add(1);
        self.stalled_ns = now;
        let quiet = self.said_ns == 0 || now.saturating_sub(self.said_ns) >= SAID_AGAIN_NS;
        if quiet {
            self.said_ns = now;
        }
        quiet
    }
}

impl Heart {
    /// At a beat: once a second one more watch is set up, and those that fired watch again.
    pub(super) fn keep_memory_watch(&mut self, now: u64) {
        let appliance = self.setup.is_appliance();
        if !self.ready_said || !appliance || now < self.memory_turn_ns {
            return;
        }
        self.memory_turn_ns = now + TURN_NS;
        for i in 0..self.units.len() {
            self.watch_again(i);
        }
        if !self.machine_strain.set_up {
            self.machine_strain.set_up = true;
            if self.machine_strain.trigger.is_none() {
                let folder = Folder::open(Path::new(MACHINE_FOLDER));
                let trigger = folder.and_then(|f| cgroup::trigger(&f, MACHINE_FILE));
                self.machine_strain.trigger = trigger.ok();
            }
            self.add_trigger(MACHINE);
            self.list_machine();
        } else if std::mem::take(&mut self.machine_strain.resting) != [false; 2]
            && let Some(trigger) = &self.machine_strain.trigger
        {
            rearm(&self.poller, trigger.as_fd(), Watch::Pressure(MACHINE));
        }
        if let Some(i) = self.units.iter().position(|u| !u.strain.set_up) {
            self.set_up_watch(i);
        }
    }

    /// The leaves have got the memory's controller, if no limit needed it before: they are watched anew.
    pub(super) fn watch_completed_leaves(&mut self) {
        if cgroup::needed(&self.manifest.services).contains("memory") {
            return;
        }
        for unit in &mut self.units {
            if let Some(leaf) = &mut unit.leaf {
                // A kernel without the controller has said so.
                let _ = leaf.share_memory();
                unit.strain.set_up = false;
            }
        }
    }

    fn set_up_watch(&mut self, i: usize) {
        let Some(unit) = self.units.get_mut(i) else {
            return;
        };
        unit.strain.set_up = true;
        let Some(leaf) = &mut unit.leaf else {
            return;
        };
        leaf.open_gauges();
        if let Some(events) = leaf.memory_events() {
            let token = Watch::MemoryEvents(i).token();
            // Unwatched, its limits are still told by the post-mortem.
            let _ = self.poller.add(events, token, Interest::PriorityOnce);
        }
        if unit.strain.trigger.is_none() {
            unit.strain.trigger = leaf.pressure_trigger().ok();
        }
        self.add_trigger(i);
        self.list_unit(i);
    }

    fn add_trigger(&self, i: usize) {
        if let Some(trigger) = self.strain(i).and_then(|s| s.trigger.as_ref()) {
            let token = Watch::Pressure(i).token();
            // Without it the pressure is still there to be asked for. One that was there before is watched already.
            let _ = self
                .poller
                .add(trigger.as_fd(), token, Interest::PriorityOnce);
        }
    }

    fn watch_again(&mut self, i: usize) {
        let Some(unit) = self.units.get_mut(i) else {
            return;
        };
        let [events, trigger] = std::mem::take(&mut unit.strain.resting);
        if events && let Some(fd) = unit.leaf.as_ref().and_then(|l| l.memory_events()) {
            rearm(&self.poller, fd, Watch::MemoryEvents(i));
        }
        if trigger && let Some(file) = &unit.strain.trigger {
            rearm(&self.poller, file.as_fd(), Watch::Pressure(i));
        }
    }

    /// The table of services was put in another order: the watches go by their new places.
    pub(super) fn move_memory_watch(&mut self) {
        for i in 0..self.units.len() {
            if let Some(unit) = self.units.get_mut(i) {
                unit.strain.resting = [unit.strain.set_up; 2];
            }
            self.watch_again(i);
        }
    }

    fn strain(&self, i: usize) -> Option<&Strain> {
        match i {
            MACHINE => Some(&self.machine_strain),
            _ => self.units.get(i).map(|u| &u.strain),
        }
    }

    /// A service met its limit, or the kernel killed one of its processes.
    pub(super) fn read_memory_events(&mut self, i: usize) {
        let Some(unit) = self.units.get_mut(i) else {
            return;
        };
        let [events, _] = &mut unit.strain.resting;
        *events = true;
        let Some(counts) = unit.leaf.as_mut().map(|l| l.counts()) else {
            return;
        };
        let killed = counts.oom_kills.saturating_sub(unit.strain.oom_kills);
        unit.strain.oom_kills = counts.oom_kills;
        if killed > 0 {
            self.journal.say(
                Level::Warn,
                format_args!(
                    "out of memory: name={} killed={killed} peak={}",
                    unit.service.name.as_str(),
                    counts.peak_bytes
                ),
            );
        }
    }

    /// A cgroup, or the machine, waited for memory beyond the trigger.
    pub(super) fn read_pressure(&mut self, i: usize) {
        let now = sys::clock::monotonic_ns();
        let (strain, name) = match i {
            MACHINE => (&mut self.machine_strain, crate::why::MACHINE),
            _ => match self.units.get_mut(i) {
                Some(unit) => (&mut unit.strain, unit.service.name.as_str()),
                None => return,
            },
        };
        let [_, trigger] = &mut strain.resting;
        *trigger = true;
        if strain.stalled(now) {
            self.journal
                .say(Level::Warn, format_args!("memory pressure: name={name}"));
        }
    }

    /// What `PressureGet` is answered with for the cgroup at this place; the machine comes first.
    pub(crate) fn pressure(&mut self, place: usize) -> Option<Pressure<'_>> {
        let now = sys::clock::monotonic_ns();
        let of = |strain: &Strain| {
            let ago = match strain.stalled_ns {
                0 => 0,
                at => now.saturating_sub(at),
            };
            (strain.stalls, ago)
        };
        if place == 0 {
            let (stalls, stalled_ago_ns) = of(&self.machine_strain);
            let path = Path::new(MACHINE_FOLDER).join(MACHINE_FILE);
            let text = std::fs::read_to_string(path).unwrap_or_default();
            return Some(Pressure {
                subject: crate::why::MACHINE,
                some_avg10: cgroup::some_avg10(&text),
                stalls,
                stalled_ago_ns,
                oom_kills: 0,
                at_limit: 0,
                peak_bytes: 0,
            });
        }
        let unit = self.units.get_mut(place - 1)?;
        let (stalls, stalled_ago_ns) = of(&unit.strain);
        let counts = unit.leaf.as_mut().map(|l| l.counts()).unwrap_or_default();
        Some(Pressure {
            subject: unit.service.name.as_str(),
            some_avg10: counts.stalled_avg10,
            stalls,
            stalled_ago_ns,
            oom_kills: u32::try_from(counts.oom_kills).unwrap_or(u32::MAX),
            at_limit: counts.at_limit,
            peak_bytes: counts.peak_bytes,
        })
    }
}

fn rearm(poller: &sys::events::Poller, fd: BorrowedFd<'_>, watch: Watch) {
    // One that was never added stays out.
    let _ = poller.change(fd, watch.token(), Interest::PriorityOnce);
}
