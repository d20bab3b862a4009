//! What PID 1 holds before its package counts, and how one PID 1 hands it to the next over exec.
//!
//! Owns the record (`docs/handover.md`): a sealed memory file at a fixed descriptor number, versioned, that names
//! the descriptors behind it. A successor of another version is found out before exec, by asking it ([`main`]).
//! What lives is in the state memfd, which goes along from the first turn of the loop on.
//! Must never: take a record that is not whole. Start with [`Holdings`].

use crate::early::{Initramfs, KEYS_MAX, Report};
use crate::package::Model;
use crate::params::CommandLine;
use crate::state::State;
use heapless::Vec as Bounded;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use sys::handover::{LastWords, Next};

/// What a record begins with, the version of what follows behind it.
const MAGIC: [u8; 8] = *b"VBHANDOV";
/// Versions are not compatible: the first PID 1 asks before it hands over.
const VERSION: u16 = 4;
/// Longest record: a manifest is the most of it (80 KiB), then keys.
const RECORD_BYTES_MAX: usize = 256 * 1024;
/// A trusted key is one line of 83 bytes; what is longer is no key, and is told by its beginning.
const KEY_BYTES_MAX: usize = 256;
/// Complaints of the first PID 1: mounts, modules, parameters.
const COMPLAINTS_MAX: usize = 64;
/// Lines of `/digests`: two executables.
const DIGESTS_MAX: usize = 8;
/// Executables of two packages.
const IMAGES_MAX: usize = crate::resume::IMAGES_MAX;
/// Services of both packages.
const STOPPED_MAX: usize = crate::supervisor::UNITS_MAX;
/// Names of [`Holdings::descriptors`].
const DESCRIPTORS_MAX: usize = 9;
/// Bytes of last words that are kept: one line.
const WORDS_BYTES_MAX: usize = 200;

/// The word of [`main`], and what it answers first.
pub const WORD: &str = "handover";

/// The word with which an ordinary process goes on after its crash.
pub const RESUME: &str = "--resume";

/// An upgrade that goes on in the PID 1 that is handed over to.
#[derive(Debug)]
pub struct Passage {
    /// The package that everything is to be of, and where it lay.
    pub goal: (File, String),
    /// The program that was given up, and which it is.
    pub left: (OwnedFd, Running),
    /// The package that runs where the way back leads, and where it lay.
    pub back: (File, String),
    /// Facts that no descriptor holds.
    pub facts: PassageFacts,
}

/// What of a [`Passage`] is no descriptor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassageFacts {
    /// Whether the package is to be kept.
    pub keep: bool,
    /// Why it leads back; empty on the way on, and where a crash led back.
    pub reason: String,
    /// Services that did not run when it began: they are not started by a way back.
    pub stopped: Vec<String>,
}

/// Upgrades of this boot that came to their end, as far as the next image is to know of them.
#[derive(Debug, Default)]
pub struct Past {
    /// How many.
    pub count: u32,
    /// Digest of the package that the next boot finds, where that is known.
    pub on_device: Option<String>,
    /// The device that it lies on.
    pub device: Option<String>,
    /// Whether the package that runs is being written to it.
    pub keeping: bool,
    /// BLAKE3 of the executables in hand, by their place in the table: what is the same need not be replaced.
    pub images: Vec<String>,
    /// The package that `rollback` goes to, and what it is called.
    pub before: Option<(File, String)>,
}

/// The same in a [`Record`].
#[derive(Debug, Serialize, Deserialize)]
struct PastRow<'a> {
    count: u32,
    on_device: Option<&'a str>,
    device: Option<&'a str>,
    keeping: bool,
    #[serde(borrow)]
    images: Bounded<&'a str, IMAGES_MAX>,
    before_name: &'a str,
}

impl Past {
    /// As `dup(2)`.
    fn try_clone(&self) -> io::Result<Self> {
        let before = self.before.as_ref();
        let before =
            before.map(|(file, name)| Ok::<_, io::Error>((file.try_clone()?, name.clone())));
        Ok(Self {
            count: self.count,
            on_device: self.on_device.clone(),
            device: self.device.clone(),
            keeping: self.keeping,
            images: self.images.clone(),
            before: before.transpose()?,
        })
    }

