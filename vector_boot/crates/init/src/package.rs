//! The package as PID 1 and its helper see it: found, checked, mapped where it lies.
//!
//! PID 1 reads header, manifest and tensor index; every hash over more is the helper's.

use gguf::{Index, Value};
use heapless::Vec as Bounded;
use rts::{Digest, Machine, Manifest, Package, Trust, WindowKind};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt};
use sys::mapping::Mapping;

/// Bytes of a model that are read for its index at first: most tokenizers fit.
const HEAD_BYTES_FIRST: usize = 2 << 20;
/// Executables of a package: `vector_boot`, `vb-services`, and one a service.
const IMAGES_MAX: usize = 2 + rts::manifest::SERVICES_MAX;
/// Longest facts: the manifest is most of them.
const FACTS_BYTES_MAX: u64 = 128 << 10;

/// What PID 1 keeps of a package.
#[derive(Debug)]
pub struct Found {
    /// The device or file.
    pub file: File,
    /// The tensor section, mapped shared and read-only from where it lies.
    pub tensors: Option<Mapping>,
    /// Its manifest; a plain package has none.
    pub manifest: Option<Box<Manifest>>,
    /// Whether it is a plain version 1 package without our extension.
    pub plain: bool,
    /// Whether it lies in memory: a file of the initramfs.
    pub in_memory: bool,
    /// Where each added section begins, as [`open`] found it.
    places: Vec<(String, u64)>,
    /// Where the tensors lie: offset and bytes.
    window: (u64, u64),
    /// Name, bytes and BLAKE3 in hex of the executables: `vector_boot` and the added sections.
    pub images: Vec<(String, u64, String)>,
    /// The key that signed it in hex, if one did.
    pub signer: Option<String>,
    /// The first digits of the digest that `rts pack` printed; empty for a plain package.
    pub digest: String,
    /// What the index found.
    pub model: Model,
    /// Why the tensors are not usable, when they are not.
    pub model_refused: Option<String>,
    /// BLAKE3 of the hashes of the tensor blocks in hex; empty where nobody has asked.
    pub model_digest: String,
}

impl Found {
    /// BLAKE3 of an executable of the package, in hex.
    #[must_use]
    pub fn image(&self, name: &str) -> Option<&str> {
        let (_, _, hex) = self.images.iter().find(|(n, _, _)| n == name)?;
        Some(hex)
    }

    /// How long it is.
    #[must_use]
    pub fn image_bytes(&self, name: &str) -> Option<u64> {
        let (_, bytes, _) = self.images.iter().find(|(n, _, _)| n == name)?;
        Some(*bytes)
    }

    /// The key that signed it in hex; empty if none did.
    #[must_use]
    pub fn signer(&self) -> &str {
        self.signer.as_deref().unwrap_or_default()
    }
}

/// The model at a glance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    /// `general.name`, else the architecture, else `unnamed`.
    pub name: String,
    /// Tensors.
    pub tensors: u32,
    /// Bytes of the section.
    pub bytes: u64,
}

/// What [`inspect`] found, from the helper to PID 1.
#[derive(Debug, Serialize, Deserialize)]
struct Facts<'a> {
    #[serde(borrow)]
    manifest: &'a [u8],
    #[serde(borrow)]
    images: Bounded<(&'a str, u64, &'a str), IMAGES_MAX>,
    signer: Option<&'a str>,
    digest: &'a str,
    model_name: &'a str,
    tensors: u32,
    tensors_at: u64,
    tensor_bytes: u64,
    model_digest: &'a str,
}

