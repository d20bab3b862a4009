//! What the console's `tensor NAME` costs: `cargo run --release -p neural --example stats -- FILE.gguf NAME`.

use gguf::Index;
use neural::dequant;
use std::time::Instant;
use sys::mapping::Mapping;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let usage = "usage: stats FILE.gguf NAME";
    let mut words = std::env::args().skip(1);
    let file = Mapping::open_file(words.next().ok_or(usage)?)?;
    let index = Index::parse(&file)?;
    let tensor = index
        .tensor(&words.next().ok_or(usage)?)
        .ok_or("no such tensor")?;
    let data = index.data(&tensor).unwrap_or_default();
    let before = Instant::now();
    let stats = dequant::stats(tensor.ggml_type, data)?;
    println!("{} {stats:?} time={:?}", tensor.ggml_type, before.elapsed());
    Ok(())
}
