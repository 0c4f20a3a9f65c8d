//! `vellum tree`: what was made from what.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use serde::Serialize;
use vellum_core::outline::{self, OutlineRow};
use vellum_core::tree::{NodeForest, NodeRef, Tree, TreeNode};
use vellum_core::units::{ImageId, LayerId};
use vellum_manager::{NodeKind, TreeLine};
use vellum_store::Store;

use super::report;
use crate::command_context::CommandContext;
use crate::description::NodeDescription;
use crate::failure::{CommandFailure, Outcome};
use crate::forest::{self, LineKind, TreeLetters};
use crate::output::Render;
use crate::output::page::TextPage;
use crate::output::table::Column;

/// Draw what was made from what, and what each adds
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum tree
  vellum tree web@monday
  vellum tree --svg tree.svg

Below an image (○) hang its snapshots (●) in the order of taking, and below each what was made \
from it. What several still share although it has no name, or none any more, is a base (◌) in \
the place where it was made. STANDS ON tells of an image with snapshots on which of them its \
present state stands; of others what the drawing does not show: a snapshot that is not made from \
the one before it. ADDED is what was new in it, after compression. Locales without UTF-8 get o, \
* and a dot.

A narrow terminal has no room for all columns: OWN DATA goes first, then ADDED, CREATED and SIZE. \
JSON has all: of each line what `list` tells, machines, attached (a guest has it), added_bytes; a \
base has an id, which is the parent of what stands on it, and shared_by. A picture tells as well \
what each holds alone and with others: that is counted first.")]
pub(crate) struct Args {
    /// Only the tree in which this is
    #[arg(value_name = "IMAGE[@SNAPSHOT]")]
    node: Option<String>,
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
    #[serde(skip)]
    letters: TreeLetters,
}

#[derive(Serialize)]
struct NodeLine {
    #[serde(flatten)]
    description: NodeDescription,
    /// Compressed bytes of the chunks that were new in it, if that was noted.
    #[serde(skip_serializing_if = "Option::is_none")]
    added_bytes: Option<u64>,
    /// The machines that have it among their disks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    machines: Vec<String>,
    /// True if somebody has it open for writing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    attached: bool,
    /// The line in the drawing.
    #[serde(skip)]
    row: OutlineRow,
    /// True if it tells what it stands on.
    #[serde(skip)]
    tells_parent: bool,
}

/// Facts about a store beside its tree.
struct BesideTree {
    added: HashMap<LayerId, u64>,
    attached: BTreeSet<ImageId>,
}

pub(super) fn run_tree(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    if let Some(file) = &args.svg {
        return report::tree_file(file, args.node.as_deref(), args.force, session);
    }
    let store = session.open_to_read()?;
    let node = args
        .node
        .as_deref()
        .map(|node| store.find_node(node))
        .transpose()?;
    let beside = BesideTree::of_store(&store);
    let letters = TreeLetters::of_caller(&session.caller);
    let drawing = draw_tree(&store.tree(), node, &beside, letters);
    session.output.print_answer(&drawing)?;
    Ok(Outcome::Done)
}

impl BesideTree {
    /// A usage history that cannot be read is no reason to draw nothing.
    fn of_store(store: &Store) -> Self {
        Self {
            added: store.added_bytes().unwrap_or_default(),
            attached: store.attached_images(),
        }
    }

    fn added_bytes(&self, tree: &Tree, plant: &TreeNode) -> Option<u64> {
        let layers = tree.chain_from(plant.layer).take(plant.layers);
        let noted = layers.filter_map(|layer| self.added.get(&layer.id));
        noted.fold(None, |sum, added| Some(sum.unwrap_or(0) + added))
    }
}

fn draw_tree(
    tree: &Tree,
    node: Option<NodeRef>,
    beside: &BesideTree,
    letters: TreeLetters,
) -> TreeDrawing {
    let forest = NodeForest::from_tree(tree);
    let rows = forest.outline(tree);
    let wanted = node.map_or(0..rows.len(), |node| {
        let is_it = |row: &OutlineRow| forest.plants[row.item].node == Some(node);
        rows.iter()
            .position(is_it)
            .map_or(0..0, |row| outline::tree_around(&rows, row))
    });
    let lines = rows[wanted.clone()].iter().map(|row| {
        let plant = &forest.plants[row.item];
        NodeLine {
            description: NodeDescription::from_tree_node(tree, &forest, plant),
            added_bytes: beside.added_bytes(tree, plant),
            machines: machines_using(tree, plant),
            attached: is_attached(beside, plant),
            row: shifted_row(row, &wanted),
            tells_parent: tells_parent(tree, plant, row),
        }
    });
    TreeDrawing {
        lines: lines.collect(),
        letters,
    }
}

