//! A small repository, written by hand: what its points show is known without reading it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use vellum_backup::format::{
    Frame, IndexObject, MapBlob, MapsWriter, PackEntry, PackWriter, Presence, RepositoryFile,
    SealedPack, SegmentEntry, SegmentId, address,
};
use vellum_backup::objects::{ObjectId, ObjectName, Objects};
use vellum_backup::seal::{SealedKind, Sealer};
use vellum_core::hash::ChunkHash;
use vellum_core::identity::ContentId;
use vellum_core::page::{PAGE_SPAN, Page, PageEntry, Run};
use vellum_core::units::PageIndex;
use vellum_store::{Compression, codec};

pub(crate) const CHUNK_LEN: usize = 4096;
/// Positions of the sample's disks: more than two pages.
const BASE_COUNT: usize = 2100;
const CHILD_COUNT: usize = 2300;
/// The child sees only this much of its parent: it shrank, and grew again.
const VISIBLE: usize = 1900;
const SEGMENT_COUNT: u32 = 2;
const CHUNK_COUNT: u32 = 150;

/// A repository's secrets and what it must show.
pub(crate) struct Sample {
    /// The disks by their names, as people write them.
    pub(crate) disks: BTreeMap<String, Vec<u8>>,
    /// The index objects that count.
    pub(crate) indexes: Vec<ObjectId>,
    /// Every chunk that is there: segment, ordinal and bytes.
    pub(crate) chunks: Vec<(SegmentId, u32, Vec<u8>)>,
}

struct Builder<'a> {
    objects: &'a dyn Objects,
    sealer: &'a Sealer,
    random: &'a mut fastrand::Rng,
    segments: Vec<SegmentId>,
    /// The chunks by segment and ordinal; those that are not there are None.
    chunks: Vec<Vec<Option<Vec<u8>>>>,
    counter: u64,
    parents: Vec<String>,
}

/// Puts the sample.
pub(crate) fn build(
    objects: &dyn Objects,
    file: &RepositoryFile,
    sealer: &Sealer,
    random: &mut fastrand::Rng,
) -> Sample {
    objects
        .put(&ObjectName::Repository.to_string(), &file.encode())
        .expect("put");
    let mut builder = Builder {
        objects,
        sealer,
        random,
        segments: Vec::new(),
        chunks: Vec::new(),
        counter: 0,
        parents: Vec::new(),
    };
    builder.make_chunks();
    let indexes = builder.put_chunks();
    let (base, child) = (ContentId([1; 16]), ContentId([2; 16]));
    let base_map = builder.random_map(BASE_COUNT);
    let child_map = builder.random_map(CHILD_COUNT);
    let (base_len, child_len) = (BASE_COUNT * CHUNK_LEN - 1000, CHILD_COUNT * CHUNK_LEN);
    let base_parts = builder.put_map(base, None, &base_map);
    let child_parts = builder.put_map(child, Some((base, VISIBLE as u64)), &child_map);
    let base_disk = builder.shown(&[], &base_map, base_len);
    let mut seen = base_disk.clone();
    seen.truncate(VISIBLE * CHUNK_LEN);
    let child_disk = builder.shown(&seen, &child_map, child_len);

    let index_names: Vec<String> = indexes.iter().map(ToString::to_string).collect();
    let content = |id: ContentId, parent: Option<ContentId>, len: usize, parts: &Value| {
        let mut content = json!({"id": id.to_string(), "len": len, "parent_visible": VISIBLE, "chunk_len": CHUNK_LEN, "parts": parts});
        parent
            .iter()
            .for_each(|parent| content["parent"] = json!(parent.to_string()));
        content
    };
    builder.put_record(
        "a1",
        json!({"indexes": index_names, "contents": [content(base, None, base_len, &base_parts)],
        "points": [point("10", "old", Some("begun"), base, base_len), point("11", "gone", None, base, base_len)]}),
    );
    builder.put_record(
        "a2",
        json!({"contents": [content(child, Some(base), child_len, &child_parts)],
        "points": [point("12", "web", None, child, child_len)], "described": [words("web", None)]}),
    );
    builder.put_record(
        "a3",
        json!({"forgotten": [{"id": "11".repeat(16), "session": "a1".repeat(16)}],
        "described": [words("older than the point", Some("00"))],
        "fenced": [{"session": "a4".repeat(16), "counted": [], "decided": true}]}),
    );
    builder.put_record("a4", json!({"points": [point("13", "void", None, base, base_len)], "described": [words("void", None)]}));
    let disks = [
        ("web@first".to_owned(), base_disk),
        ("web".to_owned(), child_disk),
    ]
    .into();
    Sample {
        disks,
        indexes,
        chunks: builder.all_chunks(),
    }
}

