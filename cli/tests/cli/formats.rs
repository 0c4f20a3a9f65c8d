//! Disks in files of every format, in and out, with qemu-img as the second opinion.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::sandbox::{Run, Sandbox, client, client_succeeds};

/// Files that are written: the name, options, qemu's name of the format, and whether qemu-img can
/// check it.
const TARGETS: [(&str, &[&str], &str, bool); 12] = [
    ("out.raw", &[], "raw", false),
    ("out.qcow2", &[], "qcow2", true),
    (
        "zlib.qcow2",
        &["-o", "compression_type=zlib"],
        "qcow2",
        true,
    ),
    (
        "zstd.qcow2",
        &["-o", "compression_type=zstd"],
        "qcow2",
        true,
    ),
    ("l2.qcow2", &["-o", "extended_l2=on"], "qcow2", true),
    ("out.vdi", &[], "vdi", true),
    ("fixed.vdi", &["-o", "subformat=fixed"], "vdi", true),
    ("out.vmdk", &[], "vmdk", true),
    (
        "stream.vmdk",
        &["-o", "subformat=streamOptimized"],
        "vmdk",
        true,
    ),
    ("out.vhd", &["-O", "vpc"], "vpc", false),
    ("fixed.vhd", &["-o", "subformat=fixed"], "vpc", false),
    ("out.vhdx", &[], "vhdx", true),
];

/// A folder with a disk of an ext4 in `disk.raw`: files, holes, and a length that no format needs
/// to round but VHD.
fn with_disk() -> Sandbox {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("tree/inner")).expect("room");
    sandbox.random_file("tree/noise", 3 << 20, 1);
    sandbox.random_file("tree/inner/more", 700_001, 2);
    let text = "a disk image is a file\n".repeat(40_000);
    fs::write(sandbox.path("tree/text"), text).expect("room");
    client_succeeds(&sandbox, "truncate", &["-s", "40M", "disk.raw"]);
    let words = ["-q", "-t", "ext4", "-d", "tree", "disk.raw"];
    client_succeeds(&sandbox, "/sbin/mke2fs", &words);
    sandbox
}

fn qemu_img(sandbox: &Sandbox, words: &str) -> Run {
    let words: Vec<&str> = words.split_whitespace().collect();
    let run = client(sandbox, "qemu-img", &words);
    assert_eq!(run.code, Some(0), "qemu-img {words:?}: {run:?}");
    run
}

/// Requires that qemu-img finds the same disk in `file` as in `disk.raw`, and no fault in it.
fn verify_by_qemu(sandbox: &Sandbox, file: &str, format: &str, has_check: bool) {
    qemu_img(
        sandbox,
        &format!("compare -f raw -F {format} disk.raw {file}"),
    );
    if has_check {
        let told = qemu_img(sandbox, &format!("check -f {format} {file}"));
        assert!(told.stdout.contains("No errors"), "{file}: {told:?}");
    }
}

fn json(text: &str) -> serde_json::Value {
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn every_format_goes_out_and_brings_nothing_new_back() {
    let sandbox = with_disk();
    sandbox.succeed(["import", "disk.raw", "web"]);
    for (file, options, format, has_check) in TARGETS {
        sandbox.succeed([&["export", "web", file], options].concat());
        verify_by_qemu(&sandbox, file, format, has_check);
        let converted = format!("again-{file}");
        sandbox.succeed([&["convert", "disk.raw", &converted], options].concat());
        verify_by_qemu(&sandbox, &converted, format, has_check);
        let mode = fs::metadata(sandbox.path(file))
            .expect("written")
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "{file}");
        let told = sandbox.succeed(["import", file, &format!("from-{file}"), "--json"]);
        assert_eq!(json(&told)["new_chunks"], 0, "{file}: {told}");
        // A VHD of another length than CHS can say is as long as qemu makes it.
        let same = sandbox.run(["compare", "web", file]);
        assert_eq!(same.code, Some(0), "{file}: {same:?}");
    }
    sandbox.succeed(["check", "--read-data"]);
}

