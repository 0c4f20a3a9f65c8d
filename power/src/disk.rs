//! A file system as a loss of power sees it: the durable content, and the changes that the kernel
//! had only promised to write.
//!
//! The model grants these guarantees, and nothing more:
//!
//! - An `fsync` or `fdatasync` of a file makes its content and length durable, **not its name**.
//!   That is POSIX's weakest reading; ext4 and XFS also make the name of a new file durable.
//! - An `fsync` of a folder makes all changes of names in it durable, not the content of what is
//!   named.
//! - A change of one name (a creation, a removal, a rename inside a folder) happens as a whole or
//!   not at all, and the changes of names in one folder reach the disk in their order. POSIX does
//!   not say so; the journals, logs and trees of ext4, XFS, btrfs, ZFS and F2FS do it, and RocksDB
//!   relies on it: it renames the file that names its manifest without syncing the folder in
//!   between.
//! - A sector of 512 bytes is written as a whole or not at all, and only ever with bytes that the
//!   file had there at one moment.
//! - Space that a file grew by and that was not written reads as zeros: nobody sees the bytes of
//!   deleted files.
//!
//! Everything else may be lost, kept or reordered: each sector of a file, and its length, is as it
//! was at *some* moment since its last sync, each at its own; of the unsynced changes of names in
//! each folder any number has happened, whatever came of other folders.
//!
//! Real file systems keep more. [`Names::Journal`] is what ext4 promises: any sync writes its
//! journal, and with it every change of a name so far. A test that only grants less would miss
//! nothing, but would rarely meet the states that are common; so there are both.

use std::collections::BTreeMap;

use crate::log::Event;

/// The unit that a disk writes as a whole, in bytes.
pub const SECTOR_LEN: u64 = 512;

/// A folder and all that is in it, by paths relative to it. The folder itself is not among them.
pub type Tree = BTreeMap<String, Entry>;

/// A folder or a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// A folder.
    Folder,
    /// A file, with its bytes.
    File(Vec<u8>),
}

/// The choice of the changes of names that survive without a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// No unsynced change.
    Synced,
    /// All that came before the last sync of anything: ext4.
    Journal,
    /// All.
    All,
    /// All up to a random one.
    Prefix,
    /// In each folder, all up to a random one.
    Random,
}

/// The choice of the writes that survive without a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// No unsynced write.
    Synced,
    /// All.
    All,
    /// Sectors, each as it was at one moment: about this many in a hundred as they were last.
    Torn(u8),
    /// A random one of these for each file.
    Random,
}

impl Writes {
    /// The number of `last` changes that each sector has seen: the same whenever it is asked for
    /// again.
    pub(crate) fn moments<'c>(
        self,
        last: usize,
        chance: &'c mut fastrand::Rng,
    ) -> Box<dyn FnMut(u64) -> usize + 'c> {
        match self {
            Self::Synced => Box::new(|_| 0),
            Self::All => Box::new(move |_| last),
            Self::Torn(of_hundred) => {
                let mut sectors: BTreeMap<u64, usize> = BTreeMap::new();
                Box::new(move |sector| {
                    *sectors.entry(sector).or_insert_with(|| {
                        if chance.u8(..100) < of_hundred {
                            last
                        } else {
                            chance.usize(..=last)
                        }
                    })
                })
            }
            Self::Random => match chance.u8(..6) {
                0 => Self::Synced.moments(last, chance),
                1 => Self::All.moments(last, chance),
                2 => {
                    let moment = chance.usize(..=last);
                    Box::new(move |_| moment)
                }
                3 => Self::Torn(10).moments(last, chance),
                4 => Self::Torn(50).moments(last, chance),
                _ => Self::Torn(95).moments(last, chance),
            },
        }
    }
}

/// A file system with a past.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    nodes: Vec<Node>,
    /// Names for certain, and as the process sees them.
    durable: BTreeMap<String, usize>,
    names: BTreeMap<String, usize>,
    /// The changes that make `names` of `durable`, in order.
    pending: Vec<Change>,
    /// The number of those that came before the last sync.
    journaled: usize,
    descriptors: BTreeMap<i32, usize>,
}

