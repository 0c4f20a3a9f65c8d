//! Finds the files that images stand on, and opens each once.
//!
//! Only files beside the child are opened, and those that a person named: the word of a header
//! chooses among the files of its own folder, and of its own format, and never leaves it. What it
//! must not do is decide what is stored of them; that is `forest`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use vellum_core::source::{ClusterDecoder, ImageSource, ReadAt, SourceError};
use vellum_formats::chain::{ChainFile, open_chain};
use vellum_formats::input::{InputChoice, InputFormat};
use vellum_formats::probe::{FormatVerdict, probe_file};
use vellum_formats::{
    Companions, DiskIdentity, Format, ImageFacts, InternalSnapshot, ParentReference, image_facts,
    internal_snapshots, open_internal_snapshot,
};

use super::parent_search::{
    ChildFile, FileKey, find_beside, find_by_identity, names_in, open_beside, path_inside,
};
use crate::codec::ClusterCodecs;
use crate::companions::FolderCompanions;
use crate::destination::folder_of;
use crate::error::StoreError;
use crate::file_source::{FileGuard, FileSource};
use crate::image_file::ImageFile;

/// An image file that was opened, one of a chain.
pub struct ChainedFile {
    /// Path of the file.
    pub path: PathBuf,
    /// The format that it is read as.
    pub format: Format,
    /// Facts from its headers.
    pub facts: ImageFacts,
    /// The file that it stands on: its place among all.
    pub parent: Option<usize>,
    /// The states that it keeps inside, the oldest first.
    pub internal: Vec<InternalSnapshot>,
    /// Time of its last modification, in milliseconds since 1970.
    pub changed_ms: u64,
    file: Arc<dyn ReadAt>,
    pub(crate) image: Arc<dyn ImageSource>,
    pub(crate) guard: Arc<FileGuard>,
}

/// Finds and opens chains of image files.
#[derive(Default)]
pub struct ChainFinder {
    /// Names as headers have them, identities and folders, and where they are instead.
    backing_map: Vec<(String, PathBuf)>,
    /// Names and identities that a text says, and the files that it means.
    known: Vec<(String, PathBuf)>,
    files: Vec<ChainedFile>,
    places: HashMap<FileKey, usize>,
    /// Names of extents that images consist of, with their folders.
    extents: Vec<PathBuf>,
    /// Sentences about what was guessed.
    notes: Vec<String>,
}

/// A file on its way into a chain.
struct OpeningFile {
    path: PathBuf,
    key: FileKey,
    format: Format,
    file: Arc<FileSource>,
    guard: FileGuard,
    changed_ms: u64,
}

/// Extents of whichever image is being opened.
struct MovingCompanions {
    image: Mutex<PathBuf>,
    opened: Mutex<Vec<PathBuf>>,
}

impl ChainFinder {
    /// A finder that takes what `backing_map` says: a name as a header has it, an identity, or a
    /// folder of such names, and the file or folder that it is now.
    #[must_use]
    pub fn new(backing_map: Vec<(String, PathBuf)>) -> Self {
        Self {
            backing_map,
            ..Self::default()
        }
    }

    /// Adds that the file which a header may call `name`, a name or an identity, is the one at
    /// `path`, which [`ChainFinder::locate_file`] gave.
    pub fn add_known_file(&mut self, name: String, path: PathBuf) {
        self.known.push((name, path));
    }

    /// All files so far, parents before children.
    #[must_use]
    pub fn files(&self) -> &[ChainedFile] {
        &self.files
    }

