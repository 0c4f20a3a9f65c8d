//! Client state: the repository that a place held, the ends of the journal that were seen last, and
//! copies of records.
//!
//! ```text
//! STATE/places/HASH.json           which repository was at that place, and whether it was
//!                                  encrypted; HASH is of the place's description
//! STATE/REPOSITORY/seen.json       the ends of its journal
//! CACHE/REPOSITORY/journal/NAME    records as they are stored
//! ```

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vellum_core::identity::RepositoryId;

use crate::error::BackupError;
use crate::journal::{Journal, RecordName, Remembered};
use crate::objects::ObjectId;

/// The folders in which a client may keep files.
#[derive(Clone, Debug, Default)]
pub struct ClientFolders {
    /// Copies of what can be fetched again.
    pub cache: Option<PathBuf>,
    /// The folder of the state that was seen: without it an exchanged or rolled back repository is
    /// believed once.
    pub state: Option<PathBuf>,
}

/// The client's files about one repository.
#[derive(Clone, Debug)]
pub(crate) struct ClientMemory {
    folders: ClientFolders,
    id: RepositoryId,
    place: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct PlaceFile {
    repository: String,
    encrypted: bool,
}

#[derive(Default, Serialize, Deserialize)]
struct SeenFile {
    heads: Vec<String>,
}

impl ClientMemory {
    pub(crate) fn new(folders: ClientFolders, place: &str, id: RepositoryId) -> Self {
        let place = Path::new("places").join(format!("{}.json", ObjectId::of(place.as_bytes())));
        Self { folders, id, place }
    }

    pub(crate) fn cache_folder(&self) -> Option<PathBuf> {
        self.folders
            .cache
            .as_ref()
            .map(|folder| folder.join(self.id.to_string()))
    }

    pub(crate) fn state_folder(&self) -> Option<PathBuf> {
        self.folders
            .state
            .as_ref()
            .map(|folder| folder.join(self.id.to_string()))
    }

    /// Refuses another repository where this client knows one, and one that is not encrypted any
    /// more.
    pub(crate) fn refuse_exchanged(&self, place: &str, encrypted: bool) -> Result<(), BackupError> {
        let Some(path) = self
            .folders
            .state
            .as_ref()
            .map(|folder| folder.join(&self.place))
        else {
            return Ok(());
        };
        let Some(known) = read_json::<PlaceFile>(&path)? else {
            return Ok(());
        };
        if known.repository != self.id.to_string() {
            return Err(BackupError::Exchanged {
                place: place.to_owned(),
                found: self.id.to_string(),
                known: known.repository,
            });
        }
        if known.encrypted && !encrypted {
            return Err(BackupError::Exchanged {
                place: place.to_owned(),
                found: format!("{} without encryption", self.id),
                known: format!("{} encrypted", self.id),
            });
        }
        Ok(())
    }

    /// The ends of the journal as they were seen last.
    pub(crate) fn heads(&self) -> Result<Remembered, BackupError> {
        let Some(folder) = self.state_folder() else {
            return Ok(Remembered::default());
        };
        let seen = read_json::<SeenFile>(&folder.join("seen.json"))?.unwrap_or_default();
        Ok(Remembered {
            heads: seen
                .heads
                .iter()
                .filter_map(|text| RecordName::parse(text))
                .collect(),
        })
    }

    /// Remembers which repository the place holds, and the ends of its journal.
    pub(crate) fn meet(&self, encrypted: bool, heads: &[RecordName]) -> Result<(), BackupError> {
        if let Some(folder) = &self.folders.state {
            write_json(
                &folder.join(&self.place),
                &PlaceFile {
                    repository: self.id.to_string(),
                    encrypted,
                },
            )?;
        }
        self.remember(heads)
    }

    /// Remembers the ends of the journal.
    pub(crate) fn remember(&self, heads: &[RecordName]) -> Result<(), BackupError> {
        let Some(folder) = self.state_folder() else {
            return Ok(());
        };
        let path = folder.join("seen.json");
        let seen = SeenFile {
            heads: heads.iter().map(ToString::to_string).collect(),
        };
        let is_new = read_json::<SeenFile>(&path)
            .ok()
            .flatten()
            .is_none_or(|known| known.heads != seen.heads);
        if is_new {
            write_json(&path, &seen)
        } else {
            Ok(())
        }
    }

    /// A record as it is stored, if it was kept. The caller checks it.
    pub(crate) fn record(&self, name: &RecordName) -> Option<Vec<u8>> {
        fs::read(self.records()?.join(name.to_string())).ok()
    }

    /// Keeps a record. It can be fetched again, so a failure is none.
    pub(crate) fn keep_record(&self, name: &RecordName, stored: &[u8]) {
        if let Some(folder) = self.records() {
            let _ = write(&folder.join(name.to_string()), stored, Sync::None);
        }
    }

    /// Drops copies of records that are not there any more.
    pub(crate) fn forget_records(&self, journal: &Journal) {
        let files = self
            .records()
            .and_then(|folder| fs::read_dir(folder).ok())
            .into_iter()
            .flatten()
            .flatten();
        let is_gone = |file: &fs::DirEntry| {
            file.file_name()
                .to_str()
                .and_then(RecordName::parse)
                .is_some_and(|name| journal.get(&name).is_none())
        };
        files
            .filter(is_gone)
            .for_each(|file| drop(fs::remove_file(file.path())));
    }

    fn records(&self) -> Option<PathBuf> {
        Some(self.cache_folder()?.join("journal"))
    }
}

/// The durability of a file: whether it must survive a loss of power.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sync {
    None,
    Durable,
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, BackupError> {
    let failed = |source| BackupError::Io {
        what: format!("read {}", path.display()),
        source,
    };
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| failed(io::Error::other(error))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), BackupError> {
    let bytes = serde_json::to_vec(value).expect("texts are JSON");
    write(path, &bytes, Sync::Durable).map_err(|source| BackupError::Io {
        what: format!("write {}", path.display()),
        source,
    })
}

/// Writes a file that is seen whole or not at all.
fn write(path: &Path, bytes: &[u8], sync: Sync) -> io::Result<()> {
    let folder = path.parent().expect("a file is in a folder");
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    if sync == Sync::Durable {
        file.as_file().sync_all()?;
    }
    file.persist(path)?;
    if sync == Sync::Durable {
        fs::File::open(folder)?.sync_all()
    } else {
        Ok(())
    }
}
