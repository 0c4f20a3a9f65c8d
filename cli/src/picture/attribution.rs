//! A picture of who holds the stored bytes: all of them in one bar, then the largest owners one by
//! one.

use super::number_of;
use super::svg::{HorizontalPosition, Picture, Shapes, percent_of};
use crate::output::Units;

/// Owners that are drawn one by one: about a screen.
const SHOWN_MAX: usize = 20;
const ROW_HEIGHT: u32 = 36;
const NAME_COLUMNS: usize = 36;

/// The kinds of holding stored bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HolderKind {
    Alone,
    /// By nodes of which each stands on the one before.
    Lineage,
    /// By nodes of one image.
    Siblings,
    /// By nodes of several images, or by sets that are too small to be told apart.
    Others,
    Unreferenced,
    Overhead,
}

/// Bytes with one owner.
#[derive(Clone, Debug)]
pub(crate) struct AttributionSlice {
    pub(crate) kind: HolderKind,
    pub(crate) owner: String,
    pub(crate) bytes: u64,
}

impl HolderKind {
    const ALL: [Self; 6] = [
        Self::Alone,
        Self::Lineage,
        Self::Siblings,
        Self::Others,
        Self::Unreferenced,
        Self::Overhead,
    ];

    fn css_class(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Lineage => "lineage",
            Self::Siblings => "siblings",
            Self::Others => "others",
            Self::Unreferenced => "dead",
            Self::Overhead => "overhead",
        }
    }

    fn legend_text(self) -> &'static str {
        match self {
            Self::Alone => "one alone",
            Self::Lineage => "parent and child",
            Self::Siblings => "within an image",
            Self::Others => "others together",
            Self::Unreferenced => "none",
            Self::Overhead => "not content",
        }
    }
}

/// The picture of `slices`, which together are all stored bytes.
pub(crate) fn draw_attribution(slices: &[AttributionSlice], units: Units) -> Picture {
    let whole = slices
        .iter()
        .fold(0_u64, |sum, slice| sum.saturating_add(slice.bytes));
    let mut shapes = Shapes::default();
    let kinds = HolderKind::ALL.map(|kind| (kind, of_kind(slices, kind)));
    show_whole(&mut shapes, &kinds, whole, units);
    let explained = kinds.map(|(kind, bytes)| {
        (
            kind.css_class(),
            format!("{}, {}", kind.legend_text(), units.format_bytes(bytes)),
        )
    });
    let explained: Vec<(&str, &str)> = explained
        .iter()
        .map(|(class, meaning)| (*class, meaning.as_str()))
        .collect();
    let mut top = 34 + shapes.add_legend(34, &explained) + 12;
    let mut largest: Vec<&AttributionSlice> =
        slices.iter().filter(|slice| slice.bytes > 0).collect();
    largest.sort_by_key(|slice| std::cmp::Reverse(slice.bytes));
    let most = largest.first().map_or(0, |slice| slice.bytes);
    for slice in largest.iter().take(SHOWN_MAX) {
        show_slice(&mut shapes, slice, top, most, units);
        top += ROW_HEIGHT;
    }
    top += show_rest(
        &mut shapes,
        &largest[largest.len().min(SHOWN_MAX)..],
        top,
        units,
    );
    Picture {
        id: "attribution".to_owned(),
        title: "Whose the stored bytes are".to_owned(),
        description: describe_attribution(&kinds, whole, units),
        height: top,
        shapes,
    }
}

fn of_kind(slices: &[AttributionSlice], kind: HolderKind) -> u64 {
    slices
        .iter()
        .filter(|slice| slice.kind == kind)
        .fold(0, |sum, slice| sum.saturating_add(slice.bytes))
}

fn describe_attribution(kinds: &[(HolderKind, u64)], whole: u64, units: Units) -> String {
    let parts: Vec<String> = kinds
        .iter()
        .map(|(kind, bytes)| {
            format!(
                "{} {} ({:.0} %)",
                kind.legend_text(),
                units.format_bytes(*bytes),
                percent_of(*bytes, whole)
            )
        })
        .collect();
    format!(
        "Of {} on disk: {}.",
        units.format_bytes(whole),
        parts.join(", ")
    )
}

fn show_whole(shapes: &mut Shapes, kinds: &[(HolderKind, u64)], whole: u64, units: Units) {
    shapes.add_bar("track", HorizontalPosition::START, 100.0, 0, 24, "");
    let mut start = 0.0;
    for (kind, bytes) in kinds {
        let width = percent_of(*bytes, whole);
        if *bytes > 0 {
            shapes.add_bar(
                kind.css_class(),
                HorizontalPosition::at_percent(start),
                width,
                0,
                24,
                &format!("{}: {}", kind.legend_text(), units.format_bytes(*bytes)),
            );
        }
        start += width;
    }
}

fn show_slice(shapes: &mut Shapes, slice: &AttributionSlice, top: u32, most: u64, units: Units) {
    shapes.add_name(
        "",
        HorizontalPosition::START,
        top + 14,
        NAME_COLUMNS,
        &slice.owner,
    );
    shapes.add_text(
        "end",
        HorizontalPosition::END,
        top + 14,
        &units.format_bytes(slice.bytes),
    );
    shapes.add_bar("track", HorizontalPosition::START, 100.0, top + 20, 8, "");
    shapes.add_bar(
        slice.kind.css_class(),
        HorizontalPosition::START,
        percent_of(slice.bytes, most),
        top + 20,
        8,
        "",
    );
}

/// Draws the slices that are not drawn one by one; returns their height.
fn show_rest(shapes: &mut Shapes, rest: &[&AttributionSlice], top: u32, units: Units) -> u32 {
    if rest.is_empty() {
        return 0;
    }
    let bytes = rest
        .iter()
        .fold(0_u64, |sum, slice| sum.saturating_add(slice.bytes));
    shapes.add_text(
        "quiet",
        HorizontalPosition::START,
        top + 14,
        &format!("{} with less", number_of(rest.len(), "row")),
    );
    shapes.add_text(
        "quiet end",
        HorizontalPosition::END,
        top + 14,
        &units.format_bytes(bytes),
    );
    24
}
