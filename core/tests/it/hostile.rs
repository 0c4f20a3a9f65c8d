//! Metadata that was changed at random: an answer in bounds, and no more than was free before where
//! sums tell.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use vellum_core::guest::survey_disk;
use vellum_core::source::ReadAt;

use crate::disks::RECIPES;
use crate::logical_volumes::{description, physical_volume};
use crate::tools::{FileDisk, run, text};

const SECTOR_LEN: u64 = 512;
const ROUNDS: usize = 400;

/// The sectors of a disk that a survey looks at and that are not zero; the others are zero.
#[derive(Clone)]
struct Sectors {
    len: u64,
    found: BTreeMap<u64, [u8; SECTOR_LEN as usize]>,
}

/// A disk that remembers what was read of it.
struct Recorder<'d> {
    disk: &'d dyn ReadAt,
    found: Mutex<BTreeMap<u64, [u8; SECTOR_LEN as usize]>>,
}

impl ReadAt for Recorder<'_> {
    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        // The search for marks reads more at once than anything else: what the marks lead to is
        // read again.
        if buffer.len() > 64 << 10 {
            return self.disk.read_exact_at(buffer, offset);
        }
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let end = offset + buffer.len() as u64;
        for sector in offset / SECTOR_LEN..end.div_ceil(SECTOR_LEN) {
            let mut bytes = [0; SECTOR_LEN as usize];
            let len = (self.disk.len() - sector * SECTOR_LEN).min(SECTOR_LEN);
            self.disk
                .read_exact_at(&mut bytes[..len as usize], sector * SECTOR_LEN)?;
            if bytes.iter().any(|byte| *byte != 0) {
                found.insert(sector, bytes);
            }
        }
        self.disk.read_exact_at(buffer, offset)
    }
}

