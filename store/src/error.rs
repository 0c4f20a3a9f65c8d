//! Errors of a store, for the program (the variant), the person (the sentence, the hint) and the
//! investigator (the source).

use std::io;
use std::path::{Path, PathBuf};

use vellum_core::name::NameError;
use vellum_core::source::SourceError;
use vellum_core::tree::{LookupError, Mode, PlanError};

/// Error of an operation on a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder holds no store.
    #[error("there is no store in {}", dir.display())]
    NoStore {
        /// The folder that was searched.
        dir: PathBuf,
    },
    /// The folder holds something already.
    #[error("{} is not empty", dir.display())]
    NotEmpty {
        /// The folder for the new store.
        dir: PathBuf,
    },
    /// Another process has it.
    #[error("the store {} is in use by {by}", dir.display())]
    InUse {
        /// The store.
        dir: PathBuf,
        /// The other process, as far as it is known.
        by: String,
    },
    /// A newer program wrote it.
    #[error(
        "the store {} has format {found}, this program knows formats up to {known}",
        dir.display()
    )]
    NewerFormat {
        /// The store.
        dir: PathBuf,
        /// The format it has.
        found: String,
        /// The newest that this program knows.
        known: u32,
    },
    /// A parameter that no store can have.
    #[error("{0}")]
    Parameter(String),
    /// A name that means nothing here, or several things.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// A text that cannot be a name.
    #[error("{text:?} is not a valid name: {source}")]
    Name {
        /// The text.
        text: String,
        /// The fault of the name.
        #[source]
        source: NameError,
    },
    /// A wish that cannot be met.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The image is being written by something else in this process.
    #[error("{0} is being changed by another operation")]
    Busy(String),
    /// A guest has it.
    #[error("{0} is attached: something has it open for writing")]
    Attached(String),
    /// The source of an import cannot be read or believed.
    #[error("{name}: {source}")]
    Source {
        /// The file, or `standard input`.
        name: String,
        /// The fault of the source.
        #[source]
        source: SourceError,
    },
    /// The backing file of an image is not found, or not opened because only a header names it.
    #[error("{name}: the file that it stands on, {parent}: {reason}")]
    Parent {
        /// The child's file.
        name: String,
        /// The parent, as the child names it.
        parent: String,
        /// The reason that it is not opened; goes on behind its name.
        reason: String,
    },
    /// The source of an import did not hold still.
    #[error("{name} changed while it was read: {what}")]
    SourceChanged {
        /// The file.
        name: String,
        /// The change.
        what: String,
    },
    /// The system refused something.
    #[error("cannot {what}: {source}")]
    Io {
        /// The operation, with the path.
        what: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The disk that the store (or an export) is on is full.
    #[error("cannot {what}: the disk is full")]
    Full {
        /// The operation.
        what: String,
    },
    /// A file would be longer than its file system, or a limit on this process, allows.
    #[error("cannot {what}: a file may not grow that long")]
    TooLong {
        /// The operation.
        what: String,
    },
    /// Stored bytes are not what was stored.
    #[error("damaged: {0}")]
    Damaged(Damage),
    /// The database shows an earlier state than was acknowledged: its log lost its end.
    #[error(
        "the store in {} shows an earlier state: \
         the last {lost} changes that were acknowledged are gone",
        dir.display()
    )]
    RolledBack {
        /// The store.
        dir: PathBuf,
        /// The number of missing commits.
        lost: u64,
    },
    /// `RocksDB` failed in a way that is neither damage nor a full disk.
    #[error("cannot {what}: {message}")]
    Database {
        /// The operation.
        what: String,
        /// `RocksDB`'s words.
        message: String,
    },
    /// A write failed, and the store could not be opened again yet. It still tries.
    #[error("the store takes no writes at present: {0}")]
    Stopped(String),
    /// A write failed while this was going on, and the store was opened again: what was not
    /// finished is undone.
    #[error("a write to the store failed, and what was not finished was undone")]
    Reopened,
    /// A change was asked of a store that was opened for reading.
    #[error("the store was opened read-only")]
    ReadOnly,
    /// The person, or the program, called it off.
    #[error("interrupted")]
    Interrupted,
}

