//! The kernel as a client: an ext4 file system on a loop device on a mounted image.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::memory::Disk;
use crate::{PATIENCE, Shown, skipped};

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
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
    let Some(mut shown) = Shown::new(&[("disk", &disk)]) else { return };
    let inside = tempfile::tempdir().unwrap();
    let content: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(5 << 20).collect();
    for round in 0..2 {
        let device = LoopDevice(run("losetup", &["--find", "--show", shown.path("images/disk.raw").to_str().unwrap()]));
        if round == 0 {
            run("mkfs.ext4", &["-q", &device.0]);
        }
        run("mount", &[&device.0, inside.path().to_str().unwrap()]);
        if round == 0 {
            (0..50).for_each(|number| fs::write(inside.path().join(format!("small{number}")), vec![number; 3000]).unwrap());
            fs::write(inside.path().join("large"), &content).unwrap();
            fs::write(inside.path().join("removed"), &content).unwrap();
            fs::remove_file(inside.path().join("removed")).unwrap();
            run("fstrim", &[inside.path().to_str().unwrap()]);
        } else {
            assert!(fs::read(inside.path().join("large")).unwrap() == content);
            assert!((0..50).all(|number| fs::read(inside.path().join(format!("small{number}"))).unwrap() == vec![number; 3000]));
        }
        run("umount", &[inside.path().to_str().unwrap()]);
        run("e2fsck", &["-fn", &device.0]);
    }
    run("e2fsck", &["-fn", shown.path("images/disk.raw").to_str().unwrap()]);
    shown.mount.take().unwrap().stop(PATIENCE).unwrap();
}