/// Reads what PID 1 must know of a package before it takes the place of another, into sealed memory: the page
/// cache may drop what was read, and PID 1 waits for no disk.
///
/// # Errors
/// One sentence naming field, value and limit.
pub fn inspect(file: File, trust: &Trust) -> Result<OwnedFd, String> {
    let mut found = open(file, trust)?;
    found.map_model();
    let whole = Mapping::of_whole_fd(&found.file).map_err(|e| format!("map the package: {e}"))?;
    let package = Package::parse(&whole).map_err(|e| e.to_string())?;
    if found.plain {
        return Err("package: plain, limit one with hashes and a manifest".to_owned());
    }
    if let Some(refused) = &found.model_refused {
        return Err(format!("model: {refused}"));
    }
    fetch_behind_tensors(&whole, &package)?;
    let blocks = package.blocks().map_err(|e| e.to_string())?;
    let window = package.tensors();
    let digests: Vec<u8> = blocks
        .tensor_blocks()
        .filter_map(|block| blocks.expected(block))
        .flat_map(|digest| digest.0)
        .collect();
    let model_digest = Digest::of(&digests).to_string();
    let facts = Facts {
        manifest: package.manifest_bytes(),
        images: found
            .images
            .iter()
            .map(|(name, bytes, hex)| (name.as_str(), *bytes, hex.as_str()))
            .take(IMAGES_MAX)
            .collect(),
        signer: found.signer.as_deref(),
        digest: &found.digest,
        model_name: &found.model.name,
        tensors: found.model.tensors,
        tensors_at: window.offset,
        tensor_bytes: window.bytes,
        model_digest: &model_digest,
    };
    let mut bytes = vec![0; FACTS_BYTES_MAX as usize];
    let used = postcard::to_slice(&facts, &mut bytes)
        .map_err(|e| format!("facts over {FACTS_BYTES_MAX} bytes: {e}"))?;
    sys::memfd::sealed("facts", used).map_err(|e| format!("facts: {e}"))
}

impl Found {
    /// The package behind `file`, of which the helper found this.
    ///
    /// # Errors
    /// What of it does not hold.
    pub fn of_facts(file: File, facts: &File) -> Result<Self, String> {
        let bytes =
            sys::memfd::read_small(facts, FACTS_BYTES_MAX).map_err(|e| format!("facts: {e}"))?;
        let facts: Facts<'_> = postcard::from_bytes(&bytes).map_err(|e| format!("facts: {e}"))?;
        let manifest = Manifest::decode(facts.manifest).map_err(|e| format!("manifest: {e}"))?;
        let length = usize::try_from(facts.tensor_bytes)
            .map_err(|_| format!("tensor_size: {} bytes", facts.tensor_bytes))?;
        let tensors = Mapping::of_fd(&file, facts.tensors_at, length)
            .map_err(|e| format!("map the tensors: {e}"))?;
        Ok(Self {
            file,
            tensors: Some(tensors),
            manifest: Some(Box::new(manifest)),
            plain: false,
            images: facts
                .images
                .iter()
                .map(|(name, bytes, hex)| ((*name).to_owned(), *bytes, (*hex).to_owned()))
                .collect(),
            signer: facts.signer.map(str::to_owned),
            digest: facts.digest.to_owned(),
            model: Model {
                name: facts.model_name.to_owned(),
                tensors: facts.tensors,
                bytes: facts.tensor_bytes,
            },
            model_refused: None,
            in_memory: false,
            places: Vec::new(),
            window: (facts.tensors_at, facts.tensor_bytes),
            model_digest: facts.model_digest.to_owned(),
        })
    }
}

/// Checks a package eagerly, but for hashes and the model, which [`Found::map_model`] looks at.
///
/// # Errors
/// One sentence naming field, value and limit.
pub fn open(file: File, trust: &Trust) -> Result<Found, String> {
    open_with(file, trust, |window| Package::parse(window))
}

/// As [`open`], for whoever has another manifest: of the package's only the hash is looked at.
///
/// # Errors
/// As [`open`].
pub fn open_unread(file: File, trust: &Trust) -> Result<Found, String> {
    open_with(file, trust, |window| Package::parse_unread(window))
}

