//! Mistyped commands, verb by verb: nothing is changed, and the error says what was meant.
//!
//! Every row is tried in one folder, whose whole state is compared with the one before.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use crate::sandbox::{Run, Sandbox};

/// Verbs that only look: they take shortened names.
const LOOKING: [&str; 28] = [
    "source list",
    "get",
    "list",
    "tree",
    "info",
    "map",
    "diff",
    "compare",
    "export",
    "send",
    "check",
    "stats",
    "measure",
    "report",
    "snapshot list",
    "machine list",
    "machine show",
    "machine snapshot list",
    "machine run-args",
    "machine export",
    "backup list",
    "backup policy list",
    "backup tree",
    "backup diff",
    "backup info",
    "backup verify",
    "backup restore",
    "backup key list",
];
/// Verbs that take no name of what is there, or only look at one to make something new.
const NAMELESS: [&str; 28] = [
    "source add",
    "init",
    "create",
    "clone",
    "receive",
    "parity add",
    "parity heal",
    "parity remove",
    "parity status",
    "repair",
    "gc",
    "serve",
    "manager password",
    "mount",
    "completions",
    "convert",
    "probe",
    "man",
    "version",
    "machine create",
    "machine import",
    "backup init",
    "backup prune",
    "backup mount",
    "backup copy",
    "backup key add",
    "backup key passwd",
    "import",
];

