//! How a blob is encrypted and its key wrapped: two constructions of the field, composed by their libraries.
//!
//! The object: `VBBLOB01`, five zeros, a random nonce of 19 bytes, then STREAM (Hoang, Reyhanitabar, Rogaway, Vizár:
//! big-endian 32-bit counter, last-block flag) over XChaCha20-Poly1305 in chunks of 64 KiB of plain text, each with a
//! tag of 16 bytes. The key is random and belongs to this object alone.
//! The key: RFC 9180 base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305; info `vb-ledger-blob v1`,
//! associated data the object's name. What does not belong together does not open.

use crate::clock;
use crate::refusal::Refusal;
use crate::wrap::{self, KeyPair, WRAPPED_BYTES};
use chacha20poly1305::aead::stream::{DecryptorBE32, EncryptorBE32};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use ledger_core::blob::BLOB_BYTES_MAX;
use ledger_core::store::{OBJECT_BYTES_MAX, ObjectId};
use std::io::{self, Read};
use zeroize::Zeroizing;

/// Plain bytes of one chunk.
pub const CHUNK_BYTES: usize = 64 * 1024;
const TAG_BYTES: usize = 16;
const NONCE_BYTES: usize = 19;
/// Bytes in front of the first chunk.
pub const HEADER_BYTES: usize = 32;
const MAGIC: &[u8; 8] = b"VBBLOB01";
const INFO: &[u8] = b"vb-ledger-blob v1";

/// The key of one object, wiped when it is dropped.
pub struct ObjectKey(Zeroizing<[u8; 32]>);

impl ObjectKey {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self(Zeroizing::new(clock::random()))
    }

    /// Wraps it for who has this X25519 key.
    ///
    /// # Errors
    /// `BAD_REQUEST` if it is no key: one of the few points that give every sender the same secret.
    pub fn wrap(
        &self,
        recipient: &[u8; 32],
        object: &ObjectId,
    ) -> Result<[u8; WRAPPED_BYTES], Refusal> {
        wrap::wrap(INFO, &self.0, recipient, &object.0)
            .ok_or_else(|| Refusal::bad("recipients", "X25519 public keys that hide a secret"))
    }

    /// Opens a key that was wrapped for this pair; `None` if it was not, or for another object.
    #[must_use]
    pub fn unwrap(own: &KeyPair, wrapped: &[u8; WRAPPED_BYTES], object: &ObjectId) -> Option<Self> {
        own.open(INFO, wrapped, &object.0).map(Self)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(self.0.as_slice().into())
    }
}

/// Encrypts a blob as it comes.
pub struct Sealer {
    stream: EncryptorBE32<XChaCha20Poly1305>,
    /// Room for a chunk and its tag from the beginning: a buffer that grew would leave plain text behind.
    buffer: Zeroizing<Vec<u8>>,
}

impl Sealer {
    /// Begins, and gives what stands in front of the first chunk.
    #[must_use]
    pub fn begin(key: &ObjectKey) -> (Self, [u8; HEADER_BYTES]) {
        let nonce: [u8; NONCE_BYTES] = clock::random();
        let mut header = [0; HEADER_BYTES];
        let (magic, rest) = header.split_at_mut(MAGIC.len());
        magic.copy_from_slice(MAGIC);
        let (_, place) = rest.split_at_mut(HEADER_BYTES - MAGIC.len() - NONCE_BYTES);
        place.copy_from_slice(&nonce);
        let this = Self {
            stream: EncryptorBE32::from_aead(key.cipher(), nonce.as_slice().into()),
            buffer: Zeroizing::new(Vec::with_capacity(CHUNK_BYTES + TAG_BYTES)),
        };
        (this, header)
    }

