//! `vellum pin`: protection against deletion.

use super::done;
use crate::failure::{Failure, Outcome};
use crate::session::Session;

/// Protect an image or snapshot against deletion
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum pin web@monday\n  vellum pin --off web@monday")]
pub(crate) struct Args {
    /// The image or snapshot
    #[arg(value_name = "IMAGE[@SNAPSHOT]")]
    node: String,
    /// End the protection
    #[arg(long)]
    off: bool,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let store = session.open_to_write()?;
    let node = store.find_whole(&args.node)?;
    store.pin(node, !args.off)?;
    let (action, done) = if args.off {
        ("unpin", "unpinned")
    } else {
        ("pin", "pinned")
    };
    done::tell(session, &store, action, node, |name, _| {
        format!("{done} {name}")
    })
}
