//! The state memfd: what must outlive PID 1's own image. Fixed layout, versioned, checksummed.
//!
//! Owns: the table of services, the outbox of events that the ledger has not taken yet, and the
//! ring of log lines. A later image of PID 1 that finds this memfd after an exec reads it by
//! the offsets of `docs/state-memfd.md`, after the checksum of the header held.
//! Start with [`State`].
//!
//! Little-endian throughout. Never here: allocation after [`State::new`].

use std::fmt::{self, Write as _};
use sys::region::Region;

/// `VBSTATE1`.
const MAGIC: [u8; 8] = *b"VBSTATE1";
/// Of this layout; a change of any offset changes it.
const VERSION: u32 = 1;

const HEADER_BYTES: usize = 128;
const AT_VERSION: usize = 8;
const AT_SIZE: usize = 12;
const AT_BOOT_ID: usize = 16;
const AT_LOG_NEXT: usize = 32;
const AT_EVENT_NEXT: usize = 40;
const AT_EVENTS_DROPPED: usize = 48;
const AT_BEATS: usize = 56;
const AT_CHECKSUM: usize = HEADER_BYTES - 4;

/// Services that the table has room for.
const UNITS: usize = crate::supervisor::UNITS_MAX;
const UNIT_BYTES: usize = 64;
const AT_UNITS: usize = HEADER_BYTES;

/// Events that wait for the ledger; `docs/wire.md` fixes 256 of 512 bytes.
pub const OUTBOX_SLOTS: usize = 256;
const SLOT_BYTES: usize = 512;
const SLOT_HEAD: usize = 24;
const AT_OUTBOX: usize = AT_UNITS + UNITS * UNIT_BYTES;

/// Log lines that are kept: at 256 bytes each, a quarter of a MiB of shared memory.
const LINES: usize = 1024;
const LINE_BYTES: usize = 256;
const LINE_HEAD: usize = 24;
/// Longest text of one line; a longer one is continued in the next.
pub const LINE_TEXT_MAX: usize = LINE_BYTES - LINE_HEAD;
const AT_RING: usize = AT_OUTBOX + OUTBOX_SLOTS * SLOT_BYTES;

const STATE_BYTES: usize = AT_RING + LINES * LINE_BYTES;

/// Who wrote a log line: an index into the manifest, or one of these.
pub const BY_INIT: u8 = 255;
/// PID 1's helper.
pub const BY_HELPER: u8 = 254;

/// Syslog levels of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// A person must act.
    Error = 3,
    /// Degraded but coping.
    Warn = 4,
    /// State changes worth seeing.
    Info = 6,
    /// For the developer.
    Debug = 7,
}

/// Why an event waits more patiently than others: when the outbox is full, routine ones go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Kept as long as there is any room.
    Important,
    /// Dropped first.
    Routine,
}

/// The region and its accessors.
#[derive(Debug)]
pub struct State {
    region: Region,
}

/// One event of the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// Counts PID 1's events from 1.
    pub sequence: u64,
    /// When it happened (CLOCK_MONOTONIC).
    pub at_ns: u64,
    /// `service_started` and the like.
    pub event_type: &'a str,
    /// What it is about.
    pub subject: &'a str,
    /// Who caused it; empty for `service:init`.
    pub actor: &'a str,
    /// JSON object.
    pub payload: &'a str,
}

/// One line of the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Counts lines from 1.
    pub seq: u64,
    /// When it came (CLOCK_MONOTONIC).
    pub at_ns: u64,
    /// Who wrote it.
    pub by: u8,
    /// Syslog level.
    pub level: u8,
    /// Without its end.
    pub text: &'a str,
}

/// One row of the table of services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitRow<'a> {
    /// The manifest's name.
    pub name: &'a str,
    /// Its process, 0 for none.
    pub pid: u32,
    /// When the process started (CLOCK_MONOTONIC), to tell it from a successor of its pid.
    pub started_ns: u64,
    /// Restarts since boot.
    pub restarts: u32,
    /// `Phase` as a number, in the order of its declaration.
    pub phase: u8,
}

impl State {
    /// A fresh state for this boot.
    ///
    /// # Errors
    /// As `memfd_create(2)` and `mmap(2)`.
    pub fn new(boot_id: [u8; 16]) -> std::io::Result<Self> {
        let mut this = Self {
            region: Region::new("vb-state", STATE_BYTES)?,
        };
        this.put(0, &MAGIC);
        this.put(AT_VERSION, &VERSION.to_le_bytes());
        this.put(
            AT_SIZE,
            &u32::try_from(STATE_BYTES).unwrap_or(0).to_le_bytes(),
        );
        this.put(AT_BOOT_ID, &boot_id);
        this.put_u64(AT_LOG_NEXT, 1);
        this.put_u64(AT_EVENT_NEXT, 1);
        this.close();
        Ok(this)
    }

