//! Sealing on the way in: the member `seal` of a payload becomes `sealed`, which an auditor alone can open.
//!
//! Whoever appends says what is not to be read by everybody who reads the log; the key is the ledger's, so that a
//! service that is taken over opens nothing of what came before. The keys of tenants come from the device key. Start
//! with [`seal`].

use crate::clock;
use crate::committer::{Draft, Ledger};
use crate::json::{Json, payload_text};
use crate::keys::DeviceKey;
use crate::refusal::Refusal;
use ledger_core::sealed::{AUDIT_CONTEXT, AuditKey, Row};

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
    let key = audit_key(proofs.key(), &draft.tenant_id);
    let sealed = key.seal(&row(draft), &clock::random(), &content);
    let sealed = sealed.map_err(|e| Refusal::new("TOO_LARGE", "seal", "", &e.to_string()))?;
    members.insert(SEALED.to_owned(), Json::Text(sealed));
    draft.payload = payload_text(&Json::Object(members))?;
    Ok(())
}
