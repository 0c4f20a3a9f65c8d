//! Tests of parity, on groups of files that are no tables: all bytes are the same to parity.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::watch::Progress;

/// A folder with tables, of which all are protected.
struct World {
    _dir: tempfile::TempDir,
    parity: Parity,
    tables: Vec<TableFile>,
    content: Vec<Vec<u8>>,
}

fn is_roomy(_: u64) -> bool {
    true
}

impl World {
    fn new(lens: &[usize], percent: u16) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let parity = Parity::new(&StoreFolder::of_damaged(dir.path()), true);
        parity.set_share(ParityShare::new(percent * 10));
        fs::create_dir(dir.path().join("database")).expect("made");
        let mut world = Self {
            _dir: dir,
            parity,
            tables: Vec::new(),
            content: Vec::new(),
        };
        for (nth, len) in lens.iter().enumerate() {
            world.add(nth as u64 + 7, *len);
        }
        world.protect();
        world
    }

    fn add(&mut self, number: u64, len: usize) {
        let mut bytes = vec![0; len];
        fastrand::Rng::with_seed(number).fill(&mut bytes);
        let class = TableClass::Payloads;
        let table = TableFile {
            number,
            len: len as u64,
            class,
        };
        fs::write(self.path(table), &bytes).expect("room");
        self.tables.push(table);
        self.content.push(bytes);
    }

    /// Removes a table as RocksDB does.
    fn remove(&mut self, at: usize) {
        let table = self.tables.remove(at);
        self.content.remove(at);
        fs::remove_file(self.path(table)).expect("removed");
    }

    fn protect(&self) -> ProtectReport {
        self.parity
            .protect_tables(&self.tables, usize::MAX, &is_roomy, &Unwatched)
            .expect("protected")
    }

    fn path(&self, table: TableFile) -> std::path::PathBuf {
        self.parity.folder.table_path(table.number)
    }

    fn assert_whole(&self, what: &str) {
        for (table, content) in self.tables.iter().zip(&self.content) {
            let found = fs::read(self.path(*table)).unwrap_or_default();
            assert!(found == *content, "{what}: table {}", table.number);
        }
        let status = self
            .parity
            .protection_status(&self.tables)
            .expect("readable");
        assert_eq!(
            (status.tables_unprotected, status.groups_damaged),
            (0, 0),
            "{what}"
        );
    }

    fn heal_all(&self) -> ParityHealing {
        let needed = self.tables.iter().map(|table| table.number).collect();
        let dry = self
            .parity
            .heal_all(Some(&needed), true, &Unwatched)
            .expect("readable");
        let report = self
            .parity
            .heal_all(Some(&needed), false, &Unwatched)
            .expect("readable");
        assert_eq!(dry, report, "what is told is what is done");
        report
    }

    /// Removes the links, as a copy of the folder has none.
    fn forget_links(&self) {
        self.parity
            .folder
            .held_tables()
            .expect("listed")
            .iter()
            .for_each(|number| {
                self.parity.folder.unlink_table(*number);
            });
    }
}

const LENS: [usize; 6] = [300_000, 200_001, 70_000, 4096, 4095, 1];

#[test]
fn every_block_of_every_table_heals_by_itself_and_with_all_others() {
    let world = World::new(&LENS, 2);
    for (table, content) in world.tables.iter().zip(&world.content) {
        for at in (0..content.len()).step_by(4096 * 3) {
            let mut damaged = content.clone();
            damaged[at] ^= 0x10;
            fs::write(world.path(*table), &damaged).expect("room");
            assert!(world.parity.heal_table(table.number, None));
            world.assert_whole(&format!("{} at {at}", table.number));
            fs::write(world.path(*table), &damaged).expect("room");
            assert_eq!(world.heal_all().blocks_healed, 1);
            world.assert_whole(&format!("{} at {at}", table.number));
        }
    }
    assert!(world.heal_all().is_clean());
}

