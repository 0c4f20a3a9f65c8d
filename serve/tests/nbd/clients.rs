//! The clients that people use: libnbd's and qemu's programs do with the server what they would do
//! with any other.

use std::fs;
use std::path::Path;
use std::process::Command;

use vellum_serve::nbd::ClientCertificates;
use vellum_testkit::certificates::certificates;

use crate::memory::GRID;
use crate::tls;
use crate::world::{World, noise};

/// Runs a program that has to succeed. Returns what it said.
fn run(program: &str, arguments: &[&str]) -> String {
    let done = Command::new("timeout")
        .arg("300")
        .arg(program)
        .args(arguments)
        .output();
    let done = done.expect("the client is installed (libnbd-bin, qemu-utils): `make test` does it");
    let (said, complained) = (
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr),
    );
    assert!(
        done.status.success(),
        "{program} {arguments:?}: {} {said} {complained}",
        done.status
    );
    said.into_owned()
}

fn uri(world: &World, name: &str) -> String {
    format!("nbd+unix:///{name}?socket={}", world.socket().display())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the folder's name is text")
}

/// 8 MiB with holes of several lengths.
fn disk() -> Vec<u8> {
    let mut bytes = noise(8 << 20, 4);
    bytes[..1 << 20].fill(0);
    bytes[3 << 20..(3 << 20) + GRID].fill(0);
    bytes[5 << 20..7 << 20].fill(0);
    bytes
}

#[test]
fn nbdinfo_sees_exports_flags_and_maps() {
    let world = World::new(disk());
    let listed = run("nbdinfo", &["--list", &uri(&world, "")]);
    assert!(
        listed.contains("export=\"disk\"") && listed.contains("export=\"fixed\""),
        "{listed}"
    );
    let shown = run("nbdinfo", &["--json", &uri(&world, "disk")]);
    for fact in [
        "\"export-size\": 8388608",
        "\"structured\": true",
        "base:allocation",
        "qemu:dirty-bitmap:since:before",
        "\"can_fast_zero\": true",
    ] {
        assert!(shown.contains(fact), "{fact} in {shown}");
    }
    let map = run("nbdinfo", &["--map", "--totals", &uri(&world, "disk")]);
    assert!(
        map.contains("3149824") && map.contains("hole,zero"),
        "three MiB and a chunk are holes: {map}"
    );
    let read_only = run("nbdinfo", &["--is", "read-only", &uri(&world, "fixed")]);
    assert_eq!(read_only, "");
    run(
        "qemu-io",
        &["-f", "raw", "-c", "write -P 5 1M 4k", &uri(&world, "disk")],
    );
    let changed = run(
        "nbdinfo",
        &["--map=qemu:dirty-bitmap:since:before", &uri(&world, "disk")],
    );
    let fields: Vec<Vec<&str>> = changed
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(fields[1][..3], ["1048576", "4096", "1"], "{changed}");
}

#[test]
fn nbdcopy_brings_a_disk_in_and_out() {
    let world = World::new(disk());
    let (file, back) = (
        world.folder.path().join("disk.raw"),
        world.folder.path().join("back.raw"),
    );
    run("nbdcopy", &[&uri(&world, "disk"), text(&file)]);
    assert!(fs::read(&file).unwrap() == disk());
    let mut other = noise(8 << 20, 9);
    other[2 << 20..4 << 20].fill(0);
    fs::write(&file, &other).unwrap();
    run(
        "nbdcopy",
        &[
            "--connections=4",
            "--flush",
            text(&file),
            &uri(&world, "disk"),
        ],
    );
    assert!(world.disk.durable() == other);
    run(
        "nbdcopy",
        &[
            "--connections=4",
            "--requests=64",
            "--request-size=1048576",
            &uri(&world, "disk"),
            text(&back),
        ],
    );
    assert!(fs::read(&back).unwrap() == other);
}

