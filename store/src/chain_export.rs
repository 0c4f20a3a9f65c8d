//! Exports a chain of states as a chain of files: each file holds what differs from its parent's,
//! and names that by its file's name alone.
//!
//! Every image or snapshot becomes a file. What stands between two of them goes into the upper one;
//! what lies below the lowest goes into that. Of states that show the same layer the first has the
//! content, and the others are its children, with nothing of their own. A state that descends from
//! none of the others becomes a child of the lowest all the same, with its full content: a chain
//! has one file at its bottom. Identities come from content, place and name, so the same tree gives
//! the same bytes everywhere.

use std::io;
use std::path::Path;

use vellum_core::hash::ChunkHash;
use vellum_core::page::{PAGE_SPAN, PageEntry};
use vellum_core::source::{Extent, ExtentKind, ImageSource, SourceError};
use vellum_core::tree::{NodeRef, PageSet, page_of, page_start};
use vellum_core::units::{LayerId, PageIndex};
use vellum_formats::DiskIdentity;
use vellum_formats::write::{ParentLink, TargetFormat, WriteOptions};

use crate::disk::Disk;
use crate::error::StoreError;
use crate::export::ExportTarget;
use crate::image_writer::ImageWriting;
use crate::store::Store;
use crate::transfer::{PointInTime, RelativeMap};
use crate::watch::{Progress, Watch};

/// A state to be exported, and its file's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateFile {
    /// The image or snapshot.
    pub node: NodeRef,
    /// The name, without a folder.
    pub file_name: String,
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenState {
    /// Its name.
    pub file_name: String,
    /// The file that it stands on: its place among those of its chain.
    pub parent: Option<usize>,
    /// Its identity, if the format has one.
    pub identity: Option<DiskIdentity>,
    /// The disk's length in bytes.
    pub len: u64,
    /// The file's length in bytes.
    pub file_len: u64,
}

/// Content of a state relative to the one that it stands on.
struct StateSource<'m> {
    disk: Disk,
    /// None if it shows the same as its parent.
    map: Option<RelativeMap<'m>>,
    pages: PageSet,
    /// The length of the state below; none if there is none.
    parent_len: Option<u64>,
    /// From here on nothing of it is seen.
    visible_end: u64,
}

/// Progress of one file among several.
struct FileProgress<'w> {
    watch: &'w dyn Watch,
    before: u64,
    total: u64,
}

impl Store {
    /// Writes each of `chains` to files in `dir`, all as of one point in time; what became of them,
    /// in the same order.
    ///
    /// # Errors
    ///
    /// When something cannot be read or written, or `format` cannot hold it: some files may be
    /// there then.
    pub fn export_chains(
        &self,
        chains: &[Vec<StateFile>],
        format: TargetFormat,
        dir: &Path,
        watch: &dyn Watch,
    ) -> Result<Vec<Vec<WrittenState>>, StoreError> {
        let nodes: Vec<NodeRef> = chains.iter().flatten().map(|state| state.node).collect();
        let moment = self.take_point_in_time(&nodes)?;
        let mut shown = moment.nodes().iter().map(|(_, layer)| *layer);
        let len_of = |layer: LayerId| Ok::<u64, StoreError>(moment.layer_by_id(layer)?.len);
        let total = moment.nodes().iter().try_fold(0, |sum, (_, layer)| {
            Ok::<_, StoreError>(sum + len_of(*layer)?)
        })?;
        let (mut written, mut before) = (Vec::with_capacity(chains.len()), 0);
        for chain in chains {
            let layers: Vec<LayerId> = shown.by_ref().take(chain.len()).collect();
            let writer = ChainWriter {
                moment: &moment,
                states: chain,
                parents: parents_of(&moment, &layers),
                layers,
                format,
                dir,
            };
            written.push(writer.write_all(watch, &mut before, total)?);
        }
        Ok(written)
    }
}

/// The parent of each state: all descend from one.
fn parents_of(moment: &PointInTime, layers: &[LayerId]) -> Vec<Option<usize>> {
    let first_with = |layer: LayerId| layers.iter().position(|shown| *shown == layer);
    let below = |(at, layer): (usize, &LayerId)| {
        let same = first_with(*layer).filter(|first| *first < at);
        let below = moment.tree().chain_from(*layer).skip(1);
        same.or_else(|| below.map(|below| below.id).find_map(first_with))
    };
    let mut parents: Vec<Option<usize>> = layers.iter().enumerate().map(below).collect();
    let root = parents.iter().position(Option::is_none);
    for (at, parent) in parents.iter_mut().enumerate() {
        *parent = parent.or(root.filter(|root| *root != at));
    }
    parents
}

/// Writes the files of one chain.
struct ChainWriter<'m> {
    moment: &'m PointInTime,
    states: &'m [StateFile],
    layers: Vec<LayerId>,
    parents: Vec<Option<usize>>,
    format: TargetFormat,
    dir: &'m Path,
}

