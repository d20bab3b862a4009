//! Stores that are libraries, each with its own durability switched to "a sync before the answer".

use crate::modes::Store;
use std::path::Path;

/// Opens a store by its name.
pub fn open(name: &str, folder: &Path) -> Box<dyn Store> {
    match name {
        "sqlite" => Box::new(Sqlite::open(folder)),
        "redb" => Box::new(Redb::open(folder)),
        "fjall" => Box::new(Fjall::open(folder)),
        "git" => Box::new(Git::open(folder)),
        other => panic!("{other}: no such store"),
    }
}

/// WAL, synchronous=FULL: a transaction a group.
struct Sqlite(rusqlite::Connection);

impl Sqlite {
    fn open(folder: &Path) -> Self {
        let connection = rusqlite::Connection::open(folder.join("events.db")).expect("sqlite");
        connection
            .execute_batch(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
                 CREATE TABLE events(id INTEGER PRIMARY KEY, content BLOB NOT NULL);",
            )
            .expect("table");
        Self(connection)
    }
}

impl Store for Sqlite {
    fn append(&mut self, events: &[Vec<u8>]) {
        let transaction = self.0.transaction().expect("begin");
        {
            let mut insert = transaction
                .prepare_cached("INSERT INTO events(content) VALUES(?1)")
                .expect("statement");
            for event in events {
                insert.execute([event]).expect("insert");
            }
        }
        transaction.commit().expect("commit");
    }
}

/// Durability::Immediate, its default.
struct Redb(redb::Database, u64);

const EVENTS: redb::TableDefinition<u64, &[u8]> = redb::TableDefinition::new("events");

impl Redb {
    fn open(folder: &Path) -> Self {
        Self(
            redb::Database::create(folder.join("events.redb")).expect("redb"),
            0,
        )
    }
}

impl Store for Redb {
    fn append(&mut self, events: &[Vec<u8>]) {
        let write = self.0.begin_write().expect("begin");
        {
            let mut table = write.open_table(EVENTS).expect("table");
            for event in events {
                table.insert(self.1, event.as_slice()).expect("insert");
                self.1 += 1;
            }
        }
        write.commit().expect("commit");
    }
}

/// A batch, then PersistMode::SyncData.
struct Fjall {
    database: fjall::Database,
    keyspace: fjall::Keyspace,
    next: u64,
}

impl Fjall {
    fn open(folder: &Path) -> Self {
        let database = fjall::Database::builder(folder.join("events"))
            .open()
            .expect("fjall");
        let keyspace = database
            .keyspace("events", fjall::KeyspaceCreateOptions::default)
            .expect("keyspace");
        Self {
            database,
            keyspace,
            next: 0,
        }
    }
}

impl Store for Fjall {
    fn append(&mut self, events: &[Vec<u8>]) {
        let mut batch = self.database.batch();
        for event in events {
            batch.insert(&self.keyspace, self.next.to_be_bytes(), event.as_slice());
            self.next += 1;
        }
        batch.commit().expect("commit");
        self.database
            .persist(fjall::PersistMode::SyncData)
            .expect("persist");
    }
}

/// A commit a group, a blob an event, every object and reference synced.
struct Git {
    repository: git2::Repository,
    parent: Option<git2::Oid>,
}

impl Git {
    fn open(folder: &Path) -> Self {
        let repository = git2::Repository::init_bare(folder.join("events.git")).expect("git");
        // libgit2 reads it when it writes an object or a reference.
        repository
            .config()
            .and_then(|mut config| config.set_bool("core.fsyncObjectFiles", true))
            .expect("config");
        let repository = git2::Repository::open(repository.path()).expect("git");
        Self {
            repository,
            parent: None,
        }
    }
}

impl Store for Git {
    fn append(&mut self, events: &[Vec<u8>]) {
        let mut tree = self.repository.treebuilder(None).expect("tree");
        for (n, event) in events.iter().enumerate() {
            let blob = self.repository.blob(event).expect("blob");
            tree.insert(format!("{n:03}"), blob, 0o100_644)
                .expect("entry");
        }
        let tree = self
            .repository
            .find_tree(tree.write().expect("tree"))
            .expect("tree");
        let who = git2::Signature::new("l", "l@l", &git2::Time::new(1, 0)).expect("name");
        let parents: Vec<git2::Commit<'_>> = self
            .parent
            .iter()
            .map(|id| self.repository.find_commit(*id).expect("parent"))
            .collect();
        let parents: Vec<&git2::Commit<'_>> = parents.iter().collect();
        let journal = Some("refs/gatos/journal");
        let commit = self
            .repository
            .commit(journal, &who, &who, "events", &tree, &parents);
        self.parent = Some(commit.expect("commit"));
    }
}
