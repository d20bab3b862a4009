//! A key of 32 bytes, wrapped for who holds an X25519 key: RFC 9180, as its library has it.
//!
//! Base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305. Each use has an `info` of its own, and what
//! a key belongs to is the associated data: what does not belong together does not open. Start with [`wrap`] and
//! [`KeyPair::open`].

use crate::clock;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{CryptoRng, RngCore};
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use zeroize::Zeroizing;

/// An encapsulated key of 32 bytes, the wrapped key of 32 and its tag of 16.
pub const WRAPPED_BYTES: usize = ledger_core::sealed::WRAPPED_BYTES;

type KemImpl = X25519HkdfSha256;
type SecretKey = <KemImpl as Kem>::PrivateKey;
type PublicKey = <KemImpl as Kem>::PublicKey;

/// Randomness of the kernel, for libraries that ask for a generator.
struct Kernel;

impl RngCore for Kernel {
    fn next_u32(&mut self) -> u32 {
        u32::from_le_bytes(clock::random())
    }
    fn next_u64(&mut self) -> u64 {
        u64::from_le_bytes(clock::random())
    }
    fn fill_bytes(&mut self, into: &mut [u8]) {
        sys::random::fill(into).expect("getrandom(2) cannot fail once the kernel is up");
    }
}

impl CryptoRng for Kernel {}

/// What opens a wrapped key.
pub struct KeyPair {
    secret: SecretKey,
    /// Its public half.
    pub public: [u8; 32],
}

impl KeyPair {
    /// The pair that is derived from a secret of any kind.
    #[must_use]
    pub fn derived(secret: &[u8; 32]) -> Self {
        let (secret, public) = KemImpl::derive_keypair(secret);
        Self {
            secret,
            public: public.to_bytes().into(),
        }
    }

    /// The pair of an X25519 secret key; `None` if it is none.
    #[must_use]
    pub fn of(secret: &[u8; 32]) -> Option<Self> {
        let secret = SecretKey::from_bytes(secret).ok()?;
        let public = KemImpl::sk_to_pk(&secret).to_bytes().into();
        Some(Self { secret, public })
    }

    /// Opens a key that was wrapped for this pair; `None` if it was not, or for something else.
    #[must_use]
    pub fn open(
        &self,
        info: &[u8],
        wrapped: &[u8; WRAPPED_BYTES],
        belongs_to: &[u8],
    ) -> Option<Zeroizing<[u8; 32]>> {
        let (encapped, sealed) = wrapped.split_at(32);
        let encapped = <KemImpl as Kem>::EncappedKey::from_bytes(encapped).ok()?;
        let plain = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, KemImpl>(
            &OpModeR::Base,
            &self.secret,
            &encapped,
            info,
            sealed,
            belongs_to,
        );
        let plain = Zeroizing::new(plain.ok()?);
        plain.as_slice().try_into().ok().map(Zeroizing::new)
    }
}

/// Wraps a key for who has this X25519 key; `None` if it is no key: one of the few points that give every sender the
/// same secret.
#[must_use]
pub fn wrap(
    info: &[u8],
    key: &[u8; 32],
    recipient: &[u8; 32],
    belongs_to: &[u8],
) -> Option<[u8; WRAPPED_BYTES]> {
    let public = PublicKey::from_bytes(recipient).ok()?;
    let (encapped, sealed) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, KemImpl, _>(
        &OpModeS::Base,
        &public,
        info,
        key,
        belongs_to,
        &mut Kernel,
    )
    .ok()?;
    let mut wrapped = [0; WRAPPED_BYTES];
    for (to, from) in wrapped
        .iter_mut()
        .zip(encapped.to_bytes().iter().chain(&sealed))
    {
        *to = *from;
    }
    Some(wrapped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_x25519_key_is_taken_as_it_is() {
        // RFC 7748, section 6.1: Alice's keys.
        let bytes = |hex| ledger_core::keys::bytes_of::<32>(hex).unwrap();
        let secret = bytes("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        let public = bytes("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
        assert_eq!(KeyPair::of(&secret).map(|pair| pair.public), Some(public));
    }

    /// RFC 9180, appendix A.2.1 (base mode, X25519, HKDF-SHA256, ChaCha20-Poly1305), first encryption.
    #[test]
    fn the_suite_opens_the_vector_of_its_standard() {
        fn bytes(text: &str) -> Vec<u8> {
            let digits = text.as_bytes().chunks(2);
            digits
                .map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap())
                .collect()
        }
        let secret = bytes("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb");
        let encapped = bytes("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a");
        let info = bytes("4f6465206f6e2061204772656369616e2055726e");
        let sealed = bytes(
            "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28",
        );
        let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, KemImpl>(
            &OpModeR::Base,
            &SecretKey::from_bytes(&secret).unwrap(),
            &<KemImpl as Kem>::EncappedKey::from_bytes(&encapped).unwrap(),
            &info,
            &sealed,
            &bytes("436f756e742d30"),
        );
        assert_eq!(opened.unwrap(), b"Beauty is truth, truth beauty");
    }
}
