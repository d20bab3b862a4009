//! What the format promises: nothing outside the tensors can change unnoticed, and refusals name the field.

use proptest::prelude::*;

use crate::header::{FIELDS, field_at, reseal};
use crate::manifest::{Name, source};
use crate::sample::{plain, program};
use crate::*;

const TENSORS: &[u8] = b"GGUF and so on: any bytes will do here";

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn manifest() -> Manifest {
    let source = "[[service]]\nname = \"app\"\nimage = \"app\"\n[[service]]\nname = \"ledger\"\nimage = \"vb-services\"\nargs = [\"ledger\"]\n";
    source::parse(source).unwrap()
}

/// A package with everything: services, an added program, added data.
fn package() -> Vec<u8> {
    let elf = program(Machine::X86_64);
    let table = manifest();
    let sections = [
        (name("app"), Kind::Exec, &elf[..]),
        (name("a-note"), Kind::Data, b"hello"),
        (name("vb-services"), Kind::Exec, &elf),
    ];
    pack::to_vec(
        Machine::X86_64,
        &elf,
        TENSORS,
        &sections,
        &table,
        &source::to_json(&table),
    )
    .unwrap()
}

fn key() -> SecretKey {
    SecretKey::from_seed(&[7; 32])
}

fn signed() -> Vec<u8> {
    let mut bytes = package();
    sign(bytes.first_chunk_mut().unwrap(), &key()).unwrap();
    bytes
}

fn refusal(bytes: &[u8]) -> String {
    Package::parse(bytes)
        .map(|_| ())
        .expect_err("parsed")
        .to_string()
}

#[test]
fn whoever_has_another_manifest_reads_of_the_packages_only_the_hash() {
    let bytes = package();
    let (read, unread) = (
        Package::parse(&bytes).unwrap(),
        Package::parse_unread(&bytes).unwrap(),
    );
    assert_eq!(unread.manifest(), None);
    assert_eq!(unread.manifest_bytes(), read.manifest_bytes());
    assert!(unread.sections().eq(read.sections()));
    let at = bytes
        .windows(read.manifest_bytes().len())
        .position(|w| w == read.manifest_bytes())
        .unwrap();
    let mut damaged = bytes.clone();
    damaged[at] ^= 1;
    let refused = Package::parse_unread(&damaged).unwrap_err().to_string();
    assert!(refused.contains("manifest_blake3"), "{refused}");
}

#[test]
fn what_was_packed_is_read_back() {
    let bytes = package();
    let package = Package::parse(&bytes).unwrap();
    let elf = program(Machine::X86_64);
    assert_eq!(package.binary(), elf);
    assert_eq!(package.tensor_bytes(), TENSORS);
    assert_eq!(
        package.tensors(),
        TensorWindow {
            offset: 65_536,
            bytes: TENSORS.len() as u64
        }
    );
    assert_eq!(package.bytes(), bytes.len() as u64);
    assert_eq!(bytes.len() % 4096, 0);
    assert_eq!(package.manifest(), Some(&manifest()));
    let names: Vec<String> = package.sections().map(|s| s.name.to_string()).collect();
    assert_eq!(names, ["vb-services", "a-note", "app"]);
    let note = package.section("a-note").unwrap();
    assert_eq!(
        (package.section_bytes(&note), note.kind, note.machine),
        (&b"hello"[..], Kind::Data, None)
    );
    package.verify_binary().unwrap();
    package.verify_section(&note).unwrap();
    package
        .verification(WindowKind::File)
        .unwrap()
        .finish()
        .unwrap();
    let blocks = package.blocks().unwrap();
    assert_eq!((blocks.count(), blocks.tensor_blocks()), (5, 1..2));
    for index in 0..blocks.count() {
        blocks.verify_block(index).unwrap();
    }
    assert!(blocks.verify_block(5).is_err());
}

#[test]
fn sections_in_another_order_give_the_same_bytes() {
    let elf = program(Machine::X86_64);
    let table = manifest();
    let mut sections = [
        (name("app"), Kind::Exec, &elf[..]),
        (name("b"), Kind::Data, b"2"),
        (name("a"), Kind::Data, b"1"),
    ];
    let first = pack::to_vec(Machine::X86_64, &elf, TENSORS, &sections, &table, "{}").unwrap();
    sections.reverse();
    assert_eq!(
        pack::to_vec(Machine::X86_64, &elf, TENSORS, &sections, &table, "{}").unwrap(),
        first
    );
}

