//! A picture of the image tree: the origin of each image, which of them are written to, and the
//! bytes that each holds alone and with others.
//!
//! An image stays in the column of its snapshots, so that a thousand of them are no wider than one;
//! an image that was made from one of them leaves the column to the right.

use std::collections::BTreeMap;

use vellum_store::report::NodeUsage;

use super::folding::{self, FoldedRow};
use super::number_of;
use super::svg::{HorizontalPosition, Picture, Shapes, percent_of};
use crate::output::Units;

/// Images and snapshots that are drawn one by one: about three screens.
const SHOWN_MAX: usize = 48;
/// Columns of branches; deeper ones stand in the last. A phone has no room for more beside the
/// names.
const DEPTH_MAX: usize = 5;
/// Pixels from one column to the next.
const STEP: i32 = 14;
/// Pixels from the left to the middle of the first column.
const MARGIN: i32 = 8;
const NODE_HEIGHT: u32 = 40;
const FOLDED_HEIGHT: u32 = 26;
/// The place where bars begin, in percent of the width.
const BAR_START: f64 = 60.0;
/// Usual letters that a phone has room for, in the first column; each further one costs two.
const NAME_COLUMNS: usize = 31;
const DETAIL_COLUMNS: usize = 26;

const LEGEND: [(&str, &str); 4] = [
    ("alone", "it alone holds"),
    ("lineage", "with its lineage"),
    ("siblings", "with others of its image"),
    ("others", "with other images"),
];

/// A node in the tree, in the order of drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NodePosition {
    node: usize,
    depth: usize,
    /// True if it goes on in the column of its parent.
    is_trunk: bool,
}

/// The picture of `nodes`, which are parents before children.
pub(crate) fn draw_node_tree(nodes: &[NodeUsage], units: Units) -> Picture {
    let places = node_positions(nodes);
    let weights: Vec<_> = places
        .iter()
        .map(|place| node_weight(&nodes[place.node]))
        .collect();
    let rows = folding::folded_rows(&weights, SHOWN_MAX);
    let tops = row_tops(&rows, &places, FIRST_TOP);
    let mut shapes = Shapes::default();
    shapes.add_legend(0, &LEGEND);
    shapes.add_text(
        "quiet end",
        HorizontalPosition::END,
        FIRST_TOP - 8,
        "deleting it frees",
    );
    draw_links(&mut shapes, nodes, &places, &tops);
    let most = nodes.iter().map(held_bytes).max().unwrap_or(0);
    let mut bottom = FIRST_TOP;
    for row in &rows {
        bottom += match *row {
            FoldedRow::One(nth) => show_node(
                &mut shapes,
                &nodes[places[nth].node],
                places[nth],
                bottom,
                most,
                units,
            ),
            FoldedRow::Folded(start, end) => {
                show_folded(&mut shapes, nodes, &places[start..end], bottom, units)
            }
        };
    }
    Picture {
        id: "tree".to_owned(),
        title: "Image tree".to_owned(),
        description: describe_tree(nodes, &rows),
        height: bottom,
        shapes,
    }
}

/// Below the legend and the headings.
const FIRST_TOP: u32 = 68;

fn describe_tree(nodes: &[NodeUsage], rows: &[FoldedRow]) -> String {
    let snapshots = nodes.iter().filter(|node| node.is_snapshot).count();
    let shown = rows
        .iter()
        .filter(|row| matches!(row, FoldedRow::One(_)))
        .count();
    let counts = format!(
        "{} and {}",
        number_of(nodes.len() - snapshots, "image"),
        number_of(snapshots, "snapshot")
    );
    let folded = match nodes.len() - shown {
        0 => String::new(),
        folded => format!(" {folded} of them are folded into lines of their own."),
    };
    format!(
        "{counts}: a line goes from each to what was made from it, and a bar shows the stored \
         bytes that it holds.{folded}"
    )
}

/// Images before snapshots; among them what holds most alone, then what is longest in the list.
fn node_weight(node: &NodeUsage) -> (bool, u64) {
    (
        !node.is_snapshot,
        if node.is_snapshot {
            node.exclusive
        } else {
            held_bytes(node)
        },
    )
}

fn held_bytes(node: &NodeUsage) -> u64 {
    [
        node.shared_lineage,
        node.shared_siblings,
        node.shared_others,
    ]
    .iter()
    .fold(node.exclusive, |sum, more| sum.saturating_add(*more))
}

