//! `vellum reset`: what was written to an immutable image goes.

use vellum_core::tree::Node;

use super::done;
use crate::failure::{Failure, Outcome};
use crate::lookup;
use crate::session::Session;

/// Forget what was written to an immutable image
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum modify kiosk --type immutable --autoreset off
  vellum reset kiosk")]
pub(crate) struct Args {
    /// The image
    image: String,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let store = session.open_to_write()?;
    let image = lookup::image(&store, &args.image)?;
    store.reset(image)?;
    done::tell(session, &store, "reset", Node::Image(image), |name, _| {
        format!("reset {name}: what was written to it is gone")
    })
}
