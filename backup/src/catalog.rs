//! The chunk index of a repository: from an address (segment and ordinal) to a frame in a pack, and
//! from there to plain bytes that were verified against their name.
//!
//! It is built from the index objects that count, and brought up to date when others do. Segments
//! get numbers in the order in which this process meets them; with them an address is a `ChunkId`,
//! and maps of a repository are pages like a store's.
//!
//! **Memory.** Places: 50 bytes a frame, 1.5 bytes a chunk where frames hold 32 chunks. Names:
//! loaded where they are needed, at most [`NAMES_CACHE_LEN`] kept; those that were loaded once are
//! in a file for the next time (`drawer`). Plain frames: at most [`FRAMES_CACHE_LEN`] kept by
//! default. Beside that, one decoded index object for each thread that loads one, and the memory of
//! `parts` for random-access readers ([`Catalog::read_here_and_there`]).

mod ahead;
mod copies;
mod drawer;
mod frames;
mod parts;
mod shelf;
mod tables;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use rayon::prelude::{IntoParallelRefIterator, ParallelIterator};
use vellum_core::hash::{ChunkHash, HASH_LEN};
use vellum_core::identity::SegmentId;
use vellum_core::units::ChunkId;
use vellum_core::wire::DecodeError;

use crate::format::{
    FrameEntry, FrameError, IndexObject, PackEntry, Presence, SegmentEntry, address,
};
use crate::objects::{ObjectError, ObjectErrorKind, ObjectId, ObjectName, Objects};
use crate::seal::{SealError, SealedKind, Sealer};
pub(crate) use copies::Copies;
use drawer::Drawer;
pub use frames::{PlainFrame, WholeFrame};
use parts::Parts;
use shelf::Shelf;
use tables::Tables;

/// Names that are kept in memory: of two million chunks.
pub const NAMES_CACHE_LEN: u64 = 64 << 20;
/// Plain frames that are kept in memory: of 500 frames of 128 KiB.
pub const FRAMES_CACHE_LEN: u64 = 64 << 20;
/// Index objects that are fetched and decoded at once: each takes up to about 100 MiB for a moment.
const LOADS_AT_ONCE: usize = 2;
/// Frames of a pack with less than this between them are fetched in one request: what is thrown
/// away costs less than a request.
const GAP_LEN_MAX: u64 = 128 << 10;

/// The location of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The pack.
    pub pack: ObjectId,
    /// The offset of its part in the pack, in bytes.
    pub offset: u64,
    /// The length of its part.
    pub len: u32,
    /// The number of its chunks' segment.
    pub segment: u32,
    /// The ordinal of the first.
    pub first: u32,
    /// The ordinals from there on that are present.
    pub presence: Presence,
    /// True if a collection has condemned the pack: it can still be read, and nothing new may rely
    /// on it.
    pub is_condemned: bool,
}

impl Place {
    /// The end of its part in the pack: an offset in bytes.
    fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }

    /// The address behind its chunks.
    fn behind(&self) -> ChunkId {
        address(self.segment, self.first).advance_by(self.presence.span().into())
    }
}

/// Some bytes of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stretch {
    range: Range<u64>,
    /// The address at which a sequential reader that has these bytes goes on.
    behind: ChunkId,
}

/// The names of a segment's chunks.
#[derive(Debug, Default)]
pub struct SegmentNames {
    /// The entries of all index objects that name chunks of it: one, but while a collection is
    /// under way.
    entries: Vec<SegmentEntry>,
}

impl SegmentNames {
    /// The name of one chunk.
    #[must_use]
    pub fn hash(&self, ordinal: u32) -> Option<&ChunkHash> {
        self.entries.iter().find_map(|entry| entry.hash(ordinal))
    }
}

/// A failure to find a chunk or its place.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The place does not answer, or an object is gone.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// An object is not what it was.
    #[error("{object}: {source}")]
    Seal {
        /// The object's name.
        object: String,
        /// The cause.
        source: SealError,
    },
    /// An index object's content is no index.
    #[error("{object}: {source}")]
    Index {
        /// The object's name.
        object: String,
        /// The cause.
        source: DecodeError,
    },
    /// A frame does not give its chunks.
    #[error("{object}, frame at {offset}: {source}")]
    Frame {
        /// The pack.
        object: String,
        /// The offset of the frame's part in the pack, in bytes.
        offset: u64,
        /// The cause.
        source: FrameError,
    },
    /// No index that counts knows the chunk.
    #[error("chunk {ordinal} of segment {segment} is in no index of the repository")]
    Unknown {
        /// The segment's identity, if it has one.
        segment: String,
        /// Its ordinal there.
        ordinal: u32,
        /// An index object that cannot be read, and may have known it.
        lost: Option<String>,
    },
}

impl CatalogError {
    /// True if an object is gone: a collection may have moved its content, so the lookup can
    /// succeed after the journal was read again.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Objects(error) if error.kind == ObjectErrorKind::Missing)
    }

    /// True if an object is gone or not what it was: a retry would not help.
    fn is_damage(&self) -> bool {
        self.is_missing() || matches!(self, Self::Seal { .. } | Self::Index { .. })
    }
}

