//! The tree: its tools, and the window of lines that is shown.

use std::ops::Range;

use maud::{Markup, html};

use super::{node_address, query_value, show_time};
use crate::action_table::ACTIONS;
use crate::operations::{NodeKind, Operations, TreeLine};
use crate::tree_view::{ShownLine, TreeOrder, TreeWish};

/// Columns of their own that a tree's lines are indented by; what hangs deeper stands in the last,
/// and tells its depth.
const DEPTH_MAX: usize = 10;

/// A part of the tree, ready to be shown.
pub(crate) struct TreePart<'a> {
    pub(crate) operations: &'a dyn Operations,
    pub(crate) lines: &'a [TreeLine],
    pub(crate) shown: &'a [ShownLine],
    pub(crate) window: Range<usize>,
    pub(crate) wish: &'a TreeWish,
    pub(crate) selected: Option<&'a str>,
    pub(crate) is_read_only: bool,
}

/// A column: its order, its title, and the meaning of it.
const COLUMNS: [(TreeOrder, &str, &str); 5] = [
    (
        TreeOrder::Name,
        "Name",
        "the name; ○ image, ● snapshot, ◌ shared base",
    ),
    (TreeOrder::Size, "Virtual size", "the length of the disk"),
    (
        TreeOrder::Own,
        "Actual size",
        "own data: bytes of its map that are not its parent's",
    ),
    (
        TreeOrder::Growth,
        "Added",
        "what was new in it, after compression",
    ),
    (TreeOrder::Age, "Created", "when it was made"),
];

