//! Where things lie: the superblock, the segments and their headers.
//!
//! Segments are numbered from 0 and never again; the device has a slot for each that is kept. Log
//! offsets count as if no segment had ever been dropped ([`Superblock::segment_offset`]); only who
//! touches the device asks where that is there ([`Superblock::slot_offset`]).

use crate::frame::{self, Reader, Writer};
use crate::{CompactRange, HEADER_BYTES, Hash, Head};
use alloc::vec::Vec;

/// Bytes of one superblock copy. Two lie at the front of a log, the second written first.
pub const SUPERBLOCK_BYTES: usize = 4096;
/// Where the first segment begins: behind two copies of the superblock.
pub const SEGMENTS_OFFSET: u64 = 2 * SUPERBLOCK_BYTES as u64;
/// Sectors of common disks are 512 bytes, or 4096.
pub const SECTOR_BYTES_MIN: u32 = 512;
/// See [`SECTOR_BYTES_MIN`].
pub const SECTOR_BYTES_MAX: u32 = 4096;
/// Bytes of a segment's header: whole sectors of any size, with room for a tree of 2^64 events.
pub const SEGMENT_HEADER_BYTES: usize = 4096;
/// Smallest segment; it still holds events of the usual size.
pub const SEGMENT_BYTES_MIN: u64 = 16 * 1024;
/// Largest segment: what a compaction drops as one unit.
pub const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Largest group: a JSONL line of 1 MiB as one batch, framed, with room for company.
pub const GROUP_BYTES_MAX: u64 = 2 * 1024 * 1024;

const SUPERBLOCK_MAGIC: &[u8; 8] = b"VBLEDGER";
const SEGMENT_MAGIC: &[u8; 8] = b"VBLSEGMT";
const FORMAT_VERSION: u32 = 2;
const SUPERBLOCK_CONTEXT: &str = "vb-ledger-superblock v2";
/// Where the superblock's hash lies.
const SUPERBLOCK_HASHED: usize = SUPERBLOCK_BYTES - 32;
/// The fields of a superblock end here; zeros follow up to the hash.
const SUPERBLOCK_FIELDS: usize = 100;
/// A segment header's checksum covers what lies before it.
const SEGMENT_CRC_AT: usize = SEGMENT_HEADER_BYTES - 4;
/// Epoch of a log's first segment.
pub const FIRST_EPOCH: u64 = 1;

/// What holds for a whole log; written when it is made, and when a compaction drops segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// Groups and segment headers are multiples of this.
    pub sector_bytes: u32,
    /// Bytes of every segment.
    pub segment_bytes: u64,
    /// Segments that there may be at once: the device's slots.
    pub segments_max: u32,
    /// Random; binds frames and chain to this log.
    pub log_id: [u8; 16],
    /// Key of the tenant tags.
    pub tag_key: [u8; 32],
    /// When it was made, nanoseconds since 1970.
    pub created_wall_ns: u64,
    /// Counts the times that this block was written anew, from 1.
    pub generation: u64,
    /// First segment that is kept; those before it were dropped.
    pub first_segment: u32,
}

impl Superblock {
    /// The bytes of one copy.
    #[must_use]
    pub fn encode(&self) -> [u8; SUPERBLOCK_BYTES] {
        let mut out = [0; SUPERBLOCK_BYTES];
        let (fields, hash) = out.split_at_mut(SUPERBLOCK_HASHED);
        let mut w = Writer(fields);
        w.put(SUPERBLOCK_MAGIC);
        w.put(&FORMAT_VERSION.to_le_bytes());
        w.put(&self.sector_bytes.to_le_bytes());
        w.put(&self.segment_bytes.to_le_bytes());
        w.put(&self.segments_max.to_le_bytes());
        // Source of the tag key: 0, this block.
        w.put(&0u32.to_le_bytes());
        w.put(&self.log_id);
        w.put(&self.tag_key);
        w.put(&self.created_wall_ns.to_le_bytes());
        w.put(&self.generation.to_le_bytes());
        w.put(&self.first_segment.to_le_bytes());
        hash.copy_from_slice(&blake3::derive_key(SUPERBLOCK_CONTEXT, fields));
        out
    }

