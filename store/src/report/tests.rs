//! Tests of reports against known content: holders counted the slow way, chunks that really go,
//! rows that add up, guests that write meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use vellum_core::device::{Device, Exports, Intent};
use vellum_core::page::{PageEntry, page_key};
use vellum_core::tree::{NodeRef, pages_for};
use vellum_core::units::{ChunkId, ImageId, PageIndex};

use super::count::ScanLimits;
use super::disks_point_in_time::DisksPointInTime;
use super::scan_point_in_time::ScanPointInTime;
use super::{Holder, ReportOptions, UsageScan};
use crate::collect::tests::world::World as Small;
use crate::database::{Batch, Durability, Family};
use crate::image_input::ImageInput;
use crate::import::{ImportRequest, ImportTarget};
use crate::live::LiveDisk;
use crate::model::{World, name, new_store, seed};
use crate::watch::{Progress, Watch};
use crate::{CollectOptions, Store, Unwatched};

const OPTIONS: ReportOptions = ReportOptions {
    rows_max: 1000,
    most_shared_max: 10,
    strip_cells: 10,
    file_systems: false,
};

fn census(store: &Store) -> UsageScan {
    store.scan_usage(&Unwatched).expect("the store is sound")
}

/// The report of a census of a store that nobody has changed since.
fn report(store: &Store, census: &UsageScan) -> super::SpaceReport {
    let still = DisksPointInTime::take_all(store, &mut store.tree_mut()).expect("there is room");
    census
        .build_report(still, &OPTIONS, &Unwatched)
        .expect("nobody stops it")
}

fn collect(store: &Store) -> u64 {
    store
        .collect(CollectOptions::default(), &Unwatched)
        .expect("the store is sound")
        .chunks_dropped
}

/// For every chunk that some node shows, the numbers of those that do: from every page of every
/// disk.
fn holders(store: &Store, census: &UsageScan) -> BTreeMap<ChunkId, BTreeSet<usize>> {
    let mut holders: BTreeMap<ChunkId, BTreeSet<usize>> = BTreeMap::new();
    for (number, named) in census.forest.nodes.iter().enumerate() {
        let disk = store.open_disk(named.node).expect("the node is there");
        for index in (0..pages_for(disk.chunk_len().count_for(disk.len()))).map(PageIndex) {
            for run in disk.resolve_page(index).expect("a sound page").runs() {
                let PageEntry::Chunk(first) = run.slot else {
                    continue;
                };
                for nth in 0..run.len {
                    holders
                        .entry(first.advance_by(nth.into()))
                        .or_default()
                        .insert(number);
                }
            }
        }
    }
    holders
}

/// The number of chunks that each set of nodes holds, as `scan_usage` has it.
fn counted(census: &UsageScan) -> BTreeMap<BTreeSet<usize>, u64> {
    let sets = &census.counted.sets;
    let held = sets
        .set_ids()
        .zip(&census.counted.totals)
        .filter(|(_, held)| held.chunks > 0);
    held.filter_map(|(id, held)| {
        Some((
            sets.set_spans(id)?
                .iter()
                .flat_map(|(start, end)| *start as usize..*end as usize)
                .collect(),
            held.chunks,
        ))
    })
    .filter(|(set, _): &(BTreeSet<usize>, u64)| !set.is_empty())
    .collect()
}

/// Makes a report and checks that the rows of attribution add up.
fn check_rows(store: &Store, census: &UsageScan) -> super::SpaceReport {
    let report = report(store, census);
    let sum: u64 = report.attribution.iter().map(|row| row.bytes).sum();
    assert_eq!(sum, report.totals.on_disk);
    assert!(
        sum >= census.counted.space.usage.total,
        "rows are no less than what is on the disk"
    );
    let chunks: u64 = report.attribution.iter().map(|row| row.chunks).sum();
    assert_eq!(chunks, report.totals.chunks);
    let content = report
        .attribution
        .iter()
        .filter(|row| !matches!(row.holder, Holder::Overhead(_)));
    assert_eq!(
        content.map(|row| row.bytes).sum::<u64>(),
        report.totals.compressed
    );
    for histogram in [&report.references, &report.compressibility] {
        assert_eq!(
            histogram.iter().map(|bucket| bucket.chunks).sum::<u64>(),
            report.totals.chunks
        );
    }
    assert_eq!(report.uncounted, []);
    report
}

