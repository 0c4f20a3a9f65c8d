//! Tests of hostile repositories: no name becomes a path or commands a terminal, no number becomes
//! memory, nothing that was not sealed with the key is believed, and what cannot be read is told by
//! object and point.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use vellum_backup::objects::{ObjectId, open_objects};
use vellum_backup::record::{
    Content, Machine, MachineSnapshot, MapPart, Point, Record, SnapshotName,
};
use vellum_backup::seal::{Opener, SealedKind, Sealer, Secrets};
use vellum_backup::{ClientFolders, Repository, Rollback, Session, SessionKind, Writer};

use super::{PASSWORD, Site, files};
use crate::sandbox::{Run, VELLUM, copy_folder};

const HOSTILE: [&str; 14] = [
    "../../evil",
    "/etc/passwd",
    "a\0b",
    "two\nlines",
    "\u{1b}[2J\u{1b}]0;owned\u{7}",
    "\u{202e}gpj.exe",
    "\u{9b}31m",
    "web@first",
    "",
    ".",
    "..",
    "-rf",
    "web/../../x",
    "LONG",
];

/// A repository of two images, each pushed by itself, in packs of one length.
fn pushed() -> (tempfile::TempDir, Site) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let site = Site::new(&folder.path().join("backup").display().to_string());
    site.succeed("backup init");
    for (name, seed) in [("web", 1), ("mail", 2)] {
        site.sandbox
            .random_file(format!("{name}.raw"), 2 << 20, seed);
        site.sandbox.succeed([
            "import",
            &format!("{name}.raw"),
            name,
            "--snapshot",
            "first",
        ]);
        site.succeed(&format!("backup push {name}"));
    }
    (folder, site)
}

fn open(folder: &tempfile::TempDir) -> Repository {
    let place = folder.path().join("backup").display().to_string();
    let objects = open_objects(&place, Path::new("/"), &BTreeMap::new()).expect("a folder");
    let opener = Opener::Password(PASSWORD.to_owned().into());
    Repository::open(
        Arc::from(objects),
        Some(&opener),
        ClientFolders::default(),
        Rollback::Refused,
    )
    .expect("it opens")
}

/// Puts a record that no push of ours would put, with the key.
fn say(repository: &Repository, record: Record) {
    let writer = Writer {
        name: "\u{1b}[31mmallory".to_owned(),
        host: None,
        time_ms: u64::MAX,
        process: None,
    };
    let mut session =
        Session::begin(repository, SessionKind::Push, writer).expect("it is announced");
    session.commit(record).expect("it is said");
    session.end().expect("it is over");
}

fn a_point(repository: &Repository) -> Point {
    let state = repository.state();
    let found = state
        .points()
        .find(|point| point.name == "web" && point.snapshot.is_some());
    Point::clone(found.expect("it was pushed"))
}

/// The object of a kind that was put last, or first.
fn objects(folder: &tempfile::TempDir, kind: &str) -> Vec<PathBuf> {
    files(&folder.path().join("backup").join(kind))
}

/// Asserts that the output has no control characters for a terminal, that nothing panicked, and
/// that the exit code is a documented one.
fn assert_harmless(run: &Run, words: &str) {
    assert!(matches!(run.code, Some(0..=4)), "{words}: {run:?}");
    let acts = |text: &str| {
        text.chars().any(|shown| {
            shown.is_control() && shown != '\n' || ('\u{202a}'..='\u{202e}').contains(&shown)
        })
    };
    assert!(
        !acts(&run.stderr) && (words.contains("--json") || !acts(&run.stdout)),
        "{words}: {run:?}"
    );
}

const LOOKS: [&str; 9] = [
    "backup list",
    "backup list --json",
    "backup tree",
    "backup tree --json",
    "backup info",
    "backup info --json",
    "backup verify --read-data",
    "backup forget -n --keep-last 1",
    "backup prune -n",
];

