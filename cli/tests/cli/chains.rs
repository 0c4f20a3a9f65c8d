//! Files that stand on each other, as an image with its snapshots, and out again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use vellum_core::source::ExtentKind;
use vellum_formats::write::{ParentLink, TargetFormat};
use vellum_formats::{DiskIdentity, Format};

use crate::delta::Delta;
use crate::sandbox::{Sandbox, VELLUM, can_trace, client, client_succeeds};

fn qemu_img(sandbox: &Sandbox, args: &[&str]) -> String {
    client_succeeds(sandbox, "qemu-img", args)
}

/// Writes to a qcow2 as a guest does.
fn write(sandbox: &Sandbox, file: &str, commands: &[&str]) {
    let mut args = vec!["-f", "qcow2"];
    args.extend(commands.iter().flat_map(|command| ["-c", command]));
    args.push(file);
    client_succeeds(sandbox, "qemu-io", &args);
}

fn overlay(sandbox: &Sandbox, file: &str, backing: &str, commands: &[&str]) {
    let args = [
        "create", "-q", "-f", "qcow2", "-b", backing, "-F", "qcow2", file,
    ];
    qemu_img(sandbox, &args);
    write(sandbox, file, commands);
}

/// Three files, each on the one before: new data, zeros over data, data over zeros, a discard.
fn three_files() -> Sandbox {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("in")).expect("room");
    sandbox.random_file("base.raw", 9 << 20, 3);
    qemu_img(
        &sandbox,
        &["convert", "-O", "qcow2", "base.raw", "in/base.qcow2"],
    );
    let middle = [
        "write -P 1 1M 100k",
        "write -z 2M 1M",
        "write -P 2 4096 512",
    ];
    overlay(&sandbox, "in/middle.qcow2", "base.qcow2", &middle);
    let top = [
        "write -P 3 2500k 64k",
        "write -z 0 64k",
        "write -P 4 8M 70k",
    ];
    overlay(&sandbox, "in/top.qcow2", "middle.qcow2", &top);
    sandbox
}

/// Runs a command that answers in JSON lines; the last one.
fn summary(sandbox: &Sandbox, args: &[&str]) -> Value {
    let told = sandbox.succeed(args.iter().copied().chain(["--json"]));
    let last = told.lines().last().expect("an answer");
    serde_json::from_str(last).expect("JSON")
}

/// Holds a state of the store against an image file, by another's eyes.
fn check_state(sandbox: &Sandbox, node: &str, file: &str) {
    sandbox.succeed(["export", node, "state.raw", "--force"]);
    qemu_img(sandbox, &["compare", "-f", "raw", "state.raw", file]);
}

#[test]
fn a_chain_becomes_snapshots_and_comes_out_as_a_chain() {
    let sandbox = three_files();
    let told = summary(&sandbox, &["import", "--chain", "in/top.qcow2", "web"]);
    assert_eq!(told["layers"], 3);
    assert_eq!(sandbox.names(), ["web", "web@base", "web@middle"]);
    let states = [
        ("web@base", "in/base.qcow2"),
        ("web@middle", "in/middle.qcow2"),
        ("web", "in/top.qcow2"),
    ];
    for (node, file) in states {
        check_state(&sandbox, node, file);
    }
    // What lies in two files is told apart.
    let own = |name: &str| {
        let told = sandbox.succeed(["tree", "--json"]);
        let lines: Value = serde_json::from_str(&told).expect("JSON");
        let lines = lines.as_array().expect("a list").clone();
        let line = lines.into_iter().find(|line| line["name"] == name);
        line.expect("it is drawn")["own_bytes"]
            .as_u64()
            .expect("bytes")
    };
    assert!(
        own("web@base") > 8 << 20 && own("web") < 1 << 20,
        "only what differs is kept"
    );
    for format in ["qcow2"] {
        let out = format!("out-{format}");
        sandbox.succeed(["export", "--chain", &out, "web"]);
        for (node, file) in states {
            let name = node.rsplit('@').next().expect("a name");
            let copy = format!("{out}/{name}.{format}");
            qemu_img(&sandbox, &["check", "-q", &copy]);
            qemu_img(&sandbox, &["compare", &copy, file]);
        }
        let info = qemu_img(
            &sandbox,
            &["info", "--output=json", &format!("{out}/web.qcow2")],
        );
        let info: Value = serde_json::from_str(&info).expect("JSON");
        assert_eq!(info["backing-filename"], "middle.qcow2");
        assert_eq!(info["backing-filename-format"], "qcow2");
    }
}

