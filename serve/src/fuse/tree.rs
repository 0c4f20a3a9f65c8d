//! The tree of files: names of exports as names of files, and their inode numbers.
//!
//! Its caller gives it the list of exports. It does not know lengths or times; those change without
//! it.
//!
//! Names are data. `NAME` is the file `images/NAME.raw`, `NAME@SNAPSHOT` is
//! `snapshots/NAME@SNAPSHOT.raw`, letter by letter. Where that is longer than a file's name can be,
//! `.raw` is left away; where even that is too long, the name is its beginning, `~`, and the first
//! 16 digits of the BLAKE3 of the whole. Such a name is told, and shown only if no other export has
//! it. An export whose name can be no file's (a `/`, a NUL) is not shown, which is told as well.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::ops::Bound;
use std::sync::Arc;

use vellum_core::device::ExportInfo;
use vellum_core::hash::ChunkHash;

/// The root's number, fixed by FUSE.
pub(super) const ROOT: u64 = 1;
/// Files' numbers begin after those of the root and its two folders, and are never given twice
/// while the mount lives.
const FIRST_FILE: u64 = 16;
/// Longest name of one file that Linux and its tools take, in bytes.
pub(super) const FILE_NAME_LEN_MAX: usize = 255;
/// Behind the name of every export whose name leaves room for it.
const SUFFIX: &str = ".raw";
/// Digits that tell long names apart.
const DIGIT_COUNT: usize = 16;
/// Cookies of `.` and `..`; those of the rest are their inode number and this many more.
const DOTS: u64 = 2;

/// A folder below the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExportFolder {
    /// Files that may be written.
    Images,
    /// Files that never change.
    Snapshots,
}

impl ExportFolder {
    const ALL: [Self; 2] = [Self::Images, Self::Snapshots];

    fn of_export(export: &str) -> Self {
        if export.contains('@') {
            Self::Snapshots
        } else {
            Self::Images
        }
    }

    fn folder_name(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Snapshots => "snapshots",
        }
    }

    fn folder_inode(self) -> u64 {
        match self {
            Self::Images => 2,
            Self::Snapshots => 3,
        }
    }
}

/// One export as a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ExportFile {
    pub(super) export: String,
    pub(super) folder: ExportFolder,
    name: String,
    /// For a snapshot, whose bytes the kernel may keep: what tells it from a later one of the same
    /// name.
    made: Option<(u64, u64)>,
}

impl ExportFile {
    fn new(info: &ExportInfo) -> Option<Self> {
        let folder = ExportFolder::of_export(&info.name);
        let made = (folder == ExportFolder::Snapshots).then_some((info.changed_ns, info.len));
        let is_nameable = !info.name.is_empty() && !info.name.contains(['/', '\0']);
        is_nameable.then(|| Self {
            export: info.name.clone(),
            folder,
            name: file_name(&info.name),
            made,
        })
    }

    /// True if the file is called as the export is, with the usual suffix.
    fn is_plain(&self) -> bool {
        self.name.len() == self.export.len() + SUFFIX.len() && self.name.starts_with(&self.export)
    }
}

fn file_name(export: &str) -> String {
    let spare = FILE_NAME_LEN_MAX.checked_sub(export.len());
    match spare {
        Some(spare) if spare >= SUFFIX.len() => format!("{export}{SUFFIX}"),
        Some(_) => export.to_owned(),
        None => {
            let digits = &ChunkHash::of_chunk(export.as_bytes()).to_string()[..DIGIT_COUNT];
            let room = FILE_NAME_LEN_MAX - SUFFIX.len() - DIGIT_COUNT - 1;
            let beginning = &export[..export.floor_char_boundary(room)];
            format!("{beginning}~{digits}{SUFFIX}")
        }
    }
}

/// The file or folder that an inode number stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum InodeTarget {
    Root,
    Folder(ExportFolder),
    File(Arc<ExportFile>),
}

/// One line of a folder's listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ListingEntry<'a> {
    pub(super) inode: u64,
    /// Ask for what comes after this.
    pub(super) cookie: u64,
    pub(super) is_folder: bool,
    pub(super) name: &'a str,
}

