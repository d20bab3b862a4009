//! The exports of evolution in the caller's process: mutations of the default system model, judged by the same rules as
//! a machine's, undone, and listed.
//!
//! Owns: the engine of this process's runtime, whose log is in memory. Never here: a rule (`neural::evolution`), the ring
//! of a running machine, which a proposer maps for itself (`docs/evolution.md`). Start with
//! [`neural_propose_mutation`].

use std::ffi::c_char;
use std::fmt::Write;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use neural::evolution::ring::SLOT_BYTES;
use neural::evolution::{Base, Engine, Now, Proposal, RollbackError, Verdict};

use super::NAME_BYTES_MAX;
use super::caller::{Buffer, Slot, lent, text};
use super::failure::{Failure, guarded};
use super::runtime::{Runtime, runtime};

/// Bytes of a BLAKE3 hash.
const HASH_BYTES: usize = 32;

/// The engine, and the clock that its times are of.
#[derive(Debug)]
pub struct Evolution {
    engine: Engine<'static>,
    begun: Instant,
    proposed: u64,
}

impl Evolution {
    /// Over the default system model, with nothing changed.
    pub fn new() -> Result<Mutex<Self>, Failure> {
        // Made once for the process: every runtime's base is the same.
        static SYSTEM: OnceLock<Vec<u8>> = OnceLock::new();
        let system = SYSTEM.get_or_init(neural::default_model);
        let base = Base::new(None, system, None);
        let base = base.map_err(|error| Failure::format("default model", &error))?;
        let engine = Engine::in_memory(base);
        Ok(Mutex::new(Self {
            engine: engine.map_err(|error| Failure::machine("log of mutations", &error))?,
            begun: Instant::now(),
            proposed: 0,
        }))
    }

    /// Newest generation.
    pub fn generation(&self) -> u64 {
        self.engine.generation()
    }

    /// A tensor's bytes as they are now.
    pub fn tensor(&self, name: &str) -> Option<Vec<u8>> {
        self.engine.tensor(name)
    }

    fn now(&self) -> Now {
        let nanoseconds = |since: Duration| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        Now {
            monotonic_ns: nanoseconds(self.begun.elapsed()),
            wall_ns: nanoseconds(wall.unwrap_or_default()),
        }
    }

    /// Judges a mutation as the role `cortex` does, and writes it to the log.
    fn propose(&mut self, proposal: &Proposal<'_>) -> Verdict {
        let mut slot = [0; SLOT_BYTES];
        if let Err(verdict) = proposal.write(&mut slot) {
            return verdict;
        }
        let now = self.now();
        let (_, _, verdict) = self.engine.judge(&slot, sys::packet::own_uid(), now);
        match verdict {
            Verdict::Accepted if !self.engine.commit() => Verdict::JournalFailed,
            verdict => verdict,
        }
    }
}

/// Proposes new bytes for a range of a tensor of the default system model.
///
/// `old_blake3` is the hash of what the range holds, 32 bytes, or null where `base_generation` is proof enough. Returns
/// the verdict: 0 accepted, above 0 refused (docs/evolution.md numbers them); `*generation` is then the newest one.
///
/// # Safety
/// `tensor` is null or ends with a NUL; `payload` is null with `payload_len` 0, or as many bytes, and `old_blake3` null
/// or 32 bytes, that nobody changes during the call; `generation` is null or one `u64` that nothing else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_propose_mutation(
    tensor: *const c_char,
    offset: u64,
    payload: *const u8,
    payload_len: usize,
    old_blake3: *const u8,
    base_generation: u64,
    confidence: f32,
    generation: *mut u64,
) -> i32 {
    guarded(|| {
        // SAFETY: the caller owes what each of these asks for; the slices do not outlive this call.
        let (slot, name, payload) = unsafe {
            (
                Slot::new(generation, "generation", 0)?,
                text(tensor, "tensor", NAME_BYTES_MAX)?,
                lent(payload, payload_len, "payload")?,
            )
        };
        let old = if old_blake3.is_null() {
            None
        } else {
            // SAFETY: not null, so the caller owes 32 bytes.
            unsafe { lent(old_blake3, HASH_BYTES, "old_blake3")? }.first_chunk()
        };
        let runtime = runtime()?;
        let mut evolution = lock(&runtime);
        // A name that is no UTF-8 is no tensor's either.
        let name = String::from_utf8_lossy(name);
        let current = || {
            let data = evolution.tensor(&name).unwrap_or_default();
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            let range = data.get(from..from.saturating_add(payload.len()));
            *blake3::hash(range.unwrap_or_default()).as_bytes()
        };
        let old_blake3 = old.copied().unwrap_or_else(current);
        evolution.proposed += 1;
        let verdict = {
            let id = evolution.proposed;
            evolution.propose(&Proposal {
                id,
                base_generation,
                tensor: &name,
                offset,
                confidence,
                old_blake3,
                payload_blake3: *blake3::hash(payload).as_bytes(),
                payload,
            })
        };
        if verdict == Verdict::Accepted {
            runtime.see(&evolution)?;
        }
        slot.set(evolution.generation());
        Ok(i32::from(verdict as u16))
    })
}

