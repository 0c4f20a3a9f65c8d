//! Creating and opening a repository, its journal as last read, and what this client remembers of
//! it.

mod pairs;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::{IntoParallelRefIterator, ParallelIterator};
use vellum_core::identity::RepositoryId;
use vellum_core::units::ChunkLen;

use crate::error::BackupError;
use crate::format::{FORMAT, IndexObject, RepositoryFile, RepositoryFileError, SealedIndex};
use crate::journal::{HeadsError, Journal, RecordName, Remembered, State};
pub use crate::memory::ClientFolders;
use crate::memory::ClientMemory;
use crate::objects::twice::{COPIES_PREFIX, Twice, original_of};
use crate::objects::{ObjectError, ObjectErrorKind, ObjectKind, ObjectName, Objects, list_kind};
use crate::record::{RECORD_VERSION, Record};
use crate::seal::{
    KeyError, KeyRole, Opener, PasswordCost, SealError, SealedKind, Sealer, Secrets, create_key,
    unlock_any,
};
use pairs::put_keys_back;

/// Listings that are tried while another process replaces records: each sees a later moment.
const LISTINGS_MAX: usize = 5;
/// Records fetched at once: more threads than requests in flight help nobody, fewer than this are
/// fetched in turn.
const FETCH_TOGETHER_MIN: usize = 8;
/// The longest stored record, in bytes: the limit of a sealed record; a greater length in a listing
/// is not believed.
const RECORD_LEN_MAX: u64 = 80 << 20;

/// The first key of a new repository.
#[derive(Clone, Debug)]
pub struct FirstKey {
    /// The password or key file that opens it.
    pub opener: Opener,
    /// The name that people gave it.
    pub label: String,
    /// The cost of trying a password.
    pub cost: PasswordCost,
}

/// The policy for a repository that shows less than this client has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rollback {
    /// It is refused.
    Refused,
    /// It is believed, and what was seen before is forgotten.
    Allowed,
}

/// A repository. Shared by threads.
pub struct Repository {
    objects: Arc<dyn Objects>,
    /// The same, as what it is.
    twice: Arc<Twice>,
    sealer: Arc<Sealer>,
    file: RepositoryFile,
    role: KeyRole,
    memory: ClientMemory,
    rollback: Rollback,
    known: Mutex<Known>,
}

#[derive(Clone, Default)]
struct Known {
    journal: Arc<Journal>,
    state: Arc<State>,
    /// Records on which others build, and that are lost for good: the person said to go on without.
    written_off: Vec<RecordName>,
}

/// A repository that is there and was not opened.
pub struct Found {
    twice: Arc<Twice>,
    file: RepositoryFile,
}

impl Repository {
    /// Makes a repository in an empty place, with chunks of `chunk_len`; encrypted if there is a
    /// key. `time_ms` is when, in milliseconds since 1970.
    pub fn init(
        objects: Arc<dyn Objects>,
        chunk_len: ChunkLen,
        key: Option<&FirstKey>,
        time_ms: u64,
        folders: ClientFolders,
    ) -> Result<Self, BackupError> {
        let twice = Arc::new(Twice::new(objects));
        let objects: Arc<dyn Objects> = twice.clone();
        refuse_anything(&*objects)?;
        let file = RepositoryFile::new(key.is_some(), chunk_len.byte_len() as u32)?;
        let sealer = match key {
            None => Sealer::plain(file.id),
            Some(key) => {
                let secrets = Secrets::generate()?;
                let wrapped =
                    create_key(&secrets, &file, &key.opener, &key.label, time_ms, key.cost);
                let wrapped = wrapped.map_err(|source| BackupError::Key {
                    place: objects.describe(),
                    source,
                })?;
                put(&*objects, &ObjectName::Key(wrapped.id), &wrapped.bytes)?;
                Sealer::encrypted(file.id, &secrets)
            }
        };
        put(&*objects, &ObjectName::Repository, &file.encode())?;
        let memory = ClientMemory::new(folders, &objects.describe(), file.id);
        memory.meet(file.is_encrypted, &[])?;
        Ok(Self {
            objects,
            twice,
            sealer: Arc::new(sealer),
            file,
            role: KeyRole::Owner,
            memory,
            rollback: Rollback::Refused,
            known: Mutex::default(),
        })
    }

