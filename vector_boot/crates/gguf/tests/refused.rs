//! What the index refuses, one rule after the other, and that the message says what and where.

mod support;

use gguf::{GgufError, Index};
use support::Raw;

/// Ids of the format's value types.
const U8: u32 = 0;
const U32: u32 = 4;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const U64: u32 = 10;

fn refusal(file: &Raw) -> GgufError {
    let error = Index::parse(&file.0).map(drop).expect_err("a broken rule");
    let line = error.to_string();
    assert!(
        line.is_ascii() && !line.contains('\n') && line.len() < 1000,
        "{line:?}"
    );
    assert!(
        line.contains(error.field) && line.contains(&format!("at byte {}", error.offset)),
        "{line}"
    );
    error
}

/// Asserts field, byte offset, and a part of the value or the limit.
#[track_caller]
fn assert_refused(file: &Raw, field: &str, offset: u64, part: &str) {
    let error = refusal(file);
    assert_eq!((error.field, error.offset), (field, offset), "{error}");
    assert!(error.to_string().contains(part), "{error} lacks {part}");
}

#[track_caller]
fn assert_accepted(file: &Raw) {
    if let Err(error) = Index::parse(&file.0) {
        panic!("refused: {error}");
    }
}

/// One u32 tensor `t` of 8 F32 values whose row is made by `row`.
fn with_row(row: impl FnOnce(Raw) -> Raw) -> Raw {
    row(Raw::header(3, 1, 0)).data(4096)
}

#[test]
fn magic() {
    assert_refused(&Raw(Vec::new()), "magic", 0, "0 bytes are left");
    assert_refused(&Raw(b"GGU".to_vec()), "magic", 0, "needs 4 bytes");
    assert_refused(&Raw(b"GGML\x01\x00\x00\x00".to_vec()), "magic", 0, "GGML");
    assert_refused(&Raw(b"FUGG".to_vec()), "magic", 0, "FUGG");
    assert_refused(&Raw(b"\n\x1b\xff\0".to_vec()), "magic", 0, "\\n\\u{1b}");
}

#[test]
fn versions_are_refused_by_name() {
    let with = |version: u32| Raw::header(version, 0, 0);
    assert_accepted(&with(2));
    assert_accepted(&with(3));
    assert_refused(&with(1), "version", 4, "v1 is not supported");
    assert_refused(&with(3u32.swap_bytes()), "version", 4, "big-endian");
    assert_refused(&with(2u32.swap_bytes()), "version", 4, "big-endian");
    assert_refused(&with(1u32.swap_bytes()), "version", 4, "big-endian");
    assert_refused(&with(0), "version", 4, "2 and 3");
    assert_refused(&with(4), "version", 4, "2 and 3");
    assert_refused(&with(u32::MAX), "version", 4, "2 and 3");
    // v1 has counts of 32 bits: it is named all the same when the file ends behind them.
    assert_refused(
        &Raw(b"GGUF\x01\0\0\0\0\0\0\0\0\0\0\0".to_vec()),
        "version",
        4,
        "v1",
    );
}

#[test]
fn counts_are_bounded_before_anything_is_reserved() {
    for count in [u64::MAX, 1 << 63, 1 << 40, 65_537] {
        assert_refused(
            &Raw::header(3, count, 0),
            "tensor count",
            8,
            "at most 65536",
        );
        assert_refused(&Raw::header(3, 0, count), "key count", 16, "at most 65536");
    }
    assert_refused(&Raw::header(3, 1, 0), "tensor count", 8, "hold 0");
    assert_refused(&Raw::header(3, 0, 1), "key count", 16, "hold 0");
    // 13 bytes a key, 24 a tensor.
    assert_refused(
        &Raw::header(3, 0, 3).bytes(&[0; 38]),
        "key count",
        16,
        "hold 2",
    );
    assert_refused(
        &Raw::header(3, 2, 1).bytes(&[0; 60]),
        "tensor count",
        8,
        "hold 1",
    );
}

#[test]
fn keys() {
    let one = |key: &[u8]| Raw::header(3, 0, 1).text(key).u32(U32).u32(1);
    assert_accepted(&one(b"k"));
    assert_accepted(&one(&[b'k'; 65_535]));
    assert_refused(&one(b""), "key length", 24, "1 to 65535");
    assert_refused(&one(&[b'k'; 65_536]), "key length", 24, "65536");
    assert_refused(&one(b"ab\xc3\xa9"), "key", 34, "ASCII");
    assert_refused(
        &Raw::header(3, 0, 1).u64(u64::MAX).bytes(&[0; 20]),
        "key length",
        24,
        "18446744073709551615",
    );
    assert_refused(
        &Raw::header(3, 0, 1).u64(100).bytes(&[b'a'; 20]),
        "key",
        32,
        "needs 100 bytes",
    );
    let twice = Raw::header(3, 0, 3)
        .key("a", U8)
        .bytes(&[1])
        .key("b", U8)
        .bytes(&[1]);
    let at = twice.at();
    assert_refused(&twice.key("a", U8).bytes(&[2]), "key", at, "appears twice");
}

