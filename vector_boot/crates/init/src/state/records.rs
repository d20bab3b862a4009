//! The records of the state beside log and outbox: services, heartbeat, crashes, the machine, reasons, phases.
//!
//! Each is written whole, and read whole or not at all.

use super::layout::{
    self, AT_DOING, AT_PARTIALS, AT_PHASES, AT_TEXTS, AT_WHY, BEAT, CRASHES, MACHINE,
    PARTIAL_BYTES, PHASE_BYTES, PHASE_SLOTS, TEXT_BYTES, TEXT_SLOTS, UNIT_BYTES, UNITS, WHY_BYTES,
};
use super::{Fixed, State};
use wire::control::LATENESS_BUCKETS;

pub use layout::WHY_SLOTS;

/// Bytes of the supervisor's numbers in the row of a service.
pub const UNIT_POLICY_BYTES: usize = 256;
/// Bytes of the supervisor's numbers that belong to no service.
pub const POLICY_BYTES: usize = 192;
/// Bytes of one reason; the rest of its slot says how long it is and whether it is whole.
pub const WHY_BYTES_MAX: usize = WHY_BYTES - 8;
/// Bytes of one sentence.
pub const TEXT_BYTES_MAX: usize = TEXT_BYTES - 8;
const NAME_BYTES: usize = 32;
const EXIT_BYTES: usize = 96;
const STATUS_BYTES: usize = 128;
const PHASE_NAME_BYTES: usize = 46;
const PHASE_NOTE_BYTES: usize = 56;
const PARTIAL_BYTES_MAX: usize = PARTIAL_BYTES - 8;

/// Crashes that are remembered by their time.
pub const CRASHES_REMEMBERED: usize = 8;

/// One service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitRow<'a> {
    /// The manifest's name.
    pub name: &'a str,
    /// Its process, 0 for none.
    pub pid: u32,
    /// When the process started (CLOCK_MONOTONIC), to tell it from a successor of its pid.
    pub started_ns: u64,
    /// From its start to its readiness.
    pub ready_ns: u64,
    /// Restarts since boot.
    pub restarts: u32,
    /// `Phase` as a number, in the order of its declaration.
    pub phase: u8,
    /// Everything that its start needs was there once.
    pub prepared: bool,
    /// Its program has not become a process once.
    pub never_ran: bool,
    /// Its cell is made.
    pub has_cell: bool,
    /// Place of its executable in the table of images.
    pub image: u8,
    /// How the last process ended.
    pub last_exit: &'a str,
    /// What it last said with `STATUS=`.
    pub status: &'a str,
    /// The supervisor's numbers.
    pub policy: [u8; UNIT_POLICY_BYTES],
}

impl Default for UnitRow<'_> {
    fn default() -> Self {
        Self {
            name: "",
            pid: 0,
            started_ns: 0,
            ready_ns: 0,
            restarts: 0,
            phase: 0,
            prepared: false,
            never_ran: false,
            has_cell: false,
            image: 0,
            last_exit: "",
            status: "",
            policy: [0; UNIT_POLICY_BYTES],
        }
    }
}

/// What the heartbeat counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BeatRow {
    /// Beats.
    pub count: u64,
    /// Beats whose own CPU time exceeded the period.
    pub missed: u64,
    /// Expirations of the timer that came together with another.
    pub coalesced: u64,
    /// CPU time of the dearest beat.
    pub cpu_max_ns: u64,
    /// The latest beginning.
    pub late_max_ns: u64,
    /// Processes that were reaped and were nobody's.
    pub orphans: u64,
    /// How late beats began.
    pub lateness: [u32; LATENESS_BUCKETS],
}

/// Crashes of PID 1 in this boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CrashRow {
    /// How many.
    pub total: u32,
    /// When the last ones were (CLOCK_MONOTONIC), the newest first; 0 is none.
    pub at_ns: [u64; CRASHES_REMEMBERED],
    /// When the services were watched again after the last one.
    pub watched_ns: u64,
}

