//! `vellum import --chain`: files that stand on each other come in as an image with its snapshots.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use serde::Serialize;
use vellum_core::name::Name;
use vellum_core::name_maker::NameMaker;
use vellum_core::tree::{Arrival, ArrivingImage, Marks, Mode};
use vellum_store::{BuiltForest, ChainFinder, ImportOptions, LayerForest, Store};

use super::{Args, expected_file, import_target};
use crate::chains::{self, ChainState, ForestCounts};
use crate::command_context::CommandContext;
use crate::commands::render_healed_count;
use crate::failure::{CommandFailure, Outcome};
use crate::output::page::{TextPage, format_count};
use crate::output::{Render, time};
use crate::{lookup, source_format};

/// An image that the files become.
struct ChainedImage {
    name: Name,
    format: Option<Name>,
    /// The states below the present one, the oldest first.
    states: Vec<ChainState>,
    /// The place of the present state's layer.
    shown: usize,
}

#[derive(Serialize)]
struct ImportedChain {
    action: &'static str,
    images: Vec<ImportedImage>,
    files: usize,
    layers: u64,
    known_layers: u64,
    /// Bytes that had to be looked at.
    read_bytes: u64,
    same_chunks: u64,
    known_chunks: u64,
    new_chunks: u64,
    new_bytes: u64,
    healed_chunks: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct ImportedImage {
    name: String,
    size: u64,
    snapshots: Vec<String>,
}

pub(super) fn run_chain_import(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    check_arguments(args, session)?;
    let store = session.open_to_write()?;
    import_target(args, &store)?;
    let mut finder = chains::chain_finder(&args.backing_map, &session.caller);
    let tops = open_chains(args, &store, &mut finder, session)?;
    chains::tell_notes(&mut finder, session);
    let mut forest = LayerForest::new();
    let images = chained_images(args, &finder, &tops, &mut forest)?;
    let meter = session.watch_bytes(&format!("importing {}", args.name));
    let options = ImportOptions {
        verify: args.verify,
    };
    let built = store.build_forest(forest, options, &meter);
    let seconds = meter.elapsed_time().as_secs_f64();
    drop(meter);
    let built = built.map_err(|error| chains::stopped_or(error, session))?;
    let counts = ForestCounts::from_built_forest(&built);
    if args.update {
        update_image(args, &store, &images, built)?;
    } else {
        create_images(args, &images, built)?;
    }
    let answer = ImportedChain::new(args, &store, &images, &finder, counts, seconds);
    session.output.print_summary(&answer)?;
    Ok(Outcome::Done)
}

/// Checks the rules that clap cannot know.
fn check_arguments(args: &Args, session: &CommandContext) -> Result<(), CommandFailure> {
    let is_piped = args.file.as_os_str() == "-" || !args.command.is_empty();
    if is_piped || super::is_stream(&session.caller.resolve_path(&args.file)) {
        return Err(CommandFailure::usage_error(
            "a chain is read here and there, and a pipe goes by once",
            "name the topmost file of the chain",
        ));
    }
    Ok(())
}

/// Opens what the person named; the files that no other stands on.
fn open_chains(
    args: &Args,
    store: &Store,
    finder: &mut ChainFinder,
    session: &CommandContext,
) -> Result<Vec<usize>, CommandFailure> {
    let path = session.caller.resolve_path(&args.file);
    if path.is_dir() {
        return open_folder(args, &path, finder, session);
    }
    let name = args.file.display().to_string();
    let expected = expected_file(args, store, &import_target(args, store)?)?;
    let format = source_format::of_file(&path, &name, &expected, session)?;
    let format = format.image_format().ok_or_else(|| {
        CommandFailure::usage_error(
            format!("{name} is {format}, which stands on no file"),
            "leave out --chain",
        )
    })?;
    Ok(vec![
        finder
            .open_chain(&path, format)
            .map_err(chains::chain_failure)?,
    ])
}

fn open_folder(
    args: &Args,
    path: &Path,
    finder: &mut ChainFinder,
    session: &CommandContext,
) -> Result<Vec<usize>, CommandFailure> {
    let name = args.file.display();
    if args.input.format.is_some() {
        return Err(CommandFailure::usage_error(
            format!("{name} is a folder, and each of its files says what it is"),
            "leave out -f",
        ));
    }
    let (tops, left_out) = finder.open_folder(path).map_err(chains::chain_failure)?;
    for file in left_out {
        session.print_notice(&format!("{file} is no image file, and stays out"));
    }
    match tops.as_slice() {
        [] => Err(CommandFailure::with_hint(
            format!("{name} holds no image file"),
            "name a file; raw disks have no signature, and come in only where a child names them",
        )),
        [_, _, ..] if args.update => Err(CommandFailure::usage_error(
            format!(
                "{name} holds several chains, and {} is one image",
                args.name
            ),
            "name the topmost file of one of them",
        )),
        _ => Ok(tops),
    }
}

/// The images that the files become, their layers in `forest`.
fn chained_images(
    args: &Args,
    finder: &ChainFinder,
    tops: &[usize],
    forest: &mut LayerForest,
) -> Result<Vec<ChainedImage>, CommandFailure> {
    let mut names = NameMaker::default();
    let mut images = Vec::new();
    for top in tops {
        let file = &finder.files()[*top];
        let name = if tops.len() == 1 {
            Name::new(&args.name)
                .map_err(|error| CommandFailure::invalid_name(&args.name, error))?
        } else {
            names.unique_name(&format!("{}-{}", args.name, file.file_stem()))
        };
        let (states, shown) = chains::add_chain(forest, finder, *top)?;
        images.push(ChainedImage {
            name,
            format: Name::new(file.format.format_name()).ok(),
            states,
            shown,
        });
    }
    Ok(images)
}

/// Makes new images of what was built.
fn create_images(
    args: &Args,
    images: &[ChainedImage],
    built: BuiltForest<'_>,
) -> Result<(), CommandFailure> {
    let ids = built.layer_ids();
    let arriving = images.iter().map(|image| {
        let mut names = NameMaker::new(args.snapshot.clone());
        let snapshot = |state: &ChainState, names: &mut NameMaker| {
            chains::arriving_snapshot(
                names.unique_name(&state.name),
                ids[state.place],
                state.changed_ms,
            )
        };
        let mut snapshots: Vec<_> = image
            .states
            .iter()
            .map(|state| snapshot(state, &mut names))
            .collect();
        let layer = ids[image.shown];
        let now_ms = now_ms();
        snapshots.extend(
            args.snapshot
                .iter()
                .map(|name| chains::arriving_snapshot(name.clone(), layer, now_ms)),
        );
        ArrivingImage {
            name: image.name.clone(),
            layer,
            mode: Mode::Normal,
            origin: None,
            created_ms: now_ms,
            marks: Marks::default(),
            snapshots,
        }
    });
    let arrival = Arrival {
        images: arriving.collect(),
        ..Arrival::default()
    };
    let formats: Vec<Option<Name>> = images.iter().map(|image| image.format.clone()).collect();
    built.commit_arrival(arrival, &formats)?;
    Ok(())
}

/// Makes an image that is there as its chain is now; states that it has keep their names.
fn update_image(
    args: &Args,
    store: &Store,
    images: &[ChainedImage],
    built: BuiltForest<'_>,
) -> Result<(), CommandFailure> {
    let image = lookup::find_image(store, &args.name)?;
    let chained = images.first().expect("there is one chain");
    let (mut taken, mut shown) = (Vec::new(), BTreeSet::new());
    for snapshot in store.tree().snapshots_of(image) {
        taken.push(snapshot.name.clone());
        shown.insert(snapshot.layer);
    }
    taken.extend(args.snapshot.clone());
    let mut names = NameMaker::new(taken);
    let ids = built.layer_ids();
    let mut snapshots = Vec::new();
    for state in &chained.states {
        let layer = ids[state.place];
        if shown.insert(layer) {
            let name = names.unique_name(&state.name);
            snapshots.push(chains::arriving_snapshot(name, layer, state.changed_ms));
        }
    }
    let top = ids[chained.shown];
    let asked = args.snapshot.iter();
    snapshots.extend(asked.map(|name| chains::arriving_snapshot(name.clone(), top, now_ms())));
    Ok(built.update_image(image, top, snapshots, chained.format.as_ref())?)
}

fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

impl ImportedChain {
    fn new(
        args: &Args,
        store: &Store,
        images: &[ChainedImage],
        finder: &ChainFinder,
        counts: ForestCounts,
        seconds: f64,
    ) -> Self {
        let tree = store.tree();
        let told = images.iter().filter_map(|chained| {
            let image = tree.image_named(&chained.name)?;
            let snapshots = tree.snapshots_of(image.id);
            Some(ImportedImage {
                name: image.name.to_string(),
                size: tree.layer(image.layer).map_or(0, |layer| layer.len),
                snapshots: snapshots
                    .map(|snapshot| snapshot.name.to_string())
                    .collect(),
            })
        });
        let chunk_len = tree.chunk_len().byte_len();
        Self {
            action: if args.update { "update" } else { "import" },
            images: told.collect(),
            files: finder.files().len(),
            layers: counts.layers,
            known_layers: counts.known_layers,
            read_bytes: counts.read_bytes,
            same_chunks: counts.same,
            known_chunks: counts.known,
            new_chunks: counts.new,
            new_bytes: counts.new * chunk_len,
            healed_chunks: counts.healed,
            seconds,
        }
    }
}

impl Render for ImportedChain {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let names: Vec<&str> = self
            .images
            .iter()
            .map(|image| image.name.as_str())
            .collect();
        let new = page.format_size(self.new_bytes);
        let took = time::format_duration(self.seconds);
        page.write_line(format!(
            "imported {} from {}: {new} new ({}, {} known, {} unchanged) in {took}",
            names.join(", "),
            format_count(self.files as u64, "file"),
            format_count(self.new_chunks, "chunk"),
            self.known_chunks,
            self.same_chunks
        ))?;
        if self.known_layers > 0 {
            let states = format_count(self.layers, "state");
            page.write_line(format!(
                "{} of {states} were there already",
                self.known_layers
            ))?;
        }
        for image in &self.images {
            let snapshots = if image.snapshots.is_empty() {
                "no snapshot".to_owned()
            } else {
                image.snapshots.join(", ")
            };
            let size = page.format_size(image.size);
            page.write_line(format!("{}, {size}: snapshots: {snapshots}", image.name))?;
        }
        render_healed_count(page, self.healed_chunks)
    }
}
