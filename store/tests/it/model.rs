//! Property test: random operations on a real store, held against the naive model after each of
//! them.
//!
//! Every test prints its seed. `VELLUM_TEST_SEED` repeats a run, `VELLUM_TEST_OPERATIONS` makes it
//! longer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tempfile::TempDir;
use vellum_core::source::ExtentKind;
use vellum_store::{CollectOptions, Store, StoreParameters, Unwatched};

use super::content::{Blob, Choices, Content};
use super::world::{Bytes, Operation, SMALL, Step, World, apply_step};
use super::{drive, scratch};

/// Operations of one test; three tests make over ten thousand a run.
const OPERATION_COUNT: usize = 3600;
/// Operations between two comparisons of everything, not only of a sample.
const FULL_COMPARE_EVERY: usize = 20;
/// Operations shown when one goes wrong.
const HISTORY_LEN: usize = 25;

#[test]
fn random_operations_agree_with_plain_bytes_in_4k_chunks() {
    run("zstd, 4 KiB", scratch::ZSTD, OPERATION_COUNT);
}

#[test]
fn random_operations_agree_with_plain_bytes_in_64k_chunks() {
    run("zstd, 64 KiB", scratch::coarse(), OPERATION_COUNT);
}

#[test]
fn random_operations_agree_with_plain_bytes_in_other_codecs() {
    run("lz4", scratch::LZ4, OPERATION_COUNT / 2);
    run(
        "plain, one chunk a frame",
        scratch::PLAIN,
        OPERATION_COUNT / 2,
    );
}

/// Histories that once went wrong, or nearly: too rare for chance to find in every run.
#[test]
fn remembered_histories_agree_with_plain_bytes() {
    let data = |len: usize| Content::plain((0..len).map(|at| (at / 512 % 251 + 1) as u8).collect());
    let absent = |len: usize| Content {
        bytes: Blob(vec![0; len]),
        extents: vec![(len as u64, ExtentKind::Absent)],
    };
    let import = |name: &str, parent: Option<&str>, content: Content| Operation::Import {
        name: name.to_owned(),
        parent: parent.map(str::to_owned),
        content,
        snapshot: None,
        as_stream: false,
    };
    let resize = |image: &str, len: u64| Operation::Resize {
        image: image.to_owned(),
        len,
        may_shrink: true,
    };
    let parent = || import("i0", None, data(12_288));
    let histories = [
        // An absent range that begins off the grid, past the end of the parent.
        vec![
            parent(),
            import(
                "i1",
                Some("i0"),
                Content {
                    bytes: Blob(vec![0; 40_000]),
                    extents: vec![(20_001, ExtentKind::Zero), (19_999, ExtentKind::Absent)],
                },
            ),
        ],
        // A disk that ends inside a chunk which only its longer parent has, and grows again.
        vec![
            parent(),
            import("i1", Some("i0"), absent(10_000)),
            resize("i1", 12_288),
        ],
        vec![
            parent(),
            Operation::CreateChild {
                name: "i1".to_owned(),
                parent: "i0".to_owned(),
                len: Some(10_000),
            },
            Operation::Update {
                image: "i1".to_owned(),
                content: absent(9_000),
                snapshot: None,
                as_stream: false,
            },
            resize("i1", 12_288),
        ],
        vec![
            parent(),
            resize("i0", 5_000),
            Operation::Snapshot {
                image: "i0".to_owned(),
                name: "s1".to_owned(),
            },
            resize("i0", 12_288),
        ],
    ];
    for history in histories {
        let mut run = Run::new(scratch::ZSTD, 0);
        history
            .iter()
            .enumerate()
            .for_each(|(nth, operation)| run.perform(nth, operation));
        drive::compare_all(run.store(), &run.world);
        run.finish();
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

fn run(what: &str, parameters: StoreParameters, count: usize) {
    let seed = number("VELLUM_TEST_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    let count = number("VELLUM_TEST_OPERATIONS").map_or(count, |count| count as usize);
    println!("model ({what}): VELLUM_TEST_SEED={seed}");
    let mut run = Run::new(parameters, seed);
    for nth in 0..count {
        run.step(nth);
    }
    println!(
        "model ({what}): {count} operations agree, seed {seed}: {:?}",
        run.done
    );
    run.finish();
}

struct Run {
    /// Number of the copy of the store that is open: each crash begins a new one.
    generation: u32,
    store: Option<Store>,
    world: World,
    random: fastrand::Rng,
    grid: u64,
    history: VecDeque<String>,
    /// The number of operations of each kind that were not refused.
    done: BTreeMap<String, u32>,
    /// Removed when the store is closed.
    folder: TempDir,
}

/// Tells what happened before when a panic passes.
impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.history.iter().for_each(|line| eprintln!("  {line}"));
        }
    }
}

