//! Bad packages and none: the machine comes up degraded, says one clear line, and loses nothing.

use std::os::unix::fs::FileExt;
use std::path::Path;

use system_tests::inputs::inputs;
use system_tests::machine::{Machine, Options};
use system_tests::package;

use crate::{call, options};

/// A package of the default model, small enough to be copied for each way to break it.
fn small(folder: &Path, name: &str, words: &[&str]) -> std::path::PathBuf {
    package::pack_default(folder, name, words)
}

/// Overwrites bytes of a file.
fn patch(path: &Path, offset: u64, bytes: &[u8]) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

/// Boots with this package on a disk that has a past; `named` must be in the reason, which is one line.
fn degraded(folder: &Path, package: &Path, named: &[&str]) {
    degraded_with(folder, package, named, |_| {});
}

/// The same, with a look at the machine before it ends.
fn degraded_with(folder: &Path, package: &Path, named: &[&str], look: impl Fn(&mut Machine)) {
    let options = Options {
        package: Some(package.to_owned()),
        ..options(folder)
    };
    let mut machine = Machine::boot(&options);
    // What is hashed only once the services are up is found a moment after the machine was ready.
    machine.until("status --json", |text| {
        let all = named.iter().all(|word| text.contains(word));
        (text.contains("\"degraded\"") && all).then_some(())
    });
    let ready = machine.run("ready 60");
    assert_eq!(ready.code, 1, "{package:?}: {}", ready.text);
    let status = machine.json("status");
    assert_eq!(status["state"], "degraded", "{status}");
    let reason = status["reason"].as_str().expect("a reason").to_owned();
    for word in named {
        assert!(
            reason.contains(word),
            "{package:?}: no {word:?} in the reason: {reason}"
        );
    }
    assert!(!reason.contains('\n'), "{reason}");
    machine
        .serial()
        .wait_for_line(named[0], system_tests::machine::STEP_LIMIT);
    assert_eq!(status["services_up"], status["services"], "{status}");
    let kept = machine.call(&call("fs_read", "work", "kept.txt"));
    assert_eq!(
        kept.body["data"]["content"], "kept\n",
        "{package:?}: {}",
        kept.body
    );
    assert_eq!(machine.json("ledger verify")["holds"], true);
    look(&mut machine);
    machine.power_off();
}

/// A data disk with a file on it, written by a machine with a good package.
fn disk_with_a_past(folder: &Path, package: &Path) {
    let machine = Machine::ready(&Options {
        package: Some(package.to_owned()),
        ..options(folder)
    });
    let write = serde_json::json!({"tool": "fs_write", "params": {
        "root": "work", "path": "kept.txt", "content": "kept\n", "create": true,
    }});
    let reply = machine.call(&write);
    assert_eq!(reply.body["status"], "SUCCESS", "{}", reply.body);
    machine.power_off();
}

#[test]
fn bad_packages_boot_degraded_and_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let good = small(folder, "good.rts", &[]);
    disk_with_a_past(folder, &good);
    let broken = |name: &str, offset: u64, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::copy(&good, &path).unwrap();
        patch(&path, offset, bytes);
        path
    };
    // The header's fields are big-endian: version, binary offset and size, tensor offset and size.
    degraded(
        folder,
        &broken("version.rts", 4, &[0, 0, 0, 9]),
        &["version", "9"],
    );
    degraded(
        folder,
        &broken("binary-offset.rts", 8, &513_u64.to_be_bytes()),
        &["binary", "513"],
    );
    degraded(
        folder,
        &broken("tensor-size.rts", 32, &(1_u64 << 60).to_be_bytes()),
        &["tensor"],
    );

    let cut = folder.join("cut.rts");
    std::fs::copy(&good, &cut).unwrap();
    let bytes = cut.metadata().unwrap().len();
    std::fs::File::options()
        .write(true)
        .open(&cut)
        .unwrap()
        .set_len(bytes / 2)
        .unwrap();
    degraded(folder, &cut, &["package"]);
}

#[test]
fn a_model_that_is_none_or_is_refused_leaves_the_machine_up() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let good = small(folder, "good.rts", &[]);
    disk_with_a_past(folder, &good);
    let bytes = std::fs::read(&good).unwrap();
    let tensors = u64::from_be_bytes(bytes[24..32].try_into().unwrap());
    let refused = folder.join("refused.rts");
    std::fs::copy(&good, &refused).unwrap();
    patch(&refused, tensors, b"GGUX");
    degraded(folder, &refused, &["GGUF"]);
}

