//! The announcement of a session: the operation, the writer and its process, as others read them
//! from the session's object.

use std::fmt;

use serde::{Deserialize, Serialize};
use vellum_core::identity::SessionId;

use crate::process::ProcessMark;

/// The operation of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionKind {
    /// Brings new points.
    Push,
    /// Takes points away.
    Forget,
    /// Brings points of another repository.
    Copy,
    /// Gives space back: one at a time.
    Prune,
    /// Notes damage, and mends it.
    Repair,
}

impl SessionKind {
    /// True if it gives space back, so that it may have what is kept back for that.
    pub(crate) fn gives_back(self) -> bool {
        matches!(self, Self::Forget | Self::Prune)
    }
}

/// The writer and its clock.
#[derive(Clone, Debug)]
pub struct Writer {
    /// Host and command.
    pub name: String,
    /// The host alone, which new points bear.
    pub host: Option<String>,
    /// The time by the writer's clock, in milliseconds since 1970. Nothing is decided by it.
    pub time_ms: u64,
    /// The process, so that others of its machine see when it is gone; none if nobody can.
    pub process: Option<ProcessMark>,
}

/// The content of a session's object: for people, except the kind and the process.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct SessionFile {
    /// 1. Greater is a newer program's.
    pub version: u32,
    /// The operation.
    pub kind: SessionKind,
    /// Host and command.
    pub writer: String,
    /// The time when it began, in milliseconds since 1970.
    pub time_ms: u64,
    /// The process whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessMark>,
}

/// A session that a listing showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSession {
    /// Its name.
    pub id: SessionId,
    /// The content of its object; none if that cannot be read.
    pub file: Option<SessionFile>,
}

impl OpenSession {
    /// True if its process is gone for certain, as far as `writer` can see from its machine.
    #[must_use]
    pub fn is_dead(&self, writer: &Writer) -> bool {
        let process = self.file.as_ref().and_then(|file| file.process.as_ref());
        process
            .zip(writer.process.as_ref())
            .is_some_and(|(process, here)| process.is_gone(here))
    }
}

impl fmt::Display for OpenSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{} ({} by {})", self.id, file.kind, file.writer),
            None => write!(f, "{} (what it is cannot be read)", self.id),
        }
    }
}

impl fmt::Display for SessionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Push => "push",
            Self::Forget => "forget",
            Self::Copy => "copy",
            Self::Prune => "prune",
            Self::Repair => "repair",
        })
    }
}
