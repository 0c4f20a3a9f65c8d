//! Finds the nodes of a point in time that cannot be read to their end: called only once a read has
//! failed.

use std::collections::HashMap;

use vellum_core::page::{PageEntry, bytes_of};
use vellum_core::tree::NodeRef;
use vellum_core::units::{ChunkId, PageIndex};

use super::point_in_time::PointInTime;
use crate::error::{Damage, StoreError};
use crate::watch::{Progress, Watch};

/// Damage that was found in the frames that were read.
#[derive(Default)]
struct ReadabilityCheck {
    /// Chunks of each frame that cannot be read, with the error, by the frame's first id.
    frames: HashMap<ChunkId, Vec<(ChunkId, StoreError)>>,
    /// The last frame that was read: its first id and the id after its last.
    last: Option<(ChunkId, ChunkId)>,
    read: u64,
}

impl PointInTime {
    /// The nodes that show something that cannot be read, each with the first such thing. Reads
    /// every frame that one of them needs, once.
    pub fn unreadable_nodes(
        &self,
        watch: &dyn Watch,
    ) -> Result<Vec<(NodeRef, Damage)>, StoreError> {
        let mut readable = ReadabilityCheck::default();
        let mut found = Vec::new();
        for (node, layer) in self.nodes() {
            let relative = self.relative_map(*layer, None)?;
            for index in relative.mapped_pages().iter() {
                if watch.is_cancelled() {
                    return Err(StoreError::Interrupted);
                }
                let name = self.tree().display_name(*node);
                match readable.check_page(self, &relative, &name, index, watch) {
                    Ok(()) => {}
                    Err(StoreError::Damaged(damage)) => {
                        found.push((*node, damage));
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(found)
    }
}

impl ReadabilityCheck {
    /// Fails if something that shows on page `index` of the content cannot be read.
    fn check_page(
        &mut self,
        moment: &PointInTime,
        content: &super::RelativeMap<'_>,
        name: &str,
        index: PageIndex,
        watch: &dyn Watch,
    ) -> Result<(), StoreError> {
        let chunk_len = moment.store().parameters().chunk_len;
        let place = |from: u16, to: u16| bytes_of(chunk_len, index, from..to, &(0..u64::MAX));
        let page = content.relative_page(index);
        let page =
            page.map_err(|error| error.in_image(name, place(0, vellum_core::page::PAGE_SPAN)))?;
        for run in page.runs() {
            let PageEntry::Chunk(first) = run.slot else {
                continue;
            };
            for nth in 0..run.len {
                let id = first.advance_by(nth.into());
                let at = run.start + nth;
                self.check_chunk(moment, id, watch)
                    .map_err(|error| error.in_image(name, place(at, at + 1)))?;
            }
        }
        Ok(())
    }

    /// Fails if chunk `id` cannot be read.
    fn check_chunk(
        &mut self,
        moment: &PointInTime,
        id: ChunkId,
        watch: &dyn Watch,
    ) -> Result<(), StoreError> {
        let in_last = self
            .last
            .filter(|(first, end)| (*first..*end).contains(&id));
        let first = match in_last {
            Some((first, _)) => first,
            None => self.check_frame(moment, id, watch)?,
        };
        let bad = self.frames.get(&first).into_iter().flatten();
        let found = bad.into_iter().find(|(bad, _)| *bad == id);
        found.map_or(Ok(()), |(_, error)| Err(clone_error(error)))
    }

    /// Reads the frame that holds `id`, unless it was; its first id.
    fn check_frame(
        &mut self,
        moment: &PointInTime,
        id: ChunkId,
        watch: &dyn Watch,
    ) -> Result<ChunkId, StoreError> {
        let chunks = &moment.store().inner.chunks;
        let missing =
            || StoreError::damaged_record(format!("chunk number {id}"), "no frame holds it");
        let header = chunks.frame_header(id)?.ok_or_else(missing)?;
        let first = header.first_id();
        self.last = Some((first, header.end_id()));
        if self.frames.contains_key(&first) {
            return Ok(first);
        }
        let mut bad = Vec::new();
        for (id, _) in header.chunk_hashes() {
            let read = chunks
                .verified_frame(id)
                .and_then(|frame| frame.chunk_bytes(id).map(drop));
            match read {
                Ok(()) => {}
                Err(error @ StoreError::Damaged(_)) => bad.push((id, error)),
                Err(error) => return Err(error),
            }
        }
        self.frames.insert(first, bad);
        self.read += u64::from(header.payload_len);
        watch.report_progress(Progress {
            done: self.read,
            total: None,
        });
        Ok(first)
    }
}

fn clone_error(error: &StoreError) -> StoreError {
    match error {
        StoreError::Damaged(damage) => StoreError::Damaged(damage.clone()),
        other => StoreError::damaged_record("a chunk", other),
    }
}
