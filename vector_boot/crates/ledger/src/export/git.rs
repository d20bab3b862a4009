//! The log as a bare git repository: one pack, its index, and references under `refs/gatos/`.
//!
//! | reference | what |
//! |---|---|
//! | `journal/NS/KIND/NAME` | a commit an event of that namespace and actor, oldest first; the message is the event |
//! | `state/NS` | a tree with `state.json`: how many events, of which types, and the last one |
//! | `epoch/N` | a commit an epoch, each on the one before; the message is its anchor |
//!
//! and `refs/heads/main`, the states of all namespaces, so that a clone shows something. The same log gives the same
//! commits, and a longer one gives journals that only grow. Commits carry their event in the message and the empty tree:
//! one object an event. Nothing of libgit or gix is linked: two text formats and the two file formats below, which
//! `git fsck` checks in the tests.

use super::{Exported, Sink};
use crate::json::Json;
use crate::objects::{Fresh, object_name, sync_folder};
use crate::query::hex;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use ledger_core::{EPOCH_OPENED, LEDGER_ACTOR, LEDGER_NS};
use sha1::{Digest, Sha1};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

type Name = [u8; 20];

/// Offsets from here on stand in the index's second table.
const OFFSET_MAX: u64 = 1 << 31;
/// Bytes that are written at once.
const BUFFER_BYTES: usize = 1024 * 1024;

/// A repository that is being written; without its `HEAD`, which comes last, it is none.
pub struct GitExport {
    root: PathBuf,
    pack: Pack,
    empty_tree: Name,
    journals: BTreeMap<String, Name>,
    epochs: BTreeMap<String, Name>,
    last_epoch: Option<Name>,
    states: BTreeMap<String, State>,
    last: Option<Exported>,
}

#[derive(Default)]
struct State {
    events: u64,
    last_event_id: u64,
    commit_id: String,
    wall_ns: u64,
    types: BTreeMap<String, u64>,
}