    /// Reads one copy.
    ///
    /// # Errors
    /// Says which field is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let bytes: &[u8; SUPERBLOCK_BYTES] = bytes.try_into().map_err(|_| "length is not 4096")?;
        let (fields, hash) = bytes.split_at(SUPERBLOCK_HASHED);
        let mut r = Reader(fields);
        let short = "superblock is too short";
        if &r.take::<8>().ok_or(short)? != SUPERBLOCK_MAGIC {
            return Err("magic is not VBLEDGER");
        }
        if u32::from_le_bytes(r.take().ok_or(short)?) != FORMAT_VERSION {
            return Err(
                "version is not 2: another version of the software wrote this log; export it with that one, \
                 and import it into a new log",
            );
        }
        if hash != blake3::derive_key(SUPERBLOCK_CONTEXT, fields) {
            return Err("hash does not match");
        }
        let sector_bytes = u32::from_le_bytes(r.take().ok_or(short)?);
        let segment_bytes = u64::from_le_bytes(r.take().ok_or(short)?);
        let segments_max = u32::from_le_bytes(r.take().ok_or(short)?);
        if u32::from_le_bytes(r.take().ok_or(short)?) != 0 {
            return Err("source of the tag key is not 0");
        }
        let this = Self {
            sector_bytes,
            segment_bytes,
            segments_max,
            log_id: r.take().ok_or(short)?,
            tag_key: r.take().ok_or(short)?,
            created_wall_ns: u64::from_le_bytes(r.take().ok_or(short)?),
            generation: u64::from_le_bytes(r.take().ok_or(short)?),
            first_segment: u32::from_le_bytes(r.take().ok_or(short)?),
        };
        let sector = u64::from(sector_bytes);
        if !sector_bytes.is_power_of_two()
            || !(SECTOR_BYTES_MIN..=SECTOR_BYTES_MAX).contains(&sector_bytes)
        {
            return Err("sector size is not a power of two from 512 to 4096");
        }
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes)
            || segment_bytes % sector != 0
        {
            return Err("segment size is not a multiple of the sector from 16 KiB to 64 MiB");
        }
        if segments_max == 0 {
            return Err("segment count is 0");
        }
        if this.generation == 0 {
            return Err("generation is 0");
        }
        if fields
            .get(SUPERBLOCK_FIELDS..)
            .is_none_or(|z| z.iter().any(|b| *b != 0))
        {
            return Err("reserved bytes are not zero");
        }
        Ok(this)
    }

    /// Where a segment begins in the log, whose offsets never repeat.
    #[must_use]
    pub fn segment_offset(&self, segment: u32) -> u64 {
        SEGMENTS_OFFSET.saturating_add(u64::from(segment).saturating_mul(self.segment_bytes))
    }

    /// The segment that a log offset lies in; 0 for the superblocks.
    #[must_use]
    pub fn segment_at(&self, offset: u64) -> u32 {
        let within = offset.saturating_sub(SEGMENTS_OFFSET);
        let segment = within.checked_div(self.segment_bytes).unwrap_or(0);
        u32::try_from(segment).unwrap_or(u32::MAX)
    }

    /// Where a log offset lies on the device: segments take its slots in turn. An offset of the
    /// device is left as it is.
    #[must_use]
    pub fn slot_offset(&self, offset: u64) -> u64 {
        match offset.checked_sub(SEGMENTS_OFFSET) {
            None => offset,
            Some(at) => {
                let slots = u64::from(self.segments_max).saturating_mul(self.segment_bytes);
                SEGMENTS_OFFSET.saturating_add(at.checked_rem(slots).unwrap_or(at))
            }
        }
    }

    /// Bytes that the log takes of its device at most.
    #[must_use]
    pub fn device_bytes(&self) -> u64 {
        self.segment_offset(self.segments_max)
    }

    /// The number behind the last segment that there is room for without dropping any.
    #[must_use]
    pub fn segments_end(&self) -> u32 {
        self.first_segment.saturating_add(self.segments_max)
    }

    /// Largest group, with its group frame.
    #[must_use]
    pub fn group_bytes_max(&self) -> u64 {
        GROUP_BYTES_MAX.min(
            self.segment_bytes
                .saturating_sub(SEGMENT_HEADER_BYTES as u64),
        )
    }

    /// Largest body of one event.
    #[must_use]
    pub fn body_bytes_max(&self) -> u64 {
        let frames = HEADER_BYTES + crate::GROUP_FRAME_BYTES + crate::FRAME_ALIGN;
        self.group_bytes_max().saturating_sub(frames as u64)
    }

    /// What seeds the checksums of this segment.
    #[must_use]
    pub fn place(&self, segment: u32, epoch: u64) -> Place {
        Place {
            log_id: self.log_id,
            segment,
            epoch,
        }
    }
}

