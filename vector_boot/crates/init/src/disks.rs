//! Finding disks and partitions: by GPT partition name, or by the package's magic.
//!
//! Looks at `/sys/class/block` only; reads four bytes of what may be a package.

use crate::early::sorted;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Block devices that are looked at; a board with more names its own with `vb.rts=` and `vb.data=`.
const DEVICES_MAX: usize = 128;
/// What a package begins with.
const PACKAGE_MAGIC: [u8; 4] = *b"RTS\x01";

/// One disk or partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// `/dev/vda2`.
    pub path: PathBuf,
    /// The GPT name of a partition; empty for a whole disk.
    pub partition: String,
    /// Whether it is a partition at all.
    pub is_partition: bool,
    /// Whether the disk itself refuses writes.
    pub read_only: bool,
}

/// Every disk and partition with content, in the order of their names.
#[must_use]
pub fn devices() -> Vec<Device> {
    sorted(Path::new("/sys/class/block"))
        .iter()
        .take(DEVICES_MAX)
        .filter_map(|name| describe(name))
        .collect()
}

fn describe(name: &str) -> Option<Device> {
    let folder = Path::new("/sys/class/block").join(name);
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
    let uevent = read("uevent");
    let value = |key: &str| {
        uevent
            .lines()
            .find_map(|l| l.strip_prefix(key)?.strip_prefix('='))
            .unwrap_or_default()
            .to_owned()
    };
    (read("size").trim() != "0").then(|| Device {
        path: Path::new("/dev").join(name),
        partition: value("PARTNAME"),
        is_partition: value("DEVTYPE") == "partition",
        read_only: read("ro").trim() == "1",
    })
}

/// The partition of this name.
#[must_use]
pub fn partition<'d>(devices: &'d [Device], name: &str) -> Option<&'d Device> {
    devices
        .iter()
        .find(|d| d.is_partition && d.partition == name)
}

/// The first device that begins as a package does: the partitions named for it first, then whole
/// disks, then any other partition.
#[must_use]
pub fn package(devices: &[Device]) -> Option<&Device> {
    let rank = |d: &&Device| match (d.is_partition, d.partition.as_str()) {
        (true, "rts-a" | "rts-b" | "rts") => 0,
        (false, _) => 1,
        _ => 2,
    };
    let mut candidates: Vec<&Device> = devices.iter().collect();
    candidates.sort_by_key(rank);
    candidates.into_iter().find(|d| begins_as_package(&d.path))
}

fn begins_as_package(path: &Path) -> bool {
    let mut magic = [0u8; 4];
    File::open(path)
        .and_then(|mut f| f.read_exact(&mut magic))
        .is_ok()
        && magic == PACKAGE_MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_partition_wins_over_a_disk_and_a_disk_over_a_stray_partition() {
        let folder = tempfile::tempdir().unwrap();
        let device = |name: &str, partition: &str, content: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            let is_partition = !partition.is_empty();
            Device {
                path,
                partition: partition.to_owned(),
                is_partition,
                read_only: false,
            }
        };
        let all = [
            device("vda1", "home", b"RTS\x01zz"),
            device("vdb", "", b"RTS\x01"),
            device("vdc1", "rts-a", b"RTS\x01"),
            device("vdd", "", b"RT"),
        ];
        assert_eq!(package(&all), Some(&all[2]));
        assert_eq!(package(&all[..2]), Some(&all[1]));
        assert_eq!(package(&all[..1]), Some(&all[0]));
        assert_eq!(package(&all[3..]), None);
        assert_eq!(partition(&all, "home"), Some(&all[0]));
    }
}
