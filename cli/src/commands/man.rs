//! `vellum man`: manual pages.

use std::path::PathBuf;

use clap::CommandFactory;

use crate::arguments::Arguments;
use crate::failure::{Failure, Outcome};
use crate::session::Session;

/// Print the manual page, or write one for each command to a folder
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum man ~/.local/share/man/man1")]
pub(crate) struct Args {
    /// The folder, which must be there
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let command = Arguments::command();
    if let Some(dir) = &args.dir {
        let fail = |error| Failure::io(format!("write manual pages to {}", dir.display()), error);
        clap_mangen::generate_to(command, session.caller.path(dir)).map_err(fail)?;
    } else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        session.output.verbatim(&page)?;
    }
    Ok(Outcome::Done)
}
