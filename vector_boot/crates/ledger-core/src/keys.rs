//! Keys of actors, as a fold over the log, and the signatures that they make over their events.
//!
//! A signature is over a context and canonical JSON, so that one made for an event serves for nothing
//! else; the ULID, which the signer chooses, makes each one single. An event's body keeps the key in
//! front of the signature: whoever reads the log can check it ([`holds`]), also after the key is gone.

use crate::json::Json;
use crate::{Body, ulid};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};

/// Event type of a key that is an actor's from here on.
pub const REGISTERED: &str = "key.registered";
/// Event type of the end of that.
pub const REVOKED: &str = "key.revoked";
/// Keys that one actor may have at a time: one in use, and others for its rotation.
pub const KEYS_OF_ACTOR_MAX: usize = 8;
/// Actors with keys; each takes up to half a kilobyte.
pub const ACTORS_MAX: usize = 4096;
/// A key in front of its signature, as a body keeps them.
pub const SIG_BYTES: usize = 32 + 64;

/// In front of what is signed of an event.
const EVENT_CONTEXT: &str = "vb-ledger-event v1\n";
/// In front of what is signed to register a key.
const KEY_CONTEXT: &str = "vb-ledger-key v1\n";

/// A public key of Ed25519.
pub type Key = [u8; 32];

/// Keys by tenant and actor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys(BTreeMap<(String, String), Vec<Key>>);

impl Keys {
    /// Whether events of this type change it.
    #[must_use]
    pub fn wants(event_type: &str) -> bool {
        matches!(event_type, REGISTERED | REVOKED)
    }

    /// Takes the next event in: its subject is the actor whose key it is.
    pub fn apply(&mut self, _id: u64, body: &Body<'_>) {
        if !Self::wants(body.event_type) {
            return;
        }
        let payload = Json::parse(body.payload).unwrap_or(Json::Null);
        let Some(key) = payload.get("key").and_then(Json::text).and_then(bytes_of) else {
            return;
        };
        let place = (body.tenant_id.into(), body.subject.into());
        if body.event_type == REVOKED {
            if let Some(keys) = self.0.get_mut(&place) {
                keys.retain(|k| *k != key);
            }
            self.0.retain(|_, keys| !keys.is_empty());
        } else if self
            .may_register(body.tenant_id, body.subject, &key)
            .is_ok()
        {
            self.0.entry(place).or_default().push(key);
        }
    }

    /// An actor's keys.
    #[must_use]
    pub fn of(&self, tenant: &str, actor: &str) -> &[Key] {
        let keys = self.0.get(&(tenant.into(), actor.into()));
        keys.map_or(&[], Vec::as_slice)
    }

    /// Whether the key in front of an event's signature is its actor's; true of one without.
    #[must_use]
    pub fn own(&self, tenant: &str, actor: &str, sig: Option<&[u8]>) -> bool {
        sig.is_none_or(|sig| {
            let key = sig.first_chunk::<32>();
            key.is_some_and(|key| self.of(tenant, actor).contains(key))
        })
    }

    /// Whether a key may become the actor's.
    ///
    /// # Errors
    /// The code and why not.
    pub fn may_register(
        &self,
        tenant: &str,
        actor: &str,
        key: &Key,
    ) -> Result<(), (&'static str, String)> {
        let own = self.of(tenant, actor);
        if own.contains(key) {
            return Err(("DUPLICATE", "it is registered".into()));
        }
        if own.len() >= KEYS_OF_ACTOR_MAX {
            let limit = format!("at most {KEYS_OF_ACTOR_MAX} of an actor");
            return Err(("QUOTA", limit));
        }
        if own.is_empty() && self.0.len() >= ACTORS_MAX {
            // Not how many: those are others'.
            return Err(("QUOTA", "no room for another actor's".into()));
        }
        Ok(())
    }
}

/// What is signed of an event: canonical JSON behind its context.
#[must_use]
pub fn event_text(body: &Body<'_>) -> String {
    let text = |value: &str| Json::from(value);
    let cause = body.causation_id.map_or(Json::Null, Json::from);
    // The payload is canonical already.
    format!(
        "{EVENT_CONTEXT}{{\"actor\":{},\"causation_id\":{cause},\"event_type\":{},\"ns\":{},\"payload\":{},\"subject\":{},\"tenant_id\":{},\"ulid\":\"{}\"}}",
        text(body.actor),
        text(body.event_type),
        text(body.ns),
        body.payload,
        text(body.subject),
        text(body.tenant_id),
        ulid::text(&body.ulid),
    )
}

/// What is signed to register a key, by the key itself: who holds it says so.
#[must_use]
pub fn key_text(tenant: &str, actor: &str) -> String {
    let (actor, tenant) = (Json::from(actor), Json::from(tenant));
    format!("{KEY_CONTEXT}{{\"actor\":{actor},\"tenant_id\":{tenant}}}")
}

/// Whether an event's signature is its key's; whose key that was is in the log.
#[must_use]
pub fn holds(body: &Body<'_>) -> bool {
    let parts = body.sig.and_then(|sig| sig.split_first_chunk::<32>());
    parts.is_some_and(|(key, sig)| {
        let sig = sig.try_into();
        sig.is_ok_and(|sig| verify(key, &event_text(body), &sig))
    })
}

