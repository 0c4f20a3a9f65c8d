//! Tests of a store with one damaged table: what can be read is read, what cannot is reported, and
//! nothing says that all is well.

use std::path::{Path, PathBuf};

use crate::sandbox::{Run, Sandbox, copy_folder};
use crate::server::Served;

const FAMILIES: [&str; 8] = [
    "frames", "headers", "index", "layers", "pages", "names", "meta", "copies",
];
const DISK_LEN: usize = 1 << 20;

/// A kind of damage to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// A bit of its first block.
    Flip,
    Zeros,
    Deletion,
}

/// Two images with a snapshot each, behind some small ones: so many tables that RocksDB asks only
/// those that may have a key. (Of up to three it asks all, as it does not look at their bounds.)
fn original() -> Sandbox {
    let sandbox = Sandbox::new();
    for nth in 0..4 {
        sandbox.random_file(format!("old{nth}.raw"), 8 << 10, 20 + nth);
        sandbox.succeed(["import", &format!("old{nth}.raw"), &format!("old{nth}")]);
    }
    for (nth, name) in ["web", "mail"].into_iter().enumerate() {
        sandbox.random_file(format!("{name}.raw"), DISK_LEN, nth as u64 + 1);
        sandbox.succeed(["import", &format!("{name}.raw"), name, "--snapshot", "mon"]);
    }
    sandbox.random_file("new.raw", 300 << 10, 9);
    sandbox
}

/// The largest table of `family` in `store`.
fn table(store: &Path, family: &str) -> PathBuf {
    let name = format!("name{family}");
    let tables = std::fs::read_dir(store.join("database")).expect("a database");
    tables
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "sst"))
        .filter(|path| {
            let bytes = std::fs::read(path).expect("it reads");
            bytes
                .windows(name.len())
                .any(|part| part == name.as_bytes())
        })
        .max_by_key(|path| path.metadata().map_or(0, |metadata| metadata.len()))
        .unwrap_or_else(|| panic!("no table of {family}"))
}

fn inflict(harm: Harm, table: &Path) {
    match harm {
        Harm::Deletion => std::fs::remove_file(table).expect("it is there"),
        Harm::Zeros | Harm::Flip => {
            let mut bytes = std::fs::read(table).expect("it reads");
            let at = 200.min(bytes.len() / 4);
            match harm {
                Harm::Zeros => bytes.fill(0),
                _ => bytes[at] ^= 1,
            }
            std::fs::write(table, bytes).expect("room");
        }
    }
}

/// A copy of the original's store with one table harmed; what is run there.
struct Harmed<'s> {
    sandbox: &'s Sandbox,
    store: String,
    what: String,
}

