//! Blobs as the log says them: which pointers there are, whose they are, and where their newest object lies.
//!
//! A pointer is opaque: its name is the hash of the first ciphertext, which a random key made, so it says nothing of
//! what it points to. Rekeying leaves the name and changes the object; shredding takes the pointer away. The log holds
//! hashes and public keys alone; what opens an object lies elsewhere and can be destroyed.
//!
//! What is still coming is on no log, yet takes room on the disk: [`Unfinished`] counts it from its first piece on.
//!
//! Pure: [`Blobs::apply`] is a fold, the `may_*` functions decide.

use crate::epoch::{Text, hex, number};
use crate::share::Share;
use crate::store::ObjectId;
use crate::{Body, Hash};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// Event type: a pointer is new.
pub const PUT: &str = "blob.put";
/// Event type: a pointer has another object and other keys.
pub const REKEYED: &str = "blob.rekeyed";
/// Event type: a pointer and its keys are gone.
pub const SHREDDED: &str = "blob.shredded";

/// Largest blob: an object of a store, less the tags of its chunks.
pub const BLOB_BYTES_MAX: u64 = 60 * 1024 * 1024;
/// Recipients of one blob beside the ledger itself; their wrapped keys fit one page.
pub const RECIPIENTS_MAX: usize = 16;
/// Pointers, each some 190 bytes of memory: 32,768 with 128 tenants.
pub const POINTERS: Share = Share {
    own: 128,
    each: 4096,
    pool: 16 * 1024,
};
/// Bytes of one tenant's blobs, with those that are still coming.
pub const BYTES_OF_A_TENANT_MAX: u64 = 256 * 1024 * 1024;
/// Blobs that are coming at a time, each an open file and some 64 KiB of memory.
pub const UNFINISHED: Share = Share {
    own: 1,
    each: 8,
    pool: 56,
};
/// Bytes of all blobs that are coming at a time, beyond one of the largest that is each tenant's own.
pub const UNFINISHED_BYTES_POOL: u64 = 2 * BYTES_OF_A_TENANT_MAX;
/// Blobs that are coming at a time to take another's place.
pub const REKEYS_MAX: u64 = 8;

/// What an event says of a pointer's object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Bytes of the blob, before encryption.
    pub bytes: u64,
    /// Hash of the file that holds the wrapped keys.
    pub keys: Hash,
    /// The ciphertext.
    pub object: ObjectId,
    /// The object that it takes the place of; none for a new pointer.
    pub previous: Option<ObjectId>,
    /// X25519 keys of those who can open it beside the ledger.
    pub recipients: Vec<[u8; 32]>,
}

impl Manifest {
    /// The event's payload: canonical JSON of a fixed shape.
    #[must_use]
    pub fn payload(&self) -> String {
        let mut out = String::new();
        number(&mut out, "{\"bytes\":", self.bytes);
        out.push_str(",\"keys\":");
        hex(&mut out, &self.keys);
        out.push_str(",\"object\":");
        hex(&mut out, &self.object.0);
        out.push_str(",\"previous\":");
        match &self.previous {
            None => out.push_str("null"),
            Some(previous) => hex(&mut out, &previous.0),
        }
        out.push_str(",\"recipients\":[");
        for (n, recipient) in self.recipients.iter().enumerate() {
            out.push_str(if n == 0 { "" } else { "," });
            hex(&mut out, recipient);
        }
        out.push_str("]}");
        out
    }

    /// Reads a payload: exactly what [`Manifest::payload`] writes.
    #[must_use]
    pub fn parse(payload: &str) -> Option<Self> {
        let mut t = Text(payload);
        let bytes = t.skip("{\"bytes\":")?.number()?;
        let keys = t.skip(",\"keys\":")?.hash()?;
        let object = ObjectId(t.skip(",\"object\":")?.hash()?);
        t.skip(",\"previous\":")?;
        let previous = match t.0.strip_prefix("null") {
            Some(rest) => {
                t.0 = rest;
                None
            }
            None => Some(ObjectId(t.hash()?)),
        };
        t.skip(",\"recipients\":[")?;
        let mut recipients = Vec::new();
        while !t.0.starts_with(']') {
            if !recipients.is_empty() {
                t.skip(",")?;
            }
            if recipients.len() == RECIPIENTS_MAX {
                return None;
            }
            recipients.push(t.hash()?);
        }
        (t.0 == "]}").then_some(Self {
            bytes,
            keys,
            object,
            previous,
            recipients,
        })
    }
}

