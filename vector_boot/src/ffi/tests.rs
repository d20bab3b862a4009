//! The exports as a C caller uses and misuses them.

use super::*;
use gguf::GgmlType;
use gguf::writer::Writer;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};
use tempfile::TempDir;

/// One block of Q4_1: scale 0.5, minimum -1, and nibbles of which value `i` is `i % 16`.
fn q4_1_block() -> Vec<u8> {
    let mut block = vec![0x00, 0x38, 0x00, 0xbc];
    block.extend((0..16u8).map(|i| i | i << 4));
    block
}

fn model_bytes() -> Vec<u8> {
    Writer::new()
        .text("general.architecture", "vector")
        .u32("vector.width", 4)
        .f32_tensor(
            "plain",
            &[4, 2],
            &[0.0, 1.0, -2.5, f32::MAX, 4.0, 5.0, 6.0, 7.0],
        )
        .tensor(
            "quantised",
            GgmlType::Q4_1,
            &[32, 3],
            q4_1_block().repeat(3),
        )
        .tensor("closed book", GgmlType::IQ2_S, &[256], vec![0; 82])
        .finish()
        .unwrap()
}

struct Site {
    folder: TempDir,
}

impl Site {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn model(&self) -> u64 {
        open(&self.file("m.gguf", &model_bytes())).unwrap()
    }
}

fn c(text: impl AsRef<[u8]>) -> CString {
    CString::new(text.as_ref()).unwrap()
}

fn open(path: &Path) -> Result<u64, i32> {
    let mut handle = 7;
    // SAFETY: the string ends with a NUL, the handle is ours.
    let code = unsafe { neural_open(c(path.as_os_str().as_bytes()).as_ptr(), &mut handle) };
    assert_eq!(code == 0, handle != 0, "{code} {handle}");
    if code == 0 { Ok(handle) } else { Err(code) }
}

fn find(handle: u64, name: &str) -> i64 {
    // SAFETY: the string ends with a NUL.
    unsafe { neural_tensor_find(handle, c(name).as_ptr()) }
}

fn info(handle: u64, index: u64) -> Result<NeuralTensorInfo, i32> {
    let mut info = model::row(
        &gguf::Index::parse(&model_bytes())
            .unwrap()
            .tensor_at(2)
            .unwrap(),
    );
    // SAFETY: the struct is ours and as long as said.
    let code = unsafe { neural_tensor_info(handle, index, &mut info, size_of_val(&info)) };
    if code == 0 { Ok(info) } else { Err(code) }
}

fn values(handle: u64, index: u64, room: usize) -> (i64, Vec<f32>) {
    let mut out = vec![f32::NAN; room];
    // SAFETY: `room` floats of ours.
    let needed = unsafe { neural_dequantize(handle, index, out.as_mut_ptr(), room) };
    (needed, out)
}

fn view(handle: u64, index: u64) -> Result<(*const c_void, usize), i32> {
    let (mut data, mut bytes) = (std::ptr::dangling(), 9);
    // SAFETY: both are ours.
    let code = unsafe { neural_tensor_view(handle, index, &mut data, &mut bytes) };
    if code == 0 {
        Ok((data, bytes))
    } else {
        assert_eq!((data, bytes), (null(), 0));
        Err(code)
    }
}

fn metadata(handle: u64, key: &str, room: usize) -> (i64, Vec<u8>) {
    let mut out = vec![b'.'; room];
    // SAFETY: the string ends with a NUL, the buffer has `room` bytes.
    let needed = unsafe { neural_metadata(handle, c(key).as_ptr(), out.as_mut_ptr().cast(), room) };
    (needed, out)
}

fn message() -> String {
    let mut out = vec![0u8; 4096];
    // SAFETY: the buffer has as many bytes.
    let needed = unsafe { neural_last_error(out.as_mut_ptr().cast(), out.len()) };
    out.truncate(usize::try_from(needed).unwrap());
    String::from_utf8(out).unwrap()
}

