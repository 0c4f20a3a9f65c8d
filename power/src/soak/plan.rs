//! Plans the next operation of a person, and the change that it makes to a store, a repository or a
//! folder. Decides; does nothing.
//!
//! Names are never given twice, so a name says which thing is meant, whatever happened to it.

mod content;
mod elsewhere;
mod kinds;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::model::{Bytes, GuestDisk, NEVER, Names, Shown};
use super::site::{Site, words};

use kinds::RANDOM;
pub(crate) use kinds::{Kind, SCRIPT};

/// Images of one store: enough to meet, few enough to be read after every cut.
const IMAGES_MAX: usize = 6;
const SNAPSHOTS_MAX: usize = 8;
/// Bytes of an image: some frames.
const LEN_MAX: u64 = 1 << 20;
/// Bytes of a disk that guests write.
const GUEST_LEN: u64 = 512 << 10;
/// Kinds that are tried before it is a check.
const TRIES: u32 = 8;
/// The first key of every repository, on the disk under test.
pub(crate) const FIRST_KEY: &str = "keys/first";
/// The folder of exported files.
pub(crate) const OUT: &str = "out";
pub(crate) const REPOSITORY: &str = "repository";

/// The points of a repository, and the keys that open it.
#[derive(Clone, Default)]
pub(crate) struct Points {
    pub(crate) points: Names,
    pub(crate) keys: BTreeSet<String>,
}

/// The change that an operation makes: the state after it.
#[derive(Clone)]
pub(crate) enum Effect {
    Store(Option<Names>),
    Files(Names),
    Repository(Option<Points>),
    Nothing,
}

/// An operation.
#[derive(Clone)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    pub(crate) words: Vec<String>,
    /// The bytes to import, in a file of this name.
    pub(crate) file: Option<(String, Bytes)>,
    pub(crate) effect: Effect,
}

/// The present state.
pub(crate) struct Present<'a> {
    pub(crate) store: &'a Option<Names>,
    pub(crate) files: &'a Names,
    pub(crate) repository: &'a Option<Points>,
}

/// Chooses.
pub(crate) struct Planner {
    pub(crate) random: fastrand::Rng,
    next: u64,
    /// An image and the one that it was made from, as long as only the first was changed.
    child: Option<(String, String)>,
    /// Images that were ever pushed: they keep their names.
    pushed: BTreeSet<String>,
}

impl Planner {
    pub(crate) fn new(random: fastrand::Rng) -> Self {
        Self {
            random,
            next: 0,
            child: None,
            pushed: BTreeSet::new(),
        }
    }

    /// Some operation that is possible.
    pub(crate) fn any(&mut self, site: &Site, present: &Present<'_>) -> Operation {
        if present.store.is_none() {
            return self.operation(Kind::Init, site, present);
        }
        if present.repository.is_none() && self.random.u8(..4) == 0 {
            return self.operation(Kind::InitRepository, site, present);
        }
        for _ in 0..TRIES {
            let kind = RANDOM[self.random.usize(..RANDOM.len())];
            if let Some(operation) = self.try_operation(kind, site, present) {
                return self.noted(operation, present);
            }
        }
        self.operation(Kind::Check, site, present)
    }

    /// An operation of this kind, or a check if that is not possible.
    pub(crate) fn operation(
        &mut self,
        kind: Kind,
        site: &Site,
        present: &Present<'_>,
    ) -> Operation {
        let made = self.try_operation(kind, site, present);
        let operation = made.unwrap_or_else(|| Operation {
            kind: Kind::Check,
            words: words(&["check"]),
            file: None,
            effect: Effect::Nothing,
        });
        self.noted(operation, present)
    }

    fn noted(&mut self, operation: Operation, present: &Present<'_>) -> Operation {
        if operation.kind == Kind::Push {
            let images = present.store.iter().flatten().map(|(name, _)| name.clone());
            self.pushed
                .extend(images.filter(|name| !name.contains('@')));
        }
        operation
    }

    fn try_operation(
        &mut self,
        kind: Kind,
        site: &Site,
        present: &Present<'_>,
    ) -> Option<Operation> {
        let key = site.path(FIRST_KEY);
        let repository = site.path(REPOSITORY);
        let plain = |line: &[&str], effect| {
            Some(Operation {
                kind,
                words: words(line),
                file: None,
                effect,
            })
        };
        match kind {
            Kind::Init => {
                let none = present.store.is_none();
                plain(&["init"], Effect::Store(Some(Names::new()))).filter(|_| none)
            }
            Kind::InitRepository => {
                let mut points = Points::default();
                points.keys.insert(FIRST_KEY.to_owned());
                let line = ["backup", "init", &repository, "--key-file", &key];
                let none = present.repository.is_none();
                plain(&line, Effect::Repository(Some(points))).filter(|_| none)
            }
            Kind::Collect => plain(&["gc"], Effect::Nothing),
            Kind::Check => plain(&["check", "--read-data"], Effect::Nothing),
            Kind::Export | Kind::RestoreFile => self.file_operation(kind, site, present),
            Kind::Push | Kind::Forget | Kind::Prune | Kind::AddKey => {
                self.repository_operation(kind, site, present)
            }
            _ => self.store_operation(kind, site, present),
        }
    }

