//! Why a call failed: its code, its message, and the border that no panic crosses.
//!
//! Owns: the codes (`NEURAL_*` in the header) and each thread's last message. Never here: what can go wrong in a
//! format. Start with [`guarded`].

use gguf::Tensor;
use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Bytes of a message at most; a path of 4 KiB is the longest part of any.
pub const MESSAGE_BYTES_MAX: usize = 4096;

/// Done.
pub const NEURAL_OK: i32 = 0;
/// A pointer is null or not aligned, a length impossible or not the one that fits, a text not UTF-8 or too long.
pub const NEURAL_ARGUMENT: i32 = -1;
/// The handle was never given out, or is closed; the result was never handed out, or is freed.
pub const NEURAL_HANDLE: i32 = -2;
/// No tensor, key, register or result of this name or place.
pub const NEURAL_NOT_FOUND: i32 = -3;
/// A struct of the caller's is shorter than the library's.
pub const NEURAL_SHORT: i32 = -4;
/// The file cannot be opened or mapped; the machine does not answer.
pub const NEURAL_IO: i32 = -5;
/// The file is no model or package, or breaks a rule of its format.
pub const NEURAL_FORMAT: i32 = -6;
/// Values of this tensor type cannot be read.
pub const NEURAL_TYPE: i32 = -7;
/// Too many models are open (1,024), or results held (65,536).
pub const NEURAL_LIMIT: i32 = -8;
/// A defect of the library, caught.
pub const NEURAL_INTERNAL: i32 = -9;
/// The runtime is not started: neural_init.
pub const NEURAL_STATE: i32 = -10;

/// What a call returns in place of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
#[allow(missing_docs, reason = "each is its constant")]
pub enum Code {
    Argument = NEURAL_ARGUMENT,
    Handle = NEURAL_HANDLE,
    NotFound = NEURAL_NOT_FOUND,
    Short = NEURAL_SHORT,
    Io = NEURAL_IO,
    Format = NEURAL_FORMAT,
    Type = NEURAL_TYPE,
    Limit = NEURAL_LIMIT,
    Internal = NEURAL_INTERNAL,
    State = NEURAL_STATE,
}

/// A failed call.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub message: String,
}

impl Failure {
    fn new(code: Code, message: fmt::Arguments<'_>) -> Self {
        Self {
            code,
            // Names of files, keys and tensors are anyone's; a message stays one line.
            message: message.to_string().replace(char::is_control, "\u{fffd}"),
        }
    }

    pub fn argument(field: &'static str, problem: &'static str) -> Self {
        Self::new(Code::Argument, format_args!("{field}: {problem}"))
    }

    pub fn handle(handle: u64) -> Self {
        let message = format_args!("handle {handle:#x}: closed, or never opened");
        Self::new(Code::Handle, message)
    }

    pub fn not_found(what: &'static str, name: impl fmt::Display) -> Self {
        Self::new(Code::NotFound, format_args!("{what} {name}: not there"))
    }

    pub fn short(field: &'static str, given: usize, needed: usize) -> Self {
        let message = format_args!("{field}: {given}; at least {needed}");
        Self::new(Code::Short, message)
    }

    pub fn io(path: &Path, error: &std::io::Error) -> Self {
        Self::new(Code::Io, format_args!("{}: {error}", path.display()))
    }

    pub fn format(subject: impl fmt::Display, error: &dyn fmt::Display) -> Self {
        Self::new(Code::Format, format_args!("{subject}: {error}"))
    }

    pub fn unsupported(tensor: &Tensor<'_>) -> Self {
        let (name, of) = (tensor.name, tensor.ggml_type);
        let message = format_args!("tensor {name}: values of type {of} cannot be read");
        Self::new(Code::Type, message)
    }

    /// As many as there may be are there.
    pub fn limit(what: &'static str, limit: usize) -> Self {
        let message = format_args!("{what}: {limit}; at most {limit}");
        Self::new(Code::Limit, message)
    }

    pub fn not_started() -> Self {
        Self::new(
            Code::State,
            format_args!("the runtime is not started: neural_init"),
        )
    }