/// Checks with whom each node shares, by the words of [`super::NodeUsage`]: for each set and each
/// of its nodes, one by one.
fn check_usage(census: &UsageScan, sets: &BTreeMap<BTreeSet<usize>, u64>) {
    let nodes = &census.forest.nodes;
    let is_above = |upper: usize, lower: usize| {
        std::iter::successors(Some(upper), |node| {
            nodes[*node].parent.map(|parent| parent as usize)
        })
        .any(|node| node == lower)
    };
    let mut expected = vec![[0_u64; 3]; nodes.len()];
    let bytes_of: BTreeMap<BTreeSet<usize>, u64> = {
        let all = census.counted.sets.set_ids().zip(&census.counted.totals);
        all.filter_map(|(id, held)| {
            let spans = census.counted.sets.set_spans(id)?;
            Some((
                spans
                    .iter()
                    .flat_map(|(start, end)| *start as usize..*end as usize)
                    .collect(),
                held.bytes,
            ))
        })
        .collect()
    };
    for set in sets.keys().filter(|set| set.len() > 1) {
        let in_line = |node: &usize| {
            set.iter()
                .all(|other| is_above(*node, *other) || is_above(*other, *node))
        };
        let rest: Vec<usize> = set.iter().copied().filter(|node| !in_line(node)).collect();
        let is_one_image = rest
            .windows(2)
            .all(|pair| nodes[pair[0]].image == nodes[pair[1]].image);
        for node in set {
            let kind = if rest.contains(node) {
                2 - usize::from(is_one_image)
            } else {
                0
            };
            expected[*node][kind] += bytes_of[set];
        }
    }
    let found: Vec<[u64; 3]> = census
        .usage
        .iter()
        .map(|usage| [usage.lineage, usage.siblings, usage.others])
        .collect();
    assert_eq!(found, expected);
}

fn check_counted(store: &Store) -> UsageScan {
    let census = census(store);
    let holders = holders(store, &census);
    let mut expected: BTreeMap<BTreeSet<usize>, u64> = BTreeMap::new();
    holders
        .values()
        .for_each(|set| *expected.entry(set.clone()).or_default() += 1);
    assert_eq!(counted(&census), expected);
    check_usage(&census, &expected);
    let report = check_rows(store, &census);
    for (number, usage) in report.nodes.iter().enumerate() {
        assert_eq!(
            usage.exclusive_chunks,
            expected
                .get(&BTreeSet::from([number]))
                .copied()
                .unwrap_or(0),
            "{}",
            usage.name
        );
    }
    for common in &report.most_shared {
        let Some((node, offset)) = common.example else {
            continue;
        };
        let disk = store
            .open_disk(census.forest.nodes[node].node)
            .expect("the node is there");
        let mut bytes = vec![0; store.parameters().chunk_len.as_usize()];
        let len = bytes.len().min((disk.len() - offset) as usize);
        disk.read_at(&mut bytes[..len], offset).expect("it reads");
        assert_eq!(vellum_core::hash::ChunkHash::of_chunk(&bytes), common.hash);
    }
    census
}

