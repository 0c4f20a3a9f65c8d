//! The deduplication index: the chunks of a store, or of another repository, that a repository has
//! already, and their addresses there. They need not be sent.
//!
//! It is kept in the client's cache between pushes, so that a push costs only what is new. It lists
//! the index objects that it was made from. As long as all of them count, it holds; new index
//! objects are added when they appear. If one is gone, or a pack was condemned, the index is made
//! anew: the names of the repository's chunks are looked up in the origin, with one index object in
//! memory at a time.
//!
//! **A large index is not fetched whole.** Where what others wrote is more than a push may fetch
//! unseen ([`INDEX_FETCH_LEN`], or a hundredth of what it may send), samples decide: the record
//! that names an index object tells a few names of each part, and a part is fetched if the origin
//! has one of them. The others are passed over, so what they alone name is sent a second time: that
//! costs room, nothing else. A push of much looks at them again.
//!
//! **The origin's ids may change their meaning.** A store's folder may have been copied or
//! restored; then the same ids stand for other chunks. So each file carries a mark of its origin,
//! and a file whose mark the origin does not recognise is ignored.
//!
//! **Other clients are not trusted.** Chunks that another client wrote are kept apart: they are
//! relied upon only after their frames were fetched once and verified against their names, or if
//! the caller trusts all writers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::{ParallelIterator, ParallelSlice};
use vellum_core::hash::ChunkHash;
use vellum_core::id_set::IdSet;
use vellum_core::identity::{IDENTITY_LEN, RepositoryId, SegmentId};
use vellum_core::units::ChunkId;
use vellum_core::wire::{DecodeError, WireReader as Bytes, put_varint};
use vellum_store::StoreError;
use vellum_store::transfer::PointInTime;

use crate::error::BackupError;
use crate::format::{IndexObject, IndexPart, SealedIndex, address, split_address};
use crate::journal::{Condition, State};
use crate::objects::{ObjectId, ObjectKind, ObjectName};
use crate::reader::Reader;
use crate::record::IndexParts;
use crate::translation::Translation;

const OBJECT_ID_LEN: usize = 32;
const MAGIC: &[u8; 8] = b"VlmKnow4";
/// Bytes of index objects that a push fetches at most without a sign that they are of use to it:
/// they name some 2 GiB of data.
pub const INDEX_FETCH_LEN: u64 = 16 << 20;
/// The share of that in what the push may have to send: one in so many bytes.
pub(crate) const INDEX_FETCH_DIVISOR: u64 = 100;
/// The least limit of a push that may fetch any: some 128 MiB of data are named there.
pub(crate) const INDEX_FETCH_LEN_MIN: u64 = 1 << 20;
/// A push of so many chunks looks anew at what earlier ones passed over: as many as a part of the
/// index names at most.
const MANY_CHUNKS: u64 = 65_536;
/// Names that are looked for together by one thread.
const NAMES_TOGETHER: usize = 4096;
/// The longest file that is read: at 6 bytes a run or so, of some hundred million runs.
const FILE_LEN_MAX: u64 = 1 << 30;

/// A source of chunks.
pub(crate) trait Origin: Sync {
    /// The name of the file that keeps the index of this origin; none if nothing can be kept.
    fn file_name(&self) -> Option<String>;
    /// True if the ids in a file with this mark still stand for the same chunks of the origin.
    fn recognises(&self, owner: &RepositoryId, mark: &[u8]) -> Result<bool, BackupError>;
    /// The mark of a file that is about to be written for the repository `owner`.
    fn mark(&self, owner: &RepositoryId) -> Result<Vec<u8>, BackupError>;
    /// Finds which of its chunks have these names.
    fn find(&self, names: &[ChunkHash]) -> Result<Vec<Option<ChunkId>>, BackupError>;
}

/// The mark of a store is a token that is left in it whenever a file is written.
impl Origin for PointInTime {
    fn file_name(&self) -> Option<String> {
        self.store().id().map(|id| format!("known-{id}"))
    }

    fn recognises(&self, owner: &RepositoryId, mark: &[u8]) -> Result<bool, BackupError> {
        Ok(self
            .store()
            .owner_token(&owner.0)?
            .is_some_and(|token| token == *mark))
    }