/// Goes back to what a generation held, under a number of its own, which `*now` receives. A generation that never was,
/// or is the newest, is `NEURAL_NOT_FOUND`.
///
/// # Safety
/// `now` is null or one `u64` that nothing else uses during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_rollback(generation: u64, now: *mut u64) -> i32 {
    guarded(|| {
        // SAFETY: the caller owes what `Slot::new` asks for.
        let slot = unsafe { Slot::new(now, "now", 0)? };
        let runtime = runtime()?;
        let mut evolution = lock(&runtime);
        let time = evolution.now();
        let uid = sys::packet::own_uid();
        let engine = &mut evolution.engine;
        let restored = engine.roll_back(generation, Verdict::RolledBack, uid, time);
        slot.set(restored.map_err(|error| match error {
            RollbackError::Log(_) => Failure::machine("log of mutations", &error),
            _ => Failure::not_found("generation", format_args!("{generation} ({error})")),
        })?);
        runtime.see(&evolution)?;
        Ok(0)
    })
}

/// The newest generation as it is published: its header, the policy's values and every other changed range
/// (docs/evolution.md). With a shorter `buf` the first `len` bytes are written; returns how many there are.
///
/// # Safety
/// `buf` is null with `len` 0, or `len` bytes that nothing else uses during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_generation_read(buf: *mut u8, len: usize) -> i64 {
    guarded(|| {
        // SAFETY: the caller owes what `Buffer::new` asks for.
        let mut out = unsafe { Buffer::new(buf, len, "buf")? };
        let runtime = runtime()?;
        out.push(&lock(&runtime).engine.encode());
        out.needed()
    })
}

/// The newest verdicts of this runtime as a JSON array, the oldest first; refusals of one kind behind each other are one
/// row with their `count`. With a shorter `buf` the first `len` bytes are written; returns how many there are.
///
/// # Safety
/// `buf` is null with `len` 0, or `len` bytes that nothing else uses during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_journal_read(buf: *mut c_char, len: usize) -> i64 {
    guarded(|| {
        // SAFETY: the caller owes what `Buffer::new` asks for.
        let mut out = unsafe { Buffer::new(buf.cast::<u8>(), len, "buf")? };
        let runtime = runtime()?;
        let text = rows(&lock(&runtime).engine);
        out.push(
            text.map_err(|_| Failure::argument("journal", "unreadable"))?
                .as_bytes(),
        );
        out.needed()
    })
}

fn rows(engine: &Engine<'_>) -> Result<String, std::fmt::Error> {
    let mut rows: Vec<_> = engine.history().newest().collect();
    rows.reverse();
    let mut text = String::from("[");
    for (place, row) in rows.into_iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        write!(
            text,
            "{{\"verdict\":\"{}\",\"generation\":{},\"restored\":{},\"count\":{},\"tensor\":",
            row.verdict.as_str(),
            row.generation,
            row.restored,
            row.count
        )?;
        super::json::string(gguf::Text(row.tensor.as_bytes()), &mut text)?;
        let confidence = gguf::Value::F32(row.confidence);
        write!(
            text,
            ",\"offset\":{},\"length\":{},\"confidence\":",
            row.offset, row.length
        )?;
        super::json::write(&confidence, &mut text)?;
        write!(text, ",\"at_ns\":{}}}", row.wall_ns)?;
    }
    text.push(']');
    Ok(text)
}

/// What the policy sees of registers: each scaled to the range from -1 to 1, an unknown one (NaN) 0 (docs/neural.md).
///
/// `registers` are as many as `neural_mmio_snapshot` has. With a shorter `out` the first `len` inputs are written;
/// returns how many there are.
///
/// # Safety
/// `registers` is null with `count` 0, or `count` floats that nobody changes during the call; `out` is null with `len`
/// 0, or `len` floats that nothing else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_policy_inputs(
    registers: *const f32,
    count: usize,
    out: *mut f32,
    len: usize,
) -> i64 {
    guarded(|| {
        // SAFETY: the caller owes what each of these asks for; the slice does not outlive this call.
        let (registers, mut out) = unsafe {
            (
                lent(registers, count, "registers")?,
                Buffer::new(out, len, "out")?,
            )
        };
        let registers = registers.first_chunk().filter(|all| all.len() == count);
        let registers =
            registers.ok_or_else(|| Failure::argument("count", "not that of the registers"))?;
        out.push(&neural::policy::inputs(registers));
        out.needed()
    })
}

/// BLAKE3 of these bytes, 32 bytes, which mutations carry and Python's library lacks.
///
/// # Safety
/// `data` is null with `len` 0, or `len` bytes that nobody changes during the call; `out` is null or 32 bytes that
/// nothing else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_blake3(data: *const u8, len: usize, out: *mut u8) -> i32 {
    guarded(|| {
        if out.is_null() {
            return Err(Failure::argument("out", "null"));
        }
        // SAFETY: the caller owes what each asks for; the slice does not outlive this call.
        let (data, mut out) = unsafe {
            (
                lent(data, len, "data")?,
                Buffer::new(out, HASH_BYTES, "out")?,
            )
        };
        out.push(blake3::hash(data).as_bytes());
        Ok(0)
    })
}

/// The engine. It is whole at every step but its own, and a panic in one leaves what was answered in the log.
fn lock(runtime: &Runtime) -> std::sync::MutexGuard<'_, Evolution> {
    runtime
        .evolution
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}