impl CrashRow {
    /// Notes one more.
    #[must_use]
    pub fn and(mut self, at_ns: u64) -> Self {
        self.total = self.total.saturating_add(1);
        self.at_ns.rotate_right(1);
        let [newest, ..] = &mut self.at_ns;
        *newest = at_ns;
        self
    }

    /// How many of those that are remembered happened within `window_ns` before `now`.
    #[must_use]
    pub fn within(&self, now: u64, window_ns: u64) -> usize {
        let recent = |at: &&u64| **at > 0 && now.saturating_sub(**at) < window_ns;
        self.at_ns.iter().filter(recent).count()
    }
}

/// How far the machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineRow {
    /// All services were up once.
    pub ready_said: bool,
    /// Disks are mounted and folders made.
    pub storage_ready: bool,
    /// The data folder is in hand.
    pub data_opened: bool,
    /// It was mounted so that it can be written.
    pub data_writable: bool,
    /// The package was hashed outside its tensors, whether it held or not.
    pub verified: bool,
    /// Its tensors were hashed too.
    pub tensors_verified: bool,
    /// The kernel's switches that are not set before the services are set.
    pub switched: bool,
    /// Blocks of tensors that were damaged.
    pub blocks_damaged: u32,
    /// Where the hashing of the tensors goes on, if it began.
    pub scrub_next: Option<u64>,
    /// How far an orderly end is: 0 none, then the order of its steps.
    pub ending: u8,
    /// How it is to end.
    pub power: u8,
    /// When the clock was set last; 0 for never.
    pub clock_set_ns: u64,
    /// The supervisor's numbers.
    pub policy: [u8; POLICY_BYTES],
}

impl Default for MachineRow {
    fn default() -> Self {
        Self {
            ready_said: false,
            storage_ready: false,
            data_opened: false,
            data_writable: false,
            verified: false,
            tensors_verified: false,
            switched: false,
            blocks_damaged: 0,
            scrub_next: None,
            ending: 0,
            power: 0,
            clock_set_ns: 0,
            policy: [0; POLICY_BYTES],
        }
    }
}

/// What a sentence is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Text {
    /// A cause of the degraded state, for good.
    Degraded = 1,
    /// What of the confinement is left out here.
    Unconfined = 2,
    /// A folder that is unmounted at the end.
    Mounted = 3,
    /// The data disk's device, until its file system was asked to grow.
    DataDevice = 4,
}

/// One phase of the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhaseRow<'a> {
    /// Its name.
    pub name: &'a str,
    /// From the handoff.
    pub begin_ns: u64,
    /// From the handoff.
    pub end_ns: u64,
    /// For people; cut.
    pub note: &'a str,
}

impl State {
    /// Writes the row of one service.
    pub fn set_unit(&mut self, index: usize, row: &UnitRow<'_>) {
        if index >= UNITS {
            return;
        }
        let mut content = [0; UNIT_BYTES - layout::TWIN_HEAD];
        let mut writer = Writer::new(&mut content);
        writer.text(row.name, NAME_BYTES);
        writer.u32(row.pid);
        writer.u32(row.restarts);
        writer.u64(row.started_ns);
        writer.u64(row.ready_ns);
        writer.bytes(&[
            row.phase,
            u8::from(row.prepared),
            u8::from(row.never_ran),
            u8::from(row.has_cell),
            row.image,
            0,
            0,
            0,
        ]);
        writer.text(row.last_exit, EXIT_BYTES);
        writer.text(row.status, STATUS_BYTES);
        writer.bytes(&row.policy);
        self.put_twin(layout::unit(index), &content);
    }