/// Whether a signature is the key's over a text. Malleable ones and keys of small order are refused.
#[must_use]
pub fn verify(key: &Key, text: &str, sig: &[u8; 64]) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(key) else {
        return false;
    };
    let sig = Signature::from_bytes(sig);
    key.verify_strict(text.as_bytes(), &sig).is_ok()
}

/// Bytes written as lower-case hex.
#[must_use]
pub fn bytes_of<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let mut out = [0; N];
    if pairs.len() != N {
        return None;
    }
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};

    fn body<'a>(sig: Option<&'a [u8]>) -> Body<'a> {
        Body {
            timestamp_ns: 1,
            wall_ns: 2,
            ulid: [7; 16],
            tenant_tag: [0; 8],
            ns: "finance",
            actor: "agent:a",
            tenant_id: "t",
            event_type: "invoice_paid",
            subject: "7",
            payload: "{\"no\":7}",
            causation_id: Some(3),
            origin: None,
            sig,
        }
    }

    /// Section 7.1 of RFC 8032, tests 1 to 3: over bytes that are texts, and those that are not by the
    /// same function below it.
    #[test]
    fn the_rfc_s_vectors() {
        for (secret, public, message, signature) in [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                "",
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
                "r",
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
            ),
        ] {
            let (public, sig) = (bytes_of(public).unwrap(), bytes_of(signature).unwrap());
            assert!(verify(&public, message, &sig));
            let key = SigningKey::from_bytes(&bytes_of(secret).unwrap());
            assert_eq!(key.verifying_key().to_bytes(), public);
            assert_eq!(key.sign(message.as_bytes()).to_bytes(), sig);
            assert!(!verify(&public, "another", &sig));
        }
    }

    #[test]
    fn a_signature_holds_for_its_event_alone() {
        let key = SigningKey::from_bytes(&[5; 32]);
        let text = event_text(&body(None));
        assert_eq!(
            text,
            "vb-ledger-event v1\n{\"actor\":\"agent:a\",\"causation_id\":3,\"event_type\":\"invoice_paid\",\"ns\":\"finance\",\"payload\":{\"no\":7},\"subject\":\"7\",\"tenant_id\":\"t\",\"ulid\":\"070W3GE1R70W3GE1R70W3GE1R7\"}"
        );
        let sig = key.sign(text.as_bytes()).to_bytes();
        let mut both = key.verifying_key().to_bytes().to_vec();
        both.extend(sig);
        let good = body(Some(&both));
        assert!(holds(&good) && both.len() == SIG_BYTES);
        for other in [
            Body { ns: "x", ..good },
            Body {
                actor: "agent:b",
                ..good
            },
            Body {
                tenant_id: "u",
                ..good
            },
            Body {
                event_type: "x",
                ..good
            },
            Body {
                subject: "8",
                ..good
            },
            Body {
                payload: "{\"no\":8}",
                ..good
            },
            Body {
                causation_id: None,
                ..good
            },
            Body {
                ulid: [8; 16],
                ..good
            },
            Body { sig: None, ..good },
            Body {
                sig: Some(&both[..95]),
                ..good
            },
        ] {
            assert!(!holds(&other), "{other:?}");
        }
        // Made to register the key it is none of an event, and the other way round.
        assert!(!verify(
            &key.verifying_key().to_bytes(),
            &key_text("t", "agent:a"),
            &sig
        ));
        // With the order added to its scalar the equation holds and the encoding is another: malleable.
        let mut malleable = both.clone();
        let order =
            bytes_of::<32>("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
                .unwrap();
        let mut carry = 0u16;
        for (byte, add) in malleable[64..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            (*byte, carry) = (u8::try_from(sum & 255).unwrap(), sum >> 8);
        }
        assert!(!holds(&Body {
            sig: Some(&malleable),
            ..good
        }));
        // A key of small order signs everything.
        assert!(!verify(&[0; 32], "x", &[0; 64]));
        let mut one = [0; 32];
        one[0] = 1;
        let mut sig = [0; 64];
        sig[0] = 1;
        assert!(!verify(&one, "x", &sig));
    }

    #[test]
    fn keys_come_and_go_by_events_and_are_bounded() {
        let mut keys = Keys::default();
        let set = |keys: &mut Keys, event_type: &str, key: u8| {
            let hex: String = [key; 32].iter().map(|b| format!("{b:02x}")).collect();
            let payload = format!("{{\"key\":\"{hex}\"}}");
            let event = Body {
                event_type,
                subject: "agent:a",
                payload: &payload,
                ..body(None)
            };
            keys.apply(1, &event);
        };
        for n in 0..=u8::try_from(KEYS_OF_ACTOR_MAX).unwrap() {
            set(&mut keys, REGISTERED, n);
            set(&mut keys, REGISTERED, n);
        }
        assert_eq!(keys.of("t", "agent:a").len(), KEYS_OF_ACTOR_MAX);
        assert_eq!(
            keys.may_register("t", "agent:a", &[99; 32]).unwrap_err().0,
            "QUOTA"
        );
        assert_eq!(
            keys.may_register("t", "agent:a", &[0; 32]).unwrap_err().0,
            "DUPLICATE"
        );
        assert!(keys.of("u", "agent:a").is_empty());
        for n in 0..=20 {
            set(&mut keys, REVOKED, n);
        }
        assert_eq!(keys, Keys::default());
    }
}