impl Run {
    fn new(parameters: StoreParameters, seed: u64) -> Self {
        let (folder, grid) = (scratch::folder(), parameters.chunk_len.byte_len());
        let store = scratch::store_in(&folder.path().join("0"), parameters);
        Self {
            folder,
            generation: 0,
            store: Some(store),
            world: World::new(grid, SMALL),
            random: fastrand::Rng::with_seed(seed),
            grid,
            history: VecDeque::new(),
            done: BTreeMap::new(),
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("a store is open between steps")
    }

    fn step(&mut self, nth: usize) {
        let operation = self.world.pick(&mut self.random);
        self.perform(nth, &operation);
    }

    fn perform(&mut self, nth: usize, operation: &Operation) {
        let line = format!("{nth}: {operation:?}");
        let kind = line.split([' ', '{']).nth(1).unwrap_or_default().to_owned();
        self.history.push_back(line);
        if self.history.len() > HISTORY_LEN {
            self.history.pop_front();
        }
        let is_done = match operation {
            Operation::Reopen => self.reopen(),
            Operation::Crash => self.crash(),
            Operation::Live { image, steps } => self.live(image, steps),
            Operation::Rebase {
                image,
                parent,
                keep_content: false,
            } => self.rebase_map(image, parent),
            _ => self.plain(operation),
        };
        *self.done.entry(kind).or_default() += u32::from(is_done);
        drive::compare_names(self.store(), &self.world);
        let mut random = self.random.fork();
        drive::compare_some(self.store(), &self.world, &mut random);
        let moved = matches!(
            operation,
            Operation::Reopen | Operation::Crash | Operation::Collect { .. }
        );
        if moved || nth.is_multiple_of(FULL_COMPARE_EVERY) {
            drive::compare_all(self.store(), &self.world);
        }
    }

    fn plain(&mut self, operation: &Operation) -> bool {
        let expected = self.world.expected(operation);
        let outcome = drive::perform(self.store(), &self.world, operation, self.folder.path());
        let is_done = drive::agrees(expected, &outcome);
        if is_done {
            self.world.apply(operation);
        }
        is_done
    }

    fn reopen(&mut self) -> bool {
        self.store = None;
        self.store = Some(scratch::open(
            &self.folder.path().join(self.generation.to_string()),
        ));
        true
    }

    /// Writes that no flush has acknowledged may be there or not, each chunk for itself.
    fn live(&mut self, image: &str, steps: &[Step]) -> bool {
        let states = unflushed_states(&self.world, image, steps);
        self.plain(&Operation::Live {
            image: image.to_owned(),
            steps: steps.to_vec(),
        });
        self.settle(image, &states);
        true
    }

    /// Goes on in a copy of the store's files as they are at this moment, half the time while a
    /// disk is being written.
    fn crash(&mut self) -> bool {
        let (old, new) = (
            self.generation.to_string(),
            (self.generation + 1).to_string(),
        );
        let (old, new) = (self.folder.path().join(old), self.folder.path().join(new));
        let mut settled = None;
        if self.random.chance(1, 2)
            && let Operation::Live { image, steps } = self.world.pick_live(&mut self.random)
        {
            self.history
                .push_back(format!("   crash during {image}: {steps:?}"));
            let id = drive::image(self.store(), &image).expect("the model names what is there");
            let disk = self.store().open_live(id).expect("nobody else writes it");
            drive::live(self.store(), &self.world, &disk, &image, &steps)
                .expect("a whole store takes writes");
            scratch::copy_of_a_crash(&old, &new);
            let states = unflushed_states(&self.world, &image, &steps);
            self.world.apply(&Operation::Live {
                image: image.clone(),
                steps,
            });
            settled = Some((image, states));
        } else {
            scratch::copy_of_a_crash(&old, &new);
        }
        self.store = None;
        std::fs::remove_dir_all(&old).expect("nobody uses the old store");
        self.generation += 1;
        self.store = Some(scratch::open(&new));
        if let Some((image, states)) = settled {
            self.settle(&image, &states);
        }
        drive::check(self.store(), true).expect("a store can be checked after a crash");
        true
    }

    /// The image is one of `states`, perhaps another one in each chunk; which, only the store
    /// knows.
    fn settle(&mut self, image: &str, states: &[Bytes]) {
        let seen = drive::read(self.store(), image).expect("a whole store can be read");
        let all: Vec<&[u8]> = states.iter().map(|state| state.as_slice()).collect();
        assert_chunks(&seen, self.grid, image, |at| {
            all.iter().map(|state| part(state, at)).collect()
        });
        self.world.adopt(image, seen);
    }

    /// With its map kept, an image shows its own chunks and, where it has none, those of the new
    /// parent. Which are its own, the model knows in part: at least those that differ from what the
    /// image was when it was last sealed. Zeros are its own only as long as there is a parent to
    /// hide, of which the model does not know when the last name below has gone.
    fn rebase_map(&mut self, image: &str, parent: &str) -> bool {
        let operation = Operation::Rebase {
            image: image.to_owned(),
            parent: parent.to_owned(),
            keep_content: false,
        };
        let (old, base) = (
            Arc::clone(self.world.bytes_of(image)),
            Arc::clone(self.world.base_of(image)),
        );
        let new = Arc::clone(self.world.bytes_of(parent));
        let is_done = self.plain(&operation);
        let seen = drive::read(self.store(), image).expect("a whole store can be read");
        assert_eq!(seen.len(), old.len(), "a rebase keeps the length");
        let resized = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            bytes.resize(old.len(), 0);
            bytes
        };
        let (base, new) = (resized(&base), resized(&new));
        assert_chunks(&seen, self.grid, image, |at| {
            let own = part(&old, at);
            let is_told_apart = own != part(&base, at) && own.iter().any(|byte| *byte != 0);
            if is_told_apart {
                vec![own]
            } else {
                vec![own, part(&new, at)]
            }
        });
        self.world.adopt(image, seen);
        is_done
    }

