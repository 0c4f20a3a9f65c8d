//! Send and receive: points as one portable file with its own checksum.
//!
//! A stream is a repository of its own, made by one push, with its objects one after the other as
//! they were put. The receiver reads it to the end, checks all of it against the digest there, and
//! only then opens it as a repository: a damaged or truncated stream is refused before anything is
//! changed. An incremental stream leaves out the contents that the receiver must have; its record
//! names them as parents only.
//!
//! ```text
//! Stream, version 1.
//!
//! offset  size    meaning                                      guards against
//! 0       8       "VlmStrm1"                                   other files, newer streams
//! …       …       objects in the order in which they were put, each:
//!   2             length of its name in bytes, 1 to NAME_LEN_MAX (LE)
//!   …             its name
//!   8             length in bytes, at most OBJECT_LEN_MAX (LE)
//!   …             its bytes
//! …       2       zero: no more objects
//! …       32      BLAKE3-256 of all bytes before               damage, a lost end, bytes behind it
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vellum_core::units::ChunkLen;
use vellum_store::{Store, Watch};

use crate::error::BackupError;
use crate::objects::{ObjectError, ObjectErrorKind, ObjectKind, ObjectName, Objects};
use crate::pull::{PullReport, PullRequest, pull, refuse_missing_base};
use crate::push::{PushReport, PushRequest, push};
use crate::reader::Reader;
use crate::repository::{ClientFolders, FirstKey, Repository, Rollback};
use crate::seal::Opener;

const MAGIC: &[u8; 8] = b"VlmStrm1";
/// The longest name: of a record.
const NAME_LEN_MAX: usize = 128;
/// The longest object: a pack, with room.
const OBJECT_LEN_MAX: u64 = 128 << 20;
/// Objects that one stream has at most: at 32 MiB each, more than any disk holds. Bounds the table
/// of a hostile one.
const OBJECT_COUNT_MAX: usize = 1 << 22;
const DIGEST_LEN: usize = 32;
/// The length of the copy buffer, in bytes.
const COPY_LEN: usize = 256 << 10;

/// A place that sends everything on as it comes. Small objects are kept, since they are asked for
/// again.
struct Outgoing {
    state: Mutex<Out>,
}

struct Out {
    stream: Box<dyn Write + Send>,
    hasher: blake3::Hasher,
    kept: BTreeMap<String, Vec<u8>>,
}

/// A place that is a file.
struct Incoming {
    file: File,
    places: BTreeMap<String, Range<u64>>,
    /// The objects that are put meanwhile: announcements only, and no other client sees them.
    kept: Mutex<BTreeMap<String, Vec<u8>>>,
}

/// Writes what `request` names to `stream`; with a key, for its holders only. Chunks that the
/// contents in `request.assumed` need are not in it.
pub fn send(
    store: &Store,
    request: &PushRequest,
    key: Option<&FirstKey>,
    stream: Box<dyn Write + Send>,
    watch: &dyn Watch,
) -> Result<PushReport, BackupError> {
    let mut out = Out {
        stream,
        hasher: blake3::Hasher::new(),
        kept: BTreeMap::new(),
    };
    out.write(MAGIC).map_err(failed)?;
    let place = Arc::new(Outgoing {
        state: Mutex::new(out),
    });
    let chunk_len = store.parameters().chunk_len;
    let repository = Repository::init(
        place.clone(),
        chunk_len,
        key,
        request.writer.time_ms,
        ClientFolders::default(),
    )?;
    let report = push(&repository, store, request, watch)?;
    place.out().finish().map_err(failed)?;
    Ok(report)
}

fn failed(source: io::Error) -> BackupError {
    BackupError::Io {
        what: "write the stream".to_owned(),
        source,
    }
}

