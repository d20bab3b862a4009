//! Fuzz bodies: what a stranger can send to the parsers here. They panic only if a promise breaks.

use crate::token::{self, Caveat, Key, RAW_BYTES_MAX};
use base64::Engine as _;

/// Takes any bytes as a token: as text, and as the bytes behind the text. Nothing but a token of the
/// right key may verify, and what verifies can be narrowed and still verifies.
pub fn fuzz_body(data: &[u8]) {
    let key = Key::new(&[7; 32]);
    let body = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(data);
    let texts = [
        String::from_utf8_lossy(data).into_owned(),
        format!("{}{body}", token::PREFIX),
    ];
    for text in texts {
        let mut scratch = [0; RAW_BYTES_MAX];
        let verified = key.verify(&text, &mut scratch);
        let narrowed = token::narrow(&text, &Caveat::Permissions(1));
        if let (Ok(verified), Ok(narrowed)) = (verified, narrowed) {
            let mut scratch = [0; RAW_BYTES_MAX];
            let again = key.verify(&narrowed, &mut scratch);
            assert_eq!(
                again.map(|v| v.permissions()),
                Ok(verified.permissions() & 1)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Claims;
    use std::time::{Duration, Instant};

    #[test]
    fn a_second_of_damaged_tokens() {
        let key = Key::new(&[7; 32]);
        let claims = Claims {
            tenant: "t",
            workload: "w",
            slot: 1,
            generation: 1,
            expires_ms: None,
            permissions: 3,
            grants: Default::default(),
        };
        let text = key.issue(&claims).unwrap();
        let text = token::narrow(&text, &Caveat::Operation("tool:*")).unwrap();
        let seed = base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(&text[token::PREFIX.len()..])
            .unwrap();
        fuzz_body(&seed);
        fuzz_body(text.as_bytes());
        let (mut state, begin) = (1u64, Instant::now());
        let mut dice = move |n: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize % n
        };
        while begin.elapsed() < Duration::from_secs(1) {
            let mut data = seed.clone();
            for _ in 0..1 + dice(4) {
                let at = dice(data.len());
                match dice(3) {
                    0 => data[at] = dice(256) as u8,
                    1 => data.truncate(at.max(1)),
                    _ => data.insert(at, dice(256) as u8),
                }
            }
            fuzz_body(&data);
        }
    }
}
