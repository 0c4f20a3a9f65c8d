//! `import --skip-free`: what a guest does not use is not stored, and every file of it is; what is
//! not certain is refused.

use std::os::unix::fs::FileExt;

use crate::sandbox::{Sandbox, client, client_succeeds};

const MIB: u64 = 1 << 20;
const MARKER: &str = "== deleted long ago, and nobody reads it any more ==";
/// The place of the ext4 in the disk.
const PART_AT: u64 = MIB;
const PART_LEN: u64 = 40 * MIB;

/// A disk of noise with ext4 and swap in partitions; in the ext4 are files, and some were deleted.
fn make_disk(sandbox: &Sandbox) {
    let disk = sandbox.random_file("disk.raw", (64 * MIB) as usize, 1);
    let table = "label: gpt\nstart=2048, size=81920\nstart=90112, size=16384\n";
    std::fs::write(sandbox.path("table"), table).expect("room");
    client_succeeds(sandbox, "sh", &["-c", "sfdisk -q disk.raw <table"]);
    let part = sandbox.random_file("part", PART_LEN as usize, 2);
    client_succeeds(
        sandbox,
        "mke2fs",
        &["-qF", "-t", "ext4", "-E", "nodiscard", "part"],
    );
    let mut script = Vec::new();
    for nth in 0..30 {
        let name = format!("file{nth}");
        let bytes = if nth % 3 == 0 {
            MARKER.repeat(3000).into_bytes()
        } else {
            std::fs::read(sandbox.random_file(&name, 1 << (nth % 17), nth)).expect("made")
        };
        std::fs::write(sandbox.path(&name), bytes).expect("room");
        script.push(format!("write {name} {name}"));
    }
    script.extend((0..30).step_by(3).map(|nth| format!("rm file{nth}")));
    std::fs::write(sandbox.path("script"), script.join("\n")).expect("room");
    client_succeeds(sandbox, "debugfs", &["-w", "-f", "script", "part"]);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(disk)
        .expect("made");
    file.write_all_at(&std::fs::read(part).expect("made"), PART_AT)
        .expect("room");
    sandbox.random_file("part", (8 * MIB) as usize, 3);
    client_succeeds(sandbox, "mkswap", &["part"]);
    let swap = std::fs::read(sandbox.path("part")).expect("made");
    file.write_all_at(&swap, 44 * MIB).expect("room");
}

/// The hashes of all files in the disk's ext4, which its checker finds sound.
fn files_of(sandbox: &Sandbox, disk: &str) -> String {
    let bytes = std::fs::read(sandbox.path(disk)).expect("there");
    let part = &bytes[PART_AT as usize..(PART_AT + PART_LEN) as usize];
    std::fs::write(sandbox.path("checked"), part).expect("room");
    client_succeeds(sandbox, "e2fsck", &["-fn", "checked"]);
    let script = "rm -rf out; mkdir out; debugfs -R 'rdump / out' checked; cd out; \
                  find . -type f | sort | xargs sha256sum";
    client_succeeds(sandbox, "sh", &["-c", script])
}

fn has_marker(sandbox: &Sandbox, disk: &str) -> bool {
    let found = client(sandbox, "grep", &["-qaF", MARKER, disk]);
    found.code == Some(0)
}

