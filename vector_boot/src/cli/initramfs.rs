//! The `initramfs` role: builds the archive that the kernel unpacks before it starts PID 1.
//!
//! Owns what lies in the archive and under which name. The bytes of the archive are [`cpio`]'s, the order of
//! the kernel modules is [`modules`]'s. The same inputs give the same bytes: nothing here reads a clock, a
//! user id or the order of a directory listing.
//! Never here: a shell, a library, or anything that PID 1 does not name. Start with [`build`].

mod cpio;
mod modules;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

/// What a virtual machine under QEMU needs beside what Debian's cloud kernel has built in.
///
/// `virtio_mmio` serves machine types without PCI, `qemu_fw_cfg` brings the boot token, `button` and `evdev` the
/// power button, `softdog` a watchdog where [`WANTED_IF_THERE`] finds no hardware for one.
const WANTED_DEFAULT: &[&str] = &[
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "qemu_fw_cfg",
    "button",
    "evdev",
    "softdog",
];

/// Carried if the kernel has them as modules, and loaded before `softdog`: drivers of hardware watchdogs (the first
/// one that finds its device is `/dev/watchdog`), and the stores that outlive a kernel's panic.
const WANTED_IF_THERE: &[&str] = &[
    "i6300esb",
    "iTCO_wdt",
    "sp5100_tco",
    "wdat_wdt",
    "sbsa_gwdt",
    "ramoops",
    "efi_pstore",
];

/// Empty folders that PID 1 mounts over.
const MOUNT_POINTS: &[&str] = &["dev", "proc", "sys", "run", "tmp", "root"];

/// A trusted key is 32 bytes, as hex or base64 with a name; a kilobyte holds every form.
const KEY_BYTES_MAX: u64 = 1024;

/// Builds the initramfs: `/init`, `/vb-services`, their digests, kernel modules in load order, trusted keys.
#[derive(Debug, Parser)]
#[command(name = "vector_boot initramfs", no_binary_name = true)]
struct Args {
    /// The executable `vector_boot`: becomes `/init`.
    #[arg(long, value_name = "FILE")]
    init: PathBuf,
    /// The executable `vb-services`: becomes `/vb-services`.
    #[arg(long, value_name = "FILE")]
    services: PathBuf,
    /// The folder of the kernel's modules, as in `/lib/modules/RELEASE`.
    #[arg(long, value_name = "DIR")]
    modules: PathBuf,
    /// The archive to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Kernel modules to carry, comma separated, in the order of their need; their dependencies come first.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    want: Option<Vec<String>>,
    /// A public key whose packages are trusted; with one present, unsigned packages are refused.
    #[arg(long, value_name = "KEY.pub")]
    trust: Vec<PathBuf>,
    /// A package to carry inside: for small models only, since it pins twice its size in memory.
    #[arg(long, value_name = "FILE")]
    rts: Option<PathBuf>,
}

