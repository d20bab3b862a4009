//! The port behind which objects are kept: bytes, named by their BLAKE3 hash.
//!
//! Adapters differ in where the bytes lie (memory here; a folder, segment files and a git repository in
//! `ledger`); one suite of tests, `ledger/tests/object_stores.rs`, holds all of them to what the trait says.

use crate::Hash;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// Largest object that a store takes whole; what is larger is streamed by who has a folder.
pub const OBJECT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Name of an object: BLAKE3 of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub Hash);

impl ObjectId {
    /// The name of these bytes.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self(*blake3::hash(content).as_bytes())
    }

    /// Reads 64 lower-case hex digits; anything else is no name, so that one object has one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        let digit = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        let mut hash = [0; 32];
        if digits.len() != 2 * hash.len() {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = pair else { return None };
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Some(Self(hash))
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Why a store did not do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// There is no such object.
    Missing(ObjectId),
    /// What lies there is not what the name says.
    Corrupt(ObjectId),
    /// The object is larger than a store takes.
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// No room is left; nothing of the object can be seen.
    Full,
    /// Another process has the store.
    Busy,
    /// Anything else that the system said.
    Io(String),
}

impl StoreError {
    /// The stable code of the protocols.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing(_) => "NOT_FOUND",
            Self::Corrupt(_) => "CORRUPT",
            Self::TooLarge { .. } => "TOO_LARGE",
            Self::Full => "QUOTA",
            Self::Busy => "CONFLICT",
            Self::Io(_) => "INTERNAL",
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(id) => write!(f, "no object {id}"),
            Self::Corrupt(id) => write!(f, "object {id} does not have the bytes of its name"),
            Self::TooLarge { bytes, bytes_max } => {
                write!(f, "an object of {bytes} bytes: at most {bytes_max}")
            }
            Self::Full => f.write_str("no room is left for the object"),
            Self::Busy => f.write_str("another process has the store"),
            Self::Io(why) => f.write_str(why),
        }
    }
}

impl core::error::Error for StoreError {}

/// Keeps objects by their content.
///
/// An object is there whole and right, or not at all: a crash, a full disk or a flipped bit may lose it or make
/// [`ObjectStore::get`] say [`StoreError::Corrupt`], and never gives other bytes.
pub trait ObjectStore {
    /// Keeps the object and gives its name; durable on return. One that is there already stays as it is, unless its
    /// bytes were damaged: then they are replaced.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Full`], or as the system's.
    fn put(&mut self, content: &[u8]) -> Result<ObjectId, StoreError>;

    /// The object's bytes, checked against its name.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Corrupt`], or as the system's.
    fn get(&self, id: &ObjectId) -> Result<Vec<u8>, StoreError>;

    /// Whether the object is there; its bytes are not looked at.
    ///
    /// # Errors
    /// As the system's.
    fn has(&self, id: &ObjectId) -> Result<bool, StoreError>;

    /// Hands over every name, in no order, until `each` says false. What is no object is passed over.
    ///
    /// # Errors
    /// As the system's.
    fn list(&self, each: &mut dyn FnMut(ObjectId) -> bool) -> Result<(), StoreError>;

    /// Takes the object away; whether it was there. Durable on return.
    ///
    /// # Errors
    /// As the system's.
    fn remove(&mut self, id: &ObjectId) -> Result<bool, StoreError>;
}

/// Checks that an object is not larger than a store takes.
///
/// # Errors
/// [`StoreError::TooLarge`].
pub fn check_size(content: &[u8]) -> Result<(), StoreError> {
    if content.len() > OBJECT_BYTES_MAX {
        return Err(StoreError::TooLarge {
            bytes: content.len() as u64,
            bytes_max: OBJECT_BYTES_MAX as u64,
        });
    }
    Ok(())
}

/// Gives the bytes only if they are what the name says.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub fn check_content(id: &ObjectId, content: Vec<u8>) -> Result<Vec<u8>, StoreError> {
    if ObjectId::of(&content) == *id {
        Ok(content)
    } else {
        Err(StoreError::Corrupt(*id))
    }
}

/// Objects in memory.
#[derive(Debug, Default, Clone)]
pub struct MemoryStore {
    objects: BTreeMap<ObjectId, Vec<u8>>,
}

impl MemoryStore {
    /// The bytes of each object, to be damaged by a test.
    pub fn contents_mut(&mut self) -> impl Iterator<Item = &mut Vec<u8>> {
        self.objects.values_mut()
    }
}

impl ObjectStore for MemoryStore {
    fn put(&mut self, content: &[u8]) -> Result<ObjectId, StoreError> {
        check_size(content)?;
        let id = ObjectId::of(content);
        let kept = self.objects.entry(id).or_default();
        if kept != content {
            *kept = content.to_vec();
        }
        Ok(id)
    }

    fn get(&self, id: &ObjectId) -> Result<Vec<u8>, StoreError> {
        let kept = self.objects.get(id).ok_or(StoreError::Missing(*id))?;
        check_content(id, kept.clone())
    }

    fn has(&self, id: &ObjectId) -> Result<bool, StoreError> {
        Ok(self.objects.contains_key(id))
    }

    fn list(&self, each: &mut dyn FnMut(ObjectId) -> bool) -> Result<(), StoreError> {
        let _whole = self.objects.keys().all(|id| each(*id));
        Ok(())
    }

    fn remove(&mut self, id: &ObjectId) -> Result<bool, StoreError> {
        Ok(self.objects.remove(id).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::ToOwned;
    use std::string::ToString;

    #[test]
    fn a_name_has_one_spelling() {
        let id = ObjectId::of(b"abc");
        let text = id.to_string();
        assert_eq!(ObjectId::parse(&text), Some(id));
        let cut = text.get(1..).unwrap().to_owned();
        for bad in [
            text.to_uppercase(),
            cut.clone(),
            text.clone() + "0",
            "..".to_owned(),
            String::new(),
            "g".to_owned() + &cut,
            "é".repeat(32),
        ] {
            assert_eq!(ObjectId::parse(&bad), None, "{bad}");
        }
    }
}