    fn row(&self) -> PastRow<'_> {
        PastRow {
            count: self.count,
            on_device: self.on_device.as_deref(),
            device: self.device.as_deref(),
            keeping: self.keeping,
            images: first(self.images.iter().map(String::as_str)),
            before_name: self.before.as_ref().map_or("", |(_, name)| name),
        }
    }

    fn of(row: &PastRow<'_>, before: Option<OwnedFd>) -> Self {
        Self {
            count: row.count,
            on_device: row.on_device.map(str::to_owned),
            device: row.device.map(str::to_owned),
            keeping: row.keeping,
            images: row.images.iter().map(|hex| (*hex).to_owned()).collect(),
            before: before.map(|fd| (fd.into(), row.before_name.to_owned())),
        }
    }
}

/// The same in a [`Record`].
#[derive(Debug, Serialize, Deserialize)]
struct PassageRow<'a> {
    keep: bool,
    reason: &'a str,
    #[serde(borrow)]
    stopped: Bounded<&'a str, STOPPED_MAX>,
    left_digest: &'a str,
    left_from: &'a str,
    goal_place: &'a str,
    back_place: &'a str,
}

impl Passage {
    /// As `dup(2)`.
    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            goal: (self.goal.0.try_clone()?, self.goal.1.clone()),
            left: (self.left.0.try_clone()?, self.left.1.clone()),
            back: (self.back.0.try_clone()?, self.back.1.clone()),
            facts: self.facts.clone(),
        })
    }

    fn row(&self) -> PassageRow<'_> {
        let facts = &self.facts;
        PassageRow {
            keep: facts.keep,
            reason: &facts.reason,
            stopped: first(facts.stopped.iter().map(String::as_str)),
            left_digest: &self.left.1.digest,
            left_from: &self.left.1.from,
            goal_place: &self.goal.1,
            back_place: &self.back.1,
        }
    }

    fn of(row: PassageRow<'_>, mut fd: impl FnMut(&str) -> Option<OwnedFd>) -> Option<Self> {
        let left = Running {
            digest: row.left_digest.to_owned(),
            from: row.left_from.to_owned(),
        };
        Some(Self {
            goal: (fd("goal")?.into(), row.goal_place.to_owned()),
            left: (fd("left")?, left),
            back: (fd("back")?.into(), row.back_place.to_owned()),
            facts: PassageFacts {
                keep: row.keep,
                reason: row.reason.to_owned(),
                stopped: row.stopped.iter().map(|name| (*name).to_owned()).collect(),
            },
        })
    }
}

/// Who started this PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// The kernel; of an ordinary process, a person.
    First,
    /// The initramfs's `vector_boot`, because the package brings another.
    Package,
    /// The package's `vector_boot`, by crashing within its first beats.
    Fallback,
    /// Itself, by crashing: services live on.
    Crash,
    /// Another program, which was asked to give way: services live on.
    Upgrade,
    /// The program that an upgrade brought, which gives way to the one before: services live on.
    Rollback,
}

impl Cause {
    /// Whether the state memfd goes along, and services live on.
    #[must_use]
    pub fn resumes(self) -> bool {
        matches!(self, Self::Crash | Self::Upgrade | Self::Rollback)
    }
}

/// What the boot found out, which a PID 1 that goes on does not find out again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// The manifest in force, compiled.
    pub manifest: Vec<u8>,
    /// The package in one line, for `status`.
    pub package_name: String,
    /// What its index says.
    pub model: Model,
    /// The host's name.
    pub hostname: String,
    /// Whether there is a package.
    pub found: bool,
}

/// Which executable runs as PID 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Running {
    /// BLAKE3 in hex; empty where nobody has said.
    pub digest: String,
    /// Where it lay: `initramfs`, `package DEVICE`, or `file`.
    pub from: String,
}

