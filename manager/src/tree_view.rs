//! The part of the tree that is looked at: what a search, an order and closed branches leave of its
//! lines, and the window of them that a page shows. Pure.

use std::collections::BTreeSet;

use crate::operations::{NodeKind, TreeLine};

/// Lines of one window: some screens.
pub(crate) const WINDOW_MAX: usize = 400;
/// The longest search that is looked for: a name is shorter.
const SEARCH_LEN_MAX: usize = 200;

/// The order of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TreeOrder {
    /// The tree itself: children below what they were made from.
    #[default]
    Tree,
    Name,
    Size,
    Own,
    Growth,
    Age,
}

/// A wish for a part of the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TreeWish {
    pub(crate) search: String,
    pub(crate) order: TreeOrder,
    pub(crate) is_reversed: bool,
}

/// A line as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShownLine {
    /// The place in the tree's lines.
    pub(crate) line: usize,
    pub(crate) depth: usize,
    /// True if others hang from it.
    pub(crate) has_branch: bool,
    /// True if those are not shown.
    pub(crate) is_closed: bool,
    /// False if it is there only for what hangs from it.
    pub(crate) is_match: bool,
}

impl TreeOrder {
    pub(crate) const ALL: [Self; 6] = [
        Self::Tree,
        Self::Name,
        Self::Size,
        Self::Own,
        Self::Growth,
        Self::Age,
    ];

    pub(crate) fn order_key(self) -> &'static str {
        match self {
            Self::Tree => "tree",
            Self::Name => "name",
            Self::Size => "size",
            Self::Own => "own",
            Self::Growth => "growth",
            Self::Age => "age",
        }
    }

    pub(crate) fn from_key(key: &str) -> Self {
        let is_it = |order: &Self| order.order_key() == key;
        Self::ALL.into_iter().find(is_it).unwrap_or_default()
    }
}

impl TreeWish {
    pub(crate) fn new(search: &str, order: &str, is_reversed: bool) -> Self {
        let search: String = search.trim().chars().take(SEARCH_LEN_MAX).collect();
        Self {
            search: search.to_lowercase(),
            order: TreeOrder::from_key(order),
            is_reversed,
        }
    }

    /// All lines that are shown, from top to bottom. Cost: each line a few times.
    pub(crate) fn shown_lines(
        &self,
        lines: &[TreeLine],
        closed: &BTreeSet<String>,
    ) -> Vec<ShownLine> {
        let is_match: Vec<bool> = lines
            .iter()
            .map(|line| self.search.is_empty() || is_found(line, &self.search))
            .collect();
        if self.order != TreeOrder::Tree {
            return self.sorted_lines(lines, &is_match);
        }
        let mut has_branch = vec![false; lines.len()];
        let mut is_wanted = is_match.clone();
        for (nth, line) in lines.iter().enumerate().rev() {
            if let Some(above) = line.hangs_from {
                has_branch[above] = true;
                is_wanted[above] |= is_wanted[nth];
            }
        }
        // What is searched for is not hidden in a closed branch.
        let is_closed = |nth: usize| {
            self.search.is_empty() && has_branch[nth] && closed.contains(&lines[nth].key)
        };
        let mut is_open = vec![true; lines.len()];
        let mut shown = Vec::new();
        for (nth, line) in lines.iter().enumerate() {
            is_open[nth] = line
                .hangs_from
                .is_none_or(|above| is_open[above] && !is_closed(above));
            if is_open[nth] && is_wanted[nth] {
                shown.push(ShownLine {
                    line: nth,
                    depth: line.depth,
                    has_branch: has_branch[nth],
                    is_closed: is_closed(nth),
                    is_match: is_match[nth],
                });
            }
        }
        shown
    }

    /// Lines without their tree: bases have no name, size or age to sort by.
    fn sorted_lines(&self, lines: &[TreeLine], is_match: &[bool]) -> Vec<ShownLine> {
        let mut found: Vec<usize> = (0..lines.len())
            .filter(|nth| is_match[*nth] && lines[*nth].kind != NodeKind::Base)
            .collect();
        let number = |nth: usize| {
            let line = &lines[nth];
            match self.order {
                TreeOrder::Size => line.size,
                TreeOrder::Own => line.own_bytes,
                TreeOrder::Growth => line.added_bytes.unwrap_or(0),
                // The youngest has the least age.
                TreeOrder::Age => u64::MAX - line.created_ms.unwrap_or(0),
                TreeOrder::Tree | TreeOrder::Name => 0,
            }
        };
        found.sort_by(|a, b| {
            let by_number = number(*b).cmp(&number(*a));
            by_number.then_with(|| lines[*a].title.cmp(&lines[*b].title))
        });
        if self.is_reversed {
            found.reverse();
        }
        let shown = found.into_iter().map(|line| ShownLine {
            line,
            depth: 0,
            has_branch: false,
            is_closed: false,
            is_match: true,
        });
        shown.collect()
    }
}

