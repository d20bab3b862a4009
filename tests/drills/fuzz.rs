//! Every fuzz body of the parsers under libFuzzer, with coverage and the address sanitizer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use system_tests::inputs::{inputs, repository};
use system_tests::stdout_of;

/// Seconds for each target where no number is given.
const SECONDS: u64 = 60;
/// What instruments the code for libFuzzer. These are unstable flags: `RUSTC_BOOTSTRAP` is set here and nowhere else.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// A target, the largest input that means something to it in bytes, and files of the sources to begin with.
const TARGETS: &[(&str, u64, &[&str])] = &[
    ("gguf", 16 << 10, &[]),
    (
        "rts",
        16 << 10,
        &[
            "rts/manifest.bin",
            "rts/manifest.toml",
            "rts/plain.header",
            "rts/signed.header",
            "rts/unsigned.header",
        ],
    ),
    ("gpt", 64 << 10, &[]),
    ("pixels", 4 << 10, &[]),
    ("slot", 8448, &["evolution/slot.bin"]),
    ("mutations", 16 << 10, &[]),
    ("journal", 512, &[]),
    ("sensors", 4 << 10, &[]),
    ("ledger", 32 << 10, &[]),
    ("json", 4 << 10, &[]),
    ("capacity", 4 << 10, &[]),
];

/// Builds the executable of all targets and gives its path.
fn built(target_folder: &Path) -> PathBuf {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let said = |word: &str| stdout_of(Command::new(&rustc).args(["--print", word]));
    let host = said("host-tuple").trim().to_owned();
    let mut flags: Vec<String> = FLAGS.iter().map(ToString::to_string).collect();
    // Debian's compiler has no sanitizers: assertions and bounds are then all that there is.
    let runtimes = Path::new(said("sysroot").trim()).join(format!("lib/rustlib/{host}/lib"));
    let named = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().ends_with("_rt.asan.a");
    if fs::read_dir(&runtimes)
        .is_ok_and(|mut files| files.any(|file| file.is_ok_and(|f| named(&f))))
    {
        flags.push("-Zsanitizer=address".to_owned());
    }
    // The same versions as the product's; what only the fuzzer needs is added by cargo.
    let lock = |folder: &str| repository().join(folder).join("Cargo.lock");
    fs::copy(lock(""), lock("tests/fuzz")).expect("the product's lock file");
    println!("fuzz: built with {}", flags.join(" "));
    let mut build = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    build.args(["build", "--release", "--target", &host]);
    build
        .arg("--manifest-path")
        .arg(repository().join("tests/fuzz/Cargo.toml"));
    build
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", flags.join(" "));
    build.env("CARGO_TARGET_DIR", target_folder);
    stdout_of(&mut build);
    target_folder.join(host).join("release/fuzz")
}

/// Fills the folder of what a target begins with.
fn sown(target: &str, golden: &[&str], folder: &Path) {
    fs::create_dir_all(folder).expect("a folder for inputs");
    for name in golden {
        let from = repository().join("tests/golden").join(name);
        let to = folder.join(name.replace('/', "-"));
        fs::copy(&from, to).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
    }
    if target == "gguf" {
        let mut model = Command::new(inputs().bin.join("vector_boot"));
        stdout_of(
            model
                .args(["gguf", "default"])
                .arg(folder.join("default.gguf")),
        );
    }
    if target == "mutations" {
        let log = [mutation(1), mutation(2)].concat();
        fs::write(folder.join("two-mutations"), log).expect("a seed");
    }
}

/// A record of docs/evolution.md with 8 bytes of payload; the body puts the chain's value in.
fn mutation(generation: u8) -> Vec<u8> {
    const HEAD_BYTES: usize = 192;
    const PAYLOAD_BYTES: u8 = 8;
    let mut record = vec![0; HEAD_BYTES + usize::from(PAYLOAD_BYTES)];
    let fields: [(usize, &[u8]); 5] = [
        (0, b"VBMU"),
        (4, &[HEAD_BYTES as u8 + PAYLOAD_BYTES]),
        (8, &[generation]),
        (24, &[1]),
        (64, b"policy.b2"),
    ];
    for (at, field) in fields {
        record[at..at + field.len()].copy_from_slice(field);
    }
    record[40] = PAYLOAD_BYTES;
    record
}

pub fn drill() {
    let wanted = std::env::args().nth(2);
    let seconds = wanted.map_or(SECONDS, |word| {
        word.parse().expect("seconds for each target")
    });
    let target_folder = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| repository().join("target"), PathBuf::from)
        .join("fuzz");
    let executable = built(&target_folder);
    for (target, bytes_max, golden) in TARGETS {
        let found = target_folder.join("findings").join(target);
        // What earlier runs found worth keeping is kept, and begun with.
        let inputs = found.join("inputs");
        sown(target, golden, &inputs);
        let mut fuzz = Command::new(&executable);
        fuzz.env("VB_FUZZ_TARGET", target).current_dir(&found);
        fuzz.arg("-seed=1")
            .arg(format!("-max_total_time={seconds}"));
        fuzz.arg(format!("-max_len={bytes_max}"))
            .arg("-timeout=20")
            .arg("-rss_limit_mb=2048");
        fuzz.args(["-print_final_stats=1", "-verbosity=0"]);
        let dictionary = repository().join(format!("tests/fuzz/{target}.dict"));
        if dictionary.exists() {
            fuzz.arg(format!("-dict={}", dictionary.display()));
        }
        let out = fuzz.arg(&inputs).output().expect("the fuzzer starts");
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(
            out.status.success(),
            "{target}: a promise broke; the input lies in {}\n{said}",
            found.display()
        );
        let executed = said
            .lines()
            .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
        let executed = executed
            .unwrap_or_else(|| panic!("{target}: no count\n{said}"))
            .trim();
        let kept = fs::read_dir(&inputs).map_or(0, Iterator::count);
        println!(
            "fuzz {target}: {executed} inputs in {seconds} s, {kept} worth keeping, no finding"
        );
    }
}