/// The chunk index of a repository: the location of every chunk. Shared by threads.
pub struct Catalog {
    objects: Arc<dyn Objects>,
    sealer: Arc<Sealer>,
    chunk_len: u32,
    shelf: Shelf,
    tables: RwLock<Tables>,
    /// Index objects that count and cannot be read, and why.
    lost: Mutex<BTreeMap<String, String>>,
    names: Cache<u32, Arc<SegmentNames>, ByLength>,
    drawer: Drawer,
    frames: Cache<(ObjectId, u64), Arc<PlainFrame>, ByLength>,
    /// The part fetcher; present if frames are read one by one, and others will be wanted after
    /// them.
    parts: Option<Parts>,
}

impl Catalog {
    /// A catalog that knows no index yet. Index objects are kept, as they are stored, in
    /// `cache_folder`.
    #[must_use]
    pub fn new(
        objects: Arc<dyn Objects>,
        sealer: Arc<Sealer>,
        chunk_len: u32,
        cache_folder: Option<PathBuf>,
    ) -> Self {
        Self {
            objects,
            sealer,
            chunk_len,
            shelf: Shelf::new(cache_folder.clone()),
            tables: RwLock::default(),
            lost: Mutex::default(),
            drawer: Drawer::new(cache_folder),
            names: Cache::with_weighter(256, NAMES_CACHE_LEN, ByLength),
            frames: Cache::with_weighter(512, FRAMES_CACHE_LEN, ByLength),
            parts: None,
        }
    }

    /// The same for random-access readers, as guests are: [`Catalog::read_frame`] then reads ahead,
    /// and fetches nothing that is in `copies`. At most `frames_len_max` bytes of plain frames are
    /// kept.
    #[must_use]
    pub(crate) fn read_here_and_there(self, copies: Option<Copies>, frames_len_max: u64) -> Self {
        self.frames.set_capacity(frames_len_max);
        Self {
            parts: Some(Parts::new(copies)),
            ..self
        }
    }

    /// The disk cache, which keeps parts of other objects than packs, too.
    pub(crate) fn copies(&self) -> Option<&Copies> {
        self.parts.as_ref().and_then(Parts::copies)
    }

    /// Replaces the set of index objects that count, and of condemned packs. Fetches what is new.
    /// Numbers of segments stay. Fails as a whole: what was known before is then known still.
    pub fn refresh(
        &self,
        indexes: &BTreeSet<ObjectId>,
        condemned_packs: HashSet<ObjectId>,
    ) -> Result<(), CatalogError> {
        let known = self.read().indexes().clone();
        let new: Vec<ObjectId> = indexes.difference(&known).copied().collect();
        for some in new.chunks(LOADS_AT_ONCE) {
            let loaded: Vec<IndexObject> = some
                .par_iter()
                .map(|id| self.index(id))
                .collect::<Result<_, _>>()?;
            let mut tables = self.write();
            for (id, index) in some.iter().zip(&loaded) {
                tables
                    .add(*id, index)
                    .iter()
                    .for_each(|number| drop(self.names.remove(number)));
            }
        }
        let gone: BTreeSet<ObjectId> = known.difference(indexes).copied().collect();
        let mut tables = self.write();
        if !gone.is_empty() {
            tables
                .remove(&gone)
                .iter()
                .for_each(|number| drop(self.names.remove(number)));
            self.shelf.keep_only(indexes);
            self.drawer.forget(&gone);
        }
        tables.set_condemned(condemned_packs);
        drop(tables);
        self.lost().clear();
        Ok(())
    }