/// Each: a command, and words of the error.
type Rows<'a> = &'a [(&'a str, &'a [&'a str])];

/// Shortened names, where something would be changed, overwritten or deleted.
const SHORTENED: Rows = &[
    ("rm web", &["did you mean web2?"]),
    ("rm -n web", &["did you mean web2?"]),
    ("rm db web", &["did you mean web2?"]),
    ("delete web2@monday", &["did you mean web2@monday-evening?"]),
    ("rm web@monday-evening", &["did you mean web2?"]),
    ("rm web@latest", &["did you mean web2?"]),
    ("rm web --with-snapshots", &["did you mean web2?"]),
    (
        "snapshot delete web2@mon",
        &["did you mean web2@monday-evening?"],
    ),
    ("snapshot rm web@latest", &["did you mean web2?"]),
    (
        "snapshot restore web2@monday",
        &["did you mean web2@monday-evening?"],
    ),
    ("snapshot restore web@latest", &["did you mean web2?"]),
    (
        "snapshot restore web2@mon --discard",
        &["did you mean web2@monday-evening?"],
    ),
    ("snapshot take web@x", &["did you mean web2?"]),
    ("import --update b.raw web", &["did you mean web2?"]),
    ("import --chain --update b.raw web", &["did you mean web2?"]),
    (
        "import --update b.raw tria --snapshot x",
        &["did you mean trial?"],
    ),
    ("resize web +1M", &["did you mean web2?"]),
    ("resize --shrink web 4k", &["did you mean web2?"]),
    ("rename web other", &["did you mean web2?"]),
    (
        "rename web2@mon other",
        &["did you mean web2@monday-evening?"],
    ),
    ("rename web2@monday-evening web@x", &["did you mean web2?"]),
    ("modify web --type readonly", &["did you mean web2?"]),
    ("reset kios", &["did you mean kiosk?"]),
    ("commit tria", &["did you mean trial?"]),
    ("flatten tria", &["did you mean trial?"]),
    ("rebase tria -b db", &["did you mean trial?"]),
    ("rebase trial -b d", &["did you mean db?"]),
    (
        "rebase -u trial -b web2@mon",
        &["did you mean web2@monday-evening?"],
    ),
    ("tag web +x", &["did you mean web2?"]),
    ("tag web2@mon -x", &["did you mean web2@monday-evening?"]),
    ("forget web --keep-last 1", &["did you mean web2?"]),
    ("forget", &["nothing says which snapshots to keep"]),
    ("forget web2 --keep-last 0", &["keeps nothing"]),
    (
        "forget web2@monday-evening --keep-last 1",
        &["is a snapshot"],
    ),
    ("describe web text", &["did you mean web2?"]),
    ("set web owner=anna", &["did you mean web2?"]),
    ("set owner=anna web2", &["`vellum set web2 owner=anna`"]),
    ("set web2 owner", &["owner=VALUE"]),
    ("get web2 owner", &["has no property owner"]),
    ("pin web", &["did you mean web2?"]),
    ("pin --off web2@mon", &["did you mean web2@monday-evening?"]),
    ("machine delete vm", &["did you mean vm10?"]),
    ("machine rm vm --with-snapshots", &["did you mean vm10?"]),
    ("machine config vm b.raw", &["did you mean vm10?"]),
    ("machine config vm --none", &["did you mean vm10?"]),
    ("machine start vm", &["did you mean vm10?"]),
    ("machine stop vm", &["did you mean vm10?"]),
    ("machine add-disk vm db", &["did you mean vm10?"]),
    ("machine add-disk vm10 d", &["did you mean db?"]),
    ("machine remove-disk vm web2", &["did you mean vm10?"]),
    ("machine remove-disk vm10 web", &["did you mean web2?"]),
    ("machine snapshot take vm@x", &["did you mean vm10?"]),
    (
        "machine snapshot restore vm10@fri",
        &["did you mean vm10@friday?"],
    ),
    (
        "machine snapshot restore vm@friday --discard",
        &["did you mean vm10?"],
    ),
    (
        "machine snapshot delete vm10@fri",
        &["did you mean vm10@friday?"],
    ),
    ("machine snapshot rm vm@latest", &["did you mean vm10?"]),
    ("nbd web -k s.sock", &["did you mean web2?"]),
    ("backup push repo web", &["did you mean web2?"]),
    ("backup push repo --machine vm", &["did you mean vm10?"]),
    ("backup forget repo web", &["did you mean web2 ("]),
    ("backup forget repo web2 web", &["did you mean web2 ("]),
    ("backup forget repo web2@monday", &["no point"]),
    (
        "backup forget repo web --keep-last 1",
        &["did you mean web2?"],
    ),
    ("backup forget repo web2@20", &["could mean"]),
    ("backup pull repo web --as again", &["did you mean web2 ("]),
    ("backup pull repo web2@mon --as again", &["no point"]),
    ("backup key remove repo 0", &["no key"]),
    (
        "backup policy set repo web --keep-last 1",
        &["did you mean web2?"],
    ),
    ("backup policy remove repo web", &["did you mean web2?"]),
    ("backup prune repo --fence 0", &["no session"]),
    ("source remove rep", &["rep"]),
];

/// Other mistakes on purpose.
const OTHERS: Rows = &[
    (
        "rm nothing",
        &["no image is called \"nothing\"", "vellum list"],
    ),
    (
        "manager --listen 0.0.0.0:0",
        &["reached from other machines", "ssh -L"],
    ),
    (
        "manager --listen 0.0.0.0:0 --tls-certs .",
        &["--password-file"],
    ),
    ("manager --password-file b.raw", &["--tls-certs"]),
    ("manager --host-name nas.example", &["--tls-certs"]),
    (
        "manager --tls-certs . --password-file b.raw --host-name https://nas",
        &["no name of a server"],
    ),
    (
        "manager --tls-certs . --password-file b.raw",
        &["server-cert.pem", "qemu and nbdkit"],
    ),
    (
        "manager password b.raw",
        &["mode 0644", "only a password file is replaced"],
    ),
    ("manager password", &["<FILE>"]),
    ("manager pasword secret", &["unrecognized subcommand"]),
    (
        "serve --manager=0 --manager-password-file b.raw",
        &["--tls-certs"],
    ),
    (
        "serve --manager-host-name nas",
        &["--manager-password-file"],
    ),
    ("manager --files nowhere", &["--files takes a folder"]),
    ("serve a.raw --manager", &["cannot be used with"]),
    ("rm db nothing", &["no image is called \"nothing\""]),
    ("rm vm10", &["no image is called \"vm10\""]),
    ("machine delete web2", &["no machine is called \"web2\""]),
    ("machine delete vm10", &["has snapshots (1)"]),
    ("machine config vm10@friday b.raw", &["machine's snapshot"]),
    ("machine snapshot delete vm10", &["names no snapshot"]),
    ("snapshot delete web2", &["names no snapshot", "vellum rm"]),
    ("snapshot restore web2", &["names no snapshot"]),
    (
        "snapshot restore web2@monday-evening --discard --save-current-as x",
        &["cannot be used"],
    ),
    (
        "snapshot restore web2@monday-evening --save-current-as monday-evening",
        &["exists already"],
    ),
    (
        "machine snapshot restore vm10@friday --save-current-as friday",
        &["exists already"],
    ),
    ("flatten web2@monday-evening", &["never changes"]),
    ("resize web2 4k", &["would cut off", "--shrink"]),
    ("create web2 1M", &["exists already"]),
    ("rename db web2", &["exists already"]),
    ("import b.raw web2", &["exists already", "--update"]),
    ("import b.raw new --size 1M", &["--size is for pipes"]),
    (
        "import -f qcow2 - new",
        &["a pipe goes by once", "to a file first"],
    ),
    ("init", &["not empty"]),
    (
        "promote web2",
        &["unrecognized subcommand", "vellum flatten web2"],
    ),
    ("release web2", &["vellum pin --off web2"]),
    ("destroy web2", &["vellum rm -n web2"]),
    ("destroy -nv web2@a%b", &["vellum rm -n web2@a..@b"]),
    (
        "rm web2@monday-evening%friday",
        &["vellum rm -n web2@monday-evening..@friday"],
    ),
    ("list hdds", &["no image is called", "vellum list"]),
    (
        "snapshot -d friday web2",
        &["vellum snapshot delete -n web2@friday"],
    ),
    ("snap rm web2@friday", &["vellum snapshot rm web2@friday"]),
    ("rm web2@friday..@monday-evening", &["older than the first"]),
    ("rm web2@monday-evening..@sunday", &["no snapshot called"]),
    (
        "rm web2@monday-evening..@fri",
        &["did you mean web2@friday?"],
    ),
    ("rm web2@monday-evening..db", &["no snapshot called"]),
    ("machine delet vm10", &["unrecognized subcommand"]),
    (
        "import x.vdi new",
        &["vdi image cannot be read here: version"],
    ),
    ("import fixed.vhd new", &["vhd image"]),
    ("import x.gz new", &["a gzip file", "unpack"]),
    ("import x.xz new", &["an xz file"]),
    ("import x.bz2 new", &["a bzip2 file"]),
    ("import x.zst new", &["a zstd file"]),
    ("import x.zip new", &["a zip archive"]),
    ("import x.7z new", &["a 7z archive"]),
    ("import x.ova new", &["not a valid ova image"]),
    ("import x.vma new", &["vma image", "version 0"]),
    ("import x.ovf new", &["XML"]),
    ("import x.stream new", &["vellum send", "vellum receive"]),
    ("import both new", &["several things", "-f raw"]),
    (
        "import --update x.qcow2 web2",
        &["qcow2", "web2 is imported from raw"],
    ),
    (
        "import --update x.gz web2",
        &["gzip", "web2 is imported from raw"],
    ),
    ("import --update x.qcow2 db", &["not noted", "-f"]),
    (
        "import --chain --update x.qcow2 web2",
        &["qcow2", "web2 is imported from raw"],
    ),
    ("import --chain - new", &["a pipe goes by once", "topmost"]),
    ("import --chain b.raw web2", &["exists already", "--update"]),
    ("import --chain store new", &["store", "no image file"]),
    ("import b.raw new --backing-map a=b", &["--chain"]),
    ("import --chain b.raw new --backing-map a", &["OLD=NEW"]),
    ("import --chain b.raw new -b web2", &["cannot be used with"]),
    ("export --chain out", &["IMAGE"]),
    ("export web2 --chain out -O raw", &["raw", "-O qcow2"]),
    ("export web2 --chain store", &["store is not empty"]),
    ("export web2@friday --chain out", &["a snapshot"]),
    ("machine import b.raw", &["no text"]),
    ("machine import x.ovf", &["describes no machine"]),
    ("machine import x.ova", &["ova"]),
    ("machine export vm store", &["store is not empty"]),
    ("machine export vm b.raw -O ova", &["is there already"]),
    ("import --update b.raw q", &["q is imported from qcow2"]),
    ("compare web2 x.gz", &["gzip"]),
    ("measure x.gz", &["gzip"]),
    ("export web2 x.QED", &["by its name it is qed", "-O raw"]),
    ("export web2 new.qcow", &["by its name it is qcow"]),
    ("export web2 new.raw.gz", &["by its name it is gz"]),
    (
        "backup restore repo web2 new.ova",
        &["by its name it is ova"],
    ),
    ("export web2 there", &["already exists", "--force"]),
    ("export web2 link", &["already exists", "--force"]),
    ("export web2 folder", &["directory"]),
    ("export --force web2 folder", &["directory"]),
    ("export web2 missing/new", &["No such file"]),
    ("export --force web2 round", &["symbolic links"]),
    (
        "backup restore repo web2 there",
        &["there is a file already", "--force"],
    ),
    (
        "backup restore repo web2 link",
        &["there is a file already"],
    ),
    ("backup restore repo web2 folder", &["directory"]),
    ("report --html there", &["already exists", "--force"]),
    ("tree --svg link", &["already exists", "--force"]),
    ("report --html folder --force", &["directory"]),
    ("backup init repo", &["holds a repository already"]),
    ("backup forget repo", &["neither rules nor points"]),
    ("backup push repo", &["nothing is named"]),
    ("backup pull repo web2", &["exists already"]),
];

/// Names of which shortened ones mean something, files of each kind, and a repository.
fn folder() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.random_file("a.raw", 1 << 20, 1);
    sandbox.random_file("b.raw", 1 << 20, 2);
    for line in [
        "import a.raw web2 --snapshot monday-evening",
        "create trial -b web2@monday-evening",
        "create db 1M",
        "create kiosk 1M",
        "modify kiosk --type immutable",
        "machine create vm10",
        "machine add-disk vm10 web2",
        "machine snapshot take vm10@friday",
    ] {
        sandbox.succeed(line.split(' '));
    }
    std::fs::write(sandbox.path("password"), "secret\n").expect("room");
    succeed(&sandbox, "backup init repo");
    succeed(&sandbox, "backup push repo --all");
    succeed(&sandbox, "source add repo --unseen");
    make_files(&sandbox);
    sandbox.succeed(["import", "-q", "x.qcow2", "q"]);
    sandbox
}

fn make_files(sandbox: &Sandbox) {
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(sandbox.path(name), bytes).expect("room");
    };
    let long = |at: usize, magic: &[u8]| {
        let mut bytes = vec![0; 64 << 10];
        bytes[at..at + magic.len()].copy_from_slice(magic);
        bytes
    };
    for (name, at, magic) in [
        ("x.vdi", 64, &b"\x7f\x10\xda\xbe"[..]),
        ("fixed.vhd", (64 << 10) - 512, b"conectix"),
        ("x.gz", 0, b"\x1f\x8b\x08\0"),
        ("x.xz", 0, b"\xfd7zXZ\0"),
        ("x.bz2", 0, b"BZh91AY&SY"),
        ("x.zst", 0, b"\x28\xb5\x2f\xfd"),
        ("x.zip", 0, b"PK\x03\x04"),
        ("x.7z", 0, b"7z\xbc\xaf\x27\x1c"),
        ("x.ova", 257, b"ustar\0"),
        ("x.vma", 0, b"VMA\0"),
        ("x.ovf", 0, b"<?xml version"),
        ("x.stream", 0, b"VlmStrm1"),
    ] {
        write(name, &long(at, magic));
    }
    let mut both = long(0, b"QFI\xfb\0\0\0\x03");
    both[510..512].copy_from_slice(b"\x55\xaa");
    write("both", &both);
    write("x.qcow2", &qcow2(0));
    write("there", b"mine");
    std::fs::create_dir(sandbox.path("folder")).expect("room");
    link(sandbox, "there", "link");
    link(sandbox, "turn", "round");
    link(sandbox, "round", "turn");
}

fn link(sandbox: &Sandbox, to: &str, name: &str) {
    std::os::unix::fs::symlink(to, sandbox.path(name)).expect("room");
}

/// An empty qcow2 image of 64 KiB, version 2, that says it has `snapshots` snapshots.
fn qcow2(snapshots: u32) -> Vec<u8> {
    let mut bytes = vec![0; 3 << 16];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"QFI\xfb");
    put(4, &2_u32.to_be_bytes());
    put(20, &16_u32.to_be_bytes());
    put(24, &(64_u64 << 10).to_be_bytes());
    put(36, &1_u32.to_be_bytes());
    put(40, &(1_u64 << 16).to_be_bytes());
    put(60, &snapshots.to_be_bytes());
    bytes
}