const ARGUMENT: i32 = Code::Argument as i32;
const HANDLE: i32 = Code::Handle as i32;
const NOT_FOUND: i32 = Code::NotFound as i32;
const FORMAT: i32 = Code::Format as i32;

#[test]
fn a_model_is_read_through_its_handle() {
    let site = Site::new();
    let handle = site.model();
    assert_eq!(neural_tensor_count(handle), 3);
    assert_eq!(find(handle, "quantised"), 1);
    let row = info(handle, 1).unwrap();
    assert_eq!(
        (row.bytes, row.values, row.shape, row.dims),
        (60, 96, [32, 3, 1, 1], 2)
    );
    assert_eq!(
        (row.type_id, row.block_values, row.block_bytes),
        (3, 32, 20)
    );
    assert_eq!(row.type_name.map(|c| c as u8), *b"Q4_1\0\0\0\0\0\0\0\0");
    let name = row.name.map(|c| c as u8);
    assert_eq!((&name[..10], row.name_len), (&b"quantised\0"[..], 9));
    assert_eq!(
        metadata(handle, "general.architecture", 8),
        (8, b"\"vector\"".to_vec())
    );
    assert_eq!(metadata(handle, "vector.width", 3), (1, b"4..".to_vec()));
    let (data, bytes) = view(handle, 1).unwrap();
    // SAFETY: a view of a model that is closed below.
    let seen = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), bytes) };
    assert_eq!(seen, q4_1_block().repeat(3));
    assert_eq!(
        values(handle, 0, 8),
        (8, vec![0.0, 1.0, -2.5, f32::MAX, 4.0, 5.0, 6.0, 7.0])
    );
    let expected: Vec<f32> = (0..96u8).map(|i| f32::from(i % 16) * 0.5 - 1.0).collect();
    assert_eq!(values(handle, 1, 96), (96, expected));
    assert_eq!(neural_close(handle), 0);
}

#[test]
fn a_short_buffer_gets_the_first_part_and_the_whole_length() {
    let site = Site::new();
    let handle = site.model();
    let (needed, out) = values(handle, 1, 33);
    assert_eq!((needed, out[31], out[32]), (96, 6.5, -1.0));
    assert_eq!(values(handle, 1, 0), (96, vec![]));
    let (needed, out) = values(handle, 0, 10);
    assert_eq!((needed, out[7]), (8, 7.0));
    assert!(out[8].is_nan() && out[9].is_nan());
    assert_eq!(
        metadata(handle, "general.architecture", 3),
        (8, b"\"ve".to_vec())
    );
    // SAFETY: no room is promised, so nothing is written.
    unsafe {
        assert_eq!(neural_dequantize(handle, 1, null_mut(), 0), 96);
        assert_eq!(
            neural_metadata(handle, c("vector.width").as_ptr(), null_mut(), 0),
            1
        );
    }
    assert_eq!(neural_close(handle), 0);
}

#[test]
fn packages_give_their_model_also_where_it_lies_unaligned() {
    let site = Site::new();
    let binary = rts::sample::program(rts::Machine::NATIVE);
    for padding in [0, 1, 3] {
        let mut binary = binary.clone();
        binary.resize(binary.len() + padding, 0);
        let package = rts::sample::plain(&binary, &model_bytes());
        let handle = open(&site.file("p.rts", &package)).unwrap();
        assert_eq!(values(handle, 0, 8).1[2], -2.5);
        assert_eq!(values(handle, 1, 96).1[95], 6.5);
        assert_eq!(neural_close(handle), 0);
        let cut = site.file("cut.rts", &package[..package.len() - 1]);
        assert_eq!(open(&cut), Err(FORMAT));
        assert!(message().contains("cut.rts: tensor_size"), "{}", message());
    }
}

