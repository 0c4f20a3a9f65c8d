//! Persistence with a place that fails for a while: every request is tried again until the place
//! has been gone for minutes, so that a server's restart, a cable or a busy store end nothing.
//!
//! All requests may be repeated: an object is put under a name of its own, and a listing is shown
//! only when it is whole.
//!
//! How long is tried depends on what failed:
//!
//! - Where nobody ever answered, and nobody can be reached, the address is more likely wrong.
//! - Of a read that gives nothing whole ([`ObjectErrorKind::Doubtful`]), the object may be at
//!   fault. While the place gives something else, it is, after a few tries.
//! - Anything else that may pass is waited for, and a person is told once.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{ObjectError, ObjectErrorKind, ObjectName, Objects};

/// The number of tries at a read of an object that seems to be at fault.
const READ_TRIES: u32 = 3;
/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The longest time between two looks at whether the waiting was called off.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The longest times from a request's first failure to its last try, and the pauses between.
#[derive(Clone, Copy, Debug)]
pub struct PersistenceLimits {
    /// For a place that nobody reached yet: as long as a name may take to be known.
    pub unmet: Duration,
    /// For any other: longer than a server takes to start, and a night's maintenance of a network.
    pub met: Duration,
    /// The first pause between two tries; each is twice as long as the one before.
    pub pause: Duration,
}

impl Default for PersistenceLimits {
    fn default() -> Self {
        Self {
            unmet: Duration::from_secs(15),
            met: Duration::from_mins(4),
            pause: Duration::from_millis(200),
        }
    }
}

/// One who waits for a place that failed.
pub trait OutageWatch: Send + Sync {
    /// The place failed so, and is asked again for up to `limit`: called once for each outage.
    fn place_failed(&self, place: &str, error: &ObjectError, limit: Duration);

    /// It answers again.
    fn place_answers(&self, place: &str);

    /// True if the waiting is called off.
    fn is_cancelled(&self) -> bool;
}

/// A place that is asked again when it fails.
pub struct PersistentObjects {
    place: Arc<dyn Objects>,
    watch: Box<dyn OutageWatch>,
    limits: PersistenceLimits,
    /// True once the place answered anything.
    is_met: AtomicBool,
    /// True while somebody was told that it fails.
    is_told: AtomicBool,
}

/// The kinds of requests, by what a doubtful answer means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// One object's bytes.
    Bytes,
    Other,
}

/// A request's tries so far.
struct Tries {
    begun: Instant,
    count: u32,
    pause: Duration,
}

impl PersistentObjects {
    /// Asks `place` for up to `limits`.
    #[must_use]
    pub fn new(
        place: Arc<dyn Objects>,
        watch: Box<dyn OutageWatch>,
        limits: PersistenceLimits,
    ) -> Self {
        Self {
            place,
            watch,
            limits,
            is_met: AtomicBool::new(false),
            is_told: AtomicBool::new(false),
        }
    }