impl TreePart<'_> {
    /// The whole section: tools, lines, and the way to further windows.
    pub(crate) fn render_tree(&self) -> Markup {
        html! {
            form.tools #search-form method="get" action="/" role="search" {
                label.unseen for="search" { "Search images, snapshots, tags and machines" }
                input #search type="search" name="search" value=(self.wish.search)
                    placeholder="Search" autocomplete="off" spellcheck="false";
                input type="hidden" name="order" value=(self.wish.order.order_key());
                button.plain type="submit" { "Search" }
            }
            form #lines-form method="post" action="/act" {
                div.tools.more {
                    @if !self.is_read_only {
                        a.button href="/act?do=create" data-pane { "New image" }
                        a.button href="/act?do=import" data-pane { "Import" }
                        button #delete-picked type="submit" name="do" value="delete"
                            formaction="/act" { "Delete selected" }
                    }
                    button.plain type="submit" name="close" value="all" formaction="/branches"
                        { "Close all" }
                    button.plain type="submit" name="close" value="none" formaction="/branches"
                        { "Open all" }
                    span.count #tree-count { (self.count_text()) }
                }
                div.scroll #tree-scroll tabindex="-1" {
                    table #tree-table role="treegrid" aria-label="Images and snapshots"
                        aria-rowcount=(self.shown.len() + 1) aria-multiselectable="true"
                        data-total=(self.shown.len()) data-from=(self.window.start)
                        data-letters=(action_letters(self.is_read_only)) {
                        (self.render_head())
                        tbody.space #space-above aria-hidden="true" {}
                        tbody #tree-lines { (self.render_lines()) }
                        tbody.space #space-below aria-hidden="true" {}
                    }
                }
                (self.render_pager())
            }
        }
    }

    pub(crate) fn count_text(&self) -> String {
        let (shown, all) = (self.shown.len(), self.lines.len());
        if shown == all {
            format!("{all} lines")
        } else {
            format!("{shown} of {all} lines")
        }
    }

    fn render_head(&self) -> Markup {
        html! {
            thead {
                tr role="row" aria-rowindex="1" {
                    th.pick role="columnheader" { span.unseen { "Selected" } }
                    @for (order, title, meaning) in COLUMNS {
                        @let is_sorted = self.wish.order == order;
                        th role="columnheader" class=(order.order_key()) title=(meaning)
                            aria-sort=[is_sorted.then_some(self.sort_word())] {
                            a href=(self.order_address(order)) data-order=(order.order_key()) {
                                (title)
                                @if is_sorted {
                                    span aria-hidden="true" {
                                        @if self.wish.is_reversed { " ↑" } @else { " ↓" }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    fn sort_word(&self) -> &'static str {
        let is_rising = match self.wish.order {
            TreeOrder::Name | TreeOrder::Age | TreeOrder::Tree => !self.wish.is_reversed,
            _ => self.wish.is_reversed,
        };
        if is_rising { "ascending" } else { "descending" }
    }

    /// A column's order; of the present one the other way round, then the tree again.
    fn order_address(&self, order: TreeOrder) -> String {
        let (next, is_reversed) = if self.wish.order != order {
            (order, false)
        } else if self.wish.is_reversed {
            (TreeOrder::Tree, false)
        } else {
            (order, true)
        };
        tree_address(&self.wish.search, next, is_reversed, 0)
    }

    /// The lines of the window.
    pub(crate) fn render_lines(&self) -> Markup {
        html! {
            @for (nth, shown) in self.shown[self.window.clone()].iter().enumerate() {
                (self.render_line(self.window.start + nth, *shown))
            }
            @if self.shown.is_empty() {
                tr role="row" {
                    td.empty role="gridcell" colspan="6" {
                        @if self.lines.is_empty() {
                            "The store is empty. Import a disk, or make a new image."
                        } @else {
                            "Nothing has that in its name, tags or machines."
                        }
                    }
                }
            }
        }
    }

    fn render_line(&self, nth: usize, shown: ShownLine) -> Markup {
        let line = &self.lines[shown.line];
        let is_selected = self.selected == Some(line.key.as_str());
        let format = |bytes| self.operations.format_bytes(bytes);
        html! {
            tr role="row" data-key=(line.key) class=[(!shown.is_match).then_some("beside")]
                aria-level=(shown.depth + 1) aria-rowindex=(nth + 2)
                aria-expanded=[shown.has_branch.then_some(!shown.is_closed)]
                aria-selected=(is_selected) tabindex="-1" {
                td.pick role="gridcell" {
                    @if line.kind != NodeKind::Base && !self.is_read_only {
                        input type="checkbox" name="node" value=(line.key) tabindex="-1"
                            aria-label={ "Select " (line.title) };
                    }
                }
                th role="rowheader" class={ "name d" (shown.depth.min(DEPTH_MAX)) } {
                    (render_name(line, shown))
                }
                td.size role="gridcell" { (format(line.size)) }
                td.own role="gridcell" { (format(line.own_bytes)) }
                td.growth role="gridcell" {
                    @if let Some(added) = line.added_bytes { (format(added)) }
                }
                td.age role="gridcell" {
                    @if let Some(created) = line.created_ms { (show_time(created)) }
                }
            }
        }
    }

    /// The neighbouring windows, for who has no scripts.
    fn render_pager(&self) -> Markup {
        let (from, count) = (self.window.start, self.window.len());
        let address = |from| {
            tree_address(
                &self.wish.search,
                self.wish.order,
                self.wish.is_reversed,
                from,
            )
        };
        html! {
            nav.pager #tree-pager aria-label="Parts of the tree" {
                @if from > 0 {
                    a href=(address(from.saturating_sub(count))) { "Earlier lines" }
                }
                span { "Lines " (from + 1) " to " (self.window.end) " of " (self.shown.len()) }
                @if self.window.end < self.shown.len() {
                    a href=(address(self.window.end)) { "Later lines" }
                }
            }
        }
    }
}

/// The branch's button, the sign, the name and its marks.
fn render_name(line: &TreeLine, shown: ShownLine) -> Markup {
    let (sign, kind) = match line.kind {
        NodeKind::Image => ("○", "image"),
        NodeKind::Snapshot => ("●", "snapshot"),
        NodeKind::Base => ("◌", "shared base"),
    };
    html! {
        @if shown.has_branch {
            button.branch type="submit" name="branch" value=(line.key) formaction="/branches"
                tabindex="-1"
                aria-label={ (if shown.is_closed { "Open " } else { "Close " }) (line.title) }
                { (if shown.is_closed { "▸" } else { "▾" }) }
        } @else {
            span.branch {}
        }
        span.sign title=(kind) aria-hidden="true" { (sign) }
        @if line.kind == NodeKind::Base {
            span.title { (line.title) }
        } @else {
            a.title href=(node_address(&line.key)) data-pane tabindex="-1" { (line.title) }
        }
        (render_marks(line))
        @if shown.depth > DEPTH_MAX { span.quiet { " level " (shown.depth + 1) } }
    }
}

/// The keys that begin an action: each with the action, and `store` if that needs no line.
fn action_letters(is_read_only: bool) -> String {
    let usable = ACTIONS.iter().filter(|_| !is_read_only);
    let pairs = usable.filter_map(|action| {
        let subject = if action.fits_store() { "store" } else { "node" };
        Some(format!("{}={}:{subject}", action.letter?, action.key))
    });
    pairs.collect::<Vec<_>>().join(" ")
}

/// Marks behind a name: what is not as usual.
fn render_marks(line: &TreeLine) -> Markup {
    html! {
        @if line.is_attached { span.mark.live title="a guest has it open" { "in use" } }
        @if let Some(mode) = line.mode.filter(|mode| *mode != "normal") { span.mark { (mode) } }
        @for machine in &line.machines { span.mark { "in " (machine) } }
        @if line.is_pinned { span.mark { "pinned" } }
        @for tag in &line.tags { span.mark.tag { "+" (tag) } }
        @if let Some(stands_on) = &line.stands_on {
            span.quiet.stands title="what it stands on" { " on " (stands_on) }
        }
    }
}

fn tree_address(search: &str, order: TreeOrder, is_reversed: bool, from: usize) -> String {
    let reversed = if is_reversed { "&reversed=on" } else { "" };
    format!(
        "/?search={}&order={}{reversed}&from={from}",
        query_value(search),
        order.order_key()
    )
}
