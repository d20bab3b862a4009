//! `vbt1`: capacity tokens that prove themselves, and that their holder can narrow offline.
//!
//! Text: `vbt1.` and base64url without padding over these bytes, little-endian:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 4 | id of the key: tells a token of an earlier boot from a forgery |
//! | 5 | 4 | lease slot |
//! | 9 | 4 | generation of the slot |
//! | 13 | 8 | expiry, milliseconds since boot; all ones for never |
//! | 21 | 4 | permission bits |
//! | 25 | 10 | shares granted when it was made, five basis points |
//! | 35 | 1 + n | tenant: length, then a name |
//! | | 1 + n | workload: length, then a name |
//! | | | up to eight caveats: kind, length, value |
//! | end - 32 | 32 | MAC |
//!
//! The MAC of a token without caveats is BLAKE3 keyed with the key over everything before the
//! caveats. Each caveat is hashed keyed with the MAC so far: whoever holds a token can add one,
//! nobody can take one away. Comparison is in constant time.
//!
//! Never here: whether the lease still stands (`table`). Start with [`Key::verify`].

use crate::axes::{BasisPoints, Grants};
use crate::name;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroize;

/// What a token's text begins with.
pub const PREFIX: &str = "vbt1.";
/// Narrowings that one token may carry: bounds the work of a check.
pub const CAVEATS_MAX: usize = 8;
/// Longest value of one caveat in bytes.
pub const CAVEAT_BYTES_MAX: usize = 64;
/// Longest token before it is text: head, two names, eight caveats, MAC.
pub const RAW_BYTES_MAX: usize =
    HEAD_BYTES + 2 * (1 + name::NAME_BYTES_MAX) + CAVEATS_MAX * (2 + CAVEAT_BYTES_MAX) + MAC_BYTES;
/// Longest text of a token: under the 1,024 bytes that the wire takes.
pub const TEXT_BYTES_MAX: usize = PREFIX.len() + RAW_BYTES_MAX.div_ceil(3) * 4;

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 35;
const MAC_BYTES: usize = 32;
/// Expiry of a token that has none.
const NEVER: u64 = u64::MAX;
/// Context of the key's id, so that it says nothing about MACs.
const KEY_ID_CONTEXT: &str = "vector-boot capacity token vbt1 key id";

/// Why a token does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// No `vbt1.` text of an allowed length, or no base64url.
    Text,
    /// The bytes at this offset do not parse.
    Layout {
        /// Where.
        offset: usize,
    },
    /// Made by another key: of an earlier boot, or before the capacity kernel restarted.
    OtherKey,
    /// The MAC is wrong: forged or damaged.
    Forged,
    /// Its time, or a caveat's, is over.
    Expired,
    /// A caveat keeps it from this operation.
    Narrowed,
    /// It carries [`CAVEATS_MAX`] caveats, or the value is too long.
    Caveats,
}

impl std::fmt::Display for TokenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text => write!(f, "token: no vbt1 text of at most {TEXT_BYTES_MAX} bytes"),
            Self::Layout { offset } => write!(f, "token: does not parse at byte {offset}"),
            Self::OtherKey => {
                f.write_str("token: made before the capacity kernel started, ask for a new one")
            }
            Self::Forged => f.write_str("token: not made here"),
            Self::Expired => f.write_str("token: expired"),
            Self::Narrowed => f.write_str("token: a caveat excludes this operation"),
            Self::Caveats => write!(
                f,
                "token: at most {CAVEATS_MAX} caveats of {CAVEAT_BYTES_MAX} bytes"
            ),
        }
    }
}

impl std::error::Error for TokenError {}

/// What a token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claims<'a> {
    /// Who pays.
    pub tenant: &'a str,
    /// What for.
    pub workload: &'a str,
    /// Lease slot.
    pub slot: u32,
    /// Generation of the slot.
    pub generation: u32,
    /// When it ends, milliseconds since boot; `None` for never.
    pub expires_ms: Option<u64>,
    /// Permission bits.
    pub permissions: u32,
    /// Shares granted when it was made.
    pub grants: Grants,
}

/// A narrowing that its holder added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caveat<'a> {
    /// Not after this time, milliseconds since boot.
    NotAfter(u64),
    /// Only these permissions.
    Permissions(u32),
    /// Only this operation; a `*` at the end stands for any rest.
    Operation(&'a str),
}

