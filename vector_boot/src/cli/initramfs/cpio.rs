//! The newc form of cpio, as the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst` has it.
//!
//! Entries are kept by name and written sorted, parents before children, with uid, gid and time zero and
//! numbered inodes: the same entries give the same bytes.
//! Never here: reading files, or anything of what the entries mean. Start with [`Writer`].

use std::collections::BTreeMap;

/// `c_namesize` that the kernel accepts: its PATH_MAX of 4096 with the final zero byte.
const NAME_BYTES_MAX: usize = 4095;

const FOLDER: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;
const TRAILER: &str = "TRAILER!!!";

/// Why an entry cannot be in the archive.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CpioError {
    #[error(
        "initramfs entry {name:?}: the name is empty, absolute, not normal, or over {NAME_BYTES_MAX} bytes"
    )]
    Name { name: String },
    #[error("initramfs entry {name}: in the archive already")]
    Twice { name: String },
    #[error(
        "initramfs entry {name}: {bytes} bytes, limit {} (a 32-bit size field)",
        u32::MAX
    )]
    TooLarge { name: String, bytes: usize },
}

struct Content {
    mode: u32,
    device: (u32, u32),
    data: Vec<u8>,
}

/// Collects entries and writes them out sorted.
pub(super) struct Writer {
    entries: BTreeMap<String, Content>,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
        }
    }

    /// Adds an empty folder that everyone may read; one that is there already stays.
    pub(super) fn folder(&mut self, name: &str) -> Result<(), CpioError> {
        check_name(name)?;
        if self
            .entries
            .get(name)
            .is_some_and(|entry| entry.mode & FOLDER != 0)
        {
            return Ok(());
        }
        self.add(
            name,
            Content {
                mode: FOLDER | 0o755,
                device: (0, 0),
                data: Vec::new(),
            },
        )
    }

    /// Adds a regular file; its folders come with it.
    pub(super) fn file(
        &mut self,
        name: &str,
        permissions: u32,
        data: &[u8],
    ) -> Result<(), CpioError> {
        if u32::try_from(data.len()).is_err() {
            return Err(CpioError::TooLarge {
                name: name.to_owned(),
                bytes: data.len(),
            });
        }
        self.add(
            name,
            Content {
                mode: REGULAR | permissions,
                device: (0, 0),
                data: data.to_vec(),
            },
        )
    }

    /// Adds a character device; only the kernel, as root, makes one when it unpacks the archive.
    pub(super) fn character_device(
        &mut self,
        name: &str,
        permissions: u32,
        major: u32,
        minor: u32,
    ) -> Result<(), CpioError> {
        self.add(
            name,
            Content {
                mode: CHARACTER | permissions,
                device: (major, minor),
                data: Vec::new(),
            },
        )
    }

    fn add(&mut self, name: &str, content: Content) -> Result<(), CpioError> {
        check_name(name)?;
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.folder(parent)?;
        }
        match self.entries.insert(name.to_owned(), content) {
            None => Ok(()),
            Some(_) => Err(CpioError::Twice {
                name: name.to_owned(),
            }),
        }
    }

    /// The archive's bytes.
    pub(super) fn finish(&self) -> Result<Vec<u8>, CpioError> {
        let mut out = Vec::new();
        for (inode, (name, content)) in (1_u32..).zip(&self.entries) {
            put(&mut out, inode, name, content)?;
        }
        let end = Content {
            mode: 0,
            device: (0, 0),
            data: Vec::new(),
        };
        put(&mut out, 0, TRAILER, &end)?;
        Ok(out)
    }
}

/// A name is relative and normal: the kernel would take `..` and `//` as they stand.
fn check_name(name: &str) -> Result<(), CpioError> {
    let normal = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if normal && name.len() <= NAME_BYTES_MAX && name != TRAILER && !name.contains('\0') {
        Ok(())
    } else {
        Err(CpioError::Name {
            name: name.to_owned(),
        })
    }
}

