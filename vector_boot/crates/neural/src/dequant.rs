//! A tensor's values as f32, block by block.
//!
//! Owns: the meaning of each block format. Nothing is allocated: a block's values pass through one
//! buffer of [`BLOCK_VALUES_MAX`]. Checked against candle and, where candle lacks the type, against
//! blocks worked out by hand.
//!
//! Never here: matrix products. Start with [`stats`] and [`dequantize`].
//! Source of the formats: ggml's block structs.

use gguf::GgmlType;
use std::fmt;
use std::ops::ControlFlow;

/// Values of the largest block.
pub const BLOCK_VALUES_MAX: usize = 256;
/// First values that [`stats`] keeps.
pub const FIRST_VALUES: usize = 8;

/// Why a tensor's values cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DequantError {
    /// Formats whose code books (tens of KiB of grids) we do not carry.
    Unsupported(GgmlType),
    /// The data is not a whole number of blocks.
    Length {
        /// The tensor's type.
        ggml_type: GgmlType,
        /// Bytes given.
        bytes: usize,
    },
}

impl fmt::Display for DequantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported(ggml_type) => write!(
                f,
                "values of type {ggml_type} cannot be shown: its code book is not built in"
            ),
            Self::Length { ggml_type, bytes } => {
                write!(
                    f,
                    "{bytes} bytes are not a multiple of {ggml_type}'s block of {}",
                    ggml_type.block_bytes()
                )
            }
        }
    }
}

impl std::error::Error for DequantError {}

/// What a tensor's values look like as a whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stats {
    /// Smallest value that is a number; NaN where there is none.
    pub min: f32,
    /// Largest value that is a number; NaN where there is none.
    pub max: f32,
    /// Mean of the values that are numbers; NaN where there is none.
    pub mean: f64,
    /// Values in all.
    pub count: u64,
    /// Values that are not numbers.
    pub nan: u64,
    first: [f32; FIRST_VALUES],
}

impl Stats {
    /// The first values, at most [`FIRST_VALUES`].
    #[must_use]
    pub fn first(&self) -> &[f32] {
        let len = usize::try_from(self.count).unwrap_or(usize::MAX);
        self.first.get(..len).unwrap_or(&self.first)
    }
}

/// Walks all of a tensor's values once.
///
/// # Errors
/// [`DequantError`].
pub fn stats(ggml_type: GgmlType, data: &[u8]) -> Result<Stats, DequantError> {
    let mut stats = Stats {
        min: f32::NAN,
        max: f32::NAN,
        mean: f64::NAN,
        count: 0,
        nan: 0,
        first: [0.0; FIRST_VALUES],
    };
    let _filled = dequantize(ggml_type, data, &mut stats.first)?;
    let mut sum = 0.0f64;
    for_each_block(ggml_type, data, |values| {
        for value in values {
            stats.nan += u64::from(value.is_nan());
            if !value.is_nan() {
                // f32::min and max pass over NaN, which is what both begin with.
                stats.min = stats.min.min(*value);
                stats.max = stats.max.max(*value);
                sum += f64::from(*value);
            }
        }
        stats.count += values.len() as u64;
        ControlFlow::Continue(())
    })?;
    let numbers = stats.count - stats.nan;
    if numbers > 0 {
        // Counts of values stay far below 2^53.
        stats.mean = sum / numbers as f64;
    }
    Ok(stats)
}

