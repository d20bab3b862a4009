//! Epochs and compaction as the log's own events say them: anchors, summaries, what was dropped.
//!
//! An epoch begins with a segment of its own, whose first event is the anchor: it states chain, tree
//! and the planes' state at that point and names the anchor before. A compaction writes the planes'
//! state down as a summary, says in one event where the log begins from now on, and only then
//! segments are dropped.
//!
//! Payloads are canonical JSON of a fixed shape; the parsers here take exactly what the writers write.

use crate::{Body, Hash, SegmentHeader};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// Event type of an epoch's anchor.
pub const EPOCH_OPENED: &str = "epoch.opened";
/// Event type of one piece of a summary.
pub const SUMMARY: &str = "log.summary";
/// Event type that says where the log begins from now on.
pub const COMPACTED: &str = "log.compacted";

/// Bytes of one piece of a summary: its event stays far below the smallest group.
pub const SUMMARY_PIECE_BYTES: usize = 4096;

/// An epoch's first event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// The epoch that begins.
    pub epoch: u64,
    /// Id and chain value of the anchor before; none for the first.
    pub previous: Option<(u64, Hash)>,
    /// Chain value before this event.
    pub chain: Hash,
    /// Tree size before this event.
    pub tree_size: u64,
    /// Tree root before this event.
    pub root: Hash,
    /// Hash of the planes' summary at this point.
    pub state: Hash,
}

impl Anchor {
    /// The event's payload.
    #[must_use]
    pub fn payload(&self) -> String {
        let mut out = String::from("{\"chain\":");
        hex(&mut out, &self.chain);
        number(&mut out, ",\"epoch\":", self.epoch);
        out.push_str(",\"previous\":");
        match &self.previous {
            None => out.push_str("null"),
            Some((id, chain)) => {
                out.push_str("{\"chain\":");
                hex(&mut out, chain);
                number(&mut out, ",\"id\":", *id);
                out.push('}');
            }
        }
        out.push_str(",\"root\":");
        hex(&mut out, &self.root);
        out.push_str(",\"state\":");
        hex(&mut out, &self.state);
        number(&mut out, ",\"tree_size\":", self.tree_size);
        out.push('}');
        out
    }

    /// Reads a payload.
    #[must_use]
    pub fn parse(payload: &str) -> Option<Self> {
        let mut t = Text(payload);
        let chain = t.skip("{\"chain\":")?.hash()?;
        let epoch = t.skip(",\"epoch\":")?.number()?;
        let previous = if t.skip(",\"previous\":")?.skip("null").is_some() {
            None
        } else {
            let chain = t.skip("{\"chain\":")?.hash()?;
            let id = t.skip(",\"id\":")?.number()?;
            t.skip("}")?;
            Some((id, chain))
        };
        let this = Self {
            epoch,
            previous,
            chain,
            root: t.skip(",\"root\":")?.hash()?,
            state: t.skip(",\"state\":")?.hash()?,
            tree_size: t.skip(",\"tree_size\":")?.number()?,
        };
        (t.0 == "}").then_some(this)
    }

    /// The anchor that an event is.
    #[must_use]
    pub fn of(event: &Body<'_>) -> Option<Self> {
        is_ours(event, EPOCH_OPENED).then(|| Self::parse(event.payload))?
    }
}

/// Whether the ledger itself wrote this event of this type; what others write under the name says
/// nothing.
fn is_ours(event: &Body<'_>, event_type: &str) -> bool {
    (event.ns, event.actor, event.tenant_id, event.event_type)
        == (LEDGER_NS, LEDGER_ACTOR, LEDGER_TENANT, event_type)
}

/// Namespace of the ledger's own events.
pub const LEDGER_NS: &str = "ledger";
/// Their actor.
pub const LEDGER_ACTOR: &str = "service:ledger";
/// Their tenant.
pub const LEDGER_TENANT: &str = "system";

/// Says where the log begins from now on: the state before its first event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// First segment that is kept.
    pub first_segment: u32,
    /// First event that is kept.
    pub first_event_id: u64,
    /// Chain value before it.
    pub chain: Hash,
    /// Tree root before it; the size is the id less one.
    pub root: Hash,
    /// Last event of the planes' summary, which stands before this event.
    pub summary_id: u64,
}

impl Compacted {
    /// The event's payload.
    #[must_use]
    pub fn payload(&self) -> String {
        let mut out = String::from("{\"chain\":");
        hex(&mut out, &self.chain);
        number(&mut out, ",\"first_event_id\":", self.first_event_id);
        number(
            &mut out,
            ",\"first_segment\":",
            u64::from(self.first_segment),
        );
        out.push_str(",\"root\":");
        hex(&mut out, &self.root);
        number(&mut out, ",\"summary_id\":", self.summary_id);
        out.push('}');
        out
    }

