//! The `rts` role: packs, shows, checks, takes apart, signs and compares packages.
//!
//! Owns the words and the exit codes: 0 done or accepted, 1 refused or unreadable with one line on stderr,
//! 2 wrong words; `diff` ends as diff(1) does. The format is `rts`'s; files are opened and written in [`files`].
//! Never here: rules of the format. Start with [`run`].

mod files;
mod inspect;
mod pack;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use rts::manifest::{MANIFEST_MAGIC, Manifest, source};
use rts::{BLOCK_BYTES, Package, PublicKey, SecretKey, Trust, WindowKind};
use sys::mapping::Mapping;

use files::{Bar, Output, failure, open};

/// Bytes hashed between two looks at the clock: about a millisecond.
const STEP_BYTES: usize = 1 << 20;
/// A key file is one line of 83 bytes.
const KEY_FILE_BYTES_MAX: u64 = 1024;

/// Packs, shows, checks and signs RTS packages (docs/rts-format.md).
#[derive(Debug, Parser)]
#[command(name = "rts", bin_name = "vector_boot rts", no_binary_name = true)]
struct Words {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Makes a package of executables, a model and a manifest.
    Pack(pack::Pack),
    /// Shows what a package holds.
    Inspect {
        /// A package, or the partition or disk that begins with one.
        file: PathBuf,
        /// One line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Checks every byte of a package, its signature and the index of its model.
    Verify(Verify),
    /// Writes one part of a package to a file, checked.
    Extract(Extract),
    /// Makes a key pair: OUT, readable by its owner alone, and OUT.pub.
    Keygen {
        /// The secret key's file; it must not exist.
        out: PathBuf,
    },
    /// Signs a package in place, after checking it.
    Sign {
        /// The package.
        file: PathBuf,
        /// The secret key's file.
        #[arg(long, value_name = "KEYFILE")]
        key: PathBuf,
    },
    /// Lists the 64 KiB blocks in which two packages differ; ends with 1 if there are any.
    Diff {
        /// The first package.
        a: PathBuf,
        /// The second package.
        b: PathBuf,
    },
    /// Compiles a manifest alone, as `vb.manifest=` takes it.
    Manifest {
        /// The TOML file.
        file: PathBuf,
        /// The compiled file.
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Verify {
    /// A package, or the partition or disk that begins with one.
    file: PathBuf,
    /// A trusted public key; with one, the package must be signed by it (or by another one given).
    #[arg(long, value_name = "PUB")]
    key: Vec<PathBuf>,
    /// Refuses an unsigned package.
    #[arg(long)]
    require_signature: bool,
    /// Refuses a package that is not for this processor.
    #[arg(long, value_enum)]
    arch: Option<pack::Arch>,
}

#[derive(Debug, Args)]
struct Extract {
    /// The package.
    file: PathBuf,
    #[command(flatten)]
    part: Part,
    /// The file to write.
    #[arg(long)]
    out: PathBuf,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Part {
    /// The executable `vector_boot`.
    #[arg(long)]
    binary: bool,
    /// The model.
    #[arg(long)]
    tensors: bool,
    /// `vb-services` or an added file.
    #[arg(long, value_name = "NAME")]
    section: Option<String>,
    /// The manifest in its compiled form.
    #[arg(long)]
    manifest: bool,
    /// The manifest as JSON.
    #[arg(long)]
    json: bool,
}

/// Why the role ends without having done its work.
#[derive(Debug)]
enum Failure {
    /// One line for stderr.
    Refused(String),
    /// The words were wrong, or help was asked for.
    Words(clap::Error),
}

impl From<String> for Failure {
    fn from(line: String) -> Self {
        Self::Refused(line)
    }
}

/// Runs the role over the words behind its name.
pub fn main(words: &[OsString]) -> ExitCode {
    let outcome = run(words, &mut std::io::stdout().lock());
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(Failure::Refused(line)) => {
            // Nothing is left to tell when stderr is closed.
            let _ = writeln!(std::io::stderr(), "vector_boot rts: {line}");
            ExitCode::FAILURE
        }
        Err(Failure::Words(error)) => {
            // As above; help goes to stdout and is no failure.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}

/// Does what the words say; the answer goes to `out`.
fn run(words: &[OsString], out: &mut dyn Write) -> Result<u8, Failure> {
    let words = Words::try_parse_from(words).map_err(Failure::Words)?;
    let done = match words.verb {
        Verb::Pack(words) => pack::pack(&words, out),
        Verb::Inspect { file, json } => inspect::inspect(&file, json, out),
        Verb::Verify(words) => verify(&words, out),
        Verb::Extract(words) => extract(&words),
        Verb::Keygen { out: file } => keygen(&file, out),
        Verb::Sign { file, key } => sign_file(&file, &key, out),
        Verb::Diff { a, b } => return diff(&a, &b, out).map_err(Failure::from),
        Verb::Manifest { file, out } => compile(&file, &out),
    };
    done.map(|()| 0).map_err(Failure::from)
}

fn verify(words: &Verify, out: &mut dyn Write) -> Result<(), String> {
    let file = &words.file;
    let refused = |error: rts::RtsError| failure(file, &error);
    let trusted = words
        .key
        .iter()
        .map(|path| public_key(path))
        .collect::<Result<Vec<_>, _>>()?;
    let window = open(file)?;
    // The order of a machine that boots: who made it and for what, before anything behind the header is parsed.
    let mut signer = None;
    if let Some(header) = window.bytes.first_chunk() {
        let trust = Trust {
            keys: trusted,
            required: false,
        };
        signer = trust.check(header).map_err(refused)?;
        if words.require_signature && signer.is_none() {
            return Err(refused(rts::RtsError::Unsigned));
        }
        if let Some(arch) = words.arch {
            rts::check_machine(header, arch.into()).map_err(refused)?;
        }
    }
    let package = Package::parse(&window.bytes).map_err(refused)?;
    check_bytes(file, &package, window.kind)?;
    let index = gguf::Index::parse(package.tensor_bytes())
        .map_err(|error| failure(file, &format_args!("tensors: {error}")))?;
    let form = if package.is_plain() {
        "plain package, nothing to hash"
    } else {
        "every byte"
    };
    let signed = signer.map_or("unsigned".to_owned(), |key| format!("signed by {key}"));
    let tensors = index.tensor_count();
    say(
        out,
        format_args!(
            "{}: ok, {form}, {} bytes, {tensors} tensors, {signed}",
            file.display(),
            package.bytes()
        ),
    )
}

/// Hashes the whole package: everything outside the tensors first, then their blocks.
fn check_bytes(file: &Path, package: &Package<'_>, kind: WindowKind) -> Result<(), String> {
    let refused = |error: rts::RtsError| failure(file, &error);
    let mut bar = Bar::new("verify", package.bytes());
    let mut verification = package.verification(kind).map_err(refused)?;
    let outside = loop {
        let progress = verification.step(STEP_BYTES).map_err(refused)?;
        bar.at(progress.done);
        if progress.is_finished() {
            break progress.total;
        }
    };
    if !package.is_plain() {
        let blocks = package.blocks().map_err(refused)?;
        // Blocks outside the tensors were hashed above as parts; only theirs are left.
        for (done, index) in blocks.tensor_blocks().enumerate() {
            blocks.verify_block(index).map_err(refused)?;
            bar.at(outside.saturating_add((done as u64).saturating_mul(BLOCK_BYTES)));
        }
        // The list itself must be right for the others too: updates are cut by it.
        for index in (0..blocks.count()).filter(|index| !blocks.tensor_blocks().contains(index)) {
            blocks.verify_block(index).map_err(refused)?;
        }
    }
    bar.end();
    Ok(())
}

fn extract(words: &Extract) -> Result<(), String> {
    let file = &words.file;
    let refused = |error: rts::RtsError| failure(file, &error);
    let window = open(file)?;
    let package = Package::parse(&window.bytes).map_err(refused)?;
    let part = &words.part;
    let (bytes, mode) = if part.binary {
        package.verify_binary().map_err(refused)?;
        (package.binary(), 0o755)
    } else if part.tensors {
        if let Ok(blocks) = package.blocks() {
            blocks
                .tensor_blocks()
                .try_for_each(|index| blocks.verify_block(index))
                .map_err(refused)?;
        } else if !package.is_plain() {
            package.blocks().map_err(refused)?;
        }
        (package.tensor_bytes(), 0o644)
    } else if let Some(name) = &part.section {
        let names = || {
            package
                .sections()
                .map(|section| section.name.to_string())
                .collect::<Vec<_>>()
                .join(", ")
        };
        let section = package.section(name).ok_or_else(|| {
            failure(
                file,
                &format_args!("section {name:?}: not there, expected one of: {}", names()),
            )
        })?;
        package.verify_section(&section).map_err(refused)?;
        (
            package.section_bytes(&section),
            if section.machine.is_some() {
                0o755
            } else {
                0o644
            },
        )
    } else {
        if package.is_plain() {
            return Err(failure(
                file,
                &"manifest: found a plain package, expected the extension",
            ));
        }
        if part.json {
            package.verify_json().map_err(refused)?;
        }
        (
            if part.json {
                package.json_bytes()
            } else {
                package.manifest_bytes()
            },
            0o644,
        )
    };
    let mut out = Output::create(&words.out, mode)?;
    out.write(bytes)?;
    out.finish()
}

fn keygen(path: &Path, out: &mut dyn Write) -> Result<(), String> {
    let key = SecretKey::generate(sys::random::fill).map_err(|error| failure(path, &error))?;
    let mut public_path = path.as_os_str().to_owned();
    public_path.push(".pub");
    let public_path = PathBuf::from(public_path);
    // Both names are looked at first, so that a refusal leaves no half of a pair.
    if let Some(taken) = [path, &public_path].into_iter().find(|path| path.exists()) {
        return Err(failure(taken, &"there already, expected a new name"));
    }
    let write = |path: &Path, text: &str, mode: u32| {
        // Never over a file that is there: it may be the only copy of a key.
        let opened = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path);
        opened
            .and_then(|mut file| {
                file.write_all(text.as_bytes())
                    .and_then(|()| file.sync_all())
            })
            .map_err(|error| failure(path, &error))
    };
    write(path, &key.to_text(), 0o600)?;
    write(&public_path, &key.public().to_text(), 0o644)?;
    say(
        out,
        format_args!("{}: public key {}", public_path.display(), key.public()),
    )
}

fn sign_file(file: &Path, key: &Path, out: &mut dyn Write) -> Result<(), String> {
    let key = secret_key(key)?;
    let mut header = {
        let window = open(file)?;
        let package = Package::parse(&window.bytes).map_err(|error| failure(file, &error))?;
        check_bytes(file, &package, window.kind)?;
        *package.header_bytes()
    };
    rts::sign(&mut header, &key).map_err(|error| failure(file, &error))?;
    // One write of one sector: the package is signed or it is not.
    let opened = std::fs::OpenOptions::new().write(true).open(file);
    opened
        .and_then(|file| file.write_all_at(&header, 0).and_then(|()| file.sync_all()))
        .map_err(|error| failure(file, &error))?;
    say(
        out,
        format_args!("{}: signed by {}", file.display(), key.public()),
    )
}

fn diff(a: &Path, b: &Path, out: &mut dyn Write) -> Result<u8, String> {
    let (window_a, window_b) = (open(a)?, open(b)?);
    let package_a = Package::parse(&window_a.bytes).map_err(|error| failure(a, &error))?;
    let package_b = Package::parse(&window_b.bytes).map_err(|error| failure(b, &error))?;
    let hashes_a = block_hashes(&package_a).map_err(|error| failure(a, &error))?;
    let hashes_b = block_hashes(&package_b).map_err(|error| failure(b, &error))?;
    let count = hashes_a.len().max(hashes_b.len());
    let differs = |index: usize| hashes_a.get(index) != hashes_b.get(index);
    let mut changed = 0_usize;
    let mut index = 0;
    while index < count {
        let run = (index..count).take_while(|index| differs(*index)).count();
        if run > 0 {
            let from = index as u64 * BLOCK_BYTES;
            let bytes = run as u64 * BLOCK_BYTES;
            say(
                out,
                format_args!("blocks {index}..{}: {bytes} bytes from {from}", index + run),
            )?;
            changed += run;
        }
        index += run.max(1);
    }
    let manifest = package_a.manifest_bytes() != package_b.manifest_bytes();
    let manifests = if manifest { "differ" } else { "are equal" };
    let bytes = changed as u64 * BLOCK_BYTES;
    say(
        out,
        format_args!("{changed} of {count} blocks differ ({bytes} bytes); manifests {manifests}"),
    )?;
    Ok(u8::from(changed > 0 || manifest))
}

/// The block list, or what it would be in a plain package.
fn block_hashes(package: &Package<'_>) -> Result<Vec<rts::Digest>, rts::RtsError> {
    if package.is_plain() {
        let bytes = package.as_bytes();
        let count = (bytes.len() as u64).div_ceil(BLOCK_BYTES);
        return Ok((0..count)
            .map(|index| rts::block_hash(bytes, index))
            .collect());
    }
    let blocks = package.blocks()?;
    Ok((0..blocks.count())
        .filter_map(|index| blocks.expected(index))
        .collect())
}

fn compile(file: &Path, out: &Path) -> Result<(), String> {
    let bytes = read_manifest(file)?
        .encode()
        .map_err(|error| failure(file, &error))?;
    let mut out = Output::create(out, 0o644)?;
    out.write(&bytes)?;
    out.finish()
}

/// Reads a manifest in either form.
fn read_manifest(file: &Path) -> Result<Manifest, String> {
    let bytes = Mapping::open_file(file).map_err(|error| failure(file, &error))?;
    let manifest = if bytes.starts_with(&MANIFEST_MAGIC) {
        Manifest::decode(&bytes)
    } else {
        let text = std::str::from_utf8(&bytes).map_err(|error| failure(file, &error))?;
        source::parse(text)
    };
    manifest.map_err(|error| failure(file, &error))
}

fn public_key(path: &Path) -> Result<PublicKey, String> {
    let (text, _) =
        Mapping::open_prefix(path, KEY_FILE_BYTES_MAX).map_err(|error| failure(path, &error))?;
    PublicKey::parse(&text).map_err(|error| failure(path, &error))
}

fn secret_key(path: &Path) -> Result<SecretKey, String> {
    // Mapped, so that no buffer keeps a copy of it.
    let (text, _) =
        Mapping::open_prefix(path, KEY_FILE_BYTES_MAX).map_err(|error| failure(path, &error))?;
    SecretKey::parse(&text).map_err(|error| failure(path, &error))
}

/// Writes one line of the answer. A reader that went away has seen what it wanted.
fn say(out: &mut dyn Write, line: std::fmt::Arguments<'_>) -> Result<(), String> {
    match writeln!(out, "{line}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("write to stdout: {error}"))
        }
        _ => Ok(()),
    }
}
