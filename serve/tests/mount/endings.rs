//! How mounts end: asked, while busy, from outside, and killed.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use vellum_serve::fuse::{Mount, MountError, MountOptions};

use crate::memory::{Disk, Disks};
use crate::{PATIENCE, Shown, fuse_is_here, soon};

/// Names the folder that a process of its own shall serve.
const SERVED_FOLDER: &str = "VELLUM_TEST_SERVED_FOLDER";

fn is_mounted(folder: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let folder = folder
        .canonicalize()
        .unwrap_or_else(|_| folder.to_path_buf());
    table
        .lines()
        .any(|line| line.split(' ').nth(4) == folder.to_str())
}

#[test]
fn a_stopped_mount_leaves_an_empty_folder() {
    let disk = Disk::new(4096);
    let Some(mut shown) = Shown::new(&[("disk", &disk)]) else {
        return;
    };
    shown.open("images/disk.raw").write_all_at(b"x", 0).unwrap();
    shown.mount.take().unwrap().stop_within(PATIENCE).unwrap();
    assert!(!is_mounted(shown.folder.path()));
    assert_eq!(fs::read_dir(shown.folder.path()).unwrap().count(), 0);
    assert_eq!(disk.attached_count.load(Ordering::SeqCst), 0);
}

#[test]
fn a_stop_takes_open_files_away_and_keeps_what_was_written() {
    let disk = Disk::new(4096);
    let Some(mut shown) = Shown::new(&[("disk", &disk)]) else {
        return;
    };
    let file = shown.open("images/disk.raw");
    file.write_all_at(b"answered", 0).unwrap();
    shown
        .mount
        .take()
        .unwrap()
        .stop_within(Duration::from_millis(50))
        .unwrap();
    assert!(!is_mounted(shown.folder.path()));
    assert_eq!(fs::read_dir(shown.folder.path()).unwrap().count(), 0);
    assert_eq!(disk.attached_count.load(Ordering::SeqCst), 0);
    assert_eq!(disk.flush_count.load(Ordering::SeqCst), 1);
    assert_eq!(&disk.bytes()[..8], b"answered");
    assert!(file.write_at(b"late", 0).is_err());
}

#[test]
fn a_stop_waits_for_files_that_are_closed_in_time() {
    let disk = Disk::new(4096);
    let Some(mut shown) = Shown::new(&[("disk", &disk)]) else {
        return;
    };
    let file = shown.open("images/disk.raw");
    let mount = shown.mount.take().unwrap();
    let stopping = thread::spawn(move || mount.stop_within(PATIENCE));
    thread::sleep(Duration::from_millis(100));
    file.write_all_at(b"in time", 0).unwrap();
    drop(file);
    stopping.join().unwrap().unwrap();
    assert_eq!(&disk.bytes()[..7], b"in time");
}

#[test]
fn an_unmount_from_outside_is_noticed() {
    let Some(mut shown) = Shown::new(&[]) else {
        return;
    };
    let mount = shown.mount.take().unwrap();
    assert!(!mount.wait_unmounted(Duration::ZERO));
    assert!(
        Command::new("fusermount3")
            .arg("-u")
            .arg(shown.folder.path())
            .status()
            .unwrap()
            .success()
    );
    assert!(mount.wait_unmounted(PATIENCE));
    mount.stop_within(Duration::ZERO).unwrap();
}

#[test]
fn a_stop_closes_what_a_lazy_unmount_left_open() {
    let disk = Disk::new(4096);
    let Some(mut shown) = Shown::new(&[("disk", &disk)]) else {
        return;
    };
    let file = shown.open("images/disk.raw");
    assert!(
        Command::new("fusermount3")
            .args(["-u", "-z"])
            .arg(shown.folder.path())
            .status()
            .unwrap()
            .success()
    );
    file.write_all_at(b"still served", 0).unwrap();
    shown
        .mount
        .take()
        .unwrap()
        .stop_within(Duration::ZERO)
        .unwrap();
    assert_eq!(
        (
            disk.attached_count.load(Ordering::SeqCst),
            disk.flush_count.load(Ordering::SeqCst)
        ),
        (0, 1)
    );
    assert!(file.write_at(b"late", 0).is_err());
}

