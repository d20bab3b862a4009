//! The system tensors of a model: found by name, checked, and what is missing taken from the default.
//!
//! Any GGUF boots: one without system tensors has the default's. One that carries them must carry
//! them right: a wrong shape or type, or a value that is not finite, is refused by the tensor's name,
//! and the default's stands in.
//!
//! Never here: a file, a write to a tensor. Start with [`Tensors`].

use gguf::{GgmlType, Index, Tensor};
use std::fmt;

/// What is wrong with a system tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelError {
    /// Which tensor.
    pub tensor: &'static str,
    /// What is wrong.
    pub fault: Fault,
}

/// What can be wrong with a system tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Its type, which is to be F32.
    Type(GgmlType),
    /// Its shape, in GGUF's order.
    Shape {
        /// As found; what it has not is 0.
        found: [u64; 4],
        /// As it is to be.
        expected: &'static [u64],
    },
    /// A value that is NaN or infinite, at this place.
    NotFinite(usize),
    /// A value out of its bounds.
    Bounds {
        /// Where.
        place: usize,
        /// What it is.
        found: f32,
        /// The least that it may be.
        least: f32,
        /// The most.
        most: f32,
    },
    /// More rows than are looked at.
    Rows {
        /// As found.
        found: u64,
        /// At most.
        limit: u64,
    },
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tensor {}: ", self.tensor)?;
        match self.fault {
            Fault::Type(found) => write!(f, "type {found:?}, limit F32"),
            Fault::Shape { found, expected } => {
                let dims = found.iter().take_while(|dim| **dim != 0).count();
                let found = found.get(..dims).unwrap_or_default();
                write!(f, "shape {found:?}, limit {expected:?}")
            }
            Fault::NotFinite(place) => write!(f, "value {place} is not finite"),
            Fault::Bounds {
                place,
                found,
                least,
                most,
            } => write!(f, "value {place} is {found}, limit {least} to {most}"),
            Fault::Rows { found, limit } => write!(f, "{found} rows, limit {limit}"),
        }
    }
}

impl std::error::Error for ModelError {}

/// The tensors of one model.
#[derive(Debug, Clone, Copy)]
pub struct Tensors<'a>(&'a Index<'a>);

impl<'a> Tensors<'a> {
    /// Those that this index names.
    #[must_use]
    pub const fn of(index: &'a Index<'a>) -> Self {
        Self(index)
    }

    /// The values of a tensor of this shape; `None` if the model has no such tensor.
    ///
    /// # Errors
    /// Another shape or type.
    pub fn values(
        &self,
        name: &'static str,
        shape: &'static [u64],
    ) -> Result<Option<Values<'a>>, ModelError> {
        let Some((tensor, values)) = self.plain(name)? else {
            return Ok(None);
        };
        if tensor.shape() == shape {
            return Ok(Some(values));
        }
        Err(wrong_shape(name, &tensor, shape))
    }

    /// As [`Self::values`], all of them finite.
    ///
    /// # Errors
    /// As there, and a value that is not finite.
    pub fn finite(
        &self,
        name: &'static str,
        shape: &'static [u64],
    ) -> Result<Option<Values<'a>>, ModelError> {
        self.values(name, shape)?
            .map(|values| values.finite(name))
            .transpose()
    }

    /// The finite values of a tensor of rows of this length, at most so many rows.
    ///
    /// # Errors
    /// Another shape or type, too many rows, a value that is not finite.
    pub fn rows(
        &self,
        name: &'static str,
        shape: &'static [u64; 2],
    ) -> Result<Option<Values<'a>>, ModelError> {
        let Some((tensor, values)) = self.plain(name)? else {
            return Ok(None);
        };
        let [row, limit] = *shape;
        match *tensor.shape() {
            [found, rows] if found == row && rows <= limit => values.finite(name).map(Some),
            // GGUF leaves out a last dimension of 1.
            [found] if found == row => values.finite(name).map(Some),
            [found, rows] if found == row => Err(ModelError {
                tensor: name,
                fault: Fault::Rows { found: rows, limit },
            }),
            _ => Err(wrong_shape(name, &tensor, shape)),
        }
    }

    fn plain(&self, name: &'static str) -> Result<Option<(Tensor<'a>, Values<'a>)>, ModelError> {
        let Some(tensor) = self.0.tensor(name) else {
            return Ok(None);
        };
        if tensor.ggml_type != GgmlType::F32 {
            return Err(ModelError {
                tensor: name,
                fault: Fault::Type(tensor.ggml_type),
            });
        }
        Ok(self.0.data(&tensor).map(|data| (tensor, Values(data))))
    }
}

fn wrong_shape(name: &'static str, tensor: &Tensor<'_>, expected: &'static [u64]) -> ModelError {
    let mut found = [0; 4];
    for (place, dim) in found.iter_mut().zip(tensor.shape()) {
        *place = *dim;
    }
    ModelError {
        tensor: name,
        fault: Fault::Shape { found, expected },
    }
}

/// The f32 values of a tensor, where they lie: little-endian, at any address.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a>(&'a [u8]);

impl<'a> Values<'a> {
    /// Each of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = f32> + use<'a> {
        let (words, _) = self.0.as_chunks::<4>();
        words.iter().map(|bytes| f32::from_le_bytes(*bytes))
    }

    /// Copies as many as there is place for.
    pub fn copy_to(&self, out: &mut [f32]) {
        for (place, value) in out.iter_mut().zip(self.iter()) {
            *place = value;
        }
    }

    fn finite(self, name: &'static str) -> Result<Self, ModelError> {
        match self.iter().position(|value| !value.is_finite()) {
            None => Ok(self),
            Some(place) => Err(ModelError {
                tensor: name,
                fault: Fault::NotFinite(place),
            }),
        }
    }
}
