//! Crash test: a real process is killed (SIGKILL) at random points of its work, over and over.
//!
//! The worker picks operations by the model's rules from a seed and the store's own content, and
//! reports on its standard output when it begins and when it has done each. The test picks the same
//! operations from the same seed, so it knows the effect of every acknowledged one. After the kill
//! the store must show exactly that, with the operation that was under way done or not done, never
//! half.
//!
//! This is the loss of a process, not of power: writes that the kernel holds survive.
//! `VELLUM_TEST_SEED` repeats a run's decisions (the time of a kill stays the scheduler's),
//! `VELLUM_TEST_KILLS` makes it longer.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vellum_store::{Store, StoreError};

use super::history::{GRID, is_mixture, is_same, kind_of, pick, states};
use super::world::{Limits, World};
use super::{drive, scratch};

const KILLS: u64 = 120;
/// Operations of one worker before it ends by itself.
const OPERATIONS_MAX: u64 = 40;
const LIMITS: Limits = Limits {
    images: 6,
    snapshots: 4,
    len_max: 6 << 20,
    total_len: 40 << 20,
};

const DIR: &str = "VELLUM_CRASH_DIR";
const SEED: &str = "VELLUM_CRASH_SEED";

#[test]
fn a_killed_process_leaves_every_acknowledged_commit_and_nothing_half_done() {
    let number = |variable: &str| {
        std::env::var(variable)
            .ok()
            .map(|text| text.parse::<u64>().expect("a number"))
    };
    let seed = number("VELLUM_TEST_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    let kills = number("VELLUM_TEST_KILLS").unwrap_or(KILLS);
    println!("crash: VELLUM_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    // On a disk, where a commit takes long enough to be killed in it.
    let folder = tempfile::TempDir::new().expect("a folder for a test can be made");
    let dir = folder.path().join("store");
    drop(scratch::store_in(&dir, scratch::ZSTD));
    let (mut during, mut acknowledged, mut slowest) = (BTreeMap::new(), 0, Duration::ZERO);
    let mut killed = 0;
    while killed < kills {
        let round = random.u64(..1 << 32);
        let store = scratch::open(&dir);
        let world = drive::world_of(&store, GRID, LIMITS).expect("a whole store can be read");
        drop(store);
        let told = run_and_kill(&dir, round, &mut random);
        slowest = slowest.max(verify(&dir, world, round, &told));
        acknowledged += told.done;
        if told.was_killed {
            killed += 1;
            *during
                .entry(told.pending.unwrap_or_else(|| "nothing".to_owned()))
                .or_insert(0_u32) += 1;
        }
    }
    println!(
        "crash: {killed} kills, {acknowledged} acknowledged operations, slowest open {slowest:?}, seed {seed}; killed during {during:?}"
    );
}

/// Reports of a worker until it ended.
struct Told {
    done: u64,
    /// The kind of the operation that was begun and not acknowledged.
    pending: Option<String>,
    was_killed: bool,
}

fn run_and_kill(dir: &Path, round: u64, random: &mut fastrand::Rng) -> Told {
    let mut child = Command::new(std::env::current_exe().expect("a test knows its binary"))
        .args([
            "--exact",
            "crash::worker",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(DIR, dir)
        .env(SEED, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the test binary starts itself");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe"))
        .lines()
        .map(|line| line.expect("lines are text"));
    let mut told = Told {
        done: 0,
        pending: None,
        was_killed: false,
    };
    // Let some operations pass, then strike within the next: after microseconds as often as after
    // milliseconds.
    let strike_at = random.u64(1..8);
    let delay = Duration::from_micros(1 << random.u64(..15));
    let mut begun = 0;
    for line in lines.by_ref() {
        listen(&line, &mut told);
        begun += u64::from(line.contains("begin "));
        if begun == strike_at {
            std::thread::sleep(delay);
            break;
        }
    }
    kill(&mut child);
    // Lines in the pipe were acknowledged before the process died.
    lines.for_each(|line| listen(&line, &mut told));
    let ended = child.wait_with_output().expect("a child can be waited for");
    told.was_killed = ended.status.code().is_none();
    assert!(
        told.was_killed || ended.status.success(),
        "the worker failed: {}",
        String::from_utf8_lossy(&ended.stderr)
    );
    told
}

fn kill(child: &mut Child) {
    child.kill().expect("a child can be killed");
}

fn listen(line: &str, told: &mut Told) {
    if let Some((_, kind)) = line.split_once("begin ") {
        told.pending = Some(kind.to_owned());
    } else if line.contains("done") {
        told.done += 1;
        told.pending = None;
    }
}

/// Opens the store that a killed process left, and holds it against the model. Returns how long the
/// open took.
fn verify(dir: &Path, mut world: World, round: u64, told: &Told) -> Duration {
    let started = Instant::now();
    let store = scratch::open(dir);
    let took = started.elapsed();
    drive::check(&store, true).expect("a store can be checked after a kill");
    let mut random = fastrand::Rng::with_seed(round);
    for _ in 0..told.done {
        let operation = pick(&mut world, &mut random);
        world.apply(&operation);
    }
    let Some(kind) = &told.pending else {
        drive::compare_all(&store, &world);
        return took;
    };
    let operation = pick(&mut world.clone(), &mut random);
    assert_eq!(&kind_of(&operation), kind, "both processes pick the same");
    let possible = states(&world, &operation);
    let seen = drive::world_of(&store, GRID, LIMITS).expect("a whole store can be read");
    if !possible.iter().any(|possible| is_same(possible, &seen))
        && !is_mixture(&possible, &seen, &operation)
    {
        println!("round {round}: killed during {operation:?}");
        // Neither before nor after: say how it differs from before.
        drive::compare_all(&store, &world);
    }
    took
}

/// The process that is killed. Not a test of its own.
#[test]
#[ignore = "started and killed by the crash test"]
fn worker() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let seed: u64 = std::env::var(SEED)
        .expect("a seed comes with the folder")
        .parse()
        .expect("a number");
    work(Path::new(&dir), seed).expect("a whole store takes every operation");
}

fn work(dir: &Path, seed: u64) -> Result<(), StoreError> {
    let store: Store = scratch::open(dir);
    let mut world = drive::world_of(&store, GRID, LIMITS)?;
    let mut random = fastrand::Rng::with_seed(seed);
    // In the folder of the process that outlives this one: nobody else would remove it.
    let exports = dir.with_file_name("exports");
    std::fs::create_dir_all(&exports).expect("a folder for a test can be made");
    for _ in 0..OPERATIONS_MAX {
        let operation = pick(&mut world, &mut random);
        tell(&format!("begin {}\n", kind_of(&operation)));
        drive::perform(&store, &world, &operation, &exports)?;
        tell("done\n");
        world.apply(&operation);
    }
    Ok(())
}

/// One line, in the pipe before this returns.
fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())
        .and_then(|()| out.flush())
        .expect("the parent listens");
}
