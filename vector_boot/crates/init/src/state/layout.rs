//! Where everything lies in the state memfd: `docs/state-memfd.md` as constants.
//!
//! A change of any of them changes [`VERSION`].

/// What the memfd begins with.
pub const MAGIC: [u8; 8] = *b"VB-STATE";
/// Of this layout.
pub const VERSION: u32 = 3;

pub const AT_VERSION: usize = 8;
pub const AT_SIZE: usize = 12;
pub const AT_BOOT_ID: usize = 16;
/// CRC-32 of everything before it.
pub const AT_CHECKSUM: usize = 32;
/// Rows of the table of descriptors that were ever in use; the others are not looked at.
pub const AT_DESCRIPTORS_USED: usize = 40;
/// One byte: what PID 1 is at.
pub const AT_DOING: usize = 44;
const HEADER_BYTES: usize = 64;

/// Two copies of one record. The older one is overwritten, so that whenever this image of PID 1 ends there is a
/// whole one: sequence (written last), CRC-32 of the content, the content.
#[derive(Debug, Clone, Copy)]
pub struct Twin {
    /// The first copy.
    pub at: usize,
    /// Of one copy.
    pub bytes: usize,
}

/// Sequence, CRC-32, four bytes of zero.
pub const TWIN_HEAD: usize = 16;

impl Twin {
    const fn end(self) -> usize {
        self.at + 2 * self.bytes
    }

    /// Bytes of the content.
    pub const fn room(self) -> usize {
        self.bytes - TWIN_HEAD
    }
}

pub const COUNTERS: Twin = Twin {
    at: HEADER_BYTES,
    bytes: 64,
};
pub const BEAT: Twin = Twin {
    at: COUNTERS.end(),
    bytes: 192,
};
pub const CRASHES: Twin = Twin {
    at: BEAT.end(),
    bytes: 128,
};
pub const MACHINE: Twin = Twin {
    at: CRASHES.end(),
    bytes: 352,
};

/// Reasons of restarts, crashes and upgrades that the next boot is to find.
pub const WHY_SLOTS: usize = 8;
pub const WHY_BYTES: usize = 512;
pub const AT_WHY: usize = 1536;

/// Sentences that outlive an image: causes of the degraded state and the like.
pub const TEXT_SLOTS: usize = 48;
pub const TEXT_BYTES: usize = 256;
pub const AT_TEXTS: usize = AT_WHY + WHY_SLOTS * WHY_BYTES;

/// Phases of the boot.
pub const PHASE_SLOTS: usize = 64;
pub const PHASE_BYTES: usize = 128;
pub const AT_PHASES: usize = AT_TEXTS + TEXT_SLOTS * TEXT_BYTES;

/// Services that the table has room for.
pub const UNITS: usize = crate::supervisor::UNITS_MAX;
pub const UNIT_BYTES: usize = 640;
pub const AT_UNITS: usize = AT_PHASES + PHASE_SLOTS * PHASE_BYTES;

/// The row of a service.
pub const fn unit(index: usize) -> Twin {
    Twin {
        at: AT_UNITS + index * 2 * UNIT_BYTES,
        bytes: UNIT_BYTES,
    }
}

/// The beginning of a line whose end a service has not written yet.
pub const PARTIAL_BYTES: usize = 1040;
pub const AT_PARTIALS: usize = AT_UNITS + UNITS * 2 * UNIT_BYTES;

/// Descriptors: of each service three of its process, one socket for messages, one folder, four namespaces,
/// four listeners, 16 passed and 8 stored ones; and 64 of the machine.
pub const DESCRIPTOR_ROWS: usize = UNITS * 38 + 64;
pub const DESCRIPTOR_BYTES: usize = 48;
pub const AT_DESCRIPTORS: usize = AT_PARTIALS + UNITS * PARTIAL_BYTES;

/// Events that wait for the ledger; `docs/wire.md` fixes 256 of 512 bytes.
pub const OUTBOX_SLOTS: usize = 256;
pub const SLOT_BYTES: usize = 512;
pub const SLOT_HEAD: usize = 24;
pub const AT_OUTBOX: usize = AT_DESCRIPTORS + DESCRIPTOR_ROWS * DESCRIPTOR_BYTES;

/// Log lines that are kept: at 256 bytes each, a quarter of a MiB of shared memory.
pub const LINES: usize = 1024;
pub const LINE_BYTES: usize = 256;
pub const LINE_HEAD: usize = 24;
/// Longest text of one line; a longer one is continued in the next.
pub const LINE_TEXT_MAX: usize = LINE_BYTES - LINE_HEAD;
pub const AT_RING: usize = AT_OUTBOX + OUTBOX_SLOTS * SLOT_BYTES;

pub const STATE_BYTES: usize = AT_RING + LINES * LINE_BYTES;

const _: () = assert!(MACHINE.end() <= AT_WHY && AT_OUTBOX.is_multiple_of(8));

#[cfg(test)]
mod tests {
    use super::*;

    /// `docs/state-memfd.md` has these numbers.
    #[test]
    fn the_layout_is_that_of_version_3() {
        assert_eq!(VERSION, 3, "another version has another test");
        let begins = [
            COUNTERS.at,
            BEAT.at,
            CRASHES.at,
            MACHINE.at,
            AT_WHY,
            AT_TEXTS,
            AT_PHASES,
            AT_UNITS,
            AT_PARTIALS,
            AT_DESCRIPTORS,
            AT_OUTBOX,
            AT_RING,
            STATE_BYTES,
        ];
        assert_eq!(
            begins,
            [
                64, 192, 576, 832, 1536, 5632, 17920, 26112, 67072, 100_352, 161_792, 292_864,
                555_008
            ]
        );
    }
}