/// What PID 1 holds before its package counts.
#[derive(Debug)]
pub struct Holdings {
    /// Who started us.
    pub cause: Cause,
    /// What runs, or is to run: always [`Initramfs::vector_boot`].
    pub running: Running,
    /// Whether a trusted key binds the command line.
    pub hand: CommandLine,
    /// When the kernel handed over to the first PID 1.
    pub handoff_ns: u64,
    /// When the PID 1 before us left; 0 if there was none.
    pub left_ns: u64,
    /// The serial console's terminal.
    pub terminal: String,
    /// What happened so far.
    pub report: Report,
    /// What the initramfs held.
    pub initramfs: Initramfs,
    /// The initramfs's own `vector_boot` and its digest, where another one runs.
    pub own: Option<(OwnedFd, String)>,
    /// The package that was found, and where.
    pub package: Option<(File, String)>,
    /// Why the PID 1 before us crashed, if it did.
    pub last_words: String,
    /// What the boot found out; empty before it did.
    pub standing: Standing,
    /// What came along of the PID 1 before us.
    pub along: Option<Along>,
    /// The upgrade that is under way over the exec.
    pub passage: Option<Passage>,
    /// The way back from an upgrade in which PID 1 stays the same program: what a crash in it leads to.
    pub retreat: Option<Passage>,
    /// The upgrades before it.
    pub past: Past,
}

/// What a PID 1 that goes on finds beside the record's content.
#[derive(Debug)]
pub struct Along {
    /// What is said to be the state memfd.
    state: Option<OwnedFd>,
    /// The record itself and its descriptors: the next crash hands on the very same.
    record: (OwnedFd, Vec<OwnedFd>),
    /// Where the next crash leaves its last words.
    last_words: OwnedFd,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record<'a> {
    cause: Cause,
    digest: &'a str,
    from: &'a str,
    own_digest: &'a str,
    place: &'a str,
    bound: bool,
    handoff_ns: u64,
    left_ns: u64,
    terminal: &'a str,
    mounted_ns: u64,
    modules_ns: u64,
    modules: u32,
    #[serde(borrow)]
    complaints: Bounded<&'a str, COMPLAINTS_MAX>,
    #[serde(borrow)]
    digests: Bounded<(&'a str, &'a str), DIGESTS_MAX>,
    #[serde(borrow)]
    keys: Bounded<&'a [u8], KEYS_MAX>,
    manifest: Option<&'a [u8]>,
    in_force: &'a [u8],
    package_name: &'a str,
    hostname: &'a str,
    found: bool,
    model_name: &'a str,
    tensors: u32,
    tensor_bytes: u64,
    #[serde(borrow)]
    past: PastRow<'a>,
    #[serde(borrow)]
    passage: Option<PassageRow<'a>>,
    #[serde(borrow)]
    descriptors: Bounded<&'a str, DESCRIPTORS_MAX>,
}

impl Holdings {
    /// Takes what the PID 1 before us left; `None` if there was none.
    ///
    /// # Errors
    /// What is wrong with the record.
    pub fn take() -> Option<Result<Self, String>> {
        let taken = sys::handover::take()?;
        let bytes = sys::memfd::read_small(&taken.record, RECORD_BYTES_MAX as u64);
        Some(match bytes {
            Ok(bytes) => Self::take_all(&bytes, taken),
            Err(e) => Err(format!("handover: record: {e}")),
        })
    }

    fn take_all(bytes: &[u8], taken: sys::handover::Taken) -> Result<Self, String> {
        let copies: io::Result<Vec<OwnedFd>> =
            taken.descriptors.iter().map(OwnedFd::try_clone).collect();
        let copies = copies.map_err(|e| format!("handover: descriptors: {e}"))?;
        let mut held = Self::decode(bytes, copies)?;
        if let Some(state) = taken.state
            && held.cause.resumes()
            && let Some(Ok(last_words)) = taken.descriptors.last().map(OwnedFd::try_clone)
        {
            let record = (taken.record.into(), taken.descriptors);
            held.along = Some(Along {
                state: Some(state),
                record,
                last_words,
            });
        }
        Ok(held)
    }

