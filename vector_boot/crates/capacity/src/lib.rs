//! The capacity service.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the role over the words behind its name.
pub fn main(_words: &[OsString]) -> ExitCode {
    ExitCode::from(2)
}
