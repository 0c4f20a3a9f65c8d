//! `vellum man`: manual pages.

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use vellum_store::{NewFileMode, write_whole_file};

use crate::arguments::Arguments;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::manual_page::{page_name, render_page};

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
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    if let Some(dir) = &args.dir {
        write_all(&command, None, &session.caller.resolve_path(dir))?;
    } else {
        let page = render_page(&command, None)?;
        session.output.print_verbatim(&page)?;
    }
    Ok(Outcome::Done)
}

/// A page for `command` and for each below it, in place of those of an earlier version.
fn write_all(
    command: &clap::Command,
    parent: Option<&str>,
    dir: &Path,
) -> Result<(), CommandFailure> {
    let name = page_name(command);
    command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set())
        .try_for_each(|inner| write_all(inner, Some(name), dir))?;
    let page = render_page(command, parent)?;
    let path = dir.join(format!("{name}.1"));
    Ok(write_whole_file(&path, &page, true, NewFileMode::Usual)?)
}
