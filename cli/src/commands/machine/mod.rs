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

use std::io;

use clap::Subcommand;
use serde::Serialize;

use crate::failure::{Failure, Outcome};
use crate::output::Answer;
use crate::output::page::Page;
use crate::session::Session;

/// Name the disks of a machine, and take and restore snapshots of all of them at once
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum machine create vm --config vm.xml
  vellum machine add-disk vm root data
  vellum machine snapshot take vm@monday")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Create(define::CreateArgs),
    Config(define::ConfigArgs),
    AddDisk(define::AddDiskArgs),
    RemoveDisk(define::RemoveDiskArgs),
    #[command(visible_alias = "ls")]
    List(show::ListArgs),
    Show(show::ShowArgs),
    #[command(visible_alias = "rm")]
    Delete(define::DeleteArgs),
    Import(import::ImportArgs),
    Export(export::ExportArgs),
    Snapshot(snapshot::Args),
    Start(power::StartArgs),
    Stop(power::StopArgs),
    RunArgs(run_args::Args),
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    match &args.verb {
        Verb::Create(args) => define::create(args, session),
        Verb::Config(args) => define::configure(args, session),
        Verb::AddDisk(args) => define::add_disk(args, session),
        Verb::RemoveDisk(args) => define::remove_disk(args, session),
        Verb::List(args) => show::list(args, session),
        Verb::Show(args) => show::show(args, session),
        Verb::Delete(args) => define::delete(args, session),
        Verb::Import(args) => import::run(args, session),
        Verb::Export(args) => export::run(args, session),
        Verb::Snapshot(args) => snapshot::run(args, session),
        Verb::Start(args) => power::start(args, session),
        Verb::Stop(args) => power::stop(args, session),
        Verb::RunArgs(args) => run_args::run(args, session),
    }
}

/// A change that was made to a machine.
#[derive(Serialize)]
struct Done {
    action: &'static str,
    name: String,
    /// The sentences for people.
    #[serde(skip)]
    lines: Vec<String>,
}

impl Answer for Done {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        self.lines.iter().try_for_each(|line| page.line(line))
    }
}

fn tell(
    session: &mut Session,
    action: &'static str,
    name: String,
    lines: Vec<String>,
) -> Result<Outcome, Failure> {
    session.output.confirm(&Done {
        action,
        name,
        lines,
    })?;
    Ok(Outcome::Done)
}
