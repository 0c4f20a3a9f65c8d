//! Layers that are to be imported together, parents before children: those of files that stand on
//! each other, and of the states that a qcow2 keeps inside.

use std::collections::BTreeMap;
use std::sync::Arc;

use vellum_core::source::ImageSource;
use vellum_formats::chain::ImageChain;

use super::parents::{ChainFinder, ChainedFile};
use crate::baseless_image::BaselessImage;
use crate::clock::now_ms;
use crate::error::StoreError;
use crate::file_source::FileGuard;

/// A layer to be imported.
pub struct ForestLayer {
    /// Its name in errors.
    pub name: String,
    /// The layer that it stands on: its place among all, before its own.
    pub parent: Option<usize>,
    /// The time when its content last changed, in milliseconds since 1970.
    pub changed_ms: u64,
    pub(super) image: Arc<dyn ImageSource>,
    pub(super) guard: Option<Arc<FileGuard>>,
}

/// Layers to be imported, parents before children.
#[derive(Default)]
pub struct LayerForest {
    pub(super) layers: Vec<ForestLayer>,
    /// The layers of each file of a finder: its internal snapshots, then what it shows.
    files: BTreeMap<usize, Vec<usize>>,
}

impl LayerForest {
    /// No layers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The layers.
    #[must_use]
    pub fn layers(&self) -> &[ForestLayer] {
        &self.layers
    }

    /// Adds `image`, whole or over `parent`; its place.
    pub fn add_image(
        &mut self,
        name: String,
        parent: Option<usize>,
        image: Arc<dyn ImageSource>,
    ) -> usize {
        let image = grounded(image, parent);
        self.push_layer(ForestLayer {
            name,
            parent,
            changed_ms: now_ms(),
            image,
            guard: None,
        })
    }

    /// Adds file `place` of `finder`, what it stands on, and the states that they keep inside; the
    /// places of its internal states, and last of what it shows. A file that is there already is
    /// not added again.
    pub fn add_file(
        &mut self,
        finder: &ChainFinder,
        place: usize,
    ) -> Result<Vec<usize>, StoreError> {
        let files = finder.files();
        let mut chain = Vec::new();
        let mut next = Some(place);
        while let Some(at) = next.filter(|at| !self.files.contains_key(at)) {
            chain.push(at);
            next = files[at].parent;
        }
        for at in chain.into_iter().rev() {
            let added = self.add_states(files, at)?;
            self.files.insert(at, added);
        }
        Ok(self.files[&place].clone())
    }

    /// The states of one file, each on the one before: what differs of them is stored.
    fn add_states(&mut self, files: &[ChainedFile], at: usize) -> Result<Vec<usize>, StoreError> {
        let file = &files[at];
        let below = |mut next: Option<usize>| {
            let mut chain = Vec::new();
            while let Some(at) = next {
                chain.push(Arc::clone(&files[at].image));
                next = files[at].parent;
            }
            chain
        };
        let base = file.parent.map(|parent| {
            let layers = &self.files[&parent];
            *layers.last().expect("a file shows something")
        });
        let name = file.path.display().to_string();
        let mut states: Vec<(String, u64, Arc<dyn ImageSource>)> = Vec::new();
        for snapshot in &file.internal {
            let image = file.internal_image(snapshot)?;
            let name = format!("{name} (snapshot {})", snapshot.name);
            states.push((name, u64::from(snapshot.seconds) * 1000, image));
        }
        states.push((name.clone(), file.changed_ms, Arc::clone(&file.image)));
        let (mut added, mut parent) = (Vec::with_capacity(states.len()), base);
        for (name, changed_ms, image) in states {
            // On another state of its own file it says all that it shows.
            let image: Arc<dyn ImageSource> = if added.is_empty() {
                grounded(image, base)
            } else {
                let whole = std::iter::once(image).chain(below(file.parent)).collect();
                let whole =
                    ImageChain::for_whole_disk(whole).map_err(|source| StoreError::Source {
                        name: name.clone(),
                        source,
                    })?;
                Arc::new(BaselessImage(Arc::new(whole)))
            };
            let place = self.push_layer(ForestLayer {
                name,
                parent,
                changed_ms,
                image,
                guard: Some(Arc::clone(&file.guard)),
            });
            added.push(place);
            parent = Some(place);
        }
        Ok(added)
    }

    fn push_layer(&mut self, layer: ForestLayer) -> usize {
        self.layers.push(layer);
        self.layers.len() - 1
    }
}

fn grounded(image: Arc<dyn ImageSource>, parent: Option<usize>) -> Arc<dyn ImageSource> {
    match parent {
        Some(_) => image,
        None => Arc::new(BaselessImage(image)),
    }
}
