//! Programs that a user might bring: compiled here, static, from one source file of `tests/programs`; and the prober.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::inputs::repository;

/// What a user's service can be confined as, in the words of the role `jail`.
pub const PROFILES: [&str; 7] = [
    "ledger",
    "capacity",
    "gateway",
    "console",
    "net",
    "foreign",
    "foreign-online",
];

/// Compiles `tests/programs/NAME.rs` to a static executable in `folder`.
pub fn compile(name: &str, folder: &Path) -> PathBuf {
    let out = folder.join(name);
    let mut rustc = Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned()));
    rustc
        .args([
            "--edition",
            "2024",
            "-C",
            "target-feature=+crt-static",
            "-C",
            "panic=abort",
        ])
        .args([
            "-C",
            "strip=symbols",
            "--target",
            if cfg!(target_arch = "aarch64") {
                "aarch64-unknown-linux-gnu"
            } else {
                "x86_64-unknown-linux-gnu"
            },
        ])
        .arg("-o")
        .arg(&out)
        .arg(repository().join(format!("tests/programs/{name}.rs")));
    crate::stdout_of(&mut rustc);
    out
}

/// Compiles `tests/programs/prober.c`, which tries what no service may do. Its first word is a profile.
pub fn prober(folder: &Path) -> PathBuf {
    compile_c("prober", folder)
}

/// Compiles `tests/programs/NAME.c` to a static executable in `folder`.
pub fn compile_c(name: &str, folder: &Path) -> PathBuf {
    let out = folder.join(name);
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-static", "-s", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&out)
        .arg(repository().join(format!("tests/programs/{name}.c")));
    crate::stdout_of(&mut cc);
    out
}