    fn mark(&self, owner: &RepositoryId) -> Result<Vec<u8>, BackupError> {
        Ok(self.store().leave_token(&owner.0)?.to_vec())
    }

    fn find(&self, names: &[ChunkHash]) -> Result<Vec<Option<ChunkId>>, BackupError> {
        Ok(self.find_chunks(names)?)
    }
}

/// The look at an index object.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// The whole of it was looked through.
    Whole,
    /// The parts at these offsets were; the others were passed over.
    Parts(BTreeSet<u64>),
}

impl Seen {
    /// True if something of it is relied upon.
    fn is_relied_on(&self) -> bool {
        match self {
            Self::Whole => true,
            Self::Parts(offsets) => !offsets.is_empty(),
        }
    }

    fn has(&self, part: &IndexPart<'_>) -> bool {
        match self {
            Self::Whole => true,
            Self::Parts(offsets) => offsets.contains(&part.offset),
        }
    }
}

/// The origin's chunks that the repository has, and their addresses.
#[derive(Default)]
pub(crate) struct Known {
    /// Index objects that were met.
    indexes: BTreeMap<ObjectId, Seen>,
    /// The index objects of those that this client put, and no record names yet, with their parts.
    pending: BTreeMap<ObjectId, IndexParts>,
    /// Condemned and damaged packs, whose chunks were left out.
    without: BTreeSet<ObjectId>,
    /// The packs that those index objects name, and their lengths: a listing shows which are lost.
    packs: BTreeMap<ObjectId, u64>,
    /// Packs that were read, and are damaged.
    damaged: BTreeSet<ObjectName>,
    /// The map from the origin's ids to addresses, of chunks that this client wrote or verified.
    sure: Translation,
    /// The same, of what others wrote.
    unsure: Translation,
    file: Option<PathBuf>,
}

impl Known {
    /// Opens the index of the chunks of `origin`, brought up to date. Cost: nothing if no other
    /// client did anything; else what is new to this one, `fetch_len` bytes of the index at most
    /// but for what samples show to be of use.
    pub(crate) fn open(
        reader: &Reader<'_>,
        origin: &PointInTime,
        state: &State,
        fetch_len: u64,
    ) -> Result<Self, BackupError> {
        let mut known = Self::believed(reader, origin, state)?;
        let indexes = known.indexes.keys().copied();
        let old: BTreeSet<ObjectId> = indexes.collect();
        let new = usable(state).filter(|index| !old.contains(index));
        let (listed, whole): (Vec<ObjectId>, Vec<ObjectId>) =
            new.partition(|index| state.index_parts(index).is_some());
        for index in whole {
            known.look_through(reader, origin, index)?;
        }
        let len = listed
            .iter()
            .map(|index| parts_len(state, index))
            .sum::<u64>();
        if len > fetch_len {
            known.look_by_samples(reader, origin, state, &listed)?;
        } else {
            for index in listed {
                known.look_through(reader, origin, index)?;
            }
        }
        Ok(known)
    }

    /// Looks again at what was passed over, if `missing` chunks are many.
    pub(crate) fn reconsider(
        &mut self,
        reader: &Reader<'_>,
        origin: &PointInTime,
        state: &State,
        missing: u64,
    ) -> Result<bool, BackupError> {
        if missing < MANY_CHUNKS {
            return Ok(false);
        }
        let met = self.indexes.iter();
        let met = met.filter(|(_, seen)| matches!(seen, Seen::Parts(_)));
        let met: Vec<ObjectId> = met.map(|(index, _)| *index).collect();
        self.look_by_samples(reader, origin, state, &met)
    }

