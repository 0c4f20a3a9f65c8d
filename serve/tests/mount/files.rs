//! Files in a mount: what they are called, what is in them, what cannot be done to them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fastrand::Rng;
use rustix::fs::{FallocateFlags, OFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;
use vellum_core::device::{DeviceError, ExportSpace};

use crate::memory::{BLOCK_LEN, Disk};
use crate::programs::run;
use crate::{Shown, soon};

const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The error of something that had to fail.
fn errno<T>(result: io::Result<T>) -> Errno {
    let error = result.map(drop).expect_err("it was not refused");
    Errno::from_raw_os_error(error.raw_os_error().expect("an error of the system"))
}

#[test]
fn the_listing_follows_the_exports() {
    let (web, db) = (Disk::new(10_000), Disk::read_only(5000, 7));
    let Some(shown) = Shown::new(&[("web", &web), ("web@monday", &db), ("no/file", &web)]) else {
        return;
    };
    assert_eq!(names(shown.folder.path()), ["images", "snapshots"]);
    assert_eq!(names(&shown.path("images")), ["web.raw"]);
    assert_eq!(names(&shown.path("snapshots")), ["web@monday.raw"]);

    let image = fs::metadata(shown.path("images/web.raw")).unwrap();
    assert_eq!(
        (
            image.len(),
            image.mode() & 0o7777,
            image.mtime(),
            image.mtime_nsec()
        ),
        (10_000, 0o600, 1_000_000_000, 123_000_000)
    );
    let snapshot = fs::metadata(shown.path("snapshots/web@monday.raw")).unwrap();
    assert_eq!(
        (snapshot.len(), snapshot.mode() & 0o7777, snapshot.nlink()),
        (5000, 0o400, 1)
    );

    shown.disks.add("db", 5000, &db);
    shown.disks.remove("web@monday");
    assert_eq!(names(&shown.path("images")), ["db.raw", "web.raw"]);
    assert_eq!(names(&shown.path("snapshots")), [""; 0]);
    assert_eq!(
        errno(fs::metadata(shown.path("snapshots/web@monday.raw"))),
        Errno::NOENT
    );
    shown.disks.add("web", 6000, &Disk::new(20_000));
    let grown = fs::metadata(shown.path("images/web.raw")).unwrap();
    assert_eq!(
        (grown.len(), grown.mtime(), grown.ino()),
        (20_000, 6, image.ino())
    );
}

#[test]
fn a_thousand_names_come_in_one_listing() {
    let disk = Disk::new(4096);
    let Some(shown) = Shown::new(&[]) else { return };
    let expected: Vec<_> = (0..1000)
        .map(|n| format!("{n:04}{}.raw", "x".repeat(200)))
        .collect();
    expected.iter().for_each(|name| {
        shown
            .disks
            .add(name.strip_suffix(".raw").unwrap(), 1, &disk);
    });
    assert_eq!(names(&shown.path("images")), expected);
}

/// Reads, writes, holes, syncs and writes by others, against a plain vector.
#[test]
fn random_requests_leave_what_they_would_leave_in_memory() {
    let seed = std::env::var("VELLUM_TEST_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("VELLUM_TEST_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let len = 1_500_000 + rng.usize(..BLOCK_LEN);
    let disk = Disk::new(len);
    let Some(shown) = Shown::new(&[("disk", &disk)]) else {
        return;
    };
    let mut expected = vec![0; len];
    let mut file = shown.open("images/disk.raw");
    let mut other = shown.open("images/disk.raw");
    for step in 0..3000 {
        let (offset, wanted) = random_stretch(&mut rng, len);
        let range = offset..(offset + wanted).min(len);
        match rng.u8(..12) {
            0..=3 => {
                let mut bytes = vec![0xee; wanted];
                let count = file.read_at(&mut bytes, offset as u64).unwrap();
                assert!(
                    bytes[..count] == expected[range],
                    "step {step}: read {wanted} at {offset}"
                );
            }
            4..=6 => {
                let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(1..))
                    .take(wanted)
                    .collect();
                write(&file, &bytes, offset, &range);
                expected[range.clone()].copy_from_slice(&bytes[..range.len()]);
            }
            7 if wanted > 0 => {
                let mode = *rng
                    .choice(&[
                        PUNCH,
                        FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
                    ])
                    .unwrap();
                fallocate(&file, mode, offset as u64, wanted as u64).unwrap();
                expected[range].fill(0);
            }
            8 => {
                let bytes = vec![rng.u8(1..); range.len()];
                disk.write(&bytes, range.start);
                expected[range].copy_from_slice(&bytes);
            }
            9 => check_seek(&file, offset, &expected),
            10 => {
                let before = disk.flush_count.load(Ordering::SeqCst);
                file.sync_data().unwrap();
                assert!(disk.flush_count.load(Ordering::SeqCst) > before);
            }
            _ => {
                std::mem::swap(&mut file, &mut other);
                if rng.bool() {
                    let flags = if rng.bool() {
                        OFlags::DSYNC
                    } else {
                        OFlags::empty()
                    };
                    file = shown.open_with("images/disk.raw", flags);
                }
            }
        }
    }
    assert!(disk.bytes() == expected);
}

/// An offset and a length, now and then a long one.
fn random_stretch(rng: &mut Rng, len: usize) -> (usize, usize) {
    let offset = rng.usize(..=len);
    let is_long = rng.u8(..) < 8;
    (offset, rng.usize(..if is_long { len } else { 20_000 }))
}

/// A write past the end writes what fits; one that begins there is refused.
fn write(file: &File, bytes: &[u8], offset: usize, range: &std::ops::Range<usize>) {
    let result = file.write_at(bytes, offset as u64);
    if range.is_empty() && !bytes.is_empty() {
        assert_eq!(errno(result), Errno::FBIG);
    } else {
        assert_eq!(result.unwrap(), range.len());
    }
}

/// What seeking passes over reads as zeros.
fn check_seek(file: &File, offset: usize, expected: &[u8]) {
    match seek(file, SeekFrom::Data(offset as u64)) {
        Ok(data) => assert!(
            expected[offset..data as usize]
                .iter()
                .all(|byte| *byte == 0),
            "data passed over from {offset}"
        ),
        Err(error) => assert!(
            error == Errno::NXIO && expected[offset..].iter().all(|byte| *byte == 0),
            "{error} from {offset}"
        ),
    }
}

#[test]
fn seek_finds_the_holes() {
    let disk = Disk::new(20 * BLOCK_LEN + 100);
    disk.write(&[1; 10], 3 * BLOCK_LEN);
    disk.write(&[1; BLOCK_LEN], 7 * BLOCK_LEN);
    let Some(shown) = Shown::new(&[("disk", &disk)]) else {
        return;
    };
    let file = shown.open("images/disk.raw");
    let block = BLOCK_LEN as u64;
    let end = 20 * block + 100;
    for (from, data, hole) in [
        (0, Ok(3 * block), Ok(0)),
        (3 * block + 5, Ok(3 * block + 5), Ok(4 * block)),
        (4 * block, Ok(7 * block), Ok(4 * block)),
        (8 * block, Err(Errno::NXIO), Ok(8 * block)),
        (end, Err(Errno::NXIO), Err(Errno::NXIO)),
        (end + 1, Err(Errno::NXIO), Err(Errno::NXIO)),
    ] {
        assert_eq!(seek(&file, SeekFrom::Data(from)), data, "data from {from}");
        assert_eq!(seek(&file, SeekFrom::Hole(from)), hole, "hole from {from}");
    }
    fallocate(&file, PUNCH, 7 * block, block).unwrap();
    assert_eq!(seek(&file, SeekFrom::Data(4 * block)), Err(Errno::NXIO));
    assert_eq!(seek(&file, SeekFrom::End(0)), Ok(end));
    let stat = file.metadata().unwrap();
    assert!(
        stat.blocks() > 0 && stat.blocks() * 512 < stat.len(),
        "cp and tar look for holes only where blocks are missing"
    );
}

/// Without root the kernel reads the folder's mode and says no before we are asked.
fn is_refused(result: &io::Result<()>) -> bool {
    let error = result
        .as_ref()
        .expect_err("it was not refused")
        .raw_os_error();
    [Errno::PERM, Errno::ACCESS]
        .map(|errno| Some(errno.raw_os_error()))
        .contains(&error)
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    let (disk, sealed) = (Disk::new(8192), Disk::read_only(8192, 3));
    let Some(shown) = Shown::new(&[
        ("disk", &disk),
        ("sealed", &sealed),
        ("disk@s", &sealed),
        ("taken", &disk),
    ]) else {
        return;
    };
    shown.disks.refused.lock().unwrap().push("taken".to_owned());
    let image = shown.path("images/disk.raw");
    let file = shown.open("images/disk.raw");
    let new = shown.path("images/new.raw");
    for (what, result) in [
        ("create", File::create_new(&new).map(drop)),
        ("mkdir", fs::create_dir(shown.path("images/folder"))),
        ("remove", fs::remove_file(&image)),
        ("remove folder", fs::remove_dir(shown.path("images"))),
        ("rename", fs::rename(&image, &new)),
        ("link", fs::hard_link(&image, &new)),
        ("symlink", std::os::unix::fs::symlink("x", &new)),
        (
            "chmod",
            fs::set_permissions(&image, std::os::unix::fs::PermissionsExt::from_mode(0o777)),
        ),
        ("touch", file.set_modified(std::time::SystemTime::now())),
    ] {
        assert!(is_refused(&result), "{what}: {result:?}");
    }
    file.set_len(8192).unwrap();
    assert_eq!(errno(file.set_len(8193)), Errno::FBIG);
    for sealed in ["images/sealed.raw", "snapshots/disk@s.raw"] {
        let refused = errno(OpenOptions::new().write(true).open(shown.path(sealed)));
        assert!(
            [Errno::ROFS, Errno::ACCESS].contains(&refused),
            "{sealed}: {refused}"
        );
    }
    assert_eq!(
        errno(
            OpenOptions::new()
                .write(true)
                .open(shown.path("images/taken.raw"))
        ),
        Errno::BUSY
    );
    File::open(shown.path("images/taken.raw")).unwrap();
    assert_eq!(errno(file.write_at(&[1], 8192)), Errno::FBIG);
    assert_eq!(
        errno(fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096).map_err(Into::into)),
        Errno::OPNOTSUPP
    );
    assert_eq!(
        errno(fallocate(&file, FallocateFlags::empty(), 8000, 193).map_err(Into::into)),
        Errno::FBIG
    );
    assert_eq!(
        errno(fallocate(&file, FallocateFlags::ZERO_RANGE, 8000, 193).map_err(Into::into)),
        Errno::FBIG
    );
    assert_failures_are_told(&disk, &file);
}