/// The nodes in the order of drawing.
fn node_positions(nodes: &[NodeUsage]) -> Vec<NodePosition> {
    let mut children: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
    for (nth, node) in nodes.iter().enumerate() {
        // A node that does not stand before it in the list cannot be its parent: no circle,
        // whatever the figures say.
        children
            .entry(node.parent.filter(|parent| *parent < nth))
            .or_default()
            .push(nth);
    }
    let roots = children.remove(&None).unwrap_or_default();
    let mut waiting: Vec<NodePosition> = roots
        .into_iter()
        .rev()
        .map(|node| NodePosition {
            node,
            depth: 0,
            is_trunk: false,
        })
        .collect();
    let mut places = Vec::with_capacity(nodes.len());
    while let Some(place) = waiting.pop() {
        places.push(place);
        let Some(children) = children.remove(&Some(place.node)) else {
            continue;
        };
        let trunk = trunk_child(nodes, place.node, &children);
        waiting.extend(trunk.map(|node| NodePosition {
            node,
            depth: place.depth,
            is_trunk: true,
        }));
        let branches = children
            .into_iter()
            .rev()
            .filter(|child| Some(*child) != trunk);
        waiting.extend(branches.map(|node| NodePosition {
            node,
            depth: place.depth + 1,
            is_trunk: false,
        }));
    }
    places
}

/// The child that goes on in the column: the last of the same image, else the last of all.
fn trunk_child(nodes: &[NodeUsage], parent: usize, children: &[usize]) -> Option<usize> {
    let image = |node: usize| image_of(&nodes[node].name);
    let same = children
        .iter()
        .rev()
        .find(|child| image(**child) == image(parent));
    same.or(children.last()).copied()
}

fn image_of(name: &str) -> &str {
    name.split_once('@').map_or(name, |(image, _)| image)
}

/// The top of each place's row, by place.
fn row_tops(rows: &[FoldedRow], places: &[NodePosition], first: u32) -> Vec<(u32, u32)> {
    let mut tops = vec![(0, 0); places.len()];
    let mut top = first;
    for row in rows {
        let (range, height) = match *row {
            FoldedRow::One(nth) => (nth..nth + 1, NODE_HEIGHT),
            FoldedRow::Folded(start, end) => (start..end, FOLDED_HEIGHT),
        };
        tops[range].fill((top, height));
        top += height;
    }
    tops
}

/// Lines from each thing to what it was made from, under everything else.
fn draw_links(
    shapes: &mut Shapes,
    nodes: &[NodeUsage],
    places: &[NodePosition],
    tops: &[(u32, u32)],
) {
    let mut place_of = vec![0; nodes.len()];
    places
        .iter()
        .enumerate()
        .for_each(|(nth, place)| place_of[place.node] = nth);
    let middle = |nth: usize| tops[nth].0 + if tops[nth].1 == NODE_HEIGHT { 12 } else { 13 };
    let mut drawn = None;
    for (nth, place) in places.iter().enumerate() {
        let Some(parent) = nodes[place.node]
            .parent
            .filter(|parent| *parent < place.node)
        else {
            continue;
        };
        let parent = place_of[parent];
        let (from, to) = (
            (column_x(places[parent].depth), middle(parent)),
            (column_x(place.depth), middle(nth)),
        );
        // Those in one folded row share their lines.
        if from == to || drawn.replace((from, to)) == Some((from, to)) {
            continue;
        }
        shapes.add_line("link", from, (from.0, to.1));
        if !place.is_trunk {
            shapes.add_line("link", (from.0, to.1), to);
        }
    }
}

fn column_x(depth: usize) -> i32 {
    let depth = i32::try_from(depth.min(DEPTH_MAX)).expect("it is small");
    MARGIN + STEP * depth
}

