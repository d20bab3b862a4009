//! What the index says of files that it accepts, and what it costs.

mod support;

use gguf::writer::Writer;
use gguf::{GgmlType, Index, KEYS_MAX, TENSORS_MAX, Value};
use proptest::prelude::*;
use support::{Random, Raw};

#[test]
fn a_small_file_reads_as_it_was_written() {
    let file = support::small();
    let index = Index::parse(&file).unwrap();
    assert_eq!(
        (
            index.version(),
            index.alignment(),
            index.key_count(),
            index.tensor_count()
        ),
        (3, 64, 17, 4)
    );
    assert_eq!(
        index.get("general.architecture").unwrap().as_str(),
        Some("llama")
    );
    assert_eq!(
        index.get("unicode").unwrap().as_str(),
        Some("\u{e9}\u{4e16}")
    );
    assert_eq!(
        index.get("llama.rope.freq_base"),
        Some(Value::F32(10_000.5))
    );
    assert_eq!(index.get("i8"), Some(Value::I8(-2)));
    assert_eq!(index.get("u8"), Some(Value::U8(254)));
    assert_eq!(index.get("i16"), Some(Value::I16(-300)));
    assert_eq!(index.get("u16"), Some(Value::U16(60_000)));
    assert_eq!(index.get("i32"), Some(Value::I32(-70_000)));
    assert_eq!(index.get("u64"), Some(Value::U64(u64::MAX)));
    assert_eq!(index.get("i64"), Some(Value::I64(i64::MIN)));
    assert_eq!(index.get("f64").unwrap().as_f64(), Some(0.1));
    assert_eq!(index.get("yes"), Some(Value::Bool(true)));
    assert_eq!(index.get("absent"), None);
    let tokens = index.get("tokens").unwrap();
    let tokens: Vec<_> = tokens
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(tokens, ["<s>", "", "hello"]);
    let nested = index.get("nested").unwrap();
    let inner: Vec<u64> = nested
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_array().unwrap().len())
        .collect();
    assert_eq!(inner, [2, 0]);
    let keys: Vec<&str> = index.metadata().map(|(key, _)| key).collect();
    assert_eq!(
        (keys[0], keys[1], keys[16]),
        ("general.alignment", "general.architecture", "nested")
    );
}

#[test]
fn tensors_read_as_they_were_written() {
    let file = support::small();
    let index = Index::parse(&file).unwrap();
    let names: Vec<&str> = index.tensors().map(|tensor| tensor.name).collect();
    assert_eq!(names, ["norm", "blk.0.w", "blk.1.w", "h"]);
    let tensor = index.tensor("blk.1.w").unwrap();
    assert_eq!(
        (
            tensor.ggml_type,
            tensor.shape(),
            tensor.bytes,
            tensor.values()
        ),
        (GgmlType::Q6_K, &[256, 1, 2][..], 420, 512)
    );
    assert_eq!(index.data(&tensor), Some(&[9u8; 420][..]));
    assert_eq!(tensor.offset % 64, 0);
    assert_eq!(index.tensor("h").unwrap().shape(), [1, 1, 1, 3]);
    assert_eq!(index.tensor("absent"), None);
    assert_eq!(index.tensor_at(4), None);
}

#[test]
fn version_two_has_the_same_layout() {
    let mut file = support::small();
    file[4] = 2;
    assert_eq!(Index::parse(&file).unwrap().version(), 2);
    support_fuzz(&file);
}

fn support_fuzz(file: &[u8]) {
    gguf::fuzz::fuzz_body(file);
}

#[test]
fn every_truncation_is_refused_until_the_last_tensor_is_whole() {
    let file = support::small();
    let index = Index::parse(&file).unwrap();
    let end = index
        .tensors()
        .map(|tensor| tensor.offset + tensor.bytes)
        .max()
        .unwrap();
    for len in 0..file.len() {
        support_fuzz(&file[..len]);
        let accepted = Index::parse(&file[..len]).is_ok();
        assert_eq!(accepted, len as u64 >= end, "cut to {len} bytes");
    }
}