/// The id of a point whose name, image or tag is hostile.
fn hostile_id(nth: usize, kind: usize) -> String {
    format!("{:032x}", nth * 4 + kind)
}

/// A record with each hostile text as the name of an image, a snapshot, a tag, a machine and its
/// disk.
fn hostile_names(point: &Point) -> Record {
    let (long, mut record) = ("x".repeat(4096), Record::default());
    for (nth, text) in HOSTILE.into_iter().enumerate() {
        let text = if text == "LONG" { long.as_str() } else { text };
        let of_kind = |kind: usize, name: String| Point {
            id: hostile_id(nth, kind),
            image: format!("{text}-{nth}{kind}"),
            name,
            ..point.clone()
        };
        let image = Point {
            snapshot: None,
            ..of_kind(0, text.to_owned())
        };
        let snapshot = Point {
            snapshot: Some(SnapshotName {
                name: text.to_owned(),
                serial: 1,
            }),
            ..of_kind(1, format!("n{nth}"))
        };
        let tagged = Point {
            tags: vec![text.to_owned()],
            mode: text.to_owned(),
            ..of_kind(2, format!("t{nth}"))
        };
        let points = [image, snapshot, tagged];
        record.points.extend(points.map(Into::into));
        record.machines.push(hostile_machine(text).into());
    }
    record
}

fn hostile_machine(text: &str) -> Machine {
    let snapshot = MachineSnapshot {
        name: text.to_owned(),
        time_ms: u64::MAX,
        disks: vec![(text.to_owned(), text.to_owned(), None)],
        configuration: Some("no base64\u{1b}".to_owned()),
    };
    Machine {
        id: text.to_owned(),
        name: text.to_owned(),
        disks: vec![text.to_owned()],
        configuration: None,
        snapshots: vec![snapshot],
    }
}