#[test]
fn fields_cover_the_header_without_gaps() {
    let mut next = 0;
    for (name, at, len) in FIELDS {
        assert_eq!(at, next, "{name}");
        next = at + len;
    }
    assert_eq!(
        (next, field_at(next).0, field_at(392).0, field_at(511).0),
        (328, "signature", "reserved", "header_check")
    );
}

#[test]
fn every_flipped_header_bit_is_found_and_its_field_named() {
    for original in [package(), signed()] {
        let mut bytes = original.clone();
        for at in 0..HEADER_BYTES {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                let said = refusal(&bytes);
                let field = field_at(at).0;
                assert!(
                    said.starts_with(&format!("{field} at byte ")),
                    "byte {at} bit {bit}: {said}"
                );
                bytes[at] ^= 1 << bit;
            }
        }
        assert_eq!(bytes, original);
    }
}

#[test]
fn a_flipped_bit_is_shown_with_what_the_field_held() {
    let mut bytes = package();
    bytes[39] ^= 4;
    assert_eq!(
        refusal(&bytes),
        "tensor_size at byte 39: one bit differs: found 34, expected 38"
    );
}

/// Wrong in more than one bit, as a careless writer makes them: the rule that fails is named.
#[test]
fn each_wrong_field_is_refused_by_name_value_and_limit() {
    let cases: [(usize, &[u8], &str); 14] = [
        (
            0,
            b"RTS\\",
            "magic at byte 0: found 0x5254535c, expected 0x52545301",
        ),
        (4, &[0, 0, 0, 6], "version at byte 4: found 6, expected 1"),
        (
            8,
            &[0, 0, 0, 0, 0, 0, 2, 3],
            "binary_offset at byte 8: found 515, expected 512",
        ),
        (
            16,
            &[0xff; 8],
            "binary_size at byte 16: found 18446744073709551615, expected at most",
        ),
        (
            24,
            &[0, 0, 0, 0, 0, 0, 2, 7],
            "tensor_offset at byte 24: found 519, expected 65536",
        ),
        (
            32,
            &[0xff; 8],
            "tensor_size at byte 32: found 18446744073709551615, expected at most",
        ),
        (48, &[0, 2], "ext_version at byte 48: found 2, expected 1"),
        (50, &[0, 3], "machine at byte 50: found 3, expected "),
        (
            52,
            &[1, 0, 0, 1],
            "flags at byte 52: found 16777217, expected 0",
        ),
        (
            56,
            &[0, 0, 0, 0, 0, 0, 3, 1],
            "package_bytes at byte 56: found 769, expected ",
        ),
        (
            112,
            &[0, 0, 0, 0, 0, 0, 0, 99],
            "table_entries at byte 112: found 99, expected at most 33",
        ),
        (
            152,
            &[0, 0, 0, 0, 0, 0, 3, 1],
            "manifest_offset at byte 152: found 769, expected 327968",
        ),
        (
            256,
            &[0, 0, 0, 0, 0, 0, 3, 1],
            "blocks_count at byte 256: found 769, expected 5",
        ),
        (
            400,
            &[3, 3],
            "reserved at byte 400: found 0x3, expected 0x0",
        ),
    ];
    for (at, value, expected) in cases {
        let mut bytes = package();
        bytes[at..at + value.len()].copy_from_slice(value);
        // Once with the check made right again, and once as it stands.
        let mut resealed = bytes.clone();
        reseal(resealed.first_chunk_mut().unwrap());
        assert!(
            refusal(&resealed).starts_with(expected),
            "{}\n not {expected}",
            refusal(&resealed)
        );
        if value.len() > 1 && at != 48 && at != 50 {
            assert!(
                refusal(&bytes).starts_with(expected),
                "{}\n not {expected}",
                refusal(&bytes)
            );
        }
    }
    // Without the header's check this one would ask for a mapping of an exbibyte.
    let mut bytes = package();
    bytes[32..40].copy_from_slice(&(1_u64 << 60).to_be_bytes());
    assert!(
        refusal(&bytes)
            .starts_with("tensor_size at byte 32: found 1152921504606846976, expected at most ")
    );
    let mut bytes = package();
    bytes[80] ^= 0xff;
    assert!(refusal(&bytes).starts_with("header_check at byte 508: found 0x"));
}

