//! What the heart keeps in the state memfd, so that another image of PID 1 can go on at any instruction: the rows
//! of services, how far the machine is, and the descriptors that go along.
//!
//! Nothing here decides. Start with [`Heart::list_all`]; `crate::resume` is the reading side.

use super::{Ending, Heart, Held};
use crate::state::descriptors::Kind;
use crate::state::records::{MachineRow, PhaseRow, Text, UNIT_POLICY_BYTES, UnitRow};
use crate::supervisor::{Action, Actions, Event, SNAPSHOT_BYTES};
use crate::unit::CellState;
use std::os::fd::{AsFd, BorrowedFd};
use sys::spawn::{NAMESPACES_MAX, PASSED_MAX};
use wire::control::Power;

/// Descriptors of one service beside its process and output: notify socket, folder, trigger, cell, and what it
/// gets.
const OF_UNIT_MAX: usize = 3 + NAMESPACES_MAX + PASSED_MAX;
const OF_UNIT: [Kind; 6] = [
    Kind::Notify,
    Kind::Leaf,
    Kind::Pressure,
    Kind::Cell,
    Kind::Listener,
    Kind::Passed,
];
/// Namespaces are told apart by their place.
const PLACES: [&str; NAMESPACES_MAX] = ["0", "1", "2", "3"];

impl Heart {
    /// Lists everything that is to go along, and from now on every change of it.
    pub(super) fn list_all(&mut self) {
        self.lists = true;
        for i in 0..self.units.len() {
            self.list_unit(i);
            self.list_process(i);
            self.write_row(i);
        }
        let state = &mut self.journal.state;
        state.unlist_units_from(self.units.len());
        self.list_machine();
        self.write_texts();
        self.write_machine();
    }

    /// Lists what belongs to no service.
    pub(super) fn list_machine(&mut self) {
        if !self.lists {
            return;
        }
        self.journal.list_own();
        let state = &mut self.journal.state;
        state.list(Kind::Control, 0, "", self.control.as_fd());
        let open = &self.open;
        for (kind, fd) in [
            (Kind::Token, &self.token),
            (Kind::Log, &open.log),
            (Kind::Tty, &open.tty),
            (Kind::Machine, &open.machine),
            (Kind::Sensors, &self.sensors),
            (Kind::SensorsOwn, &self.sensors_own),
            (Kind::Package, &self.rts),
        ] {
            if let Some(fd) = fd {
                state.list(kind, 0, "", fd.as_fd());
            }
        }
        if let Some(trigger) = self.machine_strain.trigger() {
            state.list(Kind::MachinePressure, 0, "", trigger);
        }
        for (i, button) in self.buttons.iter().flatten().flatten().enumerate() {
            state.list(Kind::Button, i, "", button.as_fd());
        }
        if let Some(dog) = self.watchdog.dog() {
            state.list(Kind::Watchdog, 0, "", dog.as_fd());
        }
        for (i, image) in self.images.iter().enumerate() {
            if let Held::Yes(fd) = &image.held {
                state.list(Kind::Image, i, &image.name, fd.as_fd());
            }
            if let Some(fd) = &image.fallback {
                state.list(Kind::ImageFallback, i, &image.name, fd.as_fd());
            }
        }
        for (i, (name, fd)) in open.roots.iter().enumerate() {
            state.list(Kind::Root, i, name, fd.as_fd());
        }
    }