/// Why no archive was written.
#[derive(Debug, thiserror::Error)]
enum InitramfsError {
    #[error("read {what} {path}")]
    Read {
        what: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("write initramfs {path}")]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("trusted key {path}: {bytes} bytes, limit {KEY_BYTES_MAX}")]
    KeyTooLong { path: PathBuf, bytes: u64 },
    #[error("trusted key {path}: the name must end in .pub and no other key may have it")]
    KeyName { path: PathBuf },
    #[error(transparent)]
    Modules(#[from] modules::ModulesError),
    #[error(transparent)]
    Archive(#[from] cpio::CpioError),
}

/// What was put in, for the line that the role prints.
struct Summary {
    bytes: usize,
    modules: Vec<String>,
    built_in: Vec<String>,
    keys: usize,
}

/// Runs the role over the words behind its name.
pub fn main(words: &[OsString]) -> ExitCode {
    let args = match Args::try_parse_from(words) {
        Ok(args) => args,
        Err(error) => {
            let wanted_help = !error.use_stderr();
            // A closed terminal is no reason to fail differently.
            let _ = error.print();
            return if wanted_help {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(2)
            };
        }
    };
    match build(&args) {
        Ok(summary) => {
            println!(
                "initramfs: path={} bytes={} keys={} modules={} built_in={}",
                args.out.display(),
                summary.bytes,
                summary.keys,
                summary.modules.join(","),
                summary.built_in.join(","),
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("vector_boot initramfs: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// Collects the parts, writes the archive beside its final name, and moves it there whole.
fn build(args: &Args) -> Result<Summary, InitramfsError> {
    let init = read("executable", &args.init)?;
    let services = read("executable", &args.services)?;
    let index = modules::Index::scan(&args.modules)?;
    let wanted: Vec<String> = match &args.want {
        // `--want ""` is one empty name: a kernel that needs no modules.
        Some(named) => named.iter().filter(|n| !n.is_empty()).cloned().collect(),
        None => {
            let there = WANTED_IF_THERE.iter().filter(|name| index.has(name));
            let all = there.chain(WANTED_DEFAULT);
            all.map(|n| (*n).to_owned()).collect()
        }
    };
    let plan = index.plan(&wanted)?;

    let mut archive = cpio::Writer::new();
    for folder in MOUNT_POINTS {
        archive.folder(folder)?;
    }
    // The kernel opens /dev/console for PID 1 before anything is mounted: major 5, minor 1 by devices.txt.
    archive.character_device("dev/console", 0o600, 5, 1)?;
    archive.file("init", 0o755, &init)?;
    archive.file("vb-services", 0o755, &services)?;
    archive.file("digests", 0o644, digests(&init, &services).as_bytes())?;

    let mut names = Vec::new();
    for (position, module) in plan.order.iter().enumerate() {
        let bytes = read("kernel module", &module.path)?;
        archive.file(
            &format!("modules/{position:03}-{}.ko", module.name),
            0o644,
            &bytes,
        )?;
        names.push(module.name.clone());
    }
    for (name, bytes) in keys(&args.trust)? {
        archive.file(&format!("keys/{name}"), 0o644, &bytes)?;
    }
    if let Some(path) = &args.rts {
        archive.file("rts", 0o644, &read("package", path)?)?;
    }

    let bytes = archive.finish()?;
    write_whole(&args.out, &bytes)?;
    Ok(Summary {
        bytes: bytes.len(),
        modules: names,
        built_in: plan.built_in,
        keys: args.trust.len(),
    })
}

/// One line for each executable: what PID 1 compares with the package's manifest without hashing itself.
fn digests(init: &[u8], services: &[u8]) -> String {
    format!(
        "{}  vector_boot\n{}  vb-services\n",
        blake3::hash(init).to_hex(),
        blake3::hash(services).to_hex()
    )
}

/// The trusted keys by file name, so that the archive does not depend on the order of the words.
fn keys(paths: &[PathBuf]) -> Result<BTreeMap<String, Vec<u8>>, InitramfsError> {
    let mut keys = BTreeMap::new();
    for path in paths {
        let bytes = read("trusted key", path)?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if length > KEY_BYTES_MAX {
            return Err(InitramfsError::KeyTooLong {
                path: path.clone(),
                bytes: length,
            });
        }
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .filter(|name| name.ends_with(".pub"));
        let fresh = name
            .filter(|name| !keys.contains_key(*name))
            .map(str::to_owned);
        let Some(name) = fresh else {
            return Err(InitramfsError::KeyName { path: path.clone() });
        };
        keys.insert(name, bytes);
    }
    Ok(keys)
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, InitramfsError> {
    std::fs::read(path).map_err(|source| InitramfsError::Read {
        what,
        path: path.to_owned(),
        source,
    })
}

/// A reader of `path` sees the old archive or the new one, never half of one.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), InitramfsError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    std::fs::write(&partial, bytes)
        .and_then(|()| std::fs::rename(&partial, path))
        .map_err(|source| InitramfsError::Write {
            path: path.to_owned(),
            source,
        })
}

/// The message and its causes on one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with two executables and a small tree of modules; `b` needs `a`.
    fn inputs() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("vector_boot"), b"the init").unwrap();
        std::fs::write(dir.path().join("vb-services"), b"the services").unwrap();
        std::fs::write(dir.path().join("site.pub"), b"site key").unwrap();
        let tree = dir.path().join("modules/kernel/drivers");
        std::fs::create_dir_all(&tree).unwrap();
        std::fs::write(
            tree.join("a.ko"),
            modules::elf_with_modinfo(b"name=a\0depends=\0"),
        )
        .unwrap();
        std::fs::write(
            tree.join("b.ko"),
            modules::elf_with_modinfo(b"name=b\0depends=a\0"),
        )
        .unwrap();
        dir
    }

    fn args(dir: &Path, extra: &[&str]) -> Args {
        let path = |name: &str| dir.join(name).into_os_string();
        let mut words: Vec<OsString> = Vec::new();
        for (option, file) in [
            ("--init", "vector_boot"),
            ("--services", "vb-services"),
            ("--modules", "modules"),
            ("--out", "out.cpio"),
        ] {
            words.extend([OsString::from(option), path(file)]);
        }
        words.extend(extra.iter().map(OsString::from));
        Args::try_parse_from(words).unwrap()
    }

    #[test]
    fn archive_holds_the_contract_and_nothing_else() {
        let dir = inputs();
        let key = dir.path().join("site.pub").display().to_string();
        build(&args(dir.path(), &["--want", "b", "--trust", &key])).unwrap();
        let entries = cpio::parse(&std::fs::read(dir.path().join("out.cpio")).unwrap()).unwrap();
        let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        let mut want: Vec<&str> = MOUNT_POINTS.to_vec();
        want.extend([
            "dev/console",
            "digests",
            "init",
            "keys",
            "keys/site.pub",
            "modules",
        ]);
        want.extend(["modules/000-a.ko", "modules/001-b.ko", "vb-services"]);
        want.sort_unstable();
        assert_eq!(names, want);
        let content = |name: &str| {
            &entries
                .iter()
                .find(|entry| entry.name == name)
                .unwrap()
                .data
        };
        assert_eq!(content("init"), b"the init");
        let lines = String::from_utf8(content("digests").clone()).unwrap();
        let init_hash = blake3::hash(b"the init").to_hex().to_string();
        assert_eq!(
            lines.lines().next().unwrap(),
            format!("{init_hash}  vector_boot")
        );
        assert!(lines.lines().nth(1).unwrap().ends_with("  vb-services"));
    }

    #[test]
    fn a_kernel_with_everything_built_in_needs_no_modules() {
        let dir = inputs();
        let summary = build(&args(dir.path(), &["--want", ""])).unwrap();
        assert!(summary.modules.is_empty(), "{:?}", summary.modules);
    }

    #[test]
    fn same_inputs_give_the_same_bytes() {
        let dir = inputs();
        let out = dir.path().join("out.cpio");
        build(&args(dir.path(), &["--want", "b"])).unwrap();
        let first = std::fs::read(&out).unwrap();
        std::fs::write(dir.path().join("vector_boot"), b"the init").unwrap();
        build(&args(dir.path(), &["--want", "b"])).unwrap();
        assert_eq!(first, std::fs::read(&out).unwrap());
    }

    #[test]
    fn the_cpio_program_reads_it() {
        let dir = inputs();
        build(&args(dir.path(), &["--want", "b"])).unwrap();
        let archive = std::fs::File::open(dir.path().join("out.cpio")).unwrap();
        let listed = std::process::Command::new("cpio")
            .arg("-itv")
            .stdin(archive)
            .output()
            .expect("the program cpio; tests/run installs it");
        assert!(
            listed.status.success(),
            "{}",
            String::from_utf8_lossy(&listed.stderr)
        );
        let text = String::from_utf8(listed.stdout).unwrap();
        let init = text.lines().find(|line| line.ends_with(" init")).unwrap();
        assert!(
            init.starts_with("-rwxr-xr-x   1 root     root            8 Jan  1  1970"),
            "{init}"
        );
        assert!(
            text.lines()
                .any(|line| line.starts_with("crw-------") && line.ends_with("dev/console"))
        );
    }

    #[test]
    fn errors_name_the_file_and_the_reason() {
        let dir = inputs();
        std::fs::write(dir.path().join("key.txt"), b"k").unwrap();
        std::fs::write(dir.path().join("long.pub"), vec![b'k'; 1025]).unwrap();
        let refused = |extra: &[&str]| match build(&args(dir.path(), extra)) {
            Ok(_) => panic!("{extra:?} was accepted"),
            Err(error) => with_causes(&error),
        };
        let key = |name: &str| dir.path().join(name).display().to_string();
        assert!(refused(&["--want", "b", "--trust", &key("key.txt")]).contains("must end in .pub"));
        assert!(
            refused(&["--want", "b", "--trust", &key("long.pub")])
                .contains("1025 bytes, limit 1024")
        );
        assert!(
            refused(&["--want", "b", "--rts", &key("none.rts")]).contains("none.rts: No such file")
        );
        assert!(refused(&["--want", "zz"]).contains("zz"));
        let site = key("site.pub");
        assert!(
            refused(&["--want", "b", "--trust", &site, "--trust", &site]).contains("no other key")
        );
    }
}