    /// The row of one service, if one was written and a copy of it is whole.
    #[must_use]
    pub fn unit(&self, index: usize) -> Option<UnitRow<'_>> {
        let twin = (index < UNITS).then(|| layout::unit(index))?;
        let mut reader = Reader::new(self.twin(twin)?);
        let name = reader.text(NAME_BYTES);
        let (pid, restarts) = (reader.u32(), reader.u32());
        let (started_ns, ready_ns) = (reader.u64(), reader.u64());
        let [phase, prepared, never_ran, has_cell, image, ..] = reader.bytes::<8>();
        Some(UnitRow {
            name,
            pid,
            started_ns,
            ready_ns,
            restarts,
            phase,
            prepared: prepared != 0,
            never_ran: never_ran != 0,
            has_cell: has_cell != 0,
            image,
            last_exit: reader.text(EXIT_BYTES),
            status: reader.text(STATUS_BYTES),
            policy: reader.bytes(),
        })
    }

    /// Writes what the heartbeat counts.
    pub fn set_beat(&mut self, row: &BeatRow) {
        let mut content = [0; BEAT.room()];
        let mut writer = Writer::new(&mut content);
        for number in [
            row.count,
            row.missed,
            row.coalesced,
            row.cpu_max_ns,
            row.late_max_ns,
            row.orphans,
        ] {
            writer.u64(number);
        }
        row.lateness.iter().for_each(|count| writer.u32(*count));
        self.put_twin(BEAT, &content);
    }

    /// What the heartbeat counted; nothing before its first beat.
    #[must_use]
    pub fn beat(&self) -> BeatRow {
        let Some(content) = self.twin(BEAT) else {
            return BeatRow::default();
        };
        let mut reader = Reader::new(content);
        let [count, missed, coalesced, cpu_max_ns, late_max_ns, orphans] =
            std::array::from_fn(|_| reader.u64());
        BeatRow {
            count,
            missed,
            coalesced,
            cpu_max_ns,
            late_max_ns,
            orphans,
            lateness: std::array::from_fn(|_| reader.u32()),
        }
    }

    /// Writes the crashes of this boot.
    pub fn set_crashes(&mut self, row: &CrashRow) {
        let mut content = [0; CRASHES.room()];
        let mut writer = Writer::new(&mut content);
        writer.u64(u64::from(row.total));
        writer.u64(row.watched_ns);
        row.at_ns.iter().for_each(|at| writer.u64(*at));
        self.put_twin(CRASHES, &content);
    }

    /// The crashes of this boot.
    #[must_use]
    pub fn crashes(&self) -> CrashRow {
        let Some(content) = self.twin(CRASHES) else {
            return CrashRow::default();
        };
        let mut reader = Reader::new(content);
        CrashRow {
            total: u32::try_from(reader.u64()).unwrap_or(u32::MAX),
            watched_ns: reader.u64(),
            at_ns: std::array::from_fn(|_| reader.u64()),
        }
    }

    /// Writes how far the machine is.
    pub fn set_machine(&mut self, row: &MachineRow) {
        let mut content = [0; MACHINE.room()];
        let mut writer = Writer::new(&mut content);
        writer.bytes(
            &[
                row.ready_said,
                row.storage_ready,
                row.data_opened,
                row.data_writable,
                row.verified,
                row.tensors_verified,
                row.scrub_next.is_some(),
                row.switched,
            ]
            .map(u8::from),
        );
        writer.bytes(&[row.ending, row.power, 0, 0]);
        writer.u32(row.blocks_damaged);
        writer.u64(row.scrub_next.unwrap_or(0));
        writer.u64(row.clock_set_ns);
        writer.bytes(&row.policy);
        self.put_twin(MACHINE, &content);
    }

    /// How far the machine was, if it was written.
    #[must_use]
    pub fn machine(&self) -> Option<MachineRow> {
        let mut reader = Reader::new(self.twin(MACHINE)?);
        let [
            ready_said,
            storage_ready,
            data_opened,
            data_writable,
            verified,
            tensors_verified,
            scrubs,
            switched,
        ] = reader.bytes::<8>().map(|flag| flag != 0);
        let [ending, power, ..] = reader.bytes::<4>();
        let (blocks_damaged, scrub_next) = (reader.u32(), reader.u64());
        let clock_set_ns = reader.u64();
        Some(MachineRow {
            ready_said,
            storage_ready,
            data_opened,
            data_writable,
            verified,
            tensors_verified,
            switched,
            blocks_damaged,
            scrub_next: scrubs.then_some(scrub_next),
            ending,
            power,
            clock_set_ns,
            policy: reader.bytes(),
        })
    }

    /// Says what PID 1 is at: one byte, so that whoever finds this after a crash knows.
    pub fn set_doing(&mut self, doing: u8) {
        self.put(AT_DOING, &[doing]);
    }

    /// What PID 1 was at.
    #[must_use]
    pub fn doing(&self) -> u8 {
        let [doing] = self.get::<1>(AT_DOING);
        doing
    }

    /// Writes a reason into a slot; what is longer than [`WHY_BYTES_MAX`] is cut.
    pub fn set_why(&mut self, slot: usize, reason: &[u8]) {
        if slot < WHY_SLOTS {
            self.put_block(AT_WHY + slot * WHY_BYTES, WHY_BYTES, 0, reason);
        }
    }

    /// The reason in a slot, if there is a whole one.
    #[must_use]
    pub fn why(&self, slot: usize) -> Option<&[u8]> {
        let at = (slot < WHY_SLOTS).then_some(AT_WHY + slot * WHY_BYTES)?;
        Some(self.block(at, WHY_BYTES)?.1)
    }

    /// Adds a sentence; `false` if there is no room.
    pub fn add_text(&mut self, what: Text, text: &str) -> bool {
        let free = (0..TEXT_SLOTS)
            .map(|slot| AT_TEXTS + slot * TEXT_BYTES)
            .find(|at| self.block(*at, TEXT_BYTES).is_none());
        if let Some(at) = free {
            let cut = Fixed::<TEXT_BYTES_MAX>::of(format_args!("{text}"));
            self.put_block(at, TEXT_BYTES, what as u16, cut.as_str().as_bytes());
        }
        free.is_some()
    }

    /// All sentences of one kind, in the order of their slots.
    pub fn texts(&self, what: Text) -> impl Iterator<Item = &str> {
        (0..TEXT_SLOTS)
            .filter_map(|slot| self.block(AT_TEXTS + slot * TEXT_BYTES, TEXT_BYTES))
            .filter(move |(kind, _)| *kind == what as u16)
            .filter_map(|(_, text)| std::str::from_utf8(text).ok())
    }

    /// Removes all sentences of one kind.
    pub fn clear_texts(&mut self, what: Text) {
        for slot in 0..TEXT_SLOTS {
            let at = AT_TEXTS + slot * TEXT_BYTES;
            if self
                .block(at, TEXT_BYTES)
                .is_some_and(|(kind, _)| kind == what as u16)
            {
                self.put(at, &[0; 8]);
            }
        }
    }

    /// Writes the phase of this number.
    pub fn set_phase(&mut self, slot: usize, row: &PhaseRow<'_>) {
        if slot >= PHASE_SLOTS {
            return;
        }
        let mut content = [0; PHASE_BYTES - 8];
        let mut writer = Writer::new(&mut content);
        writer.u64(row.begin_ns);
        writer.u64(row.end_ns);
        writer.text(row.name, PHASE_NAME_BYTES);
        writer.text(row.note, PHASE_NOTE_BYTES);
        self.put_block(AT_PHASES + slot * PHASE_BYTES, PHASE_BYTES, 1, &content);
    }

    /// The phases that were written, in their order.
    pub fn phases(&self) -> impl Iterator<Item = PhaseRow<'_>> {
        (0..PHASE_SLOTS)
            .map_while(|slot| self.block(AT_PHASES + slot * PHASE_BYTES, PHASE_BYTES))
            .map(|(_, content)| {
                let mut reader = Reader::new(content);
                let (begin_ns, end_ns) = (reader.u64(), reader.u64());
                PhaseRow {
                    begin_ns,
                    end_ns,
                    name: reader.text(PHASE_NAME_BYTES),
                    note: reader.text(PHASE_NOTE_BYTES),
                }
            })
    }

    /// Keeps the beginning of a line whose end a service has not written yet; empty for none.
    pub fn set_partial(&mut self, index: usize, bytes: &[u8]) {
        if index >= UNITS {
            return;
        }
        let at = AT_PARTIALS + index * PARTIAL_BYTES;
        let bytes = bytes.get(..PARTIAL_BYTES_MAX).unwrap_or(bytes);
        if bytes.is_empty() && self.get_u64(at) == 0 {
            return;
        }
        self.commit_u64(at, 0);
        self.put(at + 8, bytes);
        self.commit_u64(at, bytes.len() as u64);
    }

    /// The beginning of a line.
    #[must_use]
    pub fn partial(&self, index: usize) -> &[u8] {
        if index >= UNITS {
            return &[];
        }
        let at = AT_PARTIALS + index * PARTIAL_BYTES;
        let length = usize::try_from(self.get_u64(at)).unwrap_or(0);
        let length = if length <= PARTIAL_BYTES_MAX {
            length
        } else {
            0
        };
        self.region
            .as_slice()
            .get(at + 8..at + 8 + length)
            .unwrap_or_default()
    }

    /// A record of which a crash in between may leave none: CRC-32, kind, bytes, content.
    fn put_block(&mut self, at: usize, bytes: usize, kind: u16, content: &[u8]) {
        let content = content.get(..bytes - 8).unwrap_or(content);
        // The checksum of nothing matches nothing below.
        self.put(at, &[0; 8]);
        self.put(at + 8, content);
        let length = u16::try_from(content.len()).unwrap_or(0);
        let mut head = [0; 4];
        let mut writer = Writer::new(&mut head);
        writer.bytes(&kind.to_le_bytes());
        writer.bytes(&length.to_le_bytes());
        self.put(at + 4, &head);
        let sum = self.sum(at + 4..at + 8 + content.len());
        std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
        self.put(at, &sum.to_le_bytes());
    }

    fn block(&self, at: usize, bytes: usize) -> Option<(u16, &[u8])> {
        let [k0, k1, l0, l1] = self.get::<4>(at + 4);
        let length = usize::from(u16::from_le_bytes([l0, l1]));
        if length > bytes - 8 || self.get::<8>(at) == [0; 8] {
            return None;
        }
        let whole = self.get_u32(at) == self.sum(at + 4..at + 8 + length);
        let content = self.region.as_slice().get(at + 8..at + 8 + length)?;
        whole.then_some((u16::from_le_bytes([k0, k1]), content))
    }
}