/// All files, as of the last [`FileTree::update_files`].
#[derive(Debug)]
pub(super) struct FileTree {
    images: BTreeMap<u64, Arc<ExportFile>>,
    snapshots: BTreeMap<u64, Arc<ExportFile>>,
    inodes: HashMap<String, u64>,
    next_inode: u64,
    /// Exports of which it was told how they are shown.
    told: BTreeSet<String>,
}

impl FileTree {
    pub(super) fn new() -> Self {
        Self {
            images: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            inodes: HashMap::new(),
            next_inode: FIRST_FILE,
            told: BTreeSet::new(),
        }
    }

    /// Makes the files those of `exports`. A file that stays keeps its number; one that goes takes
    /// it along. What is to be told of names that no file has as they are is returned, once for
    /// each.
    pub(super) fn update_files(&mut self, exports: &[ExportInfo]) -> Vec<String> {
        let mut next = Self {
            next_inode: self.next_inode,
            ..Self::new()
        };
        let (mut lines, mut unusual) = (Vec::new(), Vec::new());
        for info in exports {
            match ExportFile::new(info) {
                Some(file) if file.is_plain() => next.insert_file(file, self),
                file => unusual.push((&info.name, file)),
            }
        }
        for (export, file) in unusual {
            let is_news = !self.told.contains(export);
            let file = file.filter(|file| !next.inodes.contains_key(&file.name));
            let shown = match &file {
                Some(file) => format!("is shown as {}/{}", file.folder.folder_name(), file.name),
                None => "is not shown as a file".to_owned(),
            };
            if is_news {
                lines.push(format!("note: the name {export} is too long, and {shown}"));
            }
            next.told.insert(export.clone());
            if let Some(file) = file {
                next.insert_file(file, self);
            }
        }
        *self = next;
        lines
    }

    /// Adds `file`, with the number that it had in `before`.
    fn insert_file(&mut self, file: ExportFile, before: &Self) {
        let inode = before.inode_of(&file).unwrap_or_else(|| {
            self.next_inode += 1;
            self.next_inode - 1
        });
        self.inodes.insert(file.name.clone(), inode);
        self.files_mut(file.folder).insert(inode, Arc::new(file));
    }

    /// The number of files and folders.
    pub(super) fn file_count(&self) -> u64 {
        (self.images.len() + self.snapshots.len() + 1 + ExportFolder::ALL.len()) as u64
    }

    /// The node that `inode` stands for, if it is still there.
    pub(super) fn node_of(&self, inode: u64) -> Option<InodeTarget> {
        if inode == ROOT {
            return Some(InodeTarget::Root);
        }
        if let Some(folder) = ExportFolder::ALL
            .into_iter()
            .find(|folder| folder.folder_inode() == inode)
        {
            return Some(InodeTarget::Folder(folder));
        }
        ExportFolder::ALL
            .into_iter()
            .find_map(|folder| self.files_in(folder).get(&inode))
            .map(|file| InodeTarget::File(Arc::clone(file)))
    }

    /// The inode of `name` in the folder `parent`.
    pub(super) fn look_up_name(&self, parent: u64, name: &OsStr) -> Option<u64> {
        let name = name.to_str()?;
        match self.node_of(parent)? {
            InodeTarget::Root => ExportFolder::ALL
                .into_iter()
                .find(|folder| folder.folder_name() == name)
                .map(ExportFolder::folder_inode),
            InodeTarget::Folder(folder) => self
                .inodes
                .get(name)
                .copied()
                .filter(|inode| self.files_in(folder).contains_key(inode)),
            InodeTarget::File(_) => None,
        }
    }

