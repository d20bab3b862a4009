//! Leases over a restart of the service: a small file in the service's data folder, where it has one.
//!
//! Only capacity is kept, never a key: after a restart every `vbt1` token must be asked for anew, and
//! asking again for the same tenant and workload renews the lease in its slot. A file of another boot
//! is not taken, since its times mean nothing here.

use capacity_core::table::{LEASES_MAX, PRIORITY_MAX, Table};
use capacity_core::{Ask, AxisError, Demand};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Version of the file.
const VERSION: u32 = 1;
/// Name in the data folder.
const FILE_NAME: &str = "leases.json";
/// Largest file: [`LEASES_MAX`] leases of at most 400 bytes each.
const FILE_BYTES_MAX: u64 = 128 << 10;

/// One lease as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptLease {
    /// Tenant.
    pub tenant: String,
    /// Workload.
    pub workload: String,
    /// Per axis: min, want, weight.
    pub ask: [Option<(u16, u16, u16)>; capacity_core::AXES],
    /// End, milliseconds since boot.
    pub expires_ms: Option<u64>,
    /// Priority.
    pub priority: u8,
    /// Permission bits.
    pub permissions: u32,
}

impl KeptLease {
    /// The demand, checked again.
    ///
    /// # Errors
    /// [`AxisError`].
    pub fn demand(&self) -> Result<Ask, AxisError> {
        let mut ask = Ask::default();
        for (to, from) in ask.iter_mut().zip(self.ask) {
            *to = from
                .map(|(min, want, weight)| Demand::new(min, want, weight))
                .transpose()?;
        }
        Ok(ask)
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    boot_id: String,
    leases: Vec<KeptLease>,
}

/// The file.
pub struct Kept {
    path: PathBuf,
    boot_id: String,
}

impl Kept {
    /// The file in this data folder, for this boot.
    #[must_use]
    pub fn new(folder: &Path, boot_id: &str) -> Self {
        Self {
            path: folder.join(FILE_NAME),
            boot_id: boot_id.to_owned(),
        }
    }

    /// The leases of an earlier run of this boot; none if there is no file, or one of another boot.
    ///
    /// # Errors
    /// `InvalidData` for a file that is damaged; as `read(2)`.
    pub fn load(&self) -> io::Result<Vec<KeptLease>> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut text = String::new();
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(wrong(format!("{FILE_NAME}: over {FILE_BYTES_MAX} bytes")));
        }
        let content: Content =
            serde_json::from_str(&text).map_err(|e| wrong(format!("{FILE_NAME}: {e}")))?;
        if content.version != VERSION {
            return Err(wrong(format!(
                "{FILE_NAME}: version {}: {VERSION}",
                content.version
            )));
        }
        if content.boot_id != self.boot_id {
            return Ok(Vec::new());
        }
        if content.leases.len() > LEASES_MAX
            || content.leases.iter().any(|l| l.priority > PRIORITY_MAX)
        {
            return Err(wrong(format!(
                "{FILE_NAME}: over {LEASES_MAX} leases or priority {PRIORITY_MAX}"
            )));
        }
        Ok(content.leases)
    }

    /// Replaces the file by the leases of `table`; the appliance's own lease is made at every start.
    ///
    /// # Errors
    /// As `write(2)` and `rename(2)`; the old file stands.
    pub fn save(&self, table: &Table) -> io::Result<()> {
        let leases = table.leases().filter(|(_, _, lease)| !lease.pinned);
        let leases = leases.map(|(_, _, lease)| KeptLease {
            tenant: lease.tenant.to_string(),
            workload: lease.workload.to_string(),
            ask: lease
                .ask
                .map(|d| d.map(|d| (d.min().get(), d.want().get(), d.weight()))),
            expires_ms: lease.expires_ms,
            priority: lease.priority,
            permissions: lease.permissions,
        });
        let content = Content {
            version: VERSION,
            boot_id: self.boot_id.clone(),
            leases: leases.collect(),
        };
        let text = serde_json::to_string(&content).map_err(io::Error::other)?;
        let fresh = self.path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(text.as_bytes())?;
        // A restart of the service needs no more than the page cache; a boot does not take it at all.
        drop(file);
        std::fs::rename(&fresh, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capacity_core::table::Admission;

    fn table() -> Table {
        let node = crate::measure::Meter::new(Path::new("/nonexistent"), Vec::new()).node();
        let mut table = Table::new(node);
        for (workload, pinned) in [("agents", true), ("w", false)] {
            let admission = Admission {
                tenant: "t",
                workload,
                ask: [Demand::new(100, 200, 3).ok(), None, None, None, None],
                expires_ms: Some(99),
                priority: 4,
                permissions: 5,
                pinned,
            };
            table.admit(0, &admission).unwrap();
        }
        table
    }

    #[test]
    fn leases_of_this_boot_come_back_and_of_another_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(folder.path(), "b1");
        assert!(kept.load().unwrap().is_empty());
        kept.save(&table()).unwrap();
        let leases = kept.load().unwrap();
        assert_eq!(leases.len(), 1);
        assert_eq!((leases[0].workload.as_str(), leases[0].priority), ("w", 4));
        assert_eq!(leases[0].demand().unwrap()[0].unwrap().weight(), 3);
        assert!(Kept::new(folder.path(), "b2").load().unwrap().is_empty());
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(folder.path(), "b1");
        kept.save(&table()).unwrap();
        let path = folder.path().join(FILE_NAME);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(kept.load().is_err(), "{cut} bytes were taken");
        }
        let large = " ".repeat(FILE_BYTES_MAX as usize + 1);
        std::fs::write(&path, large).unwrap();
        assert!(kept.load().unwrap_err().to_string().contains("over"));
    }
}