#[test]
fn what_is_no_model_is_refused_with_its_path() {
    let site = Site::new();
    let whole = model_bytes();
    for len in 0..whole.len() - 64 {
        let refused = open(&site.file("cut", &whole[..len]));
        assert_eq!(refused, Err(FORMAT), "cut at {len}");
    }
    assert!(message().contains("cut: "), "{}", message());
    assert_eq!(
        open(&site.folder.path().join("absent")),
        Err(Code::Io as i32)
    );
    assert!(message().contains("absent: "), "{}", message());
    for path in [site.folder.path(), Path::new("/dev/null")] {
        assert_eq!(open(path), Err(Code::Io as i32), "{}", path.display());
    }
    assert_eq!(open(Path::new(&"d/".repeat(3000))), Err(ARGUMENT));
}

#[test]
fn bad_handles_are_codes_from_every_export() {
    let site = Site::new();
    let closed = site.model();
    assert_eq!(neural_close(closed), 0);
    let other = site.model();
    for handle in [0, closed, u64::MAX, other + 1, other ^ (1 << 40)] {
        assert_eq!(neural_close(handle), HANDLE);
        assert_eq!(neural_tensor_count(handle), i64::from(HANDLE));
        assert_eq!(find(handle, "plain"), i64::from(HANDLE));
        assert_eq!(info(handle, 0), Err(HANDLE));
        assert_eq!(view(handle, 0), Err(HANDLE));
        assert_eq!(values(handle, 0, 8).0, i64::from(HANDLE));
        assert_eq!(metadata(handle, "vector.width", 8).0, i64::from(HANDLE));
        assert_eq!(
            message(),
            format!("handle {handle:#x}: closed, or never opened")
        );
    }
    assert_eq!(neural_close(other), 0);
}

#[test]
fn what_is_not_there_is_not_found() {
    let site = Site::new();
    let handle = site.model();
    for index in [3, u64::from(u32::MAX), u64::MAX] {
        assert_eq!(info(handle, index), Err(NOT_FOUND));
        assert_eq!(view(handle, index), Err(NOT_FOUND));
        assert_eq!(values(handle, index, 1).0, i64::from(NOT_FOUND));
    }
    for name in ["", "Plain", "plain ", &"n".repeat(100)] {
        assert_eq!(find(handle, name), i64::from(NOT_FOUND));
        assert_eq!(metadata(handle, name, 1).0, i64::from(NOT_FOUND));
    }
    assert_eq!(values(handle, 2, 1).0, i64::from(Code::Type as i32));
    assert!(message().contains("IQ2_S"), "{}", message());
    assert_eq!(neural_close(handle), 0);
}

#[test]
fn null_misaligned_and_impossible_arguments_are_codes() {
    let site = Site::new();
    let handle = site.model();
    let path = c(site.folder.path().join("m.gguf").as_os_str().as_bytes());
    let mut room = [0u64; 64];
    let at = room.as_mut_ptr();
    let odd = at.cast::<u8>().wrapping_add(1);
    let whole = size_of::<NeuralTensorInfo>();
    let (mut data, mut bytes) = (null(), 0usize);
    // SAFETY: strings end with a NUL; every pointer is null, misaligned, or one of ours with its length, or it comes
    // with a length that no object has; the library refuses these before it uses them.
    unsafe {
        let wide = [
            neural_tensor_find(handle, null()),
            neural_tensor_find(handle, c"\xff".as_ptr()),
            neural_metadata(handle, null(), null_mut(), 0),
            neural_metadata(handle, c"\xff".as_ptr(), null_mut(), 0),
            neural_metadata(handle, c"vector.width".as_ptr(), null_mut(), 1),
            neural_metadata(handle, c"vector.width".as_ptr(), at.cast(), usize::MAX),
            neural_dequantize(handle, 0, null_mut(), 1),
            neural_dequantize(handle, 0, odd.cast(), 1),
            neural_dequantize(handle, 0, at.cast(), usize::MAX / 4),
            neural_dequantize(handle, 0, at.cast(), usize::MAX / 4 + 2),
            neural_last_error(null_mut(), 1),
            neural_last_error(at.cast(), usize::MAX),
        ];
        assert_eq!(wide, [i64::from(ARGUMENT); 12]);
        let narrow = [
            neural_open(null(), at),
            neural_open(path.as_ptr(), null_mut()),
            neural_open(path.as_ptr(), odd.cast()),
            neural_tensor_info(handle, 0, null_mut(), whole),
            neural_tensor_info(handle, 0, odd.cast(), whole),
            neural_tensor_view(handle, 0, null_mut(), &mut bytes),
            neural_tensor_view(handle, 0, &mut data, null_mut()),
            neural_tensor_view(handle, 0, odd.cast(), &mut bytes),
            neural_tensor_view(handle, 0, &mut data, odd.cast()),
        ];
        assert_eq!(narrow, [ARGUMENT; 9]);
        for short in [0, 1, whole - 1] {
            let code = neural_tensor_info(handle, 0, at.cast(), short);
            assert_eq!(code, Code::Short as i32);
        }
        assert_eq!(room, [0; 64]);
        let at = room.as_mut_ptr();
        assert_eq!(neural_tensor_info(handle, 0, at.cast(), whole + 8), 0);
    }
    assert_eq!(room[whole / 8..], [0; 64][whole / 8..]);
    assert_eq!(neural_close(handle), 0);
}