#[test]
fn every_flipped_bit_outside_the_tensors_is_found() {
    let original = signed();
    let mut bytes = original.clone();
    let package = Package::parse(&original).unwrap();
    let tensors = package.tensors().offset..package.tensors().offset + package.tensors().bytes;
    let parsed = |at: u64, ext: &header::Extension| {
        at < 512 || (ext.table_offset..ext.json_offset).contains(&at)
    };
    let ext = package.header.ext.clone().unwrap();
    let ranges = package.verification(WindowKind::File).unwrap().ranges();
    for at in 0..bytes.len() as u64 {
        if tensors.contains(&at) {
            continue;
        }
        let place = usize::try_from(at).unwrap();
        // All bits of what has a meaning; of padding, which is compared with zeros alone, a bit of every 11th byte.
        let padding = bytes[place] == 0 && at > 512;
        if padding && at % 11 != 0 {
            continue;
        }
        let bits = if padding { at % 8..at % 8 + 1 } else { 0..8 };
        for bit in bits {
            bytes[place] ^= 1 << bit;
            if parsed(at, &ext) {
                assert!(Package::parse(&bytes).is_err(), "byte {at} bit {bit}");
            } else {
                assert!(
                    ranges.iter().any(|range| range.contains(&at)),
                    "byte {at} is looked at by nobody"
                );
                let package = package.over(&bytes);
                let check = package.verification(WindowKind::File).unwrap().only(at);
                let said = check.finish().expect_err("found").to_string();
                assert!(
                    said.contains(" at byte ") && said.contains("expected "),
                    "{said}"
                );
            }
            bytes[place] ^= 1 << bit;
        }
    }
}

#[test]
fn damage_is_named_by_the_part_that_holds_it() {
    let original = package();
    let parsed = Package::parse(&original).unwrap();
    let ext = parsed.header.ext.clone().unwrap();
    let app = parsed.section("app").unwrap();
    let cases = [
        (600, "elf_blake3 at byte 512: found "),
        (
            2000,
            "binary padding at byte 2000: found 0x10, expected 0x0",
        ),
        (65_536 + 1000, "tensor padding at byte 66536: found 0x10"),
        (app.offset + 3, "section app: blake3 at byte 262144: found "),
        (app.end() + 3, "section app: padding at byte "),
        (ext.json_offset, "json_blake3 at byte "),
        (ext.blocks_offset, "blocks_blake3 at byte "),
        (ext.content_end(), "final padding at byte "),
    ];
    for (at, expected) in cases {
        let mut bytes = original.clone();
        bytes[usize::try_from(at).unwrap()] ^= 0x10;
        let said = Package::parse(&bytes)
            .unwrap()
            .verification(WindowKind::File)
            .unwrap()
            .finish();
        let said = said.expect_err("found").to_string();
        assert!(said.starts_with(expected), "{said}");
    }
    let mut bytes = original.clone();
    bytes[65_540] ^= 1;
    let package = Package::parse(&bytes).unwrap();
    package
        .verification(WindowKind::File)
        .unwrap()
        .finish()
        .unwrap();
    let said = package
        .blocks()
        .unwrap()
        .verify_block(1)
        .expect_err("found")
        .to_string();
    assert!(
        said.starts_with("block 1 at byte 65536 (tensors): found "),
        "{said}"
    );
    for (at, expected) in [
        (ext.table_offset, "table_blake3"),
        (ext.manifest_offset, "manifest_blake3"),
    ] {
        let mut bytes = original.clone();
        bytes[usize::try_from(at).unwrap()] ^= 1;
        assert!(refusal(&bytes).starts_with(expected), "{}", refusal(&bytes));
    }
}

#[test]
fn truncated_at_every_byte_it_is_refused() {
    let bytes = package();
    for len in 0..bytes.len() {
        let said = Package::parse(&bytes[..len])
            .map(|_| ())
            .expect_err("refused")
            .to_string();
        let expected = if len < 512 {
            "header at byte 0: found "
        } else {
            "package_bytes at byte 56: found "
        };
        assert!(
            said.starts_with(expected) && said.contains("expected at "),
            "{len}: {said}"
        );
    }
    let bytes = plain(&[1; 100], TENSORS);
    for len in 0..bytes.len() {
        assert!(Package::parse(&bytes[..len]).is_err(), "{len}");
    }
}