#[test]
fn names_from_a_repository_are_shown_harmlessly_and_never_become_paths() {
    let (folder, site) = pushed();
    let repository = open(&folder);
    say(&repository, hostile_names(&a_point(&repository)));
    let (names, before) = (site.sandbox.names(), files(&site.sandbox.path("")).len());
    for words in LOOKS {
        let run = site.run(words);
        assert_harmless(&run, words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
    }
    // Everything at once is refused with the name that cannot be one; what has a good name comes.
    let run = site.run("backup pull --all --prefix p-");
    assert_harmless(&run, "pull");
    assert!(
        run.code != Some(0) && run.stderr.contains("cannot be a name"),
        "{run:?}"
    );
    assert_eq!(site.sandbox.names(), names);
    for (nth, _) in HOSTILE.iter().enumerate() {
        for kind in 0..3 {
            let words = format!("backup pull {}", hostile_id(nth, kind));
            let run = site.run(&words);
            assert_harmless(&run, &words);
            if kind > 0 {
                continue;
            }
            // A disk by its id needs no name.
            let words = format!("backup restore {} out.raw --force", hostile_id(nth, kind));
            let run = site.run(&words);
            assert_harmless(&run, &words);
            assert_eq!(run.code, Some(0), "{words}: {run:?}");
        }
    }
    std::fs::remove_file(site.sandbox.path("out.raw")).expect("it was restored");
    for name in site.sandbox.names() {
        assert!(
            name.chars()
                .all(|letter| letter.is_ascii_alphanumeric() || "@-".contains(letter)),
            "{name:?} came in"
        );
    }
    let strange: Vec<_> = files(&site.sandbox.path(""))
        .into_iter()
        .filter(|file| file.display().to_string().contains("evil"))
        .collect();
    assert!(strange.is_empty() && before > 0, "{strange:?}");
    assert!(!folder.path().join("evil").exists());
    site.succeed("backup pull web --as fine");
}

fn unbelievable_id(nth: usize) -> String {
    format!("{:032x}", 0xabc0 + nth)
}

/// Variants of a real content, each with one thing that cannot be.
fn unbelievable_contents(real: &Content, pack: &str) -> Vec<Content> {
    let maps = &real.parts[0];
    let in_parts = |parts: Vec<MapPart>| Content {
        parts,
        ..real.clone()
    };
    let in_part = |object: &str, range: (u64, u64), pages: (u64, u64)| {
        in_parts(vec![MapPart {
            pages,
            object: object.to_owned(),
            range,
        }])
    };
    let of_chunks = |chunk_len: u32| Content {
        chunk_len,
        ..real.clone()
    };
    // The eleventh and the twelfth begin in the eleventh: in itself, and in a chain that does not
    // end.
    let in_circle = Content {
        parent: Some(unbelievable_id(10)),
        parent_visible: u64::MAX,
        ..real.clone()
    };
    vec![
        Content {
            len: u64::MAX,
            ..in_parts(Vec::new())
        },
        in_part("maps/../../../etc/passwd", (0, 10), (0, u64::MAX)),
        in_part(&maps.object, (u64::MAX - 5, 10), (0, 1)),
        in_part(&maps.object, (0, u64::MAX), (0, 1)),
        in_part(&maps.object, (0, 1 << 40), (0, 1)),
        in_part(&maps.object, maps.range, (0, u64::MAX)),
        in_part(pack, (0, 100), (0, 1)),
        in_parts(vec![maps.clone(), maps.clone()]),
        of_chunks(0),
        of_chunks(8192),
        in_circle.clone(),
        in_circle,
        Content {
            parent: Some("\u{1b}[31m".to_owned()),
            ..real.clone()
        },
    ]
}

/// A record of these contents with a point for each, one point more whose content has no id, and
/// indexes that are none.
fn unbelievable_record(point: &Point, contents: Vec<Content>) -> Record {
    let of_number = |nth: usize| Point {
        id: unbelievable_id(nth),
        image: unbelievable_id(nth),
        ..point.clone()
    };
    let mut record = Record::default();
    for (nth, content) in contents.into_iter().enumerate() {
        let id = unbelievable_id(nth);
        record.contents.push(Content { id, ..content }.into());
        let point = Point {
            name: format!("wrong{nth}"),
            snapshot: None,
            len: u64::MAX,
            content: unbelievable_id(nth),
            ..of_number(nth)
        };
        record.points.push(point.into());
    }
    let lost = Point {
        name: "lost".to_owned(),
        content: "no id\u{7}".to_owned(),
        ..of_number(record.points.len())
    };
    record.points.push(lost.into());
    record.indexes = vec!["../../x".to_owned(), "zz".to_owned()];
    record
}

/// Numbers that would be too much to believe, chains that end in themselves, objects that are no
/// objects.
#[test]
fn numbers_from_a_repository_are_not_believed() {
    let (folder, site) = pushed();
    let repository = open(&folder);
    let point = a_point(&repository);
    let real = known(&repository.state(), &point.content);
    let pack = objects(&folder, "packs")[0].display().to_string();
    let record = unbelievable_record(&point, unbelievable_contents(&real, &pack));
    let count = record.points.len() - 1;
    say(&repository, record);
    let names = site.sandbox.names();
    for words in LOOKS {
        assert_harmless(&site.run(words), words);
    }
    let found = site.json_of("backup verify --read-data", 4);
    for nth in 0..=count {
        let (name, words) = (
            format!("wrong{nth}"),
            format!("backup restore {} out.raw", unbelievable_id(nth)),
        );
        let run = site.run(&words);
        assert_harmless(&run, &words);
        assert_eq!(run.code, Some(1), "{words}: {run:?}");
        let is_named = found["findings"].as_array().is_some_and(|all| {
            all.iter().any(|finding| {
                finding["points"]
                    .as_array()
                    .is_some_and(|points| points.iter().any(|point| *point == name))
            })
        });
        assert!(
            is_named || nth == count,
            "{name} does not restore ({}), and verify does not say so: {found}",
            run.stderr
        );
        assert_harmless(
            &site.run(&format!("backup pull {} --as new", unbelievable_id(nth))),
            "pull",
        );
        assert!(!site.sandbox.path("out.raw").exists());
    }
    assert_eq!(
        site.sandbox.names(),
        names,
        "something half done is in the store"
    );
    site.succeed("backup restore web@first out.raw");
}

fn known(state: &vellum_backup::journal::State, id: &str) -> Content {
    let mut entries = state.contents().flat_map(|(_, entries)| entries);
    let entry = entries
        .find(|entry| entry.content.id == id)
        .expect("it is known");
    Content::clone(&entry.content)
}

/// Index objects and records whose insides claim more than they hold, sealed with the key.
#[test]
fn insides_that_claim_too_much_are_damage() {
    let (folder, site) = pushed();
    let repository = open(&folder);
    let put = |kind: &str, sealed: &vellum_backup::seal::SealedObject| {
        let name = format!("{kind}/{}", sealed.id);
        std::fs::write(folder.path().join("backup").join(&name), &sealed.bytes).expect("room");
        name
    };
    let mut huge = vec![1];
    huge.extend([0xff; 9]);
    huge.push(1);
    let index = repository
        .sealer()
        .seal(SealedKind::Index, &huge)
        .expect("it seals");
    let name = put("index", &index);
    say(
        &repository,
        Record {
            indexes: vec![index.id.to_string()],
            ..Record::default()
        },
    );
    let run = site.run("backup verify");
    assert_eq!(run.code, Some(4), "{run:?}");
    assert!(run.stdout.contains(&name), "{run:?}");
    // Chunks in the other indexes are there.
    site.succeed("backup restore web@first out.raw");
    site.run("backup push web").code.expect("it ends");
    for (plain, what) in [
        (&b"{\"version\":2,\"counter\":9}"[..], "version 2"),
        (b"[[[[", "journal/"),
        (b"{\"version\":1,\"counter\":8}", "journal/"),
    ] {
        let record = repository
            .sealer()
            .seal(SealedKind::Record, plain)
            .expect("it seals");
        let name = put(
            "journal",
            &vellum_backup::seal::SealedObject {
                id: record.id,
                bytes: record.bytes.clone(),
            },
        );
        let path = folder.path().join("backup").join(&name);
        let named = path.with_file_name(format!("0000000000000009-{}", record.id));
        std::fs::rename(&path, &named).expect("the same folder");
        for words in [
            "backup list",
            "backup push --all",
            "backup restore web@first no.raw",
            "backup verify",
            "backup pull --all",
        ] {
            let run = site.run(words);
            run.expect_error(1, what);
            assert!(
                run.stderr.contains(&record.id.to_string()),
                "{words}: {run:?}"
            );
        }
        assert!(!site.sandbox.path("no.raw").exists());
        std::fs::remove_file(named).expect("it is there");
    }
    site.succeed("backup list");
}

/// An attacker without a key can put objects, and change their places: nothing of that is believed.
#[test]
fn what_was_not_sealed_with_the_key_is_refused_by_name() {
    let (folder, site) = pushed();
    let (other, theirs) = pushed();
    let journal = folder.path().join("backup/journal");
    let whole: Vec<(PathBuf, Vec<u8>)> = objects(&folder, "journal")
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).expect("it reads")))
        .collect();
    assert_eq!(whole.len(), 2);
    let heal = || {
        objects(&folder, "journal")
            .into_iter()
            .for_each(|path| std::fs::remove_file(path).expect("it is there"));
        whole
            .iter()
            .for_each(|(path, bytes)| std::fs::write(path, bytes).expect("room"));
        site.succeed("backup list");
    };
    // A record of another repository with the same password, under its right name.
    let stranger = objects(&other, "journal").pop().expect("there are some");
    std::fs::copy(
        &stranger,
        journal.join(stranger.file_name().expect("a name")),
    )
    .expect("room");
    assert_journal_refused(&site, "a record of another repository");
    heal();
    // One that is forged, plain and with a key of the forger's.
    let repository = open(&folder);
    let plain = br#"{"version":1,"counter":3,"parents":[],"session":"","writer":"","time_ms":0}"#;
    for sealer in [
        Sealer::plain(repository.id()),
        Sealer::encrypted(repository.id(), &Secrets::generate().expect("random bytes")),
    ] {
        let forged = sealer.seal(SealedKind::Record, plain).expect("it seals");
        std::fs::write(
            journal.join(format!("0000000000000003-{}", forged.id)),
            forged.bytes,
        )
        .expect("room");
        assert_journal_refused(&site, "a forged record");
        heal();
    }
    // The repository's file says that it is not encrypted: what a forger writes in plain would be
    // believed. Whoever has the key has what its copy says proven, and puts it back.
    let path = folder.path().join("backup/vellum.repository");
    let text = std::fs::read_to_string(&path).expect("text");
    let forged = text.replace("true", "false");
    std::fs::write(&path, &forged).expect("room");
    site.succeed("backup list");
    assert_eq!(std::fs::read_to_string(&path).expect("text"), text);
    let copy = folder.path().join("backup/copies/vellum.repository");
    for path in [&path, &copy] {
        std::fs::write(path, &forged).expect("room");
    }
    for words in ["backup list", "backup push --all"] {
        let mut command = site.command(words);
        Run::of(command.output().expect("it starts")).expect_error(1, "encrypt");
        command = site.command(words);
        command.env_remove("VELLUM_PASSWORD");
        Run::of(command.output().expect("it starts")).expect_error(1, "before");
    }
    for path in [&path, &copy] {
        std::fs::write(path, &text).expect("room");
    }
    drop(theirs);
}

