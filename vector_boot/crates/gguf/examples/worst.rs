//! How long the headers take that cost the most: `cargo run --release -p gguf --example worst`.
//!
//! Each fills [`gguf::HEADER_BYTES_MAX`]: strings of no bytes, arrays of no elements, keys alike in
//! all but their last bytes.

use gguf::{HEADER_BYTES_MAX, Index, KEY_BYTES_MAX};
use std::time::Instant;

/// Room for the fields before the filling.
const FRONT_BYTES: u64 = 200;

fn head(keys: u64) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(0u64.to_le_bytes());
    file.extend(keys.to_le_bytes());
    file
}

/// An array of elements that are all zero bytes.
fn array_of_nothing(element: u32, element_bytes: u64) -> Vec<u8> {
    let mut file = head(1);
    file.extend(1u64.to_le_bytes());
    file.extend(b"a");
    file.extend(9u32.to_le_bytes());
    file.extend(element.to_le_bytes());
    file.extend(((HEADER_BYTES_MAX - FRONT_BYTES) / element_bytes).to_le_bytes());
    file.resize(HEADER_BYTES_MAX as usize, 0);
    file
}

fn keys_alike() -> Vec<u8> {
    let keys = (HEADER_BYTES_MAX - FRONT_BYTES) / (KEY_BYTES_MAX + FRONT_BYTES);
    let mut file = head(keys);
    for key in 0..keys {
        file.extend(KEY_BYTES_MAX.to_le_bytes());
        file.resize(file.len() + KEY_BYTES_MAX as usize - 8, b'a');
        // 7919 is prime, so the order is a mixed one.
        file.extend(format!("{:08}", key * 7919 % keys).bytes());
        file.extend([0, 0, 0, 0, 1]);
    }
    file
}

fn main() {
    for (name, file) in [
        ("strings", array_of_nothing(8, 8)),
        ("arrays", array_of_nothing(9, 12)),
        ("keys", keys_alike()),
    ] {
        let before = Instant::now();
        let accepted = Index::parse(&file).is_ok();
        println!(
            "{name} bytes={} accepted={accepted} time={:?}",
            file.len(),
            before.elapsed()
        );
    }
}
