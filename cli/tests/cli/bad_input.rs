//! Mistakes of people and other programs: each gets one sentence with the fault and its place, and
//! nothing is changed.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::sandbox::{Run, Sandbox, copy_folder, copy_of_command};

/// A store with image `web`, its snapshots `a` and `b` (pinned), and image `child`.
fn small() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", 1 << 20, 1);
    sandbox.succeed(["import", "disk.raw", "web", "--snapshot", "a"]);
    sandbox.succeed(["snapshot", "take", "web@b"]);
    sandbox.succeed(["pin", "web@b"]);
    sandbox.succeed(["create", "child", "-b", "web@a"]);
    sandbox
}

#[test]
fn each_mistake_is_told_and_changes_nothing() {
    let sandbox = small();
    let vdi = [&[0; 64][..], &0xbeda_107f_u32.to_le_bytes(), &[0; 4096]].concat();
    std::fs::write(sandbox.path("disk.vdi"), vdi).expect("room");
    std::fs::write(
        sandbox.path("polyglot"),
        [b"QFI\xfb\0\0\0\x03", &[0; 502][..], b"\x55\xaa", &[0; 4096]].concat(),
    )
    .expect("room");
    std::fs::write(sandbox.path("broken.qcow2"), b"QFI\xfb\0\0\0\x03").expect("room");
    std::fs::write(sandbox.path("gap.map"), "0 4096 data\n8192 4096 data\n").expect("room");
    std::fs::write(sandbox.path("short.map"), "0 4096 data\n").expect("room");
    let long = "n".repeat(256);
    let before = sandbox.succeed(["tree", "--json"]);
    for (code, command, what) in [
        (1, "import missing.raw new", "missing.raw"),
        (1, "import . new", "."),
        (1, "import disk.raw web", "image web exists already"),
        (
            1,
            "import disk.raw web --update --snapshot a",
            "web@a exists already",
        ),
        (1, "import disk.raw new -b nothing", "\"nothing\""),
        (1, "import disk.raw new -b web@nothing", "\"nothing\""),
        (1, "import disk.raw nothing --update", "\"nothing\""),
        (
            1,
            "import -f vdi disk.vdi new",
            "cannot be read here: version",
        ),
        (1, "import polyglot new", "several things"),
        (1, "import -f qcow2 broken.qcow2 new", "broken.qcow2"),
        (
            1,
            "import disk.raw web --update --change-map missing.map",
            "missing.map",
        ),
        (
            1,
            "import disk.raw web --update --change-map gap.map",
            "gap.map",
        ),
        (
            1,
            "import disk.raw web --update --change-map short.map",
            "disk.raw",
        ),
        (2, &format!("import disk.raw {long}"), "at most 255 bytes"),
        (2, "import disk.raw a/b", "'/'"),
        (2, "import disk.raw a@b", "'@'"),
        (2, "import disk.raw ..", "\"..\""),
        (2, "import disk.raw latest", "\"latest\""),
        (1, "create web 1M", "image web exists already"),
        (1, "create new -b nothing", "\"nothing\""),
        (1, "create new 100P", "longer than any image"),
        (1, "snapshot take web@a", "web@a exists already"),
        (2, "snapshot take web@a/b", "'/'"),
        (1, "snapshot restore web@nothing", "\"nothing\""),
        (1, "snapshot delete web@a web@nothing", "\"nothing\""),
        (1, "snapshot delete web@b", "web@b is pinned"),
        (1, "rm web", "has snapshots (2)"),
        (1, "rm web --with-snapshots", "web@b is pinned"),
        (1, "rm child nothing", "\"nothing\""),
        (1, "rename web child", "image child exists already"),
        (2, "rename web a/b", "'/'"),
        (1, "resize web 4k", "would cut off"),
        (1, "commit web", "was not created from another image"),
        (1, "export nothing out.raw", "\"nothing\""),
        (1, "export web disk.raw", "disk.raw"),
        (1, "export web .", "."),
        (1, "export web missing/out.raw", "missing"),
        (1, "init", "not empty"),
    ] {
        sandbox
            .run(command.split_whitespace())
            .expect_error(code, what);
        assert_eq!(
            sandbox.succeed(["tree", "--json"]),
            before,
            "vellum {command}"
        );
    }
    assert!(!sandbox.path("out.raw").exists());
}

#[test]
fn no_text_reaches_the_terminal_as_a_command() {
    let sandbox = small();
    let evil = "x\u{1b}[31m\u{202e}\r\ny";
    for command in [
        &["info", evil][..],
        &["create", evil, "1M"],
        &["create", "new", evil],
        &["import", evil, "new"],
        &["import", "disk.raw", evil],
        &["export", "web", evil],
        &["tag", "web", evil],
        &["snapshot", "take", &format!("web@{evil}")],
        &["list", "--store", evil],
        &["list", "--units", evil],
        &[evil],
    ] {
        let run = sandbox.run(command);
        let shown = format!("{}{}", run.stdout, run.stderr);
        assert!(!shown.contains(['\u{1b}', '\u{202e}', '\r']), "{run:?}");
    }
}

