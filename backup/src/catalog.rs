//! The chunk index of a repository: from an address (segment and ordinal) to a frame in a pack, and
//! from there to plain bytes that were verified against their name.
//!
//! It is built from the index objects that count, and brought up to date when others do. Segments
//! get numbers in the order in which this process meets them; with them an address is a `ChunkId`,
//! and maps of a repository are pages like a store's.
//!
//! Readers of single contents load on demand ([`Catalog::refresh_on_demand`]): of the index they
//! fetch the parts that are of the segments that they meet, one request each. Whoever goes through
//! everything loads everything ([`Catalog::refresh`]).
//!
//! **Memory.** Places: 50 bytes a frame, 1.5 bytes a chunk where frames hold 32 chunks. Names:
//! loaded where they are needed, at most [`NAMES_CACHE_LEN`] kept; those that were loaded once are
//! in a file for the next time (`drawer`). Plain frames: at most [`FRAMES_CACHE_LEN`] kept by
//! default. Beside that, one decoded index object for each thread that loads one, and the memory of
//! `parts` for random-access readers ([`Catalog::read_here_and_there`]).

mod ahead;
mod copies;
mod directory;
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

use crate::format::{
    FrameEntry, FrameError, IndexObject, IndexPart, PackEntry, Presence, SegmentEntry, address,
    split_address,
};
use crate::objects::twice::{first_opened, is_of_the_place};
use crate::objects::{ObjectError, ObjectErrorKind, ObjectId, ObjectName, Objects};
use crate::seal::{SealError, Sealer};
pub(crate) use copies::Copies;
pub use directory::ListedIndex;
use directory::{Directory, PartPlace};
use drawer::Drawer;
pub(crate) use frames::share_out;
use frames::together;
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
        self.is_missing() || matches!(self, Self::Seal { .. })
    }
}

