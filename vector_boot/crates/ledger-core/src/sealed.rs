//! Sealed members of payloads: what an auditor with a tenant's key reads, and nobody else.
//!
//! The parameters of a call are sealed before they are appended: the log holds who, what and when in clear, and what
//! exactly it was about as ciphertext, of which only a class of length can be seen. Keys are per tenant and come from
//! the device key, so that one can be handed out and shows nothing of another tenant; or, where the machine names
//! auditors, one is random for each start of the ledger and stands in the row itself, wrapped for each of them.
//!
//! Pure: the nonce is an argument. Start with [`AuditKey::seal`] and [`AuditKey::open`]; docs/ledger-format.md has the
//! bytes.

use crate::{keys, rules};
use alloc::string::String;
use alloc::vec::Vec;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use core::fmt;
use zeroize::{Zeroize, Zeroizing};

/// Context under which the secret of all audit keys is derived from the device key.
pub const AUDIT_CONTEXT: &str = "vb-ledger-audit v1";
/// Longest content: parameters of tools are far below, and what is longer is told by its hash.
pub const CONTENT_BYTES_MAX: usize = 1024;
/// What is random of a sealed text; two never meet by chance.
pub const NONCE_BYTES: usize = 24;
/// The least that is seen of a length; each class is twice the one before.
const CLASS_BYTES_MIN: usize = 64;
/// Poly1305's.
const TAG_BYTES: usize = 16;
/// Auditors of a machine: each adds a wrapped key to every sealed row.
pub const RECIPIENTS_MAX: usize = 4;
/// A key wrapped for one auditor: an encapsulated key of 32 bytes, the key of 32 and a tag of 16.
pub const WRAPPED_BYTES: usize = 80;
/// In front of what a tenant's key opens.
const PREFIX: &str = "v1.";
/// In front of wrapped keys, a dot, and what the key in them opens.
const PREFIX_WRAPPED: &str = "v2.";
const KEY_PREFIX: &str = "vb-audit-key ";
const AUDITOR_PREFIX: &str = "vb-auditor ";
/// Longest line that hands a key out, with its line end.
pub const KEY_LINE_BYTES_MAX: usize = KEY_PREFIX.len() + rules::TEXT_BYTES_MAX + 1 + 64 + 1;

/// The row that a sealed text belongs to; in another it does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// Tenant.
    pub tenant_id: &'a str,
    /// Namespace.
    pub ns: &'a str,
    /// Actor.
    pub actor: &'a str,
    /// What happened.
    pub event_type: &'a str,
    /// What it is about.
    pub subject: &'a str,
}

/// Why something is not sealed or does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealError {
    /// More than [`CONTENT_BYTES_MAX`].
    Long(usize),
    /// No sealed text of this version.
    Form,
    /// Another key's, another row's, or changed.
    Foreign,
    /// No line of `vb-audit-key TENANT HEX`, nor of `vb-auditor HEX`.
    Key,
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Long(bytes) => write!(f, "seal: {bytes} bytes, at most {CONTENT_BYTES_MAX}"),
            Self::Form => f.write_str("sealed: no sealed text of version 1 or 2"),
            Self::Foreign => f.write_str("sealed: not under this key, or changed"),
            Self::Key => {
                let forms = "vb-audit-key TENANT or vb-auditor, and 64 hex digits";
                write!(f, "audit key: expected {forms}")
            }
        }
    }
}

impl core::error::Error for SealError {}

/// What opens the rows of one tenant.
pub struct AuditKey([u8; 32]);

impl Drop for AuditKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl AuditKey {
    /// A key that is drawn, not derived.
    #[must_use]
    pub fn drawn(key: &[u8; 32]) -> Self {
        Self(*key)
    }

    /// The key of a tenant, from the device's audit secret.
    #[must_use]
    pub fn of(secret: &[u8; 32], tenant: &str) -> Self {
        Self(*blake3::keyed_hash(secret, tenant.as_bytes()).as_bytes())
    }