#[test]
fn value_types_and_lengths() {
    let one = |value_type: u32| Raw::header(3, 0, 1).key("k", value_type);
    assert_refused(&one(13).u64(0), "value type", 33, "0 to 12");
    assert_refused(&one(u32::MAX).u64(0), "value type", 33, "4294967295");
    assert_refused(&one(U64).u32(0), "value", 37, "needs 8 bytes");
    assert_refused(
        &one(STRING).u64(u64::MAX),
        "string",
        45,
        "needs 18446744073709551615",
    );
    assert_refused(&one(STRING).u64(1 << 63), "string", 45, "0 bytes are left");
    assert_refused(&one(STRING).u32(1), "string length", 37, "needs 8 bytes");
    // The message names the key.
    assert_eq!(refusal(&one(13).u64(0)).subject, "k");
}

#[test]
fn any_byte_is_a_bool_as_in_ggml() {
    let file = Raw::header(3, 0, 1).key("b", BOOL).bytes(&[2]);
    let index = Index::parse(&file.0).unwrap();
    assert_eq!(index.get("b"), Some(gguf::Value::Bool(true)));
}

#[test]
fn strings_need_not_be_utf8() {
    let file = Raw::header(3, 0, 1).key("s", STRING).text(b"\xff\0");
    let index = Index::parse(&file.0).unwrap();
    assert_eq!(
        index.get("s"),
        Some(gguf::Value::String(gguf::Text(b"\xff\0")))
    );
}

#[test]
fn array_lengths_are_bounded_by_the_bytes_left() {
    let array = |element: u32, len: u64| {
        Raw::header(3, 0, 1)
            .key("a", ARRAY)
            .u32(element)
            .u64(len)
            .bytes(&[0; 24])
    };
    for element in 0..13 {
        assert_refused(
            &array(element, u64::MAX),
            "array length",
            41,
            "18446744073709551615",
        );
        // 2^61 elements of 8 bytes overflow to zero bytes.
        assert_refused(&array(element, 1 << 61), "array length", 41, "hold");
        assert_accepted(&array(element, 0));
    }
    assert_refused(&array(STRING, 4), "array length", 41, "hold 3");
    assert_accepted(&array(STRING, 3));
    assert_refused(&array(ARRAY, 3), "array length", 41, "hold 2");
    assert_refused(&array(13, 1), "value type", 37, "13");
    // A string in the array that runs over the end.
    let long = Raw::header(3, 0, 1)
        .key("a", ARRAY)
        .u32(STRING)
        .u64(2)
        .text(b"ok")
        .u64(9)
        .bytes(&[0; 8]);
    assert_refused(&long, "string", 67, "needs 9 bytes");
}

/// Arrays inside each other, one element a level, `depth` levels with the innermost.
fn nested(depth: usize) -> Raw {
    let open = (1..depth).fold(Raw::header(3, 0, 1).key("a", ARRAY), |raw, _| {
        raw.u32(ARRAY).u64(1)
    });
    open.u32(U8).u64(1).bytes(&[7])
}

#[test]
fn arrays_nest_at_most_eight_deep() {
    for depth in 1..=8 {
        assert_accepted(&nested(depth));
    }
    assert_refused(&nested(9), "array nesting", 37 + 8 * 12, "9; at most 8");
    // Deep enough to end any recursion.
    assert_refused(&nested(200_000), "array nesting", 37 + 8 * 12, "at most 8");
}

#[test]
fn siblings_of_nested_arrays_are_walked() {
    // [[[], [1]], []] then a second key: the walk must end exactly there.
    let file = Raw::header(3, 0, 2)
        .key("a", ARRAY)
        .u32(ARRAY)
        .u64(2)
        .u32(ARRAY)
        .u64(2)
        .u32(U8)
        .u64(0)
        .u32(U8)
        .u64(1)
        .bytes(&[1])
        .u32(ARRAY)
        .u64(0)
        .key("b", U8)
        .bytes(&[5]);
    let index = Index::parse(&file.0).unwrap();
    assert_eq!(index.get("b"), Some(gguf::Value::U8(5)));
    let outer = index.get("a").unwrap();
    let lengths: Vec<u64> = outer
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_array().unwrap().len())
        .collect();
    assert_eq!(lengths, [2, 0]);
}

