//! `vellum machine import`: a machine of another program comes in with its disks and snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;
use vellum_core::name::Name;
use vellum_core::name_maker::NameMaker;
use vellum_core::tree::{Arrival, CONFIGURATION_LEN_MAX, NewConfiguration};
use vellum_formats::machine::{DESCRIPTION_LEN_MAX, MachineDescription};
use vellum_formats::probe::{FormatVerdict, probe_file};
use vellum_formats::{DiskIdentity, Format};
use vellum_store::{
    ChainFinder, FileSource, ImportOptions, LayerForest, Store, StoreError, description_in_archive,
};

use super::incoming::{OpenedMachine, ShownFiles, plan_machine};
use crate::chains::{self, ForestCounts, Mapping};
use crate::command_context::CommandContext;
use crate::commands::render_healed_count;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;
use crate::output::page::{TextPage, format_count};
use crate::output::{Render, time};

/// Store a machine of VirtualBox (.vbox), libvirt (domain XML) or an appliance (.ova, .ovf) with
/// its disks and snapshots
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum machine import 'VirtualBox VMs/web/web.vbox'
  virsh dumpxml web > web.xml
  vellum machine import web.xml --backing-map /var/lib/libvirt/images=/var/lib/libvirt/images

Disks are read that lie in the folder of the file, or below it; --backing-map says where others \
are. Each disk becomes an image with its snapshots, each snapshot of the machine a machine \
snapshot. The file is kept as the machine's configuration. The machine must be switched off.")]
pub(super) struct MachineImportArgs {
    /// The machine's file
    file: PathBuf,
    /// The machine's name here [default: the one that the file says]
    #[arg(long, value_name = "MACHINE", value_parser = lookup::parse_name)]
    name: Option<Name>,
    /// Where a disk is that is not beside the file, or a parent not beside its child. OLD is what
    /// stands there: a name, a folder that it begins with, or an identity
    #[arg(long, value_name = "OLD=NEW", value_parser = chains::parse_mapping)]
    backing_map: Vec<Mapping>,
    /// Read what the store seems to have before it is believed
    #[arg(long)]
    verify: bool,
}

#[derive(Serialize)]
struct ImportedMachine {
    action: &'static str,
    name: String,
    disks: Vec<String>,
    snapshots: Vec<String>,
    files: usize,
    layers: u64,
    known_layers: u64,
    read_bytes: u64,
    same_chunks: u64,
    known_chunks: u64,
    new_chunks: u64,
    new_bytes: u64,
    healed_chunks: u64,
    seconds: f64,
}

pub(super) fn run_machine_import(
    args: &MachineImportArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let path = session.caller.resolve_path(&args.file);
    let archived = description_in_archive(&path)?;
    let is_archive = archived.is_some();
    let text = archived.map_or_else(|| read_text(&path, &args.file), Ok)?;
    let store = session.open_to_write()?;
    let mut finder = chains::chain_finder(&args.backing_map, &session.caller);
    let machine = parse_machine(args, &text)?;
    let machine = if is_archive {
        open_members(machine, &path, &mut finder)?
    } else {
        open_files(machine, &path, &mut finder, session)?
    };
    if store
        .tree()
        .machines()
        .machine_named(&machine.name)
        .is_some()
    {
        let taken = CommandFailure::with_hint(
            format!("machine {} exists already", machine.name),
            "--name gives it another name",
        );
        return Err(taken);
    }
    chains::tell_notes(&mut finder, session);
    let (mut forest, plan) = (LayerForest::new(), plan_machine(&machine, &finder, &store)?);
    let mut layers = BTreeMap::new();
    for file in plan.shown_files() {
        layers.insert(file, chains::add_chain(&mut forest, &finder, file)?);
    }
    let meter = session.watch_bytes(&format!("importing {}", machine.name));
    let options = ImportOptions {
        verify: args.verify,
    };
    let built = store.build_forest(forest, options, &meter);
    let seconds = meter.elapsed_time().as_secs_f64();
    drop(meter);
    let built = built.map_err(|error| chains::stopped_or(error, session))?;
    let counts = ForestCounts::from_built_forest(&built);
    let configuration = kept_configuration(&text, session)?;
    let shown = ShownFiles {
        layers: &layers,
        ids: built.layer_ids(),
    };
    let arrival = plan.build_arrival(&machine, &finder, &shown, configuration);
    let formats = plan.noted_formats(&finder);
    let answer = ImportedMachine::new(&arrival, &finder, counts, &store, seconds);
    built.commit_arrival(arrival, &formats)?;
    session.output.print_summary(&answer)?;
    Ok(Outcome::Done)
}

