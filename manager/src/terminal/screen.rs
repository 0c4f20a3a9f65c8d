//! The screen: bars, the tree, the details, pages and dialogs as cells. It shows the state, and
//! changes nothing.

use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;
use ratatui_core::style::Style;
use ratatui_core::text::Span;

use super::key_table::{KeyScope, ScreenPage};
use super::look::ScreenLook;
use super::model::{MessageKind, SMALLEST, ScreenDialog, ScreenPart, TerminalModel};
use super::page_row::PageRow;

/// Writes into the cells of a part of the screen.
pub(super) struct CellPainter<'b> {
    pub(super) buffer: &'b mut Buffer,
    pub(super) look: ScreenLook,
}

impl CellPainter<'_> {
    /// Writes `text` into `width` columns, cut if it is longer.
    pub(super) fn put(&mut self, x: u16, y: u16, width: u16, text: &str, style: Style) {
        let area = *self.buffer.area();
        if y >= area.bottom() || x >= area.right() {
            return;
        }
        let width = usize::from(width.min(area.right() - x));
        let text = self.look.shown_text(text);
        let (end, _) = self.buffer.set_stringn(x, y, &text, width, style);
        if width > 0 && text_width(&text) > width {
            let last = end.clamp(x + 1, x + width as u16) - 1;
            self.buffer
                .set_stringn(last, y, self.look.cut_sign(), 1, style);
        }
    }

    pub(super) fn put_right(&mut self, end: u16, y: u16, width: u16, text: &str, style: Style) {
        let len = (text_width(text) as u16).min(width);
        self.put(end.saturating_sub(len), y, len, text, style);
    }

    pub(super) fn fill_row(&mut self, part: ScreenPart, y: u16, style: Style) {
        let blanks = " ".repeat(part.width.into());
        self.put(part.x, y, part.width, &blanks, style);
    }
}

pub(super) fn text_width(text: &str) -> usize {
    Span::raw(text).width()
}

/// The first row of a list of `count` that shows the row `at`, in `height` rows.
pub(super) fn first_row(at: usize, count: usize, height: usize) -> usize {
    let first = (at + 1).saturating_sub(height.max(1).div_ceil(2));
    first.min(count.saturating_sub(height))
}

