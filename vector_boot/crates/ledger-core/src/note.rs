//! Signed notes: text and the signatures below it, as C2SP `signed-note` has them.
//!
//! A note is parsed strictly and written back byte by byte as it was; signatures of unknown keys are
//! kept. Ed25519 is verified with `verify_strict`, and keys of small order are refused, so that one
//! signature cannot be turned into another. Keys of two kinds are known: of logs, and of witnesses
//! (`tlog-cosignature`), whose signature carries when it was made.
//!
//! Source: <https://c2sp.org/signed-note>, <https://c2sp.org/tlog-cosignature>.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use core::fmt;
use ed25519_dalek::{Signature as Ed25519, VerifyingKey};
use sha2::{Digest, Sha256};

/// Longest note: sixteen signatures must be accepted, and a post-quantum one has 5 kB.
pub const NOTE_BYTES_MAX: usize = 128 * 1024;
/// Signatures of one note.
pub const SIGNATURES_MAX: usize = 32;
/// Longest name of a key.
pub const NAME_BYTES_MAX: usize = 256;
/// What a signature line begins with: em dash, space.
const SIGNATURE_MARK: &str = "\u{2014} ";
/// Bytes of a time and an Ed25519 signature.
const COSIGNATURE_BYTES: usize = 8 + 64;

/// Why a note, a key or a signature is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoteError {
    /// More bytes than [`NOTE_BYTES_MAX`].
    TooLarge(usize),
    /// A control character other than newline.
    Control(u8),
    /// No blank line with signatures behind it.
    Unsigned,
    /// This signature line is none, from 1 on.
    SignatureLine(usize),
    /// More signatures than [`SIGNATURES_MAX`].
    TooManySignatures,
    /// The text does not end in a newline.
    Text,
    /// A key's name is empty, too long, or holds a space or a plus sign.
    Name,
    /// A key's text is not `name+hash+base64`, or its parts do not match.
    Key(&'static str),
    /// No signature of this key.
    UnknownKey,
    /// A signature of this key that does not hold.
    BadSignature,
}

impl fmt::Display for NoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(n) => write!(f, "note has {n} bytes, at most {NOTE_BYTES_MAX}"),
            Self::Control(byte) => write!(f, "note holds the control character 0x{byte:02x}"),
            Self::Unsigned => f.write_str("note has no signature below a blank line"),
            Self::SignatureLine(n) => write!(f, "signature line {n} of the note is malformed"),
            Self::TooManySignatures => {
                write!(f, "note has more than {SIGNATURES_MAX} signatures")
            }
            Self::Text => f.write_str("note text does not end in a newline"),
            Self::Name => write!(
                f,
                "key name: 1 to {NAME_BYTES_MAX} bytes without spaces and plus signs"
            ),
            Self::Key(what) => write!(f, "key: {what}"),
            Self::UnknownKey => f.write_str("no signature of this key"),
            Self::BadSignature => f.write_str("signature does not hold"),
        }
    }
}

/// Checks a key's name.
fn check_name(name: &str) -> Result<(), NoteError> {
    let bad = |c: char| c.is_whitespace() || c == '+' || c.is_control();
    let holds = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains(bad);
    holds.then_some(()).ok_or(NoteError::Name)
}

/// One signature line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Name of the key.
    pub name: String,
    /// Hash of the key.
    pub id: u32,
    /// The signature proper, as its kind lays it out.
    pub bytes: Vec<u8>,
}

impl Signature {
    /// Reads a line without its newline.
    ///
    /// # Errors
    /// [`NoteError::SignatureLine`], as line 1.
    pub fn parse(line: &str) -> Result<Self, NoteError> {
        Self::read(line).ok_or(NoteError::SignatureLine(1))
    }

    fn read(line: &str) -> Option<Self> {
        let (name, encoded) = line.strip_prefix(SIGNATURE_MARK)?.split_once(' ')?;
        check_name(name).ok()?;
        let decoded = BASE64.decode(encoded).ok()?;
        let (id, bytes) = decoded.split_first_chunk::<4>()?;
        (!bytes.is_empty()).then(|| Self {
            name: name.to_string(),
            id: u32::from_be_bytes(*id),
            bytes: bytes.to_vec(),
        })
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.id.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.bytes);
        write!(f, "{SIGNATURE_MARK}{} {}", self.name, BASE64.encode(bytes))
    }
}

