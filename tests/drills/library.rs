//! The shared library under valgrind, and a million calls of each kind: no invalid access, nothing kept.

use std::process::Command;

use system_tests::inputs::repository;
use system_tests::stdout_of;

/// What valgrind ends with where it found something.
const FOUND: &str = "--error-exitcode=99";

/// The file that a cargo command of ours made, by the end of its name or because it can be run.
fn built(words: &[&str], field: &str, end: &str) -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut build = Command::new(cargo);
    build.current_dir(repository()).args(words);
    build.args(["--locked", "-p", "vector_boot", "--lib"]);
    let text = stdout_of(build.args(["--message-format", "json"]));
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let found = lines
        .filter(|message: &serde_json::Value| message["target"]["name"] == "vector_boot")
        .flat_map(|message| match &message[field] {
            serde_json::Value::Array(names) => names.clone(),
            name => vec![name.clone()],
        })
        .filter_map(|name| name.as_str().map(str::to_owned))
        .find(|name| name.ends_with(end));
    found.unwrap_or_else(|| panic!("cargo {words:?} made nothing that ends with {end:?}"))
}

/// Debian's Python over the package's sources and this library.
fn python(mut command: Command, library: &str) -> Command {
    command
        .env("PYTHONPATH", repository().join("vector_boot/python/src"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONMALLOC", "malloc")
        .env("VECTOR_BOOT_LIBRARY", library);
    command
}

pub fn drill() {
    stdout_of(Command::new(repository().join("qemu/host-tools")).args(["python", "valgrind"]));
    let tests = built(&["test", "--no-run"], "executable", "");
    let mut valgrind = Command::new("valgrind");
    valgrind.args([
        "--quiet",
        FOUND,
        "--leak-check=full",
        "--errors-for-leak-kinds=definite",
    ]);
    print!(
        "{}",
        stdout_of(valgrind.arg(tests).args(["ffi::", "--test-threads=1"]))
    );

    // The library itself, as a host has it; leaks of the interpreter are its own.
    let library = built(&["build"], "filenames", "libvector_boot.so");
    let leaks = repository().join("tests/python/package/leaks.py");
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--quiet", FOUND, "/usr/bin/python3"])
        .arg(&leaks)
        .arg("2000");
    print!("{}", stdout_of(&mut python(valgrind, &library)));

    let mut million = Command::new("/usr/bin/python3");
    million.arg(&leaks);
    print!("{}", stdout_of(&mut python(million, &library)));
}