    /// Seals a content for one row. A nonce is used once.
    ///
    /// # Errors
    /// [`SealError::Long`].
    pub fn seal(
        &self,
        row: &Row<'_>,
        nonce: &[u8; NONCE_BYTES],
        content: &str,
    ) -> Result<String, SealError> {
        let long = SealError::Long(content.len());
        if content.len() > CONTENT_BYTES_MAX {
            return Err(long);
        }
        // White space behind a JSON text changes nothing of it.
        let class = content.len().next_power_of_two().max(CLASS_BYTES_MIN);
        let mut padded = Vec::with_capacity(class);
        padded.extend_from_slice(content.as_bytes());
        padded.resize(class, b' ');
        let payload = Payload {
            msg: &padded,
            aad: &bound(row),
        };
        let sealed = self.cipher().encrypt(&XNonce::from(*nonce), payload);
        padded.zeroize();
        let mut bytes = Vec::with_capacity(NONCE_BYTES + class + TAG_BYTES);
        bytes.extend_from_slice(nonce);
        bytes.extend_from_slice(&sealed.map_err(|_| long)?);
        let mut text = String::from(PREFIX);
        BASE64.encode_string(&bytes, &mut text);
        Ok(text)
    }

    /// Seals a content for one row and puts this key in front of it, wrapped. A nonce is used once.
    ///
    /// # Errors
    /// [`SealError::Long`].
    pub fn seal_for(
        &self,
        wrapped: &[[u8; WRAPPED_BYTES]],
        row: &Row<'_>,
        nonce: &[u8; NONCE_BYTES],
        content: &str,
    ) -> Result<String, SealError> {
        let sealed = self.seal(row, nonce, content)?;
        let mut text = String::from(PREFIX_WRAPPED);
        BASE64.encode_string(wrapped.as_flattened(), &mut text);
        text.push('.');
        text.push_str(sealed.strip_prefix(PREFIX).unwrap_or_default());
        Ok(text)
    }

    /// Opens what was sealed for this row.
    ///
    /// # Errors
    /// [`SealError::Form`], [`SealError::Foreign`].
    pub fn open(&self, row: &Row<'_>, text: &str) -> Result<Zeroizing<String>, SealError> {
        let encoded = match text.strip_prefix(PREFIX_WRAPPED) {
            Some(rest) => rest.split_once('.').map(|(_, encoded)| encoded),
            None => text.strip_prefix(PREFIX),
        };
        let encoded = encoded.ok_or(SealError::Form)?;
        let longest = (NONCE_BYTES + CONTENT_BYTES_MAX + TAG_BYTES).div_ceil(3) * 4;
        if encoded.len() > longest {
            return Err(SealError::Form);
        }
        let bytes = BASE64.decode(encoded).map_err(|_| SealError::Form)?;
        let (nonce, sealed) = bytes
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or(SealError::Form)?;
        let payload = Payload {
            msg: sealed,
            aad: &bound(row),
        };
        let opened = self.cipher().decrypt(&XNonce::from(*nonce), payload);
        let opened = opened.map_err(|_| SealError::Foreign)?;
        let content = String::from_utf8(opened).map_err(|_| SealError::Foreign)?;
        let mut content = Zeroizing::new(content);
        let bytes = content.trim_end_matches(' ').len();
        content.truncate(bytes);
        Ok(content)
    }

    /// The line in which a tenant's key is handed out.
    #[must_use]
    pub fn line(&self, tenant: &str) -> Zeroizing<String> {
        // As long as it will be: a text that grew would leave its beginning behind.
        let bytes = KEY_PREFIX.len() + tenant.len() + 1 + 2 * self.0.len();
        let mut line = Zeroizing::new(String::with_capacity(bytes));
        line.push_str(KEY_PREFIX);
        line.push_str(tenant);
        line.push(' ');
        push_hex(&mut line, &self.0);
        line
    }

    /// Reads that line: the tenant and its key.
    ///
    /// # Errors
    /// [`SealError::Key`].
    pub fn parse(line: &str) -> Result<(&str, Self), SealError> {
        let rest = line.trim_ascii_end().strip_prefix(KEY_PREFIX);
        let (tenant, hex) = rest
            .and_then(|rest| rest.split_once(' '))
            .ok_or(SealError::Key)?;
        let plain = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        if !plain || !rules::tenant(tenant) {
            return Err(SealError::Key);
        }
        let mut key = Self([0; 32]);
        for (at, byte) in key.0.iter_mut().enumerate() {
            let digits = hex.get(2 * at..2 * at + 2).unwrap_or_default();
            *byte = u8::from_str_radix(digits, 16).map_err(|_| SealError::Key)?;
        }
        Ok((tenant, key))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&self.0).into())
    }
}

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditKey(..)")
    }
}

