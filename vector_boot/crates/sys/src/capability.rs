//! Capabilities: root's powers one by one, and how a process gives up those that it does not need.
//!
//! Start with [`Set`]; [`Set::bind_own`] is what PID 1 does once at boot, [`crate::spawn`] does the
//! like in each child.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// One of root's powers, by its bit number in `capabilities(7)`. Only those that somebody of ours needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Capability {
    /// Give files away.
    Chown = 0,
    /// Open what file permissions forbid.
    DacOverride = 1,
    /// Read what file permissions forbid.
    DacReadSearch = 2,
    /// Change permissions of others' files.
    Fowner = 3,
    /// Send signals to others.
    Kill = 5,
    /// Change gid and groups.
    SetGid = 6,
    /// Change uid.
    SetUid = 7,
    /// Drop from the bounding set and lock securebits.
    SetPcap = 8,
    /// Listen on ports below 1024.
    NetBindService = 10,
    /// Configure interfaces, addresses and routes.
    NetAdmin = 12,
    /// Raw and packet sockets.
    NetRaw = 13,
    /// chroot, and entering mount namespaces.
    SysChroot = 18,
    /// Mounts, namespaces, the host's name.
    SysAdmin = 21,
    /// Restart and switch off.
    SysBoot = 22,
    /// Raise limits, lower oom_score_adj, grow file systems.
    SysResource = 24,
    /// Set the clock.
    SysTime = 25,
    /// Read the kernel's log where it is restricted.
    Syslog = 34,
}

/// The highest bit that the kernel's sets have room for; those that this kernel lacks answer EINVAL.
pub(crate) const HIGHEST: u64 = 63;

/// `_LINUX_CAPABILITY_VERSION_3`: sets of 64 bits.
pub(crate) const VERSION_3: u32 = 0x2008_0522;

/// A set of capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Set(u64);

/// See [`Set::bound`]; whoever starts a child need not drop again what is gone.
static BOUND: AtomicU64 = AtomicU64::new(u64::MAX);

impl Set {
    /// No power.
    pub const NONE: Self = Self(0);

    /// These powers.
    #[must_use]
    pub const fn of(list: &[Capability]) -> Self {
        let (mut bits, mut i) = (0, 0);
        while i < list.len() {
            bits |= 1 << list[i] as u32;
            i += 1;
        }
        Self(bits)
    }

    /// These powers and those.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// As the kernel's mask.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether this power is in it.
    #[must_use]
    pub const fn holds(self, one: Capability) -> bool {
        self.0 & (1 << one as u32) != 0
    }

    /// What can still be in the bounding set: all, less what [`Set::bind_own`] dropped.
    #[must_use]
    pub fn bound() -> Self {
        Self(BOUND.load(Ordering::Relaxed))
    }

    /// What this thread may do now.
    ///
    /// # Errors
    /// As `capget(2)`.
    pub fn own() -> io::Result<Self> {
        let header: [u32; 2] = [VERSION_3, 0];
        let mut data = [0u32; 6];
        // SAFETY: the layouts of capget(2), version 3: two words of header, two triples of data.
        let done = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        let [low, _, _, high, _, _] = data;
        Ok(Self(u64::from(high) << 32 | u64::from(low)))
    }

    /// Drops everything else from this thread's bounding set, then keeps `own` alone in its other sets.
    ///
    /// What stays in the bounding set may come back by an exec as root; the rest is gone for good, for
    /// this process and for all that it will start.
    ///
    /// # Errors
    /// As `prctl(2)` and `capset(2)`; what was dropped until then stays dropped.
    pub fn bind_own(bounding: Self, own: Self) -> io::Result<()> {
        for bit in 0..=HIGHEST {
            if bounding.0 & (1 << bit) != 0 {
                continue;
            }
            // SAFETY: prctl with numbers only.
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, bit, 0, 0, 0) } < 0 {
                match io::Error::last_os_error() {
                    // This kernel has no more of them.
                    e if e.raw_os_error() == Some(libc::EINVAL) => break,
                    e => return Err(e),
                }
            }
        }
        BOUND.fetch_and(bounding.0, Ordering::Relaxed);
        let header: [u32; 2] = [VERSION_3, 0];
        // Halves of a mask: the cut is wanted.
        let (low, high) = (own.0 as u32, (own.0 >> 32) as u32);
        let data: [u32; 6] = [low, low, 0, high, high, 0];
        // SAFETY: as in `own`; both arrays are only read.
        if unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_the_kernels_masks() {
        let set = Set::of(&[Capability::Chown, Capability::SysTime]);
        assert_eq!(set.bits(), 1 | 1 << 25);
        assert!(set.holds(Capability::SysTime) && !set.holds(Capability::Kill));
        assert_eq!(
            set.and(Set::of(&[Capability::Kill])).bits(),
            set.bits() | 1 << 5
        );
    }

    #[test]
    fn own_is_what_proc_says() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("CapEff:"))
            .unwrap();
        assert_eq!(format!("{:016x}", Set::own().unwrap().bits()), line.trim());
    }
}