#[test]
fn a_table_that_is_gone_cut_or_longer_comes_back() {
    for has_links in [true, false] {
        let world = World::new(&LENS, 2);
        if !has_links {
            world.forget_links();
        }
        for (table, content) in world.tables.iter().zip(&world.content) {
            let path = world.path(*table);
            let what = format!("{} {has_links}", table.number);
            fs::remove_file(&path).expect("removed");
            let report = world.heal_all();
            assert_eq!(report.files_restored.len(), 1, "{what}: {report:?}");
            world.assert_whole(&what);
            for len in [
                0,
                1,
                content.len() / 2,
                content.len() - 1,
                content.len() + 5000,
            ] {
                let mut damaged = content.clone();
                damaged.resize(len, 7);
                fs::write(&path, &damaged).expect("room");
                let is_same = damaged == *content;
                assert_eq!(
                    world.heal_all().is_clean(),
                    is_same,
                    "{what} with {len} bytes"
                );
                world.assert_whole(&format!("{what} with {len} bytes"));
            }
        }
    }
}

#[test]
fn more_losses_than_parity_are_told_and_nothing_is_made_worse() {
    let world = World::new(&LENS, 2);
    world.forget_links();
    let lost: Vec<_> = [0, 1].map(|at| world.path(world.tables[at])).into();
    lost.iter()
        .for_each(|path| fs::remove_file(path).expect("removed"));
    let report = world.heal_all();
    assert_eq!(
        report.files_lost,
        ["database/000007.sst", "database/000008.sst"]
    );
    assert!(report.files_restored.is_empty() && !lost.iter().any(|path| path.exists()));
    assert!(!world.parity.heal_table(7, None));
    // A block that only one of them had could be computed: but no table with holes is made.
    for (table, content) in world.tables.iter().zip(&world.content).skip(2) {
        assert!(fs::read(world.path(*table)).expect("there") == *content);
    }
    fs::write(&lost[0], &world.content[0]).expect("room");
    assert_eq!(world.heal_all().files_restored, ["database/000008.sst"]);
    world.assert_whole("one of two is back");
}

#[test]
fn with_more_parity_more_tables_come_back() {
    let world = World::new(&[50_000; 30], 10);
    world.forget_links();
    for lost in 0..=3 {
        (0..lost)
            .for_each(|at| fs::remove_file(world.path(world.tables[at * 7])).expect("removed"));
        assert_eq!(world.heal_all().files_restored.len(), lost);
        world.assert_whole(&format!("{lost} of 30"));
    }
}

#[test]
fn damage_to_a_groups_own_file_is_found_and_its_tables_are_protected_anew() {
    let world = World::new(&[60_000, 50_000, 9], 2);
    let (shapes, _) = world.parity.folder.read_shapes().expect("listed");
    let path = world.parity.folder.group_path(shapes[0].id);
    let whole = fs::read(&path).expect("there");
    let parity_at = whole.len() - 15 * 4096;
    for at in (0..whole.len()).step_by(61) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).expect("room");
        let report = world.heal_all();
        if at >= parity_at {
            assert_eq!(report.parity_blocks_healed, 1, "{at}");
            assert!(fs::read(&path).expect("there") == whole, "{at}");
        } else if report.is_clean() {
            // Bytes that fill up the record protect nothing.
            continue;
        } else {
            assert_eq!(report.groups_lost, 1, "{at}");
            assert_eq!(world.protect().groups_made, 1, "{at}");
            assert!(fs::read(&path).expect("there") == whole, "{at}");
        }
        world.assert_whole(&format!("byte {at}"));
    }
    for len in [0, 10, whole.len() / 2, whole.len() - 1, whole.len() + 1] {
        let mut damaged = whole.clone();
        damaged.resize(len, 0);
        fs::write(&path, &damaged).expect("room");
        assert_eq!(world.heal_all().groups_lost, 1, "{len}");
        world.protect();
        world.assert_whole(&format!("{len} bytes"));
    }
}

#[test]
fn a_table_that_the_database_removed_still_helps_its_group() {
    let mut world = World::new(&LENS, 2);
    world.remove(0);
    let victim = world.tables[0];
    fs::remove_file(world.path(victim)).expect("removed");
    assert_eq!(world.heal_all().files_restored, ["database/000008.sst"]);
    world.protect();
    world.assert_whole("made anew");
    assert!(
        !world.parity.folder.held_path(7).exists(),
        "its space is given back"
    );
}

