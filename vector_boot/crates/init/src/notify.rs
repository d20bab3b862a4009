//! What services report: the messages of `sd_notify(3)`, hostile until parsed.
//!
//! Pure: bytes in, a [`Message`] out, and nothing is allocated. Keys that nobody knows are passed over, as the
//! protocol has it; what is known and makes no sense is left out, and the first such thing is the complaint.
//! Start with [`parse`]; `unit.rs` does what a message says.

use std::fmt;

/// Longest message; the reference implementation's own limit is a page.
pub const MESSAGE_BYTES_MAX: usize = 4096;
/// Longest name of a descriptor in the store: what the state memfd has room for.
pub const STORE_NAME_BYTES_MAX: usize = 32;
/// A year: a time that is longer was no time.
const TIME_US_MAX: u64 = 31_536_000_000_000;

/// What one message says. A key that stands twice counts as it stands last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Message<'a> {
    /// `READY=1`.
    pub ready: bool,
    /// `RELOADING=1`: taken note of, and nothing follows; `READY=1` ends it.
    pub reloading: bool,
    /// `STOPPING=1`.
    pub stopping: bool,
    /// `WATCHDOG=1`.
    pub alive: bool,
    /// `WATCHDOG=trigger`.
    pub hangs: bool,
    /// `WATCHDOG_USEC=`, in nanoseconds.
    pub watchdog_ns: Option<u64>,
    /// `EXTEND_TIMEOUT_USEC=`, in nanoseconds.
    pub extend_ns: Option<u64>,
    /// `STATUS=`, as it came.
    pub status: Option<&'a [u8]>,
    /// What is to become of the descriptors that came along.
    pub store: Store<'a>,
    /// `BARRIER=1`: the sender waits until its descriptor is closed.
    pub barrier: bool,
}

/// What a message says about the store of descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Store<'a> {
    /// Nothing.
    #[default]
    Leave,
    /// `FDSTORE=1`: keep what came along.
    Keep {
        /// `FDNAME=`, or `stored`.
        name: &'a str,
        /// Without `FDPOLL=0`: forget one whose other end is gone.
        poll: bool,
    },
    /// `FDSTOREREMOVE=1`: forget all of this name.
    Forget {
        /// `FDNAME=`.
        name: &'a str,
    },
}

/// What is wrong with a message, as a rule for whoever wrote the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complaint {
    /// A datagram without content.
    Empty,
    /// Over [`MESSAGE_BYTES_MAX`].
    Long,
    /// A NUL that is not its last byte.
    Nul,
    /// A key with a value that it cannot have.
    Value {
        /// Which key.
        key: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// The number of descriptors.
    Descriptors {
        /// How many came.
        found: usize,
        /// How many, and when.
        expected: &'static str,
    },
    /// The store is full.
    StoreFull {
        /// The manifest's `fd_store`.
        limit: u8,
    },
    /// The store may not hold this name: PID 1 passes a descriptor of that name itself.
    StoreName,
    /// It came from a process outside the service's cgroup.
    Foreign {
        /// Which process.
        pid: i32,
    },
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("an empty message, expected KEY=VALUE lines"),
            Self::Long => write!(f, "a message over {MESSAGE_BYTES_MAX} bytes"),
            Self::Nul => f.write_str("a NUL inside a message, expected text"),
            Self::Value { key, expected } => write!(f, "{key}: expected {expected}"),
            Self::Descriptors { found, expected } => {
                write!(f, "{found} descriptors, expected {expected}")
            }
            Self::StoreFull { limit } => write!(f, "FDSTORE: full, fd_store = {limit}"),
            Self::StoreName => f.write_str("FDNAME: a name that the manifest gives to another"),
            Self::Foreign { pid } => {
                write!(
                    f,
                    "a message of process {pid}, which is not of this service"
                )
            }
        }
    }
}

/// Reads one message that came with so many descriptors; `cut` if there was more than the buffer held.
///
/// What cannot be a message at all says nothing, and is only complained about.
#[must_use]
pub fn parse(bytes: &[u8], cut: bool, descriptors: usize) -> (Message<'_>, Option<Complaint>) {
    let whole = match bytes {
        _ if cut || bytes.len() > MESSAGE_BYTES_MAX => Err(Complaint::Long),
        // Programs in C send the end of their string along.
        [text @ .., 0] => Ok(text),
        text => Ok(text),
    };
    let text = match whole {
        Ok([]) => Err(Complaint::Empty),
        Ok(text) if text.contains(&0) => Err(Complaint::Nul),
        other => other,
    };
    match text {
        Ok(text) => {
            let mut reader = Reader::default();
            text.split(|b| *b == b'\n')
                .for_each(|line| reader.line(line));
            reader.message(descriptors)
        }
        Err(complaint) => (Message::default(), Some(complaint)),
    }
}

