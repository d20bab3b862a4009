//! A package written to the block device that the next boot takes it from; a task of the helper.
//!
//! The header goes first and comes last: what was cut off in between begins as no package, and is never taken
//! for a whole one. Start with [`package`].

use crate::package;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Bytes that are compared, and written if they differ, at a time.
const PIECE_BYTES: usize = 1 << 20;
/// The header, which makes the rest a package.
const HEADER: usize = rts::HEADER_BYTES;
/// open(2): a block device that is mounted is refused.
const O_EXCL: i32 = 0o200;
/// Bytes hashed between two looks.
const HASH_STEP_BYTES: usize = 1 << 20;

/// Writes the package to `device`, reads it back and hashes all of it. Answers its bytes.
///
/// # Errors
/// What was wrong, naming the device; before anything was written for what can be known before.
pub fn package(file: &File, device: &Path) -> Result<u64, String> {
    let named = |what: &str, e: io::Error| format!("{}: {what}: {e}", device.display());
    let bytes = package::bytes(file)?;
    let mut to = File::options()
        .read(true)
        .write(true)
        .custom_flags(O_EXCL)
        .open(device)
        .map_err(|e| named("open for writing", e))?;
    let room = to.seek(SeekFrom::End(0)).map_err(|e| named("size", e))?;
    if room < bytes {
        return Err(format!(
            "{}: package of {bytes} bytes, limit {room}",
            device.display()
        ));
    }
    if !is_same(file, &to, 0..bytes).unwrap_or(false) {
        write(file, &to, bytes).map_err(|(what, e)| named(what, e))?;
    }
    check(&to, device)
}

/// Where a package is written: a device, or one that loses its power.
trait Place {
    fn read(&self, into: &mut [u8], at: u64) -> io::Result<()>;
    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// What was written before outlives a cut from here on.
    fn flush(&self) -> io::Result<()>;
}

impl Place for File {
    fn read(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(into, at)
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn flush(&self) -> io::Result<()> {
        self.sync_data()
    }
}

fn write(file: &File, to: &impl Place, bytes: u64) -> Result<(), (&'static str, io::Error)> {
    let step = |what: &'static str| move |e| (what, e);
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0)
        .map_err(step("read the package"))?;
    to.write(&[0; HEADER], 0)
        .and_then(|()| to.flush())
        .map_err(step("clear the header"))?;
    copy(file, to, HEADER as u64..bytes)
        .and_then(|()| to.flush())
        .map_err(step("write"))?;
    to.write(&header, 0)
        .and_then(|()| to.flush())
        .map_err(step("write the header"))
}

/// Reads it back from the disk, not from memory.
fn check(device: &File, path: &Path) -> Result<u64, String> {
    // Without it the kernel's cache answers, which says less.
    let _ = sys::space::forget(device);
    let wrong = |e: String| format!("{}: after it was written: {e}", path.display());
    package::verify(device, HASH_STEP_BYTES).map_err(wrong)?;
    package::scrub(device, 0, u32::MAX).map_err(|damage| wrong(damage.text))?;
    package::bytes(device)
}

fn is_same(a: &File, b: &impl Place, range: std::ops::Range<u64>) -> io::Result<bool> {
    let mut same = true;
    each(a, b, range, |_, left, right| {
        same &= left == right;
        Ok(same)
    })?;
    Ok(same)
}

/// Copies what differs.
fn copy(from: &File, to: &impl Place, range: std::ops::Range<u64>) -> io::Result<()> {
    each(from, to, range, |at, left, right| {
        if left != right {
            to.write(left, at)?;
        }
        Ok(true)
    })
}

