//! RFC 3339 in UTC, from and to nanoseconds since 1970.

use alloc::string::String;
use core::fmt::Write;

const NS_PER_SECOND: u64 = 1_000_000_000;
const SECONDS_PER_DAY: u64 = 86_400;

/// Writes `2026-01-02T03:04:05.000000006Z`.
///
/// Days to dates by the Gregorian cycle of 400 years (146097 days), years beginning in March.
#[must_use]
pub fn rfc3339(wall_ns: u64) -> String {
    let (seconds, ns) = (wall_ns / NS_PER_SECOND, wall_ns % NS_PER_SECOND);
    let (day, second) = (seconds / SECONDS_PER_DAY, seconds % SECONDS_PER_DAY);
    // Days since 0000-03-01.
    let days = day + 719_468;
    let (era, in_era) = (days / 146_097, days % 146_097);
    let year = (in_era - in_era / 1_460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year + year / 4 - year / 100);
    let march_month = (5 * in_year + 2) / 153;
    let date = in_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let mut out = String::with_capacity(30);
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}.{ns:09}Z"
    );
    out
}

/// Reads what [`rfc3339`] writes, with up to nine digits of a second or none; `Z` alone, no offsets.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let mut at = text.strip_suffix(['Z', 'z'])?;
    let mut number = |digits: usize, before: &str| {
        at = at.strip_prefix(before)?;
        let (now, rest) = at.split_at_checked(digits)?;
        at = rest;
        let all_digits = now.bytes().all(|b| b.is_ascii_digit());
        all_digits.then(|| now.parse::<u64>().ok()).flatten()
    };
    let (year, month, date) = (number(4, "")?, number(2, "-")?, number(2, "-")?);
    let (hour, minute, second) = (number(2, "T")?, number(2, ":")?, number(2, ":")?);
    let ns = match at.strip_prefix('.') {
        None if at.is_empty() => 0,
        Some(digits)
            if (1..=9).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) =>
        {
            let scale = 10u64.checked_pow(9 - u32::try_from(digits.len()).ok()?)?;
            digits.parse::<u64>().ok()? * scale
        }
        _ => return None,
    };
    let inside = (1..=12).contains(&month) && date >= 1 && hour < 24 && minute < 60 && second < 60;
    if !inside || year < 1970 {
        return None;
    }
    // The other way round of `rfc3339`: years begin in March.
    let (march_year, march_month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let (era, in_era) = (march_year / 400, march_year % 400);
    let in_year = (153 * march_month + 2) / 5 + date - 1;
    let days = era * 146_097 + in_era * 365 + in_era / 4 - in_era / 100 + in_year;
    let seconds = days.checked_sub(719_468)? * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second;
    let wall_ns = seconds.checked_mul(NS_PER_SECOND)?.checked_add(ns)?;
    // A date that does not exist is another one written back.
    let written = rfc3339(wall_ns);
    (written.get(..10) == text.get(..10)).then_some(wall_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_agree_with_date_u() {
        for (seconds, text) in [
            (0u64, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000000Z"),
            (951_868_800, "2000-03-01T00:00:00.000000000Z"),
            (1_704_110_400, "2024-01-01T12:00:00.000000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000000000Z"),
        ] {
            assert_eq!(rfc3339(seconds * NS_PER_SECOND), text);
        }
        assert_eq!(rfc3339(123), "1970-01-01T00:00:00.000000123Z");
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else_is() {
        for wall_ns in [
            0,
            1,
            951_782_400_000_000_007,
            4_107_542_399_999_999_999,
            u64::MAX,
        ] {
            assert_eq!(parse_rfc3339(&rfc3339(wall_ns)), Some(wall_ns));
        }
        assert_eq!(parse_rfc3339("1970-01-01T00:00:01Z"), Some(NS_PER_SECOND));
        assert_eq!(parse_rfc3339("1970-01-01T00:00:00.5Z"), Some(500_000_000));
        for bad in [
            "",
            "Z",
            "1970-01-01",
            "1970-01-01T00:00:00",
            "1970-01-01T00:00:00+01:00",
            "1970-02-29T00:00:00Z",
            "1970-13-01T00:00:00Z",
            "1970-01-00T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00.0000000001Z",
            "1969-12-31T23:59:59Z",
            "9999-01-01T00:00:00Z",
            "+970-01-01T00:00:00Z",
            "19\u{e9}0-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let (mut year, mut month, mut date) = (1970u64, 1u64, 1u64);
        for day in 0..146_097u64 {
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let text = rfc3339((day * SECONDS_PER_DAY).wrapping_mul(NS_PER_SECOND));
            if day * SECONDS_PER_DAY > u64::MAX / NS_PER_SECOND {
                break;
            }
            assert_eq!(
                &text[..10],
                alloc::format!("{year:04}-{month:02}-{date:02}")
            );
            date += 1;
            let days = match month {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            if date > days {
                (date, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }
}
