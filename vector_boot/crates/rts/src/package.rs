//! Reading a package where it lies.
//!
//! [`Package::parse`] proves the header, the section table and the manifest; its accessors then cannot fail.
//! It touches three places of the window (first page, table, manifest), hashes at most 84 KiB and copies
//! only the manifest, so PID 1 can call it on a raw partition without reading the model.
//!
//! Never here: the signature is checked by [`Package::verify_signature`], everything else by [`Package::verification`].

use core::ops::Range;

use crate::blocks::{Blocks, HASH_BYTES};
use crate::elf::Machine;
use crate::error::{Digest, Expected, Field, RtsError};
use crate::header::{Extension, HEADER_BYTES, Header, KEY_AT, block_end};
use crate::manifest::{Image, Manifest, ManifestError};
use crate::sign::PublicKey;
use crate::table::{self, Kind, Section};
use crate::verify::{Verification, WindowKind};

/// A package inside a window of memory that may be longer than it.
#[derive(Clone, Debug)]
pub struct Package<'a> {
    pub(crate) window: &'a [u8],
    header_bytes: &'a [u8; HEADER_BYTES],
    pub(crate) header: Header,
    manifest: Option<Manifest>,
}

/// Where the tensors lie; the range is inside the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorWindow {
    /// From the package's first byte. A multiple of 64 KiB unless the package is plain.
    pub offset: u64,
    /// Length without padding.
    pub bytes: u64,
}

impl<'a> Package<'a> {
    /// Where [`Package::parse`] looks behind the header, for readers that fetch it first: table and
    /// manifest. `None` for a plain package and for a header that does not hold.
    pub fn eager_range(header: &[u8; HEADER_BYTES]) -> Option<Range<u64>> {
        let ext = Header::parse(header).ok()?.ext?;
        Some(ext.table_offset..ext.json_offset)
    }

    /// Reads the package at the front of `window`, which is a file, a partition or a whole disk.
    ///
    /// Errors name the first field that is wrong; nothing behind the package is looked at.
    pub fn parse(window: &'a [u8]) -> Result<Self, RtsError> {
        let package = Self::parse_unread(window)?;
        if package.is_plain() {
            return Ok(package);
        }
        let manifest = Manifest::decode(package.manifest_bytes())?;
        check_images(&manifest, |name| {
            package
                .section(name)
                .is_some_and(|section| section.kind == Kind::Exec)
        })?;
        Ok(Self {
            manifest: Some(manifest),
            ..package
        })
    }