    /// The ring, to be read without this value.
    ///
    /// # Errors
    /// As `dup(2)`.
    pub fn lines(&self) -> std::io::Result<Lines> {
        use std::os::fd::AsFd;
        Ok(Lines(self.region.as_fd().try_clone_to_owned()?.into()))
    }

    /// This boot.
    #[must_use]
    pub fn boot_id(&self) -> [u8; 16] {
        self.get(AT_BOOT_ID)
    }

    /// Notes how many beats there were.
    pub fn set_beats(&mut self, beats: u64) {
        self.put_u64(AT_BEATS, beats);
        self.close();
    }

    /// Writes the row of one service.
    pub fn set_unit(&mut self, index: usize, row: &UnitRow<'_>) {
        if index >= UNITS {
            return;
        }
        let at = AT_UNITS + index * UNIT_BYTES;
        let mut name = [0u8; 32];
        for (slot, byte) in name.iter_mut().zip(row.name.bytes()) {
            *slot = byte;
        }
        self.put(at, &name);
        self.put(at + 32, &row.pid.to_le_bytes());
        self.put(at + 36, &row.restarts.to_le_bytes());
        self.put_u64(at + 40, row.started_ns);
        self.put(at + 48, &[row.phase]);
    }

    /// Queues an event. When there is no room a routine one makes way (the oldest), and is counted;
    /// with none to drop the new one is counted instead.
    pub fn push_event(
        &mut self,
        at_ns: u64,
        weight: Weight,
        [event_type, subject, actor]: [&str; 3],
        payload: &str,
    ) -> Option<u64> {
        let texts = [event_type, subject, actor, payload];
        let bytes: usize = texts.iter().map(|t| t.len()).sum();
        let sequence = self.get_u64(AT_EVENT_NEXT);
        let room = bytes <= SLOT_BYTES - SLOT_HEAD;
        let Some(slot) = (if room { self.free_slot() } else { None }) else {
            self.put_u64(
                AT_EVENTS_DROPPED,
                self.get_u64(AT_EVENTS_DROPPED).saturating_add(1),
            );
            self.close();
            return None;
        };
        let at = AT_OUTBOX + slot * SLOT_BYTES;
        self.put_u64(at + 8, at_ns);
        let mut lengths = [0u8; 8];
        for (i, text) in texts.iter().enumerate() {
            let length = u16::try_from(text.len()).unwrap_or(0).to_le_bytes();
            if let Some(place) = lengths.get_mut(i * 2..i * 2 + 2) {
                place.copy_from_slice(&length);
            }
        }
        // The payload's length never needs all 16 bits: its top bit marks a routine event.
        if weight == Weight::Routine
            && let Some(top) = lengths.get_mut(7)
        {
            *top |= 0x80;
        }
        self.put(at + 16, &lengths);
        let mut cursor = at + SLOT_HEAD;
        for text in texts {
            self.put(cursor, text.as_bytes());
            cursor += text.len();
        }
        // Last: a slot with sequence 0 is free, whatever else it holds.
        self.put_u64(at, sequence);
        self.put_u64(AT_EVENT_NEXT, sequence.saturating_add(1));
        self.close();
        Some(sequence)
    }

