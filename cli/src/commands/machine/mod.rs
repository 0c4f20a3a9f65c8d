//! `vellum machine`: images that belong together, and change as one.

mod define;
mod export;
mod import;
mod incoming;
mod outgoing;
mod power;
mod run_args;
mod show;
mod snapshot;

pub(crate) use run_args::libvirt_element;

use std::io;

use clap::Subcommand;
use serde::Serialize;

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::Render;
use crate::output::page::TextPage;

/// Name the disks of a machine, and take and restore snapshots of all of them at once
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum machine create vm --config vm.xml
  vellum machine add-disk vm root data
  vellum machine snapshot take vm@monday")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: MachineVerb,
}

#[derive(Subcommand)]
enum MachineVerb {
    Create(define::MachineCreateArgs),
    Config(define::MachineConfigArgs),
    AddDisk(define::AddDiskArgs),
    RemoveDisk(define::RemoveDiskArgs),
    #[command(visible_alias = "ls")]
    List(show::MachineListArgs),
    Show(show::MachineShowArgs),
    #[command(visible_alias = "rm")]
    Delete(define::MachineDeleteArgs),
    Import(import::MachineImportArgs),
    Export(export::MachineExportArgs),
    Snapshot(snapshot::Args),
    Start(power::MachineStartArgs),
    Stop(power::MachineStopArgs),
    RunArgs(run_args::Args),
}

pub(super) fn run_machine(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    match &args.verb {
        MachineVerb::Create(args) => define::create_machine(args, session),
        MachineVerb::Config(args) => define::configure_machine(args, session),
        MachineVerb::AddDisk(args) => define::add_disk(args, session),
        MachineVerb::RemoveDisk(args) => define::remove_disk(args, session),
        MachineVerb::List(args) => show::list_machines(args, session),
        MachineVerb::Show(args) => show::show_machine(args, session),
        MachineVerb::Delete(args) => define::delete_machine(args, session),
        MachineVerb::Import(args) => import::run_machine_import(args, session),
        MachineVerb::Export(args) => export::run_machine_export(args, session),
        MachineVerb::Snapshot(args) => snapshot::run_machine_snapshot(args, session),
        MachineVerb::Start(args) => power::start_machine(args, session),
        MachineVerb::Stop(args) => power::stop_machine(args, session),
        MachineVerb::RunArgs(args) => run_args::run_machine_run_args(args, session),
    }
}

/// A change that was made to a machine.
#[derive(Serialize)]
struct MachineChange {
    action: &'static str,
    name: String,
    /// The sentences for people.
    #[serde(skip)]
    lines: Vec<String>,
}

impl Render for MachineChange {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        self.lines.iter().try_for_each(|line| page.write_line(line))
    }
}

fn confirm_machine_change(
    session: &mut CommandContext,
    action: &'static str,
    name: String,
    lines: Vec<String>,
) -> Result<Outcome, CommandFailure> {
    session.output.print_confirmation(&MachineChange {
        action,
        name,
        lines,
    })?;
    Ok(Outcome::Done)
}
