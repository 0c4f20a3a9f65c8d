//! Errors of repository operations: the variant is for the program, the sentence and the hint for
//! the person, the source for the investigator.

use std::io;

use vellum_store::StoreError;

use crate::objects::{ObjectError, ObjectErrorKind};
use crate::seal::{KeyError, SealError};
use crate::session::announcement::OpenSession;

/// The failure of an operation on a repository.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The place holds no repository.
    #[error("there is no repository in {place}")]
    NoRepository {
        /// The place where it was looked for.
        place: String,
    },
    /// The place holds something already.
    #[error("{place} holds a repository already, or something else")]
    NotEmpty {
        /// The place where a repository was to be made.
        place: String,
    },
    /// The key does not open it.
    #[error("{place}: {source}")]
    Key {
        /// The repository.
        place: String,
        /// The cause.
        #[source]
        source: KeyError,
    },
    /// It is encrypted, and no key was given.
    #[error("the repository in {place} is encrypted, and no password or key file was given")]
    KeyNeeded {
        /// The repository.
        place: String,
    },
    /// A key was given, but everybody can read it.
    #[error(
        "the repository in {place} is not encrypted, though a password or key file was given for it"
    )]
    NotEncrypted {
        /// The repository.
        place: String,
    },
    /// A newer program wrote it.
    #[error("{object} has version {found}, this program knows versions up to {known}")]
    Newer {
        /// The object.
        object: String,
        /// The version that it has.
        found: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// A writer's key, which does not give the right to do this.
    #[error(
        "the key that was given is a writer's: with it points can be added to {place}, and \
             nobody can {what}"
    )]
    WriterKey {
        /// The repository.
        place: String,
        /// The operation that was refused.
        what: &'static str,
    },
    /// An earlier state: a record that was seen there is gone.
    #[error("the repository in {place} shows an earlier state: {record}, which {witness}, is gone")]
    RolledBack {
        /// The repository.
        place: String,
        /// The record that is missing.
        record: String,
        /// The part that knows of it: this client, or another record.
        witness: &'static str,
    },
    /// An exchanged repository: another one is where this one was.
    #[error("{place} holds repository {found} now; it held {known} before")]
    Exchanged {
        /// The place.
        place: String,
        /// The identity of the repository that it holds.
        found: String,
        /// The identity of the one that it held when this client saw it last.
        known: String,
    },
    /// An object is not what it must be.
    #[error("damaged: {object}: {reason}{}", hit(points))]
    Damaged {
        /// The object.
        object: String,
        /// The damage.
        reason: String,
        /// The points that need it, as far as known.
        points: Vec<String>,
    },
    /// A lock: other sessions are at work, so this cannot be done now.
    #[error("the repository in {place} is in use: {what}{}", listed(sessions))]
    Locked {
        /// The repository.
        place: String,
        /// The obstacle.
        what: String,
        /// The sessions at work.
        sessions: Vec<OpenSession>,
    },
    /// A fence: a collection ended this session while it was at work.
    #[error("this session ({session}) was fenced by a collection: what it did does not count")]
    Fenced {
        /// This session.
        session: String,
    },
    /// The last record may be there or not.
    #[error("whether it was done is not known: {source}")]
    Uncertain {
        /// The session, which stays announced.
        session: String,
        /// The failure of the request.
        #[source]
        source: ObjectError,
    },
    /// An increment on a state that the store does not have.
    #[error(
        "this is an increment, and the store does not have its base, content {base} (it was made \
         by {writer})"
    )]
    MissingBase {
        /// The content that it is relative to.
        base: String,
        /// The writer of the increment.
        writer: String,
    },
    /// An image here that cannot follow a repository's.
    #[error("image {image} cannot follow: {reason}")]
    Diverged {
        /// The image.
        image: String,
        /// The obstacle.
        reason: String,
    },
    /// A record was put, and the journal could not be read after it to see if it counts.
    #[error(
        "it was written to {place}, but if another collection ended this session meanwhile \
         could not be asked: {source}"
    )]
    Unconfirmed {
        /// The repository.
        place: String,
        /// The failure of the request.
        #[source]
        source: ObjectError,
    },
    /// A parameter that makes no sense, or a name that means nothing here.
    #[error("{0}")]
    Parameter(String),
    /// The place refused something.
    #[error("{place}: {source}")]
    Objects {
        /// The repository.
        place: String,
        /// The failure of the request.
        #[source]
        source: ObjectError,
    },
    /// A failure to seal.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system refused something.
    #[error("cannot {what}: {source}")]
    Io {
        /// The attempted operation, with the path.
        what: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The person, or the program, called it off.
    #[error("interrupted")]
    Interrupted,
}

fn hit(points: &[String]) -> String {
    if points.is_empty() {
        String::new()
    } else {
        format!(" (needed by {})", points.join(", "))
    }
}

fn listed(sessions: &[OpenSession]) -> String {
    sessions
        .iter()
        .flat_map(|session| ["\n  ".to_owned(), session.to_string()])
        .collect()
}

impl BackupError {
    /// True if the repository's place has no room.
    #[must_use]
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Objects { source, .. } if source.kind == ObjectErrorKind::Full)
    }

    /// Advice to the user, if there is any.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoRepository { .. } => Some("make one with `backup init`"),
            Self::NotEmpty { .. } => Some("choose an empty place"),
            Self::KeyNeeded { .. } => Some("give the password or the key file"),
            Self::NotEncrypted { .. } => {
                Some("if you know it is not encrypted, give no key; else somebody exchanged it")
            }
            Self::WriterKey { .. } => {
                Some("give an owner's key: `vellum backup key list` shows the role of each")
            }
            Self::Newer { .. } => Some("use a newer program"),
            Self::RolledBack { .. } => Some(
                "if you restored the repository from a copy, say --allow-rollback; else somebody \
                 took something away",
            ),
            Self::Exchanged { .. } => {
                Some("if you made it anew, say --allow-rollback; else somebody exchanged it")
            }
            Self::Damaged { .. } => {
                Some("run `backup verify` to see what else is hit; other points can be restored")
            }
            Self::Locked { .. } => Some(
                "wait for them: `backup info` says since when; what died can be ended with \
                 `backup prune --fence SESSION`",
            ),
            Self::Fenced { .. } => Some("run it again: nothing is lost but time"),
            Self::Uncertain { .. } => Some(
                "run it again once the place answers; the session can be ended with `backup prune \
                 --fence SESSION`",
            ),
            Self::MissingBase { .. } => {
                Some("bring the state that it is relative to first, or send all of it")
            }
            Self::Diverged { .. } => Some(
                "bring it under another name; a changed state can follow once a snapshot keeps it",
            ),
            Self::Unconfirmed { .. } => {
                Some("run it again once the place answers: what was done is found there")
            }
            _ => None,
        }
    }
}
