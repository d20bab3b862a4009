//! Pixel programs: a stream of three-byte pixels, run left to right on a byte buffer and a vector.
//!
//! Owns: the opcodes, their limits, and the arithmetic between bytes and values. `docs/pixels.md` is the contract.
//! A program has no jumps: it ends with its last pixel at the latest, and [`Budget`] bounds what each pixel may cost.
//! The result depends on the program and the tensors alone. A program that fails leaves no result.
//!
//! Never here: files, clocks, the choice of a model. Start with [`Machine::run`].

use crate::dequant;
use crate::matvec::{Matrix, MatrixError};
use gguf::GgmlType;
use std::fmt;

/// Red of the first opcode; what is below is data.
pub const FIRST_OPCODE: u8 = 250;
/// Bytes that the buffer holds at most.
pub const BUFFER_BYTES_MAX: usize = 1 << 20;
/// Values that the vector holds at most: a full buffer of one-byte values.
pub const VECTOR_VALUES_MAX: usize = 1 << 20;
/// Added to the mean square before its root, as in most llama models: a vector of zeros stays zeros.
const RMS_EPSILON: f32 = 1e-5;

/// What a program may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Its pixels.
    pub pixels: u64,
    /// Bytes put into the buffer, read from it as values or looked at as a name.
    pub bytes: u64,
    /// Multiply-adds of products, and values that an activation visits.
    pub multiply_adds: u64,
}

impl Default for Budget {
    /// A few seconds of one processor at most: a million pixels, 64 buffers, ten passes through a model of 135M weights.
    fn default() -> Self {
        Self {
            pixels: 1 << 20,
            bytes: 64 * BUFFER_BYTES_MAX as u64,
            multiply_adds: 1 << 31,
        }
    }
}

/// A tensor as a program sees it.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    /// How its values are stored.
    pub ggml_type: GgmlType,
    /// Dimensions and how many are used, in GGUF's order.
    pub shape: &'a [u64],
    /// Its blocks.
    pub data: &'a [u8],
}

/// Where a program finds its tensors: one generation of a model.
pub trait Tensors {
    /// Calls `found` with the tensor of this name; `None` where there is none.
    fn with_tensor<T>(&self, name: &str, found: impl FnOnce(Weights<'_>) -> T) -> Option<T>;
}

/// No tensors at all.
impl Tensors for () {
    fn with_tensor<T>(&self, _: &str, _: impl FnOnce(Weights<'_>) -> T) -> Option<T> {
        None
    }
}

/// Why a program has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Its last pixel came before OUT.
    NoOut,
    /// A reserved opcode, or an operand that its opcode lacks.
    Opcode([u8; 3]),
    /// What would go over a limit, and the limit.
    Limit(&'static str, u64),
    /// What is wrong with the tensor.
    Tensor(String),
    /// What does not fit.
    Shape(String),
}

/// A refused program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PixelError {
    /// Place of the pixel, from 0.
    pub at: usize,
    /// What is wrong with it.
    pub reason: Reason,
}

impl PixelError {
    /// The code that `neural_execute_pixels` returns.
    #[must_use]
    pub const fn code(&self) -> i32 {
        match self.reason {
            Reason::NoOut => -1,
            Reason::Opcode(_) => -2,
            Reason::Limit(..) => -3,
            Reason::Tensor(_) => -4,
            Reason::Shape(_) => -5,
        }
    }
}

impl fmt::Display for PixelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at;
        match &self.reason {
            Reason::NoOut => write!(f, "pixel {at}: the program ends before OUT (250,255,0)"),
            Reason::Opcode([r, g, b]) => write!(f, "pixel {at}: ({r},{g},{b}) is reserved"),
            Reason::Limit(what, limit) => write!(f, "pixel {at}: {what} over {limit}"),
            Reason::Tensor(problem) | Reason::Shape(problem) => write!(f, "pixel {at}: {problem}"),
        }
    }
}

impl std::error::Error for PixelError {}

/// How values lie in bytes.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// One byte, 0 to 255 for 0 to 1.
    Unit,
    /// One byte with a sign.
    I8,
    F32,
    F16,
}