#[derive(Default)]
struct Reader<'a> {
    message: Message<'a>,
    complaint: Option<Complaint>,
    store: bool,
    forget: bool,
    unpolled: bool,
    name: Option<&'a str>,
    name_refused: bool,
}

impl<'a> Reader<'a> {
    fn line(&mut self, line: &'a [u8]) {
        let Some(equals) = line.iter().position(|b| *b == b'=') else {
            return;
        };
        let (key, value) = line.split_at(equals);
        let value = value.get(1..).unwrap_or_default();
        let message = &mut self.message;
        match key {
            b"READY" => message.ready |= self.complaint.is_one("READY", value),
            b"RELOADING" => message.reloading |= self.complaint.is_one("RELOADING", value),
            b"STOPPING" => message.stopping |= self.complaint.is_one("STOPPING", value),
            b"BARRIER" => message.barrier |= self.complaint.is_one("BARRIER", value),
            b"FDSTORE" => self.store |= self.complaint.is_one("FDSTORE", value),
            b"FDSTOREREMOVE" => self.forget |= self.complaint.is_one("FDSTOREREMOVE", value),
            b"STATUS" => message.status = Some(value),
            b"WATCHDOG" => match value {
                b"1" => message.alive = true,
                b"trigger" => message.hangs = true,
                _ => self.complaint.value("WATCHDOG", "1 or trigger"),
            },
            b"WATCHDOG_USEC" => {
                message.watchdog_ns = self.complaint.time("WATCHDOG_USEC", value);
            }
            b"EXTEND_TIMEOUT_USEC" => {
                message.extend_ns = self.complaint.time("EXTEND_TIMEOUT_USEC", value);
            }
            b"FDPOLL" => match value {
                b"0" => self.unpolled = true,
                b"1" => self.unpolled = false,
                _ => self.complaint.value("FDPOLL", "0 or 1"),
            },
            b"FDNAME" => {
                self.name = store_name(value);
                self.name_refused = self.name.is_none();
                if self.name_refused {
                    let expected = "1 to 32 visible characters other than :";
                    self.complaint.value("FDNAME", expected);
                }
            }
            // Who the main process is PID 1 knows by itself: it started it, and watches that one.
            b"MAINPID" if number(value).is_none_or(|n| n == 0 || n > u64::from(u32::MAX)) => {
                self.complaint.value("MAINPID", "a process id");
            }
            // For people who read along; the exit status says it again.
            b"ERRNO" if number(value).is_none() => {
                self.complaint.value("ERRNO", "a number");
            }
            _ => {}
        }
    }

    fn message(mut self, descriptors: usize) -> (Message<'a>, Option<Complaint>) {
        let complain = |complaint: &mut Option<Complaint>, expected| {
            complaint.get_or_insert(Complaint::Descriptors {
                found: descriptors,
                expected,
            });
        };
        let complaint = &mut self.complaint;
        if self.message.barrier && descriptors != 1 {
            complain(complaint, "1 with BARRIER");
        } else if self.store && descriptors == 0 {
            complain(complaint, "1 or more with FDSTORE");
        } else if descriptors > 0 && !self.store && !self.message.barrier {
            complain(complaint, "none without FDSTORE or BARRIER");
        }
        if self.forget && self.name.is_none() {
            complaint.value("FDSTOREREMOVE", "a name with FDNAME");
        }
        self.message.store = match self.name {
            _ if self.name_refused || self.message.barrier => Store::Leave,
            Some(name) if self.forget => Store::Forget { name },
            name if self.store && descriptors > 0 => Store::Keep {
                name: name.unwrap_or("stored"),
                poll: !self.unpolled,
            },
            _ => Store::Leave,
        };
        (self.message, self.complaint)
    }
}

/// The first complaint is the one that counts.
trait Complain {
    fn value(&mut self, key: &'static str, expected: &'static str);

    fn is_one(&mut self, key: &'static str, value: &[u8]) -> bool {
        if value != b"1" {
            self.value(key, "1");
        }
        value == b"1"
    }

    /// Microseconds as nanoseconds.
    fn time(&mut self, key: &'static str, value: &[u8]) -> Option<u64> {
        let us = number(value).filter(|us| (1..=TIME_US_MAX).contains(us));
        if us.is_none() {
            self.value(key, "1 to 31536000000000 microseconds");
        }
        us?.checked_mul(1000)
    }
}

