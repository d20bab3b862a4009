//! A device as the log's offsets see it: they never repeat, while segments take the slots in turn.
//!
//! The only place that knows where a segment lies. Mapping an offset twice is mapping it once, so it
//! does no harm to put one over another.

use crate::device::{Beside, Device};
use ledger_core::{SEGMENTS_OFFSET, Superblock};
use std::io;
use std::sync::Arc;

/// A device behind the map, shared.
pub struct Slots {
    device: Arc<dyn Device>,
    superblock: Superblock,
}

impl Slots {
    /// Over the device of a log.
    #[must_use]
    pub fn over(device: Arc<dyn Device>, superblock: &Superblock) -> Arc<dyn Device> {
        Arc::new(Self {
            device,
            superblock: *superblock,
        })
    }

    fn mapped(&self) -> Mapped<'_> {
        Mapped {
            device: &*self.device,
            superblock: &self.superblock,
        }
    }
}

/// A device behind the map, borrowed.
pub struct Mapped<'d> {
    /// The device.
    pub device: &'d dyn Device,
    /// Whose sizes the map goes by.
    pub superblock: &'d Superblock,
}

impl Mapped<'_> {
    /// How many of these bytes lie in one piece.
    fn piece(&self, offset: u64, bytes: usize) -> usize {
        let end = match offset.checked_sub(SEGMENTS_OFFSET) {
            None => SEGMENTS_OFFSET,
            Some(_) => {
                let next = self.superblock.segment_at(offset).saturating_add(1);
                self.superblock.segment_offset(next)
            }
        };
        usize::try_from(end.saturating_sub(offset)).map_or(bytes, |left| left.min(bytes))
    }
}

impl Device for Mapped<'_> {
    fn capacity(&self) -> u64 {
        self.device.capacity()
    }
    fn sector_bytes(&self) -> u32 {
        self.device.sector_bytes()
    }
    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let (now, rest) = buf.split_at_mut(self.piece(offset, buf.len()).max(1));
            self.device
                .read_at(self.superblock.slot_offset(offset), now)?;
            offset += now.len() as u64;
            buf = rest;
        }
        Ok(())
    }
    fn write_at(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(self.piece(offset, bytes.len()).max(1));
            self.device
                .write_at(self.superblock.slot_offset(offset), now)?;
            offset += now.len() as u64;
            bytes = rest;
        }
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        self.device.sync()
    }
    fn start_writing(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.device
            .start_writing(self.superblock.slot_offset(offset), bytes)
    }
    fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.device
            .discard(self.superblock.slot_offset(offset), bytes)
    }
    fn piece_bytes(&self) -> Option<u64> {
        self.device.piece_bytes()
    }
    fn locate(&self, offset: u64) -> String {
        self.device.locate(self.superblock.slot_offset(offset))
    }
}

impl Device for Slots {
    fn capacity(&self) -> u64 {
        self.device.capacity()
    }
    fn sector_bytes(&self) -> u32 {
        self.device.sector_bytes()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.mapped().read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.mapped().write_at(offset, bytes)
    }
    fn sync(&self) -> io::Result<()> {
        self.device.sync()
    }
    fn start_writing(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.mapped().start_writing(offset, bytes)
    }
    fn takes_beside(&self, work: &Arc<dyn Beside>) -> bool {
        self.device.takes_beside(work)
    }
    fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.mapped().discard(offset, bytes)
    }
    fn piece_bytes(&self) -> Option<u64> {
        self.device.piece_bytes()
    }
    fn locate(&self, offset: u64) -> String {
        self.mapped().locate(offset)
    }
}
