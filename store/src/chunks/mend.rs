//! Mends a damaged frame from wherever its chunks are: the intact chunks in it, other copies in
//! this store, the configured sources, in this order. (Parity mends the files below: what it can
//! mend never comes here.)
//!
//! Every read of a damaged frame comes by here, so it bounds how long that may take: one thread at
//! a time works on a frame, the others wait for it; a frame that could not be mended is not tried
//! again for a while; sources have their own time limit (`source`). Chunks that were found are
//! verified against their hashes, kept in the cache, and written under the ids that they had if the
//! store can be written to (`heal`).

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use vellum_core::frame::FrameHeader;
use vellum_core::hash::{ChunkHash, hash_chunks};
use vellum_core::units::ChunkId;

use super::Chunks;
use super::decoded_frame::DecodedFrame;
use super::heal::RightBytes;
use super::source::{ChunkSources, KnownNames, SourceReply, WantedPage};
use super::sync::lock_unpoisoned;
use crate::error::StoreError;

/// Pause before a frame that could not be mended is tried again: a chunk that is read again and
/// again must not cost a search each time.
const RETRY_PAUSE: Duration = Duration::from_secs(30);
/// Frames that are remembered as not to be mended: beyond that, the oldest are tried again.
const FAILURES_MAX: usize = 4096;

/// Something that a person should know: a chunk was healed, a source cannot be asked.
pub type Notices = Box<dyn Fn(&str) + Send + Sync>;

/// Sources for the chunks of damaged frames, and the attempts that failed.
#[derive(Default)]
pub(crate) struct Mender {
    pub(crate) sources: ChunkSources,
    notices: RwLock<Option<Notices>>,
    names: RwLock<Option<Weak<dyn KnownNames>>>,
    /// True if mended chunks are written back.
    writes: AtomicBool,
    state: Mutex<MenderState>,
    ended: Condvar,
}

#[derive(Default)]
struct MenderState {
    /// Frames that a thread is mending.
    busy: BTreeSet<ChunkId>,
    /// Frames that could not be mended, and when that was found.
    failed: HashMap<ChunkId, Instant>,
}

/// The right to mend a frame.
struct Mending<'m> {
    mender: &'m Mender,
    first: ChunkId,
}

/// Chunks of a frame that were found, each verified against its hash.
#[derive(Default)]
struct FoundChunks {
    plain: HashMap<ChunkHash, Vec<u8>>,
    /// Their sources, for people.
    from: BTreeSet<String>,
}

impl Mender {
    /// Has mended chunks written under their ids from now on.
    pub(crate) fn write_back(&self) {
        self.writes.store(true, Ordering::Release);
    }

    pub(crate) fn set_names(&self, names: Weak<dyn KnownNames>) {
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = Some(names);
    }

    pub(crate) fn set_notices(&self, notices: Notices) {
        *self.notices.write().unwrap_or_else(PoisonError::into_inner) = Some(notices);
    }

    /// Lets frames be tried again that could not be mended.
    pub(crate) fn forget_failures(&self) {
        lock_unpoisoned(&self.state).failed.clear();
    }

    fn send_notice(&self, text: &str) {
        let notices = self.notices.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(notices) = &*notices {
            notices(text);
        }
    }

    /// Waits until nobody else mends the frame; not if that failed lately.
    fn begin_mending(&self, first: ChunkId) -> Option<Mending<'_>> {
        let mut state = lock_unpoisoned(&self.state);
        loop {
            let failed = state.failed.get(&first);
            if failed.is_some_and(|since| since.elapsed() < RETRY_PAUSE) {
                return None;
            }
            if state.busy.insert(first) {
                return Some(Mending {
                    mender: self,
                    first,
                });
            }
            state = self
                .ended
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Mending<'_> {
    fn note_failure(&self) {
        let mut state = lock_unpoisoned(&self.mender.state);
        if state.failed.len() >= FAILURES_MAX {
            state.failed.clear();
        }
        state.failed.insert(self.first, Instant::now());
    }
}

impl Drop for Mending<'_> {
    fn drop(&mut self) {
        lock_unpoisoned(&self.mender.state).busy.remove(&self.first);
        self.mender.ended.notify_all();
    }
}