/// Damage: stored bytes that are not as they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The record: a frame, a page, a file of the database.
    pub record: String,
    /// The fault, for people.
    pub reason: String,
    /// The image or snapshot that was being read, and the byte range of it that the record holds,
    /// as far as known; to `u64::MAX` for all of it.
    pub image: Option<(String, std::ops::Range<u64>)>,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.record, self.reason)?;
        match &self.image {
            Some((image, range)) if range.end == u64::MAX => write!(f, " (image {image})"),
            Some((image, range)) => write!(
                f,
                " (image {image}, bytes {} to {})",
                range.start, range.end
            ),
            None => Ok(()),
        }
    }
}

impl StoreError {
    /// Advice to the person, if there is any.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoStore { .. } => {
                "make one with `vellum init`, or name another with --store".to_owned()
            }
            Self::NotEmpty { .. } => "choose a new or empty folder".to_owned(),
            Self::InUse { .. } => {
                "wait for it to end, or stop it; listing and reading work meanwhile".to_owned()
            }
            Self::NewerFormat { .. } => {
                "use the newer program that wrote it; nothing was changed".to_owned()
            }
            Self::Lookup(LookupError::NoImage(_)) => "`vellum list` shows the images".to_owned(),
            Self::Lookup(LookupError::NoSnapshot { image, .. }) => {
                format!("`vellum snapshot list {image}` shows its snapshots")
            }
            Self::Lookup(LookupError::NoMachine(_)) => {
                "`vellum machine list` shows the machines".to_owned()
            }
            Self::Lookup(LookupError::NoMachineSnapshot { machine, .. }) => {
                format!("`vellum machine snapshot list {machine}` shows its snapshots")
            }
            Self::Lookup(LookupError::NotWhole { .. }) => {
                "write the whole name: only what just looks takes shortened ones".to_owned()
            }
            Self::Lookup(LookupError::Ambiguous { .. }) => "write more of the name".to_owned(),
            Self::Plan(plan) => return plan_hint(plan),
            Self::Attached(_) => {
                "let whoever uses it end first; snapshots and children of it can be made meanwhile"
                    .to_owned()
            }
            Self::Source {
                source: SourceError::Io { .. },
                ..
            } => "nothing was stored under this name; mend the source and import again".to_owned(),
            Self::SourceChanged { .. } => {
                "nothing was stored under this name; import again when nothing writes to the source"
                    .to_owned()
            }
            Self::Full { .. } => {
                "free some space: deleting images or snapshots and `vellum gc` work on a full disk"
                    .to_owned()
            }
            Self::TooLong { .. } => {
                "raise the limit on the length of files (`ulimit -f`, LimitFSIZE=), \
                 or use a file system that has longer ones"
                    .to_owned()
            }
            Self::Damaged(_) => "`vellum check --read-data` lists all that is hit, \
                 `vellum repair` what can be mended; \
                 what is whole can still be listed, exported and pushed"
                .to_owned(),
            Self::RolledBack { .. } => {
                "look at it with `vellum list`; if its files can be brought back, do that; \
                 `vellum check --accept-earlier-state` goes on from here"
                    .to_owned()
            }
            Self::Stopped(_) => "mend what makes it fail: writing goes on as soon as it can; \
                 what was acknowledged is there, and can be read"
                .to_owned(),
            Self::Reopened => {
                "run the command again: what was acknowledged before is there".to_owned()
            }
            Self::Interrupted => {
                "what was finished is kept; run the command again to do the rest".to_owned()
            }
            _ => return None,
        };
        Some(hint)
    }

    /// The failure to read the source called `name`: what was a store's error before a source told
    /// it, is that again.
    #[must_use]
    pub fn of_source(name: &str, error: SourceError) -> Self {
        let wrapped = |source| Self::Source {
            name: name.to_owned(),
            source,
        };
        match error {
            SourceError::Io { offset, source } => match source.downcast::<Self>() {
                Ok(error) => error,
                Err(source) => wrapped(SourceError::Io { offset, source }),
            },
            other => wrapped(other),
        }
    }

    /// Turns the system's error about `what` into an error of the store, told apart by whether the
    /// disk is full.
    pub(crate) fn of_io(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        match source.kind() {
            _ if is_full(&source) => Self::Full { what },
            io::ErrorKind::FileTooLarge => Self::TooLong { what },
            _ => Self::Io { what, source },
        }
    }

    /// Turns an error about a file into one of the store, as [`StoreError::of_io`].
    pub(crate) fn of_file(what: &str, path: &Path, source: io::Error) -> Self {
        Self::of_io(format!("{what} {}", path.display()), source)
    }

    /// A stored record that is not what was stored.
    pub(crate) fn damaged_record(
        record: impl Into<String>,
        reason: impl std::fmt::Display,
    ) -> Self {
        Self::Damaged(Damage {
            record: record.into(),
            reason: reason.to_string(),
            image: None,
        })
    }

    /// True if it keeps a store from being written, but not from being read: damage, a log that
    /// lost its end, or a place that is read-only for all or for this user.
    pub(crate) fn leaves_reading(&self) -> bool {
        match self {
            Self::Damaged(_) | Self::RolledBack { .. } => true,
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
            ),
            _ => false,
        }
    }

    /// The same error, naming the image and the range that were being read, if it is damage that
    /// does not name one yet.
    pub(crate) fn in_image(self, image: &str, range: std::ops::Range<u64>) -> Self {
        match self {
            Self::Damaged(damage) if damage.image.is_none() => Self::Damaged(Damage {
                image: Some((image.to_owned(), range)),
                ..damage
            }),
            other => other,
        }
    }
}

