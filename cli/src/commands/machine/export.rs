//! `vellum machine export`: a machine goes out as files that another program runs.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Serialize;
use vellum_formats::Format;
use vellum_formats::machine::MachineLanguage;
use vellum_formats::ova::{ARCHIVE_END, member_header};
use vellum_formats::write::{TargetFormat, VmdkKind};
use vellum_store::{
    AtomicFile, Destination, NewFileMode, NewFolder, StateFile, Store, StoreError, Watch,
    WrittenState, write_whole_file,
};

use super::outgoing::OutgoingMachine;
use crate::chain_files::FileNames;
use crate::chains;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;
use crate::output::page::{TextPage, format_count};
use crate::output::{Render, time};

/// A tar archive's unit.
const TAR_BLOCK_LEN: u64 = 512;

/// Write a machine with its disks and snapshots to a folder, for VirtualBox or libvirt, or to an
/// OVA
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum machine export web web-files
  vellum machine export web web-files -O qcow2
  vellum machine export web web.ova -O ova

vdi comes with a .vbox that has the machine's snapshots; qcow2 with a libvirt domain of the \
present state, whose disk files have no folder: libvirt wants one. Each file holds what differs \
from the one that it stands on. The folder must be empty or not there. An OVA has the present \
state of each disk.")]
pub(super) struct MachineExportArgs {
    /// The machine
    machine: String,
    /// The folder, or the new OVA
    #[arg(value_name = "DIR|FILE")]
    target: PathBuf,
    /// The format of the disks
    #[arg(
        short = 'O',
        long,
        value_enum,
        value_name = "FORMAT",
        default_value = "vdi"
    )]
    output_as: MachineFormat,
}

/// The formats of a machine's disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MachineFormat {
    /// With a .vbox
    Vdi,
    /// With a libvirt domain
    Qcow2,
    /// One archive of an OVF and streamOptimized VMDKs
    Ova,
}

#[derive(Serialize)]
struct ExportedMachine {
    action: &'static str,
    name: String,
    target: String,
    description: String,
    files: Vec<String>,
    file_bytes: u64,
    seconds: f64,
}

pub(super) fn run_machine_export(
    args: &MachineExportArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_read()?;
    let (id, _) = lookup::machine_to_read(&store, &args.machine)?;
    let (format, language) = match args.output_as {
        MachineFormat::Vdi => (Format::Vdi, MachineLanguage::Vbox),
        MachineFormat::Qcow2 => (Format::Qcow2, MachineLanguage::Libvirt),
        MachineFormat::Ova => (Format::Vmdk, MachineLanguage::Ovf),
    };
    let machine = OutgoingMachine::from_store(&store, id, format)?;
    let target = session.caller.resolve_path(&args.target);
    let is_archive = args.output_as == MachineFormat::Ova;
    let archive = is_archive.then(|| new_archive(&target)).transpose()?;
    let draft = NewFolder::create_for(&if is_archive {
        // Beside the archive, where there is room for it.
        target.with_extension("parts")
    } else {
        target
    })?;
    let meter = session.watch_bytes(&format!("exporting {}", machine.name));
    let written = write_disks(&store, &machine, format, draft.path(), &meter);
    let seconds = meter.elapsed_time().as_secs_f64();
    drop(meter);
    let written = written.map_err(|error| chains::stopped_or(error, session))?;
    let file = write_description(&machine, &written, format, language, draft.path())?;
    let states = written.iter().flatten();
    let files: Vec<String> = states
        .clone()
        .map(|state| state.file_name.clone())
        .collect();
    match archive {
        Some(archive) => pack_archive(archive, draft.path(), &file, &files)?,
        None => draft.publish_folder()?,
    }
    session.output.print_summary(&ExportedMachine {
        action: "machine-export",
        name: machine.name.to_string(),
        target: args.target.display().to_string(),
        description: file,
        files,
        file_bytes: states.map(|state| state.file_len).sum(),
        seconds,
    })?;
    Ok(Outcome::Done)
}

