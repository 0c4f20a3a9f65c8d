//! Moments and durations, as people and programs read them.

use jiff::Timestamp;
use serde::{Serialize, Serializer};

/// Letters of an offset: `+01:00`.
pub(super) const OFFSET_LEN: usize = 6;

/// The offset of a clock from UTC, as it stands at the end of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ZoneOffset {
    minutes: i32,
}

impl ZoneOffset {
    /// The rest of `cell` before its offset, and that.
    pub(super) fn split_cell(cell: &str) -> Option<(&str, Self)> {
        let (time, offset) = cell.split_at_checked(cell.len().checked_sub(OFFSET_LEN)?)?;
        let (sign, clock) = match offset.strip_prefix('-') {
            Some(clock) => (-1, clock),
            None => (1, offset.strip_prefix('+')?),
        };
        let (hours, minutes) = clock.split_once(':')?;
        let minutes = hours.parse::<i32>().ok()? * 60 + minutes.parse::<i32>().ok()?;
        let minutes = sign * minutes;
        Some((time, Self { minutes }))
    }

    /// `UTC`, or `+01:00`.
    pub(super) fn offset_title(self) -> String {
        if self.minutes == 0 {
            return "UTC".to_owned();
        }
        let sign = if self.minutes < 0 { '-' } else { '+' };
        let (hours, minutes) = (self.minutes.abs() / 60, self.minutes.abs() % 60);
        format!("{sign}{hours:02}:{minutes:02}")
    }
}

/// A moment: programs get it in UTC, people as their clock shows it
/// ([`super::page::TextPage::format_time`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rfc3339Time {
    pub(crate) since_1970_ms: u64,
}

impl Rfc3339Time {
    pub(crate) fn new(since_1970_ms: u64) -> Self {
        Self { since_1970_ms }
    }
}

impl Serialize for Rfc3339Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_utc(self.since_1970_ms))
    }
}

/// A moment in RFC 3339, to the second, in UTC. One that no calendar has is shown as its number.
pub(crate) fn format_utc(since_1970_ms: u64) -> String {
    let moment = i64::try_from(since_1970_ms / 1000)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    moment.map_or_else(
        || format!("{since_1970_ms} ms"),
        |moment| moment.to_string(),
    )
}

/// The duration of something, as precisely as anyone wants to know.
pub(crate) fn format_duration(exact_seconds: f64) -> String {
    let seconds = exact_seconds as u64;
    match seconds {
        0..60 => format!("{exact_seconds:.1} s"),
        60..3600 => format!("{}:{:02} min", seconds / 60, seconds % 60),
        _ => format!("{}:{:02} h", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_has_a_text() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_700_000_000_999, "2023-11-14T22:13:20Z"),
            (u64::MAX, "18446744073709551615 ms"),
        ] {
            assert_eq!(format_utc(ms), text);
        }
        for (seconds, text) in [
            (0.0, "0.0 s"),
            (59.0, "59.0 s"),
            (60.0, "1:00 min"),
            (3599.9, "59:59 min"),
            (7260.0, "2:01 h"),
        ] {
            assert_eq!(format_duration(seconds), text);
        }
    }
}
