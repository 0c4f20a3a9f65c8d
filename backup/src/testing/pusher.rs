//! A pusher and a reader of disks of one page, for tests of the protocol: real objects, real
//! records, no store.

use std::collections::BTreeMap;
use std::sync::Arc;

use vellum_core::frame::FrameCodec;
use vellum_core::hash::{ChunkHash, hash_chunks};
use vellum_core::identity::ContentId;
use vellum_core::page::{PAGE_SPAN, Page, PageEntry, Run};
use vellum_core::units::{ChunkId, ChunkLen, PageIndex};

use crate::catalog::Catalog;
use crate::contents::{parent_of, read_part, visible_on};
use crate::error::BackupError;
use crate::format::{
    Frame, IndexObject, MapBlob, MapsWriter, PackWriter, Presence, SegmentEntry, address,
    new_segment,
};
use crate::journal::State;
use crate::objects::{ObjectName, Objects};
use crate::prune::{catalog, told};
use crate::record::{Content, IndexParts, MapPart, Point, Record};
use crate::repository::{ClientFolders, Repository, Rollback};
use crate::session::{Session, SessionKind, Writer};

pub(crate) const CHUNK_LEN: usize = 4096;
/// Few, so that frames lose some of their chunks and keep others.
const FRAME_CHUNKS: usize = 4;
/// The content of a disk: the filling of the chunk at each position; zero elsewhere.
pub(crate) type Disk = BTreeMap<u16, u16>;

pub(crate) fn init(objects: Arc<dyn Objects>) -> Repository {
    let chunk_len = ChunkLen::new(CHUNK_LEN as u32).expect("a chunk length");
    Repository::init(objects, chunk_len, None, 0, ClientFolders::default())
        .expect("a new repository")
}

pub(crate) fn open(objects: Arc<dyn Objects>) -> Result<Repository, BackupError> {
    Repository::open(objects, None, ClientFolders::default(), Rollback::Refused)
}

pub(crate) fn writer() -> Writer {
    Writer {
        name: "test".to_owned(),
        host: None,
        time_ms: 0,
        process: None,
    }
}

pub(crate) fn chunk(fill: u16) -> Vec<u8> {
    // Behind its number what no codec makes smaller, so that bytes count as they do for people.
    let mut chunk = vec![0; CHUNK_LEN];
    fastrand::Rng::with_seed(fill.into()).fill(&mut chunk[2..]);
    chunk[..2].copy_from_slice(&fill.to_le_bytes());
    chunk
}

/// A point's id in these tests.
pub(crate) fn point_id(image: &str, serial: u64) -> String {
    blake3::hash(format!("{image} {serial}").as_bytes()).to_hex()[..32].to_owned()
}

/// The base of a push's content.
pub(crate) enum Base {
    /// No base: the whole map.
    None,
    /// The newest point of the image, if its content may be built on.
    Newest,
}

/// Pushes a disk as a snapshot of `image`. Chunks that the repository has are not put again, unless
/// what holds them is condemned.
pub(crate) fn push(
    repository: &Repository,
    image: &str,
    serial: u64,
    time_ms: u64,
    disk: &Disk,
    base: Base,
) -> Result<String, BackupError> {
    let mut session = Session::begin(repository, SessionKind::Push, writer())?;
    let outcome = push_in(&mut session, image, serial, time_ms, disk, base);
    match outcome {
        Ok(id) => session.end().map(|()| id),
        Err(error) => Err(error),
    }
}