    /// Looks through the parts of index objects of which `origin` has something, by their samples.
    /// True if there were some that had not been looked through.
    fn look_by_samples(
        &mut self,
        reader: &Reader<'_>,
        origin: &PointInTime,
        state: &State,
        indexes: &[ObjectId],
    ) -> Result<bool, BackupError> {
        let mut is_any = false;
        for index in indexes {
            let parts = state.index_parts(index).cloned().unwrap_or_default();
            let samples = parts.iter().flat_map(|part| part.sample.iter().copied());
            let mut has = origin
                .has_prefixes(&samples.collect::<Vec<_>>())?
                .into_iter();
            let seen = self.indexes.entry(*index);
            let seen = seen.or_insert_with(|| Seen::Parts(BTreeSet::new())).clone();
            let is_wanted = |part: &IndexPart<'_>| {
                let count = has
                    .by_ref()
                    .take(part.sample.len())
                    .filter(|has| *has)
                    .count();
                count > 0 && !seen.has(part)
            };
            let wanted: Vec<IndexPart<'_>> = parts.iter().filter(is_wanted).collect();
            is_any |= !wanted.is_empty();
            self.look_at_parts(reader, origin, *index, &wanted)?;
        }
        Ok(is_any)
    }

    fn look_at_parts(
        &mut self,
        reader: &Reader<'_>,
        origin: &dyn Origin,
        id: ObjectId,
        parts: &[IndexPart<'_>],
    ) -> Result<(), BackupError> {
        let together = reader.repository().objects().requests_together().max(1);
        for some in parts.chunks(together) {
            let fetched = reader.catalog().index_parts(&id, some);
            for part in &fetched.map_err(|error| reader.told(error))? {
                self.look_in(reader, origin, part)?;
            }
            if let Some(Seen::Parts(offsets)) = self.indexes.get_mut(&id) {
                offsets.extend(some.iter().map(|part| part.offset));
            }
        }
        Ok(())
    }

    /// The index that was saved the last time, as far as it still holds.
    pub(crate) fn believed(
        reader: &Reader<'_>,
        origin: &dyn Origin,
        state: &State,
    ) -> Result<Self, BackupError> {
        let file = reader
            .repository()
            .cache_folder()
            .zip(origin.file_name())
            .map(|(folder, name)| folder.join(name));
        let read = file
            .as_deref()
            .map(|path| Self::read(path, origin, reader))
            .transpose()?
            .flatten();
        let mut known = read.unwrap_or_default();
        known.file = file;
        if !known.holds(reader, state)? {
            known = Self {
                file: known.file,
                ..Self::default()
            };
        }
        known.without = state.doubtful_packs();
        let usable: BTreeSet<ObjectId> = usable(state).collect();
        known.pending.retain(|index, _| !usable.contains(index));
        // What was passed over may go.
        let pending = &known.pending;
        known
            .indexes
            .retain(|index, _| usable.contains(index) || pending.contains_key(index));
        Ok(known)
    }

    /// Looks for the chunks that `origin` finds in everything that may be built on, whether or not
    /// it was looked through before.
    pub(crate) fn look(
        &mut self,
        reader: &Reader<'_>,
        origin: &dyn Origin,
        state: &State,
    ) -> Result<(), BackupError> {
        usable(state).try_for_each(|index| self.look_through(reader, origin, index))
    }

    /// True if everything that it relies upon is still there and not condemned.
    fn holds(&self, reader: &Reader<'_>, state: &State) -> Result<bool, BackupError> {
        let usable: BTreeSet<ObjectId> = usable(state).collect();
        let relied_on = self.indexes.iter().filter(|(_, seen)| seen.is_relied_on());
        let gone = relied_on
            .map(|(index, _)| index)
            .any(|index| !usable.contains(index) && !self.pending.contains_key(index));
        if gone || self.without != state.doubtful_packs() {
            return Ok(false);
        }
        let pending = self.pending.keys();
        let open: Vec<&ObjectId> = pending.filter(|index| !usable.contains(index)).collect();
        Ok(open.is_empty() || is_whole(reader, state, &open)?)
    }

    fn look_through(
        &mut self,
        reader: &Reader<'_>,
        origin: &dyn Origin,
        id: ObjectId,
    ) -> Result<(), BackupError> {
        let index = reader
            .catalog()
            .index(&id)
            .map_err(|error| reader.told(error))?;
        self.look_in(reader, origin, &index)?;
        self.indexes.insert(id, Seen::Whole);
        Ok(())
    }

    /// Adds what an index object, or a part of one, has of `origin`.
    fn look_in(
        &mut self,
        reader: &Reader<'_>,
        origin: &dyn Origin,
        index: &IndexObject,
    ) -> Result<(), BackupError> {
        let chunks: Vec<(ChunkHash, ChunkId)> = self.chunks(reader, index);
        for (own, there) in find_in_origin(origin, &chunks)? {
            if self.sure.get(own, 1).is_none() {
                self.unsure.insert(own, there, 1);
            }
        }
        self.note_packs(index);
        Ok(())
    }

    fn note_packs(&mut self, index: &IndexObject) {
        let packs = index.packs.iter().map(|pack| (pack.id, pack.len));
        self.packs.extend(packs);
    }

    /// The packs that it relies upon, and their lengths.
    pub(crate) fn packs(&self) -> &BTreeMap<ObjectId, u64> {
        &self.packs
    }

    /// Packs that were met damaged.
    pub(crate) fn damaged(&self) -> &BTreeSet<ObjectName> {
        &self.damaged
    }

    /// The chunks of an index object that are in packs that stay.
    fn chunks(&self, reader: &Reader<'_>, index: &IndexObject) -> Vec<(ChunkHash, ChunkId)> {
        let mut chunks = Vec::with_capacity(index.chunk_count());
        for frame in index
            .packs
            .iter()
            .filter(|pack| !self.without.contains(&pack.id))
            .flat_map(|pack| &pack.frames)
        {
            let (number, segment) = (
                reader.catalog().number_of(frame.segment),
                &index.segments[&frame.segment],
            );
            let named = frame
                .ordinals()
                .filter_map(|ordinal| Some((*segment.hash(ordinal)?, address(number, ordinal))));
            chunks.extend(named);
        }
        chunks
    }

    /// The address of the origin's chunk `id`, and for how many from there on the distance holds,
    /// `count` at most.
    pub(crate) fn get(&self, id: ChunkId, count: u64) -> Option<(ChunkId, u64)> {
        self.sure.get(id, count)
    }

    /// Relies on nothing any more that was not looked at again.
    pub(crate) fn doubt_all(&mut self) {
        let sure = std::mem::take(&mut self.sure);
        for (own, there, len) in sure.runs() {
            self.unsure.insert(own, there, len);
        }
    }

    /// The chunks of `needed` that the repository does not have. Those that others wrote are looked
    /// at first, unless they are trusted; what is not what it should be is sent again.
    pub(crate) fn missing(
        &mut self,
        reader: &Reader<'_>,
        needed: &dyn Fn(&mut dyn FnMut(ChunkId, u64)) -> Result<(), BackupError>,
        trust_others: bool,
    ) -> Result<IdSet, BackupError> {
        let (missing, doubtful) = self.sorted(needed)?;
        if doubtful.is_empty() {
            return Ok(missing);
        }
        if trust_others {
            self.trust(&doubtful);
            return Ok(missing);
        }
        reader.load_indexes()?;
        reader.refuse_lost_indexes()?;
        let mut sound = IdSet::new();
        for group in reader.places_by_pack(&doubtful)? {
            match reader.frames(&group) {
                Ok(_) => group.iter().for_each(|place| {
                    let first = address(place.segment, place.first);
                    place
                        .presence
                        .offsets()
                        .for_each(|at| sound.insert(first.advance_by(at.into())));
                }),
                Err(BackupError::Damaged { .. }) => {
                    let packs = group.iter().map(|place| ObjectName::Pack(place.pack));
                    self.damaged.extend(packs);
                }
                Err(error) => return Err(error),
            }
        }
        self.trust(&sound);
        self.distrust(&doubtful);
        Ok(self.sorted(needed)?.0)
    }

    /// The chunks of `needed` that the repository does not have, and the addresses of those that
    /// others wrote.
    fn sorted(
        &self,
        needed: &dyn Fn(&mut dyn FnMut(ChunkId, u64)) -> Result<(), BackupError>,
    ) -> Result<(IdSet, IdSet), BackupError> {
        let (mut missing, mut doubtful) = (IdSet::new(), IdSet::new());
        needed(&mut |first, count| self.sort(first, count, &mut missing, &mut doubtful))?;
        Ok((missing, doubtful))
    }

    /// Splits `count` chunks from `first` on into those that must be sent and those that others
    /// wrote, which are given by their addresses.
    fn sort(&self, mut first: ChunkId, mut count: u64, wanted: &mut IdSet, doubtful: &mut IdSet) {
        while count > 0 {
            let done = if let Some((_, known)) = self.sure.get(first, count) {
                known
            } else if let Some((there, some)) = self.unsure.get(first, self.sure.gap(first, count))
            {
                doubtful.insert_run(there, some);
                some
            } else {
                let free = self.unsure.gap(first, self.sure.gap(first, count));
                wanted.insert_run(first, free);
                free
            };
            (first, count) = (first.advance_by(done), count - done);
        }
    }

    /// Relies on what others wrote at `addresses` from now on.
    fn trust(&mut self, addresses: &IdSet) {
        let runs: Vec<(ChunkId, ChunkId, u64)> = self.unsure.runs().collect();
        for (own, there, len) in runs {
            for nth in (0..len).filter(|nth| addresses.contains(there.advance_by(*nth))) {
                self.sure
                    .insert(own.advance_by(nth), there.advance_by(nth), 1);
            }
        }
    }

    /// Forgets what others wrote at `addresses`: it will be sent.
    fn distrust(&mut self, addresses: &IdSet) {
        let runs: Vec<(ChunkId, ChunkId, u64)> = self.unsure.runs().collect();
        self.unsure = Translation::default();
        for (own, there, len) in runs {
            for nth in (0..len).filter(|nth| !addresses.contains(there.advance_by(*nth))) {
                self.unsure
                    .insert(own.advance_by(nth), there.advance_by(nth), 1);
            }
        }
    }

    /// Adds an index object that this client put: `chunks` are the origin's ids and their
    /// addresses, in runs.
    pub(crate) fn add(
        &mut self,
        sealed: SealedIndex,
        index: &IndexObject,
        chunks: &[(ChunkId, ChunkId, u64)],
    ) {
        let id = sealed.object.id;
        self.note_packs(index);
        self.indexes.insert(id, Seen::Whole);
        self.pending
            .insert(id, IndexParts::of(id, sealed.parts.clone()));
        chunks
            .iter()
            .for_each(|(own, there, len)| self.sure.insert(*own, *there, *len));
    }

    /// Gives `twin`, which has the content of `like`, the same address.
    pub(crate) fn set_alike(&mut self, twin: ChunkId, like: ChunkId) {
        if let Some((there, _)) = self.sure.get(like, 1) {
            self.sure.insert(twin, there, 1);
        }
    }

    /// Index objects that no record names yet.
    pub(crate) fn pending(&self) -> Vec<IndexParts> {
        self.pending.values().cloned().collect()
    }

    /// A record names them now.
    pub(crate) fn settle(&mut self) {
        self.pending.clear();
    }

    /// Keeps it for the next push. That this fails costs that one time, nothing else.
    pub(crate) fn keep(&self, reader: &Reader<'_>, origin: &dyn Origin) -> Result<(), BackupError> {
        let Some(path) = &self.file else {
            return Ok(());
        };
        let mark = match origin.mark(&reader.repository().id()) {
            // A store that can only be read keeps no mark.
            Err(BackupError::Store(StoreError::ReadOnly)) => return Ok(()),
            mark => mark?,
        };
        let bytes = self.encode(&mark, reader);
        // The cache may be on a disk that is full or read-only.
        drop(write(path, &bytes));
        Ok(())
    }

    fn encode(&self, mark: &[u8], reader: &Reader<'_>) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        put_varint(&mut bytes, mark.len() as u64);
        bytes.extend_from_slice(mark);
        put_varint(&mut bytes, self.indexes.len() as u64);
        for (id, seen) in &self.indexes {
            bytes.extend_from_slice(&id.0);
            seen.encode(&mut bytes);
        }
        let pending = serde_json::to_vec(&self.pending()).expect("texts and numbers are JSON");
        put_varint(&mut bytes, pending.len() as u64);
        bytes.extend_from_slice(&pending);
        put_varint(&mut bytes, self.without.len() as u64);
        self.without
            .iter()
            .for_each(|id| bytes.extend_from_slice(&id.0));
        put_varint(&mut bytes, self.packs.len() as u64);
        for (id, len) in &self.packs {
            bytes.extend_from_slice(&id.0);
            put_varint(&mut bytes, *len);
        }
        let runs = || self.sure.runs().chain(self.unsure.runs());
        let numbers: BTreeSet<u32> = runs().map(|(_, there, _)| split_address(there).0).collect();
        let places: std::collections::BTreeMap<u32, u64> =
            numbers.iter().copied().zip(0..).collect();
        put_varint(&mut bytes, numbers.len() as u64);
        for number in numbers {
            bytes.extend_from_slice(
                &reader
                    .catalog()
                    .segment_of(number)
                    .expect("who numbered a segment knows it")
                    .0,
            );
        }
        for translation in [&self.sure, &self.unsure] {
            put_varint(&mut bytes, translation.run_count() as u64);
            let mut end = 0;
            for (own, there, len) in translation.runs() {
                let (number, ordinal) = split_address(there);
                put_varint(&mut bytes, own.0 - end);
                [len, places[&number], ordinal.into()]
                    .into_iter()
                    .for_each(|value| put_varint(&mut bytes, value));
                end = own.0 + len;
            }
        }
        let sum = blake3::hash(&bytes);
        bytes.extend_from_slice(sum.as_bytes());
        bytes
    }

    /// Reads a saved index; none unless the file is whole and speaks of `origin` as it is.
    fn read(
        path: &Path,
        origin: &dyn Origin,
        reader: &Reader<'_>,
    ) -> Result<Option<Self>, BackupError> {
        let Some(body) = whole_body(path) else {
            return Ok(None);
        };
        let mut bytes = Bytes::new(&body);
        let Ok(mark) = bytes_of_varint(&mut bytes) else {
            return Ok(None);
        };
        Ok(if origin.recognises(&reader.repository().id(), mark)? {
            Self::decode(bytes, reader).ok()
        } else {
            None
        })
    }

    fn decode(mut bytes: Bytes<'_>, reader: &Reader<'_>) -> Result<Self, DecodeError> {
        let mut known = Self::default();
        for _ in 0..bytes.read_varint()? {
            let id = object_id(&mut bytes)?;
            known.indexes.insert(id, Seen::decode(&mut bytes)?);
        }
        let pending: Vec<IndexParts> = serde_json::from_slice(bytes_of_varint(&mut bytes)?)
            .map_err(|_| DecodeError::Invalid("parts of index objects"))?;
        for parts in pending {
            let id = ObjectId::parse(&parts.index).ok_or(DecodeError::Invalid("index object"))?;
            known.pending.insert(id, parts);
        }
        for _ in 0..bytes.read_varint()? {
            known.without.insert(object_id(&mut bytes)?);
        }
        for _ in 0..bytes.read_varint()? {
            known
                .packs
                .insert(object_id(&mut bytes)?, bytes.read_varint()?);
        }
        let mut numbers = Vec::new();
        for _ in 0..bytes.read_varint()? {
            let id = SegmentId(
                bytes
                    .read_bytes(IDENTITY_LEN)?
                    .try_into()
                    .expect("as many were taken"),
            );
            numbers.push(reader.catalog().number_of(id));
        }
        for translation in [&mut known.sure, &mut known.unsure] {
            let mut end = 0_u64;
            for _ in 0..bytes.read_varint()? {
                let (gap, len, place, ordinal) = (
                    bytes.read_varint()?,
                    bytes.read_varint()?,
                    bytes.read_varint()?,
                    bytes.read_varint()?,
                );
                let number = usize::try_from(place)
                    .ok()
                    .and_then(|place| numbers.get(place))
                    .ok_or(DecodeError::Invalid("segment"))?;
                let own = end
                    .checked_add(gap)
                    .ok_or(DecodeError::Invalid("chunk id"))?;
                end = own
                    .checked_add(len)
                    .ok_or(DecodeError::Invalid("chunk id"))?;
                let ordinal =
                    u32::try_from(ordinal).map_err(|_| DecodeError::Invalid("ordinal"))?;
                translation.insert(ChunkId(own), address(*number, ordinal), len);
            }
        }
        bytes.expect_end()?;
        Ok(known)
    }
}

