//! `rts pack`: checks what goes in, streams it through the assembler, signs, and says what came out.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use rts::manifest::{self, Name, source};
use rts::pack::{Assembler, SectionSpec, Source, Spec};
use rts::{Kind, Machine, Package, SERVICES_SECTION, elf};
use sys::mapping::Mapping;

use super::files::{Bar, Output, failure, open};
use super::{STEP_BYTES, read_manifest, say, secret_key};

/// Words of `rts pack`.
#[derive(Debug, Args)]
pub(super) struct Pack {
    /// The executable `vector_boot`.
    #[arg(long, value_name = "FILE")]
    binary: PathBuf,
    /// The executable `vb-services`; without it the machine takes the initramfs's.
    #[arg(long, value_name = "FILE")]
    services: Option<PathBuf>,
    /// The model, a GGUF file.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// The package to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The manifest, TOML or compiled; without it the default one.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// A further file: a static executable, or data.
    #[arg(long, value_name = "NAME=FILE")]
    add: Vec<String>,
    /// The secret key to sign with.
    #[arg(long, value_name = "KEYFILE")]
    sign: Option<PathBuf>,
    /// The processor that the executables must be for; without it the binary says.
    #[arg(long, value_enum)]
    arch: Option<Arch>,
    /// Packs executables and models that the machine refuses, for drills and for runs as an ordinary process.
    #[arg(long)]
    unchecked: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Arch {
    #[value(name = "x86_64")]
    X86_64,
    #[value(name = "aarch64")]
    Aarch64,
}

impl From<Arch> for Machine {
    fn from(arch: Arch) -> Self {
        match arch {
            Arch::X86_64 => Self::X86_64,
            Arch::Aarch64 => Self::Aarch64,
        }
    }
}

/// A file that goes in.
struct Input<'a> {
    path: &'a Path,
    bytes: Mapping,
}