#[test]
fn a_shared_parent_is_stored_once_however_often_it_is_named() {
    let sandbox = three_files();
    let other = ["write -P 5 5M 100k"];
    overlay(&sandbox, "in/other.qcow2", "middle.qcow2", &other);
    summary(&sandbox, &["import", "--chain", "in/top.qcow2", "web"]);
    let told = summary(&sandbox, &["import", "--chain", "in/other.qcow2", "db"]);
    assert_eq!(
        (&told["layers"], &told["known_layers"]),
        (&3.into(), &2.into())
    );
    assert!(
        told["new_bytes"].as_u64().expect("bytes") <= 108 << 10,
        "{told}"
    );
    check_state(&sandbox, "db@middle", "in/middle.qcow2");
    check_state(&sandbox, "db", "in/other.qcow2");
    // A file that was written since keeps its name, and is another layer.
    write(&sandbox, "in/base.qcow2", &["write -P 6 3M 4k"]);
    let told = summary(&sandbox, &["import", "--chain", "in/other.qcow2", "late"]);
    assert_eq!(told["known_layers"], 0, "what it stands on is another");
    check_state(&sandbox, "late@base", "in/base.qcow2");
    check_state(&sandbox, "late", "in/other.qcow2");
    // The others stay what they were, also when what is shared loses a name.
    for name in ["web", "late"] {
        sandbox.succeed(["rm", name, "--with-snapshots"]);
    }
    sandbox.succeed(["gc"]);
    sandbox.succeed(["check", "--read-data"]);
}

#[test]
fn an_update_knows_the_chain_and_stores_the_new_top_alone() {
    let sandbox = three_files();
    let first = summary(&sandbox, &["import", "--chain", "in/top.qcow2", "web"]);
    assert_eq!(first["known_layers"], 0);
    let same = summary(
        &sandbox,
        &["import", "--chain", "in/top.qcow2", "web", "--update"],
    );
    assert_eq!(
        (&same["known_layers"], &same["new_chunks"]),
        (&3.into(), &0.into())
    );
    assert_eq!(sandbox.names(), ["web", "web@base", "web@middle"]);
    overlay(
        &sandbox,
        "in/next.qcow2",
        "top.qcow2",
        &["write -P 9 6M 64k"],
    );
    for is_collected in [false, true] {
        if is_collected {
            // The same once what had no name became part of what stands on it.
            sandbox.succeed(["gc"]);
            overlay(
                &sandbox,
                "in/last.qcow2",
                "next.qcow2",
                &["write -P 8 6M 32k"],
            );
        }
        let (file, known) = if is_collected {
            ("in/last.qcow2", 4)
        } else {
            ("in/next.qcow2", 3)
        };
        let told = summary(&sandbox, &["import", "--chain", file, "web", "--update"]);
        assert_eq!(told["known_layers"], known, "{file}: {told}");
        assert_eq!(told["action"], "update");
        check_state(&sandbox, "web", file);
    }
    assert_eq!(
        sandbox.names(),
        ["web", "web@base", "web@middle", "web@top", "web@next"]
    );
    check_state(&sandbox, "web@top", "in/top.qcow2");
    check_state(&sandbox, "web@next", "in/next.qcow2");
    sandbox.succeed(["check", "--read-data"]);
}

