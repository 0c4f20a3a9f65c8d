//! Tests of changing the password of a repository: the new one opens it, the old one nothing, other
//! keys stay, and a change that is refused or stopped locks nobody out.

use std::fs;
use std::path::Path;

use super::{PASSWORD, Site};
use crate::sandbox::Run;

const NEW_PASSWORD: &str = "battery staple";

/// Runs `words` with this password for the repository.
fn run(site: &Site, password: &str, words: &str) -> Run {
    let mut command = site.command(words);
    command.env("VELLUM_PASSWORD", password);
    Run::of(command.output().expect("the command starts"))
}

fn opens(site: &Site, password: &str) -> bool {
    let run = run(site, password, "backup list");
    assert!(matches!(run.code, Some(0 | 12)), "{run:?}");
    run.code == Some(0)
}

/// Key objects, and their copies.
fn key_files(folder: &Path) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(folder)
        .expect("the repository is there")
        .flatten()
    {
        let path = entry.path();
        let is_key = path.parent().is_some_and(|parent| parent.ends_with("keys"));
        count += if path.is_dir() {
            key_files(&path)
        } else {
            usize::from(is_key)
        };
    }
    count
}

#[test]
fn a_new_password_opens_the_repository_and_the_old_one_does_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("repository");
    let site = Site::new(&place.display().to_string());
    site.grow_tree(5);
    site.succeed("backup init");
    site.succeed("backup push --all");
    fs::write(site.sandbox.path("other"), "another key\n").expect("room");
    fs::write(site.sandbox.path("new"), format!("{NEW_PASSWORD}\n")).expect("room");
    site.succeed("backup key add --new-password-file other --label other");
    let before = key_files(&place);
    assert!(before >= 2, "two keys have files");

    for refused in ["missing", "."] {
        let words = format!("backup key passwd --new-password-file {refused}");
        let run = run(&site, PASSWORD, &words);
        assert!(!matches!(run.code, Some(0) | None), "{run:?}");
        assert!(opens(&site, PASSWORD), "{refused}");
    }
    let wrong = run(&site, "wrong", "backup key passwd --new-password-file new");
    assert_eq!(wrong.code, Some(12), "{wrong:?}");
    assert!(!opens(&site, NEW_PASSWORD));

    let changed = run(&site, PASSWORD, "backup key passwd --new-password-file new");
    assert_eq!(changed.code, Some(0), "{changed:?}");
    assert_eq!(
        [PASSWORD, NEW_PASSWORD, "another key"].map(|password| opens(&site, password)),
        [false, true, true]
    );
    assert_eq!(
        key_files(&place),
        before,
        "the old key is gone, and its copy"
    );
    let verified = run(&site, NEW_PASSWORD, "backup verify --read-data");
    assert_eq!(verified.code, Some(0), "{verified:?}");
}

/// A command that is stopped between the new key and the end of the old one leaves both: here the
/// old one cannot be deleted. Only root can make such a file.
#[test]
fn a_change_of_keys_that_stops_half_way_locks_nobody_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("repository");
    let site = Site::new(&place.display().to_string());
    site.succeed("backup init");
    fs::write(site.sandbox.path("new"), format!("{NEW_PASSWORD}\n")).expect("room");
    let chattr = |how: &str| {
        let mut change = std::process::Command::new("chattr");
        let done = change
            .arg("-R")
            .arg(how)
            .arg(place.join("copies/keys"))
            .output();
        done.is_ok_and(|done| done.status.success())
    };
    let before = key_files(&place);
    // Nothing can be put into an immutable folder: its files alone are to stay.
    let made = chattr("+i") && {
        let mut change = std::process::Command::new("chattr");
        let done = change.arg("-i").arg(place.join("copies/keys")).output();
        done.is_ok_and(|done| done.status.success())
    };
    if !made {
        chattr("-i");
        println!("no file can be made immutable here: not tried");
        return;
    }
    let stopped = run(&site, PASSWORD, "backup key passwd --new-password-file new");
    assert!(chattr("-i"));
    assert!(!matches!(stopped.code, Some(0) | None), "{stopped:?}");
    assert!(opens(&site, PASSWORD) && opens(&site, NEW_PASSWORD));
    let changed = run(&site, PASSWORD, "backup key passwd --new-password-file new");
    assert_eq!(changed.code, Some(0), "{changed:?}");
    assert!(!opens(&site, PASSWORD) && opens(&site, NEW_PASSWORD));
    assert!(key_files(&place) >= before);
}

/// With a writer's key one pushes and reads; whatever takes something away, or decides about it, is
/// refused, and says which key to use.
#[test]
fn a_writers_key_adds_and_takes_nothing_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("repository");
    let site = Site::new(&place.display().to_string());
    site.grow_tree(5);
    site.succeed("backup init");
    site.succeed("backup push --all");
    fs::write(site.sandbox.path("writer"), "writer\n").expect("room");
    site.succeed("backup key add --new-password-file writer --role writer --label night");
    let listed = site.succeed("backup key list");
    let row = listed
        .lines()
        .find(|row| row.contains("night"))
        .expect("it is listed");
    assert!(row.contains("writer"), "{listed}");
    let writer = row.split_whitespace().next().expect("an id").to_owned();
    let owner = listed
        .lines()
        .find(|row| row.contains("owner"))
        .expect("it is listed");
    let owner = owner.split_whitespace().next().expect("an id").to_owned();

    site.succeed("create another 1M");
    for words in [
        "backup push --all",
        "backup list",
        "backup verify --read-data",
        "backup prune -n",
        "backup forget --keep-last 1 -n",
    ] {
        let run = run(&site, "writer", words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
    }
    for words in [
        "backup forget --keep-last 1".to_owned(),
        "backup prune".to_owned(),
        "backup policy set --keep-last 1".to_owned(),
        "backup verify --repair".to_owned(),
        "backup key add --new-password-file new".to_owned(),
        "backup key passwd --new-password-file new".to_owned(),
        format!("backup key remove {owner}"),
    ] {
        fs::write(site.sandbox.path("new"), "new\n").expect("room");
        let run = run(&site, "writer", &words);
        assert_eq!(run.code, Some(1), "{words}: {run:?}");
        let said = format!("{run:?}");
        assert!(
            said.contains("writer's") && said.contains("owner's key"),
            "{words}: {said}"
        );
    }
    assert!(!opens(&site, "new"), "no key was added");
    let refused = run(&site, PASSWORD, &format!("backup key remove {owner}"));
    let said = format!("{refused:?}");
    assert!(
        refused.code == Some(1) && said.contains("last owner's key"),
        "{said}"
    );
    site.succeed(&format!("backup key remove {writer}"));
    assert!(!opens(&site, "writer") && opens(&site, PASSWORD));
}