/// Reads both piece by piece, as long as `go_on` says so.
fn each(
    a: &File,
    b: &impl Place,
    range: std::ops::Range<u64>,
    mut go_on: impl FnMut(u64, &[u8], &[u8]) -> io::Result<bool>,
) -> io::Result<()> {
    let (mut left, mut right) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    let mut at = range.start;
    while at < range.end {
        let length = usize::try_from(range.end - at)
            .unwrap_or(PIECE_BYTES)
            .min(PIECE_BYTES);
        let (Some(left), Some(right)) = (left.get_mut(..length), right.get_mut(..length)) else {
            break;
        };
        a.read_exact_at(left, at)?;
        b.read(right, at)?;
        if !go_on(at, left, right)? {
            break;
        }
        at += length as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    #[test]
    fn what_is_no_package_and_what_does_not_fit_leaves_the_device_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (source, device) = (folder.path().join("s"), folder.path().join("d"));
        std::fs::write(&source, b"no package").unwrap();
        std::fs::write(&device, b"as it was").unwrap();
        let refusal = package(&File::open(&source).unwrap(), &device).unwrap_err();
        assert!(refusal.contains("header"), "{refusal}");
        assert_eq!(std::fs::read(&device).unwrap(), b"as it was");
    }

    /// A disk whose power goes after so many writes and flushes: what was flushed is there, and of what was written
    /// since each sector is, or is not.
    struct Cut {
        disk: RefCell<Vec<u8>>,
        unflushed: RefCell<Vec<(usize, Vec<u8>)>>,
        left: Cell<usize>,
    }

    const SECTOR: usize = 512;

    impl Cut {
        fn spend(&self) -> io::Result<()> {
            let left = self.left.get().checked_sub(1);
            self.left.set(left.ok_or(io::ErrorKind::NotConnected)?);
            Ok(())
        }

        fn now(&self) -> Vec<u8> {
            let mut all = self.disk.borrow().clone();
            for (at, bytes) in self.unflushed.borrow().iter() {
                all[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            all
        }

        /// What the next boot finds, by chance.
        fn after(self, mut chance: u64) -> Vec<u8> {
            let mut all = self.disk.into_inner();
            for (at, bytes) in self.unflushed.into_inner() {
                for (i, sector) in bytes.chunks(SECTOR).enumerate() {
                    chance = chance
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    if chance >> 63 == 1 {
                        let at = at + i * SECTOR;
                        all[at..at + sector.len()].copy_from_slice(sector);
                    }
                }
            }
            all
        }
    }

    impl Place for Cut {
        fn read(&self, into: &mut [u8], at: u64) -> io::Result<()> {
            let at = usize::try_from(at).unwrap();
            into.copy_from_slice(&self.now()[at..at + into.len()]);
            Ok(())
        }

        fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
            let written = (usize::try_from(at).unwrap(), bytes.to_vec());
            self.unflushed.borrow_mut().push(written);
            self.spend()
        }

        fn flush(&self) -> io::Result<()> {
            self.spend()?;
            let all = self.now();
            self.unflushed.borrow_mut().clear();
            *self.disk.borrow_mut() = all;
            Ok(())
        }
    }

    /// A package takes three pieces, so that a cut falls between them too.
    #[test]
    fn wherever_the_power_goes_what_begins_as_a_package_is_a_whole_one() {
        let bytes = 2 * PIECE_BYTES + 3 * SECTOR;
        let (old, new) = (vec![7u8; bytes + SECTOR], vec![9u8; bytes]);
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("new");
        std::fs::write(&source, &new).unwrap();
        let source = File::open(&source).unwrap();
        let whole = u64::try_from(bytes).unwrap();
        let mut seen = [0; 3];
        for left in 0..=8 {
            for chance in 1..=4 {
                let place = Cut {
                    disk: RefCell::new(old.clone()),
                    unflushed: RefCell::default(),
                    left: Cell::new(left),
                };
                let written = write(&source, &place, whole);
                assert_eq!(written.is_ok(), left == 8, "{left}");
                let found = place.after(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(chance));
                let kind = match found[0] {
                    0 => 0,
                    7 => usize::from(found == old),
                    _ => 2 * usize::from(found[..bytes] == new),
                };
                assert!(
                    kind > 0 || found[..HEADER] == [0; HEADER],
                    "cut at {left}: neither"
                );
                seen[kind] += 1;
            }
        }
        assert!(seen.iter().all(|n| *n > 0), "none, old and new: {seen:?}");
    }

    #[test]
    fn only_what_differs_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| folder.path().join(name));
        let mut bytes = vec![7u8; 3 * PIECE_BYTES + 5];
        std::fs::write(&paths[0], &bytes).unwrap();
        bytes[PIECE_BYTES + 1] = 8;
        std::fs::write(&paths[1], &bytes).unwrap();
        let open = |path| File::options().read(true).write(true).open(path).unwrap();
        let [from, to] = paths.each_ref().map(open);
        let all = 0..bytes.len() as u64;
        assert!(!is_same(&from, &to, all.clone()).unwrap());
        copy(&from, &to, all.clone()).unwrap();
        assert!(is_same(&from, &to, all).unwrap());
    }
}