fn open_with(
    file: File,
    trust: &Trust,
    parse: for<'a> fn(&'a [u8]) -> Result<Package<'a>, rts::RtsError>,
) -> Result<Found, String> {
    let whole = Mapping::of_whole_fd(&file).map_err(|e| format!("map the package: {e}"))?;
    fetch(&whole, "header", 0..rts::HEADER_BYTES)?;
    // Whose it is and for what, before anything behind the header is parsed.
    let mut signer = None;
    if let Some(header) = whole.first_chunk() {
        signer = trust.check(header).map_err(|e| e.to_string())?;
        rts::check_machine(header, Machine::NATIVE).map_err(|e| e.to_string())?;
        if let Some(parts) = Package::eager_range(header) {
            fetch(&whole, "table and manifest", in_memory(parts))?;
        }
    }
    let package = parse(&whole).map_err(|e| e.to_string())?;
    let window = package.tensors();
    let places = package
        .sections()
        .map(|s| (s.name.as_str().to_owned(), s.offset))
        .collect();
    let mut images: Vec<(String, u64, String)> = package
        .sections()
        .map(|s| (s.name.as_str().to_owned(), s.bytes, s.blake3.to_string()))
        .collect();
    if let Some(digest) = package.binary_blake3() {
        let bytes = package.binary().len() as u64;
        images.push(("vector_boot".to_owned(), bytes, digest.to_string()));
    }
    let digest = package
        .digest()
        .map_or_else(String::new, |d| d.to_string().chars().take(16).collect());
    let plain = package.is_plain();
    let signer = signer.map(|key| key.to_string());
    let manifest = package.into_manifest().map(Box::new);
    drop(whole);
    Ok(Found {
        file,
        in_memory: false,
        places,
        window: (window.offset, window.bytes),
        tensors: None,
        manifest,
        plain,
        images,
        signer,
        digest,
        model: Model::default(),
        model_refused: None,
        model_digest: String::new(),
    })
}

impl Found {
    /// Maps the tensors where they lie and reads the model's index.
    pub fn map_model(&mut self) {
        let (offset, bytes) = self.window;
        self.model.bytes = bytes;
        let mapped = usize::try_from(bytes)
            .map_err(|_| format!("tensor_size: {bytes} bytes"))
            .and_then(|length| {
                Mapping::of_fd(&self.file, offset, length)
                    .map_err(|e| format!("map the tensors: {e}"))
            });
        let described = mapped.and_then(|tensors| {
            let model = describe(&tensors);
            self.tensors = Some(tensors);
            model
        });
        match described {
            Ok(model) => self.model = model,
            Err(e) => self.model_refused = Some(e),
        }
    }

    /// The tensors, once what PID 1 reads of them is in memory; `None` without a model to go by.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn system_tensors(&self) -> Result<Option<&[u8]>, String> {
        let tensors = self.tensors.as_ref();
        let Some(tensors) = tensors.filter(|_| self.model_refused.is_none()) else {
            return Ok(None);
        };
        // Pages that were read at the boot may have been taken back since.
        describe(tensors)?;
        let index = Index::parse(tensors).map_err(|e| e.to_string())?;
        let policy = wire::evolution::generation::POLICY;
        let names = SYSTEM_TENSORS
            .into_iter()
            .chain(policy.map(|(name, _)| name));
        for tensor in names.filter_map(|name| index.tensor(name)) {
            if tensor.bytes <= SYSTEM_TENSOR_BYTES_MAX {
                let range = in_memory(tensor.offset..tensor.offset.saturating_add(tensor.bytes));
                fetch(tensors, tensor.name, range)?;
            }
        }
        Ok(Some(&tensors[..]))
    }
}

/// Tensors that PID 1 itself reads, beside those of the policy.
const SYSTEM_TENSORS: [&str; 3] = ["hw.mmio", "kernel.limits", "kernel.interrupts"];
/// A longer one has a shape that is refused before a value is read; the longest of them is `policy.w1`.
const SYSTEM_TENSOR_BYTES_MAX: u64 = 8192;

/// Reads what will be looked at: a bad sector is a refusal, not the end of PID 1.
fn fetch(whole: &Mapping, what: &str, range: Range<usize>) -> Result<(), String> {
    whole
        .populate(range)
        .map_err(|e| format!("read the package's {what}: {e}"))
}

