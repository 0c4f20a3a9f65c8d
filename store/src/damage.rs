//! Tests of damage to records where RocksDB's own checksums do not look: every kind of record is
//! changed through the database, and every read must be right or an error that names image and
//! range.

use std::ops::Range;

use vellum_core::frame::{FrameCodec, FrameHeader, FramePayload, parse_frame_key};
use vellum_core::name::Name;
use vellum_core::page::{Page, parse_page_key};
use vellum_core::tree::NodeRef;

use crate::database::{Batch, Durability, Family};
use crate::{
    Access, CheckOptions, ImageInput, ImportRequest, ImportTarget, Store, StoreError,
    StoreParameters, Unwatched,
};

type Records = Vec<(Vec<u8>, Vec<u8>)>;

struct Bench {
    store: Option<Store>,
    /// Images, by name, with their content.
    images: Vec<(String, Vec<u8>)>,
    /// Removed when the store is closed.
    folder: tempfile::TempDir,
}

fn import(
    store: &Store,
    text: &str,
    parent: Option<NodeRef>,
    bytes: &[u8],
) -> Result<NodeRef, StoreError> {
    let request = ImportRequest {
        target: ImportTarget::New {
            name: Name::new(text).expect("a name"),
            parent,
        },
        snapshot: None,
    };
    let input = ImageInput::of_stream(
        Box::new(std::io::Cursor::new(bytes.to_vec())),
        "bytes".to_owned(),
    );
    store
        .import(input, &request, &Unwatched)
        .map(|report| report.node)
}

impl Bench {
    /// A parent, and a child that differs from it in data and in zeros. Frames hold four chunks.
    fn new() -> Self {
        let memory = std::path::Path::new("/dev/shm");
        let made = if memory.is_dir() {
            tempfile::TempDir::new_in(memory)
        } else {
            tempfile::TempDir::new()
        };
        let folder = made.expect("a folder for a test can be made");
        let dir = folder.path().join("store");
        Store::init_dir(
            &dir,
            StoreParameters {
                frame_len: 16 << 10,
                ..StoreParameters::DEFAULT
            },
        )
        .expect("made");
        let mut parent = vec![0; 100_000];
        fastrand::Rng::with_seed(1).fill(&mut parent[..70_000]);
        let mut child = parent.clone();
        child[8192..20_000].fill(0);
        fastrand::Rng::with_seed(2).fill(&mut child[90_000..]);
        let mut bench = Self {
            folder,
            store: None,
            images: vec![("parent".to_owned(), parent), ("child".to_owned(), child)],
        };
        bench.reopen().expect("a whole store opens");
        let root = import(bench.store(), "parent", None, &bench.images[0].1).expect("imported");
        import(bench.store(), "child", Some(root), &bench.images[1].1).expect("imported");
        bench
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("open")
    }

    /// Opens the store afresh: nothing is cached, records are read again.
    fn reopen(&mut self) -> Result<(), StoreError> {
        self.store = None;
        self.store = Some(Store::open_dir(
            &self.folder.path().join("store"),
            Access::ReadWrite,
            "test",
        )?);
        Ok(())
    }

    fn records(&self, family: Family) -> Records {
        let mut scan = self.store().inner.database.scan_from(family, &[]);
        let mut records = Vec::new();
        while let Some((key, value)) = scan.next().expect("readable") {
            records.push((key.to_vec(), value.to_vec()));
        }
        records
    }

    fn put(&self, family: Family, records: &[(Vec<u8>, Vec<u8>)]) {
        let mut batch = Batch::default();
        records
            .iter()
            .for_each(|(key, value)| batch.put_record(family, key.clone(), value.clone()));
        self.store()
            .inner
            .database
            .write_batch(batch, Durability::Logged)
            .expect("written");
    }

    /// Puts `damaged` in the place of the records that are there, looks at everything, and puts
    /// them back. True if a read failed.
    fn meet(&mut self, family: Family, damaged: &[(Vec<u8>, Vec<u8>)], what: &str) -> bool {
        let whole: Records = self
            .records(family)
            .into_iter()
            .filter(|(key, _)| damaged.iter().any(|(other, _)| other == key))
            .collect();
        self.put(family, damaged);
        let opened = self.reopen();
        let failed = match &opened {
            // A store that does not open cannot be mended through itself: the next bench is a new
            // one.
            Err(StoreError::Damaged(_)) => {
                *self = Self::new();
                return true;
            }
            Err(other) => panic!("{what}: {other:?}"),
            Ok(()) => self.look(what),
        };
        self.put(family, &whole);
        self.reopen().expect("a whole store opens");
        failed
    }

    fn look(&self, what: &str) -> bool {
        let mut failed = false;
        for (name, bytes) in &self.images {
            let disk = self
                .store()
                .find_node(name)
                .and_then(|node| self.store().open_disk(node))
                .expect("names are whole");
            for (nth, part) in bytes.chunks(4096).enumerate() {
                let range = (nth * 4096) as u64..(nth * 4096 + part.len()) as u64;
                let mut seen = vec![0xaa; part.len()];
                match disk.read_at(&mut seen, range.start) {
                    Ok(()) => assert!(seen == part, "{what}: wrong bytes in {name} at {range:?}"),
                    Err(error) => {
                        assert_names(&error, name, &range, what);
                        failed = true;
                    }
                }
            }
        }
        let report = self.store().check(
            CheckOptions {
                read_data: true,
                subset: None,
            },
            &Unwatched,
        );
        let found = report.map_or(true, |report| {
            report.findings.iter().any(|finding| finding.is_damage)
        });
        assert!(
            found || !failed,
            "{what}: reads fail and the check finds nothing"
        );
        failed
    }
}