impl FoundChunks {
    /// Takes the chunks that have their names; whether there were any.
    fn take_verified(
        &mut self,
        from: &str,
        chunks: impl IntoIterator<Item = (ChunkHash, Vec<u8>)>,
    ) {
        let chunks: Vec<(ChunkHash, Vec<u8>)> = chunks.into_iter().collect();
        let bytes: Vec<&[u8]> = chunks.iter().map(|(_, plain)| plain.as_slice()).collect();
        let found = hash_chunks(&bytes);
        for ((name, plain), found) in chunks.into_iter().zip(found) {
            if name == found {
                self.plain.insert(name, plain);
                self.from.insert(from.to_owned());
            }
        }
    }

    fn missing_names<'n>(&self, wanted: &[&'n ChunkHash]) -> Vec<&'n ChunkHash> {
        let is_missing = |name: &&&ChunkHash| !self.plain.contains_key(**name);
        wanted.iter().filter(is_missing).copied().collect()
    }
}

impl Chunks {
    /// Returns the frame that holds `id`, read as `read`, with its damaged chunks mended as far as
    /// they can be found.
    pub(super) fn mend_frame(
        &self,
        id: ChunkId,
        read: Result<Arc<DecodedFrame>, StoreError>,
    ) -> Result<Arc<DecodedFrame>, StoreError> {
        let read = match read {
            // It may be what it was before it was healed.
            Ok(frame) => {
                self.reader
                    .evict_range(frame.header.first_id(), frame.header.end_id());
                self.reader.read_frame(id)
            }
            read => read,
        };
        match &read {
            Ok(frame) if frame.is_whole() => return read,
            Ok(_) | Err(StoreError::Damaged(_)) => {}
            Err(_) => return read,
        }
        let Ok(Some(header)) = self.reader.frame_header(id) else {
            return read;
        };
        let Some(mending) = self.mender.begin_mending(header.first_id()) else {
            return read;
        };
        // Another thread may have mended it meanwhile.
        let read = match self.reader.cached_frame(id) {
            Some(frame) if frame.is_whole() => return Ok(frame),
            _ => read,
        };
        if let Some(frame) = self.rebuild_frame(&header, read.as_deref().ok()) {
            if !frame.is_whole() {
                mending.note_failure();
            }
            Ok(frame)
        } else {
            mending.note_failure();
            read
        }
    }

    /// The frame of `header`, of which `old` is what is stored, with what was found elsewhere; none
    /// if nothing was.
    fn rebuild_frame(
        &self,
        header: &FrameHeader,
        old: Option<&DecodedFrame>,
    ) -> Option<Arc<DecodedFrame>> {
        let damaged: Vec<(ChunkId, &ChunkHash)> = header
            .chunk_hashes()
            .filter(|(id, _)| old.is_none_or(|old| old.chunk_bytes(*id).is_err()))
            .collect();
        let mut wanted: Vec<&ChunkHash> = damaged.iter().map(|(_, name)| *name).collect();
        wanted.sort_unstable_by_key(|name| name.0);
        wanted.dedup();
        let mut found = FoundChunks::default();
        self.find_copies(&damaged, &mut found);
        self.find_in_sources(&wanted, &mut found);
        let right: Vec<RightBytes<'_>> = damaged
            .iter()
            .filter_map(|(id, name)| {
                let plain = found.plain.get(*name)?;
                Some(RightBytes {
                    id: *id,
                    name: **name,
                    plain,
                })
            })
            .collect();
        if right.is_empty() {
            return None;
        }
        self.write_healed(header, &right, damaged.len(), &found.from);
        let chunks: Vec<Option<&[u8]>> = header
            .chunk_hashes()
            .map(|(id, name)| {
                let kept = old.and_then(|old| old.chunk_bytes(id).ok());
                kept.or_else(|| found.plain.get(name).map(Vec::as_slice))
            })
            .collect();
        let chunk_len = self.parameters.chunk_len.as_usize();
        let frame = Arc::new(DecodedFrame::of_found(header.clone(), &chunks, chunk_len));
        self.reader.cache_frame(&frame);
        Some(frame)
    }