/// One guest in eight formats of others' making is stored once. A VHD may be longer, by zeros,
/// which take nothing.
#[test]
fn one_disk_in_many_formats_is_stored_once() {
    let sandbox = with_disk();
    let made = [
        ("raw", "plain.qcow2", "-O qcow2"),
        ("raw", "zlib.qcow2", "-c -O qcow2 -o compression_type=zlib"),
        ("raw", "zstd.qcow2", "-c -O qcow2 -o compression_type=zstd"),
        ("raw", "disk.vdi", "-O vdi"),
        (
            "raw",
            "sparse.vmdk",
            "-O vmdk -o subformat=monolithicSparse",
        ),
        ("raw", "stream.vmdk", "-O vmdk -o subformat=streamOptimized"),
        ("raw", "disk.vhd", "-O vpc"),
        ("raw", "fixed.vhd", "-O vpc -o subformat=fixed"),
        ("raw", "disk.vhdx", "-O vhdx"),
    ];
    let first = json(&sandbox.succeed(["import", "disk.raw", "raw", "--json"]));
    assert!(first["new_chunks"].as_u64() > Some(900), "{first}");
    for (from, file, options) in made {
        qemu_img(
            &sandbox,
            &format!("convert -f {from} {options} disk.raw {file}"),
        );
        let told = sandbox.succeed(["import", file, &format!("from-{file}"), "--json"]);
        assert_eq!(json(&told)["new_chunks"], 0, "{file}: {told}");
        let size = json(&told)["size"].as_u64().expect("a size");
        assert!((40 << 20..41 << 20).contains(&size), "{file}: {told}");
    }
}

#[test]
fn the_same_disk_gives_the_same_bytes() {
    let sandbox = with_disk();
    qemu_img(&sandbox, "convert -c -O qcow2 disk.raw packed.qcow2");
    for (file, options, ..) in TARGETS {
        sandbox.succeed([&["convert", "disk.raw", file], options].concat());
        let again = format!("again-{file}");
        sandbox.succeed([&["convert", "packed.qcow2", &again], options].concat());
        client_succeeds(&sandbox, "cmp", &[file, &again]);
    }
    let other = Sandbox::new();
    fs::copy(sandbox.path("disk.raw"), other.path("disk.raw")).expect("room");
    for sandbox in [&sandbox, &other] {
        sandbox.succeed(["import", "disk.raw", "web", "--snapshot", "a"]);
        for (file, options, ..) in TARGETS {
            let words = ["export", "web@a", file, "--force"];
            sandbox.succeed([&words[..], options].concat());
        }
    }
    for (file, ..) in TARGETS {
        let ours = fs::read(sandbox.path(file)).expect("written");
        assert!(
            ours == fs::read(other.path(file)).expect("written"),
            "{file}"
        );
    }
    // What differs in content differs in identity: VirtualBox keeps one of two with the same UUID.
    fs::write(sandbox.path("small.raw"), [7; 4096]).expect("room");
    sandbox.succeed(["convert", "small.raw", "small.vdi"]);
    let identity = |file| json(&sandbox.succeed(["info", file, "--json"]))["identity"].clone();
    assert_ne!(identity("small.vdi"), identity("out.vdi"));
}

#[test]
fn the_answer_says_which_format_the_name_chose() {
    let sandbox = with_disk();
    let told = sandbox.succeed(["convert", "disk.raw", "x.vdi"]);
    assert!(
        told.contains("to x.vdi as vdi, which its name says"),
        "{told}"
    );
    let told = sandbox.succeed(["convert", "x.vdi", "y.img", "-f", "VDI", "-O", "VHD"]);
    assert!(told.contains("from vdi to y.img as vhd,"), "{told}");
    for (code, words, said) in [
        (2, "convert disk.raw x.qcow", "by its name it is qcow"),
        (2, "convert disk.raw x.ova", "by its name it is ova"),
        (
            2,
            "convert disk.raw - -O qcow2",
            "a stream only goes forward",
        ),
        (
            2,
            "convert disk.raw z.vdi -o cluster_size=4096",
            "no option",
        ),
        (1, "convert disk.raw x.vdi", "x.vdi"),
        (1, "convert missing.raw z.vdi", "missing.raw"),
        (1, "convert x.vdi z.raw -f vmdk", "not a valid vmdk"),
    ] {
        sandbox
            .run(words.split_whitespace())
            .expect_error(code, said);
    }
    assert!(!sandbox.path("z.vdi").exists() && !sandbox.path("z.raw").exists());
    fs::set_permissions(sandbox.path("x.vdi"), fs::Permissions::from_mode(0o640)).expect("ours");
    sandbox.succeed(["convert", "disk.raw", "x.vdi", "--force"]);
    let mode = fs::metadata(sandbox.path("x.vdi"))
        .expect("there")
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o640, "who could use it can use it");
}

