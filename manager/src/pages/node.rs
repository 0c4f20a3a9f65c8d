//! One image or snapshot: where it stands, what it holds, how it is reached, and what can be done.

use maud::{Markup, html};

use super::{node_address, query_value, show_time};
use crate::action_table::ACTIONS;
use crate::action_table::FORMATS;
use crate::actions::ActionSpec;
use crate::operations::{ChangedCells, GuestPart, NodeFacts, NodeHolding, NodeLink, Operations};

/// Names of a list that are shown at once.
const LINKS_MAX: usize = 200;
/// Degrees of change, from nothing to all.
const LEVELS: f64 = 5.0;

/// The viewer's choices for a node's page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeView {
    pub(crate) is_read_only: bool,
    /// True if what it holds is counted without being asked for.
    pub(crate) counts_quickly: bool,
}

pub(crate) fn node_pane(
    facts: &NodeFacts,
    operations: &dyn Operations,
    view: NodeView,
    told: Markup,
) -> Markup {
    let address = |path: &str| format!("{path}?name={}", query_value(&facts.name));
    let kind = if facts.is_snapshot {
        "Snapshot"
    } else {
        "Image"
    };
    html! {
        p.back { a href="/" data-pane { "‹ Tree" } }
        (told)
        p.kind { (kind) @if facts.is_attached { " " span.mark.live { "in use" } } }
        h1 data-node=(facts.name) { (facts.name) }
        @if !view.is_read_only { (action_buttons(facts)) }
        section aria-label="Facts" { (facts_list(facts, operations)) }
        (chain_section(facts))
        (lazy_section("What it holds", "Count it", &address("/holding"), view.counts_quickly))
        @if !facts.chain.is_empty() {
            @let wish = "Compare it with what it stands on";
            (lazy_section("Where it changed", wish, &address("/strip"), true))
        }
        (lazy_section("File systems", "Read them", &address("/guest"), false))
        (exports_section(facts))
        (download_section(facts))
        (compare_section(facts))
    }
}

/// A part that is counted when it is looked at, or asked for: a link to a page of its own, which a
/// script shows in its place.
pub(crate) fn lazy_section(title: &str, wish: &str, address: &str, is_quick: bool) -> Markup {
    html! {
        section.lazy aria-label=(title) data-lazy=[is_quick.then_some(address)] {
            h2 { (title) }
            p { a href=(address) data-into { (wish) } }
        }
    }
}

fn action_buttons(facts: &NodeFacts) -> Markup {
    let fits = |action: &&ActionSpec| action.suits_node(facts);
    html! {
        div.actions role="group" aria-label="Actions" {
            @for action in ACTIONS.iter().filter(fits) {
                a.button.grave[action.is_destructive]
                    href={ "/act?do=" (action.key) "&node=" (query_value(&facts.name)) }
                    data-letter=[action.letter] data-pane { (action.title) }
            }
        }
    }
}

fn facts_list(facts: &NodeFacts, operations: &dyn Operations) -> Markup {
    html! {
        dl.facts {
            dt { "size" } dd { (operations.format_bytes(facts.size)) " (" (facts.size) " bytes)" }
            @if let Some(created) = facts.created_ms {
                dt { "created" }
                dd { (show_time(created)) }
            }
            @for (name, value) in &facts.fields { dt { (name) } dd { (value) } }
            @if !facts.tags.is_empty() { dt { "tags" } dd { (facts.tags.join(", ")) } }
            @if facts.is_pinned { dt { "pinned" } dd { "yes" } }
        }
    }
}

fn chain_section(facts: &NodeFacts) -> Markup {
    let lists = [
        ("Stands on", &facts.chain, "the nearest first"),
        ("Snapshots", &facts.snapshots, "the oldest first"),
        ("Carries", &facts.children, "what stands on it"),
    ];
    html! {
        @for (title, links, meaning) in lists {
            @if !links.is_empty() {
                section aria-label=(title) {
                    h2 title=(meaning) { (title) " " span.count { (links.len()) } }
                    (links_list(links))
                }
            }
        }
    }
}

fn links_list(links: &[NodeLink]) -> Markup {
    html! {
        ul.links {
            @for link in links.iter().take(LINKS_MAX) {
                li {
                    @match &link.name {
                        Some(name) => a href=(node_address(name)) data-pane { (link.title) },
                        None => (link.title),
                    }
                }
            }
            @if links.len() > LINKS_MAX { li.quiet { "and " (links.len() - LINKS_MAX) " more" } }
        }
    }
}

fn exports_section(facts: &NodeFacts) -> Markup {
    html! {
        section aria-label="For guests" {
            h2 { "For guests" }
            @if facts.exports.is_empty() {
                p.quiet {
                    "It is not offered to guests here; "
                    code { "vellum serve --manager" }
                    " does."
                }
            } @else {
                dl.exports {
                    @for place in &facts.exports {
                        dt { (place.label) }
                        dd {
                            code { (place.text) }
                            button.copy type="button" data-copy hidden { "Copy" }
                        }
                    }
                }
            }
        }
    }
}

fn download_section(facts: &NodeFacts) -> Markup {
    html! {
        section aria-label="Download" {
            h2 { "Download" }
            form.line method="post" action="/download" {
                input type="hidden" name="node" value=(facts.name);
                label for="download-format" { "Format" }
                select #download-format name="format" {
                    @for (value, words) in FORMATS { option value=(value) { (words) } }
                }
                button type="submit" { "Prepare" }
                a.button href={ "/download?node=" (query_value(&facts.name)) } download
                    title="every byte, at once, while it is read" { "Download raw" }
            }
        }
    }
}

