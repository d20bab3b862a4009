//! The cells of the services: asked of the helper when what they show is there, held for all restarts.
//!
//! A service whose cell cannot be made is not started: on the appliance nobody runs beside his cell.

use super::Heart;
use crate::helper_link::Purpose;
use crate::state::Level;
use crate::state::records::Text;
use crate::unit::CellState;
use jail::Profile;
use jail::cell::View;
use rts::manifest::{Image, ListenKind, Service};
use std::fmt::Write;
use std::os::fd::OwnedFd;
use wire::helper::{Cell, Task};

/// Times that a cell is asked for: memory may be short for a moment.
const TRIES_MAX: u8 = 3;
/// Bytes of all that is left out, so that `status` fits its packet.
const UNCONFINED_BYTES_MAX: usize = 2048;

/// What a service is confined as.
pub fn profile_of(service: &Service) -> Profile {
    match service.image {
        Image::Added(_) => Profile::of_name(service.profile.as_str()).unwrap_or(Profile::Foreign),
        Image::VectorBoot | Image::Services => service
            .args
            .first()
            .and_then(|role| Profile::of_name(role.as_str()))
            .unwrap_or(Profile::Foreign),
    }
}

impl Heart {
    /// Whether a service can enter its cell; asks for the cell if nobody did.
    pub(super) fn cell_is_there(&mut self, i: usize) -> bool {
        if !self.setup.is_appliance() {
            return true;
        }
        let Some(unit) = self.units.get_mut(i) else {
            return false;
        };
        if !unit.service.is_confined() {
            return true;
        }
        match unit.cell {
            CellState::Made(_) => true,
            CellState::Asked(_) | CellState::Refused => false,
            CellState::Unasked => {
                unit.cell = CellState::Asked(1);
                self.ask_cell(i);
                false
            }
        }
    }

    fn ask_cell(&mut self, i: usize) {
        let Some(unit) = self.units.get(i) else {
            return;
        };
        let (service, profile) = (&unit.service, profile_of(&unit.service));
        let added = matches!(service.image, Image::Added(_));
        let view = if added {
            View::of_stranger(profile)
        } else {
            View::of(profile)
        };
        let mut sockets = String::new();
        if added {
            // Who needs a service speaks to it.
            let needed =
                |other: &&crate::unit::Unit| service.needs.iter().any(|n| n == other.name());
            for listen in self
                .units
                .iter()
                .filter(needed)
                .flat_map(|other| &other.service.listen)
                .filter(|listen| listen.kind != ListenKind::Tcp)
            {
                // Writing to a String cannot fail.
                let _ = write!(sockets, "{}:", listen.address.as_str());
            }
        }
        let task = Task::Cell(Cell {
            service: unit.name(),
            profile: profile.name(),
            uid: unit.uid,
            data: service.data,
            notify: unit.notify().is_some(),
            foreign: added,
            network: view.has_network(service.network),
            tmp_bytes: service.tmp_bytes,
            sockets: &sockets,
        });
        if !self.helper.ask(Purpose::Cell(i), &task, None) {
            self.take_cell(i, Err("the helper's queue is full".to_owned()));
        }
    }

    pub(super) fn take_cell(&mut self, i: usize, result: Result<(Vec<OwnedFd>, String), String>) {
        let Some(unit) = self.units.get_mut(i) else {
            return;
        };
        match (result, &unit.cell) {
            (Ok((namespaces, lacking)), _) => {
                unit.cell = CellState::Made(namespaces);
                if !lacking.is_empty() {
                    let what = format!("namespaces {lacking}: not in this kernel");
                    self.leave_out(&what);
                }
                self.list_unit(i);
                self.unblock(i);
            }
            (Err(_), CellState::Asked(tries)) if *tries < TRIES_MAX => {
                unit.cell = CellState::Asked(tries + 1);
                self.ask_cell(i);
            }
            (Err(e), _) => {
                unit.cell = CellState::Refused;
                let reason = format!("service {}: not started without its cell: {e}", unit.name());
                self.degrade(reason);
                self.upgrade_lacks(i);
            }
        }
    }

    /// Says what became of the kernel's switches.
    pub(crate) fn take_switches(&mut self, switched: crate::harden::Switched) {
        self.switched = true;
        let absent = &switched.absent;
        self.journal.say(
            Level::Info,
            format_args!("kernel switches: set={} absent=\"{absent}\"", switched.set),
        );
        for failed in switched.failed {
            self.leave_out(&failed);
        }
    }

    /// Says once what of the confinement is left out here; `status` goes on saying it.
    pub(crate) fn leave_out(&mut self, what: &str) {
        let said = self.unconfined.split("; ").any(|earlier| earlier == what);
        if said || self.unconfined.len() + what.len() > UNCONFINED_BYTES_MAX {
            return;
        }
        if !self.unconfined.is_empty() {
            self.unconfined.push_str("; ");
        }
        self.unconfined.push_str(what);
        self.journal.state.add_text(Text::Unconfined, what);
        self.journal
            .say(Level::Warn, format_args!("unconfined: {what}"));
    }
}
