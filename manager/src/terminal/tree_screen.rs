//! The tree and the details of a node, drawn.

use super::look::ScreenLook;
use super::model::{ScreenPart, TerminalModel};
use super::screen::{CellPainter, draw_rows, first_row};
use crate::operations::{NodeKind, TreeLine};
use crate::tree_view::{ShownLine, TreeOrder};

/// Columns that a tree's lines are indented by for each level, and the deepest level that is.
const INDENT: usize = 2;
const DEPTH_MAX: usize = 10;
const SIZE_WIDTH: u16 = 10;
const TIME_WIDTH: u16 = 17;
/// The widths from which further columns are shown.
const WITH_TIME: u16 = 62;
const WITH_ADDED: u16 = 95;

impl TerminalModel {
    pub(super) fn draw_tree(&self, painter: &mut CellPainter<'_>, part: ScreenPart) {
        let columns = TreeColumns::of_width(part);
        self.draw_head(painter, part, &columns);
        let height = usize::from(part.height.saturating_sub(1));
        if self.shown.is_empty() {
            let text = if self.lines.is_empty() {
                "The store is empty. i imports a disk, n makes a new image."
            } else {
                "Nothing has that in its name, tags or machines."
            };
            painter.put(
                part.x + 2,
                part.y + 1,
                part.width - 2,
                text,
                ScreenLook::plain(),
            );
        }
        let first = first_row(self.view.cursor, self.shown.len(), height);
        let window = self.shown.iter().enumerate().skip(first).take(height);
        for (row, (nth, shown)) in window.enumerate() {
            let y = part.y + 1 + row as u16;
            self.draw_line(painter, part, &columns, y, *shown, nth == self.view.cursor);
        }
    }

    fn draw_head(&self, painter: &mut CellPainter<'_>, part: ScreenPart, columns: &TreeColumns) {
        let wish = &self.view.wish;
        let title = |order: TreeOrder, title: &str| {
            let arrow = match (wish.order == order, wish.is_reversed) {
                (true, false) => " ↓",
                (true, true) => " ↑",
                (false, _) => "",
            };
            format!("{title}{arrow}")
        };
        let style = ScreenLook::strong();
        let mut name = title(TreeOrder::Name, "Name");
        if !wish.search.is_empty() {
            name = format!("{name}  /{}", wish.search);
        }
        painter.put(part.x + 2, part.y, columns.name_width, &name, style);
        for (order, text, end, width) in [
            (TreeOrder::Size, "Size", columns.size_end, SIZE_WIDTH),
            (TreeOrder::Own, "Own data", columns.own_end, SIZE_WIDTH),
            (TreeOrder::Growth, "Added", columns.added_end, SIZE_WIDTH),
            (TreeOrder::Age, "Created", columns.time_end, TIME_WIDTH),
        ] {
            if let Some(end) = end {
                painter.put_right(end, part.y, width, &title(order, text), style);
            }
        }
    }

    fn draw_line(
        &self,
        painter: &mut CellPainter<'_>,
        part: ScreenPart,
        columns: &TreeColumns,
        y: u16,
        shown: ShownLine,
        is_cursor: bool,
    ) {
        let Some(line) = self.lines.get(shown.line) else {
            return;
        };
        let look = self.look;
        let style = match (is_cursor, line.kind) {
            (true, _) => ScreenLook::bar(),
            _ if !shown.is_match => ScreenLook::faint(),
            (false, NodeKind::Snapshot) => look.snapshot(),
            (false, _) => ScreenLook::plain(),
        };
        if is_cursor {
            painter.fill_row(part, y, style);
        }
        let edge = match (is_cursor, self.view.marked.contains(&line.key)) {
            (true, true) => ">*",
            (true, false) => "> ",
            (false, true) => " *",
            (false, false) => "  ",
        };
        painter.put(part.x, y, 2, edge, style);
        let name = self.line_text(line, shown);
        painter.put(part.x + 2, y, columns.name_width, &name, style);
        let bytes = |bytes| (self.words.format_bytes)(bytes);
        let added = line.added_bytes.map(bytes).unwrap_or_default();
        let time = line.created_ms.map(|ms| (self.words.format_time)(ms));
        for (text, end, width) in [
            (bytes(line.size), columns.size_end, SIZE_WIDTH),
            (bytes(line.own_bytes), columns.own_end, SIZE_WIDTH),
            (added, columns.added_end, SIZE_WIDTH),
            (time.unwrap_or_default(), columns.time_end, TIME_WIDTH),
        ] {
            if let Some(end) = end {
                painter.put_right(end, y, width, &text, style);
            }
        }
    }