#[test]
fn the_last_error_is_cut_to_the_room_and_survives_its_own_misuse() {
    const WHOLE: &str = "handle 0x0: closed, or never opened";
    assert_eq!(neural_close(0), HANDLE);
    let mut out = [0u8; 6];
    // SAFETY: six bytes of ours.
    let needed = unsafe { neural_last_error(out.as_mut_ptr().cast(), 6) };
    assert_eq!((&out, needed), (b"handle", WHOLE.len() as i64));
    // SAFETY: no room is promised, then room at null, which the library refuses before it uses it.
    unsafe {
        assert_eq!(neural_last_error(null_mut(), 0), WHOLE.len() as i64);
        assert_eq!(neural_last_error(null_mut(), 5), i64::from(ARGUMENT));
    }
    assert_eq!(message(), WHOLE);
}

#[test]
fn a_call_under_way_keeps_what_another_thread_closes() {
    let site = Site::new();
    let handle = site.model();
    let held = super::model(handle).unwrap();
    assert_eq!(neural_close(handle), 0);
    let tensor = held.tensor(0).unwrap();
    assert_eq!(held.data(&tensor).unwrap().len(), 32);
    assert_eq!(neural_tensor_count(handle), i64::from(HANDLE));
}

#[test]
fn threads_open_read_and_close_side_by_side() {
    let site = Site::new();
    let path = site.file("m.gguf", &model_bytes());
    let shared = site.model();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..100 {
                    let own = open(&path).unwrap();
                    assert_eq!(values(own, 1, 96).1, values(shared, 1, 96).1);
                    assert_eq!(neural_close(own), 0);
                    assert_eq!(neural_close(own), HANDLE);
                    assert!(message().starts_with(&format!("handle {own:#x}")));
                }
            });
        }
    });
    assert_eq!(neural_close(shared), 0);
}

/// The seed's example and its nine bytes.
const HELLO: [Pixel; 4] = [
    pixel(72, 101, 108),
    pixel(101, 108, 108),
    pixel(108, 111, 111),
    pixel(250, 255, 0),
];
/// The runtime is one for the whole process, and so for all tests of this file.
static RUNTIME_TESTS: Mutex<()> = Mutex::new(());

const fn pixel(r: u8, g: u8, b: u8) -> Pixel {
    Pixel { r, g, b }
}

fn execute(program: &[Pixel]) -> i32 {
    // SAFETY: the slice is ours and as long as said.
    unsafe { neural_execute_pixels(program.as_ptr(), program.len()) }
}

/// This thread's result through the caller's buffer.
fn result() -> Result<Vec<u8>, i64> {
    let mut out = vec![0; 64];
    // SAFETY: the buffer is ours and as long as said.
    let needed = unsafe { neural_read_result(out.as_mut_ptr(), out.len()) };
    let len = usize::try_from(needed).map_err(|_| needed)?;
    out.truncate(len);
    Ok(out)
}

