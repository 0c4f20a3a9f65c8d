//! What the documents promise of this version, held against the command and the manifest.

use std::path::{Path, PathBuf};

use crate::sandbox::Sandbox;

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(project().join(name)).unwrap_or_else(|_| panic!("{name} is there"))
}

/// The value of `name` in the command's own answer, as text.
fn own(name: &str) -> String {
    let answer = Sandbox::empty().succeed(["version", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("an answer is JSON");
    answer[name].to_string().trim_matches('"').to_owned()
}

#[test]
fn no_version_leaves_open_what_it_reads_and_what_changed() {
    let version = own("version");
    let (store, repository) = (own("store_format"), own("repository_format"));
    let upgrades = read("docs/upgrades.md");
    let row = upgrades
        .lines()
        .find(|line| line.starts_with(&format!("| {version} |")))
        .unwrap_or_else(|| panic!("docs/upgrades.md has no row for {version}"));
    let cells: Vec<&str> = row.split('|').map(str::trim).collect();
    assert_eq!((cells[3], cells[5]), (&*store, &*repository), "{row}");
    let golden = project().join(format!("store/tests/golden/store-{store}"));
    assert!(golden.is_dir(), "no golden store of format {store}");
    let changes = read("CHANGELOG.md");
    assert!(changes.contains(&format!("## [{version}]")), "{version}");
}

#[test]
fn the_readme_asks_for_the_compiler_that_the_manifest_needs() {
    let manifest = read("Cargo.toml");
    let wanted = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "))
        .expect("the manifest names a version")
        .trim_matches('"');
    let readme = read("README.md");
    assert!(readme.contains(&format!("Rust {wanted}")), "Rust {wanted}");
    assert!(
        readme.contains(&format!("Rust](https://rustup.rs) {wanted}")),
        "where to get Rust {wanted}"
    );
}
