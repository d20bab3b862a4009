//! One suite over every adapter of the object store: what the port promises, also over damage, cuts and two writers.

use ledger::objects::{FolderStore, GitStore, SegmentStore};
use ledger_core::store::{MemoryStore, OBJECT_BYTES_MAX, ObjectId, ObjectStore, StoreError};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

/// What is done to the bytes of a part.
type Damage = Box<dyn Fn(&mut Vec<u8>)>;

/// A place where one adapter keeps objects.
trait Place {
    /// A new handle on the place, as after a restart.
    fn open(&self) -> Box<dyn ObjectStore>;
    /// Whether several handles may be open at once.
    fn is_shared(&self) -> bool;
    /// The byte strings that lie there.
    fn parts(&self) -> usize;
    /// Changes one of them.
    fn change(&self, part: usize, how: &mut dyn FnMut(&mut Vec<u8>));
    /// Puts what is no object beside them, where there are names.
    fn litter(&self);
}

struct Memory(Rc<RefCell<MemoryStore>>);
struct Handle(Rc<RefCell<MemoryStore>>);

impl ObjectStore for Handle {
    fn put(&mut self, content: &[u8]) -> Result<ObjectId, StoreError> {
        self.0.borrow_mut().put(content)
    }
    fn get(&self, id: &ObjectId) -> Result<Vec<u8>, StoreError> {
        self.0.borrow().get(id)
    }
    fn has(&self, id: &ObjectId) -> Result<bool, StoreError> {
        self.0.borrow().has(id)
    }
    fn list(&self, each: &mut dyn FnMut(ObjectId) -> bool) -> Result<(), StoreError> {
        self.0.borrow().list(each)
    }
    fn remove(&mut self, id: &ObjectId) -> Result<bool, StoreError> {
        self.0.borrow_mut().remove(id)
    }
}

impl Place for Memory {
    fn open(&self) -> Box<dyn ObjectStore> {
        Box::new(Handle(self.0.clone()))
    }
    fn is_shared(&self) -> bool {
        true
    }
    fn parts(&self) -> usize {
        self.0.borrow_mut().contents_mut().count()
    }
    fn change(&self, part: usize, how: &mut dyn FnMut(&mut Vec<u8>)) {
        how(self
            .0
            .borrow_mut()
            .contents_mut()
            .nth(part)
            .expect("a part"));
    }
    fn litter(&self) {}
}

struct Files<S> {
    folder: tempfile::TempDir,
    open: fn(&Path) -> Result<S, StoreError>,
    shared: bool,
}

impl<S> Files<S> {
    fn new(open: fn(&Path) -> Result<S, StoreError>, shared: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self {
            folder,
            open,
            shared,
        }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn files(&self) -> Vec<PathBuf> {
        let (mut files, mut folders) = (Vec::new(), vec![self.root()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                // What names a repository, and a lock, are no objects.
                let kept = ["HEAD", "config", "lock"].map(|n| path.ends_with(n));
                match path.is_dir() {
                    true => folders.push(path),
                    false if kept.contains(&true) => {}
                    false => files.push(path),
                }
            }
        }
        files.sort();
        files
    }
}

impl<S: ObjectStore + 'static> Place for Files<S> {
    fn open(&self) -> Box<dyn ObjectStore> {
        Box::new((self.open)(&self.root()).expect("the store opens"))
    }
    fn is_shared(&self) -> bool {
        self.shared
    }
    fn parts(&self) -> usize {
        self.files().len()
    }
    fn change(&self, part: usize, how: &mut dyn FnMut(&mut Vec<u8>)) {
        let path = &self.files()[part];
        let mut bytes = fs::read(path).expect("a file");
        how(&mut bytes);
        fs::write(path, bytes).expect("a file");
    }
    fn litter(&self) {
        for folder in [self.root(), self.root().join("aa"), self.root().join("zz")] {
            fs::create_dir_all(&folder).expect("a folder");
            for name in ["-rf", "..x", "unfinished-0", "AA", "é", "000000-.segment"] {
                fs::write(folder.join(name), b"litter").expect("a file");
            }
        }
        // A right name in a wrong place, and a folder by the name of an object.
        let id = ObjectId::of(b"litter").to_string();
        let other = if id.starts_with("aa") { "bb" } else { "aa" };
        fs::create_dir_all(self.root().join(other)).expect("a folder");
        fs::write(self.root().join(other).join(&id), b"litter").expect("a file");
        fs::create_dir_all(self.root().join(&id[..2]).join(&id)).expect("a folder");
    }
}