    /// The oldest event with a greater sequence than `after`.
    #[must_use]
    pub fn next_event(&self, after: u64) -> Option<Event<'_>> {
        let slot = (0..OUTBOX_SLOTS)
            .map(|i| (self.get_u64(AT_OUTBOX + i * SLOT_BYTES), i))
            .filter(|(sequence, _)| *sequence > after)
            .min()?
            .1;
        let at = AT_OUTBOX + slot * SLOT_BYTES;
        let lengths: [u8; 8] = self.get(at + 16);
        let mut cursor = at + SLOT_HEAD;
        let mut texts = [""; 4];
        for (i, text) in texts.iter_mut().enumerate() {
            let pair = [
                lengths.get(i * 2).copied()?,
                lengths.get(i * 2 + 1).copied()? & 0x7f,
            ];
            let length = usize::from(u16::from_le_bytes(pair));
            *text = self.text(cursor, length.min((at + SLOT_BYTES).saturating_sub(cursor)));
            cursor += length;
        }
        let [event_type, subject, actor, payload] = texts;
        Some(Event {
            sequence: self.get_u64(at),
            at_ns: self.get_u64(at + 8),
            event_type,
            subject,
            actor,
            payload,
        })
    }

    /// The ledger has this event.
    pub fn remove_event(&mut self, sequence: u64) {
        for slot in 0..OUTBOX_SLOTS {
            let at = AT_OUTBOX + slot * SLOT_BYTES;
            if self.get_u64(at) == sequence && sequence != 0 {
                self.put_u64(at, 0);
            }
        }
    }

    /// Events that wait, and events that were dropped since boot.
    #[must_use]
    pub fn outbox_counts(&self) -> (usize, u64) {
        let waiting = (0..OUTBOX_SLOTS)
            .filter(|i| self.get_u64(AT_OUTBOX + i * SLOT_BYTES) != 0)
            .count();
        (waiting, self.get_u64(AT_EVENTS_DROPPED))
    }

    fn free_slot(&mut self) -> Option<usize> {
        let mut oldest_routine: Option<(u64, usize)> = None;
        for slot in 0..OUTBOX_SLOTS {
            let at = AT_OUTBOX + slot * SLOT_BYTES;
            let sequence = self.get_u64(at);
            if sequence == 0 {
                return Some(slot);
            }
            let [mark] = self.get::<1>(at + 23);
            if mark & 0x80 != 0 && oldest_routine.is_none_or(|(s, _)| sequence < s) {
                oldest_routine = Some((sequence, slot));
            }
        }
        let (_, slot) = oldest_routine?;
        self.put_u64(AT_OUTBOX + slot * SLOT_BYTES, 0);
        self.put_u64(
            AT_EVENTS_DROPPED,
            self.get_u64(AT_EVENTS_DROPPED).saturating_add(1),
        );
        Some(slot)
    }

    /// Appends a line of output; invalid UTF-8 and control characters are replaced, a long line is
    /// continued in the next.
    pub fn push_line(&mut self, at_ns: u64, by: u8, level: Level, text: &[u8]) {
        let mut piece = Piece::default();
        for chunk in text.utf8_chunks() {
            for c in chunk.valid().chars() {
                if piece.length + c.len_utf8() > LINE_TEXT_MAX {
                    self.store_line(at_ns, by, level, piece.as_bytes());
                    piece.length = 0;
                }
                // It fits: checked above.
                let _ = piece.write_char(if c.is_control() && c != '\t' { '?' } else { c });
            }
            if !chunk.invalid().is_empty() {
                let _ = piece.write_char('?');
            }
        }
        if piece.length > 0 || text.is_empty() {
            self.store_line(at_ns, by, level, piece.as_bytes());
        }
    }

    fn store_line(&mut self, at_ns: u64, by: u8, level: Level, text: &[u8]) {
        let seq = self.get_u64(AT_LOG_NEXT);
        let at = Self::line_at(seq);
        // While the line changes it has no number, so that a crash leaves a hole and not a mixture.
        self.put_u64(at, 0);
        self.put_u64(at + 8, at_ns);
        self.put(at + 16, &[by, level as u8]);
        let length = u16::try_from(text.len().min(LINE_TEXT_MAX)).unwrap_or(0);
        self.put(at + 18, &length.to_le_bytes());
        self.put(
            at + LINE_HEAD,
            text.get(..usize::from(length)).unwrap_or_default(),
        );
        self.put_u64(at, seq);
        self.put_u64(AT_LOG_NEXT, seq.saturating_add(1));
        self.close();
    }

    /// The number that the next line will get.
    #[must_use]
    pub fn next_line(&self) -> u64 {
        self.get_u64(AT_LOG_NEXT)
    }

    /// The number of the oldest line that is still there.
    #[must_use]
    pub fn oldest_line(&self) -> u64 {
        self.next_line().saturating_sub(LINES as u64).max(1)
    }

    /// The line of this number, if it is still there.
    #[must_use]
    pub fn line(&self, seq: u64) -> Option<Line<'_>> {
        let at = Self::line_at(seq);
        if seq == 0 || self.get_u64(at) != seq {
            return None;
        }
        let [by, level] = self.get::<2>(at + 16);
        let length = usize::from(u16::from_le_bytes(self.get(at + 18))).min(LINE_TEXT_MAX);
        Some(Line {
            seq,
            at_ns: self.get_u64(at + 8),
            by,
            level,
            text: self.text(at + LINE_HEAD, length),
        })
    }

    fn line_at(seq: u64) -> usize {
        AT_RING + usize::try_from(seq % LINES as u64).unwrap_or(0) * LINE_BYTES
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.region.as_mut_slice().get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn put_u64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        self.region
            .as_slice()
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .unwrap_or([0; N])
    }

    fn get_u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.get(at))
    }

    fn text(&self, at: usize, length: usize) -> &str {
        let bytes = self
            .region
            .as_slice()
            .get(at..at + length)
            .unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or("?")
    }

    /// Seals the header with its checksum.
    fn close(&mut self) {
        let sum = self.checksum();
        self.put(AT_CHECKSUM, &sum.to_le_bytes());
    }

    fn checksum(&self) -> u32 {
        crc32fast::hash(
            self.region
                .as_slice()
                .get(..AT_CHECKSUM)
                .unwrap_or_default(),
        )
    }

    /// Whether the header is whole.
    #[cfg(test)]
    fn is_whole(&self) -> bool {
        self.get(0) == MAGIC
            && u32::from_le_bytes(self.get(AT_VERSION)) == VERSION
            && u32::from_le_bytes(self.get(AT_CHECKSUM)) == self.checksum()
    }
}

