//! The state memfd: what must outlive PID 1's own image. Fixed layout, versioned, checksummed.
//!
//! Owns: the table of services and of the descriptors that go along, the outbox of events that the ledger has not
//! taken yet, the ring of log lines, and what else a later image needs to go on. That image finds the memfd after
//! an exec and takes it up with [`State::adopt`]; `docs/state-memfd.md` has the offsets.
//! Start with [`State`].
//!
//! Little-endian throughout. At every instruction there is a whole copy of every record, since the image may end at
//! any. Never here: allocation after [`State::new`].

pub mod descriptors;
mod layout;
pub mod records;

use layout::{
    AT_BOOT_ID, AT_CHECKSUM, AT_OUTBOX, AT_RING, AT_SIZE, AT_VERSION, COUNTERS, LINE_BYTES,
    LINE_HEAD, LINES, MAGIC, SLOT_BYTES, SLOT_HEAD, STATE_BYTES, TWIN_HEAD, Twin,
};
pub use layout::{LINE_TEXT_MAX, OUTBOX_SLOTS, VERSION};
use std::fmt::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{Ordering, compiler_fence};
use sys::region::Region;

/// [`STATE_BYTES`] as the header has it.
#[allow(clippy::cast_possible_truncation, reason = "half a MiB")]
const SIZE: u32 = STATE_BYTES as u32;

/// Lines that are looked through for the last ones of a service: few, since it is about to be started again.
const LAST_LINES_LOOK: u64 = 32;

/// Who wrote a log line: an index into the manifest, or one of these.
pub const BY_INIT: u8 = 255;
/// PID 1's helper.
pub const BY_HELPER: u8 = 254;
/// A service that an upgrade took away.
pub const BY_GONE: u8 = 253;

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
    counters: Counters,
}

/// What counts lines and events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counters {
    line_next: u64,
    event_next: u64,
    events_dropped: u64,
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

impl State {
    /// A fresh state for this boot.
    ///
    /// # Errors
    /// As `memfd_create(2)` and `mmap(2)`.
    pub fn new(boot_id: [u8; 16]) -> std::io::Result<Self> {
        let mut this = Self {
            region: Region::new("vb-state", STATE_BYTES)?,
            counters: Counters {
                line_next: 1,
                event_next: 1,
                events_dropped: 0,
            },
        };
        this.put(0, &MAGIC);
        this.put(AT_VERSION, &VERSION.to_le_bytes());
        this.put(AT_SIZE, &SIZE.to_le_bytes());
        this.put(AT_BOOT_ID, &boot_id);
        let sum = this.sum(0..AT_CHECKSUM);
        this.put(AT_CHECKSUM, &sum.to_le_bytes());
        this.close();
        Ok(this)
    }

    /// Takes up what an earlier image left.
    ///
    /// # Errors
    /// One sentence naming field, value and limit: what is not whole is not taken up at all.
    pub fn adopt(fd: OwnedFd) -> Result<Self, String> {
        let region = Region::adopt(fd, STATE_BYTES).map_err(|e| format!("state: {e}"))?;
        let mut this = Self {
            region,
            counters: Counters {
                line_next: 1,
                event_next: 1,
                events_dropped: 0,
            },
        };
        let wrong = |field: &str, value: String, limit: String| {
            Err(format!("state: {field}: {value}, limit {limit}"))
        };
        if this.get(0) != MAGIC {
            return wrong(
                "magic",
                format!("{:02x?}", this.get::<8>(0)),
                "VB-STATE".to_owned(),
            );
        }
        let (version, size) = (this.get_u32(AT_VERSION), this.get_u32(AT_SIZE));
        if version != VERSION {
            return wrong("version", version.to_string(), VERSION.to_string());
        }
        let sums = (this.get_u32(AT_CHECKSUM), this.sum(0..AT_CHECKSUM));
        if sums.0 != sums.1 {
            return wrong(
                "checksum",
                format!("{:08x}", sums.0),
                format!("{:08x}", sums.1),
            );
        }
        if size != SIZE {
            return wrong("size", size.to_string(), SIZE.to_string());
        }
        let Some(bytes) = this.twin(COUNTERS) else {
            return wrong("counters", "no whole copy".to_owned(), "one".to_owned());
        };
        let mut reader = records::Reader::new(bytes);
        this.counters = Counters {
            line_next: reader.u64().max(1),
            event_next: reader.u64().max(1),
            events_dropped: reader.u64(),
        };
        this.catch_up();
        Ok(this)
    }

