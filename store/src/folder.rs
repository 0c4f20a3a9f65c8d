//! The store's folder: its format, the lock of the process that writes, and the files that
//! processes leave for each other.
//!
//! ```text
//! vellum.store   text: "vellum store format N". Read before anything else is touched, so that a
//!                newer store is refused untouched.
//! lock           locked (flock) by the one process that writes; holds its pid and command, for
//!                the message that others give.
//! commits        8 bytes: number of acknowledged commits (LE); 8 bytes: checksum. Written after
//!                each, never synced: it can lag behind the database (power loss), never run ahead
//!                of it but where the database's log lost its end.
//! reserve        Allocated bytes, kept back for a full disk; spare/ holds names of files for one
//!                without any: see `reserve`.
//! suspects       left by processes that only read, for the next that writes: 24 bytes for each run
//!                of chunks that were found damaged: 8 first id (LE), 8 count (LE), at most
//!                SUSPECTS_RUN_MAX; 8 checksum. If it is lost, the next read of the chunks finds
//!                the damage again.
//! repair.new/    while a repair goes on, and replaced-DATE/, the database that one has replaced:
//!                see `repair/place`.
//! control        a socket while a server has the store: other processes have their commands done
//!                there. nbd.sock is its NBD socket.
//! database/      RocksDB's.
//! parity/        heals damaged files of the database, if it is on (`parity`).
//! ```
//!
//! The folder may be reached through links. Below it no link is followed: a link that was planted
//! there neither receives a store's bytes nor gets its target truncated. New files are for their
//! owner only; existing ones keep the permissions that they were given.

pub(crate) mod layout;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use vellum_core::units::ChunkId;
use vellum_core::wire::{append_checksum, verify_checksum};

use crate::error::StoreError;
use crate::reserve::Reserve;
use layout::{COMMITS, CONTROL, DATABASE, LOCK, MARKER, OWN_FILES, SUSPECTS, UNFINISHED_MARKER};

/// The format that this program writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
/// Permissions of new files and folders.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
/// Permissions of new folders above a store, which the umask limits.
const PARENT_MODE: u32 = 0o777;
/// Bytes that file systems allocate together, mostly.
const BLOCK_LEN: u64 = 4096;
const COMMITS_CONTEXT: &str = "vellum 2026-11 count of commits v1";
pub(crate) const MARKER_TEXT: &str = "vellum store format ";
/// The length of what stands in the lock file: it is written over what was there, so that it needs
/// no room.
const OWNER_LEN: usize = 200;
const SUSPECTS_CONTEXT: &str = "vellum 2026-11 suspect chunks v1";
/// The longest run in the file of suspects: what one frame may span.
const SUSPECTS_RUN_MAX: u64 = vellum_core::frame::SPAN_MAX as u64;
const SUSPECTS_ENTRY_LEN: usize = 24;
/// The longest file of suspects that is written or read: more are found again.
const SUSPECTS_LEN_MAX: u64 = 4 << 20;
/// Permissions of the file `suspects`: for its owner only.
const SUSPECTS_MODE: u32 = 0o600;
/// Tries, and the wait between two, of a process that wants to write while others only ask for the
/// owner.
const ASKERS_TRIES: u32 = 200;
const ASKERS_WAIT: Duration = Duration::from_millis(1);

/// A store's folder.
#[derive(Clone, Debug)]
pub(crate) struct StoreFolder {
    dir: PathBuf,
}

/// Bytes on disk, as `du` counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FolderUsage {
    /// The whole folder.
    pub(crate) total: u64,
    /// Of that: the database's logs.
    pub(crate) logs: u64,
    /// Of that: the reserve.
    pub(crate) reserve: u64,
    /// Of that: parity.
    pub(crate) parity: u64,
}

/// Count of acknowledged commits on disk: the witness against a log that lost its end.
#[derive(Debug)]
pub(crate) struct CommitCounterFile {
    file: Option<File>,
}

/// The right to write, until it is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct OwnerLock {
    file: File,
}

