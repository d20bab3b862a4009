//! ULIDs: 48 bits of milliseconds and 80 random bits, in 26 letters of Crockford's base 32.

use alloc::string::String;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Composes a ULID of a wall clock and random bytes.
#[must_use]
pub fn compose(wall_ns: u64, random: [u8; 10]) -> [u8; 16] {
    let milliseconds = (wall_ns / 1_000_000).to_be_bytes();
    let mut out = [0; 16];
    let fields = milliseconds.into_iter().skip(2).chain(random);
    out.iter_mut().zip(fields).for_each(|(o, f)| *o = f);
    out
}

/// The ULID's text.
#[must_use]
pub fn text(ulid: &[u8; 16]) -> String {
    let bits = u128::from_be_bytes(*ulid);
    (0..26u32)
        .rev()
        .filter_map(|n| ALPHABET.get((bits >> (5 * n)) as usize & 31))
        .map(|b| char::from(*b))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specification_s_examples() {
        assert_eq!(text(&[0xff; 16]), "7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
        assert_eq!(text(&[0; 16]), "00000000000000000000000000");
        // 1469918176385 ms is 01ARYZ6S41, from the specification's page.
        let ulid = compose(1_469_918_176_385_000_000, [0; 10]);
        assert!(text(&ulid).starts_with("01ARYZ6S41"), "{}", text(&ulid));
    }
}