#[test]
fn what_goes_forward_goes_through_a_pipe() {
    let sandbox = with_disk();
    sandbox.succeed(["import", "disk.raw", "web"]);
    for (format, option) in [
        ("vmdk", "subformat=streamOptimized"),
        ("vdi", "subformat=fixed"),
        ("vpc", "subformat=fixed"),
    ] {
        for words in [["export", "web"], ["convert", "disk.raw"]] {
            let file = fs::File::create(sandbox.path("piped")).expect("room");
            let mut command = sandbox.command(words);
            command.args(["-", "-O", format, "-o", option]);
            let run = Run::of(
                command
                    .stdout(Stdio::from(file))
                    .output()
                    .expect("it starts"),
            );
            assert_eq!(run.code, Some(0), "{run:?}");
            qemu_img(
                &sandbox,
                &format!("compare -f raw -F {format} disk.raw piped"),
            );
        }
    }
}

#[test]
fn a_source_that_is_damaged_leaves_no_file() {
    let sandbox = with_disk();
    qemu_img(&sandbox, "convert -c -O qcow2 disk.raw packed.qcow2");
    let mut bytes = fs::read(sandbox.path("packed.qcow2")).expect("made");
    // Some of it hits compressed clusters; noise is kept as it is, and no format has sums of it.
    for start in (5 << 16..bytes.len() - 4096).step_by(1 << 16) {
        bytes[start..start + 4096].fill(0xff);
    }
    fs::write(sandbox.path("packed.qcow2"), bytes).expect("room");
    let before = fs::read_dir(sandbox.path("")).expect("there").count();
    for target in ["out.raw", "out.vdi", "out.qcow2"] {
        let run = sandbox.run(["convert", "packed.qcow2", target]);
        run.expect_error(1, "packed.qcow2");
    }
    sandbox
        .run(["import", "packed.qcow2", "web"])
        .expect_error(1, "packed.qcow2");
    assert_eq!(
        fs::read_dir(sandbox.path("")).expect("there").count(),
        before
    );
}

#[test]
fn a_file_tells_what_it_is() {
    let sandbox = with_disk();
    qemu_img(&sandbox, "convert -O qcow2 disk.raw base.qcow2");
    qemu_img(
        &sandbox,
        "create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2",
    );
    qemu_img(&sandbox, "snapshot -c before top.qcow2");
    qemu_img(&sandbox, "bitmap --add top.qcow2 since");
    let info = json(&sandbox.succeed(["info", "top.qcow2", "--json"]));
    assert_eq!(info["format"], "qcow2");
    assert_eq!(info["size"], 40 << 20);
    assert_eq!(info["parent"]["names"][0], "base.qcow2");
    assert_eq!(info["parent"]["format"], "qcow2");
    assert_eq!(info["snapshots"][0]["name"], "before");
    assert_eq!(info["bitmaps"][0]["name"], "since");
    let told = sandbox.succeed(["info", "./top.qcow2"]);
    assert!(
        told.contains("stands on:") && told.contains("base.qcow2"),
        "{told}"
    );
    // Nothing is opened on its word.
    for words in [
        "convert top.qcow2 x.raw",
        "import top.qcow2 x",
        "measure top.qcow2",
    ] {
        let run = sandbox.run(words.split_whitespace());
        run.expect_error(1, "base.qcow2");
        assert!(run.stderr.contains("--chain FILE NAME"), "{run:?}");
    }
    // Over the parent that a person names it is a child.
    sandbox.succeed(["import", "base.qcow2", "base"]);
    sandbox.succeed(["import", "top.qcow2", "top", "-b", "base"]);
    let same = sandbox.run(["compare", "top", "disk.raw"]);
    assert_eq!(same.code, Some(0), "{same:?}");
}

#[test]
fn a_probe_tells_every_doubt() {
    let sandbox = with_disk();
    sandbox.succeed(["convert", "disk.raw", "x.vmdk"]);
    let mut polyglot = fs::read(sandbox.path("x.vmdk")).expect("written");
    let end = polyglot.len() - 512;
    polyglot[end..end + 8].copy_from_slice(b"conectix");
    fs::write(sandbox.path("polyglot"), polyglot).expect("room");
    client_succeeds(&sandbox, "gzip", &["-k", "x.vmdk"]);
    for (file, code, format, said) in [
        ("x.vmdk", 0, Some("vmdk"), "a vmdk image"),
        ("disk.raw", 0, Some("raw"), "no signature"),
        ("x.vmdk.gz", 1, None, "a gzip file"),
        ("polyglot", 1, None, "several things at once"),
    ] {
        let run = sandbox.run(["probe", file]);
        assert_eq!(run.code, Some(code), "{run:?}");
        assert!(run.stdout.contains(said), "{run:?}");
        let told = sandbox.run(["probe", file, "--json"]).stdout;
        assert_eq!(json(&told)["format"].as_str(), format, "{told}");
    }
    sandbox
        .run(["convert", "polyglot", "out.raw"])
        .expect_error(1, "several things");
    sandbox.succeed(["convert", "polyglot", "out.raw", "-f", "raw"]);
    client_succeeds(&sandbox, "cmp", &["polyglot", "out.raw"]);
}

