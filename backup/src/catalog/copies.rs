//! A disk cache of fetched parts of objects: a part that is read again, in this process or a later
//! one, is not fetched again.
//!
//! For each object there is a sparse file, in which every fetched part stands at its offset in the
//! object. Parts are sealed as there, so the folder tells no more than the repository. No index
//! says which parts are present: the reader of a part opens it and verifies it, and a hole, a part
//! that a crash tore, one that two processes write at once and a damaged one all count as absent.
//! So nothing is synced, locked or renamed, and a failed write (a full disk, a read-only folder) is
//! ignored.
//!
//! **Bound.** Whenever a sixteenth of the limit was written, whole files are evicted, the least
//! recently used first, until there is room for another sixteenth. Each process that writes at the
//! same time may add a sixteenth.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;

use crate::objects::ObjectId;

/// Parts of the bound that are written between two looks at the folder.
const SHARES: u64 = 16;
/// The precision of a file's time of use: noting each use would cost a write each.
const USE_NOTED_EVERY: Duration = Duration::from_mins(1);
/// The permissions of the files, which show the content of disks if the repository is not
/// encrypted.
const FILE_MODE: u32 = 0o600;
/// The unit of `st_blocks`, in bytes.
const BLOCK_LEN: u64 = 512;

/// The folder. Shared by threads, and by processes.
#[derive(Debug)]
pub(crate) struct Copies {
    folder: PathBuf,
    len_max: u64,
    /// Bytes written since the last look.
    written_len: AtomicU64,
}

/// A file of the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Copy {
    id: ObjectId,
    used: SystemTime,
    len: u64,
}

impl Copies {
    /// Copies in `folder`, which may hold `len_max` bytes. Cost: looking through it.
    pub(crate) fn new(folder: PathBuf, len_max: u64) -> Self {
        let copies = Self {
            folder,
            len_max,
            written_len: AtomicU64::new(0),
        };
        copies.sweep();
        copies
    }

    /// The bytes that stand where `range` of the object should: the caller finds out whether they
    /// are those.
    pub(crate) fn take(&self, id: &ObjectId, range: Range<u64>) -> Option<Vec<u8>> {
        let mut options = File::options();
        let file = options
            .read(true)
            .custom_flags(OPEN_FLAGS)
            .open(self.path(id))
            .ok()?;
        let metadata = file
            .metadata()
            .ok()
            .filter(|metadata| metadata.is_file() && metadata.len() >= range.end)?;
        let mut bytes = vec![0; usize::try_from(range.end.checked_sub(range.start)?).ok()?];
        file.read_exact_at(&mut bytes, range.start).ok()?;
        note_use(&file, metadata.modified().ok());
        Some(bytes)
    }

    /// Keeps `bytes`, which stand at `offset` of the object, if that can be done.
    pub(crate) fn keep(&self, id: &ObjectId, offset: u64, bytes: &[u8]) {
        // A full disk costs speed, nothing else.
        let _ = self.write(id, offset, bytes);
        let len = bytes.len() as u64;
        if self.written_len.fetch_add(len, Ordering::Relaxed) + len >= self.len_max / SHARES {
            self.written_len.store(0, Ordering::Relaxed);
            self.sweep();
        }
    }

    fn write(&self, id: &ObjectId, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut options = File::options();
        options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .custom_flags(OPEN_FLAGS);
        let path = self.path(id);
        let file = match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.folder)?;
                options.open(&path)?
            }
            opened => opened?,
        };
        file.write_all_at(bytes, offset)
    }

    /// Makes room if there is too little.
    fn sweep(&self) {
        let found = found(&self.folder);
        for copy in too_much(found, self.len_max - self.len_max / SHARES) {
            let _ = fs::remove_file(self.path(&copy.id));
        }
    }

    fn path(&self, id: &ObjectId) -> PathBuf {
        self.folder.join(id.to_string())
    }
}

/// A link or a pipe in the folder is not what was put there.
const OPEN_FLAGS: i32 = OFlags::NOFOLLOW
    .union(OFlags::NONBLOCK)
    .bits()
    .cast_signed();

fn note_use(file: &File, noted: Option<SystemTime>) {
    let now = SystemTime::now();
    let is_recent = noted
        .and_then(|noted| now.duration_since(noted).ok())
        .is_some_and(|age| age < USE_NOTED_EVERY);
    if !is_recent {
        let _ = file.set_modified(now);
    }
}

/// The copies in the folder. Files that are no copies are left alone.
fn found(folder: &Path) -> Vec<Copy> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let copy = |entry: fs::DirEntry| {
        let id = entry.file_name().to_str().and_then(ObjectId::parse)?;
        let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
        Some(Copy {
            id,
            used: metadata.modified().ok()?,
            len: metadata.blocks() * BLOCK_LEN,
        })
    };
    entries.filter_map(copy).collect()
}

