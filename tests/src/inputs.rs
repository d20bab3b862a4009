//! What the tests boot: the static executables of both architectures, the real model and the kernels, made or found once.
//!
//! `tests/run` makes them and says where they are in `VB_INPUTS`; a test started by hand asks for them itself.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What a machine is, and what its executables are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit Intel and AMD.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl Arch {
    /// The host's own.
    pub const HOST: Self = if cfg!(target_arch = "aarch64") {
        Self::Aarch64
    } else {
        Self::X86_64
    };

    /// The one that the host is not.
    pub const OTHER: Self = if cfg!(target_arch = "aarch64") {
        Self::X86_64
    } else {
        Self::Aarch64
    };

    /// As `--arch` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

impl Default for Arch {
    fn default() -> Self {
        Self::HOST
    }
}

/// Where everything is.
#[derive(Debug)]
pub struct Inputs {
    /// Folder of the host's own `vector_boot` and `vb-services`, static, as they boot.
    pub bin: PathBuf,
    /// SmolLM2-135M-Instruct, Q4_1.
    pub model: PathBuf,
    /// The kernel image for the host's own architecture.
    pub kernel: PathBuf,
}

impl Inputs {
    /// The executable of PID 1 and the host-facing roles.
    pub fn vector_boot(&self) -> PathBuf {
        self.bin.join("vector_boot")
    }

    /// The executable of the services.
    pub fn services(&self) -> PathBuf {
        self.bin.join("vb-services")
    }

    /// Folder of the executables for an architecture; panics where they were not made.
    pub fn bin_of(&self, arch: Arch) -> &Path {
        if arch == Arch::HOST {
            return &self.bin;
        }
        static OTHER: OnceLock<PathBuf> = OnceLock::new();
        // Asked for apart: who tests the host's own architecture by hand need not build for both.
        OTHER.get_or_init(|| path_of(&named(&[]), &format!("bin.{}", arch.name())))
    }
}

/// The inputs; panics where they cannot be made.
pub fn inputs() -> &'static Inputs {
    static INPUTS: OnceLock<Inputs> = OnceLock::new();
    INPUTS.get_or_init(|| {
        let named = named(&["host"]);
        Inputs {
            bin: path_of(&named, "bin"),
            model: path_of(&named, "model"),
            kernel: path_of(&named, "kernel"),
        }
    })
}

/// What `tests/run` made, else what is made now.
fn named(words: &[&str]) -> HashMap<String, PathBuf> {
    let text = std::env::var("VB_INPUTS").unwrap_or_else(|_| {
        let mut make = Command::new("python3");
        make.args(["-m", "machine.inputs"])
            .args(words)
            .env("PYTHONPATH", repository().join("qemu"))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        crate::stdout_of(&mut make)
    });
    text.split_whitespace()
        .filter_map(|line| line.split_once('='))
        .map(|(name, path)| (name.to_owned(), PathBuf::from(path)))
        .collect()
}

fn path_of(named: &HashMap<String, PathBuf>, name: &str) -> PathBuf {
    match named.get(name) {
        Some(path) if path.exists() => path.clone(),
        found => panic!("input {name}: {found:?} is not there"),
    }
}

/// The root of the sources.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}
