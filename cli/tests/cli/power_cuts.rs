//! Power cuts under real file systems: everything that a command or a server had answered is there
//! afterwards, nothing is half visible, and the check is clean.
//!
//! The disk is a recorded one (see `vellum_power`), so it takes root, FUSE and loop devices.
//! Elsewhere these tests say so and do nothing, but in CI they must run. `make soak` is the same
//! for longer, with kills, full disks and flipped bits between. `VELLUM_TEST_SEED` repeats the
//! decisions of one history.

use std::path::Path;
use std::time::Duration;

use vellum_power::file_system::FileSystem;
use vellum_power::soak::{SoakOptions, contained, impossible, soak};

use crate::sandbox::VELLUM;

/// Set in the process that does the work, in mounts of its own.
const INSIDE: &str = "VELLUM_POWER_CUTS_INSIDE";
/// No machine takes so long; no further history is begun then.
const LIMIT: Duration = Duration::from_mins(10);

/// The options of these tests.
fn options(name: &str) -> Option<SoakOptions> {
    let seed = std::env::var("VELLUM_TEST_SEED").ok();
    let random = SoakOptions {
        vellum: VELLUM.into(),
        seed: seed
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(|| fastrand::u64(1..1 << 32)),
        file_systems: FileSystem::ALL.to_vec(),
        limit: LIMIT,
        histories: 3,
        cuts: 4,
        script: false,
        trouble: true,
        goes_on: false,
    };
    match name {
        // On ext4 a name is durable as late as may be: a sync that is missing shows.
        "answered" => Some(SoakOptions {
            file_systems: vec![FileSystem::Ext4],
            histories: 1,
            cuts: 2,
            script: true,
            trouble: false,
            ..random
        }),
        "random" => Some(random),
        _ => None,
    }
}

#[test]
fn what_was_answered_survives_a_loss_of_power_right_behind_the_answer() {
    run("answered");
}

#[test]
fn random_histories_with_kills_survive_losses_of_power_on_every_file_system() {
    run("random");
}

fn run(name: &str) {
    if let Some(why) = impossible() {
        assert!(
            std::env::var_os("CI").is_none(),
            "this must run in CI: {why}"
        );
        eprintln!("skipped: {why}");
        return;
    }
    let program = std::env::current_exe().expect("a test knows its program");
    let worker = ["--exact", "power_cuts::worker", "--ignored", "--nocapture"];
    let output = contained(&program)
        .args(worker)
        .env(INSIDE, name)
        .output()
        .expect("util-linux is there");
    let told = String::from_utf8_lossy(&output.stdout);
    println!("{told}");
    assert!(
        output.status.success(),
        "{told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The process that does the work. Not a test of its own.
#[test]
#[ignore = "started by the tests of this file"]
fn worker() {
    let Some(options) = std::env::var(INSIDE).ok().as_deref().and_then(options) else {
        return;
    };
    println!("VELLUM_TEST_SEED={}", options.seed);
    let tally = soak(&options, |_| {}).expect("there is a folder for devices");
    println!("{tally}");
    assert!(Path::new(VELLUM).exists());
    assert!(tally.violations.is_empty(), "see above");
    assert!(
        tally.all_cuts() > 0,
        "a test without a loss of power shows nothing"
    );
    let must_be_all = std::env::var_os("CI").is_some();
    assert!(
        !must_be_all || tally.skipped.is_empty(),
        "in CI all must run"
    );
}
