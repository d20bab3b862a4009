//! Where things lie: the superblock, the segments and their headers.

use crate::frame::{Reader, Writer};
use crate::{HEADER_BYTES, Hash};

/// Bytes of one superblock copy. Two lie at the front of a log, the second written first.
pub const SUPERBLOCK_BYTES: usize = 4096;
/// Where the first segment begins: behind two copies of the superblock.
pub const SEGMENTS_OFFSET: u64 = 2 * SUPERBLOCK_BYTES as u64;
/// Sectors of common disks are 512 bytes, or 4096.
pub const SECTOR_BYTES_MIN: u32 = 512;
/// See [`SECTOR_BYTES_MIN`].
pub const SECTOR_BYTES_MAX: u32 = 4096;
/// Smallest segment; it still holds events of the usual size.
pub const SEGMENT_BYTES_MIN: u64 = 16 * 1024;
/// Largest segment: what `verify` and a later compaction handle as one unit.
pub const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Largest group: a JSONL line of 1 MiB as one batch, framed, with room for company.
pub const GROUP_BYTES_MAX: u64 = 2 * 1024 * 1024;

const SUPERBLOCK_MAGIC: &[u8; 8] = b"VBLEDGER";
const SEGMENT_MAGIC: &[u8; 8] = b"VBLSEGMT";
const FORMAT_VERSION: u32 = 1;
const SUPERBLOCK_CONTEXT: &str = "vb-ledger-superblock v1";
/// Where the superblock's hash lies.
const SUPERBLOCK_HASHED: usize = SUPERBLOCK_BYTES - 32;
/// The fields of a superblock end here; zeros follow up to the hash.
const SUPERBLOCK_FIELDS: usize = 96;
/// A segment header fills one sector; its checksum covers what lies before it.
const SEGMENT_CRC_AT: usize = 508;

/// What holds for a whole log; written once, when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// Groups and segment headers are multiples of this.
    pub sector_bytes: u32,
    /// Bytes of every segment.
    pub segment_bytes: u64,
    /// Segments that there may be.
    pub segments_max: u32,
    /// Random; binds frames and chain to this log.
    pub log_id: [u8; 16],
    /// Key of the tenant tags.
    pub tag_key: [u8; 32],
    /// When it was made, nanoseconds since 1970.
    pub created_wall_ns: u64,
    /// Epoch of the first segment, 1.
    pub epoch: u64,
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
        w.put(&self.epoch.to_le_bytes());
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
            return Err("version is not 1");
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
            epoch: u64::from_le_bytes(r.take().ok_or(short)?),
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
        if fields
            .get(SUPERBLOCK_FIELDS..)
            .is_none_or(|z| z.iter().any(|b| *b != 0))
        {
            return Err("reserved bytes are not zero");
        }
        Ok(this)
    }

    /// Where a segment begins in the log.
    #[must_use]
    pub fn segment_offset(&self, segment: u32) -> u64 {
        SEGMENTS_OFFSET.saturating_add(u64::from(segment).saturating_mul(self.segment_bytes))
    }

    /// Largest group, with its group frame.
    #[must_use]
    pub fn group_bytes_max(&self) -> u64 {
        GROUP_BYTES_MAX.min(
            self.segment_bytes
                .saturating_sub(u64::from(self.sector_bytes)),
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

/// First sector of a segment: where the log stood when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Which segment of which log and epoch.
    pub place: Place,
    /// Id that its first event will have.
    pub first_event_id: u64,
    /// Chain value before that.
    pub chain: Hash,
    /// Tree size before that.
    pub tree_size: u64,
    /// Tree root before that.
    pub root: Hash,
}

impl SegmentHeader {
    /// Writes the header into a zeroed sector.
    pub fn encode(&self, sector: &mut [u8]) {
        if let Some((fields, rest)) = sector.split_at_mut_checked(SEGMENT_CRC_AT) {
            let mut w = Writer(fields);
            w.put(SEGMENT_MAGIC);
            w.put(&FORMAT_VERSION.to_le_bytes());
            w.put(&self.place.segment.to_le_bytes());
            w.put(&self.place.epoch.to_le_bytes());
            w.put(&self.place.log_id);
            w.put(&self.first_event_id.to_le_bytes());
            w.put(&self.chain);
            w.put(&self.tree_size.to_le_bytes());
            w.put(&self.root);
            Writer(rest).put(&crc32fast::hash(fields).to_le_bytes());
        }
    }

    /// Reads a header from a whole sector.
    #[must_use]
    pub fn decode(sector: &[u8]) -> Option<Self> {
        let (fields, rest) = sector.split_at_checked(SEGMENT_CRC_AT)?;
        let (crc, zeros) = rest.split_first_chunk::<4>()?;
        if crc32fast::hash(fields) != u32::from_le_bytes(*crc) || zeros.iter().any(|b| *b != 0) {
            return None;
        }
        let mut r = Reader(fields);
        if &r.take::<8>()? != SEGMENT_MAGIC || u32::from_le_bytes(r.take()?) != FORMAT_VERSION {
            return None;
        }
        let segment = u32::from_le_bytes(r.take()?);
        let epoch = u64::from_le_bytes(r.take()?);
        let log_id = r.take()?;
        let this = Self {
            place: Place {
                log_id,
                segment,
                epoch,
            },
            first_event_id: u64::from_le_bytes(r.take()?),
            chain: r.take()?,
            tree_size: u64::from_le_bytes(r.take()?),
            root: r.take()?,
        };
        r.0.iter().all(|b| *b == 0).then_some(this)
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
            epoch: 1,
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
        let header = SegmentHeader {
            place: superblock().place(2, 1),
            first_event_id: 5,
            chain: [1; 32],
            tree_size: 4,
            root: [2; 32],
        };
        for bytes in [512usize, 4096] {
            let mut good = alloc::vec![0; bytes];
            header.encode(&mut good);
            assert_eq!(SegmentHeader::decode(&good), Some(header));
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 1 << (at % 8);
                assert_eq!(SegmentHeader::decode(&bad), None, "byte {at}");
            }
        }
    }
}