/// The text of a machine.
fn read_text(path: &Path, shown: &Path) -> Result<String, CommandFailure> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| {
        file.take(DESCRIPTION_LEN_MAX as u64 + 1)
            .read_to_end(&mut bytes)
    });
    read.map_err(|error| CommandFailure::io_error(format!("read {}", shown.display()), error))?;
    String::from_utf8(bytes).map_err(|_| {
        CommandFailure::with_hint(
            format!("{} is no text that describes a machine", shown.display()),
            "name a .vbox file, an OVA or OVF, or a domain that `virsh dumpxml` wrote",
        )
    })
}

/// The machine that a text describes, no disk opened.
fn parse_machine(args: &MachineImportArgs, text: &str) -> Result<OpenedMachine, CommandFailure> {
    let shown = args.file.display();
    let description = MachineDescription::parse(text).map_err(|error| {
        CommandFailure::with_hint(
            format!("{shown}: {error}"),
            "name a .vbox file, an OVA or OVF, or a domain that `virsh dumpxml` wrote",
        )
    })?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => NameMaker::default().unique_name(&description.name),
    };
    Ok(OpenedMachine {
        files: vec![None; description.media.len()],
        description,
        name,
    })
}

/// Opens the disks inside an archive.
fn open_members(
    mut machine: OpenedMachine,
    path: &Path,
    finder: &mut ChainFinder,
) -> Result<OpenedMachine, CommandFailure> {
    for number in used_media(&machine.description) {
        let member = &machine.description.media[number].location;
        machine.files[number] = Some(finder.open_member(path, member)?);
    }
    Ok(machine)
}

/// Opens the disks that the machine's states have, and what they stand on.
fn open_files(
    machine: OpenedMachine,
    path: &Path,
    finder: &mut ChainFinder,
    session: &CommandContext,
) -> Result<OpenedMachine, CommandFailure> {
    let description = &machine.description;
    let used = used_media(description);
    let mut places = BTreeMap::new();
    for number in &used {
        let medium = &description.media[*number];
        let place = finder.locate_file(path, &medium.location);
        let place = place.map_err(chains::chain_failure)?;
        // Children name it by either.
        finder.add_known_file(medium.location.clone(), place.clone());
        if let Some(identity) = medium.identity {
            finder.add_known_file(identity.to_string(), place.clone());
        }
        places.insert(*number, place);
    }
    let mut files = machine.files;
    for (number, place) in places {
        let medium = &description.media[number];
        let format = format_of(medium.format.as_deref(), &place)?;
        let file = finder
            .open_chain(&place, format)
            .map_err(chains::chain_failure)?;
        let found = finder.files()[file].facts.identity;
        verify_identity(medium.identity, found, &place)?;
        files[number] = Some(file);
    }
    let unused = (0..description.media.len()).filter(|number| !used.contains(number));
    for number in unused {
        let location = &description.media[number].location;
        session.print_notice(&format!(
            "{location:?} is no disk of any state, and stays out"
        ));
    }
    Ok(OpenedMachine { files, ..machine })
}