/// Asserts that no command believes what is in the journal, or changes the store.
fn assert_journal_refused(site: &Site, what: &str) {
    let names = site.sandbox.names();
    for words in [
        "backup list",
        "backup push --all",
        "backup restore web@first no.raw",
        "backup pull --all --prefix p-",
        "backup prune",
    ] {
        // Also by somebody who has a copy of what was there.
        for fresh in [true, false] {
            let mut command = site.command(words);
            if fresh {
                command
                    .env("XDG_CACHE_HOME", site.sandbox.path("fresh"))
                    .env("XDG_STATE_HOME", site.sandbox.path("fresh"));
            }
            let run = Run::of(command.output().expect("it starts"));
            let knows = !fresh && run.code == Some(0) && words == "backup list";
            assert!(
                knows || run.code == Some(1) && run.stderr.contains("journal/"),
                "{what}, {words}: {run:?}"
            );
            drop(std::fs::remove_dir_all(site.sandbox.path("fresh")));
        }
    }
    assert!(!site.sandbox.path("no.raw").exists());
    assert_eq!(site.sandbox.names(), names);
}

/// Records in each other's places are read from their copies, and put back; with the copies
/// exchanged as well, a client that never read them refuses, one that has goes on, and its `verify`
/// puts them back.
#[test]
fn exchanged_records_are_found() {
    let (folder, site) = pushed();
    let exchange = |kind: &str| {
        let records = objects(&folder, kind);
        let (one, two) = (
            std::fs::read(&records[0]).expect("it reads"),
            std::fs::read(&records[1]).expect("it reads"),
        );
        std::fs::write(&records[0], two).expect("room");
        std::fs::write(&records[1], one).expect("room");
    };
    exchange("journal");
    let other = Site::new(&folder.path().join("backup").display().to_string());
    let told = other.run("backup list");
    assert!(
        told.code == Some(0) && told.stderr.contains("is whole again"),
        "{told:?}"
    );
    let other = Site::new(&folder.path().join("backup").display().to_string());
    exchange("journal");
    exchange("copies/journal");
    for words in [
        "backup list",
        "backup restore web@first no.raw",
        "backup pull --all",
        "backup verify",
    ] {
        other.run(words).expect_error(1, "journal/");
    }
    assert!(other.sandbox.names().is_empty() && !other.sandbox.path("no.raw").exists());
    let run = site.run("backup verify");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains("mended: journal/"), "{run:?}");
    other.succeed("backup list");
}