impl Complain for Option<Complaint> {
    fn value(&mut self, key: &'static str, expected: &'static str) {
        self.get_or_insert(Complaint::Value { key, expected });
    }
}

/// Decimal digits and nothing else.
fn number(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// A name can stand in `LISTEN_FDNAMES`, where a colon divides.
fn store_name(value: &[u8]) -> Option<&str> {
    let visible = |b: &u8| b.is_ascii_graphic() && *b != b':';
    let fits = (1..=STORE_NAME_BYTES_MAX).contains(&value.len());
    std::str::from_utf8(value)
        .ok()
        .filter(|_| fits && value.iter().all(visible))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

    fn said(text: &str) -> (Message<'_>, Option<Complaint>) {
        parse(text.as_bytes(), false, 0)
    }

    #[test]
    fn every_key_says_what_it_should() {
        let all = "READY=1\nRELOADING=1\nSTOPPING=1\nWATCHDOG=1\nWATCHDOG=trigger\nWATCHDOG_USEC=2500000\n\
                   EXTEND_TIMEOUT_USEC=7\nSTATUS=first\nSTATUS=one = two\nMAINPID=12\nERRNO=2\nBUSERROR=x\n\
                   MONOTONIC_USEC=1\nX_MINE=\nno equals\n";
        let expected = Message {
            ready: true,
            reloading: true,
            stopping: true,
            alive: true,
            hangs: true,
            watchdog_ns: Some(2_500_000_000),
            extend_ns: Some(7_000),
            status: Some(b"one = two"),
            ..Message::default()
        };
        assert_eq!(said(all), (expected, None));
        assert!(said("READY=1\0").0.ready, "the end of a string in C");
    }

    #[test]
    fn what_is_stored_has_a_name_that_cannot_split_the_list() {
        let store = |text, descriptors| parse(text, false, descriptors);
        let keep = |name, poll| Store::Keep { name, poll };
        for (text, count, expected) in [
            (&b"FDSTORE=1"[..], 1, keep("stored", true)),
            (b"FDSTORE=1\nFDNAME=a.b\nFDPOLL=0", 2, keep("a.b", false)),
            (b"FDSTOREREMOVE=1\nFDNAME=a", 0, Store::Forget { name: "a" }),
        ] {
            let (message, complaint) = store(text, count);
            assert_eq!((message.store, complaint), (expected, None));
        }
        for (text, count, says) in [
            (
                &b"FDSTORE=1"[..],
                0,
                "0 descriptors, expected 1 or more with FDSTORE",
            ),
            (b"FDSTORE=2", 1, "FDSTORE: expected 1"),
            (
                b"READY=1",
                3,
                "3 descriptors, expected none without FDSTORE or BARRIER",
            ),
            (
                b"FDSTORE=1\nFDNAME=a:b",
                1,
                "FDNAME: expected 1 to 32 visible",
            ),
            (b"FDSTORE=1\nFDNAME=", 1, "FDNAME: expected 1 to 32 visible"),
            (
                b"FDSTORE=1\nFDNAME=\xc3\xa4",
                1,
                "FDNAME: expected 1 to 32 visible",
            ),
            (b"FDSTOREREMOVE=1", 0, "FDSTOREREMOVE: expected a name"),
            (b"FDSTORE=1\nFDPOLL=x", 1, "FDPOLL: expected 0 or 1"),
            (b"BARRIER=1", 0, "0 descriptors, expected 1 with BARRIER"),
            (
                b"BARRIER=1\nFDSTORE=1",
                2,
                "2 descriptors, expected 1 with BARRIER",
            ),
        ] {
            let (message, complaint) = store(text, count);
            let complaint = complaint.map(|c| c.to_string()).unwrap_or_default();
            assert!(complaint.starts_with(says), "{text:?}: {complaint}");
            let kept = matches!(message.store, Store::Keep { .. });
            assert_eq!(kept, text.ends_with(b"FDPOLL=x"), "{text:?}");
        }
    }

    #[test]
    fn hostile_messages_say_nothing_and_are_complained_about() {
        for (bytes, cut, complaint) in [
            (&b""[..], false, Complaint::Empty),
            (b"\0", false, Complaint::Empty),
            (b"READY=1", true, Complaint::Long),
            (&[b'x'; MESSAGE_BYTES_MAX + 1], false, Complaint::Long),
            (b"READY=1\0\nWATCHDOG=1", false, Complaint::Nul),
        ] {
            assert_eq!(parse(bytes, cut, 1), (Message::default(), Some(complaint)));
        }
    }

    #[test]
    fn a_wrong_value_is_named_and_the_rest_counts() {
        for (text, says) in [
            ("READY=yes", "READY: expected 1"),
            ("WATCHDOG=now", "WATCHDOG: expected 1 or trigger"),
            ("WATCHDOG_USEC=0", "WATCHDOG_USEC: expected 1 to"),
            ("WATCHDOG_USEC=-1", "WATCHDOG_USEC: expected 1 to"),
            (
                "WATCHDOG_USEC=99999999999999999999",
                "WATCHDOG_USEC: expected 1 to",
            ),
            (
                "EXTEND_TIMEOUT_USEC= 1",
                "EXTEND_TIMEOUT_USEC: expected 1 to",
            ),
            ("MAINPID=0", "MAINPID: expected a process id"),
            ("ERRNO=EIO", "ERRNO: expected a number"),
        ] {
            let both = format!("{text}\nSTATUS=well");
            let (message, complaint) = said(&both);
            let complaint = complaint.map(|c| c.to_string()).unwrap_or_default();
            assert!(complaint.starts_with(says), "{text}: {complaint}");
            let rest = Message {
                status: Some(b"well"),
                ..Message::default()
            };
            assert_eq!(message, rest, "{text}");
        }
    }

    /// Any bytes: nothing but the promises.
    fn fuzz_body(bytes: &[u8], descriptors: usize) {
        let (message, complaint) = parse(bytes, false, descriptors);
        if bytes.len() > MESSAGE_BYTES_MAX || bytes.iter().rev().skip(1).any(|b| *b == 0) {
            assert_eq!(message, Message::default());
            assert!(complaint.is_some());
        }
        if let Store::Keep { name, .. } | Store::Forget { name } = message.store {
            assert!(!name.contains([':', '\n', '\0', ' ']) && !name.is_empty());
            assert!(name.len() <= STORE_NAME_BYTES_MAX);
        }
        if matches!(message.store, Store::Keep { .. }) {
            assert!(descriptors > 0 && !message.barrier);
        }
        for ns in [message.watchdog_ns, message.extend_ns]
            .into_iter()
            .flatten()
        {
            assert!((1_000..=TIME_US_MAX * 1_000).contains(&ns));
        }
    }

    proptest! {
        /// Against a model that looks for whole lines.
        #[test]
        fn lines_in_any_order_say_what_each_says(
            lines in proptest::collection::vec(proptest::sample::select(vec![
                "READY=1", "STOPPING=1", "WATCHDOG=1", "STATUS=a=b", "FDSTORE=1", "FDNAME=x", "BARRIER=1", "X=1", "junk",
                "READY=1 ", "ready=1", " READY=1", "=1", "",
            ]), 1..12),
            descriptors in 0usize..3,
        ) {
            let text = lines.join("\n");
            let (message, _) = parse(text.as_bytes(), false, descriptors);
            let has = |line: &str| lines.contains(&line);
            prop_assert_eq!(message.ready, has("READY=1"));
            prop_assert_eq!(message.stopping, has("STOPPING=1"));
            prop_assert_eq!(message.alive, has("WATCHDOG=1"));
            prop_assert_eq!(message.status.is_some(), has("STATUS=a=b"));
            prop_assert_eq!(
                matches!(message.store, Store::Keep { .. }),
                has("FDSTORE=1") && descriptors > 0 && !has("BARRIER=1")
            );
            fuzz_body(text.as_bytes(), descriptors);
        }
    }

    #[test]
    fn a_second_of_damaged_messages() {
        let seed = b"READY=1\nSTATUS=up\nWATCHDOG_USEC=100\nFDSTORE=1\nFDNAME=conn\nFDPOLL=0\nBARRIER=1\nMAINPID=3";
        let (mut state, begin) = (1u64, Instant::now());
        let mut dice = move |n: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize % n
        };
        while begin.elapsed() < Duration::from_secs(1) {
            let mut data = seed.to_vec();
            for _ in 0..1 + dice(6) {
                let at = dice(data.len());
                match dice(4) {
                    0 => data[at] = dice(256) as u8,
                    1 => data.truncate(at.max(1)),
                    2 => data.extend(std::iter::repeat_n(data[at], dice(5000))),
                    _ => data.insert(at, dice(256) as u8),
                }
            }
            fuzz_body(&data, dice(3));
        }
    }
}
