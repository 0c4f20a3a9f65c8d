//! `vellum tree`: which image or snapshot stands on which.

use std::io;
use std::path::PathBuf;

use serde::Serialize;
use vellum_core::tree::Tree;

use super::report;
use crate::command_context::CommandContext;
use crate::description::NodeDescription;
use crate::failure::{CommandFailure, Outcome};
use crate::forest::NodeForest;
use crate::output::Render;
use crate::output::page::TextPage;
use crate::output::table::Column;

/// Draw which image or snapshot stands on which, and what each adds
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum tree
  vellum tree --svg tree.svg

Each line stands on the one above it in its column, an indented one on the line its branch leaves. \
◆ and ◇ begin a tree; ◆ and ● are snapshots, ◇ and ○ images. A picture tells as well what each \
holds alone and with others, after compression: that is counted first.")]
pub(crate) struct Args {
    /// Draw a picture instead, as SVG; - is standard output
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Replace a picture that is there
    #[arg(long, requires = "svg")]
    force: bool,
}

#[derive(Serialize)]
#[serde(transparent)]
struct TreeDrawing {
    lines: Vec<NodeLine>,
}

#[derive(Serialize)]
struct NodeLine {
    #[serde(flatten)]
    description: NodeDescription,
    /// The lines and spaces before the name.
    #[serde(skip)]
    lead: String,
    /// True if it has no parent.
    #[serde(skip)]
    is_root: bool,
}

pub(super) fn run_tree(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    if let Some(file) = &args.svg {
        return report::tree_file(file, args.force, session);
    }
    let store = session.open_to_read()?;
    let drawing = draw_tree(&store.tree());
    session.output.print_answer(&drawing)?;
    Ok(Outcome::Done)
}

fn draw_tree(tree: &Tree) -> TreeDrawing {
    let forest = NodeForest::from_tree(tree);
    let lines = forest.drawn_lines(tree).into_iter().map(|line| NodeLine {
        description: NodeDescription::from_tree_node(tree, &forest, &forest.plants[line.plant]),
        lead: line.lead,
        is_root: line.is_root,
    });
    TreeDrawing {
        lines: lines.collect(),
    }
}

impl Render for TreeDrawing {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let columns = [
            Column::text_column("NAME"),
            Column::number_column("SIZE"),
            Column::number_column("OWN DATA"),
            Column::text_column("MODE"),
            Column::text_column("MARKS"),
        ];
        let row = |line: &NodeLine| {
            let description = &line.description;
            vec![
                format!(
                    "{}{} {}",
                    line.lead,
                    node_mark(line),
                    description.display_title()
                ),
                page.format_size(description.size),
                page.format_size(description.own_bytes),
                description.mode.unwrap_or_default().to_owned(),
                description.pin_and_tags(),
            ]
        };
        let rows: Vec<_> = self.lines.iter().map(row).collect();
        page.write_table(&columns, &rows)
    }
}

/// Roots begin a tree, images can be written, snapshots keep still.
fn node_mark(line: &NodeLine) -> &'static str {
    match (line.description.kind, line.is_root) {
        ("image", true) => "◇",
        ("image", false) => "○",
        (_, true) => "◆",
        (_, false) => "●",
    }
}