/// Text and the signatures below it. Its text means nothing before [`Note::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

impl Note {
    /// Reads a whole note.
    ///
    /// # Errors
    /// [`NoteError`]; whether a signature holds is not looked at.
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        if note.len() > NOTE_BYTES_MAX {
            return Err(NoteError::TooLarge(note.len()));
        }
        if let Some(bad) = note.bytes().find(|b| *b < b' ' && *b != b'\n') {
            return Err(NoteError::Control(bad));
        }
        let at = note.rfind("\n\n").ok_or(NoteError::Unsigned)?;
        let (text, below) = note
            .split_at_checked(at.saturating_add(1))
            .ok_or(NoteError::Unsigned)?;
        let lines = below
            .strip_prefix('\n')
            .and_then(|lines| lines.strip_suffix('\n'))
            .ok_or(NoteError::Unsigned)?;
        let mut signatures = Vec::new();
        for (n, line) in lines.split('\n').enumerate() {
            if n >= SIGNATURES_MAX {
                return Err(NoteError::TooManySignatures);
            }
            signatures.push(Signature::read(line).ok_or(NoteError::SignatureLine(n + 1))?);
        }
        Ok(Self {
            text: text.to_string(),
            signatures,
        })
    }

    /// A note of this text with one signature, which `sign` makes of bytes with the secret of `key`.
    ///
    /// # Errors
    /// [`NoteError::Text`], [`NoteError::Control`].
    pub fn sign(
        text: &str,
        key: &VerifierKey,
        sign: impl FnOnce(&[u8]) -> [u8; 64],
    ) -> Result<Self, NoteError> {
        if !text.ends_with('\n') {
            return Err(NoteError::Text);
        }
        if let Some(bad) = text.bytes().find(|b| *b < b' ' && *b != b'\n') {
            return Err(NoteError::Control(bad));
        }
        let signature = Signature {
            name: key.name.clone(),
            id: key.id,
            bytes: sign(text.as_bytes()).to_vec(),
        };
        Ok(Self {
            text: text.to_string(),
            signatures: alloc::vec![signature],
        })
    }

    /// The text, with its last newline.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All signatures, those of unknown keys too.
    #[must_use]
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Puts a signature below the others, in the place of one of the same key.
    ///
    /// # Errors
    /// [`NoteError::TooManySignatures`].
    pub fn add(&mut self, signature: Signature) -> Result<(), NoteError> {
        let same = |s: &Signature| s.name == signature.name && s.id == signature.id;
        self.signatures.retain(|s| !same(s));
        if self.signatures.len() >= SIGNATURES_MAX {
            return Err(NoteError::TooManySignatures);
        }
        self.signatures.push(signature);
        Ok(())
    }

    /// Checks the signatures of one key: there must be one, and each must hold. When a witness made
    /// it, in seconds since 1970; 0 for a log's key.
    ///
    /// # Errors
    /// [`NoteError::UnknownKey`], [`NoteError::BadSignature`].
    pub fn verify(&self, key: &VerifierKey) -> Result<u64, NoteError> {
        let mut made = None;
        for signature in &self.signatures {
            if signature.name == key.name && signature.id == key.id {
                made = Some(key.check(&self.text, &signature.bytes)?);
            }
        }
        made.ok_or(NoteError::UnknownKey)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        for signature in &self.signatures {
            writeln!(f, "{signature}")?;
        }
        Ok(())
    }
}

/// What a key signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// Ed25519 over the text: a log.
    Log,
    /// Ed25519 over time and text: a witness.
    Witness,
}

impl KeyKind {
    /// The signature type's identifier.
    fn byte(self) -> u8 {
        match self {
            Self::Log => 0x01,
            Self::Witness => 0x04,
        }
    }
}