fn write_disks(
    store: &Store,
    machine: &OutgoingMachine,
    format: Format,
    folder: &Path,
    watch: &dyn Watch,
) -> Result<Vec<Vec<WrittenState>>, StoreError> {
    let disks = machine.disks.iter();
    let chains: Vec<Vec<StateFile>> = disks.map(|disk| disk.states.clone()).collect();
    let target = match format {
        Format::Vmdk => TargetFormat::Vmdk(VmdkKind::StreamOptimized),
        format => TargetFormat::default_variant(format),
    };
    store.export_chains(&chains, target, folder, watch)
}

/// The file of a new archive, which has its name once it is whole.
fn new_archive(target: &Path) -> Result<AtomicFile, CommandFailure> {
    let shown = target.display();
    let found = Destination::resolve_path(target);
    match found.map_err(|error| CommandFailure::io_error(format!("write {shown}"), error))? {
        Destination::File(place) if !place.is_taken() => {
            Ok(AtomicFile::create_beside(place, NewFileMode::Private)?)
        }
        Destination::File(_) => Err(CommandFailure::with_hint(
            format!("{shown} is there already"),
            "name another file",
        )),
        _ => Err(CommandFailure::usage_error(
            format!("{shown} is no file, and an archive is one"),
            "name a new file",
        )),
    }
}

/// Puts the files of `folder` into `archive`, the description first, as readers want it.
fn pack_archive(
    archive: AtomicFile,
    folder: &Path,
    description: &str,
    files: &[String],
) -> Result<(), CommandFailure> {
    let names = std::iter::once(description).chain(files.iter().map(String::as_str));
    let mut target = io::BufWriter::new(archive.file());
    for name in names {
        let fail = |error| CommandFailure::io_error(format!("put {name} into the archive"), error);
        let mut file = File::open(folder.join(name)).map_err(fail)?;
        let len = file.metadata().map_err(fail)?.len();
        let header = member_header(name, len).map_err(|error| {
            CommandFailure::with_hint(error.to_string(), "rename the image or the machine")
        })?;
        let padding = vec![0; (len.next_multiple_of(TAR_BLOCK_LEN) - len) as usize];
        target
            .write_all(&header)
            .and_then(|()| io::copy(&mut file, &mut target))
            .and_then(|_| target.write_all(&padding))
            .map_err(fail)?;
    }
    let ended = target.write_all(&ARCHIVE_END).and_then(|()| target.flush());
    ended.map_err(|error| CommandFailure::io_error("end the archive", error))?;
    drop(target);
    Ok(archive.publish_file(false)?)
}

/// Writes the text that uses the files; its name.
fn write_description(
    machine: &OutgoingMachine,
    written: &[Vec<WrittenState>],
    format: Format,
    language: MachineLanguage,
    folder: &Path,
) -> Result<String, CommandFailure> {
    let description = machine.machine_description(written, format, language);
    let text = description.write_as(language).map_err(|error| {
        CommandFailure::with_hint(
            format!("{} cannot be described: {error}", machine.name),
            "export its disks with `vellum export --chain`",
        )
    })?;
    let ending = match language {
        MachineLanguage::Vbox => "vbox",
        MachineLanguage::Libvirt => "xml",
        MachineLanguage::Ovf => "ovf",
    };
    let name = FileNames::default().unique_name(machine.name.as_str(), ending);
    write_whole_file(
        &folder.join(&name),
        text.as_bytes(),
        false,
        NewFileMode::Private,
    )?;
    Ok(name)
}

impl Render for ExportedMachine {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let count = format_count(self.files.len() as u64, "disk file");
        let (size, took) = (
            page.format_size(self.file_bytes),
            time::format_duration(self.seconds),
        );
        page.write_line(format!(
            "exported machine {} to {}: {} and {count}, {size}, in {took}",
            self.name, self.target, self.description
        ))
    }
}