fn compare_section(facts: &NodeFacts) -> Markup {
    html! {
        section aria-label="Compare" {
            h2 { "Compare" }
            form.line method="get" action="/compare" data-pane {
                input type="hidden" name="to" value=(facts.name);
                label for="compare-from" { "with the image or snapshot" }
                input #compare-from name="from" required autocomplete="off" spellcheck="false";
                button type="submit" { "Compare" }
            }
        }
    }
}

/// The bytes that it holds alone and with others, as a bar and in words.
pub(crate) fn holding_part(holding: &NodeHolding, operations: &dyn Operations) -> Markup {
    let parts = [
        ("alone", "alone", holding.alone),
        (
            "lineage",
            "with what it stands on or what stands on it",
            holding.with_lineage,
        ),
        (
            "siblings",
            "with others of its image",
            holding.with_siblings,
        ),
        ("others", "with other images", holding.with_others),
    ];
    let whole: u64 = parts.iter().map(|(_, _, bytes)| *bytes).sum();
    let mut start = 0.0;
    let bars = parts.map(|(class, _, bytes)| {
        let width = 100.0 * bytes as f64 / whole.max(1) as f64;
        start += width;
        (class, start - width, width)
    });
    html! {
        h2 { "What it holds" }
        @if whole == 0 { p { "No bytes on disk." } }
        @else {
            svg.holding viewBox="0 0 100 4" preserveAspectRatio="none" role="img"
                aria-label="Bytes on disk, alone and shared" {
                @for (class, start, width) in bars {
                    rect class=(class) x=(start) y="0" width=(width) height="4" {}
                }
            }
            dl.legend {
                @for (class, words, bytes) in parts {
                    dt { span class={ "swatch " (class) } {} (operations.format_bytes(bytes)) }
                    dd { (words) }
                }
            }
            p.quiet {
                "Deleting it alone frees "
                (operations.format_bytes(holding.alone))
                ", once space is given back."
            }
        }
    }
}

/// The partitions of a disk, and how full they are.
pub(crate) fn guest_part(parts: &[GuestPart], operations: &dyn Operations) -> Markup {
    let bytes = |bytes| operations.format_bytes(bytes);
    html! {
        h2 { "File systems" }
        @if parts.is_empty() { p { "Nothing on it is known." } }
        @else {
            table.list {
                thead {
                    tr {
                        th { "Part" } th { "Content" } th { "Length" } th { "Used" } th { "Free" }
                    }
                }
                tbody {
                    @for part in parts {
                        tr {
                            td { (part.name) }
                            td { (part.kind) }
                            td { (bytes(part.len)) }
                            @match part.free {
                                Some(free) => {
                                    td { (bytes(part.len.saturating_sub(free))) }
                                    td { (bytes(free)) }
                                }
                                None => {
                                    td colspan="2" { (part.remark.as_deref().unwrap_or_default()) }
                                }
                            }
                        }
                    }
                }
            }
            p.quiet { "Free is what a file system calls unused and what can be dropped from it." }
        }
    }
}

/// The strip of the places where two disks differ.
pub(crate) fn strip_part(changed: &ChangedCells, operations: &dyn Operations) -> Markup {
    let sum = changed
        .cells
        .iter()
        .fold(0_u64, |sum, cell| sum.saturating_add(*cell));
    let count = changed.cells.len().max(1);
    html! {
        svg.strip viewBox={ "0 0 " (count) " 8" } preserveAspectRatio="none" role="img"
            aria-label={ "Where it differs from " (changed.from) } {
            rect.heat-0 x="0" y="0" width=(count) height="8" {}
            @for (start, run) in level_runs(changed) {
                rect class={ "heat-" (run.0) } x=(start) y="0" width=(run.1) height="8" {}
            }
        }
        p.scale.quiet { span { "0" } span { (operations.format_bytes(changed.len)) } }
        p {
            @if sum == 0 { "It is as " (changed.from) " is." }
            @else {
                (operations.format_bytes(sum)) " differ from " (changed.from) ", to the chunk."
            }
        }
    }
}

/// Neighbouring cells of one degree of change: where they begin, the degree, and how many.
fn level_runs(changed: &ChangedCells) -> Vec<(usize, (u32, usize))> {
    let level = |cell: &u64| {
        let share = (*cell as f64 / changed.cell_len.max(1) as f64).min(1.0);
        // The root makes little changes visible: most changes are little.
        (LEVELS * share.sqrt()).ceil() as u32
    };
    let levels: Vec<u32> = changed.cells.iter().map(level).collect();
    let mut start = 0;
    let runs = levels.chunk_by(|a, b| a == b).map(|run| {
        let found = (start, (run[0], run.len()));
        start += run.len();
        found
    });
    runs.filter(|(_, (level, _))| *level > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_change_shows_and_all_of_it_is_darkest() {
        let changed = ChangedCells {
            from: String::new(),
            len: 7 << 20,
            cell_len: 1 << 20,
            cells: vec![0, 1, 1 << 20, u64::MAX, 0, 0, 5],
        };
        let runs = level_runs(&changed);
        assert_eq!(runs, [(1, (1, 1)), (2, (5, 2)), (6, (1, 1))]);
        assert_eq!(level_runs(&ChangedCells::default()), []);
    }
}