fn run(sandbox: &Sandbox, line: &str) -> Run {
    run_with(sandbox, line, &[])
}

fn run_with(sandbox: &Sandbox, line: &str, input: &[u8]) -> Run {
    let mut child = sandbox
        .command(line.split(' '))
        .env("VELLUM_PASSWORD_FILE", sandbox.path("password"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    // It may not want all of it.
    let _ = child.stdin.take().expect("it is piped").write_all(input);
    Run::of(child.wait_with_output().expect("it ends"))
}

fn succeed(sandbox: &Sandbox, line: &str) -> Run {
    let run = run(sandbox, line);
    assert_eq!(run.code, Some(0), "{line}: {run:?}");
    run
}

/// All that a mistake could change: what the store and the repository have, and the files.
fn state(sandbox: &Sandbox, with_repository: bool) -> Vec<String> {
    let mut state = vec![
        sandbox.succeed(["list", "--snapshots", "--json"]),
        sandbox.succeed(["machine", "show", "vm10", "--json"]),
        sandbox.succeed(["machine", "snapshot", "list", "--json"]),
        sandbox.succeed(["source", "list", "--json"]),
    ];
    if with_repository {
        state.push(succeed(sandbox, "backup list repo --json").stdout);
        state.push(succeed(sandbox, "backup key list repo --json").stdout);
    }
    state.push(format!("{:?}", files(&sandbox.path(""))));
    state
}

/// Names beside the store, and what they are or hold.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let named = entries.map(|entry| {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("it is there");
        let held = if kind.is_file() {
            let bytes = std::fs::read(entry.path()).expect("it is there");
            format!("{} bytes, {:?}", bytes.len(), &bytes[..bytes.len().min(16)])
        } else {
            format!("{kind:?}")
        };
        (entry.file_name().to_string_lossy().into_owned(), held)
    });
    let ours = ["store", "repo", "cache", "state"];
    named
        .filter(|(name, _)| !ours.contains(&name.as_str()))
        .collect()
}