/// `row` as it is called if only the `wanted` ones are drawn.
fn shifted_row(row: &OutlineRow, wanted: &Range<usize>) -> OutlineRow {
    let shift = |other: usize| other.checked_sub(wanted.start);
    OutlineRow {
        hangs_from: row.hangs_from.and_then(shift),
        stands_on: row
            .stands_on
            .filter(|row| wanted.contains(row))
            .and_then(shift),
        ..*row
    }
}

/// All lines, for the page that shows them live.
pub(crate) fn manager_lines(store: &Store) -> Vec<TreeLine> {
    let beside = BesideTree::of_store(store);
    let drawing = draw_tree(&store.tree(), None, &beside, TreeLetters::Unicode);
    drawing
        .lines
        .into_iter()
        .map(NodeLine::into_tree_line)
        .collect()
}

fn tells_parent(tree: &Tree, plant: &TreeNode, row: &OutlineRow) -> bool {
    let has_snapshots = matches!(plant.node, Some(NodeRef::Image(image))
        if tree.snapshots_of(image).next().is_some());
    row.stands_elsewhere || has_snapshots || forest::is_beyond_columns(row)
}

fn machines_using(tree: &Tree, plant: &TreeNode) -> Vec<String> {
    let Some(NodeRef::Image(image)) = plant.node else {
        return Vec::new();
    };
    let machines = tree.machines().machines_using(image);
    machines.map(|machine| machine.name.to_string()).collect()
}

fn is_attached(beside: &BesideTree, plant: &TreeNode) -> bool {
    matches!(plant.node, Some(NodeRef::Image(image)) if beside.attached.contains(&image))
}

impl NodeLine {
    fn into_tree_line(self) -> TreeLine {
        let title = self.description.display_title();
        let description = self.description;
        TreeLine {
            kind: match description.line_kind() {
                LineKind::Image => NodeKind::Image,
                LineKind::Snapshot => NodeKind::Snapshot,
                LineKind::Base => NodeKind::Base,
            },
            key: description.name.or(description.id).unwrap_or_default(),
            title,
            depth: self.row.depth,
            hangs_from: self.row.hangs_from,
            size: description.size,
            own_bytes: description.own_bytes,
            added_bytes: self.added_bytes,
            created_ms: description.created.map(|created| created.since_1970_ms),
            mode: description.mode,
            stands_on: description.stands_on.filter(|_| self.tells_parent),
            tags: description.tags,
            is_pinned: description.pinned,
            is_attached: self.attached,
            machines: self.machines,
        }
    }

    /// Mode, use, machines, pin and tags, in one cell.
    fn marks(&self) -> String {
        let mode = self.description.mode.filter(|mode| *mode != "normal");
        let attached = self.attached.then_some("in use");
        let machines = self.machines.iter().map(|machine| format!("in {machine}"));
        mode.into_iter()
            .chain(attached)
            .map(str::to_owned)
            .chain(machines)
            .chain(Some(self.description.pin_and_tags()).filter(|marks| !marks.is_empty()))
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn cells(&self, page: &TextPage) -> Vec<String> {
        let description = &self.description;
        let stands_on = description.stands_on.clone().filter(|_| self.tells_parent);
        let created = description
            .created
            .map(|created| page.format_minute(created));
        vec![
            description.display_title(),
            page.format_size(description.size),
            page.format_size(description.own_bytes),
            self.added_bytes
                .map(|added| page.format_size(added))
                .unwrap_or_default(),
            created.unwrap_or_default(),
            stands_on.unwrap_or_else(|| {
                let is_lost = self.tells_parent && self.row.stands_elsewhere;
                if is_lost { "nothing" } else { "" }.to_owned()
            }),
            self.marks(),
        ]
    }
}

impl Render for TreeDrawing {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let columns = [
            Column::text_column("NAME"),
            Column::number_column("SIZE").giving_way(4),
            Column::number_column("OWN DATA").giving_way(1),
            Column::number_column("ADDED").giving_way(2),
            Column::text_column("CREATED").as_time().giving_way(3),
            Column::text_column("STANDS ON"),
            Column::text_column("MARKS").as_prose(),
        ];
        let drawn = self.lines.iter();
        let drawn: Vec<_> = drawn
            .map(|line| (line.row, line.description.line_kind()))
            .collect();
        let leads = self.letters.draw_leads(&drawn);
        let rows: Vec<_> = self.lines.iter().map(|line| line.cells(page)).collect();
        page.write_tree_table(&columns, &leads, &rows)
    }
}