fn stats() -> Result<NeuralStats, i32> {
    let mut stats = NeuralStats::default();
    // SAFETY: the struct is ours and as long as said.
    match unsafe { neural_get_stats(&mut stats, size_of_val(&stats)) } {
        0 => Ok(stats),
        code => Err(code),
    }
}

#[test]
fn the_runtime_has_a_beginning_and_an_end() {
    let _alone = RUNTIME_TESTS.lock();
    let state = Code::State as i32;
    assert_eq!(
        (execute(&HELLO), message().contains("neural_init")),
        (0, true)
    );
    assert_eq!(result(), Err(i64::from(state)));
    assert_eq!(stats(), Err(state));
    assert_eq!(neural_use_model(0), state);
    assert_eq!(neural_cleanup(), state);
    assert_eq!((neural_init(), neural_init()), (1, 1));
    assert_eq!(execute(&HELLO), 1);
    assert_eq!(result(), Ok(b"Helellloo".to_vec()));
    assert_eq!((neural_cleanup(), neural_cleanup()), (0, state));
    assert_eq!(neural_init(), 1);
    // A result does not outlive its runtime.
    assert_eq!(result(), Err(i64::from(NOT_FOUND)));
    assert_eq!(
        stats(),
        Ok(NeuralStats {
            models_open: stats().unwrap().models_open,
            ..NeuralStats::default()
        })
    );
    assert_eq!(neural_cleanup(), 0);
}

#[test]
fn programs_results_and_misuse() {
    let _alone = RUNTIME_TESTS.lock();
    assert_eq!(neural_init(), 1);
    // SAFETY: null with and without a count; an impossible count.
    unsafe {
        assert_eq!(neural_execute_pixels(null(), 0), -1);
        assert_eq!(neural_execute_pixels(null(), 1), 0);
        assert_eq!(neural_execute_pixels(HELLO.as_ptr(), usize::MAX), 0);
    }
    assert_eq!(execute(&[pixel(253, 0, 0)]), -2);
    assert_eq!(message(), "pixel 0: (253,0,0) is reserved");
    assert_eq!(result(), Err(i64::from(NOT_FOUND)));
    assert_eq!(execute(&HELLO), 1);
    assert_eq!(
        std::thread::spawn(result).join().unwrap(),
        Err(i64::from(NOT_FOUND))
    );
    let mut len = 0;
    // SAFETY: the length is ours; what is handed out has as many bytes and is freed once.
    unsafe {
        assert!(neural_get_result(null_mut()).is_null());
        let owned = neural_get_result(&mut len);
        assert_eq!(std::slice::from_raw_parts(owned, len), b"Helellloo");
        assert_eq!(stats().unwrap().results_held, 1);
        assert_eq!(neural_free(owned.cast()), 0);
        assert_eq!(neural_free(owned.cast()), HANDLE);
        assert_eq!(neural_free(null_mut()), 0);
        assert_eq!(neural_free(std::ptr::without_provenance_mut(7)), HANDLE);
        assert_eq!(neural_read_result(null_mut(), 0), 9);
        assert_eq!(neural_read_result(null_mut(), 1), i64::from(ARGUMENT));
        assert_eq!(neural_get_stats(null_mut(), 1000), ARGUMENT);
        assert_eq!(neural_get_stats(null_mut(), 8), Code::Short as i32);
    }
    let stats = stats().unwrap();
    assert_eq!((stats.programs, stats.pixels, stats.bytes), (1, 4, 9));
    assert_eq!((stats.refused, stats.results_held), (2, 0));
    assert_eq!(neural_cleanup(), 0);
}

