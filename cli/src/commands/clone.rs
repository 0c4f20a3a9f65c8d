//! `vellum clone`: `create -b` in the words of `VirtualBox`.

use vellum_core::name::Name;

use super::create;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;

/// Make an image as another image or snapshot is now, at once (create -b)
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum clone web@monday web-test")]
pub(crate) struct Args {
    /// The image or snapshot that it starts as
    #[arg(value_name = "IMAGE[@SNAPSHOT]")]
    parent: String,
    /// The new image's name
    #[arg(value_parser = lookup::parse_name)]
    name: Name,
}

pub(super) fn run_clone(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    create::create_image(session, &args.name, Some(&args.parent), None)
}