#[test]
fn no_mistake_changes_anything_and_each_is_told() {
    let sandbox = folder();
    let before = state(&sandbox, true);
    for (line, words) in SHORTENED.iter().chain(OTHERS) {
        let run = run(&sandbox, line);
        assert!(!matches!(run.code, Some(0) | None), "{line}: {run:?}");
        for word in *words {
            assert!(
                run.stderr.contains(word),
                "{line}: {word:?} is not in {run:?}"
            );
        }
        let tips = run.stderr.lines().filter(|line| line.contains("tip:"));
        let is_harmful = |tip: &str| {
            ["'rm'", "'delete'", "'restore'"]
                .iter()
                .any(|verb| tip.contains(verb))
        };
        assert!(!tips.into_iter().any(is_harmful), "{line}: {run:?}");
        let with_repository = line.starts_with("backup");
        let mut expected = before.clone();
        if !with_repository {
            expected.drain(4..6);
        }
        assert_eq!(state(&sandbox, with_repository), expected, "vellum {line}");
    }
    assert!(SHORTENED.len() + OTHERS.len() >= 60);
}

/// A new verb must say whether it changes what it names.
#[test]
fn every_verb_that_changes_something_is_tried_with_a_shortened_name() {
    let sandbox = Sandbox::empty();
    let mut waiting = vec![String::new()];
    let mut verbs = BTreeSet::new();
    while let Some(verb) = waiting.pop() {
        let words = verb.split_whitespace().chain(["--help"]);
        let help = sandbox.succeed(words);
        let inner: Vec<&str> = help
            .lines()
            .skip_while(|line| *line != "Commands:")
            .skip(1)
            .take_while(|line| !line.is_empty())
            .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| *name != "help")
            .collect();
        if inner.is_empty() {
            verbs.insert(verb.trim().to_owned());
        }
        waiting.extend(inner.into_iter().map(|name| format!("{verb} {name}")));
    }
    for verb in &verbs {
        let is_tried = SHORTENED
            .iter()
            .any(|(line, _)| line.starts_with(&format!("{verb} ")));
        let is_harmless = LOOKING.contains(&verb.as_str()) || NAMELESS.contains(&verb.as_str());
        assert!(is_tried || is_harmless, "is {verb} harmless? {verbs:?}");
    }
}