    /// Writes what was found under its ids, if the store is written to and has room, and tells.
    fn write_healed(
        &self,
        header: &FrameHeader,
        right: &[RightBytes<'_>],
        damaged_count: usize,
        from: &BTreeSet<String>,
    ) {
        let from = from
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ");
        let (first, count) = (header.first_id(), right.len());
        let what = format!("{count} of {damaged_count} damaged chunks of frame {first}");
        if !self.mender.writes.load(Ordering::Acquire) {
            self.mender.send_notice(&format!(
                "{what} come from {from}; the store is only read, so they stay damaged in it"
            ));
            return;
        }
        let written = self
            .check_room_to_heal()
            .and_then(|()| self.heal_chunks(right));
        match written {
            Ok(_) => self
                .mender
                .send_notice(&format!("healed {what} from {from}")),
            Err(error) => self.mender.send_notice(&format!(
                "{what} come from {from}, and cannot be written back: {error}"
            )),
        }
    }

    /// Looks for other chunks of this store that have the names.
    fn find_copies(&self, damaged: &[(ChunkId, &ChunkHash)], found: &mut FoundChunks) {
        let copies = damaged.iter().filter_map(|(id, name)| {
            let other = self.indexed_id(name).filter(|other| other != id)?;
            let header = self.reader.frame_header(other).ok().flatten()?;
            if header.chunk_hash(other) != Some(*name) || self.ledger.contains(other) {
                return None;
            }
            let frame = self.reader.read_frame(other).ok()?;
            Some((**name, frame.chunk_bytes(other).ok()?.to_vec()))
        });
        found.take_verified("another copy in this store", copies);
    }

    /// The bytes of those of `names` that some source has, each verified against its hash.
    pub(crate) fn plain_in_sources(&self, names: &[ChunkHash]) -> HashMap<ChunkHash, Vec<u8>> {
        let mut found = FoundChunks::default();
        self.find_in_sources(&names.iter().collect::<Vec<_>>(), &mut found);
        found.plain
    }

    /// The names on a page, from the first source that knows its content.
    pub(crate) fn names_in_sources(&self, page: WantedPage) -> Option<Vec<Option<ChunkHash>>> {
        for source in self.mender.sources.list_sources() {
            match source.ask_for_page(page) {
                SourceReply::Answer(Some(names)) => return Some(names),
                SourceReply::Failed(reason) => self.mender.send_notice(&format!(
                    "{} cannot be asked for a damaged map: {reason}",
                    source.source_name()
                )),
                SourceReply::Answer(None) | SourceReply::Paused => {}
            }
        }
        None
    }

    fn find_in_sources(&self, wanted: &[&ChunkHash], found: &mut FoundChunks) {
        let names = self
            .mender
            .names
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(names) = names else { return };
        for source in self.mender.sources.list_sources() {
            let missing: Vec<ChunkHash> =
                found.missing_names(wanted).into_iter().copied().collect();
            if missing.is_empty() {
                return;
            }
            match source.ask_chunks(&missing, self.parameters.chunk_len, Weak::clone(&names)) {
                SourceReply::Answer(answer) => {
                    let right_len = |plain: Vec<u8>| {
                        (plain.len() == self.parameters.chunk_len.as_usize()).then_some(plain)
                    };
                    let chunks = missing.iter().zip(answer);
                    let chunks =
                        chunks.filter_map(|(name, plain)| Some((*name, right_len(plain?)?)));
                    found.take_verified(&source.source_name(), chunks);
                }
                SourceReply::Failed(reason) => self.mender.send_notice(&format!(
                    "{} cannot be asked for damaged chunks: {reason}",
                    source.source_name()
                )),
                SourceReply::Paused => {}
            }
        }
    }
}
