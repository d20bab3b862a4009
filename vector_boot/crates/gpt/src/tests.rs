//! Tables of our own making, whole, damaged, torn and hostile.

use crate::fuzz::{apply, fuzz_body, reader};
use crate::table::{HEADER_BYTES, checksum_of};
use crate::{Growth, Partition, Problem, Table, find, plan_growth};
use proptest::prelude::*;

const LINUX: [u8; 16] = [
    0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
];
const MIB: usize = 1 << 20;

/// A disk of so many MiB with partitions of whole MiB (name, first, last) and both tables.
fn disk(sector: usize, mib: usize, rows: &[(&str, usize, usize)]) -> Vec<u8> {
    let mut disk = vec![0; mib * MIB];
    let lba = |mib: usize| (mib * MIB / sector) as u64;
    let mut entries = vec![0u8; 128 * 128];
    for (n, (name, first, last)) in rows.iter().enumerate() {
        let e = &mut entries[n * 128..(n + 1) * 128];
        e[..16].copy_from_slice(&LINUX);
        e[32..40].copy_from_slice(&lba(*first).to_le_bytes());
        e[40..48].copy_from_slice(&(lba(*last) - 1).to_le_bytes());
        for (i, unit) in name.encode_utf16().enumerate() {
            e[56 + 2 * i..58 + 2 * i].copy_from_slice(&unit.to_le_bytes());
        }
    }
    let last = mib * MIB / sector - 1;
    let second = last - entries.len() / sector;
    for (own, other, table) in [(1, last, 2), (last, 1, second)] {
        let mut header = [0u8; HEADER_BYTES];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..12].copy_from_slice(&0x10000u32.to_le_bytes());
        header[12..16].copy_from_slice(&92u32.to_le_bytes());
        for (at, value) in [
            (24, own),
            (32, other),
            (40, MIB / sector),
            (48, second - 1),
            (72, table),
        ] {
            header[at..at + 8].copy_from_slice(&(value as u64).to_le_bytes());
        }
        header[80..84].copy_from_slice(&128u32.to_le_bytes());
        header[84..88].copy_from_slice(&128u32.to_le_bytes());
        header[88..92].copy_from_slice(&crc32fast::hash(&entries).to_le_bytes());
        let sum = checksum_of(&header);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        apply(&mut disk, (own * sector) as u64, &header);
        apply(&mut disk, (table * sector) as u64, &entries);
    }
    disk[446 + 4] = 0xee;
    disk[446 + 8] = 1;
    let counted = u32::try_from(last).unwrap();
    disk[446 + 12..446 + 16].copy_from_slice(&counted.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

fn look(disk: &[u8], name: &str) -> Result<Option<Partition>, Problem<&'static str>> {
    find(&mut reader(disk), disk.len() as u64, name)
}

fn plan(disk: &[u8], sector: usize) -> Result<Option<Growth>, Problem<&'static str>> {
    let sector = u32::try_from(sector).unwrap();
    plan_growth(&mut reader(disk), disk.len() as u64, sector, "data")
}

/// A disk that was 8 MiB and is 12.
fn grown(sector: usize) -> Vec<u8> {
    let mut disk = disk(sector, 8, &[("log", 1, 3), ("data", 3, 7)]);
    disk.resize(12 * MIB, 0);
    disk
}

#[test]
fn the_named_partition_is_found_with_either_sector_and_either_table() {
    for sector in [512usize, 4096] {
        let mut disk = disk(sector, 8, &[("data", 1, 2), ("log", 2, 5)]);
        let wanted = Partition {
            first: 2 * MIB as u64,
            bytes: 3 * MIB as u64,
            sector_bytes: sector as u32,
        };
        assert_eq!(look(&disk, "log"), Ok(Some(wanted)));
        disk[sector + 30] ^= 1;
        assert_eq!(look(&disk, "log"), Ok(Some(wanted)), "second table");
        let last = disk.len() - sector;
        disk[last + 30] ^= 1;
        let refused = look(&disk, "log").unwrap_err().to_string();
        assert!(refused.contains("checksum of the header"), "{refused}");
        let absent = look(&self::disk(sector, 8, &[]), "nope").unwrap_err();
        assert!(absent.to_string().contains("nope"));
    }
    assert_eq!(look(&vec![0; 65536], "log"), Ok(None));
}

#[test]
fn truncation_and_any_flip_of_the_header_never_give_a_partition() {
    let good = disk(512, 4, &[("log", 1, 2)]);
    for end in 0..good.len() / 4096 {
        fuzz_body(&good[..end * 4096]);
    }
    for at in 512..512 + HEADER_BYTES {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        let last = bad.len() - 512;
        bad[last..].fill(0);
        assert!(!matches!(look(&bad, "log"), Ok(Some(_))), "byte {at}");
    }
}

#[test]
fn a_disk_that_was_made_larger_gives_its_room_to_the_last_partition_once() {
    for sector in [512, 4096] {
        let mut disk = grown(sector);
        let growth = plan(&disk, sector).unwrap().expect("a growth");
        let (before, after) = (4 * MIB as u64, 8 * MIB as u64);
        assert_eq!(
            (
                growth.number,
                growth.first,
                growth.bytes_before,
                growth.bytes
            ),
            (2, 3 * MIB as u64, before, after)
        );
        fuzz_body(&disk);
        for write in &growth.writes {
            apply(&mut disk, write.at, &write.bytes);
        }
        assert_eq!(plan(&disk, sector), Ok(None));
        let sectors = u32::from_le_bytes(*disk[446 + 12..].first_chunk().unwrap());
        assert_eq!(sectors as usize, disk.len() / sector - 1);
    }
    let same = disk(512, 8, &[("log", 1, 3), ("data", 3, 7)]);
    assert_eq!(plan(&same, 512), Ok(None));
    let mut little = same.clone();
    little.resize(same.len() + 8192, 0);
    assert_eq!(plan(&little, 512), Ok(None), "less than is worth it");
}

