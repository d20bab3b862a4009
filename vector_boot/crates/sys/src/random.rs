//! Random bytes of the kernel.

use std::io;

/// Fills `buf` with random bytes; waits for the pool at most once, early in a boot: a second or more on a
/// machine without a source of randomness.
///
/// # Errors
/// As `getrandom(2)`.
pub fn fill(buf: &mut [u8]) -> io::Result<()> {
    draw(buf, 0)
}

/// Fills `buf` with random bytes if the pool is ready, for whoever must not wait.
///
/// # Errors
/// `WouldBlock` as long as it is not; else as `getrandom(2)`.
pub fn fill_now(buf: &mut [u8]) -> io::Result<()> {
    draw(buf, libc::GRND_NONBLOCK)
}

/// Fills `buf` with bytes that tell one boot from another, whether or not the pool is ready. Never for a secret.
///
/// # Errors
/// As `getrandom(2)`.
pub fn fill_distinct(buf: &mut [u8]) -> io::Result<()> {
    draw(buf, libc::GRND_INSECURE)
}

fn draw(buf: &mut [u8], flags: libc::c_uint) -> io::Result<()> {
    let mut filled = 0;
    while let Some(rest) = buf.get_mut(filled..).filter(|r| !r.is_empty()) {
        // SAFETY: `rest` is a live, exclusively borrowed slice of `rest.len()` writable bytes.
        let n = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), flags) };
        match usize::try_from(n) {
            Ok(n) => filled += n,
            Err(_) => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e => return Err(e),
            },
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_draws_differ() {
        let (mut a, mut b) = ([0u8; 32], [0u8; 32]);
        super::fill(&mut a).unwrap();
        super::fill(&mut b).unwrap();
        assert_ne!(a, b);
        super::fill_now(&mut a).unwrap();
        assert_ne!(a, b);
        super::fill_distinct(&mut b).unwrap();
        assert_ne!(a, b);
    }
}