    /// The listing of the folder `parent` after `cookie` (0 is the beginning), or nothing if it is
    /// none. What is there during the whole of a listing in parts comes exactly once, whatever
    /// comes and goes beside it: the order is that of the inode numbers.
    pub(super) fn list_entries(
        &self,
        parent: u64,
        cookie: u64,
    ) -> Option<impl Iterator<Item = ListingEntry<'_>>> {
        let (folders, files) = match self.node_of(parent)? {
            InodeTarget::Root => (&ExportFolder::ALL[..], None),
            InodeTarget::Folder(folder) => (&[][..], Some(self.files_in(folder))),
            InodeTarget::File(_) => return None,
        };
        let dots = [(parent, "."), (ROOT, "..")].into_iter().zip(1..);
        let dots = dots.map(|((inode, name), cookie)| ListingEntry {
            inode,
            cookie,
            is_folder: true,
            name,
        });
        let folders = folders.iter().map(|folder| ListingEntry {
            inode: folder.folder_inode(),
            cookie: folder.folder_inode() + DOTS,
            is_folder: true,
            name: folder.folder_name(),
        });
        let listed = (
            Bound::Excluded(cookie.saturating_sub(DOTS)),
            Bound::Unbounded,
        );
        let files = files
            .into_iter()
            .flat_map(move |files| files.range(listed))
            .map(|(&inode, file)| ListingEntry {
                inode,
                cookie: inode + DOTS,
                is_folder: false,
                name: &file.name,
            });
        Some(
            dots.chain(folders)
                .filter(move |entry| entry.cookie > cookie)
                .chain(files),
        )
    }

    /// The number of a file that is the same as `file`.
    fn inode_of(&self, file: &ExportFile) -> Option<u64> {
        let inode = *self.inodes.get(&file.name)?;
        self.files_in(file.folder)
            .get(&inode)
            .is_some_and(|known| **known == *file)
            .then_some(inode)
    }

    fn files_in(&self, folder: ExportFolder) -> &BTreeMap<u64, Arc<ExportFile>> {
        match folder {
            ExportFolder::Images => &self.images,
            ExportFolder::Snapshots => &self.snapshots,
        }
    }

    fn files_mut(&mut self, folder: ExportFolder) -> &mut BTreeMap<u64, Arc<ExportFile>> {
        match folder {
            ExportFolder::Images => &mut self.images,
            ExportFolder::Snapshots => &mut self.snapshots,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(name: &str, changed_ns: u64) -> ExportInfo {
        ExportInfo {
            name: name.to_owned(),
            len: 4096,
            read_only: false,
            changed_ns,
            description: String::new(),
        }
    }

    fn tree(names: &[&str]) -> FileTree {
        let mut tree = FileTree::new();
        tree.update_files(&names.iter().map(|name| export(name, 1)).collect::<Vec<_>>());
        tree
    }

    fn listing(tree: &FileTree, parent: u64) -> Vec<String> {
        let mut names: Vec<_> = tree
            .list_entries(parent, 0)
            .unwrap()
            .map(|entry| entry.name.to_owned())
            .collect();
        names.sort();
        names
    }

    fn inode(tree: &FileTree, folder: ExportFolder, name: &str) -> Option<u64> {
        tree.look_up_name(folder.folder_inode(), OsStr::new(name))
    }

    #[test]
    fn exports_lie_in_the_folder_of_their_kind() {
        let tree = tree(&["web", "web@monday", "db"]);
        assert_eq!(listing(&tree, ROOT), [".", "..", "images", "snapshots"]);
        assert_eq!(listing(&tree, 2), [".", "..", "db.raw", "web.raw"]);
        assert_eq!(listing(&tree, 3), [".", "..", "web@monday.raw"]);
        assert_eq!(inode(&tree, ExportFolder::Snapshots, "web.raw"), None);
        assert_eq!(inode(&tree, ExportFolder::Images, "web"), None);
        let found = tree
            .node_of(inode(&tree, ExportFolder::Images, "web.raw").unwrap())
            .unwrap();
        assert!(matches!(found, InodeTarget::File(file) if file.export == "web"));
    }

    #[test]
    fn names_that_are_no_file_names_are_not_shown() {
        let longest = "n".repeat(251);
        let tree = tree(&[
            "",
            "a/b",
            "../../etc/passwd",
            "a\0b",
            &longest,
            ".",
            "..",
            "x\ny",
            "Müller@ä",
            "a@b/c",
        ]);
        assert_eq!(
            listing(&tree, 2),
            [
                ".",
                "..",
                "...raw",
                "..raw",
                &format!("{longest}.raw"),
                "x\ny.raw"
            ]
        );
        assert_eq!(listing(&tree, 3), [".", "..", "Müller@ä.raw"]);
    }

    #[test]
    fn names_that_are_too_long_with_raw_behind_are_told_and_shown_unless_another_has_them() {
        let n = |len: usize| "n".repeat(len);
        let mut shown = FileTree::new();
        // Its name is that of the next one's file.
        let taken = format!("{}.raw", n(248));
        let names = [n(248), taken.clone(), n(255), format!("{}@s", n(254))];
        let exports = names.each_ref().map(|name| export(name, 1));
        let lines = shown.update_files(&exports);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].contains(&taken) && lines[0].ends_with("is not shown as a file"));
        assert!(lines[1].ends_with(&format!("is shown as images/{}", n(255))));
        assert!(lines[2].contains("is shown as snapshots/nnn"));
        assert!(shown.update_files(&exports).is_empty(), "told once");
        assert_eq!(
            listing(&shown, 2),
            [".", "..", &taken, &n(255)].map(str::to_owned)
        );
        let found = shown.node_of(inode(&shown, ExportFolder::Images, &taken).unwrap());
        assert!(matches!(found, Some(InodeTarget::File(file)) if file.export == n(248)));
        assert_eq!(listing(&shown, 3).len(), 3);
        assert!(listing(&shown, 3).iter().all(|name| name.len() <= 255));
    }

    #[test]
    fn inodes_stay_with_their_names_and_never_come_back() {
        let mut tree = tree(&["a", "b", "a@s"]);
        let [a, b] =
            ["a.raw", "b.raw"].map(|name| inode(&tree, ExportFolder::Images, name).unwrap());
        tree.update_files(&[export("new", 1), export("b", 7)]);
        assert_eq!(
            inode(&tree, ExportFolder::Images, "b.raw"),
            Some(b),
            "a written image is the same file"
        );
        assert_eq!(tree.node_of(a), None);
        tree.update_files(&[export("a", 1), export("b", 7)]);
        assert!(
            inode(&tree, ExportFolder::Images, "a.raw").unwrap() > a,
            "a kernel that remembers the old file must not meet the new one"
        );
    }

    #[test]
    fn a_snapshot_made_anew_under_its_old_name_is_another_file() {
        let mut tree = tree(&["a@s"]);
        let old = inode(&tree, ExportFolder::Snapshots, "a@s.raw").unwrap();
        tree.update_files(&[export("a@s", 1)]);
        assert_eq!(inode(&tree, ExportFolder::Snapshots, "a@s.raw"), Some(old));
        tree.update_files(&[export("a@s", 2)]);
        assert_ne!(
            inode(&tree, ExportFolder::Snapshots, "a@s.raw"),
            Some(old),
            "the kernel keeps pages of the old one"
        );
    }

    #[test]
    fn a_listing_in_parts_shows_what_stays_exactly_once() {
        let names: Vec<_> = (0..50).map(|n| format!("i{n}")).collect();
        let mut tree = tree(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let (mut seen, mut cookie) = (Vec::new(), 0);
        for round in 0.. {
            let part: Vec<_> = tree
                .list_entries(2, cookie)
                .unwrap()
                .take(3)
                .map(|entry| (entry.cookie, entry.name.to_owned()))
                .collect();
            let Some((last, _)) = part.last() else { break };
            cookie = *last;
            seen.extend(part.into_iter().map(|(_, name)| name));
            let others = (0..50)
                .filter(|n| n % 2 == 0 || *n > 2 * round)
                .map(|n| export(&format!("i{n}"), 1));
            tree.update_files(&others.collect::<Vec<_>>());
        }
        for n in (0..50).step_by(2) {
            assert_eq!(
                seen.iter()
                    .filter(|name| **name == format!("i{n}.raw"))
                    .count(),
                1,
                "i{n}"
            );
        }
        assert_eq!(&seen[..2], [".", ".."]);
    }
}