#[test]
fn programs_have_the_budget_that_the_runtime_began_with() {
    let _alone = RUNTIME_TESTS.lock();
    for (name, [pixels, bytes, multiply_adds]) in [
        ("pixels", [1 << 40, 0, 0]),
        ("bytes", [0, u64::MAX, 0]),
        ("multiply_adds", [0, 0, (1 << 31) + 1]),
    ] {
        assert_eq!(neural_init_within(pixels, bytes, multiply_adds), 0);
        assert!(message().starts_with(name), "{}", message());
    }
    assert_eq!(neural_init_within(3, 0, 0), 1);
    assert_eq!(execute(&HELLO), -3);
    assert_eq!(execute(&HELLO[..2]), -1);
    // It lasts: a plain start changes nothing, one with another budget is refused.
    assert_eq!((neural_init(), neural_init_within(3, 0, 0)), (1, 1));
    assert_eq!((execute(&HELLO), neural_init_within(4, 0, 0)), (-3, 0));
    assert_eq!(neural_cleanup(), 0);
    assert_eq!((neural_init_within(4, 9, 0), execute(&HELLO)), (1, 1));
    assert_eq!(neural_cleanup(), 0);
    assert_eq!((neural_init_within(0, 8, 0), execute(&HELLO)), (1, -3));
    assert_eq!(neural_cleanup(), 0);
}

#[test]
fn programs_see_the_chosen_model() {
    let _alone = RUNTIME_TESTS.lock();
    let site = Site::new();
    assert_eq!(neural_init(), 1);
    let read = |name: &[u8; 9]| {
        let (name, _) = name.as_chunks::<3>();
        let mut program: Vec<Pixel> = name.iter().map(|[r, g, b]| pixel(*r, *g, *b)).collect();
        program.extend([pixel(251, 0, 0), pixel(252, 0, 4), pixel(250, 255, 0)]);
        execute(&program)
    };
    assert_eq!((read(b"policy.w1"), read(b"quantised")), (1, -4));
    let handle = site.model();
    assert_eq!(neural_use_model(handle), 0);
    assert_eq!(neural_close(handle), 0);
    assert_eq!(neural_use_model(handle), HANDLE);
    assert_eq!((read(b"policy.w1"), read(b"quantised")), (-4, 1));
    assert_eq!(result(), Ok(q4_1_block()[..4].to_vec()));
    assert_eq!(neural_use_model(0), 0);
    assert_eq!(read(b"policy.w1"), 1);
    assert_eq!(neural_cleanup(), 0);
}

#[test]
fn a_product_is_that_of_the_dequantised_rows() {
    let site = Site::new();
    let handle = site.model();
    let product = |index: u64, x: &[f32], room: usize| {
        let mut out = vec![f32::NAN; room];
        // SAFETY: both slices are ours and as long as said.
        let needed =
            unsafe { neural_matvec(handle, index, x.as_ptr(), x.len(), out.as_mut_ptr(), room) };
        (needed, out)
    };
    assert_eq!(product(0, &[1.0, 1.0, 1.0, 0.0], 2), (2, vec![-1.5, 15.0]));
    assert_eq!(product(0, &[1.0, 1.0, 1.0, 0.0], 1), (2, vec![-1.5]));
    assert_eq!(product(0, &[1.0; 4], 0).0, 2);
    let (needed, out) = product(1, &[1.0; 32], 3);
    let (_, row) = values(handle, 1, 32);
    assert_eq!((needed, out), (3, vec![row.iter().sum(); 3]));
    assert_eq!(product(0, &[1.0; 3], 2).0, i64::from(ARGUMENT));
    assert_eq!(message(), "plain: x of 3 values; a row has 4");
    assert_eq!(product(2, &[1.0; 256], 1).0, i64::from(Code::Type as i32));
    assert_eq!(product(9, &[1.0; 4], 1).0, i64::from(NOT_FOUND));
    // SAFETY: null without a length, null with one, and an address that is not aligned.
    unsafe {
        let (x, mut out) = ([0f32; 4], [0f32; 4]);
        assert_eq!(
            neural_matvec(handle, 0, null(), 4, null_mut(), 0),
            i64::from(ARGUMENT)
        );
        assert_eq!(
            neural_matvec(handle, 0, null(), 0, null_mut(), 0),
            i64::from(ARGUMENT)
        );
        assert_eq!(
            neural_matvec(handle, 0, x.as_ptr(), 4, null_mut(), 2),
            i64::from(ARGUMENT)
        );
        let odd = out.as_mut_ptr().byte_add(1);
        assert_eq!(
            neural_matvec(handle, 0, x.as_ptr(), 4, odd, 2),
            i64::from(ARGUMENT)
        );
        assert_eq!(
            neural_matvec(handle, 0, odd, 4, null_mut(), 0),
            i64::from(ARGUMENT)
        );
    }
    assert_eq!(neural_close(handle), 0);
    assert_eq!(product(0, &[1.0; 4], 2).0, i64::from(HANDLE));
}

