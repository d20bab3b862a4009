//! What PID 1 holds before its package counts, and how one PID 1 hands it to the next over exec.
//!
//! Owns the record (`docs/handover.md`): a sealed memory file at a fixed descriptor number, versioned, that names
//! the descriptors behind it. A successor of another version is found out before exec, by asking it ([`main`]).
//! Must never: take a record that is not whole. Start with [`Holdings`].

use crate::early::{Initramfs, KEYS_MAX, Report};
use crate::params::CommandLine;
use heapless::Vec as Bounded;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

/// What a record begins with, the version of what follows behind it.
const MAGIC: [u8; 8] = *b"VBHANDOV";
/// Versions are not compatible: the first PID 1 asks before it hands over.
const VERSION: u16 = 1;
/// Longest record: a manifest is the most of it (80 KiB), then keys.
const RECORD_BYTES_MAX: usize = 256 * 1024;
/// A trusted key is one line of 83 bytes; what is longer is no key, and is told by its beginning.
const KEY_BYTES_MAX: usize = 256;
/// Complaints of the first PID 1: mounts, modules, parameters.
const COMPLAINTS_MAX: usize = 64;
/// Lines of `/digests`: two executables.
const DIGESTS_MAX: usize = 8;
/// Names of [`Holdings::descriptors`].
const DESCRIPTORS_MAX: usize = 8;
/// Last words that are kept: one line.
const WORDS_BYTES_MAX: u64 = 200;

/// The word of [`main`], and what it answers first.
pub const WORD: &str = "handover";

/// Who started this PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// The kernel; of an ordinary process, a person.
    First,
    /// The initramfs's `vector_boot`, because the package brings another.
    Package,
    /// The package's `vector_boot`, by crashing within its first beats.
    Fallback,
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
            Ok(bytes) => Self::decode(&bytes, taken.descriptors),
            Err(e) => Err(format!("handover: record: {e}")),
        })
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
        let last_words = fd("last-words").map_or_else(String::new, |fd| read_words(&fd.into()));
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
            left_ns: record.left_ns,
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
        })
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
        for (name, fd) in all {
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
            descriptors: names,
        };
        let mut bytes = vec![0; RECORD_BYTES_MAX];
        let (head, body) = bytes.split_at_mut(MAGIC.len() + size_of_val(&VERSION));
        let head_bytes = head.len();
        let version = VERSION.to_le_bytes();
        for (to, from) in head.iter_mut().zip(MAGIC.iter().chain(&version)) {
            *to = *from;
        }
        let used = postcard::to_slice(&record, body)
            .map_err(|e| io::Error::other(format!("record over {RECORD_BYTES_MAX} bytes: {e}")))?
            .len();
        bytes.truncate(head_bytes + used);
        Ok((bytes, descriptors))
    }

    /// Becomes [`Initramfs::vector_boot`], which holds all this. Returns only if it cannot, with nothing changed.
    pub fn give(&self) -> io::Error {
        let Some(image) = &self.initramfs.vector_boot else {
            return io::ErrorKind::NotFound.into();
        };
        let given = self.encode(None).and_then(|(bytes, descriptors)| {
            Ok((sys::memfd::sealed("handover", &bytes)?, descriptors))
        });
        match given {
            Ok((record, descriptors)) => {
                let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
                let words = ["vector_boot".to_owned()];
                sys::handover::become_successor(image.as_fd(), &words, record.as_fd(), &descriptors)
            }
            Err(e) => e,
        }
    }

    /// From now on a crash gives all this to the initramfs's own `vector_boot`.
    ///
    /// # Errors
    /// As the system calls that prepare it; without the initramfs's own there is nothing to do.
    pub fn arm(&mut self) -> io::Result<()> {
        let Some((image, digest)) = self.own.take() else {
            return Ok(());
        };
        // As the successor will find it: itself in the place of the one that runs.
        let theirs = Self {
            cause: Cause::Fallback,
            running: Running {
                digest,
                from: "initramfs".to_owned(),
            },
            hand: self.hand,
            handoff_ns: self.handoff_ns,
            left_ns: self.left_ns,
            terminal: self.terminal.clone(),
            report: self.report.clone(),
            initramfs: Initramfs {
                vector_boot: Some(image.try_clone()?),
                services: clone(self.initramfs.services.as_ref())?,
                package: None,
                digests: self.initramfs.digests.clone(),
                keys: self.initramfs.keys.clone(),
                manifest: self.initramfs.manifest.clone(),
            },
            own: None,
            package: match &self.package {
                Some((file, place)) => Some((file.try_clone()?, place.clone())),
                None => None,
            },
            last_words: String::new(),
        };
        let last_words: OwnedFd = sys::memfd::create("last-words")?.into();
        let (bytes, descriptors) = theirs.encode(Some(last_words.as_fd()))?;
        let record = sys::memfd::sealed("handover", &bytes)?;
        let words = ["vector_boot".to_owned()];
        sys::handover::arm(image, &words, record, descriptors, last_words)
    }
}

fn clone(fd: Option<&OwnedFd>) -> io::Result<Option<OwnedFd>> {
    fd.map(OwnedFd::try_clone).transpose()
}

/// As many as there are places for.
fn first<T, const N: usize>(all: impl Iterator<Item = T>) -> Bounded<T, N> {
    all.take(N).collect()
}

/// What a PID 1 left behind when it crashed: one line, whatever it wrote.
fn read_words(file: &File) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let mut bytes = Vec::new();
    let mut reader = file;
    // What cannot be read is only less to read.
    let _ = reader
        .seek(SeekFrom::Start(0))
        .and_then(|_| reader.take(WORDS_BYTES_MAX).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    let clean: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    match clean.trim() {
        "" => "no last words".to_owned(),
        words => words.to_owned(),
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
    format!("vector_boot {WORD} {VERSION}")
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
    }

    #[test]
    fn what_is_not_there_is_not_given() {
        let mut given = holdings();
        given.own = None;
        given.package = None;
        given.initramfs.services = None;
        let (bytes, descriptors) = given.encode(None).unwrap();
        assert_eq!(descriptors.len(), 1);
        let taken = Holdings::decode(&bytes, descriptors).unwrap();
        assert!(
            taken.own.is_none() && taken.package.is_none() && taken.initramfs.services.is_none()
        );
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
        other[8] = 2;
        assert_eq!(refusal(&other, whole().1), "handover: version: 2, limit 1");
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