fn point(id: &str, name: &str, snapshot: Option<&str>, content: ContentId, len: usize) -> Value {
    let mut point = json!({"id": id.repeat(16), "image": "00-1", "name": name, "content": content.to_string(), "len": len, "mode": "normal",
        "time_ms": 1_767_225_600_000_u64});
    snapshot
        .iter()
        .for_each(|snapshot| point["snapshot"] = json!({"name": snapshot, "serial": 1}));
    point
}

/// The description of the first point since it was renamed.
fn words(name: &str, session: Option<&str>) -> Value {
    let mut words = json!({"point": "10".repeat(16), "name": name, "snapshot": "first", "mode": "normal", "time_ms": 1_767_225_600_000_u64});
    session
        .iter()
        .for_each(|session| words["stamp"] = json!({"counter": 1, "session": session.repeat(16)}));
    words
}

impl Builder<'_> {
    fn make_chunks(&mut self) {
        for nth in 0..SEGMENT_COUNT {
            let mut id = [0; 16];
            self.random.fill(&mut id);
            self.segments.push(SegmentId(id));
            // Some were dropped by a collection.
            let is_gone = |ordinal: u32| nth == 0 && (40..44).contains(&ordinal);
            let chunks = (0..CHUNK_COUNT)
                .map(|ordinal| (!is_gone(ordinal)).then(|| random_chunk(self.random)))
                .collect();
            self.chunks.push(chunks);
        }
    }

    fn all_chunks(&self) -> Vec<(SegmentId, u32, Vec<u8>)> {
        let of = |(id, chunks): (&SegmentId, &Vec<Option<Vec<u8>>>)| {
            let there = (0..)
                .zip(chunks.clone())
                .filter_map(|(ordinal, chunk)| Some((ordinal, chunk?)));
            there
                .map(|(ordinal, chunk)| (*id, ordinal, chunk))
                .collect::<Vec<_>>()
        };
        self.segments
            .iter()
            .zip(&self.chunks)
            .flat_map(of)
            .collect()
    }

    /// Puts packs of a few frames each, and two index objects that share a segment.
    fn put_chunks(&mut self) -> Vec<ObjectId> {
        let mut writer = PackWriter::new(400_000);
        let mut packs: Vec<SealedPack> = Vec::new();
        for (segment, chunks) in self.segments.iter().zip(&self.chunks) {
            for (nth, group) in chunks.chunks(24).enumerate() {
                let compression =
                    [Compression::Zstd(3), Compression::Lz4, Compression::None][nth % 3];
                let there: Vec<u32> = (0..)
                    .zip(group)
                    .filter_map(|(at, chunk)| chunk.as_ref().map(|_| at))
                    .collect();
                let (codec, payload) = codec::compress_frame(
                    compression,
                    &group
                        .iter()
                        .flatten()
                        .flatten()
                        .copied()
                        .collect::<Vec<u8>>(),
                );
                let first = nth as u32 * 24 + there[0];
                let presence =
                    Presence::of(&there.iter().map(|at| at - there[0]).collect::<Vec<_>>());
                let frame = Frame {
                    segment: *segment,
                    first,
                    presence,
                    codec,
                    payload: &payload,
                };
                let frame = PackWriter::seal_frame(self.sealer, &frame).expect("sealed");
                packs.extend(writer.add(self.sealer, frame).expect("sealed"));
            }
        }
        packs.extend(writer.finish(self.sealer).expect("sealed"));
        assert!(packs.len() > 1, "one pack would show little");
        packs
            .iter()
            .for_each(|pack| self.put(ObjectName::Pack(pack.object.id), &pack.object.bytes));
        let (some, others) = packs.split_at(packs.len() / 2);
        [some, others]
            .iter()
            .map(|packs| self.put_index(packs.iter().map(|pack| pack.entry.clone()).collect()))
            .collect()
    }

    fn put_index(&self, packs: Vec<PackEntry>) -> ObjectId {
        let mut names: BTreeMap<SegmentId, Vec<(u32, ChunkHash)>> = BTreeMap::new();
        for frame in packs.iter().flat_map(|pack| &pack.frames) {
            let chunks = &self.chunks[self
                .segments
                .iter()
                .position(|id| *id == frame.segment)
                .expect("ours")];
            let hash = |ordinal: u32| {
                ChunkHash::of_chunk(chunks[ordinal as usize].as_ref().expect("it is there"))
            };
            names
                .entry(frame.segment)
                .or_default()
                .extend(frame.ordinals().map(|ordinal| (ordinal, hash(ordinal))));
        }
        names.values_mut().for_each(|names| names.sort_unstable());
        let segments = names
            .iter()
            .map(|(id, names)| (*id, SegmentEntry::new(names)))
            .collect();
        let index = IndexObject { segments, packs };
        let object = index.seal(self.sealer).expect("sealed").object;
        self.put(ObjectName::Index(object.id), &object.bytes);
        object.id
    }

    fn random_map(&mut self, count: usize) -> Vec<PageEntry> {
        let mut map = Vec::new();
        while map.len() < count {
            let len = self.random.usize(1..60).min(count - map.len());
            let segment = self.random.u32(..SEGMENT_COUNT);
            let first = self.random.u32(..CHUNK_COUNT - 60);
            let slot = match self.random.u8(..4) {
                0 => PageEntry::Absent,
                1 => PageEntry::Zero,
                _ => PageEntry::Chunk(address(segment, first)),
            };
            let there = (0..len as u16)
                .map(|at| slot.advance_by(at))
                .map(|slot| match slot {
                    PageEntry::Chunk(_) if self.chunk(slot).is_none() => PageEntry::Zero,
                    other => other,
                });
            map.extend(there);
        }
        // A page that says nothing, between others.
        map[1024..2048].fill(PageEntry::Absent);
        map
    }

    fn chunk(&self, slot: PageEntry) -> Option<&Vec<u8>> {
        let PageEntry::Chunk(id) = slot else {
            return None;
        };
        let (segment, ordinal) = vellum_backup::format::split_address(id);
        self.chunks[segment as usize][ordinal as usize].as_ref()
    }

    /// Puts a map in two parts of one object; says where they are, as records do.
    fn put_map(
        &mut self,
        content: ContentId,
        parent: Option<(ContentId, u64)>,
        map: &[PageEntry],
    ) -> Value {
        let pages: Vec<(PageIndex, Page)> = (0..)
            .map(PageIndex)
            .zip(map.chunks(PAGE_SPAN.into()).map(page))
            .filter(|(_, page)| !page.is_empty())
            .collect();
        let mut writer = MapsWriter::default();
        // Few seeds draw a map of one page, or none.
        let (first, rest) = pages.split_at(pages.len().min(1));
        let halves: Vec<_> = [first, rest]
            .into_iter()
            .filter(|half| !half.is_empty())
            .collect();
        for half in &halves {
            let blob = MapBlob::from_pages(content, parent, half, |number| {
                self.segments[number as usize]
            });
            writer.add(self.sealer, &blob).expect("sealed");
        }
        let maps = writer.finish(self.sealer).expect("sealed");
        self.put(ObjectName::Maps(maps.object.id), &maps.object.bytes);
        let part = |(half, range): (&&[(PageIndex, Page)], &(u64, u64))| json!({"pages": [half[0].0.0, half[half.len() - 1].0.0], "object": maps.object.id.to_string(), "range": [range.0, range.1]});
        halves.iter().zip(&maps.ranges).map(part).collect()
    }

    /// The content of a map over `below`.
    fn shown(&self, below: &[u8], map: &[PageEntry], len: usize) -> Vec<u8> {
        let mut disk = below.to_vec();
        disk.resize(map.len() * CHUNK_LEN, 0);
        for (chunk, slot) in disk.chunks_mut(CHUNK_LEN).zip(map) {
            match slot {
                PageEntry::Absent => {}
                PageEntry::Zero => chunk.fill(0),
                PageEntry::Chunk(_) => {
                    chunk.copy_from_slice(self.chunk(*slot).expect("maps name what is there"));
                }
            }
        }
        disk.truncate(len);
        disk
    }

    fn put_record(&mut self, session: &str, mut record: Value) {
        self.counter += 1;
        for (field, value) in [
            ("version", json!(1)),
            ("counter", json!(self.counter)),
            ("parents", json!(self.parents)),
            ("session", json!(session.repeat(16))),
            ("writer", json!("test")),
            ("time_ms", json!(0)),
        ] {
            record[field] = value;
        }
        let object = self
            .sealer
            .seal(SealedKind::Record, record.to_string().as_bytes())
            .expect("sealed");
        let name = ObjectName::Record {
            counter: self.counter,
            id: object.id,
        };
        self.put(name, &object.bytes);
        self.parents = vec![name.to_string().replace("journal/", "")];
    }

    fn put(&self, name: ObjectName, bytes: &[u8]) {
        self.objects.put(&name.to_string(), bytes).expect("put");
    }
}

fn page(slots: &[PageEntry]) -> Page {
    let mut page = Page::new();
    (0..).zip(slots).for_each(|(start, slot)| {
        page.push_run(Run {
            start,
            len: 1,
            slot: *slot,
        });
    });
    page
}

/// Half of it compresses.
fn random_chunk(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut chunk = vec![random.u8(..); CHUNK_LEN];
    random.fill(&mut chunk[..CHUNK_LEN / 2]);
    chunk
}