/// Two histories from one past: each client is shown its own, until one sees the other's.
#[test]
fn a_fork_of_the_journal_is_noticed() {
    let (folder, site) = pushed();
    let (place, fork) = (folder.path().join("backup"), folder.path().join("fork"));
    let other = Site::new(&place.display().to_string());
    other.sandbox.random_file("own.raw", 1 << 20, 5);
    other.sandbox.succeed(["import", "own.raw", "own"]);
    other.succeed("backup list");
    copy_folder(&place, &fork);
    site.sandbox.succeed(["snapshot", "take", "web@mine"]);
    site.succeed("backup push web");
    let swap = || {
        std::fs::rename(&place, folder.path().join("aside")).expect("the same file system");
        std::fs::rename(&fork, &place).expect("the same file system");
        std::fs::rename(folder.path().join("aside"), &fork).expect("the same file system");
    };
    swap();
    other.succeed("backup push own");
    for words in [
        "backup list",
        "backup push web",
        "backup restore web@first no.raw",
        "backup prune",
        "backup verify",
    ] {
        site.run(words).expect_error(1, "earlier state");
    }
    swap();
    other.run("backup list").expect_error(1, "earlier state");
    site.succeed("backup restore web@mine out.raw");
    assert!(!site.sandbox.path("no.raw").exists());
}

