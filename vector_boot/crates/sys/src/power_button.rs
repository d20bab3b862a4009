//! Power buttons: input devices whose press says that the machine is to end.
//!
//! ACPI's button and a board's key are both `/dev/input/event*` with the key KEY_POWER. Keyboards are
//! left alone, even those with such a key: what people type is not PID 1's. Source of every number:
//! the kernel's `include/uapi/linux/input.h` and `input-event-codes.h`.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Devices that are looked at; a machine has a handful.
const DEVICES_MAX: usize = 32;
/// Buttons that are watched.
pub const BUTTONS_MAX: usize = 4;
/// Events taken in one go.
const EVENTS: usize = 16;

const EV_KEY: u16 = 1;
const KEY_A: usize = 30;
const KEY_POWER: usize = 116;
/// KEY_CNT bits.
const KEY_BYTES: usize = 0x300 / 8;
/// `struct input_event`: a time of two words, type u16, code u16, value i32.
const TIME_BYTES: usize = 2 * size_of::<libc::c_long>();
const EVENT_BYTES: usize = TIME_BYTES + 8;

nix::ioctl_read_buf!(
    /// EVIOCGBIT(EV_KEY): which keys a device has.
    get_keys,
    b'E',
    0x21,
    u8
);

/// One button.
#[derive(Debug)]
pub struct PowerButton(File);

impl PowerButton {
    /// Every power button of the machine.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir("/dev/input") else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for entry in entries.flatten().take(DEVICES_MAX) {
            if entry.file_name().as_encoded_bytes().starts_with(b"event")
                && found.len() < BUTTONS_MAX
                && let Ok(button) = Self::open(&entry.path())
            {
                found.push(button);
            }
        }
        found
    }

    /// One that an earlier image of this process opened.
    #[must_use]
    pub fn adopt(fd: OwnedFd) -> Self {
        Self(fd.into())
    }

    fn open(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        let mut keys = [0u8; KEY_BYTES];
        // SAFETY: the kernel writes at most the slice's length of bytes into it.
        unsafe { get_keys(file.as_raw_fd(), &mut keys) }?;
        if has(&keys, KEY_POWER) && !has(&keys, KEY_A) {
            Ok(Self(file))
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }

    /// Takes what came; true if it was pressed.
    ///
    /// # Errors
    /// As `read(2)`: the device is gone.
    pub fn take(&mut self) -> io::Result<bool> {
        let mut events = [0u8; EVENTS * EVENT_BYTES];
        match self.0.read(&mut events) {
            Ok(n) => Ok(is_press(&events[..n])),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e),
        }
    }
}

impl AsFd for PowerButton {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn has(keys: &[u8], key: usize) -> bool {
    keys.get(key / 8)
        .is_some_and(|byte| byte & (1 << (key % 8)) != 0)
}

/// Whether a press of the power key is among these events; its release is none.
fn is_press(events: &[u8]) -> bool {
    events.chunks_exact(EVENT_BYTES).any(|event| {
        let half = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
        let pressed = event[TIME_BYTES + 4..] == 1i32.to_ne_bytes();
        half(TIME_BYTES) == EV_KEY && usize::from(half(TIME_BYTES + 2)) == KEY_POWER && pressed
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u16, code: usize, value: i32) -> Vec<u8> {
        let mut bytes = vec![0; TIME_BYTES];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(u16::try_from(code).unwrap().to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_press_counts_a_release_and_other_keys_do_not() {
        let report = event(0, 0, 0);
        assert!(is_press(
            &[report.clone(), event(EV_KEY, KEY_POWER, 1), report].concat()
        ));
        assert!(!is_press(&event(EV_KEY, KEY_POWER, 0)));
        assert!(!is_press(&event(EV_KEY, KEY_A, 1)));
        assert!(
            !is_press(&event(EV_KEY, KEY_POWER, 1)[1..]),
            "half an event"
        );
        assert!(!is_press(&[]));
    }

    #[test]
    fn a_file_is_no_button() {
        assert!(PowerButton::open(Path::new("/dev/null")).is_err());
    }
}