/// The header, and what of the package is parsed with it, of a package that was looked at before.
fn fetch_eager_parts(whole: &Mapping) -> Result<(), String> {
    fetch(whole, "header", 0..rts::HEADER_BYTES)?;
    match whole.first_chunk().and_then(Package::eager_range) {
        Some(parts) => fetch(whole, "table and manifest", in_memory(parts)),
        None => Ok(()),
    }
}

fn in_memory(range: Range<u64>) -> Range<usize> {
    let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
    at(range.start)..at(range.end)
}

/// Reads all but the tensors.
fn fetch_outside_tensors(whole: &Mapping, package: &Package<'_>) -> Result<(), String> {
    let before = in_memory(0..package.tensors().offset);
    fetch(whole, "part before its tensors", before)?;
    fetch_behind_tensors(whole, package)
}

/// Reads what lies behind the tensors, the list of blocks among it.
fn fetch_behind_tensors(whole: &Mapping, package: &Package<'_>) -> Result<(), String> {
    let window = package.tensors();
    let end = window.offset.saturating_add(window.bytes);
    let behind = in_memory(end..package.bytes());
    fetch(whole, "part behind its tensors", behind)
}

/// Reads the head of the tensor section until the index fits in it, and describes the model.
fn describe(tensors: &Mapping) -> Result<Model, String> {
    let total = tensors.len() as u64;
    let most = tensors
        .len()
        .min(usize::try_from(gguf::HEADER_BYTES_MAX).unwrap_or(usize::MAX));
    let mut head_bytes = most.min(HEAD_BYTES_FIRST);
    loop {
        tensors
            .populate(0..head_bytes)
            .map_err(|e| format!("read the first {head_bytes} bytes: {e}"))?;
        let head = tensors.get(..head_bytes).unwrap_or_default();
        match Index::parse_head(head, total) {
            Ok(index) => return Ok(describe_index(&index, total)),
            // Its header may be longer than what was read so far.
            Err(_) if head_bytes < most => head_bytes = head_bytes.saturating_mul(4).min(most),
            Err(e) => return Err(e.to_string()),
        }
    }
}

fn describe_index(index: &Index<'_>, bytes: u64) -> Model {
    let text = |key: &str| match index.get(key) {
        Some(Value::String(text)) => {
            let text = String::from_utf8_lossy(text.as_bytes());
            Some(
                text.chars()
                    .filter(|c| !c.is_control())
                    .take(64)
                    .collect::<String>(),
            )
            .filter(|t| !t.is_empty())
        }
        _ => None,
    };
    Model {
        name: text("general.name")
            .or_else(|| text("general.architecture"))
            .unwrap_or_else(|| "unnamed".to_owned()),
        tensors: u32::try_from(index.tensor_count()).unwrap_or(u32::MAX),
        bytes,
    }
}

/// Bytes of a package that was looked at before.
///
/// # Errors
/// What is wrong, naming field, value and limit.
pub fn bytes(file: &File) -> Result<u64, String> {
    let whole = Mapping::of_whole_fd(file).map_err(|e| format!("map the package: {e}"))?;
    fetch_eager_parts(&whole)?;
    Ok(Package::parse(&whole).map_err(|e| e.to_string())?.bytes())
}

fn kind_of(file: &File) -> WindowKind {
    let block = file
        .metadata()
        .is_ok_and(|m| m.file_type().is_block_device());
    if block {
        WindowKind::Device
    } else {
        WindowKind::File
    }
}

/// Hashes everything outside the tensors; answers the bytes looked at.
///
/// # Errors
/// What is wrong, naming field, value and limit.
pub fn verify(file: &File, step_bytes: usize) -> Result<u64, String> {
    let whole = Mapping::of_whole_fd(file).map_err(|e| format!("map the package: {e}"))?;
    fetch_eager_parts(&whole)?;
    let package = Package::parse(&whole).map_err(|e| e.to_string())?;
    fetch_outside_tensors(&whole, &package)?;
    let mut check = package
        .verification(kind_of(file))
        .map_err(|e| e.to_string())?;
    loop {
        let progress = check.step(step_bytes).map_err(|e| e.to_string())?;
        if progress.is_finished() {
            return Ok(progress.total);
        }
    }
}