/// Writes the first values into `out` and returns how many there were: `out.len()` or the tensor's all.
///
/// # Errors
/// [`DequantError`]; `out` is then unchanged.
pub fn dequantize(
    ggml_type: GgmlType,
    data: &[u8],
    out: &mut [f32],
) -> Result<usize, DequantError> {
    let mut written = 0;
    for_each_block(ggml_type, data, |values| {
        let room = out.get_mut(written..).unwrap_or_default();
        let taken = room.len().min(values.len());
        for (to, from) in room.iter_mut().zip(values) {
            *to = *from;
        }
        written += taken;
        if written < out.len() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    Ok(written)
}

/// Calls `visit` with the values of one block after the other until it breaks.
///
/// # Errors
/// [`DequantError`], before the first call.
pub fn for_each_block(
    ggml_type: GgmlType,
    data: &[u8],
    mut visit: impl FnMut(&[f32]) -> ControlFlow<()>,
) -> Result<(), DequantError> {
    let decode = decoder(ggml_type).ok_or(DequantError::Unsupported(ggml_type))?;
    // Block sizes are at most a few hundred.
    let (bytes, values) = (
        ggml_type.block_bytes() as usize,
        ggml_type.block_values() as usize,
    );
    if !data.len().is_multiple_of(bytes) {
        return Err(DequantError::Length {
            ggml_type,
            bytes: data.len(),
        });
    }
    let mut buffer = [0.0; BLOCK_VALUES_MAX];
    // Types of one value a block are taken a buffer at a time.
    let at_once = BLOCK_VALUES_MAX / values;
    for blocks in data.chunks(bytes * at_once) {
        let mut filled = 0;
        for (block, out) in blocks
            .chunks_exact(bytes)
            .zip(buffer.chunks_exact_mut(values))
        {
            decode(Block(block), out);
            filled += values;
        }
        if visit(buffer.get(..filled).unwrap_or_default()).is_break() {
            break;
        }
    }
    Ok(())
}

/// Whether this type's values can be read.
#[must_use]
pub const fn is_supported(ggml_type: GgmlType) -> bool {
    decoder(ggml_type).is_some()
}

type Decode = fn(Block<'_>, &mut [f32]);

const fn decoder(ggml_type: GgmlType) -> Option<Decode> {
    Some(match ggml_type {
        GgmlType::F32 => |block, out| one(out, f32::from_bits(block.u32(0))),
        GgmlType::F16 => |block, out| one(out, block.f16(0)),
        GgmlType::BF16 => |block, out| one(out, f32::from_bits(u32::from(block.u16(0)) << 16)),
        // Rounds to the nearest f32, as the conversions below do.
        GgmlType::F64 => |block, out| one(out, f64::from_bits(block.u64(0)) as f32),
        GgmlType::I8 => |block, out| one(out, block.i8(0)),
        GgmlType::I16 => |block, out| one(out, f32::from(block.u16(0) as i16)),
        GgmlType::I32 => |block, out| one(out, block.u32(0) as i32 as f32),
        GgmlType::I64 => |block, out| one(out, block.u64(0) as i64 as f32),
        GgmlType::Q1_0 => q1_0,
        GgmlType::Q2_0 => q2_0,
        GgmlType::Q4_0 => q4_0,
        GgmlType::Q4_1 => q4_1,
        GgmlType::Q5_0 => q5_0,
        GgmlType::Q5_1 => q5_1,
        GgmlType::Q8_0 => q8_0,
        GgmlType::Q8_1 => q8_1,
        GgmlType::Q2_K => q2_k,
        GgmlType::Q3_K => q3_k,
        GgmlType::Q4_K => q4_k,
        GgmlType::Q5_K => q5_k,
        GgmlType::Q6_K => q6_k,
        GgmlType::Q8_K => q8_k,
        GgmlType::IQ4_NL => iq4_nl,
        GgmlType::IQ4_XS => iq4_xs,
        GgmlType::TQ1_0 => tq1_0,
        GgmlType::TQ2_0 => tq2_0,
        GgmlType::MXFP4 => mxfp4,
        GgmlType::NVFP4 => nvfp4,
        GgmlType::IQ1_S
        | GgmlType::IQ1_M
        | GgmlType::IQ2_XXS
        | GgmlType::IQ2_XS
        | GgmlType::IQ2_S
        | GgmlType::IQ3_XXS
        | GgmlType::IQ3_S => return None,
    })
}

/// The bytes of one block. Reads past its end give zero; `for_each_block` hands out whole blocks.
#[derive(Clone, Copy)]
struct Block<'a>(&'a [u8]);

impl Block<'_> {
    fn u8(self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or_default()
    }

    fn i8(self, at: usize) -> f32 {
        f32::from(self.u8(at).cast_signed())
    }

    fn array<const N: usize>(self, at: usize) -> [u8; N] {
        self.0
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .unwrap_or([0; N])
    }

    fn u16(self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    fn u32(self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    fn u64(self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    fn f16(self, at: usize) -> f32 {
        f16_to_f32(self.u16(at))
    }

    /// Nibble `place` of 4-bit values of which the low halves of `half` bytes come first.
    fn split_nibble(self, at: usize, half: usize, place: usize) -> u8 {
        let byte = self.u8(at + place % half);
        if place < half { byte & 15 } else { byte >> 4 }
    }
}

fn one(out: &mut [f32], value: f32) {
    if let [out] = out {
        *out = value;
    }
}

fn fill(out: &mut [f32], value: impl Fn(usize) -> f32) {
    for (place, out) in out.iter_mut().enumerate() {
        *out = value(place);
    }
}

/// IEEE 754 half precision: 1 sign, 5 exponent, 10 fraction bits.
#[must_use]
pub const fn f16_to_f32(half: u16) -> f32 {
    let sign = (half as u32 & 0x8000) << 16;
    let exponent = (half as u32 >> 10) & 31;
    let fraction = half as u32 & 0x3ff;
    let bits = match (exponent, fraction) {
        (0, 0) => 0,
        // Subnormal: the fraction's top bit becomes the hidden one.
        (0, _) => {
            let shift = fraction.leading_zeros() - 21;
            ((113 - shift) << 23) | (((fraction << shift) & 0x3ff) << 13)
        }
        (31, _) => 0x7f80_0000 | (fraction << 13),
        _ => ((exponent + 112) << 23) | (fraction << 13),
    };
    f32::from_bits(sign | bits)
}

/// 1 bit: the scale or its negative.
fn q1_0(block: Block<'_>, out: &mut [f32]) {
    let d = block.f16(0);
    fill(out, |i| {
        if block.u8(2 + i / 8) >> (i % 8) & 1 == 1 {
            d
        } else {
            -d
        }
    });
}

/// 2 bits, -1 to 2 times the scale.
fn q2_0(block: Block<'_>, out: &mut [f32]) {
    let d = block.f16(0);
    fill(out, |i| {
        (f32::from(block.u8(2 + i / 4) >> (2 * (i % 4)) & 3) - 1.0) * d
    });
}

fn q4_0(block: Block<'_>, out: &mut [f32]) {
    let d = block.f16(0);
    fill(out, |i| (f32::from(block.split_nibble(2, 16, i)) - 8.0) * d);
}

fn q4_1(block: Block<'_>, out: &mut [f32]) {
    let (d, m) = (block.f16(0), block.f16(2));
    fill(out, |i| f32::from(block.split_nibble(4, 16, i)) * d + m);
}

/// Bit `place` of the 32 high bits at `at`, as the fifth bit of a value.
fn fifth_bit(block: Block<'_>, at: usize, place: usize) -> u8 {
    ((block.u32(at) >> place & 1) as u8) << 4
}

fn q5_0(block: Block<'_>, out: &mut [f32]) {
    let d = block.f16(0);
    fill(out, |i| {
        (f32::from(block.split_nibble(6, 16, i) | fifth_bit(block, 2, i)) - 16.0) * d
    });
}

fn q5_1(block: Block<'_>, out: &mut [f32]) {
    let (d, m) = (block.f16(0), block.f16(2));
    fill(out, |i| {
        f32::from(block.split_nibble(8, 16, i) | fifth_bit(block, 4, i)) * d + m
    });
}

fn q8_0(block: Block<'_>, out: &mut [f32]) {
    let d = block.f16(0);
    fill(out, |i| block.i8(2 + i) * d);
}

/// As Q8_0 with the block's sum behind the scale, which values do not need.
fn q8_1(block: Block<'_>, out: &mut [f32]) {
    let d = block.f16(0);
    fill(out, |i| block.i8(4 + i) * d);
}

/// Where the 2-bit field of value `i` of a 256-block lies: byte and shift. Each half of the block
/// spreads over 32 bytes, a quarter of it in each pair of bits.
const fn two_bits(i: usize) -> (usize, usize) {
    (32 * (i / 128) + i % 32, 2 * (i % 128 / 32))
}

/// 16 groups of 16: scale and minimum of 4 bits each.
fn q2_k(block: Block<'_>, out: &mut [f32]) {
    let (d, dmin) = (block.f16(80), block.f16(82));
    fill(out, |i| {
        let scale = block.u8(i / 16);
        let (byte, shift) = two_bits(i);
        let q = block.u8(16 + byte) >> shift & 3;
        d * f32::from(scale & 15) * f32::from(q) - dmin * f32::from(scale >> 4)
    });
}

/// 16 groups of 16 with 6-bit scales; the third bit of a value lies in the mask, clear for minus 4.
fn q3_k(block: Block<'_>, out: &mut [f32]) {
    let d = block.f16(108);
    fill(out, |i| {
        let group = i / 16;
        let low = block.split_nibble(96, 8, group);
        let high = block.u8(104 + group % 4) >> (2 * (group / 4)) & 3;
        let scale = f32::from(low | high << 4) - 32.0;
        let (byte, shift) = two_bits(i);
        let q = block.u8(32 + byte) >> shift & 3;
        let third = block.u8(i % 32) >> (i / 32) & 1;
        d * scale * (f32::from(q | third << 2) - 4.0)
    });
}

/// Scale and minimum of group `g` of eight, 6 bits each in twelve bytes.
fn scale_and_min(block: Block<'_>, at: usize, g: usize) -> (f32, f32) {
    let byte = |i: usize| block.u8(at + i);
    let (scale, min) = if g < 4 {
        (byte(g) & 63, byte(g + 4) & 63)
    } else {
        (
            byte(g + 4) & 15 | byte(g - 4) >> 6 << 4,
            byte(g + 4) >> 4 | byte(g) >> 6 << 4,
        )
    };
    (f32::from(scale), f32::from(min))
}

/// Eight groups of 32; two neighbours share their bytes, a nibble each.
fn q4_k(block: Block<'_>, out: &mut [f32]) {
    let (d, dmin) = (block.f16(0), block.f16(2));
    fill(out, |i| {
        let (scale, min) = scale_and_min(block, 4, i / 32);
        let q = block.split_nibble(16 + 32 * (i / 64), 32, i % 64);
        d * scale * f32::from(q) - dmin * min
    });
}

/// As Q4_K with a fifth bit a value.
fn q5_k(block: Block<'_>, out: &mut [f32]) {
    let (d, dmin) = (block.f16(0), block.f16(2));
    fill(out, |i| {
        let (scale, min) = scale_and_min(block, 4, i / 32);
        let fifth = (block.u8(16 + i % 32) >> (i / 32) & 1) << 4;
        let q = block.split_nibble(48 + 32 * (i / 64), 32, i % 64) | fifth;
        d * scale * f32::from(q) - dmin * min
    });
}

/// 16 groups of 16 with signed 8-bit scales; four low bits and two high ones a value.
fn q6_k(block: Block<'_>, out: &mut [f32]) {
    let d = block.f16(208);
    fill(out, |i| {
        let low = block.split_nibble(64 * (i / 128), 64, i % 128);
        let (byte, shift) = two_bits(i);
        let high = block.u8(128 + byte) >> shift & 3;
        d * block.i8(192 + i / 16) * (f32::from(low | high << 4) - 32.0)
    });
}

fn q8_k(block: Block<'_>, out: &mut [f32]) {
    let d = f32::from_bits(block.u32(0));
    fill(out, |i| d * block.i8(4 + i));
}

/// The 16 values of the non-linear 4-bit types (ggml's `kvalues_iq4nl`).
const IQ4_VALUES: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

/// Twice the 16 values of E2M1: sign, two exponent bits, one fraction bit (ggml's `kvalues_mxfp4`).
const E2M1_DOUBLED: [f32; 16] = [
    0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0,
];

fn from_table(table: &[f32; 16], nibble: u8) -> f32 {
    table.get(usize::from(nibble)).copied().unwrap_or(f32::NAN)
}

fn iq4_nl(block: Block<'_>, out: &mut [f32]) {
    let d = block.f16(0);
    fill(out, |i| {
        d * from_table(&IQ4_VALUES, block.split_nibble(2, 16, i))
    });
}

/// Eight groups of 32 with 6-bit scales: four low bits in one place, two high ones in another.
fn iq4_xs(block: Block<'_>, out: &mut [f32]) {
    let d = block.f16(0);
    fill(out, |i| {
        let group = i / 32;
        let low = block.u8(4 + group / 2) >> (4 * (group % 2)) & 15;
        let high = (block.u16(2) >> (2 * group) & 3) as u8;
        let scale = f32::from(low | high << 4) - 32.0;
        d * scale * from_table(&IQ4_VALUES, block.split_nibble(8 + 16 * group, 16, i % 32))
    });
}

/// Digit `place` of a byte that holds five base-3 digits as a fraction of 256, the highest first.
fn ternary_digit(byte: u8, place: usize) -> f32 {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let rest = byte.wrapping_mul(POWERS.get(place).copied().unwrap_or(1));
    // The product's high byte is the digit, 0 to 2.
    f32::from((u16::from(rest) * 3) >> 8)
}

/// 160 values in 32 bytes, 80 in 16, 16 in 4; each run takes all bytes' first digits, then the second.
fn tq1_0(block: Block<'_>, out: &mut [f32]) {
    let d = block.f16(52);
    fill(out, |i| {
        let (at, run, i) = match i {
            0..160 => (0, 32, i),
            160..240 => (32, 16, i - 160),
            _ => (48, 4, i - 240),
        };
        (ternary_digit(block.u8(at + i % run), i / run) - 1.0) * d
    });
}

fn tq2_0(block: Block<'_>, out: &mut [f32]) {
    let d = block.f16(64);
    fill(out, |i| {
        let (byte, shift) = two_bits(i);
        (f32::from(block.u8(byte) >> shift & 3) - 1.0) * d
    });
}

/// Scale: a bare exponent (E8M0), halved for the doubled table; the lowest two are subnormal.
fn mxfp4(block: Block<'_>, out: &mut [f32]) {
    let exponent = u32::from(block.u8(0));
    let bits = if exponent < 2 {
        0x0020_0000 << exponent
    } else {
        (exponent - 1) << 23
    };
    let d = f32::from_bits(bits);
    fill(out, |i| {
        from_table(&E2M1_DOUBLED, block.split_nibble(1, 16, i)) * d
    });
}

/// Four groups of 16, each with an unsigned E4M3 scale (bias 7), halved for the doubled table.
fn nvfp4(block: Block<'_>, out: &mut [f32]) {
    fill(out, |i| {
        let group = i / 16;
        let d = ue4m3(block.u8(group)) * 0.5;
        from_table(&E2M1_DOUBLED, block.split_nibble(4 + 8 * group, 8, i % 16)) * d
    });
}

/// ggml reads the format's NaN, 0x7f, as zero and ignores the top bit.
fn ue4m3(bits: u8) -> f32 {
    let (exponent, fraction) = (bits >> 3 & 15, f32::from(bits & 7));
    if bits == 0x7f {
        return 0.0;
    }
    // 2^n as f32 by its exponent field; n is from -9 to 8.
    let power = |n: u32| f32::from_bits(n << 23);
    match exponent {
        0 => fraction * power(127 - 9),
        _ => (1.0 + fraction / 8.0) * power(127 - 7 + u32::from(exponent)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(ggml_type: GgmlType, data: &[u8]) -> Vec<f32> {
        let blocks = data.len() / ggml_type.block_bytes() as usize;
        let mut out = vec![f32::NAN; blocks * ggml_type.block_values() as usize];
        assert_eq!(dequantize(ggml_type, data, &mut out), Ok(out.len()));
        out
    }

    /// A block of zeros but for the bytes given.
    fn block(ggml_type: GgmlType, bytes: &[(usize, u8)]) -> Vec<u8> {
        let mut block = vec![0; ggml_type.block_bytes() as usize];
        for (at, byte) in bytes {
            block[*at] = *byte;
        }
        block
    }

    /// High byte of 1.0 in half precision.
    const ONE: u8 = 0x3c;

    #[test]
    fn plain_numbers_are_themselves() {
        assert_eq!(values(GgmlType::F64, &1.5f64.to_le_bytes()), [1.5]);
        assert_eq!(values(GgmlType::I8, &[0xff]), [-1.0]);
        assert_eq!(values(GgmlType::I16, &(-300i16).to_le_bytes()), [-300.0]);
        assert_eq!(
            values(GgmlType::I32, &(-70_000i32).to_le_bytes()),
            [-70_000.0]
        );
        assert_eq!(
            values(GgmlType::I64, &(1i64 << 40).to_le_bytes()),
            [(1u64 << 40) as f32]
        );
    }

    #[test]
    fn every_half_is_the_sum_of_its_parts() {
        for bits in 0..=u16::MAX {
            let exponent = i32::from(bits >> 10 & 31);
            let fraction = f64::from(bits & 0x3ff) / 1024.0;
            let size = match exponent {
                0 => fraction * 2f64.powi(-14),
                31 if fraction == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                _ => (1.0 + fraction) * 2f64.powi(exponent - 15),
            };
            let expected = if bits >> 15 == 1 { -size } else { size };
            let ours = f64::from(f16_to_f32(bits));
            assert!(
                ours == expected || (ours.is_nan() && expected.is_nan()),
                "{bits:#x}: {ours} {expected}"
            );
        }
    }

    #[test]
    fn q8_1_is_q8_0_with_a_sum_between() {
        let out = values(
            GgmlType::Q8_1,
            &block(GgmlType::Q8_1, &[(1, ONE), (2, 9), (4, 5), (35, 0xff)]),
        );
        assert_eq!((out[0], out[1], out[31]), (5.0, 0.0, -1.0));
    }

    #[test]
    fn small_types_follow_their_bits() {
        let out = values(
            GgmlType::Q1_0,
            &block(GgmlType::Q1_0, &[(1, ONE), (2, 0b10), (17, 0x80)]),
        );
        assert_eq!((out[0], out[1], out[2], out[127]), (-1.0, 1.0, -1.0, 1.0));
        let out = values(
            GgmlType::Q2_0,
            &block(GgmlType::Q2_0, &[(1, ONE), (2, 0b11_10_01_00), (17, 0xc0)]),
        );
        assert_eq!(out[..5], [-1.0, 0.0, 1.0, 2.0, -1.0]);
        assert_eq!(out[63], 2.0);
    }

    #[test]
    fn nonlinear_types_follow_their_tables() {
        let out = values(
            GgmlType::IQ4_NL,
            &block(GgmlType::IQ4_NL, &[(1, ONE), (2, 0xf0)]),
        );
        assert_eq!(
            (out[0], out[1], out[16], out[17]),
            (-127.0, -127.0, 113.0, -127.0)
        );
        // Scales: group 0 low bits 1, high bits 2 -> 33 - 32 = 1; group 1 low bits 2 -> 2 - 32 = -30.
        let out = values(
            GgmlType::IQ4_XS,
            &block(GgmlType::IQ4_XS, &[(1, ONE), (2, 2), (4, 0x21), (8, 0x8f)]),
        );
        assert_eq!(
            (out[0], out[16], out[1], out[32]),
            (113.0, 1.0, -127.0, 3810.0)
        );
    }

    #[test]
    fn ternary_types_hold_minus_one_to_one() {
        let out = values(
            GgmlType::TQ2_0,
            &block(
                GgmlType::TQ2_0,
                &[(65, ONE), (0, 0b10_01_00_10), (63, 0x80)],
            ),
        );
        assert_eq!(
            (out[0], out[32], out[64], out[96], out[255]),
            (1.0, -1.0, 0.0, 1.0, 1.0)
        );
        // 2 1 0 2 1 in base 3 is 196; scaled from 243 to 256 and rounded up: 207.
        let out = values(
            GgmlType::TQ1_0,
            &block(
                GgmlType::TQ1_0,
                &[(53, ONE), (0, 207), (33, 207), (51, 207)],
            ),
        );
        let digits = |first: usize, run: usize| [0, 1, 2, 3].map(|digit| out[first + digit * run]);
        assert_eq!(digits(0, 32), [1.0, 0.0, -1.0, 1.0]);
        assert_eq!(out[128], 0.0);
        assert_eq!(digits(161, 16), [1.0, 0.0, -1.0, 1.0]);
        assert_eq!(digits(243, 4), [1.0, 0.0, -1.0, 1.0]);
    }

    #[test]
    fn four_bit_floats_have_their_scales() {
        // E8M0 128 is 2, halved for the doubled table: 1.
        let out = values(
            GgmlType::MXFP4,
            &block(GgmlType::MXFP4, &[(0, 128), (1, 0xf7)]),
        );
        assert_eq!((out[0], out[16], out[1]), (12.0, -12.0, 0.0));
        // E4M3 0x40 is 2, halved: 1; 0x01 is 2^-9, halved: 2^-10; the third group has no scale.
        let given = [
            (0, 0x40),
            (1, 0x01),
            (3, 0x7f),
            (4, 0x21),
            (12, 0x02),
            (20, 0xff),
            (28, 0xff),
        ];
        let out = values(GgmlType::NVFP4, &block(GgmlType::NVFP4, &given));
        assert_eq!((out[0], out[8], out[16]), (1.0, 2.0, 2.0 / 1024.0));
        assert!(out[32..].iter().all(|value| *value == 0.0));
    }

    #[test]
    fn stats_pass_over_what_is_no_number() {
        let data: Vec<u8> = [f32::NAN, 2.0, -4.0, 5.0]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let stats = stats(GgmlType::F32, &data).unwrap();
        assert_eq!(
            (stats.min, stats.max, stats.mean, stats.count, stats.nan),
            (-4.0, 5.0, 1.0, 4, 1)
        );
        assert!(stats.first()[0].is_nan());
        assert_eq!(stats.first()[1..], [2.0, -4.0, 5.0]);
        let none = super::stats(GgmlType::F32, &f32::NAN.to_le_bytes()).unwrap();
        assert!(none.min.is_nan() && none.max.is_nan() && none.mean.is_nan());
    }

    #[test]
    fn stats_count_over_many_blocks() {
        let data: Vec<u8> = (0..1000i16).flat_map(i16::to_le_bytes).collect();
        let stats = stats(GgmlType::I16, &data).unwrap();
        assert_eq!(
            (stats.min, stats.max, stats.mean, stats.count),
            (0.0, 999.0, 499.5, 1000)
        );
        assert_eq!(stats.first(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    }

    #[test]
    fn what_cannot_be_read_says_so() {
        assert_eq!(
            stats(GgmlType::IQ2_S, &[0; 82]),
            Err(DequantError::Unsupported(GgmlType::IQ2_S))
        );
        let short = DequantError::Length {
            ggml_type: GgmlType::Q4_0,
            bytes: 17,
        };
        assert_eq!(stats(GgmlType::Q4_0, &[0; 17]), Err(short));
        assert!(short.to_string().contains("17 bytes"));
    }

    #[test]
    fn no_block_of_any_type_panics() {
        for ggml_type in GgmlType::ALL {
            for byte in [0u8, 0x55, 0x7f, 0xff] {
                let data = vec![byte; 3 * ggml_type.block_bytes() as usize];
                let read = stats(*ggml_type, &data);
                assert_eq!(read.is_ok(), is_supported(*ggml_type));
                if let Ok(read) = read {
                    assert_eq!(read.count, 3 * ggml_type.block_values());
                }
            }
        }
    }
}