#[derive(Clone, Debug)]
enum Node {
    /// A folder, with its path: folders are never renamed.
    Folder(String),
    File(File),
}

#[derive(Clone, Debug, Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<Edit>,
}

#[derive(Clone, Debug)]
enum Edit {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen(u64),
    Grow(u64),
}

/// One change of names: one goes, one comes, or both.
#[derive(Clone, Debug)]
struct Change {
    remove: Option<String>,
    put: Option<(String, usize)>,
}

impl Disk {
    /// A disk that holds `tree`, all of it durable.
    #[must_use]
    pub fn new(tree: &Tree) -> Self {
        let mut disk = Self {
            nodes: vec![Node::Folder(String::new())],
            ..Self::default()
        };
        disk.names.insert(String::new(), 0);
        for (path, entry) in tree {
            disk.names.insert(path.clone(), disk.nodes.len());
            disk.nodes.push(match entry {
                Entry::Folder => Node::Folder(path.clone()),
                Entry::File(bytes) => Node::File(File {
                    durable: bytes.clone(),
                    pending: Vec::new(),
                }),
            });
        }
        disk.durable = disk.names.clone();
        disk
    }

    /// Applies `event`. Fails if it cannot have happened on this disk: then the log lacks
    /// something.
    pub fn apply(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Open {
                fd,
                creates,
                truncates,
                path,
            } => self.open(*fd, *creates, *truncates, path),
            Event::Close { fd } => {
                self.descriptors.remove(fd);
                Ok(())
            }
            Event::Duplicate { fd, copy } => {
                let node = self.node(*fd)?;
                self.descriptors.insert(*copy, node);
                Ok(())
            }
            Event::Write { fd, offset, bytes } => self.edit(
                *fd,
                Edit::Write {
                    offset: *offset,
                    bytes: bytes.clone(),
                },
            ),
            Event::SetLen { fd, len } => self.edit(*fd, Edit::SetLen(*len)),
            Event::Grow { fd, len } => self.edit(*fd, Edit::Grow(*len)),
            Event::Rename { from, to } => {
                let node = self.find(from)?;
                self.change(Change {
                    remove: Some(from.clone()),
                    put: Some((to.clone(), node)),
                })
            }
            Event::Link { from, to } => {
                let node = self.find(from)?;
                self.change(Change {
                    remove: None,
                    put: Some((to.clone(), node)),
                })
            }
            Event::Unlink { path } | Event::RemoveFolder { path } => {
                self.find(path)?;
                self.change(Change {
                    remove: Some(path.clone()),
                    put: None,
                })
            }
            Event::MakeFolder { path } => self.make(path, Node::Folder(path.clone())).map(drop),
            Event::Sync { fd } => {
                let node = self.node(*fd)?;
                self.sync(node);
                Ok(())
            }
            Event::SyncAll => {
                (0..self.nodes.len()).for_each(|node| self.sync(node));
                Ok(())
            }
            Event::Mark(_) => Ok(()),
            Event::Escape(what) => Err(format!("the recorder could not tell all: {what}")),
        }
    }

    /// The content as long as power is.
    #[must_use]
    pub fn now(&self) -> Tree {
        self.crash(Names::All, Writes::All, &mut fastrand::Rng::with_seed(0))
    }

    /// The content after a loss of power; `chance` chooses the surviving changes.
    #[must_use]
    pub fn crash(&self, names: Names, writes: Writes, chance: &mut fastrand::Rng) -> Tree {
        let found = self.surviving_names(names, chance);
        let mut tree = Tree::new();
        let mut contents: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        for (path, id) in found.iter().filter(|(path, _)| !path.is_empty()) {
            // In order of paths a folder comes before what is in it.
            let is_reachable =
                folder_of(path).is_empty() || tree.get(folder_of(path)) == Some(&Entry::Folder);
            let entry = match &self.nodes[*id] {
                _ if !is_reachable => continue,
                Node::Folder(_) => Entry::Folder,
                Node::File(file) => Entry::File(
                    contents
                        .entry(*id)
                        .or_insert_with(|| file.surviving(writes, chance))
                        .clone(),
                ),
            };
            tree.insert(path.clone(), entry);
        }
        tree
    }

    fn surviving_names(&self, names: Names, chance: &mut fastrand::Rng) -> BTreeMap<String, usize> {
        let prefix = match names {
            Names::Synced => 0,
            Names::Journal => self.journaled,
            Names::All | Names::Random => self.pending.len(),
            Names::Prefix => chance.usize(..=self.pending.len()),
        };
        let mut cuts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut found = self.durable.clone();
        for (nth, change) in self.pending[..prefix].iter().enumerate() {
            let cut = cuts
                .entry(change.folder())
                .or_insert_with(|| chance.usize(..=prefix));
            if names != Names::Random || nth < *cut {
                change.apply(&mut found);
            }
        }
        found
    }

    fn find(&self, path: &str) -> Result<usize, String> {
        self.names
            .get(path)
            .copied()
            .ok_or_else(|| format!("{path} is not there"))
    }

    fn node(&self, fd: i32) -> Result<usize, String> {
        self.descriptors
            .get(&fd)
            .copied()
            .ok_or_else(|| format!("descriptor {fd} is not open"))
    }

    fn open(&mut self, fd: i32, creates: bool, truncates: bool, path: &str) -> Result<(), String> {
        let node = match self.find(path) {
            Err(_) if creates => self.make(path, Node::File(File::default()))?,
            found => found?,
        };
        self.descriptors.insert(fd, node);
        if truncates {
            self.edit(fd, Edit::SetLen(0))
        } else {
            Ok(())
        }
    }

    fn make(&mut self, path: &str, node: Node) -> Result<usize, String> {
        self.nodes.push(node);
        let id = self.nodes.len() - 1;
        self.change(Change {
            remove: None,
            put: Some((path.to_owned(), id)),
        })?;
        Ok(id)
    }

    /// A change whose two names are in one folder.
    fn change(&mut self, change: Change) -> Result<(), String> {
        if let Some((path, _)) = &change.put {
            self.find(folder_of(path))?;
            if change
                .remove
                .as_ref()
                .is_some_and(|from| folder_of(from) != folder_of(path))
            {
                return Err(format!(
                    "{path} comes from another folder, which is not simulated"
                ));
            }
        }
        change.apply(&mut self.names);
        self.pending.push(change);
        Ok(())
    }

    fn edit(&mut self, fd: i32, edit: Edit) -> Result<(), String> {
        let node = self.node(fd)?;
        match &mut self.nodes[node] {
            Node::File(file) => file.pending.push(edit),
            Node::Folder(path) => return Err(format!("{path} is a folder")),
        }
        Ok(())
    }

    fn sync(&mut self, node: usize) {
        match &mut self.nodes[node] {
            Node::File(file) => file.sync(),
            Node::Folder(path) => {
                let (synced, rest) = std::mem::take(&mut self.pending)
                    .into_iter()
                    .partition(|change| change.folder() == path);
                self.pending = rest;
                let synced: Vec<Change> = synced;
                synced
                    .iter()
                    .for_each(|change| change.apply(&mut self.durable));
            }
        }
        self.journaled = self.pending.len();
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        if let Some(path) = &self.remove {
            names.remove(path);
        }
        if let Some((path, node)) = &self.put {
            names.insert(path.clone(), *node);
        }
    }

    /// Names do not move between folders: see [`Disk::change`].
    fn folder(&self) -> &str {
        let path = self
            .put
            .as_ref()
            .map(|(path, _)| path)
            .or(self.remove.as_ref());
        path.map_or("", |path| folder_of(path))
    }
}