/// Nodes that may go together, of chance: an image only with all its snapshots.
fn some_nodes(store: &Store, random: &mut fastrand::Rng) -> Vec<NodeRef> {
    let tree = store.tree();
    let mut nodes: BTreeSet<NodeRef> = BTreeSet::new();
    for image in tree.images() {
        let snapshots = tree
            .snapshots_of(image.id)
            .map(|snapshot| NodeRef::Snapshot(image.id, snapshot.serial));
        if random.u8(..4) == 0 {
            nodes.extend(snapshots);
            nodes.insert(NodeRef::Image(image.id));
        } else {
            nodes.extend(snapshots.filter(|_| random.u8(..3) == 0));
        }
    }
    nodes.into_iter().collect()
}

fn delete(store: &Store, nodes: &[NodeRef]) {
    for node in nodes {
        match node {
            NodeRef::Snapshot(image, serial) => {
                store.delete_snapshot(*image, *serial).expect("not pinned");
            }
            NodeRef::Image(_) => {}
        }
    }
    for node in nodes {
        if let NodeRef::Image(image) = node {
            store
                .delete_image(*image, false)
                .expect("its snapshots are gone");
        }
    }
}

#[test]
fn deleting_frees_exactly_the_chunks_that_nobody_else_holds() {
    let first = seed();
    for seed in first..first + 6 {
        println!("world {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let world = World::grown(seed, 65536, 6 << 20, 260);
        let store = world.store();
        collect(store);
        assert_eq!(
            check_counted(store).store_totals().dead,
            0,
            "a collection leaves nothing dead"
        );
        while store.tree().image_count() > 0 {
            let census = check_counted(store);
            let nodes = some_nodes(store, &mut random);
            let foretold = census.estimate_reclaim(&nodes);
            delete(store, &nodes);
            assert_eq!(
                collect(store),
                foretold.chunks,
                "world {seed}: {:?}",
                foretold.nodes
            );
        }
    }
}

/// Many walks, for a few chunks each, over parts of pages find what one finds.
#[test]
fn a_census_in_parts_finds_the_same() {
    let seed = seed();
    let world = World::grown(seed, 65536, 6 << 20, 200);
    let store = world.store();
    let whole = census(store);
    for (pass_chunks, covers) in [(1, 1 << 20), (7, 3), (1 << 20, 1)] {
        let moment = ScanPointInTime::take_now(store).expect("nobody writes");
        let parts = store
            .count_usage(
                moment,
                ScanLimits {
                    pass_chunks,
                    covers,
                },
                &Unwatched,
            )
            .expect("sound");
        assert_eq!(
            counted(&parts),
            counted(&whole),
            "{pass_chunks} chunks, {covers} covers"
        );
        assert_eq!(parts.counted.seen, whole.counted.seen);
        let mut reports = [&parts, &whole].map(|census| report(store, census));
        // The database writes, merges and removes its files whenever it likes, and each census
        // leaves a pin and takes it away.
        reports.iter_mut().for_each(|report| {
            report
                .attribution
                .retain(|row| !matches!(row.holder, Holder::Overhead(_)));
        });
        assert_eq!(reports[0].attribution, reports[1].attribution);
        assert_eq!(
            (&reports[0].references, &reports[0].nodes),
            (&reports[1].references, &reports[1].nodes)
        );
    }
}

#[test]
fn a_target_is_reached_with_what_may_go_or_not_at_all() {
    let mut world = Small::new();
    // Megabytes: for less no file is written anew, and nothing becomes free.
    let image = world.create(40_000);
    for round in 0..6 {
        let content: Vec<Option<u32>> = (0..5000).map(|at| Some(round * 10_000 + at)).collect();
        world.write(image, round as usize * 2500, &content);
        world.snapshot(image);
    }
    let database = &world.store.inner.database;
    database
        .flush_bulk(database.write_generation())
        .expect("room");
    collect(&world.store);
    let census = census(&world.store);
    let all: Vec<NodeRef> = world.model.keys().copied().collect();
    let total = census.estimate_reclaim(&all).freed;
    let nothing_protected = |_: NodeRef| false;
    assert_eq!(
        census.reclaim_target(total + (1 << 30), &nothing_protected),
        None
    );
    assert!(
        census.reclaim_target(1, &|_| true).is_none(),
        "all is protected"
    );
    let every = census
        .reclaim_target(total, &nothing_protected)
        .expect("deleting all frees that");
    assert!(every.freed >= total);
    for bytes in [1, total / 4, total / 2] {
        let found = census
            .reclaim_target(bytes, &nothing_protected)
            .expect("deleting all frees more");
        assert!(found.freed >= bytes, "{found:?}");
        assert!(found.nodes.len() <= every.nodes.len());
    }
    assert_eq!(
        census
            .reclaim_target(0, &nothing_protected)
            .map(|found| found.nodes),
        Some(Vec::new())
    );
}

#[test]
fn a_damaged_page_or_header_is_told_and_the_rest_counted() {
    let mut world = Small::new();
    let (one, two) = (world.create(3000), world.create(64));
    world.write(one, 0, &(0..64).map(Some).collect::<Vec<_>>());
    world.write(one, 2000, &(64..96).map(Some).collect::<Vec<_>>());
    world.write(two, 0, &(100..132).map(Some).collect::<Vec<_>>());
    let before = world
        .store
        .report_space(&OPTIONS, &Unwatched)
        .expect("sound");
    assert_eq!(before.uncounted, []);
    let layer = world
        .store
        .tree()
        .layer_of(NodeRef::Image(one))
        .expect("known")
        .id;
    let mut batch = Batch::default();
    batch.put_record(Family::Pages, page_key(layer, PageIndex(0)), b"nonsense");
    let frame = vellum_core::frame::frame_key(census(&world.store).counted.frames[20].first);
    batch.put_record(Family::Headers, frame, b"nonsense");
    world
        .store
        .inner
        .database
        .write_batch(batch, Durability::Logged)
        .expect("room");
    let report = world
        .store
        .report_space(&OPTIONS, &Unwatched)
        .expect("the rest is counted");
    assert_eq!(
        report.uncounted.len(),
        3,
        "a page, a header, and references into its frame: {:?}",
        report.uncounted
    );
    let exclusive = |report: &super::SpaceReport| {
        report
            .nodes
            .iter()
            .map(|node| node.exclusive_chunks)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (exclusive(&before), exclusive(&report)),
        (vec![96, 32], vec![28, 32])
    );
    assert_eq!(
        report.attribution.iter().map(|row| row.bytes).sum::<u64>(),
        report.totals.on_disk
    );
}

/// A guest writes the same new chunk to two places in turn, so at any moment it shows one chunk or
/// two. Snapshots and collections go on.
#[test]
fn a_census_under_a_guest_is_one_moment() {
    let (_dir, store) = new_store(4096);
    let node = store
        .create_image(&name("disk"), 8 << 20)
        .expect("a new image");
    let device = store
        .exports()
        .open_export("disk", Intent::ReadWrite)
        .expect("nobody else has it");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                round += 1;
                for offset in [0, 5 << 20] {
                    let mut chunk = [0; 4096];
                    chunk[..8].copy_from_slice(&round.to_le_bytes());
                    device.write_at(&chunk, offset).expect("there is room");
                    if round.is_multiple_of(3) {
                        device.flush().expect("there is room");
                    }
                }
            }
        });
        for round in 0..60 {
            let text = format!("s{round}");
            if round % 4 == 0 {
                store
                    .take_snapshot(node.image_id(), &name(&text))
                    .expect("a free name");
            }
            let report = store.report_space(&OPTIONS, &Unwatched).expect("sound");
            assert_eq!(report.uncounted, []);
            assert_eq!(
                report.attribution.iter().map(|row| row.bytes).sum::<u64>(),
                report.totals.on_disk
            );
            let disk = report
                .nodes
                .iter()
                .find(|node| node.name == "disk")
                .expect("it is there");
            let held = disk.non_zero / 4096;
            assert!(held <= 2 && disk.exclusive_chunks <= held, "{disk:?}");
            if round % 16 == 15 {
                collect(&store);
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

/// Changes everything a report looks at, as soon as its moment is over.
struct Meddler<'s> {
    store: &'s Store,
    guest: &'s dyn Device,
    image: ImageId,
    other: ImageId,
    is_done: AtomicBool,
}

impl Meddler<'_> {
    fn meddle(&self) {
        let store = self.store;
        self.guest
            .write_at(&vec![9; 70_000], 8192)
            .and_then(|()| self.guest.flush())
            .expect("there is room");
        store
            .take_snapshot(self.image, &name("later"))
            .expect("a free name");
        let first = store.find_node("disk@one").expect("there");
        delete(store, &[first, NodeRef::Image(self.other)]);
        store
            .create_image(&name("newcomer"), 1 << 20)
            .and_then(|node| store.open_live(node.image_id()))
            .map(|live| fill(&live, 77))
            .expect("a free name");
        collect(store);
    }
}