#[test]
fn tables_that_are_not_ours_are_refused_with_a_reason() {
    let refusal = |change: &dyn Fn(&mut Vec<u8>), rows: &[(&str, usize, usize)]| {
        let mut disk = disk(512, 8, rows);
        change(&mut disk);
        disk.resize(12 * MIB, 0);
        plan(&disk, 512).unwrap_err().to_string()
    };
    let ours = [("log", 1, 3), ("data", 3, 7)];
    let nothing = |_: &mut Vec<u8>| {};
    let behind = refusal(&nothing, &[("data", 1, 3), ("log", 3, 7)]);
    assert!(
        behind.contains("end of another partition: 14335, limit 2048"),
        "{behind}"
    );
    let twice = refusal(&nothing, &[("data", 1, 3), ("data", 3, 7)]);
    assert!(twice.contains("two partitions"), "{twice}");
    let absent = refusal(&nothing, &[("log", 1, 3)]);
    assert!(absent.contains("no partition named data"), "{absent}");
    let hybrid = refusal(&|d| d[446 + 16 + 4] = 0x83, &ours);
    assert!(hybrid.contains("not protective"), "{hybrid}");
    let first = refusal(&|d| d[512 + 40] ^= 1, &ours);
    assert!(first.contains("checksum of the header"), "{first}");
    let entries = refusal(&|d| d[1024 + 60] ^= 1, &ours);
    assert!(entries.contains("checksum of the entries"), "{entries}");
    let second = refusal(
        &|d| {
            let at = d.len() - 512 + 40;
            d[at] ^= 1;
        },
        &ours,
    );
    assert!(second.contains("checksum of the header"), "{second}");
    let none = refusal(
        &|d| {
            let at = d.len() - 512;
            d[at..].fill(0);
        },
        &ours,
    );
    assert!(none.contains("sector of the second table"), "{none}");
    let shrunk = &disk(512, 8, &ours)[..6 * MIB];
    assert!(plan(shrunk, 512).is_err());
}

/// What the kernel sees: the first table, and the one it names; never the one at the end by itself.
fn seen(disk: &[u8], sector: u32) -> Table {
    Table::load(&mut reader(disk), disk.len() as u64, sector, 1)
        .expect("a table that holds")
        .expect("a table")
}

proptest! {
    // Each case copies disks of megabytes.
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Some sectors of the write under way reached the disk, in any order, and none after it.
    #[test]
    fn a_power_cut_at_any_sector_leaves_the_old_partition_or_the_new_one(
        sector in prop_oneof![Just(512usize), Just(4096)],
        done in 0usize..7,
        reached in proptest::collection::vec(any::<bool>(), 64),
        again in 0usize..7,
    ) {
        let mut disk = grown(sector);
        let old = seen(&disk, sector as u32);
        let growth = plan(&disk, sector).unwrap().expect("a growth");
        let mut goal = disk.clone();
        growth.writes.iter().for_each(|w| apply(&mut goal, w.at, &w.bytes));
        let new = seen(&goal, sector as u32);
        for write in growth.writes.iter().take(done) {
            apply(&mut disk, write.at, &write.bytes);
        }
        if let Some(torn) = growth.writes.get(done) {
            for (n, part) in torn.bytes.chunks(sector).enumerate() {
                if reached[n % reached.len()] {
                    apply(&mut disk, torn.at + (n * sector) as u64, part);
                }
            }
        }
        let now = seen(&disk, sector as u32);
        let rows = |t: &Table| t.partitions().collect::<Vec<_>>();
        prop_assert!(rows(&now) == rows(&old) || rows(&now) == rows(&new));
        // The kernel wants the second table where the first one says.
        prop_assert!(Table::load(&mut reader(&disk), disk.len() as u64, sector as u32, now.alternate).unwrap().is_some());
        // The next boot goes on, even if it is cut off as well, and with a disk that grew again.
        disk.resize(disk.len() + 2 * MIB, 0);
        if let Some(growth) = plan(&disk, sector).unwrap() {
            growth.writes.iter().take(again).for_each(|w| apply(&mut disk, w.at, &w.bytes));
        }
        seen(&disk, sector as u32);
        fuzz_body(&disk);
    }

    #[test]
    fn a_table_with_wrong_fields_and_right_checksums_harms_nobody(
        fields in proptest::collection::vec((0usize..11, any::<u64>(), 0u32..64), 1..4),
        in_entry in proptest::collection::vec((0usize..256, any::<u8>()), 0..6),
    ) {
        let mut disk = grown(512);
        for (at, byte) in in_entry {
            disk[1024 + at] = byte;
        }
        let places = [12, 24, 32, 40, 48, 72, 80, 84, 88, 8, 56];
        for (place, value, shift) in fields {
            // Small values reach further than random ones.
            let value = value >> shift;
            disk[512 + places[place]..][..8].copy_from_slice(&value.to_le_bytes());
        }
        let sum = crc32fast::hash(&disk[1024..1024 + 128 * 128]);
        disk[512 + 88..512 + 92].copy_from_slice(&sum.to_le_bytes());
        let sum = checksum_of(&disk[512..1024]);
        disk[512 + 16..512 + 20].copy_from_slice(&sum.to_le_bytes());
        fuzz_body(&disk);
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..9000)) {
        fuzz_body(&bytes);
    }
}
