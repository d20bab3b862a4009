//! Blobs: put, get, rekey, shred.
//!
//! What is larger than a line comes in pieces: lines of the same call and id, of which all but the last say
//! `"more":true`. It goes out in pieces too. The connection's thread does the work; only the event is the committer's.
//! Once a piece is refused the call is, up to its last piece: what follows must not become a blob without its beginning.

use super::super::call::Call;
use super::Handler;
use super::append::receipt_members;
use crate::blobs::{Blobs, Sealed, Upload};
use crate::committer::{Draft, Receipt};
use crate::json::Json;
use crate::planes::{Decision, Planes};
use crate::query::hex;
use crate::refusal::Refusal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ledger_core::blob::{self, Entry, No, Used};
use ledger_core::rules::{self, Broken};
use ledger_core::store::ObjectId;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Blobs that one connection may be sending at once.
const UPLOADS_MAX: usize = 4;
/// Refused blobs of one connection whose last piece did not come yet; beyond, the connection ends.
const REFUSED_MAX: usize = 64;
/// Bytes of one piece that goes out: eight chunks, which base64 brings near two thirds of a line.
const PIECE_BYTES: usize = 512 * 1024;
/// How often a pointer is looked up anew when it was rekeyed while it was being opened.
const LOOKS_MAX: usize = 3;

/// The handler of a call of this family.
pub fn find(kind: &str) -> Option<Handler> {
    match kind {
        "blob.put" => Some(put),
        "blob.get" => Some(get),
        "blob.rekey" => Some(rekey),
        "blob.shred" => Some(shred),
        _ => None,
    }
}

/// What a connection is sending, by the id of its call.
#[derive(Default)]
pub struct Uploads {
    coming: BTreeMap<String, Coming>,
    refused: BTreeSet<String>,
}

impl Uploads {
    /// Gives up blobs that waited for their next piece for longer than `limit`: what comes of them after all is
    /// refused. Whether any others wait.
    pub fn wait_on(&mut self, limit: Duration) -> bool {
        let late = |coming: &Coming| coming.touched.elapsed() >= limit;
        let all = std::mem::take(&mut self.coming);
        let (late, waiting) = all.into_iter().partition(|(_, coming)| late(coming));
        self.coming = waiting;
        let late: BTreeMap<String, Coming> = late;
        self.refused.extend(late.into_keys());
        !self.coming.is_empty()
    }
}

/// A blob that a connection is sending.
struct Coming {
    upload: Upload,
    names: Names,
    /// When its last piece came.
    touched: Instant,
}

/// Under which names an event is written.
struct Names {
    ns: String,
    actor: String,
    tenant: String,
}

impl Names {
    fn of(call: &Call<'_>) -> Result<Self, Refusal> {
        let (ns, actor) = (call.text("ns")?.to_owned(), call.actor("actor")?);
        call.caller.may_append(&ns, &actor)?;
        call.caller.may_fill(call.ledger())?;
        let tenant = tenant(call)?;
        // The committer checks them too, but only once the blob is on the disk.
        for (holds, broken, value) in [
            (rules::ns(&ns), Broken::Ns, &ns),
            (rules::actor(&actor), Broken::Actor, &actor),
            (rules::tenant(&tenant), Broken::Tenant, &tenant),
        ] {
            if !holds {
                let (code, limit) = (broken.code(), broken.limit());
                return Err(Refusal::new(code, broken.field(), value, limit));
            }
        }
        Ok(Self { ns, actor, tenant })
    }

    fn draft(&self, kind: &str, pointer: &ObjectId, payload: String) -> Draft {
        Draft {
            ns: self.ns.clone(),
            actor: self.actor.clone(),
            tenant_id: self.tenant.clone(),
            event_type: kind.to_owned(),
            subject: pointer.to_string(),
            payload,
            ..Draft::default()
        }
    }
}

fn tenant(call: &Call<'_>) -> Result<String, Refusal> {
    let named = call.optional_text("tenant_id")?.map(str::to_owned);
    let tenant = named.unwrap_or_else(|| call.caller.tenant());
    call.caller.may_append_for(&tenant)?;
    Ok(tenant)
}

