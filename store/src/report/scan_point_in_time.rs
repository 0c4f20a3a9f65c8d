//! State of a store at one point in time: the tree, all maps, all frames and the lengths of files,
//! with nothing committed in between.
//!
//! Reading goes on around damage: a record that cannot be read is noted once.

use vellum_core::frame::{FrameHeader, frame_key, parse_frame_key};
use vellum_core::page::{Page, page_key};
use vellum_core::tree::{Layer, Tree};
use vellum_core::units::{ChunkId, PageIndex};

use super::UncountedItem;
use super::disks_point_in_time::DisksPointInTime;
use super::frames::FrameSummary;
use crate::chunks::HeaderWalk;
use crate::clock::now_ms;
use crate::collect::REGION_IDS;
use crate::database::{Database, Family, Lookup};
use crate::error::StoreError;
use crate::folder::FolderUsage;
use crate::store::Store;

/// Things that could not be read and are told one by one; the rest is a number.
const UNCOUNTED_MAX: usize = 1000;

/// All maps and frames as they were at one moment.
pub(super) struct ScanPointInTime<'s> {
    pub(super) tree: Tree,
    pub(super) taken_ms: u64,
    pages: Lookup<'s>,
    headers: Lookup<'s>,
    database: &'s Database,
}

/// Records that could not be read.
#[derive(Default)]
pub(super) struct Losses {
    listed: Vec<UncountedItem>,
    unlisted: u64,
}

/// Space that the files take.
#[derive(Clone, Debug, Default)]
pub(super) struct FileSpace {
    pub(super) usage: FolderUsage,
    pub(super) frames: u64,
    pub(super) headers: u64,
    pub(super) index: u64,
    pub(super) pages: u64,
    /// Layers, names, meta and their copies.
    pub(super) records: u64,
    /// Bytes that frames take in files: ranges of ids, all of them, and bytes.
    pub(super) stored: Vec<(u64, u64, u64)>,
    /// The files that hold frames: the first id of their first and of their last frame, and their
    /// length.
    pub(super) files: Vec<(ChunkId, ChunkId, u64)>,
}

impl<'s> ScanPointInTime<'s> {
    /// The moment is now: no commit falls between tree, maps and frames. What guests have written
    /// to attached disks is in it.
    pub(super) fn take_now(store: &'s Store) -> Result<Self, StoreError> {
        store.with_all_still(|| Ok(Self::of_tree(store, &store.tree_mut())))
    }

    /// The same, and what of that moment is only looked at after the count.
    pub(super) fn take_with_disks(
        store: &'s Store,
    ) -> Result<(Self, DisksPointInTime<'s>), StoreError> {
        store.with_all_still(|| {
            let mut tree = store.tree_mut();
            // Layers that holding still adds to the tree are not reported.
            let moment = Self::of_tree(store, &tree);
            Ok((moment, DisksPointInTime::take_all(store, &mut tree)?))
        })
    }

    fn of_tree(store: &'s Store, tree: &Tree) -> Self {
        let (pages, headers) = (
            store.inner.database.lookup_in(Family::Pages),
            store.inner.database.lookup_in(Family::Headers),
        );
        Self {
            tree: tree.clone(),
            taken_ms: now_ms(),
            pages,
            headers,
            database: &store.inner.database,
        }
    }