impl Watch for Meddler<'_> {
    fn report_progress(&self, _: Progress) {}

    fn is_cancelled(&self) -> bool {
        if !self.is_done.swap(true, Ordering::Relaxed) {
            self.meddle();
        }
        false
    }
}

/// A swap space of noise.
fn fill(disk: &LiveDisk, seed: u64) {
    let mut bytes = vec![0; disk.len() as usize];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes[1024..1032].copy_from_slice(&[1, 0, 0, 0, 255, 0, 0, 0]);
    bytes[4086..4096].copy_from_slice(b"SWAPSPACE2");
    disk.write_at(&bytes, 0)
        .and_then(|()| disk.flush())
        .expect("there is room");
}

/// Growth, changes and file systems are looked at long after the count: what a guest, deletions and
/// a collection do meanwhile must not show.
#[test]
fn what_happens_after_the_moment_is_in_no_part_of_a_report() {
    let (_dir, store) = new_store(4096);
    let [image, other] = ["disk", "other"].map(|text| {
        store
            .create_image(&name(text), 1 << 20)
            .expect("a free name")
            .image_id()
    });
    for (image, seed) in [(other, 1), (image, 2)] {
        fill(&store.open_live(image).expect("nobody writes"), seed);
    }
    let guest = store
        .exports()
        .open_export("disk", Intent::ReadWrite)
        .expect("nobody else has it");
    for (nth, text) in ["one", "two"].into_iter().enumerate() {
        guest
            .write_at(&[nth as u8 + 1; 5000], nth as u64 * 300_000 + 8192)
            .expect("there is room");
        store
            .take_snapshot(image, &name(text))
            .expect("a free name");
    }
    guest.write_at(&[5; 5000], 900_000).expect("there is room");
    let options = ReportOptions {
        file_systems: true,
        ..OPTIONS
    };
    let before = store.report_space(&options, &Unwatched).expect("sound");
    let meddler = Meddler {
        store: &store,
        guest: &*guest,
        image,
        other,
        is_done: AtomicBool::new(false),
    };
    let during = store.report_space(&options, &meddler).expect("sound");
    assert_eq!(
        (&during.growth, &during.changes, &during.droppable),
        (&before.growth, &before.changes, &before.droppable)
    );
    assert!(
        during.uncounted.is_empty() && before.droppable.len() == 2,
        "{during:?}"
    );
    let after = store.report_space(&options, &Unwatched).expect("sound");
    assert!(
        after.droppable.len() == 2 && after.droppable != before.droppable,
        "the newcomer's, and other content: {:?}",
        after.droppable
    );
    let names = |report: &super::SpaceReport| {
        report
            .nodes
            .iter()
            .map(|node| node.name.clone())
            .collect::<BTreeSet<_>>()
    };
    let gone: Vec<String> = names(&before).difference(&names(&after)).cloned().collect();
    assert_eq!(gone, ["disk@one", "other"], "it did meddle");
}