#[test]
fn a_folder_with_something_in_it_is_not_hidden() {
    let folder = tempfile::tempdir().unwrap();
    let start = |folder: &Path| {
        Mount::mount_exports(Arc::new(Disks::default()), folder, MountOptions::default()).map(drop)
    };
    fs::write(folder.path().join("letter"), "dear").unwrap();
    assert!(matches!(start(folder.path()), Err(MountError::NotEmpty(_))));
    assert!(matches!(
        start(&folder.path().join("letter")),
        Err(MountError::Folder { .. })
    ));
    assert!(matches!(
        start(&folder.path().join("nothing")),
        Err(MountError::Folder { .. })
    ));
}

/// Not a test: what the next one kills. It runs in a process of its own, started with the folder in
/// its environment.
#[test]
#[ignore = "it serves a test that starts and kills it"]
fn serve_until_killed() {
    let Some(folder) = std::env::var_os(SERVED_FOLDER) else {
        return;
    };
    let disks = Arc::new(Disks::default());
    disks.add("disk", 1, &Disk::new(1 << 20));
    let _mount = Mount::mount_exports(disks, Path::new(&folder), MountOptions::default()).unwrap();
    loop {
        thread::park();
    }
}

/// A server in a process of its own, which shows one image by the time this returns.
fn served_elsewhere(folder: &Path) -> Child {
    let mut server = Command::new(std::env::current_exe().unwrap());
    server
        .args(["--exact", "endings::serve_until_killed", "--ignored"])
        .env(SERVED_FOLDER, folder);
    let server = server.stdout(Stdio::null()).spawn().unwrap();
    soon("the server shows its image", || {
        folder.join("images/disk.raw").exists()
    });
    server
}

#[test]
fn a_killed_server_leaves_a_folder_that_can_be_used_again() {
    if !fuse_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let mut server = served_elsewhere(folder.path());
        let image = folder.path().join("images/disk.raw");
        let write = |number: u8| {
            let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
            let writes = move || {
                (0..u64::MAX)
                    .take_while(|step| {
                        file.write_all_at(&[number; 5000], step % 100 * 5000)
                            .is_ok()
                    })
                    .count()
            };
            thread::spawn(writes)
        };
        let writers: Vec<_> = (0..4).map(write).collect();
        thread::sleep(Duration::from_millis(50 * round));
        server.kill().unwrap();
        server.wait().unwrap();
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .for_each(|count| println!("{count} writes"));
        soon("the guard unmounts", || !is_mounted(folder.path()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

/// The processes that `parent` started, by their number.
fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let is_child = |process: &u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let after_name = stat.rsplit(") ").next().unwrap_or_default();
        after_name.split(' ').nth(1) == Some(&parent.to_string())
    };
    processes.filter(is_child).collect()
}

/// A service manager may kill all processes of a service, guards too.
#[test]
fn a_mount_that_died_with_its_guard_gives_way_to_the_next() {
    if !fuse_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut server = served_elsewhere(folder.path());
    let guards = children(server.id());
    assert_eq!(guards.len(), 1);
    for guard in guards {
        assert!(
            Command::new("kill")
                .args(["-KILL", &guard.to_string()])
                .status()
                .unwrap()
                .success()
        );
    }
    server.kill().unwrap();
    server.wait().unwrap();
    soon("the mount is dead", || fs::metadata(folder.path()).is_err());
    Mount::mount_exports(
        Arc::new(Disks::default()),
        folder.path(),
        MountOptions::default(),
    )
    .unwrap()
    .stop_within(PATIENCE)
    .unwrap();
    assert!(!is_mounted(folder.path()));
}
