//! Products of a tensor's matrix with a vector, straight from the blocks as they lie in the file.
//!
//! Owns: what a matrix is ([`Matrix::of`] proves that rows and bytes fit), and which code multiplies: candle's kernels
//! where the feature `candle` is on and candle knows the type, else the dequantised values row by row. Candle first
//! quantises the vector to eight bits, as all of ggml does; the plain code does not, so the two differ in the last places.
//!
//! Never here: threads, a copy of the matrix. Start with [`Matrix`].

use crate::dequant;
use gguf::GgmlType;
use std::fmt;
use std::ops::ControlFlow;

/// Why there is no product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MatrixError {
    /// Neither one row nor a matrix.
    Dimensions(usize),
    /// The bytes are not those of the shape.
    Bytes {
        /// Bytes given.
        given: usize,
        /// Bytes of the shape.
        needed: u64,
    },
    /// A vector of another length than the matrix wants.
    Length {
        /// Which one.
        vector: &'static str,
        /// Its length.
        given: usize,
        /// What it must be.
        needed: usize,
    },
    /// Values of this type cannot be read.
    Unsupported(GgmlType),
}

impl fmt::Display for MatrixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dimensions(dims) => {
                write!(f, "{dims} dimensions; a product needs 1 or 2")
            }
            Self::Bytes { given, needed } => write!(f, "{given} bytes; the shape has {needed}"),
            Self::Length {
                vector,
                given,
                needed,
            } => write!(f, "{vector} of {given} values; the matrix needs {needed}"),
            Self::Unsupported(ggml_type) => {
                write!(f, "values of type {ggml_type} cannot be read")
            }
        }
    }
}

impl std::error::Error for MatrixError {}

