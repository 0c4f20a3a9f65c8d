//! `vellum describe`: words about an image or a snapshot.

use std::io;

use serde::Serialize;
use vellum_core::tree::{Annotation, PlanError};

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::Render;
use crate::output::page::TextPage;

/// Show, give or take away the description of an image or snapshot
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum describe web@monday 'before the upgrade to 13'
  vellum describe web@monday
  vellum describe web@monday --clear

A description may have several lines. `vellum info` shows it, `vellum list -o name,description` \
its first line; backups keep it.")]
pub(crate) struct Args {
    /// The image or snapshot
    #[arg(value_name = "IMAGE[@SNAPSHOT]")]
    node: String,
    /// The description; several words are joined. Without one it is shown
    #[arg(conflicts_with = "clear")]
    text: Vec<String>,
    /// Take the description away
    #[arg(long)]
    clear: bool,
}

#[derive(Serialize)]
struct DescriptionText {
    name: String,
    description: String,
}

pub(super) fn run_describe(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    if args.text.is_empty() && !args.clear {
        let store = session.open_to_read()?;
        let node = store.find_node(&args.node)?;
        let tree = store.tree();
        let marks = tree.marks(node).ok_or(PlanError::Gone)?;
        let answer = DescriptionText {
            name: tree.display_name(node),
            description: marks.annotation.description().to_owned(),
        };
        drop(tree);
        session.output.print_answer(&answer)?;
        return Ok(Outcome::Done);
    }
    let text = args.text.join(" ");
    // Before the store is opened: a mistake takes no lock.
    Annotation::default()
        .set_description(&text)
        .map_err(refuse)?;
    let store = session.open_to_write()?;
    let node = store.find_whole(&args.node)?;
    let (name, mut annotation) = {
        let tree = store.tree();
        let marks = tree.marks(node).ok_or(PlanError::Gone)?;
        (tree.display_name(node), marks.annotation.clone())
    };
    annotation.set_description(&text).map_err(refuse)?;
    let description = annotation.description().to_owned();
    store.annotate_node(node, annotation)?;
    session
        .output
        .print_confirmation(&DescriptionText { name, description })?;
    Ok(Outcome::Done)
}

pub(super) fn refuse(error: vellum_core::tree::AnnotationError) -> CommandFailure {
    CommandFailure::usage_error(error.to_string(), "shorten it, or leave the character out")
}

impl Render for DescriptionText {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let text = match self.description.as_str() {
            "" => "no description",
            text => text,
        };
        page.write_line(format!("{}: {text}", self.name))
    }
}
