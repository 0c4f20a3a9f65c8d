//! Moments and durations, as people and programs read them.

use jiff::Timestamp;
use serde::{Serialize, Serializer};

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
