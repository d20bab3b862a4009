//! Notes, checkpoints and keys: published vectors, another implementation, hostile text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer, SigningKey};
use ledger_core::checkpoint::{Checkpoint, decimal, hash_of_text};
use ledger_core::note::{KeyKind, NOTE_BYTES_MAX, Note, NoteError, Signature, VerifierKey};
use proptest::prelude::*;
use signed_note::{StandardSigner, StandardVerifier, VerifierList};

/// From the documentation of golang.org/x/mod/sumdb/note, which C2SP signed-note was taken from.
const NEUMANN_VKEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const NEUMANN_SEED: &str = "gQoUAtUUbI2E8kQzMPVAgOv5juF9nHT2JS/F1ccoMXM=";
const NEUMANN_NOTE: &str = "If you think cryptography is the answer to your problem,\n\
    then you don't know what your problem is.\n\
    \n\
    \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
/// A second signature of the same note, from the same page.
const ENOCH_LINE: &str = "\u{2014} EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n";
/// The examples of C2SP signed-note and tlog-cosignature.
const QUASIMODO: &str = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned \u{e8} subito sera.\n\n\u{2014} quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n";
const SOFA: &str = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\u{2014} witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n";

/// The example of C2SP signed-note's Ed25519 signatures, with its key.
const EXAMPLE_VKEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
const EXAMPLE_NOTE: &str = "This is an example message.\n\n\u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

/// A key that signs, as a device holds it.
struct Pen {
    key: VerifierKey,
    secret: SigningKey,
}

impl Pen {
    fn new(name: &str, seed: &[u8; 32]) -> Self {
        let secret = SigningKey::from_bytes(seed);
        let key = VerifierKey::log(name, secret.verifying_key().as_bytes()).unwrap();
        Self { key, secret }
    }

    fn write(&self, bytes: &[u8]) -> [u8; 64] {
        self.secret.sign(bytes).to_bytes()
    }

    fn note(&self, text: &str) -> Note {
        Note::sign(text, &self.key, |bytes| self.write(bytes)).unwrap()
    }
}

fn hex<const N: usize>(text: &str) -> [u8; N] {
    let byte = |n: usize| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap();
    std::array::from_fn(byte)
}

#[test]
fn published_notes_are_read_verified_and_written_back() {
    let key = VerifierKey::parse(NEUMANN_VKEY).unwrap();
    assert_eq!(key.to_string(), NEUMANN_VKEY);
    let note = Note::parse(NEUMANN_NOTE).unwrap();
    assert_eq!(note.verify(&key), Ok(0));
    let seed = BASE64.decode(NEUMANN_SEED).unwrap();
    let pen = Pen::new("PeterNeumann", &seed.try_into().unwrap());
    assert_eq!(pen.note(note.text()), note);
    let key = VerifierKey::parse(EXAMPLE_VKEY).unwrap();
    assert_eq!(key.to_string(), EXAMPLE_VKEY);
    assert_eq!(Note::parse(EXAMPLE_NOTE).unwrap().verify(&key), Ok(0));
    for text in [NEUMANN_NOTE, EXAMPLE_NOTE, QUASIMODO, SOFA] {
        assert_eq!(Note::parse(text).unwrap().to_string(), text);
    }
    let poem = Note::parse(QUASIMODO).unwrap();
    assert!(poem.text().ends_with("sole:\n\ned \u{e8} subito sera.\n"));
}

#[test]
fn signatures_of_unknown_keys_are_kept_and_prove_nothing() {
    let key = VerifierKey::parse(NEUMANN_VKEY).unwrap();
    let both = format!("{NEUMANN_NOTE}{ENOCH_LINE}");
    let note = Note::parse(&both).unwrap();
    assert_eq!(note.verify(&key), Ok(0));
    assert_eq!(note.to_string(), both);
    assert_eq!(note.signatures().len(), 2);
    let (text, _) = both.split_once("\n\n").unwrap();
    let alone = Note::parse(&format!("{text}\n\n{ENOCH_LINE}")).unwrap();
    assert_eq!(alone.verify(&key), Err(NoteError::UnknownKey));
    // The same name with another hash is another key.
    let other = Pen::new("PeterNeumann", &[1; 32]);
    assert_eq!(note.verify(&other.key), Err(NoteError::UnknownKey));
}