#[test]
fn a_folder_of_chains_becomes_a_tree() {
    let sandbox = three_files();
    overlay(
        &sandbox,
        "in/side.qcow2",
        "base.qcow2",
        &["write -P 5 5M 100k"],
    );
    sandbox.random_file("in/readme.txt", 100, 1);
    let run = sandbox.run(["import", "--chain", "in", "web"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("readme.txt"), "{run:?}");
    let mut names = sandbox.names();
    names.sort();
    assert_eq!(
        names,
        [
            "web-side",
            "web-side@base",
            "web-top",
            "web-top@base",
            "web-top@middle"
        ]
    );
    check_state(&sandbox, "web-side", "in/side.qcow2");
    // A damaged image is no reason to go on without it, and a second name makes no second image.
    let place = |name: &str| sandbox.path("in").join(name);
    fs::hard_link(place("side.qcow2"), place("twin.qcow2")).expect("room");
    let told = summary(&sandbox, &["import", "--chain", "in", "again"]);
    assert_eq!(told["images"].as_array().map(Vec::len), Some(2), "{told}");
    fs::write(place("broken.qcow2"), b"QFI\xfb\0\0\0\x03and no more").expect("room");
    let run = sandbox.run(["import", "--chain", "in", "last"]);
    assert!(
        run.code == Some(1) && run.stderr.contains("broken.qcow2"),
        "{run:?}"
    );
    check_state(&sandbox, "web-top", "in/top.qcow2");
}

#[test]
fn states_inside_a_qcow2_become_snapshots() {
    let sandbox = three_files();
    // On a parent, so that silence means something else in each of them.
    for (nth, command) in ["write -P 21 0 64k", "discard 2500k 64k", "write -z 4M 256k"]
        .iter()
        .enumerate()
    {
        write(&sandbox, "in/top.qcow2", &[command]);
        qemu_img(
            &sandbox,
            &["snapshot", "-c", &format!("s{nth}"), "in/top.qcow2"],
        );
    }
    write(&sandbox, "in/top.qcow2", &["write -P 22 1M 1M"]);
    let told = summary(&sandbox, &["import", "--chain", "in/top.qcow2", "web"]);
    assert_eq!(told["layers"], 6);
    assert_eq!(
        sandbox.names(),
        [
            "web",
            "web@base",
            "web@middle",
            "web@s0",
            "web@s1",
            "web@s2"
        ]
    );
    check_state(&sandbox, "web", "in/top.qcow2");
    for nth in 0..3 {
        let name = format!("s{nth}");
        qemu_img(
            &sandbox,
            &[
                "convert",
                "-l",
                &name,
                "-O",
                "raw",
                "in/top.qcow2",
                "inner.raw",
            ],
        );
        check_state(&sandbox, &format!("web@{name}"), "inner.raw");
    }
}

/// Every path that a command asks the kernel to open, if strace can tell.
fn opened_paths(sandbox: &Sandbox, args: &[&str]) -> Option<(Vec<String>, crate::sandbox::Run)> {
    let mut traced = vec![
        "-f",
        "-e",
        "trace=open,openat,openat2,execve,connect",
        "-o",
        "trace.txt",
        VELLUM,
    ];
    traced.extend(args);
    if !can_trace() {
        return None;
    }
    let run = client(sandbox, "strace", &traced);
    let trace = fs::read_to_string(sandbox.path("trace.txt")).expect("a trace");
    Some((trace.lines().map(str::to_owned).collect(), run))
}

/// A qcow2 that stands on the raw image `name`, whatever that means: no writer takes all of them.
fn child_of(name: &str) -> Vec<u8> {
    let delta = Delta {
        bytes: vec![0; 1 << 20],
        kinds: vec![(1 << 20, ExtentKind::Absent)],
    };
    let plain = name.replace('"', "'");
    let link = ParentLink {
        path: plain.clone(),
        identity: None,
        format: Some("raw".to_owned()),
    };
    let mut bytes = delta.file(
        TargetFormat::default_variant(Format::Qcow2),
        None,
        Some(link),
    );
    let mut places = bytes.windows(plain.len());
    let at = places.position(|found| found == plain.as_bytes());
    let at = at.expect("the name is in it");
    bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
    bytes
}

/// True if a line of a trace tells that the secret, or a server, was asked for.
fn is_hit(line: &str) -> bool {
    let is_own = line.contains("store") || line.contains("execve");
    let is_secret = line.contains("secret") && !line.contains("ENOENT");
    let is_server = line.contains("connect(") && line.contains("nbd");
    !is_own && (is_secret || is_server)
}

#[test]
fn a_backing_name_leads_nowhere_but_beside_its_child() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("in")).expect("room");
    sandbox.random_file("secret.raw", 1 << 20, 1);
    let secret = sandbox.path("secret.raw").display().to_string();
    std::os::unix::fs::symlink(&secret, sandbox.path("in/link.raw")).expect("a link");
    fs::create_dir(sandbox.path("in/folder")).expect("room");
    let names = [
        secret.as_str(),
        "../secret.raw",
        "./../secret.raw",
        "folder/../../secret.raw",
        &format!("json:{{\"driver\":\"raw\",\"file.filename\":\"{secret}\"}}"),
        "nbd:unix:/run/nbd.sock",
        "nbd://localhost/secret.raw",
        "file:secret.raw",
        "link.raw",
        "folder",
        "..",
        "none.raw",
    ];
    for (nth, name) in names.iter().enumerate() {
        let file = format!("in/child{nth}.qcow2");
        fs::write(sandbox.path(&file), child_of(name)).expect("room");
        let args = ["import", "--chain", "-f", "qcow2", file.as_str(), "web"];
        let run = if let Some((trace, run)) = opened_paths(&sandbox, &args) {
            let is_traced = trace.iter().any(|line| line.contains(&file));
            assert!(is_traced, "the child itself is not in the trace");
            let hit = trace.iter().find(|line| is_hit(line));
            assert_eq!(hit, None, "{name}");
            run
        } else {
            sandbox.run(args)
        };
        run.expect_error(1, &file);
        assert!(run.stderr.contains("--backing-map"), "{name}: {run:?}");
        assert_eq!(sandbox.names(), Vec::<String>::new());
    }
    // Who trusts it says so, and only then it is read.
    let mapping = format!("../secret.raw={secret}");
    let args = [
        "import",
        "--chain",
        "in/child1.qcow2",
        "web",
        "--backing-map",
        &mapping,
    ];
    match opened_paths(&sandbox, &args) {
        Some((trace, run)) => {
            assert_eq!(run.code, Some(0), "{run:?}");
            let has_hit = trace.iter().any(|line| is_hit(line));
            assert!(has_hit, "the trace would show no secret");
        }
        None => drop(sandbox.succeed(args)),
    }
    check_state(&sandbox, "web", "secret.raw");
}

