//! Files that are written: where, whose they are, and who may read them; and on which clock times
//! are shown.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Stdio;

use crate::sandbox::{Run, Sandbox, VELLUM, can_trace, client};

/// A store with image `web` of `a.raw`, and a repository with it that needs no password.
fn folder() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.random_file("a.raw", 1 << 20, 1);
    sandbox.succeed(["import", "-q", "a.raw", "web", "--snapshot", "s"]);
    sandbox.succeed(["backup", "init", "-q", "repo", "--no-encryption"]);
    sandbox.succeed(["backup", "push", "-q", "repo", "web"]);
    sandbox
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").mode() & 0o7777
}

/// Every way in which a disk leaves, to a file `TARGET`.
const WAYS_OUT: [&str; 2] = [
    "export -q web TARGET --force",
    "backup restore -q repo web TARGET --force",
];

fn write(sandbox: &Sandbox, way: &str, target: &str) -> Run {
    let words = way
        .split(' ')
        .map(|word| if word == "TARGET" { target } else { word });
    sandbox.run(words)
}

fn is_the_disk(sandbox: &Sandbox, name: &str) -> bool {
    let bytes = |name: &str| std::fs::read(sandbox.path(name)).expect("it is there");
    bytes(name) == bytes("a.raw")
}

#[test]
fn what_was_stored_is_for_its_owner_only() {
    let sandbox = folder();
    for path in ["store", "store/database", "repo"] {
        assert_eq!(mode(&sandbox.path(path)) & 0o077, 0, "{path}");
    }
    for file in [
        "store/vellum.store",
        "store/lock",
        "store/commits",
        "repo/vellum.repository",
    ] {
        assert_eq!(mode(&sandbox.path(file)) & 0o077, 0, "{file}");
    }
    for way in WAYS_OUT {
        assert_eq!(write(&sandbox, way, "out.raw").code, Some(0));
        assert_eq!(mode(&sandbox.path("out.raw")) & 0o077, 0, "{way}");
        std::fs::remove_file(sandbox.path("out.raw")).expect("it is ours");
    }
}

/// Allows the group to read and write all of it.
fn open_to_group(path: &Path) {
    let is_folder = path.is_dir();
    let mode = if is_folder { 0o770 } else { 0o660 };
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("it is ours");
    if is_folder {
        for entry in std::fs::read_dir(path).expect("a folder") {
            open_to_group(&entry.expect("an entry").path());
        }
    }
}
/// The group's read and search permissions of each file and folder.
fn group_modes(path: &Path, found: &mut Vec<u32>) {
    for entry in std::fs::read_dir(path).expect("a folder") {
        let path = entry.expect("an entry").path();
        found.push(mode(&path) & 0o050);
        if path.is_dir() {
            group_modes(&path, found);
        }
    }
}

#[test]
fn a_repository_that_was_opened_to_others_stays_so() {
    let sandbox = folder();
    open_to_group(&sandbox.path("repo"));
    sandbox.random_file("a.raw", 1 << 20, 2);
    sandbox.succeed(["import", "--update", "-q", "a.raw", "web"]);
    sandbox.succeed(["backup", "push", "-q", "repo", "web"]);
    let mut found = Vec::new();
    group_modes(&sandbox.path("repo"), &mut found);
    assert!(found.iter().all(|mode| mode & 0o040 != 0), "{found:?}");
}

#[test]
fn a_file_that_is_replaced_stays_whose_it_was() {
    let sandbox = folder();
    let is_root = rustix::process::geteuid().is_root();
    let target = sandbox.path("out.raw");
    for way in WAYS_OUT {
        for mode in [0o600, 0o640, 0o664, 0o400] {
            std::fs::write(&target, "old").expect("room");
            std::fs::set_permissions(&target, PermissionsExt::from_mode(mode)).expect("it is ours");
            let owner = if is_root {
                65_534
            } else {
                rustix::process::geteuid().as_raw()
            };
            chown(&target, Some(owner), None).expect("root may");
            let run = write(&sandbox, way, "out.raw");
            assert_eq!(run.code, Some(0), "{run:?}");
            let found = std::fs::metadata(&target).expect("it is there");
            assert_eq!((found.mode() & 0o7777, found.uid()), (mode, owner), "{way}");
            assert!(is_the_disk(&sandbox, "out.raw"), "{way}");
            std::fs::remove_file(&target).expect("it is ours");
        }
    }
}

