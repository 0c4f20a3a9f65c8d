//! `vellum pin`: protection against deletion.

use super::confirm;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};

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

pub(super) fn run_pin(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_write()?;
    let node = store.find_whole(&args.node)?;
    store.set_pinned(node, !args.off)?;
    let (action, done) = if args.off {
        ("unpin", "unpinned")
    } else {
        ("pin", "pinned")
    };
    confirm::confirm_change(session, &store, action, node, |name, _| {
        format!("{done} {name}")
    })
}