/// What a pointer points to now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Whose it is.
    pub tenant: Box<str>,
    /// The ciphertext.
    pub object: Hash,
    /// Hash of the file that holds the wrapped keys.
    pub keys: Hash,
    /// Bytes of the blob, before encryption.
    pub bytes: u64,
    /// The event that says so.
    pub event: u64,
}

/// All pointers that are not shredded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blobs {
    pointers: BTreeMap<Hash, Entry>,
    used: BTreeMap<Box<str>, Used>,
}

/// What one tenant uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Pointers.
    pub pointers: u64,
    /// Bytes behind them.
    pub bytes: u64,
}

/// Why it may not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum No {
    /// There is no such pointer of this tenant.
    Missing,
    /// The pointer changed since it was looked at.
    Changed,
    /// A pointer of this name is there already.
    Exists,
    /// The blob is larger than it may be.
    TooLarge(u64),
    /// The tenant has as many pointers as it may.
    Pointers(u64),
    /// The tenant has as many bytes as it may.
    Bytes(u64),
    /// As many blobs of the tenant are coming as may.
    Unfinished(u64),
    /// As many bytes of all are coming as may beyond what is each tenant's own.
    UnfinishedBytes,
    /// As many blobs are coming to take others' places as may.
    Rekeys,
}

impl No {
    /// The stable code of the protocols.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Missing => "NOT_FOUND",
            Self::Changed => "CONFLICT",
            Self::Exists => "DUPLICATE",
            Self::TooLarge(_) => "TOO_LARGE",
            Self::Pointers(_)
            | Self::Bytes(_)
            | Self::Unfinished(_)
            | Self::UnfinishedBytes
            | Self::Rekeys => "QUOTA",
        }
    }
}

impl fmt::Display for No {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("no such pointer"),
            Self::Changed => f.write_str("it changed meanwhile"),
            Self::Exists => f.write_str("there already"),
            Self::TooLarge(bytes) => write!(f, "{bytes} bytes: at most {BLOB_BYTES_MAX}"),
            Self::Pointers(n) => write!(f, "{n} pointers: {}", POINTERS.limit(count(*n))),
            Self::Bytes(n) => write!(f, "{n} bytes: at most {BYTES_OF_A_TENANT_MAX} a tenant"),
            Self::Unfinished(n) => {
                write!(f, "{n} blobs are coming: {}", UNFINISHED.limit(count(*n)))
            }
            Self::UnfinishedBytes => write!(
                f,
                "bytes that are coming: no room beyond {BLOB_BYTES_MAX}, which are each tenant's own"
            ),
            Self::Rekeys => write!(f, "at most {REKEYS_MAX} blobs are rekeyed at a time"),
        }
    }
}

impl Blobs {
    /// Whether events of this type change it.
    #[must_use]
    pub fn wants(event_type: &str) -> bool {
        matches!(event_type, PUT | REKEYED | SHREDDED)
    }

    /// Takes the next event in. What says nothing of a pointer that is there, and of its owner, is passed over.
    pub fn apply(&mut self, id: u64, body: &Body<'_>) {
        let Some(ObjectId(pointer)) = ObjectId::parse(body.subject) else {
            return;
        };
        match (body.event_type, Manifest::parse(body.payload)) {
            (PUT, Some(new)) if new.previous.is_none() && new.object.0 == pointer => {
                let room = self.has_room(self.used(body.tenant_id).pointers);
                if room && !self.pointers.contains_key(&pointer) {
                    self.insert(pointer, body.tenant_id, &new, id);
                }
            }
            (REKEYED, Some(new)) => {
                let current = self
                    .of(body.tenant_id, &pointer)
                    .map(|e| ObjectId(e.object));
                if current.is_some() && current == new.previous {
                    self.remove(&pointer);
                    self.insert(pointer, body.tenant_id, &new, id);
                }
            }
            (SHREDDED, _) if self.of(body.tenant_id, &pointer).is_some() => self.remove(&pointer),
            _ => {}
        }
    }