/// The place that a frame belongs to: old bytes of another log, epoch or segment never parse here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The log.
    pub log_id: [u8; 16],
    /// The segment's number.
    pub segment: u32,
    /// The segment's epoch.
    pub epoch: u64,
}

impl Place {
    pub(crate) fn seeded(&self) -> crc32fast::Hasher {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.log_id);
        crc.update(&self.epoch.to_le_bytes());
        crc.update(&self.segment.to_le_bytes());
        crc
    }
}

/// First bytes of a segment: where the log stood when it began, so that reading can begin here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Which segment of which log and epoch.
    pub place: Place,
    /// First segment of its epoch.
    pub epoch_segment: u32,
    /// Where the log stood before the segment's first event.
    pub head: Head,
}

impl SegmentHeader {
    /// The header of a log's very first segment.
    #[must_use]
    pub fn first(superblock: &Superblock) -> Self {
        Self {
            place: superblock.place(0, FIRST_EPOCH),
            epoch_segment: 0,
            head: Head::genesis(superblock),
        }
    }

    /// Id that its first event has.
    #[must_use]
    pub fn first_event_id(&self) -> u64 {
        self.head.id.saturating_add(1)
    }

    /// Whether an epoch begins with it; then its first event is the epoch's anchor.
    #[must_use]
    pub fn opens_epoch(&self) -> bool {
        self.place.segment == self.epoch_segment && self.place.epoch > FIRST_EPOCH
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = alloc::vec![0; SEGMENT_HEADER_BYTES];
        if let Some((fields, crc)) = out.split_at_mut_checked(SEGMENT_CRC_AT) {
            let peaks = self.head.tree.peaks();
            let mut w = Writer(fields);
            w.put(SEGMENT_MAGIC);
            w.put(&FORMAT_VERSION.to_le_bytes());
            w.put(&self.place.segment.to_le_bytes());
            w.put(&self.place.epoch.to_le_bytes());
            w.put(&self.place.log_id);
            w.put(&self.first_event_id().to_le_bytes());
            w.put(&self.head.chain);
            w.put(&self.head.tree.size().to_le_bytes());
            w.put(&self.head.tree.root());
            w.put(&self.epoch_segment.to_le_bytes());
            // At most 64: one for each bit of the size.
            w.put(&u32::try_from(peaks.len()).unwrap_or(0).to_le_bytes());
            for peak in peaks {
                w.put(peak);
            }
            Writer(crc).put(&crc32fast::hash(fields).to_le_bytes());
        }
        out
    }

