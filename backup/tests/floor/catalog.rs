//! The catalog over a small repository, whole, damaged and unreachable.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use vellum_backup::catalog::{Catalog, CatalogError};
use vellum_backup::format::{RepositoryFile, address, read_pack};
use vellum_backup::objects::memory::{Effect, Fault, Memory, Request};
use vellum_backup::objects::{ObjectErrorKind, ObjectKind, ObjectName, Objects, list_kind};
use vellum_backup::seal::{Sealer, Secrets};

use crate::sample::{CHUNK_LEN, Sample, build};

struct Fixture {
    objects: Memory,
    sealer: Arc<Sealer>,
    sample: Sample,
}

fn fixture(is_encrypted: bool) -> Fixture {
    let file = RepositoryFile::new(is_encrypted, CHUNK_LEN as u32).expect("random bytes");
    let secrets = Secrets::generate().expect("random bytes");
    let sealer = Arc::new(if is_encrypted {
        Sealer::encrypted(file.id, &secrets)
    } else {
        Sealer::plain(file.id)
    });
    let objects = Memory::new();
    let sample = build(&objects, &file, &sealer, &mut crate::random());
    Fixture {
        objects,
        sealer,
        sample,
    }
}

impl Fixture {
    fn catalog(&self, objects: &Memory) -> Catalog {
        Catalog::new(
            Arc::new(objects.clone()),
            self.sealer.clone(),
            CHUNK_LEN as u32,
            None,
        )
    }

    fn indexes(&self) -> BTreeSet<vellum_backup::objects::ObjectId> {
        self.sample.indexes.iter().copied().collect()
    }

    /// Reads every chunk through a new catalog: how many came, all of them right, and the errors of
    /// the others.
    fn read_all(&self, objects: &Memory) -> Result<(usize, Vec<CatalogError>), CatalogError> {
        let catalog = self.catalog(objects);
        catalog.refresh(&self.indexes(), HashSet::new())?;
        let (mut read, mut errors) = (0, Vec::new());
        for (segment, ordinal, expected) in &self.sample.chunks {
            let place = catalog
                .locate(address(catalog.number_of(*segment), *ordinal))
                .expect("every chunk has a place");
            match catalog.read_frame(&place) {
                Ok(frame) => {
                    assert_eq!(
                        frame.chunk(*ordinal),
                        Some(expected.as_slice()),
                        "a wrong byte got through"
                    );
                    read += 1;
                }
                Err(error) => errors.push(error),
            }
        }
        Ok((read, errors))
    }
}

#[test]
fn every_chunk_is_found_alone_and_with_its_neighbours() {
    for is_encrypted in [false, true] {
        let fixture = fixture(is_encrypted);
        let (read, errors) = fixture.read_all(&fixture.objects).expect("indexes open");
        assert!(errors.is_empty() && read == fixture.sample.chunks.len());

        let catalog = fixture.catalog(&fixture.objects);
        catalog
            .refresh(&fixture.indexes(), HashSet::new())
            .expect("indexes open");
        let (segment, ..) = fixture.sample.chunks[0];
        let number = catalog.number_of(segment);
        let first = catalog.locate(address(number, 0)).expect("there");
        let mut places: Vec<_> = (0..200)
            .filter_map(|at| catalog.locate(address(number, at)))
            .filter(|place| place.pack == first.pack)
            .collect();
        places.dedup();
        assert!(places.len() > 1);
        let frames = catalog.read_frames(&places).expect("frames open");
        for (place, frame) in places.iter().zip(&frames) {
            let alone: Vec<_> = catalog
                .read_frame(place)
                .expect("a frame opens")
                .chunks()
                .map(|(at, chunk)| (at, chunk.to_vec()))
                .collect();
            assert_eq!(
                frame
                    .chunks()
                    .map(|(at, chunk)| (at, chunk.to_vec()))
                    .collect::<Vec<_>>(),
                alone
            );
        }
        assert_eq!(
            catalog.locate(address(number, 41)),
            None,
            "a collection dropped it"
        );
        assert_eq!(catalog.locate(address(77, 0)), None, "no such segment");
    }
}

#[test]
fn names_of_a_segment_in_two_index_objects_are_all_seen() {
    let fixture = fixture(true);
    let catalog = fixture.catalog(&fixture.objects);
    catalog
        .refresh(&fixture.indexes(), HashSet::new())
        .expect("indexes open");
    let mut seen = Vec::new();
    catalog
        .for_each_segment(|number, id, entry| {
            assert_eq!(catalog.segment_of(number), Some(id));
            seen.extend(entry.chunks().map(|(ordinal, hash)| (id, ordinal, *hash)));
            Ok::<(), CatalogError>(())
        })
        .expect("indexes open");
    let mut expected: Vec<_> = fixture
        .sample
        .chunks
        .iter()
        .map(|(id, at, chunk)| (*id, *at, vellum_core::hash::ChunkHash::of_chunk(chunk)))
        .collect();
    seen.sort_unstable();
    expected.sort_unstable();
    assert_eq!(seen, expected);
    for (id, at, hash) in expected {
        assert_eq!(
            catalog
                .names(catalog.number_of(id))
                .expect("names")
                .hash(at),
            Some(&hash)
        );
    }
}

