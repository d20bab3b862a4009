//! `vb-services`: ledger, capacity and gateway, apart from PID 1 so that what they link stays out of its memory.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::ExitCode;

/// A role takes the words behind its own name and answers with the process's exit code.
type Role = fn(&[OsString]) -> ExitCode;

/// Every role of this executable, by the word that chooses it.
const ROLES: &[(&str, Role)] = &[
    ("ledger", ledger::main),
    ("capacity", capacity::main),
    ("gateway", gateway::main),
];

fn main() -> ExitCode {
    if let Ok(name) = std::env::var("VB_NAME") {
        // The kernel names a process that was exec'd by descriptor after the number.
        sys::process::set_name(&name);
    }
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let Some((word, rest)) = words.split_first() else {
        eprintln!("vb-services: no role named; one of ledger, capacity, gateway");
        return ExitCode::from(2);
    };
    match ROLES.iter().find(|(name, _)| word == name) {
        Some((_, role)) => role(rest),
        None => {
            eprintln!(
                "vb-services: unknown role {}; one of ledger, capacity, gateway",
                word.display()
            );
            ExitCode::from(2)
        }
    }
}