    fn decode(bytes: &[u8], descriptors: Vec<OwnedFd>) -> Result<Self, String> {
        let wrong = |what: &str| format!("handover: {what}");
        let body = bytes
            .strip_prefix(&MAGIC)
            .ok_or_else(|| wrong("magic: not a record"))?;
        let (version, body) = body
            .split_first_chunk()
            .ok_or_else(|| wrong("version: none"))?;
        let version = u16::from_le_bytes(*version);
        if version != VERSION {
            return Err(wrong(&format!("version: {version}, limit {VERSION}")));
        }
        let (record, rest) = postcard::take_from_bytes::<Record<'_>>(body)
            .map_err(|e| wrong(&format!("record of {} bytes: {e}", bytes.len())))?;
        if !rest.is_empty() || record.descriptors.len() != descriptors.len() {
            return Err(wrong(&format!(
                "{} bytes and {} descriptors too many or few, limit the record's own",
                rest.len(),
                descriptors.len().abs_diff(record.descriptors.len())
            )));
        }
        let mut named: Vec<(&str, OwnedFd)> = record
            .descriptors
            .iter()
            .copied()
            .zip(descriptors)
            .collect();
        let mut fd = |name: &str| {
            let at = named.iter().position(|(n, _)| *n == name)?;
            Some(named.swap_remove(at).1)
        };
        let initramfs = Initramfs {
            vector_boot: fd("vector_boot"),
            services: fd("vb-services"),
            package: None,
            digests: record
                .digests
                .iter()
                .map(|(name, hex)| ((*name).to_owned(), (*hex).to_owned()))
                .collect(),
            keys: record.keys.iter().map(|k| k.to_vec()).collect(),
            manifest: record.manifest.map(<[u8]>::to_vec),
        };
        let last = fd("last-words").map(|fd| LastWords::read(&fd.into()));
        let last_words = last.as_ref().map_or_else(String::new, words_of);
        let passage = record.passage.map(|row| {
            Passage::of(row, &mut fd).ok_or_else(|| wrong("passage: without its descriptors"))
        });
        let passage = passage.transpose()?;
        let left_ns = last.map_or(0, |words| words.at_ns).max(record.left_ns);
        Ok(Self {
            cause: record.cause,
            running: Running {
                digest: record.digest.to_owned(),
                from: record.from.to_owned(),
            },
            hand: if record.bound {
                CommandLine::Tightens
            } else {
                CommandLine::Wins
            },
            handoff_ns: record.handoff_ns,
            left_ns,
            terminal: record.terminal.to_owned(),
            report: Report {
                complaints: record.complaints.iter().map(|c| (*c).to_owned()).collect(),
                modules: usize::try_from(record.modules).unwrap_or(0),
                mounted_ns: record.mounted_ns,
                modules_ns: record.modules_ns,
            },
            initramfs,
            own: fd("initramfs").map(|fd| (fd, record.own_digest.to_owned())),
            package: fd("package").map(|fd| (fd.into(), record.place.to_owned())),
            last_words,
            standing: Standing {
                manifest: record.in_force.to_vec(),
                package_name: record.package_name.to_owned(),
                model: Model {
                    name: record.model_name.to_owned(),
                    tensors: record.tensors,
                    bytes: record.tensor_bytes,
                },
                hostname: record.hostname.to_owned(),
                found: record.found,
            },
            along: None,
            passage,
            retreat: None,
            past: Past::of(&record.past, fd("before")),
        })
    }

    /// What is said to be the state memfd, once.
    pub fn take_state(&mut self) -> Option<OwnedFd> {
        self.along.as_mut()?.state.take()
    }