fn pointer(call: &Call<'_>) -> Result<ObjectId, Refusal> {
    let text = call.text("pointer")?;
    ObjectId::parse(text).ok_or_else(|| Refusal::bad("pointer", "64 digits of 0-9 a-f"))
}

fn recipients(call: &Call<'_>, key: &'static str) -> Result<Vec<[u8; 32]>, Refusal> {
    let bad = || {
        Refusal::bad(
            key,
            "a list of X25519 public keys, 64 digits of 0-9 a-f each",
        )
    };
    let list = match call.request.get(key) {
        None | Some(Json::Null) => return Ok(Vec::new()),
        Some(Json::List(list)) => list,
        Some(_) => return Err(bad()),
    };
    let one = |item: &Json| item.text().and_then(ObjectId::parse).map(|id| id.0);
    list.iter().map(|item| one(item).ok_or_else(bad)).collect()
}

fn data(call: &Call<'_>) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let text = call.optional_text("data")?.unwrap_or_default();
    let decoded = BASE64.decode(text);
    let decoded = decoded.map_err(|_| Refusal::bad("data", "base64 with its padding"))?;
    Ok(Zeroizing::new(decoded))
}

fn put(call: &Call<'_>) -> Result<(), Refusal> {
    let id = call.id.to_string();
    let more = match call.request.get("more") {
        None | Some(Json::Bool(false)) => false,
        Some(Json::Bool(true)) => true,
        Some(_) => return Err(Refusal::bad("more", "true or false")),
    };
    // Taken out: whatever goes wrong with a piece, the whole blob is forgotten.
    let coming = call.uploads().borrow_mut().coming.remove(&id);
    let taken = piece(call, &id, coming);
    let mut uploads = call.uploads().borrow_mut();
    match taken {
        Ok(coming) if more => {
            let bytes = coming.upload.bytes();
            uploads.coming.insert(id, coming);
            call.ack_members(&format!("\"bytes\":{bytes}"));
            Ok(())
        }
        Ok(coming) => {
            drop(uploads);
            end(call, coming)
        }
        Err(refusal) => {
            if !more {
                uploads.refused.remove(&id);
            } else if *call.id != Json::Null {
                uploads.refused.insert(id);
            }
            if uploads.refused.len() > REFUSED_MAX {
                call.hang_up();
            }
            Err(refusal)
        }
    }
}

/// Takes a piece of a blob, the first where none is coming.
fn piece(call: &Call<'_>, id: &str, coming: Option<Coming>) -> Result<Coming, Refusal> {
    let mut coming = match coming {
        Some(coming) => coming,
        None => {
            let uploads = call.uploads().borrow();
            if uploads.refused.contains(id) {
                let limit =
                    "an earlier piece was refused or too late: all of it again, under another id";
                return Err(Refusal::new("CONFLICT", "blob", "", limit));
            }
            let pieces = call.request.get("more") == Some(&Json::Bool(true));
            if pieces && (uploads.coming.len() >= UPLOADS_MAX || *call.id == Json::Null) {
                let limit = format!("at most {UPLOADS_MAX} a connection, each with an id");
                return Err(Refusal::new("QUOTA", "uploads", "", &limit));
            }
            begin(call)?
        }
    };
    let kept = kept(call, &coming.names.tenant)?;
    coming.upload.write(&data(call)?, kept)?;
    coming.touched = Instant::now();
    Ok(coming)
}

/// What a tenant has.
fn kept(call: &Call<'_>, tenant: &str) -> Result<Used, Refusal> {
    if let Some(stopped) = call.ledger().standing().stopped {
        // Before anything is written that no event could point to.
        return Err((&stopped).into());
    }
    call.ledger().planes(|planes| planes.blobs.used(tenant))
}

