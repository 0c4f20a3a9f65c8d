//! `vellum rename`: another name for the same thing.

use vellum_core::name::{Name, NodeSpec};
use vellum_core::tree::Node;
use vellum_store::Store;

use super::done;
use crate::failure::{Failure, Outcome};
use crate::lookup;
use crate::session::Session;

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

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let store = session.open_to_write()?;
    let node = store.find_whole(&args.node)?;
    let old = store.tree().display(node);
    let text = new_name(&store, node, &args.new)?;
    let name = Name::new(&text).map_err(|error| Failure::name(&text, error))?;
    store.rename(node, &name)?;
    done::tell(session, &store, "rename", node, |name, _| {
        format!("{old} is {name} now")
    })
}

/// The new name itself: a snapshot's may be written with its image, which must be the same.
fn new_name(store: &Store, node: Node, text: &str) -> Result<String, Failure> {
    let spec = NodeSpec::parse(text);
    let Some(snapshot) = spec.snapshot else {
        return Ok(spec.image);
    };
    match node {
        Node::Snapshot(image, _) if lookup::image(store, &spec.image)? == image => Ok(snapshot),
        Node::Snapshot(..) => Err(Failure::usage(
            "a snapshot stays with its image",
            "write only the new name behind the @",
        )),
        Node::Image(_) => Err(Failure::usage(
            "an image's name has no @",
            format!("`vellum snapshot take {text}` takes a snapshot"),
        )),
    }
}
