//! Objects appended to segment files, each record with a checksum; one writer.
//!
//! A record is `VBOB`, kind u8 (1 object, 2 removed), three zeros, length u32, CRC-32 u32, name [32], the bytes, zeros to
//! a multiple of 8; little-endian. The checksum is seeded with 16 random bytes that stand in the file's name,
//! `NNNNNN-SEED.segment`: who may store bytes cannot make some that read as a record when the one around them is damaged.
//! Opening reads everything, passes over what does not hold, and cuts what a crash left behind the last record.

use super::{make_folder, store_error, sync_folder};
use crate::clock;
use crate::query::hex;
use ledger_core::store::{
    OBJECT_BYTES_MAX, ObjectId, ObjectStore, StoreError, check_content, check_size,
};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A segment that is longer is followed by the next one.
const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
const MAGIC: &[u8; 4] = b"VBOB";
const KIND_OBJECT: u8 = 1;
const KIND_REMOVED: u8 = 2;
const HEADER_BYTES: usize = 48;
const ALIGN: u64 = 8;
/// Bytes that are searched at once for the next record behind damage.
const SEARCH_BYTES: usize = 64 * 1024;

/// Objects in segment files.
pub struct SegmentStore {
    folder: PathBuf,
    /// Held for the lock on it.
    _lock: File,
    segments: BTreeMap<u32, Segment>,
    objects: BTreeMap<ObjectId, Spot>,
    /// After a failed sync nothing more is written: what the pages hold is unknown.
    failed: bool,
}

struct Segment {
    file: File,
    path: PathBuf,
    seed: [u8; 16],
    end: u64,
    /// Objects in it that are not removed.
    live: u64,
}

impl Segment {
    fn unread(file: File, path: PathBuf, seed: [u8; 16]) -> Self {
        Self {
            file,
            path,
            seed,
            end: 0,
            live: 0,
        }
    }
}

#[derive(Clone, Copy)]
struct Spot {
    segment: u32,
    /// Of its bytes.
    offset: u64,
    bytes: usize,
}

struct Record {
    kind: u8,
    id: ObjectId,
    offset: u64,
    bytes: usize,
    next: u64,
}

