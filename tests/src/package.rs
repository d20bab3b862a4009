//! Packages for tests: packed by the product's own tool, and broken by hand.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::inputs::{Arch, inputs, repository};

/// The table of services that a package without its own has, as TOML.
pub fn default_manifest() -> String {
    let path = repository().join("vector_boot/crates/rts/default.toml");
    std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// The same table with lines added to every service.
pub fn manifest_with(lines: &str) -> String {
    default_manifest().replace("[[service]]\n", &format!("[[service]]\n{lines}\n"))
}

/// Packs the tested executables and the real model; `words` are further options.
pub fn pack(folder: &Path, name: &str, words: &[&str]) -> PathBuf {
    pack_model(&inputs().model, folder, name, words)
}

/// The same with the product's own small model.
pub fn pack_default(folder: &Path, name: &str, words: &[&str]) -> PathBuf {
    pack_default_for(Arch::HOST, folder, name, words)
}

/// The same with a file that the packer would refuse as a model.
pub fn pack_unchecked(model: &Path, folder: &Path, name: &str) -> PathBuf {
    pack_model(model, folder, name, &["--unchecked"])
}

/// The same as [`pack_default`] with the executables of an architecture.
pub fn pack_default_for(arch: Arch, folder: &Path, name: &str, words: &[&str]) -> PathBuf {
    pack_for(arch, &default_model(folder), folder, name, words)
}

/// Packs another `vector_boot` beside the tested `vb-services` and the small model.
pub fn pack_binary(binary: &Path, folder: &Path, name: &str, words: &[&str]) -> PathBuf {
    pack_binaries([binary, &inputs().services()], folder, name, words)
}

/// The same with another `vb-services` too.
pub fn pack_binaries(
    [binary, services]: [&Path; 2],
    folder: &Path,
    name: &str,
    words: &[&str],
) -> PathBuf {
    let out = folder.join(name);
    let mut pack = Command::new(inputs().vector_boot());
    pack.args(["rts", "pack", "--binary"]).arg(binary);
    pack.arg("--services").arg(services);
    pack.arg("--model").arg(default_model(folder));
    crate::stdout_of(pack.arg("--out").arg(&out).args(words));
    out
}

/// Another executable that does the same: with a few bytes behind its end, which nobody reads.
pub fn another(executable: &Path, folder: &Path, name: &str) -> PathBuf {
    let mut bytes = std::fs::read(executable)
        .unwrap_or_else(|error| panic!("read {}: {error}", executable.display()));
    bytes.extend_from_slice(name.as_bytes());
    let path = folder.join(name);
    std::fs::write(&path, bytes)
        .unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    path
}

/// Writes the product's own small model.
pub fn default_model(folder: &Path) -> PathBuf {
    let model = folder.join("default.gguf");
    let mut write = Command::new(inputs().vector_boot());
    crate::stdout_of(write.args(["gguf", "default"]).arg(&model));
    model
}

/// The product's own small model with single values of its F32 tensors set: tensor, place, value.
pub fn model_with(folder: &Path, values: &[(&str, usize, f32)]) -> PathBuf {
    let model = default_model(folder);
    let mut bytes = std::fs::read(&model).expect("read the model");
    for (name, place, value) in values {
        let at = {
            let index = gguf::Index::parse(&bytes).expect("a model");
            let tensor = index.tensor(name).expect("a tensor of this name");
            let data = index.data(&tensor).expect("it lies inside the file");
            assert!(place * 4 < data.len(), "{name} has no value {place}");
            data.as_ptr().addr() - bytes.as_ptr().addr() + place * 4
        };
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    std::fs::write(&model, bytes).expect("write the model");
    model
}

/// Packs the tested executables and this model.
pub fn pack_model(model: &Path, folder: &Path, name: &str, words: &[&str]) -> PathBuf {
    pack_for(Arch::HOST, model, folder, name, words)
}

fn pack_for(arch: Arch, model: &Path, folder: &Path, name: &str, words: &[&str]) -> PathBuf {
    let out = folder.join(name);
    let bin = inputs().bin_of(arch);
    let mut pack = Command::new(inputs().vector_boot());
    pack.args(["rts", "pack", "--arch", arch.name(), "--binary"])
        .arg(bin.join("vector_boot"));
    pack.arg("--services")
        .arg(bin.join("vb-services"))
        .arg("--model")
        .arg(model);
    crate::stdout_of(pack.arg("--out").arg(&out).args(words));
    out
}
