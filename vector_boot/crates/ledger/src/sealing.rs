//! Sealing on the way in: the member `seal` of a payload becomes `sealed`, which an auditor alone can open.
//!
//! Whoever appends says what is not to be read by everybody who reads the log; the key is the ledger's, so that a
//! service that is taken over opens nothing of what came before. The keys of tenants come from the device key; a ledger
//! that was told of auditors seals for them alone, under a key that ends with its process. Start with [`seal`].

use crate::clock;
use crate::committer::{Draft, Ledger};
use crate::json::{Json, payload_text};
use crate::keys::DeviceKey;
use crate::refusal::Refusal;
use crate::wrap::{self, KeyPair};
use ledger_core::keys::bytes_of;
use ledger_core::sealed::{
    AUDIT_CONTEXT, AuditKey, RECIPIENTS_MAX, Row, SealError, WRAPPED_BYTES, wrapped_keys,
};
use std::io;
use sys::secret::Secret;

/// What a wrapped key is for: no key that was wrapped for something else opens as one.
const AUDIT_INFO: &[u8] = b"vb-ledger-audit v2";

/// Whom the ledger seals for beside nobody: what stands in front of each row, and the key of this process.
pub struct Auditors {
    key: Secret<32>,
    wrapped: Vec<[u8; WRAPPED_BYTES]>,
}

impl Auditors {
    /// Draws the key and wraps it once for each; `None` for no auditor.
    ///
    /// # Errors
    /// More than [`RECIPIENTS_MAX`], one twice, what is no X25519 public key in hexadecimal; as `getrandom(2)`.
    pub fn of(recipients: &[String]) -> Result<Option<Self>, String> {
        let count = recipients.len();
        if count > RECIPIENTS_MAX {
            return Err(format!(
                "audit recipients: {count}, at most {RECIPIENTS_MAX}"
            ));
        }
        if count == 0 {
            return Ok(None);
        }
        let key = Secret::new(|key| sys::random::fill(key));
        let key = key.map_err(|e| format!("audit key: {e}"))?;
        let mut wrapped = Vec::with_capacity(count);
        for (n, text) in recipients.iter().enumerate() {
            let bad = |limit: &str| format!("audit recipient {text:?}: expected {limit}");
            if recipients.iter().take(n).any(|earlier| earlier == text) {
                return Err(bad("each once"));
            }
            let public = bytes_of::<32>(text).ok_or_else(|| bad("64 hex digits"))?;
            let one = wrap::wrap(AUDIT_INFO, key.bytes(), &public, &[]);
            wrapped.push(one.ok_or_else(|| bad("an X25519 public key that hides a secret"))?);
        }
        Ok(Some(Self { key, wrapped }))
    }

    fn seal(&self, row: &Row<'_>, content: &str) -> Result<String, SealError> {
        let key = AuditKey::drawn(self.key.bytes());
        key.seal_for(&self.wrapped, row, &clock::random(), content)
    }
}

/// The key that an auditor opens a sealed text with; `None` if it was not sealed for him.
///
/// # Errors
/// [`SealError::Form`].
pub fn key_for(auditor: &KeyPair, text: &str) -> Result<Option<AuditKey>, SealError> {
    let all = wrapped_keys(text)?;
    let own = all.iter().find_map(|w| auditor.open(AUDIT_INFO, w, &[]));
    Ok(own.map(|key| AuditKey::drawn(&key)))
}

/// A new X25519 secret key.
///
/// # Errors
/// As `mmap(2)` and `getrandom(2)`.
pub fn new_secret() -> io::Result<Secret<32>> {
    Secret::new(|key| sys::random::fill(key))
}

/// What is to be sealed: a text as it is, any other value as its canonical JSON.
const SEAL: &str = "seal";
/// What became of it.
pub const SEALED: &str = "sealed";

/// A tenant's key.
#[must_use]
pub fn audit_key(device: &DeviceKey, tenant: &str) -> AuditKey {
    AuditKey::of(&device.derive(AUDIT_CONTEXT), tenant)
}

/// The row that a draft will be.
fn row(draft: &Draft) -> Row<'_> {
    Row {
        tenant_id: &draft.tenant_id,
        ns: &draft.ns,
        actor: &draft.actor,
        event_type: &draft.event_type,
        subject: &draft.subject,
    }
}

/// Whether the payload may have something to be sealed.
#[must_use]
pub fn is_wanted(draft: &Draft) -> bool {
    // Normalised text: a member's name stands so or not at all.
    draft.payload.contains("\"seal\":")
}

/// Seals what a draft's payload wants sealed.
///
/// # Errors
/// `TOO_LARGE`; `BAD_REQUEST` beside a member `sealed`; `INTERNAL` without a device key: nothing is appended in clear.
pub fn seal(ledger: &Ledger, draft: &mut Draft) -> Result<(), Refusal> {
    if !is_wanted(draft) {
        return Ok(());
    }
    let Json::Object(mut members) = Json::parse(&draft.payload)? else {
        return Ok(());
    };
    let Some(content) = members.remove(SEAL) else {
        return Ok(());
    };
    if members.contains_key(SEALED) {
        return Err(Refusal::bad("payload", "seal or sealed, not both"));
    }
    let content = match &content {
        Json::Text(text) => text.clone(),
        other => other.to_string(),
    };
    let proofs = ledger.proofs();
    let none = || Refusal::new("INTERNAL", "seal", "", "the device key is not there yet");
    let proofs = proofs.ok_or_else(none)?;
    let sealed = match proofs.auditors() {
        Some(auditors) => auditors.seal(&row(draft), &content),
        None => {
            let key = audit_key(proofs.key(), &draft.tenant_id);
            key.seal(&row(draft), &clock::random(), &content)
        }
    };
    let sealed = sealed.map_err(|e| Refusal::new("TOO_LARGE", "seal", "", &e.to_string()))?;
    members.insert(SEALED.to_owned(), Json::Text(sealed));
    draft.payload = payload_text(&Json::Object(members))?;
    Ok(())
}