#[test]
fn alignment_is_a_u32_power_of_two() {
    let with = |alignment: u32| {
        Raw::header(3, 0, 1)
            .key("general.alignment", U32)
            .u32(alignment)
    };
    for alignment in [8, 16, 32, 4096, 65_536] {
        assert_accepted(&with(alignment));
        assert_eq!(
            Index::parse(&with(alignment).0).unwrap().alignment(),
            alignment
        );
    }
    for alignment in [0, 1, 2, 4, 7, 24, 33, 131_072, 1 << 31, u32::MAX] {
        assert_refused(&with(alignment), "general.alignment", 53, "from 8 to 65536");
    }
    let key = || Raw::header(3, 0, 1);
    assert_refused(
        &key().key("general.alignment", U64).u64(32),
        "general.alignment",
        49,
        "type u64",
    );
    assert_refused(
        &key().key("general.alignment", 5).u32(32),
        "general.alignment",
        49,
        "type i32",
    );
    assert_refused(
        &key().key("general.alignment", STRING).text(b"32"),
        "general.alignment",
        49,
        "type string",
    );
    assert_refused(
        &key()
            .key("general.alignment", ARRAY)
            .u32(U32)
            .u64(1)
            .u32(32),
        "general.alignment",
        49,
        "type array",
    );
}

#[test]
fn tensor_names() {
    let named = |name: &[u8]| with_row(|raw| raw.row(name, &[8], 0, 0));
    assert_accepted(&named(b""));
    assert_accepted(&named(&[b'n'; 64]));
    assert_accepted(&named("\u{4e16}".as_bytes()));
    assert_refused(&named(&[b'n'; 65]), "tensor name length", 24, "at most 64");
    assert_refused(&named(b"a\0b"), "tensor name", 33, "NUL");
    assert_refused(&named(b"ab\xff"), "tensor name", 34, "UTF-8");
    assert_refused(&named(b"\xe4\xb8"), "tensor name", 32, "UTF-8");
    let huge = Raw::header(3, 1, 0).u64(u64::MAX).bytes(&[0; 100]);
    assert_refused(&huge, "tensor name length", 24, "18446744073709551615");
    let twice = Raw::header(3, 3, 0)
        .row(b"a", &[8], 0, 0)
        .row(b"b", &[8], 0, 32);
    let at = twice.at();
    assert_refused(
        &twice.row(b"a", &[8], 0, 64).data(96),
        "tensor name",
        at,
        "appears twice",
    );
}

#[test]
fn dimensions() {
    let shaped = |shape: &[u64]| with_row(|raw| raw.row(b"t", shape, 0, 0));
    assert_accepted(&shaped(&[8]));
    assert_accepted(&shaped(&[2, 2, 2, 2]));
    assert_refused(&shaped(&[]), "n_dims", 33, "1 to 4");
    assert_refused(&shaped(&[1; 5]), "n_dims", 33, "1 to 4");
    assert_refused(
        &with_row(|raw| raw.text(b"t").u32(u32::MAX)),
        "n_dims",
        33,
        "4294967295",
    );
    assert_refused(&shaped(&[0]), "dimension", 37, "at least 1");
    assert_refused(&shaped(&[8, 0]), "dimension", 45, "at least 1");
    assert_refused(&shaped(&[u64::MAX]), "dimension", 37, "2^63");
    assert_refused(&shaped(&[1 << 63]), "dimension", 37, "2^63");
    assert_refused(&shaped(&[1 << 32, 1 << 32]), "dimension", 45, "2^63");
    // Would wrap to 8 values.
    assert_refused(&shaped(&[8, (1 << 61) + 1, 8]), "dimension", 45, "2^63");
    // Fits in values, not in bytes.
    assert_refused(&shaped(&[1 << 62]), "tensor size", 37, "2^64");
    assert_eq!(refusal(&shaped(&[0])).subject, "t");
}

#[test]
fn unknown_and_withdrawn_types() {
    let typed = |id: u32| with_row(|raw| raw.row(b"t", &[256], id, 0));
    for id in [43, 44, 100, 255, 256, 65_536, u32::MAX] {
        assert_refused(&typed(id), "tensor type", 45, "not a type of ggml");
    }
    for id in [4, 5, 31, 32, 33, 36, 37, 38] {
        assert_refused(&typed(id), "tensor type", 45, "withdrawn");
    }
    for id in (0..43).filter(|id| ![4, 5, 31, 32, 33, 36, 37, 38].contains(id)) {
        assert_accepted(&typed(id));
    }
}

#[test]
fn row_lengths_are_whole_blocks() {
    for ggml_type in gguf::GgmlType::ALL {
        let block = ggml_type.block_values();
        assert_accepted(&with_row(|raw| {
            raw.row(b"t", &[block, 3], ggml_type.id(), 0)
        }));
        if block > 1 {
            // As many values as two blocks, in rows that are none.
            let rows = with_row(|raw| raw.row(b"t", &[block / 2, 4], ggml_type.id(), 0));
            assert_refused(&rows, "row length", 37, &format!("a multiple of {block}"));
        }
    }
}