    /// Whether a tenant that has so many pointers may have another.
    fn has_room(&self, own: u64) -> bool {
        POINTERS.admits(
            count(own),
            self.used.values().map(|used| count(used.pointers)),
        )
    }

    fn insert(&mut self, pointer: Hash, tenant: &str, manifest: &Manifest, event: u64) {
        let used = self.used.entry(tenant.into()).or_default();
        used.pointers = used.pointers.saturating_add(1);
        used.bytes = used.bytes.saturating_add(manifest.bytes);
        let entry = Entry {
            tenant: tenant.into(),
            object: manifest.object.0,
            keys: manifest.keys,
            bytes: manifest.bytes,
            event,
        };
        self.pointers.insert(pointer, entry);
    }

    fn remove(&mut self, pointer: &Hash) {
        let Some(gone) = self.pointers.remove(pointer) else {
            return;
        };
        if let Some(used) = self.used.get_mut(&gone.tenant) {
            used.pointers = used.pointers.saturating_sub(1);
            used.bytes = used.bytes.saturating_sub(gone.bytes);
            if used.pointers == 0 {
                self.used.remove(&gone.tenant);
            }
        }
    }

    /// A tenant's pointer; another's is not there for it.
    #[must_use]
    pub fn of(&self, tenant: &str, pointer: &Hash) -> Option<&Entry> {
        self.pointers.get(pointer).filter(|e| *e.tenant == *tenant)
    }

    /// What a tenant uses.
    #[must_use]
    pub fn used(&self, tenant: &str) -> Used {
        self.used.get(tenant).copied().unwrap_or_default()
    }

    /// Every pointer and what it points to.
    pub fn all(&self) -> impl Iterator<Item = (&Hash, &Entry)> {
        self.pointers.iter()
    }

    /// Whether a tenant may have another blob of this size.
    ///
    /// # Errors
    /// [`No`], which tells of this tenant alone.
    pub fn may_put(&self, tenant: &str, bytes: u64) -> Result<(), No> {
        let used = self.used(tenant);
        if bytes > BLOB_BYTES_MAX {
            Err(No::TooLarge(bytes))
        } else if !self.has_room(used.pointers) {
            Err(No::Pointers(used.pointers))
        } else if used.bytes.saturating_add(bytes) > BYTES_OF_A_TENANT_MAX {
            Err(No::Bytes(used.bytes))
        } else {
            Ok(())
        }
    }

    /// Whether this manifest may become a new pointer.
    ///
    /// # Errors
    /// [`No`].
    pub fn may_add(&self, tenant: &str, manifest: &Manifest) -> Result<(), No> {
        if self.pointers.contains_key(&manifest.object.0) {
            return Err(No::Exists);
        }
        self.may_put(tenant, manifest.bytes)
    }

    /// Whether a tenant's pointer, which pointed to `object`, may still be rekeyed or shredded.
    ///
    /// # Errors
    /// [`No`].
    pub fn may_change(&self, tenant: &str, pointer: &Hash, object: &Hash) -> Result<(), No> {
        let entry = self.of(tenant, pointer).ok_or(No::Missing)?;
        if entry.object == *object {
            Ok(())
        } else {
            Err(No::Changed)
        }
    }
}

/// Blobs that are still coming.
///
/// One that becomes a new pointer counts for its tenant as if it were kept already; one that takes another's place,
/// which the tenant has no part in making larger, counts among its like alone (`tenant` is `None`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unfinished {
    of: BTreeMap<Box<str>, Used>,
    rekeys: Used,
}

impl Unfinished {
    /// Another blob begins; `kept` is what its tenant has.
    ///
    /// # Errors
    /// [`No`]; then nothing is counted.
    pub fn begin(&mut self, tenant: Option<&str>, kept: Used) -> Result<(), No> {
        let Some(tenant) = tenant else {
            if self.rekeys.pointers >= REKEYS_MAX {
                return Err(No::Rekeys);
            }
            self.rekeys.pointers = self.rekeys.pointers.saturating_add(1);
            return Ok(());
        };
        let own = self.of(tenant).pointers;
        let coming = self.of.values().map(|used| count(used.pointers));
        if !UNFINISHED.admits(count(own), coming) {
            return Err(No::Unfinished(own));
        }
        let pointers = kept.pointers.saturating_add(own);
        if count(pointers) >= POINTERS.each {
            return Err(No::Pointers(pointers));
        }
        self.of.entry(tenant.into()).or_default().pointers = own.saturating_add(1);
        Ok(())
    }

