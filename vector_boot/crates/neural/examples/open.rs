//! What opening a model costs: map, check, touch the first tensor.
//!
//! `cargo run --release -p neural --example open -- FILE.gguf`

use gguf::Index;
use std::time::{Duration, Instant};
use sys::mapping::Mapping;

/// Openings measured; the first is printed by itself, since its pages may not be in memory yet.
const ROUNDS: usize = 200;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: open FILE.gguf")?;
    let mut spans = Vec::with_capacity(ROUNDS);
    let mut touched = 0u64;
    let mut tensors = 0;
    for _ in 0..ROUNDS {
        let before = Instant::now();
        let file = Mapping::open_file(&path)?;
        let index = Index::parse(&file)?;
        tensors = index.tensor_count();
        let first = index.tensor_at(0).and_then(|tensor| index.data(&tensor));
        touched += u64::from(
            first
                .and_then(|data| data.first())
                .copied()
                .unwrap_or_default(),
        );
        spans.push(before.elapsed());
    }
    let first = spans.first().copied().unwrap_or(Duration::ZERO);
    spans.sort_unstable();
    let file = Mapping::open_file(&path)?;
    let heap = allocation_counter::measure(|| drop(Index::parse(&file)));
    println!(
        "tensors={tensors} rounds={ROUNDS} first={first:?} median={:?} max={:?} heap_bytes={} allocations={} touched={touched}",
        spans.get(ROUNDS / 2).copied().unwrap_or_default(),
        spans.last().copied().unwrap_or_default(),
        heap.bytes_max,
        heap.count_total,
    );
    Ok(())
}