impl Harmed<'_> {
    fn run(&self, words: &str) -> Run {
        let mut command = self.sandbox.command(words.split_whitespace());
        command.env("VELLUM_STORE", &self.store);
        Run::of(command.output().expect("it starts"))
    }

    /// Checks that every view of a damaged store is right.
    fn look(&self, harm: Harm) {
        let Self { sandbox, what, .. } = self;
        let check = self.run("check --read-data --json");
        assert_eq!(check.code, Some(4), "{what}: {check:?}");
        let list = self.run("list --snapshots --json");
        assert_eq!(list.code, Some(0), "{what}: {list:?}");
        let mut whole = 0;
        let names = [
            "web", "web@mon", "mail", "mail@mon", "old0", "old1", "old2", "old3",
        ];
        for name in names {
            assert!(
                list.stdout.contains(&format!("\"{name}\"")),
                "{what}: {list:?}"
            );
            whole += usize::from(self.exported(name, &check));
        }
        let (families, all) = (["frames", "headers", "pages"], names.len());
        let may_lose = families.iter().any(|family| what.contains(family));
        assert!(
            may_lose || whole == all,
            "{what}: only {whole} of {all} can be exported"
        );
        assert!(
            harm != Harm::Flip || whole > 0,
            "{what}: one bit takes one image at most, with its snapshot"
        );
        let push = self.run("backup push ./repository --all");
        let expected = if whole == all { 0 } else { 3 };
        assert!(
            push.code == Some(expected) || (whole == 0 && push.code == Some(1)),
            "{what}: {push:?}"
        );
        std::fs::remove_dir_all(sandbox.path("repository")).expect("it is ours");
    }

    /// True if `name` can be exported; if not, the range is named in the error, and the rest of it
    /// can.
    fn exported(&self, name: &str, check: &Run) -> bool {
        let (sandbox, what) = (self.sandbox, &self.what);
        let disk = name.split('@').next().unwrap_or_default();
        let good = std::fs::read(sandbox.path(format!("{disk}.raw"))).expect("it is ours");
        let run = self.run(&format!("export {name} out.raw --force"));
        if run.code == Some(0) {
            let bytes = std::fs::read(sandbox.path("out.raw")).expect("it was written");
            assert!(bytes == good, "{what}: wrong bytes in {name}");
            return true;
        }
        assert!(
            run.code == Some(1) && run.stderr.contains(&format!("(image {name}")),
            "{what}: {run:?}"
        );
        assert!(
            check.stdout.contains(&format!("\"name\":\"{name}\"")),
            "{what}: {name} is hit, and not named: {check:?}"
        );
        for file in ["rest.raw", "rest.vdi"] {
            self.rest_is_right(name, file, &good);
        }
        false
    }

    /// Requires that an export of what can be read to `file` lists what it left out, and has all
    /// else.
    fn rest_is_right(&self, name: &str, file: &str, good: &[u8]) {
        let (sandbox, what) = (self.sandbox, &self.what);
        let run = self.run(&format!("export {name} {file} --holes --force --json"));
        assert_eq!(run.code, Some(3), "{what}: {run:?}");
        let summary = run.stdout.lines().last().unwrap_or_default();
        let summary: serde_json::Value = serde_json::from_str(summary).expect("JSON");
        let read = self.run(&format!("convert {file} read.raw --force"));
        assert_eq!(read.code, Some(0), "{what}: {read:?}");
        let mut rest = std::fs::read(sandbox.path("read.raw")).expect("it was written");
        assert_eq!(rest.len(), good.len());
        let mut at = 0;
        for left in summary["left_out"].as_array().expect("a list") {
            let number = |field: &str| left[field].as_u64().expect("a number") as usize;
            let (start, end) = (number("start"), number("start") + number("length"));
            assert!(at <= start && end <= good.len(), "{what}: {summary}");
            assert!(
                rest[start..end].iter().all(|byte| *byte == 0),
                "{what}: {summary}"
            );
            rest[start..end].copy_from_slice(&good[start..end]);
            at = end;
        }
        assert!(rest == good, "{what}: what was not left out is right");
    }

    /// True if it can be written: then it stays so, and says what is wrong.
    fn is_writable(&self) -> bool {
        let (sandbox, what) = (self.sandbox, &self.what);
        let good = std::fs::read(sandbox.path("new.raw")).expect("it is ours");
        for nth in 0..7 {
            let run = self.run(&format!("import new.raw new{nth}"));
            if nth == 0 && run.code == Some(1) {
                assert!(run.stderr.contains("vellum repair"), "{what}: {run:?}");
                return false;
            }
            assert_eq!(run.code, Some(0), "{what}: import {nth}: {run:?}");
        }
        for words in ["snapshot take new3@x", "rm new5"] {
            let run = self.run(words);
            assert_eq!(run.code, Some(0), "{what}: {words}: {run:?}");
        }
        // Without all maps and all headers nobody knows what is dead: nothing is deleted then.
        let gc = self.run("gc");
        let is_unknown = ["headers", "pages"]
            .iter()
            .any(|family| what.contains(family));
        let is_told = gc.code == Some(1) && gc.stderr.contains("vellum repair");
        assert!(
            gc.code == Some(0) || is_unknown && is_told,
            "{what}: gc: {gc:?}"
        );
        let run = self.run("export new6 new-out.raw --force");
        assert_eq!(run.code, Some(0), "{what}: {run:?}");
        assert!(std::fs::read(sandbox.path("new-out.raw")).expect("it is there") == good);
        true
    }
}

