//! Files for the tests: written field by field, so that each field can be wrong.

#![allow(dead_code, reason = "each test binary uses its part")]

use gguf::writer::Writer;
use gguf::{GgmlType, ValueType};
use std::path::PathBuf;

/// A file under construction; every method appends bytes.
#[derive(Clone, Default)]
pub struct Raw(pub Vec<u8>);

impl Raw {
    /// Magic, version and counts.
    pub fn header(version: u32, tensors: u64, keys: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(version).u64(tensors).u64(keys)
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub fn text(self, text: &[u8]) -> Self {
        self.u64(text.len() as u64).bytes(text)
    }

    /// A key and its value's type.
    pub fn key(self, key: &str, value_type: u32) -> Self {
        self.text(key.as_bytes()).u32(value_type)
    }

    /// A row of the tensor table.
    pub fn row(self, name: &[u8], shape: &[u64], ggml_type: u32, offset: u64) -> Self {
        let named = self.text(name).u32(shape.len() as u32);
        let shaped = shape.iter().fold(named, |raw, n| raw.u64(*n));
        shaped.u32(ggml_type).u64(offset)
    }

    /// Zeros up to a multiple of 32, then so many more.
    pub fn data(mut self, bytes: usize) -> Self {
        let begin = self.0.len().next_multiple_of(32);
        self.0.resize(begin + bytes, 0);
        self
    }

    pub fn at(&self) -> u64 {
        self.0.len() as u64
    }
}

/// A small file with every kind of value and several types of tensors.
pub fn small() -> Vec<u8> {
    let nested = Raw::default()
        .u32(8)
        .u64(2)
        .text(b"a")
        .text(b"bc")
        .u32(0)
        .u64(0)
        .0;
    Writer::new()
        .alignment(64)
        .text("general.architecture", "llama")
        .text("unicode", "\u{e9}\u{4e16}")
        .u32("llama.block_count", 2)
        .f32("llama.rope.freq_base", 10_000.5)
        .bool("yes", true)
        .raw("i8", ValueType::I8, &[0xfe])
        .raw("u8", ValueType::U8, &[0xfe])
        .raw("i16", ValueType::I16, &(-300i16).to_le_bytes())
        .raw("u16", ValueType::U16, &60_000u16.to_le_bytes())
        .raw("i32", ValueType::I32, &(-70_000i32).to_le_bytes())
        .raw("u64", ValueType::U64, &u64::MAX.to_le_bytes())
        .raw("i64", ValueType::I64, &i64::MIN.to_le_bytes())
        .raw("f64", ValueType::F64, &0.1f64.to_le_bytes())
        .texts("tokens", &["<s>", "", "hello"])
        .f32s("scores", &[0.0, -1.5])
        .array("nested", ValueType::Array, 2, &nested)
        .f32_tensor("norm", &[8], &[1.0; 8])
        .tensor("blk.0.w", GgmlType::Q4_1, &[64, 2], vec![7; 80])
        .tensor("blk.1.w", GgmlType::Q6_K, &[256, 1, 2], vec![9; 420])
        .tensor("h", GgmlType::F16, &[1, 1, 1, 3], vec![1; 6])
        .finish()
        .unwrap()
}

/// As many tensors as a small llama, with a tokenizer's arrays, tens of KiB in all.
pub fn llama_like() -> Vec<u8> {
    let tokens: Vec<String> = (0..2_000).map(|n| format!("token{n}")).collect();
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let mut writer = Writer::new()
        .text("general.architecture", "llama")
        .u32("llama.block_count", 30)
        .texts("tokenizer.ggml.tokens", &tokens)
        .f32s("tokenizer.ggml.scores", &vec![0.5; tokens.len()])
        .tensor("token_embd.weight", GgmlType::Q4_1, &[32, 3], vec![0; 60])
        .f32_tensor("output_norm.weight", &[32], &[1.0; 32]);
    for block in 0..30 {
        for part in [
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
        ] {
            writer = writer.tensor(
                &format!("blk.{block}.{part}.weight"),
                GgmlType::Q4_1,
                &[32, 2],
                vec![1; 40],
            );
        }
        for part in ["attn_norm", "ffn_norm"] {
            writer = writer.f32_tensor(&format!("blk.{block}.{part}.weight"), &[32], &[1.0; 32]);
        }
    }
    writer.finish().unwrap()
}

/// The language model that the tests of the whole machine use, where it has been fetched:
/// `VB_MODEL`, or the cache folder.
pub fn real_model() -> Option<PathBuf> {
    let named = std::env::var_os("VB_MODEL").map(PathBuf::from);
    let cache = || {
        let root = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let root =
            root.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
        Some(root.join("vector-boot/models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    };
    named.or_else(cache).filter(|path| path.is_file())
}

/// Every model the tests run on: the fixture always, the real one where it is.
pub fn models() -> Vec<(String, Vec<u8>)> {
    let mut models = vec![("fixture".to_owned(), llama_like())];
    models.extend(
        real_model().map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())),
    );
    models
}

/// A fixed stream of numbers (xorshift64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end
    }
}