#[test]
fn a_link_that_a_person_named_is_followed_and_stays() {
    let sandbox = folder();
    std::fs::create_dir(sandbox.path("inner")).expect("room");
    for way in WAYS_OUT {
        std::fs::write(sandbox.path("inner/real"), "old").expect("room");
        for (link, to) in [
            ("link", "inner/real"),
            ("dangling", "inner/new"),
            ("twice", "link"),
        ] {
            symlink(to, sandbox.path(link)).expect("room");
        }
        for link in ["link", "dangling", "twice"] {
            let run = write(&sandbox, way, link);
            assert_eq!(run.code, Some(0), "{way} {link}: {run:?}");
            assert!(sandbox.path(link).is_symlink(), "{way}: {link}");
            assert!(is_the_disk(&sandbox, link), "{way}: {link}");
        }
        for name in ["link", "dangling", "twice", "inner/real", "inner/new"] {
            std::fs::remove_file(sandbox.path(name)).expect("it is there");
        }
    }
    assert_eq!(
        std::fs::read_dir(sandbox.path("inner"))
            .expect("a folder")
            .count(),
        0
    );
}

/// `/dev/stdout` is a link to a link: as root it could be replaced.
#[test]
fn standard_output_has_other_names() {
    let sandbox = folder();
    symlink("/proc/self/fd/1", sandbox.path("so")).expect("room");
    for way in WAYS_OUT {
        for name in ["/dev/stdout", "/dev/fd/1", "so"] {
            let words = way
                .split(' ')
                .map(|word| if word == "TARGET" { name } else { word });
            let words: Vec<&str> = words.filter(|word| *word != "-q").collect();
            let file = std::fs::File::create(sandbox.path("o.raw")).expect("room");
            let output = sandbox
                .command(&words)
                .stdout(file)
                .output()
                .expect("it starts");
            assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
            assert!(is_the_disk(&sandbox, "o.raw"), "{words:?}");
            // Messages do not go into the pipe.
            let piped = sandbox.command(&words).output().expect("it starts");
            let disk = std::fs::read(sandbox.path("a.raw")).expect("it is there");
            assert!(piped.stdout == disk, "{words:?}");
        }
    }
    assert!(sandbox.path("so").is_symlink());
}

#[test]
fn an_open_file_is_not_guessed_about() {
    let sandbox = folder();
    for way in WAYS_OUT {
        let line = format!(
            "exec 9>>kept; echo mine >&9; exec \"$0\" {}",
            way.replace("TARGET", "/dev/fd/9")
        );
        let mut command = std::process::Command::new("sh");
        command
            .args(["-c", &line, crate::sandbox::VELLUM])
            .current_dir(sandbox.path(""))
            .env("VELLUM_STORE", "store")
            .env("XDG_CACHE_HOME", sandbox.path("cache"))
            .env("XDG_STATE_HOME", sandbox.path("state"))
            .stdin(Stdio::null());
        let run = Run::of(command.output().expect("sh is there"));
        run.expect_error(1, "open already");
    }
    let kept = std::fs::read_to_string(sandbox.path("kept")).expect("it is there");
    assert_eq!(kept, "mine\nmine\n");
}

#[test]
fn reports_and_manual_pages_follow_links_too() {
    let sandbox = folder();
    symlink("page", sandbox.path("link")).expect("room");
    std::fs::write(sandbox.path("page"), "old").expect("room");
    std::fs::set_permissions(sandbox.path("page"), PermissionsExt::from_mode(0o604))
        .expect("it is ours");
    for line in ["report --html link --force", "tree --svg link --force"] {
        sandbox.succeed(line.split(' '));
        assert!(sandbox.path("link").is_symlink(), "{line}");
        assert_eq!(mode(&sandbox.path("page")), 0o604, "{line}");
        assert!(
            std::fs::read(sandbox.path("page"))
                .expect("there")
                .starts_with(b"<"),
            "{line}"
        );
    }
    sandbox.succeed("report --html /dev/null".split(' '));
    std::fs::create_dir(sandbox.path("man")).expect("room");
    symlink("../page", sandbox.path("man/vellum.1")).expect("room");
    sandbox.succeed(["man", "man"]);
    assert!(sandbox.path("man/vellum.1").is_symlink());
    assert_eq!(mode(&sandbox.path("page")), 0o604);
    assert!(sandbox.path("man/vellum-backup-push.1").exists());
}