/// Runs qemu-img with the words of `options`, and then `places`.
fn qemu_img(options: &str, places: &[&str]) -> String {
    let arguments: Vec<&str> = options.split(' ').chain(places.iter().copied()).collect();
    run("qemu-img", &arguments)
}

#[test]
fn qemu_img_converts_compares_and_maps() {
    let world = World::new(disk());
    let (raw, qcow2) = (
        world.folder.path().join("disk.raw"),
        world.folder.path().join("disk.qcow2"),
    );
    qemu_img(
        "convert -f raw -O qcow2",
        &[&uri(&world, "disk"), text(&qcow2)],
    );
    qemu_img(
        "compare -f raw -F qcow2",
        &[&uri(&world, "disk"), text(&qcow2)],
    );
    qemu_img("convert -f qcow2 -O raw", &[text(&qcow2), text(&raw)]);
    assert!(fs::read(&raw).unwrap() == disk());
    let map = qemu_img("map --output=json -f raw", &[&uri(&world, "disk")]);
    assert!(map.contains("\"start\": 5242880, \"length\": 2097152, \"depth\": 0, \"present\": true, \"zero\": true"), "{map}");
    let mut other = noise(8 << 20, 11);
    other[1 << 20..6 << 20].fill(0);
    fs::write(&raw, &other).unwrap();
    qemu_img(
        "convert -n -W -m 8 -f raw -O raw",
        &[text(&raw), &uri(&world, "disk")],
    );
    assert!(world.disk.content() == other);
    let bitmap = format!(
        "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={},file.export=disk,file.x-dirty-bitmap=qemu:dirty-bitmap:since:before",
        text(&world.socket())
    );
    let changes = qemu_img("map --output=json --image-opts", &[&bitmap]);
    assert!(
        changes.contains("\"data\": false"),
        "qemu shows dirty stretches as not there: {changes}"
    );
}

#[test]
fn qemu_io_writes_zeroes_discards_and_flushes() {
    let world = World::new(disk());
    let commands = [
        "write -P 7 1000 70000",
        "write -z 8192 16384",
        "discard 4M 64k",
        "write -f -P 8 7M 1M",
        "flush",
        "read -P 7 1000 7000",
        "read -P 0 8192 16384",
    ];
    let mut arguments: Vec<&str> = commands
        .iter()
        .flat_map(|command| ["-c", command])
        .collect();
    let uri = uri(&world, "disk");
    arguments.extend(["-d", "unmap", "-f", "raw", &uri]);
    let said = run("qemu-io", &arguments);
    assert!(!said.contains("failed"), "{said}");
    let mut expected = disk();
    expected[1000..71000].fill(7);
    expected[8192..24576].fill(0);
    expected[4 << 20..(4 << 20) + 65536].fill(0);
    expected[7 << 20..8 << 20].fill(8);
    assert!(world.disk.durable() == expected);
}

#[test]
fn qemu_and_libnbd_come_in_under_tls() {
    let world = tls::secure_world(disk(), ClientCertificates::Required);
    let (folder, file) = (certificates(), world.folder.path().join("disk.raw"));
    let socket = world.socket();
    let secure = format!(
        "nbds+unix://localhost/disk?socket={}&tls-certificates={}",
        text(&socket),
        text(&folder)
    );
    run("nbdcopy", &["--connections=2", &secure, text(&file)]);
    assert!(fs::read(&file).unwrap() == disk());
    let credentials = format!(
        "tls-creds-x509,id=tls0,endpoint=client,dir={}",
        text(&folder)
    );
    let image = format!(
        "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={},file.export=disk,file.tls-creds=tls0,file.tls-hostname=localhost",
        text(&socket)
    );
    run(
        "qemu-img",
        &[
            "compare",
            "--object",
            &credentials,
            "--image-opts",
            &image,
            &format!("driver=raw,file.driver=file,file.filename={}", text(&file)),
        ],
    );
}
