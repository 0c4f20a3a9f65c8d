//! Naive model that stores are held against: an image is its bytes, and so is a snapshot. There are
//! no layers, chunks or parents.
//!
//! It shares no code with the product, and is shared by the property test, the crash test and the
//! fuzz target.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::content::{Blob, Choices, Content, Pool, range_of};

/// Operation on a store, in names and bytes. Nodes are `image` or `image@snapshot`.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Create {
        name: String,
        len: u64,
    },
    CreateChild {
        name: String,
        parent: String,
        len: Option<u64>,
    },
    Import {
        name: String,
        parent: Option<String>,
        content: Content,
        snapshot: Option<String>,
        as_stream: bool,
    },
    Update {
        image: String,
        content: Content,
        snapshot: Option<String>,
        as_stream: bool,
    },
    Live {
        image: String,
        steps: Vec<Step>,
    },
    Snapshot {
        image: String,
        name: String,
    },
    Delete {
        node: String,
        with_snapshots: bool,
    },
    Restore {
        snapshot: String,
        save_as: Option<String>,
    },
    Rename {
        node: String,
        name: String,
    },
    Flatten {
        image: String,
    },
    Commit {
        image: String,
    },
    Rebase {
        image: String,
        parent: String,
        keep_content: bool,
    },
    Resize {
        image: String,
        len: u64,
        may_shrink: bool,
    },
    Pin {
        node: String,
        pinned: bool,
    },
    Collect {
        dry_run: bool,
        is_deep: bool,
    },
    Check {
        read_data: bool,
    },
    Export {
        node: String,
        as_stream: bool,
    },
    Reopen,
    Crash,
}

/// Operation on a disk while it is open for writing.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Write {
        offset: u64,
        bytes: Blob,
    },
    Zero {
        offset: u64,
        len: u64,
    },
    Flush,
    /// Always flushed before: what is buffered belongs to neither side.
    Snapshot {
        name: String,
    },
}

/// Outcome that an operation must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Done,
    Refused(Refusal),
    /// The model does not know enough; refused or not, what it knows must hold.
    Either,
}

/// Reason for the refusal of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    NameTaken,
    Pinned,
    HasSnapshots,
    WouldShrink,
    NoOrigin,
    Circle,
}

pub(crate) type Bytes = Arc<Vec<u8>>;

#[derive(Clone)]
pub(crate) struct World {
    pub images: BTreeMap<String, Image>,
    pool: Pool,
    grid: u64,
    next_name: u64,
    next_uid: u64,
    limits: Limits,
}

/// Limits on the size of a world.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub images: usize,
    pub snapshots: usize,
    pub len_max: u64,
    pub total_len: u64,
}

#[derive(Clone)]
pub(crate) struct Image {
    uid: u64,
    /// Rises with everything that changes the content.
    version: u64,
    pub bytes: Bytes,
    /// The image when it was last sealed: a map that is kept while its parent changes keeps at
    /// least the difference from this.
    base: Bytes,
    /// The image it was created from, and that image's version then if nothing has blurred it.
    origin: Option<(u64, Option<u64>)>,
    pub pinned: bool,
    pub snapshots: BTreeMap<String, Snapshot>,
}

#[derive(Clone)]
pub(crate) struct Snapshot {
    pub bytes: Bytes,
    pub pinned: bool,
}

impl Image {
    fn new(uid: u64, bytes: Bytes, base: Bytes) -> Self {
        Self {
            uid,
            version: 0,
            bytes,
            base,
            origin: None,
            pinned: false,
            snapshots: BTreeMap::new(),
        }
    }

    fn set(&mut self, bytes: Bytes) {
        self.bytes = bytes;
        self.version += 1;
    }

    fn seal(&mut self) {
        self.base = Arc::clone(&self.bytes);
    }
}

pub(crate) const SMALL: Limits = Limits {
    images: 7,
    snapshots: 5,
    len_max: 10 << 20,
    total_len: 64 << 20,
};

impl World {
    pub(crate) fn new(grid: u64, limits: Limits) -> Self {
        Self {
            images: BTreeMap::new(),
            pool: Pool::new(grid),
            grid,
            next_name: 0,
            next_uid: 0,
            limits,
        }
    }

