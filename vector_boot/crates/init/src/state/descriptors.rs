//! The table of descriptors that go along when PID 1 becomes its next image: what each is, and its number.
//!
//! Kept true while running: a descriptor is listed after it is there and taken out before it is closed, so that a
//! number never means something else. What is not listed is closed by the exec.

use super::State;
use super::layout::{AT_DESCRIPTORS, AT_DESCRIPTORS_USED, DESCRIPTOR_BYTES, DESCRIPTOR_ROWS};
use super::records::{Reader, Writer};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{Ordering, compiler_fence};
use sys::handover::Along;

const NAME_BYTES: usize = 32;
const AT_KIND: usize = 4;
const AT_NUMBER: usize = 8;

/// What a descriptor is. The index beside it is that of the service, image or root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// `init.sock`.
    Control = 1,
    /// The ledger's log.
    Log = 2,
    /// The serial line.
    Tty = 3,
    /// The console for programs.
    Machine = 4,
    /// The boot's token.
    Token = 5,
    /// The sensor page, for readers.
    Sensors = 6,
    /// The sensor page, for its writer.
    SensorsOwn = 7,
    /// The package.
    Package = 8,
    /// The watchdog; the name beside it is the driver's.
    Watchdog = 9,
    /// `/dev/kmsg`.
    Kmsg = 10,
    /// The terminal of PID 1's own lines.
    Terminal = 11,
    /// PID 1's helper, by its pid.
    Helper = 12,
    /// An executable, by its name.
    Image = 13,
    /// The initramfs's own, should the package's not hold.
    ImageFallback = 14,
    /// A root of the gateway, by its name.
    Root = 15,
    /// The trigger on the machine's memory pressure: closing one waits for a grace period of RCU.
    MachinePressure = 16,
    /// A power button, which closes as slowly.
    Button = 17,
    /// The pidfd of a service's process.
    Process = 32,
    /// Read end of its output.
    Output = 33,
    /// Its notify socket.
    Notify = 34,
    /// Its folder in the cgroup tree.
    Leaf = 35,
    /// A namespace of its cell, in the order of their numbers.
    Cell = 36,
    /// A socket bound for it, by its name.
    Listener = 37,
    /// Another descriptor that it gets, by its name.
    Passed = 38,
    /// One that it left in its store, by its name.
    Stored = 39,
    /// The same, and it is kept when its other end is gone.
    StoredUnpolled = 40,
    /// The trigger on its memory pressure.
    Pressure = 41,
}

impl Kind {
    const ALL: [Self; 27] = [
        Self::Control,
        Self::Log,
        Self::Tty,
        Self::Machine,
        Self::Token,
        Self::Sensors,
        Self::SensorsOwn,
        Self::Package,
        Self::Watchdog,
        Self::Kmsg,
        Self::Terminal,
        Self::Helper,
        Self::Image,
        Self::ImageFallback,
        Self::Root,
        Self::MachinePressure,
        Self::Button,
        Self::Process,
        Self::Output,
        Self::Notify,
        Self::Leaf,
        Self::Cell,
        Self::Listener,
        Self::Passed,
        Self::Stored,
        Self::StoredUnpolled,
        Self::Pressure,
    ];

    /// Whether the index beside it is a service's.
    fn is_of_unit(self) -> bool {
        self as u16 >= Self::Process as u16
    }

    fn of(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == number)
    }
}

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed<'a> {
    /// What it is.
    pub kind: Kind,
    /// Whose.
    pub index: u16,
    /// By which name, at most 32 bytes.
    pub name: &'a str,
    /// Its number.
    pub number: RawFd,
}

