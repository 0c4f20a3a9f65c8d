//! When this client last pushed to a repository and verified it, for people and for monitors: a
//! small file in the client's state folder.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vellum_backup::repository::Repository;

use super::now_ms;
use crate::output::time::Rfc3339Time;

const FILE: &str = "last.json";

/// Times, in milliseconds since 1970 by this machine's clock; none if it never was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::struct_field_names,
    reason = "a time's unit stands in its name"
)]
pub(crate) struct Milestones {
    /// The last push that left nothing out, also one that had nothing to send.
    #[serde(default)]
    pub(crate) push_ms: Option<u64>,
    /// The last verification that found nothing wrong.
    #[serde(default)]
    pub(crate) verify_ms: Option<u64>,
    /// The last one that read all data, too.
    #[serde(default)]
    pub(crate) read_data_ms: Option<u64>,
}

/// The same as answers show them.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct ShownMilestones {
    pub(crate) push: Option<Rfc3339Time>,
    pub(crate) verify: Option<Rfc3339Time>,
    pub(crate) read_data: Option<Rfc3339Time>,
}

impl Milestones {
    /// The milestones of `repository`; none where nothing is kept, or can be read.
    pub(crate) fn of(repository: &Repository) -> Self {
        let read = path(repository).and_then(|path| std::fs::read(path).ok());
        read.and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Notes that the milestone that `which` chooses was reached now. That it cannot be kept makes
    /// the work no worse.
    pub(crate) fn reach(repository: &Repository, which: &[fn(&mut Self) -> &mut Option<u64>]) {
        let mut milestones = Self::of(repository);
        for which in which {
            *which(&mut milestones) = Some(now_ms());
        }
        let write = |path: PathBuf| {
            let folder = path.parent()?;
            std::fs::create_dir_all(folder).ok()?;
            let partial = folder.join(format!("{FILE}.{}", std::process::id()));
            let bytes = serde_json::to_vec(&milestones).ok()?;
            std::fs::write(&partial, bytes).ok()?;
            std::fs::rename(partial, path).ok()
        };
        let _ = path(repository).and_then(write);
    }

    /// The same for answers.
    pub(crate) fn shown(self) -> ShownMilestones {
        ShownMilestones {
            push: self.push_ms.map(Rfc3339Time::new),
            verify: self.verify_ms.map(Rfc3339Time::new),
            read_data: self.read_data_ms.map(Rfc3339Time::new),
        }
    }
}

fn path(repository: &Repository) -> Option<PathBuf> {
    repository.state_folder().map(|folder| folder.join(FILE))
}
