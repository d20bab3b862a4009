//! The device key: what signs the log's checkpoints, and what the audit keys of tenants are derived from.
//!
//! Owns `device.key` in the ledger's folder: made at the first boot, mode 0400, whole or not there. Where it cannot
//! be kept, or what is there cannot be trusted, the ledger goes on with a key that lasts as long as its process and
//! says so: it is the core of the machine, and a log without a lasting key is better than none.
//!
//! Never here: the text of checkpoints. Start with [`DeviceKey::open`]; offline commands use [`DeviceKey::read`].

use crate::files::{Lasting, There, replace};
use ed25519_dalek::{Signer, SigningKey};
use std::fmt;
use std::io;
use std::path::Path;
use sys::secret::{self, FileFault, Secret};

/// Name of the key's file in the ledger's folder.
pub const FILE: &str = "device.key";
/// `VBDEVKEY`, version 1 as a u32, four zeros, the seed, and the check below over all before it.
const FILE_BYTES: usize = 64;
const MAGIC: &[u8; 8] = b"VBDEVKEY";
const SEED_AT: usize = 16;
const CHECK_AT: usize = 48;
/// Context of the check: a byte that was damaged must not become another key.
const CHECK_CONTEXT: &str = "vb-ledger-device-key v1";
/// Bytes of the public key's hash that name the device: nobody finds another key for one by chance.
const ID_BYTES: usize = 8;

/// Why a key file gives no key.
#[derive(Debug)]
pub struct KeyFault {
    /// The file, or its folder.
    pub path: String,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a key file.
#[derive(Debug)]
pub enum Fault {
    /// There is none.
    Absent,
    /// It could not be opened, read or made.
    Io(io::Error),
    /// Others can read it, or it is somebody else's.
    Exposed(String),
    /// Bytes found.
    Length(u64),
    /// Its content was changed or cut.
    Damaged,
}

impl fmt::Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device key {}: ", self.path)?;
        match &self.fault {
            Fault::Absent => f.write_str("not there"),
            Fault::Io(e) => write!(f, "{e}"),
            Fault::Exposed(why) => f.write_str(why),
            Fault::Length(found) => write!(f, "{found} bytes, expected {FILE_BYTES}"),
            Fault::Damaged => f.write_str("its check does not hold"),
        }
    }
}

impl std::error::Error for KeyFault {}

impl KeyFault {
    fn new(path: &Path, fault: Fault) -> Self {
        Self {
            path: path.display().to_string(),
            fault,
        }
    }

    /// Whether there simply is no key yet.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self.fault, Fault::Absent)
    }
}

/// How long a key lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lasts {
    /// It lies in the ledger's folder.
    Kept,
    /// It was made now and lies there.
    Made,
    /// As long as this process, and why.
    Process(String),
}

/// A machine's key.
pub struct DeviceKey {
    seed: Secret<32>,
    public: [u8; 32],
    lasts: Lasts,
}

impl DeviceKey {
    /// The key of the ledger's folder; the first time, a new one. Where that fails, a key for this process.
    ///
    /// # Errors
    /// As `getrandom(2)` and `mmap(2)`: nothing about the folder is one.
    pub fn open(folder: Option<&Path>) -> io::Result<Self> {
        let why = match folder {
            None => "no folder: VB_DATA is not set".to_owned(),
            Some(folder) => match Self::read(folder) {
                Ok(key) => return Ok(key),
                Err(fault) if fault.is_absent() => {
                    let key = Self::draw(Lasts::Made)?;
                    match key.keep(folder) {
                        Ok(()) => return Ok(key),
                        Err(fault) => fault.to_string(),
                    }
                }
                // What is there is evidence, and perhaps all that is left of a key: it is not replaced.
                Err(fault) => fault.to_string(),
            },
        };
        Self::draw(Lasts::Process(why))
    }

