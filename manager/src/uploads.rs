//! Uploads: files that a browser sends piece by piece into a spool in the store's folder, each
//! piece with its hash, so that a broken connection costs one piece. Nothing is begun that does not
//! fit the limit.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// Bytes of one piece: what is sent again at most when a connection breaks.
pub(crate) const PIECE_LEN_MAX: usize = 4 << 20;
/// Files that are on their way at once.
const UPLOADS_MAX: usize = 8;
/// The age at which an upload that nobody goes on with gives way to a new one.
const STALE_AGE: Duration = Duration::from_hours(6);
/// The longest name that is shown.
const NAME_LEN_MAX: usize = 200;

/// A folder of uploads, emptied when the manager starts and ends.
pub(crate) struct UploadSpool {
    folder: PathBuf,
    limit: u64,
    uploads: Mutex<SpooledFiles>,
}

#[derive(Default)]
struct SpooledFiles {
    files: BTreeMap<u64, SpooledUpload>,
    next: u64,
}

struct SpooledUpload {
    name: String,
    len: u64,
    arrived: u64,
    file: Arc<File>,
    path: PathBuf,
    touched: Instant,
    /// True while a command reads it.
    is_held: bool,
}

/// The state of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UploadStatus {
    pub(crate) number: u64,
    pub(crate) name: String,
    pub(crate) len: u64,
    pub(crate) arrived: u64,
}

/// The reason why an upload, or a piece of it, is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadRefusal {
    #[error("it has {len} bytes, and uploads may take {limit} together (--upload-limit)")]
    TooLong { len: u64, limit: u64 },
    #[error("{UPLOADS_MAX} uploads are under way already")]
    TooMany,
    #[error("there is no such upload")]
    Unknown,
    #[error("the piece is not the next one: {0} bytes have arrived")]
    NotNext(u64),
    #[error("the piece is longer than what is missing")]
    PastEnd,
    #[error("the piece did not arrive as it was sent")]
    Hash,
    #[error("it has not arrived whole")]
    Incomplete,
    #[error("the spool cannot be written: {0}")]
    Io(#[from] io::Error),
}

impl UploadSpool {
    /// The spool in `folder`, which is made when the first upload comes.
    pub(crate) fn new(folder: PathBuf, limit: u64) -> Self {
        let spool = Self {
            folder,
            limit,
            uploads: Mutex::default(),
        };
        spool.remove_folder();
        spool
    }

    /// Begins the upload of a file of `len` bytes.
    pub(crate) fn begin_upload(&self, name: &str, len: u64) -> Result<UploadStatus, UploadRefusal> {
        let mut uploads = self.lock_uploads();
        if uploads.files.len() >= UPLOADS_MAX {
            let is_stale = |upload: &&u64| {
                uploads.files[*upload].touched.elapsed() > STALE_AGE
                    && !uploads.files[*upload].is_held
            };
            let stale = uploads.files.keys().find(is_stale).copied();
            drop(uploads.files.remove(&stale.ok_or(UploadRefusal::TooMany)?));
        }
        let taken: u64 = uploads.files.values().map(|upload| upload.len).sum();
        if taken.checked_add(len).is_none_or(|sum| sum > self.limit) {
            let limit = self.limit;
            return Err(UploadRefusal::TooLong { len, limit });
        }
        self.make_folder()?;
        let number = uploads.next + 1;
        uploads.next = number;
        // Named by its number: what the browser calls it is only shown.
        let path = self.folder.join(format!("upload-{number}"));
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let upload = SpooledUpload {
            name: name.chars().take(NAME_LEN_MAX).collect(),
            len,
            arrived: 0,
            file: Arc::new(file),
            path,
            touched: Instant::now(),
            is_held: false,
        };
        let status = upload.status_of(number);
        uploads.files.insert(number, upload);
        Ok(status)
    }

    /// Adds the piece that begins at `offset`, whose SHA-256 is `hash`.
    pub(crate) fn add_piece(
        &self,
        number: u64,
        offset: u64,
        piece: &[u8],
        hash: &[u8],
    ) -> Result<UploadStatus, UploadRefusal> {
        if Sha256::digest(piece).as_slice() != hash {
            return Err(UploadRefusal::Hash);
        }
        // The lock is held while it is written: pieces come one after the other.
        let mut uploads = self.lock_uploads();
        let upload = uploads
            .files
            .get_mut(&number)
            .ok_or(UploadRefusal::Unknown)?;
        if offset != upload.arrived {
            return Err(UploadRefusal::NotNext(upload.arrived));
        }
        let end = offset.checked_add(piece.len() as u64);
        let end = end
            .filter(|end| *end <= upload.len)
            .ok_or(UploadRefusal::PastEnd)?;
        let mut file = &*upload.file;
        io::Seek::seek(&mut file, io::SeekFrom::Start(offset))?;
        file.write_all(piece)?;
        upload.arrived = end;
        upload.touched = Instant::now();
        Ok(upload.status_of(number))
    }

    /// The state of an upload.
    pub(crate) fn upload_status(&self, number: u64) -> Result<UploadStatus, UploadRefusal> {
        let uploads = self.lock_uploads();
        let upload = uploads.files.get(&number).ok_or(UploadRefusal::Unknown)?;
        Ok(upload.status_of(number))
    }

