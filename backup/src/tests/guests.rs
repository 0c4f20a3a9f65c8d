//! Tests of guests that read points straight from a repository: what they read is right whatever is
//! cached of it, and costs few requests, once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vellum_core::device::{Device, Exports, Intent};

use super::grower::{name, new_store};
use super::{Client, assert_same};
use crate::device::RepositoryExports;
use crate::objects::memory::{Effect, Fault, Memory, Request};
use crate::reader::CacheLimits;
use crate::repository::{ClientFolders, Repository, Rollback};
use crate::testing::seed;

const MIB: usize = 1 << 20;
/// Noise, so that a frame of 128 KiB takes as much in a pack: 192 frames.
const DISK_LEN: usize = 24 * MIB;
const FRAME_LEN: usize = 128 << 10;
/// The greatest number of fetches of a sequential reading: of 0.5, 1, 2, 4, 8 and 8 MiB, and some
/// more since an encrypted pack has its frames in any order.
const ORDERLY_MAX: usize = 12;

/// A repository with one image, and what it shows.
struct Scene {
    client: Client,
    disk: Vec<u8>,
}

impl Scene {
    fn new(is_encrypted: bool, seed: u64) -> Self {
        let mut disk = vec![0; DISK_LEN];
        fastrand::Rng::with_seed(seed).fill(&mut disk);
        // A hole, as disks have them.
        disk[7 * MIB..8 * MIB].fill(0);
        let (_dir, store) = new_store();
        let image = store
            .create_image(&name("web"), DISK_LEN as u64)
            .expect("create")
            .image_id();
        store
            .open_live(image)
            .and_then(|live| live.write_at(&disk, 0).and_then(|()| live.flush()))
            .expect("write");
        let client = Client::new(is_encrypted);
        client.push(&store).expect("a push");
        Self { client, disk }
    }

    /// A server that has just started.
    fn start(&self, folders: ClientFolders, limits: CacheLimits) -> Arc<dyn Device> {
        let repository = Repository::open(
            self.client.objects(),
            self.client.opener.as_ref(),
            folders,
            Rollback::Refused,
        )
        .expect("it opens");
        let exports = RepositoryExports::new(repository, limits).expect("it can be served");
        exports
            .open_export("web", Intent::Read)
            .expect("the image is there")
    }

    fn start_again(&self) -> Arc<dyn Device> {
        self.start(self.client.client_folders(), CacheLimits::default())
    }

    /// Reads all of it in order, as many bytes at a time as guests do, and says how many ranges of
    /// objects were fetched for it.
    fn read_in_order(&self, device: &dyn Device) -> usize {
        let mut found = vec![0xaa; DISK_LEN];
        for (nth, part) in found.chunks_mut(32 << 10).enumerate() {
            device
                .read_at(part, (nth * (32 << 10)) as u64)
                .expect("it reads");
        }
        assert_same(&found, &self.disk, "read in order");
        self.fetched()
    }

    /// The number of ranges of objects that were fetched since the last call.
    fn fetched(&self) -> usize {
        self.client
            .place
            .take_log()
            .iter()
            .filter(|(request, _)| *request == Request::GetRange)
            .count()
    }

    /// The files of the client's folder that hold parts.
    fn kept(&self) -> Vec<PathBuf> {
        let cache = self.client.client_folders().cache.expect("it has one");
        let repositories = fs::read_dir(cache).into_iter().flatten().flatten();
        let folders = repositories.map(|entry| entry.path().join("parts"));
        let mut files: Vec<PathBuf> = folders
            .flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten())
            .map(|entry| entry.path())
            .collect();
        files.sort();
        files
    }

    /// The place forgets everything that a guest reads.
    fn lose_all(&self) {
        let is_left = |name: &str| !name.starts_with("packs/") && !name.starts_with("maps/");
        let objects = self
            .client
            .place
            .snapshot()
            .into_iter()
            .filter(|(name, _)| is_left(name))
            .collect();
        self.client.place.replace_all(objects);
    }
}