#[test]
fn a_planted_link_in_a_store_is_refused_by_every_command() {
    let sandbox = folder();
    std::fs::write(sandbox.path("victim"), "mine").expect("room");
    for name in ["lock", "commits", "reserve", "control", "vellum.store"] {
        let (path, kept) = (sandbox.path(format!("store/{name}")), sandbox.path("kept"));
        if path.exists() {
            std::fs::rename(&path, &kept).expect("room");
        }
        symlink(sandbox.path("victim"), &path).expect("room");
        for line in ["list", "create new 1M", "gc", "export web out.raw"] {
            let run = sandbox.run(line.split(' '));
            assert_ne!(run.code, Some(0), "{name}: {line}");
            assert!(
                run.stderr.contains("it is a link"),
                "{name}: {line}: {run:?}"
            );
        }
        let victim = std::fs::read_to_string(sandbox.path("victim")).expect("it is there");
        assert_eq!(victim, "mine", "{name}");
        std::fs::remove_file(&path).expect("it is ours");
        if kept.exists() {
            std::fs::rename(&kept, &path).expect("room");
        }
    }
    symlink("store", sandbox.path("way")).expect("room");
    sandbox.succeed(["list", "--store", "way"]);
}

#[test]
fn times_are_shown_on_one_clock() {
    let sandbox = folder();
    let shown = |line: &str, zone: &str| {
        let mut command = sandbox.command(line.split(' '));
        let run = Run::of(command.env("TZ", zone).output().expect("it starts"));
        assert_eq!(run.code, Some(0), "{line}: {run:?}");
        run.stdout
    };
    for line in [
        "list web",
        "snapshot list",
        "info web@s",
        "backup list repo",
        "backup tree repo",
        "backup info repo web@s",
        "backup forget repo -n --keep-last 1",
        "report --keep-last 1",
    ] {
        let there = shown(line, "<+0530>-5:30");
        assert!(there.contains("+05:30"), "{line}: {there}");
        assert!(
            !there.contains("Z\n") && !there.contains("Z "),
            "{line}: {there}"
        );
        let utc = shown(&format!("{line} --utc"), "<+0530>-5:30");
        assert!(
            (utc.contains("+00:00") || utc.contains("(UTC)")) && !utc.contains("+05:30"),
            "{line}: {utc}"
        );
    }
    for line in [
        "list web --json",
        "backup list repo --json",
        "info web --json",
    ] {
        let json = shown(line, "<+0530>-5:30");
        assert!(
            json.contains("Z\"") && !json.contains("+05:30"),
            "{line}: {json}"
        );
    }
}

/// NFS, SMB and FUSE cannot rename without replacing, and some cannot give a file two names.
#[test]
fn a_place_that_cannot_rename_without_replacing_takes_files_all_the_same() {
    if !can_trace() {
        return;
    }
    let sandbox = folder();
    let calls = [
        "inject=renameat2:error=EINVAL",
        "inject=link,linkat:error=EPERM",
    ];
    for (nth, count) in [(0, 1), (1, 2)] {
        for (way, words) in ["export -q web", "backup restore -q repo web"]
            .iter()
            .enumerate()
        {
            let target = format!("out-{nth}-{way}.raw");
            let run = |target: &str| {
                let mut traced = vec!["-f", "-o", "trace.txt"];
                for call in &calls[..count] {
                    traced.extend(["-e", call]);
                }
                traced.push(VELLUM);
                traced.extend(words.split(' '));
                traced.push(target);
                client(&sandbox, "strace", &traced)
            };
            let ended = run(&target);
            assert_eq!(ended.code, Some(0), "{calls:?} {count}: {ended:?}");
            assert!(is_the_disk(&sandbox, &target));
            std::fs::write(sandbox.path("other"), "other").expect("room");
            run("other").expect_error(1, "other");
            let left = std::fs::read(sandbox.path("other")).expect("it is there");
            assert_eq!(left, b"other");
        }
    }
    assert!(!sandbox.names().iter().any(|name| name.contains("partial")));
}