    /// The signs, the name and the marks of a line.
    fn line_text(&self, line: &TreeLine, shown: ShownLine) -> String {
        let indent = " ".repeat(INDENT * shown.depth.min(DEPTH_MAX));
        let branch = self.look.branch_sign(shown.has_branch, shown.is_closed);
        let sign = self.look.node_sign(line.kind);
        let mut text = format!("{indent}{branch} {sign} {}", line.title);
        let mut push = |mark: &str| {
            text.push_str("  ");
            text.push_str(mark);
        };
        if line.is_attached {
            push("in use");
        }
        if let Some(mode) = line.mode.filter(|mode| *mode != "normal") {
            push(mode);
        }
        line.machines
            .iter()
            .for_each(|machine| push(&format!("in {machine}")));
        if line.is_pinned {
            push("pinned");
        }
        line.tags.iter().for_each(|tag| push(&format!("+{tag}")));
        if let Some(stands_on) = &line.stands_on {
            push(&format!("on {stands_on}"));
        }
        if shown.depth > DEPTH_MAX {
            push(&format!("level {}", shown.depth + 1));
        }
        text
    }

    pub(super) fn draw_details(
        &self,
        painter: &mut CellPainter<'_>,
        main: ScreenPart,
        part: ScreenPart,
    ) {
        let look = self.look;
        if part.x > 0 {
            for y in part.y..part.y + part.height {
                painter.put(part.x - 1, y, 1, look.side_sign(), ScreenLook::faint());
            }
        } else if !self.view.is_zoomed {
            let y = main.y + main.height;
            let rule = look.rule_sign().repeat(part.width.into());
            painter.put(part.x, y, part.width, &rule, ScreenLook::faint());
            let focus = if self.view.is_in_details {
                " details (keys are here) "
            } else {
                " details "
            };
            painter.put(part.x + 2, y, part.width - 2, focus, ScreenLook::strong());
        }
        let lines = self.detail_lines();
        draw_rows(painter, part, &lines, self.view.details_top, None);
        let left = lines
            .len()
            .saturating_sub(self.view.details_top + usize::from(part.height));
        if left > 0 {
            let more = format!(" {left} more ");
            let y = part.y + part.height - 1;
            painter.put_right(
                part.x + part.width,
                y,
                part.width,
                &more,
                ScreenLook::faint(),
            );
        }
    }
}

/// The columns of the tree: where each of them ends, if it is shown.
struct TreeColumns {
    name_width: u16,
    size_end: Option<u16>,
    own_end: Option<u16>,
    added_end: Option<u16>,
    time_end: Option<u16>,
}

impl TreeColumns {
    fn of_width(part: ScreenPart) -> Self {
        let mut end = part.x + part.width - 1;
        let mut column = |is_shown: bool, width: u16| {
            let own = is_shown.then_some(end);
            if is_shown {
                end -= width;
            }
            own
        };
        let time_end = column(part.width >= WITH_TIME, TIME_WIDTH);
        let added_end = column(part.width >= WITH_ADDED, SIZE_WIDTH);
        let own_end = column(true, SIZE_WIDTH);
        let size_end = column(true, SIZE_WIDTH);
        Self {
            name_width: end.saturating_sub(part.x + 3),
            size_end,
            own_end,
            added_end,
            time_end,
        }
    }
}
