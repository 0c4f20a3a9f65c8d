//! Many machines at one repository at once, with no server of ours between them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Site;
use crate::bucket::Bucket;

/// The duration of the test, and the greatest number of rounds of each client.
const TIME: Duration = Duration::from_secs(15);
const ROUNDS_MAX: usize = 12;

/// Every snapshot that was reported as pushed, and was not forgotten, restores as it was.
#[test]
fn three_stores_push_while_a_fourth_machine_forgets_and_prunes() {
    let bucket = Bucket::start();
    let place = bucket.place();
    let pruner = Site::at(&bucket, &place);
    pruner.succeed("backup init");
    let ended = AtomicBool::new(false);
    let pushed: Mutex<Vec<(usize, String, Vec<u8>)>> = Mutex::default();
    std::thread::scope(|scope| {
        let (bucket, place, pushed) = (&bucket, &place, &pushed);
        let pushers: Vec<_> = (0..3)
            .map(|who| scope.spawn(move || push_often(who, &Site::at(bucket, place), pushed)))
            .collect();
        let pruning = scope.spawn(|| {
            let mut rounds = 0;
            while !ended.load(Ordering::Relaxed) {
                pruner.succeed("backup forget --keep-last 3");
                pruner.succeed("backup prune --max-unused 0");
                rounds += 1;
            }
            rounds
        });
        let done: Vec<_> = pushers
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect();
        // Before anything fails: the scope waits for this thread.
        ended.store(true, Ordering::Relaxed);
        assert!(done.iter().all(Result::is_ok), "no pusher failed");
        assert!(pruning.join().expect("no prune failed") > 0);
    });
    pruner.succeed("backup prune --max-unused 0");
    pruner.succeed("backup verify --read-data");
    restore_all(&pruner, &pushed.into_inner().expect("nobody panicked"));
}

/// Each round the disk changes a little, also to what others have, and is pushed with a new
/// snapshot.
fn push_often(who: usize, site: &Site, pushed: &Mutex<Vec<(usize, String, Vec<u8>)>>) {
    let begun = Instant::now();
    let mut disk =
        std::fs::read(site.sandbox.random_file("disk.raw", 1 << 20, 100)).expect("it was made");
    let name = format!("disk{who}");
    for round in 0..ROUNDS_MAX {
        if begun.elapsed() > TIME {
            break;
        }
        // Some of it is what the others write too, in other rounds.
        let at = (round * 3 + who) % 200 * 4096;
        disk[at..at + 8192].fill((round + who) as u8);
        disk[(1 << 20) - 8..].copy_from_slice(&((round * 10 + who) as u64).to_le_bytes());
        std::fs::write(site.sandbox.path("disk.raw"), &disk).expect("room");
        let update = if round == 0 { "" } else { "--update" };
        site.succeed(&format!(
            "import disk.raw {name} --snapshot s{round} {update}"
        ));
        site.succeed(&format!("backup push {name}"));
        pushed.lock().expect("nobody panicked").push((
            who,
            format!("{name}@s{round}"),
            disk.clone(),
        ));
    }
}

fn restore_all(site: &Site, pushed: &[(usize, String, Vec<u8>)]) {
    let listing = site.json("backup list");
    let kept: Vec<&str> = listing
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|point| point["name"].as_str())
        .collect();
    for who in 0..3 {
        let last = pushed
            .iter()
            .rfind(|(other, ..)| *other == who)
            .expect("it pushed");
        assert!(
            kept.contains(&last.1.as_str()),
            "the newest snapshot of each is kept: {} is not in {kept:?}",
            last.1
        );
    }
    let mut restored = 0;
    for (_, name, bytes) in pushed
        .iter()
        .filter(|(_, name, _)| kept.contains(&name.as_str()))
    {
        site.succeed(&format!("backup restore {name} out.raw --force"));
        assert!(
            std::fs::read(site.sandbox.path("out.raw")).expect("it was restored") == *bytes,
            "{name}"
        );
        restored += 1;
    }
    assert!(restored >= 3, "{restored}");
}
