//! The hardware watchdog under PID 1: opened first, fed at the end of each complete beat, let go in order.
//!
//! `vb.watchdog` is `auto` (the driver's own time), `off`, or seconds. It keeps the driver's time until
//! the first beat: a slow boot is no hang. Start with [`Guard::open`].

use std::os::fd::OwnedFd;
use std::path::Path;
use sys::watchdog::Watchdog;

/// The first one that was registered: hardware's modules are loaded before the software's.
const DEVICE: &str = "/dev/watchdog";
/// Twice the slowest heartbeat, and an hour, after which nobody waits for a machine any more.
pub const SECONDS: std::ops::RangeInclusive<u32> = 2..=3600;

/// What `vb.watchdog` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// The driver's own time.
    Auto,
    /// Not opened.
    Off,
    /// It bites after so many seconds.
    Seconds(u32),
}

/// Reads a value of `vb.watchdog`.
///
/// # Errors
/// What it may be.
pub fn parse(text: &str) -> Result<Setting, &'static str> {
    match text {
        "auto" => Ok(Setting::Auto),
        "off" => Ok(Setting::Off),
        number => match number.parse() {
            Ok(seconds) if SECONDS.contains(&seconds) => Ok(Setting::Seconds(seconds)),
            _ => Err("auto, off or 2 to 3600 seconds"),
        },
    }
}

/// The watchdog and what became of it.
#[derive(Debug, Default)]
pub struct Guard {
    dog: Option<Watchdog>,
    /// Set at the first beat.
    wanted_s: Option<u32>,
    timeout_s: u32,
    fed: u64,
    fed_ns: u64,
    held_back: u64,
    /// Kept when it was let go: why the machine began is still asked.
    boot_status: u32,
    /// Why there is none, where that is no matter of course.
    refused: String,
}

impl Guard {
    /// Opens it, unless `setting` says that it is to be left alone.
    #[must_use]
    pub fn open(setting: &str) -> Self {
        let mut this = Self::default();
        if parse(setting) == Ok(Setting::Off) {
            return this;
        }
        match Watchdog::open(Path::new(DEVICE)) {
            Ok(dog) => this = Self::of(dog),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => this.refused = format!("{DEVICE}: {e}"),
        }
        this
    }

    /// The one that the PID 1 before us fed.
    #[must_use]
    pub fn adopt(fd: OwnedFd) -> Self {
        Self::of(Watchdog::of(fd.into()))
    }

    fn of(dog: Watchdog) -> Self {
        Self {
            boot_status: dog.boot_status(),
            timeout_s: dog.timeout_s(),
            dog: Some(dog),
            ..Self::default()
        }
    }

    /// Takes what all parameters say, once the manifest's are known too.
    pub fn settle(&mut self, setting: &str) {
        match parse(setting) {
            Ok(Setting::Off) => self.release(),
            Ok(Setting::Seconds(seconds)) => self.wanted_s = Some(seconds),
            Ok(Setting::Auto) | Err(_) => {}
        }
    }

    /// Feeds it at the end of a beat, if all is well with PID 1.
    pub fn feed(&mut self, healthy: bool) {
        let Some(dog) = &mut self.dog else {
            return;
        };
        if !healthy {
            self.held_back += 1;
            return;
        }
        if let Some(seconds) = self.wanted_s.take() {
            match dog.set_timeout_s(seconds) {
                Ok(taken) => self.timeout_s = taken,
                Err(e) => self.refused = format!("{seconds} s: {e}"),
            }
        }
        // One that takes nothing bites, which is what it is for.
        if dog.feed().is_ok() {
            self.fed += 1;
            self.fed_ns = sys::clock::monotonic_ns();
        }
    }

    /// Time left until it bites, by our own clock: asking the driver at each beat would be a system call more.
    #[must_use]
    pub fn left_ns(&self, now: u64) -> Option<u64> {
        let fed = self.dog.is_some() && self.fed_ns > 0;
        let timeout_ns = u64::from(self.timeout_s) * 1_000_000_000;
        fed.then(|| timeout_ns.saturating_sub(now.saturating_sub(self.fed_ns)))
    }

    /// Lets it go, so that an orderly halt stays one.
    pub fn release(&mut self) {
        if let Some(dog) = self.dog.take() {
            dog.release();
        }
    }

    /// It, for whoever feeds it when the heart no longer does.
    #[must_use]
    pub fn dog(&self) -> Option<&Watchdog> {
        self.dog.as_ref()
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.dog.is_some()
    }

    /// Status bits of the last boot, as the driver tells.
    #[must_use]
    pub fn boot_status(&self) -> u32 {
        self.boot_status
    }

    /// Driver and time, for `status`.
    #[must_use]
    pub fn label(&self) -> String {
        let refused = match self.refused.as_str() {
            "" => String::new(),
            why => format!(" ({why})"),
        };
        match &self.dog {
            None => format!("none{refused}"),
            Some(dog) => {
                let kind = if dog.is_software() { " (software)" } else { "" };
                format!("{}{kind}, {} s{refused}", dog.driver(), self.timeout_s)
            }
        }
    }

    /// For the wire.
    #[must_use]
    pub fn record(&self) -> wire::why::Watchdog<'_> {
        wire::why::Watchdog {
            driver: self.dog.as_ref().map_or("", Watchdog::driver),
            software: self.dog.as_ref().is_some_and(Watchdog::is_software),
            armed: self.is_armed(),
            timeout_s: if self.is_armed() { self.timeout_s } else { 0 },
            left_s: self.dog.as_ref().and_then(Watchdog::left_s),
            boot_status: self.boot_status,
            fed: self.fed,
            held_back: self.held_back,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_takes_two_words_and_seconds_in_a_range() {
        assert_eq!(parse("auto"), Ok(Setting::Auto));
        assert_eq!(parse("off"), Ok(Setting::Off));
        assert_eq!(parse("30"), Ok(Setting::Seconds(30)));
        for wrong in ["", "on", "1", "3601", "-5", "30s", "softdog"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn without_a_device_nothing_is_fed_and_nothing_held_back() {
        let mut guard = Guard::open("off");
        guard.feed(true);
        guard.feed(false);
        assert_eq!(guard.label(), "none");
        let record = guard.record();
        assert_eq!((record.fed, record.held_back, record.armed), (0, 0, false));
    }
}