/// Asserts that each failure of the disk reaches the programs as the error that is its own, and
/// that the file goes on afterwards.
fn assert_failures_are_told(disk: &Disk, file: &File) {
    for (failure, expected) in [
        (DeviceError::Io("damaged".to_owned()), Errno::IO),
        (DeviceError::NoSpace("full".to_owned()), Errno::NOSPC),
        (DeviceError::Stopping, Errno::SHUTDOWN),
        (DeviceError::OutOfRange, Errno::INVAL),
        (DeviceError::ReadOnly, Errno::ROFS),
    ] {
        *disk.failure.lock().unwrap() = Some(failure);
        assert_eq!(errno(file.write_at(&[1], 0)), expected);
        assert_eq!(errno(file.read_at(&mut [0], 0)), expected);
        assert_eq!(errno(file.sync_all()), expected);
        assert_eq!(
            errno(fallocate(file, PUNCH, 0, 4096).map_err(Into::into)),
            expected
        );
    }
    *disk.failure.lock().unwrap() = None;
    file.write_all_at(&[1], 0).unwrap();
}

#[test]
fn a_disk_is_attached_while_its_file_is_open() {
    let disk = Disk::new(8192);
    let Some(shown) = Shown::new(&[("disk", &disk)]) else {
        return;
    };
    let attached = || disk.attached_count.load(Ordering::SeqCst);
    names(&shown.path("images"));
    fs::metadata(shown.path("images/disk.raw")).unwrap();
    assert_eq!(attached(), 0, "looking attaches nothing");
    let first = shown.open("images/disk.raw");
    let second = first.try_clone().unwrap();
    let third = File::open(shown.path("images/disk.raw")).unwrap();
    assert_eq!(attached(), 1);
    drop((first, third));
    second.write_all_at(b"still", 0).unwrap();
    assert_eq!(attached(), 1);
    drop(second);
    soon("the last close detaches", || attached() == 0);
}

