//! To which log a folder of objects belongs, and how far that log had come.
//!
//! What no pointer needs is destroyed for good. A folder beside another log, or beside an older copy of its own, would
//! lose everything that way; so the file `objects/log` says which log, and an event of it that must still be there.

use crate::committer::Ledger;
use crate::objects::Fresh;
use crate::query::hex;
use ledger_core::Hash;
use ledger_core::store::ObjectId;
use std::fs;
use std::io;
use std::path::Path;

/// Name of the file.
const FILE: &str = "log";

/// What the file says: `LOG-ID EVENT-ID COMMIT-ID`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Belongs {
    /// Of the superblock.
    pub log_id: [u8; 16],
    /// An event that the log had.
    pub event: u64,
    /// Its chain value.
    pub chain: Hash,
}

impl Belongs {
    /// Reads the file of a folder of objects; `None` where there is none yet.
    ///
    /// # Errors
    /// `InvalidData`, or as the system's.
    pub fn read(objects: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read_to_string(objects.join(FILE)) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let parsed = Self::parse(text.trim_end());
        parsed.map(Some).ok_or(io::ErrorKind::InvalidData.into())
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let log_id = format!("{:0>64}", words.next().filter(|w| w.len() == 32)?);
        let this = Self {
            log_id: *ObjectId::parse(&log_id)?.0.last_chunk()?,
            event: words.next()?.parse().ok()?,
            chain: ObjectId::parse(words.next()?)?.0,
        };
        words.next().is_none().then_some(this)
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// As the system's.
    pub fn write(&self, objects: &Path) -> io::Result<()> {
        let text = format!(
            "{} {} {}\n",
            hex(&self.log_id),
            self.event,
            hex(&self.chain)
        );
        let mut fresh = Fresh::begin(objects)?;
        fresh.write(text.as_bytes())?;
        fresh.keep(&objects.join(FILE))
    }

    /// Where a running ledger stands.
    #[must_use]
    pub fn now(ledger: &Ledger) -> Self {
        let standing = ledger.standing();
        Self {
            log_id: ledger.superblock().log_id,
            event: standing.id,
            chain: standing.chain,
        }
    }

    /// Whether a log is this one, and not behind it. `chain_of` gives an event's chain value, and `None` for one that was
    /// compacted away.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn holds(
        &self,
        log_id: &[u8; 16],
        head: u64,
        chain_of: impl FnOnce(u64) -> Option<Hash>,
    ) -> Result<(), String> {
        if self.log_id != *log_id {
            return Err(format!(
                "the objects are those of log {}",
                hex(&self.log_id)
            ));
        }
        if self.event > head {
            let event = self.event;
            return Err(format!("the log had {event} events and has {head}"));
        }
        match chain_of(self.event) {
            Some(chain) if self.event > 0 && chain != self.chain => Err(format!(
                "event {} was another when the objects were kept",
                self.event
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_as_written_and_tells_logs_apart() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Belongs::read(folder.path()).unwrap(), None);
        let belongs = Belongs {
            log_id: [7; 16],
            event: 12,
            chain: [9; 32],
        };
        belongs.write(folder.path()).unwrap();
        assert_eq!(Belongs::read(folder.path()).unwrap(), Some(belongs));
        let path = folder.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        for bad in ["", "x", &text[1..], &text[..40], &format!("{text} x")] {
            fs::write(&path, bad).unwrap();
            assert!(Belongs::read(folder.path()).is_err(), "{bad}");
        }
        let same = |_| Some([9; 32]);
        assert!(belongs.holds(&[7; 16], 12, same).is_ok());
        assert!(belongs.holds(&[7; 16], 99, |_| None).is_ok());
        assert!(belongs.holds(&[8; 16], 12, same).is_err());
        assert!(belongs.holds(&[7; 16], 11, same).is_err());
        assert!(belongs.holds(&[7; 16], 12, |_| Some([1; 32])).is_err());
    }
}
