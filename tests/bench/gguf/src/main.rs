//! What opening a model costs, beside candle's and gguf-rs's readers of the same file, interleaved.
//!
//! Ours maps, checks every record and touches the first tensor. The peers read the records and no tensor.
//! `cargo run --release --manifest-path tests/bench/gguf/Cargo.toml -- FILE.gguf`

#![forbid(unsafe_code)]

use gguf::Index;
use gguf_rs::{ByteOrder, GGUFContainer};
use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::io::{BufReader, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};
use sys::mapping::Mapping;

/// Openings by each reader; the first is printed by itself, since its pages may not be in memory yet.
const ROUNDS: usize = 25;
/// Bytes of the magic, behind which gguf-rs begins.
const MAGIC_BYTES: u64 = 4;

type Reader = fn(&Path) -> Result<usize, Box<dyn Error>>;

/// Each opens the file and returns how many tensors it found.
const READERS: [(&str, Reader); 3] = [("ours", ours), ("candle", candle), ("gguf-rs", gguf_rs)];

fn ours(path: &Path) -> Result<usize, Box<dyn Error>> {
    let file = Mapping::open_file(path)?;
    let index = Index::parse(&file)?;
    let first = index.tensor_at(0).and_then(|tensor| index.data(&tensor));
    black_box(first.and_then(|data| data.first()).copied());
    Ok(index.tensor_count())
}

fn candle(path: &Path) -> Result<usize, Box<dyn Error>> {
    let mut file = BufReader::new(File::open(path)?);
    let content = candle_core::quantized::gguf_file::Content::read(&mut file)?;
    Ok(content.tensor_infos.len())
}

fn gguf_rs(path: &Path) -> Result<usize, Box<dyn Error>> {
    let mut file = BufReader::new(File::open(path)?);
    file.seek(SeekFrom::Start(MAGIC_BYTES))?;
    let model = GGUFContainer::new(ByteOrder::LE, Box::new(file), u64::MAX).decode()?;
    Ok(model.tensors().len())
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: open FILE.gguf")?;
    let path = Path::new(&path);
    let mut spans = READERS.map(|_| Vec::with_capacity(ROUNDS));
    let mut found = [0; READERS.len()];
    for _ in 0..ROUNDS {
        for (at, (_, open)) in READERS.iter().enumerate() {
            let before = Instant::now();
            found[at] = open(path)?;
            spans[at].push(before.elapsed());
        }
    }
    let mut our_median = Duration::ZERO;
    for (at, (name, open)) in READERS.iter().enumerate() {
        let first = spans[at][0];
        spans[at].sort_unstable();
        let median = spans[at][ROUNDS / 2];
        if at == 0 {
            our_median = median;
        }
        let heap = allocation_counter::measure(|| drop(black_box(open(path))));
        println!(
            "{name}: tensors={} rounds={ROUNDS} first={first:?} median={median:?} max={:?} heap_bytes={} allocations={} ratio={:.1}",
            found[at],
            spans[at][ROUNDS - 1],
            heap.bytes_max,
            heap.count_total,
            median.as_secs_f64() / our_median.as_secs_f64(),
        );
    }
    Ok(())
}
