//! `vector_boot`: PID 1 and the roles that stand beside it, chosen by the first word or by `argv[0]`.
//!
//! Composition only: each role lives in its own room. Start with [`ROLES`].
//! A word that belongs to `vb-services` is handed to that executable, so people type one name.

mod cli;
mod console;

use std::ffi::OsString;
use std::process::ExitCode;

/// A role takes the words behind its own name and answers with the process's exit code.
type Role = fn(&[OsString]) -> ExitCode;

/// Every role of this executable, by the word that chooses it.
const ROLES: &[(&str, Role)] = &[
    ("console", console::main),
    ("ctl", cli::ctl::main),
    ("rts", cli::rts::main),
    ("gguf", cli::gguf::main),
    ("initramfs", cli::initramfs::main),
];

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let Some(word) = words.first().and_then(|w| w.to_str()) else {
        eprintln!("vector_boot: no role named");
        return ExitCode::from(2);
    };
    match ROLES.iter().find(|(name, _)| *name == word) {
        Some((_, role)) => role(&words[1..]),
        None => {
            eprintln!("vector_boot: unknown word {word}");
            ExitCode::from(2)
        }
    }
}