impl File {
    fn sync(&mut self) {
        self.durable = self.moments(|_| usize::MAX, self.pending.len());
        self.pending.clear();
    }

    fn surviving(&self, writes: Writes, chance: &mut fastrand::Rng) -> Vec<u8> {
        let mut moments = writes.moments(self.pending.len(), chance);
        // The length has a fate of its own, as a sector that no file has.
        let len_moment = moments(u64::MAX);
        self.moments(moments, len_moment)
    }

    /// The file with each sector as it was after the number of edits that `moment` gives for it,
    /// and with the length it had after `len_moment` edits.
    fn moments(&self, mut moment: impl FnMut(u64) -> usize, len_moment: usize) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let mut len = bytes.len();
        let mut found_len = len;
        for (nth, edit) in self.pending.iter().enumerate() {
            let (start, end) = match edit {
                Edit::Write { offset, bytes: new } => {
                    (*offset as usize, *offset as usize + new.len())
                }
                // The bytes that are cut off become zeros; those that are added are zeros already.
                Edit::SetLen(new_len) => (*new_len as usize, bytes.len().max(*new_len as usize)),
                Edit::Grow(new_len) => (*new_len as usize, *new_len as usize),
            };
            bytes.resize(bytes.len().max(end), 0);
            for (sector, part) in sectors(start, end) {
                if nth < moment(sector) {
                    match edit {
                        Edit::Write { bytes: new, .. } => bytes[part.clone()]
                            .copy_from_slice(&new[part.start - start..part.end - start]),
                        Edit::SetLen(_) | Edit::Grow(_) => bytes[part].fill(0),
                    }
                }
            }
            len = if let Edit::SetLen(new_len) = edit {
                *new_len as usize
            } else {
                len.max(end)
            };
            if nth < len_moment {
                found_len = len;
            }
        }
        bytes.resize(found_len, 0);
        bytes
    }
}