    /// Takes plain bytes; whole chunks go to `out`, but the last, which is known only at the end.
    ///
    /// # Errors
    /// As `out`'s.
    pub fn write(
        &mut self,
        mut plain: &[u8],
        out: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        while !plain.is_empty() {
            if self.buffer.len() == CHUNK_BYTES {
                self.stream
                    .encrypt_next_in_place(&[], &mut *self.buffer)
                    .map_err(|_| io::Error::other("a blob of too many chunks"))?;
                out(&self.buffer)?;
                self.buffer.clear();
            }
            let (now, later) = plain.split_at(plain.len().min(CHUNK_BYTES - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            plain = later;
        }
        Ok(())
    }

    /// The last chunk.
    ///
    /// # Errors
    /// As `out`'s.
    pub fn end(mut self, out: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        self.stream
            .encrypt_last_in_place(&[], &mut *self.buffer)
            .map_err(|_| io::Error::other("a blob of too many chunks"))?;
        out(&self.buffer)
    }
}

/// Bytes of an object that holds this many.
#[must_use]
pub const fn object_bytes(plain: u64) -> u64 {
    // An empty blob has a chunk too.
    let chunks = if plain == 0 {
        1
    } else {
        plain.div_ceil(CHUNK_BYTES as u64)
    };
    HEADER_BYTES as u64 + plain + chunks * TAG_BYTES as u64
}

// Every adapter of the object store takes what blobs keep.
const _: () = assert!(object_bytes(BLOB_BYTES_MAX) <= OBJECT_BYTES_MAX as u64);

/// Decrypts an object of a blob of `plain` bytes, chunk by chunk; what `out` gets is authentic, and all of it was got
/// only when this returns `Ok`. `out` says whether to go on.
///
/// # Errors
/// `InvalidData` at the first chunk that does not hold, `UnexpectedEof` for one that was cut, or as `from`'s.
pub fn open(
    key: &ObjectKey,
    plain: u64,
    from: &mut dyn Read,
    out: &mut dyn FnMut(&[u8]) -> bool,
) -> io::Result<()> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let mut header = [0; HEADER_BYTES];
    from.read_exact(&mut header)?;
    let (front, nonce) = header.split_at(HEADER_BYTES - NONCE_BYTES);
    let (magic, zeros) = front.split_at(MAGIC.len());
    if magic != MAGIC || zeros.iter().any(|b| *b != 0) {
        return Err(bad());
    }
    let mut stream = DecryptorBE32::from_aead(key.cipher(), nonce.into());
    let mut buffer = Zeroizing::new(Vec::with_capacity(CHUNK_BYTES + TAG_BYTES));
    let mut left = plain;
    while left > CHUNK_BYTES as u64 {
        buffer.resize(CHUNK_BYTES + TAG_BYTES, 0);
        from.read_exact(&mut buffer)?;
        stream
            .decrypt_next_in_place(&[], &mut *buffer)
            .map_err(|_| bad())?;
        if !out(&buffer) {
            return Ok(());
        }
        left -= CHUNK_BYTES as u64;
    }
    let last = usize::try_from(left).map_err(|_| bad())?;
    buffer.resize(last + TAG_BYTES, 0);
    from.read_exact(&mut buffer)?;
    stream
        .decrypt_last_in_place(&[], &mut *buffer)
        .map_err(|_| bad())?;
    if from.read(&mut [0])? != 0 {
        return Err(bad());
    }
    out(&buffer);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(key: &ObjectKey, plain: &[u8], pieces: usize) -> Vec<u8> {
        let (mut sealer, header) = Sealer::begin(key);
        let mut object = header.to_vec();
        let mut out = |bytes: &[u8]| {
            object.extend_from_slice(bytes);
            Ok(())
        };
        for piece in plain.chunks(pieces.max(1)) {
            sealer.write(piece, &mut out).unwrap();
        }
        sealer.end(&mut out).unwrap();
        object
    }

    fn opened(key: &ObjectKey, bytes: u64, mut object: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        open(key, bytes, &mut object, &mut |chunk| {
            plain.extend_from_slice(chunk);
            true
        })?;
        Ok(plain)
    }

    #[test]
    fn every_size_opens_as_it_was_whatever_the_pieces() {
        let key = ObjectKey::random();
        for bytes in [
            0,
            1,
            CHUNK_BYTES - 1,
            CHUNK_BYTES,
            CHUNK_BYTES + 1,
            3 * CHUNK_BYTES,
        ] {
            let plain: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
            for pieces in [1000, CHUNK_BYTES, bytes] {
                let object = sealed(&key, &plain, pieces);
                assert_eq!(object.len() as u64, object_bytes(bytes as u64));
                assert_eq!(opened(&key, bytes as u64, &object).unwrap(), plain);
            }
        }
    }

    #[test]
    fn what_was_flipped_cut_moved_or_lengthened_does_not_open() {
        let key = ObjectKey::random();
        let plain = vec![7; 2 * CHUNK_BYTES + 10];
        let bytes = plain.len() as u64;
        let object = sealed(&key, &plain, 4096);
        for at in (0..object.len()).step_by(997).chain([object.len() - 1]) {
            let mut bad = object.clone();
            bad[at] ^= 1;
            assert!(opened(&key, bytes, &bad).is_err(), "flip at {at}");
            assert!(opened(&key, bytes, &object[..at]).is_err(), "cut at {at}");
        }
        let longer = [&object[..], &[0]].concat();
        assert!(opened(&key, bytes, &longer).is_err());
        let chunk = CHUNK_BYTES + TAG_BYTES;
        let (first, second) = (HEADER_BYTES, HEADER_BYTES + chunk);
        let mut swapped = object.clone();
        swapped[first..second].copy_from_slice(&object[second..second + chunk]);
        swapped[second..second + chunk].copy_from_slice(&object[first..second]);
        assert!(opened(&key, bytes, &swapped).is_err());
        // Cut at a chunk's end: without the flag of the last one it does not hold.
        let fewer = (2 * CHUNK_BYTES) as u64;
        assert!(opened(&key, fewer, &object[..second + chunk]).is_err());
        assert!(opened(&ObjectKey::random(), bytes, &object).is_err());
    }

    #[test]
    fn a_wrapped_key_opens_for_its_recipient_and_its_object_alone() {
        let (one, two) = (KeyPair::derived(&[1; 32]), KeyPair::derived(&[2; 32]));
        let (object, other) = (ObjectId([3; 32]), ObjectId([4; 32]));
        let key = ObjectKey::random();
        let wrapped = key.wrap(&one.public, &object).unwrap();
        assert_eq!(
            *ObjectKey::unwrap(&one, &wrapped, &object).unwrap().0,
            *key.0
        );
        assert!(ObjectKey::unwrap(&two, &wrapped, &object).is_none());
        assert!(ObjectKey::unwrap(&one, &wrapped, &other).is_none());
        for at in 0..WRAPPED_BYTES {
            let mut bad = wrapped;
            bad[at] ^= 1;
            assert!(ObjectKey::unwrap(&one, &bad, &object).is_none(), "{at}");
        }
        // The point of order one: whatever the sender draws, the secret would be zero.
        assert_eq!(key.wrap(&[0; 32], &object).unwrap_err().code, "BAD_REQUEST");
    }
}