/// A system call of a trace, with the lines on which it began and ended.
struct TracedCall {
    begun: usize,
    ended: usize,
    text: String,
}

/// The calls of a trace. One that another thread's cuts in two ("<unfinished ...>", "<... fsync
/// resumed>") is put together again.
fn traced_calls(trace: &str) -> Vec<TracedCall> {
    let mut cut = BTreeMap::new();
    let mut calls = Vec::new();
    for (ended, line) in trace.lines().enumerate() {
        let (thread, call) = line.split_once(' ').unwrap_or((line, ""));
        if let Some(beginning) = call.strip_suffix(" <unfinished ...>") {
            cut.insert(thread, (ended, beginning));
            continue;
        }
        let (begun, text) = match call.split_once(" resumed>") {
            Some((_, end)) => {
                let (begun, beginning) = cut.remove(thread).unwrap_or((ended, ""));
                (begun, format!("{beginning}{end}"))
            }
            None => (ended, call.to_owned()),
        };
        calls.push(TracedCall { begun, ended, text });
    }
    calls
}

#[test]
fn calls_that_are_cut_in_two_are_put_together() {
    let trace = "7 fsync(6</a> <unfinished ...>\n8 mkdir(\"/b\", 0700) = 0\n\
                 7 <... fsync resumed>) = 0\n";
    let calls = traced_calls(trace);
    let texts: Vec<&str> = calls.iter().map(|call| call.text.as_str()).collect();
    assert_eq!(texts, ["mkdir(\"/b\", 0700) = 0", "fsync(6</a>) = 0"]);
    assert_eq!((calls[1].begun, calls[1].ended), (0, 2));
    assert_eq!(synced(texts[1]), Some("/a"));
}

/// The path of a folder that a line of a trace says was made: `mkdirat(6</a>, "b", 0700) = 0`.
fn made(line: &str) -> Option<String> {
    let call = line.strip_suffix("= 0")?;
    let (base, rest) = match call.split_once("mkdirat(") {
        Some((_, rest)) => (rest.split_once('<')?.1.split_once('>')?.0, rest),
        None => ("", call.split_once("mkdir(")?.1),
    };
    let name = rest.split('"').nth(1)?;
    Some(Path::new(base).join(name).display().to_string())
}

/// The path that a line of a trace says was synced: `fsync(6</a>) = 0`.
fn synced(line: &str) -> Option<&str> {
    let call = line.strip_suffix("= 0")?;
    Some(
        call.split_once("fsync(")?
            .1
            .split_once('<')?
            .1
            .split_once('>')?
            .0,
    )
}

/// A sync of any file makes names durable on most file systems, so that no loss of power shows one
/// that is missing; POSIX promises nothing of the kind.
#[test]
fn a_folder_that_a_repository_makes_is_synced_into_the_one_around_it() {
    if !can_trace() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.random_file("a.raw", 1 << 20, 1);
    sandbox.succeed(["import", "-q", "a.raw", "web"]);
    let mut folders = 0;
    for words in [
        "backup init -q place/repo --no-encryption",
        "backup push -q place/repo web",
    ] {
        let trace = "trace=mkdir,mkdirat,fsync";
        let mut traced = vec!["-f", "-y", "-o", "trace.txt", "-e", trace, VELLUM];
        traced.extend(words.split(' '));
        std::fs::create_dir_all(sandbox.path("place")).expect("room");
        let ended = client(&sandbox, "strace", &traced);
        assert_eq!(ended.code, Some(0), "{words}: {ended:?}");
        let trace = std::fs::read_to_string(sandbox.path("trace.txt")).expect("a trace");
        let calls = traced_calls(&trace);
        for call in &calls {
            let Some(folder) = made(&call.text).filter(|folder| folder.contains("place/repo"))
            else {
                continue;
            };
            folders += 1;
            let around = Path::new(&folder).parent().expect("it is in the sandbox");
            let is_synced = |later: &TracedCall| {
                let path = synced(&later.text).filter(|_| later.ended > call.begun);
                path.is_some_and(|path| Path::new(path).ends_with(around))
            };
            assert!(calls.iter().any(is_synced), "{folder}: {trace}");
        }
    }
    assert!(folders >= 3, "a repository has folders: {folders}");
}