/// Where a part of the package begins, as `rts inspect` says.
fn offset_of(package: &Path, section: &str) -> u64 {
    let mut inspect = std::process::Command::new(system_tests::inputs::inputs().vector_boot());
    let text = system_tests::stdout_of(inspect.args(["rts", "inspect", "--json"]).arg(package));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let sections = value["sections"].as_array().expect("sections");
    let found = sections.iter().find(|row| row["name"] == section);
    found
        .and_then(|row| row["offset"].as_u64())
        .unwrap_or_else(|| panic!("no {section} in {text}"))
}

#[test]
fn a_flipped_bit_is_named_wherever_it_is_and_what_runs_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let good = small(folder, "good.rts", &[]);
    disk_with_a_past(folder, &good);
    let bytes = std::fs::read(&good).unwrap();
    // Behind the tensors, since the executable has these four bytes among its constants too.
    let field = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let behind = (field(24) + field(32)) as usize;
    let magic = bytes[behind..]
        .windows(4)
        .position(|window| *window == rts::manifest::MANIFEST_MAGIC);
    let manifest = (behind + magic.expect("a manifest")) as u64;
    let services = offset_of(&good, "vb-services");
    for (name, at, named) in [
        ("binary", 512 + 4096, "elf_blake3"),
        ("manifest", manifest + 64, "manifest"),
    ] {
        let flipped = folder.join(format!("{name}.rts"));
        std::fs::copy(&good, &flipped).unwrap();
        patch(&flipped, at, &[bytes[at as usize] ^ 1]);
        degraded(folder, &flipped, &[named]);
        std::fs::remove_file(&flipped).unwrap();
    }
    // An executable that does not hold is not run, and the tensors are looked at all the same: by the scrub, which
    // finds the bit while the services run on.
    let flipped = folder.join("two.rts");
    std::fs::copy(&good, &flipped).unwrap();
    let tensor = (field(24) + field(32) - 100) as usize;
    for at in [services as usize + 4096, tensor] {
        patch(&flipped, at as u64, &[bytes[at] ^ 1]);
    }
    let block = tensor / 65536;
    let damage = format!("tensors: block {block} at byte {}", block * 65536);
    let named = ["vb-services", &damage, "; tensor "];
    degraded_with(folder, &flipped, &named, |machine| {
        let events = machine.ok("ledger query --type machine_degraded -n 500");
        assert!(events.contains(&damage), "{events}");
    });
}

#[test]
fn a_package_whose_model_is_no_model_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let good = small(folder, "good.rts", &[]);
    disk_with_a_past(folder, &good);
    let text = folder.join("text.gguf");
    std::fs::write(&text, "no model\n").unwrap();
    let package = package::pack_unchecked(&text, folder, "text.rts");
    degraded(folder, &package, &["model"]);
}

#[test]
fn without_any_package_the_machine_is_up_and_degraded() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let good = small(folder, "good.rts", &[]);
    disk_with_a_past(folder, &good);
    degraded(folder, Path::new("none"), &["package"]);
    let blank = folder.join("blank.rts");
    std::fs::write(&blank, vec![0; 1 << 20]).unwrap();
    degraded(folder, &blank, &["package"]);
}

/// As the seed's script meant it: forty bytes of header, nothing aligned, nothing hashed.
#[test]
fn a_plain_package_boots_from_where_it_lies() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let binary = std::fs::read(inputs().vector_boot()).unwrap();
    let model = folder.join("default.gguf");
    let mut write = std::process::Command::new(inputs().vector_boot());
    system_tests::stdout_of(write.args(["gguf", "default"]).arg(&model));
    let model = std::fs::read(model).unwrap();
    let mut bytes = b"RTS\x01".to_vec();
    bytes.extend(1u32.to_be_bytes());
    let (header, binary_bytes) = (512, binary.len() as u64);
    for field in [
        header,
        binary_bytes,
        header + binary_bytes,
        model.len() as u64,
    ] {
        bytes.extend(field.to_be_bytes());
    }
    bytes.resize(512, 0);
    bytes.extend(binary);
    bytes.extend(model);
    let package = folder.join("plain.rts");
    std::fs::write(&package, bytes).unwrap();
    let mut machine = Machine::ready(&Options {
        package: Some(package),
        ..options(folder)
    });
    let status = machine.json("status");
    let name = status["package"].as_str().expect("a package");
    assert!(name.contains("plain"), "{name}");
    assert_eq!(status["tensors"], 8, "{status}");
    machine.ok("tensor hw.mmio");
    machine.power_off();
}
