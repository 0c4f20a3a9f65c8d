//! Notes on packs that were put and that no index object names yet, in the client's cache: a push
//! that was killed loses the packs that were on their way, and no others.
//!
//! A note is written when a pack was put, and all notes go when an index object names those packs.
//! The next push of the same origin finds them: packs that are still there, and that no collection
//! condemned, get an index object, and their chunks need not be sent. A collection cannot take
//! them meanwhile: they are as the packs of any session that is at work, and it waits for it.
//!
//! The names of the chunks are noted, not the origin's ids: so notes hold whatever became of the
//! origin.
//!
//! ```text
//! A file of notes, a note after the other. What follows the last whole one is no note.
//!
//! size  meaning                                                        guards against
//! 4     length of the object, little-endian
//! 32    its id                                                         a note that was cut off
//! …     an index object of one pack, sealed as such (`format::index`)  readers of the cache
//! ```
//!
//! Whoever writes or reads them holds a lock on the file. Without the lock, or room, nothing is
//! noted: notes save work and nothing depends on them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};

use vellum_core::hash::ChunkHash;
use vellum_core::identity::SegmentId;
use vellum_core::units::ChunkId;

use crate::error::BackupError;
use crate::format::{IndexObject, PackEntry, SegmentEntry, address};
use crate::journal::State;
use crate::known::{Known, Origin, find_in_origin};
use crate::objects::{ObjectId, ObjectKind, ObjectName};
use crate::reader::Reader;
use crate::repository::Repository;
use crate::seal::{SealedKind, Sealer};

const OBJECT_ID_LEN: usize = 32;
/// The longest file that is read: the notes of 8 packs of 32 MiB take some megabytes.
const FILE_LEN_MAX: u64 = 256 << 20;

/// The names of chunks of some packs, by segment and ordinal.
pub(super) type NamesBySegment = BTreeMap<SegmentId, Vec<(u32, ChunkHash)>>;

/// The notes of one origin's packs.
pub(super) struct UnindexedPacks {
    /// None if nothing can be noted.
    file: Option<File>,
}

impl UnindexedPacks {
    /// Opens the notes of `origin` in the cache, and locks them.
    pub(super) fn open(repository: &Repository, origin: &dyn Origin) -> Self {
        let path = repository
            .cache_folder()
            .zip(origin.file_name())
            .map(|(folder, name)| folder.join(format!("{name}-packs")));
        let open = |path: std::path::PathBuf| {
            fs::create_dir_all(path.parent()?).ok()?;
            let mut options = File::options();
            options.read(true).append(true).create(true);
            let file = options.open(path).ok()?;
            file.try_lock().ok().map(|()| file)
        };
        Self {
            file: path.and_then(open),
        }
    }

    /// Notes that `pack`, whose chunks have these names, was put.
    pub(super) fn note(&mut self, sealer: &Sealer, pack: &PackEntry, names: &NamesBySegment) {
        let Some(file) = &mut self.file else { return };
        let index = index_of(vec![pack.clone()], names.clone());
        let Ok(object) = sealer.seal(SealedKind::Index, &index.encode()) else {
            return;
        };
        let mut note = (object.bytes.len() as u32).to_le_bytes().to_vec();
        note.extend_from_slice(&object.id.0);
        note.extend_from_slice(&object.bytes);
        // A note that is cut off hides those behind it.
        if file.write_all(&note).is_err() {
            self.file = None;
        }
    }

    /// Forgets all notes: an index object names their packs now, or never will.
    pub(super) fn clear(&mut self) {
        if let Some(file) = &self.file {
            drop(file.set_len(0));
        }
    }

    /// The packs that were noted, each with its chunks' names.
    fn noted(&mut self, sealer: &Sealer) -> Vec<IndexObject> {
        let mut bytes = Vec::new();
        if let Some(file) = &mut self.file
            && file.rewind().is_ok()
        {
            drop(file.take(FILE_LEN_MAX).read_to_end(&mut bytes));
        }
        decode_notes(&bytes, sealer)
    }
}

/// Gives the packs that an interrupted push of `origin` put an index object, and adds their chunks
/// to `known`. Cost: listing all packs, if there are any notes. Only for who is in a session.
pub(crate) fn index_noted_packs(
    reader: &Reader<'_>,
    origin: &dyn Origin,
    state: &State,
    known: &mut Known,
) -> Result<(), BackupError> {
    let repository = reader.repository();
    let mut notes = UnindexedPacks::open(repository, origin);
    let mut indexes = notes.noted(repository.sealer());
    if indexes.is_empty() {
        notes.clear();
        return Ok(());
    }
    let listed = repository.list(ObjectKind::Pack)?;
    let listed: BTreeSet<ObjectName> = listed.into_iter().map(|(name, _)| name).collect();
    let mut named = known.packs().keys().copied().collect::<BTreeSet<_>>();
    let mut is_usable = |pack: &PackEntry| {
        let name = ObjectName::Pack(pack.id);
        listed.contains(&name) && !state.is_condemned(&name) && named.insert(pack.id)
    };
    indexes.retain(|index| index.packs.iter().all(&mut is_usable));
    if !indexes.is_empty() {
        let index = merge(indexes);
        let runs = found_chunks(reader, origin, &index)?;
        let sealed = repository.put_index(&index)?;
        known.add(sealed, &index, &runs);
        known.keep(reader, origin)?;
    }
    notes.clear();
    Ok(())
}

/// The index object of `packs`, whose chunks have these names.
pub(super) fn index_of(packs: Vec<PackEntry>, names: NamesBySegment) -> IndexObject {
    let entry = |(segment, mut chunks): (SegmentId, Vec<(u32, ChunkHash)>)| {
        chunks.sort_unstable_by_key(|(ordinal, _)| *ordinal);
        (segment, SegmentEntry::new(&chunks))
    };
    IndexObject {
        segments: names.into_iter().map(entry).collect(),
        packs,
    }
}

/// One index object of all packs of some, which are of different packs.
fn merge(indexes: Vec<IndexObject>) -> IndexObject {
    let (mut packs, mut names) = (Vec::new(), NamesBySegment::new());
    for index in indexes {
        for (id, segment) in &index.segments {
            let chunks = segment.chunks().map(|(ordinal, name)| (ordinal, *name));
            names.entry(*id).or_default().extend(chunks);
        }
        packs.extend(index.packs);
    }
    index_of(packs, names)
}

/// The chunks of `index` that `origin` has: its ids, their addresses, and how many.
fn found_chunks(
    reader: &Reader<'_>,
    origin: &dyn Origin,
    index: &IndexObject,
) -> Result<Vec<(ChunkId, ChunkId, u64)>, BackupError> {
    let mut chunks = Vec::with_capacity(index.chunk_count());
    for (id, segment) in &index.segments {
        let number = reader.catalog().number_of(*id);
        let named = segment.chunks();
        chunks.extend(named.map(|(ordinal, name)| (*name, address(number, ordinal))));
    }
    let found = find_in_origin(origin, &chunks)?.into_iter();
    Ok(found.map(|(own, there)| (own, there, 1)).collect())
}

/// The notes up to the first that is not whole.
fn decode_notes(mut bytes: &[u8], sealer: &Sealer) -> Vec<IndexObject> {
    let mut next = || {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let (id, rest) = rest.split_first_chunk::<OBJECT_ID_LEN>()?;
        let (object, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        bytes = rest;
        let plain = sealer
            .open(SealedKind::Index, &ObjectId(*id), object)
            .ok()?;
        IndexObject::decode(&plain).ok()
    };
    std::iter::from_fn(&mut next).collect()
}