#[test]
fn files_of_any_formats_are_compared() {
    let sandbox = with_disk();
    for file in ["a.vdi", "b.qcow2"] {
        sandbox.succeed(["convert", "disk.raw", file]);
    }
    let told = sandbox.succeed(["compare", "./a.vdi", "b.qcow2"]);
    assert!(told.contains("are identical"), "{told}");
    let run = sandbox.run(["diff", "a.vdi", "./b.qcow2", "--json"]);
    assert_eq!((run.code, run.stdout.trim()), (Some(0), "[]"), "{run:?}");
    let write = [
        "-f",
        "qcow2",
        "-c",
        "write -q -P 9 16781312 4096",
        "b.qcow2",
    ];
    client_succeeds(&sandbox, "qemu-io", &write);
    let run = sandbox.run(["compare", "a.vdi", "b.qcow2"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("differ at byte 16781312"), "{run:?}");
    let run = sandbox.run(["diff", "a.vdi", "b.qcow2", "--json"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    let ranges: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(ranges.as_array().map(Vec::len), Some(1), "{ranges}");
    assert_eq!(
        (&ranges[0]["start"], &ranges[0]["length"]),
        (&16_781_312.into(), &4096.into())
    );
    // A name of the store goes before a file of that name.
    sandbox.succeed(["import", "disk.raw", "b.qcow2"]);
    let told = sandbox.succeed(["info", "b.qcow2"]);
    assert!(told.contains("imported from: raw"), "{told}");
    let told = sandbox.succeed(["info", "./b.qcow2"]);
    assert!(told.contains("format:        qcow2"), "{told}");
    let run = sandbox.run(["diff", "b.qcow2", "./b.qcow2", "--json"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&run.stdout).expect("JSON"),
        ranges
    );
}

/// The ranges with data are those that qemu-img tells, or lie inside of them.
#[test]
fn a_map_of_a_file_is_as_qemu_has_it() {
    let sandbox = with_disk();
    sandbox.succeed(["convert", "disk.raw", "x.qcow2"]);
    let ours = sandbox.succeed(["map", "x.qcow2", "--json"]);
    let theirs = qemu_img(&sandbox, "map --output=json -f qcow2 x.qcow2").stdout;
    let data = |text: &str| {
        let ranges: Vec<serde_json::Value> = serde_json::from_str(text).expect("JSON");
        let mut clusters = Vec::new();
        for range in ranges.iter().filter(|range| range["data"] == true) {
            let start = range["start"].as_u64().expect("a number");
            let len = range["length"].as_u64().expect("a number");
            clusters.extend((start..start + len).step_by(65536));
        }
        clusters
    };
    assert_eq!(data(&ours), data(&theirs));
}

#[test]
fn a_file_is_served_to_be_read() {
    let sandbox = with_disk();
    sandbox.succeed([
        "convert",
        "disk.raw",
        "x.vmdk",
        "-o",
        "subformat=streamOptimized",
    ]);
    let copy = "nbdcopy -- [ \"$VELLUM\" nbd x.vmdk --quiet ] copy.raw";
    client_succeeds(&sandbox, "sh", &["-c", copy]);
    client_succeeds(&sandbox, "cmp", &["copy.raw", "disk.raw"]);
    let write = "nbdcopy -- disk.raw [ \"$VELLUM\" nbd x.vmdk --quiet ]";
    let run = client(&sandbox, "sh", &["-c", write]);
    assert_ne!(run.code, Some(0), "{run:?}");
    sandbox.succeed(["convert", "disk.raw", "y.vdi"]);
    let served =
        crate::server::Served::run(&sandbox, &["serve", "x.vmdk", "y.vdi", "-k", "files.sock"]);
    for name in ["x.vmdk", "y.vdi"] {
        let uri = format!("nbd+unix:///{name}?socket=files.sock");
        let words = ["compare", "-f", "raw", "-F", "raw", &uri, "disk.raw"];
        client_succeeds(&sandbox, "qemu-img", &words);
    }
    served.stop();
}

#[test]
fn one_of_several_disks_in_an_archive_is_named() {
    let sandbox = with_disk();
    fs::write(sandbox.path("other.raw"), vec![5; 1 << 20]).expect("room");
    let stream = ["-o", "subformat=streamOptimized"];
    for (raw, vmdk) in [("disk.raw", "one.vmdk"), ("other.raw", "two.vmdk")] {
        sandbox.succeed([&["convert", raw, vmdk], &stream[..]].concat());
    }
    fs::write(sandbox.path("vm.ovf"), "<Envelope/>").expect("room");
    client_succeeds(&sandbox, "tar", &["-cf", "one.ova", "vm.ovf", "one.vmdk"]);
    let both = ["-cf", "both.ova", "vm.ovf", "one.vmdk", "two.vmdk"];
    client_succeeds(&sandbox, "tar", &both);
    sandbox.succeed(["import", "one.ova", "only"]);
    let run = sandbox.run(["import", "both.ova", "web"]);
    run.expect_error(1, "\"one.vmdk\", \"two.vmdk\"");
    assert!(run.stderr.contains("--disk NAME"), "{run:?}");
    let info = json(&sandbox.succeed(["info", "both.ova", "--json"]));
    assert_eq!(info["disks"][1]["name"], "two.vmdk");
    sandbox.succeed(["import", "both.ova", "web", "--disk", "one.vmdk"]);
    sandbox.succeed(["convert", "both.ova", "second.raw", "--disk", "two.vmdk"]);
    client_succeeds(&sandbox, "cmp", &["second.raw", "other.raw"]);
    for image in ["only", "web"] {
        let same = sandbox.run(["compare", image, "disk.raw"]);
        assert_eq!(same.code, Some(0), "{same:?}");
    }
    client_succeeds(&sandbox, "tar", &["-cf", "none.ova", "vm.ovf"]);
    sandbox
        .run(["import", "none.ova", "x"])
        .expect_error(1, "no disk");
}

#[test]
fn a_point_of_a_repository_is_restored_in_any_format() {
    let sandbox = with_disk();
    sandbox.succeed(["import", "disk.raw", "web", "--snapshot", "a"]);
    let with_password = |words: &[&str]| {
        let mut command = sandbox.command(words);
        command.env("VELLUM_PASSWORD", "correct horse");
        let run = Run::of(command.output().expect("it starts"));
        assert_eq!(run.code, Some(0), "{words:?}: {run:?}");
    };
    with_password(&["backup", "init", "repo"]);
    with_password(&["backup", "push", "repo", "--all"]);
    for (file, options, format, has_check) in TARGETS {
        with_password(&[&["backup", "restore", "repo", "web@a", file], options].concat());
        verify_by_qemu(&sandbox, file, format, has_check);
    }
}

#[test]
fn a_file_is_pushed_as_the_next_state_of_its_image() {
    let sandbox = with_disk();
    let run = |words: &[&str]| {
        let mut command = sandbox.command(words);
        command.env("VELLUM_PASSWORD", "correct horse");
        Run::of(command.output().expect("it starts"))
    };
    let succeed = |words: &[&str]| {
        let run = run(words);
        assert_eq!(run.code, Some(0), "{words:?}: {run:?}");
        run.stdout
    };
    succeed(&["backup", "init", "repo"]);
    sandbox.succeed([
        "convert",
        "disk.raw",
        "x.qcow2",
        "-o",
        "compression_type=zstd",
    ]);
    let push = ["backup", "push", "repo", "web", "--from-file", "x.qcow2"];
    succeed(&push);
    let write = ["-f", "qcow2", "-c", "write -q -P 9 1M 64k", "x.qcow2"];
    client_succeeds(&sandbox, "qemu-io", &write);
    succeed(&push);
    let points = succeed(&["backup", "list", "repo", "--json"]);
    assert_eq!(points.matches("\"web\"").count(), 2, "{points}");
    succeed(&["backup", "restore", "repo", "web", "y.vdi"]);
    let words = ["compare", "-f", "qcow2", "-F", "vdi", "x.qcow2", "y.vdi"];
    client_succeeds(&sandbox, "qemu-img", &words);
    let two = [
        "backup",
        "push",
        "repo",
        "web",
        "db",
        "--from-file",
        "x.qcow2",
    ];
    run(&two).expect_error(2, "one image's state");
}
