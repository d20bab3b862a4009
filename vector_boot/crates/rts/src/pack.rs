//! Producing a package, piece by piece, without holding it in memory.
//!
//! The caller reads the files that [`Assembler::pieces`] names in order, feeds their bytes and writes the same bytes
//! from offset 512 on; [`Assembler::finish`] then gives the header for offset 0 and the tail for the end.
//! The bytes depend on the input alone: packing twice gives the same package.
//!
//! Start with [`Spec`]. Never here: files.

use blake3::Hasher;

use crate::blocks::BLOCK_BYTES;
use crate::elf::Machine;
use crate::error::{Digest, Field, RtsError, at_most, exactly};
use crate::header::{
    Extension, FILE_BYTES_MAX, HEADER_BYTES, Header, JSON_BYTES_MAX, PACKAGE_ALIGN, block_end,
};
use crate::manifest::{Manifest, Name};
use crate::package::check_images;
use crate::table::{ENTRY_BYTES, Kind, SECTIONS_MAX, SERVICES_SECTION, Section};

/// What a package shall hold.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The processor of its executables.
    pub machine: Machine,
    /// Length of `vector_boot`.
    pub binary_bytes: u64,
    /// Length of the GGUF file.
    pub tensor_bytes: u64,
    /// `vb-services` and added files, in any order.
    pub sections: Vec<SectionSpec>,
    /// The compiled table.
    pub manifest: Manifest,
    /// Its copy for people.
    pub json: String,
}

/// An added section to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionSpec {
    /// Its name.
    pub name: Name,
    /// What it holds.
    pub kind: Kind,
    /// Its length.
    pub bytes: u64,
}

/// Which bytes come next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The `vector_boot` executable.
    Binary,
    /// The GGUF file.
    Tensors,
    /// The added file of this name.
    Section(Name),
    /// Zeros.
    Padding,
}

/// A run of bytes from one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where they come from.
    pub source: Source,
    /// How many.
    pub bytes: u64,
}

/// The parts of a package that are known last.
pub struct Finished {
    /// For offset 0.
    pub header: [u8; HEADER_BYTES],
    /// For `tail_offset`, to the package's end.
    pub tail: Vec<u8>,
    /// Where the tail goes: right behind what was fed.
    pub tail_offset: u64,
}

/// A package in the making.
pub struct Assembler {
    header: Header,
    ext: Extension,
    sections: Vec<Section>,
    manifest: Vec<u8>,
    json: String,
    pieces: Vec<Piece>,
    /// The piece that is being fed, and how much of it is left.
    piece: usize,
    piece_left: u64,
    piece_hasher: Hasher,
    block_left: u64,
    block_hasher: Hasher,
    blocks: Vec<u8>,
}

