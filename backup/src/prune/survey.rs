//! Surveys packs and index objects: which packs hold needed chunks, and which packs and index
//! objects to write anew. Decided from index objects, one in memory at a time.

use std::collections::{BTreeMap, BTreeSet};

use vellum_core::id_set::IdSet;

use super::choice::{ObjectUse, Worth, chosen};
use super::{Listing, PruneOptions};
use crate::catalog::Catalog;
use crate::error::BackupError;
use crate::format::{FrameEntry, INDEX_CHUNK_COUNT_MAX, PackEntry, address};
use crate::journal::{Condition, State};
use crate::objects::{ObjectId, ObjectName};
use crate::repository::Repository;

/// Index objects with fewer chunks than this become one with others.
const SMALL_INDEX_CHUNKS: usize = INDEX_CHUNK_COUNT_MAX / 4;

/// The plan for packs and index objects.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Packs that index objects name and that are not condemned.
    pub(crate) packs: BTreeMap<ObjectId, ObjectUse>,
    /// Those of them that somebody found damaged, or that are not as long as they were: they stay
    /// as they are while something is needed of them that no other pack has.
    pub(crate) damaged: BTreeSet<ObjectId>,
    /// Packs whose needed chunks move to new ones.
    pub(crate) repack: BTreeSet<ObjectId>,
    /// Packs that nothing needs.
    pub(crate) dead: BTreeSet<ObjectId>,
    /// Index objects that are written anew.
    pub(crate) reindex: BTreeSet<ObjectId>,
}

/// The chunks of a frame that are needed and that no frame before it holds: for each of its
/// ordinals.
pub(crate) struct FrameUse {
    pub(crate) wanted: Vec<bool>,
}

/// Goes through all packs of index objects in one order, and finds the chunks for which each frame
/// is needed. A pack comes once.
pub(crate) struct Walk<'a> {
    needed: &'a IdSet,
    claimed: IdSet,
    met: BTreeSet<ObjectId>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(needed: &'a IdSet) -> Self {
        Self {
            needed,
            claimed: IdSet::new(),
            met: BTreeSet::new(),
        }
    }

    /// The use of each frame of a pack; none if the pack came before.
    pub(crate) fn pack(&mut self, catalog: &Catalog, pack: &PackEntry) -> Option<Vec<FrameUse>> {
        self.met.insert(pack.id).then(|| {
            pack.frames
                .iter()
                .map(|frame| self.frame(catalog, frame))
                .collect()
        })
    }

    fn refuse_missing(&self, needed: &IdSet) -> Result<(), BackupError> {
        let lost = needed.len() - self.claimed.len();
        if lost == 0 {
            return Ok(());
        }
        let reason = format!(
            "{lost} chunks that points need are in none that is there: `verify` names the points, \
             and they can be forgotten"
        );
        Err(BackupError::Damaged {
            object: "packs/".to_owned(),
            reason,
            points: Vec::new(),
        })
    }

    fn frame(&mut self, catalog: &Catalog, frame: &FrameEntry) -> FrameUse {
        let segment = catalog.number_of(frame.segment);
        let mut wanted = |ordinal| {
            let chunk = address(segment, ordinal);
            let is_wanted = self.needed.contains(chunk) && !self.claimed.contains(chunk);
            if is_wanted {
                self.claimed.insert(chunk);
            }
            is_wanted
        };
        FrameUse {
            wanted: frame.ordinals().map(&mut wanted).collect(),
        }
    }
}

impl FrameUse {
    pub(crate) fn count(&self) -> usize {
        self.wanted.iter().filter(|wanted| **wanted).count()
    }
}

