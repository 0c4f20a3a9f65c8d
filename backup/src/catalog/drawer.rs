//! A spill file for the names of chunks, segment by segment. The file belongs to this process and
//! has no path. With it an index object is opened once; after that, names cost only what is read of
//! them.
//!
//! The content is sealed as in the repository. Nothing depends on it: names that cannot be kept or
//! read back are taken from their index object again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vellum_core::identity::SegmentId;

use crate::format::SegmentEntry;
use crate::objects::ObjectId;
use crate::seal::{SealedKind, Sealer};

/// The file, and what is where in it.
#[derive(Debug, Default)]
pub(super) struct Drawer {
    folder: Option<PathBuf>,
    contents: Mutex<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    file: Option<Arc<File>>,
    end: u64,
    places: HashMap<(ObjectId, SegmentId), Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    offset: u64,
    len: usize,
}

impl Drawer {
    /// One whose file will be in `folder`, or where temporary files are.
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self {
            folder,
            contents: Mutex::default(),
        }
    }

    /// The kept entry of a segment in an index object, if there is one.
    pub(super) fn take(
        &self,
        sealer: &Sealer,
        source: &ObjectId,
        segment: SegmentId,
    ) -> Option<SegmentEntry> {
        let (file, place) = {
            let contents = self.contents();
            (
                contents.file.clone()?,
                *contents.places.get(&(*source, segment))?,
            )
        };
        let mut stored = vec![0; place.len];
        file.read_exact_at(&mut stored, place.offset).ok()?;
        let (id, entry) =
            SegmentEntry::decode(&sealer.open_part(SealedKind::Index, &stored).ok()?).ok()?;
        (id == segment).then_some(entry)
    }

    /// Keeps all that an index object names.
    pub(super) fn keep(
        &self,
        sealer: &Sealer,
        source: &ObjectId,
        segments: &BTreeMap<SegmentId, SegmentEntry>,
    ) {
        let mut contents = self.contents();
        let Some(file) = contents.file.clone().or_else(|| self.open()) else {
            return;
        };
        contents.file = Some(file.clone());
        for (id, entry) in segments {
            let Ok(stored) = sealer.seal_part(SealedKind::Index, &entry.encode(*id)) else {
                return;
            };
            // A full disk costs speed, nothing else.
            if file.write_all_at(&stored, contents.end).is_err() {
                return;
            }
            let place = Place {
                offset: contents.end,
                len: stored.len(),
            };
            contents.places.insert((*source, *id), place);
            contents.end += stored.len() as u64;
        }
    }

    /// Drops what these index objects named. Once most of the file is of no use, it begins anew.
    pub(super) fn forget(&self, gone: &BTreeSet<ObjectId>) {
        let mut contents = self.contents();
        contents
            .places
            .retain(|(source, _), _| !gone.contains(source));
        let used: u64 = contents.places.values().map(|place| place.len as u64).sum();
        if used < contents.end / 2 {
            *contents = Contents::default();
        }
    }

    fn open(&self) -> Option<Arc<File>> {
        let in_folder = |folder: &PathBuf| {
            std::fs::create_dir_all(folder)?;
            tempfile::tempfile_in(folder)
        };
        let file = self
            .folder
            .as_ref()
            .and_then(|folder| in_folder(folder).ok());
        file.or_else(|| tempfile::tempfile().ok()).map(Arc::new)
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use vellum_core::hash::ChunkHash;
    use vellum_core::identity::RepositoryId;

    use super::*;
    use crate::catalog::Catalog;
    use crate::format::{IndexObject, new_segment};
    use crate::objects::memory::{Memory, Request};
    use crate::seal::Secrets;
    use crate::testing::pusher::init;

    #[test]
    fn what_was_kept_is_there_until_its_index_goes_and_tells_nothing_to_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let sealer = Sealer::encrypted(
            RepositoryId([1; 16]),
            &Secrets::generate().expect("random bytes"),
        );
        let drawer = Drawer::new(Some(folder.path().join("cache")));
        let entry = |first: u32| {
            SegmentEntry::new(&[(first, ChunkHash([7; 32])), (first + 2, ChunkHash([8; 32]))])
        };
        let (index, other) = (ObjectId([1; 32]), ObjectId([2; 32]));
        let segments: BTreeMap<_, _> = (0..9_u8)
            .map(|nth| (SegmentId([nth; 16]), entry(nth.into())))
            .collect();
        assert_eq!(drawer.take(&sealer, &index, SegmentId([1; 16])), None);
        drawer.keep(&sealer, &index, &segments);
        drawer.keep(&sealer, &other, &[(SegmentId([1; 16]), entry(40))].into());
        for (id, entry) in &segments {
            assert_eq!(drawer.take(&sealer, &index, *id).as_ref(), Some(entry));
        }
        assert_eq!(
            drawer.take(&sealer, &other, SegmentId([1; 16])),
            Some(entry(40))
        );
        assert_eq!(drawer.take(&sealer, &other, SegmentId([2; 16])), None);
        assert_eq!(
            std::fs::read_dir(folder.path().join("cache"))
                .expect("it was made")
                .count(),
            0,
            "the file has a name"
        );
        let file = drawer.contents().file.clone().expect("it is open");
        let mut bytes = vec![0; drawer.contents().end as usize];
        file.read_exact_at(&mut bytes, 0).expect("it is there");
        assert!(
            !bytes.windows(8).any(|window| window == [7; 8]),
            "a name can be read"
        );
        drawer.forget(&[index].into());
        assert_eq!(drawer.take(&sealer, &index, SegmentId([1; 16])), None);
    }

    /// An index object is fetched and opened once, however many segments it has and however many
    /// other index objects repeat them.
    #[test]
    fn names_cost_what_is_read_of_them() {
        let memory = Memory::new();
        let repository = init(Arc::new(memory.clone()));
        let segments: Vec<SegmentId> = (0..20)
            .map(|_| new_segment().expect("random bytes"))
            .collect();
        let name = |nth: u32| ChunkHash([nth as u8; 32]);
        let mut ids = BTreeSet::new();
        for _ in 0..2 {
            let segments = (0..).zip(&segments).map(|(nth, id)| {
                (
                    *id,
                    SegmentEntry::new(&[(nth, name(nth)), (nth + 5, name(nth + 5))]),
                )
            });
            let index = IndexObject {
                segments: segments.collect(),
                packs: Vec::new(),
            };
            let sealed = repository.put_index(&index).expect("put");
            ids.insert(sealed.object.id);
        }
        let place = Arc::new(memory.clone());
        let catalog = Catalog::new(place.clone(), repository.sealer().clone(), 4096, None);
        catalog
            .refresh(&ids, std::collections::HashSet::new())
            .expect("two index objects");
        place.take_log();
        for (nth, segment) in (0..).zip(&segments) {
            let names = catalog.names(catalog.number_of(*segment)).expect("names");
            assert_eq!(
                (names.hash(nth), names.hash(nth + 5), names.hash(nth + 1)),
                (Some(&name(nth)), Some(&name(nth + 5)), None)
            );
        }
        let fetched = place
            .take_log()
            .into_iter()
            .filter(|(request, _)| *request == Request::Get)
            .count();
        assert_eq!(fetched, 2);
    }
}