#[test]
fn an_open_file_outlives_its_name() {
    let disk = Disk::new(8192);
    let Some(shown) = Shown::new(&[("disk", &disk)]) else {
        return;
    };
    let file = shown.open("images/disk.raw");
    shown.disks.remove("disk");
    file.write_all_at(b"kept", 4000).unwrap();
    file.sync_all().unwrap();
    assert_eq!(&disk.bytes()[4000..4004], b"kept");
    let stat = file.metadata().unwrap();
    assert_eq!((stat.len(), stat.nlink()), (8192, 0));
}

/// A snapshot's pages stay in the kernel, so those of one must not be shown for the next of its
/// name.
#[test]
fn a_new_snapshot_shows_nothing_of_the_old_one() {
    let Some(shown) = Shown::new(&[]) else { return };
    for byte in 1..20 {
        shown
            .disks
            .add("disk@s", byte.into(), &Disk::read_only(100_000, byte));
        for _ in 0..2 {
            let mut bytes = Vec::new();
            File::open(shown.path("snapshots/disk@s.raw"))
                .unwrap()
                .read_to_end(&mut bytes)
                .unwrap();
            assert!(bytes == vec![byte; 100_000], "{byte}");
        }
        shown.disks.remove("disk@s");
    }
}

#[test]
fn synchronous_writes_are_flushed_when_they_return() {
    let disk = Disk::new(8192);
    let Some(shown) = Shown::new(&[("disk", &disk)]) else {
        return;
    };
    for (flags, expected) in [(OFlags::empty(), 0), (OFlags::DSYNC, 1), (OFlags::SYNC, 2)] {
        shown
            .open_with("images/disk.raw", flags)
            .write_all_at(b"x", 0)
            .unwrap();
        assert_eq!(
            disk.flush_count.load(Ordering::SeqCst),
            expected,
            "{flags:?}"
        );
    }
}

