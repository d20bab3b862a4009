//! Pixel programs: every opcode, every refusal, and what holds for any program.

use gguf::GgmlType;
use neural::dequant::f16_to_f32;
use neural::matvec::Matrix;
use neural::pixels::{
    BUFFER_BYTES_MAX, Budget, FIRST_OPCODE, Machine, Tensors, Weights, f32_to_f16, fuzz_body,
};
use proptest::prelude::*;

const OUT: [u8; 3] = [250, 255, 0];
const TENSOR: [u8; 3] = [251, 0, 0];
const MATVEC: [u8; 3] = [251, 2, 0];

/// Two rows of three, one tensor of a type without code book, one of three dimensions.
struct Model(Vec<u8>);

impl Model {
    fn new() -> Self {
        Self(bytes(&[1.0, 2.0, 3.0, -1.0, 0.5, 4.0]))
    }
}

impl Tensors for Model {
    fn with_tensor<T>(&self, name: &str, found: impl FnOnce(Weights<'_>) -> T) -> Option<T> {
        let (ggml_type, shape, data): (_, &[u64], &[u8]) = match name {
            "two.rows" => (GgmlType::F32, &[3, 2], &self.0),
            "closed" => (GgmlType::IQ2_S, &[256], &[0; 82]),
            "cube" => (GgmlType::F32, &[3, 2, 1], &self.0),
            _ => return None,
        };
        Some(found(Weights {
            ggml_type,
            shape,
            data,
        }))
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Any bytes as pixels: whole triples of them as literals, the rest filled up and dropped again.
fn literal(data: &[u8]) -> Vec<[u8; 3]> {
    let mut program = Vec::new();
    for chunk in data.chunks(3) {
        let mut pixel = [0; 3];
        pixel[..chunk.len()].copy_from_slice(chunk);
        program.extend([[250, 253, 1], pixel]);
    }
    let filled = data.len().next_multiple_of(3) - data.len();
    program.push([250, 254, u8::try_from(filled).unwrap()]);
    program
}

fn program(parts: &[&[[u8; 3]]]) -> Vec<[u8; 3]> {
    parts.concat()
}

fn run(program: &[[u8; 3]]) -> Result<Vec<u8>, i32> {
    let mut machine = Machine::default();
    let outcome = machine.run(program, &Model::new(), &Budget::default());
    outcome
        .map(|(out, _)| out.to_vec())
        .map_err(|error| error.code())
}

fn floats(data: &[u8]) -> Vec<f32> {
    let (words, rest) = data.as_chunks::<4>();
    assert!(rest.is_empty());
    words.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

/// The vector that `middle` makes of `values`.
fn through(values: &[f32], middle: &[[u8; 3]]) -> Result<Vec<f32>, i32> {
    let load = literal(&bytes(values));
    run(&program(&[
        &load,
        &[[251, 1, 2]],
        middle,
        &[[251, 4, 2], OUT],
    ]))
    .map(|out| floats(&out))
}

#[test]
fn the_seeds_example_says_hello() {
    let out = run(&[[72, 101, 108], [101, 108, 108], [108, 111, 111], OUT]);
    assert_eq!(out, Ok(b"Helellloo".to_vec()));
}

#[test]
fn buffer_opcodes_push_drop_and_quote() {
    assert_eq!(run(&[OUT]), Ok(vec![]));
    assert_eq!(run(&[OUT, [255, 0, 0]]), Ok(vec![]));
    assert_eq!(run(&[[1, 2, 3], [250, 254, 2], OUT]), Ok(vec![1]));
    assert_eq!(
        run(&[[250, 253, 2], [250, 255, 0], [255, 254, 253], OUT]),
        Ok(vec![250, 255, 0, 255, 254, 253])
    );
    assert_eq!(run(&[[1, 2, 3], [250, 254, 4], OUT]), Err(-5));
    assert_eq!(run(&[[250, 253, 2], OUT, OUT]), Err(-1));
    assert_eq!(run(&[[250, 253, 2], OUT]), Err(-1));
    assert_eq!(run(&[]), Err(-1));
    assert_eq!(run(&[[1, 2, 3]]), Err(-1));
}

#[test]
fn what_is_reserved_is_refused() {
    let mut refused = 0;
    for r in FIRST_OPCODE..=255 {
        for g in 0..=255u8 {
            for b in [0u8, 1, 5, 255] {
                let known = match (r, g) {
                    (250, 255) | (251, 0 | 2) => b == 0,
                    (250, 253 | 254) | (252, 0) => true,
                    (251, 1 | 4) => b < 4,
                    (251, 3) => b < 5,
                    _ => false,
                };
                let code = run(&[[r, g, b]]).err().unwrap_or(0);
                assert_eq!(code == -2, !known, "({r},{g},{b}): {code}");
                refused += u32::from(!known);
            }
        }
    }
    assert!(refused > 6000);
}

#[test]
fn tensors_are_selected_read_and_multiplied() {
    let select = literal(b"two.rows");
    let read = program(&[&select, &[TENSOR, [252, 0, 4], [252, 0, 8], OUT]]);
    assert_eq!(run(&read).map(|out| floats(&out)), Ok(vec![1.0, 2.0, 3.0]));
    let product = program(&[&select, &[TENSOR]]);
    let whole = |values: &[f32]| {
        let load = literal(&bytes(values));
        run(&program(&[
            &product,
            &load,
            &[[251, 1, 2], MATVEC, [251, 4, 2], OUT],
        ]))
    };
    assert_eq!(
        whole(&[2.0, 1.0, -1.0]).map(|out| floats(&out)),
        Ok(vec![1.0, -5.5])
    );
    assert_eq!(whole(&[2.0, 1.0]), Err(-5));
    // Past the end, nothing selected, no such name, not a name at all.
    let far = program(&[&select, &[TENSOR, [252, 0, 25], OUT]]);
    assert_eq!(run(&far), Err(-4));
    assert_eq!(run(&[[252, 0, 0], OUT]), Err(-4));
    assert_eq!(run(&[MATVEC, OUT]), Err(-4));
    assert_eq!(
        run(&program(&[&literal(b"two.row"), &[TENSOR, OUT]])),
        Err(-4)
    );
    assert_eq!(
        run(&program(&[&literal(&[0xff; 300]), &[TENSOR, OUT]])),
        Err(-4)
    );
    let with = |name: &[u8]| {
        let load = literal(&bytes(&[0.0; 3]));
        let name = literal(name);
        run(&program(&[
            &name,
            &[TENSOR],
            &load,
            &[[251, 1, 2], MATVEC, OUT],
        ]))
    };
    assert_eq!(with(b"closed"), Err(-4));
    assert_eq!(with(b"cube"), Err(-5));
}

#[test]
fn values_come_and_go_in_every_form() {
    let form = |data: &[u8], load: u8, store: u8| {
        run(&program(&[
            &literal(data),
            &[[251, 1, load], [251, 4, store], OUT],
        ]))
    };
    let all: Vec<u8> = (0..=255).collect();
    for same in 0..2 {
        assert_eq!(form(&all, same, same).as_ref(), Ok(&all));
    }
    assert_eq!(
        form(&[0, 51, 255], 0, 2).map(|out| floats(&out)),
        Ok(vec![0.0, 0.2, 1.0])
    );
    assert_eq!(
        form(&[1, 255, 128], 1, 2).map(|out| floats(&out)),
        Ok(vec![1.0, -1.0, -128.0])
    );
    let wild = bytes(&[f32::NAN, f32::INFINITY, -7.0, 2.0]);
    assert_eq!(form(&wild, 2, 0), Ok(vec![0, 255, 0, 255]));
    assert_eq!(form(&wild, 2, 1), Ok(vec![0, 127, 249, 2]));
    assert_eq!(
        form(&[0, 0x3c, 0, 0xc0], 3, 2).map(|out| floats(&out)),
        Ok(vec![1.0, -2.0])
    );
    assert_eq!(form(&[1, 2, 3], 2, 2), Err(-5));
    assert_eq!(form(&[1], 3, 2), Err(-5));
    // LOAD takes the buffer, STORE adds to it.
    let twice = program(&[
        &literal(&[7, 8]),
        &[[251, 1, 1], [251, 4, 1], [251, 4, 1], OUT],
    ]);
    assert_eq!(run(&twice), Ok(vec![7, 8, 7, 8]));
}

#[test]
fn activations_are_what_their_names_say() {
    let act = |values: &[f32], which: u8| through(values, &[[251, 3, which]]).unwrap();
    assert_eq!(act(&[-1.0, 0.0, 2.5], 0), [0.0, 0.0, 2.5]);
    assert!(act(&[f32::NAN], 0)[0].is_nan());
    assert_eq!(act(&[0.0, 200.0, -200.0], 1), [0.0, 200.0, 0.0]);
    assert!((act(&[1.0], 1)[0] - 0.731_058_6).abs() < 1e-6);
    let soft = act(&[1e30, 1e30, -1e30], 2);
    assert_eq!(soft, [0.5, 0.5, 0.0]);
    let norm = act(&[3.0, -4.0], 3);
    assert!((norm[0] - 3.0 / 12.5f32.sqrt()).abs() < 1e-5 && norm[1] < 0.0);
    assert_eq!(act(&[0.0; 4], 3), [0.0; 4]);
    assert_eq!(act(&[1.0, 7.0, f32::NAN, 7.0], 4), [1.0]);
    assert_eq!(act(&[f32::NAN], 4), [0.0]);
    assert_eq!(run(&[[251, 3, 0], OUT]), Err(-5));
}

#[test]
fn budgets_and_limits_are_kept() {
    let mut machine = Machine::default();
    let mut code = |program: &[[u8; 3]], budget: Budget| {
        machine
            .run(program, &Model::new(), &budget)
            .map(|(_, spent)| spent)
            .map_err(|error| error.code())
    };
    let whole = Budget::default();
    assert_eq!(code(&[[0; 3], OUT], Budget { pixels: 1, ..whole }), Err(-3));
    assert_eq!(
        code(&[[0; 3], OUT], Budget { pixels: 2, ..whole })
            .unwrap()
            .pixels,
        2
    );
    assert_eq!(code(&[[0; 3], OUT], Budget { bytes: 2, ..whole }), Err(-3));
    let product = program(&[
        &literal(b"two.rows"),
        &[TENSOR],
        &literal(&bytes(&[0.0; 3])),
        &[[251, 1, 2], MATVEC, OUT],
    ]);
    assert_eq!(
        code(
            &product,
            Budget {
                multiply_adds: 5,
                ..whole
            }
        ),
        Err(-3)
    );
    assert_eq!(
        code(
            &product,
            Budget {
                multiply_adds: 6,
                ..whole
            }
        )
        .unwrap()
        .multiply_adds,
        6
    );
    let full = vec![[1; 3]; BUFFER_BYTES_MAX / 3];
    assert_eq!(
        run(&program(&[&full, &[OUT]])).unwrap().len(),
        BUFFER_BYTES_MAX / 3 * 3
    );
    assert_eq!(run(&program(&[&full, &[[1; 3], OUT]])), Err(-3));
    // One-byte values stored as four bytes would be over it.
    assert_eq!(
        run(&program(&[&full, &[[251, 1, 0], [251, 4, 2], OUT]])),
        Err(-3)
    );
}

#[test]
fn every_half_comes_back_and_what_lies_between_goes_to_the_nearest() {
    for half in 0..=u16::MAX {
        let value = f16_to_f32(half);
        if value.is_nan() {
            assert!(f16_to_f32(f32_to_f16(value)).is_nan());
        } else {
            assert_eq!(f32_to_f16(value), half, "{half:#x}");
        }
    }
    // Between each half and the next: the middle goes to the even one, its neighbours to the nearer.
    for half in 0..0x7c00u16 {
        let low = f64::from(f16_to_f32(half));
        let high = if half == 0x7bff {
            65_536.0
        } else {
            f64::from(f16_to_f32(half + 1))
        };
        let middle = ((low + high) / 2.0) as f32;
        assert_eq!(f32_to_f16(middle), half + (half & 1), "{half:#x}");
        assert_eq!(f32_to_f16(middle.next_down()), half);
        assert_eq!(f32_to_f16(middle.next_up()), half + 1);
        assert_eq!(f32_to_f16(-middle.next_up()), (half + 1) | 0x8000);
    }
}

#[test]
fn the_fuzz_body_holds_for_a_fixed_seed() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    // What random bytes would seldom be: names, and opcodes with their operands.
    let pieces: [&[u8]; 9] = [
        b"aaa",
        b"bbb",
        b"ccc",
        &TENSOR,
        &MATVEC,
        &[252, 0, 9],
        &[251, 1, 2],
        &[251, 4, 0],
        &OUT,
    ];
    for _ in 0..4000 {
        let mut data = Vec::new();
        for _ in 0..random() % 24 {
            let which = random();
            match which % 3 {
                0 => data.extend(pieces[(which >> 8) as usize % pieces.len()]),
                1 => data.extend([
                    250 + (which >> 8) as u8 % 3,
                    (which >> 16) as u8 % 5,
                    (which >> 24) as u8 % 6,
                ]),
                _ => data.extend(&which.to_le_bytes()[..3]),
            }
        }
        fuzz_body(&data);
    }
}

fn data_pixel() -> impl Strategy<Value = [u8; 3]> {
    (0..FIRST_OPCODE, any::<u8>(), any::<u8>()).prop_map(|(r, g, b)| [r, g, b])
}

proptest! {
    #[test]
    fn any_data_comes_out_as_it_went_in(data in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert_eq!(run(&program(&[&literal(&data), &[OUT]])), Ok(data));
    }

    #[test]
    fn a_program_is_as_its_parts(
        first in prop::collection::vec(data_pixel(), 0..40),
        second in prop::collection::vec(data_pixel(), 0..40),
    ) {
        let apart = |part: &[[u8; 3]]| run(&program(&[part, &[OUT]])).unwrap();
        let whole = run(&program(&[&first, &second, &[OUT]])).unwrap();
        prop_assert_eq!([apart(&first), apart(&second)].concat(), whole);
    }

    #[test]
    fn a_product_is_the_matrixs(x in prop::array::uniform3(-1e3f32..1e3)) {
        let model = Model::new();
        let mut expected = [0.0; 2];
        Matrix::of(GgmlType::F32, &[3, 2], &model.0).unwrap().multiply(&x, &mut expected).unwrap();
        let selected = program(&[&literal(b"two.rows"), &[TENSOR], &literal(&bytes(&x)), &[[251, 1, 2], MATVEC, [251, 4, 2], OUT]]);
        prop_assert_eq!(run(&selected).map(|out| floats(&out)), Ok(expected.to_vec()));
    }

    #[test]
    fn no_program_breaks_a_promise(data in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz_body(&data);
    }
}