fn begin(call: &Call<'_>) -> Result<Coming, Refusal> {
    let names = Names::of(call)?;
    let recipients = recipients(call, "recipients")?;
    let look = |planes: &Planes| planes.blobs.may_put(&names.tenant, 0);
    call.ledger().planes(look)??;
    let kept = kept(call, &names.tenant)?;
    let blobs = call.ledger().blobs()?;
    let upload = blobs.begin(recipients, Some(&names.tenant), kept)?;
    Ok(Coming {
        upload,
        names,
        touched: Instant::now(),
    })
}

fn end(call: &Call<'_>, coming: Coming) -> Result<(), Refusal> {
    let Coming { upload, names, .. } = coming;
    let sealed = upload.finish(None)?;
    let pointer = sealed.manifest.object;
    let draft = names.draft(blob::PUT, &pointer, sealed.manifest.payload());
    let (manifest, tenant) = (sealed.manifest.clone(), names.tenant.clone());
    let (sealed, receipt) = point(call, sealed, &names.tenant, &pointer, draft, move |all| {
        all.may_add(&tenant, &manifest)
    })?;
    answer(call, &pointer, &sealed, &receipt);
    Ok(())
}

fn answer(call: &Call<'_>, pointer: &ObjectId, sealed: &Sealed, receipt: &Receipt) {
    let manifest = &sealed.manifest;
    call.ok(&format!(
        "\"pointer\":\"{pointer}\",\"object\":\"{}\",\"bytes\":{},{}",
        manifest.object,
        manifest.bytes,
        receipt_members(receipt)
    ));
}

/// Has the event appended that points a tenant's pointer to a sealed blob, if the plane still allows it. If no event
/// does, the blob is destroyed.
fn point(
    call: &Call<'_>,
    sealed: Sealed,
    tenant: &str,
    pointer: &ObjectId,
    draft: Draft,
    may: impl FnOnce(&blob::Blobs) -> Result<(), No> + Send + 'static,
) -> Result<(Sealed, Receipt), Refusal> {
    let refusal = match append(call, draft, may) {
        Ok(Ok(receipt)) => return Ok((sealed, receipt)),
        Ok(Err(no)) => no.into(),
        Err(refusal) => refusal,
    };
    // An event that was placed was applied, though a failed sync may have lost it: only the next start knows, and
    // then the blob is opened, or collected.
    let object = sealed.manifest.object.0;
    let placed = call.ledger().peek(|planes| {
        let entry = planes.blobs.of(tenant, &pointer.0);
        entry.is_some_and(|entry| entry.object == object)
    });
    if !placed && let Err(e) = sealed.discard() {
        // Why nothing points to it matters more; what is left is collected at the next start.
        ::log::warn!("object not destroyed: reason={:?}", e.reason());
    }
    Err(refusal)
}

/// Appends one event if the plane allows it at that moment, and waits until it is durable.
fn append(
    call: &Call<'_>,
    draft: Draft,
    may: impl FnOnce(&blob::Blobs) -> Result<(), No> + Send + 'static,
) -> Result<Result<Receipt, No>, Refusal> {
    let bytes = draft.payload.len();
    let (sender, receiver) = crossbeam::channel::bounded(1);
    let plea = call.plea.clone();
    call.ledger().decide(
        bytes,
        move |planes, moment| {
            // Sending or sealing it took its time: a revocation may have been placed in between.
            plea.still(planes, moment)?;
            Ok(match may(&planes.blobs) {
                Ok(()) => Decision {
                    events: vec![draft],
                    answer: None,
                },
                Err(no) => Decision::only(Some(no)),
            })
        },
        // The receiver waits below.
        move |outcome| drop(sender.send(outcome)),
    );
    let outcome = receiver.recv().map_err(|_| Refusal::closing())?;
    let (no, receipts) = outcome?;
    match (no, receipts.first()) {
        (Some(no), _) => Ok(Err(no)),
        (None, Some(receipt)) => Ok(Ok(*receipt)),
        (None, None) => Err(Refusal::closing()),
    }
}