fn push_in(
    session: &mut Session<'_>,
    image: &str,
    serial: u64,
    time_ms: u64,
    disk: &Disk,
    base: Base,
) -> Result<String, BackupError> {
    let (repository, state) = (session.repository(), session.state().clone());
    let id = point_id(image, serial);
    if state.has_firm_point(&id) {
        return Ok(id);
    }
    let catalog = catalog(repository)?;
    let parent = match base {
        Base::None => None,
        Base::Newest => newest(&state, image),
    };
    let below = match parent {
        Some(parent) => resolved(repository, &catalog, &state, parent)?,
        None => Page::new(),
    };
    let (wanted, new) = addressed(repository, &catalog, disk)?;
    let mut content_id = [0; 16];
    getrandom::fill(&mut content_id).expect("random bytes");
    let content_id = ContentId(content_id);
    let mut content = Content {
        id: content_id.to_string(),
        parent: parent.map(|parent| parent.to_string()),
        len: u64::from(PAGE_SPAN) * CHUNK_LEN as u64,
        parent_visible: if parent.is_some() {
            PAGE_SPAN.into()
        } else {
            0
        },
        chunk_len: CHUNK_LEN as u32,
        parts: Vec::new(),
    };
    let mut record = Record::default();
    record.name_indexes(put_chunks(repository, &new)?.into_iter().collect());
    let delta = wanted.relative_to(&below, if parent.is_some() { PAGE_SPAN } else { 0 });
    let delta = if parent.is_none() { wanted } else { delta };
    if !delta.is_empty() {
        let blob = MapBlob::from_pages(
            content_id,
            parent.map(|parent| (parent, PAGE_SPAN.into())),
            &[(PageIndex(0), delta)],
            |number| {
                new.segment_of(number)
                    .or_else(|| catalog.segment_of(number))
                    .expect("a segment")
            },
        );
        content.parts.push(put_map_part(repository, &blob)?);
    }
    record.contents.push(content.into());
    record
        .points
        .push(disk_point(&id, image, content_id, time_ms).into());
    session.commit(record)?;
    Ok(id)
}

/// A point of the present state of `image`, which shows `content`.
fn disk_point(id: &str, image: &str, content: ContentId, time_ms: u64) -> Point {
    Point {
        id: id.to_owned(),
        image: image.to_owned(),
        name: image.to_owned(),
        host: None,
        snapshot: None,
        content: content.to_string(),
        len: u64::from(PAGE_SPAN) * CHUNK_LEN as u64,
        mode: "normal".to_owned(),
        origin: None,
        time_ms,
        tags: Vec::new(),
        pinned: false,
        description: String::new(),
        properties: BTreeMap::new(),
    }
}

fn put_map_part(repository: &Repository, blob: &MapBlob) -> Result<MapPart, BackupError> {
    let mut maps = MapsWriter::default();
    maps.add(repository.sealer(), blob)?;
    let sealed = maps.finish(repository.sealer())?;
    let name = ObjectName::Maps(sealed.object.id);
    repository.put(&name, &sealed.object.bytes)?;
    Ok(MapPart {
        pages: (0, 0),
        object: name.to_string(),
        range: sealed.ranges[0],
    })
}

fn newest(state: &State, image: &str) -> Option<ContentId> {
    let points = state.points().filter(|point| point.image == image);
    let built = points
        .filter_map(|point| ContentId::parse(&point.content).map(|id| (point.time_ms, id)))
        .filter(|(_, id)| state.may_build_on(*id));
    built.max().map(|(_, id)| id)
}

/// Chunks that are put now.
pub(crate) struct New {
    segment: vellum_core::identity::SegmentId,
    number: u32,
    fills: Vec<u16>,
}

impl New {
    fn segment_of(&self, number: u32) -> Option<vellum_core::identity::SegmentId> {
        (number == self.number).then_some(self.segment)
    }
}

fn addressed(
    repository: &Repository,
    catalog: &Catalog,
    disk: &Disk,
) -> Result<(Page, New), BackupError> {
    let mut known = BTreeMap::<[u8; 32], ChunkId>::new();
    catalog
        .for_each_segment::<crate::catalog::CatalogError>(|number, _, entry| {
            for (ordinal, hash) in entry.chunks() {
                let chunk = address(number, ordinal);
                if catalog
                    .locate(chunk)
                    .is_some_and(|place| !place.is_condemned)
                {
                    known.insert(hash.0, chunk);
                }
            }
            Ok(())
        })
        .map_err(|error| told(repository, error))?;
    let segment = new_segment()?;
    let mut new = New {
        segment,
        number: catalog.number_of(segment),
        fills: Vec::new(),
    };
    let mut page = Page::new();
    for (position, fill) in disk {
        let hash = name_of(*fill);
        let chunk = *known.entry(hash.0).or_insert_with(|| {
            new.fills.push(*fill);
            address(new.number, new.fills.len() as u32 - 1)
        });
        page.push_run(Run {
            start: *position,
            len: 1,
            slot: PageEntry::Chunk(chunk),
        });
    }
    Ok((page, new))
}