fn is_found(line: &TreeLine, search: &str) -> bool {
    let has = |text: &str| text.to_lowercase().contains(search);
    has(&line.title)
        || line.tags.iter().any(|tag| has(tag))
        || line.machines.iter().any(|name| has(name))
}

/// The window of `count` lines that begins at `from`, or has `around` in its middle if that is
/// shown.
pub(crate) fn place_window(
    lines: &[TreeLine],
    shown: &[ShownLine],
    from: usize,
    count: usize,
    around: Option<&str>,
) -> std::ops::Range<usize> {
    let count = count.clamp(1, WINDOW_MAX);
    let place = around.and_then(|key| shown.iter().position(|line| lines[line.line].key == key));
    let from = place.map_or(from, |place| place.saturating_sub(count / 2));
    let from = from.min(shown.len().saturating_sub(count));
    from..shown.len().min(from + count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(key: &str, hangs_from: Option<usize>, depth: usize, size: u64) -> TreeLine {
        TreeLine {
            key: key.to_owned(),
            title: key.to_owned(),
            kind: NodeKind::Image,
            depth,
            hangs_from,
            size,
            own_bytes: 0,
            added_bytes: None,
            created_ms: Some(size),
            mode: None,
            stands_on: None,
            tags: Vec::new(),
            is_pinned: false,
            is_attached: false,
            machines: Vec::new(),
        }
    }

    fn forest() -> Vec<TreeLine> {
        vec![
            line("web", None, 0, 3),
            line("web@monday", Some(0), 1, 3),
            line("trial", Some(1), 2, 9),
            line("web@tuesday", Some(0), 1, 3),
            line("db", None, 0, 1),
        ]
    }

    fn names(wish: &TreeWish, closed: &[&str]) -> Vec<String> {
        let (lines, closed) = (
            forest(),
            closed.iter().map(|key| (*key).to_owned()).collect(),
        );
        let shown = wish.shown_lines(&lines, &closed);
        shown
            .iter()
            .map(|line| lines[line.line].key.clone())
            .collect()
    }

    #[test]
    fn a_closed_branch_hides_all_that_hangs_from_it_unless_it_is_searched_for() {
        let all = TreeWish::default();
        assert_eq!(names(&all, &[]).len(), 5);
        assert_eq!(
            names(&all, &["web@monday"]),
            ["web", "web@monday", "web@tuesday", "db"]
        );
        assert_eq!(names(&all, &["web"]), ["web", "db"]);
        let wish = TreeWish::new(" TRI ", "tree", false);
        assert_eq!(names(&wish, &["web"]), ["web", "web@monday", "trial"]);
    }

    #[test]
    fn every_order_has_every_line() {
        for order in TreeOrder::ALL {
            for reversed in [false, true] {
                let wish = TreeWish::new("", order.order_key(), reversed);
                assert_eq!(wish.order, order);
                assert_eq!(names(&wish, &[]).len(), 5);
            }
        }
        assert_eq!(names(&TreeWish::new("", "size", false), &[])[0], "trial");
        assert_eq!(names(&TreeWish::new("", "age", false), &[])[0], "db");
        assert_eq!(names(&TreeWish::new("", "age", true), &[])[0], "trial");
    }

    #[test]
    fn a_window_is_never_past_the_end() {
        let lines = forest();
        let shown = TreeWish::default().shown_lines(&lines, &BTreeSet::new());
        for (from, count, around, window) in [
            (0, 2, None, 0..2),
            (4, 2, None, 3..5),
            (100, 2, None, 3..5),
            (0, 0, None, 0..1),
            (0, 3, Some("db"), 2..5),
            (1, 2, Some("nothing"), 1..3),
            (0, usize::MAX, None, 0..5),
        ] {
            assert_eq!(place_window(&lines, &shown, from, count, around), window);
        }
    }
}
