//! Hostile bytes for every parser here; a fuzzer calls it, and so do the tests.

use crate::{Body, GroupFrame, SUPERBLOCK_BYTES, SegmentHeader, Step, Superblock, Verifier};

/// Feeds `data` to each parser: none may panic, and the verifier must end.
pub fn fuzz_body(data: &[u8]) {
    let head = data.get(..SUPERBLOCK_BYTES).unwrap_or(data);
    let parsed = Superblock::decode(head);
    let superblock = parsed.unwrap_or(Superblock {
        sector_bytes: 512,
        segment_bytes: crate::SEGMENT_BYTES_MIN,
        segments_max: 1,
        log_id: [0; 16],
        tag_key: [0; 32],
        created_wall_ns: 0,
        epoch: 1,
    });
    let _ = SegmentHeader::decode(data.get(..512).unwrap_or(data));
    let _ = GroupFrame::decode(&superblock.place(0, 1), data);
    let _ = Body::decode(data);
    let mut verifier = Verifier::new(superblock);
    let _ = verifier.damaged(0, 0, data);
    let mut sector = [0u8; 512];
    verifier.header_for(0).encode(&mut sector);
    if verifier.enter(0, &sector).is_err() {
        return;
    }
    let start = verifier.offset();
    loop {
        let at = usize::try_from(verifier.offset().saturating_sub(start)).unwrap_or(usize::MAX);
        match verifier.step(data.get(at..).unwrap_or(&[])) {
            Ok(Step::Event { .. } | Step::Group { .. }) => {}
            Ok(Step::Need(_) | Step::Blank) | Err(_) => return,
        }
    }
}