/// Takes what `stream` brings into `store`: `choose` makes the request from what is in it. The
/// stream is written to an unnamed file first, in the folder for temporary files or in `folder`:
/// nothing is done before its last byte was seen.
pub fn receive(
    store: &Store,
    stream: &mut dyn Read,
    opener: Option<&Opener>,
    folder: Option<&std::path::Path>,
    choose: &dyn Fn(&Reader<'_>) -> Result<PullRequest, BackupError>,
    watch: &dyn Watch,
) -> Result<PullReport, BackupError> {
    let fail = |source| BackupError::Io {
        what: "read the stream".to_owned(),
        source,
    };
    let file = match folder {
        Some(folder) => tempfile::tempfile_in(folder),
        None => tempfile::tempfile(),
    };
    let file = file.map_err(|source| BackupError::Io {
        what: "make a file for the stream".to_owned(),
        source,
    })?;
    let places = spool(stream, &file, watch).map_err(|error| match error {
        SpoolError::Io(source) => fail(source),
        SpoolError::Interrupted => BackupError::Interrupted,
        SpoolError::Damaged(reason) => damaged(reason),
    })?;
    let place = Arc::new(Incoming {
        file,
        places,
        kept: Mutex::default(),
    });
    let repository = Repository::open(place, opener, ClientFolders::default(), Rollback::Refused)?;
    if ChunkLen::new(repository.file().chunk_len) != Some(store.parameters().chunk_len) {
        return Err(BackupError::Parameter(
            "the stream comes from a store with chunks of another length".to_owned(),
        ));
    }
    let reader = Reader::new(&repository);
    let request = choose(&reader)?;
    refuse_missing_base(&reader, store, &request)?;
    pull(&reader, store, &request, watch)
}

fn damaged(reason: String) -> BackupError {
    BackupError::Damaged {
        object: "the stream".to_owned(),
        reason,
        points: Vec::new(),
    }
}

impl Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.stream.write_all(bytes)
    }

    fn write_object(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.write(&(name.len() as u16).to_le_bytes())?;
        self.write(name.as_bytes())?;
        self.write(&(bytes.len() as u64).to_le_bytes())?;
        self.write(bytes)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.write(&[0, 0])?;
        let digest = self.hasher.finalize();
        self.stream.write_all(digest.as_bytes())?;
        self.stream.flush()
    }
}

impl Outgoing {
    fn out(&self) -> MutexGuard<'_, Out> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Objects for Outgoing {
    fn get(&self, name: &str) -> Result<Vec<u8>, ObjectError> {
        self.out()
            .kept
            .get(name)
            .cloned()
            .ok_or_else(|| missing(name))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        let bytes = self.get(name)?;
        bytes
            .get(range.start as usize..range.end as usize)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| missing(name))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        let kind = ObjectName::parse(name).map(|name| name.kind());
        let mut out = self.out();
        if !matches!(kind, Some(ObjectKind::Pack | ObjectKind::Maps)) {
            out.kept.insert(name.to_owned(), bytes.to_vec());
        }
        if kind == Some(ObjectKind::Session) {
            return Ok(());
        }
        out.write_object(name, bytes).map_err(|source| {
            ObjectError::new(ObjectErrorKind::Failed, name, source.to_string()).because(source)
        })
    }

    fn replace(&self, name: &str, _: &[u8]) -> Result<(), ObjectError> {
        Err(ObjectError::new(
            ObjectErrorKind::Failed,
            name,
            "a stream is written once",
        ))
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(&str, u64) -> Result<(), ObjectError>,
    ) -> Result<(), ObjectError> {
        let kept = self
            .out()
            .kept
            .iter()
            .map(|(name, bytes)| (name.clone(), bytes.len() as u64))
            .collect::<Vec<_>>();
        kept.iter()
            .filter(|(name, _)| name.starts_with(prefix))
            .try_for_each(|(name, len)| visit(name, *len))
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        self.out().kept.remove(name);
        Ok(())
    }

    fn keeps_copies(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        "the stream".to_owned()
    }
}

impl Objects for Incoming {
    fn get(&self, name: &str) -> Result<Vec<u8>, ObjectError> {
        if let Some(bytes) = self.kept().get(name) {
            return Ok(bytes.clone());
        }
        let place = self.places.get(name).ok_or_else(|| missing(name))?;
        self.read(name, place.clone())
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        let place = self.places.get(name).ok_or_else(|| missing(name))?;
        let (start, end) = (
            place.start.checked_add(range.start),
            place.start.checked_add(range.end),
        );
        match (start, end) {
            (Some(start), Some(end)) if start <= end && end <= place.end => {
                self.read(name, start..end)
            }
            _ => Err(ObjectError::new(
                ObjectErrorKind::Failed,
                name,
                "it ends before the range does",
            )),
        }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        self.kept().insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn replace(&self, name: &str, _: &[u8]) -> Result<(), ObjectError> {
        Err(ObjectError::new(
            ObjectErrorKind::Failed,
            name,
            "a stream is written once",
        ))
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(&str, u64) -> Result<(), ObjectError>,
    ) -> Result<(), ObjectError> {
        let places = self
            .places
            .iter()
            .filter(|(name, _)| name.starts_with(prefix));
        places
            .into_iter()
            .try_for_each(|(name, place)| visit(name, place.end - place.start))
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        self.kept().remove(name);
        Ok(())
    }

    fn keeps_copies(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        "the stream".to_owned()
    }
}

impl Incoming {
    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of the file: no more than it has, so no more than were sent.
    fn read(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let read = self.file.read_exact_at(&mut bytes, range.start);
        read.map_err(|source| {
            ObjectError::new(ObjectErrorKind::Failed, name, source.to_string()).because(source)
        })?;
        Ok(bytes)
    }
}

fn missing(name: &str) -> ObjectError {
    ObjectError::new(ObjectErrorKind::Missing, name, "it is not in the stream")
}

enum SpoolError {
    Io(io::Error),
    Damaged(String),
    Interrupted,
}

impl From<io::Error> for SpoolError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damaged("it was cut off".to_owned()),
            _ => Self::Io(error),
        }
    }
}

