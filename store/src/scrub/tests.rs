//! Tests of the scrub: it reads everything once a round, finds damage, and goes on where it was.

use std::time::Duration;

use vellum_core::frame::frame_key;
use vellum_core::units::ChunkId;

use super::{SCRUB_ROUND, ScrubOptions, ScrubRecord, ScrubReport};
use crate::collect::tests::world::{Content, World};
use crate::database::{Batch, Durability, Family};
use crate::{Store, Unwatched};

const STEP: ScrubOptions = ScrubOptions {
    bytes_max: 1,
    all_cores: false,
    round: SCRUB_ROUND,
};
const ALL: ScrubOptions = ScrubOptions {
    bytes_max: u64::MAX,
    all_cores: true,
    round: SCRUB_ROUND,
};

/// An image of 32 chunks; frames hold four each.
fn world() -> World {
    let mut world = World::new();
    let image = world.create(64);
    world.write(image, 0, &(0..32).map(Some).collect::<Content>());
    world
}

fn whole_round(store: &Store, options: &ScrubOptions) -> (ScrubReport, u32) {
    let (mut report, mut steps) = (ScrubReport::default(), 0);
    while !report.is_over {
        report.add_step(store.scrub(options, &Unwatched).expect("it goes on"));
        steps += 1;
        assert!(steps < 10_000, "a round ends");
    }
    (report, steps)
}

fn flip(store: &Store, family: Family, key: &[u8]) {
    let value = store.inner.database.get(family, key).expect("readable");
    let mut value = value.expect("it is there").to_vec();
    let middle = value.len() / 2;
    value[middle] ^= 1;
    let mut batch = Batch::default();
    batch.put_record(family, key, value);
    let written = store.inner.database.write_batch(batch, Durability::Logged);
    written.expect("room");
    store.inner.chunks.forget_frames();
}

#[test]
fn a_round_reads_every_chunk_in_whatever_steps() {
    let world = world();
    let (report, steps) = whole_round(&world.store, &ALL);
    assert_eq!((report.chunks, steps, report.findings.len()), (32, 1, 0));
    let (again, steps) = whole_round(&world.store, &STEP);
    assert_eq!((again.chunks, again.bytes), (32, report.bytes));
    assert!(steps > 20, "a step reads a record or a frame: {steps}");
    let status = world.store.scrub_status();
    assert_eq!(
        (status.rounds, status.began_s, status.findings),
        (2, None, 0)
    );
    assert!(status.records_read_s.is_some() && status.chunks_read_s.is_some());
    assert_eq!(status.ranges.len(), 1, "{:?}", status.ranges);
    assert_eq!(status.ranges[0].0, 0..status.end);
}

#[test]
fn a_scrub_goes_on_where_another_process_was() {
    let world = world();
    let (whole, _) = whole_round(&world.store, &ALL);
    let mut report = ScrubReport::default();
    while report.chunks < 12 {
        report.add_step(world.store.scrub(&STEP, &Unwatched).expect("it goes on"));
    }
    world.store.keep_scrub();
    let world = world.reopen();
    let (rest, _) = whole_round(&world.store, &ALL);
    assert_eq!(
        report.chunks + rest.chunks,
        32,
        "no chunk twice, none left out"
    );
    assert_eq!(report.bytes + rest.bytes, whole.bytes);
    assert_eq!(world.store.scrub_status().bytes, whole.bytes);
}

#[test]
fn damage_is_found_named_and_not_called_read() {
    let world = world();
    flip(&world.store, Family::Frames, &frame_key(ChunkId(8)));
    flip(&world.store, Family::Index, &{
        let mut scan = world.store.inner.database.scan_from(Family::Index, &[]);
        let (key, _) = scan.next().expect("readable").expect("an entry");
        key.to_vec()
    });
    let (mut report, _) = whole_round(&world.store, &ALL);
    world
        .store
        .name_images(&mut report, &Unwatched)
        .expect("named");
    let hits: Vec<_> = report
        .findings
        .iter()
        .flat_map(|found| &found.images)
        .collect();
    assert_eq!(hits.len(), 1, "{report:?}");
    let chunk_len = crate::collect::tests::world::CHUNK_LEN as u64;
    assert_eq!(hits[0].1, 8 * chunk_len..12 * chunk_len);
    let ranges: Vec<_> = world.store.scrub_status().ranges;
    let covered = |id: u64| ranges.iter().any(|(ids, _)| ids.contains(&id));
    assert!(
        (0..32).all(|id| covered(id) != (8..12).contains(&id)),
        "{ranges:?}"
    );
}

#[test]
fn a_record_is_written_again_from_its_twin() {
    let world = world();
    for family in [Family::Names, Family::Copies] {
        let key = {
            let mut scan = world.store.inner.database.scan_from(family, &[]);
            let (key, _) = scan.next().expect("readable").expect("a record");
            key.to_vec()
        };
        // Past the database's own writing, which writes both.
        let value = world
            .store
            .inner
            .database
            .get(family, &key)
            .expect("readable");
        let mut value = value.expect("it is there").to_vec();
        value[3] ^= 1;
        world.store.inner.database.put_alone(family, &key, &value);
        let (report, _) = whole_round(&world.store, &ALL);
        assert_eq!(
            (report.findings.len(), report.healed),
            (0, 1),
            "{family:?} {report:?}"
        );
        let (report, _) = whole_round(&world.store, &ALL);
        assert_eq!(
            (report.findings.len(), report.healed),
            (0, 0),
            "{family:?} {report:?}"
        );
    }
}

#[test]
fn what_was_not_read_for_long_is_overdue_while_a_scrub_is_kept() {
    let mut record = ScrubRecord::default();
    assert!(
        record.overdue_chunks(1 << 40).is_empty(),
        "none was ever kept"
    );
    let day = 86_400;
    record.begin_round(100 * day, Duration::from_secs(10 * day));
    record.verified.note_read(0..50, 100 * day);
    record.verified.note_read(60..100, 109 * day);
    record.end_round(109 * day);
    for (at, expected) in [(110, 50..60), (121, 0..60), (140, 0..100)] {
        assert_eq!(record.overdue_chunks(at * day), vec![expected], "day {at}");
    }
    assert!(
        record.overdue_chunks(150 * day).is_empty(),
        "nobody keeps it any more"
    );
}

#[test]
fn parity_is_read_in_steps_and_mended() {
    let world = world();
    let store = &world.store;
    let share = crate::parity::ParityShare::new(20);
    store.set_parity_share(share).expect("a share");
    store.protect_all(&Unwatched).expect("protected");
    let groups: Vec<_> = std::fs::read_dir(store.dir().join("parity"))
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "group")
        })
        .collect();
    assert!(!groups.is_empty());
    for group in groups {
        let mut bytes = std::fs::read(&group).expect("readable");
        let last = bytes.len() - 5;
        bytes[last] ^= 1;
        std::fs::write(&group, bytes).expect("room");
    }
    let found = |store: &Store| store.heal_by_parity(true, &Unwatched).expect("looked at");
    assert!(!found(store).is_clean());
    let (report, steps) = whole_round(store, &STEP);
    assert!(report.healed > 0 && steps > 20, "{report:?}");
    assert!(found(store).is_clean(), "{:?}", found(store));
    assert!(store.scrub_status().beside_read_s.is_some());
    let (again, _) = whole_round(store, &ALL);
    assert_eq!(again.healed, 0, "nothing is left to heal");
}