    /// All uploads that are there.
    pub(crate) fn list_uploads(&self) -> Vec<UploadStatus> {
        let uploads = self.lock_uploads();
        let files = uploads.files.iter();
        files
            .map(|(number, upload)| upload.status_of(*number))
            .collect()
    }

    /// The file of an upload that has arrived whole, which stays until it is removed.
    pub(crate) fn hold_file(&self, number: u64) -> Result<(), UploadRefusal> {
        let mut uploads = self.lock_uploads();
        let upload = uploads
            .files
            .get_mut(&number)
            .ok_or(UploadRefusal::Unknown)?;
        if upload.arrived < upload.len {
            return Err(UploadRefusal::Incomplete);
        }
        upload.is_held = true;
        Ok(())
    }

    /// Lets go of a file whose command failed.
    pub(crate) fn release_file(&self, number: u64) {
        if let Some(upload) = self.lock_uploads().files.get_mut(&number) {
            upload.is_held = false;
        }
    }

    /// Removes an upload and its file.
    pub(crate) fn remove_upload(&self, number: u64) {
        drop(self.lock_uploads().files.remove(&number));
    }

    /// The place of an upload that has arrived whole.
    pub(crate) fn file_path(&self, number: u64) -> Result<PathBuf, UploadRefusal> {
        let uploads = self.lock_uploads();
        let upload = uploads.files.get(&number).ok_or(UploadRefusal::Unknown)?;
        if upload.arrived < upload.len {
            return Err(UploadRefusal::Incomplete);
        }
        Ok(upload.path.clone())
    }

    /// A place for a file of a disk of `len` bytes that is made to be downloaded.
    pub(crate) fn download_path(&self, len: u64) -> Result<PathBuf, UploadRefusal> {
        if len > self.limit {
            let limit = self.limit;
            return Err(UploadRefusal::TooLong { len, limit });
        }
        self.make_folder()?;
        let mut uploads = self.lock_uploads();
        uploads.next += 1;
        Ok(self.folder.join(format!("download-{}", uploads.next)))
    }

    /// Bytes that uploads may take together.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    fn make_folder(&self) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
    }

    fn remove_folder(&self) {
        // What stays is removed at the next start.
        let _ = fs::remove_dir_all(&self.folder);
    }

    fn lock_uploads(&self) -> MutexGuard<'_, SpooledFiles> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UploadSpool {
    fn drop(&mut self) {
        self.remove_folder();
    }
}

impl SpooledUpload {
    fn status_of(&self, number: u64) -> UploadStatus {
        UploadStatus {
            number,
            name: self.name.clone(),
            len: self.len,
            arrived: self.arrived,
        }
    }
}

impl Drop for SpooledUpload {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_whole_or_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let spool = UploadSpool::new(dir.path().join("spool"), 100);
        let hash = |piece: &[u8]| Sha256::digest(piece).to_vec();
        assert!(matches!(
            spool.begin_upload("bomb", 101),
            Err(UploadRefusal::TooLong { .. })
        ));
        assert!(matches!(
            spool.begin_upload("bomb", u64::MAX),
            Err(UploadRefusal::TooLong { .. })
        ));
        let upload = spool.begin_upload("../../etc/passwd", 10).expect("room");
        let add =
            |offset, piece: &[u8], hash: &[u8]| spool.add_piece(upload.number, offset, piece, hash);
        assert!(matches!(
            add(0, b"hello", &hash(b"hallo")),
            Err(UploadRefusal::Hash)
        ));
        assert_eq!(add(0, b"hello", &hash(b"hello")).expect("room").arrived, 5);
        // A piece whose answer was lost comes again.
        assert!(matches!(
            add(0, b"hello", &hash(b"hello")),
            Err(UploadRefusal::NotNext(5))
        ));
        assert!(matches!(
            add(5, b"world!", &hash(b"world!")),
            Err(UploadRefusal::PastEnd)
        ));
        assert!(matches!(
            spool.hold_file(upload.number),
            Err(UploadRefusal::Incomplete)
        ));
        add(5, b"world", &hash(b"world")).expect("room");
        spool.hold_file(upload.number).expect("it is whole");
        let path = spool.file_path(upload.number).expect("it is whole");
        assert_eq!(fs::read(&path).expect("it is there"), b"helloworld");
        assert!(path.starts_with(&spool.folder));
        assert!(matches!(
            spool.begin_upload("more", 91),
            Err(UploadRefusal::TooLong { .. })
        ));
        spool.remove_upload(upload.number);
        assert!(!path.exists());
        spool.begin_upload("more", 91).expect("room again");
        let folder = spool.folder.clone();
        drop(spool);
        assert!(!folder.exists());
    }

    #[test]
    fn uploads_at_once_are_bounded() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let spool = UploadSpool::new(dir.path().join("spool"), 100);
        for _ in 0..UPLOADS_MAX {
            spool.begin_upload("one", 1).expect("room");
        }
        assert!(matches!(
            spool.begin_upload("one", 1),
            Err(UploadRefusal::TooMany)
        ));
        assert_eq!(spool.list_uploads().len(), UPLOADS_MAX);
    }
}
