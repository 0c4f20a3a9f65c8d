//! A picture of the image tree: the same lines as those of the text, from top to bottom, and the
//! bytes that each image and snapshot holds alone and with others.

use std::ops::Range;

use vellum_core::outline::OutlineRow;
use vellum_store::report::{NodeUsage, SpaceReport};

use super::folding::{self, FoldedRow};
use super::number_of;
use super::svg::{HorizontalPosition, Picture, Shapes, percent_of};
use crate::output::Units;
use crate::report::labels::item_title;

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
/// A part of a bar that is less wide, in percent of the width, gets an outline to be seen.
const THIN: f64 = 0.5;
/// Usual letters that a phone has room for, in the first column; each further one costs two.
const NAME_COLUMNS: usize = 31;
const DETAIL_COLUMNS: usize = 26;

const LEGEND: [(&str, &str); 4] = [
    ("alone", "its own"),
    ("lineage", "with parents or children"),
    ("siblings", "with others of its image"),
    ("others", "with other images"),
];

/// The tree while it is drawn: a report, the lines of it that are wanted, and their rows.
struct DrawnTree<'a> {
    report: &'a SpaceReport,
    lines: &'a [OutlineRow],
    units: Units,
    /// The bytes of the node that holds most.
    most: u64,
}

/// The picture of `lines`, which are all lines of the report's outline or a tree of them.
pub(crate) fn draw_node_tree(report: &SpaceReport, lines: Range<usize>, units: Units) -> Picture {
    let tree = DrawnTree {
        report,
        lines: &report.outline[lines.clone()],
        units,
        most: report.nodes.iter().map(held_bytes).max().unwrap_or(0),
    };
    let weights: Vec<_> = tree
        .lines
        .iter()
        .map(|line| tree.line_weight(line))
        .collect();
    let rows = folding::folded_rows(&weights, SHOWN_MAX);
    let tops = row_tops(&rows, tree.lines.len(), FIRST_TOP);
    let mut shapes = Shapes::default();
    shapes.add_legend(0, &LEGEND);
    shapes.add_text(
        "quiet end",
        HorizontalPosition::END,
        FIRST_TOP - 8,
        "deleting it frees",
    );
    let columns = row_columns(&rows, tree.lines);
    tree.draw_links(&mut shapes, lines.start, &tops, &columns);
    let mut bottom = FIRST_TOP;
    for row in &rows {
        bottom += match *row {
            FoldedRow::One(nth) => tree.show_line(&mut shapes, &tree.lines[nth], bottom),
            FoldedRow::Folded(start, end) => {
                tree.show_folded(&mut shapes, &tree.lines[start..end], bottom)
            }
        };
    }
    Picture {
        id: "tree".to_owned(),
        title: "Image tree".to_owned(),
        description: tree.describe(&rows),
        height: bottom,
        shapes,
    }
}

/// Below the legend and the headings.
const FIRST_TOP: u32 = 68;

fn held_bytes(node: &NodeUsage) -> u64 {
    [
        node.shared_lineage,
        node.shared_siblings,
        node.shared_others,
    ]
    .iter()
    .fold(node.exclusive, |sum, more| sum.saturating_add(*more))
}