/// A base without a name was counted once for each clone that stands on it.
#[test]
fn what_a_shared_base_added_is_counted_once() {
    let (_dir, store) = new_store(4096);
    let image = store
        .create_image(&name("web"), 1 << 20)
        .expect("a free name")
        .image_id();
    fill(&store.open_live(image).expect("nobody writes"), 1);
    let NodeRef::Snapshot(_, serial) = store.take_snapshot(image, &name("a")).expect("free") else {
        panic!("it is no snapshot");
    };
    for (seed, text) in (2..).zip(["one", "two"]) {
        let child = store
            .create_child(&name(text), NodeRef::Snapshot(image, serial), None)
            .expect("a free name");
        fill(
            &store.open_live(child.image_id()).expect("nobody writes"),
            seed,
        );
    }
    let added = || {
        let report = report(&store, &census(&store));
        let nodes: u64 = report.nodes.iter().filter_map(|node| node.added).sum();
        let bases: u64 = report.bases.iter().filter_map(|base| base.added).sum();
        let grown: u64 = report.growth.iter().map(|growth| growth.compressed).sum();
        (nodes, bases, grown)
    };
    let (nodes, bases, grown) = added();
    assert_eq!((nodes, bases), (grown, 0));
    store.delete_snapshot(image, serial).expect("not pinned");
    let (nodes, bases, _) = added();
    assert!(bases > 900_000, "{bases}");
    assert_eq!(nodes + bases, grown);
    store.delete_image(image, false).expect("it is unused");
    collect(&store);
    let (nodes, bases, _) = added();
    assert_eq!(nodes + bases, grown);
    let report = report(&store, &census(&store));
    assert_eq!(report.bases[0].shared_by, ["one", "two"]);
    let items: BTreeSet<usize> = report.outline.iter().map(|row| row.item).collect();
    assert_eq!(items, BTreeSet::from([0, 1, 2]));
}

