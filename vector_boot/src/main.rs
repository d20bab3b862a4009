//! `vector_boot`: PID 1 and the roles that stand beside it, chosen by the first word.
//!
//! Composition only: each role lives in its own room. Start with [`ROLES`].
//! A word that belongs to `vb-services` is handed to that executable, so people type one name.
#![forbid(unsafe_code)]

mod cli;
mod console;
mod standalone;

use std::ffi::OsString;
use std::process::ExitCode;

/// A role takes the words behind its own name and answers with the process's exit code.
type Role = fn(&[OsString]) -> ExitCode;

/// Every role of this executable, by the word that chooses it.
const ROLES: &[(&str, Role)] = &[
    ("init", standalone::main),
    (init::handover::WORD, init::handover::main),
    ("helper", init::helper::main),
    ("net", init::net::main),
    ("cortex", neural::cortex::main),
    ("jail", jail::main),
    ("console", console::main),
    ("ctl", cli::ctl::main),
    ("rts", cli::rts::main),
    ("gguf", cli::gguf::main),
    ("initramfs", cli::initramfs::main),
];

/// Words that belong to the sibling executable.
const SERVICES: &[&str] = &["ledger", "capacity", "gateway", "witness"];

fn main() -> ExitCode {
    if let Some(code) = standalone::machine() {
        return code;
    }
    let supervised = match std::env::var("VB_NAME") {
        // The kernel names a process that was exec'd by descriptor after the number.
        Ok(name) => {
            sys::process::set_name(&name);
            true
        }
        Err(_) => false,
    };
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let Some((first, rest)) = words.split_first() else {
        return standalone::main(&[]);
    };
    let word = first.to_str().unwrap_or_default();
    if supervised {
        // Its first act; a word without a profile (init, jail, ctl) is left as it is.
        jail::enter(word);
    }
    if let Some((_, role)) = ROLES.iter().find(|(name, _)| *name == word) {
        return role(rest);
    }
    if SERVICES.contains(&word) {
        return become_sibling(&words);
    }
    if ["--help", "-h", "help"].contains(&word) {
        println!(
            "{}\nor a role and its words: {}",
            standalone::USAGE,
            roles()
        );
        return ExitCode::SUCCESS;
    }
    if word.starts_with("--") {
        return standalone::main(&words);
    }
    eprintln!(
        "vector_boot: {}: unknown; one of {}",
        first.display(),
        roles()
    );
    ExitCode::from(2)
}

/// The words that choose a role.
fn roles() -> String {
    let own = ROLES.iter().map(|(name, _)| *name);
    let names: Vec<&str> = own.chain(SERVICES.iter().copied()).collect();
    names.join(", ")
}

/// Hands the whole command line to `vb-services`, which lies beside this file.
fn become_sibling(words: &[OsString]) -> ExitCode {
    use std::os::unix::process::CommandExt;
    let own = std::env::current_exe().unwrap_or_default();
    let sibling = own.with_file_name("vb-services");
    let error = std::process::Command::new(&sibling).args(words).exec();
    eprintln!("vector_boot: {}: {error}", sibling.display());
    ExitCode::from(127)
}