#[test]
fn what_just_looks_takes_shortened_names() {
    let sandbox = folder();
    for line in [
        "info web",
        "list web",
        "map web2@mon",
        "diff web web2@mon",
        "compare web a.raw",
        "tag web",
        "describe web",
        "get web",
        "snapshot list web",
        "machine show vm",
        "machine show vm@fri",
        "machine snapshot list vm",
        "machine run-args vm --socket s",
        "machine export vm out",
        "create copy -b web2@mon",
        "export web out.raw",
        "backup list repo web",
        "backup restore repo web again.raw",
        "backup diff repo web web2",
    ] {
        succeed(&sandbox, line);
    }
}

#[test]
fn latest_is_a_whole_name_and_what_it_meant_is_told() {
    let sandbox = folder();
    sandbox.succeed(["snapshot", "take", "db@one"]);
    sandbox.succeed(["snapshot", "take", "db@two"]);
    let told = sandbox.succeed(["snapshot", "restore", "db@latest"]);
    assert!(told.starts_with("db is as db@two now"), "{told}");
    let told = sandbox.succeed(["rm", "db@latest"]);
    assert!(told.contains("deleted db@two"), "{told}");
    succeed(&sandbox, "backup push repo db");
    let told = succeed(&sandbox, "backup forget repo db@latest").stdout;
    assert!(told.contains("db@one"), "{told}");
}