    /// As [`Package::parse`], but only the manifest's hash is looked at: for whoever has another one.
    pub fn parse_unread(window: &'a [u8]) -> Result<Self, RtsError> {
        let held = window.len() as u64;
        let too_short = |field: &'static str, at: u64, needed: u64| {
            RtsError::number(field, at, needed, Expected::AtMost(held))
        };
        let Some(header_bytes) = window.first_chunk::<HEADER_BYTES>() else {
            return Err(RtsError::number(
                "header",
                0,
                held,
                Expected::AtLeast(HEADER_BYTES as u64),
            ));
        };
        let header = Header::parse(header_bytes)?;
        let Some(ext) = &header.ext else {
            if header.tensor_offset > held {
                return Err(too_short("binary_size", 16, header.tensor_offset));
            }
            if header.tensor_end > held {
                return Err(too_short("tensor_size", 32, header.tensor_end));
            }
            return Ok(Self {
                window,
                header_bytes,
                header,
                manifest: None,
            });
        };
        if ext.package_bytes > held {
            return Err(too_short("package_bytes", 56, ext.package_bytes));
        }
        let table = slice(window, ext.table_offset, ext.manifest_offset);
        require("table_blake3", ext.table_offset, table, &ext.table_blake3)?;
        let end = table::check(
            table,
            ext.table_offset,
            ext.machine,
            block_end(header.tensor_end),
        )?;
        crate::error::exactly("table_offset", 104, ext.table_offset, end)?;
        let bytes = slice(window, ext.manifest_offset, ext.json_offset);
        require(
            "manifest_blake3",
            ext.manifest_offset,
            bytes,
            &ext.manifest_blake3,
        )?;
        Ok(Self {
            window,
            header_bytes,
            header,
            manifest: None,
        })
    }

    /// Whether only the first 40 bytes say something: no manifest, no hashes, no signature.
    pub fn is_plain(&self) -> bool {
        self.header.ext.is_none()
    }

    /// Length of the package; the window may be longer.
    pub fn bytes(&self) -> u64 {
        self.header
            .ext
            .as_ref()
            .map_or(self.header.tensor_end, |ext| ext.package_bytes)
    }

    /// The window up to the package's end.
    pub fn as_bytes(&self) -> &'a [u8] {
        slice(self.window, 0, self.bytes())
    }

    /// The first 512 bytes.
    pub fn header_bytes(&self) -> &'a [u8; HEADER_BYTES] {
        self.header_bytes
    }

    /// The `vector_boot` executable, without padding where its length is known.
    pub fn binary(&self) -> &'a [u8] {
        let range = self.binary_range();
        slice(self.window, range.start, range.end)
    }

    /// Where [`Package::binary`] lies in the package.
    pub fn binary_range(&self) -> Range<u64> {
        let bytes = self
            .header
            .ext
            .as_ref()
            .map_or(self.header.binary_size, |ext| ext.elf_bytes);
        HEADER_BYTES as u64..(HEADER_BYTES as u64).saturating_add(bytes)
    }

    /// The hash that the binary must have; plain packages name none.
    pub fn binary_blake3(&self) -> Option<Digest> {
        self.header.ext.as_ref().map(|ext| ext.elf_blake3)
    }

    /// Hashes the binary and compares; a plain package has nothing to compare with.
    pub fn verify_binary(&self) -> Result<(), RtsError> {
        match &self.header.ext {
            Some(ext) => require(
                "elf_blake3",
                HEADER_BYTES as u64,
                self.binary(),
                &ext.elf_blake3,
            ),
            None => Ok(()),
        }
    }

    /// Where the tensors lie.
    pub fn tensors(&self) -> TensorWindow {
        TensorWindow {
            offset: self.header.tensor_offset,
            bytes: self.header.tensor_size,
        }
    }

    /// The tensors themselves.
    pub fn tensor_bytes(&self) -> &'a [u8] {
        slice(
            self.window,
            self.header.tensor_offset,
            self.header.tensor_end,
        )
    }

    /// The manifest; plain packages have none.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Takes the manifest out without copying it.
    pub fn into_manifest(self) -> Option<Manifest> {
        self.manifest
    }

    /// The manifest in its binary form.
    pub fn manifest_bytes(&self) -> &'a [u8] {
        self.header.ext.as_ref().map_or(&[], |ext| {
            slice(self.window, ext.manifest_offset, ext.json_offset)
        })
    }

    /// The manifest's JSON copy, for people.
    pub fn json_bytes(&self) -> &'a [u8] {
        self.header.ext.as_ref().map_or(&[], |ext| {
            slice(self.window, ext.json_offset, ext.blocks_offset)
        })
    }

    /// Hashes the JSON copy and compares.
    pub fn verify_json(&self) -> Result<(), RtsError> {
        match &self.header.ext {
            Some(ext) => require(
                "json_blake3",
                ext.json_offset,
                self.json_bytes(),
                &ext.json_blake3,
            ),
            None => Ok(()),
        }
    }

    /// The processor of every executable within; plain packages do not say.
    pub fn machine(&self) -> Option<Machine> {
        self.header.ext.as_ref().map(|ext| ext.machine)
    }

    /// The sections of the table, in the order of the file.
    pub fn sections(&self) -> impl Iterator<Item = Section> + use<'a> {
        let (table, at, machine) = match &self.header.ext {
            Some(ext) => (
                slice(self.window, ext.table_offset, ext.manifest_offset),
                ext.table_offset,
                ext.machine,
            ),
            None => (&[][..], 0, Machine::NATIVE),
        };
        // Every entry was read by `parse`.
        table::entries(table, at, machine).filter_map(Result::ok)
    }

    /// The section of this name.
    pub fn section(&self, name: &str) -> Option<Section> {
        self.sections().find(|section| section.name == *name)
    }

    /// The bytes of a section of this package.
    pub fn section_bytes(&self, section: &Section) -> &'a [u8] {
        slice(self.window, section.offset, section.end())
    }

    /// Hashes a section and compares.
    pub fn verify_section(&self, section: &Section) -> Result<(), RtsError> {
        let field = Field::of(&section.name, "blake3");
        require(
            field,
            section.offset,
            self.section_bytes(section),
            &section.blake3,
        )
    }

    /// Who is said to have signed; `None` where nobody has. Proves nothing: see [`Package::verify_signature`].
    pub fn key_id(&self) -> Option<PublicKey> {
        self.header
            .ext
            .as_ref()
            .filter(|ext| ext.is_signed())
            .map(|ext| PublicKey(ext.key_id))
    }

    /// Checks that one of `trusted` signed this package, and says which.
    pub fn verify_signature(&self, trusted: &[PublicKey]) -> Result<PublicKey, RtsError> {
        let (key, ext) = self.signer()?;
        if !trusted.contains(&key) {
            return Err(RtsError::Foreign {
                found: key,
                trusted: trusted.len(),
            });
        }
        key.verify(self.header_bytes, &ext.signature)?;
        Ok(key)
    }

    /// Checks the signature with the key that the package names itself: sound, but not yet trusted.
    pub fn verify_own_signature(&self) -> Result<PublicKey, RtsError> {
        let (key, ext) = self.signer()?;
        key.verify(self.header_bytes, &ext.signature)?;
        Ok(key)
    }

    fn signer(&self) -> Result<(PublicKey, &Extension), RtsError> {
        let ext = self
            .header
            .ext
            .as_ref()
            .filter(|ext| ext.is_signed())
            .ok_or(RtsError::Unsigned)?;
        Ok((PublicKey(ext.key_id), ext))
    }

    /// Names the content, whoever signed it; plain packages commit to none.
    pub fn digest(&self) -> Option<Digest> {
        self.header.ext.as_ref()?;
        Some(Digest::of(
            self.header_bytes.get(..KEY_AT).unwrap_or_default(),
        ))
    }

    /// Begins the check of every byte outside the tensors.
    pub fn verification(&self, kind: WindowKind) -> Result<Verification<'a>, RtsError> {
        Verification::new(self, kind)
    }

    /// Hashes the block list and, if it is right, gives it.
    pub fn blocks(&self) -> Result<Blocks<'a>, RtsError> {
        let ext = self.header.ext.as_ref().ok_or_else(|| RtsError::Plain {
            field: "block list".into(),
        })?;
        let bytes = slice(self.window, ext.blocks_offset, ext.content_end());
        require(
            "blocks_blake3",
            ext.blocks_offset,
            bytes,
            &ext.blocks_blake3,
        )?;
        let (list, _) = bytes.as_chunks::<HASH_BYTES>();
        let tensors = (self.header.tensor_offset, self.header.tensor_end);
        Ok(Blocks {
            list,
            bytes: slice(self.window, 0, ext.table_offset),
            tensors,
        })
    }
}

