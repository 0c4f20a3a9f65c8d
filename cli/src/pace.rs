//! Limits of speed and time, as people write them.

use std::time::{Duration, Instant};

use crate::interruptible_stream::PATIENCE;
use crate::signals::Signals;

/// Letters of spans of time, with their seconds.
const LETTERS: [(char, u64); 5] = [
    ('s', 1),
    ('m', 60),
    ('h', 3600),
    ('d', 24 * 3600),
    ('w', 7 * 24 * 3600),
];
/// The longest span: what is longer is a mistake.
const SECONDS_MAX: u64 = 100 * 366 * 24 * 3600;

/// `text` as a span of time: `90s`, `10m`, `8h`, `30d`, `4w`.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    let shape = || "a time is a number and one of s, m, h, d, w, such as 10m".to_owned();
    let letter = text.chars().last().ok_or_else(shape)?;
    let known = LETTERS.into_iter().find(|(known, _)| *known == letter);
    let (_, seconds) = known.ok_or_else(shape)?;
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| shape())?;
    let all = number.checked_mul(seconds);
    match all.filter(|all| (1..=SECONDS_MAX).contains(all)) {
        Some(all) => Ok(Duration::from_secs(all)),
        None => Err("that is no time, or more than a hundred years".to_owned()),
    }
}

/// Waits for `time`, or until it is time to stop: whether it is.
pub(crate) fn sleep_or_stop(signals: &Signals, time: Duration) -> bool {
    let end = Instant::now() + time;
    while !signals.is_stopped() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        signals.await_stop(left.min(PATIENCE));
    }
    true
}

/// Keeps work to so many bytes a second.
pub(crate) struct ByteThrottle {
    bytes_per_s: u64,
    began: Instant,
    bytes: u64,
}

impl ByteThrottle {
    /// A limit from now on; 0 is no limit.
    pub(crate) fn new(bytes_per_s: u64) -> Self {
        Self {
            bytes_per_s,
            began: Instant::now(),
            bytes: 0,
        }
    }

    /// Counts `bytes` more, and waits until they may have been done, or a signal comes.
    pub(crate) fn await_budget(&mut self, bytes: u64, signals: &Signals) {
        self.bytes = self.bytes.saturating_add(bytes);
        sleep_or_stop(
            signals,
            self.least_time().saturating_sub(self.began.elapsed()),
        );
    }

    /// The least time for the bytes so far.
    fn least_time(&self) -> Duration {
        let micros = u128::from(self.bytes) * 1_000_000;
        let micros = micros.checked_div(self.bytes_per_s.into()).unwrap_or(0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, seconds) in [
            ("90s", 90),
            ("10m", 600),
            ("8h", 28_800),
            ("30d", 2_592_000),
            ("4w", 2_419_200),
        ] {
            assert_eq!(parse_span(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "m",
            "10",
            "1.5h",
            "-1m",
            "0s",
            "99999w",
            "10 m",
            "1µ",
            "99999999999999999999s",
        ] {
            assert!(parse_span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_pace_is_kept_over_all_that_was_done() {
        let mut pace = ByteThrottle::new(1 << 20);
        pace.bytes = 3 << 19;
        assert_eq!(pace.least_time(), Duration::from_millis(1500));
        assert_eq!(ByteThrottle::new(0).least_time(), Duration::ZERO);
        pace.bytes = u64::MAX;
        assert!(pace.least_time() > Duration::from_hours(1));
    }
}
