//! Tests of copying from one repository to another, each with its own key.

use std::fs;

use super::{Site, files};
use crate::bucket::Bucket;
use crate::sandbox::Run;

const OTHER_PASSWORD: &str = "another staple";

/// Runs `words` with the second repository in `place`: the site's own is read.
fn run(site: &Site, place: &str, password: Option<&str>, words: &str) -> Run {
    let mut command = site.command(words);
    command
        .env("VELLUM_REPOSITORY", place)
        .env_remove("VELLUM_PASSWORD");
    password
        .into_iter()
        .for_each(|password| _ = command.env("VELLUM_PASSWORD", password));
    command.env("VELLUM_FROM_PASSWORD", super::PASSWORD);
    Run::of(command.output().expect("the command starts"))
}

fn succeed(site: &Site, place: &str, password: Option<&str>, words: &str) -> String {
    let run = run(site, place, password, words);
    assert_eq!(run.code, Some(0), "{words}: {run:?}");
    run.stdout
}

/// Folder to bucket under another password, from there to a plain folder, and back into a store:
/// every image and snapshot as it was.
#[test]
fn a_tree_goes_through_three_repositories_and_comes_back_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = folder.path().join("first").display().to_string();
    let plain = folder.path().join("plain").display().to_string();
    let bucket = Bucket::start();
    let site = Site::at(&bucket, &first);
    site.grow_tree(41);
    site.succeed("backup init");
    site.succeed("backup push --all");
    let there = bucket.place();
    let there = there.as_str();
    succeed(&site, there, Some(OTHER_PASSWORD), "backup init");
    let shown = succeed(
        &site,
        there,
        Some(OTHER_PASSWORD),
        &format!("backup copy {first} --all"),
    );
    assert!(shown.starts_with("copied "), "{shown}");
    let again = succeed(
        &site,
        there,
        Some(OTHER_PASSWORD),
        &format!("backup copy {first} --all"),
    );
    assert!(again.starts_with("nothing is new"), "{again}");
    // The store finds its points there.
    let pushed = succeed(&site, there, Some(OTHER_PASSWORD), "backup push --all");
    assert!(pushed.starts_with("nothing is new"), "{pushed}");

    // The difference of two points is the same there as in the store, and told without a look at
    // the data.
    let differ = site.sandbox.run(["diff", "web@first", "web@second"]);
    let told = run(
        &site,
        there,
        Some(OTHER_PASSWORD),
        "backup diff web@first web@second",
    );
    assert!(
        differ.code == Some(1) && !differ.stdout.is_empty(),
        "{differ:?}"
    );
    assert_eq!((told.code, told.stdout), (differ.code, differ.stdout));
    let same = run(
        &site,
        there,
        Some(OTHER_PASSWORD),
        "backup diff web@second web --json",
    );
    assert_eq!((same.code, same.stdout.trim()), (Some(0), "[]"));

    succeed(&site, &plain, None, "backup init --no-encryption");
    let mut command = site.command(&format!("backup copy {there} web@first --json"));
    command
        .env("VELLUM_REPOSITORY", &plain)
        .env_remove("VELLUM_PASSWORD")
        .env("VELLUM_FROM_PASSWORD", OTHER_PASSWORD);
    let one = Run::of(command.output().expect("the command starts"));
    let told: serde_json::Value =
        serde_json::from_str(one.stdout.lines().last().unwrap_or_default())
            .unwrap_or_else(|error| panic!("{error}: {one:?}"));
    assert_eq!(
        (told["new_points"].as_u64(), told["machines"].as_u64()),
        (Some(1), Some(0)),
        "{told}"
    );
    let mut command = site.command(&format!("backup copy {there} --all"));
    command
        .env("VELLUM_REPOSITORY", &plain)
        .env_remove("VELLUM_PASSWORD")
        .env("VELLUM_FROM_PASSWORD", OTHER_PASSWORD);
    assert_eq!(
        Run::of(command.output().expect("the command starts")).code,
        Some(0)
    );

    let other = Site::new(&plain);
    let mut command = other.command("backup pull --all");
    command.env_remove("VELLUM_PASSWORD");
    assert_eq!(
        Run::of(command.output().expect("the command starts")).code,
        Some(0)
    );
    assert_eq!(other.contents(), site.contents());
    assert_eq!(other.shape(), site.shape());
}

#[test]
fn a_wrong_key_a_missing_repository_and_damage_each_have_their_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let (from, to) = (first.display().to_string(), second.display().to_string());
    let site = Site::new(&from);
    site.grow_tree(43);
    site.succeed("backup init");
    site.succeed("backup push --all");
    run(
        &site,
        &to,
        Some(OTHER_PASSWORD),
        &format!("backup copy {from} --all"),
    )
    .expect_error(10, "no repository");
    succeed(&site, &to, Some(OTHER_PASSWORD), "backup init");
    run(
        &site,
        &to,
        Some("wrong"),
        &format!("backup copy {from} --all"),
    )
    .expect_error(12, &to);
    run(&site, &to, None, &format!("backup copy {from} --all")).expect_error(12, "encrypted");
    run(
        &site,
        &to,
        Some(OTHER_PASSWORD),
        &format!("backup copy {to}x --all"),
    )
    .expect_error(10, "no repository");
    // The key of the one does not open the other.
    run(
        &site,
        &from,
        Some(super::PASSWORD),
        &format!("backup copy {to} --all"),
    )
    .expect_error(12, &to);
    run(
        &site,
        &from,
        Some(super::PASSWORD),
        &format!("backup copy {from} --all"),
    )
    .expect_error(1, "one repository");
    run(
        &site,
        &to,
        Some(OTHER_PASSWORD),
        &format!("backup copy {from}"),
    )
    .expect_error(2, "not clear");
    run(
        &site,
        &to,
        Some(OTHER_PASSWORD),
        &format!("backup copy {from} nothing"),
    )
    .expect_error(1, "no point");
    let before = files(&second).len();
    for pack in files(&first.join("packs")) {
        let mut bytes = fs::read(&pack).expect("it reads");
        bytes.iter_mut().step_by(512).for_each(|byte| *byte ^= 1);
        fs::write(&pack, bytes).expect("room");
    }
    let damaged = run(
        &site,
        &to,
        Some(OTHER_PASSWORD),
        &format!("backup copy {from} web@second"),
    );
    damaged.expect_error(4, "packs/");
    assert!(
        damaged.stderr.contains("needed by") && damaged.stderr.contains("web@second"),
        "{damaged:?}"
    );
    assert_eq!(files(&second).len(), before, "something was left");
}
