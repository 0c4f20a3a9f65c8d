//! Operations of a store that are cut off by a loss of power: the state afterwards is a state of
//! the history, the last one that was acknowledged or a later one.
//!
//! A worker runs under the recorder and marks when it begins and has done each operation. The
//! operations follow from a seed and the content before, so the test knows what each leaves. One
//! short history is cut at every single call (all that was not synced is lost, in three readings);
//! random ones at random calls, with torn, reordered and half-kept writes. Each next history begins
//! on what a crash of the one before left, so recovery is cut off as well.
//!
//! `VELLUM_TEST_SEED` repeats a run's decisions (threads of the database go their own ways),
//! `VELLUM_POWER_HISTORIES` and `VELLUM_POWER_CRASHES` make it longer, `VELLUM_POWER_STRIDE=1` cuts
//! the short history at every call.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use vellum_power::disk::Tree;
use vellum_store::{Access, Store, StoreParameters};

use super::content::{Blob, Content};
use super::drive;
use super::history::{GRID, is_mixture, is_same, kind_of, pick, states};
use super::recording::{self, Recording, mark, number};
use super::remains::{Loss, Remains, UNSYNCED, fail};
use super::world::{Limits, Operation, Step, World};

const LIMITS: Limits = Limits {
    images: 4,
    snapshots: 3,
    len_max: 1 << 20,
    total_len: 5 << 20,
};
/// Operations of one random history.
const OPERATIONS: u64 = 24;
/// The number of operations after which a store is closed and opened again.
const REOPEN_EVERY: u64 = 7;
/// The seed that stands for the short history.
const SCRIPT: u64 = 0;
const WORKER: &str = "operations::worker";

#[test]
fn a_short_history_cut_at_every_call_shows_what_was_acknowledged() {
    let recording = Recording::of(WORKER, SCRIPT, Tree::new());
    let history = History::of(&recording, SCRIPT);
    let stride = number("VELLUM_POWER_STRIDE", 6) as usize;
    let (mut crashes, mut opened) = (0, 0);
    for loss in UNSYNCED {
        // Most calls change nothing that is durable: then what was found before is found again,
        // only more may be acknowledged.
        let mut last = None;
        recording.walk(|at, disk| {
            if at % stride != 0 && at != recording.events.len() {
                return;
            }
            let tree = disk.crash(loss.names, loss.writes, &mut fastrand::Rng::with_seed(0));
            let hash = hash_of(&tree);
            if last.as_ref().is_none_or(|(known, _)| *known != hash) {
                last = Some((hash, look(&tree, at, loss)));
                opened += 1;
            }
            crashes += 1;
            let (_, seen) = last.as_ref().expect("it was looked at");
            history
                .verify(seen.as_ref(), at)
                .unwrap_or_else(|error| fail(&tree, &format!("call {at}, {loss:?}: {error}")));
        });
    }
    println!(
        "power: {crashes} crashes in a history of {} calls, {opened} of them unlike the one before",
        recording.events.len()
    );
}

#[test]
fn random_histories_with_torn_and_reordered_writes_show_what_was_acknowledged() {
    let seed = number("VELLUM_TEST_SEED", fastrand::u64(1..1 << 32));
    println!("power: VELLUM_TEST_SEED={seed}");
    let mut chance = fastrand::Rng::with_seed(seed);
    let (histories, crashes) = (
        number("VELLUM_POWER_HISTORIES", 4),
        number("VELLUM_POWER_CRASHES", 20),
    );
    let (mut start, mut total, mut refused, mut during) = (Tree::new(), 0, 0, BTreeMap::new());
    for nth in 0..histories {
        let seed = chance.u64(1..1 << 32);
        let recording = Recording::of(WORKER, seed, std::mem::take(&mut start));
        let history = History::of(&recording, seed);
        let calls = recording.events.len();
        let mut cuts: Vec<usize> = (0..crashes)
            .map(|_| recording.cut(&mut chance, 0))
            .collect();
        cuts.sort_unstable();
        recording.walk(|at, disk| {
            for _ in cuts.iter().filter(|cut| **cut == at) {
                let refused_before = refused;
                let loss = Loss::random(&mut chance);
                let tree = disk.crash(loss.names, loss.writes, &mut chance);
                let opened = Remains::of_crash(disk, &tree, &mut refused).map(world_of);
                let verified =
                    opened.and_then(|world| history.verify(world.as_ref(), at).map(|()| world));
                let place = format!("history {nth} of seed {seed}, call {at} of {calls}, {loss:?}");
                let world =
                    verified.unwrap_or_else(|error| fail(&tree, &format!("{place}: {error}")));
                *during.entry(history.under_way(at)).or_insert(0) += 1;
                total += 1;
                // Now and then from the beginning, so that a store is made, too.
                if nth % 4 == 3 || world.is_none() {
                    start = Tree::new();
                } else if refused == refused_before {
                    start = tree;
                }
            }
        });
    }
    println!(
        "power: {total} crashes in {histories} histories, {refused} refused for a torn manifest; during {during:?}"
    );
}