    fn store_operation(
        &mut self,
        kind: Kind,
        site: &Site,
        present: &Present<'_>,
    ) -> Option<Operation> {
        let mut names = present.store.clone()?;
        let images = names.keys().filter(|name| !name.contains('@')).count();
        let makes_image = [
            Kind::Import,
            Kind::ImportChild,
            Kind::Create,
            Kind::CreateDisk,
            Kind::Clone,
            Kind::Pull,
        ]
        .contains(&kind);
        if makes_image && images >= IMAGES_MAX {
            return self.store_operation(Kind::RemoveImage, site, present);
        }
        let is_snapshot = [Kind::Snapshot, Kind::SnapshotDisk].contains(&kind);
        if is_snapshot && names.len() - images >= SNAPSHOTS_MAX {
            return self.store_operation(Kind::RemoveSnapshot, site, present);
        }
        let mut file = None;
        let line = match kind {
            Kind::Import | Kind::ImportChild | Kind::Update => {
                let (line, content) = self.import(kind, &mut names)?;
                file = Some(content);
                line
            }
            Kind::Create | Kind::CreateDisk | Kind::Clone => self.create(kind, &mut names)?,
            Kind::Snapshot | Kind::SnapshotDisk => self.snapshot(kind, &mut names)?,
            Kind::Restore => self.restore(&mut names)?,
            Kind::RemoveSnapshot => {
                let node = self.pick(&names, |name, _| name.contains('@'))?;
                names.remove(&node);
                words(&["rm", &node])
            }
            Kind::RemoveImage => {
                let image = self.pick_image(&names)?;
                self.touch(&image);
                let prefix = format!("{image}@");
                names.retain(|name, _| *name != image && !name.starts_with(&prefix));
                words(&["rm", &image, "--with-snapshots"])
            }
            Kind::Grow | Kind::Shrink => self.resize(kind, &mut names)?,
            Kind::Rename => self.rename(&mut names)?,
            Kind::Flatten => {
                let image = self.pick_image(&names)?;
                self.touch(&image);
                words(&["flatten", &image])
            }
            Kind::Commit => self.commit(&mut names)?,
            Kind::Pull => self.pull(site, present, &mut names)?,
            _ => return None,
        };
        Some(Operation {
            kind,
            words: line,
            file,
            effect: Effect::Store(Some(names)),
        })
    }

    fn import(&mut self, kind: Kind, names: &mut Names) -> Option<(Vec<String>, (String, Bytes))> {
        let file = format!("{}.raw", self.name("file"));
        let (mut line, image, content) = match kind {
            Kind::Import => {
                let (image, content) = (self.name("img"), self.content());
                (words(&["import", &file, &image]), image, content)
            }
            Kind::ImportChild => {
                let parent = self.pick(names, |_, shown| shown.bytes().is_some())?;
                let content = self.changed(names[&parent].bytes()?);
                let image = self.name("img");
                let line = words(&["import", &file, &image, "-b", &parent]);
                (line, image, content)
            }
            _ => {
                let child = self.child.as_ref().map(|(child, _)| child.clone());
                let image = child.filter(|child| names.contains_key(child));
                let image = image.or_else(|| self.pick_image(names))?;
                if self.child.as_ref().is_none_or(|(child, _)| *child != image) {
                    self.touch(&image);
                }
                let content = self.changed(names[&image].bytes()?);
                (
                    words(&["import", &file, &image, "--update"]),
                    image,
                    content,
                )
            }
        };
        let content = Arc::new(content);
        names.insert(image.clone(), Shown::Fixed(Arc::clone(&content)));
        if self.random.u8(..3) == 0 {
            let snapshot = self.name("s");
            names.insert(
                format!("{image}@{snapshot}"),
                Shown::Fixed(Arc::clone(&content)),
            );
            line.extend(words(&["--snapshot", &snapshot]));
        }
        // The format is given, so that nothing a guest wrote decides it.
        line.extend(words(&["--format", "raw"]));
        Some((line, (file, content)))
    }

    fn create(&mut self, kind: Kind, names: &mut Names) -> Option<Vec<String>> {
        match kind {
            Kind::CreateDisk => {
                let disk = self.name("disk");
                let base = Arc::new(vec![0; GUEST_LEN as usize]);
                names.insert(disk.clone(), Shown::Live(GuestDisk::new(0, base)));
                Some(words(&["create", &disk, &GUEST_LEN.to_string()]))
            }
            Kind::Create => {
                let (image, len) = (self.name("tmp"), self.random.u64(1..LEN_MAX));
                names.insert(image.clone(), Shown::fixed(vec![0; len as usize]));
                Some(words(&["create", &image, &len.to_string()]))
            }
            _ => {
                let parent = self.pick(names, |_, shown| shown.bytes().is_some())?;
                let child = self.name("img");
                names.insert(child.clone(), names[&parent].clone());
                self.child = None;
                if !parent.contains('@') {
                    self.child = Some((child.clone(), parent.clone()));
                }
                Some(words(&["create", &child, "-b", &parent]))
            }
        }
    }

