//! The lines and signs of a drawn tree, in letters that the caller's terminal has.

use vellum_core::outline::OutlineRow;

use crate::invocation::Invocation;
use crate::output::table::RowLead;

/// Lines that one hangs from and that are drawn as columns of their own; what hangs deeper stands
/// in the last of them, so that names have room on a terminal.
const LEVELS_MAX: usize = 10;

/// The letters of a drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TreeLetters {
    Unicode,
    /// Of locales without the others.
    Ascii,
}

/// The kind of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineKind {
    Image,
    Snapshot,
    Base,
}

/// True if a line hangs so deep that its column does not tell from what.
pub(crate) fn is_beyond_columns(row: &OutlineRow) -> bool {
    row.depth > LEVELS_MAX
}

impl TreeLetters {
    /// Those of the locale that `LC_ALL`, else `LC_CTYPE`, else `LANG` names, as the C library has
    /// it: without any of them it is one of ASCII.
    pub(crate) fn of_caller(caller: &Invocation) -> Self {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .find_map(|name| caller.variable(name))
            .map(|locale| locale.to_string_lossy().to_ascii_lowercase());
        let is_unicode = |locale: String| locale.contains("utf-8") || locale.contains("utf8");
        if locale.is_some_and(is_unicode) {
            Self::Unicode
        } else {
            Self::Ascii
        }
    }

    /// The sign before a name. Images can be written, snapshots keep still, a base has no name.
    fn sign(self, kind: LineKind) -> &'static str {
        match (self, kind) {
            (Self::Unicode, LineKind::Image) => "○ ",
            (Self::Unicode, LineKind::Snapshot) => "● ",
            (Self::Unicode, LineKind::Base) => "◌ ",
            (Self::Ascii, LineKind::Image) => "o ",
            (Self::Ascii, LineKind::Snapshot) => "* ",
            (Self::Ascii, LineKind::Base) => ". ",
        }
    }

    fn branch(self, is_last: bool) -> &'static str {
        match (self, is_last) {
            (Self::Unicode, false) => "├─",
            (Self::Unicode, true) => "└─",
            (Self::Ascii, false) => "|-",
            (Self::Ascii, true) => "`-",
        }
    }

    fn beside(self, is_last: bool) -> &'static str {
        match (self, is_last) {
            (_, true) => "  ",
            (Self::Unicode, false) => "│ ",
            (Self::Ascii, false) => "| ",
        }
    }

    /// What stands before the name in each of `rows`, which are of these kinds.
    pub(crate) fn draw_leads(self, rows: &[(OutlineRow, LineKind)]) -> Vec<RowLead> {
        let mut last_below = vec![0; rows.len()];
        for (nth, (row, _)) in rows.iter().enumerate() {
            if let Some(above) = row.hangs_from {
                last_below[above] = nth;
            }
        }
        let mut margins: Vec<String> = Vec::with_capacity(rows.len());
        let mut leads = Vec::with_capacity(rows.len());
        for (nth, (row, kind)) in rows.iter().enumerate() {
            let (mut first, mut margin) = (String::new(), String::new());
            if let Some(above) = row.hangs_from {
                let is_last = last_below[above] == nth;
                first = format!("{}{}", margins[above], self.branch(is_last));
                margin.clone_from(&margins[above]);
                if !is_beyond_columns(row) {
                    margin.push_str(self.beside(is_last));
                }
            }
            let carries = if last_below[nth] > nth {
                self.beside(false)
            } else {
                "  "
            };
            leads.push(RowLead {
                first: first + self.sign(*kind),
                further: format!("{margin}{carries}"),
            });
            margins.push(margin);
        }
        leads
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn row(nth: usize, hangs_from: Option<usize>, depth: usize) -> OutlineRow {
        OutlineRow {
            item: nth,
            hangs_from,
            stands_on: None,
            depth,
            stands_elsewhere: false,
        }
    }

    fn drawn(letters: TreeLetters, rows: &[OutlineRow]) -> Vec<String> {
        let kind = |row: &OutlineRow| match row.item {
            0 => LineKind::Image,
            1 => LineKind::Base,
            _ => LineKind::Snapshot,
        };
        let rows: Vec<_> = rows.iter().map(|row| (*row, kind(row))).collect();
        let leads = letters.draw_leads(&rows);
        leads.into_iter().map(|lead| lead.first).collect()
    }

    #[test]
    fn lines_lead_from_each_to_what_it_hangs_from() {
        let rows = [
            row(0, None, 0),
            row(1, Some(0), 1),
            row(2, Some(1), 2),
            row(3, Some(0), 1),
            row(4, Some(3), 2),
            row(5, None, 0),
        ];
        assert_eq!(
            drawn(TreeLetters::Unicode, &rows),
            ["○ ", "├─◌ ", "│ └─● ", "└─● ", "  └─● ", "● "]
        );
        assert_eq!(
            drawn(TreeLetters::Ascii, &rows),
            ["o ", "|-. ", "| `-* ", "`-* ", "  `-* ", "* "]
        );
    }

    #[test]
    fn a_deep_tree_leaves_room_for_names() {
        let rows: Vec<_> = (0..500)
            .map(|nth: usize| (row(nth, nth.checked_sub(1), nth), LineKind::Image))
            .collect();
        let leads = TreeLetters::Unicode.draw_leads(&rows);
        assert!(leads.iter().all(|lead| lead.first.chars().count() <= 24));
    }

    #[test]
    fn the_locale_is_the_one_that_the_c_library_takes() {
        for (variables, letters) in [
            (&[][..], TreeLetters::Ascii),
            (&[("LANG", "C.UTF-8")], TreeLetters::Unicode),
            (&[("LANG", "de_DE.utf8")], TreeLetters::Unicode),
            (&[("LANG", "de_DE")], TreeLetters::Ascii),
            (&[("LANG", "C.UTF-8"), ("LC_ALL", "C")], TreeLetters::Ascii),
            (
                &[("LANG", "C"), ("LC_CTYPE", "C.UTF-8")],
                TreeLetters::Unicode,
            ),
            (&[("LANG", "C.UTF-8"), ("LC_ALL", "")], TreeLetters::Unicode),
        ] {
            let mut caller = Invocation::in_folder(Path::new("/"));
            let pairs = variables
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()));
            caller.variables = pairs.collect();
            assert_eq!(TreeLetters::of_caller(&caller), letters, "{variables:?}");
        }
    }
}