/// The wrapped keys in a sealed text; none where a tenant's key opens it.
///
/// # Errors
/// [`SealError::Form`].
pub fn wrapped_keys(text: &str) -> Result<Vec<[u8; WRAPPED_BYTES]>, SealError> {
    if text.starts_with(PREFIX) {
        return Ok(Vec::new());
    }
    let rest = text.strip_prefix(PREFIX_WRAPPED).ok_or(SealError::Form)?;
    let (encoded, _) = rest.split_once('.').ok_or(SealError::Form)?;
    if encoded.len() > (RECIPIENTS_MAX * WRAPPED_BYTES).div_ceil(3) * 4 {
        return Err(SealError::Form);
    }
    let bytes = BASE64.decode(encoded).map_err(|_| SealError::Form)?;
    let (keys, rest) = bytes.as_chunks::<WRAPPED_BYTES>();
    match rest.is_empty() && !keys.is_empty() {
        true => Ok(keys.to_vec()),
        false => Err(SealError::Form),
    }
}

/// The line in which an auditor keeps his own secret key.
#[must_use]
pub fn auditor_line(secret: &[u8; 32]) -> Zeroizing<String> {
    let mut line = Zeroizing::new(String::with_capacity(AUDITOR_PREFIX.len() + 64));
    line.push_str(AUDITOR_PREFIX);
    push_hex(&mut line, secret);
    line
}

/// Reads that line; `None` if it is another.
#[must_use]
pub fn auditor_secret(line: &str) -> Option<Zeroizing<[u8; 32]>> {
    let hex = line.trim_ascii_end().strip_prefix(AUDITOR_PREFIX)?;
    keys::bytes_of(hex).map(Zeroizing::new)
}

fn push_hex(line: &mut String, bytes: &[u8; 32]) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            line.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
        }
    }
}

