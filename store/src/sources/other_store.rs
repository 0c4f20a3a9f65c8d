//! Another store as a chunk source: its index leads to its chunks.
//!
//! It is opened for reading when it is first asked, and again when it does not have something that
//! it may have got since.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vellum_core::hash::ChunkHash;
use vellum_core::page::PageEntry;
use vellum_core::tree::Layer;
use vellum_core::units::ChunkLen;

use crate::chunks::{ChunkSource, WantedChunks, WantedPage};
use crate::error::StoreError;
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

    fn open_store(&self, chunk_len: ChunkLen) -> Result<Store, String> {
        let store = Store::open_dir(&self.dir, Access::ReadOnly, "").map_err(|e| e.to_string())?;
        let (own, there) = (
            chunk_len.byte_len(),
            store.parameters().chunk_len.byte_len(),
        );
        if own == there {
            Ok(store)
        } else {
            Err(format!("it has chunks of {there} bytes, not of {own}"))
        }
    }
}

impl ChunkSource for OtherStoreSource {
    fn source_name(&self) -> String {
        format!("the store {}", self.dir.display())
    }

    fn fetch_chunks(&self, wanted: &WantedChunks<'_>) -> Result<Vec<Option<Vec<u8>>>, String> {
        let mut look = self.look.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((store, since)) = &*look {
            let found = find_chunks(store, wanted);
            if found.iter().all(Option::is_some) || since.elapsed() < LOOK_AGE_MAX {
                return Ok(found);
            }
        }
        *look = None;
        let store = self.open_store(wanted.chunk_len)?;
        let found = find_chunks(&store, wanted);
        *look = Some((store, Instant::now()));
        Ok(found)
    }

    fn names_on(&self, wanted: WantedPage) -> Result<Option<Vec<Option<ChunkHash>>>, String> {
        let mut look = self.look.lock().unwrap_or_else(PoisonError::into_inner);
        let (store, _) = match &*look {
            Some(look) => look,
            None => look.insert((self.open_store(wanted.chunk_len)?, Instant::now())),
        };
        names_on(store, wanted).map_err(|error| error.to_string())
    }
}

/// The names on a page of a content that a layer of `store` shows.
fn names_on(
    store: &Store,
    wanted: WantedPage,
) -> Result<Option<Vec<Option<ChunkHash>>>, StoreError> {
    let chain: Vec<Arc<Layer>> = {
        let tree = store.tree();
        let shows = |layer: &&Arc<Layer>| layer.content == Some(wanted.content);
        let Some(top) = tree.layers().find(shows).map(|layer| layer.id) else {
            return Ok(None);
        };
        tree.chain_from(top).map(Arc::clone).collect()
    };
    let page = store.inner.pages.resolve_page(&chain, wanted.index)?;
    let count = chain[0].positions_in(wanted.chunk_len, wanted.index);
    let mut names = vec![None; count.into()];
    for run in page.clipped_to(count).runs() {
        let PageEntry::Chunk(first) = run.slot else {
            continue;
        };
        for nth in 0..run.len {
            let id = first.advance_by(nth.into());
            let header = store.inner.chunks.readable_header(id)?;
            let name = header.and_then(|header| header.chunk_hash(id).copied());
            // A page of which a part is not known here is no help.
            let Some(name) = name else {
                return Ok(None);
            };
            names[usize::from(run.start + nth)] = Some(name);
        }
    }
    Ok(Some(names))
}

fn find_chunks(store: &Store, wanted: &WantedChunks<'_>) -> Vec<Option<Vec<u8>>> {
    let chunks = &store.inner.chunks;
    let find = |name| {
        let id = chunks.indexed_id(name)?;
        let frame = chunks.verified_frame(id).ok()?;
        (frame.header.chunk_hash(id) == Some(name)).then_some(())?;
        Some(frame.chunk_bytes(id).ok()?.to_vec())
    };
    wanted.names.iter().map(find).collect()
}