/// The media of all states and those that they stand on, parents first.
fn used_media(machine: &MachineDescription) -> BTreeSet<usize> {
    let states = machine
        .snapshots
        .iter()
        .map(|snapshot| &snapshot.attachments);
    let attachments = states.chain([&machine.attachments]).flatten();
    let mut used = BTreeSet::new();
    for attachment in attachments {
        let mut next = Some(attachment.medium);
        while let Some(number) = next.filter(|number| used.insert(*number)) {
            next = machine.media[number].parent;
        }
    }
    used
}

/// The format that the text says, or the file's signature.
fn format_of(said: Option<&str>, place: &Path) -> Result<Format, CommandFailure> {
    if let Some(format) = said.and_then(|said| said.parse().ok()) {
        return Ok(format);
    }
    let shown = place.display();
    let file = FileSource::open_file(place)?;
    let seen = probe_file(&file).map_err(|source| StoreError::Source {
        name: shown.to_string(),
        source,
    })?;
    match seen.verdict() {
        FormatVerdict::Known(format) => Ok(format),
        // The text says nothing, so it is no guest's word.
        FormatVerdict::Raw if said.is_none() => Ok(Format::Raw),
        _ => Err(CommandFailure::with_hint(
            format!("{shown} is {said:?} by the machine's file, and {seen}"),
            "convert it to a format that `vellum import --help` names",
        )),
    }
}

fn verify_identity(
    named: Option<DiskIdentity>,
    found: Option<DiskIdentity>,
    place: &Path,
) -> Result<(), CommandFailure> {
    match (named, found) {
        (Some(named), Some(found)) if named != found && matches!(named, DiskIdentity::Uuid(_)) => {
            Err(CommandFailure::with_hint(
                format!(
                    "{}: the machine has the disk {named} there, and this is {found}",
                    place.display()
                ),
                "--backing-map with that identity says where the right file is",
            ))
        }
        _ => Ok(()),
    }
}

/// The configuration that is kept, if it is short enough.
fn kept_configuration(
    text: &str,
    session: &CommandContext,
) -> Result<Option<NewConfiguration>, CommandFailure> {
    if text.len() > CONFIGURATION_LEN_MAX {
        session.print_warning(&format!(
            "the machine's file has {}, and none that long is kept",
            format_count(text.len() as u64, "byte")
        ));
        return Ok(None);
    }
    Ok(Some(NewConfiguration::new(text.as_bytes())?))
}

impl ImportedMachine {
    fn new(
        arrival: &Arrival,
        finder: &ChainFinder,
        counts: ForestCounts,
        store: &Store,
        seconds: f64,
    ) -> Self {
        let machine = arrival.machines.first();
        let disks = machine.into_iter().flat_map(|machine| &machine.disks);
        let snapshots = machine.into_iter().flat_map(|machine| &machine.snapshots);
        Self {
            action: "machine-import",
            name: machine.map_or_else(String::new, |machine| machine.name.to_string()),
            disks: disks
                .map(|disk| arrival.images[*disk].name.to_string())
                .collect(),
            snapshots: snapshots
                .map(|snapshot| snapshot.name.to_string())
                .collect(),
            files: finder.files().len(),
            layers: counts.layers,
            known_layers: counts.known_layers,
            read_bytes: counts.read_bytes,
            same_chunks: counts.same,
            known_chunks: counts.known,
            new_chunks: counts.new,
            new_bytes: counts.new * store.tree().chunk_len().byte_len(),
            healed_chunks: counts.healed,
            seconds,
        }
    }
}

impl Render for ImportedMachine {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let new = page.format_size(self.new_bytes);
        let took = time::format_duration(self.seconds);
        page.write_line(format!(
            "imported machine {} from {}: {new} new ({}, {} known, {} unchanged) in {took}",
            self.name,
            format_count(self.files as u64, "disk file"),
            format_count(self.new_chunks, "chunk"),
            self.known_chunks,
            self.same_chunks
        ))?;
        let list = |names: &[String]| {
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            }
        };
        page.write_field("disks", list(&self.disks))?;
        page.write_field("snapshots", list(&self.snapshots))?;
        render_healed_count(page, self.healed_chunks)
    }
}