/// What the tag covers beside the content: each text behind its length, so that no two rows are alike.
fn bound(row: &Row<'_>) -> Vec<u8> {
    let texts = [
        "vb-ledger-sealed v1",
        row.tenant_id,
        row.ns,
        row.actor,
        row.event_type,
        row.subject,
    ];
    let mut bytes = Vec::new();
    for text in texts {
        bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    const ROW: Row<'_> = Row {
        tenant_id: "t",
        ns: "gateway",
        actor: "agent:a",
        event_type: "tool_called",
        subject: "fs_read",
    };

    #[test]
    fn what_is_sealed_opens_for_its_tenant_and_its_row_alone() {
        let key = AuditKey::of(&[7; 32], "t");
        let content = r#"{"path":"a.txt"}"#;
        let text = key.seal(&ROW, &[9; 24], content).unwrap();
        assert_eq!(*key.open(&ROW, &text).unwrap(), content);
        assert!(!text.contains("a.txt"));
        for other in [
            Row {
                tenant_id: "u",
                ..ROW
            },
            Row { ns: "g", ..ROW },
            Row {
                actor: "agent:b",
                ..ROW
            },
            Row {
                event_type: "tool_refused",
                ..ROW
            },
            Row {
                subject: "fs_list",
                ..ROW
            },
            // The same bytes, cut elsewhere.
            Row {
                ns: "gatewaya",
                actor: "gent:a",
                ..ROW
            },
        ] {
            assert_eq!(key.open(&other, &text), Err(SealError::Foreign));
        }
        for secret in [[7; 32], [8; 32]] {
            let other = AuditKey::of(&secret, "u");
            assert_eq!(other.open(&ROW, &text), Err(SealError::Foreign));
        }
    }

    #[test]
    fn lengths_are_told_by_class_alone() {
        let key = AuditKey::of(&[7; 32], "t");
        let sealed = |n: usize| key.seal(&ROW, &[1; 24], &"x".repeat(n)).map(|t| t.len());
        assert_eq!(sealed(0), sealed(64));
        assert_eq!(sealed(65), sealed(128));
        assert_eq!(sealed(513), sealed(1024));
        assert_ne!(sealed(64), sealed(65));
        assert_eq!(sealed(1025), Err(SealError::Long(1025)));
        let most = key.seal(&ROW, &[1; 24], &"x".repeat(1024)).unwrap();
        assert_eq!(key.open(&ROW, &most).unwrap().len(), 1024);
    }

    #[test]
    fn a_text_that_was_changed_anywhere_does_not_open() {
        let key = AuditKey::of(&[7; 32], "t");
        let text = key.seal(&ROW, &[9; 24], "{}").unwrap();
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(key.open(&ROW, &changed).is_err(), "{at}");
            assert!(key.open(&ROW, &text[..at]).is_err(), "{at}");
        }
        assert_eq!(
            key.open(&ROW, &format!("v1.{}", "A".repeat(4000))),
            Err(SealError::Form)
        );
    }

    #[test]
    fn a_drawn_key_stands_wrapped_in_front_of_what_it_seals() {
        let key = AuditKey::drawn(&[5; 32]);
        let wrapped = [[1; WRAPPED_BYTES], [2; WRAPPED_BYTES]];
        let text = key.seal_for(&wrapped, &ROW, &[9; 24], "{}").unwrap();
        assert_eq!(wrapped_keys(&text).unwrap(), wrapped);
        assert_eq!(*key.open(&ROW, &text).unwrap(), "{}");
        let tenants = AuditKey::of(&[7; 32], "t");
        assert_eq!(tenants.open(&ROW, &text), Err(SealError::Foreign));
        let own = tenants.seal(&ROW, &[9; 24], "{}").unwrap();
        assert_eq!(wrapped_keys(&own).unwrap(), [[0; WRAPPED_BYTES]; 0]);
        let sealed = own.strip_prefix("v1.").unwrap();
        let keys = |n: usize| BASE64.encode(alloc::vec![1; n]);
        for bad in [
            "".into(),
            "v2.".into(),
            format!("v2.{sealed}"),
            format!("v2..{sealed}"),
            format!("v2.{}.{sealed}", keys(WRAPPED_BYTES - 1)),
            format!("v2.{}.{sealed}", keys(WRAPPED_BYTES + 1)),
            format!("v2.{}.{sealed}", keys((RECIPIENTS_MAX + 1) * WRAPPED_BYTES)),
            format!("v3.{}.{sealed}", keys(WRAPPED_BYTES)),
        ] {
            assert_eq!(wrapped_keys(&bad), Err(SealError::Form), "{bad}");
        }
        let most = key.seal_for(&[[3; WRAPPED_BYTES]; RECIPIENTS_MAX], &ROW, &[9; 24], "{}");
        assert_eq!(wrapped_keys(&most.unwrap()).unwrap().len(), RECIPIENTS_MAX);
    }

    #[test]
    fn an_auditors_secret_is_a_line_of_its_own() {
        let line = auditor_line(&[0xab; 32]);
        let ended = format!("{}\n", *line);
        assert_eq!(auditor_secret(&ended).as_deref(), Some(&[0xab; 32]));
        for bad in ["", "vb-auditor", "vb-auditor ab", "vb-audit-key t ab"] {
            assert!(auditor_secret(bad).is_none(), "{bad}");
        }
        assert!(auditor_secret(&line.replace("abab", "+aab")).is_none());
    }

    #[test]
    fn a_key_is_handed_out_as_a_line() {
        let key = AuditKey::of(&[7; 32], "uid-30001");
        let line = key.line("uid-30001");
        let ended = format!("{}\n", *line);
        let (tenant, again) = AuditKey::parse(&ended).unwrap();
        assert_eq!((tenant, again.0), ("uid-30001", key.0));
        for bad in [
            "",
            "vb-audit-key",
            "vb-audit-key t",
            "vb-audit-key t 00",
            "x t 00",
        ] {
            assert_eq!(
                AuditKey::parse(bad).map(|_| ()),
                Err(SealError::Key),
                "{bad}"
            );
        }
        let sign = line.replacen("vb-audit-key uid-30001 ", "vb-audit-key uid-30001 +", 1);
        assert!(AuditKey::parse(&sign).is_err());
        assert_eq!(format!("{key:?}"), "AuditKey(..)");
    }
}
