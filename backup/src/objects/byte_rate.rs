//! Limits of bytes a second: a rate that threads share, and a place that is read within one.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{ObjectError, ObjectErrorKind, Objects};

/// The longest time between two looks at whether the waiting was called off.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// A read is at most as long as what may come in a second, within these bounds: requests cost, too.
const READ_LEN_MIN: u64 = 64 << 10;
const READ_LEN_MAX: u64 = 8 << 20;

/// A number of bytes a second, for all threads together.
#[derive(Debug)]
pub struct ByteRate {
    limit: u64,
    free_at: Mutex<Instant>,
}

/// A place from which no more comes in a second than a limit. What is put is not limited here.
pub struct RateLimitedReads {
    place: Arc<dyn Objects>,
    rate: ByteRate,
    is_cancelled: Box<dyn Fn() -> bool + Send + Sync>,
}

impl ByteRate {
    /// The rate of `limit` bytes a second, at least 1.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self {
            limit: limit.max(1),
            free_at: Mutex::new(Instant::now()),
        }
    }

    /// Waits until `len` more bytes may go: once their time is over, so that no second has more
    /// than its bytes. False if that was called off.
    #[must_use]
    pub fn wait(&self, len: u64, is_cancelled: &dyn Fn() -> bool) -> bool {
        let until = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let start = (*free_at).max(Instant::now());
            *free_at = start + Duration::from_secs_f64(len as f64 / self.limit as f64);
            *free_at
        };
        while Instant::now() < until {
            if is_cancelled() {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            std::thread::sleep(left.min(LOOK_INTERVAL));
        }
        true
    }
}

impl RateLimitedReads {
    /// Reads `place` at `limit` bytes a second, until `is_cancelled`.
    #[must_use]
    pub fn new(
        place: Arc<dyn Objects>,
        limit: u64,
        is_cancelled: Box<dyn Fn() -> bool + Send + Sync>,
    ) -> Self {
        Self {
            place,
            rate: ByteRate::new(limit),
            is_cancelled,
        }
    }

    fn wait(&self, name: &str, len: u64) -> Result<(), ObjectError> {
        if self.rate.wait(len, &*self.is_cancelled) {
            return Ok(());
        }
        let what = "the wait for the limit was called off";
        Err(ObjectError::new(ObjectErrorKind::CalledOff, name, what))
    }
}

impl Objects for RateLimitedReads {
    /// Nobody knows how long it is before it came: the next read waits for it.
    fn get(&self, name: &str) -> Result<Vec<u8>, ObjectError> {
        let stored = self.place.get(name)?;
        self.wait(name, stored.len() as u64)?;
        Ok(stored)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        let len_max = self.rate.limit.clamp(READ_LEN_MIN, READ_LEN_MAX);
        let mut bytes = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at.saturating_add(len_max));
            self.wait(name, end - at)?;
            bytes.append(&mut self.place.get_range(name, at..end)?);
            at = end;
        }
        Ok(bytes)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        self.place.put(name, bytes)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        self.place.replace(name, bytes)
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(&str, u64) -> Result<(), ObjectError>,
    ) -> Result<(), ObjectError> {
        self.place.list(prefix, visit)
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        self.place.delete(name)
    }

    fn leftovers(&self) -> Result<Vec<String>, ObjectError> {
        self.place.leftovers()
    }

    fn remove_leftover(&self, name: &str, is_alone: bool) -> Result<bool, ObjectError> {
        self.place.remove_leftover(name, is_alone)
    }

    fn keep_reserve(&self, len: u64) {
        self.place.keep_reserve(len);
    }

    fn release_reserve(&self) -> bool {
        self.place.release_reserve()
    }

    fn requests_together(&self) -> usize {
        self.place.requests_together()
    }

    fn keeps_copies(&self) -> bool {
        self.place.keeps_copies()
    }

    fn keeps_versions(&self) -> bool {
        self.place.keeps_versions()
    }

    fn describe(&self) -> String {
        self.place.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::{Memory, Request};
    use super::*;

    /// The first pack went at full speed, and it was of 32 MiB: `--limit-upload 1M` sent 24 MiB in
    /// 0.4 s.
    #[test]
    fn what_is_limited_waits_before_it_goes_the_first_included() {
        let begun = Instant::now();
        let rate = ByteRate::new(1 << 20);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| assert!(rate.wait(1 << 18, &|| false)));
            }
        });
        assert!(begun.elapsed() >= Duration::from_millis(490), "{begun:?}");
    }

    #[test]
    fn waiting_for_the_limit_ends_when_a_person_stops_it() {
        assert!(!ByteRate::new(1).wait(1 << 20, &|| true));
    }

    #[test]
    fn reads_are_cut_into_what_a_second_may_have_and_come_whole() {
        let memory = Arc::new(Memory::new());
        let stored: Vec<u8> = (0..300_000_u32).map(|nth| nth as u8).collect();
        memory.put("packs/00/a", &stored).expect("room");
        let place = RateLimitedReads::new(memory.clone(), 1 << 20, Box::new(|| false));
        let begun = Instant::now();
        let part = place.get_range("packs/00/a", 1000..300_000);
        assert!(part.expect("it is there") == stored[1000..]);
        assert!(begun.elapsed() >= Duration::from_millis(285), "{begun:?}");
        let place = RateLimitedReads::new(memory.clone(), 1, Box::new(|| true));
        memory.take_log();
        let part = place.get_range("packs/00/a", 0..300_000);
        let error = part.expect_err("it was called off");
        assert_eq!(error.kind, ObjectErrorKind::CalledOff);
        assert_eq!(memory.take_log(), [], "it waits before it asks");
        let limit = READ_LEN_MIN / 2;
        let place = RateLimitedReads::new(memory.clone(), limit * 1000, Box::new(|| false));
        assert!(place.get("packs/00/a").expect("it is there") == stored);
        let asked = memory.take_log();
        assert_eq!(asked, [(Request::Get, "packs/00/a".to_owned())]);
    }
}