#[test]
fn every_flipped_bit_of_the_header_is_survived() {
    let file = support::small();
    let header = Index::parse(&file).unwrap().data_offset() as usize;
    for at in 0..header {
        for bit in 0..8 {
            let mut flipped = file.clone();
            flipped[at] ^= 1 << bit;
            support_fuzz(&flipped);
        }
    }
}

#[test]
fn fuzz_body_holds_on_random_changes() {
    let dictionary = dictionary();
    let seeds = [
        support::small(),
        support::llama_like()[..6000].to_vec(),
        Raw::header(3, 1, 1).key("a", 9).u32(9).u64(1).0,
    ];
    let mut random = Random::new(0x0067_6775_6600);
    for round in 0..6000 {
        let mut file = seeds[round % seeds.len()].clone();
        for _ in 0..=random.below(4) {
            change(&mut file, &dictionary, &mut random);
        }
        support_fuzz(&file);
    }
}

/// One change as a fuzzer makes them: a byte, a word of the dictionary, a cut, a repeated piece.
fn change(file: &mut Vec<u8>, dictionary: &[Vec<u8>], random: &mut Random) {
    // Most of what matters lies at the front.
    let span = if random.below(2) == 0 {
        200
    } else {
        file.len()
    };
    let at = random.below(span.clamp(1, file.len().max(1)));
    match random.below(4) {
        0 => {
            if let Some(byte) = file.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
        1 => {
            let word = &dictionary[random.below(dictionary.len())];
            let end = (at + word.len()).min(file.len());
            file.splice(at..end, word.iter().copied());
        }
        2 => file.truncate(at),
        _ => {
            let end = (at + random.below(64)).min(file.len());
            let piece = file[at..end].to_vec();
            file.splice(at..at, piece);
        }
    }
}

/// The fuzzer's dictionary: `"text with \xNN"` a line.
fn dictionary() -> Vec<Vec<u8>> {
    let text = include_str!("../../../../tests/fuzz/gguf.dict");
    let words: Vec<Vec<u8>> = text
        .lines()
        .filter_map(|line| line.split_once('"')?.1.strip_suffix('"'))
        .map(|word| {
            let mut bytes = Vec::new();
            let mut rest = word.as_bytes();
            while let Some((first, more)) = rest.split_first() {
                if let [b'\\', b'x', high, low, after @ ..] = rest {
                    let digits = [*high, *low];
                    bytes.push(
                        u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap(),
                    );
                    rest = after;
                } else {
                    bytes.push(*first);
                    rest = more;
                }
            }
            bytes
        })
        .collect();
    assert!(words.len() > 20);
    words
}

/// The most keys and tensors that a file may have, each name long and alike in front.
fn crowded(keys: u64, tensors: u64) -> Vec<u8> {
    let header = Raw::header(3, tensors, keys);
    let keyed = (0..keys).fold(header, |raw, n| {
        raw.key(&format!("a.rather.long.key.that.all.share.{n:08}"), 0)
            .bytes(&[1])
    });
    let rows = (0..tensors).fold(keyed, |raw, n| {
        raw.row(
            format!("a.rather.long.name.that.all.tensors.of.it.share.{n:08}").as_bytes(),
            &[1],
            0,
            32 * n,
        )
    });
    rows.data(32 * tensors as usize).0
}

#[test]
fn heap_stays_within_its_promise_at_the_limits() {
    let file = crowded(KEYS_MAX, TENSORS_MAX);
    let heap = allocation_counter::measure(|| {
        let index = Index::parse(&file).unwrap();
        assert_eq!(
            (index.key_count() as u64, index.tensor_count() as u64),
            (KEYS_MAX, TENSORS_MAX)
        );
        assert!(
            index
                .tensor("a.rather.long.name.that.all.tensors.of.it.share.00065535")
                .is_some()
        );
    });
    let promise = 64 * TENSORS_MAX + 16 * KEYS_MAX;
    assert!(
        heap.bytes_max <= promise,
        "{} of {promise} bytes",
        heap.bytes_max
    );
    assert!(heap.count_total <= 4, "{} allocations", heap.count_total);
}

#[test]
fn heap_of_a_refusal_does_not_follow_what_the_file_claims() {
    for file in [
        Raw::header(3, 65_536, 0),
        Raw::header(3, 0, 65_536),
        Raw::header(3, u64::MAX, u64::MAX),
    ] {
        let heap = allocation_counter::measure(|| assert!(Index::parse(&file.0).is_err()));
        assert!(heap.bytes_max < 4096, "{} bytes", heap.bytes_max);
    }
}

#[test]
fn models_open_in_a_mebibyte_however_large_they_are() {
    for (name, file) in support::models() {
        let heap = allocation_counter::measure(|| {
            let index = Index::parse(&file).unwrap();
            assert_eq!(index.tensor_count(), 272, "{name}");
        });
        assert!(heap.bytes_max < 1 << 20, "{name}: {} bytes", heap.bytes_max);
        support_fuzz(&file);
    }
}

#[test]
fn lookups_and_walks_allocate_nothing() {
    let file = support::llama_like();
    let index = Index::parse(&file).unwrap();
    let heap = allocation_counter::measure(|| {
        let tokens = index.get("tokenizer.ggml.tokens").unwrap();
        assert_eq!(tokens.as_array().unwrap().iter().count(), 2000);
        assert!(
            index
                .tensors()
                .all(|tensor| index.tensor(tensor.name) == Some(tensor))
        );
    });
    assert_eq!(heap.count_total, 0);
}

#[test]
fn the_writer_refuses_what_the_index_refuses() {
    let twice = Writer::new().u32("a", 1).u32("a", 2).finish().unwrap_err();
    assert_eq!(twice.field, "key");
    let short = Writer::new()
        .tensor("t", GgmlType::F32, &[8], vec![0; 28])
        .finish()
        .unwrap_err();
    assert!(
        short.field == "tensor data" || short.field == "tensor span",
        "{short}"
    );
    let odd = Writer::new().alignment(12).finish().unwrap_err();
    assert_eq!(odd.field, "general.alignment");
}

/// A tensor's name, type, rows and blocks a row.
fn tensors() -> impl Strategy<Value = Vec<(GgmlType, u64, u64)>> {
    let one = (0..GgmlType::ALL.len(), 1u64..4, 1u64..3);
    proptest::collection::vec(
        one.prop_map(|(t, rows, blocks)| (GgmlType::ALL[t], rows, blocks)),
        0..12,
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        tensors in tensors(),
        keys in proptest::collection::btree_map("[a-z._]{1,20}", any::<u32>(), 0..10),
        alignment in 3u32..10,
    ) {
        let keys: Vec<_> = keys.into_iter().filter(|(key, _)| key != "general.alignment").collect();
        let mut writer = Writer::new().alignment(1 << alignment);
        for (key, value) in &keys {
            writer = writer.u32(key, *value);
        }
        for (n, (ggml_type, rows, blocks)) in tensors.iter().enumerate() {
            let data = vec![n as u8; (rows * blocks * ggml_type.block_bytes()) as usize];
            writer = writer.tensor(&format!("t{n}"), *ggml_type, &[blocks * ggml_type.block_values(), *rows], data);
        }
        let file = writer.finish().unwrap();
        let index = Index::parse(&file).unwrap();
        prop_assert_eq!(index.alignment(), 1 << alignment);
        for (key, value) in &keys {
            prop_assert_eq!(index.get(key), Some(Value::U32(*value)));
        }
        prop_assert_eq!(index.tensor_count(), tensors.len());
        for (n, (ggml_type, rows, blocks)) in tensors.iter().enumerate() {
            let tensor = index.tensor(&format!("t{n}")).unwrap();
            prop_assert_eq!(tensor.ggml_type, *ggml_type);
            prop_assert_eq!(tensor.shape(), &[blocks * ggml_type.block_values(), *rows][..]);
            prop_assert!(index.data(&tensor).unwrap().iter().all(|byte| *byte == n as u8));
            prop_assert_eq!(tensor.bytes, rows * blocks * ggml_type.block_bytes());
        }
        support_fuzz(&file);
    }

    #[test]
    fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        support_fuzz(&bytes);
        let header = Raw::header(3, u64::from(bytes.first().copied().unwrap_or_default() % 4), 2).0;
        bytes.splice(..0, header);
        support_fuzz(&bytes);
    }
}
