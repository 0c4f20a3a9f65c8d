//! What a guest sees, mode by mode: each test writes and reads through the exports, as a server
//! does for its clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tempfile::TempDir;
use vellum_core::device::{Device, DeviceError, ExportInfo, Exports, Intent, OpenError};
use vellum_core::tree::{Mode, NodeRef, PlanError};
use vellum_core::units::{ImageId, MachineId};
use vellum_store::{
    Access, ImportRequest, ImportTarget, RebaseMode, Store, StoreError, StoreExports, Unwatched,
};

use super::content::Content;
use super::drive::{self, name};
use super::scratch;

const LEN: u64 = 100_000;
/// Where tests write: not on a chunk's boundary.
const AT: u64 = 5_000;

type Disk = Arc<dyn Device>;

struct Host {
    dir: std::path::PathBuf,
    store: Store,
    exports: StoreExports,
    /// Removed when the store is closed.
    folder: TempDir,
}

impl Host {
    fn new() -> Self {
        let folder = scratch::folder();
        let dir = folder.path().join("store");
        let store = scratch::store_in(&dir, scratch::LZ4);
        Self {
            exports: store.exports(),
            store,
            folder,
            dir,
        }
    }

    /// The same store, opened again: nothing that was only in memory is left.
    fn reopened(self) -> Self {
        let Self {
            folder,
            dir,
            store,
            exports,
        } = self;
        drop((store, exports));
        let store = scratch::open(&dir);
        Self {
            exports: store.exports(),
            store,
            folder,
            dir,
        }
    }

    /// An image that reads as 1 everywhere, in that mode.
    fn image(&self, text: &str, mode: Mode) -> ImageId {
        let image = self
            .store
            .create_image(&name(text), LEN)
            .expect("created")
            .image_id();
        let disk = self.store.open_live(image).expect("opens");
        disk.write_at(&vec![1; LEN as usize], 0)
            .and_then(|()| disk.flush())
            .expect("written");
        drop(disk);
        self.store
            .set_mode(image, mode)
            .expect("a new image can have any mode");
        image
    }

    fn open(&self, text: &str) -> Disk {
        self.exports
            .open_export(text, Intent::ReadWrite)
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn info(&self, text: &str) -> ExportInfo {
        self.exports
            .export_info(text)
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn take(&self, image: ImageId, text: &str) -> u64 {
        match self
            .store
            .take_snapshot(image, &name(text))
            .expect("a snapshot")
        {
            NodeRef::Snapshot(_, serial) => serial,
            NodeRef::Image(_) => panic!("a snapshot is a snapshot"),
        }
    }

    /// What the image or snapshot of that name shows to somebody who does not attach it.
    fn stored(&self, text: &str) -> u8 {
        drive::read(&self.store, text).expect("reads")[AT as usize]
    }

    fn machine(&self, disks: &[ImageId]) -> MachineId {
        let machine = self
            .store
            .create_machine(&name("vm"), Some(b"<domain/>"))
            .expect("a machine");
        for disk in disks {
            self.store.add_disk(machine, *disk).expect("added");
        }
        machine
    }
}

fn put(disk: &Disk, value: u8) {
    disk.write_at(&[value; 3000], AT).expect("written");
}

fn get(disk: &Disk) -> u8 {
    let mut bytes = [0xaa; 3000];
    disk.read_at(&mut bytes, AT).expect("read");
    assert!(
        bytes.iter().all(|byte| *byte == bytes[0]),
        "what was written at once is read at once"
    );
    bytes[0]
}

fn refused(result: Result<Disk, OpenError>) -> String {
    match result {
        Err(OpenError::Refused(reason)) => reason,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was opened"),
    }
}

fn is_attached<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Attached(_)))
}

#[test]
fn normal_keeps_what_was_written_and_has_one_writer() {
    let host = Host::new();
    host.image("web", Mode::Normal);
    let disk = host.open("web");
    put(&disk, 2);
    let again = host.open("web");
    assert_eq!(get(&again), 2, "clients of one export share one disk");
    let others = host.store.exports();
    assert_eq!(
        refused(others.open_export("web", Intent::ReadWrite)),
        "web is attached: something has it open for writing"
    );
    assert_eq!(
        get(&others
            .open_export("web", Intent::Read)
            .expect("readers are welcome")),
        2
    );
    drop((disk, again));
    let disk = others
        .open_export("web", Intent::ReadWrite)
        .expect("nobody has it now");
    assert_eq!(get(&disk), 2, "detaching flushes");
    put(&disk, 3);
    drop(disk);
    drop(others);
    assert_eq!(host.reopened().stored("web"), 3);
}