#[test]
fn long_writes_stay_long() {
    let disk = Disk::new(8 << 20);
    let Some(shown) = Shown::new(&[("disk", &disk)]) else {
        return;
    };
    shown
        .open("images/disk.raw")
        .write_all_at(&vec![5; 8 << 20], 0)
        .unwrap();
    assert!(disk.bytes().iter().all(|byte| *byte == 5));
    let longest = disk.longest_write.load(Ordering::SeqCst);
    println!("longest write: {longest}");
    assert!(longest >= 128 << 10, "{longest}");
}

#[test]
fn a_slow_flush_keeps_nobody_waiting() {
    let disk = Disk::new(8192);
    let Some(shown) = Shown::new(&[("disk", &disk)]) else {
        return;
    };
    let file = Arc::new(shown.open("images/disk.raw"));
    disk.flush_awaits_read.store(true, Ordering::SeqCst);
    let flushing = std::thread::spawn({
        let file = Arc::clone(&file);
        move || file.sync_all()
    });
    while !flushing.is_finished() {
        file.read_exact_at(&mut [0; 512], 0).unwrap();
    }
    flushing.join().unwrap().unwrap();
}

/// `cp` over a disk opens it with `O_TRUNC`, and leaves out what is a hole in its source.
#[test]
fn what_is_cut_off_a_file_becomes_zeros_and_its_length_stays() {
    let (disk, sealed) = (Disk::new(100_000), Disk::read_only(8192, 3));
    let Some(shown) = Shown::new(&[("disk", &disk), ("disk@s", &sealed)]) else {
        return;
    };
    let path = shown.path("images/disk.raw");
    let zeros_from = |len: usize| {
        let bytes = disk.bytes();
        bytes.len() == 100_000
            && bytes[..len].iter().all(|byte| *byte == 7)
            && bytes[len..].iter().all(|byte| *byte == 0)
    };
    let refill = || disk.write(&vec![7; 100_000], 0);
    refill();
    let file = File::create(&path).unwrap();
    assert!(zeros_from(0), "opened with O_TRUNC");
    assert_eq!(file.metadata().unwrap().len(), 100_000);
    for len in [99_999, 5000, 4096, 1, 0] {
        refill();
        file.set_len(len).unwrap();
        assert!(zeros_from(len as usize), "{len}");
        refill();
        let by_name = "import os, sys; os.truncate(sys.argv[1], int(sys.argv[2]))";
        let path = path.to_str().unwrap();
        run("python3", &["-c", by_name, path, &len.to_string()]);
        assert!(zeros_from(len as usize), "{len}, by its name");
        assert_eq!(fs::metadata(path).unwrap().len(), 100_000);
    }
    drop(file);
    let refused = errno(File::create(shown.path("snapshots/disk@s.raw")));
    assert!([Errno::ROFS, Errno::ACCESS].contains(&refused), "{refused}");
    assert!(sealed.bytes().iter().all(|byte| *byte == 3));
}

