//! Dialogs and sheets, drawn above the page.

use ratatui_core::layout::Rect;

use super::folded_rows::fold_rows;
use super::form_rows::form_rows;
use super::look::ScreenLook;
use super::model::{ScreenDialog, ScreenPart, TerminalModel};
use super::page_row::PageRow;
use super::screen::{CellPainter, draw_rows, first_row};
use crate::actions::find_action;

/// Rows that a dialog leaves to its frame and the bars.
const BOX_FRAME: u16 = 5;

impl TerminalModel {
    pub(super) fn draw_dialog(&self, painter: &mut CellPainter<'_>, area: Rect) {
        match &self.view.dialog {
            None | Some(ScreenDialog::Search { .. }) => {}
            Some(ScreenDialog::Menu { actions, cursor }) => {
                let rows: Vec<PageRow> = actions
                    .iter()
                    .filter_map(|key| find_action(key).ok())
                    .map(|action| {
                        let letter = action.letter.unwrap_or(' ');
                        PageRow::plain(format!("{letter}  {:24} {}", action.title, action.meaning))
                    })
                    .collect();
                let part = draw_box(painter, area, "Actions", rows.len());
                let first = first_row(*cursor, rows.len(), part.height.into());
                draw_rows(painter, part, &rows, first, Some(*cursor));
            }
            Some(ScreenDialog::Form(form)) => {
                let title = find_action(form.action).map_or("", |action| action.title);
                let (rows, at) = form_rows(form);
                let part = draw_box(painter, area, title, rows.len());
                let first = first_row(at, rows.len(), part.height.into());
                draw_rows(painter, part, &rows, first, Some(at));
            }
            Some(ScreenDialog::Plan(sheet)) => {
                let title = find_action(sheet.action).map_or("", |action| action.title);
                self.draw_sheet(painter, area, &format!("Plan: {title}"), sheet.top);
            }
            Some(ScreenDialog::Help { top }) => {
                self.draw_sheet(painter, area, "Keys and signs", *top);
            }
            Some(ScreenDialog::Quit { running }) => {
                let rows = [
                    PageRow::plain(format!("{running} of this program's jobs run.")),
                    PageRow::plain("y stops them and quits, n stays."),
                ];
                let part = draw_box(painter, area, "Quit", rows.len());
                draw_rows(painter, part, &rows, 0, None);
            }
        }
    }

    /// The lines of the sheet that is open, folded to its width.
    pub(super) fn sheet_rows(&self) -> Vec<PageRow> {
        let rows = match &self.view.dialog {
            Some(ScreenDialog::Help { .. }) => self.help_lines(),
            _ => self.plan_lines(),
        };
        fold_rows(&rows, usize::from(box_width(self.size.0)).saturating_sub(2))
    }

    /// The lines of a sheet that are seen at once.
    pub(super) fn sheet_height(&self) -> usize {
        usize::from(self.size.1.saturating_sub(BOX_FRAME)).max(1)
    }

    /// A dialog of lines.
    fn draw_sheet(&self, painter: &mut CellPainter<'_>, area: Rect, title: &str, top: usize) {
        let rows = self.sheet_rows();
        let part = draw_box(painter, area, title, rows.len());
        let top = top.min(rows.len().saturating_sub(part.height.into()));
        draw_rows(painter, part, &rows, top, None);
        let left = rows.len().saturating_sub(top + usize::from(part.height));
        if left > 0 {
            let more = format!(" {left} more lines ");
            let y = part.y + part.height;
            painter.put_right(
                part.x + part.width,
                y,
                part.width,
                &more,
                ScreenLook::strong(),
            );
        }
    }
}

fn box_width(columns: u16) -> u16 {
    (columns * 9 / 10).min(100)
}

/// Draws the frame of a dialog for so many rows: its inside.
fn draw_box(painter: &mut CellPainter<'_>, area: Rect, title: &str, rows: usize) -> ScreenPart {
    let look = painter.look;
    let width = box_width(area.width);
    let rows = (rows as u16).clamp(1, area.height.saturating_sub(BOX_FRAME));
    let whole = ScreenPart {
        x: (area.width - width) / 2,
        y: (area.height - rows - 2) / 2,
        width,
        height: rows + 2,
    };
    let corners = if look.is_unicode {
        ["┌", "┐", "└", "┘"]
    } else {
        ["+", "+", "+", "+"]
    };
    for y in whole.y..whole.y + whole.height {
        painter.fill_row(whole, y, ScreenLook::plain());
        painter.put(whole.x, y, 1, look.side_sign(), ScreenLook::plain());
        painter.put(
            whole.x + width - 1,
            y,
            1,
            look.side_sign(),
            ScreenLook::plain(),
        );
    }
    let rule = look.rule_sign().repeat(usize::from(width - 2));
    let bottom = whole.y + whole.height - 1;
    for (y, left, right) in [
        (whole.y, corners[0], corners[1]),
        (bottom, corners[2], corners[3]),
    ] {
        painter.put(
            whole.x,
            y,
            width,
            &format!("{left}{rule}{right}"),
            ScreenLook::plain(),
        );
    }
    painter.put(
        whole.x + 2,
        whole.y,
        width - 4,
        &format!(" {title} "),
        ScreenLook::strong(),
    );
    ScreenPart {
        x: whole.x + 1,
        y: whole.y + 1,
        width: width - 2,
        height: rows,
    }
}