#[test]
fn who_looks_attaches_makes_resets_and_holds_nothing() {
    let host = Host::new();
    let look = |text: &str| {
        host.exports
            .open_export(text, Intent::Look)
            .expect("it is there")
    };
    let web = host.image("web", Mode::Normal);
    host.image("kiosk", Mode::Immutable { autoreset: true });
    let gold = host.image("gold", Mode::Multiattach);
    host.take(web, "s");
    let images = || host.store.tree().images().count();
    let before = images();
    for (text, comparable) in [
        ("web", &["s"][..]),
        ("web@s", &["s"]),
        ("kiosk", &[]),
        ("gold", &[]),
        ("gold+new", &[]),
    ] {
        let device = look(text);
        assert_eq!(get(&device), 1, "{text}");
        assert_eq!(device.comparable(), comparable, "{text}");
        assert_eq!(
            device.write_at(b"x", 0),
            Err(DeviceError::ReadOnly),
            "{text}"
        );
    }
    assert_eq!(images(), before, "no scratch image and no child was made");
    let held = look("web");
    host.store
        .resize_image(web, LEN * 2, false)
        .expect("not attached");
    drop(held);
    // A scratch image that a guest left stays as it is.
    let disk = host.open("kiosk");
    put(&disk, 5);
    drop(disk);
    assert_eq!(get(&look("kiosk")), 5);
    assert_eq!(get(&look("kiosk")), 5);
    assert!(!host.open("web").is_shareable());
    host.image("quorum", Mode::Shareable);
    assert!(host.open("quorum").is_shareable());
    host.store.delete_image(gold, false).expect("not attached");
}

#[test]
fn an_attached_image_is_snapshotted_but_not_changed_under_its_guest() {
    let host = Host::new();
    let web = host.image("web", Mode::Normal);
    let old = host.take(web, "old");
    let disk = host.open("web");
    put(&disk, 2);
    host.take(web, "now");
    assert_eq!(host.stored("web@now"), 2, "also what was not flushed");
    put(&disk, 3);
    host.store
        .create_child(&name("child"), NodeRef::Image(web), None)
        .expect("a child");
    assert_eq!(host.stored("child"), 3);
    put(&disk, 4);
    host.store
        .create_child(&name("short"), NodeRef::Image(web), Some(9000))
        .expect("a shorter child");
    assert_eq!(host.stored("short"), 4);
    assert!(is_attached(host.store.restore_snapshot(web, old, None)));
    assert!(is_attached(host.store.delete_image(web, true)));
    assert!(is_attached(host.store.resize_image(web, LEN * 2, false)));
    assert!(is_attached(host.store.set_mode(web, Mode::Readonly)));
    assert!(is_attached(host.store.flatten(web, &Unwatched)));
    let update = ImportRequest {
        target: ImportTarget::Update(web),
        snapshot: None,
    };
    assert!(is_attached(host.store.import(
        drive::input(Content::plain(vec![9; 10]), false),
        &update,
        &Unwatched
    )));
    host.store
        .rename_node(NodeRef::Image(web), &name("www"))
        .expect("a name is no content");
    host.store
        .delete_snapshot(web, old)
        .expect("nor is a snapshot");
    put(&disk, 5);
    assert_eq!(get(&disk), 5);
    drop(disk);
    let now = host
        .store
        .tree()
        .snapshot_named(web, &name("now"))
        .expect("it is there")
        .serial;
    host.store
        .restore_snapshot(web, now, Some(&name("saved")))
        .expect("nobody has it now");
    assert_eq!((host.stored("www"), host.stored("www@saved")), (2, 5));
}

