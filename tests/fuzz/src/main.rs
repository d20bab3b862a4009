//! One executable for all targets: libFuzzer's own words follow, and `VB_FUZZ_TARGET` names the body.
//!
//! The bodies live beside the parsers, and the ordinary tests run each for about a second with a fixed seed. Here they
//! run with coverage, as long as one likes. `tests/run --drill fuzz` builds and feeds it; a finding's file is given to
//! it again with `VB_FUZZ_TARGET=NAME fuzz FILE`.
#![no_main]
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

/// Judges one input; panics where a promise does not hold.
type Body = fn(&[u8]);

/// Every target by name.
const TARGETS: &[(&str, Body)] = &[
    ("gguf", gguf::fuzz::fuzz_body),
    ("rts", rts::fuzz::fuzz_body),
    ("gpt", gpt::fuzz::fuzz_body),
    ("pixels", neural::pixels::fuzz_body),
    ("slot", neural::evolution::fuzz::slot_body),
    ("mutations", neural::evolution::log::fuzz_body),
    ("journal", neural::journal::fuzz_body),
    ("sensors", neural::sample::fuzz_body),
    ("ledger", ledger_core::fuzz::fuzz_body),
    ("json", ledger_core::fuzz::json_body),
    ("capacity", capacity_core::fuzz::fuzz_body),
];

/// The target of this process, found once.
fn body() -> Body {
    static BODY: OnceLock<Body> = OnceLock::new();
    *BODY.get_or_init(|| {
        let wanted = std::env::var("VB_FUZZ_TARGET").unwrap_or_default();
        let found = TARGETS.iter().find(|(name, _)| *name == wanted);
        let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        found
            .unwrap_or_else(|| panic!("VB_FUZZ_TARGET is {wanted:?}: one of {}", names.join(" ")))
            .1
    })
}

fuzz_target!(|data: &[u8]| body()(data));
