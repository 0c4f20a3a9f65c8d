//! A soak test: everything that can happen to a store, all at once, checked against a model.
//!
//! A *history* runs on a real file system on a recorded device. A person's commands, a repository,
//! files and guests work on it; commands and servers are killed, the disk fills up. After each kill
//! the present state is checked against the allowed ones. When the history is over, power is lost
//! at places of the device's trace: the file system recovers what is left, and everything that had
//! been acknowledged by then must be there, nothing half visible, and the check clean. Now and then
//! the recovery is cut off as well, and the next history begins on the remains of a cut.
//!
//! The command is the real one, and so are the server, its clients, the file systems and the
//! kernel's loop device. Only the disk is simulated.

mod damage;
mod guest;
mod look;
mod model;
mod nbd;
mod plan;
mod round;
mod site;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::block::BlockContent;
use crate::block_device::DeviceFolder;
use crate::file_system::{FileSystem, lacking};

use guest::Traffic;
use look::Found;
use round::Round;
use site::{Clock, Site};

/// The options of a run.
#[derive(Clone, Debug)]
pub struct SoakOptions {
    /// The command under test.
    pub vellum: PathBuf,
    /// The seed of all random choices; threads go their own ways.
    pub seed: u64,
    /// The file systems; those that cannot be had are left out with a word.
    pub file_systems: Vec<FileSystem>,
    /// The time after which no further history is begun.
    pub limit: Duration,
    /// Histories at most.
    pub histories: u64,
    /// Losses of power in each history, beside those that a script asks for.
    pub cuts: u64,
    /// Begin with one operation of each kind, and lose power right behind each.
    pub script: bool,
    /// Kill commands and servers, fill the disk, flip bits.
    pub trouble: bool,
    /// Let histories begin on what a loss of power in the one before left, mostly.
    pub goes_on: bool,
}

/// The work of a run, and its findings.
#[derive(Clone, Debug, Default)]
pub struct SoakTally {
    /// Histories.
    pub histories: u64,
    /// Operations that were acknowledged, by kind.
    pub operations: BTreeMap<String, u64>,
    /// Commands that were killed while they worked.
    pub killed_commands: u64,
    /// Servers that were killed while guests wrote.
    pub killed_servers: u64,
    /// Losses of power, by file system.
    pub cuts: BTreeMap<&'static str, u64>,
    /// Losses of power while what another had left was being recovered.
    pub cut_recoveries: u64,
    /// File systems that the kernel could not recover: their own matter.
    pub lost_file_systems: u64,
    /// Times that the disk was full, and operations that were refused meanwhile.
    pub full_disks: u64,
    /// Operations that were refused on a full disk.
    pub refused: u64,
    /// Bits that were flipped in copies of stores.
    pub flips: u64,
    /// The flips of those that a check found, or that kept the store shut.
    pub flips_found: u64,
    /// Writes of guests that were answered.
    pub writes: u64,
    /// Flushes of guests that were answered.
    pub flushes: u64,
    /// The violations, each with the seed of its history.
    pub violations: Vec<String>,
    /// The parts that could not be tried, and the reasons.
    pub skipped: Vec<String>,
}

/// A history that goes on from a loss of power.
struct Left {
    kind: FileSystem,
    content: BlockContent,
    found: Found,
}

/// The state of one run.
struct Soak<'o> {
    options: &'o SoakOptions,
    /// Before the folder that it is in: it is dropped first.
    devices: DeviceFolder,
    scratch: tempfile::TempDir,
    empty: Vec<(FileSystem, BlockContent)>,
    clock: Arc<Clock>,
    traffic: Arc<Traffic>,
    tally: SoakTally,
}

/// `program` in mounts of its own, so that whatever becomes of it, its file systems and devices go
/// with it.
#[must_use]
pub fn contained(program: &std::path::Path) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "--"])
        .arg(program);
    command
}

/// The reason why a run is impossible here; none if it is possible.
#[must_use]
pub fn impossible() -> Option<String> {
    lacking()
}