    /// Takes the sentences about what was guessed.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Opens `top` in `format` and all that it stands on; its place among all files.
    ///
    /// # Errors
    ///
    /// [`StoreError::Parent`] when a parent is not found or may not be opened, else as
    /// [`vellum_formats::open`].
    pub fn open_chain(&mut self, top: &Path, format: Format) -> Result<usize, StoreError> {
        let top = OpeningFile::open_named(top, format)?;
        let companions = MovingCompanions::for_image(&top.path);
        let decoder: Arc<dyn ClusterDecoder> = Arc::new(ClusterCodecs);
        let (mut opened, mut failure) = (vec![top], None);
        let file: ChainFile = (format, Arc::clone(&opened[0].file) as Arc<dyn ReadAt>);
        let layers = open_chain(file, &decoder, &companions, &mut |parent| match self
            .parent_of(&opened, parent)
        {
            Ok(found) => {
                companions.move_to(&found.path);
                let file: ChainFile = (found.format, Arc::clone(&found.file) as Arc<dyn ReadAt>);
                opened.push(found);
                Ok(file)
            }
            Err(error) => {
                failure = Some(error);
                Err(SourceError::Refused {
                    format: "chain",
                    reason: parent.to_string(),
                })
            }
        });
        let name = opened
            .last()
            .map_or_else(String::new, |last| last.path.display().to_string());
        let layers =
            layers.map_err(|source| failure.unwrap_or(StoreError::Source { name, source }))?;
        self.extents.extend(companions.into_opened());
        let mut parent = None;
        for (opening, layer) in opened.into_iter().zip(layers).rev() {
            parent = Some(self.keep_file(opening, layer.facts, layer.image, parent)?);
        }
        Ok(parent.expect("a chain has a layer"))
    }

    /// Opens every image of a folder; the places of those that no other one stands on, and the
    /// names of files that are no images.
    ///
    /// # Errors
    ///
    /// As [`ChainFinder::open_chain`], for any of them: none is left out for being damaged.
    pub fn open_folder(&mut self, dir: &Path) -> Result<(Vec<usize>, Vec<String>), StoreError> {
        let (mut found, mut left_out, mut unread) = (Vec::new(), Vec::new(), Vec::new());
        for name in names_in(dir)? {
            let path = path_inside(dir, &name);
            let Ok((file, _)) = open_beside(&path) else {
                continue;
            };
            match probe_file(&file).map(|seen| seen.verdict()) {
                Ok(FormatVerdict::Known(format)) => match image_facts(format, Arc::new(file)) {
                    Ok(_) => found.push((path, format)),
                    Err(source) => unread.push((path, source)),
                },
                _ => left_out.push(path),
            }
        }
        let mut tops = Vec::new();
        for (path, format) in found {
            if self.extents.contains(&path) {
                continue;
            }
            tops.push(self.open_chain(&path, format)?);
        }
        // An extent of another image has no header of its own.
        let is_image = |(path, _): &(PathBuf, SourceError)| !self.extents.contains(path);
        if let Some((path, source)) = unread.into_iter().find(is_image) {
            let name = path.display().to_string();
            return Err(StoreError::Source { name, source });
        }
        tops.sort_unstable();
        tops.dedup();
        let is_top = |top: &usize| {
            let file = &self.files[*top];
            !self.files.iter().any(|child| child.parent == Some(*top))
                && !self.extents.contains(&file.path)
        };
        tops.retain(is_top);
        left_out.retain(|path| {
            !self.extents.contains(path) && !self.files.iter().any(|file| file.path == *path)
        });
        let names = left_out.iter().map(|path| path.display().to_string());
        Ok((tops, names.collect()))
    }

    /// Opens disk `member` of the OVA at `path`, whole in itself; its place.
    ///
    /// # Errors
    ///
    /// As [`ImageFile::open_disk`].
    pub fn open_member(&mut self, path: &Path, member: &str) -> Result<usize, StoreError> {
        let choice = InputChoice {
            disk: Some(member),
            is_over_parent: false,
        };
        let opened = ImageFile::open_disk(path, InputFormat::Ova, choice)?;
        let facts = opened.facts().clone();
        let (_, _, image, guard) = opened.into_parts();
        self.files.push(ChainedFile {
            path: PathBuf::from(member),
            format: Format::Vmdk,
            facts,
            parent: None,
            internal: Vec::new(),
            changed_ms: guard.changed_ms(),
            file: Arc::new(Vec::new()),
            image,
            guard: Arc::new(guard),
        });
        Ok(self.files.len() - 1)
    }

    /// Remembers a file; its place.
    fn keep_file(
        &mut self,
        opening: OpeningFile,
        facts: ImageFacts,
        image: Arc<dyn ImageSource>,
        parent: Option<usize>,
    ) -> Result<usize, StoreError> {
        if let Some(place) = self.places.get(&opening.key) {
            return Ok(*place);
        }
        let internal = if opening.format == Format::Qcow2 {
            internal_snapshots(&*opening.file).map_err(|source| StoreError::Source {
                name: opening.path.display().to_string(),
                source,
            })?
        } else {
            Vec::new()
        };
        self.files.push(ChainedFile {
            path: opening.path,
            format: opening.format,
            facts,
            parent,
            internal,
            changed_ms: opening.changed_ms,
            file: opening.file,
            image,
            guard: Arc::new(opening.guard),
        });
        self.places.insert(opening.key, self.files.len() - 1);
        Ok(self.files.len() - 1)
    }