    /// Lists the descriptors of a service that outlive its process.
    pub(super) fn list_unit(&mut self, i: usize) {
        let Some(unit) = self.units.get(i).filter(|_| self.lists) else {
            return;
        };
        let mut all = heapless::Vec::<(Kind, &str, BorrowedFd<'_>), OF_UNIT_MAX>::new();
        let own = [
            (Kind::Notify, unit.notify()),
            (Kind::Leaf, unit.leaf.as_ref().map(|l| l.folder.as_fd())),
            (Kind::Pressure, unit.strain.trigger()),
        ];
        all.extend(
            own.into_iter()
                .filter_map(|(kind, fd)| Some((kind, "", fd?))),
        );
        if let CellState::Made(cell) = &unit.cell {
            let places = PLACES.iter().zip(cell);
            all.extend(places.map(|(place, fd)| (Kind::Cell, *place, fd.as_fd())));
        }
        let listeners = unit.listeners.iter().map(|(n, fd)| (Kind::Listener, n, fd));
        let passed = unit.passed.iter().map(|(n, fd)| (Kind::Passed, n, fd));
        for (kind, name, fd) in listeners.chain(passed) {
            // Nothing starts with more.
            let _ = all.push((kind, name.as_str(), fd.as_fd()));
        }
        self.journal.state.relist(&OF_UNIT, i, &all);
    }

    /// Lists a service's process and its output.
    pub(super) fn list_process(&mut self, i: usize) {
        let Some(unit) = self.units.get(i).filter(|_| self.lists) else {
            return;
        };
        let mut all = heapless::Vec::<(Kind, &str, BorrowedFd<'_>), 2>::new();
        let own = [
            (Kind::Process, unit.child.as_ref().map(|c| c.pidfd.as_fd())),
            (Kind::Output, unit.output.as_ref().map(AsFd::as_fd)),
        ];
        all.extend(
            own.into_iter()
                .filter_map(|(kind, fd)| Some((kind, "", fd?))),
        );
        let kinds = [Kind::Process, Kind::Output];
        self.journal.state.relist(&kinds, i, &all);
    }

    /// Writes the rows of the services that a step of the policy was about.
    pub(super) fn write_rows_of(&mut self, event: Event, actions: &Actions) {
        if !self.lists {
            return;
        }
        let mut touched = match event {
            Event::Tick => 0,
            Event::Shutdown => u32::MAX,
            Event::Unblocked(i)
            | Event::Started(i)
            | Event::StartFailed(i)
            | Event::Ready(i)
            | Event::Alive(i)
            | Event::Hangs(i)
            | Event::WatchdogLimit { unit: i, .. }
            | Event::Extend { unit: i, .. }
            | Event::Ending(i)
            | Event::Exited { unit: i, .. }
            | Event::Start(i)
            | Event::Stop(i)
            | Event::Restart(i) => bit(i),
        };
        for action in actions {
            touched |= match action {
                Action::Start(i)
                | Action::Terminate(i)
                | Action::Kill(i, _)
                | Action::Abort(i, _)
                | Action::Changed { unit: i, .. } => bit(*i),
                Action::AllStopped => 0,
            };
        }
        for i in (0..self.units.len()).filter(|i| touched & bit(*i) != 0) {
            self.write_row(i);
        }
    }

    /// Writes how a service stands.
    pub(super) fn write_row(&mut self, i: usize) {
        let Some(unit) = self.units.get(i) else {
            return;
        };
        let mut policy = [0; UNIT_POLICY_BYTES];
        if let (Some(place), Some(snapshot)) = (
            policy.first_chunk_mut::<SNAPSHOT_BYTES>(),
            self.supervisor.snapshot(i),
        ) {
            *place = snapshot.to_bytes();
        }
        let row = UnitRow {
            name: unit.service.name.as_str(),
            pid: unit.child.as_ref().map_or(0, |c| c.pid.unsigned_abs()),
            started_ns: unit.started_ns,
            ready_ns: unit.ready_ns,
            restarts: self.supervisor.restarts(i),
            phase: self.supervisor.phase(i) as u8,
            prepared: unit.spawn.is_some(),
            never_ran: unit.never_ran,
            has_cell: matches!(unit.cell, CellState::Made(_)),
            image: u8::try_from(unit.image).unwrap_or(u8::MAX),
            last_exit: unit.last_exit.as_str(),
            status: unit.status.as_str(),
            policy,
        };
        self.journal.state.set_unit(i, &row);
    }

    /// Writes how far the machine is, if that changed.
    pub(super) fn write_machine(&mut self) {
        let row = MachineRow {
            ready_said: self.ready_said,
            storage_ready: self.storage_ready,
            data_opened: self.data_opened,
            data_writable: self.data_writable,
            verified: self.verified,
            tensors_verified: self.tensors_verified,
            switched: self.switched,
            blocks_damaged: self.blocks_damaged,
            scrub_next: self.scrub_next.or(self.scrub_from),
            ending: match self.ending {
                Ending::No => 0,
                Ending::Draining(_) => 1,
                Ending::Stopping => 2,
                Ending::Unmounting(_) => 3,
                Ending::Over => 4,
            },
            power: match self.power {
                Power::Reboot => 1,
                Power::Poweroff => 2,
                Power::Halt => 3,
            },
            clock_set_ns: self.clock.set_at().unwrap_or(0),
            ..MachineRow::default()
        };
        if self.lists && row != self.written {
            self.journal.state.set_machine(&row);
            self.written = row;
        }
    }

    /// Writes what is said in sentences.
    fn write_texts(&mut self) {
        let cut_off = self.upgrade_cut_off();
        let state = &mut self.journal.state;
        for (what, all) in [
            (Text::Degraded, &self.degraded),
            (Text::Mounted, &self.mounted),
        ] {
            state.clear_texts(what);
            for text in all {
                state.add_text(what, text);
            }
        }
        if let Some(text) = cut_off {
            state.add_text(Text::Degraded, &text);
        }
        state.clear_texts(Text::Unconfined);
        for text in self.unconfined.split("; ").filter(|t| !t.is_empty()) {
            state.add_text(Text::Unconfined, text);
        }
        state.clear_texts(Text::DataDevice);
        if let Some(device) = &self.data_device {
            state.add_text(Text::DataDevice, device);
        }
    }

    /// Writes the phase that was noted last.
    pub(super) fn write_phase(&mut self) {
        let slot = self.phases.len().saturating_sub(1);
        if let Some(phase) = self.phases.last() {
            let row = PhaseRow {
                name: phase.name.as_str(),
                begin_ns: phase.begin_ns,
                end_ns: phase.end_ns,
                note: &phase.note,
            };
            self.journal.state.set_phase(slot, &row);
        }
    }
}

/// The place of a namespace by its name.
pub fn place_of(name: &str) -> Option<usize> {
    PLACES.iter().position(|place| *place == name)
}

fn bit(i: usize) -> u32 {
    u32::try_from(i)
        .ok()
        .and_then(|i| 1u32.checked_shl(i))
        .unwrap_or(0)
}
