//! The library as a host loads it: its symbols, its header, and Python over it.
//!
//! The library is built here as `cargo build` builds it, without the features of the executables.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use gguf::GgmlType;
use gguf::writer::Writer;
use system_tests::inputs::repository;
use system_tests::stdout_of;

/// Where the models of the host's cache lie; read where it is there, never fetched.
const REAL_MODEL: &str = "vector-boot/models/SmolLM2-135M-Instruct.Q4_1.gguf";

pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(repository());
        cargo.args(["build", "--locked", "--offline", "--package", "vector_boot"]);
        cargo.args(["--lib", "--message-format", "json"]);
        let text = stdout_of(&mut cargo);
        let files = text
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|message| message["target"]["name"] == "vector_boot")
            .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default());
        let names: Vec<PathBuf> = files
            .filter_map(|name| name.as_str().map(PathBuf::from))
            .collect();
        let found = names
            .iter()
            .find(|name| name.ends_with("libvector_boot.so"));
        found
            .unwrap_or_else(|| panic!("no library among {names:?}"))
            .clone()
    })
}

fn header() -> PathBuf {
    repository().join("vector_boot/include/vector_boot.h")
}

/// Names that a C declaration of ours gives: words that begin with `neural_` and stand before a parenthesis.
fn declared(header: &str) -> Vec<&str> {
    let mut names: Vec<&str> = header
        .lines()
        .filter(|line| !line.starts_with("//") && !line.starts_with(' '))
        .filter_map(|line| line.split_once('(')?.0.split([' ', '*']).next_back())
        .filter(|word| word.starts_with("neural_"))
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn the_library_exports_what_the_header_declares_and_nothing_else() {
    let header = std::fs::read_to_string(header()).expect("the header");
    let declared = declared(&header);
    let mut nm = Command::new("nm");
    let table = stdout_of(
        nm.args(["--dynamic", "--defined-only", "--just-symbols"])
            .arg(library()),
    );
    let mut exported: Vec<&str> = table.lines().collect();
    exported.sort_unstable();
    assert_eq!(exported, declared);
    assert!(declared.len() > 10, "only {declared:?}");
}

#[test]
fn a_c_program_compiles_against_the_header_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("reads");
    let mut cc = Command::new("cc");
    cc.args([
        "-std=c11",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Werror",
        "-I",
    ])
    .arg(repository().join("vector_boot/include"))
    .arg(repository().join("tests/programs/reads_model.c"))
    .arg(library())
    .arg("-o")
    .arg(&program);
    stdout_of(&mut cc);
    let model = fixture(folder.path());
    let mut run = Command::new(program);
    run.env("LD_LIBRARY_PATH", library().parent().expect("a folder"));
    let text = stdout_of(run.arg(&model));
    assert_eq!(
        text,
        "plain F32 8 values, first 0.5\nblocks Q4_1 64 values, first -1\n\"fixture\"\n"
    );
}

#[test]
fn python_reads_models_and_misuse_gives_codes() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture(folder.path());
    let package = folder.path().join("model.rts");
    let program = rts::sample::program(rts::Machine::NATIVE);
    let bytes = rts::sample::plain(&program, &std::fs::read(&model).unwrap());
    std::fs::write(&package, bytes).unwrap();
    let mut python = Command::new("python3");
    python
        .arg(repository().join("tests/python/c_abi.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("VB_LIBRARY", library())
        .env("VB_MODEL", &model)
        .env("VB_PACKAGE", &package);
    if let Some(real) = real_model() {
        python.env("VB_REAL_MODEL", real);
    }
    stdout_of(&mut python);
}

/// Two tensors whose values Python works out from their bytes by itself.
fn fixture(folder: &Path) -> PathBuf {
    let plain: Vec<f32> = (0..8u8).map(|n| f32::from(n) - 0.5).map(f32::abs).collect();
    // Half-precision scale and minimum, then 16 bytes of two nibbles each.
    let block = |scale: u16, minimum: u16, step: u8| {
        let mut block = scale.to_le_bytes().to_vec();
        block.extend(minimum.to_le_bytes());
        block.extend((0..16u8).map(|byte| byte.wrapping_mul(step)));
        block
    };
    let blocks = [block(0x3800, 0xbc00, 17), block(0x2e66, 0x0001, 37)].concat();
    let file = Writer::new()
        .text("general.architecture", "fixture")
        .u32("fixture.width", 4)
        .f32("fixture.scale", 0.1)
        .texts("fixture.words", &["a\"b", "ü", ""])
        .f32_tensor("plain", &[4, 2], &plain)
        .tensor("blocks", GgmlType::Q4_1, &[32, 2], blocks)
        .tensor("closed", GgmlType::IQ2_S, &[256], vec![0; 82])
        .finish()
        .expect("a fixture");
    let path = folder.join("model.gguf");
    std::fs::write(&path, file).unwrap();
    path
}

fn real_model() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join(REAL_MODEL)).filter(|path| path.is_file())
}