#[test]
fn circles_and_endless_chains_end() {
    let sandbox = Sandbox::new();
    let delta = Delta {
        bytes: vec![0; 1 << 20],
        kinds: vec![(1 << 20, ExtentKind::Absent)],
    };
    let make = |file: &str, below: Option<&str>| {
        let link = below.map(|below| ParentLink {
            path: below.to_owned(),
            identity: None,
            format: Some("qcow2".to_owned()),
        });
        let bytes = delta.file(TargetFormat::default_variant(Format::Qcow2), None, link);
        fs::write(sandbox.path(file), bytes).expect("room");
    };
    make("a.qcow2", Some("b.qcow2"));
    make("b.qcow2", Some("c.qcow2"));
    make("c.qcow2", Some("a.qcow2"));
    make("self.qcow2", Some("self.qcow2"));
    for file in ["a.qcow2", "self.qcow2"] {
        let run = sandbox.run(["import", "--chain", "-f", "qcow2", file, "web"]);
        run.expect_error(1, "circle");
    }
    fs::remove_file(sandbox.path("a.qcow2")).expect("there");
    make("0.qcow2", None);
    for nth in 1..=1024_u32 {
        make(&format!("{nth}.qcow2"), Some(&format!("{}.qcow2", nth - 1)));
    }
    let run = sandbox.run(["import", "--chain", "-f", "qcow2", "1024.qcow2", "web"]);
    run.expect_error(1, "1025 layers");
    let told = summary(&sandbox, &["import", "--chain", "1023.qcow2", "deep"]);
    assert_eq!(told["layers"], 1024);
}

