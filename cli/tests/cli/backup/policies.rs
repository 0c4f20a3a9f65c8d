//! Tests of rules that a repository keeps, of filters by tag, and of reading at a limited rate.

use std::time::{Duration, Instant};

use super::Site;

/// A site with two images, three snapshots each, pushed to a folder; `web@a` has the tag `gold`.
fn pushed_site() -> (tempfile::TempDir, Site) {
    let folder = tempfile::tempdir().expect("a folder");
    let site = Site::without_key(&folder.path().join("repo").display().to_string());
    for (image, seed) in [("web", 1), ("db", 2)] {
        let file = format!("{image}.raw");
        site.sandbox.random_file(&file, 3 << 20, seed);
        site.succeed(&format!("import -q {file} {image}"));
        for snapshot in ["a", "b", "c"] {
            site.succeed(&format!("snapshot take -q {image}@{snapshot}"));
        }
    }
    site.succeed("tag web@a +gold");
    site.succeed("backup init -q --no-encryption");
    site.succeed("backup push -q --all");
    (folder, site)
}

/// The names of the snapshots that would go.
fn going(site: &Site, words: &str) -> Vec<String> {
    let shown = site.succeed(words);
    let lines = shown.lines().filter(|line| line.ends_with("goes"));
    let mut names: Vec<String> = lines
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

#[test]
fn rules_that_the_repository_keeps_are_set_shown_obeyed_and_removed() {
    let (_folder, site) = pushed_site();
    assert_eq!(site.succeed("backup policy list"), "no policies\n");
    site.run("backup forget --policy")
        .expect_error(2, "keeps no policy");
    site.run("backup policy set").expect_error(2, "no rule");
    site.run("backup policy set nobody --keep-last 1")
        .expect_error(1, "nobody");
    site.succeed("backup policy set --keep-last 1");
    site.succeed("backup policy set db --keep-last 2");
    site.succeed("backup policy set --tag gold --keep-last unlimited");
    let shown = site.succeed("backup policy list");
    for line in [
        "image db    --keep-last 2",
        "tag gold    --keep-last unlimited",
        "repository  --keep-last 1",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    let forget = "backup forget --policy -n";
    assert_eq!(going(&site, forget), ["db@a", "web@b"]);
    site.succeed("backup prune -q");
    assert_eq!(going(&site, forget), ["db@a", "web@b"]);
    site.succeed("backup policy remove db");
    assert_eq!(going(&site, forget), ["db@a", "db@b", "web@b"]);
    site.run("backup policy remove db")
        .expect_error(1, "no policy of image");
    let both = site.run("backup forget --policy --keep-last 1");
    assert_eq!(both.code, Some(2), "{both:?}");
    let together = "backup forget -n --keep-last 1 --group-by host";
    assert_eq!(
        going(&site, together).len(),
        5 + 1,
        "a snapshot and a state stay"
    );
    let wrong = site.run("backup forget -n --keep-last 1 --group-by path");
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    site.succeed("backup forget --policy -q");
    assert_eq!(going(&site, forget), Vec::<String>::new());
}

#[test]
fn points_are_chosen_by_their_tags() {
    let (_folder, site) = pushed_site();
    let shown = site.succeed("backup list --tag gold");
    assert!(
        shown.contains("web@a") && !shown.contains("web@b"),
        "{shown}"
    );
    assert_eq!(
        going(
            &site,
            "backup forget -n --keep-last 0 --keep-tag gold --tag gold"
        ),
        Vec::<String>::new()
    );
    site.run("backup restore web@b out.raw --tag gold")
        .expect_error(1, "web@b");
    site.succeed("backup restore web@a out.raw --tag gold");
}

#[test]
fn no_second_has_more_than_its_bytes_of_a_restore() {
    let (_folder, site) = pushed_site();
    let begun = Instant::now();
    site.succeed("backup restore -q web out.raw --limit-download 2M");
    assert!(begun.elapsed() >= Duration::from_millis(1400), "{begun:?}");
    let restored = std::fs::read(site.sandbox.path("out.raw")).expect("a disk");
    assert!(restored == std::fs::read(site.sandbox.path("web.raw")).expect("it is there"));
}

/// A monitor is told when this client last pushed and verified, and nothing of what never was.
#[test]
fn the_last_push_and_verification_are_told() {
    let (_folder, site) = pushed_site();
    let figures = || site.succeed("backup info --prometheus");
    let shown = figures();
    assert!(
        shown.contains("vellum_repository_points{repository="),
        "{shown}"
    );
    assert!(shown.contains("last_push_timestamp_seconds{"), "{shown}");
    assert!(!shown.contains("last_verify"), "{shown}");
    assert!(site.succeed("backup info").contains("never from here"));
    site.succeed("backup verify -q --read-data --subset 1/2");
    let shown = figures();
    assert!(
        shown.contains("last_verify") && !shown.contains("last_read_data"),
        "{shown}"
    );
    site.succeed("backup verify -q --read-data");
    assert!(figures().contains("last_read_data_timestamp_seconds{"));
    site.succeed("backup info --prometheus=figures.prom");
    let written = std::fs::read_to_string(site.sandbox.path("figures.prom")).expect("a file");
    assert_eq!(written, figures());
    site.run("backup info web --prometheus")
        .expect_error(2, "one point");
}
