//! The policy's forward pass against candle's, on random weights and registers.

use candle_core::{Device, Tensor};
use neural::policy::{CONTROLS, HIDDEN, Weights, inputs};
use proptest::prelude::*;
use wire::sensors::COUNT;

/// The same network in candle.
fn theirs(weights: &Weights, registers: &[f32; COUNT]) -> candle_core::Result<Vec<f32>> {
    let device = &Device::Cpu;
    let [w1, b1, w2, b2, gains] = weights.parts();
    let matrix = |w: &[f32], rows, columns| Tensor::from_slice(w, (rows, columns), device);
    let column = |b: &[f32]| Tensor::from_slice(b, (b.len(), 1), device);
    let x = column(&inputs(registers))?;
    let hidden = (matrix(w1, HIDDEN, COUNT)?.matmul(&x)? + column(b1)?)?.tanh()?;
    let out = (matrix(w2, CONTROLS, HIDDEN)?.matmul(&hidden)? + column(b2)?)?.tanh()?;
    (out * column(gains)?)?
        .clamp(-1f32, 1f32)?
        .flatten_all()?
        .to_vec1()
}

fn weights(values: &[f32]) -> Weights {
    let mut weights = Weights::ZERO;
    let mut values = values.iter().copied().cycle();
    for part in weights.parts_mut() {
        part.fill_with(|| values.next().unwrap());
    }
    weights
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn wishes_equal_candles(
        values in proptest::collection::vec(-1.5f32..1.5, 977),
        registers in proptest::collection::vec(prop_oneof![Just(f32::NAN), -1e3f32..1e9], COUNT),
    ) {
        let weights = weights(&values);
        let registers: [f32; COUNT] = registers.try_into().unwrap();
        let ours = weights.forward(&registers);
        for (ours, theirs) in ours.iter().zip(theirs(&weights, &registers).unwrap()) {
            prop_assert!((ours - theirs).abs() < 2e-5, "{ours} and {theirs}");
        }
    }

    #[test]
    fn wishes_of_any_bits_are_from_minus_one_to_one(bits in proptest::collection::vec(any::<u32>(), 300)) {
        let floats: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
        let registers: [f32; COUNT] = std::array::from_fn(|i| floats[i]);
        let wishes = weights(&floats).forward(&registers);
        prop_assert!(wishes.iter().all(|wish| (-1.0..=1.0).contains(wish)), "{wishes:?}");
    }
}