#[test]
fn an_index_that_counts_no_more_takes_its_places_along() {
    let fixture = fixture(false);
    let catalog = fixture.catalog(&fixture.objects);
    catalog
        .refresh(&fixture.indexes(), HashSet::new())
        .expect("indexes open");
    let last: BTreeSet<_> = fixture.sample.indexes[1..].iter().copied().collect();
    let (segment, ordinal, _) = fixture.sample.chunks[0];
    let wanted = address(catalog.number_of(segment), ordinal);
    let place = catalog.locate(wanted).expect("there");
    catalog
        .refresh(&fixture.indexes(), [place.pack].into())
        .expect("nothing new");
    assert!(
        catalog
            .locate(wanted)
            .expect("condemned is still readable")
            .is_condemned
    );
    catalog.refresh(&last, HashSet::new()).expect("nothing new");
    assert_eq!(catalog.locate(wanted), None);
    assert_eq!(
        catalog.segment_of(catalog.number_of(segment)),
        Some(segment),
        "numbers stay"
    );
    catalog
        .refresh(&fixture.indexes(), HashSet::new())
        .expect("indexes open");
    assert!(
        catalog
            .read_frame(&catalog.locate(wanted).expect("back"))
            .is_ok()
    );
}

#[test]
fn index_objects_are_fetched_once_and_a_damaged_copy_is_fetched_again() {
    let fixture = fixture(true);
    let folder = tempfile::tempdir().expect("a folder");
    let client = fixture.objects.clone();
    let open = || {
        let catalog = Catalog::new(
            Arc::new(client.clone()),
            fixture.sealer.clone(),
            CHUNK_LEN as u32,
            Some(folder.path().join("indexes")),
        );
        catalog
            .refresh(&fixture.indexes(), HashSet::new())
            .expect("indexes open");
    };
    open();
    let files: Vec<_> = std::fs::read_dir(folder.path().join("indexes"))
        .expect("kept")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    assert_eq!(files.len(), fixture.sample.indexes.len());
    let everything = fixture.objects.snapshot();
    fixture
        .objects
        .replace_all(std::collections::BTreeMap::new());
    open();
    fixture.objects.replace_all(everything);
    std::fs::write(&files[0], b"damaged").expect("a file can be written");
    open();
}

#[test]
fn objects_put_in_each_others_places_never_give_a_wrong_byte() {
    for is_encrypted in [false, true] {
        let fixture = fixture(is_encrypted);
        let whole = fixture.objects.snapshot();
        let packs: Vec<&String> = whole
            .keys()
            .filter(|name| name.starts_with(ObjectKind::Pack.prefix()))
            .collect();
        let mut swapped = whole.clone();
        swapped.insert(packs[0].clone(), whole[packs[1]].clone());
        swapped.insert(packs[1].clone(), whole[packs[0]].clone());
        fixture.objects.replace_all(swapped);
        let (read, errors) = fixture.read_all(&fixture.objects).expect("indexes open");
        assert!(!errors.is_empty() && read < fixture.sample.chunks.len());
        assert!(
            errors
                .iter()
                .all(|error| error.to_string().contains("packs/")
                    || error.to_string().contains("range")),
            "{errors:?}"
        );

        let indexes: Vec<&String> = whole
            .keys()
            .filter(|name| name.starts_with(ObjectKind::Index.prefix()))
            .collect();
        let mut swapped = whole.clone();
        swapped.insert(indexes[0].clone(), whole[indexes[1]].clone());
        fixture.objects.replace_all(swapped);
        assert!(matches!(
            fixture.read_all(&fixture.objects),
            Err(CatalogError::Seal { .. })
        ));

        let mut cut = whole.clone();
        cut.insert(
            packs[0].clone(),
            whole[packs[0]][..whole[packs[0]].len() / 2].into(),
        );
        fixture.objects.replace_all(cut);
        assert!(
            !fixture
                .read_all(&fixture.objects)
                .expect("indexes open")
                .1
                .is_empty()
        );
    }
}