    /// What an event says of a compaction.
    #[must_use]
    pub fn of(event: &Body<'_>) -> Option<Self> {
        is_ours(event, COMPACTED).then(|| Self::parse(event.payload))?
    }

    /// Whether it speaks of a segment with this header.
    #[must_use]
    pub fn is_of(&self, header: &SegmentHeader) -> bool {
        (self.first_segment, self.first_event_id) == (header.place.segment, header.first_event_id())
            && (self.chain, self.root) == (header.head.chain, header.head.tree.root())
    }

    /// Reads a payload.
    #[must_use]
    pub fn parse(payload: &str) -> Option<Self> {
        let mut t = Text(payload);
        let chain = t.skip("{\"chain\":")?.hash()?;
        let first_event_id = t.skip(",\"first_event_id\":")?.number()?;
        let first_segment = t.skip(",\"first_segment\":")?.number()?;
        let this = Self {
            first_segment: u32::try_from(first_segment).ok()?,
            first_event_id,
            chain,
            root: t.skip(",\"root\":")?.hash()?,
            summary_id: t.skip(",\"summary_id\":")?.number()?,
        };
        (t.0 == "}").then_some(this)
    }
}

/// One piece of a summary: all of them, in order and with nothing between, are the planes' state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SummaryPiece {
    /// Its place, from 0.
    pub index: u32,
    /// How many there are.
    pub count: u32,
    /// Hash of the whole summary.
    pub state: Hash,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl SummaryPiece {
    /// Cuts a summary into pieces; an empty one is one empty piece.
    #[must_use]
    pub fn cut(summary: &[u8]) -> Vec<Self> {
        let state = *blake3::hash(summary).as_bytes();
        let count = summary.len().div_ceil(SUMMARY_PIECE_BYTES).max(1);
        let mut chunks = summary.chunks(SUMMARY_PIECE_BYTES);
        (0..u32::try_from(count).unwrap_or(u32::MAX))
            .map(|index| Self {
                index,
                count: u32::try_from(count).unwrap_or(u32::MAX),
                state,
                bytes: chunks.next().unwrap_or_default().into(),
            })
            .collect()
    }

    /// The event's payload.
    #[must_use]
    pub fn payload(&self) -> String {
        let mut out = String::from("{\"bytes\":");
        hex(&mut out, &self.bytes);
        number(&mut out, ",\"count\":", u64::from(self.count));
        number(&mut out, ",\"index\":", u64::from(self.index));
        out.push_str(",\"state\":");
        hex(&mut out, &self.state);
        out.push('}');
        out
    }

    /// The piece that an event is.
    #[must_use]
    pub fn of(event: &Body<'_>) -> Option<Self> {
        is_ours(event, SUMMARY).then(|| Self::parse(event.payload))?
    }

    /// Reads a payload.
    #[must_use]
    pub fn parse(payload: &str) -> Option<Self> {
        let mut t = Text(payload);
        let bytes = t.skip("{\"bytes\":")?.bytes()?;
        let count = t.skip(",\"count\":")?.number()?;
        let index = t.skip(",\"index\":")?.number()?;
        let state = t.skip(",\"state\":")?.hash()?;
        (t.0 == "}" && bytes.len() <= SUMMARY_PIECE_BYTES && index < count).then_some(())?;
        Some(Self {
            index: u32::try_from(index).ok()?,
            count: u32::try_from(count).ok()?,
            state,
            bytes,
        })
    }
}

/// Puts the pieces of a summary together as they are met in the log.
#[derive(Debug, Default)]
pub struct Gathered {
    pieces: u32,
    bytes: Vec<u8>,
}

/// Bytes of a summary; what is larger is no summary of ours.
pub const SUMMARY_BYTES_MAX: usize = 64 * 1024 * 1024;

impl Gathered {
    /// Another event came between: what was met so far is no summary.
    pub fn interrupt(&mut self) {
        if self.pieces > 0 {
            *self = Self::default();
        }
    }