#[test]
fn going_back_keeps_what_was() {
    let sandbox = folder();
    let first = sandbox.succeed(["snapshot", "restore", "web2@monday-evening"]);
    assert!(
        first.contains("it was as web2@friday, so nothing had to be kept"),
        "{first}"
    );
    sandbox.succeed(["import", "--update", "-q", "b.raw", "web2"]);
    let kept = sandbox.succeed(["snapshot", "restore", "web2@monday-evening"]);
    assert!(
        kept.contains("what it was is web2@before-restore-1"),
        "{kept}"
    );
    let compare = |node: &str, file: &str| sandbox.succeed(["compare", "-q", node, file]);
    compare("web2@before-restore-1", "b.raw");
    compare("web2", "a.raw");
    // Twice by the same words: nothing is lost the second time either, and nothing is kept twice.
    let again = sandbox.succeed(["snapshot", "restore", "web2@monday-evening"]);
    assert!(again.contains("nothing had to be kept"), "{again}");
    sandbox.succeed(["import", "--update", "-q", "b.raw", "web2"]);
    let kept = sandbox.succeed(["snapshot", "restore", "web2@monday-evening", "--json"]);
    let kept: serde_json::Value = serde_json::from_str(&kept).expect("JSON");
    assert_eq!(kept["kept"], "web2@before-restore-2");
    assert_eq!(kept["saved"], true);
    sandbox.succeed(["import", "--update", "-q", "b.raw", "web2"]);
    let gone = sandbox.succeed(["snapshot", "restore", "web2@monday-evening", "--discard"]);
    assert!(gone.contains("what it was is gone"), "{gone}");
    assert!(
        !sandbox
            .names()
            .contains(&"web2@before-restore-3".to_owned())
    );
}

