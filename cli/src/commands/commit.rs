//! `vellum commit`: an image's state becomes that of the image it was made from.

use vellum_core::tree::Node;

use super::done;
use crate::failure::{Failure, Outcome};
use crate::lookup;
use crate::session::Session;

/// Make the image that this one was created from as this one is now
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum create trial -b web
  vellum import upgraded.raw trial --update
  vellum commit trial")]
pub(crate) struct Args {
    /// The image whose state is wanted
    image: String,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let store = session.open_to_write()?;
    let image = lookup::image(&store, &args.image)?;
    let node = store.commit_image(image)?;
    let name = store.tree().display(Node::Image(image));
    done::tell(session, &store, "commit", node, |origin, _| {
        format!("{origin} is as {name} now")
    })
}