#[test]
fn what_no_file_uses_is_not_stored_whatever_the_format() {
    let sandbox = Sandbox::new();
    make_disk(&sandbox);
    let files = files_of(&sandbox, "disk.raw");
    assert_eq!(files.lines().count(), 20);
    let told = sandbox.succeed(["import", "disk.raw", "raw", "--skip-free", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&told).expect("one document");
    let skipped = &told["skipped"];
    assert_eq!(
        skipped["bytes"], skipped["data_bytes"],
        "it was full of noise"
    );
    let parts = skipped["parts"].as_array().expect("a list");
    let kinds: Vec<_> = parts.iter().map(|part| part["kind"].as_str()).collect();
    assert_eq!(kinds, [Some("ext4"), Some("swap"), Some("no partition")]);
    let bytes = |value: &serde_json::Value| value["bytes"].as_u64().expect("a number");
    assert_eq!(parts.iter().map(bytes).sum::<u64>(), bytes(skipped));
    assert!(parts.iter().all(|part| bytes(part) > MIB), "{parts:?}");
    assert!(told["new_bytes"].as_u64().expect("a number") < 64 * MIB - bytes(skipped) + MIB);
    sandbox.succeed(["export", "raw", "out.raw"]);
    assert!(has_marker(&sandbox, "disk.raw") && !has_marker(&sandbox, "out.raw"));
    assert_eq!(files_of(&sandbox, "out.raw"), files);
    for (format, option) in [
        ("qcow2", "qcow2"),
        ("vdi", "vdi"),
        ("vmdk", "vmdk"),
        ("vhdx", "vhdx"),
    ] {
        let name = format!("disk.{format}");
        client_succeeds(
            &sandbox,
            "qemu-img",
            &["convert", "-O", option, "disk.raw", &name],
        );
        let told = sandbox.succeed(["import", &name, format, "--skip-free"]);
        assert!(
            told.contains("0 chunks"),
            "{format}: nothing is new: {told}"
        );
        assert!(
            told.contains("partition 2 (swap): 8 MiB left out"),
            "{told}"
        );
        sandbox.succeed(["compare", format, "out.raw"]);
    }
}

/// An image that had all of it before: what is left out hides that.
#[test]
fn an_update_hides_what_was_stored_before() {
    let sandbox = Sandbox::new();
    make_disk(&sandbox);
    sandbox.succeed(["import", "disk.raw", "web", "--snapshot", "whole"]);
    let told = sandbox.succeed(["import", "disk.raw", "web", "--update", "--skip-free"]);
    assert!(told.contains("left out"), "{told}");
    sandbox.succeed([
        "import",
        "disk.raw",
        "child",
        "-b",
        "web@whole",
        "--skip-free",
    ]);
    for image in ["web", "child"] {
        sandbox.succeed(["export", image, "out.raw", "--force"]);
        assert!(!has_marker(&sandbox, "out.raw"), "{image}");
        assert_eq!(
            files_of(&sandbox, "out.raw"),
            files_of(&sandbox, "disk.raw")
        );
    }
    sandbox.succeed(["export", "web@whole", "out.raw", "--force"]);
    client_succeeds(&sandbox, "cmp", &["out.raw", "disk.raw"]);
}

/// Requires that a command is refused, and that nothing but `base` is there then.
fn refused(sandbox: &Sandbox, words: &str, code: i32, what: &str) {
    sandbox.run(words.split(' ')).expect_error(code, what);
    let names = sandbox.names();
    assert!(names.iter().all(|name| name == "base"), "{names:?}");
}

#[test]
fn what_goes_by_once_or_is_no_whole_disk_is_refused() {
    let sandbox = Sandbox::new();
    make_disk(&sandbox);
    // What a differencing image holds alone is no disk.
    sandbox.succeed(["import", "disk.raw", "base"]);
    let overlay = "create -q -f qcow2 -b disk.raw -F raw top.qcow2";
    let overlay: Vec<&str> = overlay.split(' ').collect();
    client_succeeds(&sandbox, "qemu-img", &overlay);
    let over = "import -f qcow2 top.qcow2 top -b base --skip-free";
    refused(&sandbox, over, 1, "is its parent's");
    for pipe in [
        "import - web --skip-free",
        "import - web --skip-free -- cat disk.raw",
    ] {
        refused(&sandbox, pipe, 2, "a pipe goes by once");
    }
    std::fs::write(sandbox.path("map"), "0 4096 data\n").expect("room");
    let mapped = "import disk.raw base --update --skip-free --change-map map";
    let run = sandbox.run(mapped.split(' '));
    assert!(
        run.code == Some(2) && run.stderr.contains("cannot be used with"),
        "{run:?}"
    );
}

#[test]
fn what_is_not_certain_is_refused_by_name() {
    let sandbox = Sandbox::new();
    make_disk(&sandbox);
    let import = "import disk.raw web --skip-free";
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(sandbox.path("disk.raw"));
    file.and_then(|file| file.write_all_at(&[3], PART_AT + 1024 + 0x3a))
        .expect("room");
    let torn = "partition 1 (ext4): its superblock does not have its checksum";
    refused(&sandbox, import, 1, torn);
    // Errors, as ext4 notes them.
    let script = "dd if=disk.raw of=part bs=1M skip=1 count=40 && debugfs -w -R 'ssv state 3' part \
                  && dd if=part of=disk.raw bs=1M seek=1 conv=notrunc";
    client_succeeds(&sandbox, "sh", &["-c", script]);
    let noted =
        "what disk.raw does not use is not certain: partition 1 (ext4): it has noted errors";
    refused(&sandbox, import, 1, noted);
    // Without the option all of it is stored, as ever.
    sandbox.succeed(["import", "disk.raw", "web"]);
    sandbox.succeed(["compare", "web", "disk.raw"]);
}

/// What a whole qcow2 does not have is zero, also where the image had something before.
#[test]
fn an_update_from_a_whole_qcow2_leaves_nothing_of_the_state_before() {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", MIB as usize, 5);
    sandbox.succeed(["import", "disk.raw", "web"]);
    client_succeeds(
        &sandbox,
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "new.qcow2", "1M"],
    );
    sandbox.succeed(["import", "-f", "qcow2", "new.qcow2", "web", "--update"]);
    sandbox.succeed(["export", "web", "out.raw"]);
    let compared = [
        "compare",
        "-f",
        "raw",
        "-F",
        "qcow2",
        "out.raw",
        "new.qcow2",
    ];
    client_succeeds(&sandbox, "qemu-img", &compared);
}
