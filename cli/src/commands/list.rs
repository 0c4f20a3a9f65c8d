//! `vellum list`: images and snapshots, one a line.

use std::io;

use serde::Serialize;
use vellum_core::tree::{NodeForest, NodeRef, Tree};

use super::list_shape::ListShapeArgs;
use crate::command_context::CommandContext;
use crate::description::NodeDescription;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;
use crate::output::Render;
use crate::output::page::TextPage;
use crate::output::table::Column;

/// List images, or one image and its snapshots
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum list --snapshots
  vellum list web --older-than 30d --tag nightly
  vellum list --snapshots -o name,size,added -s added
  vellum list -H -o name,added")]
pub(crate) struct Args {
    /// Only this image, and its snapshots
    image: Option<String>,
    /// Snapshots as well
    #[arg(long)]
    snapshots: bool,
    #[command(flatten)]
    shape: ListShapeArgs,
}

/// The answer is a list also in JSON.
#[derive(Serialize)]
#[serde(transparent)]
struct NodeListing {
    rows: Vec<NodeRow>,
    #[serde(skip)]
    shape: ListShapeArgs,
}

/// One image or snapshot of the list.
#[derive(Serialize)]
pub(super) struct NodeRow {
    #[serde(flatten)]
    pub(super) description: NodeDescription,
    /// The number of an image's snapshots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) snapshots: Option<u64>,
}

pub(super) fn run_list(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let with_snapshots = args.snapshots || args.image.is_some();
    list_nodes(session, args.image.as_deref(), &args.shape, |node| {
        with_snapshots || matches!(node, NodeRef::Image(_))
    })
}

/// Lists the snapshots of `image`, or of all images.
pub(super) fn list_snapshots(
    session: &mut CommandContext,
    image: Option<&str>,
    shape: &ListShapeArgs,
) -> Result<Outcome, CommandFailure> {
    list_nodes(session, image, shape, |node| {
        matches!(node, NodeRef::Snapshot(..))
    })
}

fn list_nodes(
    session: &mut CommandContext,
    image: Option<&str>,
    shape: &ListShapeArgs,
    wanted: impl Fn(NodeRef) -> bool,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_read()?;
    let image = image
        .map(|image| lookup::image_to_read(&store, image))
        .transpose()?;
    let mut listing = {
        // Not held while the answer goes out: its reader may be slow, and others change the tree.
        let tree = store.tree();
        let nodes = tree
            .all_nodes()
            .filter(|node| image.is_none_or(|image| node.image_id() == image) && wanted(*node));
        NodeListing {
            rows: node_rows(&tree, nodes),
            shape: shape.clone(),
        }
    };
    shape.shape_rows(&mut listing.rows, session);
    session.output.print_answer(&listing)?;
    Ok(Outcome::Done)
}

fn node_rows(tree: &Tree, nodes: impl Iterator<Item = NodeRef>) -> Vec<NodeRow> {
    let forest = NodeForest::from_tree(tree);
    let plants = forest.by_node();
    let row = |node| {
        let description = NodeDescription::from_tree_node(tree, &forest, plants.get(&node)?);
        let snapshots = if let NodeRef::Image(image) = node {
            Some(tree.snapshots_of(image).count() as u64)
        } else {
            None
        };
        Some(NodeRow {
            description,
            snapshots,
        })
    };
    nodes.filter_map(row).collect()
}

impl Render for NodeListing {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        if !self.shape.has_usual_columns() {
            return self.shape.render_rows(&self.rows, page);
        }
        let columns = [
            Column::text_column("NAME"),
            Column::number_column("SIZE"),
            Column::number_column("OWN DATA").giving_way(3),
            Column::text_column("MODE").as_whole().giving_way(4),
            Column::number_column("SNAPSHOTS").giving_way(1),
            Column::text_column("CREATED").as_time().giving_way(2),
            Column::text_column("MARKS").as_prose(),
        ];
        let row = |row: &NodeRow| {
            let description = &row.description;
            vec![
                description.display_title(),
                page.format_size(description.size),
                page.format_size(description.own_bytes),
                description.mode.unwrap_or_default().to_owned(),
                row.snapshots
                    .map(|count| count.to_string())
                    .unwrap_or_default(),
                description
                    .created
                    .map(|created| page.format_minute(created))
                    .unwrap_or_default(),
                description.pin_and_tags(),
            ]
        };
        let rows: Vec<_> = self.rows.iter().map(row).collect();
        page.write_table(&columns, &rows)
    }
}