impl Seen {
    /// 0 for the whole, else one more than the number of parts, and the offset of each.
    fn encode(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Whole => put_varint(bytes, 0),
            Self::Parts(offsets) => {
                put_varint(bytes, offsets.len() as u64 + 1);
                offsets.iter().for_each(|offset| put_varint(bytes, *offset));
            }
        }
    }

    fn decode(bytes: &mut Bytes<'_>) -> Result<Self, DecodeError> {
        let Some(count) = bytes.read_varint()?.checked_sub(1) else {
            return Ok(Self::Whole);
        };
        let offsets = (0..count).map(|_| bytes.read_varint());
        Ok(Self::Parts(offsets.collect::<Result<_, _>>()?))
    }
}

/// The length of the parts of an index object, in bytes.
fn parts_len(state: &State, index: &ObjectId) -> u64 {
    let parts = state.index_parts(index).into_iter();
    parts
        .flat_map(|parts| parts.iter())
        .map(|part| part.len)
        .sum()
}

/// Those of `chunks`, which are names and addresses, that `origin` has: its ids, and the addresses.
/// On all cores.
pub(crate) fn find_in_origin(
    origin: &dyn Origin,
    chunks: &[(ChunkHash, ChunkId)],
) -> Result<Vec<(ChunkId, ChunkId)>, BackupError> {
    let find = |some: &[(ChunkHash, ChunkId)]| {
        let names: Vec<ChunkHash> = some.iter().map(|(name, _)| *name).collect();
        origin.find(&names)
    };
    let found: Vec<Vec<Option<ChunkId>>> = chunks
        .par_chunks(NAMES_TOGETHER)
        .map(find)
        .collect::<Result<_, _>>()?;
    let pairs = found.into_iter().flatten().zip(chunks);
    Ok(pairs
        .filter_map(|(own, (_, there))| Some((own?, *there)))
        .collect())
}

