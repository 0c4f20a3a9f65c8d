//! `vellum tag`: marks that people put on images and snapshots.

use std::io;

use serde::Serialize;
use vellum_core::name::Name;
use vellum_core::tree::{NodeRef, Tree};

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;
use crate::output::Render;
use crate::output::page::TextPage;

/// Show, add (+TAG) and remove (-TAG) the tags of an image or snapshot
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum tag web +production -test
  vellum tag web --add production --remove test")]
pub(crate) struct Args {
    /// The image or snapshot
    #[arg(value_name = "IMAGE[@SNAPSHOT]")]
    node: String,
    /// +TAG adds, -TAG removes
    #[arg(value_name = "+TAG|-TAG", allow_hyphen_values = true)]
    changes: Vec<String>,
    /// Add a tag
    #[arg(long, value_name = "TAG", value_parser = lookup::parse_name)]
    add: Vec<Name>,
    /// Remove a tag
    #[arg(long, value_name = "TAG", value_parser = lookup::parse_name)]
    remove: Vec<Name>,
}

#[derive(Serialize)]
struct TagListing {
    name: String,
    tags: Vec<String>,
}

pub(super) fn run_tag(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let (add, remove) = tag_changes(args)?;
    if add.is_empty() && remove.is_empty() {
        let store = session.open_to_read()?;
        let node = store.find_node(&args.node)?;
        let tags = tags_of(&store.tree(), node);
        session.output.print_answer(&tags)?;
        return Ok(Outcome::Done);
    }
    let store = session.open_to_write()?;
    let node = store.find_whole(&args.node)?;
    store.change_tags(node, &add, &remove)?;
    let tags = tags_of(&store.tree(), node);
    session.output.print_confirmation(&tags)?;
    Ok(Outcome::Done)
}

/// The tags to add and to remove, however they were written.
fn tag_changes(args: &Args) -> Result<(Vec<Name>, Vec<Name>), CommandFailure> {
    let (mut add, mut remove) = (args.add.clone(), args.remove.clone());
    if let Some(option) = args.changes.iter().find(|change| change.starts_with("--")) {
        return Err(CommandFailure::usage_error(
            format!("{option:?} is no tag"),
            "write options before the tags",
        ));
    }
    for change in &args.changes {
        let (list, text) = match (change.strip_prefix('+'), change.strip_prefix('-')) {
            (Some(text), _) => (&mut add, text),
            (_, Some(text)) => (&mut remove, text),
            _ => {
                return Err(CommandFailure::usage_error(
                    format!("{change:?} says neither add nor remove"),
                    format!("write +{change} or -{change}"),
                ));
            }
        };
        list.push(Name::new(text).map_err(|error| CommandFailure::invalid_name(text, error))?);
    }
    Ok((add, remove))
}

fn tags_of(tree: &Tree, node: NodeRef) -> TagListing {
    let tags = tree.marks(node).map(|marks| &marks.tags);
    TagListing {
        name: tree.display_name(node),
        tags: tags.into_iter().flatten().map(Name::to_string).collect(),
    }
}

impl Render for TagListing {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let tags = if self.tags.is_empty() {
            "no tags".to_owned()
        } else {
            self.tags.join(", ")
        };
        page.write_line(format!("{}: {tags}", self.name))
    }
}