fn show_node(
    shapes: &mut Shapes,
    node: &NodeUsage,
    place: NodePosition,
    top: u32,
    most: u64,
    units: Units,
) -> u32 {
    let (x, taken) = (column_x(place.depth), 2 * place.depth.min(DEPTH_MAX));
    shapes.add_circle(
        if node.is_snapshot {
            "knot still"
        } else {
            "knot"
        },
        x,
        top + 12,
        5,
    );
    shapes.add_name(
        "",
        HorizontalPosition::at_pixels(x + 12),
        top + 16,
        NAME_COLUMNS - taken,
        &node.name,
    );
    shapes.add_text(
        "end",
        HorizontalPosition::END,
        top + 16,
        &units.format_bytes(node.exclusive),
    );
    let kind = if node.is_snapshot {
        "snapshot"
    } else {
        node.mode
    };
    let detail = format!("{kind}, {}", units.format_bytes(node.logical));
    shapes.add_name(
        "quiet",
        HorizontalPosition::at_pixels(x + 12),
        top + 32,
        DETAIL_COLUMNS - taken,
        &detail,
    );
    draw_bars(shapes, node, top + 23, most, units);
    NODE_HEIGHT
}

/// Draws the bytes that a node holds, in the four ways of holding, to the scale of the node that
/// holds most.
fn draw_bars(shapes: &mut Shapes, node: &NodeUsage, top: u32, most: u64, units: Units) {
    let room = 100.0 - BAR_START;
    shapes.add_bar(
        "track",
        HorizontalPosition::at_percent(BAR_START),
        room,
        top,
        10,
        "",
    );
    let mut start = BAR_START;
    let parts = [
        node.exclusive,
        node.shared_lineage,
        node.shared_siblings,
        node.shared_others,
    ];
    for ((class, meaning), bytes) in LEGEND.into_iter().zip(parts) {
        let width = room * percent_of(bytes, most) / 100.0;
        if bytes > 0 {
            shapes.add_bar(
                class,
                HorizontalPosition::at_percent(start),
                width,
                top,
                10,
                &format!("{}, {meaning}: {}", node.name, units.format_bytes(bytes)),
            );
        }
        start += width;
    }
}

fn show_folded(
    shapes: &mut Shapes,
    nodes: &[NodeUsage],
    folded: &[NodePosition],
    top: u32,
    units: Units,
) -> u32 {
    let x = column_x(folded.iter().map(|place| place.depth).min().unwrap_or(0));
    let snapshots = folded
        .iter()
        .filter(|place| nodes[place.node].is_snapshot)
        .count();
    let images = folded.len() - snapshots;
    let counts = [(snapshots, "snapshot"), (images, "image")]
        .into_iter()
        .filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts.map(|(count, what)| number_of(count, what)).collect();
    let alone = folded.iter().fold(0_u64, |sum, place| {
        sum.saturating_add(nodes[place.node].exclusive)
    });
    shapes.add_circle("knot folded", x, top + 13, 4);
    shapes.add_text(
        "quiet",
        HorizontalPosition::at_pixels(x + 12),
        top + 17,
        &format!("{} more", counts.join(", ")),
    );
    shapes.add_text(
        "quiet end",
        HorizontalPosition::END,
        top + 17,
        &units.format_bytes(alone),
    );
    FOLDED_HEIGHT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn drawn(nodes: &[NodeUsage]) -> Vec<String> {
        node_positions(nodes)
            .iter()
            .map(|place| format!("{}{}", "  ".repeat(place.depth), nodes[place.node].name))
            .collect()
    }

    #[test]
    fn an_image_goes_on_in_the_column_of_its_snapshots() {
        let nodes = sample::sample_nodes(&[
            ("web@a", None),
            ("side", Some(0)),
            ("web@b", Some(0)),
            ("web", Some(2)),
            ("alone", None),
        ]);
        assert_eq!(drawn(&nodes), ["web@a", "  side", "web@b", "web", "alone"]);
    }

    #[test]
    fn a_parent_that_is_none_draws_no_circle() {
        let nodes = sample::sample_nodes(&[("a", Some(1)), ("b", Some(1)), ("c", Some(99))]);
        assert_eq!(drawn(&nodes), ["a", "b", "c"]);
        assert!(
            draw_node_tree(&nodes, Units::Iec)
                .standalone_svg()
                .contains("3 images and 0 snapshots")
        );
    }

    #[test]
    fn ten_thousand_snapshots_are_no_larger_than_what_is_looked_at() {
        let report = sample::large_report(10_000);
        let picture = draw_node_tree(&report.nodes, Units::Iec);
        assert!(picture.height < 100 * NODE_HEIGHT, "{}", picture.height);
        assert!(
            picture.standalone_svg().len() < 100 << 10,
            "{}",
            picture.standalone_svg().len()
        );
        assert!(
            picture.description.contains("are folded"),
            "{}",
            picture.description
        );
    }
}
