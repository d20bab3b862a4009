//! The fuzz body of every parser here; the ordinary tests run it with a fixed seed.

use crate::elf;
use crate::header::{HEADER_BYTES, reseal};
use crate::manifest::Manifest;
use crate::package::Package;
use crate::sign::{PublicKey, SecretKey};
use crate::verify::WindowKind;

/// Feeds `data` to every parser; whatever is accepted must answer every question without panicking.
pub fn fuzz_body(data: &[u8]) {
    window(data);
    // Past the check of the header, where random bytes would never come.
    if let Some((front, rest)) = data.split_first_chunk::<HEADER_BYTES>() {
        let mut front = *front;
        reseal(&mut front);
        let mut resealed = front.to_vec();
        resealed.extend_from_slice(rest);
        window(&resealed);
    }
    let _ = elf::inspect(data);
    let _ = PublicKey::parse(data);
    let _ = SecretKey::parse(data);
    #[cfg(any(test, feature = "source"))]
    if let Ok(text) = core::str::from_utf8(data)
        && let Ok(manifest) = crate::manifest::source::parse(text)
    {
        assert!(
            manifest
                .encode()
                .is_ok_and(|bytes| Manifest::decode(&bytes) == Ok(manifest))
        );
    }
    if let Ok(manifest) = Manifest::decode(data) {
        assert!(
            manifest
                .encode()
                .is_ok_and(|bytes| Manifest::decode(&bytes) == Ok(manifest))
        );
    }
}

fn window(data: &[u8]) {
    let Ok(package) = Package::parse(data) else {
        return;
    };
    assert!(package.bytes() <= data.len() as u64);
    assert_eq!(package.tensor_bytes().len() as u64, package.tensors().bytes);
    let _ = elf::inspect(package.binary());
    for section in package.sections() {
        assert_eq!(package.section_bytes(&section).len() as u64, section.bytes);
    }
    let _ = package.verify_own_signature();
    if let Ok(blocks) = package.blocks() {
        for index in 0..=blocks.count() {
            let _ = blocks.verify_block(index);
        }
    }
    if let Ok(mut verification) = package.verification(WindowKind::File) {
        while verification
            .step(1000)
            .is_ok_and(|progress| !progress.is_finished())
        {}
    }
}