    /// The file that the last of `chain` calls `parent`.
    fn parent_of(
        &mut self,
        chain: &[OpeningFile],
        parent: &ParentReference,
    ) -> Result<OpeningFile, StoreError> {
        let child = chain.last().expect("a parent has a child");
        let refused = |reason: String| StoreError::Parent {
            name: child.path.display().to_string(),
            parent: parent.to_string(),
            reason,
        };
        let (found, is_named) = self.place_of(&child.as_child(), parent).map_err(refused)?;
        let file = if is_named {
            FileSource::open_file(&found)?
        } else {
            open_beside(&found).map_err(refused)?.0
        };
        let guard = FileGuard::new(&file, &found)?;
        let key = guard.file_key();
        if chain.iter().any(|above| above.key == key) {
            return Err(refused("the chain goes in a circle".to_owned()));
        }
        let format = self.format_of(child, parent, &file, &found)?;
        Ok(OpeningFile {
            changed_ms: guard.changed_ms(),
            path: found,
            key,
            format,
            file: Arc::new(file),
            guard,
        })
    }

    /// Path of the parent of `child`, and true if the user named that very file.
    fn place_of(
        &self,
        child: &ChildFile<'_>,
        parent: &ParentReference,
    ) -> Result<(PathBuf, bool), String> {
        match self.mapped_path(parent) {
            Some(folder) if folder.is_dir() => {
                Ok((find_by_identity(&folder, child, parent)?, false))
            }
            Some(file) => Ok((file, true)),
            None => match self.known.iter().find(|(name, _)| is_called(parent, name)) {
                Some((_, path)) => Ok((path.clone(), false)),
                None => Ok((find_beside(child, parent)?, false)),
            },
        }
    }

    /// The place that a person gave for `parent`.
    fn mapped_path(&self, parent: &ParentReference) -> Option<PathBuf> {
        self.backing_map.iter().find_map(|(old, new)| {
            if is_called(parent, old) {
                return Some(new.clone());
            }
            parent
                .hints
                .iter()
                .find_map(|hint| mapped_below(hint, old, new))
        })
    }

    /// Path of a file that a text (no image itself) refers to: the one that the user mapped, else
    /// a name inside `dir`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Parent`] when it leaves the folder.
    pub fn locate_file(&self, text: &Path, location: &str) -> Result<PathBuf, StoreError> {
        let reference = ParentReference {
            identity: None,
            hints: vec![location.to_owned()],
            format: None,
        };
        if let Some(path) = self.mapped_path(&reference) {
            return Ok(path);
        }
        let dir = folder_of(text).to_owned();
        let absolute = dir.canonicalize().unwrap_or_else(|_| dir.clone());
        let refused = |reason: &str| StoreError::Parent {
            name: text.display().to_string(),
            parent: format!("{location:?}"),
            reason: reason.to_owned(),
        };
        let mut inside = Path::new(location);
        if inside.is_absolute() {
            inside = inside.strip_prefix(&absolute).unwrap_or(inside);
            inside = inside.strip_prefix(&dir).unwrap_or(inside);
        }
        let is_plain = inside
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if inside.as_os_str().is_empty() || !is_plain {
            return Err(refused("lies outside the folder of the file that names it"));
        }
        // No part of the way may be a link: it would lead anywhere.
        let mut path = PathBuf::new();
        for part in inside.components() {
            path.push(part);
            if dir.join(&path).is_symlink() {
                return Err(refused("is a link, or lies behind one"));
            }
        }
        let is_here = dir == Path::new(".");
        Ok(if is_here { path } else { dir.join(path) })
    }