impl GitExport {
    /// Begins a repository in a folder that is empty or not there.
    ///
    /// # Errors
    /// `AlreadyExists` for a folder that holds anything, or as the system's.
    pub fn begin(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        if fs::read_dir(root)?.next().is_some() {
            let why = format!("{} is not empty", root.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        fs::create_dir_all(root.join("objects/pack"))?;
        fs::create_dir_all(root.join("refs/heads"))?;
        let mut pack = Pack::begin(&root.join("objects/pack"))?;
        let empty_tree = pack.add(Kind::Tree, b"")?;
        Ok(Self {
            root: root.to_owned(),
            pack,
            empty_tree,
            journals: BTreeMap::new(),
            epochs: BTreeMap::new(),
            last_epoch: None,
            states: BTreeMap::new(),
            last: None,
        })
    }

    fn commit(
        &mut self,
        tree: Name,
        parent: Option<Name>,
        who: (&str, &str),
        wall_ns: u64,
        message: &str,
    ) -> io::Result<Name> {
        let seconds = wall_ns / 1_000_000_000;
        let parent = parent.map_or(String::new(), |p| format!("parent {}\n", hex(&p)));
        let (name, mail) = who;
        let content = format!(
            "tree {}\n{parent}author {name} <{mail}> {seconds} +0000\n\
             committer ledger <ledger@vector-boot> {seconds} +0000\n\n{message}\n",
            hex(&tree)
        );
        self.pack.add(Kind::Commit, content.as_bytes())
    }

    fn tree(&mut self, entries: &[(&str, &str, Name)]) -> io::Result<Name> {
        let mut content = Vec::new();
        for (mode, name, object) in entries {
            write!(content, "{mode} {name}\0")?;
            content.extend_from_slice(object);
        }
        self.pack.add(Kind::Tree, &content)
    }

    /// A commit a namespace, and one over all; their references.
    fn finish_states(&mut self) -> io::Result<Vec<(String, Name)>> {
        let mut references = Vec::new();
        let mut trees = Vec::new();
        let newest = self.last.as_ref().map_or(0, |last| last.wall_ns);
        for (ns, state) in std::mem::take(&mut self.states) {
            let text = state.json(&ns);
            let blob = self.pack.add(Kind::Blob, text.as_bytes())?;
            let tree = self.tree(&[("100644", "state.json", blob)])?;
            let message = format!("state of {ns} at event {}", state.last_event_id);
            let who = ("ledger", "ledger@vector-boot");
            let commit = self.commit(tree, None, who, state.wall_ns, &message)?;
            let name = component(&ns);
            references.push((format!("refs/gatos/state/{name}"), commit));
            trees.push((name, tree));
        }
        // git orders folders as if their names ended in a slash.
        trees.sort_by_key(|(name, _)| format!("{name}/"));
        let entries: Vec<(&str, &str, Name)> = trees
            .iter()
            .map(|(name, tree)| ("40000", name.as_str(), *tree))
            .collect();
        let all = self.tree(&entries)?;
        let last = self.last.take();
        let message = last.map_or("an empty log".to_owned(), |last| {
            format!("{} events, to commit {}", last.id, last.commit_id)
        });
        let who = ("ledger", "ledger@vector-boot");
        let main = self.commit(all, None, who, newest, &message)?;
        references.push(("refs/heads/main".to_owned(), main));
        Ok(references)
    }
}

impl State {
    fn json(&self, ns: &str) -> String {
        let types = self.types.iter().map(|(k, n)| (k.clone(), (*n).into()));
        let whole = Json::object([
            ("commit_id", self.commit_id.as_str().into()),
            ("events", self.events.into()),
            ("last_event_id", self.last_event_id.into()),
            ("ns", ns.into()),
            ("types", Json::Object(types.collect())),
        ]);
        format!("{whole}\n")
    }
}

impl Sink for GitExport {
    fn take(&mut self, event: &Exported) -> io::Result<()> {
        let (kind, name) = event
            .actor
            .split_once(':')
            .unwrap_or(("user", &event.actor));
        let (ns, who) = (component(&event.ns), component(name));
        let journal = format!("refs/gatos/journal/{ns}/{kind}/{who}");
        let parent = self.journals.get(&journal).copied();
        let title = format!("{} {}", event.event_type, event.subject);
        let message = format!("{}\n\n{}", title.trim_end(), event.json);
        let mail = format!("{kind}@{}", event.ns);
        let tree = self.empty_tree;
        let commit = self.commit(tree, parent, (name, &mail), event.wall_ns, &message)?;
        self.journals.insert(journal, commit);
        if (
            event.ns.as_str(),
            event.actor.as_str(),
            event.event_type.as_str(),
        ) == (LEDGER_NS, LEDGER_ACTOR, EPOCH_OPENED)
        {
            let parsed = Json::stored(&event.json).ok();
            let payload = parsed.as_ref().and_then(|e| e.get("payload"));
            let number = payload
                .and_then(|p| p.get("epoch"))
                .and_then(Json::unsigned);
            let message = format!("epoch {}\n\n{}", number.unwrap_or(0), event.json);
            let epoch = self.commit(
                tree,
                self.last_epoch,
                (name, &mail),
                event.wall_ns,
                &message,
            )?;
            let name = format!("refs/gatos/epoch/{}", number.unwrap_or(0));
            self.epochs.insert(name, epoch);
            self.last_epoch = Some(epoch);
        }
        let state = self.states.entry(event.ns.clone()).or_default();
        state.events += 1;
        state.last_event_id = event.id;
        state.commit_id.clone_from(&event.commit_id);
        state.wall_ns = event.wall_ns;
        *state.types.entry(event.event_type.clone()).or_default() += 1;
        self.last = Some(event.clone());
        Ok(())
    }

    fn end(mut self: Box<Self>) -> io::Result<()> {
        let mut references: BTreeMap<String, Name> = self.finish_states()?.into_iter().collect();
        references.append(&mut self.journals);
        references.append(&mut self.epochs);
        self.pack.end()?;
        // One file for all: names of files are shorter than those that actors may have.
        let mut packed = String::from("# pack-refs with: peeled fully-peeled sorted \n");
        for (name, commit) in &references {
            packed.push_str(&format!("{} {name}\n", hex(commit)));
        }
        let config = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n";
        for (name, content) in [
            ("packed-refs", packed.as_str()),
            ("config", config),
            ("HEAD", "ref: refs/heads/main\n"),
        ] {
            let mut fresh = Fresh::begin(&self.root)?;
            fresh.write(content.as_bytes())?;
            fresh.keep(&self.root.join(name))?;
        }
        Ok(())
    }
}

/// A part of a reference's name that git takes, and no other text gives: `%` stands in no namespace and no actor.
fn component(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        let rest = text.get(at + 1..).unwrap_or_default();
        let edge = at == 0 || rest.is_empty() || rest.starts_with('.') || rest == "lock";
        match c {
            '.' if edge => out.push_str("%2E"),
            c => out.push(c),
        }
    }
    out
}

#[derive(Clone, Copy)]
enum Kind {
    Commit = 1,
    Tree = 2,
    Blob = 3,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Tree => "tree",
            Self::Blob => "blob",
        }
    }
}

/// A pack, version 2, of whole objects; and its index, version 2.
struct Pack {
    folder: PathBuf,
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
    /// Bytes of the pack so far.
    end: u64,
    /// Each object's place and the CRC-32 of its entry.
    entries: BTreeMap<Name, (u64, u32)>,
}