const KIND_NOT_AFTER: u8 = 1;
const KIND_PERMISSIONS: u8 = 2;
const KIND_OPERATION: u8 = 3;

impl<'a> Caveat<'a> {
    fn parse(kind: u8, value: &'a [u8]) -> Option<Self> {
        match kind {
            KIND_NOT_AFTER => Some(Self::NotAfter(u64::from_le_bytes(value.try_into().ok()?))),
            KIND_PERMISSIONS => Some(Self::Permissions(u32::from_le_bytes(
                value.try_into().ok()?,
            ))),
            KIND_OPERATION => {
                let text = std::str::from_utf8(value).ok()?;
                name::check(text.strip_suffix('*').unwrap_or(text))
                    .is_ok()
                    .then_some(Self::Operation(text))
            }
            // A caveat that is not understood could exclude anything.
            _ => None,
        }
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), TokenError> {
        let (kind, value) = match self {
            Self::NotAfter(ms) => (KIND_NOT_AFTER, ms.to_le_bytes().to_vec()),
            Self::Permissions(bits) => (KIND_PERMISSIONS, bits.to_le_bytes().to_vec()),
            Self::Operation(text) => (KIND_OPERATION, text.as_bytes().to_vec()),
        };
        if Caveat::parse(kind, &value).is_none() {
            return Err(TokenError::Caveats);
        }
        let length = u8::try_from(value.len()).map_err(|_| TokenError::Caveats)?;
        if usize::from(length) > CAVEAT_BYTES_MAX {
            return Err(TokenError::Caveats);
        }
        out.push(kind);
        out.push(length);
        out.extend_from_slice(&value);
        Ok(())
    }

    fn permits(&self, now_ms: u64, operation: &str) -> Result<(), TokenError> {
        match self {
            Self::NotAfter(end) if now_ms >= *end => Err(TokenError::Expired),
            Self::Operation(pattern) => match pattern.strip_suffix('*') {
                Some(begin) if operation.starts_with(begin) => Ok(()),
                None if operation == *pattern => Ok(()),
                _ => Err(TokenError::Narrowed),
            },
            _ => Ok(()),
        }
    }
}

/// Reads little-endian fields and knows where it stands.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], TokenError> {
        let wrong = TokenError::Layout { offset: self.at };
        let end = self.at.checked_add(count).ok_or(wrong)?;
        let found = self.bytes.get(self.at..end).ok_or(wrong)?;
        self.at = end;
        Ok(found)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], TokenError> {
        let wrong = TokenError::Layout { offset: self.at };
        self.take(N)?.try_into().map_err(|_| wrong)
    }
    fn byte(&mut self) -> Result<u8, TokenError> {
        let [one] = self.array()?;
        Ok(one)
    }
    fn name(&mut self) -> Result<&'a str, TokenError> {
        let wrong = TokenError::Layout { offset: self.at };
        let length = self.byte()?.into();
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| wrong)?;
        name::check(text).map_err(|_| wrong)
    }
}

/// A token's parts; nothing about it is proven yet.
struct Parsed<'a> {
    key_id: [u8; 4],
    claims: Claims<'a>,
    /// Everything before the caveats.
    head: &'a [u8],
    caveats: &'a [u8],
    mac: [u8; MAC_BYTES],
}

fn decode<'b>(text: &str, scratch: &'b mut [u8; RAW_BYTES_MAX]) -> Result<&'b [u8], TokenError> {
    let body = text.strip_prefix(PREFIX).ok_or(TokenError::Text)?;
    let bytes = URL_SAFE_NO_PAD
        .decode_slice(body, scratch)
        .map_err(|_| TokenError::Text)?;
    scratch.get(..bytes).ok_or(TokenError::Text)
}

