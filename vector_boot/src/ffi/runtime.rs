//! The exports of the runtime in the caller's process: pixel programs, their results, figures and registers.
//!
//! Owns: the one runtime of a process ([`neural_init`] to [`neural_cleanup`]), each thread's last result, and the
//! results that the caller holds until [`neural_free`]. Never here: what a pixel means (`neural::pixels`). Start with
//! [`neural_execute_pixels`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use neural::pixels::{Budget, Machine, Tensors, Weights};

use super::PATH_BYTES_MAX;
use super::caller::{Buffer, Slot, pixels, text};
use super::evolution::Evolution;
use super::failure::{self, Failure, guarded, guarded_pointer};
use super::journal;
use super::model::Model;
use super::registers::{self, Registers};

/// Results that a caller may hold at once: one that reaches this has forgotten to free.
const OWNED_MAX: usize = 65_536;

/// One step of a pixel program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Pixel {
    /// Red: data below 250.
    pub r: u8,
    /// Green.
    pub g: u8,
    /// Blue.
    pub b: u8,
}

/// What the runtime did since `neural_init`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct NeuralStats {
    /// Programs that had a result.
    pub programs: u64,
    /// Programs that were refused.
    pub refused: u64,
    /// Pixels run by programs that had a result.
    pub pixels: u64,
    /// Bytes that these moved, as the budget counts them.
    pub bytes: u64,
    /// Multiply-adds of these, as the budget counts them.
    pub multiply_adds: u64,
    /// Results that were handed out and not freed; of all time.
    pub results_held: u64,
    /// Models open in this process.
    pub models_open: u64,
    /// Newest generation of the default system model.
    pub generation: u64,
}

/// What lives from `neural_init` to `neural_cleanup`.
#[derive(Debug)]
pub struct Runtime {
    /// No two runtimes of a process have the same; a result belongs to one.
    number: u64,
    /// What programs see.
    seen: RwLock<Arc<Seen>>,
    /// The mutations of the default model.
    pub evolution: Mutex<Evolution>,
    registers: Mutex<Registers>,
    /// What each program may cost.
    budget: Budget,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    programs: AtomicU64,
    refused: AtomicU64,
    pixels: AtomicU64,
    bytes: AtomicU64,
    multiply_adds: AtomicU64,
}

/// The runtime. Held for a look only.
static RUNTIME: RwLock<Option<Arc<Runtime>>> = RwLock::new(None);
/// Runtimes so far.
static NUMBER: AtomicU64 = AtomicU64::new(0);
/// Results in the caller's hands, by address.
static OWNED: Mutex<BTreeMap<usize, Box<[u8]>>> = Mutex::new(BTreeMap::new());

thread_local! {
    static LANE: RefCell<Lane> = RefCell::default();
}

/// What a thread keeps from one program to the next: memory, and its last result.
#[derive(Default)]
struct Lane {
    machine: Machine,
    /// Of the runtime of this number; none with 0.
    result_of: u64,
    result: Vec<u8>,
}

/// The tensors of one generation; never changed, so a program sees one generation to its end.
#[derive(Debug)]
struct Seen {
    model: Arc<Model>,
    /// Whether it is the default model, which alone has mutations.
    is_default: bool,
    /// Tensors that a mutation changed.
    changed: BTreeMap<String, Vec<u8>>,
}