/// The ring of a state by its memfd, for whoever has no [`State`] any more. Allocates nothing itself.
#[derive(Debug)]
pub struct Lines(std::fs::File);

impl Lines {
    fn read<const N: usize>(&self, at: usize) -> [u8; N] {
        use std::os::unix::fs::FileExt;
        let mut bytes = [0; N];
        // What cannot be read is empty: there is nobody left to tell.
        let _ = self.0.read_exact_at(&mut bytes, at as u64);
        bytes
    }

    /// The number that the next line will get.
    #[must_use]
    pub fn next_line(&self) -> u64 {
        u64::from_le_bytes(self.read(AT_LOG_NEXT))
    }

    /// Appends the line of this number to `text`, if it is still there: time, who, what.
    pub fn show(&self, seq: u64, text: &mut String) {
        let at = State::line_at(seq);
        let line: [u8; LINE_BYTES] = self.read(at);
        let number = |from: usize| {
            let bytes = line.get(from..).and_then(|rest| rest.first_chunk());
            u64::from_le_bytes(bytes.copied().unwrap_or_default())
        };
        if seq == 0 || number(0) != seq {
            return;
        }
        let [by, _, low, high] = *line
            .get(16..)
            .and_then(<[u8]>::first_chunk)
            .unwrap_or(&[0; 4]);
        let length = usize::from(u16::from_le_bytes([low, high])).min(LINE_TEXT_MAX);
        let said = line.get(LINE_HEAD..LINE_HEAD + length).unwrap_or_default();
        let row: [u8; 32] = self.read(AT_UNITS + usize::from(by) * UNIT_BYTES);
        let named = std::str::from_utf8(&row).unwrap_or("?");
        let who = match by {
            BY_INIT => "init",
            BY_HELPER => "helper",
            _ => named.trim_end_matches('\0'),
        };
        let ms = number(8) / 1_000_000;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "[{:>5}.{:03}] {who}: {}",
            ms / 1000,
            ms % 1000,
            std::str::from_utf8(said).unwrap_or("?")
        );
    }
}

/// Text of a fixed length, for lines and payloads that are put together without allocating.
#[derive(Debug, Clone, Copy)]
pub struct Fixed<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

type Piece = Fixed<LINE_TEXT_MAX>;

impl<const N: usize> Default for Fixed<N> {
    fn default() -> Self {
        Self {
            bytes: [0; N],
            length: 0,
        }
    }
}

impl<const N: usize> Fixed<N> {
    /// Formats; what does not fit is cut off.
    #[must_use]
    pub fn of(text: fmt::Arguments<'_>) -> Self {
        let mut this = Self::default();
        // Cutting is what the caller was told.
        let _ = this.write_fmt(text);
        this
    }

    /// What was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or("?")
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl<const N: usize> fmt::Write for Fixed<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut end = text.len().min(N - self.length.min(N));
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, to) = (
            text.as_bytes().get(..end).unwrap_or_default(),
            self.length + end,
        );
        if let Some(place) = self.bytes.get_mut(self.length..to) {
            place.copy_from_slice(piece);
            self.length = to;
        }
        if end == text.len() {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}

