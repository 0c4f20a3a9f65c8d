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