    /// Checks that content without a name leaves nothing behind.
    fn finish(mut self) {
        drive::compare_all(self.store(), &self.world);
        let collect = |store: &Store| {
            store
                .collect(CollectOptions::default(), &Unwatched)
                .expect("a whole store can be collected")
        };
        collect(self.store());
        collect(self.store());
        let report = drive::check(self.store(), true).expect("a store can be checked");
        assert_eq!(
            report.findings,
            [],
            "after a collection nothing is left over"
        );
        // A frame is written again when more than a quarter of it is dead.
        let left = report.chunks_unreferenced;
        assert!(
            left * 4 <= report.chunks,
            "{left} of {} chunks are left over after a collection",
            report.chunks
        );
        let names: Vec<String> = self.world.images.keys().cloned().collect();
        for (text, _) in self.world.clone().nodes() {
            let node = drive::node(self.store(), &text).expect("the model names what is there");
            self.store()
                .set_pinned(node, false)
                .expect("anything can be unpinned");
        }
        for name in names {
            let image = drive::image(self.store(), &name).expect("the model names what is there");
            self.store()
                .delete_image(image, true)
                .expect("anything can be deleted");
        }
        collect(self.store());
        collect(self.store());
        let stats = self
            .store()
            .compute_stats()
            .expect("an empty store can be added up");
        assert_eq!(
            (stats.images, stats.layers, stats.chunks),
            (0, 0, 0),
            "an empty store holds nothing"
        );
        self.store = None;
    }
}

/// The image as it is at the last flush among `steps`, and after each step from then on.
fn unflushed_states(world: &World, image: &str, steps: &[Step]) -> Vec<Bytes> {
    let mut image = world.images[image].clone();
    let mut states = vec![Arc::clone(&image.bytes)];
    for step in steps {
        apply_step(&mut image, step);
        if matches!(step, Step::Flush | Step::Snapshot { .. }) {
            states.clear();
        }
        states.push(Arc::clone(&image.bytes));
    }
    states
}

fn part(bytes: &[u8], at: (usize, usize)) -> &[u8] {
    &bytes[at.0..at.1]
}

/// Checks that each chunk of `seen` is one of those that `allowed` gives for it.
fn assert_chunks<'a>(
    seen: &[u8],
    grid: u64,
    image: &str,
    allowed: impl Fn((usize, usize)) -> Vec<&'a [u8]>,
) {
    for start in (0..seen.len()).step_by(grid as usize) {
        let at = (start, seen.len().min(start + grid as usize));
        let candidates = allowed(at);
        assert!(
            candidates.contains(&part(seen, at)),
            "{image}: bytes {start} to {} are none of the {} allowed",
            at.1,
            candidates.len()
        );
    }
}