/// Top and height of the row that each of `count` lines is in.
fn row_tops(rows: &[FoldedRow], count: usize, first: u32) -> Vec<(u32, u32)> {
    let mut tops = vec![(0, 0); count];
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

/// Column of the circle of the row that each line is in.
fn row_columns(rows: &[FoldedRow], lines: &[OutlineRow]) -> Vec<i32> {
    let mut columns = vec![0; lines.len()];
    for row in rows {
        let range = match *row {
            FoldedRow::One(nth) => nth..nth + 1,
            FoldedRow::Folded(start, end) => start..end,
        };
        let depth = lines[range.clone()].iter().map(|line| line.depth).min();
        columns[range].fill(column_x(depth.unwrap_or(0)));
    }
    columns
}

impl DrawnTree<'_> {
    fn node(&self, line: &OutlineRow) -> Option<&NodeUsage> {
        self.report.nodes.get(line.item)
    }

    /// Images before snapshots and bases; among them what holds most alone, then what is longest
    /// in the list.
    fn line_weight(&self, line: &OutlineRow) -> (bool, u64) {
        let Some(node) = self.node(line) else {
            return (false, 0);
        };
        let held = if node.is_snapshot {
            node.exclusive
        } else {
            held_bytes(node)
        };
        (!node.is_snapshot, held)
    }

    /// `2 images, 3 snapshots` among `lines`, of each kind that is there.
    fn count_kinds(&self, lines: &[OutlineRow]) -> String {
        let count = |wanted: &dyn Fn(Option<&NodeUsage>) -> bool| {
            lines.iter().filter(|line| wanted(self.node(line))).count()
        };
        let kinds = [
            (
                count(&|node| node.is_some_and(|node| !node.is_snapshot)),
                "image",
            ),
            (
                count(&|node| node.is_some_and(|node| node.is_snapshot)),
                "snapshot",
            ),
            (count(&|node| node.is_none()), "shared base"),
        ];
        let there = kinds.into_iter().filter(|(count, _)| *count > 0);
        there
            .map(|(count, kind)| number_of(count, kind))
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn describe(&self, rows: &[FoldedRow]) -> String {
        let shown = rows
            .iter()
            .filter(|row| matches!(row, FoldedRow::One(_)))
            .count();
        let folded = match self.lines.len() - shown {
            0 => String::new(),
            folded => format!(" {folded} of them are folded into lines of their own."),
        };
        format!(
            "{}: below each image hang its snapshots, and below those what was made from them; a \
             bar shows the stored bytes that each holds.{folded}",
            self.count_kinds(self.lines)
        )
    }

    /// Draws lines from each to what it hangs from, under everything else. The first of the lines
    /// that are drawn is the report's line `start`.
    fn draw_links(&self, shapes: &mut Shapes, start: usize, tops: &[(u32, u32)], columns: &[i32]) {
        let middle = |nth: usize| tops[nth].0 + if tops[nth].1 == NODE_HEIGHT { 12 } else { 13 };
        let mut drawn = None;
        for (nth, line) in self.lines.iter().enumerate() {
            let Some(above) = line.hangs_from.and_then(|above| above.checked_sub(start)) else {
                continue;
            };
            let (from, to) = ((columns[above], middle(above)), (columns[nth], middle(nth)));
            // Those in one folded row share their lines.
            if from == to || drawn.replace((from, to)) == Some((from, to)) {
                continue;
            }
            shapes.add_line("link", from, (from.0, to.1));
            shapes.add_line("link", (from.0, to.1), to);
        }
    }

    fn show_line(&self, shapes: &mut Shapes, line: &OutlineRow, top: u32) -> u32 {
        let (x, taken) = (column_x(line.depth), 2 * line.depth.min(DEPTH_MAX));
        let node = self.node(line);
        let knot = match node {
            Some(node) if !node.is_snapshot => "knot",
            Some(_) => "knot still",
            None => "knot folded",
        };
        shapes.add_circle(knot, x, top + 12, if node.is_some() { 5 } else { 4 });
        shapes.add_name(
            "",
            HorizontalPosition::at_pixels(x + 12),
            top + 16,
            NAME_COLUMNS - taken,
            &item_title(self.report, line.item),
        );
        shapes.add_name(
            "quiet",
            HorizontalPosition::at_pixels(x + 12),
            top + 32,
            DETAIL_COLUMNS - taken,
            &self.detail(line),
        );
        if let Some(node) = node {
            let freed = self.units.format_bytes(node.exclusive);
            shapes.add_text("end", HorizontalPosition::END, top + 16, &freed);
            draw_bars(shapes, node, top + 23, self.most, self.units);
        }
        NODE_HEIGHT
    }

    /// Kind and length, and what it stands on where the drawing does not show that.
    fn detail(&self, line: &OutlineRow) -> String {
        let (kind, len) = match self.node(line) {
            Some(node) if node.is_snapshot => ("snapshot", node.logical),
            Some(node) => (node.mode, node.logical),
            None => {
                let base = self.report.bases.get(line.item - self.report.nodes.len());
                ("no name", base.map_or(0, |base| base.logical))
            }
        };
        let below = line
            .stands_on
            .and_then(|below| self.report.outline.get(below));
        let on = below
            .filter(|_| line.stands_elsewhere)
            .map(|below| format!(", on {}", item_title(self.report, below.item)));
        format!(
            "{kind}, {}{}",
            self.units.format_bytes(len),
            on.unwrap_or_default()
        )
    }

    fn show_folded(&self, shapes: &mut Shapes, folded: &[OutlineRow], top: u32) -> u32 {
        let x = column_x(folded.iter().map(|line| line.depth).min().unwrap_or(0));
        let alone = folded
            .iter()
            .filter_map(|line| self.node(line))
            .fold(0_u64, |sum, node| sum.saturating_add(node.exclusive));
        shapes.add_circle("knot folded", x, top + 13, 4);
        shapes.add_text(
            "quiet",
            HorizontalPosition::at_pixels(x + 12),
            top + 17,
            &format!("{} more", self.count_kinds(folded)),
        );
        let alone = self.units.format_bytes(alone);
        shapes.add_text("quiet end", HorizontalPosition::END, top + 17, &alone);
        FOLDED_HEIGHT
    }
}

fn column_x(depth: usize) -> i32 {
    let depth = i32::try_from(depth.min(DEPTH_MAX)).expect("it is small");
    MARGIN + STEP * depth
}

/// Draws the bytes that a node holds, in the four ways of holding, to the scale of the node that
/// holds most. What it holds alone is seen however little it is, so it is painted last.
fn draw_bars(shapes: &mut Shapes, node: &NodeUsage, top: u32, most: u64, units: Units) {
    let room = 100.0 - BAR_START;
    let track = HorizontalPosition::at_percent(BAR_START);
    shapes.add_bar("track", track, room, top, 10, "");
    let bytes = [
        node.exclusive,
        node.shared_lineage,
        node.shared_siblings,
        node.shared_others,
    ];
    let mut start = BAR_START;
    let mut segments = Vec::new();
    for ((class, meaning), bytes) in LEGEND.into_iter().zip(bytes) {
        let width = room * percent_of(bytes, most) / 100.0;
        segments.push((class, meaning, bytes, start, width));
        start += width;
    }
    for (class, meaning, bytes, start, width) in segments.into_iter().rev() {
        if bytes == 0 {
            continue;
        }
        let is_thin = class == "alone" && width < THIN;
        let tip = format!("{}, {meaning}: {}", node.name, units.format_bytes(bytes));
        shapes.add_bar(
            if is_thin { "alone thin" } else { class },
            HorizontalPosition::at_percent(start),
            width,
            top,
            10,
            &tip,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn drawn(report: &SpaceReport) -> Vec<String> {
        let title = |line: &OutlineRow| item_title(report, line.item);
        let lines = report.outline.iter();
        lines
            .map(|line| format!("{}{}", "  ".repeat(line.depth), title(line)))
            .collect()
    }

    fn draw_all(report: &SpaceReport) -> Picture {
        draw_node_tree(report, 0..report.outline.len(), Units::Iec)
    }

    #[test]
    fn an_image_carries_its_snapshots_and_they_what_was_made_from_them() {
        let report = sample::report_of(&[
            ("web@a", None),
            ("side", Some(0)),
            ("web@b", Some(0)),
            ("web", Some(2)),
            ("alone", None),
        ]);
        assert_eq!(
            drawn(&report),
            ["web", "  web@a", "    side", "  web@b", "alone"]
        );
    }

    /// Names in a picture stand in their lines' columns, so the links can be read back from it.
    #[test]
    fn a_part_is_drawn_like_the_whole() {
        let report = sample::report_of(&[
            ("alone", None),
            ("web@a", None),
            ("web", Some(1)),
            ("side", Some(1)),
        ]);
        let picture = draw_node_tree(&report, 1..4, Units::Iec).standalone_svg();
        assert!(!picture.contains("alone,"), "{picture}");
        assert!(picture.contains("2 images, 1 snapshot"), "{picture}");
        assert_eq!(picture.matches("class=\"link\"").count(), 4, "{picture}");
    }

    #[test]
    fn a_parent_that_is_none_draws_no_circle() {
        let report = sample::report_of(&[("a", Some(1)), ("b", Some(1)), ("c", Some(99))]);
        assert_eq!(report.outline.len(), 3);
        assert!(draw_all(&report).standalone_svg().contains("3 images"));
    }

    #[test]
    fn ten_thousand_snapshots_are_no_larger_than_what_is_looked_at() {
        let report = sample::large_report(10_000);
        let picture = draw_all(&report);
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
