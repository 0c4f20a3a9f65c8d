//! The form of an action as rows.

use super::action_form::ActionForm;
use super::page_row::PageRow;
use crate::actions::{ActionField, FieldKind, find_action};

/// Names of a selection that are shown.
const NAMES_MAX: usize = 5;

/// The rows of a form, and which of them has the keys.
pub(super) fn form_rows(form: &ActionForm) -> (Vec<PageRow>, usize) {
    let mut rows = Vec::new();
    if let Ok(action) = find_action(form.action) {
        rows.push(PageRow::plain(action.meaning));
    }
    if !form.nodes.is_empty() {
        let names: Vec<&str> = form
            .nodes
            .iter()
            .take(NAMES_MAX)
            .map(String::as_str)
            .collect();
        let more = form.nodes.len().saturating_sub(NAMES_MAX);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        rows.push(PageRow::plain(format!("To: {}{more}", names.join(", "))));
    }
    rows.push(PageRow::plain(""));
    let first = rows.len();
    let fields = form.fields().iter().zip(&form.values).enumerate();
    rows.extend(
        fields.map(|(nth, (field, value))| {
            PageRow::plain(field_text(field, value, nth == form.focus))
        }),
    );
    let at = (first + form.focus).min(rows.len().saturating_sub(1));
    rows.push(PageRow::plain(""));
    let hint = form.focused_field().map_or("", |field| field.hint);
    let text = form.fault.clone().unwrap_or_else(|| hint.to_owned());
    rows.push(PageRow::plain(text));
    (rows, at)
}

fn field_text(field: &ActionField, value: &str, has_keys: bool) -> String {
    let label = format!("{}:", field.label);
    let cursor = if has_keys { "_" } else { "" };
    match field.kind {
        FieldKind::Check => {
            let sign = if value == "on" { "[x]" } else { "[ ]" };
            format!("{sign} {}", field.label)
        }
        FieldKind::Choice(choices) => {
            let words = choices.iter().find(|(known, _)| *known == value);
            let words = words.map_or(value, |(_, words)| words);
            format!("{label:26} < {words} >")
        }
        FieldKind::Text | FieldKind::Source | FieldKind::Target => {
            format!("{label:26} {value}{cursor}")
        }
    }
}