fn parse(raw: &[u8]) -> Result<Parsed<'_>, TokenError> {
    let (signed, mac) = raw
        .split_last_chunk::<MAC_BYTES>()
        .ok_or(TokenError::Layout { offset: raw.len() })?;
    let mut reader = Reader {
        bytes: signed,
        at: 0,
    };
    if reader.byte()? != VERSION {
        return Err(TokenError::Layout { offset: 0 });
    }
    let key_id = reader.array()?;
    let slot = u32::from_le_bytes(reader.array()?);
    let generation = u32::from_le_bytes(reader.array()?);
    let expires_ms = u64::from_le_bytes(reader.array()?);
    let permissions = u32::from_le_bytes(reader.array()?);
    let mut grants = Grants::default();
    for grant in &mut grants {
        let wrong = TokenError::Layout { offset: reader.at };
        *grant = BasisPoints::new(u16::from_le_bytes(reader.array()?)).map_err(|_| wrong)?;
    }
    let claims = Claims {
        slot,
        generation,
        expires_ms: (expires_ms != NEVER).then_some(expires_ms),
        permissions,
        grants,
        tenant: reader.name()?,
        workload: reader.name()?,
    };
    let split = reader.at;
    let mut count = 0;
    while reader.at < signed.len() {
        let wrong = TokenError::Layout { offset: reader.at };
        let (kind, length) = (reader.byte()?, usize::from(reader.byte()?));
        count += 1;
        if count > CAVEATS_MAX || length > CAVEAT_BYTES_MAX {
            return Err(wrong);
        }
        Caveat::parse(kind, reader.take(length)?).ok_or(wrong)?;
    }
    let (head, caveats) = signed
        .split_at_checked(split)
        .ok_or(TokenError::Layout { offset: split })?;
    Ok(Parsed {
        key_id,
        claims,
        head,
        caveats,
        mac: *mac,
    })
}

/// Caveats of bytes that [`parse`] went through.
fn caveats(mut bytes: &[u8]) -> impl Iterator<Item = (&[u8], Caveat<'_>)> {
    std::iter::from_fn(move || {
        let (kind, length) = (*bytes.first()?, usize::from(*bytes.get(1)?));
        let (whole, rest) = bytes.split_at_checked(2 + length)?;
        bytes = rest;
        Some((whole, Caveat::parse(kind, whole.get(2..)?)?))
    })
}

/// A token whose MAC holds. Whether its lease still stands is the table's to say.
#[derive(Debug, Clone, Copy)]
pub struct Verified<'a> {
    /// What it says.
    pub claims: Claims<'a>,
    caveats: &'a [u8],
}

impl<'a> Verified<'a> {
    /// Its permissions, narrowed by every caveat.
    #[must_use]
    pub fn permissions(&self) -> u32 {
        self.caveats()
            .fold(self.claims.permissions, |bits, caveat| match caveat {
                Caveat::Permissions(mask) => bits & mask,
                _ => bits,
            })
    }

    /// The narrowings, in the order in which they were added.
    pub fn caveats(&self) -> impl Iterator<Item = Caveat<'a>> {
        caveats(self.caveats).map(|(_, caveat)| caveat)
    }

    /// Whether time and caveats leave this operation open.
    ///
    /// # Errors
    /// [`TokenError::Expired`], [`TokenError::Narrowed`].
    pub fn permits(&self, now_ms: u64, operation: &str) -> Result<(), TokenError> {
        if self.claims.expires_ms.is_some_and(|end| now_ms >= end) {
            return Err(TokenError::Expired);
        }
        self.caveats()
            .try_for_each(|caveat| caveat.permits(now_ms, operation))
    }
}

/// The secret that makes and checks tokens; wiped from memory when it is dropped.
pub struct Key {
    secret: [u8; 32],
    id: [u8; 4],
}

impl Drop for Key {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// A key from 32 random bytes; wipe the caller's copy.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        let mut id = [0; 4];
        let hash = blake3::derive_key(KEY_ID_CONTEXT, secret);
        id.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
        Self {
            secret: *secret,
            id,
        }
    }

    /// Makes a token.
    ///
    /// # Errors
    /// [`TokenError::Layout`] if tenant or workload is no name.
    pub fn issue(&self, claims: &Claims<'_>) -> Result<String, TokenError> {
        let mut raw = Vec::with_capacity(RAW_BYTES_MAX);
        raw.push(VERSION);
        raw.extend_from_slice(&self.id);
        raw.extend_from_slice(&claims.slot.to_le_bytes());
        raw.extend_from_slice(&claims.generation.to_le_bytes());
        raw.extend_from_slice(&claims.expires_ms.unwrap_or(NEVER).to_le_bytes());
        raw.extend_from_slice(&claims.permissions.to_le_bytes());
        for grant in claims.grants {
            raw.extend_from_slice(&grant.get().to_le_bytes());
        }
        for text in [claims.tenant, claims.workload] {
            let wrong = TokenError::Layout { offset: raw.len() };
            name::check(text).map_err(|_| wrong)?;
            raw.push(u8::try_from(text.len()).map_err(|_| wrong)?);
            raw.extend_from_slice(text.as_bytes());
        }
        let mac = blake3::keyed_hash(&self.secret, &raw);
        raw.extend_from_slice(mac.as_bytes());
        Ok(encode(&raw))
    }

    /// Checks a token's MAC and hands out what it says. Allocates nothing; `scratch` holds the
    /// decoded bytes.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify<'b>(
        &self,
        text: &str,
        scratch: &'b mut [u8; RAW_BYTES_MAX],
    ) -> Result<Verified<'b>, TokenError> {
        let parsed = parse(decode(text, scratch)?)?;
        if parsed.key_id != self.id {
            return Err(TokenError::OtherKey);
        }
        let mut mac = blake3::keyed_hash(&self.secret, parsed.head);
        for (whole, _) in caveats(parsed.caveats) {
            mac = blake3::keyed_hash(mac.as_bytes(), whole);
        }
        // blake3::Hash compares in constant time.
        if mac != blake3::Hash::from_bytes(parsed.mac) {
            return Err(TokenError::Forged);
        }
        Ok(Verified {
            claims: parsed.claims,
            caveats: parsed.caveats,
        })
    }
}