/// The parts of `start..end` that lie in one sector each.
pub(crate) fn sectors(
    start: usize,
    end: usize,
) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let len = SECTOR_LEN as usize;
    (start / len..end.div_ceil(len)).filter_map(move |sector| {
        let part = start.max(sector * len)..end.min((sector + 1) * len);
        (!part.is_empty()).then_some((sector as u64, part))
    })
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(events: &[Event]) -> Disk {
        let mut disk = Disk::new(&Tree::new());
        for event in events {
            disk.apply(event).expect("the events fit each other");
        }
        disk
    }

    fn open(fd: i32, path: &str) -> Event {
        Event::Open {
            fd,
            creates: true,
            truncates: false,
            path: path.to_owned(),
        }
    }

    fn write(fd: i32, offset: u64, byte: u8, len: usize) -> Event {
        Event::Write {
            fd,
            offset,
            bytes: vec![byte; len],
        }
    }

    fn root(fd: i32) -> [Event; 2] {
        [
            Event::Open {
                fd,
                creates: false,
                truncates: false,
                path: String::new(),
            },
            Event::Sync { fd },
        ]
    }

    fn after(disk: &Disk, names: Names, writes: Writes) -> Vec<(String, usize)> {
        let tree = disk.crash(names, writes, &mut fastrand::Rng::with_seed(1));
        let len = |entry: Entry| {
            if let Entry::File(bytes) = entry {
                bytes.len()
            } else {
                usize::MAX
            }
        };
        tree.into_iter()
            .map(|(path, entry)| (path, len(entry)))
            .collect()
    }

    fn files(all: &[(&str, usize)]) -> Vec<(String, usize)> {
        all.iter()
            .map(|(path, len)| ((*path).to_owned(), *len))
            .collect()
    }

    #[test]
    fn a_synced_file_without_a_synced_name_is_lost_and_the_other_way_round_is_empty() {
        let content_only = run(&[open(3, "a"), write(3, 0, 1, 700), Event::Sync { fd: 3 }]);
        assert_eq!(
            after(&content_only, Names::Synced, Writes::Synced),
            files(&[])
        );
        assert_eq!(
            after(&content_only, Names::Journal, Writes::Synced),
            files(&[("a", 700)])
        );
        let name_only = run(&[&[open(3, "a"), write(3, 0, 1, 700)][..], &root(4)].concat());
        assert_eq!(
            after(&name_only, Names::Synced, Writes::Synced),
            files(&[("a", 0)])
        );
        assert_eq!(
            after(&name_only, Names::Synced, Writes::All),
            files(&[("a", 700)])
        );
    }

    #[test]
    fn a_rename_happens_whole_or_not_at_all_and_only_its_folders_sync_settles_it() {
        let moved = Event::Rename {
            from: "new".to_owned(),
            to: "name".to_owned(),
        };
        let start = [
            open(3, "name"),
            write(3, 0, 1, 1),
            Event::Sync { fd: 3 },
            open(5, "new"),
            write(5, 0, 2, 2),
            Event::Sync { fd: 5 },
        ];
        let before = [&start[..], &root(4), &[moved]].concat();
        assert_eq!(
            after(&run(&before), Names::Synced, Writes::Synced),
            files(&[("name", 1), ("new", 2)])
        );
        assert_eq!(
            after(&run(&before), Names::All, Writes::Synced),
            files(&[("name", 2)])
        );
        let synced = [&before[..], &root(4)].concat();
        assert_eq!(
            after(&run(&synced), Names::Synced, Writes::Synced),
            files(&[("name", 2)])
        );
    }

    #[test]
    fn what_is_in_a_folder_without_a_name_is_lost() {
        let made = [
            Event::MakeFolder {
                path: "f".to_owned(),
            },
            open(3, "f/a"),
            Event::Sync { fd: 3 },
        ];
        let inner = [
            Event::Open {
                fd: 4,
                creates: false,
                truncates: false,
                path: "f".to_owned(),
            },
            Event::Sync { fd: 4 },
        ];
        let disk = run(&[&made[..], &inner].concat());
        assert_eq!(after(&disk, Names::Synced, Writes::Synced), files(&[]));
        let disk = run(&[&made[..], &inner, &root(5)].concat());
        assert_eq!(
            after(&disk, Names::Synced, Writes::Synced),
            files(&[("f", usize::MAX), ("f/a", 0)])
        );
    }

    #[test]
    fn a_torn_file_holds_in_each_sector_something_that_was_there_since_the_sync() {
        let start = [
            &[open(3, "a"), write(3, 0, 1, 4096), Event::Sync { fd: 3 }][..],
            &root(4),
        ]
        .concat();
        let edits = [
            write(3, 256, 2, 3000),
            Event::SetLen { fd: 3, len: 2048 },
            write(3, 2048, 3, 512),
            Event::Grow { fd: 3, len: 3000 },
        ];
        let disk = run(&[&start[..], &edits].concat());
        let mut seen_lens = std::collections::BTreeSet::new();
        for seed in 0..500 {
            let tree = disk.crash(
                Names::Synced,
                Writes::Torn(30),
                &mut fastrand::Rng::with_seed(seed),
            );
            let Some(Entry::File(bytes)) = tree.get("a") else {
                panic!("the name is durable")
            };
            seen_lens.insert(bytes.len());
            for (nth, sector) in bytes.chunks(512).enumerate() {
                let halves = (sector.first(), sector.last());
                let allowed: &[(u8, u8)] = match nth {
                    0 => &[(1, 1), (1, 2)],
                    1..=3 => &[(1, 1), (2, 2)],
                    4 => &[(1, 1), (2, 2), (0, 0), (3, 3)],
                    5 => &[(1, 1), (2, 2), (0, 0)],
                    6 => &[(1, 1), (2, 1), (0, 0), (2, 2)],
                    _ => &[(1, 1), (0, 0)],
                };
                assert!(
                    allowed.iter().any(|(a, b)| halves == (Some(a), Some(b))),
                    "seed {seed}, sector {nth}: {halves:?}"
                );
            }
        }
        assert_eq!(
            seen_lens.into_iter().collect::<Vec<_>>(),
            [2048, 2560, 3000, 4096]
        );
        let Some(Entry::File(now)) = disk.now().remove("a") else {
            panic!("the file is there")
        };
        assert_eq!(
            (
                now.len(),
                now[255],
                now[256],
                now[2047],
                now[2048],
                now[2999]
            ),
            (3000, 1, 2, 2, 3, 0)
        );
    }

    #[test]
    fn a_log_that_lacks_something_is_refused() {
        let mut disk = Disk::new(&Tree::new());
        assert!(
            disk.apply(&write(3, 0, 1, 1)).is_err(),
            "a descriptor that nobody opened"
        );
        let open = Event::Open {
            fd: 3,
            creates: false,
            truncates: false,
            path: "a".to_owned(),
        };
        assert!(disk.apply(&open).is_err(), "a file that nobody made");
        assert!(disk.apply(&Event::Escape("mmap".to_owned())).is_err());
    }
}