fn assert_names(error: &StoreError, name: &str, range: &Range<u64>, what: &str) {
    let StoreError::Damaged(damage) = error else {
        panic!("{what}: {error:?}")
    };
    let (image, hit) = damage
        .image
        .as_ref()
        .unwrap_or_else(|| panic!("{what}: {damage} names no image"));
    assert!(
        image == name && hit.start < range.end && hit.end > range.start,
        "{what}: {damage} for {name} {range:?}"
    );
}

#[test]
fn flipped_bits_in_records_never_give_wrong_bytes() {
    let mut bench = Bench::new();
    let mut random = fastrand::Rng::with_seed(3);
    let (mut flips, mut failed) = (0, 0);
    for (family, count) in [
        (Family::Frames, 60),
        (Family::Headers, 60),
        (Family::Pages, 60),
        (Family::Layers, 20),
        (Family::Names, 20),
        (Family::Meta, 20),
    ] {
        for _ in 0..count {
            let records = bench.records(family);
            let (key, mut value) = records[random.usize(..records.len())].clone();
            let bit = random.usize(..value.len() * 8);
            value[bit / 8] ^= 1 << (bit % 8);
            let what = format!(
                "bit {bit} of {} {}",
                family.family_name(),
                key.escape_ascii()
            );
            failed += u32::from(bench.meet(family, &[(key, value)], &what));
            flips += 1;
        }
    }
    println!("damage: {flips} bits flipped in records, {failed} met by an open or a read");
    assert!(
        failed * 10 > flips * 9,
        "nearly every record is read by something: {failed} of {flips}"
    );
}

/// A checksum stops chance. What is sealed again is stopped by the chunks' names.
#[test]
fn content_that_does_not_have_its_name_is_refused_whatever_its_checksums_say() {
    let mut bench = Bench::new();
    for (key, value) in bench.records(Family::Frames) {
        let first = parse_frame_key(&key).expect("a key");
        let payload = FramePayload::decode(first, &value).expect("whole");
        let mut plain = crate::codec::decompress_frame(
            payload.codec,
            payload.compressed,
            payload.plain_len as usize,
        )
        .expect("whole");
        let at = plain.len() / 2;
        plain[at] ^= 1;
        let forged = FramePayload {
            codec: FrameCodec::None,
            plain_len: payload.plain_len,
            compressed: &plain,
        }
        .encode(first);
        assert!(bench.meet(
            Family::Frames,
            &[(key, forged)],
            &format!("forged frame {first}")
        ));
    }
}

#[test]
fn records_in_each_others_places_are_refused() {
    let mut bench = Bench::new();
    for family in [
        Family::Frames,
        Family::Headers,
        Family::Pages,
        Family::Layers,
    ] {
        let records = bench.records(family);
        let swapped = [
            (records[0].0.clone(), records[1].1.clone()),
            (records[1].0.clone(), records[0].1.clone()),
        ];
        assert!(bench.meet(
            family,
            &swapped,
            &format!("two {} swapped", family.family_name())
        ));
    }
}

/// A page may be sealed for its place and still send a reader to chunks that are not there.
#[test]
fn a_page_that_names_missing_chunks_is_damage_of_its_image() {
    let mut bench = Bench::new();
    for (key, value) in bench.records(Family::Pages) {
        let (layer, index) = parse_page_key(&key).expect("a key");
        let mut page = Page::decode(layer, index, &value).expect("whole");
        let mut run = *page.runs().last().expect("it says something");
        run.slot = vellum_core::page::PageEntry::Chunk(vellum_core::units::ChunkId(1 << 30));
        page.set_run(run);
        assert!(bench.meet(
            Family::Pages,
            &[(key, page.encode(layer, index))],
            "a page of missing chunks"
        ));
    }
}

/// The index is a hint: a wrong entry costs space, never content.
#[test]
fn a_wrong_index_entry_never_gives_another_chunk() {
    let mut bench = Bench::new();
    let records = bench.records(Family::Index);
    let rotated: Records = records
        .iter()
        .zip(records.iter().cycle().skip(1))
        .map(|((key, _), (_, value))| (key.clone(), value.clone()))
        .collect();
    bench.put(Family::Index, &rotated);
    bench.reopen().expect("opens");
    let bytes = bench.images[0].1.clone();
    import(bench.store(), "again", None, &bytes).expect("imported");
    bench.images.push(("again".to_owned(), bytes));
    bench.look("after an import with a wrong index");
}

/// Headers say where a chunk is; one that lies about names in a sealed record sends nobody to wrong
/// bytes.
#[test]
fn a_header_with_other_names_gives_no_bytes() {
    let mut bench = Bench::new();
    for (key, value) in bench.records(Family::Headers) {
        let first = parse_frame_key(&key).expect("a key");
        let header = FrameHeader::decode(first, &value).expect("whole");
        let renamed = header
            .chunk_hashes()
            .map(|(id, hash)| (id, vellum_core::hash::ChunkHash::of_chunk(&hash.0)));
        let forged = FrameHeader::new(renamed.collect::<Vec<_>>(), header.payload_len).encode();
        assert!(bench.meet(
            Family::Headers,
            &[(key, forged)],
            &format!("forged header {first}")
        ));
    }
}