/// Bytes of the files that hold chunks and maps.
fn table_bytes(store: &Store) -> u64 {
    let families = [
        Family::Frames,
        Family::Headers,
        Family::Index,
        Family::Pages,
    ]
    .into_iter();
    families
        .map(|family| store.inner.database.table_bytes(family).expect("readable"))
        .sum()
}

/// After a few flushes `RocksDB` rewrites headers and the index by itself, with a collection's
/// deletions or without them: some hundredths of what becomes free. What was flushed before must
/// make no difference to what a collection gives back.
#[test]
fn what_becomes_free_is_foretold_however_often_was_flushed_before() {
    for flushes in 0..7 {
        let (_dir, store) = new_store(4096);
        let import = |text: &str, chunks: u64| {
            let mut bytes = vec![0; chunks as usize * 4096];
            let mut random = fastrand::Rng::with_seed(chunks);
            bytes
                .chunks_mut(4096)
                .for_each(|chunk| random.fill(&mut chunk[..1000]));
            let input =
                ImageInput::of_stream(Box::new(std::io::Cursor::new(bytes)), "noise".to_owned());
            let request = ImportRequest {
                target: ImportTarget::New {
                    name: name(text),
                    parent: None,
                },
                snapshot: None,
            };
            store
                .import(input, &request, &Unwatched)
                .expect("there is room")
                .node
        };
        let goes = import("goes", 5000);
        for nth in 0..flushes {
            import(&format!("stays{nth}"), 200 + nth);
        }
        let (before, foretold) = (
            table_bytes(&store),
            census(&store).estimate_reclaim(&[goes]).freed,
        );
        delete(&store, &[goes]);
        assert_eq!(collect(&store), 5000);
        let freed = before - table_bytes(&store);
        assert!(
            foretold.abs_diff(freed) * 100 <= freed,
            "after {flushes} flushes: foretold {foretold}, freed {freed}"
        );
    }
}
