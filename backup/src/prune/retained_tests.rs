//! Collections where the place does not let go of what is deleted: by an object lock, or an
//! attribute of a file.

use std::process::Command;
use std::sync::Arc;

use vellum_store::Unwatched;

use super::*;
use crate::forget::{ForgetWish, forget};
use crate::objects::memory::{Effect, Fault, Memory, Request};
use crate::objects::{Folder, Objects};
use crate::testing::pusher::{Base, Disk, init, open, push, restore, writer};

fn collect(place: &Arc<dyn Objects>) -> Result<PruneReport, BackupError> {
    let repository = open(place.clone())?;
    prune(&repository, &PruneOptions::default(), writer(), &Unwatched)
}

fn disk(first: u16) -> Disk {
    (0..40).map(|at| (at, first + at)).collect()
}

/// A repository with a point that stays, and what a point left that was forgotten. The point's id.
fn with_rubbish(place: &Arc<dyn Objects>) -> String {
    let repository = init(place.clone());
    let gone = push(&repository, "gone", 1, 1, &disk(1), Base::None).expect("a push");
    let kept = push(&repository, "kept", 1, 1, &disk(1000), Base::None).expect("a push");
    forget(&repository, &ForgetWish::Points(vec![gone]), writer()).expect("a point to forget");
    kept
}

fn count(place: &Arc<dyn Objects>, prefix: &str) -> usize {
    let mut count = 0;
    let listed = place.list(prefix, &mut |_, _| {
        count += 1;
        Ok(())
    });
    listed.expect("a listing");
    count
}

fn assert_kept(place: &Arc<dyn Objects>, kept: &str) {
    let repository = open(place.clone()).expect("a repository");
    let point = repository.state().point(kept).expect("it is kept").clone();
    let catalog = catalog(&repository).expect("an index");
    let found = restore(&repository, &catalog, &point).expect("it is whole");
    assert_eq!(found, disk(1000));
}

/// What is retained is told, met again by every collection, and goes once it may; meanwhile no
/// collection adds anything.
#[test]
fn what_the_place_retains_is_told_and_goes_once_it_may() {
    let memory = Arc::new(Memory::new());
    let place: Arc<dyn Objects> = memory.clone();
    let kept = with_rubbish(&place);
    memory.retain(&["packs/", "maps/", "index/", "journal/", "copies/"]);
    let first = collect(&place).expect("nothing is wrong");
    assert!(
        first.retained.count >= 4 && first.retained.len > 0,
        "{first:?}"
    );
    assert_eq!((first.swept.count, first.freed_len), (0, 0), "{first:?}");
    let journal = count(&place, "journal/");
    let mut again = first.clone();
    for _ in 0..RUNS {
        again = collect(&place).expect("nothing is wrong");
        assert_eq!((again.swept.count, again.freed_len), (0, 0), "{again:?}");
        assert_eq!(again.condemned.count, 0, "{again:?}");
    }
    assert_eq!(again.retained, first.retained, "not lost track of");
    assert_eq!(count(&place, "journal/"), journal, "nothing piles up");
    assert_kept(&place, &kept);
    memory.retain(&[]);
    let last = collect(&place).expect("nothing is wrong");
    assert_eq!(last.retained, Amount::default());
    assert!(last.freed_len > 0, "{last:?}");
    assert_eq!((count(&place, "packs/"), count(&place, "maps/")), (1, 1));
    assert!(
        count(&place, "journal/") <= 2,
        "one that stands for all, and the sweep"
    );
    assert_kept(&place, &kept);
}

/// More than the records at which a journal is written down anew.
const RUNS: usize = 12;

/// Whichever deletion is refused, all others are done, and the next collection does the rest.
#[test]
fn one_object_that_is_retained_keeps_no_other() {
    for after in 0.. {
        let memory = Arc::new(Memory::new());
        let place: Arc<dyn Objects> = memory.clone();
        let kept = with_rubbish(&place);
        memory.take_log();
        memory.fail(Fault {
            request: Some(Request::Delete),
            after,
            effect: Effect::Refused(ObjectErrorKind::Denied),
        });
        let report = collect(&place);
        let deletions = memory.take_log();
        let deletions = deletions
            .iter()
            .filter(|(request, _)| *request == Request::Delete);
        let refused = deletions.clone().nth(after as usize);
        let Some((_, name)) = refused else {
            assert!(after > 5, "it deleted {}", deletions.count());
            break;
        };
        if name.starts_with("sessions/") {
            report.expect_err("the session stays announced");
            continue;
        }
        assert_eq!(
            report.expect("nothing is wrong").retained.count,
            1,
            "{name}"
        );
        memory.heal();
        collect(&place).expect("nothing is wrong");
        assert_eq!(
            (count(&place, "packs/"), count(&place, "maps/")),
            (1, 1),
            "{name}"
        );
        assert_eq!(count(&place, "index/"), 1, "{name}");
        assert_kept(&place, &kept);
    }
}

/// A file that nobody can delete. Only root can make one, on some file systems.
#[test]
fn a_pack_in_an_immutable_file_is_retained() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("repository");
    let place: Arc<dyn Objects> = Arc::new(Folder::new(folder.clone()));
    let kept = with_rubbish(&place);
    let chattr = |how: &str| {
        let done = Command::new("chattr")
            .arg("-R")
            .arg(how)
            .arg(folder.join("packs"))
            .output();
        done.is_ok_and(|done| done.status.success())
    };
    if !chattr("+i") {
        chattr("-i");
        println!("no file can be made immutable here: not tried");
        return;
    }
    let outcome = collect(&place);
    assert!(chattr("-i"), "it was possible to set it");
    let report = outcome.expect("nothing is wrong");
    assert_eq!(
        (report.retained.count, report.freed_len),
        (1, 0),
        "{report:?}"
    );
    assert_eq!(count(&place, "packs/"), 2);
    let report = collect(&place).expect("nothing is wrong");
    assert_eq!(report.retained, Amount::default());
    assert_eq!(count(&place, "packs/"), 1);
    assert_kept(&place, &kept);
}
