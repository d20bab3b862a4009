//! Harness of the system tests: what they boot, how they talk to it, and what they show when it fails.
//!
//! Owns the processes that it starts: a machine or program ends with the value that stands for it.
//! Never here: sleeping in place of waiting for something, fixed ports, shared paths, the network.
//! Start with [`machine::Machine`].
#![forbid(unsafe_code)]

pub mod crashes;
pub mod evolution;
pub mod evolution_kills;
pub mod initramfs;
pub mod inputs;
pub mod lan;
pub mod machine;
pub mod nbd;
pub mod package;
pub mod peer;
mod post_mortem;
pub mod process;
pub mod program;
pub mod qmp;
pub mod screen;
pub mod upgrades;

use std::process::{Command, Output};

/// Runs a program of the host to its end.
///
/// Panics if it cannot be started: a test host that lacks it is not set up (see `tests/run`).
pub fn output(command: &mut Command) -> Output {
    match command.output() {
        Ok(output) => output,
        Err(error) => panic!("start {:?}: {error}", command.get_program()),
    }
}

/// What a program printed, if it succeeded; panics with its errors if not.
pub fn stdout_of(command: &mut Command) -> String {
    let result = output(command);
    assert!(
        result.status.success(),
        "{command:?} ended with {}: {}{}",
        result.status,
        String::from_utf8_lossy(&result.stdout),
        String::from_utf8_lossy(&result.stderr),
    );
    String::from_utf8_lossy(&result.stdout).into_owned()
}