#[test]
fn registers_are_sampled_and_named() {
    let _alone = RUNTIME_TESTS.lock();
    let snapshot = |run: Option<&str>, room: usize| {
        let (mut out, mut beat) = (vec![0.0f32; room], 7);
        let run = run.map(c);
        let run = run.as_ref().map_or(null(), |run| run.as_ptr());
        // SAFETY: text, buffer and number are ours.
        let needed = unsafe { neural_mmio_snapshot(run, out.as_mut_ptr(), room, &mut beat) };
        (needed, beat, out)
    };
    assert_eq!(snapshot(None, 64).0, i64::from(Code::State as i32));
    assert_eq!(neural_init(), 1);
    let (needed, beat, out) = snapshot(None, 64);
    assert_eq!((needed, beat, out[0]), (64, 1, 1.0));
    assert!(out[5] >= 0.0, "the host has a load");
    assert_eq!((snapshot(None, 1).1, snapshot(None, 0).0), (2, 64));
    let site = Site::new();
    let nobody = snapshot(Some(site.folder.path().to_str().unwrap()), 64);
    assert_eq!((nobody.0, nobody.1), (i64::from(Code::Io as i32), 0));
    let mut name = [0u8; 16];
    // SAFETY: the buffer is ours and as long as said.
    let bytes = unsafe { neural_mmio_name(5, name.as_mut_ptr().cast(), name.len()) };
    assert_eq!(&name[..usize::try_from(bytes).unwrap()], b"load.1m");
    // SAFETY: as above.
    let none = unsafe { neural_mmio_name(64, name.as_mut_ptr().cast(), name.len()) };
    assert_eq!(none, i64::from(NOT_FOUND));
    assert_eq!(neural_cleanup(), 0);
}