/// Copies a stream to `file` and holds it against its digest; where each object is there.
fn spool(
    stream: &mut dyn Read,
    file: &File,
    watch: &dyn Watch,
) -> Result<BTreeMap<String, Range<u64>>, SpoolError> {
    let mut spool = Spool {
        stream,
        file,
        hasher: blake3::Hasher::new(),
        at: 0,
        buffer: vec![0; COPY_LEN],
    };
    if spool.take::<8>()? != *MAGIC {
        return Err(SpoolError::Damaged(
            "it does not begin as a stream of this version does".to_owned(),
        ));
    }
    let mut places = BTreeMap::new();
    loop {
        let name_len = usize::from(u16::from_le_bytes(spool.take()?));
        if name_len == 0 {
            break;
        }
        let (name, len) = spool.head(name_len)?;
        let start = spool.at;
        spool.copy(len, watch)?;
        let is_new = places.insert(name, start..spool.at).is_none();
        if !is_new || places.len() > OBJECT_COUNT_MAX {
            return Err(SpoolError::Damaged(
                "an object comes twice, or there are too many".to_owned(),
            ));
        }
    }
    let expected = spool.hasher.finalize();
    if spool.take::<DIGEST_LEN>()? != *expected.as_bytes() {
        return Err(SpoolError::Damaged("its digest does not fit".to_owned()));
    }
    match spool.stream.read(&mut [0])? {
        0 => Ok(places),
        _ => Err(SpoolError::Damaged("something follows its end".to_owned())),
    }
}

struct Spool<'s> {
    stream: &'s mut dyn Read,
    file: &'s File,
    hasher: blake3::Hasher,
    at: u64,
    buffer: Vec<u8>,
}

impl Spool<'_> {
    fn take<const LEN: usize>(&mut self) -> Result<[u8; LEN], SpoolError> {
        let mut bytes = [0; LEN];
        self.stream.read_exact(&mut bytes)?;
        self.hasher.update(&bytes);
        Ok(bytes)
    }

    fn head(&mut self, name_len: usize) -> Result<(String, u64), SpoolError> {
        let strange =
            || SpoolError::Damaged("an object of no kind that this program knows".to_owned());
        if name_len > NAME_LEN_MAX {
            return Err(strange());
        }
        let mut name = vec![0; name_len];
        self.stream.read_exact(&mut name)?;
        self.hasher.update(&name);
        let name = String::from_utf8(name).map_err(|_| strange())?;
        let len = u64::from_le_bytes(self.take()?);
        match ObjectName::parse(&name) {
            Some(_) if len <= OBJECT_LEN_MAX => Ok((name, len)),
            _ => Err(strange()),
        }
    }

    fn copy(&mut self, mut len: u64, watch: &dyn Watch) -> Result<(), SpoolError> {
        while len > 0 {
            let some = len.min(COPY_LEN as u64) as usize;
            self.stream.read_exact(&mut self.buffer[..some])?;
            self.hasher.update(&self.buffer[..some]);
            self.file.write_all_at(&self.buffer[..some], self.at)?;
            (self.at, len) = (self.at + some as u64, len - some as u64);
            if watch.is_cancelled() {
                return Err(SpoolError::Interrupted);
            }
        }
        Ok(())
    }
}

/// Reads any bytes as a stream: total. For fuzzing.
#[must_use]
pub fn read_any(mut bytes: &[u8]) -> usize {
    let Ok(file) = tempfile::tempfile() else {
        return 0;
    };
    spool(&mut bytes, &file, &vellum_store::Unwatched).map_or(0, |places| places.len())
}
