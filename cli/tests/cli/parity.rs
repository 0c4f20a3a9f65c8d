//! Tests of parity: damage heals, with a notice; damage that cannot heal is reported.

use std::fs;
use std::path::PathBuf;

use crate::sandbox::Sandbox;

impl Sandbox {
    /// The tables of its store.
    fn tables(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("store/database")).expect("a store");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let mut tables: Vec<PathBuf> = paths
            .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
            .collect();
        tables.sort();
        tables
    }
}

/// Every byte of a file is another.
fn spoil(path: &PathBuf) {
    let bytes: Vec<u8> = fs::read(path)
        .expect("there")
        .iter()
        .map(|byte| !byte)
        .collect();
    fs::write(path, bytes).expect("room");
}

#[test]
fn what_is_damaged_or_gone_heals_with_a_word() {
    let sandbox = Sandbox::empty();
    let told = sandbox.succeed(["init", "--parity", "2%"]);
    assert!(told.contains("parity of 2 %"), "{told}");
    let disk = sandbox.random_file("disk.raw", 300_000, 1);
    sandbox.succeed(["import", "disk.raw", "web"]);
    let status = sandbox.succeed(["parity", "status"]);
    assert!(
        status.contains("0 B in 0 tables") && status.contains("marker are kept"),
        "{status}"
    );
    let mut damages: Vec<PathBuf> = sandbox.tables();
    let named = ["vellum.store", "database/CURRENT", "database/IDENTITY"];
    damages.extend(named.map(|name| sandbox.path("store").join(name)));
    for (nth, path) in damages.iter().enumerate() {
        // The database may have made others of some tables meanwhile.
        if !path.exists() {
            continue;
        }
        if nth % 2 == 0 {
            spoil(path);
        } else {
            fs::remove_file(path).expect("there");
        }
        sandbox.succeed(["export", "web", "out.raw", "--force"]);
        let same =
            fs::read(sandbox.path("out.raw")).expect("there") == fs::read(&disk).expect("there");
        assert!(same, "{}", path.display());
        sandbox.succeed(["parity", "heal"]);
        let check = sandbox.succeed(["check", "--read-data"]);
        assert!(
            check.contains("no errors") && check.contains("parity: "),
            "{check}"
        );
    }
    spoil(&sandbox.tables()[0]);
    let dry = sandbox.run(["parity", "heal", "-n"]);
    assert!(dry.stdout.contains("nothing was changed"), "{dry:?}");
    let run = sandbox.run(["parity", "heal"]);
    assert!(
        run.stdout.contains("everything that is protected is whole"),
        "{run:?}"
    );
}

#[test]
fn too_much_damage_is_told_with_its_files() {
    let sandbox = Sandbox::empty();
    sandbox.succeed(["init", "--parity", "2%"]);
    sandbox.random_file("disk.raw", 300_000, 2);
    sandbox.succeed(["import", "disk.raw", "web"]);
    let tables = sandbox.tables();
    tables
        .iter()
        .for_each(|path| fs::remove_file(path).expect("there"));
    let run = sandbox.run(["parity", "heal"]);
    assert_eq!(run.code, Some(4), "{run:?}");
    assert!(
        run.stdout.contains("damaged beyond what parity can heal"),
        "{run:?}"
    );
}

#[test]
fn parity_comes_and_goes_and_its_cost_is_told() {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", 3_000_000, 3);
    sandbox.succeed(["import", "disk.raw", "web"]);
    assert!(
        sandbox
            .succeed(["parity", "status"])
            .contains("parity is off")
    );
    assert!(!sandbox.succeed(["stats"]).contains("parity"));
    sandbox.succeed(["parity", "add", "5%"]);
    let json = |args: &[&str]| -> serde_json::Value {
        serde_json::from_str(&sandbox.succeed(args)).expect("JSON")
    };
    let status = json(&["parity", "status", "--json"]);
    assert_eq!(status["parity_percent"], 5.0, "{status}");
    assert_eq!(status["tables_unprotected"], 0, "{status}");
    let parity = json(&["stats", "--json"])["parity_bytes"]
        .as_u64()
        .expect("told");
    assert!(
        parity > 2_900_000,
        "of so small a store it is a mirror: {parity}"
    );
    assert!(sandbox.succeed(["stats"]).contains("vellum parity status"));
    sandbox.succeed(["parity", "remove"]);
    assert!(!sandbox.path("store/parity").exists());
    for wrong in ["0%", "0.5%", "101%", "2", "x%", "-1%", "NaN%"] {
        let run = sandbox.run(["parity", "add", wrong]);
        assert_eq!(run.code, Some(2), "{run:?}");
    }
}
