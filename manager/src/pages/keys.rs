//! The sheet of keys and signs.

use maud::{Markup, html};

use crate::action_table::ACTIONS;

const KEYS: [(&str, &str); 12] = [
    ("↑ ↓", "the line above, below"),
    (
        "→ ←",
        "open or close a branch; to its first line, to what it hangs from",
    ),
    ("Home End", "the first line, the last"),
    ("Page Up, Page Down", "a screen of lines"),
    ("Enter", "show the image or snapshot"),
    ("Space", "select it, to delete several"),
    ("Delete", "delete what is selected, or this"),
    ("/", "search"),
    ("j", "jobs"),
    ("o", "the whole store"),
    ("Esc", "back to the tree"),
    ("?", "this sheet"),
];

pub(crate) fn keys_pane() -> Markup {
    html! {
        h1 { "Keys and signs" }
        h2 { "In the tree" }
        dl.keys {
            @for (key, meaning) in KEYS { dt { kbd { (key) } } dd { (meaning) } }
            @for action in ACTIONS {
                @if let Some(letter) = action.letter {
                    dt { kbd { (letter) } } dd { (action.title) }
                }
            }
        }
        h2 { "Signs" }
        dl.keys {
            dt { "○" } dd { "image: it goes on changing" }
            dt { "●" } dd { "snapshot: it does not" }
            dt { "◌" } dd { "what several still share although it has no name" }
        }
        p.quiet {
            "Everything here is a command of " code { "vellum" } "; each plan shows its line. "
            "Without scripts, everything can be read and done one by one."
        }
    }
}
