//! The check of every byte outside the tensors, a bounded number of bytes at a time.
//!
//! So a helper can hash between two beats of its own and show how far it is. Start with [`Verification::step`].

use blake3::Hasher;

use crate::elf;
use crate::error::{Digest, Expected, Field, RtsError, at_most};
use crate::header::{HEADER_BYTES, block_end};
use crate::package::{Package, slice};
use crate::table::Kind;

/// Zeros that a block device or `truncate` may leave behind a package in a file.
const TRAILING_BYTES_MAX: u64 = 65_535;

/// What the window around a package is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowKind {
    /// A file of its own: behind the package only a few zeros.
    File,
    /// A partition or disk: what lies behind the package is not ours to judge.
    Device,
}

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes looked at so far.
    pub done: u64,
    /// Bytes to look at in all.
    pub total: u64,
}

impl Progress {
    /// Whether nothing is left to look at.
    pub fn is_finished(self) -> bool {
        self.done >= self.total
    }
}

/// A check under way.
pub struct Verification<'a> {
    tasks: std::vec::IntoIter<Task<'a>>,
    current: Option<Task<'a>>,
    hasher: Hasher,
    progress: Progress,
}

struct Task<'a> {
    field: Field,
    /// Where the range begins, and where the check is in it.
    start: u64,
    at: u64,
    rest: &'a [u8],
    whole: &'a [u8],
    want: Want,
}

/// What a range must be.
enum Want {
    Hash(Digest),
    /// An executable of this machine, too.
    Program(Digest, elf::Machine),
    Zeros,
}

impl<'a> Verification<'a> {
    pub(crate) fn new(package: &Package<'a>, kind: WindowKind) -> Result<Self, RtsError> {
        let mut tasks = Vec::new();
        let window = package.window;
        let mut add = |field: Field, from: u64, to: u64, want: Want| {
            let bytes = slice(window, from, to);
            tasks.push(Task {
                field,
                start: from,
                at: from,
                rest: bytes,
                whole: bytes,
                want,
            });
        };
        let header = &package.header;
        if let Some(ext) = &header.ext {
            add(
                "json_blake3".into(),
                ext.json_offset,
                ext.blocks_offset,
                Want::Hash(ext.json_blake3),
            );
            add(
                "blocks_blake3".into(),
                ext.blocks_offset,
                ext.content_end(),
                Want::Hash(ext.blocks_blake3),
            );
            let elf_end = (HEADER_BYTES as u64).saturating_add(ext.elf_bytes);
            let program = Want::Program(ext.elf_blake3, ext.machine);
            add("elf_blake3".into(), HEADER_BYTES as u64, elf_end, program);
            add(
                "binary padding".into(),
                elf_end,
                header.tensor_offset,
                Want::Zeros,
            );
            add(
                "tensor padding".into(),
                header.tensor_end,
                block_end(header.tensor_end),
                Want::Zeros,
            );
            for section in package.sections() {
                let want = match section.kind {
                    Kind::Exec => Want::Program(section.blake3, ext.machine),
                    Kind::Data => Want::Hash(section.blake3),
                };
                add(
                    Field::of(&section.name, "blake3"),
                    section.offset,
                    section.end(),
                    want,
                );
                let padding = Field::of(&section.name, "padding");
                add(
                    padding,
                    section.end(),
                    block_end(section.end()),
                    Want::Zeros,
                );
            }
            add(
                "final padding".into(),
                ext.content_end(),
                ext.package_bytes,
                Want::Zeros,
            );
        }
        if kind == WindowKind::File {
            let held = window.len() as u64;
            let trailing = held.saturating_sub(package.bytes());
            at_most(
                "trailing bytes",
                package.bytes(),
                trailing,
                TRAILING_BYTES_MAX,
            )?;
            add("trailing bytes".into(), package.bytes(), held, Want::Zeros);
        }
        let total = tasks.iter().fold(0_u64, |sum, task| {
            sum.saturating_add(task.rest.len() as u64)
        });
        let mut tasks = tasks.into_iter();
        let current = tasks.next();
        Ok(Self {
            tasks,
            current,
            hasher: Hasher::new(),
            progress: Progress { done: 0, total },
        })
    }

