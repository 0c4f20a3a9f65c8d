//! Finds the nodes of a point in time that cannot be read to their end: called only once a read has
//! failed.

use std::collections::HashMap;

use vellum_core::page::{Slot, bytes_of};
use vellum_core::tree::Node;
use vellum_core::units::{ChunkId, PageIndex};

use super::moment::Moment;
use crate::error::{Damage, StoreError};
use crate::watch::{Progress, Watch};

/// Damage that was found in the frames that were read.
#[derive(Default)]
struct Readable {
    /// Chunks of each frame that cannot be read, with the error, by the frame's first id.
    frames: HashMap<ChunkId, Vec<(ChunkId, StoreError)>>,
    /// The last frame that was read: its first id and the id after its last.
    last: Option<(ChunkId, ChunkId)>,
    read: u64,
}

impl Moment {
    /// The nodes that show something that cannot be read, each with the first such thing. Reads
    /// every frame that one of them needs, once.
    pub fn unreadable(&self, watch: &dyn Watch) -> Result<Vec<(Node, Damage)>, StoreError> {
        let mut readable = Readable::default();
        let mut found = Vec::new();
        for (node, layer) in self.nodes() {
            let relative = self.relative(*layer, None)?;
            for index in relative.pages().iter() {
                if watch.is_cancelled() {
                    return Err(StoreError::Interrupted);
                }
                let name = self.tree().display(*node);
                match readable.look(self, &relative, &name, index, watch) {
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

impl Readable {
    /// Fails if something that shows on page `index` of the content cannot be read.
    fn look(
        &mut self,
        moment: &Moment,
        content: &super::RelativeMap<'_>,
        name: &str,
        index: PageIndex,
        watch: &dyn Watch,
    ) -> Result<(), StoreError> {
        let chunk_len = moment.store().parameters().chunk_len;
        let place = |from: u16, to: u16| bytes_of(chunk_len, index, from..to, &(0..u64::MAX));
        let page = content.page(index);
        let page =
            page.map_err(|error| error.in_image(name, place(0, vellum_core::page::PAGE_SPAN)))?;
        for run in page.runs() {
            let Slot::Chunk(first) = run.slot else {
                continue;
            };
            for nth in 0..run.len {
                let id = first.advance(nth.into());
                let at = run.start + nth;
                self.chunk(moment, id, watch)
                    .map_err(|error| error.in_image(name, place(at, at + 1)))?;
            }
        }
        Ok(())
    }

    /// Fails if chunk `id` cannot be read.
    fn chunk(&mut self, moment: &Moment, id: ChunkId, watch: &dyn Watch) -> Result<(), StoreError> {
        let in_last = self
            .last
            .filter(|(first, end)| (*first..*end).contains(&id));
        let first = match in_last {
            Some((first, _)) => first,
            None => self.frame(moment, id, watch)?,
        };
        let bad = self.frames.get(&first).into_iter().flatten();
        let found = bad.into_iter().find(|(bad, _)| *bad == id);
        found.map_or(Ok(()), |(_, error)| Err(again(error)))
    }

    /// Reads the frame that holds `id`, unless it was; its first id.
    fn frame(
        &mut self,
        moment: &Moment,
        id: ChunkId,
        watch: &dyn Watch,
    ) -> Result<ChunkId, StoreError> {
        let chunks = &moment.store().inner.chunks;
        let missing = || StoreError::damaged(format!("chunk number {id}"), "no frame holds it");
        let header = chunks.header(id)?.ok_or_else(missing)?;
        let first = header.first();
        self.last = Some((first, header.end()));
        if self.frames.contains_key(&first) {
            return Ok(first);
        }
        let mut bad = Vec::new();
        for (id, _) in header.chunks() {
            let read = chunks.frame(id).and_then(|frame| frame.chunk(id).map(drop));
            match read {
                Ok(()) => {}
                Err(error @ StoreError::Damaged(_)) => bad.push((id, error)),
                Err(error) => return Err(error),
            }
        }
        self.frames.insert(first, bad);
        self.read += u64::from(header.payload_len);
        watch.progress(Progress {
            done: self.read,
            total: None,
        });
        Ok(first)
    }
}

fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Damaged(damage) => StoreError::Damaged(damage.clone()),
        other => StoreError::damaged("a chunk", other),
    }
}