#[test]
fn one_damaged_table_takes_no_more_than_what_only_it_has() {
    let sandbox = original();
    for family in FAMILIES {
        for harm in [Harm::Flip, Harm::Zeros, Harm::Deletion] {
            let store = format!("{family}-{harm:?}");
            copy_folder(&sandbox.path("store"), &sandbox.path(&store));
            inflict(harm, &table(&sandbox.path(&store), family));
            let repository = sandbox.run(["backup", "init", "./repository", "--no-encryption"]);
            assert_eq!(repository.code, Some(0), "{repository:?}");
            let harmed = Harmed {
                sandbox: &sandbox,
                what: store.clone(),
                store,
            };
            harmed.look(harm);
            let is_writable = harmed.is_writable();
            assert!(
                is_writable || harm != Harm::Flip,
                "{}: a bit stops writing",
                harmed.what
            );
            std::fs::remove_dir_all(sandbox.path(&harmed.store)).expect("it is ours");
        }
    }
}

#[test]
fn a_store_that_cannot_be_written_is_served_to_be_read() {
    let sandbox = original();
    copy_folder(&sandbox.path("store"), &sandbox.path("later"));
    let later = |words: &[&str]| {
        let mut command = sandbox.command(words);
        command.env("VELLUM_STORE", "later");
        assert!(command.output().expect("it starts").status.success());
    };
    later(&["snapshot", "take", "web@tue"]);
    // The count of what was acknowledged, and a database that lost some of it.
    let commits = ["later/commits", "store/commits"].map(|name| sandbox.path(name));
    std::fs::copy(&commits[0], &commits[1]).expect("room");
    let served = Served::start(&sandbox);
    let copied = std::process::Command::new("nbdcopy")
        .args([&served.uri("web@mon"), "-"])
        .output()
        .expect("libnbd's tools are there");
    assert!(copied.stdout == std::fs::read(sandbox.path("web.raw")).expect("it is ours"));
    let refused = sandbox.run(["create", "new", "1M"]);
    assert_eq!(refused.code, Some(11), "{refused:?}");
    served.kill();
    let json = sandbox.run(["list", "--json"]);
    let warning: serde_json::Value = serde_json::from_str(&json.stderr).expect("JSON");
    assert_eq!(warning["message_type"], "warning");
    serde_json::from_str::<serde_json::Value>(&json.stdout).expect("the list is JSON still");
}

/// Writes of a guest meanwhile are neither called damaged nor lost.
#[test]
fn a_scrub_beside_a_guest_finds_nothing() {
    let sandbox = original();
    sandbox.succeed(["create", "guest", "1M"]);
    let served = Served::start(&sandbox);
    let uri = served.uri("guest");
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for disk in ["web.raw", "mail.raw", "web.raw", "mail.raw"] {
                let disk = sandbox.path(disk);
                let copied = std::process::Command::new("nbdcopy")
                    .args(["--flush", disk.to_str().expect("a plain name"), &uri])
                    .status();
                assert!(copied.expect("libnbd's tools are there").success());
            }
        });
        let mut rounds = 0;
        while rounds == 0 || !writing.is_finished() {
            let run = sandbox.run(["check", "--scrub"]);
            assert_eq!(run.code, Some(0), "{run:?}");
            rounds += 1;
        }
    });
    sandbox.succeed(["check", "--scrub"]);
    served.stop();
    sandbox.succeed(["compare", "guest", "mail.raw"]);
    sandbox.succeed(["check", "--read-data"]);
}

