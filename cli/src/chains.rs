//! Files that stand on other files, as a person names them: where a parent is that is not beside
//! its child, and what may be read of a text that names disks.

use std::io;
use std::path::PathBuf;

use vellum_core::name::Name;
use vellum_core::tree::{ArrivingSnapshot, Marks};
use vellum_core::units::LayerId;
use vellum_store::{BuiltForest, ChainFinder, ChainedFile, LayerForest, LayerReport, StoreError};

use crate::command_context::CommandContext;
use crate::failure::CommandFailure;
use crate::invocation::Invocation;

/// A name or folder as a file has it, and where that is now.
pub(crate) type Mapping = (String, PathBuf);

/// `OLD=NEW`, for the command line. The first `=` counts: a name that has one needs its identity.
pub(crate) fn parse_mapping(text: &str) -> Result<Mapping, String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => {
            Ok((old.to_owned(), PathBuf::from(new)))
        }
        _ => Err("write OLD=NEW: what the file says, and where it is".to_owned()),
    }
}

/// A finder that takes `mappings`, whose places are in the caller's folder.
pub(crate) fn chain_finder(mappings: &[Mapping], caller: &Invocation) -> ChainFinder {
    let known = mappings.iter();
    let known = known.map(|(old, new)| (old.clone(), caller.resolve_path(new)));
    ChainFinder::new(known.collect())
}

/// The failure to open a chain, with the remedy of our own.
pub(crate) fn chain_failure(error: StoreError) -> CommandFailure {
    let is_missing = match &error {
        StoreError::Parent { reason, .. } => !reason.contains("circle"),
        StoreError::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
        _ => false,
    };
    let failure = CommandFailure::from(error);
    if is_missing {
        failure.replace_hint(
            "--backing-map OLD=NEW says where it is: OLD is what stands there (a name, a folder, \
             an identity), NEW a file or folder that you trust",
        )
    } else {
        failure
    }
}

/// `error`, or that the person stopped it, which may reach files first.
pub(crate) fn stopped_or(error: StoreError, session: &CommandContext) -> CommandFailure {
    if session.signals.is_stopped() {
        StoreError::Interrupted.into()
    } else {
        error.into()
    }
}

/// Shows what a person should know of files that are read.
pub(crate) fn tell_notes(finder: &mut ChainFinder, session: &CommandContext) {
    for note in finder.take_notes() {
        session.print_warning(&note);
    }
    for file in finder.files() {
        let name = file.path.display();
        for note in &file.facts.notes {
            session.print_warning(&format!("{name}: {note}"));
        }
        for sentence in file.left_behind() {
            session.print_warning(&format!("{name} {sentence}"));
        }
    }
}

/// A state of a chain below its top: the name that people know it by, and its layer's place.
pub(crate) struct ChainState {
    pub(crate) name: String,
    pub(crate) place: usize,
    /// Time of the last change, in milliseconds since 1970.
    pub(crate) changed_ms: u64,
}

/// Adds file `top` and all that it stands on to `forest`: the states below what it shows, the
/// oldest first, and the place of what it shows.
pub(crate) fn add_chain(
    forest: &mut LayerForest,
    finder: &ChainFinder,
    top: usize,
) -> Result<(Vec<ChainState>, usize), CommandFailure> {
    let shown = *forest
        .add_file(finder, top)?
        .last()
        .expect("a file shows something");
    let mut files = Vec::new();
    let mut next = Some(top);
    while let Some(file) = next {
        files.push(file);
        next = finder.files()[file].parent;
    }
    let mut states = Vec::new();
    for at in files.into_iter().rev() {
        let places = forest.add_file(finder, at)?;
        let file: &ChainedFile = &finder.files()[at];
        let internal = file.internal.iter().map(|snapshot| snapshot.name.clone());
        for (name, place) in internal.chain([file.file_stem()]).zip(places) {
            states.push(ChainState {
                name,
                place,
                changed_ms: forest.layers()[place].changed_ms,
            });
        }
    }
    states.retain(|state| state.place != shown);
    Ok((states, shown))
}

/// A snapshot called `name` that shows `layer`.
pub(crate) fn arriving_snapshot(name: Name, layer: LayerId, created_ms: u64) -> ArrivingSnapshot {
    ArrivingSnapshot {
        name,
        layer,
        created_ms,
        marks: Marks::default(),
    }
}

/// Totals of what was stored of all layers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ForestCounts {
    pub(crate) layers: u64,
    /// Layers that were there already.
    pub(crate) known_layers: u64,
    pub(crate) read_bytes: u64,
    pub(crate) same: u64,
    pub(crate) known: u64,
    pub(crate) new: u64,
    pub(crate) healed: u64,
}

impl ForestCounts {
    pub(crate) fn from_built_forest(built: &BuiltForest<'_>) -> Self {
        let add = |sum: Self, layer: &LayerReport| Self {
            layers: sum.layers + 1,
            known_layers: sum.known_layers + u64::from(layer.is_known),
            read_bytes: sum.read_bytes + layer.read_bytes,
            same: sum.same + layer.same,
            known: sum.known + layer.known,
            new: sum.new + layer.new,
            healed: sum.healed + layer.healed,
        };
        built.layer_reports().iter().fold(Self::default(), add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_has_two_sides() {
        assert_eq!(
            parse_mapping("/a/b.vdi=c=d"),
            Ok(("/a/b.vdi".to_owned(), PathBuf::from("c=d")))
        );
        for text in ["", "=", "a=", "=b", "a"] {
            assert!(parse_mapping(text).is_err(), "{text}");
        }
    }
}
