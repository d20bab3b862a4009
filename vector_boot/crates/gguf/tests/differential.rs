//! The index against gguf-rs, an independent reader, on files that both accept.
//!
//! Where gguf-rs 0.1.8 is wrong it is left out by name: from type 10 on it counts every type in
//! blocks of 256 (I8 to I64, F64, BF16, IQ4_NL, MXFP4), it gives Q8_1 the two f32 that ggml once had
//! there, and it does not know the types from 40 on.

mod support;

use gguf::{GgmlType, Index, Value};
use gguf_rs::{ByteOrder, GGUFContainer, GGUFModel};
use std::io::Cursor;

/// Types whose sizes gguf-rs computes wrongly, or that it does not know.
const WRONG_THERE: &[GgmlType] = &[
    GgmlType::I8,
    GgmlType::I16,
    GgmlType::I32,
    GgmlType::I64,
    GgmlType::F64,
    GgmlType::BF16,
    GgmlType::Q8_1,
    GgmlType::IQ4_NL,
    GgmlType::MXFP4,
    GgmlType::NVFP4,
    GgmlType::Q1_0,
    GgmlType::Q2_0,
];

fn read_by_gguf_rs(file: &[u8]) -> GGUFModel {
    // Its reader begins behind the magic.
    let body = Cursor::new(file[4..].to_vec());
    GGUFContainer::new(ByteOrder::LE, Box::new(body), u64::MAX)
        .decode()
        .unwrap()
}

fn as_json(value: &Value<'_>) -> serde_json::Value {
    match value {
        Value::U8(n) => (*n).into(),
        Value::I8(n) => (*n).into(),
        Value::U16(n) => (*n).into(),
        Value::I16(n) => (*n).into(),
        Value::U32(n) => (*n).into(),
        Value::I32(n) => (*n).into(),
        Value::U64(n) => (*n).into(),
        Value::I64(n) => (*n).into(),
        Value::F32(n) => (*n).into(),
        Value::F64(n) => (*n).into(),
        Value::Bool(truth) => (*truth).into(),
        Value::String(text) => String::from_utf8_lossy(text.as_bytes()).into(),
        Value::Array(array) => array.iter().map(|element| as_json(&element)).collect(),
    }
}

fn assert_same(name: &str, file: &[u8]) {
    let (ours, theirs) = (Index::parse(file).unwrap(), read_by_gguf_rs(file));
    assert_eq!(ours.data_offset(), theirs.data_offset(), "{name}");
    assert_eq!(u64::from(ours.alignment()), theirs.alignment(), "{name}");
    assert_eq!(ours.tensor_count(), theirs.tensors().len(), "{name}");
    for (our, their) in ours.tensors().zip(theirs.tensors()) {
        assert_eq!(
            (our.name, our.ggml_type.id()),
            (their.name.as_str(), their.kind),
            "{name}"
        );
        assert_eq!(our.shape(), their.shape, "{name} {}", our.name);
        assert_eq!(
            our.offset,
            theirs.data_offset() + their.offset,
            "{name} {}",
            our.name
        );
        assert_eq!(our.bytes, their.size, "{name} {}", our.name);
    }
    assert_eq!(ours.key_count(), theirs.metadata().len(), "{name}");
    for (key, value) in ours.metadata() {
        assert_eq!(
            Some(&as_json(&value)),
            theirs.metadata().get(key),
            "{name} {key}"
        );
    }
}

#[test]
fn models_read_alike() {
    for (name, file) in support::models() {
        assert_same(&name, &file);
    }
}

#[test]
fn every_type_has_the_same_size() {
    for ggml_type in GgmlType::ALL.iter().filter(|t| !WRONG_THERE.contains(t)) {
        let rows = 3;
        let data = vec![0; (rows * ggml_type.block_bytes()) as usize];
        let file = gguf::writer::Writer::new()
            .tensor("t", *ggml_type, &[ggml_type.block_values(), rows], data)
            .finish()
            .unwrap();
        assert_same(ggml_type.name(), &file);
    }
}
