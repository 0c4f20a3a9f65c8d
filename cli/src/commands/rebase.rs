//! `vellum rebase`: an image onto another parent.

use vellum_core::tree::Node;
use vellum_store::RebaseMode;

use super::{done, flatten};
use crate::failure::{Failure, Outcome};
use crate::lookup;
use crate::session::Session;

/// Put an image onto another parent; its content stays, unless -u
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  vellum rebase web-test -b web@tuesday\n  vellum rebase web-test -b ''"
)]
pub(crate) struct Args {
    /// The image
    image: String,
    /// The new parent; an empty text for none
    #[arg(
        short = 'b',
        long,
        visible_alias = "backing",
        value_name = "IMAGE[@SNAPSHOT]"
    )]
    parent: String,
    /// Keep the image's own data instead of its content, which then changes where the parents
    /// differ
    #[arg(short = 'u', long = "unsafe")]
    keep_map: bool,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    if args.parent.is_empty() {
        if args.keep_map {
            return Err(Failure::usage(
                "without a parent there is nothing to keep the map on",
                "leave out -u",
            ));
        }
        return flatten::flatten(session, &args.image);
    }
    let store = session.open_to_write()?;
    let image = lookup::image(&store, &args.image)?;
    let parent = store.find_whole(&args.parent)?;
    let mode = if args.keep_map {
        RebaseMode::KeepMap
    } else {
        RebaseMode::KeepContent
    };
    let meter = session.watch_records(&format!("rebasing {}", args.image));
    store.rebase(image, parent, mode, &meter)?;
    drop(meter);
    let parent = store.tree().display(parent);
    done::tell(session, &store, "rebase", Node::Image(image), |name, _| {
        format!("{name} stands on {parent} now")
    })
}