fn places() -> Vec<(&'static str, Box<dyn Place>)> {
    vec![
        ("memory", Box::new(Memory(Rc::default())) as Box<dyn Place>),
        ("folder", Box::new(Files::new(FolderStore::open, true))),
        ("segment", Box::new(Files::new(SegmentStore::open, false))),
        ("git", Box::new(Files::new(GitStore::open, true))),
    ]
}

fn contents() -> Vec<Vec<u8>> {
    vec![
        Vec::new(),
        b"a".to_vec(),
        b"blob 3\0abc".to_vec(),
        b"VBOB\x01\0\0\0\0\0\0\0".repeat(9),
        (0..5000u32).flat_map(u32::to_le_bytes).collect(),
    ]
}

fn listed(store: &dyn ObjectStore) -> BTreeSet<ObjectId> {
    let mut ids = BTreeSet::new();
    store
        .list(&mut |id| ids.insert(id))
        .expect("the store lists");
    ids
}

#[test]
fn what_was_put_is_there_until_it_is_removed_also_after_a_restart() {
    for (name, place) in places() {
        let mut store = place.open();
        let ids: Vec<ObjectId> = contents()
            .iter()
            .map(|c| store.put(c).expect("put"))
            .collect();
        for (id, content) in ids.iter().zip(contents()) {
            assert_eq!(*id, ObjectId::of(&content), "{name}");
            assert_eq!(store.put(&content), Ok(*id), "{name}: put twice");
        }
        drop(store);
        let mut store = place.open();
        assert_eq!(listed(&*store), ids.iter().copied().collect(), "{name}");
        for (id, content) in ids.iter().zip(contents()) {
            assert_eq!(store.has(id), Ok(true), "{name}");
            assert_eq!(store.get(id), Ok(content), "{name}");
        }
        let mut seen = 0;
        store
            .list(&mut |_| {
                seen += 1;
                seen < 2
            })
            .expect("list");
        assert_eq!(seen, 2, "{name}: the list stops when asked");
        for id in &ids {
            assert_eq!(store.remove(id), Ok(true), "{name}");
            assert_eq!(store.remove(id), Ok(false), "{name}");
        }
        drop(store);
        let store = place.open();
        for id in &ids {
            assert_eq!(store.has(id), Ok(false), "{name}");
            assert_eq!(store.get(id), Err(StoreError::Missing(*id)), "{name}");
        }
        assert!(listed(&*store).is_empty(), "{name}");
    }
}

#[test]
fn too_large_is_refused_and_names_the_limit() {
    let large = vec![0; OBJECT_BYTES_MAX + 1];
    for (name, place) in places() {
        let refused = place.open().put(&large).expect_err("too large");
        assert_eq!(refused.code(), "TOO_LARGE", "{name}");
        assert!(refused.to_string().contains("67108864"), "{name}");
        assert!(listed(&*place.open()).is_empty(), "{name}");
    }
}

/// Damages every part of the place in many ways, one at a time. No object may come back with other bytes, and what was
/// damaged can be put again.
fn survives(damages: &dyn Fn(usize) -> Vec<Damage>) {
    for (name, place) in places() {
        let mut store = place.open();
        for content in contents() {
            store.put(&content).expect("put");
        }
        drop(store);
        let (mut lost, mut tried) = (0, 0);
        for part in 0..place.parts() {
            let mut bytes = 0;
            place.change(part, &mut |b| bytes = b.len());
            for damage in damages(bytes) {
                let mut before = Vec::new();
                place.change(part, &mut |b| {
                    before = b.clone();
                    damage(b);
                });
                let mut store = place.open();
                for content in contents() {
                    let id = ObjectId::of(&content);
                    match store.get(&id) {
                        Ok(read) => assert_eq!(read, content, "{name}: other bytes"),
                        Err(StoreError::Corrupt(_) | StoreError::Missing(_)) => lost += 1,
                        Err(e) => panic!("{name}: {e}"),
                    }
                }
                tried += 1;
                if tried % 16 == 0 {
                    for content in contents() {
                        let id = store.put(&content).expect("put again");
                        assert_eq!(store.get(&id), Ok(content), "{name}: put again");
                    }
                    let held = listed(&*store);
                    assert_eq!(held.len(), contents().len(), "{name}");
                }
                drop(store);
                place.change(part, &mut |b| b.clone_from(&before));
            }
        }
        assert!(lost > 0, "{name}: the damage damages");
    }
}

/// Places in a part of so many bytes: all of a small one, from its first to near its last.
fn offsets(bytes: usize) -> Vec<usize> {
    let step = (bytes / 24).max(1);
    (0..bytes).step_by(step).collect()
}