impl State {
    /// What goes along when this process becomes another program.
    #[must_use]
    pub fn along(&self) -> Along<'_> {
        Along {
            state: self.as_fd(),
            used_at: AT_DESCRIPTORS_USED,
            rows_at: AT_DESCRIPTORS,
            rows: DESCRIPTOR_ROWS,
            row_bytes: DESCRIPTOR_BYTES,
            kind_at: AT_KIND,
            number_at: AT_NUMBER,
        }
    }

    /// Lists a descriptor; a row that had its number before is overwritten. `false` if there is no room.
    pub fn list(&mut self, kind: Kind, index: usize, name: &str, fd: BorrowedFd<'_>) -> bool {
        let number = fd.as_raw_fd();
        let used = self.rows_used();
        let row = (0..used)
            .find(|row| self.number_at(*row) == Some(number))
            .or_else(|| (0..used).find(|row| self.number_at(*row).is_none()))
            .unwrap_or(used);
        let Ok(index) = u16::try_from(index) else {
            return false;
        };
        if row >= DESCRIPTOR_ROWS {
            return false;
        }
        let mut content = [0; DESCRIPTOR_BYTES - AT_KIND];
        let mut writer = Writer::new(&mut content);
        writer.bytes(&(kind as u16).to_le_bytes());
        writer.bytes(&index.to_le_bytes());
        writer.bytes(&number.to_le_bytes());
        writer.bytes(&[0; 4]);
        writer.text(name, NAME_BYTES);
        let at = Self::row_at(row);
        // As it is already.
        if self.get::<{ DESCRIPTOR_BYTES - AT_KIND }>(at + AT_KIND) == content {
            return true;
        }
        self.put(at + AT_KIND, &content);
        let sum = self.sum(at + AT_KIND..at + DESCRIPTOR_BYTES);
        compiler_fence(Ordering::SeqCst);
        self.put(at, &sum.to_le_bytes());
        if row == used {
            let more = u32::try_from(used + 1).unwrap_or(0);
            compiler_fence(Ordering::SeqCst);
            self.put(AT_DESCRIPTORS_USED, &more.to_le_bytes());
        }
        true
    }

    /// Takes a descriptor out that is about to be closed.
    pub fn unlist(&mut self, fd: BorrowedFd<'_>) {
        let number = fd.as_raw_fd();
        self.unlist_where(|row| row.number == number);
    }

    /// Lists all descriptors of these kinds that belong to one index, and no others of them. Those that were closed
    /// since they were listed must not have been followed by a new one yet.
    pub fn relist(&mut self, kinds: &[Kind], index: usize, all: &[(Kind, &str, BorrowedFd<'_>)]) {
        self.unlist_where(|row| {
            let same = |(kind, name, fd): &(Kind, &str, BorrowedFd<'_>)| {
                *kind == row.kind && fd.as_raw_fd() == row.number && *name == row.name
            };
            usize::from(row.index) == index && kinds.contains(&row.kind) && !all.iter().any(same)
        });
        for (kind, name, fd) in all {
            self.list(*kind, index, name, *fd);
        }
    }

    /// Takes out what belongs to services that the table of services does not have any more.
    pub fn unlist_units_from(&mut self, units: usize) {
        self.unlist_where(|row| row.kind.is_of_unit() && usize::from(row.index) >= units);
    }

    fn unlist_where(&mut self, which: impl Fn(&Listed<'_>) -> bool) {
        for row in 0..self.rows_used() {
            if self.listed_at(row).is_some_and(|listed| which(&listed)) {
                self.put(Self::row_at(row), &[0; DESCRIPTOR_BYTES]);
                compiler_fence(Ordering::SeqCst);
            }
        }
    }

    /// The rows that are whole.
    pub fn listed(&self) -> impl Iterator<Item = Listed<'_>> {
        (0..self.rows_used()).filter_map(|row| self.listed_at(row))
    }

    fn listed_at(&self, row: usize) -> Option<Listed<'_>> {
        let at = Self::row_at(row);
        let number = self.number_at(row)?;
        if self.get_u32(at) != self.sum(at + AT_KIND..at + DESCRIPTOR_BYTES) {
            return None;
        }
        let mut reader = Reader::new(
            self.region
                .as_slice()
                .get(at + AT_KIND..at + DESCRIPTOR_BYTES)?,
        );
        let kind = Kind::of(u16::from_le_bytes(reader.bytes()))?;
        let index = u16::from_le_bytes(reader.bytes());
        let _number_and_zero: [u8; 8] = reader.bytes();
        Some(Listed {
            kind,
            index,
            name: reader.text(NAME_BYTES),
            number,
        })
    }

    /// The number in a row that is in use, whether or not the row is whole.
    fn number_at(&self, row: usize) -> Option<RawFd> {
        let at = Self::row_at(row);
        (self.get::<2>(at + AT_KIND) != [0; 2])
            .then(|| RawFd::from_le_bytes(self.get(at + AT_NUMBER)))
    }

    fn rows_used(&self) -> usize {
        usize::try_from(self.get_u32(AT_DESCRIPTORS_USED))
            .unwrap_or(0)
            .min(DESCRIPTOR_ROWS)
    }

    fn row_at(row: usize) -> usize {
        AT_DESCRIPTORS + row * DESCRIPTOR_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    fn rows(state: &State) -> Vec<(Kind, u16, String, RawFd)> {
        let own = |l: Listed<'_>| (l.kind, l.index, l.name.to_owned(), l.number);
        let mut rows: Vec<_> = state.listed().map(own).collect();
        rows.sort_by_key(|row| row.3);
        rows
    }

    #[test]
    fn a_number_means_one_thing() {
        let mut state = State::new([0; 16]).unwrap();
        let (a, b) = (File::open("/").unwrap(), File::open("/").unwrap());
        assert!(state.list(Kind::Output, 3, "", a.as_fd()));
        assert!(state.list(Kind::Listener, 3, "http", b.as_fd()));
        assert!(state.list(Kind::Stored, 4, "kept", a.as_fd()));
        let mut expected = vec![
            (Kind::Stored, 4, "kept".to_owned(), a.as_raw_fd()),
            (Kind::Listener, 3, "http".to_owned(), b.as_raw_fd()),
        ];
        expected.sort_by_key(|row| row.3);
        assert_eq!(rows(&state), expected);
        state.unlist(a.as_fd());
        assert!(
            state.list(Kind::Process, 5, "", a.as_fd()),
            "the row is free again"
        );
        state.relist(&[Kind::Listener, Kind::Output], 3, &[]);
        assert_eq!(
            rows(&state),
            [(Kind::Process, 5, String::new(), a.as_raw_fd())]
        );
    }

    #[test]
    fn a_service_that_is_gone_has_no_descriptors() {
        let mut state = State::new([0; 16]).unwrap();
        let files: Vec<File> = (0..3).map(|_| File::open("/").unwrap()).collect();
        assert!(state.list(Kind::Listener, 1, "http", files[0].as_fd()));
        assert!(state.list(Kind::Pressure, 2, "", files[1].as_fd()));
        assert!(state.list(Kind::Image, 2, "added", files[2].as_fd()));
        state.unlist_units_from(2);
        let kinds: Vec<Kind> = rows(&state).into_iter().map(|row| row.0).collect();
        assert_eq!(kinds, [Kind::Listener, Kind::Image]);
    }

    proptest! {
        #[test]
        fn the_table_is_what_was_listed_last(steps in prop::collection::vec((0..12usize, 0..4usize, any::<bool>()), 0..60)) {
            let files: Vec<File> = (0..12).map(|_| File::open("/").unwrap()).collect();
            let mut state = State::new([0; 16]).unwrap();
            let mut model = std::collections::BTreeMap::new();
            for (at, index, there) in steps {
                let number = files[at].as_raw_fd();
                if there {
                    prop_assert!(state.list(Kind::Passed, index, "x", files[at].as_fd()));
                    model.insert(number, u16::try_from(index).unwrap());
                } else {
                    state.unlist(files[at].as_fd());
                    model.remove(&number);
                }
                let found: std::collections::BTreeMap<_, _> = state.listed().map(|l| (l.number, l.index)).collect();
                prop_assert_eq!(&found, &model);
            }
        }
    }
}