impl SegmentStore {
    /// Opens the folder, made if only its last part is missing, and reads its segments.
    ///
    /// # Errors
    /// [`StoreError::Busy`], or as the system's.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        make_folder(folder).map_err(store_error)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(folder.join("lock"))
            .map_err(store_error)?;
        lock.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => StoreError::Busy,
            TryLockError::Error(e) => store_error(e),
        })?;
        let mut store = Self {
            folder: folder.to_owned(),
            _lock: lock,
            segments: BTreeMap::new(),
            objects: BTreeMap::new(),
            failed: false,
        };
        store.load().map_err(store_error)?;
        Ok(store)
    }

    fn load(&mut self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let Some((number, seed)) = path.file_name().and_then(|n| n.to_str()).and_then(parts)
            else {
                continue;
            };
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            let segment = Segment::unread(file, path, seed);
            self.segments.insert(number, segment);
        }
        let numbers: Vec<u32> = self.segments.keys().copied().collect();
        for number in numbers {
            self.read_segment(number)?;
        }
        if let Some(mut last) = self.segments.last_entry() {
            let segment = last.get_mut();
            segment.file.set_len(segment.end)?;
        }
        Ok(())
    }

    fn read_segment(&mut self, number: u32) -> io::Result<()> {
        let Some(segment) = self.segments.get_mut(&number) else {
            return Ok(());
        };
        let bytes = segment.file.metadata()?.len();
        let (mut at, mut found) = (0, Vec::new());
        while at + HEADER_BYTES as u64 <= bytes {
            match segment.record(at, bytes)? {
                Some(record) => {
                    at = record.next;
                    segment.end = record.next;
                    found.push(record);
                }
                None => at = segment.search(at + ALIGN, bytes)?,
            }
        }
        for record in found {
            let spot = Spot {
                segment: number,
                offset: record.offset,
                bytes: record.bytes,
            };
            self.forget(&record.id);
            if record.kind == KIND_OBJECT {
                self.remember(record.id, spot);
            }
        }
        Ok(())
    }

    fn remember(&mut self, id: ObjectId, spot: Spot) {
        self.objects.insert(id, spot);
        if let Some(segment) = self.segments.get_mut(&spot.segment) {
            segment.live += 1;
        }
    }

    fn forget(&mut self, id: &ObjectId) -> bool {
        let Some(spot) = self.objects.remove(id) else {
            return false;
        };
        if let Some(segment) = self.segments.get_mut(&spot.segment) {
            segment.live = segment.live.saturating_sub(1);
        }
        true
    }

    /// Appends a record and makes it durable.
    fn append(&mut self, kind: u8, id: &ObjectId, content: &[u8]) -> Result<Spot, StoreError> {
        if self.failed {
            return Err(StoreError::Io("an earlier sync failed".to_owned()));
        }
        let (number, segment) = self.writable().map_err(store_error)?;
        let mut record = Vec::with_capacity(HEADER_BYTES + content.len() + ALIGN as usize);
        record.extend_from_slice(&header(kind, id, content, &segment.seed));
        record.extend_from_slice(content);
        record.resize(record.len().next_multiple_of(ALIGN as usize), 0);
        segment
            .file
            .write_all_at(&record, segment.end)
            .map_err(store_error)?;
        let synced = segment.file.sync_data();
        let spot = Spot {
            segment: number,
            offset: segment.end + HEADER_BYTES as u64,
            bytes: content.len(),
        };
        segment.end += record.len() as u64;
        self.failed = synced.is_err();
        synced.map_err(store_error)?;
        Ok(spot)
    }

    fn writable(&mut self) -> io::Result<(u32, &mut Segment)> {
        let last = self.segments.last_key_value().map(|(n, s)| (*n, s.end));
        let number = match last {
            Some((number, end)) if end < SEGMENT_BYTES_MAX => number,
            Some((number, _)) => self.begin(number + 1)?,
            None => self.begin(0)?,
        };
        let segment = self.segments.get_mut(&number);
        Ok((number, segment.ok_or(io::ErrorKind::NotFound)?))
    }

    fn begin(&mut self, number: u32) -> io::Result<u32> {
        let seed: [u8; 16] = clock::random();
        let name = format!("{number:06}-{}.segment", hex(&seed));
        let path = self.folder.join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        sync_folder(&self.folder)?;
        let segment = Segment::unread(file, path, seed);
        self.segments.insert(number, segment);
        Ok(number)
    }

    /// Deletes the oldest segments in which nothing lives. Only the oldest: a later one says what is removed before it.
    fn reclaim(&mut self) -> io::Result<()> {
        while self.segments.len() > 1
            && let Some(oldest) = self.segments.first_entry()
            && oldest.get().live == 0
        {
            fs::remove_file(&oldest.get().path)?;
            oldest.remove();
        }
        Ok(())
    }
}

/// Number and seed of a segment's file name.
fn parts(name: &str) -> Option<(u32, [u8; 16])> {
    let (number, seed) = name.strip_suffix(".segment")?.split_once('-')?;
    let padded = format!("{seed:0>64}");
    let id = ObjectId::parse(&padded).filter(|_| seed.len() == 32)?;
    Some((number.parse().ok()?, id.0.last_chunk::<16>().copied()?))
}