#[test]
fn paths_need_not_be_text() {
    let sandbox = small();
    let name = OsStr::from_bytes(b"disk\xff\xfe.raw");
    std::fs::copy(sandbox.path("disk.raw"), sandbox.path(name)).expect("room");
    sandbox.succeed([OsStr::new("import"), name, OsStr::new("odd")]);
    sandbox.succeed([OsStr::new("compare"), OsStr::new("odd"), name]);
    let out = OsStr::from_bytes(b"out\xff");
    sandbox.succeed([OsStr::new("export"), OsStr::new("odd"), out]);
    let bytes = |name: &OsStr| std::fs::read(sandbox.path(name)).expect("it is there");
    assert!(bytes(name) == bytes(out));
    let store = OsStr::from_bytes(b"store\xff");
    sandbox.succeed([OsStr::new("--store"), store, OsStr::new("init")]);
    sandbox.succeed([OsStr::new("--store"), store, OsStr::new("list")]);
    let run = sandbox.run([OsStr::new("info"), name]);
    assert_eq!(run.code, Some(2), "{run:?}");
}

#[test]
fn a_store_of_a_newer_format_is_left_alone() {
    let sandbox = small();
    let marker = sandbox.path("store/vellum.store");
    std::fs::write(&marker, "vellum store format 999\n").expect("it is ours");
    for command in ["list", "create new 1M", "gc"] {
        sandbox
            .run(command.split_whitespace())
            .expect_error(1, "has format 999");
    }
    std::fs::write(&marker, "something else\n").expect("it is ours");
    sandbox.run(["list"]).expect_error(1, "vellum.store");
}

#[test]
fn a_damaged_database_is_an_error_and_no_panic() {
    let sandbox = small();
    let files: Vec<OsString> = std::fs::read_dir(sandbox.path("store/database"))
        .expect("a store")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    for (nth, file) in files.iter().enumerate() {
        let store = sandbox.path(format!("copy{nth}"));
        copy_folder(&sandbox.path("store"), &store);
        let path = store.join("database").join(file);
        let mut bytes = std::fs::read(&path).expect("it was copied");
        bytes.truncate(bytes.len() / 2);
        if let Some(byte) = bytes.get_mut(9) {
            *byte ^= 0x55;
        }
        std::fs::write(&path, bytes).expect("it is ours");
        for command in [
            &["list"][..],
            &["export", "web", "-"],
            &["check", "--read-data"],
            &["create", "new", "1M"],
        ] {
            let output = sandbox
                .command(command)
                .env("VELLUM_STORE", &store)
                .output()
                .expect("it starts");
            let good =
                output.stdout == std::fs::read(sandbox.path("disk.raw")).expect("it is there");
            let run = Run::of(output);
            assert!(
                [Some(0), Some(1), Some(3), Some(4)].contains(&run.code),
                "{file:?}: {run:?}"
            );
            let is_wrong_export = command[0] == "export" && run.code == Some(0) && !good;
            assert!(!is_wrong_export, "{file:?}: wrong bytes were exported");
        }
    }
}

/// Root can read everything, so root becomes somebody else for this, in a folder and with a command
/// that everybody may use.
#[test]
fn a_source_that_may_not_be_read_is_told() {
    let sandbox = Sandbox::empty();
    let command = copy_of_command(&sandbox);
    std::fs::write(sandbox.path("secret.raw"), b"secret").expect("room");
    let allow = |name: &str, mode| {
        std::fs::set_permissions(sandbox.path(name), PermissionsExt::from_mode(mode))
            .expect("it is ours");
    };
    allow("secret.raw", 0o000);
    allow("", 0o777);
    let somebody = |args: &[&str]| {
        let words = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"].map(OsStr::new);
        let mut run = if rustix::process::geteuid().is_root() {
            let mut run = Command::new("setpriv");
            run.args(words).arg(&command);
            run
        } else {
            Command::new(&command)
        };
        run.args(args)
            .current_dir(sandbox.path(""))
            .env("VELLUM_STORE", "store")
            .stdin(Stdio::null());
        Run::of(run.output().expect("util-linux is there"))
    };
    assert_eq!(somebody(&["init"]).code, Some(0));
    somebody(&["import", "secret.raw", "new"]).expect_error(1, "Permission denied");
    assert_eq!(somebody(&["list", "-q", "--json"]).stdout, "[]\n");
}
