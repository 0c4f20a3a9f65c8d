//! Plans operations that take data out of the store or bring it in: files, and a repository.

use std::sync::Arc;

use super::super::model::{NEVER, Names, Shown};
use super::super::site::{Site, words};
use super::{Effect, FIRST_KEY, Kind, OUT, Operation, Planner, Present, REPOSITORY};

impl Planner {
    pub(super) fn pull(
        &mut self,
        site: &Site,
        present: &Present<'_>,
        names: &mut Names,
    ) -> Option<Vec<String>> {
        let points = &present.repository.as_ref()?.points;
        let node = self.pick(points, |name, shown| {
            name.contains('@') && shown.bytes().is_some()
        })?;
        let (image, snapshot) = (self.name("img"), node.split_once('@')?.1);
        names.insert(image.clone(), points[&node].clone());
        names.insert(format!("{image}@{snapshot}"), points[&node].clone());
        let (repository, key) = (site.path(REPOSITORY), site.path(FIRST_KEY));
        let line = [
            "backup",
            "pull",
            &repository,
            &node,
            "--as",
            &image,
            "--key-file",
            &key,
        ];
        Some(words(&line))
    }

    pub(super) fn file_operation(
        &mut self,
        kind: Kind,
        site: &Site,
        present: &Present<'_>,
    ) -> Option<Operation> {
        let mut files = present.files.clone();
        let file = format!("{OUT}/file-{}", self.random.u8(..4));
        let path = site.path(&file);
        let is_fixed = |_: &String, shown: &Shown| shown.bytes().is_some();
        let (line, shown) = if kind == Kind::Export {
            let names = present.store.as_ref()?;
            let node = self.pick(names, is_fixed)?;
            (words(&["export", &node, &path, "--force"]), &names[&node])
        } else {
            let points = &present.repository.as_ref()?.points;
            let node = self.pick(points, |name, shown| {
                name.contains('@') && shown.bytes().is_some()
            })?;
            let (repository, key) = (site.path(REPOSITORY), site.path(FIRST_KEY));
            let line = [
                "backup",
                "restore",
                &repository,
                &node,
                &path,
                "--force",
                "--key-file",
                &key,
            ];
            (words(&line), &points[&node])
        };
        files.insert(file, shown.clone());
        Some(Operation {
            kind,
            words: line,
            file: None,
            effect: Effect::Files(files),
        })
    }

    pub(super) fn repository_operation(
        &mut self,
        kind: Kind,
        site: &Site,
        present: &Present<'_>,
    ) -> Option<Operation> {
        let mut all = present.repository.clone()?;
        let (repository, key) = (site.path(REPOSITORY), site.path(FIRST_KEY));
        let mut line = match kind {
            Kind::Push => {
                let names = present.store.as_ref()?;
                let pushed = names.iter().map(|(name, shown)| {
                    let shown = match shown {
                        Shown::Live(disk) => Shown::Between(Arc::clone(disk), NEVER, NEVER),
                        shown => shown.clone(),
                    };
                    (name.clone(), shown)
                });
                all.points.extend(pushed);
                words(&["backup", "push", &repository, "--all"])
            }
            Kind::Forget => {
                // Points that the store has still would come back with the next push.
                let names = present.store.as_ref()?;
                let node = self.pick(&all.points, |name, _| {
                    name.contains('@') && !names.contains_key(name)
                })?;
                all.points.remove(&node);
                words(&["backup", "forget", &repository, &node])
            }
            Kind::Prune => {
                let useless = ["backup", "prune", &repository, "--fence", "all"];
                let mut line = words(&useless);
                line.extend(words(&["--max-unused", "0"]));
                line
            }
            _ => {
                let new = self.name("keys/k");
                let path = site.path(&new);
                let line = ["backup", "key", "add", &repository, "--new-key-file", &path];
                all.keys.insert(new);
                words(&line)
            }
        };
        line.extend(words(&["--key-file", &key]));
        Some(Operation {
            kind,
            words: line,
            file: None,
            effect: Effect::Repository(Some(all)),
        })
    }
}