/// True if the disk, or the user's part of it, has no room or no name of a file left.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn plan_hint(plan: &PlanError) -> Option<String> {
    Some(match plan {
        PlanError::NameTaken(_) => {
            "choose another name, or rename or delete the old one".to_owned()
        }
        PlanError::Pinned(node) => format!("`vellum pin --off {node}` ends the protection"),
        PlanError::HasSnapshots { .. } => "add --with-snapshots to delete them as well".to_owned(),
        PlanError::WouldShrink { .. } => "add --shrink if those bytes may go".to_owned(),
        PlanError::NoOrigin(_) => {
            "only an image made with `vellum create NAME -b IMAGE` can be committed".to_owned()
        }
        PlanError::OriginChanged { image, .. } => {
            format!("`vellum rename` can put {image} in its place")
        }
        PlanError::ModeForbids {
            mode: Mode::Normal, ..
        } => return None,
        PlanError::ModeForbids { image, .. } => {
            format!("`vellum modify {image} --type normal` makes it an image like others")
        }
        PlanError::ModeConflict { .. } => return None,
        PlanError::Scratch { image, base } => {
            format!("`vellum create NAME -b {image}` keeps it, `vellum reset {base}` forgets it")
        }
        PlanError::InMachine { image, machine } => {
            format!("`vellum machine remove-disk {machine} {image}` takes it out")
        }
        PlanError::NotInMachine { machine, .. } => {
            format!("`vellum machine show {machine}` shows its disks")
        }
        PlanError::Kept { machine, .. } => {
            format!("`vellum machine snapshot delete {machine}` lets it go")
        }
        PlanError::NoSuchName(_) => {
            "rename the image or the machine to something shorter".to_owned()
        }
        PlanError::StartedAfresh(_) => "connect again: the guest has read what is gone".to_owned(),
        PlanError::Runs(machine) => {
            format!("`vellum machine stop {machine}` says that it does not")
        }
        PlanError::RunsNot(machine) => format!("`vellum machine start {machine}` switches it on"),
        PlanError::TooManyDisks(_)
        | PlanError::ConfigurationTooLong(_)
        | PlanError::TooLong(_)
        | PlanError::Circle { .. }
        | PlanError::Gone => return None,
    })
}