#[test]
fn a_machine_that_goes_back_keeps_what_it_was() {
    let sandbox = folder();
    let nothing = sandbox.succeed(["machine", "snapshot", "restore", "vm10@friday"]);
    assert!(
        nothing.contains("it was as vm10@friday, so nothing had to be kept"),
        "{nothing}"
    );
    sandbox.succeed(["import", "--update", "-q", "b.raw", "web2"]);
    // The number is free for the machine and for its disks.
    sandbox.succeed(["snapshot", "take", "web2@before-restore-1"]);
    sandbox.succeed(["machine", "add-disk", "vm10", "db"]);
    let kept = sandbox.succeed(["machine", "snapshot", "restore", "vm10@friday"]);
    assert!(
        kept.contains("what it was is vm10@before-restore-2"),
        "{kept}"
    );
    sandbox.succeed(["compare", "-q", "web2", "a.raw"]);
    let back = sandbox.succeed(["machine", "snapshot", "restore", "vm10@before-restore-2"]);
    assert!(back.contains("it was as vm10@friday"), "{back}");
    sandbox.succeed(["compare", "-q", "web2", "b.raw"]);
    let show = sandbox.succeed(["machine", "show", "vm10"]);
    assert!(show.contains("db"), "{show}");
    let gone = sandbox.succeed(["machine", "snapshot", "restore", "vm10@friday", "--discard"]);
    assert!(gone.contains("what it was is gone"), "{gone}");
}

/// A guest owns its disk's bytes, not their meaning.
#[test]
fn the_format_is_a_property_of_the_image() {
    let sandbox = folder();
    let mut disk = std::fs::read(sandbox.path("a.raw")).expect("it is there");
    for header in [&qcow2(0)[..512], b"\x1f\x8b\x08\0", b"KDMV", b"vhdxfile"] {
        disk[..header.len()].copy_from_slice(header);
        std::fs::write(sandbox.path("disk.raw"), &disk).expect("room");
        let run = run(&sandbox, "import --update -q disk.raw web2");
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(run.stderr.contains("is read as raw"), "it is told: {run:?}");
        assert_eq!(sandbox.run(["compare", "web2", "disk.raw"]).code, Some(0));
        let run = run_with(&sandbox, "import --update -q - web2", &disk);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(run.stderr.contains("is read as raw"), "it is told: {run:?}");
        // An import as a new image needs the format.
        assert_ne!(run_with(&sandbox, "import - new", &disk).code, Some(0));
    }
    let info = sandbox.succeed(["info", "q"]);
    assert!(info.contains("imported from: qcow2"), "{info}");
    sandbox.succeed(["import", "--update", "-q", "x.qcow2", "q"]);
    sandbox.succeed(["create", "child", "-b", "web2"]);
    let info = sandbox.succeed(["info", "child"]);
    assert!(info.contains("imported from: raw"), "{info}");
    // Another format from now on, if a person says so.
    sandbox.succeed(["import", "--update", "-f", "raw", "b.raw", "q"]);
    sandbox.succeed(["import", "--update", "a.raw", "q"]);
}

#[test]
fn nothing_inside_is_left_behind_without_a_word() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("x.qcow2"), qcow2(2)).expect("room");
    let run = run(&sandbox, "import -q x.qcow2 x");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("2 internal snapshots"), "{run:?}");
}

#[test]
fn what_comes_through_a_pipe_is_looked_at_too() {
    let sandbox = folder();
    let before = state(&sandbox, false);
    for (name, words) in [
        ("x.qcow2", "qcow2"),
        ("x.gz", "gzip"),
        ("fixed.vhd", "vhd"),
        ("x.ova", "tar"),
        ("both", "several things"),
    ] {
        let bytes = std::fs::read(sandbox.path(name)).expect("it is there");
        for (line, words) in [
            ("import - new", words),
            ("import --update - web2", words),
            ("import --update - q", "qcow2"),
        ] {
            let run = run_with(&sandbox, line, &bytes);
            run.expect_error(1, words);
            assert_eq!(state(&sandbox, false), before, "{line} < {name}");
        }
        let run = run_with(&sandbox, "import -q -f raw - new", &bytes);
        assert_eq!(run.code, Some(0), "{run:?}");
        let out = sandbox
            .command(["export", "-q", "new", "-"])
            .output()
            .expect("it starts");
        assert!(out.stdout == bytes, "{name}");
        sandbox.succeed(["rm", "-q", "new"]);
    }
}