/// Narrows a token without its key.
///
/// # Errors
/// [`TokenError`] if `text` is no token, or holds as many caveats as it may.
pub fn narrow(text: &str, caveat: &Caveat<'_>) -> Result<String, TokenError> {
    let mut scratch = [0; RAW_BYTES_MAX];
    let parsed = parse(decode(text, &mut scratch)?)?;
    if caveats(parsed.caveats).count() >= CAVEATS_MAX {
        return Err(TokenError::Caveats);
    }
    let mut added = Vec::new();
    caveat.write(&mut added)?;
    let mac = blake3::keyed_hash(&parsed.mac, &added);
    let raw = [parsed.head, parsed.caveats, &added, mac.as_bytes()].concat();
    Ok(encode(&raw))
}

fn encode(raw: &[u8]) -> String {
    let mut text = PREFIX.to_owned();
    URL_SAFE_NO_PAD.encode_string(raw, &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claims() -> Claims<'static> {
        Claims {
            tenant: "default",
            workload: "agents",
            slot: 12,
            generation: 3,
            expires_ms: Some(5_000),
            permissions: 0b1011,
            grants: [700, 500, 0, 800, 300].map(|p| BasisPoints::new(p).unwrap()),
        }
    }

    fn open(key: &Key, text: &str) -> Result<u32, TokenError> {
        let mut scratch = [0; RAW_BYTES_MAX];
        key.verify(text, &mut scratch).map(|v| v.permissions())
    }

    fn raw(text: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD
            .decode(text.strip_prefix(PREFIX).unwrap())
            .unwrap()
    }

    #[test]
    fn a_token_says_what_was_put_in() {
        let key = Key::new(&[7; 32]);
        let text = key.issue(&claims()).unwrap();
        let mut scratch = [0; RAW_BYTES_MAX];
        let verified = key.verify(&text, &mut scratch).unwrap();
        assert_eq!(verified.claims, claims());
        assert!(verified.permits(4_999, "tool:fs_read").is_ok());
        assert_eq!(
            verified.permits(5_000, "tool:fs_read"),
            Err(TokenError::Expired)
        );
        assert!(!format!("{key:?}").contains('7'));
    }

    #[test]
    fn the_bytes_are_pinned() {
        let text = Key::new(&[7; 32]).issue(&claims()).unwrap();
        assert_eq!(text, include_str!("../tests/golden/token.txt").trim_end());
    }

    #[test]
    fn every_changed_byte_is_a_forgery_and_every_truncation_too() {
        let key = Key::new(&[7; 32]);
        let plain = key.issue(&claims()).unwrap();
        let narrowed = narrow(&plain, &Caveat::Operation("tool:fs_*")).unwrap();
        for text in [plain, narrowed] {
            let raw = raw(&text);
            for at in 0..raw.len() {
                for bit in 0..8 {
                    let mut other = raw.clone();
                    other[at] ^= 1 << bit;
                    assert!(open(&key, &encode(&other)).is_err(), "byte {at} bit {bit}");
                }
                assert!(open(&key, &encode(&raw[..at])).is_err(), "cut at {at}");
            }
            for at in 0..text.len() {
                let mut other = text.clone().into_bytes();
                other[at] = if other[at] == b'A' { b'B' } else { b'A' };
                assert!(open(&key, std::str::from_utf8(&other).unwrap()).is_err());
                assert!(open(&key, &text[..at]).is_err());
            }
            assert!(open(&key, &format!("{text}A")).is_err());
            assert!(open(&key, &format!("{text}=")).is_err());
        }
    }

    #[test]
    fn a_token_of_another_key_is_told_from_a_forgery() {
        let text = Key::new(&[7; 32]).issue(&claims()).unwrap();
        assert_eq!(open(&Key::new(&[8; 32]), &text), Err(TokenError::OtherKey));
        let mut forged = raw(&text);
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert_eq!(
            open(&Key::new(&[7; 32]), &encode(&forged)),
            Err(TokenError::Forged)
        );
    }

    #[test]
    fn narrowing_is_offline_only_narrows_and_cannot_be_undone() {
        let key = Key::new(&[7; 32]);
        let text = key.issue(&claims()).unwrap();
        let one = narrow(&text, &Caveat::Permissions(0b0110)).unwrap();
        assert_eq!(open(&key, &one), Ok(0b0010));
        let two = narrow(&one, &Caveat::Permissions(0b1111)).unwrap();
        assert_eq!(open(&key, &two), Ok(0b0010));
        let three = narrow(&two, &Caveat::Operation("tool:fs_*")).unwrap();
        let four = narrow(&three, &Caveat::NotAfter(100)).unwrap();
        let mut scratch = [0; RAW_BYTES_MAX];
        let verified = key.verify(&four, &mut scratch).unwrap();
        assert!(verified.permits(99, "tool:fs_read").is_ok());
        assert_eq!(
            verified.permits(99, "tool:process_list"),
            Err(TokenError::Narrowed)
        );
        assert_eq!(
            verified.permits(100, "tool:fs_read"),
            Err(TokenError::Expired)
        );
        // Without the last caveat, but with the MAC that stands behind it.
        let (long, short) = (raw(&four), raw(&three));
        let mut stripped = short[..short.len() - MAC_BYTES].to_vec();
        stripped.extend_from_slice(&long[long.len() - MAC_BYTES..]);
        assert_eq!(open(&key, &encode(&stripped)), Err(TokenError::Forged));
    }

    #[test]
    fn caveats_are_bounded_in_number_and_length() {
        let key = Key::new(&[7; 32]);
        let mut text = key.issue(&claims()).unwrap();
        let long = "x".repeat(CAVEAT_BYTES_MAX);
        for _ in 0..CAVEATS_MAX {
            text = narrow(&text, &Caveat::Operation(&long)).unwrap();
        }
        assert!(open(&key, &text).is_ok());
        assert!(text.len() <= TEXT_BYTES_MAX);
        assert_eq!(
            narrow(&text, &Caveat::Permissions(0)),
            Err(TokenError::Caveats)
        );
        let plain = key.issue(&claims()).unwrap();
        let longer = "x".repeat(CAVEAT_BYTES_MAX + 1);
        assert!(narrow(&plain, &Caveat::Operation(&longer)).is_err());
        assert!(narrow(&plain, &Caveat::Operation("a b")).is_err());
    }

    #[test]
    fn the_longest_token_fits_the_wire() {
        const { assert!(TEXT_BYTES_MAX <= 1024) };
        let name = "n".repeat(name::NAME_BYTES_MAX);
        let claims = Claims {
            tenant: &name,
            workload: &name,
            ..claims()
        };
        let key = Key::new(&[7; 32]);
        assert!(open(&key, &key.issue(&claims).unwrap()).is_ok());
        let bad = Claims {
            tenant: "",
            ..claims
        };
        assert!(key.issue(&bad).is_err());
    }

    proptest! {
        #[test]
        fn any_claims_round_trip(slot: u32, generation: u32, end in proptest::option::of(0..NEVER), bits: u32, tenant in "[a-z0-9._:/-]{1,64}", workload in "[A-Z]{1,64}", secret: [u8; 32]) {
            let key = Key::new(&secret);
            let claims = Claims { slot, generation, expires_ms: end, permissions: bits, tenant: &tenant, workload: &workload, ..claims() };
            let text = key.issue(&claims).unwrap();
            let mut scratch = [0; RAW_BYTES_MAX];
            prop_assert_eq!(key.verify(&text, &mut scratch).unwrap().claims, claims);
        }
    }
}