#[test]
fn room_is_kept_for_what_is_inside_and_changes_no_byte() {
    let disk = Disk::new(10_000);
    let Some(shown) = Shown::new(&[("disk", &disk)]) else {
        return;
    };
    disk.write(&[7; 10_000], 0);
    let file = shown.open("images/disk.raw");
    for (flags, offset, len) in [
        (FallocateFlags::empty(), 0, 10_000),
        (FallocateFlags::empty(), 4097, 5),
        (FallocateFlags::KEEP_SIZE, 0, 10_000),
        (FallocateFlags::KEEP_SIZE, 9000, 1 << 30),
    ] {
        fallocate(&file, flags, offset, len).unwrap();
    }
    assert!(disk.bytes().iter().all(|byte| *byte == 7));
    assert_eq!(file.metadata().unwrap().len(), 10_000);
    fallocate(&file, PUNCH, 4096, 4096).unwrap();
    assert!(disk.bytes()[4096..8192].iter().all(|byte| *byte == 0));
}

#[test]
fn the_room_is_that_of_the_exports() {
    let disk = Disk::new(40 << 12);
    let Some(shown) = Shown::new(&[("a", &disk), ("b", &disk)]) else {
        return;
    };
    let space = rustix::fs::statvfs(shown.folder.path()).unwrap();
    assert_eq!(
        (
            space.f_blocks,
            space.f_bfree,
            space.f_bavail,
            space.f_files,
            space.f_ffree
        ),
        (80, 0, 0, 5, 0),
        "disks in memory say nothing of their own"
    );
    *shown.disks.space.lock().unwrap() = Some(ExportSpace {
        len: 1 << 30,
        free_len: 1 << 20,
        usable_len: 1 << 19,
    });
    let space = rustix::fs::statvfs(shown.path("images")).unwrap();
    assert_eq!(
        (space.f_blocks, space.f_bfree, space.f_bavail),
        (1 << 18, 1 << 8, 1 << 7)
    );
}

#[test]
fn the_longest_names_are_files_that_work() {
    let disk = Disk::new(8192);
    let image = |len: usize| "n".repeat(len);
    let snapshot = |len: usize| format!("{}@{}", "n".repeat(len), "s".repeat(len));
    let all = [251, 252, 253, 254, 255].map(image);
    let both = [125, 126, 127, 200, 255].map(snapshot);
    let disks: Vec<_> = all
        .iter()
        .chain(&both)
        .map(|name| (&**name, &disk))
        .collect();
    let Some(shown) = Shown::new(&disks) else {
        return;
    };
    let found = names(&shown.path("images"));
    assert_eq!(found.len(), all.len());
    for (name, file) in all.iter().zip(&found[1..]) {
        assert!(
            file.starts_with(name.as_str()) || file.len() == 255,
            "{file}"
        );
    }
    let snapshots = names(&shown.path("snapshots"));
    assert_eq!(snapshots.len(), both.len());
    let folders = [("images", &found), ("snapshots", &snapshots)];
    for (folder, names) in folders {
        for (nth, name) in names.iter().enumerate() {
            assert!(name.len() <= 255, "{name}");
            let file = shown.open(&format!("{folder}/{name}"));
            file.write_all_at(&[nth as u8 + 1; 100], 0).unwrap();
            assert_eq!(disk.bytes()[..100], [nth as u8 + 1; 100], "{name}");
        }
    }
}
