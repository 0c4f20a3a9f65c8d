//! The look of the screen: letters for a terminal that has all of them or ASCII only, and styles.
//! Nothing is said by a colour alone.

use ratatui_core::style::{Color, Modifier, Style};
use vellum_core::name::is_misleading;

use crate::operations::NodeKind;

/// The letters and colours that a terminal has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScreenLook {
    pub(crate) is_unicode: bool,
    pub(crate) has_colour: bool,
}

impl ScreenLook {
    pub(crate) fn node_sign(self, kind: NodeKind) -> &'static str {
        match (kind, self.is_unicode) {
            (NodeKind::Image, true) => "○",
            (NodeKind::Snapshot, true) => "●",
            (NodeKind::Base, true) => "◌",
            (NodeKind::Image, false) => "o",
            (NodeKind::Snapshot, false) => "*",
            (NodeKind::Base, false) => ".",
        }
    }

    pub(crate) fn branch_sign(self, has_branch: bool, is_closed: bool) -> &'static str {
        match (has_branch, is_closed, self.is_unicode) {
            (false, ..) => " ",
            (true, true, true) => "▸",
            (true, false, true) => "▾",
            (true, true, false) => "+",
            (true, false, false) => "-",
        }
    }

    /// The signs of degrees of change, from none to all.
    pub(crate) fn degree_signs(self) -> &'static [&'static str; 6] {
        if self.is_unicode {
            &["·", "▁", "▂", "▄", "▆", "█"]
        } else {
            &[".", ":", "-", "=", "%", "#"]
        }
    }

    pub(crate) fn rule_sign(self) -> &'static str {
        if self.is_unicode { "─" } else { "-" }
    }

    pub(crate) fn side_sign(self) -> &'static str {
        if self.is_unicode { "│" } else { "|" }
    }

    pub(crate) fn cut_sign(self) -> &'static str {
        if self.is_unicode { "…" } else { "~" }
    }

    /// `text` in letters that the terminal has, with nothing that acts on it.
    pub(crate) fn shown_text(self, text: &str) -> String {
        let shown = |letter: char| match letter {
            '\t' => ' ',
            '↑' if !self.is_unicode => '^',
            '↓' if !self.is_unicode => 'v',
            '→' if !self.is_unicode => '>',
            '←' if !self.is_unicode => '<',
            letter if is_misleading(letter) => '?',
            letter if !self.is_unicode && !letter.is_ascii() => '?',
            letter => letter,
        };
        text.chars().map(shown).collect()
    }

    pub(crate) fn plain() -> Style {
        Style::new()
    }

    pub(crate) fn bar() -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub(crate) fn strong() -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(crate) fn faint() -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub(crate) fn error(self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD)
    }

    pub(crate) fn warning(self) -> Style {
        self.coloured(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    pub(crate) fn snapshot(self) -> Style {
        self.coloured(Color::Cyan)
    }

    fn coloured(self, colour: Color) -> Style {
        if self.has_colour {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }
}