    /// Looks at up to `bytes` more bytes (at least one).
    ///
    /// Errors name the first part that is wrong; after one the check is over. It is complete only
    /// when the progress [is finished](Progress::is_finished) and no step has failed.
    pub fn step(&mut self, bytes: usize) -> Result<Progress, RtsError> {
        let mut left = bytes.max(1);
        while let Some(task) = &mut self.current {
            let (now, rest) = task.rest.split_at_checked(left).unwrap_or((task.rest, &[]));
            match &task.want {
                Want::Hash(_) | Want::Program(..) => {
                    self.hasher.update(now);
                }
                Want::Zeros => zeros(&task.field, task.at, now)?,
            }
            task.rest = rest;
            task.at = task.at.saturating_add(now.len() as u64);
            self.progress.done = self.progress.done.saturating_add(now.len() as u64);
            left = left.saturating_sub(now.len());
            if !task.rest.is_empty() {
                break;
            }
            task.finish(&self.hasher)?;
            self.hasher.reset();
            self.current = self.tasks.next();
            // Empty ranges cost nothing, so they are finished in the step that reaches them.
            if left == 0
                && self
                    .current
                    .as_ref()
                    .is_some_and(|task| !task.rest.is_empty())
            {
                break;
            }
        }
        Ok(self.progress)
    }

    /// Runs to the end in one call.
    pub fn finish(mut self) -> Result<(), RtsError> {
        self.step(usize::MAX).map(|_| ())
    }
}

impl Task<'_> {
    fn finish(&self, hasher: &Hasher) -> Result<(), RtsError> {
        let expected = match &self.want {
            Want::Hash(digest) | Want::Program(digest, _) => digest,
            Want::Zeros => return Ok(()),
        };
        let found = Digest(*hasher.finalize().as_bytes());
        if found != *expected {
            return Err(RtsError::digest(
                self.field.clone(),
                self.start,
                &found,
                expected,
            ));
        }
        if let Want::Program(_, machine) = self.want {
            let elf = elf::inspect(self.whole).and_then(|elf| elf.check_machine(machine));
            let field = Field {
                section: self.field.section.clone(),
                name: "executable",
            };
            elf.map_err(|problem| RtsError::Elf {
                field,
                at: self.start,
                problem,
            })?;
        }
        Ok(())
    }
}

fn zeros(field: &Field, at: u64, bytes: &[u8]) -> Result<(), RtsError> {
    // Whole pages compare as fast as memory reads; only the page that differs is searched.
    const PAGE: [u8; 4096] = [0; 4096];
    let mut page_at = at;
    for page in bytes.chunks(PAGE.len()) {
        if Some(page) != PAGE.get(..page.len())
            && let Some((index, byte)) = page.iter().enumerate().find(|(_, byte)| **byte != 0)
        {
            let at = page_at.saturating_add(index as u64);
            return Err(RtsError::number(
                field.clone(),
                at,
                u64::from(*byte),
                Expected::Hex(0),
            ));
        }
        page_at = page_at.saturating_add(page.len() as u64);
    }
    Ok(())
}

#[cfg(test)]
impl Verification<'_> {
    /// The ranges that are looked at.
    pub(crate) fn ranges(&self) -> Vec<std::ops::Range<u64>> {
        let tasks = self.current.iter().chain(self.tasks.as_slice());
        tasks
            .map(|task| task.start..task.start + task.whole.len() as u64)
            .collect()
    }

    /// Leaves out every range that does not hold byte `at`, so that a test can flip each bit of a package.
    pub(crate) fn only(self, at: u64) -> Self {
        let tasks = self.current.into_iter().chain(self.tasks);
        let mut tasks = tasks
            .filter(|task| (task.start..task.start + task.whole.len() as u64).contains(&at))
            .collect::<Vec<_>>()
            .into_iter();
        Self {
            current: tasks.next(),
            tasks,
            hasher: self.hasher,
            progress: self.progress,
        }
    }
}
