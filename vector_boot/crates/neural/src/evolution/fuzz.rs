//! The fuzz body of a slot: what holds for every 8,448 bytes that a proposer can write.
//!
//! Runs under a fuzzer, and for about a second with a fixed seed in the ordinary tests. That of the log is
//! [`super::log::fuzz_body`].

use super::generation::Generation;
use super::ring::SLOT_BYTES;
use super::{Base, Engine, Now, Verdict};
use std::sync::OnceLock;

/// Judges `data` as a slot; what is shorter is filled up with zeros.
///
/// # Panics
/// Where a promise of the engine does not hold.
pub fn slot_body(data: &[u8]) {
    static SYSTEM: OnceLock<Vec<u8>> = OnceLock::new();
    let system = SYSTEM.get_or_init(crate::default_model);
    let Ok(base) = Base::new(None, system, None) else {
        unreachable!("the default model is made by this build");
    };
    let Ok(mut engine) = Engine::in_memory(base) else {
        return;
    };
    let protected = ["kernel.limits", "kernel.interrupts", "hw.mmio"];
    let before = protected.map(|name| engine.tensor(name));
    let mut slot = vec![0; SLOT_BYTES];
    for (place, byte) in slot.iter_mut().zip(data) {
        *place = *byte;
    }
    let now = Now {
        monotonic_ns: 1,
        wall_ns: 1,
    };
    let (_, generation, verdict) = engine.judge(&slot, 0, now);
    assert_ne!(verdict, Verdict::Unknown);
    assert_eq!(generation, u64::from(verdict == Verdict::Accepted));
    assert!(engine.commit(), "a log in memory takes everything");
    assert_eq!(before, protected.map(|name| engine.tensor(name)));
    let encoded = engine.encode();
    let parsed = Generation::parse(&encoded);
    assert!(parsed.is_ok_and(|g| g.number == generation));
}