#[test]
fn a_checkpoint_of_the_specification_is_read() {
    let note = Note::parse(SOFA).unwrap();
    let checkpoint = Checkpoint::parse(note.text()).unwrap();
    assert_eq!(checkpoint.origin, "example.com/behind-the-sofa");
    assert_eq!(checkpoint.size, 20_852_163);
    assert_eq!(checkpoint.text(), note.text());
    assert_eq!(note.signatures()[1].bytes.len(), 72);
}

#[test]
fn ed25519_is_that_of_rfc_8032() {
    // Section 7.1, tests 1 to 3, and the one over SHA-512 of "abc".
    let abc: [u8; 64] = hex(
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
    );
    for (seed, public, message, signature) in [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            &[][..],
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            &[0x72][..],
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            &[0xaf, 0x82][..],
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
        (
            "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
            "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
            &abc[..],
            "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
        ),
    ] {
        let pen = Pen::new("rfc8032", &hex(seed));
        assert_eq!(pen.key.public(), hex::<32>(public));
        assert_eq!(pen.write(message), hex::<64>(signature));
    }
}

#[test]
fn keys_that_would_take_forged_signatures_are_refused() {
    // The points of order 1, 2 and 4, under a hash that matches.
    let mut one = [0; 32];
    one[0] = 1;
    let mut minus_one = [0xff; 32];
    (minus_one[0], minus_one[31]) = (0xec, 0x7f);
    for public in [one, minus_one, [0; 32]] {
        let mut bytes = vec![1];
        bytes.extend_from_slice(&public);
        let id = signed_note::key_id("weak", &bytes);
        let encoded = BASE64.encode(bytes);
        let refused = VerifierKey::parse(&format!("weak+{id:08x}+{encoded}"));
        assert_eq!(refused, Err(NoteError::Key("public key has small order")));
    }
    for bad in [
        "",
        "PeterNeumann",
        "PeterNeumann+c74f20a3",
        "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+AxpC2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10T",
        "+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ] {
        assert!(VerifierKey::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn malformed_notes_are_refused() {
    for (bad, why) in [
        ("", NoteError::Unsigned),
        ("text\n", NoteError::Unsigned),
        ("text\n\n", NoteError::Unsigned),
        ("text\n\n\u{2014} a AAAAAAA=", NoteError::Unsigned),
        ("te\txt\n\n\u{2014} a AAAAAAA=\n", NoteError::Control(b'\t')),
        ("te\r\n\n\u{2014} a AAAAAAA=\n", NoteError::Control(b'\r')),
        ("text\n\n- a AAAAAAA=\n", NoteError::SignatureLine(1)),
        (
            "text\n\n\u{2014} a+b AAAAAAA=\n",
            NoteError::SignatureLine(1),
        ),
        ("text\n\n\u{2014}  AAAAAAA=\n", NoteError::SignatureLine(1)),
        ("text\n\n\u{2014} a AAAAAA==\n", NoteError::SignatureLine(1)),
        ("text\n\n\u{2014} a AAAAAAB=\n", NoteError::SignatureLine(1)),
        ("text\n\n\u{2014} a AAAAAAA\n", NoteError::SignatureLine(1)),
        (
            "text\n\n\u{2014} a AAAAAAA= \n",
            NoteError::SignatureLine(1),
        ),
        (
            "text\n\n\u{2014} a AAAAAAA=\nb\n",
            NoteError::SignatureLine(2),
        ),
    ] {
        assert_eq!(Note::parse(bad), Err(why), "{bad:?}");
    }
    let long = "x".repeat(NOTE_BYTES_MAX + 1);
    assert!(matches!(Note::parse(&long), Err(NoteError::TooLarge(_))));
    let line = "\u{2014} a AAAAAAA=\n";
    let many = |n| Note::parse(&format!("text\n\n{}", line.repeat(n)));
    assert!(many(32).is_ok());
    assert_eq!(many(33), Err(NoteError::TooManySignatures));
    for bad in [
        "",
        "01",
        "+1",
        "-1",
        " 1",
        "1 ",
        "9223372036854775808",
        "\u{661}",
    ] {
        assert_eq!(decimal(bad), None, "{bad:?}");
    }
    let root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
    assert!(hash_of_text(root).is_some());
    for bad in [
        String::new(),
        format!("o\n1\n{root}"),
        format!("o\n1\n{root}\nextension\n"),
        format!("o\n1\n{root}\n\n"),
        format!("\n1\n{root}\n"),
        format!("o\n01\n{root}\n"),
        format!("o\n1\n{}\n", &root[4..]),
        format!("o\n1\n{}B=\n", &root[..42]),
    ] {
        assert!(Checkpoint::parse(&bad).is_err(), "{bad:?}");
    }
}

#[test]
fn each_changed_byte_of_a_signed_checkpoint_is_found() {
    let pen = Pen::new("vb-1/ledger", &[7; 32]);
    let checkpoint = Checkpoint {
        origin: "vb-1/ledger".to_owned(),
        size: 9,
        root: [3; 32],
    };
    let good = checkpoint
        .sign(&pen.key, |bytes| pen.write(bytes))
        .unwrap()
        .to_string();
    let open = |text: &str| Checkpoint::open(&Note::parse(text).ok()?, &pen.key).ok();
    assert_eq!(open(&good), Some(checkpoint));
    for at in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[at] ^= 1 << (at % 7);
        if let Ok(text) = String::from_utf8(bytes) {
            assert_eq!(open(&text), None, "byte {at}");
        }
    }
}

#[test]
fn another_implementation_agrees_on_keys_and_notes() {
    let pen = Pen::new("vb-1/ledger", &[9; 32]);
    let vkey = pen.key.to_string();
    let theirs = StandardVerifier::new(&vkey).unwrap();
    let note = pen.note("text\n\nmore\n");
    let read = signed_note::Note::from_bytes(note.to_string().as_bytes()).unwrap();
    let keys = VerifierList::new(vec![Box::new(theirs)]);
    let (verified, unverified) = read.verify(&keys).unwrap();
    assert_eq!((verified.len(), unverified.len()), (1, 0));
    let (name_and_hash, _) = vkey.rsplit_once('+').unwrap();
    let mut secret = vec![1];
    secret.extend_from_slice(&[9; 32]);
    let private = format!("PRIVATE+KEY+{name_and_hash}+{}", BASE64.encode(secret));
    let theirs = StandardSigner::new(&private).unwrap();
    let mut written = signed_note::Note::new(b"text\n\nmore\n", &[]).unwrap();
    written.add_sigs(&[&theirs]).unwrap();
    assert_eq!(written.to_bytes(), note.to_string().into_bytes());
}

#[test]
fn a_witness_key_takes_no_log_signature() {
    let witness = "witness.example.com/w1";
    let line = Note::parse(SOFA).unwrap().signatures()[1].clone();
    assert_eq!((line.name.as_str(), line.bytes.len()), (witness, 72));
    assert_eq!(Signature::parse(&line.to_string()), Ok(line));
    let log = Pen::new(witness, &[5; 32]);
    let mut key = vec![4];
    key.extend_from_slice(&log.key.public());
    let id = signed_note::key_id(witness, &key);
    let encoded = BASE64.encode(key);
    let key = VerifierKey::parse(&format!("{witness}+{id:08x}+{encoded}")).unwrap();
    assert_eq!(key.kind(), KeyKind::Witness);
    // A signature over the text alone, under the witness key's hash.
    let text = "o\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
    let signed = |time: u64, message: String| {
        let mut bytes = time.to_be_bytes().to_vec();
        bytes.extend_from_slice(&log.write(message.as_bytes()));
        let mut note = log.note(text);
        note.add(Signature {
            name: witness.to_owned(),
            id,
            bytes,
        })
        .unwrap();
        note.verify(&key)
    };
    let message = |time| format!("cosignature/v1\ntime {time}\n{text}");
    assert_eq!(
        signed(1_700_000_000, message(1_700_000_000)),
        Ok(1_700_000_000)
    );
    for (time, message) in [
        (1_700_000_001, message(1_700_000_000)),
        (0, text.to_owned()),
        (u64::MAX, message(u64::MAX)),
    ] {
        assert_eq!(signed(time, message), Err(NoteError::BadSignature));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_read_is_written_back(text in "[ -~\u{e8}\n]{0,80}", lines in proptest::collection::vec(("[a-z/.-]{1,12}", any::<u32>(), proptest::collection::vec(any::<u8>(), 1..90)), 1..5)) {
        let mut note = format!("{text}\n\n");
        for (name, id, bytes) in lines {
            note.push_str(&format!("{}\n", Signature { name, id, bytes }));
        }
        let ours = Note::parse(&note);
        let theirs = signed_note::Note::from_bytes(note.as_bytes());
        prop_assert_eq!(ours.is_ok(), theirs.is_ok());
        if let Ok(read) = ours {
            prop_assert_eq!(read.to_string(), note);
        }
    }
}