impl Survey {
    /// Looks at the index objects that are not condemned. Needed chunks that are nowhere are an
    /// error: nothing is written anew without them.
    pub(crate) fn of(
        repository: &Repository,
        state: &State,
        catalog: &Catalog,
        listing: &Listing,
        needed: &IdSet,
        options: &PruneOptions,
    ) -> Result<Self, BackupError> {
        let mut survey = Self::default();
        let mut walk = Walk::new(needed);
        let mut contents: Vec<(ObjectId, usize, Vec<ObjectId>)> = Vec::new();
        let load = |id: &ObjectId| {
            let index = catalog.index(id);
            index.map_err(|error| super::told(repository, error))
        };
        let is_there = |pack: &ObjectId| listing.has(&ObjectName::Pack(*pack));
        let is_firm = |pack: &PackEntry| {
            is_there(&pack.id) && !state.is_condemned(&ObjectName::Pack(pack.id))
        };
        let is_damaged = |pack: &PackEntry| {
            let name = ObjectName::Pack(pack.id);
            state.damage_to(&name).is_some() || listing.lengths.get(&name) != Some(&pack.len)
        };
        let firm: Vec<&ObjectId> = state
            .indexes()
            .iter()
            .filter(|(_, condition)| **condition == Condition::Firm)
            .map(|(id, _)| id)
            .collect();
        for id in &firm {
            let index = load(id)?;
            contents.push((
                **id,
                index.chunk_count(),
                index.packs.iter().map(|pack| pack.id).collect(),
            ));
            let packs = index.packs.iter().filter(|pack| is_firm(pack));
            let (damaged, whole): (Vec<_>, Vec<_>) = packs.partition(|pack| is_damaged(pack));
            survey.damaged.extend(damaged.iter().map(|pack| pack.id));
            survey.add(catalog, &whole, &mut walk);
        }
        // What damaged packs have is needed of them only where no other has it.
        if !survey.damaged.is_empty() {
            for id in &firm {
                let index = load(id)?;
                let damaged = index.packs.iter().filter(|pack| is_firm(pack));
                let damaged: Vec<_> = damaged.filter(|pack| is_damaged(pack)).collect();
                survey.add(catalog, &damaged, &mut walk);
            }
        }
        // Pushes may have come to rest on a condemned index object: the sweep will keep it.
        for id in state.indexes().keys() {
            load(id)?
                .packs
                .iter()
                .filter(|pack| is_there(&pack.id))
                .for_each(|pack| drop(walk.pack(catalog, pack)));
        }
        walk.refuse_missing(needed)?;
        survey.choose_packs(options);
        survey.choose_indexes(&contents);
        Ok(survey)
    }

    /// Damaged packs of which something is needed that no other pack has.
    pub(crate) fn needed_damaged(&self) -> impl Iterator<Item = &ObjectId> {
        self.damaged.difference(&self.dead)
    }

    fn add(&mut self, catalog: &Catalog, packs: &[&PackEntry], walk: &mut Walk<'_>) {
        for pack in packs {
            let Some(frames) = walk.pack(catalog, pack) else {
                continue;
            };
            let used = pack.frames.iter().zip(&frames).map(|(frame, of)| {
                u64::from(frame.len) * of.count() as u64 / of.wanted.len().max(1) as u64
            });
            let parts_len = pack.frames.iter().map(|frame| u64::from(frame.len)).sum();
            self.packs.insert(
                pack.id,
                ObjectUse {
                    len: pack.len,
                    parts_len,
                    used_len: used.sum(),
                },
            );
            if frames.iter().all(|frame| frame.count() == 0) {
                self.dead.insert(pack.id);
            }
        }
    }

    fn choose_packs(&mut self, options: &PruneOptions) {
        let living = self
            .packs
            .iter()
            .filter(|(id, _)| !self.dead.contains(*id) && !self.damaged.contains(*id))
            .map(|(id, pack)| (*id, *pack));
        let worth = Worth {
            max_unused_percent: options.max_unused_percent,
            limit: options.repack_limit,
            small_len: options.small_pack_len,
            is_writing: false,
        };
        self.repack = chosen(living, &worth);
    }

    /// Bytes of frames, in packs that go, that nothing needs.
    pub(crate) fn freed_len(&self) -> u64 {
        let goes = self.dead.union(&self.repack).map(|id| &self.packs[id]);
        goes.map(|pack| pack.parts_len - pack.used_len.min(pack.parts_len))
            .sum()
    }

    /// Chooses the index objects to write anew: those that name packs that go, and small ones, if
    /// that makes them fewer.
    fn choose_indexes(&mut self, contents: &[(ObjectId, usize, Vec<ObjectId>)]) {
        let goes = |pack: &ObjectId| {
            !self.packs.contains_key(pack) || self.dead.contains(pack) || self.repack.contains(pack)
        };
        let touched = contents
            .iter()
            .filter(|(_, _, packs)| packs.is_empty() || packs.iter().any(goes))
            .map(|(id, ..)| *id);
        let mut reindex: BTreeSet<ObjectId> = touched.collect();
        let small: BTreeSet<ObjectId> = contents
            .iter()
            .filter(|(_, chunks, _)| *chunks < SMALL_INDEX_CHUNKS)
            .map(|(id, ..)| *id)
            .collect();
        if small.union(&reindex).count() > 1 {
            reindex.extend(small);
        }
        self.reindex = reindex;
    }
}