    /// A blob that was begun becomes longer by so many bytes.
    ///
    /// # Errors
    /// [`No`]; then nothing is counted.
    pub fn grow(&mut self, tenant: Option<&str>, kept: Used, bytes: u64) -> Result<(), No> {
        let Some(tenant) = tenant else {
            self.rekeys.bytes = self.rekeys.bytes.saturating_add(bytes);
            return Ok(());
        };
        let before = self.of(tenant).bytes;
        let own = before.saturating_add(bytes);
        let total = kept.bytes.saturating_add(own);
        if total > BYTES_OF_A_TENANT_MAX {
            return Err(No::Bytes(total));
        }
        let beyond = |bytes: u64| bytes.saturating_sub(BLOB_BYTES_MAX);
        let others = self.beyond_own().saturating_sub(beyond(before));
        if own > BLOB_BYTES_MAX && others.saturating_add(beyond(own)) > UNFINISHED_BYTES_POOL {
            return Err(No::UnfinishedBytes);
        }
        self.of.entry(tenant.into()).or_default().bytes = own;
        Ok(())
    }

    /// A blob of so many bytes comes no more: it is kept, or gone.
    pub fn end(&mut self, tenant: Option<&str>, bytes: u64) {
        let Some(tenant) = tenant else {
            return self.rekeys.take(bytes);
        };
        if let Some(own) = self.of.get_mut(tenant) {
            own.take(bytes);
            if own.pointers == 0 {
                self.of.remove(tenant);
            }
        }
    }

    /// Bytes of all tenants beyond what is each one's own.
    fn beyond_own(&self) -> u64 {
        let beyond = |used: &Used| used.bytes.saturating_sub(BLOB_BYTES_MAX);
        self.of.values().map(beyond).sum()
    }

    fn of(&self, tenant: &str) -> Used {
        self.of.get(tenant).copied().unwrap_or_default()
    }
}