impl Tensors for Seen {
    fn with_tensor<T>(&self, name: &str, found: impl FnOnce(Weights<'_>) -> T) -> Option<T> {
        let tensor = self.model.index().tensor(name)?;
        let data = match self.changed.get(name) {
            Some(changed) => changed,
            None => self.model.data(&tensor).ok()?,
        };
        Some(found(Weights {
            ggml_type: tensor.ggml_type,
            shape: tensor.shape(),
            data,
        }))
    }
}

/// Starts the runtime of this process, with the default system model. Where it runs already nothing changes.
///
/// Returns 1, or 0 if it cannot start.
#[unsafe(no_mangle)]
pub extern "C" fn neural_init() -> i32 {
    guarded(|| started(Budget::default()))
}

/// As [`neural_init`], with less for each pixel program: its pixels, the bytes that it moves, its multiply-adds. 0
/// stands for what `neural_init` gives, which is the most there is.
///
/// Returns 1, or 0 if it cannot start, if a value is more than that, or if the runtime runs already within others.
#[unsafe(no_mangle)]
pub extern "C" fn neural_init_within(pixels: u64, bytes: u64, multiply_adds: u64) -> i32 {
    guarded(|| {
        let most = Budget::default();
        let mut wanted = most;
        for (name, given, most, place) in [
            ("pixels", pixels, most.pixels, &mut wanted.pixels),
            ("bytes", bytes, most.bytes, &mut wanted.bytes),
            (
                "multiply_adds",
                multiply_adds,
                most.multiply_adds,
                &mut wanted.multiply_adds,
            ),
        ] {
            if given > most {
                let limit = format_args!("{given}; at most {most}").to_string();
                return Ok(Failure::shape(name, &limit).tell(0));
            }
            if given > 0 {
                *place = given;
            }
        }
        started(wanted)
    })
}

/// 1, or 0 with the reason kept.
fn started(budget: Budget) -> Result<i32, Failure> {
    let mut place = RUNTIME.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = place.as_ref() {
        // Plain `neural_init` asks for a runtime, whatever its budget.
        let fits = budget == running.budget || budget == Budget::default();
        return Ok(if fits {
            1
        } else {
            Failure::started_otherwise().tell(0)
        });
    }
    match Runtime::start(budget) {
        Ok(runtime) => {
            *place = Some(Arc::new(runtime));
            Ok(1)
        }
        Err(failure) => Ok(failure.tell(0)),
    }
}

/// Ends the runtime. Results that were handed out stay the caller's, and open models stay open; a second call is
/// `NEURAL_STATE`.
#[unsafe(no_mangle)]
pub extern "C" fn neural_cleanup() -> i32 {
    guarded(|| {
        let ended = RUNTIME
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // Dropped here, after the lock is gone, or by the last call that still uses it.
        drop(ended.ok_or_else(Failure::not_started)?);
        Ok(0)
    })
}

/// Chooses the model whose tensors pixel programs see; handle 0 is the default system model. The runtime keeps it
/// mapped, also after `neural_close`.
#[unsafe(no_mangle)]
pub extern "C" fn neural_use_model(handle: u64) -> i32 {
    guarded(|| {
        let runtime = runtime()?;
        if handle != 0 {
            runtime.show(Seen {
                model: super::model(handle)?,
                is_default: false,
                changed: BTreeMap::new(),
            });
            return Ok(0);
        }
        let evolution = runtime
            .evolution
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        runtime.show(Seen::of_default(&evolution)?);
        Ok(0)
    })
}

/// Runs a pixel program; its result is this thread's until its next program.
///
/// Returns 1 where there is a result; 0 for null with a count or without `neural_init`; -1 no OUT, -2 bad opcode, -3
/// limit, -4 tensor, -5 shape. After a refusal the thread has no result.
///
/// # Safety
/// `pixels` is null with `count` 0, or `count` pixels that nobody changes during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_execute_pixels(pixels: *const Pixel, count: usize) -> i32 {
    guarded(|| {
        forget_result();
        // SAFETY: the caller owes what `pixels` asks for; the slice does not outlive this call.
        let program = unsafe { self::pixels(pixels.cast(), count) };
        match (program, runtime()) {
            (Ok(program), Ok(runtime)) => Ok(runtime.execute(program)),
            (Err(failure), _) | (_, Err(failure)) => Ok(failure.tell(0)),
        }
    })
}

/// Hands out a copy of this thread's last result, `*len` bytes, which the caller owes to `neural_free`. NULL, and 0 in
/// `*len`, where there is no result.
///
/// # Safety
/// `len` is null or one `size_t` that nothing else uses during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_get_result(len: *mut usize) -> *mut u8 {
    guarded_pointer(|| {
        // SAFETY: the caller owes what `Slot::new` asks for.
        let len = unsafe { Slot::new(len, "len", 0)? };
        with_result(|result| {
            // One byte more, so that an empty result has an address of its own too.
            let mut copy = Vec::with_capacity(result.len() + 1);
            copy.extend_from_slice(result);
            copy.push(0);
            let mut copy = copy.into_boxed_slice();
            let at = copy.as_mut_ptr();
            let mut owned = owned();
            if owned.len() >= OWNED_MAX {
                return Err(Failure::limit("results held", OWNED_MAX));
            }
            owned.insert(at.addr(), copy);
            len.set(result.len());
            Ok(at)
        })?
    })
    .unwrap_or(null_mut())
}

/// Copies this thread's last result. With a shorter `buf` the first `len` bytes are written; returns how many there are.
///
/// # Safety
/// `buf` is null with `len` 0, or `len` bytes that nothing else uses during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_read_result(buf: *mut u8, len: usize) -> i64 {
    guarded(|| {
        // SAFETY: the caller owes what `Buffer::new` asks for.
        let mut out = unsafe { Buffer::new(buf, len, "buf")? };
        with_result(|result| out.push(result))?;
        out.needed()
    })
}