/// A tensor of one or two dimensions: rows of equal length, one behind the other.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    ggml_type: GgmlType,
    row_values: usize,
    rows: usize,
    data: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// Checks that `data` holds exactly the rows of `shape`, which is in GGUF's order: the row length first.
    ///
    /// # Errors
    /// [`MatrixError::Dimensions`], [`MatrixError::Bytes`], [`MatrixError::Unsupported`].
    pub fn of(ggml_type: GgmlType, shape: &[u64], data: &'a [u8]) -> Result<Self, MatrixError> {
        let (row_values, rows) = match *shape {
            [row] => (row, 1),
            [row, rows] => (row, rows),
            _ => return Err(MatrixError::Dimensions(shape.len())),
        };
        let needed = row_values
            .checked_mul(rows)
            .filter(|_| row_values.is_multiple_of(ggml_type.block_values()))
            .and_then(|values| {
                (values / ggml_type.block_values()).checked_mul(ggml_type.block_bytes())
            });
        let fits = needed == Some(data.len() as u64) && row_values > 0;
        match (usize::try_from(row_values), usize::try_from(rows)) {
            (Ok(row_values), Ok(rows)) if fits => {
                let matrix = Self {
                    ggml_type,
                    row_values,
                    rows,
                    data,
                };
                if matrix.is_readable() {
                    Ok(matrix)
                } else {
                    Err(MatrixError::Unsupported(ggml_type))
                }
            }
            _ => Err(MatrixError::Bytes {
                given: data.len(),
                needed: needed.unwrap_or(u64::MAX),
            }),
        }
    }

    /// Values of one row: the length of the vector that comes in.
    #[must_use]
    pub const fn row_values(&self) -> usize {
        self.row_values
    }

    /// Number of rows: the length of the vector that comes out.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// `out = W x`. One thread; allocates no more than the quantised form of `x`.
    ///
    /// # Errors
    /// [`MatrixError::Length`]; `out` is then unchanged.
    pub fn multiply(&self, x: &[f32], out: &mut [f32]) -> Result<(), MatrixError> {
        for (vector, given, needed) in [
            ("vector", x.len(), self.row_values),
            ("result", out.len(), self.rows),
        ] {
            if given != needed {
                return Err(MatrixError::Length {
                    vector,
                    given,
                    needed,
                });
            }
        }
        #[cfg(feature = "candle")]
        if crate::mapped::multiply(self.ggml_type, self.data, x, out) {
            return Ok(());
        }
        self.multiply_plainly(x, out);
        Ok(())
    }

    /// The same on the dequantised values, in f32 and in their order.
    fn multiply_plainly(&self, x: &[f32], out: &mut [f32]) {
        // `of` checked that the data is whole rows, so a row's bytes are a share of it.
        let row_bytes = self.data.len() / self.rows.max(1);
        for (row, out) in self.data.chunks_exact(row_bytes.max(1)).zip(out) {
            let mut sum = 0.0f32;
            let mut rest = x;
            // `of` refused the types that cannot be read.
            let _readable = dequant::for_each_block(self.ggml_type, row, |values| {
                let (now, later) = rest.split_at(values.len().min(rest.len()));
                sum += now.iter().zip(values).map(|(x, w)| x * w).sum::<f32>();
                rest = later;
                ControlFlow::Continue(())
            });
            *out = sum;
        }
    }

    fn is_readable(&self) -> bool {
        #[cfg(feature = "candle")]
        if crate::mapped::is_known(self.ggml_type) {
            return true;
        }
        dequant::is_supported(self.ggml_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    #[test]
    fn a_product_is_the_sum_over_each_row() {
        let data = bytes(&[1.0, 2.0, 3.0, -1.0, 0.5, 4.0]);
        let matrix = Matrix::of(GgmlType::F32, &[3, 2], &data).unwrap();
        let mut out = [0.0; 2];
        matrix.multiply(&[2.0, 1.0, -1.0], &mut out).unwrap();
        assert_eq!(out, [1.0, -5.5]);
        matrix.multiply_plainly(&[2.0, 1.0, -1.0], &mut out);
        assert_eq!(out, [1.0, -5.5]);
        let row = Matrix::of(GgmlType::F32, &[6], &data).unwrap();
        let mut out = [0.0];
        row.multiply(&[1.0; 6], &mut out).unwrap();
        assert_eq!(out, [9.5]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let data = bytes(&[0.0; 6]);
        let of = |ggml_type, shape: &[u64]| Matrix::of(ggml_type, shape, &data).err();
        assert_eq!(of(GgmlType::F32, &[]), Some(MatrixError::Dimensions(0)));
        assert_eq!(
            of(GgmlType::F32, &[1, 2, 3]),
            Some(MatrixError::Dimensions(3))
        );
        for shape in [&[3, 3][..], &[0, 2], &[u64::MAX, 2], &[7]] {
            let refused = of(GgmlType::F32, shape);
            assert!(
                matches!(refused, Some(MatrixError::Bytes { .. })),
                "{shape:?}"
            );
        }
        assert!(matches!(
            Matrix::of(GgmlType::Q8_0, &[17, 2], &[0; 34]),
            Err(MatrixError::Bytes { .. })
        ));
        assert_eq!(
            Matrix::of(GgmlType::IQ2_S, &[256], &[0; 82]).err(),
            Some(MatrixError::Unsupported(GgmlType::IQ2_S))
        );
        let matrix = Matrix::of(GgmlType::F32, &[3, 2], &data).unwrap();
        let mut out = [7.0; 2];
        assert_eq!(
            matrix
                .multiply(&[0.0; 2], &mut out)
                .unwrap_err()
                .to_string(),
            "vector of 2 values; the matrix needs 3"
        );
        assert!(matrix.multiply(&[0.0; 3], &mut out[..1]).is_err());
        assert_eq!(out, [7.0; 2]);
    }

    #[test]
    fn types_that_candle_lacks_are_multiplied_all_the_same() {
        // Scale 1, then bits: the first value 1, the others -1.
        let mut block = [0u8; 18];
        block[..3].copy_from_slice(&[0x00, 0x3c, 1]);
        let matrix = Matrix::of(GgmlType::Q1_0, &[128, 2], &block.repeat(2)).map(|m| m.rows());
        assert_eq!(matrix, Ok(2));
        let data = block.repeat(2);
        let mut out = [0.0; 2];
        Matrix::of(GgmlType::Q1_0, &[128, 2], &data)
            .unwrap()
            .multiply(&[1.0; 128], &mut out)
            .unwrap();
        assert_eq!(out, [-126.0; 2]);
    }
}
