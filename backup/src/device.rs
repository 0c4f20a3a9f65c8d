//! Points of a repository as read-only devices: the data that a reader asks for is fetched,
//! verified against its name and cached. Of the rest, only the maps are fetched.
//!
//! **Names.** `IMAGE` is the newest state of an image, `IMAGE@SNAPSHOT` a snapshot. Points that
//! have the same name, or a name that no image of a store could have, are offered under their ids.
//! So no name becomes a path.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use quick_cache::sync::Cache;
use vellum_core::device::{
    AllocationStatus, Device, DeviceError, ExportInfo, Exports, Intent, OpenError, TypedRange,
};
use vellum_core::identity::ContentId;
use vellum_core::name::Name;
use vellum_core::page::{PAGE_SPAN, Page, PageEntry, bytes_of};
use vellum_core::stretches::RangeCollector;
use vellum_core::tree::{PageSet, page_of, page_start};
use vellum_core::units::{ChunkId, ChunkLen, PageIndex};

use crate::error::BackupError;
use crate::format::split_address;
use crate::reader::{CacheLimits, Held, Reader};
use crate::record::Point;
use crate::repository::Repository;

/// Resolved pages that are kept: 4 MiB of disk each.
const PAGES_MAX: usize = 4096;

/// All points of a repository for servers, as they were when this was made.
pub struct RepositoryExports {
    source: Arc<Source>,
    /// The points that are offered, by name.
    points: BTreeMap<String, Point>,
}

/// The repository that devices read, and its cached pages. Shared by them.
struct Source {
    repository: Repository,
    held: Held,
    chunk_len: ChunkLen,
    pages: Cache<(ContentId, PageIndex), Arc<Page>>,
}

/// A block device with the content of a point.
pub struct PointDevice {
    source: Arc<Source>,
    content: ContentId,
    len: u64,
    /// The pages of its maps that may have entries.
    mapped: PageSet,
}

impl RepositoryExports {
    /// The points of `repository` as it is now; what is read of them is kept within `limits`. Reads
    /// its index.
    pub fn new(repository: Repository, limits: CacheLimits) -> Result<Self, BackupError> {
        let reader = Reader::for_guests(&repository, limits);
        reader.load_indexes()?;
        let (held, chunk_len) = (reader.held(), reader.chunk_len()?);
        let state = repository.state();
        let points = state.points_oldest_first().into_iter();
        let points = named(points.map(|point| Point::clone(point)));
        let source = Source {
            repository,
            held,
            chunk_len,
            pages: Cache::new(PAGES_MAX),
        };
        Ok(Self {
            source: Arc::new(source),
            points,
        })
    }

    /// The number of points that are offered.
    #[must_use]
    pub fn count(&self) -> usize {
        self.points.len()
    }

    /// The point of that name, or of that id; the only image's if the name is empty.
    fn point(&self, name: &str) -> Result<(&String, &Point), OpenError> {
        let mut images = self
            .points
            .iter()
            .filter(|(_, point)| point.snapshot.is_none());
        let found = match (name, images.next(), images.next()) {
            ("", Some(only), None) => Some(only),
            _ => self
                .points
                .get_key_value(name)
                .or_else(|| self.points.iter().find(|(_, point)| point.id == name)),
        };
        found.ok_or_else(|| OpenError::Unknown(name.to_owned()))
    }
}

/// Gives each point, the oldest first, the name under which it is offered.
fn named(points: impl Iterator<Item = Point>) -> BTreeMap<String, Point> {
    let mut titles: BTreeMap<String, Vec<Point>> = BTreeMap::new();
    for point in points {
        titles
            .entry(title(&point).unwrap_or_else(|| point.id.clone()))
            .or_default()
            .push(point);
    }
    let mut named = BTreeMap::new();
    for (title, mut points) in titles {
        let is_one_image = points.iter().all(|point| point.image == points[0].image);
        if is_one_image && let Some(newest) = points.pop() {
            named.insert(title, newest);
        }
        named.extend(points.into_iter().map(|point| (point.id.clone(), point)));
    }
    named
}

