//! `vellum machine start` and `stop`: when a machine is switched on and off. They start no guest.

use super::confirm_machine_change;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;

/// Say that a machine is switched on: its immutable disks start afresh
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum machine start vm

What was written to its immutable disks goes, unless they are kept until `vellum reset` (autoreset
off). They start as they are in the machine's last snapshot, or as the images are. Until
`vellum machine stop` a guest may lose its connection, and a server may end: nothing starts
afresh. No guest is started.")]
pub(super) struct MachineStartArgs {
    /// The machine
    machine: String,
}

/// Say that a machine is switched off
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum machine stop vm

What was written to its immutable disks can be looked at until the machine is started, or a guest
writes to them.")]
pub(super) struct MachineStopArgs {
    /// The machine
    machine: String,
}

pub(super) fn start_machine(
    args: &MachineStartArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_write()?;
    let (machine, name) = lookup::find_machine(&store, &args.machine)?;
    store.start_machine(machine)?;
    let line = format!("machine {name} is switched on");
    confirm_machine_change(session, "machine-start", name, vec![line])
}

pub(super) fn stop_machine(
    args: &MachineStopArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_write()?;
    let (machine, name) = lookup::find_machine(&store, &args.machine)?;
    store.stop_machine(machine)?;
    let line = format!("machine {name} is switched off");
    confirm_machine_change(session, "machine-stop", name, vec![line])
}
