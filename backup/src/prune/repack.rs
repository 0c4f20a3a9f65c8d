//! Moves needed chunks to new packs under the same addresses, as a survey decided.

use std::collections::BTreeSet;

use vellum_core::hash::ChunkHash;
use vellum_core::id_set::IdSet;
use vellum_core::identity::SegmentId;

use super::survey::{FrameUse, Survey, Walk};
use crate::addressed::{AddressedWriter, FRAME_LEN};
use crate::catalog::{Catalog, Place};
use crate::error::BackupError;
use crate::format::{FrameEntry, IndexObject, PackEntry, decode_frame};
use crate::objects::{ObjectId, ObjectName};
use crate::record::IndexParts;
use crate::repository::Repository;

/// Writes the packs and index objects that a survey asks for.
pub(crate) struct Repacker<'a> {
    repository: &'a Repository,
    catalog: &'a Catalog,
    writer: AddressedWriter<'a>,
}

impl<'a> Repacker<'a> {
    pub(crate) fn new(repository: &'a Repository, catalog: &'a Catalog) -> Self {
        Self {
            repository,
            catalog,
            writer: AddressedWriter::new(repository),
        }
    }

    /// Goes through `indexes` as the survey did: chunks of packs that it repacks are copied, packs
    /// that stay get into the new index objects. The new index objects; everything is durable then.
    pub(crate) fn run(
        mut self,
        indexes: &BTreeSet<ObjectId>,
        needed: &IdSet,
        survey: &Survey,
    ) -> Result<(Vec<IndexParts>, u64), BackupError> {
        let mut walk = Walk::new(needed);
        // Damaged packs come last, as in the survey: what is elsewhere is not looked for in them.
        let rounds: &[bool] = if survey.damaged.is_empty() {
            &[false]
        } else {
            &[false, true]
        };
        for (round, id) in rounds
            .iter()
            .flat_map(|round| indexes.iter().map(move |id| (*round, id)))
        {
            let index = self
                .catalog
                .index(id)
                .map_err(|error| super::told(self.repository, error))?;
            for pack in &index.packs {
                if !survey.packs.contains_key(&pack.id)
                    || survey.damaged.contains(&pack.id) != round
                {
                    continue;
                }
                let Some(frames) = walk.pack(self.catalog, pack) else {
                    continue;
                };
                if survey.repack.contains(&pack.id) {
                    self.move_chunks(&index, pack, &frames)?;
                } else if survey.reindex.contains(id) && !survey.dead.contains(&pack.id) {
                    let names = names_of(&index, pack).collect::<Vec<_>>();
                    self.writer.add_pack(pack.clone(), names)?;
                }
            }
        }
        self.writer.finish()
    }

    fn move_chunks(
        &mut self,
        index: &IndexObject,
        pack: &PackEntry,
        frames: &[FrameUse],
    ) -> Result<(), BackupError> {
        let used: Vec<(&FrameEntry, &FrameUse)> = pack
            .frames
            .iter()
            .zip(frames)
            .filter(|(_, of)| of.count() > 0)
            .collect();
        let place = |(entry, _): &(&FrameEntry, &FrameUse)| self.catalog.place(pack, entry);
        let places: Vec<Place> = used.iter().map(place).collect();
        let bodies = self.catalog.frame_bodies(&places);
        let bodies = bodies.map_err(|error| super::told(self.repository, error))?;
        for ((entry, of), body) in used.into_iter().zip(bodies) {
            let names = &index.segments[&entry.segment];
            let damaged = |reason: String| BackupError::Damaged {
                object: format!("{}, frame at {}", ObjectName::Pack(pack.id), entry.offset),
                reason,
                points: Vec::new(),
            };
            let frame = decode_frame(&body).map_err(|error| damaged(error.to_string()))?;
            let chunk_len = self.repository.file().chunk_len;
            // Never moves on what is damaged, so that a damaged chunk stays where `verify` finds
            // it.
            let plain = frame
                .chunks(chunk_len, |ordinal| names.hash(ordinal).copied())
                .map_err(|error| damaged(error.to_string()))?;
            if frame.segment != entry.segment
                || frame.first != entry.first
                || frame.presence != entry.presence
            {
                return Err(damaged("another frame stands in its place".to_owned()));
            }
            let wanted: Vec<(u32, &[u8])> = entry
                .ordinals()
                .zip(plain.chunks_exact(chunk_len as usize))
                .zip(&of.wanted)
                .filter(|(_, wanted)| **wanted)
                .map(|(chunk, _)| chunk)
                .collect();
            let addressed = |ordinal: u32| {
                names
                    .hash(ordinal)
                    .map(|hash| ((entry.segment, ordinal), *hash))
            };
            if wanted.len() == of.wanted.len() && plain.len() > FRAME_LEN / 2 {
                let all = wanted.iter().filter_map(|(ordinal, _)| addressed(*ordinal));
                self.writer.add_frame(&frame, all.collect::<Vec<_>>())?;
                continue;
            }
            for (ordinal, chunk) in wanted {
                let (address, name) = addressed(ordinal).expect("it was held against its name");
                self.writer.add_chunk(address, name, chunk.to_vec())?;
            }
        }
        Ok(())
    }
}

/// The addresses and names of a pack's chunks, by the index object that has them.
fn names_of<'i>(
    index: &'i IndexObject,
    pack: &'i PackEntry,
) -> impl Iterator<Item = ((SegmentId, u32), ChunkHash)> + 'i {
    pack.frames.iter().flat_map(|frame| {
        let entry = &index.segments[&frame.segment];
        frame.ordinals().filter_map(|ordinal| {
            entry
                .hash(ordinal)
                .map(|hash| ((frame.segment, ordinal), *hash))
        })
    })
}