/// What a witness signs.
fn cosigned(time: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

/// Hash of a key under its name.
fn key_id(name: &str, kind: KeyKind, public: &[u8; 32]) -> u32 {
    let hash: [u8; 32] = Sha256::new()
        .chain_update(name)
        .chain_update([b'\n', kind.byte()])
        .chain_update(public)
        .finalize()
        .into();
    let [a, b, c, d, ..] = hash;
    u32::from_be_bytes([a, b, c, d])
}

/// A key that checks signatures; its text is a C2SP vkey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    kind: KeyKind,
    id: u32,
    public: VerifyingKey,
}

impl VerifierKey {
    /// Reads `name+hash+base64`.
    ///
    /// # Errors
    /// [`NoteError::Name`], [`NoteError::Key`].
    pub fn parse(vkey: &str) -> Result<Self, NoteError> {
        let (name, id, kind, public) = read_key(vkey)?;
        let this = Self::new(name, kind, point(&public)?);
        if this.id != id {
            return Err(NoteError::Key("hash does not match name and public key"));
        }
        Ok(this)
    }

    /// The key of a log.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn log(name: &str, public: &[u8; 32]) -> Result<Self, NoteError> {
        check_name(name)?;
        Ok(Self::new(name, KeyKind::Log, point(public)?))
    }

    fn new(name: &str, kind: KeyKind, public: VerifyingKey) -> Self {
        Self {
            name: name.to_string(),
            kind,
            id: key_id(name, kind, public.as_bytes()),
            public,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it checks.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.public.to_bytes()
    }

    fn check(&self, text: &str, signature: &[u8]) -> Result<u64, NoteError> {
        let bad = NoteError::BadSignature;
        let holds = |message: &[u8], signature: &[u8; 64]| {
            let signature = Ed25519::from_bytes(signature);
            self.public
                .verify_strict(message, &signature)
                .map_err(|_| bad)
        };
        match self.kind {
            KeyKind::Log => {
                holds(text.as_bytes(), signature.try_into().map_err(|_| bad)?)?;
                Ok(0)
            }
            KeyKind::Witness => {
                let signature: &[u8; COSIGNATURE_BYTES] = signature.try_into().map_err(|_| bad)?;
                let (time, signature) = signature.split_first_chunk::<8>().ok_or(bad)?;
                let time = u64::from_be_bytes(*time);
                if i64::try_from(time).is_err() {
                    return Err(bad);
                }
                let signature = signature.try_into().map_err(|_| bad)?;
                holds(cosigned(time, text).as_bytes(), signature)?;
                Ok(time)
            }
        }
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = alloc::vec![self.kind.byte()];
        bytes.extend_from_slice(self.public.as_bytes());
        write!(f, "{}+{:08x}+{}", self.name, self.id, BASE64.encode(bytes))
    }
}

/// A public key that not every signature fits.
fn point(public: &[u8; 32]) -> Result<VerifyingKey, NoteError> {
    let point = VerifyingKey::from_bytes(public)
        .map_err(|_| NoteError::Key("public key is no point of the curve"))?;
    if point.is_weak() {
        return Err(NoteError::Key("public key has small order"));
    }
    Ok(point)
}

/// Splits `name+hash+base64` of 33 bytes.
fn read_key(text: &str) -> Result<(&str, u32, KeyKind, [u8; 32]), NoteError> {
    let form = NoteError::Key("not name+hash+base64");
    // Base64 may hold plus signs: the name and the hash may not.
    let (name, rest) = text.split_once('+').ok_or(form)?;
    let (hash, encoded) = rest.split_once('+').ok_or(form)?;
    check_name(name)?;
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if hash.len() != 8 || !hash.bytes().all(lower) {
        return Err(NoteError::Key("hash is not eight digits of lower-case hex"));
    }
    let id = u32::from_str_radix(hash, 16).map_err(|_| form)?;
    let bytes = BASE64.decode(encoded).map_err(|_| form)?;
    let (kind, key) = bytes.split_first().ok_or(form)?;
    let kind = [KeyKind::Log, KeyKind::Witness]
        .into_iter()
        .find(|k| k.byte() == *kind)
        .ok_or(NoteError::Key("kind is neither Ed25519 nor cosignature/v1"))?;
    let key = key
        .try_into()
        .map_err(|_| NoteError::Key("not 32 bytes of key"))?;
    Ok((name, id, kind, key))
}