/// The chunk index of a repository: the location of every chunk. Shared by threads.
pub struct Catalog {
    objects: Arc<dyn Objects>,
    sealer: Arc<Sealer>,
    chunk_len: u32,
    shelf: Shelf,
    tables: RwLock<Tables>,
    /// The parts of index objects that are loaded on demand.
    directory: RwLock<Directory>,
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
            directory: RwLock::default(),
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
        self.load(indexes)?;
        self.replace_directory(BTreeMap::new());
        self.keep_only(indexes, condemned_packs);
        Ok(())
    }

    /// The same; what is `listed` is loaded where it is needed, and only the other `indexes` at
    /// once.
    pub fn refresh_on_demand(
        &self,
        indexes: &BTreeSet<ObjectId>,
        listed: BTreeMap<ObjectId, ListedIndex>,
        condemned_packs: HashSet<ObjectId>,
    ) -> Result<(), CatalogError> {
        self.load(indexes)?;
        let all: BTreeSet<ObjectId> = indexes.iter().chain(listed.keys()).copied().collect();
        self.replace_directory(listed);
        self.keep_only(&all, condemned_packs);
        Ok(())
    }

    /// Loads the whole of index objects.
    fn load(&self, indexes: &BTreeSet<ObjectId>) -> Result<(), CatalogError> {
        let known = self.read().indexes().clone();
        let new: Vec<ObjectId> = indexes.difference(&known).copied().collect();
        for some in new.chunks(LOADS_AT_ONCE) {
            let loaded: Vec<IndexObject> = some
                .par_iter()
                .map(|id| self.index(id))
                .collect::<Result<_, _>>()?;
            let mut tables = self.write();
            for (id, index) in some.iter().zip(&loaded) {
                self.forget_names(&tables.add(*id, index));
            }
        }
        Ok(())
    }

    /// Names of segments of which an index object comes new have to be looked up anew.
    fn replace_directory(&self, listed: BTreeMap<ObjectId, ListedIndex>) {
        let now = Directory::new(listed);
        let changed: Vec<SegmentId> = {
            let before = self.read_directory();
            let new = now.indexes().filter(|index| !before.has(index));
            new.flat_map(|index| now.segments_of(index)).collect()
        };
        *self.write_directory() = now;
        let numbers: Vec<u32> = {
            let tables = self.read();
            let changed = changed.into_iter();
            changed.filter_map(|id| tables.known_number(id)).collect()
        };
        self.forget_names(&numbers);
    }

    /// Drops what only other index objects told.
    fn keep_only(&self, indexes: &BTreeSet<ObjectId>, condemned_packs: HashSet<ObjectId>) {
        let mut tables = self.write();
        let known = tables.sources_of_all();
        let gone: BTreeSet<ObjectId> = known.difference(indexes).copied().collect();
        if !gone.is_empty() {
            self.forget_names(&tables.remove(&gone));
            self.shelf.keep_only(indexes);
            self.drawer.forget(&gone);
        }
        tables.set_condemned(condemned_packs);
        drop(tables);
        self.lost().clear();
    }

    fn forget_names(&self, numbers: &[u32]) {
        numbers
            .iter()
            .for_each(|number| drop(self.names.remove(number)));
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
        let opened = IndexObject::open(&self.sealer, id, &stored);
        opened.map_err(|source| CatalogError::Seal { object, source })
    }

    /// A part of an index object, from the local folder or the repository. Where it does not open,
    /// what the whole object says of `segment`.
    fn index_part(
        &self,
        place: &PartPlace,
        segment: SegmentId,
    ) -> Result<IndexObject, CatalogError> {
        let open = |stored: Vec<u8>| match IndexObject::open_part(&self.sealer, &stored) {
            Ok(part) if part.segments.contains_key(&segment) => Ok((part, stored)),
            _ => Err(()),
        };
        let range = place.offset..place.offset + place.len;
        let kept = self.shelf.take_part(&place.index, range.clone());
        if let Some(Ok((part, _))) = kept.map(open) {
            return Ok(part);
        }
        let object = ObjectName::Index(place.index).to_string();
        match first_opened(|| self.objects.get_range(&object, range.clone()), open) {
            Ok(Ok((part, stored))) => {
                self.shelf.keep_part(&place.index, place.offset, &stored);
                Ok(part)
            }
            Err(error) if is_of_the_place(&error) => Err(error.into()),
            // The object may be whole, or have a copy that is.
            _ => Ok(self.index(&place.index)?.of_segment(segment)),
        }
    }

    /// Some parts of an index object, fetched at once.
    pub(crate) fn index_parts(
        &self,
        index: &ObjectId,
        parts: &[IndexPart<'_>],
    ) -> Result<Vec<IndexObject>, CatalogError> {
        together(parts, |part| {
            self.index_part(&PartPlace::of(*index, part), part.segments[0])
        })
    }

    /// Loads what the directory lists of segments, as many at once as the place answers.
    pub(crate) fn load_segments(&self, numbers: &[u32]) -> Result<(), CatalogError> {
        let numbers: Vec<u32> = numbers
            .iter()
            .filter(|number| !self.unloaded_parts(**number).is_empty())
            .copied()
            .collect();
        for some in numbers.chunks(self.objects.requests_together().max(1)) {
            together(some, |number| self.load_segment(*number))?;
        }
        Ok(())
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
        let mut indexes = self.read().indexes().clone();
        indexes.extend(self.read_directory().indexes().copied());
        indexes
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

    /// The frame that holds a chunk, as [`Catalog::locate`] gives it, after the parts of the index
    /// that are of its segment were loaded. A part that is damaged is left out:
    /// [`Catalog::lost_index`] names it.
    pub fn find(&self, address: ChunkId) -> Result<Option<Place>, CatalogError> {
        self.load_segment(split_address(address).0)?;
        Ok(self.locate(address))
    }

    /// Loads what the directory lists of a segment and is not loaded. Cost: nothing if all is.
    fn load_segment(&self, number: u32) -> Result<(), CatalogError> {
        let Some(segment) = self.segment_of(number) else {
            return Ok(());
        };
        for place in self.unloaded_parts(number) {
            if self
                .lost()
                .contains_key(&ObjectName::Index(place.index).to_string())
            {
                continue;
            }
            match self.index_part(&place, segment) {
                Ok(part) => {
                    self.drawer.keep(&self.sealer, &place.index, &part.segments);
                    let numbers = self.write().add_part(place.index, &part);
                    self.forget_names(&numbers);
                }
                Err(error) => {
                    // What a condemned one has is elsewhere, too.
                    let may_go = self.read_directory().is_condemned(&place.index);
                    if !error.is_damage() || error.is_missing() && !may_go {
                        return Err(error);
                    }
                    self.lose_index(&error);
                }
            }
        }
        Ok(())
    }

    /// The parts that the directory lists of a segment and that are not loaded. Holds one lock at a
    /// time, as everything here does.
    fn unloaded_parts(&self, number: u32) -> Vec<PartPlace> {
        let Some(segment) = self.segment_of(number) else {
            return Vec::new();
        };
        let mut places: Vec<PartPlace> = self.read_directory().parts_of(segment).collect();
        if !places.is_empty() {
            let tables = self.read();
            places.retain(|place| !tables.sources(number).contains(&place.index));
        }
        places
    }

    /// Does without an index object that cannot be read, until the next refresh. False if it does
    /// already, or the error is of something else.
    pub(crate) fn lose_index(&self, error: &CatalogError) -> bool {
        let object = match error {
            CatalogError::Objects(error) => &error.name,
            CatalogError::Seal { object, .. } => object,
            CatalogError::Frame { .. } | CatalogError::Unknown { .. } => return false,
        };
        let before = self.lost().insert(object.clone(), error.to_string());
        before.is_none()
    }

    /// The frame that holds a chunk: one of a pack that is not condemned, if there is one. Knows
    /// what was loaded.
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
        self.load_segment(number)?;
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
        let place = {
            let directory = self.read_directory();
            let mut parts = directory.parts_of(segment);
            parts.find(|place| place.index == *source)
        };
        let mut index = match place {
            Some(place) => self.index_part(&place, segment)?,
            None => self.index(source)?,
        };
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
        let (number, ordinal) = split_address(address);
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

    fn read_directory(&self) -> RwLockReadGuard<'_, Directory> {
        self.directory
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write_directory(&self) -> RwLockWriteGuard<'_, Directory> {
        self.directory
            .write()
            .unwrap_or_else(PoisonError::into_inner)
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