#[cfg(test)]
impl Package<'_> {
    /// The same package over other bytes, for tests that damage what parsing does not look at.
    pub(crate) fn over<'b>(&self, window: &'b [u8]) -> Package<'b> {
        Package {
            window,
            header_bytes: window.first_chunk().unwrap(),
            header: self.header.clone(),
            manifest: None,
        }
    }
}

/// Refuses a service whose image is an added file that the package does not hold.
pub(crate) fn check_images(
    manifest: &Manifest,
    holds: impl Fn(&str) -> bool,
) -> Result<(), ManifestError> {
    for service in &manifest.services {
        if let Image::Added(name) = &service.image
            && !holds(name)
        {
            let field = format!("service {}: image", service.name);
            return Err(ManifestError::value(
                field,
                name,
                "vector_boot, vb-services or an added executable",
            ));
        }
    }
    Ok(())
}

/// Bytes `from..to` of the window; `parse` proved the ranges, so the empty slice is for the types only.
pub(crate) fn slice(window: &[u8], from: u64, to: u64) -> &[u8] {
    match (usize::try_from(from), usize::try_from(to)) {
        (Ok(from), Ok(to)) => window.get(from..to).unwrap_or_default(),
        _ => &[],
    }
}

fn require(
    field: impl Into<Field>,
    at: u64,
    bytes: &[u8],
    expected: &Digest,
) -> Result<(), RtsError> {
    let found = Digest::of(bytes);
    if found == *expected {
        return Ok(());
    }
    Err(RtsError::digest(field, at, &found, expected))
}