/// Packs in each other's places, wrong bytes under a right name, right bytes that end early: in an
/// encrypted repository the lengths are those of many packs.
#[test]
fn packs_that_are_not_what_they_are_named_after_are_told_with_all_that_needs_them() {
    let (folder, site) = pushed();
    let packs = objects(&folder, "packs");
    let whole: Vec<Vec<u8>> = packs
        .iter()
        .map(|path| std::fs::read(path).expect("it reads"))
        .collect();
    assert_eq!(
        (whole.len(), whole[0].len()),
        (2, whole[1].len()),
        "two packs of one length"
    );
    let names: Vec<String> = packs
        .iter()
        .map(|path| {
            path.file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert!(
        names
            .iter()
            .zip(&whole)
            .all(|(name, bytes)| *name == ObjectId::of(bytes).to_string())
    );
    let mut noise = vec![0; whole[0].len()];
    fastrand::Rng::with_seed(9).fill(&mut noise);
    let cut = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    for (what, now) in [
        ("exchanged", [whole[1].clone(), whole[0].clone()]),
        ("noise", [noise.clone(), noise]),
        ("cut", [cut(&whole[0]), cut(&whole[1])]),
        ("empty", [Vec::new(), Vec::new()]),
    ] {
        packs
            .iter()
            .zip(&now)
            .for_each(|(path, bytes)| std::fs::write(path, bytes).expect("room"));
        assert_restore_names_packs(&site, &names, what);
        assert_pull_names_packs(&site, &names, what);
        let found = site.json_of("backup verify --read-data", 4);
        for needed in
            names
                .iter()
                .map(String::as_str)
                .chain(["web", "web@first", "mail", "mail@first"])
        {
            assert!(
                found.to_string().contains(needed),
                "{what}: {needed} is not in {found}"
            );
        }
        assert!(!site.sandbox.path("no.raw").exists());
        packs
            .iter()
            .zip(&whole)
            .for_each(|(path, bytes)| std::fs::write(path, bytes).expect("room"));
    }
    site.succeed("backup verify --read-data");
}

fn assert_restore_names_packs(site: &Site, names: &[String], what: &str) {
    for image in ["web", "mail"] {
        let run = site.run(&format!("backup restore {image}@first no.raw"));
        assert_eq!(run.code, Some(1), "{what}: {run:?}");
        assert!(
            names.iter().any(|name| run.stderr.contains(name))
                && run.stderr.contains(&format!("{image}@first")),
            "{what}: {run:?}"
        );
        let streamed = site
            .command(&format!("backup restore {image}@first -"))
            .stdin(Stdio::null())
            .output()
            .expect("it starts");
        assert_eq!(streamed.status.code(), Some(1), "{what}");
    }
}

/// Asserts that a pull into a new store fails with the name of a pack, and leaves no image.
fn assert_pull_names_packs(site: &Site, names: &[String], what: &str) {
    let before = site.sandbox.names();
    std::fs::remove_dir_all(site.sandbox.path("other")).ok();
    let in_other = |words: &str| {
        let mut command = site.command(words);
        command.env("VELLUM_STORE", "other");
        Run::of(command.output().expect("it starts"))
    };
    assert_eq!(in_other("init").code, Some(0));
    let run = in_other("backup pull --all");
    assert_eq!(run.code, Some(1), "{what}: {run:?}");
    assert!(
        names.iter().any(|name| run.stderr.contains(name)),
        "{what}: {run:?}"
    );
    let listed = in_other("list");
    assert!(
        !listed.stdout.contains("web") && !listed.stdout.contains("mail"),
        "{what}: {listed:?}"
    );
    assert_eq!(site.sandbox.names(), before);
}

/// A destination that fills up, for a file and for a store.
const FULL: &str = r#"
set -eu
mount -t tmpfs -o size=1m tmpfs "$PWD/small"
fails_as() {
  what=$1; shift
  if "$VELLUM" "$@" 2>stderr; then echo "vellum $* did not fail"; exit 1; else code=$?; fi
  [ $code = 1 ] && grep -q "$what" stderr || { echo "vellum $* ended with $code:"; cat stderr; exit 1; }
}
fails_as small/out.raw backup restore web@first small/out.raw
[ -z "$(ls -A small)" ] || { ls -A small; exit 1; }
echo kept >small/out.raw
fails_as small/out.raw backup restore web@first small/out.raw --force
[ "$(cat small/out.raw)" = kept ]
umount small
mount -t tmpfs -o size=192m tmpfs "$PWD/small"
export VELLUM_STORE=$PWD/small/store
"$VELLUM" -q init
"$VELLUM" -q import web.raw own
cat /dev/zero >small/filler 2>/dev/null || true
fails_as 'full' backup pull mail
[ "$("$VELLUM" list --snapshots --json | tr , '\n' | grep -c '"name"')" = 1 ]
rm small/filler
"$VELLUM" -q compare own web.raw
"$VELLUM" -q check --read-data
"$VELLUM" -q backup pull mail
"$VELLUM" -q compare mail mail.raw
echo all is well
"#;

#[test]
fn a_destination_that_is_full_gets_nothing_half_done() {
    let (_folder, site) = pushed();
    std::fs::create_dir(site.sandbox.path("small")).expect("room");
    let allowed = Command::new("unshare")
        .args(["-rm", "true"])
        .stderr(Stdio::null())
        .status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this machine lets nobody mount a small file system");
        return;
    }
    let environment: Vec<_> = site
        .command("")
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    let mut command = Command::new("unshare");
    command
        .args(["-rm", "sh", "-c", FULL])
        .current_dir(site.sandbox.path(""))
        .envs(environment);
    let run = Run::of(
        command
            .env("VELLUM", VELLUM)
            .stdin(Stdio::null())
            .output()
            .expect("util-linux is there"),
    );
    assert_eq!(run.stdout, "all is well\n", "{run:?}");
}
