//! `vellum completions`: what a shell needs to complete command lines.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};

/// Print a completion script for a shell
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum completions bash > ~/.local/share/bash-completion/completions/vellum")]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run_completions(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    // The generator panics when its writer fails, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "vellum", &mut script);
    session.output.print_verbatim(&script)?;
    Ok(Outcome::Done)
}
