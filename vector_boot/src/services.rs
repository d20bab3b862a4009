//! `vb-services`: ledger, capacity, gateway and witness, apart from PID 1 so that what they link stays out of its memory.
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
    ("witness", ledger::witness::main),
];

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Ok(name) = std::env::var("VB_NAME") {
        // The kernel names a process that was exec'd by descriptor after the number.
        sys::process::set_name(&name);
        // Its first act; by hand, as a client, it is as free as who started it.
        jail::enter(words.first().and_then(|w| w.to_str()).unwrap_or_default());
    }
    log_to_stderr();
    let Some((word, rest)) = words.split_first() else {
        eprintln!("vb-services: no role named; one of {}", roles());
        return ExitCode::from(2);
    };
    if ["--help", "-h", "help"].iter().any(|help| word == help) {
        println!(
            "usage: vb-services ROLE WORDS...; a role is one of {}",
            roles()
        );
        return ExitCode::SUCCESS;
    }
    match ROLES.iter().find(|(name, _)| word == name) {
        Some((_, role)) => role(rest),
        None => {
            eprintln!(
                "vb-services: unknown role {}; one of {}",
                word.display(),
                roles()
            );
            ExitCode::from(2)
        }
    }
}

/// The words that choose a role.
fn roles() -> String {
    let names: Vec<&str> = ROLES.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

/// One line an event. Under PID 1 each begins with its level as `<4>`, which its ring understands.
fn log_to_stderr() {
    use std::io::Write;
    let supervised = std::env::var_os("VB_NAME").is_some();
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Info)
        .parse_default_env()
        .format(move |out, record| {
            if supervised {
                let syslog = match record.level() {
                    log::Level::Error => 3,
                    log::Level::Warn => 4,
                    log::Level::Info => 6,
                    log::Level::Debug | log::Level::Trace => 7,
                };
                return writeln!(out, "<{syslog}>{}", record.args());
            }
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(out, "{level}: {}", record.args())
        })
        .init();
}