/// `IMAGE` or `IMAGE@SNAPSHOT`, if both can be names.
fn title(point: &Point) -> Option<String> {
    let image = Name::new(&point.name).ok()?;
    match &point.snapshot {
        None => Some(image.to_string()),
        Some(snapshot) => Name::new(&snapshot.name)
            .ok()
            .map(|snapshot| format!("{image}@{snapshot}")),
    }
}

fn described(name: &str, point: &Point) -> ExportInfo {
    let description = if point.snapshot.is_some() {
        "snapshot in a repository"
    } else {
        "image in a repository"
    };
    ExportInfo {
        name: name.to_owned(),
        len: point.len,
        read_only: true,
        changed_ns: point.time_ms.saturating_mul(1_000_000),
        description: description.to_owned(),
    }
}

impl Exports for RepositoryExports {
    fn list_exports(&self) -> Result<Vec<ExportInfo>, DeviceError> {
        Ok(self
            .points
            .iter()
            .map(|(name, point)| described(name, point))
            .collect())
    }

    fn export_info(&self, name: &str) -> Result<ExportInfo, OpenError> {
        self.point(name).map(|(name, point)| described(name, point))
    }

    fn open_export(&self, name: &str, _: Intent) -> Result<Arc<dyn Device>, OpenError> {
        let (_, point) = self.point(name)?;
        let device = PointDevice::open(&self.source, point);
        Ok(Arc::new(
            device.map_err(|error| OpenError::Device(failed(&error)))?,
        ))
    }

    fn revision(&self) -> u64 {
        0
    }
}

impl PointDevice {
    fn open(source: &Arc<Source>, point: &Point) -> Result<Self, BackupError> {
        let reader = source.reader();
        let content = ContentId::parse(&point.content);
        let content = content.ok_or_else(|| {
            reader.damaged(
                format!("point {}", point.id),
                "it names no content".to_owned(),
            )
        })?;
        let (len, mapped) = reader.again_if_missing(|| {
            let view = reader.content(content)?;
            Ok((view.len, view.pages()?))
        })?;
        Ok(Self {
            source: Arc::clone(source),
            content,
            len,
            mapped,
        })
    }

    /// The part of page `index` that lies in `range`, run by run: where in the disk, and what.
    fn runs(
        &self,
        index: PageIndex,
        range: &Range<u64>,
    ) -> Result<Vec<(Range<u64>, PageEntry)>, BackupError> {
        let chunk_len = self.source.chunk_len;
        let page = self.source.page(self.content, index)?;
        let (first, last) = (
            page_of(chunk_len.index_at(range.start)),
            page_of(chunk_len.index_at(range.end - 1)),
        );
        let start = if first.0 == index { first.1 } else { 0 };
        let end = if last.0 == index {
            last.1 + 1
        } else {
            PAGE_SPAN
        };
        Ok(page
            .runs_in(start, end)
            .map(|run| {
                (
                    bytes_of(chunk_len, index, run.start..run.end_position(), range),
                    run.slot,
                )
            })
            .collect())
    }

    /// The mapped pieces of `range` in order; what lies between them reads as zeros.
    fn pieces(
        &self,
        range: &Range<u64>,
        visit: &mut dyn FnMut(Range<u64>, PageEntry) -> Result<(), BackupError>,
    ) -> Result<(), BackupError> {
        let chunk_len = self.source.chunk_len;
        let mut next = self
            .mapped
            .next_from(page_of(chunk_len.index_at(range.start)).0);
        while let Some(index) =
            next.filter(|index| chunk_len.offset_of(page_start(*index)) < range.end)
        {
            for (part, slot) in self.runs(index, range)? {
                visit(part, slot)?;
            }
            next = self.mapped.next_from(PageIndex(index.0 + 1));
        }
        Ok(())
    }

