//! The hardware watchdog (`/dev/watchdog`): opened, fed, asked, let go.
//!
//! Once it is open it bites unless it is fed; it is let go by [`Watchdog::release`] alone. Source of
//! every number: the kernel's `include/uapi/linux/watchdog.h`.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

nix::ioctl_read!(
    /// WDIOC_GETSUPPORT: what the driver is and can.
    get_support,
    b'W',
    0,
    WatchdogInfo
);
nix::ioctl_read!(
    /// WDIOC_GETBOOTSTATUS: why the machine was reset, as far as the device knows.
    get_boot_status,
    b'W',
    2,
    libc::c_int
);
nix::ioctl_readwrite!(
    /// WDIOC_SETTIMEOUT: seconds; the driver answers with what it took.
    set_timeout,
    b'W',
    6,
    libc::c_int
);
nix::ioctl_read!(
    /// WDIOC_GETTIMEOUT.
    get_timeout,
    b'W',
    7,
    libc::c_int
);
nix::ioctl_read!(
    /// WDIOC_GETTIMELEFT.
    get_time_left,
    b'W',
    10,
    libc::c_int
);

/// `struct watchdog_info`.
#[repr(C)]
#[derive(Default)]
pub struct WatchdogInfo {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

/// WDIOF_CARDRESET: the last reset was the watchdog's.
pub const RESET_BY_WATCHDOG: u32 = 0x20;

/// An open, running watchdog.
#[derive(Debug)]
pub struct Watchdog {
    file: File,
    driver: String,
    boot_status: u32,
}

impl Watchdog {
    /// Opens the device, which starts it.
    ///
    /// # Errors
    /// As `open(2)`: `NotFound` without one, `ResourceBusy` if somebody else feeds it.
    pub fn open(device: &Path) -> io::Result<Self> {
        Ok(Self::of(File::options().write(true).open(device)?))
    }

    /// One that is open and runs already.
    #[must_use]
    pub fn of(file: File) -> Self {
        let mut info = WatchdogInfo::default();
        // SAFETY: the kernel writes one struct of this layout through a pointer to a live one.
        let asked = unsafe { get_support(file.as_raw_fd(), &raw mut info) };
        let driver = match asked {
            Ok(_) => {
                let end = info.identity.iter().position(|b| *b == 0);
                let name = &info.identity[..end.unwrap_or(info.identity.len())];
                String::from_utf8_lossy(name).trim().to_owned()
            }
            Err(_) => "unnamed".to_owned(),
        };
        let mut bits: libc::c_int = 0;
        // SAFETY: the kernel writes one int through a pointer to a live one.
        let told = unsafe { get_boot_status(file.as_raw_fd(), &raw mut bits) };
        // A device that cannot tell has nothing to tell.
        let boot_status = told.map_or(0, |_| bits.cast_unsigned());
        Self {
            file,
            driver,
            boot_status,
        }
    }

    /// What the driver calls itself.
    #[must_use]
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// Whether it is a timer of the kernel's own: it does not outlive a hung kernel.
    #[must_use]
    pub fn is_software(&self) -> bool {
        self.driver.to_ascii_lowercase().contains("software")
    }

    /// Status bits of the last boot; [`RESET_BY_WATCHDOG`] among them.
    #[must_use]
    pub fn boot_status(&self) -> u32 {
        self.boot_status
    }

    /// Seconds after which it bites, 0 where the driver does not tell.
    #[must_use]
    pub fn timeout_s(&self) -> u32 {
        let mut seconds: libc::c_int = 0;
        // SAFETY: the kernel writes one int through a pointer to a live one.
        let told = unsafe { get_timeout(self.file.as_raw_fd(), &raw mut seconds) };
        told.map_or(0, |_| u32::try_from(seconds).unwrap_or(0))
    }

    /// Sets after how many seconds it bites; answers what the driver made of it.
    ///
    /// # Errors
    /// As `ioctl(2)`: `EINVAL` outside of what the device can, `EOPNOTSUPP` if it has one time.
    pub fn set_timeout_s(&self, seconds: u32) -> io::Result<u32> {
        let mut seconds = libc::c_int::try_from(seconds).map_err(io::Error::other)?;
        // SAFETY: the kernel reads and writes one int through a pointer to a live one.
        unsafe { set_timeout(self.file.as_raw_fd(), &raw mut seconds) }?;
        Ok(u32::try_from(seconds).unwrap_or(0))
    }

    /// Seconds that are left, where the driver tells.
    #[must_use]
    pub fn left_s(&self) -> Option<u32> {
        let mut seconds: libc::c_int = 0;
        // SAFETY: the kernel writes one int through a pointer to a live one.
        let told = unsafe { get_time_left(self.file.as_raw_fd(), &raw mut seconds) };
        told.ok().and_then(|_| u32::try_from(seconds).ok())
    }

    /// Feeds it.
    ///
    /// # Errors
    /// As `write(2)`; one that takes nothing bites, which is what it is for.
    pub fn feed(&mut self) -> io::Result<()> {
        self.file.write_all(b"\n")
    }

    /// Stops it by the magic close; a driver that forbids that bites later.
    pub fn release(mut self) {
        // One that takes nothing any more cannot be stopped.
        let _ = self.file.write_all(b"V");
    }

    /// Another handle, for whoever feeds it when we no longer do.
    ///
    /// # Errors
    /// As `dup(2)`.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            file: self.file.try_clone()?,
            driver: self.driver.clone(),
            boot_status: self.boot_status,
        })
    }
}

impl AsFd for Watchdog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_watchdog_tells_nothing_and_takes_its_food() {
        let mut dog = Watchdog::open(Path::new("/dev/null")).unwrap();
        assert_eq!(dog.driver(), "unnamed");
        assert_eq!(
            (dog.boot_status(), dog.timeout_s(), dog.left_s()),
            (0, 0, None)
        );
        assert!(dog.set_timeout_s(5).is_err());
        dog.feed().unwrap();
        dog.release();
        let missing = Watchdog::open(Path::new("/dev/no such watchdog"));
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