#[test]
fn offsets_are_aligned() {
    let at = |offset: u64| with_row(|raw| raw.row(b"t", &[8], 0, offset));
    assert_accepted(&at(32));
    for offset in [1, 16, 31, 33] {
        assert_refused(&at(offset), "tensor offset", 49, "alignment 32");
    }
    assert_refused(&at(u64::MAX), "tensor offset", 49, "alignment 32");
    // Alignment 64 from the metadata.
    let file = Raw::header(3, 1, 1)
        .key("general.alignment", U32)
        .u32(64)
        .row(b"t", &[8], 0, 32)
        .data(256);
    assert_refused(&file, "tensor offset", 57 + 25, "alignment 64");
}

#[test]
fn spans_lie_inside_the_file() {
    // Data begins at byte 64 of the file.
    let file =
        |offset: u64, bytes: usize| Raw::header(3, 1, 0).row(b"t", &[8], 0, offset).data(bytes);
    assert_accepted(&file(0, 32));
    assert_accepted(&file(64, 96));
    assert_refused(&file(0, 31), "tensor span", 49, "the file ends at byte 95");
    assert_refused(&file(0, 0), "tensor span", 49, "32 bytes from byte 64");
    assert_refused(&file(64, 95), "tensor span", 49, "ends");
    assert_refused(&file(u64::MAX - 31, 64), "tensor span", 49, "ends");
    // Bytes behind the last tensor are fine.
    assert_accepted(&file(0, 5000));
    // No tensors: no data need be there.
    assert_accepted(&Raw::header(3, 0, 0));
    assert_accepted(&Raw::header(3, 0, 0).bytes(&[1, 2, 3]));
}

#[test]
fn spans_share_no_byte() {
    let two = |a: u64, b: u64| {
        Raw::header(3, 2, 0)
            .row(b"a", &[16], 0, a)
            .row(b"b", &[16], 0, b)
            .data(256)
    };
    assert_accepted(&two(0, 64));
    assert_accepted(&two(64, 0));
    assert_accepted(&two(128, 0));
    let second = 24 + 33 + 25;
    assert_refused(
        &two(0, 0),
        "tensor span",
        second,
        "shares bytes with tensor a",
    );
    assert_refused(
        &two(0, 32),
        "tensor span",
        second,
        "shares bytes with tensor a",
    );
    assert_refused(
        &two(32, 0),
        "tensor span",
        24 + 25,
        "shares bytes with tensor b",
    );
    // One span inside a longer one that began before its neighbour.
    let three = Raw::header(3, 3, 0)
        .row(b"long", &[64], 0, 0)
        .row(b"inside", &[8], 0, 32)
        .row(b"behind", &[8], 0, 256)
        .data(288);
    assert_eq!(refusal(&three).subject, "inside");
}

#[test]
fn messages_stay_one_short_line_whatever_the_names_say() {
    let key = format!("k\n\x1b[31m{}", "x".repeat(60_000));
    let error = refusal(&Raw::header(3, 0, 1).key(&key, 99).u64(0));
    assert!(
        error.subject.starts_with("k\\n\\u{1b}") && error.subject.ends_with("..."),
        "{}",
        error.subject
    );
    let name = "\u{202e}\n".repeat(10);
    let error = refusal(&with_row(|raw| raw.row(name.as_bytes(), &[8], 99, 0)));
    assert!(error.subject.is_ascii());
}

#[test]
fn a_head_must_hold_the_header() {
    let file = support::small();
    let index = Index::parse_head(&file[..file.len() - 500], file.len() as u64).unwrap();
    let (first, last) = (index.tensor_at(0).unwrap(), index.tensor_at(3).unwrap());
    assert!(index.data(&first).is_some() && index.data(&last).is_none());
    let error = Index::parse_head(&file[..100], file.len() as u64)
        .map(drop)
        .unwrap_err();
    assert!(
        error.to_string().contains("of which 100 were given"),
        "{error}"
    );
}

#[test]
fn headers_have_a_limit() {
    let limit = usize::try_from(gguf::HEADER_BYTES_MAX).unwrap();
    let mut file = Raw::header(3, 0, 1)
        .key("s", STRING)
        .u64(gguf::HEADER_BYTES_MAX)
        .0;
    file.resize(limit + 1000, 0);
    let error = Index::parse(&file).map(drop).unwrap_err();
    assert!(
        error.field == "string" && error.to_string().contains("the header may take"),
        "{error}"
    );
}
