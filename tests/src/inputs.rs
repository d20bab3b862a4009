//! What the tests boot: the static executables, the real model and the kernel, made or found once.
//!
//! `tests/run` makes them and says where they are in `VB_INPUTS`; a test started by hand asks for them itself.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where everything is.
#[derive(Debug)]
pub struct Inputs {
    /// Folder of `vector_boot` and `vb-services`, static, as they boot.
    pub bin: PathBuf,
    /// SmolLM2-135M-Instruct, Q4_1.
    pub model: PathBuf,
    /// The kernel image.
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
}

/// The inputs; panics where they cannot be made.
pub fn inputs() -> &'static Inputs {
    static INPUTS: OnceLock<Inputs> = OnceLock::new();
    INPUTS.get_or_init(|| {
        let text = std::env::var("VB_INPUTS").unwrap_or_else(|_| {
            let mut make = Command::new("python3");
            make.args(["-m", "machine.inputs"])
                .env("PYTHONPATH", repository().join("qemu"))
                .env("PYTHONDONTWRITEBYTECODE", "1");
            crate::stdout_of(&mut make)
        });
        let named: HashMap<&str, &str> = text
            .split_whitespace()
            .filter_map(|line| line.split_once('='))
            .collect();
        let path = |name: &str| match named.get(name) {
            Some(path) if Path::new(path).exists() => PathBuf::from(path),
            found => panic!("input {name}: {found:?} is not there"),
        };
        Inputs {
            bin: path("bin"),
            model: path("model"),
            kernel: path("kernel"),
        }
    })
}

/// The root of the sources.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}