/// Runs histories until the time is over, and returns the findings. Must run [`contained`].
pub fn soak(options: &SoakOptions, mut tell: impl FnMut(&SoakTally)) -> Result<SoakTally, String> {
    let mut soak = Soak::new(options)?;
    let begun = Instant::now();
    let mut left = None;
    let mut seeds = fastrand::Rng::with_seed(options.seed);
    for nth in 0..options.histories {
        if begun.elapsed() >= options.limit || soak.empty.is_empty() {
            break;
        }
        // The first history's seed is the run's: a violation is found again with its own seed
        // alone.
        let seed = if nth == 0 {
            options.seed
        } else {
            seeds.u64(..1 << 32)
        };
        let begun_on = left.take().filter(|_| options.goes_on);
        left = soak.history(nth, seed, begun_on);
        tell(&soak.tally);
    }
    Ok(soak.tally)
}

impl<'o> Soak<'o> {
    fn new(options: &'o SoakOptions) -> Result<Self, String> {
        let fail = |error: std::io::Error| format!("a folder for devices: {error}");
        let memory = std::path::Path::new("/dev/shm");
        let scratch = if memory.is_dir() {
            tempfile::TempDir::with_prefix_in("vellum-soak-", memory)
        } else {
            tempfile::tempdir()
        };
        let scratch = scratch.map_err(fail)?;
        for folder in ["devices", "disk", "cut", "files"] {
            std::fs::create_dir(scratch.path().join(folder)).map_err(fail)?;
        }
        let devices = DeviceFolder::mount(&scratch.path().join("devices")).map_err(fail)?;
        let mut tally = SoakTally::default();
        let mut empty = Vec::new();
        for kind in &options.file_systems {
            match kind.make(scratch.path()) {
                Ok(content) => empty.push((*kind, content)),
                Err(why) => tally.skipped.push(format!("{}: {why}", kind.name())),
            }
        }
        Ok(Self {
            options,
            devices,
            scratch,
            empty,
            clock: Arc::default(),
            traffic: Arc::default(),
            tally,
        })
    }

    /// One history, and the cuts of it; what the next may begin on.
    fn history(&mut self, nth: u64, seed: u64, left: Option<Left>) -> Option<Left> {
        let (kind, content, found) = if let Some(left) = left {
            (left.kind, left.content, Some(left.found))
        } else {
            let (kind, content) = self.empty[nth as usize % self.empty.len()].clone();
            (kind, content, None)
        };
        let is_script = self.options.script && found.is_none() && nth < self.empty.len() as u64;
        let mut round = Round::new(self, kind, seed);
        let result = round.run(content, found, is_script);
        self.tally.histories += 1;
        self.tally.writes = self.traffic.writes.load(Ordering::Relaxed);
        self.tally.flushes = self.traffic.flushes.load(Ordering::Relaxed);
        match result {
            Ok(left) => left,
            Err(error) => {
                let place = format!("{}, seed {seed}: {error}", kind.name());
                self.tally.violations.push(place);
                None
            }
        }
    }

    fn site(&self, folder: &str) -> Site {
        Site {
            vellum: self.options.vellum.clone(),
            root: self.scratch.path().join(folder),
            scratch: self.scratch.path().join("files"),
        }
    }
}

impl SoakTally {
    /// All losses of power.
    #[must_use]
    pub fn all_cuts(&self) -> u64 {
        self.cuts.values().sum::<u64>() + self.cut_recoveries
    }

    /// All kills.
    #[must_use]
    pub fn kills(&self) -> u64 {
        self.killed_commands + self.killed_servers
    }
}

impl std::fmt::Display for SoakTally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let done: u64 = self.operations.values().sum();
        let cuts: Vec<String> = self
            .cuts
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        writeln!(
            f,
            "{} histories, {done} operations acknowledged",
            self.histories
        )?;
        writeln!(
            f,
            "{} power cuts ({}, while recovering {}; {} file systems did not come back)",
            self.all_cuts(),
            cuts.join(", "),
            self.cut_recoveries,
            self.lost_file_systems
        )?;
        writeln!(
            f,
            "{} kills (commands {}, servers {})",
            self.kills(),
            self.killed_commands,
            self.killed_servers
        )?;
        writeln!(
            f,
            "{} full disks ({} operations refused), {} flipped bits ({} found)",
            self.full_disks, self.refused, self.flips, self.flips_found
        )?;
        writeln!(
            f,
            "guests: {} writes, {} flushes answered",
            self.writes, self.flushes
        )?;
        for skipped in &self.skipped {
            writeln!(f, "skipped: {skipped}")?;
        }
        for violation in &self.violations {
            writeln!(f, "VIOLATION: {violation}")?;
        }
        write!(f, "{} violations", self.violations.len())
    }
}
