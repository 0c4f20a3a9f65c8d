//! `vellum machine snapshot`: states of all disks of a machine, each taken at one moment.

use clap::Subcommand;
use vellum_core::name::Name;
use vellum_core::tree::PresentState;
use vellum_core::units::MachineId;
use vellum_store::Store;

use super::{show, tell};
use crate::commands::snapshot::Restored;
use crate::failure::{Failure, Outcome};
use crate::lookup;
use crate::session::Session;

/// Take, list, restore and delete snapshots of a machine
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum machine snapshot take vm@monday
  vellum machine snapshot restore vm@monday --save-current-as broken")]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Take(TakeArgs),
    Restore(RestoreArgs),
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
    #[command(visible_alias = "ls")]
    List(ListArgs),
}

/// Keep the present state of all disks of a machine, also while it runs
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum machine snapshot take vm@monday

Normal and immutable disks are kept, each as a snapshot of the image with the same name, immutable
ones with what was written to them; writethrough, shareable and readonly ones are left alone. Those
snapshots and their images stay until the machine's snapshot is deleted.")]
struct TakeArgs {
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
struct RestoreArgs {
    /// The snapshot
    #[arg(value_name = "MACHINE@SNAPSHOT")]
    snapshot: String,
    /// Keep the machine's present state as a snapshot of this name
    #[arg(long, value_name = "SNAPSHOT", value_parser = lookup::name)]
    save_current_as: Option<Name>,
    /// Let the machine's present state go
    #[arg(long, conflicts_with = "save_current_as")]
    discard: bool,
}

/// Delete a machine's snapshot, and the snapshots of its images that belong to it
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum machine snapshot delete vm@monday")]
struct DeleteArgs {
    /// The snapshot
    #[arg(value_name = "MACHINE@SNAPSHOT")]
    snapshot: String,
}

/// List the snapshots of a machine, or of all
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum machine snapshot list vm")]
struct ListArgs {
    /// The machine
    machine: Option<String>,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    match &args.verb {
        Verb::Take(args) => take(args, session),
        Verb::Restore(args) => restore(args, session),
        Verb::Delete(args) => delete(args, session),
        Verb::List(args) => show::snapshots(session, args.machine.as_deref()),
    }
}

fn take(args: &TakeArgs, session: &mut Session) -> Result<Outcome, Failure> {
    let store = session.open_to_write()?;
    let (machine, machine_name, name) = lookup::new_machine_snapshot(&store, &args.snapshot)?;
    store.snapshot_machine(machine, &name)?;
    let name = format!("{machine_name}@{name}");
    tell(
        session,
        "machine-snapshot",
        name.clone(),
        vec![format!("took {name}")],
    )
}

fn restore(args: &RestoreArgs, session: &mut Session) -> Result<Outcome, Failure> {
    let store = session.open_to_write()?;
    let (machine, serial, name) = lookup::machine_snapshot(&store, &args.snapshot)?;
    let (_, machine_name) =
        lookup::machine(&store, args.snapshot.split('@').next().unwrap_or_default())?;
    let saving = args.save_current_as.as_ref();
    let state = if args.discard || saving.is_some() {
        store.restore_machine(machine, serial, saving)?;
        saving.cloned().map(PresentState::Unnamed)
    } else {
        Some(store.restore_machine_keeping(machine, serial)?)
    };
    let (saved, kept) = match state {
        Some(PresentState::Unnamed(name)) => (true, Some(format!("{machine_name}@{name}"))),
        Some(PresentState::Shown(serial)) => (false, display(&store, machine, serial)),
        None => (false, None),
    };
    let text = format!("machine {machine_name} is as {name} now");
    session.output.confirm(&Restored {
        action: "machine-restore",
        name: machine_name,
        size: None,
        kept,
        saved,
        text,
    })?;
    Ok(Outcome::Done)
}

fn display(store: &Store, machine: MachineId, serial: u64) -> Option<String> {
    let tree = store.tree();
    let snapshot = tree.machines().snapshot(machine, serial)?;
    Some(tree.machines().display(snapshot))
}

fn delete(args: &DeleteArgs, session: &mut Session) -> Result<Outcome, Failure> {
    let store = session.open_to_write()?;
    let (machine, serial, name) = lookup::machine_snapshot(&store, &args.snapshot)?;
    store.delete_machine_snapshot(machine, serial)?;
    tell(
        session,
        "machine-snapshot-delete",
        name.clone(),
        vec![
            format!("deleted {name}"),
            "next: vellum gc gives the space back".to_owned(),
        ],
    )
}