/// The copies to evict, so that the rest has `len_max` bytes at most: the least recently used.
fn too_much(mut found: Vec<Copy>, len_max: u64) -> Vec<Copy> {
    found.sort_unstable_by_key(|copy| copy.used);
    let (mut len, mut count) = (found.iter().map(|copy| copy.len).sum::<u64>(), 0);
    while len > len_max {
        len -= found[count].len;
        count += 1;
    }
    found.truncate(count);
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn id(nth: u8) -> ObjectId {
        ObjectId::of(&[nth])
    }

    #[test]
    fn what_was_kept_is_there_for_another_process_and_only_that() {
        let dir = tempfile::tempdir().expect("a folder");
        let copies = Copies::new(dir.path().join("new"), 64 * MIB);
        assert_eq!(copies.take(&id(1), 0..1), None);
        copies.keep(&id(1), 5000, b"a part");
        let other = Copies::new(dir.path().join("new"), 64 * MIB);
        assert_eq!(
            other.take(&id(1), 5000..5006).as_deref(),
            Some(&b"a part"[..])
        );
        assert_eq!(other.take(&id(1), 5000..5007), None, "it ends there");
        assert_eq!(other.take(&id(2), 5000..5006), None, "another object");
        #[expect(clippy::reversed_empty_ranges, reason = "hostile")]
        let reversed = 6..5;
        assert_eq!(other.take(&id(1), reversed), None);
        // A length that nothing stands behind takes no memory.
        assert_eq!(other.take(&id(1), 0..u64::MAX), None);
        let mode = fs::metadata(other.path(&id(1)))
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn those_used_longest_ago_go_first_and_no_more_than_must() {
        let copy = |nth: u8, age: u64, len| Copy {
            id: id(nth),
            used: SystemTime::UNIX_EPOCH + Duration::from_hours(1000 - age),
            len,
        };
        let found = vec![
            copy(0, 3, 10),
            copy(1, 9, 20),
            copy(2, 1, 30),
            copy(3, 7, 40),
        ];
        let gone = |len_max| {
            too_much(found.clone(), len_max)
                .iter()
                .map(|copy| copy.len)
                .collect::<Vec<_>>()
        };
        assert_eq!(gone(100), [] as [u64; 0]);
        assert_eq!(gone(99), [20]);
        assert_eq!(gone(80), [20]);
        assert_eq!(gone(79), [20, 40]);
        assert_eq!(gone(0), [20, 40, 10, 30]);
    }

    #[test]
    fn a_folder_stays_within_its_bound_and_keeps_what_is_used() {
        let dir = tempfile::tempdir().expect("a folder");
        let copies = Copies::new(dir.path().to_owned(), 16 * MIB);
        let old = SystemTime::now() - Duration::from_hours(5);
        for nth in 0..100 {
            copies.keep(&id(nth), 3 * MIB, &vec![nth; MIB as usize]);
            assert!(
                found(dir.path()).iter().map(|copy| copy.len).sum::<u64>() <= 16 * MIB,
                "{nth}"
            );
            // The first copy is read again and again, and each of the others was written long after
            // the one before.
            let age = Duration::from_hours(u64::from(100 - nth));
            File::open(copies.path(&id(nth)))
                .and_then(|file| file.set_modified(old - age))
                .expect("it is there");
            assert!(copies.take(&id(0), 3 * MIB..4 * MIB).is_some(), "{nth}");
        }
        assert!(
            copies.take(&id(1), 3 * MIB..4 * MIB).is_none(),
            "nobody used it"
        );
        assert!(copies.take(&id(99), 3 * MIB..4 * MIB).is_some());
    }

    #[test]
    fn strangers_in_the_folder_are_neither_read_nor_removed_nor_waited_for() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("secret"), vec![1; MIB as usize]).expect("room");
        symlink(
            dir.path().join("secret"),
            dir.path().join(id(1).to_string()),
        )
        .expect("room");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join(id(2).to_string()),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .expect("a pipe");
        fs::create_dir(dir.path().join(id(3).to_string())).expect("room");
        let copies = Copies::new(dir.path().to_owned(), 16);
        for nth in 1..4 {
            assert_eq!(copies.take(&id(nth), 0..1), None, "{nth}");
            copies.keep(&id(nth), 0, b"x");
        }
        assert_eq!(
            fs::read(dir.path().join("secret")).expect("it is there"),
            vec![1; MIB as usize]
        );
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_done_without() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("file"), b"in the way").expect("room");
        for folder in [
            dir.path().join("file"),
            dir.path().join("file/below"),
            PathBuf::from("/proc/nothing/here"),
        ] {
            let copies = Copies::new(folder, 64 * MIB);
            copies.keep(&id(1), 0, b"a part");
            assert_eq!(copies.take(&id(1), 0..6), None);
        }
    }
}
