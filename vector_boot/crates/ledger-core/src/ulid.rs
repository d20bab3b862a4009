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

/// Reads a ULID's text, in either case.
#[must_use]
pub fn parse(text: &str) -> Option<[u8; 16]> {
    if text.len() != 26 {
        return None;
    }
    let mut bits: u128 = 0;
    for letter in text.bytes() {
        let upper = letter.to_ascii_uppercase();
        let digit = ALPHABET.iter().position(|a| *a == upper)?;
        // 26 letters hold 130 bits: the first may be 7 at most.
        if bits >> 123 != 0 {
            return None;
        }
        bits = bits << 5 | digit as u128;
    }
    Some(bits.to_be_bytes())
}

/// The milliseconds since 1970 of which a ULID was made, as its maker says.
#[must_use]
pub fn milliseconds(ulid: &[u8; 16]) -> u64 {
    // 48 bits.
    (u128::from_be_bytes(*ulid) >> 80) as u64
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

    #[test]
    fn texts_are_read_back_and_what_is_none_is_refused() {
        for bits in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0011_2233_4455_6677] {
            let ulid = bits.to_be_bytes();
            assert_eq!(parse(&text(&ulid)), Some(ulid));
            assert_eq!(parse(&text(&ulid).to_ascii_lowercase()), Some(ulid));
        }
        for bad in [
            "",
            "8ZZZZZZZZZZZZZZZZZZZZZZZZZ",
            "7ZZZZZZZZZZZZZZZZZZZZZZZZU",
            "7ZZ",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(
            milliseconds(&compose(1_469_918_176_385_000_000, [255; 10])),
            1_469_918_176_385
        );
    }
}