    fn snapshot(&mut self, kind: Kind, names: &mut Names) -> Option<Vec<String>> {
        let image = if kind == Kind::SnapshotDisk {
            self.pick(names, |_, shown| matches!(shown, Shown::Live(_)))?
        } else {
            self.pick_image(names)?
        };
        let node = format!("{image}@{}", self.name("s"));
        let shown = match &names[&image] {
            // The moments are known when it is begun, and when it is done.
            Shown::Live(disk) => Shown::Between(Arc::clone(disk), NEVER, NEVER),
            shown => shown.clone(),
        };
        names.insert(node.clone(), shown);
        Some(words(&["snapshot", "take", &node]))
    }

    fn restore(&mut self, names: &mut Names) -> Option<Vec<String>> {
        let is_fixed = |name: &String, shown: &Shown, names: &Names| {
            let image = name.split_once('@').and_then(|(image, _)| names.get(image));
            shown.bytes().is_some() && image.is_some_and(|image| image.bytes().is_some())
        };
        let all = names.clone();
        let node = self.pick(names, |name, shown| is_fixed(name, shown, &all))?;
        let image = node.split_once('@')?.0.to_owned();
        self.touch(&image);
        let saved = self.name("s");
        names.insert(format!("{image}@{saved}"), names[&image].clone());
        names.insert(image, names[&node].clone());
        let line = ["snapshot", "restore", &node, "--save-current-as", &saved];
        Some(words(&line))
    }

    fn resize(&mut self, kind: Kind, names: &mut Names) -> Option<Vec<String>> {
        let image = self.pick_image(names)?;
        let mut bytes = names[&image].bytes()?.to_vec();
        self.touch(&image);
        let len = if kind == Kind::Grow {
            bytes.len() as u64 + self.random.u64(1..=200_000)
        } else {
            self.random.u64(1..=bytes.len().max(1) as u64)
        };
        bytes.resize(len as usize, 0);
        names.insert(image.clone(), Shown::fixed(bytes));
        let mut line = words(&["resize", &image, &len.to_string()]);
        if kind == Kind::Shrink {
            line.push("--shrink".to_owned());
        }
        Some(line)
    }

    fn rename(&mut self, names: &mut Names) -> Option<Vec<String>> {
        let pushed = self.pushed.clone();
        let is_movable = |name: &String| !name.contains('@') && !pushed.contains(name);
        let image = self.pick(names, |name, shown| {
            is_movable(name) && shown.bytes().is_some()
        })?;
        self.touch(&image);
        let (new, prefix) = (self.name("img"), format!("{image}@"));
        let moved = std::mem::take(names).into_iter().map(|(name, shown)| {
            let snapshot = name.strip_prefix(&prefix);
            match snapshot {
                Some(snapshot) => (format!("{new}@{snapshot}"), shown),
                None if name == image => (new.clone(), shown),
                None => (name, shown),
            }
        });
        *names = moved.collect();
        Some(words(&["rename", &image, &new]))
    }

    fn commit(&mut self, names: &mut Names) -> Option<Vec<String>> {
        let (child, parent) = self.child.take()?;
        let content = names.get(&child)?.clone();
        names.get(&parent)?;
        names.insert(parent, content);
        Some(words(&["commit", &child]))
    }

    fn name(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}-{}", self.next)
    }

    /// Names from now on are not those of anything in `names`.
    pub(crate) fn avoid<'n>(&mut self, names: impl Iterator<Item = &'n String>) {
        let numbers = names.flat_map(|name| name.split(['@', '-', '/']));
        let last = numbers.filter_map(|part| part.parse::<u64>().ok()).max();
        self.next = self.next.max(last.unwrap_or(0));
    }

    /// Images whose points are in a repository keep their names.
    pub(crate) fn note_pushed(&mut self, points: Option<&Points>) {
        let names = points.iter().flat_map(|all| all.points.keys());
        let images = names.filter_map(|name| name.split('@').next());
        self.pushed.extend(images.map(str::to_owned));
    }

    /// The image is changed by more than an update of a child.
    fn touch(&mut self, image: &str) {
        let is_hit = |(child, parent): &(String, String)| child == image || parent == image;
        if self.child.as_ref().is_some_and(is_hit) {
            self.child = None;
        }
    }

    fn pick_image(&mut self, names: &Names) -> Option<String> {
        self.pick(names, |name, shown| {
            !name.contains('@') && shown.bytes().is_some()
        })
    }

    fn pick(
        &mut self,
        names: &Names,
        is_wanted: impl Fn(&String, &Shown) -> bool,
    ) -> Option<String> {
        let found: Vec<&String> = names
            .iter()
            .filter(|(name, shown)| is_wanted(name, shown))
            .map(|(name, _)| name)
            .collect();
        (!found.is_empty()).then(|| found[self.random.usize(..found.len())].clone())
    }
}