/// Fields one behind the other.
pub struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    /// From the beginning.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// As they are; what does not fit is left out.
    pub fn bytes(&mut self, content: &[u8]) {
        if let Some(place) = self.bytes.get_mut(self.at..self.at + content.len()) {
            place.copy_from_slice(content);
        }
        self.at += content.len();
    }

    /// Little-endian.
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    /// Little-endian.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// Padded with zeros to `room`, cut to it.
    pub fn text(&mut self, text: &str, room: usize) {
        let mut end = text.len().min(room);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let at = self.at;
        self.bytes(text.as_bytes().get(..end).unwrap_or_default());
        self.at = at + room;
    }
}

/// The fields of a [`Writer`]; behind the end there are zeros.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// From the beginning.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let taken = self.bytes.get(self.at..self.at + length);
        self.at += length;
        taken.unwrap_or_default()
    }

    /// As they are.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).first_chunk().copied().unwrap_or([0; N])
    }

    /// Little-endian.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// Little-endian.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// Without its padding; what is no text is `?`.
    pub fn text(&mut self, room: usize) -> &'a str {
        let bytes = self.take(room);
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        std::str::from_utf8(bytes.get(..end).unwrap_or_default()).unwrap_or("?")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn crashes_are_counted_within_their_window() {
        const S: u64 = 1_000_000_000;
        let row = [1, 2, 3, 20, 21]
            .iter()
            .fold(CrashRow::default(), |row, at| row.and(at * S));
        assert_eq!(row.total, 5);
        assert_eq!(row.within(21 * S, 10 * S), 2);
        assert_eq!(row.within(3 * S, 10 * S), 5, "a clock never runs backwards");
        let many = (1..100).fold(CrashRow::default(), |row, at| row.and(at));
        assert_eq!(many.within(100, 10 * S), CRASHES_REMEMBERED);
    }

    #[test]
    fn sentences_come_and_go_by_their_kind() {
        let mut state = State::new([0; 16]).unwrap();
        for n in 0..TEXT_SLOTS {
            let what = if n % 2 == 0 {
                Text::Degraded
            } else {
                Text::Mounted
            };
            assert!(state.add_text(what, &format!("{n}")));
        }
        assert!(!state.add_text(Text::Degraded, "one too many"));
        state.clear_texts(Text::Mounted);
        assert_eq!(state.texts(Text::Mounted).count(), 0);
        assert_eq!(state.texts(Text::Degraded).count(), TEXT_SLOTS / 2);
        assert!(state.add_text(Text::DataDevice, &"ü".repeat(TEXT_BYTES)));
        let long = state.texts(Text::DataDevice).next().unwrap();
        assert_eq!(long, "ü".repeat(TEXT_BYTES_MAX / 2));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(name in "[a-z]{1,32}", exit in "\\PC{0,24}", numbers in prop::array::uniform6(any::<u64>()), flags in any::<u8>(), fill in any::<u8>(), rounds in 1..4) {
            let mut state = State::new([0; 16]).unwrap();
            let bit = |n: u8| flags & (1 << n) != 0;
            let [a, b, c, d, e, f] = numbers;
            let unit = UnitRow {
                name: &name,
                pid: a as u32,
                started_ns: b,
                ready_ns: c,
                restarts: d as u32,
                phase: e as u8,
                prepared: bit(0),
                never_ran: bit(1),
                has_cell: bit(2),
                image: fill,
                last_exit: &exit,
                status: "ok",
                policy: [fill; UNIT_POLICY_BYTES],
            };
            let beat = BeatRow { count: a, missed: b, coalesced: c, cpu_max_ns: d, late_max_ns: e, orphans: f, lateness: [fill.into(); 16] };
            let crashes = CrashRow { total: a as u32, at_ns: [b; 8], watched_ns: c };
            let machine = MachineRow {
                ready_said: bit(0),
                storage_ready: bit(1),
                data_opened: bit(2),
                data_writable: bit(3),
                verified: bit(4),
                tensors_verified: bit(5),
                switched: bit(7),
                scrub_next: bit(6).then_some(a),
                blocks_damaged: b as u32,
                ending: fill,
                power: fill,
                clock_set_ns: c,
                policy: [fill; POLICY_BYTES],
            };
            // Both copies take their turn.
            for _ in 0..rounds {
                state.set_unit(31, &unit);
                state.set_beat(&beat);
                state.set_crashes(&crashes);
                state.set_machine(&machine);
            }
            prop_assert_eq!(state.unit(31), Some(unit));
            prop_assert_eq!(state.unit(30), None);
            prop_assert_eq!(state.beat(), beat);
            prop_assert_eq!(state.crashes(), crashes);
            prop_assert_eq!(state.machine(), Some(machine));
            state.set_why(7, exit.as_bytes());
            prop_assert_eq!(state.why(7), Some(exit.as_bytes()));
            state.set_partial(3, exit.as_bytes());
            prop_assert_eq!(state.partial(3), exit.as_bytes());
            let phase = PhaseRow { name: &name, begin_ns: a, end_ns: b, note: &exit };
            state.set_phase(0, &phase);
            prop_assert_eq!(state.phases().next().map(|p| (p.name, p.begin_ns, p.end_ns)), Some((&*name, a, b)));
        }
    }
}