#[test]
fn a_longer_window_is_read_and_a_file_may_end_in_a_few_zeros() {
    for original in [package(), plain(&[1; 1000], TENSORS)] {
        let check = |bytes: &[u8], kind| {
            Package::parse(bytes)
                .unwrap()
                .verification(kind)
                .and_then(Verification::finish)
        };
        let len = original.len();
        let mut bytes = original;
        bytes.resize(len + 65_535, 0);
        assert_eq!(Package::parse(&bytes).unwrap().bytes(), len as u64);
        check(&bytes, WindowKind::File).unwrap();
        bytes.push(0);
        let said = check(&bytes, WindowKind::File)
            .expect_err("too many")
            .to_string();
        assert_eq!(
            said,
            format!("trailing bytes at byte {len}: found 65536, expected at most 65535")
        );
        bytes.truncate(len + 10);
        bytes[len + 9] = 1;
        let said = check(&bytes, WindowKind::File)
            .expect_err("not zero")
            .to_string();
        assert_eq!(
            said,
            format!(
                "trailing bytes at byte {}: found 0x1, expected 0x0",
                len + 9
            )
        );
        check(&bytes, WindowKind::Device).unwrap();
    }
}

#[test]
fn a_plain_package_is_accepted_aligned_and_unaligned() {
    for binary_bytes in [0, 1, 1000, 65_024] {
        let binary = vec![0xab; binary_bytes];
        let bytes = plain(&binary, TENSORS);
        let package = Package::parse(&bytes).unwrap();
        assert!(package.is_plain());
        assert_eq!(
            (package.binary(), package.tensor_bytes()),
            (&binary[..], TENSORS)
        );
        assert_eq!(package.tensors().offset, 512 + binary_bytes as u64);
        assert_eq!(
            (
                package.manifest(),
                package.sections().count(),
                package.digest()
            ),
            (None, 0, None)
        );
        assert_eq!(
            package.verify_signature(&[key().public()]),
            Err(RtsError::Unsigned)
        );
        assert_eq!(package.verify_binary(), Ok(()));
        assert!(
            package
                .blocks()
                .unwrap_err()
                .to_string()
                .contains("plain package")
        );
    }
    let mut bytes = plain(&[1; 10], TENSORS);
    bytes[300] = 1;
    assert_eq!(
        refusal(&bytes),
        "key_id at byte 300: found 0x1, expected 0x0"
    );
    // The seed's own script writes its escape literally, three bytes too many.
    let mut literal = b"RTS\\x01\0\0\0\x01".to_vec();
    literal.resize(600, 0);
    assert_eq!(
        refusal(&literal),
        "magic at byte 0: found 0x5254535c, expected 0x52545301"
    );
}

#[test]
fn a_signature_holds_for_its_key_alone_and_leaves_the_digest() {
    let bytes = signed();
    let package = Package::parse(&bytes).unwrap();
    let stranger = SecretKey::from_seed(&[8; 32]).public();
    assert_eq!(
        package.verify_signature(&[stranger, key().public()]),
        Ok(key().public())
    );
    assert_eq!(package.verify_own_signature(), Ok(key().public()));
    assert_eq!(
        package.verify_signature(&[stranger]),
        Err(RtsError::Foreign {
            found: key().public(),
            trusted: 1
        })
    );
    assert_eq!(
        package.verify_signature(&[]),
        Err(RtsError::Foreign {
            found: key().public(),
            trusted: 0
        })
    );
    let unsigned = self::package();
    let unsigned = Package::parse(&unsigned).unwrap();
    assert_eq!(
        unsigned.verify_signature(&[key().public()]),
        Err(RtsError::Unsigned)
    );
    assert_eq!(
        (unsigned.digest(), unsigned.key_id()),
        (package.digest(), None)
    );
}

/// Whoever can recompute the check still cannot change a signed package.
#[test]
fn no_byte_of_a_signed_header_can_change_under_its_signature() {
    let original = signed();
    for at in 0..508 {
        let mut bytes = original.clone();
        bytes[at] ^= 1;
        reseal(bytes.first_chunk_mut().unwrap());
        if let Ok(package) = Package::parse(&bytes) {
            assert!(
                package.verify_signature(&[key().public()]).is_err(),
                "byte {at}"
            );
        }
    }
}

