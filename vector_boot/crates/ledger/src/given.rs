//! An event as somebody gives it, on a line or on the command line: read, and made what is appended.
//!
//! Every way in takes the same members and refuses the same types: an event that one of them drops half of, or lets
//! pass, would be another event. Start with [`Given::parse`].

use crate::committer::{Draft, Ledger};
use crate::identity;
use crate::json::{self, Json};
use crate::refusal::Refusal;
use crate::sealing;
use ledger_core::keys::{self, bytes_of};
use ledger_core::ulid;

/// An event, read.
pub struct Given {
    draft: Draft,
    sig: Option<[u8; 64]>,
}

impl Given {
    /// Reads an object; `tenant` is whose it is if it does not say.
    ///
    /// # Errors
    /// `BAD_REQUEST` with the member that is not as documented; `POLICY_DENY` for a type that calls alone write.
    pub fn parse(event: &Json, ns: &str, actor: &str, tenant: &str) -> Result<Self, Refusal> {
        let Json::Object(members) = event else {
            return Err(Refusal::bad("event", "an object"));
        };
        let mut draft = Draft {
            ns: ns.to_owned(),
            actor: actor.to_owned(),
            tenant_id: tenant.to_owned(),
            payload: "{}".to_owned(),
            ..Draft::default()
        };
        let mut sig = None;
        for (key, value) in members {
            let text = |field| {
                value
                    .text()
                    .map(str::to_owned)
                    .ok_or_else(|| Refusal::bad(field, "text"))
            };
            match (key.as_str(), value) {
                ("event_type" | "type", _) => draft.event_type = text("event_type")?,
                ("tenant_id", _) => draft.tenant_id = text("tenant_id")?,
                ("subject", _) => draft.subject = text("subject")?,
                ("payload", _) => draft.payload = json::payload_text(value)?,
                ("causation_id", Json::Null) => {}
                ("causation_id", Json::Unsigned(cause)) => draft.causation_id = Some(*cause),
                ("causation_id", _) => return Err(Refusal::bad("causation_id", "an event id")),
                ("timestamp", Json::Unsigned(ns)) => draft.timestamp_ns = Some(*ns),
                ("ulid", _) => {
                    let ulid = ulid::parse(&text("ulid")?);
                    let limit = "26 letters of Crockford's base 32";
                    draft.ulid = Some(ulid.ok_or_else(|| Refusal::bad("ulid", limit))?);
                }
                ("sig", _) => {
                    let bytes = bytes_of::<64>(&text("sig")?);
                    sig = Some(bytes.ok_or_else(|| Refusal::bad("sig", "128 hex digits"))?);
                }
                _ => {
                    let limit = "one of event_type tenant_id subject payload causation_id \
                                 timestamp ulid sig";
                    return Err(Refusal::new("BAD_REQUEST", "event", key, limit));
                }
            }
        }
        identity::may_write(
            &draft.event_type,
            event.get("payload").unwrap_or(&Json::Null),
        )?;
        Ok(Self { draft, sig })
    }

    /// Whose it is.
    pub fn tenant(&self) -> &str {
        &self.draft.tenant_id
    }

    /// Whether something in it is to be sealed, for which the device key is needed.
    pub fn wants_sealing(&self) -> bool {
        sealing::is_wanted(&self.draft)
    }

    /// What is appended: with its signature, which is checked, or with what was to be sealed sealed.
    ///
    /// # Errors
    /// `BAD_SIG`, and as [`sealing::seal`].
    pub fn draft(self, ledger: &Ledger) -> Result<Draft, Refusal> {
        let mut draft = self.draft;
        match self.sig {
            Some(sig) => sign(ledger, &mut draft, &sig)?,
            None => sealing::seal(ledger, &mut draft)?,
        }
        Ok(draft)
    }
}

/// Puts a signature into an event, with the actor's key that made it. What is signed is stored as it
/// came: nothing of it is sealed on the way in.
fn sign(ledger: &Ledger, draft: &mut Draft, sig: &[u8; 64]) -> Result<(), Refusal> {
    if draft.ulid.is_none() {
        let limit = "with a signature, so that it serves once";
        return Err(Refusal::bad("ulid", limit));
    }
    if sealing::is_wanted(draft) {
        return Err(Refusal::bad("payload", "without seal, since it is signed"));
    }
    let keys = ledger.peek(|planes| planes.keys.of(&draft.tenant_id, &draft.actor).to_vec());
    let text = keys::event_text(&draft.body(0));
    let own = keys.iter().find(|key| keys::verify(key, &text, sig));
    let Some(own) = own else {
        let limit = "by a registered key of the actor, over the event";
        return Err(Refusal::new("BAD_SIG", "sig", "", limit));
    };
    draft.sig = Some([&own[..], sig].concat());
    Ok(())
}