#[test]
fn mutations_are_judged_seen_listed_and_undone() {
    let _alone = RUNTIME_TESTS.lock();
    let propose = |name: &str, offset: u64, payload: &[u8], base: u64, confidence: f32| {
        let mut generation = 99;
        // SAFETY: text, bytes and number are ours.
        let verdict = unsafe {
            neural_propose_mutation(
                c(name).as_ptr(),
                offset,
                payload.as_ptr(),
                payload.len(),
                null(),
                base,
                confidence,
                &mut generation,
            )
        };
        (verdict, generation)
    };
    let ones = 1.0f32.to_le_bytes().repeat(8);
    assert_eq!(propose("policy.b2", 0, &ones, 0, 0.9).0, Code::State as i32);
    assert_eq!(neural_init(), 1);
    let generation = || {
        // SAFETY: asks for the length alone, then the buffer is ours.
        unsafe {
            let mut out = vec![0; usize::try_from(neural_generation_read(null_mut(), 0)).unwrap()];
            neural_generation_read(out.as_mut_ptr(), out.len());
            out
        }
    };
    let base = generation();
    // Verdicts of docs/evolution.md: confidence, unknown, protected, range, border, generation, no number.
    assert_eq!(propose("policy.b2", 0, &ones, 0, 0.8), (2, 0));
    assert_eq!(propose("policy.b2", 0, &ones, 0, f32::NAN), (1, 0));
    assert_eq!(propose("Policy.b2", 0, &ones, 0, 0.9), (4, 0));
    assert_eq!(propose("kernel.limits", 0, &ones, 0, 1.0), (5, 0));
    assert_eq!(propose("policy.b2", 4, &ones, 0, 0.9), (8, 0));
    assert_eq!(propose("policy.b2", 2, &ones[..4], 0, 0.9), (9, 0));
    assert_eq!(propose("policy.b2", 0, &ones, 7, 0.9), (10, 0));
    assert_eq!(
        propose("policy.b2", 0, &f32::NAN.to_le_bytes(), 0, 0.9),
        (13, 0)
    );
    assert_eq!(generation(), base);
    let first = || {
        let name = [
            pixel(b'p', b'o', b'l'),
            pixel(b'i', b'c', b'y'),
            pixel(b'.', b'b', b'2'),
        ];
        let run = [pixel(251, 0, 0), pixel(252, 0, 4), pixel(250, 255, 0)];
        assert_eq!(execute(&[name, run].concat()), 1);
        result().expect("a result")
    };
    let before = first();
    assert_ne!(before, ones[..4]);
    assert_eq!(propose("policy.b2", 0, &ones[..4], 0, 0.9), (0, 1));
    assert_eq!(stats().unwrap().generation, 1);
    // A program sees it at once.
    assert_eq!(first(), ones[..4]);
    let mut now = 0;
    // SAFETY: the number is ours.
    unsafe {
        assert_eq!(neural_rollback(5, &mut now), NOT_FOUND);
        assert_eq!(neural_rollback(0, null_mut()), ARGUMENT);
        assert_eq!((neural_rollback(0, &mut now), now), (0, 2));
    }
    assert_eq!(first(), before);
    // All behind the header is as it was, and the hash in it says so.
    assert_eq!(generation()[64..96], base[64..96]);
    assert_eq!(generation()[128..], base[128..]);
    let mut text = vec![0; 8192];
    // SAFETY: the buffer is ours.
    let needed = unsafe { neural_journal_read(text.as_mut_ptr().cast(), text.len()) };
    text.truncate(usize::try_from(needed).unwrap());
    let rows: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let verdicts: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["verdict"])
        .collect();
    assert_eq!(verdicts[8], "accepted");
    assert_eq!(verdicts[9], "rolled_back");
    let mut hash = [0; 32];
    // SAFETY: both are ours.
    unsafe {
        assert_eq!(
            neural_blake3(ones.as_ptr(), ones.len(), hash.as_mut_ptr()),
            0
        );
        assert_eq!(neural_blake3(null(), 1, hash.as_mut_ptr()), ARGUMENT);
        assert_eq!(neural_blake3(null(), 0, null_mut()), ARGUMENT);
    }
    assert_eq!(hash, *blake3::hash(&ones).as_bytes());
    assert_eq!(neural_cleanup(), 0);
}

#[test]
fn what_the_policy_sees_is_answered_for_all_registers_or_none() {
    let registers = [f32::NAN; wire::sensors::COUNT];
    let mut out = [1.0f32; wire::sensors::COUNT];
    // SAFETY: each pointer covers what its length says.
    unsafe {
        let needed = neural_policy_inputs(
            registers.as_ptr(),
            registers.len(),
            out.as_mut_ptr(),
            out.len(),
        );
        assert_eq!((needed, out), (64, [0.0; 64]));
        let argument = i64::from(ARGUMENT);
        assert_eq!(
            neural_policy_inputs(registers.as_ptr(), 63, out.as_mut_ptr(), 64),
            argument
        );
        assert_eq!(
            neural_policy_inputs(null(), 64, out.as_mut_ptr(), 64),
            argument
        );
        assert_eq!(
            neural_policy_inputs(registers.as_ptr(), 64, null_mut(), 0),
            64
        );
        assert_eq!(
            neural_policy_inputs(registers.as_ptr(), 64, null_mut(), 1),
            argument
        );
    }
}

#[test]
fn the_journal_of_a_machine_that_is_not_there_is_an_error_and_null_is_an_argument() {
    let nowhere = c"/nonexistent/run";
    // SAFETY: the text ends with a NUL, and nothing is to be written.
    unsafe {
        assert_eq!(
            neural_cortex_journal(nowhere.as_ptr(), 1, 0, null_mut(), 0),
            i64::from(Code::Io as i32)
        );
        assert_eq!(
            neural_cortex_journal(null(), 0, 0, null_mut(), 0),
            i64::from(ARGUMENT)
        );
    }
}