/// Header, name and data, each ending on four bytes.
fn put(out: &mut Vec<u8>, inode: u32, name: &str, content: &Content) -> Result<(), CpioError> {
    let too_large = |_| CpioError::TooLarge {
        name: name.to_owned(),
        bytes: content.data.len(),
    };
    let size = u32::try_from(content.data.len()).map_err(too_large)?;
    let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
    let links = if content.mode & FOLDER == 0 { 1 } else { 2 };
    // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    let (major, minor) = content.device;
    let fields = [
        inode,
        content.mode,
        0,
        0,
        links,
        0,
        size,
        0,
        0,
        major,
        minor,
        name_size,
        0,
    ];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(&content.data);
    pad(out);
    Ok(())
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

/// What the archive says of one entry; the tests' own reading, apart from the writer.
#[cfg(test)]
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) mode: u32,
    pub(super) device: (u32, u32),
    pub(super) data: Vec<u8>,
}

/// Reads an archive back, strictly: anything but what a deterministic writer makes is an error.
#[cfg(test)]
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    let mut at = 0;
    loop {
        let header = bytes
            .get(at..at + 110)
            .ok_or_else(|| format!("header at {at} is cut off"))?;
        if &header[..6] != b"070701" {
            return Err(format!("no magic at {at}"));
        }
        let text = std::str::from_utf8(&header[6..]).map_err(|error| error.to_string())?;
        let field =
            |n: usize| u32::from_str_radix(&text[n * 8..n * 8 + 8], 16).map_err(|e| e.to_string());
        for zero in [2, 3, 5, 7, 8, 12] {
            if field(zero)? != 0 {
                return Err(format!("field {zero} at {at} is not zero"));
            }
        }
        let (size, name_size) = (field(6)? as usize, field(11)? as usize);
        let name_at = at + 110;
        let name = bytes
            .get(name_at..name_at + name_size)
            .ok_or("name is cut off")?;
        let name = name.strip_suffix(b"\0").ok_or("name has no end")?;
        let data_at = (name_at + name_size).next_multiple_of(4);
        let data = bytes
            .get(data_at..data_at + size)
            .ok_or("data is cut off")?;
        at = (data_at + size).next_multiple_of(4);
        if name == TRAILER.as_bytes() {
            return if at == bytes.len() {
                Ok(entries)
            } else {
                Err("bytes behind the trailer".into())
            };
        }
        entries.push(Entry {
            name: String::from_utf8(name.to_vec()).map_err(|error| error.to_string())?,
            mode: field(1)?,
            device: (field(9)?, field(10)?),
            data: data.to_vec(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_leave_the_archive_are_refused() {
        for name in [
            "",
            "/init",
            "a//b",
            "a/../b",
            "./a",
            "a/",
            "TRAILER!!!",
            "a\0b",
        ] {
            let mut writer = Writer::new();
            let refused = writer.file(name, 0o644, b"");
            assert_eq!(
                refused,
                Err(CpioError::Name {
                    name: name.to_owned()
                }),
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_second_entry_of_one_name_is_refused() {
        let mut writer = Writer::new();
        writer.file("init", 0o755, b"one").unwrap();
        assert!(matches!(
            writer.file("init", 0o755, b"two"),
            Err(CpioError::Twice { .. })
        ));
        assert!(matches!(
            writer.folder("init"),
            Err(CpioError::Twice { .. })
        ));
        writer.folder("dev").unwrap();
        writer.folder("dev").unwrap();
    }

    #[test]
    fn parents_come_before_their_children() {
        let mut writer = Writer::new();
        writer.file("a/b/c", 0o600, b"x").unwrap();
        writer.character_device("a/tty", 0o600, 4, 64).unwrap();
        let entries = parse(&writer.finish().unwrap()).unwrap();
        let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/tty"]);
        assert_eq!(entries[3].device, (4, 64));
        assert_eq!(entries[2].mode, 0o100_600);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            files in prop::collection::btree_map("[a-z]{1,9}", prop::collection::vec(any::<u8>(), 0..70), 0..9),
        ) {
            let mut writer = Writer::new();
            for (name, data) in &files {
                writer.file(name, 0o644, data).unwrap();
            }
            let bytes = writer.finish().unwrap();
            let back: BTreeMap<_, _> =
                parse(&bytes).unwrap().into_iter().map(|entry| (entry.name, entry.data)).collect();
            prop_assert_eq!(back, files);
            for cut in 0..bytes.len() {
                prop_assert!(parse(&bytes[..cut]).is_err());
            }
        }
    }
}
