//! `vellum resize`: an image of another length.

use vellum_core::tree::NodeRef;

use super::confirm;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;
use crate::size::{self, SizeChange};

/// Make an image longer (with zeros) or, with --shrink, shorter
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum resize web +10G\n  vellum resize web --shrink 20G")]
pub(crate) struct Args {
    /// The image
    image: String,
    /// Its new size, or with + or - by how much it changes
    #[arg(value_name = "[+|-]SIZE", value_parser = size::parse_change, allow_hyphen_values = true)]
    size: SizeChange,
    /// Let the end of the image go
    #[arg(long)]
    shrink: bool,
}

pub(super) fn run_resize(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_write()?;
    let image = lookup::find_image(&store, &args.image)?;
    let node = NodeRef::Image(image);
    let len = store.tree().layer_of(node).map_or(0, |layer| layer.len);
    let misfit = |error: size::SizeError| {
        CommandFailure::usage_error(
            format!("that is no size for {}: {error}", args.image),
            "`vellum info` shows its size",
        )
    };
    let len = args.size.apply_to(len).map_err(misfit)?;
    store.resize_image(image, len, args.shrink)?;
    confirm::confirm_change(session, &store, "resize", node, |name, size| {
        format!("resized {name}, {size}")
    })
}