fn hash_of(tree: &Tree) -> u64 {
    let mut hasher = DefaultHasher::new();
    tree.hash(&mut hasher);
    hasher.finish()
}

/// The content of the store in `tree`; `None` if there is none.
fn look(tree: &Tree, at: usize, loss: Loss) -> Option<World> {
    world_of(
        Remains::open(tree)
            .unwrap_or_else(|error| fail(tree, &format!("call {at}, {loss:?}: {error}"))),
    )
}

fn world_of(remains: Option<Remains>) -> Option<World> {
    remains.map(|remains| {
        drive::world_of(&remains.store, GRID, LIMITS).expect("a checked store can be read")
    })
}

/// The operations of a worker, and the states that each of its steps may leave.
struct History {
    /// The calls before which a step was begun or done, in order.
    begun: Vec<usize>,
    done: Vec<usize>,
    steps: Vec<Change>,
    /// The state after the last.
    end: World,
}

/// A step of a history.
struct Change {
    /// `None` if it makes the store.
    operation: Option<Operation>,
    /// The states that may be shown while it is under way; the first is the one before. `None`
    /// where there is no store.
    states: Vec<Option<World>>,
}

impl History {
    fn of(recording: &Recording, seed: u64) -> Self {
        let places = |what: &str| {
            recording
                .marks()
                .filter(|(_, text)| *text == what)
                .map(|(at, _)| at + 1)
                .collect::<Vec<usize>>()
        };
        let before = look(&recording.start, 0, UNSYNCED[0]);
        let mut steps = Vec::new();
        let world = before.unwrap_or_else(|| {
            let empty = World::new(GRID, LIMITS);
            steps.push(Change {
                operation: None,
                states: vec![None, Some(empty.clone())],
            });
            empty
        });
        let mut end = world.clone();
        for operation in plan(world, seed) {
            steps.push(Change {
                states: states(&end, &operation).into_iter().map(Some).collect(),
                operation: Some(operation.clone()),
            });
            end.apply(&operation);
        }
        let history = Self {
            begun: places("begin"),
            done: places("done"),
            steps,
            end,
        };
        assert_eq!(
            (history.begun.len(), history.done.len()),
            (history.steps.len(), history.steps.len()),
            "the worker did its whole plan"
        );
        history
    }

    /// Steps that were done, and how many were begun, before call `at`.
    fn progress(&self, at: usize) -> (usize, usize) {
        let count = |places: &[usize]| places.iter().filter(|place| **place <= at).count();
        (count(&self.done), count(&self.begun))
    }

    fn under_way(&self, at: usize) -> String {
        let (done, begun) = self.progress(at);
        let step = self.steps.get(done).filter(|_| begun > done);
        step.map_or("nothing".to_owned(), |step| {
            step.operation.as_ref().map_or("Init".to_owned(), kind_of)
        })
    }

    /// Checks that `seen` may be there if call `at` was never made.
    fn verify(&self, seen: Option<&World>, at: usize) -> Result<(), String> {
        let (done, begun) = self.progress(at);
        let end = [Some(self.end.clone())];
        let possible = match self.steps.get(done) {
            Some(step) if begun > done => step.states.as_slice(),
            Some(step) => &step.states[..1],
            None => &end,
        };
        let is_one = |state: &Option<World>| match (state, seen) {
            (Some(state), Some(seen)) => is_same(state, seen),
            (state, seen) => state.is_none() && seen.is_none(),
        };
        let operation = self
            .steps
            .get(done)
            .filter(|_| begun > done)
            .and_then(|step| step.operation.as_ref());
        let is_mixed = || {
            let whole: Option<Vec<World>> = possible.iter().cloned().collect();
            whole
                .zip(seen)
                .zip(operation)
                .is_some_and(|((whole, seen), operation)| is_mixture(&whole, seen, operation))
        };
        if possible.iter().any(is_one) || is_mixed() {
            return Ok(());
        }
        let names = |world: Option<&World>| {
            world.map_or("no store".to_owned(), |world| {
                format!(
                    "{:?}",
                    world
                        .nodes()
                        .map(|(name, bytes)| (name, bytes.len()))
                        .collect::<Vec<_>>()
                )
            })
        };
        let before = names(possible[0].as_ref());
        Err(format!(
            "after {done} steps, during {operation:?}: shows {}, was {before}",
            names(seen)
        ))
    }
}

