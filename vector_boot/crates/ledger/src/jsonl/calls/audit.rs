//! `audit_key`: the key that opens what was sealed for one tenant, handed out to the machine's owner.

use super::{Call, Handler};
use crate::committer::Draft;
use crate::refusal::Refusal;
use crate::sealing::audit_key;
use ledger_core::rules;
use wire::Role;

/// The handler of a call of this family.
pub fn find(kind: &str) -> Option<Handler> {
    match kind {
        "audit_key" => Some(export),
        _ => None,
    }
}

/// Hands a key out, and says so on the log first: who holds it reads all that was sealed for the tenant, and will be.
fn export(call: &Call<'_>) -> Result<(), Refusal> {
    let tenant = call.text("tenant")?.to_owned();
    if !rules::tenant(&tenant) {
        return Err(Refusal::bad("tenant", "a tenant's name"));
    }
    let none = || Refusal::new("INTERNAL", "key", "", "the device key is not there yet");
    let proofs = call.ledger().proofs().ok_or_else(none)?;
    let line = audit_key(proofs.key(), &tenant).line(&tenant);
    let by = match call.caller.role {
        Role::Console => "user:console",
        _ => "user:operator",
    };
    let draft = Draft {
        ns: "system".to_owned(),
        actor: by.to_owned(),
        tenant_id: "system".to_owned(),
        event_type: "audit_key_exported".to_owned(),
        subject: tenant,
        payload: "{}".to_owned(),
        ..Draft::default()
    };
    call.ledger().append_wait(vec![draft])?;
    // Digits and a tenant's name: nothing in it needs to be escaped.
    call.secret_ok(&["\"key\":\"", &line, "\""]);
    Ok(())
}