    /// The same with those of these index objects that can be read: for a reader that wants what is
    /// left. [`Catalog::lost_index`] names the others.
    pub fn refresh_with_what_is_whole(
        &self,
        indexes: impl IntoIterator<Item = ObjectId>,
        condemned_packs: HashSet<ObjectId>,
    ) -> Result<(), CatalogError> {
        let (mut whole, mut lost) = (BTreeSet::new(), BTreeMap::new());
        for id in indexes {
            match self.index(&id) {
                Ok(_) => drop(whole.insert(id)),
                Err(error) if error.is_damage() => {
                    drop(lost.insert(ObjectName::Index(id).to_string(), error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        self.refresh(&whole, condemned_packs)?;
        *self.lost() = lost;
        Ok(())
    }

    /// An index object that counts and cannot be read, and why, if there is one.
    #[must_use]
    pub fn lost_index(&self) -> Option<(String, String)> {
        self.lost()
            .first_key_value()
            .map(|(object, reason)| (object.clone(), reason.clone()))
    }

    /// An index object, from the local folder or the repository.
    pub fn index(&self, id: &ObjectId) -> Result<IndexObject, CatalogError> {
        let object = ObjectName::Index(*id).to_string();
        let stored = match self.shelf.take(id) {
            Some(stored) => stored,
            None => self.fetch_index(id, &object)?,
        };
        let plain = self
            .sealer
            .open(SealedKind::Index, id, &stored)
            .map_err(|source| CatalogError::Seal {
                object: object.clone(),
                source,
            })?;
        IndexObject::decode(&plain).map_err(|source| CatalogError::Index { object, source })
    }

    /// An index object as it is stored, if this client keeps it.
    #[must_use]
    pub(crate) fn kept_index(&self, id: &ObjectId) -> Option<Vec<u8>> {
        self.shelf.take(id)
    }

    fn fetch_index(&self, id: &ObjectId, object: &str) -> Result<Vec<u8>, CatalogError> {
        let stored = self.objects.get(object)?;
        if ObjectId::of(&stored) == *id {
            self.shelf.keep(id, &stored);
        }
        Ok(stored)
    }

    /// The index objects that count.
    #[must_use]
    pub fn indexes(&self) -> BTreeSet<ObjectId> {
        self.read().indexes().clone()
    }

    /// The number of a segment in this process: the next one if it has none.
    #[must_use]
    pub fn number_of(&self, segment: SegmentId) -> u32 {
        let known = self.read().known_number(segment);
        known.unwrap_or_else(|| self.write().number_of(segment))
    }

    /// The segment that has a number.
    #[must_use]
    pub fn segment_of(&self, number: u32) -> Option<SegmentId> {
        self.read().segment_of(number)
    }

    /// The location of a frame according to its index entry; does not ask if the pack is condemned.
    #[must_use]
    pub fn place(&self, pack: &PackEntry, frame: &FrameEntry) -> Place {
        Place {
            pack: pack.id,
            offset: frame.offset,
            len: frame.len,
            segment: self.number_of(frame.segment),
            first: frame.first,
            presence: frame.presence.clone(),
            is_condemned: false,
        }
    }

    /// The frame that holds a chunk: one of a pack that is not condemned, if there is one.
    #[must_use]
    pub fn locate(&self, address: ChunkId) -> Option<Place> {
        self.read().locate(address)
    }

    /// The names of a segment's chunks. Cost where they are not in memory: reading them, once the
    /// index objects that have them were opened.
    pub fn names(&self, number: u32) -> Result<Arc<SegmentNames>, CatalogError> {
        if let Some(names) = self.names.get(&number) {
            return Ok(names);
        }
        let sources = self.read().sources(number).to_vec();
        let segment = self.segment_of(number);
        let mut names = SegmentNames::default();
        for (source, segment) in sources.iter().zip(std::iter::repeat(segment).flatten()) {
            names.entries.extend(self.entry(source, segment)?);
        }
        let names = Arc::new(names);
        self.names.insert(number, names.clone());
        Ok(names)
    }

    /// The entry of a segment in an index object.
    fn entry(
        &self,
        source: &ObjectId,
        segment: SegmentId,
    ) -> Result<Option<SegmentEntry>, CatalogError> {
        if let Some(found) = self.drawer.take(&self.sealer, source, segment) {
            return Ok(Some(found));
        }
        let mut index = self.index(source)?;
        self.drawer.keep(&self.sealer, source, &index.segments);
        Ok(index.segments.remove(&segment))
    }

    /// Visits the names of all chunks, segment by segment: its number and some of its names. Holds
    /// one index object at a time. A chunk that two index objects name comes twice.
    pub fn for_each_segment<E: From<CatalogError>>(
        &self,
        mut visit: impl FnMut(u32, SegmentId, &SegmentEntry) -> Result<(), E>,
    ) -> Result<(), E> {
        for id in self.indexes() {
            for (segment, entry) in &self.index(&id)?.segments {
                visit(self.number_of(*segment), *segment, entry)?;
            }
        }
        Ok(())
    }

    /// The error for an address that [`Catalog::locate`] does not find.
    #[must_use]
    pub fn unknown(&self, address: ChunkId) -> CatalogError {
        let (number, ordinal) = crate::format::split_address(address);
        let segment = self
            .segment_of(number)
            .map_or_else(|| "?".to_owned(), |id| id.to_string());
        CatalogError::Unknown {
            segment,
            ordinal,
            lost: self.lost_index().map(|(object, _)| object),
        }
    }

    fn lost(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Weighs a cached value by its length in bytes.
#[derive(Clone)]
struct ByLength;

impl Weighter<u32, Arc<SegmentNames>> for ByLength {
    fn weight(&self, _: &u32, names: &Arc<SegmentNames>) -> u64 {
        names
            .entries
            .iter()
            .map(|entry| (entry.hashes.len() * HASH_LEN + entry.presence.heap_len() + 64) as u64)
            .sum::<u64>()
            + 64
    }
}

impl Weighter<(ObjectId, u64), Arc<PlainFrame>> for ByLength {
    fn weight(&self, _: &(ObjectId, u64), frame: &Arc<PlainFrame>) -> u64 {
        frame.plain.len() as u64 + 128
    }
}