/// Frees what `neural_get_result` handed out. NULL is fine; an address that it did not hand out, or that is freed
/// already, is `NEURAL_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn neural_free(result: *mut c_void) -> i32 {
    guarded(|| {
        if result.is_null() {
            return Ok(0);
        }
        let freed = owned().remove(&result.addr());
        drop(freed.ok_or_else(|| Failure::never_given(result.addr()))?);
        Ok(0)
    })
}

/// Fills `*stats`. `stats_bytes` is the caller's `sizeof(NeuralStats)`; of a longer one only the part that this library
/// knows is written.
///
/// # Safety
/// `stats` is null, or `stats_bytes` bytes that nothing else uses during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_get_stats(stats: *mut NeuralStats, stats_bytes: usize) -> i32 {
    guarded(|| {
        let needed = size_of::<NeuralStats>();
        if stats_bytes < needed {
            return Err(Failure::short("stats_bytes", stats_bytes, needed));
        }
        let runtime = runtime()?;
        let counts = &runtime.counts;
        let found = NeuralStats {
            programs: counts.programs.load(Relaxed),
            refused: counts.refused.load(Relaxed),
            pixels: counts.pixels.load(Relaxed),
            bytes: counts.bytes.load(Relaxed),
            multiply_adds: counts.multiply_adds.load(Relaxed),
            results_held: owned().len() as u64,
            models_open: super::models().len() as u64,
            generation: runtime
                .evolution
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .generation(),
        };
        // SAFETY: the caller owes `stats_bytes` bytes, which are at least the struct's.
        unsafe { Slot::new(stats, "stats", found)? };
        Ok(0)
    })
}

/// The registers of `hw.mmio`: of the Vector Boot machine whose sockets lie in the folder `run` (`/run/vb` on an
/// appliance), or with NULL as this process samples the host itself, once a call. `*beat` is the beat they are of.
///
/// With a shorter `out` the first `len` registers are written; returns how many there are.
///
/// # Safety
/// `run` is null or ends with a NUL; `out` is null with `len` 0, or `len` floats, and `beat` null or one `u64`, that
/// nothing else uses during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_mmio_snapshot(
    run: *const c_char,
    out: *mut f32,
    len: usize,
    beat: *mut u64,
) -> i64 {
    guarded(|| {
        // SAFETY: the caller owes what `Buffer::new` asks for.
        let mut out = unsafe { Buffer::new(out, len, "out")? };
        // SAFETY: the caller owes what `Slot::new` asks for.
        let beat = unsafe { Slot::new(beat, "beat", 0)? };
        let snapshot = if run.is_null() {
            let runtime = runtime()?;
            let mut registers = runtime
                .registers
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            registers.sample()?
        } else {
            // SAFETY: the caller owes the NUL; `run` lives until this call returns, and so does the slice.
            let run = unsafe { text(run, "run", PATH_BYTES_MAX)? };
            registers::of_machine(Path::new(OsStr::from_bytes(run)))?
        };
        beat.set(snapshot.beat);
        out.push(&snapshot.registers);
        out.needed()
    })
}

/// At most 64 rows of cortex_journal of the machine whose sockets lie in the folder `run`, as a JSON array, the oldest
/// first (docs/neural.md). With `cortex` 0 those that its PID 1 keeps, else those of its role cortex; each has a chain
/// and numbers of its own. With `after` 0 the newest, else those behind that number; the first that comes may have a
/// later number than the next one. A chain that does not hold is `NEURAL_FORMAT`.
///
/// With a shorter `buf` the first `len` bytes are written; returns how many there are.
///
/// # Safety
/// `run` is null or ends with a NUL; `buf` is null with `len` 0, or `len` bytes that nothing else uses during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_cortex_journal(
    run: *const c_char,
    cortex: i32,
    after: u64,
    buf: *mut c_char,
    len: usize,
) -> i64 {
    guarded(|| {
        // SAFETY: the caller owes what each of these asks for; the slice does not outlive this call.
        let (mut out, run) = unsafe {
            (
                Buffer::new(buf.cast::<u8>(), len, "buf")?,
                text(run, "run", PATH_BYTES_MAX)?,
            )
        };
        let socket = match cortex {
            0 => "init.sock",
            _ => neural::cortex::SOCKET_NAME,
        };
        let socket = Path::new(OsStr::from_bytes(run)).join(socket);
        let rows = journal::of_machine(&socket, after)?;
        out.push(rows.as_bytes());
        out.needed()
    })
}