    fn fill(&self, buffer: &mut [u8], offset: u64) -> Result<(), BackupError> {
        buffer.fill(0);
        let range = offset..offset + buffer.len() as u64;
        if range.is_empty() {
            return Ok(());
        }
        self.pieces(&range, &mut |part, slot| match slot {
            PageEntry::Chunk(first) => {
                // A run names its first chunk; the part may begin inside of one.
                let place = (part.start - offset) as usize..(part.end - offset) as usize;
                self.source.copy(first, part.start, &mut buffer[place])
            }
            _ => Ok(()),
        })
    }
}

impl Source {
    fn reader(&self) -> Reader<'_> {
        Reader::with(&self.repository, &self.held)
    }

    /// The page that a content shows, with the parents' entries where its own map has none.
    fn page(&self, content: ContentId, index: PageIndex) -> Result<Arc<Page>, BackupError> {
        if let Some(page) = self.pages.get(&(content, index)) {
            return Ok(page);
        }
        let reader = self.reader();
        let page = reader.again_if_missing(|| reader.content(content)?.page(index))?;
        let page = Arc::new(page);
        self.pages.insert((content, index), Arc::clone(&page));
        Ok(page)
    }

    /// Fills `buffer` with what is stored from `first` on, which is the chunk that holds the disk's
    /// byte `offset`.
    fn copy(&self, first: ChunkId, offset: u64, buffer: &mut [u8]) -> Result<(), BackupError> {
        let len = self.chunk_len.as_usize();
        let (mut chunk, mut skip, mut at) =
            (first, (offset % self.chunk_len.byte_len()) as usize, 0);
        let reader = self.reader();
        while at < buffer.len() {
            let count = (len - skip).min(buffer.len() - at);
            let part = &mut buffer[at..at + count];
            let frame = reader.frame(chunk)?;
            let (_, ordinal) = split_address(chunk);
            let bytes = frame.chunk(ordinal).ok_or_else(|| {
                reader.damaged(format!("chunk {ordinal}"), "its frame lacks it".to_owned())
            })?;
            part.copy_from_slice(&bytes[skip..skip + count]);
            (chunk, skip, at) = (chunk.advance_by(1), 0, at + count);
        }
        Ok(())
    }
}

impl Device for PointDevice {
    fn len(&self) -> u64 {
        self.len
    }

    fn is_read_only(&self) -> bool {
        true
    }

    fn preferred_len(&self) -> u32 {
        self.source.chunk_len.byte_len() as u32
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        self.checked_range(offset, buffer.len() as u64)?;
        self.fill(buffer, offset).map_err(|error| failed(&error))
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn allocation(
        &self,
        offset: u64,
        len: u64,
        count_max: usize,
    ) -> Result<Vec<TypedRange<AllocationStatus>>, DeviceError> {
        let range = self.checked_range(offset, len)?;
        let (mut out, mut at) = (RangeCollector::new(count_max), range.start);
        let mapped = self.pieces(&range, &mut |part, slot| {
            out.push_range(at..part.start, AllocationStatus::Hole);
            at = part.end;
            out.push_range(
                part,
                if matches!(slot, PageEntry::Chunk(_)) {
                    AllocationStatus::Data
                } else {
                    AllocationStatus::Hole
                },
            );
            Ok(())
        });
        mapped.map_err(|error| failed(&error))?;
        out.push_range(at..range.end, AllocationStatus::Hole);
        Ok(out.into_ranges())
    }

    fn comparable(&self) -> Vec<String> {
        Vec::new()
    }

    fn changes(
        &self,
        since: &str,
        _: u64,
        _: u64,
        _: usize,
    ) -> Result<Vec<TypedRange<bool>>, DeviceError> {
        Err(DeviceError::Io(format!(
            "a repository does not compare with {since}"
        )))
    }
}

fn failed(error: &BackupError) -> DeviceError {
    DeviceError::Io(error.to_string())
}
