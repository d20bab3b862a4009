//! A signed checkpoint as one line, for a serial console: a person copies it, a capture keeps it.
//!
//! `ledger checkpoint: size=S root=BASE64 by=ORIGIN signature=BASE64`. All of the note is in it, in printable ASCII
//! and within one line of PID 1's ring. Start with [`line`] and [`note`].

use crate::checkpoint::Checkpoint;
use crate::note::Note;
use alloc::format;
use alloc::string::{String, ToString};

/// What a checkpoint's line begins with.
pub const CHECKPOINT: &str = "ledger checkpoint: ";
/// What the line of the key that checks it begins with; the verifier key follows.
pub const KEY: &str = "ledger key: ";
/// Longest line: what PID 1's ring keeps of one.
pub const LINE_BYTES_MAX: usize = 232;

/// The line of a checkpoint; `None` for a note that is none, or whose origin is too long for a line.
#[must_use]
pub fn line(note: &Note) -> Option<String> {
    let checkpoint = Checkpoint::parse(note.text()).ok()?;
    let own = |s: &&crate::note::Signature| s.name == checkpoint.origin;
    let signature = note.signatures().iter().find(own)?.to_string();
    let (_, signature) = signature.rsplit_once(' ')?;
    let root = crate::checkpoint::hash_text(&checkpoint.root);
    let (size, origin) = (checkpoint.size, &checkpoint.origin);
    let line = format!("{CHECKPOINT}size={size} root={root} by={origin} signature={signature}");
    let plain = line.bytes().all(|b| (b' '..=b'~').contains(&b));
    Some(line).filter(|line| plain && line.len() <= LINE_BYTES_MAX)
}

/// The note that a line holds, wherever in the text it begins: what a terminal showed before it is passed over.
/// Whether its signature holds is for the key to say.
#[must_use]
pub fn note(text: &str) -> Option<Note> {
    let (_, found) = text.split_once(CHECKPOINT)?;
    let mut words = found.split_ascii_whitespace();
    let mut word = |name: &str| words.next()?.strip_prefix(name);
    let (size, root) = (word("size=")?, word("root=")?);
    let (origin, signature) = (word("by=")?, word("signature=")?);
    let note = format!("{origin}\n{size}\n{root}\n\n\u{2014} {origin} {signature}\n");
    Note::parse(&note).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::VerifierKey;
    use ed25519_dalek::{Signer, SigningKey};

    fn signed(origin: &str) -> (VerifierKey, Note) {
        let secret = SigningKey::from_bytes(&[5; 32]);
        let key = VerifierKey::log(origin, secret.verifying_key().as_bytes()).unwrap();
        let checkpoint = Checkpoint {
            origin: origin.to_string(),
            size: crate::checkpoint::TREE_SIZE_MAX,
            root: [0xfb; 32],
        };
        let note = checkpoint.sign(&key, |text| secret.sign(text).to_bytes());
        (key, note.unwrap())
    }

    #[test]
    fn the_largest_checkpoint_fits_a_line_and_comes_back_with_its_signature() {
        let (key, note_then) = signed("vb-0123456789abcdef/ledger");
        let line = line(&note_then).unwrap();
        assert!(line.len() <= LINE_BYTES_MAX, "{}", line.len());
        for text in [line.clone(), format!("\rvb> {line}\r\nmore\n")] {
            let again = note(&text).unwrap();
            assert_eq!(again, note_then);
            assert_eq!(again.verify(&key), Ok(0));
        }
    }

    #[test]
    fn a_line_that_was_cut_or_changed_is_no_note_or_does_not_hold() {
        let (key, note_then) = signed("vb-0123456789abcdef/ledger");
        let line = line(&note_then).unwrap();
        for at in CHECKPOINT.len()..line.len() {
            let cut = note(&line[..at]);
            assert!(cut.is_none_or(|n| n.verify(&key).is_err()), "{at}");
            let mut changed = line.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = note(core::str::from_utf8(&changed).unwrap());
            assert!(changed.is_none_or(|n| n.verify(&key).is_err()), "{at}");
        }
        assert!(note("").is_none() && note(CHECKPOINT).is_none());
    }

    #[test]
    fn an_origin_that_is_too_long_has_no_line() {
        assert_eq!(line(&signed(&"o".repeat(100)).1), None);
    }
}
