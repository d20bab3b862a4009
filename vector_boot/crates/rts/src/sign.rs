//! Keys and signatures of packages.
//!
//! Owns the message that is signed and the text form of keys. The algorithm is `ed25519-dalek`'s, with `verify_strict`.
//! Start with [`sign`] and `Package::verify_signature`. Never here: randomness; the caller brings the seed.

use core::fmt;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use crate::error::RtsError;
use crate::header::{HEADER_BYTES, Header, KEY_AT, SIGNATURE_AT, put, reseal};

/// Says what is signed, so that a signature of ours over anything else is none over a package.
const CONTEXT: &[u8; 25] = b"vector-boot rts package 1";
const MESSAGE_BYTES: usize = CONTEXT.len() + SIGNATURE_AT;
const PUBLIC_PREFIX: &str = "vb-ed25519-public ";
const SECRET_PREFIX: &str = "vb-ed25519-secret ";

/// Who can have signed: an Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// Who signs: an Ed25519 secret key, wiped from memory when dropped.
pub struct SecretKey(SigningKey);

/// A key file is not one line of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key file: expected one line: {expected}and 64 hex digits")]
pub struct KeyError {
    expected: &'static str,
}

impl PublicKey {
    /// Reads the text form, with or without the line's end.
    pub fn parse(text: &[u8]) -> Result<Self, KeyError> {
        parse_line(text, PUBLIC_PREFIX).map(|bytes| Self(*bytes))
    }

    /// The text form, one line.
    pub fn to_text(&self) -> String {
        format!("{PUBLIC_PREFIX}{self}\n")
    }

    /// Checks that this key signed `header`.
    pub(crate) fn verify(
        &self,
        header: &[u8; HEADER_BYTES],
        signature: &[u8; 64],
    ) -> Result<(), RtsError> {
        let forged = |_| RtsError::Forged { key: *self };
        let key = VerifyingKey::from_bytes(&self.0).map_err(forged)?;
        key.verify_strict(&message(header), &Signature::from_bytes(signature))
            .map_err(forged)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl SecretKey {
    /// A key from 32 bytes of the kernel's randomness.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// A key from a seed that `fill` writes; the seed is wiped behind it.
    pub fn generate<E>(fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut seed = Zeroizing::new([0; 32]);
        fill(&mut *seed)?;
        Ok(Self::from_seed(&seed))
    }

    /// Reads the text form.
    pub fn parse(text: &[u8]) -> Result<Self, KeyError> {
        parse_line(text, SECRET_PREFIX).map(|seed| Self::from_seed(&seed))
    }

    /// The text form, one line; wiped when dropped.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(
            SECRET_PREFIX.len().saturating_add(65),
        ));
        text.push_str(SECRET_PREFIX);
        for byte in self.0.as_bytes() {
            for nibble in [byte >> 4, byte & 15] {
                text.extend(char::from_digit(u32::from(nibble), 16));
            }
        }
        text.push('\n');
        text
    }

    /// The key that checks this one's signatures.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }
}

/// Signs the package whose header this is, in place; an earlier signature is replaced.
///
/// Errors: the header is not a valid one with extension.
pub fn sign(header: &mut [u8; HEADER_BYTES], key: &SecretKey) -> Result<(), RtsError> {
    if Header::parse(header)?.ext.is_none() {
        return Err(RtsError::Plain {
            field: "signature".into(),
        });
    }
    put(header, KEY_AT, &key.public().0);
    let signature = key.0.sign(&message(header));
    put(header, SIGNATURE_AT, &signature.to_bytes());
    reseal(header);
    Ok(())
}

/// What is signed: the context and everything in the header before the signature.
fn message(header: &[u8; HEADER_BYTES]) -> [u8; MESSAGE_BYTES] {
    let mut message = [0; MESSAGE_BYTES];
    for (target, byte) in message.iter_mut().zip(CONTEXT.iter().chain(header)) {
        *target = *byte;
    }
    message
}

fn parse_line(text: &[u8], expected: &'static str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let wrong = KeyError { expected };
    let text = core::str::from_utf8(text).map_err(|_| wrong)?;
    let digits = text
        .strip_suffix('\n')
        .unwrap_or(text)
        .strip_prefix(expected)
        .ok_or(wrong)?;
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() {
        return Err(wrong);
    }
    let mut bytes = Zeroizing::new([0; 32]);
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let digit =
            |place: Option<&u8>| place.and_then(|c| char::from(*c).to_digit(16)).ok_or(wrong);
        // Two digits below 16 make at most 255.
        *byte = u8::try_from(digit(pair.first())? * 16 + digit(pair.last())?).map_err(|_| wrong)?;
    }
    Ok(bytes)
}