    /// The key of a folder, which must be there.
    ///
    /// # Errors
    /// [`KeyFault`].
    pub fn read(folder: &Path) -> Result<Self, KeyFault> {
        let path = folder.join(FILE);
        let failed = |fault| KeyFault::new(&path, fault);
        let mut found = Ok(());
        let file = Secret::<FILE_BYTES>::new(|bytes| {
            found = secret::read_file(&path, bytes);
            Ok(())
        })
        .map_err(|e| failed(Fault::Io(e)))?;
        found.map_err(|fault| {
            failed(match fault {
                FileFault::Absent => Fault::Absent,
                FileFault::Io(e) => Fault::Io(e),
                FileFault::Exposed(why) => Fault::Exposed(why),
                FileFault::Length(bytes) => Fault::Length(bytes),
            })
        })?;
        let bytes = file.bytes();
        let (content, check) = bytes.split_at(CHECK_AT);
        let (head, seed) = content.split_at(SEED_AT);
        if head != head_of_file() || check != check_of(content) {
            return Err(failed(Fault::Damaged));
        }
        Self::of(Lasts::Kept, |into| {
            into.copy_from_slice(seed);
            Ok(())
        })
        .map_err(|e| failed(Fault::Io(e)))
    }

    fn draw(lasts: Lasts) -> io::Result<Self> {
        Self::of(lasts, |seed| sys::random::fill(seed))
    }

    fn of(lasts: Lasts, fill: impl FnOnce(&mut [u8; 32]) -> io::Result<()>) -> io::Result<Self> {
        let seed = Secret::new(fill)?;
        let public = SigningKey::from_bytes(seed.bytes()).verifying_key();
        Ok(Self {
            public: public.to_bytes(),
            seed,
            lasts,
        })
    }

    fn keep(&self, folder: &Path) -> Result<(), KeyFault> {
        let file = Secret::<FILE_BYTES>::new(|bytes| {
            let (content, check) = bytes.split_at_mut(CHECK_AT);
            let (head, seed) = content.split_at_mut(SEED_AT);
            head.copy_from_slice(&head_of_file());
            seed.copy_from_slice(self.seed.bytes());
            check.copy_from_slice(&check_of(content));
            Ok(())
        });
        file.and_then(|file| {
            replace(
                folder,
                FILE,
                There::Nothing(0o400),
                file.bytes(),
                Lasting::Durable,
            )
        })
        .map_err(|e| KeyFault::new(&folder.join(FILE), Fault::Io(e)))
    }

    /// Signs; `verify_strict` accepts it.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        // Made for each signature and wiped behind it; the seed alone stays, on its page.
        let key = SigningKey::from_bytes(self.seed.bytes());
        key.sign(message).to_bytes()
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// Names the device by its key: a device that loses its key is another, and a log that was begun anew on the
    /// same device is not another log to those who watch it.
    #[must_use]
    pub fn device_id(&self) -> String {
        device_id(&self.public)
    }

    /// How long it lasts.
    #[must_use]
    pub fn lasts(&self) -> &Lasts {
        &self.lasts
    }

    /// A secret of its own for each use, named by `context`.
    #[must_use]
    pub fn derive(&self, context: &str) -> zeroize::Zeroizing<[u8; 32]> {
        zeroize::Zeroizing::new(blake3::derive_key(context, self.seed.bytes()))
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceKey({}, {:?})", self.device_id(), self.lasts)
    }
}

/// The name of the device with this public key: `vb-` and 16 hex digits of the key's BLAKE3.
#[must_use]
pub fn device_id(public: &[u8; 32]) -> String {
    let hash = blake3::derive_key("vb-ledger-device-id v1", public);
    let digits: String = hash
        .iter()
        .take(ID_BYTES)
        .map(|b| format!("{b:02x}"))
        .collect();
    format!("vb-{digits}")
}

fn head_of_file() -> [u8; SEED_AT] {
    let mut head = [0; SEED_AT];
    let (magic, rest) = head.split_at_mut(MAGIC.len());
    magic.copy_from_slice(MAGIC);
    if let Some(version) = rest.first_mut() {
        *version = 1;
    }
    head
}