#[test]
fn reading_in_order_costs_few_requests_and_a_second_start_none() {
    for is_encrypted in [false, true] {
        let scene = Scene::new(is_encrypted, seed());
        let first = scene.start_again();
        assert!(scene.fetched() > 0, "maps were read");
        let fetched = scene.read_in_order(&*first);
        assert!(
            (1..=ORDERLY_MAX).contains(&fetched),
            "{fetched} requests for {} frames",
            DISK_LEN / FRAME_LEN
        );
        let second = scene.start_again();
        assert_eq!(scene.read_in_order(&*second), 0);
        scene.lose_all();
        assert_eq!(scene.read_in_order(&*scene.start_again()), 0);
        assert!(scene.kept().len() >= 2, "a pack and a maps object");
    }
}

#[test]
fn a_guest_that_reads_one_sector_fetches_a_small_part() {
    let scene = Scene::new(true, seed());
    let device = scene.start_again();
    scene.fetched();
    let mut sector = [0; 512];
    device
        .read_at(&mut sector, 3 * MIB as u64 + 512)
        .expect("it reads");
    assert_eq!(sector, scene.disk[3 * MIB + 512..3 * MIB + 1024]);
    assert_eq!(
        scene.fetched(),
        2,
        "what the index has of its segment, and it"
    );
    scene.lose_all();
    // The frames that came with it are there; most are not.
    let is_there = (0..DISK_LEN / FRAME_LEN)
        .filter(|nth| {
            device
                .read_at(&mut sector, (nth * FRAME_LEN) as u64)
                .is_ok()
        })
        .count();
    assert!(
        (8..20).contains(&is_there),
        "{is_there} frames, eight of them of the hole"
    );
}

/// Damages a file in the client's folder in one of the possible ways.
fn damage(bytes: &mut Vec<u8>, kind: usize, random: &mut fastrand::Rng) {
    match kind {
        0 => (0..200).for_each(|_| {
            let at = random.usize(..bytes.len());
            bytes[at] ^= 1 << random.u8(..8);
        }),
        1 => bytes.truncate(random.usize(..bytes.len())),
        2 => {
            let at = random.usize(..bytes.len());
            bytes[at..].fill(0);
        }
        // Whole parts, each well sealed, in places of others.
        3 => {
            let middle = FRAME_LEN.min(bytes.len() / 2);
            bytes.rotate_left(middle);
        }
        4 => bytes.clear(),
        _ => random.fill(bytes),
    }
}

#[test]
fn what_is_damaged_in_the_folder_is_fetched_anew_and_mended() {
    for is_encrypted in [false, true] {
        let seed = seed();
        let scene = Scene::new(is_encrypted, seed);
        let mut random = fastrand::Rng::with_seed(seed);
        scene.read_in_order(&*scene.start_again());
        for kind in 0..6 {
            for file in scene.kept() {
                let mut bytes = fs::read(&file).expect("it is there");
                damage(&mut bytes, kind, &mut random);
                fs::write(&file, bytes).expect("room");
            }
            let device = scene.start_again();
            assert!(
                scene.read_in_order(&*device) > 0,
                "damage {kind} was not met"
            );
            assert_eq!(
                scene.read_in_order(&*scene.start_again()),
                0,
                "damage {kind} was not mended"
            );
        }
        // Files that take each other's places.
        let files = scene.kept();
        let contents: Vec<Vec<u8>> = files
            .iter()
            .map(|file| fs::read(file).expect("it is there"))
            .collect();
        files
            .iter()
            .zip(contents.iter().rev())
            .for_each(|(file, bytes)| fs::write(file, bytes).expect("room"));
        assert!(scene.read_in_order(&*scene.start_again()) > 0);
        assert_eq!(scene.read_in_order(&*scene.start_again()), 0);
    }
}

#[test]
fn without_a_folder_a_guest_reads_as_well() {
    let scene = Scene::new(true, seed());
    let usual = scene.client.client_folders();
    let in_the_way = scene.client.folders.path().join("file");
    fs::write(&in_the_way, b"no folder").expect("room");
    let without = ClientFolders {
        cache: None,
        ..usual.clone()
    };
    let blocked = ClientFolders {
        cache: Some(in_the_way),
        ..usual.clone()
    };
    let off = CacheLimits {
        disk_len: 0,
        ..CacheLimits::default()
    };
    let tiny = CacheLimits {
        disk_len: 1,
        memory_len: 1,
    };
    for (folders, limits) in [
        (without, CacheLimits::default()),
        (blocked, CacheLimits::default()),
        (usual.clone(), off),
        (usual, tiny),
    ] {
        let device = scene.start(folders, limits);
        scene.fetched();
        let fetched = scene.read_in_order(&*device);
        assert!((1..=ORDERLY_MAX).contains(&fetched), "{fetched} requests");
        assert_eq!(scene.kept(), [] as [&Path; 0], "nothing was to be kept");
    }
}