/// Copies an executable section into a sealed memfd, after its hash held.
///
/// # Errors
/// What is wrong, naming field, value and limit.
pub fn load(file: &File, name: &str, expected: &str) -> Result<(u64, OwnedFd), String> {
    let whole = Mapping::of_whole_fd(file).map_err(|e| format!("map the package: {e}"))?;
    fetch_eager_parts(&whole)?;
    if name == "vector_boot" {
        let held = load_binary(file, expected)?;
        return Ok((0, held));
    }
    let package = Package::parse(&whole).map_err(|e| e.to_string())?;
    let section = package
        .section(name)
        .ok_or_else(|| format!("section {name}: not in the package"))?;
    whole
        .populate(in_memory(section.offset..section.end()))
        .map_err(|e| format!("section {name}: read: {e}"))?;
    let held = copy_sealed(name, package.section_bytes(&section), expected)
        .map_err(|e| format!("section {name}: {e}"))?;
    Ok((section.bytes, held))
}

/// Copies a section of a package that lies in memory, as [`load`] does, by what [`open`] read: nothing is parsed
/// again.
///
/// # Errors
/// What is wrong, naming field, value and limit.
pub fn load_from_memory(found: &Found, name: &str) -> Result<OwnedFd, String> {
    let failed = |what: &str, e: std::io::Error| format!("section {name}: {what}: {e}");
    let place = found.places.iter().find(|(n, _)| n == name);
    let (Some((_, at)), Some(bytes), Some(expected)) =
        (place, found.image_bytes(name), found.image(name))
    else {
        return Err(format!("section {name}: not in the package"));
    };
    let mut content = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
    found
        .file
        .read_exact_at(&mut content, *at)
        .map_err(|e| failed("read", e))?;
    // What is hashed here is what is written, and nobody else holds either.
    let hash = Digest::of(&content).to_string();
    if hash != expected {
        return Err(format!(
            "section {name}: blake3 {hash}, expected {expected}"
        ));
    }
    let held = sys::memfd::sealed(name, &content).map_err(|e| failed("copy", e))?;
    sys::memfd::reopen(&File::from(held)).map_err(|e| failed("open", e))
}

/// Copies the package's `vector_boot` into a sealed memfd, after its hash held and its program is one that
/// this machine can run.
///
/// # Errors
/// What is wrong, naming field, value and limit.
pub fn load_binary(file: &File, expected: &str) -> Result<OwnedFd, String> {
    let whole = Mapping::of_whole_fd(file).map_err(|e| format!("map the package: {e}"))?;
    let package = Package::parse(&whole).map_err(|e| e.to_string())?;
    fetch(&whole, "binary", in_memory(package.binary_range()))?;
    let copy = copy_sealed("vector_boot", package.binary(), expected)?;
    let held = Mapping::of_whole_fd(&copy).map_err(|e| format!("map: {e}"))?;
    rts::elf::inspect(&held)
        .and_then(|elf| elf.check_static(Machine::NATIVE))
        .map_err(|e| e.to_string())?;
    Ok(copy)
}

/// A sealed copy, hashed after it was made: what was checked is what runs. `expected` is what [`open`] read when
/// the package was taken, in hex: whatever the disk says now, nothing else comes in.
fn copy_sealed(name: &str, bytes: &[u8], expected: &str) -> Result<OwnedFd, String> {
    let copy = || -> std::io::Result<File> {
        let mut copy = sys::memfd::create(name)?;
        copy.write_all(bytes)?;
        copy.seek(SeekFrom::Start(0))?;
        sys::memfd::seal(&copy)?;
        Ok(copy)
    };
    let copy = copy().map_err(|e| format!("copy of {} bytes: {e}", bytes.len()))?;
    let held = Mapping::of_whole_fd(&copy).map_err(|e| format!("map: {e}"))?;
    let found = Digest::of(&held).to_string();
    if found != expected {
        return Err(format!("blake3 {found}, expected {expected}"));
    }
    // What is open for writing, if only in name, some kernels do not execute.
    Ok(sys::memfd::reopen(&copy).unwrap_or_else(|_| copy.into()))
}