impl<'a> Input<'a> {
    fn open(path: &'a Path) -> Result<Self, String> {
        let bytes = Mapping::open_file(path).map_err(|error| failure(path, &error))?;
        Ok(Self { path, bytes })
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// Packs and prints the path, the sizes and the digest.
pub(super) fn pack(words: &Pack, out: &mut dyn Write) -> Result<(), String> {
    let binary = Input::open(&words.binary)?;
    let model = Input::open(&words.model)?;
    let machine = machine(words, &binary)?;
    let mut sections: BTreeMap<Name, (Kind, Input<'_>)> = BTreeMap::new();
    if let Some(path) = &words.services {
        let services = Input::open(path)?;
        check_program(words, &services, machine)?;
        let name = Name::new(SERVICES_SECTION).ok_or("vb-services: not a name")?;
        sections.insert(name, (Kind::Exec, services));
    }
    for add in &words.add {
        let (name, input) = added(add)?;
        let kind = if elf::is_elf(&input.bytes) {
            Kind::Exec
        } else {
            Kind::Data
        };
        if kind == Kind::Exec {
            check_program(words, &input, machine)?;
        }
        if name == SERVICES_SECTION || sections.contains_key(&name) {
            return Err(format!(
                "--add {add}: the name {name} is taken, expected another"
            ));
        }
        sections.insert(name, (kind, input));
    }
    if !words.unchecked {
        gguf::Index::parse(&model.bytes).map_err(|error| failure(model.path, &error))?;
    }
    let manifest = match &words.manifest {
        Some(path) => read_manifest(path)?,
        None => manifest::default(),
    };
    let spec = Spec {
        machine,
        binary_bytes: binary.len(),
        tensor_bytes: model.len(),
        sections: sections
            .iter()
            .map(|(name, (kind, input))| SectionSpec {
                name: name.clone(),
                kind: *kind,
                bytes: input.len(),
            })
            .collect(),
        json: source::to_json(&manifest),
        manifest,
    };
    write_package(words, spec, &binary, &model, &sections)?;
    report(&words.out, out)
}

fn write_package(
    words: &Pack,
    spec: Spec,
    binary: &Input<'_>,
    model: &Input<'_>,
    sections: &BTreeMap<Name, (Kind, Input<'_>)>,
) -> Result<(), String> {
    let refused = |error: rts::RtsError| failure(&words.out, &error);
    let key = words.sign.as_deref().map(secret_key).transpose()?;
    let mut assembler = Assembler::new(spec).map_err(refused)?;
    let mut output = Output::create(&words.out, 0o644)?;
    let mut bar = Bar::new("pack", assembler.package_bytes());
    let padding = vec![0; usize::try_from(rts::BLOCK_BYTES).unwrap_or(0)];
    let mut done = 0_u64;
    // The header is known last.
    output.write(&[0; rts::HEADER_BYTES])?;
    for piece in assembler.pieces() {
        let bytes = match &piece.source {
            Source::Binary => &binary.bytes[..],
            Source::Tensors => &model.bytes,
            Source::Section(name) => sections
                .get(name)
                .map_or(&[][..], |(_, input)| &input.bytes),
            // Padding is always shorter than a block.
            Source::Padding => padding
                .get(..usize::try_from(piece.bytes).unwrap_or(0))
                .unwrap_or(&padding),
        };
        for chunk in bytes.chunks(STEP_BYTES) {
            assembler.feed(chunk).map_err(refused)?;
            output.write(chunk)?;
            done = done.saturating_add(chunk.len() as u64);
            bar.at(done);
        }
    }
    let mut finished = assembler.finish().map_err(refused)?;
    if let Some(key) = key {
        rts::sign(&mut finished.header, &key).map_err(refused)?;
    }
    output.write(&finished.tail)?;
    output.write_at(&finished.header, 0)?;
    output.finish()
}

/// Reads the package back from where it was written, so that what is printed is what is there.
fn report(path: &Path, out: &mut dyn Write) -> Result<(), String> {
    let window = open(path)?;
    let package = Package::parse(&window.bytes).map_err(|error| failure(path, &error))?;
    say(out, format_args!("package {}", path.display()))?;
    say(out, format_args!("bytes {}", package.bytes()))?;
    say(out, format_args!("binary {}", package.binary().len()))?;
    say(out, format_args!("tensors {}", package.tensors().bytes))?;
    for section in package.sections() {
        say(
            out,
            format_args!("section {} {}", section.name, section.bytes),
        )?;
    }
    if let Some(key) = package.key_id() {
        say(out, format_args!("signed-by {key}"))?;
    }
    match package.digest() {
        Some(digest) => say(out, format_args!("digest {digest}")),
        None => Ok(()),
    }
}

/// The package's processor: what `--arch` says, else what the binary is for.
fn machine(words: &Pack, binary: &Input<'_>) -> Result<Machine, String> {
    let asked = words.arch.map(Machine::from);
    if words.unchecked {
        let found = elf::inspect(&binary.bytes).ok().map(|elf| elf.machine);
        return Ok(asked.or(found).unwrap_or(Machine::NATIVE));
    }
    let found = elf::inspect(&binary.bytes).map_err(|error| failure(binary.path, &error))?;
    let machine = asked.unwrap_or(found.machine);
    found
        .check_static(machine)
        .map_err(|error| failure(binary.path, &error))?;
    Ok(machine)
}

fn check_program(words: &Pack, input: &Input<'_>, machine: Machine) -> Result<(), String> {
    if words.unchecked {
        return Ok(());
    }
    let elf = elf::inspect(&input.bytes);
    elf.and_then(|elf| elf.check_static(machine))
        .map_err(|error| failure(input.path, &error))
}

fn added(add: &str) -> Result<(Name, Input<'_>), String> {
    let (name, path) = add
        .split_once('=')
        .ok_or_else(|| format!("--add {add}: expected NAME=FILE"))?;
    let name = Name::new(name)
        .ok_or_else(|| format!("--add {add}: name {name:?}, expected {}", Name::RULE))?;
    Ok((name, Input::open(Path::new(path))?))
}
