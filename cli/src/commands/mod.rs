//! The verbs, and the file of each.

mod backup;
mod check;
mod clone;
mod commit;
mod compare;
mod complete_names;
mod completions;
mod confirm;
mod convert;
mod create;
mod describe;
mod diff;
mod export;
mod flatten;
mod forget;
mod gc;
mod import;
pub(crate) mod info;
mod init;
mod list;
mod list_shape;
pub(crate) mod machine;
mod man;
mod manager;
mod map;
mod measure;
mod modify;
mod mount;
mod nbd;
mod parity;
mod pin;
mod probe;
mod property;
mod rebase;
mod receive;
mod remove;
mod rename;
mod repair;
mod report;
mod reset;
mod resize;
mod send;
mod serve;
mod snapshot;
mod source;
mod stats;
mod tag;
pub(crate) mod tree;
mod version;

use std::io;

use clap::Subcommand;

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::invocation::Invocation;
use crate::output::page::{TextPage, format_count};
use crate::repository::password::Password;

/// A verb and what it takes.
#[derive(Subcommand)]
pub(crate) enum Command {
    Init(init::Args),
    Import(import::Args),
    Export(export::Args),
    Create(create::Args),
    Clone(clone::Args),
    Snapshot(snapshot::Args),
    #[command(visible_alias = "ls")]
    List(list::Args),
    Tree(tree::Args),
    Info(info::Args),
    Map(map::Args),
    Diff(diff::Args),
    Compare(compare::Args),
    Convert(convert::Args),
    Probe(probe::Args),
    #[command(name = "rm", visible_alias = "delete", alias = "remove")]
    Remove(remove::Args),
    Forget(forget::Args),
    #[command(visible_alias = "mv")]
    Rename(rename::Args),
    Resize(resize::Args),
    Modify(modify::Args),
    Reset(reset::Args),
    Machine(machine::Args),
    Flatten(flatten::Args),
    Commit(commit::Args),
    Rebase(rebase::Args),
    Tag(tag::Args),
    Pin(pin::Args),
    Describe(describe::Args),
    Set(property::SetArgs),
    Get(property::GetArgs),
    Backup(backup::Args),
    Send(send::Args),
    Receive(receive::Args),
    Gc(gc::Args),
    Check(check::Args),
    Repair(repair::Args),
    Source(source::Args),
    Parity(parity::Args),
    Stats(stats::Args),
    Measure(measure::Args),
    Report(report::Args),
    Serve(serve::Args),
    #[command(visible_alias = "ui")]
    Manager(manager::Args),
    Nbd(nbd::Args),
    Mount(mount::Args),
    Completions(completions::Args),
    CompleteNames(complete_names::Args),
    Man(man::Args),
    Version(version::Args),
}

impl Command {
    /// True if it needs a store that is there, and so is done by the server that owns the store, if
    /// one does.
    pub(crate) fn is_done_by_owner(&self) -> bool {
        let is_without = match self {
            Self::Measure(args) => !args.needs_store(),
            Self::Backup(args) => !args.needs_store(),
            Self::Info(args) => !args.needs_store(),
            Self::Map(args) => !args.needs_store(),
            Self::Diff(args) => !args.needs_store(),
            Self::Compare(args) => !args.needs_store(),
            Self::Manager(args) => !args.needs_store(),
            other => matches!(
                other,
                Self::Init(_)
                    | Self::Convert(_)
                    | Self::Probe(_)
                    | Self::Completions(_)
                    | Self::CompleteNames(_)
                    | Self::Man(_)
                    | Self::Version(_)
            ),
        };
        let is_owner = matches!(
            self,
            Self::Serve(_) | Self::Nbd(_) | Self::Mount(_) | Self::Repair(_)
        );
        !is_without && !is_owner
    }

    /// True if the process may be ended under it: it waits for servers, and leaves nothing half
    /// done.
    pub(crate) fn may_be_cut_off(&self) -> bool {
        match self {
            Self::Backup(args) => !args.serves(),
            _ => false,
        }
    }

    /// True if exit code 1 means that a difference was found.
    pub(crate) fn is_comparison(&self) -> bool {
        match self {
            Self::Compare(_) | Self::Diff(_) => true,
            Self::Backup(args) => args.is_comparison(),
            _ => false,
        }
    }

