//! `vellum completions`: what a shell needs to complete command lines.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::failure::{Failure, Outcome};
use crate::session::Session;

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

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    // The generator panics when its writer fails, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "vellum", &mut script);
    session.output.verbatim(&script)?;
    Ok(Outcome::Done)
}