    /// Page `index`, which `layer` has, and the bytes that the record takes.
    pub(super) fn read_page(
        &mut self,
        layer: &Layer,
        index: PageIndex,
        losses: &mut Losses,
    ) -> Result<Option<(Page, u64)>, StoreError> {
        let key = page_key(layer.id, index);
        let decode = |value: &[u8]| {
            let page = Page::decode(layer.id, index, value).map_err(|error| error.to_string());
            page.map(|page| (page, (key.len() + value.len()) as u64))
        };
        let read = match self.pages.get(&key) {
            Ok(Some(value)) => decode(value),
            Ok(None) => Err("it is gone".to_owned()),
            // Perhaps that of another page: going through records reads all tables.
            Err(StoreError::Damaged(damage)) => match self.database.get(Family::Pages, &key) {
                Ok(Some(value)) => decode(&value),
                Ok(None) | Err(StoreError::Damaged(_)) => Err(damage.reason),
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        };
        Ok(read
            .map_err(|what| losses.note_loss(format!("page {index} of layer {}", layer.id), what))
            .ok())
    }

    /// Visits every frame's header in the order of ids.
    pub(super) fn visit_headers(
        &mut self,
        losses: &mut Losses,
        visit: &mut dyn FnMut(FrameHeader) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut next = ChunkId(0);
        loop {
            match self.headers.from(&frame_key(next)) {
                Ok(None) => return Ok(()),
                Ok(Some((key, value))) => {
                    let first = parse_frame_key(key).map_err(|error| {
                        StoreError::damaged_record("a frame header's key", error)
                    })?;
                    let is_last = first.0 == u64::MAX;
                    next = ChunkId(first.0.saturating_add(1));
                    match FrameHeader::decode(first, value) {
                        Ok(header) => visit(header)?,
                        Err(error) => {
                            losses.note_loss(format!("header of frame {first}"), error.to_string());
                        }
                    }
                    if is_last {
                        return Ok(());
                    }
                }
                Err(StoreError::Damaged(damage)) => {
                    losses.note_loss(format!("headers of frames from {next} on"), damage.reason);
                    return visit_headers_behind(self.database, next, visit);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Visits the headers of frames from `from` on that can be read, of which the first cannot be.
fn visit_headers_behind(
    database: &Database,
    from: ChunkId,
    visit: &mut dyn FnMut(FrameHeader) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut headers = HeaderWalk::new(database, from);
    loop {
        match headers.next() {
            Ok(Some((first, value))) => {
                if let Ok(header) = FrameHeader::decode(first, &value) {
                    visit(header)?;
                }
            }
            Ok(None) => return Ok(()),
            Err(StoreError::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
    }
}

impl Losses {
    pub(super) fn note_loss(&mut self, subject: String, what: String) {
        if self.listed.len() < UNCOUNTED_MAX {
            self.listed.push(UncountedItem { subject, what });
        } else {
            self.unlisted += 1;
        }
    }

    pub(super) fn into_uncounted(mut self) -> Vec<UncountedItem> {
        if self.unlisted > 0 {
            self.listed.push(UncountedItem {
                subject: format!("{} more", self.unlisted),
                what: "not listed one by one".to_owned(),
            });
        }
        self.listed
    }
}

impl FileSpace {
    /// Counts `frames`, which are all in the order of their ids, that no file has yet: a collection
    /// writes them into files before it looks at those. Without them, deleting what was written a
    /// moment ago would seem to free nothing.
    pub(super) fn count_unflushed(&mut self, frames: &[FrameSummary]) {
        let filed_end = self.files.iter().map(|(_, last, _)| *last).max();
        let start = frames.partition_point(|frame| Some(frame.first) <= filed_end);
        for frame in &frames[start..] {
            let at = self
                .stored
                .partition_point(|(_, end, _)| *end <= frame.first.0);
            if let Some((_, _, len)) = self.stored.get_mut(at) {
                *len = len.saturating_add(frame.own_payload_len.into());
            }
        }
    }

    /// Measures the space that the files take now, and the frames' part of it for each region of
    /// ids that `regions` names, in order, and between them.
    pub(super) fn measure_files(
        store: &Store,
        regions: impl Iterator<Item = u64>,
        horizon: ChunkId,
    ) -> Result<Self, StoreError> {
        let database = &store.inner.database;
        let bytes = |family| database.table_bytes(family);
        let mut records = 0;
        for family in [Family::Layers, Family::Names, Family::Meta, Family::Copies] {
            records += bytes(family)?;
        }
        let mut stored = Vec::new();
        let mut push = |from: u64, to: u64| {
            if from < to {
                stored.push((
                    from,
                    to,
                    database.stored_len(
                        Family::Frames,
                        &frame_key(ChunkId(from)),
                        &frame_key(ChunkId(to)),
                    ),
                ));
            }
        };
        let mut at = 0;
        for region in regions {
            let (start, end) = (
                region * REGION_IDS,
                (region + 1).saturating_mul(REGION_IDS).min(horizon.0),
            );
            push(at, start);
            push(start, end);
            at = end;
        }
        push(at, horizon.0);
        let id = |key: &[u8]| parse_frame_key(key).ok();
        let tables = database
            .list_tables(Family::Frames)?
            .into_iter()
            .map(|table| (table.first, table.last, table.len));
        Ok(Self {
            files: tables
                .filter_map(|(first, last, len)| Some((id(&first)?, id(&last)?, len)))
                .collect(),
            usage: store.inner.folder.usage_by_part()?,
            frames: bytes(Family::Frames)?,
            headers: bytes(Family::Headers)?,
            index: bytes(Family::Index)?,
            pages: bytes(Family::Pages)?,
            records,
            stored,
        })
    }
}