#[test]
fn every_format_takes_a_tree_of_snapshots_out_and_in() {
    let sandbox = three_files();
    sandbox.succeed(["import", "--chain", "in/top.qcow2", "web"]);
    // A second branch, and a snapshot of which nothing differs.
    sandbox.succeed([
        "snapshot",
        "restore",
        "web@base",
        "--save-current-as",
        "top",
    ]);
    sandbox.succeed(["snapshot", "take", "web@again"]);
    let nodes = ["web@base", "web@middle", "web@top", "web@again", "web"];
    for format in ["qcow2", "vdi", "vhd", "vhdx"] {
        let (out, copy) = (format!("out-{format}"), format!("copy-{format}"));
        for folder in [&out, &copy] {
            sandbox.succeed(["export", "--chain", folder, "web", "-O", format]);
        }
        let other = Sandbox::new();
        crate::sandbox::copy_folder(&sandbox.path(&out), &other.path("in"));
        other.succeed(["import", "--chain", "in", "all"]);
        for node in nodes {
            let name = node.rsplit('@').next().expect("a name");
            let file = format!("{name}.{format}");
            let read = |folder: &str| fs::read(sandbox.path(folder).join(&file)).expect("a file");
            assert!(
                read(&out) == read(&copy),
                "{file} has other bytes the second time"
            );
            let twin = other.names().into_iter().find(|found| {
                found.ends_with(&format!("@{name}")) || found.ends_with(&format!("-{name}"))
            });
            let twin = twin.unwrap_or_else(|| panic!("{name} of {format} came back"));
            sandbox.succeed(["export", node, "state.raw", "--force"]);
            other.succeed(["export", &twin, "state.raw", "--force"]);
            let state = |sandbox: &Sandbox| fs::read(sandbox.path("state.raw")).expect("exported");
            assert!(state(&sandbox) == state(&other), "{node} through {format}");
        }
    }
    let refused = sandbox.run(["export", "--chain", "out-vdi", "web", "-O", "vdi"]);
    refused.expect_error(1, "out-vdi");
    let refused = sandbox.run(["export", "--chain", "out-raw", "web", "-O", "raw"]);
    refused.expect_error(2, "raw");
    assert!(!sandbox.path("out-raw").exists());
}

/// An image without a parent has zeros where it says nothing. Until there was this test, an update
/// left there what the image had before.
#[test]
fn an_update_with_a_whole_image_hides_what_was_there() {
    let sandbox = three_files();
    for format in ["qcow2", "vdi", "vmdk", "vhdx"] {
        let (full, thin) = (format!("full.{format}"), format!("thin.{format}"));
        qemu_img(&sandbox, &["convert", "-O", format, "base.raw", &full]);
        qemu_img(&sandbox, &["create", "-q", "-f", format, &thin, "9M"]);
        client_succeeds(
            &sandbox,
            "qemu-io",
            &["-f", format, "-c", "write -P 3 2M 64k", &thin],
        );
        sandbox.succeed(["import", &full, format, "-q"]);
        sandbox.succeed(["import", &thin, format, "--update", "-q"]);
        check_state(&sandbox, format, &thin);
    }
}

#[test]
fn sectors_that_differ_come_from_the_file_that_has_them() {
    const LEN: usize = (3 << 20) + 3 * 512;
    for format in [Format::Qcow2, Format::Vdi, Format::Vhd, Format::Vhdx] {
        let sandbox = Sandbox::new();
        let mut bytes = vec![0; LEN];
        fastrand::Rng::with_seed(2).fill(&mut bytes[..2 << 20]);
        let (mut below, mut states): (Option<ParentLink>, _) = (None, Vec::new());
        for nth in 0..4_u8 {
            let delta = match nth {
                0 => Delta::whole(bytes.clone()),
                nth => Delta::over(&bytes, nth.into()),
            };
            // Names that say nothing: VDI, VHD and VHDX are found by identity.
            let name = format!("{}.{format}", (b'd' - nth) as char);
            let identity = Some(DiskIdentity::Uuid([nth + 1; 16]));
            let (file, identity) = delta.identified_file(
                TargetFormat::default_variant(format),
                identity,
                below.take(),
            );
            fs::write(sandbox.path(&name), file).expect("room");
            below = Some(ParentLink {
                path: name,
                identity,
                format: Some(format.format_name().to_owned()),
            });
            bytes = delta.bytes;
            states.push(bytes.clone());
        }
        let top = format!("a.{format}");
        sandbox.succeed(["import", "--chain", &top, "disk"]);
        for (node, expected) in ["disk@d", "disk@c", "disk@b", "disk"].iter().zip(&states) {
            sandbox.succeed(["export", node, "state.raw", "--force"]);
            let state = fs::read(sandbox.path("state.raw")).expect("exported");
            assert!(state == *expected, "{node} of {format}");
        }
    }
}

