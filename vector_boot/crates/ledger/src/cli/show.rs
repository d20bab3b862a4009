//! `show`: one event, and what was sealed in it for who has the key; `audit-key`: a tenant's; `auditor`: an auditor's.

use super::peer::Next;
use super::snapshot::Snapshot;
use super::{Outcome, Place};
use crate::device::Access;
use crate::json::Json;
use crate::keys::DeviceKey;
use crate::query::{Filter, Order, Query};
use crate::sealing::{SEALED, audit_key, key_for, new_secret};
use crate::wrap::KeyPair;
use clap::Args;
use ledger_core::rules;
use ledger_core::sealed::{
    AuditKey, KEY_LINE_BYTES_MAX, Row, auditor_line, auditor_secret, wrapped_keys,
};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use sys::secret::Secret;
use zeroize::Zeroizing;

/// The line, and room for the white space that an editor leaves behind it.
const KEY_FILE_BYTES_MAX: usize = KEY_LINE_BYTES_MAX + 64;

#[derive(Args)]
pub struct Words {
    /// The event's id.
    event: u64,
    /// A file with the tenant's audit key, as `audit-key` prints it, or an auditor's, as `auditor` makes it: opens
    /// what was sealed. - is standard input.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl Words {
    pub fn run(&self, place: &Place) -> Outcome {
        sys::secret::never_dump();
        let key = self.key.as_deref().map(read_key).transpose()?;
        let event = self.event(place)?;
        println!("{event}");
        if let Some(key) = &key {
            print_secret(&key.open(&event)?)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn event(&self, place: &Place) -> Result<Json, String> {
        let found = match place {
            Place::Disk(disk) => {
                let query = Query {
                    filter: Filter::default(),
                    from: Some(self.event),
                    limit: 1,
                    order: Order::Ascending,
                };
                let found = Snapshot::open(disk.open(Access::Read)?)?.query(&query)?;
                let event = found.first().map(|text| Json::stored(text));
                event.transpose().map_err(|e| e.to_string())?
            }
            Place::Running(peer) => {
                let request = Json::object([
                    ("type", "query".into()),
                    ("from", self.event.into()),
                    ("limit", 1.into()),
                ]);
                let mut event = None;
                peer.lines(&request, &mut |line| {
                    event = line.get("event").cloned().or(event.take());
                    Next::More
                })?;
                event
            }
        };
        let own = |e: &Json| e.get("id").and_then(Json::unsigned) == Some(self.event);
        found
            .filter(own)
            .ok_or(format!("event {}: not there", self.event))
    }
}

/// Reads a key, which never lies anywhere but on a page of its own; - is standard input.
fn read_key(path: &Path) -> Result<Key, String> {
    let failed = |why: String| format!("{}: {why}", path.display());
    let mut from: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(sys::secret::unbuffered_stdin().map_err(|e| failed(e.to_string()))?),
        false => Box::new(File::open(path).map_err(|e| failed(e.to_string()))?),
    };
    let mut used = 0;
    let line = Secret::<KEY_FILE_BYTES_MAX>::new(|page| {
        while let Some(rest) = page.get_mut(used..).filter(|rest| !rest.is_empty()) {
            match from.read(rest)? {
                0 => break,
                n => used += n,
            }
        }
        Ok(())
    })
    .map_err(|e| failed(e.to_string()))?;
    let text = line.bytes().get(..used).unwrap_or_default();
    let text = std::str::from_utf8(text).map_err(|e| failed(e.to_string()))?;
    if let Some(secret) = auditor_secret(text) {
        return KeyPair::of(&secret)
            .map(Key::Auditor)
            .ok_or_else(|| failed("no X25519 secret key".to_owned()));
    }
    let (tenant, key) = AuditKey::parse(text).map_err(|e| failed(e.to_string()))?;
    Ok(Key::Tenant(tenant.to_owned(), key))
}

/// What somebody opens sealed members with.
enum Key {
    /// One tenant's.
    Tenant(String, AuditKey),
    /// One of those whom the ledger was told of.
    Auditor(KeyPair),
}

impl Key {
    /// What was sealed in an event.
    fn open(&self, event: &Json) -> Result<Zeroizing<String>, String> {
        let text = |name: &str| event.get(name).and_then(Json::text).unwrap_or_default();
        let sealed = event.get("payload").and_then(|p| p.get(SEALED));
        let sealed = sealed
            .and_then(Json::text)
            .ok_or("nothing in this event is sealed")?;
        let row = Row {
            tenant_id: text("tenant_id"),
            ns: text("ns"),
            actor: text("actor"),
            event_type: text("event_type"),
            subject: text("subject"),
        };
        let is_for_auditors = !wrapped_keys(sealed).map_err(|e| e.to_string())?.is_empty();
        let opened = match self {
            Self::Tenant(tenant, _) if tenant != row.tenant_id => {
                let own = row.tenant_id;
                return Err(format!("the event is of tenant {own}, the key of {tenant}"));
            }
            Self::Tenant(..) if is_for_auditors => {
                return Err(
                    "sealed for the machine's auditors: no tenant's key opens it".to_owned(),
                );
            }
            Self::Auditor(_) if !is_for_auditors => {
                let own = row.tenant_id;
                return Err(format!(
                    "sealed for the key of tenant {own}, for no auditor"
                ));
            }
            Self::Tenant(_, key) => key.open(&row, sealed),
            Self::Auditor(pair) => key_for(pair, sealed)
                .map_err(|e| e.to_string())?
                .ok_or("not sealed for this auditor")?
                .open(&row, sealed),
        };
        opened.map_err(|e| e.to_string())
    }
}

/// Prints a line that stays in no buffer.
fn print_secret(line: &str) -> Result<(), String> {
    let print = || {
        let mut out = sys::secret::unbuffered_stdout()?;
        out.write_all(line.as_bytes())?;
        out.write_all(b"\n")
    };
    print().map_err(|e: std::io::Error| format!("standard output: {e}"))
}

#[derive(Args)]
pub struct KeyWords {
    /// Whose.
    tenant: String,
}

impl KeyWords {
    pub fn run(&self, place: &Place) -> Outcome {
        if !rules::tenant(&self.tenant) {
            return Err(format!("tenant {:?}: no tenant's name", self.tenant));
        }
        sys::secret::never_dump();
        let line = match place {
            Place::Disk(disk) => {
                let device = DeviceKey::read(disk.data()).map_err(|e| e.to_string())?;
                audit_key(&device, &self.tenant).line(&self.tenant)
            }
            Place::Running(peer) => {
                let request = Json::object([
                    ("type", "audit_key".into()),
                    ("tenant", self.tenant.as_str().into()),
                ]);
                peer.secret(&request, "key")?
            }
        };
        print_secret(&line)?;
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Args)]
pub struct AuditorWords {
    /// The file with the secret key; made, readable by its owner alone, if it is not there.
    file: PathBuf,
}

impl AuditorWords {
    pub fn run(&self) -> Outcome {
        sys::secret::never_dump();
        if !self.file.exists() {
            self.make()
                .map_err(|e| format!("{}: {e}", self.file.display()))?;
        }
        match read_key(&self.file)? {
            Key::Auditor(pair) => println!("{}", ledger_core::hex(&pair.public)),
            Key::Tenant(..) => {
                return Err(format!("{}: a tenant's key", self.file.display()));
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn make(&self) -> std::io::Result<()> {
        let secret = new_secret()?;
        let line = auditor_line(secret.bytes());
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(&self.file)?;
        file.write_all(line.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        // What is sealed for a key whose name a power cut took is lost.
        let folder = self.file.parent().filter(|p| !p.as_os_str().is_empty());
        crate::files::sync_folder(folder.unwrap_or(Path::new(".")))
    }
}