    /// The record for a successor, and its descriptors in their order.
    fn encode(&self, last_words: Option<BorrowedFd<'_>>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut names = Bounded::new();
        let mut descriptors = Vec::new();
        let all = [
            (
                "vector_boot",
                self.initramfs.vector_boot.as_ref().map(AsFd::as_fd),
            ),
            (
                "vb-services",
                self.initramfs.services.as_ref().map(AsFd::as_fd),
            ),
            ("initramfs", self.own.as_ref().map(|(fd, _)| fd.as_fd())),
            (
                "package",
                self.package.as_ref().map(|(file, _)| file.as_fd()),
            ),
            ("last-words", last_words),
        ];
        let passage = self.passage.as_ref();
        let of_upgrades = [
            ("goal", passage.map(|p| p.goal.0.as_fd())),
            ("left", passage.map(|p| p.left.0.as_fd())),
            ("back", passage.map(|p| p.back.0.as_fd())),
            (
                "before",
                self.past.before.as_ref().map(|(file, _)| file.as_fd()),
            ),
        ];
        // The last words stay last: a PID 1 that goes on finds them there.
        for (name, fd) in of_upgrades.into_iter().chain(all) {
            if let Some(fd) = fd {
                descriptors.push(fd.try_clone_to_owned()?);
                // There are fewer names than places.
                let _ = names.push(name);
            }
        }
        let record = Record {
            cause: self.cause,
            digest: &self.running.digest,
            from: &self.running.from,
            own_digest: self.own.as_ref().map_or("", |(_, digest)| digest),
            place: self.package.as_ref().map_or("", |(_, place)| place),
            bound: self.hand == CommandLine::Tightens,
            handoff_ns: self.handoff_ns,
            left_ns: self.left_ns,
            terminal: &self.terminal,
            mounted_ns: self.report.mounted_ns,
            modules_ns: self.report.modules_ns,
            modules: u32::try_from(self.report.modules).unwrap_or(u32::MAX),
            complaints: first(self.report.complaints.iter().map(String::as_str)),
            digests: first(
                self.initramfs
                    .digests
                    .iter()
                    .map(|(name, hex)| (name.as_str(), hex.as_str())),
            ),
            keys: first(
                self.initramfs
                    .keys
                    .iter()
                    .map(|k| k.get(..KEY_BYTES_MAX).unwrap_or(k)),
            ),
            manifest: self.initramfs.manifest.as_deref(),
            in_force: &self.standing.manifest,
            package_name: &self.standing.package_name,
            hostname: &self.standing.hostname,
            found: self.standing.found,
            model_name: &self.standing.model.name,
            tensors: self.standing.model.tensors,
            tensor_bytes: self.standing.model.bytes,
            past: self.past.row(),
            passage: passage.map(Passage::row),
            descriptors: names,
        };
        let head: Vec<u8> = MAGIC.into_iter().chain(VERSION.to_le_bytes()).collect();
        // It grows as it is needed: the longest record is 64 pages that the heap would keep for long.
        let bytes = postcard::to_extend(&record, head)
            .map_err(|e| io::Error::other(format!("record: {e}")))?;
        if bytes.len() > RECORD_BYTES_MAX {
            let found = bytes.len();
            return Err(io::Error::other(format!(
                "record: {found} bytes, limit {RECORD_BYTES_MAX}"
            )));
        }
        Ok((bytes, descriptors))
    }

    /// Becomes [`Initramfs::vector_boot`], which holds all this, and with a state takes up what is listed there.
    /// Returns only if it cannot, with nothing changed but that nothing is armed any more.
    pub fn give(&self, state: Option<&State>) -> io::Error {
        let Some(image) = &self.initramfs.vector_boot else {
            return io::ErrorKind::NotFound.into();
        };
        let given = self.encode(None).and_then(|(bytes, descriptors)| {
            Ok((sys::memfd::sealed("handover", &bytes)?, descriptors))
        });
        match given {
            Ok((record, descriptors)) => {
                let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
                let (words, env) = next_words();
                let along = state.map(State::along);
                sys::handover::become_successor(
                    image.as_fd(),
                    &words,
                    &env,
                    record.as_fd(),
                    &descriptors,
                    along.as_ref(),
                )
            }
            Err(e) => e,
        }
    }

    /// From now on a crash gives all this to the initramfs's own `vector_boot`. False without one.
    ///
    /// # Errors
    /// As the system calls that prepare it.
    pub fn arm_fallback(&self) -> io::Result<bool> {
        let Some((image, digest)) = &self.own else {
            return Ok(false);
        };
        let mut theirs = self.copy(Cause::Fallback)?;
        // As the successor will find it: itself in the place of the one that runs.
        theirs.running = Running {
            digest: digest.clone(),
            from: "initramfs".to_owned(),
        };
        theirs.initramfs.vector_boot = Some(image.try_clone()?);
        theirs.own = None;
        theirs.arm(None)?;
        Ok(true)
    }