impl Drop for OwnerLock {
    fn drop(&mut self) {
        // Closing does not do: a child that another thread is just starting has the file open too,
        // until it runs its own program.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

impl StoreFolder {
    /// Makes an empty folder ready for a store: everything but the marker, which
    /// [`StoreFolder::write_marker`] writes last.
    pub(crate) fn create_in(dir: &Path) -> Result<Self, StoreError> {
        make_durably(dir, FOLDER_MODE)
            .map_err(|source| StoreError::of_file("make the folder", dir, source))?;
        let mut entries = fs::read_dir(dir)
            .map_err(|source| StoreError::of_file("read the folder", dir, source))?;
        if entries.next().is_some() {
            return Err(StoreError::NotEmpty {
                dir: dir.to_owned(),
            });
        }
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// The folder of a store that is there and has a format that this program knows.
    pub(crate) fn open_marked(dir: &Path) -> Result<Self, StoreError> {
        let folder = Self {
            dir: dir.to_owned(),
        };
        let marker = dir.join(MARKER);
        folder.refuse_links()?;
        let mut text = String::new();
        let opened = folder
            .open_file(MARKER, OpenOptions::new().read(true))
            .and_then(|file| file.take(64).read_to_string(&mut text));
        match opened {
            Err(error)
                if [
                    std::io::ErrorKind::NotFound,
                    std::io::ErrorKind::NotADirectory,
                ]
                .contains(&error.kind()) =>
            {
                // If nothing was ever acknowledged, this is the rest of an `init` that was cut off.
                if has_database(dir) && folder.acknowledged_commits() > 0 {
                    return Err(StoreError::damaged_record(
                        marker.display().to_string(),
                        "it is gone",
                    ));
                }
                return Err(StoreError::NoStore {
                    dir: dir.to_owned(),
                });
            }
            Err(source) => return Err(StoreError::of_file("read", &marker, source)),
            Ok(_) => {}
        }
        let format = text
            .strip_suffix('\n')
            .and_then(|line| line.strip_prefix(MARKER_TEXT))
            .filter(|format| format.bytes().all(|byte| byte.is_ascii_graphic()))
            .ok_or_else(|| {
                StoreError::damaged_record(marker.display().to_string(), "not a store's")
            })?;
        if format.parse() != Ok(FORMAT) {
            return Err(StoreError::NewerFormat {
                dir: dir.to_owned(),
                found: format.escape_default().to_string(),
                known: FORMAT,
            });
        }
        Ok(folder)
    }

    /// Says which of the folder's own files is a link, before anything goes through it.
    fn refuse_links(&self) -> Result<(), StoreError> {
        let is_link = |path: &PathBuf| {
            fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_symlink())
        };
        let mut paths = OWN_FILES.iter().map(|name| self.dir.join(name));
        paths.find(is_link).map_or(Ok(()), |path| {
            Err(StoreError::of_file("open", &path, link_in_store()))
        })
    }

    /// Opens one of the folder's own files, which is no link. A new one is for its owner only.
    pub(crate) fn open_file(&self, name: &str, options: &OpenOptions) -> std::io::Result<File> {
        let mut options = options.clone();
        options
            .mode(FILE_MODE)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        options
            .open(self.dir.join(name))
            .map_err(|error| match error.raw_os_error() {
                Some(number) if number == Errno::LOOP.raw_os_error() => link_in_store(),
                _ => error,
            })
    }

    /// Makes the folder of a new database.
    pub(crate) fn make_database(&self) -> Result<PathBuf, StoreError> {
        let dir = self.database_path();
        DirBuilder::new()
            .mode(FOLDER_MODE)
            .create(&dir)
            .map_err(|source| StoreError::of_file("make the folder", &dir, source))?;
        Ok(dir)
    }

    /// The folder of a store that [`StoreFolder::open_marked`] refuses with `error`, if that is
    /// because of its marker and there is a database. A marker that names a newer format is
    /// believed unless it is one flipped bit away from this one's.
    pub(crate) fn open_unmarked(dir: &Path, error: StoreError) -> Result<Self, StoreError> {
        let is_marker = match &error {
            StoreError::NoStore { .. } | StoreError::Damaged(_) => true,
            StoreError::NewerFormat { found, .. } => is_one_bit_off(found, &FORMAT.to_string()),
            _ => false,
        };
        if is_marker && has_database(dir) {
            Ok(Self::of_damaged(dir))
        } else {
            Err(error)
        }
    }

    /// A store's folder, whatever is in it.
    pub(crate) fn of_damaged(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// Declares the folder a store.
    pub(crate) fn write_marker(&self) -> Result<(), StoreError> {
        let (marker, unfinished) = (self.dir.join(MARKER), self.dir.join(UNFINISHED_MARKER));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        let opened = self.open_file(UNFINISHED_MARKER, &options);
        let written = opened.and_then(|mut file| {
            writeln!(file, "{MARKER_TEXT}{FORMAT}")?;
            file.sync_all()?;
            // A name before its content would be a damaged store, after a loss of power, where
            // there was none yet.
            fs::rename(&unfinished, &marker)?;
            File::open(&self.dir)?.sync_all()
        });
        written.map_err(|source| StoreError::of_file("write", &marker, source))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn database_path(&self) -> PathBuf {
        self.dir.join(DATABASE)
    }

    /// Path of the socket where a server that has the store takes the commands of other processes.
    pub(crate) fn control_socket(dir: &Path) -> PathBuf {
        dir.join(CONTROL)
    }

    /// Description of the process that writes, if there is one.
    pub(crate) fn lock_owner(&self) -> Result<Option<String>, StoreError> {
        let path = self.dir.join(LOCK);
        let mut file = match self.open_file(LOCK, OpenOptions::new().read(true)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|source| StoreError::of_file("open", &path, source))?,
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => Ok(Some(read_owner(&mut file))),
            _ => Ok(None),
        }
    }

    /// Becomes the one process that writes, or says which one is.
    pub(crate) fn lock_for_writing(&self, command: &str) -> Result<OwnerLock, StoreError> {
        let path = self.dir.join(LOCK);
        let fail = |source| StoreError::of_file("lock", &path, source);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        let mut file = self.open_file(LOCK, &options).map_err(fail)?;
        if !lock_past_askers(&file).map_err(fail)? {
            return Err(StoreError::InUse {
                dir: self.dir.clone(),
                by: read_owner(&mut file),
            });
        }
        // The text in the file is for people: a full disk may keep it from being written, not from
        // being locked.
        let _ = file
            .write_all_at(&owner_text(command), 0)
            .and_then(|()| file.set_len(OWNER_LEN as u64));
        Ok(OwnerLock { file })
    }

    /// The number of acknowledged commits, as far as it is known: 0 if no readable file tells.
    pub(crate) fn acknowledged_commits(&self) -> u64 {
        let mut bytes = Vec::new();
        // A file that cannot be read is treated as one that is missing.
        let _ = self
            .open_file(COMMITS, OpenOptions::new().read(true))
            .and_then(|mut file| file.read_to_end(&mut bytes));
        verify_checksum(COMMITS_CONTEXT, &[], &bytes)
            .ok()
            .and_then(|body| body.try_into().ok())
            .map_or(0, u64::from_le_bytes)
    }

    /// The commit counter file, for the process that writes to the store. If it cannot be opened, a
    /// lost end of the log goes unnoticed, no more.
    pub(crate) fn open_commit_counter(&self) -> CommitCounterFile {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        CommitCounterFile {
            file: self.open_file(COMMITS, &options).ok(),
        }
    }

    /// The chunks that readers left word of: runs of first id and count.
    pub(crate) fn read_suspects(&self) -> Vec<(ChunkId, u64)> {
        let mut bytes = Vec::new();
        let read = self.open_suspects(OpenOptions::new().read(true));
        let read = read.and_then(|file| file.take(SUSPECTS_LEN_MAX).read_to_end(&mut bytes));
        if read.is_err() {
            return Vec::new();
        }
        let (entries, _) = bytes.as_chunks::<SUSPECTS_ENTRY_LEN>();
        entries
            .iter()
            .filter_map(|entry| suspect_run(entry))
            .collect()
    }

    /// Leaves a list of chunks that were found damaged, for the next process that writes. If it
    /// cannot be written, the next read finds them again.
    pub(crate) fn leave_suspects(&self, runs: impl IntoIterator<Item = (ChunkId, u64)>) {
        let mut bytes = Vec::new();
        for (first, count) in runs {
            for start in (0..count).step_by(SUSPECTS_RUN_MAX as usize) {
                let mut entry = (first.0 + start).to_le_bytes().to_vec();
                entry.extend_from_slice(&(count - start).min(SUSPECTS_RUN_MAX).to_le_bytes());
                append_checksum(SUSPECTS_CONTEXT, &[], &mut entry);
                bytes.extend(entry);
            }
        }
        let _ = self
            .open_suspects(
                OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(SUSPECTS_MODE),
            )
            .and_then(|mut file| {
                if file.metadata()?.len() + bytes.len() as u64 <= SUSPECTS_LEN_MAX {
                    file.write_all(&bytes)?;
                }
                Ok(())
            });
    }

    /// Removes the file of suspects, whose chunks are in the ledger now.
    pub(crate) fn forget_suspects(&self) {
        // A file that stays is taken over once more.
        let _ = fs::remove_file(self.dir.join(SUSPECTS));
    }

    fn open_suspects(&self, options: &mut OpenOptions) -> std::io::Result<File> {
        let no_links = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        options.custom_flags(no_links).open(self.dir.join(SUSPECTS))
    }

    /// Bytes that the store takes on disk, as `du` counts them.
    pub(crate) fn disk_usage(&self) -> Result<u64, StoreError> {
        Ok(self.usage_by_part()?.total)
    }

    /// Disk usage as [`StoreFolder::disk_usage`], with the parts apart that are neither content nor
    /// maps.
    pub(crate) fn usage_by_part(&self) -> Result<FolderUsage, StoreError> {
        let mut usage = FolderUsage::default();
        let mut folders = vec![self.dir.clone()];
        // Files that a repair replaced share bytes with those that are there now: they count once.
        let mut seen = HashSet::new();
        while let Some(folder) = folders.pop() {
            let fail = |source| StoreError::of_file("read", &folder, source);
            let is_parity = folder.starts_with(self.dir.join("parity"));
            for entry in fs::read_dir(&folder).map_err(fail)? {
                let entry = entry.map_err(fail)?;
                match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                    // A link of parity's to a table that is counted where the database has it.
                    Ok(metadata) if is_parity && metadata.nlink() > 1 => {}
                    Ok(metadata) if metadata.nlink() > 1 && !seen.insert(metadata.ino()) => {}
                    Ok(metadata) => {
                        // The database allocates its log ahead, and gives that back when it is
                        // closed.
                        let len = metadata.len().next_multiple_of(BLOCK_LEN);
                        let taken = len.min(metadata.blocks() * 512);
                        usage.add_file(&entry.file_name(), taken, is_parity);
                    }
                    // RocksDB removes files while we look.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(source) => return Err(fail(source)),
                }
            }
        }
        Ok(usage)
    }
}

impl FolderUsage {
    fn add_file(&mut self, name: &OsStr, len: u64, is_parity: bool) {
        self.total += len;
        if is_parity {
            self.parity += len;
        } else if Reserve::is_file(name) {
            self.reserve += len;
        } else if Path::new(name).extension() == Some(OsStr::new("log")) {
            self.logs += len;
        }
    }
}

impl CommitCounterFile {
    /// Notes that `count` commits are durable.
    pub(crate) fn note_commits(&self, count: u64) {
        // An error is ignored: a commit that is not noted is not missed later.
        let _ = self
            .file
            .as_ref()
            .map(|file| file.write_all_at(&Self::encode_count(count), 0));
    }

    pub(crate) fn encode_count(count: u64) -> Vec<u8> {
        let mut bytes = count.to_le_bytes().to_vec();
        append_checksum(COMMITS_CONTEXT, &[], &mut bytes);
        bytes
    }
}

fn link_in_store() -> std::io::Error {
    std::io::Error::other("it is a link, and a store has none")
}

/// True if the folder holds files of a database.
fn has_database(dir: &Path) -> bool {
    fs::read_dir(dir.join(DATABASE)).is_ok_and(|mut names| names.next().is_some())
}

/// True if two texts differ in a single bit.
fn is_one_bit_off(found: &str, expected: &str) -> bool {
    let pairs = || found.bytes().zip(expected.bytes());
    let bits: u32 = pairs()
        .map(|(found, expected)| (found ^ expected).count_ones())
        .sum();
    found.len() == expected.len() && bits == 1
}

/// Makes `dir`, with permissions `mode`, and what is missing above it. A new folder's name is
/// durable only once the folder that it stands in is synced: without that a store may be lost, with
/// all that was acknowledged in it, as long as nothing else syncs that folder.
fn make_durably(dir: &Path, mode: u32) -> std::io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().map(|parent| {
        if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        }
    });
    if let Some(parent) = parent {
        make_durably(parent, PARENT_MODE)?;
    }
    match DirBuilder::new().mode(mode).create(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        outcome => outcome?,
    }
    parent.map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// Locks `file` unless somebody owns it, which is the answer. Who asks for the owner holds a shared
/// lock for a moment, in [`StoreFolder::lock_owner`]: that is waited for.
fn lock_past_askers(file: &File) -> std::io::Result<bool> {
    for _ in 0..ASKERS_TRIES {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {}
            locked => return Ok(locked.map(|()| true)?),
        }
        match flock(file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => return Ok(false),
            shared => shared?,
        }
        flock(file, FlockOperation::Unlock)?;
        thread::sleep(ASKERS_WAIT);
    }
    Ok(false)
}

