//! The comparison of two images or snapshots.

use maud::{Markup, html};

use super::node::strip_part;
use super::node_address;
use crate::operations::{ChangedCells, Operations};

pub(crate) fn compare_pane(
    from: &str,
    to: &str,
    changed: &ChangedCells,
    operations: &dyn Operations,
) -> Markup {
    html! {
        p.back { a href=(node_address(to)) data-pane { "‹ " (to) } }
        h1 { "Compare" }
        p {
            a href=(node_address(from)) data-pane { (from) }
            " with "
            a href=(node_address(to)) data-pane { (to) }
        }
        (strip_part(changed, operations))
        p.quiet { "From maps alone; no data is read." }
    }
}