    /// A world that was read back: what stands in it, without history.
    pub(crate) fn add(
        &mut self,
        image: &str,
        bytes: Vec<u8>,
        snapshots: BTreeMap<String, Snapshot>,
    ) {
        let bytes = Arc::new(bytes);
        let mut known = Image::new(self.next_uid, Arc::clone(&bytes), bytes);
        known.snapshots = snapshots;
        // No child of an unknown history is known not to be one.
        known.origin = Some((u64::MAX, None));
        self.next_uid += 1;
        let numbers = known
            .snapshots
            .keys()
            .map(String::as_str)
            .chain([image])
            .filter_map(|name| name[1..].parse::<u64>().ok());
        self.next_name = numbers.max().map_or(0, |last| last + 1).max(self.next_name);
        self.images.insert(image.to_owned(), known);
    }

    /// Every image and snapshot, as it is called, with its bytes.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (String, &Bytes)> {
        self.images.iter().flat_map(|(name, image)| {
            let snapshots = image
                .snapshots
                .iter()
                .map(move |(tag, snapshot)| (format!("{name}@{tag}"), &snapshot.bytes));
            std::iter::once((name.clone(), &image.bytes)).chain(snapshots)
        })
    }

    pub(crate) fn bytes_of(&self, node: &str) -> &Bytes {
        match node.split_once('@') {
            None => &self.images[node].bytes,
            Some((image, tag)) => &self.images[image].snapshots[tag].bytes,
        }
    }

    fn image_mut(&mut self, name: &str) -> &mut Image {
        self.images
            .get_mut(name)
            .expect("operations name what is there")
    }

    /// Content the image had before it was written over, where a rebase that keeps only the map
    /// must keep it; see [`Image::base`].
    pub(crate) fn base_of(&self, image: &str) -> &Bytes {
        &self.images[image].base
    }

    /// Takes over content that the model only knows bounds of.
    pub(crate) fn adopt(&mut self, image: &str, bytes: Vec<u8>) {
        self.image_mut(image).set(Arc::new(bytes));
    }

    // ---- what to do next ----

    /// A sensible operation now and then a refused one. Only names and bytes of this world decide,
    /// so that another process with the same world and choices picks the same.
    pub(crate) fn pick(&mut self, choices: &mut impl Choices) -> Operation {
        if self.images.is_empty() {
            return self.pick_import(choices);
        }
        let total: usize = self.nodes().map(|(_, bytes)| bytes.len()).sum();
        if self.images.len() > self.limits.images || total as u64 > self.limits.total_len {
            let image = self.pick_image(choices);
            return self.delete_for_space(image);
        }
        match choices.below(100) {
            0..13 => self.pick_import(choices),
            13..24 => self.pick_update(choices),
            24..42 => self.pick_live(choices),
            42..50 => self.pick_snapshot(choices),
            50..55 => self.pick_child(choices),
            55..56 => Operation::Create {
                name: self.image_name(),
                len: self.pick_len(choices),
            },
            56..63 => Operation::Delete {
                node: self.pick_node(choices),
                with_snapshots: choices.chance(1, 2),
            },
            63..67 => self.pick_restore(choices),
            67..70 => self.pick_rename(choices),
            70..73 => Operation::Flatten {
                image: self.pick_image(choices),
            },
            73..76 => Operation::Commit {
                image: self.pick_image(choices),
            },
            76..80 => Operation::Rebase {
                image: self.pick_image(choices),
                parent: self.pick_node(choices),
                keep_content: choices.chance(2, 3),
            },
            80..85 => self.pick_resize(choices),
            85..87 => Operation::Pin {
                node: self.pick_node(choices),
                pinned: choices.chance(1, 4),
            },
            87..91 => Operation::Collect {
                dry_run: choices.chance(1, 6),
                is_deep: choices.chance(1, 2),
            },
            91..94 => Operation::Check {
                read_data: choices.chance(1, 2),
            },
            94..97 => Operation::Export {
                node: self.pick_node(choices),
                as_stream: choices.chance(1, 3),
            },
            97..98 => Operation::Reopen,
            _ => Operation::Crash,
        }
    }

    fn name(&mut self, kind: char) -> String {
        self.next_name += 1;
        format!("{kind}{}", self.next_name - 1)
    }

    fn image_name(&mut self) -> String {
        self.name('i')
    }

    fn pick_image(&self, choices: &mut impl Choices) -> String {
        let names: Vec<&String> = self.images.keys().collect();
        (*choices.pick(&names)).clone()
    }

    fn pick_node(&self, choices: &mut impl Choices) -> String {
        let names: Vec<String> = self.nodes().map(|(name, _)| name).collect();
        choices.pick(&names).clone()
    }

    fn pick_tag(&self, choices: &mut impl Choices) -> Option<String> {
        let names: Vec<String> = self
            .nodes()
            .map(|(name, _)| name)
            .filter(|name| name.contains('@'))
            .collect();
        (!names.is_empty()).then(|| choices.pick(&names).clone())
    }

    /// Lengths of all kinds: odd, on sectors, on chunks and pages and just beside; short ones most
    /// of the time.
    fn pick_len(&self, choices: &mut impl Choices) -> u64 {
        let longest = match choices.below(10) {
            0 => 4096,
            1..=5 => 300 << 10,
            6..=8 => 1 << 20,
            _ => self.limits.len_max,
        };
        let len = choices.below(longest.min(self.limits.len_max) + 1);
        let unit = *choices.pick(&[1, 512, 4096, self.grid, 4 << 20]);
        let near = len.next_multiple_of(unit) + *choices.pick(&[0, 0, 0, 1, 511]);
        near.saturating_sub(*choices.pick(&[0, 0, 0, 1]))
            .min(self.limits.len_max)
    }

    fn pick_content(&self, choices: &mut impl Choices, bytes: Vec<u8>) -> (Content, bool) {
        if choices.chance(2, 3) {
            (Content::plain(bytes), choices.chance(1, 2))
        } else {
            (Content::sparse(choices, bytes, self.grid), false)
        }
    }

    fn pick_import(&mut self, choices: &mut impl Choices) -> Operation {
        let parent =
            (!self.images.is_empty() && choices.chance(1, 2)).then(|| self.pick_node(choices));
        let bytes = match &parent {
            Some(parent) if choices.chance(3, 4) => self.changed(choices, parent),
            _ => {
                let len = self.pick_len(choices);
                self.pool.fresh(choices, len)
            }
        };
        let (content, as_stream) = self.pick_content(choices, bytes);
        let name = if choices.chance(1, 30) && !self.images.is_empty() {
            self.pick_image(choices)
        } else {
            self.image_name()
        };
        let snapshot = choices.chance(1, 5).then(|| self.name('s'));
        Operation::Import {
            name,
            parent,
            content,
            snapshot,
            as_stream,
        }
    }

    fn pick_update(&mut self, choices: &mut impl Choices) -> Operation {
        let image = self.pick_image(choices);
        let bytes = self.changed(choices, &image);
        let (content, as_stream) = self.pick_content(choices, bytes);
        let snapshot = choices.chance(1, 3).then(|| self.name('s'));
        Operation::Update {
            image,
            content,
            snapshot,
            as_stream,
        }
    }

    /// The content of `node` with some changes, perhaps of another length.
    fn changed(&self, choices: &mut impl Choices, node: &str) -> Vec<u8> {
        let mut bytes = self.bytes_of(node).to_vec();
        if choices.chance(1, 6) {
            bytes.resize(self.pick_len(choices) as usize, 0);
        }
        for _ in 0..choices.below(4) {
            self.pool.change(choices, &mut bytes);
        }
        bytes
    }

    /// Steps on a random image.
    pub(crate) fn pick_live(&mut self, choices: &mut impl Choices) -> Operation {
        let image = self.pick_image(choices);
        let mut bytes = self.bytes_of(&image).to_vec();
        let mut steps = Vec::new();
        for _ in 0..=choices.below(8) {
            match choices.below(10) {
                0 => {
                    steps.push(Step::Flush);
                    steps.push(Step::Snapshot {
                        name: self.name('s'),
                    });
                }
                1 | 2 => steps.push(Step::Flush),
                _ if bytes.is_empty() => {}
                3..=5 => {
                    let (start, end) = range_of(choices, bytes.len() as u64, self.grid);
                    steps.push(Step::Zero {
                        offset: start,
                        len: end - start,
                    });
                }
                _ => {
                    let grid = if choices.chance(1, 2) { 512 } else { self.grid };
                    let (start, end) = range_of(choices, bytes.len() as u64, grid);
                    let range = &mut bytes[start as usize..end as usize];
                    self.pool.change(choices, range);
                    steps.push(Step::Write {
                        offset: start,
                        bytes: Blob(range.to_vec()),
                    });
                }
            }
        }
        if choices.chance(3, 4) {
            steps.push(Step::Flush);
        }
        Operation::Live { image, steps }
    }

    fn pick_snapshot(&mut self, choices: &mut impl Choices) -> Operation {
        let image = self.pick_image(choices);
        let known = &self.images[&image].snapshots;
        let taken = known
            .keys()
            .next()
            .filter(|_| choices.chance(1, 12))
            .cloned();
        if known.len() >= self.limits.snapshots {
            let oldest = known.keys().next().expect("there are several");
            return self.delete_for_space(format!("{image}@{oldest}"));
        }
        Operation::Snapshot {
            image,
            name: taken.unwrap_or_else(|| self.name('s')),
        }
    }

    /// A child of a random node.
    pub(crate) fn pick_child(&mut self, choices: &mut impl Choices) -> Operation {
        let len = choices.chance(1, 2).then(|| self.pick_len(choices));
        Operation::CreateChild {
            name: self.image_name(),
            parent: self.pick_node(choices),
            len,
        }
    }

    /// Deletes `node`, or what keeps it from being deleted.
    fn delete_for_space(&self, node: String) -> Operation {
        if self.refused_delete(&node, true).is_none() {
            return Operation::Delete {
                node,
                with_snapshots: true,
            };
        }
        let pinned = self.images.get(&node).filter(|image| !image.pinned);
        let snapshot =
            pinned.and_then(|image| image.snapshots.iter().find(|(_, snapshot)| snapshot.pinned));
        let node = snapshot.map_or(node.clone(), |(tag, _)| format!("{node}@{tag}"));
        Operation::Pin {
            node,
            pinned: false,
        }
    }

    fn pick_restore(&mut self, choices: &mut impl Choices) -> Operation {
        let save_as = choices.chance(1, 2).then(|| self.name('s'));
        match self.pick_tag(choices) {
            Some(snapshot) => Operation::Restore { snapshot, save_as },
            None => self.pick_snapshot(choices),
        }
    }

    fn pick_rename(&mut self, choices: &mut impl Choices) -> Operation {
        let node = self.pick_node(choices);
        let name = self.name(if node.contains('@') { 's' } else { 'i' });
        Operation::Rename { node, name }
    }

    fn pick_resize(&mut self, choices: &mut impl Choices) -> Operation {
        let image = self.pick_image(choices);
        let old = self.images[&image].bytes.len() as u64;
        let len = if choices.chance(1, 2) {
            self.pick_len(choices)
        } else {
            (old + choices.below(3 * self.grid)).saturating_sub(self.grid)
        };
        Operation::Resize {
            image,
            len: len.min(self.limits.len_max),
            may_shrink: choices.chance(3, 4),
        }
    }

    // ---- what comes of it ----

    /// The outcome that `operation` must have.
    pub(crate) fn expected(&self, operation: &Operation) -> Expected {
        let refused = match operation {
            Operation::Import { name, .. } if self.images.contains_key(name) => {
                Some(Refusal::NameTaken)
            }
            Operation::Snapshot { image, name }
                if self.images[image].snapshots.contains_key(name) =>
            {
                Some(Refusal::NameTaken)
            }
            Operation::Delete {
                node,
                with_snapshots,
            } => self.refused_delete(node, *with_snapshots),
            Operation::Resize {
                image,
                len,
                may_shrink: false,
            } if *len < self.images[image].bytes.len() as u64 => Some(Refusal::WouldShrink),
            Operation::Rebase { image, parent, .. } => return self.expected_rebase(image, parent),
            Operation::Commit { image } => return self.expected_commit(&self.images[image]),
            _ => None,
        };
        refused.map_or(Expected::Done, Expected::Refused)
    }

    fn refused_delete(&self, node: &str, with_snapshots: bool) -> Option<Refusal> {
        if let Some((image, tag)) = node.split_once('@') {
            self.images[image].snapshots[tag]
                .pinned
                .then_some(Refusal::Pinned)
        } else {
            let image = &self.images[node];
            if image.pinned {
                Some(Refusal::Pinned)
            } else if !image.snapshots.is_empty() && !with_snapshots {
                Some(Refusal::HasSnapshots)
            } else {
                image
                    .snapshots
                    .values()
                    .any(|snapshot| snapshot.pinned)
                    .then_some(Refusal::Pinned)
            }
        }
    }

    /// An image may not come to be its own origin's origin; its own snapshots are fine.
    fn expected_rebase(&self, image: &str, parent: &str) -> Expected {
        let (above, is_snapshot) = (
            parent.split('@').next().unwrap_or(parent),
            parent.contains('@'),
        );
        if above == image && is_snapshot {
            return Expected::Done;
        }
        let mut next = Some(above);
        while let Some(name) = next {
            if name == image {
                return Expected::Refused(Refusal::Circle);
            }
            next = match self.images[name].origin {
                Some((u64::MAX, _)) => return Expected::Either,
                Some((uid, _)) => self
                    .images
                    .iter()
                    .find(|(_, image)| image.uid == uid)
                    .map(|(name, _)| name.as_str()),
                None => None,
            };
        }
        Expected::Done
    }

    fn expected_commit(&self, image: &Image) -> Expected {
        let Some((uid, version)) = image.origin else {
            return Expected::Refused(Refusal::NoOrigin);
        };
        if uid == u64::MAX {
            return Expected::Either;
        }
        match self.images.values().find(|origin| origin.uid == uid) {
            None => Expected::Refused(Refusal::NoOrigin),
            Some(origin) if version == Some(origin.version) => Expected::Done,
            Some(_) => Expected::Either,
        }
    }

    /// Does `operation`, which was not refused.
    pub(crate) fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Create { name, len } => {
                self.insert(name, Arc::new(vec![0; *len as usize]), Arc::default(), None);
            }
            Operation::CreateChild { name, parent, len } => self.create_child(name, parent, *len),
            Operation::Import {
                name,
                parent,
                content,
                snapshot,
                ..
            } => self.import(name, parent.as_deref(), content, snapshot.as_deref()),
            Operation::Update {
                image,
                content,
                snapshot,
                ..
            } => {
                let image = self.image_mut(image);
                image.seal();
                let bytes = content.over(&image.bytes);
                image.set(Arc::new(bytes));
                snapshot.iter().for_each(|tag| take_snapshot(image, tag));
            }
            Operation::Live { image, steps } => {
                let image = self.image_mut(image);
                steps.iter().for_each(|step| apply_step(image, step));
            }
            Operation::Snapshot { image, name } => take_snapshot(self.image_mut(image), name),
            Operation::Delete { node, .. } => self.delete(node),
            Operation::Restore { snapshot, save_as } => self.restore(snapshot, save_as.as_deref()),
            Operation::Rename { node, name } => self.rename(node, name),
            Operation::Flatten { image } => {
                let image = self.image_mut(image);
                image.base = Arc::default();
                image.origin = None;
                // The same bytes, but no longer what its children were built on.
                image.version += 1;
            }
            Operation::Commit { image } => self.commit(image),
            Operation::Rebase { image, parent, .. } => self.rebase(image, parent),
            Operation::Resize { image, len, .. } => {
                let image = self.image_mut(image);
                let mut bytes = image.bytes.to_vec();
                bytes.resize(*len as usize, 0);
                image.set(Arc::new(bytes));
            }
            Operation::Pin { node, pinned } => self.pin(node, *pinned),
            Operation::Collect { .. }
            | Operation::Check { .. }
            | Operation::Export { .. }
            | Operation::Reopen
            | Operation::Crash => {}
        }
    }

    fn insert(
        &mut self,
        name: &str,
        bytes: Bytes,
        base: Bytes,
        origin: Option<(u64, Option<u64>)>,
    ) {
        let image = Image {
            origin,
            ..Image::new(self.next_uid, bytes, base)
        };
        self.next_uid += 1;
        assert!(
            self.images.insert(name.to_owned(), image).is_none(),
            "{name} is new"
        );
    }

    fn create_child(&mut self, name: &str, parent: &str, len: Option<u64>) {
        let mut bytes = Arc::clone(self.bytes_of(parent));
        let base = Arc::clone(&bytes);
        if let Some(len) = len {
            Arc::make_mut(&mut bytes).resize(len as usize, 0);
        }
        let (image, is_snapshot) = (
            parent.split('@').next().expect("a name has a first part"),
            parent.contains('@'),
        );
        let origin = self.image_mut(image);
        if !is_snapshot {
            origin.seal();
        }
        let origin = (origin.uid, (!is_snapshot).then_some(origin.version));
        self.insert(name, bytes, base, Some(origin));
    }

    fn import(
        &mut self,
        name: &str,
        parent: Option<&str>,
        content: &Content,
        snapshot: Option<&str>,
    ) {
        let below = parent.map_or_else(Bytes::default, |parent| Arc::clone(self.bytes_of(parent)));
        let origin = parent.map(|parent| {
            let origin = self.image_mut(parent.split('@').next().expect("a name has a first part"));
            if !parent.contains('@') {
                origin.seal();
            }
            (origin.uid, None)
        });
        let bytes = content.over(&below);
        self.insert(name, Arc::new(bytes), below, origin);
        snapshot
            .iter()
            .for_each(|tag| take_snapshot(self.image_mut(name), tag));
    }

    fn delete(&mut self, node: &str) {
        match node.split_once('@') {
            None => drop(self.images.remove(node)),
            Some((image, tag)) => drop(self.image_mut(image).snapshots.remove(tag)),
        }
    }

    fn restore(&mut self, snapshot: &str, save_as: Option<&str>) {
        let bytes = Arc::clone(self.bytes_of(snapshot));
        let (image, _) = snapshot
            .split_once('@')
            .expect("only snapshots are restored");
        let image = self.image_mut(image);
        save_as.iter().for_each(|tag| take_snapshot(image, tag));
        image.set(bytes);
        image.seal();
        // The snapshot may be from before the image was committed.
        image.origin = image.origin.map(|(uid, _)| (uid, None));
    }

    fn rename(&mut self, node: &str, name: &str) {
        match node.split_once('@') {
            None => {
                let image = self
                    .images
                    .remove(node)
                    .expect("operations name what is there");
                self.images.insert(name.to_owned(), image);
            }
            Some((image, tag)) => {
                let snapshots = &mut self.image_mut(image).snapshots;
                let snapshot = snapshots
                    .remove(tag)
                    .expect("operations name what is there");
                snapshots.insert(name.to_owned(), snapshot);
            }
        }
    }

    fn commit(&mut self, name: &str) {
        let image = self.image_mut(name);
        image.seal();
        let (bytes, origin) = (Arc::clone(&image.bytes), image.origin.map(|(uid, _)| uid));
        let Some(origin) = self
            .images
            .values_mut()
            .find(|image| Some(image.uid) == origin)
        else {
            return;
        };
        origin.set(bytes);
        origin.seal();
        let (uid, version) = (origin.uid, origin.version);
        self.image_mut(name).origin = Some((uid, Some(version)));
    }

    fn rebase(&mut self, image: &str, parent: &str) {
        let base = Arc::clone(self.bytes_of(parent));
        let origin = self.image_mut(parent.split('@').next().expect("a name has a first part"));
        if !parent.contains('@') {
            origin.seal();
        }
        let origin = origin.uid;
        let image = self.image_mut(image);
        image.base = base;
        image.version += 1;
        image.origin = if origin == image.uid {
            image.origin.map(|(uid, _)| (uid, None))
        } else {
            Some((origin, None))
        };
    }

    fn pin(&mut self, node: &str, pinned: bool) {
        match node.split_once('@') {
            None => self.image_mut(node).pinned = pinned,
            Some((image, tag)) => {
                self.image_mut(image)
                    .snapshots
                    .get_mut(tag)
                    .expect("operations name what is there")
                    .pinned = pinned;
            }
        }
    }
}

fn take_snapshot(image: &mut Image, tag: &str) {
    image.seal();
    let snapshot = Snapshot {
        bytes: Arc::clone(&image.bytes),
        pinned: false,
    };
    assert!(
        image.snapshots.insert(tag.to_owned(), snapshot).is_none(),
        "{tag} is new"
    );
}

/// One step on an open disk, as its user sees it.
pub(crate) fn apply_step(image: &mut Image, step: &Step) {
    match step {
        Step::Write { offset, bytes } => {
            image.version += 1;
            Arc::make_mut(&mut image.bytes)[*offset as usize..][..bytes.0.len()]
                .copy_from_slice(&bytes.0);
        }
        Step::Zero { offset, len } => {
            image.version += 1;
            Arc::make_mut(&mut image.bytes)[*offset as usize..][..*len as usize].fill(0);
        }
        Step::Flush => {}
        Step::Snapshot { name } => take_snapshot(image, name),
    }
}