#[test]
fn snapshots_are_read_only_and_outlive_their_deletion_while_attached() {
    let host = Host::new();
    let web = host.image("web", Mode::Normal);
    let serial = host.take(web, "s");
    let disk = host.open("web@s");
    assert!(disk.is_read_only() && host.info("web@s").read_only);
    assert_eq!(disk.write_at(b"x", 0), Err(DeviceError::ReadOnly));
    host.store.delete_snapshot(web, serial).expect("deleted");
    host.store
        .collect(vellum_store::CollectOptions::default(), &Unwatched)
        .expect("collected");
    assert_eq!(get(&disk), 1);
    assert!(matches!(
        host.exports.open_export("web@s", Intent::Read),
        Err(OpenError::Unknown(_))
    ));
}

#[test]
fn immutable_starts_afresh_when_its_guest_was_switched_off() {
    let host = Host::new();
    let gold = host.image("gold", Mode::Immutable { autoreset: true });
    let disk = host.open("gold");
    put(&disk, 2);
    assert_eq!(
        get(&host.open("gold")),
        2,
        "another connection is no other attachment"
    );
    assert_eq!(host.stored("gold"), 1, "the image itself stands still");
    assert!(is_attached(host.store.set_mode(gold, Mode::Normal)));
    assert!(is_attached(host.store.delete_image(gold, false)));
    assert!(is_attached(host.store.reset_scratch(gold)));
    drop(disk);
    let host = host.reopened();
    let disk = host.open("gold");
    assert_eq!(
        get(&disk),
        2,
        "the connection and the server went, not the guest"
    );
    put(&disk, 3);
    disk.guest_left();
    drop(disk);
    let host = host.reopened();
    assert_eq!(
        host.stored("gold+scratch"),
        3,
        "it can be looked at until then"
    );
    let disk = host.open("gold");
    assert_eq!(get(&disk), 1);
    assert_eq!(host.stored("gold+scratch"), 3, "reading is looking");
    disk.write_at(b"x", 0).expect("written");
    assert_eq!((get(&disk), host.stored("gold+scratch")), (1, 1));
    // Somebody who says goodbye while another writes is not the guest that goes.
    put(&disk, 4);
    disk.guest_left();
    put(&disk, 5);
    drop(disk);
    assert_eq!(get(&host.open("gold")), 5);
}

#[test]
fn who_reads_what_was_reset_cannot_write_on_it() {
    let host = Host::new();
    let gold = host.image("gold", Mode::Immutable { autoreset: true });
    put(&host.open("gold"), 2);
    let disk = host.open("gold");
    assert_eq!(get(&disk), 2);
    host.store.reset_scratch(gold).expect("nobody writes");
    assert_eq!(get(&disk), 2, "it goes on seeing what it saw");
    let refused = disk.write_at(b"x", 0);
    assert!(matches!(refused, Err(DeviceError::Io(_))), "{refused:?}");
    drop(disk);
    let disk = host.open("gold");
    assert_eq!(get(&disk), 1);
    put(&disk, 3);
}

#[test]
fn machines_share_an_immutable_image_and_no_byte_of_what_they_write() {
    let host = Host::new();
    let gold = host.image("gold", Mode::Immutable { autoreset: true });
    let machines = ["vm1", "vm2"].map(|text| {
        let machine = host.store.create_machine(&name(text), None).expect("made");
        host.store.add_disk(machine, gold).expect("added");
        host.store.start_machine(machine).expect("started");
        machine
    });
    let disks = ["gold+vm1", "gold+vm2"].map(|text| host.open(text));
    put(&disks[0], 2);
    put(&disks[1], 3);
    assert_eq!(get(&host.open("gold")), 2, "the first machine's");
    assert_eq!(disks.each_ref().map(get), [2, 3]);
    assert!(is_attached(host.store.set_mode(gold, Mode::Normal)));
    assert!(is_attached(host.store.delete_image(gold, true)));
    // Online: with what is not flushed.
    let serials = machines.map(|machine| {
        host.store
            .snapshot_machine(machine, &name("s"))
            .expect("taken")
    });
    assert_eq!((host.stored("gold@s"), host.stored("gold@s+vm2")), (2, 3));
    put(&disks[0], 4);
    put(&disks[1], 5);
    assert!(is_attached(host.store.restore_machine(
        machines[0],
        serials[0],
        None
    )));
    let [first, second] = disks;
    drop(first);
    host.store.stop_machine(machines[0]).expect("stopped");
    host.store
        .restore_machine_keeping(machines[0], serials[0])
        .expect("the other machine's guest does not mind");
    assert_eq!(get(&host.open("gold+vm1")), 2);
    host.store.start_machine(machines[0]).expect("started");
    assert_eq!(get(&host.open("gold+vm1")), 2, "what it starts with");
    assert_eq!(get(&second), 5);
    drop(second);
    let host = host.reopened();
    assert_eq!(get(&host.open("gold+vm2")), 5, "it runs");
    host.store.stop_machine(machines[1]).expect("stopped");
    assert_eq!(get(&host.open("gold+vm2")), 3, "its last snapshot's");
    drive::check(&host.store, true).expect("nothing is wrong");
}

