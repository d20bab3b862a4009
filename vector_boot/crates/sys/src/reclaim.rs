//! Giving memory back that a process has touched and does not need at rest: free heap, dead stack, its own code.
//!
//! A boot touches far more than a beat does. What is given back here comes again by itself when it is
//! touched: heap and stack as zeroes, code out of the page cache.
//! Start with [`heap`], [`stack`] and [`code`].

use std::ffi::c_void;

/// Below the stack pointer this much is left alone: the frames of the calls that give back, and the red zone.
const KEPT_BYTES: usize = 4 * 1024;
/// How deep below the stack pointer memory is given back. The kernel keeps 256 pages free of other mappings
/// below a stack (`stack_guard_gap`), so the range holds nothing but stack and that gap.
const DEPTH_BYTES: usize = 1024 * 1024;

/// Lets all threads take from one heap, for a process whose threads are few and short: one of their own would stay
/// when they are gone. Call it before there are any.
pub fn one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number of the allocator's, under its own lock.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Free bytes at the end of a heap that are kept: what the C library begins with.
#[cfg(target_env = "gnu")]
const FREE_KEPT_BYTES: i32 = 128 * 1024;
/// Blocks of so many bytes are mappings of their own, which end when they are freed.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: i32 = 256 * 1024;

/// Has every heap give back what is free at its end, for a process that now and then needs much for a short time. By
/// itself the C library keeps twice the largest block that was ever freed, in the heap of each thread, and
/// [`heap`] trims that of the first alone. Call it before there are other threads.
pub fn give_back_early() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets numbers of the allocator's, under its own lock.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, FREE_KEPT_BYTES);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
    }
}

/// Gives free pages of the heap back. Does nothing where the C library cannot.
pub fn heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only free memory is given back; the call takes the allocator's own lock.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives back what calls that have returned left on the main thread's stack; false in any other thread,
/// whose stack has neighbours.
#[inline(never)]
pub fn stack() -> bool {
    // By number: std names `gettid` weakly, and a static link with LTO then leaves it out and calls address 0.
    // SAFETY: both only ask for numbers.
    let main = unsafe { libc::syscall(libc::SYS_gettid) == i64::from(libc::getpid()) };
    if !main {
        return false;
    }
    let here = 0u8;
    let page = page_bytes();
    let end = (std::ptr::from_ref(&here).addr().saturating_sub(KEPT_BYTES)) & !(page - 1);
    let begin = end.saturating_sub(DEPTH_BYTES);
    // SAFETY: the range lies below every live frame: `here` is in the deepest one but that of madvise,
    // which has its place in KEPT_BYTES. It holds the main thread's stack and the gap below it. A part that
    // is not mapped is ENOMEM behind the work on the rest, madvise(2).
    unsafe {
        libc::madvise(begin as *mut c_void, end - begin, libc::MADV_DONTNEED);
    }
    true
}

/// Unmaps the pages of this executable's code and constants; the next touch maps them from the page cache.
/// For an image in memory alone: one on a disk would be read again.
pub fn code() {
    // SAFETY: the callback below keeps to the contract of dl_iterate_phdr(3) and uses no data.
    unsafe {
        libc::dl_iterate_phdr(Some(unmap), std::ptr::null_mut());
    }
}

/// For the first object, which is the executable: all of its segments that nobody writes.
///
/// # Safety
/// Called by dl_iterate_phdr(3) with a live `info`.
unsafe extern "C" fn unmap(info: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> i32 {
    let page = page_bytes();
    // SAFETY: `info` and the headers that it names live as long as the process.
    let (base, headers) = unsafe {
        let info = &*info;
        let headers = std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum));
        (info.dlpi_addr as usize, headers)
    };
    for segment in headers {
        if segment.p_type != libc::PT_LOAD || segment.p_flags & libc::PF_W != 0 {
            continue;
        }
        let begin = (base + segment.p_vaddr as usize) & !(page - 1);
        let end = base + segment.p_vaddr as usize + segment.p_memsz as usize;
        // SAFETY: a private mapping of a file that was never written has no page of its own to lose: what is
        // touched next, this code first of all, is mapped again from the same file. The last page may be
        // shared with no writable segment, since segments of different rights have pages of their own.
        unsafe {
            libc::madvise(begin as *mut c_void, end - begin, libc::MADV_DONTNEED);
        }
    }
    1
}

/// Bytes of a page of memory.
#[must_use]
pub fn page_bytes() -> usize {
    // SAFETY: asks for a number, which is a power of two and at least 4096.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096).max(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_heap_go_on_working_when_they_were_given_back() {
        let kept: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        for _ in 0..10 {
            code();
            heap();
            assert!(
                kept.iter()
                    .zip(0..1000)
                    .all(|(text, n)| *text == n.to_string())
            );
        }
    }

    #[test]
    fn a_thread_that_is_not_the_first_keeps_its_stack() {
        assert!(!std::thread::spawn(stack).join().unwrap());
    }
}
