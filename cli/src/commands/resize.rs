//! `vellum resize`: an image of another length.

use vellum_core::tree::Node;

use super::done;
use crate::failure::{Failure, Outcome};
use crate::lookup;
use crate::session::Session;
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

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let store = session.open_to_write()?;
    let image = lookup::image(&store, &args.image)?;
    let node = Node::Image(image);
    let len = store.tree().layer_of(node).map_or(0, |layer| layer.len);
    let misfit = |error: size::SizeError| {
        Failure::usage(
            format!("that is no size for {}: {error}", args.image),
            "`vellum info` shows its size",
        )
    };
    let len = args.size.apply(len).map_err(misfit)?;
    store.resize(image, len, args.shrink)?;
    done::tell(session, &store, "resize", node, |name, size| {
        format!("resized {name}, {size}")
    })
}