impl ChainWriter<'_> {
    fn write_all(
        &self,
        watch: &dyn Watch,
        before: &mut u64,
        total: u64,
    ) -> Result<Vec<WrittenState>, StoreError> {
        let mut order: Vec<usize> = (0..self.states.len()).collect();
        let depth = |at: &usize| {
            let parent = |at: &usize| self.parents[*at];
            std::iter::successors(Some(*at), parent).count()
        };
        order.sort_by_key(depth);
        let mut written: Vec<Option<(WrittenState, [u8; 32])>> = vec![None; self.states.len()];
        for at in order {
            let parent = self.parents[at].and_then(|parent| written[parent].as_ref());
            let part = FileProgress {
                watch,
                before: *before,
                total,
            };
            let done = self.write_state(at, parent, &part)?;
            *before += done.0.len;
            written[at] = Some(done);
        }
        let all = written.into_iter().flatten();
        Ok(all.map(|(state, _)| state).collect())
    }

    /// Writes one file over `parent`; its facts, and the identity that its children's come from.
    fn write_state(
        &self,
        at: usize,
        parent: Option<&(WrittenState, [u8; 32])>,
        watch: &dyn Watch,
    ) -> Result<(WrittenState, [u8; 32]), StoreError> {
        let state = &self.states[at];
        let name = self.moment.tree().display_name(state.node);
        let base = self.parents[at].map(|parent| self.layers[parent]);
        let source = StateSource::new(self.moment, self.layers[at], base, name.clone())?;
        let below = parent.map_or([0; 32], |(_, identity)| *identity);
        let words = [
            &source.disk.content_identity()?[..],
            &below,
            state.file_name.as_bytes(),
        ];
        let identity = ChunkHash::of_chunk(&words.concat()).0;
        let options = WriteOptions {
            parent: parent.map(|(parent, _)| ParentLink {
                path: parent.file_name.clone(),
                identity: parent.identity,
                format: Some(self.format.image_format().format_name().to_owned()),
            }),
            file_name: Some(state.file_name.clone()),
            ..WriteOptions::new(identity)
        };
        let writing = ImageWriting {
            source: &source,
            name: &name,
            format: self.format,
            options: &options,
            verify: &|| Ok(()),
        };
        let target = ExportTarget::File {
            path: self.dir.join(&state.file_name),
            overwrite: false,
        };
        let written = writing.write_to(target, watch)?;
        let state = WrittenState {
            file_name: state.file_name.clone(),
            parent: self.parents[at],
            identity: written.identity,
            len: source.len(),
            file_len: written.file_len,
        };
        Ok((state, identity))
    }
}

impl<'m> StateSource<'m> {
    fn new(
        moment: &'m PointInTime,
        layer: LayerId,
        base: Option<LayerId>,
        name: String,
    ) -> Result<Self, StoreError> {
        let store = moment.store();
        let disk = store.disk_at(&mut store.tree_mut(), layer, name);
        let parent_len = base
            .map(|base| Ok::<_, StoreError>(moment.layer_by_id(base)?.len))
            .transpose()?;
        // A layer that does not descend from the base is exported in full.
        let is_above = |base: &LayerId| disk.chain().iter().any(|layer| layer.id == *base);
        let map = (base != Some(layer))
            .then(|| moment.relative_map(layer, base.filter(is_above)))
            .transpose()?;
        let visible = map.as_ref().map(|map| map.parent_visible);
        let chunk_len = disk.chunk_len();
        let visible_end = visible.map_or(disk.len(), |visible| visible.0 * chunk_len.byte_len());
        Ok(Self {
            pages: map
                .as_ref()
                .map_or_else(PageSet::new, RelativeMap::mapped_pages),
            disk,
            map,
            parent_len,
            visible_end,
        })
    }

    /// Meaning of an unallocated range at `offset`, and its end.
    fn silence_at(&self, offset: u64) -> (ExtentKind, u64) {
        match self.parent_len {
            None => (ExtentKind::Zero, self.len()),
            Some(_) if offset < self.visible_end => {
                (ExtentKind::Absent, self.visible_end.min(self.len()))
            }
            // Behind the parent's end everything reads as zeros anyway.
            Some(parent_len) if offset >= parent_len => (ExtentKind::Absent, self.len()),
            Some(parent_len) => (ExtentKind::Zero, parent_len.min(self.len())),
        }
    }

    fn own_at(&self, offset: u64) -> Result<Extent, StoreError> {
        let chunk_len = self.disk.chunk_len();
        let begin_of = |page: PageIndex| chunk_len.offset_of(page_start(page));
        let (page, position) = page_of(chunk_len.index_at(offset));
        let (silence, silence_end) = self.silence_at(offset);
        let extent = |end: u64, kind| Extent {
            start: offset,
            len: end.min(self.len()) - offset,
            kind,
        };
        match (&self.map, self.pages.next_from(page)) {
            (Some(map), Some(next)) if next == page => {
                let entries = map.relative_page(page)?;
                let run = entries.runs_in(position, PAGE_SPAN).next();
                let run = run.expect("a page has an answer for each position");
                let end = begin_of(page) + u64::from(run.end_position()) * chunk_len.byte_len();
                Ok(match run.slot {
                    PageEntry::Chunk(_) => extent(end, ExtentKind::Data),
                    PageEntry::Zero => extent(end, ExtentKind::Zero),
                    PageEntry::Absent => extent(end.min(silence_end), silence),
                })
            }
            (_, Some(next)) => Ok(extent(begin_of(next).min(silence_end), silence)),
            (_, None) => Ok(extent(silence_end, silence)),
        }
    }
}

impl ImageSource for StateSource<'_> {
    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, SourceError> {
        let extent = self.own_at(offset);
        extent.map_err(|error| SourceError::Io {
            offset,
            source: io::Error::other(error),
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let read = self.disk.read_at(buffer, offset);
        read.map_err(|error| SourceError::Io {
            offset,
            source: io::Error::other(error),
        })
    }
}

impl Watch for FileProgress<'_> {
    fn report_progress(&self, progress: Progress) {
        self.watch.report_progress(Progress {
            done: self.before + progress.done,
            total: Some(self.total),
        });
    }

    fn is_cancelled(&self) -> bool {
        self.watch.is_cancelled()
    }
}
