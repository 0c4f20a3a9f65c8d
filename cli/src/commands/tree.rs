//! `vellum tree`: which image or snapshot stands on which.

use std::io;
use std::path::PathBuf;

use serde::Serialize;
use vellum_core::tree::Tree;

use super::report;
use crate::description::Description;
use crate::failure::{Failure, Outcome};
use crate::forest::Forest;
use crate::output::Answer;
use crate::output::page::Page;
use crate::output::table::Column;
use crate::session::Session;

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
struct Drawing {
    lines: Vec<DrawnLine>,
}

#[derive(Serialize)]
struct DrawnLine {
    #[serde(flatten)]
    description: Description,
    /// The lines and spaces before the name.
    #[serde(skip)]
    lead: String,
    /// True if it has no parent.
    #[serde(skip)]
    is_root: bool,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    if let Some(file) = &args.svg {
        return report::tree_file(file, args.force, session);
    }
    let store = session.open_to_read()?;
    let drawing = draw(&store.tree());
    session.output.answer(&drawing)?;
    Ok(Outcome::Done)
}

fn draw(tree: &Tree) -> Drawing {
    let forest = Forest::of(tree);
    let lines = forest.lines(tree).into_iter().map(|line| DrawnLine {
        description: Description::of(tree, &forest, &forest.plants[line.plant]),
        lead: line.lead,
        is_root: line.is_root,
    });
    Drawing {
        lines: lines.collect(),
    }
}

impl Answer for Drawing {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let columns = [
            Column::text("NAME"),
            Column::number("SIZE"),
            Column::number("OWN DATA"),
            Column::text("MODE"),
            Column::text("MARKS"),
        ];
        let row = |line: &DrawnLine| {
            let description = &line.description;
            vec![
                format!("{}{} {}", line.lead, mark(line), description.title()),
                page.size(description.size),
                page.size(description.own_bytes),
                description.mode.unwrap_or_default().to_owned(),
                description.marks(),
            ]
        };
        let rows: Vec<_> = self.lines.iter().map(row).collect();
        page.table(&columns, &rows)
    }
}

/// Roots begin a tree, images can be written, snapshots keep still.
fn mark(line: &DrawnLine) -> &'static str {
    match (line.description.kind, line.is_root) {
        ("image", true) => "◇",
        ("image", false) => "○",
        (_, true) => "◆",
        (_, false) => "●",
    }
}