fn header(kind: u8, id: &ObjectId, content: &[u8], seed: &[u8; 16]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    // What a store takes fits: OBJECT_BYTES_MAX is far below.
    let length = u32::try_from(content.len())
        .unwrap_or(u32::MAX)
        .to_le_bytes();
    let mut crc = crc32fast::Hasher::new();
    for part in [&seed[..], &[kind], &length, &id.0, content] {
        crc.update(part);
    }
    let crc = crc.finalize().to_le_bytes();
    let fields: [&[u8]; 6] = [MAGIC, &[kind], &[0; 3], &length, &crc, &id.0];
    for (to, from) in header.iter_mut().zip(fields.into_iter().flatten()) {
        *to = *from;
    }
    header
}

impl Segment {
    /// The record that begins here, if all of it holds.
    fn record(&self, at: u64, bytes: u64) -> io::Result<Option<Record>> {
        let mut found = [0; HEADER_BYTES];
        self.file.read_exact_at(&mut found, at)?;
        let length = found.get(8..12).and_then(|b| b.try_into().ok());
        let length = u32::from_le_bytes(length.unwrap_or_default()) as usize;
        let offset = at + HEADER_BYTES as u64;
        let fits = length <= OBJECT_BYTES_MAX && offset + length as u64 <= bytes;
        let kind = found.get(4).copied().unwrap_or(0);
        if !found.starts_with(MAGIC) || !fits || ![KIND_OBJECT, KIND_REMOVED].contains(&kind) {
            return Ok(None);
        }
        let id = ObjectId(found.last_chunk().copied().unwrap_or_default());
        let mut content = vec![0; length];
        self.file.read_exact_at(&mut content, offset)?;
        let holds = header(kind, &id, &content, &self.seed) == found;
        Ok(holds.then_some(Record {
            kind,
            id,
            offset,
            bytes: length,
            next: offset + (length as u64).next_multiple_of(ALIGN),
        }))
    }

    /// Where the next record may begin, from `at` on.
    fn search(&self, mut at: u64, bytes: u64) -> io::Result<u64> {
        let mut window = vec![0; SEARCH_BYTES];
        while at < bytes {
            let n = self.file.read_at(&mut window, at)?;
            let steps = window.get(..n).unwrap_or_default().chunks(ALIGN as usize);
            if let Some(step) = steps.clone().position(|step| step.starts_with(MAGIC)) {
                return Ok(at + step as u64 * ALIGN);
            }
            at += steps.len() as u64 * ALIGN;
        }
        Ok(bytes)
    }
}

impl ObjectStore for SegmentStore {
    fn put(&mut self, content: &[u8]) -> Result<ObjectId, StoreError> {
        check_size(content)?;
        let id = ObjectId::of(content);
        // One that was damaged since is written anew.
        if self.objects.contains_key(&id) && self.get(&id).is_ok() {
            return Ok(id);
        }
        let spot = self.append(KIND_OBJECT, &id, content)?;
        self.forget(&id);
        self.remember(id, spot);
        Ok(id)
    }

    fn get(&self, id: &ObjectId) -> Result<Vec<u8>, StoreError> {
        let spot = self.objects.get(id).ok_or(StoreError::Missing(*id))?;
        let segment = self.segments.get(&spot.segment);
        let segment = segment.ok_or(StoreError::Missing(*id))?;
        let mut content = vec![0; spot.bytes];
        match segment.file.read_exact_at(&mut content, spot.offset) {
            Ok(()) => check_content(id, content),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(StoreError::Corrupt(*id)),
            Err(e) => Err(store_error(e)),
        }
    }

    fn has(&self, id: &ObjectId) -> Result<bool, StoreError> {
        Ok(self.objects.contains_key(id))
    }

    fn list(&self, each: &mut dyn FnMut(ObjectId) -> bool) -> Result<(), StoreError> {
        let _whole = self.objects.keys().all(|id| each(*id));
        Ok(())
    }

    fn remove(&mut self, id: &ObjectId) -> Result<bool, StoreError> {
        if !self.objects.contains_key(id) {
            return Ok(false);
        }
        self.append(KIND_REMOVED, id, &[])?;
        self.forget(id);
        self.reclaim().map_err(store_error)?;
        Ok(true)
    }
}
