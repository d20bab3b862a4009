//! Plain f32 arithmetic for PID 1: products, tanh and the scaling of inputs.
//!
//! Only additions, products, quotients and comparisons, which every processor rounds alike: the same
//! numbers give the same bits on every machine and with every C library.
//! Never here: allocation, a call into libm, a value that is not finite where finite ones went in.

/// Where the rational form of [`tanh`] is 1 to the last bit of an f32.
const TANH_SATURATED: f32 = 7.905_311;

/// The hyperbolic tangent, within 4e-7 of the exact one; NaN is 0.
///
/// Source: the minimax quotient of Eigen's `ptanh`, an odd polynomial of degree 13 over an even one of degree 6.
#[must_use]
pub fn tanh(x: f32) -> f32 {
    if x.is_nan() {
        return 0.0;
    }
    let x = x.clamp(-TANH_SATURATED, TANH_SATURATED);
    let square = x * x;
    let odd = [
        -2.760_768_5e-16,
        2.000_188e-13,
        -8.604_672e-11,
        5.122_297e-8,
        1.485_722_4e-5,
        6.372_619e-4,
        4.893_524_6e-3,
    ];
    let even = [1.198_258_4e-6, 1.185_347e-4, 2.268_434_6e-3, 4.893_525e-3];
    let horner = |terms: &[f32]| terms.iter().fold(0.0f32, |sum, term| sum * square + term);
    (x * horner(&odd) / horner(&even)).clamp(-1.0, 1.0)
}

/// The sum of the products of two rows of one length.
///
/// Eight sums side by side: the order is fixed, and a compiler can use the processor's vectors.
#[must_use]
pub fn dot<const N: usize>(a: &[f32; N], b: &[f32; N]) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0.0f32; LANES];
    let (left, right) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = left.remainder().iter().zip(right.remainder());
    let tail: f32 = rest.map(|(a, b)| a * b).sum();
    for (left, right) in left.zip(right) {
        for ((sum, a), b) in sums.iter_mut().zip(left).zip(right) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + tail
}

/// `tanh(w x + b)`.
///
/// Shapes: `w` is `[OUT][IN]`, `x` is `[IN]`, `b` and the answer `[OUT]`.
#[must_use]
pub fn layer<const IN: usize, const OUT: usize>(
    w: &[[f32; IN]; OUT],
    b: &[f32; OUT],
    x: &[f32; IN],
) -> [f32; OUT] {
    let mut out = *b;
    for (value, row) in out.iter_mut().zip(w) {
        *value = tanh(*value + dot(row, x));
    }
    out
}

/// How much there is of something: 0 for none, 1/2 at `half`, towards 1 for ever more; odd below zero.
#[must_use]
pub fn much(value: f32, half: f32) -> f32 {
    if value.is_infinite() {
        return value.signum();
    }
    let share = value / (value.abs() + half);
    // Neither NaN, nor the quotient of two infinities after an overflow of the sum.
    if share.is_nan() { 0.0 } else { share }
}

/// How little there is left: 1 for nothing, 1/2 at `half`, towards 0 for plenty; below zero is nothing.
#[must_use]
pub fn little(value: f32, half: f32) -> f32 {
    if value.is_nan() {
        return 0.0;
    }
    half / (value.max(0.0) + half)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tanh_is_the_tangent_within_its_bound() {
        let mut worst = 0.0f64;
        for step in -200_000..=200_000i32 {
            let x = step as f32 / 20_000.0;
            worst = worst.max((f64::from(tanh(x)) - f64::from(x).tanh()).abs());
        }
        assert!(worst < 4e-7, "{worst:e}");
        assert_eq!(tanh(0.0), 0.0);
        assert_eq!(tanh(f32::NAN), 0.0);
        assert_eq!(tanh(f32::INFINITY), -tanh(f32::NEG_INFINITY));
    }

    proptest! {
        #[test]
        fn inputs_of_any_bits_become_small_finite_numbers(bits in any::<u32>(), half in 1e-3f32..1e12) {
            let value = f32::from_bits(bits);
            prop_assert!((-1.0..=1.0).contains(&much(value, half)));
            prop_assert!((0.0..=1.0).contains(&little(value, half)));
            prop_assert!((-1.0..=1.0).contains(&tanh(value)));
        }

        #[test]
        fn products_are_those_of_f64(values in proptest::collection::vec((-4.0f32..4.0, -4.0f32..4.0), 67)) {
            let a: [f32; 67] = std::array::from_fn(|i| values[i].0);
            let b: [f32; 67] = std::array::from_fn(|i| values[i].1);
            let exact: f64 = values.iter().map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            prop_assert!((f64::from(dot(&a, &b)) - exact).abs() < 1e-3);
        }
    }
}
