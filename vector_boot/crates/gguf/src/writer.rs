//! A small writer of GGUF v3: fixtures and the default model.
//!
//! Deterministic: the same calls give the same bytes everywhere. Keys and tensors stay in the order
//! of the calls; the data follows in that order, each tensor at the next aligned offset. What it
//! returns was read back by [`Index`](crate::Index), so it never writes what the index refuses.

use crate::{ALIGNMENT_DEFAULT, GgmlType, GgufError, Index, MAGIC, ValueType};

/// A file in the making; start with [`Writer::new`], end with [`Writer::finish`].
#[derive(Debug, Clone)]
pub struct Writer {
    alignment: u32,
    keys: u64,
    metadata: Vec<u8>,
    tensors: Vec<Planned>,
}

#[derive(Debug, Clone)]
struct Planned {
    name: String,
    ggml_type: GgmlType,
    shape: Vec<u64>,
    data: Vec<u8>,
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// An empty file.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            alignment: ALIGNMENT_DEFAULT,
            keys: 0,
            metadata: Vec::new(),
            tensors: Vec::new(),
        }
    }

    /// Writes `general.alignment` and follows it.
    #[must_use]
    pub fn alignment(mut self, alignment: u32) -> Self {
        self.alignment = alignment;
        self.u32("general.alignment", alignment)
    }

    /// Adds a string.
    #[must_use]
    pub fn text(self, key: &str, value: &str) -> Self {
        self.raw(key, ValueType::String, &text(value))
    }

    /// Adds a u32.
    #[must_use]
    pub fn u32(self, key: &str, value: u32) -> Self {
        self.raw(key, ValueType::U32, &value.to_le_bytes())
    }

    /// Adds an f32.
    #[must_use]
    pub fn f32(self, key: &str, value: f32) -> Self {
        self.raw(key, ValueType::F32, &value.to_le_bytes())
    }

    /// Adds a truth value.
    #[must_use]
    pub fn bool(self, key: &str, value: bool) -> Self {
        self.raw(key, ValueType::Bool, &[u8::from(value)])
    }

    /// Adds an array of strings.
    #[must_use]
    pub fn texts(self, key: &str, values: &[&str]) -> Self {
        let elements: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
        self.array(key, ValueType::String, values.len() as u64, &elements)
    }

    /// Adds an array of f32.
    #[must_use]
    pub fn f32s(self, key: &str, values: &[f32]) -> Self {
        self.array(key, ValueType::F32, values.len() as u64, &f32_bytes(values))
    }

    /// Adds an array whose elements are already bytes.
    #[must_use]
    pub fn array(self, key: &str, element: ValueType, len: u64, elements: &[u8]) -> Self {
        let mut value = (element as u32).to_le_bytes().to_vec();
        value.extend(len.to_le_bytes());
        value.extend(elements);
        self.raw(key, ValueType::Array, &value)
    }

    /// Adds a value that is already bytes.
    #[must_use]
    pub fn raw(mut self, key: &str, value_type: ValueType, value: &[u8]) -> Self {
        self.keys += 1;
        self.metadata.extend(text(key));
        self.metadata.extend((value_type as u32).to_le_bytes());
        self.metadata.extend(value);
        self
    }

    /// Adds a tensor; `shape` in GGUF's order, the row length first.
    #[must_use]
    pub fn tensor(mut self, name: &str, ggml_type: GgmlType, shape: &[u64], data: Vec<u8>) -> Self {
        self.tensors.push(Planned {
            name: name.to_owned(),
            ggml_type,
            shape: shape.to_vec(),
            data,
        });
        self
    }

    /// Adds an F32 tensor.
    #[must_use]
    pub fn f32_tensor(self, name: &str, shape: &[u64], values: &[f32]) -> Self {
        self.tensor(name, GgmlType::F32, shape, f32_bytes(values))
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// As [`Index::parse`], which reads what was written; also where a tensor's data is not as long as
    /// its shape says.
    pub fn finish(&self) -> Result<Vec<u8>, GgufError> {
        let alignment = self.alignment.max(1) as usize;
        let mut file = MAGIC.to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend(self.keys.to_le_bytes());
        file.extend(&self.metadata);
        let mut offset = 0usize;
        for tensor in &self.tensors {
            file.extend(text(&tensor.name));
            file.extend((tensor.shape.len() as u32).to_le_bytes());
            file.extend(tensor.shape.iter().flat_map(|n| n.to_le_bytes()));
            file.extend(tensor.ggml_type.id().to_le_bytes());
            file.extend((offset as u64).to_le_bytes());
            offset = (offset + tensor.data.len()).next_multiple_of(alignment);
        }
        for tensor in &self.tensors {
            file.resize(file.len().next_multiple_of(alignment), 0);
            file.extend(&tensor.data);
        }
        // gguf.cpp and gguf-py pad the end too; a reader may then map whole pages.
        file.resize(file.len().next_multiple_of(alignment), 0);
        self.check(&file)?;
        Ok(file)
    }

    fn check(&self, file: &[u8]) -> Result<(), GgufError> {
        let index = Index::parse(file)?;
        for (written, tensor) in self.tensors.iter().zip(index.tensors()) {
            if written.data.len() as u64 != tensor.bytes {
                let limit = format!("its shape takes {} bytes", tensor.bytes);
                return Err(GgufError::new(
                    "tensor data",
                    tensor.offset,
                    written.data.len(),
                    limit,
                )
                .of(tensor.name.as_bytes()));
            }
        }
        Ok(())
    }
}

fn text(value: &str) -> Vec<u8> {
    let mut bytes = (value.len() as u64).to_le_bytes().to_vec();
    bytes.extend(value.as_bytes());
    bytes
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}