/// The run that an entry of the file of suspects names, if it is whole.
fn suspect_run(entry: &[u8]) -> Option<(ChunkId, u64)> {
    let body = verify_checksum(SUSPECTS_CONTEXT, &[], entry).ok()?;
    let (first, count) = body.split_at_checked(8)?;
    let first = u64::from_le_bytes(first.try_into().ok()?);
    let count = u64::from_le_bytes(count.try_into().ok()?);
    let fits = count <= SUSPECTS_RUN_MAX && first.checked_add(count).is_some();
    fits.then_some((ChunkId(first), count))
}

/// The text of the lock file: cut, or filled with spaces.
fn owner_text(command: &str) -> Vec<u8> {
    let text = format!("process {} ({command})", std::process::id());
    let mut end = text.len().min(OWNER_LEN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = text.as_bytes()[..end].to_vec();
    bytes.resize(OWNER_LEN, b' ');
    bytes
}

fn read_owner(file: &mut File) -> String {
    let mut text = String::new();
    let read = file
        .rewind()
        .and_then(|()| file.take(OWNER_LEN as u64).read_to_string(&mut text));
    let text = text.trim_end();
    if read.is_ok() && !text.is_empty() {
        text.to_owned()
    } else {
        "another process".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::layout::RESERVE;
    use super::*;
    use crate::sizes::ReserveLen;

    const KEPT_BACK: ReserveLen = ReserveLen {
        least: 1 << 20,
        most: 1 << 20,
    };

    fn folder() -> (tempfile::TempDir, StoreFolder) {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = StoreFolder::create_in(dir.path()).expect("an empty folder becomes a store's");
        (dir, folder)
    }

    #[test]
    fn what_readers_left_word_of_is_read_as_far_as_it_is_whole() {
        let (_dir, folder) = folder();
        assert_eq!(folder.read_suspects(), []);
        folder.leave_suspects([(ChunkId(7), 3)]);
        folder.leave_suspects([(ChunkId(1 << 40), 5000)]);
        let whole = [(7, 3), (1 << 40, 4096), ((1 << 40) + 4096, 904)];
        let whole = whole.map(|(first, count)| (ChunkId(first), count));
        assert_eq!(folder.read_suspects(), whole);
        let path = folder.dir.join(SUSPECTS);
        let mut bytes = fs::read(&path).expect("it is there");
        bytes[30] ^= 1;
        bytes.pop();
        fs::write(&path, bytes).expect("it can be written");
        assert_eq!(folder.read_suspects(), whole[..1]);
        folder.forget_suspects();
        assert_eq!(folder.read_suspects(), []);
        std::os::unix::fs::symlink("elsewhere", &path).expect("a link");
        folder.leave_suspects([(ChunkId(7), 3)]);
        assert!(
            !folder.dir.join("elsewhere").exists(),
            "links are not followed"
        );
    }

    #[test]
    fn a_planted_link_is_refused_and_what_it_leads_to_stays() {
        let (dir, folder) = folder();
        folder.write_marker().expect("room");
        let victim = dir.path().join("victim");
        fs::write(&victim, "mine").expect("room");
        for name in OWN_FILES {
            let path = dir.path().join(name);
            let there = fs::read(&path).ok();
            let _ = fs::remove_file(&path);
            for leads_to in [&victim, &dir.path().join("nothing")] {
                std::os::unix::fs::symlink(leads_to, &path).expect("room");
                let told = StoreFolder::open_marked(dir.path()).expect_err("it is a link");
                assert!(told.to_string().contains(name), "{told}");
                if [LOCK, COMMITS, RESERVE].contains(&name) {
                    let is_refused = match name {
                        LOCK => {
                            folder.lock_for_writing("me").is_err() && folder.lock_owner().is_err()
                        }
                        _ => folder
                            .open_file(name, OpenOptions::new().write(true).create(true))
                            .is_err(),
                    };
                    assert!(is_refused, "{name}");
                }
                // Also where it is planted after the store was opened.
                Reserve::new(&folder.dir, KEPT_BACK, 0).refill_reserve();
                folder.open_commit_counter().note_commits(7);
                let _ = folder.acknowledged_commits();
                assert_eq!(fs::read(&victim).expect("it is there"), b"mine", "{name}");
                assert!(!dir.path().join("nothing").exists(), "{name}");
                let _ = fs::remove_file(&path);
            }
            there
                .map_or(Ok(()), |bytes| fs::write(&path, bytes))
                .expect("room");
        }
        let link = dir.path().with_extension("link");
        std::os::unix::fs::symlink(dir.path(), &link).expect("room");
        let through = StoreFolder::open_marked(&link).map(drop);
        fs::remove_file(&link).expect("it is ours");
        through.expect("a person may name a store through a link");
    }

    #[test]
    fn what_is_made_is_for_its_owner_only() {
        let dir = tempfile::tempdir().expect("a folder");
        let (above, inner) = (dir.path().join("a"), dir.path().join("a/store"));
        let folder = StoreFolder::create_in(&inner).expect("an empty folder becomes a store's");
        folder.make_database().expect("room");
        drop(folder.lock_for_writing("me").expect("nobody writes"));
        folder.open_commit_counter().note_commits(1);
        Reserve::new(&folder.dir, KEPT_BACK, 0).refill_reserve();
        folder.write_marker().expect("room");
        let mode = |path: &Path| {
            std::os::unix::fs::PermissionsExt::mode(
                &fs::metadata(path).expect("it is there").permissions(),
            ) & 0o777
        };
        assert_eq!(mode(&inner) & 0o077, 0);
        assert!(above.is_dir());
        for entry in fs::read_dir(&inner).expect("a folder") {
            let path = entry.expect("an entry").path();
            assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
        }
    }

    #[test]
    fn one_writes_at_a_time() {
        let (_dir, folder) = folder();
        let lock = folder.lock_for_writing("first").expect("nobody writes");
        let refused = folder
            .lock_for_writing("second")
            .expect_err("somebody writes");
        assert!(matches!(refused, StoreError::InUse { by, .. } if by.ends_with("(first)")));
        drop(lock);
        folder
            .lock_for_writing("second")
            .expect("nobody writes any more");
    }

    /// A child process has the lock file open between its start and its own program.
    #[test]
    fn a_child_that_is_being_started_does_not_keep_the_store() {
        let (_dir, folder) = folder();
        let lock = folder.lock_for_writing("first").expect("nobody writes");
        let inherited = lock.file.try_clone().expect("a file can be opened twice");
        drop(lock);
        assert_eq!(
            folder.lock_owner().expect("the lock can be asked for"),
            None
        );
        folder
            .lock_for_writing("second")
            .expect("nobody writes any more");
        drop(inherited);
    }

    #[test]
    fn who_only_asks_for_the_owner_keeps_nobody_from_writing() {
        let (_dir, folder) = folder();
        drop(folder.lock_for_writing("first").expect("nobody writes"));
        let asker = File::open(folder.dir.join("lock")).expect("the lock is there");
        flock(&asker, FlockOperation::NonBlockingLockShared).expect("nobody writes");
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(ASKERS_WAIT * 10);
                flock(&asker, FlockOperation::Unlock).expect("it is ours");
            });
            folder
                .lock_for_writing("second")
                .expect("who asks goes away");
        });
    }
}
