//! The model of a store, a repository and files: the bytes that they must show, or those that the
//! replies to a guest's writes allow.
//!
//! Time is counted in moments: one before each request, one after each answer. A loss of power has
//! the last moment before its place in the trace, so all rules are about whole numbers.
//!
//! The rule for a sector that guests write is that of any disk with a cache: it shows a write that
//! had been asked for, or the content before, but nothing that is older than a *durable* write of
//! it. A write is durable if it was answered before an answered flush was asked for, or, if it was
//! to be forced to the disk, once it is answered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The unit of a guest's write in bytes; each has the number of its write.
pub(crate) const SECTOR_LEN: usize = 512;
/// No moment at all: something that was never answered.
pub(crate) const NEVER: u64 = u64::MAX;

/// Bytes that are shared.
pub(crate) type Bytes = Arc<Vec<u8>>;

/// The content that a name must show.
#[derive(Clone)]
pub(crate) enum Shown {
    /// These bytes.
    Fixed(Bytes),
    /// The disk of a guest, which goes on writing.
    Live(Arc<GuestDisk>),
    /// The content that a guest's disk showed at one moment between the two.
    Between(Arc<GuestDisk>, u64, u64),
}

/// All names of a store, of a folder, or of a repository.
pub(crate) type Names = BTreeMap<String, Shown>;

/// A disk that guests write.
pub(crate) struct GuestDisk {
    epochs: Mutex<Vec<Epoch>>,
}

/// The time from one look at a disk that nobody writes to the next.
struct Epoch {
    begun: u64,
    base: Bytes,
    writes: Vec<GuestWrite>,
    /// The moments at which each flush was asked for and answered.
    flushes: Vec<(u64, u64)>,
    /// The moment right before its server was killed.
    killed: Option<u64>,
}

/// A write, as it was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuestWrite {
    /// In sectors.
    pub(crate) first: u64,
    pub(crate) count: u64,
    /// The number that it writes: see [`sector`]. Zeros if it is 0.
    pub(crate) id: u64,
    pub(crate) is_forced: bool,
    pub(crate) asked: u64,
    pub(crate) answered: u64,
}

/// The bytes that write `id` puts into `sector`. Every second write puts the same bytes into all
/// its sectors, so that equal chunks are found.
pub(crate) fn sector(id: u64, sector: u64) -> Vec<u8> {
    let place = if id.is_multiple_of(2) { 0 } else { sector };
    let word = if id == 0 { 0 } else { place };
    [id.to_le_bytes(), word.to_le_bytes()]
        .concat()
        .repeat(SECTOR_LEN / 16)
}

impl Shown {
    pub(crate) fn fixed(bytes: Vec<u8>) -> Self {
        Self::Fixed(Arc::new(bytes))
    }

    /// The bytes, if they are certain.
    pub(crate) fn bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Fixed(bytes) => Some(bytes),
            Self::Live(_) | Self::Between(..) => None,
        }
    }

    /// Checks that `seen` may be there if power was lost at `moment`; the error says why not.
    pub(crate) fn allows(&self, seen: &[u8], moment: u64) -> Result<(), String> {
        match self {
            Self::Fixed(bytes) => same(seen, bytes),
            Self::Live(disk) => disk.allows(seen, moment),
            Self::Between(disk, begun, done) => disk.allowed_between(seen, *begun, *done),
        }
    }
}

/// Checks that both are the same; the error says where they differ.
fn same(seen: &[u8], expected: &[u8]) -> Result<(), String> {
    if seen.len() != expected.len() {
        return Err(format!("{} bytes, not {}", seen.len(), expected.len()));
    }
    let differs = |(seen, expected): (&u8, &u8)| seen != expected;
    match seen.iter().zip(expected).position(differs) {
        Some(at) => Err(format!("byte {at} of {} is wrong", seen.len())),
        None => Ok(()),
    }
}

impl GuestDisk {
    /// A disk that holds `base`, and that nobody wrote to before `begun`.
    pub(crate) fn new(begun: u64, base: Bytes) -> Arc<Self> {
        let disk = Self {
            epochs: Mutex::default(),
        };
        disk.look(begun, base);
        Arc::new(disk)
    }

    /// Notes that from `begun` on it holds `base`, durably, and that nobody is writing.
    pub(crate) fn look(&self, begun: u64, base: Bytes) {
        self.lock().push(Epoch {
            begun,
            base,
            writes: Vec::new(),
            flushes: Vec::new(),
            killed: None,
        });
    }

    /// Notes that from `moment` on its server is killed: writes that were not flushed may be gone.
    pub(crate) fn lose_server(&self, moment: u64) {
        last(&mut self.lock()).killed = Some(moment);
    }

    pub(crate) fn len(&self) -> u64 {
        self.lock()
            .last()
            .map_or(0, |epoch| epoch.base.len() as u64)
    }

    /// Notes a write that is being asked for; its number.
    pub(crate) fn ask_write(&self, write: GuestWrite) -> usize {
        let mut epochs = self.lock();
        let writes = &mut last(&mut epochs).writes;
        writes.push(write);
        writes.len() - 1
    }