#[test]
fn a_parent_in_another_folder_is_found_where_the_person_says() {
    let sandbox = Sandbox::new();
    let vdi = TargetFormat::default_variant(Format::Vdi);
    let identity = |number: u8| Some(DiskIdentity::Uuid([number; 16]));
    let base = Delta::whole(vec![7; 2 << 20]);
    let child = Delta::over(&base.bytes, 5);
    let link = ParentLink {
        path: "base.vdi".to_owned(),
        identity: identity(1),
        format: None,
    };
    for folder in ["disks", "Snapshots"] {
        fs::create_dir(sandbox.path(folder)).expect("room");
    }
    let put = |name: &str, bytes: Vec<u8>| fs::write(sandbox.path(name), bytes).expect("room");
    put("disks/base.vdi", base.file(vdi, identity(1), None));
    put("disks/other.vdi", base.file(vdi, identity(3), None));
    put(
        "Snapshots/child.vdi",
        child.file(vdi, identity(2), Some(link)),
    );
    let uuid = "01010101-0101-0101-0101-010101010101";
    let import = |name: &str, new: &str| {
        let mapping = format!("{uuid}={new}");
        let args = [
            "import",
            "--chain",
            "-f",
            "vdi",
            "Snapshots/child.vdi",
            name,
        ];
        sandbox.run(args.into_iter().chain(["--backing-map", &mapping]))
    };
    let run = sandbox.run([
        "import",
        "--chain",
        "-f",
        "vdi",
        "Snapshots/child.vdi",
        "web",
    ]);
    run.expect_error(1, uuid);
    for (name, place) in [("file", "disks/base.vdi"), ("folder", "disks")] {
        let run = import(name, place);
        assert_eq!(run.code, Some(0), "{run:?}");
        sandbox.succeed(["export", name, "state.raw", "--force"]);
        let state = fs::read(sandbox.path("state.raw")).expect("exported");
        assert!(state == child.bytes, "{name}");
    }
    // A person may err: the identity counts.
    import("wrong", "disks/other.vdi").expect_error(1, "03030303");
    // Two that have it are one too many, wherever they are looked for.
    put("disks/twin.vdi", base.file(vdi, identity(1), None));
    import("wrong", "disks").expect_error(1, "both have that identity");
}

#[test]
fn a_chain_of_vmdks_is_found_by_content_id() {
    let sandbox = Sandbox::new();
    sandbox.random_file("base.raw", 3 << 20, 3);
    qemu_img(
        &sandbox,
        &["convert", "-O", "vmdk", "base.raw", "base.vmdk"],
    );
    for (below, above) in [("base.vmdk", "middle.vmdk"), ("middle.vmdk", "top.vmdk")] {
        let args = [
            "create", "-q", "-f", "vmdk", "-b", below, "-F", "vmdk", above,
        ];
        qemu_img(&sandbox, &args);
        let write = ["-f", "vmdk", "-c", "write -P 7 1M 100k", above];
        client_succeeds(&sandbox, "qemu-io", &write);
    }
    summary(&sandbox, &["import", "--chain", "top.vmdk", "disk"]);
    check_state(&sandbox, "disk@middle", "middle.vmdk");
    check_state(&sandbox, "disk", "top.vmdk");
    // Under another name it is the same, and what took its name is not.
    fs::rename(sandbox.path("middle.vmdk"), sandbox.path("renamed.vmdk")).expect("there");
    fs::copy(sandbox.path("base.vmdk"), sandbox.path("middle.vmdk")).expect("room");
    let told = summary(&sandbox, &["import", "--chain", "top.vmdk", "again"]);
    assert_eq!(told["known_layers"], 3, "{told}");
    client_succeeds(
        &sandbox,
        "qemu-io",
        &["-f", "vmdk", "-c", "write -P 8 0 4k", "renamed.vmdk"],
    );
    let run = sandbox.run(["import", "--chain", "-f", "vmdk", "top.vmdk", "wrong"]);
    run.expect_error(1, "has that identity");
}