    /// The image before may have ended between an event or a line and its number.
    fn catch_up(&mut self) {
        let next = self.counters.event_next;
        for slot in 0..OUTBOX_SLOTS {
            let at = AT_OUTBOX + slot * SLOT_BYTES;
            match self.get_u64(at) {
                sequence if sequence == next => self.counters.event_next = next.saturating_add(1),
                // Nobody wrote that.
                sequence if sequence > next => self.commit_u64(at, 0),
                _ => {}
            }
        }
        let next = self.counters.line_next;
        if self.get_u64(Self::line_at(next)) == next {
            self.counters.line_next = next.saturating_add(1);
        }
        self.close();
    }

    /// The memfd, to be left to a later image.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.region.as_fd()
    }

    /// The ring, to be read without this value.
    ///
    /// # Errors
    /// As `dup(2)`.
    pub fn lines(&self) -> std::io::Result<Lines> {
        Ok(Lines(self.region.as_fd().try_clone_to_owned()?.into()))
    }

    /// This boot.
    #[must_use]
    pub fn boot_id(&self) -> [u8; 16] {
        self.get(AT_BOOT_ID)
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
        let sequence = self.counters.event_next;
        let room = bytes <= SLOT_BYTES - SLOT_HEAD;
        let Some(slot) = (if room { self.free_slot() } else { None }) else {
            self.counters.events_dropped = self.counters.events_dropped.saturating_add(1);
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
        self.commit_u64(at, sequence);
        self.counters.event_next = sequence.saturating_add(1);
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
        (waiting, self.counters.events_dropped)
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
        self.commit_u64(AT_OUTBOX + slot * SLOT_BYTES, 0);
        self.counters.events_dropped = self.counters.events_dropped.saturating_add(1);
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
        let seq = self.counters.line_next;
        let at = Self::line_at(seq);
        // While the line changes it has no number, so that a crash leaves a hole and not a mixture.
        self.commit_u64(at, 0);
        self.put_u64(at + 8, at_ns);
        self.put(at + 16, &[by, level as u8]);
        let length = u16::try_from(text.len().min(LINE_TEXT_MAX)).unwrap_or(0);
        self.put(at + 18, &length.to_le_bytes());
        self.put(
            at + LINE_HEAD,
            text.get(..usize::from(length)).unwrap_or_default(),
        );
        self.commit_u64(at, seq);
        self.counters.line_next = seq.saturating_add(1);
        self.close();
    }

    /// The services have other places now: `places[i]` is the new one of what was service `i`.
    pub fn move_writers(&mut self, places: &[u8]) {
        for seq in self.oldest_line()..self.next_line() {
            let at = Self::line_at(seq) + 16;
            let [by] = self.get::<1>(at);
            if let Some(place) = places.get(usize::from(by)).filter(|place| **place != by) {
                self.put(at, &[*place]);
            }
        }
    }

    /// The number that the next line will get.
    #[must_use]
    pub fn next_line(&self) -> u64 {
        self.counters.line_next
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

    /// The last lines that this one wrote, the newest first; empty where there are none among the newest lines.
    #[must_use]
    pub fn last_lines<const N: usize>(&self, by: u8) -> [&str; N] {
        let newest = self.next_line();
        let mut found = [""; N];
        let mut places = found.iter_mut();
        for seq in (newest.saturating_sub(LAST_LINES_LOOK)..newest).rev() {
            if let Some(line) = self.line(seq)
                && line.by == by
            {
                match places.next() {
                    Some(place) => *place = line.text,
                    None => break,
                }
            }
        }
        found
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

    /// Writes what makes the bytes before it count: neither they nor what follows may be moved across it.
    fn commit_u64(&mut self, at: usize, value: u64) {
        compiler_fence(Ordering::SeqCst);
        self.put_u64(at, value);
        compiler_fence(Ordering::SeqCst);
    }

    /// Writes a record over the older of its copies.
    fn put_twin(&mut self, twin: Twin, content: &[u8]) {
        let (first, second) = (self.get_u64(twin.at), self.get_u64(twin.at + twin.bytes));
        let at = if first <= second {
            twin.at
        } else {
            twin.at + twin.bytes
        };
        let content = content.get(..twin.room()).unwrap_or(content);
        // A copy without a number is none, whatever else it holds.
        self.commit_u64(at, 0);
        self.put(at + TWIN_HEAD, content);
        let sum = self.sum(at + TWIN_HEAD..at + twin.bytes);
        self.put(at + 8, &sum.to_le_bytes());
        self.commit_u64(at, first.max(second).saturating_add(1));
    }

    /// The newer copy of a record, as far as its checksum holds.
    fn twin(&self, twin: Twin) -> Option<&[u8]> {
        let copies = [twin.at, twin.at + twin.bytes];
        let (_, at) = copies
            .into_iter()
            .map(|at| (self.get_u64(at), at))
            .filter(|(number, at)| {
                let sum = self.sum(at + TWIN_HEAD..at + twin.bytes);
                *number > 0 && self.get_u32(at + 8) == sum
            })
            .max()?;
        self.region.as_slice().get(at + TWIN_HEAD..at + twin.bytes)
    }

    fn sum(&self, range: std::ops::Range<usize>) -> u32 {
        crc32fast::hash(self.region.as_slice().get(range).unwrap_or_default())
    }

    fn get_u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.get(at))
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

    /// Writes the counters.
    fn close(&mut self) {
        let mut content = [0; 24];
        let mut writer = records::Writer::new(&mut content);
        writer.u64(self.counters.line_next);
        writer.u64(self.counters.event_next);
        writer.u64(self.counters.events_dropped);
        self.put_twin(COUNTERS, &content);
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
        let copies: [u8; 2 * COUNTERS.bytes] = self.read(COUNTERS.at);
        newer(&copies, 0)
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
        let row = layout::unit(usize::from(by).min(layout::UNITS - 1));
        let named: [[u8; 32]; 2] = [row.at, row.at + row.bytes].map(|at| self.read(at + TWIN_HEAD));
        // Names never change; one copy may not have been written yet.
        let named = named.iter().find(|name| name.first() != Some(&0));
        let named = named.map_or("?", |name| std::str::from_utf8(name).unwrap_or("?"));
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

/// The first number of the newer of two copies.
fn newer(copies: &[u8], at: usize) -> u64 {
    let number = |from: usize| {
        let bytes = copies.get(from..).and_then(|rest| rest.first_chunk());
        u64::from_le_bytes(bytes.copied().unwrap_or_default())
    };
    let half = copies.len() / 2;
    let begin = if number(0) >= number(half) { 0 } else { half };
    number(begin + TWIN_HEAD + at)
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
    }

    #[test]
    fn the_last_lines_of_one_come_newest_first() {
        let mut state = State::new([7; 16]).unwrap();
        for (by, text) in [(3, "a"), (4, "x"), (3, "b"), (3, "c"), (4, "y"), (3, "d")] {
            state.push_line(0, by, Level::Info, text.as_bytes());
        }
        assert_eq!(state.last_lines(3), ["d", "c", "b"]);
        assert_eq!(state.last_lines(4), ["y", "x", ""]);
        assert_eq!(state.last_lines(9), ["", "", ""]);
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
            &records::UnitRow {
                name: "gateway",
                pid: 7,
                ..records::UnitRow::default()
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

    /// What a later image finds: the memfd alone.
    fn left(state: State) -> OwnedFd {
        state.as_fd().try_clone_to_owned().unwrap()
    }

    fn change(fd: &OwnedFd, at: usize, by: impl Fn(u8) -> u8) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::from(fd.try_clone().unwrap());
        let mut byte = [0];
        file.read_exact_at(&mut byte, at as u64).unwrap();
        file.write_all_at(&[by(byte[0])], at as u64).unwrap();
    }

    /// One of everything.
    fn full() -> State {
        let mut state = State::new([7; 16]).unwrap();
        for round in 0..3u64 {
            let unit = records::UnitRow {
                name: "gateway",
                pid: 700,
                started_ns: round,
                phase: 2,
                last_exit: "exit code 3",
                policy: [9; records::UNIT_POLICY_BYTES],
                ..records::UnitRow::default()
            };
            state.set_unit(1, &unit);
            state.set_beat(&records::BeatRow {
                count: 100 + round,
                ..records::BeatRow::default()
            });
            state.set_crashes(&state.crashes().and(round + 1));
            state.set_machine(&records::MachineRow {
                storage_ready: true,
                scrub_next: Some(64),
                ..records::MachineRow::default()
            });
            state.push_line(round, BY_INIT, Level::Info, b"said");
            state.push_event(round, Weight::Important, ["t", "s", ""], "{}");
        }
        state.set_why(0, b"because");
        state.add_text(records::Text::Degraded, "no disk");
        state.set_phase(
            0,
            &records::PhaseRow {
                name: "mounts",
                begin_ns: 1,
                end_ns: 2,
                note: "",
            },
        );
        state.set_partial(1, b"begun");
        let file = std::fs::File::open("/").unwrap();
        assert!(state.list(descriptors::Kind::Control, 0, "", file.as_fd()));
        state
    }

    /// As a text, for comparing: everything that a later image takes from it.
    fn all(state: &State) -> String {
        let mut text = String::new();
        let _ = write!(
            text,
            "{:?} {:?} {:?} {:?} {:?} {:?}",
            state
                .unit(1)
                .map(|u| (u.name.to_owned(), u.pid, u.phase, u.policy)),
            state.crashes().at_ns,
            state.machine(),
            state.why(0),
            state.texts(records::Text::Degraded).collect::<Vec<_>>(),
            state.partial(1),
        );
        let lines: Vec<_> = (1..state.next_line())
            .filter_map(|n| state.line(n))
            .collect();
        let _ = write!(
            text,
            "{lines:?} {:?} {:?}",
            state.next_event(0),
            state.beat()
        );
        let _ = write!(text, "{:?}", state.phases().collect::<Vec<_>>());
        let _ = write!(text, "{:?}", state.listed().count());
        text
    }

    #[test]
    fn what_is_left_is_taken_up_and_goes_on() {
        let before = full();
        let expected = all(&before);
        let mut after = State::adopt(left(before)).unwrap();
        assert_eq!(all(&after), expected);
        assert_eq!(after.boot_id(), [7; 16]);
        after.push_line(9, BY_INIT, Level::Info, b"next");
        assert_eq!(after.line(4).map(|l| l.text), Some("next"));
        assert_eq!(
            after.push_event(9, Weight::Important, ["t", "s", ""], "{}"),
            Some(4)
        );
    }

    #[test]
    fn a_line_and_an_event_without_their_number_are_not_written_over() {
        let before = full();
        let fd = left(before);
        // As if the image had ended before the last counters were written: both copies say an earlier state.
        let mut state = State::adopt(fd).unwrap();
        state.counters.line_next = 3;
        state.counters.event_next = 3;
        state.close();
        let mut after = State::adopt(left(state)).unwrap();
        assert_eq!(after.next_line(), 4);
        assert_eq!(
            after.push_event(9, Weight::Important, ["t", "s", ""], "{}"),
            Some(4)
        );
    }

    #[test]
    fn what_is_no_state_is_refused_by_name() {
        let refusal = |fd: OwnedFd| State::adopt(fd).map(|_| ()).unwrap_err();
        let of_size = |bytes| OwnedFd::from(sys::memfd::shared("vb-state", bytes).unwrap());
        assert!(refusal(of_size(4096)).starts_with("state: size: 4096, limit 5550"));
        let refused = refusal(of_size(STATE_BYTES as u64));
        assert!(refused.starts_with("state: magic: [00, 00"), "{refused}");
        let sealed = sys::memfd::sealed("vb-state", &vec![0; STATE_BYTES]).unwrap();
        assert!(refusal(sealed).starts_with("state: seals: 0xf, limit 0x7"));
        let open = sys::memfd::create("vb-state").unwrap();
        assert!(refusal(open.into()).starts_with("state: seals: 0x0, limit 0x7"));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(refusal(file.into()).starts_with("state: seals: 0x0"));
        let fd = left(full());
        change(&fd, AT_VERSION, |version| version + 1);
        let (next, own) = (VERSION + 1, VERSION);
        assert_eq!(refusal(fd), format!("state: version: {next}, limit {own}"));
    }

    #[test]
    fn a_byte_that_was_changed_is_refused_or_harmless() {
        let whole = all(&full());
        let unit = layout::unit(1);
        let newest_counts = "count: 102";
        let ranges = [
            0..layout::AT_WHY,
            layout::AT_WHY..layout::AT_WHY + 24,
            layout::AT_TEXTS..layout::AT_TEXTS + 24,
            layout::AT_PHASES..layout::AT_PHASES + 24,
            unit.at..unit.at + 2 * unit.bytes,
            layout::AT_DESCRIPTORS..layout::AT_DESCRIPTORS + layout::DESCRIPTOR_BYTES,
            AT_OUTBOX..AT_OUTBOX + 2 * SLOT_BYTES,
            AT_RING..AT_RING + 4 * LINE_BYTES,
        ];
        for at in ranges.into_iter().flatten() {
            let fd = left(full());
            change(&fd, at, |byte| byte ^ 0x40);
            match State::adopt(fd) {
                Ok(state) if (40..44).contains(&at) => drop(state),
                Ok(state) => {
                    // A record is as it was, as it was one change earlier, or not there.
                    let unit = state.unit(1).expect("the other copy");
                    assert_eq!(
                        (unit.name, unit.pid, unit.phase),
                        ("gateway", 700, 2),
                        "at {at}"
                    );
                    assert_eq!(state.boot_id(), [7; 16], "at {at}");
                    assert!(state.machine().is_some_and(|m| m.storage_ready), "at {at}");
                    assert!(state.why(0).is_none_or(|why| why == b"because"), "at {at}");
                    assert!(
                        state.listed().all(|l| l.kind == descriptors::Kind::Control),
                        "at {at}"
                    );
                    let _ = all(&state);
                }
                Err(why) => assert!(at < 40 && why.contains("limit"), "at {at}: {why}"),
            }
        }
        assert!(whole.contains(newest_counts));
    }

    proptest! {
        #[test]
        fn any_content_is_taken_up_or_refused(bytes in proptest::collection::vec((0..STATE_BYTES, any::<u8>()), 0..200)) {
            let fd = left(full());
            for (at, byte) in bytes {
                // The header stays: it is refused as a whole.
                change(&fd, at.max(44), |_| byte);
            }
            // Only the counters' two copies, both damaged, are nothing to go on with.
            let mut state = match State::adopt(fd) {
                Ok(state) => state,
                Err(e) => {
                    prop_assert_eq!(e, "state: counters: no whole copy, limit one");
                    return Ok(());
                }
            };
            let _ = all(&state);
            state.push_line(1, BY_INIT, Level::Info, b"goes on");
            state.push_event(1, Weight::Routine, ["t", "s", ""], "{}");
            state.set_unit(1, &records::UnitRow::default());
        }

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