    /// Reads a header from its bytes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (fields, crc) = bytes.split_at_checked(SEGMENT_CRC_AT)?;
        let crc: [u8; 4] = crc.try_into().ok()?;
        if crc32fast::hash(fields) != u32::from_le_bytes(crc) {
            return None;
        }
        let mut r = Reader(fields);
        if &r.take::<8>()? != SEGMENT_MAGIC || u32::from_le_bytes(r.take()?) != FORMAT_VERSION {
            return None;
        }
        let segment = u32::from_le_bytes(r.take()?);
        let epoch = u64::from_le_bytes(r.take()?);
        let log_id = r.take()?;
        let id = u64::from_le_bytes(r.take()?).checked_sub(1)?;
        let chain = r.take()?;
        let tree_size = u64::from_le_bytes(r.take()?);
        let root: Hash = r.take()?;
        let epoch_segment = u32::from_le_bytes(r.take()?);
        let count = u32::from_le_bytes(r.take()?);
        if count > u64::BITS {
            return None;
        }
        let peaks = (0..count).map(|_| r.take()).collect::<Option<Vec<_>>>()?;
        let tree = CompactRange::from_peaks(tree_size, peaks)?;
        let genesis = id == 0 && chain != frame::genesis(&log_id);
        let holds = tree.root() == root
            && tree_size == id
            && !genesis
            && epoch >= FIRST_EPOCH
            && epoch_segment <= segment
            && r.0.iter().all(|b| *b == 0);
        holds.then_some(Self {
            place: Place {
                log_id,
                segment,
                epoch,
            },
            epoch_segment,
            head: Head { id, chain, tree },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock() -> Superblock {
        Superblock {
            sector_bytes: 512,
            segment_bytes: SEGMENT_BYTES_MIN,
            segments_max: 3,
            log_id: [7; 16],
            tag_key: [9; 32],
            created_wall_ns: 1,
            generation: 1,
            first_segment: 0,
        }
    }

    #[test]
    fn every_flipped_bit_of_a_superblock_is_refused() {
        let good = superblock().encode();
        assert_eq!(Superblock::decode(&good), Ok(superblock()));
        for at in 0..good.len() {
            let mut bad = good;
            bad[at] ^= 1 << (at % 8);
            assert!(Superblock::decode(&bad).is_err(), "byte {at}");
        }
        for cut in 0..good.len() {
            assert!(Superblock::decode(&good[..cut]).is_err());
        }
    }

    #[test]
    fn sizes_out_of_range_are_refused_even_with_a_good_hash() {
        for (sector, segment, count) in [
            (256, SEGMENT_BYTES_MIN, 1),
            (8192, SEGMENT_BYTES_MIN, 1),
            (1536, SEGMENT_BYTES_MIN, 1),
            (512, SEGMENT_BYTES_MIN + 1, 1),
            (512, SEGMENT_BYTES_MAX * 2, 1),
            (512, SEGMENT_BYTES_MIN, 0),
        ] {
            let bad = Superblock {
                sector_bytes: sector,
                segment_bytes: segment,
                segments_max: count,
                ..superblock()
            };
            assert!(Superblock::decode(&bad.encode()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_segment_header_is_refused() {
        let mut head = Head::genesis(&superblock());
        for id in 1..=7 {
            head.id = id;
            head.tree.push(&[u8::try_from(id).unwrap(); 64]);
        }
        let header = SegmentHeader {
            place: superblock().place(2, 2),
            epoch_segment: 1,
            head,
        };
        let good = header.encode();
        assert_eq!(SegmentHeader::decode(&good), Some(header));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            assert_eq!(SegmentHeader::decode(&bad), None, "byte {at}");
            assert_eq!(SegmentHeader::decode(&good[..at]), None);
        }
    }

    #[test]
    fn a_header_whose_tree_is_another_is_refused_even_with_a_good_checksum() {
        let header = SegmentHeader {
            place: superblock().place(0, 1),
            epoch_segment: 0,
            head: Head::genesis(&superblock()),
        };
        for (at, value) in [
            (40, 2),
            (48, 1),
            (80, 1),
            (88, 1),
            (120, 1),
            (124, 1),
            (16, 0),
        ] {
            let mut bad = header.encode();
            bad[at] = value;
            let crc = crc32fast::hash(&bad[..SEGMENT_CRC_AT]).to_le_bytes();
            bad[SEGMENT_CRC_AT..].copy_from_slice(&crc);
            assert_eq!(SegmentHeader::decode(&bad), None, "byte {at}");
        }
    }

    #[test]
    fn slots_are_taken_in_turn_and_device_offsets_stay() {
        let superblock = superblock();
        for segment in 0..12u32 {
            let at = superblock.segment_offset(segment) + 77;
            let slot = superblock.segment_offset(segment % 3) + 77;
            assert_eq!(superblock.slot_offset(at), slot);
            assert_eq!(superblock.slot_offset(slot), slot);
            assert_eq!(superblock.segment_at(at), segment);
        }
        assert_eq!(superblock.slot_offset(4096), 4096);
    }
}
