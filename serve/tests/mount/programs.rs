//! Others than this process as clients: ext4 on a loop device, fio and its mappings, another user.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vellum_serve::fuse::{Mount, MountOptions};

use crate::memory::{Disk, Disks};
use crate::{PATIENCE, Shown, fuse_is_here, skipped};

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Unmounts, patiently: a process that another test is starting has this one's open files until it
/// is the other program.
fn unmount(folder: &Path) {
    let until = Instant::now() + PATIENCE;
    let is_done = || {
        Command::new("umount")
            .arg(folder)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    while !is_done() {
        assert!(Instant::now() < until, "{} stays busy", folder.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A loop device, let go at the end.
struct LoopDevice(String);

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

fn can_loop() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root || !Path::new("/dev/loop-control").exists() {
        skipped("loop devices need root and /dev/loop-control");
        return false;
    }
    true
}

#[test]
fn a_file_system_on_a_loop_device_stays_whole() {
    if !can_loop() {
        return;
    }
    let disk = Disk::new(64 << 20);
    let Some(mut shown) = Shown::new(&[("disk", &disk)]) else {
        return;
    };
    let inside = tempfile::tempdir().unwrap();
    let content: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
        .take(5 << 20)
        .collect();
    for round in 0..2 {
        let device = LoopDevice(run(
            "losetup",
            &[
                "--find",
                "--show",
                shown.path("images/disk.raw").to_str().unwrap(),
            ],
        ));
        if round == 0 {
            run("mkfs.ext4", &["-q", &device.0]);
        }
        run("mount", &[&device.0, inside.path().to_str().unwrap()]);
        if round == 0 {
            (0..50).for_each(|number| {
                fs::write(
                    inside.path().join(format!("small{number}")),
                    vec![number; 3000],
                )
                .unwrap();
            });
            fs::write(inside.path().join("large"), &content).unwrap();
            fs::write(inside.path().join("removed"), &content).unwrap();
            fs::remove_file(inside.path().join("removed")).unwrap();
            run("fstrim", &[inside.path().to_str().unwrap()]);
        } else {
            assert!(fs::read(inside.path().join("large")).unwrap() == content);
            assert!((0..50).all(|number| {
                fs::read(inside.path().join(format!("small{number}"))).unwrap()
                    == vec![number; 3000]
            }));
        }
        unmount(inside.path());
        run("e2fsck", &["-fn", &device.0]);
    }
    run(
        "e2fsck",
        &["-fn", shown.path("images/disk.raw").to_str().unwrap()],
    );
    shown.mount.take().unwrap().stop_within(PATIENCE).unwrap();
}

/// `losetup -r`, and the file system that the snapshot holds, read through it.
#[test]
fn a_snapshot_on_a_loop_device_is_a_file_system_to_be_read() {
    if !can_loop() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (raw, inside) = (folder.path().join("disk.raw"), folder.path().join("inside"));
    fs::create_dir(&inside).unwrap();
    let (raw, inside) = (raw.to_str().unwrap(), inside.to_str().unwrap());
    run("truncate", &["-s", "32M", raw]);
    run("mkfs.ext4", &["-q", "-d", env!("CARGO_MANIFEST_DIR"), raw]);
    let disk = Disk::new(32 << 20);
    disk.write(&fs::read(raw).unwrap(), 0);
    disk.seal();
    let Some(mut shown) = Shown::new(&[("disk@s", &disk)]) else {
        return;
    };
    let file = shown.path("snapshots/disk@s.raw");
    for direct in ["off", "on"] {
        let direct = format!("--direct-io={direct}");
        let words = [
            "--read-only",
            &direct,
            "--find",
            "--show",
            file.to_str().unwrap(),
        ];
        let device = LoopDevice(run("losetup", &words));
        run("e2fsck", &["-fn", &device.0]);
        run("mount", &["-o", "ro", &device.0, inside]);
        let own = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
        let read = fs::read(format!("{inside}/Cargo.toml"));
        unmount(Path::new(inside));
        assert!(read.unwrap() == own);
    }
    shown.mount.take().unwrap().stop_within(PATIENCE).unwrap();
}

/// Every block that was written comes back as it was written: many requests at once past the
/// kernel's memory, one at a time through it, and through mappings.
#[test]
#[ignore = "it needs fio, and some seconds"]
fn fio_finds_what_it_wrote() {
    let disk = Disk::new(64 << 20);
    let Some(shown) = Shown::new(&[("disk", &disk)]) else {
        return;
    };
    let image = format!("--filename={}", shown.path("images/disk.raw").display());
    for options in [
        &[
            "--ioengine=libaio",
            "--iodepth=16",
            "--direct=1",
            "--bsrange=512-64k",
            "--rw=randrw",
        ][..],
        &[
            "--ioengine=psync",
            "--bsrange=4k-2m",
            "--rw=randwrite",
            "--fdatasync=32",
        ],
        &[
            "--ioengine=mmap",
            "--bs=4k",
            "--rw=randwrite",
            "--fsync=100",
        ],
    ] {
        let always = [
            "--name=verify",
            &image,
            "--size=64m",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--do_verify=1",
            "--allow_file_create=0",
            "--verify_state_save=0",
        ];
        run("fio", &[&always[..], options].concat());
    }
}

/// What another user reads of an image, as that user sees it.
fn read_as_nobody(path: &Path) -> bool {
    let mut command = Command::new("cat");
    command
        .arg(path)
        .uid(65_534)
        .gid(65_534)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().unwrap().success()
}

#[test]
fn other_users_see_nothing_unless_they_are_let_in() {
    if !fuse_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let inside = folder.path().join("mount");
    fs::create_dir(&inside).unwrap();
    fs::write(folder.path().join("letter"), "to all").unwrap();
    if !rustix::process::geteuid().is_root() || !read_as_nobody(&folder.path().join("letter")) {
        return skipped("only root can be another user, in a folder that such users reach");
    }
    for allow_other in [false, true] {
        let disks = Arc::new(Disks::default());
        disks.add("disk", 1, &Disk::new(4096));
        let mount = Mount::mount_exports(
            disks,
            &inside,
            MountOptions {
                allow_other,
                ..MountOptions::default()
            },
        )
        .unwrap();
        assert!(fs::read(inside.join("images/disk.raw")).is_ok());
        assert_eq!(read_as_nobody(&inside.join("images/disk.raw")), allow_other);
        mount.stop_within(PATIENCE).unwrap();
    }
}