    /// From now on a crash makes us begin again as the same program, with this state: services live on.
    ///
    /// # Errors
    /// As the system calls that prepare it.
    pub fn arm_crash(&self, state: &State) -> io::Result<()> {
        if let Some(passage) = self
            .passage
            .as_ref()
            .filter(|_| self.cause == Cause::Upgrade)
        {
            return self.way_back(passage, String::new())?.arm(Some(state));
        }
        match &self.along {
            // The very record that made us.
            Some(along) if self.cause == Cause::Crash => self.arm_with(
                &along.record.0,
                &along.record.1,
                along.last_words.try_clone()?,
                Some(state),
            ),
            _ => {
                let mut theirs = self.copy(Cause::Crash)?;
                let way = self.retreat.as_ref().or(self.passage.as_ref());
                theirs.passage = way.map(Passage::try_clone).transpose()?;
                theirs.arm(Some(state))
            }
        }
    }

    /// What the program that was given up finds, should this one not prove itself.
    ///
    /// # Errors
    /// As `dup(2)`.
    pub fn way_back(&self, passage: &Passage, reason: String) -> io::Result<Self> {
        let mut theirs = self.copy(Cause::Rollback)?;
        let mut back = passage.try_clone()?;
        std::mem::swap(&mut back.goal, &mut back.back);
        let (program, running) = std::mem::replace(
            &mut back.left,
            (
                clone(self.initramfs.vector_boot.as_ref())?.ok_or(io::ErrorKind::NotFound)?,
                self.running.clone(),
            ),
        );
        back.facts.reason = reason;
        theirs.initramfs.vector_boot = Some(program);
        theirs.running = running;
        theirs.passage = Some(back);
        Ok(theirs)
    }

    fn arm(&self, state: Option<&State>) -> io::Result<()> {
        let last_words: OwnedFd = sys::memfd::create("last-words")?.into();
        let (bytes, descriptors) = self.encode(Some(last_words.as_fd()))?;
        let record = sys::memfd::sealed("handover", &bytes)?;
        self.arm_with(&record, &descriptors, last_words, state)
    }

    fn arm_with(
        &self,
        record: &OwnedFd,
        descriptors: &[OwnedFd],
        last_words: OwnedFd,
        state: Option<&State>,
    ) -> io::Result<()> {
        let image = self.initramfs.vector_boot.as_ref();
        let image = image.ok_or(io::ErrorKind::NotFound)?.try_clone()?;
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let (words, env) = next_words();
        sys::handover::arm(Next {
            image,
            words: &words,
            env: &env,
            record: record.as_fd(),
            descriptors: &descriptors,
            last_words,
            along: state.map(State::along),
        })
    }

    /// The same for another cause.
    ///
    /// # Errors
    /// As `dup(2)`.
    pub fn copy(&self, cause: Cause) -> io::Result<Self> {
        Ok(Self {
            cause,
            running: self.running.clone(),
            hand: self.hand,
            handoff_ns: self.handoff_ns,
            left_ns: 0,
            terminal: self.terminal.clone(),
            report: self.report.clone(),
            initramfs: Initramfs {
                vector_boot: clone(self.initramfs.vector_boot.as_ref())?,
                services: clone(self.initramfs.services.as_ref())?,
                package: None,
                digests: self.initramfs.digests.clone(),
                keys: self.initramfs.keys.clone(),
                manifest: self.initramfs.manifest.clone(),
            },
            own: match &self.own {
                Some((image, digest)) => Some((image.try_clone()?, digest.clone())),
                None => None,
            },
            package: match &self.package {
                Some((file, place)) => Some((file.try_clone()?, place.clone())),
                None => None,
            },
            last_words: String::new(),
            standing: self.standing.clone(),
            along: None,
            passage: None,
            retreat: None,
            past: self.past.try_clone()?,
        })
    }
}

/// Argument and environment of the next image. As the first process of a kernel it looks at neither; an ordinary
/// process goes on with its own, and [`RESUME`].
fn next_words() -> (Vec<String>, Vec<String>) {
    if std::process::id() == 1 {
        return (vec!["vector_boot".to_owned()], Vec::new());
    }
    let text = |word: std::ffi::OsString| word.to_string_lossy().into_owned();
    let mut words: Vec<String> = std::env::args_os().map(text).collect();
    if words.iter().all(|word| word != RESUME) {
        words.push(RESUME.to_owned());
    }
    let env = std::env::vars_os().map(|(key, value)| format!("{}={}", text(key), text(value)));
    (words, env.collect())
}

