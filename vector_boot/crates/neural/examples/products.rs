//! Quantised tensors over the mapping beside candle's own loader, on a real model, and whether the bits are the same.
//!
//! `CANDLE_NUM_THREADS=1 cargo run --release -p neural --features candle --example products -- FILE.gguf`
//! prints a line a loader: time, resident anonymous memory that it added, and the products of every quantised tensor.

use candle_core::quantized::{QMatMul, QTensor, gguf_file};
use candle_core::{Device, Module, Tensor};
use gguf::Index;
use neural::mapped;
use neural::matvec::Matrix;
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;
use sys::mapping::Mapping;

/// Resident memory of this process that no file backs, in KiB.
fn anonymous_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("Anonymous:"));
    let word = line.and_then(|line| line.split_whitespace().nth(1));
    word.and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// Runs `load` and says what it took.
fn measured<T>(
    who: &str,
    load: impl FnOnce() -> Result<T, Box<dyn Error>>,
) -> Result<T, Box<dyn Error>> {
    let (before, begun) = (anonymous_kib(), Instant::now());
    let loaded = load()?;
    let took = begun.elapsed();
    let added = anonymous_kib().saturating_sub(before);
    println!(
        "{who:<28} {:>10.3} ms {added:>8} KiB anonymous",
        took.as_secs_f64() * 1e3
    );
    Ok(loaded)
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: products FILE.gguf")?;
    let mapping = Arc::new(Mapping::open_file(&path)?);
    let index = Index::parse(&mapping)?;
    let wanted: Vec<_> = index
        .tensors()
        .filter(|t| {
            t.shape().len() == 2 && mapped::is_known(t.ggml_type) && t.name.starts_with("blk.")
        })
        .collect();
    println!("{} quantised tensors of blocks", wanted.len());
    // Smallest first: what candle's loader leaves in the allocator would be ours otherwise.
    let ours: Vec<QTensor> = measured("over the mapping", || {
        let tensors = wanted.iter().map(|t| {
            let from = usize::try_from(t.offset)?;
            let range = from..from + usize::try_from(t.bytes)?;
            Ok(mapped::tensor(&mapping, range, t.ggml_type, t.shape())?)
        });
        tensors.collect()
    })?;
    let theirs: Vec<QTensor> = measured("candle's loader", || {
        let mut file = std::fs::File::open(&path)?;
        let content = gguf_file::Content::read(&mut file)?;
        let tensors = wanted
            .iter()
            .map(|t| Ok(content.tensor(&mut file, t.name, &Device::Cpu)?));
        tensors.collect()
    })?;
    let inputs = |width: usize| -> Vec<f32> {
        // The product of two small primes modulo a third: spread, and the same everywhere.
        (0..width)
            .map(|n| (n * 37 % 101) as f32 / 50.0 - 1.0)
            .collect()
    };
    let mut products: Vec<Vec<f32>> = Vec::new();
    measured("products, ours", || {
        for t in &wanted {
            let data = index.data(t).ok_or("data")?;
            let matrix = Matrix::of(t.ggml_type, t.shape(), data)?;
            let mut out = vec![0.0; matrix.rows()];
            matrix.multiply(&inputs(matrix.row_values()), &mut out)?;
            products.push(out);
        }
        Ok(())
    })?;
    let mut same = 0;
    for (who, tensors) in [
        ("products, mapped QTensor", ours),
        ("products, candle's QTensor", theirs),
    ] {
        measured(who, || {
            for (tensor, ours) in tensors.into_iter().zip(&products) {
                let (rows, width) = tensor.shape().dims2()?;
                let x = Tensor::from_vec(inputs(width), (1, width), &Device::Cpu)?;
                let product = QMatMul::from_arc(Arc::new(tensor))?.forward(&x)?;
                let product: Vec<f32> = product.reshape(rows)?.to_vec1()?;
                let equal = product
                    .iter()
                    .map(|v| v.to_bits())
                    .eq(ours.iter().map(|v| v.to_bits()));
                same += usize::from(equal);
            }
            Ok(())
        })?;
    }
    println!("{same} of {} products have the same bits", 2 * wanted.len());
    if same != 2 * wanted.len() {
        return Err("products differ".into());
    }
    Ok(())
}