#[test]
fn a_child_of_a_multiattach_image_is_made_by_the_first_write() {
    let host = Host::new();
    host.image("gold", Mode::Multiattach);
    let disk = host.open("gold+vm");
    assert_eq!(get(&disk), 1);
    disk.flush().expect("nothing to flush");
    assert_eq!(host.store.tree().image_count(), 1, "nothing was made");
    put(&disk, 2);
    assert_eq!((get(&disk), host.store.tree().image_count()), (2, 2));
    drop(disk);
    assert_eq!(get(&host.reopened().open("gold+vm")), 2);
}

#[test]
fn immutable_without_autoreset_keeps_what_was_written_until_reset() {
    let host = Host::new();
    let gold = host.image("gold", Mode::Immutable { autoreset: false });
    put(&host.open("gold"), 2);
    assert_eq!(get(&host.open("gold")), 2);
    let host = host.reopened();
    assert_eq!(
        get(&host.open("gold")),
        2,
        "also after the store was opened again"
    );
    host.store.reset_scratch(gold).expect("reset");
    assert_eq!(get(&host.open("gold")), 1);
    host.store
        .set_mode(gold, Mode::Immutable { autoreset: true })
        .expect("changed");
    let disk = host.open("gold");
    put(&disk, 3);
    disk.guest_left();
    drop(disk);
    assert_eq!(get(&host.open("gold")), 1);
    host.store.delete_image(gold, false).expect("deleted");
    assert_eq!(
        host.store.tree().image_count(),
        0,
        "its scratch image went with it"
    );
}

#[test]
fn readonly_is_read_and_a_reader_sees_no_later_change() {
    let host = Host::new();
    let iso = host.image("iso", Mode::Readonly);
    let disk = host.open("iso");
    assert!(disk.is_read_only() && host.info("iso").read_only);
    assert_eq!(disk.write_zeroes(0, 1), Err(DeviceError::ReadOnly));
    host.store
        .set_mode(iso, Mode::Normal)
        .expect("a reader does not mind");
    let writer = host.open("iso");
    put(&writer, 2);
    writer.flush().expect("flushed");
    assert_eq!((get(&disk), get(&writer)), (1, 2));
}

#[test]
fn multiattach_gives_each_name_a_child_of_its_own() {
    let host = Host::new();
    let gold = host.image("gold", Mode::Multiattach);
    assert!(host.open("gold").is_read_only());
    let info = host.info("gold+one");
    assert_eq!((info.len, info.read_only), (LEN, false));
    assert_eq!(host.store.tree().image_count(), 1, "asking makes nothing");
    let (one, two) = (host.open("gold+one"), host.open("gold+two"));
    put(&one, 2);
    put(&two, 3);
    assert_eq!((get(&one), get(&two), host.stored("gold")), (2, 3, 1));
    drop((one, two));
    let host = host.reopened();
    assert_eq!(
        (get(&host.open("gold+one")), get(&host.open("gold+two"))),
        (2, 3),
        "a name finds its own again"
    );
    host.store.delete_image(gold, false).expect("deleted");
    assert_eq!(
        get(&host.open("gold+one")),
        2,
        "children stand on what they stood on"
    );
    assert!(matches!(
        host.exports.open_export("gold+three", Intent::Read),
        Err(OpenError::Unknown(_))
    ));
}

