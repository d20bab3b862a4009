//! A package written to the block device that the next boot takes it from; a task of the helper.
//!
//! The header goes first and comes last: what was cut off in between begins as no package, and is never taken
//! for a whole one. Start with [`package`].

use crate::package;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
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
    if is_same(file, &to, 0..bytes).unwrap_or(false) {
        return check(&to, device);
    }
    to.write_all_at(&[0; HEADER], 0)
        .and_then(|()| to.sync_data())
        .map_err(|e| named("clear the header", e))?;
    copy(file, &to, HEADER as u64..bytes).map_err(|e| named("write", e))?;
    to.sync_data().map_err(|e| named("flush", e))?;
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0)
        .map_err(|e| format!("package: read: {e}"))?;
    to.write_all_at(&header, 0)
        .and_then(|()| to.sync_data())
        .map_err(|e| named("write the header", e))?;
    to.flush().map_err(|e| named("flush", e))?;
    check(&to, device)
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

fn is_same(a: &File, b: &File, range: std::ops::Range<u64>) -> io::Result<bool> {
    let mut same = true;
    each(a, b, range, |_, left, right| {
        same &= left == right;
        Ok(same)
    })?;
    Ok(same)
}

/// Copies what differs.
fn copy(from: &File, to: &File, range: std::ops::Range<u64>) -> io::Result<()> {
    each(from, to, range, |at, left, right| {
        if left != right {
            to.write_all_at(left, at)?;
        }
        Ok(true)
    })
}

/// Reads both piece by piece, as long as `go_on` says so.
fn each(
    a: &File,
    b: &File,
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
        b.read_exact_at(right, at)?;
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