impl Assembler {
    /// Lays the package out.
    ///
    /// Errors: a limit of the format, two sections of one name, or a manifest that names a missing file.
    pub fn new(spec: Spec) -> Result<Self, RtsError> {
        let Spec {
            machine,
            binary_bytes,
            tensor_bytes,
            mut sections,
            manifest,
            json,
        } = spec;
        at_most(
            "table_entries",
            112,
            sections.len() as u64,
            SECTIONS_MAX as u64,
        )?;
        at_most("json_bytes", 208, json.len() as u64, JSON_BYTES_MAX)?;
        let is_exec = |name: &str| {
            sections
                .iter()
                .any(|s| s.name == *name && s.kind == Kind::Exec)
        };
        check_images(&manifest, is_exec)?;
        // Ours first, then by name: the order of the command line does not show.
        sections.sort_by(|a, b| {
            (a.name != SERVICES_SECTION, &a.name).cmp(&(b.name != SERVICES_SECTION, &b.name))
        });
        let tensor_offset = block_end((HEADER_BYTES as u64).saturating_add(binary_bytes));
        at_most("elf_bytes", 64, tensor_offset, FILE_BYTES_MAX)?;
        let tensor_end = tensor_offset.saturating_add(tensor_bytes);
        at_most("tensor_size", 32, tensor_end, FILE_BYTES_MAX)?;
        let mut layout = Layout {
            at: HEADER_BYTES as u64,
            pieces: Vec::new(),
        };
        layout.add(Source::Binary, binary_bytes);
        layout.add(Source::Tensors, tensor_bytes);
        let mut table: Vec<Section> = Vec::with_capacity(sections.len());
        for section in sections {
            if table.last().is_some_and(|last| last.name == section.name) {
                let field = Field::of(&section.name, "name");
                return Err(RtsError::Text {
                    field,
                    at: layout.at,
                    problem: "stands twice",
                });
            }
            let offset = layout.add(Source::Section(section.name.clone()), section.bytes);
            at_most(
                Field::of(&section.name, "bytes"),
                offset,
                layout.at,
                FILE_BYTES_MAX,
            )?;
            table.push(Section {
                machine: (section.kind == Kind::Exec).then_some(machine),
                name: section.name,
                kind: section.kind,
                offset,
                bytes: section.bytes,
                blake3: Digest::default(),
            });
        }
        let manifest = manifest.encode()?;
        let table_offset = layout.at;
        let table_entries = table.len() as u64;
        let manifest_offset =
            table_offset.saturating_add(table_entries.saturating_mul(ENTRY_BYTES as u64));
        let json_offset = manifest_offset.saturating_add(manifest.len() as u64);
        let blocks_offset = json_offset.saturating_add(json.len() as u64);
        let mut ext = Extension {
            machine,
            package_bytes: 0,
            elf_bytes: binary_bytes,
            elf_blake3: Digest::default(),
            table_offset,
            table_entries,
            table_blake3: Digest::default(),
            manifest_offset,
            manifest_bytes: manifest.len() as u64,
            manifest_blake3: Digest::of(&manifest),
            json_offset,
            json_bytes: json.len() as u64,
            json_blake3: Digest::of(json.as_bytes()),
            blocks_offset,
            blocks_count: table_offset / BLOCK_BYTES,
            blocks_blake3: Digest::default(),
            key_id: [0; 32],
            signature: [0; 64],
        };
        ext.package_bytes = ext.content_end().next_multiple_of(PACKAGE_ALIGN);
        let binary_size = tensor_offset.saturating_sub(HEADER_BYTES as u64);
        let header = Header {
            binary_size,
            tensor_offset,
            tensor_size: tensor_bytes,
            tensor_end,
            ext: None,
        };
        let mut assembler = Self {
            header,
            ext,
            sections: table,
            manifest,
            json,
            piece_left: layout.pieces.first().map_or(0, |piece| piece.bytes),
            pieces: layout.pieces,
            piece: 0,
            piece_hasher: Hasher::new(),
            block_left: BLOCK_BYTES.saturating_sub(HEADER_BYTES as u64),
            block_hasher: Hasher::new(),
            blocks: Vec::new(),
        };
        assembler.close_pieces();
        Ok(assembler)
    }

    /// What to feed, in order; together they end where the tail begins.
    pub fn pieces(&self) -> Vec<Piece> {
        self.pieces.clone()
    }

    /// Length of the finished package.
    pub fn package_bytes(&self) -> u64 {
        self.ext.package_bytes
    }

