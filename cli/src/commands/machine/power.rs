//! `vellum machine start` and `stop`: when a machine is switched on and off. They start no guest.

use super::tell;
use crate::failure::{Failure, Outcome};
use crate::lookup;
use crate::session::Session;

/// Say that a machine is switched on: its immutable disks start afresh
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum machine start vm

What was written to its immutable disks goes, unless they are kept until `vellum reset` (autoreset
off). They start as they are in the machine's last snapshot, or as the images are. Until
`vellum machine stop` a guest may lose its connection, and a server may end: nothing starts
afresh. No guest is started.")]
pub(super) struct StartArgs {
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
pub(super) struct StopArgs {
    /// The machine
    machine: String,
}

pub(super) fn start(args: &StartArgs, session: &mut Session) -> Result<Outcome, Failure> {
    let store = session.open_to_write()?;
    let (machine, name) = lookup::machine(&store, &args.machine)?;
    store.start_machine(machine)?;
    let line = format!("machine {name} is switched on");
    tell(session, "machine-start", name, vec![line])
}

pub(super) fn stop(args: &StopArgs, session: &mut Session) -> Result<Outcome, Failure> {
    let store = session.open_to_write()?;
    let (machine, name) = lookup::machine(&store, &args.machine)?;
    store.stop_machine(machine)?;
    let line = format!("machine {name} is switched off");
    tell(session, "machine-stop", name, vec![line])
}