/// Damage must not become the truth when its group is made anew.
#[test]
fn what_is_made_anew_is_healed_first() {
    let mut world = World::new(&LENS, 2);
    let path = world.path(world.tables[1]);
    let mut damaged = world.content[1].clone();
    damaged[100_000] ^= 1;
    fs::write(&path, &damaged).expect("room");
    world.add(100, 5000);
    assert_eq!(world.protect().tables_left, 0);
    world.assert_whole("healed before it was protected anew");
}

#[test]
fn what_cannot_be_healed_stays_as_its_old_group_knows_it() {
    let mut world = World::new(&[9000, 8000], 2);
    world.forget_links();
    for at in [0, 1] {
        let mut damaged = world.content[at].clone();
        damaged[10] ^= 1;
        fs::write(world.path(world.tables[at]), &damaged).expect("room");
    }
    world.add(100, 5000);
    world.protect();
    let again = world.protect();
    assert_eq!(
        (again.groups_made, again.bytes_read),
        (0, 0),
        "it is not read again and again"
    );
    // With one of them back, the other heals, too: its old sums were kept.
    fs::write(world.path(world.tables[0]), &world.content[0]).expect("room");
    assert_eq!(world.heal_all().blocks_healed, 1);
    world.protect();
    world.assert_whole("by the old group");
}

/// Stops work after so many steps, as a kill would.
struct Stopping(AtomicUsize);

impl Watch for Stopping {
    fn report_progress(&self, _: Progress) {}

    fn is_cancelled(&self) -> bool {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(1), Ordering::Relaxed);
        left == 0
    }
}

#[test]
fn work_that_is_cut_off_leaves_what_was_protected_protected() {
    for steps in 0..8 {
        let mut world = World::new(&[600_000, 500_000], 2);
        world.add(100, 900_000);
        let watch = Stopping(AtomicUsize::new(steps));
        let cut = world
            .parity
            .protect_tables(&world.tables, usize::MAX, &is_roomy, &watch);
        fs::write(world.parity.folder.parity_dir().join(".left.partial"), "x").expect("room");
        fs::remove_file(world.path(world.tables[1])).expect("removed");
        assert_eq!(world.heal_all().files_restored.len(), 1, "{steps}");
        world.protect();
        world.assert_whole(&format!("{steps}"));
        assert!(
            !world
                .parity
                .folder
                .parity_dir()
                .join(".left.partial")
                .exists()
        );
        assert!(cut.is_ok() || steps < 8);
    }
}

#[test]
fn on_a_full_disk_groups_that_keep_what_was_deleted_go_first() {
    let mut world = World::new(&LENS, 2);
    world.remove(2);
    let full = |_| false;
    let report = world
        .parity
        .protect_tables(&world.tables, usize::MAX, &full, &Unwatched)
        .expect("possible");
    assert_eq!((report.groups_made, report.tables_left), (0, 5));
    let held = world.parity.folder.held_tables().expect("listed");
    assert!(held.is_empty(), "{held:?}");
    let status = world
        .parity
        .protection_status(&world.tables)
        .expect("readable");
    assert_eq!((status.tables_unprotected, status.groups), (5, 0));
    world.protect();
    world.assert_whole("there is room again");
}

#[test]
fn one_group_at_a_time_comes_to_the_same_end() {
    let mut world = World::new(&[], 100);
    (0..300).for_each(|nth| world.add(nth + 1, 100));
    let mut steps = 0;
    while world
        .parity
        .protect_tables(&world.tables, 1, &is_roomy, &Unwatched)
        .expect("done")
        .has_more
    {
        steps += 1;
    }
    assert!(steps > 1, "{steps}");
    world.assert_whole("in steps");
}

#[test]
fn tables_are_found_in_the_databases_words() {
    let words = "Corruption: block checksum mismatch: stored = 1, computed = 2, type = 4  in \
                 /srv/x.sst/database/000123.sst offset 0 size 4016";
    assert_eq!(tables_named(words), [123].into());
    let gone = "IO error: No such file or directory: While open a file for random read: \
                /srv/database/000009.sst: No such file or directory";
    assert_eq!(tables_named(gone), [9].into());
    assert_eq!(tables_named("IO error: No space left on device"), [].into());
}