    /// Takes the next bytes of the pieces, in runs of any length.
    ///
    /// Errors: more bytes than the pieces have, as when a file grew while it was read.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), RtsError> {
        while !bytes.is_empty() {
            if self.piece >= self.pieces.len() {
                return exactly("bytes fed", self.ext.table_offset, bytes.len() as u64, 0);
            }
            let run = self.piece_left.min(self.block_left);
            let run = usize::try_from(run).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at_checked(run).unwrap_or((bytes, &[]));
            bytes = rest;
            self.piece_hasher.update(now);
            self.block_hasher.update(now);
            self.piece_left = self.piece_left.saturating_sub(now.len() as u64);
            self.block_left = self.block_left.saturating_sub(now.len() as u64);
            if self.block_left == 0 {
                self.blocks
                    .extend_from_slice(self.block_hasher.finalize().as_bytes());
                self.block_hasher.reset();
                self.block_left = BLOCK_BYTES;
            }
            self.close_pieces();
        }
        Ok(())
    }

    /// Notes the hash of each piece that is complete and opens the next that is not empty.
    fn close_pieces(&mut self) {
        while self.piece_left == 0 {
            let Some(piece) = self.pieces.get(self.piece) else {
                return;
            };
            let digest = Digest(*self.piece_hasher.finalize().as_bytes());
            match &piece.source {
                Source::Binary => self.ext.elf_blake3 = digest,
                Source::Section(name) => {
                    if let Some(section) = self
                        .sections
                        .iter_mut()
                        .find(|section| section.name == *name)
                    {
                        section.blake3 = digest;
                    }
                }
                Source::Tensors | Source::Padding => {}
            }
            self.piece_hasher.reset();
            self.piece = self.piece.saturating_add(1);
            self.piece_left = self.pieces.get(self.piece).map_or(0, |piece| piece.bytes);
        }
    }

    /// Gives what remains to be written.
    ///
    /// Errors: fewer bytes were fed than the pieces have, as when a file shrank while it was read.
    pub fn finish(mut self) -> Result<Finished, RtsError> {
        let fed = (self.blocks.len() as u64 / 32).saturating_mul(BLOCK_BYTES);
        exactly("bytes fed", 0, fed, self.ext.table_offset)?;
        let mut tail: Vec<u8> = self.sections.iter().flat_map(Section::to_bytes).collect();
        self.ext.table_blake3 = Digest::of(&tail);
        self.ext.blocks_blake3 = Digest::of(&self.blocks);
        tail.extend_from_slice(&self.manifest);
        tail.extend_from_slice(self.json.as_bytes());
        tail.extend_from_slice(&self.blocks);
        let tail_offset = self.ext.table_offset;
        let bytes = self.ext.package_bytes.saturating_sub(tail_offset);
        tail.resize(usize::try_from(bytes).unwrap_or(tail.len()), 0);
        let header = Header {
            ext: Some(self.ext),
            ..self.header
        }
        .to_bytes();
        Ok(Finished {
            header,
            tail,
            tail_offset,
        })
    }
}

/// Places sections one behind the other, each padded to a block.
struct Layout {
    at: u64,
    pieces: Vec<Piece>,
}

impl Layout {
    fn add(&mut self, source: Source, bytes: u64) -> u64 {
        let offset = self.at;
        let end = offset.saturating_add(bytes);
        self.at = block_end(end);
        self.pieces.push(Piece { source, bytes });
        self.pieces.push(Piece {
            source: Source::Padding,
            bytes: self.at.saturating_sub(end),
        });
        offset
    }
}

/// A package in memory, for small ones and for tests; `sections` are name, kind and content.
pub fn to_vec(
    machine: Machine,
    binary: &[u8],
    tensors: &[u8],
    sections: &[(Name, Kind, &[u8])],
    manifest: &Manifest,
    json: &str,
) -> Result<Vec<u8>, RtsError> {
    let mut assembler = Assembler::new(Spec {
        machine,
        binary_bytes: binary.len() as u64,
        tensor_bytes: tensors.len() as u64,
        sections: sections
            .iter()
            .map(|(name, kind, bytes)| SectionSpec {
                name: name.clone(),
                kind: *kind,
                bytes: bytes.len() as u64,
            })
            .collect(),
        manifest: manifest.clone(),
        json: json.to_owned(),
    })?;
    let mut package = vec![0; HEADER_BYTES];
    for piece in assembler.pieces() {
        let start = package.len();
        match piece.source {
            Source::Binary => package.extend_from_slice(binary),
            Source::Tensors => package.extend_from_slice(tensors),
            Source::Section(name) => {
                let held = sections.iter().find(|(other, ..)| *other == name);
                package.extend_from_slice(held.map_or(&[], |(_, _, bytes)| bytes));
            }
            Source::Padding => {
                package.resize(
                    start.saturating_add(usize::try_from(piece.bytes).unwrap_or(0)),
                    0,
                );
            }
        }
        assembler.feed(package.get(start..).unwrap_or_default())?;
    }
    let finished = assembler.finish()?;
    package.extend_from_slice(&finished.tail);
    if let Some(front) = package.first_chunk_mut() {
        *front = finished.header;
    }
    Ok(package)
}
