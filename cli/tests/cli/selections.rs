//! Many images and snapshots at once: ranges that are deleted, and lists that are filtered, sorted
//! and made for scripts.

use crate::sandbox::Sandbox;

/// Image `web` with snapshots `a` to `e`, each of which adds a chunk to the one before; `child`
/// stands on `c`.
fn sandbox_with_snapshots() -> Sandbox {
    let sandbox = Sandbox::new();
    let path = sandbox.random_file("disk.raw", 1 << 20, 1);
    let mut disk = std::fs::read(&path).expect("it is there");
    for (nth, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        fastrand::Rng::with_seed(nth as u64 + 2).fill(&mut disk[nth * 65536..][..(nth + 1) * 4096]);
        std::fs::write(&path, &disk).expect("room");
        let update: &[&str] = if nth == 0 { &[] } else { &["--update"] };
        let line = ["import", "-q", "disk.raw", "web", "--snapshot", name];
        sandbox.succeed(line.iter().chain(update));
    }
    sandbox.succeed(["create", "-q", "child", "-b", "web@c"]);
    sandbox
}

#[test]
fn a_range_of_snapshots_goes_after_a_preview_and_all_else_stays() {
    let sandbox = sandbox_with_snapshots();
    let before = sandbox.names();
    let preview = sandbox.succeed(["rm", "-n", "web@b..@d"]);
    for line in [
        "would delete web@b",
        "would delete web@c",
        "would delete web@d",
        "child would stay as it is",
        "web@e would stay as it is",
        "vellum gc would then give back",
    ] {
        assert!(preview.contains(line), "{line}: {preview}");
    }
    assert_eq!(preview.matches("would delete").count(), 3, "{preview}");
    assert_eq!(sandbox.names(), before);
    sandbox.succeed(["pin", "web@c"]);
    sandbox.run(["rm", "web@b..@d"]).expect_error(1, "pinned");
    assert_eq!(sandbox.names(), before, "all or nothing");
    sandbox.succeed(["pin", "--off", "web@c"]);
    sandbox.succeed(["snapshot", "delete", "web@b..@d", "web@c"]);
    assert_eq!(sandbox.names(), ["child", "web", "web@a", "web@e"]);
    sandbox.succeed(["compare", "-q", "web@e", "disk.raw"]);
    sandbox.succeed(["rm", "web@a..@latest"]);
    assert_eq!(sandbox.names(), ["child", "web"]);
}

/// The figure of a preview is what is held by nothing else.
#[test]
fn a_preview_tells_the_bytes_that_are_given_back() {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", 8 << 20, 1);
    sandbox.succeed(["import", "-q", "disk.raw", "web"]);
    sandbox.succeed(["create", "-q", "child", "-b", "web"]);
    let preview = |node: &str| -> serde_json::Value {
        let answer = sandbox.succeed(["rm", "-n", node, "--json"]);
        serde_json::from_str(&answer).expect("JSON")
    };
    assert_eq!(preview("web")["freed_bytes"], 0, "child has it all");
    sandbox.succeed(["rm", "-q", "child"]);
    let told = preview("web")["freed_bytes"].as_u64().expect("a number");
    assert!((8 << 20..9 << 20).contains(&told), "{told}");
    let done = sandbox.succeed(["rm", "web", "--json"]);
    assert!(!done.contains("freed_bytes"), "{done}");
}

#[test]
fn a_list_has_the_rows_and_columns_that_are_asked_for() {
    let sandbox = sandbox_with_snapshots();
    sandbox.succeed(["tag", "web@b", "+nightly", "+good"]);
    sandbox.succeed(["tag", "web@d", "+nightly"]);
    for (line, shown) in [
        ("list -H -o name", "child\nweb\n"),
        ("list -H -o name,size web", "web\t1048576\nweb@a\t1048576\n"),
        (
            "list --snapshots --tag nightly -H -o name",
            "web@b\nweb@d\n",
        ),
        (
            "list --snapshots --tag nightly --tag good -Ho name,marks",
            "web@b\t+good +nightly\n",
        ),
        (
            "snapshot list web -H -o name,added -s added",
            "web@b\t8192\nweb@c\t12288\n",
        ),
        (
            "snapshot list web -H -o name -s added --reverse",
            "web@a\nweb@e\nweb@d\nweb@c\nweb@b\n",
        ),
        (
            "snapshot list web -H -o name,parent -s name",
            "web@a\t\nweb@b\tweb@a\n",
        ),
        ("list --older-than 1h -H", ""),
        (
            "list --snapshots -o name,size -s name",
            "NAME    SIZE\nchild  1 MiB\nweb    1 MiB\n",
        ),
    ] {
        let answer = sandbox.succeed(line.split(' '));
        assert!(answer.starts_with(shown), "{line}: {answer:?}");
        let is_whole = shown.is_empty() || line.contains("--tag") || line.ends_with("--reverse");
        assert!(!is_whole || answer == shown, "{line}: {answer:?}");
    }
    let created = sandbox.succeed(["list", "-H", "-o", "created", "child"]);
    assert!(created.trim().ends_with('Z'), "{created}");
    let sorted = sandbox.succeed(["list", "--snapshots", "-s", "added", "--reverse", "--json"]);
    assert!(sorted.starts_with("[{\"name\":\"web@a\""), "{sorted}");
    for line in [
        "list -o colour",
        "list --reverse",
        "list --older-than soon",
        "list -s",
    ] {
        assert_eq!(sandbox.run(line.split(' ')).code, Some(2), "{line}");
    }
}

/// Retention of the store itself: the same verdicts before and when it is done, images by
/// themselves, and nothing but snapshots goes.
#[test]
fn what_no_rule_keeps_is_forgotten_as_it_was_foretold() {
    let sandbox = Sandbox::empty();
    sandbox.succeed(["init", "--quiet"]);
    for image in ["web", "db"] {
        sandbox.random_file("disk.raw", 100_000, image.len() as u64);
        sandbox.succeed(["import", "disk.raw", image, "--quiet"]);
        for snapshot in ["one", "two", "three"] {
            let name = format!("{image}@{snapshot}");
            sandbox.succeed(["snapshot", "take", &name, "--quiet"]);
        }
    }
    sandbox.succeed(["pin", "web@one", "--quiet"]);
    sandbox.succeed(["tag", "--quiet", "db@one", "+nightly"]);
    let told = sandbox.succeed(["forget", "-n", "--keep-last", "1"]);
    assert!(
        told.contains("3 snapshots would stay, 3 would go") && told.contains("give back"),
        "{told}"
    );
    assert_eq!(sandbox.names().len(), 8, "nothing went");
    sandbox.succeed(["forget", "web", "--keep-last", "1", "--quiet"]);
    let mut left = sandbox.names();
    left.sort();
    assert_eq!(
        left,
        [
            "db",
            "db@one",
            "db@three",
            "db@two",
            "web",
            "web@one",
            "web@three"
        ]
    );
    // Only what has the tag is looked at, and the newest of that stays.
    let told = sandbox.succeed(["forget", "--tag", "nightly", "--keep-last", "1"]);
    assert!(told.contains("kept 1 snapshot, deleted 0"), "{told}");
    let told = sandbox.succeed(["forget", "--keep-last", "1"]);
    assert!(told.contains("kept 3 snapshots, deleted 2"), "{told}");
    let again = sandbox.succeed(["forget", "--keep-last", "1"]);
    assert!(again.contains("kept 3 snapshots, deleted 0"), "{again}");
    sandbox.succeed(["check", "--read-data", "--quiet"]);
}