/// Why a scrub stopped.
#[derive(Debug, PartialEq, Eq)]
pub struct Damage {
    /// What is wrong, naming block, offset and tensors.
    pub text: String,
    /// Blocks looked at, the damaged one among them; 0 where none could be looked at.
    pub looked: u64,
}

/// Hashes `count` tensor blocks from `first` on; answers how many held.
///
/// # Errors
/// The first block that does not hold, or cannot be read.
pub fn scrub(file: &File, first: u64, count: u32) -> Result<u64, Damage> {
    let whole = |text: String| Damage { text, looked: 0 };
    let map = Mapping::of_whole_fd(file).map_err(|e| whole(format!("map the package: {e}")))?;
    fetch_eager_parts(&map).map_err(whole)?;
    let package = Package::parse(&map).map_err(|e| whole(e.to_string()))?;
    if package.is_plain() {
        return Ok(0);
    }
    fetch_behind_tensors(&map, &package).map_err(whole)?;
    let blocks = package.blocks().map_err(|e| whole(e.to_string()))?;
    let range = blocks.tensor_blocks();
    let mut held = 0;
    for block in range
        .skip(usize::try_from(first).unwrap_or(usize::MAX))
        .take(count as usize)
    {
        let at = block.saturating_mul(rts::BLOCK_BYTES);
        let bytes = at..at.saturating_add(rts::BLOCK_BYTES);
        // A sector that cannot be read is said, and is no SIGBUS of the helper.
        let read = map.populate(in_memory(bytes.clone()));
        let wrong = match read {
            Err(e) => Some(format!("block {block} at byte {at}: read: {e}")),
            Ok(()) => blocks.verify_block(block).err().map(|e| e.to_string()),
        };
        if let Some(wrong) = wrong {
            let tensors = tensors_in(&map, &package, bytes);
            return Err(Damage {
                text: format!("{wrong}; {tensors}"),
                looked: held + 1,
            });
        }
        held += 1;
    }
    Ok(held)
}

/// What of the model lies in a range of the package, by name.
fn tensors_in(map: &Mapping, package: &Package<'_>, bytes: Range<u64>) -> String {
    let window = package.tensors();
    let end = window.offset.saturating_add(window.bytes);
    let head_end = window
        .offset
        .saturating_add(gguf::HEADER_BYTES_MAX)
        .min(end);
    let head = in_memory(window.offset..head_end);
    if let Err(e) = map.populate(head.clone()) {
        return format!("which tensor is not known: read the index: {e}");
    }
    let head = map.get(head).unwrap_or_default();
    let model = match Index::parse_head(head, window.bytes) {
        Ok(model) => model,
        Err(e) => return format!("which tensor is not known: {e}"),
    };
    let mut text = String::new();
    let mut more = 0;
    for tensor in model.tensors() {
        let from = window.offset.saturating_add(tensor.offset);
        let to = from.saturating_add(tensor.bytes);
        if to <= bytes.start || from >= bytes.end {
            continue;
        }
        if !text.is_empty() {
            more += 1;
            continue;
        }
        let first = bytes.start.max(from) - from;
        let last = bytes.end.min(to) - from;
        text = format!("tensor {} bytes {first} to {last}", shown(tensor.name));
    }
    match (text.is_empty(), more) {
        (true, _) => "the model's header".to_owned(),
        (false, 0) => text,
        (false, more) => format!("{text} and {more} more"),
    }
}

/// A tensor's name, which is the package's maker's, for one line of a terminal.
fn shown(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(64)
        .collect()
}

/// Another handle of the package, to send to the helper.
///
/// # Errors
/// As `dup(2)`.
pub fn handle(found: &Found) -> std::io::Result<OwnedFd> {
    found.file.as_fd().try_clone_to_owned()
}
