//! The fuzz body: what holds for every disk, whatever its tables say.
//!
//! Runs under a fuzzer, and with a fixed seed in the ordinary tests.

use crate::{Growth, Table, find, plan_growth};

/// Reads `disk` as a disk, looks for `data` in it and carries out what is planned.
///
/// # Panics
/// Where a promise does not hold.
pub fn fuzz_body(disk: &[u8]) {
    let bytes = disk.len() as u64;
    if let Ok(Some(found)) = find(&mut reader(disk), bytes, "data") {
        let end = found.first.checked_add(found.bytes).expect("a range");
        assert!(found.bytes > 0 && end <= bytes, "{found:?}");
    }
    for sector in [512, 4096] {
        let plan = plan_growth(&mut reader(disk), bytes, sector, "data");
        match plan {
            Ok(Some(growth)) => carried_out(disk, sector, &growth),
            Ok(None) => {}
            Err(e) => {
                let line = e.to_string();
                assert!(line.chars().all(|c| !c.is_control()), "one line: {line:?}");
            }
        }
    }
}

/// What a plan does to a disk: the partition grows, everything else stays, and nothing is left to grow.
fn carried_out(disk: &[u8], sector: u32, growth: &Growth) {
    let bytes = disk.len() as u64;
    let table = |disk: &[u8], lba: u64| {
        let loaded = Table::load(&mut reader(disk), bytes, sector, lba);
        loaded.expect("a table that holds").expect("a table")
    };
    let before = table(disk, 1);
    let mut after = disk.to_vec();
    for write in &growth.writes {
        apply(&mut after, write.at, &write.bytes);
    }
    let first = table(&after, 1);
    let last = table(&after, first.alternate);
    assert_eq!(
        (last.lba + 1) * u64::from(sector),
        bytes / u64::from(sector) * u64::from(sector)
    );
    assert_eq!(first.entries, last.entries);
    assert_eq!((first.entries_lba, last.alternate), (2, 1));
    let changed = before.partitions().zip(first.partitions());
    for (old, new) in changed.filter(|(old, new)| old != new) {
        assert_eq!(u64::from(growth.number), old.index as u64 + 1);
        assert_eq!((&old.name, old.first), (&new.name, new.first));
        assert!(new.last > old.last && new.last <= first.last_usable);
        assert_eq!(first.place(&new).bytes, growth.bytes);
    }
    assert_eq!(before.partitions().count(), first.partitions().count());
    let again = plan_growth(&mut reader(&after), bytes, sector, "data");
    assert_eq!(again, Ok(None), "it grows once");
}

/// Reads from bytes in memory.
pub(crate) fn reader(disk: &[u8]) -> impl FnMut(u64, &mut [u8]) -> Result<(), &'static str> + '_ {
    move |at, buf| {
        let at = usize::try_from(at).map_err(|_| "past the end")?;
        let found = at.checked_add(buf.len()).and_then(|end| disk.get(at..end));
        buf.copy_from_slice(found.ok_or("past the end")?);
        Ok(())
    }
}

/// Writes into bytes in memory; what lies outside is a defect of the plan.
pub(crate) fn apply(disk: &mut [u8], at: u64, bytes: &[u8]) {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    let end = at.checked_add(bytes.len());
    let place = end.and_then(|end| disk.get_mut(at..end));
    place.expect("a write on the disk").copy_from_slice(bytes);
}