fn check_of(content: &[u8]) -> [u8; FILE_BYTES - CHECK_AT] {
    let whole = blake3::derive_key(CHECK_CONTEXT, content);
    std::array::from_fn(|i| whole.get(i).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signature, VerifyingKey};
    use std::os::unix::fs::PermissionsExt;

    fn permit(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn why(key: &DeviceKey) -> &str {
        match key.lasts() {
            Lasts::Process(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_key_of_a_folder_stays_the_same_and_signs() {
        let folder = tempfile::tempdir().unwrap();
        assert!(DeviceKey::read(folder.path()).unwrap_err().is_absent());
        let made = DeviceKey::open(Some(folder.path())).unwrap();
        assert_eq!(*made.lasts(), Lasts::Made);
        let kept = DeviceKey::open(Some(folder.path())).unwrap();
        assert_eq!(*kept.lasts(), Lasts::Kept);
        assert_eq!(made.public(), kept.public());
        assert_eq!(made.device_id(), kept.device_id());
        assert_eq!(*made.derive("a"), *kept.derive("a"));
        assert_ne!(*made.derive("a"), *kept.derive("b"));
        let signature = Signature::from_bytes(&kept.sign(b"said"));
        let public = VerifyingKey::from_bytes(kept.public()).unwrap();
        public.verify_strict(b"said", &signature).unwrap();
        assert!(public.verify_strict(b"sail", &signature).is_err());
        let mode = folder
            .path()
            .join(FILE)
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o400);
        assert!(!format!("{kept:?}").contains("seed"));
    }

    #[test]
    fn a_key_file_that_was_cut_or_changed_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        DeviceKey::open(Some(folder.path())).unwrap();
        let whole = std::fs::read(&path).unwrap();
        permit(&path, 0o600);
        let cuts = (0..whole.len()).map(|n| whole[..n].to_vec());
        let flips = (0..whole.len()).map(|n| {
            let mut changed = whole.clone();
            changed[n] ^= 1;
            changed
        });
        let longer = [whole.iter().copied().chain([0]).collect()];
        for bad in cuts.chain(flips).chain(longer) {
            std::fs::write(&path, &bad).unwrap();
            let fault = DeviceKey::read(folder.path()).unwrap_err();
            assert!(
                matches!(fault.fault, Fault::Length(_) | Fault::Damaged),
                "{fault}"
            );
        }
        std::fs::write(&path, &whole[..40]).unwrap();
        let key = DeviceKey::open(Some(folder.path())).unwrap();
        assert!(why(&key).contains("40 bytes, expected 64"), "{key:?}");
        assert_eq!(std::fs::read(&path).unwrap(), &whole[..40]);
    }

    #[test]
    fn a_key_that_others_can_read_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let first = DeviceKey::open(Some(folder.path())).unwrap();
        permit(&folder.path().join(FILE), 0o440);
        let key = DeviceKey::open(Some(folder.path())).unwrap();
        assert!(why(&key).contains("mode 0440"), "{key:?}");
        assert_ne!(first.public(), key.public());
        permit(&folder.path().join(FILE), 0o400);
        let again = DeviceKey::open(Some(folder.path())).unwrap();
        assert_eq!(first.public(), again.public());
    }

    #[test]
    fn without_a_folder_or_room_in_it_the_key_lasts_as_long_as_the_process() {
        let gone = Path::new("/nonexistent/folder");
        assert!(why(&DeviceKey::open(Some(gone)).unwrap()).contains("No such file"));
        assert!(why(&DeviceKey::open(None).unwrap()).contains("VB_DATA"));
        // Every write fails with ENOSPC there.
        let full = DeviceKey::open(Some(Path::new("/dev/full"))).unwrap();
        assert!(
            why(&full).contains("device key /dev/full/device.key"),
            "{full:?}"
        );
    }
}