    fn persist<T>(
        &self,
        asked: Asked,
        request: impl Fn() -> Result<T, ObjectError>,
    ) -> Result<T, ObjectError> {
        let mut tries = Tries {
            begun: Instant::now(),
            count: 0,
            pause: self.limits.pause,
        };
        loop {
            tries.count += 1;
            let error = match request() {
                Ok(answer) => {
                    self.note_answer();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            if self.watch.is_cancelled() && is_passing(error.kind) {
                return Err(called_off(error));
            }
            let Some(limit) = self.limit(asked, &error, &tries) else {
                return Err(error);
            };
            if tries.begun.elapsed() >= limit {
                return Err(error);
            }
            if tries.count > 1 && !self.is_told.swap(true, Ordering::Relaxed) {
                self.watch.place_failed(&self.describe(), &error, limit);
            }
            if !self.pause(&mut tries, limit) {
                return Err(called_off(error));
            }
        }
    }

    fn note_answer(&self) {
        self.is_met.store(true, Ordering::Relaxed);
        if self.is_told.swap(false, Ordering::Relaxed) {
            self.watch.place_answers(&self.describe());
        }
    }

    /// The time for which a request that failed so is tried again; none if that is of no use.
    fn limit(&self, asked: Asked, error: &ObjectError, tries: &Tries) -> Option<Duration> {
        match error.kind {
            ObjectErrorKind::Unreachable if !self.is_met.load(Ordering::Relaxed) => {
                Some(self.limits.unmet)
            }
            ObjectErrorKind::Unreachable | ObjectErrorKind::Passing => Some(self.limits.met),
            ObjectErrorKind::Doubtful
                if asked == Asked::Bytes && tries.count >= READ_TRIES && self.gives_another() =>
            {
                None
            }
            ObjectErrorKind::Doubtful => Some(self.limits.met),
            // An answer, though not the one that was hoped for.
            _ => {
                self.note_answer();
                None
            }
        }
    }

    /// True if the place gives another object than one that seems to be at fault.
    fn gives_another(&self) -> bool {
        self.place.get(&ObjectName::Repository.to_string()).is_ok()
    }

    /// Waits before the next try; false if that was called off.
    fn pause(&self, tries: &mut Tries, limit: Duration) -> bool {
        let left = limit.saturating_sub(tries.begun.elapsed());
        let until = Instant::now() + tries.pause.min(left);
        tries.pause = (tries.pause * 2).min(PAUSE_MAX);
        while Instant::now() < until {
            if self.watch.is_cancelled() {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            std::thread::sleep(left.min(LOOK_INTERVAL));
        }
        !self.watch.is_cancelled()
    }
}

fn is_passing(kind: ObjectErrorKind) -> bool {
    matches!(
        kind,
        ObjectErrorKind::Passing | ObjectErrorKind::Unreachable | ObjectErrorKind::Doubtful
    )
}

fn called_off(error: ObjectError) -> ObjectError {
    ObjectError {
        kind: ObjectErrorKind::CalledOff,
        ..error
    }
}

impl Objects for PersistentObjects {
    fn get(&self, name: &str) -> Result<Vec<u8>, ObjectError> {
        self.persist(Asked::Bytes, || self.place.get(name))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        self.persist(Asked::Bytes, || self.place.get_range(name, range.clone()))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        self.persist(Asked::Other, || self.place.put(name, bytes))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        self.persist(Asked::Other, || self.place.replace(name, bytes))
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(&str, u64) -> Result<(), ObjectError>,
    ) -> Result<(), ObjectError> {
        let names = self.persist(Asked::Other, || {
            let mut names = Vec::new();
            self.place.list(prefix, &mut |name, len| {
                names.push((name.to_owned(), len));
                Ok(())
            })?;
            Ok(names)
        })?;
        names
            .into_iter()
            .try_for_each(|(name, len)| visit(&name, len))
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        self.persist(Asked::Other, || self.place.delete(name))
    }

    fn leftovers(&self) -> Result<Vec<String>, ObjectError> {
        self.persist(Asked::Other, || self.place.leftovers())
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
    use std::sync::Mutex;

    use super::*;
    use crate::objects::memory::{Effect, Fault, Memory, Request};

    /// Notes what it is told, and calls the waiting off if it is to.
    #[derive(Clone, Default)]
    struct Notes {
        told: Arc<Mutex<Vec<String>>>,
        is_cancelled: Arc<AtomicBool>,
    }

    impl OutageWatch for Notes {
        fn place_failed(&self, _: &str, error: &ObjectError, _: Duration) {
            let mut told = self.told.lock().expect("nobody panics here");
            told.push(format!("{:?}", error.kind));
        }

        fn place_answers(&self, _: &str) {
            let mut told = self.told.lock().expect("nobody panics here");
            told.push("answers".to_owned());
        }

        fn is_cancelled(&self) -> bool {
            self.is_cancelled.load(Ordering::Relaxed)
        }
    }

    struct Scene {
        memory: Arc<Memory>,
        notes: Notes,
        place: PersistentObjects,
    }

    fn scene(unmet_ms: u64, met_ms: u64) -> Scene {
        let (memory, notes) = (Arc::new(Memory::new()), Notes::default());
        memory
            .put(&ObjectName::Repository.to_string(), b"{}")
            .expect("room");
        let limits = PersistenceLimits {
            unmet: Duration::from_millis(unmet_ms),
            met: Duration::from_millis(met_ms),
            ..PersistenceLimits::default()
        };
        let place = PersistentObjects::new(memory.clone(), Box::new(notes.clone()), limits);
        Scene {
            memory,
            notes,
            place,
        }
    }

    impl Scene {
        /// The next `count` requests of a kind fail.
        fn fail(&self, request: Request, kind: ObjectErrorKind, count: u64) {
            for _ in 0..count {
                self.memory.fail(Fault {
                    request: Some(request),
                    after: 0,
                    effect: Effect::Refused(kind),
                });
            }
        }

        fn told(&self) -> Vec<String> {
            std::mem::take(&mut self.notes.told.lock().expect("nobody panics here"))
        }
    }

    #[test]
    fn an_outage_is_waited_for_and_told_once() {
        let scene = scene(0, 60_000);
        scene.fail(Request::Put, ObjectErrorKind::Passing, 4);
        scene.place.put("packs/00/a", b"a").expect("it passes");
        assert_eq!(scene.told(), ["Passing", "answers"]);
        scene.fail(Request::Get, ObjectErrorKind::Unreachable, 3);
        assert_eq!(scene.place.get("packs/00/a").expect("it passes"), b"a");
        assert_eq!(scene.told(), ["Unreachable", "answers"]);
        scene.fail(Request::List, ObjectErrorKind::Passing, 1);
        let mut count = 0;
        let listed = scene.place.list("packs/", &mut |_, _| {
            count += 1;
            Ok(())
        });
        listed.expect("it passes");
        assert_eq!(count, 1, "a listing is shown once");
        assert_eq!(scene.told(), [""; 0], "one failure is nobody's concern");
    }

    #[test]
    fn a_place_that_nobody_met_is_given_up_soon_and_no_other_is() {
        let scene = scene(0, 300);
        scene.fail(Request::Get, ObjectErrorKind::Unreachable, 1);
        let failed = scene.place.get("a").expect_err("nobody is there");
        assert_eq!(failed.kind, ObjectErrorKind::Unreachable);
        let missing = scene.place.get("a").expect_err("it is not there");
        assert_eq!(missing.kind, ObjectErrorKind::Missing, "that is an answer");
        scene.fail(Request::Get, ObjectErrorKind::Unreachable, 1000);
        let begun = Instant::now();
        let failed = scene.place.get("a").expect_err("it stays away");
        assert_eq!(failed.kind, ObjectErrorKind::Unreachable);
        assert!(begun.elapsed() >= Duration::from_millis(300));
    }

    #[test]
    fn an_object_that_gives_nothing_whole_is_at_fault_while_others_do() {
        let scene = scene(0, 60_000);
        scene.fail(Request::GetRange, ObjectErrorKind::Doubtful, 1000);
        let failed = scene.place.get_range("a", 0..1).expect_err("it is damaged");
        assert_eq!(failed.kind, ObjectErrorKind::Doubtful);
        let log = scene.memory.take_log();
        let tries = log.iter().filter(|(kind, _)| *kind == Request::GetRange);
        assert_eq!(tries.count(), READ_TRIES as usize);
        // What is written is doubted for other reasons.
        scene.memory.heal();
        scene.fail(Request::Put, ObjectErrorKind::Doubtful, 4);
        scene.place.put("b", b"b").expect("it passes");
    }

    #[test]
    fn waiting_ends_when_it_is_called_off() {
        let scene = scene(60_000, 60_000);
        scene.fail(Request::Get, ObjectErrorKind::Unreachable, 1000);
        let cancelled = scene.notes.is_cancelled.clone();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(300));
                cancelled.store(true, Ordering::Relaxed);
            });
            let failed = scene.place.get("a").expect_err("it was called off");
            assert_eq!(failed.kind, ObjectErrorKind::CalledOff);
        });
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}
