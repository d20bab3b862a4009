//! The product as PID 1 of a virtual machine: what the README promises, and what must survive.
//!
//! Each test boots its own machine with its own disk. Run with `--test-threads=1` on a small host.
#![forbid(unsafe_code)]

mod bombs;
mod cells;
mod crashes;
mod disk;
mod emergency;
mod first_line;
mod foreign;
mod gateway;
mod hostile;
mod network;
mod neural;
mod other;
mod packages;
mod services;
mod trust;
mod upgrades;
mod why;

use std::path::Path;

use serde_json::Value;
use system_tests::machine::Options;

/// Options with a data disk in this folder.
fn options(folder: &Path) -> Options {
    Options {
        data: folder.join("data.img"),
        ..Options::default()
    }
}

/// A call of a tool on a root.
fn call(tool: &str, root: &str, path: &str) -> Value {
    serde_json::json!({"tool": tool, "params": {"root": root, "path": path}})
}
