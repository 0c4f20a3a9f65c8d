//! `vellum flatten`: an image that stands on nothing.

use vellum_core::tree::Node;

use super::done;
use crate::failure::{Failure, Outcome};
use crate::lookup;
use crate::session::Session;

/// Make an image independent of all others; its content stays, no data is copied
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum flatten web-test")]
pub(crate) struct Args {
    /// The image
    image: String,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    flatten(session, &args.image)
}

/// Flattens the image that `text` means.
pub(super) fn flatten(session: &mut Session, text: &str) -> Result<Outcome, Failure> {
    let store = session.open_to_write()?;
    let image = lookup::image(&store, text)?;
    let meter = session.watch_records(&format!("flattening {text}"));
    store.flatten(image, &meter)?;
    drop(meter);
    done::tell(session, &store, "flatten", Node::Image(image), |name, _| {
        format!("{name} stands on nothing now")
    })
}