    pub(crate) fn answer_write(&self, number: usize, moment: u64) {
        last(&mut self.lock()).writes[number].answered = moment;
    }

    /// Notes a flush that is being asked for; its number.
    pub(crate) fn ask_flush(&self, moment: u64) -> usize {
        let mut epochs = self.lock();
        let flushes = &mut last(&mut epochs).flushes;
        flushes.push((moment, NEVER));
        flushes.len() - 1
    }

    pub(crate) fn answer_flush(&self, number: usize, moment: u64) {
        last(&mut self.lock()).flushes[number].1 = moment;
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Epoch>> {
        self.epochs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allows(&self, seen: &[u8], moment: u64) -> Result<(), String> {
        let epochs = self.lock();
        let epoch = at(&epochs, moment);
        epoch.allows(seen, moment, epoch.durable_by(moment))
    }

    fn allowed_between(&self, seen: &[u8], begun: u64, done: u64) -> Result<(), String> {
        let epochs = self.lock();
        let epoch = at(&epochs, begun);
        if epoch.killed.is_some_and(|killed| killed < done) {
            return epoch.allows(seen, done, epoch.durable_by(begun));
        }
        epoch.allows(seen, done, |write| write.answered < begun)
    }
}

fn last(epochs: &mut [Epoch]) -> &mut Epoch {
    epochs.last_mut().expect("a disk begins with a look at it")
}

fn at(epochs: &[Epoch], moment: u64) -> &Epoch {
    let begun = epochs.partition_point(|epoch| epoch.begun <= moment);
    &epochs[begun.saturating_sub(1)]
}

impl Epoch {
    /// Tells the writes that outlive the loss of power, or of the server, at `moment`.
    fn durable_by(&self, moment: u64) -> impl Fn(&GuestWrite) -> bool + use<> {
        let answered = self.flushes.iter().filter(|flush| flush.1 <= moment);
        let flushed = answered.map(|flush| flush.0).max().unwrap_or(0);
        move |write| write.answered < flushed || write.is_forced && write.answered <= moment
    }

    /// Checks that every sector of `seen` shows a write that was asked for by `moment`, or the
    /// base, and nothing older than a durable one.
    fn allows(
        &self,
        seen: &[u8],
        moment: u64,
        is_durable: impl Fn(&GuestWrite) -> bool,
    ) -> Result<(), String> {
        if seen.len() != self.base.len() {
            return Err(format!("{} bytes, not {}", seen.len(), self.base.len()));
        }
        let mut by_sector: BTreeMap<u64, Vec<&GuestWrite>> = BTreeMap::new();
        for write in self.writes.iter().filter(|write| write.asked <= moment) {
            for sector in write.first..write.first + write.count {
                by_sector.entry(sector).or_default().push(write);
            }
        }
        let bases = self.base.chunks(SECTOR_LEN);
        for (number, (seen, base)) in (0..).zip(seen.chunks(SECTOR_LEN).zip(bases)) {
            let writes = by_sector.get(&number).map_or(&[][..], Vec::as_slice);
            let durable = writes.iter().filter(|write| is_durable(write));
            let last_asked = durable.map(|write| write.asked).max();
            let is_lost = |write: &GuestWrite| last_asked.is_some_and(|at| write.answered < at);
            let shows = |write: &&&GuestWrite| sector(write.id, number)[..seen.len()] == *seen;
            let is_write = writes.iter().filter(|w| !is_lost(w)).any(|w| shows(&w));
            if !is_write && (last_asked.is_some() || seen != base) {
                let word = seen[..8].try_into().map_or(0, u64::from_le_bytes);
                return Err(format!(
                    "sector {number} shows {word}, at moment {moment} of its writes {writes:?}"
                ));
            }
        }
        Ok(())
    }
}

/// The past of one thing, and the states that it may show.
pub(crate) struct History<S> {
    start: S,
    steps: Vec<Step<S>>,
    now: S,
}

struct Step<S> {
    what: String,
    begun: u64,
    /// [`NEVER`] if it was not acknowledged.
    done: u64,
    before: S,
    after: S,
}

impl<S: Clone> History<S> {
    pub(crate) fn new(start: S) -> Self {
        Self {
            now: start.clone(),
            start,
            steps: Vec::new(),
        }
    }

    /// The state as long as power is, as far as is known.
    pub(crate) fn now(&self) -> &S {
        &self.now
    }

    /// Notes the beginning of an operation that makes `after` of the present state.
    pub(crate) fn begin(&mut self, what: &str, begun: u64, after: S) {
        self.steps.push(Step {
            what: what.to_owned(),
            begun,
            done: NEVER,
            before: self.now.clone(),
            after,
        });
    }

    /// Notes that the last step was acknowledged.
    pub(crate) fn acknowledge(&mut self, done: u64) {
        let step = self.steps.last_mut().expect("a step was begun");
        step.done = done;
        self.now = step.after.clone();
    }

    /// Notes that this is what is there.
    pub(crate) fn resolve(&mut self, now: S) {
        self.now = now;
    }

    /// Replaces what the last acknowledged step left by what it is known to be since.
    pub(crate) fn refine(&mut self, refine: impl Fn(&mut S)) {
        refine(&mut self.now);
        if let Some(step) = self.steps.last_mut() {
            refine(&mut step.after);
        }
    }

    /// The states that may be there if power is lost at `moment`, and the operation under way: the
    /// state that the last acknowledged step left, and those that any step since may have made of
    /// it.
    pub(crate) fn allowed(&self, moment: u64) -> (Vec<&S>, String) {
        let (mut found, mut under_way) = (vec![&self.start], "nothing");
        for step in self.steps.iter().filter(|step| step.begun <= moment) {
            if step.done <= moment {
                found.clear();
                under_way = "nothing";
            } else {
                found.push(&step.before);
                under_way = &step.what;
            }
            found.push(&step.after);
        }
        (found, under_way.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(id: u64, asked: u64, answered: u64, is_forced: bool) -> GuestWrite {
        GuestWrite {
            first: 1,
            count: 1,
            id,
            is_forced,
            asked,
            answered,
        }
    }

    fn disk(writes: &[GuestWrite], flushes: &[(u64, u64)]) -> Arc<GuestDisk> {
        let disk = GuestDisk::new(0, Arc::new(vec![0; 4 * SECTOR_LEN]));
        for write in writes {
            disk.ask_write(*write);
        }
        for (asked, answered) in flushes {
            let number = disk.ask_flush(*asked);
            disk.answer_flush(number, *answered);
        }
        disk
    }

    fn seen(id: u64) -> Vec<u8> {
        let mut bytes = vec![0; 4 * SECTOR_LEN];
        bytes[SECTOR_LEN..2 * SECTOR_LEN].copy_from_slice(&sector(id, 1));
        bytes
    }

    #[test]
    fn what_was_not_flushed_may_be_gone_once_the_server_is_killed() {
        let disk = disk(
            &[
                write(3, 1, 2, false),
                write(5, 6, 7, false),
                write(7, 12, 13, false),
            ],
            &[(3, 4)],
        );
        let allowed = |begun: u64, done: u64| -> Vec<u64> {
            let shown = Shown::Between(Arc::clone(&disk), begun, done);
            let all = [0, 3, 5, 7].into_iter();
            all.filter(|id| shown.allows(&seen(*id), NEVER).is_ok())
                .collect()
        };
        assert_eq!(allowed(8, 11), [5]);
        disk.lose_server(9);
        assert_eq!(allowed(8, 9), [5], "it was done by then");
        assert_eq!(allowed(8, 11), [3, 5]);
        assert_eq!(allowed(2, NEVER), [0, 3, 5, 7]);
    }

    #[test]
    fn a_flush_that_was_answered_makes_what_was_answered_before_it_durable() {
        let disk = disk(&[write(3, 1, 2, false), write(5, 6, 7, false)], &[(3, 4)]);
        for (moment, allowed) in [(0, vec![0]), (3, vec![0, 3]), (4, vec![3]), (9, vec![3, 5])] {
            for id in [0, 3, 5] {
                let verdict = Shown::Live(Arc::clone(&disk)).allows(&seen(id), moment);
                assert_eq!(verdict.is_ok(), allowed.contains(&id), "{id} at {moment}");
            }
        }
    }

    #[test]
    fn a_forced_write_is_durable_once_it_is_answered_and_hides_what_came_before() {
        let disk = disk(&[write(3, 1, 2, false), write(5, 3, 4, true)], &[]);
        for (moment, allowed) in [(2, vec![0, 3]), (3, vec![0, 3, 5]), (4, vec![5])] {
            for id in [0, 3, 5] {
                let verdict = Shown::Live(Arc::clone(&disk)).allows(&seen(id), moment);
                assert_eq!(verdict.is_ok(), allowed.contains(&id), "{id} at {moment}");
            }
        }
    }

    #[test]
    fn a_snapshot_shows_what_was_answered_before_it_and_nothing_that_came_after() {
        let disk = disk(
            &[
                write(3, 1, 2, false),
                write(5, 6, 9, false),
                write(7, 12, 13, false),
            ],
            &[],
        );
        let shown = Shown::Between(disk, 4, 8);
        for (id, is_allowed) in [(0, false), (3, true), (5, true), (7, false)] {
            assert_eq!(shown.allows(&seen(id), NEVER).is_ok(), is_allowed, "{id}");
        }
    }

    #[test]
    fn what_was_acknowledged_is_the_least_and_what_was_begun_the_most() {
        let mut history = History::new(0);
        history.begin("one", 1, 1);
        history.acknowledge(2);
        history.begin("two", 3, 2);
        history.resolve(1);
        history.begin("three", 5, 3);
        history.acknowledge(6);
        for (moment, expected) in [
            (0, vec![0]),
            (1, vec![0, 0, 1]),
            (2, vec![1]),
            (4, vec![1, 1, 2]),
            (5, vec![1, 1, 2, 1, 3]),
            (6, vec![3]),
        ] {
            let allowed: Vec<i32> = history.allowed(moment).0.into_iter().copied().collect();
            assert_eq!(allowed, expected, "{moment}");
        }
    }
}