impl TerminalModel {
    /// Draws all of the screen.
    pub(crate) fn draw_screen(&self, buffer: &mut Buffer) {
        let area = *buffer.area();
        let look = self.look;
        let mut painter = CellPainter { buffer, look };
        if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
            let (columns, rows) = SMALLEST;
            let text = format!("{columns} columns and {rows} rows are needed; q quits");
            painter.put(0, 0, area.width, &text, ScreenLook::plain());
            return;
        }
        self.draw_bar(&mut painter);
        self.draw_page(&mut painter);
        self.draw_status(&mut painter, area);
        self.draw_hints(&mut painter, area);
        self.draw_dialog(&mut painter, area);
    }

    fn draw_page(&self, painter: &mut CellPainter<'_>) {
        let layout = self.layout();
        if self.view.answer.is_some() {
            let lines = self.answer_lines();
            draw_rows(painter, layout.main, &lines, self.view.answer_top, None);
        } else if self.view.page != ScreenPage::Tree {
            let rows = self.page_rows();
            let first = first_row(self.view.row, rows.len(), layout.main.height.into());
            draw_rows(painter, layout.main, &rows, first, Some(self.view.row));
        } else {
            if !self.view.is_zoomed {
                self.draw_tree(painter, layout.main);
            }
            if let Some(part) = layout.details {
                self.draw_details(painter, layout.main, part);
            }
        }
    }

    fn draw_bar(&self, painter: &mut CellPainter<'_>) {
        let width = self.size.0;
        let whole = ScreenPart {
            y: 0,
            height: 1,
            x: 0,
            width,
        };
        painter.fill_row(whole, 0, ScreenLook::bar());
        let running = self.running_count();
        let jobs = if running > 0 {
            format!("2 Jobs({running})")
        } else {
            "2 Jobs".to_owned()
        };
        let pages = [
            (ScreenPage::Tree, "1 Tree"),
            (ScreenPage::Jobs, &jobs),
            (ScreenPage::Store, "3 Store"),
            (ScreenPage::Machines, "4 Machines"),
            (ScreenPage::Backups, "5 Backups"),
        ];
        let tabs = pages.map(|(page, title)| {
            if page == self.view.page {
                format!("[{title}]")
            } else {
                format!(" {title} ")
            }
        });
        let tabs = tabs.concat();
        let len = text_width(&tabs) as u16;
        painter.put_right(width, 0, width, &tabs, ScreenLook::bar());
        let read_only = if self.facts.read_only_reason.is_some() {
            " read only"
        } else {
            ""
        };
        let store = format!(" Vellum{read_only} {}", self.facts.folder);
        painter.put(
            0,
            0,
            width.saturating_sub(len + 1),
            &store,
            ScreenLook::bar(),
        );
    }

    fn draw_status(&self, painter: &mut CellPainter<'_>, area: Rect) {
        let y = area.bottom() - 2;
        let look = self.look;
        if let Some(ScreenDialog::Search { text, .. }) = &self.view.dialog {
            let text = format!("/{text}_   {}", self.count_text());
            return painter.put(0, y, area.width, &text, ScreenLook::strong());
        }
        let Some(message) = &self.message else {
            return painter.put(0, y, area.width, &self.summary_text(), ScreenLook::faint());
        };
        let style = match message.kind {
            MessageKind::Note => ScreenLook::strong(),
            MessageKind::Warning => look.warning(),
            MessageKind::Error => look.error(),
        };
        painter.put(0, y, area.width, &message.text, style);
    }

    fn count_text(&self) -> String {
        let (shown, all) = (self.shown.len(), self.lines.len());
        if shown == all {
            format!("{all} lines")
        } else {
            format!("{shown} of {all} lines")
        }
    }

    fn summary_text(&self) -> String {
        let mut text = self.count_text();
        let marked = self.view.marked.len();
        if marked > 0 {
            text = format!("{text}, {marked} marked");
        }
        if let Some(job) = self.jobs.iter().find(|job| job.job_end().is_none()) {
            text = format!("{text}; {}: {}", job.title, self.job_state(job));
        }
        if self.guest_rate > 0 {
            text = format!("{text}; guests: {} requests/s", self.guest_rate);
        }
        text
    }

    fn draw_hints(&self, painter: &mut CellPainter<'_>, area: Rect) {
        let hints: &[&str] = match self.key_scopes()[0] {
            KeyScope::Tree => &[
                "? keys",
                "q quit",
                "Enter show",
                "/ search",
                "a actions",
                "s snapshot",
                "d delete",
                "Space mark",
                "c child",
                "b go back",
                "r rename",
                "t tags",
                "o sort",
                "u count",
                "= compare",
            ],
            KeyScope::Details => &["? keys", "q quit", "Esc back", "a actions", "u count"],
            KeyScope::Answer => &["? keys", "q quit", "Esc back", "x cancel"],
            KeyScope::Search => &["Enter keep", "Esc end", "Ctrl-U erase"],
            KeyScope::Menu => &["Enter begin", "Esc leave"],
            KeyScope::Form => &[
                "Enter plan",
                "Esc leave",
                "Tab next field",
                "Space, arrows choose",
                "Ctrl-U erase",
            ],
            KeyScope::Plan => &["y do it", "n leave it"],
            KeyScope::Help => &["Esc close", "PgDn further"],
            KeyScope::Quit => &["y quit", "n stay"],
            _ => match self.view.page {
                ScreenPage::Jobs => &["? keys", "q quit", "Enter answer", "x cancel", "Esc tree"],
                ScreenPage::Store => &["? keys", "q quit", "a actions", "u count", "Esc tree"],
                ScreenPage::Machines => &[
                    "? keys",
                    "q quit",
                    "a actions",
                    "s snapshot",
                    "b go back",
                    "d delete",
                    "Esc tree",
                ],
                _ => &["? keys", "q quit", "a actions", "u read anew", "Esc tree"],
            },
        };
        let (mut x, y) = (0, area.bottom() - 1);
        for hint in hints {
            let len = text_width(hint) as u16;
            if x + len > area.width {
                break;
            }
            let key = hint.split(' ').next().unwrap_or_default();
            painter.put(x, y, len, hint, ScreenLook::plain());
            painter.put(x, y, text_width(key) as u16, key, ScreenLook::strong());
            x += len + 2;
        }
    }
}

/// Draws rows from `first` on; the one under the cursor is marked.
pub(super) fn draw_rows(
    painter: &mut CellPainter<'_>,
    part: ScreenPart,
    rows: &[PageRow],
    first: usize,
    cursor: Option<usize>,
) {
    let window = rows.iter().enumerate().skip(first).take(part.height.into());
    for (line, (nth, row)) in window.enumerate() {
        let y = part.y + line as u16;
        let style = if cursor == Some(nth) {
            ScreenLook::bar()
        } else if row.is_heading {
            ScreenLook::strong()
        } else if row.text.starts_with("error: ") {
            painter.look.error()
        } else if row.text.starts_with("warning: ") {
            painter.look.warning()
        } else {
            ScreenLook::plain()
        };
        let edge = if cursor == Some(nth) { ">" } else { " " };
        if cursor == Some(nth) {
            painter.fill_row(part, y, style);
        }
        if cursor.is_some() {
            painter.put(part.x, y, 1, edge, style);
        }
        let x = part.x + 1;
        painter.put(x, y, part.width.saturating_sub(1), &row.text, style);
    }
}
