//! Hostile bytes for every parser here; a fuzzer calls it, and so do the tests.

use crate::bus::Bus;
use crate::checkpoint::Checkpoint;
use crate::folds::{Fold, Spec, root_of};
use crate::jobs::Jobs;
use crate::json::Json;
use crate::note::{Note, Signature, VerifierKey};
use crate::sealed;
use crate::tile::{self, Tile};
use crate::tlog_proof::TlogProof;
use crate::{
    Anchor, Body, Compacted, GroupFrame, SEGMENT_HEADER_BYTES, SUPERBLOCK_BYTES, SegmentHeader,
    Step, SummaryPiece, Superblock, Verifier,
};
use alloc::string::ToString;

/// Feeds `data` to each parser: none may panic, and the verifier must end.
pub fn fuzz_body(data: &[u8]) {
    published(data);
    planes(data);
    let head = data.get(..SUPERBLOCK_BYTES).unwrap_or(data);
    let parsed = Superblock::decode(head);
    let superblock = parsed.unwrap_or(Superblock {
        sector_bytes: 512,
        segment_bytes: crate::SEGMENT_BYTES_MIN,
        segments_max: 1,
        log_id: [0; 16],
        tag_key: [0; 32],
        created_wall_ns: 0,
        generation: 1,
        first_segment: 0,
    });
    if let Some(header) = SegmentHeader::decode(data.get(..SEGMENT_HEADER_BYTES).unwrap_or(data)) {
        let _ = Verifier::resume(superblock, &header);
    }
    if let Ok(text) = core::str::from_utf8(data) {
        let _ = (
            Anchor::parse(text),
            Compacted::parse(text),
            SummaryPiece::parse(text),
            sealed::wrapped_keys(text),
            sealed::auditor_secret(text),
        );
    }
    let _ = GroupFrame::decode(&superblock.place(0, 1), data);
    let _ = Body::decode(data);
    json_body(data);
    let mut verifier = Verifier::new(superblock);
    let _ = verifier.damaged(0, 0, data);
    let header = verifier.header_for(0).encode();
    if verifier.enter(0, &header).is_err() {
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

/// What the planes take of the log, whatever it holds; and the definition of a fold.
fn planes(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else {
        return;
    };
    let (mut bus, mut jobs) = (Bus::default(), Jobs::default());
    let body = |event_type| Body {
        timestamp_ns: 0,
        wall_ns: 0,
        ulid: [0; 16],
        tenant_tag: [0; 8],
        ns: "x",
        actor: "user:x",
        tenant_id: "x",
        event_type,
        subject: "x",
        payload: text,
        causation_id: None,
        origin: None,
        sig: None,
    };
    for event_type in [
        "bus.published",
        "bus.subscribed",
        "bus.acked",
        "bus.committed",
        "bus.sharded",
        "bus.unsubscribed",
    ] {
        bus.apply(1, &body(event_type));
    }
    for event_type in ["job.enqueued", "job.claimed", "job.released", "job.result"] {
        jobs.apply(1, &body(event_type));
    }
    let _ = (bus.lags().count(), jobs.counts());
    let Ok(json) = Json::parse(text) else { return };
    if let Ok(spec) = Spec::parse(&json) {
        let mut fold = Fold::new(spec);
        // Its own definition is as good a payload as any.
        let _ = fold.apply(1, &body("x"));
        let _ = root_of(&fold.state());
    }
}

/// What others hand over as text: read, it is written back as it was.
fn published(data: &[u8]) {
    let _ = tile::entries(data);
    let _ = tile::hashes(data, u16::try_from(data.len() / 32).unwrap_or(0));
    let Ok(text) = core::str::from_utf8(data) else {
        return;
    };
    if let Ok(note) = Note::parse(text) {
        assert_eq!(note.to_string(), text);
        if let Ok(checkpoint) = Checkpoint::parse(note.text()) {
            assert_eq!(checkpoint.text(), note.text());
        }
    }
    if let Ok(proof) = TlogProof::parse(text) {
        assert_eq!(proof.to_string(), text);
    }
    if let Some(tile) = Tile::parse(text) {
        assert_eq!(tile.path(), text);
    }
    if let Ok(key) = VerifierKey::parse(text) {
        assert_eq!(key.to_string(), text);
    }
    if let Ok(signature) = Signature::parse(text) {
        assert_eq!(signature.to_string(), text);
    }
    let _ = Checkpoint::parse(text);
}

/// What is taken for JSON is written canonically: that text is taken too, and written the same.
pub fn json_body(data: &[u8]) {
    let Ok(json) = core::str::from_utf8(data).map_or(Err(()), |t| Json::parse(t).map_err(drop))
    else {
        return;
    };
    let text = json.to_string();
    let again = Json::parse(&text).map(|json| json.to_string());
    assert_eq!(
        again.as_deref(),
        Ok(&*text),
        "canonical JSON is a fixed point"
    );
}
