//! The end of a command: its outcome or its failure, and the exit code of each.

use std::io;

use vellum_backup::error::BackupError;
use vellum_backup::seal::KeyError;
use vellum_core::name::NameError;
use vellum_core::tree::{LookupError, PlanError};
use vellum_serve::ServeError;
use vellum_store::StoreError;

/// The exit code of a command line that cannot be understood.
pub(crate) const USAGE_CODE: u8 = 2;
/// The exit code of a failure that has none of its own.
const FAILED_CODE: u8 = 1;
/// The exit code of a comparison that could not be made, as cmp(1), diff(1) and qemu-img have it:
/// `FAILED_CODE` means there that a difference was found.
const NOT_COMPARED_CODE: u8 = 2;
/// A shell adds the signal's number to this.
const SIGNAL_CODE: u8 = 128;

/// The outcomes of a command that did its work, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// All is well.
    Done,
    /// `check` found lost space, but no lost content.
    Leaks,
    /// Some of what was asked for could not be had.
    Losses,
    /// `compare` or `diff` found a difference.
    Different,
    /// `check` found lost content.
    Damaged,
}

impl Outcome {
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Different => 1,
            Self::Leaks | Self::Losses => 3,
            Self::Damaged => 4,
        }
    }
}

/// The failure of a command to do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandFailure {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A repository operation failed.
    #[error(transparent)]
    Backup(BackupError),
    /// Content is lost: the exit code is that of a check that finds it.
    #[error(transparent)]
    Damage(BackupError),
    /// The command line asks for something that makes no sense.
    #[error("{message}")]
    Usage { message: String, hint: String },
    /// A failure of something beside the store.
    #[error("{message}")]
    Failed {
        message: String,
        hint: Option<String>,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The server that has the store does not do this.
    #[error("{0}")]
    Server(String),
    /// Better advice than the error itself has.
    #[error("{failure}")]
    Hinted {
        failure: Box<CommandFailure>,
        hint: String,
    },
    /// The answer could not be written.
    #[error("cannot write the answer: {0}")]
    Output(#[source] io::Error),
    /// The reader of the answer has gone.
    #[error("nobody reads the answer")]
    OutputClosed,
}

impl CommandFailure {
    pub(crate) fn usage_error(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage {
            message: message.into(),
            hint: hint.into(),
        }
    }

    pub(crate) fn with_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Failed {
            message: message.into(),
            hint: Some(hint.into()),
            source: None,
        }
    }

    /// The refusal of a system call, `what` with the path.
    pub(crate) fn io_error(what: impl Into<String>, source: io::Error) -> Self {
        Self::Failed {
            message: format!("cannot {}: {source}", what.into()),
            hint: None,
            source: Some(source.into()),
        }
    }

    /// A text that cannot be a name.
    pub(crate) fn invalid_name(text: &str, source: NameError) -> Self {
        Self::Store(StoreError::Name {
            text: text.to_owned(),
            source,
        })
    }

    /// The same failure with other advice.
    pub(crate) fn replace_hint(self, hint: impl Into<String>) -> Self {
        Self::Hinted {
            failure: Box::new(self),
            hint: hint.into(),
        }
    }

    /// Advice on the next step.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Store(StoreError::InUse { .. }) => {
                Some("--wait waits for it to end; listing and reading work meanwhile".to_owned())
            }
            Self::Store(error) => error.hint(),
            Self::Backup(error) | Self::Damage(error) => error.hint().map(str::to_owned),
            Self::Usage { hint, .. } | Self::Hinted { hint, .. } => Some(hint.clone()),
            Self::Failed { hint, .. } => hint.clone(),
            Self::Server(_) => {
                Some("use the same user and version as the server, or stop it".to_owned())
            }
            Self::Output(_) | Self::OutputClosed => None,
        }
    }

    /// The exit code of a command that compares, where "differs" must not look like "failed".
    pub(crate) fn code_of_comparison(&self, signal: u8) -> u8 {
        match self.exit_code(signal) {
            FAILED_CODE => NOT_COMPARED_CODE,
            other => other,
        }
    }

    /// The exit code; `signal` is the one that was received, if any.
    pub(crate) fn exit_code(&self, signal: u8) -> u8 {
        match self {
            Self::Store(StoreError::NoStore { .. })
            | Self::Backup(BackupError::NoRepository { .. }) => 10,
            Self::Backup(BackupError::Locked { .. }) => 11,
            Self::Backup(
                BackupError::Key {
                    source: KeyError::Wrong | KeyError::WrongOrDamaged(_),
                    ..
                }
                | BackupError::KeyNeeded { .. },
            ) => 12,
            Self::Damage(_) => Outcome::Damaged.exit_code(),
            Self::Store(StoreError::InUse { .. }) | Self::Server(_) => 11,
            Self::Store(StoreError::Interrupted) => {
                SIGNAL_CODE + if signal == 0 { SIGINT } else { signal }
            }
            Self::Store(StoreError::Name { .. }) | Self::Usage { .. } => USAGE_CODE,
            Self::Hinted { failure, .. } => failure.exit_code(signal),
            Self::OutputClosed => SIGNAL_CODE + SIGPIPE,
            Self::Store(_) | Self::Backup(_) | Self::Failed { .. } | Self::Output(_) => FAILED_CODE,
        }
    }
}

const SIGINT: u8 = 2;
const SIGPIPE: u8 = 13;

impl From<BackupError> for CommandFailure {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Store(error) => Self::Store(error),
            BackupError::Interrupted => Self::Store(StoreError::Interrupted),
            error => Self::Backup(error),
        }
    }
}

impl From<LookupError> for CommandFailure {
    fn from(error: LookupError) -> Self {
        Self::Store(error.into())
    }
}

impl From<PlanError> for CommandFailure {
    fn from(error: PlanError) -> Self {
        Self::Store(error.into())
    }
}

impl From<ServeError> for CommandFailure {
    fn from(error: ServeError) -> Self {
        let hint = match &error {
            ServeError::InUse(_) | ServeError::NotSocket(_) | ServeError::Listen(..) => {
                "choose another place to listen"
            }
            ServeError::Certificate(..) | ServeError::Tls(_) => {
                "the files are those that qemu and nbdkit take"
            }
            _ => {
                return Self::Failed {
                    message: error.to_string(),
                    hint: None,
                    source: None,
                };
            }
        };
        Self::with_hint(error.to_string(), hint)
    }
}

impl From<io::Error> for CommandFailure {
    /// Converts an error of writing an answer: every other use of the system names its operation.
    fn from(error: io::Error) -> Self {
        match error.downcast::<StoreError>() {
            Ok(stopped) => Self::Store(stopped),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Self::OutputClosed,
            Err(error) => Self::Output(error),
        }
    }
}
