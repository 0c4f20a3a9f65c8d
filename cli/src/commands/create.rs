//! `vellum create`: a new image, empty or on another.

use vellum_core::name::Name;

use super::confirm;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::{lookup, size};

/// Make an image: of zeros, or as another image or snapshot is now
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum create scratch 40G
  vellum create web-test -b web@monday
  vellum create web-big -b web 80G

With -b the image is there at once, whatever its size: it holds only what will differ.")]
pub(crate) struct Args {
    /// The new image's name
    #[arg(value_parser = lookup::parse_name, required_unless_present = "filename")]
    name: Option<Name>,
    /// Its size; without it the parent's
    #[arg(
        value_parser = size::parse_size,
        required_unless_present_any = ["parent", "size_mb", "size_bytes"]
    )]
    size: Option<u64>,
    /// The image or snapshot that it starts as
    #[arg(
        short = 'b',
        long,
        visible_alias = "backing",
        alias = "diffparent",
        value_name = "IMAGE[@SNAPSHOT]"
    )]
    parent: Option<String>,
    /// As VBoxManage calls the name
    #[arg(
        long,
        hide = true,
        value_parser = lookup::parse_name,
        conflicts_with_all = ["name", "size"]
    )]
    filename: Option<Name>,
    /// As VBoxManage means it: in MiB
    #[arg(
        long = "size",
        hide = true,
        value_name = "MIB",
        conflicts_with_all = ["size", "size_bytes"]
    )]
    size_mb: Option<u32>,
    /// As VBoxManage means it: in bytes
    #[arg(
        long = "sizebyte",
        hide = true,
        value_name = "BYTES",
        conflicts_with = "size"
    )]
    size_bytes: Option<u64>,
}

pub(super) fn run_create(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let name = args.name.as_ref().or(args.filename.as_ref());
    let name = name.ok_or_else(|| {
        CommandFailure::usage_error("the new image needs a name", "vellum create NAME SIZE")
    })?;
    let len = args
        .size
        .or(args.size_bytes)
        .or(args.size_mb.map(|mib| u64::from(mib) << 20));
    create_image(session, name, args.parent.as_deref(), len)
}

/// Makes image `name` on `parent`, of `len` bytes; one of the two must be there.
pub(super) fn create_image(
    session: &mut CommandContext,
    name: &Name,
    parent: Option<&str>,
    len: Option<u64>,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_write()?;
    let Some(parent) = parent else {
        let len = len.ok_or_else(|| {
            CommandFailure::usage_error(
                "an image without a parent needs a size",
                "vellum create NAME SIZE",
            )
        })?;
        let node = store.create_image(name, len)?;
        return confirm::confirm_change(session, &store, "create", node, |name, size| {
            format!("created {name}, {size}")
        });
    };
    let parent = store.find_node(parent)?;
    let parent_name = store.tree().display_name(parent);
    let node = store.create_child(name, parent, len)?;
    confirm::confirm_change(session, &store, "create", node, |name, size| {
        format!("created {name} on {parent_name}, {size}")
    })
}