/// A tenant's pointer as it is now.
fn look(call: &Call<'_>, tenant: &str, pointer: &ObjectId) -> Result<Entry, Refusal> {
    let entry = call
        .ledger()
        .planes(|planes| planes.blobs.of(tenant, &pointer.0).cloned())?;
    Ok(entry.ok_or(No::Missing)?)
}

fn get(call: &Call<'_>) -> Result<(), Refusal> {
    let (tenant, pointer) = (tenant(call)?, pointer(call)?);
    let is_sealed = call.request.get("sealed") == Some(&Json::Bool(true));
    let blobs = call.ledger().blobs()?;
    let mut entry = look(call, &tenant, &pointer)?;
    for _ in 0..LOOKS_MAX {
        let mut pieces = Pieces::new(call);
        let done = if is_sealed {
            get_sealed(&blobs, &entry, &mut pieces)
        } else {
            blobs
                .read(&entry, &mut |chunk| pieces.take(chunk))
                .map(|()| String::new())
        };
        let more = match done {
            Ok(more) => more,
            Err(refusal) => {
                // It may have been rekeyed since it was looked up; but only before the first byte went out.
                let now = look(call, &tenant, &pointer)?;
                if now == entry || pieces.sent > 0 {
                    return Err(refusal);
                }
                entry = now;
                continue;
            }
        };
        pieces.flush();
        call.ok(&format!(
            "\"pointer\":\"{pointer}\",\"bytes\":{},\"event_id\":{}{more}",
            entry.bytes, entry.event
        ));
        return Ok(());
    }
    Err(No::Changed.into())
}

/// A small blob of the caller's tenant as text, for a call that takes a pointer to it: for who may `blob.get`.
pub fn text(
    call: &Call<'_>,
    field: &'static str,
    pointer: &str,
    bytes_max: usize,
) -> Result<String, Refusal> {
    let pointer = ObjectId::parse(pointer);
    let pointer = pointer.ok_or_else(|| Refusal::bad(field, "64 digits of 0-9 a-f"))?;
    // It reads a blob, whatever it is called.
    call.ledger().allow(&call.caller.plea("blob.get", ""))?;
    let entry = look(call, &tenant(call)?, &pointer)?;
    if entry.bytes > bytes_max as u64 {
        let limit = format!("a blob of at most {bytes_max} bytes");
        return Err(Refusal::new(
            "TOO_LARGE",
            field,
            &entry.bytes.to_string(),
            &limit,
        ));
    }
    let mut bytes = Vec::new();
    call.ledger().blobs()?.read(&entry, &mut |chunk| {
        bytes.extend_from_slice(chunk);
        bytes.len() <= bytes_max
    })?;
    String::from_utf8(bytes).map_err(|_| Refusal::bad(field, "a blob of UTF-8"))
}

/// The ciphertext, and what each recipient needs to open it.
fn get_sealed(blobs: &Blobs, entry: &Entry, pieces: &mut Pieces<'_>) -> Result<String, Refusal> {
    let (mut file, keys) = blobs.sealed(entry)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let n = file.read(&mut buffer).map_err(|e| Refusal::from(&e))?;
        if n == 0 || !pieces.take(buffer.get(..n).unwrap_or_default()) {
            break;
        }
    }
    let keys: Vec<String> = keys
        .iter()
        .map(|(to, key)| {
            let key = BASE64.encode(key);
            format!("{{\"recipient\":\"{}\",\"key\":\"{key}\"}}", hex(to))
        })
        .collect();
    let object = ObjectId(entry.object);
    Ok(format!(
        ",\"object\":\"{object}\",\"keys\":[{}]",
        keys.join(",")
    ))
}

/// Lines of bytes that go out.
struct Pieces<'c> {
    call: &'c Call<'c>,
    buffer: Zeroizing<Vec<u8>>,
    sent: u64,
}

impl<'c> Pieces<'c> {
    fn new(call: &'c Call<'c>) -> Self {
        Self {
            call,
            // A buffer that grew would leave plain text behind.
            buffer: Zeroizing::new(Vec::with_capacity(PIECE_BYTES)),
            sent: 0,
        }
    }

