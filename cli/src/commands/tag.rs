//! `vellum tag`: marks that people put on images and snapshots.

use std::io;

use serde::Serialize;
use vellum_core::name::Name;
use vellum_core::tree::{Node, Tree};

use crate::failure::{Failure, Outcome};
use crate::lookup;
use crate::output::Answer;
use crate::output::page::Page;
use crate::session::Session;

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
    #[arg(long, value_name = "TAG", value_parser = lookup::name)]
    add: Vec<Name>,
    /// Remove a tag
    #[arg(long, value_name = "TAG", value_parser = lookup::name)]
    remove: Vec<Name>,
}

#[derive(Serialize)]
struct Tags {
    name: String,
    tags: Vec<String>,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let (add, remove) = changes(args)?;
    if add.is_empty() && remove.is_empty() {
        let store = session.open_to_read()?;
        let node = store.find(&args.node)?;
        let tags = tags_of(&store.tree(), node);
        session.output.answer(&tags)?;
        return Ok(Outcome::Done);
    }
    let store = session.open_to_write()?;
    let node = store.find_whole(&args.node)?;
    store.tag(node, &add, &remove)?;
    let tags = tags_of(&store.tree(), node);
    session.output.confirm(&tags)?;
    Ok(Outcome::Done)
}

/// The tags to add and to remove, however they were written.
fn changes(args: &Args) -> Result<(Vec<Name>, Vec<Name>), Failure> {
    let (mut add, mut remove) = (args.add.clone(), args.remove.clone());
    if let Some(option) = args.changes.iter().find(|change| change.starts_with("--")) {
        return Err(Failure::usage(
            format!("{option:?} is no tag"),
            "write options before the tags",
        ));
    }
    for change in &args.changes {
        let (list, text) = match (change.strip_prefix('+'), change.strip_prefix('-')) {
            (Some(text), _) => (&mut add, text),
            (_, Some(text)) => (&mut remove, text),
            _ => {
                return Err(Failure::usage(
                    format!("{change:?} says neither add nor remove"),
                    format!("write +{change} or -{change}"),
                ));
            }
        };
        list.push(Name::new(text).map_err(|error| Failure::name(text, error))?);
    }
    Ok((add, remove))
}

fn tags_of(tree: &Tree, node: Node) -> Tags {
    let tags = match node {
        Node::Image(image) => tree.image(image).map(|image| &image.tags),
        Node::Snapshot(image, serial) => {
            tree.snapshot(image, serial).map(|snapshot| &snapshot.tags)
        }
    };
    Tags {
        name: tree.display(node),
        tags: tags.into_iter().flatten().map(Name::to_string).collect(),
    }
}

impl Answer for Tags {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let tags = if self.tags.is_empty() {
            "no tags".to_owned()
        } else {
            self.tags.join(", ")
        };
        page.line(format!("{}: {tags}", self.name))
    }
}