/// A count as [`Share`] takes it.
fn count(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

impl Used {
    fn take(&mut self, bytes: u64) {
        self.pointers = self.pointers.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;
    use std::vec;

    fn manifest(n: u8, previous: Option<u8>, bytes: u64) -> Manifest {
        Manifest {
            bytes,
            keys: [n ^ 0xff; 32],
            object: ObjectId([n; 32]),
            previous: previous.map(|n| ObjectId([n; 32])),
            recipients: vec![[n; 32]; usize::from(n % 3)],
        }
    }

    fn event<'a>(kind: &'a str, tenant: &'a str, subject: &'a str, payload: &'a str) -> Body<'a> {
        Body {
            timestamp_ns: 0,
            wall_ns: 0,
            ulid: [0; 16],
            tenant_tag: [0; 8],
            ns: "user",
            actor: "user:a",
            tenant_id: tenant,
            event_type: kind,
            subject,
            payload,
            causation_id: None,
            origin: None,
            sig: None,
        }
    }

    fn take(blobs: &mut Blobs, kind: &str, tenant: &str, pointer: u8, payload: &str) {
        let subject = ObjectId([pointer; 32]).to_string();
        blobs.apply(1, &event(kind, tenant, &subject, payload));
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written_and_no_other_way() {
        for manifest in [manifest(1, None, 0), manifest(2, Some(1), u64::MAX)] {
            let text = manifest.payload();
            assert_eq!(Manifest::parse(&text).as_ref(), Some(&manifest));
            for cut in 0..text.len() {
                assert_eq!(Manifest::parse(&text[..cut]), None, "{cut}");
            }
            assert_eq!(Manifest::parse(&(text + " ")), None);
        }
        let mut many = manifest(1, None, 0);
        many.recipients = vec![[0; 32]; RECIPIENTS_MAX + 1];
        assert_eq!(Manifest::parse(&many.payload()), None);
    }

    #[test]
    fn a_pointer_lives_until_it_is_shredded_by_its_own_tenant() {
        let mut blobs = Blobs::default();
        take(&mut blobs, PUT, "a", 1, &manifest(1, None, 10).payload());
        assert_eq!(blobs.of("a", &[1; 32]).map(|e| e.bytes), Some(10));
        assert_eq!(blobs.of("b", &[1; 32]), None);
        // Under a name that is not its object's, twice, by another: nothing.
        let before = blobs.clone();
        take(&mut blobs, PUT, "a", 2, &manifest(3, None, 10).payload());
        take(&mut blobs, PUT, "b", 1, &manifest(1, None, 99).payload());
        take(
            &mut blobs,
            REKEYED,
            "b",
            1,
            &manifest(4, Some(1), 10).payload(),
        );
        take(
            &mut blobs,
            REKEYED,
            "a",
            1,
            &manifest(4, Some(3), 10).payload(),
        );
        take(&mut blobs, SHREDDED, "b", 1, "{}");
        assert_eq!(blobs, before);
        take(
            &mut blobs,
            REKEYED,
            "a",
            1,
            &manifest(4, Some(1), 10).payload(),
        );
        assert_eq!(blobs.of("a", &[1; 32]).map(|e| e.object), Some([4; 32]));
        assert_eq!(blobs.may_change("a", &[1; 32], &[1; 32]), Err(No::Changed));
        assert_eq!(blobs.may_change("b", &[1; 32], &[4; 32]), Err(No::Missing));
        assert_eq!(blobs.may_change("a", &[1; 32], &[4; 32]), Ok(()));
        take(&mut blobs, SHREDDED, "a", 1, "{}");
        assert_eq!(blobs, Blobs::default());
    }

    #[test]
    fn limits_are_a_tenants_own() {
        let mut blobs = Blobs::default();
        let half = BYTES_OF_A_TENANT_MAX / 2;
        take(&mut blobs, PUT, "a", 1, &manifest(1, None, half).payload());
        take(&mut blobs, PUT, "a", 2, &manifest(2, None, half).payload());
        assert_eq!(blobs.may_put("a", 1), Err(No::Bytes(2 * half)));
        assert_eq!(blobs.may_put("b", BLOB_BYTES_MAX), Ok(()));
        let large = BLOB_BYTES_MAX + 1;
        assert_eq!(blobs.may_put("b", large), Err(No::TooLarge(large)));
        assert_eq!(blobs.may_add("b", &manifest(1, None, 1)), Err(No::Exists));
        for n in 0..=POINTERS.each as u64 {
            let mut new = manifest(0, None, 0);
            new.object.0[..8].copy_from_slice(&(n + 1).to_le_bytes());
            let subject = new.object.to_string();
            blobs.apply(1, &event(PUT, "c", &subject, &new.payload()));
        }
        assert!(matches!(blobs.may_put("c", 0), Err(No::Pointers(_))));
    }

    #[test]
    fn what_is_coming_counts_for_its_tenant_and_stops_nobody_else() {
        let mut coming = Unfinished::default();
        let none = Used::default();
        for n in 0..UNFINISHED.each {
            assert_eq!(coming.begin(Some("a"), none), Ok(()), "{n}");
        }
        let full = No::Unfinished(UNFINISHED.each as u64);
        assert_eq!(coming.begin(Some("a"), none), Err(full));
        assert_eq!(coming.begin(Some("b"), none), Ok(()));
        // Bytes that are kept and bytes that come are one quota; nothing of a refused piece is counted.
        let kept = Used {
            pointers: 1,
            bytes: BYTES_OF_A_TENANT_MAX - 10,
        };
        assert_eq!(coming.grow(Some("a"), kept, 6), Ok(()));
        let over = No::Bytes(BYTES_OF_A_TENANT_MAX + 1);
        assert_eq!(coming.grow(Some("a"), kept, 5), Err(over));
        assert_eq!(coming.grow(Some("a"), kept, 4), Ok(()));
        coming.end(Some("a"), 10);
        assert_eq!(coming.grow(Some("a"), kept, 10), Ok(()));
        let most = Used {
            pointers: POINTERS.each as u64 - 1,
            bytes: 0,
        };
        let pointers = No::Pointers(POINTERS.each as u64);
        assert_eq!(coming.begin(Some("b"), most), Err(pointers));
        assert_eq!(coming.begin(Some("c"), most), Ok(()));
        // What takes another's place is no tenant's, and leaves everybody theirs.
        while coming.begin(None, none).is_ok() {}
        assert_eq!(coming.rekeys.pointers, REKEYS_MAX);
        // However many tenants take all that they can, the next one has a blob of the largest size.
        for n in 0..40 {
            let tenant = std::format!("t{n}");
            while coming.begin(Some(&tenant), none).is_ok() {}
            while coming.grow(Some(&tenant), none, BLOB_BYTES_MAX).is_ok() {}
            assert!(coming.of(&tenant).pointers >= 1, "{n}");
            assert!(coming.of(&tenant).bytes >= BLOB_BYTES_MAX, "{n}");
        }
        assert_eq!(coming.begin(Some("d"), none), Ok(()));
        assert_eq!(coming.begin(Some("d"), none), Err(No::Unfinished(1)));
        assert_eq!(coming.grow(Some("d"), none, BLOB_BYTES_MAX), Ok(()));
        let more = coming.grow(Some("d"), none, BLOB_BYTES_MAX);
        assert_eq!(more, Err(No::UnfinishedBytes));
    }

    proptest! {
        /// Whatever begins, grows and ends: no limit is passed, and once all has ended nothing is left.
        #[test]
        fn what_is_coming_never_passes_its_limits(
            steps in proptest::collection::vec((0u8..3, 0usize..4, 0u64..UNFINISHED_BYTES_POOL), 0..200)
        ) {
            let tenants = [Some("a"), Some("b"), Some("c"), None];
            let mut coming = Unfinished::default();
            let mut open: Vec<(Option<&str>, u64)> = Vec::new();
            for (step, which, n) in steps {
                match step {
                    0 => {
                        let tenant = tenants[which];
                        if coming.begin(tenant, Used::default()).is_ok() {
                            open.push((tenant, 0));
                        }
                    }
                    1 if !open.is_empty() => {
                        let at = which % open.len();
                        let (tenant, bytes) = &mut open[at];
                        if coming.grow(*tenant, Used::default(), n).is_ok() {
                            *bytes += n;
                        }
                    }
                    _ if !open.is_empty() => {
                        let (tenant, bytes) = open.swap_remove(which % open.len());
                        coming.end(tenant, bytes);
                    }
                    _ => {}
                }
                let all = |of: Option<&str>| {
                    let own = open.iter().filter(|(t, _)| *t == of);
                    own.fold((0, 0), |(n, sum), (_, bytes)| (n + 1, sum + bytes))
                };
                prop_assert_eq!((coming.rekeys.pointers, coming.rekeys.bytes), all(None));
                prop_assert!(coming.rekeys.pointers <= REKEYS_MAX && coming.beyond_own() <= UNFINISHED_BYTES_POOL);
                for tenant in ["a", "b", "c"] {
                    let own = coming.of(tenant);
                    prop_assert_eq!((own.pointers, own.bytes), all(Some(tenant)));
                    prop_assert!(count(own.pointers) <= UNFINISHED.each && own.bytes <= BYTES_OF_A_TENANT_MAX);
                }
            }
            for (tenant, bytes) in open {
                coming.end(tenant, bytes);
            }
            prop_assert_eq!(coming, Unfinished::default());
        }

        /// Against a plain list: the same pointers, and the sums are what they should be.
        #[test]
        fn whatever_events_come_the_sums_stay_right(
            events in proptest::collection::vec((0u8..4, 0u8..2, 1u8..5, 1u8..5, 0u64..9), 0..60)
        ) {
            let mut blobs = Blobs::default();
            for (kind, tenant, pointer, object, bytes) in events {
                let tenant = ["a", "b"][usize::from(tenant)];
                let current = blobs.of(tenant, &[pointer; 32]).map(|e| e.object[0]);
                let (kind, new) = match kind {
                    0 | 1 => (PUT, manifest(pointer, None, bytes)),
                    2 => (REKEYED, manifest(object, current, bytes)),
                    _ => (SHREDDED, manifest(1, None, 0)),
                };
                take(&mut blobs, kind, tenant, pointer, &new.payload());
                for tenant in ["a", "b"] {
                    let own: Vec<u64> = blobs.all().filter(|(_, e)| &*e.tenant == tenant).map(|(_, e)| e.bytes).collect();
                    prop_assert_eq!(blobs.used(tenant), Used { pointers: own.len() as u64, bytes: own.iter().sum() });
                }
            }
        }
    }
}