#[test]
fn trust_is_decided_on_the_header_alone() {
    let (ours, stranger) = (key().public(), SecretKey::from_seed(&[8; 32]).public());
    let header = |bytes: Vec<u8>| *bytes.first_chunk::<HEADER_BYTES>().unwrap();
    let (signed, unsigned) = (header(signed()), header(package()));
    let plain = header(plain(&[1; 600], TENSORS));
    let trust = |keys: &[PublicKey], required| Trust {
        keys: keys.to_vec(),
        required,
    };
    // Whoever trusts nobody takes everything that is whole.
    assert_eq!(trust(&[], false).check(&signed), Ok(Some(ours)));
    assert_eq!(trust(&[], false).check(&unsigned), Ok(None));
    assert_eq!(trust(&[], false).check(&plain), Ok(None));
    // A key binds by itself, and so does the word without one.
    for trust in [trust(&[ours], false), trust(&[], true)] {
        assert_eq!(trust.check(&unsigned), Err(RtsError::Unsigned));
        assert_eq!(trust.check(&plain), Err(RtsError::Unsigned));
    }
    assert_eq!(
        trust(&[stranger, ours], false).check(&signed),
        Ok(Some(ours))
    );
    for (keys, trusted) in [(&[stranger][..], 1), (&[], 0)] {
        let foreign = RtsError::Foreign {
            found: ours,
            trusted,
        };
        assert_eq!(trust(keys, true).check(&signed), Err(foreign));
    }
    // Changed and sealed again: whole by its check, but not what was signed.
    let mut forged = signed;
    forged[100] ^= 1;
    reseal(&mut forged);
    for keys in [&[ours][..], &[]] {
        let said = trust(keys, false).check(&forged);
        assert_eq!(said, Err(RtsError::Forged { key: ours }));
    }
}

#[test]
fn a_package_for_another_processor_is_refused_by_name() {
    let bytes = package();
    let header = bytes.first_chunk().unwrap();
    assert_eq!(check_machine(header, Machine::X86_64), Ok(()));
    let said = check_machine(header, Machine::Aarch64).unwrap_err();
    assert_eq!(
        said.to_string(),
        "machine at byte 50: package is for x86_64, this machine is aarch64"
    );
    let plain = plain(&[1; 600], TENSORS);
    assert_eq!(
        check_machine(plain.first_chunk().unwrap(), Machine::Aarch64),
        Ok(())
    );
}

#[test]
fn a_package_with_a_signature_but_no_key_is_refused() {
    let mut bytes = signed();
    bytes[296..328].fill(0);
    reseal(bytes.first_chunk_mut().unwrap());
    assert!(
        refusal(&bytes).starts_with("signature at byte 3"),
        "{}",
        refusal(&bytes)
    );
}

#[test]
fn keys_survive_their_text_and_nothing_else_is_a_key() {
    let text = key().to_text();
    assert_eq!(
        SecretKey::parse(text.as_bytes()).unwrap().public(),
        key().public()
    );
    let text = key().public().to_text();
    assert_eq!(PublicKey::parse(text.as_bytes()), Ok(key().public()));
    for wrong in [
        "",
        "vb-ed25519-public ",
        &text[1..],
        &text[..text.len() - 2],
        &format!("{text}\n"),
        &text.replace(' ', "  "),
    ] {
        assert!(PublicKey::parse(wrong.as_bytes()).is_err(), "{wrong:?}");
    }
    assert!(
        SecretKey::parse(text.as_bytes()).is_err(),
        "a public key is no secret one"
    );
}

#[test]
fn hostile_tables_are_refused_by_section_and_field() {
    let cases: [(usize, &[u8], &str); 7] = [
        (0, b"A", "table name at byte "),
        (31, b"x", "table name at byte "),
        (33, &[9], "section vb-services: kind at byte "),
        (35, &[183], "section vb-services: machine at byte "),
        (39, &[1], "section vb-services: reserved at byte "),
        (96 + 40, &[0x40], "section a-note: offset at byte "),
        (96 + 48, &[0x40], "section a-note: bytes at byte "),
    ];
    let original = package();
    let ext = Package::parse(&original).unwrap().header.ext.unwrap();
    let table = usize::try_from(ext.table_offset).unwrap();
    for (at, value, expected) in cases {
        let mut bytes = original.clone();
        bytes[table + at..table + at + value.len()].copy_from_slice(value);
        let digest = Digest::of(&bytes[table..table + 3 * 96]);
        bytes[120..152].copy_from_slice(&digest.0);
        reseal(bytes.first_chunk_mut().unwrap());
        assert!(
            refusal(&bytes).starts_with(expected),
            "{}\n not {expected}",
            refusal(&bytes)
        );
    }
}