#[test]
fn a_flipped_bit_never_gives_other_bytes() {
    survives(&|bytes| {
        let flip = |at: usize| -> Damage { Box::new(move |b| b[at] ^= 1 << (at % 8)) };
        offsets(bytes).into_iter().map(flip).collect()
    });
}

#[test]
fn a_torn_write_never_gives_other_bytes() {
    survives(&|bytes| {
        let cut = |at: usize| -> Damage { Box::new(move |b| b.truncate(at)) };
        let zeros = |at: usize| -> Damage {
            Box::new(move |b| b.iter_mut().skip(at).for_each(|byte| *byte = 0))
        };
        let places = offsets(bytes).into_iter();
        places.flat_map(|at| [cut(at), zeros(at)]).collect()
    });
}

#[test]
fn hostile_names_are_no_objects() {
    for (name, place) in places() {
        let mut store = place.open();
        let id = store.put(b"kept").expect("put");
        drop(store);
        place.litter();
        let store = place.open();
        assert_eq!(listed(&*store), [id].into(), "{name}");
        let absent = ObjectId::of(b"litter");
        assert_eq!(store.has(&absent), Ok(false), "{name}");
    }
}

#[test]
fn many_who_put_the_same_at_once_leave_one_whole_object() {
    let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let folder = Files::new(FolderStore::open, true);
    let git = Files::new(GitStore::open, true);
    for (place, open) in [
        (
            folder.root(),
            (|root| Box::new(FolderStore::open(root).expect("open")))
                as fn(&Path) -> Box<dyn ObjectStore>,
        ),
        (git.root(), |root| {
            Box::new(GitStore::open(root).expect("open"))
        }),
    ] {
        drop(open(&place));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut store = open(&place);
                    for _ in 0..4 {
                        let id = store.put(&content).expect("put");
                        assert_eq!(store.get(&id).expect("get"), content);
                    }
                });
            }
        });
        let store = open(&place);
        assert_eq!(listed(&*store), [ObjectId::of(&content)].into());
    }
}

#[test]
fn two_writers_where_one_is_allowed_are_refused() {
    for (name, place) in places() {
        if place.is_shared() {
            let (mut one, two) = (place.open(), place.open());
            let id = one.put(b"seen").expect("put");
            assert_eq!(two.get(&id), Ok(b"seen".to_vec()), "{name}");
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let held = SegmentStore::open(folder.path()).expect("open");
    let second = SegmentStore::open(folder.path()).err();
    assert_eq!(second, Some(StoreError::Busy));
    drop(held);
    assert!(SegmentStore::open(folder.path()).is_ok());
}

/// Bytes that look like records of the store, inside an object whose own header is then damaged.
#[test]
fn an_object_cannot_remove_another_by_looking_like_a_record() {
    let place = Files::new(SegmentStore::open, false);
    let mut store = place.open();
    let victim = store.put(b"victim").expect("put");
    let mut hostile = b"VBOB\x02\0\0\0\0\0\0\0".to_vec();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[2, 0, 0, 0, 0]);
    crc.update(&victim.0);
    hostile.extend_from_slice(&crc.finalize().to_le_bytes());
    hostile.extend_from_slice(&victim.0);
    store.put(&hostile).expect("put");
    drop(store);
    // The second record's header begins behind the first record of 48 + 8 bytes.
    place.change(0, &mut |b| b[56] ^= 1);
    assert_eq!(place.open().get(&victim), Ok(b"victim".to_vec()));
}

#[test]
fn git_itself_takes_the_repository() {
    let place = Files::new(GitStore::open, true);
    let mut store = place.open();
    for content in contents() {
        store.put(&content).expect("put");
    }
    let git = |words: &[&str]| {
        let done = Command::new("git")
            .arg("--git-dir")
            .arg(place.root())
            .args(words)
            .output()
            .expect("git runs");
        let said = String::from_utf8_lossy(&done.stdout).into_owned()
            + &String::from_utf8_lossy(&done.stderr);
        (done.status.success(), said)
    };
    let (whole, said) = git(&["fsck", "--strict", "--full"]);
    assert!(whole, "{said}");
    assert!(!said.contains("dangling"), "{said}");
    let first = ObjectId::of(b"a").to_string();
    let reference = format!("refs/gatos/objects/blake3/{}/{first}", &first[..2]);
    assert_eq!(
        git(&["cat-file", "blob", &reference]),
        (true, "a".to_owned())
    );
    place.change(0, &mut |b| b[0] ^= 1);
    assert!(
        !git(&["fsck", "--strict", "--full"]).0,
        "git notices a flip"
    );
}
