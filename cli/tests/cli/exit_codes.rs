//! The meaning of each exit code: scripts depend on it.

use std::io::Write;
use std::process::Stdio;

use crate::sandbox::{Run, Sandbox};

#[test]
fn every_exit_code_says_what_the_table_says() {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", 1 << 20, 1);
    sandbox.random_file("other.raw", 1 << 20, 2);
    sandbox.succeed(["import", "disk.raw", "web", "--snapshot", "a"]);
    sandbox.succeed(["create", "child", "-b", "web@a"]);
    for (code, command) in [
        (0, "list"),
        (0, "--help"),
        (0, "--version"),
        (0, "snapshot list web"),
        (0, "diff web web@a"),
        (0, "compare web disk.raw"),
        (0, "check"),
        (1, "info nothing"),
        (1, "snapshot take web@a"),
        (1, "create web 1M"),
        (1, "compare web other.raw"),
        (2, "compare web missing.raw"),
        (2, "compare nothing disk.raw"),
        (2, "diff web nothing"),
        (2, "diff nothing web"),
        (10, "diff web web@a --store nowhere"),
        (2, ""),
        (2, "frobnicate"),
        (2, "create a/b 1M"),
        (2, "create new"),
        (2, "create new 1GB"),
        (2, "create new 99999999999999999999"),
        (2, "resize web -2M"),
        (2, "snapshot take web"),
        (2, "snapshot delete web"),
        (2, "flatten web@a"),
        (2, "rename web a@b"),
        (2, "tag web plain"),
        (2, "check --subset 8/7"),
        (2, "check --subset 0/7"),
        (2, "import disk.raw new --change-map map"),
        (2, "import disk.raw new -f hdd"),
        (2, "import --size 5 disk.raw new"),
        (2, "import disk.raw new -- cat"),
        (2, "import disk.raw web --update -b web"),
        (2, "list --json --output human"),
        (2, "init --chunk-size 5K"),
        (2, "init --chunk-size 64K --frame-size 96K"),
        (2, "init --compression gzip"),
        (2, "init --compression zstd:23"),
        (10, "list --store nowhere"),
        (10, "gc --store disk.raw"),
        // A repository that is not there needs no password.
        (10, "backup list nowhere --password-file missing"),
        (10, "backup forget nowhere web --key-file missing"),
    ] {
        let run = sandbox.run(command.split_whitespace());
        assert_eq!(run.code, Some(code), "vellum {command}: {run:?}");
    }
}

#[test]
fn a_difference_of_two_images_exits_with_1() {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", 1 << 20, 1);
    sandbox.random_file("other.raw", 1 << 20, 2);
    sandbox.succeed(["import", "disk.raw", "a"]);
    sandbox.succeed(["import", "other.raw", "b"]);
    let run = sandbox.run(["diff", "a", "b"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(1), ""), "{run:?}");
    let quiet = sandbox.run(["diff", "-q", "a", "b"]);
    assert_eq!((quiet.code, quiet.stdout.as_str()), (Some(1), ""));
}

#[test]
fn errors_in_json_carry_their_exit_code() {
    let sandbox = Sandbox::new();
    for (code, command) in [
        (1, "info nothing --json"),
        (2, "create new 1GB --json"),
        (2, "--output=json snapshot take web"),
        (2, "--output json-pretty frobnicate"),
        (10, "list --output-format json --store nowhere"),
    ] {
        let run = sandbox.run(command.split_whitespace());
        let error: serde_json::Value =
            serde_json::from_str(&run.stderr).unwrap_or_else(|error| panic!("{error} in {run:?}"));
        assert_eq!(
            (run.code, error["code"].as_i64()),
            (Some(code), Some(code.into())),
            "{run:?}"
        );
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|message| !message.contains('\n')),
            "{run:?}"
        );
        assert_eq!(run.stdout, "");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let sandbox = Sandbox::new();
    sandbox.succeed(["create", "web", "1M"]);
    for nth in 0..40 {
        sandbox.succeed([
            "snapshot",
            "take",
            &format!("web@{nth}-{}", "long".repeat(50)),
        ]);
    }
    let mut child = sandbox
        .command(["list", "--snapshots"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    let run = Run::of(child.wait_with_output().expect("it ends"));
    assert!([Some(0), Some(141)].contains(&run.code), "{run:?}");
    assert_eq!(run.stderr, "");
}

#[test]
fn an_answer_that_cannot_be_written_is_an_error() {
    let sandbox = Sandbox::new();
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("Linux has it");
    let output = sandbox
        .command(["list"])
        .stdout(full)
        .output()
        .expect("it starts");
    Run::of(output).expect_error(1, "No space left");
}

#[test]
fn the_environment_is_checked_like_options() {
    let sandbox = Sandbox::new();
    for (name, value, code) in [
        ("VELLUM_UNITS", "si", 0),
        ("VELLUM_UNITS", "", 0),
        ("VELLUM_UNITS", "miles", 2),
        ("VELLUM_PROGRESS_FPS", "0", 0),
        ("VELLUM_PROGRESS_FPS", "often", 2),
        ("VELLUM_PROGRESS_FPS", "inf", 2),
        ("VELLUM_STORE", "nowhere", 10),
    ] {
        let output = sandbox
            .command(["list"])
            .env(name, value)
            .output()
            .expect("it starts");
        assert_eq!(Run::of(output).code, Some(code), "{name}={value}");
    }
    let output = sandbox
        .command(["init", "--store", "new"])
        .env("VELLUM_COMPRESSION", "brotli")
        .output()
        .expect("it starts");
    assert_eq!(Run::of(output).code, Some(2));
}

#[test]
fn what_a_pipe_brings_is_stored() {
    let sandbox = Sandbox::new();
    let bytes = b"not a whole sector";
    let mut child = sandbox
        .command(["import", "-", "piped"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    child
        .stdin
        .take()
        .expect("it has one")
        .write_all(bytes)
        .expect("it reads");
    assert!(child.wait().expect("it ends").success());
    assert_eq!(sandbox.succeed(["export", "piped", "-"]).as_bytes(), bytes);
}
