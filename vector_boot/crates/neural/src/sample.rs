//! Readers of the kernel's text files: bytes in, numbers out.
//!
//! Pure: no file is touched, nothing is allocated, every input gives an answer; what is not there or
//! not a number is `None`. `sensors` reads the files. Sources: proc(5), the kernel's
//! `Documentation/accounting/psi.rst` and `Documentation/driver-api/thermal`.

/// Load averages of 1, 5 and 15 minutes, from `/proc/loadavg`.
#[must_use]
pub fn loadavg(text: &[u8]) -> Option<[f32; 3]> {
    let mut words = words(text);
    Some([
        float(words.next()?)?,
        float(words.next()?)?,
        float(words.next()?)?,
    ])
}

/// Processor time since boot in ticks, all processors together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuTimes {
    /// All of it.
    pub total: u64,
    /// Neither used nor waiting for I/O.
    pub idle: u64,
    /// Idle while I/O was under way.
    pub iowait: u64,
    /// Given to other machines by the hypervisor.
    pub steal: u64,
}

/// The first line of `/proc/stat`.
#[must_use]
pub fn cpu_times(text: &[u8]) -> Option<CpuTimes> {
    let line = lines(text).find(|line| line.starts_with(b"cpu "))?;
    // user nice system idle iowait irq softirq steal; guest time is part of user and nice.
    let mut fields = [0u64; 8];
    let mut found = words(line).skip(1).map(number);
    for field in &mut fields {
        *field = found.next()??;
    }
    let [.., idle, iowait, _irq, _softirq, steal] = fields;
    let total = fields
        .iter()
        .fold(0u64, |sum, field| sum.saturating_add(*field));
    Some(CpuTimes {
        total,
        idle,
        iowait,
        steal,
    })
}

/// A field of `/proc/meminfo`, in bytes.
#[must_use]
pub fn meminfo(text: &[u8], field: &str) -> Option<u64> {
    let line =
        lines(text).find_map(|line| line.strip_prefix(field.as_bytes())?.strip_prefix(b":"))?;
    // Every field that we ask for is counted in kB, which are KiB.
    number(words(line).next()?)?.checked_mul(1024)
}

/// Shares of the last ten seconds, in percent, from `/proc/pressure/*`: some and full.
#[must_use]
pub fn pressure(text: &[u8]) -> (Option<f32>, Option<f32>) {
    let share = |kind: &[u8]| {
        let line = lines(text).find(|line| words(line).next() == Some(kind))?;
        float(words(line).find_map(|word| word.strip_prefix(b"avg10="))?)
    };
    (share(b"some"), share(b"full"))
}

/// Degrees Celsius, from a thermal zone's `temp` in thousandths.
#[must_use]
pub fn temperature(text: &[u8]) -> Option<f32> {
    let text = std::str::from_utf8(text).ok()?.trim_ascii();
    // Small enough for f32: sensors give a few hundred thousand at most.
    Some(text.parse::<i32>().ok()? as f32 / 1000.0)
}

/// Bytes and troubles of all links but loopback since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkCounts {
    /// Bytes received.
    pub rx: u64,
    /// Bytes sent.
    pub tx: u64,
    /// Errors and drops, both ways.
    pub errors: u64,
}

/// Sums `/proc/net/dev`; a line cut off at the buffer's end is left out.
#[must_use]
pub fn links(text: &[u8]) -> LinkCounts {
    let mut sum = LinkCounts::default();
    for line in lines(text) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, counts) = line.split_at(colon);
        if name.trim_ascii() == b"lo" {
            continue;
        }
        // Receive: bytes packets errs drop fifo frame compressed multicast; transmit: bytes packets errs drop.
        let mut fields = [0u64; 12];
        let mut found = words(counts.get(1..).unwrap_or_default()).map(number);
        let complete = fields.iter_mut().all(|field| match found.next() {
            Some(Some(count)) => {
                *field = count;
                true
            }
            _ => false,
        });
        if complete {
            let [
                rx,
                _,
                rx_errors,
                rx_drops,
                _,
                _,
                _,
                _,
                tx,
                _,
                tx_errors,
                tx_drops,
            ] = fields;
            sum.rx = sum.rx.saturating_add(rx);
            sum.tx = sum.tx.saturating_add(tx);
            for count in [rx_errors, rx_drops, tx_errors, tx_drops] {
                sum.errors = sum.errors.saturating_add(count);
            }
        }
    }
    sum
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn float(word: &[u8]) -> Option<f32> {
    let value: f32 = std::str::from_utf8(word).ok()?.parse().ok()?;
    value.is_finite().then_some(value)
}

