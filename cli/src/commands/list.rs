//! `vellum list`: images and snapshots, one a line.

use std::io;

use serde::Serialize;
use vellum_core::tree::{Node, Tree};

use crate::description::Description;
use crate::failure::{Failure, Outcome};
use crate::forest::Forest;
use crate::lookup;
use crate::output::Answer;
use crate::output::page::Page;
use crate::output::table::Column;
use crate::session::Session;

/// List images, or one image and its snapshots
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum list --snapshots")]
pub(crate) struct Args {
    /// Only this image, and its snapshots
    image: Option<String>,
    /// Snapshots as well
    #[arg(long)]
    snapshots: bool,
}

/// The answer is a list also in JSON.
#[derive(Serialize)]
#[serde(transparent)]
struct Listing {
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    description: Description,
    /// The number of an image's snapshots.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshots: Option<u64>,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let with_snapshots = args.snapshots || args.image.is_some();
    list(session, args.image.as_deref(), |node| {
        with_snapshots || matches!(node, Node::Image(_))
    })
}

/// Lists the snapshots of `image`, or of all images.
pub(super) fn list_snapshots(
    session: &mut Session,
    image: Option<&str>,
) -> Result<Outcome, Failure> {
    list(session, image, |node| matches!(node, Node::Snapshot(..)))
}

fn list(
    session: &mut Session,
    image: Option<&str>,
    wanted: impl Fn(Node) -> bool,
) -> Result<Outcome, Failure> {
    let store = session.open_to_read()?;
    let image = image
        .map(|image| lookup::image_to_read(&store, image))
        .transpose()?;
    let listing = {
        // Not held while the answer goes out: its reader may be slow, and others change the tree.
        let tree = store.tree();
        let nodes = tree
            .nodes()
            .filter(|node| image.is_none_or(|image| node.image() == image) && wanted(*node));
        Listing {
            rows: rows(&tree, nodes),
        }
    };
    session.output.answer(&listing)?;
    Ok(Outcome::Done)
}

fn rows(tree: &Tree, nodes: impl Iterator<Item = Node>) -> Vec<Row> {
    let forest = Forest::of(tree);
    let plants = forest.by_node();
    let row = |node| {
        let description = Description::of(tree, &forest, plants.get(&node)?);
        let snapshots = if let Node::Image(image) = node {
            Some(tree.snapshots(image).count() as u64)
        } else {
            None
        };
        Some(Row {
            description,
            snapshots,
        })
    };
    nodes.filter_map(row).collect()
}

impl Answer for Listing {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let columns = [
            Column::text("NAME"),
            Column::number("SIZE"),
            Column::number("OWN DATA"),
            Column::text("MODE"),
            Column::number("SNAPSHOTS"),
            Column::text("CREATED"),
            Column::text("MARKS"),
        ];
        let row = |row: &Row| {
            let description = &row.description;
            vec![
                description.title().to_owned(),
                page.size(description.size),
                page.size(description.own_bytes),
                description.mode.unwrap_or_default().to_owned(),
                row.snapshots
                    .map(|count| count.to_string())
                    .unwrap_or_default(),
                description
                    .created
                    .map(|created| page.moment(created))
                    .unwrap_or_default(),
                description.marks(),
            ]
        };
        let rows: Vec<_> = self.rows.iter().map(row).collect();
        page.table(&columns, &rows)
    }
}