#[test]
fn many_guests_at_once_read_what_is_there_and_fetch_it_about_once() {
    let scene = Scene::new(true, seed());
    let device = scene.start_again();
    scene.fetched();
    std::thread::scope(|scope| {
        for reader in 0..8_usize {
            let (scene, device) = (&scene, &device);
            // In order, each a little behind the one before, as requests in a queue are.
            scope.spawn(move || {
                let mut found = vec![0; 64 << 10];
                for at in (reader * found.len()..DISK_LEN).step_by(8 * found.len()) {
                    device.read_at(&mut found, at as u64).expect("it reads");
                    assert_same(&found, &scene.disk[at..at + found.len()], "read in turns");
                }
            });
        }
    });
    let fetched = scene.fetched();
    assert!(fetched <= 3 * ORDERLY_MAX, "{fetched} requests");
    assert_eq!(scene.read_in_order(&*scene.start_again()), 0);
}

#[test]
fn two_servers_on_one_folder_do_not_hurt_each_other() {
    let seed = seed();
    let scene = Scene::new(true, seed);
    // So small that both throw away all the time, and what one reads the other removes.
    let limits = CacheLimits {
        disk_len: 8 * MIB as u64,
        memory_len: MIB as u64,
    };
    std::thread::scope(|scope| {
        for reader in 0..4 {
            let device = scene.start(scene.client.client_folders(), limits);
            let scene = &scene;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed.wrapping_add(reader));
                let mut found = vec![0; 200_000];
                for _ in 0..200 {
                    let at = random.usize(..DISK_LEN - found.len());
                    device.read_at(&mut found, at as u64).expect("it reads");
                    assert_same(&found, &scene.disk[at..at + found.len()], "read at random");
                }
            });
        }
    });
}

#[test]
fn a_bit_that_flips_on_the_way_is_not_kept_for_good() {
    let scene = Scene::new(true, seed());
    let device = scene.start_again();
    scene.fetched();
    scene.client.place.fail(Fault {
        request: Some(Request::GetRange),
        after: 0,
        effect: Effect::Flipped,
    });
    // It may be in what is wanted, which is an error, or in what came along, which is found when
    // that is wanted.
    let _ = device.read_at(&mut [0; 512], 0);
    let fetched = scene.read_in_order(&*device);
    assert!(fetched <= 2 * ORDERLY_MAX, "{fetched} requests");
    assert_eq!(scene.read_in_order(&*scene.start_again()), 0);
}

#[test]
fn a_pack_that_lost_its_end_still_shows_its_beginning() {
    let scene = Scene::new(true, seed());
    let mut objects = scene.client.place.snapshot();
    let longest = objects
        .iter()
        .filter(|(name, _)| name.starts_with("packs/"))
        .max_by_key(|(_, bytes)| bytes.len());
    let (name, bytes) = longest
        .map(|(name, bytes)| (name.clone(), bytes.clone()))
        .expect("a pack");
    objects.insert(name, bytes[..10 * MIB + 5].into());
    scene.client.place.replace_all(objects);
    let device = scene.start_again();
    let mut found = vec![0; FRAME_LEN];
    let read = (0..DISK_LEN / FRAME_LEN).map(|nth| {
        let at = nth * FRAME_LEN;
        let is_read = device.read_at(&mut found, at as u64).is_ok();
        assert!(
            !is_read || found == scene.disk[at..at + FRAME_LEN],
            "a wrong byte at {at}"
        );
        is_read
    });
    let count = read.filter(|is_read| *is_read).count() * FRAME_LEN;
    // With a hole of a mebibyte, which is never missed.
    assert!(
        (10 * MIB..12 * MIB).contains(&count),
        "{count} bytes were read"
    );
}

#[test]
fn a_place_that_is_away_for_a_while_is_asked_again() {
    let scene = Scene::new(true, seed());
    let device = scene.start_again();
    let place: &Memory = &scene.client.place;
    place.fail(Fault {
        request: None,
        after: 3,
        effect: Effect::Dead,
    });
    let mut found = vec![0; DISK_LEN];
    device.read_at(&mut found, 0).expect_err("it is away");
    place.heal();
    scene.read_in_order(&*device);
}
