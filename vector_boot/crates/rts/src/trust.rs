//! Whether a package may run here, decided on its header alone: nothing behind it is parsed before that.
//!
//! Owns the rule, so that PID 1 and `rts verify` refuse in the same words. Start with [`Trust::check`].

use crate::elf::Machine;
use crate::error::RtsError;
use crate::header::{HEADER_BYTES, Header};
use crate::sign::PublicKey;

/// What a package must satisfy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Whose packages are taken; with one, only theirs are.
    pub keys: Vec<PublicKey>,
    /// Refuse what none of [`Trust::keys`] signed, even if there is no key at all.
    pub required: bool,
}

impl Trust {
    /// Whether only packages that a key of ours signed are taken.
    pub fn binds(&self) -> bool {
        self.required || !self.keys.is_empty()
    }

    /// Refuses a package that may not run here; says who signed it, if somebody did.
    ///
    /// Where nobody is trusted, a signature must still be its own key's: a broken one is damage or malice.
    pub fn check(&self, header: &[u8; HEADER_BYTES]) -> Result<Option<PublicKey>, RtsError> {
        let ext = Header::parse(header)?.ext;
        let Some(ext) = ext.filter(|ext| ext.is_signed()) else {
            return if self.binds() {
                Err(RtsError::Unsigned)
            } else {
                Ok(None)
            };
        };
        let key = PublicKey(ext.key_id);
        if self.binds() && !self.keys.contains(&key) {
            return Err(RtsError::Foreign {
                found: key,
                trusted: self.keys.len(),
            });
        }
        key.verify(header, &ext.signature)?;
        Ok(Some(key))
    }
}

/// Refuses a package for another processor than this one; a plain package does not say.
pub fn check_machine(header: &[u8; HEADER_BYTES], here: Machine) -> Result<(), RtsError> {
    match Header::parse(header)?.ext {
        Some(ext) if ext.machine != here => Err(RtsError::OtherMachine {
            package: ext.machine,
            here,
        }),
        _ => Ok(()),
    }
}