fn clone(fd: Option<&OwnedFd>) -> io::Result<Option<OwnedFd>> {
    fd.map(OwnedFd::try_clone).transpose()
}

/// As many as there are places for.
fn first<T, const N: usize>(all: impl Iterator<Item = T>) -> Bounded<T, N> {
    all.take(N).collect()
}

/// What a PID 1 left behind when it crashed: one line, whatever it wrote. A signal by its name.
fn words_of(last: &LastWords) -> String {
    let bytes = last.text.get(..WORDS_BYTES_MAX).unwrap_or(&last.text);
    let text = String::from_utf8_lossy(bytes);
    let clean: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let clean = clean.trim();
    let number = clean.strip_prefix("signal ").and_then(|n| n.parse().ok());
    match (clean, number) {
        ("", _) => "no last words".to_owned(),
        (_, Some(number)) => format!("signal {} ({number})", sys::process::signal_name(number)),
        (words, None) => words.to_owned(),
    }
}

/// The role `handover`: says which record this executable takes, so that nobody becomes a program that cannot.
#[must_use]
pub fn main(_words: &[std::ffi::OsString]) -> ExitCode {
    println!("{}", answer());
    ExitCode::SUCCESS
}

/// What [`main`] says.
#[must_use]
pub fn answer() -> String {
    format!(
        "vector_boot {WORD} {VERSION} state {}",
        crate::state::VERSION
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn memory(text: &str) -> OwnedFd {
        sys::memfd::sealed("t", text.as_bytes()).unwrap()
    }

    fn holdings() -> Holdings {
        Holdings {
            cause: Cause::Package,
            running: Running {
                digest: "ab12".to_owned(),
                from: "package /dev/vdb".to_owned(),
            },
            hand: CommandLine::Tightens,
            handoff_ns: 7,
            left_ns: 1 << 40,
            terminal: "ttyS0".to_owned(),
            report: Report {
                complaints: vec!["one".to_owned(), "two".to_owned()],
                modules: 3,
                mounted_ns: 8,
                modules_ns: 9,
            },
            initramfs: Initramfs {
                vector_boot: Some(memory("theirs")),
                services: Some(memory("services")),
                package: None,
                digests: vec![("vb-services".to_owned(), "cd34".to_owned())],
                keys: vec![b"key".to_vec(), vec![0xff; 2 * KEY_BYTES_MAX]],
                manifest: Some(vec![1, 2, 3]),
            },
            own: Some((memory("own"), "ef56".to_owned())),
            package: Some((memory("package").into(), "/dev/vdb".to_owned())),
            last_words: String::new(),
            standing: Standing {
                manifest: vec![4, 5],
                package_name: "/dev/vdb signed".to_owned(),
                model: Model {
                    name: "small".to_owned(),
                    tensors: 6,
                    bytes: 7,
                },
                hostname: "vb".to_owned(),
                found: true,
            },
            along: None,
            passage: Some(Passage {
                goal: (memory("goal").into(), "share/new.rts".to_owned()),
                left: (
                    memory("left"),
                    Running {
                        digest: "0a1b".to_owned(),
                        from: "initramfs".to_owned(),
                    },
                ),
                back: (memory("back").into(), "/dev/vdb".to_owned()),
                facts: PassageFacts {
                    keep: true,
                    reason: "exit: net".to_owned(),
                    stopped: vec!["net".to_owned()],
                },
            }),
            retreat: None,
            past: Past {
                count: 5,
                on_device: Some("99".to_owned()),
                device: None,
                keeping: true,
                images: vec!["77".to_owned(), String::new()],
                before: Some((memory("before").into(), "/dev/vdb 88 signed".to_owned())),
            },
        }
    }

    fn text(fd: OwnedFd) -> String {
        String::from_utf8(sys::memfd::read_small(&fd.into(), 100).unwrap()).unwrap()
    }

    #[test]
    fn what_is_given_is_what_is_taken() {
        let given = holdings();
        let words = memory("signal 11\n\u{1b}[2J");
        let (bytes, descriptors) = given.encode(Some(words.as_fd())).unwrap();
        let taken = Holdings::decode(&bytes, descriptors).unwrap();
        assert_eq!((taken.cause, taken.hand), (given.cause, given.hand));
        assert_eq!(taken.running, given.running);
        assert_eq!(
            (taken.report, taken.terminal),
            (given.report, given.terminal)
        );
        assert_eq!((taken.handoff_ns, taken.left_ns), (7, 1 << 40));
        let (theirs, ours) = (taken.initramfs, given.initramfs);
        assert_eq!(
            (theirs.digests, theirs.manifest),
            (ours.digests, ours.manifest)
        );
        assert_eq!(theirs.keys, [b"key".to_vec(), vec![0xff; KEY_BYTES_MAX]]);
        assert_eq!(text(theirs.vector_boot.unwrap()), "theirs");
        assert_eq!(text(theirs.services.unwrap()), "services");
        let (own, digest) = taken.own.unwrap();
        assert_eq!((text(own).as_str(), digest.as_str()), ("own", "ef56"));
        let (package, place) = taken.package.unwrap();
        assert_eq!(
            (text(package.into()).as_str(), place.as_str()),
            ("package", "/dev/vdb")
        );
        assert_eq!(taken.last_words, "signal 11  [2J");
        assert_eq!(taken.standing, given.standing);
        let (theirs, ours) = (taken.passage.unwrap(), given.passage.unwrap());
        assert_eq!(theirs.facts, ours.facts);
        assert_eq!((theirs.left.1, theirs.goal.1), (ours.left.1, ours.goal.1));
        let (past, given) = (taken.past, given.past);
        assert_eq!((past.count, past.keeping), (given.count, given.keeping));
        assert_eq!(
            (past.on_device, past.device),
            (given.on_device, given.device)
        );
        assert_eq!(past.images, given.images);
        let (before, name) = past.before.unwrap();
        assert_eq!(
            (text(before.into()).as_str(), name.as_str()),
            ("before", "/dev/vdb 88 signed")
        );
        let (goal, back) = (theirs.goal.0.into(), theirs.back.0.into());
        assert_eq!(
            [goal, theirs.left.0, back].map(text),
            ["goal", "left", "back"]
        );
    }

    #[test]
    fn a_signal_is_told_by_its_name() {
        let said = |text: &str| {
            words_of(&LastWords {
                at_ns: 1,
                text: text.into(),
            })
        };
        assert_eq!(said("signal 11"), "signal SEGV (11)");
        assert_eq!(said("defect in PID 1: x\ny"), "defect in PID 1: x y");
        assert_eq!(said(""), "no last words");
    }

    #[test]
    fn what_is_not_there_is_not_given() {
        let mut given = holdings();
        given.own = None;
        given.package = None;
        given.initramfs.services = None;
        given.passage = None;
        given.past.before = None;
        let (bytes, descriptors) = given.encode(None).unwrap();
        assert_eq!(descriptors.len(), 1);
        let taken = Holdings::decode(&bytes, descriptors).unwrap();
        assert!(
            taken.own.is_none() && taken.package.is_none() && taken.initramfs.services.is_none()
        );
        assert!(taken.passage.is_none());
        assert_eq!(taken.last_words, "");
    }

    #[test]
    fn a_record_that_is_not_whole_is_refused_by_name() {
        let refusal = |bytes: &[u8], descriptors| {
            Holdings::decode(bytes, descriptors)
                .map(|_| ())
                .unwrap_err()
        };
        let whole = || holdings().encode(None).unwrap();
        let (bytes, mut descriptors) = whole();
        for cut in 0..bytes.len() {
            refusal(&bytes[..cut], whole().1);
        }
        let mut other = bytes.clone();
        other[8] = 1;
        assert_eq!(refusal(&other, whole().1), "handover: version: 1, limit 4");
        other[0] = b'X';
        assert_eq!(refusal(&other, whole().1), "handover: magic: not a record");
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(refusal(&longer, whole().1).contains("1 bytes and 0 descriptors"));
        descriptors.pop();
        assert!(refusal(&bytes, descriptors).contains("0 bytes and 1 descriptors"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..400), named in any::<bool>()) {
            if named {
                bytes.splice(0..0, MAGIC.iter().chain(&VERSION.to_le_bytes()).copied());
            }
            // Whatever it is, it is decided without a panic.
            let _ = Holdings::decode(&bytes, Vec::new());
        }
    }
}
