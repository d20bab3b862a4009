//! The fuzz body: what holds for every input, accepted or refused.
//!
//! Runs under a fuzzer with `tests/fuzz/gguf.dict`, and for about a second with a fixed seed in the
//! ordinary tests.

use crate::{Index, Value};

/// Elements of an array that the body reads; walking them all would only repeat the parse.
const ELEMENTS_READ_MAX: usize = 64;

/// Reads `data` as a file and uses everything that the index hands out.
///
/// # Panics
/// Where a promise of the index does not hold.
pub fn fuzz_body(data: &[u8]) {
    let index = match Index::parse(data) {
        Ok(index) => index,
        Err(error) => {
            let line = error.to_string();
            assert!(line.chars().all(|c| !c.is_control()), "one line: {line:?}");
            return;
        }
    };
    assert_eq!(index.metadata().count(), index.key_count());
    for (key, value) in index.metadata() {
        assert!(index.get(key).is_some(), "lookup of key {key:?}");
        walk(&value);
    }
    let mut spans = Vec::new();
    for tensor in index.tensors() {
        let found = index.tensor(tensor.name);
        assert_eq!(found, Some(tensor), "lookup of tensor {:?}", tensor.name);
        let bytes = index.data(&tensor).map(|bytes| bytes.len() as u64);
        assert_eq!(
            bytes,
            Some(tensor.bytes),
            "data of tensor {:?}",
            tensor.name
        );
        assert_eq!(
            tensor.offset % u64::from(index.alignment()),
            index.data_offset() % u64::from(index.alignment())
        );
        spans.push((tensor.offset, tensor.offset + tensor.bytes));
    }
    spans.sort_unstable();
    let disjoint = spans
        .windows(2)
        .all(|pair| matches!(pair, [a, b] if a.1 <= b.0));
    assert!(disjoint, "tensors share bytes");
}

fn walk(value: &Value<'_>) {
    if let Value::Array(array) = value {
        for (place, element) in array.iter().take(ELEMENTS_READ_MAX).enumerate() {
            assert_eq!(element.value_type(), array.element(), "element {place}");
            if place == 0 {
                walk(&element);
            }
        }
        let read = array.iter().take(ELEMENTS_READ_MAX).count() as u64;
        assert_eq!(
            read,
            array.len().min(ELEMENTS_READ_MAX as u64),
            "elements of an array"
        );
    }
}
