//! Runs a worker of this binary under the recorder, and walks through the log that it leaves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use vellum_power::disk::{Disk, Entry, Tree};
use vellum_power::log::{self, Event};

/// The variable with the worker's folder, which is recorded.
const ROOT: &str = "VELLUM_POWER_ROOT";
/// The variable with the worker's seed.
const SEED: &str = "VELLUM_POWER_SEED";
/// The recorder turns an attempt to open this into a mark.
const MARK_PREFIX: &str = "/vellum-power-mark/";
/// Made with a call that the recorder does not see, and holds nothing.
const RESERVE: &str = "store/reserve";

/// A worker's log, and the disk that it began with.
pub(crate) struct Recording {
    pub(crate) start: Tree,
    pub(crate) events: Vec<Event>,
}

/// The instructions for a worker.
pub(crate) struct Orders {
    pub(crate) root: PathBuf,
    pub(crate) seed: u64,
}

/// The orders of the worker that this process is; `None` if it is none.
pub(crate) fn orders() -> Option<Orders> {
    let root = std::env::var_os(ROOT)?.into();
    let seed = std::env::var(SEED)
        .expect("a seed comes with the folder")
        .parse()
        .expect("a number");
    Some(Orders { root, seed })
}

/// Puts `text` into the log of this process.
pub(crate) fn mark(text: &str) {
    drop(fs::File::open(format!("{MARK_PREFIX}{text}")));
}

/// The number that the environment gives, or `default`.
pub(crate) fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// An empty folder in memory: the simulation says what is durable, so that no real sync is needed.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::TempDir::with_prefix_in("vellum-power-", memory)
    } else {
        tempfile::tempdir()
    };
    made.expect("a folder for a test can be made")
}

impl Recording {
    /// Runs `worker`, an ignored test of this binary, on a disk that holds `start`.
    pub(crate) fn of(worker: &str, seed: u64, start: Tree) -> Self {
        let folder = scratch();
        let (root, log) = (folder.path().join("root"), folder.path().join("log"));
        write(&start, &root);
        let ended = Command::new(std::env::current_exe().expect("a test knows its binary"))
            .args([
                "--exact",
                worker,
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env("LD_PRELOAD", recorder(folder.path()))
            .env("VELLUM_RECORD_ROOT", &root)
            .env("VELLUM_RECORD_LOG", &log)
            .env(ROOT, &root)
            .env(SEED, seed.to_string())
            .output()
            .expect("the test binary starts itself");
        assert!(
            ended.status.success(),
            "the worker failed: {}",
            String::from_utf8_lossy(&ended.stderr)
        );
        let events = log::parse(&fs::read(log).expect("the recorder leaves a log"))
            .expect("the recorder writes whole entries");
        let recording = Self { start, events };
        recording.assert_whole(&root);
        recording
    }

    /// Replaying the log must give the folder that the worker left, byte for byte: then no change
    /// escaped the recorder.
    fn assert_whole(&self, root: &Path) {
        let mut disk = Disk::new(&self.start);
        self.events
            .iter()
            .for_each(|event| disk.apply(event).expect("the log tells everything"));
        let (told, found) = (disk.now(), read(root));
        for path in told
            .keys()
            .chain(found.keys())
            .filter(|path| *path != RESERVE)
        {
            assert!(
                told.get(path) == found.get(path),
                "{path} is not what the log says: a change escaped the recorder"
            );
        }
    }

    /// Each mark of the log, with its place: what a process had said when it was cut off there.
    pub(crate) fn marks(&self) -> impl Iterator<Item = (usize, &str)> {
        self.events.iter().enumerate().filter_map(|(at, event)| {
            if let Event::Mark(text) = event {
                Some((at, text.as_str()))
            } else {
                None
            }
        })
    }

    /// A place for a crash, from `first` on: as often as not right before a sync, where most is at
    /// risk.
    pub(crate) fn cut(&self, chance: &mut fastrand::Rng, first: usize) -> usize {
        let at = chance.usize(first..=self.events.len());
        let next_sync = self.events[at..]
            .iter()
            .position(|event| matches!(event, Event::Sync { .. }));
        if chance.bool() {
            at + next_sync.unwrap_or(0)
        } else {
            at
        }
    }

    /// Calls `visit` with the disk before each event and after the last.
    pub(crate) fn walk(&self, mut visit: impl FnMut(usize, &Disk)) {
        let mut disk = Disk::new(&self.start);
        for (at, event) in self.events.iter().enumerate() {
            visit(at, &disk);
            disk.apply(event).expect("the log was replayed before");
        }
        visit(self.events.len(), &disk);
    }
}

/// The recorder, compiled.
fn recorder(dir: &Path) -> PathBuf {
    let (source, library) = (
        concat!(env!("CARGO_MANIFEST_DIR"), "/recorder/recorder.c"),
        dir.join("recorder.so"),
    );
    let arguments = [
        "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o",
    ];
    let built = Command::new("cc")
        .args(arguments)
        .arg(&library)
        .args([source, "-ldl", "-lpthread"])
        .output()
        .expect("there is a C compiler");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    library
}

/// Makes the folder `dir` hold `tree`.
pub(crate) fn write(tree: &Tree, dir: &Path) {
    fs::create_dir(dir).expect("a folder can be made");
    for (path, entry) in tree {
        match entry {
            Entry::Folder => fs::create_dir(dir.join(path)),
            Entry::File(bytes) => fs::write(dir.join(path), bytes),
        }
        .expect("a small file can be written");
    }
}

/// Reads the folder `dir`.
pub(crate) fn read(dir: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder can be read") {
            let path = entry.expect("a folder can be read").path();
            let name = path
                .strip_prefix(dir)
                .expect("it is below")
                .to_str()
                .expect("the store's names are text")
                .to_owned();
            if path.is_dir() {
                tree.insert(name, Entry::Folder);
                folders.push(path);
            } else {
                tree.insert(
                    name,
                    Entry::File(fs::read(&path).expect("a file can be read")),
                );
            }
        }
    }
    tree
}