/// The log of a server that was killed: one bit is put right, more takes the end of history, and
/// what falls back is named.
#[test]
fn a_damaged_log_shows_the_present_or_names_what_falls_back() {
    let sandbox = Sandbox::new();
    sandbox.succeed(["create", "g", "1M"]);
    let served = Served::start(&sandbox);
    for nth in 1..=4 {
        let disk = sandbox.random_file(format!("{nth}.raw"), DISK_LEN, nth);
        let copied = std::process::Command::new("nbdcopy")
            .args([
                "--flush",
                disk.to_str().expect("a plain name"),
                &served.uri("g"),
            ])
            .status();
        assert!(copied.expect("libnbd's tools are there").success());
        sandbox.succeed(["snapshot", "take", &format!("g@s{nth}")]);
    }
    served.kill();
    let logs = std::fs::read_dir(sandbox.path("store/database")).expect("a database");
    let logs = logs.map(|entry| entry.expect("an entry").path());
    let log = logs
        .filter(|path| path.extension().is_some_and(|kind| kind == "log"))
        .max_by_key(|path| path.metadata().map_or(0, |metadata| metadata.len()))
        .expect("a killed server leaves its log");
    let whole = std::fs::read(&log).expect("it reads");
    let middle = whole.len() / 2;
    let damaged = |len: usize| {
        let mut bytes = whole.clone();
        bytes[middle..middle + len]
            .iter_mut()
            .for_each(|byte| *byte ^= 4);
        std::fs::write(&log, bytes).expect("room");
        let run = sandbox.run(["export", "g", "out.raw", "--force"]);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(run.stderr.starts_with("warning: "), "{run:?}");
        let bytes = std::fs::read(sandbox.path("out.raw")).expect("it was written");
        let is =
            |nth| std::fs::read(sandbox.path(format!("{nth}.raw"))).is_ok_and(|disk| disk == bytes);
        (1..=4).find(|nth| is(*nth)).expect("a state of its own")
    };
    assert_eq!(
        (damaged(1), sandbox_names(&sandbox)),
        (4, 5),
        "one bit takes nothing"
    );
    let shown = damaged(64);
    assert!(shown < 4 && sandbox_names(&sandbox) < 5, "state {shown}");
    let check = sandbox.run(["check", "--json"]);
    assert_eq!(check.code, Some(4), "{check:?}");
    for name in ["g", "g@s4"] {
        let named = format!("\"name\":\"{name}\"");
        assert!(
            check.stdout.contains(&named),
            "{name} falls back: {check:?}"
        );
    }
}

fn sandbox_names(sandbox: &Sandbox) -> usize {
    sandbox.names().len()
}

/// A timer's scrub: bounded, resumed, and told of.
#[test]
fn a_scrub_goes_on_from_command_to_command() {
    let sandbox = original();
    let scrubbed = |words: &str, code| {
        let run = sandbox.run(words.split_whitespace());
        assert_eq!(run.code, Some(code), "{run:?}");
        let line = run.stdout.lines().last().unwrap_or_default();
        serde_json::from_str::<serde_json::Value>(line).expect("JSON")
    };
    let whole = scrubbed("check --scrub --json", 0);
    assert_eq!(
        (&whole["round_ended"], &whole["chunks_read"]),
        (&true.into(), &520.into())
    );
    let total = whole["bytes_read"].as_u64().expect("a number");
    let (mut read, mut runs) = (0, 0);
    loop {
        let part = scrubbed("check --scrub --rate 1M --for 1s --json", 0);
        read += part["bytes_read"].as_u64().expect("a number");
        runs += 1;
        if part["round_ended"] == true {
            break;
        }
    }
    assert!(
        runs > 1 && read == total,
        "{runs} runs read {read} of {total}"
    );
    let stats: serde_json::Value =
        serde_json::from_str(&sandbox.succeed(["stats", "--json"])).expect("JSON");
    assert_eq!(stats["scrub"]["rounds"], 2);
    assert!(stats["scrub"]["chunks_read"].is_string() && stats["scrub"]["parity_read"].is_null());
    let metrics = sandbox.succeed(["report", "--prometheus=-"]);
    assert!(metrics.contains("\nvellum_scrub_rounds 2\n"), "{metrics}");
    let flipped = table(&sandbox.path("store"), "frames");
    inflict(Harm::Flip, &flipped);
    let found = scrubbed("check --scrub --json", 4);
    assert_eq!(
        found["findings"].as_array().map(Vec::len),
        Some(1),
        "{found}"
    );
    assert!(
        found["findings"][0]["hits"][0]["name"].is_string(),
        "{found}"
    );
}
