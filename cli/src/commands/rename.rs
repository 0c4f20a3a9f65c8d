//! `vellum rename`: another name for the same thing.

use vellum_core::name::{Name, NodeSpec};
use vellum_core::tree::NodeRef;
use vellum_store::Store;

use super::confirm;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;

/// Give an image or snapshot another name
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum rename web web-old\n  vellum rename web@monday first")]
pub(crate) struct Args {
    /// The image or snapshot
    #[arg(value_name = "IMAGE[@SNAPSHOT]")]
    node: String,
    /// Its new name; for a snapshot the part behind the @
    new: String,
}

pub(super) fn run_rename(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_write()?;
    let node = store.find_whole(&args.node)?;
    let old = store.tree().display_name(node);
    let text = new_name(&store, node, &args.new)?;
    let name = Name::new(&text).map_err(|error| CommandFailure::invalid_name(&text, error))?;
    store.rename_node(node, &name)?;
    confirm::confirm_change(session, &store, "rename", node, |name, _| {
        format!("{old} is {name} now")
    })
}

/// The new name itself: a snapshot's may be written with its image, which must be the same.
fn new_name(store: &Store, node: NodeRef, text: &str) -> Result<String, CommandFailure> {
    let spec = NodeSpec::parse(text);
    let Some(snapshot) = spec.snapshot else {
        return Ok(spec.image);
    };
    match node {
        NodeRef::Snapshot(image, _) if lookup::find_image(store, &spec.image)? == image => {
            Ok(snapshot)
        }
        NodeRef::Snapshot(..) => Err(CommandFailure::usage_error(
            "a snapshot stays with its image",
            "write only the new name behind the @",
        )),
        NodeRef::Image(_) => Err(CommandFailure::usage_error(
            "an image's name has no @",
            format!("`vellum snapshot take {text}` takes a snapshot"),
        )),
    }
}