    /// Asks at the caller's terminal for the secret that is needed before another process does the
    /// command.
    pub(crate) fn ask_password(
        &self,
        caller: &Invocation,
    ) -> Result<Option<Password>, CommandFailure> {
        if let Self::Backup(args) = self {
            args.ask_password(caller)
        } else {
            Ok(None)
        }
    }

    /// True if standard input is stored.
    pub(crate) fn reads_input(&self) -> bool {
        match self {
            Self::Import(args) => args.reads_input(),
            Self::Receive(_) => true,
            Self::Manager(args) => args.needs_terminal(),
            _ => false,
        }
    }

    /// True if the command listens at a socket that its caller was handed.
    pub(crate) fn listens(&self) -> bool {
        matches!(self, Self::Manager(args) if args.listens())
    }

    /// True if the command takes all keys of the caller's terminal, and draws on it.
    pub(crate) fn needs_terminal(&self) -> bool {
        matches!(self, Self::Manager(args) if args.needs_terminal())
    }
}

/// Runs `command`.
pub(crate) fn run_command(
    command: &Command,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    match command {
        Command::Init(args) => init::run_init(args, session),
        Command::Import(args) => import::run_import(args, session),
        Command::Export(args) => export::run_export(args, session),
        Command::Create(args) => create::run_create(args, session),
        Command::Clone(args) => clone::run_clone(args, session),
        Command::Snapshot(args) => snapshot::run_snapshot(args, session),
        Command::List(args) => list::run_list(args, session),
        Command::Tree(args) => tree::run_tree(args, session),
        Command::Info(args) => info::run_info(args, session),
        Command::Map(args) => map::run_map(args, session),
        Command::Diff(args) => diff::run_diff(args, session),
        Command::Compare(args) => compare::run_compare(args, session),
        Command::Convert(args) => convert::run_convert(args, session),
        Command::Probe(args) => probe::run_probe(args, session),
        Command::Remove(args) => remove::run_remove(args, session),
        Command::Forget(args) => forget::run_forget(args, session),
        Command::Rename(args) => rename::run_rename(args, session),
        Command::Resize(args) => resize::run_resize(args, session),
        Command::Modify(args) => modify::run_modify(args, session),
        Command::Reset(args) => reset::run_reset(args, session),
        Command::Machine(args) => machine::run_machine(args, session),
        Command::Flatten(args) => flatten::run_flatten(args, session),
        Command::Commit(args) => commit::run_commit(args, session),
        Command::Rebase(args) => rebase::run_rebase(args, session),
        Command::Tag(args) => tag::run_tag(args, session),
        Command::Pin(args) => pin::run_pin(args, session),
        Command::Describe(args) => describe::run_describe(args, session),
        Command::Set(args) => property::run_set(args, session),
        Command::Get(args) => property::run_get(args, session),
        Command::Backup(args) => backup::run_backup(args, session),
        Command::Send(args) => send::run_send(args, session),
        Command::Receive(args) => receive::run_receive(args, session),
        Command::Gc(args) => gc::run_gc(args, session),
        Command::Check(args) => check::run_check(args, session),
        Command::Repair(args) => repair::run_repair(args, session),
        Command::Source(args) => source::run_source(args, session),
        Command::Parity(args) => parity::run_parity(args, session),
        Command::Stats(args) => stats::run_stats(args, session),
        Command::Measure(args) => measure::run_measure(args, session),
        Command::Report(args) => report::run_report(args, session),
        Command::Serve(args) => serve::run_serve(args, session),
        Command::Manager(args) => manager::run_manager(args, session),
        Command::Nbd(args) => nbd::run_nbd(args, session),
        Command::Mount(args) => mount::run_mount(args, session),
        Command::Completions(args) => completions::run_completions(args, session),
        Command::CompleteNames(args) => complete_names::run_complete_names(args, session),
        Command::Man(args) => man::run_man(args, session),
        Command::Version(args) => version::run_version(args, session),
    }
}

/// Writes the number of chunks that were damaged and are not any more.
fn render_healed_count(page: &mut TextPage, count: u64) -> io::Result<()> {
    if count == 0 {
        return Ok(());
    }
    page.write_line(format!(
        "healed {}, for every image that has them",
        format_count(count, "damaged chunk")
    ))
}