    /// Takes the next bytes; false once the peer is gone.
    fn take(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let room = PIECE_BYTES - self.buffer.len();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == PIECE_BYTES && !self.flush() {
                return false;
            }
        }
        true
    }

    fn flush(&mut self) -> bool {
        if self.buffer.is_empty() {
            return true;
        }
        let data = Zeroizing::new(BASE64.encode(&*self.buffer));
        let at = self.sent;
        self.sent += self.buffer.len() as u64;
        self.buffer.clear();
        let line = Zeroizing::new(format!("\"at\":{at},\"data\":\"{}\"", *data));
        self.call.secret_line(&line)
    }
}

fn rekey(call: &Call<'_>) -> Result<(), Refusal> {
    let (names, pointer) = (Names::of(call)?, pointer(call)?);
    let recipients = recipients(call, "to")?;
    let blobs = call.ledger().blobs()?;
    let entry = look(call, &names.tenant, &pointer)?;
    let kept = kept(call, &names.tenant)?;
    let mut upload = blobs.begin(recipients, None, kept)?;
    let mut written = Ok(());
    blobs.read(&entry, &mut |chunk| {
        written = upload.write(chunk, kept);
        written.is_ok()
    })?;
    written?;
    let old = ObjectId(entry.object);
    let sealed = upload.finish(Some(old))?;
    let draft = names.draft(blob::REKEYED, &pointer, sealed.manifest.payload());
    let tenant = names.tenant.clone();
    let (sealed, receipt) = point(call, sealed, &names.tenant, &pointer, draft, move |all| {
        all.may_change(&tenant, &pointer.0, &old.0)
    })?;
    blobs.destroy(&old)?;
    answer(call, &pointer, &sealed, &receipt);
    Ok(())
}

fn shred(call: &Call<'_>) -> Result<(), Refusal> {
    let (names, pointer) = (Names::of(call)?, pointer(call)?);
    let blobs: Arc<Blobs> = call.ledger().blobs()?;
    let entry = look(call, &names.tenant, &pointer)?;
    let object = ObjectId(entry.object);
    let payload = format!("{{\"object\":\"{object}\"}}");
    let draft = names.draft(blob::SHREDDED, &pointer, payload);
    let tenant = names.tenant;
    let receipt = append(call, draft, move |all| {
        all.may_change(&tenant, &pointer.0, &object.0)
    })??;
    // The answer says that the keys are gone, so it comes after that.
    blobs.destroy(&object)?;
    call.ok(&format!(
        "\"pointer\":\"{pointer}\",\"shredded\":true,{}",
        receipt_members(&receipt)
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_that_waits_too_long_is_given_up_and_refused_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Arc::new(Blobs::open(folder.path(), &[7; 32]).unwrap());
        let files = || {
            std::fs::read_dir(folder.path().join("objects/blake3"))
                .unwrap()
                .count()
        };
        let coming = || Coming {
            upload: blobs.begin(Vec::new(), Some("t"), Used::default()).unwrap(),
            names: Names {
                ns: "work".to_owned(),
                actor: "user:a".to_owned(),
                tenant: "t".to_owned(),
            },
            touched: Instant::now(),
        };
        let mut uploads = Uploads::default();
        assert!(!uploads.wait_on(Duration::ZERO));
        for id in ["1", "2"] {
            uploads.coming.insert(id.to_owned(), coming());
        }
        assert!(uploads.wait_on(Duration::MAX));
        assert_eq!(files(), 2);
        assert!(!uploads.wait_on(Duration::ZERO));
        assert_eq!((files(), uploads.refused.len()), (0, 2));
        // What they took of the quota is free again.
        let again: Vec<Coming> = (0..8).map(|_| coming()).collect();
        assert_eq!(again.len(), 8);
        let ninth = blobs.begin(Vec::new(), Some("t"), Used::default());
        assert_eq!(ninth.err().map(|refusal| refusal.code), Some("QUOTA"));
    }
}