impl Pack {
    fn begin(folder: &Path) -> io::Result<Self> {
        let path = folder.join("tmp_pack");
        let file = File::create_new(&path)?;
        // The count is written at the end.
        let buffer = b"PACK\0\0\0\x02\0\0\0\0".to_vec();
        Ok(Self {
            folder: folder.to_owned(),
            file,
            path,
            end: buffer.len() as u64,
            buffer,
            entries: BTreeMap::new(),
        })
    }

    fn add(&mut self, kind: Kind, content: &[u8]) -> io::Result<Name> {
        let name = object_name(kind.name(), content);
        if self.entries.contains_key(&name) {
            return Ok(name);
        }
        let begin = self.buffer.len();
        // Four bits of the length beside the kind, then seven a byte.
        let mut left = content.len();
        let mut byte = (kind as u8) << 4 | (left & 15) as u8;
        left >>= 4;
        while left > 0 {
            self.buffer.push(byte | 0x80);
            byte = (left & 0x7f) as u8;
            left >>= 7;
        }
        self.buffer.push(byte);
        let mut zlib = ZlibEncoder::new(&mut self.buffer, Compression::fast());
        zlib.write_all(content)?;
        zlib.finish()?;
        let entry = self.buffer.get(begin..).unwrap_or_default();
        let crc = crc32fast::hash(entry);
        self.entries.insert(name, (self.end, crc));
        self.end += entry.len() as u64;
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(name)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn end(mut self) -> io::Result<()> {
        self.flush()?;
        let count = u32::try_from(self.entries.len());
        let count = count.map_err(|_| io::Error::other("more objects than a pack counts"))?;
        self.file.seek(SeekFrom::Start(8))?;
        self.file.write_all(&count.to_be_bytes())?;
        // The hash covers the count in front, so all of it is read once more.
        let mut sha1 = Sha1::new();
        let mut again = BufReader::with_capacity(BUFFER_BYTES, File::open(&self.path)?);
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let n = again.read(&mut chunk)?;
            if n == 0 {
                break;
            }
            sha1.update(chunk.get(..n).unwrap_or_default());
        }
        let hash: Name = sha1.finalize().into();
        self.file.seek(SeekFrom::End(0))?;
        self.file.write_all(&hash)?;
        self.file.sync_all()?;
        let stem = self.folder.join(format!("pack-{}", hex(&hash)));
        fs::rename(&self.path, stem.with_extension("pack"))?;
        let mut fresh = Fresh::begin(&self.folder)?;
        fresh.write(&self.index(count, &hash))?;
        fresh.keep(&stem.with_extension("idx"))?;
        sync_folder(&self.folder)
    }

    fn index(&self, count: u32, pack: &Name) -> Vec<u8> {
        let mut out = b"\xfftOc\0\0\0\x02".to_vec();
        let mut below = 0u32;
        let mut firsts = self
            .entries
            .keys()
            .map(|name| name.first().copied())
            .peekable();
        for first in 0..=255u8 {
            while firsts.next_if_eq(&Some(first)).is_some() {
                below += 1;
            }
            out.extend_from_slice(&below.to_be_bytes());
        }
        debug_assert_eq!(below, count);
        for name in self.entries.keys() {
            out.extend_from_slice(name);
        }
        for (_, crc) in self.entries.values() {
            out.extend_from_slice(&crc.to_be_bytes());
        }
        let mut far = Vec::new();
        for (offset, _) in self.entries.values() {
            let near = u32::try_from(*offset).ok().filter(|_| *offset < OFFSET_MAX);
            let word = near.unwrap_or_else(|| {
                far.push(*offset);
                // Fewer than there are objects, of which a pack counts less than 2^32.
                0x8000_0000 | u32::try_from(far.len() - 1).unwrap_or(u32::MAX)
            });
            out.extend_from_slice(&word.to_be_bytes());
        }
        for offset in far {
            out.extend_from_slice(&offset.to_be_bytes());
        }
        out.extend_from_slice(pack);
        let hash: Name = Sha1::digest(&out).into();
        out.extend_from_slice(&hash);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn parts_of_references_are_told_apart_and_are_what_git_takes() {
        let names = [
            "a", ".a", "a.", "a..b", "a.b", "a.lock", "a.lock.b", "...", ".", "..", "-a", "lock",
            "a.Lock",
        ];
        let parts: BTreeSet<String> = names.iter().map(|n| component(n)).collect();
        assert_eq!(parts.len(), names.len());
        for part in parts {
            let bad = part.starts_with('.')
                || part.ends_with('.')
                || part.contains("..")
                || part.ends_with(".lock");
            assert!(!bad, "{part}");
        }
    }
}