    /// Opens a repository and reads its journal: one listing, and the records that this client has
    /// not read before.
    pub fn open(
        objects: Arc<dyn Objects>,
        opener: Option<&Opener>,
        folders: ClientFolders,
        rollback: Rollback,
    ) -> Result<Self, BackupError> {
        Self::find(objects)?.open(opener, folders, rollback)
    }

    /// Finds a repository, so that nobody is asked for the key of one that is not there. Cost: one
    /// small object.
    pub fn find(objects: Arc<dyn Objects>) -> Result<Found, BackupError> {
        let twice = Arc::new(Twice::new(objects));
        let file = read_file(&*twice)?;
        Ok(Found { twice, file })
    }

    /// The records that this repository has lost for good and that the person said to go on
    /// without: the next record says so, so that nobody misses them any more.
    #[must_use]
    pub(crate) fn written_off(&self) -> Vec<RecordName> {
        self.known().written_off
    }

    /// The repository's state, as far as this value has read it.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        self.known().state
    }

    /// The records behind [`Repository::state`].
    #[must_use]
    pub fn journal(&self) -> Arc<Journal> {
        self.known().journal
    }

    /// Reads what is new in the journal. What was there a moment ago must be there still, or be
    /// replaced.
    pub fn refresh(&self) -> Result<Arc<State>, BackupError> {
        let heads = self.state().heads().to_vec();
        self.read(&Remembered { heads })?;
        let state = self.state();
        self.memory.remember(state.heads())?;
        Ok(state)
    }

    /// The place of its objects. Objects that lead to chunks are put, read and deleted there with
    /// their copies.
    #[must_use]
    pub fn objects(&self) -> &Arc<dyn Objects> {
        &self.objects
    }

    /// The same, for code that reads parts of objects, or looks at copies.
    #[must_use]
    pub fn twice(&self) -> &Twice {
        &self.twice
    }

    /// The sealer and opener of its objects.
    #[must_use]
    pub fn sealer(&self) -> &Arc<Sealer> {
        &self.sealer
    }

    /// The repository's file.
    #[must_use]
    pub fn file(&self) -> &RepositoryFile {
        &self.file
    }

    /// Fails if the key that opened it does not give the right to do more than add points; `what`
    /// continues the sentence "nobody can".
    pub fn refuse_writer(&self, what: &'static str) -> Result<(), BackupError> {
        match self.role {
            KeyRole::Owner => Ok(()),
            KeyRole::Writer => Err(BackupError::WriterKey {
                place: self.place(),
                what,
            }),
        }
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> RepositoryId {
        self.file.id
    }

    /// The place, as shown to people.
    #[must_use]
    pub fn place(&self) -> String {
        self.objects.describe()
    }

    /// A folder of this repository's own for copies of what can be fetched again, if the client has
    /// one.
    #[must_use]
    pub fn cache_folder(&self) -> Option<PathBuf> {
        self.memory.cache_folder()
    }

    /// The same for what must not be lost.
    #[must_use]
    pub fn state_folder(&self) -> Option<PathBuf> {
        self.memory.state_folder()
    }

    /// Puts an object.
    pub fn put(&self, name: &ObjectName, bytes: &[u8]) -> Result<(), BackupError> {
        put(&*self.objects, name, bytes)
    }

    /// Seals an index object and puts it.
    pub(crate) fn put_index(&self, index: &IndexObject) -> Result<SealedIndex, BackupError> {
        let sealed = index.seal(&self.sealer)?;
        let name = ObjectName::Index(sealed.object.id);
        self.put(&name, &sealed.object.bytes)?;
        Ok(sealed)
    }

    /// The names and lengths of all objects of a kind. Names that are none are passed over.
    pub fn list(&self, kind: ObjectKind) -> Result<Vec<(ObjectName, u64)>, BackupError> {
        let mut names = Vec::new();
        let listed = list_kind(&*self.objects, kind, &mut |name, len| {
            names.push((name, len));
            Ok(())
        });
        listed.map_err(|source| self.failed(source))?;
        Ok(names)
    }

    /// The copies that are there, by the names of their objects, and their lengths.
    pub fn list_copies(&self) -> Result<BTreeMap<ObjectName, u64>, BackupError> {
        self.list_copies_in("")
    }

    fn list_copies_of(&self, kind: ObjectKind) -> Result<BTreeMap<ObjectName, u64>, BackupError> {
        self.list_copies_in(kind.prefix())
    }

    fn list_copies_in(&self, folder: &str) -> Result<BTreeMap<ObjectName, u64>, BackupError> {
        let mut copies = BTreeMap::new();
        let prefix = format!("{COPIES_PREFIX}{folder}");
        let listed = self.objects.list(&prefix, &mut |name, len| {
            copies.extend(original_of(name).map(|object| (object, len)));
            Ok(())
        });
        listed.map_err(|source| self.failed(source))?;
        Ok(copies)
    }

    /// An error of the place, as one of this repository.
    #[must_use]
    pub fn failed(&self, source: ObjectError) -> BackupError {
        failed(&*self.objects, source)
    }

    fn known(&self) -> Known {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Lists the journal and reads what is new, until a listing shows everything that it must.
    /// Records that are missed and can be put back are.
    fn read(&self, remembered: &Remembered) -> Result<(), BackupError> {
        let (mut tries, mut written_off) = (1, self.known().written_off);
        loop {
            let error = match self.read_once(remembered, &written_off) {
                Ok(known) => {
                    *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
                    return Ok(());
                }
                Err(error) => error,
            };
            match &error {
                ReadError::Heads(missed) if self.put_back(missed) => tries = 1,
                ReadError::Heads(HeadsError::Missing(record))
                    if tries == LISTINGS_MAX && self.rollback == Rollback::Allowed =>
                {
                    written_off.push(*record);
                }
                _ if tries == LISTINGS_MAX || !error.may_pass() => {
                    return Err(error.told(self));
                }
                _ => tries += 1,
            }
        }
    }

    fn read_once(
        &self,
        remembered: &Remembered,
        written_off: &[RecordName],
    ) -> Result<Known, ReadError> {
        let mut names = Vec::new();
        let listed = list_kind(&*self.objects, ObjectKind::Record, &mut |name, len| {
            if let ObjectName::Record { counter, id } = name {
                names.push((RecordName { counter, id }, len));
            }
            Ok(())
        });
        listed.map_err(|error| ReadError::Failed(self.failed(error)))?;
        let before = self.journal();
        let read = |(name, len): &(RecordName, u64)| match before.get(name) {
            Some(record) => Ok((*name, record.clone())),
            None => self
                .record(name, *len)
                .map(|record| (*name, Arc::new(record))),
        };
        let unknown = names
            .iter()
            .filter(|(name, _)| before.get(name).is_none())
            .count();
        let records: Vec<(RecordName, Arc<Record>)> = if unknown < FETCH_TOGETHER_MIN {
            names.iter().map(read).collect::<Result<_, _>>()?
        } else {
            names.par_iter().map(read).collect::<Result<_, _>>()?
        };
        let mut journal = Journal::default();
        records
            .into_iter()
            .for_each(|(name, record)| journal.add(name, record));
        journal
            .check(remembered, written_off)
            .map_err(ReadError::Heads)?;
        self.memory.forget_records(&journal);
        let state = Arc::new(State::of(&journal));
        Ok(Known {
            journal: Arc::new(journal),
            state,
            written_off: written_off.to_vec(),
        })
    }

    /// A record from the cache, or from the place.
    fn record(&self, name: &RecordName, len: u64) -> Result<Record, ReadError> {
        let object = name.object().to_string();
        if let Some(record) = self
            .memory
            .record(name)
            .and_then(|stored| self.opened(name, &stored).ok())
        {
            return Ok(record);
        }
        let damaged = |reason: String| {
            ReadError::Failed(BackupError::Damaged {
                object: object.clone(),
                reason,
                points: Vec::new(),
            })
        };
        if len > RECORD_LEN_MAX {
            return Err(damaged(format!("{len} bytes are too many for a record")));
        }
        let stored = self
            .objects
            .get(&object)
            .map_err(|error| match error.kind {
                ObjectErrorKind::Missing => ReadError::Gone(error),
                _ => ReadError::Failed(self.failed(error)),
            })?;
        let record = self.opened(name, &stored).map_err(ReadError::Failed)?;
        self.memory.keep_record(name, &stored);
        Ok(record)
    }

    fn opened(&self, name: &RecordName, stored: &[u8]) -> Result<Record, BackupError> {
        let object = name.object().to_string();
        let damaged = |reason: String| BackupError::Damaged {
            object: object.clone(),
            reason,
            points: Vec::new(),
        };
        let plain = self
            .sealer
            .open(SealedKind::Record, &name.id, stored)
            .map_err(|error| match error {
                SealError::Version(found) => BackupError::Newer {
                    object: object.clone(),
                    found: found.into(),
                    known: RECORD_VERSION,
                },
                other => damaged(other.to_string()),
            })?;
        parse_record(&plain, name, &object)
    }
}

impl Found {
    /// Opens it, as [`Repository::open`] does. Where the repository's file is not what its keys or
    /// records were made for, and its copy is, the file is written anew.
    pub fn open(
        &self,
        opener: Option<&Opener>,
        folders: ClientFolders,
        rollback: Rollback,
    ) -> Result<Repository, BackupError> {
        let first = self.open_as(&self.file, opener, folders.clone(), rollback);
        let Err(error) = first else { return first };
        if !may_be_of_the_file(&error) {
            return Err(error);
        }
        let copy = self.twice.sound_copy(&ObjectName::Repository);
        let file = copy.and_then(|stored| RepositoryFile::decode(&stored).ok());
        let Some(file) = file.filter(|file| *file != self.file) else {
            return Err(error);
        };
        let Ok(repository) = self.open_as(&file, opener, folders, rollback) else {
            return Err(error);
        };
        // Only who holds the key, or reads the records, can tell: they fit the copy.
        if file.is_encrypted || !repository.journal().is_empty() {
            self.twice.put_back(&ObjectName::Repository);
            return Ok(repository);
        }
        Err(error)
    }

    fn open_as(
        &self,
        file: &RepositoryFile,
        opener: Option<&Opener>,
        folders: ClientFolders,
        rollback: Rollback,
    ) -> Result<Repository, BackupError> {
        let (twice, file) = (self.twice.clone(), file.clone());
        let objects: Arc<dyn Objects> = twice.clone();
        let place = objects.describe();
        let memory = ClientMemory::new(folders, &place, file.id);
        if rollback == Rollback::Refused {
            memory.refuse_exchanged(&place, file.is_encrypted)?;
        }
        let (sealer, role) = sealer(&twice, &file, opener)?;
        let repository = Repository {
            objects,
            twice,
            sealer: Arc::new(sealer),
            file,
            role,
            memory,
            rollback,
            known: Mutex::default(),
        };
        let remembered = if rollback == Rollback::Refused {
            repository.memory.heads()?
        } else {
            Remembered::default()
        };
        repository.read(&remembered)?;
        repository
            .memory
            .meet(repository.file.is_encrypted, repository.state().heads())?;
        Ok(repository)
    }
}

/// True if a repository may have been refused because its file says something wrong.
fn may_be_of_the_file(error: &BackupError) -> bool {
    match error {
        BackupError::Key { source, .. } => !matches!(source, KeyError::Objects(_)),
        BackupError::Exchanged { .. }
        | BackupError::NotEncrypted { .. }
        | BackupError::KeyNeeded { .. }
        | BackupError::Damaged { .. } => true,
        _ => false,
    }
}

/// The record that `plain` writes, if it belongs under this name.
fn parse_record(plain: &[u8], name: &RecordName, object: &str) -> Result<Record, BackupError> {
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let damaged = |reason: String| BackupError::Damaged {
        object: object.to_owned(),
        reason,
        points: Vec::new(),
    };
    let Version { version } =
        serde_json::from_slice(plain).map_err(|error| damaged(error.to_string()))?;
    if version > RECORD_VERSION {
        return Err(BackupError::Newer {
            object: object.to_owned(),
            found: version,
            known: RECORD_VERSION,
        });
    }
    let record: Record =
        serde_json::from_slice(plain).map_err(|error| damaged(error.to_string()))?;
    if record.counter == name.counter {
        Ok(record)
    } else {
        Err(damaged(
            "its name says another counter than it does".to_owned(),
        ))
    }
}

/// A failure to read the journal.
enum ReadError {
    /// A record that was listed is gone: a session replaced it meanwhile.
    Gone(ObjectError),
    /// A record is missing that another record, or the client, knows of.
    Heads(HeadsError),
    Failed(BackupError),
}

impl ReadError {
    /// True if a later listing may be whole.
    fn may_pass(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }

    fn told(self, repository: &Repository) -> BackupError {
        let gone = |record: RecordName, witness| BackupError::RolledBack {
            place: repository.place(),
            record: record.object().to_string(),
            witness,
        };
        match self {
            Self::Gone(error) => repository.failed(error),
            Self::Heads(HeadsError::Missing(record)) => gone(record, "another record builds on"),
            Self::Heads(HeadsError::RolledBack(record)) => gone(record, "this client has seen"),
            Self::Failed(error) => error,
        }
    }
}

fn failed(objects: &dyn Objects, source: ObjectError) -> BackupError {
    if source.kind == ObjectErrorKind::CalledOff {
        return BackupError::Interrupted;
    }
    BackupError::Objects {
        place: objects.describe(),
        source,
    }
}

fn put(objects: &dyn Objects, name: &ObjectName, bytes: &[u8]) -> Result<(), BackupError> {
    objects
        .put(&name.to_string(), bytes)
        .map_err(|source| failed(objects, source))
}

/// A place with anything of a repository in it is no place for a new one.
fn refuse_anything(objects: &dyn Objects) -> Result<(), BackupError> {
    let not_empty = || BackupError::NotEmpty {
        place: objects.describe(),
    };
    match objects.get(&ObjectName::Repository.to_string()) {
        Ok(_) => return Err(not_empty()),
        Err(error) if error.kind == ObjectErrorKind::Missing => {}
        Err(error) => return Err(failed(objects, error)),
    }
    let mut count = 0_u64;
    for kind in [ObjectKind::Key, ObjectKind::Record, ObjectKind::Index] {
        list_kind(objects, kind, &mut |_, _| {
            count += 1;
            Ok(())
        })
        .map_err(|error| failed(objects, error))?;
    }
    if count == 0 { Ok(()) } else { Err(not_empty()) }
}

fn read_file(objects: &dyn Objects) -> Result<RepositoryFile, BackupError> {
    let name = ObjectName::Repository.to_string();
    let stored = objects.get(&name).map_err(|error| match error.kind {
        ObjectErrorKind::Missing => BackupError::NoRepository {
            place: objects.describe(),
        },
        _ => failed(objects, error),
    })?;
    RepositoryFile::decode(&stored).map_err(|error| match error {
        RepositoryFileError::Version(found) => BackupError::Newer {
            object: name,
            found,
            known: FORMAT,
        },
        invalid @ RepositoryFileError::Invalid(_) => BackupError::Damaged {
            object: name,
            reason: invalid.to_string(),
            points: Vec::new(),
        },
    })
}

fn sealer(
    twice: &Twice,
    file: &RepositoryFile,
    opener: Option<&Opener>,
) -> Result<(Sealer, KeyRole), BackupError> {
    let place = || twice.describe();
    match (file.is_encrypted, opener) {
        (false, None) => Ok((Sealer::plain(file.id), KeyRole::Owner)),
        (false, Some(_)) => Err(BackupError::NotEncrypted { place: place() }),
        (true, None) => Err(BackupError::KeyNeeded { place: place() }),
        (true, Some(opener)) => {
            let unlocked = unlock_any(twice, file, opener).or_else(|error| {
                // The one that opens may be among those of which only the copy is left.
                if put_keys_back(twice) {
                    unlock_any(twice, file, opener)
                } else {
                    Err(error)
                }
            });
            let key = unlocked.map_err(|source| BackupError::Key {
                place: place(),
                source,
            })?;
            Ok((Sealer::encrypted(file.id, &key.secrets), key.role))
        }
    }
}