#[test]
fn a_flipped_bit_in_any_pack_is_found_and_the_rest_is_read() {
    let fixture = fixture(false);
    let whole = fixture.objects.snapshot();
    let mut random = crate::random();
    let packs: Vec<&String> = whole
        .keys()
        .filter(|name| name.starts_with(ObjectKind::Pack.prefix()))
        .collect();
    for _ in 0..40 {
        let name = packs[random.usize(..packs.len())];
        let mut bytes = whole[name].to_vec();
        let bit = random.usize(..bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let mut damaged = whole.clone();
        damaged.insert(name.clone(), bytes.into());
        fixture.objects.replace_all(damaged);
        let (read, errors) = fixture.read_all(&fixture.objects).expect("indexes open");
        assert_eq!(read + errors.len(), fixture.sample.chunks.len());
        assert!(errors.len() <= 24, "one frame at most: {}", errors.len());
        assert!(
            errors
                .iter()
                .all(|error| error.to_string().contains(name.as_str())),
            "{errors:?}"
        );
    }
}

/// A request may fail in any way: what is read is right, and once the place is well everything is
/// there. A frame that comes out wrong is asked for again.
#[test]
fn every_fault_at_every_request_is_told_and_leaves_nothing_behind() {
    let fixture = fixture(true);
    let effects = [
        Effect::Refused(ObjectErrorKind::Passing),
        Effect::Refused(ObjectErrorKind::Missing),
        Effect::AnswerLost,
        Effect::Truncated,
        Effect::Flipped,
        Effect::Dead,
    ];
    for effect in effects {
        for request in [Request::Get, Request::GetRange] {
            for after in 0.. {
                let client = fixture.objects.clone();
                client.fail(Fault {
                    request: Some(request),
                    after,
                    effect,
                });
                let objects = Arc::new(client);
                let catalog = Catalog::new(
                    objects.clone(),
                    fixture.sealer.clone(),
                    CHUNK_LEN as u32,
                    None,
                );
                let mut failures =
                    usize::from(catalog.refresh(&fixture.indexes(), HashSet::new()).is_err());
                failures += read_with(&catalog, &fixture.sample);
                let log = objects.take_log().into_iter();
                let asked = log.filter(|(other, _)| *other == request).count() as u64;
                objects.heal();
                catalog
                    .refresh(&fixture.indexes(), HashSet::new())
                    .expect("the place is well again");
                assert_eq!(
                    read_with(&catalog, &fixture.sample),
                    0,
                    "{effect:?} at {request:?} {after}"
                );
                if asked <= after {
                    assert!(after > 1, "{effect:?} was never met");
                    break;
                }
                let is_again = (effect, request) == (Effect::Flipped, Request::GetRange);
                assert_eq!(failures == 0, is_again, "{effect:?} at {request:?} {after}");
            }
        }
    }
}

/// The number of chunks that cannot be read; those that can are right.
fn read_with(catalog: &Catalog, sample: &Sample) -> usize {
    let is_missing =
        |(segment, ordinal, expected): &&(vellum_backup::format::SegmentId, u32, Vec<u8>)| {
            let place = catalog.locate(address(catalog.number_of(*segment), *ordinal));
            let Some(Ok(frame)) = place.map(|place| catalog.read_frame(&place)) else {
                return true;
            };
            assert_eq!(frame.chunk(*ordinal), Some(expected.as_slice()));
            false
        };
    sample.chunks.iter().filter(is_missing).count()
}

#[test]
fn puts_whose_answer_is_lost_can_be_repeated_and_other_bytes_are_refused() {
    let objects = Memory::new();
    objects.fail(Fault {
        request: Some(Request::Put),
        after: 0,
        effect: Effect::AnswerLost,
    });
    assert!(objects.put("keys/x", b"one").is_err());
    objects.put("keys/x", b"one").expect("the same again");
    assert!(objects.put("keys/x", b"two").is_err());
    assert_eq!(objects.get("keys/x").expect("there"), b"one");
}

#[test]
fn hostile_names_of_a_listing_are_counted_and_passed_over() {
    let objects = Memory::new();
    let id = vellum_backup::objects::ObjectId::of(b"x");
    objects.plant(&format!("journal/0000000000000001-{id}"), b"x");
    for hostile in [
        "journal/../../etc/passwd",
        "journal/\0",
        "journal/\u{202e}",
        "journal/1",
        &format!("journal/{id}"),
        "journal//",
    ] {
        objects.plant(hostile, b"x");
    }
    let mut seen = Vec::new();
    let strange = list_kind(&objects, ObjectKind::Record, &mut |name, len| {
        seen.push((name, len));
        Ok(())
    });
    assert_eq!(strange.expect("a listing"), 6);
    assert_eq!(seen, [(ObjectName::Record { counter: 1, id }, 1)]);
}

#[test]
fn an_index_that_was_lost_can_be_made_again_from_the_packs() {
    for is_encrypted in [false, true] {
        let fixture = fixture(is_encrypted);
        let catalog = fixture.catalog(&fixture.objects);
        for id in &fixture.sample.indexes {
            let index = catalog.index(id).expect("an index opens");
            for pack in &index.packs {
                let stored = fixture
                    .objects
                    .get(&ObjectName::Pack(pack.id).to_string())
                    .expect("there");
                let (entry, names) = read_pack(&fixture.sealer, pack.id, &stored, CHUNK_LEN as u32)
                    .expect("a pack opens");
                assert_eq!(entry, *pack);
                assert!(!names.is_empty());
                assert!(names.iter().all(|(segment, ordinal, hash)| {
                    index.segments[segment].hash(*ordinal) == Some(hash)
                }));
            }
        }
    }
}
