//! Figures of the appliance as it ships: sizes, memory, boot phases; the tables of `docs/benchmarks.md`.
//!
//! Builds with profile `appliance`, packs the real model, boots several times, prints Markdown.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use system_tests::inputs::{inputs, repository};
use system_tests::machine::{Machine, Options};
use system_tests::stdout_of;

/// Boots; a median of fewer says little under emulation.
const BOOTS: usize = 5;

/// Runs the drill.
pub fn drill() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let package = folder.path().join("figures.rts");
    let mut pack = Command::new(repository().join("package_rts.sh"));
    stdout_of(
        pack.arg("--model")
            .arg(&inputs().model)
            .arg("--out")
            .arg(&package),
    );
    let bin = folder.path().join("bin");
    std::fs::create_dir(&bin).expect("a folder for the executables");
    extract(&package, &["--binary"], &bin.join("vector_boot"));
    extract(
        &package,
        &["--section", "vb-services"],
        &bin.join("vb-services"),
    );

    println!("| file | bytes |\n|---|---|");
    for (name, path) in [
        ("`vector_boot`, static", bin.join("vector_boot")),
        ("`vb-services`, static", bin.join("vb-services")),
        ("package with SmolLM2-135M Q4_1", package.clone()),
        ("the model in it", inputs().model.clone()),
    ] {
        println!("| {name} | {} |", size(&path));
    }

    let mut phases: Vec<(String, Vec<f64>)> = Vec::new();
    let mut memory: Vec<(String, Vec<f64>)> = Vec::new();
    for _ in 0..BOOTS {
        let mut machine = Machine::ready(&Options {
            package: Some(package.clone()),
            data: folder.path().join("data.img"),
            bin: Some(bin.clone()),
            ..Options::default()
        });
        let boot = machine.json("boot");
        for phase in boot["phases"].as_array().expect("phases") {
            let name = phase["name"].as_str().expect("a name");
            note(
                &mut phases,
                name,
                phase["end_ns"].as_f64().expect("an end") / 1e6,
            );
        }
        let mem = machine.json("mem");
        for process in mem["processes"].as_array().expect("processes") {
            let name = process["name"].as_str().expect("a name");
            note(
                &mut memory,
                &format!("{name}, anonymous"),
                kib(&process["own_bytes"]),
            );
            note(
                &mut memory,
                &format!("{name}, resident"),
                kib(&process["rss_bytes"]),
            );
        }
        machine.power_off();
    }
    println!("\n| from handoff to the end of | ms, median of {BOOTS} (least to most) |\n|---|---|");
    print_rows(&phases);
    println!("\n| memory of | KiB, median of {BOOTS} (least to most) |\n|---|---|");
    print_rows(&memory);
}

fn extract(package: &Path, what: &[&str], out: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mut extract = Command::new(inputs().vector_boot());
    stdout_of(
        extract
            .args(["rts", "extract"])
            .arg(package)
            .args(what)
            .arg("--out")
            .arg(out),
    );
    std::fs::set_permissions(out, std::fs::Permissions::from_mode(0o755)).expect("an executable");
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map(|m| m.len()).expect("a file")
}

fn kib(bytes: &Value) -> f64 {
    bytes.as_f64().unwrap_or(f64::NAN) / 1024.0
}

fn note(rows: &mut Vec<(String, Vec<f64>)>, name: &str, value: f64) {
    match rows.iter_mut().find(|(n, _)| n == name) {
        Some((_, values)) => values.push(value),
        None => rows.push((name.to_owned(), vec![value])),
    }
}

fn print_rows(rows: &[(String, Vec<f64>)]) {
    for (name, values) in rows {
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else {
            continue;
        };
        let median = sorted[sorted.len() / 2];
        println!("| {name} | {median:.1} ({least:.1} to {most:.1}) |");
    }
}
