//! Another store as a chunk source: its index leads to its chunks.
//!
//! It is opened for reading when it is first asked, and again when it does not have something that
//! it may have got since.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::chunks::{ChunkSource, WantedChunks};
use crate::store::{Access, Store};

/// Greatest age of a look at the other store that is relied upon when it lacks a wanted chunk.
const LOOK_AGE_MAX: Duration = Duration::from_secs(30);

/// The store in a folder.
pub struct OtherStoreSource {
    dir: PathBuf,
    look: Mutex<Option<(Store, Instant)>>,
}

impl OtherStoreSource {
    /// The store in `dir`, which need not be there yet.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            look: Mutex::default(),
        }
    }

    fn open(&self, wanted: &WantedChunks<'_>) -> Result<Store, String> {
        let store = Store::open(&self.dir, Access::ReadOnly, "").map_err(|e| e.to_string())?;
        let (own, there) = (
            wanted.chunk_len.bytes(),
            store.parameters().chunk_len.bytes(),
        );
        if own == there {
            Ok(store)
        } else {
            Err(format!("it has chunks of {there} bytes, not of {own}"))
        }
    }
}

impl ChunkSource for OtherStoreSource {
    fn describe(&self) -> String {
        format!("the store {}", self.dir.display())
    }

    fn fetch(&self, wanted: &WantedChunks<'_>) -> Result<Vec<Option<Vec<u8>>>, String> {
        let mut look = self.look.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((store, since)) = &*look {
            let found = find(store, wanted);
            if found.iter().all(Option::is_some) || since.elapsed() < LOOK_AGE_MAX {
                return Ok(found);
            }
        }
        *look = None;
        let store = self.open(wanted)?;
        let found = find(&store, wanted);
        *look = Some((store, Instant::now()));
        Ok(found)
    }
}

fn find(store: &Store, wanted: &WantedChunks<'_>) -> Vec<Option<Vec<u8>>> {
    let chunks = &store.inner.chunks;
    let find = |name| {
        let id = chunks.indexed(name)?;
        let frame = chunks.frame(id).ok()?;
        (frame.header.hash(id) == Some(name)).then_some(())?;
        Some(frame.chunk(id).ok()?.to_vec())
    };
    wanted.names.iter().map(find).collect()
}
