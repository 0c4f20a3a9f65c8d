//! `vellum machine create`, `config`, `add-disk`, `remove-disk` and `delete`: what a machine is
//! made of.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use vellum_core::name::Name;
use vellum_core::tree::{CONFIGURATION_LEN_MAX, Configuration, PlanError};
use vellum_core::units::ImageId;
use vellum_store::Store;

use super::confirm_machine_change;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;
use crate::output::page::format_count;

/// Make a machine, without disks
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum machine create vm --config vm.xml")]
pub(super) struct MachineCreateArgs {
    /// The new machine's name
    #[arg(value_name = "MACHINE", value_parser = lookup::parse_name)]
    name: Name,
    /// A file that is kept with the machine and in each of its snapshots, at most 1 MiB: whatever
    /// starts it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Print a machine's configuration file, or keep another
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum machine config vm vm.xml
  vellum machine config vm@monday > vm.xml")]
pub(super) struct MachineConfigArgs {
    /// The machine, or one of its snapshots to print its file
    #[arg(value_name = "MACHINE[@SNAPSHOT]")]
    machine: String,
    /// The file to keep from now on, at most 1 MiB
    file: Option<PathBuf>,
    /// Keep none from now on
    #[arg(long, conflicts_with = "file")]
    none: bool,
}

/// Add images to a machine's disks
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum machine add-disk vm root data

Of a multiattach image the machine gets a child of its own, IMAGE+MACHINE. Only a readonly or
shareable image can be a disk of several machines.")]
pub(super) struct AddDiskArgs {
    /// The machine
    machine: String,
    /// The images, in the order in which the guest sees them
    #[arg(required = true)]
    images: Vec<String>,
}

/// Take images out of a machine's disks; they stay images
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum machine remove-disk vm data")]
pub(super) struct RemoveDiskArgs {
    /// The machine
    machine: String,
    /// The images
    #[arg(required = true)]
    images: Vec<String>,
}

/// Delete a machine; its disks stay images
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum machine delete vm --with-snapshots")]
pub(super) struct MachineDeleteArgs {
    /// The machine
    machine: String,
    /// Its snapshots too, and those of its images that belong to them
    #[arg(long)]
    with_snapshots: bool,
}

pub(super) fn create_machine(
    args: &MachineCreateArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let configuration = args
        .config
        .as_deref()
        .map(|path| read_configuration(path, session))
        .transpose()?;
    let store = session.open_to_write()?;
    store.create_machine(&args.name, configuration.as_deref())?;
    let next = format!("next: vellum machine add-disk {} IMAGE", args.name);
    confirm_machine_change(
        session,
        "machine-create",
        args.name.to_string(),
        vec![format!("created machine {}", args.name), next],
    )
}

pub(super) fn configure_machine(
    args: &MachineConfigArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    if args.file.is_none() && !args.none {
        let store = session.open_to_read()?;
        let configuration = stored_configuration(&store, &args.machine)?.ok_or_else(|| {
            let advice = format!("`vellum machine config {} FILE` keeps one", args.machine);
            CommandFailure::with_hint(
                format!("{} has no configuration file", args.machine),
                advice,
            )
        })?;
        session
            .output
            .print_verbatim(&store.read_configuration(configuration)?)?;
        return Ok(Outcome::Done);
    }
    let bytes = args
        .file
        .as_deref()
        .map(|path| read_configuration(path, session))
        .transpose()?;
    let store = session.open_to_write()?;
    let (machine, name) = lookup::find_machine(&store, &args.machine)?;
    store.configure_machine(machine, bytes.as_deref())?;
    let text = match &bytes {
        Some(bytes) => format!(
            "machine {name} has a configuration file of {} now",
            format_count(bytes.len() as u64, "byte")
        ),
        None => format!("machine {name} has no configuration file now"),
    };
    confirm_machine_change(session, "machine-config", name, vec![text])
}

/// The configuration file of a machine, or of a snapshot of one.
fn stored_configuration(
    store: &Store,
    text: &str,
) -> Result<Option<Configuration>, CommandFailure> {
    if text.contains('@') {
        let (machine, serial, _) = lookup::machine_snapshot_to_read(store, text)?;
        return Ok(store
            .tree()
            .machines()
            .snapshot_with_serial(machine, serial)
            .ok_or(PlanError::Gone)?
            .configuration);
    }
    let (machine, _) = lookup::machine_to_read(store, text)?;
    Ok(store
        .tree()
        .machines()
        .get(machine)
        .ok_or(PlanError::Gone)?
        .configuration)
}

/// A configuration file, one byte more than it can have at most: the store refuses that.
fn read_configuration(path: &Path, session: &CommandContext) -> Result<Vec<u8>, CommandFailure> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(session.caller.resolve_path(path))?
            .take(CONFIGURATION_LEN_MAX as u64 + 1)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error| CommandFailure::io_error(format!("read {}", path.display()), error))
}

pub(super) fn add_disk(
    args: &AddDiskArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_write()?;
    let (machine, name) = lookup::find_machine(&store, &args.machine)?;
    let images = find_images(&store, &args.images)?;
    let mut lines = Vec::new();
    for image in images {
        let disk = store.add_disk(machine, image)?;
        lines.push(format!("machine {name} has {}", image_name(&store, disk)));
    }
    confirm_machine_change(session, "machine-add-disk", name, lines)
}

pub(super) fn remove_disk(
    args: &RemoveDiskArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_write()?;
    let (machine, name) = lookup::find_machine(&store, &args.machine)?;
    let mut lines = Vec::new();
    for image in find_images(&store, &args.images)? {
        store.remove_disk(machine, image)?;
        lines.push(format!(
            "{} is no disk of machine {name} any more",
            image_name(&store, image)
        ));
    }
    confirm_machine_change(session, "machine-remove-disk", name, lines)
}

/// The images that `texts` mean: all are looked up before anything is done.
fn find_images(store: &Store, texts: &[String]) -> Result<Vec<ImageId>, CommandFailure> {
    texts
        .iter()
        .map(|text| lookup::find_image(store, text))
        .collect()
}

fn image_name(store: &Store, image: ImageId) -> String {
    store
        .tree()
        .display_name(vellum_core::tree::NodeRef::Image(image))
}

pub(super) fn delete_machine(
    args: &MachineDeleteArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_write()?;
    let (machine, name) = lookup::find_machine(&store, &args.machine)?;
    store.delete_machine(machine, args.with_snapshots)?;
    let text = format!("deleted machine {name}; its disks stay as images");
    confirm_machine_change(session, "machine-delete", name, vec![text])
}
