//! `vellum man`: manual pages.

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_mangen::Man;
use vellum_store::{NewFileMode, write_whole_file};

use crate::arguments::Arguments;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};

/// Print the manual page, or write one for each command to a folder
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum man ~/.local/share/man/man1")]
pub(crate) struct Args {
    /// The folder, which must be there
    dir: Option<PathBuf>,
}

pub(super) fn run_man(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let command = Arguments::command();
    if let Some(dir) = &args.dir {
        let mut command = command.disable_help_subcommand(true);
        command.build();
        write_all(command, &session.caller.resolve_path(dir))?;
    } else {
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        session.output.print_verbatim(&page)?;
    }
    Ok(Outcome::Done)
}

/// A page for `command` and for each below it, in place of those of an earlier version.
fn write_all(command: clap::Command, dir: &Path) -> Result<(), CommandFailure> {
    let inner = command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set());
    inner.cloned().try_for_each(|inner| write_all(inner, dir))?;
    let (man, mut page) = (Man::new(command), Vec::new());
    man.render(&mut page)?;
    let path = dir.join(man.get_filename());
    Ok(write_whole_file(&path, &page, true, NewFileMode::Usual)?)
}
