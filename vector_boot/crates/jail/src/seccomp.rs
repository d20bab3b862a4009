//! The filter: a profile's list of calls, compiled and installed.
//!
//! Actions: a call on the list runs; one of [`ABSENT`], or newer than [`NEWEST`], is answered as by a
//! kernel that does not have it, so that libraries take their older way; every other is refused with
//! EPERM and put into the kernel's log. Another architecture's calls kill the process.

use crate::calls::Calls;
use crate::{Exec, Profile};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use sys::seccomp::{Instruction, Log};

/// `mseal`, the newest call of Linux 6.10, has this number on both architectures. Also above it: the
/// numbers of x32, which have bit 30 set, and negative ones.
const NEWEST: u32 = 462;

/// Answered ENOSYS: the flags of `clone3` lie in memory, where no filter sees them, and libraries then
/// use `clone`; `io_uring` would make calls past the filter; `memfd_create` would make executable files.
const ABSENT: &[i64] = &[
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_memfd_create,
];

// linux/filter.h: classic BPF, with the offsets of `struct seccomp_data`.
const LOAD: u16 = 0x20;
const JUMP_EQ: u16 = 0x15;
const JUMP_GT: u16 = 0x25;
const RETURN: u16 = 0x06;
const CALL: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// linux/audit.h: AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64.
const OURS: u32 = if cfg!(target_arch = "x86_64") {
    0xc000_003e
} else {
    0xc000_00b7
};
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();

/// Compiles and installs the filters of a profile; answers how many calls are on its list.
///
/// They are two, because what is answered ENOSYS is no news, and the kernel's log has room for the rest:
/// a filter logs all of its refusals or none.
pub fn filter(profile: Profile, exec: Exec) -> Result<usize, String> {
    let calls = Calls::of(profile, exec).map_err(|e| e.to_string())?;
    let count = calls.len();
    let list = compile(calls)?;
    let install = |program, log| sys::seccomp::install(program, log).map_err(|e| e.to_string());
    let mut older = absent(ENOSYS);
    older.push(instruction(RETURN, 0, libc::SECCOMP_RET_ALLOW));
    install(&older, Log::Nothing)?;
    // What the first one refuses stays refused: the kernel takes the strictest answer of all filters.
    let mut whole = absent(libc::SECCOMP_RET_ALLOW);
    whole.extend(list);
    install(&whole, Log::Refused)?;
    Ok(count)
}

/// The list itself: EPERM for everything else.
fn compile(calls: Calls) -> Result<Vec<Instruction>, String> {
    let list = SeccompFilter::new(
        calls.into_rules(),
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        SeccompAction::Allow,
        std::env::consts::ARCH
            .try_into()
            .map_err(|e: seccompiler::BackendError| e.to_string())?,
    );
    let list: BpfProgram = list
        .and_then(TryInto::try_into)
        .map_err(|e| e.to_string())?;
    let list = list.into_iter().map(|i| Instruction {
        code: i.code,
        jt: i.jt,
        jf: i.jf,
        k: i.k,
    });
    Ok(list.collect())
}

/// Kills what calls as another architecture, gives `answer` to what is absent, falls through for all else.
fn absent(answer: u32) -> Vec<Instruction> {
    let answer = instruction(RETURN, 0, answer);
    let mut program = vec![
        instruction(LOAD, 0, ARCHITECTURE),
        Instruction {
            jt: 1,
            ..instruction(JUMP_EQ, 0, OURS)
        },
        instruction(RETURN, 0, libc::SECCOMP_RET_KILL_PROCESS),
        instruction(LOAD, 0, CALL),
        instruction(JUMP_GT, 1, NEWEST),
        answer,
    ];
    for number in ABSENT {
        let number = u32::try_from(*number).unwrap_or(u32::MAX);
        program.extend([instruction(JUMP_EQ, 1, number), answer]);
    }
    program
}

fn instruction(code: u16, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf, k }
}
