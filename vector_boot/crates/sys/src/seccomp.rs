//! Installing a seccomp filter; the lists are made by the crate `jail`.

use std::io;

/// One instruction of classic BPF: `struct sock_filter` of linux/filter.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// Instructions to skip where a test holds.
    pub jt: u8,
    /// Instructions to skip where it does not.
    pub jf: u8,
    /// Its operand.
    pub k: u32,
}

/// Whether refused calls go to the kernel's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// All of them; the kernel limits their rate.
    Refused,
    /// None.
    Nothing,
}

/// Puts every thread of this process under a filter, for ever.
///
/// Errors: as `seccomp(2)`; without privileges no_new_privs must be set first. `WouldBlock` names no
/// thread that has a filter of its own and so cannot take this one.
pub fn install(program: &[Instruction], log: Log) -> io::Result<()> {
    /// `struct sock_fprog`.
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const Instruction,
    }
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = Program {
        len,
        filter: program.as_ptr(),
    };
    let flags = match log {
        Log::Refused => libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_LOG,
        Log::Nothing => libc::SECCOMP_FILTER_FLAG_TSYNC,
    };
    // SAFETY: the kernel copies `len` instructions from a live slice and keeps no pointer to it.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    match done {
        0 => Ok(()),
        // seccomp(2), TSYNC: the id of a thread that could not be synchronised.
        1.. => Err(io::ErrorKind::WouldBlock.into()),
        _ => Err(io::Error::last_os_error()),
    }
}