#[test]
fn a_manifest_that_names_a_missing_file_is_not_packed() {
    let elf = program(Machine::X86_64);
    let pack = |sections: &[(Name, Kind, &[u8])]| {
        pack::to_vec(Machine::X86_64, &elf, TENSORS, sections, &manifest(), "{}")
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    let said = "manifest service app: image: \"app\", expected vector_boot, vb-services or an added executable";
    assert_eq!(pack(&[]), Err(said.to_owned()));
    assert_eq!(
        pack(&[(name("app"), Kind::Data, b"x")]),
        Err(said.to_owned())
    );
    assert_eq!(pack(&[(name("app"), Kind::Exec, &elf)]), Ok(()));
    let twice = pack(&[
        (name("app"), Kind::Exec, &elf),
        (name("app"), Kind::Exec, &elf),
    ]);
    assert!(twice.is_err_and(|said| said.starts_with("section app: name at byte ")));
}

#[test]
fn an_executable_for_another_machine_or_none_is_found() {
    for (elf, expected) in [
        (
            program(Machine::Aarch64),
            "found machine aarch64, expected x86_64",
        ),
        (b"#!/bin/sh\n".to_vec(), "found no ELF header"),
        (
            program(Machine::X86_64)[..100].to_vec(),
            "found a segment or header past the end",
        ),
    ] {
        let table = Manifest::empty(name("m"));
        let bytes = pack::to_vec(Machine::X86_64, &elf, TENSORS, &[], &table, "{}").unwrap();
        let package = Package::parse(&bytes).unwrap();
        let said = package
            .verification(WindowKind::File)
            .unwrap()
            .finish()
            .expect_err("found")
            .to_string();
        assert_eq!(
            said.strip_prefix("executable at byte 512: ")
                .map(|s| s.starts_with(expected)),
            Some(true),
            "{said}"
        );
    }
}

#[test]
fn programs_are_told_apart_by_their_linkage() {
    use elf::{ElfProblem, Linkage, inspect};
    let ours = program(Machine::X86_64);
    assert_eq!(inspect(&ours).map(|elf| elf.linkage), Ok(Linkage::Static));
    for len in 0..ours.len() {
        assert!(inspect(&ours[..len]).is_err(), "{len}");
    }
    let itself = inspect(&std::fs::read(std::env::current_exe().unwrap()).unwrap()).unwrap();
    let expected = if cfg!(target_feature = "crt-static") {
        Ok(())
    } else {
        Err(ElfProblem::Interpreter)
    };
    assert_eq!(itself.check_static(Machine::NATIVE), expected);
}

#[test]
fn progress_counts_every_byte_once_whatever_the_step() {
    let bytes = package();
    for step in [1_usize << 9, 4096, 100_000, usize::MAX] {
        let package = Package::parse(&bytes).unwrap();
        let mut check = package.verification(WindowKind::File).unwrap();
        let mut last = 0;
        loop {
            let progress = check.step(step).unwrap();
            assert!(progress.done > last && progress.done - last <= step as u64);
            last = progress.done;
            if progress.is_finished() {
                break;
            }
        }
        // All but header, table, manifest and tensors.
        let unhashed = 512 + 3 * 96 + package.manifest_bytes().len() + TENSORS.len();
        assert_eq!(last, (bytes.len() - unhashed) as u64);
    }
}

/// A splitmix generator: fixed seed, no dependency, the same bytes on every machine.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn the_fuzz_body_holds_for_a_fixed_seed() {
    let elf = program(Machine::X86_64);
    let small = pack::to_vec(
        Machine::X86_64,
        &elf,
        TENSORS,
        &[],
        &Manifest::empty(name("m")),
        "{}",
    )
    .unwrap();
    let seeds = [
        small,
        plain(&elf, TENSORS),
        elf,
        manifest().encode().unwrap(),
        key().public().to_text().into_bytes(),
        include_bytes!("../default.toml").to_vec(),
    ];
    let mut state = 1;
    for round in 0..18_000_usize {
        let mut data = seeds[round % seeds.len()].clone();
        for _ in 0..1 + random(&mut state) % 4 {
            // Most damage goes where the meaning is: the header, and the end.
            let reach = if random(&mut state).is_multiple_of(4) {
                data.len()
            } else {
                data.len().min(600)
            };
            let at = usize::try_from(random(&mut state)).unwrap() % reach;
            data[at] = u8::try_from(random(&mut state) % 256).unwrap();
        }
        if random(&mut state).is_multiple_of(8) {
            data.truncate(usize::try_from(random(&mut state)).unwrap() % data.len());
        }
        fuzz::fuzz_body(&data);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn any_sizes_round_trip(
        binary in proptest::collection::vec(any::<u8>(), 0..70_000),
        tensors in proptest::collection::vec(any::<u8>(), 0..140_000),
        files in proptest::collection::btree_map("[a-z][a-z0-9-]{0,8}", proptest::collection::vec(any::<u8>(), 0..70_000), 0..5),
        sign_it in any::<bool>(),
    ) {
        let sections: Vec<_> = files.iter().map(|(text, bytes)| (name(text), Kind::Data, &bytes[..])).collect();
        let table = Manifest::empty(name("m"));
        let mut bytes = pack::to_vec(Machine::Aarch64, &binary, &tensors, &sections, &table, "{}").unwrap();
        if sign_it {
            sign(bytes.first_chunk_mut().unwrap(), &key()).unwrap();
        }
        let package = Package::parse(&bytes).unwrap();
        prop_assert_eq!(package.bytes(), bytes.len() as u64);
        prop_assert_eq!(package.binary(), &binary[..]);
        prop_assert_eq!(package.tensor_bytes(), &tensors[..]);
        prop_assert_eq!(package.sections().count(), files.len());
        for (text, content) in &files {
            let section = package.section(text).unwrap();
            prop_assert_eq!(section.offset % BLOCK_BYTES, 0);
            prop_assert_eq!(package.section_bytes(&section), &content[..]);
            package.verify_section(&section).unwrap();
        }
        prop_assert_eq!(package.key_id().is_some(), sign_it);
        let blocks = package.blocks().unwrap();
        for index in 0..blocks.count() {
            blocks.verify_block(index).unwrap();
        }
    }
}

/// The bytes of the format, pinned: a change here is a new version of the format.
#[test]
fn golden_files_pin_the_bytes() {
    let table = source::parse(include_str!("../../../../tests/golden/rts/manifest.toml")).unwrap();
    let compiled = table.encode().unwrap();
    let elf = program(Machine::X86_64);
    let sections = [
        (name("app"), Kind::Exec, &elf[..]),
        (name("notes"), Kind::Data, b"notes"),
        (name("vb-services"), Kind::Exec, &elf),
    ];
    let mut package =
        pack::to_vec(Machine::X86_64, &elf, TENSORS, &sections, &table, "{}").unwrap();
    let unsigned = package[..512].to_vec();
    sign(package.first_chunk_mut().unwrap(), &key()).unwrap();
    let plain = plain(&elf, TENSORS);
    let golden: [(&str, &[u8], &[u8]); 4] = [
        (
            "manifest.bin",
            &compiled,
            include_bytes!("../../../../tests/golden/rts/manifest.bin"),
        ),
        (
            "unsigned.header",
            &unsigned,
            include_bytes!("../../../../tests/golden/rts/unsigned.header"),
        ),
        (
            "signed.header",
            &package[..512],
            include_bytes!("../../../../tests/golden/rts/signed.header"),
        ),
        (
            "plain.header",
            &plain[..512],
            include_bytes!("../../../../tests/golden/rts/plain.header"),
        ),
    ];
    for (file, bytes, pinned) in golden {
        assert!(bytes == pinned, "{file}: {bytes:02x?}");
    }
    assert_eq!(Manifest::decode(&compiled), Ok(table));
    Package::parse(&package)
        .unwrap()
        .verify_signature(&[key().public()])
        .unwrap();
}
