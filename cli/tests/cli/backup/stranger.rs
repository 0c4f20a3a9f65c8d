//! The independent reader (`backup/tests/reader`, Python, written from FORMAT.md) against
//! repositories that the command wrote, with a long history: a reader with that page and the key
//! gets every disk back without this program.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::Site;

/// The length of a disk in bytes: more than two pages of a map, and no multiple of a chunk.
const LONG_LEN: usize = (9 << 20) + 700;

/// The interpreter with the reader's packages, which `dev/install-python` installs beside this
/// test's own program.
fn python() -> PathBuf {
    let own = std::env::current_exe().expect("a test has a path");
    let target = own
        .ancestors()
        .find(|folder| folder.join("tools/python/bin/python").exists());
    let target = target.unwrap_or_else(|| {
        panic!(
            "run dev/install-python first: there is no tools/python above {}",
            own.display()
        )
    });
    target.join("tools/python/bin/python")
}

fn stranger(repository: &Path, words: &[&str], key: &[&str]) -> Output {
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../backup/tests/reader/read_repository.py");
    let output = Command::new(python())
        .arg(script)
        .arg(repository)
        .args(words)
        .args(key)
        .output()
        .expect("the interpreter starts");
    assert!(
        output.status.success(),
        "{words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Disks that were imported, changed, made shorter and longer, and written by a guest's import over
/// a parent: pushed again and again, thinned out, collected with all packs written anew, and pushed
/// to once more.
fn live_a_life(site: &Site, backup: &dyn Fn(&str) -> serde_json::Value) {
    let sandbox = &site.sandbox;
    let mut disk = vec![0; LONG_LEN];
    let mut random = fastrand::Rng::with_seed(23);
    random.fill(&mut disk[..3 << 20]);
    random.fill(&mut disk[(8 << 20) - 100..]);
    site.grow_tree(3);
    for generation in 0..6_usize {
        if generation > 0 {
            // Some of it is new, some is what another place has, and some is zero from now on.
            let at = generation * (1 << 20);
            random.fill(&mut disk[at + 5..at + 40_000]);
            disk.copy_within(4096 * 7..4096 * 19, at + (1 << 19));
            disk[generation << 16..(generation + 1) << 16].fill(0);
        }
        std::fs::write(sandbox.path("long.raw"), &disk).expect("room");
        let update = if generation == 0 { "" } else { "--update" };
        sandbox.succeed(
            format!("import long.raw long --snapshot g{generation} {update}").split_whitespace(),
        );
        if generation == 2 {
            sandbox.succeed(["resize", "long", "2M", "--shrink"]);
            sandbox.succeed(["snapshot", "take", "long@short"]);
            sandbox.succeed(["resize", "long", &LONG_LEN.to_string()]);
            sandbox.succeed(["create", "heir", "-b", "long@short"]);
        }
        backup("push --all");
        if generation == 4 {
            backup("forget long --keep-last 2");
            let pruned = backup("prune --max-unused 0");
            assert!(
                pruned["moved_bytes"].as_u64() > Some(0),
                "no chunk moved: {pruned}"
            );
            assert!(
                pruned["deleted_objects"].as_u64() > Some(0),
                "nothing went: {pruned}"
            );
        }
    }
}

#[test]
fn a_stranger_restores_every_point_that_the_command_pushed() {
    for is_encrypted in [true, false] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = folder.path().join("backup");
        let site = if is_encrypted {
            Site::new(&place.display().to_string())
        } else {
            Site::without_key(&place.display().to_string())
        };
        let backup = |words: &str| site.json(&format!("backup {words}"));
        site.succeed(if is_encrypted {
            "backup init"
        } else {
            "backup init --no-encryption"
        });
        live_a_life(&site, &backup);
        let (password, key_file) = (
            site.sandbox.path("password"),
            site.sandbox.path("backup.key"),
        );
        std::fs::write(&password, super::PASSWORD).expect("room");
        let mut keys: Vec<Vec<&str>> = vec![Vec::new()];
        if is_encrypted {
            site.succeed("backup key add --new-key-file backup.key --label machine");
            keys = vec![
                vec!["--password-file", password.to_str().expect("text")],
                vec!["--key-file", key_file.to_str().expect("text")],
            ];
        }
        let points = site.json("backup list");
        let points = points.as_array().expect("a list");
        let described: BTreeSet<String> = points
            .iter()
            .map(|point| {
                format!(
                    "{} {} {}",
                    point["id"].as_str().expect("text"),
                    point["name"].as_str().expect("text"),
                    point["size"]
                )
            })
            .collect();
        assert!(described.len() > 12, "{described:?}");
        for key in &keys {
            let listed = stranger(&place, &["list"], key).stdout;
            assert_eq!(
                String::from_utf8_lossy(&listed)
                    .lines()
                    .map(str::to_owned)
                    .collect::<BTreeSet<_>>(),
                described
            );
        }
        for (nth, point) in points.iter().enumerate() {
            let id = point["id"].as_str().expect("text");
            let theirs = site.sandbox.path(format!("{id}.theirs"));
            stranger(
                &place,
                &["restore", id, theirs.to_str().expect("text")],
                &keys[nth % keys.len()],
            );
            site.succeed(&format!("backup restore {id} {id}.ours"));
            let ours =
                std::fs::read(site.sandbox.path(format!("{id}.ours"))).expect("it was restored");
            // The whole disk, not a hash of it: nothing can be more equal.
            assert!(
                std::fs::read(&theirs).expect("it was restored") == ours,
                "{point} is another disk to a stranger"
            );
            [theirs, site.sandbox.path(format!("{id}.ours"))]
                .iter()
                .for_each(|file| std::fs::remove_file(file).expect("it is there"));
        }
    }
}