impl Sectors {
    /// What a survey of `disk` looks at.
    fn of(disk: &dyn ReadAt) -> Self {
        let recorder = Recorder {
            disk,
            found: Mutex::default(),
        };
        survey_disk(&recorder).expect("a file can be read");
        Self {
            len: disk.len(),
            found: recorder
                .found
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// The same with some bytes changed.
    fn changed(&self, random: &mut fastrand::Rng) -> Self {
        let mut changed = self.clone();
        let sectors: Vec<u64> = self.found.keys().copied().collect();
        for _ in 0..random.usize(1..4) {
            let sector = sectors[random.usize(..sectors.len())];
            let bytes = changed.found.get_mut(&sector).expect("chosen from them");
            let at = random.usize(..bytes.len());
            bytes[at] = match random.u8(..4) {
                0 => 0,
                1 => 0xff,
                2 => bytes[at] ^ 1 << random.u8(..8),
                _ => random.u8(..),
            };
        }
        changed
    }

    /// As the fuzz target `guest` reads it: a sector's number, a count, their bytes.
    fn seed(&self) -> Vec<u8> {
        let mut seed = Vec::new();
        for (sector, bytes) in &self.found {
            seed.extend(u32::try_from(*sector).expect("a small disk").to_le_bytes());
            seed.push(1);
            seed.extend(bytes);
        }
        seed
    }
}

impl ReadAt for Sectors {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset
            .checked_add(buffer.len() as u64)
            .expect("no read goes round the end");
        assert!(end <= self.len, "no read goes past the end");
        buffer.fill(0);
        for (sector, bytes) in self
            .found
            .range(offset / SECTOR_LEN..end.div_ceil(SECTOR_LEN))
        {
            for (at, byte) in (sector * SECTOR_LEN..).zip(bytes) {
                if (offset..end).contains(&at) {
                    buffer[(at - offset) as usize] = *byte;
                }
            }
        }
        Ok(())
    }
}

/// True if every range of `inner` lies in one of `outer`; both are in order.
fn lie_in(inner: &[Range<u64>], outer: &[Range<u64>]) -> bool {
    inner.iter().all(|range| {
        let nth = outer.partition_point(|other| other.end <= range.start);
        let around = outer.get(nth);
        around.is_some_and(|around| around.start <= range.start && range.end <= around.end)
    })
}

#[test]
fn changed_metadata_is_refused_or_read_in_bounds() {
    let seed = std::env::var("VELLUM_TEST_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().expect("a seed"));
    println!("VELLUM_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = tempfile::tempdir().expect("room");
    let disk = folder.path().join("disk");
    for recipe in RECIPES {
        recipe.make_on_zeros(&disk);
        recipe.fill(&disk);
        let good = Sectors::of(&FileDisk::open(&disk));
        let has_sums = match recipe.kind {
            "ext4" => !recipe.name().contains("^metadata_csum"),
            "xfs" => !recipe.name().contains("crc=0"),
            "btrfs" => !recipe.name().contains("xxhash"),
            _ => false,
        };
        try_changes(&recipe.name(), &good, has_sums, &mut random);
    }
    let good = Sectors::of(&simple_group());
    try_changes("lvm", &good, true, &mut random);
}

/// A physical volume with one logical volume.
fn simple_group() -> Vec<u8> {
    let linear = "type = \"striped\"\nstripe_count = 1\nstripes = [\"pv0\", 2]";
    let segment = format!("segment1 {{ start_extent = 0\nextent_count = 4\n{linear} }}");
    let root = format!("root {{ status = [\"VISIBLE\"]\n{segment} }}");
    physical_volume(&description(&root), 512)
}

/// Changes a disk again and again; if it `has_sums`, no more is free than before.
fn try_changes(name: &str, good: &Sectors, has_sums: bool, random: &mut fastrand::Rng) {
    let before = survey_disk(good).expect("in memory");
    assert!(
        before.free_len() > 0,
        "{name}: what is not read does not count"
    );
    let mut answered = 0;
    for round in 0..ROUNDS {
        let changed = good.changed(random);
        let space = survey_disk(&changed).expect("in memory");
        answered += usize::from(space.free_len() > 0);
        assert!(
            space
                .free_ranges()
                .is_sorted_by(|one, next| one.end < next.start)
        );
        assert!(
            space
                .free_ranges()
                .iter()
                .all(|one| one.start < one.end && one.end <= good.len)
        );
        assert!(
            !has_sums || lie_in(space.free_ranges(), before.free_ranges()),
            "{name}, round {round}: something in use would be dropped"
        );
    }
    println!("{name}: {answered} of {ROUNDS} changed disks are believed");
}

/// The seeds of the fuzz target `guest`, small disks of every kind. Those that are there stay.
#[test]
#[ignore = "writes into the source tree"]
fn write_missing_seeds() {
    let folder = tempfile::tempdir().expect("room");
    let disk = folder.path().join("disk");
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/guest");
    for (name, mebibytes, words) in [
        ("ntfs", 4, "mkntfs -F -q"),
        ("fat12", 4, "mkfs.vfat -F12"),
        ("fat16", 16, "mkfs.vfat -F16"),
        ("fat32", 40, "mkfs.vfat -F32 -s1"),
        ("exfat", 4, "mkfs.exfat"),
        ("btrfs", 130, "mkfs.btrfs -qf -n 4096"),
        ("btrfs-mixed", 32, "mkfs.btrfs -qf --mixed"),
    ] {
        std::fs::File::create(&disk)
            .and_then(|file| file.set_len(mebibytes << 20))
            .expect("room");
        let mut words = words.split(' ');
        let program = words.next().expect("a program");
        run(program, &words.chain([text(&disk)]).collect::<Vec<_>>());
        write_seed(corpus, name, &Sectors::of(&FileDisk::open(&disk)));
    }
    write_seed(corpus, "lvm", &Sectors::of(&simple_group()));
}

fn write_seed(corpus: &str, name: &str, sectors: &Sectors) {
    let seed = std::path::Path::new(corpus).join(name);
    if !seed.exists() {
        std::fs::write(&seed, sectors.seed()).expect("room");
    }
}