/// Index objects that may be built on.
fn usable(state: &State) -> impl Iterator<Item = ObjectId> + '_ {
    state
        .indexes()
        .iter()
        .filter(|(_, condition)| **condition == Condition::Firm)
        .map(|(id, _)| *id)
}

/// True if index objects that an interrupted push left, and the packs that they speak of, are there
/// and not condemned. No collection that this session did not see can take them: it waits for this
/// session.
fn is_whole(reader: &Reader<'_>, state: &State, open: &[&ObjectId]) -> Result<bool, BackupError> {
    let there: BTreeSet<ObjectName> = [ObjectKind::Index, ObjectKind::Pack]
        .into_iter()
        .map(|kind| reader.repository().list(kind))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .flatten()
        .map(|(name, _)| name)
        .collect();
    let is_good = |name: ObjectName| there.contains(&name) && !state.is_condemned(&name);
    for id in open {
        if !is_good(ObjectName::Index(**id)) {
            return Ok(false);
        }
        let index = reader
            .catalog()
            .index(id)
            .map_err(|error| reader.told(error))?;
        if !index
            .packs
            .iter()
            .all(|pack| is_good(ObjectName::Pack(pack.id)))
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The bytes between magic and checksum of a file that is whole.
fn whole_body(path: &Path) -> Option<Vec<u8>> {
    let len = fs::metadata(path).ok()?.len();
    let mut bytes = if len <= FILE_LEN_MAX {
        fs::read(path).ok()?
    } else {
        return None;
    };
    let (whole, sum) = bytes.split_last_chunk::<32>()?;
    if blake3::hash(whole).as_bytes() != sum || !whole.starts_with(MAGIC) {
        return None;
    }
    bytes.truncate(bytes.len() - 32);
    Some(bytes.split_off(MAGIC.len()))
}

fn object_id(bytes: &mut Bytes<'_>) -> Result<ObjectId, DecodeError> {
    let id = bytes.read_bytes(OBJECT_ID_LEN)?;
    Ok(ObjectId(id.try_into().expect("as many were taken")))
}

/// Bytes behind their number.
fn bytes_of_varint<'a>(bytes: &mut Bytes<'a>) -> Result<&'a [u8], DecodeError> {
    let len = usize::try_from(bytes.read_varint()?).map_err(|_| DecodeError::Truncated)?;
    bytes.read_bytes(len)
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}