/// The fuzz body: every reader answers for every text, and a number it gives is one.
///
/// # Panics
/// Where a promise does not hold.
pub fn fuzz_body(text: &[u8]) {
    assert!(loadavg(text).is_none_or(|load| load.iter().all(|value| value.is_finite())));
    if let Some(times) = cpu_times(text) {
        assert!(
            times.idle <= times.total && times.iowait <= times.total && times.steal <= times.total
        );
    }
    let _bytes = meminfo(text, "MemTotal");
    let (some, full) = pressure(text);
    assert!(some.is_none_or(f32::is_finite) && full.is_none_or(f32::is_finite));
    assert!(temperature(text).is_none_or(f32::is_finite));
    let _counts = links(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STAT: &[u8] = b"cpu  10 1 20 300 40 5 6 7 8 9\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 5\n";
    const MEMINFO: &[u8] = b"MemTotal:        2014336 kB\nMemFree:          100 kB\nMemAvailable:    1500000 kB\nCached: 7 kB\n";
    const PRESSURE: &[u8] = b"some avg10=1.50 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=1\n";
    const NET: &[u8] = b"Inter-|   Receive  |  Transmit\n face |bytes packets\n    lo: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0\n  eth0:100 2 3 4 0 0 0 0 200 5 6 7 0 0 0 0\n wlan0: 1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0\n";

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(
            loadavg(b"0.50 1.25 2.00 1/100 123\n"),
            Some([0.5, 1.25, 2.0])
        );
        let times = CpuTimes {
            total: 389,
            idle: 300,
            iowait: 40,
            steal: 7,
        };
        assert_eq!(cpu_times(STAT), Some(times));
        assert_eq!(meminfo(MEMINFO, "MemTotal"), Some(2_014_336 * 1024));
        assert_eq!(meminfo(MEMINFO, "MemAvailable"), Some(1_500_000 * 1024));
        assert_eq!(meminfo(MEMINFO, "Mem"), None);
        assert_eq!(pressure(PRESSURE), (Some(1.5), Some(0.25)));
        assert_eq!(temperature(b"-1500\n"), Some(-1.5));
        assert_eq!(
            links(NET),
            LinkCounts {
                rx: 101,
                tx: 202,
                errors: 20
            }
        );
    }

    #[test]
    fn a_kernel_without_full_pressure_gives_some() {
        assert_eq!(
            pressure(b"some avg10=3.00 avg60=0 avg300=0 total=5\n"),
            (Some(3.0), None)
        );
    }

    #[test]
    fn words_that_are_no_numbers_are_unknown() {
        assert_eq!(loadavg(b"a b c"), None);
        assert_eq!(loadavg(b"inf 1 1"), None);
        assert_eq!(cpu_times(b"cpu  1 2 3\n"), None);
        assert_eq!(temperature(b""), None);
        assert_eq!(
            meminfo(b"MemTotal: 99999999999999999999 kB", "MemTotal"),
            None
        );
        assert_eq!(links(b"eth0: 1 2"), LinkCounts::default());
    }

    #[test]
    fn files_cut_at_every_byte_are_read_without_harm() {
        for text in [STAT, MEMINFO, PRESSURE, NET] {
            (0..=text.len()).for_each(|end| fuzz_body(&text[..end]));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_harm(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz_body(&text);
        }

        #[test]
        fn what_is_written_as_meminfo_is_read(total in 0u64..1 << 50, free in 0u64..1 << 50) {
            let text = format!("MemTotal: {total} kB\nMemAvailable:{free} kB\n");
            prop_assert_eq!(meminfo(text.as_bytes(), "MemTotal"), Some(total * 1024));
            prop_assert_eq!(meminfo(text.as_bytes(), "MemAvailable"), Some(free * 1024));
        }

        #[test]
        fn what_is_written_as_links_is_summed(counts in proptest::collection::vec(0u64..1 << 40, 1..20)) {
            let text: String = counts.iter().map(|n| format!("e{n}: {n} 0 1 0 0 0 0 0 {n} 0 0 1 0 0 0 0\n")).collect();
            let sum: u64 = counts.iter().sum();
            let expected = LinkCounts { rx: sum, tx: sum, errors: 2 * counts.len() as u64 };
            prop_assert_eq!(links(text.as_bytes()), expected);
        }
    }
}