/// A text as the inside of a JSON string.
#[derive(Debug, Clone, Copy)]
pub struct Json<'a>(pub &'a str);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_come_back_until_the_ring_goes_round() {
        let mut state = State::new([7; 16]).unwrap();
        for i in 0..LINES as u64 + 10 {
            state.push_line(i, 3, Level::Info, format!("line {i}").as_bytes());
        }
        assert_eq!(state.oldest_line(), 11);
        assert!(state.line(10).is_none());
        assert_eq!(
            state.line(11).map(|l| (l.text, l.by, l.at_ns)),
            Some(("line 10", 3, 10))
        );
        assert_eq!(
            state.line(state.next_line() - 1).map(|l| l.text),
            Some("line 1033")
        );
        assert!(state.is_whole());
    }

    #[test]
    fn a_long_line_is_continued_and_bytes_that_are_no_text_are_replaced() {
        let mut state = State::new([0; 16]).unwrap();
        state.push_line(0, BY_INIT, Level::Warn, &[b'a'; 500]);
        assert_eq!(state.next_line(), 4);
        state.push_line(0, BY_INIT, Level::Warn, b"x\xff\x1by\xc3\xa9");
        assert_eq!(state.line(4).map(|l| l.text), Some("x??yé"));
    }

    #[test]
    fn the_ring_reads_the_same_by_its_memfd() {
        let mut state = State::new([0; 16]).unwrap();
        state.set_unit(
            2,
            &UnitRow {
                name: "gateway",
                pid: 7,
                started_ns: 1,
                restarts: 0,
                phase: 0,
            },
        );
        state.push_line(1_500_000_000, 2, Level::Info, b"serving");
        state.push_line(2_000_000_000, BY_INIT, Level::Info, b"ready");
        let lines = state.lines().unwrap();
        let mut text = String::new();
        (0..=lines.next_line()).for_each(|seq| lines.show(seq, &mut text));
        assert_eq!(
            text,
            "[    1.500] gateway: serving\n[    2.000] init: ready\n"
        );
    }

    #[test]
    fn events_leave_in_order_and_only_when_taken() {
        let mut state = State::new([0; 16]).unwrap();
        for i in 0..3 {
            state
                .push_event(i, Weight::Important, ["t", "s", ""], r#"{"a":1}"#)
                .unwrap();
        }
        assert_eq!(
            state.next_event(0).map(|e| (e.sequence, e.payload)),
            Some((1, r#"{"a":1}"#))
        );
        assert_eq!(state.next_event(1).map(|e| e.sequence), Some(2));
        state.remove_event(1);
        assert_eq!(state.next_event(0).map(|e| e.sequence), Some(2));
        assert_eq!(state.outbox_counts(), (2, 0));
    }

    #[test]
    fn a_full_outbox_drops_routine_events_first_and_counts() {
        let mut state = State::new([0; 16]).unwrap();
        for i in 0..OUTBOX_SLOTS as u64 {
            let weight = if i == 5 || i == 9 {
                Weight::Routine
            } else {
                Weight::Important
            };
            state.push_event(i, weight, ["t", "s", ""], "{}").unwrap();
        }
        assert!(
            state
                .push_event(1, Weight::Important, ["new", "s", "user:x"], "{}")
                .is_some()
        );
        assert!(
            state
                .push_event(1, Weight::Important, ["new", "s", ""], "{}")
                .is_some()
        );
        assert!(
            state
                .push_event(1, Weight::Important, ["new", "s", ""], "{}")
                .is_none()
        );
        assert_eq!(state.outbox_counts(), (OUTBOX_SLOTS, 3));
        let mut after = 0;
        let mut sequences = vec![];
        while let Some(event) = state.next_event(after) {
            after = event.sequence;
            sequences.push(after);
        }
        assert!(!sequences.contains(&6) && !sequences.contains(&10));
        assert_eq!(sequences.len(), OUTBOX_SLOTS);
    }

    proptest! {
        #[test]
        fn any_event_that_fits_comes_back_as_it_was(t in "\\PC{0,40}", s in "\\PC{0,40}", a in "\\PC{0,20}", p in "\\PC{0,100}") {
            let mut state = State::new([1; 16]).unwrap();
            if state.push_event(9, Weight::Routine, [&t, &s, &a], &p).is_some() {
                let e = state.next_event(0).unwrap();
                prop_assert_eq!((e.event_type, e.subject, e.actor, e.payload), (&*t, &*s, &*a, &*p));
            }
        }

        #[test]
        fn any_bytes_become_lines(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut state = State::new([1; 16]).unwrap();
            state.push_line(0, 1, Level::Info, &bytes);
            prop_assert!((1..state.next_line()).all(|seq| state.line(seq).is_some()));
        }

        #[test]
        fn json_text_never_breaks_out(text in "\\PC{0,60}|[\"\\\\\n\t]{0,10}") {
            let escaped = Json(&text).to_string();
            prop_assert!(!escaped.replace("\\\\", "").replace("\\\"", "").contains('"'));
        }
    }
}