#[test]
fn shareable_has_several_writers_and_no_snapshots() {
    let host = Host::new();
    let quorum = host.image("quorum", Mode::Shareable);
    let others = host.store.exports();
    let (one, two) = (
        host.open("quorum"),
        others
            .open_export("quorum", Intent::ReadWrite)
            .expect("another writer"),
    );
    put(&one, 2);
    assert_eq!(get(&two), 2);
    put(&two, 3);
    drop(two);
    assert_eq!(get(&one), 3, "the first goes on");
    assert!(matches!(
        host.store.take_snapshot(quorum, &name("s")),
        Err(StoreError::Plan(PlanError::ModeForbids { .. }))
    ));
    let child = host
        .store
        .create_child(&name("c"), NodeRef::Image(quorum), Some(10));
    assert!(matches!(
        child,
        Err(StoreError::Plan(PlanError::ModeForbids { .. }))
    ));
}

#[test]
fn an_image_that_stands_still_is_changed_by_nothing() {
    let host = Host::new();
    let other = host.image("other", Mode::Normal);
    for (nth, mode) in [
        Mode::Immutable { autoreset: true },
        Mode::Readonly,
        Mode::Multiattach,
    ]
    .into_iter()
    .enumerate()
    {
        let image = host.image(&format!("image{nth}"), mode);
        let update = ImportRequest {
            target: ImportTarget::Update(image),
            snapshot: None,
        };
        let results = [
            host.store
                .import(
                    drive::input(Content::plain(vec![9; 10]), false),
                    &update,
                    &Unwatched,
                )
                .map(drop),
            host.store.resize_image(image, 10, true),
            host.store.rebase(
                image,
                NodeRef::Image(other),
                RebaseMode::KeepMap,
                &Unwatched,
            ),
            host.store.take_snapshot(image, &name("s")).map(drop),
        ];
        for result in results {
            assert!(
                matches!(result, Err(StoreError::Plan(PlanError::ModeForbids { .. }))),
                "{mode}: {result:?}"
            );
        }
        host.store
            .flatten(image, &Unwatched)
            .expect("its content stays");
        assert_eq!(host.stored(&format!("image{nth}")), 1);
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one history, in its order")]
fn a_machine_with_disks_of_all_modes_goes_back_to_one_moment() {
    let host = Host::new();
    let modes = [
        ("normal", Mode::Normal),
        ("afresh", Mode::Immutable { autoreset: true }),
        ("kept", Mode::Immutable { autoreset: false }),
        ("through", Mode::Writethrough),
        ("shared", Mode::Shareable),
        ("iso", Mode::Readonly),
        ("gold", Mode::Multiattach),
    ];
    let images = modes.map(|(text, mode)| host.image(text, mode));
    let machine = host.machine(&images);
    let names = ["normal", "afresh", "kept", "through", "shared", "gold+vm"];
    let disks = names.map(|text| host.open(text));
    disks.iter().for_each(|disk| put(disk, 2));
    let serial = host
        .store
        .snapshot_machine(machine, &name("early"))
        .expect("while all are attached, nothing flushed");
    disks.iter().for_each(|disk| put(disk, 3));
    assert!(is_attached(
        host.store.restore_machine(machine, serial, None)
    ));
    assert!(
        disks.iter().all(|disk| get(disk) == 3),
        "a refusal changes nothing"
    );
    drop(disks);
    host.store
        .configure_machine(machine, Some(b"<other/>"))
        .expect("configured");
    host.store
        .restore_machine(machine, serial, Some(&name("late")))
        .expect("restored");
    let host = host.reopened();
    let seen = || names.map(|text| get(&host.open(text)));
    assert_eq!(seen(), [2, 2, 2, 3, 3, 2]);
    let configuration = |host: &Host| {
        let configuration = host
            .store
            .tree()
            .machines()
            .get(machine)
            .and_then(|machine| machine.configuration);
        host.store
            .read_configuration(configuration.expect("it has one"))
            .expect("read")
    };
    assert_eq!(configuration(&host), b"<domain/>");
    let late = host
        .store
        .tree()
        .machines()
        .snapshot_named(machine, &name("late"))
        .expect("it was kept")
        .serial;
    host.store
        .restore_machine(machine, late, None)
        .expect("and forth");
    assert_eq!(seen(), [3, 3, 3, 3, 3, 3]);
    assert_eq!(configuration(&host), b"<other/>");
    host.store.delete_machine(machine, true).expect("deleted");
    assert_eq!(
        (
            host.store.tree().machines().all_snapshots().count(),
            host.store.tree().snapshot_count()
        ),
        (0, 0)
    );
    assert_eq!(seen(), [3, 3, 3, 3, 3, 3], "its disks are images as before");
    drive::check(&host.reopened().store, true).expect("nothing is wrong");
}

/// A guest that writes a number to each of its disks in turn, without a flush: whenever a snapshot
/// is taken, no disk is ahead of one before it, and the first is ahead of the last by no more than
/// one.
#[test]
fn a_machine_snapshot_is_one_moment_for_all_its_disks() {
    const SNAPSHOTS: usize = 40;
    let host = Host::new();
    let names: [String; 8] = std::array::from_fn(|nth| format!("disk{nth}"));
    let machine = host.machine(&names.each_ref().map(|text| host.image(text, Mode::Normal)));
    let disks = names.each_ref().map(|text| host.open(text));
    let write = |disk: &Disk, value: u32| disk.write_at(&value.to_le_bytes(), AT).expect("written");
    disks.iter().for_each(|disk| write(disk, 0));
    let (written, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for value in (1..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                disks.iter().for_each(|disk| write(disk, value));
                written.store(value, Ordering::Relaxed);
            }
        });
        for nth in 0..SNAPSHOTS {
            // The guest is at work whenever a snapshot is taken, however few cores there are.
            let before = written.load(Ordering::Relaxed);
            while written.load(Ordering::Relaxed) < before + 2 {
                std::thread::yield_now();
            }
            host.store
                .snapshot_machine(machine, &name(&format!("s{nth}")))
                .expect("a snapshot");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let number = |text: String| {
        let bytes = drive::read(&host.store, &text).expect("reads");
        u32::from_le_bytes(bytes[AT as usize..][..4].try_into().expect("four bytes"))
    };
    let moments: Vec<_> = (0..SNAPSHOTS)
        .map(|nth| {
            names
                .each_ref()
                .map(|disk| number(format!("{disk}@s{nth}")))
        })
        .collect();
    for moment in &moments {
        assert!(
            moment.is_sorted_by(|before, after| before >= after) && moment[0] <= moment[7] + 1,
            "{moment:?}"
        );
    }
    assert!(
        moments.is_sorted_by(|before, after| before[0] < after[0]),
        "{moments:?}"
    );
}

/// Clients that come and go, several at a time: none is turned away because another is just
/// leaving, and nothing is lost on the way.
#[test]
fn a_client_that_comes_right_back_finds_its_disk() {
    let host = Host::new();
    host.image("web", Mode::Normal);
    std::thread::scope(|scope| {
        for place in 0..4_u64 {
            let host = &host;
            scope.spawn(move || {
                for value in 1..=50_u8 {
                    let disk = host.open("web");
                    let mut before = [0];
                    disk.read_at(&mut before, place * 7000).expect("read");
                    assert_eq!(before[0], value.max(2) - 1, "what this client wrote last");
                    disk.write_at(&[value], place * 7000).expect("written");
                }
            });
        }
    });
}

#[test]
#[expect(clippy::too_many_lines, reason = "one history, in its order")]
fn exports_are_listed_named_and_counted() {
    let host = Host::new();
    let web = host.image("web", Mode::Normal);
    assert_eq!(host.info("").name, "web", "the only image needs no name");
    host.take(web, "s");
    host.image("gold", Mode::Immutable { autoreset: true });
    assert!(
        matches!(host.exports.export_info(""), Err(OpenError::Unknown(_))),
        "two do"
    );
    drop(host.open("gold"));
    let listed: Vec<String> = host
        .exports
        .list_exports()
        .expect("a list")
        .into_iter()
        .map(|export| export.name)
        .collect();
    assert_eq!(
        listed,
        ["gold", "web", "web@s"],
        "a scratch image is no export"
    );
    for bad in [
        "we",
        "web@",
        "web@x",
        "@",
        "gold+scratch",
        "../web",
        "web\0",
        "web+x",
        &"n".repeat(5000),
    ] {
        assert!(
            matches!(
                host.exports.open_export(bad, Intent::Read),
                Err(OpenError::Unknown(_))
            ),
            "{bad:?}"
        );
        assert!(
            matches!(host.exports.export_info(bad), Err(OpenError::Unknown(_))),
            "{bad:?}"
        );
    }
    let revision = || host.exports.revision();
    let disk = host.open("web");
    let before = revision();
    put(&disk, 9);
    disk.flush().expect("flushed");
    assert_eq!(
        revision(),
        before,
        "what a guest writes is no change of the list"
    );
    drop(disk);
    let changes: [&dyn Fn(); 4] = [
        &|| {
            host.store
                .rename_node(NodeRef::Image(web), &name("www"))
                .expect("renamed");
        },
        &|| host.store.resize_image(web, LEN + 1, false).expect("grown"),
        &|| host.store.set_mode(web, Mode::Readonly).expect("changed"),
        &|| assert!(host.store.create_image(&name("new"), 1).is_ok()),
    ];
    for change in changes {
        let before = revision();
        change();
        assert_ne!(revision(), before);
    }
}

#[test]
fn a_store_that_is_only_read_offers_everything_read_only() {
    let host = Host::new();
    host.image("web", Mode::Normal);
    host.image("gold", Mode::Multiattach);
    let reading = Store::open_dir(&host.dir, Access::ReadOnly, "test").expect("opens");
    let exports = reading.exports();
    assert!(
        exports
            .list_exports()
            .expect("a list")
            .iter()
            .all(|export| export.read_only)
    );
    for text in ["web", "gold", "gold+vm"] {
        let disk = exports.open_export(text, Intent::ReadWrite).expect("opens");
        assert!(disk.is_read_only() && get(&disk) == 1, "{text}");
    }
}

/// rsync, restic, borg and tar read a file again only if its time is another one.
#[test]
fn the_time_of_a_change_moves_with_the_content_and_with_nothing_else() {
    let host = Host::new();
    let web = host.image("web", Mode::Normal);
    let time = |text: &str| host.info(text).changed_ns;
    let mut seen = vec![time("web")];
    let mut moved = |what: &str| {
        let now = time("web");
        assert!(!seen.contains(&now), "{what}: {seen:?}");
        assert_eq!(time("web"), now, "{what}: looking is no change");
        seen.push(now);
        now
    };
    let disk = host.open("web");
    for value in 2..50 {
        put(&disk, value);
        moved("written, nothing flushed");
    }
    disk.write_zeroes(0, LEN).expect("zeroed");
    let before = moved("zeroed");
    disk.flush().expect("flushed");
    assert_eq!(time("web"), before, "a flush is no change");
    let serial = host.take(web, "s");
    assert_eq!((time("web"), time("web@s")), (before, before));
    put(&disk, 60);
    let written = moved("written after a snapshot");
    drop(disk);
    assert_eq!(time("web"), written, "detaching is no change");
    assert_eq!(time("web@s"), before, "a snapshot keeps its time");
    host.store.flatten(web, &Unwatched).expect("flattened");
    assert_eq!(time("web"), written, "nor is another map");
    host.store
        .restore_snapshot(web, serial, None)
        .expect("restored");
    let restored = moved("restored");
    let host = host.reopened();
    let time = |text: &str| host.info(text).changed_ns;
    assert_eq!((time("web"), time("web@s")), (restored, before));
    let update = |byte, len: usize| {
        let request = ImportRequest {
            target: ImportTarget::Update(web),
            snapshot: None,
        };
        let content = drive::input(Content::plain(vec![byte; len]), false);
        host.store
            .import(content, &request, &Unwatched)
            .expect("updated");
        host.info("web").changed_ns
    };
    let updated = update(9, LEN as usize);
    assert!(updated > restored);
    assert_eq!(update(9, LEN as usize), updated, "nothing was new");
    assert!(update(9, 10) > updated, "shorter");
    let shorter = time("web");
    host.store.resize_image(web, LEN, false).expect("grown");
    assert!(time("web") > shorter);
}