impl Form {
    const fn of(operand: u8) -> Option<Self> {
        Some(match operand {
            0 => Self::Unit,
            1 => Self::I8,
            2 => Self::F32,
            3 => Self::F16,
            _ => return None,
        })
    }

    const fn bytes(self) -> usize {
        match self {
            Self::Unit | Self::I8 => 1,
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Buffer, vector and selection; its memory is used again by the next program.
#[derive(Debug, Default)]
pub struct Machine {
    bytes: Vec<u8>,
    values: Vec<f32>,
    product: Vec<f32>,
    /// The selected tensor's name, and where READ goes on in it.
    selected: Option<String>,
    cursor: usize,
    left: Left,
}

/// What is left of a budget.
#[derive(Debug, Default)]
struct Left {
    bytes: u64,
    multiply_adds: u64,
}

/// What a program did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// Pixels run, OUT included.
    pub pixels: u64,
    /// Of [`Budget::bytes`].
    pub bytes: u64,
    /// Of [`Budget::multiply_adds`].
    pub multiply_adds: u64,
}

impl Machine {
    /// Runs a program; the result stays here until the next one.
    ///
    /// # Errors
    /// The first pixel that cannot be run.
    pub fn run(
        &mut self,
        program: &[[u8; 3]],
        tensors: &impl Tensors,
        budget: &Budget,
    ) -> Result<(&[u8], Spent), PixelError> {
        self.bytes.clear();
        self.values.clear();
        self.selected = None;
        self.cursor = 0;
        self.left = Left {
            bytes: budget.bytes,
            multiply_adds: budget.multiply_adds,
        };
        match self.run_to_out(program, tensors, budget) {
            Ok(pixels) => {
                let spent = Spent {
                    pixels: pixels as u64,
                    bytes: budget.bytes - self.left.bytes,
                    multiply_adds: budget.multiply_adds - self.left.multiply_adds,
                };
                Ok((&self.bytes, spent))
            }
            Err(error) => {
                self.bytes.clear();
                Err(error)
            }
        }
    }

    /// Gives the result away, and takes an old one's memory for the next.
    pub fn swap_result(&mut self, other: &mut Vec<u8>) {
        std::mem::swap(&mut self.bytes, other);
    }

    fn run_to_out(
        &mut self,
        program: &[[u8; 3]],
        tensors: &impl Tensors,
        budget: &Budget,
    ) -> Result<usize, PixelError> {
        let pixels_max = usize::try_from(budget.pixels).unwrap_or(usize::MAX);
        let mut at = 0;
        while let Some(pixel) = program.get(at) {
            let error = |reason| PixelError { at, reason };
            if at >= pixels_max {
                return Err(error(Reason::Limit("pixels", budget.pixels)));
            }
            let mut next = at + 1;
            match *pixel {
                [r, _, _] if r < FIRST_OPCODE => self.push(pixel),
                [250, 255, 0] => return Ok(next),
                [250, 254, n] => self.drop_bytes(n),
                [250, 253, n] => {
                    let end = next.saturating_add(usize::from(n));
                    // A run that is cut short is followed by no OUT.
                    let run = program.get(next..end.min(program.len()));
                    next = end;
                    self.push(run.unwrap_or_default().as_flattened())
                }
                [251, 0, 0] => self.select(tensors),
                [251, 1, form] => Form::of(form)
                    .ok_or(Reason::Opcode(*pixel))
                    .and_then(|form| self.load(form)),
                [251, 2, 0] => self.multiply(tensors),
                [251, 3, 0] => self.activate(relu),
                [251, 3, 1] => self.activate(silu),
                [251, 3, 2] => self.activate(softmax),
                [251, 3, 3] => self.activate(rms_norm),
                [251, 3, 4] => self.activate(arg_max),
                [251, 4, form] => Form::of(form)
                    .ok_or(Reason::Opcode(*pixel))
                    .and_then(|form| self.store(form)),
                [252, 0, n] => self.read(tensors, n),
                _ => Err(Reason::Opcode(*pixel)),
            }
            .map_err(error)?;
            at = next;
        }
        Err(PixelError {
            at: program.len(),
            reason: Reason::NoOut,
        })
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Reason> {
        self.spend_bytes(bytes.len())?;
        if self.bytes.len() + bytes.len() > BUFFER_BYTES_MAX {
            return Err(Reason::Limit(
                "bytes of the buffer",
                BUFFER_BYTES_MAX as u64,
            ));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn drop_bytes(&mut self, n: u8) -> Result<(), Reason> {
        let held = self.bytes.len();
        let left = held.checked_sub(usize::from(n));
        let left =
            left.ok_or_else(|| Reason::Shape(format!("DROP of {n} bytes; the buffer has {held}")))?;
        self.bytes.truncate(left);
        Ok(())
    }

    fn select(&mut self, tensors: &impl Tensors) -> Result<(), Reason> {
        self.spend_bytes(self.bytes.len())?;
        let name = self
            .bytes
            .get(..self.bytes.len().min(gguf::NAME_BYTES_MAX as usize + 1));
        let name = name.and_then(|name| std::str::from_utf8(name).ok());
        let known = name.filter(|name| tensors.with_tensor(name, |_| ()).is_some());
        let Some(name) = known else {
            return Err(no_tensor(&self.bytes));
        };
        self.selected = Some(name.to_owned());
        self.cursor = 0;
        self.bytes.clear();
        Ok(())
    }

    /// The buffer's bytes become the vector, and the buffer is empty.
    fn load(&mut self, form: Form) -> Result<(), Reason> {
        let (held, each) = (self.bytes.len(), form.bytes());
        self.spend_bytes(held)?;
        if !held.is_multiple_of(each) {
            let text = format!("LOAD of values of {each} bytes; the buffer has {held}");
            return Err(Reason::Shape(text));
        }
        self.values.clear();
        let values = self
            .bytes
            .chunks_exact(each)
            .map(|bytes| match (form, bytes) {
                (Form::Unit, [byte]) => f32::from(*byte) / 255.0,
                (Form::I8, [byte]) => f32::from(byte.cast_signed()),
                (Form::F16, [a, b]) => dequant::f16_to_f32(u16::from_le_bytes([*a, *b])),
                (Form::F32, [a, b, c, d]) => f32::from_le_bytes([*a, *b, *c, *d]),
                // A chunk is as long as its form.
                _ => f32::NAN,
            });
        self.values.extend(values);
        self.bytes.clear();
        Ok(())
    }

    /// Appends the vector's values to the buffer; the vector stays.
    fn store(&mut self, form: Form) -> Result<(), Reason> {
        let added = self.values.len() * form.bytes();
        self.spend_bytes(added)?;
        if self.bytes.len() + added > BUFFER_BYTES_MAX {
            return Err(Reason::Limit(
                "bytes of the buffer",
                BUFFER_BYTES_MAX as u64,
            ));
        }
        for value in &self.values {
            match form {
                // Casts of floats saturate, and NaN becomes 0.
                Form::Unit => self.bytes.push((value * 255.0).round_ties_even() as u8),
                Form::I8 => self
                    .bytes
                    .push((value.round_ties_even() as i8).cast_unsigned()),
                Form::F16 => {
                    let half = f32_to_f16(*value);
                    self.bytes.extend_from_slice(&half.to_le_bytes());
                }
                Form::F32 => self.bytes.extend_from_slice(&value.to_le_bytes()),
            }
        }
        Ok(())
    }

    fn multiply(&mut self, tensors: &impl Tensors) -> Result<(), Reason> {
        let name = self.selected.as_deref().ok_or_else(none_selected)?;
        let (values, product, left) = (&self.values, &mut self.product, &mut self.left);
        let done = tensors.with_tensor(name, |weights| {
            let matrix = Matrix::of(weights.ggml_type, weights.shape, weights.data)
                .map_err(|error| refused(name, &error))?;
            if matrix.rows() > VECTOR_VALUES_MAX {
                let limit = VECTOR_VALUES_MAX as u64;
                return Err(Reason::Limit("values of the vector", limit));
            }
            // A shape's product is below 2^63.
            left.spend_adds(matrix.rows() as u64 * matrix.row_values() as u64)?;
            product.clear();
            product.resize(matrix.rows(), 0.0);
            let multiplied = matrix.multiply(values, product);
            multiplied.map_err(|error| refused(name, &error))
        });
        done.unwrap_or_else(|| Err(no_tensor(name.as_bytes())))?;
        std::mem::swap(&mut self.values, &mut self.product);
        Ok(())
    }

    fn activate(&mut self, function: fn(&mut Vec<f32>)) -> Result<(), Reason> {
        if self.values.is_empty() {
            return Err(Reason::Shape("ACT on a vector of no values".to_owned()));
        }
        self.left.spend_adds(self.values.len() as u64)?;
        function(&mut self.values);
        Ok(())
    }

    fn read(&mut self, tensors: &impl Tensors, n: u8) -> Result<(), Reason> {
        self.spend_bytes(usize::from(n))?;
        let name = self.selected.as_deref().ok_or_else(none_selected)?;
        let (cursor, end) = (self.cursor, self.cursor + usize::from(n));
        if self.bytes.len() + usize::from(n) > BUFFER_BYTES_MAX {
            return Err(Reason::Limit(
                "bytes of the buffer",
                BUFFER_BYTES_MAX as u64,
            ));
        }
        let bytes = &mut self.bytes;
        let done = tensors.with_tensor(name, |weights| {
            let found = weights.data.get(cursor..end).ok_or_else(|| {
                let have = weights.data.len();
                Reason::Tensor(format!("READ to byte {end} of {name}, which has {have}"))
            })?;
            bytes.extend_from_slice(found);
            Ok(())
        });
        done.unwrap_or_else(|| Err(no_tensor(name.as_bytes())))?;
        self.cursor = end;
        Ok(())
    }

    fn spend_bytes(&mut self, bytes: usize) -> Result<(), Reason> {
        let left = self.left.bytes.checked_sub(bytes as u64);
        self.left.bytes = left.ok_or(Reason::Limit(
            "bytes of the program's budget",
            self.left.bytes,
        ))?;
        Ok(())
    }
}

impl Left {
    fn spend_adds(&mut self, adds: u64) -> Result<(), Reason> {
        let left = self.multiply_adds.checked_sub(adds);
        let over = Reason::Limit("multiply-adds of the program's budget", self.multiply_adds);
        self.multiply_adds = left.ok_or(over)?;
        Ok(())
    }
}

fn no_tensor(name: &[u8]) -> Reason {
    let shown = name.get(..name.len().min(80)).unwrap_or_default();
    Reason::Tensor(format!("no tensor \"{}\"", shown.escape_ascii()))
}

fn none_selected() -> Reason {
    Reason::Tensor("no tensor is selected".to_owned())
}

/// A type that cannot be read is the tensor's fault, everything else does not fit the vector.
fn refused(name: &str, error: &MatrixError) -> Reason {
    let text = format!("MATVEC with {name}: {error}");
    match error {
        MatrixError::Unsupported(_) => Reason::Tensor(text),
        _ => Reason::Shape(text),
    }
}

fn relu(values: &mut Vec<f32>) {
    for value in values {
        // NaN stays NaN, which max would hide.
        if *value < 0.0 {
            *value = 0.0;
        }
    }
}

fn silu(values: &mut Vec<f32>) {
    for value in values {
        *value /= 1.0 + (-*value).exp();
    }
}

fn softmax(values: &mut Vec<f32>) {
    // Less the largest, so that no exponential overflows; f32::max passes over NaN.
    let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0f32;
    for value in values.iter_mut() {
        *value = (*value - largest).exp();
        sum += *value;
    }
    for value in values {
        *value /= sum;
    }
}

fn rms_norm(values: &mut Vec<f32>) {
    let squares: f32 = values.iter().map(|value| value * value).sum();
    // At most VECTOR_VALUES_MAX values, exact in f32.
    let root = (squares / values.len() as f32 + RMS_EPSILON).sqrt();
    for value in values {
        *value /= root;
    }
}

/// The place of the largest value, the first of equals; NaN is never the largest.
fn arg_max(values: &mut Vec<f32>) {
    let mut best = (0, f32::NEG_INFINITY);
    for (place, value) in values.iter().enumerate() {
        if *value > best.1 {
            best = (place, *value);
        }
    }
    values.clear();
    // Below VECTOR_VALUES_MAX, exact in f32.
    values.push(best.0 as f32);
}

/// To the nearest half, ties to even; what is too large becomes infinite (IEEE 754).
#[must_use]
pub fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    // The sign, the exponent and the fraction fit their fields by the masks.
    let sign = (bits >> 16 & 0x8000) as u16;
    let exponent = (bits >> 23 & 0xff) as i32 - 127;
    let fraction = bits & 0x007f_ffff;
    if exponent == 128 {
        let nan = u16::from(fraction != 0) << 9;
        return sign | 0x7c00 | nan;
    }
    if exponent < -25 {
        return sign;
    }
    // The fraction with its leading one, and how many of its bits a half has no place for.
    let (whole, dropped) = if exponent < -14 {
        (fraction | 0x0080_0000, (-1 - exponent) as u32)
    } else {
        (fraction, 13)
    };
    let field = if exponent < -14 {
        0
    } else {
        ((exponent + 15) as u32) << 10
    };
    let kept = whole >> dropped;
    let rest = whole & ((1 << dropped) - 1);
    let half = 1 << (dropped - 1);
    let up = u32::from(rest > half || (rest == half && kept & 1 == 1));
    // A carry out of the fraction is the next exponent; out of the last exponent it is infinity.
    let rounded = (field + kept + up).min(0x7c00);
    sign | rounded as u16
}

/// The fuzz body: what holds for every program. Runs with a fixed seed in the ordinary tests, and long in the drill.
///
/// # Panics
/// Where a promise does not hold.
pub fn fuzz_body(data: &[u8]) {
    let (program, _) = data.as_chunks::<3>();
    let budget = Budget {
        pixels: 4096,
        bytes: 1 << 16,
        multiply_adds: 1 << 16,
    };
    let mut machine = Machine::default();
    let first = machine
        .run(program, &Fuzzed, &budget)
        .map(|(out, spent)| (out.to_vec(), spent));
    if let Ok((_, spent)) = first {
        assert!(spent.pixels <= budget.pixels && spent.pixels <= program.len() as u64);
        assert!(spent.bytes <= budget.bytes && spent.multiply_adds <= budget.multiply_adds);
    }
    if let Err(error) = &first {
        assert!((-5..=-1).contains(&error.code()) && error.at <= program.len());
        assert!(error.to_string().chars().all(|c| !c.is_control()));
        assert!(machine.bytes.is_empty(), "a part of a result is left");
    }
    // What a machine did before changes nothing.
    let again = machine
        .run(program, &Fuzzed, &budget)
        .map(|(out, spent)| (out.to_vec(), spent));
    assert_eq!(first, again);
}

/// Three small tensors with one-letter names.
struct Fuzzed;

impl Tensors for Fuzzed {
    fn with_tensor<T>(&self, name: &str, found: impl FnOnce(Weights<'_>) -> T) -> Option<T> {
        const PLAIN: [u8; 24] = [
            0, 0, 128, 63, 0, 0, 0, 64, 0, 0, 192, 127, 0, 0, 128, 255, 0, 0, 0, 0, 1, 0, 0, 0,
        ];
        const BLOCKS: [u8; 40] = [0x3c; 40];
        let (ggml_type, shape, data): (_, &[u64], &[u8]) = match name {
            "aaa" => (GgmlType::F32, &[3, 2], &PLAIN),
            "bbb" => (GgmlType::Q4_1, &[32, 2], &BLOCKS),
            "ccc" => (GgmlType::IQ2_S, &[256], &[1; 82]),
            _ => return None,
        };
        Some(found(Weights {
            ggml_type,
            shape,
            data,
        }))
    }
}