    pub fn started_otherwise() -> Self {
        let message = format_args!("the runtime runs already, within other budgets");
        Self::new(Code::State, message)
    }

    pub fn never_given(address: usize) -> Self {
        let message = format_args!("result {address:#x}: freed, or never handed out");
        Self::new(Code::Handle, message)
    }

    /// Something of this machine, or of a running one, that cannot be had.
    pub fn machine(what: impl fmt::Display, error: &dyn fmt::Display) -> Self {
        Self::new(Code::Io, format_args!("{what}: {error}"))
    }

    /// Two lengths that have to fit.
    pub fn shape(subject: impl fmt::Display, error: &dyn fmt::Display) -> Self {
        Self::new(Code::Argument, format_args!("{subject}: {error}"))
    }

    /// Leaves the message with the thread, for an export whose codes are its own.
    pub fn tell(self, code: i32) -> i32 {
        keep(self.message);
        code
    }

    fn internal(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref().copied());
        let cause = text.unwrap_or("without a message");
        Self::new(Code::Internal, format_args!("internal error: {cause}"))
    }
}

thread_local! {
    static MESSAGE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs the body of an export: a failure or a panic becomes its code, and this thread's message.
pub fn guarded<R: From<i32>>(body: impl FnOnce() -> Result<R, Failure>) -> R {
    settle(body, keep)
}

/// The same for an export that returns a pointer: none on failure.
pub fn guarded_pointer<T>(body: impl FnOnce() -> Result<*mut T, Failure>) -> Option<*mut T> {
    let mut found = None;
    let _code: i32 = guarded(|| {
        found = Some(body()?);
        Ok(0)
    });
    found
}

/// The same for the export that reads the message, which a failure then leaves as it is.
pub fn quietly<R: From<i32>>(body: impl FnOnce() -> Result<R, Failure>) -> R {
    settle(body, |_| ())
}

fn settle<R: From<i32>>(body: impl FnOnce() -> Result<R, Failure>, keep: impl FnOnce(String)) -> R {
    // What outlives a panic is the table of handles, whole at every step, and memory of the caller, of which
    // nothing is promised when a call fails.
    let outcome = catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|payload| Err(Failure::internal(payload.as_ref())));
    outcome.unwrap_or_else(|failure| {
        keep(failure.message);
        R::from(failure.code as i32)
    })
}

/// Makes this the thread's message.
pub fn keep(mut message: String) {
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    // A thread whose end has begun has no place for messages any more; its codes still say what happened.
    let _ = MESSAGE.try_with(|place| {
        if let Ok(mut place) = place.try_borrow_mut() {
            *place = message;
        }
    });
}

/// Shows this thread's message.
pub fn with_message(show: impl FnOnce(&str)) {
    // As above: without a place there is no message.
    let _ = MESSAGE.try_with(|place| {
        if let Ok(place) = place.try_borrow() {
            show(&place);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> String {
        let mut seen = String::new();
        with_message(|message| seen = message.to_owned());
        seen
    }

    #[test]
    fn a_panic_becomes_a_code_and_a_message() {
        let code: i64 = guarded(|| panic!("torn {}", "page"));
        assert_eq!(code, -9);
        assert_eq!(message(), "internal error: torn page");
        let code: i32 = guarded(|| panic!("plain"));
        assert_eq!((code, message().as_str()), (-9, "internal error: plain"));
        let code: i32 = guarded(|| std::panic::panic_any(7));
        assert_eq!(code, -9);
    }

    #[test]
    fn a_success_leaves_the_message_and_threads_do_not_share_it() {
        let refused: i32 = guarded(|| Err(Failure::argument("path", "null")));
        assert_eq!(refused, -1);
        assert_eq!(guarded(|| Ok(5i32)), 5);
        assert_eq!(message(), "path: null");
        assert_eq!(std::thread::spawn(message).join().unwrap(), "");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        keep(format!("x{}", "é".repeat(MESSAGE_BYTES_MAX)));
        assert_eq!(message().len(), MESSAGE_BYTES_MAX - 1);
    }
}
