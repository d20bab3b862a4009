//! The caller's memory: checked when it is handed over, written through raw pointers only.
//!
//! Owns: the checks of addresses and lengths that C can get wrong. No reference to the caller's memory is made,
//! since it may be uninitialised. Never here: what is written. Start with [`Buffer`].

use std::ffi::c_char;
use std::fmt;

use super::failure::Failure;

/// Room for values, and how many there were in all: the form `(ptr, len) -> needed`.
#[derive(Debug)]
pub struct Buffer<T> {
    at: *mut T,
    room: usize,
    needed: usize,
}

impl<T: Copy> Buffer<T> {
    /// # Safety
    /// `at` is null, or `room` values of the caller's that nothing else uses as long as the result lives.
    pub unsafe fn new(at: *mut T, room: usize, field: &'static str) -> Result<Self, Failure> {
        check(at, field, room == 0)?;
        // No object is longer than isize::MAX bytes or wraps around the address space.
        let bytes = room
            .checked_mul(size_of::<T>())
            .filter(|bytes| isize::try_from(*bytes).is_ok());
        if bytes.is_none_or(|bytes| at.addr().checked_add(bytes).is_none()) {
            return Err(Failure::argument(field, "longer than the address space"));
        }
        Ok(Self {
            at,
            room,
            needed: 0,
        })
    }

    /// Writes what there is room for and counts the rest.
    pub fn push(&mut self, values: &[T]) {
        let taken = values.len().min(self.room.saturating_sub(self.needed));
        if taken > 0 {
            // SAFETY: `needed + taken` is at most `room`, for which `new`'s caller vouches; it checked that the
            // address is aligned and not null. `copy` allows the two to overlap.
            unsafe { std::ptr::copy(values.as_ptr(), self.at.add(self.needed), taken) };
        }
        self.needed = self.needed.saturating_add(values.len());
    }

    /// Whether nothing more would be written.
    pub fn is_full(&self) -> bool {
        self.needed >= self.room
    }

    /// How many values were pushed, written or not.
    pub fn needed(&self) -> Result<i64, Failure> {
        i64::try_from(self.needed).map_err(|_| Failure::argument("length", "above 2^63"))
    }
}

impl fmt::Write for Buffer<u8> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

/// One value of the caller's.
#[derive(Debug)]
pub struct Slot<T>(*mut T);

impl<T> Slot<T> {
    /// Writes `first`, which stands there until [`Self::set`].
    ///
    /// # Safety
    /// `at` is null, or one value of the caller's that nothing else uses as long as the result lives.
    pub unsafe fn new(at: *mut T, field: &'static str, first: T) -> Result<Self, Failure> {
        check(at, field, false)?;
        // SAFETY: not null and aligned by the check; the caller vouches for the rest. T has no drop that is skipped.
        unsafe { at.write(first) };
        Ok(Self(at))
    }

    pub fn set(self, value: T) {
        // SAFETY: as in `new`, whose caller vouches for as long as self lives.
        unsafe { self.0.write(value) };
    }
}

fn check<T>(at: *mut T, field: &'static str, may_be_null: bool) -> Result<(), Failure> {
    if at.is_null() && !may_be_null {
        return Err(Failure::argument(field, "null"));
    }
    if !at.is_aligned() {
        return Err(Failure::argument(field, "not aligned"));
    }
    Ok(())
}

/// The bytes of a C string, without its NUL.
///
/// # Safety
/// `at` is null or ends with a NUL, and lives unchanged for `'a`.
pub unsafe fn text<'a>(
    at: *const c_char,
    field: &'static str,
    bytes_max: usize,
) -> Result<&'a [u8], Failure> {
    if at.is_null() {
        return Err(Failure::argument(field, "null"));
    }
    let mut len = 0;
    // SAFETY: every byte before this one was not the NUL, so this one still belongs to the string.
    while unsafe { at.add(len).read() } != 0 {
        len += 1;
        if len > bytes_max {
            return Err(Failure::argument(field, "too long"));
        }
    }
    // SAFETY: `len` bytes were just read; the caller vouches for their life.
    Ok(unsafe { std::slice::from_raw_parts(at.cast(), len) })
}

/// Values that the caller lends.
///
/// # Safety
/// `at` is null, or `count` values that nobody changes for `'a`.
pub unsafe fn lent<'a, T: Copy>(
    at: *const T,
    count: usize,
    field: &'static str,
) -> Result<&'a [T], Failure> {
    // The checks of a buffer; nothing is written.
    // SAFETY: nothing is pushed, so nothing is owed.
    unsafe { Buffer::new(at.cast_mut(), count, field)? };
    if count == 0 {
        return Ok(&[]);
    }
    // SAFETY: not null, aligned, inside the address space by the checks; the caller vouches for the rest.
    Ok(unsafe { std::slice::from_raw_parts(at, count) })
}

/// The pixels of a program.
///
/// # Safety
/// As [`lent`].
pub unsafe fn pixels<'a>(at: *const [u8; 3], count: usize) -> Result<&'a [[u8; 3]], Failure> {
    // SAFETY: the caller owes the same.
    unsafe { lent(at, count, "pixels") }
}