    fn format_of(
        &mut self,
        child: &OpeningFile,
        parent: &ParentReference,
        file: &FileSource,
        path: &Path,
    ) -> Result<Format, StoreError> {
        if child.format != Format::Qcow2 {
            return Ok(child.format);
        }
        let refused = |reason: String| StoreError::Parent {
            name: child.path.display().to_string(),
            parent: parent.to_string(),
            reason,
        };
        if let Some(format) = &parent.format {
            let known = format.parse::<Format>();
            return known.map_err(|error| refused(error.to_string()));
        }
        let seen = probe_file(file).map_err(|source| StoreError::Source {
            name: path.display().to_string(),
            source,
        })?;
        let format = match seen.verdict() {
            FormatVerdict::Raw => Format::Raw,
            FormatVerdict::Known(format) => format,
            _ => {
                return Err(refused(format!(
                    "{seen}, and its child does not say what it is"
                )));
            }
        };
        self.notes.push(format!(
            "{} does not say of which format its parent is: {} is read as {format}, which it \
             looks like",
            child.path.display(),
            path.display()
        ));
        Ok(format)
    }
}

impl ChainedFile {
    /// One of the states that it keeps inside.
    pub(crate) fn internal_image(
        &self,
        snapshot: &InternalSnapshot,
    ) -> Result<Arc<dyn ImageSource>, StoreError> {
        let file = Arc::clone(&self.file);
        let opened = open_internal_snapshot(file, Arc::new(ClusterCodecs), snapshot);
        let image = opened.map_err(|source| StoreError::Source {
            name: self.path.display().to_string(),
            source,
        })?;
        Ok(image.into())
    }

    /// Parts of the file beside the disk and its states, which are left behind: a sentence for
    /// each.
    #[must_use]
    pub fn left_behind(&self) -> Vec<String> {
        let mut told = self.image.left_behind();
        if !self.internal.is_empty() {
            told.retain(|sentence| !sentence.contains("internal snapshot"));
        }
        let has_memory = |snapshot: &&InternalSnapshot| snapshot.memory_len > 0;
        let with_memory = self.internal.iter().filter(has_memory);
        told.extend(with_memory.map(|snapshot| {
            format!(
                "keeps a guest's memory with {:?}, which stays behind",
                snapshot.name
            )
        }));
        told
    }

    /// File name without folder and extension.
    #[must_use]
    pub fn file_stem(&self) -> String {
        let stem = self.path.file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    }
}

impl OpeningFile {
    fn as_child(&self) -> ChildFile<'_> {
        ChildFile {
            path: &self.path,
            key: self.key,
            format: self.format,
        }
    }

    /// A file that a person named.
    fn open_named(path: &Path, format: Format) -> Result<Self, StoreError> {
        let file = FileSource::open_file(path)?;
        let guard = FileGuard::new(&file, path)?;
        Ok(Self {
            path: path.to_owned(),
            key: guard.file_key(),
            format,
            file: Arc::new(file),
            changed_ms: guard.changed_ms(),
            guard,
        })
    }
}

/// True if a child calls `parent` so.
fn is_called(parent: &ParentReference, name: &str) -> bool {
    let is_identity = |identity: DiskIdentity| identity.to_string().eq_ignore_ascii_case(name);
    parent.hints.iter().any(|hint| hint == name) || parent.identity.is_some_and(is_identity)
}

/// `hint` below the folder `old`, as it is below `new`.
fn mapped_below(hint: &str, old: &str, new: &Path) -> Option<PathBuf> {
    let rest = hint.strip_prefix(old.trim_end_matches('/'))?;
    let rest = rest.strip_prefix('/')?;
    let is_plain = Path::new(rest)
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    (is_plain && !rest.is_empty()).then(|| new.join(rest))
}

impl MovingCompanions {
    fn for_image(image: &Path) -> Self {
        Self {
            image: Mutex::new(image.to_owned()),
            opened: Mutex::default(),
        }
    }

    fn move_to(&self, image: &Path) {
        image.clone_into(&mut self.image.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn into_opened(self) -> Vec<PathBuf> {
        self.opened
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Companions for MovingCompanions {
    fn open_companion(
        &self,
        format: &'static str,
        name: &str,
    ) -> Result<Arc<dyn ReadAt>, SourceError> {
        let image = self
            .image
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let file = FolderCompanions::beside_image(&image).open_companion(format, name)?;
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.push(path_inside(folder_of(&image), name));
        Ok(file)
    }
}