#[test]
fn a_child_may_be_longer_or_shorter_than_its_parent() {
    let sandbox = three_files();
    for (len, below) in [
        ("20M", "in/top.qcow2"),
        ("4M", "in/a.qcow2"),
        ("12M", "in/b.qcow2"),
    ] {
        let (name, above) = match len {
            "20M" => ("a", "in/a.qcow2"),
            "4M" => ("b", "in/b.qcow2"),
            _ => ("c", "in/c.qcow2"),
        };
        let backing = below.strip_prefix("in/").expect("a folder");
        let args = [
            "create", "-q", "-f", "qcow2", "-b", backing, "-F", "qcow2", above, len,
        ];
        qemu_img(&sandbox, &args);
        write(&sandbox, above, &["write -P 40 3M 64k"]);
        summary(&sandbox, &["import", "--chain", above, name]);
        check_state(&sandbox, name, above);
        let out = format!("out-{name}");
        sandbox.succeed(["export", "--chain", &out, name]);
        let copy = format!("{out}/{name}.qcow2");
        qemu_img(&sandbox, &["check", "-q", &copy]);
        // qemu itself must see no byte of what the short one hid.
        qemu_img(&sandbox, &["compare", &copy, above]);
    }
}

#[test]
fn what_is_stopped_leaves_no_folder() {
    let sandbox = three_files();
    sandbox.succeed(["import", "--chain", "in/top.qcow2", "web"]);
    let before = fs::read_dir(sandbox.path("")).expect("a folder").count();
    let mut child = sandbox.held_up(["export", "--chain", "out", "web"]);
    crate::sandbox::signal(&child, rustix::process::Signal::INT);
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    let is_stopped = output.status.code() == Some(130) || output.status.code() == Some(141);
    assert!(is_stopped, "{output:?}");
    let after = fs::read_dir(sandbox.path("")).expect("a folder").count();
    assert_eq!(before, after, "something stayed");
}

/// The folder of images that others made, if there is one.
fn foreign() -> Option<PathBuf> {
    let folder = std::env::var_os("VELLUM_FOREIGN").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("VELLUM_FOREIGN names no folder: 0 foreign chains were tried");
    }
    folder
}

fn unpacked(folder: &Path, name: &str, target: &Path) {
    let output = Command::new("gzip")
        .arg("-dc")
        .arg(folder.join(format!("{name}.gz")))
        .output();
    let output = output.expect("every system has it");
    assert!(output.status.success(), "{name} is in the folder");
    fs::write(target.join(name), output.stdout).expect("room");
}

#[test]
fn foreign_chains_open_with_their_parents() {
    let Some(folder) = foreign() else { return };
    let sandbox = Sandbox::new();
    let chains = [
        (
            "vdi",
            vec!["image-default.vdi", "image-default_snapshot.vdi"],
            1,
        ),
        (
            "qcow2",
            vec![
                "backing-chain-1.qcow2",
                "backing-chain-2.qcow2",
                "backing-chain-3.qcow2",
            ],
            0,
        ),
        ("vhd", vec!["image.vhd", "image-differential.vhd"], 1),
    ];
    for (image, files, top) in &chains {
        let dir = sandbox.path(image);
        fs::create_dir(&dir).expect("room");
        files.iter().for_each(|file| unpacked(&folder, file, &dir));
        let path = format!("{image}/{}", files[*top]);
        let told = summary(&sandbox, &["import", "--chain", &path, image]);
        assert_eq!(told["files"], files.len(), "{path}: {told}");
        if *image == "qcow2" {
            check_state(&sandbox, image, &path);
        }
    }
    // The parent is what qemu reads, and the child is not.
    check_state(&sandbox, "vdi@image-default", "vdi/image-default.vdi");
    // Nothing else than that parent will do, whatever its name.
    for format in ["vdi", "vhd"] {
        let files = &chains
            .iter()
            .find(|chain| chain.0 == format)
            .expect("above")
            .1;
        let other = fs::read(sandbox.path(format).join(files[1])).expect("a child");
        fs::write(sandbox.path(format).join(files[0]), other).expect("room");
        let path = format!("{format}/{}", files[1]);
        let run = sandbox.run(["import", "--chain", "-f", format, &path, "wrong"]);
        run.expect_error(1, "has that identity");
    }
    eprintln!("{} foreign chains were tried", chains.len());
}
