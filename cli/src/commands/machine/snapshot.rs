//! `vellum machine snapshot`: states of all disks of a machine, each taken at one moment.

use clap::Subcommand;
use vellum_core::name::Name;
use vellum_core::tree::PresentState;
use vellum_core::units::MachineId;
use vellum_store::Store;

use super::{confirm_machine_change, show};
use crate::command_context::CommandContext;
use crate::commands::snapshot::SnapshotRestoreSummary;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;

/// Take, list, restore and delete snapshots of a machine
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum machine snapshot take vm@monday
  vellum machine snapshot restore vm@monday --save-current-as broken")]
pub(super) struct Args {
    #[command(subcommand)]
    verb: MachineSnapshotVerb,
}

#[derive(Subcommand)]
enum MachineSnapshotVerb {
    Take(MachineSnapshotTakeArgs),
    Restore(MachineSnapshotRestoreArgs),
    #[command(visible_alias = "rm")]
    Delete(MachineSnapshotDeleteArgs),
    #[command(visible_alias = "ls")]
    List(MachineSnapshotListArgs),
}

/// Keep the present state of all disks of a machine, also while it runs
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum machine snapshot take vm@monday

Normal and immutable disks are kept, each as a snapshot of the image with the same name, immutable
ones with what was written to them; writethrough, shareable and readonly ones are left alone. Those
snapshots and their images stay until the machine's snapshot is deleted.")]
struct MachineSnapshotTakeArgs {
    /// The machine and the new snapshot's name
    #[arg(value_name = "MACHINE@SNAPSHOT")]
    snapshot: String,
}

/// Make a machine as a snapshot of it is. All snapshots stay, and what it was becomes one
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum machine snapshot restore vm@monday
  vellum machine snapshot restore vm@monday --save-current-as broken

The present state is kept as a snapshot: before-restore-1, before-restore-2 and so on, unless a
snapshot shows it already. Disks that left since come back; disks that joined leave the machine and
stay images. Immutable disks are as their guest saw them, and start so from then on; writethrough,
shareable and readonly ones are left alone.")]
struct MachineSnapshotRestoreArgs {
    /// The snapshot
    #[arg(value_name = "MACHINE@SNAPSHOT")]
    snapshot: String,
    /// Keep the machine's present state as a snapshot of this name
    #[arg(long, value_name = "SNAPSHOT", value_parser = lookup::parse_name)]
    save_current_as: Option<Name>,
    /// Let the machine's present state go
    #[arg(long, conflicts_with = "save_current_as")]
    discard: bool,
}

/// Delete a machine's snapshot, and the snapshots of its images that belong to it
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum machine snapshot delete vm@monday")]
struct MachineSnapshotDeleteArgs {
    /// The snapshot
    #[arg(value_name = "MACHINE@SNAPSHOT")]
    snapshot: String,
}

/// List the snapshots of a machine, or of all
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum machine snapshot list vm")]
struct MachineSnapshotListArgs {
    /// The machine
    machine: Option<String>,
}

pub(super) fn run_machine_snapshot(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    match &args.verb {
        MachineSnapshotVerb::Take(args) => take_machine_snapshot(args, session),
        MachineSnapshotVerb::Restore(args) => restore_machine_snapshot(args, session),
        MachineSnapshotVerb::Delete(args) => delete_machine_snapshots(args, session),
        MachineSnapshotVerb::List(args) => {
            show::list_machine_snapshots(session, args.machine.as_deref())
        }
    }
}

fn take_machine_snapshot(
    args: &MachineSnapshotTakeArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_write()?;
    let (machine, machine_name, name) = lookup::new_machine_snapshot(&store, &args.snapshot)?;
    store.snapshot_machine(machine, &name)?;
    let name = format!("{machine_name}@{name}");
    confirm_machine_change(
        session,
        "machine-snapshot",
        name.clone(),
        vec![format!("took {name}")],
    )
}

fn restore_machine_snapshot(
    args: &MachineSnapshotRestoreArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_write()?;
    let (machine, serial, name) = lookup::machine_snapshot(&store, &args.snapshot)?;
    let (_, machine_name) =
        lookup::find_machine(&store, args.snapshot.split('@').next().unwrap_or_default())?;
    let saving = args.save_current_as.as_ref();
    let state = if args.discard || saving.is_some() {
        store.restore_machine(machine, serial, saving)?;
        saving.cloned().map(PresentState::Unnamed)
    } else {
        Some(store.restore_machine_keeping(machine, serial)?)
    };
    let (saved, kept) = match state {
        Some(PresentState::Unnamed(name)) => (true, Some(format!("{machine_name}@{name}"))),
        Some(PresentState::Shown(serial)) => (false, snapshot_name(&store, machine, serial)),
        None => (false, None),
    };
    let text = format!("machine {machine_name} is as {name} now");
    session.output.print_confirmation(&SnapshotRestoreSummary {
        action: "machine-restore",
        name: machine_name,
        size: None,
        kept,
        saved,
        text,
    })?;
    Ok(Outcome::Done)
}

fn snapshot_name(store: &Store, machine: MachineId, serial: u64) -> Option<String> {
    let tree = store.tree();
    let snapshot = tree.machines().snapshot_with_serial(machine, serial)?;
    Some(tree.machines().snapshot_display_name(snapshot))
}

fn delete_machine_snapshots(
    args: &MachineSnapshotDeleteArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_write()?;
    let (machine, serial, name) = lookup::machine_snapshot(&store, &args.snapshot)?;
    store.delete_machine_snapshot(machine, serial)?;
    confirm_machine_change(
        session,
        "machine-snapshot-delete",
        name.clone(),
        vec![
            format!("deleted {name}"),
            "next: vellum gc gives the space back".to_owned(),
        ],
    )
}