/// The name of a register, in ASCII without NUL. Returns its bytes; a place without a register is `NEURAL_NOT_FOUND`.
///
/// # Safety
/// `buf` is null with `len` 0, or `len` bytes that nothing else uses during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_mmio_name(index: u64, buf: *mut c_char, len: usize) -> i64 {
    guarded(|| {
        // SAFETY: the caller owes what `Buffer::new` asks for.
        let mut out = unsafe { Buffer::new(buf.cast::<u8>(), len, "buf")? };
        let place = usize::try_from(index).ok();
        let register = place.and_then(|place| wire::sensors::REGISTERS.get(place));
        let register = register.ok_or_else(|| Failure::not_found("register", index))?;
        out.push(register.name.as_bytes());
        out.needed()
    })
}

impl Seen {
    /// The default model with the newest generation over it.
    fn of_default(evolution: &Evolution) -> Result<Self, Failure> {
        let model = Model::of_default()?;
        let mut changed = BTreeMap::new();
        for tensor in model.index().tensors() {
            let now = evolution.tensor(tensor.name);
            if let Some(now) = now.filter(|now| model.data(&tensor).is_ok_and(|base| base != now)) {
                changed.insert(tensor.name.to_owned(), now);
            }
        }
        Ok(Self {
            model: Arc::new(model),
            is_default: true,
            changed,
        })
    }
}

impl Runtime {
    fn start(budget: Budget) -> Result<Self, Failure> {
        let evolution = Evolution::new()?;
        let seen = Seen::of_default(&evolution.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(Self {
            number: NUMBER.fetch_add(1, Relaxed) + 1,
            seen: RwLock::new(Arc::new(seen)),
            evolution,
            registers: Mutex::default(),
            budget,
            counts: Counts::default(),
        })
    }

    fn show(&self, seen: Seen) {
        *self.seen.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(seen);
    }

    /// Lets programs see the newest generation, if they see the default model at all.
    pub fn see(&self, evolution: &Evolution) -> Result<(), Failure> {
        let is_default = self
            .seen
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_default;
        if is_default {
            let newest = Arc::new(Seen::of_default(evolution)?);
            let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
            // Another thread may have chosen a model meanwhile.
            if seen.is_default {
                *seen = newest;
            }
        }
        Ok(())
    }

    /// 1, or the code of the refusal, whose message is then this thread's.
    fn execute(&self, program: &[[u8; 3]]) -> i32 {
        let seen = Arc::clone(&self.seen.read().unwrap_or_else(PoisonError::into_inner));
        LANE.with_borrow_mut(|lane| {
            let outcome = lane
                .machine
                .run(program, seen.as_ref(), &self.budget)
                .map(|(_, spent)| spent);
            let counts = &self.counts;
            match outcome {
                Ok(spent) => {
                    lane.machine.swap_result(&mut lane.result);
                    lane.result_of = self.number;
                    counts.programs.fetch_add(1, Relaxed);
                    counts.pixels.fetch_add(spent.pixels, Relaxed);
                    counts.bytes.fetch_add(spent.bytes, Relaxed);
                    counts.multiply_adds.fetch_add(spent.multiply_adds, Relaxed);
                    1
                }
                Err(error) => {
                    counts.refused.fetch_add(1, Relaxed);
                    failure::keep(error.to_string());
                    error.code()
                }
            }
        })
    }
}

/// The runtime; it stays whole as long as the result is held, whatever other threads end.
pub fn runtime() -> Result<Arc<Runtime>, Failure> {
    let place = RUNTIME.read().unwrap_or_else(PoisonError::into_inner);
    place.clone().ok_or_else(Failure::not_started)
}

fn forget_result() {
    LANE.with_borrow_mut(|lane| lane.result_of = 0);
}

/// Shows this thread's last result.
fn with_result<T>(show: impl FnOnce(&[u8]) -> T) -> Result<T, Failure> {
    let number = runtime()?.number;
    LANE.with_borrow(|lane| {
        if lane.result_of == number {
            Ok(show(&lane.result))
        } else {
            Err(Failure::not_found("result of a program", "in this thread"))
        }
    })
}

/// The table of results. Its operations leave it whole at every step, so a panic beside it spoils nothing.
fn owned() -> MutexGuard<'static, BTreeMap<usize, Box<[u8]>>> {
    OWNED.lock().unwrap_or_else(PoisonError::into_inner)
}