fn name_of(fill: u16) -> ChunkHash {
    hash_chunks(&[&chunk(fill)])
        .into_iter()
        .next()
        .expect("one chunk has one name")
}

fn put_chunks(repository: &Repository, new: &New) -> Result<Option<IndexParts>, BackupError> {
    if new.fills.is_empty() {
        return Ok(None);
    }
    let sealer = repository.sealer();
    let mut pack = PackWriter::default();
    let mut index = IndexObject::default();
    for (first, fills) in new
        .fills
        .chunks(FRAME_CHUNKS)
        .enumerate()
        .map(|(nth, fills)| ((nth * FRAME_CHUNKS) as u32, fills))
    {
        let payload: Vec<u8> = fills.iter().flat_map(|fill| chunk(*fill)).collect();
        let presence = Presence::all(fills.len() as u32);
        let frame = Frame {
            segment: new.segment,
            first,
            presence,
            codec: FrameCodec::None,
            payload: &payload,
        };
        pack.add(sealer, PackWriter::seal_frame(sealer, &frame)?)?;
    }
    let pack = pack.finish(sealer)?.expect("frames were added");
    repository.put(&ObjectName::Pack(pack.object.id), &pack.object.bytes)?;
    let chunks: Vec<(u32, ChunkHash)> = (0..)
        .zip(&new.fills)
        .map(|(ordinal, fill)| (ordinal, name_of(*fill)))
        .collect();
    index
        .segments
        .insert(new.segment, SegmentEntry::new(&chunks));
    index.packs.push(pack.entry);
    let put = repository.put_index(&index)?;
    Ok(Some(IndexParts::of(put.object.id, put.parts)))
}

/// The content of a disk, by the chain of its maps.
fn resolved(
    repository: &Repository,
    catalog: &Catalog,
    state: &State,
    id: ContentId,
) -> Result<Page, BackupError> {
    let chain = state.chain(id);
    let end = chain.last().and_then(|entry| parent_of(&entry.content));
    let lost = |what: String| BackupError::Damaged {
        object: format!("content {id}"),
        reason: what,
        points: Vec::new(),
    };
    if chain.is_empty() || end.is_some() {
        return Err(lost(format!("it ends at {end:?}")));
    }
    let mut below = Page::new();
    for entry in chain.iter().rev() {
        let mut own = Page::new();
        for part in &entry.content.parts {
            for (_, page) in read_part(repository, catalog, &entry.content, part)? {
                own = page;
            }
        }
        below = own.overlay_on(
            &below,
            visible_on(entry.content.parent_visible, PageIndex(0)),
        );
    }
    Ok(below.resolved_at_root())
}

/// The content of a point, every chunk fetched and checked against its name.
pub(crate) fn restore(
    repository: &Repository,
    catalog: &Catalog,
    point: &Point,
) -> Result<Disk, BackupError> {
    let state = repository.state();
    let id = ContentId::parse(&point.content).expect("an identity");
    let page = resolved(repository, catalog, &state, id)?;
    let mut disk = Disk::new();
    for position in 0..PAGE_SPAN {
        let PageEntry::Chunk(chunk) = page.entry_at(position) else {
            continue;
        };
        let place = catalog
            .locate(chunk)
            .ok_or_else(|| told(repository, catalog.unknown(chunk)))?;
        let frame = catalog
            .read_frame(&place)
            .map_err(|error| told(repository, error))?;
        let bytes = frame
            .chunk(crate::format::split_address(chunk).1)
            .expect("the frame holds it");
        disk.insert(position, u16::from_le_bytes([bytes[0], bytes[1]]));
    }
    Ok(disk)
}
