//! The engine as a whole, on places in memory: what was pushed comes back as it was, whatever
//! happens in between.

mod copied_stores;
mod copies;
mod damage;
mod diffs;
mod far_places;
mod faults;
mod follows;
mod forgets;
#[path = "../../../store/src/transfer/grower.rs"]
mod grower;
mod guests;
mod heals;
mod index_parts;
mod losses;
mod moves;
mod newest;
mod repairs;
mod resumes;
mod sessions;
mod streams;
mod trees;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use vellum_core::units::ChunkLen;
use vellum_store::{Store, Unwatched};

use crate::error::BackupError;
use crate::objects::memory::Memory;
use crate::objects::{ObjectError, Objects, OutageWatch, PersistenceLimits, PersistentObjects};
use crate::pull::{PullReport, PullRequest, pull};
use crate::push::{PushReport, PushRequest, PushSelection, push};
use crate::reader::Reader;
use crate::repository::{ClientFolders, FirstKey, Repository, Rollback};
use crate::seal::{KeyFile, Opener};
use crate::session::Writer;

/// A client: a place, its key, its own folders.
struct Client {
    place: Arc<Memory>,
    opener: Option<Opener>,
    folders: TempDir,
}

impl Client {
    /// One with a new repository.
    fn new(encrypted: bool) -> Self {
        let place = Arc::new(Memory::new());
        let opener = encrypted.then(|| Opener::KeyFile(KeyFile::generate().expect("random bytes")));
        let folders = tempfile::tempdir().expect("a folder");
        let client = Self {
            place,
            opener,
            folders,
        };
        let key = client.opener.clone().map(|opener| FirstKey {
            opener,
            label: "test".to_owned(),
            cost: crate::seal::PasswordCost::default(),
        });
        Repository::init(
            client.objects(),
            ChunkLen::DEFAULT,
            key.as_ref(),
            0,
            client.client_folders(),
        )
        .expect("a new repository");
        client
    }

    /// Another client of the same place.
    fn other(&self) -> Self {
        Self {
            place: Arc::new(Memory::clone(&self.place)),
            opener: self.opener.clone(),
            folders: tempfile::tempdir().expect("a folder"),
        }
    }

    /// Another client of the same place, which both see change.
    fn other_folders(&self) -> Self {
        Self {
            place: Arc::clone(&self.place),
            opener: self.opener.clone(),
            folders: tempfile::tempdir().expect("a folder"),
        }
    }

    fn objects(&self) -> Arc<dyn Objects> {
        self.place.clone()
    }

    fn client_folders(&self) -> ClientFolders {
        ClientFolders {
            cache: Some(self.folders.path().join("cache")),
            state: Some(self.folders.path().join("state")),
        }
    }

    fn open(&self, objects: Arc<dyn Objects>) -> Result<Repository, BackupError> {
        Repository::open(
            objects,
            self.opener.as_ref(),
            self.client_folders(),
            Rollback::Refused,
        )
    }

    fn push(&self, store: &Store) -> Result<PushReport, BackupError> {
        self.push_through(self.objects(), store)
    }

    fn push_through(
        &self,
        objects: Arc<dyn Objects>,
        store: &Store,
    ) -> Result<PushReport, BackupError> {
        push(
            &self.open(objects)?,
            store,
            &request(PushSelection::All),
            &Unwatched,
        )
    }

    fn pull(&self, store: &Store, prefix: &str) -> Result<PullReport, BackupError> {
        let repository = self.open(self.objects())?;
        let reader = Reader::new(&repository);
        let request = PullRequest::of(&reader, |_| true, true, |text| format!("{prefix}{text}"))?;
        pull(&reader, store, &request, &Unwatched)
    }
}

fn request(selection: PushSelection) -> PushRequest {
    /// Each push has a later time than the one before, as people see it.
    static CLOCK: AtomicU64 = AtomicU64::new(1_800_000_000_000);
    let writer = Writer {
        name: "test".to_owned(),
        host: None,
        time_ms: CLOCK.fetch_add(1, Ordering::Relaxed),
        process: None,
    };
    PushRequest {
        selection,
        again: false,
        trust_others: false,
        verify: false,
        index_fetch_len: crate::push::INDEX_FETCH_LEN,
        limit_upload: None,
        assumed: HashSet::new(),
        writer,
    }
}

struct Unmoved;

impl OutageWatch for Unmoved {
    fn place_failed(&self, _: &str, _: &ObjectError, _: Duration) {}

    fn place_answers(&self, _: &str) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}

/// A place that is asked again at once when it fails.
fn persistent(place: Arc<dyn Objects>) -> Arc<dyn Objects> {
    let limits = PersistenceLimits {
        pause: Duration::from_millis(1),
        ..PersistenceLimits::default()
    };
    Arc::new(PersistentObjects::new(place, Box::new(Unmoved), limits))
}

/// The first place where two disks differ: assertions on whole disks would print megabytes.
fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let at = found.iter().zip(expected).position(|(a, b)| a != b);
    assert!(at.is_none(), "{what}: differs at {at:?} of {}", found.len());
}