    /// Takes the next event in; gives the whole summary with its last piece.
    pub fn take(&mut self, event: &Body<'_>) -> Option<Vec<u8>> {
        let Some(piece) = SummaryPiece::of(event) else {
            self.interrupt();
            return None;
        };
        if piece.index == 0 {
            self.interrupt();
        }
        if piece.index != self.pieces
            || self.bytes.len().saturating_add(piece.bytes.len()) > SUMMARY_BYTES_MAX
        {
            self.interrupt();
            return None;
        }
        self.pieces = self.pieces.saturating_add(1);
        self.bytes.extend_from_slice(&piece.bytes);
        if self.pieces < piece.count {
            return None;
        }
        let whole = core::mem::take(self).bytes;
        (*blake3::hash(&whole).as_bytes() == piece.state).then_some(whole)
    }
}

pub(crate) fn number(out: &mut String, before: &str, value: u64) {
    // Writing to a `String` cannot fail.
    let _ = write!(out, "{before}{value}");
}

pub(crate) fn hex(out: &mut String, bytes: &[u8]) {
    out.push('"');
    for byte in bytes {
        // As above.
        let _ = write!(out, "{byte:02x}");
    }
    out.push('"');
}

/// Takes fixed text off the front of a payload.
pub(crate) struct Text<'a>(pub(crate) &'a str);

impl<'a> Text<'a> {
    pub(crate) fn skip(&mut self, text: &str) -> Option<&mut Self> {
        self.0 = self.0.strip_prefix(text)?;
        Some(self)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let end = self.0.find(|c: char| !c.is_ascii_digit())?;
        let (digits, rest) = self.0.split_at_checked(end)?;
        if digits.len() > 1 && digits.starts_with('0') {
            return None;
        }
        self.0 = rest;
        digits.parse().ok()
    }

    fn quoted(&mut self) -> Option<&'a str> {
        let (text, rest) = self.0.strip_prefix('"')?.split_once('"')?;
        self.0 = rest;
        Some(text)
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let digit = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        let pairs = self.quoted()?.as_bytes().chunks(2);
        pairs
            .map(|pair| match pair {
                [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn hash(&mut self) -> Option<Hash> {
        self.bytes()?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn payloads_round_trip_and_other_texts_are_refused() {
        let anchor = Anchor {
            epoch: 3,
            previous: Some((7, [1; 32])),
            chain: [2; 32],
            tree_size: 9,
            root: [3; 32],
            state: [4; 32],
        };
        let first = Anchor {
            previous: None,
            ..anchor
        };
        for anchor in [anchor, first] {
            let text = anchor.payload();
            assert_eq!(Anchor::parse(&text), Some(anchor));
            for cut in 0..text.len() {
                assert_eq!(Anchor::parse(&text[..cut]), None);
            }
            assert_eq!(Anchor::parse(&text.replace(":9", ":09")), None);
            assert_eq!(Anchor::parse(&(text + " ")), None);
        }
        let compacted = Compacted {
            first_segment: 2,
            first_event_id: 10,
            chain: [5; 32],
            root: [6; 32],
            summary_id: 77,
        };
        let text = compacted.payload();
        assert_eq!(Compacted::parse(&text), Some(compacted));
        let wide = text.replace("\"first_segment\":2", "\"first_segment\":4294967296");
        assert_eq!(Compacted::parse(&wide), None);
    }

    fn event<'a>(event_type: &'a str, payload: &'a str) -> Body<'a> {
        Body {
            timestamp_ns: 0,
            wall_ns: 0,
            ulid: [0; 16],
            tenant_tag: [0; 8],
            ns: "ledger",
            actor: "service:ledger",
            tenant_id: "system",
            event_type,
            subject: "",
            payload,
            causation_id: None,
            origin: None,
            sig: None,
        }
    }

    proptest! {
        #[test]
        fn a_summary_comes_back_whole_or_not_at_all(
            bytes in proptest::collection::vec(any::<u8>(), 0..20_000), skip in 0usize..8,
        ) {
            let pieces: Vec<String> = SummaryPiece::cut(&bytes).iter().map(SummaryPiece::payload).collect();
            let mut gathered = Gathered::default();
            let mut whole = None;
            for payload in &pieces {
                prop_assert_eq!(whole, None);
                whole = gathered.take(&event(SUMMARY, payload));
            }
            prop_assert_eq!(whole.as_deref(), Some(&bytes[..]));
            // One that is missing, or anything between.
            let mut gathered = Gathered::default();
            let mut whole = None;
            for (n, payload) in pieces.iter().enumerate() {
                if n == skip {
                    gathered.take(&event("note", "{}"));
                }
                whole = gathered.take(&event(SUMMARY, payload)).or(whole);
            }
            prop_assert_eq!(whole.is_some(), skip == 0 || skip >= pieces.len());
        }
    }
}