/// The operations of a worker on a store that holds `world`.
fn plan(mut world: World, seed: u64) -> Vec<Operation> {
    if seed == SCRIPT {
        return script();
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let mut operations = Vec::new();
    for nth in 1..=OPERATIONS {
        let operation = if nth % REOPEN_EVERY == 0 {
            Operation::Reopen
        } else {
            pick(&mut world, &mut random)
        };
        world.apply(&operation);
        operations.push(operation);
    }
    operations
}

/// One of each kind, short enough to be cut at every call.
fn script() -> Vec<Operation> {
    let text = str::to_owned;
    let snapshot = |image: &str, name: &str| Operation::Snapshot {
        image: text(image),
        name: text(name),
    };
    let resize = |image: &str, len, may_shrink| Operation::Resize {
        image: text(image),
        len,
        may_shrink,
    };
    let delete = |node: &str, with_snapshots| Operation::Delete {
        node: text(node),
        with_snapshots,
    };
    let first = noise_bytes(1, 300_000);
    let second = [noise_bytes(2, 100_000), first[100_000..].to_vec()].concat();
    vec![
        import_of("a", None, first.clone(), None),
        snapshot("a", "s"),
        live_steps(
            "a",
            &[
                write_of_noise(5000, 3, 20_000),
                Step::Flush,
                write_of_noise(0, 4, 512),
                Step::Zero {
                    offset: 40_000,
                    len: 9000,
                },
                Step::Flush,
            ],
        ),
        import_of("b", Some("a"), second, Some("t")),
        Operation::CreateChild {
            name: text("c"),
            parent: text("a"),
            len: Some(123_456),
        },
        resize("c", 200_000, false),
        Operation::Restore {
            snapshot: text("a@s"),
            save_as: Some(text("u")),
        },
        Operation::Reopen,
        live_steps("c", &[write_of_noise(100_000, 5, 70_000), Step::Flush]),
        Operation::Flatten { image: text("c") },
        delete("a@u", false),
        collect(true),
        Operation::Update {
            image: text("b"),
            content: Content::plain(noise_bytes(6, 150_000)),
            snapshot: None,
            as_stream: true,
        },
        Operation::Rename {
            node: text("b@t"),
            name: text("v"),
        },
        resize("b", 50_001, true),
        delete("a", true),
        collect(true),
        live_steps("b", &[write_of_noise(0, 7, 50_001), Step::Flush]),
        Operation::Reopen,
        snapshot("b", "w"),
    ]
}

fn collect(is_deep: bool) -> Operation {
    Operation::Collect {
        dry_run: false,
        is_deep,
    }
}

fn noise_bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

fn import_of(
    name: &str,
    parent: Option<&str>,
    bytes: Vec<u8>,
    snapshot: Option<&str>,
) -> Operation {
    Operation::Import {
        name: name.to_owned(),
        parent: parent.map(str::to_owned),
        content: Content::plain(bytes),
        snapshot: snapshot.map(str::to_owned),
        as_stream: false,
    }
}

fn live_steps(image: &str, steps: &[Step]) -> Operation {
    Operation::Live {
        image: image.to_owned(),
        steps: steps.to_vec(),
    }
}

fn write_of_noise(offset: u64, seed: u64, len: usize) -> Step {
    Step::Write {
        offset,
        bytes: Blob(noise_bytes(seed, len)),
    }
}

/// The process that is recorded. Not a test of its own.
#[test]
#[ignore = "started by the tests of this file"]
fn worker() {
    let Some(orders) = recording::orders() else {
        return;
    };
    let dir = orders.root.join("store");
    let open = || Store::open_dir(&dir, Access::ReadWrite, "test").expect("a whole store opens");
    if !dir.join("vellum.store").exists() {
        mark("begin");
        Store::init_dir(&dir, StoreParameters::DEFAULT).expect("an empty folder becomes a store");
        mark("done");
    }
    let mut store = open();
    let mut world = drive::world_of(&store, GRID, LIMITS).expect("a whole store can be read");
    let exports = tempfile::tempdir().expect("a folder for a test can be made");
    for operation in plan(world.clone(), orders.seed) {
        mark("begin");
        if let Operation::Reopen = operation {
            drop(store);
            store = open();
        } else {
            drive::perform(&store, &world, &operation, exports.path())
                .expect("a whole store takes every operation");
        }
        mark("done");
        world.apply(&operation);
    }
}
